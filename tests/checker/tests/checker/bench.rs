//! The real core on one thread, with a watcher and clients' logs written beside it: no server, no clock, no disk.

use std::collections::BTreeMap;

use bytes::Bytes;
use plenum_checker::calls::{Asked, Call, Reply};
use plenum_checker::properties::{Listing, Sighting};
use plenum_checker::{Evidence, Recording};
use plenum_core::{Core, CoreOptions, Decided};
use plenum_model::{
    AllocationId, Cell, CellIdentity, Command, Constraint, Decision, JobId, LogTime, MachineId, Operator, Outcome,
    Partition, Quota, Request, Resource, Resources, SessionId,
};
use plenum_proto::sections::Sections;
use plenum_proto::{delta, jobs, machines, pages, transaction, v1};
use v1::session_response::Tell;

/// Microseconds between two requests.
const TICK: i64 = 10_000;
/// At first it is as if an empty backup had been restored: agents may still run what nobody knows any more.
const INCARNATION: u64 = 2;

/// Of each machine.
pub(crate) const MEMORY_BYTES: i64 = 1 << 34;

/// As in production, but for unknown tasks: those are told to stop soon; and numbers of resources are given to others at once.
fn options() -> CoreOptions {
    CoreOptions { unknown_micros: 150_000_000, shapes_spare: 0, ..CoreOptions::default() }
}

/// A cell in the hands of a test.
pub(crate) struct Bench {
    pub(crate) core: Core,
    now: LogTime,
    nanos: u64,
    term: u64,
    incarnation: u64,
    /// As a reader of the server sees it.
    picture: Cell,
    pub(crate) evidence: Evidence,
    /// Outcomes by session and number, as the server reads them back from its log.
    outcomes: BTreeMap<(u64, u64), v1::Outcome>,
}

impl Bench {
    /// An empty cell, followed from its first revision by the watcher `main`.
    pub(crate) fn new() -> Self {
        let mut bench = Self {
            core: Core::new(options()),
            now: LogTime::from_micros(1_000_000),
            nanos: 0,
            term: 0,
            incarnation: INCARNATION,
            picture: Cell::default(),
            evidence: Evidence { recordings: vec![Recording::new("main")], ..Evidence::default() },
            outcomes: BTreeMap::new(),
        };
        bench.tell(0, Tell::Welcome(v1::Welcome { incarnation: INCARNATION, ..v1::Welcome::default() }));
        bench.open();
        bench
    }

    fn open(&mut self) {
        self.term += 1;
        let (incarnation, term) = (self.incarnation, self.term);
        let identity = CellIdentity { cell_id: [7; 16], incarnation, term, custom_resources: Vec::new() };
        self.ask(Command::OpenServer(identity)).expect("a server can be opened");
    }

    fn tell(&mut self, watcher: usize, tell: Tell) {
        self.evidence.recordings[watcher].take(v1::SessionResponse { tell: Some(tell) }).unwrap();
    }

    pub(crate) fn revision(&self) -> u64 {
        self.core.cell().revision().0
    }

    /// Asks, and gives the answer and the revision; `None` where it was rejected.
    pub(crate) fn ask(&mut self, command: Command) -> Option<(Decision, u64)> {
        self.now.micros += TICK;
        let request = Request { principal: "local".into(), namespace: "default".into(), command };
        match self.core.decide(&request, self.now) {
            Decided::Changed { decision, delta } => {
                let mut bytes = Vec::new();
                delta::encode(&delta, &mut bytes);
                let seen = plenum_model::planted::clouded(&delta);
                self.picture.apply(&seen).expect("what the core decides can be folded");
                self.tell(0, Tell::Deltas(v1::Deltas { deltas: vec![bytes.into()] }));
                Some((decision, delta.revision.0))
            }
            Decided::Unchanged(Decision::Rejected(_)) => None,
            Decided::Unchanged(decision) => Some((decision, self.revision())),
            Decided::Repeated(revision) => Some((Decision::Accepted { id: 0, version: 0 }, revision.0)),
        }
    }

    fn accepted(&mut self, command: Command) -> u64 {
        match self.ask(command) {
            Some((Decision::Accepted { id, .. }, _)) => id,
            other => panic!("it should be accepted, not {other:?}"),
        }
    }

    pub(crate) fn session(&mut self, scheduler: &str) -> u64 {
        self.accepted(Command::OpenSession { scheduler: scheduler.into() })
    }

    pub(crate) fn machine(&mut self, machine: v1::RegisterMachine) -> u64 {
        self.accepted(machines::register(machine).unwrap())
    }

    pub(crate) fn submit(&mut self, spec: v1::JobSpec) -> u64 {
        self.accepted(jobs::submit(spec).unwrap())
    }

    /// What an agent reports of one allocation.
    pub(crate) fn report(&mut self, allocation: u64, state: v1::AllocationState) {
        let id = plenum_model::AllocationId::from_bits(allocation).unwrap();
        let Some(found) = self.core.cell().allocation(id) else { return };
        let slot = found.row.machine;
        let Some(machine) = self.core.cell().machine_in(slot) else { return };
        let (machine, epoch) = (machine.id.to_bits(), machine.epoch);
        let ready = state == v1::AllocationState::Running;
        let transition = v1::Transition { allocation, state: state.into(), ready, ..v1::Transition::default() };
        let report = v1::ReportRequest { machine, epoch, transitions: vec![transition], ..Default::default() };
        self.ask(Command::ReportStatus(machines::transitions(report).unwrap()));
    }

    /// What the agent of a machine reports of a task that the cell may not know: it has ended.
    pub(crate) fn report_end(&mut self, machine: u64, allocation: u64) {
        let id = MachineId::from_bits(machine).unwrap();
        let Some(epoch) = self.core.cell().machine(id).map(|found| found.epoch) else { return };
        let state = v1::AllocationState::Complete.into();
        let transition = v1::Transition { allocation, state, ..v1::Transition::default() };
        let report = v1::ReportRequest { machine, epoch, transitions: vec![transition], ..Default::default() };
        self.ask(Command::ReportStatus(machines::transitions(report).unwrap()));
    }

    /// Lets an unknown task run on; whether the cell agrees.
    pub(crate) fn adopt(&mut self, machine: u64, allocation: u64) -> bool {
        let machine = MachineId::from_bits(machine).unwrap();
        let allocation = AllocationId::from_bits(allocation).unwrap();
        self.ask(Command::AdoptUnknown { machine, allocation }).is_some()
    }

    /// Sets room aside for a job for so long, or gives it back: without machines. Whether the cell agrees.
    pub(crate) fn hold(&mut self, job: u64, machines: Vec<u32>, room: (Resource, i64), micros: i64) -> bool {
        let amount = u64::try_from(room.1).unwrap();
        let of_memory = room.0 == Resource::MemoryBytes;
        let resources = if of_memory { Resources::new(0, amount) } else { Resources::new(amount, 0) };
        let deadline = LogTime::from_micros(self.now.micros + micros);
        self.ask(Command::TakeHold {
            session: SessionId::default(),
            job: JobId::from_bits(job).unwrap(),
            machines,
            resources,
            deadline,
        })
        .is_some()
    }

    /// The child of a recurring job for an instant; `None` where the cell refuses.
    pub(crate) fn launch(&mut self, parent: u64, instant_micros: i64) -> Option<u64> {
        let parent = JobId::from_bits(parent).unwrap();
        match self.ask(Command::Launch { parent, instant_micros })? {
            (Decision::Accepted { id, .. }, _) => Some(id),
            (other, _) => panic!("it should be launched, not {other:?}"),
        }
    }

    /// Whoever looks at the machine itself sees that these run there.
    pub(crate) fn sight(&mut self, machine: u64, running: Vec<u64>) {
        let revision = self.revision();
        self.evidence.sightings.push(Sighting { incarnation: self.incarnation, revision, machine, running });
    }

    pub(crate) fn cordon(&mut self, machine: u64, cordoned: bool) {
        self.ask(Command::CordonMachine { machine: MachineId::from_bits(machine).unwrap(), cordoned });
    }

    /// Its lease runs out.
    pub(crate) fn expire(&mut self, machine: u64) {
        let machine = MachineId::from_bits(machine).unwrap();
        if let Some(epoch) = self.core.cell().machine(machine).map(|found| found.epoch) {
            self.ask(Command::ExpireMachine { machine, epoch });
        }
    }

    pub(crate) fn remove(&mut self, machine: u64) {
        let machine = MachineId::from_bits(machine).unwrap();
        self.ask(Command::RemoveMachine { machine, unless_alive: false });
    }

    /// What its agent has traces of: all that was granted there, in the state in which the cell thinks it is, or running.
    pub(crate) fn inventory(&self, machine: u64) -> Vec<v1::InventoryItem> {
        let slot = plenum_checker::picture::slot_of(machine);
        let here = self.core.cell().allocations().filter(|found| found.row.machine == slot);
        let item = |id: u64| v1::InventoryItem {
            allocation: id,
            state: v1::AllocationState::Running.into(),
            ..v1::InventoryItem::default()
        };
        here.map(|found| item(found.id.to_bits())).collect()
    }

    pub(crate) fn drain(&mut self, machine: u64, drains: bool) {
        let deadline = drains.then(|| LogTime::from_micros(self.now.micros + 5_000_000));
        self.ask(Command::DrainMachine { machine: MachineId::from_bits(machine).unwrap(), deadline });
    }

    /// A limit of so much of a resource.
    pub(crate) fn quota(&mut self, namespace: &str, most: Option<(Resource, usize)>) {
        let limit = most.map(|(resource, amount)| {
            let mut quota = Quota::default();
            quota.limits[resource.index()] = Some(u64::try_from(amount).unwrap());
            quota
        });
        self.ask(Command::SetQuota { namespace: namespace.into(), limit });
    }

    pub(crate) fn pause(&mut self, scheduler: &str, paused: bool) {
        self.ask(Command::PauseScheduler { scheduler: scheduler.into(), paused });
    }

    pub(crate) fn may_evict(&mut self, scheduler: &str, evicts: bool) {
        self.ask(Command::SetRights { scheduler: scheduler.into(), evicts: Some(evicts), priority: None });
    }

    /// Machines of a rack are for one scheduler, or for all again.
    pub(crate) fn partition(&mut self, rack: &str, open_to: Option<&str>) {
        let of_rack = Constraint { attribute: "rack".into(), operator: Operator::Equal, values: vec![rack.into()] };
        let schedulers = open_to.map(|scheduler| vec![scheduler.into()]);
        let partition = schedulers.map(|schedulers| Partition { machines: vec![of_rack], schedulers });
        self.ask(Command::SetPartition { name: format!("reserved-{rack}").into(), partition });
    }

    /// Commits as a client that keeps a log: under its session's number, as it stands in the transaction.
    pub(crate) fn commit(&mut self, client: &str, mut asked: v1::Transaction) -> Option<v1::Outcome> {
        asked.incarnation = self.incarnation;
        if asked.check() == v1::ConflictCheck::Unspecified {
            asked.check = v1::ConflictCheck::Fit.into();
        }
        let key = (asked.session, asked.number);
        let called_nanos = self.nanos + 1;
        self.nanos += 2;
        let answer = self.ask(transaction::commit_decoded(&asked).unwrap());
        let outcome = match answer {
            Some((Decision::Outcome(outcome), _)) => Some(v1::Outcome::from(&*outcome as &Outcome)),
            Some(_) => self.outcomes.get(&key).cloned(),
            None => None,
        };
        if let Some(outcome) = outcome.as_ref().filter(|_| !asked.dry_run) {
            self.outcomes.insert(key, outcome.clone());
        }
        let reply = match &outcome {
            Some(outcome) => Reply::Outcome(Box::new(outcome.clone())),
            None => Reply::Failed { status: 3, code: "REJECTED".into(), message: "rejected".into() },
        };
        let (client, replied_nanos) = (client.to_owned(), Some(self.nanos));
        let asked = Asked::Transaction(Box::new(asked));
        self.evidence.calls.push(Call { client, called_nanos, replied_nanos, asked, reply });
        outcome
    }

    /// A watcher that comes now, and gets the picture that readers get.
    pub(crate) fn late_watcher(&mut self, name: &str) {
        self.evidence.recordings.push(Recording::new(name));
        self.show(self.evidence.recordings.len() - 1);
    }

    /// Begins a watcher anew, with the picture that readers get.
    fn show(&mut self, watcher: usize) {
        let revision = self.picture.revision().0;
        let welcome = v1::Welcome { incarnation: self.incarnation, revision, snapshot: true, ..v1::Welcome::default() };
        let encoded: Vec<Bytes> = pages::every(&self.picture)
            .map(|(table, number)| pages::encode_page_for(&self.picture, table, number, Sections::MIRROR))
            .collect();
        let part = v1::SnapshotPart { revision, pages: encoded, last: true };
        [Tell::Welcome(welcome), Tell::Snapshot(part)].into_iter().for_each(|tell| self.tell(watcher, tell));
    }

    /// The server ends and comes back: the core begins with what pages say.
    pub(crate) fn restart(&mut self) {
        let cell = self.core.cell();
        let all = pages::every(cell).map(|(table, number)| pages::encode_page(cell, table, number));
        let restored = match pages::restore(all.collect::<Vec<_>>()) {
            Ok(restored) => restored,
            // What a bug has made of the cell need not be one.
            Err(_) if plenum_model::planted::any() => return,
            Err(error) => panic!("a cell is in its pages: {error:?}"),
        };
        self.core = Core::from_cell(restored, options());
        self.open();
    }

    /// The cell goes on from what it is now as from a backup of it: in an incarnation of its own, in which no agent was heard yet.
    pub(crate) fn restore(&mut self) {
        self.incarnation += 1;
        self.show(0);
        self.restart();
    }

    /// Lists the machines as the server does.
    pub(crate) fn list(&mut self) {
        let cell = self.core.cell();
        let machines = cell.machines().map(|machine| {
            let room = cell.room(machine.id.slot);
            let used = |resource: Resource| i64::try_from(machine.capacity.get(resource)).unwrap() - room.get(resource);
            let allocated = v1::Resources {
                cpu_millis: used(Resource::ALL[0]),
                memory_bytes: used(Resource::ALL[1]),
                disk_bytes: used(Resource::ALL[2]),
                custom: Resource::ALL[3..].iter().map(|&resource| used(resource)).collect(),
            };
            v1::MachineView {
                id: machine.id.to_bits(),
                name: machine.name.to_string(),
                capacity: Some(resources(&machine.capacity)),
                allocated: Some(allocated),
                allocations: cell.machine_row(machine.id.slot).map_or(0, |row| row.allocations.into()),
                devices_used_millis: used_millis(cell, machine),
                ..v1::MachineView::default()
            }
        });
        let used = cell.used_of_quotas();
        let quotas = cell.quotas().map(|(namespace, limit)| v1::QuotaView {
            namespace: namespace.to_string(),
            limit: Some(limit.into()),
            used: used.get(namespace).map(|sum| resources(&sum.total())),
        });
        let (revision, machines, quotas) = (cell.revision().0, machines.collect(), quotas.collect());
        let listing = Listing { incarnation: self.incarnation, revision, machines, quotas, ..Listing::default() };
        self.evidence.listings.push(listing);
    }

    pub(crate) fn close(&mut self, session: u64) {
        self.ask(Command::CloseSession(SessionId(session)));
    }

    /// Lets time pass, and what is due then happen.
    pub(crate) fn wait(&mut self, micros: i64) {
        self.now.micros += micros;
        self.ask(Command::Tick);
    }
}

/// As the server does: of each device, also of those at the end that nobody has.
fn used_millis(cell: &Cell, machine: &plenum_model::Machine) -> Vec<i64> {
    let mut used = cell.in_use(machine.id.slot).map(|used| used.devices.clone()).unwrap_or_default();
    used.resize(machine.devices.len(), 0);
    used
}

fn resources(of: &Resources) -> v1::Resources {
    v1::Resources::from(of)
}

/// A machine as its agent registers it.
pub(crate) fn machine(name: &str, cpu_millis: i64, attributes: &[(&str, &str)]) -> v1::RegisterMachine {
    let pairs = attributes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    v1::RegisterMachine {
        name: name.into(),
        boot_id: "boot".into(),
        capacity: Some(v1::Resources { cpu_millis, memory_bytes: MEMORY_BYTES, ..v1::Resources::default() }),
        attributes: pairs.collect(),
        ..v1::RegisterMachine::default()
    }
}

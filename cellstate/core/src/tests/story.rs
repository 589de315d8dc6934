//! Reads a story line by line, plays it on a core, and compares what is said with what was expected. After each command all
//! invariants are checked, and a mirror that folds the deltas must be the same as the cell.

mod governance;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use plenum_model::{
    AllocationState, Attributes, Cell, CellIdentity, ClaimExtra, Command, ConflictCheck, Culprit, Decision, Delta,
    Device, FoundMachine, GroupShape, Guard, Job, JobKind, JobShape, LogTime, MachineId, Outcome, Placement, Port,
    Preemption, Request, Resources, RetryPolicy, Revision, SessionId, Spread, TakeOver, TaskState, Transaction,
    TransactionId, Transition,
};

use crate::{Core, CoreOptions, Decided, invariants};

/// Jobs are in the first one unless a story says so.
const NAMESPACES: [&str; 2] = ["default", "other"];

/// Plays `story` and compares what is said, line by line.
pub(super) fn check(story: &str, expected: &str) {
    let mut player = Player::new();
    for line in story.lines().map(str::trim).filter(|line| !line.is_empty()) {
        player.play(line);
    }
    let clean = |text: &str| -> Vec<String> {
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(Into::into).collect()
    };
    assert_eq!(clean(&player.said), clean(expected), "in the story:\n{story}");
}

struct Player {
    core: Core,
    mirror: Cell,
    now: LogTime,
    base: Revision,
    incarnation: u64,
    fixed_base: bool,
    sessions: BTreeMap<String, (SessionId, u64)>,
    shapes: BTreeMap<String, JobShape>,
    last: Option<Request>,
    /// Of the last transaction.
    divergences: Vec<u32>,
    said: String,
}

fn setting<'a>(words: &[&'a str], name: &str) -> Option<&'a str> {
    words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

fn number(words: &[&str], name: &str) -> Option<u64> {
    setting(words, name).map(|text| text.parse().expect("a number"))
}

/// Which version of a job is expected, 0 for none.
fn version(words: &[&str]) -> Option<u32> {
    number(words, "version").map(|version| u32::try_from(version).expect("few"))
}

impl Player {
    fn new() -> Self {
        let mut player = Self {
            core: Core::new(CoreOptions::default()),
            mirror: Cell::default(),
            now: LogTime::from_micros(1_000_000),
            base: Revision(0),
            incarnation: 1,
            fixed_base: false,
            sessions: BTreeMap::new(),
            shapes: BTreeMap::new(),
            last: None,
            divergences: Vec::new(),
            said: String::new(),
        };
        player.ask(Command::OpenServer(CellIdentity { incarnation: 1, term: 1, ..CellIdentity::default() }));
        player
    }

    fn ask(&mut self, command: Command) -> Decided {
        let request = Request { principal: "local".into(), namespace: "default".into(), command };
        let before = self.core.cell().clone();
        let decided = self.core.decide(&request, self.now);
        invariants::check_step(&before, &request, &decided, self.core.cell()).expect("an invariant holds");
        if let Decided::Changed { delta, .. } = &decided {
            self.mirror.apply(delta).expect("a mirror folds each delta");
        }
        assert_eq!(self.mirror.first_difference(self.core.cell()), None);
        self.check_derived();
        self.last = Some(request);
        decided
    }

    /// What is derived step by step is what the cell itself says, beyond what is compared with each change.
    fn check_derived(&mut self) {
        let Core { cell, derived, .. } = &mut self.core;
        derived.rules.check_counts(cell);
        for machine in cell.machines().map(|machine| machine.id.slot) {
            let live = cell.allocations().filter(|found| found.row.machine == machine).map(|found| found.id.slot);
            assert_eq!(derived.tenants.live_on(cell, &derived.ring, machine), live.collect::<Vec<_>>());
        }
    }

    fn done(&mut self, command: Command) {
        let decided = self.ask(command);
        assert!(!matches!(decided, Decided::Unchanged(Decision::Rejected(_))), "the story goes on, but {decided:?}");
    }

    /// A server starts, so many seconds after the one before ended: nobody saw what was due meanwhile.
    fn restart(&mut self, after_seconds: u64) {
        let micros = i64::try_from(after_seconds * 1_000_000).expect("a time");
        self.now = self.now.plus_micros(micros);
        self.core = Core::from_cell(self.core.cell().clone(), self.core.options.clone());
        let identity = CellIdentity { term: 2, ..self.core.cell().identity().clone() };
        self.done(Command::OpenServer(identity));
    }

    fn play(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if self.play_governance(&words) {
            return;
        }
        match words[0] {
            "machine" => self.machine(words[1], &words),
            "job" => self.job(words[1], &words),
            "group" => self.group(words[1], &words),
            "snapshot" => (self.base, self.fixed_base) = (self.core.cell().revision(), true),
            "stopjob" => {
                let (job, version) = (self.job_called(words[1]).expect("a job").id, version(&words));
                self.ask_of(version, Command::StopJob { job, version });
            }
            "scale" => {
                let (job, version) = (self.job_called(words[1]).expect("a job").id, version(&words));
                let count = words[2].parse().expect("tasks");
                self.ask_of(version, Command::ScaleJob { job, version, group: 0, count });
            }
            "version?" => self.show_version(words[1]),
            "report" => self.report(&words),
            "cordon" | "uncordon" => {
                let machine = self.core.cell().machine_named(words[1]).expect("a machine").id;
                self.done(Command::CordonMachine { machine, cordoned: words[0] == "cordon" });
            }
            "machine?" => {
                let state = self.core.cell().machine_named(words[1]).expect("a machine").state;
                writeln!(self.said, "{} {state:?}", words[1]).expect("a string");
            }
            "expire" => {
                let machine = self.core.cell().machine_named(words[1]).expect("a machine").clone();
                self.done(Command::ExpireMachine { machine: machine.id, epoch: machine.epoch });
            }
            "remove" => {
                let machine = self.core.cell().machine_named(words[1]).expect("a machine").id;
                let unless_alive = words.get(2) == Some(&"unless-alive");
                self.ask_aloud(Command::RemoveMachine { machine, unless_alive });
            }
            "wait" => {
                let seconds: i64 = words[1].parse().expect("seconds");
                self.now = self.now.plus_micros(seconds * 1_000_000);
                self.done(Command::Tick);
            }
            "most" => self.bound(words[1], words[2].parse().expect("a number")),
            "restart" => self.restart(number(&words, "after").unwrap_or(0)),
            "restore" => {
                let known = self.core.cell().identity().clone();
                let identity = CellIdentity { incarnation: known.incarnation + 1, term: known.term + 1, ..known };
                self.incarnation = identity.incarnation;
                self.sessions.clear();
                self.done(Command::OpenServer(identity));
            }
            "again" => {
                let request = self.last.clone().expect("a request");
                let decided = self.ask(request.command);
                assert!(matches!(decided, Decided::Repeated(_)), "{decided:?}");
                self.said.push_str("service: repeated\n");
            }
            "divergences?" => writeln!(self.said, "divergences {:?}", self.divergences).expect("a string"),
            "show" => self.show(words[1]),
            "counted?" => {
                let counted = self.core.derived.rules.check_counts(self.core.cell());
                writeln!(self.said, "{counted} groups counted").expect("a string");
            }
            "job?" => self.show_job(words[1]),
            scheduler => self.transaction(scheduler.trim_end_matches(':'), &words[1..]),
        }
    }

    /// From now on there may be so many.
    fn bound(&mut self, what: &str, most: usize) {
        let options = &mut self.core.options;
        match what {
            "finished-jobs" => options.finished_jobs_max = most,
            "holds" => options.holds_max = most,
            "partitions" => options.partitions_max = most,
            "machines" => options.machines_max = u32::try_from(most).expect("few"),
            other => panic!("nothing is bounded as {other}"),
        }
    }

    fn machine(&mut self, name: &str, words: &[&str]) {
        let cpu = number(words, "cpu").unwrap_or(0);
        let seen = number(words, "seen").map_or_else(|| self.core.cell().revision(), Revision);
        self.ask_aloud(Command::RegisterMachine(FoundMachine {
            name: name.into(),
            boot_id: setting(words, "boot").unwrap_or("a").into(),
            capacity: Resources::new(cpu, number(words, "mem").unwrap_or(1 << 30)),
            attributes: Arc::new(attributes(words)),
            devices: (0..number(words, "gpus").unwrap_or(0)).map(|index| gpu(index, 1000)).collect(),
            inventory: Self::inventory(words),
            seen,
        }));
    }

    fn group_shape(words: &[&str], name: &str) -> GroupShape {
        let attempts = number(words, "retry").map(|attempts| u32::try_from(attempts).expect("few"));
        let delay = i64::try_from(number(words, "delay").unwrap_or(0)).expect("short");
        let few = |name: &str| u32::try_from(number(words, name).unwrap_or(0)).expect("few");
        let spread = setting(words, "spread")
            .and_then(|rule| rule.split_once(':'))
            .map(|(attribute, most)| Spread { attribute: attribute.into(), at_most: most.parse().expect("a number") });
        let ports = setting(words, "ports").into_iter().flat_map(|ports| ports.split(',')).map(|port| {
            let (name, number) = port.split_once(':').unwrap_or((port, "0"));
            Port { name: name.into(), number: number.parse().expect("a port") }
        });
        // The first group by its name, others by their positions.
        let after = setting(words, "after").into_iter().flat_map(|after| after.split(','));
        let after = after.map(|before| if before == "main" { 0 } else { before.parse().expect("a position") });
        let devices = setting(words, "gpus").into_iter().flat_map(|gpus| gpus.split(','));
        GroupShape {
            per_machine: few("per"),
            min: few("min"),
            spread: spread.into_iter().collect(),
            ports: ports.collect(),
            devices: devices.map(|millis| gpu(0, millis.parse().expect("thousandths"))).collect(),
            single_instance: words.contains(&"single"),
            name: name.into(),
            count: u32::try_from(number(words, "tasks").unwrap_or(1)).expect("few"),
            resources: Resources::new(number(words, "cpu").unwrap_or(0), 0),
            retry: RetryPolicy { attempts, delay_micros: delay * 1_000_000 },
            lost_after_micros: (setting(words, "lost") != Some("never"))
                .then(|| i64::try_from(number(words, "lost").unwrap_or(60)).expect("short") * 1_000_000),
            after: after.collect(),
            ..GroupShape::default()
        }
    }

    fn job(&mut self, name: &str, words: &[&str]) {
        let kind = match words {
            _ if words.contains(&"forever") => JobKind::Forever,
            _ if words.contains(&"recurring") => JobKind::Recurring,
            _ => JobKind::ToCompletion,
        };
        let shape = JobShape {
            namespace: setting(words, "in").unwrap_or(NAMESPACES[0]).into(),
            name: name.into(),
            scheduler: words[3].into(),
            priority: u8::try_from(number(words, "prio").unwrap_or(50)).expect("below 100"),
            kind,
            same_machine: words.contains(&"together"),
            groups: vec![Self::group_shape(words, "main")],
            ..JobShape::default()
        };
        self.shapes.insert(name.into(), shape.clone());
        self.submit(shape, version(words));
    }

    /// The job of that name, in whichever namespace.
    fn job_called(&self, name: &str) -> Option<&Arc<Job>> {
        NAMESPACES.iter().find_map(|namespace| self.core.cell().job_named(namespace, name))
    }

    /// Says why, where it is rejected.
    fn ask_aloud(&mut self, command: Command) {
        if let Decided::Unchanged(Decision::Rejected(rejection)) = self.ask(command) {
            writeln!(self.said, "{rejection}").expect("a string");
        }
    }

    /// Says how it was answered where a version is expected.
    fn ask_of(&mut self, version: Option<u32>, command: Command) {
        if version.is_none() {
            return self.done(command);
        }
        match self.ask(command) {
            Decided::Changed { .. } => self.said.push_str("changed\n"),
            Decided::Unchanged(Decision::Rejected(rejection)) => {
                writeln!(self.said, "{rejection}").expect("a string");
            }
            _ => self.said.push_str("unchanged\n"),
        }
    }

    fn submit(&mut self, shape: JobShape, expected_version: Option<u32>) {
        let (shape, body, body_digest) = (Arc::new(shape), Arc::new([]), [0; 32]);
        let command = Command::SubmitJob { shape, body, body_digest, expected_version };
        if expected_version.is_some() {
            return self.ask_of(expected_version, command);
        }
        self.ask_aloud(command);
    }

    /// Adds a group to a job that nothing was placed of yet: the job is stopped, and submitted again with it.
    fn group(&mut self, job: &str, words: &[&str]) {
        let id = self.job_called(job).expect("a job").id;
        self.done(Command::StopJob { job: id, version: None });
        let mut shape = self.shapes[job].clone();
        shape.groups.push(Self::group_shape(words, words[2]));
        self.shapes.insert(job.into(), shape.clone());
        self.submit(shape, None);
    }

    /// `task`, or `task@machine`: named for a machine that it may not be on.
    fn victim(&self, text: &str) -> Preemption {
        let (task, machine) = text.split_once('@').map_or((text, None), |(task, machine)| (task, Some(machine)));
        let (slot, cell) = (self.task(task).3.expect("a victim"), self.core.cell());
        let found = cell.allocation_in(slot).expect("it is live");
        let named = machine.map(|machine| cell.machine_named(machine).expect("a machine").id.slot);
        Preemption { machine: named.unwrap_or(found.row.machine), victim: found.id }
    }

    /// `version:job:number`, `id:job-5-3:number`, or `rack:machine:value`. A machine that is gone is still known by its slot: its number in its name.
    fn guard(&self, text: &str) -> Guard {
        let cell = self.core.cell();
        match text.split(':').collect::<Vec<_>>()[..] {
            ["version", job, version] => {
                let job = self.job_called(job).expect("a job").id;
                Guard::JobVersion { job, version: version.parse().expect("a number") }
            }
            ["id", job, version] => {
                let job = plenum_model::JobId::parse(job).expect("the id of a job");
                Guard::JobVersion { job, version: version.parse().expect("a number") }
            }
            ["rack", name, value] => {
                let slot = || name[1..].parse::<u32>().expect("m and a number") - 1;
                let known = cell.machine_named(name).map(|machine| machine.id);
                let machine = known.unwrap_or_else(|| MachineId { slot: slot(), generation: 1 });
                Guard::Attribute { machine, attribute: "rack".into(), value: value.into() }
            }
            _ => panic!("no guard {text}"),
        }
    }

    /// `task`, or `alloc-5-3`: one that may have ended.
    fn taken_over(&self, text: &str) -> plenum_model::AllocationId {
        if text.starts_with("alloc-") {
            return governance::task_id(text);
        }
        let slot = self.task(text).3.expect("an allocation to take over from");
        self.core.cell().allocation_in(slot).expect("it is live").id
    }

    /// `job[task]` or `job.group[task]`: names, and the slot of its allocation.
    fn task(&self, text: &str) -> (plenum_model::JobId, u16, u32, Option<u32>) {
        let (name, task) = text.trim_end_matches(']').split_once('[').expect("job[task]");
        let (job, group) = name.split_once('.').unwrap_or((name, "main"));
        let job = self.job_called(job).expect("a job");
        let group = job.shape.groups.iter().position(|shape| &*shape.name == group).expect("a group");
        let group = u16::try_from(group).expect("few");
        let task: u32 = task.parse().expect("a task");
        let row = self.core.cell().group(job, group).and_then(|row| self.core.cell().task(row, task));
        let live = row.filter(|row| row.state == TaskState::Live).map(|row| row.allocation - 1);
        let leaving = || {
            let found =
                self.core.cell().allocations().find(|found| found.row.job() == job.id && found.row.task == task);
            found.map(|found| found.id.slot)
        };
        (job.id, group, task, live.or_else(leaving))
    }

    fn report(&mut self, words: &[&str]) {
        let slot = self.task(words[1]).3.expect("an allocation");
        let found = self.core.cell().allocation_in(slot).expect("it is live");
        let machine = self.core.cell().machine_in(found.row.machine).expect("its machine");
        let state = match words[2] {
            "running" => AllocationState::Running,
            "complete" => AllocationState::Complete,
            "failed" => AllocationState::Failed,
            "evicted" => AllocationState::Evicted,
            "stopped" => AllocationState::Stopped,
            other => panic!("no state {other}"),
        };
        let transition = Transition {
            ready: state == AllocationState::Running,
            exit_code: words.get(3).map_or(0, |code| code.parse().expect("a code")),
            ..Transition::new(machine.id, machine.epoch, found.id, state)
        };
        self.done(Command::ReportStatus(vec![transition]));
    }

    fn session(&mut self, scheduler: &str) -> SessionId {
        if let Some((id, _)) = self.sessions.get(scheduler) {
            return *id;
        }
        self.done(Command::OpenSession { scheduler: scheduler.into() });
        let id = SessionId(self.core.cell().revision().0);
        self.sessions.insert(scheduler.into(), (id, 0));
        id
    }

    fn transaction(&mut self, scheduler: &str, words: &[&str]) {
        let session = self.session(scheduler);
        let mut txn = Transaction { incarnation: self.incarnation, ..Transaction::default() };
        txn.base = if self.fixed_base { self.base } else { self.core.cell().revision() };
        let mut stopping = false;
        for &word in words {
            match word {
                "claim" => {
                    stopping = false;
                    txn.placements.push(Placement::default());
                }
                "stop" => stopping = true,
                "atomic" => txn.atomic = true,
                "sequence" => txn.check = ConflictCheck::Sequence,
                _ if stopping => {
                    let slot = self.task(word).3.expect("an allocation to stop");
                    txn.stops.push(self.core.cell().allocation_in(slot).expect("it is live").id);
                }
                _ if word.starts_with("over=") => {
                    let victim = self.taken_over(&word[5..]);
                    let placement = txn.placements.last_mut().expect("a claim");
                    placement.extras.resize_with(placement.tasks.len(), ClaimExtra::default);
                    let nothing = TakeOver { victim, amount: Resources::default(), devices: vec![], ports: vec![] };
                    placement.extras.last_mut().expect("as many as tasks").take_overs.push(nothing);
                }
                _ if word.starts_with("guard=") => {
                    let guard = self.guard(&word[6..]);
                    txn.placements.last_mut().expect("a claim").guards.push(guard);
                }
                _ if word.starts_with("victim=") => {
                    let preemption = self.victim(&word[7..]);
                    txn.placements.last_mut().expect("a claim").preemptions.push(preemption);
                }
                _ if word.starts_with("or=") => {
                    let spare = self.core.cell().machine_named(&word[3..]).expect("a machine").id.slot;
                    txn.placements.last_mut().expect("a claim").alternates.push(spare);
                }
                _ if word.starts_with("min=") => {
                    txn.placements.last_mut().expect("a claim").min = word[4..].parse().expect("a number");
                }
                _ => {
                    let (task, machine) = word.split_once('@').expect("task@machine");
                    let (job, group, task, _) = self.task(task);
                    // A machine that is gone is still known by its slot: its number in its name.
                    let known = self.core.cell().machine_named(machine).map(|machine| machine.id.slot);
                    let slot = known.unwrap_or_else(|| machine[1..].parse::<u32>().expect("m and a number") - 1);
                    let placement = txn.placements.last_mut().expect("a claim");
                    (placement.job, placement.group) = (job, group);
                    placement.job_version = self.core.cell().job(job).expect("a job").version;
                    placement.tasks.push(task);
                    placement.machines.push(slot);
                }
            }
        }
        let entry = self.sessions.get_mut(scheduler).expect("opened above");
        entry.1 += 1;
        txn.id = TransactionId { session, number: entry.1 };
        for placement in txn.placements.iter_mut().filter(|placement| !placement.extras.is_empty()) {
            placement.extras.resize_with(placement.tasks.len(), ClaimExtra::default);
        }
        let decided = self.ask(Command::Commit(Box::new(txn.clone()), txn.id.number));
        if let Decided::Unchanged(Decision::Rejected(rejection)) = &decided {
            writeln!(self.said, "{scheduler}: {}", rejection.code).expect("a string");
            return;
        }
        let Decided::Changed { decision: Decision::Outcome(outcome), delta } = decided else { panic!("{decided:?}") };
        assert_evicted(&outcome, &delta);
        self.tell(scheduler, &txn, &outcome);
        self.divergences = outcome.divergences;
    }

    fn tell(&mut self, scheduler: &str, txn: &Transaction, outcome: &Outcome) {
        let mut line = format!("{scheduler}: {}", format!("{:?}", outcome.outcome).to_lowercase());
        for (number, placement) in (0..).zip(&txn.placements) {
            let job = self.core.cell().job(placement.job).expect("a job").clone();
            let group = &job.shape.groups[usize::from(placement.group)].name;
            let name =
                if &**group == "main" { job.shape.name.to_string() } else { format!("{}.{group}", job.shape.name) };
            for (claim, task) in (0..).zip(&placement.tasks) {
                write!(line, "; {name}[{task}] ").expect("a string");
                if let Some(id) = outcome.placements[number as usize][claim as usize] {
                    line.push_str("granted");
                    let told = outcome.elsewhere.iter().find(|found| (found.placement, found.claim) == (number, claim));
                    let told = told.map_or(placement.machines[claim as usize], |found| found.machine);
                    line.push_str(&self.describe_grant(id, placement.machines[claim as usize], told));
                    continue;
                }
                let refusal = outcome.refusals.iter().find(|refusal| refusal.claim == Some((number, claim)));
                let refusal = refusal.expect("a refused claim has a refusal");
                let kind = format!("{:?}", refusal.kind).to_lowercase();
                write!(line, "{kind} {:?}", refusal.reason).expect("a string");
                if let Some(why) = refusal.not_wanted {
                    write!(line, " ({why})").expect("a string");
                }
                if let Some((resource, by)) = refusal.short {
                    write!(line, " short {resource} {by}").expect("a string");
                }
                if let Some((kind, millis)) = &refusal.short_device {
                    write!(line, " short {kind} {millis}").expect("a string");
                }
                if let Some(port) = refusal.port {
                    write!(line, " port {port}").expect("a string");
                }
                if !refusal.culprits.is_empty() {
                    line.push_str(" culprits");
                    refusal.culprits.iter().for_each(|culprit| line.push_str(&describe(culprit)));
                    write!(line, " total {}", refusal.culprits_total).expect("a string");
                }
            }
        }
        self.said.push_str(&line);
        self.said.push('\n');
    }

    /// What a grant is beyond the room that was asked for: elsewhere, over whom, which devices and ports.
    fn describe_grant(&self, id: plenum_model::AllocationId, asked: u32, told: u32) -> String {
        let cell = self.core.cell();
        let found = cell.allocation(id).expect("it was granted");
        assert_eq!(told, found.row.machine, "where it is, as the outcome tells it");
        let mut text = String::new();
        if found.row.machine != asked {
            write!(text, " on {}", cell.machine_in(found.row.machine).expect("a machine").name).expect("a string");
        }
        let Some(extra) = found.extra else { return text };
        for entry in &extra.takes_over {
            let victim = cell.allocation(entry.victim).expect("it leaves");
            let job = cell.job(victim.row.job()).expect("a job");
            write!(text, " over {}[{}] {}", job.shape.name, victim.row.task, entry.amount.cpu_millis)
                .expect("a string");
            entry.devices.iter().for_each(|device| text.push_str(&format!(" gpu{}:{}", device.index, device.millis)));
            entry.ports.iter().for_each(|port| text.push_str(&format!(" port {port}")));
        }
        extra.devices.iter().for_each(|device| text.push_str(&format!(" gpu{}:{}", device.index, device.millis)));
        for port in &extra.ports {
            let dynamic = (20_000..32_000).contains(&port.number);
            let number = if dynamic { "dynamic".to_owned() } else { port.number.to_string() };
            write!(text, " {}:{number}", port.name).expect("a string");
        }
        text
    }

    fn show(&mut self, text: &str) {
        let slot = self.task(text).3;
        let state = slot.and_then(|slot| self.core.cell().allocation_in(slot)).map(|found| found.status.state);
        let state = state.map_or_else(|| "gone".into(), |state| format!("{state:?}"));
        writeln!(self.said, "{text} {state}").expect("a string");
    }

    fn show_version(&mut self, name: &str) {
        let found = self.job_called(name).map_or(0, |job| job.version);
        writeln!(self.said, "{name} has version {found}").expect("a string");
    }

    fn show_job(&mut self, name: &str) {
        let job = self.job_called(name);
        let state = job.map_or_else(|| "gone".into(), |job| format!("{:?} {}", job.state, job.reason));
        writeln!(self.said, "{name} {}", state.trim()).expect("a string");
    }
}

fn attributes(words: &[&str]) -> Attributes {
    setting(words, "rack").map(|rack| ("rack".into(), rack.into())).into_iter().collect()
}

fn gpu(index: u64, millis: u32) -> Device {
    Device { kind: "gpu".into(), index: u32::try_from(index).expect("few"), millis, model: "".into() }
}

/// The outcome names whom the delta evicts.
fn assert_evicted(outcome: &Outcome, delta: &Delta) {
    let goes = delta.moves.iter().filter(|moved| moved.status.state == AllocationState::Evicting);
    let told: Vec<u32> = outcome.evicted.iter().map(|id| id.slot).collect();
    assert_eq!(told, goes.map(|moved| moved.slot).collect::<Vec<_>>(), "whom it evicts, as the outcome tells it");
}

fn describe(culprit: &Culprit) -> String {
    let who = if culprit.transaction.is_some() { &culprit.scheduler } else { &culprit.event };
    format!(" {who} {}", culprit.amount)
}

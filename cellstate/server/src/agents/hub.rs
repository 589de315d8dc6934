//! What the publishing thread tells, and the streams of agents wait for.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use plenum_model::{BootId, Cell, Delta, MachineId, MachineState, Revision};
use plenum_proto::machines::Fitness;
use plenum_proto::v1;
use tokio::sync::{Notify, watch};

use super::boots::Boots;
use super::fitness::{Fitnesses, Word};
use super::{
    Asking, EpochOver, Follower, Grant, Hindrance, Leases, LogRelay, MachineNames, Registrations, Reports, WantedIndex,
};

/// Rows of deltas that are kept while the index is made: some 16 MiB.
const MEANWHILE_ROWS_MAX: usize = 1 << 20;

/// Shared by the publishing thread, the streams of agents, and the task that expires leases.
pub(crate) struct Hub {
    books: Mutex<Books>,
    leases: Mutex<Leases>,
    boots: Mutex<Boots>,
    /// Apart: a registration may outlive its call.
    registering: Arc<Mutex<Registrations>>,
    /// The next lease to run out may be another one.
    pub(crate) leases_changed: Notify,
    /// Last values of what machines use; one a machine.
    telemetry: Mutex<BTreeMap<u32, v1::MachineTelemetry>>,
    /// Words on fitness are queued under it: who has the queue locked must not want it.
    fitnesses: Mutex<Fitnesses>,
    /// Asked with each report, and hardly ever changed.
    names: RwLock<MachineNames>,
    pub(crate) logs: LogRelay,
    pub(crate) reports: Reports,
}

struct Books {
    index: Index,
    /// Up to where deltas came by: a picture that is older may lack what the index lists.
    folded: Revision,
    /// By machine slot, of machines whose agents follow: the revision at which their wanted set changed last.
    followed: BTreeMap<u32, watch::Sender<Revision>>,
}

/// The index is made when the first agent follows: a cell without agents need not keep it.
enum Index {
    /// No agent has followed yet.
    NotNeeded,
    /// It is being made of a snapshot at this revision or a later one; what came by since, and its rows.
    Making { since: Revision, meanwhile: Vec<Delta>, rows: usize },
    /// It is of the cell at this revision or a later one.
    Made(WantedIndex, Revision),
}

impl Index {
    /// What came by since it is being made; `None` if it is not to be made of this cell.
    fn deltas_to_add(&self, cell: &Cell) -> Option<&[Delta]> {
        match self {
            Self::Making { since, meanwhile, .. } if cell.revision() >= *since => Some(meanwhile),
            _ => None,
        }
    }
}

/// What of a delta the index is made of. What else there is, such as reports of what runs, has no bound here, and is not needed.
fn placed(delta: &Delta) -> Delta {
    let (grants, ends) = (delta.grants.clone(), delta.ends.clone());
    Delta { grants, ends, ..Delta::new(delta.revision, delta.time) }
}

impl Hub {
    pub(crate) fn new(cell: &Cell, term_micros: i64, now_micros: i64, logs: LogRelay) -> Self {
        Self {
            books: Mutex::new(Books { index: Index::NotNeeded, folded: cell.revision(), followed: BTreeMap::new() }),
            leases: Mutex::new(Leases::of_cell(cell, term_micros, now_micros)),
            boots: Mutex::default(),
            registering: Arc::default(),
            leases_changed: Notify::new(),
            telemetry: Mutex::new(BTreeMap::new()),
            fitnesses: Mutex::new(Fitnesses::new(cell.revision(), cell.machines().map(|machine| &**machine))),
            names: RwLock::new(MachineNames::of_cell(cell)),
            logs,
            reports: Reports::default(),
        }
    }

    /// Takes the next durable deltas. The picture shows them already.
    pub(crate) fn fold(&self, deltas: &[Delta], now_micros: i64) {
        let mut books = self.books.lock();
        let Books { index, folded, followed } = &mut *books;
        for delta in deltas {
            *folded = delta.revision;
            let told = |machine: u32| {
                if let Some(follower) = followed.get(&machine) {
                    // An index that is ahead of what comes by has more than a picture of that, and was told of already.
                    follower.send_modify(|told| *told = delta.revision.max(*told));
                }
            };
            match index {
                Index::NotNeeded => {}
                Index::Making { meanwhile, rows, .. } => {
                    *rows += 1 + delta.ends.len() + delta.grants.iter().map(|grants| grants.slots.len()).sum::<usize>();
                    meanwhile.push(placed(delta));
                    if *rows > MEANWHILE_ROWS_MAX {
                        // Whoever began to make it has gone, or begins anew.
                        *index = Index::NotNeeded;
                    }
                }
                Index::Made(made, of) if *of < delta.revision => made.fold(delta, told),
                // The snapshot that it was made of has this already.
                Index::Made(..) => {}
            }
            self.fitnesses.lock().fold(delta);
            if delta.machines.is_empty() {
                continue;
            }
            let mut names = self.names.write();
            delta.machines.iter().for_each(|machine| names.machine_changed(machine));
            drop(names);
            let mut leases = self.leases.lock();
            for machine in &delta.machines {
                leases.machine_changed(machine, now_micros);
                // What it said last is not what it uses.
                if matches!(machine.state, MachineState::Gone | MachineState::Unreachable) {
                    self.telemetry.lock().remove(&machine.id.slot);
                    // Its registration in a later epoch may be answered before this comes by: its boots are of that one.
                    if !leases.is_leased(machine.id) {
                        self.boots.lock().machine_left(machine.id.slot);
                    }
                }
                told(machine.id.slot);
            }
            drop(leases);
            self.leases_changed.notify_one();
        }
    }

    /// Whether the index is still to be made, of a snapshot at this revision or a later one. From here on deltas are kept for it.
    /// To be asked until the answer is no.
    pub(crate) fn needs_index(&self) -> Option<Revision> {
        let mut books = self.books.lock();
        match books.index {
            Index::Made(..) => None,
            Index::Making { since, .. } => Some(since),
            Index::NotNeeded => {
                let since = books.folded;
                books.index = Index::Making { since, meanwhile: Vec::new(), rows: 0 };
                Some(since)
            }
        }
    }

    /// Makes the index of a snapshot, if it is one of those that [`Hub::needs_index`] asked for last. Not for a connection's thread: all
    /// allocations are looked at. Nobody else waits for that, the publishing thread least of all.
    pub(crate) fn make_index(&self, cell: &Cell) {
        self.make_index_by(cell, WantedIndex::of_cell);
    }

    fn make_index_by(&self, cell: &Cell, make: impl FnOnce(&Cell) -> WantedIndex) {
        if self.books.lock().index.deltas_to_add(cell).is_none() {
            return;
        }
        let mut index = make(cell);
        let mut books = self.books.lock();
        // Others may have made it by now, or it was given up and begun anew.
        let Some(meanwhile) = books.index.deltas_to_add(cell) else { return };
        let after = meanwhile.iter().filter(|delta| delta.revision > cell.revision());
        after.for_each(|delta| index.fold(delta, |_| {}));
        books.index = Index::Made(index, cell.revision());
    }

    /// Wakes the stream of an agent whose machine's wanted set changed. Begins with a revision whose picture shows all that is
    /// wanted so far: nobody would tell it again.
    pub(crate) fn follow(&self, machine: MachineId) -> watch::Receiver<Revision> {
        let mut books = self.books.lock();
        let Books { index, folded, followed } = &mut *books;
        // An index of a snapshot that is ahead of what came by has more than a picture of that: it tells nobody what comes by up to it.
        let told = match index {
            Index::Made(_, of) => (*of).max(*folded),
            Index::NotNeeded | Index::Making { .. } => *folded,
        };
        followed.entry(machine.slot).or_insert_with(|| watch::Sender::new(told)).subscribe()
    }

    /// The stream of an agent ended.
    pub(crate) fn unfollow(&self, machine: MachineId) {
        let mut books = self.books.lock();
        if books.followed.get(&machine.slot).is_some_and(|sender| sender.receiver_count() == 0) {
            books.followed.remove(&machine.slot);
        }
    }

    /// What an agent is to be told next.
    pub(crate) fn next(&self, follower: &mut Follower, cell: &Cell) -> Result<Option<v1::Assignments>, EpochOver> {
        let slots = match &self.books.lock().index {
            Index::Made(index, _) => index.on(follower.machine().slot).to_vec(),
            Index::NotNeeded | Index::Making { .. } => Vec::new(),
        };
        follower.next(cell, &slots)
    }

    /// Somebody wants to register a machine of this name. To be kept until that is decided and was [told here](Self::registered), and to be
    /// followed by a look at a picture, which is asked for only then, and at who holds the machine's lease.
    pub(crate) fn registering(&self, name: &str, asking: &Asking) -> Result<Registering, Hindrance> {
        let is_first = self.registering.lock().begin(name, asking)?;
        Ok(Registering { under_way: self.registering.clone(), name: is_first.then(|| name.to_owned()) })
    }

    /// True if this was asked before the registration that counts, by the same instance in the same boot.
    pub(crate) fn is_late(&self, machine: MachineId, asking: &Asking) -> bool {
        self.leases.lock().is_late(machine, &asking.instance, asking.micros)
    }

    /// A machine registered in this epoch, which was in a boot before: in this one now, which may be the same. Of no effect where its lease is not of
    /// this epoch any more: what came later may have been told already.
    pub(crate) fn booted(&self, machine: MachineId, epoch: u32, before: BootId, now: &BootId) {
        // Kept meanwhile: the end of its lease forgets its boots while it holds these.
        let leases = self.leases.lock();
        if before != *now && leases.is_leased_in(machine, epoch) {
            self.boots.lock().superseded(machine, before, now);
        }
    }

    /// True while the machine's lease runs, and it has booted since this boot.
    pub(crate) fn is_superseded(&self, machine: MachineId, boot: &BootId) -> bool {
        let runs = self.leases.lock().is_leased(machine);
        runs && self.boots.lock().is_superseded(machine, boot)
    }

    /// True while another instance of an agent holds the machine's lease.
    pub(crate) fn is_held_by_another(&self, machine: MachineId, instance: &str) -> bool {
        self.leases.lock().is_held_by_another(machine, instance)
    }

    /// True while the machine's lease runs and no agent has spoken since the server started.
    pub(crate) fn awaits_its_holder(&self, machine: MachineId) -> bool {
        self.leases.lock().awaits_its_holder(machine)
    }

    /// An instance follows: it holds the machine's lease from now on, unless another one does. False in that case.
    pub(crate) fn hold(&self, machine: MachineId, epoch: u32, instance: &str) -> bool {
        let mut leases = self.leases.lock();
        leases.hold(machine, epoch, instance);
        !leases.is_held_by_another(machine, instance)
    }

    /// A machine registered in this epoch, which may be the one of before: its lease begins before the deltas of the registration come
    /// by.
    pub(crate) fn registered(
        &self,
        machine: MachineId,
        epoch: u32,
        goes_on: bool,
        asking: &Asking,
        now_micros: i64,
    ) -> Grant {
        let by = (asking.instance.as_str(), asking.micros);
        let granted = self.leases.lock().grant(machine, epoch, goes_on, by, now_micros);
        self.leases_changed.notify_one();
        granted
    }

    /// What a machine is called; `None` where it came a moment ago, or is not there. Waits for no picture.
    pub(crate) fn name_of(&self, machine: MachineId) -> Option<Arc<str>> {
        self.names.read().of(machine).cloned()
    }

    /// A sign of life of an agent; false if it has to register again.
    pub(crate) fn renew(&self, machine: MachineId, epoch: u32, instance: &str, now_micros: i64) -> bool {
        self.leases.lock().renew(machine, epoch, instance, now_micros)
    }

    pub(crate) fn expire(&self, now_micros: i64) -> Vec<(MachineId, u32)> {
        self.leases.lock().expire(now_micros)
    }

    /// For so long no agent could renew its lease, or register.
    pub(crate) fn stood_still(&self, micros: i64) {
        if micros > 0 {
            self.leases.lock().stood_still(micros);
        }
    }

    pub(crate) fn next_expiry_micros(&self) -> Option<i64> {
        self.leases.lock().next_due_micros()
    }

    /// Begins to note what is not so, and will not be when what is being noted is, and gives that. Each of these is to be [noted](Self::noted).
    pub(crate) fn begin_noting(&self, said: &[Fitness]) -> Vec<Word> {
        let mut fitnesses = self.fitnesses.lock();
        said.iter().filter_map(|said| fitnesses.begin_noting(*said)).collect()
    }

    /// Of what was to be noted, what is still to be, each with what `queue` gives for it: of the others something else was said since. Who says
    /// something else meanwhile waits until these are queued, or that could come before an older word. `queue` must not come back here.
    pub(crate) fn queue_last_words<T>(&self, words: &[Word], queue: impl Fn(&Fitness) -> T) -> Vec<(Word, T)> {
        let fitnesses = self.fitnesses.lock();
        let last = words.iter().filter(|word| fitnesses.is_last_word(word));
        last.map(|word| (*word, queue(&word.said))).collect()
    }

    /// Takes what became of this, as its agent is answered: at which revision it changed something, if it did.
    pub(crate) fn noted(&self, word: &Word, changed_at: Option<Revision>) {
        let mut fitnesses = self.fitnesses.lock();
        if let Some(at) = changed_at {
            fitnesses.answered(word.said.machine.slot, at, word.said.unfit);
        }
        fitnesses.noted(word);
    }

    /// Remembers what a machine uses, if it has a lease: one that was removed since its agent spoke would count for ever.
    pub(crate) fn telemetry(&self, machine: MachineId, telemetry: v1::MachineTelemetry) {
        // Kept meanwhile: its removal forgets what it uses while it holds these.
        let leases = self.leases.lock();
        if leases.is_leased(machine) {
            self.telemetry.lock().insert(machine.slot, telemetry);
        }
    }

    /// What all machines use, as far as they have said; `None` where none has, as 0 would be an answer.
    pub(crate) fn used(&self) -> Option<v1::Resources> {
        let mut total: Option<v1::Resources> = None;
        for telemetry in self.telemetry.lock().values() {
            if let Some(used) = &telemetry.used {
                crate::view::add(total.get_or_insert_default(), used);
            }
        }
        total
    }
}

/// A registration under way: no other instance begins one of the same name meanwhile, nor this one a later one.
pub(crate) struct Registering {
    under_way: Arc<Mutex<Registrations>>,
    name: Option<String>,
}

impl Drop for Registering {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            self.under_way.lock().end(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plenum_model::LogTime;

    /// A grant that was folded just before its agent began to follow was in the index, and not in the older picture that the stream
    /// was given to begin with; it was never started.
    #[test]
    fn a_stream_that_begins_late_asks_for_a_picture_of_all_that_was_folded() {
        let hub = Hub::new(&Cell::default(), 1, 0, LogRelay::new(1, 1));
        hub.fold(
            &[Delta::new(Revision(1), LogTime::from_micros(1)), Delta::new(Revision(2), LogTime::from_micros(1))],
            0,
        );
        let machine = MachineId { slot: 3, generation: 1 };
        assert_eq!(*hub.follow(machine).borrow(), Revision(2));
    }

    /// Its index is of revision 2, and nothing has come by yet.
    fn with_index_ahead() -> Hub {
        let hub = Hub::new(&Cell::default(), 1, 0, LogRelay::new(1, 1));
        assert_eq!(hub.needs_index(), Some(Revision(0)));
        let mut cell = Cell::default();
        for revision in 1..=2 {
            cell.apply(&Delta::new(Revision(revision), LogTime::from_micros(1))).unwrap();
        }
        hub.make_index(&cell);
        hub
    }

    // A picture from between the two lacks a grant that is told to nobody any more.
    #[test]
    fn a_stream_that_begins_while_the_index_is_ahead_asks_for_a_picture_of_all_that_the_index_has() {
        let hub = with_index_ahead();
        let changes = hub.follow(MachineId { slot: 3, generation: 1 });
        hub.fold(&[granted(1, 0, 3), granted(2, 1, 3)], 0);
        assert_eq!(*changes.borrow(), Revision(2));
    }

    // What came by of a machine told its stream of its own revision: a picture from between that and the index lacks a grant that is told to nobody
    // any more.
    #[test]
    fn what_comes_by_while_the_index_is_ahead_asks_for_no_older_picture() {
        let hub = with_index_ahead();
        let mut changes = hub.follow(MachineId { slot: 3, generation: 1 });
        changes.borrow_and_update();
        let registered = |revision| {
            let machine = crate::agents::machine(3, 1, MachineState::Ready);
            let time = LogTime::from_micros(1);
            hub.fold(&[Delta { machines: vec![machine.into()], ..Delta::new(Revision(revision), time) }], 0);
        };
        registered(1);
        assert_eq!((changes.has_changed().unwrap(), *changes.borrow_and_update()), (true, Revision(2)));
        registered(3);
        assert_eq!(*changes.borrow(), Revision(3));
    }

    // An older word was found to be the last one, another was said and queued, and then the older one was queued behind it.
    #[test]
    fn nobody_says_anything_else_of_a_machine_while_the_last_word_on_it_is_queued() {
        let hub = Hub::new(&Cell::default(), 1, 0, LogRelay::new(1, 1));
        let unfit = Some(plenum_model::Unfit::StateUnwritable);
        let said = Fitness { machine: MachineId { slot: 3, generation: 1 }, epoch: 1, unfit };
        let begun = hub.begin_noting(&[said]);
        let queued = hub.queue_last_words(&begun, |_| hub.fitnesses.is_locked());
        assert_eq!(queued, [(begun[0], true)]);
        assert!(!hub.fitnesses.is_locked());
    }

    #[test]
    fn a_boot_is_superseded_until_the_lease_ends() {
        let hub = Hub::new(&Cell::default(), 10, 0, LogRelay::new(1, 1));
        let machine = crate::agents::machine(3, 1, MachineState::Ready);
        let (id, [first, second]) = (machine.id, ["boot-1", "boot-2"].map(BootId::from));
        hub.fold(&[Delta { machines: vec![machine.into()], ..Delta::new(Revision(1), LogTime::from_micros(1)) }], 0);
        hub.booted(id, 1, first.clone(), &first);
        assert!(!hub.is_superseded(id, &first));
        hub.booted(id, 1, first.clone(), &second);
        assert_eq!([&first, &second].map(|boot| hub.is_superseded(id, boot)), [true, false]);
        // Of an epoch that was over when it was told, which took effect all the same: the machine's own agent was refused.
        hub.booted(id, 0, second.clone(), &first);
        assert_eq!([&first, &second].map(|boot| hub.is_superseded(id, boot)), [true, false]);
        // What came by of the epoch before forgot what was noted in the next one, as that was registered already.
        assert_eq!(hub.registered(id, 2, false, &Asking::default(), 0), Grant::Held);
        hub.booted(id, 2, first.clone(), &second);
        let lost = crate::agents::machine(3, 1, MachineState::Unreachable);
        hub.fold(&[Delta { machines: vec![lost.into()], ..Delta::new(Revision(2), LogTime::from_micros(1)) }], 0);
        assert_eq!([&first, &second].map(|boot| hub.is_superseded(id, boot)), [true, false]);
        assert_eq!(hub.expire(10), [(id, 2)]);
        assert!(!hub.is_superseded(id, &first), "the machine is free");
    }

    // It was in the sums until the server was started again.
    // That of an unreachable one was in the sum until somebody removed it.
    #[test]
    fn what_a_machine_uses_that_was_removed_or_lost_while_it_reported_is_in_no_sum() {
        let hub = Hub::new(&Cell::default(), 1, 0, LogRelay::new(1, 1));
        let id = MachineId { slot: 3, generation: 1 };
        let machine = |state| {
            let machine = crate::agents::machine(3, 1, state);
            assert_eq!(machine.id, id);
            Delta { machines: vec![machine.into()], ..Delta::new(Revision(1), LogTime::from_micros(1)) }
        };
        let report = || {
            let used = Some(v1::Resources { cpu_millis: 700, ..Default::default() });
            hub.telemetry(id, v1::MachineTelemetry { used, ..Default::default() });
            hub.used().map(|used| used.cpu_millis)
        };
        hub.fold(&[machine(MachineState::Ready)], 0);
        assert_eq!(report(), Some(700));
        hub.fold(&[machine(MachineState::Unreachable)], 0);
        assert_eq!(hub.used(), None);
        hub.fold(&[machine(MachineState::Ready)], 0);
        assert_eq!(report(), Some(700));
        // The report was judged before, and is remembered afterwards.
        hub.fold(&[machine(MachineState::Gone)], 0);
        assert_eq!(report(), None);
    }

    // Agents say nothing of it: by the metrics, machines used nothing at all.
    #[test]
    fn what_machines_use_is_not_known_before_one_has_said_it() {
        let hub = Hub::new(&Cell::default(), 1, 0, LogRelay::new(1, 1));
        let id = MachineId { slot: 3, generation: 1 };
        let machine = crate::agents::machine(3, 1, MachineState::Ready);
        let delta = Delta { machines: vec![machine.into()], ..Delta::new(Revision(1), LogTime::from_micros(1)) };
        hub.fold(&[delta], 0);
        hub.telemetry(id, v1::MachineTelemetry { used: None, tasks: 3 });
        assert_eq!(hub.used(), None);
        let nothing = v1::Resources::default();
        hub.telemetry(id, v1::MachineTelemetry { used: Some(nothing.clone()), tasks: 3 });
        assert_eq!(hub.used(), Some(nothing));
    }

    fn granted(revision: u64, slot: u32, machine: u32) -> Delta {
        let grants = plenum_model::Grants {
            machines: vec![machine],
            tasks: vec![0],
            slots: vec![slot],
            generations: vec![1],
            ..plenum_model::Grants::default()
        };
        Delta { grants: vec![grants], ..Delta::new(Revision(revision), LogTime::from_micros(1)) }
    }

    #[test]
    fn an_index_that_is_made_late_has_what_came_by_meanwhile_and_nothing_twice() {
        let hub = Hub::new(&Cell::default(), 1, 0, LogRelay::new(1, 1));
        hub.fold(&[granted(1, 0, 3)], 0);
        assert_eq!(hub.needs_index(), Some(Revision(1)));
        hub.fold(&[granted(2, 1, 3)], 0);
        // A snapshot from before is none of those that are kept for.
        hub.make_index(&Cell::default());
        assert_eq!(hub.needs_index(), Some(Revision(1)));
        let mut cell = Cell::default();
        cell.apply(&Delta::new(Revision(1), LogTime::from_micros(1))).unwrap();
        hub.make_index(&cell);
        assert_eq!(hub.needs_index(), None);
        hub.fold(&[granted(3, 2, 3)], 0);
        let Index::Made(index, _) = &hub.books.lock().index else { panic!("it was made") };
        assert_eq!(index.on(3), [1, 2]);
    }

    // It was made under the lock of the books, on a connection's thread: the publishing thread and other agents' streams stood still.
    #[test]
    fn nobody_waits_while_an_index_is_made() {
        let hub = Hub::new(&Cell::default(), 1, 0, LogRelay::new(1, 1));
        assert_eq!(hub.needs_index(), Some(Revision(0)));
        hub.make_index_by(&Cell::default(), |cell| {
            assert_eq!(hub.needs_index(), Some(Revision(0)));
            hub.fold(&[granted(1, 0, 3)], 0);
            WantedIndex::of_cell(cell)
        });
        assert_eq!(hub.needs_index(), None);
        // Another one who made it meanwhile comes too late.
        hub.make_index_by(&Cell::default(), |_| panic!("it is made"));
        let Index::Made(index, _) = &hub.books.lock().index else { panic!("it was made") };
        assert_eq!(index.on(3), [0]);
    }

    #[test]
    fn an_index_that_is_given_up_while_it_is_made_is_not_used() {
        let hub = Hub::new(&Cell::default(), 1, 0, LogRelay::new(1, 1));
        assert_eq!(hub.needs_index(), Some(Revision(0)));
        hub.make_index_by(&Cell::default(), |cell| {
            let mut large = granted(1, 0, 3);
            large.grants[0].slots = vec![0; MEANWHILE_ROWS_MAX + 1];
            hub.fold(&[large], 0);
            assert_eq!(hub.needs_index(), Some(Revision(1)));
            WantedIndex::of_cell(cell)
        });
        assert_eq!(hub.needs_index(), Some(Revision(1)));
    }

    // Reports were kept with it and not counted: a million of them with thousands of rows each, while nobody made the index.
    #[test]
    fn what_an_index_is_not_made_of_is_not_kept_for_it() {
        let hub = Hub::new(&Cell::default(), 1, 0, LogRelay::new(1, 1));
        assert_eq!(hub.needs_index(), Some(Revision(0)));
        let status = plenum_model::AllocationStatus::default();
        let moves = (0..1000).map(|slot| plenum_model::Move { slot, status, restarts: 0, reason: None }).collect();
        hub.fold(&[Delta { moves, ..granted(1, 0, 3) }], 0);
        let Index::Making { meanwhile, .. } = &hub.books.lock().index else { panic!("it is being made") };
        assert_eq!(meanwhile, &[granted(1, 0, 3)]);
    }

    #[test]
    fn an_index_that_nobody_makes_keeps_no_more_than_its_bound() {
        let hub = Hub::new(&Cell::default(), 1, 0, LogRelay::new(1, 1));
        assert_eq!(hub.needs_index(), Some(Revision(0)));
        let mut large = granted(1, 0, 3);
        large.grants[0].slots = vec![0; MEANWHILE_ROWS_MAX + 1];
        hub.fold(&[large], 0);
        assert!(matches!(hub.books.lock().index, Index::NotNeeded));
        assert_eq!(hub.needs_index(), Some(Revision(1)));
    }

    #[test]
    fn a_registration_is_under_way_until_the_one_that_began_it_ends() {
        let hub = Hub::new(&Cell::default(), 1, 0, LogRelay::new(1, 1));
        let asking = |instance: &str| Asking { instance: instance.to_owned(), ..Asking::default() };
        let first = hub.registering("m1", &asking("a"));
        drop(hub.registering("m1", &asking("a")).expect("the same one may ask again"));
        assert!(hub.registering("m1", &asking("b")).is_err(), "the first one is still under way");
        drop(first);
        assert!(hub.registering("m1", &asking("b")).is_ok());
    }
}

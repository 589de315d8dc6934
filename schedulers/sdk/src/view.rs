//! What a scheduler decides on: the mirror, its work, and the room that its own transactions in flight may still take.

mod fill;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use plenum_model::{
    AllocationId, AllocationRef, Cell, ClassSet, Device, GroupCounts, GroupRow, GroupShape, Job, JobId, LogTime,
    Obstacle, Port, QuotaUse, Requirement, Resources, Revision, Room, SessionId, Shortage, Special, task_is_wanted,
};

use crate::in_flight::InFlight;
use crate::leaving::Leaving;
use crate::queue::Queue;
use crate::quotas::Quotas;
use crate::share::Share;
use crate::specials::Specials;

/// Tasks of one group that may be placed now.
#[derive(Clone, Debug)]
pub struct Work {
    /// Whose.
    pub job: Arc<Job>,
    /// The group's position in the job.
    pub group: u16,
    /// Indexes of the tasks, rising; never empty nor fewer than `least`, and none of them in flight. Perhaps not all of the group that wait: a decision has so many tasks at
    /// most as the settings say, and others may be in flight.
    pub tasks: Vec<u32>,
    /// Which attempt at this job it is, from 1; back to 1 once something of it was granted.
    pub attempt: u32,
    /// So many of them at once, or none: fewer are refused, all of them, as the group declares a minimum and has not enough live tasks yet. 0: as many
    /// as there is room for.
    pub least: u32,
}

impl Work {
    /// Tasks of a group that are to run elsewhere: what a [`Ledger`] and [`Plan::claim`](crate::Plan::claim) are asked with for who moves them, as nothing of
    /// them waits. Of a group of which one runs at a time (`single_instance`) the cell grants none that the same plan stops, and a ledger has room for none: stop
    /// it, and it is offered as work once it has ended. `None` where the job has no such group.
    #[must_use]
    pub fn to_move(job: &Arc<Job>, group: u16, tasks: Vec<u32>) -> Option<Self> {
        job.shape.groups.get(usize::from(group))?;
        Some(Self { job: job.clone(), group, tasks, attempt: 1, least: 0 })
    }

    /// What each of the tasks needs.
    ///
    /// # Panics
    /// When the work was made by hand for a group that its job does not have: [`Work::to_move`] makes none.
    #[must_use]
    pub fn shape(&self) -> &GroupShape {
        &self.job.shape.groups[usize::from(self.group)]
    }
}

/// A snapshot, and what is to be done on it.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub(crate) cell: &'a Cell,
    pub(crate) quota_use: &'a QuotaUse,
    pub(crate) now: LogTime,
    pub(crate) oldest_readable: Option<Revision>,
    pub(crate) work: &'a [Work],
    pub(crate) ahead: &'a [Work],
    pub(crate) in_flight: &'a InFlight,
    pub(crate) changed: Option<&'a [u32]>,
    pub(crate) seed: u64,
    pub(crate) turn: u64,
    pub(crate) window: usize,
    pub(crate) peer_silence_micros: i64,
    pub(crate) place: (u32, u32),
    pub(crate) share: &'a Share,
    pub(crate) queue: &'a Queue,
    /// By the process's own clock.
    pub(crate) now_micros: i64,
}

impl<'a> View<'a> {
    /// The mirror. It shows nothing yet of transactions in flight.
    #[must_use]
    pub const fn cell(&self) -> &'a Cell {
        self.cell
    }

    /// The session in which is decided: who takes a hold (`Cell.TakeHold`) names it, with the incarnation of `cell().identity()`.
    #[must_use]
    pub const fn session(&self) -> SessionId {
        self.share.own()
    }

    /// Log time, as far as this process can tell: mostly a little behind the cell's own. It is ahead where that stands still, as after a start of the server
    /// with a clock that was set back, or where this machine's clock runs faster or the server's stood still. What is claimed at the very end of a backoff may be too early then: it is
    /// refused, and offered again. It can go back: when all heartbeats of half a minute to a minute (with one a second) have told that it is ahead by more
    /// than a second, and with another start of the server. So a time that was remembered may be later than now.
    #[must_use]
    pub const fn now(&self) -> LogTime {
        self.now
    }

    /// The oldest revision of the cell that can still be read (`At` of requests, `--at` of the command line), as of the last heartbeat: what
    /// is older is retired. It rises as the history is compacted; who needs an older one for long reads it before. `None` until the first
    /// heartbeat that tells, within a second or two of a session's begin.
    #[must_use]
    pub const fn oldest_readable(&self) -> Option<Revision> {
        self.oldest_readable
    }

    /// What this scheduler may place now: highest priority first, then the job that was submitted first, then groups in their
    /// order. At most so many tasks as the settings say; the others come next time, until all had their turn. Where something happens before that, the
    /// next decision begins with the first in the queue again, who get half of it, and goes on with those whose turn it is: what comes free is not
    /// for whoever happens to be there.
    #[must_use]
    pub const fn work(&self) -> &'a [Work] {
        self.work
    }

    /// What waits and comes before some of [`View::work`]: of peers' jobs what is of a higher band (priority / 10) than the last of it, and of own ones that rest after they lost a race
    /// to another scheduler ([`View::rests`]) what has an earlier turn, of the first 64 of these. In the order of bands, of each own jobs first, and at most as many tasks as the settings say of work. Empty where
    /// there are no peers and none rests so.
    ///
    /// It is not to be committed: its owner places it, or it is offered once its rest is over. Who takes room and quota for it in the books, as far as there is any and before all work of a lower band, and
    /// places the work beside that, keeps one order with its peers, and evicts nobody whom it has just placed; and tells with [`Decision::leave`](crate::Decision::leave) what found room. Who does not may take
    /// what comes free for a job that its peer then evicts again.
    #[must_use]
    pub const fn ahead(&self) -> &'a [Work] {
        self.ahead
    }

    /// Room that own transactions in flight may take, by machine slot, and room that the runtime has asked to hold and that the mirror does not show as held yet, also
    /// for the job that it is asked for. Not what a scheduler asks to hold by itself, over a [`Client`](crate::Client): of that the runtime hears nothing before the
    /// mirror shows it, and a ledger has it free until then.
    #[must_use]
    pub const fn promised(&self) -> &'a BTreeMap<u32, Resources> {
        self.in_flight.promised()
    }

    /// Slots of machines whose room or state changed since the last call of `decide`, some perhaps twice. `None`: any of them, or the mirror is
    /// another one. Not of those where something began to run or to leave, that a partition reserves by now, or to which something own is on its way: who
    /// keeps books of whom it may evict or take over from does so by more than this.
    ///
    /// Named once: who keeps columns by it follows in each call of `decide`, also where there is nothing to place.
    #[must_use]
    pub const fn changed_machines(&self) -> Option<&'a [u32]> {
        self.changed
    }

    /// For randomness: differs between sessions, stays the same in one, and is the same in a replay. What shall be drawn anew in each decision
    /// is drawn from this and [`View::turn`].
    #[must_use]
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// A number that is another one after each decision that sent something: that of the next transaction of the session.
    #[must_use]
    pub const fn turn(&self) -> u64 {
        self.turn
    }

    /// Live sessions of one scheduler name and one `namespace` of the settings share its jobs: this one's place among them, from 0, and how many they are, at
    /// least 1. They may see it differently for a while when one comes or goes.
    #[must_use]
    pub const fn place_among_peers(&self) -> (u32, u32) {
        self.place
    }

    /// Whether a job is this session's to look after: one that is not over, of its scheduler's name and its namespace, and that is its own ([`View::is_own`])
    /// or may be nobody's ([`View::may_be_orphaned`]). Who moves or stops what runs asks for it.
    ///
    /// A peer that is alive and has nothing to commit can't be told from one that was killed: then both look after its jobs. Nothing is moved or stopped twice for
    /// that. Of two moves of a task, in a [`Plan::all_or_nothing`](crate::Plan::all_or_nothing) each, the second is refused, and a stop is of one allocation,
    /// never of what was placed after it. But where two choose differently, as whom of a group to stop, both have their way. So who chooses leaves a job that
    /// is not its own alone until some seconds after it would have acted on an own one: a peer that is alive has done so by then.
    #[must_use]
    pub fn looks_after(&self, job: &Job) -> bool {
        self.is_own(job) || self.may_be_orphaned(job)
    }

    /// Whether a job is this session's own: one that is not over, of its scheduler's name and its namespace, and of all open sessions of these it is this one that
    /// the job's hash falls to. The session of a process that was killed is open until the cell closes it, ten minutes later unless set otherwise, or until
    /// it was seen to be silent: what is its own is nobody else's so long. [`View::looks_after`] has these, too.
    #[must_use]
    pub fn is_own(&self, job: &Job) -> bool {
        self.queue.contains(job.id) && self.share.is_own(job.id)
    }

    /// Whether a job is a peer's own, and that peer has committed nothing for `peer_silence_micros` of the settings, a second if nothing else was set: it may
    /// be gone, and its session not closed yet. It may also have had nothing to commit. Who claims something for such a job and is granted it takes over all
    /// that the peer owned, until that commits again. `work` has such jobs now and then, besides the own.
    #[must_use]
    pub fn may_be_orphaned(&self, job: &Job) -> bool {
        self.unheard_micros(job).is_some_and(|unheard| unheard >= self.peer_silence_micros)
    }

    /// For how long the peer whose own a job is has committed nothing, in microseconds, by the process's own clock: counted from when this session saw it first, if it has committed
    /// nothing since, and anew with each connection. `None` of a job that is no peer's own. Who holds work back on purpose commits nothing for it meanwhile: its peers leave
    /// that work to it for as long as it may do so and some seconds more, and no longer, as it may be gone.
    #[must_use]
    pub fn unheard_micros(&self, job: &Job) -> Option<i64> {
        let owner = self.share.owner(job.id);
        let is_a_peers = self.queue.contains(job.id) && owner != self.share.own();
        is_a_peers.then(|| self.now_micros.saturating_sub(self.share.heard_micros(owner)))
    }

    /// Whether a job waits out a refusal. Nothing of it is offered as work meanwhile, and who moves what runs leaves it alone, too.
    #[must_use]
    pub fn rests(&self, job: &Job) -> bool {
        self.queue.get(job.id).is_some_and(|standing| standing.not_before_micros > self.now_micros)
    }

    /// How many transactions may be committed now, at least 1.
    #[must_use]
    pub const fn window(&self) -> usize {
        self.window
    }

    /// The machine slot that the job's tasks share, where they share one and it was chosen, by the cell or by a transaction in
    /// flight.
    #[must_use]
    pub fn home(&self, job: &Job) -> Option<u32> {
        job.home.or_else(|| self.in_flight.home(job.id))
    }

    /// Whether an own transaction in flight names this allocation as a victim: it may be leaving already, for another task.
    #[must_use]
    pub fn may_be_evicted(&self, allocation: AllocationId) -> bool {
        self.in_flight.may_evict(allocation)
    }

    /// Whether an own transaction in flight stops this allocation: it may be leaving already, though the mirror does not show it.
    #[must_use]
    pub fn may_be_stopped(&self, allocation: AllocationId) -> bool {
        self.in_flight.may_stop(allocation)
    }

    /// Whether an own transaction in flight claims this task: it is not in [`View::work`], and who looks for work in `cell()` itself leaves it out, too. So
    /// it is until the outcome is heard, also where the mirror shows that already.
    #[must_use]
    pub fn is_claimed(&self, job: &Job, group: u16, task: u32) -> bool {
        self.in_flight.has_task(job.id, group, task)
    }

    /// What a task has on some machine now, be it running or about to; `None` of one that waits or is over, and of one whose last allocation is leaving.
    #[must_use]
    pub fn allocation_of(&self, job: &Job, group: u16, task: u32) -> Option<AllocationRef<'a>> {
        let cell = self.cell;
        let task = cell.task(cell.group(job, group)?, task)?;
        cell.allocation_in(task.allocation.checked_sub(1)?)
    }

    /// How many tasks of a group each machine has, those in flight included, by slot. Goes over all tasks of the group: ask once in a decision.
    #[must_use]
    pub fn siblings(&self, job: &Job, group: u16) -> BTreeMap<u32, u32> {
        let mut siblings = BTreeMap::new();
        if let Some(row) = self.cell.group(job, group) {
            let live = (0..row.count).filter_map(|task| self.cell.task(row, task)?.allocation.checked_sub(1));
            for machine in live.filter_map(|slot| Some(self.cell.allocation_in(slot)?.row.machine)) {
                *siblings.entry(machine).or_default() += 1;
            }
        }
        for machine in self.in_flight.machines_of(job.id, group) {
            *siblings.entry(machine).or_default() += 1;
        }
        siblings
    }

    /// What is free on a machine for whoever holds nothing there, less what is promised.
    #[must_use]
    pub fn room(&self, slot: u32) -> Room {
        self.room_for(slot, JobId::default())
    }

    /// What is free on a machine for a job, less what is promised: as the cell judges a claim, room that other jobs hold is taken, and that of the
    /// job's own hold is not.
    #[must_use]
    pub fn room_for(&self, slot: u32, job: JobId) -> Room {
        self.less_promised(slot, self.cell.room_for(slot, job))
    }

    /// What a hold of a job may ask for on a machine, less what is promised: room that holds have which come after it (of a lower band, or taken later)
    /// is its own to take, that of those which come first is not. A job without a hold comes last of its band. Ask for what the job needs, as far as it is here:
    /// who asks for no more than is free ([`View::room_for`]) takes nothing from anybody, and two gangs may each wait for what the other one holds.
    #[must_use]
    pub fn room_to_hold(&self, slot: u32, job: JobId) -> Room {
        self.less_promised(slot, self.cell.room_to_hold(slot, job))
    }

    fn less_promised(&self, slot: u32, mut room: Room) -> Room {
        if let Some(promised) = self.promised().get(&slot) {
            room.take(promised);
        }
        room
    }

    /// Books for deciding task by task.
    #[must_use]
    pub fn ledger(&self) -> Ledger<'a> {
        Ledger {
            view: *self,
            taken: BTreeMap::new(),
            handed_over: BTreeMap::new(),
            leaving: Leaving::default(),
            given: BTreeSet::new(),
            homes: BTreeMap::new(),
            classes: BTreeMap::new(),
            quotas: Quotas::default(),
            specials: self.specials(),
        }
    }

    /// Books of devices, ports and limits, for groups that declare some.
    #[must_use]
    pub fn specials(&self) -> Specials {
        Specials::of(self)
    }
}

/// Books of one decision: which room and quota its own claims have taken so far. For schedulers that place task by task; judges with
/// the same code as the cell. The first look at a group with `per_machine` or `spread` goes over all its tasks; further ones remember.
#[derive(Clone, Debug)]
pub struct Ledger<'a> {
    view: View<'a>,
    /// By machine, what its own claims need.
    taken: BTreeMap<u32, Resources>,
    /// By machine, how much of that those give who leave.
    handed_over: BTreeMap<u32, Resources>,
    leaving: Leaving,
    /// What was counted as given back.
    given: BTreeSet<AllocationId>,
    homes: BTreeMap<JobId, u32>,
    classes: BTreeMap<(JobId, u16), ClassSet>,
    quotas: Quotas,
    specials: Specials,
}

impl Ledger<'_> {
    /// Whether partitions reserve machines for others than this scheduler.
    fn closed_to(&self, scheduler: &str) -> bool {
        self.view.cell.partitions().any(|(_, partition)| !partition.is_open_to(scheduler))
    }

    /// What the quota of the job's namespace is short of for one more task of the group, on whatever machine; `None` if it may have one. What the
    /// first question costs, [`Quotas`] tells.
    pub fn quota_shortage(&mut self, work: &Work) -> Option<Shortage> {
        self.quotas.shortage(&self.view, work, 1)
    }

    /// Counts an allocation as one that goes, once: for who stops or evicts it in the very plan that claims what comes instead. Its quota is given back, and
    /// the limits of its group count it no more. Its room is not free before its receipt, and no more free in the ledger for this: who is claimed in its
    /// place has it by [`Ledger::take_over`]. Of what stays after all, [`Ledger::keeps`] says so.
    pub fn gives_back(&mut self, allocation: AllocationId) {
        let cell = self.view.cell;
        if !self.given.insert(allocation) {
            return;
        }
        self.quotas.gives_back(&self.view, allocation);
        let Some(found) = cell.allocation(allocation).filter(|found| found.status.state.is_active()) else { return };
        if let Some(job) = cell.job(found.row.job()) {
            self.specials.leave(cell, job, found.row.group, found.row.machine);
        }
    }

    /// Takes a [`Ledger::gives_back`] back: no plan came of it, as where there was no room elsewhere. Otherwise what is claimed on with these books may be
    /// over the quota or the limits, and refused. For none in whose place a task was booked by [`Ledger::take_over`].
    pub fn keeps(&mut self, allocation: AllocationId) {
        let cell = self.view.cell;
        if !self.given.remove(&allocation) {
            return;
        }
        self.quotas.keeps(&self.view, allocation);
        let Some(found) = cell.allocation(allocation).filter(|found| found.status.state.is_active()) else { return };
        if let Some(job) = cell.job(found.row.job()) {
            self.specials.stay(cell, job, found.row.group, found.row.machine);
        }
    }

    /// What stands between one more task of the group and a machine, apart from a quota, and from the end that a `single_instance` task waits for: of that
    /// [`Ledger::take`] and its like alone know. One that a partition reserves for other schedulers fails as by a constraint.
    pub fn obstacle(&mut self, work: &Work, slot: u32) -> Option<Obstacle> {
        self.room_obstacle(work, slot).or_else(|| self.specials.obstacle(self.view.cell, work, slot))
    }

    /// The same, apart from devices, ports and limits; the group's tasks are counted for these.
    fn room_obstacle(&mut self, work: &Work, slot: u32) -> Option<Obstacle> {
        let cell = self.view.cell;
        let shape = work.shape();
        let reserved = self.closed_to(&work.job.shape.scheduler);
        let classes = (reserved || !shape.constraints.is_empty()).then(|| {
            let closed = || cell.partitions().map(|(_, partition)| partition);
            let closed = || closed().filter(|partition| !partition.is_open_to(&work.job.shape.scheduler));
            let set = self.classes.entry((work.job.id, work.group)).or_default();
            set.refresh_by(cell, |attributes| {
                let mut rules = shape.constraints.iter();
                rules.all(|rule| rule.holds(attributes)) && !closed().any(|partition| partition.has(attributes))
            });
            &*set
        });
        let home = if work.job.shape.same_machine {
            self.homes.get(&work.job.id).copied().or_else(|| self.view.home(&work.job))
        } else {
            None
        };
        let job = work.job.id;
        let requirement = Requirement { resources: &shape.resources, classes, home, job, special: None };
        let promised = self.view.promised().get(&slot).copied().unwrap_or_default();
        let taken = self.taken.get(&slot).copied().unwrap_or_default();
        // Amounts are bounded at the edge, and so few tasks fit a machine that their sum cannot overflow.
        let spoken = promised.checked_add(&taken).unwrap_or(promised);
        let spoken = self.handed_over.get(&slot).map_or(spoken, |handed_over| spoken.without(handed_over));
        if GroupCounts::are_needed_by(shape) {
            self.specials.count(cell, &work.job, work.group);
        }
        requirement.obstacle(cell, slot, &spoken)
    }

    /// Takes room for one task of the group on a machine, and quota, if nothing stands in the way. True: it may be claimed. False also of a `single_instance` group
    /// whose first task of the work has not ended. Of devices and ports it takes those
    /// that the cell would choose: who names them asks [`Ledger::take_named`]. Of those who leave it takes nothing: that does [`Ledger::take_over`].
    pub fn take(&mut self, work: &Work, slot: u32) -> bool {
        self.take_named(work, slot, &[], &[])
    }

    /// As [`Ledger::take`], for a task whose claim names its devices, as [`Plan::devices`](crate::Plan::devices) does, and ports, as
    /// [`Plan::ports`](crate::Plan::ports): nothing where the cell chooses. False also where they are not what the group declares, two ports have one
    /// number, or the machine has not these left.
    pub fn take_named(&mut self, work: &Work, slot: u32, devices: &[Device], ports: &[Port]) -> bool {
        let named = (devices, ports);
        if self.waits_for_its_end(work)
            || self.quota_shortage(work).is_some()
            || self.room_obstacle(work, slot).is_some()
            || !self.specials.has_named(self.view.cell, work, slot, named)
        {
            return false;
        }
        if !self.book(work, slot, &Resources::default()) {
            return false;
        }
        if Special::is_needed_by(work.shape()) {
            self.specials.take_named(self.view.cell, &work.job, work.group, slot, named);
        }
        true
    }

    /// As [`Ledger::take`], for a task that is claimed in the place of others: with what these `victims` have on the machine, as far as that is lacking. So they
    /// are named in the plan, in this order: those that leave already or that the plan stops with [`Plan::take_over`](crate::Plan::take_over), those that it
    /// evicts with [`Plan::evict`](crate::Plan::evict). The cell asks the former first.
    ///
    /// One gives something only where it leaves by the mirror, where an own transaction in flight stops it, or where it was counted as one that goes
    /// ([`Ledger::gives_back`]): say that before, of what this plan stops or evicts. Each gives what it has once, less what it waits for itself and what others
    /// took over from it. Who may be evicted the ledger does not know: of a lower band, and who waits for nobody himself.
    ///
    /// What an own claim in flight takes over is not known before its outcome: until then the ledger has the machine fuller by that than it is.
    pub fn take_over(&mut self, work: &Work, slot: u32, victims: &[AllocationId]) -> bool {
        let view = self.view;
        if self.waits_for_its_end(work) || self.quota_shortage(work).is_some() {
            return false;
        }
        let need = work.shape().resources;
        let free = match self.room_obstacle(work, slot) {
            None => None,
            Some(Obstacle::NoRoom(_)) => Some(self.room(work, slot)),
            Some(_) => return false,
        };
        let gives = |found: &AllocationRef<'_>| {
            let goes = self.given.contains(&found.id) || view.may_be_stopped(found.id);
            found.row.machine == slot && (goes || found.status.state.is_leaving())
        };
        let victims = victims.iter().filter_map(|&victim| view.cell.allocation(victim));
        let mut hand_off = self.leaving.asked(view.cell, victims.filter(gives));
        if free.is_some_and(|free| !hand_off.take_room(&free, &need)) {
            return false;
        }
        let Some(own) = self.specials.have_with(view.cell, work, slot, &mut hand_off) else { return false };
        let handed_over = free.map(|free| free.uncovered(&need)).unwrap_or_default();
        if !self.book(work, slot, &handed_over) {
            return false;
        }
        if Special::is_needed_by(work.shape()) {
            self.specials.take_parts(view.cell, &work.job, work.group, slot, (own, &[]));
        }
        self.leaving.book(hand_off);
        true
    }

    /// Whether the work is of tasks of which one runs at a time each, and that are there: the cell grants none of them before the end of what it has.
    fn waits_for_its_end(&self, work: &Work) -> bool {
        let cell = self.view.cell;
        let is_there =
            |row: &GroupRow| work.tasks.first().is_some_and(|&task| task_is_wanted(cell, row, task).is_err());
        work.shape().single_instance && cell.group(&work.job, work.group).is_some_and(is_there)
    }

    /// What is free on a machine for one more task of the work, less what own claims of this decision and of transactions in flight take; room that the job
    /// itself holds is free, and those who leave have not given anything yet. For who ranks machines by what is left there: whether the machine
    /// takes one, which may be drained as well, says [`Ledger::obstacle`].
    #[must_use]
    pub fn room(&self, work: &Work, slot: u32) -> Room {
        let mut room = self.view.room_for(slot, work.job.id);
        self.taken.get(&slot).into_iter().for_each(|taken| room.take(taken));
        self.handed_over.get(&slot).into_iter().for_each(|handed_over| room.add(handed_over));
        room
    }

    /// Writes one task of the group down: its room, of which so much is handed over, its quota, and where its job is by now. False where the sum is none.
    fn book(&mut self, work: &Work, slot: u32, handed_over: &Resources) -> bool {
        let taken = self.taken.entry(slot).or_default();
        let Some(sum) = taken.checked_add(&work.shape().resources) else { return false };
        *taken = sum;
        if !handed_over.is_nothing() {
            let sum = self.handed_over.entry(slot).or_default();
            *sum = sum.with(handed_over);
        }
        self.quotas.take(&self.view, work, 1);
        if work.job.shape.same_machine {
            self.homes.insert(work.job.id, slot);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::work;

    #[test]
    fn what_is_to_move_is_of_a_group_that_its_job_has() {
        let job = work().job;
        assert_eq!(Work::to_move(&job, 0, vec![3]).map(|work| work.tasks), Some(vec![3]));
        assert!(Work::to_move(&job, 1, vec![3]).is_none());
    }
}

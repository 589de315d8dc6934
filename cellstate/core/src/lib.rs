//! The deterministic state machine that decides everything a cell decides.
//!
//! A pure function of state, request and time: no clock, thread, disk, network or randomness. Production, replay and the
//! simulators run this very code; the same requests in the same order give the same bytes.

pub mod invariants;

mod blame;
mod clock;
mod commit;
mod derived;
mod holds;
mod jobs;
mod lifecycle;
mod machines;
mod over_bound;
mod partitions;
mod planted_bugs;
mod quotas;
#[cfg(debug_assertions)]
mod recounted;
mod resolve;
mod sessions;
mod unknown;

pub use jobs::expected::expect_version;

use plenum_model::planted::{self, Bug};
use plenum_model::{Cell, Command, Decision, Delta, Grants, LogTime, Outcome, Rejection, Request, Revision};

use derived::Derived;

/// The version of the rules: batches of another one are folded, not decided again.
pub const CORE_VERSION: u32 = 39;

/// Rows that any table may have: whoever reads a delta refuses to grow one further.
pub const ROWS_MAX: u32 = 1 << 26;

/// Claims, placements and stops of a transaction that is too small to overlap its own loads.
const SMALL: usize = 8;

/// Bounds of the core.
#[derive(Clone, Debug)]
pub struct CoreOptions {
    /// Changes of machines that are remembered, to tell conflict from misfit and to name culprits: 48 bytes each.
    pub ring_changes: usize,
    /// Most sessions at once: up to 6 KiB each.
    pub sessions_max: usize,
    /// Most of them that one principal has open, so that others always get some.
    pub sessions_of_principal_max: usize,
    /// Most of them under one name of a scheduler, whoever opens them: where all come over loopback, they are one principal.
    pub sessions_of_scheduler_max: usize,
    /// Most machines at once. At most [`ROWS_MAX`].
    pub machines_max: u32,
    /// Most jobs at once, finished ones that are not retired yet too. At most [`ROWS_MAX`].
    pub jobs_max: u32,
    /// Most bytes of all jobs at once, as [`plenum_model::Job::kept_bytes`] reckons each, finished ones that are not retired yet too. Where these have more
    /// than half of it, the first that finished, and that nothing is left of, are retired at once.
    pub job_bytes_max: u64,
    /// Most rows of tasks of all jobs, of which each group takes a power of two: some ten bytes each, whatever becomes of the task. At most
    /// [`ROWS_MAX`].
    pub tasks_max: u32,
    /// Most different resources of groups at once: each has a number, and keeps it until the last job that has them is retired.
    pub shapes_max: usize,
    /// Numbers of such resources that wait, free, before the one that waits the longest is given to others. As long as fewer wait there
    /// are new ones, up to `shapes_max`.
    pub shapes_spare: usize,
    /// Most names at once of schedulers that have or had a session, each as long as a session or a job goes by it; no more than 65,535 count.
    pub schedulers_max: usize,
    /// Numbers of such names that wait, free, as `shapes_spare` says of resources.
    pub schedulers_spare: usize,
    /// Most different sets of attributes of machines at once.
    pub classes_max: usize,
    /// Most namespaces with a quota.
    pub quotas_max: usize,
    /// Most partitions: each is looked at by each transaction.
    pub partitions_max: usize,
    /// Most holds at once. Those of one scheduler's jobs are at most half of what others leave.
    pub holds_max: usize,
    /// Most microseconds from a hold, or its renewal, to its deadline.
    pub hold_micros_max: i64,
    /// Microseconds after which a task that the cell does not know is told to stop, if nobody adopts it.
    pub unknown_micros: i64,
    /// Microseconds after which a finished job is retired.
    pub retire_after_micros: i64,
    /// Most finished jobs that wait for that: of more the first that finished, and that nothing is left of, are retired at once.
    pub finished_jobs_max: usize,
    /// Most allocations that one command stops of jobs that are over, or of machines that are lost or drained together: the rest
    /// follows with ticks, so that what one command changes fits the log.
    pub stops_max: usize,
    /// Part of the machines that may be given up a minute, in thousandths; at least one machine.
    pub lost_millis_a_minute: u32,
}

impl Default for CoreOptions {
    fn default() -> Self {
        Self {
            ring_changes: 1 << 19,
            sessions_max: 4096,
            sessions_of_principal_max: 3584,
            sessions_of_scheduler_max: 3072,
            machines_max: 1 << 20,
            jobs_max: 1 << 20,
            job_bytes_max: 1 << 30,
            tasks_max: 1 << 24,
            shapes_max: 1 << 16,
            shapes_spare: 1 << 10,
            schedulers_max: (1 << 16) - 1,
            schedulers_spare: 1 << 10,
            classes_max: 1 << 17,
            quotas_max: 1 << 16,
            partitions_max: 256,
            holds_max: 1024,
            hold_micros_max: 600_000_000,
            unknown_micros: 900_000_000,
            retire_after_micros: 3_600_000_000,
            finished_jobs_max: 100_000,
            stops_max: 1 << 16,
            lost_millis_a_minute: 50,
        }
    }
}

/// What became of a request.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "the large variant is the usual one, and each lives for one batch")]
pub enum Decided {
    /// A new revision, to be made durable before anybody hears of it.
    Changed {
        /// The answer.
        decision: Decision,
        /// What changed; its revision is the decision's.
        delta: Delta,
    },
    /// Nothing changed: it was rejected, it was a dry run, or there was nothing to do. Not logged.
    Unchanged(Decision),
    /// The session's number was decided at this revision before: its answer is in the log.
    Repeated(Revision),
}

/// What a handler did: a delta to fold, or only an answer.
#[allow(clippy::large_enum_variant, reason = "see `Decided`")]
pub(crate) enum Verdict {
    Change(Decision, Delta),
    Answer(Decision),
    Repeat(Revision),
}

pub(crate) type Handled = Result<Verdict, Rejection>;

/// The state machine.
#[derive(Debug)]
pub struct Core {
    pub(crate) cell: Cell,
    pub(crate) options: CoreOptions,
    pub(crate) derived: Derived,
}

impl Core {
    /// An empty cell.
    #[must_use]
    pub fn new(options: CoreOptions) -> Self {
        Self::from_cell(Cell::default(), options)
    }

    /// Goes on from a recovered cell. The next request must be `OpenServer`.
    #[must_use]
    pub fn from_cell(cell: Cell, options: CoreOptions) -> Self {
        let derived = Derived::rebuild(&cell, &options, LogTime::default());
        Self { cell, options, derived }
    }

    /// The bounds that it decides with.
    #[must_use]
    pub fn options(&self) -> &CoreOptions {
        &self.options
    }

    /// The state. A clone of it is a snapshot.
    #[must_use]
    pub fn cell(&self) -> &Cell {
        &self.cell
    }

    /// Decides one request at log time `now`, which never goes backwards, and takes its effect into the state.
    pub fn decide(&mut self, request: &Request, now: LogTime) -> Decided {
        self.decide_if(request, now, |_, _| Ok(()))
    }

    /// The same, if `accepts` agrees with what would be answered and would change; what it rejects leaves no trace, so that the log
    /// can be decided again without knowing of it. A tick is shown to it, too, and happens whatever it says.
    pub fn decide_if(
        &mut self,
        request: &Request,
        now: LogTime,
        accepts: impl FnOnce(&Decision, &Delta) -> Result<(), Rejection>,
    ) -> Decided {
        let now = now.max(self.cell.time());
        let mark = self.mark();
        match planted_bugs::spoil(self.handle(request, now)) {
            Ok(Verdict::Change(decision, mut delta)) => {
                if !planted::is(Bug::KeepsHolds) {
                    self.settle_holds(&mut delta);
                }
                if let Err(rejection) = accepts(&decision, &delta)
                    && !matches!(request.command, Command::Tick)
                {
                    self.take_back(mark, &delta);
                    return Decided::Unchanged(Decision::Rejected(rejection));
                }
                self.take_effect(&delta);
                Decided::Changed { decision, delta }
            }
            Ok(Verdict::Answer(decision)) => Decided::Unchanged(decision),
            Ok(Verdict::Repeat(revision)) => Decided::Repeated(revision),
            Err(rejection) => Decided::Unchanged(Decision::Rejected(rejection)),
        }
    }

    /// Lets the next transaction fill the rows of the table of allocations that these grants have, as far as they are free and a core could have
    /// given them out: for who decides a log again and began in the middle. Which page of rows had enough holes first follows from what the server
    /// did before, and not from the cell. What is granted does not depend on it, only in which rows it stands.
    pub fn foretell_rows(&mut self, grants: &[Grants]) {
        self.derived.allocation_slots.foretell(grants.iter().flat_map(|grants| grants.slots.iter().copied()));
    }

    /// Brings what the next requests will touch into the cache, as far as they are small transactions: a large one does it for itself.
    /// The loads of some dozens overlap here; while they are decided, each waits for the one before. Nothing but speed depends on it.
    pub fn warm<'a>(&self, requests: impl Iterator<Item = &'a Request> + Clone) {
        let small = requests.filter_map(|request| match &request.command {
            Command::Commit(txn, _) if txn.stops.len() <= SMALL && txn.placements.len() <= SMALL => Some(txn),
            _ => None,
        });
        self.cell.warm_stops(small.clone().flat_map(|txn| txn.stops.iter().map(|stop| stop.slot)));
        for placement in small.flat_map(|txn| &txn.placements).filter(|placement| placement.machines.len() <= SMALL) {
            let Some(job) = self.cell.job(placement.job) else { continue };
            self.cell.warm_shape(job, placement.group);
            if let Some(group) = self.cell.group(job, placement.group) {
                self.cell.warm_claims(group, &placement.machines, &placement.tasks);
            }
        }
    }

    /// Takes back a delta that nobody needs any more: its memory serves the next ones. Nothing but speed depends on it.
    pub fn reuse_delta(&mut self, delta: Delta) {
        self.derived.spare.give_delta(delta);
    }

    /// Takes back an outcome that nobody needs any more, as [`Core::reuse_delta`] does.
    pub fn reuse_outcome(&mut self, outcome: Outcome) {
        self.derived.spare.give_outcome(outcome);
    }

    fn handle(&mut self, request: &Request, now: LogTime) -> Handled {
        match &request.command {
            Command::OpenServer(identity) => Ok(self.open_server(identity, now)),
            Command::OpenSession { scheduler } => self.open_session(request, scheduler, now),
            Command::CloseSession(id) => self.close_session(*id, now),
            Command::Commit(transaction, digest) => self.commit(transaction, *digest, now),
            Command::SubmitJob { shape, body, body_digest, expected_version } => {
                self.submit_job(shape, body, *body_digest, *expected_version, now)
            }
            Command::StopJob { job, version } => self.stop_job(*job, *version, now),
            Command::ScaleJob { job, version, group, count } => self.scale_job(*job, *version, (*group, *count), now),
            Command::StopAllocation(id) => self.stop_allocation(*id, now),
            Command::RegisterMachine(found) => self.register_machine(found, now),
            Command::ExpireMachine { machine, epoch } => self.expire_machine(*machine, *epoch, now),
            Command::ReportStatus(transitions) => Ok(self.report_status(transitions, now)),
            Command::ReportFitness { machine, epoch, unfit } => self.report_fitness(*machine, *epoch, *unfit, now),
            Command::CordonMachine { machine, cordoned } => self.cordon_machine(*machine, *cordoned, now),
            Command::RemoveMachine { machine, unless_alive } => self.remove_machine(*machine, *unless_alive, now),
            Command::Tick => Ok(self.tick(now)),
            Command::DrainMachine { machine, deadline } => self.drain_machine(*machine, *deadline, now),
            Command::Launch { parent, instant_micros } => self.launch(request, *parent, *instant_micros, now),
            Command::TakeHold { session, job, machines, resources, deadline } => {
                self.take_hold(*session, *job, machines, resources, *deadline, now)
            }
            Command::SetQuota { namespace, limit } => self.set_quota(namespace, *limit, now),
            Command::SetPartition { name, partition } => self.set_partition(name, partition.as_ref(), now),
            Command::AdoptUnknown { machine, allocation } => self.adopt_unknown(*machine, *allocation, now),
            Command::PauseScheduler { scheduler, paused } => self.pause_scheduler(scheduler, *paused, now),
            Command::SetRights { scheduler, evicts, priority } => self.set_rights(scheduler, *evicts, *priority, now),
        }
    }

    /// The generation of a slot's next tenant, or the next epoch of a machine.
    pub(crate) fn generation_after(&self, before: u32) -> u32 {
        before.max(plenum_model::floor_of(self.cell.identity().incarnation)) + 1
    }

    /// A delta for the next revision, for a handler to fill.
    pub(crate) fn draft(&self, now: LogTime) -> Delta {
        Delta::new(self.cell.revision().next(), now)
    }

    /// Folds a delta into the state, and into what is derived from it.
    fn take_effect(&mut self, delta: &Delta) {
        self.derived.before(delta, &self.cell, &self.options);
        self.cell
            .apply_decided(&planted::folded(delta, Bug::KeepsAnother))
            .expect("a delta of this core fits its own cell");
        self.derived.after(delta, &self.cell, &self.options);
        if planted::any() {
            return;
        }
        invariants::assert_cheap(&self.cell, delta);
        #[cfg(debug_assertions)]
        self.assert_counts(delta);
    }
}

/// The answer that something was done.
pub(crate) fn accepted(id: u64, version: u32) -> Decision {
    Decision::Accepted { id, version }
}

#[cfg(test)]
mod tests;

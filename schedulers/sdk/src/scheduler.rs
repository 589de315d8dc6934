//! What a scheduler is: a name, and a function from what it sees to what it wants.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::Arc;

use plenum_model::{AllocationId, AllocationState, JobId, Outcome};

use crate::plan::{Plan, PlanError};
use crate::view::{View, Work};

/// A scheduler. The runtime calls it when something happened that concerns its jobs, one call at a time; whatever it decides
/// is judged by the cell, so that a mistake costs a refusal and never a double booking.
pub trait Scheduler {
    /// The name that jobs ask for: 1 to 63 bytes of `a-z`, `0-9` and `-`, with a letter or a digit at both ends. The same for the whole life of the scheduler.
    fn name(&self) -> &str;

    /// Decides what to commit, on the snapshot in `view`.
    ///
    /// Called again by itself when room was refused or lost, when a backoff is over, and when room comes free while some of
    /// the work is still unplaced. With nothing to place it is called only at a time that it asked for ([`Decision::again_after`]), after an end that it asked for
    /// ([`Scheduler::decides_after`]), and, where it
    /// planned more than could be sent, once there are answers and no job that they refused rests any more ([`View::rests`]). So it is, after a pause, where a plan
    /// that stops or moves what runs was never decided ([`Scheduler::unanswered`]).
    ///
    /// Taking long is allowed: others commit meanwhile, and what they took comes back as a conflict. But the thread that awaits [`run`](crate::run) does
    /// nothing else meanwhile. With more than a few seconds tokio's runtime must have others, as that of `#[tokio::main]` has, and `run` is awaited in `main`,
    /// or in a `block_on` of a thread of its own, and not spawned: a thread of tokio's keeps to itself what it has just woken, the connection too. Else nobody
    /// answers the cell's pings, and after 20 to 40 seconds the scheduler counts as away. What it decided is sent when it is back. Nor does [`run`](crate::run) look
    /// meanwhile whether it is to end ([`asked_to_end`](crate::asked_to_end)).
    fn decide(&mut self, view: &View<'_>) -> Decision;

    /// Whether it wants to be called as soon as it has a mirror, even with nothing to place: one that moves or stops what runs. From then on
    /// [`Decision::again_after`] says when.
    fn decides_unasked(&self) -> bool {
        false
    }

    /// Whether the runtime holds room for its jobs that starve, as [`Settings::holds`](crate::Settings::holds) says. Not unless it says so: the runtime can't tell
    /// a gang that finds no room from one that its scheduler does not want to run yet, and who asks for holds by itself wants nobody else to. What is to be true
    /// of a scheduler that wants it: a job of which tasks wait in [`View::work`] is one that it would place if there were room, and it places by
    /// [`View::room_for`] or a [`Ledger`](crate::Ledger), for which the room that a job holds is free.
    fn takes_holds(&self) -> bool {
        false
    }

    /// Whether it evicts tasks of lower bands for those of higher ones that fit nowhere else ([`Plan::evict`]). The runtime then also holds room for these where only a
    /// part of what a machine lacks is held by lower bands, and evictions would do the rest.
    fn evicts(&self) -> bool {
        false
    }

    /// Hears what became of one of its transactions. The mirror is at least at the outcome's revision. Retries need nothing
    /// here: what was refused is offered as work again. Not called of who has a [`Scheduler::answered`] of its own, unless that calls it.
    fn outcome(&mut self, outcome: &Outcome) {
        let _ = outcome;
    }

    /// The same, with the tag of the plan that became this transaction ([`Plan::tagged`]). Numbers of transactions can't be known before: a plan that is
    /// dropped takes none. Of each plan either this is called or [`Scheduler::unanswered`], once, as long as the scheduler runs; of one that neither claims
    /// nor stops, neither is ([`Decision::commit`] leaves it out).
    ///
    /// What it granted may have ended by then, and [`Scheduler::ended`] may have told so before: who keeps books of what runs reads it from `view.cell()`, or
    /// remembers ends that come before their grant.
    fn answered(&mut self, tag: u64, outcome: &Outcome) {
        let _ = tag;
        self.outcome(outcome);
    }

    /// Hears that a plan gets no answer, with its tag, and why: what is planned by books of what is under way goes on from here. Nothing is needed for its tasks
    /// that wait: they are offered again. What it was to stop or to move is planned anew by the next [`Scheduler::decide`], which is called for that.
    fn unanswered(&mut self, tag: u64, why: &Unanswered) {
        let _ = (tag, why);
    }

    /// Hears how an allocation of a job of its name and namespace ended, whichever session placed it. The mirror shows it already. Retries need
    /// nothing here. It may be heard before the answer of the transaction that granted it ([`Scheduler::answered`]): changes of the cell come many at once,
    /// and the outcome behind them.
    ///
    /// An end is heard with its receipt. What was lost with its machine is [`AllocationState::Lost`] in the mirror until then, and ends only once the
    /// machine's agent is back, or the machine is removed.
    ///
    /// For who learns from ends, not for who counts on each: what ended while there was no connection may be heard of only as a mirror without it.
    /// The API tells of any end for as long as its revision is retained (`Jobs.GetAllocation`, `Jobs.JobHistory`).
    fn ended(&mut self, ended: &Ended) {
        let _ = ended;
    }

    /// Whether it wants to decide because of this end, also with nothing to place: one that stops what is left of a gang of which a task has died. Asked behind
    /// [`Scheduler::ended`], in the same circumstances: who relies on it looks now and then by itself, too ([`Decision::again_after`]).
    fn decides_after(&self, ended: &Ended) -> bool {
        let _ = ended;
        false
    }
}

/// Why a plan gets no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// It was beyond [`View::window`], and not sent.
    BeyondWindow,
    /// It was not sent, as no cell would look at it.
    NotSent(PlanError),
    /// The cell did not execute it, and never will.
    Rejected {
        /// Why, such as `READ_ONLY`: `plenum explain` has a page for each.
        code: String,
    },
    /// Its outcome can't be read: its session is over, the cell has not kept what became of it, the server takes only smaller messages by now, or it says what
    /// this version of the SDK does not know. It may have been executed: what it did, the next view shows.
    Unread,
}

/// How an allocation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Which.
    pub allocation: AllocationId,
    /// Its job.
    pub job: JobId,
    /// Its group's position in the job.
    pub group: u16,
    /// Its task's index in the group.
    pub task: u32,
    /// How many allocations its task had had, with this one.
    pub attempt: u16,
    /// Its machine's slot.
    pub machine: u32,
    /// How; one for which [`AllocationState::is_end`]. [`AllocationState::Complete`]: with exit code 0; of a job that runs for ever that is a failure all the same,
    /// and costs `retry`.
    pub state: AllocationState,
    /// The exit code; of one that a signal ended, 128 and the signal's number, as 143 of most that are stopped. 0 also without one, as of a task that never began.
    pub exit_code: i32,
    /// Why, where the cell or the agent has something to say: nothing of one that a plan stopped, of which the transaction has the policy's name.
    pub reason: Option<Arc<str>>,
}

/// What a scheduler wants, decided on one snapshot.
#[derive(Clone, Debug, Default)]
pub struct Decision {
    /// One transaction each, in this order. Those beyond [`View::window`] are dropped, and [`Scheduler::decide`] is called again once there are
    /// answers: their tasks that wait are offered again, before all that is behind them, and what moves or stops what runs is to be planned anew. Where
    /// nothing waits, and nothing was granted, it is not called while a job rests that was refused since ([`View::rests`]). What costs much to plan is not
    /// planned beyond it.
    pub plans: Vec<Plan>,
    /// Why some work stays unplaced.
    pub passed_over: Vec<PassedOver>,
    /// Why tasks stay on machines that they are to leave, such as drained ones. What one decision says counts until the next one; whoever asks the cell about the
    /// job reads it as long as tasks of the group are on such machines and none waits.
    pub staying: Vec<PassedOver>,
    /// See [`Decision::leave`].
    pub(crate) left: BTreeSet<JobId>,
    /// See [`Decision::again_after`].
    pub(crate) again_after_micros: Option<i64>,
}

impl Decision {
    /// Commits a plan. One without claims and stops is left out, and nothing is heard of it.
    pub fn commit(&mut self, plan: Plan) {
        if !plan.is_empty() {
            self.plans.push(plan);
        }
    }

    /// Tells what of [`View::ahead`] room was left to: what this plan claims, which is not committed. A job to which room was left for `peer_silence_micros` of the
    /// settings and of which nothing was granted is in [`View::ahead`] no more until something of it is, or nothing of it waits any more, or nobody has looked for
    /// twice as long, as after a new connection: its owner is gone, has a reason of its own, or others are always quicker. The scheduler is called then for the work that it left unplaced.
    pub fn leave(&mut self, plan: &Plan) {
        self.left.extend(plan.claims_by_group().map(|((job, _), _)| job));
    }

    /// Asks to be called again after so long, in microseconds, but never sooner than `pause_micros` of the settings, even if nothing
    /// waits: for schedulers that move, stop or evict what runs. It may be called before, as ever; what the newest decision asks for
    /// counts, and of several times that it asks for the soonest.
    pub fn again_after(&mut self, micros: i64) {
        let micros = micros.max(1);
        self.again_after_micros = Some(self.again_after_micros.map_or(micros, |sooner| sooner.min(micros)));
    }

    /// Says why `tasks` of a group stay unplaced; whoever asks the cell why the job waits reads it. Where different tasks of it wait for different reasons,
    /// it is said once for each: the tasks are counted together, and the reasons joined. Cut at 255 bytes.
    pub fn pass_over(&mut self, work: &Work, tasks: usize, reason: impl Display) {
        let tasks = u32::try_from(tasks).unwrap_or(u32::MAX);
        self.passed_over.push(PassedOver { job: work.job.id, group: work.group, tasks, reason: reason.to_string() });
    }
}

/// Why tasks of a group were not placed, or not moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassedOver {
    /// Which job.
    pub job: JobId,
    /// The group's position.
    pub group: u16,
    /// How many.
    pub tasks: u32,
    /// For people.
    pub reason: String,
}

impl<S: Scheduler + ?Sized> Scheduler for Box<S> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        (**self).decide(view)
    }

    fn outcome(&mut self, outcome: &Outcome) {
        (**self).outcome(outcome);
    }

    fn decides_unasked(&self) -> bool {
        (**self).decides_unasked()
    }

    fn takes_holds(&self) -> bool {
        (**self).takes_holds()
    }

    fn evicts(&self) -> bool {
        (**self).evicts()
    }

    fn answered(&mut self, tag: u64, outcome: &Outcome) {
        (**self).answered(tag, outcome);
    }

    fn unanswered(&mut self, tag: u64, why: &Unanswered) {
        (**self).unanswered(tag, why);
    }

    fn ended(&mut self, ended: &Ended) {
        (**self).ended(ended);
    }

    fn decides_after(&self, ended: &Ended) -> bool {
        (**self).decides_after(ended)
    }
}

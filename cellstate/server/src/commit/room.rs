//! Room in the log: how much a request may come to there, with its answer and what it changes.
//!
//! What it comes to is measured once it is decided, before it takes effect (`fits`). All else here is an estimate, made so that what is
//! hopeless need not be decided, and that what is gathered fits. And room in the table of allocations, which nobody reads beyond its bound (`has_rows`).

use std::collections::BTreeMap;

use plenum_core::ROWS_MAX;
use plenum_model::{
    AllocationState, BootId, Cell, Command, Delta, FoundMachine, Job, JobChange, Rejection, RejectionCode, TaskState,
    Transition, counted,
};

use super::{Asked, CommitOptions};

/// A refusal with four culprits under the longest names.
const REFUSAL_BYTES: usize = 560;
/// A grant, an end or a move in a delta, without texts; or what stands around the grants of a placement, there and in its answer.
const CHANGE_BYTES: usize = 64;
/// A transition as it is asked for, without its reason: twice, as what is logged for it is reckoned so before it is decided.
const TRANSITION_BYTES: usize = 80;
/// A victim in a delta, whose reason names namespace and job.
const VICTIM_BYTES: usize = 192;
/// Names, times and lengths around it all.
const AROUND_BYTES: usize = 4096;

impl Asked {
    /// Bytes in the log, as far as the request itself tells: asked, answered, and in the delta. What is asked comes again in the delta at
    /// worst. What the cell adds is not in it, such as the ports of a claim, or what the failure of a job sets off in its tasks.
    #[must_use]
    pub fn logged_bytes(&self) -> usize {
        let extra = match &self.request().command {
            Command::Commit(transaction, _) => {
                let claims: usize = transaction.placements.iter().map(|placement| placement.machines.len()).sum();
                let preempted: usize = transaction.placements.iter().map(|placement| placement.preemptions.len()).sum();
                // A claim is refused or granted, which is less; one refusal more may be of the whole.
                (claims + 1) * REFUSAL_BYTES
                    + (transaction.placements.len() + transaction.stops.len()) * CHANGE_BYTES
                    + preempted * VICTIM_BYTES
            }
            Command::ReportStatus(transitions) => transitions.len() * CHANGE_BYTES,
            _ => 0,
        };
        2 * self.encoded_bytes() + extra + AROUND_BYTES
    }
}

/// What a stop or an end in a delta comes to, with one of the core's own reasons.
const STOP_BYTES: usize = 72;
/// The same of one that is lost: the reason names its machine.
const LOST_BYTES: usize = 128;

/// What the receipt of a failure sets off in a delta besides the end of its allocation: its task, and the state of its group or job with a reason.
const RECEIPT_BYTES: usize = 384;

/// What a refusal says of larger segments: they raise a bound of so many bytes up to the usual one, and no further.
fn or_larger_segments(bytes_max: usize, usual: usize) -> &'static str {
    if bytes_max < usual { ", or set larger segment_bytes" } else { "" }
}

/// Whether what was decided may take effect: in the log it comes to so many bytes. Written, it would have to fit a frame, or the server
/// would have to end.
pub(super) fn fits(bytes: usize, bytes_max: usize, delta: &Delta) -> Result<(), Rejection> {
    if bytes <= bytes_max {
        return Ok(());
    }
    let grants = delta.grants.iter().map(|grants| grants.slots.len()).sum::<usize>();
    let stops = delta.moves.len() + delta.ends.len();
    let changes = [(grants, "grant"), (stops, "stop or end"), (delta.tasks.len(), "task"), (delta.holds.len(), "hold")];
    let changes = changes.into_iter().filter(|(count, _)| *count > 0);
    let changes: Vec<_> = changes.map(|(count, noun)| counted(count as u64, noun)).collect();
    let of = if changes.is_empty() { String::new() } else { format!(", with {}", changes.join(", ")) };
    let or = or_larger_segments(bytes_max, CommitOptions::default().entry_bytes);
    let message = format!(
        "with its answer and what it changes it comes to {bytes} bytes in the log{of}, and a request may come to {bytes_max}; ask for \
         less at once{or}"
    );
    Err(Rejection::new(RejectionCode::LimitReached, message))
}

/// Whether what was decided may take effect: a grant in a row beyond the bound of tables would be read by no mirror, and not by the next start either.
/// Rows are given out again once allocations have ended, but a page of them not before it has some holes.
pub(super) fn has_rows(delta: &Delta) -> Result<(), Rejection> {
    let last = delta.grants.iter().flat_map(|grants| &grants.slots).max();
    if last.is_none_or(|&slot| slot < ROWS_MAX) {
        return Ok(());
    }
    let message = format!(
        "at most {ROWS_MAX} rows of allocations in the cell, and this would take one more; try again when some have ended"
    );
    Err(Rejection::new(RejectionCode::LimitReached, message))
}

/// The group of which a change lets most tasks run again because their jobs lose the machine that they share; `None`: no job loses one.
pub(super) fn starts_over(delta: &Delta) -> Option<u32> {
    let loses_machine = |change: &JobChange| matches!(change, JobChange::Home { machine: None, .. });
    if !delta.jobs.iter().any(loses_machine) {
        return None;
    }
    let mut tasks: BTreeMap<u32, usize> = BTreeMap::new();
    delta.tasks.iter().for_each(|change| *tasks.entry(change.group_row).or_default() += 1);
    tasks.into_iter().max_by_key(|(_, count)| *count).map(|(group_row, _)| group_row)
}

/// Names the job of such a group in why the change does not fit: while that is not over its machine can neither go nor, after a boot, come back.
pub(super) fn name_job_to_stop(rejection: &mut Rejection, cell: &Cell, group_row: u32) {
    let job = cell.groups().get(group_row).and_then(|group| cell.job_in(group.job_slot));
    if let Some(job) = job {
        let (namespace, name) = (&job.shape.namespace, &job.shape.name);
        rejection.message += &format!(
            "; here it helps to stop the job {namespace}/{name}: its tasks share the machine, and all that are done would run again"
        );
    }
}

/// Live tasks of a group that go when it has fewer.
fn gone(cell: &Cell, job: &Job, group: u16, count: u32) -> usize {
    let group = cell.group(job, group);
    group.map_or(0, |group| group.count.saturating_sub(count).min(group.tasks_in(TaskState::Live)) as usize)
}

/// Why a request is not even decided: it would stop or end more at once than one may set off (`CommitOptions::effect_bytes`).
///
/// The end of a job, whether it failed or was stopped, is not looked at: the core stops its tasks in steps.
pub(super) fn too_much(cell: &Cell, asked: &Asked, bytes_max: usize) -> Option<Rejection> {
    let mut others = 0;
    let (allocations, instead) = match &asked.request().command {
        Command::ScaleJob { job, group, count, .. } => {
            (gone(cell, cell.job(*job)?, *group, *count), "scale it down in smaller steps")
        }
        Command::SubmitJob { shape, .. } => {
            let job = cell.job_named(&shape.namespace, &shape.name).filter(|job| !job.state.is_final())?;
            let gone = (0..).zip(&shape.groups).map(|(group, shape)| gone(cell, job, group, shape.count)).sum();
            (gone, "scale it down in smaller steps")
        }
        Command::RemoveMachine { machine, .. } => {
            let machine = cell.machine(*machine)?;
            let row = cell.machine_row(machine.id.slot)?;
            (row.allocations.into(), "stop some of its allocations first")
        }
        Command::RegisterMachine(FoundMachine { name, boot_id, inventory, .. }) => {
            // Besides the ends: what is asked, what each receipt tells of restarts and sets off in its job, and the mates that a failure stops.
            let failed = inventory.iter().filter(|item| item.state == AllocationState::Failed).count();
            let restarted = inventory.iter().filter(|item| item.restarts > 0).count();
            others = asked.logged_bytes() + failed * RECEIPT_BYTES + restarted * CHANGE_BYTES + bytes_max / 8;
            let machine = cell.machine_named(name)?;
            let rebooted = machine.boot_id != BootId::from(boot_id.as_ref());
            let row = cell.machine_row(machine.id.slot).filter(|_| rebooted)?;
            (row.allocations.into(), "its machine has booted: remove it, so that it comes back as a new one")
        }
        _ => return None,
    };
    let bytes = allocations * STOP_BYTES + others;
    if allocations == 0 || bytes <= bytes_max {
        return None;
    }
    let or = or_larger_segments(bytes_max, CommitOptions::default().effect_bytes);
    let message = format!(
        "it would stop or end {allocations} allocations at once, which may come to {bytes} bytes in the log, and a request may \
         come to {bytes_max}; {instead}{or}"
    );
    Some(Rejection::new(RejectionCode::LimitReached, message))
}

/// How many stops are surely within so many bytes in the log.
pub(crate) fn stops_within(bytes: usize) -> usize {
    (bytes / LOST_BYTES).max(1)
}

/// How many of these reports, the first ones, are surely within so many bytes in the log as one request; the first one always is
/// among them.
pub(crate) fn reports_within<'a>(
    reports: impl IntoIterator<Item = &'a [Transition]>,
    transitions_max: usize,
    bytes_max: usize,
) -> usize {
    let (mut count, mut transitions, mut bytes) = (0, 0, 2 * AROUND_BYTES);
    for report in reports {
        transitions += report.len();
        bytes += report.iter().map(transition_bytes).sum::<usize>();
        if count > 0 && (transitions > transitions_max || bytes > bytes_max) {
            break;
        }
        count += 1;
    }
    count
}

/// The first of these reports, as many of them as are surely within so many bytes as one request; the first one always is.
pub(crate) fn first_within(report: &[Transition], bytes_max: usize) -> usize {
    let mut bytes = 2 * AROUND_BYTES;
    let within = report.iter().take_while(|transition| {
        bytes += transition_bytes(transition);
        bytes <= bytes_max
    });
    within.count().max(1).min(report.len())
}

/// The state of a job that failed, without its reason, and the end of its hold.
const FAILURE_BYTES: usize = 64;
/// What stands around the reason of a task's failure in that of its job, and most bytes of that.
const FAILURE_WORDS_BYTES: usize = 96 + plenum_proto::bounds::NAME_BYTES_MAX;
const FAILURE_REASON_MAX: usize = plenum_proto::bounds::TEXT_BYTES_MAX;

/// A transition as it is asked for, and what it changes. One that ends its allocation may change its task, too, and end its job; what it
/// tells of restarts may be a move, which has room beside these two.
fn transition_bytes(transition: &Transition) -> usize {
    let asked = TRANSITION_BYTES + transition.reason.len();
    if !transition.state.is_end() {
        // Its word is remembered, too.
        return asked + CHANGE_BYTES + transition.reason.len();
    }
    let ended = 2 * CHANGE_BYTES + transition.reason.len();
    asked + ended + FAILURE_BYTES + (FAILURE_WORDS_BYTES + transition.reason.len()).min(FAILURE_REASON_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use plenum_model::{
        AllocationId, AllocationState, AllocationStatus, Delta, End, JobId, LogTime, MachineId, Move, Placement,
        Request, Revision, TaskChange, Transaction,
    };
    use std::sync::Arc;

    /// Bytes of a delta for each of a thousand allocations that leave or end for a reason.
    fn bytes_each(ends: bool, reason: &str) -> usize {
        let (reason, slots) = (Some(Arc::from(reason)), (u32::MAX >> 6) - 1000..u32::MAX >> 6);
        let mut delta = Delta::new(Revision(1), LogTime::default());
        for slot in slots {
            if ends {
                let (state, exit_code) = (AllocationState::EndedLost, 0);
                delta.ends.push(End { slot, state, exit_code, reason: reason.clone() });
            } else {
                let status = AllocationStatus { state: AllocationState::Stopping, ready: false };
                delta.moves.push(Move { slot, status, restarts: u32::MAX, reason: reason.clone() });
            }
        }
        let mut out = Vec::new();
        plenum_proto::delta::encode(&delta, &mut out);
        out.len().div_ceil(1000)
    }

    // They were counted as forty bytes, and some were twice as many.
    #[test]
    fn what_is_counted_for_stops_and_ends_is_no_less_than_they_come_to() {
        for reason in ["another task of the job failed", "stopped by a request", "the job was scaled down"] {
            assert!(bytes_each(false, reason) <= STOP_BYTES, "{} for {reason}", bytes_each(false, reason));
        }
        for reason in ["the machine was removed", "the machine rebooted"] {
            assert!(bytes_each(true, reason) <= STOP_BYTES, "{} for {reason}", bytes_each(true, reason));
        }
        let longest = "x".repeat(plenum_proto::bounds::NAME_BYTES_MAX);
        let lost = bytes_each(false, &format!("{longest} is unreachable"));
        assert!(lost <= LOST_BYTES, "{lost}");
        let evicted = bytes_each(false, &format!("evicted for {longest}/{longest}"));
        assert!(evicted <= VICTIM_BYTES, "{evicted}");
    }

    #[test]
    fn what_is_counted_for_a_failure_has_room_for_its_restarts_and_its_task() {
        let mut delta = Delta::new(Revision(1), LogTime::default());
        for number in 0..1000 {
            let slot = (u32::MAX >> 6) - number;
            let status = AllocationStatus { state: AllocationState::Running, ready: true };
            delta.moves.push(Move { slot, status, restarts: u32::MAX, reason: None });
            delta.ends.push(End { slot, state: AllocationState::Failed, exit_code: i32::MIN, reason: None });
            // A group each.
            let state = TaskState::Waiting;
            delta.tasks.push(TaskChange { group_row: slot, task: u32::MAX >> 6, state, failures: u8::MAX });
        }
        let mut out = Vec::new();
        plenum_proto::delta::encode(&delta, &mut out);
        assert!(out.len() <= 1000 * 2 * CHANGE_BYTES, "{}", out.len());
    }

    // From 12,200 placements of one claim on they were refused with the usual segments, as each was counted as a refusal of its own.
    #[test]
    fn a_transaction_of_as_many_claims_as_there_may_be_has_room_in_the_log_however_they_are_placed() {
        let placement = |slot| Placement {
            job: JobId { slot, generation: u32::MAX },
            machines: vec![u32::MAX >> 6],
            tasks: vec![u32::MAX >> 6],
            ..Placement::default()
        };
        let slots = (0..u32::MAX >> 6).rev().take(plenum_model::CLAIMS_MAX);
        let transaction = Transaction { placements: slots.map(placement).collect(), ..Transaction::default() };
        let command = Command::Commit(Box::new(transaction), 0);
        let asked = Asked::new(Request { principal: "batch".into(), namespace: "default".into(), command });
        let (found, most) = (asked.logged_bytes(), crate::options::Settings::default().logged_bytes_max());
        assert!(found <= most, "{found} of {most}");
    }

    fn report(transitions: usize, reason: &str) -> Vec<Transition> {
        let transition = Transition {
            machine: MachineId { slot: u32::MAX >> 6, generation: u32::MAX },
            epoch: u32::MAX,
            allocation: AllocationId { slot: u32::MAX >> 6, generation: u32::MAX },
            state: AllocationState::Failed,
            ready: true,
            exit_code: -1,
            restarts: u32::MAX,
            reason: reason.into(),
        };
        vec![transition; transitions]
    }

    #[test]
    fn reports_are_gathered_by_their_bytes_and_what_is_gathered_fits() {
        let reports: Vec<_> = (0..100).map(|_| report(100, &"x".repeat(255))).collect();
        let slices = || reports.iter().map(Vec::as_slice);
        let bytes_max = 1 << 20;
        let count = reports_within(slices(), 65_536, bytes_max);
        assert!((10..20).contains(&count), "{count}");
        let command = Command::ReportStatus(reports[..count].concat());
        let asked = Asked::new(Request { principal: "agents".into(), namespace: "".into(), command });
        assert!(asked.logged_bytes() <= bytes_max);
        // Of states that are no ends, words and numbers were reckoned at half of what they come to: all who were gathered were refused.
        let mut running = report(65_536, &"x".repeat(255));
        running.iter_mut().for_each(|transition| transition.state = AllocationState::Running);
        let first = first_within(&running, bytes_max);
        let command = Command::ReportStatus(running[..first].to_vec());
        let asked = Asked::new(Request { principal: "agents".into(), namespace: "".into(), command });
        assert!(first > 1000 && asked.logged_bytes() <= bytes_max, "{first}: {}", asked.logged_bytes());
        assert_eq!(reports_within(slices(), 250, usize::MAX), 2);
        assert_eq!(reports_within(slices(), 10, 10), 1);
        assert_eq!(reports_within([], 10, 10), 0);
    }
}

//! Room in the log: how much a request may come to there, with its answer and what it changes.

use plenum_model::{Cell, Command, Rejection, RejectionCode, TaskState, Transition};

use super::Asked;

/// A refusal with four culprits under the longest names.
const REFUSAL_BYTES: usize = 560;
/// A grant, an end or a move in a delta, without texts.
const CHANGE_BYTES: usize = 64;
/// A transition as it is asked for, without its reason.
const TRANSITION_BYTES: usize = 64;
/// Names, times and lengths around it all.
const AROUND_BYTES: usize = 4096;

impl Asked {
    /// Bytes in the log at most: asked, answered, and in the delta. What is asked comes again in the delta at worst. What a request
    /// sets off elsewhere, as the failure of a job does in its tasks, is not in it: that is bounded apart.
    #[must_use]
    pub fn logged_bytes_max(&self) -> usize {
        let extra = match &self.request().command {
            Command::Commit(transaction, _) => {
                let claims: usize = transaction.placements.iter().map(|placement| placement.machines.len()).sum();
                let preempted: usize = transaction.placements.iter().map(|placement| placement.preemptions.len()).sum();
                let others = preempted + transaction.stops.len();
                (claims + transaction.placements.len() + 1) * (REFUSAL_BYTES + CHANGE_BYTES) + others * CHANGE_BYTES
            }
            Command::ReportStatus(transitions) => transitions.len() * CHANGE_BYTES,
            _ => 0,
        };
        2 * self.encoded_bytes() + extra + AROUND_BYTES
    }
}

/// What a stop in a delta comes to, with its reason.
const STOP_BYTES: usize = 40;

/// Why a request is not decided: it would stop or end more at once than a frame of the log holds. Decided, it could not be written, and
/// the server would have to end.
///
/// The end of a job, whether it failed or was stopped, is not looked at: the core stops its tasks in steps.
pub(super) fn too_much(cell: &Cell, command: &Command, bytes_max: usize) -> Option<Rejection> {
    let (allocations, instead) = match command {
        Command::ScaleJob { job, group, count } => {
            let group = cell.group(cell.job(*job)?, *group)?;
            let gone = group.count.saturating_sub(*count).min(group.tasks_in(TaskState::Live));
            (gone as usize, "scale it down in smaller steps")
        }
        Command::RemoveMachine(machine) => {
            let machine = cell.machine(*machine)?;
            let row = cell.machine_row(machine.id.slot)?;
            (row.allocations.into(), "stop some of its allocations first")
        }
        _ => return None,
    };
    let bytes = allocations * STOP_BYTES;
    if bytes <= bytes_max {
        return None;
    }
    let message = format!(
        "it would stop {allocations} allocations at once, which may come to {bytes} bytes in the log, and a request may \
         come to {bytes_max}; {instead}, or set larger segment_bytes"
    );
    Some(Rejection::new(RejectionCode::LimitReached, message))
}

/// How many stops are surely within so many bytes in the log.
pub(crate) fn stops_within(bytes: usize) -> usize {
    (bytes / STOP_BYTES).max(1)
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

fn transition_bytes(transition: &Transition) -> usize {
    2 * (TRANSITION_BYTES + transition.reason.len()) + CHANGE_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use plenum_model::{AllocationId, AllocationState, MachineId, Request};

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
        assert!(asked.logged_bytes_max() <= bytes_max);
        assert_eq!(reports_within(slices(), 250, usize::MAX), 2);
        assert_eq!(reports_within(slices(), 10, 10), 1);
        assert_eq!(reports_within([], 10, 10), 0);
    }
}

//! Room in the log: how much a request may come to there, with its answer and what it changes.

use plenum_model::{Command, Transition};

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
    /// sets off elsewhere, as the end of a job does in its tasks, is not in it: nobody knows before it is decided.
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

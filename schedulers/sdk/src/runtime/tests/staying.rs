//! What is said of tasks that stay where they are.

use plenum_model::{Delta, JobChange, JobId, LogTime, Revision};

use super::refusing::{Eager, encoded_deltas, refusals_of};
use super::too_large::{given, with_work};
use super::*;
use crate::scheduler::PassedOver;

const SECOND_MICROS: i64 = 1_000_000;

/// Claims the first machine for all its work, and says all the time that tasks of the same group stay where they are.
struct Staying;

impl Scheduler for Staying {
    fn name(&self) -> &str {
        "idle"
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let mut decision = Eager.decide(view);
        let (job, reason) = (JobId { slot: 0, generation: 1 }, "no other machine takes it".to_owned());
        decision.staying.push(PassedOver { job, group: 0, tasks: 1, reason });
        decision.again_after(1);
        decision
    }
}

/// People read why a task stays as what another one of its group waits for: it went over what that was refused for.
#[test]
fn why_tasks_stay_never_goes_over_what_others_of_their_group_wait_for() {
    let (mut runtime, mut outputs) = with_work(Staying, 0);
    let (mut revision, mut reasons) = (4, Vec::new());
    for now in (0..10 * SECOND_MICROS).step_by(100_000) {
        let mut inbox = refusals_of(std::mem::take(&mut outputs), &mut revision, &mut reasons);
        if now == 5 * SECOND_MICROS {
            revision += 1;
            let mut none_waits = Delta::new(Revision(revision), LogTime::from_micros(5));
            none_waits.jobs.push(JobChange::Group { row: 0, count: 0, not_before: LogTime::default(), task_base: 0 });
            inbox.extend(encoded_deltas(&[none_waits]));
        }
        for message in inbox {
            outputs.extend(given(&mut runtime, now, message));
        }
        outputs.extend(runtime.handle(now, Input::Tick));
    }
    // While an attempt is on its way there may be nothing to say.
    reasons.retain(|reason| !reason.is_empty());
    reasons.dedup();
    assert_eq!(reasons, ["refused at the commit, and tried again in a moment: NO_ROOM", "no other machine takes it"]);
}

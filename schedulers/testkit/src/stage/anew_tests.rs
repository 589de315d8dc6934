//! Stories of gangs that begin anew as a whole, with the scheduler that `docs/schedulers.md` has for them.

use std::collections::BTreeSet;

use plenum_model::TaskState;
use plenum_sdk::{Decision, Ended, Plan, Scheduler, View};

use super::tests::job;
use super::*;

/// Places everything on the first machine. A gang of which some tasks are gone it stops, to place all of them at once.
struct BeginsAnew;

impl Scheduler for BeginsAnew {
    fn name(&self) -> &str {
        "blue"
    }

    fn decides_unasked(&self) -> bool {
        true
    }

    fn decides_after(&self, ended: &Ended) -> bool {
        ended.state != AllocationState::Complete
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let (cell, mut decision, mut anew) = (view.cell(), Decision::default(), BTreeSet::new());
        for job in cell.jobs().filter(|job| view.looks_after(job)) {
            for (group, shape) in job.group_positions().zip(&job.shape.groups) {
                let Some(row) = cell.group(job, group).filter(|row| shape.min >= row.count) else { continue };
                if row.tasks_in(TaskState::Done) > 0 || !(1..row.count).contains(&row.tasks_there()) {
                    continue;
                }
                anew.insert((job.id, group));
                let mut plan = Plan::incremental();
                for found in (0..row.count).filter_map(|task| view.allocation_of(job, group, task)) {
                    if !view.may_be_stopped(found.id) {
                        plan.stop(found.id);
                    }
                }
                decision.commit(plan);
            }
        }
        let mut plan = Plan::incremental();
        for work in view.work() {
            if anew.contains(&(work.job.id, work.group)) {
                decision.pass_over(work, work.tasks.len(), "all of it begins anew");
                continue;
            }
            plan.claim(work, &work.tasks, &vec![0; work.tasks.len()]);
        }
        decision.commit(plan);
        decision.again_after(1_000_000);
        decision
    }
}

fn leaving(stage: &Stage) -> Vec<AllocationId> {
    stage.cell().allocations().filter(|found| found.status.state.is_leaving()).map(|found| found.id).collect()
}

// Where another one still left, nothing of the gang was offered: who looked for it among the work alone let the rest run on, which waited for the two.
#[test]
fn a_gang_of_which_a_task_failed_is_stopped_and_begins_anew_also_while_another_one_leaves() {
    for another_leaves in [false, true] {
        let mut stage = Stage::new();
        stage.machine("m1", 4000, &[]);
        stage.seat(BeginsAnew);
        let gang = stage.submit(&job("gang", "blue", 4).min(4).single_instance());
        stage.advance(10_000);
        let first: Vec<_> = stage.cell().allocations().map(|found| found.id).collect();
        assert_eq!((first.len(), stage.placed(gang).len()), (4, 4));
        first.iter().for_each(|&allocation| stage.report(allocation, AllocationState::Running, 0));
        if another_leaves {
            stage.ask("owner", Command::StopAllocation(first[0]));
        }
        stage.report(first[1], AllocationState::Failed, 1);
        stage.advance(200_000);
        assert_eq!((stage.placed(gang), leaving(&stage).len()), (vec![], 3), "another one leaves: {another_leaves}");
        for allocation in leaving(&stage) {
            stage.report(allocation, AllocationState::Stopped, 143);
        }
        stage.advance(2_000_000);
        let attempts: Vec<_> = stage.cell().allocations().map(|found| found.row.attempt).collect();
        assert_eq!((stage.placed(gang).len(), attempts), (4, vec![2; 4]));
    }
}

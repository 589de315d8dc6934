//! What of a job room may be held for.

use std::sync::Arc;

use plenum_model::{Job, TaskState, WantedGroup, wanted};

use super::Sight;
use super::aim::Aim;

/// Most tasks of a group without a minimum for which room is held at once: a hold ends with the first grant, and the others ask again.
const TASKS_MAX: u32 = 64;

/// So many groups of a job are looked at, at most: each that fits nowhere takes a walk over all machines.
const GROUPS_MAX: usize = 8;

/// What waits of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Need {
    pub(super) version: u32,
    pub(super) group: u16,
    /// So many tasks are to be placed.
    pub(super) count: u32,
    /// All of them at once.
    pub(super) is_gang: bool,
}

/// What of a job room may be held for, in the order of its groups: of those that start with so many at once and have them waiting, or else of all that have any. Empty where
/// nothing may be placed now. After refusals it is for ever fewer tasks, where not all are needed at once: a quota, which has to have room for all of a hold, may have some for
/// these.
pub(super) fn needs_of(sight: &Sight<'_>, job: &Job, refused: u32) -> Vec<Need> {
    let need = |group: WantedGroup<'_>| {
        let waiting = group.row.tasks_in(TaskState::Waiting);
        let least = group.least(job);
        let is_gang = least > 0;
        let some = waiting.min(TASKS_MAX).checked_shr(refused).unwrap_or(0).max(1);
        let count = if is_gang { least } else { some };
        let (version, group) = (job.version, group.group);
        (waiting >= count).then_some(Need { version, group, count, is_gang })
    };
    let mut needs: Vec<Need> = wanted(sight.cell, job, sight.log_time).filter_map(need).collect();
    if needs.iter().any(|need| need.is_gang) {
        needs.retain(|need| need.is_gang);
    }
    needs.truncate(GROUPS_MAX);
    needs
}

/// The first of these for which there would be room if all machines were empty, and what is to be held for it.
pub(super) fn first_that_fits(sight: &Sight<'_>, job: &Arc<Job>, needs: &[Need]) -> Option<(Need, Aim)> {
    let aim_of = |need: &Need| Aim::of(sight.cell, job, need.group, (need.count, need.is_gang));
    needs.iter().find_map(|need| Some((*need, aim_of(need)?)))
}

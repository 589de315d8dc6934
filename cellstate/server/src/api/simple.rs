//! For schedulers that keep no mirror: what they may place, by calls of their own.

use std::cmp::Reverse;
use std::sync::Arc;

use plenum_model::{Cell, Job, LogTime, TaskState, wanted};
use plenum_proto::v1;

use super::listing::Room;
use crate::sessions::Owner;

/// What a scheduler may place: of its jobs, in the order of their turn, at most so many tasks, and one group that needs more at once than is left of
/// these.
pub(super) fn wanted_of(cell: &Cell, owner: &Owner, now: LogTime, tasks_max: usize) -> v1::WantedResponse {
    let is_own = |job: &Job| job.shape.is_served_by(&owner.scheduler, &owner.namespace);
    let cut = |response| v1::WantedResponse { truncated: true, ..response };
    let turn = |job: &Job| (Reverse(job.shape.priority), job.submitted, job.id);
    let mut jobs: Vec<&Arc<Job>> = cell.jobs().filter(|job| is_own(job)).collect();
    jobs.sort_unstable_by_key(|job| turn(job));
    let mut response = v1::WantedResponse { revision: cell.revision().0, ..Default::default() };
    let (mut tasks_left, mut room, mut has_larger) = (tasks_max, Room::new(usize::MAX), false);
    for job in jobs {
        let mut shapes = None;
        for group in wanted(cell, job, now) {
            let position = usize::from(group.group);
            let least = job.shape.groups.get(position).map_or(0, |shape| shape.least_at_once(group.row));
            // So few of what is needed at once wait, as the others wait for their predecessors, that none can be placed.
            if group.row.tasks_in(TaskState::Waiting) < least {
                continue;
            }
            if tasks_left == 0 {
                return cut(response);
            }
            // A part of what is needed at once is of no use. The first group that needs more than is left comes whole: what is before it may fit nowhere,
            // for ever. It counts as one task, so that there are no more groups than tasks were asked for. Further ones of its kind, of which each may have as
            // many tasks as a transaction has claims, come once it is placed; those behind them need not wait for that.
            let is_larger = least as usize > tasks_left;
            if is_larger && has_larger {
                response.truncated = true;
                continue;
            }
            has_larger |= is_larger;
            let mut tasks = group.tasks();
            let told: Vec<u32> = tasks.by_ref().take(tasks_left.max(least as usize)).collect();
            tasks_left -= if is_larger { 1 } else { told.len() };
            let shapes = shapes.get_or_insert_with(|| v1::JobShape::from(&*job.shape).groups);
            let row = v1::WantedGroup {
                job: job.id.to_bits(),
                job_version: job.version,
                namespace: job.shape.namespace.to_string(),
                job_name: job.shape.name.to_string(),
                priority: job.shape.priority.into(),
                group: group.group.into(),
                shape: shapes.get(position).cloned(),
                tasks: told,
                least,
                same_machine: job.shape.same_machine,
                home: job.home.map_or(0, |slot| slot + 1),
            };
            let has_more = tasks.next().is_some();
            if !room.takes(&row) {
                return cut(response);
            }
            response.groups.push(row);
            response.truncated |= has_more;
        }
    }
    response
}

//! For schedulers that keep no mirror: what they may place, by calls of their own.

use std::cmp::Reverse;
use std::sync::Arc;

use plenum_model::{Cell, Job, LogTime, TaskState, wanted};
use plenum_proto::v1;

use super::listing::Room;
use crate::sessions::Owner;

/// What a scheduler may place: of its jobs, in the order of their turn, at most so many tasks.
pub(super) fn wanted_of(cell: &Cell, owner: &Owner, now: LogTime, tasks_max: usize) -> v1::WantedResponse {
    let is_own = |job: &Job| job.shape.is_served_by(&owner.scheduler, &owner.namespace);
    let cut = |response| v1::WantedResponse { truncated: true, ..response };
    let turn = |job: &Job| (Reverse(job.shape.priority), job.submitted, job.id);
    let mut jobs: Vec<&Arc<Job>> = cell.jobs().filter(|job| is_own(job)).collect();
    jobs.sort_unstable_by_key(|job| turn(job));
    let mut response = v1::WantedResponse { revision: cell.revision().0, ..Default::default() };
    let (mut tasks_left, mut room) = (tasks_max, Room::new(usize::MAX));
    for job in jobs {
        let mut shapes = None;
        for group in wanted(cell, job, now) {
            let position = usize::from(group.group);
            let least = job.shape.groups.get(position).map_or(0, |shape| shape.least_at_once(group.row));
            // So few of what is needed at once wait, as the others wait for their predecessors, that none can be placed.
            if group.row.tasks_in(TaskState::Waiting) < least {
                continue;
            }
            let mut tasks = group.tasks();
            let most = tasks_left.max(if response.groups.is_empty() { least as usize } else { 0 });
            let told: Vec<u32> = tasks.by_ref().take(most).collect();
            // A part of what is needed at once is of no use. It has its turn in an answer of its own.
            if told.len() < (least as usize).max(1) {
                return cut(response);
            }
            tasks_left = tasks_left.saturating_sub(told.len());
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
            if has_more {
                return cut(response);
            }
        }
    }
    response
}

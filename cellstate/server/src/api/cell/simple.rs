//! For schedulers that keep no mirror: what they may place, by calls of their own.

use std::cmp::Reverse;
use std::sync::Arc;

use plenum_model::{Cell, GroupShape, Job, LogTime, wanted};
use plenum_proto::v1;

use crate::api::listing::Room;
use crate::sessions::Owner;

/// What a scheduler may place: of its jobs, in the order of their turn and from this job and group on, at most so many tasks, and one group that needs
/// more at once than is left of these.
pub(super) fn wanted_of(
    cell: &Cell,
    owner: &Owner,
    now: LogTime,
    tasks_max: usize,
    (start_job, start_group): (u64, u32),
) -> v1::WantedResponse {
    let is_own = |job: &Job| job.shape.is_served_by(&owner.scheduler, &owner.namespace);
    let turn = |job: &Job| (Reverse(job.shape.priority), job.submitted, job.id);
    let mut jobs: Vec<&Arc<Job>> = cell.jobs().filter(|job| is_own(job)).collect();
    jobs.sort_unstable_by_key(|job| turn(job));
    let is_start = |job: &Job| job.id.to_bits() == start_job;
    let before = jobs.iter().position(|job| is_start(job)).unwrap_or(0);
    let mut response = v1::WantedResponse { revision: cell.revision().0, ..Default::default() };
    let (mut tasks_left, mut room, mut has_larger) = (tasks_max, Room::new(usize::MAX), false);
    for job in jobs.into_iter().skip(before) {
        let mut shapes = None;
        let first_group = if is_start(job) { start_group } else { 0 };
        for group in wanted(cell, job, now).filter(|group| u32::from(group.group) >= first_group) {
            let position = usize::from(group.group);
            let least = group.least(job);
            // So few of what is needed at once wait, as the others wait for their predecessors, that none can be placed.
            if group.tasks().take(least as usize).count() < least as usize {
                continue;
            }
            if tasks_left == 0 {
                leave_out(&mut response, job, group.group);
                return response;
            }
            // A part of what is needed at once is of no use. The first group that needs more than is left comes whole: what is before it may fit nowhere,
            // for ever. It counts as one task, so that there are no more groups than tasks were asked for. Further ones of its kind, of which each may have as
            // many tasks as a transaction has claims, come once it is placed, or to who goes on there; those behind them need not wait for that.
            let is_larger = least as usize > tasks_left;
            if is_larger && has_larger {
                leave_out(&mut response, job, group.group);
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
            let memory_bytes = job.shape.groups.get(position).map_or(0, GroupShape::kept_bytes);
            if !room.takes_shaped(&row, row.shape.as_ref(), memory_bytes) {
                leave_out(&mut response, job, group.group);
                return response;
            }
            response.groups.push(row);
            response.truncated |= has_more;
        }
    }
    response
}

/// Says that a group is not named: the first of them is where to go on. It is never the first one that was to be named, so that who goes on gets round.
fn leave_out(response: &mut v1::WantedResponse, job: &Job, group: u16) {
    response.truncated = true;
    if response.next_job == 0 {
        (response.next_job, response.next_group) = (job.id.to_bits(), group.into());
    }
}

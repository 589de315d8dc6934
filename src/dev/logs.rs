//! The last lines that tasks printed, for the end of a run.

use std::cmp::Reverse;

use plenum_proto::v1::{AllocationState, AllocationView, JobView, ListAllocationsRequest, ListRequest, LogsRequest};

use crate::{cli::is_of, connect::Connection, failure::Failure};

/// Lines of each job's final group that are printed at the end.
pub(super) const LINES: usize = 20;
/// Tasks of a group that are asked for what they printed: of so many the agent of one machine keeps it, and most may have printed nothing.
const ASKED_MAX: usize = 256;
/// The longest output that is looked at for one task's last lines.
const TAIL_BYTES_MAX: usize = 1 << 20;

/// All allocations of a job as it is now, ended ones too. What its name did before, in the same cell, was told then.
pub(super) async fn allocations(connection: &Connection, job: &JobView) -> Result<Vec<AllocationView>, Failure> {
    let shape = job.shape.clone().unwrap_or_default();
    let list = ListRequest { namespace: shape.namespace, ..ListRequest::default() };
    let request = ListAllocationsRequest { list: Some(list), job: shape.name, machine: String::new(), ended: true };
    all_of(job, connection.jobs().list_allocations(request).await?.into_inner().allocations)
}

/// Those of the job; a failure where it had some and has none: they leave the cell with it.
fn all_of(job: &JobView, mut allocations: Vec<AllocationView>) -> Result<Vec<AllocationView>, Failure> {
    allocations.retain(|allocation| is_of(job, allocation));
    if allocations.is_empty() && job.groups.iter().any(|group| group.attempts > 0) {
        return Err(Failure::new("ALLOCATION_RETIRED", "the cell keeps them no longer"));
    }
    Ok(allocations)
}

/// The last lines that a group's tasks printed, in the order of the tasks; of each task, its last successful allocation: where one machine has all
/// tasks of a job and was lost, what was done is done again. What can't be read, such as because its agent keeps it no longer, is missing, and the
/// first reason is given: no job ends otherwise for that.
pub(super) async fn last_lines(
    group: &str,
    allocations: &[AllocationView],
    mut tail: impl AsyncFnMut(u64, usize) -> Result<Vec<u8>, Failure>,
) -> (Vec<u8>, Option<Failure>) {
    let mut tasks: Vec<&AllocationView> = allocations
        .iter()
        .filter(|allocation| allocation.group == group && allocation.state() == AllocationState::Complete)
        .collect();
    // The last one first.
    tasks.sort_by_key(|allocation| Reverse((allocation.task, allocation.attempt)));
    tasks.dedup_by_key(|allocation| allocation.task);
    let (mut printed, mut unread): (Vec<Vec<u8>>, _) = (Vec::new(), None);
    // From the last task backwards, as far as is needed: a group may have thousands.
    for allocation in tasks.iter().take(ASKED_MAX) {
        let have: usize = printed.iter().map(|text| line_count(text)).sum();
        if have >= LINES {
            break;
        }
        match tail(allocation.id, LINES - have).await {
            Ok(text) => printed.push(text),
            Err(failure) => {
                unread.get_or_insert(failure);
            }
        }
    }
    printed.reverse();
    (printed.concat(), unread)
}

/// The last lines of one task's output, each ended.
pub(super) async fn tail(
    connection: &Connection,
    allocation: u64,
    stderr: bool,
    lines: usize,
) -> Result<Vec<u8>, Failure> {
    let tail_lines = u32::try_from(lines).unwrap_or(u32::MAX);
    let request = LogsRequest { allocation, stderr, tail_lines, ..LogsRequest::default() };
    let mut chunks = connection.jobs().logs(request).await?.into_inner();
    let mut text = Vec::new();
    while let Some(chunk) = chunks.message().await? {
        text.extend_from_slice(&chunk.data);
        let excess = text.len().saturating_sub(TAIL_BYTES_MAX);
        text.drain(..excess);
    }
    Ok(last(&text, lines))
}

/// The last lines of a text, each ended.
fn last(text: &[u8], lines: usize) -> Vec<u8> {
    let mut ended = text.to_vec();
    if ended.last().is_some_and(|byte| *byte != b'\n') {
        ended.push(b'\n');
    }
    let excess = line_count(&ended).saturating_sub(lines);
    let start = ended.split_inclusive(|byte| *byte == b'\n').take(excess).map(<[u8]>::len).sum();
    ended.split_off(start)
}

fn line_count(text: &[u8]) -> usize {
    text.iter().filter(|byte| **byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use plenum_proto::v1::GroupView;

    use super::*;

    #[test]
    fn what_a_job_of_the_same_name_or_an_earlier_version_printed_is_not_told_again() {
        let job = JobView { id: 7, version: 2, ..JobView::default() };
        let of = |job_id, job_version| AllocationView { job_id, job_version, ..AllocationView::default() };
        assert_eq!([of(7, 2), of(7, 1), of(6, 2)].map(|allocation| is_of(&job, &allocation)), [true, false, false]);
    }

    #[test]
    fn allocations_that_have_left_the_cell_are_missed() {
        let job =
            |attempts| JobView { groups: vec![GroupView { attempts, ..GroupView::default() }], ..JobView::default() };
        assert_eq!(all_of(&job(0), Vec::new()), Ok(Vec::new()));
        assert_eq!(all_of(&job(3), Vec::new()).unwrap_err().code, "ALLOCATION_RETIRED");
        assert!(all_of(&job(3), vec![AllocationView::default()]).is_ok());
    }

    // A job of 500 tasks that printed nothing was complete, and the run failed with NO_LOGS: an agent keeps the output of 256.
    #[test]
    fn what_cannot_be_read_any_more_is_missing_and_no_failure_of_the_run() {
        let complete = |task: u32| AllocationView {
            id: task.into(),
            task,
            group: "main".to_owned(),
            state: AllocationState::Complete.into(),
            ..AllocationView::default()
        };
        let allocations: Vec<AllocationView> = (0..500).map(complete).collect();
        let mut asked = Vec::new();
        let read = crate::cli::block_on(last_lines("main", &allocations, async |id, _| {
            asked.push(id);
            match id {
                490 => Ok(b"490\n".to_vec()),
                400.. => Ok(Vec::new()),
                _ => Err(Failure::new("NO_LOGS", format!("nothing of {id} is kept"))),
            }
        }));
        let Ok((text, Some(unread))) = read else { panic!("some could not be read") };
        assert_eq!((text.as_slice(), unread.message.as_str()), (b"490\n".as_slice(), "nothing of 399 is kept"));
        assert!(asked.iter().copied().eq((244..500).rev()), "the last ones, and not all");
    }

    // What a job printed was told twice.
    #[test]
    fn of_a_task_that_was_done_again_the_last_attempt_is_told() {
        let complete = |task: u32, attempt: u32, id: u64| AllocationView {
            id,
            task,
            attempt,
            group: "main".to_owned(),
            state: AllocationState::Complete.into(),
            ..AllocationView::default()
        };
        let allocations = [complete(0, 1, 1), complete(1, 2, 4), complete(0, 2, 2), complete(1, 1, 3)];
        let read =
            crate::cli::block_on(last_lines("main", &allocations, async |id, _| Ok(format!("{id}\n").into_bytes())));
        assert_eq!(read, Ok((b"2\n4\n".to_vec(), None)));
    }

    #[test]
    fn the_last_lines_are_whole_lines() {
        assert_eq!(last(b"a\nb\nc", 2), b"b\nc\n");
        assert_eq!(last(b"a\nb\n", 5), b"a\nb\n");
        assert_eq!(last(b"", 5), b"");
    }
}

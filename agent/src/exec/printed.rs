//! What ended tasks printed: kept for readers, up to a number of bytes, and as long as the disk has room. Their records stay: by these a cell that was
//! restored hears that something ran here, and does not have it run again. It knows nothing of tasks that run.

use std::{
    fs::{self, OpenOptions},
    io::ErrorKind,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::{Arc, PoisonError},
};

use super::{
    clean::ended,
    marks::Marks,
    places::{Kind, stay},
    recording::{Recording, remove_starts_before_last},
};
use crate::{
    directories::{AgentDirectory, AllocationDirectory},
    driver::Exit,
    durable,
    logs::{Segment, segment_name, segments},
};

const STREAMS: [&str; 2] = ["stdout", "stderr"];

/// How much is kept of what a task printed.
pub(super) fn bytes(directory: &AllocationDirectory) -> u64 {
    let lengths = STREAMS.iter().flat_map(|stream| segments(directory.root(), stream)).map(|segment| segment.length);
    // What a task without namespaces put there may say to have any length.
    lengths.fold(0, u64::saturating_add)
}

/// What is left of an ended allocation. Reads how it ended, where it left something.
pub(super) fn kind(directory: &AllocationDirectory) -> Kind {
    kind_by(directory, bytes(directory))
}

/// The same, where so much is kept of what it printed.
fn kind_by(directory: &AllocationDirectory, bytes: u64) -> Kind {
    if bytes == 0 {
        return Kind::Silent;
    }
    let exit: Option<Exit> = directory.last_exit().and_then(|path| durable::read(&path).ok()?);
    // Who was asked to end has not failed, whatever it made of that.
    let is_well = exit.is_some_and(|exit| exit.succeeded() || exit.stop_requested);
    if is_well { Kind::Printed } else { Kind::Failed }
}

/// Gives up what ended tasks printed, so that at most so many bytes of it are left. Whose goes is said by [`stay`].
pub(super) fn bound(agent: &AgentDirectory, bytes_max: u64, recording: &Recording) {
    let ended: Vec<_> = ended(agent).into_iter().map(|allocation| agent.allocation(allocation)).collect();
    let printed: Vec<u64> = ended.iter().map(bytes).collect();
    if printed.iter().copied().fold(0, u64::saturating_add) <= bytes_max {
        return;
    }
    let of_each = ended.iter().zip(printed).map(|(directory, bytes)| (kind_by(directory, bytes), bytes));
    let of_each: Vec<_> = of_each.collect();
    for (directory, stays) in ended.iter().zip(stay(&of_each, bytes_max)) {
        if !stays {
            give_up(directory, recording);
        }
    }
}

/// Gives up what a task printed, if it has ended still, and says how many bytes that were.
fn give_up(directory: &AllocationDirectory, recording: &Recording) -> u64 {
    let before = bytes(directory);
    if before == 0 {
        return 0;
    }
    let _recording = recording.write().unwrap_or_else(PoisonError::into_inner);
    // A restored cell may have had it started anew.
    if !directory.ended().exists() {
        return 0;
    }
    for stream in STREAMS {
        let all = segments(directory.root(), stream);
        let Some(end) = all.last().map(Segment::end) else { continue };
        // An empty file tells readers how much they miss: it is there before the others go, or else one in between would hear of none.
        let empty = directory.root().join(segment_name(stream, end));
        let is_told = is_made(&empty);
        for segment in all.iter().filter(|segment| segment.path != empty) {
            let _ = fs::remove_file(&segment.path);
        }
        if !is_told {
            // Where there was no room for it, there is now.
            is_made(&empty);
        }
    }
    before.saturating_sub(bytes(directory))
}

/// Gives up what is kept of starts before its last, if it has ended still, and says how many files that were. There are some where an earlier version marked
/// its end.
fn give_up_starts(directory: &AllocationDirectory, recording: &Recording) -> usize {
    let _recording = recording.write().unwrap_or_else(PoisonError::into_inner);
    if directory.ended().exists() { remove_starts_before_last(directory) } else { 0 }
}

/// Makes an empty file, or finds it there. It follows no link.
fn is_made(path: &Path) -> bool {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    made.map_or_else(|error| error.kind() == ErrorKind::AlreadyExists, |_| true)
}

/// Gives up what ended tasks printed where there is no room: it is worth less than tasks that can't be started.
#[derive(Clone, Debug)]
pub(crate) struct Relief {
    pub(super) agent: AgentDirectory,
    pub(super) recording: Arc<Recording>,
    pub(super) forgotten: Arc<Marks>,
}

impl Relief {
    /// Gives up what those printed that ended first, at least so many bytes, and says of how many tasks that was. Nothing where all that ended tasks
    /// printed is less: it would help nobody; nor where something else of them could go, which may do. Waits for the disk.
    pub(crate) fn give_up_oldest(&self, bytes_min: u64) -> u32 {
        // What could not be marked for want of room has ended as well.
        self.forgotten.try_again(&self.agent);
        let all: Vec<_> = ended(&self.agent).into_iter().map(|allocation| self.agent.allocation(allocation)).collect();
        let files: usize = all.iter().map(|directory| give_up_starts(directory, &self.recording)).sum();
        if files > 0 {
            tracing::info!(files, "what was kept of restarts of ended tasks was removed, as there is no room");
            return 0;
        }
        if all.iter().map(bytes).fold(0, u64::saturating_add) < bytes_min {
            return 0;
        }
        let (mut tasks, mut given_up) = (0, 0_u64);
        for directory in all {
            if given_up >= bytes_min {
                break;
            }
            let of_it = give_up(&directory, &self.recording);
            tasks += u32::from(of_it > 0);
            given_up = given_up.saturating_add(of_it);
        }
        tasks
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{
        fs::File,
        time::{Duration, SystemTime},
    };

    use plenum_model::AllocationId;

    use super::*;

    /// A task that printed so much, in two files and on both streams, and ended so long ago; or runs.
    fn task(agent: &AgentDirectory, slot: u32, printed: u64, ended_ago: Option<Duration>) -> AllocationDirectory {
        let directory = agent.allocation(AllocationId { slot, generation: 1 });
        fs::create_dir_all(directory.root()).unwrap();
        let (quarter, half) = (printed / 4, printed / 2);
        for (stream, begins_at, length) in [("stdout", 0, quarter), ("stdout", quarter, quarter), ("stderr", 0, half)] {
            let file = File::create(directory.root().join(segment_name(stream, begins_at))).unwrap();
            file.set_len(length).unwrap();
        }
        for record in [directory.spec(), directory.record(0), directory.exit(0)] {
            fs::write(record, "{}").unwrap();
        }
        if let Some(ago) = ended_ago {
            File::create(directory.ended()).unwrap().set_modified(SystemTime::now() - ago).unwrap();
        }
        directory
    }

    fn ago(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    // 256 tasks that printed all that is kept had 8 GiB after their end, on whatever disk there was.
    #[test]
    fn what_ended_tasks_printed_is_bounded_in_bytes_and_their_records_stay() {
        let place = tempfile::tempdir().unwrap();
        let agent = AgentDirectory::new(place.path().to_owned());
        let tasks = [
            task(&agent, 1, 400, ago(30)),
            task(&agent, 2, 400, None),
            task(&agent, 3, 800, ago(10)),
            task(&agent, 4, 400, ago(20)),
        ];
        let recording = Recording::default();
        bound(&agent, 1200, &recording);
        assert_eq!(tasks.each_ref().map(bytes), [0, 400, 800, 400], "the oldest goes, and not what runs");
        let oldest = &tasks[0];
        assert!([oldest.spec(), oldest.record(0), oldest.exit(0), oldest.ended()].iter().all(|path| path.exists()));
        for stream in STREAMS {
            let left = segments(oldest.root(), stream);
            assert_eq!(left.iter().map(|one| (one.begins_at, one.length)).collect::<Vec<_>>(), [(200, 0)]);
        }
        bound(&agent, 1199, &recording);
        assert_eq!(tasks.each_ref().map(bytes), [0, 400, 800, 0]);
        bound(&agent, 0, &recording);
        assert_eq!(tasks.each_ref().map(bytes), [0, 400, 0, 0]);
    }

    // One task that printed more than is kept of all took what all had printed that ended before it.
    #[test]
    fn who_printed_more_than_is_kept_of_all_takes_nothing_from_others() {
        let place = tempfile::tempdir().unwrap();
        let agent = AgentDirectory::new(place.path().to_owned());
        let tasks = [
            task(&agent, 1, 400, ago(40)),
            task(&agent, 2, 400, ago(30)),
            task(&agent, 3, 1600, ago(20)),
            task(&agent, 4, 400, ago(10)),
        ];
        bound(&agent, 1200, &Recording::default());
        assert_eq!(tasks.each_ref().map(bytes), [400, 400, 0, 400]);
    }

    // Of a sweep that printed more than is kept, what the few tasks had printed that failed early was given up first.
    #[test]
    fn what_failed_keeps_its_output_beside_more_of_what_ended_well_after_it() {
        let place = tempfile::tempdir().unwrap();
        let agent = AgentDirectory::new(place.path().to_owned());
        let tasks = [(1, 65), (2, 0), (3, 0), (4, 0)].map(|(slot, code)| {
            let directory = task(&agent, slot, 400, ago(60 - u64::from(slot)));
            let exit = Exit { code: Some(code), ..Exit::default() };
            durable::write_atomically(&directory.exit(0), &exit).unwrap();
            directory
        });
        bound(&agent, 1200, &Recording::default());
        assert_eq!(tasks.map(|directory| bytes(&directory)), [400, 0, 400, 400]);
    }

    #[test]
    fn its_latest_end_says_of_what_kind_a_task_is_that_printed_something() {
        let place = tempfile::tempdir().unwrap();
        let agent = AgentDirectory::new(place.path().to_owned());
        let directory = task(&agent, 1, 400, None);
        assert_eq!(kind(&directory), Kind::Failed, "nobody knows how it ended");
        let well = Exit { code: Some(0), ..Exit::default() };
        let failed = Exit { code: Some(3), ..Exit::default() };
        let stopped = Exit { signal: Some(15), stop_requested: true, ..Exit::default() };
        for (restart, exit, expected) in [
            (8, &well, Kind::Printed),
            (9, &failed, Kind::Failed),
            (10, &well, Kind::Printed),
            (11, &stopped, Kind::Printed),
        ] {
            durable::write_atomically(&directory.exit(restart), exit).unwrap();
            assert_eq!(kind(&directory), expected, "{exit:?}");
        }
        give_up(&task(&agent, 2, 400, ago(1)), &Recording::default());
        for silent in [task(&agent, 3, 0, ago(1)), agent.allocation(AllocationId { slot: 2, generation: 1 })] {
            assert_eq!(kind(&silent), Kind::Silent, "nothing of it is left");
        }
    }

    // The file that tells how much there was is there already where nothing came into the newest one, and where an agent ended in between.
    #[test]
    fn how_much_was_given_up_is_told_also_where_the_newest_file_is_empty() {
        let place = tempfile::tempdir().unwrap();
        let agent = AgentDirectory::new(place.path().to_owned());
        let directory = task(&agent, 1, 400, ago(10));
        let empty = directory.root().join(segment_name("stdout", 200));
        File::create(&empty).unwrap();
        assert_eq!(give_up(&directory, &Recording::default()), 400);
        let left = segments(directory.root(), "stdout");
        assert_eq!(left, [Segment { path: empty, begins_at: 200, length: 0 }]);
    }

    // On a full disk nothing was freed: no new task came, so that none ended, and only after an end anything was cleaned.
    #[test]
    fn where_there_is_no_room_the_oldest_ended_tasks_give_up_as_much_as_is_asked_for() {
        let place = tempfile::tempdir().unwrap();
        let agent = AgentDirectory::new(place.path().to_owned());
        let tasks = [
            task(&agent, 1, 400, ago(10)),
            task(&agent, 2, 400, None),
            task(&agent, 3, 400, ago(20)),
            task(&agent, 4, 0, ago(30)),
        ];
        // An end that there was no room to mark.
        let (unmarked, forgotten) = (task(&agent, 5, 400, None), Arc::new(Marks::default()));
        fs::create_dir(unmarked.ended()).unwrap();
        let allocation = AllocationId { slot: 5, generation: 1 };
        assert!(forgotten.forget(allocation));
        forgotten.mark(&unmarked, allocation);
        fs::remove_dir(unmarked.ended()).unwrap();
        let relief = Relief { agent, recording: Arc::default(), forgotten };
        for restart in [1, 2] {
            fs::write(tasks[0].exit(restart), "{}").unwrap();
            fs::write(tasks[1].exit(restart), "{}").unwrap();
        }
        let kept = || (tasks.each_ref().map(bytes), bytes(&unmarked));
        assert_eq!(relief.give_up_oldest(1), 0, "what is kept of its restarts is worth less than what it printed");
        let ends = |task: &AllocationDirectory| [0, 1, 2].map(|restart| task.exit(restart).exists());
        assert_eq!((ends(&tasks[0]), ends(&tasks[1])), ([false, false, true], [true; 3]), "the other one runs");
        assert_eq!(kept(), ([400, 400, 400, 0], 400));
        assert_eq!(relief.give_up_oldest(1201), 0, "all of it would not do");
        assert_eq!(kept(), ([400, 400, 400, 0], 400));
        for (bytes_min, many, left) in [(400, 1, ([400, 400, 0, 0], 400)), (401, 2, ([0, 400, 0, 0], 0))] {
            assert_eq!(relief.give_up_oldest(bytes_min), many);
            assert_eq!(kept(), left);
        }
        assert_eq!(relief.give_up_oldest(1), 0, "the one that is left runs");
        assert_eq!(kept(), ([0, 400, 0, 0], 0));
    }
}

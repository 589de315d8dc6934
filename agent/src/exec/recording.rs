//! Where a start becomes durable: its spec is on the disk before anything of it runs, and by that the next agent goes on with it. What is kept of earlier
//! starts goes here, too, so that the directory holds no more of them than somebody may ask for. It knows nothing of what is freed after an end.

use std::{
    fs,
    io::{self, ErrorKind},
    path::Path,
    sync::{PoisonError, RwLock},
};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, utimensat};

use crate::{
    directories::{self, AllocationDirectory},
    durable,
    shim::ShimSpec,
};

/// Starts of an allocation before its latest of which the end is kept: by these the next agent knows whether anything of it ran.
pub(super) const ENDS_KEPT: u32 = 256;

/// Writing down a start (shared) against taking away a job's directory, or what is kept of an ended allocation (exclusive): a start that was written
/// down while we looked elsewhere must not find them gone a moment later.
pub(super) type Recording = RwLock<()>;

/// Writes down a start, after which its job's directory is in use.
pub(super) fn record(directory: &AllocationDirectory, spec: &ShimSpec, recording: &Recording) -> io::Result<()> {
    let _recording = recording.read().unwrap_or_else(PoisonError::into_inner);
    directories::make(directory.root())?;
    durable::write_atomically(&directory.spec(), spec)?;
    touch(&spec.job_directory);
    remove_earlier_starts(directory, spec.task.restart);
    Ok(())
}

/// A task that fails at once may be restarted a million times: of starts before `restart`, only when the latest of them ended is kept. A
/// shim of an earlier one that is still on its way finds another number in the spec.
fn remove_earlier_starts(directory: &AllocationDirectory, restart: u32) {
    if let Some(before) = restart.checked_sub(1) {
        let _ = fs::remove_file(directory.record(before));
        let _ = fs::remove_file(directory.running(before));
    }
    if let Some(older) = restart.checked_sub(ENDS_KEPT + 1) {
        let _ = fs::remove_file(directory.exit(older));
    }
}

/// Removes what is kept of all starts; `last` is the latest whose end is written down. What is found from then on is of a start that was made anew. The
/// end of `last` goes after all else: where this is left half done, it still says that it is to be done.
///
/// # Errors
/// When something of it can't be removed.
pub(super) fn remove_starts(directory: &AllocationDirectory, last: u32) -> io::Result<()> {
    // The spec first: without a mark it would be that of a start that is still to be made.
    remove_if_there(&directory.spec())?;
    // By their names: a start that could not be written down has taken away nothing of those before it.
    let entries: Vec<_> = fs::read_dir(directory.root())?.collect::<io::Result<_>>()?;
    let last = directory.exit(last);
    let others = entries.iter().map(fs::DirEntry::path).filter(|path| *path != last && start_of(path).is_some());
    others.chain([last.clone()]).try_for_each(|file| remove_if_there(&file))
}

/// Removes what is kept of starts before the latest of which an end is written down, and says how many files that were. For what has ended for good: the
/// cell knows how, and of what is here nobody asks for more than that latest end.
pub(super) fn remove_starts_before_last(directory: &AllocationDirectory) -> usize {
    let entries = fs::read_dir(directory.root()).into_iter().flatten().flatten().map(|entry| entry.path());
    let starts: Vec<_> = entries.filter_map(|path| Some((start_of(&path)?, path))).collect();
    let ends = starts.iter().filter(|(start, path)| *path == directory.exit(*start));
    let Some(last) = ends.map(|&(start, _)| start).max() else { return 0 };
    starts.iter().filter(|(start, path)| *start < last && fs::remove_file(path).is_ok()).count()
}

/// The start of which it is the record, the mark or the end.
fn start_of(path: &Path) -> Option<u32> {
    let (kind, number) = path.file_name()?.to_str()?.split_once('-')?;
    number.parse().ok().filter(|_| ["record", "running", "exit"].contains(&kind))
}

/// # Errors
/// When it is there still.
pub(super) fn remove_if_there(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Lets a directory's time begin again. Where there is none, there is nothing to keep.
pub(super) fn touch(directory: &Path) {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let _ = utimensat(CWD, directory, &Timestamps { last_access: now, last_modification: now }, AtFlags::empty());
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::PathBuf;

    use plenum_model::AllocationId;

    use super::*;
    use crate::exec;

    // A task that was restarted 300,000 times had as many ends, records and marks in its directory, which is listed for each file of
    // output.
    #[test]
    fn of_many_restarts_the_latest_ends_are_kept() {
        let place = tempfile::tempdir().unwrap();
        let directory = AllocationDirectory::new(place.path().to_owned());
        for restart in 0..ENDS_KEPT + 20 {
            remove_earlier_starts(&directory, restart);
            for file in [directory.record(restart), directory.running(restart), directory.exit(restart)] {
                fs::write(file, "").unwrap();
            }
        }
        let names = |prefix: &str| {
            let entries = fs::read_dir(place.path()).unwrap().flatten();
            entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix)).count()
        };
        let last = ENDS_KEPT + 19;
        assert!(
            directory.record(last).exists()
                && directory.running(last).exists()
                && directory.exit(last - ENDS_KEPT).exists()
        );
        assert_eq!((names("record-"), names("running-"), names("exit-")), (1, 1, ENDS_KEPT as usize + 1));
    }

    #[test]
    fn of_what_has_ended_for_good_its_latest_end_stays() {
        let place = tempfile::tempdir().unwrap();
        let directory = AllocationDirectory::new(place.path().to_owned());
        assert_eq!(remove_starts_before_last(&directory), 0);
        let ends = [directory.exit(2), directory.exit(9), directory.exit(10)];
        // The end of its last start could not be written.
        let others = [directory.spec(), directory.record(11), directory.running(11), place.path().join("stdout-0.log")];
        for file in ends.iter().chain(&others).chain([&directory.record(9)]) {
            fs::write(file, "").unwrap();
        }
        assert_eq!(remove_starts_before_last(&directory), 3);
        assert!(others.iter().all(|file| file.exists()));
        assert_eq!((directory.last_ended().unwrap(), ends[0].exists(), ends[1].exists()), (Some(10), false, false));
        assert_eq!(remove_starts_before_last(&directory), 0);
    }

    // An agent died before it had written the next spec down. The one after it took that of an earlier life of the cell for a start that was still to be made.
    #[test]
    fn what_an_earlier_life_of_the_cell_wrote_down_of_a_task_goes_as_a_whole() {
        let place = tempfile::tempdir().unwrap();
        let directory = AllocationDirectory::new(place.path().join("task"));
        let spec = exec::shim_spec(AllocationId { slot: 1, generation: 1 }, place.path().join("job"));
        record(&directory, &spec, &Recording::default()).unwrap();
        for file in [directory.exit(0), directory.exit(1), directory.record(1), directory.running(1)] {
            fs::write(file, "").unwrap();
        }
        // Its end could not be written.
        fs::write(directory.record(2), "").unwrap();
        remove_starts(&directory, 1).unwrap();
        let left: Vec<_> = fs::read_dir(directory.root()).unwrap().flatten().map(|entry| entry.path()).collect();
        assert_eq!(left, Vec::<PathBuf>::new());
    }
}

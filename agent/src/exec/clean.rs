//! Freeing what is kept no longer: ended allocations that have no place any more, what others of these printed, and shared directories of jobs that
//! nothing here needs.
//!
//! The agent is not told when a job is over. So a job's directory stays as long as an allocation of it is kept, and then for a day: a
//! group that comes `after` another one finds its files, however long that one ran. Most jobs have none there, and an empty directory does not stay
//! for that day: the next start makes it anew.

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::{
        PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use plenum_model::AllocationId;

use super::{
    ExecOptions, places, printed,
    recording::{Recording, touch},
    recover,
};
use crate::{
    directories::{AgentDirectory, AllocationDirectory, PROBE_OF_ALLOCATIONS},
    durable,
    removal::remove_tree,
    shim::ShimSpec,
};

/// Job directories with files, and without a kept allocation, stay this long: a later group of the job may still come.
const JOB_DIRECTORY_KEPT: Duration = Duration::from_secs(24 * 3600);
/// How names begin, beside the directories of allocations and of jobs, of what is being removed. No name of these does.
const REMOVED_PREFIX: &str = ".removed-";

/// What was asked to be cleaned, and has not begun: many tasks may end while what one of them left is being removed.
#[derive(Debug, Default)]
pub(super) struct Cleaning {
    waits: AtomicBool,
    /// Directories of jobs, too.
    jobs: AtomicBool,
    /// How many tasks were marked as ended since one last began.
    tasks: AtomicUsize,
    /// How many bytes these had printed.
    printed: AtomicU64,
}

impl Cleaning {
    /// True: who asks has to bring it to [`clean`]. Otherwise somebody is about to.
    pub(super) fn ask(&self, jobs: bool) -> bool {
        // In this order, as it begins in the other one: what is asked after that is brought anew.
        if jobs {
            self.jobs.store(true, Ordering::SeqCst);
        }
        !self.waits.swap(true, Ordering::SeqCst)
    }

    /// Counts a task that is marked as ended now, and what it had printed. Says how many that are with all others since one last began, and how much.
    pub(super) fn ended(&self, bytes: u64) -> (usize, u64) {
        let tasks = self.tasks.fetch_add(1, Ordering::SeqCst).saturating_add(1);
        (tasks, self.printed.fetch_add(bytes, Ordering::SeqCst).saturating_add(bytes))
    }

    /// It begins. True: with directories of jobs.
    pub(super) fn begin(&self) -> bool {
        self.waits.store(false, Ordering::SeqCst);
        self.tasks.store(0, Ordering::SeqCst);
        self.printed.store(0, Ordering::SeqCst);
        self.jobs.swap(false, Ordering::SeqCst)
    }
}

/// Removes ended allocations beyond those that are kept, and what others of these printed beyond the bytes that are; and where it looks at
/// `jobs`, directories of such without any. That looks at all that there were within a day, however few have ended since the last time.
pub(super) fn clean(options: &ExecOptions, recording: &Recording, jobs: bool) {
    let unused = if jobs { unused_jobs(options) } else { Vec::new() };
    let excess = excess(options, recording);
    remove_excess(&options.directory, excess, recording);
    printed::bound(&options.directory, options.ended_bytes_max, recording);
    remove_jobs(&options.directory, unused, recording);
    if jobs {
        remove_set_aside(&options.directory);
    }
}

fn touch_job(directory: &AllocationDirectory) {
    if let Ok(Some(spec)) = durable::read::<ShimSpec>(&directory.spec()) {
        touch(&spec.job_directory);
    }
}

/// Takes the files of a task from where a start anew would make them, and says where they are to be removed; `None`: there are none. For who keeps
/// such a start away meanwhile.
pub(super) fn set_files_aside(agent: &AgentDirectory, allocation: AllocationId) -> Option<PathBuf> {
    set_aside(&agent.allocation(allocation).task(), &aside_of(&agent.allocations(), &format!("{allocation}-task")))
}

/// The same of all that is kept of an allocation.
fn set_allocation_aside(agent: &AgentDirectory, allocation: AllocationId) -> Option<PathBuf> {
    let directory = agent.allocation(allocation);
    let aside = set_aside(directory.root(), &aside_of(&agent.allocations(), &allocation.to_string()))?;
    // Where it could not be moved, an agent that died over its removal could leave it without the mark of its end: as a task that the next one has to
    // tell of. Without a spec that one removes the rest.
    let _ = fs::remove_file(directory.spec());
    Some(aside)
}

/// Moves it away, to where it is to be removed; what can't be moved is to be removed where it is. `None`: there is nothing.
fn set_aside(what: &Path, aside: &Path) -> Option<PathBuf> {
    move_aside(what, aside).or_else(|| what.exists().then(|| what.to_owned()))
}

/// Moves what is to be removed to a name that begins with `aside`, on the same file system, and says which; `None`: it can't be. Removing much takes
/// long, and starts would wait meanwhile; and what an agent dies over is no half of what it was. What was moved there before may still be there.
fn move_aside(what: &Path, aside: &Path) -> Option<PathBuf> {
    let numbered = |number: u32| {
        let mut name = aside.as_os_str().to_owned();
        name.push(format!("-{number}"));
        PathBuf::from(name)
    };
    let free = (0..).map(numbered).find(|path| !path.exists());
    free.filter(|free| fs::rename(what, free).is_ok())
}

/// Those of the agent's directories in which something is kept: of allocations, or of jobs. One that can't be looked into may have something.
pub(super) fn kept(agent: &AgentDirectory) -> Vec<PathBuf> {
    let is_kept = |entry: io::Result<fs::DirEntry>| {
        let Ok(entry) = entry else { return true };
        // The last one is of a disk that is mounted there.
        let name = entry.file_name();
        !is_set_aside(&name) && name != PROBE_OF_ALLOCATIONS && name != "lost+found"
    };
    let keeps = |directory: &PathBuf| match fs::read_dir(directory) {
        Ok(mut entries) => entries.any(is_kept),
        Err(error) => error.kind() != ErrorKind::NotFound,
    };
    [agent.allocations(), agent.jobs()].into_iter().filter(keeps).collect()
}

/// Where something is put beside it until it is removed.
fn aside_of(beside: &Path, name: &str) -> PathBuf {
    beside.join(format!("{REMOVED_PREFIX}{name}"))
}

/// The ended allocations that have no place any more, the oldest first. Of all of them it removes files that are still there.
fn excess(options: &ExecOptions, recording: &Recording) -> Vec<AllocationId> {
    let (agent, ended) = (&options.directory, ended(&options.directory));
    for &allocation in &ended {
        let directory = agent.allocation(allocation);
        // As a rule they are gone since it was forgotten; the agent may have died over that.
        if directory.task().exists() {
            remove_if_ended(&directory, recording, || set_files_aside(agent, allocation));
        }
    }
    if ended.len() <= options.ended_kept_max {
        // As long as all stay, nobody has to read how they ended.
        return Vec::new();
    }
    let counted: Vec<_> = ended.iter().map(|&allocation| (printed::kind(&agent.allocation(allocation)), 1)).collect();
    let stay = places::stay(&counted, options.ended_kept_max as u64);
    ended.into_iter().zip(stay).filter_map(|(allocation, stays)| (!stays).then_some(allocation)).collect()
}

/// All ended allocations of which something is kept, the oldest first.
pub(super) fn ended(agent: &AgentDirectory) -> Vec<AllocationId> {
    let mut ended = Vec::new();
    for allocation in recover::allocations(agent).unwrap_or_default() {
        let mark = agent.allocation(allocation).ended();
        if let Ok(when) = fs::metadata(mark).and_then(|metadata| metadata.modified()) {
            ended.push((when, allocation));
        }
    }
    // Only now: what ended while others were looked at is not of a time to come.
    let now = SystemTime::now();
    ended.sort_by_key(|&(when, allocation)| (age_rank(when, now), allocation));
    ended.into_iter().map(|(_, allocation)| allocation).collect()
}

fn remove_excess(agent: &AgentDirectory, excess: Vec<AllocationId>, recording: &Recording) {
    for allocation in excess {
        let directory = agent.allocation(allocation);
        touch_job(&directory);
        remove_if_ended(&directory, recording, || set_allocation_aside(agent, allocation));
    }
}

/// Removes what `set_aside` says, if the allocation has ended still: a restored cell may have had it started anew while others were looked at.
fn remove_if_ended(
    directory: &AllocationDirectory,
    recording: &Recording,
    set_aside: impl FnOnce() -> Option<PathBuf>,
) {
    remove_aside(recording, || if directory.ended().exists() { set_aside() } else { None });
}

/// Removes what `set_aside` says, which no start is written down beside. Only that waits for starts, and they for it: removing much takes long.
fn remove_aside(recording: &Recording, set_aside: impl FnOnce() -> Option<PathBuf>) {
    let aside = {
        let _recording = recording.write().unwrap_or_else(PoisonError::into_inner);
        set_aside()
    };
    if let Some(aside) = aside {
        let _ = remove_tree(&aside);
    }
}

/// Orders what ended, the oldest first. What is marked with a time that is still to come ended before the clock was set back, and so
/// before all that ended since: those would go first otherwise, as soon as they are there.
fn age_rank(when: SystemTime, now: SystemTime) -> (bool, SystemTime) {
    (when <= now, when)
}

/// A directory of a job, as it was when it was looked at.
struct JobDirectory {
    path: PathBuf,
    /// When a start of the job was last written down, or something put in or taken out.
    modified: Option<SystemTime>,
}

/// The directories of jobs of which no allocation is here.
fn unused_jobs(options: &ExecOptions) -> Vec<JobDirectory> {
    // Before the allocations are looked at: a start that is written down later changes the time that was seen.
    let mut jobs = jobs(&options.directory);
    let mut in_use = BTreeSet::<OsString>::new();
    let listed = recover::allocations(&options.directory);
    let mut all_known = listed.is_ok() || !options.directory.allocations().exists();
    for allocation in listed.unwrap_or_default() {
        let directory = options.directory.allocation(allocation);
        match durable::read::<ShimSpec>(&directory.spec()) {
            // By its name: the agent's directory may have been moved since.
            Ok(Some(spec)) => in_use.extend(spec.job_directory.file_name().map(ToOwned::to_owned)),
            Ok(None) => {}
            // Damage never passes, and nothing is started from it.
            Err(error) if error.kind() == ErrorKind::InvalidData && directory.ended().exists() => {}
            Err(error) => {
                tracing::warn!(%error, %allocation, "can't read which job's files are in use: none are removed for now");
                all_known = false;
            }
        }
    }
    if !all_known {
        return Vec::new();
    }
    jobs.retain(|job| job.path.file_name().is_some_and(|name| !in_use.contains(name)));
    jobs
}

/// The directories of jobs, but for those that were moved away.
fn jobs(agent: &AgentDirectory) -> Vec<JobDirectory> {
    let entries = fs::read_dir(agent.jobs()).into_iter().flatten().flatten();
    let paths = entries.filter(|entry| !is_set_aside(&entry.file_name())).map(|entry| entry.path());
    paths.map(|path| JobDirectory { modified: modified(&path), path }).collect()
}

/// Removes those that were not used for long, and those that are empty.
fn remove_jobs(agent: &AgentDirectory, unused: Vec<JobDirectory>, recording: &Recording) {
    for JobDirectory { path, modified: seen } in unused {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let removed = aside_of(&agent.jobs(), name);
        // What stays where it is is left: a start of its job may be written down meanwhile.
        remove_aside(recording, || {
            let now = modified(&path);
            if now.is_some_and(is_long_ago) {
                return move_aside(&path, &removed);
            }
            // A start that was written down since has touched it, and its task may be in it by now. One that has files refuses.
            if now == seen {
                let _ = fs::remove_dir(&path);
            }
            None
        });
    }
}

/// Removes what was moved away to be removed: an agent may have died over it. Nothing uses that, whatever else may be in use.
fn remove_set_aside(agent: &AgentDirectory) {
    for place in [agent.allocations(), agent.jobs()] {
        let entries = fs::read_dir(place).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| is_set_aside(&entry.file_name())) {
            let _ = remove_tree(&entry.path());
        }
    }
}

fn is_set_aside(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(REMOVED_PREFIX.as_bytes())
}

fn modified(directory: &Path) -> Option<SystemTime> {
    fs::metadata(directory).and_then(|metadata| metadata.modified()).ok()
}

fn is_long_ago(when: SystemTime) -> bool {
    SystemTime::now().duration_since(when).is_ok_and(|age| age > JOB_DIRECTORY_KEPT)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use plenum_model::JobId;

    use super::*;
    use crate::{
        driver::Exit,
        exec::{self, recording::record},
    };

    const JOB: JobId = JobId { slot: 9, generation: 1 };

    struct Stage {
        _directory: tempfile::TempDir,
        options: ExecOptions,
        recording: Recording,
    }

    impl Stage {
        /// An agent that keeps no ended allocation, and a job's directory with a file that was made 30 hours ago.
        fn set() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let options = exec::options_at(directory.path().to_owned());
            let stage = Self { _directory: directory, options, recording: Recording::default() };
            fs::create_dir_all(stage.job()).unwrap();
            fs::write(stage.job().join("model"), "trained").unwrap();
            stage.make_old();
            stage
        }

        fn make_old(&self) {
            let long_ago = SystemTime::now() - Duration::from_secs(30 * 3600);
            fs::File::open(self.job()).unwrap().set_modified(long_ago).unwrap();
        }

        fn job(&self) -> PathBuf {
            self.options.directory.job(JOB, 1)
        }

        fn record(&self, slot: u32) -> AllocationDirectory {
            let allocation = AllocationId { slot, generation: 1 };
            let directory = self.options.directory.allocation(allocation);
            let mut spec = exec::shim_spec(allocation, self.job());
            spec.task.job = JOB;
            record(&directory, &spec, &self.recording).unwrap();
            directory
        }
    }

    // A group ran for longer than a day and made its files at the beginning. Its allocation was not among those that are kept when the
    // group after it was started, and the files were gone.
    #[test]
    fn files_of_a_job_outlive_its_last_kept_allocation_by_a_day() {
        let stage = Stage::set();
        let train = stage.record(1);
        stage.make_old();
        fs::write(train.ended(), "").unwrap();
        clean(&stage.options, &stage.recording, true);
        assert!(!train.root().exists(), "it is kept no longer");
        clean(&stage.options, &stage.recording, true);
        assert!(stage.job().join("model").exists());
        stage.make_old();
        clean(&stage.options, &stage.recording, true);
        assert!(!stage.job().exists());
        assert_eq!(fs::read_dir(stage.options.directory.jobs()).unwrap().count(), 0);
    }

    // An agent that had no descriptor left to read a record with took the files of a running task for unused.
    // Their room had been given away, and they stayed for as long as the output was kept.
    #[test]
    fn files_of_a_task_that_an_agent_died_over_are_removed_by_the_next() {
        let mut stage = Stage::set();
        stage.options.ended_kept_max = 10;
        let (over, running) = (stage.record(1), stage.record(2));
        for directory in [&over, &running] {
            fs::create_dir_all(directory.task().join("inside")).unwrap();
        }
        fs::write(over.ended(), "").unwrap();
        clean(&stage.options, &stage.recording, true);
        assert!(over.root().exists() && !over.task().exists() && running.task().join("inside").exists());
    }

    // The clock of a machine was an hour ahead and was set right. Until that hour had passed the output of each task was removed as soon as it had ended,
    // and what had ended before was kept.
    #[test]
    fn what_ended_before_the_clock_was_set_back_goes_first() {
        let mut stage = Stage::set();
        stage.options.ended_kept_max = 2;
        let ended = [(1, 3600), (2, 7200), (3, -60), (4, -30)].map(|(slot, ahead_s)| {
            let directory = stage.record(slot);
            let by = Duration::from_secs(i64::unsigned_abs(ahead_s));
            let when = if ahead_s > 0 { SystemTime::now() + by } else { SystemTime::now() - by };
            fs::File::create(directory.ended()).unwrap().set_modified(when).unwrap();
            directory
        });
        clean(&stage.options, &stage.recording, false);
        assert_eq!(ended.each_ref().map(|directory| directory.root().exists()), [false, false, true, true]);
        stage.options.ended_kept_max = 1;
        clean(&stage.options, &stage.recording, false);
        assert_eq!(ended.map(|directory| directory.root().exists()), [false, false, false, true]);
    }

    // After a sweep of some thousand tasks nobody could read why three of them had failed: as many as are kept had ended after them, without a word.
    #[test]
    fn what_failed_and_says_why_outlives_what_ended_well_after_it() {
        let mut stage = Stage::set();
        stage.options.ended_kept_max = 4;
        let ended = [(1, 65), (2, 0), (3, 0), (4, 0), (5, 0), (6, 0)].map(|(slot, code)| {
            let directory = stage.record(slot);
            let exit = Exit { code: Some(code), ..Exit::default() };
            durable::write_atomically(&directory.exit(0), &exit).unwrap();
            if !exit.succeeded() {
                fs::write(directory.root().join("stderr-0.log"), "no such sample").unwrap();
            }
            let when = SystemTime::now() - Duration::from_secs(60 - u64::from(slot));
            fs::File::create(directory.ended()).unwrap().set_modified(when).unwrap();
            directory
        });
        clean(&stage.options, &stage.recording, false);
        assert_eq!(ended.map(|directory| directory.root().exists()), [true, false, false, true, true, true]);
    }

    // Each time that some tasks had ended, the agent looked at the directories of all jobs of a day, and starts waited meanwhile.
    #[test]
    fn jobs_are_looked_at_only_where_that_is_asked_for() {
        let stage = Stage::set();
        let over = stage.record(1);
        fs::write(over.ended(), "").unwrap();
        let half_removed = stage.options.directory.jobs().join(".removed-job-3-1-v1");
        fs::create_dir_all(&half_removed).unwrap();
        clean(&stage.options, &stage.recording, false);
        assert!(!over.root().exists(), "it is kept no longer");
        stage.make_old();
        clean(&stage.options, &stage.recording, false);
        assert!(half_removed.exists() && stage.job().exists());
        clean(&stage.options, &stage.recording, true);
        assert!(!half_removed.exists() && !stage.job().exists());
    }

    // Behind one that took long as many waited as had been asked for, and each did the same again.
    #[test]
    fn what_is_asked_for_while_it_waits_is_done_once() {
        let cleaning = Cleaning::default();
        assert!(cleaning.ask(false));
        assert!(!cleaning.ask(true) && !cleaning.ask(false), "the first one brings it");
        assert!(cleaning.begin(), "with jobs, as one of them has asked");
        assert!(cleaning.ask(false), "after it began there may be more to do");
        assert!(!cleaning.begin());
    }

    #[test]
    fn what_may_be_in_use_is_not_removed() {
        let stage = Stage::set();
        let running = stage.record(1);
        stage.make_old();
        fs::write(running.spec(), "unreadable").unwrap();
        clean(&stage.options, &stage.recording, true);
        assert!(stage.job().join("model").exists());
    }

    // A power cut left an empty record of a start. As long as that was kept, which is for ever where few tasks end, no files of any job were removed.
    #[test]
    fn what_is_damaged_and_has_ended_keeps_no_files_of_jobs() {
        let mut stage = Stage::set();
        stage.options.ended_kept_max = 10;
        let damaged = stage.record(1);
        stage.make_old();
        fs::write(damaged.spec(), "").unwrap();
        fs::write(damaged.ended(), "").unwrap();
        clean(&stage.options, &stage.recording, true);
        assert!(damaged.root().exists() && !stage.job().exists());
    }

    // So did what the same power cut had left of a removal: perhaps millions of files, whose room had been given away.
    #[test]
    fn what_was_moved_away_goes_whatever_else_may_be_in_use() {
        let stage = Stage::set();
        fs::write(stage.record(1).spec(), "").unwrap();
        let agent = &stage.options.directory;
        let half_removed =
            [agent.allocations().join(".removed-alloc-2-1-task-0"), agent.jobs().join(".removed-job-3-1-v1")];
        for path in &half_removed {
            fs::create_dir_all(path.join("inside")).unwrap();
        }
        clean(&stage.options, &stage.recording, true);
        assert!(half_removed.iter().all(|path| !path.exists()));
    }

    // Where the directories of jobs had a disk of their own, nothing could be moved there. A task that was started anew by a restored cell had its files
    // removed with those of its end before.
    #[test]
    fn files_are_set_aside_whatever_becomes_of_the_directories_of_jobs() {
        let stage = Stage::set();
        let agent = &stage.options.directory;
        fs::remove_dir_all(agent.jobs()).unwrap();
        fs::write(agent.jobs(), "").unwrap();
        let allocation = AllocationId { slot: 1, generation: 1 };
        let task = agent.allocation(allocation).task();
        fs::create_dir_all(task.join("inside")).unwrap();
        let aside = set_files_aside(agent, allocation).unwrap();
        assert!(aside.join("inside").exists() && !task.exists());
    }

    // An earlier one of that name, which was being removed still or could not be emptied, had the only place. The next one was removed on the thread that
    // keeps the lease, or not at all.
    #[test]
    fn directories_of_jobs_are_set_aside_beside_what_is_left_of_earlier_ones() {
        let stage = Stage::set();
        let aside = |end: &str| {
            let name = stage.job().file_name().unwrap().to_str().unwrap().to_owned();
            aside_of(&stage.options.directory.jobs(), &format!("{name}{end}"))
        };
        for end in ["", "-0"] {
            fs::create_dir_all(aside(end).join("inside")).unwrap();
        }
        remove_jobs(&stage.options.directory, unused_jobs(&stage.options), &stage.recording);
        assert!(!stage.job().exists() && !aside("-1").exists() && aside("-0").join("inside").exists());
    }

    // What ended tasks had printed was thrown away without a word when another cell's server had the address for some seconds.
    #[test]
    fn what_is_kept_is_found_in_each_directory_and_what_is_being_removed_is_not() {
        let stage = Stage::set();
        let (allocations, jobs) = (stage.options.directory.allocations(), stage.options.directory.jobs());
        let kept = || kept(&stage.options.directory);
        stage.record(1);
        fs::write(stage.options.directory.probe_of_allocations(), "").unwrap();
        assert_eq!(kept(), [allocations.clone(), jobs.clone()]);
        fs::rename(allocations.join("alloc-1-1"), allocations.join(".removed-alloc-1-1-0")).unwrap();
        assert_eq!(kept(), std::slice::from_ref(&jobs), "its job's files, which a job of that id would find");
        fs::remove_dir_all(&jobs).unwrap();
        assert!(kept().is_empty());
        fs::write(&jobs, "").unwrap();
        assert_eq!(kept(), [jobs], "who knows what is in it");
    }

    #[test]
    fn a_start_that_is_written_down_meanwhile_keeps_its_files() {
        let stage = Stage::set();
        let meanwhile = |slot: u32| {
            let unused = unused_jobs(&stage.options);
            assert_eq!(unused.len(), 1);
            let start = stage.record(slot);
            remove_jobs(&stage.options.directory, unused, &stage.recording);
            start
        };
        fs::remove_dir_all(meanwhile(2).root()).unwrap();
        assert!(stage.job().join("model").exists());
        // An empty one would be made anew, but not for a task that runs in it already.
        fs::remove_file(stage.job().join("model")).unwrap();
        stage.make_old();
        meanwhile(3);
        assert!(stage.job().exists());
    }

    // Most jobs put nothing there, and of each one such a directory stayed for a day: in a cell of many short ones a quarter of a million.
    #[test]
    fn a_job_directory_in_which_nothing_is_goes_as_soon_as_no_allocation_is_kept() {
        let stage = Stage::set();
        fs::remove_file(stage.job().join("model")).unwrap();
        let over = stage.record(1);
        fs::write(over.ended(), "").unwrap();
        clean(&stage.options, &stage.recording, true);
        assert!(!over.root().exists() && stage.job().exists(), "it was kept until then");
        clean(&stage.options, &stage.recording, true);
        assert!(!stage.job().exists());
    }

    // A restored cell had an allocation started that had ended here before without having run. It was among the oldest that were to go, and its record, its
    // output and its files were removed while it ran.
    #[test]
    fn what_is_started_anew_while_others_are_looked_at_is_not_removed() {
        let stage = Stage::set();
        let again = stage.record(1);
        fs::write(again.ended(), "").unwrap();
        let excess = excess(&stage.options, &stage.recording);
        assert_eq!(excess, [AllocationId { slot: 1, generation: 1 }]);
        fs::remove_file(again.ended()).unwrap();
        stage.record(1);
        remove_excess(&stage.options.directory, excess, &stage.recording);
        assert!(again.spec().exists());
    }

    #[test]
    fn what_a_dying_agent_moved_away_is_removed_by_the_next() {
        let stage = Stage::set();
        let half_removed = stage.options.directory.jobs().join(".removed-job-3-1-v1");
        fs::create_dir_all(half_removed.join("inside")).unwrap();
        clean(&stage.options, &stage.recording, true);
        assert!(!half_removed.exists());
    }
}

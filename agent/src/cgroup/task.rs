//! The control group of one task: made before its command runs, killed and removed after its end.
//!
//! It has the limits, and the command runs in another one below it. A task of root may make a namespace of control groups and mount them there;
//! what it finds at the root of that mount is the group that it is in, with its files. The one with the limits lies above, and nothing of the task may
//! come into that one.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{Controller, Version, tree};
use crate::process::kill_listed;

/// The period in which a quota of processor time is counted: 100 ms, the kernel's default.
const CPU_PERIOD_MICROS: u64 = 100_000;
/// The kernel refuses quotas below a millisecond.
const CPU_QUOTA_MICROS_MIN: u64 = 1_000;
/// How long a group that was just emptied may still say that it is busy.
const REMOVE_WITHIN: Duration = Duration::from_secs(2);

/// The group below the one with the limits, in which the command runs. An agent of an earlier version had none: its tasks are in the upper one.
const COMMAND_GROUP: &str = "command";

/// What a task may use at most. A zero leaves that resource unlimited: nothing was claimed of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Thousandths of a processor.
    pub cpu_millis: u64,
    /// Memory, with swap where the kernel counts it.
    pub memory_bytes: u64,
    /// Processes and threads; of more than 2^22 no group can be made, as that is as many as the kernel can number.
    pub pids: u32,
}

/// The group of one task. A value: nothing is made before [`TaskCgroup::create`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskCgroup {
    version: Version,
    directories: BTreeMap<Controller, PathBuf>,
}

impl TaskCgroup {
    pub(super) fn new(version: Version, directories: BTreeMap<Controller, PathBuf>) -> Self {
        Self { version, directories }
    }

    /// Makes the group, sets its limits, and makes the one below it for the command. Those that are there already (of an earlier restart) are used
    /// again.
    ///
    /// # Errors
    /// The message names the file that refused and what was to be written.
    pub fn create(&self, limits: &Limits) -> io::Result<()> {
        self.distinct_directories().try_for_each(make_unless_there)?;
        if let Some(directory) = self.directories.get(&Controller::Memory).filter(|_| self.version == Version::V1) {
            count_what_is_below(directory)?;
        }
        // In version 2 no controller is handed down to it: it has no limits, and what is used in it counts as the upper one's.
        self.distinct_directories().try_for_each(|directory| make_unless_there(&directory.join(COMMAND_GROUP)))?;
        for (&controller, directory) in &self.directories {
            match controller {
                Controller::Cpu => self.limit_cpu(directory, limits.cpu_millis)?,
                Controller::Memory => self.limit_memory(directory, limits.memory_bytes)?,
                // Also where there is no limit: a group that is used again may not fork since it was killed.
                Controller::Pids if limits.pids > 0 => write(&directory.join("pids.max"), limits.pids)?,
                Controller::Pids => write(&directory.join("pids.max"), "max")?,
            }
        }
        Ok(())
    }

    fn limit_cpu(&self, directory: &Path, cpu_millis: u64) -> io::Result<()> {
        if cpu_millis == 0 {
            return Ok(());
        }
        let quota = cpu_millis.saturating_mul(CPU_PERIOD_MICROS / 1000).max(CPU_QUOTA_MICROS_MIN);
        match self.version {
            Version::V1 => {
                write(&directory.join("cpu.cfs_period_us"), CPU_PERIOD_MICROS)?;
                write(&directory.join("cpu.cfs_quota_us"), quota)
            }
            Version::V2 => write(&directory.join("cpu.max"), format!("{quota} {CPU_PERIOD_MICROS}")),
        }
    }

    fn limit_memory(&self, directory: &Path, memory_bytes: u64) -> io::Result<()> {
        if memory_bytes == 0 {
            return Ok(());
        }
        match self.version {
            Version::V1 => {
                write(&directory.join("memory.limit_in_bytes"), memory_bytes)?;
                // Memory and swap together; the file is there only where the kernel counts swap.
                write_where_present(&directory.join("memory.memsw.limit_in_bytes"), memory_bytes)
            }
            Version::V2 => {
                write(&directory.join("memory.max"), memory_bytes)?;
                write_where_present(&directory.join("memory.swap.max"), 0)?;
                // A task is one thing: half of it alive after the other half was killed helps nobody.
                write_where_present(&directory.join("memory.oom.group"), 1)
            }
        }
    }

    /// The files to which the command writes `0` to enter its group, opened before it loses sight of them.
    ///
    /// # Errors
    /// When one can't be opened; the message names it.
    pub fn open_entries(&self) -> io::Result<Vec<File>> {
        self.distinct_directories()
            .map(|directory| {
                let path = directory.join(COMMAND_GROUP).join("cgroup.procs");
                OpenOptions::new().write(true).open(&path).map_err(|error| about(&path, &error))
            })
            .collect()
    }

    /// How many of its processes the kernel killed for want of memory.
    #[must_use]
    pub fn oom_kills(&self) -> u64 {
        let Some(directory) = self.directories.get(&Controller::Memory) else { return 0 };
        let counted = |text: &str| keyed_value(text, "oom_kill").unwrap_or(0);
        match self.version {
            // Counts where the process was, whichever group's limit it died of.
            Version::V1 => {
                let texts = tree::contents_below(directory, "memory.oom_control").unwrap_or_default();
                texts.iter().map(|text| counted(text)).sum()
            }
            Version::V2 => fs::read_to_string(directory.join("memory.events")).map_or(0, |text| counted(&text)),
        }
    }

    /// True when it came to its limit of memory at some time, where what was killed in it may have died of that.
    /// Otherwise it was another one's. Groups of version 1 also come to it by reading files.
    #[must_use]
    pub fn has_reached_memory_limit(&self) -> bool {
        let Some(directory) = self.directories.get(&Controller::Memory) else { return false };
        let text = |file: &str| fs::read_to_string(directory.join(file)).unwrap_or_default();
        match self.version {
            // Not its count of failures: where swap is counted, too, the limit of both together comes first, and newer
            // kernels count none of those.
            Version::V1 => {
                let bytes = |file| text(file).trim().parse::<u64>().ok();
                let limit = bytes("memory.limit_in_bytes");
                limit.is_some_and(|limit| bytes("memory.max_usage_in_bytes").is_some_and(|most| most >= limit))
            }
            Version::V2 => keyed_value(&text("memory.events"), "oom").is_some_and(|times| times > 0),
        }
    }

    /// True when no process is in it, nor in any group that the task made below it.
    ///
    /// # Errors
    /// When that can't be found out, such as without a descriptor left. What can't be looked at is not empty.
    pub fn is_empty(&self) -> io::Result<bool> {
        for directory in self.distinct_directories() {
            if !tree::pids_below(directory).map_err(|error| about(directory, &error))?.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Kills all processes in it. They may take some time to be gone: see [`TaskCgroup::is_empty`].
    pub fn kill(&self) {
        if self.version == Version::V2
            && self.distinct_directories().all(|directory| write(&directory.join("cgroup.kill"), 1).is_ok())
        {
            return;
        }
        // Without forks, one pass over the processes finds them all. The usual way, freezing, needs a hierarchy more
        // for each task, and a frozen version 1 group doesn't die before it is thawed.
        if let Some(directory) = self.directories.get(&Controller::Pids) {
            let _ = write(&directory.join("pids.max"), 0);
        }
        for directory in self.distinct_directories() {
            kill_listed(|| tree::pids_below(directory).unwrap_or_default());
        }
    }

    /// Kills until nothing is left, for at most `within`. True: it is empty.
    ///
    /// # Errors
    /// When it can't be found out at the end of that time whether it is.
    pub fn kill_until_empty(&self, within: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + within;
        let mut pause = Duration::from_micros(200);
        loop {
            if matches!(self.is_empty(), Ok(true)) {
                return Ok(true);
            }
            self.kill();
            if Instant::now() >= deadline {
                return self.is_empty();
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// Removes the group, and groups that the task made below it. It must be empty; no such group is no error.
    ///
    /// # Errors
    /// When it is still busy after two seconds.
    pub fn remove(&self) -> io::Result<()> {
        let deadline = Instant::now() + REMOVE_WITHIN;
        for directory in self.distinct_directories() {
            // The kernel says busy for a moment after the last process left.
            while let Err(error) = tree::remove_below(directory) {
                if error.kind() != ErrorKind::ResourceBusy || Instant::now() >= deadline {
                    return Err(about(directory, &error));
                }
                thread::sleep(Duration::from_millis(2));
            }
        }
        Ok(())
    }

    /// Removes the agent's groups above it, as far as nobody else uses them.
    pub(crate) fn remove_above(&self) {
        for directory in self.distinct_directories() {
            // The machine's, and that of all agents.
            for above in directory.ancestors().skip(1).take(2) {
                let _ = fs::remove_dir(above);
            }
        }
    }

    /// In version 2, the group in which the command runs, and where its hierarchy is mounted: above those of the machine and of all agents.
    pub(crate) fn in_unified_hierarchy(&self) -> Option<(PathBuf, PathBuf)> {
        let directory = self.distinct_directories().next().filter(|_| self.version == Version::V2)?;
        Some((directory.join(COMMAND_GROUP), directory.ancestors().nth(3)?.to_owned()))
    }

    fn distinct_directories(&self) -> impl Iterator<Item = &Path> {
        // In version 2 all controllers name the same directory.
        let count = if self.version == Version::V2 { 1 } else { usize::MAX };
        self.directories.values().take(count).map(PathBuf::as_path)
    }
}

fn make_unless_there(directory: &Path) -> io::Result<()> {
    match fs::create_dir(directory) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(about(directory, &error)),
        _ => Ok(()),
    }
}

/// Before Linux 5.11 a version 1 group did not have to answer for the memory of those below it, unless it was told to before there were any.
pub(super) fn count_what_is_below(directory: &Path) -> io::Result<()> {
    let file = directory.join("memory.use_hierarchy");
    match fs::read_to_string(&file) {
        Ok(text) if text.trim() == "0" => write(&file, 1),
        _ => Ok(()),
    }
}

pub(super) fn keyed_value(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.split_once(' ').filter(|(name, _)| *name == key)?.1.trim().parse().ok())
}

pub(super) fn write(path: &Path, value: impl ToString) -> io::Result<()> {
    let value = value.to_string();
    fs::write(path, &value)
        .map_err(|error| io::Error::new(error.kind(), format!("writing {value} to {}: {error}", path.display())))
}

fn write_where_present(path: &Path, value: impl ToString) -> io::Result<()> {
    if path.exists() { write(path, value) } else { Ok(()) }
}

pub(super) fn about(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

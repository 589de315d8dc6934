//! Processes, told apart from later ones that got the same number. It reads `/proc` and nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    sync::OnceLock,
};

use nix::{
    sys::{
        signal::{SigHandler, Signal, kill, signal},
        stat::{Mode, umask},
    },
    unistd::Pid,
};
use rustix::{
    io::Errno,
    process::{PidfdFlags, pidfd_open, pidfd_send_signal},
};
use serde::{Deserialize, Serialize};

/// A process of this machine, for ever: a pid alone is reused, a pid with its start time and boot is not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// Its number in the agent's pid namespace.
    pub pid: i32,
    /// When it started, in clock ticks since the boot (field 22 of `/proc/PID/stat`).
    pub start_ticks: u64,
    /// The boot that it lived in.
    pub boot_id: String,
}

impl ProcessIdentity {
    /// The calling process.
    ///
    /// # Errors
    /// When `/proc` is not readable.
    pub fn of_this_process() -> io::Result<Self> {
        let pid = Pid::this().as_raw();
        let stat = Stat::read(pid)?;
        Ok(Self { pid, start_ticks: stat.start_ticks, boot_id: boot_id().to_owned() })
    }

    /// A handle on that very process, or `None` when it is gone. A zombie is gone: it does nothing any more.
    ///
    /// The start time is compared again after opening: between the two, the process may have ended and its number may
    /// have been given to another.
    ///
    /// # Errors
    /// When it can't be found out, such as without a descriptor left. Such a process must not be taken for gone.
    pub fn open(&self) -> io::Result<Option<OwnedFd>> {
        if self.boot_id != boot_id() || !self.lives()? {
            return Ok(None);
        }
        let Some(pid) = rustix::process::Pid::from_raw(self.pid) else { return Ok(None) };
        let handle = match pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Ok(handle) => handle,
            Err(Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        Ok(self.lives()?.then_some(handle))
    }

    fn lives(&self) -> io::Result<bool> {
        self.lives_by(Stat::read(self.pid))
    }

    /// By what was read of the process that has its number now.
    fn lives_by(&self, read: io::Result<Stat>) -> io::Result<bool> {
        match read {
            Ok(stat) => Ok(stat.start_ticks == self.start_ticks && !stat.dead),
            // Gone before the opening, or in the middle of the reading.
            Err(error) if error.kind() == io::ErrorKind::NotFound || is_no_such_process(&error) => Ok(false),
            // Where `/proc` hides what is others', and got the number since: a shim is of its agent's own user.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && is_others(self.pid) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// True when this process may send that one no signal: that takes no more than the same user.
fn is_others(pid: i32) -> bool {
    kill(Pid::from_raw(pid), None::<Signal>) == Err(nix::errno::Errno::EPERM)
}

fn is_no_such_process(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::SRCH.raw_os_error())
}

/// Makes the kernel keep ends of children for whoever waits for them. Whoever started us may ignore them, which is inherited: then they are
/// kept for nobody, and who waits is told that there never was a child.
pub fn hear_of_children() {
    // SAFETY: the default action runs no code of ours.
    #[allow(unsafe_code)]
    let set = unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) };
    debug_assert!(set.is_ok(), "the kernel knows SIGCHLD");
}

/// Has what is made have the mode that it is made with, but that only its owner writes: under a stricter mask, as a unit's `UMask=0077`, tasks that change
/// their user could not reach their own directories.
pub(crate) fn let_others_pass() {
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
}

/// Makes a limit on the size of files a failure of the write that comes to it, as a full disk is. By default it ends the process, and with a shim its
/// task.
pub(crate) fn outlive_limits_of_files() {
    // SAFETY: to be ignored runs no code of ours.
    #[allow(unsafe_code)]
    let set = unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) };
    debug_assert!(set.is_ok(), "the kernel knows SIGXFSZ");
}

/// This boot's identity; empty where the kernel doesn't tell.
#[must_use]
pub fn boot_id() -> &'static str {
    static BOOT_ID: OnceLock<String> = OnceLock::new();
    BOOT_ID.get_or_init(|| {
        fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
    })
}

/// The pids of all processes below `ancestor`, whatever session or group they moved to.
pub(crate) fn descendants(ancestor: i32) -> Vec<i32> {
    let mut children = BTreeMap::<i32, Vec<i32>>::new();
    for pid in all_pids().unwrap_or_default() {
        if let Ok(stat) = Stat::read(pid) {
            children.entry(stat.parent).or_default().push(pid);
        }
    }
    let mut found = children.remove(&ancestor).unwrap_or_default();
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        found.extend(children.remove(&pid).unwrap_or_default());
        next += 1;
    }
    found
}

/// The pids of processes whose initial environment holds exactly `entry` (`NAME=value`).
///
/// The last resort for tasks whose shim was killed where there is neither a cgroup nor a pid namespace: it finds only
/// processes that this user may look into, and none that cleaned their environment before an exec, or have written over it since, as for a title
/// in lists of processes. The number of the command's session is no better: once nobody is left in it, it is given to others.
///
/// # Errors
/// When one can't be looked at for another reason than that it is gone or somebody else's, such as without a descriptor left. Then nobody
/// knows which there are.
pub(crate) fn with_environment_entry(entry: &str) -> io::Result<Vec<i32>> {
    let (this, mut found) = (Pid::this().as_raw(), Vec::new());
    for pid in all_pids()?.into_iter().filter(|&pid| pid != this) {
        match fs::read(format!("/proc/{pid}/environ")) {
            Ok(environment) if environment.split(|&byte| byte == 0).any(|one| one == entry.as_bytes()) => {
                found.push(pid)
            }
            Err(error) if !is_gone_or_others(&error) => return Err(error),
            _ => {}
        }
    }
    Ok(found)
}

/// The pids of processes that were started with arguments that are meant, the program's name first; without those that such a one forked. A zombie has none.
///
/// # Errors
/// When one can't be looked at for another reason than that it is gone or somebody else's. Then nobody knows which there are.
pub(crate) fn with_arguments(is_meant: impl Fn(&[&[u8]]) -> bool) -> io::Result<Vec<i32>> {
    let mut found = BTreeSet::new();
    for pid in all_pids()? {
        match fs::read(format!("/proc/{pid}/cmdline")) {
            Ok(text) => {
                let text = text.strip_suffix(&[0]).unwrap_or(&text);
                if is_meant(&text.split(|&byte| byte == 0).collect::<Vec<_>>()) {
                    found.insert(pid);
                }
            }
            Err(error) if !is_gone_or_others(&error) => return Err(error),
            Err(_) => {}
        }
    }
    let is_forked = |pid: &i32| Stat::read(*pid).is_ok_and(|stat| found.contains(&stat.parent));
    Ok(found.iter().copied().filter(|pid| !is_forked(pid)).collect())
}

fn is_gone_or_others(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) || is_no_such_process(error)
}

/// Handles of processes that are open at a time: few beside the descriptors that a process may have.
const HANDLES_MAX: usize = 128;

/// Sends SIGKILL to each process that `list` names, and gives how many there were. Those that are gone already don't matter.
///
/// A process may end after the listing and its number be given to another one, which must not be killed for it. So a handle is opened first,
/// and what is listed still is killed by that. Where there are more of them than handles can be had for, the rest is killed by number: nothing else
/// would ever end it.
pub(crate) fn kill_listed(list: impl Fn() -> Vec<i32>) -> usize {
    let listed: Vec<i32> = list().into_iter().filter(|&pid| pid > 1).collect();
    let (mut handles, mut room) = (Vec::new(), HANDLES_MAX);
    for &pid in &listed {
        let opened = rustix::process::Pid::from_raw(pid).filter(|_| room > 0);
        match opened.map(|pid| pidfd_open(pid, PidfdFlags::empty())) {
            Some(Ok(handle)) => {
                room -= 1;
                handles.push((pid, Some(handle)));
            }
            Some(Err(Errno::SRCH)) => {}
            Some(Err(_)) => {
                // The second listing needs descriptors, too, and so does everybody else here.
                room = 0;
                let kept = handles.len() / 2;
                handles[kept..].iter_mut().for_each(|(_, handle)| *handle = None);
                handles.push((pid, None));
            }
            None => handles.push((pid, None)),
        }
    }
    let still: BTreeSet<i32> = if handles.is_empty() { BTreeSet::new() } else { list().into_iter().collect() };
    for (pid, handle) in handles.into_iter().filter(|(pid, _)| still.contains(pid)) {
        match handle {
            Some(handle) => drop(pidfd_send_signal(handle, rustix::process::Signal::KILL)),
            None => drop(kill(Pid::from_raw(pid), Signal::SIGKILL)),
        }
    }
    listed.len()
}

/// Kills what is below the process of this handle, and leaves itself alone: with it, nobody would know what comes from it. Nothing of that waits for a disk.
pub(crate) fn kill_below(process: BorrowedFd<'_>) {
    kill_listed(|| {
        let Some(pid) = pid_of(process) else { return Vec::new() };
        let found = descendants(pid);
        // It may have gone meanwhile, and its number be given to another one.
        if pid_of(process) == Some(pid) { found } else { Vec::new() }
    });
}

/// The number of the process of this handle; `None`: it is gone, or the kernel does not tell.
fn pid_of(process: BorrowedFd<'_>) -> Option<i32> {
    let told = fs::read_to_string(format!("/proc/self/fdinfo/{}", process.as_raw_fd())).ok()?;
    let number = told.lines().find_map(|line| line.strip_prefix("Pid:"))?;
    number.trim().parse().ok().filter(|&pid| pid > 0)
}

fn all_pids() -> io::Result<Vec<i32>> {
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc")? {
        pids.extend(entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    Ok(pids)
}

struct Stat {
    dead: bool,
    parent: i32,
    start_ticks: u64,
}

impl Stat {
    fn read(pid: i32) -> io::Result<Self> {
        // The command stands in brackets and may itself hold brackets and spaces, and half a letter at its end: the kernel cuts it after so many bytes.
        let text = fs::read(format!("/proc/{pid}/stat"))?;
        let text = String::from_utf8_lossy(&text);
        let after_command = text.rsplit_once(')').map_or("", |(_, rest)| rest);
        let field = |index: usize| after_command.split_ascii_whitespace().nth(index);
        let parse = || {
            Some(Self {
                dead: matches!(field(0)?, "Z" | "X"),
                parent: field(1)?.parse().ok()?,
                start_ticks: field(19)?.parse().ok()?,
            })
        };
        parse().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat: {text}")))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_process_is_found_again_and_a_reused_number_is_not() {
        let this = ProcessIdentity::of_this_process().unwrap();
        assert!(this.open().unwrap().is_some());
        assert!(ProcessIdentity { start_ticks: this.start_ticks + 1, ..this.clone() }.open().unwrap().is_none());
        assert!(ProcessIdentity { boot_id: "another boot".to_owned(), ..this }.open().unwrap().is_none());
    }

    // Whatever is taken for gone is killed, or told as ended.
    #[test]
    fn a_process_of_the_same_user_that_can_not_be_looked_at_is_not_taken_for_gone() {
        let this = ProcessIdentity::of_this_process().unwrap();
        assert!(this.lives_by(Err(Errno::PERM.into())).is_err());
        assert!(!this.lives_by(Err(Errno::SRCH.into())).unwrap());
    }

    #[test]
    fn children_are_found_by_descent_and_by_environment() {
        let entry = format!("PLENUM_TEST_MARK={}", std::process::id());
        let (name, value) = entry.split_once('=').unwrap();
        let mut child = std::process::Command::new("sleep").arg("30").env(name, value).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        assert!(descendants(std::process::id().try_into().unwrap()).contains(&pid));
        // In the middle of its exec a process has no environment that can be read.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        let mut found = with_environment_entry(&entry).unwrap();
        while found.is_empty() && std::time::Instant::now() < deadline {
            std::thread::yield_now();
            found = with_environment_entry(&entry).unwrap();
        }
        assert_eq!(kill_listed(|| vec![pid]), 1);
        assert_eq!(found, [pid]);
        child.wait().unwrap();
    }

    // The kernel cuts names after 15 bytes, also within a letter. Of a task whose shim looked for it, such a process was left over for ever; and
    // where it had the number of an earlier shim, no agent started any more.
    #[test]
    fn a_process_whose_name_is_cut_within_a_letter_is_found() {
        use std::os::unix::process::CommandExt;
        let place = tempfile::tempdir().unwrap();
        let program = place.path().join("ééééééééx");
        std::os::unix::fs::symlink("/bin/sleep", &program).unwrap();
        let mut child = std::process::Command::new(&program).arg0("sleep").arg("30").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let comm = fs::read(format!("/proc/{pid}/comm")).unwrap();
        let found = descendants(std::process::id().try_into().unwrap());
        let earlier = ProcessIdentity { pid, start_ticks: 1, boot_id: boot_id().to_owned() };
        let opened = earlier.open();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(String::from_utf8(comm).is_err(), "its name is no text");
        assert!(found.contains(&pid));
        assert!(matches!(opened, Ok(None)), "{opened:?}");
    }

    #[test]
    fn a_handle_tells_the_number_of_its_process_for_as_long_as_that_is_its_own() {
        let mut child = std::process::Command::new("sleep").arg("30").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let handle = pidfd_open(rustix::process::Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap();
        assert_eq!(pid_of(handle.as_fd()), Some(pid));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(pid_of(handle.as_fd()), None);
    }

    // Between the listing and the signal a process may end, and its number be given to one that has nothing to do with it.
    #[test]
    fn what_is_not_listed_any_more_is_not_killed() {
        let mut child = std::process::Command::new("sleep").arg("30").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let listings = std::cell::Cell::new(0);
        let once = || {
            listings.set(listings.get() + 1);
            if listings.get() == 1 { vec![pid] } else { Vec::new() }
        };
        assert_eq!((kill_listed(once), listings.get()), (1, 2));
        // A signal that was sent shows at once: the kernel takes it as pending.
        assert!(child.try_wait().unwrap().is_none() && Stat::read(pid).is_ok_and(|stat| !stat.dead));
        assert_eq!(kill_listed(|| vec![pid]), 1);
        assert!(!child.wait().unwrap().success());
        assert_eq!(kill_listed(|| vec![pid]), 1, "it is gone, which does no harm");
    }

    #[test]
    fn more_processes_than_there_are_handles_for_are_all_killed() {
        let sleep = |_| std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let mut children: Vec<_> = (0..HANDLES_MAX + 8).map(sleep).collect();
        let pids: Vec<i32> = children.iter().map(|child| i32::try_from(child.id()).unwrap()).collect();
        assert_eq!(kill_listed(|| pids.clone()), pids.len());
        assert!(children.iter_mut().all(|child| !child.wait().unwrap().success()));
    }
}

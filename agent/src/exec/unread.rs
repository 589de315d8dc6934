//! Ending a start of which something that was written down can't be read, as in an unreadable sector. What it can't look at, it must not take for gone.
//!
//! Whether it runs nobody can say from its files: so it is looked for by its shim, by its control group and by its environment, told to stop, and over
//! only once nothing of it is found.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::Path,
    time::{Duration, Instant},
};

use nix::libc;
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use super::{
    ExecOptions, ShimProgram,
    facts::StartFacts,
    recover::{self, log_if_failed, write_end},
    start::SHIM_OVERDUE_AFTER,
    void_record,
};
use crate::{
    directories::AllocationDirectory,
    driver::{Exit, Failure, FailureKind},
    durable,
    process::{ProcessIdentity, descendants, kill_listed, with_arguments},
    shim::{ShimSpec, unix_ms},
};

/// The kill timeout of a task of which it can't be read: the usual one.
pub(super) const KILL_TIMEOUT_MS: u64 = 10_000;

/// What disks and file systems say of what they can't give back: an unreadable sector, a checksum that is wrong, a structure that is damaged.
const UNREADABLE: [i32; 3] = [libc::EIO, libc::EBADMSG, libc::EUCLEAN];

/// Whether reading fails for what is on the disk, and not for want of something that others may have more of in a moment.
pub(crate) fn is_unreadable(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| UNREADABLE.contains(&code))
}

/// The end of a start of which this file can't be read.
pub(super) fn failure(path: &Path, error: &io::Error) -> Failure {
    let path = path.display();
    Failure::new(FailureKind::Unreadable, format!("{path} can't be read ({error}): nobody knows how far it came"))
}

/// What stands in the place of a spec that can't be read: no shim takes it for one, and the next agent goes on with ending its task.
#[derive(Serialize, Deserialize)]
pub(crate) struct Note {
    unreadable: String,
}

/// Why an earlier agent put a note in the place of a spec; `None`: none did, and it is damaged.
pub(super) fn noted(directory: &AllocationDirectory) -> Option<Failure> {
    let note = durable::read::<Note>(&directory.spec()).ok().flatten()?;
    Some(Failure::new(FailureKind::Unreadable, note.unreadable))
}

/// Sees to it that nothing is left of a start, and says how it ended. `since`: when it was first told to stop.
///
/// # Errors
/// When something is left still, or that can't be found out.
pub(super) fn outlast(
    options: &ExecOptions,
    facts: &StartFacts,
    failure: &Failure,
    since: Instant,
) -> io::Result<Exit> {
    let directory = options.directory.allocation(facts.allocation);
    directory.let_owner_in();
    let kept_from_it = keep_shims_from_it(&directory, facts, failure);
    let rest = Rest { shim: &options.shim, directory: &directory, facts };
    // A record that is damaged is one of a crash of the machine, as a rule. There may be thousands, and each look for processes is one at all of them.
    let is_there = if failure.kind == FailureKind::Unreadable { rest.is_there() } else { rest.is_in_group() };
    if is_there {
        let patience = Duration::from_millis(facts.kill_timeout_ms).saturating_add(SHIM_OVERDUE_AFTER);
        rest.end(since.elapsed() >= patience);
        let what = "it is being stopped, as what was written down of it can't be read";
        return Err(io::Error::new(io::ErrorKind::TimedOut, what));
    }
    // Such as on a full disk. Told to have ended, it might be started by a shim that comes late.
    kept_from_it?;
    facts.cgroup.iter().for_each(|cgroup| log_if_failed(cgroup.remove()));
    let exit = Exit::failed(failure.clone(), unix_ms());
    if let Some(restart) = facts.restart_if_known() {
        write_end(&directory, restart, &exit);
    }
    Ok(exit)
}

/// No shim that is still on its way takes this start from now on: it finds no spec any more, or another one's record.
fn keep_shims_from_it(directory: &AllocationDirectory, facts: &StartFacts, failure: &Failure) -> io::Result<()> {
    if let Some(restart) = facts.restart_if_known() {
        let record = directory.record(restart);
        // One that is there already, readable or not, does as well; and where nothing can be written, nothing has to be.
        if record.exists() {
            return Ok(());
        }
        return durable::write_once::<ProcessIdentity>(&record, &void_record()).map(drop);
    }
    match durable::read::<ShimSpec>(&directory.spec()) {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(()),
        _ => durable::write_atomically(&directory.spec(), &Note { unreadable: failure.message.clone() }),
    }
}

/// What may be left of a start.
struct Rest<'a> {
    shim: &'a ShimProgram,
    directory: &'a AllocationDirectory,
    facts: &'a StartFacts,
}

impl Rest<'_> {
    /// What can't be looked at is there.
    fn is_there(&self) -> bool {
        let is_none = |found: io::Result<Vec<i32>>| matches!(found, Ok(found) if found.is_empty());
        // The shim first: until it is gone, there may be more of the rest in a moment.
        !is_none(self.shims()) || self.is_in_group() || !is_none(recover::marked(self.directory))
    }

    fn is_in_group(&self) -> bool {
        self.facts.cgroup.as_ref().is_some_and(|cgroup| !matches!(cgroup.is_empty(), Ok(true)))
    }

    /// Tells the shim to stop its task, which it knows how. Where there is none, or it had its time, all is killed.
    fn end(&self, is_overdue: bool) {
        let found = self.shims();
        // Where they can't be looked at there may be one, which has its time as well.
        if !is_overdue && !matches!(&found, Ok(shims) if shims.is_empty()) {
            found.unwrap_or_default().into_iter().for_each(|shim| self.terminate(shim));
            return;
        }
        // Listed anew each time: a number may be another process's by now, whose children are not ours.
        let shims = || self.shims().unwrap_or_default();
        // The task first, as what it forks is its shim's.
        kill_listed(|| shims().into_iter().flat_map(descendants).collect());
        if let Some(cgroup) = &self.facts.cgroup {
            cgroup.kill();
        }
        kill_listed(shims);
        kill_listed(|| recover::marked(self.directory).unwrap_or_default());
    }

    fn terminate(&self, shim: i32) {
        let handle = rustix::process::Pid::from_raw(shim).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        // Its number may have been given to another process before there was a handle.
        let is_meant = |shims: Vec<i32>| shims.contains(&shim);
        if let Some(handle) = handle.filter(|_| self.shims().is_ok_and(is_meant)) {
            // It may be gone by now.
            let _ = pidfd_send_signal(handle, Signal::TERM);
        }
    }

    /// The shims of this allocation: they were started with its directory as their last argument, and with nothing else than a shim's. Whoever looks into the
    /// directory with another program names it, too.
    fn shims(&self) -> io::Result<Vec<i32>> {
        let ShimProgram { program, arguments: own } = self.shim;
        with_arguments(|arguments| {
            let Some((last, before)) = arguments.split_last() else { return false };
            let words = std::iter::once(program.as_os_str()).chain(own.iter().map(OsString::as_os_str));
            before.iter().copied().eq(words.map(OsStr::as_bytes))
                && is_same_directory(Path::new(OsStr::from_bytes(last)), self.directory.root())
        })
    }
}

/// Whether both are one directory, by whatever way: an agent's may be named by a link.
fn is_same_directory(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| path.metadata().ok().map(|found| (found.dev(), found.ino()));
    one == other
        || (one.file_name() == other.file_name() && identity(one).is_some_and(|id| Some(id) == identity(other)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{fs, os::unix::fs::symlink};

    use plenum_model::AllocationId;

    use super::*;
    use crate::{directories::AgentDirectory, exec, process::boot_id};

    const ALLOCATION: AllocationId = AllocationId { slot: 1, generation: 1 };

    fn options_in(place: &Path) -> ExecOptions {
        let arguments = ["-c", "read -r _", "shim"].map(OsString::from).to_vec();
        let shim = ShimProgram { program: "/bin/sh".into(), arguments };
        ExecOptions { shim, ..exec::options_at(place.join("agent")) }
    }

    /// The directory of an allocation whose shim may begin at any moment, and its spec, which is written there.
    fn prepared(options: &ExecOptions, place: &Path) -> (AllocationDirectory, ShimSpec) {
        let directory = options.directory.allocation(ALLOCATION);
        fs::create_dir_all(directory.root()).unwrap();
        let spec = ShimSpec { boot_id: boot_id().to_owned(), ..exec::shim_spec(ALLOCATION, place.join("job")) };
        durable::write_atomically(&directory.spec(), &spec).unwrap();
        (directory, spec)
    }

    // A shim that was on its way would have run the task a moment after its end was told.
    #[test]
    fn no_shim_takes_a_start_any_more_that_is_told_to_have_ended() {
        let place = tempfile::tempdir().unwrap();
        let options = options_in(place.path());
        let (directory, spec) = prepared(&options, place.path());
        let why = failure(&directory.exit(0), &io::Error::from_raw_os_error(libc::EIO));
        let facts = StartFacts::from(&spec);
        let exit = outlast(&options, &facts, &why, Instant::now()).unwrap();
        assert_eq!(exit.failure.as_ref(), Some(&why));
        assert!(!durable::write_once(&directory.record(0), &void_record()).unwrap(), "its record is taken");
        assert_eq!(durable::read::<Exit>(&directory.exit(0)).unwrap(), Some(exit), "the next agent comes to the same");

        fs::remove_file(directory.spec()).unwrap();
        symlink("/proc/self/mem", directory.spec()).unwrap();
        assert!(is_unreadable(&durable::read::<ShimSpec>(&directory.spec()).unwrap_err()));
        let facts = StartFacts::unknown(ALLOCATION, None);
        outlast(&options, &facts, &why, Instant::now()).unwrap();
        let error = durable::read::<ShimSpec>(&directory.spec()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "no spec that a shim could read");
        assert_eq!(noted(&directory), Some(why), "the next agent goes on");
    }

    // Another record was to be put over the one that is there. On a full disk that failed, and failed again: the end of the task was never told.
    #[test]
    fn where_nothing_can_be_written_an_end_is_told_if_the_record_is_there_and_only_then() {
        let place = tempfile::tempdir().unwrap();
        let options = options_in(place.path());
        let (directory, spec) = prepared(&options, place.path());
        // A folder where each is to be prepared: it can't be written.
        for path in [directory.record(0), directory.exit(0)] {
            let name = path.file_name().unwrap().to_str().unwrap();
            fs::create_dir(path.with_file_name(format!("{name}.{}.tmp", std::process::id()))).unwrap();
        }
        let facts = StartFacts::from(&spec);
        let why = failure(&directory.record(0), &io::Error::from_raw_os_error(libc::EIO));
        assert!(outlast(&options, &facts, &why, Instant::now()).is_err(), "a shim that comes late could take it");
        symlink("/proc/self/mem", directory.record(0)).unwrap();
        assert!(is_unreadable(&durable::read::<ProcessIdentity>(&directory.record(0)).unwrap_err()));
        let exit = outlast(&options, &facts, &why, Instant::now()).unwrap();
        assert_eq!(exit.failure, Some(why));
        assert!(!directory.exit(0).exists(), "there was no room for it: the next agent comes to the same");
        assert!(directory.record(0).is_symlink(), "no shim takes the start");
    }

    // A cable that came loose would have had all tasks of a machine stopped.
    #[test]
    fn where_nothing_of_many_can_be_read_it_is_the_disk_and_nobody_is_stopped() {
        let place = tempfile::tempdir().unwrap();
        let options = options_in(place.path());
        let specs = (1..=9).map(|slot| {
            let directory = options.directory.allocation(AllocationId { slot, generation: 1 });
            fs::create_dir_all(directory.root()).unwrap();
            symlink("/proc/self/mem", directory.spec()).unwrap();
            directory.spec()
        });
        let specs: Vec<_> = specs.collect();
        let told = recover::recover(&options, &exec::no_alarm()).err().unwrap().to_string();
        assert!(told.contains("alloc-1-1/spec.json can't be read") && told.ends_with("(and so of 8 others)"), "{told}");
        assert!(specs.iter().all(|spec| spec.is_symlink()), "nothing was changed");
        fs::remove_file(&specs[8]).unwrap();
        let found = recover::recover(&options, &exec::no_alarm()).unwrap();
        assert_eq!(found.len(), 8, "of so many each ends by itself");
    }

    // By the name of a directory alone, whoever lists it would be taken for its shim, and killed.
    #[test]
    fn a_shim_is_known_by_its_words_and_its_directory() {
        let place = tempfile::tempdir().unwrap();
        let options = options_in(place.path());
        let directory = options.directory.allocation(ALLOCATION);
        fs::create_dir_all(directory.root()).unwrap();
        let link = place.path().join("link");
        symlink(options.directory.root(), &link).unwrap();
        let facts = StartFacts::unknown(ALLOCATION, None);
        let rest = Rest { shim: &options.shim, directory: &directory, facts: &facts };
        let linked = AgentDirectory::new(link).allocation(ALLOCATION);
        let other = options.directory.allocation(AllocationId { slot: 2, generation: 1 });
        let run = |words: &[&std::ffi::OsStr]| {
            let mut sleep = std::process::Command::new("/bin/sh");
            let mut child =
                sleep.args(["-c", "read -r _"]).args(words).stdin(std::process::Stdio::piped()).spawn().unwrap();
            // Before its exec it is this very process.
            let begun = Instant::now();
            let is_found = |child: u32| rest.shims().unwrap().contains(&i32::try_from(child).unwrap());
            let mut found = is_found(child.id());
            while !found && begun.elapsed() < Duration::from_millis(200) {
                found = is_found(child.id());
            }
            child.kill().unwrap();
            child.wait().unwrap();
            found
        };
        let shim = std::ffi::OsStr::new("shim");
        let root = |directory: &AllocationDirectory| directory.root().as_os_str().to_owned();
        assert!(run(&[shim, &root(&directory)]));
        assert!(run(&[shim, &root(&linked)]), "by another way");
        assert!(!run(&[&root(&directory)]), "it is no shim");
        assert!(!run(&[std::ffi::OsStr::new("-r"), shim, &root(&directory)]), "it looks for the word in it");
        assert!(!run(&[shim, &root(&other)]), "it is another one's");
    }
}

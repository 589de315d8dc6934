//! Removing what tasks left, however they nested it.
//!
//! `std::fs::remove_dir_all` takes a stack frame and a descriptor for each level. A task that nests ten thousand directories, which is a
//! line of shell, would end the agent with it, and each agent after that one. This takes a few descriptors and no depth: what
//! lies deeper is moved up to the root before it is removed. To be used when nobody writes there any more: where somebody does all the same, something
//! of that is left, and nothing elsewhere is changed.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, Dir, Mode, OFlags, chmod, fchmod, openat, renameat, unlinkat},
    io::Errno,
};

/// How names begin to which directories are moved.
const MOVED_PREFIX: &str = ".removing-";
/// Names that are tried for one directory: a task may have taken some, by chance or on purpose.
const NAMES_TRIED: u32 = 1000;
/// Each level of a tree may take a pass. More levels than that nobody has made yet; they would be gone after several removals, as what was moved up
/// stays so. A pass over little takes tens of microseconds, and all of these some seconds.
const PASSES_MAX: u32 = 100_000;

/// Removes a directory with all that is in it, or a file. Follows no link. That there is nothing is no error.
///
/// # Errors
/// The first one, after everything else was removed that can be.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    match unlinkat(CWD, path, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(error) if !is_a_directory(error) => return Err(error.into()),
        Err(_) => {}
    }
    let mut removal = Removal { root: open(CWD, path)?, next: 0, moved: 0 };
    repeat(|| removal.pass())?;
    Ok(unlinkat(CWD, path, AtFlags::REMOVEDIR)?)
}

/// Makes passes as long as they say that there may be more, up to a bound: who makes directories in each other there all the time would keep it going.
/// After the first one there always is another: names may be free that had been taken, to which nothing could be moved.
///
/// # Errors
/// Those of the last one.
fn repeat(mut pass: impl FnMut() -> io::Result<bool>) -> io::Result<()> {
    let mut outcome = pass();
    for _ in 1..PASSES_MAX {
        outcome = pass();
        if !matches!(outcome, Ok(true)) {
            break;
        }
    }
    outcome.map(drop)
}

/// What the kernel says of a directory that shall be unlinked as if it were a file: one on Linux, the other in POSIX.
fn is_a_directory(error: Errno) -> bool {
    matches!(error, Errno::ISDIR | Errno::PERM)
}

struct Removal {
    root: OwnedFd,
    /// The number of the next directory that is moved up.
    next: u32,
    /// How much was moved up to the root: what calls for another pass. What is removed does not: who makes files there all the time would keep it
    /// going.
    moved: u64,
}

impl Removal {
    /// Removes what is in the root now, and moves up what is two levels deeper. True: something was moved up.
    ///
    /// # Errors
    /// The first one, where nothing was.
    fn pass(&mut self) -> io::Result<bool> {
        let (before, mut first_error) = (self.moved, None);
        // Read anew each time, from its beginning: entries come and go under the reading.
        for entry in Dir::read_from(&self.root)? {
            let entry = entry?;
            if is_itself_or_parent(entry.file_name().to_bytes()) {
                continue;
            }
            let outcome = self.remove_entry(entry.file_name());
            first_error = first_error.or_else(|| outcome.err());
        }
        match first_error {
            // Of what can't be removed the rest was moved up: the next pass removes that.
            Some(error) if self.moved == before => Err(error),
            _ => Ok(self.moved > before),
        }
    }

    fn remove_entry(&mut self, name: &std::ffi::CStr) -> io::Result<()> {
        if remove_one(self.root.as_fd(), name)? {
            return Ok(());
        }
        let directory = open(self.root.as_fd(), name)?;
        let mut first_error = None;
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let inner = entry.file_name();
            if is_itself_or_parent(inner.to_bytes()) {
                continue;
            }
            let outcome = match remove_one(directory.as_fd(), inner) {
                Ok(false) => self.move_up(directory.as_fd(), inner),
                other => other.map(drop),
            };
            first_error = first_error.or_else(|| outcome.err());
        }
        // A directory that is removed while it is open is freed at its closing, which takes ext4 some milliseconds.
        drop(directory);
        match first_error {
            Some(error) => Err(error),
            None => Ok(unlinkat(&self.root, name, AtFlags::REMOVEDIR)?),
        }
    }

    fn move_up(&mut self, directory: BorrowedFd<'_>, name: &std::ffi::CStr) -> io::Result<()> {
        // Its link to its parent changes, which is a change of itself.
        let _ = give_to_owner(directory, name);
        let mut error = Errno::EXIST;
        for _ in 0..NAMES_TRIED {
            let moved = format!("{MOVED_PREFIX}{}", self.next);
            self.next = self.next.wrapping_add(1);
            match renameat(directory, name, &self.root, moved) {
                Ok(()) => {
                    self.moved += 1;
                    return Ok(());
                }
                // Somebody has that name.
                Err(taken @ (Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR)) => error = taken,
                Err(other) => return Err(other.into()),
            }
        }
        Err(error.into())
    }
}

/// Removes a file or an empty directory. False: it is a directory with something in it.
fn remove_one(directory: BorrowedFd<'_>, name: &std::ffi::CStr) -> io::Result<bool> {
    match unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(true),
        Err(error) if !is_a_directory(error) => return Err(error.into()),
        Err(_) => {}
    }
    match unlinkat(directory, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Opens a directory. One whose owner may not read or change it is made so first: a task may have locked itself out.
fn open<P: rustix::path::Arg + Copy>(directory: BorrowedFd<'_>, name: P) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = match openat(directory, name, flags, Mode::empty()) {
        Err(Errno::ACCESS) => {
            give_to_owner(directory, name)?;
            openat(directory, name, flags, Mode::empty())?
        }
        other => other?,
    };
    // Fails where it is somebody else's; then so will the rest, and says so.
    let _ = fchmod(&opened, Mode::RWXU);
    Ok(opened)
}

/// Lets the owner of a directory read and change it, whatever it was allowed. By a descriptor, which needs no right to what is in it: by its name
/// the rights of a file elsewhere could change, as whoever still writes there may put a link in its place at any time.
fn give_to_owner<P: rustix::path::Arg>(directory: BorrowedFd<'_>, name: P) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let held = openat(directory, name, flags, Mode::empty())?;
    // `fchmod` takes none that was opened so.
    chmod(format!("/proc/self/fd/{}", held.as_raw_fd()), Mode::RWXU)
}

fn is_itself_or_parent(name: &[u8]) -> bool {
    matches!(name, b"." | b"..")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{fs, os::unix::fs::PermissionsExt, os::unix::fs::symlink};

    use rustix::fs::mkdirat;

    use super::*;

    /// Directories in each other, which no path is short enough to name.
    fn nest(root: &Path, depth: u32) {
        let mut directory = open(CWD, root).unwrap();
        for _ in 0..depth {
            mkdirat(&directory, "d", Mode::RWXU).unwrap();
            directory = open(directory.as_fd(), "d").unwrap();
        }
    }

    // A task nested 30,000 directories. The agent that removed them overflowed its stack, and so did the one that was started
    // after it.
    #[test]
    fn depth_costs_neither_stack_nor_descriptors() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("task");
        fs::create_dir(&root).unwrap();
        nest(&root, 2_000);
        // Far too little for a frame a level.
        let small = std::thread::Builder::new().stack_size(256 << 10);
        let removed = root.clone();
        small.spawn(move || remove_tree(&removed)).unwrap().join().unwrap().unwrap();
        assert!(!root.exists());
    }

    #[test]
    fn whatever_is_inside_goes_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let (root, outside) = (place.path().join("task"), place.path().join("outside"));
        fs::create_dir_all(root.join("a/b/c")).unwrap();
        fs::create_dir_all(root.join("a/b2/c2")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("dear"), "x").unwrap();
        for (number, name) in ["a/file", "a/b/file", "a/b/c/file", ".removing-0"].into_iter().enumerate() {
            fs::write(root.join(name), number.to_string()).unwrap();
        }
        fs::create_dir_all(root.join(".removing-1/inside")).unwrap();
        symlink(&outside, root.join("a/b/link")).unwrap();
        symlink(&outside, root.join("link")).unwrap();
        for locked in ["a/b/c", "a/b"] {
            fs::set_permissions(root.join(locked), fs::Permissions::from_mode(0o000)).unwrap();
        }
        remove_tree(&root).unwrap();
        assert!(!root.exists() && outside.join("dear").exists());
        remove_tree(&root).unwrap();
    }

    // A container that had got a task's directory to write to went on after the task. The removal of what it made took a core for as long, and after a
    // second such task no file of any task was removed on that machine.
    #[test]
    fn who_goes_on_making_files_there_keeps_no_removal_going() {
        let place = tempfile::tempdir().unwrap();
        let mut removal = Removal { root: open(CWD, place.path()).unwrap(), next: 0, moved: 0 };
        fs::create_dir_all(place.path().join("one/below/the/other")).unwrap();
        assert!(removal.pass().unwrap());
        while removal.pass().unwrap() {}
        for made in ["file", "another"] {
            fs::write(place.path().join(made), "x").unwrap();
            fs::create_dir(place.path().join("empty")).unwrap();
            assert!(!removal.pass().unwrap(), "that is no reason for the next pass");
        }
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
        let mut passes = 0;
        let always_more = || {
            passes += 1;
            Ok(true)
        };
        repeat(always_more).unwrap();
        assert_eq!(passes, PASSES_MAX);
    }

    // A task had taken all names to which a directory of its could be moved, and these were gone after the first pass.
    #[test]
    fn a_first_pass_that_fails_is_followed_by_another() {
        let mut outcomes = vec![Ok(false), Err(io::ErrorKind::AlreadyExists.into())];
        repeat(|| outcomes.pop().unwrap()).unwrap();
        assert!(outcomes.is_empty());
        let mut outcomes = vec![Err(io::ErrorKind::PermissionDenied.into()), Ok(true)];
        let error = repeat(|| outcomes.pop().unwrap()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }

    // An agent that runs as root gave its tasks' directories to other users, of whom one put a link there in the moment in which a directory's rights
    // were changed. Those of any file of the machine were then.
    #[test]
    fn the_rights_of_what_a_link_leads_to_stay_when_it_comes_in_the_place_of_a_directory() {
        let place = tempfile::tempdir().unwrap();
        let (root, file, directory) =
            (place.path().join("task"), place.path().join("file"), place.path().join("directory"));
        fs::create_dir(&root).unwrap();
        fs::write(&file, "x").unwrap();
        fs::create_dir(&directory).unwrap();
        let mut removal = Removal { root: open(CWD, &root).unwrap(), next: 0, moved: 0 };
        let within = open(CWD, &root).unwrap();
        let rights = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        for outside in [&file, &directory] {
            fs::set_permissions(outside, fs::Permissions::from_mode(0o644)).unwrap();
            symlink(outside, root.join("link")).unwrap();
            assert_eq!(give_to_owner(within.as_fd(), c"link"), Err(Errno::NOTDIR));
            removal.move_up(within.as_fd(), c"link").unwrap();
            assert_eq!(rights(outside), 0o644);
        }
        // What it is there for.
        let locked = root.join("locked");
        fs::create_dir(&locked).unwrap();
        fs::set_permissions(&locked, fs::Permissions::from_mode(0o000)).unwrap();
        give_to_owner(within.as_fd(), c"locked").unwrap();
        assert_eq!(rights(&locked), 0o700);
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
    }

    #[test]
    fn a_link_is_removed_and_not_what_it_leads_to() {
        let place = tempfile::tempdir().unwrap();
        let (link, outside) = (place.path().join("task"), place.path().join("outside"));
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("dear"), "x").unwrap();
        symlink(&outside, &link).unwrap();
        remove_tree(&link).unwrap();
        assert!(link.symlink_metadata().is_err() && outside.join("dear").exists());
    }
}

//! Removing what tasks left, however they nested it.
//!
//! `std::fs::remove_dir_all` takes a stack frame and a descriptor for each level. A task that nests ten thousand directories, which is a
//! line of shell, would end the agent with it, and each agent after that one. This takes two descriptors and no depth: what
//! lies deeper is moved up to the root before it is removed. To be used when nobody writes there any more.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, Dir, Mode, OFlags, chmodat, fchmod, openat, renameat, unlinkat},
    io::Errno,
};

/// How names begin to which directories are moved.
const MOVED_PREFIX: &str = ".removing-";
/// Names that are tried for one directory: a task may have taken some, by chance or on purpose.
const NAMES_TRIED: u32 = 1000;

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
    let mut removal = Removal { root: open(CWD, path)?, next: 0, changes: 0 };
    while removal.pass()? {}
    Ok(unlinkat(CWD, path, AtFlags::REMOVEDIR)?)
}

/// What the kernel says of a directory that shall be unlinked as if it were a file: one on Linux, the other in POSIX.
fn is_a_directory(error: Errno) -> bool {
    matches!(error, Errno::ISDIR | Errno::PERM)
}

struct Removal {
    root: OwnedFd,
    /// The number of the next directory that is moved up.
    next: u32,
    /// How much of the root was removed, and how much was moved up to it: what calls for another pass. What is removed deeper down does not: who
    /// makes files there all the time would keep it going.
    changes: u64,
}

impl Removal {
    /// Removes what is in the root now, and moves up what is two levels deeper. True: there may be more.
    fn pass(&mut self) -> io::Result<bool> {
        let (before, mut first_error) = (self.changes, None);
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
            Some(error) if self.changes == before => Err(error),
            _ => Ok(self.changes > before),
        }
    }

    fn remove_entry(&mut self, name: &std::ffi::CStr) -> io::Result<()> {
        if remove_one(self.root.as_fd(), name)? {
            self.changes += 1;
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
            None => {
                unlinkat(&self.root, name, AtFlags::REMOVEDIR)?;
                self.changes += 1;
                Ok(())
            }
        }
    }

    fn move_up(&mut self, directory: BorrowedFd<'_>, name: &std::ffi::CStr) -> io::Result<()> {
        // Its link to its parent changes, which is a change of itself.
        let _ = chmodat(directory, name, Mode::RWXU, AtFlags::empty());
        let mut error = Errno::EXIST;
        for _ in 0..NAMES_TRIED {
            let moved = format!("{MOVED_PREFIX}{}", self.next);
            self.next = self.next.wrapping_add(1);
            match renameat(directory, name, &self.root, moved) {
                Ok(()) => {
                    self.changes += 1;
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
        // No link: those can't be opened for another reason.
        Err(Errno::ACCESS) => {
            chmodat(directory, name, Mode::RWXU, AtFlags::empty())?;
            openat(directory, name, flags, Mode::empty())?
        }
        other => other?,
    };
    // Fails where it is somebody else's; then so will the rest, and says so.
    let _ = fchmod(&opened, Mode::RWXU);
    Ok(opened)
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

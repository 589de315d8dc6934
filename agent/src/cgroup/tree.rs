//! Walking the groups that a task made below its own, however it nested and named them.
//!
//! A task may nest them until no path is short enough to name one, and far deeper than a stack or the descriptors of a process reach. So a walk
//! holds one descriptor, names groups from where it stands, and goes back up by `..`. Groups can't be moved up, as
//! [`crate::removal`] does with directories. It knows nothing of limits and versions.

use std::{
    ffi::CString,
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, statat, unlinkat},
    io::Errno,
};

/// The processes of a group and of all groups below it.
///
/// # Errors
/// When one can't be looked at, such as without a descriptor left.
pub(super) fn pids_below(root: &Path) -> io::Result<Vec<i32>> {
    let texts = contents_below(root, "cgroup.procs")?;
    Ok(texts.iter().flat_map(|text| text.lines()).filter_map(|line| line.trim().parse().ok()).collect())
}

/// What stands in that file of a group and of all groups below it; nothing where it is not there.
///
/// # Errors
/// When one can't be read, such as without a descriptor left.
pub(super) fn contents_below(root: &Path, file: &str) -> io::Result<Vec<String>> {
    let mut texts = Vec::new();
    walk(root, |group| {
        texts.push(read(group, file)?);
        Ok(())
    })?;
    Ok(texts)
}

/// The names of the groups right below one.
///
/// # Errors
/// When they can't be listed.
pub(super) fn children(group: &Path) -> io::Result<Vec<CString>> {
    match open(CWD, group)? {
        Some(group) => children_of(group.as_fd()),
        None => Ok(Vec::new()),
    }
}

/// Removes a group and all groups below it, which must be empty. None is no error.
///
/// # Errors
/// The first one, such as that one is busy. What was removed by then is gone.
pub(super) fn remove_below(root: &Path) -> io::Result<()> {
    let Some(mut here) = open(CWD, root)? else { return Ok(()) };
    let mut way: Vec<CString> = Vec::new();
    loop {
        // Read anew each time: its place in a list is of no use once that was changed.
        if let Some(name) = first_child_of(here.as_fd())? {
            if let Some(child) = open(here.as_fd(), &name)? {
                here = child;
                way.push(name);
            }
            continue;
        }
        let Some(name) = way.pop() else { break };
        here = parent_of(here.as_fd())?;
        remove_one(here.as_fd(), &name)?;
    }
    remove_one(CWD, root)
}

/// Shows each group to `visit`, `root` first. One that is gone when it is its turn is left out.
fn walk(root: &Path, mut visit: impl FnMut(BorrowedFd<'_>) -> io::Result<()>) -> io::Result<()> {
    let Some(mut here) = open(CWD, root)? else { return Ok(()) };
    visit(here.as_fd())?;
    // On each level down to where it stands, what is still to be visited there.
    let mut to_visit = vec![children_of(here.as_fd())?];
    while let Some(names) = to_visit.last_mut() {
        if let Some(name) = names.pop() {
            if let Some(child) = open(here.as_fd(), &name)? {
                here = child;
                visit(here.as_fd())?;
                to_visit.push(children_of(here.as_fd())?);
            }
            continue;
        }
        to_visit.pop();
        if !to_visit.is_empty() {
            here = parent_of(here.as_fd())?;
        }
    }
    Ok(())
}

/// The content of a group's file; empty when the group, or the file, is gone.
fn read(group: BorrowedFd<'_>, file: &str) -> io::Result<String> {
    let mut text = String::new();
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let opened = unless_gone(openat(group, file, flags, Mode::empty()).map(Some).map_err(Into::into))?;
    if let Some(file) = opened {
        unless_gone(File::from(file).read_to_string(&mut text))?;
    }
    Ok(text)
}

/// Opens a group; `None`: it is gone.
fn open<P: rustix::path::Arg>(from: BorrowedFd<'_>, name: P) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    unless_gone(openat(from, name, flags, Mode::empty()).map(Some).map_err(Into::into))
}

/// The group above, which is the one that was left for this one: none can be moved below another.
fn parent_of(group: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    open(group, "..")?.ok_or_else(|| Errno::NOENT.into())
}

fn children_of(group: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    each_child_of(group, |name| {
        names.push(name);
        true
    })?;
    Ok(names)
}

fn first_child_of(group: BorrowedFd<'_>) -> io::Result<Option<CString>> {
    let mut first = None;
    each_child_of(group, |name| {
        first = Some(name);
        false
    })?;
    Ok(first)
}

/// Hands the names of the groups right below one to `take`, as long as that wants more.
fn each_child_of(group: BorrowedFd<'_>, mut take: impl FnMut(CString) -> bool) -> io::Result<()> {
    let Some(entries) = unless_gone(Dir::read_from(group).map(Some).map_err(Into::into))? else { return Ok(()) };
    for entry in entries {
        let Some(entry) = unless_gone(entry.map(Some).map_err(Into::into))? else { break };
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => match statat(group, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(found) => FileType::from_raw_mode(found.st_mode),
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            },
            kind => kind,
        };
        if kind.is_dir() && !take(name.to_owned()) {
            break;
        }
    }
    Ok(())
}

fn remove_one<P: rustix::path::Arg>(from: BorrowedFd<'_>, name: P) -> io::Result<()> {
    match unlinkat(from, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// What was read of a group. There is nothing of one that is gone, or was removed while it was read; nor in a group of threads, whose
/// processes are listed above it.
fn unless_gone<T: Default>(read: io::Result<T>) -> io::Result<T> {
    let gone = [Errno::NOENT, Errno::NODEV, Errno::OPNOTSUPP];
    match read {
        Err(error) if gone.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error())) => Ok(T::default()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use rustix::fs::{fstat, mkdirat};

    use super::*;

    /// A tree of directories, which these walks take for groups.
    fn nested(depth: u32) -> (tempfile::TempDir, std::path::PathBuf) {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("group");
        fs::create_dir(&root).unwrap();
        let name = "x".repeat(200);
        let mut here = open(CWD, &root).unwrap().unwrap();
        for number in 1..=depth {
            mkdirat(&here, "beside", Mode::RWXU).unwrap();
            mkdirat(&here, &*name, Mode::RWXU).unwrap();
            here = open(here.as_fd(), &*name).unwrap().unwrap();
            let flags = OFlags::WRONLY | OFlags::CREATE;
            let file = openat(&here, "cgroup.procs", flags, Mode::RWXU).unwrap();
            rustix::io::write(file, format!("{number}\n").as_bytes()).unwrap();
        }
        (place, root)
    }

    /// As groups lose their files with themselves, and directories don't.
    fn remove_files(root: &Path) {
        walk(root, |group| match unlinkat(group, "cgroup.procs", AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        })
        .unwrap();
    }

    // A task nested groups under long names. No path was short enough for the last ones: its shim looked at them for ever, and each agent after
    // that one did so before it registered.
    #[test]
    fn depth_costs_neither_stack_nor_descriptors_nor_paths() {
        // More than a process usually has descriptors, and far too little for a frame a level.
        let (_place, root) = nested(1100);
        let small = std::thread::Builder::new().stack_size(256 << 10);
        let walked = move || {
            let mut pids = pids_below(&root).unwrap();
            pids.sort_unstable();
            assert_eq!(pids, (1..=1100).collect::<Vec<_>>());
            assert_eq!(children(&root).unwrap().len(), 2);
            remove_files(&root);
            remove_below(&root).unwrap();
            assert!(!root.exists());
            remove_below(&root).unwrap();
            assert!(pids_below(&root).unwrap().is_empty() && children(&root).unwrap().is_empty());
        };
        small.spawn(walked).unwrap().join().unwrap();
    }

    #[test]
    fn each_group_is_visited_once_also_when_it_goes_meanwhile() {
        let place = tempfile::tempdir().unwrap();
        let at = |path: &str| place.path().join(path);
        for path in ["a/b/c", "a/d", "e", "f/g"] {
            fs::create_dir_all(at(path)).unwrap();
        }
        let mut visited = Vec::new();
        walk(place.path(), |group| {
            visited.push(fstat(group).unwrap().st_ino);
            // With the one in which the walk stands: it still finds its way back.
            let _ = fs::remove_dir(at("a/b/c"));
            let _ = fs::remove_dir(at("f/g"));
            Ok(())
        })
        .unwrap();
        let all = visited.len();
        visited.sort_unstable();
        visited.dedup();
        assert_eq!(visited.len(), all);
        assert!((6..=8).contains(&all), "{all}");
    }

    #[test]
    fn what_can_not_be_removed_is_an_error() {
        let (_place, root) = nested(3);
        assert_eq!(remove_below(&root).unwrap_err().raw_os_error(), Some(Errno::NOTEMPTY.raw_os_error()));
        remove_files(&root);
        remove_below(&root).unwrap();
        assert!(!root.exists());
    }
}

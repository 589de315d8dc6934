//! Which agent this is: what tells two directories apart that serve a machine of one name.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path, time::SystemTime};

use serde::{Deserialize, Serialize};

use super::of_file;
use crate::{directories::AgentDirectory, durable, exec::is_unreadable};

/// A new random name with each reading, from the kernel.
const RANDOM: &str = "/proc/sys/kernel/random/uuid";
/// The longest that the cell takes.
const BYTES_MAX: usize = 64;

/// What to do where the disk does not give it back. It is not replaced like a damaged one: the disk may give it back in a moment.
const WHAT_TO_DO: &str = " (move the file away: another one is made up, tasks go on, and the cell takes the agent once the lease of the one before has run out)";

/// Which file an instance stands in. Who copies a directory copies both, and the instance into another file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    instance: String,
    inode: u64,
    /// When the file was made; `None`: its file system does not say.
    made: Option<SystemTime>,
}

impl Place {
    fn of(path: &Path, instance: &str) -> io::Result<Self> {
        let found = fs::metadata(path)?;
        Ok(Self { instance: instance.to_owned(), inode: found.ino(), made: found.created().ok() })
    }

    /// True where all speaks for it: some file systems number their files anew when they are mounted, and who takes an agent for another one by
    /// mistake has its machine wait for a lease with each start.
    fn is_copied_to(&self, other: &Self) -> bool {
        let was_made_apart = self.made.zip(other.made).is_some_and(|(one, other)| one != other);
        self.instance == other.instance && self.inode != other.inode && was_made_apart
    }
}

/// The directory's instance, made up when it has none of its own: a copy of another one's, with which two agents would start what is granted to
/// one, is replaced like a damaged one. Its machine then waits for one lease.
pub(super) fn of(directory: &AgentDirectory) -> io::Result<String> {
    let path = directory.root().join("instance");
    let note = directory.root().join("instance-place");
    // Earlier versions wrote none. One that is damaged is written anew.
    let noted = durable::read::<Place>(&note).ok().flatten();
    let is_copied = |instance: &str| {
        noted.as_ref().is_some_and(|noted| Place::of(&path, instance).is_ok_and(|found| noted.is_copied_to(&found)))
    };
    let instance = match read(&path)? {
        Some(instance) if is_copied(&instance) => {
            tracing::warn!(path = %path.display(), "the directory is a copy: another instance is made up for its agent");
            make_up(&path)?
        }
        Some(instance) => instance,
        None => make_up(&path)?,
    };
    let is_to_note = |found: &Place| noted.as_ref() != Some(found);
    let written = Place::of(&path, &instance)
        .and_then(|found| if is_to_note(&found) { durable::write_surely(&note, &found) } else { Ok(()) });
    if let Err(error) = written {
        tracing::warn!(%error, path = %note.display(), "not written: a copy of the directory would not be told from it");
    }
    Ok(instance)
}

/// What stands there; `None`: nothing that can be used.
fn read(path: &Path) -> io::Result<Option<String>> {
    match durable::read::<String>(path) {
        Ok(Some(instance)) if is_instance(&instance) => return Ok(Some(instance)),
        Ok(None) => {}
        Ok(Some(_)) => tracing::warn!(path = %path.display(), "no instance of an agent: replaced"),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => tracing::warn!(%error, "replaced"),
        Err(error) if is_unreadable(&error) => return Err(of_file(path, &error, WHAT_TO_DO)),
        Err(error) => return Err(of_file(path, &error, "")),
    }
    Ok(None)
}

fn make_up(path: &Path) -> io::Result<String> {
    let instance = fs::read_to_string(RANDOM)?.trim().to_owned();
    if !is_instance(&instance) {
        return Err(io::Error::other(format!("{RANDOM}: expected a UUID, found {instance:?}")));
    }
    durable::write_surely(path, &instance)?;
    Ok(instance)
}

fn is_instance(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_directory_keeps_its_instance_and_another_one_has_another() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let instance = |at: &tempfile::TempDir| of(&AgentDirectory::new(at.path().to_owned())).unwrap();
        let first = instance(&one);
        assert_eq!(instance(&one), first);
        assert_ne!(instance(&other), first);
        fs::write(one.path().join("instance"), "\"Not One\"").unwrap();
        assert!(is_instance(&instance(&one)));
        fs::write(one.path().join("instance"), "").unwrap();
        assert!(is_instance(&instance(&one)));
    }

    // The cell took the agents of a directory and of its copy for one: both started all that was granted to it.
    #[test]
    fn a_copied_directory_has_another_instance_and_a_moved_one_keeps_its_own() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        let instance = |name: &str| of(&AgentDirectory::new(at(name))).unwrap();
        fs::create_dir(at("first")).unwrap();
        let first = instance("first");
        // As of an earlier version.
        fs::remove_file(at("first/instance-place")).unwrap();
        assert_eq!(instance("first"), first);

        // Longer than the kernel's clock of files takes for one step.
        std::thread::sleep(std::time::Duration::from_millis(50));
        fs::create_dir(at("copy")).unwrap();
        for name in ["instance", "instance-place"] {
            fs::copy(at("first").join(name), at("copy").join(name)).unwrap();
        }
        let copy = instance("copy");
        let is_told_when = fs::metadata(at("first/instance")).unwrap().created().is_ok();
        assert_eq!(copy != first, is_told_when);
        assert_eq!(instance("copy"), copy, "it keeps that one");

        fs::rename(at("first"), at("moved")).unwrap();
        assert_eq!(instance("moved"), first);
    }

    // A file system that numbers its files anew with each mount would have had its machine wait for a lease after each.
    #[test]
    fn one_sign_of_a_copy_is_none() {
        let times = [SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + std::time::Duration::from_nanos(1)];
        let place = |inode, made| Place { instance: "a".into(), inode, made };
        let noted = place(1, Some(times[0]));
        for (found, is_copy) in [
            (place(1, Some(times[1])), false),
            (place(2, Some(times[0])), false),
            (place(2, None), false),
            (place(2, Some(times[1])), true),
            (Place { instance: "b".into(), ..place(2, Some(times[1])) }, false),
        ] {
            assert_eq!(noted.is_copied_to(&found), is_copy, "{found:?}");
        }
        assert!(!place(1, None).is_copied_to(&place(2, Some(times[0]))));
    }
}

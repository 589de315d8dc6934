//! Which agent this is: what tells two directories apart that serve a machine of one name.

use std::{fs, io};

use super::of_file;
use crate::{directories::AgentDirectory, durable, exec::is_unreadable};

/// A new random name with each reading, from the kernel.
const RANDOM: &str = "/proc/sys/kernel/random/uuid";
/// The longest that the cell takes.
const BYTES_MAX: usize = 64;

/// What to do where the disk does not give it back. It is not replaced like a damaged one: the disk may give it back in a moment.
const WHAT_TO_DO: &str = " (move the file away: another one is made up, tasks go on, and the cell takes the agent once the lease of the one before has run out)";

/// The directory's instance, made up when it has none. A damaged one is replaced: its machine then waits for one lease.
pub(super) fn of(directory: &AgentDirectory) -> io::Result<String> {
    let path = directory.root().join("instance");
    match durable::read::<String>(&path) {
        Ok(Some(instance)) if is_instance(&instance) => return Ok(instance),
        Ok(None) => {}
        Ok(Some(_)) => tracing::warn!(path = %path.display(), "no instance of an agent: replaced"),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => tracing::warn!(%error, "replaced"),
        Err(error) if is_unreadable(&error) => return Err(of_file(&path, &error, WHAT_TO_DO)),
        Err(error) => return Err(of_file(&path, &error, "")),
    }
    let instance = fs::read_to_string(RANDOM)?.trim().to_owned();
    if !is_instance(&instance) {
        return Err(io::Error::other(format!("{RANDOM}: expected a UUID, found {instance:?}")));
    }
    durable::write_surely(&path, &instance)?;
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
}

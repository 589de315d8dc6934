//! Which files figures are made of: digests of their content stand among the parameters, as the name of a case has the files' names alone, and two files of
//! one name are not the same jobs.

use std::fs::File;
use std::path::Path;

use anyhow::Context;
use serde_json::json;

use super::{Flags, machines};
use crate::figure::{JOBS_DIGEST, MACHINES_DIGEST, Parameters};

/// Hexadecimal digits of a digest that are kept: two files that differ in none of them are not met by chance.
const DIGITS: usize = 16;

/// The files of a replay: those that its jobs are from, and those that its machines are from. What is drawn or said in words has no file.
///
/// # Errors
/// When one cannot be read.
pub(super) fn replay(flags: &Flags) -> anyhow::Result<Parameters> {
    let machines = flags.machines.as_deref().and_then(machines::file);
    digests([flags.backup.as_deref(), flags.jobs.as_deref()], [flags.cell.as_deref(), machines])
}

/// The digests of files, as parameters.
///
/// # Errors
/// When one cannot be read.
pub(super) fn digests<'a>(
    jobs: impl IntoIterator<Item = Option<&'a Path>>,
    machines: impl IntoIterator<Item = Option<&'a Path>>,
) -> anyhow::Result<Parameters> {
    let all = |files: Vec<Option<&Path>>| {
        files.into_iter().flatten().map(digest).collect::<anyhow::Result<Vec<String>>>().map(|all| all.join("+"))
    };
    let mut parameters = Parameters::new();
    for (name, files) in
        [(JOBS_DIGEST, jobs.into_iter().collect::<Vec<_>>()), (MACHINES_DIGEST, machines.into_iter().collect())]
    {
        let digests = all(files)?;
        if !digests.is_empty() {
            parameters.insert(name.to_owned(), json!(digests));
        }
    }
    Ok(parameters)
}

fn digest(path: &Path) -> anyhow::Result<String> {
    let mut hasher = blake3::Hasher::new();
    let read = File::open(path).and_then(|mut file| std::io::copy(&mut file, &mut hasher));
    read.with_context(|| format!("{}: expected a file that can be read", path.display()))?;
    Ok(hasher.finalize().to_hex().chars().take(DIGITS).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_one_name_are_told_apart_by_what_is_in_them() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let of = |folder: &tempfile::TempDir, text: &str| {
            let path = folder.path().join("jobs.csv");
            std::fs::write(&path, text).unwrap();
            digests([Some(path.as_path()), None], [None]).unwrap()
        };
        let [one, other, same] = [(&folders[0], "a"), (&folders[1], "b"), (&folders[2], "a")].map(|(f, t)| of(f, t));
        assert!(one == same && one != other, "{one:?} {other:?}");
        assert_eq!((one.len(), one[JOBS_DIGEST].as_str().unwrap().len()), (1, DIGITS));
        assert!(digests([None], [None]).unwrap().is_empty());
        let gone = digests([None], [Some(folders[0].path().join("gone").as_path())]).unwrap_err().to_string();
        assert!(gone.ends_with("gone: expected a file that can be read"), "{gone}");
    }
}

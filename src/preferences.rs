//! What a user has written down for all commands: the cell and the namespace that are meant where nobody says otherwise.

use std::{
    ffi::OsString,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::failure::Failure;

/// `$XDG_CONFIG_HOME/plenum/config.toml`: what neither a flag nor the environment said.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Preferences {
    /// The cell's address.
    #[serde(default)]
    pub(crate) addr: Option<String>,
    /// The namespace of jobs and allocations.
    #[serde(default)]
    pub(crate) namespace: Option<String>,
}

impl Preferences {
    /// Reads the file. That there is none is no error.
    ///
    /// # Errors
    ///
    /// `CONFIG` when there is one that cannot be read.
    pub(crate) fn read() -> Result<Self, Failure> {
        let (named, home) = (std::env::var_os("XDG_CONFIG_HOME"), std::env::var_os("HOME"));
        let Some(folder) = users_folder(named, home, ".config") else { return Ok(Self::default()) };
        let path = folder.join("plenum/config.toml");
        Self::read_file(&path)
    }

    fn read_file(path: &Path) -> Result<Self, Failure> {
        match std::fs::read_to_string(path) {
            Ok(text) => {
                toml::from_str(&text).map_err(|error| Failure::new("CONFIG", format!("{}: {error}", path.display())))
            }
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(Self::default()),
            Err(error) => Err(Failure::new("CONFIG", format!("cannot read {}: {error}", path.display()))
                .with_hint("it may name the cell and the namespace that are meant, so nothing was asked of any")),
        }
    }
}

/// A folder of the user's own: what its variable names, or else this one below the home. Paths that are not absolute count as none: they
/// would lead to wherever this process happens to be started.
pub(crate) fn users_folder(named: Option<OsString>, home: Option<OsString>, below: &str) -> Option<PathBuf> {
    let absolute = |path: OsString| Some(PathBuf::from(path)).filter(|path| path.is_absolute());
    named.and_then(absolute).or_else(|| home.and_then(absolute).map(|home| home.join(below)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    // With an empty HOME a cell, and the preferences, were sought in the working directory.
    #[test]
    fn only_absolute_paths_are_a_users_folders() {
        let folder = |named: Option<&str>, home: Option<&str>| {
            users_folder(named.map(OsString::from), home.map(OsString::from), ".config")
        };
        assert_eq!(folder(Some("/x"), Some("/home/a")), Some(PathBuf::from("/x")));
        assert_eq!(folder(None, Some("/home/a")), Some(PathBuf::from("/home/a/.config")));
        for nowhere in ["", "x", "./x"] {
            assert_eq!(folder(Some(nowhere), Some("/home/a")), Some(PathBuf::from("/home/a/.config")));
            assert_eq!(folder(Some(nowhere), Some(nowhere)), None);
            assert_eq!(folder(None, Some(nowhere)), None);
        }
        assert_eq!(folder(None, None), None);
    }

    #[test]
    fn preferences_that_cannot_be_read_are_no_missing_ones() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        assert_eq!(Preferences::read_file(&path).unwrap().addr, None);
        std::fs::write(&path, b"namespace = \"\xff\"").unwrap();
        assert_eq!(Preferences::read_file(&path).unwrap_err().code, "CONFIG");
        assert_eq!(Preferences::read_file(folder.path()).unwrap_err().code, "CONFIG");
        assert_eq!(Preferences::read_file(&path.join("deeper")).unwrap().addr, None);
    }
}

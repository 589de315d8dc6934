//! What a user has written down for all commands: the cell and the namespace that are meant where nobody says otherwise.

use std::{
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
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config"));
        let folder = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let Some(folder) = folder.or_else(home) else { return Ok(Self::default()) };
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

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

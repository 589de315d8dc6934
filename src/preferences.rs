//! What a user has written down for all commands: the cell and the namespace that are meant where nobody says otherwise.

use std::{
    ffi::OsString,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use crate::{
    address::url,
    failure::Failure,
    job_file::{name_fault, settings},
};

/// `$XDG_CONFIG_HOME/plenum/config.toml`: what neither a flag nor the environment said.
#[derive(Debug, Default)]
pub(crate) struct Preferences {
    /// The cell's address.
    pub(crate) addr: Option<String>,
    /// The namespace of jobs and allocations.
    pub(crate) namespace: Option<String>,
}

/// What is to be found out: the rest is not judged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) addr: bool,
    pub(crate) namespace: bool,
}

impl Preferences {
    /// Reads what is wanted of the file, if that is anything. That there is none is no error.
    ///
    /// # Errors
    ///
    /// `CONFIG` when there is one that cannot be read, or what is wanted of it can't be.
    pub(crate) fn read(wanted: Wanted) -> Result<Self, Failure> {
        if !wanted.addr && !wanted.namespace {
            return Ok(Self::default());
        }
        let (named, home) = (std::env::var_os("XDG_CONFIG_HOME"), std::env::var_os("HOME"));
        let Some(folder) = users_folder(named, home, ".config") else { return Ok(Self::default()) };
        let path = folder.join("plenum/config.toml");
        Self::read_file(&path, wanted)
    }

    /// Reads the text of a file of this name.
    ///
    /// # Errors
    ///
    /// `CONFIG` for what is no text of settings, whatever is wanted of it.
    pub(crate) fn parse(name: &str, text: &str) -> Result<Self, Failure> {
        let read = settings(name, text, |settings| Self {
            addr: settings.text("addr"),
            namespace: settings.text("namespace"),
        });
        read.map_err(Failure::from)
    }

    fn check(&self) -> Result<(), Failure> {
        if let Some(address) = &self.addr {
            url(address).map_err(|failure| failure.found_in("addr"))?;
        }
        self.namespace.as_deref().map_or(Ok(()), check_namespace)
    }

    fn read_file(path: &Path, wanted: Wanted) -> Result<Self, Failure> {
        match std::fs::read_to_string(path) {
            Ok(text) => {
                let read = Self::parse(&path.display().to_string(), &text)?;
                let read = Self {
                    addr: read.addr.filter(|_| wanted.addr),
                    namespace: read.namespace.filter(|_| wanted.namespace),
                };
                read.check().map(|()| read).map_err(|failure| failure.found_in_file(path.display()))
            }
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(Self::default()),
            Err(error) => Err(Failure::new("CONFIG", format!("cannot read {}: {error}", path.display()))
                .with_hint("it may name the cell and the namespace that are meant, so nothing was asked of any")),
        }
    }
}

/// Judges a namespace.
///
/// # Errors
///
/// `USAGE` for one that none can be called.
pub(crate) fn check_namespace(namespace: &str) -> Result<(), Failure> {
    match name_fault(namespace) {
        Some(what) => Err(Failure::usage(format!("the namespace {what}"))),
        None => Ok(()),
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

    const ALL: Wanted = Wanted { addr: true, namespace: true };

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

    // It was told as if it had been typed, and no word led to the file.
    #[test]
    fn what_is_wrong_in_preferences_is_told_with_their_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        for (text, told) in [
            ("addr = \"7601\"", "config.toml: addr: `7601` is no address: it names no port"),
            ("addr = \"\"", "config.toml: addr: `` is no address"),
            ("namespace = \"A\"", "config.toml: the namespace `A`"),
            ("adr = \"a:1\"", "config.toml:1:1: unknown setting `adr`; did you mean `addr`?"),
        ] {
            std::fs::write(&path, text).unwrap();
            let failure = Preferences::read_file(&path, ALL).unwrap_err();
            assert!(failure.code == "CONFIG" && failure.message.contains(told), "{failure}");
        }
        std::fs::write(&path, "addr = \"127.0.0.1:7601\"\nnamespace = \"ml\"\n").unwrap();
        assert_eq!(Preferences::read_file(&path, ALL).unwrap().namespace.as_deref(), Some("ml"));
        // A flag or a variable goes over it.
        std::fs::write(&path, "addr = \"https://cell\"\nnamespace = \"ml\"\n").unwrap();
        let read = Preferences::read_file(&path, Wanted { addr: false, ..ALL }).unwrap();
        assert_eq!((read.addr, read.namespace.as_deref()), (None, Some("ml")));
    }

    #[test]
    fn preferences_that_cannot_be_read_are_no_missing_ones() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        assert_eq!(Preferences::read_file(&path, ALL).unwrap().addr, None);
        std::fs::write(&path, b"namespace = \"\xff\"").unwrap();
        assert_eq!(Preferences::read_file(&path, ALL).unwrap_err().code, "CONFIG");
        assert_eq!(Preferences::read_file(folder.path(), ALL).unwrap_err().code, "CONFIG");
        assert_eq!(Preferences::read_file(&path.join("deeper"), ALL).unwrap().addr, None);
    }
}

//! Stories that this machine could not tell: the tests write them to a file, and they are named at the end, so that nobody takes a
//! gate without them for a whole one.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// The variable that names the file, one line a story.
const VARIABLE: &str = "PLENUM_SKIPS";

/// Where they are gathered.
pub(crate) struct Skips(PathBuf);

impl Skips {
    /// Begins with none.
    pub(crate) fn gather() -> Self {
        let path = std::env::temp_dir().join(format!("plenum-skips-{}", std::process::id()));
        let _ = fs::remove_file(&path);
        Self(path)
    }

    /// Lets the tests of this command tell theirs.
    pub(crate) fn told_by(&self, command: &mut Command) {
        command.env(VARIABLE, &self.0);
    }

    /// Names them on standard error; a few words for a summary, empty where there are none.
    pub(crate) fn told(&self) -> String {
        let text = fs::read_to_string(&self.0).unwrap_or_default();
        for line in text.lines() {
            eprintln!("SKIPPED {line}");
        }
        words(text.lines().count())
    }
}

impl Drop for Skips {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn words(count: usize) -> String {
    match count {
        0 => String::new(),
        1 => "; 1 story SKIPPED".to_owned(),
        count => format!("; {count} stories SKIPPED"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_skipped_is_counted_and_the_file_goes() {
        let skips = Skips::gather();
        assert_eq!(skips.told(), "");
        fs::write(&skips.0, "a: no root\nb: no mkfs.xfs\n").expect("a folder for temporary files");
        assert_eq!(skips.told(), "; 2 stories SKIPPED");
        let path = skips.0.clone();
        drop(skips);
        assert!(!path.exists());
    }
}

//! What a suite has measured so far, kept while it goes on: a harness that is killed takes no case with it that had come to its end.

use std::path::Path;

use crate::figure::{Figure, Results};
use crate::progress::say;

/// The figures of the suite that runs. What is added is written into the run's folder at once: that takes some milliseconds, and two syncs of its disk, so it is
/// done between cases and never while something is timed.
///
/// What a suite looks for at its end was not looked for yet, so the results say which one is under way; a suite that fails has its figures taken away.
pub(crate) struct Kept<'a> {
    results: &'a mut Results,
    folder: &'a Path,
    /// Figures of suites before.
    before: usize,
}

impl<'a> Kept<'a> {
    /// Begins a suite, whose figures follow those that there are.
    pub(crate) fn begin(name: &str, results: &'a mut Results, folder: &'a Path) -> Self {
        let before = results.figures.len();
        results.under_way = Some(name.to_owned());
        let kept = Self { results, folder, before };
        kept.write();
        kept
    }

    /// Keeps the figures of a case that has come to its end, and of which nothing is timed any more.
    pub(crate) fn add(&mut self, figures: impl IntoIterator<Item = Figure>) {
        let before = self.results.figures.len();
        self.results.figures.extend(figures);
        if self.results.figures.len() > before {
            self.write();
        }
    }

    /// What this suite has so far.
    pub(crate) fn figures(&self) -> &[Figure] {
        &self.results.figures[self.before..]
    }

    /// Ends the suite. One that failed has no figures.
    pub(crate) fn end(self, has_failed: bool) {
        if has_failed {
            self.results.figures.truncate(self.before);
        }
        self.results.under_way = None;
    }

    /// What cannot be written is still in memory, and there may be room for it later.
    fn write(&self) {
        if let Err(error) = self.results.write(self.folder) {
            say(&format!("error: results so far: {error:#}"));
        }
    }
}

#[cfg(test)]
impl Kept<'_> {
    /// What a suite measures, or why it fails.
    pub(crate) fn of(suite: impl FnOnce(&mut Kept<'_>) -> anyhow::Result<()>) -> anyhow::Result<Vec<Figure>> {
        let (folder, mut results) = (tempfile::tempdir()?, Results::of(Vec::new()));
        let mut kept = Kept::begin("a suite", &mut results, folder.path());
        suite(&mut kept)?;
        kept.end(false);
        Ok(results.figures)
    }
}

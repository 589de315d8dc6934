//! Tells how things go, on standard error: bars on a terminal, plain lines otherwise.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use plenum_proto::v1::JobView;

use super::board::{Board, progress_of, under_way};
use crate::output::{self, Row};

/// Where progress is told; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    voice: Voice,
    jobs: Arc<Mutex<Jobs>>,
    began: Instant,
    is_finished: Arc<AtomicBool>,
}

#[derive(Clone, Debug)]
enum Voice {
    /// Bars, redrawn only when something has changed: an idle cell shall be idle.
    Bars(MultiProgress),
    Lines,
    #[cfg(test)]
    Quiet,
}

#[derive(Debug, Default)]
struct Jobs {
    board: Board,
    bars: BTreeMap<String, ProgressBar>,
}

impl Progress {
    pub(super) fn new() -> Self {
        let voice = if output::moves_cursor(&io::stderr()) { Voice::Bars(MultiProgress::new()) } else { Voice::Lines };
        Self { voice, jobs: Arc::default(), began: Instant::now(), is_finished: Arc::default() }
    }

    /// Tells nobody.
    #[cfg(test)]
    pub(super) fn quiet() -> Self {
        Self { voice: Voice::Quiet, jobs: Arc::default(), began: Instant::now(), is_finished: Arc::default() }
    }

    /// A line for people, above the bars.
    pub(super) fn say(&self, line: &str) {
        match &self.voice {
            // Bars that are finished stay above what is said later.
            Voice::Bars(bars) if !self.is_finished.load(Ordering::Relaxed) => self.say_above(bars, line),
            Voice::Bars(_) | Voice::Lines => output::tell(line),
            #[cfg(test)]
            Voice::Quiet => {}
        }
    }

    /// What `MultiProgress::suspend` does, which panics where its terminal is gone. The new target looks whether it is: then nothing is drawn any more.
    fn say_above(&self, bars: &MultiProgress, line: &str) {
        // Held, so that nobody draws meanwhile.
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = bars.clear();
        output::tell(line);
        bars.set_draw_target(ProgressDrawTarget::stderr());
        // One of them draws all.
        if let Some(bar) = jobs.bars.values().next() {
            bar.tick();
        }
    }

    /// What a job is doing now, and why it waits where that lasts.
    pub(super) fn show(&self, job: &JobView) {
        let now = self.began.elapsed();
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let Voice::Bars(bars) = &self.voice else {
            return jobs.board.lines(job, now).iter().for_each(|line| self.say(line));
        };
        if !io::stderr().is_terminal() {
            // It has gone away, and what is drawn would be kept for it.
            bars.set_draw_target(ProgressDrawTarget::hidden());
        }
        let name = job.name();
        let (done, all) = progress_of(job);
        let bar = jobs
            .bars
            .entry(name.clone())
            .or_insert_with(|| bars.add(ProgressBar::new(all).with_style(style()).with_prefix(name)));
        bar.set_length(all);
        bar.set_position(done);
        bar.set_message(output::lines(&under_way(job)));
        let waiting = jobs.board.waiting(job, now);
        // Whoever says something above the bars takes them.
        drop(jobs);
        if let Some(line) = waiting {
            self.say(&line);
        }
    }

    /// Leaves the bars as they are; what follows is printed below them.
    pub(super) fn finish(&self) {
        self.end(|_| {});
    }

    /// The same at Ctrl-C, without drawing them again: the terminal's echo of it has left the cursor on the next line, where they would stand twice.
    pub(super) fn interrupt(&self) {
        self.end(|bars| {
            bars.set_draw_target(ProgressDrawTarget::hidden());
            // Below the echo. Without one the cursor still is in the line of the last bar, which that fills.
            output::tell("");
        });
    }

    /// `first` is done where there are bars.
    fn end(&self, first: impl FnOnce(&MultiProgress)) {
        if self.is_finished.swap(true, Ordering::Relaxed) {
            return;
        }
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Voice::Bars(bars) = &self.voice
            && !jobs.bars.is_empty()
        {
            first(bars);
        }
        jobs.bars.values().for_each(ProgressBar::abandon);
    }
}

fn style() -> ProgressStyle {
    let template = "{prefix} [{bar:30}] {pos}/{len} {msg}";
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

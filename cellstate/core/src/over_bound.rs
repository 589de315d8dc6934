//! Bounds of the cell that may be below again by themselves: who comes above one is told when that may be.

use plenum_model::{LogTime, Rejection, RejectionCode};

use crate::Core;

/// Jobs that are over have one part in so many of the bytes of all jobs: more would keep out those that are to run.
const OVER_PARTS: u64 = 2;

impl Core {
    /// How many jobs too many are over, and how many bytes too many these have: the first that finished are retired at once.
    pub(crate) fn too_much_over(&self) -> (usize, u64) {
        let jobs = self.derived.final_job_count.saturating_sub(self.options.finished_jobs_max);
        let bytes = self.derived.job_bytes.over.saturating_sub(self.options.job_bytes_max / OVER_PARTS);
        (jobs, bytes)
    }

    /// When the next job that is over is to be retired, and where there are too many of them, or too large ones, at once; or when the next tick
    /// finds that something of it still runs or stops. `None`: none is over, or of those that are, something still does beyond their time; such a
    /// one comes again with the end of that.
    pub(crate) fn next_retirement(&self) -> Option<LogTime> {
        let crowded = self.too_much_over() != (0, 0);
        self.derived.retires.first().map(|(time, _)| if crowded { self.cell.time() } else { *time })
    }

    /// Why something is above a bound for which jobs count until they are retired. That waiting helps is said only where
    /// one that is over waits to be retired; and not of what `fits_alone` says is above the bound by itself.
    pub(crate) fn above_until_retired(&self, message: String, fits_alone: bool, now: LogTime) -> Rejection {
        let next = self.next_retirement().filter(|_| fits_alone);
        let advice = if next.is_some() { ", or try again when jobs that are over are retired" } else { "" };
        Rejection::new(RejectionCode::LimitReached, message + advice).passing_at(next, now)
    }
}

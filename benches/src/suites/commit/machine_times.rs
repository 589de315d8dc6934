//! What the machine takes by itself, with nobody at work: just before a load and just after it, so that figures of a slow hour can be told.

use std::path::Path;

use crate::disk::{self, SyncProbe};
use crate::figure::{Better, Case, Figure};
use crate::stalls::Stalls;

/// What was seen each time.
pub(crate) struct MachineTimes {
    probe: SyncProbe,
    /// Seconds of writes with their syncs, sorted.
    syncs: Vec<Vec<f64>>,
    stalls: Vec<Stalls>,
}

impl MachineTimes {
    /// Of a disk, for writes of this size.
    pub(crate) fn new(folder: &Path, bytes: usize) -> anyhow::Result<Self> {
        Ok(Self { probe: SyncProbe::new(folder, bytes)?, syncs: Vec::new(), stalls: Vec::new() })
    }

    /// Looks at so many writes, and at the cores.
    pub(crate) fn look(&mut self, writes: usize) -> anyhow::Result<()> {
        self.syncs.push(self.probe.seconds(writes)?);
        self.stalls.push(Stalls::look()?);
        Ok(())
    }

    /// What so many percent of the writes took at most, each time.
    pub(crate) fn syncs(&self, percent: usize) -> Vec<f64> {
        self.syncs.iter().map(|sorted| disk::percentile(sorted, percent)).collect()
    }

    /// All of it, beside a case.
    pub(crate) fn figures(&self, case: &Case<'_>) -> anyhow::Result<Vec<Figure>> {
        let mut figures = vec![
            case.figure("disk_sync_seconds_p50", "s", Better::Lower, self.syncs(50))?,
            case.figure("disk_sync_seconds_p99", "s", Better::Lower, self.syncs(99))?,
        ];
        figures.extend(Stalls::figures(case, &self.stalls)?);
        Ok(figures)
    }
}

//! What the machine takes by itself, with nobody at work: just before a load and just after it, so that figures of a slow hour can be told.

use std::path::Path;

use serde_json::json;

use crate::disk::{self, SyncProbe};
use crate::figure::{Better, Case, Figure, Parameters};
use crate::stalls::Stalls;

/// What was seen each time.
pub(crate) struct MachineTimes {
    probe: SyncProbe,
    /// What each write has.
    bytes: usize,
    /// Seconds of writes with their syncs, sorted.
    syncs: Vec<Vec<f64>>,
    stalls: Vec<Stalls>,
}

impl MachineTimes {
    /// Of a disk, for writes of this size.
    pub(crate) fn new(folder: &Path, bytes: usize) -> anyhow::Result<Self> {
        Ok(Self { probe: SyncProbe::new(folder, bytes)?, bytes, syncs: Vec::new(), stalls: Vec::new() })
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

    /// How it was looked at: a sync says nothing without the size of what it writes.
    pub(crate) fn parameters(&self) -> Parameters {
        Parameters::from([("disk_sync_bytes".to_owned(), json!(self.bytes))])
    }

    /// All of it, beside a case, which has these parameters.
    pub(crate) fn figures(&self, case: &Case<'_>) -> anyhow::Result<Vec<Figure>> {
        let mut figures = vec![
            case.figure("disk_sync_seconds_p50", "s", Better::Lower, self.syncs(50))?,
            case.figure("disk_sync_seconds_p99", "s", Better::Lower, self.syncs(99))?,
        ];
        figures.extend(Stalls::figures(case, &self.stalls)?);
        Ok(figures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beside_what_a_sync_takes_stands_how_much_it_writes() {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let alone = MachineTimes::new(folder.path(), 4096).unwrap();
        assert_eq!(alone.parameters()["disk_sync_bytes"], json!(4096));
    }
}

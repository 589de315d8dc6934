//! One module for each suite.

mod commit;
mod core;
mod dev;
mod omega;
mod policy;
mod recovery;
mod trace;

use std::path::PathBuf;

use anyhow::Context;

use crate::figure::number;
use crate::kept::Kept;
use crate::{Run, machine, processes};

/// A suite by its name.
pub(crate) struct Suite {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// Gives the figures of a case when that has come to its end.
    pub(crate) run: fn(&Run, &mut Kept<'_>) -> anyhow::Result<()>,
}

/// All suites.
pub(crate) const SUITES: [Suite; 7] = [
    Suite {
        name: core::NAME,
        about: "claims that the resolver decides on one core; no disk, no network",
        run: core::run,
    },
    Suite { name: commit::NAME, about: "durable commits over gRPC on loopback, clients included", run: commit::run },
    Suite {
        name: dev::NAME,
        about: "time to the first task of `plenum dev`, and what an idle cell costs",
        run: dev::run,
    },
    Suite {
        name: omega::NAME,
        about: "the Omega paper's experiments, simulated around the production core, beside reference results",
        run: omega::run,
    },
    Suite {
        name: policy::NAME,
        about: "placement decisions on one core, and how neighbours keep apart",
        run: policy::run,
    },
    Suite {
        name: recovery::NAME,
        about: "time until a killed server serves again, and memory of machines and allocations",
        run: recovery::run,
    },
    Suite {
        name: trace::NAME,
        about: "recorded jobs replayed on the production core and policies: waits, utilisation, fairness, capacity; GPUs that policies waste",
        run: trace::run,
    },
];

/// Their names.
pub(crate) const NAMES: [&str; 7] =
    [core::NAME, commit::NAME, dev::NAME, omega::NAME, policy::NAME, recovery::NAME, trace::NAME];

pub(crate) use commit::cell::Serving;
pub(crate) use omega::Flags as OmegaFlags;
pub(crate) use trace::{Flags as TraceFlags, unread_flag};

/// Runs a server until it is killed; the other half of the suites `commit` and `recovery`.
pub(crate) fn serve(dir: PathBuf, serving: Serving) -> anyhow::Result<()> {
    commit::serve(dir, serving)
}

/// The folder of this program: on a real disk, and nobody keeps anything there.
fn beside_this_program() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe().context("cannot find this program's file")?;
    Ok(program.parent().context("a program lies in a folder")?.to_owned())
}

/// Looks how busy this machine is with the work of others.
struct Others {
    began: std::time::Instant,
    all: machine::CpuSeconds,
    own_seconds: f64,
    /// Processes of ours that run during the whole time.
    own: Vec<u32>,
}

impl Others {
    /// Begins to look.
    fn look(own: Vec<u32>) -> anyhow::Result<Self> {
        let own_seconds = Self::own_seconds(&own)?;
        Ok(Self { began: std::time::Instant::now(), all: machine::cpu_seconds()?, own_seconds, own })
    }

    fn own_seconds(own: &[u32]) -> anyhow::Result<f64> {
        own.iter().map(|process| processes::cpu_seconds(*process)).sum()
    }

    /// Cores that others kept busy since, on average. Both counts are in hundredths of a second, so a little below 0 is possible.
    fn cores(&self) -> anyhow::Result<f64> {
        self.cores_beside(0.0)
    }

    /// The same, where processes of ours that did not run during the whole time used so many seconds of it.
    fn cores_beside(&self, ours_seconds: f64) -> anyhow::Result<f64> {
        let own = Self::own_seconds(&self.own)? - self.own_seconds + ours_seconds;
        let busy = machine::cpu_seconds()?.busy - self.all.busy;
        let cores = (busy - own) / self.began.elapsed().as_secs_f64();
        Ok(in_hundredths(cores.max(0.0)))
    }

    /// Cores that a hypervisor took from this machine since, on average, as far as it tells.
    fn cores_stolen(&self) -> anyhow::Result<f64> {
        // A guest that moves to another host may count from less.
        let stolen = (machine::cpu_seconds()?.stolen - self.all.stolen).max(0.0);
        Ok(in_hundredths(stolen / self.began.elapsed().as_secs_f64()))
    }
}

/// Of several looks, on average.
fn cores_of_all(looks: &[f64]) -> f64 {
    in_hundredths(looks.iter().sum::<f64>() / number(u64::try_from(looks.len()).unwrap_or(u64::MAX).max(1)))
}

/// More is not known of it.
fn in_hundredths(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

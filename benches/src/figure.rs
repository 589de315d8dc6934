//! Figures: what a run leaves behind. `results.json` is a [`Results`]; everything else is made from it again.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::build::Build;
use crate::machine::Machine;
use crate::progress::say;

/// The name of the file in a run's folder.
pub(crate) const FILE: &str = "results.json";

/// Parameters that tell which files of others a figure is made of: digests of those that jobs, and machines, were read from.
pub(crate) const JOBS_DIGEST: &str = "jobs_digest";
pub(crate) const MACHINES_DIGEST: &str = "machines_digest";

/// The parameter that tells the seeds that samples are of, each of one, in this order.
pub(crate) const SEEDS: &str = "seeds";

/// How a figure came about: everything that another measurement must share to be comparable, and what was seen beside it.
pub(crate) type Parameters = BTreeMap<String, Value>;

/// These, by their names.
pub(crate) fn by_name<const COUNT: usize>(all: [(&str, Value); COUNT]) -> Parameters {
    all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// All that one run measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Results {
    /// The version that was measured.
    pub(crate) plenum: String,
    /// How the harness was built, and its server with it; results of before it was written down have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) build: Option<Build>,
    pub(crate) machine: Machine,
    pub(crate) seed: u64,
    /// RFC 3339, UTC.
    pub(crate) started: String,
    /// Fewer samples and cases than usual: of the same size (but fewer jobs where jobs are drawn), with shorter windows of time.
    pub(crate) quick: bool,
    /// The suites that were asked for; results of before they were written down have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) suites: Vec<String>,
    /// Only cases with this text in their names were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) case: Option<String>,
    /// The run did not come to its end, or has not yet: cases are missing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) stopped: bool,
    /// The suite that was under way when this was written: further cases of it may be missing, and what it looks for at its end was not looked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) under_way: Option<String>,
    /// Suites that ended with an error: all their figures are missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) failed: Vec<Failed>,
    pub(crate) figures: Vec<Figure>,
}

impl Results {
    /// What a run of this machine leaves behind that measured these.
    #[cfg(test)]
    pub(crate) fn of(figures: Vec<Figure>) -> Self {
        Self {
            plenum: "0.1.0".into(),
            build: Some(Build::this()),
            machine: Machine::this().unwrap(),
            seed: 1,
            started: "2026-11-20T09:00:00Z".into(),
            quick: true,
            suites: Vec::new(),
            case: None,
            stopped: false,
            under_way: None,
            failed: Vec::new(),
            figures,
        }
    }

    /// Reads a run's folder, or the file itself.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let file = if path.is_dir() { path.join(FILE) } else { path.to_owned() };
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("{}: expected a folder in which a run left its {FILE}", file.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is not what a run writes", file.display()))
    }

    /// Writes the file into a run's folder, which is made if it is not there. What was in the file stays until the new one is whole: a full disk, or an end in
    /// between, takes nothing. When this returns, a power cut takes it no more.
    pub(crate) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let (file, beside) = (folder.join(FILE), folder.join(format!("{FILE}.new")));
        let text = format!("{}\n", serde_json::to_string_pretty(self)?);
        let put = || -> std::io::Result<()> {
            std::fs::create_dir_all(folder)?;
            let mut new = File::create(&beside)?;
            new.write_all(text.as_bytes())?;
            new.sync_all()?;
            std::fs::rename(&beside, &file)?;
            // Some file systems can't do that for a folder: there a power cut may take the newest, and leaves the one before.
            drop(File::open(folder).and_then(|folder| folder.sync_all()));
            Ok(())
        };
        let written = put().inspect_err(|_| drop(std::fs::remove_file(&beside)));
        written.with_context(|| format!("cannot write {}", file.display()))
    }
}

/// A suite that gave no figures, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failed {
    pub(crate) suite: String,
    pub(crate) error: String,
}

/// Which way is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Better {
    Higher,
    Lower,
}

/// One measured figure.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) suite: String,
    pub(crate) case: String,
    pub(crate) metric: String,
    pub(crate) unit: String,
    /// Whose figure it is, where it is not our own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) system: Option<String>,
    pub(crate) better: Better,
    /// The median of the samples; of a tail of times ([`crate::latency::tail`]) and of rates of a loaded server ([`crate::rate`]), that of all windows
    /// together.
    pub(crate) value: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) samples: Vec<f64>,
    pub(crate) parameters: Parameters,
}

impl Figure {
    /// What two runs must share so that their figures are compared.
    pub(crate) fn key(&self) -> (&str, &str, &str, &str) {
        (&self.suite, &self.case, &self.metric, self.system.as_deref().unwrap_or_default())
    }

    /// The same, as that of a peer.
    pub(crate) fn of(self, system: &str) -> Self {
        Self { system: Some(system.to_owned()), ..self }
    }

    /// The same, as a difference that cannot be below 0: none when its median is not above that. Then it is less than what was measured
    /// scatters by, and nobody can tell how much it is.
    pub(crate) fn if_told(self) -> Option<Self> {
        let told = self.value > 0.0;
        if !told {
            let Self { case, metric, .. } = &self;
            say(&format!("{case}: {metric} will be missing: it is less than what was measured scatters by"));
        }
        told.then_some(self)
    }
}

/// Figures of one case.
pub(crate) struct Case<'a> {
    pub(crate) suite: &'a str,
    pub(crate) case: &'a str,
    pub(crate) parameters: Parameters,
}

impl Case<'_> {
    /// A figure from its samples. An empty or endless sample is a bug of the harness, and ends the run.
    pub(crate) fn figure(&self, metric: &str, unit: &str, better: Better, samples: Vec<f64>) -> anyhow::Result<Figure> {
        let finite = !samples.is_empty() && samples.iter().all(|sample| sample.is_finite());
        anyhow::ensure!(finite, "{} {} {metric}: expected finite samples, found {samples:?}", self.suite, self.case);
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (sorted[0], sorted[sorted.len() - 1]);
        Ok(Figure {
            suite: self.suite.to_owned(),
            case: self.case.to_owned(),
            metric: metric.to_owned(),
            unit: unit.to_owned(),
            system: None,
            better,
            value: median(&sorted),
            min,
            max,
            samples,
            parameters: self.parameters.clone(),
        })
    }
}

/// The middle of sorted samples, or between the two in the middle.
pub(crate) fn median(sorted: &[f64]) -> f64 {
    let (lower, upper) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
    f64::midpoint(lower, upper)
}

/// A count as a number that can be divided. Counts of a run are far below 2^53.
#[allow(clippy::cast_precision_loss, reason = "counts of a run are far below 2^53")]
pub(crate) fn number(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case() -> Case<'static> {
        Case { suite: "core", case: "machines=1", parameters: Parameters::new() }
    }

    #[test]
    fn the_value_is_the_median_of_the_samples() {
        let figure = case().figure("claims_per_second", "1/s", Better::Higher, vec![3.0, 1.0, 2.0]).unwrap();
        assert_eq!((figure.value, figure.min, figure.max), (2.0, 1.0, 3.0));
        let even = case().figure("claims_per_second", "1/s", Better::Higher, vec![4.0, 1.0, 2.0, 3.0]).unwrap();
        assert_eq!(even.value, 2.5);
    }

    #[test]
    fn a_difference_that_cannot_be_told_is_no_figure() {
        let told = |samples: &[f64]| {
            let figure = case().figure("bytes", "B", Better::Lower, samples.to_vec()).unwrap();
            figure.if_told().map(|figure| figure.value)
        };
        assert_eq!(told(&[30.0, -10.0, 20.0]), Some(20.0));
        assert_eq!(told(&[-30.0, -10.0, 20.0]), None);
        assert_eq!(told(&[0.0]), None);
    }

    #[test]
    fn no_figure_is_made_from_nothing() {
        assert!(case().figure("claims_per_second", "1/s", Better::Higher, vec![]).is_err());
        assert!(case().figure("claims_per_second", "1/s", Better::Higher, vec![1.0, f64::INFINITY]).is_err());
    }

    #[test]
    fn results_are_read_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let results = Results::of(vec![case().figure("claims_per_second", "1/s", Better::Higher, vec![3.0]).unwrap()]);
        results.write(folder.path()).unwrap();
        let read = Results::read(folder.path()).unwrap();
        assert_eq!(read.figures[0].key(), ("core", "machines=1", "claims_per_second", ""));
        assert!(Results::read(&folder.path().join("elsewhere")).is_err());
    }

    #[test]
    fn results_that_cannot_be_written_leave_those_before() {
        let folder = tempfile::tempdir().unwrap();
        let results = Results::of(Vec::new());
        results.write(folder.path()).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        // There is no room for the new ones.
        std::fs::create_dir(folder.path().join(format!("{FILE}.new"))).unwrap();
        let figure = case().figure("claims_per_second", "1/s", Better::Higher, vec![3.0]).unwrap();
        let error = Results { figures: vec![figure], ..results }.write(folder.path()).unwrap_err();
        assert!(error.to_string().starts_with("cannot write "), "{error:#}");
        assert!(Results::read(folder.path()).unwrap().figures.is_empty());
    }
}

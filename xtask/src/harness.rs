//! The benchmark harness, in its quick form: not for its figures, which a shared machine makes worthless, but to know
//! that it still does its work.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::watch::watch;
use crate::workspace::Workspace;

/// The suites that are quick enough for the gate, with what narrows them down: of the Omega paper's experiments one variant on each of the cells, which needs no data.
const SUITES: &[(&str, &[&str])] = &[
    ("core", &[]),
    ("commit", &[]),
    ("policy", &[]),
    ("recovery", &[]),
    ("omega", &["--case", "E8_alternates"]),
    ("trace", &[]),
];
const SUITE_LIMIT: Duration = Duration::from_secs(15 * 60);

/// Runs each suite and reads its results; gives a few words for the table.
pub(crate) fn run(workspace: &Workspace) -> Result<String> {
    let mut counts = Vec::new();
    for (suite, narrowed) in SUITES {
        let folder = workspace.scratch(&format!("harness-{suite}"))?;
        let mut command = workspace.cargo(["run", "--release", "--package", "plenum-bench", "--"]);
        command.args(["run", suite, "--quick", "--out"]).arg(&folder).args(*narrowed);
        let status = watch(command, &format!("the suite {suite}"), SUITE_LIMIT, |_, _| {})?;
        if !status.success() {
            bail!("`plenum-bench run {suite} --quick` ended with {status}");
        }
        let file = folder.join("results.json");
        counts.push(format!("{suite}: {} figures", check_file(&file, suite)?));
    }
    Ok(counts.join(", "))
}

fn check_file(file: &Path, suite: &str) -> Result<usize> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("the suite {suite} ended well, but left no {}", file.display()))?;
    let results = serde_json::from_str(&text).with_context(|| format!("{} is no valid JSON", file.display()))?;
    check(&results, suite).with_context(|| format!("{} is not what was agreed", file.display()))
}

/// The number of figures of `suite`; each must have a name and a unit, none a value below zero, and most of them one above it, because
/// a harness that measured nothing reports zeros. Some are truly zero: nobody waited.
fn check(results: &Value, suite: &str) -> Result<usize> {
    let figures = results["figures"].as_array().context("`figures` should be an array")?;
    let own: Vec<&Value> = figures.iter().filter(|figure| figure["suite"] == suite).collect();
    ensure!(!own.is_empty(), "there is no figure of the suite {suite}");
    for figure in &own {
        for field in ["case", "metric", "unit"] {
            ensure!(figure[field].is_string(), "`{field}` should be a text in {figure}");
        }
        ensure!(
            figure["value"].as_f64().is_some_and(|value| value >= 0.0),
            "`value` should not be below 0 in {figure}"
        );
    }
    let above = own.iter().filter(|figure| figure["value"].as_f64().is_some_and(|value| value > 0.0)).count();
    ensure!(2 * above > own.len(), "only {above} of {} figures of the suite {suite} have a value above 0", own.len());
    Ok(own.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(value: f64) -> Value {
        serde_json::json!({ "figures": [
            { "suite": "core", "case": "machines=10000", "metric": "claims_per_second", "unit": "1/s", "value": value },
        ] })
    }

    #[test]
    fn figures_of_the_suite_are_counted() {
        assert_eq!(check(&results(2.5), "core").expect("it is as agreed"), 1);
    }

    #[test]
    fn a_harness_that_measured_nothing_fails() {
        assert!(check(&results(0.0), "core").is_err());
        assert!(check(&results(2.5), "commit").is_err());
        assert!(check(&serde_json::json!({}), "core").is_err());
    }
}

//! Crashes of the real server in their long form: the gate runs a few rounds of each story, this runs as many as one likes.
//!
//! The numbers reach the stories of `tests/crash` through variables, `PLENUM_CRASH_KILLS` and so on. Stories that this machine can't
//! tell (they need root, or a program) say so, and are counted.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;

use crate::skips::Skips;
use crate::tally::Tally;
use crate::watch::{duration, watch};
use crate::workspace::Workspace;

/// A night.
const LIMIT: Duration = Duration::from_secs(12 * 60 * 60);

/// How many rounds of each story: only those that are named, and the others not at all. None named: all, as in the gate.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Rounds {
    /// Kill the server under load, so often; a fifth as many are killed while they start, besides.
    #[arg(long, value_name = "N")]
    kills: Option<u64>,
    /// Kill it at each of the first N syncs of a run, once before the sync and once after it; or at all syncs of a run of a thousand transactions,
    /// with checkpoints and without. The gate kills it once at each sync of a shorter run.
    #[arg(long, value_name = "N|all", value_parser = number_or_all)]
    syncs: Option<String>,
    /// Kill it at N of the syncs of the making of a cell; or at all of them, once before the sync and once after it. The gate
    /// kills it once at each of them.
    #[arg(long, value_name = "N|all", value_parser = number_or_all)]
    makings: Option<String>,
    /// Tear each of the first N writes of a run.
    #[arg(long, value_name = "N")]
    tears: Option<u64>,
    /// Let each of the first N syncs fail that are not of the log.
    #[arg(long, value_name = "N")]
    failures: Option<u64>,
    /// Cut the power of the file system, so often.
    #[arg(long, value_name = "N")]
    cuts: Option<u64>,
}

impl Rounds {
    /// Each story that was asked for: its variable, a part of its tests' names, and its number, or `all`.
    fn asked(&self) -> Vec<(&'static str, &'static str, String)> {
        let number = |rounds: Option<u64>| rounds.map(|rounds| rounds.to_string());
        let stories = [
            ("KILLS", "crash::kills::", number(self.kills)),
            ("SYNCS", "whatever_sync_the_server_dies_at", self.syncs.clone()),
            ("MAKINGS", "whatever_sync_of_its_making", self.makings.clone()),
            ("TEARS", "a_write_that_is_torn", number(self.tears)),
            ("FAILURES", "a_failed_sync_of_anything_else", number(self.failures)),
            ("CUTS", "crash::power::", number(self.cuts)),
        ];
        stories.into_iter().filter_map(|(name, test, rounds)| Some((name, test, rounds?))).collect()
    }
}

/// As the stories read it.
fn number_or_all(text: &str) -> Result<String, String> {
    if text == "all" || text.parse::<u64>().is_ok() {
        return Ok(text.to_owned());
    }
    Err("expected a number, or all".to_owned())
}

/// Runs the stories; true if all passed.
pub(crate) fn run(workspace: &Workspace, rounds: &Rounds) -> Result<bool> {
    let skips = Skips::gather();
    let asked = rounds.asked();
    let mut command = workspace.cargo(["test", "--package", "plenum", "--test", "main", "--", "--nocapture"]);
    for (name, test, rounds) in &asked {
        command.arg(test).env(format!("PLENUM_CRASH_{name}"), rounds);
    }
    if asked.is_empty() {
        command.arg("crash::");
    }
    skips.told_by(&mut command);
    let mut tally = Tally::default();
    let started = Instant::now();
    let status = watch(command, "the crashes", LIMIT, |_, line| tally.read(line))?;
    // A filter that matches nothing is a success to Cargo.
    ensure!(!status.success() || tally.passed > 0, "no test ran: are there still stories in tests/crash?");
    println!("{tally}{}, in {}", skips.told(), duration(started.elapsed()));
    Ok(status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_is_run() {
        let rounds = Rounds { kills: Some(1000), cuts: Some(5), ..Rounds::default() };
        let asked = [("KILLS", "crash::kills::", "1000".to_owned()), ("CUTS", "crash::power::", "5".to_owned())];
        assert_eq!(rounds.asked(), asked);
        assert!(Rounds::default().asked().is_empty());
    }

    #[test]
    fn syncs_are_asked_for_by_number_or_all_of_them() {
        assert_eq!((number_or_all("all"), number_or_all("12")), (Ok("all".to_owned()), Ok("12".to_owned())));
        for wrong in ["", "All", "-1", "1.5", "none"] {
            assert!(number_or_all(wrong).is_err(), "{wrong}");
        }
        let rounds = Rounds { makings: Some("all".to_owned()), ..Rounds::default() };
        assert_eq!(rounds.asked(), [("MAKINGS", "whatever_sync_of_its_making", "all".to_owned())]);
    }
}

//! The simulated cell: a thousand seeds in the gate, as many as one likes with `cargo xtask simulate`.
//!
//! The seeds reach the tests of `tests/simulator` through the variable `PLENUM_SEEDS`, as `FIRST..END`, the end not included; a bug
//! that is to be planted, through `PLENUM_BUG`. If seed 417 fails, `cargo xtask simulate --seeds 417..418` runs it again alone.
//!
//! It is built with the feature `planted-bugs`, which no binary that anybody uses may have. In the gate that is the build of all tests; for more seeds than that
//! it is one of its own, in which all crates are optimised a little. It resolves features for the whole workspace, so that what others wrote is not built
//! once more.

use std::process::Command;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::tally::Tally;
use crate::watch::{duration, watch};
use crate::workspace::Workspace;

/// A night.
const LIMIT: Duration = Duration::from_secs(12 * 60 * 60);

/// A range of seeds, never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seeds {
    first: u64,
    /// Not included.
    end: u64,
}

impl FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected FIRST..END, the end not included, such as 0..1000; found {text}");
        let (first, end) = text.split_once("..").ok_or_else(wrong)?;
        let (Ok(first), Ok(end)) = (first.parse(), end.parse()) else { return Err(wrong()) };
        if first < end { Ok(Self { first, end }) } else { Err(wrong()) }
    }
}

/// What plants bugs, for the simulator's tests and for those of the checker.
pub(crate) const WITH_BUGS: &str = "plenum-simulator/planted-bugs,plenum-checker/planted-bugs";

/// For nextest: all tests but those of [`tests_with_bugs`].
pub(crate) const ALL_OTHERS: &str = "not (binary(simulation) | binary(planted))";

/// The simulation, to be continued with arguments for its tests: as fast as it gets in a build that takes minutes.
fn simulation(workspace: &Workspace) -> Command {
    let mut command = tests(workspace);
    command.args(["--test", "simulation", "--config", "profile.dev.opt-level=1", "--"]);
    command
}

/// All tests of checkers that need bugs to be planted, to be continued with arguments for them: of the same build as all other tests.
pub(crate) fn tests_with_bugs(workspace: &Workspace) -> Command {
    let mut command = tests(workspace);
    command.args(["--test", "simulation", "--test", "planted", "--"]);
    command
}

fn tests(workspace: &Workspace) -> Command {
    workspace.cargo(["test", "--workspace", "--features", WITH_BUGS])
}

/// Runs the simulation with all of `seeds`, and with a bug if one is named; true if every one passed.
pub(crate) fn run(workspace: &Workspace, seeds: Seeds, bug: Option<&str>) -> Result<bool> {
    let mut command = simulation(workspace);
    command.args(["a_cell_survives", "--nocapture"]).env("PLENUM_SEEDS", format!("{}..{}", seeds.first, seeds.end));
    if let Some(bug) = bug {
        command.env("PLENUM_BUG", bug);
    }
    let mut tally = Tally::default();
    let started = Instant::now();
    let status = watch(command, "the simulation", LIMIT, |_, line| tally.read(line))?;
    // A filter that matches nothing is a success to Cargo.
    ensure!(
        !status.success() || tally.passed > 0,
        "no test ran: is there still a test `a_cell_survives…` in tests/simulator?"
    );
    let count = seeds.end - seeds.first;
    println!("{tally}, with {count} seeds in {}", duration(started.elapsed()));
    Ok(status.success())
}

/// Plays the stories of `tests/stories`, and with `bless` writes them down as they are told now; true if all are as written.
pub(crate) fn stories(workspace: &Workspace, bless: bool) -> Result<bool> {
    let mut command = simulation(workspace);
    command.arg("stories::every_story");
    if bless {
        command.env("PLENUM_BLESS", "1");
    }
    let mut tally = Tally::default();
    let status = watch(command, "the stories", LIMIT, |_, line| tally.read(line))?;
    // As above.
    ensure!(
        !status.success() || tally.passed > 0,
        "no test ran: is there still a test `stories::every_story…` in tests/simulator?"
    );
    Ok(status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_a_range_that_is_not_empty() {
        assert_eq!("3..10".parse(), Ok(Seeds { first: 3, end: 10 }));
        for wrong in ["3", "..", "3..", "10..3", "3..3", "-1..3", "a..b"] {
            assert!(wrong.parse::<Seeds>().is_err(), "{wrong}");
        }
    }
}

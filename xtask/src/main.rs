//! `cargo xtask`: the gate, and the developer's other commands.
//!
//! It starts programs and judges what they did. It knows nothing of cells: what a crate promises is
//! tested in that crate, and this one only sees to it that every such test is run.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is a program for a terminal: what it prints is what it is for"
)]

mod crash;
mod examples;
mod fuzz;
mod gate;
mod harness;
mod leftovers;
mod package;
mod programs;
mod simulation;
mod skips;
mod tally;
mod watch;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

/// The gate and the developer's commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// The gate: everything that CI runs. Ends with 0 only if every step passed.
    Test {
        /// Run only these steps, in the gate's own order.
        #[arg(long, value_name = "STEP", num_args = 1.., value_parser = gate::step_name)]
        only: Vec<&'static str>,
        /// Say which steps there are, and run none.
        #[arg(long)]
        list: bool,
    },
    /// Run the examples for real, with the release build, and check what they print.
    Examples {
        /// Only these; all when none is named.
        names: Vec<String>,
    },
    /// Crash the real server: as in the gate, or as often as named.
    Crash {
        #[command(flatten)]
        rounds: crash::Rounds,
    },
    /// Play the stories of tests/stories.
    Stories {
        /// Write them down as they are told now.
        #[arg(long)]
        bless: bool,
    },
    /// Feed decoders with inputs that were changed, for so long in all.
    Fuzz {
        /// How long.
        #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(..=fuzz::SECONDS_MOST))]
        seconds: u64,
        /// In a build that counts which code is reached: what leads somewhere new is changed further.
        #[arg(long)]
        coverage: bool,
        /// Only these; all when none is named.
        targets: Vec<String>,
    },
    /// Build what a package has, optimised for what a cell does: builds, runs the harness's suites to count, and builds again.
    Package,
    /// Run the simulated cell with many seeds.
    Simulate {
        /// FIRST..END, the end not included.
        #[arg(long, value_name = "FIRST..END")]
        seeds: simulation::Seeds,
        /// Plant this bug: a checker should find it.
        #[arg(long, value_name = "NAME")]
        bug: Option<String>,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = Workspace::find().and_then(|workspace| match arguments.task {
        Task::Test { list: true, .. } => {
            gate::list();
            Ok(true)
        }
        Task::Test { only, .. } => Ok(gate::run(&workspace, &only)),
        Task::Examples { names } => examples::run(&workspace, &names).map(|_| true),
        Task::Crash { rounds } => crash::run(&workspace, &rounds),
        Task::Stories { bless } => simulation::stories(&workspace, bless),
        Task::Fuzz { seconds, coverage, targets } => fuzz::run(&workspace, seconds, &targets, coverage),
        Task::Package => package::run(&workspace),
        Task::Simulate { seeds, bug } => simulation::run(&workspace, seeds, bug.as_deref()),
    });
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A sum of seconds that no duration holds ended the program with a panic.
    #[test]
    fn fuzzing_for_longer_than_anybody_waits_is_refused_with_how_long_it_may_take() {
        let asked = |seconds: &str| Arguments::try_parse_from(["xtask", "fuzz", "--seconds", seconds]).map(drop);
        for taken in ["0", "60", "31622400"] {
            assert!(asked(taken).is_ok(), "{taken}");
        }
        for refused in ["31622401", "18446744073709551615"] {
            let error = asked(refused).expect_err("it is too long").to_string();
            assert!(error.contains("0..=31622400"), "{error}");
        }
    }
}

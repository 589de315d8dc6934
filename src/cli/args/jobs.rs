//! What people type about jobs and allocations.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use plenum_proto::{filters, v1::At};

use super::{Listing, Told, by, not_empty, number::whole};
use crate::cli::at::{parse_at, parse_instant};

/// `plenum job`
#[derive(Debug, Subcommand)]
pub(crate) enum Job {
    /// Submits a job file
    Run {
        /// The job file, in TOML or JSON; `-` for standard input
        file: PathBuf,
        /// Wait for the job's end [the default where nothing is named], or until all its tasks run, and exit with the result
        #[arg(long, value_enum, value_name = "FOR", num_args = 0..=1, require_equals = true, default_missing_value = "end")]
        wait: Option<WaitFor>,
        /// Longest wait, such as 5m; then exit with 3, saying what was not reached and why. The job goes on
        #[arg(long, requires = "wait", value_name = "TIME", value_parser = crate::job_file::duration_micros, allow_hyphen_values = true)]
        timeout: Option<i64>,
    },
    /// Lists jobs
    #[command(mut_arg("filter", by(filters::JOBS)))]
    List(Listing),
    /// Shows a job, its groups and its allocations: all that are live, and the newest that ended of its present version; with `-o json` all that
    /// the server tells at once, the newest that ended (`truncated`: there are more)
    Show {
        /// The job's name, or its file
        #[arg(value_name = "NAME|FILE")]
        job: String,
        /// As it was at a revision, or at a time such as 2026-11-20T08:00:00Z or -10m
        #[arg(long, value_name = "REVISION|TIME", value_parser = parse_at, allow_hyphen_values = true)]
        at: Option<At>,
    },
    /// Tells what happened to a job, also one that is retired, and who asked for it
    History {
        /// The job's name, or its file
        #[arg(value_name = "NAME|FILE")]
        job: String,
        #[command(flatten)]
        told: Told,
    },
    /// Stops a job
    Stop {
        /// The job's name, or its file
        #[arg(value_name = "NAME|FILE")]
        job: String,
        /// Wait until nothing of it runs any more, and say what is left
        #[arg(long)]
        wait: bool,
        /// Longest wait, such as 5m; then exit with 3, and the job goes on stopping
        #[arg(long, requires = "wait", value_name = "TIME", value_parser = crate::job_file::duration_micros, allow_hyphen_values = true)]
        timeout: Option<i64>,
    },
    /// Launches a recurring job, now, under the name of an instant: each at most once, and in order
    Launch {
        /// The recurring job's name, or its file
        #[arg(value_name = "NAME|FILE")]
        job: String,
        /// The instant that it is launched for, such as 2026-11-20T08:00:00Z, -10m or +10m, at most an hour ahead [default: this second]; it starts at once, and none before it is launched any more
        #[arg(long, value_name = "TIME", value_parser = parse_instant, allow_hyphen_values = true)]
        at: Option<i64>,
        /// Wait for the end of what is launched and exit with its result: 0 complete, 1 failed
        #[arg(long)]
        wait: bool,
        /// Longest wait, such as 5m; then exit with 3
        #[arg(long, requires = "wait", value_name = "TIME", value_parser = crate::job_file::duration_micros, allow_hyphen_values = true)]
        timeout: Option<i64>,
    },
    /// Changes how many tasks a group has
    Scale {
        /// The job's name, or its file
        #[arg(value_name = "NAME|FILE")]
        job: String,
        /// Tasks that the group shall have
        #[arg(value_parser = task_count, allow_negative_numbers = true)]
        count: u32,
        /// The group; needed when the job has more than one
        #[arg(long)]
        group: Option<String>,
        /// Wait until all tasks of the job run, those of its other groups, too: as `plenum job run --wait=running` does. What is to go may be stopping still
        #[arg(long)]
        wait: bool,
        /// Longest wait, such as 5m; then exit with 3, saying how many run and why no more. The group stays scaled
        #[arg(long, requires = "wait", value_name = "TIME", value_parser = crate::job_file::duration_micros, allow_hyphen_values = true)]
        timeout: Option<i64>,
    },
}

/// What `plenum job run` waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum WaitFor {
    /// The job's end: exits with 0 where it is complete, with 1 where it failed or was stopped. One that runs for ever ends so only
    End,
    /// That at one revision each task of all groups was running, and ready (not down until its agent starts it again), or complete: a moment later some may
    /// have failed. Exits with 0 then, with 1 where the job fails, is stopped or is replaced by another one before that; tasks that fail are waited for
    /// as long as they are tried again
    Running,
}

/// Most tasks that a group can be scaled to.
const TASKS_MAX: u32 = 1_000_000;

/// A number of tasks. Whoever writes the group before it (`web=3`), as some other programs take it, is told where it belongs.
fn task_count(text: &str) -> Result<u32, String> {
    if let Some(count) = text.parse::<u32>().ok().filter(|count| *count <= TASKS_MAX) {
        return Ok(count);
    }
    let expected = format!("expected a number of tasks, from 0 to {TASKS_MAX}");
    Err(match text.split_once('=') {
        Some((group, _)) => format!("{expected}; the group is named apart: COUNT --group {group}"),
        None => expected,
    })
}

/// `plenum alloc`
#[derive(Debug, Subcommand)]
pub(crate) enum Alloc {
    /// Lists allocations
    #[command(mut_arg("filter", by(filters::ALLOCATIONS)))]
    List {
        /// Only of this job, or with `NAMESPACE/NAME` only of that namespace's
        #[arg(long, value_name = "NAME", value_parser = not_empty)]
        job: Option<String>,
        /// Only on this machine
        #[arg(long, value_name = "NAME", value_parser = not_empty)]
        machine: Option<String>,
        /// Ended ones too
        #[arg(short, long)]
        all: bool,
        #[command(flatten)]
        listing: Listing,
    },
    /// Shows an allocation
    Show {
        /// Such as alloc-4-1
        id: String,
        /// As it was at a revision, or at a time such as 2026-11-20T08:00:00Z or -10m
        #[arg(long, value_name = "REVISION|TIME", value_parser = parse_at, allow_hyphen_values = true)]
        at: Option<At>,
        /// What happened to it, too, and who asked for it
        #[arg(long)]
        history: bool,
    },
    /// Prints what a task printed
    Logs {
        /// Such as alloc-4-1
        id: String,
        /// Go on printing until the task ends
        #[arg(short, long)]
        follow: bool,
        /// Standard error instead of standard output
        #[arg(long)]
        stderr: bool,
        /// Only the last lines; with 0 none, or with -f only new ones
        #[arg(long, value_name = "LINES", value_parser = whole(0..=u32::MAX), allow_hyphen_values = true)]
        tail: Option<u32>,
    },
    /// Stops an allocation; its task is placed again if its job still wants it. Also a task that the cell does not know, as after a restore
    Stop {
        /// Such as alloc-4-1
        id: String,
    },
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::{Arguments, Command};

    // A file behind `--wait` would have been what is waited for.
    #[test]
    fn what_is_waited_for_is_the_end_unless_it_is_said_with_an_equals_sign() {
        let waits = |line: &str| match Arguments::try_parse_from(line.split(' ')).unwrap().command {
            Command::Job(Job::Run { file, wait, .. }) if file.to_str() == Some("x.toml") => wait,
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(waits("plenum job run x.toml"), None);
        assert_eq!(waits("plenum job run --wait x.toml"), Some(WaitFor::End));
        assert_eq!(waits("plenum job run x.toml --wait --timeout 5m"), Some(WaitFor::End));
        assert_eq!(waits("plenum job run --wait=end x.toml"), Some(WaitFor::End));
        assert_eq!(waits("plenum job run --wait=running x.toml"), Some(WaitFor::Running));
    }

    // "invalid digit found in string" was all that was said of `web=3`.
    #[test]
    fn a_count_that_is_none_says_what_is_expected_and_where_the_group_belongs() {
        assert_eq!((task_count("0"), task_count("1000000")), (Ok(0), Ok(1_000_000)));
        let expected = "expected a number of tasks, from 0 to 1000000";
        for wrong in ["three", "1000001", "99999999999", "", "1.5"] {
            assert_eq!(task_count(wrong), Err(expected.to_owned()), "{wrong}");
        }
        let apart = format!("{expected}; the group is named apart: COUNT --group web");
        assert_eq!((task_count("web=3"), task_count("web=three")), (Err(apart.clone()), Err(apart)));
    }
}

//! The command line, as people type it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use plenum_proto::v1::At;

use super::at::parse_at;
use crate::output::Format;

/// The kernel of a data-centre operating system: one shared cell state, many independent schedulers.
#[derive(Debug, Parser)]
#[command(
    name = "plenum",
    version,
    max_term_width = 100,
    after_help = "Exit codes: 0 done, 1 it did not work, 2 wrong \
    usage, 3 not finished at the time limit."
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// The cell's address [default: http://127.0.0.1:7070]
    #[arg(long, global = true, env = "PLENUM_ADDR", value_name = "URL")]
    pub(crate) addr: Option<String>,
    /// The namespace of jobs and allocations [default: default; listings: all]
    #[arg(long, global = true, env = "PLENUM_NAMESPACE", value_name = "NAME")]
    pub(crate) namespace: Option<String>,
    /// How results are printed
    #[arg(short, long, global = true, value_enum, default_value = "table", value_name = "FORMAT")]
    pub(crate) output: Format,
}

/// What every listing takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct Listing {
    /// As it was at a revision, or at a time such as 2026-11-20T08:00:00Z or -10m
    #[arg(long, value_name = "REVISION|TIME", value_parser = parse_at, allow_hyphen_values = true)]
    pub(crate) at: Option<At>,
    /// List again whenever something changed, until interrupted; with `-o json`, one line of JSON each time
    #[arg(short, long, conflicts_with = "at")]
    pub(crate) watch: bool,
    /// Most rows to list [default: the server's own limit]
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "N")]
    pub(crate) limit: u32,
    /// Only rows with these values: FIELD=VALUE or FIELD!=VALUE, joined by commas
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) filter: String,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// A whole cell on this machine: server, schedulers and agents; runs the jobs of the files
    Dev(Dev),
    /// The cell state's server
    Server(Server),
    /// Built-in schedulers, by name; or lists, pauses and resumes schedulers
    Scheduler(Scheduler),
    /// The agent of this machine
    Agent(Agent),
    /// Keeps one task for its agent; started by agents only
    #[command(hide = true)]
    Shim {
        /// The task's folder
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<std::ffi::OsString>,
    },
    /// Jobs
    #[command(subcommand)]
    Job(Job),
    /// Allocations: granted claims and what became of them
    #[command(subcommand)]
    Alloc(Alloc),
    /// Machines
    #[command(subcommand)]
    Machine(Machine),
    /// What namespaces may have at most
    #[command(subcommand)]
    Quota(Quotas),
    /// Named sets of machines, reserved for some schedulers or only named
    #[command(subcommand)]
    Partition(Partitions),
    /// Room that is set aside for jobs that starve
    #[command(subcommand)]
    Hold(Holds),
    /// Transactions, refused ones too
    #[command(subcommand)]
    Txn(Txn),
    /// Who loses against whom
    Conflicts(Conflicts),
    /// The cell in a few lines
    Status,
    /// Checks the log of a stopped cell: decides it again and compares
    Verify {
        /// The cell's directory, or that of `plenum dev` [default: $XDG_STATE_HOME/plenum]
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// Writes the state of a cell into one file, while it runs
    Backup {
        /// A new file, or a folder that gets one named after cell, incarnation and revision
        #[arg(long, value_name = "FILE|DIR")]
        out: PathBuf,
        /// The directory of a stopped cell, or that of `plenum dev`, instead of asking a running one
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// Makes a new cell directory from a backup: the same cell, in a new incarnation
    Restore(Restore),
    /// The page of an error or refusal code
    Explain {
        /// Such as NO_ROOM; without it, all codes
        code: Option<String>,
    },
    /// Completions for a shell
    Completion {
        /// The shell
        shell: Shell,
    },
    /// The version
    Version,
}

/// `plenum dev`
#[derive(Clone, Debug, Args)]
pub(crate) struct Dev {
    /// Job files to run
    pub(crate) files: Vec<PathBuf>,
    /// End when every job ended: with 0 when all completed, with 1 when one failed
    #[arg(long, requires = "files")]
    pub(crate) until_done: bool,
    /// Agents; each offers an equal share of this machine
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64), value_name = "N")]
    pub(crate) machines: u32,
    /// Keep the cell in this directory [default: a temporary one, removed at the end]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Run tasks as plain processes, even where cgroups and namespaces are there
    #[arg(long)]
    pub(crate) no_isolation: bool,
}

/// Ends a part when the process that started it is gone.
#[derive(Clone, Debug, Args)]
pub(crate) struct WithParent {
    /// End when this process, which started it, is gone
    #[arg(long, hide = true, value_name = "PID")]
    pub(crate) with_parent: Option<i32>,
}

/// `plenum server`
#[derive(Clone, Debug, Args)]
pub(crate) struct Server {
    /// A configuration file in TOML, with the same names as the flags
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where the cell's log and history are kept; the address is written to DIR/address once it can be reached [default:
    /// $XDG_STATE_HOME/plenum]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Where to listen; port 0 takes any free one [default: 127.0.0.1:7070]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<std::net::SocketAddr>,
    #[command(flatten)]
    pub(crate) with_parent: WithParent,
}

/// `plenum scheduler`
#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Scheduler {
    #[command(subcommand)]
    pub(crate) command: Option<Schedulers>,
    /// Names of built-in schedulers
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
    #[command(flatten)]
    pub(crate) with_parent: WithParent,
}

/// `plenum scheduler list|pause|resume`
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Schedulers {
    /// Lists schedulers, built-in and others
    List(Listing),
    /// Keeps a scheduler's transactions out; what it placed runs on
    Pause {
        /// The scheduler's name
        name: String,
    },
    /// Lets them in again
    Resume {
        /// The scheduler's name
        name: String,
    },
}

/// `plenum quota`
#[derive(Debug, Subcommand)]
pub(crate) enum Quotas {
    /// Lists quotas, and what is used of them
    List(Listing),
    /// Sets a namespace's whole quota: what is not named is not limited. Lowering it stops nothing
    Set {
        /// The namespace
        #[arg(value_name = "NAMESPACE")]
        name: String,
        #[command(flatten)]
        limits: Limits,
    },
    /// Removes a namespace's quota
    Remove {
        /// The namespace
        #[arg(value_name = "NAMESPACE")]
        name: String,
    },
}

/// Limits of a quota: at least one.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(crate) struct Limits {
    /// Cores, such as 100 or 500m
    #[arg(long, value_name = "CORES", value_parser = crate::job_file::cpu_millis)]
    pub(crate) cpu: Option<i64>,
    /// Memory, such as 64GiB
    #[arg(long, value_name = "BYTES", value_parser = crate::job_file::bytes)]
    pub(crate) memory: Option<i64>,
    /// Disk, such as 1TiB
    #[arg(long, value_name = "BYTES", value_parser = crate::job_file::bytes)]
    pub(crate) disk: Option<i64>,
    /// A resource that the cell named; can be given several times
    #[arg(long, value_name = "NAME=AMOUNT", value_parser = parse_amount)]
    pub(crate) resource: Vec<(String, i64)>,
}

/// `plenum partition`
#[derive(Debug, Subcommand)]
pub(crate) enum Partitions {
    /// Lists partitions, and what is in them
    List(Listing),
    /// Names a set of machines, or changes one
    Set {
        /// The partition's name
        name: String,
        /// Which machines, such as 'attr.rack == "a"'; can be given several times, all must hold
        #[arg(long = "where", required = true, value_name = "RULE")]
        rules: Vec<String>,
        /// Reserves it for these schedulers, joined by commas
        #[arg(long = "for", value_delimiter = ',', value_name = "SCHEDULER")]
        schedulers: Vec<String>,
    },
    /// Forgets a partition; what runs there stays
    Remove {
        /// The partition's name
        name: String,
    },
}

/// `plenum hold`
#[derive(Debug, Subcommand)]
pub(crate) enum Holds {
    /// Lists holds: earlier ones may take room from later ones
    List(Listing),
}

/// `plenum agent`
#[derive(Clone, Debug, Args)]
pub(crate) struct Agent {
    /// A configuration file in TOML, with the same names as the flags
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The machine's name [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Where tasks live [default: $XDG_STATE_HOME/plenum-agent]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Offer only one part in N of this machine
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) share: Option<u32>,
    /// Run tasks as plain processes, even where cgroups and namespaces are there
    #[arg(long)]
    pub(crate) no_isolation: bool,
    /// Stop all tasks when the agent ends, instead of leaving them to its successor
    #[arg(long)]
    pub(crate) stop_tasks_on_exit: bool,
    #[command(flatten)]
    pub(crate) with_parent: WithParent,
}

/// `plenum restore`
#[derive(Clone, Debug, Args)]
pub(crate) struct Restore {
    /// A backup; or the directory of a stopped cell, also a damaged one
    #[arg(long, value_name = "FILE|DIR")]
    pub(crate) from: PathBuf,
    /// The new directory: not there yet, or empty
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// From a damaged directory: go on without what is lost, and say what that is
    #[arg(long)]
    pub(crate) accept_loss: bool,
    /// The new incarnation, for a second restore of one backup [default: one above the old one]
    #[arg(long, value_name = "N")]
    pub(crate) incarnation: Option<u64>,
}

/// `plenum job`
#[derive(Debug, Subcommand)]
pub(crate) enum Job {
    /// Submits a job file
    Run {
        /// The job file, in TOML or JSON
        file: PathBuf,
        /// Wait for the job's end and exit with its result: 0 complete, 1 failed
        #[arg(long)]
        wait: bool,
        /// Longest wait, such as 5m; then exit with 3
        #[arg(long, requires = "wait", value_name = "TIME", value_parser = crate::job_file::duration_micros)]
        timeout: Option<i64>,
    },
    /// Lists jobs
    List(Listing),
    /// Shows a job, its groups and its allocations
    Show {
        /// The job's name, or its file
        #[arg(value_name = "NAME|FILE")]
        job: String,
        /// As it was at a revision, or at a time such as 2026-11-20T08:00:00Z or -10m
        #[arg(long, value_name = "REVISION|TIME", value_parser = parse_at, allow_hyphen_values = true)]
        at: Option<At>,
    },
    /// Tells what happened to a job, and who asked for it
    History {
        /// The job's name, or its file
        #[arg(value_name = "NAME|FILE")]
        job: String,
        /// Up to a revision, or a time such as 2026-11-20T08:00:00Z or -10m
        #[arg(long, value_name = "REVISION|TIME", value_parser = parse_at, allow_hyphen_values = true)]
        at: Option<At>,
        /// Most events, the newest [default: the server's own limit]
        #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "N")]
        limit: u32,
    },
    /// Stops a job
    Stop {
        /// The job's name, or its file
        #[arg(value_name = "NAME|FILE")]
        job: String,
    },
    /// Launches a recurring job for an instant: each at most once, and in order
    Launch {
        /// The recurring job's name, or its file
        #[arg(value_name = "NAME|FILE")]
        job: String,
        /// The instant [default: now]
        #[arg(long, value_name = "TIME")]
        at: Option<jiff::Timestamp>,
    },
    /// Changes how many tasks a group has
    Scale {
        /// The job's name, or its file
        #[arg(value_name = "NAME|FILE")]
        job: String,
        /// Tasks that the group shall have
        #[arg(value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
        count: u32,
        /// The group; needed when the job has more than one
        #[arg(long)]
        group: Option<String>,
    },
}

/// `plenum alloc`
#[derive(Debug, Subcommand)]
pub(crate) enum Alloc {
    /// Lists allocations
    List {
        /// Only of this job
        #[arg(long, value_name = "NAME")]
        job: Option<String>,
        /// Only on this machine
        #[arg(long, value_name = "NAME")]
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
        #[arg(long, value_name = "LINES")]
        tail: Option<u32>,
    },
    /// Stops an allocation; its task is placed again if its job still wants it. Also a task that the cell does not know, as after a restore
    Stop {
        /// Such as alloc-4-1
        id: String,
    },
}

/// `plenum machine`
#[derive(Debug, Subcommand)]
pub(crate) enum Machine {
    /// Lists machines
    List(Listing),
    /// Shows a machine and what runs there
    Show {
        /// The machine's name
        name: String,
        /// As it was at a revision, or at a time such as 2026-11-20T08:00:00Z or -10m
        #[arg(long, value_name = "REVISION|TIME", value_parser = parse_at, allow_hyphen_values = true)]
        at: Option<At>,
        /// What happened to it, too, and who asked for it
        #[arg(long)]
        history: bool,
    },
    /// Takes no new claims from now on
    Cordon {
        /// The machine's name
        name: String,
    },
    /// Takes claims again
    Uncordon {
        /// The machine's name
        name: String,
    },
    /// Takes no more tasks, lets those that are there go on until a deadline, stops what is left then, and waits until it is empty
    Drain {
        /// The machine's name
        name: String,
        /// When what is left is stopped, such as 10m
        #[arg(long, default_value = "10m", value_name = "TIME", value_parser = crate::job_file::duration_micros)]
        deadline: i64,
        /// Do not wait
        #[arg(long)]
        no_wait: bool,
    },
    /// Ends a drain
    Undrain {
        /// The machine's name
        name: String,
    },
    /// Lets a task that the cell does not know, as after a restore, run on until it ends by itself, or `plenum alloc stop` stops it
    Adopt {
        /// The machine's name
        name: String,
        /// What its agent calls it, such as alloc-4-1
        id: String,
    },
    /// Removes a machine that is gone for good; what ran there is lost
    Remove {
        /// The machine's name
        name: String,
        /// Even if its agent is there: what it runs may be started elsewhere while it still runs
        #[arg(long)]
        force: bool,
    },
}

/// `plenum txn`
#[derive(Debug, Subcommand)]
pub(crate) enum Txn {
    /// Lists transactions, the newest first
    List {
        /// Only of this scheduler
        #[arg(long, value_name = "NAME")]
        scheduler: Option<String>,
        /// Only those with refused claims
        #[arg(long)]
        refused: bool,
        /// The oldest first
        #[arg(long)]
        oldest_first: bool,
        #[command(flatten)]
        listing: Listing,
    },
    /// Shows a transaction, with each refused claim explained
    Show {
        /// Such as txn-17-3
        id: String,
    },
}

/// `plenum conflicts`
#[derive(Clone, Debug, Args)]
pub(crate) struct Conflicts {
    /// What conflicts are grouped by
    #[arg(long, default_value = "pair", value_parser = ["pair", "machine", "job", "resource"])]
    pub(crate) by: String,
    /// Only those of the last time, such as 10m
    #[arg(long, value_name = "TIME", value_parser = crate::job_file::duration_micros)]
    pub(crate) since: Option<i64>,
    /// Most rows to list [default: the server's own limit]
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "N")]
    pub(crate) limit: u32,
    /// List again whenever something changed, until interrupted
    #[arg(short, long)]
    pub(crate) watch: bool,
    /// Up to a revision, or a time such as 2026-11-20T08:00:00Z or -10m
    #[arg(long, value_name = "REVISION|TIME", value_parser = parse_at, allow_hyphen_values = true, conflicts_with = "watch")]
    pub(crate) at: Option<At>,
}

/// A named resource and an amount of it.
fn parse_amount(text: &str) -> Result<(String, i64), String> {
    let parts = text.split_once('=').and_then(|(name, amount)| Some((name, amount.parse::<i64>().ok()?)));
    match parts.filter(|(name, amount)| !name.is_empty() && *amount >= 0) {
        Some((name, amount)) => Ok((name.to_owned(), amount)),
        None => Err("expected a resource and an amount, such as licenses=4".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn listings_take_what_the_interface_promises() {
        for line in [
            "plenum job list -o wide --at 7 --limit 3 --filter state=running",
            "plenum alloc list --watch -o json --job web --machine m1 -a",
            "plenum -o name machine list",
            "plenum txn list --refused --scheduler blue",
            "plenum conflicts --by pair --since 10m",
            "plenum machine list --at -10m",
            "plenum conflicts --at=-1h",
            "plenum job history web --limit 5 --at 12",
            "plenum alloc show alloc-1-1 --history",
            "plenum machine show m1 --history",
            "plenum dev examples/word-count.toml --until-done --machines 2 --dir /tmp/x --no-isolation",
            "plenum job run x.toml --wait --timeout 5m",
            "plenum scheduler batch service",
            "plenum backup --out /backups",
            "plenum restore --from /backups/x --dir /var/lib/new --accept-loss --incarnation 3",
        ] {
            Arguments::try_parse_from(line.split(' ')).unwrap();
        }
    }

    #[test]
    fn wrong_usage_is_refused() {
        for line in [
            "plenum",
            "plenum dev --until-done",
            "plenum dev --machines 0",
            "plenum job list -o xml",
            "plenum conflicts --by colour",
            "plenum job list --at 1 --watch",
            "plenum job scale web many",
        ] {
            assert_eq!(Arguments::try_parse_from(line.split(' ')).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}

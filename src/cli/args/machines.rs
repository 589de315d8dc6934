//! What people type about machines.

use clap::Subcommand;
use plenum_proto::{filters, v1::At};

use super::{Listing, by};
use crate::cli::at::parse_at;

/// `plenum machine`
#[derive(Debug, Subcommand)]
pub(crate) enum Machine {
    /// Lists machines
    #[command(mut_arg("filter", by(filters::MACHINES)))]
    List(Listing),
    /// Shows a machine and what runs there
    Show {
        /// The machine's name
        name: String,
        /// As it was at a revision, or at a time such as 2026-11-20T08:00:00Z or -10m
        #[arg(long, value_name = "REVISION|TIME", value_parser = parse_at, allow_hyphen_values = true)]
        at: Option<At>,
        /// What happened to it, too, and who asked for it; also of a machine that was removed
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
    /// Takes no more tasks, lets those that are there end or be moved until a deadline, stops what is left then, and waits until it is empty
    Drain {
        /// The machine's name
        name: String,
        /// When what is left is stopped, such as 20m [default: 10m; a drain that goes on keeps the one that it has]
        #[arg(long, value_name = "TIME", value_parser = crate::job_file::duration_micros, allow_hyphen_values = true)]
        deadline: Option<i64>,
        /// Do not wait
        #[arg(long)]
        no_wait: bool,
        /// Longest wait, such as 20m; then exit with 3, and the drain goes on
        #[arg(long, conflicts_with = "no_wait", value_name = "TIME", value_parser = crate::job_file::duration_micros, allow_hyphen_values = true)]
        timeout: Option<i64>,
    },
    /// Ends a drain
    Undrain {
        /// The machine's name
        name: String,
    },
    /// Lets a task that the cell does not know, as after a restore, run on until it ends by itself, or its machine is drained, or
    /// `plenum alloc stop` stops it
    Adopt {
        /// The machine's name
        name: String,
        /// What its agent calls it, such as alloc-4-1
        id: String,
    },
    /// Removes a machine that is gone for good; what ran there is lost. An agent that still runs there brings it back: stop that first
    Remove {
        /// The machine's name
        name: String,
        /// Even if its agent is there: what it runs may be started elsewhere while it still runs
        #[arg(long)]
        force: bool,
    },
}

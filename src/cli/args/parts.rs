//! What starts the parts of a cell, and restores one.

use std::path::PathBuf;

use clap::Args;
use plenum_model::INCARNATIONS_MAX;

use super::{
    number::{socket, whole},
    operators::Schedulers,
};

/// `plenum dev`
#[derive(Clone, Debug, Args)]
pub(crate) struct Dev {
    /// Job files to run
    pub(crate) files: Vec<PathBuf>,
    /// End when every job ended: with 0 when all completed, with 1 when one failed, with 130 when interrupted before
    #[arg(long, requires = "files")]
    pub(crate) until_done: bool,
    /// Agents; each offers an equal share of this machine
    #[arg(long, default_value_t = 1, value_parser = whole(1..=64_u32), value_name = "N", allow_hyphen_values = true)]
    pub(crate) machines: u32,
    /// Keep the cell in this directory [default: a temporary one, removed at the end]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// The port of the cell, on 127.0.0.1; 0 takes any free one [default: 7070, or any other where somebody has that one]
    #[arg(long, value_name = "PORT", value_parser = whole(0..=u16::MAX), allow_hyphen_values = true)]
    pub(crate) port: Option<u16>,
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
    /// A file of settings in TOML, over which flags win; docs/operating.md lists its fields
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where the cell's log and history are kept; the address is written to DIR/address once it can be reached [default:
    /// $XDG_STATE_HOME/plenum]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Where to listen; port 0 takes any free one [default: 127.0.0.1:7070]
    #[arg(long, value_name = "ADDRESS", value_parser = socket)]
    pub(crate) listen: Option<std::net::SocketAddr>,
    #[command(flatten)]
    pub(crate) with_parent: WithParent,
}

/// `plenum scheduler`
#[derive(Clone, Debug, Args)]
#[command(subcommand_precedence_over_arg = true, subcommand_negates_reqs = true)]
pub(crate) struct Scheduler {
    #[command(subcommand)]
    pub(crate) command: Option<Schedulers>,
    /// Names of built-in schedulers
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
    #[command(flatten)]
    pub(crate) with_parent: WithParent,
}

/// `plenum agent`
#[derive(Clone, Debug, Args)]
pub(crate) struct Agent {
    /// A file of settings in TOML, over which flags win; docs/operating.md lists its fields
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The machine's name [default: the host's name, in small letters]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Where tasks live [default: $XDG_STATE_HOME/plenum-agent]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Offer only one part in N of this machine
    #[arg(long, value_name = "N", value_parser = whole(1..=64_u32), allow_hyphen_values = true)]
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
    /// The new incarnation: above all there were, if the cell was restored before [default: one above the old one; at most 64]
    #[arg(long, value_name = "N", value_parser = whole(2..=INCARNATIONS_MAX), allow_hyphen_values = true)]
    pub(crate) incarnation: Option<u64>,
}

//! The one binary: it reads the command line and wires the parts of Plenum together.
//!
//! It decides nothing: what a cell is, who is granted what, and how tasks run is in the crates beside it.

mod address;
mod cli;
mod connect;
mod dev;
mod failure;
mod fit;
mod job_file;
mod output;
mod parent;
mod parts;
mod preferences;
mod signals;

use plenum_server::allocator::Allocator;

/// An agent, a scheduler or a command has no use for a busy server's, and a development cell none for what makes a large one fast.
#[global_allocator]
static ALLOCATOR: Allocator = Allocator::for_command("server", "--with-parent");

fn main() -> std::process::ExitCode {
    cli::main()
}

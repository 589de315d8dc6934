//! The one binary: it reads the command line and wires the parts of Plenum together.
//!
//! It decides nothing: what a cell is, who is granted what, and how tasks run is in the crates beside it.

mod cli;
mod connect;
mod dev;
mod failure;
mod job_file;
mod output;
mod parent;
mod parts;

/// Nearly everything that a commit takes from the heap is given back by another thread, for which glibc's allocator is not made.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::main()
}

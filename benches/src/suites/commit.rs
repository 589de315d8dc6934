//! Suite `commit`: durable commits, end to end. A server as a process of its own on a real disk, gRPC over loopback, and in this process
//! its clients: schedulers, each with a session's stream and a bounded number of transactions under way, a rival that they lose to,
//! and the agents that send the receipts of what was stopped.
//!
//! All loads run on one cell, one after the other. At the end the server is killed, not ended, and started again on the same
//! directory: every acknowledged outcome must be there, and nothing else.

mod agents;
mod beside_bare;
mod beside_etcd;
pub(super) mod cell;
pub(super) mod closed;
pub(super) mod ground;
mod history_cost;
mod load;
mod log_path;
mod machine_times;
mod mirror;
pub(super) mod open_loop;
mod resting;
mod rival;
mod scheduler;
pub(super) mod server_counts;
mod steady;
mod under_way;
mod watchers;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;

use super::beside_this_program;
use crate::disk;
use crate::figure::{Case, Figure};
use crate::kept::Kept;
use crate::progress::say;
use crate::rate::Counted;
use crate::scratch::Scratch;
use crate::{Run, interrupt};
use cell::Serving;
use closed::{Shape, Times, Window};
use ground::{Ground, Size};
use machine_times::MachineTimes;

pub(crate) const NAME: &str = "commit";

/// The cell that all loads run on.
const SIZE: Size = Size { machines: 10_000, live: 1_000_000 };
/// Writes of the disk's own figures, before each load and after it, and what each has: with many in flight, batches are large.
const SYNCS: usize = 250;
const SYNC_BYTES: usize = 64 << 10;
/// Threads of the clients' event loop.
const THREADS: usize = 2;

/// Closed loops: what the quick form measures, and what the long form does besides.
const QUICK: [Shape; 2] = [
    Shape { claims: 100, streams: 4, in_flight: 16, mirrors: false },
    Shape { claims: 1000, streams: 4, in_flight: 8, mirrors: false },
];
const FURTHER: [Shape; 5] = [
    Shape { claims: 100, streams: 4, in_flight: 64, mirrors: false },
    Shape { claims: 100, streams: 16, in_flight: 16, mirrors: false },
    Shape { claims: 100, streams: 4, in_flight: 16, mirrors: true },
    Shape { claims: 100, streams: 1, in_flight: 1, mirrors: false },
    Shape { claims: 1, streams: 4, in_flight: 64, mirrors: false },
];

/// Where a run has its files.
struct Place {
    scratch: PathBuf,
    file_system: String,
}

/// How long closed loops run. Commits are quick until the queue before the history is full, if the history is too slow for a load: what
/// is measured before that cannot be kept up.
fn times(options: &Run) -> Times {
    let seconds = Duration::from_secs;
    if options.quick {
        Times { warm_up: seconds(4), window: seconds(2), windows: 2 }
    } else {
        Times { warm_up: seconds(10), window: seconds(2), windows: 8 }
    }
}

/// Runs a server until it is killed.
pub(crate) fn serve(dir: PathBuf, serving: Serving) -> anyhow::Result<()> {
    cell::serve(dir, serving)
}

/// A new folder on the disk that is to be measured, and what file system that is.
pub(super) fn scratch(options: &Run) -> anyhow::Result<(Scratch, String)> {
    let folder = match &options.dir {
        Some(dir) => dir.clone(),
        None => beside_this_program()?,
    };
    let file_system = disk::file_system(&folder)?;
    Ok((Scratch::make(&folder)?, file_system))
}

/// The event loop of clients.
pub(super) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?)
}

pub(crate) fn run(options: &Run, kept: &mut Kept<'_>) -> anyhow::Result<()> {
    let (folder, file_system) = scratch(options)?;
    let place = Place { scratch: folder.path().to_owned(), file_system };
    runtime()?.block_on(on_one_cell(&place, options, kept))?;
    if history_cost::is_wanted(options) {
        kept.add(runtime()?.block_on(history_cost::run(&place, options))?);
    }
    log_path::run(&place, options, kept)
}

/// Everything that is measured on the one cell.
async fn on_one_cell(place: &Place, options: &Run, kept: &mut Kept<'_>) -> anyhow::Result<()> {
    let further = if options.quick { &[][..] } else { &FURTHER };
    let closed: Vec<&Shape> = QUICK.iter().chain(further).filter(|shape| options.has_case(&shape.name())).collect();
    let others = [beside_etcd::is_wanted(options), open_loop::is_wanted(options), watchers::is_wanted(options)];
    if closed.is_empty() && !others.contains(&true) {
        return Ok(());
    }
    let mut ground = Ground::prepare(&place.scratch.join("cell"), SIZE, Serving::usual(), options.seed).await?;
    steady::reach(&mut ground).await?;
    if beside_etcd::is_wanted(options) {
        kept.add(beside_etcd::run(&mut ground, place, options).await?);
    }
    for shape in closed.into_iter().take_while(|_| !interrupt::asked()) {
        let measured = closed_loop(&mut ground, *shape, place, options).await;
        kept.add(measured.with_context(|| shape.name())?);
    }
    if open_loop::is_wanted(options) {
        open_loop::run(&mut ground, place, options, kept).await?;
    }
    if watchers::is_wanted(options) {
        watchers::run(&mut ground, place, options, kept).await?;
    }
    ground.kill_and_check().await?;
    Ok(())
}

/// One closed loop, with the machine by itself before it and after it.
async fn closed_loop(ground: &mut Ground, shape: Shape, place: &Place, options: &Run) -> anyhow::Result<Vec<Figure>> {
    let (name, times) = (shape.name(), times(options));
    say(&name);
    let mut alone = MachineTimes::new(&place.scratch, SYNC_BYTES)?;
    alone.look(SYNCS)?;
    let mut bare = beside_bare::bursts(place, shape, times, options, ground.process())?;
    let seen = closed::run(ground, shape, times).await?;
    bare.extend(beside_bare::bursts(place, shape, times, options, ground.process())?);
    alone.look(SYNCS)?;
    let mut parameters = closed::parameters(ground, times, &place.file_system);
    parameters.extend(alone.parameters());
    parameters.extend(seen.parameters);
    let case = Case { suite: NAME, case: &name, parameters };
    let mut figures = closed::figures(&case, &seen.windows, &alone)?;
    if !bare.is_empty() {
        let claims: Vec<Counted> = seen.windows.iter().map(Window::claims).collect();
        figures.extend(beside_bare::figures(&case, &bare, &claims)?);
    }
    Ok(figures)
}

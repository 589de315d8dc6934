//! The threads of a server, and the queues between them.
//!
//! ```text
//! connections ─▶ ingress ─▶ resolver ⇄ journal        (decide, append, sync; answers go out from here)
//!                              │ published
//!                              ▼
//!                          publisher ┈▶ feeder        (what agents shall run, metrics; the history, which nothing waits for)
//! keeping: next segment, room on the disk; marking: high-water mark
//! ```

mod backlog;
mod clock;
mod feed;
mod feeder;
mod held_back;
mod journal;
mod keeping;
mod pace;
mod picture;
mod publisher;
mod resolver;
mod rest;
mod turns;

use std::sync::Arc;
use std::thread::JoinHandle;

use plenum_journal::Journal;
use plenum_model::Cell;

pub(crate) use backlog::Backlog;
pub(crate) use clock::{Apart, Clock};
pub(crate) use feed::{Feed, Stopped};
pub(crate) use held_back::HeldBack;
pub(crate) use keeping::{Keeping, NoSpace, SpaceWatch};
pub(crate) use picture::Picture;
pub(crate) use turns::step_back;

use crate::commit::Committer;
use crate::error::ServerError;
use crate::shared::Shared;
use journal::Writer;
use resolver::Resolver;
use rest::Rest;

/// The running threads. Dropped without [`Threads::stop`], they end as if killed, and are waited for: nobody else knows of them, and they hold
/// the directory.
pub(crate) struct Threads {
    shared: Arc<Shared>,
    running: Option<Running>,
}

/// In the order in which they end.
struct Running {
    resolver: JoinHandle<()>,
    rest: Vec<JoinHandle<()>>,
    keeping: [JoinHandle<()>; 2],
}

/// Batches whose deltas are on their way back to the resolver. More are dropped: it has enough.
const SPENT_MAX: usize = 4;

/// Starts all threads. `checkpoint` is the cell of the newest checkpoint.
///
/// # Errors
/// When one can't be started. Those that were have nothing to wait for then, and end.
pub(crate) fn start(
    shared: &Arc<Shared>,
    committer: Committer<crate::ingress::Ticket>,
    journal: Journal,
    checkpoint: Option<Cell>,
) -> Result<Threads, ServerError> {
    let running = start_each(shared, committer, journal, checkpoint).inspect_err(|_| {
        shared.abandon();
        shared.keeping.stop();
    })?;
    Ok(Threads { shared: shared.clone(), running: Some(running) })
}

fn start_each(
    shared: &Arc<Shared>,
    committer: Committer<crate::ingress::Ticket>,
    journal: Journal,
    checkpoint: Option<Cell>,
) -> Result<Running, ServerError> {
    let writer = Writer::new(journal, shared.clone());
    let (batches, to_write) = crossbeam_channel::bounded(1);
    let (shared_too, writer_too) = (shared.clone(), writer.clone());
    let (done, spent) = crossbeam_channel::bounded(SPENT_MAX);
    let resolver = Resolver {
        committer,
        spent,
        shared: shared_too,
        writer: writer_too,
        batches,
        published: None,
        last_was_small: true,
        bytes_since_snapshot: 0,
        rest: Rest::last(),
    };
    let with = |shared: &Arc<Shared>| shared.clone();
    let publisher = spawn("publisher", shared, {
        let shared = with(shared);
        move || publisher::run(&shared, &done)
    })?;
    let feeder = spawn("feeder", shared, {
        let shared = with(shared);
        move || feeder::run(&shared, checkpoint)
    })?;
    let journal = spawn("journal", shared, {
        let shared = with(shared);
        move || journal::run(&writer, &shared, &to_write)
    })?;
    let keeping = spawn("keeping", shared, {
        let shared = with(shared);
        move || keeping::run(&shared)
    })?;
    let marking = spawn("marking", shared, {
        let shared = with(shared);
        move || keeping::mark(&shared)
    })?;
    let resolver = spawn("resolver", shared, move || resolver.run())?;
    Ok(Running { resolver, rest: vec![journal, publisher, feeder], keeping: [keeping, marking] })
}

impl Threads {
    /// Lets nobody in any more, and waits until everything that was decided is durable, published and in the history.
    pub(crate) fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(Running { resolver, rest, keeping }) = self.running.take() else { return };
        self.shared.ingress.stop();
        let ended = |thread: JoinHandle<()>| drop(thread.join());
        ended(resolver);
        self.shared.published.close();
        rest.into_iter().for_each(ended);
        self.shared.keeping.stop();
        keeping.into_iter().for_each(ended);
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if self.running.is_some() {
            self.shared.abandon();
            self.end();
        }
    }
}

/// Starts a thread; if it panics, the server ends.
fn spawn(
    name: &'static str,
    shared: &Arc<Shared>,
    body: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, ServerError> {
    let shared = shared.clone();
    let guarded = move || {
        if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)) {
            shared.fail(ServerError::panicked(name, &*panic));
        }
    };
    std::thread::Builder::new()
        .name(format!("plenum-{name}"))
        .spawn(guarded)
        .map_err(|error| ServerError::Thread { name, what: error.to_string() })
}

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
#[cfg(test)]
pub(crate) mod warnings;
mod whereabouts;
mod writing;

use std::sync::Arc;
use std::thread::JoinHandle;

use plenum_journal::Journal;
use plenum_model::Cell;

pub(crate) use backlog::Backlog;
pub(crate) use clock::{Clock, ClockGap};
pub(crate) use feed::{Feed, Stopped};
pub(crate) use held_back::HeldBack;
pub(crate) use keeping::{Keeping, NoSpace, SpaceWatch};
pub(crate) use picture::Picture;
pub(crate) use turns::step_back;
pub use turns::step_forward;
pub(crate) use writing::Writing;

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

/// In the order in which they end; those that could not be started are not there.
#[derive(Default)]
struct Running {
    resolver: Option<JoinHandle<()>>,
    rest: Vec<JoinHandle<()>>,
    keeping: Vec<JoinHandle<()>>,
}

/// Batches whose deltas are on their way back to the resolver. More are dropped: it has enough.
const SPENT_MAX: usize = 4;

/// Starts a thread of this name.
type Spawn<'a> = &'a dyn Fn(&'static str, Box<dyn FnOnce() + Send>) -> Result<JoinHandle<()>, ServerError>;

/// Starts all threads. `checkpoint` is the cell of the newest checkpoint.
///
/// # Errors
/// When one can't be started. Those that were have ended then.
pub(crate) fn start(
    shared: &Arc<Shared>,
    committer: Committer<crate::ingress::Ticket>,
    journal: Journal,
    checkpoint: Option<Cell>,
) -> Result<Threads, ServerError> {
    start_by(shared, committer, journal, checkpoint, &|name, body| spawn(name, shared, body))
}

fn start_by(
    shared: &Arc<Shared>,
    committer: Committer<crate::ingress::Ticket>,
    journal: Journal,
    checkpoint: Option<Cell>,
    spawn: Spawn<'_>,
) -> Result<Threads, ServerError> {
    // Dropped where one can't be started, and last of all that is here: one of them waits for what the resolver has.
    let mut threads = Threads { shared: shared.clone(), running: None };
    let running = threads.running.insert(Running::default());
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
        rest: Rest::last(shared.settings.rest),
    };
    let with = |shared: &Arc<Shared>| shared.clone();
    running.rest.push(spawn("journal", {
        let shared = with(shared);
        Box::new(move || journal::run(&writer, &shared, &to_write))
    })?);
    running.rest.push(spawn("publisher", {
        let shared = with(shared);
        Box::new(move || publisher::run(&shared, &done))
    })?);
    running.rest.push(spawn("feeder", {
        let shared = with(shared);
        Box::new(move || feeder::run(&shared, checkpoint))
    })?);
    running.keeping.push(spawn("keeping", {
        let shared = with(shared);
        Box::new(move || keeping::run(&shared))
    })?);
    running.keeping.push(spawn("marking", {
        let shared = with(shared);
        Box::new(move || keeping::mark(&shared))
    })?);
    running.resolver = Some(spawn("resolver", Box::new(move || resolver.run()))?);
    Ok(threads)
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
        resolver.into_iter().for_each(ended);
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

#[cfg(test)]
mod tests {
    use plenum_core::Core;

    use super::*;
    use crate::ServerOptions;
    use crate::recovery::{self, Opened};
    use crate::shared::Parts;

    // They ended by themselves, and nobody waited for it: whoever tried again in the same process found the directory locked.
    #[test]
    fn where_a_thread_can_not_be_started_those_that_were_have_ended_and_hold_nothing() {
        for missing in ["journal", "publisher", "feeder", "keeping", "marking", "resolver"] {
            let dir = tempfile::tempdir().unwrap();
            let options = ServerOptions::new(dir.path());
            let opened = recovery::open(&options).unwrap();
            let Opened { journal, history, mirror, identity, checkpoint, lag_bytes, cut_bytes } = opened;
            let core = Core::from_cell(mirror.cell().clone(), options.settings.core_options());
            let committer = Committer::new(core, options.settings.commit_options());
            let (keeper, feed, dir) = (journal.keeper(), Feed::new(history, lag_bytes), options.dir);
            let parts = Parts { settings: options.settings, identity, keeper, feed, mirror, dir, cut_bytes };
            let shared = Arc::new(Shared::new(parts));
            let started = start_by(&shared, committer, journal, checkpoint, &|name, body| {
                if name == missing {
                    return Err(ServerError::Thread { name, what: "there is no room for another one".to_owned() });
                }
                spawn(name, &shared, body)
            });
            assert!(started.is_err());
            assert_eq!(Arc::strong_count(&shared), 1, "without {missing}");
        }
    }
}

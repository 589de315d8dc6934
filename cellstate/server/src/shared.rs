//! What all threads and connections of a server share.

mod asking;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use plenum_journal::Keeper;
use plenum_model::{Cell, CellIdentity, Revision, SessionId};
use plenum_proto::v1;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};

use crate::agents::{Hub, LogRelay, Respite};
use crate::ahead::Ahead;
use crate::api::edge::budget::Budget;
use crate::api::edge::reflection;
use crate::api::past;
use crate::calls::Calls;
use crate::commit::Published;
use crate::engine::{Backlog, Clock, Feed, HeldBack, Keeping, Picture, SpaceWatch, Writing};
use crate::error::{ServerError, told};
use crate::ingress::Ingress;
use crate::listen::Places;
use crate::metrics::Metrics;
use crate::notes::{Arrived, Notes};
use crate::options::Settings;
use crate::publish::{LoggedBatch, Recent};
use crate::pulses::{Doing, Pulses};
use crate::recovery::{self, LOG};

use crate::sessions::Sessions;
use crate::sync::Lending;
use crate::tasks::on_a_thread;
pub(crate) use asking::{Decided, Refused};

/// A snapshot that has not come after so long is made otherwise.
const STALLED: Duration = Duration::from_secs(1);

/// How often it is told that none could be made.
const TOLD_PAUSE: Duration = Duration::from_secs(10);

/// Watchers that read at a time what they missed: each reads some hundred KiB, which is in the page cache or soon is.
const CATCHING_UP_MAX: usize = 2;

/// The server, as its parts see it.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) identity: CellIdentity,
    pub(crate) clock: Clock,
    pub(crate) respite: Respite,
    pub(crate) arriving: Arc<Budget>,
    pub(crate) unread: Arc<Budget>,
    pub(crate) calls: Arc<Calls>,
    /// Those of them that ask what services there are.
    pub(crate) reflecting: reflection::Places,
    pub(crate) ingress: Ingress,
    pub(crate) recent: RwLock<Recent>,
    /// The durable revision; what is at it has been pushed to `recent` before. Set before anything is answered, so that whoever reads
    /// after an answer finds what it speaks of.
    newest: AtomicU64,
    /// The same, for those who wait: told once the answers of a batch have gone out.
    pub(crate) durable: watch::Sender<Revision>,
    /// To the publishing thread.
    pub(crate) published: Backlog<Published>,
    pub(crate) picture: Arc<Picture>,
    pub(crate) feed: Feed,
    /// The cell's directory.
    pub(crate) dir: PathBuf,
    pub(crate) keeper: Keeper,
    pub(crate) keeping: Keeping,
    pub(crate) writing: Writing,
    pub(crate) space: SpaceWatch,
    pub(crate) held_back: HeldBack,
    pub(crate) hub: Hub,
    pub(crate) notes: Mutex<Notes>,
    /// Those that wait to be taken.
    pub(crate) arrived: Mutex<Arrived>,
    pub(crate) sessions: Mutex<Sessions>,
    pub(crate) pulses: Mutex<Pulses>,
    pub(crate) ahead: Ahead,
    /// For connections; none before any is accepted.
    pub(crate) places: OnceLock<Arc<Places>>,
    pub(crate) metrics: Metrics,
    /// Pictures on their way to watchers.
    pub(crate) lending: Lending,
    /// Watchers that read what they missed, at a time.
    pub(crate) catching_up: Arc<Semaphore>,
    /// Who reads much of the cell or the disk.
    pub(crate) reads: past::Reads,
    /// One at a time folds the cell anew for readers, while the resolver shows none. When it was told last that it could not be.
    folding: Arc<tokio::sync::Mutex<Option<Instant>>>,
    /// One backup at a time: its snapshot makes every page that changes be copied.
    pub(crate) backups: Arc<Semaphore>,
    /// The revision at which this server is open: its first one.
    pub(crate) opened_at: Revision,
    /// Bytes that were cut off the end of the log at this start.
    pub(crate) cut_bytes: u64,
    /// The server ends; why, if not asked to.
    pub(crate) ending: watch::Sender<bool>,
    failed: AtomicBool,
    failure: Mutex<Option<ServerError>>,
}

/// Parts that a server is put together from.
pub(crate) struct Parts {
    pub(crate) settings: Settings,
    pub(crate) identity: CellIdentity,
    pub(crate) keeper: Keeper,
    pub(crate) feed: Feed,
    pub(crate) mirror: crate::publish::Mirror,
    /// The cell's directory.
    pub(crate) dir: PathBuf,
    pub(crate) cut_bytes: u64,
}

/// After so long without a word an agent's machine is unreachable.
fn lease_micros(settings: &Settings) -> i64 {
    let term = settings.lease + settings.lease_margin;
    i64::try_from(term.as_micros()).unwrap_or(i64::MAX)
}

impl Shared {
    /// After so long without a word an agent's machine is unreachable.
    pub(crate) fn lease_micros(&self) -> i64 {
        lease_micros(&self.settings)
    }

    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { settings, identity, keeper, feed, mirror, dir, cut_bytes } = parts;
        let cell = mirror.cell();
        let (revision, time) = (cell.revision(), cell.time());
        let clock = Clock::new(time);
        let term_micros = lease_micros(&settings);
        let logs = LogRelay::new(identity.term, settings.log_readers);
        let hub = Hub::new(cell, term_micros, clock.monotonic_micros(), logs);
        let sessions = Sessions::of_cell(cell, clock.monotonic_micros());
        let mut recent = Recent::new(revision, time, settings.recent_bytes);
        recent.compacted(Revision(feed.history().oldest_revision()));
        let space = SpaceWatch::new(dir.join(LOG).display().to_string(), &keeper);
        Self {
            respite: Respite::new(settings.lease, clock.monotonic_micros()),
            clock,
            arriving: Arc::new(Budget::new(settings.arriving_bytes)),
            unread: Arc::new(Budget::new(settings.unread_bytes)),
            calls: Arc::new(Calls::new(settings.shared_calls)),
            reflecting: reflection::Places::default(),
            ingress: Ingress::new(settings.queue),
            recent: RwLock::new(recent),
            newest: AtomicU64::new(revision.0),
            durable: watch::Sender::new(revision),
            published: Backlog::new(settings.backlog_bytes),
            picture: Arc::new(Picture::new(cell.clone(), mirror.times().clone(), settings.snapshot_age)),
            feed,
            keeper,
            keeping: Keeping::default(),
            writing: Writing::default(),
            space,
            dir,
            held_back: HeldBack::default(),
            hub,
            notes: Mutex::new(Notes::new(settings.notes)),
            arrived: Mutex::default(),
            sessions: Mutex::new(sessions),
            pulses: Mutex::new(Pulses::new(settings.sync.pulse_micros)),
            ahead: Ahead::default(),
            places: OnceLock::new(),
            metrics: Metrics::new(identity.custom_resources.clone()),
            lending: Lending::default(),
            catching_up: Arc::new(Semaphore::new(CATCHING_UP_MAX)),
            reads: past::Reads::default(),
            folding: Arc::default(),
            backups: Arc::new(Semaphore::new(1)),
            opened_at: revision.next(),
            cut_bytes,
            ending: watch::Sender::new(false),
            failed: AtomicBool::new(false),
            failure: Mutex::new(None),
            settings,
            identity,
        }
    }

    /// Shows a durable batch to everybody who looks.
    pub(crate) fn show(&self, batch: Arc<LoggedBatch>) {
        let last = batch.last();
        // Before anybody sees what was granted in it, and asks when that was.
        self.picture.note_time(batch.first(), batch.time());
        self.recent.write().push(batch);
        self.newest.store(last.0, Ordering::Release);
    }

    /// Tells everybody who waits of a batch that was shown.
    pub(crate) fn publish(&self, published: Published) {
        let bytes = published.batch.bytes().len();
        self.durable.send_replace(published.batch.last());
        self.published.send(bytes, published);
    }

    /// The server ends, because of this. The first reason counts, and is told once.
    pub(crate) fn fail(&self, error: ServerError) {
        let words = told(&error);
        let mut failure = self.failure.lock();
        let is_first = failure.is_none();
        failure.get_or_insert(error);
        drop(failure);
        self.abandon();
        self.ending.send_replace(true);
        // Last, and under no lock: a standard error that nobody reads any more holds up who writes there.
        if is_first {
            tracing::error!(error = %words, "the server ends");
        }
    }

    /// The server ends without finishing anything.
    pub(crate) fn abandon(&self) {
        self.failed.store(true, Ordering::Release);
        self.ingress.give_up();
        // Nobody may wait for room in a queue whose other end is gone.
        self.published.close();
        self.feed.close();
        self.picture.close();
    }

    /// Returns when the server ends.
    pub(crate) async fn ended(&self) {
        let mut ending = self.ending.subscribe();
        drop(ending.wait_for(|ending| *ending).await);
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    pub(crate) fn take_failure(&self) -> Option<ServerError> {
        self.failure.lock().take()
    }

    /// The durable revision now.
    pub(crate) fn durable_revision(&self) -> Revision {
        Revision(self.newest.load(Ordering::Acquire))
    }

    /// Takes a scheduler's pulse.
    pub(crate) fn take_pulse(&self, session: SessionId, pulse: v1::Pulse) {
        let age_micros = self.mirror_age_micros(Revision(pulse.revision));
        self.pulses.lock().put(session, pulse, age_micros, self.clock.monotonic_micros());
    }

    /// A scheduler that is welcomed now promised pulses, after each such pause at the latest. It is told all there is now.
    pub(crate) fn promised_pulses(&self, session: SessionId, pause_micros: u64) {
        let has = self.durable_revision();
        self.pulses.lock().promised(session, pause_micros, has, self.clock.monotonic_micros());
    }

    /// For how long the cell has had more than a mirror at this revision; 0 for one at 0, which is none.
    fn mirror_age_micros(&self, has: Revision) -> i64 {
        let lacks = has > Revision(0) && has < self.durable_revision();
        let since = if lacks { self.picture.about_when(has.next()) } else { None };
        since.map_or(0, |since| self.clock.now().micros.saturating_sub(since.micros).max(0))
    }

    /// How schedulers do, by name: those of which a member said so, or promised to.
    pub(crate) fn doing(&self) -> BTreeMap<Arc<str>, Doing> {
        let now_micros = self.clock.monotonic_micros();
        let all: Vec<_> = self.pulses.lock().all(now_micros, |has| self.mirror_age_micros(has)).collect();
        let sessions = self.sessions.lock();
        let mut by_name = BTreeMap::<_, Doing>::new();
        for (session, doing) in all {
            if let Some(owner) = sessions.owner(session) {
                let of_name = by_name.entry(owner.scheduler.clone()).or_default();
                *of_name = of_name.and(doing);
            }
        }
        by_name
    }

    /// The sessions that have fallen silent, while their streams are there.
    pub(crate) fn silent_sessions(&self) -> BTreeSet<SessionId> {
        let (pulses, now_micros) = (self.pulses.lock(), self.clock.monotonic_micros());
        let all = pulses.all(now_micros, |has| self.mirror_age_micros(has));
        all.filter(|(_, doing)| doing.silent > 0).map(|(session, _)| session).collect()
    }

    /// A snapshot that has everything that is durable now.
    ///
    /// The resolver's own cell is ahead of what is durable while a batch is being written. A write that does not come back, as when
    /// the disk is full, must not keep people from reading: then the cell is folded anew, once for all of them.
    ///
    /// To be awaited by who is polled whenever it can go on: others wait for turns that it takes.
    pub(crate) async fn snapshot(&self) -> Cell {
        self.snapshot_with(self.durable_revision()).await
    }

    /// The same, of a snapshot that has at least this durable revision.
    pub(crate) async fn snapshot_with(&self, revision: Revision) -> Cell {
        loop {
            if let Ok(cell) = tokio::time::timeout(STALLED, self.picture_with(revision)).await {
                return cell;
            }
            // Where much else goes on it may be late. The history can't be written on a full disk, either: it is not waited for longer.
            self.feed.reaches(revision, STALLED).await;
            // Nobody waits while it is folded, and what is shown to nobody is let go of again.
            let _kept = self.picture.keep();
            // Whoever folds it goes on by itself, and may take long: another picture that comes first will do.
            tokio::select! {
                cell = self.picture_with(revision) => return cell,
                () = self.fold_for_readers(revision) => {}
            }
            if let Ok(cell) = tokio::time::timeout(STALLED, self.picture_with(revision)).await {
                return cell;
            }
        }
    }

    async fn fold_for_readers(&self, revision: Revision) {
        let mut turn = self.folding.clone().lock_owned().await;
        let (picture, history, keeper) = (self.picture.clone(), self.feed.history().clone(), self.keeper.clone());
        // Shown also where its caller has left meanwhile, or callers with little patience would fold it again and again.
        let folding = on_a_thread(&Handle::current(), move || {
            if !picture.shows(revision) {
                let folded = past::fold(&history, revision.0);
                let folded = folded.or_else(|_| recovery::present(&history, &keeper, revision));
                match folded {
                    Ok(cell) => picture.show_folded(cell),
                    // Each of them tries again.
                    Err(error) if turn.is_none_or(|told| told.elapsed() >= TOLD_PAUSE) => {
                        *turn = Some(Instant::now());
                        tracing::warn!(%error, "readers wait: the cell could not be folded for them");
                    }
                    Err(_) => {}
                }
            }
            drop(turn);
        });
        // Where the system gives no thread it is tried again, as after any turn that failed.
        if let Some(folding) = folding {
            drop(folding.await);
        }
    }

    /// The resolver's picture, when it has this durable revision: for as long as a write does not come back, that may be never.
    pub(crate) async fn picture_with(&self, revision: Revision) -> Cell {
        self.picture.at_least(revision, || self.ingress.want_snapshot()).await
    }
}

#[cfg(test)]
pub(crate) mod tests;

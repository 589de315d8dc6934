//! What all threads and connections of a server share.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use plenum_history::History;
use plenum_journal::{Keeper, ReadError};
use plenum_model::planted::{self, Bug};
use plenum_model::{Cell, CellIdentity, Command, Decision, Request, Revision, SessionId};
use plenum_proto::v1;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot, watch};
use tonic::Code;

use crate::agents::{Hub, LogRelay, Respite};
use crate::ahead::Ahead;
use crate::api::edge::budget::Budget;
use crate::api::edge::reflection;
use crate::api::failure::Failure;
use crate::api::past;
use crate::calls::Calls;
use crate::commit::{Answer, Asked, Published};
use crate::engine::{Backlog, Clock, Feed, HeldBack, Keeping, Picture, SpaceWatch, Writing};
use crate::error::{ServerError, told};
use crate::ingress::{Answered, Asking, Ingress, NotQueued, Reply, TurnedAway, came_before};
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

/// A snapshot that has not come after so long is made otherwise.
const STALLED: Duration = Duration::from_secs(1);

/// A request that was not queued.
pub(crate) struct Refused {
    pub(crate) reply: Reply,
    pub(crate) failure: Failure,
    /// What was asked, where it was refused for want of room.
    pub(crate) asked: Option<Asked>,
}

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

/// A durable answer.
#[derive(Debug)]
pub(crate) struct Decided {
    /// The revision it was judged on; its own if it changed something.
    pub(crate) at: Revision,
    pub(crate) decision: Decision,
    pub(crate) changed: bool,
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

    /// Queues a request. Refused while there is no room on the disk, when too much waits already, and when it could come to more than
    /// a frame of the log holds.
    pub(crate) fn submit(&self, asked: Asked, reply: Reply) -> Result<(), Failure> {
        self.check_size(&asked)?;
        self.submit_all(std::iter::once((asked, reply)), None).pop().map_or(Ok(()), |refused| Err(refused.failure))
    }

    /// Queues requests of checked size, in this order, for which the queue is locked once; transactions are of the session of which this was
    /// queued. Gives those that were refused.
    pub(crate) fn submit_all(
        &self,
        requests: impl Iterator<Item = (Asked, Reply)>,
        session: Option<Asking<'_>>,
    ) -> Vec<Refused> {
        if let Err(failure) = self.check_disk() {
            let refused = |(asked, reply): (Asked, Reply)| {
                let failure = of_its_number(failure.clone(), came_before(&asked, session));
                Refused { reply, failure, asked: Some(asked) }
            };
            return requests.map(refused).collect();
        }
        let refused = self.ingress.push_all(requests, session).into_iter();
        let refused = refused.map(|TurnedAway { reply, why, came_before }| {
            let failure = of_its_number(failure_of(why), came_before);
            Refused { reply, failure, asked: None }
        });
        refused.collect()
    }

    /// A request is refused while there is no room on the disk.
    fn check_disk(&self) -> Result<(), Failure> {
        let low = self.space.low().filter(|_| !planted::is(Bug::OverlooksFullDisks));
        low.map_or(Ok(()), |low| Err(Failure::read_only(&low)))
    }

    /// A request of which its size alone tells that it could come to more than a frame of the log holds is refused: it need not be
    /// decided. What it comes to is measured then. A dry run stands in no log.
    pub(crate) fn check_size(&self, asked: &Asked) -> Result<(), Failure> {
        if matches!(&asked.request().command, Command::Commit(transaction, _) if transaction.dry_run) {
            return Ok(());
        }
        let (most, found) = (self.settings.logged_bytes_max(), asked.logged_bytes());
        if found > most {
            let message = format!(
                "with its answer the request may come to {found} bytes in the log, which takes {most}; send less at once, or set larger segment_bytes"
            );
            return Err(Failure::new(Code::ResourceExhausted, "MESSAGE_TOO_LARGE", message));
        }
        Ok(())
    }

    /// Asks, and waits for the durable answer: what was decided, and the revision it was judged on.
    pub(crate) async fn ask(&self, request: Request) -> Result<Decided, Failure> {
        self.decided(self.queue(request)?).await
    }

    /// Queues a request, which is decided then whoever waits for it: [`Shared::decided`] does.
    pub(crate) fn queue(&self, request: Request) -> Result<oneshot::Receiver<Answered>, Failure> {
        let (sender, receiver) = oneshot::channel();
        self.submit(Asked::new(request), Reply::Once(sender))?;
        Ok(receiver)
    }

    /// Queues what agents report, of which there is no more at a time than its caller lets there be, behind what they reported before:
    /// [`Shared::decided`] waits for its answer.
    pub(crate) fn queue_report(&self, asked: Asked) -> Result<oneshot::Receiver<Answered>, Failure> {
        self.check_size(&asked)?;
        self.check_disk()?;
        let (sender, receiver) = oneshot::channel();
        self.ingress.push_report(asked, Reply::Once(sender)).map_err(failure_of)?;
        Ok(receiver)
    }

    /// The durable answer to what was queued.
    pub(crate) async fn decided(&self, queued: oneshot::Receiver<Answered>) -> Result<Decided, Failure> {
        let answered = queued.await.map_err(|_| Failure::outcome_unknown())?;
        self.decision(answered).await
    }

    /// As [`Shared::ask`], for what the server asks by itself.
    pub(crate) async fn ask_own(&self, command: Command) -> Result<Decided, Failure> {
        let (sender, receiver) = oneshot::channel();
        self.ingress.push_own(Asked::by_server(command), Some(Reply::Once(sender)));
        self.decided(receiver).await
    }

    /// The decision of an answer; that of a repeated number is read back from where it stands.
    pub(crate) async fn decision(&self, answered: Answered) -> Result<Decided, Failure> {
        match answered.answer {
            Answer::Changed(decision) => Ok(Decided { at: answered.at, decision, changed: true }),
            Answer::Unchanged(decision) => Ok(Decided { at: answered.at, decision, changed: false }),
            Answer::Repeated(at) => Ok(Decided { at, decision: self.read_back(at).await?, changed: false }),
        }
    }

    /// What was decided at a revision, from where it stands.
    pub(crate) async fn read_back(&self, revision: Revision) -> Result<Decision, Failure> {
        let recent = self.recent.read().decided(revision);
        let encoded = match recent {
            Some(encoded) => encoded,
            // It may be anywhere in a segment, and that on the disk: no connection waits for it that has not asked.
            None => {
                let (keeper, history) = (self.keeper.clone(), self.feed.history().clone());
                past::answering(&self.reads, move || logged(&keeper, &history, revision)).await?
            }
        };
        let wire = <plenum_proto::v1::Decision as prost::Message>::decode(encoded);
        let decision = wire.ok().and_then(|wire| Decision::try_from(wire).ok());
        decision.ok_or_else(|| Failure::internal(format!("the answer of revision {revision} can't be read")))
    }

    /// The names of principals and namespaces that a request carries.
    pub(crate) fn request(principal: &Arc<str>, namespace: Arc<str>, command: Command) -> Request {
        Request { principal: principal.clone(), namespace, command }
    }
}

fn of_its_number(failure: Failure, came_before: bool) -> Failure {
    if came_before { failure.of_a_number_that_came_before() } else { failure }
}

/// Why a request was not queued.
fn failure_of(refused: NotQueued) -> Failure {
    match refused {
        NotQueued::Full(full) => Failure::queue_full(full),
        NotQueued::Stopping => Failure::ending(),
    }
}

/// What was answered at a revision, from the log or the history.
fn logged(keeper: &Keeper, history: &History, revision: Revision) -> Result<bytes::Bytes, Failure> {
    let found = keeper.reader(revision.0).and_then(|mut reader| {
        let frame = reader.next_frame()?.map(|frame| bytes::Bytes::copy_from_slice(frame.payload));
        let batch = frame.and_then(|frame| LoggedBatch::parse(frame).ok());
        Ok(batch.and_then(|batch| batch.decided(revision)))
    });
    match found {
        Ok(Some(decided)) => return Ok(decided),
        // The history may have it; but somebody should look at that disk.
        Err(error @ (ReadError::Damaged(_) | ReadError::Disk(_))) => {
            tracing::error!(%error, "the log could not be read back");
        }
        _ => {}
    }
    history.entry(revision.0).map(|logged| logged.entry.decided).map_err(|error| Failure::history(&error))
}

#[cfg(test)]
pub(crate) mod tests {
    mod failing;

    use std::path::Path;

    use plenum_journal::Journal;

    use super::*;
    use crate::publish::Mirror;
    use crate::recovery::Opened;
    use crate::tasks::runtime_without_threads;
    use crate::{Handle, Server, ServerOptions};

    /// What the threads of a server share, without any of them, and its log: over the cell of a directory, or over `other`, made for the server's identity.
    pub(crate) fn without_threads(
        dir: &Path,
        other: impl FnOnce(&CellIdentity) -> Option<Cell>,
    ) -> (Journal, Arc<Shared>) {
        let options = ServerOptions::new(dir);
        let Opened { journal, history, mirror, identity, lag_bytes, cut_bytes, .. } = recovery::open(&options).unwrap();
        let mirror = other(&identity).map_or(mirror, Mirror::new);
        let (keeper, feed, dir) = (journal.keeper(), Feed::new(history, lag_bytes), options.dir);
        let parts = Parts { settings: options.settings, identity, keeper, feed, mirror, dir, cut_bytes };
        (journal, Arc::new(Shared::new(parts)))
    }

    // Its agent counts the lease from before it asked, and another clock may run slower: without the margin, a machine counted as unreachable whose
    // agent still held its lease and started tasks.
    #[test]
    fn a_machine_is_unreachable_only_when_the_lease_and_its_margin_are_over() {
        let usual = Settings::default();
        let (lease, lease_margin) = (Duration::from_secs(15), Duration::from_secs(2));
        assert_eq!(lease_micros(&Settings { lease, lease_margin, ..usual }), 17_000_000);
    }

    #[test]
    fn what_waits_to_be_published_has_the_bytes_that_are_set() {
        let dir = tempfile::tempdir().unwrap();
        let (_journal, shared) = without_threads(dir.path(), |_| None);
        assert_eq!(shared.published.most(), shared.settings.backlog_bytes);
    }

    /// Whoever is not answered within this waits for room, and not for a disk that is busy.
    const LONGER_THAN_A_SYNC: Duration = Duration::from_secs(5);

    /// Has a thread take something of the server's, and keep it until the sender is dropped: it is taken when this returns.
    async fn hold(
        shared: &Arc<Shared>,
        take: fn(&Shared, &mut dyn FnMut()),
    ) -> (std::sync::mpsc::Sender<()>, std::thread::JoinHandle<()>) {
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let (taken, is_taken) = oneshot::channel();
        let (shared, mut taken) = (shared.clone(), Some(taken));
        let holder = std::thread::spawn(move || {
            take(&shared, &mut || {
                taken.take().unwrap().send(()).unwrap();
                assert!(held.recv().is_err());
            });
        });
        is_taken.await.unwrap();
        (hold, holder)
    }

    /// The resolver can't show the next batch, as if its write did not come back.
    async fn hold_back_what_is_decided(
        shared: &Arc<Shared>,
    ) -> (std::sync::mpsc::Sender<()>, std::thread::JoinHandle<()>) {
        hold(shared, |shared, wait| {
            let recent = shared.recent.read();
            wait();
            drop(recent);
        })
        .await
    }

    fn opening() -> Request {
        Shared::request(&"local".into(), "default".into(), Command::OpenSession { scheduler: "batch".into() })
    }

    /// A server that has opened a session, of which the history has all.
    async fn with_a_session(dir: &Path) -> (Handle, Arc<Shared>) {
        let server = Server::start(ServerOptions::new(dir)).await.unwrap();
        let shared = server.shared().clone();
        shared.ask(opening()).await.unwrap();
        assert!(shared.feed.reaches(shared.durable_revision(), Duration::from_secs(60)).await);
        (server, shared)
    }

    // Each of them folded a cell of its own, and all of these were kept until something was published again.
    #[tokio::test(flavor = "multi_thread")]
    async fn who_reads_while_nothing_is_written_shares_one_cell_that_was_folded() {
        let dir = tempfile::tempdir().unwrap();
        let (server, shared) = with_a_session(dir.path()).await;
        let durable = shared.durable_revision();
        let (hold, holder) = hold_back_what_is_decided(&shared).await;
        let (sender, receiver) = oneshot::channel();
        shared.submit(Asked::new(opening()), Reply::Once(sender)).unwrap();
        let readers = (0..16).map(|_| {
            let shared = shared.clone();
            tokio::spawn(async move { shared.snapshot().await })
        });
        let mut cells = Vec::new();
        for reader in readers.collect::<Vec<_>>() {
            cells.push(reader.await.unwrap());
        }
        drop(hold);
        holder.join().unwrap();
        receiver.await.unwrap();
        let sessions = |cell: &Cell| cell.sessions().cloned().collect::<Vec<_>>();
        let first = sessions(&cells[0]);
        assert!(!first.is_empty() && cells.iter().all(|cell| cell.revision() == durable));
        assert!(cells.iter().all(|cell| Arc::ptr_eq(&sessions(cell)[0], &first[0])));
        drop(shared);
        server.shutdown().await.unwrap();
    }

    // The fold that got no thread kept the lock until there was one: none of them tried again meanwhile.
    #[test]
    fn a_fold_that_gets_no_thread_keeps_nobody_from_trying_again() {
        let dir = tempfile::tempdir().unwrap();
        let (_journal, shared) = without_threads(dir.path(), |_| None);
        runtime_without_threads().block_on(shared.fold_for_readers(Revision(0)));
        assert!(shared.folding.try_lock().is_ok());
    }

    // A large cell takes long to fold, and for as long who read waited though the disk had answered at once.
    #[tokio::test(flavor = "multi_thread")]
    async fn who_waits_for_a_cell_to_be_folded_is_answered_by_a_picture_that_comes_first() {
        let dir = tempfile::tempdir().unwrap();
        let (server, shared) = with_a_session(dir.path()).await;
        let durable = shared.durable_revision();
        // As one that takes for ever.
        let folding = shared.folding.clone().lock_owned().await;
        let (hold, holder) = hold_back_what_is_decided(&shared).await;
        let (sender, receiver) = oneshot::channel();
        shared.submit(Asked::new(opening()), Reply::Once(sender)).unwrap();
        let reading = tokio::spawn({
            let shared = shared.clone();
            async move { shared.snapshot().await }
        });
        // By then it waits for the fold.
        tokio::time::sleep(STALLED * 2).await;
        assert!(!reading.is_finished());
        drop(hold);
        holder.join().unwrap();
        receiver.await.unwrap();
        let read = tokio::time::timeout(Duration::from_secs(30), reading).await;
        assert!(read.expect("it does not wait for the fold").unwrap().revision() >= durable);
        drop(folding);
        drop(shared);
        server.shutdown().await.unwrap();
    }

    // The publishing thread noted it: until then, what was granted in a batch had the time of the batch before, by as much too early as the cell had
    // stood still.
    #[tokio::test(flavor = "multi_thread")]
    async fn when_a_batch_was_decided_is_known_as_soon_as_it_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(ServerOptions::new(dir.path())).await.unwrap();
        let shared = server.shared().clone();
        let when = async || {
            let open = Command::OpenSession { scheduler: "batch".into() };
            let decided = shared.ask(Shared::request(&"local".into(), "default".into(), open)).await.unwrap();
            shared.picture.exactly_when(decided.at).unwrap()
        };
        // The publishing thread comes as far as the first one, and waits.
        let (hold, holder) = hold(&shared, |shared, wait| {
            let sessions = shared.sessions.lock();
            wait();
            drop(sessions);
        })
        .await;
        when().await;
        let before = shared.clock.now();
        assert!(when().await >= before);
        drop(hold);
        holder.join().unwrap();
        drop(shared);
        server.shutdown().await.unwrap();
    }

    // It was let go of before its reader looked, who then waited for as long as the disk was full.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_cell_that_is_folded_for_a_reader_is_not_let_go_of_before_he_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = crate::ServerOptions::new(dir.path());
        options.settings.segment_bytes = 64 << 10;
        options.settings.reserve_bytes = Some(0);
        let server = crate::Server::start(options).await.unwrap();
        let shared = server.shared().clone();
        while !dir.path().join("log/00000000000000000002.segment").exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Nor can it be made again. Whoever notices is the one that needs it: he waits, and nothing is refused before that.
        std::fs::create_dir(dir.path().join("log/spare.tmp")).unwrap();
        std::fs::remove_file(dir.path().join("log/00000000000000000002.segment")).unwrap();
        // Until the log takes nothing more, and the resolver is ahead of it.
        let open = |number: u64| Command::OpenSession { scheduler: format!("s{number}").into() };
        let mut waits = false;
        for number in 0..400 {
            let request = Shared::request(&"x".repeat(255).into(), "default".into(), open(number));
            let asking = shared.ask(request);
            waits = tokio::time::timeout(LONGER_THAN_A_SYNC, asking).await.is_err();
            if waits {
                break;
            }
        }
        assert!(waits, "the log takes nothing more");
        let tidying = shared.clone();
        let (stop, stopped) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (until, done) = (stop.clone(), stopped.clone());
        std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                tidying.picture.tidy();
            }
            done.store(true, Ordering::Release);
        });
        for _ in 0..3 {
            let read = tokio::time::timeout(Duration::from_secs(30), shared.snapshot()).await;
            assert_eq!(read.expect("reads go on").revision(), shared.durable_revision());
        }
        stop.store(true, Ordering::Relaxed);
        while !stopped.load(Ordering::Acquire) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(shared);
        server.kill().await.unwrap();
    }

    // Who read waited for the history, which can't be written on a disk that is full either, and so for as long as it was.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_history_that_is_behind_keeps_nobody_from_reading_while_nothing_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = crate::ServerOptions::new(dir.path());
        options.settings.segment_bytes = 64 << 10;
        options.settings.reserve_bytes = Some(0);
        options.settings.history = false;
        let server = crate::Server::start(options).await.unwrap();
        let shared = server.shared().clone();
        while !dir.path().join("log/00000000000000000002.segment").exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // No third segment can be made.
        std::fs::create_dir(dir.path().join("log/spare.tmp")).unwrap();
        let mut unanswered = Vec::new();
        for number in 0..400 {
            let open = Command::OpenSession { scheduler: format!("s{number}").into() };
            let (sender, receiver) = oneshot::channel();
            let request = Shared::request(&"x".repeat(255).into(), "default".into(), open);
            if shared.submit(Asked::new(request), Reply::Once(sender)).is_ok() {
                unanswered.push(receiver);
            }
        }
        let mut answered = 0;
        for receiver in &mut unanswered {
            match tokio::time::timeout(LONGER_THAN_A_SYNC, receiver).await {
                Ok(_) => answered += 1,
                Err(_) => break,
            }
        }
        assert!(answered < unanswered.len(), "the log takes nothing more");
        let read = tokio::time::timeout(Duration::from_secs(30), shared.snapshot()).await;
        let cell = read.expect("reads go on");
        assert_eq!((cell.revision(), cell.sessions().count()), (shared.durable_revision(), answered));
        drop(shared);
        server.kill().await.unwrap();
    }
}

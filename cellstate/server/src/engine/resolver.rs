//! The thread that decides: it runs the [`Committer`], and hands on what comes out of it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use plenum_model::{Command, Delta, LogTime};

use super::held_back::{Change, Seen};
use super::journal::Writer;
use super::rest::Rest;
use super::turns::step_forward;
use crate::authorise::Principal;
use crate::commit::{Batch, Committer, Input, Output, Published};
use crate::error::ServerError;
use crate::ingress::{Answered, Arrival, Taken, Ticket};
use crate::shared::Shared;

/// How often a cell that can't do what is due looks whether that is still so.
const DUE_LATER_PAUSE: Duration = Duration::from_secs(1);

/// A batch of so few requests, however large, is a small one.
const SMALL_REQUESTS: u64 = 2;
/// So is one of so many that hold no more than these bytes: to decide them takes less time than a sync.
const SMALL_REQUESTS_MAX: u64 = 64;
const SMALL_BYTES: usize = 32 << 10;

/// A batch of so many bytes is written as soon as the one before is durable, whatever waits still: a sync of it costs hardly more than
/// one of a few bytes, and who is in it waits no longer than needed.
const WORTH_WRITING_BYTES: usize = 128 << 10;

/// Requests for which what they touch is brought into the cache at a time: their loads overlap, and the first of it is still there when
/// they are decided.
const WARM_AHEAD: usize = 32;

/// The resolver, and whom it hands batches to.
pub(crate) struct Resolver {
    pub(crate) committer: Committer<Ticket>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) writer: Writer,
    /// To the journal's thread; one batch at a time.
    pub(crate) batches: Sender<Batch>,
    /// Deltas of batches that are done with, for their memory.
    pub(crate) spent: Receiver<Vec<Delta>>,
    /// Durable and shown; who waits for it is still to be told.
    pub(crate) published: Option<Published>,
    /// The last batch was a small one.
    pub(crate) last_was_small: bool,
    /// Written since a snapshot was taken last.
    pub(crate) bytes_since_snapshot: usize,
    pub(super) rest: Rest,
}

impl Resolver {
    /// Decides until the server stops. Returns when everything that was decided is durable, or nothing can be any more.
    pub(crate) fn run(mut self) {
        step_forward();
        self.set_priorities();
        // Taken and not decided yet, while a full batch waits for the one in flight.
        let mut pending: VecDeque<Arrival> = VecDeque::new();
        loop {
            let room = pending.is_empty() && self.committer.has_room();
            let waits = pending.is_empty() && !self.committer.is_writing();
            let until = if waits { self.rest_at().into_iter().chain(self.wake_at()).min() } else { self.wake_at() };
            let Taken { written, stopping, drained } =
                self.shared.ingress.take(room.then_some(&mut pending), self.committer.is_writing(), until);
            if !pending.is_empty() || self.committer.is_writing() {
                self.rest.works();
            }
            if let Some(durable) = written {
                self.written(durable);
            }
            self.decide_all(&mut pending, drained);
            let idle = drained && pending.is_empty() && !self.committer.is_writing();
            if (stopping && idle) || self.shared.has_failed() {
                break;
            }
        }
        if self.shared.has_failed() {
            self.shared.picture.close();
        } else {
            // Who reads after this, the last checkpoint above all, finds everything.
            self.shared.picture.end(self.committer.undurable_cell().clone());
        }
    }

    /// Whose requests get more turns than those of others.
    fn set_priorities(&self) {
        let rights = self.committer.undurable_cell().rights();
        let of_schedulers = rights.map(|(name, rights)| (Principal::of_scheduler(name), rights.priority));
        self.shared.ingress.set_priorities(of_schedulers.collect());
    }

    /// When memory is to be given back, as nothing is left to do. Does so if it is time: in pieces, as somebody may ask meanwhile.
    fn rest_at(&mut self) -> Option<Instant> {
        let due = self.rest.due();
        if self.rest.is_due() && self.shared.recent.write().pack() {
            self.rest.give_back_when_due();
            return None;
        }
        due
    }

    /// When something is due without anybody asking.
    fn wake_at(&self) -> Option<Instant> {
        let due = if !self.may_tick(self.shared.clock.now()) {
            Some(Instant::now() + DUE_LATER_PAUSE)
        } else {
            let (since, changes) = (self.committer.held_back_since(), self.committer.held_back_changes());
            let alarm = self.shared.held_back.due(since, changes);
            let due = self.committer.next_due().into_iter().chain(alarm).min();
            due.map(|due| self.shared.clock.instant_of(due))
        };
        self.shared.picture.due(self.bytes_since_snapshot).into_iter().chain(due).min()
    }

    /// Whether what is due by `now` may be done. A cell that is read-only can't; and where nobody could say anything for a while, all get a while to
    /// say it before anything is taken from them. What takes nothing from anybody goes on, such as a job that is stopped in steps: but for what is
    /// due together with the other.
    fn may_tick(&self, now: LogTime) -> bool {
        let shared = &self.shared;
        !shared.space.is_read_only()
            && (shared.respite.is_over(shared.clock.monotonic_micros()) || !self.committer.forfeits_by(now))
    }

    /// Takes a snapshot when one is wanted and due.
    fn take_snapshot(&mut self, now: LogTime) {
        if self.shared.picture.due(self.bytes_since_snapshot).is_some_and(|due| due <= Instant::now()) {
            self.shared.picture.taking();
            self.bytes_since_snapshot = 0;
            self.committer.handle(now, Input::Snapshot);
        }
    }

    /// Decides what there is room for, and carries out what comes of it.
    fn decide_all(&mut self, pending: &mut VecDeque<Arrival>, drained: bool) {
        loop {
            // First: behind requests of which each fills a batch there never is room.
            if !pending.is_empty() {
                self.tick_when_due(self.committer.due_first());
            }
            let mut decided = 0;
            while self.committer.has_room() {
                if pending.len() > 1 && decided % WARM_AHEAD == 0 {
                    self.committer.warm(pending.iter().take(WARM_AHEAD).map(|arrival| &arrival.asked));
                }
                decided += 1;
                self.shared.ingress.take_first(pending);
                let Some(arrival) = pending.pop_front() else { break };
                self.decide(arrival);
            }
            // Again: what the requests set off at once goes into their batch.
            self.tick_when_due(self.committer.next_due());
            let now = self.shared.clock.now();
            let (since, changes) = (self.committer.held_back_since(), self.committer.held_back_changes());
            let change = self.shared.held_back.look(now, Seen { since, changes, times: self.committer.held_back() });
            change.into_iter().for_each(Change::log);
            self.take_snapshot(now);
            let small = is_small(self.committer.building_requests(), self.committer.building_bytes());
            let alone = drained && pending.is_empty() && small && self.last_was_small;
            self.carry_out(0, alone);
            if pending.is_empty() || !self.committer.has_room() {
                return;
            }
        }
    }

    /// Lets happen what is due by time, if it is by now.
    fn tick_when_due(&mut self, due: Option<LogTime>) {
        // Read before it is asked whether somebody slept: by a later time more would be due.
        let now = self.shared.clock.now();
        if due.is_some_and(|due| due <= now) && self.may_tick(now) {
            self.committer.handle(now, Input::Tick);
        }
    }

    /// Decides one request. Whoever waits for the batch in flight does not wait for those that come after it, too.
    fn decide(&mut self, arrival: Arrival) {
        // Read once: to read the clock takes as long as to judge a claim.
        let now = Instant::now();
        self.shared.metrics.queued(now.saturating_duration_since(arrival.since));
        let ticket = arrival.reply.map(|reply| Ticket { reply, since: arrival.since });
        let command = &arrival.asked.request().command;
        let sets_rights = matches!(command, Command::SetRights { .. });
        let opens_server = matches!(command, Command::OpenServer(_));
        self.committer.handle(self.shared.clock.at(now), Input::Request { ticket, asked: arrival.asked });
        if sets_rights {
            self.set_priorities();
        }
        if opens_server {
            self.opened();
        }
        if let Some(durable) = self.shared.ingress.take_written() {
            self.written(durable);
        }
        self.carry_out(WORTH_WRITING_BYTES, false);
    }

    /// This start is decided. While no server was there, nobody could keep what is due by now.
    fn opened(&self) {
        let (respite, clock) = (&self.shared.respite, &self.shared.clock);
        let now = clock.now();
        let forfeit_micros = self.committer.next_forfeit().map(|due| due.micros.saturating_sub(now.micros));
        respite.opened(clock.monotonic_micros(), forfeit_micros);
    }

    fn written(&mut self, durable: bool) {
        let input = if durable { Input::Durable } else { Input::Failed };
        self.committer.handle(self.shared.clock.now(), input);
    }

    /// Carries out all there is to do; a batch of fewer bytes than these waits for more. `alone`, the resolver writes it itself.
    fn carry_out(&mut self, least_bytes: usize, alone: bool) {
        if !alone && let Some(batch) = self.committer.next_batch(least_bytes) {
            self.hand_over(batch);
        }
        // Of all answers of a batch: they go out within a fraction of what they waited.
        let mut now = None;
        while let Some(output) = self.committer.poll_from(least_bytes) {
            match output {
                Output::Publish(published) => {
                    now = None;
                    self.tell_published();
                    self.shared.show(published.batch.clone());
                    self.published = Some(published);
                }
                Output::Snapshot(cell) => self.shared.picture.show(*cell),
                Output::Answer { ticket, at, answer } => {
                    let now = *now.get_or_insert_with(Instant::now);
                    self.shared.metrics.answered(now.saturating_duration_since(ticket.since));
                    let spent = ticket.reply.send(Answered { at, answer }, &self.shared.unread);
                    spent.into_iter().for_each(|answer| self.committer.reuse_answer(answer));
                }
                Output::Write(batch) => {
                    self.tell_published();
                    if alone {
                        self.note(&batch);
                        let durable = self.writer.write(&batch);
                        self.written(durable);
                    } else {
                        self.hand_over(batch);
                    }
                }
            }
        }
        self.tell_published();
    }

    fn note(&mut self, batch: &Batch) {
        self.spent.try_iter().for_each(|deltas| self.committer.reuse_deltas(deltas));
        self.bytes_since_snapshot += batch.bytes.len();
        self.last_was_small = is_small(batch.last.0 - batch.first.0 + 1, batch.bytes.len());
    }

    /// Gives a batch to the journal's thread, which has none.
    fn hand_over(&mut self, batch: Batch) {
        self.note(&batch);
        if self.batches.send(batch).is_err() {
            self.shared.fail(ServerError::Thread { name: "journal", what: "it ended".to_owned() });
        }
    }

    /// Wakes who follows the cell, once the answers of a batch have gone out: a stream that waits for both is woken once. Then hands
    /// the batch on, which may have to wait for room.
    fn tell_published(&mut self) {
        if let Some(published) = self.published.take() {
            self.shared.publish(published);
        }
    }
}

/// Whether the resolver writes a batch itself, after another such one and when nobody else waits: to hand it over costs two changes of threads, and
/// while the journal's thread syncs, each request that comes wakes the resolver by itself. Those that come while the resolver syncs are decided
/// together. Of larger batches others are decided meanwhile.
fn is_small(requests: u64, bytes: usize) -> bool {
    requests <= SMALL_REQUESTS || (requests <= SMALL_REQUESTS_MAX && bytes <= SMALL_BYTES)
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::path::Path;
    use std::task::{Context, Waker};

    use plenum_core::{Core, CoreOptions, Decided};
    use plenum_journal::{DiskError, PrepareError};
    use plenum_model::{
        AllocationState, FoundMachine, GroupShape, JobId, JobShape, Placement, Request, Resources, Revision, SessionId,
        Transaction, TransactionId,
    };
    use tokio::sync::oneshot;

    use super::*;
    use crate::agents::{Look, Standstill};
    use crate::commit::{Asked, CommitOptions};
    use crate::ingress::Reply;
    use crate::shared::tests::without_threads;
    use crate::tasks::reckon;

    fn request(command: Command) -> Request {
        Request { principal: "local".into(), namespace: "default".into(), command }
    }

    fn submission(name: String, count: u32) -> Command {
        let group = GroupShape { name: "work".into(), count, ..GroupShape::default() };
        let shape = JobShape {
            namespace: "default".into(),
            name: name.into(),
            scheduler: "batch".into(),
            groups: vec![group],
            ..JobShape::default()
        };
        Command::submit(shape)
    }

    /// A resolver whose batches are taken by the test, each full with one request, in a cell of so many stopped jobs that are to be forgotten at
    /// once: the server is open, and the batch of that is in flight.
    fn resolver(dir: &Path, stopped: u32) -> (Resolver, Receiver<Batch>) {
        let submitted_and_stopped = |slot| {
            let stop = Command::StopJob { job: JobId { slot, generation: 1 }, version: None };
            [submission(format!("job-{slot}"), 1), stop]
        };
        let before = (0..stopped).flat_map(submitted_and_stopped);
        resolver_after(dir, CoreOptions { finished_jobs_max: 0, ..CoreOptions::default() }, before)
    }

    /// The same, in a cell in which a job is stopped by one task at a time, and two are left; with `held`, there is a hold whose time is over.
    fn stopping(dir: &Path, held: bool) -> (Resolver, Receiver<Batch>) {
        let [job, gang] = [0, 1].map(|slot| JobId { slot, generation: 1 });
        let register = Command::RegisterMachine(FoundMachine {
            name: "m1".into(),
            boot_id: "boot".into(),
            capacity: Resources::new(4000, 1 << 30),
            ..FoundMachine::default()
        });
        let (machines, tasks) = (vec![0; 3], vec![0, 1, 2]);
        // The second revision opened the session, and the fourth is the job's.
        let transaction = Transaction {
            id: TransactionId { session: SessionId(2), number: 1 },
            incarnation: 1,
            base: Revision(4),
            placements: vec![Placement { job, job_version: 1, machines, tasks, ..Placement::default() }],
            ..Transaction::default()
        };
        let hold = Command::TakeHold {
            session: SessionId::default(),
            job: gang,
            machines: vec![0],
            resources: Resources::new(1, 1),
            deadline: LogTime::from_micros(2),
        };
        let commit = Command::Commit(Box::new(transaction), 1);
        let mut before =
            vec![session(), register, submission("work".into(), 3), commit, Command::StopJob { job, version: None }];
        if held {
            before.extend([submission("gang".into(), 1), hold]);
        }
        resolver_after(dir, CoreOptions { stops_max: 1, ..CoreOptions::default() }, before)
    }

    /// The same, in a cell in which this was decided before.
    fn resolver_after(
        dir: &Path,
        core: CoreOptions,
        before: impl IntoIterator<Item = Command>,
    ) -> (Resolver, Receiver<Batch>) {
        let mut core = Core::new(core);
        let (journal, shared) = without_threads(dir, |identity| {
            for command in std::iter::once(Command::OpenServer(identity.clone())).chain(before) {
                let decided = core.decide(&request(command), LogTime::from_micros(1));
                assert!(matches!(decided, Decided::Changed { .. }), "{decided:?}");
            }
            Some(core.cell().clone())
        });
        let identity = shared.identity.clone();
        let (batches, taken) = crossbeam_channel::unbounded();
        let rest = Rest::new(shared.settings.rest);
        let mut resolver = Resolver {
            committer: Committer::new(core, CommitOptions { batch_bytes: 1, ..CommitOptions::default() }),
            writer: Writer::new(journal, shared.clone()),
            shared,
            batches,
            spent: crossbeam_channel::never(),
            published: None,
            last_was_small: true,
            bytes_since_snapshot: 0,
            rest,
        };
        ask(&mut resolver, &mut VecDeque::new(), Command::OpenServer(identity));
        (resolver, taken)
    }

    /// Somebody asks, and is not the last one.
    fn ask(resolver: &mut Resolver, pending: &mut VecDeque<Arrival>, command: Command) {
        let reply = Reply::Once(oneshot::channel().0);
        resolver.shared.submit(Asked::new(request(command)), reply).unwrap();
        if pending.is_empty() && resolver.committer.has_room() {
            resolver.shared.ingress.take(Some(pending), false, None);
            resolver.decide_all(pending, false);
        }
    }

    /// The batch in flight is durable.
    fn durable(resolver: &mut Resolver, pending: &mut VecDeque<Arrival>) {
        resolver.written(true);
        resolver.decide_all(pending, false);
    }

    fn session() -> Command {
        Command::OpenSession { scheduler: "batch".into() }
    }

    // There was no room for it behind any request, and it was not looked for before the next one: for as long as a cell was asked so without a
    // pause, no drain ended, and no machine was given up.
    #[test]
    fn what_is_due_happens_though_each_request_fills_a_batch_while_the_one_before_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let (mut resolver, batches) = resolver(dir.path(), 1);
        let mut pending = VecDeque::new();
        for _ in 0..3 {
            ask(&mut resolver, &mut pending, session());
            durable(&mut resolver, &mut pending);
        }
        assert_eq!(resolver.committer.undurable_cell().jobs().count(), 0);
        assert!(batches.try_iter().all(|batch| batch.first == batch.last), "each is full with one");
    }

    #[test]
    fn a_request_waits_for_one_tick_and_not_for_all_that_is_due() {
        let dir = tempfile::tempdir().unwrap();
        let (mut resolver, _batches) = resolver(dir.path(), 300);
        let mut pending = VecDeque::new();
        ask(&mut resolver, &mut pending, session());
        durable(&mut resolver, &mut pending);
        let cell = resolver.committer.undurable_cell();
        // As many are forgotten in one tick.
        assert_eq!((cell.sessions().count(), cell.jobs().count()), (1, 300 - 256));
    }

    /// How many holds there are, and tasks that nobody has told to stop, once several others have asked.
    fn left_later(resolver: &mut Resolver) -> (usize, usize) {
        let mut pending = VecDeque::new();
        for _ in 0..6 {
            ask(resolver, &mut pending, session());
            durable(resolver, &mut pending);
        }
        let cell = resolver.committer.undurable_cell();
        let granted = cell.allocations().filter(|found| found.status.state == AllocationState::Granted);
        (cell.holds().count(), granted.count())
    }

    fn looked(resolver: &Resolver, lost_micros: i64) {
        let shared = &resolver.shared;
        let look = Look { lost_micros, slept: false, stuck_since_micros: None };
        shared.respite.looked(shared.clock.monotonic_micros(), look);
    }

    /// The term of a lease passes.
    fn term_passes(resolver: &Resolver) {
        let lease = resolver.shared.settings.lease;
        resolver.shared.clock.slept(i64::try_from(lease.as_micros()).unwrap());
    }

    // A machine that was unreachable when the disk filled up lost its tasks as soon as there was room, seconds before its agent could register.
    #[test]
    fn nothing_is_taken_from_anybody_for_a_term_of_a_lease_where_nobody_could_be_heard() {
        let dir = tempfile::tempdir().unwrap();
        let (mut resolver, _batches) = stopping(dir.path(), true);
        // That of the start.
        term_passes(&resolver);
        looked(&resolver, 1);
        assert_eq!(left_later(&mut resolver), (1, 2), "what is due is done together");
        term_passes(&resolver);
        looked(&resolver, 0);
        assert_eq!(left_later(&mut resolver), (0, 0));
    }

    // A hold whose scheduler renewed it all the time was given away at the first revision of a server that had been away for longer than it held.
    #[test]
    fn what_became_due_while_no_server_was_there_waits_for_a_term_of_a_lease_after_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let (mut resolver, _batches) = stopping(dir.path(), true);
        assert_eq!(left_later(&mut resolver), (1, 2));
        term_passes(&resolver);
        looked(&resolver, 0);
        assert_eq!(left_later(&mut resolver), (0, 0));
    }

    // What was due was taken as soon as the disk answered, before those were heard who had waited behind it to keep it.
    #[test]
    fn what_became_due_while_a_write_did_not_come_back_waits_for_a_term_of_a_lease() {
        let dir = tempfile::tempdir().unwrap();
        let (mut resolver, _batches) = stopping(dir.path(), true);
        // That of the start.
        term_passes(&resolver);
        let shared = resolver.shared.clone();
        let began = shared.clock.monotonic_micros();
        let mut standstill = Standstill::new(shared.settings.lease, began);
        shared.writing.begins(began);
        shared.clock.slept(standstill.within_micros() + 1);
        reckon(&shared, &mut standstill, false);
        shared.writing.ends();
        assert_eq!(left_later(&mut resolver), (1, 2));
        term_passes(&resolver);
        reckon(&shared, &mut Standstill::new(shared.settings.lease, shared.clock.monotonic_micros()), false);
        assert_eq!(left_later(&mut resolver), (0, 0));
    }

    // What is due can't be logged there; and who is quiet is woken by nobody when there is room again.
    #[test]
    fn a_cell_that_is_read_only_does_nothing_by_itself_and_looks_again_soon() {
        let dir = tempfile::tempdir().unwrap();
        let (mut resolver, _batches) = stopping(dir.path(), true);
        let shared = resolver.shared.clone();
        term_passes(&resolver);
        looked(&resolver, 0);
        let holds = |resolver: &mut Resolver| {
            resolver.tick_when_due(resolver.committer.next_due());
            resolver.committer.undurable_cell().holds().count()
        };
        let source = DiskError { operation: "create", path: "log".to_owned(), source: ErrorKind::QuotaExceeded.into() };
        shared.space.waits(&shared.keeper, Some(&PrepareError { number: 2, advice: "", source }));
        assert_eq!(holds(&mut resolver), 1);
        let before = Instant::now();
        let wakes_at = resolver.wake_at().unwrap();
        assert!((before + DUE_LATER_PAUSE..=Instant::now() + DUE_LATER_PAUSE).contains(&wakes_at));
        shared.space.waits(&shared.keeper, None);
        assert_eq!(holds(&mut resolver), 0);
    }

    // For as long as that the rest of a large job ran on that had been stopped.
    #[test]
    fn a_job_is_stopped_to_its_end_while_agents_are_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let (mut resolver, _batches) = stopping(dir.path(), false);
        looked(&resolver, 1);
        assert!(resolver.wake_at().is_some_and(|at| at <= Instant::now()), "it is not put off");
        assert_eq!(left_later(&mut resolver), (0, 0));
    }

    // A checkpoint that was waiting for it would be ahead of the log, and no start opens such a cell.
    #[test]
    fn what_may_be_lost_is_shown_to_nobody_by_a_resolver_whose_server_failed() {
        let dir = tempfile::tempdir().unwrap();
        let (resolver, _batches) = resolver(dir.path(), 0);
        let (shared, revision) = (resolver.shared.clone(), resolver.committer.undurable_cell().revision());
        assert!(revision > resolver.committer.durable());
        shared.fail(ServerError::Thread { name: "journal", what: "it ended".to_owned() });
        std::thread::spawn(move || resolver.run()).join().unwrap();
        assert!(!shared.picture.shows(revision));
    }

    #[test]
    fn what_is_logged_counts_until_the_next_snapshot_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let (mut resolver, _batches) = resolver(dir.path(), 0);
        let (mut pending, before) = (VecDeque::new(), resolver.bytes_since_snapshot);
        ask(&mut resolver, &mut pending, session());
        durable(&mut resolver, &mut pending);
        assert!(resolver.bytes_since_snapshot > before);
        // Somebody wants what is not shown yet.
        let (revision, shared) = (resolver.committer.undurable_cell().revision().next(), resolver.shared.clone());
        let mut wish = Box::pin(shared.picture.at_least(revision, || {}));
        assert!(wish.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        resolver.take_snapshot(shared.clock.now());
        assert_eq!(resolver.bytes_since_snapshot, 0);
    }

    // It waited for up to two hundred transactions of others, and for the syncs of their batches.
    #[test]
    fn what_agents_report_is_decided_before_what_was_taken_of_principals() {
        let dir = tempfile::tempdir().unwrap();
        let (mut resolver, _batches) = resolver(dir.path(), 0);
        let opens = |scheduler: &str| Asked::new(request(Command::OpenSession { scheduler: scheduler.into() }));
        let reply = || Reply::Once(oneshot::channel().0);
        for scheduler in ["first", "second"] {
            resolver.shared.submit(opens(scheduler), reply()).unwrap();
        }
        let mut pending = VecDeque::new();
        resolver.shared.ingress.take(Some(&mut pending), false, None);
        // The batch of the first one waits for the one in flight, and the second one for that.
        resolver.decide_all(&mut pending, false);
        assert_eq!(pending.len(), 1);
        resolver.shared.ingress.push_report(opens("report"), reply()).unwrap();
        for _ in 0..3 {
            durable(&mut resolver, &mut pending);
        }
        let mut sessions: Vec<_> = resolver.committer.undurable_cell().sessions().cloned().collect();
        sessions.sort_by_key(|session| session.id);
        let decided: Vec<&str> = sessions.iter().map(|session| &*session.scheduler).collect();
        assert_eq!(decided, ["first", "report", "second"]);
    }

    // What was granted was listed, and changed nobody's turns.
    #[tokio::test]
    async fn a_priority_counts_in_the_queue_at_once_and_after_a_start() {
        let dir = tempfile::tempdir().unwrap();
        let start = || crate::Server::start(crate::ServerOptions::new(dir.path()));
        let server = start().await.unwrap();
        let grant = Command::SetRights { scheduler: "ml".into(), evicts: None, priority: Some(7) };
        server.shared().ask(request(grant)).await.unwrap();
        let turns = |server: &crate::Handle| {
            ["scheduler/ml", "scheduler/batch"].map(|principal| server.shared().ingress.turns_of(principal))
        };
        assert_eq!(turns(&server), [7, 1]);
        server.shutdown().await.unwrap();
        let server = start().await.unwrap();
        assert_eq!(turns(&server), [7, 1]);
        server.shutdown().await.unwrap();
    }

    #[test]
    fn a_batch_that_takes_long_to_decide_is_not_small() {
        let small = [is_small(1, 1 << 20), is_small(2, 1 << 20), is_small(64, 32 << 10)];
        let not = [is_small(3, 40 << 10), is_small(65, 1000)];
        assert_eq!((small, not), ([true; 3], [false; 2]));
    }
}

//! The server's shell in the simulation: the production parts, wired as in `plenum-server`, on a simulated disk and without threads.
//!
//! What the engine's threads do at the same time happens here as separate events: writing and syncing, folding the picture behind
//! the commit path, timers. The history is not there: a start begins with a checkpoint in memory, where there is one, and folds the log behind it.

mod calls;
mod renewals;
mod start;
mod streams;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use plenum_journal::{AppendError, BatchLabel, Journal, ReadError, SimDisk};
use plenum_model::planted::{self, Bug};
use plenum_model::{
    CellIdentity, Command, Decision, LogTime, MachineId, RejectionCode, Revision, SessionChange, SessionId, Transition,
};
use plenum_proto::v1;
use plenum_server::agents::{Asking, Leases, Registrations, Respite, Standstill, WantedIndex};
use plenum_server::commit::{Answer, Asked, Batch, Committer, Input, Output, Published};
use plenum_server::publish::{LoggedBatch, Mirror, Recent};
use prost::Message as _;

use crate::books::{Checked, Violation};
use crate::checkpoint::{Backup, Checkpoint};
use crate::faults::Fault;
use crate::governed;
use crate::judge::accepted::invariant_what_is_accepted_is_done;
use crate::judge::dues::Dues;
use crate::seen::Seen;
use crate::world::{ConnectionId, Event, Party, Side, World};
use calls::Told;
use renewals::Renewals;
use streams::{Following, Watching};

pub(crate) use start::{NotStarted, options, restore, start};

/// Log time when the simulation begins.
pub(crate) const BEGIN_MICROS: i64 = 1_700_000_000_000_000;
/// How often sessions without a stream are looked at.
const SESSIONS_MICROS: i64 = 2_000_000;
/// Sessions without a stream for so long are closed.
const LINGER_MICROS: i64 = 6_000_000;
/// Agents have so much longer than they think.
const LEASE_MARGIN_MICROS: i64 = 200_000;
/// Requests from one snapshot that somebody wants to the next.
const SNAPSHOT_EVERY: u64 = 5;
/// Deltas that a watcher gets at a time of what it missed, or a batch's more.
const MISSED_AT_A_TIME: usize = 32;
/// Whose schedulers are, where there are several users.
pub(crate) const USERS: [&str; 2] = ["user/ann", "user/bob"];

/// Whom an answer is for.
#[derive(Clone, Debug)]
enum Ticket {
    /// The server's own opening.
    Opening,
    /// A session to be opened, then served.
    Session {
        connection: ConnectionId,
        hello: v1::Hello,
    },
    Commit {
        connection: ConnectionId,
        number: u64,
    },
    Register {
        connection: ConnectionId,
        /// The machine's name.
        name: String,
        asking: Asking,
        /// No other one of that name is under way.
        is_first: bool,
        /// The machine of that name and its epoch, as the picture had them when it was asked.
        known: Option<(MachineId, u32)>,
    },
    /// A machine whose lease ran out while it was registered in the same epoch: its agent asks again.
    Expiry {
        connection: ConnectionId,
    },
    Reports {
        told: Vec<Told>,
    },
    /// What an agent says of its machine, after what it reported up to this revision.
    Fitness {
        connection: ConnectionId,
        revision: Revision,
    },
    Ask {
        connection: ConnectionId,
        command: Box<Command>,
    },
    /// A scheduler that holds room.
    Hold {
        connection: ConnectionId,
    },
}

/// A running server.
pub(crate) struct Server {
    /// Starts of a server before this one: events of earlier ones are void.
    pub(crate) life: u64,
    disk: SimDisk,
    journal: Journal,
    committer: Committer<Ticket>,
    identity: CellIdentity,
    /// Its first revision.
    opened_at: Revision,
    recent: Recent,
    mirror: Mirror,
    index: WantedIndex,
    leases: Leases,
    registrations: Registrations,
    /// Those that were decided, each until the picture shows it.
    registered: Vec<(Revision, String)>,
    standstill: Standstill,
    respite: Respite,
    /// What shows whether that did its work.
    renewals: Renewals,
    /// What shows that all that is due by log time happens.
    dues: Dues,
    /// Durable, and not in the picture yet.
    unfolded: VecDeque<Published>,
    /// Arrived, and not decided yet.
    pending: VecDeque<(Option<Ticket>, Asked)>,
    /// Being written.
    batch: Option<Batch>,
    /// When the write of it began.
    writing_since_micros: i64,
    /// Requests that were decided.
    decided: u64,
    watching: BTreeMap<ConnectionId, Watching>,
    following: BTreeMap<ConnectionId, Following>,
    reports: Vec<(Told, Vec<Transition>)>,
    reporting: bool,
    /// So many together came to too much in the log: one goes after the other from then on.
    reports_alone: bool,
    /// Sessions without a stream, and since when.
    alone: BTreeMap<SessionId, i64>,
    sessions_due_micros: i64,
    ticks_at_micros: i64,
    /// From the simulation's time to this server's idea of log time.
    clock_skew_micros: i64,
    /// It made itself the cell's server, durably, and takes calls.
    open: bool,
    /// Why it ends.
    pub(crate) failed: Option<String>,
}

impl Server {
    fn log_now(&self, world: &World) -> LogTime {
        LogTime::from_micros(BEGIN_MICROS + self.clock_skew_micros + world.now())
    }

    /// Whether its process is gone with its machine or by a kill.
    pub(crate) fn is_dead(&self) -> bool {
        self.failed.is_some() || !self.disk.is_live()
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open
    }

    /// The newest state, durable or not.
    pub(crate) fn undurable_cell(&self) -> &plenum_model::Cell {
        self.committer.undurable_cell()
    }

    /// Nothing is being decided, written or folded.
    pub(crate) fn is_idle(&self) -> bool {
        self.pending.is_empty() && !self.committer.is_writing() && self.unfolded.is_empty()
    }

    pub(crate) fn mirror(&self) -> &Mirror {
        &self.mirror
    }

    fn ask(&mut self, ticket: Option<Ticket>, asked: Asked) {
        self.pending.push_back((ticket, asked));
    }

    /// Decides what there is room for, and carries out what comes of it.
    pub(crate) fn turn(&mut self, world: &mut World) -> Checked {
        loop {
            if !self.pending.is_empty() {
                self.tick_when_due(world, self.committer.due_first())?;
            }
            let now = self.log_now(world);
            while self.committer.has_room() {
                let Some((ticket, asked)) = self.pending.pop_front() else { break };
                let opens = matches!(ticket, Some(Ticket::Opening));
                self.committer.handle(now, Input::Request { ticket, asked });
                self.now_and_then_wants_a_snapshot(now);
                if opens {
                    let forfeit_micros = self.committer.next_forfeit().map(|due| due.micros - now.micros);
                    self.respite.opened(world.now(), forfeit_micros);
                    self.opened();
                }
            }
            let by = self.ticks_by(world);
            let came_of_it = self.tick_when_due(world, self.committer.next_due())?;
            if let Some(by) = by.filter(|_| !came_of_it) {
                self.dues.invariant_what_is_due_happens_in_time(self.committer.undurable_cell(), by)?;
            }
            while let Some(output) = self.committer.poll() {
                match output {
                    Output::Publish(published) => self.publish(world, published)?,
                    Output::Answer { ticket, at, answer } => self.answer(world, ticket, at, answer)?,
                    Output::Write(batch) => self.write(world, batch)?,
                    Output::Snapshot(cell) => {
                        world.tally.saw(Seen::SnapshotShown);
                        world
                            .books
                            .invariant_a_mirror_is_the_cell_at_its_revision("a snapshot of the committer", &cell)?;
                    }
                }
            }
            if self.pending.is_empty() || !self.committer.has_room() {
                break;
            }
        }
        self.plan_tick(world);
        self.pump_all(world)
    }

    /// Readers of the picture ask for one whenever they come, also while a batch is being made or written.
    fn now_and_then_wants_a_snapshot(&mut self, now: LogTime) {
        self.decided += 1;
        if self.decided.is_multiple_of(SNAPSHOT_EVERY) {
            self.committer.handle(now, Input::Snapshot);
        }
    }

    /// This start is decided, unless it was refused.
    fn opened(&mut self) {
        let cell = self.committer.undurable_cell();
        if cell.identity().term == self.identity.term {
            self.dues.opened(cell);
        }
    }

    /// By when all has happened that is due, behind the tick that comes now if one is due: a batch has one time, and a tick that comes while one is being
    /// built belongs to it. `None`: what is due may wait, until there is room or everybody could be heard; or a tick may be refused, as it comes to more
    /// than the log takes of a request.
    fn ticks_by(&self, world: &World) -> Option<LogTime> {
        let may_be_refused = world.entry_bytes() < usize::MAX;
        if may_be_refused || !self.committer.has_room() || !self.respite.is_over(world.now()) {
            return None;
        }
        let (now, newest) = (self.log_now(world), self.committer.undurable_cell().time());
        Some(if self.committer.building_requests() > 0 { now.min(newest) } else { now })
    }

    /// Lets happen what is due by time, if it is by now, and may. Whether anything came of it.
    fn tick_when_due(&mut self, world: &World, due: Option<LogTime>) -> Result<bool, Violation> {
        let now = self.log_now(world);
        if due.is_none_or(|due| due > now) || !self.may_tick(world) {
            return Ok(false);
        }
        let before = self.committer.undurable_cell().clone();
        self.committer.handle(now, Input::Tick);
        let after = self.committer.undurable_cell();
        self.dues.ticked(&before, after);
        // What was due in an hour when the server began is due at once then.
        if !world.tally.has_seen(Fault::ClockJump) {
            self.renewals.invariant_nothing_is_taken_before_all_were_heard(&before, after, world.now())?;
        }
        Ok(after.revision() > before.revision())
    }

    /// Whether what is due may happen: where nobody could say anything for a while, all get a while to say it before anything is taken from them.
    fn may_tick(&self, world: &World) -> bool {
        self.respite.is_over(world.now()) || !self.committer.forfeits_by(self.log_now(world))
    }

    fn write(&mut self, world: &mut World, batch: Batch) -> Checked {
        let logged = LoggedBatch::parse(batch.bytes.clone())
            .map_err(|error| Violation { invariant: "invariant_the_log_can_be_read", facts: error.to_string() })?;
        world.books.sent(&logged)?;
        self.batch = Some(batch);
        self.writing_since_micros = world.now();
        self.append(world);
        Ok(())
    }

    /// Appends the batch, now or when the disk has room. Syncing takes a while.
    pub(crate) fn append(&mut self, world: &mut World) {
        if planted::is(Bug::AnswersBeforeSync) {
            // The frame before is still waiting for its sync.
            self.sync_now();
        }
        let Some(batch) = &self.batch else { return };
        let label = BatchLabel { term: batch.term, first_revision: batch.first.0, last_revision: batch.last.0 };
        match self.journal.append(label, &[&batch.bytes]) {
            Ok(()) => {
                let slow = world.slow_until_micros > world.now();
                if slow {
                    world.struck(Fault::DiskSlow);
                }
                let (least, most) = if slow { (500_000, 4_000_000) } else { (0, world.mix.sync_micros_max) };
                let sync_micros = world.random.between(least, most);
                world.agenda.after(sync_micros, Event::ServerSynced { life: self.life });
            }
            Err(AppendError::NoSegment(_)) if !self.is_dead() => {
                world.tally.saw(Seen::WaitedForRoom);
                world.agenda.after(100_000, Event::ServerWrites { life: self.life });
            }
            Err(error) => self.failed = Some(error.to_string()),
        }
    }

    fn sync_now(&mut self) -> bool {
        match self.journal.sync() {
            Ok(_) => true,
            Err(error) => {
                self.failed = Some(error.to_string());
                false
            }
        }
    }

    /// The sync of the batch in flight comes back.
    pub(crate) fn synced(&mut self, world: &mut World) -> Checked {
        if self.batch.take().is_none() {
            return Ok(());
        }
        let durable = planted::is(Bug::AnswersBeforeSync) || self.sync_now();
        if !durable {
            world.tally.saw(Seen::OutcomeUnknown);
        }
        let now = self.log_now(world);
        self.committer.handle(now, if durable { Input::Durable } else { Input::Failed });
        self.turn(world)
    }

    fn publish(&mut self, world: &mut World, published: Published) -> Checked {
        let (first, last) = (published.batch.first(), published.batch.last());
        world.tell(|| format!("server: revisions {first} to {last} are durable"));
        if world.story.is_told() {
            world.tell_batch(&published.batch, &mut world.books.cell().clone());
        }
        world.books.published(&published.batch, &mut world.tally)?;
        self.recent.push(published.batch.clone());
        self.unfolded.push_back(published);
        let fold_micros = world.random.between(0, world.mix.fold_micros_max);
        world.agenda.after(fold_micros, Event::ServerFolds { life: self.life });
        Ok(())
    }

    /// Folds what is durable into the picture, and tells agents.
    pub(crate) fn fold(&mut self, world: &mut World) -> Checked {
        let now = world.now();
        let mut touched = Vec::new();
        while let Some(published) = self.unfolded.pop_front() {
            let folded = self.mirror.fold(&published.batch, &published.deltas);
            folded
                .map_err(|error| Violation { invariant: "invariant_the_log_can_be_read", facts: error.to_string() })?;
            for delta in &published.deltas {
                self.index.fold(delta, |machine| touched.push(machine));
                for machine in &delta.machines {
                    self.leases.machine_changed(machine, now);
                    touched.push(machine.id.slot);
                }
                for change in &delta.sessions {
                    if let SessionChange::Closed(session) = change {
                        self.session_closed(*session);
                    }
                }
            }
        }
        self.shown_are_over();
        self.follow_touched(world, &touched);
        self.plan_tick(world);
        self.pump_all(world)
    }

    /// Registrations that the picture shows are no longer under way.
    fn shown_are_over(&mut self) {
        let shown = self.mirror.cell().revision();
        let registrations = &mut self.registrations;
        self.registered.extract_if(.., |(at, _)| *at <= shown).for_each(|(_, name)| registrations.end(&name));
    }

    fn answer(&mut self, world: &mut World, ticket: Ticket, at: Revision, answer: Answer) -> Checked {
        world.books.answered(at)?;
        if let Ticket::Commit { connection, number } = ticket {
            let (at, decision) = match answer {
                Answer::Changed(_) => (at, None),
                Answer::Unchanged(decision) => (at, Some(decision)),
                Answer::Repeated(first) => {
                    world.tally.saw(Seen::AnsweredAgain);
                    (first, None)
                }
            };
            self.committed(connection, number, at, decision);
            return Ok(());
        }
        if let (Ticket::Ask { command, .. }, Answer::Unchanged(Decision::Accepted { .. })) = (&ticket, &answer)
            && world.books.cell().revision() == at
        {
            // What changed is judged with its step.
            invariant_what_is_accepted_is_done(world.books.cell(), command, world.books.cell())?;
        }
        let (at, decision) = match answer {
            Answer::Changed(decision) | Answer::Unchanged(decision) => (at, decision),
            Answer::Repeated(first) => {
                world.tally.saw(Seen::AnsweredAgain);
                // Who is not answered asks again.
                let Some(decision) = self.read_back(world, first)? else { return Ok(()) };
                (first, decision)
            }
        };
        match ticket {
            Ticket::Opening if matches!(decision, Decision::Rejected(_)) => {
                self.failed = Some(format!("it can't be opened: {decision:?}"));
            }
            Ticket::Opening => self.open = true,
            Ticket::Session { connection, hello } => self.session_opened(world, connection, &hello, &decision),
            Ticket::Commit { .. } => {}
            Ticket::Register { connection, name, asking, is_first, known } => {
                if is_first {
                    self.registered.push((at, name));
                }
                self.shown_are_over();
                self.registered(world, connection, (&asking, known), (at, &decision))?;
            }
            Ticket::Expiry { connection } => self.register_again(world, connection, at),
            Ticket::Reports { told } => self.reported(world, told, at, &decision),
            Ticket::Fitness { connection, revision } => Self::report_answered(world, connection, revision),
            Ticket::Ask { connection, command } => {
                if Self::is_above_a_small_bound(world, &decision) {
                    governed::above_bound(&mut world.tally, &command);
                }
                self.answered(world, connection, &decision);
            }
            Ticket::Hold { connection } => {
                if Self::is_above_a_small_bound(world, &decision) {
                    governed::hold_above_bound(&mut world.tally);
                }
                Self::hold_answered(world, connection, at, &decision);
            }
        }
        Ok(())
    }

    /// The answer of a revision, from what is recent, from the log, or from the history. A log that can't be read is no reason to say anything else
    /// than what it has: the history is asked, as in production, and `None` where it does not reach so far.
    fn read_back(&self, world: &mut World, revision: Revision) -> Result<Option<Decision>, Violation> {
        let lost =
            |what: String| Violation { invariant: "invariant_a_repeated_number_gets_the_same_answer", facts: what };
        let from_history = |world: &mut World| {
            world.tally.saw(Seen::FromHistory);
            world.books.answer(revision).ok_or_else(|| lost(format!("revision {revision} never was")))
        };
        let encoded = match self.recent.decided(revision) {
            Some(encoded) => encoded,
            None if revision.0 < self.journal.keeper().oldest_revision() => from_history(world)?,
            None => match self.logged(revision) {
                Ok(frame) => {
                    let frame = frame.ok_or_else(|| lost(format!("revision {revision} is not in the log")))?;
                    let batch = LoggedBatch::parse(frame).map_err(|error| lost(error.to_string()))?;
                    batch.decided(revision).ok_or_else(|| lost(format!("revision {revision} is not in its batch")))?
                }
                Err(ReadError::Disk(_)) if world.checkpoint.as_ref().is_some_and(|it| it.revision >= revision) => {
                    from_history(world)?
                }
                Err(ReadError::Disk(error)) => {
                    world.tell(|| format!("server: the answer of revision {revision} can't be read: {error}"));
                    return Ok(None);
                }
                Err(error) => return Err(lost(error.to_string())),
            },
        };
        let wire = v1::Decision::decode(encoded).map_err(|error| lost(error.to_string()))?;
        Decision::try_from(wire).map(Some).map_err(|error| lost(error.to_string()))
    }

    /// The bytes of a revision's batch, as they stand in the log.
    fn logged(&self, revision: Revision) -> Result<Option<bytes::Bytes>, ReadError> {
        let mut reader = self.journal.keeper().reader(revision.0)?;
        let frame = reader.next_frame()?.map(|frame| bytes::Bytes::copy_from_slice(frame.payload));
        Ok(frame)
    }

    /// The deltas after a revision, as the log has them: none where it can't be read or was given up, as then the watcher begins anew.
    fn missed(&self, after: Revision) -> Vec<bytes::Bytes> {
        let mut deltas = Vec::new();
        let Ok(mut reader) = self.journal.keeper().reader(after.next().0) else { return deltas };
        while deltas.len() < MISSED_AT_A_TIME {
            let Ok(Some(frame)) = reader.next_frame() else { break };
            let Ok(batch) = LoggedBatch::parse(bytes::Bytes::copy_from_slice(frame.payload)) else { break };
            let later = batch.revisions().filter(|revision| *revision > after);
            deltas.extend(later.map(|revision| batch.delta(revision).unwrap_or_default()));
        }
        deltas
    }

    /// Log time jumps, forward or back: see [`Fault::ClockJump`]. Leases go by another clock, as they do in production.
    pub(crate) fn clock_jumps(&mut self, world: &mut World, micros: i64) {
        self.clock_skew_micros += micros;
        world.tell(|| format!("server: its log time jumps by {} ms", micros / 1000));
        self.plan_tick(world);
    }

    /// Leases that ran out, sessions that nobody uses, and what the core has due.
    pub(crate) fn tick(&mut self, world: &mut World) -> Checked {
        // Planned before an earlier one was: each plans the next, and would go on for ever beside the others.
        if world.now() < self.ticks_at_micros {
            return Ok(());
        }
        self.ticks_at_micros = i64::MAX;
        let now = world.now();
        let writing_micros = self.batch.as_ref().map_or(0, |_| now - self.writing_since_micros);
        let look = self.standstill.look(now, false, writing_micros);
        self.respite.looked(now, look);
        self.leases.stood_still(look.lost_micros);
        self.alone.values_mut().for_each(|since| *since += look.lost_micros);
        for (machine, epoch) in self.leases.expire(now) {
            self.renewals.invariant_no_lease_ends_by_its_server_s_sleep(machine, epoch, now)?;
            world.tell(|| format!("server: the lease of {machine} in epoch {epoch} ran out"));
            self.ask(None, Asked::by_server(Command::ExpireMachine { machine, epoch }));
        }
        if now >= self.sessions_due_micros {
            self.sessions_due_micros = now + SESSIONS_MICROS;
            let is_overdue = |since: i64| now - since >= LINGER_MICROS && self.respite.is_over(now);
            let overdue: Vec<SessionId> =
                self.alone.iter().filter(|(_, since)| is_overdue(**since)).map(|(id, _)| *id).collect();
            for session in overdue {
                self.alone.remove(&session);
                self.ask(None, Asked::by_server(Command::CloseSession(session)));
            }
        }
        self.turn(world)
    }

    /// Its process stood still since then, and goes on.
    pub(crate) fn goes_on(&mut self, since_micros: i64, now_micros: i64) {
        self.renewals.slept(since_micros, now_micros, self.committer.undurable_cell());
    }

    fn plan_tick(&mut self, world: &mut World) {
        // What has to wait is looked at again with the leases.
        let due = self.committer.next_due().filter(|_| self.may_tick(world));
        let due = due.map(|due| due.micros - BEGIN_MICROS - self.clock_skew_micros);
        let next = due.into_iter().chain(self.leases.next_due_micros()).chain([self.sessions_due_micros]).min();
        // Looked at more seldom, the server would take it that it stood still.
        let looks = world.now() + self.standstill.within_micros();
        let next = next.unwrap_or(i64::MAX).min(looks).max(world.now() + 1);
        if next < self.ticks_at_micros {
            self.ticks_at_micros = next;
            world.agenda.at(next, Event::ServerTicks { life: self.life });
        }
    }

    /// Housekeeping off the commit path. What fails here is tried again later.
    pub(crate) fn keep(&mut self, world: &mut World) {
        let keeper = self.journal.keeper();
        // A mark or a segment that could not be written is not missed yet.
        let flushed = keeper.high_water().flush();
        if world.random.chance(world.mix.checkpoint_thousandths) {
            let checkpoint = Checkpoint::of(self.mirror.cell());
            world.tell(|| format!("history: a checkpoint at revision {}", checkpoint.revision));
            keeper.release(checkpoint.revision.0);
            world.checkpoint = Some(checkpoint);
        }
        if world.random.chance(world.mix.backup_thousandths) {
            self.back_up(world);
        }
        let prepared = if keeper.is_ready() { Ok(()) } else { keeper.prepare() };
        drop((flushed, prepared));
        if self.is_dead() && self.failed.is_none() {
            self.failed = Some("died while keeping house".into());
        }
        let pause = world.random.between(20_000, 400_000);
        world.agenda.after(pause, Event::ServerKeeps { life: self.life });
    }

    /// A backup of what everybody may know. Not while something is being written: it would name another end of the log.
    fn back_up(&mut self, world: &mut World) {
        let tail = self.journal.tail();
        if self.is_idle() && tail.revision == self.mirror.cell().revision().0 && tail.revision > 0 {
            let mut checkpoint = Checkpoint::of(self.mirror.cell());
            if planted::is(Bug::TearsBackups) {
                world.backup.iter().for_each(|earlier| checkpoint.tear(&earlier.checkpoint));
            }
            world.tell(|| format!("backup: of revision {}", checkpoint.revision));
            world.backup = Some(Backup { checkpoint, tail, endings: world.books.endings.clone() });
        }
    }

    /// The journal has nothing that was not checked.
    pub(crate) fn tail(&self) -> Revision {
        Revision(self.journal.tail().revision)
    }

    fn snapshot(&mut self, world: &mut World) -> Result<plenum_model::Cell, Violation> {
        // A reader waits until the picture is there; the wait is over at once.
        self.fold(world)?;
        Ok(self.mirror.cell().clone())
    }

    /// Whether something is above a bound, of the core or of a request.
    fn is_above(decision: &Decision) -> bool {
        matches!(decision, Decision::Rejected(rejection) if rejection.code == RejectionCode::LimitReached)
    }

    /// The same, in a run with small bounds. What is refused where the log takes little of a request may be refused for that.
    fn is_above_a_small_bound(world: &World, decision: &Decision) -> bool {
        Self::is_above(decision) && world.mix.bounds.is_some() && world.entry_bytes() == usize::MAX
    }

    fn principal() -> Arc<str> {
        Arc::from("local")
    }

    /// Who is at the other end of a connection: where there are several users, schedulers are of two of them.
    fn principal_of(world: &World, id: ConnectionId) -> Arc<str> {
        match world.whose(id, Side::Server) {
            Some((Party::Scheduler(seat), _)) if world.mix.has_users => USERS[seat % USERS.len()].into(),
            _ => Self::principal(),
        }
    }
}

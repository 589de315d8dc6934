//! The books of the checkers: what was sent to the log, what became durable, what was promised to whom.
//!
//! They see only what leaves the server: bytes of batches, answers, and what agents say. From that they keep a cell of their own,
//! and a core of their own that decides everything again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use plenum_core::{Core, CoreOptions, Decided, invariants};
use plenum_model::{
    AllocationId, AllocationState, Cell, Command, Decision, Delta, FoundMachine, LogTime, MachineState, Outcome,
    Request, Revision, SessionChange, SessionId, TransactionId, UnknownId, floor_of,
};
use plenum_proto::sections::Sections;
use plenum_proto::{command, delta, pages, transaction, v1};
use plenum_server::publish::LoggedBatch;
use prost::Message;

use crate::governed;
use crate::judge::{Endings, Judge, Step};
use crate::report::Tally;
use crate::seen::Seen;

/// Snapshots that are kept to compare mirrors with.
const SNAPSHOTS_MAX: usize = 512;

/// Something that must never be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The checker that found it.
    pub invariant: &'static str,
    /// The facts.
    pub facts: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.invariant, self.facts)
    }
}

/// The verdict of a checker.
pub(crate) type Checked = Result<(), Violation>;

/// Fails with the facts unless the condition holds.
pub(crate) fn hold(condition: bool, invariant: &'static str, facts: impl FnOnce() -> String) -> Checked {
    if condition { Ok(()) } else { Err(Violation { invariant, facts: facts() }) }
}

/// One revision, as it was sent to the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    time: LogTime,
    asked: Bytes,
    decided: Bytes,
    delta: Bytes,
}

impl Entry {
    fn of(batch: &LoggedBatch, revision: Revision) -> Self {
        Self {
            time: batch.time(),
            asked: batch.asked(revision).unwrap_or_default(),
            decided: batch.decided(revision).unwrap_or_default(),
            delta: batch.delta(revision).unwrap_or_default(),
        }
    }
}

/// See the module.
pub(crate) struct Books {
    /// By revision - 1. Ends where the newest future ends: a crash forgets what was not kept.
    sent: Vec<Entry>,
    /// What somebody may know of.
    acknowledged: Revision,
    /// Folded from what is durable.
    cell: Cell,
    /// Decides again what is durable.
    core: Core,
    snapshots: VecDeque<Cell>,
    /// Where each transaction stands in the log.
    decided: BTreeMap<TransactionId, Revision>,
    /// What schedulers were told.
    told: BTreeMap<TransactionId, Outcome>,
    judge: Judge,
    /// What became of jobs, retired ones too.
    pub(crate) endings: Endings,
    /// Ends that agents reported.
    receipts: BTreeSet<(AllocationId, AllocationState)>,
    /// Ended by a removal of their machine, whose agent may not know yet: no registration has named them since.
    removed: BTreeSet<AllocationId>,
    options: CoreOptions,
    /// How often the cell began from a backup, and once more.
    incarnation: u64,
    /// What ran in a cell before, and is not in the one that was restored: agents find it when they register.
    lost: BTreeSet<AllocationId>,
    /// Outcomes of cells before: they may still be on their way.
    earlier: BTreeSet<(TransactionId, Revision, Bytes)>,
    /// When the registration that counts was asked for, by the machine's id and epoch.
    asked: BTreeMap<(u64, u32), u64>,
}

impl Books {
    pub(crate) fn new(options: CoreOptions) -> Self {
        Self {
            sent: Vec::new(),
            acknowledged: Revision(0),
            cell: Cell::default(),
            core: Core::new(options.clone()),
            snapshots: VecDeque::from([Cell::default()]),
            decided: BTreeMap::new(),
            told: BTreeMap::new(),
            judge: Judge::of(&options),
            endings: Endings::default(),
            receipts: BTreeSet::new(),
            removed: BTreeSet::new(),
            options,
            incarnation: 1,
            lost: BTreeSet::new(),
            earlier: BTreeSet::new(),
            asked: BTreeMap::new(),
        }
    }

    /// The published cell.
    pub(crate) fn cell(&self) -> &Cell {
        &self.cell
    }

    /// A batch goes to the log. It continues what was sent before.
    pub(crate) fn sent(&mut self, batch: &LoggedBatch) -> Checked {
        let last = self.sent.len() as u64;
        hold(batch.first().0 == last + 1, "invariant_revisions_have_no_gaps", || {
            format!("the log was sent revision {} after {last}", batch.first())
        })?;
        self.sent.extend(batch.revisions().map(|revision| Entry::of(batch, revision)));
        Ok(())
    }

    /// A batch is shown: it is what was sent, and all checks hold on it.
    pub(crate) fn published(&mut self, batch: &LoggedBatch, tally: &mut Tally) -> Checked {
        tally.saw(Seen::Batch);
        hold(batch.first() == self.cell.revision().next(), "invariant_published_without_gaps", || {
            format!("{} came after {}", batch.first(), self.cell.revision())
        })?;
        for revision in batch.revisions() {
            let entry = Entry::of(batch, revision);
            self.is_what_was_sent(revision, &entry)?;
            self.fold(revision, &entry, tally)?;
        }
        self.acknowledged = self.acknowledged.max(batch.last());
        Ok(())
    }

    /// An answer goes out that speaks of this revision.
    pub(crate) fn answered(&mut self, at: Revision) -> Checked {
        hold(at <= self.cell.revision(), "invariant_published_before_answered", || {
            format!("an answer speaks of revision {at}, published is {}", self.cell.revision())
        })?;
        self.acknowledged = self.acknowledged.max(at);
        Ok(())
    }

    /// A server read this log back: nothing acknowledged is missing, and what is there was sent, in this order.
    pub(crate) fn recovered(&mut self, batches: &[LoggedBatch], mirror: &Cell, tally: &mut Tally) -> Checked {
        // Without a batch behind it, the checkpoint is the end.
        let last = batches.last().map_or_else(|| mirror.revision(), LoggedBatch::last);
        hold(last >= self.acknowledged, "invariant_acknowledged_survives_any_crash", || {
            format!("acknowledged up to revision {}, and the log ends at {last}", self.acknowledged)
        })?;
        tally.saw_times(Seen::KeptUnacknowledged, u64::from(last > self.acknowledged));
        tally.saw_times(Seen::LostUnacknowledged, u64::from(count(last) < self.sent.len()));
        for batch in batches {
            for revision in batch.revisions() {
                let entry = Entry::of(batch, revision);
                self.is_what_was_sent(revision, &entry)?;
                if revision > self.cell.revision() {
                    self.fold(revision, &entry, tally)?;
                }
            }
        }
        self.sent.truncate(count(self.cell.revision()));
        self.invariant_everybody_has_the_same_cell("recovery", mirror)
    }

    /// The cell goes on from a backup, in a new incarnation: what was decided after it, never was. It is what the cell was then, if that
    /// is still known.
    pub(crate) fn restored(&mut self, cell: Cell, endings: &Endings, incarnation: u64) -> Checked {
        let name = "invariant_a_backup_is_sound";
        invariants::check_cell(&cell)
            .map_err(|violation| Violation { invariant: name, facts: violation.to_string() })?;
        if let Some(snapshot) = self.snapshot_of(&cell) {
            let difference = snapshot.first_difference(&cell);
            let difference = difference.or_else(|| first_different_page(snapshot, &cell, Sections::ALL));
            hold(difference.is_none(), name, || format!("revision {}: {difference:?}", cell.revision()))?;
        }
        for (id, at) in std::mem::take(&mut self.decided) {
            let decided = self.entry(at).map(|entry| entry.decided.clone()).unwrap_or_default();
            self.earlier.insert((id, at, decided));
        }
        let live = self.cell.allocations().map(|found| found.id);
        let ran = live.chain(self.cell.unknown_tasks().map(|(id, _)| id.allocation));
        self.lost.extend(ran.filter(|id| cell.allocation(*id).is_none()));
        // Those of before their removal are there again.
        let unknown: BTreeSet<AllocationId> = cell.unknown_tasks().map(|(id, _)| id.allocation).collect();
        self.removed.retain(|id| cell.allocation(*id).is_none() && !unknown.contains(id));
        self.told.clear();
        self.sent.truncate(count(cell.revision()));
        self.acknowledged = cell.revision();
        self.judge.restored(&cell);
        self.endings = endings.clone();
        self.incarnation = incarnation;
        self.core = Core::from_cell(cell.clone(), self.options.clone());
        self.cell = cell;
        Ok(())
    }

    /// What the cell was at the revision of another one, in the same incarnation.
    fn snapshot_of(&self, other: &Cell) -> Option<&Cell> {
        let of = |cell: &Cell| (cell.revision(), cell.identity().incarnation);
        self.snapshots.iter().rfind(|cell| of(cell) == of(other))
    }

    /// The encoded answer of a revision, as the history would have it.
    pub(crate) fn answer(&self, revision: Revision) -> Option<Bytes> {
        self.entry(revision).map(|entry| entry.decided.clone())
    }

    fn entry(&self, revision: Revision) -> Option<&Entry> {
        self.sent.get(count(revision).checked_sub(1)?)
    }

    fn is_what_was_sent(&self, revision: Revision, entry: &Entry) -> Checked {
        let sent = self.entry(revision);
        hold(sent == Some(entry), "invariant_the_log_is_a_prefix_of_what_was_sent", || {
            format!("revision {revision} is not what was sent")
        })
    }

    /// Decides again, folds, and checks the step.
    fn fold(&mut self, revision: Revision, entry: &Entry, tally: &mut Tally) -> Checked {
        let unreadable = |what: &str, error: &dyn std::fmt::Display| Violation {
            invariant: "invariant_the_log_can_be_read",
            facts: format!("{what} of revision {revision}: {error}"),
        };
        let request = command::decode(entry.asked.clone()).map_err(|error| unreadable("request", &error))?;
        let change = delta::decode(entry.delta.clone()).map_err(|error| unreadable("delta", &error))?;
        let before = self.core.cell().clone();
        let decided = self.core.decide(&request, entry.time);
        invariant_deciding_again_gives_the_same_bytes(revision, entry, &decided)?;
        let step =
            Step { before: &before, request: &request, decided: &decided, after: self.core.cell(), delta: &change };
        self.judge.check(&step, &self.snapshots)?;
        self.endings.note(&change, self.core.cell());
        self.invariant_room_is_freed_only_by_receipts_boots_and_removals(&before, &request, &change)?;
        self.invariant_unknown_tasks_go_only_when_nothing_of_them_runs(&before, &request, &change)?;
        self.named(&before, &request);
        self.cell.apply(&change).map_err(|error| unreadable("fold", &error))?;
        self.note(&request, &decided, &change, tally)?;
        governed::count(&before, self.core.cell(), &request, &decided, &change, tally);
        self.snapshots.push_back(self.cell.clone());
        if self.snapshots.len() > SNAPSHOTS_MAX {
            self.snapshots.pop_front();
        }
        tally.saw(Seen::Revision);
        let difference = self.cell.first_difference(self.core.cell());
        hold(difference.is_none(), "invariant_a_snapshot_is_the_fold_of_all_deltas", || {
            format!("revision {revision}: {difference:?}")
        })
    }

    fn note(&mut self, request: &Request, decided: &Decided, change: &Delta, tally: &mut Tally) -> Checked {
        for change in &change.sessions {
            let SessionChange::Number { session, number, .. } = change else { continue };
            let id = TransactionId { session: *session, number: *number };
            let earlier = self.decided.insert(id, self.cell.revision());
            hold(earlier.is_none(), "invariant_a_number_takes_effect_at_most_once", || {
                format!("{id} at revision {earlier:?} and again at {}", self.cell.revision())
            })?;
        }
        if let Decided::Changed { decision: Decision::Outcome(outcome), .. } = decided {
            for refusal in &outcome.refusals {
                tally.count_refusal(refusal);
            }
        }
        tally.saw_times(Seen::Granted, change.grants.iter().map(|grants| grants.slots.len() as u64).sum());
        for extra in change.grants.iter().flat_map(|grants| &grants.extras) {
            tally.saw_times(Seen::TakenOver, u64::from(!extra.takes_over.is_empty()));
            tally.saw_times(Seen::DeviceGranted, extra.devices.len() as u64);
            tally.saw_times(Seen::PortGranted, extra.ports.len() as u64);
        }
        for end in &change.ends {
            Tally::count(&mut tally.ends, end.state);
        }
        tally.saw_times(Seen::LeaseExpired, u64::from(matches!(request.command, Command::ExpireMachine { .. })));
        let registers = matches!(request.command, Command::RegisterMachine(_));
        let begins = registers && change.machines.iter().any(|machine| machine.epoch > 1);
        tally.saw_times(Seen::NewEpoch, u64::from(begins));
        Ok(())
    }

    fn invariant_room_is_freed_only_by_receipts_boots_and_removals(
        &mut self,
        before: &Cell,
        request: &Request,
        change: &Delta,
    ) -> Checked {
        for end in &change.ends {
            let Some(found) = before.allocation_in(end.slot) else { continue };
            let (id, machine) = (found.id, before.machine_in(found.row.machine));
            let allowed = match &request.command {
                Command::ReportStatus(transitions) => transitions.iter().any(|transition| {
                    transition.allocation == id
                        && transition.state.is_end()
                        && before.is_current(transition.machine, transition.epoch)
                        && machine.is_some_and(|machine| machine.id == transition.machine)
                        && self.receipts.contains(&(id, transition.state))
                }),
                Command::RegisterMachine(FoundMachine { name, boot_id, .. }) => {
                    machine.is_some_and(|machine| machine.name == *name && machine.boot_id != boot_id.as_ref().into())
                }
                Command::RemoveMachine { machine: removed, unless_alive } => {
                    self.removed.insert(id);
                    machine.is_some_and(|machine| {
                        machine.id == *removed && !(*unless_alive && machine.state != MachineState::Unreachable)
                    })
                }
                _ => false,
            };
            hold(allowed, "invariant_room_is_freed_only_by_receipts_boots_and_removals", || {
                format!("{id} ended by {:?}", request.command)
            })?;
        }
        Ok(())
    }

    /// As for what the cell knows; and an agent that has heard of its epoch may say that there is nothing any more.
    fn invariant_unknown_tasks_go_only_when_nothing_of_them_runs(
        &mut self,
        before: &Cell,
        request: &Request,
        change: &Delta,
    ) -> Checked {
        for (id, _) in change.unknown.iter().filter(|(_, task)| task.is_none()) {
            let machine = before.machine_in(id.machine);
            let allowed = match &request.command {
                Command::ReportStatus(transitions) => transitions.iter().any(|transition| {
                    transition.allocation == id.allocation
                        && transition.state.is_end()
                        && before.is_current(transition.machine, transition.epoch)
                        && self.receipts.contains(&(id.allocation, transition.state))
                }),
                Command::RegisterMachine(FoundMachine { name, boot_id, inventory, .. }) => {
                    let runs = inventory.iter().any(|item| item.allocation == id.allocation && item.state.is_live());
                    machine.is_some_and(|machine| {
                        machine.name == *name && (machine.boot_id != boot_id.as_ref().into() || !runs)
                    })
                }
                Command::RemoveMachine { machine: removed, unless_alive } => {
                    self.removed.insert(id.allocation);
                    machine.is_some_and(|machine| {
                        machine.id == *removed && !(*unless_alive && machine.state != MachineState::Unreachable)
                    })
                }
                _ => false,
            };
            hold(allowed, "invariant_unknown_tasks_go_only_when_nothing_of_them_runs", || {
                format!("{id:?} went by {:?}", request.command)
            })?;
        }
        Ok(())
    }

    /// What an agent names when it registers has room from then on, also if it ran on a machine that was removed. What is not named it may still
    /// have to hear of: a registration that was sent before it was there lacks it, and so does one from which it was left out, as it was known then.
    fn named(&mut self, before: &Cell, request: &Request) {
        let Command::RegisterMachine(FoundMachine { name, boot_id, inventory, .. }) = &request.command else { return };
        // Of a machine that booted, what its agent names tells how it ended. Behind a late registration of before the boot it may run: as above.
        if before.machine_named(name).is_some_and(|machine| machine.boot_id != boot_id.as_ref().into()) {
            return;
        }
        for item in inventory.iter().filter(|item| item.state.is_live()) {
            self.removed.remove(&item.allocation);
        }
    }

    /// A machine was registered by what its agent asked at that time since its boot.
    pub(crate) fn invariant_the_agent_that_asked_last_counts(
        &mut self,
        registered: (u64, u32),
        asked_micros: u64,
    ) -> Checked {
        let before = self.asked.insert(registered, asked_micros).unwrap_or(0);
        hold(before <= asked_micros, "invariant_the_agent_that_asked_last_counts", || {
            format!(
                "machine and epoch {registered:?}: asked at {before}, and then counted what was asked at {asked_micros}"
            )
        })
    }

    /// An agent says that nothing of these runs any more.
    pub(crate) fn reported(&mut self, allocation: AllocationId, state: AllocationState) {
        self.receipts.insert((allocation, state));
    }

    /// What runs has room: it is live or an unknown task, or the machine was removed or the cell restored and its agent is about to
    /// hear of it.
    pub(crate) fn invariant_what_runs_is_live(&self, machine: &str, running: AllocationId) -> Checked {
        let found = self.cell.allocation(running);
        let on_it =
            found.is_some_and(|found| self.cell.machine_in(found.row.machine).is_some_and(|row| &*row.name == machine));
        let row = self.cell.machine_named(machine);
        let unknown = row.is_some_and(|row| {
            self.cell.unknown_task(UnknownId { machine: row.id.slot, allocation: running }).is_some()
        });
        let back = row.is_some_and(|row| row.epoch > floor_of(self.incarnation));
        let excused = self.removed.contains(&running) || (self.lost.contains(&running) && !back);
        hold(on_it || unknown || excused, "invariant_what_runs_is_live", || {
            let standing = found.map(|found| (found.status, found.row.machine));
            format!("{running} runs on {machine}, and the cell has {standing:?}")
        })
    }

    /// Who starts in the room of others starts after them.
    pub(crate) fn invariant_a_successor_waits_for_its_victims(
        &self,
        machine: &str,
        starts: AllocationId,
        running: impl Iterator<Item = AllocationId>,
    ) -> Checked {
        let victims = self.judge.victims_of(starts);
        let runs = running.filter(|other| victims.contains(other)).collect::<Vec<_>>();
        hold(runs.is_empty(), "invariant_a_successor_waits_for_its_victims", || {
            format!("{starts} starts on {machine} while {runs:?} run")
        })
    }

    /// A scheduler reads an outcome: it is the one in the log, whenever and however often it is told.
    pub(crate) fn invariant_an_outcome_is_what_the_log_says(&mut self, outcome: &Outcome) -> Checked {
        let name = "invariant_an_outcome_is_what_the_log_says";
        let (id, at) = (outcome.id, outcome.revision);
        let encoded = || v1::Decision::from(&Decision::Outcome(Box::new(outcome.clone()))).encode_to_vec();
        if !self.earlier.is_empty() && self.earlier.contains(&(id, at, encoded().into())) {
            return Ok(());
        }
        if let Some(first) = self.told.get(&id) {
            hold(first == outcome, "invariant_a_repeated_number_gets_the_same_answer", || {
                format!("{id}: first {first:?}, then {outcome:?}")
            })?;
        }
        hold(self.decided.get(&id) == Some(&at), name, || {
            format!("{id} was told to be decided at {at}, and is in the log at {:?}", self.decided.get(&id))
        })?;
        let logged = self.entry(at).and_then(|entry| v1::Decision::decode(entry.decided.clone()).ok());
        let logged = logged.and_then(|wire| Decision::try_from(wire).ok());
        hold(logged == Some(Decision::Outcome(Box::new(outcome.clone()))), name, || {
            format!("{id}: told {outcome:?}, logged {logged:?}")
        })?;
        self.told.entry(id).or_insert_with(|| outcome.clone());
        Ok(())
    }

    /// What a dry run is told is what its transaction comes to when it is decided again. Of several that were sent with its number, for one of
    /// them. Nothing is said where the cell has gone on since, where the number is in the log, and of a cell before the one that was restored.
    pub(crate) fn dry_run_was_told(
        &mut self,
        told: &v1::Outcome,
        sent: &[v1::Transaction],
        tally: &mut Tally,
    ) -> Checked {
        let id = TransactionId { session: SessionId(told.session), number: told.number };
        let (revision, time) = (Revision(told.revision), LogTime::from_micros(told.time_micros));
        if self.decided.get(&id) == Some(&revision) || self.core.cell().revision() != revision {
            return Ok(());
        }
        let mut again = Vec::new();
        for wire in sent {
            if (wire.session, wire.incarnation) != (told.session, self.incarnation) {
                continue;
            }
            let Ok(command) = transaction::commit_decoded(wire) else { continue };
            let request = Request { principal: "local".into(), namespace: "default".into(), command };
            if let Decided::Unchanged(Decision::Outcome(outcome)) = self.core.decide(&request, time) {
                again.push(v1::Outcome::from(outcome.as_ref()));
            }
        }
        if again.is_empty() {
            return Ok(());
        }
        tally.saw(Seen::DryRun);
        hold(again.contains(told), "invariant_deciding_again_gives_the_same_bytes", || {
            format!("the dry run {id} was told {told:?}, and decided again it is {again:?}")
        })
    }

    /// A mirror shows what the cell was at its revision, in the sections that mirrors have. Nothing where that is too long ago.
    pub(crate) fn invariant_a_mirror_is_the_cell_at_its_revision(&self, whose: &str, mirror: &Cell) -> Checked {
        let name = "invariant_a_mirror_is_the_cell_at_its_revision";
        let of_before = mirror.identity().incarnation < self.incarnation;
        hold(of_before || mirror.revision() <= self.cell.revision(), name, || {
            format!("{whose} is at {}, published is {}", mirror.revision(), self.cell.revision())
        })?;
        let Some(snapshot) = self.snapshot_of(mirror) else { return Ok(()) };
        let difference = first_different_page(snapshot, mirror, Sections::MIRROR);
        hold(difference.is_none(), name, || format!("{whose} at {}: {difference:?}", mirror.revision()))
    }

    /// Recovery, replay and a running server have the same state, byte for byte.
    pub(crate) fn invariant_everybody_has_the_same_cell(&self, whose: &str, cell: &Cell) -> Checked {
        let difference = self.cell.first_difference(cell);
        let difference = difference.or_else(|| first_different_page(&self.cell, cell, Sections::ALL));
        hold(difference.is_none(), "invariant_everybody_has_the_same_cell", || {
            format!("{whose} at {}: {difference:?}", cell.revision())
        })
    }

    /// Machines that take claims.
    pub(crate) fn machines_ready(&self) -> usize {
        self.cell.machines().filter(|machine| machine.state == MachineState::Ready).count()
    }
}

/// How many revisions there are up to this one.
fn count(revision: Revision) -> usize {
    usize::try_from(revision.0).unwrap_or(usize::MAX)
}

fn invariant_deciding_again_gives_the_same_bytes(revision: Revision, entry: &Entry, decided: &Decided) -> Checked {
    let name = "invariant_deciding_again_gives_the_same_bytes";
    let Decided::Changed { decision, delta: change } = decided else {
        return hold(false, name, || format!("revision {revision}: decided again, nothing changed: {decided:?}"));
    };
    hold(v1::Decision::from(decision).encode_to_vec() == entry.decided, name, || {
        format!("revision {revision}: the answer is another one: {decision:?}")
    })?;
    let mut bytes = Vec::new();
    delta::encode(change, &mut bytes);
    hold(bytes == entry.delta, name, || format!("revision {revision}: the delta is another one: {change:?}"))
}

fn first_different_page(one: &Cell, other: &Cell, sections: Sections) -> Option<String> {
    if pages::tables(one) != pages::tables(other) {
        return Some(format!("tables {:?} and {:?}", pages::tables(one), pages::tables(other)));
    }
    let seen = pages::every(one).filter(|(table, _)| sections.has_table(*table));
    let mut differing = seen.filter(|(table, number)| {
        pages::encode_page_for(one, *table, *number, sections)
            != pages::encode_page_for(other, *table, *number, sections)
    });
    differing.next().map(|(table, number)| format!("page {number} of {table:?}"))
}

#[cfg(test)]
mod tests;

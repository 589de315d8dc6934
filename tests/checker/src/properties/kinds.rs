//! Whether a refusal is of the right kind, where neither culprits nor sums show it: what stood in a claim's way stood there at its base already
//! exactly where it is a misfit, and *stale* says only who may have forgotten what came since.
//!
//! Judged is what the history leaves no doubt about: claims that share nothing with others of their transaction, and ask for no room of others.
//! What became of jobs and groups (not wanted, another home, a predecessor) is not judged: a refusal does not say all that made it so.

use std::collections::{BTreeMap, BTreeSet};

use plenum_proto::v1::{self, RefusalKind, RefusalReason};

use super::Decided;
use super::culprits::shifts;
use super::rules::holds;
use crate::chronicle::{Chronicle, Facts};

/// So many changes since a base a core knows of, unless it is told to remember less than by default: it goes through 4096 of one machine for a
/// transaction, and an end may count as two.
const CHANGES_KNOWN: u64 = 2048;

/// Who was where, to be looked up.
pub(super) struct Kinds<'a> {
    chronicle: &'a Chronicle,
    /// By job and group.
    of_group: BTreeMap<(u64, u32), Vec<&'a Facts>>,
    on_machine: BTreeMap<u32, Vec<&'a Facts>>,
}

impl<'a> Kinds<'a> {
    pub(super) fn of(chronicle: &'a Chronicle) -> Self {
        let mut kinds = Self { chronicle, of_group: BTreeMap::new(), on_machine: BTreeMap::new() };
        for facts in chronicle.allocations.values() {
            let granted = &facts.granted;
            kinds.of_group.entry((granted.job, granted.group)).or_default().push(facts);
            kinds.on_machine.entry(granted.machine).or_default().push(facts);
        }
        kinds
    }

    /// What the history says against the kind of a refusal.
    pub(super) fn contradiction(&self, one: &Decided<'_>, refusal: &v1::Refusal) -> Option<String> {
        let (base, at) = (one.asked.base_revision, one.outcome.revision);
        if base >= at || !self.chronicle.has_all(base, at) {
            return None;
        }
        let claim = Claim { kinds: self, asked: one.asked, refusal, base, at };
        match refusal.kind() {
            RefusalKind::Stale => claim.is_known(),
            RefusalKind::Misfit => claim.was_not_so(),
            _ => None,
        }
    }
}

/// A refused claim, its base, and when it was decided.
struct Claim<'a, 'b> {
    kinds: &'b Kinds<'a>,
    asked: &'b v1::Transaction,
    refusal: &'b v1::Refusal,
    base: u64,
    at: u64,
}

impl<'a> Claim<'a, '_> {
    /// That all is known which came after the base: no server opened the cell since, and it is little. What numbers of resources stood for is
    /// forgotten with them, and what attributes were of large groups.
    fn is_known(&self) -> Option<String> {
        let (chronicle, since) = (self.kinds.chronicle, self.base + 1..self.at);
        let any = |revisions: &BTreeSet<u64>| revisions.range(since.clone()).next().is_some();
        let is_forgotten = any(&chronicle.openings)
            || match self.refusal.reason() {
                RefusalReason::NoRoom => any(&chronicle.reshaped),
                RefusalReason::SpreadLimit => chronicle.machine_changes.values().any(any),
                _ => false,
            };
        let changes: u64 = chronicle.touches.range(since.clone()).map(|(_, touches)| touches).sum();
        (!is_forgotten && changes < CHANGES_KNOWN)
            .then(|| format!("after its base {} only {changes} changes came, none of which is forgotten", self.base))
    }

    /// That what was in its way was not in its way at the base.
    fn was_not_so(&self) -> Option<String> {
        match self.refusal.reason() {
            RefusalReason::TaskTaken => self.task_was_free(),
            RefusalReason::MachineNotReady => {
                let (before, now) = (self.machine_at(self.base)?, self.machine_at(self.at - 1)?);
                let was_ready = before.id == now.id && before.state() == v1::MachineState::Ready;
                was_ready.then(|| format!("the machine was ready at its base {}", self.base))
            }
            RefusalReason::NoSuchMachine => {
                let was_there = self.machine_at(self.base).is_some() && self.machine_at(self.at - 1).is_none();
                was_there.then(|| format!("the machine was there at its base {}", self.base))
            }
            RefusalReason::Constraint => {
                let (before, now) = (self.machine_at(self.base)?, self.machine_at(self.at - 1)?);
                let mut constraints = self.group()?.constraints.iter();
                let held = before.id == now.id && constraints.all(|constraint| holds(constraint, &before.attributes));
                held.then(|| format!("its constraints held there at its base {}", self.base))
            }
            RefusalReason::PerMachineLimit => self.limit_was_not_reached(),
            RefusalReason::SpreadLimit => self.values_had_few(),
            RefusalReason::DeviceTaken => self.devices_were_free(),
            _ => None,
        }
    }

    fn machine_at(&self, revision: u64) -> Option<&'a v1::MachineChange> {
        self.kinds.chronicle.machine_at(self.refusal.machine, revision)
    }

    /// What its group declares, where the job declared nothing anew since the base.
    fn group(&self) -> Option<&'a v1::GroupShape> {
        let (chronicle, job) = (self.kinds.chronicle, self.refusal.job);
        let mut shapes = chronicle.shapes.get(&job)?.iter();
        if shapes.any(|(revision, _)| self.base < *revision && *revision < self.at) {
            return None;
        }
        chronicle.group_at(job, self.refusal.group, self.at - 1)
    }

    /// Allocations of its group that did not leave at a revision.
    fn mates_at(&self, revision: u64) -> impl Iterator<Item = &'a Facts> {
        let key = (self.refusal.job, self.refusal.group);
        let all = self.kinds.of_group.get(&key).into_iter().flatten().copied();
        all.filter(move |facts| {
            let stays = facts.left.is_none_or(|left| left > revision);
            stays && is_there(facts, revision)
        })
    }

    /// Whether nothing else of its transaction may have been in its way: no other claim is of its group or on its machine, nobody is stopped, and no
    /// room of others is asked for.
    fn is_alone(&self) -> bool {
        let refusal = self.refusal;
        let touching = self.asked.placements.iter().flat_map(|placement| {
            let of_group = (placement.job, placement.group) == (refusal.job, refusal.group);
            placement.machines.iter().filter(move |machine| of_group || **machine == refusal.machine)
        });
        touching.take(2).count() == 1 && self.asked.stops.is_empty() && !self.asked.placements.iter().any(shifts)
    }

    /// Who has the task was granted it after the base; and the transaction does not claim it twice itself.
    fn task_was_free(&self) -> Option<String> {
        let refusal = self.refusal;
        let of_group = |placement: &&v1::Placement| (placement.job, placement.group) == (refusal.job, refusal.group);
        let claimed = self.asked.placements.iter().filter(of_group).flat_map(|placement| &placement.tasks);
        let once = claimed.filter(|task| **task == refusal.task).count() == 1;
        let mut holders = self.mates_at(self.at - 1).filter(|facts| facts.granted.task == refusal.task);
        let holder = holders.find(|facts| once && facts.granted.created > self.base)?;
        Some(format!("allocation {:#x} has the task since {}", holder.granted.id, holder.granted.created))
    }

    fn limit_was_not_reached(&self) -> Option<String> {
        let limit = self.group().filter(|_| self.is_alone())?.per_machine as usize;
        let count =
            |revision| self.mates_at(revision).filter(|facts| facts.granted.machine == self.refusal.machine).count();
        // Otherwise it is another limit: of what a machine has at all.
        let is_reached = limit > 0 && count(self.at - 1) >= limit;
        let before = count(self.base);
        (is_reached && before < limit).then(|| format!("{before} of its group were there at its base {}", self.base))
    }

    fn values_had_few(&self) -> Option<String> {
        let (group, chronicle) = (self.group().filter(|_| self.is_alone())?, self.kinds.chronicle);
        let value =
            |machine: u32, rule: &v1::Spread| chronicle.machine_at(machine, self.base)?.attributes.get(&rule.attribute);
        let had_place = |rule: &v1::Spread| {
            let own = value(self.refusal.machine, rule);
            let there = self.mates_at(self.base).filter(|facts| value(facts.granted.machine, rule) == own).count();
            own.is_some() && there < rule.at_most as usize
        };
        let fitted = !group.spread.is_empty() && group.spread.iter().all(had_place);
        fitted.then(|| format!("few of its group were there at its base {}", self.base))
    }

    /// Of the kind that was short nobody had anything of as many devices as the group declares: whoever chooses finds one for each.
    fn devices_were_free(&self) -> Option<String> {
        let (slot, chronicle, kind) = (self.refusal.machine, self.kinds.chronicle, &self.refusal.device);
        let changes = chronicle.machine_changes.get(&slot).into_iter().flatten();
        let mut changes = changes.filter(|&&revision| self.base < revision && revision < self.at);
        let is_same = changes.next().is_none() && !chronicle.was_strange(slot, self.base, self.at - 1);
        let group = self.group().filter(|_| is_same && self.is_alone())?;
        let machine = self.machine_at(self.base)?;
        let declared: Vec<&v1::Device> = group.devices.iter().filter(|device| device.kind == *kind).collect();
        let most = declared.iter().map(|device| device.millis).max()?;
        let here = self.kinds.on_machine.get(&slot).into_iter().flatten().filter(|facts| is_there(facts, self.base));
        let used: Vec<u32> = here
            .flat_map(|facts| &facts.granted.devices)
            .filter(|device| device.kind == *kind)
            .map(|device| device.index)
            .collect();
        let is_free =
            |device: &&v1::Device| device.kind == *kind && device.millis >= most && !used.contains(&device.index);
        let free = machine.devices.iter().filter(is_free).count();
        let any_model = declared.iter().all(|device| device.model.is_empty());
        (any_model && free >= declared.len()).then(|| format!("{free} {kind} were free at its base {}", self.base))
    }
}

/// Whether an allocation was there at a revision, leaving or not.
fn is_there(facts: &Facts, revision: u64) -> bool {
    facts.granted.created <= revision && facts.ended.is_none_or(|ended| ended > revision)
}

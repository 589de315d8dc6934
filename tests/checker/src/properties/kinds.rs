//! Whether a refusal is of the right kind, where neither culprits nor sums show it: what stood in a claim's way stood there at its base already
//! exactly where it is a misfit, and *stale* says only who may have forgotten what came since.
//!
//! Judged is what the history leaves no doubt about: claims that share nothing with others of their transaction, and ask for no room of others.
//! What became of jobs and groups (not wanted, another home, a predecessor) is judged by its culprits alone: a refusal does not say all that made it so.
//! Nor is a conflict denied where a cell need not know better: of attributes, limits and devices it knows who came, and not always what was before.

use std::collections::{BTreeMap, BTreeSet};

use plenum_proto::v1::{self, RefusalKind, RefusalReason};

use super::Decided;
use super::asked::ALLOCATIONS_FEW;
use super::culprits::shifts;
use super::rules::{holds, why_it_takes_none};
use crate::chronicle::{Chronicle, Facts};

/// So many changes since a base a core knows of, unless it is told to remember less than by default: it goes through 4096 of one machine for a
/// transaction, and an end may count as two.
const CHANGES_KNOWN: u64 = 2048;

/// Who was where, to be looked up.
pub(super) struct Kinds<'a> {
    chronicle: &'a Chronicle,
    /// By job and group.
    of_group: BTreeMap<(u64, u32), Vec<&'a Facts>>,
}

impl<'a> Kinds<'a> {
    pub(super) fn of(chronicle: &'a Chronicle) -> Self {
        let mut kinds = Self { chronicle, of_group: BTreeMap::new() };
        for facts in chronicle.allocations.values() {
            let granted = &facts.granted;
            kinds.of_group.entry((granted.job, granted.group)).or_default().push(facts);
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
        if claim.is_not_there() {
            return Some("what it names did not stand in its way".to_owned());
        }
        match refusal.kind() {
            RefusalKind::Stale => claim.is_known(),
            RefusalKind::Misfit => claim.was_not_so(),
            RefusalKind::Conflict => claim.was_so(),
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
    /// Whether what it names surely was not in its way when it was decided. It is about the claim's own machine, also where it had spare ones.
    fn is_not_there(&self) -> bool {
        let (refusal, chronicle, before) = (self.refusal, self.kinds.chronicle, self.at - 1);
        let machine = self.machine_at(before);
        match refusal.reason() {
            RefusalReason::NoSuchMachine => machine.is_some(),
            RefusalReason::MachineNotReady => machine.is_some_and(|machine| why_it_takes_none(machine).is_none()),
            RefusalReason::TaskTaken => {
                let has_it = |facts: &Facts| facts.granted.task == refusal.task;
                self.is_claimed_once() && !self.mates_at(before).any(has_it)
            }
            RefusalReason::Constraint => {
                let group = chronicle.group_at(refusal.job, refusal.group, before);
                group.zip(machine).is_some_and(|(group, machine)| {
                    group.constraints.iter().all(|constraint| holds(constraint, &machine.attributes))
                })
            }
            RefusalReason::PerMachineLimit => self.is_below_its_limit(),
            _ => false,
        }
    }

    /// Whether so few of its group are on the machine that the limit it declares is not reached, with all that the transaction may have brought there
    /// before it. Of a machine that has as many allocations as one can have, that is the limit.
    fn is_below_its_limit(&self) -> bool {
        let (refusal, chronicle, before) = (self.refusal, self.kinds.chronicle, self.at - 1);
        let Some(group) = chronicle.group_at(refusal.job, refusal.group, before) else { return false };
        let key = (refusal.job, refusal.group);
        let all = self.kinds.of_group.get(&key).into_iter().flatten();
        let there = all.filter(|facts| facts.granted.machine == refusal.machine && is_there(facts, before)).count();
        let of_group = self.asked.placements.iter().filter(|placement| (placement.job, placement.group) == key);
        let claims: usize = of_group
            .map(|placement| {
                let has_spare = placement.alternates.contains(&refusal.machine);
                placement.machines.iter().filter(|machine| has_spare || **machine == refusal.machine).count()
            })
            .sum();
        let is_below = group.per_machine == 0 || there + claims <= group.per_machine as usize;
        is_below && chronicle.count_on(refusal.machine) < ALLOCATIONS_FEW
    }

    /// Whether no other claim of its transaction is for the same task: an earlier one may have got it.
    fn is_claimed_once(&self) -> bool {
        let refusal = self.refusal;
        let of_group = |placement: &&v1::Placement| (placement.job, placement.group) == (refusal.job, refusal.group);
        let claimed = self.asked.placements.iter().filter(of_group).flat_map(|placement| &placement.tasks);
        claimed.filter(|task| **task == refusal.task).count() == 1
    }

    /// That all is known which came after the base: no server opened the cell since, and it is little. What numbers of resources stood for is
    /// forgotten with them, and what attributes were of large groups.
    fn is_known(&self) -> Option<String> {
        let changes = self.changes_known()?;
        Some(format!("after its base {} only {changes} changes came, none of which is forgotten", self.base))
    }

    /// How many changes came after the base, where none of them is forgotten.
    fn changes_known(&self) -> Option<u64> {
        let (chronicle, since) = (self.kinds.chronicle, self.base + 1..self.at);
        let any = |revisions: &BTreeSet<u64>| revisions.range(since.clone()).next().is_some();
        let is_forgotten = any(&chronicle.openings)
            || match self.refusal.reason() {
                RefusalReason::NoRoom => any(&chronicle.reshaped),
                RefusalReason::SpreadLimit => chronicle.machine_changes.values().any(any),
                _ => false,
            };
        let changes: u64 = chronicle.touches.range(since.clone()).map(|(_, touches)| touches).sum();
        (!is_forgotten && changes < CHANGES_KNOWN).then_some(changes)
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

    /// That what is in its way was in its way at the base, and nobody made it so since.
    fn was_so(&self) -> Option<String> {
        let base = self.base;
        match self.refusal.reason() {
            RefusalReason::TaskTaken => {
                let mut holders = self.mates_at(self.at - 1).filter(|facts| facts.granted.task == self.refusal.task);
                let holder = holders.find(|facts| facts.granted.created <= base)?;
                Some(format!("allocation {:#x} had the task at its base {base}", holder.granted.id))
            }
            RefusalReason::MachineNotReady => {
                self.changes_known()?;
                let (before, now) = (self.machine_at(base)?, self.machine_at(self.at - 1)?);
                let stood = before.id == now.id && before.state() != v1::MachineState::Ready;
                stood.then(|| format!("the machine was {} at its base {base}", before.state().as_str_name()))
            }
            RefusalReason::NoSuchMachine => {
                self.changes_known()?;
                self.machine_at(base).is_none().then(|| format!("no machine was there at its base {base}"))
            }
            RefusalReason::Constraint => self.constraint_failed(),
            RefusalReason::PerMachineLimit => self.nobody_came_there(),
            RefusalReason::SpreadLimit => self.nobody_came(),
            RefusalReason::DeviceTaken => self.devices_were_taken(),
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
        let once = self.is_claimed_once();
        let mut holders = self.mates_at(self.at - 1).filter(|facts| facts.granted.task == refusal.task);
        let holder = holders.find(|facts| once && facts.granted.created > self.base)?;
        Some(format!("allocation {:#x} has the task since {}", holder.granted.id, holder.granted.created))
    }

    /// A constraint fails by an attribute that the machine has had all the time.
    fn constraint_failed(&self) -> Option<String> {
        let (chronicle, slot, now) = (self.kinds.chronicle, self.refusal.machine, self.machine_at(self.at - 1)?);
        let since = chronicle.machines.get(&slot)?.iter().filter(|(at, _)| self.base < *at && *at < self.at);
        let rows: Vec<_> = since.map(|(_, row)| row.as_ref()).chain([self.machine_at(self.base)]).collect();
        let group = chronicle.group_at(self.refusal.job, self.refusal.group, self.at - 1)?;
        let stays = |attribute: &String| {
            let same = |row: &v1::MachineChange| {
                row.id == now.id && row.attributes.get(attribute) == now.attributes.get(attribute)
            };
            rows.iter().all(|row| row.is_some_and(same))
        };
        let mut failing = group.constraints.iter().filter(|constraint| !holds(constraint, &now.attributes));
        let failed = failing.find(|constraint| stays(&constraint.attribute))?;
        Some(format!("its {} was at its base {} what it is", failed.attribute, self.base))
    }

    /// As many of its group as may be are on the machine, and none of them came since the base.
    fn nobody_came_there(&self) -> Option<String> {
        let limit = self.kinds.chronicle.group_at(self.refusal.job, self.refusal.group, self.at - 1)?.per_machine;
        let here: Vec<&Facts> =
            self.mates_at(self.at - 1).filter(|facts| facts.granted.machine == self.refusal.machine).collect();
        let is_reached = limit > 0 && here.len() >= limit as usize;
        // Of a machine that has as many allocations as one can have, any of them may be to blame.
        let of_all = self.kinds.chronicle.count_on(self.refusal.machine);
        let old = here.iter().all(|facts| facts.granted.created <= self.base) && of_all < ALLOCATIONS_FEW;
        (is_reached && old).then(|| format!("{} of its group were there at its base {}", here.len(), self.base))
    }

    /// None of its group came anywhere since the base, nor did any of their machines change.
    fn nobody_came(&self) -> Option<String> {
        if !self.is_alone() {
            return None;
        }
        let chronicle = self.kinds.chronicle;
        let mates: Vec<&Facts> = self.mates_at(self.at - 1).collect();
        let mut machines = mates.iter().map(|facts| facts.granted.machine).chain([self.refusal.machine]);
        let changed = |slot: u32| chronicle.has_changed(slot, self.base, self.at);
        let old = !mates.is_empty() && mates.iter().all(|facts| facts.granted.created <= self.base);
        let same = old && !machines.any(changed);
        same.then(|| format!("all {} of its group were where they are at its base {}", mates.len(), self.base))
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

    /// What its group declares of the kind that was short, and the machine at the base, where nothing else could have been in its way.
    fn devices_at_base(&self) -> Option<(Vec<&'a v1::Device>, &'a v1::MachineChange)> {
        let (slot, chronicle, kind) = (self.refusal.machine, self.kinds.chronicle, &self.refusal.device);
        let is_same =
            !chronicle.has_changed(slot, self.base, self.at) && !chronicle.was_strange(slot, self.base, self.at - 1);
        let group = self.group().filter(|_| is_same && self.is_alone())?;
        let declared: Vec<&v1::Device> = group.devices.iter().filter(|device| device.kind == *kind).collect();
        Some((declared, self.machine_at(self.base)?))
    }

    /// Who was on the machine at the base.
    fn tenants_at_base(&self) -> impl Iterator<Item = &'a Facts> {
        let (chronicle, base) = (self.kinds.chronicle, self.base);
        let here = chronicle.granted_on(self.refusal.machine, 0, base + 1);
        here.filter(move |facts| is_there(facts, base))
    }

    /// Of the kind that was short nobody had anything of as many devices as the group declares: whoever chooses finds one for each.
    fn devices_were_free(&self) -> Option<String> {
        let kind = &self.refusal.device;
        let (declared, machine) = self.devices_at_base()?;
        let most = declared.iter().map(|device| device.millis).max()?;
        let used: Vec<u32> = self
            .tenants_at_base()
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

    /// For one that the group declares no device of that kind had enough left.
    fn devices_were_taken(&self) -> Option<String> {
        let kind = &self.refusal.device;
        let (declared, machine) = self.devices_at_base()?;
        let chronicle = self.kinds.chronicle;
        let left = |device: &v1::Device| {
            let sum = |devices: &[v1::Device]| -> i64 {
                let same = devices.iter().filter(|it| (&it.kind, it.index) == (&device.kind, device.index));
                same.map(|it| i64::from(it.millis)).sum()
            };
            let is_left = |entry: &&v1::TakeOver| {
                chronicle.allocations.get(&entry.victim).is_some_and(|victim| is_there(victim, self.base))
            };
            let taken = self.tenants_at_base().map(|facts| {
                let entries = facts.granted.take_overs.iter().filter(is_left);
                sum(&facts.granted.devices) - entries.map(|entry| sum(&entry.devices)).sum::<i64>()
            });
            i64::from(device.millis) - taken.sum::<i64>()
        };
        let suits = |want: &v1::Device, device: &v1::Device| {
            let model = want.model.is_empty() || want.model == device.model;
            device.kind == want.kind && model && left(device) >= i64::from(want.millis)
        };
        let lacking = declared.iter().find(|want| !machine.devices.iter().any(|device| suits(want, device)))?;
        Some(format!("no {kind} had {} millis left at its base {}", lacking.millis, self.base))
    }
}

/// Whether an allocation was there at a revision, leaving or not.
fn is_there(facts: &Facts, revision: u64) -> bool {
    facts.granted.created <= revision && facts.ended.is_none_or(|ended| ended > revision)
}

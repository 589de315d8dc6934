//! Refusals tell the truth: who took what, and whether it ever fitted.

use std::collections::{BTreeMap, BTreeSet};

use plenum_proto::v1;
use plenum_proto::v1::{RefusalKind, RefusalReason};

use super::Decided;
use super::blamed::Blamed;
use super::denied::denied_without_cause;
use super::kinds::Kinds;
use crate::amounts::Amounts;
use crate::chronicle::{Chronicle, Facts};
use crate::violation::{ClaimName, Violation};

/// Culprits that a refusal lists at most.
const LISTED_MAX: usize = 4;

/// Every conflict names who came between the base and the decision: real commands, which took that room on that machine and still had
/// it, and together as much as was short, or did what they are said to have done to that machine or that job. Nobody is named twice, and of room and a
/// certain port the newest are named. Beside them only a guard that failed may name somebody: a real command that came between, and did that to what it
/// guards. What was short of room or of a certain port was so at its base exactly where it is a misfit, as far as nothing else of the transaction blurs
/// that; other reasons, and *stale*, are judged as `kinds` says. What is refused for a quota, a right, a
/// partition or a mate has that in its way.
#[must_use]
pub fn property_culprits_are_true(chronicle: &Chronicle, decided: &[Decided<'_>]) -> Vec<Violation> {
    let mut violations = denied_without_cause(chronicle, decided);
    let (holders, kinds) = (holders(chronicle), Kinds::of(chronicle));
    for one in decided.iter().filter(|one| one.outcome.revision > 0) {
        let earlier = claimed_before(one, |job, group| need(chronicle, one, job, group));
        for (refusal, earlier) in one.outcome.refusals.iter().zip(earlier) {
            let judge = Judge { chronicle, holders: &holders, one, refusal, earlier };
            judge.judge(&mut violations);
            violations.extend(kinds.contradiction(one, refusal).map(|what| judge.wrong_kind(what)));
        }
    }
    violations
}

/// By machine and port, who had it.
type Holders<'a> = BTreeMap<(u32, u32), Vec<&'a Facts>>;

fn holders(chronicle: &Chronicle) -> Holders<'_> {
    let mut holders = Holders::new();
    for facts in chronicle.allocations.values() {
        for port in &facts.granted.ports {
            holders.entry((facts.granted.machine, port.number)).or_default().push(facts);
        }
    }
    holders
}

struct Judge<'a> {
    chronicle: &'a Chronicle,
    holders: &'a Holders<'a>,
    one: &'a Decided<'a>,
    refusal: &'a v1::Refusal,
    /// What all claims before it on that machine asked for: at most so much was promised to them.
    earlier: Amounts,
}

impl Judge<'_> {
    fn name(&self) -> ClaimName {
        let outcome = self.one.outcome;
        let (session, number) = (outcome.session, outcome.number);
        ClaimName { session, number, placement: self.refusal.placement, claim: self.refusal.claim }
    }

    fn wrong_kind(&self, what: impl Into<String>) -> Violation {
        Violation::WrongKind { claim: self.name(), kind: self.refusal.kind(), what: what.into() }
    }

    fn judge(&self, violations: &mut Vec<Violation>) {
        let (refusal, base, at) = (self.refusal, self.one.asked.base_revision, self.one.outcome.revision);
        match refusal.kind() {
            RefusalKind::Conflict => {
                if refusal.culprits.is_empty() {
                    violations.push(self.wrong_kind("it names nobody"));
                }
                violations.extend(refusal.culprits.iter().filter_map(|culprit| self.false_culprit(culprit)));
                if let Some(short_by) = self.short_by() {
                    violations.extend(self.wrong_sums(short_by));
                }
                violations.extend(self.left_out().or_else(|| self.beyond_all()));
            }
            RefusalKind::Guard => violations.extend(refusal.culprits.iter().filter_map(|one| self.false_culprit(one))),
            RefusalKind::Unspecified => violations.push(self.wrong_kind("there is no such kind")),
            _ if !refusal.culprits.is_empty() => violations.push(self.wrong_kind("it names culprits")),
            _ => {}
        }
        if refusal.reason() == RefusalReason::NoRoom && self.chronicle.has_all(base, at) {
            violations.extend(self.wrong_room());
        }
        if refusal.reason() == RefusalReason::PortTaken && self.chronicle.has_all(base, at) {
            violations.extend(self.wrong_port());
        }
    }

    fn false_culprit(&self, culprit: &v1::Culprit) -> Option<Violation> {
        let (base, at) = (self.one.asked.base_revision, self.one.outcome.revision);
        let found = |what: String| {
            let (session, number) = (culprit.session, culprit.number);
            let culprit = culprit.revision;
            Some(Violation::FalseCulprit { claim: self.name(), culprit, session, number, what })
        };
        if culprit.revision <= base || culprit.revision >= at {
            return found(format!("it lies not between the base {base} and the decision {at}"));
        }
        if !self.chronicle.has_delta(culprit.revision) {
            return None;
        }
        if culprit.session == 0 {
            return self.false_event(culprit).and_then(found);
        }
        let decided = self.chronicle.numbers.get(&(culprit.session, culprit.number));
        if decided.is_none_or(|revisions| !revisions.contains(&culprit.revision)) {
            return found("that transaction was not decided there".into());
        }
        let machines = self.machines();
        let blamed = self.blamed(&machines);
        if culprit.allocation == 0 {
            return blamed.wrong_transaction(culprit).and_then(found);
        }
        let Some(facts) = self.chronicle.allocations.get(&culprit.allocation) else {
            return found(format!("allocation {:#x} never was", culprit.allocation));
        };
        if facts.granted.created != culprit.revision {
            return found(format!("allocation {:#x} was granted at {}", culprit.allocation, facts.granted.created));
        }
        if let Some(what) = blamed.wrong_grant(facts) {
            return found(what);
        }
        if let Some(amount) = self.amount_of(facts) {
            if culprit.amount <= 0 || i128::from(culprit.amount) > amount {
                return found(format!("it is charged with {} of the {amount} that it got", culprit.amount));
            }
            if facts.ended.is_some_and(|ended| ended < at) && self.chronicle.has_all(culprit.revision, at) {
                return found(format!("allocation {:#x} ended at {:?}", culprit.allocation, facts.ended));
            }
        }
        None
    }

    /// What was short, where somebody took it: room, a device, or a port, which counts as 1.
    fn short_by(&self) -> Option<i64> {
        match self.refusal.reason() {
            RefusalReason::NoRoom => Some(self.refusal.short_by),
            RefusalReason::DeviceTaken => Some(self.refusal.device_short_by_millis),
            RefusalReason::PortTaken => Some(1),
            _ => None,
        }
    }

    /// How much an allocation got of what was short. Port 0 stands for any: none was left.
    fn amount_of(&self, facts: &Facts) -> Option<i128> {
        let (refusal, granted) = (self.refusal, &facts.granted);
        let devices = granted.devices.iter().filter(|device| device.kind == refusal.device);
        let mut ports = granted.ports.iter();
        match refusal.reason() {
            RefusalReason::NoRoom => Some(facts.amounts.get(refusal.resource())),
            RefusalReason::DeviceTaken => Some(devices.map(|device| i128::from(device.millis)).sum()),
            RefusalReason::PortTaken => Some(ports.any(|port| refusal.port == 0 || port.number == refusal.port).into()),
            _ => None,
        }
    }

    /// The machine that was refused, and the spare ones that were tried.
    fn machines(&self) -> Vec<u32> {
        let placement = self.one.asked.placements.get(self.refusal.placement as usize);
        let alternates = placement.map(|placement| placement.alternates.as_slice()).unwrap_or_default();
        alternates.iter().copied().chain([self.refusal.machine]).collect()
    }

    fn blamed<'b>(&'b self, machines: &'b [u32]) -> Blamed<'b> {
        Blamed { chronicle: self.chronicle, one: self.one, refusal: self.refusal, machines }
    }

    /// What is wrong with an event that is named: it must have happened then, to that machine, or to a hold, an unknown task or a successor
    /// there; or, where the machine is not what stood in the way, to the job, or to what is guarded.
    fn false_event(&self, culprit: &v1::Culprit) -> Option<String> {
        if culprit.event.is_empty() {
            return Some("it names neither a transaction nor an event".into());
        }
        if self.refusal.reason() == RefusalReason::NoRoom && culprit.amount <= 0 {
            return Some(format!("it is charged with {}", culprit.amount));
        }
        let (chronicle, revision) = (self.chronicle, culprit.revision);
        let at = self.one.outcome.revision;
        let is_over = |machine: &u32| match &*culprit.event {
            "hold" => !chronicle.was_held(*machine, at - 1, at - 1),
            "unknown task" => !chronicle.was_strange(*machine, at - 1, at - 1),
            _ => false,
        };
        let machines = self.machines();
        let of_room = self.refusal.reason() == RefusalReason::NoRoom && chronicle.has_all(revision, at);
        if of_room && machines.iter().all(is_over) {
            return Some(format!("nothing is there any more that is called {}", culprit.event));
        }
        if self.blamed(&machines).is_no_event(culprit) {
            return Some(format!("nothing happened there that is called {}", culprit.event));
        }
        self.overcharged(culprit)
    }

    /// Of room, what a change of the machine itself is charged with beyond what the machine lost by it.
    fn overcharged(&self, culprit: &v1::Culprit) -> Option<String> {
        let is_of_others = matches!(&*culprit.event, "hold" | "unknown task");
        if self.refusal.reason() != RefusalReason::NoRoom || is_of_others {
            return None;
        }
        let capacity = |at: u64| {
            let row = self.chronicle.machine_at(self.refusal.machine, at);
            Amounts::of_optional(row.and_then(|row| row.capacity.as_ref())).get(self.refusal.resource())
        };
        let lost = capacity(culprit.revision - 1) - capacity(culprit.revision);
        let charged = culprit.amount;
        (i128::from(charged) > lost).then(|| format!("it is charged with {charged}, and the machine lost {lost}"))
    }

    /// Whether an allocation was there still when it was decided, with some of what was short.
    fn has_some(&self, facts: &Facts) -> bool {
        let is_there = facts.ended.is_none_or(|ended| ended >= self.one.outcome.revision);
        is_there && self.amount_of(facts).is_some_and(|amount| amount > 0)
    }

    /// Whom it names twice; or leaves out, who has some of it and came later than the last one that is named. Of devices nobody is missed: they may be of
    /// a model that would not have done.
    fn left_out(&self) -> Option<Violation> {
        let (refusal, at) = (self.refusal, self.one.outcome.revision);
        let mut named = BTreeSet::new();
        let mut ids = refusal.culprits.iter().map(|culprit| culprit.allocation).filter(|&id| id > 0);
        if let Some(twice) = ids.find(|&id| !named.insert(id)) {
            return Some(self.wrong_kind(format!("{twice:#x} is named twice")));
        }
        let of_a_port = refusal.reason() == RefusalReason::PortTaken && refusal.port > 0;
        let of_one_kind = of_a_port || refusal.reason() == RefusalReason::NoRoom;
        let last = refusal.culprits.last().filter(|_| of_one_kind)?.revision;
        if !self.chronicle.has_all(self.one.asked.base_revision, at) {
            return None;
        }
        let mut later = self.chronicle.granted_on(refusal.machine, last + 1, at);
        let missing = later.find(|facts| self.has_some(facts) && !named.contains(&facts.granted.id))?;
        let (id, then) = (missing.granted.id, missing.granted.created);
        Some(self.wrong_kind(format!("{id:#x}, which came at {then}, is left out")))
    }

    /// Of those who are not listed the total alone tells. Where nothing but grants can have taken room since the base, it is no more than all of these
    /// have.
    fn beyond_all(&self) -> Option<Violation> {
        let (chronicle, refusal) = (self.chronicle, self.refusal);
        let (slot, base, at) = (refusal.machine, self.one.asked.base_revision, self.one.outcome.revision);
        if refusal.reason() != RefusalReason::NoRoom || !chronicle.has_all(base, at) {
            return None;
        }
        let total = i128::from(refusal.culprits_total);
        let since = chronicle.granted_on(slot, base + 1, at).filter(|facts| self.has_some(facts));
        let all: i128 = since.filter_map(|facts| self.amount_of(facts)).sum();
        if total <= all || chronicle.has_changed(slot, base, at) || chronicle.was_held(slot, base, at - 1) {
            return None;
        }
        Some(self.wrong_kind(format!("its culprits took {total}, and all who came since have {all}")))
    }

    fn wrong_sums(&self, short_by: i64) -> Option<Violation> {
        let refusal = self.refusal;
        if refusal.culprits_total < short_by {
            let total = refusal.culprits_total;
            return Some(Violation::CulpritsTooSmall { claim: self.name(), short_by, total });
        }
        let listed: i128 = refusal.culprits.iter().map(|culprit| i128::from(culprit.amount)).sum();
        let total = i128::from(refusal.culprits_total);
        let complete = refusal.culprits.len() < LISTED_MAX;
        if listed > total || (complete && listed != total) || refusal.culprits.len() > LISTED_MAX {
            return Some(self.wrong_kind(format!("its culprits took {listed}, and the total is {total}")));
        }
        let ordered = refusal.culprits.is_sorted_by(|left, right| left.revision >= right.revision);
        (!ordered).then(|| self.wrong_kind("its culprits are not newest first"))
    }

    /// Whether what was short, and what fitted at the base, can be true.
    fn wrong_room(&self) -> Option<Violation> {
        let (refusal, base, at) = (self.refusal, self.one.asked.base_revision, self.one.outcome.revision);
        // Holds of others, victims and spare machines, also those of earlier placements, shift what is free for a claim: there the
        // bounds say nothing.
        if self.one.asked.placements.iter().any(shifts) || self.chronicle.was_held(refusal.machine, base, at - 1) {
            return None;
        }
        let need = need(self.chronicle, self.one, refusal.job, refusal.group)?;
        let resource = refusal.resource();
        let before = self.chronicle.free_at(refusal.machine, at - 1);
        let earlier = self.earlier;
        let room = need.get(resource) - i128::from(refusal.short_by);
        if refusal.short_by <= 0 || room > before.get(resource) || room < before.get(resource) - earlier.get(resource) {
            let free = before.get(resource);
            return Some(self.wrong_kind(format!("it is short by {}, and {free} were free", refusal.short_by)));
        }
        let at_base = self.chronicle.free_at(refusal.machine, base);
        let mut worst = at_base;
        worst.take(&earlier);
        match refusal.kind() {
            RefusalKind::Conflict if !need.fits_in(&at_base) => {
                Some(self.wrong_kind(format!("it needs {need}, and {at_base} were free at its base {base}")))
            }
            RefusalKind::Misfit if need.fits_in(&worst) => {
                Some(self.wrong_kind(format!("it needs {need}, and {worst} were free at its base {base}")))
            }
            _ => None,
        }
    }

    /// Whether it can be true that a port was free at the base, or was not. Of tasks that nobody knows, and of machines that changed, a cell need
    /// not know it; and an earlier claim of the same transaction may have been promised the port.
    fn wrong_port(&self) -> Option<Violation> {
        let (refusal, asked, chronicle) = (self.refusal, self.one.asked, self.chronicle);
        let (slot, port, base, at) = (refusal.machine, refusal.port, asked.base_revision, self.one.outcome.revision);
        let claims = asked.placements.iter().flat_map(|placement| &placement.machines);
        let alone = claims.filter(|&&machine| machine == slot).count() == 1;
        let plain = asked.stops.is_empty() && !asked.placements.iter().any(shifts);
        let certain = port > 0 && !chronicle.has_changed(slot, base, at) && !chronicle.was_strange(slot, base, at - 1);
        if !(alone && plain && certain) {
            return None;
        }
        let had_it = |facts: &&&Facts| facts.granted.created <= base && facts.ended.is_none_or(|ended| ended > base);
        let holder = self.holders.get(&(slot, port)).into_iter().flatten().find(had_it);
        match (refusal.kind(), holder) {
            (RefusalKind::Conflict, Some(facts)) => {
                let id = facts.granted.id;
                Some(self.wrong_kind(format!("allocation {id:#x} had port {port} at its base {base}")))
            }
            (RefusalKind::Misfit, None) => Some(self.wrong_kind(format!("nobody had port {port} at its base {base}"))),
            _ => None,
        }
    }
}

/// Whether a placement asks for the room of others, or for other machines.
pub(super) fn shifts(asked: &v1::Placement) -> bool {
    !(asked.preemptions.is_empty() && asked.alternates.is_empty() && asked.extras.is_empty())
}

fn need(chronicle: &Chronicle, one: &Decided<'_>, job: u64, group: u32) -> Option<Amounts> {
    chronicle.group_at(job, group, one.outcome.revision - 1)?.resources.as_ref().map(Amounts::of)
}

/// For each refusal for want of room, what the claims before it on its machine asked for, given what a claim of a group of a job does. All claims
/// are walked once, however many were refused: a transaction may have very many of both.
fn claimed_before(one: &Decided<'_>, mut need: impl FnMut(u64, u32) -> Option<Amounts>) -> Vec<Amounts> {
    let refusals = &one.outcome.refusals;
    let place = |at: usize| (refusals[at].placement, refusals[at].claim);
    let mut due: Vec<usize> =
        (0..refusals.len()).filter(|&at| refusals[at].reason() == RefusalReason::NoRoom).collect();
    due.sort_unstable_by_key(|&at| place(at));
    let mut due = due.into_iter().peekable();
    let (mut sums, mut on) = (vec![Amounts::default(); refusals.len()], BTreeMap::<u32, Amounts>::new());
    let sum_on = |on: &BTreeMap<u32, Amounts>, at: usize| on.get(&refusals[at].machine).copied().unwrap_or_default();
    for (number, placement) in (0..).zip(&one.asked.placements) {
        if due.peek().is_none() {
            break;
        }
        let need = need(placement.job, placement.group).unwrap_or_default();
        for (claim, &machine) in (0..).zip(&placement.machines) {
            while let Some(at) = due.next_if(|&at| place(at) <= (number, claim)) {
                sums[at] = sum_on(&on, at);
            }
            on.entry(machine).or_default().add(&need);
        }
    }
    due.for_each(|at| sums[at] = sum_on(&on, at));
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    // For each refusal all claims before it were walked, which took minutes.
    #[test]
    fn the_claims_of_a_transaction_are_walked_once_however_many_were_refused() {
        const CLAIMS: u32 = 1000;
        let placement = v1::Placement { machines: vec![3], ..v1::Placement::default() };
        let refusal = |placement: u32| v1::Refusal {
            placement,
            machine: 3,
            reason: RefusalReason::NoRoom.into(),
            ..v1::Refusal::default()
        };
        let asked = v1::Transaction { placements: vec![placement; CLAIMS as usize], ..v1::Transaction::default() };
        let outcome = v1::Outcome { refusals: (0..CLAIMS).rev().map(refusal).collect(), ..v1::Outcome::default() };
        let mut walked = 0;
        let sums = claimed_before(&Decided { asked: &asked, outcome: &outcome, told_by: "a client" }, |_, _| {
            walked += 1;
            Some(Amounts::of(&v1::Resources { cpu_millis: 1, ..v1::Resources::default() }))
        });
        let expected = |placement: u32| {
            Amounts::of(&v1::Resources { cpu_millis: i64::from(placement), ..v1::Resources::default() })
        };
        assert!(sums.into_iter().eq((0..CLAIMS).rev().map(expected)));
        assert_eq!(walked, CLAIMS);
    }
}

//! Refusals for what blames nobody and can't be seen on a machine: a quota, a right, a partition, a minimum that was missed. Whoever would hide a lost
//! race could name any of them, so what is named must be there at the decision.

use std::collections::BTreeMap;

use plenum_proto::v1::{self, RefusalKind, RefusalReason};

use super::Decided;
use super::rules::{closing_partition, limits, may_evict, namespace_of, used_by};
use crate::amounts::{Amounts, NAMES};
use crate::chronicle::{Chronicle, Visitor};
use crate::picture::Picture;
use crate::violation::{ClaimName, Violation};

/// Refusals that name what is not there.
pub(super) fn denied_without_cause(chronicle: &Chronicle, decided: &[Decided<'_>]) -> Vec<Violation> {
    let mut check = Denied { decided: BTreeMap::new(), violations: Vec::new() };
    for one in decided.iter().filter(|one| one.outcome.refusals.iter().any(is_looked_at)) {
        check.decided.entry(one.outcome.revision).or_default().push(*one);
    }
    if !check.decided.is_empty() {
        chronicle.walk(&mut check);
    }
    check.violations
}

fn is_looked_at(refusal: &v1::Refusal) -> bool {
    matches!(refusal.kind(), RefusalKind::Quota | RefusalKind::Permission | RefusalKind::Mate)
}

struct Denied<'a> {
    /// By revision, each as whoever told of it has it.
    decided: BTreeMap<u64, Vec<Decided<'a>>>,
    violations: Vec<Violation>,
}

impl Visitor for Denied<'_> {
    fn before(&mut self, picture: &Picture, delta: &v1::Delta) {
        for one in self.decided.get(&delta.revision).into_iter().flatten() {
            for refusal in one.outcome.refusals.iter().filter(|refusal| is_looked_at(refusal)) {
                let without = match refusal.kind() {
                    RefusalKind::Quota => Namespace::of(picture, refusal.job).and_then(|it| it.has_room(one, refusal)),
                    RefusalKind::Permission => was_permitted(picture, one, refusal),
                    _ => missed_no_minimum(picture, one, refusal),
                };
                let Some(what) = without else { continue };
                let (session, number) = (one.outcome.session, one.outcome.number);
                let claim = ClaimName { session, number, placement: refusal.placement, claim: refusal.claim };
                self.violations.push(Violation::WrongKind { claim, kind: refusal.kind(), what });
            }
        }
    }
}

/// A namespace before a decision.
struct Namespace<'a> {
    picture: &'a Picture,
    name: String,
}

impl<'a> Namespace<'a> {
    fn of(picture: &'a Picture, job: u64) -> Option<Self> {
        Some(Self { picture, name: namespace_of(picture, job)? })
    }

    /// That its quota has room for all that the transaction asks for. What is given back by stops, victims and holds only makes it more.
    fn has_room(&self, one: &Decided<'_>, refusal: &v1::Refusal) -> Option<String> {
        let resource = refusal.resource();
        let limit = self.picture.quotas.get(&self.name).and_then(|row| row.limit.as_ref());
        let limit = limit.and_then(|quota| {
            let mut limits = limits(quota).into_iter().zip(NAMES);
            limits.find(|(_, name)| *name == resource).and_then(|(limit, _)| limit)
        });
        let Some(limit) = limit else { return Some(format!("{} has no limit of {resource:?}", self.name)) };
        let mut most = used_by(self.picture, &self.name);
        for placement in &one.asked.placements {
            if namespace_of(self.picture, placement.job).as_ref() == Some(&self.name) {
                let group = self.picture.group_of(placement.job, placement.group);
                let each = Amounts::of_optional(group.and_then(|group| group.resources.as_ref()));
                placement.machines.iter().for_each(|_| most.add(&each));
            }
        }
        let most = most.get(resource);
        (most <= limit).then(|| format!("{} would use {most} of {resource:?} at most, and may use {limit}", self.name))
    }
}

/// That its scheduler might have it: nothing that operators set keeps it from the job, the machine, or whom it wanted to evict.
fn was_permitted(picture: &Picture, one: &Decided<'_>, refusal: &v1::Refusal) -> Option<String> {
    let session = picture.sessions.get(&one.outcome.session)?;
    let shape = picture.jobs.get(&refusal.job)?.shape.as_ref()?;
    match refusal.reason() {
        RefusalReason::OtherScheduler => {
            let is_own = shape.scheduler == session.opened.scheduler;
            is_own.then(|| format!("{} places that job", shape.scheduler))
        }
        RefusalReason::NotPermitted => {
            let machine = picture.machines.get(&refusal.machine)?;
            let closed = closing_partition(picture.partitions.values(), machine, &shape.scheduler);
            closed.is_none().then(|| format!("no partition keeps {} from {}", shape.scheduler, machine.name))
        }
        RefusalReason::MayNotEvict => {
            let placement = one.asked.placements.get(refusal.placement as usize)?;
            let names_any = placement.preemptions.iter().any(|it| it.machine == refusal.machine);
            if !names_any {
                return Some("it names nobody there to evict".to_owned());
            }
            may_evict(picture, refusal.job).then(|| format!("{} may evict", shape.scheduler))
        }
        _ => Some("that is no matter of permission".to_owned()),
    }
}

/// That nothing of its placement's was missed: others of it were granted, or neither the placement nor its group has a minimum.
fn missed_no_minimum(picture: &Picture, one: &Decided<'_>, refusal: &v1::Refusal) -> Option<String> {
    let placement = one.asked.placements.get(refusal.placement as usize)?;
    let answer = one.outcome.placements.get(refusal.placement as usize)?;
    if answer.allocations.iter().any(|&id| id > 0) {
        return Some("others of its placement were granted".to_owned());
    }
    let declared = picture.group_of(placement.job, placement.group).map_or(0, |group| group.min);
    // With `atomic` it may be that of another placement.
    let has_none = !one.asked.atomic && placement.min == 0 && declared == 0;
    has_none.then(|| "there is no minimum that could be missed".to_owned())
}

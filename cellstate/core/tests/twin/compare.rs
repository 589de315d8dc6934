//! Whether the core says what the twin says, and is where the twin is.

use std::collections::BTreeMap;

use plenum_model::{
    Cell, Culprit, Outcome, Refusal, RefusalKind, RefusalReason, Resource, TaskState, Transaction, TransactionOutcome,
};

use crate::hindsight::Blamed;
use crate::picture::{Allocation, Group, Picture, Task};
use crate::twin::Twin;
use crate::verdict::{Refused, Verdict};

/// The outcome that the core gave must be the one that the twin has worked out.
#[track_caller]
pub(crate) fn assert_outcome(twin: &Twin, txn: &Transaction, outcome: &Outcome, verdict: &Verdict) {
    let granted = |(number, claims): (u32, &Vec<Option<_>>)| -> Vec<(u32, u32)> {
        (0..).zip(claims).filter(|(_, claim)| claim.is_some()).map(|(claim, _)| (number, claim)).collect()
    };
    let granted: Vec<_> = (0..).zip(&outcome.placements).flat_map(granted).collect();
    let mut expected = verdict.refused.clone();
    for (expected, found) in expected.iter_mut().zip(&outcome.refusals) {
        if expected.may_be_conflict && found.kind == RefusalKind::Conflict {
            (expected.kind, expected.culprits) = (RefusalKind::Conflict, None);
        }
        if expected.may_be_stale && found.kind == RefusalKind::Stale {
            (expected.kind, expected.culprits, expected.total) = (RefusalKind::Stale, Some(Vec::new()), 0);
        }
        (expected.may_be_conflict, expected.may_be_stale) = (false, false);
    }
    let mut refused: Vec<Refused> = outcome.refusals.iter().map(told).collect();
    for (found, _) in refused.iter_mut().zip(&expected).filter(|(_, expected)| expected.culprits.is_none()) {
        found.culprits = None;
    }
    assert_eq!(refused, expected, "refusals of {txn:?}\nby the core {:?}", outcome.refusals);
    assert_eq!(granted, verdict.granted.iter().copied().collect::<Vec<_>>(), "grants of {txn:?}");
    assert_eq!(outcome.idle_stops, verdict.idle_stops, "idle stops of {txn:?}");
    assert_eq!(outcome.divergences, twin.divergences(txn, &refused), "divergences of {txn:?}, with {refused:?}");
    assert_eq!(outcome.outcome, expected_outcome(txn, verdict), "outcome of {txn:?}");
    assert_eq!(outcome.time, twin.now);
    assert_eq!(outcome.revision.0, if txn.dry_run { twin.live.revision } else { twin.next() });
    for refusal in outcome.refusals.iter().filter(|refusal| refusal.kind == RefusalKind::Conflict) {
        let own = refusal
            .culprits
            .iter()
            .filter(|culprit| culprit.transaction.is_some_and(|transaction| transaction.session == txn.id.session));
        let changed = refusal.reason == RefusalReason::MachineChanged;
        assert!(!changed || own.count() == 0, "own commits don't count: {refusal:#?}");
    }
}

/// What a refusal of the core says.
fn told(refusal: &Refusal) -> Refused {
    let blamed = |culprit: &Culprit| Blamed {
        revision: culprit.revision.0,
        grant: culprit.allocation.zip(culprit.transaction),
        amount: culprit.amount,
    };
    Refused {
        claim: refusal.claim,
        kind: refusal.kind,
        may_be_conflict: false,
        may_be_stale: false,
        reason: refusal.reason,
        short: refusal.short,
        not_wanted: refusal.not_wanted,
        culprits: Some(refusal.culprits.iter().map(blamed).collect()),
        total: refusal.culprits_total,
    }
}

fn expected_outcome(txn: &Transaction, verdict: &Verdict) -> TransactionOutcome {
    let effect = !verdict.granted.is_empty() || !verdict.stops.is_empty();
    let asked = txn.claims() + txn.stops.len() > 0;
    if verdict.refused.is_empty() {
        TransactionOutcome::Committed
    } else if verdict.nothing || (asked && !effect) {
        TransactionOutcome::Refused
    } else {
        TransactionOutcome::Partial
    }
}

/// The core's cell must show what the twin's picture shows.
#[track_caller]
pub(crate) fn assert_same(twin: &Picture, cell: &Cell) {
    assert_eq!((cell.revision().0, cell.time(), cell.identity()), (twin.revision, twin.time, &twin.identity));
    let machines: BTreeMap<_, _> = cell.machines().map(|machine| (machine.id.slot, machine.clone())).collect();
    assert_eq!(machines, twin.machines, "machines");
    for &slot in twin.machines.keys() {
        let free = |room: plenum_model::Room| Resource::ALL.map(|resource| room.get(resource));
        assert_eq!(free(cell.room(slot)), free(twin.room(slot)), "room of machine {slot}");
    }
    let allocations: BTreeMap<_, _> = cell.allocations().map(|found| (found.id, seen(cell, &found))).collect();
    let expected: BTreeMap<_, _> =
        twin.allocations.iter().map(|(&id, found)| (id, Allocation { order: 0, ..found.clone() })).collect();
    assert_eq!(allocations, expected, "allocations");
    let jobs: Vec<_> = cell.jobs().map(|job| job.id).collect();
    let mut sorted = jobs.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, twin.jobs.keys().copied().collect::<Vec<_>>(), "jobs");
    for (id, expected) in &twin.jobs {
        let job = cell.job(*id).unwrap();
        assert_eq!((job.version, &job.shape, job.home), (expected.version, &expected.shape, expected.home), "{id}");
        assert_eq!((job.state, job.state_since), (expected.state, expected.since), "{id}");
        let groups = u16::try_from(job.shape.groups.len()).unwrap();
        let groups: Vec<_> = (0..groups).map(|group| group_of(cell, job, group)).collect();
        assert_eq!(groups, expected.groups, "groups of {id}");
    }
    let sessions: BTreeMap<_, _> = cell.sessions().map(|session| (session.id, session.clone())).collect();
    assert_eq!(sessions.len(), twin.sessions.len(), "sessions");
    for (id, expected) in &twin.sessions {
        let session = &sessions[id];
        let decided: Vec<_> = session.decided.iter().map(|one| (one.number, one.revision.0, one.digest)).collect();
        assert_eq!((&session.scheduler, &decided), (&expected.scheduler, &expected.decided), "session {id:?}");
    }
}

fn seen(cell: &Cell, found: &plenum_model::AllocationRef<'_>) -> Allocation {
    Allocation {
        job: found.row.job(),
        group: found.row.group,
        task: found.row.task,
        machine: found.row.machine,
        epoch: found.row.epoch,
        state: found.status.state,
        ready: found.status.ready,
        restarts: found.extra.map_or(0, |extra| extra.restarts),
        attempt: found.row.attempt,
        created: found.row.created.0,
        session: plenum_model::SessionId(found.row.session),
        number: found.row.number.into(),
        resources: cell.resources_of(found.row),
        order: 0,
    }
}

fn group_of(cell: &Cell, job: &plenum_model::Job, group: u16) -> Group {
    let row = cell.group(job, group).unwrap();
    let tasks = (0..row.count).map(|task| {
        let task = cell.task(row, task).unwrap();
        assert_eq!(task.state == TaskState::Live, task.allocation > 0);
        Task { state: task.state, failures: task.failures, attempts: task.attempts }
    });
    Group { not_before: row.not_before, tasks: tasks.collect() }
}

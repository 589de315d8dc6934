//! Dry runs: they change nothing, and nobody remembers them.

use std::collections::BTreeMap;

use super::Evidence;
use crate::calls::{Asked, Call};
use crate::chronicle::Chronicle;
use crate::violation::Violation;

/// A dry run is in no history, and uses no number up: nobody had decided one that was asked for in a dry run before anybody asked for it in earnest. Who
/// logs a dry run logs all that it asks in that session.
#[must_use]
pub fn property_dry_runs_change_nothing(chronicle: &Chronicle, evidence: &Evidence) -> Vec<Violation> {
    let known = known_since(chronicle, evidence);
    let too_early = asked(chronicle, evidence).into_iter().filter_map(|(name, asked)| {
        let revision = *chronicle.numbers.get(&name).filter(|_| asked.dry)?.first()?;
        // Of the replies that tell of this revision or of a later one, the first.
        let known = known.range(revision..).next().map(|(_, nanos)| *nanos);
        let is_early = asked.earnest.is_none_or(|called| known.is_some_and(|known| known < called));
        is_early.then_some((name, revision, "was decided"))
    });
    let listed = evidence.transactions.iter().filter_map(|view| {
        let asked = view.transaction.as_ref().filter(|it| it.dry_run && it.incarnation == chronicle.incarnation)?;
        let revision = view.outcome.as_ref().map_or(0, |outcome| outcome.revision);
        Some(((asked.session, asked.number), revision, "is listed"))
    });
    let violations = too_early.chain(listed).map(|((session, number), revision, what)| {
        let what = format!("it was to be a dry run, and {what}");
        Violation::NotAsAsked { session, number, revision, what }
    });
    violations.collect()
}

/// How a number of a session was asked for.
#[derive(Default)]
struct AskedFor {
    dry: bool,
    /// When it was first asked for in earnest.
    earnest: Option<u64>,
}

fn asked(chronicle: &Chronicle, evidence: &Evidence) -> BTreeMap<(u64, u64), AskedFor> {
    let mut all: BTreeMap<(u64, u64), AskedFor> = BTreeMap::new();
    for (call, asked) in transactions(chronicle, evidence) {
        let number = all.entry((asked.session, asked.number)).or_default();
        if asked.dry_run {
            number.dry = true;
        } else {
            number.earnest = Some(number.earnest.map_or(call.called_nanos, |first| first.min(call.called_nanos)));
        }
    }
    all
}

/// From when on somebody knew that the cell had come to a revision, or further.
fn known_since(chronicle: &Chronicle, evidence: &Evidence) -> BTreeMap<u64, u64> {
    let mut known: BTreeMap<u64, u64> = BTreeMap::new();
    for (call, _) in transactions(chronicle, evidence) {
        if let (Some(revision), Some(nanos)) = (call.revision(), call.replied_nanos) {
            let first = known.entry(revision).or_insert(nanos);
            *first = nanos.min(*first);
        }
    }
    let mut earliest = u64::MAX;
    for nanos in known.values_mut().rev() {
        earliest = earliest.min(*nanos);
        *nanos = earliest;
    }
    known
}

fn transactions<'a>(
    chronicle: &'a Chronicle,
    evidence: &'a Evidence,
) -> impl Iterator<Item = (&'a Call, &'a plenum_proto::v1::Transaction)> {
    let all = evidence.calls.iter().filter_map(|call| match &call.asked {
        Asked::Transaction(asked) => Some((call, &**asked)),
        Asked::Write(_) | Asked::Read(_) => None,
    });
    all.filter(|(_, asked)| asked.incarnation == chronicle.incarnation)
}

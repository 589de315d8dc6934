//! Real time: what was acknowledged before something else was asked, was decided before it.

use std::collections::{BTreeMap, BTreeSet};

use crate::calls::{Asked, Call};
use crate::chronicle::Chronicle;
use crate::violation::Violation;

/// If the reply to x came before y was asked, then the revision of x is below that of a transaction y, which has one of its own, and no
/// higher than any other: whoever reads, or asks for what is so already, is told where the cell is.
///
/// A restored cell begins with the revision of its backup: where calls or watchers tell of several incarnations, each has an order of its own, and only
/// its transactions count, as of other calls nobody knows which one they reached.
#[must_use]
pub fn property_real_time_order_holds(calls: &[Call], watched: &[Chronicle]) -> Vec<Violation> {
    let watched = watched.iter().map(|chronicle| chronicle.incarnation);
    let incarnations: BTreeSet<u64> = calls.iter().filter_map(incarnation_of).chain(watched).collect();
    if incarnations.len() < 2 {
        return out_of_order(calls.iter());
    }
    let of = |incarnation| calls.iter().filter(move |call| incarnation_of(call) == Some(incarnation));
    incarnations.into_iter().flat_map(|incarnation| out_of_order(of(incarnation))).collect()
}

fn incarnation_of(call: &Call) -> Option<u64> {
    match &call.asked {
        Asked::Transaction(asked) => Some(asked.incarnation),
        _ => None,
    }
}

/// Calls of one incarnation that were decided before what was acknowledged when they were made.
fn out_of_order<'a>(calls: impl Iterator<Item = &'a Call>) -> Vec<Violation> {
    // A number may be asked for many times: it was decided between its first call and its first reply.
    let mut spans: BTreeMap<Key, Span<'_>> = BTreeMap::new();
    for (position, call) in calls.enumerate() {
        let Some(revision) = call.revision() else {
            if let Asked::Transaction(asked) = &call.asked {
                let key = Key::Number(asked.incarnation, asked.session, asked.number);
                let span = spans.entry(key).or_insert_with(|| Span::of(call));
                span.called = span.called.min(call.called_nanos);
            }
            continue;
        };
        let key = match &call.asked {
            Asked::Transaction(asked) if !asked.dry_run => Key::Number(asked.incarnation, asked.session, asked.number),
            _ => Key::Other(position),
        };
        let span = spans.entry(key).or_insert_with(|| Span::of(call));
        span.called = span.called.min(call.called_nanos);
        span.replied = span.replied.min(call.replied_nanos.unwrap_or(u64::MAX));
        span.revision = Some(revision);
        // A log does not tell whether a write changed anything.
        span.is_own = matches!(&call.asked, Asked::Transaction(asked) if !asked.dry_run);
        span.client = &call.client;
    }
    let spans: Vec<Span<'_>> = spans.into_values().filter(|span| span.revision.is_some()).collect();
    let mut replies: Vec<(u64, u64)> = spans.iter().filter_map(|span| Some((span.replied, span.revision?))).collect();
    replies.sort_unstable();
    let mut by_call: Vec<&Span<'_>> = spans.iter().collect();
    by_call.sort_by_key(|span| span.called);
    let (mut next, mut acknowledged) = (0, 0);
    let mut violations = Vec::new();
    for span in by_call {
        while let Some((_, revision)) = replies.get(next).filter(|(replied, _)| *replied < span.called) {
            acknowledged = acknowledged.max(*revision);
            next += 1;
        }
        let found = span.revision.unwrap_or(0);
        if found < acknowledged || (found == acknowledged && span.is_own) {
            violations.push(Violation::OutOfOrder { client: span.client.to_owned(), acknowledged, found });
        }
    }
    violations
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Number(u64, u64, u64),
    Other(usize),
}

struct Span<'a> {
    client: &'a str,
    called: u64,
    replied: u64,
    revision: Option<u64>,
    /// Nothing else has its revision.
    is_own: bool,
}

impl<'a> Span<'a> {
    fn of(call: &'a Call) -> Self {
        Self { client: &call.client, called: call.called_nanos, replied: u64::MAX, revision: None, is_own: false }
    }
}

//! What the server hands over: batches of the log, and nothing else. All that the history knows is in them.
use crate::frames::LogPlace;
use bytes::Bytes;
use plenum_proto::v1;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Most losses that one transaction's row tells apart; further ones are summed up by winner.
pub const LOSSES_MAX: usize = 256;

/// A batch of the log that is durable.
#[derive(Clone, Debug)]
pub struct EncodedBatch {
    /// Its first revision; at least 1.
    pub first: u64,
    /// Its last revision.
    pub last: u64,
    /// Its log time, in microseconds since the Unix epoch. Never earlier than that of the batch before.
    pub time_micros: i64,
    /// The encoded `LogBatch`, exactly as logged. At most 64 MiB.
    pub bytes: Bytes,
    /// Where it stands in a log that keeps it: then it is not copied, and read from there ([`Options::frames`](crate::Options::frames)).
    pub place: Option<LogPlace>,
}

/// A transaction that lost claims to somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConflictNote {
    /// At which it was decided; within its batch.
    pub revision: u64,
    /// The loser's session.
    pub session: u64,
    /// The transaction's number in it.
    pub number: u64,
    /// The loser's scheduler.
    pub loser: String,
    /// How many claims the transaction had.
    pub claims: u32,
    /// Revisions between its base and its decision.
    pub staleness_revisions: u64,
    /// What deciding it took the scheduler; not negative.
    pub deciding_micros: i64,
    /// What it lost.
    pub losses: Vec<Loss>,
}

/// Claims of one transaction that were lost to the same winner, on the same machine, for the same job and resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The scheduler that took the room; an event such as `(expired)` where it was none.
    pub winner: String,
    /// The machine's slot. None: several, see [`LOSSES_MAX`].
    pub machine: Option<u32>,
    /// The job that the claims were for. 0: several.
    pub job: u64,
    /// The number of a `ResourceName`. 0: none was short, or several were.
    pub resource: i32,
    /// How many claims.
    pub claims: u32,
}

impl ConflictNote {
    /// The note of a transaction's outcome; none if no claim of it was refused as a conflict. A claim counts once: its
    /// winner is the newest culprit.
    ///
    /// `base_revision` and `deciding_micros` are those of the transaction, `loser` is the name of its scheduler.
    #[must_use]
    pub fn of_outcome(outcome: &v1::Outcome, loser: &str, base_revision: u64, deciding_micros: i64) -> Option<Self> {
        let conflicts = outcome.refusals.iter().filter(|refusal| refusal.kind() == v1::RefusalKind::Conflict);
        let losses = losses_of(conflicts.map(|refusal| {
            let culprit = refusal.culprits.first();
            LostClaim {
                winner: winner(culprit.map(|culprit| (culprit.scheduler.as_str(), culprit.event.as_str()))),
                machine: refusal.machine,
                job: refusal.job,
                resource: refusal.resource,
            }
        }));
        if losses.is_empty() {
            return None;
        }
        Some(Self {
            revision: outcome.revision,
            session: outcome.session,
            number: outcome.number,
            loser: loser.to_owned(),
            claims: outcome.claims,
            staleness_revisions: outcome.revision.saturating_sub(base_revision),
            deciding_micros: deciding_micros.max(0),
            losses,
        })
    }
}

/// A claim that was lost to somebody.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LostClaim<'a> {
    pub(crate) winner: Cow<'a, str>,
    pub(crate) machine: u32,
    pub(crate) job: u64,
    pub(crate) resource: i32,
}

/// What these claims of one transaction come to.
pub(crate) fn losses_of<'a>(lost: impl Iterator<Item = LostClaim<'a>>) -> Vec<Loss> {
    let mut losses: BTreeMap<(Cow<'a, str>, Option<u32>, u64, i32), u32> = BTreeMap::new();
    for LostClaim { winner, machine, job, resource } in lost {
        let exact = (winner, Some(machine), job, resource);
        let key = if losses.len() < LOSSES_MAX || losses.contains_key(&exact) { exact } else { (exact.0, None, 0, 0) };
        *losses.entry(key).or_default() += 1;
    }
    let losses = losses.into_iter().map(|((winner, machine, job, resource), claims)| {
        let winner = winner.into_owned();
        Loss { winner, machine, job, resource, claims }
    });
    losses.collect()
}

/// Who lost or won and has no name.
pub(crate) const UNKNOWN: &str = "(unknown)";

/// Who took the room, by scheduler and event of the newest culprit.
pub(crate) fn winner<'a>(culprit: Option<(&'a str, &'a str)>) -> Cow<'a, str> {
    match culprit {
        Some(("", event)) => format!("({event})").into(),
        Some((scheduler, _)) => scheduler.into(),
        None => UNKNOWN.into(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn refusal(kind: v1::RefusalKind, machine: u32, winner: &str) -> v1::Refusal {
        let culprit = v1::Culprit { scheduler: winner.to_owned(), event: "expired".to_owned(), ..Default::default() };
        v1::Refusal { kind: kind.into(), machine, culprits: vec![culprit], ..Default::default() }
    }

    #[test]
    fn a_note_counts_each_lost_claim_once_and_by_its_newest_culprit() {
        let refusals = vec![
            refusal(v1::RefusalKind::Conflict, 1, "service"),
            refusal(v1::RefusalKind::Conflict, 1, "service"),
            refusal(v1::RefusalKind::Conflict, 2, ""),
            refusal(v1::RefusalKind::Misfit, 3, "service"),
        ];
        let outcome = v1::Outcome { session: 4, number: 5, revision: 90, claims: 8, refusals, ..Default::default() };
        let note = ConflictNote::of_outcome(&outcome, "batch", 80, 700).unwrap();
        assert_eq!((note.staleness_revisions, note.claims, note.deciding_micros), (10, 8, 700));
        let losses: Vec<_> = note.losses.iter().map(|loss| (loss.winner.as_str(), loss.machine, loss.claims)).collect();
        assert_eq!(losses, [("(expired)", Some(2), 1), ("service", Some(1), 2)]);
    }

    #[test]
    fn an_outcome_without_conflicts_has_no_note() {
        let outcome = v1::Outcome { refusals: vec![refusal(v1::RefusalKind::Mate, 1, "x")], ..Default::default() };
        assert_eq!(ConflictNote::of_outcome(&outcome, "batch", 0, 0), None);
    }

    #[test]
    fn losses_on_very_many_machines_are_summed_up_by_winner() {
        let refusals = (0..1000).map(|machine| refusal(v1::RefusalKind::Conflict, machine, "service")).collect();
        let outcome = v1::Outcome { refusals, ..Default::default() };
        let note = ConflictNote::of_outcome(&outcome, "batch", 0, 0).unwrap();
        assert_eq!(note.losses.len(), LOSSES_MAX + 1);
        assert_eq!(note.losses.iter().map(|loss| loss.claims).sum::<u32>(), 1000);
    }
}

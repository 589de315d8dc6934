//! Transactions, as listed and as read by programs.

use plenum_proto::v1::{ConflictCheck, Outcome, TransactionOutcome, TransactionView};
use serde_json::{Value, json};

use super::{
    Names, Row, ago,
    allocation::{allocation_id, transaction_id},
    json_time, or_dash, or_null,
    refusal::refusal_json,
};

fn outcome_name(outcome: TransactionOutcome) -> &'static str {
    match outcome {
        TransactionOutcome::Unspecified => "unknown",
        TransactionOutcome::Committed => "committed",
        TransactionOutcome::Partial => "partial",
        TransactionOutcome::Refused => "refused",
    }
}

fn check_name(check: ConflictCheck) -> &'static str {
    match check {
        ConflictCheck::Unspecified => "unknown",
        ConflictCheck::Fit => "fit",
        ConflictCheck::Sequence => "sequence",
    }
}

fn outcome(view: &TransactionView) -> Outcome {
    view.outcome.clone().unwrap_or_default()
}

/// The allocations that it was granted.
pub(crate) fn granted(view: &TransactionView) -> Vec<String> {
    let outcome = view.outcome.iter();
    let granted = outcome.flat_map(|outcome| &outcome.placements).flat_map(|placement| &placement.allocations);
    granted.filter(|allocation| **allocation != 0).map(|allocation| allocation_id(*allocation)).collect()
}

/// The allocations that it stopped; only where it is known what was asked.
pub(crate) fn stopped(view: &TransactionView) -> Vec<String> {
    let Some((asked, outcome)) = view.transaction.as_ref().zip(view.outcome.as_ref()) else { return Vec::new() };
    let took_effect = outcome.outcome() != TransactionOutcome::Refused;
    let stops =
        (0_u32..).zip(&asked.stops).filter(|(position, _)| took_effect && !outcome.idle_stops.contains(position));
    stops.map(|(_, allocation)| allocation_id(*allocation)).collect()
}

/// The allocations that were evicted for it.
pub(crate) fn evicted(view: &TransactionView) -> Vec<String> {
    view.evicted.iter().map(|allocation| allocation_id(*allocation)).collect()
}

impl Row for TransactionView {
    fn titles() -> (&'static [&'static str], &'static [&'static str]) {
        (
            &["ID", "SCHEDULER", "OUTCOME", "CLAIMS", "GRANTED", "REFUSED", "BASE", "REVISION", "AGE"],
            &["PRINCIPAL", "CHECK", "ATOMIC", "STOPS", "POLICY", "ATTEMPT"],
        )
    }

    fn cells(&self) -> Vec<String> {
        let outcome = outcome(self);
        let decision = self.decision.clone().unwrap_or_default();
        vec![
            self.name(),
            or_dash(&self.scheduler),
            outcome_name(outcome.outcome()).to_owned(),
            outcome.claims.to_string(),
            outcome.granted.to_string(),
            outcome.refusals.len().to_string(),
            self.base_revision.to_string(),
            outcome.revision.to_string(),
            ago(outcome.time_micros),
            or_dash(&self.principal),
            check_name(self.check()).to_owned(),
            self.atomic.to_string(),
            self.stops.to_string(),
            or_dash(&decision.policy),
            decision.attempt.to_string(),
        ]
    }

    fn to_json(&self) -> Value {
        let outcome = outcome(self);
        let refusals: Vec<Value> = outcome.refusals.iter().map(|refusal| refusal_json(Names(self), refusal)).collect();
        let decision = self.decision.as_ref().map(|decision| {
            json!({
                "attempt": decision.attempt,
                "policy": or_null(&decision.policy),
                "seed": decision.seed,
                "queued_micros": decision.queued_micros,
                "deciding_micros": decision.deciding_micros,
            })
        });
        let mut object = json!({
            "id": self.name(),
            "scheduler": self.scheduler,
            "principal": self.principal,
            "base_revision": self.base_revision,
            "revision": outcome.revision,
            "time": json_time(outcome.time_micros),
            "atomic": self.atomic,
            "check": check_name(self.check()),
            "outcome": outcome_name(outcome.outcome()),
            "claims": outcome.claims,
            "granted": outcome.granted,
            "stops": self.stops,
            "refusals": refusals,
            "divergences": outcome.divergences,
            "decision": decision,
        });
        // Listings are told none of them.
        if self.transaction.is_some() {
            object["allocations"] = granted(self).into();
            object["stopped_allocations"] = stopped(self).into();
            object["evicted_allocations"] = evicted(self).into();
        }
        object
    }

    fn name(&self) -> String {
        let outcome = outcome(self);
        transaction_id(outcome.session, outcome.number)
    }
}

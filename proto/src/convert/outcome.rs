//! Decisions, and the outcomes of transactions.

use std::sync::Arc;

use plenum_model::{
    AllocationId, Culprit, Decision, GrantedPorts, JobId, LogTime, Outcome, Refusal, RefusalKind, RefusalReason,
    Rejection, RejectionCode, Revision, SessionId, TransactionId, TransactionOutcome,
};

use super::enums::Known;
use super::resources::{list, ports, resource, resource_name};
use super::transaction::transaction_id;
use super::{each, required};
use crate::bounds::{self, NAME_BYTES_MAX, signed, unsigned};
use crate::error::{Invalid, Within, quoted};
use crate::{names, v1};

/// Stands for a refusal of the whole transaction, where a claim's placement and position would stand.
const WHOLE: u32 = u32::MAX;

/// Culprits that a refusal lists; the total counts all.
const CULPRITS_MAX: usize = 4;

impl From<&Decision> for v1::Decision {
    fn from(decision: &Decision) -> Self {
        let answer = match decision {
            Decision::Accepted { id, version } => {
                v1::decision::Answer::Accepted(v1::Accepted { id: *id, version: *version })
            }
            Decision::Outcome(outcome) => v1::decision::Answer::Outcome(outcome.as_ref().into()),
            Decision::Rejected(rejection) => v1::decision::Answer::Rejected(v1::Rejected {
                code: rejection.code.as_str().to_owned(),
                message: rejection.message.clone(),
            }),
        };
        Self { answer: Some(answer) }
    }
}

impl TryFrom<v1::Decision> for Decision {
    type Error = Invalid;

    fn try_from(wire: v1::Decision) -> Result<Self, Invalid> {
        Ok(match required("answer", "an answer that this version knows", wire.answer)? {
            v1::decision::Answer::Accepted(accepted) => Self::Accepted { id: accepted.id, version: accepted.version },
            v1::decision::Answer::Outcome(outcome) => Self::Outcome(Box::new(outcome.try_into().within("outcome")?)),
            v1::decision::Answer::Rejected(rejected) => {
                let code = RejectionCode::parse(&rejected.code).ok_or_else(|| {
                    Invalid::new("rejected.code", "a code that this version knows", quoted(&rejected.code))
                })?;
                Self::Rejected(Rejection { code, message: rejected.message })
            }
        })
    }
}

impl From<&Outcome> for v1::Outcome {
    fn from(outcome: &Outcome) -> Self {
        Self {
            session: outcome.id.session.0,
            number: outcome.id.number,
            revision: outcome.revision.0,
            time_micros: outcome.time.micros,
            outcome: v1::TransactionOutcome::from(outcome.outcome).into(),
            placements: (0..)
                .zip(&outcome.placements)
                .map(|(number, claims)| {
                    placement(claims, outcome.ports.iter().filter(|found| found.placement == number))
                })
                .collect(),
            refusals: list(&outcome.refusals),
            idle_stops: outcome.idle_stops.clone(),
            claims: count(outcome.claims()),
            granted: count(outcome.granted()),
            divergences: outcome.divergences.clone(),
        }
    }
}

fn count(claims: usize) -> u32 {
    u32::try_from(claims).unwrap_or(u32::MAX)
}

fn placement<'a>(
    claims: &[Option<AllocationId>],
    granted: impl Iterator<Item = &'a GrantedPorts>,
) -> v1::PlacementOutcome {
    let allocations = claims.iter().map(|claim| claim.map_or(0, AllocationId::to_bits)).collect();
    let ports = granted.map(|found| v1::GrantedPorts { ports: list(&found.ports), claim: found.claim }).collect();
    v1::PlacementOutcome { allocations, ports }
}

impl TryFrom<v1::Outcome> for Outcome {
    type Error = Invalid;

    fn try_from(wire: v1::Outcome) -> Result<Self, Invalid> {
        let mut granted = Vec::new();
        for (placement, found) in (0..).zip(&wire.placements) {
            for wire in &found.ports {
                let ports = ports("ports", wire.ports.clone())?;
                granted.push(GrantedPorts { placement, claim: wire.claim, ports });
            }
        }
        Ok(Self {
            id: transaction_id(wire.session, wire.number)?,
            revision: Revision(wire.revision),
            time: LogTime { micros: wire.time_micros },
            outcome: TransactionOutcome::known("outcome", wire.outcome)?,
            placements: each("placements", wire.placements, claims)?,
            refusals: each("refusals", wire.refusals, Refusal::try_from)?,
            idle_stops: wire.idle_stops,
            ports: granted,
            divergences: wire.divergences,
        })
    }
}

fn claims(wire: v1::PlacementOutcome) -> Result<Vec<Option<AllocationId>>, Invalid> {
    each("allocations", wire.allocations, |bits| match bits {
        0 => Ok(None),
        bits => bounds::allocation("", bits).map(Some),
    })
}

impl From<&Refusal> for v1::Refusal {
    fn from(refusal: &Refusal) -> Self {
        let (placement, claim) = refusal.claim.unwrap_or((WHOLE, WHOLE));
        Self {
            kind: v1::RefusalKind::from(refusal.kind).into(),
            reason: v1::RefusalReason::from(refusal.reason).into(),
            placement,
            claim,
            job: refusal.job.to_bits(),
            group: refusal.group.into(),
            task: refusal.task,
            machine: refusal.machine,
            resource: refusal.short.map_or(0, |(resource, _)| resource_name(resource).into()),
            short_by: refusal.short.map_or(0, |(_, amount)| signed(amount)),
            culprits: list(&refusal.culprits),
            culprits_total: signed(refusal.culprits_total),
            device: refusal.short_device.as_ref().map_or_else(String::new, |(kind, _)| kind.to_string()),
            device_short_by_millis: refusal.short_device.as_ref().map_or(0, |(_, millis)| signed(*millis)),
            port: refusal.port.unwrap_or(0).into(),
        }
    }
}

impl TryFrom<v1::Refusal> for Refusal {
    type Error = Invalid;

    fn try_from(wire: v1::Refusal) -> Result<Self, Invalid> {
        bounds::at_most("culprits", "culprits", wire.culprits.len(), CULPRITS_MAX)?;
        let short_by = unsigned("short_by", wire.short_by)?;
        Ok(Self {
            kind: RefusalKind::known("kind", wire.kind)?,
            reason: RefusalReason::known("reason", wire.reason)?,
            claim: ((wire.placement, wire.claim) != (WHOLE, WHOLE)).then_some((wire.placement, wire.claim)),
            // A refusal of the whole is about no job.
            job: if wire.job == 0 { JobId::default() } else { bounds::job("job", wire.job)? },
            group: bounds::group("group", wire.group)?,
            task: wire.task,
            machine: wire.machine,
            short: resource("resource", wire.resource)?.map(|resource| (resource, short_by)),
            culprits: each("culprits", wire.culprits, Culprit::try_from)?,
            culprits_total: unsigned("culprits_total", wire.culprits_total)?,
            short_device: match &*wire.device {
                "" => None,
                kind => {
                    let millis = unsigned("device_short_by_millis", wire.device_short_by_millis)?;
                    Some((names::attribute("device", kind)?, millis))
                }
            },
            port: match bounds::narrow("port", wire.port, u64::from(u16::MAX))? {
                0 => None,
                port => Some(port),
            },
        })
    }
}

impl From<&Culprit> for v1::Culprit {
    fn from(culprit: &Culprit) -> Self {
        Self {
            revision: culprit.revision.0,
            session: culprit.transaction.map_or(0, |id| id.session.0),
            number: culprit.transaction.map_or(0, |id| id.number),
            scheduler: culprit.scheduler.to_string(),
            event: culprit.event.to_string(),
            amount: signed(culprit.amount),
            allocation: culprit.allocation.map_or(0, AllocationId::to_bits),
        }
    }
}

impl TryFrom<v1::Culprit> for Culprit {
    type Error = Invalid;

    fn try_from(wire: v1::Culprit) -> Result<Self, Invalid> {
        let allocation = (wire.allocation > 0).then(|| bounds::allocation("allocation", wire.allocation));
        let text = |field: &str, text: &str| -> Result<Arc<str>, Invalid> { names::text(field, text, NAME_BYTES_MAX) };
        let transaction = TransactionId { session: SessionId(wire.session), number: wire.number };
        Ok(Self {
            revision: Revision(wire.revision),
            transaction: (wire.session > 0).then_some(transaction),
            scheduler: text("scheduler", &wire.scheduler)?,
            event: text("event", &wire.event)?,
            amount: unsigned("amount", wire.amount)?,
            allocation: allocation.transpose()?,
        })
    }
}

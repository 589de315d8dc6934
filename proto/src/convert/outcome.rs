//! Decisions, and the outcomes of transactions.

use std::sync::Arc;

use bytes::BytesMut;
use plenum_model::{
    AllocationId, Culprit, Decision, GrantedPorts, JobId, LogTime, Outcome, Refusal, RefusalKind, RefusalReason,
    Rejection, RejectionCode, Revision, SessionId, TransactionId, TransactionOutcome,
};
use prost::Message;

use super::delta::wire::{Column, delimited_bytes, number_bytes, put_length, put_number};
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

/// Appends the bytes of a `v1::Decision`. The columns of what was granted are measured and written once; generated code needs them in
/// a message of their own first, and writes each number by a call.
pub fn encode(decision: &Decision, out: &mut BytesMut) {
    let Decision::Outcome(outcome) = decision else {
        return v1::Decision::from(decision).encode(out).expect("a growing buffer has room");
    };
    let head = head(outcome);
    let after = has_more(outcome).then(|| after(outcome));
    let tail = if after.is_some() { [(9, 0), (10, 0)] } else { tail(outcome) };
    let placements = (0..).zip(&outcome.placements).map(|(number, claims)| granted(outcome, number, claims));
    let placements: Vec<_> = placements.collect();
    let placed = placements.iter().map(Granted::bytes).sum::<usize>();
    let numbers = head.iter().chain(&tail).map(|&(_, number)| number_bytes(number)).sum::<usize>();
    let bytes = numbers + placed + after.as_ref().map_or(0, Message::encoded_len);
    out.reserve(bytes + 16);
    put_length(out, OUTCOME, bytes);
    head.iter().for_each(|&(field, number)| put_number(out, field, number));
    placements.into_iter().for_each(|granted| granted.put(out));
    tail.iter().for_each(|&(field, number)| put_number(out, field, number));
    if let Some(after) = after {
        after.encode(out).expect("a growing buffer has room");
    }
}

/// The fields before the placements: numbers, none of which is worth a message of generated code for each transaction.
fn head(outcome: &Outcome) -> [(u8, u64); 5] {
    let word = i32::from(v1::TransactionOutcome::from(outcome.outcome));
    [
        (1, outcome.id.session.0),
        (2, outcome.id.number),
        (3, outcome.revision.0),
        (4, outcome.time.micros.cast_unsigned()),
        (5, i64::from(word).cast_unsigned()),
    ]
}

/// The fields after the placements, of an outcome that has not more.
fn tail(outcome: &Outcome) -> [(u8, u64); 2] {
    [(9, count(outcome.claims()).into()), (10, count(outcome.granted()).into())]
}

/// Whether there is more after the placements than two numbers.
fn has_more(outcome: &Outcome) -> bool {
    !(outcome.refusals.is_empty() && outcome.idle_stops.is_empty() && outcome.divergences.is_empty())
}

/// Fields of `Decision`, `Outcome` and `PlacementOutcome`.
const OUTCOME: u8 = 2;
const PLACEMENTS: u8 = 6;
const ALLOCATIONS: u8 = 1;

/// One placement of an outcome, measured.
struct Granted<I> {
    allocations: Column<I>,
    /// Ports, which few claims ask for.
    rest: v1::PlacementOutcome,
}

fn bits_of(claim: Option<AllocationId>) -> u64 {
    claim.map_or(0, AllocationId::to_bits)
}

fn granted<'a>(
    outcome: &Outcome,
    number: u32,
    claims: &'a [Option<AllocationId>],
) -> Granted<impl Iterator<Item = u64> + Clone + use<'a>> {
    let rest = v1::PlacementOutcome { allocations: Vec::new(), ports: ports_of(outcome, number) };
    Granted { allocations: Column::new(ALLOCATIONS, claims.iter().map(|claim| bits_of(*claim))), rest }
}

impl<I: Iterator<Item = u64> + Clone> Granted<I> {
    fn content_bytes(&self) -> usize {
        self.allocations.bytes() + self.rest.encoded_len()
    }

    /// Bytes of the whole field; one of no claims is written, too.
    fn bytes(&self) -> usize {
        let content = self.content_bytes();
        if content == 0 { 2 } else { delimited_bytes(content) }
    }

    fn put(self, out: &mut BytesMut) {
        put_length(out, PLACEMENTS, self.content_bytes());
        self.allocations.put(out);
        self.rest.encode(out).expect("a growing buffer has room");
    }
}

impl From<&Outcome> for v1::Outcome {
    fn from(outcome: &Outcome) -> Self {
        let placement = |(number, claims): (u32, &Vec<Option<AllocationId>>)| v1::PlacementOutcome {
            allocations: claims.iter().map(|claim| bits_of(*claim)).collect(),
            ports: ports_of(outcome, number),
        };
        let v1::Outcome { session, number, revision, time_micros, outcome: word, .. } = before(outcome);
        let placements = (0..).zip(&outcome.placements).map(placement).collect();
        Self { session, number, revision, time_micros, outcome: word, placements, ..after(outcome) }
    }
}

/// The fields before the placements.
fn before(outcome: &Outcome) -> v1::Outcome {
    v1::Outcome {
        session: outcome.id.session.0,
        number: outcome.id.number,
        revision: outcome.revision.0,
        time_micros: outcome.time.micros,
        outcome: v1::TransactionOutcome::from(outcome.outcome).into(),
        ..v1::Outcome::default()
    }
}

/// The fields after the placements.
fn after(outcome: &Outcome) -> v1::Outcome {
    v1::Outcome {
        refusals: list(&outcome.refusals),
        idle_stops: outcome.idle_stops.clone(),
        claims: count(outcome.claims()),
        granted: count(outcome.granted()),
        divergences: outcome.divergences.clone(),
        ..v1::Outcome::default()
    }
}

fn ports_of(outcome: &Outcome, number: u32) -> Vec<v1::GrantedPorts> {
    let granted = outcome.ports.iter().filter(|found| found.placement == number);
    granted.map(|found| v1::GrantedPorts { ports: list(&found.ports), claim: found.claim }).collect()
}

fn count(claims: usize) -> u32 {
    u32::try_from(claims).unwrap_or(u32::MAX)
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

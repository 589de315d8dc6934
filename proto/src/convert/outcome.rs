//! Decisions, and the outcomes of transactions.

use plenum_model::{
    AllocationId, Decision, GrantedElsewhere, GrantedPorts, LogTime, Outcome, Refusal, Rejection, RejectionCode,
    Revision, TransactionOutcome,
};
use prost::Message;

use super::delta::wire::{Column, delimited_bytes, number_bytes, put_length, put_number};
use super::enums::Known;
use super::resources::{list, ports};
use super::transaction::transaction_id;
use super::written::{Fields, Sink, Size};
use super::{each, required};
use crate::bounds;
use crate::error::{Invalid, Within, quoted};
use crate::v1;

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
                Self::Rejected(Rejection::new(code, rejected.message))
            }
        })
    }
}

/// Appends the bytes of a `v1::Decision`. The columns of what was granted are measured and written once; generated code needs them in
/// a message of their own first, and writes each number by a call.
pub fn encode(decision: &Decision, out: &mut Vec<u8>) {
    let Decision::Outcome(outcome) = decision else {
        return v1::Decision::from(decision).encode(out).expect("a growing buffer has room");
    };
    let head = head(outcome);
    let mut after = Size::default();
    After(outcome).put(&mut after);
    let placements = (0..).zip(&outcome.placements).map(|(number, claims)| granted(outcome, number, claims));
    let placements: Vec<_> = placements.collect();
    let placed = placements.iter().map(Granted::bytes).sum::<usize>();
    let numbers = head.iter().map(|&(_, number)| number_bytes(number)).sum::<usize>();
    let bytes = numbers + placed + after.bytes();
    out.reserve(bytes + 16);
    put_length(out, OUTCOME, bytes);
    head.iter().for_each(|&(field, number)| put_number(out, field, number));
    placements.into_iter().for_each(|granted| granted.put(out));
    After(outcome).put(out);
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

/// The fields after the placements.
struct After<'a>(&'a Outcome);

impl Fields for After<'_> {
    fn put(&self, to: &mut impl Sink) {
        let Self(outcome) = self;
        outcome.refusals.iter().for_each(|refusal| to.message(7, refusal));
        to.column(8, outcome.idle_stops.iter().copied());
        to.number(9, count(outcome.claims()).into());
        to.number(10, count(outcome.granted()).into());
        to.column(11, outcome.divergences.iter().copied());
        to.column(12, outcome.evicted.iter().map(|id| id.to_bits()));
    }
}

/// Fields of `Decision`, `Outcome` and `PlacementOutcome`.
const OUTCOME: u8 = 2;
const PLACEMENTS: u8 = 6;
const ALLOCATIONS: u8 = 1;

/// One placement of an outcome, measured.
struct Granted<I> {
    allocations: Column<I>,
    /// Ports, which few claims ask for, and spare machines, which few need.
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
    Granted {
        allocations: Column::new(ALLOCATIONS, claims.iter().map(|claim| bits_of(*claim))),
        rest: beside_allocations(outcome, number),
    }
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

    fn put(self, out: &mut Vec<u8>) {
        put_length(out, PLACEMENTS, self.content_bytes());
        self.allocations.put(out);
        self.rest.encode(out).expect("a growing buffer has room");
    }
}

impl From<&Outcome> for v1::Outcome {
    fn from(outcome: &Outcome) -> Self {
        let placement = |(number, claims): (u32, &Vec<Option<AllocationId>>)| v1::PlacementOutcome {
            allocations: claims.iter().map(|claim| bits_of(*claim)).collect(),
            ..beside_allocations(outcome, number)
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
        evicted: outcome.evicted.iter().map(|id| id.to_bits()).collect(),
        ..v1::Outcome::default()
    }
}

/// What is said of a placement beside the allocations.
fn beside_allocations(outcome: &Outcome, number: u32) -> v1::PlacementOutcome {
    let ports = of_placement(&outcome.ports, number, |found| found.placement);
    let elsewhere = of_placement(&outcome.elsewhere, number, |found| found.placement);
    v1::PlacementOutcome {
        allocations: Vec::new(),
        ports: ports.map(|found| v1::GrantedPorts { ports: list(&found.ports), claim: found.claim }).collect(),
        elsewhere: elsewhere.map(|found| v1::GrantedElsewhere { claim: found.claim, machine: found.machine }).collect(),
    }
}

/// Those of one placement, among some in the order of the placements.
fn of_placement<T>(all: &[T], number: u32, placement: fn(&T) -> u32) -> impl Iterator<Item = &T> {
    let first = all.partition_point(|found| placement(found) < number);
    all[first..].iter().take_while(move |found| placement(found) == number)
}

fn count(claims: usize) -> u32 {
    u32::try_from(claims).unwrap_or(u32::MAX)
}

impl TryFrom<v1::Outcome> for Outcome {
    type Error = Invalid;

    fn try_from(wire: v1::Outcome) -> Result<Self, Invalid> {
        let (mut granted, mut elsewhere) = (Vec::new(), Vec::new());
        for (placement, found) in (0..).zip(&wire.placements) {
            for wire in &found.ports {
                let ports = ports("ports", wire.ports.clone())?;
                granted.push(GrantedPorts { placement, claim: wire.claim, ports });
            }
            for &v1::GrantedElsewhere { claim, machine } in &found.elsewhere {
                elsewhere.push(GrantedElsewhere { placement, claim, machine });
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
            elsewhere,
            evicted: each("evicted", wire.evicted, |bits| bounds::allocation("", bits))?,
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

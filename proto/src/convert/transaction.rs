//! Transactions: columns are moved, and every rule that needs no cell is checked.

use std::ops::Range;

use bytes::Bytes;
use plenum_model::session::NUMBER_MAX;
use plenum_model::{
    CLAIMS_MAX, ClaimExtra, Command, ConflictCheck, DecisionMetadata, Guard, Placement, Preemption, Revision,
    SessionId, Transaction, TransactionId,
};
use prost::Message;

use super::columns;
use super::enums::Known;
use super::resources::{devices, list, ports, take_overs};
use super::{each, required};
use crate::bounds::{self, ASSUMED_MAX, CONFIGURATION_BYTES_MAX, COUNT_MAX, NAME_BYTES_MAX, TEXT_BYTES_MAX};
use crate::census::{TRANSACTION, UNCOUNTED_BYTES_MAX};
use crate::error::{Invalid, Within, quoted};
use crate::fields::fields;
use crate::{names, v1};

/// The command of an encoded transaction that came in, with the digest of its content.
///
/// # Errors
/// When the bytes are no transaction, and with the name of the field that breaks a rule. One that asks for far too much is refused
/// before it is decoded: a few bytes of it may stand for a hundred in memory.
pub fn commit(encoded: Bytes) -> Result<Command, Invalid> {
    // A short one can't be far above a bound, and is well formed if it can be read.
    let is_short = encoded.len() <= UNCOUNTED_BYTES_MAX;
    if !is_short {
        check_before_decoding(&encoded)?;
    }
    if let Some((transaction, decision)) = columns::transaction(&encoded) {
        return Ok(Command::Commit(Box::new(transaction), digest_without(&encoded, decision)));
    }
    // Unusual, or it breaks a rule: which one is told by what reads all there is.
    if is_short {
        check_before_decoding(&encoded)?;
    }
    let transaction = generated(&encoded)?.try_into()?;
    Ok(Command::Commit(Box::new(transaction), digest(&encoded)))
}

/// Read by generated code as the log will be: within a command. What can be read only by itself would be refused after it was decided.
fn generated(encoded: &[u8]) -> Result<v1::Transaction, Invalid> {
    let logged = super::command::encode_commit("", "", encoded);
    let unreadable = |error: prost::DecodeError| {
        Invalid::new("", "a Transaction", format_args!("what can't be read as it: {error}"))
    };
    let command = v1::Command::decode(logged).map_err(unreadable)?;
    match command.ask {
        Some(v1::command::Ask::Commit(wire)) => Ok(wire),
        _ => Err(Invalid::new("", "a Transaction", "something else")),
    }
}

/// As [`commit`], for a transaction that somebody has decoded already.
///
/// # Errors
/// Names the field that breaks a rule.
pub fn commit_decoded(wire: &v1::Transaction) -> Result<Command, Invalid> {
    commit(wire.encode_to_vec().into())
}

/// The encoding that this library gives a transaction.
#[must_use]
pub fn encode(transaction: &Transaction) -> Bytes {
    v1::Transaction::from(transaction).encode_to_vec().into()
}

/// Bytes of the `SessionRequest` that commits this transaction: a server takes one of `Welcome.message_bytes_max` at most.
#[must_use]
pub fn commit_bytes(transaction: &v1::Transaction) -> usize {
    const COMMIT: u32 = 2;
    prost::encoding::message::encoded_len(COMMIT, transaction)
}

/// Of a transaction's content: the first 8 bytes, little endian, of the BLAKE3 hash of its encoding without `decision`.
///
/// How long a decision took, and how often it was tried, are not content: the same claims under the same number, sent again
/// with other times, are the same request. The encoding is the client's own: one that sends a number again encodes it as before.
#[must_use]
pub fn digest(encoded: &[u8]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    let mut from = 0;
    for field in fields(encoded).flatten().filter(|field| field.number == DECISION) {
        hasher.update(&encoded[from..field.whole.start]);
        from = field.whole.end;
    }
    hasher.update(&encoded[from..]);
    first_bytes(&hasher.finalize())
}

/// The digest of an encoding whose only `decision` stands there.
fn digest_without(encoded: &[u8], decision: Range<usize>) -> u64 {
    let (before, after) = (&encoded[..decision.start], &encoded[decision.end..]);
    // In one piece, as generated code writes it: that takes half of the time.
    match (before, after) {
        (whole, []) | ([], whole) => first_bytes(&blake3::hash(whole)),
        _ => first_bytes(&blake3::Hasher::new().update(before).update(after).finalize()),
    }
}

fn first_bytes(hash: &blake3::Hash) -> u64 {
    let (first, _) = hash.as_bytes().split_first_chunk().expect("a hash has 32 bytes");
    u64::from_le_bytes(*first)
}

/// The field that is no content.
const DECISION: u64 = 11;

/// Counts what is asked for.
///
/// The fields of a short one are walked all the same: what was logged is cut by its fields later, which knows no groups (they are of an
/// early protobuf).
fn check_before_decoding(encoded: &[u8]) -> Result<(), Invalid> {
    if encoded.len() > UNCOUNTED_BYTES_MAX {
        return TRANSACTION.check(encoded);
    }
    fields(encoded).try_for_each(|field| field.map(drop)).map_err(|found| TRANSACTION.malformed(found))
}

impl From<&Transaction> for v1::Transaction {
    fn from(transaction: &Transaction) -> Self {
        Self {
            session: transaction.id.session.0,
            number: transaction.id.number,
            incarnation: transaction.incarnation,
            base_revision: transaction.base.0,
            atomic: transaction.atomic,
            check: v1::ConflictCheck::from(transaction.check).into(),
            placements: list(&transaction.placements),
            stops: transaction.stops.iter().map(|id| id.to_bits()).collect(),
            guards: list(&transaction.guards),
            dry_run: transaction.dry_run,
            decision: Some((&transaction.decision).into()),
        }
    }
}

impl TryFrom<v1::Transaction> for Transaction {
    type Error = Invalid;

    fn try_from(wire: v1::Transaction) -> Result<Self, Invalid> {
        let id = transaction_id(wire.session, wire.number)?;
        check_totals(&wire)?;
        Ok(Self {
            id,
            incarnation: wire.incarnation,
            base: Revision(wire.base_revision),
            atomic: wire.atomic,
            check: ConflictCheck::known("check", wire.check)?,
            placements: each("placements", wire.placements, Placement::try_from)?,
            stops: each("stops", wire.stops, |bits| bounds::allocation("", bits))?,
            guards: each("guards", wire.guards, Guard::try_from)?,
            dry_run: wire.dry_run,
            decision: wire.decision.unwrap_or_default().try_into().within("decision")?,
        })
    }
}

/// A transaction's name.
pub(super) fn transaction_id(session: u64, number: u64) -> Result<TransactionId, Invalid> {
    if session == 0 {
        return Err(Invalid::new("session", "the id of an open session, above 0", session));
    }
    if !(1..=NUMBER_MAX).contains(&number) {
        return Err(Invalid::new("number", format!("1 to {NUMBER_MAX}"), number));
    }
    Ok(TransactionId { session: SessionId(session), number })
}

fn check_totals(wire: &v1::Transaction) -> Result<(), Invalid> {
    let total = |of: fn(&v1::Placement) -> usize| wire.placements.iter().map(of).sum::<usize>();
    let bound = |field, what, found| bounds::at_most(field, what, found, CLAIMS_MAX);
    bound("placements", "placements", wire.placements.len())?;
    bound("placements", "claims in a transaction", total(|placement| placement.machines.len()))?;
    bound("placements", "alternates in a transaction", total(|placement| placement.alternates.len()))?;
    bound("placements", "preemptions in a transaction", total(|placement| placement.preemptions.len()))?;
    bound("placements", "guards in a transaction", total(|placement| placement.guards.len()) + wire.guards.len())?;
    bound("stops", "stops in a transaction", wire.stops.len())
}

impl From<&Placement> for v1::Placement {
    fn from(placement: &Placement) -> Self {
        Self {
            job: placement.job.to_bits(),
            group: placement.group.into(),
            job_version: placement.job_version,
            resources: placement.resources.as_ref().map(v1::Resources::from),
            machines: placement.machines.clone(),
            tasks: placement.tasks.clone(),
            min: placement.min,
            guards: list(&placement.guards),
            extras: list(&placement.extras),
            preemptions: list(&placement.preemptions),
            alternates: placement.alternates.clone(),
        }
    }
}

impl TryFrom<v1::Placement> for Placement {
    type Error = Invalid;

    fn try_from(wire: v1::Placement) -> Result<Self, Invalid> {
        let claims = wire.machines.len();
        bounds::column("tasks", claims, wire.tasks.len())?;
        if !wire.extras.is_empty() {
            bounds::column("extras", claims, wire.extras.len())?;
        }
        check_tasks(&wire.tasks)?;
        if usize::try_from(wire.min).is_ok_and(|min| min > claims) {
            return Err(Invalid::new("min", format!("at most {claims}, the number of claims"), wire.min));
        }
        Ok(Self {
            job: bounds::job("job", wire.job)?,
            group: bounds::group("group", wire.group)?,
            job_version: wire.job_version,
            resources: wire.resources.map(TryInto::try_into).transpose().within("resources")?,
            machines: wire.machines,
            tasks: wire.tasks,
            min: wire.min,
            guards: each("guards", wire.guards, Guard::try_from)?,
            extras: each("extras", wire.extras, ClaimExtra::try_from)?,
            preemptions: each("preemptions", wire.preemptions, Preemption::try_from)?,
            alternates: wire.alternates,
        })
    }
}

/// Each task index once, below the highest count of a group.
fn check_tasks(tasks: &[u32]) -> Result<(), Invalid> {
    if let Some(task) = tasks.iter().find(|&&task| task >= COUNT_MAX) {
        return Err(Invalid::new("tasks", format!("task indexes below {COUNT_MAX}"), task));
    }
    // Most schedulers claim tasks in their order; then nothing is sorted.
    if tasks.is_sorted_by(|left, right| left < right) {
        return Ok(());
    }
    let mut sorted = tasks.to_vec();
    sorted.sort_unstable();
    match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        None => Ok(()),
        Some(pair) => Err(Invalid::new("tasks", "each task index once", format_args!("{} twice", pair[0]))),
    }
}

impl From<&ClaimExtra> for v1::ClaimExtras {
    fn from(extra: &ClaimExtra) -> Self {
        Self { devices: list(&extra.devices), ports: list(&extra.ports), take_overs: list(&extra.take_overs) }
    }
}

impl TryFrom<v1::ClaimExtras> for ClaimExtra {
    type Error = Invalid;

    fn try_from(wire: v1::ClaimExtras) -> Result<Self, Invalid> {
        Ok(Self {
            devices: devices("devices", wire.devices)?,
            ports: ports("ports", wire.ports)?,
            take_overs: take_overs("take_overs", wire.take_overs, bounds::LIST_MAX)?,
        })
    }
}

impl From<&Preemption> for v1::Preemption {
    fn from(preemption: &Preemption) -> Self {
        Self { machine: preemption.machine, victim: preemption.victim.to_bits() }
    }
}

impl TryFrom<v1::Preemption> for Preemption {
    type Error = Invalid;

    fn try_from(wire: v1::Preemption) -> Result<Self, Invalid> {
        Ok(Self { machine: wire.machine, victim: bounds::allocation("victim", wire.victim)? })
    }
}

impl From<&Guard> for v1::Guard {
    fn from(guard: &Guard) -> Self {
        let fact = match guard {
            Guard::JobVersion { job, version } => {
                v1::guard::Fact::JobVersion(v1::JobVersionGuard { job: job.to_bits(), version: *version })
            }
            Guard::Attribute { machine, attribute, value } => v1::guard::Fact::Attribute(v1::AttributeGuard {
                machine: machine.to_bits(),
                attribute: attribute.to_string(),
                value: value.to_string(),
            }),
        };
        Self { fact: Some(fact) }
    }
}

impl TryFrom<v1::Guard> for Guard {
    type Error = Invalid;

    fn try_from(wire: v1::Guard) -> Result<Self, Invalid> {
        Ok(match required("fact", "a fact that this version knows", wire.fact)? {
            v1::guard::Fact::JobVersion(fact) => {
                Self::JobVersion { job: bounds::job("job_version.job", fact.job)?, version: fact.version }
            }
            v1::guard::Fact::Attribute(fact) => Self::Attribute {
                machine: bounds::machine("attribute.machine", fact.machine)?,
                attribute: names::attribute("attribute.attribute", &fact.attribute)?,
                value: names::text("attribute.value", &fact.value, TEXT_BYTES_MAX)?,
            },
        })
    }
}

impl From<&DecisionMetadata> for v1::DecisionMetadata {
    fn from(decision: &DecisionMetadata) -> Self {
        Self {
            attempt: decision.attempt,
            policy: decision.policy.to_string(),
            configuration: decision.configuration.to_vec().into(),
            seed: decision.seed,
            assumed: decision.assumed.clone(),
            queued_micros: decision.queued_micros,
            deciding_micros: decision.deciding_micros,
        }
    }
}

impl TryFrom<v1::DecisionMetadata> for DecisionMetadata {
    type Error = Invalid;

    fn try_from(wire: v1::DecisionMetadata) -> Result<Self, Invalid> {
        names::short("policy", wire.policy.len(), NAME_BYTES_MAX)?;
        names::short("configuration", wire.configuration.len(), CONFIGURATION_BYTES_MAX)?;
        bounds::at_most("assumed", "transactions in flight", wire.assumed.len(), ASSUMED_MAX)?;
        if wire.policy.contains(char::is_control) {
            return Err(Invalid::new("policy", "a name without control characters", quoted(&wire.policy)));
        }
        Ok(Self {
            attempt: wire.attempt,
            policy: wire.policy.into(),
            configuration: wire.configuration.as_ref().into(),
            seed: wire.seed,
            assumed: wire.assumed,
            // Nothing depends on them, and a clock that goes back must not keep its scheduler from placing.
            queued_micros: bounds::nearest_span(wire.queued_micros),
            deciding_micros: bounds::nearest_span(wire.deciding_micros),
        })
    }
}

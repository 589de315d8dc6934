//! Reading a delta: columns are moved, and everything that would make a cell grow without bound is refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use plenum_model::{
    AllocationState, AllocationStatus, Delta, End, Grants, LogTime, Machine, Move, Resources, Revision, SessionId,
};

use super::super::governance::{
    hold_from_wire, partition_from_wire, paused_from_wire, quota_from_wire, rights_from_wire, unknown_from_wire,
};
use super::super::{columns, each, newer, required};
use super::rows::{
    cell_from_wire, extra_from_wire, job_change_from_wire, name, position, push_tasks, reasons_by_position,
    session_from_wire,
};
use crate::bounds;
use crate::error::{Invalid, ReadError, Within};
use crate::v1;

/// The delta in these bytes; sections that were left out are empty. Fields that this version does not know are left out, too.
///
/// # Errors
/// When the bytes are none, or break a rule; [`ReadError::Newer`] where that may be a later version's.
pub fn decode(bytes: Bytes) -> Result<Delta, ReadError> {
    read(bytes, false)
}

/// The same, for who goes on from it and writes that down: nothing is left out.
///
/// # Errors
/// As [`decode`]; [`ReadError::Newer`] where a later version said something that this one does not know.
pub fn decode_whole(bytes: Bytes) -> Result<Delta, ReadError> {
    read(bytes, true)
}

fn read(bytes: Bytes, whole: bool) -> Result<Delta, ReadError> {
    let wire = match columns::delta(&bytes, whole) {
        Some(wire) => wire,
        None => newer::decode("Delta", bytes.clone(), whole)?,
    };
    wire.try_into().map_err(|source| newer::breaks_a_rule("Delta", &bytes, source))
}

impl TryFrom<v1::Delta> for Delta {
    type Error = Invalid;

    fn try_from(wire: v1::Delta) -> Result<Self, Invalid> {
        let revision = wire.revision;
        let mut bodies: BTreeMap<u64, Arc<[u8]>> = BTreeMap::new();
        for change in wire.bodies {
            bodies.insert(change.job, change.body.as_ref().into());
        }
        let mut tasks = Vec::new();
        for (number, changes) in wire.tasks.iter().enumerate() {
            push_tasks(changes, &mut tasks).within_at("tasks", number)?;
        }
        let machine = |wire| Machine::try_from(wire).map(Arc::new);
        Ok(Self {
            revision: Revision(revision),
            time: LogTime { micros: wire.time_micros },
            cell: wire.cell.map(cell_from_wire).transpose().within("cell")?,
            scheduler_names: each("scheduler_names", wire.scheduler_names, |text| name(&text))?,
            renamed: each("renamed", wire.renamed, numbered_name)?,
            shapes: each("shapes", wire.shapes, TryInto::try_into)?,
            reshaped: each("reshaped", wire.reshaped, numbered_shape)?,
            machines: each("machines", wire.machines, machine)?,
            jobs: each("jobs", wire.jobs, |change| job_change_from_wire(change, |job| bodies.get(&job).cloned()))?,
            grants: each("grants", wire.grants, Grants::try_from)?,
            moves: wire.moves.map_or_else(|| Ok(Vec::new()), moves).within("moves")?,
            ends: wire.ends.map_or_else(|| Ok(Vec::new()), ends).within("ends")?,
            tasks,
            sessions: each("sessions", wire.sessions, |change| session_from_wire(change, revision))?,
            quotas: each("quotas", wire.quotas, quota_from_wire)?,
            holds: each("holds", wire.holds, hold_from_wire)?,
            partitions: each("partitions", wire.partitions, partition_from_wire)?,
            unknown: each("unknown_tasks", wire.unknown_tasks, unknown_from_wire)?,
            paused: each("paused", wire.paused, paused_from_wire)?,
            rights: each("rights", wire.rights, rights_from_wire)?,
        })
    }
}

/// Whether the cell has that number, folding finds out.
fn numbered_name(wire: v1::NumberedName) -> Result<(u16, Arc<str>), Invalid> {
    let number = bounds::narrow("number", wire.number, u64::from(u16::MAX))?;
    Ok((number, name(&wire.name).within("name")?))
}

/// As above.
fn numbered_shape(wire: v1::NumberedShape) -> Result<(u32, Resources), Invalid> {
    let resources = required("resources", "resources", wire.resources)?;
    Ok((wire.number, resources.try_into().within("resources")?))
}

impl TryFrom<v1::Grants> for Grants {
    type Error = Invalid;

    fn try_from(wire: v1::Grants) -> Result<Self, Invalid> {
        let rows = wire.slots.len();
        bounds::column("machines", rows, wire.machines.len())?;
        bounds::column("tasks", rows, wire.tasks.len())?;
        bounds::column("generations", rows, wire.generations.len())?;
        bounds::rows("slots", &wire.slots)?;
        if let Some(position) = wire.generations.iter().position(|&generation| generation == 0) {
            return Err(Invalid::new("", "a generation above 0", 0)).within_at("generations", position);
        }
        Ok(Self {
            job: bounds::job("job", wire.job)?,
            group: bounds::group("group", wire.group)?,
            group_row: bounds::row("group_row", wire.group_row)?,
            job_version: wire.job_version,
            shape: wire.shape,
            scheduler: bounds::narrow("scheduler", wire.scheduler, u64::from(u16::MAX))?,
            session: SessionId(wire.session),
            number: bounds::narrow("number", wire.number, u64::from(u32::MAX))?,
            machines: wire.machines,
            tasks: wire.tasks,
            slots: wire.slots,
            generations: wire.generations,
            extras: each("extras", wire.extras, |extra| extra_from_wire(extra, rows))?,
        })
    }
}

fn moves(wire: v1::Moves) -> Result<Vec<Move>, Invalid> {
    let rows = wire.slots.len();
    bounds::column("states", rows, wire.states.len())?;
    bounds::column("ready", rows, wire.ready.len())?;
    bounds::rows("slots", &wire.slots)?;
    let mut moves = Vec::with_capacity(rows);
    for ((&slot, &state), &ready) in wire.slots.iter().zip(&wire.states).zip(&wire.ready) {
        let state = AllocationState::from_number(state).filter(|state| state.is_live());
        let state = required("states", "states of live allocations", state)?;
        let status = AllocationStatus { state, ready: ready > 0 };
        moves.push(Move { slot, status, restarts: 0, reason: None });
    }
    let (pairs, []) = wire.restarts.as_chunks() else {
        return Err(Invalid::new("restarts", "pairs of position and count", wire.restarts.len()));
    };
    for &[found, restarts] in pairs {
        moves[position(found, rows).within("restarts")?].restarts = restarts;
    }
    reasons_by_position(&wire.reasons, rows, |position, reason| moves[position].reason = Some(reason))?;
    Ok(moves)
}

fn ends(wire: v1::Ends) -> Result<Vec<End>, Invalid> {
    let rows = wire.slots.len();
    bounds::column("states", rows, wire.states.len())?;
    bounds::column("exit_codes", rows, wire.exit_codes.len())?;
    bounds::rows("slots", &wire.slots)?;
    let mut ends = Vec::with_capacity(rows);
    for ((&slot, &state), &exit_code) in wire.slots.iter().zip(&wire.states).zip(&wire.exit_codes) {
        let state = AllocationState::from_number(state).filter(|state| state.is_end());
        ends.push(End {
            slot,
            state: required("states", "states of ended allocations", state)?,
            exit_code,
            reason: None,
        });
    }
    reasons_by_position(&wire.reasons, rows, |position, reason| ends[position].reason = Some(reason))?;
    Ok(ends)
}

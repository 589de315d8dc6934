//! Writing a delta.

use std::sync::Arc;

use plenum_model::{Delta, End, Grants, Move, Resources};
use prost::Message;

use super::super::governance::{
    hold_to_wire, partition_to_wire, paused_to_wire, quota_to_wire, rights_to_wire, unknown_to_wire,
};
use super::rows::{cell_to_wire, grant_extra_to_wire, job_change_to_wire, reasons, session_to_wire, task_changes};
use super::wire::{Column, delimited_bytes, number_bytes, put_length, put_number, zigzag};
use crate::v1;

/// Appends the bytes of a delta, a `v1::Delta` with all its sections.
pub fn encode(delta: &Delta, out: &mut Vec<u8>) {
    put_header(delta, out);
    if !delta.machines.is_empty() {
        let machines = delta.machines.iter().map(|machine| machine.as_ref().into()).collect();
        put(&v1::Delta { machines, ..v1::Delta::default() }, out);
    }
    if !delta.jobs.is_empty() {
        let jobs = delta.jobs.iter().map(job_change_to_wire).collect();
        put(&v1::Delta { jobs, ..v1::Delta::default() }, out);
    }
    delta.grants.iter().for_each(|grants| put_grants(grants, out));
    put_moves(&delta.moves, out);
    put_ends(&delta.ends, out);
    if !delta.tasks.is_empty() {
        task_changes(&delta.tasks).iter().for_each(|changes| put_message(out, 11, changes));
    }
    delta.sessions.iter().for_each(|change| put_message(out, 12, &session_to_wire(change, delta.revision)));
    if !delta.quotas.is_empty() {
        let quotas = delta.quotas.iter().map(|(namespace, quota)| quota_to_wire(namespace, quota.as_ref())).collect();
        put(&v1::Delta { quotas, ..v1::Delta::default() }, out);
    }
    put_holds_and_partitions(delta, out);
    if !delta.jobs.is_empty() {
        put(&v1::Delta { bodies: super::rows::bodies(&delta.jobs), ..v1::Delta::default() }, out);
    }
    put_unknown_and_paused(delta, out);
    put_given_away(delta, out);
}

/// Appends a message.
fn put(message: &v1::Delta, out: &mut Vec<u8>) {
    message.encode(out).expect("a growing buffer has room");
}

/// Each mirror needs these to judge claims, as it needs allocations.
fn put_holds_and_partitions(delta: &Delta, out: &mut Vec<u8>) {
    if delta.holds.is_empty() && delta.partitions.is_empty() {
        return;
    }
    let wire = v1::Delta {
        holds: delta.holds.iter().map(|(job, hold)| hold_to_wire(*job, hold.as_ref())).collect(),
        partitions: delta.partitions.iter().map(|(name, found)| partition_to_wire(name, found.as_ref())).collect(),
        ..v1::Delta::default()
    };
    put(&wire, out);
}

/// And these.
fn put_unknown_and_paused(delta: &Delta, out: &mut Vec<u8>) {
    if delta.unknown.is_empty() && delta.paused.is_empty() {
        return;
    }
    let wire = v1::Delta {
        unknown_tasks: delta.unknown.iter().map(|(id, task)| unknown_to_wire(*id, task.as_deref())).collect(),
        paused: delta.paused.iter().map(|(scheduler, paused)| paused_to_wire(scheduler, *paused)).collect(),
        ..v1::Delta::default()
    };
    put(&wire, out);
}

/// What numbers stand for, and what schedulers are granted, from now on.
fn put_given_away(delta: &Delta, out: &mut Vec<u8>) {
    if delta.reshaped.is_empty() && delta.renamed.is_empty() && delta.rights.is_empty() {
        return;
    }
    let shape =
        |(number, shape): &(u32, Resources)| v1::NumberedShape { number: *number, resources: Some(shape.into()) };
    let name = |(number, name): &(u16, Arc<str>)| v1::NumberedName { number: (*number).into(), name: name.to_string() };
    let wire = v1::Delta {
        reshaped: delta.reshaped.iter().map(shape).collect(),
        renamed: delta.renamed.iter().map(name).collect(),
        rights: delta.rights.iter().map(|(scheduler, rights)| rights_to_wire(scheduler, *rights)).collect(),
        ..v1::Delta::default()
    };
    put(&wire, out);
}

/// Each transaction has a delta of its own, and hardly any of them more in this part than two numbers.
fn put_header(delta: &Delta, out: &mut Vec<u8>) {
    put_number(out, 1, delta.revision.0);
    put_number(out, 2, delta.time.micros.cast_unsigned());
    if delta.cell.is_none() && delta.scheduler_names.is_empty() && delta.shapes.is_empty() {
        return;
    }
    let wire = v1::Delta {
        cell: delta.cell.as_ref().map(cell_to_wire),
        scheduler_names: delta.scheduler_names.iter().map(|name| name.to_string()).collect(),
        shapes: delta.shapes.iter().map(v1::Resources::from).collect(),
        ..v1::Delta::default()
    };
    put(&wire, out);
}

/// The generated code's encoding of a message in a field of the delta.
fn put_message(out: &mut Vec<u8>, field: u8, message: &impl Message) {
    put_length(out, field, message.encoded_len());
    message.encode(out).expect("a growing buffer has room");
}

fn message_bytes(message: &impl Message) -> usize {
    // An empty message is written, too: unlike a column it says that it is there.
    let bytes = message.encoded_len();
    if bytes == 0 { 2 } else { delimited_bytes(bytes) }
}

fn put_grants(grants: &Grants, out: &mut Vec<u8>) {
    let numbers = [
        (1, grants.job.to_bits()),
        (2, grants.group.into()),
        (3, grants.group_row.into()),
        (4, grants.job_version.into()),
        (5, grants.shape.into()),
        (6, grants.scheduler.into()),
    ];
    let columns = [(7, &grants.machines), (8, &grants.tasks), (9, &grants.slots), (10, &grants.generations)]
        .map(|(field, numbers)| Column::new(field, numbers.iter().copied()));
    let extras: Vec<_> = grants.extras.iter().map(grant_extra_to_wire).collect();
    let transaction = [(12, grants.session.0), (13, grants.number.into())];
    let bytes = numbers.iter().chain(&transaction).map(|&(_, number)| number_bytes(number)).sum::<usize>()
        + columns.iter().map(Column::bytes).sum::<usize>()
        + extras.iter().map(message_bytes).sum::<usize>();
    out.reserve(bytes + 16);
    put_length(out, 8, bytes);
    numbers.iter().for_each(|&(field, number)| put_number(out, field, number));
    columns.into_iter().for_each(|column| column.put(out));
    extras.iter().for_each(|extra| put_message(out, 11, extra));
    transaction.iter().for_each(|&(field, number)| put_number(out, field, number));
}

fn put_moves(moves: &[Move], out: &mut Vec<u8>) {
    if moves.is_empty() {
        return;
    }
    let restarted = (0u32..).zip(moves).filter(|(_, change)| change.restarts > 0);
    let restarts: Vec<u32> = restarted.flat_map(|(position, change)| [position, change.restarts]).collect();
    let reasons = reasons(moves.iter().map(|change| change.reason.as_ref()));
    let slots = Column::new(1, moves.iter().map(|change| change.slot));
    let states = Column::new(2, moves.iter().map(|change| change.status.state as u32));
    let ready = Column::new(3, moves.iter().map(|change| u32::from(change.status.ready)));
    let restarts = Column::new(4, restarts.iter().copied());
    let bytes = slots.bytes()
        + states.bytes()
        + ready.bytes()
        + restarts.bytes()
        + reasons.iter().map(message_bytes).sum::<usize>();
    out.reserve(bytes + 16);
    put_length(out, 9, bytes);
    slots.put(out);
    states.put(out);
    ready.put(out);
    restarts.put(out);
    reasons.iter().for_each(|reason| put_message(out, 5, reason));
}

fn put_ends(ends: &[End], out: &mut Vec<u8>) {
    if ends.is_empty() {
        return;
    }
    let reasons = reasons(ends.iter().map(|end| end.reason.as_ref()));
    let slots = Column::new(1, ends.iter().map(|end| end.slot));
    let states = Column::new(2, ends.iter().map(|end| end.state as u32));
    let exit_codes = Column::new(3, ends.iter().map(|end| zigzag(end.exit_code)));
    let bytes = slots.bytes() + states.bytes() + exit_codes.bytes() + reasons.iter().map(message_bytes).sum::<usize>();
    out.reserve(bytes + 16);
    put_length(out, 10, bytes);
    slots.put(out);
    states.put(out);
    exit_codes.put(out);
    reasons.iter().for_each(|reason| put_message(out, 4, reason));
}

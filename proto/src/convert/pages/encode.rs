//! Writing one page of a cell.

use std::ops::Range;

use bytes::Bytes;
use plenum_model::{
    AllocationRow, AllocationStatus, Cell, Machine, MachineId, MachineState, Revision, Session, TaskRow,
};
use prost::Message;

use super::super::delta::wire::{Column, put_length, put_number};
use super::super::delta::{cell_to_wire, extra_to_wire, job_to_wire};
use super::super::governance::{hold_to_wire, partition_to_wire, quota_to_wire, rights_to_wire, unknown_to_wire};
use super::{Table, rows, rows_in_page};
use crate::sections::Sections;
use crate::v1;

/// The bytes of one page, a `v1::Page` with all that is in it.
///
/// A page beyond the last one of its table is empty.
#[must_use]
pub fn encode_page(cell: &Cell, table: Table, number: u32) -> Bytes {
    encode_page_for(cell, table, number, Sections::ALL)
}

/// The bytes of one page as a watcher of these sections gets it: without what jobs do, unless it may read that.
#[must_use]
pub fn encode_page_for(cell: &Cell, table: Table, number: u32, sections: Sections) -> Bytes {
    let mut page = v1::Page { table: table.into(), number, ..v1::Page::default() };
    let range = rows_in_page(table, number, rows(cell, table));
    match table {
        Table::Unspecified => {}
        Table::Meta => page.meta = Some(meta(cell, sections)),
        Table::Machines => page.machines = Some(machines(cell, range)),
        Table::Jobs => page.jobs = Some(jobs(cell, range, sections.has(v1::Section::Bodies))),
        Table::Groups => page.groups = Some(groups(cell, range)),
        Table::Tasks => return columns(&page, TASKS, &tasks(cell, range)),
        Table::Allocations => return columns(&page, ALLOCATIONS, &allocations(cell, range)),
        Table::Sessions => page.sessions = Some(sessions_page(cell, range)),
        Table::Quotas => {
            let quotas = rows_of(cell.quotas(), range).map(|(name, quota)| quota_to_wire(name, Some(quota)));
            page.quotas = Some(v1::QuotaPage { quotas: quotas.collect() });
        }
        Table::Holds => {
            let holds = rows_of(cell.holds(), range).map(|(job, hold)| hold_to_wire(job, Some(hold)));
            page.holds = Some(v1::HoldPage { holds: holds.collect() });
        }
        Table::Partitions => {
            let all = rows_of(cell.partitions(), range).map(|(name, all)| partition_to_wire(name, Some(all)));
            page.partitions = Some(v1::PartitionPage { partitions: all.collect() });
        }
        Table::UnknownTasks => {
            let tasks = rows_of(cell.unknown_tasks(), range).map(|(id, task)| unknown_to_wire(id, Some(task)));
            page.unknown_tasks = Some(v1::UnknownTaskPage { unknown_tasks: tasks.collect() });
        }
    }
    page.encode_to_vec().into()
}

/// Fields of `Page`.
const TASKS: u8 = 7;
const ALLOCATIONS: u8 = 8;

/// A page of columns, which are encoded already. Nearly all that a checkpoint writes is in such pages, and generated code needs each
/// column in memory of its own first, walks it three times, and writes each number by a call.
fn columns(page: &v1::Page, field: u8, content: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(content.len() + 24);
    put_number(&mut out, 1, i64::from(page.table).cast_unsigned());
    put_number(&mut out, 2, page.number.into());
    put_length(&mut out, field, content.len());
    out.extend_from_slice(content);
    out.into()
}

fn meta(cell: &Cell, sections: Sections) -> v1::MetaPage {
    let tables = sections.has(v1::Section::Allocations);
    v1::MetaPage {
        revision: cell.revision().0,
        time_micros: cell.time().micros,
        cell: Some(cell_to_wire(cell.identity())),
        scheduler_names: cell.scheduler_names().iter().map(|name| name.to_string()).collect(),
        shapes: cell.shapes().iter().map(v1::Resources::from).collect(),
        filling_page: cell.filling().map_or(0, |page| page + 1),
        machine_rows: rows(cell, Table::Machines),
        job_rows: rows(cell, Table::Jobs),
        group_rows: rows(cell, Table::Groups),
        task_rows: rows(cell, Table::Tasks),
        allocation_rows: rows(cell, Table::Allocations),
        session_rows: rows(cell, Table::Sessions),
        quota_rows: rows(cell, Table::Quotas),
        hold_rows: rows(cell, Table::Holds),
        partition_rows: rows(cell, Table::Partitions),
        unknown_task_rows: rows(cell, Table::UnknownTasks),
        paused: cell.paused().filter(|_| tables).map(|name| name.to_string()).collect(),
        rights: cell.rights().map(|(name, rights)| rights_to_wire(name, *rights)).collect(),
        ..v1::MetaPage::default()
    }
}

/// Rows of a table that are kept in an order, and not by number.
fn rows_of<T>(all: impl Iterator<Item = T>, range: Range<u32>) -> impl Iterator<Item = T> {
    all.skip(range.start as usize).take(range.len())
}

fn machines(cell: &Cell, range: Range<u32>) -> v1::MachinePage {
    let mut page = v1::MachinePage::default();
    for slot in range {
        let Some(found) = cell.machine_slots().get(slot).filter(|found| found.generation > 0) else { continue };
        page.machines.push(found.machine.as_deref().map_or_else(|| gone(slot, found.generation), Into::into));
        page.last_changes.push(cell.machine_rows().get(slot).map_or(0, |row| row.last_change.0));
    }
    page
}

/// A slot without a machine: the next one in it needs the generation.
fn gone(slot: u32, generation: u32) -> v1::MachineChange {
    let id = MachineId { slot, generation }.to_bits();
    v1::MachineChange { id, state: v1::MachineState::Gone.into(), ..v1::MachineChange::default() }
}

/// Whether a machine is a slot's generation, and nothing else.
pub(super) fn is_gone(machine: &Machine) -> bool {
    machine.state == MachineState::Gone
}

fn jobs(cell: &Cell, range: Range<u32>, bodies: bool) -> v1::JobPage {
    let mut page = v1::JobPage::default();
    for slot in range {
        let Some(found) = cell.job_slots().get(slot) else { continue };
        match &found.job {
            Some(job) => {
                let body = job.body.as_ref().filter(|_| bodies).map(|body| Bytes::copy_from_slice(body));
                // Where the tasks are stands in the rows of the groups, which move without the job.
                page.jobs.push(v1::JobRow { put: Some(job_to_wire(job, &[])), body: body.unwrap_or_default() });
            }
            None if found.generation > 0 => page.free.extend([slot, found.generation]),
            None => {}
        }
    }
    page
}

fn groups(cell: &Cell, range: Range<u32>) -> v1::GroupPage {
    let rows: Vec<_> = range.filter_map(|row| cell.groups().get(row)).collect();
    v1::GroupPage {
        task_bases: rows.iter().map(|row| row.task_base).collect(),
        counts: rows.iter().map(|row| row.count).collect(),
        not_before_micros: rows.iter().map(|row| row.not_before.micros).collect(),
    }
}

/// The columns of a `TaskPage`.
fn tasks(cell: &Cell, range: Range<u32>) -> Vec<u8> {
    let rows: Vec<TaskRow> = cell.task_rows(range).collect();
    let mut out = Vec::with_capacity(8 * rows.len());
    Column::new(1, rows.iter().map(|row| row.allocation)).put(&mut out);
    Column::new(2, rows.iter().map(|row| row.attempts)).put(&mut out);
    Column::new(3, rows.iter().map(|row| row.state as u32)).put(&mut out);
    Column::new(4, rows.iter().map(|row| row.failures)).put(&mut out);
    out
}

/// The columns of an `AllocationPage`.
fn allocations(cell: &Cell, range: Range<u32>) -> Vec<u8> {
    let (rows, statuses): (Vec<AllocationRow>, Vec<AllocationStatus>) = cell.allocation_images(range.clone()).unzip();
    let mut out = Vec::with_capacity(64 * rows.len());
    // The bits of all rows, in one walk through them: one for each column takes as long as it does to write them.
    let all = rows.iter().fold(AllocationRow::default(), |all, row| united(&all, row));
    let rows = Rows { rows: &rows, all: &all };
    rows.put(&mut out, 1, |row| row.generation);
    Column::new(2, statuses.iter().map(|status| status.state as u32)).put(&mut out);
    Column::new(3, statuses.iter().map(|status| u32::from(status.ready))).put(&mut out);
    rows.put(&mut out, 4, |row| row.job().to_bits());
    rows.put(&mut out, 5, |row| row.group);
    rows.put(&mut out, 6, |row| row.group_row);
    rows.put(&mut out, 7, |row| row.job_version);
    rows.put(&mut out, 8, |row| row.task);
    rows.put(&mut out, 9, |row| row.attempt);
    rows.put(&mut out, 10, |row| row.machine);
    rows.put(&mut out, 11, |row| row.epoch);
    rows.put(&mut out, 12, |row| row.shape);
    rows.put(&mut out, 13, |row| row.scheduler);
    rows.put(&mut out, 14, |row| row.created.0);
    extras(cell, range).encode(&mut out).expect("a growing buffer has room");
    rows.put(&mut out, 18, |row| row.session);
    rows.put(&mut out, 19, |row| row.number);
    out
}

/// Rows of a page, and the bits of all of them.
struct Rows<'a> {
    rows: &'a [AllocationRow],
    all: &'a AllocationRow,
}

impl Rows<'_> {
    /// Writes a column of them.
    fn put<N: Into<u64>>(&self, out: &mut Vec<u8>, field: u8, number: impl Fn(&AllocationRow) -> N) {
        let bits = number(self.all).into();
        Column::of_bits(field, self.rows.iter().map(&number), bits, self.rows.len()).put(out);
    }
}

/// The bits of both of them.
fn united(one: &AllocationRow, other: &AllocationRow) -> AllocationRow {
    AllocationRow {
        created: Revision(one.created.0 | other.created.0),
        session: one.session | other.session,
        number: one.number | other.number,
        generation: one.generation | other.generation,
        job_slot: one.job_slot | other.job_slot,
        job_generation: one.job_generation | other.job_generation,
        job_version: one.job_version | other.job_version,
        group_row: one.group_row | other.group_row,
        task: one.task | other.task,
        machine: one.machine | other.machine,
        epoch: one.epoch | other.epoch,
        shape: one.shape | other.shape,
        group: one.group | other.group,
        attempt: one.attempt | other.attempt,
        scheduler: one.scheduler | other.scheduler,
    }
}

/// What few allocations have: the fields 15 to 17 of an `AllocationPage`.
pub(super) fn extras(cell: &Cell, range: Range<u32>) -> v1::AllocationPage {
    let mut page = v1::AllocationPage::default();
    // Most cells have few, and none behind the last one that has some.
    let range = range.start..range.end.min(cell.extra_rows().len());
    for (position, slot) in (0..).zip(range) {
        let Some(extra) = cell.allocation_in(slot).and_then(|found| found.extra) else { continue };
        if extra.restarts > 0 {
            page.restarts.extend([position, extra.restarts]);
        }
        if let Some(reason) = &extra.reason {
            page.reasons.push(v1::NumberedReason { position, reason: reason.to_string() });
        }
        if !(extra.devices.is_empty() && extra.ports.is_empty() && extra.takes_over.is_empty()) {
            page.extras.push(extra_to_wire(position, &extra.devices, &extra.ports, &extra.takes_over));
        }
    }
    page
}

fn sessions_page(cell: &Cell, range: Range<u32>) -> v1::SessionPage {
    v1::SessionPage { sessions: rows_of(cell.sessions(), range).map(|session| session_row(session)).collect() }
}

fn session_row(session: &Session) -> v1::SessionRow {
    v1::SessionRow {
        opened: Some(v1::SessionOpened {
            id: session.id.0,
            scheduler: session.scheduler.to_string(),
            principal: session.principal.to_string(),
            namespace: session.namespace.to_string(),
        }),
        numbers: session.decided.iter().map(|decided| decided.number).collect(),
        revisions: session.decided.iter().map(|decided| decided.revision.0).collect(),
        digests: session.decided.iter().map(|decided| decided.digest).collect(),
    }
}

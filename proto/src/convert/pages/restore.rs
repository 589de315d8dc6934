//! Reading a cell back from its pages.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use plenum_model::session::{DecidedNumber, NUMBERS_KEPT};
use plenum_model::{
    AllocationExtra, AllocationRow, AllocationState, AllocationStatus, Attributes, Cell, Governance, LogTime, Machine,
    Restore, RestoreError, RestoredAllocation, Revision, Session, SessionId, TaskRow, TaskState,
};
use prost::Message;

use super::super::columns::{self, Columned};
use super::super::delta::{cell_from_wire, extra_from_wire, job_from_wire, name, position, reasons_by_position};
use super::super::governance::{
    hold_from_wire, partition_from_wire, quota_from_wire, rights_from_wire, unknown_from_wire,
};
use super::super::machines::attributes_from_wire;
use super::super::{each, newer, required};
use super::encode::is_gone;
use super::narrow;
use super::{TABLES, Table, pages_of, rows_in_page};
use crate::bounds;
use crate::error::{Invalid, ReadError, Within};
use crate::sections::Sections;
use crate::{names, v1};

/// Why pages are no cell.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// A page could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A page that the rows of its table need is not there.
    #[error("expected page {number} of {}, found none", table.as_str_name())]
    Missing {
        /// Which table.
        table: Table,
        /// Which of its pages.
        number: u32,
    },
    /// A page that is there already, or beyond the rows of its table.
    #[error("expected each page of {} once and below {pages}, found page {number}", table.as_str_name())]
    Unexpected {
        /// Which table.
        table: Table,
        /// Which page.
        number: u32,
        /// How many the table has.
        pages: u32,
    },
    /// Rows that do not fit each other.
    #[error("the rows of the pages do not fit each other")]
    Rows(#[from] RestoreError),
}

/// The cell in these pages, all of them encoded `v1::Page`s, in any order.
///
/// # Errors
/// When a page can't be read, is missing, or does not fit the others.
pub fn restore(pages: impl IntoIterator<Item = Bytes>) -> Result<Cell, PageError> {
    let mut decoder = Decoder::new(Sections::ALL);
    for page in pages {
        decoder.add(page)?;
    }
    decoder.finish()
}

/// The message in a page's bytes: half of the work of [`Decoder::add`], for callers that have another thread for it.
///
/// # Errors
/// When the bytes are none.
pub fn read(page: Bytes) -> Result<ReadPage, PageError> {
    read_page(page, false)
}

/// The same, for who goes on from these pages and writes that down: fields that this version does not know are not left out.
///
/// # Errors
/// As [`read`]; [`ReadError::Newer`] where a later version said something that this one does not know.
pub fn read_whole(page: Bytes) -> Result<ReadPage, PageError> {
    read_page(page, true)
}

fn read_page(page: Bytes, whole: bool) -> Result<ReadPage, PageError> {
    let as_is = |page| Columned { page, attributes: Vec::new() };
    let columned = if narrow::is_narrow(&page) {
        as_is(narrow::read(page.clone(), whole)?)
    } else {
        match columns::page(&page, whole) {
            Some(columned) => columned,
            None => as_is(newer::decode("Page", page.clone(), whole)?),
        }
    };
    Ok(ReadPage { columned, bytes: page })
}

/// A page that was [`read`], and is to be added.
#[derive(Debug)]
pub struct ReadPage {
    columned: Columned,
    /// As it came: that tells what breaks a rule from what a later version wrote.
    bytes: Bytes,
}

/// A cell in the making, from pages in any order. Those that come before `Meta` wait for it.
#[derive(Debug)]
pub struct Decoder {
    sections: Sections,
    waiting: Vec<ReadPage>,
    begun: Option<Begun>,
}

#[derive(Debug)]
struct Begun {
    restore: Restore,
    /// What came of it so far.
    governance: Governance,
    rows: [u32; TABLES.len()],
    seen: [BTreeSet<u32>; TABLES.len()],
    /// By their encoded fields, the attributes of machines that came so far, with the number of their class.
    classes: BTreeMap<Vec<u8>, (Arc<Attributes>, u32)>,
}

impl Decoder {
    /// Expects the pages of these sections.
    #[must_use]
    pub fn new(sections: Sections) -> Self {
        Self { sections, waiting: Vec::new(), begun: None }
    }

    /// Takes one page.
    ///
    /// # Errors
    /// When it can't be read, is there already, or is not of this cell. The decoder is then of no use any more.
    pub fn add(&mut self, page: Bytes) -> Result<(), PageError> {
        self.add_read(read(page)?)
    }

    /// Takes one page that was [`read`] before.
    ///
    /// # Errors
    /// As [`Decoder::add`].
    pub fn add_read(&mut self, page: ReadPage) -> Result<(), PageError> {
        match (&mut self.begun, &page.columned.page.meta) {
            (Some(begun), _) => begun.add(page),
            (None, None) => {
                self.waiting.push(page);
                Ok(())
            }
            (None, Some(_)) => {
                let ReadPage { columned, bytes } = page;
                let mut begun = Begun::new(columned.page).map_err(|source| content(&bytes, source))?;
                self.waiting.drain(..).try_for_each(|page| begun.add(page))?;
                self.begun = Some(begun);
                Ok(())
            }
        }
    }

    /// Pages that wait for `Meta`, and are kept as they came: who takes them from outside lets there be few.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The cell, once all pages are there.
    ///
    /// # Errors
    /// When one is missing, or rows do not fit each other.
    pub fn finish(self) -> Result<Cell, PageError> {
        let mut begun = self.begun.ok_or(PageError::Missing { table: Table::Meta, number: 0 })?;
        for (position, table) in TABLES.into_iter().enumerate() {
            let pages = pages_of(table, begun.rows[position]);
            let missing = (0..pages).find(|number| !begun.seen[position].contains(number));
            if let Some(number) = missing.filter(|_| self.sections.has_table(table)) {
                return Err(PageError::Missing { table, number });
            }
        }
        begun.restore.governance(begun.governance);
        Ok(begun.restore.finish()?)
    }
}

fn content(bytes: &Bytes, source: Invalid) -> PageError {
    if !narrow::is_narrow(bytes) {
        return newer::breaks_a_rule("Page", bytes, source).into();
    }
    match narrow::read(bytes.clone(), true) {
        Ok(page) => newer::breaks_a_rule("Page", &page.encode_to_vec(), source).into(),
        Err(newer) => newer.into(),
    }
}

impl Begun {
    fn new(page: v1::Page) -> Result<Self, Invalid> {
        let meta = required("meta", "a meta page", page.meta)?;
        let rows = [
            1,
            meta.machine_rows,
            meta.job_rows,
            meta.group_rows,
            meta.task_rows,
            meta.allocation_rows,
            meta.session_rows,
            meta.quota_rows,
            meta.hold_rows,
            meta.partition_rows,
            meta.unknown_task_rows,
        ];
        bounds::up_to("meta", rows.into_iter().max().unwrap_or(0), bounds::ROWS_MAX)?;
        let governance = Governance {
            quotas: present("meta.quotas", meta.quotas, quota_from_wire)?,
            holds: present("meta.holds", meta.holds, hold_from_wire)?,
            partitions: present("meta.partitions", meta.partitions, partition_from_wire)?,
            unknown: present("meta.unknown_tasks", meta.unknown_tasks, unknown_from_wire)?,
            paused: each("meta.paused", meta.paused, |text| name(&text))?,
            rights: each("meta.rights", meta.rights, rights_from_wire)?,
        };
        let restore = Restore::new(
            Revision(meta.revision),
            LogTime { micros: meta.time_micros },
            cell_from_wire(required("cell", "the cell's identity", meta.cell)?).within("meta.cell")?,
            each("meta.scheduler_names", meta.scheduler_names, |text| name(&text))?,
            each("meta.shapes", meta.shapes, TryInto::try_into)?,
            bounds::optional_row("meta.filling_page", meta.filling_page)?,
        );
        let mut seen: [BTreeSet<u32>; TABLES.len()] = Default::default();
        seen[0].insert(0);
        Ok(Self { restore, governance, rows, seen, classes: BTreeMap::new() })
    }

    fn add(&mut self, page: ReadPage) -> Result<(), PageError> {
        let ReadPage { columned: Columned { page, attributes }, bytes } = page;
        let content = |source| content(&bytes, source);
        let table = Table::try_from(page.table).unwrap_or_default();
        let Some(position) = TABLES.iter().position(|&known| known == table) else {
            return Err(content(Invalid::new("table", "the number of a table, 1 to 11", page.table)));
        };
        let (number, pages) = (page.number, pages_of(table, self.rows[position]));
        // An image of rows that are gone since: when there are fewer, pages behind the last one are not written again.
        if shrinks(table) && number >= pages {
            return Ok(());
        }
        if number >= pages || !self.seen[position].insert(number) {
            return Err(PageError::Unexpected { table, number, pages });
        }
        let rows = rows_in_page(table, number, self.rows[position]);
        self.fill(table, page, &attributes, rows).within_at(table.as_str_name(), number as usize).map_err(content)
    }

    fn fill(&mut self, table: Table, page: v1::Page, apart: &[Vec<u8>], rows: Range<u32>) -> Result<(), Invalid> {
        let (restore, governance) = (&mut self.restore, &mut self.governance);
        match table {
            Table::Unspecified | Table::Meta => Ok(()),
            Table::Machines => self.machines(required("machines", "rows", page.machines)?, apart, &rows),
            Table::Jobs => jobs(restore, required("jobs", "rows", page.jobs)?, &rows),
            Table::Groups => groups(restore, &required("groups", "rows", page.groups)?, rows),
            Table::Tasks => tasks(restore, &required("tasks", "rows", page.tasks)?, rows),
            Table::Allocations => allocations(restore, &required("allocations", "rows", page.allocations)?, rows),
            Table::Sessions => sessions(restore, required("sessions", "rows", page.sessions)?),
            Table::Quotas => {
                let page = required("quotas", "rows", page.quotas)?;
                fill(&mut governance.quotas, present("quotas", page.quotas, quota_from_wire)?, &rows)
            }
            Table::Holds => {
                let page = required("holds", "rows", page.holds)?;
                fill(&mut governance.holds, present("holds", page.holds, hold_from_wire)?, &rows)
            }
            Table::Partitions => {
                let page = required("partitions", "rows", page.partitions)?;
                fill(&mut governance.partitions, present("partitions", page.partitions, partition_from_wire)?, &rows)
            }
            Table::UnknownTasks => {
                let page = required("unknown_tasks", "rows", page.unknown_tasks)?;
                fill(&mut governance.unknown, present("unknown_tasks", page.unknown_tasks, unknown_from_wire)?, &rows)
            }
        }
    }
}

impl Begun {
    /// Adds machines; their attributes may be `apart`, encoded.
    fn machines(&mut self, page: v1::MachinePage, apart: &[Vec<u8>], rows: &Range<u32>) -> Result<(), Invalid> {
        bounds::column("last_changes", page.machines.len(), page.last_changes.len())?;
        for (position, (machine, last_change)) in page.machines.into_iter().zip(page.last_changes).enumerate() {
            let encoded = apart.get(position);
            self.machine(machine, encoded, Revision(last_change), rows).within_at("machines", position)?;
        }
        Ok(())
    }

    fn machine(
        &mut self,
        wire: v1::MachineChange,
        encoded: Option<&Vec<u8>>,
        last_change: Revision,
        rows: &Range<u32>,
    ) -> Result<(), Invalid> {
        let mut machine = Machine::try_from(wire)?;
        slot_in(machine.id.slot, rows).within("id")?;
        if is_gone(&machine) {
            self.restore.gone(machine.id, last_change);
            return Ok(());
        }
        if machine.name.is_empty() {
            return Err(Invalid::missing("name", "the name of a machine"));
        }
        let class = match encoded {
            None => self.restore.class(&machine.attributes),
            Some(encoded) => {
                let (attributes, class) = self.class(encoded)?;
                machine.attributes = attributes;
                class
            }
        };
        self.restore.machine(&machine, class, last_change);
        Ok(())
    }

    /// The class of attributes that came by themselves.
    fn class(&mut self, encoded: &[u8]) -> Result<(Arc<Attributes>, u32), Invalid> {
        if let Some((attributes, class)) = self.classes.get(encoded) {
            return Ok((attributes.clone(), *class));
        }
        let wire = v1::MachineChange::decode(encoded);
        let wire = wire.map_err(|error| Invalid::new("attributes", "names and values", error))?;
        let attributes = Arc::new(attributes_from_wire(&wire.attributes)?);
        let class = self.restore.class(&attributes);
        self.classes.insert(encoded.to_vec(), (attributes.clone(), class));
        Ok((attributes, class))
    }
}

/// Whether rows of it that are gone leave no gap, so that it may have fewer pages than before.
fn shrinks(table: Table) -> bool {
    use Table::{Holds, Partitions, Quotas, Sessions, UnknownTasks};
    matches!(table, Sessions | Quotas | Holds | Partitions | UnknownTasks)
}

/// Rows that are there; one without content says that it was removed, and is not kept in pages.
fn present<W, K, V>(
    field: &str,
    rows: Vec<W>,
    from_wire: impl Fn(W) -> Result<(K, Option<V>), Invalid>,
) -> Result<Vec<(K, V)>, Invalid> {
    Ok(each(field, rows, from_wire)?.into_iter().filter_map(|(key, value)| Some((key, value?))).collect())
}

/// Adds what a page has, which is all of its rows.
fn fill<T>(all: &mut Vec<T>, more: Vec<T>, rows: &Range<u32>) -> Result<(), Invalid> {
    bounds::column("rows", rows.len(), more.len())?;
    all.extend(more);
    Ok(())
}

/// A slot that belongs to the page.
fn slot_in(slot: u32, rows: &Range<u32>) -> Result<u32, Invalid> {
    if rows.contains(&slot) {
        Ok(slot)
    } else {
        Err(Invalid::new("", format!("a slot of this page, {} to {}", rows.start, rows.end), slot))
    }
}

fn jobs(restore: &mut Restore, page: v1::JobPage, rows: &Range<u32>) -> Result<(), Invalid> {
    for (position, row) in page.jobs.into_iter().enumerate() {
        let body = (!row.body.is_empty()).then(|| row.body.as_ref().into());
        let (job, _) = job_from_wire(required("put", "a job", row.put)?, body).within_at("jobs", position)?;
        slot_in(job.id.slot, rows).within("put.id").within_at("jobs", position)?;
        restore.job(job.id.slot, job.id.generation, Some(Arc::new(job)));
    }
    let (pairs, []) = page.free.as_chunks() else {
        return Err(Invalid::new("free", "pairs of slot and generation", page.free.len()));
    };
    for &[slot, generation] in pairs {
        restore.job(slot_in(slot, rows).within("free")?, generation, None);
    }
    Ok(())
}

fn groups(restore: &mut Restore, page: &v1::GroupPage, rows: Range<u32>) -> Result<(), Invalid> {
    bounds::column("task_bases", rows.len(), page.task_bases.len())?;
    bounds::column("counts", rows.len(), page.counts.len())?;
    bounds::column("not_before_micros", rows.len(), page.not_before_micros.len())?;
    bounds::rows("task_bases", &page.task_bases)?;
    let columns = page.task_bases.iter().zip(&page.counts).zip(&page.not_before_micros);
    for (row, ((&task_base, &count), &micros)) in rows.zip(columns) {
        let count = bounds::up_to("counts", count, bounds::COUNT_MAX)?;
        restore.group(row, task_base, count, LogTime { micros });
    }
    Ok(())
}

fn tasks(restore: &mut Restore, page: &v1::TaskPage, rows: Range<u32>) -> Result<(), Invalid> {
    bounds::column("allocations", rows.len(), page.allocations.len())?;
    bounds::column("attempts", rows.len(), page.attempts.len())?;
    bounds::column("states", rows.len(), page.states.len())?;
    bounds::column("failures", rows.len(), page.failures.len())?;
    for (position, row) in rows.enumerate() {
        let state = TaskState::from_number(page.states[position])
            .ok_or_else(|| Invalid::new("states", "states of tasks, 0 to 5", page.states[position]))?;
        let task = TaskRow {
            allocation: page.allocations[position],
            attempts: bounds::narrow("attempts", page.attempts[position], u64::from(u16::MAX))?,
            state,
            failures: bounds::narrow("failures", page.failures[position], u64::from(u8::MAX))?,
        };
        restore.task(row, task);
    }
    Ok(())
}

fn allocations(restore: &mut Restore, page: &v1::AllocationPage, rows: Range<u32>) -> Result<(), Invalid> {
    check_columns(page, rows.len())?;
    let mut extras = extras(page, rows.len())?.into_iter();
    for (position, slot) in rows.enumerate() {
        let (row, status) = allocation(page, position)?;
        restore.allocation(RestoredAllocation { slot, row, status, extra: extras.next() });
    }
    Ok(())
}

/// What few allocations have, by position; none at all for a page where none has any.
fn extras(page: &v1::AllocationPage, rows: usize) -> Result<Vec<AllocationExtra>, Invalid> {
    if page.extras.is_empty() && page.restarts.is_empty() && page.reasons.is_empty() {
        return Ok(Vec::new());
    }
    let mut extras = vec![AllocationExtra::default(); rows];
    for (number, wire) in page.extras.iter().cloned().enumerate() {
        let found = extra_from_wire(wire, rows).within_at("extras", number)?;
        let extra = &mut extras[found.claim as usize];
        (extra.devices, extra.ports, extra.takes_over) = (found.devices, found.ports, found.takes_over);
    }
    let (pairs, []) = page.restarts.as_chunks() else {
        return Err(Invalid::new("restarts", "pairs of position and count", page.restarts.len()));
    };
    for &[found, restarts] in pairs {
        extras[position(found, rows).within("restarts")?].restarts = restarts;
    }
    reasons_by_position(&page.reasons, rows, |position, reason| extras[position].reason = Some(reason))?;
    Ok(extras)
}

fn check_columns(page: &v1::AllocationPage, rows: usize) -> Result<(), Invalid> {
    let columns = [
        ("generations", page.generations.len()),
        ("states", page.states.len()),
        ("ready", page.ready.len()),
        ("jobs", page.jobs.len()),
        ("groups", page.groups.len()),
        ("group_rows", page.group_rows.len()),
        ("job_versions", page.job_versions.len()),
        ("tasks", page.tasks.len()),
        ("attempts", page.attempts.len()),
        ("machines", page.machines.len()),
        ("epochs", page.epochs.len()),
        ("shapes", page.shapes.len()),
        ("schedulers", page.schedulers.len()),
        ("created", page.created.len()),
        ("sessions", page.sessions.len()),
        ("numbers", page.numbers.len()),
    ];
    columns.into_iter().try_for_each(|(field, found)| bounds::column(field, rows, found))
}

fn allocation(page: &v1::AllocationPage, at: usize) -> Result<(AllocationRow, AllocationStatus), Invalid> {
    let state = AllocationState::from_number(page.states[at])
        .filter(|state| !state.is_end())
        .ok_or_else(|| Invalid::new("states", "0 for a free row, or states of live allocations", page.states[at]))?;
    // A free row is of no job.
    let job = match page.jobs[at] {
        0 if !state.is_live() => plenum_model::JobId::default(),
        bits => bounds::job("jobs", bits)?,
    };
    let row = AllocationRow {
        created: Revision(page.created[at]),
        session: page.sessions[at],
        number: bounds::narrow("numbers", page.numbers[at], u64::from(u32::MAX))?,
        generation: page.generations[at],
        job_slot: job.slot,
        job_generation: job.generation,
        job_version: page.job_versions[at],
        group_row: page.group_rows[at],
        task: page.tasks[at],
        machine: page.machines[at],
        epoch: page.epochs[at],
        shape: page.shapes[at],
        group: bounds::group("groups", page.groups[at])?,
        attempt: bounds::narrow("attempts", page.attempts[at], u64::from(u16::MAX))?,
        scheduler: bounds::narrow("schedulers", page.schedulers[at], u64::from(u16::MAX))?,
    };
    Ok((row, AllocationStatus { state, ready: page.ready[at] > 0 }))
}

fn sessions(restore: &mut Restore, page: v1::SessionPage) -> Result<(), Invalid> {
    for (position, row) in page.sessions.into_iter().enumerate() {
        restore.session(session(row).within_at("sessions", position)?);
    }
    Ok(())
}

fn session(row: v1::SessionRow) -> Result<Session, Invalid> {
    let opened = required("opened", "a session", row.opened)?;
    bounds::at_most("numbers", "numbers", row.numbers.len(), NUMBERS_KEPT)?;
    bounds::column("revisions", row.numbers.len(), row.revisions.len())?;
    bounds::column("digests", row.numbers.len(), row.digests.len())?;
    if !row.numbers.is_sorted_by(|left, right| left < right) {
        return Err(Invalid::new("numbers", "rising numbers", "others"));
    }
    let columns = row.numbers.into_iter().zip(row.revisions).zip(row.digests);
    let decided: VecDeque<_> = columns
        .map(|((number, revision), digest)| DecidedNumber { number, revision: Revision(revision), digest })
        .collect();
    Ok(Session {
        id: SessionId(opened.id),
        scheduler: names::name("opened.scheduler", &opened.scheduler)?,
        principal: names::principal("opened.principal", &opened.principal)?,
        namespace: names::optional_name("opened.namespace", &opened.namespace)?,
        decided,
    })
}

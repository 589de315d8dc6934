//! Pages: what snapshots, checkpoints and the history are made of. A cell is a set of pages, and back.
//!
//! Rooms, counters and indexes are not in them: `Restore` derives them. So a page changes only when a row of it does.

mod changed;
mod encode;
mod narrow;
mod restore;

use plenum_model::Cell;
use plenum_model::cell::page_rows;

pub use changed::{changed, with_grants};
pub use encode::{encode_page, encode_page_for};
pub use narrow::encode_image;
pub use restore::{Decoder, PageError, ReadPage, read, read_whole, restore};

pub use crate::v1::Table;

/// Sessions of a page: with 256 remembered numbers each, it is below 300 KiB.
pub const SESSION_ROWS: usize = 64;
/// Quotas of a page: below 200 KiB.
const QUOTA_ROWS: usize = 1 << 10;
/// Holds of a page: below 6 MiB where each is of as many machines as a request can name.
const HOLD_ROWS: usize = 64;
/// Partitions of a page: below 9 MiB with all the constraints and values that one can have.
const PARTITION_ROWS: usize = 8;
/// Unknown tasks of a page: some 700 KiB.
const UNKNOWN_TASK_ROWS: usize = 4 << 10;

/// All tables, in the order of their numbers. `Meta` is first: it says how many rows the others have.
pub const TABLES: [Table; 11] = [
    Table::Meta,
    Table::Machines,
    Table::Jobs,
    Table::Groups,
    Table::Tasks,
    Table::Allocations,
    Table::Sessions,
    Table::Quotas,
    Table::Holds,
    Table::Partitions,
    Table::UnknownTasks,
];

/// Rows of a page of that table.
#[must_use]
pub const fn rows_of_page(table: Table) -> usize {
    match table {
        Table::Unspecified | Table::Meta => 1,
        Table::Machines => page_rows::MACHINES,
        Table::Jobs => page_rows::JOBS,
        Table::Groups => page_rows::GROUPS,
        Table::Tasks => page_rows::TASKS,
        Table::Allocations => page_rows::ALLOCATIONS,
        Table::Sessions => SESSION_ROWS,
        Table::Quotas => QUOTA_ROWS,
        Table::Holds => HOLD_ROWS,
        Table::Partitions => PARTITION_ROWS,
        Table::UnknownTasks => UNKNOWN_TASK_ROWS,
    }
}

/// How many pages each table of the cell has.
#[must_use]
pub fn tables(cell: &Cell) -> [(Table, u32); TABLES.len()] {
    TABLES.map(|table| (table, pages_of(table, rows(cell, table))))
}

/// Every page of the cell, `Meta` first.
pub fn every(cell: &Cell) -> impl Iterator<Item = (Table, u32)> + use<> {
    tables(cell).into_iter().flat_map(|(table, pages)| (0..pages).map(move |number| (table, number)))
}

/// Rows in use.
fn rows(cell: &Cell, table: Table) -> u32 {
    match table {
        Table::Unspecified => 0,
        Table::Meta => 1,
        Table::Machines => cell.machine_slots().len(),
        Table::Jobs => cell.job_slots().len(),
        Table::Groups => cell.groups().len(),
        Table::Tasks => cell.task_states().len(),
        Table::Allocations => cell.allocation_rows().len(),
        Table::Sessions => count(cell.sessions().count()),
        Table::Quotas => count(cell.quotas().len()),
        Table::Holds => count(cell.holds().len()),
        Table::Partitions => count(cell.partitions().len()),
        Table::UnknownTasks => count(cell.unknown_tasks().len()),
    }
}

fn count(rows: usize) -> u32 {
    u32::try_from(rows).expect("each row took a revision or a report, and memory")
}

/// Pages of so many rows.
fn pages_of(table: Table, rows: u32) -> u32 {
    rows.div_ceil(u32::try_from(rows_of_page(table)).expect("a page is small"))
}

/// The numbers of the rows of a page that are in use.
fn rows_in_page(table: Table, number: u32, rows: u32) -> std::ops::Range<u32> {
    let page = u32::try_from(rows_of_page(table)).expect("a page is small");
    let begin = number.saturating_mul(page).min(rows);
    begin..begin.saturating_add(page).min(rows)
}

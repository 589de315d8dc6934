//! Which pages of a cell differ from those of an earlier one, so that only these are written again.

use std::collections::BTreeSet;
use std::sync::Arc;

use plenum_model::cell::page_rows;
use plenum_model::{Cell, GroupRow, MachineRow, Paged};

use super::{Table, rows_of_page};

/// The pages that an image of `after` needs and `before` does not have: `Meta` always, and each other page of which a row
/// differs or is new. `before` is an earlier revision of the same cell.
///
/// The cost goes by the pages that changed.
#[must_use]
pub fn changed(before: &Cell, after: &Cell) -> Vec<(Table, u32)> {
    let mut pages = vec![(Table::Meta, 0)];
    let mut add = |table: Table, numbers: BTreeSet<u32>| {
        pages.extend(numbers.into_iter().map(|number| (table, number)));
    };
    add(Table::Machines, machines(before, after));
    let jobs = (before.job_slots(), after.job_slots());
    add(Table::Jobs, differing(jobs.0, jobs.1, |left, right| left == right));
    add(Table::Groups, differing(before.groups(), after.groups(), same_group));
    add(Table::Tasks, tasks(before, after));
    add(Table::Allocations, allocations(before, after));
    let sessions = (before.sessions(), after.sessions());
    add(Table::Sessions, shifting(Table::Sessions, sessions.0, sessions.1, |left, right| Arc::ptr_eq(left, right)));
    add(Table::Quotas, shifting(Table::Quotas, before.quotas(), after.quotas(), |left, right| left == right));
    add(Table::Holds, shifting(Table::Holds, before.holds(), after.holds(), |left, right| left == right));
    let partitions = (before.partitions(), after.partitions());
    add(Table::Partitions, shifting(Table::Partitions, partitions.0, partitions.1, |left, right| left == right));
    let unknown = (before.unknown_tasks(), after.unknown_tasks());
    add(
        Table::UnknownTasks,
        shifting(Table::UnknownTasks, unknown.0, unknown.1, |left, right| {
            left.0 == right.0 && Arc::ptr_eq(left.1, right.1)
        }),
    );
    pages
}

/// How many images of allocations and tasks, nearly all that a large cell has, are of pages in which rows were granted since `before`, or tasks
/// were submitted or failed: at most so many as [`changed`] finds, unless all is as it was again. Looks at no row.
#[must_use]
pub fn with_grants(before: &Cell, after: &Cell) -> usize {
    let allocations = after.allocation_rows().changed_pages(before.allocation_rows());
    let tasks = after.task_pasts().changed_pages(before.task_pasts());
    allocations.count() + tasks.count()
}

/// Pages in which some row differs by `same`, and new ones.
fn differing<T: Clone + Default, const ROWS: usize>(
    before: &Paged<T, ROWS>,
    after: &Paged<T, ROWS>,
    same: impl Fn(&T, &T) -> bool,
) -> BTreeSet<u32> {
    let differs = |&number: &u32| match (before.page(number), after.page(number)) {
        (Some(left), Some(right)) => !left.iter().zip(right).all(|(left, right)| same(left, right)),
        _ => true,
    };
    let mut pages: BTreeSet<u32> = after.changed_pages(before).filter(differs).collect();
    // An image says how many rows of its page are in use: the page that was the last one has more of them now.
    if before.len() < after.len() {
        pages.extend(before.pages().checked_sub(1));
    }
    // Rows may begin far behind the last one: the pages that were skipped are new, though nobody wrote them.
    pages.extend(before.pages()..after.pages());
    pages
}

/// What an image of a group's row has; its counters are derived.
fn same_group(left: &GroupRow, right: &GroupRow) -> bool {
    (left.task_base, left.count, left.not_before) == (right.task_base, right.count, right.not_before)
}

fn machines(before: &Cell, after: &Cell) -> BTreeSet<u32> {
    let same_row = |left: &MachineRow, right: &MachineRow| left.last_change == right.last_change;
    let mut pages = differing(before.machine_slots(), after.machine_slots(), |left, right| left == right);
    pages.extend(differing(before.machine_rows(), after.machine_rows(), same_row));
    pages
}

fn tasks(before: &Cell, after: &Cell) -> BTreeSet<u32> {
    let mut pages = differing(before.task_pasts(), after.task_pasts(), |left, right| left == right);
    pages.extend(differing_chunks::<_, _, { page_rows::TASKS }>(before.task_states(), after.task_states()));
    pages
}

fn allocations(before: &Cell, after: &Cell) -> BTreeSet<u32> {
    let mut pages = differing(before.allocation_rows(), after.allocation_rows(), |left, right| left == right);
    pages.extend(differing_chunks::<_, _, { page_rows::ALLOCATIONS }>(before.statuses(), after.statuses()));
    pages.extend(changed_extras(before, after));
    pages
}

/// Pages of images, of `CHUNK` rows, in which a column with longer pages differs.
fn differing_chunks<T: Clone + Default + PartialEq, const ROWS: usize, const CHUNK: usize>(
    before: &Paged<T, ROWS>,
    after: &Paged<T, ROWS>,
) -> BTreeSet<u32> {
    let mut pages = BTreeSet::new();
    for long_page in after.changed_pages(before) {
        let Some(now) = after.page(long_page) else { continue };
        let then = before.page(long_page);
        for (chunk, rows) in now.chunks_exact(CHUNK).enumerate() {
            let first = chunk * CHUNK;
            let same = then.is_some_and(|then| then[first..first + CHUNK] == *rows);
            let page = long_page as usize * (ROWS / CHUNK) + chunk;
            if !same && page * CHUNK < after.len() as usize {
                pages.insert(u32::try_from(page).expect("rows have 32-bit numbers"));
            }
        }
    }
    pages
}

/// Pages of allocations whose extras differ: those change without their rows, as when a victim's receipt comes.
fn changed_extras(before: &Cell, after: &Cell) -> BTreeSet<u32> {
    let (before, after) = (before.extra_rows(), after.extra_rows());
    let none = [const { None }; page_rows::ALLOCATIONS];
    after
        .changed_pages(before)
        .filter(|&page| before.page(page).unwrap_or(&none) != after.page(page).unwrap_or(&none))
        .collect()
}

/// Pages in which some row differs by `same`, of a table whose rows follow each other without gaps: where one comes or goes, all behind it
/// move.
fn shifting<T>(
    table: Table,
    before: impl Iterator<Item = T>,
    after: impl Iterator<Item = T>,
    same: impl Fn(&T, &T) -> bool,
) -> BTreeSet<u32> {
    let page_of = |row: usize| u32::try_from(row / rows_of_page(table)).expect("rows have 32-bit numbers");
    let (mut pages, mut rows) = (BTreeSet::new(), 0);
    let mut before = before.fuse();
    for row in after {
        if !before.next().is_some_and(|then| same(&then, &row)) {
            pages.insert(page_of(rows));
        }
        rows += 1;
    }
    // The last page has lost rows. Pages behind it are not of the table any more.
    if rows % rows_of_page(table) > 0 && before.next().is_some() {
        pages.insert(page_of(rows));
    }
    pages
}

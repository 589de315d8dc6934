//! Pages as a checkpoint keeps them: the columns of allocations and tasks as differences of as few bytes as they need.
//!
//! Nearly all that a checkpoint of a large cell has are rows of these two tables, and it is written while the cell is at work. A varint has to be
//! measured before it is written, and compressing a page takes as long again. Here a column is its least number and what each row has more, in
//! equal widths (frame of reference: Goldstein, Ramakrishnan and Shaft, "Compressing Relations and Indexes", ICDE 1998): no branch a row, and less
//! room than both together left.
//!
//! ```text
//! image   = NARROW  table: u8  page: u32  rows: u16  column…  rest
//! column  = widths: u8, that of the least number above that of the differences  least  difference…
//! ```
//!
//! Numbers are little-endian. The columns are those of `TaskPage`, or of `AllocationPage`, by the numbers of their fields; a free row has nothing but
//! its generation, whatever stands in the other columns. `rest` is an encoded `TaskPage` or `AllocationPage` of all else: what few rows have, and what a
//! later version adds.

use std::mem::take;

use bytes::{Buf, Bytes};
use plenum_model::{AllocationRow, AllocationState, AllocationStatus, Cell, TaskRow};
use prost::Message;

use super::super::newer;
use super::encode::{encode_page, extras};
use super::{Table, rows, rows_in_page, rows_of_page};
use crate::error::{Invalid, ReadError};
use crate::v1;

/// What no message begins with, as there is no field 0.
const NARROW: u8 = 7;
const HEAD_BYTES: usize = 8;
/// Most bytes of a number.
const WIDTH_MAX: usize = size_of::<u64>();
/// With more reasons than this a page is left a message, which is compressed: they are mostly alike.
const REASONS_BYTES_MAX: usize = 1 << 10;

/// The bytes of one page as a checkpoint keeps it: those of [`encode_page`], or for a table with many rows such as [`read_whole`](super::read_whole)
/// alone reads.
#[must_use]
pub fn encode_image(cell: &Cell, table: Table, number: u32) -> Bytes {
    let range = rows_in_page(table, number, rows(cell, table));
    match table {
        Table::Tasks => {
            let rows: Vec<TaskRow> = cell.task_rows(range).collect();
            tasks(number, &rows).into()
        }
        Table::Allocations => {
            let rest = extras(cell, range.clone());
            let reasons_bytes: usize = rest.reasons.iter().map(|found| found.reason.len()).sum();
            if reasons_bytes > REASONS_BYTES_MAX {
                return encode_page(cell, table, number);
            }
            let (mut rows, statuses): (Vec<_>, Vec<_>) = cell.allocation_images(range).unzip();
            let mut image = allocations(number, &mut rows, &statuses);
            rest.encode(&mut image).expect("a growing buffer has room");
            image.into()
        }
        _ => encode_page(cell, table, number),
    }
}

fn tasks(number: u32, rows: &[TaskRow]) -> Vec<u8> {
    let mut out = begun(Table::Tasks, number, rows.len(), 8);
    put(&mut out, rows, |row| row.allocation);
    put(&mut out, rows, |row| row.attempts);
    put(&mut out, rows, |row| row.state as u32);
    put(&mut out, rows, |row| row.failures);
    out
}

/// All columns. Free rows get what a live one has: as zeros they would make differences as wide as numbers are.
fn allocations(number: u32, rows: &mut [AllocationRow], statuses: &[AllocationStatus]) -> Vec<u8> {
    let is_live = |status: &AllocationStatus| status.state != AllocationState::Free;
    let mut like = statuses.iter().position(is_live).map_or_else(AllocationRow::default, |live| rows[live]);
    for (row, status) in rows.iter_mut().zip(statuses) {
        if is_live(status) {
            like = *row;
        } else {
            *row = AllocationRow { generation: row.generation, ..like };
        }
    }
    let rows = &*rows;
    let mut out = begun(Table::Allocations, number, rows.len(), 32);
    put(&mut out, rows, |row| row.generation);
    put(&mut out, statuses, |status| status.state as u32);
    put(&mut out, statuses, |status| u32::from(status.ready));
    put(&mut out, rows, |row| row.job().to_bits());
    put(&mut out, rows, |row| row.group);
    put(&mut out, rows, |row| row.group_row);
    put(&mut out, rows, |row| row.job_version);
    put(&mut out, rows, |row| row.task);
    put(&mut out, rows, |row| row.attempt);
    put(&mut out, rows, |row| row.machine);
    put(&mut out, rows, |row| row.epoch);
    put(&mut out, rows, |row| row.shape);
    put(&mut out, rows, |row| row.scheduler);
    put(&mut out, rows, |row| row.created.0);
    put(&mut out, rows, |row| row.session);
    put(&mut out, rows, |row| row.number);
    out
}

/// The head of an image, with room for so many bytes of each row.
fn begun(table: Table, number: u32, rows: usize, row_bytes: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + rows * row_bytes);
    out.push(NARROW);
    out.push(u8::try_from(i32::from(table)).expect("tables have small numbers"));
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(&u16::try_from(rows).expect("a page has few rows").to_le_bytes());
    out
}

/// Appends a column.
fn put<R, N: Into<u64>>(out: &mut Vec<u8>, rows: &[R], number: impl Fn(&R) -> N) {
    let number = |row: &R| number(row).into();
    let (least, most) =
        rows.iter().map(number).fold((u64::MAX, 0), |(least, most), number| (least.min(number), most.max(number)));
    // Of no row at all nothing is the least.
    let least = least.min(most);
    let (of_least, width) = (width_of(least), width_of(most - least));
    out.push(u8::try_from(of_least << 4 | width).expect("both are at most 8"));
    out.extend_from_slice(&least.to_le_bytes()[..of_least]);
    if width == 0 {
        return;
    }
    let begin = out.len();
    // Whole words, of which the next one covers what is not of the number: to copy a length that is not known takes a call.
    out.resize(begin + rows.len() * width + WIDTH_MAX - width, 0);
    let places = &mut out[begin..];
    for (row, at) in rows.iter().zip((0..).step_by(width)) {
        places[at..at + WIDTH_MAX].copy_from_slice(&(number(row) - least).to_le_bytes());
    }
    out.truncate(begin + rows.len() * width);
}

/// Bytes that a number needs; none for 0.
fn width_of(number: u64) -> usize {
    (u64::BITS - number.leading_zeros()).div_ceil(8) as usize
}

/// Whether these bytes are an image of columns, and no message.
pub(super) fn is_narrow(bytes: &[u8]) -> bool {
    bytes.first() == Some(&NARROW)
}

/// The page in these bytes, as it would be read from those of [`encode_page`].
pub(super) fn read(bytes: Bytes, whole: bool) -> Result<v1::Page, ReadError> {
    let mut from = bytes;
    let head = Head::take(&mut from)?;
    let mut columns = Columns { from, rows: head.rows };
    let mut page = v1::Page { table: head.table.into(), number: head.number, ..v1::Page::default() };
    if head.table == Table::Tasks {
        page.tasks = Some(columns.tasks().map_err(broken)?);
        let rest: v1::TaskPage = newer::decode("TaskPage", columns.from, whole)?;
        has_no_columns(&rest)?;
    } else {
        let all = columns.allocations().map_err(broken)?;
        let mut rest: v1::AllocationPage = newer::decode("AllocationPage", columns.from, whole)?;
        let (restarts, reasons) = (take(&mut rest.restarts), take(&mut rest.reasons));
        let extras = take(&mut rest.extras);
        page.allocations = Some(v1::AllocationPage { restarts, reasons, extras, ..all });
        has_no_columns(&rest)?;
    }
    Ok(page)
}

fn broken(source: Invalid) -> ReadError {
    ReadError::Content { what: "Page", source }
}

/// Behind the columns stands none of them again.
fn has_no_columns<M: Message + Default + PartialEq>(rest: &M) -> Result<(), ReadError> {
    if *rest == M::default() { Ok(()) } else { Err(broken(Invalid::new("", "each column once", "one behind them"))) }
}

struct Head {
    table: Table,
    number: u32,
    rows: usize,
}

impl Head {
    fn take(from: &mut Bytes) -> Result<Self, ReadError> {
        if from.len() < HEAD_BYTES {
            return Err(broken(Invalid::new("", format!("a head of {HEAD_BYTES} bytes"), from.len())));
        }
        from.advance(1);
        let (table, number, rows) = (from.get_u8(), from.get_u32_le(), usize::from(from.get_u16_le()));
        let known = Table::try_from(i32::from(table)).ok();
        let Some(table) = known.filter(|table| matches!(table, Table::Tasks | Table::Allocations)) else {
            // A later version may have others so. What is damaged does not come here: who stores it has sums.
            return Err(ReadError::Newer { what: "Page", field: format!("columns of table {table}") });
        };
        let most = rows_of_page(table);
        if rows > most {
            return Err(broken(Invalid::new("rows", format!("at most {most}"), rows)));
        }
        Ok(Self { table, number, rows })
    }
}

/// Columns of so many rows, one behind the other.
struct Columns {
    from: Bytes,
    rows: usize,
}

impl Columns {
    fn tasks(&mut self) -> Result<v1::TaskPage, Invalid> {
        Ok(v1::TaskPage {
            allocations: self.take("allocations")?,
            attempts: self.take("attempts")?,
            states: self.take("states")?,
            failures: self.take("failures")?,
        })
    }

    fn allocations(&mut self) -> Result<v1::AllocationPage, Invalid> {
        let generations = self.take("generations")?;
        let states: Vec<u32> = self.take("states")?;
        let ready = self.take("ready")?;
        let mut columns = Live { columns: self, states: &states };
        Ok(v1::AllocationPage {
            generations,
            ready,
            jobs: columns.take("jobs")?,
            groups: columns.take("groups")?,
            group_rows: columns.take("group_rows")?,
            job_versions: columns.take("job_versions")?,
            tasks: columns.take("tasks")?,
            attempts: columns.take("attempts")?,
            machines: columns.take("machines")?,
            epochs: columns.take("epochs")?,
            shapes: columns.take("shapes")?,
            schedulers: columns.take("schedulers")?,
            created: columns.take("created")?,
            sessions: columns.take("sessions")?,
            numbers: columns.take("numbers")?,
            states,
            ..v1::AllocationPage::default()
        })
    }

    /// The next column, which the page calls so.
    fn take<N: TryFrom<u64>>(&mut self, name: &str) -> Result<Vec<N>, Invalid> {
        let short = |found: usize| Invalid::new(name, "a column of all rows", format!("{found} bytes"));
        let widths = usize::from(self.from.try_get_u8().map_err(|_| short(0))?);
        let (of_least, width) = (widths >> 4, widths & 0xf);
        if of_least > WIDTH_MAX || width > WIDTH_MAX {
            return Err(Invalid::new(name, "numbers of at most 8 bytes", of_least.max(width)));
        }
        let all = of_least + self.rows * width;
        if self.from.len() < all {
            return Err(short(self.from.len()));
        }
        let column = self.from.split_to(all);
        let (least, differences) = column.split_at(of_least);
        let least = number(least);
        let read = |difference: u64| {
            let sum = least.checked_add(difference).and_then(|sum| N::try_from(sum).ok());
            sum.ok_or_else(|| Invalid::new(name, "numbers that fit the column", format!("{least} + {difference}")))
        };
        match width {
            0 => (0..self.rows).map(|_| read(0)).collect(),
            width => differences.chunks_exact(width).map(|bytes| read(number(bytes))).collect(),
        }
    }
}

/// Columns of which free rows have nothing.
struct Live<'a> {
    columns: &'a mut Columns,
    states: &'a [u32],
}

impl Live<'_> {
    fn take<N: TryFrom<u64> + Default>(&mut self, name: &str) -> Result<Vec<N>, Invalid> {
        let mut column: Vec<N> = self.columns.take(name)?;
        let free = self.states.iter().map(|state| *state == AllocationState::Free as u32);
        column.iter_mut().zip(free).filter(|(_, free)| *free).for_each(|(number, _)| *number = N::default());
        Ok(column)
    }
}

/// At most eight bytes, the least first.
fn number(bytes: &[u8]) -> u64 {
    let mut word = [0; WIDTH_MAX];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn columns(bytes: Vec<u8>, rows: usize) -> Columns {
        Columns { from: bytes.into(), rows }
    }

    #[test]
    fn a_column_has_as_few_bytes_as_its_differences_need() {
        let bytes_of = |numbers: &[u64]| {
            let mut out = Vec::new();
            put(&mut out, numbers, |number| *number);
            out.len()
        };
        assert_eq!(bytes_of(&[]), 1);
        assert_eq!(bytes_of(&[0; 64]), 1);
        assert_eq!(bytes_of(&[300; 64]), 3);
        assert_eq!(bytes_of(&[1 << 40, (1 << 40) + 255]), 1 + 6 + 2);
        assert_eq!(bytes_of(&[0, u64::MAX]), 1 + 16);
    }

    proptest! {
        #[test]
        fn numbers_come_back_as_they_were(
            numbers in prop::collection::vec(any::<u64>(), 0..=256),
            bits in 0_u32..64,
            above in any::<u64>(),
        ) {
            let numbers: Vec<u64> = numbers.iter().map(|number| (number >> bits).saturating_add(above >> 1)).collect();
            let mut out = vec![9];
            put(&mut out, &numbers, |number| *number);
            let mut columns = columns(out.split_off(1), numbers.len());
            prop_assert_eq!(columns.take::<u64>("numbers").unwrap(), numbers);
            prop_assert!(columns.from.is_empty());
        }

        #[test]
        fn any_bytes_are_a_page_or_an_error(mut bytes in prop::collection::vec(any::<u8>(), 0..600), table in 5_u8..7, rows in 0_u16..300) {
            bytes.splice(0..0, [NARROW, table, 0, 0, 0, 0].into_iter().chain(rows.to_le_bytes()));
            let _ = read(bytes.into(), true);
        }
    }

    #[test]
    fn what_does_not_fit_its_column_is_refused() {
        let refused = |bytes: &[u8], rows| columns(bytes.to_vec(), rows).take::<u32>("tasks").unwrap_err().to_string();
        assert_eq!(refused(&[], 1), "tasks: expected a column of all rows, found 0 bytes");
        assert_eq!(refused(&[0x12, 5, 1, 1], 2), "tasks: expected a column of all rows, found 3 bytes");
        assert_eq!(refused(&[0x90], 0), "tasks: expected numbers of at most 8 bytes, found 9");
        let sum = refused(&[0x41, 255, 255, 255, 255, 1], 1);
        assert_eq!(sum, "tasks: expected numbers that fit the column, found 4294967295 + 1");
        let head = |bytes: &[u8]| read(bytes.to_vec().into(), true).unwrap_err();
        // Of tasks, without a row; behind the four columns, a fifth of a task.
        let twice = [NARROW, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x0a, 1, 7];
        for broken in [&[NARROW][..], &[NARROW, 6, 0, 0, 0, 0, 65, 0], &twice] {
            assert!(matches!(head(broken), ReadError::Content { .. }), "{broken:?}");
        }
        assert!(matches!(head(&[NARROW, 3, 0, 0, 0, 0, 0, 0]), ReadError::Newer { .. }), "another table");
    }
}

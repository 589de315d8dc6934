//! How much of anything a message may carry, and the checks for it.
//!
//! What was logged is read back through the same doors. So a bound may be raised later, and never lowered.

use plenum_model::cell::page_rows;
use plenum_model::{AllocationId, JobId, LogTime, MachineId};

use crate::error::Invalid;

pub use plenum_model::CLAIMS_MAX;

/// Messages within all placements of a transaction, such as named devices: some dozens of bytes each when decoded.
pub const TRANSACTION_ENTRIES_MAX: usize = 16 * CLAIMS_MAX;

/// Groups of a job.
pub const GROUPS_MAX: usize = 64;
/// Tasks of a group.
pub const COUNT_MAX: u32 = 1_000_000;
/// Fewest bytes of memory of a task of a job that is submitted: with less no program starts.
pub const MEMORY_BYTES_MIN: u64 = 1 << 20;
/// Bytes of an encoded `JobBody`.
pub const BODY_BYTES_MAX: usize = 64 << 10;
/// Bytes of the encoded `JobShape` of a job that is submitted; a log or a page may have a larger one of before. Options, ports and rules of all
/// groups: a file of 64 groups has room for 4 KiB in each.
pub const SHAPE_BYTES_MAX: usize = 256 << 10;
/// Values of all constraints and affinities of a job that is submitted; a log or a page may have more of before. A value has three bytes or more on the
/// wire, and some 40 more than its letters in the cell and in each mirror: a shape has room for 83,000 of them, which would take 3.3 MB.
pub const CONSTRAINT_VALUES_MAX: usize = 4096;
/// What these are, and what to do where they are too many.
pub(crate) const CONSTRAINT_VALUES: &str = "values of all constraints and affinities (give machines an attribute that \
     stands for many values, or make several jobs of it)";
/// Bytes of any page of a cell: what the history takes as an image, a backup as a record, and who watches, with a part of a snapshot
/// around it, as a message.
pub const PAGE_BYTES_MAX: usize = 64 << 20;
/// Bytes of an answer that everybody takes who asks for it: the rows of a listing come to far less.
pub const ANSWER_BYTES_MAX: usize = 256 << 20;
/// Bytes of a request that every server takes, unless it was set otherwise and says so.
pub const REQUEST_BYTES_MAX: usize = 4 << 20;
/// Bytes that either end of a connection lets the other one send before they are read. Half of them is what the library of HTTP/2 here lets small frames
/// come to that nobody has read yet, each of which it counts with up to 256 bytes: beyond that it ends the connection. So a connection has room for
/// 65,536 of these: 256 requests without an answer on each of 256 streams. One stream alone, which has a window of 2 MiB at most, does not come so far
/// in messages of 30 bytes or more.
pub const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;
/// What else a page has of a job, in bytes: names of its state and home, numbers.
const JOB_ROW_BYTES: usize = 1 << 10;
const _: () = assert!(
    page_rows::JOBS * (SHAPE_BYTES_MAX + BODY_BYTES_MAX + JOB_ROW_BYTES) <= PAGE_BYTES_MAX / 2,
    "a page of the largest jobs must be far below what everybody takes who gets it"
);
/// Bytes of a reason, or of the value of an attribute.
pub const TEXT_BYTES_MAX: usize = 255;
/// Bytes of a name of any kind.
pub const NAME_BYTES_MAX: usize = 63;
/// Entries of a list in a group, a machine's devices, or what one claim asks for beyond resources.
pub const LIST_MAX: usize = 64;
/// Allocations that a granted claim takes over from: those that it names, and its placement's victims on that machine.
pub const SOURCES_MAX: usize = LIST_MAX + plenum_model::VICTIMS_MAX;
/// Devices of a machine.
pub const DEVICES_MAX: usize = 256;
/// Attributes of a machine.
pub const ATTRIBUTES_MAX: usize = 256;
/// Rules of one group about spread: the core keeps counts for each.
pub const SPREAD_MAX: usize = 4;
/// Further allocations of a task after failures: a task counts its failures in 8 bits, and the count stays at 255.
pub const RETRY_ATTEMPTS_MAX: u32 = 254;
/// Restarts of an allocation by its agent, of a job that is submitted.
pub const RESTARTS_MAX: u32 = 1_000_000;
/// Named resources of a cell.
pub const CUSTOM_MAX: usize = plenum_model::CUSTOM_RESOURCES;
/// Allocations that one agent reports, and transitions of one command: a machine counts its own in 16 bits.
pub const TRANSITIONS_MAX: usize = 65_536;
/// Machines of one report: a rack of them, and many racks' worth.
pub const REPORTED_MACHINES_MAX: usize = 4096;
/// Bytes of the value of a scheduler's option. Its name has at most those of any name.
pub const OPTION_BYTES_MAX: usize = 1024;
/// Bytes of a digest of a policy's configuration.
pub const CONFIGURATION_BYTES_MAX: usize = 32;
/// Transactions in flight that a decision took as granted: as many as a session remembers.
pub const ASSUMED_MAX: usize = plenum_model::session::NUMBERS_KEPT;
/// Longest span of time, in microseconds: ten years. Sums with log time stay far from overflow.
pub const SPAN_MICROS_MAX: i64 = 10 * 366 * 24 * 3600 * 1_000_000;
/// Longest pause between pulses that a scheduler may promise, in microseconds: one that hangs is known by after twice as long.
pub const PULSE_MICROS_MAX: u64 = 600_000_000;
/// Highest priority.
pub const PRIORITY_MAX: u32 = 99;
/// Rows of any table: a column that is read may ask for a row, and the table grows up to it. 64 times a million.
pub const ROWS_MAX: u32 = 1 << 26;

/// At most so many entries.
pub(crate) fn at_most(field: &str, what: &str, found: usize, max: usize) -> Result<(), Invalid> {
    if found <= max { Ok(()) } else { Err(Invalid::new(field, format!("at most {max} {what}"), found)) }
}

/// A column that is as long as the others.
pub(crate) fn column(field: &str, rows: usize, found: usize) -> Result<(), Invalid> {
    if found == rows { Ok(()) } else { Err(Invalid::new(field, format!("{rows}, one for each row"), found)) }
}

/// A number within 0 and `max`.
pub(crate) fn up_to(field: &str, number: u32, max: u32) -> Result<u32, Invalid> {
    if number <= max { Ok(number) } else { Err(Invalid::new(field, format!("0 to {max}"), number)) }
}

/// A number that fits in fewer bits.
pub(crate) fn narrow<T: TryFrom<u64>>(field: &str, number: impl Into<u64>, max: u64) -> Result<T, Invalid> {
    let number = number.into();
    T::try_from(number).map_err(|_| Invalid::new(field, format!("0 to {max}"), number))
}

/// A position of a group in its job.
pub(crate) fn group(field: &str, number: u32) -> Result<u16, Invalid> {
    narrow(field, number, u64::from(u16::MAX))
}

/// A row of some table.
pub(crate) fn row(field: &str, number: u32) -> Result<u32, Invalid> {
    if number < ROWS_MAX { Ok(number) } else { Err(Invalid::new(field, format!("a row below {ROWS_MAX}"), number)) }
}

/// Rows of some table, all below the bound.
pub(crate) fn rows(field: &str, numbers: &[u32]) -> Result<(), Invalid> {
    let highest = numbers.iter().copied().max().unwrap_or(0);
    row(field, highest).map(|_| ())
}

/// A slot, one higher, so that 0 stands for none.
pub(crate) fn optional_row(field: &str, number: u32) -> Result<Option<u32>, Invalid> {
    number.checked_sub(1).map(|number| row(field, number)).transpose()
}

/// An amount as the wire has it. Amounts in a cell are far below the bound of the type.
pub(crate) fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

/// An amount that is not negative.
pub(crate) fn unsigned(field: &str, amount: i64) -> Result<u64, Invalid> {
    u64::try_from(amount).map_err(|_| Invalid::new(field, "an amount of 0 or more", amount))
}

/// A span of time.
pub(crate) fn span(field: &str, micros: i64) -> Result<i64, Invalid> {
    if (0..=SPAN_MICROS_MAX).contains(&micros) {
        Ok(micros)
    } else {
        Err(Invalid::new(field, format!("0 to {SPAN_MICROS_MAX} microseconds"), micros))
    }
}

/// A span of time that is told and never judged: one that is no such span is read as the nearest that is.
pub(crate) fn nearest_span(micros: i64) -> i64 {
    micros.clamp(0, SPAN_MICROS_MAX)
}

/// A moment; 0 stands for none.
pub(crate) fn optional_time(field: &str, micros: i64) -> Result<Option<LogTime>, Invalid> {
    if micros < 0 {
        return Err(Invalid::new(field, "microseconds since 1970, or 0 for none", micros));
    }
    Ok((micros > 0).then_some(LogTime { micros }))
}

/// An epoch; the first one is 1.
pub(crate) fn epoch(field: &str, number: u32) -> Result<u32, Invalid> {
    if number > 0 { Ok(number) } else { Err(Invalid::new(field, "an epoch, from 1", number)) }
}

macro_rules! ids {
    ($($name:ident: $id:ident, $what:literal;)*) => {
        $(
            /// An id from its 64 bits.
            pub(crate) fn $name(field: &str, bits: u64) -> Result<$id, Invalid> {
                $id::from_bits(bits).ok_or_else(|| {
                    Invalid::new(field, concat!("the id of ", $what, ", with a generation above 0"), bits)
                })
            }
        )*
    };
}

ids! {
    job: JobId, "a job";
    machine: MachineId, "a machine";
    allocation: AllocationId, "an allocation";
}

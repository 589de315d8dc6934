//! Counting what is in an encoded message before it is decoded: two bytes of it may stand for hundreds in memory.
//!
//! Each request that has lists of messages, of texts or of numbers has a [`Census`] that says how many of them there may be; so has what a
//! server answers, as it may be broken, but for most of its numbers, which take eight times their bytes at most. The counts are of all that the message has, at whatever depth and in whichever order: a message
//! that stands in two pieces, which decoding joins, is counted as one. They bound memory; the rules of each list by itself are those of
//! the conversions.
//!
//! Must not know: what any of it means.

mod answers;
mod requests;
mod views;

use std::any::TypeId;

use crate::bounds;
use crate::error::Invalid;
use crate::fields::{Field, Malformed, fields};

pub use answers::{DELTA, PAGE};
pub use requests::SESSION;
pub(crate) use requests::TRANSACTION;

/// Messages up to this length are not counted: decoded, they are small whatever they hold.
pub(crate) const UNCOUNTED_BYTES_MAX: usize = 16 << 10;

/// What is counted in a message, and how much of it there may be.
#[derive(Debug)]
pub struct Census {
    /// What the bytes should be.
    message: &'static str,
    totals: &'static [Total],
    shape: Shape,
}

/// A count, and its bound.
#[derive(Debug)]
struct Total {
    /// The path of the field.
    field: &'static str,
    what: &'static str,
    most: usize,
}

/// The fields of a message that are counted.
#[derive(Debug)]
struct Shape {
    parts: &'static [(u64, Part)],
    /// Where all other fields count, one each; they are passed over where there is no such count.
    others: Option<usize>,
}

/// What a field counts as: a position among the totals.
#[derive(Debug)]
enum Part {
    /// One for each entry of a list.
    Entry(usize),
    /// One for each number of a column, packed or not.
    Numbers(usize),
    /// One for each message of a list, with what is in it.
    Within(usize, &'static Shape),
    /// What is in a message that there is once.
    Once(&'static Shape),
}

impl Census {
    /// The census of messages of this type; `None` where nothing can be too much.
    pub(crate) fn of<T: 'static>() -> Option<&'static Self> {
        let of = TypeId::of::<T>();
        all().find(|(_, message, _)| message() == of).map(|(_, _, census)| census)
    }

    /// Counts what is in a message.
    ///
    /// # Errors
    /// When there is too much of something, or the bytes are no message.
    pub fn check(&self, encoded: &[u8]) -> Result<(), Invalid> {
        if encoded.len() <= UNCOUNTED_BYTES_MAX {
            return Ok(());
        }
        const TOTALS_MAX: usize = 16;
        let mut counts = [0_usize; TOTALS_MAX];
        debug_assert!(self.totals.len() <= TOTALS_MAX, "each total has its count");
        count(encoded, &self.shape, &mut counts).map_err(|found| self.malformed(found))?;
        let mut totals = self.totals.iter().zip(counts);
        totals.try_for_each(|(total, found)| bounds::at_most(total.field, total.what, found, total.most))
    }

    /// What is said of bytes that are no message of this kind.
    pub(crate) fn malformed(&self, found: Malformed) -> Invalid {
        Invalid::new("", self.message, format_args!("what can't be read as it: no field of one at byte {}", found.at))
    }
}

/// All messages that are counted as they come in, by their name and their type.
fn all() -> impl Iterator<Item = (&'static str, fn() -> TypeId, &'static Census)> {
    requests::ALL.iter().chain(&answers::ALL).chain([&views::ASSIGNMENTS]).chain(&views::VIEWS).copied()
}

fn count(message: &[u8], shape: &Shape, counts: &mut [usize]) -> Result<(), Malformed> {
    for field in fields(message) {
        let field = field?;
        let inside = |inner: &Shape, counts: &mut [usize]| match field.is_delimited(message) {
            true => count(&message[field.content.clone()], inner, counts),
            // Decoding finds out what it is instead.
            false => Ok(()),
        };
        match shape.parts.iter().find(|(number, _)| *number == field.number) {
            Some((_, Part::Entry(total))) => counts[*total] += 1,
            Some((_, Part::Numbers(total))) => counts[*total] += numbers(message, &field),
            Some((_, Part::Within(total, inner))) => {
                counts[*total] += 1;
                inside(inner, counts)?;
            }
            Some((_, Part::Once(inner))) => inside(inner, counts)?,
            None => counts.iter_mut().skip(shape.others.unwrap_or(usize::MAX)).take(1).for_each(|count| *count += 1),
        }
    }
    Ok(())
}

/// How many numbers a field of a column has: a packed one ends each with a byte below 128, an unpacked one is a number itself.
fn numbers(message: &[u8], field: &Field) -> usize {
    if field.is_delimited(message) {
        message[field.content.clone()].iter().filter(|&&byte| byte < 0x80).count()
    } else {
        1
    }
}

#[cfg(test)]
mod tests;

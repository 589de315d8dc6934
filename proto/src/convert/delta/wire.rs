//! The few rules of protobuf's encoding that packed columns need. Everything else is left to the generated code.
//!
//! Generated code walks a column three times (for the length of the message around it, for its own length, and to write it)
//! and needs it in a message of its own first. Here lengths are summed once, and rows are written where they stay.

use bytes::BufMut;

/// Most bytes of a varint.
pub(in super::super) const VARINT_BYTES_MAX: usize = 10;

/// The wire type of a number.
const NUMBER: u8 = 0;
/// The wire type of a field that says its length: a message, a text or a packed column.
const DELIMITED: u8 = 2;

/// Bytes of a number as a varint: seven bits each, and one for 0.
pub(in super::super) fn varint_bytes(number: u64) -> usize {
    // (9 · bits + 64) / 64 equals bits / 7, rounded up, for 1 to 64 bits: no division, so that sums of columns are vectors.
    ((63 - (number | 1).leading_zeros()) as usize * 9 + 73) / 64
}

/// Writes a number.
#[inline]
pub(in super::super) fn put_varint(out: &mut Vec<u8>, number: u64) {
    if number < WORD_END {
        // A whole word, and what is not of the number cut off again: to copy a length that is not known takes a call.
        let (word, bytes) = word(number);
        let end = out.len() + bytes;
        out.put_slice(&word.to_le_bytes());
        out.truncate(end);
    } else {
        put_long_varint(out, number);
    }
}

#[allow(clippy::cast_possible_truncation, reason = "takes seven bits at a time")]
fn put_long_varint(out: &mut Vec<u8>, mut number: u64) {
    let mut bytes = [0; VARINT_BYTES_MAX];
    let mut length = 0;
    while number >= 0x80 {
        bytes[length] = number as u8 | 0x80;
        number >>= 7;
        length += 1;
    }
    bytes[length] = number as u8;
    out.put_slice(&bytes[..=length]);
}

/// The key of a field: below 16 it is one byte, else two.
#[inline]
fn put_key(out: &mut Vec<u8>, field: u8, wire_type: u8) {
    match field {
        0..16 => out.put_u8(field << 3 | wire_type),
        // Seven bits of the key, and the rest.
        _ => out.put_slice(&[(field & 15) << 3 | wire_type | 0x80, field >> 4]),
    }
}

/// Bytes of the key of a field.
#[inline]
pub(in super::super) fn key_bytes(field: u8) -> usize {
    if field < 16 { 1 } else { 2 }
}

/// Bytes of a field below 16 that holds a number; 0 is not written.
pub(in super::super) fn number_bytes(number: u64) -> usize {
    if number == 0 { 0 } else { 1 + varint_bytes(number) }
}

/// A field that holds a number; 0 is not written.
pub(in super::super) fn put_number(out: &mut Vec<u8>, field: u8, number: u64) {
    if number > 0 {
        put_key(out, field, NUMBER);
        put_varint(out, number);
    }
}

/// Bytes of a field that says its length; an empty one is not written.
pub(in super::super) fn delimited_bytes(bytes: usize) -> usize {
    if bytes == 0 { 0 } else { 1 + varint_bytes(bytes as u64) + bytes }
}

/// The beginning of a field of so many bytes, which must follow.
pub(in super::super) fn put_length(out: &mut Vec<u8>, field: u8, bytes: usize) {
    put_key(out, field, DELIMITED);
    put_varint(out, bytes as u64);
}

/// Numbers below are a byte.
const ONE_BYTE_END: u64 = 1 << 7;
/// Numbers below are one byte or two.
const TWO_BYTES_END: u64 = 1 << 14;
/// Numbers below are written as half a word.
const HALF_WORD_END: u64 = 1 << 28;
/// Numbers below are written as a word.
const WORD_END: u64 = 1 << 56;
/// Columns of so many bytes are written into room that is made at once, without a call.
const SHORT_BYTES: usize = 24;

/// The varint of a number below [`WORD_END`], lowest byte first, and its length: seven bits of each byte, without a branch, as the
/// lengths of numbers in a column are hard to guess.
fn word(number: u64) -> (u64, usize) {
    let bytes = varint_bytes(number);
    let halves = number & 0x0fff_ffff | (number & 0x00ff_ffff_f000_0000) << 4;
    let quarters = halves & 0x0000_3fff_0000_3fff | (halves & 0x0fff_c000_0fff_c000) << 2;
    let eighths = quarters & 0x007f_007f_007f_007f | (quarters & 0x3f80_3f80_3f80_3f80) << 1;
    // All but the last byte say that another one follows.
    let follow = 0x8080_8080_8080_8080 & ((1 << (8 * (bytes - 1))) - 1);
    (eighths | follow, bytes)
}

/// The same of a number below [`HALF_WORD_END`].
fn half_word(number: u32) -> (u32, usize) {
    let bytes = varint_bytes(number.into());
    let quarters = number & 0x3fff | (number & 0x0fff_c000) << 2;
    let eighths = quarters & 0x007f_007f | (quarters & 0x3f80_3f80) << 1;
    let follow = 0x8080_8080 & ((1 << (8 * (bytes - 1))) - 1);
    (eighths | follow, bytes)
}

/// The same of a number below [`TWO_BYTES_END`], as machines and tasks of most cells have.
fn two_bytes(number: u16) -> ([u8; 2], usize) {
    let more = u16::from(u64::from(number) >= ONE_BYTE_END);
    let word = number & 0x7f | more << 7 | number >> 7 << 8;
    (word.to_le_bytes(), 1 + usize::from(more))
}

/// A packed column, measured once: a field, its numbers, all bits that some of them has, and their bytes.
pub(in super::super) struct Column<I> {
    field: u8,
    numbers: I,
    bits: u64,
    bytes: usize,
}

impl<N: Into<u64>, I: Iterator<Item = N> + Clone> Column<I> {
    /// Measures.
    pub(in super::super) fn new(field: u8, numbers: I) -> Self {
        let (bits, count) = numbers.clone().fold((0, 0), |(bits, count), number| (bits | number.into(), count + 1));
        Self::of_bits(field, numbers, bits, count)
    }

    /// Measures so many numbers, whose bits are known: those of all of them together.
    pub(in super::super) fn of_bits(field: u8, numbers: I, bits: u64, count: usize) -> Self {
        // Many columns are of states and the like.
        let bytes = match bits {
            0..ONE_BYTE_END => count,
            ONE_BYTE_END..TWO_BYTES_END => {
                count + numbers.clone().map(|number| usize::from(number.into() >= ONE_BYTE_END)).sum::<usize>()
            }
            _ => numbers.clone().map(|number| varint_bytes(number.into())).sum(),
        };
        Self { field, numbers, bits, bytes }
    }

    /// Bytes of the whole field, whose number is below 16.
    pub(in super::super) fn bytes(&self) -> usize {
        delimited_bytes(self.bytes)
    }

    /// Writes the whole field; an empty one is not written. Its number may be above 15 here.
    #[allow(clippy::cast_possible_truncation, reason = "takes seven bits at a time")]
    pub(in super::super) fn put(self, out: &mut Vec<u8>) {
        if self.bytes == 0 {
            return;
        }
        put_length(out, self.field, self.bytes);
        let begin = out.len();
        // Room is made, so that each number is a store: a call for each of them costs five times as much.
        if self.bits < WORD_END {
            let end = begin + self.bytes;
            if self.bytes <= SHORT_BYTES {
                out.put_slice(&[0; SHORT_BYTES + size_of::<u64>()]);
            } else {
                out.put_bytes(0, self.bytes + size_of::<u64>());
            }
            self.put_words(&mut out[begin..]);
            return out.truncate(end);
        }
        out.put_bytes(0, self.bytes);
        let mut rest = &mut out[begin..];
        for number in self.numbers {
            let mut number: u64 = number.into();
            while number >= 0x80 {
                let (byte, more) = rest.split_first_mut().expect("measured");
                *byte = number as u8 | 0x80;
                rest = more;
                number >>= 7;
            }
            let (byte, more) = rest.split_first_mut().expect("measured");
            *byte = number as u8;
            rest = more;
        }
    }

    /// Writes numbers, all of whose bits are below [`WORD_END`], where there is room for a word more than they take.
    #[allow(clippy::cast_possible_truncation, reason = "takes as many bits as all numbers have")]
    fn put_words(self, room: &mut [u8]) {
        if self.bits < ONE_BYTE_END {
            return room.iter_mut().zip(self.numbers).for_each(|(byte, number)| *byte = number.into() as u8);
        }
        let mut at = 0;
        if self.bits < TWO_BYTES_END {
            for number in self.numbers {
                let (word, bytes) = two_bytes(number.into() as u16);
                room[at..at + 2].copy_from_slice(&word);
                at += bytes;
            }
            return;
        }
        if self.bits < HALF_WORD_END {
            for number in self.numbers {
                let (word, bytes) = half_word(number.into() as u32);
                room[at..at + size_of::<u32>()].copy_from_slice(&word.to_le_bytes());
                at += bytes;
            }
            return;
        }
        for number in self.numbers {
            let (word, bytes) = word(number.into());
            room[at..at + size_of::<u64>()].copy_from_slice(&word.to_le_bytes());
            at += bytes;
        }
    }
}

/// A signed number, so that small ones of either sign are short.
pub(in super::super) fn zigzag(number: i32) -> u32 {
    (number << 1 ^ number >> 31).cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    #[derive(Clone, PartialEq, Message)]
    struct Numbers {
        #[prost(uint64, repeated, tag = "9")]
        numbers: Vec<u64>,
    }

    fn by_generated_code(numbers: &[u64]) -> Vec<u8> {
        Numbers { numbers: numbers.to_vec() }.encode_to_vec()
    }

    fn by_hand(numbers: &[u64]) -> Vec<u8> {
        let mut out = Vec::new();
        let column = Column::new(9, numbers.iter().copied());
        let bytes = column.bytes();
        column.put(&mut out);
        assert_eq!(bytes, out.len());
        out.to_vec()
    }

    #[test]
    fn columns_of_numbers_of_each_length_are_as_generated_code_writes_them() {
        let mut numbers = vec![0];
        for bits in 0..=64_u32 {
            let ends = [1_u64.unbounded_shl(bits).wrapping_sub(1), 1_u64.unbounded_shl(bits)];
            numbers.extend(ends);
            assert_eq!(by_hand(&ends), by_generated_code(&ends), "{ends:?}");
            assert_eq!(by_hand(&numbers), by_generated_code(&numbers), "up to {bits} bits");
            let long = ends.repeat(100);
            assert_eq!(by_hand(&long), by_generated_code(&long), "{ends:?}, many times");
        }
        assert_eq!(by_hand(&[]), by_generated_code(&[]));
    }

    #[test]
    fn a_column_leaves_what_is_before_and_behind_it() {
        let mut out = b"before".to_vec();
        Column::new(9, [300_u64, 5].into_iter()).put(&mut out);
        out.put_slice(b"behind");
        assert_eq!(&out[..], [&b"before"[..], &by_generated_code(&[300, 5]), b"behind"].concat());
    }
}

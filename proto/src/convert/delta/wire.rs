//! The few rules of protobuf's encoding that packed columns need. Everything else is left to the generated code.
//!
//! Generated code walks a column three times (for the length of the message around it, for its own length, and to write it)
//! and needs it in a message of its own first. Here lengths are summed once, and rows are written where they stay.

use bytes::{BufMut, BytesMut};

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
#[allow(clippy::cast_possible_truncation, reason = "takes seven bits at a time")]
pub(in super::super) fn put_varint(out: &mut BytesMut, mut number: u64) {
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

/// The key of a field: below 16 it is one byte.
fn key(field: u8, wire_type: u8) -> u8 {
    assert!(field < 16, "only fields with a key of one byte are written here");
    field << 3 | wire_type
}

/// Bytes of a field that holds a number; 0 is not written.
pub(in super::super) fn number_bytes(number: u64) -> usize {
    if number == 0 { 0 } else { 1 + varint_bytes(number) }
}

/// A field that holds a number; 0 is not written.
pub(in super::super) fn put_number(out: &mut BytesMut, field: u8, number: u64) {
    if number > 0 {
        out.put_u8(key(field, NUMBER));
        put_varint(out, number);
    }
}

/// Bytes of a field that says its length; an empty one is not written.
pub(in super::super) fn delimited_bytes(bytes: usize) -> usize {
    if bytes == 0 { 0 } else { 1 + varint_bytes(bytes as u64) + bytes }
}

/// The beginning of a field of so many bytes, which must follow.
pub(in super::super) fn put_length(out: &mut BytesMut, field: u8, bytes: usize) {
    match field {
        0..16 => out.put_u8(key(field, DELIMITED)),
        // Seven bits of the key, and the rest.
        _ => out.put_slice(&[(field & 15) << 3 | DELIMITED | 0x80, field >> 4]),
    }
    put_varint(out, bytes as u64);
}

/// A packed column, measured once: a field, its numbers, and their bytes.
pub(in super::super) struct Column<I> {
    field: u8,
    numbers: I,
    bytes: usize,
}

impl<N: Into<u64>, I: Iterator<Item = N> + Clone> Column<I> {
    /// Measures.
    pub(in super::super) fn new(field: u8, numbers: I) -> Self {
        let bytes = numbers.clone().map(|number| varint_bytes(number.into())).sum();
        Self { field, numbers, bytes }
    }

    /// Bytes of the whole field, whose number is below 16.
    pub(in super::super) fn bytes(&self) -> usize {
        delimited_bytes(self.bytes)
    }

    /// Writes the whole field; an empty one is not written. Its number may be above 15 here.
    #[allow(clippy::cast_possible_truncation, reason = "takes seven bits at a time")]
    pub(in super::super) fn put(self, out: &mut BytesMut) {
        if self.bytes == 0 {
            return;
        }
        put_length(out, self.field, self.bytes);
        let begin = out.len();
        // Room was made, so that each byte is a store: a call for each of them costs five times as much.
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
}

/// A signed number, so that small ones of either sign are short.
pub(in super::super) fn zigzag(number: i32) -> u32 {
    (number << 1 ^ number >> 31).cast_unsigned()
}

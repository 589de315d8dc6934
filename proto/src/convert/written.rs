//! Small messages that are written often: field by field from where they are, with no message of generated code made of them first.
//!
//! A message says its fields once, to whatever takes them: first a [`Size`], as its length stands before it, then a buffer.

use bytes::BufMut;

use super::delta::wire::{Column, delimited_bytes, key_bytes, put_length, put_number, varint_bytes};

/// What has the fields of a message. Their numbers rise, as those of generated code do, and are below 16 but for those of numbers.
pub(super) trait Fields {
    /// Says each field once, in order; what is 0 or empty is left out by who takes it.
    fn put(&self, to: &mut impl Sink);
}

/// What takes fields.
pub(super) trait Sink {
    fn number(&mut self, field: u8, number: u64);

    fn text(&mut self, field: u8, text: &str);

    /// Packed numbers.
    fn column<N: Into<u64>>(&mut self, field: u8, numbers: impl Iterator<Item = N> + Clone);

    /// One of several messages: an empty one is one, too.
    fn message(&mut self, field: u8, message: &impl Fields);
}

/// Bytes of the fields that it took.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Size(usize);

impl Size {
    /// Of a message without its own key and length.
    fn of(message: &impl Fields) -> usize {
        let mut size = Self::default();
        message.put(&mut size);
        size.bytes()
    }

    pub(super) fn bytes(self) -> usize {
        self.0
    }
}

impl Sink for Size {
    fn number(&mut self, field: u8, number: u64) {
        if number > 0 {
            self.0 += key_bytes(field) + varint_bytes(number);
        }
    }

    fn text(&mut self, _: u8, text: &str) {
        self.0 += delimited_bytes(text.len());
    }

    fn column<N: Into<u64>>(&mut self, field: u8, numbers: impl Iterator<Item = N> + Clone) {
        self.0 += Column::new(field, numbers).bytes();
    }

    fn message(&mut self, _: u8, message: &impl Fields) {
        let bytes = Self::of(message);
        self.0 += 1 + varint_bytes(bytes as u64) + bytes;
    }
}

impl Sink for Vec<u8> {
    fn number(&mut self, field: u8, number: u64) {
        put_number(self, field, number);
    }

    fn text(&mut self, field: u8, text: &str) {
        if !text.is_empty() {
            put_length(self, field, text.len());
            self.put_slice(text.as_bytes());
        }
    }

    fn column<N: Into<u64>>(&mut self, field: u8, numbers: impl Iterator<Item = N> + Clone) {
        Column::new(field, numbers).put(self);
    }

    fn message(&mut self, field: u8, message: &impl Fields) {
        put_length(self, field, Size::of(message));
        message.put(self);
    }
}

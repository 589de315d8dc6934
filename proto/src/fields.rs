//! Walking the top fields of an encoded message without decoding them.
//!
//! What is encoded once, for the log, is cut into pieces for everybody else, and what came in goes into the log as it came. Decoding
//! and encoding again would cost more than all the rest.

use std::ops::Range;

/// A field at the top of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its number.
    pub number: u64,
    /// Where it stands, key included.
    pub whole: Range<usize>,
    /// Where its content stands: of a length-delimited one without the length.
    pub content: Range<usize>,
}

impl Field {
    /// Whether it says its length: a message, a text or a packed column of the message that it was found in.
    #[must_use]
    #[inline]
    pub fn is_delimited(&self, message: &[u8]) -> bool {
        message[self.whole.start] & 7 == 2
    }
}

/// Bytes that are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Where it stops making sense.
    pub at: usize,
}

/// The top fields of a message, in the order in which they stand. Ends after the first that makes no sense.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// Walks the top fields of a message.
#[must_use]
#[inline]
pub fn fields(bytes: &[u8]) -> Fields<'_> {
    Fields { bytes, at: 0 }
}

impl Fields<'_> {
    /// Nearly all keys, lengths and numbers have one byte: walking batches is a fifth of what it takes to feed the history.
    #[inline]
    fn varint(&mut self) -> Result<u64, Malformed> {
        match self.bytes.get(self.at) {
            Some(&byte) if byte < 0x80 => {
                self.at += 1;
                Ok(byte.into())
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.bytes.get(self.at).ok_or(Malformed { at: self.at })?;
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            // The tenth byte has one bit that is left.
            if shift == 63 && byte > 1 {
                break;
            }
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed { at: self.at })
    }

    /// Inlined into `next`, and with it into each loop, of which most use two of a field's five numbers: a call would hand over all of them in memory.
    #[inline(always)]
    fn field(&mut self) -> Result<Field, Malformed> {
        let start = self.at;
        let key = self.varint()?;
        // As generated code has it: fields count from 1, and a key has 32 bits.
        if key >> 3 == 0 || key > u64::from(u32::MAX) {
            return Err(Malformed { at: start });
        }
        let length = match key & 7 {
            0 => {
                let content = self.at;
                self.varint()?;
                return Ok(Field { number: key >> 3, whole: start..self.at, content: content..self.at });
            }
            1 => 8,
            2 => self.varint()?,
            5 => 4,
            _ => return Err(Malformed { at: start }),
        };
        let content = self.at;
        let end = usize::try_from(length).ok().and_then(|length| content.checked_add(length));
        let end = end.filter(|&end| end <= self.bytes.len()).ok_or(Malformed { at: content })?;
        self.at = end;
        Ok(Field { number: key >> 3, whole: start..end, content: content..end })
    }
}

impl Iterator for Fields<'_> {
    type Item = Result<Field, Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.bytes.len() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.at = self.bytes.len();
        }
        Some(field)
    }
}

/// The number that a varint field holds.
#[must_use]
#[inline]
pub fn number(bytes: &[u8]) -> Option<u64> {
    let mut walk = fields(bytes);
    walk.varint().ok().filter(|_| walk.at == bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_and_skipped() {
        // 1: varint 300, 3: "ab", 5: fixed64, 2: fixed32
        let bytes = [8, 0xac, 2, 26, 2, b'a', b'b', 41, 1, 2, 3, 4, 5, 6, 7, 8, 21, 9, 9, 9, 9];
        let found: Vec<Field> = fields(&bytes).map(|field| field.unwrap()).collect();
        let numbers: Vec<u64> = found.iter().map(|field| field.number).collect();
        assert_eq!(numbers, [1, 3, 5, 2]);
        assert_eq!(number(&bytes[found[0].content.clone()]), Some(300));
        assert_eq!(&bytes[found[1].content.clone()], b"ab");
    }

    #[test]
    fn what_is_cut_short_is_malformed() {
        for bytes in [
            &[26, 9, b'a'][..],
            &[8][..],
            &[8, 0x80][..],
            &[15, 1][..],
            // Fields 0 and 2^29.
            &[0, 0][..],
            &[0x80, 0x80, 0x80, 0x80, 0x10, 0][..],
            &[0xff; 11][..],
            &[8, 128, 128, 128, 128, 128, 128, 128, 128, 128, 2][..],
        ] {
            assert!(fields(bytes).any(|field| field.is_err()), "{bytes:?}");
        }
    }
}

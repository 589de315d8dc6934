//! Segment files: their names and their headers. Pure.
//!
//! | at | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `PLENUMSG` |
//! | 8 | 4 | format version |
//! | 16 | 16 | cell id |
//! | 32 | 8 | incarnation |
//! | 40 | 8 | segment number |
//! | 48 | 8 | first revision: the one after the last of the segment before |
//! | 56 | 8 | term of the frame before |
//! | 64 | 8 | size of the file in bytes: a shorter one was cut off |
//! | 72 | 32 | hash of the last frame of the segment before |
//! | 508 | 4 | CRC-32 of all bytes before it |
//!
//! A file that is all zeros is *ready*: made beforehand and not begun.

use crate::flaw::Flaw;
use crate::format::{
    CellId, ChainHash, FORMAT_VERSION, SECTOR_BYTES, Sector, check_record, field, index, put, seal_sector, u64_at,
};

/// Where the first frame of a segment stands.
pub(crate) const FIRST_FRAME_AT: u64 = SECTOR_BYTES;

/// The file that is being made one of zeros, to become the next segment.
pub(crate) const SPARE: &str = "spare.tmp";

const MAGIC: [u8; 8] = *b"PLENUMSG";
const SUFFIX: &str = ".segment";
/// Of a segment that the log does without, and that stays to be read by place.
const KEPT_SUFFIX: &str = ".kept";
const DIGITS: usize = 20;

/// The name of a segment's file: its number, so that names sort in order of the log.
pub(crate) fn name(number: u64) -> String {
    format!("{number:0DIGITS$}{SUFFIX}")
}

/// The name that a segment has once it is kept.
pub(crate) fn kept_name(number: u64) -> String {
    format!("{number:0DIGITS$}{KEPT_SUFFIX}")
}

/// The number in a segment's name; none for files that are not segments.
pub(crate) fn number_in(name: &str) -> Option<u64> {
    number_before(SUFFIX, name)
}

/// The number in the name of a kept segment.
pub(crate) fn kept_number_in(name: &str) -> Option<u64> {
    number_before(KEPT_SUFFIX, name)
}

fn number_before(suffix: &str, name: &str) -> Option<u64> {
    let digits = name.strip_suffix(suffix)?;
    let plain = digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    if plain { digits.parse().ok() } else { None }
}

/// The first sector of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) cell: CellId,
    pub(crate) incarnation: u64,
    pub(crate) number: u64,
    pub(crate) first_revision: u64,
    pub(crate) term: u64,
    pub(crate) segment_bytes: u64,
    pub(crate) previous: ChainHash,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> Sector {
        let mut sector = [0; index(SECTOR_BYTES)];
        put(&mut sector, 0, &MAGIC);
        put(&mut sector, 8, &FORMAT_VERSION.to_le_bytes());
        put(&mut sector, 16, &self.cell.0);
        put(&mut sector, 32, &self.incarnation.to_le_bytes());
        put(&mut sector, 40, &self.number.to_le_bytes());
        put(&mut sector, 48, &self.first_revision.to_le_bytes());
        put(&mut sector, 56, &self.term.to_le_bytes());
        put(&mut sector, 64, &self.segment_bytes.to_le_bytes());
        put(&mut sector, 72, &self.previous.0);
        seal_sector(&mut sector);
        sector
    }

    /// Reads a header.
    pub(crate) fn decode(sector: &Sector) -> Result<Self, Flaw> {
        let magic: [u8; 8] = field(sector, 0);
        if magic != MAGIC {
            return Err(Flaw::Magic { expected: MAGIC.to_vec(), found: magic.to_vec() });
        }
        check_record(sector)?;
        Ok(SegmentHeader {
            cell: CellId(field(sector, 16)),
            incarnation: u64_at(sector, 32),
            number: u64_at(sector, 40),
            first_revision: u64_at(sector, 48),
            term: u64_at(sector, 56),
            segment_bytes: u64_at(sector, 64),
            previous: ChainHash(field(sector, 72)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::u32_at;

    fn header() -> SegmentHeader {
        SegmentHeader {
            cell: CellId([0xce; 16]),
            incarnation: 1,
            number: 2,
            first_revision: 3,
            term: 4,
            segment_bytes: 4096,
            previous: ChainHash([0xab; 32]),
        }
    }

    #[test]
    fn a_header_has_the_bytes_that_format_one_has() {
        let sector = header().encode();
        let text: String = sector[..104].iter().map(|byte| format!("{byte:02x}")).collect();
        let fields = [
            "504c454e554d5347",
            "01000000",
            "00000000",
            "cececececececececececececececece",
            "0100000000000000",
            "0200000000000000",
            "0300000000000000",
            "0400000000000000",
            "0010000000000000",
            "abababababababababababababababababababababababababababababababab",
        ];
        assert_eq!(text, fields.concat());
        assert!(sector[104..508].iter().all(|byte| *byte == 0));
        assert_eq!(u32_at(&sector, 508), 0xca73_6ec1, "CRC-32 as zlib computes it");
        assert_eq!(SegmentHeader::decode(&sector), Ok(header()));
    }

    #[test]
    fn names_sort_as_numbers_do_and_foreign_names_are_no_segments() {
        assert!(name(9) < name(10) && name(u64::MAX) > name(10));
        assert_eq!(number_in(&name(u64::MAX)), Some(u64::MAX));
        for foreign in ["1.segment", "0000000000000000000x.segment", "00000000000000000001.segment.bak", SPARE] {
            assert_eq!(number_in(foreign), None, "{foreign}");
        }
        assert_eq!(number_in("99999999999999999999.segment"), None, "more than a number holds");
    }
}

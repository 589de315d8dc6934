//! Frames: one batch each, sealed by checksums and chained by hashes. Pure: bytes in, bytes out.
//!
//! | at | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic `PLFR` |
//! | 4 | 4 | payload length |
//! | 8 | 8 | segment number: a recycled file's old frames are not of the segment it is now |
//! | 16 | 8 | term |
//! | 24 | 8 | first revision |
//! | 32 | 8 | last revision |
//! | 40 | 32 | BLAKE3 of the frame before, whole sectors |
//! | 72 | 4 | CRC-32 of the 72 bytes above, so that a length is trusted before anything is read by it |
//! | 76 | 4 | CRC-32 of everything else in the frame, padding included |
//! | 80 | | payload, then zeros to the end of the sector |

use crate::flaw::Flaw;
use crate::format::{ChainHash, SECTOR_BYTES, count, field, index, put, u32_at, u64_at, whole_sectors};

/// What a frame adds to its payload, before padding.
pub(crate) const FRAME_HEAD_BYTES: u64 = 80;

const HEAD: usize = index(FRAME_HEAD_BYTES);
const MAGIC: [u8; 4] = *b"PLFR";
const LENGTH_AT: usize = 4;
const SEGMENT_AT: usize = 8;
const TERM_AT: usize = 16;
const FIRST_AT: usize = 24;
const LAST_AT: usize = 32;
const PREVIOUS_AT: usize = 40;
const HEAD_CRC_AT: usize = 72;
const FRAME_CRC_AT: usize = 76;

const _: () = assert!(FRAME_HEAD_BYTES <= SECTOR_BYTES, "the head is read with the first sector");

/// The head of a frame: everything but the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHead {
    pub(crate) segment: u64,
    pub(crate) term: u64,
    pub(crate) first_revision: u64,
    pub(crate) last_revision: u64,
    pub(crate) previous: ChainHash,
    pub(crate) payload_bytes: u32,
    /// Checksum over the rest of the frame, as written.
    pub(crate) frame_crc: u32,
}

/// What the writer decides about a frame; the rest follows from its bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameLabel {
    pub(crate) segment: u64,
    pub(crate) term: u64,
    pub(crate) first_revision: u64,
    pub(crate) last_revision: u64,
    pub(crate) previous: ChainHash,
}

/// The size on disk of a frame with that payload.
pub(crate) const fn frame_bytes(payload_bytes: u64) -> u64 {
    whole_sectors(FRAME_HEAD_BYTES + payload_bytes)
}

/// Empties the buffer and leaves room for the head; the payload is appended next.
pub(crate) fn begin(buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.resize(HEAD, 0);
}

/// Completes a frame that was begun and filled: pads it and writes the head. Its [`hash`] is for the next one.
/// The payload length must fit in 32 bits; `Journal` bounds it far below.
pub(crate) fn seal(buffer: &mut Vec<u8>, label: &FrameLabel) {
    let payload = u32::try_from(buffer.len() - HEAD).expect("Journal bounds a frame below 4 GiB");
    let whole = whole_sectors(count(buffer.len()));
    buffer.resize(index(whole), 0);
    put(buffer, 0, &MAGIC);
    put(buffer, LENGTH_AT, &payload.to_le_bytes());
    put(buffer, SEGMENT_AT, &label.segment.to_le_bytes());
    put(buffer, TERM_AT, &label.term.to_le_bytes());
    put(buffer, FIRST_AT, &label.first_revision.to_le_bytes());
    put(buffer, LAST_AT, &label.last_revision.to_le_bytes());
    put(buffer, PREVIOUS_AT, &label.previous.0);
    let head_crc = crc32fast::hash(&buffer[..HEAD_CRC_AT]);
    put(buffer, HEAD_CRC_AT, &head_crc.to_le_bytes());
    let crc = frame_crc(buffer);
    put(buffer, FRAME_CRC_AT, &crc.to_le_bytes());
}

/// The hash by which the next frame names this one.
pub(crate) fn hash(frame: &[u8]) -> ChainHash {
    ChainHash(*blake3::hash(frame).as_bytes())
}

/// The checksum over everything in the frame but itself.
fn frame_crc(frame: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&frame[..FRAME_CRC_AT]);
    crc.update(&frame[HEAD..]);
    crc.finalize()
}

impl FrameHead {
    /// Reads a head from the first sector of a frame; only a head that matches its checksum is one.
    pub(crate) fn decode(sector: &[u8]) -> Result<Self, Flaw> {
        let magic: [u8; 4] = field(sector, 0);
        if magic != MAGIC {
            return Err(Flaw::Magic { expected: MAGIC.to_vec(), found: magic.to_vec() });
        }
        let (expected, found) = (u32_at(sector, HEAD_CRC_AT), crc32fast::hash(&sector[..HEAD_CRC_AT]));
        if expected != found {
            return Err(Flaw::HeaderChecksum { expected, found });
        }
        Ok(FrameHead {
            segment: u64_at(sector, SEGMENT_AT),
            term: u64_at(sector, TERM_AT),
            first_revision: u64_at(sector, FIRST_AT),
            last_revision: u64_at(sector, LAST_AT),
            previous: ChainHash(field(sector, PREVIOUS_AT)),
            payload_bytes: u32_at(sector, LENGTH_AT),
            frame_crc: u32_at(sector, FRAME_CRC_AT),
        })
    }

    /// The size of the whole frame on disk.
    pub(crate) fn bytes(&self) -> u64 {
        frame_bytes(u64::from(self.payload_bytes))
    }

    /// Checks the whole frame, which must be [`FrameHead::bytes`] long, against the checksum in its head.
    pub(crate) fn check(&self, frame: &[u8]) -> Result<(), Flaw> {
        let found = frame_crc(frame);
        let expected = self.frame_crc;
        if expected == found { Ok(()) } else { Err(Flaw::FrameChecksum { expected, found }) }
    }

    /// Where the payload stands within the whole frame.
    pub(crate) fn payload_range(&self) -> std::ops::Range<usize> {
        HEAD..HEAD + index(u64::from(self.payload_bytes))
    }

    /// The payload within the bytes of the whole frame.
    pub(crate) fn payload<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        &frame[self.payload_range()]
    }
}

#[cfg(test)]
#[path = "frame/tests.rs"]
mod tests;

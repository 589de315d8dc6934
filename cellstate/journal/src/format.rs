//! The layout rules that all records on disk share: sectors, the format version, checked fields.
//!
//! All integers are little-endian. This module is pure: it knows bytes, and no files.

use crate::flaw::Flaw;
use std::fmt;

/// The version of everything this crate writes. A directory of another version is refused, never guessed at.
pub const FORMAT_VERSION: u32 = 1;

/// What a disk writes whole or not at all. Frames start on sectors, so that a torn write of one frame cannot
/// touch the frame before it, which was acknowledged. Costs half a sector a frame on average.
pub const SECTOR_BYTES: u64 = 512;

/// How much is read or written at once where a whole segment is walked: bounded, and large enough that the
/// number of calls does not matter (64 MiB are 256 of them).
pub(crate) const CHUNK_BYTES: u64 = 256 * 1024;

const _: () = assert!(CHUNK_BYTES.is_multiple_of(SECTOR_BYTES));
// Offsets within a segment index into memory.
const _: () = assert!(usize::BITS >= 64);

/// One sector of a record.
pub(crate) type Sector = [u8; index(SECTOR_BYTES)];

static ZEROS: [u8; 4096] = [0; 4096];

/// The BLAKE3 hash of a whole frame; each frame carries that of the one before. All zero before the first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ChainHash(pub [u8; 32]);

/// The name of a cell for machines: 16 random bytes, chosen once, when its directory is made.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct CellId(pub [u8; 16]);

fn hex(bytes: &[u8], to: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(to, "{byte:02x}"))
}

impl fmt::Display for ChainHash {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, to)
    }
}

impl fmt::Debug for ChainHash {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, to)
    }
}

impl fmt::Display for CellId {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, to)
    }
}

impl fmt::Debug for CellId {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, to)
    }
}

/// A count of bytes as an index. Lossless: see the assertion on `usize` above.
#[allow(clippy::cast_possible_truncation)]
pub(crate) const fn index(bytes: u64) -> usize {
    bytes as usize
}

/// A length in memory as a count of bytes.
pub(crate) const fn count(length: usize) -> u64 {
    length as u64
}

/// The least multiple of a sector that holds `bytes`.
pub(crate) const fn whole_sectors(bytes: u64) -> u64 {
    bytes.next_multiple_of(SECTOR_BYTES)
}

/// True when every byte is zero. Compares in blocks, because it walks whole segments.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(ZEROS.len()).all(|block| block == &ZEROS[..block.len()])
}

/// Reads a field at a fixed place of a record. Panics only when the layout constants are wrong.
pub(crate) fn field<const N: usize>(record: &[u8], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&record[at..at + N]);
    bytes
}

/// Writes a field at a fixed place of a record.
pub(crate) fn put(record: &mut [u8], at: usize, bytes: &[u8]) {
    record[at..at + bytes.len()].copy_from_slice(bytes);
}

pub(crate) fn u32_at(record: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(field(record, at))
}

pub(crate) fn u64_at(record: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(field(record, at))
}

/// Where the checksum of a one-sector record stands: last, over all bytes before it, padding included.
const SECTOR_CRC_AT: usize = index(SECTOR_BYTES) - 4;

/// Seals a one-sector record (segment header, identity, mark slot).
pub(crate) fn seal_sector(sector: &mut Sector) {
    let crc = crc32fast::hash(&sector[..SECTOR_CRC_AT]);
    put(sector, SECTOR_CRC_AT, &crc.to_le_bytes());
}

/// Checks version and seal of a one-sector record whose version is at byte 8. Of another version nothing else is known, not even how it
/// is sealed; but a record that would be whole if it were of ours has a damaged version, and was written by no other. Version 0 never was:
/// a record that has it was cut off before its version.
pub(crate) fn check_record(sector: &Sector) -> Result<(), Flaw> {
    let version = u32_at(sector, 8);
    let mut ours = *sector;
    put(&mut ours, 8, &FORMAT_VERSION.to_le_bytes());
    if ![0, FORMAT_VERSION].contains(&version) && check_sector(&ours).is_err() {
        return Err(Flaw::OtherFormat { expected: FORMAT_VERSION, found: version });
    }
    check_sector(sector).map_err(|(expected, found)| Flaw::HeaderChecksum { expected, found })
}

/// Checks the seal of a one-sector record: (expected, found) when it does not hold.
fn check_sector(sector: &Sector) -> Result<(), (u32, u32)> {
    let (expected, found) = (u32_at(sector, SECTOR_CRC_AT), crc32fast::hash(&sector[..SECTOR_CRC_AT]));
    if expected == found { Ok(()) } else { Err((expected, found)) }
}

//! The high-water mark: a second place that knows how far the log had come, so that a log that ends early is
//! noticed, and so that a damaged end can be told from a torn write that nobody was promised.
//!
//! Two slots are written in turn, so that one is always whole, also where the disk has lost the other one. A slot is one sector: magic `PLENUMHW`, format
//! version at 8, cell id at 16, sequence at 32, revision at 40, hash of the frame that ends with that revision
//! at 48, CRC-32 at 508. What follows it in its block is zeros, which nobody reads.

use crate::disk::{Disk, DiskError, DiskFile, OpenMode};
use crate::flaw::Flaw;
use crate::forgiving::is_lost;
use crate::format::{
    CellId, ChainHash, FORMAT_VERSION, SECTOR_BYTES, Sector, check_record, field, index, is_zero, put, seal_sector,
    u64_at,
};
use std::sync::{Arc, Mutex, PoisonError};

/// The name of the file.
pub(crate) const NAME: &str = "MARK";

const MAGIC: [u8; 8] = *b"PLENUMHW";

/// The slots stand in blocks of their own, so that no write of one carries the other with it. A block is written whole: of one that is written in
/// part the file system reads the rest first, and a slot that the disk can't read any more could never be written again.
const BLOCK_BYTES: u64 = 4096;
const SLOTS_AT: [u64; 2] = [0, BLOCK_BYTES];
/// What a file is made with. One that an earlier version made ends with the second slot's sector.
const FILE_BYTES: u64 = SLOTS_AT[1] + BLOCK_BYTES;

/// A revision that was durable, with the hash of the frame that it ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// The last revision of a frame; 0 before the first.
    pub revision: u64,
    /// The hash of that frame.
    pub hash: ChainHash,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    cell: CellId,
    sequence: u64,
    mark: Mark,
}

impl Slot {
    fn encode(&self) -> Sector {
        let mut sector = [0; index(SECTOR_BYTES)];
        put(&mut sector, 0, &MAGIC);
        put(&mut sector, 8, &FORMAT_VERSION.to_le_bytes());
        put(&mut sector, 16, &self.cell.0);
        put(&mut sector, 32, &self.sequence.to_le_bytes());
        put(&mut sector, 40, &self.mark.revision.to_le_bytes());
        put(&mut sector, 48, &self.mark.hash.0);
        seal_sector(&mut sector);
        sector
    }

    fn decode(sector: &Sector, cell: CellId) -> Result<Self, Flaw> {
        let magic: [u8; 8] = field(sector, 0);
        if magic != MAGIC {
            return Err(Flaw::Magic { expected: MAGIC.to_vec(), found: magic.to_vec() });
        }
        check_record(sector)?;
        let found = CellId(field(sector, 16));
        if found != cell {
            return Err(Flaw::OtherCell { expected: cell, found });
        }
        let mark = Mark { revision: u64_at(sector, 40), hash: ChainHash(field(sector, 48)) };
        Ok(Slot { cell, sequence: u64_at(sector, 32), mark })
    }
}

/// Whether the file, of whatever cell, says that there was a log: it then is the last that is left of one, unlike what a crash leaves while
/// a cell is made. One of a newer format says so, too.
///
/// # Errors
/// When it can't be read, or not the slot that might have said so.
pub(crate) fn tells_of_a_log(disk: &dyn Disk) -> Result<bool, DiskError> {
    let file = disk.open(NAME, OpenMode::Existing)?;
    let found_bytes = file.size_bytes()?;
    let mut lost = None;
    for at in SLOTS_AT.into_iter().filter(|at| at + SECTOR_BYTES <= found_bytes) {
        let mut sector = [0; index(SECTOR_BYTES)];
        match file.read_at(at, &mut sector) {
            Err(error) if is_lost(&error) => {
                lost = Some(error);
                continue;
            }
            read => read?,
        }
        let tells = match Slot::decode(&sector, CellId(field(&sector, 16))) {
            Ok(slot) => slot.mark.revision > 0,
            Err(Flaw::OtherFormat { found, .. }) => found > FORMAT_VERSION,
            Err(_) => false,
        };
        if tells {
            return Ok(true);
        }
    }
    lost.map_or(Ok(false), Err)
}

/// What is wrong with zeros where a mark was written, and with a file of zeros: it is made with a mark in it.
pub(crate) fn never_written() -> Flaw {
    Flaw::Magic { expected: MAGIC.to_vec(), found: vec![0; MAGIC.len()] }
}

/// What the file says.
pub(crate) struct MarkFile {
    file: Box<dyn DiskFile>,
    cell: CellId,
    /// The newest whole slot, with its place; none when no slot is whole.
    newest: Option<(usize, Slot)>,
    /// What is wrong with slots that were written but are not whole, or that the disk can't read any more.
    pub(crate) flaws: Vec<(u64, Flaw)>,
}

impl MarkFile {
    /// Makes the file, with its first mark. The directory is synced by the caller.
    pub(crate) fn create(disk: &dyn Disk, cell: CellId, mark: Mark) -> Result<(), DiskError> {
        let file = disk.open(NAME, OpenMode::Create)?;
        let mut content = vec![0; index(FILE_BYTES)];
        put(&mut content, 0, &Slot { cell, sequence: 1, mark }.encode());
        file.write_at(0, &content)?;
        file.sync()
    }

    /// Reads the file, which must be there.
    pub(crate) fn read(disk: &dyn Disk, cell: CellId) -> Result<Self, DiskError> {
        let file = disk.open(NAME, OpenMode::Existing)?;
        file.settle()?;
        let found_bytes = file.size_bytes()?;
        let mut read = MarkFile { file, cell, newest: None, flaws: Vec::new() };
        let mut zeros = None;
        for (place, at) in SLOTS_AT.into_iter().enumerate() {
            if found_bytes < at + SECTOR_BYTES {
                read.flaws.push((at, Flaw::FileSize { expected_bytes: FILE_BYTES, found_bytes }));
                continue;
            }
            let mut sector = [0; index(SECTOR_BYTES)];
            match read.file.read_at(at, &mut sector) {
                Err(error) if is_lost(&error) => {
                    read.flaws.push((at, Flaw::Unreadable { error: error.source.to_string() }));
                    continue;
                }
                found => found?,
            }
            match Slot::decode(&sector, cell) {
                Ok(slot) if read.newest.is_none_or(|(_, newest)| newest.sequence < slot.sequence) => {
                    read.newest = Some((place, slot));
                }
                Ok(_) => {}
                Err(_) if is_zero(&sector) => zeros = Some(at),
                Err(flaw) => read.flaws.push((at, flaw)),
            }
        }
        // Beside the first mark the other slot is not written yet. From the second one on both are.
        let both_were_written = read.newest.is_some_and(|(_, slot)| slot.sequence > 1);
        read.flaws.extend(zeros.filter(|_| both_were_written).map(|at| (at, never_written())));
        Ok(read)
    }

    /// The mark; none when no slot is whole.
    pub(crate) fn mark(&self) -> Option<Mark> {
        self.newest.map(|(_, slot)| slot.mark)
    }

    /// Starts writing, first into the slot that does not hold the newest mark.
    pub(crate) fn into_writer(self) -> HighWater {
        let (place, sequence, durable) = match self.newest {
            Some((place, slot)) => (1 - place, slot.sequence, Some(slot.mark)),
            None => (0, 0, None),
        };
        let writer = Writer { file: self.file, cell: self.cell, place, sequence };
        HighWater(Arc::new(Shared {
            noted: Mutex::new(durable.unwrap_or_default()),
            durable: Mutex::new(durable),
            writer: Mutex::new(writer),
        }))
    }
}

struct Writer {
    file: Box<dyn DiskFile>,
    cell: CellId,
    place: usize,
    sequence: u64,
}

struct Shared {
    /// Held for a copy only: the commit path writes it.
    noted: Mutex<Mark>,
    /// The newest mark that is durable. Held for a copy only: threads that serve connections read it. Changed by who has the writer.
    durable: Mutex<Option<Mark>>,
    /// Held while the disk is waited for.
    writer: Mutex<Writer>,
}

/// Writes the high-water mark. Clones share it.
///
/// The journal notes each durable batch by itself. Somebody else calls [`HighWater::flush`]: a background thread,
/// at most 100 ms after a batch and once at shutdown. The shorter that time, the smaller the end of the log whose
/// damage cannot be told from a torn write.
#[derive(Clone)]
pub struct HighWater(Arc<Shared>);

impl HighWater {
    /// Remembers a mark to be written. Only for revisions that are durable in the log; older ones than the
    /// newest are ignored.
    pub fn note(&self, revision: u64, hash: ChainHash) {
        let mut noted = self.0.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.revision < revision {
            *noted = Mark { revision, hash };
        }
    }

    /// Writes the newest mark and makes it durable; nothing when it is already. True when it wrote.
    ///
    /// # Errors
    /// The mark before it stays whole, and the next flush writes the same slot again. The log is not affected;
    /// a disk that fails here will fail there soon.
    pub fn flush(&self) -> Result<bool, DiskError> {
        let mut writer = self.0.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mark = *self.0.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if self.durable() == Some(mark) {
            return Ok(false);
        }
        let slot = Slot { cell: writer.cell, sequence: writer.sequence + 1, mark };
        let mut block = [0_u8; index(BLOCK_BYTES)];
        put(&mut block, 0, &slot.encode());
        writer.file.write_at(SLOTS_AT[writer.place], &block)?;
        writer.file.sync()?;
        writer.sequence = slot.sequence;
        writer.place = 1 - writer.place;
        *self.0.durable.lock().unwrap_or_else(PoisonError::into_inner) = Some(mark);
        Ok(true)
    }

    /// The newest mark that is durable; none before the first. Waits for no disk.
    #[must_use]
    pub fn durable(&self) -> Option<Mark> {
        *self.0.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for HighWater {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("HighWater").field("durable", &self.durable()).finish()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::disk::SimDisk;
    use crate::format::u32_at;

    const CELL: CellId = CellId([3; 16]);

    fn fresh() -> (SimDisk, HighWater) {
        let disk = SimDisk::new(0);
        MarkFile::create(&disk, CELL, Mark::default()).unwrap();
        disk.sync_dir().unwrap();
        let mark = MarkFile::read(&disk, CELL).unwrap().into_writer();
        (disk, mark)
    }

    fn slots(disk: &SimDisk) -> [Vec<u8>; 2] {
        let image = disk.image(NAME).unwrap();
        SLOTS_AT.map(|at| image[index(at)..index(at + SECTOR_BYTES)].to_vec())
    }

    #[test]
    fn a_slot_has_the_bytes_that_format_one_has() {
        let mark = Mark { revision: 5, hash: ChainHash([0xab; 32]) };
        let slot = Slot { cell: CellId([0xce; 16]), sequence: 3, mark };
        let sector = slot.encode();
        let text: String = sector[..80].iter().map(|byte| format!("{byte:02x}")).collect();
        let fields = [
            "504c454e554d4857",
            "01000000",
            "00000000",
            "cececececececececececececececece",
            "0300000000000000",
            "0500000000000000",
            "abababababababababababababababababababababababababababababababab",
        ];
        assert_eq!(text, fields.concat());
        assert!(sector[80..508].iter().all(|byte| *byte == 0));
        assert_eq!(u32_at(&sector, 508), 0x7b04_7af7, "CRC-32 as zlib computes it");
        assert_eq!(Slot::decode(&sector, slot.cell), Ok(slot));
    }

    #[test]
    fn slots_are_written_in_turn_so_that_the_older_mark_stays_whole() {
        let (disk, mark) = fresh();
        let mut before = slots(&disk);
        for revision in 1..6 {
            mark.note(revision, ChainHash([9; 32]));
            assert!(mark.flush().unwrap());
            let after = slots(&disk);
            let written = usize::from(revision % 2 == 1);
            assert_ne!(after[written], before[written]);
            assert_eq!(after[1 - written], before[1 - written]);
            before = after;
        }
    }

    #[test]
    fn a_file_that_ends_with_the_sector_of_its_second_slot_is_read_and_written_on() {
        let (disk, mark) = fresh();
        mark.note(1, ChainHash([1; 32]));
        mark.flush().unwrap();
        disk.truncate(NAME, SLOTS_AT[1] + SECTOR_BYTES);
        for revision in 2..4 {
            let read = MarkFile::read(&disk, CELL).unwrap();
            assert_eq!((read.mark().unwrap().revision, read.flaws.len()), (revision - 1, 0));
            let mark = read.into_writer();
            mark.note(revision, ChainHash([1; 32]));
            mark.flush().unwrap();
        }
        assert_eq!(MarkFile::read(&disk, CELL).unwrap().mark().unwrap().revision, 3);
    }

    #[test]
    fn a_flushed_mark_survives_a_power_cut_and_never_goes_back() {
        for seed in 0..20 {
            let (disk, mark) = fresh();
            mark.note(5, ChainHash([5; 32]));
            mark.note(4, ChainHash([4; 32]));
            mark.flush().unwrap();
            assert!(!mark.flush().unwrap(), "there is nothing new");
            disk.crash(seed);
            let read = MarkFile::read(&disk.reboot(), CELL).unwrap();
            assert_eq!(read.mark(), Some(Mark { revision: 5, hash: ChainHash([5; 32]) }));
        }
    }

    // Who asked for metrics waited for a flush, on a thread that serves connections: two of them, on a disk that did not answer, and nobody was served.
    #[test]
    fn what_is_durable_is_told_while_the_disk_is_waited_for() {
        let (_disk, mark) = fresh();
        mark.note(1, ChainHash([1; 32]));
        let flushing = mark.0.writer.lock().unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let asked = mark.clone();
        std::thread::spawn(move || tell.send(asked.durable()));
        assert_eq!(told.recv_timeout(std::time::Duration::from_secs(30)), Ok(Some(Mark::default())));
        drop(flushing);
        mark.flush().unwrap();
        assert_eq!(mark.durable().map(|durable| durable.revision), Some(1));
    }

    #[test]
    fn a_failed_flush_leaves_the_mark_before_it_and_is_tried_again() {
        let (disk, mark) = fresh();
        mark.note(1, ChainHash([1; 32]));
        mark.flush().unwrap();
        mark.note(2, ChainHash([2; 32]));
        disk.fail(crate::disk::SimOperation::Sync, 0, std::io::ErrorKind::Other);
        assert!(mark.flush().is_err());
        assert_eq!(mark.durable().unwrap().revision, 1);
        let shown = MarkFile::read(&disk.copy(), CELL).unwrap().mark().unwrap();
        assert!(shown.revision >= 1);
        assert!(mark.flush().unwrap());
        assert_eq!(MarkFile::read(&disk, CELL).unwrap().mark().unwrap().revision, 2);
    }
}

//! A disk that can't read some sectors any more, or not even open some files: a log on it is not opened, and what is left of it can be looked at.

use super::*;
use crate::segment;
use std::ops::Range;
use std::sync::Mutex;

/// What its file system reads and writes at a time.
const BLOCK_BYTES: u64 = 4096;

/// Of these files, these bytes.
type Places = Vec<(String, Range<u64>)>;

/// A disk with worn sectors.
#[derive(Clone)]
struct Worn {
    disk: SimDisk,
    places: Arc<Mutex<Places>>,
    /// Of a file of this name not even the inode can be read.
    lost: Option<String>,
}

impl Worn {
    fn new(disk: SimDisk, places: Places) -> Self {
        Self { disk, places: Arc::new(Mutex::new(places)), lost: None }
    }

    fn without(disk: SimDisk, lost: &str) -> Self {
        Self { lost: Some(lost.to_owned()), ..Self::new(disk, Places::new()) }
    }

    fn refuse_if_lost(&self, operation: &'static str, name: &str) -> Result<(), DiskError> {
        if self.lost.as_deref() != Some(name) {
            return Ok(());
        }
        // EUCLEAN.
        Err(DiskError { operation, path: name.to_owned(), source: std::io::Error::from_raw_os_error(117) })
    }
}

struct WornFile {
    file: Box<dyn DiskFile>,
    name: String,
    places: Arc<Mutex<Places>>,
}

impl WornFile {
    fn failed(&self, operation: &'static str) -> DiskError {
        DiskError { operation, path: self.name.clone(), source: std::io::Error::from_raw_os_error(5) }
    }
}

impl Disk for Worn {
    fn place(&self) -> String {
        self.disk.place()
    }

    fn list(&self) -> Result<Vec<String>, DiskError> {
        self.disk.list()
    }

    fn open(&self, name: &str, mode: OpenMode) -> Result<Box<dyn DiskFile>, DiskError> {
        self.refuse_if_lost("opening", name)?;
        let file = self.disk.open(name, mode)?;
        Ok(Box::new(WornFile { file, name: name.to_owned(), places: self.places.clone() }))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        self.refuse_if_lost("renaming", from)?;
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        self.refuse_if_lost("removal", name)?;
        self.disk.remove(name)
    }

    fn sync_dir(&self) -> Result<(), DiskError> {
        self.disk.sync_dir()
    }

    fn free_bytes(&self) -> Result<u64, DiskError> {
        self.disk.free_bytes()
    }

    fn lock(&self, name: &str) -> Result<Box<dyn DiskLock>, LockError> {
        self.disk.lock(name)
    }
}

impl DiskFile for WornFile {
    fn size_bytes(&self) -> Result<u64, DiskError> {
        self.file.size_bytes()
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let end = offset + into.len() as u64;
        let is_hit = |(file, worn): &(String, Range<u64>)| *file == self.name && worn.start < end && offset < worn.end;
        if self.places.lock().unwrap().iter().any(is_hit) {
            return Err(self.failed("read"));
        }
        self.file.read_at(offset, into)
    }

    // Of a block that is written in part the rest is read first. One that is written whole is another one from then on.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let end = offset + bytes.len() as u64;
        let blocks = |worn: &Range<u64>| worn.start / BLOCK_BYTES * BLOCK_BYTES..worn.end.next_multiple_of(BLOCK_BYTES);
        let is_hit = |(file, worn): &(String, Range<u64>)| {
            let blocks = blocks(worn);
            *file == self.name && blocks.start < end && offset < blocks.end
        };
        let is_whole = |worn: &Range<u64>| offset <= blocks(worn).start && blocks(worn).end <= end;
        let mut places = self.places.lock().unwrap();
        if places.iter().any(|place| is_hit(place) && !is_whole(&place.1)) {
            return Err(self.failed("write"));
        }
        places.retain(|place| !is_hit(place));
        self.file.write_at(offset, bytes)
    }

    fn zero(&self, offset: u64, bytes: u64) -> Result<bool, DiskError> {
        self.file.zero(offset, bytes)
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.file.sync()
    }

    fn settle(&self) -> Result<(), DiskError> {
        self.file.settle()
    }
}

const BATCHES: u64 = 12;

/// A log, and where its frames stand.
fn log() -> (SimDisk, Vec<(String, Range<u64>)>) {
    let (disk, journal) = log_of(BATCHES);
    journal.high_water().flush().unwrap();
    drop(journal);
    let disk = disk.copy();
    let mut frames = Vec::new();
    let mut visit = |frame: &Frame<'_>| {
        frames.push((segment::name(frame.segment), frame.offset..frame.offset + frame.bytes));
    };
    assert!(verify(&disk, None, &mut visit).unwrap().is_sound());
    (disk, frames)
}

/// The batches that can be read, and what is wrong.
fn looked_at(disk: &Worn) -> (Vec<u64>, Report) {
    let mut batches = Vec::new();
    let report = verify(disk, Some(CELL), &mut |frame| {
        assert_is_batch(frame);
        batches.push(batches_in(frame.first_revision));
    });
    (batches, report.unwrap())
}

// The walk ended with the disk's error: nobody came to what stands behind such a sector, or before it, however much loss was accepted.
#[test]
fn every_frame_but_those_in_worn_sectors_is_shown_and_the_place_is_told() {
    let (disk, frames) = log();
    for (worn, (file, range)) in (0..).zip(&frames) {
        for sector in range.clone().step_by(512) {
            let disk = Worn::new(disk.clone(), vec![(file.clone(), sector..sector + 512)]);
            let (batches, report) = looked_at(&disk);
            let expected: Vec<u64> = (0..BATCHES).filter(|batch| *batch != worn).collect();
            assert_eq!(batches, expected);
            let is_told = |damage: &&Damage| matches!(damage.flaw, Flaw::Unreadable { .. }) && damage.offset == sector;
            assert_eq!(report.damages.iter().filter(is_told).count(), 1, "{:?}", report.damages);
            assert!(!report.is_sound());
            assert!(matches!(Journal::open(Arc::new(disk), options()), Err(OpenError::Disk(_))), "nothing is given up");
        }
    }
}

#[test]
fn a_worn_header_costs_no_frame_and_a_segment_that_is_worn_whole_no_other_one() {
    let (disk, frames) = log();
    let file = frames[5].0.clone();
    let header = Worn::new(disk.clone(), vec![(file.clone(), 0..512)]);
    let (batches, report) = looked_at(&header);
    assert_eq!(batches, (0..BATCHES).collect::<Vec<_>>());
    assert!(!report.is_sound());
    let whole = Worn::new(disk, vec![(file.clone(), 0..4096)]);
    let (batches, report) = looked_at(&whole);
    let others = (0..).zip(&frames).filter(|(_, (other, _))| *other != file).map(|(batch, _)| batch);
    assert_eq!(batches, others.collect::<Vec<_>>());
    let unreadable: Vec<_> =
        report.damages.iter().filter(|damage| matches!(damage.flaw, Flaw::Unreadable { .. })).collect();
    assert_eq!(unreadable.len(), 1, "{unreadable:?}");
    assert!(unreadable[0].to_string().contains("4096 bytes"), "{}", unreadable[0]);
}

#[test]
fn a_log_with_a_worn_identity_is_looked_at_and_not_opened() {
    let (disk, _) = log();
    let worn = Worn::new(disk, vec![("CELL".to_owned(), 0..512)]);
    let (batches, report) = looked_at(&worn);
    assert_eq!(batches.len() as u64, BATCHES);
    let told: Vec<_> = report.damages.iter().map(|damage| (damage.file.as_str(), &damage.flaw)).collect();
    assert!(matches!(told[..], [("CELL", Flaw::Unreadable { .. })]), "{told:?}");
    assert!(matches!(Journal::open(Arc::new(worn), options()), Err(OpenError::Disk(_))), "nothing is given up");
}

// A flipped bit in a slot was a warning, and a worn sector under it a mark that nobody had: the way on was a new incarnation. And that sector alone was
// written again, which no file system does: the start was refused, or the mark stayed where it was for as long as the server ran.
#[test]
fn of_a_mark_with_one_worn_slot_the_other_one_counts_and_the_worn_one_is_written_again() {
    let (disk, _) = log();
    for slot in [0, 4096] {
        let worn = Worn::new(disk.copy(), vec![("MARK".to_owned(), slot..slot + 512)]);
        let (batches, report) = looked_at(&worn);
        assert_eq!(batches.len() as u64, BATCHES);
        let told: Vec<_> = report.mark_damages.iter().map(|damage| (damage.offset, damage.flaw.clone())).collect();
        assert!(matches!(told[..], [(at, Flaw::Unreadable { .. })] if at == slot), "{told:?}");
        assert!(report.is_sound() && report.damages.is_empty(), "{report:?}");
        let (mut journal, recovered) = Journal::open(Arc::new(worn.clone()), options()).unwrap();
        assert_eq!((recovered.tail, recovered.mark), (report.tail, report.mark));
        for batch in BATCHES..BATCHES + 2 {
            append(&mut journal, batch).unwrap();
            assert!(journal.high_water().flush().unwrap());
        }
        drop(journal);
        let (batches, report) = looked_at(&worn);
        assert_eq!(batches.len() as u64, BATCHES + 2);
        assert_eq!(
            (report.mark.revision, report.mark_damages.len()),
            (report.tail.revision, 0),
            "both slots are whole"
        );
    }
}

#[test]
fn a_mark_of_which_both_slots_are_worn_is_none() {
    let (disk, _) = log();
    let worn = Worn::new(disk, vec![("MARK".to_owned(), 0..512), ("MARK".to_owned(), 4096..4608)]);
    let (batches, report) = looked_at(&worn);
    assert_eq!(batches.len() as u64, BATCHES);
    assert!(matches!(report.refused, Some(OpenError::NoMark { .. })), "{:?}", report.refused);
    assert!(matches!(Journal::open(Arc::new(worn), options()), Err(OpenError::NoMark { .. })));
}

#[test]
fn a_worn_mark_that_is_all_that_is_left_of_a_log_is_never_overwritten() {
    let (disk, mut journal) = log_of(2);
    journal.high_water().flush().unwrap();
    append(&mut journal, 2).unwrap();
    journal.high_water().flush().unwrap();
    drop(journal);
    let disk = disk.copy();
    disk.names().iter().filter(|name| *name != "MARK").for_each(|name| disk.erase(name));
    let before = disk.image("MARK");
    let slots = [0, 4096].map(|slot| ("MARK".to_owned(), slot..slot + 512));
    let refused = |worn: &[(String, Range<u64>)]| {
        Journal::open(Arc::new(Worn::new(disk.clone(), worn.to_vec())), options()).err()
    };
    // The slot that is left says that there was a log; without any nobody knows.
    for slot in &slots {
        assert!(matches!(refused(std::slice::from_ref(slot)), Some(OpenError::Orphaned { .. })));
    }
    assert!(matches!(refused(&slots), Some(OpenError::Disk(_))));
    assert_eq!(disk.image("MARK"), before);
}

/// A log of 30 batches that keeps what is before it, and its oldest revision.
fn log_that_keeps() -> (SimDisk, Options, u64) {
    let disk = SimDisk::new(1);
    let keeping = Options { keep_released: true, ..options() };
    let (mut journal, _) = Journal::open(Arc::new(disk.clone()), keeping.clone()).unwrap();
    for batch in 0..30 {
        append(&mut journal, batch).unwrap();
    }
    journal.keeper().release(60);
    journal.keeper().prepare().unwrap();
    let oldest = journal.keeper().oldest_revision();
    (disk, keeping, oldest)
}

// The walk of that segment ended there: it was named as a whole, without the place, and nothing behind it was looked at.
#[test]
fn every_frame_of_a_kept_segment_but_those_in_worn_sectors_is_shown_and_each_place_is_told() {
    let (disk, _, oldest) = log_that_keeps();
    let looked_at = |worn: Places| {
        let mut frames = Vec::new();
        let kept = verify_kept(&Worn::new(disk.clone(), worn), Some(CELL), &mut |frame| {
            assert_is_batch(frame);
            frames.push((batches_in(frame.first_revision), frame.segment, frame.offset));
        });
        (frames, kept.unwrap().damages)
    };
    let (frames, damages) = looked_at(Vec::new());
    assert_eq!((frames.len() as u64, damages.len()), (batches_in(oldest), 0));
    let worn = [frames[0], frames[2]];
    assert_eq!(worn.map(|(_, segment, _)| segment), [1, 1]);
    let places = worn.map(|(_, _, offset)| (segment::kept_name(1), offset..offset + 512));
    let (shown, damages) = looked_at(places.to_vec());
    let others: Vec<_> = frames.iter().filter(|frame| !worn.contains(frame)).copied().collect();
    assert_eq!(shown, others);
    let told = damages.iter().filter(|damage| matches!(damage.flaw, Flaw::Unreadable { .. }));
    let told: Vec<_> = told.map(|damage| (damage.file.clone(), damage.offset)).collect();
    assert_eq!(told, places.map(|(file, range)| (file, range.start)));
}

// A log that was to be read again from its fallback could not be opened for a segment that was not needed for that.
#[test]
fn a_kept_segment_that_can_not_be_read_does_not_keep_later_ones_from_joining_the_log() {
    let (disk, keeping, oldest) = log_that_keeps();
    let worn = vec![(segment::kept_name(1), 0..512)];
    let claimed = Journal::claim(Arc::new(Worn::new(disk, worn)), keeping).unwrap();
    assert_eq!(claimed.rejoin_kept(1).unwrap(), 0, "nobody knows whether it goes back so far");
    assert_eq!(claimed.rejoin_kept(oldest - 1).unwrap(), 1);
}

/// What a directory with a file of which not even the inode can be read is told to have, by the files that are named.
fn named_in(report: &Report) -> Vec<&str> {
    let unreadable = report.damages.iter().filter(|damage| matches!(damage.flaw, Flaw::Unreadable { .. }));
    unreadable.map(|damage| damage.file.as_str()).collect()
}

// There was no report, and no restore from the directory, whatever loss was accepted: only what could be opened, and not be read, was damage.
#[test]
fn a_log_with_a_file_that_can_not_even_be_opened_is_looked_at_and_not_opened() {
    let (disk, mut journal) = log_of(BATCHES);
    journal.keeper().prepare().unwrap();
    append(&mut journal, BATCHES).unwrap();
    journal.keeper().prepare().unwrap();
    journal.high_water().flush().unwrap();
    drop(journal);
    let disk = disk.copy();
    let mut frames = Vec::new();
    let whole = verify(&disk, None, &mut |frame| frames.push((frame.segment, batches_in(frame.first_revision))));
    let whole = whole.unwrap();
    let last = frames.last().unwrap().0;
    assert!(disk.names().contains(&segment::name(last + 1)), "one is ready");
    for number in 1..=last + 1 {
        let name = segment::name(number);
        let lost = Worn::without(disk.clone(), &name);
        let (batches, report) = looked_at(&lost);
        let others = frames.iter().filter(|(segment, _)| *segment != number).map(|(_, batch)| *batch);
        assert_eq!((batches, named_in(&report)), (others.collect::<Vec<_>>(), vec![name.as_str()]));
        assert!(matches!(report.refused, Some(OpenError::Damaged { .. })), "{:?}", report.refused);
        assert_eq!(report.damages.len(), 1, "{:?}", report.damages);
        assert!(matches!(Journal::open(Arc::new(lost), options()), Err(OpenError::Disk(_))), "nothing is given up");
    }

    let lost = Worn::without(disk.clone(), "CELL");
    let (batches, report) = looked_at(&lost);
    assert_eq!((batches.len(), named_in(&report)), (frames.len(), vec!["CELL"]));
    assert!(matches!(report.refused, Some(OpenError::IdentityDamaged { .. })), "{:?}", report.refused);
    assert_eq!((identity(&lost).unwrap(), report.tail), (whole.identity, whole.tail));
    assert!(matches!(Journal::open(Arc::new(lost), options()), Err(OpenError::Disk(_))), "nothing is given up");

    let lost = Worn::without(disk, "MARK");
    let (batches, report) = looked_at(&lost);
    assert_eq!((batches.len(), named_in(&report)), (frames.len(), vec!["MARK"]));
    assert!(matches!(report.refused, Some(OpenError::NoMark { .. })), "{:?}", report.refused);
    assert!(matches!(Journal::open(Arc::new(lost), options()), Err(OpenError::NoMark { .. })), "nothing is given up");
}

// The log was to be read again from its fallback, and the start was refused for a segment that was not needed for that.
#[test]
fn a_kept_segment_that_can_not_even_be_opened_does_not_keep_later_ones_from_joining_the_log() {
    let (disk, keeping, oldest) = log_that_keeps();
    let lost = Worn::without(disk, &segment::kept_name(1));
    let kept = verify_kept(&lost, Some(CELL), &mut |_| {}).unwrap();
    assert_eq!(kept.damages.iter().map(|damage| damage.file.clone()).collect::<Vec<_>>(), [segment::kept_name(1)]);
    let range = FrameRange { segment: 1, offset: 512, bytes: 512, first_revision: 1, last_revision: 3 };
    let error = Archive::new(Arc::new(lost.clone())).read(&range).unwrap_err();
    assert!(matches!(&error, ReadError::Disk(failed) if !failed.may_be_sound()), "{error}");
    let claimed = Journal::claim(Arc::new(lost), keeping).unwrap();
    assert_eq!(claimed.rejoin_kept(1).unwrap(), 0, "nobody knows whether it goes back so far");
    assert_eq!(claimed.rejoin_kept(oldest - 1).unwrap(), 1);
}

// It was taken at each try, as the oldest one: the log could not grow any more, on a disk with room.
#[test]
fn a_kept_segment_that_can_not_be_moved_stays_where_it_is_and_the_log_goes_on() {
    let (disk, keeping, _) = log_that_keeps();
    let stuck = segment::kept_name(1);
    let lost = Worn::without(disk.clone(), &stuck);
    let (mut journal, _) = Journal::open(Arc::new(lost), keeping).unwrap();
    let keeper = journal.keeper();
    for batch in 30..60 {
        append(&mut journal, batch).unwrap();
        keeper.release(label(batch).last_revision);
        keeper.give_up(label(batch).first_revision);
        keeper.prepare().unwrap();
    }
    assert_eq!(read_all(&journal), 60);
    let names = disk.names();
    assert!(
        names.contains(&stuck) && !names.contains(&segment::kept_name(2)),
        "those behind it are used again: {names:?}"
    );
}

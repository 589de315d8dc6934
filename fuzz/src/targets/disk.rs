//! Files: the log, the history's rows, backups.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use plenum_journal::{
    Archive, BatchLabel, CellId, Frame, FrameRange, Journal, Options, SECTOR_BYTES, SimDisk, verify, verify_kept,
};

const CELL: CellId = CellId(*b"a cell to damage");

fn options() -> Options {
    Options { create: Some(CELL), segment_bytes: 4096, frame_bytes_max: 2048, ..Options::default() }
}

/// The files of a small log, two segments long, whose mark lies within the second one: what comes after it may be lost with what was torn.
pub(crate) fn files() -> &'static [(String, Vec<u8>)] {
    static FILES: OnceLock<Vec<(String, Vec<u8>)>> = OnceLock::new();
    FILES.get_or_init(|| {
        let disk = SimDisk::new(1);
        let (mut journal, _) = Journal::open(Arc::new(disk.clone()), options()).expect("an empty disk takes a log");
        for batch in 0..6_u64 {
            let label = BatchLabel { term: 1, first_revision: batch * 2 + 1, last_revision: batch * 2 + 2 };
            journal.append_and_sync(label, &[&[7; 700]]).expect("a disk without faults takes a batch");
            if batch == 3 {
                journal.high_water().flush().expect("a disk without faults takes a mark");
            }
        }
        drop(journal);
        let names = disk.names().into_iter();
        let mut files: Vec<_> = names
            .filter_map(|name| disk.image(&name).map(|image| (name, image)))
            .filter(|(_, image)| !image.is_empty())
            .collect();
        files.sort();
        files
    })
}

/// A disk with the small log, and one file replaced.
fn disk_with(file: usize, content: Vec<u8>) -> SimDisk {
    let disk = SimDisk::new(1);
    for (number, (name, image)) in files().iter().enumerate() {
        disk.put(name, if number == file { content.clone() } else { image.clone() });
    }
    disk
}

/// A frame's first and last revision, and its payload.
type Batch = (u64, u64, Vec<u8>);

fn batch_of(frame: &Frame<'_>) -> Batch {
    (frame.first_revision, frame.last_revision, frame.payload.to_vec())
}

/// All batches of the small log, and how many of them its mark covers: these were acknowledged, whatever becomes of the log.
fn whole() -> &'static (Vec<Batch>, usize) {
    static WHOLE: OnceLock<(Vec<Batch>, usize)> = OnceLock::new();
    WHOLE.get_or_init(|| {
        let disk = disk_with(files().len(), Vec::new());
        let mut all = Vec::new();
        let report = verify(&disk, None, &mut |frame| all.push(batch_of(frame))).expect("it is a log");
        let marked = all.iter().filter(|(_, last, _)| *last <= report.mark.revision).count();
        assert!(report.is_sound() && 0 < marked && marked + 1 < all.len(), "{marked} of {} are marked", all.len());
        (all, marked)
    })
}

/// Walks the log with one file replaced and opens it: either a log, and then its batches are those that were acknowledged and go on from there as they
/// did, or an error. Only the end of the last segment may be lost, down to the mark. `sealed`: checksums of the file were made right, so that what
/// stands last in it, above the mark, may be anything.
fn read_log(file: usize, content: Vec<u8>, sealed: bool) -> bool {
    let disk = disk_with(file, content);
    let _ = verify(&disk, None, &mut |_| ());
    let Ok((journal, _)) = Journal::open(Arc::new(disk.clone()), options()) else { return false };
    drop(journal);
    let mut found = Vec::new();
    let again = verify(&disk, None, &mut |frame| found.push(batch_of(frame)));
    assert!(again.is_ok_and(|report| report.is_sound()), "a log was opened and then refused");
    let gap = found.windows(2).any(|pair| pair[0].1.checked_add(1) != Some(pair[1].0));
    assert!(!gap, "a log was opened with a gap in it");
    let (all, marked) = whole();
    let is_segment = files().get(file).is_some_and(|(name, _)| name.ends_with(".segment"));
    let least = if is_segment { *marked } else { all.len() };
    assert!(found.starts_with(&all[..least]), "a log was opened without batches that were acknowledged");
    // Each one but the last is held in place by the hash that the next one carries.
    let certain = if sealed { found.len().saturating_sub(1) } else { found.len() };
    assert!(all.starts_with(&found[..certain]), "a log was opened with batches that never were");
    true
}

/// The first byte chooses a file of a small log, the rest is its content.
pub(super) fn log(input: &[u8]) -> bool {
    let Some((choice, content)) = input.split_first() else { return false };
    read_log(usize::from(*choice) % files().len(), content.to_vec(), false)
}

/// The same, once all checksums in it are right: what heads say is then taken at its word.
pub(super) fn sealed_log(input: &[u8]) -> bool {
    let Some((choice, content)) = input.split_first() else { return false };
    read_log(usize::from(*choice) % files().len(), sealed(content.to_vec()), true)
}

/// Makes the checksums right of whatever begins like a frame or like one of the other records, where `frame.rs` and `segment.rs` of the journal
/// say that they stand.
fn sealed(mut content: Vec<u8>) -> Vec<u8> {
    const SECTOR: usize = 512;
    let put = |bytes: &mut [u8], at: usize, sum: u32| bytes[at..at + 4].copy_from_slice(&sum.to_le_bytes());
    for at in (0..content.len()).step_by(SECTOR) {
        let bytes = &mut content[at..];
        if bytes.len() >= SECTOR && bytes.starts_with(b"PLENUM") {
            let sum = crc32fast::hash(&bytes[..508]);
            put(bytes, 508, sum);
        } else if bytes.len() >= SECTOR && bytes.starts_with(b"PLFR") {
            let sum = crc32fast::hash(&bytes[..72]);
            put(bytes, 72, sum);
            let payload = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]) as usize;
            let whole = (80 + payload).next_multiple_of(SECTOR);
            if let Some(frame) = bytes.get_mut(..whole) {
                let mut sum = crc32fast::Hasher::new();
                sum.update(&frame[..76]);
                sum.update(&frame[80..]);
                put(frame, 76, sum.finalize());
            }
        }
    }
    content
}

/// A segment that is kept, and what is read of it by its place: a byte for its number, for where, how much, and from which revision to which, in
/// sectors and revisions; then its content, whose checksums are right.
pub(super) fn archive(input: &[u8]) -> bool {
    let [number, from, sectors, first, last, content @ ..] = input else { return false };
    let segments = files().iter().filter(|(name, _)| name.ends_with(".segment"));
    let disk = SimDisk::new(1);
    files().iter().for_each(|(name, image)| disk.put(name, image.clone()));
    // The oldest is given up, and has another content.
    let oldest = segments.map(|(name, _)| name).min().expect("a log has segments");
    disk.erase(oldest);
    disk.put(&oldest.replace(".segment", ".kept"), sealed(content.to_vec()));
    let oldest: u64 = oldest.trim_end_matches(".segment").parse().expect("its name is its number");
    let range = FrameRange {
        segment: oldest + u64::from(*number),
        offset: u64::from(*from) * SECTOR_BYTES,
        bytes: u64::from(*sectors) * SECTOR_BYTES,
        // Revisions begin with 1.
        first_revision: u64::from(*first).max(1),
        last_revision: (*last).into(),
    };
    let read = Archive::new(Arc::new(disk.clone())).read(&range);
    if let Ok(read) = &read {
        let mut next = range.first_revision;
        for (first, last, payload) in &read.frames {
            assert_eq!(*first, next, "a gap was read");
            assert!(payload.end <= read.bytes.len() && first <= last, "a frame without an end was read");
            next = last + 1;
        }
        assert_eq!(next, range.last_revision + 1, "another end was read");
    }
    let mut shown = 0;
    let kept = verify_kept(&disk, None, &mut |frame| shown += frame.payload.len());
    // What is kept can't keep the log from being opened.
    let _ = Journal::open(Arc::new(disk), options()).expect("the log itself is whole");
    read.is_ok() | kept.is_ok_and(|report| report.damages.is_empty() && shown > 0)
}

/// Payloads of batches, as somebody else's program might append them: lengths of one byte, each times eight.
pub(super) fn frames(input: &[u8]) -> bool {
    let disk = SimDisk::new(1);
    let (mut journal, _) = Journal::open(Arc::new(disk.clone()), options()).expect("an empty disk takes a log");
    let (mut rest, mut revision) = (input, 0_u64);
    let mut expected = Vec::new();
    while let Some((length, tail)) = rest.split_first() {
        let (payload, tail) = tail.split_at(tail.len().min(usize::from(*length) * 8));
        let label =
            BatchLabel { term: 1, first_revision: revision + 1, last_revision: revision + 1 + u64::from(*length) };
        // Above the largest frame it is an error, and nothing is written.
        if journal.append_and_sync(label, &[payload]).is_ok() {
            revision = label.last_revision;
            expected.push(payload.to_vec());
        }
        rest = tail;
    }
    drop(journal);
    let mut found = Vec::new();
    let report = verify(&disk, None, &mut |frame| found.push(frame.payload.to_vec())).expect("it is a log");
    assert!(report.is_sound() && found == expected, "what was appended is not what is read");
    !found.is_empty()
}

/// The first byte is the length of the key.
pub(super) fn history(input: &[u8]) -> bool {
    let Some((length, rest)) = input.split_first() else { return false };
    let (key, value) = rest.split_at(rest.len().min(usize::from(*length)));
    plenum_history::probe::row(key, &Bytes::copy_from_slice(value)) > 2
}

/// What an agent and its shims leave for each other.
pub(super) fn records(input: &[u8]) -> bool {
    plenum_agent::probe::record(input) > 0
}

/// Whether all seals of a file hold. Where they do, a cell is read from it, which contradicts itself in nothing, or there is a reason why not.
fn check_backup(bytes: &[u8]) -> bool {
    let file = tempfile::NamedTempFile::new().expect("temporary files can be made");
    std::fs::write(file.path(), bytes).expect("temporary files can be written");
    let (checked, read) = (plenum_server::check_backup(file.path()), plenum_server::read_backup(file.path()));
    match (&checked, &read) {
        (Ok(manifest), Ok(cell)) => assert_eq!(manifest.revision, cell.revision().0, "another moment was read"),
        (Ok(_), Err(why)) => assert!(!why.to_string().is_empty(), "people are told nothing"),
        (Err(_), _) => assert!(read.is_err(), "a cell was read from what is damaged"),
    }
    checked.is_ok()
}

pub(super) fn backup(input: &[u8]) -> bool {
    check_backup(input)
}

/// A row of records, each a byte for its kind and two for its length, sealed as `cellstate/server/src/backup/file.rs` says.
pub(super) fn sealed_backup(input: &[u8]) -> bool {
    // As the server writes it: magic, version, zeros.
    let mut bytes = [&b"PLENUMBK"[..], &plenum_server::FILE_VERSION.to_le_bytes(), &[0; 4]].concat();
    let mut rest = input;
    while let [kind, low, high, tail @ ..] = rest {
        let length = u16::from_le_bytes([*low, *high]).into();
        let (content, tail) = tail.split_at(tail.len().min(length));
        bytes.push(*kind);
        bytes.extend_from_slice(&u32::try_from(content.len()).unwrap_or(0).to_le_bytes());
        bytes.extend_from_slice(content);
        let seal = *blake3::hash(&bytes).as_bytes();
        bytes.extend_from_slice(&seal[..16]);
        rest = tail;
    }
    check_backup(&bytes)
}

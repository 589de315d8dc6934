//! The log by itself: batches appended to the journal, and equal frames appended to a bare file, each with one `fdatasync`, in turns. The
//! bare file is what no log can beat; the difference is the cost of checksums, of the chain of hashes and of segments, also of those that are made
//! in the background: nobody works on the log in the bare file's turn.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use plenum_journal::{BatchLabel, CellId, Journal, Keeper, Options, RealDisk};
use serde_json::json;

use super::Place;
use crate::disk;
use crate::figure::{Better, Case, Figure, by_name, number};
use crate::kept::Kept;
use crate::progress::say;
use crate::random::Random;
use crate::suites::Others;
use crate::{Run, interrupt};

/// Sizes of a frame: a batch of a few small transactions, what a busy cell syncs at a time, and the largest batch.
const FRAMES: [usize; 3] = [64 << 10, 4 << 10, 1 << 20];
/// Segments as a server has them; the bare file is as long.
const SEGMENT_BYTES: u64 = 16 << 20;
/// Frames of one turn.
const FRAMES_A_TURN: u32 = 100;
/// How often the log's background looks, as in the server.
const BACKGROUND_PAUSE: Duration = Duration::from_millis(50);

fn name(frame: usize) -> String {
    format!("frame={frame}")
}

/// Measures all sizes; the quick form has one.
pub(super) fn run(place: &Place, options: &Run, kept: &mut Kept<'_>) -> anyhow::Result<()> {
    let count = if options.quick { 1 } else { FRAMES.len() };
    for frame in FRAMES.into_iter().take(count).filter(|frame| options.has_case(&name(*frame))) {
        say(&name(frame));
        kept.add(case(place, options, frame)?);
    }
    Ok(())
}

fn case(place: &Place, options: &Run, frame: usize) -> anyhow::Result<Vec<Figure>> {
    let folder = tempfile::tempdir_in(&place.scratch)?;
    let mut log = Log::open(&folder.path().join("log"), frame)?;
    let mut bare = BareFile::make(&folder.path().join("bare"), frame)?;
    let mut random = Random::new(options.seed);
    let bytes: Vec<u8> = (0..frame.div_ceil(8)).flat_map(|_| random.next().to_le_bytes()).collect();
    let turns = if options.quick { 3 } else { 10 };
    let others = Others::look(vec![std::process::id()])?;
    let (mut logged, mut written) = (Vec::new(), Vec::new());
    for turn in 0..=turns {
        let pair = [log.append(&bytes)?, bare.append(&bytes[..frame])?];
        // The first one warms both up.
        if turn > 0 {
            logged.push(number(FRAMES_A_TURN.into()) / pair[0]);
            written.push(number(FRAMES_A_TURN.into()) / pair[1]);
            if interrupt::asked() {
                break;
            }
        }
    }
    let others = others.cores()?;
    let (revision, turns) = (log.journal.tail().revision, logged.len() as u64 + 1);
    anyhow::ensure!(revision == u64::from(FRAMES_A_TURN) * turns, "the log ends at revision {revision}");
    let ratios = logged.iter().zip(&written).map(|(logged, written)| logged / written).collect();
    let all = [
        ("frame_bytes", json!(frame)),
        ("frames_per_sample", json!(FRAMES_A_TURN)),
        ("segment_bytes", json!(SEGMENT_BYTES)),
        ("file_system", json!(place.file_system)),
        (
            "bare_file",
            json!("zeros written before; frames of the same size and content, one pwrite and one fdatasync each"),
        ),
        (
            "background",
            json!(
                "the log's next segment and its high-water mark are written while frames are appended to it, as in the server, and what is left of that at the end of a turn belongs to it; while the bare file is written nobody works on the log"
            ),
        ),
        ("cores_of_others", json!(others)),
    ];
    let parameters = by_name(all);
    let name = name(frame);
    let case = Case { suite: super::NAME, case: &name, parameters };
    Ok(vec![
        case.figure("log_path_ratio", "1", Better::Higher, ratios)?,
        case.figure("frames_per_second", "1/s", Better::Higher, logged)?,
        case.figure("frames_per_second", "1/s", Better::Higher, written)?.of("bare file"),
    ])
}

/// The journal, which a thread keeps going while something is appended.
struct Log {
    journal: Journal,
    /// Such a payload makes a frame of the wanted size.
    payload_bytes: usize,
}

impl Log {
    fn open(folder: &Path, frame: usize) -> anyhow::Result<Self> {
        let disk = RealDisk::open(folder)?;
        let options = Options {
            create: Some(CellId([7; 16])),
            segment_bytes: SEGMENT_BYTES,
            frame_bytes_max: frame as u64,
            ..Options::default()
        };
        let (journal, _) = Journal::open(Arc::new(disk), options)?;
        let payload_bytes = usize::try_from(journal.payload_bytes_max())?;
        Ok(Self { journal, payload_bytes })
    }

    /// Appends the frames of one turn. Gives the seconds, until the background has done what they left it to do, too: it would go on in the bare file's
    /// turn, and make that one slower.
    fn append(&mut self, bytes: &[u8]) -> anyhow::Result<f64> {
        let (appending, ends) = crossbeam_channel::bounded::<()>(0);
        let keeper = self.journal.keeper();
        std::thread::scope(|scope| {
            let keeping = std::thread::Builder::new().name("keeping".to_owned());
            let keeping = keeping.spawn_scoped(scope, move || keep_until(&keeper, &ends))?;
            let began = Instant::now();
            let appended = self.append_frames(bytes);
            drop(appending);
            keeping.join().map_err(|_| anyhow!("the log's background panicked"))?;
            appended?;
            Ok(began.elapsed().as_secs_f64())
        })
    }

    fn append_frames(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        for _ in 0..FRAMES_A_TURN {
            let next = self.journal.tail().revision + 1;
            let label = BatchLabel { term: 1, first_revision: next, last_revision: next };
            self.journal.append_and_sync(label, &[&bytes[..self.payload_bytes]])?;
        }
        Ok(())
    }
}

/// Keeps the log until nobody holds the other end of this channel any more, which is noticed at once, and once more then.
fn keep_until(keeper: &Keeper, ends: &Receiver<()>) {
    keep(keeper);
    while ends.recv_timeout(BACKGROUND_PAUSE) == Err(RecvTimeoutError::Timeout) {
        keep(keeper);
    }
    keep(keeper);
}

/// What is not done here shows as an append that has to make its own segment: slower, and correct.
fn keep(keeper: &Keeper) {
    keeper.release(keeper.tail().revision);
    drop(keeper.high_water().flush());
    drop(keeper.prepare());
}

/// A file of zeros that is overwritten from the start, again and again.
struct BareFile {
    file: std::fs::File,
    places: u64,
    next: u64,
}

impl BareFile {
    fn make(path: &Path, frame: usize) -> anyhow::Result<Self> {
        let places = SEGMENT_BYTES / frame as u64;
        let file = disk::file_of_zeros(path, frame, places)?;
        Ok(Self { file, places, next: 0 })
    }

    fn append(&mut self, frame: &[u8]) -> anyhow::Result<f64> {
        let began = Instant::now();
        for _ in 0..FRAMES_A_TURN {
            self.file.write_all_at(frame, self.next % self.places * frame.len() as u64)?;
            self.file.sync_data()?;
            self.next += 1;
        }
        Ok(began.elapsed().as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_write_frames_of_the_same_size() {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let mut log = Log::open(&folder.path().join("log"), 4096).unwrap();
        let bytes = vec![3; 4096];
        log.append(&bytes).unwrap();
        assert_eq!(log.journal.tail().revision, u64::from(FRAMES_A_TURN));
        let mut bare = BareFile::make(&folder.path().join("bare"), 4096).unwrap();
        assert!(bare.append(&bytes).unwrap() > 0.0);
        assert_eq!(std::fs::metadata(folder.path().join("bare")).unwrap().len(), SEGMENT_BYTES);
        // A payload of one byte more would be a larger frame: refused.
        let label = BatchLabel { term: 1, first_revision: 101, last_revision: 101 };
        assert!(log.journal.append_and_sync(label, &[&vec![3; log.payload_bytes + 1]]).is_err());
    }

    #[test]
    fn what_a_turn_leaves_to_the_background_is_done_before_the_turn_ends() {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let mut log = Log::open(&folder.path().join("log"), 4096).unwrap();
        for _ in 0..2 {
            log.append(&[3; 4096]).unwrap();
            let keeper = log.journal.keeper();
            assert!(keeper.is_ready(), "the next segment is made");
            assert!(!keeper.high_water().flush().unwrap(), "the mark of the last frame was written already");
        }
    }
}

//! Bits that flip on the server's disk while nobody runs it, and what the log makes of them.
//!
//! Each flip is tried on a fork of the disk first: it is refused, naming the file, or it changed nothing that matters, or it hit the
//! last frame above the high-water mark, which is cut. Nothing else may come of it, also when a server goes on with it.

use std::sync::Arc;

use plenum_journal::{BatchLabel, ChainHash, Frame, Journal, OpenError, Recovered, SECTOR_BYTES, SimDisk, Tail};
use plenum_model::planted::{self, Bug};

use crate::books::{Checked, Violation, hold};
use crate::random::Random;
use crate::server;

/// Frames that are appended behind a flip before the log is read again …
const APPENDED: usize = 3;
/// … each so large that a segment has room for two: the last ones are in segments of their own.
const PAYLOAD_BYTES: usize = 25_000;

/// A bit on a disk.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    name: String,
    offset: u64,
    bit: u8,
}

impl Place {
    /// Some bit of some file, rather where something was written; `None` on an empty disk.
    pub(crate) fn draw(random: &mut Random, disk: &SimDisk) -> Option<Self> {
        let names = disk.names();
        let name = names.get(random.index(names.len()))?.clone();
        let image = disk.image(&name)?;
        let written = image.iter().rposition(|byte| *byte != 0)? + 1;
        let most = if random.chance(900) { written } else { image.len() };
        let (offset, bit) = (random.index(most) as u64, u8::try_from(random.below(8)).unwrap_or(0));
        Some(Self { name, offset, bit })
    }

    /// Flips it on a disk that is tried.
    fn rots(&self, trial: &SimDisk) {
        if planted::is(Bug::RotReadsAsZeros) {
            let sector = self.offset - self.offset % SECTOR_BYTES;
            return trial.overwrite(&self.name, sector, &vec![0; usize::try_from(SECTOR_BYTES).unwrap_or(0)]);
        }
        self.flip(trial);
    }

    /// Flips it, or flips it back.
    pub(crate) fn flip(&self, disk: &SimDisk) {
        disk.flip_bit(&self.name, self.offset, self.bit);
    }
}

/// What became of a flip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Refused,
    Cut,
    Harmless,
}

/// What the log is once it was opened.
struct Opened {
    recovered: Recovered,
    frames: Vec<Kept>,
}

/// A frame as whoever opens a log is shown it.
#[derive(Clone, PartialEq)]
struct Kept {
    term: u64,
    first_revision: u64,
    last_revision: u64,
    hash: ChainHash,
    payload: Vec<u8>,
}

impl Kept {
    fn of(frame: &Frame<'_>) -> Self {
        let Frame { term, first_revision, last_revision, hash, payload, .. } = *frame;
        Self { term, first_revision, last_revision, hash, payload: payload.to_vec() }
    }
}

/// What the log makes of this flip, on a disk that nobody uses. `None`: it does not even open without.
pub(crate) fn judge(disk: &SimDisk, place: &Place) -> Result<Option<Verdict>, Violation> {
    let fork = || {
        let trial = disk.fork();
        trial.set_capacity(None);
        trial
    };
    let Ok((_, before)) = open(&fork()) else { return Ok(None) };
    let trial = fork();
    place.rots(&trial);
    match open(&trial) {
        Ok((journal, after)) => {
            let verdict = compare(place, &before, &after)?;
            goes_on(place, &trial, journal, after.frames)?;
            Ok(Some(verdict))
        }
        Err(error) => invariant_damage_is_named(place, &error).map(|()| Some(Verdict::Refused)),
    }
}

/// The next server's log on this disk, and what it is shown.
fn open(disk: &SimDisk) -> Result<(Journal, Opened), OpenError> {
    let mut frames = Vec::new();
    let claimed = Journal::claim(Arc::new(disk.reboot()), server::options())?;
    let (journal, recovered) = claimed.open(&mut |frame: &Frame<'_>| frames.push(Kept::of(frame)))?;
    Ok((journal, Opened { recovered, frames }))
}

/// A server goes on with a log that has these frames, in segments that are new, and then in some that are used again; the bit is still there. The
/// next one reads what there was, and what was appended.
fn goes_on(place: &Place, disk: &SimDisk, mut journal: Journal, mut frames: Vec<Kept>) -> Checked {
    let name = "invariant_the_log_can_be_read";
    let wrong = |what: String| Violation { invariant: name, facts: format!("behind {place:?}: {what}") };
    for releases in [false, true] {
        for _ in 0..APPENDED {
            frames.push(append(&mut journal, releases).map_err(wrong)?);
        }
        drop(journal);
        disk.kill();
        let (next, opened) = open(disk).map_err(|error| wrong(error.to_string()))?;
        journal = next;
        // Of what was released some is left.
        let is_whole = if releases { frames.ends_with(&opened.frames) } else { frames == opened.frames };
        let has_last = is_told(&opened) && opened.recovered.tail == journal.tail() && !opened.frames.is_empty();
        hold(is_whole && has_last && opened.recovered.cut.is_none(), name, || {
            format!("behind {place:?}: {} frames were to be there, and there is {:?}", frames.len(), opened.recovered)
        })?;
    }
    Ok(())
}

/// Appends a frame, as a server and its housekeeping do. With `releases` nobody needs those before it any more.
fn append(journal: &mut Journal, releases: bool) -> Result<Kept, String> {
    let (Tail { revision, term, .. }, keeper) = (journal.tail(), journal.keeper());
    let (first_revision, last_revision) = (revision + 1, revision + 1);
    let payload = vec![0xA5; PAYLOAD_BYTES];
    let label = BatchLabel { term, first_revision, last_revision };
    let tail = journal.append_and_sync(label, &[payload.as_slice()]).map_err(|error| error.to_string())?;
    keeper.high_water().flush().map_err(|error| error.to_string())?;
    if releases {
        keeper.release(revision);
    }
    keeper.prepare().map_err(|error| error.to_string())?;
    Ok(Kept { term, first_revision, last_revision, hash: tail.hash, payload })
}

/// What a flip made of a log that opens in spite of it. The mark may be another one: of its two slots the older one counts as well.
fn compare(place: &Place, before: &Opened, after: &Opened) -> Result<Verdict, Violation> {
    let told = |opened: &Opened| {
        let Recovered { identity, created, oldest_revision, tail, ref cut, mark: _, frames } = opened.recovered;
        (identity, created, oldest_revision, tail, cut.clone(), frames)
    };
    if told(before) == told(after) && before.frames == after.frames {
        return Ok(Verdict::Harmless);
    }
    invariant_only_the_last_frame_is_cut(place, before, after).map(|()| Verdict::Cut)
}

/// And what is left of the log is what it was: the cut is the end of a write, or was nothing yet.
fn invariant_only_the_last_frame_is_cut(place: &Place, before: &Opened, after: &Opened) -> Checked {
    let (was, is) = (&before.recovered, &after.recovered);
    let is_same_log = (was.identity, was.created, was.oldest_revision) == (is.identity, is.created, is.oldest_revision);
    let last_only = is.cut.is_some() && after.frames.len() + 1 >= before.frames.len();
    let is_as_it_was = is_same_log && before.frames.starts_with(&after.frames) && is_told(before) && is_told(after);
    let is_acknowledged = is.tail.revision >= was.mark.revision;
    hold(last_only && is_as_it_was && is_acknowledged, "invariant_only_the_last_frame_is_cut", || {
        format!("{place:?}: {was:?} became {is:?}")
    })
}

/// Whether a log says of its end and its length what its frames are.
fn is_told(opened: &Opened) -> bool {
    let Recovered { tail, frames, .. } = &opened.recovered;
    let ends_so = |last: &Kept| (last.last_revision, last.term, last.hash) == (tail.revision, tail.term, tail.hash);
    *frames == opened.frames.len() as u64 && opened.frames.last().is_none_or(ends_so)
}

fn invariant_damage_is_named(place: &Place, error: &OpenError) -> Checked {
    let text = if planted::is(Bug::HidesDamage) { "it is broken".to_owned() } else { error.to_string() };
    hold(!matches!(error, OpenError::Disk(_)) && text.contains(&place.name), "invariant_damage_is_named", || {
        format!("{place:?}: {text}")
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use plenum_journal::{CellId, Cut, Damage, Flaw, Identity, Mark};

    use super::*;

    const PLACE_OF_THE_CUT: u64 = 8192;

    fn place() -> Place {
        Place { name: "1.segment".into(), offset: PLACE_OF_THE_CUT, bit: 3 }
    }

    /// A log of so many frames, of one revision each, of which the first two were acknowledged.
    fn log(count: u8, cut: bool) -> Opened {
        let frame = |number: u8| Kept {
            term: 1,
            first_revision: number.into(),
            last_revision: number.into(),
            hash: ChainHash([number; 32]),
            payload: vec![number],
        };
        let damage = || Damage {
            file: place().name,
            offset: PLACE_OF_THE_CUT,
            revision: u64::from(count) + 1,
            flaw: Flaw::Missing,
            followed_by: None,
        };
        let recovered = Recovered {
            identity: Identity { cell: CellId([7; 16]), incarnation: 1 },
            created: false,
            oldest_revision: 1,
            tail: Tail { revision: count.into(), term: 1, hash: ChainHash([count; 32]) },
            cut: cut.then(|| Cut { damage: damage(), bytes: SECTOR_BYTES }),
            mark: Mark { revision: 2, hash: ChainHash([2; 32]) },
            frames: count.into(),
        };
        Opened { recovered, frames: (1..=count).map(frame).collect() }
    }

    #[test]
    fn a_flip_that_changes_nothing_is_harmless_whichever_mark_counts() {
        let mut after = log(4, false);
        after.recovered.mark = Mark { revision: 1, hash: ChainHash([1; 32]) };
        assert_eq!(compare(&place(), &log(4, false), &after).unwrap(), Verdict::Harmless);
    }

    #[test]
    fn the_last_frame_may_be_cut_and_so_may_what_is_behind_it() {
        let before = log(4, false);
        assert_eq!(compare(&place(), &before, &log(3, true)).unwrap(), Verdict::Cut);
        assert_eq!(compare(&place(), &before, &log(4, true)).unwrap(), Verdict::Cut);
        for (before, after) in [(4, log(2, true)), (4, log(3, false)), (3, log(4, true)), (2, log(1, true))] {
            assert!(compare(&place(), &log(before, false), &after).is_err(), "{before}: {:?}", after.recovered);
        }
    }

    // What came of a flip was forgotten with the fork on which it was tried: nobody ever wrote behind one.
    #[test]
    fn whoever_goes_on_behind_a_flip_has_what_there_was_and_what_is_appended() {
        let disk = SimDisk::new(1);
        let (mut journal, Opened { mut frames, .. }) = open(&disk).unwrap();
        for _ in 0..3 {
            frames.push(append(&mut journal, false).unwrap());
        }
        let kept = frames.clone();
        assert_eq!(goes_on(&place(), &disk, journal, frames), Ok(()));
        let disk = SimDisk::new(1);
        let (mut journal, _) = open(&disk).unwrap();
        for _ in 0..2 {
            append(&mut journal, false).unwrap();
        }
        let found = goes_on(&place(), &disk, journal, kept).unwrap_err();
        assert_eq!(found.invariant, "invariant_the_log_can_be_read", "a frame is gone");
    }

    /// All these leave the end of the log alone.
    #[test]
    fn a_log_that_ends_as_it_did_and_is_another_one_is_found() {
        let changes: [fn(&mut Opened); 8] = [
            |after| after.recovered.identity.incarnation += 1,
            |after| after.recovered.created = true,
            |after| after.recovered.oldest_revision += 1,
            |after| after.recovered.frames -= 1,
            |after| after.frames[1].payload[0] ^= 1,
            |after| after.frames[1].term += 1,
            |after| after.frames.swap(0, 1),
            |after| drop(after.frames.remove(0)),
        ];
        for (number, change) in changes.into_iter().enumerate() {
            // Also where something was cut.
            for cut in [false, true] {
                let mut after = log(4, cut);
                change(&mut after);
                let found = compare(&place(), &log(4, false), &after).unwrap_err();
                assert_eq!(found.invariant, "invariant_only_the_last_frame_is_cut", "{number} {cut}");
            }
        }
    }
}

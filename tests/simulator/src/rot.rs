//! Bits that flip on the server's disk while nobody runs it, and what the log makes of them.
//!
//! Each flip is tried on a fork of the disk first: it is refused, naming the file, or it changed nothing that matters, or it hit the
//! last frame above the high-water mark, which is cut. Nothing else may come of it.

use std::sync::Arc;

use plenum_journal::{Journal, OpenError, Recovered, SECTOR_BYTES, SimDisk};
use plenum_model::planted::{self, Bug};

use crate::books::{Checked, hold};
use crate::random::Random;
use crate::server;

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

/// What the log makes of this flip, on a disk that nobody uses. `None`: it does not even open without.
pub(crate) fn judge(disk: &SimDisk, place: &Place) -> Result<Option<Verdict>, crate::books::Violation> {
    let open = |flipped: Option<&Place>| {
        let trial = disk.fork();
        trial.set_capacity(None);
        flipped.into_iter().for_each(|place| place.rots(&trial));
        Journal::open(Arc::new(trial.reboot()), server::options()).map(|(_, recovered)| recovered)
    };
    let Ok(before) = open(None) else { return Ok(None) };
    match open(Some(place)) {
        Ok(after) if after.tail == before.tail => Ok(Some(Verdict::Harmless)),
        Ok(after) => invariant_only_the_last_frame_is_cut(place, &before, &after).map(|()| Some(Verdict::Cut)),
        Err(error) => invariant_damage_is_named(place, &error).map(|()| Some(Verdict::Refused)),
    }
}

fn invariant_only_the_last_frame_is_cut(place: &Place, before: &Recovered, after: &Recovered) -> Checked {
    let last_only = after.cut.is_some() && after.frames + 1 >= before.frames;
    hold(last_only && after.tail.revision >= before.mark.revision, "invariant_only_the_last_frame_is_cut", || {
        format!("{place:?}: {before:?} became {after:?}")
    })
}

fn invariant_damage_is_named(place: &Place, error: &OpenError) -> Checked {
    let text = if planted::is(Bug::HidesDamage) { "it is broken".to_owned() } else { error.to_string() };
    hold(!matches!(error, OpenError::Disk(_)) && text.contains(&place.name), "invariant_damage_is_named", || {
        format!("{place:?}: {text}")
    })
}

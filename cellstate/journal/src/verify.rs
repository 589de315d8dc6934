//! The offline check of a whole log, and of what it kept: everything that is wrong, each with its place.

use crate::disk::{Disk, DiskLock};
use crate::flaw::{Damage, Flaw};
use crate::format::CellId;
use crate::identity::Identity;
use crate::kept;
use crate::mark::{self, Mark};
use crate::reader::Frame;
use crate::recovery::{Cut, LOCK, Look, Marked, OpenError, judge, look, names_in_cell};
use crate::scan::Tail;
use crate::segment;
use crate::survey::Surveyor;

/// What `verify` found.
#[derive(Debug)]
pub struct Report {
    /// Whose log it is; where its identity is lost, as its segments say, and `refused` says so, or another reason.
    pub identity: Identity,
    /// Segments that were begun.
    pub segments: u64,
    /// Whole frames.
    pub frames: u64,
    /// The oldest revision that is there; one after the last when there is none. Where the oldest header is lost, that of the first whole frame.
    pub oldest_revision: u64,
    /// The end of the chain of whole frames.
    pub tail: Tail,
    /// The high-water mark; where it can't be read, that of an empty log, and `refused` says so.
    pub mark: Mark,
    /// All damage, in order of the log; bounded, see the next field.
    pub damages: Vec<Damage>,
    /// How many more there are than are listed.
    pub damages_unlisted: u64,
    /// What the next start would cut off: a torn write, no violation.
    pub torn: Option<Cut>,
    /// Mark slots that are not whole, or that the disk can't read. One is what a crash may leave; the other one counts.
    pub mark_damages: Vec<Damage>,
    /// Why the log could not be opened; none when it could.
    pub refused: Option<OpenError>,
}

impl Report {
    /// True when the log can be opened and nothing that was acknowledged is in doubt.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.refused.is_none()
    }

    /// Why the log could not be opened, where that is no damage of one place, and so not among those that are listed: it ends before its mark, or is
    /// another log than the mark's.
    #[must_use]
    pub fn refused_as_a_whole(&self) -> Option<&OpenError> {
        let is_of_all =
            |refused: &&OpenError| matches!(refused, OpenError::EndsBeforeMark { .. } | OpenError::OtherHistory { .. });
        self.refused.as_ref().filter(is_of_all)
    }
}

/// Walks everything and lists all that is wrong, without stopping and without changing anything. Each whole frame
/// is shown to `visit`, damaged neighbours or not. Takes the directory's lock meanwhile.
///
/// # Errors
/// When there is nothing to walk: no cell, a cell of another id or version, a running server, a disk that fails as a whole.
/// A damaged log is no error but a [`Report`], and so is one of which some sectors can't be read, or some files not even be opened, or whose identity is
/// lost while its segments tell whose it is.
pub fn verify(disk: &dyn Disk, expect: Option<CellId>, visit: &mut dyn FnMut(&Frame<'_>)) -> Result<Report, OpenError> {
    let _lock = lock(disk)?;
    let Look { identity, marked, lost } = look(disk, expect)?;
    let At { mark, flaws, refused } = mark_of(marked)?;
    let survey = Surveyor::new(disk, identity, mark, visit).forgiving().walk()?;
    let mut damages = Vec::new();
    for lost in [&lost, &refused].into_iter().flatten() {
        if let OpenError::IdentityDamaged { damage, .. } | OpenError::NoMark { damage, .. } = lost {
            damages.push(Damage::clone(damage));
        }
    }
    let refused = refused.or_else(|| judge(&disk.place(), &survey, mark).err());
    let torn = survey.torn.clone().filter(|_| refused.is_none());
    damages.extend(survey.damages.iter().cloned());
    if let Some(torn) = &torn {
        damages.retain(|damage| *damage != torn.damage);
    }
    let mark_damages = flaws.iter().map(|(offset, flaw)| Damage {
        file: mark::NAME.to_owned(),
        offset: *offset,
        revision: 0,
        flaw: flaw.clone(),
        followed_by: None,
    });
    // Whatever else is wrong counts more: nothing is lost with the identity.
    let refused = refused.or(lost);
    Ok(Report {
        identity,
        segments: crate::format::count(survey.segments.len()),
        frames: survey.frames,
        oldest_revision: survey.before_oldest().saturating_add(1),
        tail: survey.tail,
        mark,
        damages,
        damages_unlisted: survey.damages_unlisted,
        torn: torn.map(|torn| Cut { bytes: torn.data_end.saturating_sub(torn.damage.offset), damage: torn.damage }),
        mark_damages: mark_damages.collect(),
        refused,
    })
}

/// Takes the lock of a directory that is a cell's, or was. In another one nothing is made, not even that: it would not look empty any more.
fn lock(disk: &dyn Disk) -> Result<Box<dyn DiskLock>, OpenError> {
    match names_in_cell(disk) {
        // It does not look empty, and may be looked at all the same.
        Ok(_) | Err(OpenError::Orphaned { .. }) => Ok(disk.lock(LOCK)?),
        Err(error) => Err(error),
    }
}

/// How far a log had come, as far as that is known.
struct At {
    mark: Mark,
    /// What is wrong with a slot of it.
    flaws: Vec<(u64, Flaw)>,
    /// Why there is no mark.
    refused: Option<OpenError>,
}

/// A log without its mark is looked at as one of which nobody knows how far it had come.
fn mark_of(marked: Marked) -> Result<At, OpenError> {
    match marked {
        Ok((mark, file)) => Ok(At { mark, flaws: file.flaws, refused: None }),
        Err(error @ OpenError::NoMark { .. }) => {
            Ok(At { mark: Mark::default(), flaws: Vec::new(), refused: Some(error) })
        }
        Err(error) => Err(error),
    }
}

/// What [`verify_kept`] found.
#[derive(Debug, Default)]
pub struct KeptReport {
    /// All damage, in order; bounded, see the next field.
    pub damages: Vec<Damage>,
    /// How many more there are than are listed.
    pub damages_unlisted: u64,
}

/// Walks the segments that the log gave up and kept, like [`verify`] the others. What is wrong with these costs the past that they hold:
/// the log can be opened all the same. Each whole frame that stands before the log is shown to `visit`.
///
/// # Errors
/// As [`verify`]. A kept segment that the disk can't read is no error, but damage.
pub fn verify_kept(
    disk: &dyn Disk,
    expect: Option<CellId>,
    visit: &mut dyn FnMut(&Frame<'_>),
) -> Result<KeptReport, OpenError> {
    let _lock = lock(disk)?;
    let Look { identity, marked, .. } = look(disk, expect)?;
    let At { mark, .. } = mark_of(marked)?;
    // That there is no segment of the log is `verify`'s to say.
    let log_from = disk.list()?.iter().filter_map(|name| segment::number_in(name)).min();
    let survey = Surveyor::new(disk, identity, mark, visit).forgiving().walk_kept(log_from)?;
    let first_of_log = log_from.map(segment::name).unwrap_or_default();
    let mut damages = survey.damages;
    // What is wrong with the log itself is in the other report.
    damages.retain(|damage| kept::concerns(damage, &first_of_log));
    Ok(KeptReport { damages, damages_unlisted: survey.damages_unlisted })
}

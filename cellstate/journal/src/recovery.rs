//! Opening a directory: making it a cell, or finding out what is really in it.
//!
//! The order is the contract: lock; identity; walk everything, from the disk and not from memory; judge; cut what
//! may be cut; make the end durable again; only then can anybody read or append.

mod error;
mod stand_in;

use crate::disk::{Disk, DiskError, DiskLock, OpenMode};
use crate::flaw::{Damage, Flaw};
use crate::forgiving::is_lost;
use crate::format::{CHUNK_BYTES, CellId, FORMAT_VERSION, SECTOR_BYTES, index};
use crate::identity::{self, Identity};
use crate::journal::{Journal, Place, begin};
use crate::kept;
use crate::mark::{self, Mark, MarkFile};
use crate::options::Options;
use crate::reader::Frame;
use crate::scan::Tail;
use crate::segment::{self, FIRST_FRAME_AT};
use crate::shelf::{Fill, Segment, Shelf, ShelfState, make_segment};
use crate::survey::{Survey, Surveyor};
pub use error::OpenError;
pub use stand_in::identity;
pub(crate) use stand_in::{Look, look};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Damages that opening writes to the program's own log; `verify` lists more.
const DAMAGES_TOLD_MAX: usize = 20;

/// The lock file.
pub(crate) const LOCK: &str = "LOCK";

/// What was cut off the end: a write that nobody was promised, torn by a crash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The place, and what was wrong there.
    pub damage: Damage,
    /// How many bytes were zeroed.
    pub bytes: u64,
}

/// What opening found.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// Whose log it is.
    pub identity: Identity,
    /// True when the cell was made just now.
    pub created: bool,
    /// The oldest revision that is there; one after the last when there is none.
    pub oldest_revision: u64,
    /// The end of the log, durable.
    pub tail: Tail,
    /// What was cut off the end. Frames before it may be unacknowledged too, but whole.
    pub cut: Option<Cut>,
    /// The high-water mark as it was found.
    pub mark: Mark,
    /// Frames walked.
    pub frames: u64,
}

/// The first things to know about a directory: whose, and how far it had come.
pub(crate) struct Entrance {
    pub(crate) identity: Identity,
    pub(crate) mark: Mark,
    pub(crate) mark_file: MarkFile,
}

impl Journal {
    /// Opens a directory, or makes it a cell where [`Options::create`] allows. Reads the whole log once.
    ///
    /// # Errors
    /// Any doubt about what was acknowledged is an error with its place; only a torn last frame above the
    /// high-water mark is cut, and reported.
    pub fn open(disk: Arc<dyn Disk>, options: Options) -> Result<(Journal, Recovered), OpenError> {
        Journal::claim(disk, options)?.open(&mut |_| {})
    }

    /// The first half of [`Journal::open`]: takes the lock, and finds out whose log it is.
    ///
    /// # Errors
    /// As [`Journal::open`], but for what is found in the log itself.
    pub fn claim(disk: Arc<dyn Disk>, options: Options) -> Result<Claimed, OpenError> {
        options.check()?;
        let lock = disk.lock(LOCK)?;
        // Names that the process before us changed may be seen and yet not be durable.
        disk.sync_dir()?;
        let created = create_if_new(&*disk, &options)?;
        let Entrance { identity, mark, mark_file } = enter(&*disk, options.expect)?;
        for (offset, flaw) in &mark_file.flaws {
            // What a crash while it was written leaves, or a worn sector. The other slot counts, and is older by one flush.
            tracing::warn!(file = mark::NAME, offset, %flaw, "a slot of the high-water mark is not whole");
        }
        Ok(Claimed { disk, options, lock, created, identity, mark, mark_file })
    }
}

/// A directory that is locked, and whose log was not read yet.
pub struct Claimed {
    disk: Arc<dyn Disk>,
    options: Options,
    lock: Box<dyn DiskLock>,
    created: bool,
    identity: Identity,
    mark: Mark,
    mark_file: MarkFile,
}

impl std::fmt::Debug for Claimed {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("Claimed").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl Claimed {
    /// Whose log it is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Makes kept segments part of the log again, as many as it takes for the log to go back to a revision (1: the beginning); gives how many.
    /// None where they don't go back so far, or not all that they hold is whole. For when nobody knows any more what they hold: what was made of them can be made again.
    ///
    /// # Errors
    /// When the disk fails, other than that it has lost what is kept; each segment then has one of its names, and the log has no gap.
    pub fn rejoin_kept(&self, from_revision: u64) -> Result<u64, OpenError> {
        Ok(kept::rejoin(&*self.disk, (self.identity, self.mark), from_revision)?)
    }

    /// The second half of [`Journal::open`]: [`Claimed::read`], and then [`Judged::open`].
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub fn open(self, visit: &mut dyn FnMut(&Frame<'_>)) -> Result<(Journal, Recovered), OpenError> {
        self.read(visit)?.open()
    }

    /// Reads the whole log, and shows each whole frame as it passes, so that nobody who needs them reads them again. What was made of them counts
    /// only if this succeeds: nobody knows before whether the log is sound. Nothing is changed.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub fn read(self, visit: &mut dyn FnMut(&Frame<'_>)) -> Result<Judged, OpenError> {
        let survey = Surveyor::new(&*self.disk, self.identity, self.mark, visit).walk()?;
        for damage in survey.damages.iter().take(DAMAGES_TOLD_MAX) {
            // A torn end is reported as one.
            if survey.torn.as_ref().is_none_or(|torn| torn.damage != *damage) {
                tracing::error!(%damage, "the log is damaged");
            }
        }
        judge(&self.disk.place(), &survey, self.mark)?;
        if let Some(torn) = &survey.torn {
            tracing::warn!(damage = %torn.damage, "the log ends with a torn write, which is cut off when it is opened");
        }
        Ok(Judged { claimed: self, survey })
    }
}

/// A log that was read and can be opened. Nothing was changed yet: who knows of more than its mark does may still leave it as it is, with the evidence.
pub struct Judged {
    claimed: Claimed,
    survey: Survey,
}

impl Judged {
    /// Whose log it is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.claimed.identity
    }

    /// As [`Recovered::oldest_revision`].
    #[must_use]
    pub fn oldest_revision(&self) -> u64 {
        self.survey.before_oldest().saturating_add(1)
    }

    /// The end of the log, without a torn write.
    #[must_use]
    pub fn tail(&self) -> Tail {
        self.survey.tail
    }

    /// The log as it was before it was read, for who has to read it once more.
    #[must_use]
    pub fn unread(self) -> Claimed {
        self.claimed
    }

    /// Cuts off a torn write, and makes the end durable again.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn open(self) -> Result<(Journal, Recovered), OpenError> {
        let Judged { claimed: Claimed { disk, options, lock, created, identity, mark, mark_file }, survey } = self;
        let (place, settled, cut) = settle(&*disk, &options, &identity, survey)?;
        let high_water = mark_file.into_writer();
        high_water.note(place.tail.revision, place.tail.hash);
        high_water.flush()?;
        let recovered = Recovered {
            identity,
            created,
            oldest_revision: settled.state.segments.front().map_or(1, |segment| segment.first_revision),
            tail: place.tail,
            cut,
            mark,
            frames: settled.frames,
        };
        report(&recovered);
        let shelf = Arc::new(Shelf::new(disk, options, settled.state, high_water, lock));
        Ok((Journal::new(shelf, identity, place), recovered))
    }
}

impl std::fmt::Debug for Judged {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("Judged")
            .field("identity", &self.identity())
            .field("tail", &self.tail())
            .finish_non_exhaustive()
    }
}

fn report(recovered: &Recovered) {
    if let Some(cut) = &recovered.cut {
        tracing::warn!(damage = %cut.damage, bytes = cut.bytes, "a torn write was cut off the end of the log");
    }
    tracing::info!(revision = recovered.tail.revision, frames = recovered.frames, "log opened");
}

/// Makes an empty directory a cell; true when it did.
fn create_if_new(disk: &dyn Disk, options: &Options) -> Result<bool, OpenError> {
    let names = disk.list()?;
    if names.iter().any(|name| name == identity::NAME) {
        return Ok(false);
    }
    let (directory, file) = (disk.place(), identity::NAME);
    if let Some(found) = segment_among(&names) {
        return Err(OpenError::Orphaned { directory, found, file });
    }
    let has_mark = names.iter().any(|name| name == mark::NAME);
    if has_mark && mark::tells_of_a_log(disk)? {
        return Err(OpenError::Orphaned { directory, found: mark::NAME.to_owned(), file });
    }
    let Some(cell) = options.create else {
        return Err(OpenError::NoCell { directory, file });
    };
    // With less it would be read-only after its first few changes.
    if let Some(needed_bytes) = options.new_log_bytes() {
        let free_bytes = disk.free_bytes()?;
        if free_bytes < needed_bytes {
            return Err(OpenError::NoRoomForNew { directory, free_bytes, needed_bytes });
        }
    }
    // An earlier start may have made the directory, with those above it, and been killed before their names were durable: all that is acknowledged would
    // go with one of them.
    disk.sync_name()?;
    MarkFile::create(disk, cell, Mark::default())?;
    disk.sync_dir()?;
    Identity { cell, incarnation: 1 }.create(disk)?;
    Ok(true)
}

/// One of the segments among these files, kept ones included.
fn segment_among(names: &[String]) -> Option<String> {
    names.iter().find(|name| segment::number_in(name).or_else(|| segment::kept_number_in(name)).is_some()).cloned()
}

/// Reads identity and mark.
fn enter(disk: &dyn Disk, expect: Option<CellId>) -> Result<Entrance, OpenError> {
    let (identity, marked) = admit(disk, expect)?;
    let (mark, mark_file) = marked?;
    Ok(Entrance { identity, mark, mark_file })
}

/// The high-water mark, and the file that it stands in; or why there is none.
pub(crate) type Marked = Result<(Mark, MarkFile), OpenError>;

/// The names in a directory that is a cell's.
///
/// # Errors
/// [`OpenError::NoCell`] where there is no identity; [`OpenError::Orphaned`] where there are segments all the same.
pub(crate) fn names_in_cell(disk: &dyn Disk) -> Result<Vec<String>, OpenError> {
    let names = disk.list()?;
    if names.iter().any(|name| name == identity::NAME) {
        return Ok(names);
    }
    let (directory, file) = (disk.place(), identity::NAME);
    Err(match segment_among(&names) {
        Some(found) => OpenError::Orphaned { directory, found, file },
        None => OpenError::NoCell { directory, file },
    })
}

/// Reads the identity, and the mark as far as there is one: without it a log can't be opened, but looked at.
fn admit(disk: &dyn Disk, expect: Option<CellId>) -> Result<(Identity, Marked), OpenError> {
    let names = names_in_cell(disk)?;
    match Identity::read(disk)? {
        Ok(identity) => Ok((identity, marked(disk, &names, identity, expect)?)),
        Err(Flaw::OtherFormat { expected, found }) => {
            Err(OpenError::OtherFormat { directory: disk.place(), file: identity::NAME.to_owned(), expected, found })
        }
        Err(flaw) => Err(identity_damaged(disk, flaw)),
    }
}

fn identity_damaged(disk: &dyn Disk, flaw: Flaw) -> OpenError {
    let damage = Damage { file: identity::NAME.to_owned(), offset: 0, revision: 0, flaw, followed_by: None };
    OpenError::IdentityDamaged { directory: disk.place(), damage: Box::new(damage) }
}

/// The mark of a directory with these files, which has to be the expected cell's.
fn marked(disk: &dyn Disk, names: &[String], identity: Identity, expect: Option<CellId>) -> Result<Marked, OpenError> {
    if let Some(expected) = expect.filter(|expected| *expected != identity.cell) {
        let (directory, file) = (disk.place(), identity::NAME.to_owned());
        return Err(OpenError::OtherCell { directory, file, expected, found: identity.cell });
    }
    let has_mark = names.iter().any(|name| name == mark::NAME);
    Ok(read_mark(disk, identity.cell, has_mark))
}

fn read_mark(disk: &dyn Disk, cell: CellId, is_there: bool) -> Marked {
    let directory = disk.place();
    let damaged = |offset, flaw| {
        let damage = Damage { file: mark::NAME.to_owned(), offset, revision: 0, flaw, followed_by: None };
        OpenError::NoMark { directory: disk.place(), damage: Box::new(damage) }
    };
    if !is_there {
        return Err(damaged(0, Flaw::Missing));
    }
    let mark_file = match MarkFile::read(disk, cell) {
        Err(error) if is_lost(&error) => return Err(damaged(0, Flaw::Unreadable { error: error.source.to_string() })),
        read => read?,
    };
    let Some(mark) = mark_file.mark() else {
        // Another version may read what this one can not, whatever is wrong with the other slot.
        let newer = mark_file.flaws.iter().find(|(_, flaw)| matches!(flaw, Flaw::OtherFormat { .. }));
        let told = newer.or_else(|| mark_file.flaws.first()).cloned();
        let (offset, flaw) = told.unwrap_or_else(|| (0, mark::never_written()));
        if let Flaw::OtherFormat { expected, found } = flaw {
            return Err(OpenError::OtherFormat { directory, file: mark::NAME.to_owned(), expected, found });
        }
        return Err(damaged(offset, flaw));
    };
    Ok((mark, mark_file))
}

/// Decides whether what was seen can be opened.
pub(crate) fn judge(directory: &str, survey: &Survey, mark: Mark) -> Result<(), OpenError> {
    let directory = directory.to_owned();
    let listed = survey.damages.iter().filter(|damage| survey.torn.as_ref().is_none_or(|torn| torn.damage != **damage));
    if let Some(damage) = listed.clone().next().cloned() {
        return Err(damaged(directory, damage, survey));
    }
    if survey.tail.revision < mark.revision {
        let mark_revision = mark.revision;
        if let Some(torn) = &survey.torn {
            return Err(OpenError::DamagedBelowMark {
                directory,
                damage: Box::new(torn.damage.clone()),
                mark_revision,
            });
        }
        let file = survey.segments.last().map_or_else(|| "no segment".to_owned(), |last| segment::name(last.number));
        let (offset, last_revision) = (survey.end_offset, survey.tail.revision);
        return Err(OpenError::EndsBeforeMark { directory, file, offset, last_revision, mark_revision });
    }
    // A mark from before the oldest revision has nothing to be compared with.
    let comparable = mark.revision >= survey.before_oldest() && !survey.segments.is_empty();
    if comparable && survey.at_mark != Some(mark) {
        let found = survey.at_mark.map(|at_mark| at_mark.hash);
        return Err(OpenError::OtherHistory { directory, revision: mark.revision, expected: mark.hash, found });
    }
    Ok(())
}

fn damaged(directory: String, damage: Damage, survey: &Survey) -> OpenError {
    let file = damage.file.clone();
    if let Some(found) = damage.other_format() {
        return OpenError::OtherFormat { directory, file, expected: FORMAT_VERSION, found };
    }
    if let Flaw::OtherCell { expected, found } = damage.flaw {
        return OpenError::OtherCell { directory, file, expected, found };
    }
    let all = survey.damages_unlisted.saturating_add(crate::format::count(survey.damages.len()));
    OpenError::Damaged { directory, damage: Box::new(damage), others: all.saturating_sub(1) }
}

/// The log after it was judged: what to append to, and what is there.
struct Settled {
    state: ShelfState,
    frames: u64,
}

/// Cuts what may be cut, makes the end durable, and begins the first segment of a new log.
fn settle(
    disk: &dyn Disk,
    options: &Options,
    identity: &Identity,
    survey: Survey,
) -> Result<(Place, Settled, Option<Cut>), DiskError> {
    let tail = survey.tail;
    let mut ready = survey.ready;
    let mut cut = None;
    if let Some(torn) = &survey.torn {
        cut_off(disk, torn.number, torn.damage.offset, torn.data_end)?;
        cut = Some(Cut { damage: torn.damage.clone(), bytes: torn.data_end - torn.damage.offset });
        if torn.damage.offset < FIRST_FRAME_AT {
            // Its header was torn, so it is a file of zeros again.
            let file = disk.open(&segment::name(torn.number), OpenMode::Existing)?;
            ready = Some((torn.number, file.size_bytes()?));
        }
    }
    let seen = survey.segments.iter().map(|seen| Segment {
        number: seen.number,
        first_revision: seen.first_revision,
        bytes: seen.bytes,
    });
    let mut segments: VecDeque<Segment> = seen.collect();
    // Of another setting: it will be made again, under the same name.
    ready = ready.filter(|(_, bytes)| *bytes == options.segment_bytes);
    let (file, offset) = if let Some(last) = segments.back() {
        let file = disk.open(&segment::name(last.number), OpenMode::Existing)?;
        // Written again, and not only synced. The walk dropped what was cached, but a system need not follow that
        // advice; where it doesn't, and an earlier sync failed, it believes that this frame is on the disk.
        let (start, length) = survey.last_frame.unwrap_or((0, SECTOR_BYTES));
        let mut bytes = vec![0; index(length)];
        file.read_at(start, &mut bytes)?;
        file.write_at(start, &bytes)?;
        file.sync()?;
        (file, survey.end_offset)
    } else {
        let bytes = match ready.take() {
            Some((_, bytes)) => bytes,
            None => make_segment(disk, 1, options.segment_bytes, Fill::Written)?,
        };
        let first = Segment { number: 1, first_revision: 1, bytes };
        let file = disk.open(&segment::name(1), OpenMode::Existing)?;
        begin(&*file, identity, &first, tail)?;
        segments.push_back(first);
        (file, FIRST_FRAME_AT)
    };
    let last = segments.back().copied().expect("begun above when there was none");
    let place = Place { file, segment: last.number, segment_bytes: last.bytes, offset, tail };
    let oldest = segments.front().copied().unwrap_or(last);
    let state = ShelfState {
        kept: kept::list(disk, identity.cell, &oldest)?,
        segments,
        ready,
        fill: Fill::Written,
        tail,
        released_revision: 0,
        wanted_from: 0,
        places: VecDeque::new(),
        read_ends: VecDeque::new(),
        pins: BTreeMap::new(),
    };
    Ok((place, Settled { state, frames: survey.frames }, cut))
}

/// Fills a torn end with zeros, durably, so that it cannot come back as part of a later frame.
fn cut_off(disk: &dyn Disk, number: u64, from: u64, to: u64) -> Result<(), DiskError> {
    let file = disk.open(&segment::name(number), OpenMode::Existing)?;
    let zeros = vec![0; index((to - from).min(CHUNK_BYTES))];
    let mut offset = from;
    while offset < to {
        let length = CHUNK_BYTES.min(to - offset);
        file.write_at(offset, &zeros[..index(length)])?;
        offset += length;
    }
    file.sync()
}

//! One walk over the whole log, which both `Journal::open` and `verify` judge by: what is there, what is wrong
//! with it, where it ends, and whether the end can be cut.
//!
//! It changes nothing. It never stops at damage, so that a report is complete; opening refuses at the first.

use crate::disk::{Disk, DiskError, DiskFile, OpenMode};
use crate::flaw::{Damage, Flaw, Proof};
use crate::forgiving::{Forgiving, LostRange, is_lost};
use crate::format::{FORMAT_VERSION, SECTOR_BYTES, Sector, index, is_zero};
use crate::identity::Identity;
use crate::kept;
use crate::mark::Mark;
use crate::reader::Frame;
use crate::scan::{Found, Scanner, Source, Step, Tail, data_end, first_data};
use crate::segment::{self, FIRST_FRAME_AT, SegmentHeader};

/// How many damages are listed; more are counted. A disk that rots has too many to read anyway.
pub(crate) const DAMAGES_MAX: usize = 1000;

/// One segment that holds frames, or could.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SegmentSeen {
    pub(crate) number: u64,
    pub(crate) first_revision: u64,
    pub(crate) bytes: u64,
}

/// Where the log can be cut: the last record of the log, which nothing proves to have been durable.
#[derive(Clone, Debug)]
pub(crate) struct Torn {
    pub(crate) number: u64,
    pub(crate) damage: Damage,
    /// The end of what is not zero behind the place.
    pub(crate) data_end: u64,
}

/// What one walk saw.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// Segments that were begun, in order.
    pub(crate) segments: Vec<SegmentSeen>,
    /// The first revision of a whole frame in the oldest segment, where the header of that is lost.
    pub(crate) first_without_header: Option<u64>,
    /// The file that is made and not begun, with its size.
    pub(crate) ready: Option<(u64, u64)>,
    /// The end of the chain of whole frames.
    pub(crate) tail: Tail,
    /// Where the last whole frame stands and how long it is, when the last begun segment has one.
    pub(crate) last_frame: Option<(u64, u64)>,
    /// Where the next frame goes in the last begun segment.
    pub(crate) end_offset: u64,
    pub(crate) frames: u64,
    pub(crate) damages: Vec<Damage>,
    pub(crate) damages_unlisted: u64,
    pub(crate) torn: Option<Torn>,
    /// What stands in the log at the mark's revision; none when no frame ends there.
    pub(crate) at_mark: Option<Mark>,
}

impl Survey {
    /// The last revision before the oldest segment: what was released, or never was.
    pub(crate) fn before_oldest(&self) -> u64 {
        let begun = self.segments.first().map(|segment| segment.first_revision);
        self.first_without_header.or(begun).map_or(0, |first| first.saturating_sub(1))
    }

    fn note(&mut self, damage: Damage) {
        if self.damages.len() < DAMAGES_MAX {
            self.damages.push(damage);
        } else {
            self.damages_unlisted += 1;
        }
    }
}

/// What to walk, and whom to tell.
pub(crate) struct Surveyor<'a> {
    disk: &'a dyn Disk,
    identity: Identity,
    mark: Mark,
    visit: &'a mut dyn FnMut(&Frame<'_>),
    survey: Survey,
    scanner: Scanner,
    incarnation: u64,
    /// What came right before is lost, and listed: that the next header does not continue what is left is no damage of its own.
    gap: bool,
    /// A record at the end that may be cut, until something behind it shows that it may not.
    torn: Option<Torn>,
    /// Segments with smaller numbers have the names of kept ones. 0: none is walked.
    log_from: u64,
    /// Sectors that the disk can't read are damage, and not the end of the walk.
    forgives: bool,
    /// Kept segments are to join the log: one that could only not be looked at is no damage, but the end of the walk.
    joins: bool,
}

/// What the first sector of a segment says.
enum Opening {
    Begun(SegmentHeader),
    NotBegun,
    Flawed(Flaw),
}

impl<'a> Surveyor<'a> {
    pub(crate) fn new(
        disk: &'a dyn Disk,
        identity: Identity,
        mark: Mark,
        visit: &'a mut dyn FnMut(&Frame<'_>),
    ) -> Self {
        Surveyor {
            disk,
            identity,
            mark,
            visit,
            survey: Survey::default(),
            scanner: Scanner::new(0, 0, Tail::default()),
            incarnation: 0,
            gap: false,
            torn: None,
            log_from: 0,
            forgives: false,
            joins: false,
        }
    }

    /// For whoever looks at what is left: what can't be read is listed with what else is wrong.
    pub(crate) fn forgiving(self) -> Self {
        Self { forgives: true, ..self }
    }

    /// Walks all segments of the log in order.
    pub(crate) fn walk(self) -> Result<Survey, DiskError> {
        let mut numbers: Vec<u64> = self.disk.list()?.iter().filter_map(|name| segment::number_in(name)).collect();
        numbers.sort_unstable();
        self.walk_through(numbers)
    }

    /// Walks the kept segments that come before the oldest segment of the log, if there is any; and the header of that one, which shows whether they
    /// end where they should.
    pub(crate) fn walk_kept(mut self, log_from: Option<u64>) -> Result<Survey, DiskError> {
        self.log_from = log_from.unwrap_or(u64::MAX);
        let mut numbers = kept::numbers(self.disk)?;
        numbers.retain(|number| *number < self.log_from);
        if !numbers.is_empty() {
            numbers.extend(log_from);
        }
        self.walk_through(numbers)
    }

    /// Walks kept segments that are to join the log, rising, and that header as well: `log_from` is the oldest segment of the log, if there
    /// is any.
    pub(crate) fn walk_joining(self, mut numbers: Vec<u64>, log_from: Option<u64>) -> Result<Survey, DiskError> {
        numbers.extend(log_from);
        Self { log_from: log_from.unwrap_or(u64::MAX), joins: true, ..self }.walk_through(numbers)
    }

    fn name(&self, number: u64) -> String {
        if number < self.log_from { segment::kept_name(number) } else { segment::name(number) }
    }

    fn walk_through(mut self, numbers: Vec<u64>) -> Result<Survey, DiskError> {
        let mut expected = numbers.first().copied().unwrap_or(1);
        for number in numbers {
            if expected < number {
                // Named once: how many are missing shows in the names around.
                self.missing(expected, number);
            }
            match self.segment(number) {
                Err(error) if self.goes_on_behind(number, &error) => self.unreadable(number, &error),
                walked => walked?,
            }
            expected = number.saturating_add(1);
        }
        if let Some(torn) = self.torn.take() {
            self.survey.note(torn.damage.clone());
            self.survey.torn = Some(torn);
        }
        Ok(self.survey)
    }

    /// Whether the walk goes on behind a segment that can't be looked at: what it holds is lost, and what the others hold is not.
    fn goes_on_behind(&self, number: u64, error: &DiskError) -> bool {
        let is_kept = number < self.log_from;
        if is_lost(error) { is_kept || self.forgives } else { is_kept && !self.joins }
    }

    fn missing(&mut self, number: u64, found: u64) {
        self.gap = true;
        let followed_by = Some(Proof { file: self.name(found), offset: 0, first_revision: None });
        self.something_follows(&self.name(found), 0, None);
        let revision = self.survey.tail.revision.saturating_add(1);
        self.survey.note(Damage { file: self.name(number), offset: 0, revision, flaw: Flaw::Missing, followed_by });
    }

    fn unreadable(&mut self, number: u64, error: &DiskError) {
        self.gap = true;
        let (file, flaw) = (self.name(number), Flaw::Unreadable { error: error.source.to_string() });
        // With which revision the oldest one begins, only itself would have told.
        let known = number == 1 || !self.survey.segments.is_empty() || self.survey.frames > 0;
        let revision = if known { self.survey.tail.revision.saturating_add(1) } else { 0 };
        self.survey.note(Damage { file, offset: 0, revision, flaw, followed_by: None });
    }

    /// Whatever was doubtful before this place was durable: this was written after it.
    fn something_follows(&mut self, file: &str, offset: u64, first_revision: Option<u64>) {
        if let Some(torn) = self.torn.take() {
            self.gap = true;
            let followed_by = Some(Proof { file: file.to_owned(), offset, first_revision });
            self.survey.note(Damage { followed_by, ..torn.damage });
        }
    }

    fn segment(&mut self, number: u64) -> Result<(), DiskError> {
        let name = self.name(number);
        let file = self.disk.open(&name, OpenMode::Existing)?;
        file.settle()?;
        if !self.forgives {
            return self.file(number, &*file);
        }
        let file = Forgiving::new(file);
        self.file(number, &file)?;
        for LostRange { offset, bytes, error } in file.lost() {
            let flaw = Flaw::Unreadable { error: format!("{bytes} bytes that can't: {error}") };
            self.survey.note(Damage { file: name.clone(), offset, revision: 0, flaw, followed_by: None });
        }
        Ok(())
    }

    fn file(&mut self, number: u64, file: &dyn DiskFile) -> Result<(), DiskError> {
        let name = self.name(number);
        let size = file.size_bytes()?;
        // A file that was made and not begun stays out of the way until something is behind it.
        if let Some((ready, _)) = self.survey.ready.take() {
            self.something_follows(&name, 0, None);
            let proof = Proof { file: name.clone(), offset: 0, first_revision: None };
            self.at_header(ready, Flaw::NotBegun, Some(proof));
        }
        match opening(file, size)? {
            Opening::NotBegun => self.not_begun(number, file, size),
            Opening::Flawed(flaw) => self.flawed_header(number, file, size, flaw),
            Opening::Begun(header) => {
                self.something_follows(&name, 0, Some(header.first_revision));
                self.begun(number, file, size, &header)
            }
        }
    }

    fn at_header(&mut self, number: u64, flaw: Flaw, followed_by: Option<Proof>) {
        let revision = self.survey.tail.revision.saturating_add(1);
        self.survey.note(Damage { file: self.name(number), offset: 0, revision, flaw, followed_by });
    }

    /// Whether there was nothing before, whole or damaged.
    fn is_first(&self) -> bool {
        self.survey.segments.is_empty() && self.survey.damages.is_empty() && self.torn.is_none()
    }

    fn not_begun(&mut self, number: u64, file: &dyn DiskFile, size: u64) -> Result<(), DiskError> {
        match first_data(file, 0, size)? {
            None if number != 1 && self.is_first() => self.at_header(number, Flaw::Blank, None),
            None => self.survey.ready = Some((number, size)),
            // The header is durable before the first frame is written, so a crash cannot leave this.
            Some(data_at) => {
                self.something_follows(&self.name(number), data_at, None);
                self.begin_without_header(number, file, size)?;
                let proof = Proof { file: self.name(number), offset: data_at, first_revision: None };
                self.at_header(number, Flaw::Zeros { data_at }, Some(proof));
                self.frames(number, file, size, None)?;
            }
        }
        Ok(())
    }

    fn flawed_header(&mut self, number: u64, file: &dyn DiskFile, size: u64, flaw: Flaw) -> Result<(), DiskError> {
        let name = self.name(number);
        self.something_follows(&name, 0, None);
        let data = first_data(file, FIRST_FRAME_AT.min(size), size)?;
        self.begin_without_header(number, file, size)?;
        let continues = !self.survey.segments.is_empty() || number == 1;
        let revision = self.survey.tail.revision.saturating_add(1);
        let damage = Damage { file: name.clone(), offset: 0, revision, flaw, followed_by: None };
        if data.is_none() && continues && damage.flaw.can_be_torn() {
            self.torn = Some(Torn { number, damage, data_end: FIRST_FRAME_AT.min(size) });
            return Ok(());
        }
        let followed_by = data.map(|offset| Proof { file: name, offset, first_revision: None });
        self.survey.note(Damage { followed_by, ..damage });
        self.frames(number, file, size, None)
    }

    /// The oldest segment tells what comes before it in its header alone. Where that is lost, the first whole frame says at least with
    /// which revision the log begins, so that the damage is named with it, and that frame is not called wrong.
    fn begin_without_header(&mut self, number: u64, file: &dyn DiskFile, size: u64) -> Result<(), DiskError> {
        let oldest = self.survey.segments.is_empty() && self.survey.frames == 0;
        if oldest && number != 1 {
            self.scanner.enter(number, size, Tail::default());
            if let Some((_, first)) = self.scanner.next_whole(file, FIRST_FRAME_AT.min(size))? {
                self.survey.tail.revision = first.saturating_sub(1);
                self.survey.first_without_header = Some(first);
            }
        }
        Ok(())
    }

    fn begun(&mut self, number: u64, file: &dyn DiskFile, size: u64, header: &SegmentHeader) -> Result<(), DiskError> {
        let oldest = self.survey.segments.is_empty() && self.survey.frames == 0;
        // It excuses this header alone, whatever else does: what is wrong behind it is to be listed.
        let behind_gap = std::mem::take(&mut self.gap);
        let trusted = behind_gap || (oldest && header.number != 1);
        for flaw in self.header_flaws(number, size, header, trusted) {
            self.at_header(number, flaw, None);
        }
        self.incarnation = header.incarnation;
        self.survey.tail =
            Tail { revision: header.first_revision.saturating_sub(1), term: header.term, hash: header.previous };
        self.compare_mark(self.survey.tail);
        self.survey.segments.push(SegmentSeen { number, first_revision: header.first_revision, bytes: size });
        self.frames(number, file, size, Some(self.survey.tail))
    }

    fn header_flaws(&self, number: u64, size: u64, header: &SegmentHeader, trusted: bool) -> Vec<Flaw> {
        let mut flaws = Vec::new();
        let tail = if trusted {
            // What was before was released, or is lost and listed; the header is where trust starts.
            Tail { revision: header.first_revision.saturating_sub(1), term: header.term, hash: header.previous }
        } else {
            self.survey.tail
        };
        if header.cell != self.identity.cell {
            flaws.push(Flaw::OtherCell { expected: self.identity.cell, found: header.cell });
        }
        if header.number != number {
            flaws.push(Flaw::OtherSegment { expected: number, found: header.number });
        }
        if header.segment_bytes != size {
            flaws.push(Flaw::FileSize { expected_bytes: header.segment_bytes, found_bytes: size });
        }
        if header.incarnation < self.incarnation || header.incarnation > self.identity.incarnation {
            let (least, most) = (self.incarnation, self.identity.incarnation);
            flaws.push(Flaw::Incarnation { least, most, found: header.incarnation });
        }
        let expected = tail.revision.saturating_add(1);
        if header.first_revision != expected {
            flaws.push(Flaw::FirstRevision { expected, found: header.first_revision });
        } else if header.previous != tail.hash {
            flaws.push(Flaw::Chain { expected: tail.hash, found: header.previous });
        } else if header.term != tail.term {
            flaws.push(Flaw::Term { expected: tail.term, found: header.term });
        }
        flaws
    }

    /// Walks the frames of a segment; without a tail when its header could not be read.
    fn frames(&mut self, number: u64, file: &dyn DiskFile, size: u64, tail: Option<Tail>) -> Result<(), DiskError> {
        if self.log_from > 0 && number == self.log_from {
            // Not what is looked at: see `walk_kept`.
            return Ok(());
        }
        self.scanner.enter(number, size, tail.unwrap_or(self.survey.tail));
        if tail.is_none() && self.survey.frames == 0 {
            // Which hash the first frame carries, only the header would have told.
            self.scanner.resume_at(FIRST_FRAME_AT, self.survey.tail.revision.saturating_add(1));
        }
        self.survey.last_frame = None;
        loop {
            match self.scanner.step(file)? {
                Step::End => break,
                Step::Frame(found) => self.frame(number, found),
                Step::Damaged { flaw, next } => {
                    let offset = self.scanner.offset();
                    let revision = self.scanner.revision().saturating_add(1);
                    let name = self.name(number);
                    let damage = Damage { file: name.clone(), offset, revision, flaw, followed_by: None };
                    let Some((next, first)) = next else {
                        if tail.is_none() && self.survey.last_frame.is_none() {
                            // Nothing of it can be read, and that its header is lost is listed.
                            break;
                        }
                        let data_end = data_end(file, offset, size)?;
                        self.torn = Some(Torn { number, damage, data_end });
                        break;
                    };
                    let followed_by = Some(Proof { file: name, offset: next, first_revision: Some(first) });
                    self.survey.note(Damage { followed_by, ..damage });
                    self.scanner.resume_at(next, first);
                }
            }
        }
        self.survey.end_offset = self.scanner.offset();
        // Where it went to, nobody knows: the next header is where trust starts.
        self.gap |= tail.is_none() && self.survey.last_frame.is_none();
        Ok(())
    }

    fn frame(&mut self, number: u64, found: Found) {
        let Found { head, offset, hash, breaks } = found;
        if let Some(flaw) = breaks {
            let (file, revision) = (self.name(number), self.survey.tail.revision.saturating_add(1));
            self.survey.note(Damage { file, offset, revision, flaw, followed_by: None });
        }
        self.survey.tail = Tail { revision: head.last_revision, term: head.term, hash };
        self.survey.last_frame = Some((offset, head.bytes()));
        self.survey.frames += 1;
        self.compare_mark(self.survey.tail);
        (self.visit)(&Frame::new(&head, number, offset, hash, self.scanner.frame()));
    }

    fn compare_mark(&mut self, tail: Tail) {
        if tail.revision == self.mark.revision {
            self.survey.at_mark = Some(Mark { revision: tail.revision, hash: tail.hash });
        }
    }
}

fn opening(file: &dyn DiskFile, size: u64) -> Result<Opening, DiskError> {
    if size < SECTOR_BYTES {
        return Ok(Opening::Flawed(Flaw::FileSize { expected_bytes: SECTOR_BYTES, found_bytes: size }));
    }
    let mut sector: Sector = [0; index(SECTOR_BYTES)];
    Source::read_at(file, 0, &mut sector)?;
    if is_zero(&sector) {
        return Ok(Opening::NotBegun);
    }
    Ok(match SegmentHeader::decode(&sector) {
        Ok(header) => Opening::Begun(header),
        Err(flaw) => Opening::Flawed(flaw),
    })
}

impl Damage {
    /// The version found, when the damage is only that another version wrote the record.
    pub(crate) fn other_format(&self) -> Option<u32> {
        match self.flaw {
            Flaw::OtherFormat { expected: FORMAT_VERSION, found } => Some(found),
            _ => None,
        }
    }
}

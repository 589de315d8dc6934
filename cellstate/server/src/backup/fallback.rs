//! The fallback: a second copy of the state, in a file of its own beside log and history.
//!
//! The newest checkpoint stands in the history's store, and nowhere else. Damage there that keeps the store from being opened would take the
//! cell with it, once the log does not go back to the beginning any more. So before the log gives up what leads on from the fallback,
//! the fallback is written anew, of the newest checkpoint: at any time it and what the log has behind it come to the present. It is a backup like
//! others, of the cell's own incarnation. Whether it goes with a log is decided in one place, [`Shown::goes_with`].

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use plenum_core::invariants;
use plenum_journal::{CellId, ChainHash, Frame, Identity, RealDisk, Tail};
use plenum_model::Cell;
use plenum_proto::{pages, v1};

use super::file::Decoder;
use super::{BackupError, Encoder, manifest, restore};
use crate::error::{ServerError, told};

/// Its file, in the cell's directory.
pub(crate) const FALLBACK: &str = "fallback.backup";
/// While it is written.
const DRAFT: &str = "fallback.tmp";
/// Where one goes that is to be replaced, and that nobody could look at.
const UNSEEN: &str = "fallback.unseen";

/// Written between two syncs: those of the log wait on the same disk behind what is not synced yet.
const SYNCED_BYTES: usize = 512 << 10;

/// What the manifest of a fallback says of the state in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) revision: u64,
    /// Of the frame that ended with that revision; none where whoever wrote it did not know: versions before this one never did.
    hash: Option<ChainHash>,
}

/// What of a log decides whether a fallback goes with it.
pub(crate) struct LogExtent<'a> {
    /// The oldest revision that can be folded.
    pub(crate) oldest: u64,
    /// The last one.
    pub(crate) last: u64,
    /// The hash of the frame that ends with a revision, where that is known.
    pub(crate) hash_at: &'a dyn Fn(u64) -> Option<ChainHash>,
}

/// Why a log does not go on from a fallback of the same cell and incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Misfit {
    /// The log has lost its end, or is an older one: what comes behind its end now is another timeline.
    #[error("it shows revision {shown}, and the log ends at {last}")]
    AheadOfLog { shown: u64, last: u64 },
    /// The revisions in between are missing.
    #[error("it shows revision {shown}, which does not join the log: that begins at {oldest}")]
    BeforeLog { shown: u64, oldest: u64 },
    /// Another timeline of the same cell had that revision, too.
    #[error(
        "it shows a revision {shown} of another past: the frame that ends with that revision is another one in the log"
    )]
    OtherPast { shown: u64 },
}

impl Shown {
    fn of(manifest: &v1::BackupManifest) -> Self {
        let hash = <[u8; 32]>::try_from(&*manifest.frame_hash).ok();
        Self { revision: manifest.revision, hash: hash.map(ChainHash) }
    }

    /// Whether a log goes on from here, as far as both of them tell.
    ///
    /// # Errors
    /// When it does not: of all that is wrong, what tells most.
    pub(crate) fn goes_with(self, log: &LogExtent<'_>) -> Result<(), Misfit> {
        let shown = self.revision;
        if shown > log.last {
            return Err(Misfit::AheadOfLog { shown, last: log.last });
        }
        // A restored log whose last frame before it is not known begins with no hash.
        let found = self.hash.and_then(|_| (log.hash_at)(shown)).filter(|hash| *hash != ChainHash::default());
        if found.is_some() && found != self.hash {
            return Err(Misfit::OtherPast { shown });
        }
        if shown.saturating_add(1) < log.oldest {
            return Err(Misfit::BeforeLog { shown, oldest: log.oldest });
        }
        Ok(())
    }
}

/// What is known of an open cell's fallback.
#[derive(Clone, Debug)]
pub(crate) struct Fallback {
    dir: PathBuf,
    identity: Identity,
    /// What it shows, and its bytes; none if there is none that leads to the present.
    written: Option<(u64, u64)>,
    /// There is none, and what would lead on from the beginning is given up. Of one that could not be looked at, nobody knows that.
    is_given_up: bool,
    /// Why there is one that is not replaced and not removed: it is of another cell, or of another incarnation or another past of this one, and may be
    /// the last copy of that state.
    foreign: Option<String>,
    /// There is one that could not be looked at: it may be such a copy, and is neither removed nor written over.
    is_unseen: bool,
    /// Bytes of the last one that could not be written to its end.
    tried_bytes: u64,
}

/// Called before each piece that is written: whether the disk has room for more than the log needs. It may do what can't wait for the last piece.
pub(crate) type HasRoom<'a> = &'a mut dyn FnMut() -> bool;

impl Fallback {
    /// Looks for one of this cell that the log goes on from. What stands behind its manifest is not read.
    pub(crate) fn find(dir: &Path, identity: Identity, log: &LogExtent<'_>) -> Self {
        // Of a server that was killed while it wrote. Nobody else has the directory.
        remove_file(&dir.join(DRAFT));
        let (mut foreign, mut is_unseen) = (None, false);
        let joining = |shown: Option<Shown>| match shown.map_or(Ok(()), |shown| shown.goes_with(log)) {
            Ok(()) => Ok(shown.map(|shown| shown.revision)),
            Err(Misfit::BeforeLog { .. }) => Ok(None),
            Err(misfit) => Err(BackupError::NotOfThisLog { path: dir.join(FALLBACK), what: misfit.to_string() }),
        };
        let revision = shown_in(dir, identity).and_then(joining).unwrap_or_else(|error| {
            foreign = match &error {
                BackupError::OtherCell { .. } => Some("it is of another cell".to_owned()),
                BackupError::OtherIncarnation { found, expected, .. } => {
                    Some(format!("it is of incarnation {found}, and the log of {expected}"))
                }
                BackupError::NotOfThisLog { what, .. } => Some(what.clone()),
                _ => None,
            };
            let why = told(&error);
            is_unseen = error.obstacle().is_ok();
            let what = match (&foreign, is_unseen) {
                (Some(_), _) => "it stays, and none is written",
                (None, true) => {
                    "it is not written over, and all that may lead on from it stays until there is another one"
                }
                (None, false) => "it will be written anew",
            };
            tracing::warn!(error = why, "the fallback can't be used; {what}");
            None
        });
        let bytes = fs::metadata(dir.join(FALLBACK)).map_or(0, |file| file.len());
        let written = revision.map(|revision| (revision, bytes));
        let is_given_up = written.is_none() && !is_unseen && log.oldest > 1;
        Self { dir: dir.to_owned(), identity, written, is_given_up, foreign, is_unseen, tried_bytes: 0 }
    }

    /// The revision that it shows, if there is one.
    pub(crate) fn revision(&self) -> Option<u64> {
        self.written.map(|(revision, _)| revision)
    }

    /// Whether there is none any more, and the log does not go back to the beginning.
    pub(crate) fn is_given_up(&self) -> bool {
        self.is_given_up
    }

    /// The first revision that is needed behind it; without one, the first of all.
    pub(crate) fn next_revision(&self) -> u64 {
        self.written.map_or(1, |(revision, _)| revision.saturating_add(1))
    }

    /// Its bytes; without one those of the last try, and 0 if there was none.
    pub(crate) fn bytes(&self) -> u64 {
        self.written.map_or(self.tried_bytes, |(_, bytes)| bytes)
    }

    /// Writes it anew, as long as there is room; `hash` is of the frame that ends with the cell's revision, where that is known. Where it fails there
    /// is the one of before.
    pub(crate) fn renew(&mut self, cell: &Cell, hash: ChainHash, has_room: HasRoom<'_>) -> Result<(), BackupError> {
        if let Some(what) = &self.foreign {
            return Err(BackupError::NotOfThisLog { path: self.dir.join(FALLBACK), what: what.clone() });
        }
        let aside = self.is_unseen.then(|| self.dir.join(UNSEEN));
        if let Some(path) = aside.as_ref().filter(|path| path.symlink_metadata().is_ok()) {
            return Err(BackupError::Exists { path: path.clone() });
        }
        let written = write_while(&self.dir, cell, (self.identity.incarnation, hash), has_room, aside.as_deref());
        let bytes = written.map_err(|(tried_bytes, source)| {
            self.tried_bytes = tried_bytes;
            BackupError::Io { path: self.dir.join(DRAFT), source }
        })?;
        self.written = Some((cell.revision().0, bytes));
        (self.is_given_up, self.is_unseen) = (false, false);
        if let Some(path) = aside {
            let path = path.display();
            tracing::warn!(%path, "a fallback that could not be looked at was moved here: it may be the last copy of what it shows");
        }
        Ok(())
    }

    /// Makes sure that it has its name for good: a server that gave it that may have been killed before it was.
    pub(crate) fn make_durable(&self) -> io::Result<()> {
        fs::File::open(&self.dir)?.sync_all()
    }

    /// Looks once more at one that could not be looked at: one of the log's own past is nobody's last copy, and is unseen no more.
    pub(crate) fn look_again(&mut self, log: &LogExtent<'_>) {
        let is_own = |shown: Option<Shown>| {
            let joining = shown.map_or(Ok(()), |shown| shown.goes_with(log));
            matches!(joining, Ok(()) | Err(Misfit::BeforeLog { .. }))
        };
        self.is_unseen = self.is_unseen && !shown_in(&self.dir, self.identity).is_ok_and(is_own);
    }

    /// Removes it: what leads on from it will be given up, and its room may be needed. One that could not be looked at stays.
    pub(crate) fn remove(&mut self) {
        (self.written, self.is_given_up) = (None, true);
        if self.foreign.is_none() && !self.is_unseen {
            remove_file(&self.dir.join(FALLBACK));
        }
        remove_file(&self.dir.join(DRAFT));
    }
}

fn remove_file(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, path = %path.display(), "a fallback that is of no use any more could not be removed");
        }
        _ => {}
    }
}

/// What the fallback of a cell shows, if there is one. What stands behind its manifest is not read.
///
/// # Errors
/// When there is a file that is none, or of another cell or incarnation.
pub(crate) fn shown_in(dir: &Path, identity: Identity) -> Result<Option<Shown>, BackupError> {
    let path = dir.join(FALLBACK);
    let file = match fs::File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(|source| BackupError::Io { path: path.clone(), source })?,
    };
    let decoder = Decoder::begin(io::BufReader::new(file)).map_err(|fault| BackupError::of(&path, fault))?;
    expect_cell(&path, &decoder.manifest, identity)?;
    Ok(Some(Shown::of(&decoder.manifest)))
}

/// Makes sure that the fallback doesn't show what the log, which ends at `last`, has lost: those revisions would be given again, to others. One
/// that can't be read says nothing.
///
/// # Errors
/// [`ServerError::FallbackAheadOfLog`] if it does.
pub(crate) fn check_against_log(dir: &Path, identity: Identity, last: u64) -> Result<(), ServerError> {
    let Ok(Some(shown)) = shown_in(dir, identity) else { return Ok(()) };
    match shown.goes_with(&LogExtent { oldest: 0, last, hash_at: &|_| None }) {
        Err(Misfit::AheadOfLog { shown, last }) => Err(ServerError::FallbackAheadOfLog { shown, log: last }),
        _ => Ok(()),
    }
}

/// Looks among the frames of a log, as they pass, for the hash of the one that ends with a revision.
pub(crate) struct Lookout {
    revision: u64,
    found: Option<ChainHash>,
}

impl Lookout {
    pub(crate) fn new(revision: u64) -> Self {
        Self { revision, found: None }
    }

    /// The frame itself tells, and the one behind it, which carries its hash.
    pub(crate) fn frame(&mut self, frame: &Frame<'_>) {
        if frame.last_revision == self.revision {
            self.found = Some(frame.hash);
        } else if frame.first_revision == self.revision.saturating_add(1) {
            self.found.get_or_insert(frame.previous);
        }
    }

    /// What was found in a log with this end, which tells by itself where it has no frame.
    pub(crate) fn hash(&self, tail: Tail) -> Option<ChainHash> {
        self.found.or_else(|| (tail.revision == self.revision).then_some(tail.hash))
    }
}

/// The hash of the frame that ends with a revision in a log, or in what it kept, as far as that can be read. Walks through all of them.
pub(crate) fn hash_in(disk: &RealDisk, cell: CellId, revision: u64) -> Option<ChainHash> {
    let mut lookout = Lookout::new(revision);
    // Whatever else is wrong with them is told by who walks through them for its own sake.
    let _ = plenum_journal::verify_kept(disk, Some(cell), &mut |frame| lookout.frame(frame));
    let walked = plenum_journal::verify(disk, Some(cell), &mut |frame| lookout.frame(frame));
    lookout.hash(walked.map(|report| report.tail).unwrap_or_default())
}

/// The cell that the fallback shows, if there is one, and what its manifest says. All of it is read and checked.
///
/// # Errors
/// As [`shown_in`], and when it is damaged or its cell is not sound.
pub(crate) fn read(dir: &Path, identity: Identity) -> Result<Option<(Cell, Shown)>, BackupError> {
    let path = dir.join(FALLBACK);
    let (cell, manifest, _) = match restore::from_file(&path) {
        Err(BackupError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read?,
    };
    expect_cell(&path, &manifest, identity)?;
    invariants::check_cell(&cell)
        .map_err(|violation| BackupError::NotSound { revision: manifest.revision, what: violation.to_string() })?;
    Ok(Some((cell, Shown::of(&manifest))))
}

fn expect_cell(path: &Path, manifest: &v1::BackupManifest, identity: Identity) -> Result<(), BackupError> {
    let (path, expected, found) = (path.to_owned(), identity.incarnation, manifest.incarnation);
    if manifest.cell_id[..] != identity.cell.0 {
        return Err(BackupError::OtherCell { path });
    }
    if found == expected { Ok(()) } else { Err(BackupError::OtherIncarnation { path, expected, found }) }
}

/// Writes a fallback into a directory, in place of one that is there; its bytes. `hash` is of the frame that ends with the cell's revision, where that
/// is known.
pub(crate) fn write(dir: &Path, cell: &Cell, incarnation: u64, hash: ChainHash) -> Result<u64, BackupError> {
    let written = write_while(dir, cell, (incarnation, hash), &mut || true, None);
    written.map_err(|(_, source)| BackupError::Io { path: dir.join(DRAFT), source })
}

/// The same, as long as there is room; one that is there is moved `aside`, if that is given. Where it fails, how many bytes were written by then.
fn write_while(
    dir: &Path,
    cell: &Cell,
    at: (u64, ChainHash),
    has_room: HasRoom<'_>,
    aside: Option<&Path>,
) -> Result<u64, (u64, io::Error)> {
    let draft = dir.join(DRAFT);
    let put_in_place = |bytes| {
        if let Some(aside) = aside {
            fs::rename(dir.join(FALLBACK), aside)?;
        }
        fs::rename(&draft, dir.join(FALLBACK)).inspect_err(|_| {
            // It goes on as the one of before.
            let _ = aside.map(|aside| fs::rename(aside, dir.join(FALLBACK)));
        })?;
        fs::File::open(dir)?.sync_all().map(|()| bytes)
    };
    write_draft(&draft, cell, at, has_room).and_then(put_in_place).map_err(|source| {
        let tried_bytes = fs::metadata(&draft).map_or(0, |file| file.len());
        // Where it has its name already there is no draft.
        let _ = fs::remove_file(&draft);
        (tried_bytes, source)
    })
}

fn write_draft(
    draft: &Path,
    cell: &Cell,
    (incarnation, hash): (u64, ChainHash),
    has_room: HasRoom<'_>,
) -> io::Result<u64> {
    let mut file = fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(draft)?;
    let tail = Tail { revision: cell.revision().0, term: cell.identity().term, hash };
    let mut encoder = Encoder::begin(&manifest(cell, incarnation, tail));
    for (table, number) in pages::every(cell) {
        encoder.page(&pages::encode_page(cell, table, number));
        if encoder.pending_bytes() >= SYNCED_BYTES {
            if !has_room() {
                let what = "the rest of the disk is kept for the log";
                return Err(io::Error::new(io::ErrorKind::StorageFull, what));
            }
            file.write_all(&encoder.take())?;
            file.sync_data()?;
        }
    }
    encoder.end();
    file.write_all(&encoder.take())?;
    file.sync_all()?;
    Ok(file.metadata()?.len())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use super::super::folder;
    use super::*;
    use crate::recovery;
    use plenum_model::{BootId, CellIdentity, Delta, LogTime, Machine, MachineId, MachineState, Revision};

    fn identity(incarnation: u64) -> Identity {
        Identity { cell: CellId(Cell::default().identity().cell_id), incarnation }
    }

    const UNKNOWN: ChainHash = ChainHash([0; 32]);

    /// What is found beside a log of these revisions.
    fn found(dir: &Path, identity: Identity, (oldest, last): (u64, u64)) -> Fallback {
        Fallback::find(dir, identity, &LogExtent { oldest, last, hash_at: &|_| None })
    }

    #[test]
    fn what_is_written_is_read_back_and_replaces_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(
            (shown_in(dir.path(), identity(1)).unwrap(), read(dir.path(), identity(1)).unwrap().is_none()),
            (None, true)
        );
        // Of a server that was killed while it wrote: its room stayed taken until the next one was written.
        fs::write(dir.path().join(DRAFT), [7; 100_000]).unwrap();
        let mut fallback = found(dir.path(), identity(1), (1, 0));
        assert_eq!((fallback.next_revision(), dir.path().join(DRAFT).exists()), (1, false));
        for hash in [None, Some(ChainHash([7; 32]))] {
            fallback.renew(&Cell::default(), hash.unwrap_or_default(), &mut || true).unwrap();
            let expected = Shown { revision: 0, hash };
            assert_eq!(shown_in(dir.path(), identity(1)).unwrap(), Some(expected));
            let (cell, shown) = read(dir.path(), identity(1)).unwrap().unwrap();
            assert_eq!((cell.first_difference(&Cell::default()), shown), (None, expected));
        }
        assert!(!dir.path().join(DRAFT).exists());
        fallback.remove();
        assert_eq!(shown_in(dir.path(), identity(1)).unwrap(), None);
    }

    #[test]
    fn a_fallback_of_another_incarnation_or_one_that_the_log_does_not_go_on_from_is_none() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &Cell::default(), 1, UNKNOWN).unwrap();
        assert!(matches!(
            read(dir.path(), identity(2)),
            Err(BackupError::OtherIncarnation { expected: 2, found: 1, .. })
        ));
        let bytes = |incarnation, oldest| found(dir.path(), identity(incarnation), (oldest, 9)).bytes();
        let written = fs::metadata(dir.path().join(FALLBACK)).unwrap().len();
        assert_eq!([bytes(2, 1), bytes(1, 2), bytes(1, 1)], [0, 0, written]);
    }

    // Only what the log gave up behind it was looked at: one of a timeline that was rolled back passed for its own, and a history that was lost
    // was begun anew with it.
    #[test]
    fn a_log_goes_on_from_a_fallback_within_it_that_ends_with_its_own_frame() {
        let shown = |hash| Shown { revision: 800, hash };
        let goes_with = |shown: Shown, (oldest, last), hash: Option<ChainHash>| {
            shown.goes_with(&LogExtent { oldest, last, hash_at: &|revision| hash.filter(|_| revision == 800) })
        };
        let (own, other) = (Some(ChainHash([1; 32])), Some(ChainHash([2; 32])));
        for revisions in [(1, 800), (801, 800), (801, 1200), (1, 1200)] {
            // Where one of them does not know, as of a version that did not write it down, nothing is said against it.
            for (hash, found) in [(own, own), (None, own), (own, None), (own, Some(UNKNOWN))] {
                assert_eq!(goes_with(shown(hash), revisions, found), Ok(()), "{revisions:?}");
            }
            assert_eq!(goes_with(shown(own), revisions, other), Err(Misfit::OtherPast { shown: 800 }));
        }
        let before = Misfit::BeforeLog { shown: 800, oldest: 802 };
        assert_eq!(goes_with(shown(own), (802, 1200), None), Err(before));
        let ahead = Misfit::AheadOfLog { shown: 800, last: 799 };
        assert_eq!(goes_with(shown(own), (1, 799), own), Err(ahead));
    }

    // Nothing in it told of which past it was: states and deltas of two timelines became one cell.
    #[test]
    fn without_a_history_only_a_fallback_of_the_log_s_own_past_is_gone_on_from() {
        for (of_fallback, is_own) in [(1, true), (2, false)] {
            let temporary = tempfile::tempdir().unwrap();
            let dir = temporary.path();
            let mut cell = Cell::default();
            let begins = CellIdentity { incarnation: 1, ..cell.identity().clone() };
            let delta = Delta { cell: Some(begins), ..Delta::new(cell.revision().next(), cell.time()) };
            cell.apply(&delta).unwrap();
            let tail = Tail { revision: 1, term: 1, hash: ChainHash([1; 32]) };
            let log = RealDisk::open(dir.join(recovery::LOG)).unwrap();
            let small =
                plenum_journal::Options { segment_bytes: 64 << 10, frame_bytes_max: 8 << 10, ..Default::default() };
            plenum_journal::plant(&log, identity(1), tail, &small).unwrap();
            write(dir, &cell, 1, ChainHash([of_fallback; 32])).unwrap();

            let violations = crate::verify(dir).unwrap().violations;
            let is_told = violations.iter().any(|wrong| wrong.place == FALLBACK && wrong.what.contains("another past"));
            assert_eq!((violations.is_empty(), is_told), (is_own, !is_own), "{violations:?}");
            let followed = folder::follow(dir, true).err().map(|error| told(&error));
            let opened = recovery::open(&crate::ServerOptions::new(dir)).err().map(|error| told(&error));
            for refused in [followed, opened] {
                assert_eq!(refused.is_none(), is_own, "{refused:?}");
                assert!(refused.as_ref().is_none_or(|told| told.contains("another past")), "{refused:?}");
            }
        }
    }

    // It was the last copy of that cell's state.
    #[test]
    fn a_fallback_of_another_cell_incarnation_or_past_is_neither_replaced_nor_removed() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &Cell::default(), 1, ChainHash([1; 32])).unwrap();
        let before = fs::read(dir.path().join(FALLBACK)).unwrap();
        let other_frame = LogExtent { oldest: 1, last: 9, hash_at: &|_| Some(ChainHash([2; 32])) };
        let of_another_past = Fallback::find(dir.path(), identity(1), &other_frame);
        let of_another_cell = found(dir.path(), Identity { cell: CellId([7; 16]), incarnation: 1 }, (1, 9));
        let of_another_incarnation = found(dir.path(), identity(2), (1, 9));
        for mut fallback in [of_another_past, of_another_cell, of_another_incarnation] {
            assert_eq!(fallback.revision(), None);
            let renewed = fallback.renew(&Cell::default(), UNKNOWN, &mut || true);
            assert!(matches!(renewed, Err(BackupError::NotOfThisLog { .. })), "{renewed:?}");
            fallback.remove();
            assert_eq!(fs::read(dir.path().join(FALLBACK)).unwrap(), before);
        }
    }

    // For want of open files at the start it counted as none, and what led on from it was given up before another one was written.
    #[test]
    fn what_may_lead_on_from_a_fallback_that_can_not_be_looked_at_stays_until_one_is_written() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(FALLBACK, dir.path().join(FALLBACK)).unwrap();
        let mut unseen = found(dir.path(), identity(1), (5, 9));
        assert_eq!((unseen.revision(), unseen.is_given_up(), unseen.next_revision()), (None, false, 1));
        unseen.renew(&Cell::default(), UNKNOWN, &mut || true).unwrap();
        assert_eq!(unseen.revision(), Some(0));
        fs::write(dir.path().join(FALLBACK), "no backup").unwrap();
        assert!(found(dir.path(), identity(1), (5, 9)).is_given_up(), "one that was looked at is none");
    }

    // What root had copied here was written over, or removed where the disk was full, though nobody knew whose it was.
    #[test]
    fn a_fallback_that_could_not_be_looked_at_is_neither_removed_nor_written_over() {
        let [own, other] = [1, 2].map(|byte| ChainHash([byte; 32]));
        for (of, is_moved) in [
            (None, true),
            (Some((2, UNKNOWN)), true),
            // A past of this incarnation that the log has not.
            (Some((1, other)), true),
            (Some((1, own)), false),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let (path, aside) = (dir.path().join(FALLBACK), dir.path().join(UNSEEN));
            std::os::unix::fs::symlink(FALLBACK, &path).unwrap();
            let mut unseen = found(dir.path(), identity(1), (5, 9));
            // It can be looked at later.
            if let Some((incarnation, hash)) = of {
                fs::remove_file(&path).unwrap();
                write(dir.path(), &Cell::default(), incarnation, hash).unwrap();
            }
            unseen.remove();
            assert!(path.symlink_metadata().is_ok());
            unseen.look_again(&LogExtent { oldest: 5, last: 9, hash_at: &|_| Some(own) });
            unseen.renew(&Cell::default(), UNKNOWN, &mut || true).unwrap();
            assert_eq!((unseen.revision(), aside.symlink_metadata().is_ok()), (Some(0), is_moved));
            unseen.remove();
            assert!(path.symlink_metadata().is_err(), "its own goes");
            if is_moved {
                std::os::unix::fs::symlink(FALLBACK, &path).unwrap();
                let refused = found(dir.path(), identity(1), (5, 9)).renew(&Cell::default(), UNKNOWN, &mut || true);
                assert!(matches!(refused, Err(BackupError::Exists { .. })), "there is one aside: {refused:?}");
            }
        }
    }

    // A disk that is full, for example.
    #[test]
    fn a_fallback_that_can_not_be_written_leaves_the_one_of_before() {
        let dir = tempfile::tempdir().unwrap();
        let mut fallback = found(dir.path(), identity(1), (1, 0));
        fallback.renew(&Cell::default(), UNKNOWN, &mut || true).unwrap();
        fs::create_dir(dir.path().join(DRAFT)).unwrap();
        let refused = fallback.renew(&Cell::default(), UNKNOWN, &mut || true).unwrap_err();
        assert!(matches!(refused, BackupError::Io { .. }) && !refused.is_for_want_of_room(), "{refused}");
        assert!(read(dir.path(), identity(1)).unwrap().is_some());
    }

    // It was written into what is kept free for the log, until the disk was full: the cell turned read-only for a copy of itself.
    #[test]
    fn no_more_is_written_of_a_fallback_than_there_is_room() {
        let dir = tempfile::tempdir().unwrap();
        let mut fallback = found(dir.path(), identity(1), (1, 0));
        let cell = a_large_cell();
        let mut pieces = 0;
        let mut has_room = || {
            pieces += 1;
            pieces < 3
        };
        let refused = fallback.renew(&cell, UNKNOWN, &mut has_room).unwrap_err();
        assert!(refused.is_for_want_of_room() && told(&refused).contains("kept for the log"), "{refused}");
        assert_eq!((fallback.revision(), dir.path().join(DRAFT).exists()), (None, false));
        let tried = fallback.bytes();
        assert!((2 * SYNCED_BYTES as u64..4 * SYNCED_BYTES as u64).contains(&tried), "{tried} bytes");
        fallback.renew(&cell, UNKNOWN, &mut || true).unwrap();
        assert!(fallback.bytes() > tried);
    }

    /// One that takes some pieces to write.
    pub(crate) fn a_large_cell() -> Cell {
        let mut cell = Cell::default();
        let machine = |slot: u32| {
            let name = format!("{slot}-{}", "x".repeat(200)).into();
            Arc::new(Machine {
                id: MachineId { slot, generation: 1 },
                name,
                state: MachineState::Ready,
                cordoned: false,
                unfit: None,
                epoch: 1,
                capacity: Arc::default(),
                attributes: Arc::default(),
                devices: Arc::default(),
                boot_id: BootId::from("boot"),
                since: LogTime::from_micros(0),
                drain_deadline: None,
                registered: LogTime::from_micros(0),
                epoch_began: Revision(1),
            })
        };
        let machines = (0..10_000).map(machine).collect();
        let delta = Delta::new(cell.revision().next(), cell.time());
        cell.apply(&Delta { machines, ..delta }).unwrap();
        cell
    }
}

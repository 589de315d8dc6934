//! Reading the images of a checkpoint: of each page the newest one in its set.
use crate::checkpoint::{PageImage, TablePages, info};
use crate::error::{ReadError, StoreError};
use crate::history::History;
use crate::image_files::ImageFile;
use crate::keys::{self, ImageKey};
use crate::store::{SealedRow, Snapshot, damaged};

impl History {
    /// The pages of a checkpoint, ordered by table and number: of each its newest image at or before it. Holds one page
    /// at a time. To be used up soon: while it lives, retired images keep their room.
    ///
    /// # Errors
    ///
    /// [`ReadError::Retired`] or [`ReadError::NotThere`] if there is no checkpoint at exactly this revision,
    /// [`ReadError::Store`].
    pub fn pages_at(&self, checkpoint_revision: u64) -> Result<PagesAt, ReadError> {
        let snapshot = self.store()?.snapshot();
        let key = keys::checkpoint(checkpoint_revision);
        let found = snapshot.first_page(key.clone()..=key)?.map(info).transpose()?;
        // Before it is looked at what is retired: what was not by then can be read to its end.
        let file = found.as_ref().filter(|info| info.set.in_file).map(|info| snapshot.image_file(info.set.began));
        let (newest, oldest, floor) = {
            let view = self.view();
            (view.newest, view.oldest(), view.floor)
        };
        if checkpoint_revision < floor {
            return Err(ReadError::Retired { asked: checkpoint_revision, oldest });
        }
        let Some(info) = found else { return Err(ReadError::NotThere { asked: checkpoint_revision, newest }) };
        let mut live = info.live;
        live.sort_by_key(|table| table.table);
        Ok(PagesAt {
            images: Images {
                snapshot,
                set: info.set.began,
                file: file.transpose()?,
                revision: checkpoint_revision,
                scan: None,
            },
            live,
            table: 0,
            page: 0,
            failed: false,
        })
    }
}

/// The pages of a checkpoint. See [`History::pages_at`].
pub struct PagesAt {
    images: Images,
    live: Vec<TablePages>,
    /// Where it stands: position in `live`, and number of the next page.
    table: usize,
    page: u32,
    failed: bool,
}

/// Images that are passed over, before the next page's is looked up: a look-up takes as long as some five of them.
const PASSED_MAX: usize = 8;

/// Images of a set in the order of pages: of each its newest one up to a revision.
struct Images {
    snapshot: Snapshot,
    set: u64,
    /// What the set began with, where that is in a file.
    file: Option<ImageFile>,
    revision: u64,
    /// All images from some page on; none before the first one is asked for, and behind a page that has too many.
    scan: Option<Scan>,
}

type Scan = std::iter::Peekable<Box<dyn Iterator<Item = Result<SealedRow, StoreError>> + Send>>;

impl Images {
    /// The image of a page that comes after all that were asked for before.
    fn of(&mut self, table: u8, page: u32) -> Result<PageImage, StoreError> {
        let set = self.set;
        let key = |revision| ImageKey { set, table, page, revision }.encode();
        // The file has what the set began with.
        let first = key(if self.file.is_some() { set.saturating_add(1) } else { 0 });
        let last = key(self.revision);
        let found = match self.pass(&first, &last)? {
            Passed::All(newest) => newest.map(|row| row.open()).transpose()?,
            Passed::TooMany => {
                self.scan = None;
                // Of what the set began with the store has nothing, where a file has it.
                let keys = Some(first..=last.clone()).filter(|keys| keys.start() <= keys.end());
                let found = keys.map(|keys| self.snapshot.last_image(set, keys)).transpose()?;
                found.flatten().map(|row| row.value)
            }
        };
        let found = match (found, &mut self.file) {
            (None, Some(file)) => file.image(table, page)?,
            (found, _) => found,
        };
        match found {
            Some(bytes) => Ok(PageImage { table, number: page, bytes }),
            None => Err(damaged(ImageKey::shelf(set), &last, "it has no image up to that revision")),
        }
    }

    /// Passes all images up to `last`, and gives the newest one from `first` on.
    fn pass(&mut self, first: &[u8], last: &[u8]) -> Result<Passed, StoreError> {
        let scan = self.scan.get_or_insert_with(|| {
            let keys = first.to_vec()..=ImageKey::last_of(self.set).encode();
            let rows: Box<dyn Iterator<Item = _> + Send> = Box::new(self.snapshot.images(self.set, keys));
            rows.peekable()
        });
        let is_next = |row: &Result<SealedRow, StoreError>| row.as_ref().map_or(true, |row| *row.key <= *last);
        let mut newest = None;
        for _ in 0..=PASSED_MAX {
            match scan.next_if(is_next).transpose()? {
                Some(row) => newest = Some(row).filter(|row| *row.key >= *first),
                None => return Ok(Passed::All(newest)),
            }
        }
        Ok(Passed::TooMany)
    }
}

/// What was found on the way.
enum Passed {
    All(Option<SealedRow>),
    /// There are more of them than it is worth to pass.
    TooMany,
}

impl Iterator for PagesAt {
    type Item = Result<PageImage, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        while let Some(table) = self.live.get(self.table).filter(|_| !self.failed) {
            if self.page >= table.pages {
                self.table += 1;
                self.page = 0;
                continue;
            }
            let image = self.images.of(table.table, self.page);
            self.page += 1;
            self.failed = image.is_err();
            return Some(image.map_err(ReadError::from));
        }
        None
    }
}

//! A snapshot in bounded parts: each page is encoded when its part is sent, and not before.

use plenum_model::{Cell, Revision};
use plenum_proto::pages::{self, Table};
use plenum_proto::sections::Sections;
use plenum_proto::v1;

/// Where the sending of a snapshot stands.
pub(super) struct PageWalk {
    cell: Cell,
    sections: Sections,
    left: Box<dyn Iterator<Item = (Table, u32)> + Send + Sync>,
    next: Option<(Table, u32)>,
}

impl PageWalk {
    pub(super) fn new(cell: Cell, sections: Sections) -> Self {
        let mut left = Box::new(pages::every(&cell).filter(move |(table, _)| sections.has_table(*table)));
        let next = left.next();
        Self { cell, sections, left, next }
    }

    /// The revision that it shows.
    pub(super) fn revision(&self) -> Revision {
        self.cell.revision()
    }

    /// The next part: whole pages, until it is full. At least one.
    pub(super) fn part(&mut self, message_bytes: usize) -> v1::SnapshotPart {
        let mut part = v1::SnapshotPart { revision: self.cell.revision().0, ..v1::SnapshotPart::default() };
        let mut bytes = 0;
        while let Some((table, number)) = self.next.filter(|_| bytes < message_bytes) {
            let page = pages::encode_page_for(&self.cell, table, number, self.sections);
            bytes += page.len();
            part.pages.push(page);
            self.next = self.left.next();
        }
        part.last = self.next.is_none();
        part
    }
}

impl std::fmt::Debug for PageWalk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PageWalk(revision {}, next {:?})", self.cell.revision(), self.next)
    }
}

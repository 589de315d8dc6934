//! A snapshot in bounded parts: each page is encoded when its part is sent, and not before.

use std::sync::Arc;

use plenum_proto::pages::{self, Table};
use plenum_proto::sections::Sections;
use plenum_proto::v1;

use super::lent::Lent;

/// Where the sending of a snapshot stands.
pub(super) struct PageWalk {
    lent: Arc<Lent>,
    sections: Sections,
    left: Box<dyn Iterator<Item = (Table, u32)> + Send + Sync>,
    next: Option<(Table, u32)>,
}

impl PageWalk {
    /// `None` for a picture that was taken back.
    pub(super) fn new(lent: Arc<Lent>, sections: Sections, now_micros: i64) -> Option<Self> {
        let pages =
            lent.with(now_micros, |cell| pages::every(cell).filter(move |(table, _)| sections.has_table(*table)))?;
        let mut left = Box::new(pages);
        let next = left.next();
        Some(Self { lent, sections, left, next })
    }

    /// The next part: whole pages, until it is full. At least one. `None` once the picture was taken back.
    pub(super) fn part(&mut self, message_bytes: usize, now_micros: i64) -> Option<v1::SnapshotPart> {
        let Self { lent, sections, left, next } = self;
        lent.with(now_micros, |cell| {
            let mut part = v1::SnapshotPart { revision: cell.revision().0, ..v1::SnapshotPart::default() };
            let mut bytes = 0;
            while let Some((table, number)) = next.filter(|_| bytes < message_bytes) {
                let page = pages::encode_page_for(cell, table, number, *sections);
                bytes += page.len();
                part.pages.push(page);
                *next = left.next();
            }
            part.last = next.is_none();
            part
        })
    }
}

impl std::fmt::Debug for PageWalk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PageWalk(revision {}, next {:?})", self.lent.revision(), self.next)
    }
}

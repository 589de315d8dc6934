//! What was ever seen of a cell: by it another cell is told, and a copy of this one that is older than what was seen.

use plenum_model::Revision;
use plenum_proto::v1;

/// What a server of another cell says.
pub(crate) const OTHER_CELL: &str = "OTHER_CELL";

/// The most that was ever seen of the cell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) cell_id: Vec<u8>,
    pub(crate) incarnation: u64,
    /// Of the server that was heard last: each start of one has its own within an incarnation.
    pub(crate) term: u64,
    pub(crate) revision: u64,
}

impl Seen {
    /// What a server says that it has.
    pub(crate) fn offered(welcome: &v1::Welcome) -> Self {
        let v1::Welcome { incarnation, term, revision, .. } = *welcome;
        Self { cell_id: welcome.cell_id.to_vec(), incarnation, term, revision }
    }

    /// What no later state of the cell is below.
    pub(crate) const fn standing(&self) -> (u64, u64) {
        (self.incarnation, self.revision)
    }

    pub(crate) fn see(&mut self, revision: u64) {
        self.revision = self.revision.max(revision);
    }

    /// A greeting that says so, of who has a mirror of this revision; 0 of who has none.
    pub(crate) fn hello(&self, mirror: Revision) -> v1::Hello {
        v1::Hello {
            incarnation: if mirror.0 == 0 { 0 } else { self.incarnation },
            revision: mirror.0,
            cell_id: self.cell_id.clone().into(),
            seen_incarnation: self.incarnation,
            seen_revision: self.revision,
            seen_term: self.term,
            ..v1::Hello::default()
        }
    }

    /// Whether more was seen of the cell than this server of it has, to who has a mirror of this revision. Where a stream goes on after the mirror's own
    /// revision, the server need not say how far it is itself.
    pub(crate) fn is_beyond(&self, welcome: &v1::Welcome, mirror: Revision) -> bool {
        let goes_on = !welcome.snapshot && mirror.0 == welcome.revision;
        let offers_less = welcome.incarnation < self.incarnation || !goes_on;
        offers_less && (welcome.incarnation, welcome.revision) < self.standing()
    }
}

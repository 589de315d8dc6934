//! What stands in for an identity that is lost, where a directory is only looked at. A start never goes on with it.
//!
//! All that the identity says is in the header of each segment as well: without that one sector nothing of a log is missing.

use super::{Marked, OpenError, admit, identity_damaged, marked};
use crate::disk::{Disk, DiskError};
use crate::flaw::Flaw;
use crate::forgiving::is_lost;
use crate::format::CellId;
use crate::identity::Identity;
use crate::kept;
use crate::segment;

/// What there is to know first of a directory that is only looked at.
pub(crate) struct Look {
    pub(crate) identity: Identity,
    pub(crate) marked: Marked,
    /// Why a start is refused, where the identity is lost and this is what the segments say: [`OpenError::IdentityDamaged`].
    pub(crate) lost: Option<OpenError>,
}

/// Whose directory it is, without opening it; where its identity is lost, as its segments say.
///
/// # Errors
/// When it is no cell, or neither can be read.
pub fn identity(disk: &dyn Disk) -> Result<Identity, OpenError> {
    look(disk, None).map(|look| look.identity)
}

/// Reads identity and mark as far as there are any.
///
/// # Errors
/// As for a start, but for an identity that is lost where the segments agree in one.
pub(crate) fn look(disk: &dyn Disk, expect: Option<CellId>) -> Result<Look, OpenError> {
    let error = match admit(disk, expect) {
        Ok((identity, marked)) => return Ok(Look { identity, marked, lost: None }),
        Err(error) => error,
    };
    let flaw = match &error {
        OpenError::IdentityDamaged { damage, .. } => damage.flaw.clone(),
        OpenError::Orphaned { .. } => Flaw::Missing,
        OpenError::Disk(failed) if is_lost(failed) => Flaw::Unreadable { error: failed.source.to_string() },
        _ => return Err(error),
    };
    let Some(identity) = in_segments(disk)? else { return Err(error) };
    let marked = marked(disk, &disk.list()?, identity, expect)?;
    Ok(Look { identity, marked, lost: Some(identity_damaged(disk, flaw)) })
}

/// The identity in the headers of the log's segments, as many as hold; none where these are not of one cell. No header is of a later incarnation
/// than the identity was, and the newest one of none before it: each log begins in its own.
fn in_segments(disk: &dyn Disk) -> Result<Option<Identity>, DiskError> {
    let mut told: Option<Identity> = None;
    for number in disk.list()?.iter().filter_map(|name| segment::number_in(name)) {
        let header = match kept::read_header(disk, &segment::name(number)) {
            Err(error) if is_lost(&error) => None,
            read => read?.1,
        };
        let Some(header) = header.filter(|header| header.number == number) else { continue };
        let other = told.unwrap_or(Identity { cell: header.cell, incarnation: 0 });
        if other.cell != header.cell {
            return Ok(None);
        }
        told = Some(Identity { incarnation: other.incarnation.max(header.incarnation), ..other });
    }
    Ok(told)
}

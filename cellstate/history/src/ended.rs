//! Allocations that ended, and so left the cell.
use crate::error::{ReadError, StoreError};
use crate::history::History;
use crate::keys::{self, Shelf};
use crate::records::{EndedPlaceRecord, EndedRecord};
use crate::sessions::Lookup;
use crate::store::{Row, damaged, decode};
use bytes::Bytes;
use plenum_proto::v1;
use prost::Message;

/// Most rows of up to 64 allocations that one listing reads.
const ROWS_MAX: usize = 10_000;

/// Some ended allocations, the newest ends first.
#[derive(Clone, Debug, PartialEq)]
pub struct EndedPage {
    /// Their final rows.
    pub allocations: Vec<v1::AllocationView>,
    /// There are more, or so many were looked at (640,000 at most) that the rest was left.
    pub truncated: bool,
}

impl History {
    /// The final row of an allocation that ended.
    ///
    /// [`Lookup::NeverWas`] is given only while nothing at all has been retired. Otherwise an id that is not here *may*
    /// have been, which its generation tells against that of its slot in the cell.
    ///
    /// # Errors
    ///
    /// [`ReadError::Store`].
    pub fn ended(&self, allocation: u64) -> Result<Lookup<v1::AllocationView>, ReadError> {
        let (oldest, newest, is_whole) = self.extent();
        let missing = if is_whole { Lookup::NeverWas } else { Lookup::Retired { oldest } };
        let place: Option<EndedPlaceRecord> = self.store().message(Shelf::Index, &keys::ended(allocation))?;
        let Some(place) = place.filter(|place| (oldest..=newest).contains(&place.revision)) else { return Ok(missing) };
        let key = keys::ended_at(place.revision, place.chunk);
        let Some(value) = self.store().get(Shelf::Index, &key)? else { return Ok(missing) };
        let (ids, views) = chunk(Row { key: key.clone(), value })?;
        match ids.iter().position(|id| *id == allocation) {
            Some(position) => Ok(Lookup::Found(view(&key, views[position].clone())?)),
            None => Err(damaged(Shelf::Index, &key, "it lacks an allocation that should be there").into()),
        }
    }

    /// The allocations that ended last and pass `filter`, at most `limit`.
    ///
    /// # Errors
    ///
    /// [`ReadError::Store`].
    pub fn ended_recent(
        &self,
        limit: usize,
        mut filter: impl FnMut(&v1::AllocationView) -> bool,
    ) -> Result<EndedPage, ReadError> {
        let (oldest, newest, _) = self.extent();
        let mut page = EndedPage { allocations: Vec::new(), truncated: false };
        if newest == 0 || oldest > newest {
            return Ok(page);
        }
        let rows = self.store().rows(Shelf::Index, keys::ended_at(oldest, 0)..=keys::ended_at(newest, u64::MAX));
        for (count, row) in rows.rev().enumerate() {
            if count == ROWS_MAX {
                page.truncated = true;
                return Ok(page);
            }
            let row = row?;
            let key = row.key.clone();
            let (_, views) = chunk(row)?;
            for bytes in views.into_iter().rev() {
                let view = view(&key, bytes)?;
                if !filter(&view) {
                    continue;
                }
                if page.allocations.len() >= limit {
                    page.truncated = true;
                    return Ok(page);
                }
                page.allocations.push(view);
            }
        }
        Ok(page)
    }
}

/// Ids and views of a row, equally many.
pub(crate) fn chunk(row: Row) -> Result<(Vec<u64>, Vec<Bytes>), StoreError> {
    let record: EndedRecord = decode(Shelf::Index, &row.key, row.value)?;
    if record.ids.len() != record.views.len() {
        return Err(damaged(Shelf::Index, &row.key, "its columns don't match"));
    }
    Ok((record.ids, record.views))
}

fn view(key: &[u8], bytes: Bytes) -> Result<v1::AllocationView, StoreError> {
    v1::AllocationView::decode(bytes)
        .map_err(|error| damaged(Shelf::Index, key, &format!("an allocation of it can't be decoded: {error}")))
}

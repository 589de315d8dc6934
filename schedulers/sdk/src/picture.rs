//! A mirror without a session: built from a snapshot and folded forward, for who only looks. No I/O, no clock: it is given the time.

mod beats;

use plenum_model::{Cell, Revision};
use plenum_proto::v1::{self, session_response::Tell};

use self::beats::{Beats, LATE_MICROS_MAX};
use crate::seen::Seen;
use crate::wire::{Filling, decode_delta};

/// The picture, over as many streams as it takes. Times are in microseconds, of a clock that never goes back and goes on while the machine sleeps.
#[derive(Debug, Default)]
pub(crate) struct Picture {
    /// Stays, while another one comes in, until that is whole.
    cell: Option<Cell>,
    seen: Seen,
    filling: Option<Filling>,
    /// The newest revision of the cell, as this stream's last heartbeat told it.
    newest: Option<Revision>,
    /// How old that is.
    beats: Beats,
    /// Something is in the picture that was not looked at.
    is_new: bool,
}

/// Why a stream is of no use.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Useless {
    /// What came can't be followed: another snapshot is fetched.
    Unread(String),
    /// It is of another cell, of this id.
    OtherCell(Vec<u8>),
    /// The server has not all that was seen.
    Older,
    /// What it tells has been old for too long: another one tells what is so now.
    Late,
}

impl Picture {
    /// The picture, be it old.
    pub(crate) const fn cell(&self) -> Option<&Cell> {
        self.cell.as_ref()
    }

    /// The picture, where it has come to what the cell said last that it has, and that is not long ago.
    pub(crate) fn current(&self, now_micros: i64) -> Option<&Cell> {
        let newest = self.newest.filter(|_| self.filling.is_none() && self.beats.are_fresh(now_micros))?;
        self.cell.as_ref().filter(|cell| cell.revision() >= newest)
    }

    /// Whether it is current, and has something new.
    pub(crate) fn is_news(&self, now_micros: i64) -> bool {
        self.is_new && self.current(now_micros).is_some()
    }

    /// Somebody has seen all that is new.
    pub(crate) const fn looked(&mut self) {
        self.is_new = false;
    }

    /// Has it looked at again once it is current, whatever has changed.
    pub(crate) const fn look_again(&mut self) {
        self.is_new = true;
    }

    /// What was seen.
    pub(crate) const fn seen(&self) -> &Seen {
        &self.seen
    }

    /// The greeting of the next stream, which is asked for now.
    pub(crate) fn hello(&mut self, now_micros: i64) -> v1::Hello {
        self.beats.asked(now_micros);
        // One of an earlier incarnation can't go on, and a server that did not compare would have it do so.
        let own = self.cell.as_ref().filter(|cell| cell.identity().incarnation == self.seen.incarnation);
        self.seen.hello(own.map_or_else(Revision::default, Cell::revision))
    }

    /// The stream is gone, and what was still to come over it.
    pub(crate) fn lost(&mut self) {
        (self.filling, self.newest) = (None, None);
        self.beats.lost();
    }

    /// Takes what comes down a stream.
    pub(crate) fn take(&mut self, message: v1::SessionResponse, now_micros: i64) -> Result<(), Useless> {
        match message.tell {
            Some(Tell::Welcome(welcome)) => self.welcome(&welcome)?,
            Some(Tell::Snapshot(part)) => {
                let filling =
                    self.filling.as_mut().ok_or_else(|| unread("a page of a snapshot that was not announced"))?;
                if let Some(cell) = filling.add(part).map_err(Useless::Unread)? {
                    self.filling = None;
                    self.show(cell);
                }
            }
            Some(Tell::Deltas(deltas)) => deltas.deltas.into_iter().try_for_each(|delta| self.fold(delta))?,
            Some(Tell::Heartbeat(beat)) => {
                self.seen.see(beat.revision);
                self.newest = Some(Revision(beat.revision));
                self.beats.heard(beat.now_micros, now_micros);
                if self.beats.late_micros(now_micros) > LATE_MICROS_MAX {
                    return Err(Useless::Late);
                }
            }
            // A watch asks for nothing; or a message of a kind that a later version may have.
            Some(Tell::Outcome(_) | Tell::Error(_)) | None => {}
        }
        Ok(())
    }

    fn welcome(&mut self, welcome: &v1::Welcome) -> Result<(), Useless> {
        let (offered, mirror) =
            (Seen::offered(welcome), self.cell.as_ref().map_or_else(Revision::default, Cell::revision));
        if !self.seen.cell_id.is_empty() && self.seen.cell_id != offered.cell_id {
            return Err(Useless::OtherCell(offered.cell_id));
        }
        if self.seen.is_beyond(welcome, mirror) {
            return Err(Useless::Older);
        }
        let same_life = offered.incarnation == self.seen.incarnation;
        if !same_life || offered.term != self.seen.term {
            self.beats.other_clock();
        }
        if same_life {
            self.seen.term = offered.term;
            self.seen.see(offered.revision);
        } else {
            self.seen = offered;
        }
        // It may be another one, of who fell behind: what this stream said before is before that.
        self.newest = None;
        self.beats.lost();
        self.filling = welcome.snapshot.then(Filling::new);
        if welcome.snapshot {
            return Ok(());
        }
        if welcome.revision == 0 {
            // Before its first revision a cell is empty, and needs no pages to say so.
            self.show(Cell::default());
        } else if mirror.0 != welcome.revision || !same_life {
            return Err(Useless::Unread(format!(
                "at revision {mirror}, and offered to go on after {}",
                welcome.revision
            )));
        }
        Ok(())
    }

    fn show(&mut self, cell: Cell) {
        self.seen.see(cell.revision().0);
        self.cell = Some(cell);
        self.is_new = true;
    }

    fn fold(&mut self, bytes: bytes::Bytes) -> Result<(), Useless> {
        let cell = self.cell.as_mut().filter(|_| self.filling.is_none());
        let cell = cell.ok_or_else(|| unread("a delta before the mirror was complete"))?;
        let delta = decode_delta(bytes).map_err(Useless::Unread)?;
        if let Err(error) = cell.apply(&delta) {
            // Half a delta is no picture.
            self.cell = None;
            return Err(Useless::Unread(format!("a delta that does not fit: {error}")));
        }
        self.seen.see(delta.revision.0);
        self.is_new = true;
        Ok(())
    }

    /// Has the next stream begin with a snapshot.
    pub(crate) fn forget(&mut self) {
        self.cell = None;
    }
}

fn unread(why: &str) -> Useless {
    Useless::Unread(why.to_owned())
}

#[cfg(test)]
mod tests;

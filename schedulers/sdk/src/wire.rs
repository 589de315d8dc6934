//! What comes in as bytes, and errors in one line.
//!
//! A server may lie: what is in a page or a delta is counted before it is decoded, as two bytes of it may stand for hundreds in memory.

use std::error::Error;

use bytes::Bytes;
use plenum_model::{Cell, Delta};
use plenum_proto::pages::{Decoder, PageError};
use plenum_proto::sections::Sections;
use plenum_proto::{ReadError, census, delta, v1};

/// Takes a delta, or says what is wrong with it.
pub(crate) fn decode_delta(bytes: Bytes) -> Result<Delta, String> {
    read_delta(bytes).map_err(|error| format!("a delta that cannot be read: {}", chain(&error)))
}

fn read_delta(bytes: Bytes) -> Result<Delta, ReadError> {
    census::DELTA.check(&bytes).map_err(|source| ReadError::Content { what: "Delta", source })?;
    delta::decode(bytes)
}

/// The pages of a mirror, as they come in one after the other.
#[derive(Debug)]
pub(crate) struct Filling(Box<Decoder>);

impl Filling {
    pub(crate) fn new() -> Self {
        Self(Box::new(Decoder::new(Sections::MIRROR)))
    }

    /// Takes a part of a snapshot. Gives the mirror with the last one; and nothing comes of one about which this says what is wrong.
    pub(crate) fn add(&mut self, part: v1::SnapshotPart) -> Result<Option<Cell>, String> {
        for page in part.pages {
            self.add_page(page).map_err(|error| format!("a page that cannot be read: {}", chain(&error)))?;
        }
        if self.0.waiting() > 0 {
            // Where it is never told how many pages there are, there could be any number.
            return Err("a snapshot that does not begin with its first page".into());
        }
        if !part.last {
            return Ok(None);
        }
        let Self(pages) = std::mem::replace(self, Self::new());
        pages.finish().map(Some).map_err(|error| format!("a snapshot that is none: {}", chain(&error)))
    }

    fn add_page(&mut self, page: Bytes) -> Result<(), PageError> {
        census::PAGE.check(&page).map_err(|source| ReadError::Content { what: "Page", source })?;
        self.0.add(page)
    }
}

/// An error with its causes, for one line.
fn chain(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Gigabytes were decoded of a page of two bytes a machine, only to find out that the first of them is none.
    #[test]
    fn more_rows_than_there_can_be_are_not_decoded() {
        // Field 4 of a page, with 600,000 machines, its field 1, that say nothing.
        let page = [&[0x22, 0x80, 0x9f, 0x49][..], &[0x0a, 0].repeat(600_000)].concat();
        let told = chain(&Filling::new().add_page(page.into()).unwrap_err());
        assert!(told.contains("expected at most 524288 rows, found 600000"), "{told}");
        // As many of them in field 6 of a delta.
        let told = decode_delta([0x32, 0].repeat(600_000).into()).unwrap_err();
        assert!(told.contains("expected at most 524288 rows, found 600000"), "{told}");
    }
}

//! What comes in as bytes, and errors in one line.

use std::error::Error;

use bytes::Bytes;
use plenum_model::Delta;
use plenum_proto::pages::Decoder;
use plenum_proto::sections::Sections;
use plenum_proto::{ReadError, delta};

pub(crate) fn decode_delta(bytes: Bytes) -> Result<Delta, ReadError> {
    delta::decode(bytes)
}

/// Takes the pages of a mirror, one after the other.
pub(crate) fn mirror_decoder() -> Box<Decoder> {
    Box::new(Decoder::new(Sections::MIRROR))
}

/// An error with its causes, for one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

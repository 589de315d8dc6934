//! Reads what the edge reads by itself, whatever it holds: the way in for the fuzzer, which has no server.

use bytes::Bytes;
use plenum_proto::{sections::Sections, transaction, v1};
use prost::Message;

use super::cell::session::{Ask, Request};
use super::edge::arriving::Messages;
use super::listing::Filter;

/// Reads a message of a session's stream as far as that needs no cell; whether it is one that could have been asked.
///
/// # Panics
/// When generated code reads what this refuses.
#[must_use]
pub fn session_request(message: &Bytes) -> bool {
    let generated = v1::SessionRequest::decode(message.clone());
    let Ok(read) = Request::decode(message.clone()) else {
        assert!(generated.is_err(), "a request of the protocol is refused: {generated:?}");
        return false;
    };
    match read.ask {
        None => false,
        Some(Ask::Hello(hello)) => Sections::from_wire(&hello.sections).is_ok(),
        Some(Ask::Commit(encoded)) => transaction::commit(encoded).is_ok(),
        Some(Ask::PassedOver(notes)) => !notes.encode_to_vec().is_empty(),
        Some(Ask::Pulse(pulse)) => pulse.busy_micros <= pulse.over_micros,
    }
}

/// Finds where the messages of a request end whose bytes arrive in pieces: how many bytes the last whole one has, and how many are there of the one
/// behind it, both with their heads.
#[must_use]
pub fn messages<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (usize, usize) {
    let mut messages = Messages::default();
    for piece in pieces {
        messages.walk(piece);
    }
    (messages.last, messages.arrived)
}

/// Reads the filter of a listing with the fields of some listing; whether it is one.
///
/// # Panics
/// When it asks a row for a field that there is not.
#[must_use]
pub fn filter(text: &str) -> bool {
    const KNOWN: &[&str] = &["name", "state", "job", "attr."];
    let Ok(filter) = Filter::parse(text, KNOWN) else { return false };
    for value in [None, Some(String::new()), Some("ready".to_owned())] {
        filter.passes(|field| {
            let is_known = KNOWN.contains(&field) || field.starts_with("attr.");
            assert!(is_known, "a row was asked for {field:?}");
            value.clone()
        });
    }
    true
}

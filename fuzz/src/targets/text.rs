//! What people write.

use std::time::Duration;

use plenum_model::{AllocationId, TransactionId};
use plenum_proto::{bounds::DEVICES_MAX, v1::At};
use plenum_server::authorise::Principal;

use crate::at::{parse_after, parse_at, parse_before, parse_instant, parse_since, up_to};
use crate::config::{self, AgentFile, ServerFile};
use crate::job_file::{JobFile, duration_micros, name_fault};
use crate::preferences::Preferences;

/// Both formats, whatever the text looks like.
pub(super) fn job_file(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    let mut read = false;
    for name in ["job.toml", "job.json"] {
        match JobFile::parse(name, text) {
            // What a file gives, the cell's edge takes or refuses; whoever reads it first must not be surprised by it.
            Ok(file) => {
                read = true;
                drop(plenum_proto::jobs::submit(file.spec));
            }
            Err(error) => assert!(!error.to_string().is_empty(), "an error says nothing"),
        }
    }
    read
}

pub(super) fn moment(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    let at = parse_at(text);
    if let Ok(at) = &at {
        assert!(at.revision == 0 || at.time_micros == 0, "{at:?} is two moments");
    }
    let instant = parse_instant(text);
    assert!(instant.as_ref().is_ok_and(|micros| *micros >= 0) || instant.is_err(), "{instant:?} is before 1970");
    assert!(at.is_err() || parse_after(text).is_ok(), "{text} is a moment, and nothing comes after it");
    if let Ok(before) = parse_before(text) {
        let until = up_to(None, Some(before));
        let is_just_below = |until: At| match before {
            At { revision: 0, time_micros } => until.revision == 0 && until.time_micros + 1 == time_micros,
            At { revision, .. } => until.revision + 1 == revision && until.time_micros == 0,
        };
        assert!(until.is_some_and(is_just_below), "below {before:?} is {until:?}");
    }
    at.is_ok() | duration_micros(text).is_ok() | instant.is_ok() | parse_since(text).is_ok()
}

pub(super) fn ids(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    let (allocation, transaction) = (AllocationId::parse(text), TransactionId::parse(text));
    if let Some(id) = allocation {
        assert_eq!(AllocationId::parse(&id.to_string()), Some(id));
    }
    if let Some(id) = transaction {
        assert_eq!(TransactionId::parse(&id.to_string()), Some(id));
    }
    let is_name = name_fault(text).is_none();
    assert_eq!(is_name, plenum_model::is_name(text, false));
    let principal = Principal::parse(text);
    if let Ok(principal) = &principal {
        assert_eq!(Principal::parse(principal.text()).as_ref(), Ok(principal));
    }
    allocation.is_some() || transaction.is_some() || is_name || principal.is_ok()
}

pub(super) fn filter(input: &[u8]) -> bool {
    std::str::from_utf8(input).is_ok_and(plenum_server::probe::filter)
}

/// A file may be of a server or of an agent; both are read with the bounds that flags have.
pub(super) fn configuration(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    let server = config::parse::<ServerFile>("server.toml", text);
    if let Ok(file) = &server {
        let times = [file.lease, file.session_linger, file.retain, file.unknown_after];
        let is_time = |time: &Duration| i64::try_from(time.as_micros()).is_ok();
        assert!(times.iter().flatten().all(is_time), "a time that no clock has: {times:?}");
    }
    let agent = config::parse::<AgentFile>("agent.toml", text);
    if let Ok(file) = &agent {
        assert!(file.each_device().len() <= DEVICES_MAX, "more devices than a machine has");
    }
    server.is_ok() || agent.is_ok()
}

/// What was read and is written again is read as the same.
pub(super) fn preferences(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    let read = match Preferences::parse("config.toml", text) {
        Ok(read) => read,
        Err(error) => {
            assert!(!error.to_string().is_empty(), "an error says nothing");
            return false;
        }
    };
    let line = |name: &str, value: &Option<String>| match value {
        Some(value) => format!("{name} = {}\n", quoted(value)),
        None => String::new(),
    };
    let text = line("addr", &read.addr) + &line("namespace", &read.namespace);
    let again = Preferences::parse("config.toml", &text).expect("it was written from what had been read");
    assert_eq!((again.addr, again.namespace), (read.addr, read.namespace));
    true
}

/// As a string of TOML: one of JSON, but for one character that is written out here.
fn quoted(value: &str) -> String {
    serde_json::Value::from(value).to_string().replace('\u{7f}', "\\u007f")
}

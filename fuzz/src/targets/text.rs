//! What people write.

use plenum_model::{AllocationId, TransactionId};

use crate::at::parse_at;
use crate::job_file::{JobFile, duration_micros, name_fault};

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
    at.is_ok() | duration_micros(text).is_ok()
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
    allocation.is_some() || transaction.is_some() || is_name
}

//! Reads a record of an agent's directory, or what a server answers, whatever it holds: the way in for the fuzzer, which has neither.

use plenum_proto::v1;
use serde::{Serialize, de::DeserializeOwned};

use crate::reconciler::Registration;
use crate::{
    driver::Exit, durable, isolation::Isolation, process::ProcessIdentity, service, service::Remembered, shim::ShimSpec,
};

/// Reads a file as each kind of record there is, and gives how many kinds it could be.
///
/// # Panics
/// When a record is another one after it was written and read again.
#[must_use]
pub fn record(text: &[u8]) -> usize {
    let kinds = [
        is::<ShimSpec>(text),
        is::<ProcessIdentity>(text),
        is::<Exit>(text),
        is::<Remembered>(text),
        is::<Isolation>(text),
        is::<String>(text),
    ];
    kinds.into_iter().filter(|is| *is).count()
}

fn is<T: Serialize + DeserializeOwned>(text: &[u8]) -> bool {
    let Ok(record) = durable::parse::<T>(text) else { return false };
    let written = serde_json::to_vec(&record).expect("a record that was read can be written");
    let again: T = durable::parse(&written).expect("what was written is read");
    let again = serde_json::to_vec(&again).expect("a record that was read can be written");
    assert!(again == written, "a record is another one when it is read again: {}", String::from_utf8_lossy(&written));
    true
}

/// Reads the answer to a registration; `None` where it says something that can't be.
#[must_use]
pub fn registration(answer: &v1::RegisterResponse) -> Option<Registration> {
    service::answered(answer)
}

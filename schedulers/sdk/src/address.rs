//! Where a cell is, and who asks it: judged before anything is tried.

use std::fmt;
use std::time::Duration;

use plenum_proto::address;
use plenum_proto::bounds::CONNECTION_WINDOW_BYTES;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Endpoint;

use crate::settings::SettingsError;

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a server may take from then on to answer the call, which it does before it reads the greeting. One that shows that it is there is then waited for
/// without end: its disk may hang.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a cell reads whether it is the one that is meant; and where it says, with `OTHER_CELL`, which one it is.
pub(crate) const CELL_KEY: &str = "plenum-cell";

/// How often a silent connection is tried, and how long the other side may take to show that it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Why a scheduler, or a client, could not begin. A `main` that returns it shows people what its `Debug` says: the same as `Display`.
#[derive(thiserror::Error)]
pub enum RunError {
    /// A setting is out of its bounds.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// No such address can be.
    #[error("address: expected one like http://127.0.0.1:7070, found {address:?}")]
    Address {
        /// What was there.
        address: String,
        /// What is wrong with it.
        source: tonic::transport::Error,
    },
    /// An address at which no cell can ever be.
    #[error("address: expected one like http://127.0.0.1:7070, found {address:?}: {why}")]
    NoCell {
        /// What was there.
        address: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Metadata takes visible ASCII only.
    #[error("principal: expected visible ASCII characters, found {found:?}")]
    Principal {
        /// What was there.
        found: String,
    },
}

impl fmt::Debug for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An address that a connection can be tried at.
pub(crate) fn endpoint(address: &str) -> Result<Endpoint, RunError> {
    let told = || address::told(address).into_owned();
    let endpoint =
        Endpoint::from_shared(address.to_owned()).map_err(|source| RunError::Address { address: told(), source })?;
    match address::fault(endpoint.uri()) {
        Some(why) => Err(RunError::NoCell { address: told(), why }),
        None => Ok(endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .tcp_nodelay(true)),
    }
}

pub(crate) fn principal(text: &str) -> Result<Option<MetadataValue<Ascii>>, RunError> {
    if text.is_empty() {
        return Ok(None);
    }
    // What the metadata would take beyond that, the cell could not read.
    let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
    let value = text.parse().ok().filter(|_| visible);
    value.map(Some).ok_or_else(|| RunError::Principal { found: text.chars().take(80).collect() })
}

/// A request that says who asks.
pub(crate) fn with_principal<T>(mut request: Request<T>, principal: Option<&MetadataValue<Ascii>>) -> Request<T> {
    if let Some(principal) = principal {
        request.metadata_mut().insert("plenum-principal", principal.clone());
    }
    request
}

/// A cell's id as metadata; `None` of none, by which any cell is meant.
pub(crate) fn cell(id: &[u8]) -> Option<MetadataValue<Ascii>> {
    hexadecimal(id).parse().ok().filter(|_| !id.is_empty())
}

pub(crate) fn hexadecimal(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    // They were tried for ever, some at port 80.
    #[test]
    fn an_address_at_which_no_cell_can_be_is_told_before_the_scheduler_begins() {
        for good in ["http://127.0.0.1:7070", "http://cell:80", "http://[::1]:7070/"] {
            assert!(endpoint(good).is_ok(), "{good}");
        }
        for (address, why) in [
            ("127.0.0.1:7070", "no scheme"),
            ("https://cell:7070", "scheme is not http"),
            ("http://127.0.0.1:70700", "port is not"),
            ("http://cell:", "port is not"),
            ("http://cell", "names no port"),
            ("a cell", "found \"a cell\""),
        ] {
            let error = endpoint(address).unwrap_err();
            assert_eq!(format!("{error:?}"), error.to_string(), "a `main` that returns it shows people its `Debug`");
            let error = error.to_string();
            assert!(error.contains(why) && error.contains("expected one like http://"), "{error}");
        }
    }
}

//! A request as it is decided: validated, and with the bytes that go into the log.

use std::sync::Arc;

use bytes::Bytes;
use plenum_model::{Command, Request};
use plenum_proto::Invalid;

/// The principal of what the server does by itself.
pub const SERVER: &str = "server";

/// A validated request, with its encoded form for the log, which is made on another thread.
#[derive(Clone, Debug)]
pub struct Asked {
    request: Request,
    pub(super) encoded: Bytes,
}

impl Asked {
    /// Encodes a request. Not for the resolver's thread.
    #[must_use]
    pub fn new(request: Request) -> Self {
        let encoded = plenum_proto::command::encode(&request);
        Self { request, encoded }
    }

    /// A transaction that came in as these bytes: checked, and logged as it came. Not for the resolver's thread.
    ///
    /// # Errors
    /// Names the field that breaks a rule.
    pub fn commit(principal: &Arc<str>, namespace: &Arc<str>, transaction: &Bytes) -> Result<Self, Invalid> {
        let command = plenum_proto::transaction::commit(transaction.clone())?;
        Ok(Self::committing(principal, namespace, command, transaction))
    }

    /// The same, with the command that those bytes were checked to be.
    pub(crate) fn committing(
        principal: &Arc<str>,
        namespace: &Arc<str>,
        command: Command,
        transaction: &Bytes,
    ) -> Self {
        let encoded = plenum_proto::command::encode_commit(principal, namespace, transaction);
        Self { request: Request { principal: principal.clone(), namespace: namespace.clone(), command }, encoded }
    }

    /// The same request, which stands in the log as these bytes.
    #[cfg(test)]
    pub(crate) fn logged_as(self, encoded: Bytes) -> Self {
        Self { encoded, ..self }
    }

    /// A request of the server itself.
    #[must_use]
    pub fn by_server(command: Command) -> Self {
        Self::new(Request { principal: Arc::from(SERVER), namespace: Arc::from(""), command })
    }

    /// What is asked.
    #[must_use]
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// The number that it uses up in its session: a transaction that is no dry run.
    pub(crate) fn number(&self) -> Option<u64> {
        match &self.request.command {
            Command::Commit(transaction, _) if !transaction.dry_run => Some(transaction.id.number),
            _ => None,
        }
    }

    /// As it will stand in the log.
    #[must_use]
    pub fn encoded(&self) -> Bytes {
        self.encoded.clone()
    }

    /// Bytes in the log.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        self.encoded.len()
    }
}

//! The checker's own connection: follows a cell, and asks it about itself.

use std::time::Duration;

use plenum_proto::v1;
use plenum_proto::v1::cell_client::CellClient;
use plenum_proto::v1::govern_client::GovernClient;
use plenum_proto::v1::inspect_client::InspectClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

use crate::properties::{Listed, Listing};
use crate::stream::{BadStream, Recording};

/// Rows of a listing that are asked for at once.
const ROWS_MAX: u32 = 10_000;

/// So long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);

/// A server lists up to 64 MiB; a delta may be larger, and no message of a cell is larger than this.
pub(crate) const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// Why watching ended.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// No such address.
    #[error("the cell can't be reached")]
    Unreachable(#[from] tonic::transport::Error),
    /// The cell did not answer, or refused.
    #[error("the cell says {}: {}", .0.code(), .0.message())]
    Refused(Box<Status>),
    /// What it sent can't be read.
    #[error(transparent)]
    Bad(#[from] BadStream),
    /// The stream ended.
    #[error("the stream ended")]
    Ended,
}

impl From<Status> for WatchError {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

/// Follows one cell, over one connection after the other.
#[derive(Debug)]
pub struct Watcher {
    channel: Channel,
    /// For questions: answers must not wait until a stream is read.
    questions: Channel,
    stream: Option<Streaming<v1::SessionResponse>>,
    /// What was heard so far.
    pub recording: Recording,
    raw: Option<Vec<v1::SessionResponse>>,
}

impl Watcher {
    /// Does not connect yet. `address` is a URL.
    ///
    /// # Errors
    /// When it is none.
    pub fn new(name: &str, address: &str) -> Result<Self, WatchError> {
        // Small windows, so that a watcher that does not read soon holds the server up, as it is meant to be able to.
        let endpoint = Endpoint::from_shared(address.to_owned())?
            .initial_stream_window_size(64 << 10)
            .initial_connection_window_size(64 << 10)
            .connect_timeout(CONNECT);
        let questions = Endpoint::from_shared(address.to_owned())?.connect_timeout(CONNECT);
        Ok(Self {
            channel: endpoint.connect_lazy(),
            questions: questions.connect_lazy(),
            stream: None,
            recording: Recording::new(name),
            raw: None,
        })
    }

    /// Keeps the messages too, to be written to a file.
    #[must_use]
    pub fn keeping_messages(self) -> Self {
        Self { raw: Some(Vec::new()), ..self }
    }

    /// Messages since the last call, where they are kept.
    pub fn take_messages(&mut self) -> Vec<v1::SessionResponse> {
        self.raw.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Connects (again), and goes on where it was: from the beginning of the cell where it has nothing, if that is still to be had.
    ///
    /// # Errors
    /// When the cell does not answer.
    pub async fn connect(&mut self) -> Result<(), WatchError> {
        let (incarnation, revision) = match self.recording.position() {
            Some(position) => position,
            // After revision 1, the first start of a server, the cell is still empty.
            None => (self.status().await?.incarnation, 1),
        };
        self.greet(v1::Hello { incarnation, revision, ..v1::Hello::default() }).await
    }

    /// Connects, and asks for a picture of the cell as it is, whatever there is to go on from.
    ///
    /// # Errors
    /// When the cell does not answer.
    pub async fn connect_for_a_picture(&mut self) -> Result<(), WatchError> {
        self.greet(v1::Hello::default()).await
    }

    async fn greet(&mut self, hello: v1::Hello) -> Result<(), WatchError> {
        let mut cell = CellClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        self.stream = Some(cell.watch(hello).await?.into_inner());
        Ok(())
    }

    /// Lets the connection go, without a word.
    pub fn disconnect(&mut self) {
        self.stream = None;
    }

    /// Waits for the next message, and records it.
    ///
    /// # Errors
    /// When the stream ends, or brings something that can't be read.
    pub async fn next(&mut self) -> Result<(), WatchError> {
        let stream = self.stream.as_mut().ok_or(WatchError::Ended)?;
        let message = match stream.message().await {
            Ok(Some(message)) => message,
            Ok(None) => {
                self.stream = None;
                return Err(WatchError::Ended);
            }
            Err(status) => {
                self.stream = None;
                return Err(status.into());
            }
        };
        self.hear(message)
    }

    fn hear(&mut self, message: v1::SessionResponse) -> Result<(), WatchError> {
        if let Some(raw) = &mut self.raw {
            raw.push(message.clone());
        }
        Ok(self.recording.take(message)?)
    }

    /// Follows until a revision was heard.
    ///
    /// # Errors
    /// As `next`.
    pub async fn follow_until(&mut self, revision: u64) -> Result<(), WatchError> {
        while self.recording.revision().is_none_or(|heard| heard < revision) {
            self.next().await?;
        }
        Ok(())
    }

    /// What the cell says of itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn status(&self) -> Result<v1::StatusResponse, WatchError> {
        Ok(self.inspect().status(v1::StatusRequest {}).await?.into_inner())
    }

    /// Records what the cell says of itself as a heartbeat, if that is less than it told before; false if it is not.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn hear_status(&mut self) -> Result<bool, WatchError> {
        let status = self.status().await?;
        if self.recording.revision().is_none_or(|told| status.revision >= told) {
            return Ok(false);
        }
        let heartbeat = v1::Heartbeat { revision: status.revision, ..v1::Heartbeat::default() };
        self.hear(v1::SessionResponse { tell: Some(v1::session_response::Tell::Heartbeat(heartbeat)) })?;
        Ok(true)
    }

    fn inspect(&self) -> InspectClient<Channel> {
        InspectClient::new(self.questions.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Its machines and quotas, now or at a revision; of more than a cell lists at once, the first ones.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn listing(&self, at: Option<u64>) -> Result<Listing, WatchError> {
        let incarnation = self.status().await?.incarnation;
        let at = at.map(|revision| v1::At { revision, time_micros: 0 });
        let request = v1::ListRequest { at, limit: ROWS_MAX, ..v1::ListRequest::default() };
        let answer = self.inspect().list_machines(request).await?.into_inner();
        let (revision, truncated) = (answer.revision, answer.truncated);
        let at = Some(v1::At { revision, time_micros: 0 });
        let request = v1::ListRequest { at, limit: ROWS_MAX, ..v1::ListRequest::default() };
        let mut govern = GovernClient::new(self.questions.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let v1::ListQuotasResponse { quotas, truncated: quotas_truncated, .. } =
            govern.list_quotas(request).await?.into_inner();
        Ok(Listing { incarnation, revision, machines: answer.machines, truncated, quotas, quotas_truncated })
    }

    /// All transactions of the cell's history up to now, as they were asked and answered, oldest first; and perhaps some that come meanwhile.
    /// With them, of which revisions they are all.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn transactions(&self) -> Result<(Vec<v1::TransactionView>, Listed), WatchError> {
        let mut inspect = self.inspect();
        // A busy cell decides more than is read here.
        let status = self.status().await?;
        let mut all: Vec<v1::TransactionView> = Vec::new();
        let mut after_revision = 0;
        let mut from = 1;
        loop {
            let list = Some(v1::ListRequest { limit: ROWS_MAX, ..v1::ListRequest::default() });
            let request =
                v1::ListTransactionsRequest { list, oldest_first: true, after_revision, ..Default::default() };
            let answer = inspect.list_transactions(request).await?.into_inner();
            from = from.max(answer.oldest_revision);
            for view in answer.transactions {
                let (session, number) =
                    view.outcome.as_ref().map_or((0, 0), |outcome| (outcome.session, outcome.number));
                let request = v1::GetTransactionRequest { session, number };
                all.push(inspect.get_transaction(request).await?.into_inner());
            }
            let newest = all.last().and_then(|view| view.outcome.as_ref()).map_or(0, |outcome| outcome.revision);
            after_revision = newest.max(answer.resume_revision.saturating_sub(1));
            if !answer.truncated || after_revision >= status.revision {
                // The history may lack the end.
                let to = status.revision.min(answer.revision);
                return Ok((all, Listed { incarnation: status.incarnation, from, to }));
            }
        }
    }
}

//! Calls of the API beside a session: for programs that submit, launch and look.

use std::time::Duration;

use plenum_proto::bounds::ANSWER_BYTES_MAX;
use plenum_proto::v1;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::address::{self, CELL_KEY, RunError};
use crate::watch::Watch;

/// How long an answer may take to begin. The largest listings take seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Talks to a cell. Connects when it is first used, and again when a connection broke; clones share one connection.
/// It asks whatever cell answers at the address by then, as one that was made in an empty directory by mistake, unless it says which one it means:
/// [`Client::of_cell`].
///
/// A call fails while the cell is away, or when no answer begins within a minute. Where nobody said what became of it
/// ([`is_unanswered`](crate::is_unanswered)) it may have taken effect, or may yet. Launching for an instant may be repeated with no other effect, and so may
/// submitting with an `expected_version`, but for what a restored cell has forgotten; without one, a job that is over by then runs again. Who stops or scales
/// a job names its id and version, so that it takes effect on what it was decided on, and on nothing else.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
    signature: Signature,
}

/// A connection whose requests carry a principal, and the cell that is meant.
pub type Signed = InterceptedService<Channel, Signature>;

/// Who asks, and whom.
#[derive(Clone, Debug)]
pub struct Signature {
    principal: Option<MetadataValue<Ascii>>,
    /// `None`: whoever answers.
    cell: Option<MetadataValue<Ascii>>,
}

impl Interceptor for Signature {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let mut request = address::with_principal(request, self.principal.as_ref());
        if let Some(cell) = &self.cell {
            request.metadata_mut().insert(CELL_KEY, cell.clone());
        }
        Ok(request)
    }
}

impl Client {
    /// Of the cell at an address such as `http://127.0.0.1:7070`, as a principal such as `scheduler/cron`, which may launch from jobs of that scheduler,
    /// or `user/ann`, who may submit. An empty one is `local`, which may do everything, over loopback.
    ///
    /// # Panics
    /// Outside of a runtime of tokio.
    ///
    /// # Errors
    /// When there can never be a cell at the address, or such a principal.
    pub fn new(address: &str, principal: &str) -> Result<Self, RunError> {
        let channel = address::endpoint(address)?.timeout(ANSWER_TIMEOUT).connect_lazy();
        Ok(Self { channel, signature: Signature { principal: address::principal(principal)?, cell: None } })
    }

    /// The same client of this very cell: another one that answers at the address refuses with `OTHER_CELL`, before it does anything. Ids are 16 bytes, which a restore
    /// leaves as they are: `cell_id` of [`api::StatusResponse`](v1::StatusResponse), and of a mirror's [`identity`](crate::model::Cell::identity).
    #[must_use]
    pub fn of_cell(mut self, cell_id: &[u8]) -> Self {
        self.signature.cell = address::cell(cell_id);
        self
    }

    fn signed(&self) -> Signed {
        InterceptedService::new(self.channel.clone(), self.signature.clone())
    }

    /// Jobs: submit, launch, stop, scale, list.
    #[must_use]
    pub fn jobs(&self) -> v1::jobs_client::JobsClient<Signed> {
        v1::jobs_client::JobsClient::new(self.signed()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// Machines, transactions, sessions, conflicts, the cell as a whole.
    #[must_use]
    pub fn inspect(&self) -> v1::inspect_client::InspectClient<Signed> {
        v1::inspect_client::InspectClient::new(self.signed()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// Holds of room for gangs that starve; and sessions without a mirror, which a scheduler of this SDK needs none of.
    #[must_use]
    pub fn cell(&self) -> v1::cell_client::CellClient<Signed> {
        v1::cell_client::CellClient::new(self.signed()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// The whole cell, as it changes.
    #[must_use]
    pub fn watch(&self) -> Watch {
        let meant = self.signature.cell.as_ref().and_then(|id| id.to_str().ok());
        Watch::new(v1::cell_client::CellClient::new(self.signed()), meant.unwrap_or_default().to_owned())
    }

    /// Quotas, partitions, drains, pauses, rights.
    #[must_use]
    pub fn govern(&self) -> v1::govern_client::GovernClient<Signed> {
        v1::govern_client::GovernClient::new(self.signed()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }
}

//! Calls of the API beside a session: for programs that submit, launch and look.

use std::time::Duration;

use plenum_proto::bounds::ANSWER_BYTES_MAX;
use plenum_proto::v1;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::address::{self, RunError};

/// How long an answer may take to begin. The largest listings take seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Talks to a cell. Connects when it is first used, and again when a connection broke; clones share one connection.
///
/// A call fails while the cell is away, or when no answer begins within a minute. Where nobody said what became of it
/// ([`is_unanswered`](crate::is_unanswered)) it may have taken effect, or may yet. Launching for an instant may be repeated with no other effect, and so may
/// submitting while the job is not over: one that is over runs again.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Signed,
}

/// A connection whose requests carry a principal.
pub type Signed = InterceptedService<Channel, Signature>;

/// Who asks.
#[derive(Clone, Debug)]
pub struct Signature(Option<MetadataValue<Ascii>>);

impl Interceptor for Signature {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        Ok(address::with_principal(request, self.0.as_ref()))
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
        let signature = Signature(address::principal(principal)?);
        Ok(Self { channel: InterceptedService::new(channel, signature) })
    }

    /// Jobs: submit, launch, stop, scale, list.
    #[must_use]
    pub fn jobs(&self) -> v1::jobs_client::JobsClient<Signed> {
        v1::jobs_client::JobsClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// Machines, transactions, sessions, conflicts, the cell as a whole.
    #[must_use]
    pub fn inspect(&self) -> v1::inspect_client::InspectClient<Signed> {
        v1::inspect_client::InspectClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// Holds of room for gangs that starve; and sessions without a mirror, which a scheduler of this SDK needs none of.
    #[must_use]
    pub fn cell(&self) -> v1::cell_client::CellClient<Signed> {
        v1::cell_client::CellClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// Quotas, partitions, drains, pauses, rights.
    #[must_use]
    pub fn govern(&self) -> v1::govern_client::GovernClient<Signed> {
        v1::govern_client::GovernClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }
}

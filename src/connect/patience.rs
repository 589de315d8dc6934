//! How long a command waits for one answer: a server that is stopped, or stuck, still takes connections and says nothing.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{self, Poll},
    time::Duration,
};

use tonic::{
    Status,
    body::Body,
    client::GrpcService,
    codegen::{StdError, http},
    transport::Channel,
};

use crate::output;

/// After so long without an answer people are told what is waited for.
const TOLD_AFTER: Duration = Duration::from_secs(5);
/// After so long no answer is expected any more. The largest listings take seconds.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(60);

/// Calls whose answers come for as long as somebody reads: they may begin as late as they like.
const STREAMS: [&str; 4] = ["/Logs", "/Backup", "/Session", "/Watch"];

/// What a command expects of a server.
#[derive(Clone, Debug)]
pub(super) struct Patience {
    pub(super) address: String,
    pub(super) told_after: Duration,
    pub(super) given_up_after: Duration,
    /// Once is enough, however often the command asks.
    pub(super) told: Arc<AtomicBool>,
}

impl Patience {
    pub(super) fn with(address: &str) -> Self {
        let told = Arc::default();
        Self { address: address.to_owned(), told_after: TOLD_AFTER, given_up_after: GIVEN_UP_AFTER, told }
    }

    fn tell(&self) {
        if !self.told.swap(true, Ordering::Relaxed) {
            output::tell(&format!(
                "the server at {} accepts connections and does not answer; still waiting",
                self.address
            ));
        }
    }

    async fn wait<T>(self, answer: impl Future<Output = Result<T, StdError>>) -> Result<T, StdError> {
        let mut answer = std::pin::pin!(answer);
        if let Ok(answer) = tokio::time::timeout(self.told_after, &mut answer).await {
            return answer;
        }
        self.tell();
        let rest = self.given_up_after.saturating_sub(self.told_after);
        tokio::time::timeout(rest, answer).await.unwrap_or_else(|_| {
            let (address, waited) = (self.address, output::span_of(self.given_up_after));
            let what = format!("the server at {address} accepts connections and has not answered within {waited}");
            Err(Status::unavailable(what).into())
        })
    }
}

/// A channel to a server that is given up when it does not answer.
#[derive(Clone, Debug)]
pub(crate) struct PatientChannel {
    pub(super) channel: Channel,
    /// Without: whoever asks has a time limit of its own.
    pub(super) patience: Option<Patience>,
}

type Answer = Result<http::Response<Body>, StdError>;

impl GrpcService<Body> for PatientChannel {
    type ResponseBody = Body;
    type Error = StdError;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn poll_ready(&mut self, context: &mut task::Context<'_>) -> Poll<Result<(), StdError>> {
        GrpcService::poll_ready(&mut self.channel, context).map_err(Into::into)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let is_stream = STREAMS.iter().any(|stream| request.uri().path().ends_with(stream));
        let patience = self.patience.clone().filter(|_| !is_stream);
        let answer = GrpcService::call(&mut self.channel, request);
        Box::pin(async move {
            let answer = async { answer.await.map_err(StdError::from) };
            match patience {
                Some(patience) => patience.wait(answer).await,
                None => answer.await,
            }
        })
    }
}

//! Readers of logs: what an agent sends of one, or why there is nothing (more), as callers are told.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use plenum_proto::v1;
use tokio_stream::Stream;
use tonic::{Code, Status};

use super::failure::Failure;
use crate::agents::{NoLogs, Reading};
use crate::shared::Shared;

/// An agent that is started again needs about so long.
const AGENT_RETRY: Duration = Duration::from_secs(1);

/// When a reader of logs too many tries again: nobody tells it that another one is done.
const READERS_RETRY: Duration = Duration::from_secs(1);

/// Asks the agent of the machine in a slot for a log.
pub(super) fn read(shared: &Arc<Shared>, machine: u32, asked: v1::LogsAsked) -> Result<Reader, Failure> {
    let reading = shared.hub.logs.read(machine, asked).map_err(|no_logs| {
        let message = no_logs.to_string();
        match no_logs {
            NoLogs::TooMany(_) | NoLogs::AgentBusy => {
                Failure::new(Code::ResourceExhausted, "TOO_MANY_READERS", message).retry(READERS_RETRY)
            }
            NoLogs::AgentGone => agent_gone(message),
        }
    })?;
    Ok(Reader { shared: shared.clone(), reading, has_ended: false })
}

/// A reader's stream; when it goes, the agent is told.
pub(super) struct Reader {
    shared: Arc<Shared>,
    reading: Reading,
    has_ended: bool,
}

impl Stream for Reader {
    type Item = Result<v1::LogChunk, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let Poll::Ready(chunk) = self.reading.chunks.poll_recv(cx) else { return Poll::Pending };
        let failed = match chunk {
            Some(Ok(chunk)) => return Poll::Ready(Some(Ok(chunk))),
            Some(Err(error)) => Some(Failure::new(Code::Unavailable, "NO_LOGS", error)),
            None if self.reading.is_complete() => None,
            None => Some(broken_off()),
        };
        self.has_ended = true;
        // Before its caller hears of the end, and perhaps reads the next one.
        self.reading.end();
        Poll::Ready(failed.map(|failure| Err(failure.into_status())))
    }
}

/// What came so far is not all.
fn broken_off() -> Failure {
    agent_gone("the machine's agent left before the end of the log; what came so far is not all: read it again")
}

pub(super) fn agent_gone(message: impl Into<String>) -> Failure {
    Failure::new(Code::Unavailable, "AGENT_GONE", message).retry(AGENT_RETRY)
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.hub.logs.done(self.reading.request);
    }
}

//! Readers of logs: what an agent sends of one, or why there is nothing (more), as callers are told.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use plenum_model::MachineState;
use plenum_proto::v1;
use tokio_stream::Stream;
use tonic::{Code, Status};

use crate::agents::{Chunk, NoLogs, Reading};
use crate::api::failure::Failure;
use crate::shared::Shared;

/// An agent that is started again needs about so long.
const AGENT_RETRY: Duration = Duration::from_secs(1);

/// When a reader of logs too many tries again: nobody tells it that another one is done.
const READERS_RETRY: Duration = Duration::from_secs(1);

/// How long the agent of an unreachable machine may take to say where a log begins, which is the first that it says: others take milliseconds.
const SILENCE_MAX: Duration = Duration::from_secs(3);

/// Asks the agent of the machine in a slot for a log. Where the machine is unreachable, its agent may be there all the same, as when its reports are
/// refused, or are on their way; or it lost its power or its network, and nobody knows yet that its stream leads nowhere. So its first word is waited
/// for, and not for long.
///
/// # Errors
///
/// `AGENT_GONE` where the agent is not connected, or says nothing; `TOO_MANY_READERS`.
pub(super) async fn read(shared: &Arc<Shared>, machine: u32, asked: v1::LogsAsked) -> Result<Reader, Failure> {
    let cell = shared.snapshot().await;
    let silent = cell.machine_in(machine).filter(|found| found.state == MachineState::Unreachable);
    let away = silent.map(|found| found.name.clone());
    drop(cell);
    let reading = shared.hub.logs.read(machine, asked).map_err(|no_logs| {
        let message = no_logs.to_string();
        match (no_logs, &away) {
            (NoLogs::TooMany(_) | NoLogs::AgentBusy, _) => {
                Failure::new(Code::ResourceExhausted, "TOO_MANY_READERS", message).retry(READERS_RETRY)
            }
            (NoLogs::AgentGone, None) => agent_gone(message),
            (NoLogs::AgentGone, Some(away)) => unreachable(away, "is not connected"),
        }
    })?;
    let mut reader = Reader { shared: shared.clone(), reading, first: None, has_ended: false };
    if let Some(away) = away {
        let first = tokio::time::timeout(SILENCE_MAX, reader.reading.chunks.recv()).await;
        reader.first = first.map_err(|_| unreachable(&away, "does not answer"))?;
    }
    Ok(reader)
}

/// A reader's stream; when it goes, the agent is told.
pub(super) struct Reader {
    shared: Arc<Shared>,
    reading: Reading,
    /// What was waited for before the caller was answered.
    first: Option<Chunk>,
    has_ended: bool,
}

impl Stream for Reader {
    type Item = Result<v1::LogChunk, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let next = match self.first.take() {
            Some(first) => Poll::Ready(Some(first)),
            None => self.reading.chunks.poll_recv(cx),
        };
        let Poll::Ready(chunk) = next else { return Poll::Pending };
        let failed = match chunk {
            Some(Ok(chunk)) => return Poll::Ready(Some(Ok(chunk))),
            Some(Err(error)) => Some(Failure::new(Code::Unavailable, "NO_LOGS", error)),
            None if self.reading.is_complete() => None,
            // Its agent was told so, too, and has left to connect again.
            None if *self.shared.ending.borrow() => Some(Failure::ending()),
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

fn unreachable(machine: &str, agent: &str) -> Failure {
    agent_gone(format!("the machine {machine} is unreachable, and its agent {agent}; try again when it is back"))
}

fn agent_gone(message: impl Into<String>) -> Failure {
    Failure::new(Code::Unavailable, "AGENT_GONE", message).retry(AGENT_RETRY)
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.hub.logs.done(self.reading.request);
    }
}

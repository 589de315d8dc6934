//! Waits for something to change in a cell, without reading what.

use std::time::Duration;

use plenum_proto::v1::{Hello, Section, SessionResponse, session_response::Tell};
use tokio::time::{sleep, timeout};
use tonic::Streaming;

use crate::connect::Connection;

/// The longest wait while changes are told, and while they are not.
const WAIT_MAX: Duration = Duration::from_secs(2);
const WAIT_UNTOLD: Duration = Duration::from_millis(200);
/// Changes that follow each other closely are taken together.
const TOGETHER: Duration = Duration::from_millis(10);

/// A cell's stream of changes; without one, a clock.
pub(super) struct Changes {
    connection: Connection,
    stream: Option<Streaming<SessionResponse>>,
}

impl Changes {
    pub(super) fn new(connection: Connection) -> Self {
        Self { connection, stream: None }
    }

    /// Waits until something may have changed.
    pub(super) async fn next(&mut self) {
        if self.stream.is_none() {
            self.stream = self.watch().await;
        }
        let Some(stream) = &mut self.stream else { return sleep(WAIT_UNTOLD).await };
        let is_told = tokio::select! {
            told = told(stream) => told,
            () = sleep(WAIT_MAX) => true,
        };
        if is_told {
            let more = timeout(TOGETHER, async { while told(stream).await {} }).await;
            if more.is_err() {
                return;
            }
        }
        self.stream = None;
    }

    async fn watch(&self) -> Option<Streaming<SessionResponse>> {
        let hello = Hello { sections: vec![Section::Jobs.into(), Section::Allocations.into()], ..Hello::default() };
        let answer = timeout(WAIT_MAX, self.connection.cell().watch(hello)).await;
        answer.ok()?.ok().map(tonic::Response::into_inner)
    }
}

/// Waits for a change; false when the stream has ended.
async fn told(stream: &mut Streaming<SessionResponse>) -> bool {
    loop {
        match stream.message().await {
            Ok(Some(SessionResponse { tell: Some(Tell::Heartbeat(_) | Tell::Welcome(_)) })) => {}
            Ok(Some(_)) => return true,
            Ok(None) | Err(_) => return false,
        }
    }
}

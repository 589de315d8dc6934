//! Watchers that did not read: whether the server still has them. One that it let go of would cost nothing, and be the cheapest there can be.

use std::time::Duration;

use anyhow::{Context, bail};
use plenum_proto::v1::session_response::Tell;
use plenum_proto::{delta, v1};
use tokio_stream::{Stream, StreamExt};
use tonic::Status;

/// For one of them. What was kept for it is some hundred kilobytes; what comes behind that the server takes from its log, or makes a snapshot.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Reads on in each stream until it tells of this revision or a later one, which was decided while nobody read. Why the first of them that does not come
/// there within so long does not; `None` where all do.
pub(super) async fn first_lost<S>(streams: &mut [S], revision: u64, patience: Duration) -> Option<String>
where
    S: Stream<Item = Result<v1::SessionResponse, Status>> + Unpin,
{
    for stream in streams {
        match tokio::time::timeout(patience, reach(stream, revision)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Some(format!("{error:#}")),
            Err(_) => return Some(format!("it did not come to revision {revision} within {patience:?}")),
        }
    }
    None
}

/// The first messages wait in the connection, whatever became of the server's side of it: the end may be behind them.
async fn reach<S>(stream: &mut S, revision: u64) -> anyhow::Result<()>
where
    S: Stream<Item = Result<v1::SessionResponse, Status>> + Unpin,
{
    while let Some(message) = stream.next().await {
        if told(message?)? >= revision {
            return Ok(());
        }
    }
    bail!("it ended before revision {revision}")
}

/// Up to where the cell had come when the server sent this; 0 where it does not say so. One that fell behind is told of a snapshot, which is as good.
fn told(message: v1::SessionResponse) -> anyhow::Result<u64> {
    Ok(match message.tell {
        Some(Tell::Deltas(mut deltas)) => match deltas.deltas.pop() {
            Some(last) => delta::decode(last).context("a delta")?.revision.0,
            None => 0,
        },
        Some(Tell::Snapshot(part)) => part.revision,
        Some(Tell::Heartbeat(heartbeat)) => heartbeat.revision,
        _ => 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use plenum_model::{Delta, LogTime, Revision};

    type Messages = Vec<Result<v1::SessionResponse, Status>>;

    fn says(tell: Tell) -> Result<v1::SessionResponse, Status> {
        Ok(v1::SessionResponse { tell: Some(tell) })
    }

    fn deltas(revisions: std::ops::RangeInclusive<u64>) -> Result<v1::SessionResponse, Status> {
        let deltas = revisions.map(|revision| {
            let mut encoded = Vec::new();
            delta::encode(&Delta::new(Revision(revision), LogTime::default()), &mut encoded);
            encoded.into()
        });
        says(Tell::Deltas(v1::Deltas { deltas: deltas.collect() }))
    }

    /// Why the first of these is lost, at revision 20.
    async fn lost(streams: Vec<Messages>) -> Option<String> {
        let mut streams: Vec<_> = streams.into_iter().map(tokio_stream::iter).collect();
        first_lost(&mut streams, 20, PATIENCE).await
    }

    #[tokio::test]
    async fn a_stream_that_ended_behind_what_was_in_the_connection_is_lost() {
        let goes_on = || vec![says(Tell::Welcome(v1::Welcome::default())), deltas(1..=9), deltas(10..=21)];
        assert_eq!(lost(vec![goes_on(), goes_on()]).await, None);
        // The server had let go of it: what it had sent before was still there to be read.
        let ended = vec![deltas(1..=9)];
        assert_eq!(lost(vec![goes_on(), ended]).await.unwrap(), "it ended before revision 20");
        let reset = vec![deltas(1..=9), Err(Status::unavailable("the connection was reset")), deltas(10..=21)];
        assert!(lost(vec![reset]).await.unwrap().contains("reset"));
    }

    #[tokio::test]
    async fn one_that_fell_behind_and_begins_anew_is_not_lost() {
        let snapshot = |revision| says(Tell::Snapshot(v1::SnapshotPart { revision, ..v1::SnapshotPart::default() }));
        let welcome = || says(Tell::Welcome(v1::Welcome { snapshot: true, ..v1::Welcome::default() }));
        assert_eq!(lost(vec![vec![deltas(1..=9), welcome(), snapshot(25)]]).await, None);
        let at_its_beginning = lost(vec![vec![welcome(), snapshot(5), snapshot(5)]]).await;
        assert!(at_its_beginning.is_some(), "that one may have come before anybody stopped reading");
    }

    #[tokio::test]
    async fn one_that_says_nothing_more_is_lost() {
        let mut hangs = [tokio_stream::pending::<Result<v1::SessionResponse, Status>>()];
        assert!(first_lost(&mut hangs, 20, Duration::from_millis(1)).await.unwrap().contains("within 1ms"));
    }
}

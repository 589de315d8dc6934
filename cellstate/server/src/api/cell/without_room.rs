//! Transactions that are refused for want of room: who asks again was perhaps not told what was decided before, and hears it now.

use std::future::Future;
use std::time::Duration;

use plenum_model::session::Standing;
use plenum_model::{Cell, Command, Revision};

use crate::commit::Asked;
use crate::ingress::{Reply, Told};
use crate::shared::{Refused, Shared};

/// How long the durable cell is waited for: it is of use only if it is at hand.
const AT_HAND: Duration = Duration::from_millis(100);

/// The durable cell, if it is at hand: the resolver may wait for room itself.
pub(super) async fn cell_at_hand(shared: &Shared) -> Option<Cell> {
    tokio::time::timeout(AT_HAND, shared.picture_with(shared.durable_revision())).await.ok()
}

/// When a transaction was decided, if the same was decided under its number.
pub(super) fn decided_before(cell: &Cell, incarnation: u64, asked: &Asked) -> Option<Revision> {
    let Command::Commit(transaction, digest) = &asked.request().command else { return None };
    let session = cell.session(transaction.id.session)?;
    match session.standing(transaction.id.number) {
        Standing::Decided(decided) if decided.digest == *digest && transaction.incarnation == incarnation => {
            Some(decided.revision)
        }
        _ => None,
    }
}

/// Answers a stream's transactions, in their order. The cell that they are looked for in is waited for once: they have to be told before their
/// askers take the server for gone.
pub(super) async fn tell(refused: Vec<Refused>, incarnation: u64, cell: impl Future<Output = Option<Cell>>) {
    let cell = cell.await;
    for Refused { reply, failure, asked } in refused {
        let Reply::Session { number, to, .. } = reply else { continue };
        let before = cell.as_ref().zip(asked).and_then(|(cell, asked)| decided_before(cell, incarnation, &asked));
        drop(to.send((number, before.map_or_else(|| Told::Refused(Box::new(failure)), Told::Decided))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::failure::Failure;
    use plenum_model::Request;
    use std::task::Poll;
    use tokio::sync::mpsc;

    // Each of them waited for the cell by itself: with 64 in flight the last one was told after six seconds.
    #[tokio::test]
    async fn transactions_of_a_stream_are_answered_in_order_after_one_wait_for_the_cell() {
        let (to, mut told) = mpsc::unbounded_channel();
        let command = Command::PauseScheduler { scheduler: "batch".into(), paused: true };
        let request = Request { principal: "a".into(), namespace: "".into(), command };
        let refused = |number| Refused {
            reply: Reply::Session { number, digest: 0, to: to.clone() },
            failure: Failure::ending(),
            asked: Some(Asked::new(request.clone())),
        };
        let waits = std::cell::Cell::new(0);
        let not_at_hand = std::future::poll_fn(|_| {
            waits.set(waits.get() + 1);
            Poll::Ready(None)
        });
        tell((1..=64).map(refused).collect(), 1, not_at_hand).await;
        assert_eq!(waits.get(), 1);
        for number in 1..=64 {
            let (of, Told::Refused(_)) = told.try_recv().unwrap() else { panic!("it was not decided") };
            assert_eq!(of, number);
        }
    }
}

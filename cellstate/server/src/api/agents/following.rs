//! Streams of agents: what shall run on a machine, and logs that its agent is asked for.

use std::pin::{Pin, pin};
use std::sync::Arc;

use plenum_model::Revision;
use plenum_proto::v1;
use tokio::sync::{mpsc, watch};
use tonic::{Code, Status};

use crate::agents::{EpochOver, Follower};
use crate::api::cell::stream::Gone;
use crate::api::failure::Failure;
use crate::shared::Shared;

/// Where the messages of a stream go.
type ToAgent = mpsc::Sender<Result<v1::Assignments, Status>>;

/// Tells an agent what to run, until its epoch or its connection is over.
pub(super) async fn follow(shared: Arc<Shared>, mut follower: Follower, out: ToAgent) {
    let machine = follower.machine();
    if let Err(failure) = make_index(&shared).await {
        drop(out.send(Err(failure.into_status())).await);
        return;
    }
    // The agent may be back by now: its next stream is the one that is asked for logs.
    if out.is_closed() {
        return;
    }
    tell(&shared, &mut follower, &out).await;
    shared.hub.unfollow(machine);
    shared.hub.logs.agent_left(machine);
}

/// Sees to it that the hub knows what runs where.
async fn make_index(shared: &Arc<Shared>) -> Result<(), Failure> {
    while shared.hub.needs_index().is_some() {
        let turn = shared.reads.turn_to_index().await?;
        // Another agent's stream may have made it meanwhile.
        let Some(revision) = shared.hub.needs_index() else { break };
        let (cell, making) = (shared.snapshot_with(revision).await, shared.clone());
        let made = turn.take(move || {
            making.hub.make_index(&cell);
            Ok(())
        });
        made.await?;
    }
    Ok(())
}

/// What [`follow`] says, for as long as somebody listens.
async fn tell(shared: &Shared, follower: &mut Follower, out: &ToAgent) {
    let changes = shared.hub.follow(follower.machine());
    let asked = shared.hub.logs.agent(follower.machine());
    let ended = pin!(shared.ended());
    let mut telling = Telling { shared, follower, out, changes, asked, ended };
    loop {
        if telling.say_what_is_due().await.is_err() || telling.wait_for_changes().await.is_err() {
            return;
        }
    }
}

/// A stream that somebody listens to.
struct Telling<'a, E> {
    shared: &'a Shared,
    follower: &'a mut Follower,
    out: &'a ToAgent,
    /// Of what shall run on the machine.
    changes: watch::Receiver<Revision>,
    /// Logs that the agent is asked for.
    asked: mpsc::Receiver<v1::LogsAsked>,
    /// The end of the cell.
    ended: Pin<&'a mut E>,
}

impl<E: Future<Output = ()>> Telling<'_, E> {
    /// Says what has changed by now, in as many parts as that takes. Logs that are asked for meanwhile wait until all of it is told.
    async fn say_what_is_due(&mut self) -> Result<(), Gone> {
        // What was told last goes on with another part.
        let mut more = false;
        loop {
            let Some(part) = self.next_part().await? else { return Ok(()) };
            let is_one_of_many = std::mem::replace(&mut more, part.more) || part.more;
            say(self.out, part).await?;
            // The rest follows at once; and behind it what has changed meanwhile, which was seen with the parts and is told by none of them.
            if !is_one_of_many {
                return Ok(());
            }
        }
    }

    /// What is to be said next, if anything is. The picture is let go of before it is said: an agent that does not read must not keep it.
    async fn next_part(&mut self) -> Result<Option<v1::Assignments>, Gone> {
        let revision = *self.changes.borrow_and_update();
        let next = {
            let cell = tokio::select! {
                cell = self.shared.snapshot_with(revision) => cell,
                () = self.out.closed() => return Err(Gone),
                () = self.ended.as_mut() => return Err(say_ending(self.out)),
            };
            self.shared.hub.next(self.follower, &cell)
        };
        match next {
            Ok(part) => Ok(part),
            Err(EpochOver) => {
                let message = "the machine's epoch is over; register again";
                let over = Failure::new(Code::FailedPrecondition, "STALE_EPOCH", message).into_status();
                // An agent that left needs no word of it.
                drop(self.out.send(Err(over)).await);
                Err(Gone)
            }
        }
    }

    /// Waits until something has changed. Asks the agent for logs meanwhile.
    async fn wait_for_changes(&mut self) -> Result<(), Gone> {
        loop {
            tokio::select! {
                changed = self.changes.changed() => return changed.map_err(|_| Gone),
                Some(logs) = self.asked.recv() => {
                    let revision = self.shared.durable_revision().0;
                    let message = v1::Assignments { revision, logs: vec![logs], ..v1::Assignments::default() };
                    say(self.out, message).await?;
                }
                () = self.out.closed() => return Err(Gone),
                () = self.ended.as_mut() => return Err(say_ending(self.out)),
            }
        }
    }
}

async fn say(out: &ToAgent, message: v1::Assignments) -> Result<(), Gone> {
    out.send(Ok(message)).await.map_err(|_| Gone)
}

/// The last word of a cell that ends, if there is room for it.
fn say_ending(out: &ToAgent) -> Gone {
    drop(out.try_send(Err(Failure::ending().into_status())));
    Gone
}

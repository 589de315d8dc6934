//! Asking the resolver, and waiting for what is durable.

use std::sync::Arc;

use plenum_history::History;
use plenum_journal::{Keeper, ReadError};
use plenum_model::planted::{self, Bug};
use plenum_model::{Command, Decision, Request, Revision};
use tokio::sync::oneshot;
use tonic::Code;

use super::Shared;
use crate::api::failure::Failure;
use crate::api::past;
use crate::commit::{Answer, Asked};
use crate::ingress::{Answered, Asking, NotQueued, Reply, TurnedAway, came_before};
use crate::publish::LoggedBatch;

/// A request that was not queued.
pub(crate) struct Refused {
    pub(crate) reply: Reply,
    pub(crate) failure: Failure,
    /// What was asked, where it was refused for want of room.
    pub(crate) asked: Option<Asked>,
}

/// A durable answer.
#[derive(Debug)]
pub(crate) struct Decided {
    /// The revision it was judged on; its own if it changed something.
    pub(crate) at: Revision,
    pub(crate) decision: Decision,
    pub(crate) changed: bool,
}

impl Shared {
    /// Queues a request. Refused while there is no room on the disk, when too much waits already, and when it could come to more than
    /// a frame of the log holds.
    pub(crate) fn submit(&self, asked: Asked, reply: Reply) -> Result<(), Failure> {
        self.check_size(&asked)?;
        self.submit_all(std::iter::once((asked, reply)), None).pop().map_or(Ok(()), |refused| Err(refused.failure))
    }

    /// Queues requests of checked size, in this order, for which the queue is locked once; transactions are of the session of which this was
    /// queued. Gives those that were refused.
    pub(crate) fn submit_all(
        &self,
        requests: impl Iterator<Item = (Asked, Reply)>,
        session: Option<Asking<'_>>,
    ) -> Vec<Refused> {
        if let Err(failure) = self.check_disk() {
            let refused = |(asked, reply): (Asked, Reply)| {
                let failure = of_its_number(failure.clone(), came_before(&asked, session));
                Refused { reply, failure, asked: Some(asked) }
            };
            return requests.map(refused).collect();
        }
        let refused = self.ingress.push_all(requests, session).into_iter();
        let refused = refused.map(|TurnedAway { reply, why, came_before }| {
            let failure = of_its_number(failure_of(why), came_before);
            Refused { reply, failure, asked: None }
        });
        refused.collect()
    }

    /// A request is refused while there is no room on the disk.
    fn check_disk(&self) -> Result<(), Failure> {
        let low = self.space.low().filter(|_| !planted::is(Bug::OverlooksFullDisks));
        low.map_or(Ok(()), |low| Err(Failure::read_only(&low)))
    }

    /// A request of which its size alone tells that it could come to more than a frame of the log holds is refused: it need not be
    /// decided. What it comes to is measured then. A dry run stands in no log.
    pub(crate) fn check_size(&self, asked: &Asked) -> Result<(), Failure> {
        if matches!(&asked.request().command, Command::Commit(transaction, _) if transaction.dry_run) {
            return Ok(());
        }
        let (most, found) = (self.settings.logged_bytes_max(), asked.logged_bytes());
        if found > most {
            let message = format!(
                "with its answer the request may come to {found} bytes in the log, which takes {most}; send less at once, or set larger segment_bytes"
            );
            return Err(Failure::new(Code::ResourceExhausted, "MESSAGE_TOO_LARGE", message));
        }
        Ok(())
    }

    /// Asks, and waits for the durable answer: what was decided, and the revision it was judged on.
    pub(crate) async fn ask(&self, request: Request) -> Result<Decided, Failure> {
        self.decided(self.queue(request)?).await
    }

    /// Queues a request, which is decided then whoever waits for it: [`Shared::decided`] does.
    pub(crate) fn queue(&self, request: Request) -> Result<oneshot::Receiver<Answered>, Failure> {
        let (sender, receiver) = oneshot::channel();
        self.submit(Asked::new(request), Reply::Once(sender))?;
        Ok(receiver)
    }

    /// Queues what agents report, of which there is no more at a time than its caller lets there be, behind what they reported before:
    /// [`Shared::decided`] waits for its answer.
    pub(crate) fn queue_report(&self, asked: Asked) -> Result<oneshot::Receiver<Answered>, Failure> {
        self.check_size(&asked)?;
        self.check_disk()?;
        let (sender, receiver) = oneshot::channel();
        self.ingress.push_report(asked, Reply::Once(sender)).map_err(failure_of)?;
        Ok(receiver)
    }

    /// The durable answer to what was queued.
    pub(crate) async fn decided(&self, queued: oneshot::Receiver<Answered>) -> Result<Decided, Failure> {
        let answered = queued.await.map_err(|_| Failure::outcome_unknown())?;
        self.decision(answered).await
    }

    /// As [`Shared::ask`], for what the server asks by itself.
    pub(crate) async fn ask_own(&self, command: Command) -> Result<Decided, Failure> {
        let (sender, receiver) = oneshot::channel();
        self.ingress.push_own(Asked::by_server(command), Some(Reply::Once(sender)));
        self.decided(receiver).await
    }

    /// The decision of an answer; that of a repeated number is read back from where it stands.
    pub(crate) async fn decision(&self, answered: Answered) -> Result<Decided, Failure> {
        match answered.answer {
            Answer::Changed(decision) => Ok(Decided { at: answered.at, decision, changed: true }),
            Answer::Unchanged(decision) => Ok(Decided { at: answered.at, decision, changed: false }),
            Answer::Repeated(at) => Ok(Decided { at, decision: self.read_back(at).await?, changed: false }),
        }
    }

    /// What was decided at a revision, from where it stands.
    pub(crate) async fn read_back(&self, revision: Revision) -> Result<Decision, Failure> {
        let recent = self.recent.read().decided(revision);
        let encoded = match recent {
            Some(encoded) => encoded,
            // It may be anywhere in a segment, and that on the disk: no connection waits for it that has not asked.
            None => {
                let (keeper, history) = (self.keeper.clone(), self.feed.history().clone());
                past::answering(&self.reads, move || logged(&keeper, &history, revision)).await?
            }
        };
        let wire = <plenum_proto::v1::Decision as prost::Message>::decode(encoded);
        let decision = wire.ok().and_then(|wire| Decision::try_from(wire).ok());
        decision.ok_or_else(|| Failure::internal(format!("the answer of revision {revision} can't be read")))
    }

    /// The names of principals and namespaces that a request carries.
    pub(crate) fn request(principal: &Arc<str>, namespace: Arc<str>, command: Command) -> Request {
        Request { principal: principal.clone(), namespace, command }
    }
}

fn of_its_number(failure: Failure, came_before: bool) -> Failure {
    if came_before { failure.of_a_number_that_came_before() } else { failure }
}

/// Why a request was not queued.
fn failure_of(refused: NotQueued) -> Failure {
    match refused {
        NotQueued::Full(full) => Failure::queue_full(full),
        NotQueued::Stopping => Failure::ending(),
    }
}

/// What was answered at a revision, from the log or the history.
fn logged(keeper: &Keeper, history: &History, revision: Revision) -> Result<bytes::Bytes, Failure> {
    let found = keeper.reader(revision.0).and_then(|mut reader| {
        let frame = reader.next_frame()?.map(|frame| bytes::Bytes::copy_from_slice(frame.payload));
        let batch = frame.and_then(|frame| LoggedBatch::parse(frame).ok());
        Ok(batch.and_then(|batch| batch.decided(revision)))
    });
    match found {
        Ok(Some(decided)) => return Ok(decided),
        // The history may have it; but somebody should look at that disk.
        Err(error @ (ReadError::Damaged(_) | ReadError::Disk(_))) => {
            tracing::error!(%error, "the log could not be read back");
        }
        _ => {}
    }
    history.entry(revision.0).map(|logged| logged.entry.decided).map_err(|error| Failure::history(&error))
}

//! Streams of watchers: the shell around [`SyncSession`].

use std::sync::Arc;
use std::time::Duration;

use plenum_model::{Decision, JobId, SessionId};
use plenum_proto::sections::Sections;
use plenum_proto::v1;
use tokio::sync::mpsc;
use tonic::{Code, Status, Streaming};
use v1::session_request::Ask;

use super::failure::Failure;
use crate::authorise::Principal;
use crate::commit::Asked;
use crate::ingress::{Answered, Reply};
use crate::notes::Note;
use crate::shared::{Decided, Shared};
use crate::sync::{Resume, Step, SyncSession};

/// Messages between a stream and its connection. With the largest message this bounds what a slow reader holds.
pub(super) const MESSAGES_MAX: usize = 4;

/// Where messages go.
pub(super) type Out = mpsc::Sender<Result<v1::SessionResponse, Status>>;

/// What a stream belongs to.
pub(super) struct Owner {
    pub(super) principal: Principal,
    pub(super) namespace: Arc<str>,
    pub(super) session: SessionId,
}

/// A stream being served.
pub(super) struct Watcher {
    shared: Arc<Shared>,
    owner: Owner,
    sync: SyncSession,
    /// Comes back with answers.
    answers: mpsc::UnboundedSender<(u64, Answered)>,
    outstanding: usize,
}

impl Watcher {
    pub(super) fn new(
        shared: Arc<Shared>,
        owner: Owner,
        hello: &v1::Hello,
        answers: mpsc::UnboundedSender<(u64, Answered)>,
    ) -> Result<Self, Failure> {
        let sections = Sections::from_wire(&hello.sections)?;
        if sections.has(v1::Section::Bodies) && !owner.principal.may_read_bodies() {
            let message = format!("{} may not read what jobs do; leave BODIES out", owner.principal.text());
            return Err(Failure::new(Code::PermissionDenied, "NOT_PERMITTED", message));
        }
        let resume = Resume { incarnation: hello.incarnation, revision: plenum_model::Revision(hello.revision) };
        let now = shared.clock.monotonic_micros();
        let sync =
            SyncSession::new(shared.settings.sync, shared.identity.clone(), owner.session, sections, resume, now);
        Ok(Self { shared, owner, sync, answers, outstanding: 0 })
    }

    /// Serves until either side ends. `inbound` is missing for those who only watch.
    pub(super) async fn run(
        mut self,
        mut inbound: Option<Streaming<v1::SessionRequest>>,
        mut answers: mpsc::UnboundedReceiver<(u64, Answered)>,
        out: Out,
    ) {
        let mut durable = self.shared.durable.subscribe();
        let ending = self.shared.clone();
        let mut ended = std::pin::pin!(ending.ended());
        let only_watches = inbound.is_none();
        let mut due = true;
        let mut wake_micros = i64::MAX;
        loop {
            // Whoever asks no more and has all answers is done.
            if !only_watches && inbound.is_none() && self.unsent() == 0 {
                return;
            }
            // Whoever asks and does not read the answers is not read from either.
            let reads = self.unsent() < self.shared.settings.outstanding;
            tokio::select! {
                message = next(&mut inbound), if inbound.is_some() && reads => match message {
                    Ok(Some(message)) => {
                        self.asked(message);
                        due = true;
                    }
                    Ok(None) => inbound = None,
                    Err(_) => return,
                },
                Some((number, answered)) = answers.recv() => {
                    self.answered(number, answered);
                    due = true;
                }
                permit = out.reserve(), if due => {
                    let Ok(permit) = permit else { return };
                    match self.step() {
                        Step::Send(message) => permit.send(Ok(message)),
                        Step::NeedSnapshot => {
                            let cell = self.shared.snapshot().await;
                            self.sync.snapshot(cell);
                        }
                        Step::Wait { until_micros } => {
                            due = false;
                            wake_micros = until_micros;
                        }
                    }
                }
                changed = durable.changed() => {
                    due = true;
                    if changed.is_err() {
                        return;
                    }
                }
                () = self.sleep_until(wake_micros), if !due => due = true,
                () = out.closed() => return,
                () = ended.as_mut() => {
                    drop(out.try_send(Err(Failure::ending().into_status())));
                    return;
                }
            }
        }
    }

    /// Requests whose answers have not gone out: not decided yet, or decided or refused and not taken by the connection.
    fn unsent(&self) -> usize {
        self.outstanding + self.sync.answers_waiting()
    }

    fn step(&mut self) -> Step {
        let before = self.sync.resyncs();
        let step = self.sync.poll(self.shared.clock.monotonic_micros(), &self.shared.recent.read());
        if self.sync.resyncs() > before {
            self.shared.metrics.resynced();
        }
        step
    }

    async fn sleep_until(&self, micros: i64) {
        let left = micros.saturating_sub(self.shared.clock.monotonic_micros());
        tokio::time::sleep(Duration::from_micros(u64::try_from(left).unwrap_or(0))).await;
    }

    fn asked(&mut self, message: v1::SessionRequest) {
        match message.ask {
            Some(Ask::Commit(transaction)) => {
                let number = transaction.number;
                if let Err(failure) = self.commit(transaction) {
                    self.refuse(number, &failure);
                }
            }
            Some(Ask::PassedOver(notes)) => self.passed_over(notes),
            Some(Ask::Hello(_)) => {
                self.refuse(0, &Failure::invalid("hello comes first, and once; open another stream"))
            }
            None => self.refuse(0, &Failure::invalid("ask: expected hello, commit or passed_over, found nothing")),
        }
    }

    fn commit(&mut self, transaction: v1::Transaction) -> Result<(), Failure> {
        if transaction.session != self.owner.session.0 {
            let (expected, found) = (self.owner.session.0, transaction.session);
            return Err(Failure::invalid(format!("session: expected {expected}, this stream's own, found {found}")));
        }
        let number = transaction.number;
        let asked = commit_of(&self.owner.principal, &self.owner.namespace, transaction)?;
        self.shared.submit(asked, Reply::Session { number, to: self.answers.clone() })?;
        self.outstanding += 1;
        Ok(())
    }

    fn passed_over(&self, notes: v1::PassedOver) {
        let mut known = self.shared.notes.lock();
        for note in notes.notes.into_iter().take(NOTES_MAX) {
            let Some(job) = JobId::from_bits(note.job) else { continue };
            let mut reason = note.reason;
            reason.truncate(reason.floor_char_boundary(255));
            known.put(job, note.group, Note { tasks: note.tasks, reason, revision: note.revision });
        }
    }

    fn answered(&mut self, number: u64, answered: Answered) {
        self.outstanding -= 1;
        match self.shared.decision(answered) {
            Ok(Decided { at, decision: Decision::Outcome(outcome), .. }) => {
                self.sync.outcome(at, outcome.as_ref().into());
            }
            Ok(Decided { at, decision: Decision::Rejected(rejection), .. }) => {
                self.sync.error(at, error(number, &rejection.into()));
            }
            Ok(Decided { at, decision: Decision::Accepted { .. }, .. }) => {
                self.sync.error(at, error(number, &Failure::internal("a transaction was accepted without an outcome")));
            }
            Err(failure) => self.refuse(number, &failure),
        }
    }

    fn refuse(&mut self, number: u64, failure: &Failure) {
        self.sync.error(plenum_model::Revision(0), error(number, failure));
    }
}

/// Notes of one message that are taken.
const NOTES_MAX: usize = 4096;

/// A transaction on its way to the log: encoded as it came, and validated.
pub(super) fn commit_of(
    principal: &Principal,
    namespace: &Arc<str>,
    transaction: v1::Transaction,
) -> Result<Asked, Failure> {
    let command = plenum_proto::transaction::commit(transaction)?;
    Ok(Asked::new(Shared::request(principal.text(), namespace.clone(), command)))
}

async fn next(inbound: &mut Option<Streaming<v1::SessionRequest>>) -> Result<Option<v1::SessionRequest>, Status> {
    match inbound {
        Some(inbound) => inbound.message().await,
        None => Ok(None),
    }
}

fn error(number: u64, failure: &Failure) -> v1::RequestError {
    v1::RequestError {
        number,
        status: match failure.status {
            Code::Ok => Code::Unknown.into(),
            status => status.into(),
        },
        code: failure.code.to_owned(),
        message: failure.message.clone(),
        retry_after_micros: i64::try_from(failure.retry_after.as_micros()).unwrap_or(i64::MAX),
    }
}

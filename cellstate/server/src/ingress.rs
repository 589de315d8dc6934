//! Where requests wait for the resolver: bounded, fair between principals by their priorities, and never blocking who asks.

mod queue;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use plenum_model::{Decision, Outcome, Revision};
use tokio::sync::{mpsc, oneshot};

use crate::api::edge::budget::{Budget, Share};
use crate::api::failure::Failure;
use crate::api::past::retired::Retired;
use crate::commit::{Answer, Asked, outcome_bytes};
use crate::sessions::HighestQueued;
pub(crate) use queue::FairQueue;
pub(crate) use queue::Full;
pub use queue::QueueBounds;

/// The answer to a request, with the durable revision that it was judged on.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) at: Revision,
    pub(crate) answer: Answer,
}

/// What a session's stream hears of its transaction.
#[derive(Debug)]
pub(crate) enum Told {
    /// Its outcome stands where all that was decided at this revision does. Nothing of it is held for who does not read.
    Decided(Revision),
    /// What stands nowhere, and is short; and the revision at which it was judged.
    Other(Revision, Decision),
    /// The same of a dry run: its outcome may be large, and has its room among what was not read.
    DryRun(Revision, Box<Outcome>, Share),
    /// It was rejected, and may have been decided before: the history has to be asked first.
    Retired(Box<Retired>),
    /// It was not queued.
    Refused(Box<Failure>),
}

/// Who waits for an answer. Dropped without one, the asker learns that the outcome is unknown.
#[derive(Debug)]
pub(crate) enum Reply {
    Once(oneshot::Sender<Answered>),
    /// Bounded by the session, which admits only so many unanswered numbers; and in bytes by the room that answers have which nobody has read.
    Session {
        number: u64,
        /// Of its content.
        digest: u64,
        to: mpsc::UnboundedSender<(u64, Told)>,
    },
}

impl Reply {
    /// Answers. An asker who left does not mind. Gives the answer back if nobody needs it any more. What a stream is told that it need not read at
    /// once has its room here, or is not told.
    pub(crate) fn send(self, answered: Answered, unread: &Arc<Budget>) -> Option<Answer> {
        match self {
            Self::Once(to) => to.send(answered).err().map(|answered| answered.answer),
            Self::Session { number, digest, to } => {
                // What was decided stays on the resolver's thread, for its memory: what is taken by one thread and given back by another
                // costs both.
                let (told, spent) = match answered.answer {
                    changed @ Answer::Changed(_) => (Told::Decided(answered.at), Some(changed)),
                    Answer::Unchanged(Decision::Outcome(outcome)) => (dry_run(answered.at, outcome, unread), None),
                    Answer::Unchanged(Decision::Rejected(rejection)) if rejection.may_have_been_decided() => {
                        (Told::Retired(Box::new(Retired { digest, at: answered.at, rejection })), None)
                    }
                    Answer::Unchanged(decision) => (Told::Other(answered.at, decision), None),
                    Answer::Repeated(at) => (Told::Decided(at), None),
                };
                drop(to.send((number, told)));
                spent
            }
        }
    }
}

/// A dry run can be asked for again: nothing of it was executed.
fn dry_run(at: Revision, outcome: Box<Outcome>, unread: &Arc<Budget>) -> Told {
    let bytes = outcome_bytes(&outcome);
    match Share::take(unread, bytes).or_else(|| Share::alone(unread, bytes)) {
        Some(room) => Told::DryRun(at, outcome, room),
        None => Told::Refused(Box::new(Failure::too_much_unread(unread.most()))),
    }
}

/// Who waits, and since when.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) reply: Reply,
    pub(crate) since: Instant,
}

/// A request on its way to the resolver.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) asked: Asked,
    pub(crate) reply: Option<Reply>,
    pub(crate) since: Instant,
    /// It comes before all that principals ask.
    comes_first: bool,
}

/// Why a request was not queued.
#[derive(Debug)]
pub(crate) enum NotQueued {
    Full(Full),
    /// The server ends.
    Stopping,
}

/// A request that was not queued.
#[derive(Debug)]
pub(crate) struct TurnedAway {
    /// Who waits for it.
    pub(crate) reply: Reply,
    pub(crate) why: NotQueued,
    /// It may have been decided before, under the same number.
    pub(crate) came_before: bool,
}

/// What was queued of the session that asks, and how many of its streams are who asks.
pub(crate) type Asking<'a> = (&'a HighestQueued, u32);

/// Whether a transaction of a session may have come before, or one with a higher number. None of that matters to a dry run, of which nothing is
/// executed.
pub(crate) fn came_before(asked: &Asked, session: Option<Asking<'_>>) -> bool {
    session.zip(asked.number()).is_some_and(|((highest, own), number)| highest.may_cover(number, own))
}

/// What the resolver finds beside requests.
#[derive(Debug)]
pub(crate) struct Taken {
    /// What became of the batch that the journal's thread had.
    pub(crate) written: Option<bool>,
    pub(crate) stopping: bool,
    /// Nothing more waits.
    pub(crate) drained: bool,
}

/// Most requests that the resolver takes at a time.
const TAKEN_MAX: usize = 256;

/// No more are taken once those of principals have so many bytes: whoever asks next, an operator perhaps, waits until these are decided, and each of
/// the large ones may fill a batch with its answer. Sixty-four transactions of a hundred claims have no more.
const TAKEN_BYTES_MAX: usize = 128 << 10;

/// How often a server that stops looks whether its journal has failed.
const STOPPING_LOOK: Duration = Duration::from_millis(20);

struct State {
    queue: FairQueue<Arrival>,
    /// What comes before all that principals ask. What the server asks itself, expiries and closed sessions, is bounded by the machines and
    /// sessions there are; what agents report by who gathers it.
    own: VecDeque<Arrival>,
    written: Option<bool>,
    /// Somebody wants a snapshot: the resolver shall look when it is due.
    nudged: bool,
    stopping: bool,
    /// The resolver waits, and wants to be woken.
    waits: bool,
}

/// The queue, shared by all connections and the resolver.
pub(crate) struct Ingress {
    state: Mutex<State>,
    arrived: Condvar,
    /// [`State::written`] has something: looked at between two requests, without the lock that all connections want.
    is_written: AtomicBool,
    /// [`State::own`] has something: looked at in the same way.
    has_own: AtomicBool,
}

impl Ingress {
    pub(crate) fn new(bounds: QueueBounds) -> Self {
        let state = State {
            queue: FairQueue::new(bounds),
            own: VecDeque::new(),
            written: None,
            nudged: false,
            stopping: false,
            waits: false,
        };
        let (is_written, has_own) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { state: Mutex::new(state), arrived: Condvar::new(), is_written, has_own }
    }

    /// Queues requests of somebody, in this order; transactions are of the session of which this was queued. Gives who waits for those that were
    /// not queued.
    pub(crate) fn push_all(
        &self,
        requests: impl Iterator<Item = (Asked, Reply)>,
        session: Option<Asking<'_>>,
    ) -> Vec<TurnedAway> {
        let since = Instant::now();
        let (mut refused, mut unqueued) = (Vec::new(), Vec::new());
        let mut state = self.state.lock();
        for (asked, reply) in requests {
            let (number, came_before) = (asked.number(), came_before(&asked, session));
            if state.stopping {
                refused.push(TurnedAway { reply, why: NotQueued::Stopping, came_before });
                unqueued.push(asked);
                continue;
            }
            let (principal, bytes) = (asked.request().principal.clone(), asked.encoded_bytes());
            match state.queue.push(&principal, bytes, Arrival { asked, reply: Some(reply), since, comes_first: false })
            {
                // Nobody takes it from the queue before the lock is given back.
                Ok(()) => session.zip(number).into_iter().for_each(|((highest, _), number)| highest.raise(number)),
                Err((full, Arrival { asked, reply, .. })) => {
                    let why = NotQueued::Full(full);
                    refused.extend(reply.map(|reply| TurnedAway { reply, why, came_before }));
                    unqueued.push(asked);
                }
            }
        }
        self.wake(&state);
        drop(state);
        // To free what a large one has takes milliseconds, and everybody wants the lock.
        drop(unqueued);
        refused
    }

    /// Queues a request of the server itself, before all others. Dropped by a server that ends: nobody may be there to decide it.
    pub(crate) fn push_own(&self, asked: Asked, reply: Option<Reply>) {
        let mut state = self.state.lock();
        if state.stopping {
            return;
        }
        self.push_first(&mut state, asked, reply);
    }

    /// Queues what agents report, before all that principals ask: it makes room for that. With a principal's turns it would come late just
    /// when there is much of it, and machines would fill up with what has ended.
    pub(crate) fn push_report(&self, asked: Asked, reply: Reply) -> Result<(), NotQueued> {
        let mut state = self.state.lock();
        if state.stopping {
            return Err(NotQueued::Stopping);
        }
        self.push_first(&mut state, asked, Some(reply));
        Ok(())
    }

    fn push_first(&self, state: &mut State, asked: Asked, reply: Option<Reply>) {
        state.own.push_back(Arrival { asked, reply, since: Instant::now(), comes_first: true });
        self.has_own.store(true, Ordering::Release);
        self.wake(state);
    }

    /// The journal's thread is done with its batch.
    pub(crate) fn written(&self, durable: bool) {
        let mut state = self.state.lock();
        state.written = Some(durable);
        self.is_written.store(true, Ordering::Release);
        self.wake(&state);
    }

    /// What became of the batch that the journal's thread had, if it is done with it. Never waits for anything to do.
    pub(crate) fn take_written(&self) -> Option<bool> {
        if !self.is_written.swap(false, Ordering::Acquire) {
            return None;
        }
        self.state.lock().written.take()
    }

    /// Puts what comes before all that principals ask, and has come since, before what was taken of them. Without it, and while some of it waits
    /// there already, it looks no further.
    pub(crate) fn take_first(&self, arrivals: &mut VecDeque<Arrival>) {
        if !self.has_own.load(Ordering::Acquire) || arrivals.front().is_some_and(|arrival| arrival.comes_first) {
            return;
        }
        let mut state = self.state.lock();
        let own = state.own.len().min(TAKEN_MAX);
        state.own.drain(..own).rev().for_each(|arrival| arrivals.push_front(arrival));
        self.has_own.store(!state.own.is_empty(), Ordering::Relaxed);
    }

    /// Somebody wants a snapshot.
    pub(crate) fn want_snapshot(&self) {
        let mut state = self.state.lock();
        state.nudged = true;
        self.wake(&state);
    }

    /// Lets nobody in any more; what is queued is still decided.
    pub(crate) fn stop(&self) {
        let mut state = self.state.lock();
        state.stopping = true;
        self.wake(&state);
    }

    /// The same, and what is queued is decided by nobody: whoever asked is not to wait for that.
    pub(crate) fn give_up(&self) {
        let mut unheard = VecDeque::new();
        let mut state = self.state.lock();
        state.stopping = true;
        unheard.append(&mut state.own);
        state.queue.take(usize::MAX, usize::MAX, &mut unheard);
        self.wake(&state);
        drop(state);
        drop(unheard);
    }

    /// Whether nobody is let in any more.
    pub(crate) fn is_stopping(&self) -> bool {
        self.state.lock().stopping
    }

    /// Gives principals so many turns for one of the others; whoever is not among them has one.
    pub(crate) fn set_priorities(&self, priorities: BTreeMap<Arc<str>, u8>) {
        self.state.lock().queue.set_priorities(priorities);
    }

    /// How many turns of the others one of a principal is worth.
    #[cfg(test)]
    pub(crate) fn turns_of(&self, principal: &str) -> u8 {
        self.state.lock().queue.turns_of(principal)
    }

    /// Requests that wait.
    pub(crate) fn len(&self) -> usize {
        self.state.lock().queue.len()
    }

    fn wake(&self, state: &State) {
        if state.waits {
            self.arrived.notify_one();
        }
    }

    /// Waits for something to do, at most until then. Requests are put where there is `room` for them, if anywhere. While the
    /// journal's thread has a batch, `writing`, even a server that stops waits for it.
    pub(crate) fn take(&self, room: Option<&mut VecDeque<Arrival>>, writing: bool, until: Option<Instant>) -> Taken {
        let mut state = self.state.lock();
        loop {
            let requests = room.is_some() && (!state.own.is_empty() || state.queue.len() > 0);
            if requests || state.nudged || state.written.is_some() || (state.stopping && !writing) {
                break;
            }
            state.waits = true;
            if state.stopping {
                // A thread that failed says nothing more: its caller has to look.
                self.arrived.wait_for(&mut state, STOPPING_LOOK);
                state.waits = false;
                break;
            }
            let timed_out = match until {
                Some(until) => self.arrived.wait_until(&mut state, until).timed_out(),
                None => {
                    self.arrived.wait(&mut state);
                    false
                }
            };
            state.waits = false;
            if timed_out {
                break;
            }
        }
        state.nudged = false;
        self.is_written.store(false, Ordering::Relaxed);
        let written = state.written.take();
        let state = &mut *state;
        if let Some(arrivals) = room {
            let own = state.own.len().min(TAKEN_MAX);
            arrivals.extend(state.own.drain(..own));
            self.has_own.store(!state.own.is_empty(), Ordering::Relaxed);
            state.queue.take(TAKEN_MAX, TAKEN_BYTES_MAX, arrivals);
        }
        Taken { written, stopping: state.stopping, drained: state.own.is_empty() && state.queue.len() == 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plenum_model::{Rejection, RejectionCode};

    fn asked(principal: &str) -> Asked {
        let (principal, command) = (principal.into(), plenum_model::Command::ReportStatus(Vec::new()));
        Asked::new(plenum_model::Request { principal, namespace: "".into(), command })
    }

    fn reply() -> Reply {
        Reply::Once(oneshot::channel().0)
    }

    fn transaction(number: u64, dry_run: bool) -> (Asked, Reply) {
        let id = plenum_model::TransactionId { session: plenum_model::SessionId(7), number };
        let transaction = plenum_model::Transaction { id, dry_run, ..plenum_model::Transaction::default() };
        let command = plenum_model::Command::Commit(Box::new(transaction), 0);
        let request = plenum_model::Request { principal: "ann".into(), namespace: "".into(), command };
        (Asked::new(request), reply())
    }

    /// The outcome of many claims of which none is granted.
    fn refused() -> Outcome {
        Outcome {
            id: plenum_model::TransactionId::default(),
            revision: Revision(1),
            time: plenum_model::LogTime::default(),
            outcome: plenum_model::TransactionOutcome::Refused,
            placements: vec![vec![None; 20_000]],
            refusals: Vec::new(),
            idle_stops: Vec::new(),
            ports: Vec::new(),
            elsewhere: Vec::new(),
            evicted: Vec::new(),
            divergences: Vec::new(),
        }
    }

    // The whole history was searched for it.
    #[test]
    fn a_number_that_certainly_never_was_is_told_so_without_a_search() {
        let unread = Arc::new(Budget::new(1 << 20));
        let (to, mut told) = mpsc::unbounded_channel();
        for never_was in [true, false] {
            let rejection = Rejection { never_was, ..Rejection::new(RejectionCode::NumberRetired, "old") };
            let answer = Answer::Unchanged(Decision::Rejected(rejection));
            let reply = Reply::Session { number: 1, digest: 0, to: to.clone() };
            assert!(reply.send(Answered { at: Revision(1), answer }, &unread).is_none());
            let (_, told) = told.try_recv().unwrap();
            assert_eq!((matches!(told, Told::Other(..)), matches!(told, Told::Retired(_))), (never_was, !never_was));
        }
    }

    // A stream that was not read kept 256 of them, which may be a gigabyte, and there was no bound over all streams.
    #[test]
    fn the_outcome_of_a_dry_run_is_told_to_a_stream_as_long_as_there_is_room_among_what_was_not_read() {
        let unread = Arc::new(Budget::new(1 << 20));
        let (to, mut told) = mpsc::unbounded_channel();
        let send = |number: u64| {
            let answer = Answer::Unchanged(Decision::Outcome(Box::new(refused())));
            let reply = Reply::Session { number, digest: 0, to: to.clone() };
            assert!(reply.send(Answered { at: Revision(1), answer }, &unread).is_none());
        };
        let mut held = Vec::new();
        for number in 0..9 {
            send(number);
            match told.try_recv().unwrap().1 {
                Told::DryRun(_, _, room) => held.push(room),
                Told::Refused(failure) => {
                    assert!((failure.code, failure.retry_after.is_zero()) == ("QUEUE_FULL", false));
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!((2..5).contains(&held.len()), "{} of 240 kB in a mebibyte", held.len());
        held.pop();
        send(9);
        assert!(matches!(told.try_recv().unwrap(), (9, Told::DryRun(..))));
        // One that is larger than all of it would never be told.
        let narrow = Arc::new(Budget::new(1 << 10));
        let alone = [(); 2].map(|()| dry_run(Revision(1), Box::new(refused()), &narrow));
        assert!(matches!(alone, [Told::DryRun(..), Told::Refused(_)]), "{alone:?}");
    }

    // They took turns with principals: the more of these there were, the later came the receipts that make room for what they ask.
    #[test]
    fn what_agents_report_comes_before_all_that_principals_ask_and_keeps_nobody_out() {
        let ingress = Ingress::new(QueueBounds::default());
        let principals: Vec<String> = (0..300).map(|number| format!("p{number}")).collect();
        assert!(ingress.push_all(principals.iter().map(|principal| (asked(principal), reply())), None).is_empty());
        (0..16).for_each(|_| ingress.push_report(asked("agents"), reply()).unwrap());
        let mut taken = VecDeque::new();
        ingress.take(Some(&mut taken), false, None);
        let of_agents = taken.iter().take_while(|arrival| &*arrival.asked.request().principal == "agents").count();
        assert_eq!((of_agents, taken.len()), (16, TAKEN_MAX));
        ingress.stop();
        assert!(matches!(ingress.push_report(asked("agents"), reply()), Err(NotQueued::Stopping)));
    }

    // It waited for up to two hundred transactions of others, and for the syncs of their batches.
    #[test]
    fn what_agents_report_comes_also_before_what_was_taken_of_principals_and_in_its_own_order() {
        let ingress = Ingress::new(QueueBounds::default());
        let principals = ["p1", "p2"];
        assert!(ingress.push_all(principals.iter().map(|principal| (asked(principal), reply())), None).is_empty());
        let mut taken = VecDeque::new();
        ingress.take(Some(&mut taken), false, None);
        for principal in ["r1", "r2"] {
            ingress.push_report(asked(principal), reply()).unwrap();
        }
        let mut next = || {
            ingress.take_first(&mut taken);
            taken.pop_front().map(|arrival| arrival.asked.request().principal.to_string())
        };
        assert_eq!(next().as_deref(), Some("r1"));
        ingress.push_report(asked("r3"), reply()).unwrap();
        let rest: Vec<String> = std::iter::from_fn(next).collect();
        assert_eq!(rest, ["r2", "r3", "p1", "p2"]);
    }

    /// Bytes of a request, which tell when they are freed whether the queue is locked then.
    struct Watched {
        ingress: Arc<Ingress>,
        locked: std::sync::mpsc::Sender<bool>,
    }

    impl AsRef<[u8]> for Watched {
        fn as_ref(&self) -> &[u8] {
            &[0]
        }
    }

    impl Drop for Watched {
        fn drop(&mut self) {
            self.locked.send(self.ingress.state.is_locked()).unwrap();
        }
    }

    // They were freed before the lock was given back: who sent large ones without pause, which were all refused, held up the resolver and
    // everybody else.
    #[test]
    fn nobody_waits_until_what_was_not_queued_is_freed() {
        let ingress = Arc::new(Ingress::new(QueueBounds { principal_requests: 1, ..QueueBounds::default() }));
        let (locked, freed) = std::sync::mpsc::channel();
        let push = || {
            let watched = Watched { ingress: ingress.clone(), locked: locked.clone() };
            let asked = asked("ann").logged_as(bytes::Bytes::from_owner(watched));
            ingress.push_all(std::iter::once((asked, reply())), None).len()
        };
        assert_eq!((push(), push()), (0, 1));
        assert_eq!(freed.try_iter().collect::<Vec<_>>(), [false], "there is no room for the second one");
        ingress.stop();
        assert_eq!(push(), 1);
        assert_eq!(freed.try_iter().collect::<Vec<_>>(), [false]);
        // It holds the queue, and is in it.
        ingress.give_up();
    }

    // Who had not heard what became of a transaction, and asked again when the queue was full, was told that it was not executed.
    #[test]
    fn a_number_that_was_queued_before_is_told_apart_from_a_new_one_while_the_queue_is_full() {
        let ingress = Ingress::new(QueueBounds { requests: 3, principal_requests: 2, ..QueueBounds::default() });
        let queued = HighestQueued::new(3);
        let refused = |numbers: &[u64]| -> Vec<bool> {
            let requests = numbers.iter().map(|&number| transaction(number, false));
            ingress
                .push_all(requests, Some((&queued, 1)))
                .into_iter()
                .map(|turned_away| turned_away.came_before)
                .collect()
        };
        assert_eq!(refused(&[4, 5, 6, 5, 3, 7]), [false, true, true, false]);
        ingress.take(Some(&mut VecDeque::new()), false, None);
        assert_eq!(refused(&[8, 9, 6, 8, 10]), [true, true, false]);
        ingress.stop();
        assert_eq!(refused(&[9, 10]), [true, false]);
    }

    // Who had tried a transaction, and committed it under the same number when the queue was full, was told that it may have been executed.
    #[test]
    fn a_dry_run_that_was_queued_uses_no_number_up_and_one_that_was_not_was_never_executed() {
        let ingress = Ingress::new(QueueBounds { requests: 3, principal_requests: 2, ..QueueBounds::default() });
        let queued = HighestQueued::new(3);
        let requests = [(4, true), (9, true), (9, true), (3, true), (4, false), (3, false)];
        let requests = requests.into_iter().map(|(number, dry_run)| transaction(number, dry_run));
        let refused = ingress.push_all(requests, Some((&queued, 1))).into_iter();
        let came_before: Vec<bool> = refused.map(|turned_away| turned_away.came_before).collect();
        assert_eq!(came_before, [false, false, false, true]);
    }

    // Who had asked a server that failed waited until the connection was cut, and the server itself for ever.
    #[test]
    fn nobody_waits_for_what_is_given_up() {
        let ingress = Ingress::new(QueueBounds::default());
        let ask = || {
            let asked = Asked::by_server(plenum_model::Command::Tick);
            let (sender, receiver) = oneshot::channel();
            (asked, Reply::Once(sender), receiver)
        };
        let (asked, reply, mut queued) = ask();
        assert!(ingress.push_all(std::iter::once((asked, reply)), None).is_empty());
        let (asked, reply, mut own) = ask();
        ingress.push_own(asked, Some(reply));
        ingress.give_up();
        let (asked, reply, mut late) = ask();
        ingress.push_own(asked, Some(reply));
        for receiver in [&mut queued, &mut own, &mut late] {
            assert!(matches!(receiver.try_recv(), Err(oneshot::error::TryRecvError::Closed)));
        }
        let taken = ingress.take(Some(&mut VecDeque::new()), false, None);
        assert!(taken.stopping && taken.drained);
    }

    #[test]
    fn a_server_that_stops_waits_for_its_batch_without_spinning() {
        let ingress = Ingress::new(QueueBounds::default());
        ingress.stop();
        assert!(ingress.is_stopping());
        let began = Instant::now();
        let taken = ingress.take(None, true, None);
        assert!(taken.stopping && taken.written.is_none() && began.elapsed() >= STOPPING_LOOK);
        ingress.written(true);
        assert_eq!(ingress.take(None, true, None).written, Some(true));
        let taken = ingress.take(Some(&mut VecDeque::new()), false, None);
        assert!(taken.stopping && taken.drained);
    }
}

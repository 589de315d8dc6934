//! A scheduler that keeps transactions in flight, and remembers every word: what it asked, what it was answered, and in which order.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use plenum_model::{AllocationId, AllocationRef};
use plenum_proto::v1::{self, cell_client::CellClient, session_request::Ask};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, transport::Endpoint};

use super::{
    dice::Dice,
    picture::{Heard, Picture},
};

/// All clients are of one scheduler, and so share its jobs.
pub(crate) const SCHEDULER: &str = "crash";
/// Transactions that one client has in flight.
pub(crate) const WINDOW: usize = 16;
/// Allocations of a client that are left running; older ones end.
pub(crate) const RUNNING: usize = 60;
/// Of a restart, answered numbers that are sent once more. They are among the newest of the 256 that the cell remembers.
const REPEATED: usize = 3;
/// After a transaction was turned away.
const PATIENCE: Duration = Duration::from_millis(10);
/// The machine that has room for nothing.
pub(crate) const FULL_MACHINE: usize = 0;
/// The machine that has room for few tasks, some of which leave for more urgent ones.
pub(crate) const NARROW_MACHINE: usize = 1;
/// Machines before those with room for everything.
const NOT_ROOMY: u32 = 2;
/// Whose room an urgent claim asks for at most.
const VICTIMS_MAX: usize = 3;

/// Allocations that shall end, with the slots of their machines.
pub(crate) type Leaving = mpsc::UnboundedSender<(u64, u32)>;

/// The order of all that happened in a run, over all clients, and how much was answered.
#[derive(Default)]
pub(crate) struct Ticks {
    clock: AtomicU64,
    decided: AtomicUsize,
    turned_away: AtomicUsize,
}

impl Ticks {
    /// Transactions that were decided so far, and told so.
    pub(crate) fn decided(&self) -> usize {
        self.decided.load(Ordering::SeqCst)
    }

    /// Those that were not executed.
    pub(crate) fn turned_away(&self) -> usize {
        self.turned_away.load(Ordering::SeqCst)
    }

    /// The next number of the clock.
    pub(crate) fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }
}

/// What became of a transaction, as far as the client knows.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// It is in flight, or was when the server went.
    Open,
    /// It was decided.
    Outcome { at: u64, outcome: Box<v1::Outcome> },
    /// The server said that it was not executed.
    TurnedAway { code: String },
}

/// One transaction, and what was said of it.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub(crate) asked: v1::Transaction,
    pub(crate) called: u64,
    pub(crate) answer: Answer,
    /// After a crash it was found decided at this revision, before anybody had been told.
    pub(crate) found: Option<u64>,
}

/// A job, and which of its tasks to claim next.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Field {
    pub(crate) job: u64,
    pub(crate) tasks: u32,
    pub(crate) next: u32,
}

impl Field {
    /// Tasks that were not claimed yet.
    pub(crate) fn left(&self) -> u32 {
        self.tasks - self.next
    }

    /// The next so many, if there are.
    fn take(&mut self, count: u32) -> Option<Vec<u32>> {
        let first = self.next;
        (count <= self.left()).then(|| {
            self.next += count;
            (first..self.next).collect()
        })
    }
}

/// A scheduler, with its session and its memory.
pub(crate) struct Client {
    pub(crate) session: u64,
    incarnation: u64,
    pub(crate) picture: Picture,
    pub(crate) said: BTreeMap<u64, Said>,
    /// Granted to it, and not given back by it: ids with the revision that granted them.
    pub(crate) granted: BTreeMap<u64, u64>,
    /// Slots of machines; the first one is full, the second one narrow.
    pub(crate) machines: Vec<u32>,
    /// The job that nobody else claims tasks of.
    pub(crate) own: Field,
    /// The same, of a job that may take the room of the others.
    pub(crate) urgent: Field,
    /// The job that all clients claim tasks of.
    pub(crate) contested: Field,
    dice: Dice,
    in_flight: usize,
    /// Answered numbers that were asked again on this connection, and have no answer there yet.
    again: BTreeSet<u64>,
    /// Numbers without an answer, though one that was asked after them on this connection was decided.
    passed_by: BTreeSet<u64>,
    /// Granted in this round, oldest first, with the slots of their machines.
    running: VecDeque<(u64, u32)>,
    /// Numbers that were answered before and asked again.
    pub(crate) repeated: usize,
    /// Grants in the room of others.
    pub(crate) took_over: usize,
}

impl Client {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            session: 0,
            incarnation: 0,
            picture: Picture::default(),
            said: BTreeMap::new(),
            granted: BTreeMap::new(),
            machines: Vec::new(),
            own: Field::default(),
            urgent: Field::default(),
            contested: Field::default(),
            dice: Dice::new(seed),
            in_flight: 0,
            again: BTreeSet::new(),
            passed_by: BTreeSet::new(),
            running: VecDeque::new(),
            repeated: 0,
            took_over: 0,
        }
    }

    /// Works until the connection ends, or until it is asked to end and everything is answered.
    /// What has run long enough is given to the agent, `leaving`.
    pub(crate) async fn work(
        mut self,
        address: String,
        ticks: Arc<Ticks>,
        leaving: Leaving,
        ending: watch::Receiver<bool>,
    ) -> Self {
        self.running.clear();
        // Whatever breaks the connection, the next one goes on from here.
        if let Err(status) = self.converse(address, &ticks, &leaving, ending).await {
            assert!(may_end_so(&status), "a conversation was ended with {status:?}");
        }
        self.nothing_was_lost(&ticks);
        self.picture.disconnected();
        self
    }

    async fn converse(
        &mut self,
        address: String,
        ticks: &Ticks,
        leaving: &Leaving,
        mut ending: watch::Receiver<bool>,
    ) -> Result<(), Status> {
        let endpoint = Endpoint::from_shared(address).unwrap().tcp_nodelay(true);
        let channel = endpoint.connect().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let (sender, receiver) = mpsc::channel(2 * WINDOW + REPEATED);
        let hello = v1::Hello {
            scheduler: SCHEDULER.to_owned(),
            namespace: "default".to_owned(),
            session: self.session,
            ..self.picture.hello()
        };
        send(&sender, Ask::Hello(hello)).await?;
        let mut cell = CellClient::new(channel).max_decoding_message_size(64 << 20);
        let mut stream = cell.session(ReceiverStream::new(receiver)).await?.into_inner();
        // Once it is gone, what the server said before, and at its end, is still to be read.
        let (mut is_greeted, mut is_gone) = (false, false);
        self.in_flight = 0;
        loop {
            tokio::select! {
                message = stream.message() => {
                    let Some(message) = message? else { return Ok(()) };
                    match self.picture.hear(message) {
                        Heard::Progress => {}
                        Heard::Welcome(welcome) if is_greeted => assert_eq!(welcome.session, self.session),
                        Heard::Welcome(welcome) => {
                            is_greeted = true;
                            for again in self.greeted(&welcome) {
                                is_gone |= send(&sender, Ask::Commit(again)).await.is_err();
                            }
                        }
                        Heard::Outcome(outcome) => self.answered(ticks, leaving, outcome),
                        Heard::Error(error) => {
                            self.turned_away(ticks, error)?;
                            tokio::time::sleep(PATIENCE).await;
                        }
                    }
                }
                _ = ending.changed() => {}
            }
            let is_ending = *ending.borrow();
            while is_greeted && !is_gone && !is_ending && self.in_flight < WINDOW && self.picture.is_whole() {
                let transaction = self.claim_something(ticks);
                is_gone = send(&sender, Ask::Commit(transaction)).await.is_err();
            }
            if is_greeted && is_ending && self.in_flight == 0 {
                return Ok(());
            }
        }
    }

    /// The session goes on, or begins: what is to be asked again, in order, before anything new.
    fn greeted(&mut self, welcome: &v1::Welcome) -> Vec<v1::Transaction> {
        if self.session == 0 {
            (self.session, self.incarnation) = (welcome.session, welcome.incarnation);
        }
        assert_eq!((welcome.session, welcome.incarnation), (self.session, self.incarnation), "a session survives");
        let is_open = |said: &&Said| matches!(said.answer, Answer::Open);
        let open: Vec<_> = self.said.values().filter(is_open).map(|said| said.asked.clone()).collect();
        self.in_flight = open.len();
        let decided = self.said.values().rev().filter(|said| matches!(said.answer, Answer::Outcome { .. }));
        let again: Vec<_> = decided.step_by(7).take(REPEATED).map(|said| said.asked.clone()).collect();
        self.again = again.iter().map(|asked| asked.number).collect();
        self.passed_by.clear();
        again.into_iter().chain(open).collect()
    }

    fn answered(&mut self, ticks: &Ticks, leaving: &Leaving, outcome: v1::Outcome) {
        assert_eq!(outcome.session, self.session);
        let said = self.said.get_mut(&outcome.number).expect("what is answered was asked");
        match &said.answer {
            Answer::Outcome { outcome: first, .. } => {
                assert_eq!(**first, outcome, "a repeated number returns the first outcome");
                assert!(self.again.remove(&outcome.number), "asked once, and answered twice: {outcome:?}");
                self.repeated += 1;
                return;
            }
            Answer::TurnedAway { code } => panic!("turned away with {code}, and then decided: {outcome:?}"),
            Answer::Open => {}
        }
        let found = said.found.unwrap_or(outcome.revision);
        assert_eq!(outcome.revision, found, "decided once: it was found in the log before it was asked again");
        for (asked, granted) in said.asked.placements.iter().zip(&outcome.placements) {
            for (id, machine) in granted.allocations.iter().zip(&asked.machines).filter(|(id, _)| **id != 0) {
                // The deltas up to this one were told before it.
                let found = AllocationId::from_bits(*id).and_then(|id| self.picture.cell().allocation(id));
                let extra = found.and_then(|found| found.extra);
                self.took_over += usize::from(extra.is_some_and(|extra| !extra.takes_over.is_empty()));
                self.granted.insert(*id, outcome.revision);
                self.running.push_back((*id, *machine));
            }
        }
        while self.running.len() > RUNNING {
            // An agent that is gone hears of it when the next round begins.
            let _ = self.running.pop_front().map(|oldest| leaving.send(oldest));
        }
        let number = outcome.number;
        said.answer = Answer::Outcome { at: ticks.tick(), outcome: Box::new(outcome) };
        self.in_flight -= 1;
        ticks.decided.fetch_add(1, Ordering::SeqCst);
        self.note_passed_by(number);
    }

    /// Outcomes come in the order of what was asked. Only what a cell turns away that takes no changes is told beside them.
    fn note_passed_by(&mut self, decided: u64) {
        assert!(!self.passed_by.contains(&decided), "{decided} was answered after one that was asked later");
        let before = self.said.range(..decided).rev().take(WINDOW);
        let unanswered = before.filter(|(_, said)| matches!(said.answer, Answer::Open)).map(|(number, _)| *number);
        self.passed_by.extend(unanswered);
    }

    /// At the end of a connection: where a cell turns away, and then is killed, what it would have said may have gone with it.
    fn nothing_was_lost(&self, ticks: &Ticks) {
        let lost = &self.passed_by;
        assert!(lost.is_empty() || ticks.turned_away() > 0, "what was asked after them was answered: {lost:?}");
    }

    /// Not executed, or nobody knows.
    fn turned_away(&mut self, ticks: &Ticks, error: v1::RequestError) -> Result<(), Status> {
        if ["OUTCOME_UNKNOWN", "SERVER_ENDING"].contains(&error.code.as_str()) {
            return Err(Status::unavailable(error.message));
        }
        assert_eq!(error.status, i32::from(tonic::Code::ResourceExhausted), "what was asked for is right: {error:?}");
        let said = self.said.get_mut(&error.number).expect("what is answered was asked");
        assert!(matches!(said.answer, Answer::Open), "one answer to each: {error:?}");
        assert_eq!(said.found, None, "it was found decided, and then turned away: {error:?}");
        said.answer = Answer::TurnedAway { code: error.code };
        self.passed_by.remove(&error.number);
        self.in_flight -= 1;
        ticks.turned_away.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// The next transaction, remembered before it is sent.
    fn claim_something(&mut self, ticks: &Ticks) -> v1::Transaction {
        let number = self.said.keys().next_back().map_or(1, |last| last + 1);
        let mut transaction = v1::Transaction {
            session: self.session,
            number,
            incarnation: self.incarnation,
            base_revision: self.picture.revision(),
            check: v1::ConflictCheck::Fit.into(),
            ..v1::Transaction::default()
        };
        let placements: Vec<v1::Placement> = match self.dice.below(15) {
            0..5 => {
                let count = 1 + self.dice.below(3);
                self.own_claims(count, false).into_iter().collect()
            }
            5 => self.own_claims(2, true).into_iter().collect(),
            6 | 7 => self.contested_claim().into_iter().collect(),
            8 => self.gang(true).into_iter().collect(),
            9 => {
                // Nothing at all comes of it where the second one is not whole, also no stop.
                transaction.atomic = true;
                let misses = self.dice.below(3) > 0;
                [self.gang(false), self.gang(misses)].into_iter().flatten().collect()
            }
            10 => self.narrow_claims().into_iter().collect(),
            11 | 12 => self.urgent_claim().into_iter().collect(),
            _ => Vec::new(),
        };
        // Also where no task is left to claim: a load that ended would let whoever waits for a sync wait for ever.
        if placements.is_empty() || transaction.atomic {
            transaction.stops = self.some_granted();
        }
        transaction.placements = placements;
        let asked = transaction.clone();
        self.said.insert(number, Said { asked, called: ticks.tick(), answer: Answer::Open, found: None });
        self.in_flight += 1;
        transaction
    }

    /// Claims for tasks that nobody else claims; where `misses`, the first one on the machine without room.
    fn own_claims(&mut self, count: u32, misses: bool) -> Option<v1::Placement> {
        let tasks = self.own.take(count)?;
        let mut machines: Vec<u32> = tasks.iter().map(|_| self.some_machine()).collect();
        if misses {
            machines[0] = self.machines[FULL_MACHINE];
        }
        Some(placement(self.own.job, machines, tasks))
    }

    /// Two claims for tasks that nobody else claims, both or none of which are granted; none where it `misses`.
    fn gang(&mut self, misses: bool) -> Option<v1::Placement> {
        Some(v1::Placement { min: 2, ..self.own_claims(2, misses)? })
    }

    /// Claims where there is room for few.
    fn narrow_claims(&mut self) -> Option<v1::Placement> {
        let tasks = self.own.take(2)?;
        Some(placement(self.own.job, vec![self.machines[NARROW_MACHINE]; 2], tasks))
    }

    /// A claim where there is room for few, and perhaps only if others leave.
    fn urgent_claim(&mut self) -> Option<v1::Placement> {
        let tasks = self.urgent.take(1)?;
        let (job, machine) = (self.urgent.job, self.machines[NARROW_MACHINE]);
        let is_victim = |found: &AllocationRef<'_>| {
            let (row, state) = (found.row, found.status.state);
            row.machine == machine && row.job().to_bits() != job && state.is_active()
        };
        let victims = self.picture.cell().allocations().filter(is_victim).take(VICTIMS_MAX);
        let preemptions = victims.map(|found| v1::Preemption { machine, victim: found.id.to_bits() }).collect();
        Some(v1::Placement { preemptions, ..placement(job, vec![machine], tasks) })
    }

    /// A claim for the task that everybody wants next.
    fn contested_claim(&mut self) -> Option<v1::Placement> {
        let tasks = self.contested.take(1)?;
        Some(placement(self.contested.job, vec![self.some_machine()], tasks))
    }

    fn some_machine(&mut self) -> u32 {
        let roomy = u32::try_from(self.machines.len()).unwrap() - NOT_ROOMY;
        self.machines[(NOT_ROOMY + self.dice.below(roomy)) as usize]
    }

    /// Allocations of its own, to be stopped: the oldest ones.
    fn some_granted(&mut self) -> Vec<u64> {
        let count = 1 + self.dice.below(3) as usize;
        let skipped = self.dice.below(8) as usize;
        self.granted.keys().skip(skipped).take(count).copied().collect()
    }
}

/// Whether a server that goes, or one that takes no changes, ends a call like this.
pub(crate) fn may_end_so(status: &Status) -> bool {
    plenum_proto::error::is_unanswered(status) || matches!(status.code(), Code::Unavailable | Code::ResourceExhausted)
}

async fn send(sender: &mpsc::Sender<v1::SessionRequest>, ask: Ask) -> Result<(), Status> {
    let sent = sender.send(v1::SessionRequest { ask: Some(ask) }).await;
    sent.map_err(|_| Status::unavailable("the stream is gone"))
}

fn placement(job: u64, machines: Vec<u32>, tasks: Vec<u32>) -> v1::Placement {
    v1::Placement { job, job_version: 1, machines, tasks, ..v1::Placement::default() }
}

fn fails(checks: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(checks)).is_err()
}

/// Of a transaction that nothing came of.
fn outcome_of(number: u64) -> v1::Outcome {
    v1::Outcome { number, revision: number, ..v1::Outcome::default() }
}

/// It was counted as one that had been asked for again.
#[test]
fn an_answer_that_comes_twice_is_noticed() {
    let (ticks, leaving) = (Ticks::default(), mpsc::unbounded_channel().0);
    let mut client = Client::new(111);
    let number = client.claim_something(&ticks).number;
    client.answered(&ticks, &leaving, outcome_of(number));
    assert!(fails(|| client.answered(&ticks, &leaving, outcome_of(number))), "nobody asked again");
    client.greeted(&v1::Welcome::default());
    client.answered(&ticks, &leaving, outcome_of(number));
    assert!(fails(|| client.answered(&ticks, &leaving, outcome_of(number))), "it was asked again once");
}

/// It was taken for one that was in flight when the server went.
#[test]
fn an_answer_that_a_living_server_loses_or_gives_late_is_noticed() {
    let (ticks, leaving) = (Ticks::default(), mpsc::unbounded_channel().0);
    let mut client = Client::new(112);
    let [first, second] = [(); 2].map(|()| client.claim_something(&ticks).number);
    client.nothing_was_lost(&ticks);
    client.answered(&ticks, &leaving, outcome_of(second));
    assert!(fails(|| client.nothing_was_lost(&ticks)), "the first one was not answered");
    assert!(fails(|| client.answered(&ticks, &leaving, outcome_of(first))), "it came after the second one");

    let [first, second] = [(); 2].map(|()| client.claim_something(&ticks).number);
    client.passed_by.clear();
    client.answered(&ticks, &leaving, outcome_of(second));
    let error =
        v1::RequestError { number: first, status: Code::ResourceExhausted.into(), ..v1::RequestError::default() };
    client.turned_away(&ticks, error).unwrap();
    assert!(client.passed_by.is_empty(), "what is turned away may be told later");
}

#[test]
fn how_a_server_that_goes_ends_a_call_is_told_from_what_is_wrong() {
    for may in [Status::unavailable(""), Status::unknown("broken pipe"), Status::resource_exhausted("")] {
        assert!(may_end_so(&may), "{may:?}");
    }
    assert!(!may_end_so(&Status::invalid_argument("")) && !may_end_so(&Status::failed_precondition("")));
    let ours = plenum_proto::error::with_code(Code::Internal, "INTERNAL", "a bug".to_owned());
    assert!(!may_end_so(&ours));
}

//! What agents report, gathered: one command for all that came in while the one before was on its way; several at a time where one has not
//! room for all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use plenum_model::{Command, Decision, Revision, Transition};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use tonic::Code;

use crate::api::failure::Failure;
use crate::commit::{Asked, first_within, reports_within};
use crate::ingress::Answered;
use crate::shared::{Decided, Shared};
use crate::tasks::joined;

/// Bytes of transitions that wait, of all agents: a million without reasons.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// What a transition takes besides the letters of its reason, which come with two counts.
const TRANSITION_BYTES: usize = size_of::<Transition>() + 2 * size_of::<usize>();
/// When an agent tries again: by then some commands of reports are done with.
const FULL_RETRY: Duration = Duration::from_millis(100);
/// Transitions after which a command takes no further report: while it is decided all others wait, and this many take less than a
/// millisecond.
const COMMAND_TRANSITIONS: usize = 2048;
/// Commands at once; they come before what others ask. A second one goes out only when it would be full: fewer and larger ones cost less.
const COMMANDS_MAX: usize = 16;
/// Whom the log names for them.
const PRINCIPAL: &str = "agents";

/// Told where what it reported is in the books, or why it is not.
type Waiter = oneshot::Sender<Result<Booked, Failure>>;

/// What became of reports that were decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Booked {
    /// At this revision they are in the books.
    pub(crate) at: Revision,
    /// But some transitions are not, of these reports or of others that were decided with them: when they were decided, their machines' epochs were over.
    pub(crate) some_passed_over: bool,
}

#[derive(Default)]
struct Waiting {
    transitions: usize,
    bytes: usize,
    reports: Vec<(Vec<Transition>, Waiter)>,
    /// When it was full, and looked through for those that were given up.
    looked: Option<Instant>,
}

impl Waiting {
    /// Whether there is room for a report of so many bytes.
    fn takes(&self, bytes: usize) -> bool {
        self.bytes + bytes <= WAITING_BYTES_MAX
    }

    fn add(&mut self, report: Vec<Transition>, waiter: Waiter) {
        self.transitions += report.len();
        self.bytes += bytes_of(&report);
        self.reports.push((report, waiter));
    }

    /// Makes room: who gave a report up says the same again, and while the disk does not answer there would come to be many copies. Not with each
    /// report that finds none: all that wait are looked at.
    fn leave_out_given_up(&mut self) {
        if self.looked.is_some_and(|looked| looked.elapsed() < FULL_RETRY) {
            return;
        }
        self.looked = Some(Instant::now());
        for (report, _) in self.reports.extract_if(.., |(_, waiter)| waiter.is_closed()) {
            self.transitions -= report.len();
            self.bytes -= bytes_of(&report);
        }
    }
}

/// What a report takes in memory.
fn bytes_of(report: &[Transition]) -> usize {
    report.iter().map(|transition| TRANSITION_BYTES + transition.reason.len()).sum()
}

/// Reports on their way.
#[derive(Default)]
pub(crate) struct Reports {
    waiting: Mutex<Waiting>,
    arrived: Notify,
}

impl Reports {
    /// Takes a report, and waits until it is durable.
    pub(crate) async fn report(&self, transitions: Vec<Transition>) -> Result<Booked, Failure> {
        let (waiter, answered) = oneshot::channel();
        {
            let bytes = bytes_of(&transitions);
            let mut waiting = self.waiting.lock();
            if !waiting.takes(bytes) {
                waiting.leave_out_given_up();
            }
            if !waiting.takes(bytes) {
                let message = format!("there is room for {WAITING_BYTES_MAX} bytes of reports; report again later");
                return Err(Failure::new(Code::ResourceExhausted, "QUEUE_FULL", message).retry(FULL_RETRY));
            }
            waiting.add(transitions, waiter);
        }
        self.arrived.notify_one();
        answered.await.unwrap_or_else(|_| Err(Failure::ending()))
    }

    /// Gathers and asks, in the order in which it came: what a machine reported later says how it is now. Only a rest of
    /// what was asked for comes later, see [`Booking`].
    pub(crate) async fn gather(&self, shared: &Arc<Shared>) {
        let mut under_way = JoinSet::new();
        loop {
            while self.is_due(under_way.len()) {
                let bytes_max = shared.settings.reported_bytes_max();
                let (transitions, waiters) = self.take(bytes_max);
                // Here: of tasks that were begun together the last one may run first.
                let booking = Booking::begin(shared, transitions, bytes_max);
                let shared = shared.clone();
                under_way.spawn(async move { tell(&booking.answered(&shared).await, waiters) });
            }
            tokio::select! {
                Some(told) = under_way.join_next() => drop(joined(told)),
                () = self.arrived.notified() => {}
            }
        }
    }

    /// Whether another command goes out beside so many.
    fn is_due(&self, under_way: usize) -> bool {
        let waiting = self.waiting.lock();
        match under_way {
            0 => !waiting.reports.is_empty(),
            _ => under_way < COMMANDS_MAX && waiting.transitions >= COMMAND_TRANSITIONS,
        }
    }

    /// As many reports as go into one command, by their number and by their bytes; and of each, how many of the transitions are its own.
    fn take(&self, bytes_max: usize) -> (Vec<Transition>, Vec<(usize, Waiter)>) {
        let mut waiting = self.waiting.lock();
        let reports = waiting.reports.iter().map(|(report, _)| report.as_slice());
        let count = reports_within(reports, COMMAND_TRANSITIONS, bytes_max);
        let (mut transitions, mut waiters) = (Vec::new(), Vec::new());
        for (report, waiter) in waiting.reports.drain(..count) {
            waiters.push((report.len(), waiter));
            transitions.extend(report);
        }
        waiting.transitions -= transitions.len();
        waiting.bytes -= bytes_of(&transitions);
        (transitions, waiters)
    }
}

/// Tells each who waits what became of what it reported.
fn tell(answer: &Answer, waiters: Vec<(usize, Waiter)>) {
    let mut begins = 0;
    for (transitions, waiter) in waiters {
        let rejected = answer.rejected.range(begins..begins + transitions).next();
        let told = rejected.map_or_else(|| answer.booked.clone(), |(_, failure)| Err(failure.clone()));
        begins += transitions;
        // An agent that left will report again.
        drop(waiter.send(told));
    }
}

/// What became of reports.
struct Answer {
    /// Where they are in the books; or why they are not, which holds for all: who reported tries again, and what was decided before has no
    /// effect a second time.
    booked: Result<Booked, Failure>,
    /// By their position, transitions that the cell takes in no command, however small. What follows from one has room in the log, as far as is
    /// known; if it ever has not, nobody else's are refused with it.
    rejected: BTreeMap<usize, Failure>,
}

/// Asks for what was reported, in one command if the log has room for that. One that is rejected is asked for in halves, so that nobody hears of
/// what others reported.
struct Booking {
    bytes_max: usize,
    /// Behind so many others, what is not asked for yet: only when what came before it is answered, so that what its machines report meanwhile may be
    /// decided first. That takes a single report that is too large for a command, or a transition that is rejected.
    left: Vec<(usize, Vec<Transition>)>,
    queued: Option<Queued>,
}

/// What is asked for now.
struct Queued {
    begins: usize,
    logged: Bytes,
    answer: Result<oneshot::Receiver<Answered>, Failure>,
}

impl Booking {
    /// Its first command is queued when this comes back.
    fn begin(shared: &Shared, transitions: Vec<Transition>, bytes_max: usize) -> Self {
        let mut booking = Self { bytes_max, left: vec![(0, transitions)], queued: None };
        booking.queue_next(shared);
        booking
    }

    fn queue_next(&mut self, shared: &Shared) {
        let Some((begins, mut transitions)) = self.left.pop() else { return };
        let rest = transitions.split_off(first_within(&transitions, self.bytes_max));
        if !rest.is_empty() {
            self.left.push((begins + transitions.len(), rest));
        }
        let asked = Asked::new(Shared::request(&PRINCIPAL.into(), "".into(), Command::ReportStatus(transitions)));
        let logged = asked.encoded();
        self.queued = Some(Queued { begins, logged, answer: shared.queue_report(asked) });
    }

    async fn answered(mut self, shared: &Shared) -> Answer {
        let (mut booked, mut rejected) = (None, BTreeMap::new());
        let mut some_passed_over = false;
        while let Some(Queued { begins, logged, answer }) = self.queued.take() {
            let decided = match answer {
                Ok(queued) => shared.decided(queued).await,
                Err(failure) => Err(failure),
            };
            match decided {
                Ok(Decided { decision: Decision::Rejected(rejection), .. }) => {
                    let mut transitions = read_back(logged);
                    let second = transitions.split_off(transitions.len() / 2);
                    if transitions.is_empty() {
                        tracing::warn!(allocation = %second[0].allocation, %rejection, "what was reported is not in the books");
                        rejected.insert(begins, rejection.into());
                    } else {
                        self.left.push((begins + transitions.len(), second));
                        self.left.push((begins, transitions));
                    }
                }
                Ok(Decided { decision, at, .. }) => {
                    some_passed_over |= matches!(decision, Decision::Accepted { version: 1.., .. });
                    booked = Some(Booked { at, some_passed_over });
                }
                Err(failure) => return Answer { booked: Err(failure), rejected },
            }
            self.queue_next(shared);
        }
        // Where all of it was rejected, each has its own reason.
        Answer { booked: booked.ok_or_else(Failure::ending), rejected }
    }
}

/// What was asked for, from the bytes in which it would be logged: to keep a copy of it costs more than to read back the rare one that is
/// rejected.
fn read_back(logged: Bytes) -> Vec<Transition> {
    let request = plenum_proto::command::decode(logged).expect("it was encoded a moment ago");
    match request.command {
        Command::ReportStatus(transitions) => transitions,
        other => unreachable!("asked for a report, not for {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use plenum_model::{Rejection, RejectionCode};

    use super::*;
    use crate::commit::Answer;
    use crate::ingress::Reply;
    use crate::shared::tests::without_threads;

    fn report(transitions: usize) -> Vec<Transition> {
        let transition = Transition::new(
            plenum_model::MachineId { slot: 0, generation: 1 },
            1,
            plenum_model::AllocationId { slot: 0, generation: 1 },
            plenum_model::AllocationState::Running,
        );
        vec![transition; transitions]
    }

    #[tokio::test]
    async fn a_report_that_there_is_no_room_for_is_told_when_to_come_again() {
        let reports = Reports::default();
        reports.waiting.lock().bytes = WAITING_BYTES_MAX - 2 * TRANSITION_BYTES + 1;
        let full = reports.report(report(2)).await.unwrap_err();
        assert_eq!((full.status, full.code, full.retry_after), (Code::ResourceExhausted, "QUEUE_FULL", FULL_RETRY));
        let waiting = reports.waiting.lock();
        let left = WAITING_BYTES_MAX - waiting.bytes;
        assert_eq!(
            (left, waiting.transitions, waiting.reports.len()),
            (2 * TRANSITION_BYTES - 1, 0, 0),
            "it takes none"
        );
    }

    // They were counted by their number alone, and with the longest reasons took five times as much.
    #[tokio::test]
    async fn what_waits_counts_with_the_letters_of_its_reasons() {
        let reports = Reports::default();
        reports.waiting.lock().bytes = WAITING_BYTES_MAX - TRANSITION_BYTES - 10;
        let of_reason = |letters: usize| vec![Transition { reason: "x".repeat(letters).into(), ..report(1).remove(0) }];
        assert_eq!(reports.report(of_reason(11)).await.unwrap_err().code, "QUEUE_FULL");
        tokio::select! {
            biased;
            told = reports.report(of_reason(10)) => panic!("nobody decides it: {told:?}"),
            () = std::future::ready(()) => {}
        }
        assert_eq!(reports.waiting.lock().bytes, WAITING_BYTES_MAX);
        assert_eq!(reports.take(usize::MAX).0.len(), 1);
        assert_eq!(reports.waiting.lock().bytes, WAITING_BYTES_MAX - TRANSITION_BYTES - 10, "it is given back");
    }

    // While a disk did not answer, agents reported the same again and again. The copies that they had given up stayed, and filled all the room that
    // there is.
    #[tokio::test]
    async fn reports_that_were_given_up_make_room_for_others() {
        let reports = Reports::default();
        let (waiter, _answered) = oneshot::channel();
        {
            let mut waiting = reports.waiting.lock();
            waiting.add(report(1), waiter);
            waiting.add(report(3), oneshot::channel().0);
            waiting.bytes = WAITING_BYTES_MAX;
        }
        tokio::select! {
            biased;
            told = reports.report(report(2)) => panic!("nobody decides it: {told:?}"),
            () = std::future::ready(()) => {}
        }
        let waiting = reports.waiting.lock();
        let left: Vec<_> = waiting.reports.iter().map(|(report, _)| report.len()).collect();
        assert_eq!((waiting.transitions, left), (3, vec![1, 2]));
        assert_eq!(waiting.bytes, WAITING_BYTES_MAX - TRANSITION_BYTES);
    }

    // Receipts went out one command at a time, each as large as the log takes: at a million claims a second they came ever later, until the
    // machines were full of what had stopped.
    #[test]
    fn what_fills_a_command_goes_out_beside_those_under_way() {
        let reports = Reports::default();
        let wait = |transitions| reports.waiting.lock().add(report(transitions), oneshot::channel().0);
        assert!(!reports.is_due(0), "nothing waits");
        wait(COMMAND_TRANSITIONS - 1);
        assert!(reports.is_due(0) && !reports.is_due(1), "more may come");
        wait(2);
        assert!(reports.is_due(1) && reports.is_due(COMMANDS_MAX - 1) && !reports.is_due(COMMANDS_MAX));
        let taken = |bytes_max| reports.take(bytes_max).0.len();
        assert_eq!(
            taken(usize::MAX),
            COMMAND_TRANSITIONS - 1,
            "a report is not divided, and others wait for the next command"
        );
        assert!(!reports.is_due(1));
        wait(3 * COMMAND_TRANSITIONS);
        assert_eq!((taken(usize::MAX), taken(usize::MAX)), (2, 3 * COMMAND_TRANSITIONS));
    }

    // Each command was queued by a task of its own, of which the last one ran first: what a machine had reported later was decided before what it had
    // reported earlier, and a task that was up counted as down for as long as nothing else happened to it.
    #[tokio::test]
    async fn what_is_reported_is_asked_for_in_the_order_in_which_it_came() {
        let dir = tempfile::tempdir().unwrap();
        let (_journal, shared) = without_threads(dir.path(), |_| None);
        let reports = &shared.hub.reports;
        for restarts in 1..=3 {
            let mut transitions = report(COMMAND_TRANSITIONS);
            transitions[0].restarts = restarts;
            reports.waiting.lock().add(transitions, oneshot::channel().0);
        }
        // No other task has had its turn by then.
        tokio::select! {
            biased;
            () = reports.gather(&shared) => panic!("it goes on for as long as the server does"),
            () = std::future::ready(()) => {}
        }
        let mut queued = VecDeque::new();
        shared.ingress.take(Some(&mut queued), false, Some(Instant::now()));
        let came = queued.iter().map(|arrival| match &arrival.asked.request().command {
            Command::ReportStatus(transitions) => transitions[0].restarts,
            other => panic!("{other:?}"),
        });
        assert_eq!(came.collect::<Vec<_>>(), [1, 2, 3]);
    }

    /// Decides what is asked for: what has a transition of a second restart is rejected, and all else is taken.
    async fn decide(shared: &Shared) {
        loop {
            let mut queued = VecDeque::new();
            shared.ingress.take(Some(&mut queued), false, Some(Instant::now()));
            for arrival in queued {
                let Command::ReportStatus(transitions) = &arrival.asked.request().command else { panic!("a report") };
                let decision = if transitions.iter().any(|transition| transition.restarts == 2) {
                    Decision::Rejected(Rejection::new(RejectionCode::LimitReached, "it is too much".to_owned()))
                } else {
                    Decision::Accepted { id: 0, version: 0 }
                };
                let Some(Reply::Once(reply)) = arrival.reply else { panic!("somebody waits") };
                reply.send(Answered { at: Revision(7), answer: Answer::Unchanged(decision) }).unwrap();
            }
            tokio::task::yield_now().await;
        }
    }

    // What the cell did not take was acknowledged: the agent forgot the receipt, and the allocation kept its room for ever.
    #[tokio::test]
    async fn what_the_cell_does_not_take_is_not_acknowledged_and_others_are_not_refused_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let (_journal, shared) = without_threads(dir.path(), |_| None);
        let reports = &shared.hub.reports;
        let of_restart = |restarts| reports.report(vec![Transition { restarts, ..report(1).remove(0) }]);
        let told = async {
            let (first, rejected, last) = tokio::join!(of_restart(1), of_restart(2), of_restart(3));
            assert_eq!(rejected.unwrap_err().code, "LIMIT_REACHED");
            for taken in [first, last] {
                assert_eq!(taken.unwrap(), Booked { at: Revision(7), some_passed_over: false });
            }
        };
        tokio::select! {
            biased;
            () = told => {}
            () = reports.gather(&shared) => panic!("it goes on for as long as the server does"),
            () = decide(&shared) => panic!("it goes on for as long as it is asked"),
        }
    }

    // It was noticed by nobody: what agents reported was never in the books again.
    #[tokio::test]
    async fn a_server_that_gathers_no_reports_any_more_ends() {
        let dir = tempfile::tempdir().unwrap();
        let server = crate::Server::start(crate::ServerOptions::new(dir.path())).await.unwrap();
        let reports = &server.shared().hub.reports;
        // One more transition than are counted.
        reports.waiting.lock().reports.push((report(1), oneshot::channel().0));
        reports.arrived.notify_one();
        tokio::time::timeout(Duration::from_secs(30), server.ended()).await.expect("the server ends");
        let why = server.shutdown().await.unwrap_err().to_string();
        assert!(why.starts_with("the thread reports failed: "), "{why}");
    }

    #[test]
    fn what_is_rejected_is_read_back_as_it_was_reported() {
        let mut reported = report(3);
        reported[1].reason = "exit code 3".into();
        let asked = Asked::new(Shared::request(&PRINCIPAL.into(), "".into(), Command::ReportStatus(reported.clone())));
        assert_eq!(read_back(asked.encoded()), reported);
    }
}

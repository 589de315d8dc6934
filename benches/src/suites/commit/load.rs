//! What all schedulers of a load share: how they go about it, and what is counted.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use hdrhistogram::Histogram;
use plenum_proto::v1;

use super::agents::Stopped;
use super::rival::Race;
use crate::latency;

/// When transactions are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Whenever fewer than so many are unanswered.
    Closed,
    /// The same, and nothing is stopped: until the wanted number of allocations is live.
    Fill,
    /// When they are due, whatever became of those before; no more than so many unanswered.
    Open,
}

/// How a load goes about it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// Claims of a transaction.
    pub(crate) claims: u32,
    /// Unanswered transactions of a scheduler, at most.
    pub(crate) in_flight: u32,
    /// Whether each scheduler follows the cell state and folds it into a mirror of its own.
    pub(crate) mirrors: bool,
    pub(crate) pace: Pace,
}

impl Manner {
    /// Nobody else is at work beside so many schedulers: an idle cell with one client, and one claim. Agents may rest then: what so few claims stop
    /// leaves room enough for those that come. With more claims in a transaction it would not, and without receipts they would be another load.
    pub(crate) fn is_idle(self, streams: u32) -> bool {
        (self.claims, streams, self.in_flight) == (1, 1, 1)
    }

    /// Whether some of the claims of so many schedulers lose to a rival: none do while the cell is filled.
    pub(crate) fn has_rival(self, streams: u32) -> bool {
        self.pace != Pace::Fill && !self.is_idle(streams)
    }
}

/// Claims of a hundred that lose a race, where there is one.
pub(crate) const LOSERS_PERCENT: u32 = 5;

/// What all schedulers of a load share.
pub(crate) struct Load {
    pub(crate) manner: Manner,
    /// Machines that claims are spread over; those of the rival follow.
    pub(crate) machines: u32,
    pub(crate) stopped: Arc<Stopped>,
    pub(crate) race: Arc<Race>,
    stop: AtomicBool,
    counters: [AtomicU64; 6],
    /// By scheduler, so that they don't wait for each other.
    latency_micros: Vec<Mutex<Histogram<u64>>>,
    /// The same, of how late transactions were sent that were due and had room.
    late_micros: Vec<Mutex<Histogram<u64>>>,
    /// A refusal that was no lost race, where there was one.
    other_refusal: Mutex<Option<String>>,
    failure: Mutex<Option<String>>,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    Granted,
    Refused,
    Stopped,
    /// Answered transactions of which at least one claim was granted.
    Effective,
    /// Answered transactions.
    Answered,
    /// Refused claims that lost no race.
    NoRace,
}

/// What was counted so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) granted: u64,
    pub(crate) refused: u64,
    pub(crate) stopped: u64,
    pub(crate) effective: u64,
    pub(crate) answered: u64,
    pub(crate) no_race: u64,
}

impl Counters {
    /// What was counted since.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            granted: self.granted - before.granted,
            refused: self.refused - before.refused,
            stopped: self.stopped - before.stopped,
            effective: self.effective - before.effective,
            answered: self.answered - before.answered,
            no_race: self.no_race - before.no_race,
        }
    }
}

impl Load {
    pub(crate) fn new(manner: Manner, streams: u32, machines: u32, stopped: Arc<Stopped>, race: Arc<Race>) -> Self {
        let histograms = || (0..streams).map(|_| Mutex::new(latency::histogram())).collect();
        Self {
            manner,
            machines,
            stopped,
            race,
            stop: AtomicBool::new(false),
            counters: Default::default(),
            latency_micros: histograms(),
            late_micros: histograms(),
            other_refusal: Mutex::new(None),
            failure: Mutex::new(None),
        }
    }

    /// Lets schedulers end when what they have under way is answered.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    pub(crate) fn stops(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    pub(crate) fn count(&self, what: Count, number: u64) {
        self.counters[what as usize].fetch_add(number, Ordering::Relaxed);
    }

    pub(crate) fn counters(&self) -> Counters {
        let [granted, refused, stopped, effective, answered, no_race] =
            self.counters.each_ref().map(|counter| counter.load(Ordering::Relaxed));
        Counters { granted, refused, stopped, effective, answered, no_race }
    }

    /// A transaction of this scheduler took so long.
    pub(crate) fn took(&self, scheduler: u32, micros: u64) {
        record(&self.latency_micros[scheduler as usize], micros);
    }

    /// A transaction of this scheduler was given to its stream so long after it was due and there was room for it. No cell could have answered it sooner.
    pub(crate) fn was_late(&self, scheduler: u32, micros: u64) {
        record(&self.late_micros[scheduler as usize], micros);
    }

    /// How long transactions took since this was asked last, in microseconds.
    pub(crate) fn take_latencies(&self) -> Histogram<u64> {
        take_all(&self.latency_micros)
    }

    /// How late transactions were sent since this was asked last, in microseconds.
    pub(crate) fn take_lateness(&self) -> Histogram<u64> {
        take_all(&self.late_micros)
    }

    /// A claim was refused for something else than a lost race. That happens under overload; the report then says why.
    pub(crate) fn note_other_refusal(&self, refusal: &v1::Refusal) {
        let text = || format!("{} {}", refusal.kind().as_str_name(), refusal.reason().as_str_name());
        self.other_refusal.lock().expect("nobody panics while holding it").get_or_insert_with(text);
    }

    /// The first of them.
    pub(crate) fn other_refusal(&self) -> Option<String> {
        self.other_refusal.lock().expect("nobody panics while holding it").clone()
    }

    /// A scheduler ended before its time.
    pub(crate) fn fail(&self, why: String) {
        self.failure.lock().expect("nobody panics while holding it").get_or_insert(why);
    }

    /// Why, if one did.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.lock().expect("nobody panics while holding it").clone()
    }
}

fn record(times: &Mutex<Histogram<u64>>, micros: u64) {
    times.lock().expect("nobody panics while holding it").saturating_record(micros);
}

fn take_all(of_schedulers: &[Mutex<Histogram<u64>>]) -> Histogram<u64> {
    let mut all = latency::histogram();
    for times in of_schedulers {
        let mut times = times.lock().expect("nobody panics while holding it");
        all.add(&*times).expect("they have the same bounds");
        times.reset();
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load() -> Load {
        let manner = Manner { claims: 1, in_flight: 1, mirrors: false, pace: Pace::Closed };
        Load::new(manner, 2, 1, Arc::<Stopped>::default(), Arc::default())
    }

    #[test]
    fn agents_and_rival_rest_beside_one_client_with_one_claim_alone() {
        let manner = |claims, in_flight| Manner { claims, in_flight, mirrors: false, pace: Pace::Closed };
        assert!(manner(1, 1).is_idle(1) && !manner(1, 1).has_rival(1));
        // One client that waits for each answer is not idle with a hundred claims in each transaction.
        for (manner, streams) in [(manner(100, 1), 1), (manner(1, 1), 64), (manner(1, 16), 1)] {
            assert!(!manner.is_idle(streams) && manner.has_rival(streams), "{manner:?} streams={streams}");
        }
        let filling = Manner { pace: Pace::Fill, ..manner(4000, 2) };
        assert!(!filling.is_idle(4) && !filling.has_rival(4), "while the cell is filled agents are alone at work");
    }

    #[test]
    fn what_is_counted_is_found_under_its_name() {
        let load = load();
        let before = load.counters();
        load.count(Count::Granted, 3);
        load.count(Count::Effective, 2);
        load.count(Count::Answered, 7);
        load.count(Count::NoRace, 1);
        let expected = Counters { granted: 3, effective: 2, answered: 7, no_race: 1, ..Counters::default() };
        assert_eq!(load.counters().since(before), expected);
    }

    #[test]
    fn latencies_of_all_schedulers_are_taken_once() {
        let load = load();
        load.took(0, 10);
        load.took(1, 30);
        let taken = load.take_latencies();
        assert_eq!((taken.len(), taken.min(), taken.max()), (2, 10, 30));
        assert_eq!(load.take_latencies().len(), 0);
    }

    #[test]
    fn how_late_transactions_were_sent_is_told_apart() {
        let load = load();
        load.took(0, 500);
        load.was_late(0, 400);
        load.was_late(1, 7);
        let late = load.take_lateness();
        assert_eq!((late.len(), late.min(), late.max()), (2, 7, 400));
        assert_eq!((load.take_lateness().len(), load.take_latencies().len()), (0, 1));
    }
}

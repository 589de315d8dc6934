//! Stories of two batch schedulers that share jobs of several bands: they keep the order that one alone has.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use plenum_model::{AllocationId, AllocationRef, AllocationState, Command, JobId, JobState, Outcome};
use plenum_sdk::{Decision, Scheduler, View};
use plenum_testkit::{JobBuilder, Seat, Stage};

use super::{Batch, NAME};

/// Cores of the one machine; each task of most jobs takes one.
const CORES: usize = 8;

/// Which jobs fall to a scheduler, as of its last decision.
type Own = Rc<RefCell<BTreeSet<JobId>>>;

/// A batch scheduler that tells which jobs are its own.
struct Member {
    batch: Batch,
    own: Own,
}

impl Scheduler for Member {
    fn name(&self) -> &str {
        NAME
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let own = view.cell().jobs().filter(|job| view.is_own(job)).map(|job| job.id);
        *self.own.borrow_mut() = own.collect();
        self.batch.decide(view)
    }

    fn takes_holds(&self) -> bool {
        self.batch.takes_holds()
    }

    fn evicts(&self) -> bool {
        self.batch.evicts()
    }

    fn answered(&mut self, tag: u64, outcome: &Outcome) {
        self.batch.answered(tag, outcome);
    }
}

/// Two of them on a cell of one machine. The first one hears of all before the other does: it wins each race.
struct Pair {
    stage: Stage,
    first: Own,
    second: Own,
    second_seat: Seat,
}

impl Pair {
    /// The machine is full of tasks of a job of low priority, which falls to the first one and has others that wait.
    fn full() -> (Self, JobId) {
        let mut stage = Stage::new();
        let (first, second) = (Own::default(), Own::default());
        stage.seat(Member { batch: Batch::default(), own: Rc::clone(&first) });
        let second_seat = stage.seat(Member { batch: Batch::default(), own: Rc::clone(&second) });
        let mut pair = Self { stage, first, second, second_seat };
        let low = pair.submit(&Rc::clone(&pair.first), |name| job(name, 40, 1000, 20));
        pair.stage.machine("m1", CORES as u64 * 1000, &[]);
        pair.stage.advance(100_000);
        assert_eq!(pair.runs(low), CORES);
        (pair, low)
    }

    /// Submits a job of which nothing can be placed yet, so that it falls to whose own jobs these are: one that falls to the other is stopped, and another one
    /// submitted.
    fn submit(&mut self, own: &Own, job: impl Fn(&str) -> JobBuilder) -> JobId {
        for number in 0..50 {
            let id = self.stage.submit(&job(&format!("job-{number}")));
            self.stage.advance(10_000);
            if own.borrow().contains(&id) {
                return id;
            }
            self.stage.ask("owner", Command::StopJob { job: id, version: None });
            self.stage.advance(10_000);
        }
        panic!("of fifty jobs none falls to it");
    }

    /// Submits a job that falls to the second one, and lets it evict only then.
    fn submit_high(&mut self, job: impl Fn(&str) -> JobBuilder) -> JobId {
        self.let_evict(false);
        let high = self.submit(&Rc::clone(&self.second), |name| job(&format!("high-{name}")));
        self.let_evict(true);
        high
    }

    fn let_evict(&mut self, evicts: bool) {
        let command = Command::SetRights { scheduler: NAME.into(), evicts: Some(evicts), priority: None };
        self.stage.ask("operator", command);
        self.stage.advance(100_000);
    }

    fn runs(&self, job: JobId) -> usize {
        self.stage.placed(job).len()
    }

    fn state(&self, job: JobId) -> JobState {
        self.stage.cell().job(job).unwrap().state
    }

    /// All that is told to leave has left; gives how many these were.
    fn leave(&mut self) -> usize {
        let leaving = self.stage.cell().allocations().filter(|found| found.status.state.is_leaving());
        let leaving: Vec<AllocationId> = leaving.map(|found| found.id).collect();
        for &allocation in &leaving {
            self.stage.report(allocation, AllocationState::Stopped, 143);
        }
        leaving.len()
    }

    /// One task of the job is done.
    fn end_one(&mut self, job: JobId) {
        let is_one = |found: &AllocationRef<'_>| found.row.job() == job && found.status.state.is_active();
        let one = self.stage.cell().allocations().find(is_one).unwrap().id;
        for state in [AllocationState::Running, AllocationState::Complete] {
            self.stage.report(one, state, 0);
        }
    }
}

/// A job of so many tasks with so much CPU each.
fn job(name: &str, count: u32, cpu_millis: i64, priority: u32) -> JobBuilder {
    JobBuilder::new(name, NAME).group("main", count, cpu_millis).priority(priority)
}

// The other one's low job took each bit of room that came free when a task of the sweep ended, and was evicted for the next one: 871 evictions of 918 for a sweep of 400
// tasks, where one scheduler alone made 90.
#[test]
fn what_comes_free_between_two_tasks_of_a_high_job_goes_to_no_low_job_of_a_peer() {
    // Also where its owner has had nothing to commit for longer than a silent peer is waited for.
    for pause_micros in [100_000, 2_700_000] {
        let (mut pair, low) = Pair::full();
        let sweep = pair.submit_high(|name| job(name, 24, 1000, 60));
        let mut evicted = 0;
        for _ in 0..24 {
            evicted += pair.leave();
            pair.end_one(sweep);
            pair.stage.advance(pause_micros);
        }
        assert_eq!((evicted + pair.leave(), pair.state(sweep)), (CORES, JobState::Complete), "{pause_micros}");
        // And the low one starves no longer than the sweep lasts.
        for _ in 0..40 {
            pair.end_one(low);
            pair.stage.advance(100_000);
        }
        assert_eq!(pair.state(low), JobState::Complete);
    }
}

// A gang of the other one held what came free before room could be left to the sweep, which took it back with a hold of its own or by evictions.
#[test]
fn what_comes_free_between_two_tasks_of_a_high_job_is_held_for_no_gang_of_a_peer() {
    let (mut pair, low) = Pair::full();
    let gang = pair.submit(&Rc::clone(&pair.first), |name| job(&format!("gang-{name}"), 4, 1000, 20).min(4));
    let sweep = pair.submit_high(|name| job(name, 60, 1000, 60));
    let mut evicted = 0;
    for _ in 0..60 {
        evicted += pair.leave();
        pair.end_one(sweep);
        pair.stage.advance(300_000);
    }
    assert_eq!((evicted + pair.leave(), pair.state(sweep)), (CORES, JobState::Complete));
    for _ in 0..8 {
        pair.end_one(low);
        pair.stage.advance(300_000);
    }
    assert_eq!(pair.runs(gang), 4, "it starts once the sweep is over");
}

#[test]
fn as_soon_as_the_high_job_needs_less_than_comes_free_a_peer_takes_the_rest() {
    let (mut pair, low) = Pair::full();
    let high = pair.submit_high(|name| job(name, 9, 1000, 60));
    pair.leave();
    pair.end_one(high);
    pair.stage.advance(10_000);
    assert_eq!((pair.runs(high), pair.runs(low)), (CORES, 0));
    pair.end_one(high);
    pair.stage.advance(10_000);
    assert_eq!((pair.runs(high), pair.runs(low)), (CORES - 1, 1));
}

#[test]
fn room_that_is_left_to_one_that_hangs_is_used_a_second_later() {
    let (mut pair, low) = Pair::full();
    let high = pair.submit_high(|name| job(name, 20, 1000, 60));
    pair.leave();
    pair.stage.advance(100_000);
    // What it commits nobody reads.
    pair.stage.hold(pair.second_seat);
    pair.end_one(high);
    pair.stage.advance(100_000);
    assert_eq!((pair.runs(high), pair.runs(low)), (CORES - 1, 0), "it may be alive");
    pair.stage.advance(1_100_000);
    assert_eq!((pair.runs(high), pair.runs(low)), (CORES, 0), "the other one has placed its next task");
    pair.end_one(high);
    pair.stage.advance(10_000);
    assert_eq!((pair.runs(high), pair.runs(low)), (CORES, 0), "and from then on does so at once");
}

#[test]
fn what_fits_nowhere_is_left_no_room() {
    // Each task is larger than the machine; and of smaller ones more are needed at once than it takes.
    let large: fn(&str) -> JobBuilder = |name| job(name, 5, 9000, 60);
    let gang: fn(&str) -> JobBuilder = |name| job(name, 3, 3000, 60).min(3);
    for high in [large, gang] {
        let (mut pair, low) = Pair::full();
        pair.submit_high(high);
        pair.leave();
        pair.end_one(low);
        pair.stage.advance(10_000);
        assert_eq!(pair.runs(low), CORES);
    }
}

#[test]
fn what_sleeps_over_a_failure_is_left_no_room() {
    let (mut pair, low) = Pair::full();
    let high = pair.submit_high(|name| job(name, 1, 2000, 60).retry(3, 60_000_000));
    pair.leave();
    assert_eq!((pair.runs(high), pair.runs(low)), (1, CORES - 2));
    pair.stage.finish(high, false);
    pair.stage.advance(10_000);
    assert_eq!((pair.runs(high), pair.runs(low)), (0, CORES));
}

#[test]
fn a_job_of_the_same_band_is_left_no_room() {
    let (mut pair, low) = Pair::full();
    let peer = pair.submit_high(|name| job(name, 4, 1000, 29));
    pair.end_one(low);
    pair.stage.advance(10_000);
    assert_eq!((pair.runs(peer), pair.runs(low)), (0, CORES), "it would evict nobody for it");
}

//! Stories of what waits of peers and comes before own work.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use plenum_sdk::{Backoff, Decision, Ledger, Plan, Scheduler, Settings, View, Work};

use super::tests::job;
use super::*;

/// What a scheduler saw in its last decision, by the names of jobs.
#[derive(Default)]
struct Sight {
    own: BTreeSet<String>,
    /// How many tasks.
    ahead: BTreeMap<String, usize>,
    /// In which order these were.
    order: Vec<String>,
}

/// Claims the first machine that fits, beside what comes first of peers' jobs. It keeps away from some jobs of its own.
struct Polite {
    avoids: &'static str,
    sight: Rc<RefCell<Sight>>,
}

impl Scheduler for Polite {
    fn name(&self) -> &str {
        "blue"
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let (mut decision, mut ledger) = (Decision::default(), view.ledger());
        let own = view.cell().jobs().filter(|job| view.is_own(job)).map(|job| job.shape.name.to_string());
        let mut sight = Sight { own: own.collect(), ..Sight::default() };
        let (mut left, mut plan) = (Plan::incremental(), Plan::incremental());
        for work in view.ahead() {
            assert!(work.tasks.len() >= work.least as usize, "{} of {}", work.tasks.len(), work.least);
            *sight.ahead.entry(work.job.shape.name.to_string()).or_default() += work.tasks.len();
            sight.order.push(work.job.shape.name.split('-').next().unwrap_or_default().to_owned());
            claim(view, &mut ledger, work, &mut left);
        }
        let avoids = |work: &&Work| !self.avoids.is_empty() && work.job.shape.name.starts_with(self.avoids);
        for work in view.work().iter().filter(|work| !avoids(work)) {
            claim(view, &mut ledger, work, &mut plan);
        }
        decision.leave(&left);
        decision.commit(plan);
        *self.sight.borrow_mut() = sight;
        decision
    }
}

fn claim(view: &View<'_>, ledger: &mut Ledger<'_>, work: &Work, plan: &mut Plan) {
    let (mut tasks, mut machines) = (Vec::new(), Vec::new());
    for &task in &work.tasks {
        let mut slots = view.cell().machines().map(|machine| machine.id.slot);
        if let Some(slot) = slots.find(|&slot| ledger.take(work, slot)) {
            tasks.push(task);
            machines.push(slot);
        }
    }
    plan.claim(work, &tasks, &machines);
}

/// Two of them, without a machine.
struct Two {
    stage: Stage,
    first: Rc<RefCell<Sight>>,
    second: Rc<RefCell<Sight>>,
}

impl Two {
    /// The second one keeps away from jobs whose names begin so, if that is not empty.
    fn new(avoids: &'static str, settings: &Settings) -> Self {
        let mut stage = Stage::new();
        let [first, second] = ["", avoids].map(|avoids| {
            let sight = Rc::new(RefCell::new(Sight::default()));
            let settings = Settings { seed: stage.seats.len() as u64, ..settings.clone() };
            stage.seat_with(Polite { avoids, sight: Rc::clone(&sight) }, settings);
            sight
        });
        Self { stage, first, second }
    }

    /// Submits a job that can't be placed yet, until one falls to whose sight that is.
    fn submit(&mut self, sight: &Rc<RefCell<Sight>>, job: impl Fn(&str) -> JobBuilder, name: &str) -> JobId {
        for number in 0..50 {
            let name = format!("{name}-{number}");
            let id = self.stage.submit(&job(&name));
            self.stage.advance(5_000);
            if sight.borrow().own.contains(&name) {
                return id;
            }
            self.stage.ask("owner", Command::StopJob { job: id, version: None });
            self.stage.advance(5_000);
        }
        panic!("of fifty jobs none falls to it");
    }
}

fn of_priority(priority: u32, count: u32) -> impl Fn(&str) -> JobBuilder {
    move |name: &str| job(name, "blue", count).priority(priority)
}

#[test]
fn what_waits_of_a_peers_higher_band_comes_before_own_work() {
    let mut two = Two::new("", &Settings { tasks_max: 10, ..Settings::default() });
    let (first, second) = (Rc::clone(&two.first), Rc::clone(&two.second));
    two.submit(&second, of_priority(60, 3), "high");
    two.submit(&second, of_priority(79, 4), "higher");
    two.submit(&second, of_priority(59, 1), "alike");
    two.submit(&first, of_priority(90, 1), "own");
    two.stage.submit(&job("other", "red", 1).priority(99));
    two.stage.advance(10_000);
    assert_eq!(first.borrow().ahead, BTreeMap::new(), "own work is of the highest band");
    two.submit(&first, of_priority(51, 1), "low");
    two.stage.advance(10_000);
    let names = |sight: &Rc<RefCell<Sight>>| -> Vec<(String, usize)> {
        let number = |name: &String| name.split('-').next().unwrap_or_default().to_owned();
        sight.borrow().ahead.iter().map(|(name, tasks)| (number(name), *tasks)).collect()
    };
    assert_eq!(names(&first), [("high".to_owned(), 3), ("higher".to_owned(), 4)]);
    assert_eq!(names(&second), [("own".to_owned(), 1)]);
    // No more tasks than a decision has of work, the first in the queue.
    two.submit(&second, of_priority(60, 20), "late");
    two.stage.advance(10_000);
    let found = names(&first);
    assert_eq!(found, [("high".to_owned(), 3), ("higher".to_owned(), 4), ("late".to_owned(), 3)]);
}

// In the milliseconds of its rest what came free was offered to the jobs behind it alone.
#[test]
fn what_rests_of_own_jobs_after_a_lost_race_comes_before_own_work_and_before_peers_of_its_band() {
    let retry = Backoff { first_micros: 100_000, most_micros: 2_000_000 };
    let mut two = Two::new("", &Settings { retry, peer_silence_micros: 60_000_000, ..Settings::default() });
    let (first, second) = (Rc::clone(&two.first), Rc::clone(&two.second));
    let of = |priority: u32, of: &'static str| move |name: &str| job(name, "blue", 1).priority(priority).on("for", of);
    two.submit(&second, of(70, "nobody"), "higher");
    two.submit(&second, of(69, "nobody"), "alike");
    let high = two.submit(&first, of(65, "high"), "high");
    two.submit(&first, of(51, "nobody"), "low");
    let other = two.stage.submit(&job("other", "red", 1));
    two.stage.hold(Seat(0));
    let machine = two.stage.machine("m1", 1_000, &[("for", "high")]);
    two.stage.advance(5_000);
    let deadline = two.stage.cell().time().plus_micros(600_000_000);
    let hold = |machines: Vec<u32>, resources| {
        let session = SessionId::default();
        Command::TakeHold { session, job: other, machines, resources, deadline }
    };
    two.stage.ask("owner", hold(vec![machine], Resources::new(1_000, 1)));
    two.stage.release(Seat(0));
    two.stage.ask("owner", hold(Vec::new(), Resources::default()));
    two.stage.advance(5_000);
    assert_eq!(two.stage.placed(high).len(), 0, "it lost, and rests");
    assert_eq!(first.borrow().order, ["higher", "high", "alike"]);
    two.stage.advance(200_000);
    assert_eq!(two.stage.placed(high).len(), 1);
}

// The task that could be placed was told to come first, and what came free was left to it for a second, though its gang could not begin.
#[test]
fn a_peers_gang_of_which_too_few_can_be_placed_has_nothing_left_to_it() {
    let mut two = Two::new("", &Settings { peer_silence_micros: 60_000_000, ..Settings::default() });
    let (first, second) = (Rc::clone(&two.first), Rc::clone(&two.second));
    let gang = |name: &str| job(name, "blue", 4).min(4).single_instance().priority(60);
    let gang = two.submit(&second, gang, "gang");
    let low = two.submit(&first, of_priority(20, 1), "low");
    two.stage.machine("m1", 4_000, &[]);
    two.stage.advance(100_000);
    let placed = |two: &Two| [gang, low].map(|job| two.stage.placed(job).len());
    assert_eq!(placed(&two), [4, 0]);
    let tasks: Vec<_> = two.stage.cell().allocations().map(|found| found.id).collect();
    for &task in &tasks {
        two.stage.ask("owner", Command::StopAllocation(task));
    }
    two.stage.report(tasks[0], AllocationState::Stopped, 143);
    two.stage.advance(10_000);
    assert_eq!(placed(&two), [0, 1]);
}

// Who was alive and left its job lying for a reason of its own kept the room from all others for ever.
#[test]
fn room_is_left_for_a_second_to_a_job_that_its_owner_does_not_place() {
    let mut two = Two::new("high", &Settings::default());
    let (first, second) = (Rc::clone(&two.first), Rc::clone(&two.second));
    let ticks = two.submit(&second, |name| job(name, "blue", 1000).priority(90).on("for", "ticks"), "ticks");
    let high = two.submit(&second, |name| job(name, "blue", 2).priority(60).on("for", "work"), "high");
    let low = two.submit(&first, |name| job(name, "blue", 9).priority(20).on("for", "work"), "low");
    two.stage.machine("ticks", 1_000, &[("for", "ticks")]);
    two.stage.machine("work", 1_000, &[("for", "work")]);
    two.stage.advance(10_000);
    let placed = |two: &mut Two, tenths: u32| {
        for _ in 0..tenths {
            // It commits something each time: nobody thinks it dead, or tries its jobs.
            two.stage.finish(ticks, true);
            two.stage.advance(100_000);
        }
        [high, low].map(|job| two.stage.placed(job).len())
    };
    assert_eq!(placed(&mut two, 8), [0, 0]);
    assert_eq!(placed(&mut two, 4), [0, 1], "a second later");
    two.stage.finish(low, true);
    assert_eq!(placed(&mut two, 1), [0, 1], "and from then on at once");
}

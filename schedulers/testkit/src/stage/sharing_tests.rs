//! Stories of sessions that share jobs: who looks after which.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use plenum_model::Job;
use plenum_sdk::{Decision, Scheduler, Settings, View};

use super::tests::job;
use super::*;

/// Names of jobs.
type Names = Rc<RefCell<BTreeSet<String>>>;

/// What is asked of each job.
type Question = fn(&View<'_>, &Job) -> bool;

/// Places nothing, and tells each second of which jobs the answer is yes.
struct Owner {
    name: &'static str,
    asks: Question,
    own: Names,
}

impl Scheduler for Owner {
    fn name(&self) -> &str {
        self.name
    }

    fn decides_unasked(&self) -> bool {
        true
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let own = view.cell().jobs().filter(|job| (self.asks)(view, job));
        *self.own.borrow_mut() = own.map(|job| job.shape.name.to_string()).collect();
        let mut decision = Decision::default();
        decision.again_after(1_000_000);
        decision
    }
}

fn seat(stage: &mut Stage, name: &'static str, namespace: &str) -> (Seat, Names) {
    seat_that_asks(stage, name, namespace, |view, job| view.is_own(job))
}

fn seat_that_asks(stage: &mut Stage, name: &'static str, namespace: &str, asks: Question) -> (Seat, Names) {
    let own = Names::default();
    let seed = stage.seats.len() as u64;
    let settings = Settings { seed, namespace: namespace.into(), ..Settings::default() };
    (stage.seat_with(Owner { name, asks, own: own.clone() }, settings), own)
}

fn names(prefix: &str) -> BTreeSet<String> {
    (0..20).map(|number| format!("{prefix}{number}")).collect()
}

/// Who moved or stopped what runs had to guess it: of work alone it is told.
#[test]
fn each_job_is_the_own_of_one_session_of_its_scheduler_and_namespace() {
    let mut stage = Stage::new();
    let (one, ones) = seat(&mut stage, "blue", "");
    let (_, twos) = seat(&mut stage, "blue", "");
    let (_, reds) = seat(&mut stage, "red", "");
    let (_, labs) = seat(&mut stage, "blue", "lab");
    for number in 0..20 {
        stage.submit(&job(&format!("blue{number}"), "blue", 1));
        stage.submit(&job(&format!("red{number}"), "red", 1));
        stage.submit(&job(&format!("lab{number}"), "blue", 1).namespace("lab"));
    }
    stage.advance(2_000_000);
    let both: BTreeSet<String> = names("blue").union(&names("lab")).cloned().collect();
    assert_eq!(ones.borrow().union(&twos.borrow()).cloned().collect::<BTreeSet<_>>(), both);
    assert!(ones.borrow().is_disjoint(&twos.borrow()) && !ones.borrow().is_empty() && !twos.borrow().is_empty());
    assert_eq!((&*reds.borrow(), &*labs.borrow()), (&names("red"), &names("lab")));

    stage.cut_off(one);
    stage.close_session(stage.runtime(one).session());
    let over = stage.cell().job_named("default", "blue7").unwrap().id;
    stage.ask("owner", Command::StopJob { job: over, version: None });
    stage.advance(2_000_000);
    let left: BTreeSet<String> = both.into_iter().filter(|name| name != "blue7").collect();
    assert_eq!(*twos.borrow(), left, "those of who left, and none that is over");
}

// Its session stays open for ten minutes. Who asked for the own jobs alone left the others standing as long, and nothing said so.
#[test]
fn who_is_left_looks_after_the_jobs_of_one_that_was_killed() {
    let mut stage = Stage::new();
    let (killed, _) = seat(&mut stage, "blue", "");
    let (_, looked_after) = seat_that_asks(&mut stage, "blue", "", |view, job| view.looks_after(job));
    for number in 0..20 {
        stage.submit(&job(&format!("blue{number}"), "blue", 1));
        stage.submit(&job(&format!("red{number}"), "red", 1));
    }
    stage.cut_off(killed);
    stage.advance(2_500_000);
    assert_eq!(*looked_after.borrow(), names("blue"), "those that fell to the other one, too");
}

/// Places nothing, and has one word for all that waits: each of two its own. An empty one is not said.
struct Saying {
    words: Rc<RefCell<[&'static str; 2]>>,
    which: usize,
}

impl Scheduler for Saying {
    fn name(&self) -> &str {
        "blue"
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let mut decision = Decision::default();
        for work in view.work() {
            let word = self.words.borrow()[self.which];
            if !word.is_empty() {
                decision.pass_over(work, work.tasks.len(), word);
            }
        }
        decision
    }
}

/// Two of them, a job that waits, and which of both owns it, as that has said its word.
fn two_that_say(words: &Rc<RefCell<[&'static str; 2]>>) -> (Stage, JobId, usize) {
    let mut stage = Stage::new();
    for which in 0..2 {
        stage.seat(Saying { words: Rc::clone(words), which });
    }
    let waits = stage.submit(&job("waits", "blue", 1));
    stage.advance(500_000);
    let owner = words.borrow().iter().position(|word| *word == stage.passed_over(waits, 0));
    (stage, waits, owner.expect("one of both says a word of it"))
}

// Who tried a silent peer's job said once more why it waits after each pass in which it had not tried it, over what its owner had said meanwhile.
#[test]
fn what_the_owner_of_a_job_says_next_goes_over_what_a_peer_has_said_of_it() {
    let words = Rc::new(RefCell::new(["first", "second"]));
    let (mut stage, waits, owner) = two_that_say(&words);
    stage.advance(2_500_000);
    assert_eq!(stage.passed_over(waits, 0), words.borrow()[1 - owner], "it may be the only one that is there");
    words.borrow_mut()[owner] = "third";
    stage.machine("m1", 1_000, &[]);
    stage.advance(5_000_000);
    assert_eq!(stage.passed_over(waits, 0), "third");
}

// Where it had nothing to say of it, that went over the reason that the owner had given.
#[test]
fn that_no_reason_was_given_is_not_said_of_a_peers_job() {
    let words = Rc::new(RefCell::new(["first", "second"]));
    let (mut stage, waits, owner) = two_that_say(&words);
    words.borrow_mut()[1 - owner] = "";
    stage.advance(2_500_000);
    assert_eq!(stage.passed_over(waits, 0), words.borrow()[owner]);
}

/// Tells of the first job whether it waits out a refusal; claims a machine that is not there for what waits.
struct Refused(Rc<RefCell<Vec<bool>>>);

impl Scheduler for Refused {
    fn name(&self) -> &str {
        "blue"
    }

    fn decides_unasked(&self) -> bool {
        true
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let mut decision = Decision::default();
        for work in view.work() {
            let mut plan = plenum_sdk::Plan::incremental();
            plan.claim(work, &work.tasks, &vec![9; work.tasks.len()]);
            decision.commit(plan);
        }
        self.0.borrow_mut().extend(view.cell().jobs().map(|job| view.rests(job)));
        decision.again_after(100_000);
        decision
    }
}

#[test]
fn a_job_rests_after_a_refusal_until_it_is_offered_again() {
    let mut stage = Stage::new();
    stage.machine("m1", 1000, &[]);
    let rests = Rc::default();
    stage.seat_with(
        Refused(Rc::clone(&rests)),
        Settings { retry: plenum_sdk::Backoff { first_micros: 250_000, most_micros: 250_000 }, ..Settings::default() },
    );
    stage.submit(&job("words", "blue", 1));
    stage.advance(700_000);
    let rests = rests.borrow();
    assert!(!rests[0] && rests[1], "{rests:?}");
    // Between half of the delay and all of it.
    assert!(rests[1..].iter().any(|rests| !rests) && rests.iter().filter(|rests| **rests).count() >= 3, "{rests:?}");
}

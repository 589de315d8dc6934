//! What a cell remembers once has a number, and leaves it to others when nobody refers to it any more.

use plenum_model::{
    AllocationState, Command, Constraint, Decision, Delta, FoundMachine, GroupShape, JobId, LogTime, Operator,
    RefusalKind, RefusalReason, Rejection, RejectionCode, Request, Resources, SessionId, Transaction, TransactionId,
    Transition,
};

use super::costs::{Large, placement};
use crate::invariants::{Violation, invariant_allocations_have_what_their_groups_declare};
use crate::{Core, CoreOptions, Decided};

const RETIRE_MICROS: i64 = 1_000_000;

fn large(shapes_max: usize, shapes_spare: usize) -> Large {
    let retire_after_micros = RETIRE_MICROS;
    Large::new(CoreOptions { shapes_max, shapes_spare, retire_after_micros, ..CoreOptions::default() })
}

fn of(memory_bytes: u64) -> GroupShape {
    GroupShape { count: 1, resources: Resources::new(100, memory_bytes), ..GroupShape::default() }
}

impl Large {
    /// A job whose only task needs so much memory.
    fn needs(&mut self, memory_bytes: u64) -> JobId {
        self.job_at(0, of(memory_bytes))
    }

    /// Stops a job that runs nothing, and lets it be retired.
    fn retire(&mut self, job: JobId) {
        assert!(matches!(self.ask(Command::StopJob { job, version: None }), Decision::Accepted { .. }));
        self.now = self.now.plus_micros(RETIRE_MICROS);
        self.ask(Command::Tick);
        assert_eq!(self.core.cell().job(job), None, "it is retired");
    }

    /// The number of resources with so much memory.
    fn number(&self, memory_bytes: u64) -> Option<u32> {
        self.core.cell().shape_number(&of(memory_bytes).resources)
    }

    fn refusal(&mut self, memory_bytes: u64) -> Rejection {
        let mut shape = plenum_model::JobShape::clone(&self.core.cell().jobs().next().expect("some job").shape);
        shape.name = "one-more".into();
        shape.groups[0].resources = of(memory_bytes).resources;
        let command = Command::submit(shape);
        let Decision::Rejected(rejection) = self.ask(command) else { panic!("it is refused") };
        rejection
    }

    /// Ends whatever runs.
    fn end_all(&mut self) {
        let cell = self.core.cell();
        let ends = cell.allocations().map(|found| {
            let machine = cell.machine_in(found.row.machine).expect("it is there");
            Transition::new(machine.id, found.row.epoch, found.id, AllocationState::Complete)
        });
        let ends = ends.collect();
        self.ask(Command::ReportStatus(ends));
    }
}

// Whoever computes the memory of jobs in bytes used all numbers up within weeks, and then nobody could submit anything new, for ever.
#[test]
fn a_thousand_jobs_that_need_a_thousand_amounts_of_memory_come_and_go() {
    let mut large = large(16, 4);
    let machine = large.machine("m1".to_owned());
    for memory_bytes in 1..=1000 {
        let job = large.needs(memory_bytes);
        assert_eq!(large.commit(vec![placement(job, 0..1, |_| machine.slot, 0)]).granted(), 1);
        let room = large.core.cell().room(machine.slot);
        assert_eq!(room.0[..2], [1_000_000 - 100, (1 << 40) - i64::try_from(memory_bytes).expect("small")]);
        large.end_all();
        large.now = large.now.plus_micros(RETIRE_MICROS);
        large.ask(Command::Tick);
        assert_eq!(large.core.cell().job(job), None, "it is retired");
    }
    // Four may wait beside the one in use.
    assert_eq!(large.core.cell().shapes().len(), 5);
}

#[test]
fn resources_that_jobs_have_keep_their_numbers() {
    let mut large = large(2, 0);
    let (first, second) = (large.needs(1), large.needs(2));
    let also_second = large.needs(2);
    let refusal = large.refusal(3);
    assert_eq!(refusal.code, RejectionCode::LimitReached);
    assert!(refusal.message.starts_with("at most 2 different resources of groups at once"), "{}", refusal.message);

    large.retire(second);
    large.refusal(3);
    large.retire(also_second);
    assert_eq!(large.number(2), Some(1), "nothing was told: it stands there until somebody needs the number");
    large.needs(3);
    assert_eq!([1, 2, 3].map(|memory_bytes| large.number(memory_bytes)), [Some(0), None, Some(1)]);
    large.retire(first);
    large.needs(2);
    assert_eq!([1, 2, 3].map(|memory_bytes| large.number(memory_bytes)), [None, Some(0), Some(1)]);
}

#[test]
fn a_number_that_waited_the_longest_goes_first_and_whoever_needs_the_same_again_has_it() {
    let mut large = large(100, 2);
    let jobs = [1, 2, 3].map(|memory_bytes| large.needs(memory_bytes));
    let [first, second, third] = jobs;
    [second, first].into_iter().for_each(|job| large.retire(job));
    large.needs(4);
    assert_eq!(large.number(4), Some(3), "two wait, as they may");
    large.retire(third);
    large.needs(5);
    assert_eq!((large.number(5), large.number(2)), (Some(1), None));
    large.needs(1);
    large.needs(6);
    assert_eq!((large.number(1), large.number(6)), (Some(0), Some(4)), "one is left, and waits");
}

/// What a job needs again is not given away for what else it needs.
#[test]
fn a_job_finds_the_resources_that_it_needs_again_beside_new_ones() {
    let mut large = large(2, 0);
    let (first, second) = (large.needs(1), large.needs(2));
    let mut shape = plenum_model::JobShape::clone(&large.core.cell().job(first).expect("it is there").shape);
    shape.name = "both".into();
    shape.groups = [(1, "again"), (3, "new"), (3, "same")]
        .map(|(memory_bytes, name)| GroupShape { name: name.into(), ..of(memory_bytes) })
        .into();
    large.retire(first);
    large.retire(second);
    let command = Command::submit(shape);
    assert!(matches!(large.ask(command), Decision::Accepted { .. }));
    assert_eq!([1, 2, 3].map(|memory_bytes| large.number(memory_bytes)), [Some(0), None, Some(1)]);
    let machine = large.machine("m1".to_owned());
    let job = large.core.cell().job_named("default", "both").expect("it is there").id;
    let placements = (0..3).map(|group| plenum_model::Placement { group, ..placement(job, 0..1, |_| machine.slot, 0) });
    assert_eq!(large.commit(placements.collect()).granted(), 3);
    assert_eq!(large.core.cell().room(machine.slot).0[1], (1 << 40) - 7);
}

/// A job that is over is submitted again with other resources: until then it has the old ones.
#[test]
fn another_version_of_a_job_leaves_the_numbers_of_the_one_before() {
    let mut large = large(2, 0);
    let job = large.needs(1);
    let shape = large.core.cell().job(job).expect("it is there").shape.clone();
    let submit = |large: &mut Large, memory_bytes: u64| {
        large.ask(Command::StopJob { job, version: None });
        let mut shape = plenum_model::JobShape::clone(&shape);
        shape.groups[0].resources = of(memory_bytes).resources;
        large.ask(Command::submit(shape))
    };
    for version in 2..20 {
        let Decision::Accepted { version: found, .. } = submit(&mut large, version.into()) else { panic!("accepted") };
        assert_eq!(found, version);
    }
    assert_eq!(large.core.cell().shapes().len(), 2);
}

#[test]
fn who_lost_to_a_job_whose_resources_are_forgotten_is_told_that_nobody_knows() {
    let mut large = large(2, 0);
    let machine = large.machine("m1".to_owned());
    let claim = |large: &mut Large, base, job| {
        let placements = vec![placement(job, 0..1, |_| machine.slot, 0)];
        large.commit_on(Transaction { base, placements, ..Transaction::default() })
    };
    let much = large.needs((1 << 40) - 10);
    let before = large.core.cell().revision();
    let short = large.needs(1 << 39);
    assert_eq!(large.commit(vec![placement(short, 0..1, |_| machine.slot, 0)]).granted(), 1);
    large.end_all();
    large.now = large.now.plus_micros(RETIRE_MICROS);
    large.ask(Command::Tick);
    let after = large.core.cell().revision();
    // It has the number of those that are gone, and takes what would have to be there.
    let rest = large.needs(11);
    assert_eq!(large.number(11), Some(1));
    assert_eq!(claim(&mut large, before, rest).granted(), 1);

    let refused = claim(&mut large, before, much);
    assert_eq!(refused.refusals[0].kind, RefusalKind::Stale);
    let refused = claim(&mut large, after, much);
    assert_eq!((refused.refusals[0].kind, refused.refusals[0].culprits_total), (RefusalKind::Conflict, 11));
}

#[test]
fn what_is_refused_as_it_is_decided_takes_no_number() {
    let mut large = large(3, 0);
    let gone = large.needs(1);
    large.needs(2);
    large.retire(gone);
    let shape = large.core.cell().jobs().next().expect("some job").shape.clone();
    let mut shape = plenum_model::JobShape::clone(&shape);
    (shape.name, shape.groups[0].resources) = ("late".into(), of(3).resources);
    let command = Command::submit(shape);
    let request = Request { principal: "local".into(), namespace: "default".into(), command };
    let mut given = Vec::new();
    for accepted in [false, true] {
        let decided = large.core.decide_if(&request, large.now, |_, delta| {
            given.push(delta.reshaped.clone());
            if accepted { Ok(()) } else { Err(Rejection::new(RejectionCode::LimitReached, "too large")) }
        });
        assert_eq!(matches!(decided, Decided::Changed { .. }), accepted);
        assert_eq!(large.number(1).is_none(), accepted);
    }
    assert_eq!(given, [vec![(0, of(3).resources)], vec![(0, of(3).resources)]]);
}

#[test]
fn an_allocation_that_has_other_resources_than_its_group_is_found() {
    let mut large = large(3, 0);
    let machine = large.machine("m1".to_owned());
    let job = large.needs(1);
    assert_eq!(large.commit(vec![placement(job, 0..1, |_| machine.slot, 0)]).granted(), 1);
    let mut cell = large.core.cell().clone();
    assert_eq!(invariant_allocations_have_what_their_groups_declare(&cell), Ok(()));
    let delta = Delta::new(cell.revision().next(), LogTime::from_micros(i64::MAX));
    cell.apply(&Delta { reshaped: vec![(0, of(2).resources)], ..delta }).expect("it folds");
    let allocation = cell.allocations().next().expect("it is live").id;
    let found = invariant_allocations_have_what_their_groups_declare(&cell);
    assert_eq!(found, Err(Violation::OtherResources { allocation }));
}

/// A server that starts again knows which numbers are free from the cell alone.
#[test]
fn numbers_are_given_away_after_a_start_as_well() {
    let mut large = large(2, 0);
    let (first, _) = (large.needs(1), large.needs(2));
    large.retire(first);
    large.core = Core::from_cell(large.core.cell().clone(), large.core.options().clone());
    large.needs(3);
    assert_eq!([1, 2, 3].map(|memory_bytes| large.number(memory_bytes)), [None, Some(1), Some(0)]);
    large.refusal(4);
}

// A cell whose machines had had 131,072 different sets of attributes, as after some upgrades of their kernels, took no other one for ever.
#[test]
fn attributes_count_as_long_as_machines_have_them() {
    let mut large = Large::new(CoreOptions { classes_max: 2, ..CoreOptions::default() });
    let register = |large: &mut Large, name: &str, kernel: &str| {
        let decision = large.ask(Command::RegisterMachine(FoundMachine {
            name: name.into(),
            boot_id: kernel.into(),
            capacity: Resources::new(1000, 1 << 30),
            attributes: std::sync::Arc::new([("kernel".into(), kernel.into())].into_iter().collect()),
            seen: large.core.cell().revision(),
            ..FoundMachine::default()
        }));
        match decision {
            Decision::Accepted { id, .. } => plenum_model::MachineId::from_bits(id),
            Decision::Rejected(rejection) => {
                assert_eq!(rejection.code, RejectionCode::LimitReached);
                assert!(rejection.message.starts_with("at most 2 different sets of attributes"), "{rejection:?}");
                None
            }
            Decision::Outcome(_) => panic!("it is no transaction"),
        }
    };
    let first = register(&mut large, "m1", "6.1").expect("it is the first");
    assert!(register(&mut large, "m2", "6.2").is_some());
    assert!(register(&mut large, "m3", "6.2").is_some());
    assert_eq!(register(&mut large, "m4", "6.3"), None);
    assert_eq!(register(&mut large, "m2", "6.3"), None, "another one has what it leaves");
    assert_eq!(register(&mut large, "m1", "6.3"), Some(first), "nobody has what it leaves");
    assert_eq!(register(&mut large, "m4", "6.1"), None);
    large.ask(Command::RemoveMachine { machine: first, unless_alive: false });
    assert!(register(&mut large, "m4", "6.1").is_some());
    (0..3000).for_each(|kernel| assert!(register(&mut large, "m4", &format!("7.{kernel}")).is_some()));
    assert!(large.core.cell().class_numbering() > 0);
}

fn of_schedulers(schedulers_max: usize, schedulers_spare: usize) -> Large {
    let retire_after_micros = RETIRE_MICROS;
    Large::new(CoreOptions { schedulers_max, schedulers_spare, retire_after_micros, ..CoreOptions::default() })
}

impl Large {
    fn open(&mut self, scheduler: &str) -> SessionId {
        let decision = self.ask(Command::OpenSession { scheduler: scheduler.into() });
        let Decision::Accepted { id, .. } = decision else { panic!("{decision:?}") };
        SessionId(id)
    }

    fn close(&mut self, session: SessionId) {
        assert!(matches!(self.ask(Command::CloseSession(session)), Decision::Accepted { .. }));
    }

    fn may_open(&mut self, scheduler: &str) -> bool {
        match self.ask(Command::OpenSession { scheduler: scheduler.into() }) {
            Decision::Accepted { id, .. } => {
                self.close(SessionId(id));
                true
            }
            decision => {
                let Decision::Rejected(rejection) = decision else { panic!("{decision:?}") };
                assert_eq!(rejection.code, RejectionCode::LimitReached);
                false
            }
        }
    }

    fn names(&self) -> Vec<&str> {
        self.core.cell().scheduler_names().iter().map(|name| &**name).collect()
    }
}

// Schedulers that have their host's or their process's number in their names used all numbers up, and no other one could ever come.
#[test]
fn a_name_that_nobody_goes_by_leaves_its_number_to_others() {
    let mut large = of_schedulers(3, 0);
    // The harness has a session as `batch`.
    let first = large.open("first");
    let (_, also_first) = (large.open("second"), large.open("first"));
    assert!(!large.may_open("third"));
    large.close(first);
    assert!(!large.may_open("third"), "it has another session");
    large.close(also_first);
    assert_eq!(large.names(), ["batch", "first", "second"]);
    large.open("third");
    assert_eq!(large.names(), ["batch", "third", "second"]);
    assert!(!large.may_open("first"));
    for number in 0..100 {
        large.core = Core::from_cell(large.core.cell().clone(), large.core.options().clone());
        assert!(!large.may_open(&format!("more-{number}")));
    }
}

#[test]
fn a_scheduler_keeps_its_number_while_there_are_jobs_for_it() {
    let mut large = of_schedulers(2, 0);
    let session = large.open("gone");
    let mut shape = plenum_model::JobShape {
        namespace: "default".into(),
        name: "job".into(),
        scheduler: "gone".into(),
        groups: vec![GroupShape { name: "main".into(), ..of(1) }],
        ..plenum_model::JobShape::default()
    };
    let submit = |large: &mut Large, shape: &plenum_model::JobShape| {
        let command = Command::submit(shape.clone());
        let Decision::Accepted { id, .. } = large.ask(command) else { panic!("submitting is accepted") };
        JobId::from_bits(id).expect("an id")
    };
    let job = submit(&mut large, &shape);
    large.close(session);
    assert!(!large.may_open("other"));
    // Its next version is for another scheduler, which has no number before it comes.
    large.ask(Command::StopJob { job, version: None });
    shape.scheduler = "other".into();
    submit(&mut large, &shape);
    assert_eq!(large.names(), ["batch", "gone"]);
    large.open("other");
    assert_eq!(large.names(), ["batch", "other"]);
    large.retire(job);
    assert!(!large.may_open("gone"), "it has its session");
}

#[test]
fn names_wait_before_they_are_given_away() {
    let mut large = of_schedulers(100, 2);
    ["a", "b", "c", "a", "d", "e"].into_iter().for_each(|name| assert!(large.may_open(name)));
    assert_eq!(large.names(), ["batch", "a", "d", "e"], "the one that came again waits the shortest");
}

/// The machine was changed by a scheduler that is gone: nobody else is blamed for it.
#[test]
fn who_is_to_blame_and_has_no_name_any_more_is_not_called_by_another_one() {
    let mut large = of_schedulers(2, 0);
    let machine = large.machine("m1".to_owned());
    let job = large.needs(1);
    let session = large.open("gone");
    let shape = plenum_model::JobShape {
        namespace: "default".into(),
        name: "large".into(),
        scheduler: "gone".into(),
        groups: vec![GroupShape { name: "main".into(), ..of(1) }],
        ..plenum_model::JobShape::default()
    };
    let command = Command::submit(shape);
    let Decision::Accepted { id, .. } = large.ask(command) else { panic!("submitting is accepted") };
    let gone = JobId::from_bits(id).expect("an id");
    let base = large.core.cell().revision();
    let txn = Transaction {
        id: TransactionId { session, number: 1 },
        incarnation: 1,
        base,
        placements: vec![placement(gone, 0..1, |_| machine.slot, 0)],
        ..Transaction::default()
    };
    assert!(
        matches!(large.ask(Command::Commit(Box::new(txn), 1)), Decision::Outcome(outcome) if outcome.granted() == 1)
    );
    large.close(session);
    large.end_all();
    large.now = large.now.plus_micros(RETIRE_MICROS);
    large.ask(Command::Tick);
    let changed = |large: &mut Large| {
        let placements = vec![placement(job, 0..1, |_| machine.slot, 0)];
        let check = plenum_model::ConflictCheck::Sequence;
        let outcome = large.commit_on(Transaction { base, placements, check, dry_run: true, ..Transaction::default() });
        outcome.refusals[0].culprits[0].scheduler.to_string()
    };
    assert_eq!(changed(&mut large), "gone");
    large.open("other");
    assert_eq!(large.names(), ["batch", "other"]);
    assert_eq!(changed(&mut large), "");
}

#[test]
fn constraints_go_by_what_machines_have_also_when_all_classes_got_other_numbers() {
    let mut large = Large::new(CoreOptions::default());
    let register = |large: &mut Large, name: &str, kernel: &str| {
        let decision = large.ask(Command::RegisterMachine(FoundMachine {
            name: name.into(),
            boot_id: "boot".into(),
            capacity: Resources::new(1000, 1 << 30),
            attributes: std::sync::Arc::new([("kernel".into(), kernel.into())].into_iter().collect()),
            seen: large.core.cell().revision(),
            ..FoundMachine::default()
        }));
        let Decision::Accepted { id, .. } = decision else { panic!("{decision:?}") };
        plenum_model::MachineId::from_bits(id).expect("an id").slot
    };
    let [fixed, other] = ["m1", "m2"].map(|name| register(&mut large, name, "old"));
    // Those two are the second class, and the third.
    register(&mut large, "m1", "6.1");
    register(&mut large, "m2", "k");
    let rule = Constraint { attribute: "kernel".into(), operator: Operator::Equal, values: vec!["6.1".into()] };
    let job = large.job(GroupShape { count: 6, constraints: vec![rule], ..GroupShape::default() });
    let asks = |large: &mut Large, first: u32| {
        let on = |task: u32| if task == first { fixed } else { other };
        let outcome = large.commit(vec![placement(job, first..first + 2, on, 0)]);
        let [refusal] = &outcome.refusals[..] else { panic!("{outcome:?}") };
        assert_eq!((refusal.task, refusal.reason), (first + 1, RefusalReason::Constraint));
    };
    // Twice: then it is known of all classes.
    asks(&mut large, 0);
    asks(&mut large, 2);
    let numbered_anew = (0..3000).any(|kernel| {
        register(&mut large, "m2", &format!("7.{kernel}"));
        large.core.cell().class_numbering() > 0
    });
    assert!(numbered_anew);
    asks(&mut large, 4);
}

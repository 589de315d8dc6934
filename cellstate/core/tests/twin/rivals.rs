//! The core against its twin, against a mirror, and against itself: replayed from its log, and opened again.

use std::collections::BTreeMap;

use plenum_core::{Core, CoreOptions, Decided, invariants};
use plenum_model::{
    Cell, CellIdentity, Command, Decision, FoundMachine, JobChange, JobId, JobKind, LogTime, Placement, Request,
    Resource, Resources, Revision, SessionId, Transaction, TransactionId,
};
use proptest::prelude::*;

use crate::commands::command;
use crate::compare::assert_same;
use crate::dice::Dice;
use crate::life::{LOST_MILLIS_A_MINUTE, RETIRE_AFTER_MICROS};
use crate::picture::{group, submission};
use crate::recover::recovered;
use crate::twin::{RING, Twin};

/// Long lives, and the commands of each.
const SEEDS: u64 = 30;
const STEPS: u32 = 700;

/// Everybody who must agree.
struct Rivals {
    core: Core,
    twin: Twin,
    mirror: Cell,
    /// Decides again what was logged, and nothing else.
    replay: Core,
    now: LogTime,
    ring_changes: usize,
    /// What has happened, and how often.
    seen: BTreeMap<String, u32>,
}

fn options(ring_changes: usize) -> CoreOptions {
    // Where the ring may forget, it may also have to forget what numbers of resources stood for.
    let shapes_spare = if ring_changes < RING { 0 } else { RING };
    CoreOptions {
        ring_changes,
        shapes_spare,
        retire_after_micros: RETIRE_AFTER_MICROS,
        lost_millis_a_minute: LOST_MILLIS_A_MINUTE,
        ..CoreOptions::default()
    }
}

impl Rivals {
    fn new(ring_changes: usize) -> Self {
        let mut rivals = Self {
            ring_changes,
            core: Core::new(options(ring_changes)),
            twin: Twin::new(ring_changes),
            mirror: Cell::default(),
            replay: Core::new(options(ring_changes)),
            now: LogTime::from_micros(1_000_000_000),
            seen: BTreeMap::new(),
        };
        let identity = CellIdentity { cell_id: [7; 16], incarnation: 1, term: 1, custom_resources: Vec::new() };
        rivals.step(Command::OpenServer(identity));
        rivals.step(Command::OpenSession { scheduler: "batch".into() });
        rivals
    }

    fn step(&mut self, command: Command) {
        self.ask(&Request { principal: "local".into(), namespace: "default".into(), command });
    }

    fn ask(&mut self, request: &Request) {
        let before = self.core.cell().clone();
        let decided = self.core.decide(request, self.now);
        self.twin.follow(request, self.now, &decided);
        assert_same(&self.twin.live, self.core.cell());
        invariants::check_step(&before, request, &decided, self.core.cell()).unwrap();
        note(&decided, &mut self.seen);
        let Decided::Changed { decision, delta } = &decided else { return };
        if matches!(request.command, Command::OpenServer(_)) && self.mirror.revision() > Revision(0) {
            // From here on, the replay is of a server that starts with a cell that it found on its disk.
            let found = recovered(&self.mirror);
            assert_eq!(found.first_difference(&self.mirror), None);
            self.replay = Core::from_cell(found, options(self.ring_changes));
        }
        self.mirror.apply(delta).unwrap();
        assert_eq!(self.mirror.first_difference(self.core.cell()), None);
        match self.replay.decide(request, self.now) {
            Decided::Changed { decision: again, delta: same } => assert_eq!((&again, &same), (decision, delta)),
            other => panic!("replay decided {other:?}, and it was {decision:?}"),
        }
    }

    fn play(&mut self, number: u64) {
        let (request, pause) = command(&self.twin, number);
        self.now = self.now.plus_micros(pause);
        self.ask(&request);
    }
}

/// Counts what happened.
fn note(decided: &Decided, seen: &mut BTreeMap<String, u32>) {
    let mut count = |what: String| *seen.entry(what).or_default() += 1;
    let Decided::Changed { decision, delta } = decided else {
        return count(if matches!(decided, Decided::Repeated(_)) { "repeated".into() } else { "unchanged".into() });
    };
    if let Decision::Outcome(outcome) = decision {
        count(format!("{:?}", outcome.outcome));
        outcome.refusals.iter().for_each(|refusal| count(format!("{:?} {:?}", refusal.kind, refusal.reason)));
    }
    delta.reshaped.iter().for_each(|_| count("reshaped".into()));
    delta.moves.iter().for_each(|change| count(format!("{:?}", change.status.state)));
    delta.ends.iter().for_each(|end| count(format!("{:?}", end.state)));
    for change in &delta.jobs {
        match change {
            JobChange::State { state, .. } => count(format!("job {state:?}")),
            JobChange::Removed(_) => count("job retired".into()),
            JobChange::Home { machine, .. } => count(format!("home {}", machine.is_some())),
            JobChange::Group { .. } => count("group".into()),
            JobChange::Put { .. } => count("job".into()),
            JobChange::Launched { .. } => count("launched".into()),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn the_core_and_its_twin_agree_on_every_answer_and_state(numbers in prop::collection::vec(any::<u64>(), 1..120)) {
        let mut rivals = Rivals::new(RING);
        numbers.into_iter().for_each(|number| rivals.play(number));
    }
}

/// What must have happened in long lives; otherwise the commands have become too tame to find anything.
const RARE: [&str; 32] = [
    "Committed",
    "Partial",
    "Refused",
    "repeated",
    "unchanged",
    "Starting",
    "Running",
    "Stopping",
    "Lost",
    "Complete",
    "Failed",
    "Stopped",
    "EndedLost",
    "job Running",
    "job Complete",
    "job Failed",
    "job Stopped",
    "job retired",
    "home true",
    "home false",
    "group",
    "Conflict NoRoom",
    "Conflict TaskTaken",
    "Conflict MachineChanged",
    "Conflict Constraint",
    "Conflict OtherMachine",
    "Misfit NoRoom",
    "Misfit TaskTaken",
    "Stale NoRoom",
    "Stale MachineChanged",
    "Mate MinimumMissed",
    "Guard GuardFailed",
];

/// Long lives reach what short ones don't: slots in their third generation, jobs that are retired, machines that come back.
#[test]
fn the_core_and_its_twin_agree_over_long_lives() {
    let mut seen = BTreeMap::new();
    for seed in 0..SEEDS {
        let mut rivals = Rivals::new(RING);
        let mut dice = Dice(seed);
        for _ in 0..STEPS {
            rivals.play(dice.number());
        }
        for (what, times) in rivals.seen {
            *seen.entry(what).or_insert(0) += times;
        }
    }
    let never: Vec<_> = RARE.iter().filter(|what| !seen.contains_key(**what)).collect();
    assert!(never.is_empty(), "never happened: {never:?}, of {seen:#?}");
}

#[test]
fn a_ring_that_forgets_says_stale_and_nothing_false() {
    let mut seen = BTreeMap::new();
    for seed in 0..SEEDS / 2 {
        let mut rivals = Rivals::new(6);
        let mut dice = Dice(seed);
        for _ in 0..STEPS {
            rivals.play(dice.number());
        }
        seen.append(&mut rivals.seen);
    }
    let kinds = [
        "Conflict NoRoom",
        "Misfit NoRoom",
        "Stale NoRoom",
        "Conflict MachineChanged",
        "Stale MachineChanged",
        "Stale NoSuchMachine",
        "Stale MachineNotReady",
    ];
    assert!(kinds.iter().all(|kind| seen.contains_key(*kind)), "{seen:#?}");
}

// Free disk was only looked at where the capacity had some, so that it was negative before the restart and 0 after it.
#[test]
fn a_machine_that_lost_its_disk_is_short_of_it_after_a_restart_too() {
    let mut rivals = Rivals::new(RING);
    let machine = |disk_bytes: u64| {
        Command::RegisterMachine(FoundMachine {
            name: "m1".into(),
            boot_id: "a".into(),
            capacity: Resources { disk_bytes, ..Resources::new(1000, 8) },
            ..FoundMachine::default()
        })
    };
    rivals.step(machine(10));
    let mut shape = group(1, 500);
    shape.resources.disk_bytes = 6;
    rivals.step(submission(1, "batch", JobKind::Forever, false, vec![shape]));
    let placement = Placement {
        job: JobId { slot: 0, generation: 1 },
        job_version: 1,
        machines: vec![0],
        tasks: vec![0],
        ..Placement::default()
    };
    let claim = Transaction {
        id: TransactionId { session: SessionId(2), number: 1 },
        incarnation: 1,
        base: rivals.core.cell().revision(),
        placements: vec![placement],
        ..Transaction::default()
    };
    rivals.step(Command::Commit(Box::new(claim), 1));
    rivals.step(machine(0));
    assert_eq!(rivals.core.cell().room(0).get(Resource::DiskBytes), -6);
    rivals.step(Command::OpenServer(rivals.core.cell().identity().clone()));
}

//! Random commands of all kinds, on devices, ports, limits, spread, take-overs, evictions, spare machines, quotas of two namespaces, holds,
//! partitions and tasks that nobody knows. Nobody predicts the answers here: after each command all invariants hold, a mirror that folds the
//! deltas is the same as the cell, and a replay of the log decides the same. Now and then a server goes on from a cell that is built again from its rows.
//! And what is told of a base is what is true there.

mod draw;
mod oracle;

use std::collections::BTreeMap;

use plenum_core::{Core, CoreOptions, Decided, invariants};
use plenum_model::{
    Cell, CellIdentity, Command, Decision, Delta, Job, JobId, JobShape, LogTime, Outcome, Partition, Rejection,
    RejectionCode, Request, Revision, Transaction,
};

use crate::dice::Dice;
use crate::recover::recovered;

const LIVES: u64 = 200;
const STEPS: u64 = 500;
/// Fewer than jobs can ask for.
const SHAPES: usize = 8;
/// Cells that schedulers may still look at.
const CELLS_KEPT: usize = 100;

struct Chaos {
    core: Core,
    replay: Core,
    mirror: Cell,
    /// The last ones, by revision.
    history: BTreeMap<Revision, Cell>,
    /// By slot of a machine, when its devices or ports changed last in a way that the core does not remember.
    unsettled: BTreeMap<u32, Revision>,
    now: LogTime,
    number: u64,
    seen: BTreeMap<String, u32>,
}

fn options() -> CoreOptions {
    CoreOptions {
        ring_changes: 300,
        shapes_max: SHAPES,
        shapes_spare: 1,
        retire_after_micros: 8_000_000,
        schedulers_max: 5,
        schedulers_spare: 1,
        ..CoreOptions::default()
    }
}

impl Chaos {
    fn new() -> Self {
        let mut chaos = Self {
            core: Core::new(options()),
            replay: Core::new(options()),
            mirror: Cell::default(),
            history: BTreeMap::new(),
            unsettled: BTreeMap::new(),
            now: LogTime::from_micros(1_000_000),
            number: 0,
            seen: BTreeMap::new(),
        };
        let custom_resources = vec!["seats".into()];
        let identity = CellIdentity { incarnation: 1, term: 1, custom_resources, ..CellIdentity::default() };
        chaos.step(Command::OpenServer(identity));
        for scheduler in ["ml", "batch"] {
            chaos.step(Command::OpenSession { scheduler: scheduler.into() });
        }
        chaos
    }

    fn step(&mut self, command: Command) {
        let request = Request { principal: "local".into(), namespace: "default".into(), command };
        let before = self.core.cell().clone();
        let decided = self.core.decide(&request, self.now);
        invariants::check_step(&before, &request, &decided, self.core.cell()).unwrap();
        let (Decided::Changed { decision, .. } | Decided::Unchanged(decision)) = &decided else {
            panic!("{decided:?}")
        };
        if let (Decision::Outcome(outcome), Command::Commit(txn, _)) = (decision, &request.command) {
            self.check_kinds(&before, txn, outcome);
        }
        if let Command::SubmitJob { shape, .. } = &request.command {
            check_submission(&before, shape, decision);
        }
        let Decided::Changed { delta, .. } = &decided else {
            assert_eq!(before.first_difference(self.core.cell()), None, "nothing was to change");
            if let Decision::Rejected(rejection) = decision {
                *self.seen.entry(format!("{:?}", rejection.code)).or_default() += 1;
            }
            return;
        };
        let again = self.replay.decide(&request, self.now);
        let Decided::Changed { delta: again, decision: answer } = &again else { panic!("{again:?}") };
        assert_eq!((again, answer), (delta, decision), "decided again");
        check_partitions(&before, delta);
        self.mirror.apply(delta).unwrap();
        assert_eq!(self.mirror.first_difference(self.core.cell()), None);
        self.note_unsettled(&before, delta);
        self.history.insert(delta.revision, self.core.cell().clone());
        if self.history.len() > CELLS_KEPT {
            self.history.pop_first();
        }
        if let (Decision::Outcome(outcome), Command::Commit(txn, _)) = (decision, &request.command) {
            self.note(txn, outcome);
        }
        if !delta.reshaped.is_empty() {
            *self.seen.entry("reshaped".into()).or_default() += 1;
        }
        if !delta.renamed.is_empty() {
            *self.seen.entry("renamed".into()).or_default() += 1;
        }
        for change in &delta.moves {
            *self.seen.entry(format!("{:?}", change.status.state)).or_default() += 1;
        }
    }

    /// A server starts anew with what it finds on its disk; whoever decides the log again goes on meanwhile.
    fn reopen(&mut self) {
        let found = recovered(self.core.cell());
        assert_eq!(found.first_difference(self.core.cell()), None);
        let identity = found.identity().clone();
        self.core = Core::from_cell(found, options());
        self.step(Command::OpenServer(CellIdentity { term: identity.term + 1, ..identity }));
    }

    fn note(&mut self, txn: &Transaction, outcome: &Outcome) {
        let mut count = |what: String| *self.seen.entry(what).or_default() += 1;
        for refusal in &outcome.refusals {
            count(format!("{:?} {:?}", refusal.kind, refusal.reason));
            let events = refusal.culprits.iter().filter(|culprit| !culprit.event.is_empty());
            events.for_each(|culprit| count(format!("{:?} by {}", refusal.reason, culprit.event)));
            let Some((resource, _)) = refusal.short else { continue };
            count(format!("{:?} {resource}", refusal.reason));
            if refusal.culprits.iter().any(|culprit| &*culprit.event == "hold") {
                count(format!("hold {resource}"));
            }
        }
        outcome.ports.iter().for_each(|_| count("ports".into()));
        for (placement, asked) in outcome.placements.iter().zip(&txn.placements) {
            for (claim, (granted, &machine)) in placement.iter().zip(&asked.machines).enumerate() {
                let Some(found) = granted.and_then(|id| self.core.cell().allocation(id)) else { continue };
                let has = found.extra.cloned().unwrap_or_default();
                // What a claim names is about its own machine.
                let named = asked.extras.get(claim).filter(|_| found.row.machine == machine);
                let named = named.cloned().unwrap_or_default();
                let in_part = named.take_overs.iter().any(|entry| !entry.amount.is_nothing());
                let granted = [
                    ("alternate", found.row.machine != machine),
                    ("taken over", !has.takes_over.is_empty()),
                    ("taken over from two", has.takes_over.len() > 1),
                    ("taken over in part", in_part && !has.takes_over.is_empty()),
                    ("devices", !has.devices.is_empty()),
                    ("two devices", has.devices.len() > 1),
                    ("named devices", !named.devices.is_empty()),
                    ("named ports", !named.ports.is_empty()),
                ];
                granted.into_iter().filter(|(_, is_so)| *is_so).for_each(|(what, _)| count(what.into()));
            }
        }
    }

    fn play(&mut self, dice: &mut Dice) {
        self.now = self.now.plus_micros(i64::from(dice.roll(3)) * 400_000);
        if dice.once_in(200) {
            return self.reopen();
        }
        let command = match dice.roll(20) {
            0 => self.register(dice),
            1..=2 => self.submit(dice),
            3..=6 => self.report(dice),
            7 => self.stop(dice),
            8 if dice.once_in(3) => self.expire_or_remove(dice),
            8 if dice.once_in(2) => self.come_or_go(dice),
            8 => Command::Tick,
            9..=10 => self.governance(dice),
            _ => self.commit(dice),
        };
        self.step(command);
    }
}

/// A job is whichever has its namespace and its name, found here without any look-up: it keeps its id, and is in nobody else's way.
fn check_submission(before: &Cell, shape: &JobShape, decision: &Decision) {
    let is_it = |job: &Job| (&job.shape.namespace, &job.shape.name) == (&shape.namespace, &shape.name);
    let known = before.jobs().find(|job| is_it(job)).map(|job| job.id);
    let what = format!("{} in {}, known as {known:?}: {decision:?}", shape.name, shape.namespace);
    match decision {
        Decision::Accepted { id, .. } => {
            let id = JobId::from_bits(*id).unwrap();
            let is_it = match known {
                Some(known) => known == id,
                None => before.job(id).is_none(),
            };
            assert!(is_it, "{what}");
        }
        Decision::Rejected(Rejection { code: RejectionCode::JobChanged | RejectionCode::JobLeaving, .. }) => {
            assert!(known.is_some(), "{what}");
        }
        _ => {}
    }
}

/// Nothing is granted where any partition is reserved for others.
fn check_partitions(before: &Cell, delta: &Delta) {
    for grants in &delta.grants {
        let scheduler = &before.job(grants.job).unwrap().shape.scheduler;
        for &slot in &grants.machines {
            let machine = before.machine_in(slot).unwrap();
            let has = |partition: &Partition| partition.machines.iter().all(|rule| rule.holds(&machine.attributes));
            let mut partitions = before.partitions().map(|(_, partition)| partition);
            let closed = partitions.find(|partition| has(partition) && !partition.is_open_to(scheduler));
            assert_eq!(closed, None, "{} was granted something on {}", grants.job, machine.name);
        }
    }
}

/// What must have come about in all these lives.
const EXPECTED: &[&str] = &[
    "taken over",
    "taken over from two",
    "taken over in part",
    "devices",
    "two devices",
    "named devices",
    "named ports",
    "alternate",
    "ports",
    "Evicting",
    "Conflict DeviceTaken",
    "Misfit DeviceTaken",
    "Conflict PortTaken",
    "Misfit PortTaken",
    "Conflict SpreadLimit",
    "Misfit SpreadLimit",
    "Conflict PerMachineLimit",
    "Misfit PerMachineLimit",
    "Misfit Predecessor",
    "Conflict Predecessor",
    "Quota QuotaExceeded",
    "QuotaExceeded cpu_millis",
    "QuotaExceeded memory_bytes",
    "QuotaExceeded disk_bytes",
    "Mate MinimumMissed",
    "Conflict NoRoom",
    "Misfit NoRoom",
    "Stale NoRoom",
    "NoRoom memory_bytes",
    "NoRoom custom_1",
    "NoRoom by unknown task",
    "Misfit Constraint",
    "Misfit ResourcesDiffer",
    "Guard GuardFailed",
    "Permission NotPermitted",
    "Permission MayNotEvict",
    "SchedulerPaused",
    "hold cpu_millis",
    "hold memory_bytes",
    "asked Conflict NoRoom",
    "asked Misfit NoRoom",
    "asked Conflict DeviceTaken",
    "asked Misfit DeviceTaken",
    "asked Conflict PortTaken",
    "asked Misfit PortTaken",
    "asked Conflict NoRoom beside others",
    "asked Misfit NoRoom beside others",
    "asked Conflict DeviceTaken beside others",
    "asked Misfit DeviceTaken beside others",
    "reshaped",
    "renamed",
    "LimitReached",
    "JobVersion",
];

#[test]
fn whatever_is_asked_invariants_hold_and_everybody_folds_the_same() {
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    for seed in 0..LIVES {
        let mut chaos = Chaos::new();
        for step in 0..STEPS {
            let mut dice = Dice(seed << 32 | step);
            chaos.play(&mut dice);
            if step % 50 == 49 {
                assert_eq!(recovered(chaos.core.cell()).first_difference(chaos.core.cell()), None, "seed {seed}");
            }
        }
        chaos.seen.into_iter().for_each(|(what, count)| *seen.entry(what).or_default() += count);
    }
    let missing: Vec<_> = EXPECTED.iter().filter(|what| !seen.contains_key(**what)).collect();
    assert!(missing.is_empty(), "never seen: {missing:?} of {seen:?}");
}

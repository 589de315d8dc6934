//! A framework for training: gangs whose workers start all at once or not at all, and begin anew together when one of them dies.
//!
//! A gang is a group with a `min`; of several groups of a job each is one by itself. While it finds no room for so many, the runtime holds machines for it (`takes_holds`), so that small tasks don't take each
//! one as it comes free; and it takes the room of lower bands, if its scheduler may evict. Groups without a `min` are placed task by task. Nobody is left
//! room by it (`View::ahead`), so one process of it is enough.
//!
//! It remembers nothing: what runs and what waits stands in the mirror. So it may be killed at any moment, while a gang waits, runs or begins anew.
//!
//! ```sh
//! sh examples/gang/run.sh
//! ```
#![allow(clippy::print_stdout, reason = "it tells the terminal what it does")]

use std::cmp::Reverse;
use std::collections::BTreeSet;

use plenum_sdk::model::{AllocationId, AllocationState, Job, JobId, Outcome, TaskState, VICTIMS_MAX};
use plenum_sdk::{Decision, Ended, Holding, Ledger, Options, Plan, RunError, Scheduler, View, Work, asked_to_end, run};

/// The name that job files ask for.
const NAME: &str = "gang";

/// An end may come while there is no connection, and is not heard of then: so this looks by itself, too.
const LOOK_EVERY_MICROS: i64 = 1_000_000;

/// How long a gang waits before room is held for it. What runs here runs for seconds.
const HOLD_AFTER_MICROS: i64 = 500_000;

struct Gangs;

impl Scheduler for Gangs {
    fn name(&self) -> &str {
        NAME
    }

    fn decides_unasked(&self) -> bool {
        true
    }

    fn takes_holds(&self) -> bool {
        true
    }

    fn evicts(&self) -> bool {
        true
    }

    /// Behind a failure the group waits for its `retry`, and nothing can be placed: without this nobody would ask what becomes of the others.
    fn decides_after(&self, ended: &Ended) -> bool {
        ended.state != AllocationState::Complete
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let (mut decision, mut ledger) = (Decision::default(), view.ledger());
        let broken = stop_the_rest(view, &mut decision);
        // One transaction for all: each gang is a placement with a minimum of its own, so that one which is refused takes nothing from the others.
        let mut plan = Plan::incremental().decided_by("all-or-nothing", &[]);
        let slots = machines(view);
        for work in view.work() {
            // It has workers that run: what is there to place would join a gang that is over.
            if broken.contains(&(work.job.id, work.group)) {
                decision.pass_over(work, work.tasks.len(), "a worker died: the others are stopped, and all begin anew");
                continue;
            }
            let mut claimed = ledger.fill(work, slots.iter().copied());
            let mut victims = Vec::new();
            let may_evict = view.cell().rights_of(NAME).evicts;
            if claimed.is_empty() && may_evict {
                (claimed, victims) = fill_by_eviction(view, &mut ledger, work, &slots);
            }
            let (placed, left) = work.tasks.split_at(claimed.len());
            plan.gang(work, placed, &claimed, work.least);
            for (slot, victim) in victims {
                plan.evict(slot, victim);
            }
            if !left.is_empty() {
                decision.pass_over(work, left.len(), why(&mut ledger, work, &slots, may_evict));
            }
        }
        decision.commit(plan);
        decision
    }

    fn outcome(&mut self, outcome: &Outcome) {
        // One that stops what is left of a gang claims nothing.
        if outcome.claims() > 0 {
            println!("{}: {} of {} claims granted", outcome.id, outcome.granted(), outcome.claims());
        }
        for refusal in &outcome.refusals {
            println!("  task {} refused: {:?}", refusal.task, refusal.reason);
        }
    }
}

/// Slots of all machines by name: a gang that fits on few of them is not strewn over all.
fn machines(view: &View<'_>) -> Vec<u32> {
    let mut machines: Vec<_> = view.cell().machines().map(|machine| (&machine.name, machine.id.slot)).collect();
    machines.sort_unstable();
    machines.into_iter().map(|(_, slot)| slot).collect()
}

/// Stops what still runs of gangs that have lost workers: fewer are there than their `min`. Gives these, of which nothing is to be placed before that is over.
///
/// What is stopped uses up none of its `retry`: that has the worker which died. One that is done is there for good: workers of a gang end together.
fn stop_the_rest(view: &View<'_>, decision: &mut Decision) -> BTreeSet<(JobId, u16)> {
    // Apart from claims, as the policy's name is all that a transaction tells of why something was stopped.
    let (mut broken, mut plan) = (BTreeSet::new(), Plan::incremental().decided_by("gang-begins-anew", &[]));
    for job in view.cell().jobs().filter(|job| view.looks_after(job)) {
        for group in job.group_positions() {
            let shape = &job.shape.groups[usize::from(group)];
            let Some(row) = view.cell().group(job, group) else { continue };
            if shape.min == 0 || row.tasks_in(TaskState::Live) == 0 {
                continue;
            }
            decision.again_after(LOOK_EVERY_MICROS);
            if shape.least_at_once(row) > 0 {
                broken.insert((job.id, group));
                let stopped = stop_all(view, job, group, row.count, &mut plan);
                if stopped > 0 {
                    println!("{}: {stopped} workers are stopped, as others of their gang died", job.shape.called());
                }
            }
        }
    }
    decision.commit(plan);
    broken
}

/// Stops all that runs of a group, but for what is on its way to be stopped; gives how many these are.
fn stop_all(view: &View<'_>, job: &Job, group: u16, count: u32, plan: &mut Plan) -> usize {
    let live = (0..count).filter_map(|task| view.allocation_of(job, group, task)).map(|allocation| allocation.id);
    let live = live.filter(|id| !view.may_be_stopped(*id));
    let mut stopped = 0;
    for allocation in live {
        plan.stop(allocation);
        stopped += 1;
    }
    stopped
}

/// Room for all of the work that starts at once, and for no more, where others of lower bands leave: the slot of each task, and whom to name for it on which
/// machine. Nothing of both, with the books as they were, where that is not enough.
fn fill_by_eviction(
    view: &View<'_>,
    ledger: &mut Ledger<'_>,
    work: &Work,
    slots: &[u32],
) -> (Vec<u32>, Vec<(u32, AllocationId)>) {
    let before = ledger.clone();
    let least = (work.least as usize).max(1);
    let (mut claimed, mut victims) = (Vec::new(), Vec::new());
    for &slot in slots {
        let (mut more, mut named, mut needed) = (lower_bands(view, work, slot).into_iter(), Vec::new(), 0);
        while claimed.len() < least {
            if ledger.take(work, slot) || ledger.take_over(work, slot, &named) {
                claimed.push(slot);
                needed = named.len();
            } else if let Some(victim) = more.next() {
                ledger.gives_back(victim);
                named.push(victim);
            } else {
                break;
            }
        }
        // Those that were named since the last task found room brought nothing.
        named.drain(needed..).for_each(|victim| ledger.keeps(victim));
        victims.extend(named.into_iter().map(|victim| (slot, victim)));
    }
    if claimed.len() < least {
        *ledger = before;
        return Default::default();
    }
    (claimed, victims)
}

/// Whom the cell would evict for the work on a machine: the lowest priority first, job by job, as a gang is lost with its first worker; and who began last
/// before others of its job.
fn lower_bands(view: &View<'_>, work: &Work, slot: u32) -> Vec<AllocationId> {
    let band = |job: &Job| job.shape.priority / 10;
    let there = view.cell().allocations().filter(|one| one.row.machine == slot && one.status.state.is_active());
    let mut lower: Vec<_> = there
        .filter(|one| !view.may_be_evicted(one.id) && !view.may_be_stopped(one.id))
        .filter_map(|one| Some((view.cell().job(one.row.job())?, one)))
        .filter(|(job, _)| band(job) < band(&work.job))
        .map(|(job, one)| (job.shape.priority, job.id, Reverse(one.row.created), one.id))
        .collect();
    lower.sort_unstable();
    lower.into_iter().map(|(.., id)| id).take(VICTIMS_MAX).collect()
}

/// What people are told who ask why it waits.
fn why(ledger: &mut Ledger<'_>, work: &Work, slots: &[u32], may_evict: bool) -> String {
    if ledger.quota_shortage(work).is_some() {
        return "its quota allows no more of it".to_owned();
    }
    if work.least <= 1 {
        return "no machine has room for more of it".to_owned();
    }
    // How far it would come if it could start with fewer.
    let alone = Work { least: 0, ..work.clone() };
    let fitting = ledger.clone().fill(&alone, slots.iter().copied()).len();
    let right = if may_evict { "" } else { "; gang may evict nobody (`plenum scheduler set gang --evict yes`)" };
    format!("{fitting} of the {} workers that start at once find room{right}", work.least)
}

#[tokio::main]
async fn main() -> Result<(), RunError> {
    // What the runtime has to say, such as that no cell answers, it says as events of `tracing`: without this nobody hears it.
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let address = std::env::var("PLENUM_ADDR").unwrap_or_else(|_| "http://127.0.0.1:7070".to_owned());
    let mut options = Options::new(address);
    options.principal = format!("scheduler/{NAME}");
    options.settings.holds = Some(Holding { after_wait_micros: HOLD_AFTER_MICROS, ..Holding::default() });
    run(options, Gangs, asked_to_end()).await
}

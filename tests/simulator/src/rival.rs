//! A scheduler that wants what others want: always the first machine that fits, sometimes without looking; and that says all that a
//! transaction can say: gangs, spare machines, victims, room of those who leave, replacements where a task stands.

use plenum_model::{AllocationId, AllocationRef, ConflictCheck, Guard, JobId};
use plenum_sdk::{Decision, Ledger, Plan, Scheduler, View, Work};

use crate::random::Random;

/// What jobs call it.
pub(crate) const NAME: &str = "rival";

/// First fit in the order of slots, with all kinds of transactions.
pub(crate) struct Rival {
    random: Random,
}

impl Rival {
    pub(crate) fn new(seed: u64) -> Self {
        Self { random: Random::new(seed) }
    }

    fn mode(&mut self) -> Plan {
        match self.random.below(3) {
            0 => Plan::all_or_nothing(),
            1 => Plan::incremental().checked_by(ConflictCheck::Sequence),
            _ => Plan::incremental(),
        }
    }

    /// Tasks with machines for them. Where none has room, often one with victims, or with somebody who leaves.
    fn choose(&mut self, view: &View<'_>, work: &Work, ledger: &mut Ledger<'_>, machines: &[u32]) -> Chosen {
        let careless = self.random.chance(60);
        let mut chosen = Chosen::default();
        for &task in &work.tasks {
            let first = if careless {
                Some(machines[self.random.index(machines.len())])
            } else {
                machines.iter().copied().find(|&slot| ledger.take(work, slot))
            };
            let first = first.or_else(|| {
                let machine = machines[self.random.index(machines.len())];
                // Sometimes also those that it may not evict: then they stay.
                let band = if self.random.chance(150) { u8::MAX } else { work.job.shape.priority / 10 };
                let victims = victims_on(view, band, machine);
                let leaving = leaving_on(view, machine);
                let wanted = self.random.chance(500) && !(victims.is_empty() && leaving.is_empty());
                wanted.then(|| {
                    chosen.victims.extend(victims.into_iter().map(|victim| (machine, victim)));
                    chosen.leaving.extend(leaving.into_iter().map(|victim| (task, victim)));
                    machine
                })
            });
            if let Some(slot) = first {
                chosen.tasks.push(task);
                chosen.machines.push(slot);
            }
        }
        chosen
    }

    fn plan(&mut self, work: &Work, chosen: Chosen, machines: &[u32]) -> Plan {
        let mut plan = self.mode();
        let all = u32::try_from(chosen.tasks.len()).unwrap_or(u32::MAX);
        if self.random.chance(300) {
            plan.gang(work, &chosen.tasks, &chosen.machines, all);
        } else {
            plan.claim(work, &chosen.tasks, &chosen.machines);
        }
        if self.random.chance(300) {
            plan.spare(machines);
        }
        for (task, victim) in chosen.leaving {
            plan.take_over(task, victim);
        }
        for (machine, victim) in chosen.victims {
            plan.evict(machine, victim);
        }
        if self.random.chance(50) {
            plan.guard(Guard::JobVersion { job: JobId { slot: 9999, generation: 1 }, version: 1 });
        }
        plan
    }

    /// Replaces a task that runs, in its own room.
    fn replace(&mut self, view: &View<'_>, work: &Work) -> Option<Plan> {
        let of_it = |found: &AllocationRef<'_>| {
            found.row.job() == work.job.id && found.row.group == work.group && found.status.state.is_active()
        };
        let found = view.cell().allocations().find(of_it).filter(|_| self.random.chance(80))?;
        let (task, machine) = (found.row.task, found.row.machine);
        let mut plan = Plan::all_or_nothing();
        plan.stop(found.id).claim(work, &[task], &[machine]);
        plan.take_over(task, found.id);
        Some(plan)
    }
}

#[derive(Default)]
struct Chosen {
    tasks: Vec<u32>,
    machines: Vec<u32>,
    /// By machine.
    victims: Vec<(u32, AllocationId)>,
    /// By task.
    leaving: Vec<(u32, AllocationId)>,
}

/// Those on a machine that are of a band below this one.
fn victims_on(view: &View<'_>, band: u8, machine: u32) -> Vec<AllocationId> {
    let cell = view.cell();
    let below = |found: &AllocationRef<'_>| {
        let of = cell.job(found.row.job());
        found.status.state.is_active() && of.is_some_and(|of| of.shape.priority / 10 < band)
    };
    let here = cell.allocations().filter(|found| found.row.machine == machine);
    here.filter(below).map(|found| found.id).collect()
}

/// Those on a machine whose room a claim there may have.
fn leaving_on(view: &View<'_>, machine: u32) -> Vec<AllocationId> {
    let leaves = |found: &AllocationRef<'_>| found.row.machine == machine && found.status.state.is_leaving();
    view.cell().allocations().filter(leaves).map(|found| found.id).collect()
}

impl Scheduler for Rival {
    fn name(&self) -> &str {
        NAME
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let mut decision = Decision::default();
        let mut ledger = view.ledger();
        let machines: Vec<u32> = view.cell().machines().map(|machine| machine.id.slot).collect();
        if machines.is_empty() {
            return decision;
        }
        for work in view.work() {
            if let Some(plan) = self.replace(view, work) {
                decision.commit(plan);
                continue;
            }
            let chosen = self.choose(view, work, &mut ledger, &machines);
            decision.commit(self.plan(work, chosen, &machines));
        }
        decision
    }
}

//! What operators, gangs, agents and restores bring about, counted step by step: a range of seeds shall have seen all of it.

use std::collections::BTreeMap;

use plenum_core::Decided;
use plenum_model::{
    Cell, Command, Decision, Delta, Device, JobChange, Machine, Refusal, RefusalReason, Request, Resource, TaskState,
    Unfit, task_is_wanted,
};

macro_rules! governed {
    ($($governed:ident: $name:literal,)*) => {
        /// What is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Governed {
            $($governed,)*
        }

        impl Governed {
            pub(crate) const ALL: &[Self] = &[$(Self::$governed,)*];

            /// As the report calls it.
            pub(crate) const fn name(self) -> &'static str {
                match self {
                    $(Self::$governed => $name,)*
                }
            }
        }
    };
}

governed! {
    HoldTaken: "a hold that was taken",
    HoldRenewed: "a hold that was renewed",
    HoldGivenBack: "a hold that was given back",
    HoldExpired: "a hold that expired",
    HoldDisplaced: "a hold that lost a machine to an earlier one",
    HoldUsed: "a grant in room that its job held",
    RefusedByHold: "a claim refused because of a hold",
    RefusedByHoldOfMemory: "a claim refused because of a hold of memory",
    RefusedByQuotaOfMemory: "a claim refused because of a limit of memory",
    Launched: "a job that was launched",
    UnknownFound: "an unknown task that was found",
    UnknownAdopted: "an unknown task that was adopted",
    UnknownStopped: "an unknown task that was told to stop",
    UnknownDrained: "an unknown task that was told to stop by the deadline of a drain",
    UnknownEnded: "an unknown task that ended",
    WaitedForUnknown: "a single instance that waited for an unknown task to end",
    WaitedForAgents: "a single instance that waited for agents to be heard after a restore",
    Expected: "a job that was changed at the version that was expected",
    AgentLeft: "a machine whose agent took its leave",
    AgentUnwritable: "a machine whose agent could write nothing",
    SetupsFailed: "a machine on which several tasks could not be set up",
    FitAgain: "a machine that was fit again",
    RefusedUnfit: "a claim refused because its machine was unfit",
    Overfull: "a machine that came back with less than its tasks have",
    OverfullOfMemory: "a machine that came back with less memory than its tasks have",
    DeviceLost: "a task whose device its machine lost",
    SessionsClosed: "a restored cell that closed the sessions of before",
}

/// By name.
pub(crate) type Counts = BTreeMap<String, u64>;

/// A machine that lost what its tasks have.
fn by_hardware(before: &Cell, after: &Cell, machine: &Machine, saw: &mut impl FnMut(Governed)) {
    let Some(known) = before.machine(machine.id) else { return };
    let slot = machine.id.slot;
    let is_short = |cell: &Cell| Resource::ALL.iter().any(|&resource| cell.room(slot).get(resource) < 0);
    if known.capacity != machine.capacity && is_short(after) && !is_short(before) {
        saw(Governed::Overfull);
        if after.room(slot).get(Resource::MemoryBytes) < 0 {
            saw(Governed::OverfullOfMemory);
        }
    }
    let has = |machine: &Machine, device: &Device| {
        machine.devices.iter().any(|one| (&one.kind, one.index) == (&device.kind, device.index))
    };
    let of_it =
        after.extras().filter(|(held, _)| after.allocation_in(*held).is_some_and(|one| one.row.machine == slot));
    let devices = of_it.flat_map(|(_, extra)| &extra.devices);
    devices.filter(|device| has(known, device) && !has(machine, device)).for_each(|_| saw(Governed::DeviceLost));
}

fn by_limits_and_holds(refusal: &Refusal, saw: &mut impl FnMut(Governed)) {
    let of_memory = refusal.short.is_some_and(|(resource, _)| resource == Resource::MemoryBytes);
    if of_memory && refusal.reason == RefusalReason::QuotaExceeded {
        saw(Governed::RefusedByQuotaOfMemory);
    }
    for _ in refusal.culprits.iter().filter(|culprit| &*culprit.event == "hold") {
        saw(Governed::RefusedByHold);
        if of_memory {
            saw(Governed::RefusedByHoldOfMemory);
        }
    }
}

/// Counts tasks that waited to be placed and could not be, as they ran or could run unknown to the cell, and that can be after a step.
fn single_instances_that_waited(before: &Cell, after: &Cell, change: &Delta, saw: &mut impl FnMut(Governed)) {
    let are_heard = before.unheard_machines() > 0 && after.unheard_machines() == 0;
    if !are_heard && change.unknown.iter().all(|(_, task)| task.is_some()) {
        return;
    }
    let why = if are_heard { Governed::WaitedForAgents } else { Governed::WaitedForUnknown };
    for job in before.jobs() {
        let groups = job.group_positions().filter_map(|group| before.group(job, group).zip(after.group(job, group)));
        for (was, is) in groups {
            let waited = |task: u32| {
                let waits = before.task_state(was, task) == Some(TaskState::Waiting);
                waits && before.may_run_unknown(was, task) && task_is_wanted(after, is, task).is_ok()
            };
            (0..was.count).filter(|task| waited(*task)).for_each(|_| saw(why));
        }
    }
}

fn expects_a_version(command: &Command) -> bool {
    match command {
        Command::SubmitJob { expected_version: expected, .. }
        | Command::StopJob { version: expected, .. }
        | Command::ScaleJob { version: expected, .. } => expected.is_some(),
        _ => false,
    }
}

/// Counts what a step brought about.
pub(crate) fn count(
    before: &Cell,
    after: &Cell,
    request: &Request,
    decided: &Decided,
    change: &Delta,
    counts: &mut Counts,
) {
    let mut saw = |governed: Governed| *counts.entry(governed.name().to_owned()).or_default() += 1;
    for (job, hold) in &change.holds {
        let held = before.hold(*job);
        let asked = matches!(&request.command, Command::TakeHold { job: taker, .. } if taker == job);
        match (held, hold) {
            (None, Some(_)) => saw(Governed::HoldTaken),
            (Some(_), Some(_)) if asked => saw(Governed::HoldRenewed),
            (Some(_), Some(_)) if matches!(request.command, Command::TakeHold { .. }) => saw(Governed::HoldDisplaced),
            (Some(_), None) if asked => saw(Governed::HoldGivenBack),
            (Some(_), None) if matches!(request.command, Command::Tick) => saw(Governed::HoldExpired),
            _ => {}
        }
    }
    for grants in &change.grants {
        let held = before.hold(grants.job).map(|hold| hold.machines.as_slice()).unwrap_or_default();
        grants.machines.iter().filter(|machine| held.contains(machine)).for_each(|_| saw(Governed::HoldUsed));
    }
    if let Decided::Changed { decision: Decision::Outcome(outcome), .. } = decided {
        outcome.refusals.iter().for_each(|refusal| by_limits_and_holds(refusal, &mut saw));
        let not_ready = outcome.refusals.iter().filter(|refusal| refusal.reason == RefusalReason::MachineNotReady);
        let unfit = not_ready.filter_map(|refusal| before.machine_in(refusal.machine)?.unfit);
        unfit.for_each(|_| saw(Governed::RefusedUnfit));
    }
    for machine in &change.machines {
        by_hardware(before, after, machine, &mut saw);
        match (before.machine(machine.id).and_then(|before| before.unfit), machine.unfit) {
            (earlier, now) if earlier == now => {}
            (_, Some(Unfit::AgentLeaves)) => saw(Governed::AgentLeft),
            (_, Some(Unfit::StateUnwritable)) => saw(Governed::AgentUnwritable),
            (_, Some(Unfit::SetupFails)) => saw(Governed::SetupsFailed),
            (_, None) => saw(Governed::FitAgain),
        }
    }
    let launched = change.jobs.iter().filter(|change| matches!(change, JobChange::Launched { .. }));
    launched.for_each(|_| saw(Governed::Launched));
    for (id, task) in &change.unknown {
        match (before.unknown_task(*id), task) {
            (None, Some(_)) => saw(Governed::UnknownFound),
            (Some(known), Some(task)) if task.stopping => {
                saw(Governed::UnknownStopped);
                let is_early = known.until.is_none_or(|until| until > change.time);
                if is_early && matches!(request.command, Command::Tick) {
                    saw(Governed::UnknownDrained);
                }
            }
            (Some(_), Some(_)) => saw(Governed::UnknownAdopted),
            (Some(_), None) => saw(Governed::UnknownEnded),
            (None, None) => {}
        }
    }
    single_instances_that_waited(before, after, change, &mut saw);
    if expects_a_version(&request.command) {
        saw(Governed::Expected);
    }
    let restored = before.revision().0 > 0 && before.identity().incarnation != after.identity().incarnation;
    if restored && before.sessions().next().is_some() {
        saw(Governed::SessionsClosed);
    }
}

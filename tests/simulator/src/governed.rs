//! What operators, gangs, agents and restores bring about, counted step by step.

use plenum_core::Decided;
use plenum_model::{
    Cell, Command, Decision, Delta, Device, Hold, JobChange, Machine, Refusal, RefusalReason, Request, Resource,
    TaskState, Unfit, choose_devices, device_rooms, task_is_wanted,
};

use crate::owner::is_planned;
use crate::report::Tally;
use crate::seen::Seen;

/// Counts something that is above a small bound, and tells what it was. That it was a hold a range of seeds shall have seen, too; some of the others are
/// rare.
pub(crate) fn above_bound(tally: &mut Tally, command: &Command) {
    tally.saw(Seen::AboveBound);
    tally.saw(match command {
        Command::TakeHold { .. } => Seen::HoldAboveBound,
        Command::SubmitJob { .. } => Seen::JobAboveBound,
        Command::ScaleJob { .. } => Seen::ScalingAboveBound,
        Command::Launch { .. } => Seen::LaunchAboveBound,
        Command::SetQuota { .. } => Seen::QuotaAboveBound,
        Command::SetPartition { .. } => Seen::PartitionAboveBound,
        _ => return,
    });
}

/// The same of a hold that a scheduler asks for.
pub(crate) fn hold_above_bound(tally: &mut Tally) {
    tally.saw(Seen::AboveBound);
    tally.saw(Seen::HoldAboveBound);
}

/// What there is beside CPU and memory, and not in every run.
const MORE: [Resource; 3] = [Resource::DiskBytes, Resource::Custom(0), Resource::Custom(1)];

/// A machine that lost what its tasks have.
fn by_hardware(before: &Cell, after: &Cell, machine: &Machine, saw: &mut impl FnMut(Seen)) {
    let Some(known) = before.machine(machine.id) else { return };
    let slot = machine.id.slot;
    let is_short = |cell: &Cell| Resource::ALL.iter().any(|&resource| cell.room(slot).get(resource) < 0);
    if known.capacity != machine.capacity && is_short(after) && !is_short(before) {
        saw(Seen::Overfull);
        if after.room(slot).get(Resource::MemoryBytes) < 0 {
            saw(Seen::OverfullOfMemory);
        }
        if MORE.iter().any(|&resource| after.room(slot).get(resource) < 0) {
            saw(Seen::OverfullOfMore);
        }
    }
    let of_it =
        after.extras().filter(|(held, _)| after.allocation_in(*held).is_some_and(|one| one.row.machine == slot));
    for device in of_it.flat_map(|(_, extra)| &extra.devices) {
        match (model_of(known, device), model_of(machine, device)) {
            (Some(_), None) => saw(Seen::DeviceLost),
            (Some(was), Some(is)) if was != is => saw(Seen::ModelChanged),
            _ => {}
        }
    }
}

/// The model that a machine says a device is of.
fn model_of<'a>(machine: &'a Machine, device: &Device) -> Option<&'a str> {
    let known = machine.devices.iter().find(|one| (&one.kind, one.index) == (&device.kind, device.index));
    known.map(|known| &*known.model)
}

/// A group of a planned job that was scaled.
fn by_scaling(before: &Cell, request: &Request, change: &Delta, saw: &mut impl FnMut(Seen)) {
    let Command::ScaleJob { job, group, .. } = &request.command else { return };
    let Some(job) = before.job(*job).filter(|job| is_planned(job)) else { return };
    let (Some(shape), Some(row)) = (job.shape.groups.get(usize::from(*group)), before.group(job, *group)) else {
        return;
    };
    let count = change.jobs.iter().find_map(|change| match change {
        JobChange::Group { count, .. } => Some(*count),
        _ => None,
    });
    let Some(count) = count else { return };
    if *group > 0 {
        saw(Seen::ScaledLater);
    }
    match count {
        0 => saw(Seen::ScaledToNone),
        _ if row.count == 0 => saw(Seen::ScaledAgain),
        _ if count < shape.min => saw(Seen::ScaledBelow),
        _ => {}
    }
}

/// What jobs, grants and holds have of what not every run has.
fn by_outfit(change: &Delta, saw: &mut impl FnMut(Seen)) {
    for change in &change.jobs {
        let JobChange::Put { job, .. } = change else { continue };
        if job.shape.groups.iter().any(|group| group.resources.get(Resource::Custom(1)) > 0) {
            saw(Seen::AskedForNone);
        }
    }
    let extras = change.grants.iter().flat_map(|grants| &grants.extras);
    let devices = extras.flat_map(|extra| &extra.devices).filter(|device| !device.model.is_empty());
    devices.for_each(|_| saw(Seen::GrantedOfModel));
    let has_more = |hold: &&Hold| MORE.iter().any(|&resource| hold.resources.get(resource) > 0);
    change.holds.iter().filter_map(|(_, hold)| hold.as_ref()).filter(has_more).for_each(|_| saw(Seen::HeldMore));
}

/// A claim that was refused for what not every run has.
fn refused_by_outfit(before: &Cell, refusal: &Refusal, saw: &mut impl FnMut(Seen)) {
    match (refusal.reason, refusal.short.map(|(resource, _)| resource)) {
        (RefusalReason::NoRoom, Some(Resource::DiskBytes)) => saw(Seen::RefusedByDisk),
        (RefusalReason::NoRoom, Some(Resource::Custom(_))) => saw(Seen::RefusedByNamed),
        (RefusalReason::QuotaExceeded, Some(Resource::DiskBytes | Resource::Custom(_))) => {
            saw(Seen::RefusedByQuotaOfMore);
        }
        (RefusalReason::DeviceTaken, _) if is_for_want_of_a_model(before, refusal) => saw(Seen::RefusedByModel),
        _ => {}
    }
}

/// Whether a claim's devices could be had, were those of any model as good.
fn is_for_want_of_a_model(before: &Cell, refusal: &Refusal) -> bool {
    let group = before.job(refusal.job).and_then(|job| job.shape.groups.get(usize::from(refusal.group)));
    let (Some(group), Some(machine)) = (group, before.machine_in(refusal.machine)) else { return false };
    let any = |device: &Device| Device { model: "".into(), ..device.clone() };
    let any: Vec<Device> = group.devices.iter().map(any).collect();
    any != group.devices && choose_devices(&mut device_rooms(before, machine), &any).is_ok()
}

fn by_limits_and_holds(refusal: &Refusal, saw: &mut impl FnMut(Seen)) {
    let of_memory = refusal.short.is_some_and(|(resource, _)| resource == Resource::MemoryBytes);
    if of_memory && refusal.reason == RefusalReason::QuotaExceeded {
        saw(Seen::RefusedByQuotaOfMemory);
    }
    for _ in refusal.culprits.iter().filter(|culprit| &*culprit.event == "hold") {
        saw(Seen::RefusedByHold);
        if of_memory {
            saw(Seen::RefusedByHoldOfMemory);
        }
    }
}

/// Counts tasks that waited to be placed and could not be, as they ran or could run unknown to the cell, and that can be after a step.
fn single_instances_that_waited(before: &Cell, after: &Cell, change: &Delta, saw: &mut impl FnMut(Seen)) {
    let are_heard = before.unheard_machines() > 0 && after.unheard_machines() == 0;
    if !are_heard && change.unknown.iter().all(|(_, task)| task.is_some()) {
        return;
    }
    let why = if are_heard { Seen::WaitedForAgents } else { Seen::WaitedForUnknown };
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

/// Counts what became of tasks that nobody knows.
fn unknown_tasks(before: &Cell, request: &Request, change: &Delta, saw: &mut impl FnMut(Seen)) {
    for (id, task) in &change.unknown {
        match (before.unknown_task(*id), task) {
            (None, Some(_)) => saw(Seen::UnknownFound),
            (Some(known), Some(task)) if task.stopping => {
                saw(Seen::UnknownStopped);
                let is_early = known.until.is_none_or(|until| until > change.time);
                if is_early && matches!(request.command, Command::Tick) {
                    saw(Seen::UnknownDrained);
                }
            }
            (Some(_), Some(_)) => saw(Seen::UnknownAdopted),
            (Some(_), None) => saw(Seen::UnknownEnded),
            (None, None) => {}
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
    tally: &mut Tally,
) {
    let mut saw = |seen: Seen| tally.saw(seen);
    for (job, hold) in &change.holds {
        let held = before.hold(*job);
        let asked = matches!(&request.command, Command::TakeHold { job: taker, .. } if taker == job);
        match (held, hold) {
            (None, Some(_)) => saw(Seen::HoldTaken),
            (Some(_), Some(_)) if asked => saw(Seen::HoldRenewed),
            (Some(_), Some(_)) if matches!(request.command, Command::TakeHold { .. }) => saw(Seen::HoldDisplaced),
            (Some(_), None) if asked => saw(Seen::HoldGivenBack),
            (Some(_), None) if matches!(request.command, Command::Tick) => saw(Seen::HoldExpired),
            _ => {}
        }
    }
    for grants in &change.grants {
        let held = before.hold(grants.job).map(|hold| hold.machines.as_slice()).unwrap_or_default();
        grants.machines.iter().filter(|machine| held.contains(machine)).for_each(|_| saw(Seen::HoldUsed));
    }
    if let Decided::Changed { decision: Decision::Outcome(outcome), .. } = decided {
        for refusal in &outcome.refusals {
            by_limits_and_holds(refusal, &mut saw);
            refused_by_outfit(before, refusal, &mut saw);
        }
        let not_ready = outcome.refusals.iter().filter(|refusal| refusal.reason == RefusalReason::MachineNotReady);
        let unfit = not_ready.filter_map(|refusal| before.machine_in(refusal.machine)?.unfit);
        unfit.for_each(|_| saw(Seen::RefusedUnfit));
    }
    for machine in &change.machines {
        by_hardware(before, after, machine, &mut saw);
        match (before.machine(machine.id).and_then(|before| before.unfit), machine.unfit) {
            (earlier, now) if earlier == now => {}
            (_, Some(Unfit::AgentLeaves)) => saw(Seen::AgentLeft),
            (_, Some(Unfit::StateUnwritable)) => saw(Seen::AgentUnwritable),
            (_, Some(Unfit::SetupFails)) => saw(Seen::SetupsFailed),
            (_, None) => saw(Seen::FitAgain),
        }
    }
    let launched = change.jobs.iter().filter(|change| matches!(change, JobChange::Launched { .. }));
    for _ in launched {
        saw(Seen::Launched);
        if request.principal.starts_with("scheduler/") {
            saw(Seen::LaunchedByScheduler);
        }
    }
    by_scaling(before, request, change, &mut saw);
    by_outfit(change, &mut saw);
    unknown_tasks(before, request, change, &mut saw);
    single_instances_that_waited(before, after, change, &mut saw);
    if expects_a_version(&request.command) {
        saw(Seen::Expected);
    }
    let restored = before.revision().0 > 0 && before.identity().incarnation != after.identity().incarnation;
    if restored && before.sessions().next().is_some() {
        saw(Seen::SessionsClosed);
    }
}

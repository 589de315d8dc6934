//! What somebody is told is accepted: that it is done, in the cell of which the answer speaks.

use std::sync::Arc;

use plenum_model::{Cell, Command, Deadline, FoundMachine, GroupShape, JobShape, Machine, MachineState};

use crate::books::{Checked, hold};

/// Also where nothing changed: then it is so already, and `before` is `after`.
pub(crate) fn invariant_what_is_accepted_is_done(before: &Cell, command: &Command, after: &Cell) -> Checked {
    let is_done = of_jobs(before, command, after) && of_machines(command, after) && governs(before, command, after);
    hold(is_done, "invariant_what_is_accepted_is_done", || format!("revision {}: {command:?}", after.revision()))
}

fn of_jobs(before: &Cell, command: &Command, after: &Cell) -> bool {
    match command {
        Command::SubmitJob { shape, .. } => is_submitted(after, shape, before.revision() == after.revision()),
        Command::StopJob { job, .. } => after.job(*job).is_none_or(|job| job.state.is_final()),
        Command::ScaleJob { job, group, count, .. } => {
            let row = after.job(*job).and_then(|job| after.group(job, *group));
            row.is_some_and(|row| row.count == *count)
        }
        Command::StopAllocation(id) => match after.allocation(*id) {
            Some(found) => !found.status.state.is_active(),
            None => after.unknown_tasks().filter(|(task, _)| task.allocation == *id).all(|(_, task)| task.stopping),
        },
        _ => true,
    }
}

/// The job of that name is the one that was submitted; of one that lives only the numbers of its tasks change, and these stand in the rows of its groups.
/// What was submitted once more may have been scaled since, or be of another version by then.
fn is_submitted(cell: &Cell, shape: &JobShape, again: bool) -> bool {
    let Some(job) = cell.job_named(&shape.namespace, &shape.name) else { return false };
    let count = |(group, asked): (u16, &GroupShape)| cell.group(job, group).is_some_and(|row| row.count == asked.count);
    let mut alike = shape.clone();
    alike.groups.iter_mut().zip(&job.shape.groups).for_each(|(group, known)| group.count = known.count);
    alike == *job.shape && (again || (0..).zip(&shape.groups).all(count))
}

fn of_machines(command: &Command, after: &Cell) -> bool {
    let is = |machine: Option<&Arc<Machine>>, so: &dyn Fn(&Machine) -> bool| machine.is_some_and(|one| so(one));
    match command {
        Command::RegisterMachine(FoundMachine { name, capacity, attributes, devices, .. }) => {
            is(after.machine_named(name), &|one| {
                let is_there = !matches!(one.state, MachineState::Unreachable | MachineState::Gone);
                is_there && (&*one.capacity, &one.attributes, &*one.devices) == (capacity, attributes, devices)
            })
        }
        Command::ExpireMachine { machine, .. } => {
            after.machine(*machine).is_none_or(|one| one.state == MachineState::Unreachable)
        }
        Command::ReportFitness { machine, unfit, .. } => is(after.machine(*machine), &|one| one.unfit == *unfit),
        Command::CordonMachine { machine, cordoned } => is(after.machine(*machine), &|one| one.cordoned == *cordoned),
        Command::DrainMachine { machine, deadline } => {
            is(after.machine(*machine), &|one| one.drain_deadline == deadline.and_then(Deadline::new))
        }
        Command::RemoveMachine { machine, .. } => {
            after.machine(*machine).is_none_or(|one| one.state == MachineState::Gone)
        }
        _ => true,
    }
}

fn governs(before: &Cell, command: &Command, after: &Cell) -> bool {
    match command {
        Command::CloseSession(session) => after.session(*session).is_none(),
        Command::PauseScheduler { scheduler, paused } => after.is_paused(scheduler) == *paused,
        Command::SetQuota { namespace, limit } => after.quota(namespace) == limit.as_ref(),
        Command::SetPartition { name, partition } => after.partition(name) == partition.as_ref(),
        Command::SetRights { scheduler, evicts, priority } => {
            let (was, is) = (before.rights_of(scheduler), after.rights_of(scheduler));
            (is.evicts, is.priority) == (evicts.unwrap_or(was.evicts), priority.unwrap_or(was.priority))
        }
        _ => true,
    }
}

//! A cell built again from its rows, as a server finds it after a restart.

use plenum_model::{AllocationExtra, Cell, Governance, MachineId, Restore, RestoredAllocation, Session};

/// The same cell from its rows alone.
pub(crate) fn recovered(cell: &Cell) -> Cell {
    let names = cell.scheduler_names().to_vec();
    let identity = cell.identity().clone();
    let mut restore =
        Restore::new(cell.revision(), cell.time(), identity, names, cell.shapes().to_vec(), cell.filling());
    for (slot, found) in (0..).zip(cell.machine_slots().iter()) {
        let last_change = cell.machine_rows().get(slot).unwrap().last_change;
        match &found.machine {
            Some(machine) => {
                let class = restore.class(&machine.attributes);
                restore.machine(machine, class, last_change);
            }
            None => restore.gone(MachineId { slot, generation: found.generation }, last_change),
        }
    }
    for (slot, found) in (0..).zip(cell.job_slots().iter()) {
        restore.job(slot, found.generation, found.job.clone());
    }
    for (row, group) in (0..).zip(cell.groups().iter()) {
        restore.group(row, group.task_base, group.count, group.not_before);
    }
    for row in 0..cell.task_states().len() {
        restore.task(row, cell.task_row(row).unwrap());
    }
    for slot in 0..cell.allocation_rows().len() {
        let (row, status) = cell.allocation_image(slot).unwrap();
        let extra: Option<AllocationExtra> = cell.allocation_in(slot).and_then(|found| found.extra).cloned();
        restore.allocation(RestoredAllocation { slot, row, status, extra });
    }
    cell.sessions().for_each(|session| restore.session(Session::clone(session)));
    restore.governance(Governance {
        quotas: cell.quotas().map(|(namespace, quota)| (namespace.clone(), *quota)).collect(),
        holds: cell.holds().map(|(job, hold)| (job, hold.clone())).collect(),
        partitions: cell.partitions().map(|(name, partition)| (name.clone(), partition.clone())).collect(),
        unknown: cell.unknown_tasks().map(|(id, task)| (id, task.clone())).collect(),
        paused: cell.paused().cloned().collect(),
        rights: cell.rights().map(|(name, rights)| (name.clone(), *rights)).collect(),
    });
    restore.finish().unwrap()
}

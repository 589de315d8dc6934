//! Names for the numbers that transactions and deltas speak of: the cell's own or, of what it has no more, those that the history
//! remembers.

use plenum_history::{History, Lookup};
use plenum_model::{Cell, JobId, SessionId};

/// The scheduler of a session, closed ones included, as far as the history goes; empty where it is not known.
pub(super) fn scheduler(history: &History, cell: &Cell, session: u64) -> String {
    if let Some(found) = cell.session(SessionId(session)) {
        return found.scheduler.to_string();
    }
    match history.session(session) {
        Ok(Lookup::Found(opened)) => opened.scheduler,
        _ => String::new(),
    }
}

/// The machine that was in a slot at a revision, which was decided at that time. A slot is given away again, and transactions and deltas
/// speak of slots: a machine that came later is not the one that was meant, and a number is better than a wrong name.
pub(super) fn machine_then(
    history: &History,
    cell: &Cell,
    slot: u32,
    revision: u64,
    time_micros: i64,
) -> Option<String> {
    if let Ok(Some(found)) = history.machine_name(slot, revision) {
        return Some(found.name);
    }
    let machine = cell.machine_in(slot).filter(|machine| machine.registered.micros <= time_micros);
    machine.map(|machine| machine.name.to_string())
}

/// What a job and its groups are called.
pub(super) struct JobNames {
    /// With its namespace.
    pub(super) job: String,
    pub(super) groups: Vec<String>,
}

/// What a job and its groups are called, or were.
pub(super) fn job(history: &History, cell: &Cell, id: u64) -> Option<JobNames> {
    if let Some(job) = JobId::from_bits(id).and_then(|id| cell.job(id)) {
        let groups = job.shape.groups.iter().map(|group| group.name.to_string()).collect();
        return Some(JobNames { job: format!("{}/{}", job.shape.namespace, job.shape.name), groups });
    }
    let found = history.job_name(id).ok().flatten()?;
    Some(JobNames { job: format!("{}/{}", found.namespace, found.name), groups: found.groups })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use plenum_model::{Delta, LogTime, Machine, MachineId, MachineState, Revision};

    // A story named the machine that is in the slot now, also where it was told of one that was there before.
    #[test]
    fn a_machine_that_came_later_is_not_the_one_that_was_meant() {
        let folder = tempfile::tempdir().unwrap();
        let (history, _) = History::open(folder.path(), plenum_history::Options::new(vec![7; 16])).unwrap();
        let machine = Machine {
            id: MachineId { slot: 3, generation: 2 },
            name: "m2".into(),
            state: MachineState::Ready,
            epoch: 1,
            capacity: Arc::default(),
            attributes: Arc::default(),
            devices: Arc::default(),
            boot_id: "boot".into(),
            since: LogTime::from_micros(100),
            drain_deadline: None,
            registered: LogTime::from_micros(100),
            cordoned: false,
            unfit: None,
            epoch_began: Revision(9),
        };
        let mut delta = Delta::new(Revision(1), LogTime::from_micros(100));
        delta.machines.push(Arc::new(machine));
        let mut cell = Cell::default();
        cell.apply(&delta).unwrap();
        assert_eq!(machine_then(&history, &cell, 3, 8, 99), None);
        assert_eq!(machine_then(&history, &cell, 3, 9, 100).as_deref(), Some("m2"));
        assert_eq!(machine_then(&history, &cell, 4, 9, 100), None);
    }
}

//! Whether two cells are the same, row by row: for recovery, replay and the simulators.

use super::Cell;
use crate::{Job, MachineRow, Paged, Revision, Room};

impl Cell {
    /// Where this cell differs from another one first: the table and the row, in words. `None`: they are the same.
    ///
    /// Numbers of machine classes are left out: they depend on the order in which machines came. So is whether a machine's
    /// other resources are looked at: it may have stayed so after the last of them was given back. What is free is compared.
    #[must_use]
    pub fn first_difference(&self, other: &Self) -> Option<String> {
        self.difference(other, true)
    }

    /// The same, but for when machines changed last: an earlier version of the core may have counted a change that this one does not.
    #[must_use]
    pub fn first_difference_but_last_changes(&self, other: &Self) -> Option<String> {
        self.difference(other, false)
    }

    fn difference(&self, other: &Self, with_last_changes: bool) -> Option<String> {
        let plain = |row: &MachineRow| {
            let last_change = if with_last_changes { row.last_change } else { Revision(0) };
            MachineRow { class: 0, has_rest: false, last_change, ..*row }
        };
        let header =
            |cell: &Self| (cell.revision, cell.time, cell.identity.clone(), cell.filling, cell.live, cell.unheard);
        if header(self) != header(other) {
            return Some(format!("header: {:?} and {:?}", header(self), header(other)));
        }
        let names = self.scheduler_names != other.scheduler_names || self.shapes != other.shapes;
        let machines = self.machines.len().max(other.machines.len());
        let rooms = (0..machines).find(|&slot| {
            let row = |cell: &Self| cell.machine_row(slot).map(plain);
            let room = |cell: &Self| -> Room { cell.room(slot) };
            let attributes = |cell: &Self| cell.machine_row(slot).map(|row| cell.classes[row.class as usize].clone());
            row(self) != row(other) || room(self) != room(other) || attributes(self) != attributes(other)
        });
        names
            .then(|| "names of schedulers, or shapes".into())
            .or_else(|| {
                rooms.map(|slot| {
                    format!("machine row {slot}: {:?} and {:?}", self.machine_row(slot), other.machine_row(slot))
                })
            })
            .or_else(|| column("machine", &self.machine_slots, &other.machine_slots))
            .or_else(|| column("job", &self.jobs, &other.jobs))
            .or_else(|| column("group", &self.groups, &other.groups))
            .or_else(|| {
                rows("task", self.task_states.len().max(other.task_states.len()), |row| {
                    [self, other].map(|cell| cell.task_row(row).unwrap_or_default())
                })
            })
            .or_else(|| {
                rows("allocation", self.allocations.len().max(other.allocations.len()), |slot| {
                    [self, other].map(|cell| cell.allocation_image(slot).unwrap_or_default().0)
                })
            })
            .or_else(|| column("status", &self.statuses, &other.statuses))
            .or_else(|| column("extra of allocation", &self.extras, &other.extras))
            .or_else(|| column("devices and ports of machine", &self.in_use, &other.in_use))
            .or_else(|| (self.quotas != other.quotas).then(|| "quotas".into()))
            .or_else(|| (self.holds != other.holds).then(|| "holds".into()))
            .or_else(|| column("holds of machine", &self.held, &other.held))
            .or_else(|| (self.partitions != other.partitions).then(|| "partitions".into()))
            .or_else(|| (self.unknown != other.unknown).then(|| "unknown tasks".into()))
            .or_else(|| (self.unknown_by_name != other.unknown_by_name).then(|| "names of unknown tasks".into()))
            .or_else(|| (self.paused != other.paused).then(|| "paused schedulers".into()))
            .or_else(|| (self.rights != other.rights).then(|| "rights of schedulers".into()))
            .or_else(|| (self.sessions != other.sessions).then(|| "sessions".into()))
            .or_else(|| self.unnamed().or_else(|| other.unnamed()))
    }
}

impl Cell {
    /// A machine or a job that is not found by its name, or a name of which there is none.
    fn unnamed(&self) -> Option<String> {
        let lost =
            self.machines().find(|machine| self.machine_named(&machine.name).map(|found| found.id) != Some(machine.id));
        let strangers = self.machines_by_name.len() as usize != self.machines().count();
        lost.map(|machine| format!("names of machines: {} is not found by its name", machine.id))
            .or_else(|| strangers.then(|| "names of machines: there is one more".into()))
            .or_else(|| self.unnamed_job())
    }

    fn unnamed_job(&self) -> Option<String> {
        let found = |job: &Job| self.job_named(&job.shape.namespace, &job.shape.name).map(|found| found.id);
        let lost = self.jobs().find(|job| found(job) != Some(job.id));
        let strangers = self.jobs_by_name.len() as usize != self.jobs().count();
        lost.map(|job| format!("names of jobs: {} is not found by its name", job.id))
            .or_else(|| strangers.then(|| "names of jobs: there is one more".into()))
    }
}

/// The first of so many rows in which two cells differ.
fn rows<T: PartialEq + std::fmt::Debug>(name: &str, end: u32, pair: impl Fn(u32) -> [T; 2]) -> Option<String> {
    (0..end).find_map(|row| {
        let [left, right] = pair(row);
        (left != right).then(|| format!("{name} row {row}: {left:?} and {right:?}"))
    })
}

/// The first row in which two columns differ. Rows beyond the shorter one must be default.
fn column<T, const ROWS: usize>(name: &str, left: &Paged<T, ROWS>, right: &Paged<T, ROWS>) -> Option<String>
where
    T: Clone + Default + PartialEq + std::fmt::Debug,
{
    let default = T::default();
    (0..left.len().max(right.len())).find_map(|row| {
        let (left, right) = (left.get(row).unwrap_or(&default), right.get(row).unwrap_or(&default));
        (left != right).then(|| format!("{name} row {row}: {left:?} and {right:?}"))
    })
}

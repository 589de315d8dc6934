//! Folding deltas: what the comments of the protocol say, and nothing else. Decides nothing.
//!
//! Written from `proto/plenum/v1/log.proto` alone. A delta that does not fit is a fault, told with its revision.

use plenum_proto::v1;

use crate::picture::{Allocation, Group, LIVE, NUMBERS_REMEMBERED, Picture, Session, Task, id_of, is_live, slot_of};

/// A delta that does not fit the picture before it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("revision {revision} does not fold: {what}")]
pub struct Fault {
    /// The delta's.
    pub revision: u64,
    /// What does not fit.
    pub what: String,
}

type Folded = Result<(), String>;

const WAITING: u32 = 0;
const BLOCKED: u32 = 5;
/// Where the attempts of a task stay.
const ATTEMPTS_MAX: u32 = 65_535;

impl Picture {
    /// Makes this the picture of the delta's revision.
    ///
    /// # Errors
    /// When the delta does not fit; the picture is then in between.
    pub fn fold(&mut self, delta: &v1::Delta) -> Result<(), Fault> {
        self.try_fold(delta).map_err(|what| Fault { revision: delta.revision, what })
    }

    fn try_fold(&mut self, delta: &v1::Delta) -> Folded {
        if delta.revision != self.revision + 1 {
            return Err(format!("it was expected after {}", self.revision));
        }
        if delta.time_micros < self.time_micros {
            return Err(format!("time goes back from {} to {}", self.time_micros, delta.time_micros));
        }
        (self.revision, self.time_micros) = (delta.revision, delta.time_micros);
        if let Some(cell) = &delta.cell {
            self.cell = Some(cell.clone());
        }
        self.scheduler_names.extend(delta.scheduler_names.iter().cloned());
        delta.renamed.iter().try_for_each(|change| self.fold_renamed(change))?;
        self.shapes.extend(delta.shapes.iter().cloned());
        delta.reshaped.iter().try_for_each(|change| self.fold_reshaped(change))?;
        delta.machines.iter().for_each(|machine| self.put_machine(machine));
        if let Some(moves) = &delta.moves {
            self.fold_moves(moves)?;
        }
        if let Some(ends) = &delta.ends {
            self.fold_ends(ends)?;
        }
        delta.tasks.iter().try_for_each(|changes| self.fold_tasks(changes))?;
        delta.jobs.iter().try_for_each(|change| self.fold_job(change))?;
        delta.grants.iter().try_for_each(|grants| self.fold_grants(grants))?;
        delta.sessions.iter().try_for_each(|change| self.fold_session(change))?;
        self.fold_small_tables(delta);
        Ok(())
    }

    /// A number stands for another scheduler from now on: nobody may go by the name that it stood for.
    fn fold_renamed(&mut self, change: &v1::NumberedName) -> Folded {
        let number = change.number;
        if let Some(found) = self.allocations.values().find(|found| found.scheduler == number) {
            return Err(format!("scheduler {number} gets another name, and placed allocation {}", found.id));
        }
        let known = self.scheduler_names.get_mut(number as usize);
        let known = known.ok_or_else(|| format!("scheduler {number} gets another name, and has none yet"))?;
        if self.sessions.values().any(|session| session.opened.scheduler == *known) {
            return Err(format!("scheduler {number} gets another name, and {known} has a session"));
        }
        known.clone_from(&change.name);
        Ok(())
    }

    /// A number means something else from now on: nobody may have what it meant.
    fn fold_reshaped(&mut self, change: &v1::NumberedShape) -> Folded {
        let number = change.number;
        if let Some(found) = self.allocations.values().find(|found| found.shape == number) {
            return Err(format!("shape {number} gets another meaning, and allocation {} has it", found.id));
        }
        let known = self.shapes.get_mut(number as usize);
        let known = known.ok_or_else(|| format!("shape {number} gets another meaning, and has none yet"))?;
        *known = change.resources.clone().unwrap_or_default();
        Ok(())
    }

    fn put_machine(&mut self, machine: &v1::MachineChange) {
        let slot = slot_of(machine.id);
        if machine.state() == v1::MachineState::Gone {
            self.machines.remove(&slot);
        } else {
            self.machines.insert(slot, machine.clone());
        }
    }

    fn fold_moves(&mut self, moves: &v1::Moves) -> Folded {
        equal("moves", &[moves.slots.len(), moves.states.len(), moves.ready.len()])?;
        for (position, &slot) in moves.slots.iter().enumerate() {
            let state = state(moves.states[position])?;
            if !is_live(state) {
                return Err(format!("allocation slot {slot} moves to {}", state.as_str_name()));
            }
            let found = self.allocations.get_mut(&slot).ok_or_else(|| format!("slot {slot} moves, and is not live"))?;
            let left = !found.is_leaving();
            (found.state, found.ready) = (state, moves.ready[position] > 0);
            (found.restarts, found.reason) = (0, String::new());
            let left = left && found.is_leaving();
            let (job, group, row, task) = (found.job, found.group, found.group_row, found.task);
            if left {
                let single = self.group_of(job, group).is_some_and(|group| group.single_instance);
                self.free_task(row, task, if single { BLOCKED } else { WAITING });
            }
        }
        for pair in moves.restarts.chunks(2) {
            let &[position, restarts] = pair else { return Err("restarts are no pairs".into()) };
            self.moved(moves, position)?.restarts = restarts;
        }
        for reason in &moves.reasons {
            self.moved(moves, reason.position)?.reason = reason.reason.clone();
        }
        Ok(())
    }

    fn moved(&mut self, moves: &v1::Moves, position: u32) -> Result<&mut Allocation, String> {
        let slot = moves.slots.get(position as usize).ok_or_else(|| format!("no move at position {position}"))?;
        self.allocations.get_mut(slot).ok_or_else(|| format!("slot {slot} is not live"))
    }

    /// Its task has no allocation any more, and stands there unless the delta says otherwise.
    fn free_task(&mut self, group_row: u32, task: u32, state: u32) {
        let row = self.groups.get(&group_row).map_or(0, |group| group.task_base) + task;
        let mut found = self.tasks.get(&row).copied().unwrap_or_default();
        (found.allocation, found.state) = (0, state);
        self.put_task(row, found);
    }

    fn put_task(&mut self, row: u32, task: Task) {
        if task == Task::default() {
            self.tasks.remove(&row);
        } else {
            self.tasks.insert(row, task);
        }
    }

    fn fold_ends(&mut self, ends: &v1::Ends) -> Folded {
        equal("ends", &[ends.slots.len(), ends.states.len(), ends.exit_codes.len()])?;
        for (position, &slot) in ends.slots.iter().enumerate() {
            let state = state(ends.states[position])?;
            if is_live(state) || state == v1::AllocationState::Unspecified {
                return Err(format!("slot {slot} ends as {}", state.as_str_name()));
            }
            let ended = self.allocations.remove(&slot).ok_or_else(|| format!("slot {slot} ends, and is not live"))?;
            let row = self
                .groups
                .get(&ended.group_row)
                .filter(|group| ended.task < group.count)
                .map(|group| group.task_base + ended.task);
            let blocked = row.and_then(|row| self.tasks.get(&row)).is_some_and(|task| task.state == BLOCKED);
            if !ended.is_leaving() || blocked {
                // Of a single instance, the successor waited for this.
                self.free_task(ended.group_row, ended.task, WAITING);
            }
            if let Some(slots) = self.by_machine.get_mut(&ended.machine) {
                slots.remove(&slot);
                if slots.is_empty() {
                    self.by_machine.remove(&ended.machine);
                }
            }
            // The receipt removes the victim and every entry that names it.
            let heirs: Vec<u32> = self.by_machine.get(&ended.machine).into_iter().flatten().copied().collect();
            for heir in heirs {
                if let Some(heir) = self.allocations.get_mut(&heir) {
                    heir.take_overs.retain(|entry| entry.victim != ended.id);
                }
            }
        }
        Ok(())
    }

    fn fold_tasks(&mut self, changes: &v1::TaskChanges) -> Folded {
        equal("tasks", &[changes.tasks.len(), changes.states.len(), changes.failures.len()])?;
        let group = self.groups.get(&changes.group_row).cloned();
        let group = group.ok_or_else(|| format!("group row {} is not there", changes.group_row))?;
        for (position, &task) in changes.tasks.iter().enumerate() {
            if task >= group.count {
                return Err(format!("task {task} of group row {} is not there", changes.group_row));
            }
            let row = group.task_base + task;
            let mut found = self.tasks.get(&row).copied().unwrap_or_default();
            if found.state == LIVE || changes.states[position] == LIVE {
                return Err(format!("task {task} of group row {} is live, or is to be", changes.group_row));
            }
            (found.state, found.failures) = (changes.states[position], changes.failures[position]);
            self.put_task(row, found);
        }
        Ok(())
    }

    fn fold_job(&mut self, change: &v1::JobChange) -> Folded {
        use v1::job_change::Change;
        match change.change.as_ref().ok_or("a change of a job says nothing")? {
            Change::Put(put) => self.put_job(put),
            Change::State(change) => {
                let time_micros = self.time_micros;
                let job = self.jobs.get_mut(&change.id).ok_or_else(|| format!("job {} is not there", change.id))?;
                (job.state, job.reason) = (change.state, change.reason.clone());
                job.state_since_micros = time_micros;
                Ok(())
            }
            Change::Group(change) => self.fold_group(change),
            Change::Removed(id) => {
                self.clear_groups(*id)?;
                self.jobs.remove(id);
                Ok(())
            }
            Change::Launched(launched) => {
                let id = launched.id;
                let job = self.jobs.get_mut(&id).ok_or_else(|| format!("job {id} is not there"))?;
                job.last_instant_micros = Some(launched.instant_micros);
                Ok(())
            }
            Change::Home(home) => {
                self.jobs.get_mut(&home.id).ok_or_else(|| format!("job {} is not there", home.id))?.home = home.machine;
                Ok(())
            }
        }
    }

    fn put_job(&mut self, put: &v1::JobPut) -> Folded {
        let groups = put.shape.as_ref().map(|shape| shape.groups.as_slice()).unwrap_or_default();
        equal("groups of a job", &[groups.len(), put.task_bases.len()])?;
        let here = self.jobs.keys().find(|&&id| slot_of(id) == slot_of(put.id)).copied();
        match here {
            Some(other) if other != put.id => return Err(format!("job {} is put where {other} is", put.id)),
            Some(before) => self.clear_groups(before)?,
            None => {}
        }
        for ((row, group), &task_base) in (put.group_base..).zip(groups).zip(&put.task_bases) {
            (task_base..task_base + group.count).for_each(|task| self.put_task(task, Task::default()));
            self.put_group(row, Group { task_base, count: group.count, not_before_micros: 0 });
        }
        // In pages the rows of the groups say where the tasks are, so the picture keeps it there only.
        self.jobs.insert(put.id, v1::JobPut { task_bases: Vec::new(), ..put.clone() });
        Ok(())
    }

    fn put_group(&mut self, row: u32, group: Group) {
        if group == Group::default() {
            self.groups.remove(&row);
        } else {
            self.groups.insert(row, group);
        }
    }

    /// Gives the rows of a job's groups and tasks back.
    fn clear_groups(&mut self, job: u64) -> Folded {
        let put = self.jobs.get(&job).ok_or_else(|| format!("job {job} is not there"))?;
        let count = put.shape.as_ref().map_or(0, |shape| shape.groups.len());
        for row in (put.group_base..).take(count) {
            if self.allocations.values().any(|found| found.group_row == row) {
                return Err(format!("group row {row} of job {job} goes, and has live allocations"));
            }
            if let Some(group) = self.groups.remove(&row) {
                (group.task_base..group.task_base + group.count).for_each(|task| self.put_task(task, Task::default()));
            }
        }
        Ok(())
    }

    fn fold_group(&mut self, change: &v1::GroupChange) -> Folded {
        let before = self.groups.get(&change.group).cloned().unwrap_or_default();
        let kept = before.count.min(change.count);
        let mut moved = Vec::new();
        for task in 0..before.count {
            let found = self.tasks.remove(&(before.task_base + task)).unwrap_or_default();
            if task >= kept && found.state == LIVE {
                return Err(format!("task {task} of group row {} is live, and is dropped", change.group));
            }
            moved.push(found);
        }
        for (task, found) in (0..kept).zip(moved) {
            self.put_task(change.task_base + task, found);
        }
        (kept..change.count).for_each(|task| self.put_task(change.task_base + task, Task::default()));
        let after =
            Group { task_base: change.task_base, count: change.count, not_before_micros: change.not_before_micros };
        self.put_group(change.group, after);
        Ok(())
    }

    fn fold_grants(&mut self, grants: &v1::Grants) -> Folded {
        let columns = [grants.machines.len(), grants.tasks.len(), grants.slots.len(), grants.generations.len()];
        equal("grants", &columns)?;
        if !self.jobs.contains_key(&grants.job) {
            return Err(format!("job {} is granted, and is not there", grants.job));
        }
        if grants.shape as usize >= self.shapes.len() || grants.scheduler as usize >= self.scheduler_names.len() {
            return Err(format!("shape {} or scheduler {} is not known", grants.shape, grants.scheduler));
        }
        let group = self.groups.get(&grants.group_row).cloned();
        let group = group.ok_or_else(|| format!("group row {} is not there", grants.group_row))?;
        for claim in 0..grants.slots.len() {
            self.grant(grants, &group, claim)?;
        }
        for extra in &grants.extras {
            let slot =
                grants.slots.get(extra.claim as usize).ok_or_else(|| format!("no claim {} for extras", extra.claim))?;
            let found = self.allocations.get_mut(slot).ok_or_else(|| format!("slot {slot} is not live"))?;
            found.devices.clone_from(&extra.devices);
            found.ports.clone_from(&extra.ports);
            found.take_overs.clone_from(&extra.take_overs);
        }
        Ok(())
    }

    fn grant(&mut self, grants: &v1::Grants, group: &Group, claim: usize) -> Folded {
        let (slot, generation) = (grants.slots[claim], grants.generations[claim]);
        let (machine, task) = (grants.machines[claim], grants.tasks[claim]);
        if self.allocations.contains_key(&slot) {
            return Err(format!("slot {slot} is granted, and is live"));
        }
        if generation <= self.generations.get(&slot).copied().unwrap_or(0) {
            return Err(format!("slot {slot} is granted with generation {generation} once more"));
        }
        let found =
            self.machines.get(&machine).ok_or_else(|| format!("machine slot {machine} is granted, and not there"))?;
        let epoch = found.epoch;
        if task >= group.count {
            return Err(format!("task {task} of group row {} is not there", grants.group_row));
        }
        let row = group.task_base + task;
        let before = self.tasks.get(&row).copied().unwrap_or_default();
        if before.state != WAITING {
            return Err(format!("task {task} of group row {} is granted, and does not wait", grants.group_row));
        }
        let attempts = before.attempts.saturating_add(1).min(ATTEMPTS_MAX);
        self.put_task(row, Task { allocation: slot + 1, attempts, state: LIVE, failures: before.failures });
        self.generations.insert(slot, generation);
        self.by_machine.entry(machine).or_default().insert(slot);
        let allocation = Allocation {
            id: id_of(slot, generation),
            state: v1::AllocationState::Granted,
            ready: false,
            job: grants.job,
            group: grants.group,
            group_row: grants.group_row,
            job_version: grants.job_version,
            task,
            attempt: attempts,
            machine,
            epoch,
            shape: grants.shape,
            scheduler: grants.scheduler,
            created: self.revision,
            session: grants.session,
            number: grants.number,
            restarts: 0,
            reason: String::new(),
            devices: Vec::new(),
            ports: Vec::new(),
            take_overs: Vec::new(),
        };
        self.allocations.insert(slot, allocation);
        Ok(())
    }

    fn fold_session(&mut self, change: &v1::SessionChange) -> Folded {
        use v1::session_change::Change;
        match change.change.as_ref().ok_or("a change of a session says nothing")? {
            Change::Opened(opened) => {
                let session = Session { opened: opened.clone(), ..Session::default() };
                self.sessions.insert(opened.id, session);
            }
            Change::Closed(id) => drop(self.sessions.remove(id).ok_or_else(|| format!("session {id} is not open"))?),
            Change::Number(number) => {
                let id = number.session;
                let found = self.sessions.get_mut(&id).ok_or_else(|| format!("session {id} is not open"))?;
                if found.decided.len() == NUMBERS_REMEMBERED {
                    found.decided.pop_front();
                }
                found.decided.push_back((number.number, self.revision, number.digest));
            }
        }
        Ok(())
    }

    /// Tables of few rows, each row the message itself.
    fn fold_small_tables(&mut self, delta: &v1::Delta) {
        for row in &delta.quotas {
            put_or_remove(&mut self.quotas, row.namespace.clone(), row, row.limit.is_none());
        }
        for row in &delta.holds {
            put_or_remove(&mut self.holds, row.job, row, row.removed);
        }
        for row in &delta.partitions {
            put_or_remove(&mut self.partitions, row.name.clone(), row, row.removed);
        }
        for row in &delta.unknown_tasks {
            // Of the machine, the slot counts: whoever is gone is named without a generation.
            put_or_remove(&mut self.unknown_tasks, (slot_of(row.machine), row.allocation), row, row.removed);
        }
        for row in &delta.paused {
            if row.paused {
                self.paused.insert(row.scheduler.clone());
            } else {
                self.paused.remove(&row.scheduler);
            }
        }
        for row in &delta.rights {
            self.give_rights(row);
        }
    }
}

fn put_or_remove<K: Ord, V: Clone>(rows: &mut std::collections::BTreeMap<K, V>, key: K, row: &V, removed: bool) {
    if removed {
        rows.remove(&key);
    } else {
        rows.insert(key, row.clone());
    }
}

fn equal(what: &str, lengths: &[usize]) -> Folded {
    if lengths.windows(2).all(|pair| pair[0] == pair[1]) {
        Ok(())
    } else {
        Err(format!("columns of {what} differ in length: {lengths:?}"))
    }
}

/// The state of a number on the wire.
///
/// # Errors
/// When no state has it.
pub fn state(number: u32) -> Result<v1::AllocationState, String> {
    let known = i32::try_from(number).ok().and_then(|number| v1::AllocationState::try_from(number).ok());
    known.ok_or_else(|| format!("{number} is no state of an allocation"))
}

#[cfg(test)]
mod tests {
    use super::*;

    // A task that failed at once, again and again, had that many after less than a day. A cell stays there, and the checker went on: the first
    // snapshot that it compared was another picture.
    #[test]
    fn the_attempts_of_a_task_stay_where_those_of_the_cell_do() {
        for (before, expected) in [(0, 1), (65_534, 65_535), (65_535, 65_535)] {
            let mut picture = Picture::default();
            picture.scheduler_names.push("batch".to_owned());
            picture.shapes.push(v1::Resources::default());
            picture.machines.insert(0, v1::MachineChange { id: id_of(0, 1), epoch: 1, ..v1::MachineChange::default() });
            picture.jobs.insert(id_of(0, 1), v1::JobPut::default());
            picture.groups.insert(0, Group { count: 1, ..Group::default() });
            picture.tasks.insert(0, Task { attempts: before, ..Task::default() });
            let (machines, tasks, slots, generations) = (vec![0], vec![0], vec![0], vec![1]);
            let grants = v1::Grants { job: id_of(0, 1), machines, tasks, slots, generations, ..v1::Grants::default() };
            picture.fold(&v1::Delta { revision: 1, grants: vec![grants], ..v1::Delta::default() }).unwrap();
            assert_eq!((picture.tasks[&0].attempts, picture.allocations[&0].attempt), (expected, expected));
        }
    }
}

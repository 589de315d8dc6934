//! What each machine shall run: folded from deltas, told to agents as the whole first and as changes after.
//!
//! Level-triggered: an agent that missed everything gets the whole set again, and nothing depends on it having seen each step.

use std::collections::BTreeMap;

use plenum_model::{AllocationState, Cell, Delta, MachineId};
use plenum_proto::v1;
use prost::Message;

/// Which live allocations are on which machine. 4 bytes an allocation slot, and 4 a live allocation.
#[derive(Debug, Default)]
pub struct WantedIndex {
    /// By allocation slot: machine slot + 1; 0 for free slots.
    machine_of: Vec<u32>,
    /// By machine slot: slots of its live allocations.
    on: Vec<Vec<u32>>,
}

impl WantedIndex {
    /// The index of a cell.
    #[must_use]
    pub fn of_cell(cell: &Cell) -> Self {
        let mut index = Self::default();
        cell.allocations().for_each(|allocation| index.put(allocation.id.slot, allocation.row.machine));
        index
    }

    /// Takes the next delta, and tells the machines whose wanted set it changed.
    pub fn fold(&mut self, delta: &Delta, mut touched: impl FnMut(u32)) {
        for grants in &delta.grants {
            for (&slot, &machine) in grants.slots.iter().zip(&grants.machines) {
                self.put(slot, machine);
                touched(machine);
            }
        }
        for moved in &delta.moves {
            if moved.status.state.is_leaving() {
                self.machine(moved.slot).into_iter().for_each(&mut touched);
            }
        }
        let mut ended = delta.ends.iter().map(|end| end.slot).peekable();
        while let Some(slot) = ended.next() {
            let Some(machine) = self.machine(slot) else { continue };
            self.machine_of[slot as usize] = 0;
            let mut alone = true;
            while let Some(next) = ended.next_if(|next| self.machine(*next) == Some(machine)) {
                self.machine_of[next as usize] = 0;
                alone = false;
            }
            self.take_off(machine, slot, alone);
            touched(machine);
        }
        delta.unknown.iter().for_each(|(id, _)| touched(id.machine));
    }

    /// Slots of the live allocations on a machine, in no order.
    #[must_use]
    pub fn on(&self, machine: u32) -> &[u32] {
        self.on.get(machine as usize).map_or(&[], |slots| slots)
    }

    fn machine(&self, slot: u32) -> Option<u32> {
        self.machine_of.get(slot as usize)?.checked_sub(1)
    }

    fn put(&mut self, slot: u32, machine: u32) {
        let (slot_at, machine_at) = (slot as usize, machine as usize);
        if self.machine_of.len() <= slot_at {
            self.machine_of.resize(slot_at + 1, 0);
        }
        if self.on.len() <= machine_at {
            self.on.resize_with(machine_at + 1, Vec::new);
        }
        self.machine_of[slot_at] = machine + 1;
        self.on[machine_at].push(slot);
    }

    /// Takes what ended off a machine's list: this slot, or all that are on no machine any more. An agent reports all of its own together, and the
    /// list is gone through once for them.
    fn take_off(&mut self, machine: u32, slot: u32, alone: bool) {
        let Self { machine_of, on } = self;
        let on = &mut on[machine as usize];
        if !alone {
            on.retain(|&slot| machine_of[slot as usize] == machine + 1);
        } else if let Some(position) = on.iter().position(|&known| known == slot) {
            on.swap_remove(position);
        }
    }
}

/// What an agent is told at once: far below what it takes, and above any one assignment, whose body has at most 64 KiB.
const PART_BYTES_MAX: usize = 4 << 20;

/// Cuts a message into parts that an agent takes. Each allocation brings its own copy of its group's body: a thousand small tasks
/// with a large environment are more than a message may have.
#[must_use]
pub fn parts(message: v1::Assignments) -> Vec<v1::Assignments> {
    let mut parts = vec![v1::Assignments { wanted: Vec::new(), ..message }];
    let mut bytes = 0;
    for assignment in message.wanted {
        let more = assignment.encoded_len();
        if bytes > 0 && bytes + more > PART_BYTES_MAX {
            parts.push(v1::Assignments::default());
            bytes = 0;
        }
        bytes += more;
        if let Some(part) = parts.last_mut() {
            part.wanted.push(assignment);
        }
    }
    let last = parts.len() - 1;
    parts[..last].iter_mut().for_each(|part| part.more = true);
    parts
}

/// The epoch of a follower is over, or its machine is gone: its stream ends, and it registers again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochOver;

/// What an allocation's agent was told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    leaving: bool,
    takes_over: Vec<u64>,
}

/// What one agent was told.
#[derive(Debug)]
pub struct Follower {
    machine: MachineId,
    epoch: u32,
    told: Option<BTreeMap<u64, Told>>,
}

impl Follower {
    /// An agent that was told nothing yet, in this epoch of its machine.
    #[must_use]
    pub fn new(machine: MachineId, epoch: u32) -> Self {
        Self { machine, epoch, told: None }
    }

    /// Whose wanted set it is.
    #[must_use]
    pub fn machine(&self) -> MachineId {
        self.machine
    }

    /// What the agent is to be told at this picture of the cell; `None` if nothing changed. `slots` are the machine's allocations,
    /// as [`WantedIndex::on`] gives them; of others that the cell may have by now, it will be told later.
    ///
    /// # Errors
    /// When the epoch is over.
    pub fn next(&mut self, cell: &Cell, slots: &[u32]) -> Result<Option<v1::Assignments>, EpochOver> {
        cell.machine(self.machine).filter(|machine| machine.epoch == self.epoch).ok_or(EpochOver)?;
        let full = self.told.is_none();
        let before = self.told.take().unwrap_or_default();
        let mut message = v1::Assignments { revision: cell.revision().0, full, ..v1::Assignments::default() };
        let mut told = BTreeMap::new();
        for &slot in slots {
            let Some(allocation) = cell.allocation_in(slot).filter(|found| found.row.machine == self.machine.slot)
            else {
                continue;
            };
            let takes_over =
                allocation.extra.map(|extra| extra.takes_over.iter().map(|one| one.victim.to_bits()).collect());
            let now =
                Told { leaving: allocation.status.state.is_leaving(), takes_over: takes_over.unwrap_or_default() };
            let id = allocation.id.to_bits();
            if before.get(&id) != Some(&now) {
                if now.leaving {
                    message.stop.push(id);
                } else {
                    message.wanted.push(assignment(cell, slot, &now));
                }
            }
            told.insert(id, now);
        }
        self.unknown(cell, &before, &mut told, &mut message);
        self.told = Some(told);
        message.wanted.sort_by_key(|assignment| assignment.allocation);
        message.stop.sort_unstable();
        let news = full || !message.wanted.is_empty() || !message.stop.is_empty() || !message.keep.is_empty();
        Ok(news.then_some(message))
    }

    /// What the cell does not know runs on until it decides otherwise. Its ids are of an earlier incarnation: no allocation has them.
    fn unknown(
        &self,
        cell: &Cell,
        before: &BTreeMap<u64, Told>,
        told: &mut BTreeMap<u64, Told>,
        message: &mut v1::Assignments,
    ) {
        for (unknown, task) in cell.unknown_on(self.machine.slot) {
            let now = Told { leaving: task.stopping, takes_over: Vec::new() };
            let id = unknown.allocation.to_bits();
            if before.get(&id) != Some(&now) {
                if now.leaving {
                    message.stop.push(id);
                } else {
                    message.keep.push(id);
                }
            }
            told.insert(id, now);
        }
    }
}

/// All that an agent needs to run an allocation.
fn assignment(cell: &Cell, slot: u32, told: &Told) -> v1::Assignment {
    let Some(allocation) = cell.allocation_in(slot) else { return v1::Assignment::default() };
    let row = allocation.row;
    let mut assignment = v1::Assignment {
        allocation: allocation.id.to_bits(),
        job_id: row.job().to_bits(),
        job_version: row.job_version,
        task: row.task,
        attempt: row.attempt.into(),
        resources: Some((&cell.resources_of(row)).into()),
        takes_over: told.takes_over.clone(),
        state: v1::AllocationState::from(match allocation.status.state {
            AllocationState::Free => AllocationState::Granted,
            state => state,
        })
        .into(),
        group_count: cell.groups().get(row.group_row).map_or(0, |group| group.count),
        ..v1::Assignment::default()
    };
    if let Some(extra) = allocation.extra {
        assignment.ports = extra.ports.iter().map(Into::into).collect();
        assignment.devices = extra.devices.iter().map(Into::into).collect();
    }
    if let Some(job) = cell.job(row.job()) {
        assignment.namespace = job.shape.namespace.to_string();
        assignment.job = job.shape.name.to_string();
        assignment.job_dir = job.shape.same_machine;
        let group = job.shape.groups.get(usize::from(row.group));
        assignment.group = group.map(|group| group.name.to_string()).unwrap_or_default();
        let body = job.body.as_deref().and_then(|body| v1::JobBody::decode(body).ok());
        assignment.body = body.and_then(|body| body.groups.into_iter().nth(row.group.into()));
    }
    assignment
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use plenum_model::{AllocationId, End, LogTime, Machine, MachineState, Revision, UnknownId, UnknownTask};

    const MACHINE: MachineId = MachineId { slot: 0, generation: 1 };

    fn machine() -> Machine {
        Machine {
            id: MACHINE,
            name: "m1".into(),
            state: MachineState::Ready,
            epoch: 1,
            capacity: Arc::default(),
            attributes: Arc::default(),
            devices: Arc::default(),
            boot_id: "boot".into(),
            since: LogTime::default(),
            drain_deadline: None,
            registered: LogTime::default(),
            cordoned: false,
            unfit: None,
            epoch_began: Revision(1),
        }
    }

    fn delta(revision: u64) -> Delta {
        Delta::new(Revision(revision), LogTime::from_micros(1))
    }

    // For each of them the list of all was searched: an agent that reported the ends of 60,000 tasks kept the publishing thread, and with it the
    // streams of all other agents, for a billion comparisons.
    #[test]
    fn the_list_of_a_machine_is_gone_through_once_for_all_that_ended_there() {
        const TASKS: u32 = 60_000;
        let mut index = WantedIndex::default();
        (0..TASKS).for_each(|slot| index.put(slot, 3));
        index.put(TASKS, 4);
        let end = |slot| End { slot, state: AllocationState::Complete, exit_code: 0, reason: None };
        let mut touched = Vec::new();
        // The one in between is another machine's.
        let slots = (0..TASKS / 2).chain([TASKS]).chain(TASKS / 2..TASKS - 1);
        let begun = std::time::Instant::now();
        index.fold(&Delta { ends: slots.map(end).collect(), ..delta(1) }, |machine| touched.push(machine));
        assert!(begun.elapsed() < std::time::Duration::from_secs(2), "{:?}", begun.elapsed());
        assert_eq!((touched, index.on(3).len(), index.on(4).len()), (vec![3, 4, 3], 1, 0));
        assert_eq!(index.on(3), [TASKS - 1]);
        index.fold(&Delta { ends: vec![end(TASKS - 1), end(7)], ..delta(2) }, |_| {});
        assert_eq!(index.on(3), [0; 0]);
    }

    // Above 64 MiB the agent took the message for damaged, registered again, and was sent the same.
    #[test]
    fn a_set_above_what_a_message_may_have_is_told_in_parts() {
        let body = v1::GroupBody { command: vec!["x".repeat(60 << 10)], ..v1::GroupBody::default() };
        let wanted = |allocation| v1::Assignment { allocation, body: Some(body.clone()), ..v1::Assignment::default() };
        let whole = v1::Assignments {
            revision: 7,
            full: true,
            wanted: (1..=1100).map(wanted).collect(),
            stop: vec![5000],
            keep: vec![6000],
            ..v1::Assignments::default()
        };
        let parts = parts(whole);
        assert!(parts.len() > 10 && parts.iter().all(|part| part.encoded_len() < PART_BYTES_MAX + (64 << 10)));
        assert_eq!(parts.iter().filter(|part| part.more).count(), parts.len() - 1);
        assert!(!parts[parts.len() - 1].more);
        let told = parts.iter().flat_map(|part| &part.wanted).map(|assignment| assignment.allocation);
        assert!(told.eq(1..=1100));
        let first = &parts[0];
        assert_eq!((first.revision, first.full, first.stop.len(), first.keep.len()), (7, true, 1, 1));
        assert!(parts[1..].iter().all(|part| !part.full && part.stop.is_empty() && part.keep.is_empty()));

        let small = v1::Assignments { revision: 8, wanted: vec![wanted(1)], ..v1::Assignments::default() };
        assert_eq!(super::parts(small.clone()), [small]);
    }

    #[test]
    fn what_the_cell_does_not_know_is_kept_until_it_is_to_stop() {
        let unknown = UnknownId { machine: 0, allocation: AllocationId { slot: 7, generation: 3 } };
        let task = UnknownTask {
            machine: MACHINE,
            traces: Arc::default(),
            since: LogTime::default(),
            until: Some(LogTime::from_micros(9)),
            stopping: false,
        };
        let (mut cell, mut index) = (Cell::default(), WantedIndex::default());
        let mut first = delta(1);
        first.machines.push(Arc::new(machine()));
        first.unknown.push((unknown, Some(Arc::new(task.clone()))));
        let mut touched = Vec::new();
        index.fold(&first, |machine| touched.push(machine));
        assert_eq!(touched, [0]);
        cell.apply(&first).unwrap();
        let mut follower = Follower::new(MACHINE, 1);
        let told = follower.next(&cell, index.on(0)).unwrap().unwrap();
        assert_eq!(
            (told.full, told.keep.as_slice(), told.stop.len()),
            (true, [unknown.allocation.to_bits()].as_slice(), 0)
        );
        assert_eq!(follower.next(&cell, &[]).unwrap(), None, "nothing changed");

        let mut second = delta(2);
        second.unknown.push((unknown, Some(Arc::new(UnknownTask { stopping: true, ..task }))));
        cell.apply(&second).unwrap();
        let told = follower.next(&cell, &[]).unwrap().unwrap();
        assert_eq!(
            (told.full, told.keep.len(), told.stop.as_slice()),
            (false, 0, [unknown.allocation.to_bits()].as_slice())
        );
    }
}

//! What each machine shall run: folded from deltas, told to agents as the whole first and as changes after.
//!
//! Level-triggered: an agent that missed everything gets the whole set again, and nothing depends on it having seen each step.

use std::collections::{BTreeMap, VecDeque};

use plenum_model::{AllocationId, AllocationRef, AllocationState, Cell, Delta, Job, JobId, JobKind, MachineId};
use plenum_proto::v1;
use prost::Message;

/// Which live allocations are on which machine. 4 bytes an allocation slot, and 4 a live allocation.
#[derive(Debug, Default)]
pub struct WantedIndex {
    /// By allocation slot: machine slot + 1; 0 for free slots.
    machine_of: Vec<u32>,
    /// By machine slot: slots of its live allocations.
    on: Vec<Vec<u32>>,
    /// Entries of lists that were gone through to take something off.
    #[cfg(test)]
    gone_through: usize,
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
        let Self { machine_of, on, .. } = self;
        let on = &mut on[machine as usize];
        #[cfg(test)]
        {
            self.gone_through += on.len();
        }
        if !alone {
            on.retain(|&slot| machine_of[slot as usize] == machine + 1);
        } else if let Some(position) = on.iter().position(|&known| known == slot) {
            on.swap_remove(position);
        }
    }
}

/// What an agent is told at once, as it waits in memory: far below what it takes, and above any one assignment, whose body has at most 64 KiB, which
/// are half a MiB in words of one letter.
const PART_BYTES_MAX: usize = 4 << 20;

/// The epoch of a follower is over, or its machine is gone: its stream ends, and it registers again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochOver;

/// What an allocation's agent was told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    leaving: bool,
    takes_over: Vec<u64>,
}

impl Told {
    fn of(found: &AllocationRef<'_>) -> Self {
        let takes_over = found.extra.map(|extra| extra.takes_over.iter().map(|one| one.victim.to_bits()).collect());
        Self { leaving: found.status.state.is_leaving(), takes_over: takes_over.unwrap_or_default() }
    }
}

/// What one agent was told.
///
/// It knows who is told next, and never what: each allocation brings its own copy of its group's body, so that a machine's whole set may
/// have gigabytes, and an agent need not read. 100 bytes an allocation of the machine, and one part while that is made.
#[derive(Debug)]
pub struct Follower {
    machine: MachineId,
    epoch: u32,
    told: Option<BTreeMap<u64, Told>>,
    /// What is still to be told of what is begun, by rising id.
    rest: VecDeque<u64>,
}

impl Follower {
    /// An agent that was told nothing yet, in this epoch of its machine.
    #[must_use]
    pub fn new(machine: MachineId, epoch: u32) -> Self {
        Self { machine, epoch, told: None, rest: VecDeque::new() }
    }

    /// Whose wanted set it is.
    #[must_use]
    pub fn machine(&self) -> MachineId {
        self.machine
    }

    /// What the agent is to be told at this picture of the cell; `None` if nothing changed. Where it says that there is more, the rest is
    /// to be asked for at once, with this picture or a later one. `slots` are the machine's allocations, as [`WantedIndex::on`] gives
    /// them; of others that the cell may have by now, it will be told later.
    ///
    /// # Errors
    /// When the epoch is over.
    pub fn next(&mut self, cell: &Cell, slots: &[u32]) -> Result<Option<v1::Assignments>, EpochOver> {
        cell.machine(self.machine).filter(|machine| machine.epoch == self.epoch).ok_or(EpochOver)?;
        if !self.rest.is_empty() {
            return Ok(Some(self.part(cell, v1::Assignments::default())));
        }
        let full = self.told.is_none();
        let before = self.told.take().unwrap_or_default();
        let mut message = v1::Assignments { revision: cell.revision().0, full, ..v1::Assignments::default() };
        let (mut told, mut rest) = (BTreeMap::new(), Vec::new());
        for &slot in slots {
            let Some(found) = cell.allocation_in(slot).filter(|found| found.row.machine == self.machine.slot) else {
                continue;
            };
            let (id, now) = (found.id.to_bits(), Told::of(&found));
            if before.get(&id) != Some(&now) {
                if now.leaving {
                    message.stop.push(id);
                } else {
                    rest.push(id);
                    continue;
                }
            }
            told.insert(id, now);
        }
        self.unknown(cell, &before, &mut told, &mut message);
        self.told = Some(told);
        rest.sort_unstable();
        self.rest = rest.into();
        message.stop.sort_unstable();
        let news = full || !self.rest.is_empty() || !message.stop.is_empty() || !message.keep.is_empty();
        Ok(news.then(|| self.part(cell, message)))
    }

    /// As much of the rest as goes into one message. What has ended since it was begun is left out, and what leaves is to stop.
    fn part(&mut self, cell: &Cell, mut message: v1::Assignments) -> v1::Assignments {
        let (mut bytes, mut bodies) = (0, Bodies::default());
        let told = self.told.get_or_insert_default();
        while let Some(&id) = self.rest.front() {
            let found = AllocationId::from_bits(id).and_then(|id| cell.allocation(id));
            if let Some(found) = found {
                let now = Told::of(&found);
                if now.leaving {
                    message.stop.push(id);
                } else {
                    let assignment = assignment(cell, &found, &now, &mut bodies);
                    let more = bytes_of(&assignment);
                    if bytes > 0 && bytes + more > PART_BYTES_MAX {
                        message.more = true;
                        break;
                    }
                    bytes += more;
                    message.wanted.push(assignment);
                }
                told.insert(id, now);
            }
            self.rest.pop_front();
        }
        message
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

/// What an assignment takes in memory: a command of words of one letter has three bytes for each when it is encoded.
fn bytes_of(assignment: &v1::Assignment) -> usize {
    let texts = assignment.body.as_ref().map_or(0, |body| body.command.len() + 2 * body.env.len());
    size_of::<v1::Assignment>() + texts * size_of::<String>() + assignment.encoded_len()
}

/// The body of the job that was looked at last: allocations of a job are beside each other, as a rule.
#[derive(Default)]
struct Bodies {
    last: Option<(JobId, v1::JobBody)>,
}

impl Bodies {
    fn of(&mut self, job: &Job, group: u16) -> Option<v1::GroupBody> {
        if self.last.as_ref().is_none_or(|(id, _)| *id != job.id) {
            self.last = None;
            let body = v1::JobBody::decode(job.body.as_deref()?).ok()?;
            self.last = Some((job.id, body));
        }
        let (_, body) = self.last.as_ref()?;
        body.groups.get(usize::from(group)).cloned()
    }
}

/// All that an agent needs to run an allocation.
fn assignment(cell: &Cell, allocation: &AllocationRef<'_>, told: &Told, bodies: &mut Bodies) -> v1::Assignment {
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
        assignment.every_end_fails = job.shape.kind != JobKind::ToCompletion;
        let group = job.shape.groups.get(usize::from(row.group));
        assignment.group = group.map(|group| group.name.to_string()).unwrap_or_default();
        assignment.body = bodies.of(job, row.group);
    }
    assignment
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use plenum_model::{
        End, Grants, GroupShape, JobChange, JobShape, LogTime, Machine, MachineState, Revision, UnknownId, UnknownTask,
    };

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
        index.fold(&Delta { ends: slots.map(end).collect(), ..delta(1) }, |machine| touched.push(machine));
        // Once for each half, and the other machine's.
        assert_eq!(index.gone_through, 60_000 + 1 + 30_000);
        assert_eq!((touched, index.on(3).len(), index.on(4).len()), (vec![3, 4, 3], 1, 0));
        assert_eq!(index.on(3), [TASKS - 1]);
        index.fold(&Delta { ends: vec![end(TASKS - 1), end(7)], ..delta(2) }, |_| {});
        assert_eq!(index.on(3), [0; 0]);
    }

    /// A cell that granted so many tasks of one job, whose body is large, on the one machine.
    fn crowded(tasks: u32) -> (Cell, WantedIndex) {
        running(tasks, vec!["x".repeat(60 << 10)])
    }

    /// The same of a job with this command.
    fn running(tasks: u32, command: Vec<String>) -> (Cell, WantedIndex) {
        let group = v1::GroupBody { command, ..v1::GroupBody::default() };
        let body = v1::JobBody { groups: vec![group] }.encode_to_vec();
        let group = GroupShape { name: "main".into(), count: tasks, ..GroupShape::default() };
        let shape = JobShape { name: "large".into(), groups: vec![group], ..JobShape::default() };
        let id = JobId { slot: 0, generation: 1 };
        let job = Job {
            id,
            version: 1,
            shape: Arc::new(shape),
            body: Some(body.into()),
            body_digest: [0; 32],
            submitted: LogTime::default(),
            state: plenum_model::JobState::Waiting,
            state_since: LogTime::default(),
            reason: "".into(),
            group_base: 0,
            home: None,
            last_instant_micros: None,
        };
        let mut first = delta(1);
        first.machines.push(Arc::new(machine()));
        first.jobs.push(JobChange::Put { job: Arc::new(job), task_bases: vec![0] });
        first.shapes.push(plenum_model::Resources::default());
        first.scheduler_names.push("batch".into());
        let grants = Grants {
            job: id,
            job_version: 1,
            machines: vec![0; tasks as usize],
            tasks: (0..tasks).collect(),
            slots: (0..tasks).collect(),
            generations: vec![1; tasks as usize],
            ..Grants::default()
        };
        let second = Delta { grants: vec![grants], ..delta(2) };
        let (mut cell, mut index) = (Cell::default(), WantedIndex::default());
        for delta in [first, second] {
            index.fold(&delta, |_| {});
            cell.apply(&delta).unwrap();
        }
        (cell, index)
    }

    // Above 64 MiB the agent took the message for damaged, registered again, and was sent the same. And all of it was in memory for each
    // stream whose agent did not read: of 65,535 tasks with large bodies four gigabytes.
    #[test]
    fn a_set_above_what_a_message_may_have_is_told_in_parts_that_are_made_one_by_one() {
        let (cell, index) = crowded(1100);
        let mut follower = Follower::new(MACHINE, 1);
        let mut parts = vec![follower.next(&cell, index.on(0)).unwrap().unwrap()];
        while parts[parts.len() - 1].more {
            parts.push(follower.next(&cell, index.on(0)).unwrap().unwrap());
        }
        assert!(parts.len() > 10 && parts.iter().all(|part| part.encoded_len() < PART_BYTES_MAX + (64 << 10)));
        let told: Vec<u32> = parts.iter().flat_map(|part| &part.wanted).map(|assignment| assignment.task).collect();
        assert_eq!(told, (0..1100).collect::<Vec<_>>());
        assert_eq!((parts[0].revision, parts[0].full), (2, true));
        assert!(parts[1..].iter().all(|part| !part.full && part.stop.is_empty() && part.keep.is_empty()));
        assert_eq!(follower.next(&cell, index.on(0)).unwrap(), None, "nothing changed");
    }

    // Each of 64 had twelve times its bytes in memory.
    #[test]
    fn a_part_is_counted_by_what_it_takes_in_memory() {
        const WORDS: usize = 20_000;
        let (cell, index) = running(100, vec!["x".to_owned(); WORDS]);
        let mut follower = Follower::new(MACHINE, 1);
        let part = follower.next(&cell, index.on(0)).unwrap().unwrap();
        assert!(part.more && part.encoded_len() < PART_BYTES_MAX / 8);
        let texts = part.wanted.iter().map(|assignment| assignment.body.as_ref().unwrap().command.len());
        let bytes = texts.sum::<usize>() * (size_of::<String>() + 1);
        assert!((PART_BYTES_MAX / 2..PART_BYTES_MAX).contains(&bytes), "{bytes}");
    }

    #[test]
    fn what_ends_or_leaves_between_two_parts_is_told_as_it_is_by_then() {
        let (mut cell, mut index) = crowded(100);
        let mut follower = Follower::new(MACHINE, 1);
        let first = follower.next(&cell, index.on(0)).unwrap().unwrap();
        assert!(first.more && first.wanted.len() < 98);
        let status = plenum_model::AllocationStatus { state: AllocationState::Stopping, ready: false };
        let stops = [0, 98].map(|slot| plenum_model::Move { slot, status, restarts: 0, reason: None });
        let end = End { slot: 99, state: AllocationState::Complete, exit_code: 0, reason: None };
        let between = Delta { moves: stops.to_vec(), ends: vec![end], ..delta(3) };
        index.fold(&between, |_| {});
        cell.apply(&between).unwrap();
        let second = follower.next(&cell, index.on(0)).unwrap().unwrap();
        let id = |slot| AllocationId { slot, generation: 1 }.to_bits();
        assert_eq!((second.more, second.stop), (false, vec![id(98)]));
        assert_eq!(first.wanted.len() + second.wanted.len(), 98);
        // What was told as wanted before it left is told after all parts.
        let third = follower.next(&cell, index.on(0)).unwrap().unwrap();
        assert_eq!((third.full, third.wanted.len(), third.stop), (false, 0, vec![id(0)]));
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

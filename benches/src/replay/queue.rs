//! Who is next, and who may pass.

use std::collections::BTreeMap;
use std::slice;

use plenum_model::{Resources, Room};

use super::Replay;
use super::ground::fitting;
use crate::traces::work::TraceJob;

/// What happens when the first job of the queue does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Discipline {
    /// All others wait behind it.
    Fifo,
    /// It gets a promise for the moment at which it fits by what users said of their jobs; others may pass if they do not delay it. EASY,
    /// the scheduler of the Argonne SP (Lifka, "The ANL/IBM SP Scheduling System", JSSPP 1995), in the form of Mu'alem and Feitelson (IEEE
    /// TPDS 12(6), 2001): one promise, anew at each event.
    Easy,
    /// Whoever fits starts, in the order of the queue. The first one may wait for ever.
    Greedy,
}

impl Discipline {
    const ALL: [(&'static str, Self); 3] = [("fifo", Self::Fifo), ("easy", Self::Easy), ("greedy", Self::Greedy)];

    /// The discipline of that name.
    ///
    /// # Errors
    /// When there is none; the known ones are named.
    pub(crate) fn named(name: &str) -> anyhow::Result<Self> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        let names = Self::ALL.map(|(name, _)| name).join(", ");
        found.map(|(_, one)| *one).ok_or_else(|| anyhow::anyhow!("--queue: expected some of {names}, found {name:?}"))
    }

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, one)| *one == self).map_or("", |(name, _)| name)
    }
}

/// For so many jobs at most it is worked out whether they can be promised something, until one can: each look goes over all machines.
const LOOKED_AT_MAX: usize = 16;

/// What one job of the queue is promised: the first one that only want of room keeps waiting. It is "the promised job" below.
struct Promise {
    at_micros: i64,
    /// What is free then by machine, by what users said: nobody who runs longer may make it too little. `None`: the promised job may not use it.
    rooms: Vec<Option<Room>>,
    each: Resources,
    /// Tasks of the promised job that fit then, and those that have to.
    fitting: u64,
    needed: u64,
}

impl Promise {
    /// Takes room on these machines at that time; false, and nothing taken, when the promised job would not fit any more.
    fn take(&mut self, machines: &[u32], each: &Resources) -> bool {
        let mut tasks: BTreeMap<u32, u32> = BTreeMap::new();
        machines.iter().for_each(|&machine| *tasks.entry(machine).or_default() += 1);
        let mut lost = 0;
        let mut after = Vec::with_capacity(tasks.len());
        for (machine, tasks) in tasks {
            let Some(mut room) = self.rooms[machine as usize] else { continue };
            let before = fitting(&room, &self.each);
            (0..tasks).for_each(|_| room.take(each));
            lost += before - fitting(&room, &self.each).min(before);
            after.push((machine, room));
        }
        if self.fitting.saturating_sub(lost) < self.needed {
            return false;
        }
        self.fitting -= lost;
        for (machine, room) in after {
            self.rooms[machine as usize] = Some(room);
        }
        true
    }

    /// Takes room for tasks of a job on those of these machines where that leaves the promised job its room, and drops the others; of a gang it takes
    /// all or none.
    fn take_harmless(&mut self, machines: &mut Vec<u32>, job: &TraceJob) {
        if !self.take(machines, &job.each) {
            machines.retain(|machine| !job.gang && self.take(slice::from_ref(machine), &job.each));
        }
    }
}

impl Replay<'_> {
    /// Starts whoever may start now.
    pub(super) fn place_queue(&mut self) -> anyhow::Result<()> {
        let mut first = 0;
        while first < self.queue.len() && self.try_job(self.queue[first], None)? {
            first += 1;
        }
        self.queue.drain(..first);
        if self.queue.len() > 1 && self.discipline != Discipline::Fifo {
            self.pass_the_first()?;
        }
        Ok(())
    }

    /// Lets jobs behind the first one start.
    fn pass_the_first(&mut self) -> anyhow::Result<()> {
        let mut looks = if self.discipline == Discipline::Easy { LOOKED_AT_MAX } else { 0 };
        let mut promise = self.promise_within(self.queue[0], &mut looks);
        // Room only shrinks while jobs are started: what did not fit does not fit later either, nor does more of the same.
        let mut hopeless: BTreeMap<Resources, u32> = BTreeMap::new();
        let mut left = vec![self.queue[0]];
        for position in 1..self.queue.len() {
            let number = self.queue[position];
            let job = &self.jobs[number];
            let least = if job.gang { job.tasks } else { 1 };
            let known = hopeless.get(&job.each).is_some_and(|&tasks| least >= tasks);
            let is_tried = !known && self.may_fit(&job.each, least);
            if is_tried && self.try_job(number, promise.as_mut())? {
                continue;
            }
            left.push(number);
            if promise.is_some() {
                // It may have fitted, and not been let: another one of less time may be.
                continue;
            }
            if is_tried && job.asks.is_none() {
                hopeless.insert(job.each, least);
            }
            promise = self.promise_within(number, &mut looks);
        }
        self.queue = left;
        Ok(())
    }

    /// What a job that does not fit now is promised. None once the looks are used up.
    fn promise_within(&mut self, number: usize, looks: &mut usize) -> Option<Promise> {
        *looks = looks.checked_sub(1)?;
        self.promise(number)
    }

    /// Whether there is as much room in the whole cell: a quick look that spares most scans.
    fn may_fit(&self, each: &Resources, tasks: u32) -> bool {
        let need = plenum_model::Resource::ALL.into_iter().map(|resource| each.get(resource));
        let free = self.ground.free();
        need.zip(free).all(|(need, free)| crate::figure::number(need) * f64::from(tasks) <= *free * (1.0 + 1e-12))
    }

    /// Starts as much of a job as fits, of a gang all or nothing; true when nothing of it is left.
    fn try_job(&mut self, number: usize, mut promise: Option<&mut Promise>) -> anyhow::Result<bool> {
        let job = &self.jobs[number];
        let id = self.waiting[number].as_ref().expect("a job of the queue waits").id;
        loop {
            let left = self.left(number);
            let mut machines = self.ground.choose(job, id, left);
            if job.gang && (machines.len() as u64) < u64::from(left) {
                return Ok(false);
            }
            if let Some(promise) = promise.as_deref_mut()
                && self.expected_end(job) > promise.at_micros
            {
                promise.take_harmless(&mut machines, job);
            }
            if machines.is_empty() {
                return Ok(false);
            }
            let whole = machines.len() as u64 == u64::from(left);
            self.start(number, &machines)?;
            if whole || !job.is_special() {
                return Ok(whole);
            }
        }
    }

    /// When a job fits, by what users said of those that run. It was tried just now. `None` where room is not what it waits for.
    fn promise(&mut self, number: usize) -> Option<Promise> {
        let left = self.left(number);
        let job = &self.jobs[number];
        let within_quota = self.ground.within_quota(job);
        let needed = u64::from(if job.gang { left } else { left.min(within_quota) });
        if needed == 0 || needed > u64::from(within_quota) {
            return None;
        }
        let eligible = self.ground.eligible_for(job);
        let may_use = |slot: u32| eligible.as_ref().is_none_or(|eligible| eligible.contains(slot));
        let rooms = (0_u32..).zip(self.ground.rooms());
        let mut rooms: Vec<Option<Room>> = rooms.map(|(slot, room)| may_use(slot).then_some(room)).collect();
        let mut free: u64 = rooms.iter().flatten().map(|room| fitting(room, &job.each)).sum();
        // If one more task would fit, or a whole gang, its quota, its spread, its ports or the like are in its way.
        let least = if job.gang { needed } else { 1 };
        if free >= least {
            return None;
        }
        let mut at_micros = self.now_micros;
        let mut expected = self.expected.iter().peekable();
        while free < needed {
            // Not all of it fits at once, whatever ends.
            let &&(next, _) = expected.peek()?;
            if next == i64::MAX {
                // Nor before something ends of which nobody knows when.
                return None;
            }
            // Who runs longer than was said ends next, as far as anybody knows.
            at_micros = next.max(self.now_micros + 1);
            while let Some(&&(end, run)) = expected.peek()
                && (end <= at_micros)
            {
                expected.next();
                let Some(run) = &self.runs[run] else { continue };
                let each = &self.jobs[run.job].each;
                for &(machine, _) in &run.running {
                    let Some(room) = &mut rooms[machine as usize] else { continue };
                    let before = fitting(room, &job.each);
                    room.add(each);
                    free += fitting(room, &job.each) - before;
                }
            }
        }
        Some(Promise { at_micros, rooms, each: job.each, fitting: free, needed })
    }
}

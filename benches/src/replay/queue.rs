//! Who is next, and who may pass.

use std::collections::BTreeMap;

use plenum_model::{Resources, Room};

use super::Replay;
use super::ground::fitting;

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

/// What the first job of the queue is promised.
struct Promise {
    at_micros: i64,
    /// What is free then, by what users said: nobody who runs longer may make it too little.
    rooms: Vec<Room>,
    each: Resources,
    /// Tasks of the first job that fit then, and those that have to.
    fitting: u64,
    needed: u64,
}

impl Promise {
    /// Takes room on these machines at that time; false, and nothing taken, when the first job would not fit any more.
    fn take(&mut self, machines: &[u32], each: &Resources) -> bool {
        let mut tasks: BTreeMap<u32, u32> = BTreeMap::new();
        machines.iter().for_each(|&machine| *tasks.entry(machine).or_default() += 1);
        let mut lost = 0;
        let mut after = Vec::with_capacity(tasks.len());
        for (machine, tasks) in tasks {
            let mut room = self.rooms[machine as usize];
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
            self.rooms[machine as usize] = room;
        }
        true
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
        let mut promise = if self.discipline == Discipline::Easy { Some(self.promise(self.queue[0])) } else { None };
        // Room only shrinks while jobs are started: what did not fit does not fit later either, nor does more of the same.
        let mut hopeless: BTreeMap<Resources, u32> = BTreeMap::new();
        let mut left = vec![self.queue[0]];
        for position in 1..self.queue.len() {
            let number = self.queue[position];
            let job = &self.jobs[number];
            let least = if job.gang { job.tasks } else { 1 };
            let known = hopeless.get(&job.each).is_some_and(|&tasks| least >= tasks);
            if known || !self.may_fit(&job.each, least) {
                left.push(number);
                continue;
            }
            if self.try_job(number, promise.as_mut())? {
                continue;
            }
            left.push(number);
            // With a promise it may have fitted, and not been let: another one of less time may be.
            if promise.is_none() && job.asks.is_none() {
                hopeless.insert(job.each, least);
            }
        }
        self.queue = left;
        Ok(())
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
            let machines = self.ground.choose(job, id, left);
            let whole = machines.len() as u64 == u64::from(left);
            if machines.is_empty() || (job.gang && !whole) {
                return Ok(false);
            }
            if let Some(promise) = promise.as_deref_mut() {
                let ends_before = self.expected_end(job) <= promise.at_micros;
                if !ends_before && !promise.take(&machines, &job.each) {
                    return Ok(false);
                }
            }
            self.start(number, &machines)?;
            if whole || !job.is_special() {
                return Ok(whole);
            }
        }
    }

    /// When the first job fits, by what users said of those that run.
    fn promise(&self, first: usize) -> Promise {
        let job = &self.jobs[first];
        let mut rooms = self.ground.rooms();
        let needed = u64::from(self.left(first));
        let mut free: u64 = rooms.iter().map(|room| fitting(room, &job.each)).sum();
        let mut at_micros = self.now_micros;
        let mut expected = self.expected.iter().peekable();
        while free < needed {
            let Some(&&(next, _)) = expected.peek() else {
                // Something that nobody knows the end of is in its way: whoever fits may pass.
                at_micros = i64::MAX;
                break;
            };
            // Who runs longer than was said ends next, as far as anybody knows.
            at_micros = next.max(self.now_micros + 1);
            while let Some(&&(end, number)) = expected.peek()
                && (end <= at_micros)
            {
                expected.next();
                let Some(run) = &self.runs[number] else { continue };
                let each = &self.jobs[run.job].each;
                for &(machine, _) in &run.running {
                    let room = &mut rooms[machine as usize];
                    let before = fitting(room, &job.each);
                    room.add(each);
                    free += fitting(room, &job.each) - before;
                }
            }
        }
        Promise { at_micros, rooms, each: job.each, fitting: free, needed }
    }
}

//! What is written down while jobs are replayed: sums over time, the state at even moments, and what came of each job.

use std::collections::BTreeMap;

use plenum_model::{Resource, Resources};

use super::ground::{Ground, Sums, fitting};
use crate::figure::number;
use crate::traces::work::{GPUS, TraceJob};

/// Moments at which the state is written down.
const MOMENTS: i64 = 300;
/// Different needs of tasks that fragmentation is judged by: those of most tasks.
const NEEDS_MAX: usize = 16;

/// What came of a job. Times in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// When its first task was started.
    pub(crate) first_start: Option<i64>,
    /// When its last one was.
    pub(crate) all_started: Option<i64>,
    /// When its last one ended.
    pub(crate) end: Option<i64>,
    /// It would not even fit an empty cell, and was never queued.
    pub(crate) too_large: bool,
    ended_tasks: u32,
}

/// The state at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Moment {
    pub(crate) at_micros: i64,
    /// Parts from 0 to 1.
    pub(crate) cpu_used: f64,
    pub(crate) memory_used: f64,
    /// 0 where no machine has GPUs.
    pub(crate) gpus_used: f64,
    pub(crate) jobs_waiting: u64,
    /// Of what is free of the scarce resource, the part that a task cannot use because it lies in pieces that are too small; for a task picked at
    /// random from the trace. As in the fragmentation measure of Weng and others (ATC 2023), for whole tasks.
    pub(crate) fragmented: f64,
}

/// Sums and records.
pub(crate) struct Ledger {
    pub(crate) records: Vec<Record>,
    pub(crate) moments: Vec<Moment>,
    capacity: Sums,
    /// From the first submission to the last one.
    pub(crate) from_micros: i64,
    pub(crate) to_micros: i64,
    /// Sums count from the first submission to here. That is the last one: before and behind it a cell fills and drains. Where all were submitted at
    /// once it is the last event so far: nothing would count otherwise.
    sums_to_micros: i64,
    /// Resource times seconds that were used, and that were idle while as much was asked for.
    used: Sums,
    lost: Sums,
    /// What was used at the end, and what was idle then while as much was asked for.
    used_at_end: Sums,
    lost_at_end: Sums,
    /// Needs of tasks, with the part of all tasks that have them.
    needs: Vec<(Resources, f64)>,
    tasks: Vec<u32>,
    next_moment: i64,
}

impl Ledger {
    pub(super) fn new(jobs: &[TraceJob], ground: &Ground) -> Self {
        let from_micros = jobs.first().map_or(0, |job| job.submit_micros);
        let to_micros = jobs.last().map_or(0, |job| job.submit_micros);
        let mut fitting_when_empty: BTreeMap<Resources, u64> = BTreeMap::new();
        let rooms = ground.empty_rooms();
        let mut too_large = |job: &TraceJob| {
            let most = *fitting_when_empty
                .entry(job.each)
                .or_insert_with(|| rooms.iter().map(|room| fitting(room, &job.each)).sum());
            most < if job.gang { u64::from(job.tasks) } else { 1 }
        };
        let records = jobs.iter().map(|job| Record { too_large: too_large(job), ..Record::default() }).collect();
        Self {
            records,
            moments: Vec::new(),
            capacity: *ground.capacity(),
            from_micros,
            to_micros,
            sums_to_micros: to_micros,
            used: Sums::default(),
            lost: Sums::default(),
            used_at_end: Sums::default(),
            lost_at_end: Sums::default(),
            needs: needs(jobs),
            tasks: jobs.iter().map(|job| job.tasks).collect(),
            next_moment: from_micros,
        }
    }

    pub(super) fn fits_when_empty(&self, job: usize) -> bool {
        !self.records[job].too_large
    }

    /// Nothing changes from `from` to `to`: so much is asked for by so many jobs that wait.
    pub(super) fn pass(&mut self, from: i64, to: i64, ground: &Ground, asked: &Sums, waiting: u64) {
        if self.from_micros == self.to_micros {
            self.sums_to_micros = self.sums_to_micros.max(to);
        }
        let counted = |at: i64| at.clamp(self.from_micros, self.sums_to_micros);
        let seconds = seconds(counted(to) - counted(from));
        let moment = self.next_moment < to && self.next_moment <= self.to_micros;
        if seconds <= 0.0 && !moment {
            return;
        }
        let free = ground.free();
        for resource in 0..free.len() {
            self.used[resource] += (self.capacity[resource] - free[resource]) * seconds;
            self.lost[resource] += idle(free[resource], asked[resource]) * seconds;
        }
        if moment {
            self.write_down(to, ground, waiting);
        }
    }

    fn write_down(&mut self, to: i64, ground: &Ground, jobs_waiting: u64) {
        let moment = self.moment(ground, jobs_waiting);
        let every = ((self.to_micros - self.from_micros) / MOMENTS).max(1);
        while self.next_moment < to && self.next_moment <= self.to_micros {
            self.moments.push(Moment { at_micros: self.next_moment, ..moment });
            self.next_moment += every;
        }
    }

    /// The state as it is now, for the next moment.
    fn moment(&self, ground: &Ground, jobs_waiting: u64) -> Moment {
        let used = |resource: Resource| {
            let (free, all) = (ground.free()[resource.index()], self.capacity[resource.index()]);
            if all > 0.0 { 1.0 - free / all } else { 0.0 }
        };
        Moment {
            at_micros: self.next_moment,
            cpu_used: used(Resource::CpuMillis),
            memory_used: used(Resource::MemoryBytes),
            gpus_used: used(scarce(&self.capacity)),
            jobs_waiting,
            fragmented: self.fragmented(ground),
        }
    }

    fn fragmented(&self, ground: &Ground) -> f64 {
        let resource = scarce(&self.capacity);
        let rooms = ground.rooms();
        let free: f64 = rooms.iter().map(|room| positive(room.get(resource))).sum();
        if free <= 0.0 {
            return 0.0;
        }
        let useless = |need: &Resources| {
            let too_small = rooms.iter().filter(|room| fitting(room, need) == 0);
            too_small.map(|room| positive(room.get(resource))).sum::<f64>() / free
        };
        // A sum of nothing is -0.
        self.needs.iter().map(|(need, part)| part * useless(need)).sum::<f64>() + 0.0
    }

    pub(super) fn started(&mut self, job: usize, at_micros: i64, all: bool) {
        let record = &mut self.records[job];
        record.first_start.get_or_insert(at_micros);
        if all {
            record.all_started = Some(at_micros);
        }
    }

    pub(super) fn ended(&mut self, job: usize, at_micros: i64, tasks: u32) {
        let record = &mut self.records[job];
        record.ended_tasks += tasks;
        if record.ended_tasks == self.tasks[job] {
            record.end = Some(at_micros);
        }
    }

    /// Nothing happens any more: so much is asked for by so many jobs that wait for ever. Where no time passed at all, because everything came at once
    /// and nothing ended, what stands then is the only moment there is.
    pub(super) fn close(&mut self, ground: &Ground, asked: &Sums, waiting: u64) {
        if self.moments.is_empty() {
            let last = self.moment(ground, waiting);
            self.moments.push(last);
        }
        let free = ground.free();
        for resource in 0..free.len() {
            self.used_at_end[resource] = self.capacity[resource] - free[resource];
            self.lost_at_end[resource] = idle(free[resource], asked[resource]);
        }
    }

    /// The part of a resource that was used between the first submission and the last one; where all were submitted at once, until the last event, or
    /// at the end if nothing ever ended. `None` where there is none of it.
    pub(crate) fn utilisation(&self, resource: Resource) -> Option<f64> {
        self.part(&self.used, &self.used_at_end, resource)
    }

    /// The part of a resource that was idle while at least as much was asked for: the loss of capacity of Zhang and others (IPDPS 2001). What a
    /// discipline or a policy could still win. Of the same time.
    pub(crate) fn lost(&self, resource: Resource) -> Option<f64> {
        self.part(&self.lost, &self.lost_at_end, resource)
    }

    fn part(&self, sums: &Sums, at_end: &Sums, resource: Resource) -> Option<f64> {
        let (index, time) = (resource.index(), seconds(self.sums_to_micros - self.from_micros));
        let (part, whole) =
            if time > 0.0 { (sums[index], self.capacity[index] * time) } else { (at_end[index], self.capacity[index]) };
        (whole > 0.0).then(|| part / whole)
    }

    /// GPUs where there are some, CPU otherwise.
    pub(crate) fn scarce(&self) -> Resource {
        scarce(&self.capacity)
    }
}

/// So much of what is free is asked for.
fn idle(free: f64, asked: f64) -> f64 {
    free.min(asked).max(0.0)
}

fn scarce(capacity: &Sums) -> Resource {
    let gpus = Resource::ALL[3 + GPUS];
    if capacity[gpus.index()] > 0.0 { gpus } else { Resource::CpuMillis }
}

/// The needs of most tasks, with the part of these tasks that have them.
fn needs(jobs: &[TraceJob]) -> Vec<(Resources, f64)> {
    let mut counts: BTreeMap<Resources, u64> = BTreeMap::new();
    jobs.iter().for_each(|job| *counts.entry(job.each).or_default() += u64::from(job.tasks));
    let mut counts: Vec<(Resources, u64)> = counts.into_iter().collect();
    counts.sort_by_key(|(_, tasks)| std::cmp::Reverse(*tasks));
    counts.truncate(NEEDS_MAX);
    let all: u64 = counts.iter().map(|(_, tasks)| tasks).sum();
    counts.into_iter().map(|(need, tasks)| (need, number(tasks) / number(all))).collect()
}

#[allow(clippy::cast_precision_loss, reason = "for sums in which the last bits do not matter")]
fn positive(amount: i64) -> f64 {
    amount.max(0) as f64
}

/// Microseconds as seconds.
#[allow(clippy::cast_precision_loss, reason = "a trace is shorter than 2^53 microseconds, which are 285 years")]
pub(crate) fn seconds(micros: i64) -> f64 {
    micros as f64 / 1e6
}

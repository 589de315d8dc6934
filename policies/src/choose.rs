//! Machines for k equal tasks, as if each had been placed alone, one after the other, on the best of all machines.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt;

use plenum_model::{Cell, ClassSet, JobId, Requirement, Resources};

use crate::columns::{Columns, least_cpu, least_memory, narrow};
use crate::rank::{BestFitRank, Candidate, Decorrelation, FirstFitRank, MEMORY_BYTES_PER_CPU_MILLI, SpreadRank};

/// Which machine is best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// See [`FirstFitRank`].
    FirstFit,
    /// See [`BestFitRank`].
    BestFit,
    /// See [`SpreadRank`].
    Spread,
}

/// What equal tasks need, and how machines for them are ranked.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// What each task gets.
    pub resources: &'a Resources,
    /// Classes of machines that satisfy the constraints, from [`Columns::classes_for`].
    pub classes: Option<&'a ClassSet>,
    /// The machine that the job's tasks share, once one was chosen.
    pub home: Option<u32>,
    /// Tasks of the same group by machine slot. Only [`Policy::Spread`] looks at it.
    pub siblings: &'a BTreeMap<u32, u32>,
    /// Which machine is best.
    pub policy: Policy,
    /// `None`: ties go to the lowest slot.
    pub decorrelation: Option<Decorrelation>,
    /// The job: what it holds is free for it, and taken for others.
    pub job: JobId,
    /// What else a machine must be, for groups that ask for more than room. Then each machine is chosen once at most.
    pub suits: Option<Suits<'a>>,
}

/// A further condition on machines, by slot.
#[derive(Clone, Copy)]
pub struct Suits<'a>(pub &'a dyn Fn(u32) -> bool);

impl fmt::Debug for Suits<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Suits")
    }
}

/// Machine slots for up to `count` equal tasks, best first; fewer when no more fit. A slot comes as often as tasks go there.
///
/// Exact: the same as placing the tasks one by one, each on the machine of the smallest rank among *all* machines on which
/// `model::Requirement::obstacle` sees no obstacle, with the room shrunk by the tasks before it. Depends on its arguments only.
/// Takes time for one scan of the columns, plus `count` times its logarithm.
#[must_use]
pub fn choose(columns: &Columns, cell: &Cell, request: &Request<'_>, count: u32) -> Vec<u32> {
    match request.policy {
        Policy::FirstFit => Scan { columns, cell, request }.best::<FirstFitRank>(count),
        Policy::BestFit => Scan { columns, cell, request }.best::<BestFitRank>(count),
        Policy::Spread => Scan { columns, cell, request }.best::<SpreadRank>(count),
    }
}

struct Scan<'a> {
    columns: &'a Columns,
    cell: &'a Cell,
    request: &'a Request<'a>,
}

impl Scan<'_> {
    fn best<R: Ord + Copy + for<'a> From<&'a Candidate>>(&self, count: u32) -> Vec<u32> {
        let wanted = count as usize;
        if wanted == 0 {
            return Vec::new();
        }
        let rank = |machine, placed| R::from(&self.candidate(machine, placed));
        if wanted == 1 {
            // One scan, and nothing to remember.
            return self
                .fitting()
                .map(|machine| (rank(machine, 0), machine))
                .min()
                .map(|(_, machine)| machine)
                .into_iter()
                .collect();
        }
        let mut ranked: Vec<(R, u32, u32)> = self.fitting().map(|machine| (rank(machine, 0), machine, 0)).collect();
        // A rank depends on its own machine only, and changes only when a task goes there. So of the first k machines one is
        // still untouched when the k-th task is placed, and no machine behind them is ever needed.
        if ranked.len() > wanted {
            ranked.select_nth_unstable(wanted - 1);
            ranked.truncate(wanted);
        }
        let mut heap: BinaryHeap<_> = ranked.into_iter().map(Reverse).collect();
        let mut chosen = Vec::with_capacity(wanted.min(heap.len().saturating_mul(4)));
        while chosen.len() < wanted
            && let Some(Reverse((_, machine, placed))) = heap.pop()
        {
            chosen.push(machine);
            if self.fits_after(machine, placed + 1) {
                heap.push(Reverse((rank(machine, placed + 1), machine, placed + 1)));
            }
        }
        chosen
    }

    /// Slots of the machines that one task fits on, rising.
    fn fitting(&self) -> impl Iterator<Item = u32> {
        let need = self.request.resources;
        let (cpu_millis, memory_bytes) = (least_cpu(need.cpu_millis), least_memory(need.memory_bytes));
        // For CPU and memory the columns are exact. Whatever else is asked for, the shared judgement decides.
        let plain = need.is_plain() && !self.cell.has_holds();
        let columns = self.columns.cpu_millis.iter().zip(&self.columns.memory_bytes).zip(&self.columns.classes);
        let fits = move |&(_, ((free_cpu, free_memory), class)): &(u32, ((&i32, &i64), &u32))| {
            *free_cpu >= cpu_millis
                && *free_memory >= memory_bytes
                && self.request.classes.is_none_or(|classes| classes.contains(*class))
        };
        let home = move |slot: &u32| self.request.home.is_none_or(|home| home == *slot);
        (0..).zip(columns).filter(fits).map(|(slot, _)| slot).filter(home).filter(move |&slot| {
            (plain || self.requirement().obstacle(self.cell, slot, &self.columns.promised(slot)).is_none())
                && self.request.suits.is_none_or(|suits| suits.0(slot))
        })
    }

    /// Whether one more task fits when `placed` of them went to a machine on which the first one fitted.
    fn fits_after(&self, machine: u32, placed: u32) -> bool {
        if self.request.suits.is_some() {
            return false;
        }
        let each = self.request.resources;
        let all = times(each, placed).and_then(|taken| taken.checked_add(&self.columns.promised(machine)));
        all.is_some_and(|promised| self.requirement().obstacle(self.cell, machine, &promised).is_none())
    }

    fn requirement(&self) -> Requirement<'_> {
        let Request { resources, classes, home, job, .. } = *self.request;
        Requirement { resources, classes, home, job, special: None }
    }

    /// The machine as a rank sees it, when `placed` of the tasks went there already.
    fn candidate(&self, machine: u32, placed: u32) -> Candidate {
        let row = machine as usize;
        let tasks = i64::from(placed) + 1;
        let each = self.request.resources;
        let cpu_left = i64::from(self.columns.cpu_millis[row]) - i64::from(narrow(each.cpu_millis)) * tasks;
        let memory = each.memory_bytes.cast_signed().saturating_mul(tasks);
        let memory_left = self.columns.memory_bytes[row].saturating_sub(memory);
        let left = |amount: i64| u64::try_from(amount).unwrap_or(0);
        let exact = left(cpu_left) + left(memory_left) / MEMORY_BYTES_PER_CPU_MILLI;
        let nearness = self.request.decorrelation.map_or(1, |setting| setting.nearness_cpu_millis.max(1));
        Candidate {
            machine,
            leftover: exact - exact % nearness,
            siblings: self.request.siblings.get(&machine).copied().unwrap_or(0).saturating_add(placed),
            tie: self.request.decorrelation.map_or(0, |setting| setting.tie(machine)),
        }
    }
}

/// `count` times the amount, `None` on overflow.
fn times(amount: &Resources, count: u32) -> Option<Resources> {
    let count = u64::from(count);
    let mut product = *amount;
    product.cpu_millis = amount.cpu_millis.checked_mul(count)?;
    product.memory_bytes = amount.memory_bytes.checked_mul(count)?;
    product.disk_bytes = amount.disk_bytes.checked_mul(count)?;
    for units in &mut product.custom {
        *units = units.checked_mul(count)?;
    }
    Some(product)
}

#[cfg(test)]
mod tests;

//! Which machines a scheduler claims, by what it sees: the paper's randomised first fit on its mirror, or the production policies'
//! exact best fit on their columns.

use std::collections::BTreeMap;
use std::sync::Arc;

use plenum_policies::{Columns, Eligible, Parts, Policy, Request, Settings as Deciding, Ties, choose};

use super::constraints;
use super::scheduler::{Job, Scheduler};
use super::settings::{Choice, Settings};
use super::simulation::Terms;
use super::stage::{Free, Stage};

/// Most parts that the production policies know.
const PARTS_MOST: u32 = 64;

/// What a transaction claims.
pub(crate) struct Chosen {
    pub(crate) machines: Vec<u32>,
    pub(crate) alternates: Vec<u32>,
}

/// The policies' columns of the cell as it was at one moment.
pub(crate) struct Exact {
    columns: Columns,
    seen: Option<u64>,
    deciding: Deciding,
    /// By kind of constraints, the machines that suit.
    eligible: Vec<Option<Arc<Eligible>>>,
}

impl Exact {
    /// What scheduler `number` of so many needs, where machines are chosen exactly.
    pub(crate) fn new(choice: Choice, seed: u64, number: u32, schedulers: u32) -> Option<Self> {
        let count = schedulers.min(PARTS_MOST);
        let deciding = match choice {
            Choice::RandomFirstFit => return None,
            Choice::BestFit => Deciding::default(),
            Choice::BestFitDecorrelated => Deciding {
                ties: Ties::Seeded,
                seed,
                parts: Some(Parts { count, first: number % count }),
                ..Deciding::default()
            },
        };
        Some(Self { columns: Columns::default(), seen: None, deciding, eligible: Vec::new() })
    }

    /// Becomes the cell as it is now.
    pub(crate) fn follow(&mut self, stage: &Stage) {
        let changed: Option<Vec<u32>> = self.seen.and_then(|seen| stage.changes_since(seen)).map(Iterator::collect);
        let cell = stage.core().cell();
        self.columns.follow(cell, changed.as_deref(), &BTreeMap::new());
        self.seen = Some(stage.changed());
        if self.eligible.is_empty() {
            let kinds = 0..constraints::KINDS_COUNT;
            self.eligible =
                kinds.map(|kind| self.columns.eligible(&constraints::constraints(kind), &[], cell)).collect();
        }
    }

    fn choose(&self, job: &Job, count: usize) -> Vec<u32> {
        let resources = job.plan.resources();
        let eligible = self.eligible[job.kind].as_deref();
        let request = Request { eligible, ..Request::new(&resources, self.deciding) };
        choose(&self.columns, &request, Policy::BestFit, u32::try_from(count).unwrap_or(u32::MAX))
    }
}

/// Looks at the cell.
pub(crate) fn look(scheduler: &mut Scheduler, stage: &Stage) {
    match &mut scheduler.exact {
        Some(exact) => exact.follow(stage),
        None => scheduler.mirror.follow(stage),
    }
}

/// Machines for the tasks that wait, and spare ones, by what the scheduler sees.
pub(crate) fn place(scheduler: &mut Scheduler, job: &Job, settings: &Settings, terms: &Terms) -> Chosen {
    let wanted = job.waiting.len();
    let spare = match settings.beyond.alternates_percent as usize {
        0 => 0,
        percent => (wanted * percent).div_ceil(100),
    };
    let mut machines = if let Some(exact) = &scheduler.exact {
        exact.choose(job, wanted + spare)
    } else {
        let mut chosen = Vec::with_capacity(wanted + spare);
        let need = Free::of(&job.plan.resources());
        let classes = terms.classes[job.kind].as_ref();
        let allowed = |machine: u32| classes.is_none_or(|classes| classes.contains(terms.class_of[machine as usize]));
        scheduler.mirror.place(&mut scheduler.random, need, wanted + spare, allowed, &mut chosen);
        chosen
    };
    let mut alternates = machines.split_off(wanted.min(machines.len()));
    if !alternates.is_empty() {
        // A claim that falls back must not take the room that a later claim of the same transaction is for.
        let mut claimed = machines.clone();
        claimed.sort_unstable();
        alternates.retain(|machine| claimed.binary_search(machine).is_err());
    }
    Chosen { machines, alternates }
}

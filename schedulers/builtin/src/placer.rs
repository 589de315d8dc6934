//! Machines for groups of equal tasks, one group after the other, as all built-in schedulers find them.

use std::collections::BTreeMap;

use plenum_model::{Constraint, JobId, Requirement, Resources};
use plenum_policies::{Columns, Decorrelation, Policy, Request, choose, explain};
use plenum_sdk::{Decision, Plan, View, Work};

use crate::shared_machine;

/// The columns, and what one decision has found out so far.
#[derive(Debug)]
pub(crate) struct Placer {
    policy: Policy,
    columns: Columns,
    decorrelation: Option<Decorrelation>,
    /// Machines chosen in this decision for jobs whose tasks share one.
    homes: BTreeMap<JobId, u32>,
    /// What did not fit in this decision, and why. Room only shrinks in the course of one, so what is equal doesn't either:
    /// a thousand equal jobs that wait cost one scan.
    hopeless: BTreeMap<Need, String>,
}

/// Tasks with equal needs are equally hard to place.
type Need = (Resources, Vec<Constraint>, Option<u32>);

impl Placer {
    pub(crate) fn new(policy: Policy) -> Self {
        Self {
            policy,
            columns: Columns::default(),
            decorrelation: None,
            homes: BTreeMap::new(),
            hopeless: BTreeMap::new(),
        }
    }

    /// Begins a decision.
    pub(crate) fn begin(&mut self, view: &View<'_>, decorrelation: Option<Decorrelation>) {
        self.columns.follow(view.cell(), view.changed_machines(), view.promised());
        self.decorrelation = decorrelation;
        self.homes.clear();
        self.hopeless.clear();
    }

    /// Claims machines for as many tasks of all the work as fit, and says why the others do not.
    ///
    /// Groups that need the same and stand next to each other are placed in one scan of the machines: to a best fit their tasks are
    /// all alike, and many small jobs are often copies of one.
    pub(crate) fn place_all(&mut self, view: &View<'_>, works: &[Work], plan: &mut Plan, decision: &mut Decision) {
        let alike = |one: &Work, other: &Work| {
            let (left, right) = (one.shape(), other.shape());
            let shared = one.job.shape.same_machine || other.job.shape.same_machine;
            !shared && left.resources == right.resources && left.constraints == right.constraints
        };
        works.chunk_by(alike).for_each(|equals| self.place(view, equals, plan, decision));
    }

    /// Claims machines for groups of equal needs; with [`Policy::Spread`] one group only, as its siblings count.
    pub(crate) fn place(&mut self, view: &View<'_>, equals: &[Work], plan: &mut Plan, decision: &mut Decision) {
        let Some(first) = equals.first() else { return };
        let give_up = |works: &[Work], reason: &str, decision: &mut Decision| {
            works.iter().for_each(|work| decision.pass_over(work, work.tasks.len(), reason));
        };
        let shape = first.shape();
        let home = match self.home(view, first) {
            Ok(home) => home,
            Err(reason) => return give_up(equals, &reason, decision),
        };
        let need = (shape.resources, shape.constraints.clone(), home);
        if let Some(reason) = self.hopeless.get(&need) {
            return give_up(equals, reason, decision);
        }
        let classes = self.columns.classes_for(&shape.constraints, view.cell());
        let siblings = match self.policy {
            Policy::Spread => view.siblings(&first.job, first.group),
            Policy::FirstFit | Policy::BestFit => BTreeMap::new(),
        };
        let request = Request {
            resources: &shape.resources,
            classes: classes.as_ref(),
            home,
            siblings: &siblings,
            policy: self.policy,
            decorrelation: self.decorrelation,
        };
        let count: usize = equals.iter().map(|work| work.tasks.len()).sum();
        let chosen = choose(&self.columns, view.cell(), &request, u32::try_from(count).unwrap_or(u32::MAX));
        chosen.iter().for_each(|&machine| self.columns.take(machine, &shape.resources));
        let reason = (chosen.len() < count).then(|| {
            let requirement = Requirement {
                resources: &shape.resources,
                classes: classes.as_ref(),
                home,
                job: first.job.id,
                special: None,
            };
            explain(&self.columns, view.cell(), &requirement).to_string()
        });
        let mut machines = &chosen[..];
        for work in equals {
            let (placed, left) = work.tasks.split_at(machines.len().min(work.tasks.len()));
            plan.claim(work, placed, &machines[..placed.len()]);
            machines = &machines[placed.len()..];
            if let Some(reason) = reason.as_ref().filter(|_| !left.is_empty()) {
                decision.pass_over(work, left.len(), reason);
            }
        }
        if let Some(reason) = reason {
            self.hopeless.insert(need, reason);
        }
    }

    /// The machine that the job's tasks share, where they do; chosen now if it was not before.
    fn home(&mut self, view: &View<'_>, work: &Work) -> Result<Option<u32>, String> {
        if !work.job.shape.same_machine {
            return Ok(None);
        }
        let known = self.homes.get(&work.job.id).copied().or_else(|| view.home(&work.job));
        let home = match known {
            Some(home) => home,
            None => shared_machine::choose_home(&mut self.columns, view.cell(), &work.job, self.decorrelation)?,
        };
        self.homes.insert(work.job.id, home);
        Ok(Some(home))
    }
}

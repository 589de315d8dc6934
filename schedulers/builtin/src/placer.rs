//! Machines for groups of equal tasks, one group after the other, as all built-in schedulers find them.

use std::collections::BTreeMap;

use plenum_model::{Constraint, GroupCounts, JobId, Requirement, Resources, Special};
use plenum_policies::{Columns, Eligible, Index, Policy, Request, Settings, Suits, choose, explain};
use plenum_sdk::{Decision, Plan, Specials, View, Work};

use crate::shared_machine;

/// The columns, and what one decision has found out so far.
#[derive(Debug)]
pub(crate) struct Placer {
    policy: Policy,
    columns: Columns,
    /// What earlier decisions found out about equal tasks.
    index: Index,
    settings: Settings,
    /// Machines chosen in this decision for jobs whose tasks share one.
    homes: BTreeMap<JobId, u32>,
    /// What did not fit in this decision, and why. Room only shrinks in the course of one, so what is equal doesn't either:
    /// a thousand equal jobs that wait cost one scan.
    hopeless: BTreeMap<Need, String>,
    /// Devices, ports and limits; made when the first group asks for some.
    specials: Option<Specials>,
}

/// Tasks with equal needs are equally hard to place.
type Need = (Resources, Vec<Constraint>, Option<u32>);

impl Placer {
    pub(crate) fn new(policy: Policy) -> Self {
        Self {
            policy,
            columns: Columns::default(),
            index: Index::default(),
            settings: Settings::default(),
            homes: BTreeMap::new(),
            hopeless: BTreeMap::new(),
            specials: None,
        }
    }

    /// Begins a decision.
    pub(crate) fn begin(&mut self, view: &View<'_>, settings: Settings) {
        self.columns.follow(view.cell(), view.changed_machines(), view.promised());
        self.settings = settings;
        self.homes.clear();
        self.hopeless.clear();
        self.specials = None;
    }

    /// Claims machines for as many tasks of all the work as fit, and says why the others do not.
    ///
    /// Groups that need the same and stand next to each other are placed in one scan of the machines: to a best fit their tasks are
    /// all alike, and many small jobs are often copies of one.
    pub(crate) fn place_all(&mut self, view: &View<'_>, works: &[Work], plan: &mut Plan, decision: &mut Decision) {
        let alike = |one: &Work, other: &Work| {
            let (left, right) = (one.shape(), other.shape());
            let shared = one.job.shape.same_machine || other.job.shape.same_machine;
            let holds = |work: &Work| view.cell().hold(work.job.id).is_some();
            let plain = |work: &Work| !Special::is_needed_by(work.shape()) && work.shape().min == 0 && !holds(work);
            !shared
                && plain(one)
                && plain(other)
                && left.resources == right.resources
                && left.constraints == right.constraints
                && left.affinities == right.affinities
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
        // What a job holds is free for it alone.
        let hold = view.cell().hold(first.job.id);
        if let Some(reason) = self.hopeless.get(&need).filter(|_| hold.is_none()) {
            return give_up(equals, reason, decision);
        }
        let scheduler = &first.job.shape.scheduler;
        let eligible = self.columns.eligible_for(scheduler, &shape.constraints, &shape.affinities, view.cell());
        let siblings = match self.policy {
            Policy::Spread => view.siblings(&first.job, first.group),
            _ => BTreeMap::new(),
        };
        let request = Request {
            eligible: eligible.as_deref(),
            home,
            siblings: &siblings,
            hold,
            ..Request::new(&shape.resources, self.settings)
        };
        let count: usize = equals.iter().map(|work| work.tasks.len()).sum();
        let special = Special::is_needed_by(shape);
        let before = self.specials.clone();
        let mut chosen = if special {
            self.choose_one_by_one(view, first, &request)
        } else {
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            let chosen = self.index.choose(&self.columns, &request, eligible.as_ref(), self.policy, count);
            chosen.iter().for_each(|&machine| self.columns.take(machine, &shape.resources));
            chosen
        };
        let mut reason = (chosen.len() < count).then(|| self.why_no_more(view, first, &request));
        let least = least(view, first);
        if chosen.len() < least {
            // A part of a gang would be refused as mates: its room is left to others, who are not waiting for the rest.
            chosen.iter().for_each(|&machine| self.columns.give(machine, &shape.resources));
            chosen.clear();
            self.specials = before;
            let why = reason.take().unwrap_or_default();
            reason = Some(format!("the {least} tasks that it starts with do not fit at once: {why}"));
        }
        let mut machines = &chosen[..];
        for work in equals {
            let (placed, left) = work.tasks.split_at(machines.len().min(work.tasks.len()));
            plan.claim(work, placed, &machines[..placed.len()]);
            machines = &machines[placed.len()..];
            if let Some(reason) = reason.as_ref().filter(|_| !left.is_empty()) {
                decision.pass_over(work, left.len(), reason);
            }
        }
        if let Some(reason) = reason.filter(|_| !special && least == 0) {
            self.hopeless.insert(need, reason);
        }
    }

    /// Why no machine takes one more task of the group.
    fn why_no_more(&self, view: &View<'_>, work: &Work, request: &Request<'_>) -> String {
        let shape = work.shape();
        let counts = GroupCounts::are_needed_by(shape).then(|| GroupCounts::of(view.cell(), &work.job, work.group));
        let requirement = Requirement {
            resources: &shape.resources,
            classes: request.eligible.map(Eligible::classes),
            home: request.home,
            job: work.job.id,
            special: Special::of(shape, counts.as_ref()),
        };
        let mut why = explain(&self.columns, view.cell(), &requirement).to_string();
        let scheduler = &work.job.shape.scheduler;
        if view.cell().partitions().any(|(_, partition)| !partition.is_open_to(scheduler)) {
            why.push_str("; machines that a partition reserves for others count as failing a constraint");
        }
        why
    }

    /// Machines for tasks that ask for more than room: each is judged on what those before it took.
    fn choose_one_by_one(&mut self, view: &View<'_>, work: &Work, request: &Request<'_>) -> Vec<u32> {
        let specials = self.specials.get_or_insert_with(|| view.specials());
        if GroupCounts::are_needed_by(work.shape()) {
            specials.count(view.cell(), &work.job, work.group);
        }
        let mut siblings = request.siblings.clone();
        let mut chosen = Vec::new();
        for _ in &work.tasks {
            let suits = |slot: u32| specials.obstacle(view.cell(), work, slot).is_none();
            let request = Request { siblings: &siblings, suits: Some(Suits(&suits)), ..*request };
            let Some(&machine) = choose(&self.columns, &request, self.policy, 1).first() else { break };
            specials.take(view.cell(), &work.job, work.group, machine);
            self.columns.take(machine, &work.shape().resources);
            *siblings.entry(machine).or_default() += 1;
            chosen.push(machine);
        }
        chosen
    }

    /// The machine that the job's tasks share, where they do; chosen now if it was not before.
    fn home(&mut self, view: &View<'_>, work: &Work) -> Result<Option<u32>, String> {
        if !work.job.shape.same_machine {
            return Ok(None);
        }
        let known = self.homes.get(&work.job.id).copied().or_else(|| view.home(&work.job));
        let home = match known {
            Some(home) => home,
            None => shared_machine::choose_home(&mut self.columns, view.cell(), &work.job, self.settings)?,
        };
        self.homes.insert(work.job.id, home);
        Ok(Some(home))
    }
}

/// The fewest tasks of a group that it may be granted at once: what it declares, as long as fewer are there.
fn least(view: &View<'_>, work: &Work) -> usize {
    view.cell().group(&work.job, work.group).map_or(0, |row| work.shape().least_at_once(row)) as usize
}

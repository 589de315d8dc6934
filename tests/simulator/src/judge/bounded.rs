//! Bounds of the core: no step leaves more of anything than there may be, unless there was more before, as another setting left it. What is over and
//! waits to be retired is judged in [`super::dues`], and what is forgotten in [`super::memory`]. `stops_max` is judged nowhere: it bounds what one step stops, and not
//! what there is.

use plenum_core::CoreOptions;
use plenum_model::{Cell, JobId, SessionChange};

use super::Step;
use crate::books::{Checked, hold};

/// What is counted, how many of it there are, and how many there may be.
type Count = (&'static str, u64, u64);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Bounded {
    options: CoreOptions,
}

impl Bounded {
    /// Of a core with these bounds.
    pub(super) fn of(options: &CoreOptions) -> Self {
        Self { options: options.clone() }
    }

    pub(super) fn invariant_nothing_comes_above_a_bound(&self, step: &Step<'_>) -> Checked {
        let both = self.in_all(step.before).into_iter().zip(self.in_all(step.after));
        let grown = both.filter(|((_, before, _), (_, after, _))| after > before).map(|(_, after)| after);
        let mut counts = grown.chain(self.of_who_opened(step)).chain(self.of_who_holds(step));
        let above = counts.find(|(_, is, most)| is > most);
        hold(above.is_none(), "invariant_nothing_comes_above_a_bound", || {
            let (what, is, most) = above.unwrap_or_default();
            format!("revision {}: there are {is} {what}, and at most {most} may be", step.delta.revision)
        })
    }

    fn in_all(&self, cell: &Cell) -> [Count; 8] {
        let options = &self.options;
        let groups = cell.jobs().flat_map(|job| job.group_positions().filter_map(move |group| cell.group(job, group)));
        let tasks: u64 = groups.map(|group| u64::from(group.count)).sum();
        let counts = [
            ("sessions", cell.sessions().count(), options.sessions_max),
            ("different resources", cell.shapes().len(), options.shapes_max),
            ("names of schedulers", cell.scheduler_names().len(), options.schedulers_max),
            ("quotas", cell.quotas().len(), options.quotas_max),
            ("partitions", cell.partitions().len(), options.partitions_max),
            ("holds", cell.holds().len(), options.holds_max),
        ];
        let [sessions, resources, names, quotas, partitions, holds] =
            counts.map(|(what, count, most)| (what, count as u64, most as u64));
        let jobs = ("jobs", cell.jobs().count() as u64, options.jobs_max.into());
        [sessions, resources, names, quotas, partitions, holds, jobs, ("tasks", tasks, options.tasks_max.into())]
    }

    /// Sessions of whose principal, and under whose name, one was opened.
    fn of_who_opened(&self, step: &Step<'_>) -> Vec<Count> {
        let options = &self.options;
        let opened = step.delta.sessions.iter().filter_map(|change| match change {
            SessionChange::Opened { scheduler, principal, .. } => Some((scheduler, principal)),
            _ => None,
        });
        let counts = opened.flat_map(|(scheduler, principal)| {
            let alike = step.after.sessions().filter(|session| session.scheduler == *scheduler);
            let own = step.after.sessions().filter(|session| session.principal == *principal);
            [
                ("sessions of one scheduler", alike.count() as u64, options.sessions_of_scheduler_max as u64),
                ("sessions of one principal", own.count() as u64, options.sessions_of_principal_max as u64),
            ]
        });
        counts.collect()
    }

    /// Holds of whose scheduler one came: it has half of the places that others leave, and the odd one.
    fn of_who_holds(&self, step: &Step<'_>) -> Vec<Count> {
        let scheduler = |job: JobId| step.after.job(job).map(|job| &job.shape.scheduler);
        let new = step.delta.holds.iter().filter(|(job, hold)| hold.is_some() && step.before.hold(*job).is_none());
        let counts = new.map(|(job, _)| {
            let own = step.after.holds().filter(|(other, _)| scheduler(*other) == scheduler(*job)).count();
            let others = step.after.holds().len() - own;
            let most = self.options.holds_max.saturating_sub(others).div_ceil(2);
            ("holds of one scheduler", own as u64, most as u64)
        });
        counts.collect()
    }
}

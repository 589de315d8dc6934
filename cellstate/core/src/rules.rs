//! Declared rules, computed once: which classes of machines satisfy a group's constraints.

use std::collections::BTreeMap;

use plenum_model::{Cell, ClassSet, Constraint, Job, JobId};

/// Bitmaps of the constraints of groups: at most one for each group that has constraints.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    groups: BTreeMap<(JobId, u16), Known>,
}

#[derive(Debug, Default)]
struct Known {
    version: u32,
    classes: ClassSet,
}

impl Rules {
    /// The classes of machines that satisfy the constraints of this group, as the job's version has them.
    pub(crate) fn classes(&mut self, cell: &Cell, job: &Job, group: u16, constraints: &[Constraint]) -> &ClassSet {
        let known = self.groups.entry((job.id, group)).or_default();
        if known.version != job.version {
            *known = Known { version: job.version, classes: ClassSet::default() };
        }
        known.classes.refresh(constraints, cell);
        &known.classes
    }

    /// The job is gone.
    pub(crate) fn forget(&mut self, job: JobId) {
        self.groups.retain(|(known, _), _| *known != job);
    }
}

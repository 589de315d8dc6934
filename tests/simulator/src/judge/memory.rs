//! How far back a core remembers what happened on machines: what is younger, it can tell.

use plenum_core::CoreOptions;
use plenum_model::{Hold, Refusal, RefusalKind, RefusalReason, Revision, Transaction};

use super::Step;
use crate::books::{Checked, hold};

/// Changes of one machine that a core goes through for a transaction.
const WALK_MAX: usize = 4096;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Changes of which none is forgotten, of one machine or of all.
    changes_max: usize,
    /// When a server opened the cell last: it remembers nothing from before.
    opened: Revision,
    /// Changes of machines since then, at most.
    changes: usize,
    /// When a number of resources was given to others last: how much was taken by that number before, nobody remembers.
    reshaped: Revision,
}

impl Memory {
    pub(super) fn of(options: &CoreOptions) -> Self {
        Self { changes_max: options.ring_changes.min(WALK_MAX), ..Self::default() }
    }

    pub(super) fn note(&mut self, step: &Step<'_>) {
        let delta = step.delta;
        if delta.cell.is_some() {
            *self = Self { changes_max: self.changes_max, opened: delta.revision, ..Self::default() };
            return;
        }
        let machines_of = |hold: Option<&Hold>| hold.map_or(0, |hold| hold.machines.len());
        let holds =
            delta.holds.iter().map(|(job, hold)| machines_of(step.before.hold(*job)) + machines_of(hold.as_ref()));
        let grants = delta.grants.iter().map(|grants| grants.slots.len());
        self.changes += holds.chain(grants).sum::<usize>();
        self.changes += delta.ends.len() + delta.machines.len() + delta.unknown.len();
        if !delta.reshaped.is_empty() {
            self.reshaped = delta.revision;
        }
    }

    /// A base is too old to tell what came after it only where that may be forgotten.
    pub(super) fn invariant_stale_is_what_nobody_remembers(&self, txn: &Transaction, refusal: &Refusal) -> Checked {
        let by_amounts = refusal.reason == RefusalReason::NoRoom && self.reshaped > txn.base;
        let remembered = self.opened <= txn.base && self.changes < self.changes_max && !by_amounts;
        hold(refusal.kind != RefusalKind::Stale || !remembered, "invariant_stale_is_what_nobody_remembers", || {
            format!("{} on base {}, opened at {}: {refusal:?}", txn.id, txn.base, self.opened)
        })
    }
}

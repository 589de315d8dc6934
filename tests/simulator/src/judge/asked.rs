//! What a transaction asked to be held to beyond room: its guards, and the check `sequence`.

use plenum_model::{Cell, ConflictCheck, Grants, Guard, Outcome, Revision, Transaction};

use super::{EVERY_GRANT_WAS_VALID, Judge, Step};
use crate::books::{Checked, hold};

/// Nothing is granted while a guard fails, of its placement or of the whole transaction.
pub(super) fn guards_hold(step: &Step<'_>, txn: &Transaction, outcome: &Outcome) -> Checked {
    for (placement, claims) in txn.placements.iter().zip(&outcome.placements) {
        if claims.iter().all(Option::is_none) {
            continue;
        }
        let failed = txn.guards.iter().chain(&placement.guards).find(|guard| !holds(step.before, guard));
        hold(failed.is_none(), EVERY_GRANT_WAS_VALID, || {
            format!("revision {}: {} is granted something, and {failed:?}", step.delta.revision, txn.id)
        })?;
    }
    Ok(())
}

/// Whether the fact of a guard is one.
pub(super) fn holds(cell: &Cell, guard: &Guard) -> bool {
    match guard {
        Guard::JobVersion { job, version } => cell.job(*job).is_some_and(|found| found.version == *version),
        Guard::Attribute { machine, attribute, value } => {
            cell.machine(*machine).is_some_and(|found| found.attributes.get(attribute) == Some(value))
        }
    }
}

impl Judge {
    /// With `sequence` nothing is granted where another session was granted anything since the base, where room is held since for jobs of another
    /// scheduler, or had by a task that nobody knew, or where the machine itself changed.
    pub(super) fn sequence_is_kept(
        &self,
        step: &Step<'_>,
        txn: &Transaction,
        grants: &Grants,
        claim: usize,
    ) -> Checked {
        if txn.check != ConflictCheck::Sequence {
            return Ok(());
        }
        let machine = grants.machines[claim];
        let facts = |what: &str, at: Option<Revision>| {
            format!("revision {}: {} on {machine} on base {}: {what} at {at:?}", step.delta.revision, txn.id, txn.base)
        };
        let mut others = self.granted.values().filter(|granted| granted.transaction.session != txn.id.session);
        let other = others.find(|granted| granted.machine == machine && granted.at > txn.base);
        hold(other.is_none(), EVERY_GRANT_WAS_VALID, || {
            facts("another one was granted something", other.map(|other| other.at))
        })?;
        if let Some(session) = step.before.session(txn.id.session) {
            let occupied = self.happened.occupied_by_others(txn.base, machine, &session.scheduler);
            hold(occupied.is_none(), EVERY_GRANT_WAS_VALID, || {
                facts("room is held, or had by an unknown task", occupied)
            })?;
        }
        let changed = self.happened.machine_changed(txn.base, machine);
        hold(changed.is_none(), EVERY_GRANT_WAS_VALID, || facts("the machine changed", changed))
    }
}

//! Who held the room that claims of a transaction lacked: refusals tell how much was short, and lists of machines count what is held as free.

use plenum_history::{History, LoggedTransaction};
use plenum_model::{Cell, JobId, Resource};
use plenum_proto::v1;

use crate::api::past;

/// Jobs that are named of each refusal.
const NAMED_MAX: usize = 4;

/// Of each refusal that there would not have been without holds of others: who they were. Nothing where the cell as it was then is not retained.
pub(super) fn told(history: &History, found: &LoggedTransaction) -> Vec<v1::HeldView> {
    let refusals = found.outcome.refusals.iter();
    let mut asked = refusals.filter(|refusal| may_be_held(refusal)).peekable();
    // Most lost to other transactions, and then nothing is folded.
    if asked.peek().is_none() {
        return Vec::new();
    }
    match past::fold(history, found.revision.saturating_sub(1)) {
        Ok(cell) => {
            let mut held: Vec<_> = asked.filter_map(|refusal| by_whom(&cell, refusal)).collect();
            held.sort_unstable_by_key(|view| (view.placement, view.claim));
            held
        }
        Err(_) => Vec::new(),
    }
}

/// Whether a hold may be why: it was there at the base already, or came since. Where others came since, they are.
fn may_be_held(refusal: &v1::Refusal) -> bool {
    let by_hold = || refusal.culprits.iter().any(|culprit| culprit.event == "hold");
    refusal.reason() == v1::RefusalReason::NoRoom && (refusal.kind() == v1::RefusalKind::Misfit || by_hold())
}

/// `cell`: as it was before.
fn by_whom(cell: &Cell, refusal: &v1::Refusal) -> Option<v1::HeldView> {
    // 0 stands for none.
    let resource = *Resource::ALL.get(usize::try_from(refusal.resource).ok()?.checked_sub(1)?)?;
    let held = cell.held_beside(refusal.machine, JobId::from_bits(refusal.job)?, resource);
    let amount = held.iter().map(|&(amount, _)| amount.cast_signed()).fold(0, i64::saturating_add);
    let named = held.iter().filter_map(|&(_, job)| cell.job(job)).take(NAMED_MAX);
    (amount > 0 && amount >= refusal.short_by).then(|| v1::HeldView {
        placement: refusal.placement,
        claim: refusal.claim,
        amount,
        jobs: named.map(|job| format!("{}/{}", job.shape.namespace, job.shape.name)).collect(),
        jobs_total: u32::try_from(held.len()).unwrap_or(u32::MAX),
    })
}

//! What stands behind the culprits of a transaction's refusals, which name allocations and revisions: whose the allocations are, and who asked for what
//! happened there.

use std::collections::BTreeSet;

use plenum_history::{History, LoggedTransaction};
use plenum_model::{AllocationId, Cell};
use plenum_proto::v1::{self, command::Ask};
use prost::Message;

use crate::api::past::names::{Groups, Names};
use crate::api::past::tenants::Tenants;

/// Events that are looked up: each takes an entry of the log.
const EVENTS_MAX: usize = 64;

/// Each of them once, as far as it is retained and can be read; by allocation and revision.
pub(super) fn told(
    history: &History,
    cell: &Cell,
    (groups, names): (&Groups<'_>, &mut Names<'_>),
    found: &LoggedTransaction,
) -> Vec<v1::CulpritView> {
    let culprits = || found.outcome.refusals.iter().flat_map(|refusal| &refusal.culprits);
    let ids: BTreeSet<AllocationId> =
        culprits().filter_map(|culprit| AllocationId::from_bits(culprit.allocation)).collect();
    let events = culprits().filter(|culprit| culprit.session == 0).map(|culprit| culprit.revision);
    let events: BTreeSet<u64> = events.collect();
    let tenants = Tenants::new(history, cell).find(ids, found.revision).unwrap_or_default();
    let mut told = Vec::new();
    for (id, tenant) in tenants {
        told.push(v1::CulpritView {
            allocation: id.to_bits(),
            job: names.job(tenant.job.to_bits()).map_or_else(|| tenant.job.to_string(), str::to_owned),
            group: groups.name(tenant.job, tenant.group, found.revision, found.time_micros),
            task: tenant.task,
            ..v1::CulpritView::default()
        });
    }
    // The newest ones: who came before is more likely to be retired.
    for revision in events.into_iter().rev().take(EVENTS_MAX) {
        let Ok(logged) = history.entry(revision) else { continue };
        let Ok(command) = v1::Command::decode(logged.entry.asked) else { continue };
        let job = match command.ask {
            Some(Ask::TakeHold(hold)) => names.job(hold.job).unwrap_or_default().to_owned(),
            _ => String::new(),
        };
        told.push(v1::CulpritView { revision, principal: command.principal, job, ..v1::CulpritView::default() });
    }
    told.sort_unstable_by_key(|view| (view.allocation, view.revision));
    told
}

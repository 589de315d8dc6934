//! Who was evicted by a transaction, and for whom.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

use plenum_history::{History, LoggedTransaction};
use plenum_model::{AllocationId, AllocationState, Cell, Delta, JobId, LogTime, Move};
use plenum_proto::v1;

use super::ended::delta_of;
use super::names;
use super::tenants::{Tenant, Tenants};
use crate::api::failure::Failure;
use crate::api::past;

/// The allocations that had to go of those that a transaction names as victims, in their order; and what it changed, where it names any.
pub(in crate::api) struct Evicted {
    pub(in crate::api) ids: Vec<u64>,
    delta: Option<Delta>,
}

impl Evicted {
    pub(in crate::api) fn of(asked: &v1::Transaction, found: &LoggedTransaction) -> Result<Self, Failure> {
        let mut named = asked.placements.iter().flat_map(|one| &one.preemptions).map(|one| one.victim).peekable();
        // Most name nobody, and then nothing more is read of them.
        if named.peek().is_none() {
            return Ok(Self { ids: Vec::new(), delta: None });
        }
        let delta = delta_of(&found.entry)?;
        let evicted = evicted(&delta);
        let mut told = BTreeSet::new();
        let went = |id: &u64| AllocationId::from_bits(*id).is_some_and(|id| evicted.contains(&id.slot));
        let ids = named.filter(|id| went(id) && told.insert(*id)).collect();
        Ok(Self { ids, delta: Some(delta) })
    }

    /// Whose they were, and who got their room: with names, and priorities as of then.
    pub(in crate::api) fn views(&self, history: &History, cell: &Cell) -> Result<Vec<v1::EvictionView>, Failure> {
        let Some(delta) = self.delta.as_ref().filter(|_| !self.ids.is_empty()) else { return Ok(Vec::new()) };
        let before = delta.revision.0.saturating_sub(1);
        let ids = self.ids.iter().copied().filter_map(AllocationId::from_bits).collect();
        let tenants = Tenants::new(history, cell).find(ids, before)?;
        let (groups, folded) = (names::Groups::new(history, cell), OnceCell::new());
        let then = Then { history, cell, groups, before, time: delta.time, folded };
        let heirs = heirs(delta);
        let view = |&allocation: &u64| {
            let mut view = v1::EvictionView { allocation, ..v1::EvictionView::default() };
            let id = AllocationId::from_bits(allocation);
            if let Some(tenant) = id.and_then(|id| tenants.get(&id)) {
                (view.job, view.group, view.task) = then.names(tenant);
                view.priority = then.priority(tenant.job);
                let machine = names::machine_then(history, cell, tenant.machine, delta.revision.0, delta.time.micros);
                view.machine = machine.unwrap_or_default();
            }
            if let Some((heir, tenant, count)) = id.and_then(|id| heirs.get(&id)) {
                view.heir = heir.to_bits();
                (view.heir_job, view.heir_group, view.heir_task) = then.names(tenant);
                view.heir_priority = then.priority(tenant.job);
                view.other_heirs = count - 1;
            }
            view
        };
        Ok(self.ids.iter().map(view).collect())
    }
}

/// Slots of those who are evicted with a delta.
pub(in crate::api) fn evicted(delta: &Delta) -> BTreeSet<u32> {
    let evicting = |change: &&Move| change.status.state == AllocationState::Evicting;
    delta.moves.iter().filter(evicting).map(|change| change.slot).collect()
}

/// By whom room was taken over from: the first who got of it, and how many did.
fn heirs(delta: &Delta) -> BTreeMap<AllocationId, (AllocationId, Tenant, u32)> {
    let mut heirs: BTreeMap<AllocationId, (AllocationId, Tenant, u32)> = BTreeMap::new();
    for grants in &delta.grants {
        for extra in &grants.extras {
            let column = |values: &[u32]| {
                let position = usize::try_from(extra.claim).unwrap_or(usize::MAX);
                values.get(position).copied().unwrap_or_default()
            };
            let heir = AllocationId { slot: column(&grants.slots), generation: column(&grants.generations) };
            let (task, machine) = (column(&grants.tasks), column(&grants.machines));
            let tenant = Tenant { job: grants.job, group: grants.group, task, machine };
            for entry in &extra.takes_over {
                heirs.entry(entry.victim).or_insert((heir, tenant, 0)).2 += 1;
            }
        }
    }
    heirs
}

/// What jobs were called, and how urgent they were, when something was decided.
struct Then<'a> {
    history: &'a History,
    cell: &'a Cell,
    groups: names::Groups<'a>,
    /// The revision before.
    before: u64,
    time: LogTime,
    /// The cell at that revision, once somebody asks for what only it knows; `None`: it is not retained.
    folded: OnceCell<Option<Cell>>,
}

impl Then<'_> {
    fn names(&self, tenant: &Tenant) -> (String, String, u32) {
        let job = names::job(self.history, self.cell, tenant.job.to_bits()).unwrap_or_else(|| tenant.job.to_string());
        let group = self.groups.name(tenant.job, tenant.group, self.before, self.time.micros);
        (job, group, tenant.task)
    }

    /// A job that was submitted again since may have had another one.
    fn priority(&self, id: JobId) -> Option<u32> {
        if let Some(job) = self.cell.job(id).filter(|job| job.submitted < self.time) {
            return Some(job.shape.priority.into());
        }
        let folded = self.folded.get_or_init(|| past::fold(self.history, self.before).ok());
        folded.as_ref()?.job(id).map(|job| job.shape.priority.into())
    }
}

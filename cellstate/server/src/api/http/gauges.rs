//! What operators laid down and who keeps to it, as values for `/metrics`: schedulers, quotas, machines that their own agents cordoned, and bytes of jobs.

use std::collections::BTreeMap;
use std::sync::Arc;

use plenum_model::{Cell, Resource, Sum, Unfit};

use crate::api::http::float;
use crate::api::members::{ByScheduler, Members};
use crate::metrics::NAMES_MAX;
use crate::shared::Shared;

/// Values of one name, each with its labels as they are written.
pub(super) type Gauge = (&'static str, Vec<(String, f64)>);

/// One value without labels.
pub(super) fn single(name: &'static str, value: u64) -> Gauge {
    (name, vec![(String::new(), float(value))])
}

/// Namespaces whose quotas are told, the first ones by name: each is two series for each resource that it limits.
const QUOTAS_MAX: usize = 64;

/// All of them, of a cell of the present. Walks over all machines and jobs, and over the tasks of namespaces that have a quota.
pub(super) fn all(shared: &Shared, cell: &Cell, members: &ByScheduler) -> Vec<Gauge> {
    let mut gauges = schedulers(shared, cell, members);
    gauges.extend(quotas(cell, &shared.identity.custom_resources));
    gauges.push(unfit(cell));
    gauges.push(job_bytes(cell));
    gauges
}

/// By name, as all that carries a scheduler's: who is there, who of these is silent, and whether it is paused.
fn schedulers(shared: &Shared, cell: &Cell, members: &ByScheduler) -> Vec<Gauge> {
    let mut by_name = BTreeMap::<String, (Members, u32)>::new();
    for name in cell.paused() {
        by_name.entry(shared.metrics.name(name)).or_default().1 += 1;
    }
    let (there, absent): (Vec<_>, Vec<_>) = members.iter().partition(|(_, members)| members.sessions > 0);
    for (name, members) in there {
        let (of_name, _) = by_name.entry(shared.metrics.name(name)).or_default();
        of_name.connected += members.connected;
        of_name.silent += members.silent;
    }
    // Anybody can write any name into a job file: it is told, and takes the place of none that was ever there.
    for (name, _) in absent {
        let has_place = shared.metrics.is_named(name) || by_name.len() < NAMES_MAX;
        by_name.entry(if has_place { name.to_string() } else { "other".to_owned() }).or_default();
    }
    let gauge = |gauge: &'static str, value: fn(&(Members, u32)) -> u32| {
        let values =
            by_name.iter().map(|(name, of_name)| (format!("{{scheduler=\"{name}\"}}"), f64::from(value(of_name))));
        (gauge, values.collect())
    };
    vec![
        gauge("scheduler_connected", |(members, _)| members.connected),
        gauge("scheduler_silent", |(members, _)| members.silent),
        gauge("scheduler_paused", |(_, paused)| *paused),
    ]
}

/// Limits, and what is used of them, of each resource that is limited.
fn quotas(cell: &Cell, custom_resources: &[Arc<str>]) -> [Gauge; 2] {
    let all_used = cell.used_of_quotas();
    let (mut limits, mut uses) = (Vec::new(), Vec::new());
    for (namespace, quota) in cell.quotas().take(QUOTAS_MAX) {
        let used = all_used.get(namespace).map(Sum::total).unwrap_or_default();
        for (resource, limit) in Resource::ALL.into_iter().zip(quota.limits) {
            let Some(limit) = limit else { continue };
            // As other metrics have it: with its unit, where that is none of the operator's.
            let is_custom = matches!(resource, Resource::Custom(_));
            let name = if is_custom { resource.name_in(custom_resources) } else { resource.to_string() };
            let labels = format!("{{namespace=\"{namespace}\",resource=\"{name}\"}}");
            limits.push((labels.clone(), float(limit)));
            uses.push((labels, float(used.get(resource))));
        }
    }
    [("quota_limit", limits), ("quota_used", uses)]
}

/// Machines by why their own agents want no new tasks there, whatever else is true of them.
fn unfit(cell: &Cell) -> Gauge {
    let mut counts = [
        (Unfit::AgentLeaves, "agent-leaves", 0),
        (Unfit::StateUnwritable, "state-unwritable", 0),
        (Unfit::SetupFails, "setup-fails", 0),
    ];
    for unfit in cell.machines().filter_map(|machine| machine.unfit) {
        counts.iter_mut().filter(|(reason, ..)| *reason == unfit).for_each(|(.., count)| *count += 1);
    }
    let values = counts.map(|(_, word, count)| (format!("{{reason=\"{word}\"}}"), float(count)));
    ("machines_unfit", values.to_vec())
}

/// What all jobs count as of the bytes that the core lets them have.
fn job_bytes(cell: &Cell) -> Gauge {
    let bytes: usize = cell.jobs().map(|job| job.kept_bytes()).sum();
    single("job_bytes", bytes as u64)
}

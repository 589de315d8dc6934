//! What operators laid down, and who did: quotas, partitions, pauses and rights of schedulers.

use plenum_history::Logged;
use plenum_model::{Delta, Partition, Quota, Resource, Rights, bytes, cpu};

use super::Teller;
use crate::api::failure::Failure;

/// Most bytes of what is told of one change: a partition may have a MiB of rules.
const DETAIL_BYTES_MAX: usize = 4096;

/// What is told of: all of one kind, or only that of one name.
pub(in crate::api) struct Governed {
    kind: Kind,
    /// Empty: of all.
    name: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Quotas,
    Partitions,
    Schedulers,
}

impl Governed {
    /// As it was asked for.
    pub(in crate::api) fn parse(of: &str, name: String) -> Result<Self, Failure> {
        let kind = match of {
            "quota" => Kind::Quotas,
            "partition" => Kind::Partitions,
            "scheduler" => Kind::Schedulers,
            other => {
                let message = format!("of: expected quota, partition or scheduler, found {other:?}");
                return Err(Failure::invalid(message));
            }
        };
        Ok(Self { kind, name })
    }

    /// Tells what a delta has of it.
    pub(super) fn tell(&self, teller: &mut Teller<'_>, logged: &Logged, delta: &Delta) -> Result<(), Failure> {
        let mut events = Vec::new();
        match self.kind {
            Kind::Quotas => {
                let custom = &teller.cell.identity().custom_resources;
                let words = |quota: &Quota| limits(quota, |resource| resource.name_in(custom));
                events.extend(delta.quotas.iter().map(|(name, quota)| set(name, quota.as_ref().map(words))));
            }
            Kind::Partitions => {
                events.extend(delta.partitions.iter().map(|(name, set_to)| set(name, set_to.as_ref().map(machines))));
            }
            Kind::Schedulers => {
                let paused = |paused: bool| if paused { "paused" } else { "resumed" };
                events.extend(delta.paused.iter().map(|(name, is_so)| (&**name, paused(*is_so), String::new())));
                events.extend(delta.rights.iter().map(|(name, rights)| set(name, Some(granted(*rights)))));
            }
        }
        for (name, event, detail) in events.into_iter().rev() {
            if self.name.is_empty() || self.name == name {
                let colon = if detail.is_empty() { "" } else { ": " };
                teller.push(logged, event, cut(format!("{name}{colon}{detail}")))?;
            }
        }
        Ok(())
    }
}

fn cut(mut detail: String) -> String {
    if detail.len() > DETAIL_BYTES_MAX {
        detail.truncate(detail.floor_char_boundary(DETAIL_BYTES_MAX));
        detail.push_str(" …");
    }
    detail
}

fn set(name: &str, to: Option<String>) -> (&str, &'static str, String) {
    to.map_or_else(|| (name, "removed", String::new()), |words| (name, "set", words))
}

/// What is limited, and to what.
fn limits(quota: &Quota, name_of: impl Fn(Resource) -> String) -> String {
    let limited = Resource::ALL.into_iter().zip(quota.limits);
    let words =
        limited.filter_map(|(resource, limit)| Some(format!("{} {}", name_of(resource), amount(resource, limit?))));
    words.collect::<Vec<_>>().join(", ")
}

fn amount(resource: Resource, limit: u64) -> String {
    match resource {
        Resource::CpuMillis => cpu(limit),
        Resource::MemoryBytes | Resource::DiskBytes => bytes(limit),
        Resource::Custom(_) => limit.to_string(),
    }
}

fn machines(partition: &Partition) -> String {
    let rules: Vec<String> = partition.machines.iter().map(ToString::to_string).collect();
    let rules = rules.join(" and ");
    if partition.schedulers.is_empty() { rules } else { format!("{rules}, for {}", partition.schedulers.join(", ")) }
}

fn granted(rights: Rights) -> String {
    let evicts = if rights.evicts { "evicts" } else { "evicts nobody" };
    format!("{evicts}, priority {}", rights.priority)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_told_as_people_set_it_and_nothing_of_what_is_not_limited() {
        let mut quota = Quota::default();
        assert_eq!(limits(&quota, |resource| resource.name_in(&[])), "");
        for (limit, amount) in quota.limits.iter_mut().zip([Some(1500), Some(3 << 29), None, None, Some(7)]) {
            *limit = amount;
        }
        let names = ["seats".into(), "licences".into()];
        assert_eq!(limits(&quota, |resource| resource.name_in(&names)), "cpu 1500m, memory 1.5GiB, licences 7");
        assert_eq!(cut("ä".repeat(DETAIL_BYTES_MAX)).len(), DETAIL_BYTES_MAX + " …".len());
        assert_eq!((amount(Resource::CpuMillis, 0), amount(Resource::CpuMillis, 64_000)), ("0".into(), "64".into()));
    }
}

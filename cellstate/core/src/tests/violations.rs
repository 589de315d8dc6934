//! Steps that the core would never decide: what must always hold finds each of them.

use plenum_model::{Cell, Command, Delta, GroupShape, Hold, LogTime, Quota, Resource, Resources};

use super::costs::Large;
use crate::CoreOptions;
use crate::invariants::{Violation, invariant_no_grant_or_hold_exceeds_a_quota};

/// The delta that comes next, without any change yet.
fn next(cell: &Cell) -> Delta {
    Delta::new(cell.revision().next(), cell.time())
}

// Only where it got more machines was a hold held to the quota: on as many it could grow a hundredfold.
#[test]
fn a_hold_that_is_renewed_with_more_than_its_quota_allows_is_found() {
    let mut large = Large::new(CoreOptions::default());
    let machines = ["m1", "m2"].map(|name| large.machine(name.to_owned()).slot);
    let job = large.job(GroupShape { count: 1, ..GroupShape::default() });
    let (resources, deadline) = (Resources::new(1000, 10), LogTime::from_micros(60_000_000));
    large.ask(Command::TakeHold { job, machines: machines.to_vec(), resources, deadline });
    // Far below what is held already: that stays.
    let mut limits = Quota::default().limits;
    limits[Resource::CpuMillis.index()] = Some(500);
    large.ask(Command::SetQuota { namespace: "default".into(), limit: Some(Quota { limits }) });
    let before = large.core.cell().clone();
    let held = before.hold(job).expect("it holds room").clone();
    let found = |machines: &[u32], resources: Resources| {
        let hold = Hold { machines: machines.to_vec(), resources, ..held.clone() };
        let delta = Delta { holds: vec![(job, Some(hold))], ..next(&before) };
        let mut after = before.clone();
        after.apply(&delta).expect("it folds");
        invariant_no_grant_or_hold_exceeds_a_quota(&before, &after, &delta)
    };
    let exceeded = |used| {
        let (revision, namespace) = (before.revision().next(), "default".into());
        Err(Violation::QuotaExceeded { revision, namespace, resource: Resource::CpuMillis, used, limit: 500 })
    };
    assert_eq!(found(&machines, resources), Ok(()), "it is renewed");
    assert_eq!(found(&machines[..1], resources), Ok(()), "it lost a machine");
    assert_eq!(found(&machines, Resources::new(1000, 11)), Ok(()), "it has more of what has no limit");
    assert_eq!(found(&machines, Resources::new(1001, 10)), exceeded(2002));
    assert_eq!(found(&machines[..1], Resources::new(2001, 10)), exceeded(2001), "on fewer machines, and more in all");
}

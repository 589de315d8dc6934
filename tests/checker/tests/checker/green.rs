//! What the core decides keeps every promise, as far as the checker can see, and the runs are worth looking at.

use plenum_checker::check;

use crate::traffic::{Seen, Traffic};

#[test]
fn a_run_full_of_conflicts_keeps_every_promise() {
    let mut seen = std::collections::BTreeMap::new();
    for seed in 0..6 {
        let mut traffic = Traffic::new(seed);
        traffic.run(500);
        let verdict = check(&traffic.bench.evidence);
        assert_eq!(verdict.violations, [], "seed {seed}");
        assert_eq!(verdict.folded as u64, traffic.bench.revision(), "everything is folded");
        for (what, count) in traffic.seen {
            *seen.entry(what).or_insert(0) += count;
        }
    }
    let usual = [Seen::Committed, Seen::Partial, Seen::Refused, Seen::Repeated, Seen::DryRun, Seen::Stop];
    let refused =
        [Seen::Conflict, Seen::Misfit, Seen::Mate, Seen::Quota, Seen::DeviceTaken, Seen::Limit, Seen::Predecessor];
    let special =
        [Seen::TookOver, Seen::Evicted, Seen::Device, Seen::Port, Seen::Alternate, Seen::Removed, Seen::Event];
    let held = [Seen::Held, Seen::HeldBack, Seen::HoldDisplaced, Seen::RefusedByHold];
    let others = [Seen::Launched, Seen::LaunchRefused, Seen::UnknownFound, Seen::UnknownStopped];
    let strangers = [Seen::UnknownAdopted, Seen::UnknownEnded];
    let governed = held.into_iter().chain(others).chain(strangers);
    for what in usual.into_iter().chain(refused).chain(special).chain(governed) {
        assert!(seen.get(&what).is_some_and(|&count| count > 5), "{what:?} hardly happened: {seen:?}");
    }
}

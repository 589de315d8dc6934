//! What the core decides keeps every promise, as far as the checker can see, and the runs are worth looking at.

use plenum_checker::check;
use plenum_checker::picture::slot_of;
use plenum_proto::v1;
use plenum_testkit::JobBuilder;

use crate::bench::{Bench, machine};
use crate::restored::claimed_after_a_restore;
use crate::traffic::{ASKING, OF_JOBS, OF_MEMORY, OF_TWO, Seen, Traffic};

#[test]
fn a_run_full_of_conflicts_keeps_every_promise() {
    let mut seen = std::collections::BTreeMap::new();
    let of_more = (OF_MEMORY..OF_MEMORY + 6).chain(OF_TWO..OF_TWO + 4).chain(ASKING..ASKING + 6);
    let of_more = of_more.chain(OF_JOBS..OF_JOBS + 6);
    for seed in (0..6).chain(of_more) {
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
    let refused = [
        Seen::Conflict,
        Seen::Misfit,
        Seen::Mate,
        Seen::Quota,
        Seen::DeviceTaken,
        Seen::Limit,
        Seen::Predecessor,
        Seen::RunsUnknown,
        Seen::MayNotEvict,
    ];
    let special =
        [Seen::TookOver, Seen::Evicted, Seen::Device, Seen::Port, Seen::Alternate, Seen::Removed, Seen::Event];
    let of_memory = [Seen::MemoryQuota, Seen::NoMemory];
    let held = [Seen::Held, Seen::HeldBack, Seen::HoldDisplaced, Seen::RefusedByHold];
    let others = [Seen::Launched, Seen::LaunchRefused, Seen::UnknownFound, Seen::UnknownStopped];
    let strangers = [Seen::UnknownAdopted, Seen::UnknownEnded, Seen::UnknownOfJob];
    let asked = [Seen::InSequence, Seen::OutOfSequence, Seen::Guarded, Seen::GuardFailed];
    let governed = held.into_iter().chain(others).chain(strangers).chain(of_memory).chain(asked);
    for what in usual.into_iter().chain(refused).chain(special).chain(governed) {
        assert!(seen.get(&what).is_some_and(|&count| count > 5), "{what:?} hardly happened: {seen:?}");
    }
}

#[test]
fn a_single_instance_that_waits_for_the_agents_of_a_restored_cell_breaks_no_promise() {
    let (granted, evidence) = claimed_after_a_restore();
    assert_eq!(granted, [0, 1]);
    assert_eq!(check(&evidence).violations, []);
}

/// Jobs come and go, each with resources of its own: these have the numbers of those before them.
#[test]
fn a_number_that_stands_for_something_else_by_now_misleads_nobody() {
    let mut bench = Bench::new();
    let machine = slot_of(bench.machine(machine("m1", 6000, &[])));
    let session = bench.session("batch");
    for number in 1..=20 {
        let spec = JobBuilder::new(&format!("job-{number}"), "batch").group("main", 1, 100 * number).spec();
        let job = bench.submit(spec);
        let placement =
            v1::Placement { job, job_version: 1, machines: vec![machine], tasks: vec![0], ..Default::default() };
        let base_revision = bench.revision();
        let number = number.unsigned_abs();
        let asked =
            v1::Transaction { session, number, base_revision, placements: vec![placement], ..Default::default() };
        assert_eq!(bench.commit("batch", asked).unwrap().granted, 1);
        if number % 5 == 0 {
            bench.late_watcher("late");
        }
        let allocation = bench.core.cell().allocations().next().unwrap().id.to_bits();
        bench.report(allocation, v1::AllocationState::Complete);
        bench.wait(3_700_000_000);
        if number % 7 == 0 {
            bench.restart();
        }
    }
    let verdict = check(&bench.evidence);
    assert_eq!(verdict.violations, []);
    assert_eq!(bench.core.cell().shapes().len(), 1);
}

//! A cell that is restored, on the bench: who claims before its agents were heard.

use plenum_checker::Evidence;
use plenum_proto::v1;
use plenum_testkit::JobBuilder;

use crate::bench::{Bench, machine};

/// A task of which only one may run waits in a cell that is restored. It is claimed when the first of two agents was heard, and when both were: how
/// many claims are granted each time.
pub(crate) fn claimed_after_a_restore() -> ([u32; 2], Evidence) {
    let mut bench = Bench::new();
    let machines = ["m1", "m2"].map(|name| machine(name, 1000, &[]));
    for machine in machines.clone() {
        bench.machine(machine);
    }
    let job = JobBuilder::new("only", "batch").group("main", 1, 500).single_instance().forever();
    let job = bench.submit(job.spec());
    bench.restore();
    let session = bench.session("batch");
    let mut number = 0;
    let granted = machines.map(|again| {
        number += 1;
        bench.machine(again);
        let (machines, tasks, base_revision) = (vec![0], vec![0], bench.revision());
        let placements = vec![v1::Placement { job, job_version: 1, machines, tasks, ..v1::Placement::default() }];
        let asked = v1::Transaction { session, number, base_revision, placements, ..v1::Transaction::default() };
        bench.commit("batch", asked).unwrap().granted
    });
    (granted, bench.evidence)
}

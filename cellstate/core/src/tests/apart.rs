//! Stories of two namespaces and of two partitions: what is the one's counts for nobody else.

use std::sync::Arc;

use plenum_model::{Command, JobId, JobKind, JobShape};

use super::costs::Large;
use super::sizes::submit;
use super::story::check;
use crate::CoreOptions;

// Were the victim's part credited to whoever evicts it, a namespace without any quota left could grow by what it takes from another one.
#[test]
fn whom_a_claim_evicts_gives_quota_back_to_his_own_namespace_only() {
    check(
        "
        machine m1 cpu=3000
        machine m2 cpu=4000
        job own by batch tasks=1 cpu=3000 prio=10
        job theirs by batch tasks=1 cpu=4000 prio=10 in=other
        job high by ml tasks=1 cpu=3000 prio=90
        quota default cpu=3000
        quota other cpu=4000
        batch: claim own[0]@m1 claim theirs[0]@m2
        ml: claim high[0]@m2 victim=theirs[0]
        show theirs[0]
        used? default
        ml: claim high[0]@m1 victim=own[0]
        used? default
        used? other
        ",
        "
        batch: committed; own[0] granted; theirs[0] granted
        ml: refused; high[0] quota QuotaExceeded short cpu_millis 3000
        theirs[0] Granted
        default uses 3000
        ml: committed; high[0] granted over own[0] 3000
        default uses 3000
        other uses 4000
        ",
    );
}

#[test]
fn a_hold_gives_quota_back_to_its_own_namespace_only() {
    check(
        "
        machine m1 cpu=1000
        machine m2 cpu=1000
        job early by ml tasks=2 cpu=1000 prio=90
        job theirs by ml tasks=1 cpu=1000 prio=10 in=other
        quota default cpu=1000
        quota other cpu=1000
        hold early m1 cpu=1000
        hold theirs m2 cpu=1000
        hold early m1,m2 cpu=1000
        hold? early
        hold? theirs
        quota default cpu=2000
        hold early m1,m2 cpu=1000
        hold? early
        hold? theirs
        used? default
        used? other
        ",
        "
        NO_ROOM_TO_HOLD: the quota of default is short of cpu by 1000m for early to hold that
        early holds [m1] for 60
        theirs holds [m2] for 60
        early holds [m1 m2] for 60
        theirs holds [] for 60
        default uses 2000
        other uses 0
        ",
    );
}

#[test]
fn of_several_partitions_each_is_closed_to_those_whom_it_does_not_list() {
    check(
        "
        machine m1 cpu=4000 rack=a
        machine m2 cpu=4000 rack=b
        machine m3 cpu=4000
        job web by service tasks=3 cpu=1000
        job map by batch tasks=2 cpu=1000
        partition east rack=a for=ml
        partition west rack=b for=batch
        service: claim web[0]@m1 claim web[1]@m2 claim web[2]@m3
        hold web m1 cpu=1000
        hold web m2 cpu=1000
        batch: claim map[0]@m1 claim map[1]@m2
        ",
        "
        service: partial; web[0] permission NotPermitted; web[1] permission NotPermitted; web[2] granted
        NO_ROOM_TO_HOLD: m1 is reserved for other schedulers than service by a partition
        NO_ROOM_TO_HOLD: m2 is reserved for other schedulers than service by a partition
        batch: partial; map[0] permission NotPermitted; map[1] granted
        ",
    );
}

/// A recurring job of so many tasks.
fn nightly(namespace: &str, tasks: u32) -> Command {
    let kind = JobKind::Recurring;
    let named = submit("nightly", JobShape { kind, ..JobShape::default() }, &[tasks]);
    let Command::SubmitJob { shape, body, body_digest, expected_version: None } = named else {
        panic!("it submits a job")
    };
    let shape = JobShape { namespace: namespace.into(), ..(*shape).clone() };
    Command::SubmitJob { shape: Arc::new(shape), body, body_digest, expected_version: None }
}

#[test]
fn a_name_stands_for_another_job_in_each_namespace() {
    let mut large = Large::new(CoreOptions::default());
    let [own, theirs] = ["default", "other"].map(|namespace| large.submit(nightly(namespace, 1)));
    let children = [own, theirs].map(|parent| large.submit(Command::Launch { parent, instant_micros: 5_000_000 }));
    assert!(own != theirs && children[0] != children[1]);
    // Scaled, stopped and begun again is the one of that namespace.
    let count = |large: &Large, job: JobId| {
        let job = large.core.cell().job(job).expect("it is there");
        large.core.cell().group(job, 0).expect("its group").count
    };
    assert_eq!(large.submit(nightly("other", 3)), theirs);
    assert_eq!((count(&large, own), count(&large, theirs)), (1, 3));
    large.ask(Command::StopJob { job: theirs, version: None });
    assert_eq!(large.submit(nightly("other", 2)), theirs);
    assert_eq!((count(&large, own), count(&large, theirs)), (1, 2));
    // And when one is retired, the other keeps the name.
    large.ask(Command::StopJob { job: own, version: None });
    large.now = large.now.plus_micros(large.core.options().retire_after_micros);
    large.ask(Command::Tick);
    let found = ["default", "other"].map(|namespace| large.core.cell().job_named(namespace, "nightly"));
    assert_eq!(found.map(|job| job.map(|job| job.id)), [None, Some(theirs)]);
}

//! Stories of what came and went between a base and a claim: refusals blame nobody for what is over, and make no race of what was so at the base.

use plenum_model::{Command, Device, GroupShape, RefusalKind, Revision, Transaction};

use super::check;
use super::costs::{Large, complete, placement};
use crate::CoreOptions;

// Whatever had taken room since the base was blamed with all of it, and who has the room was not named.
#[test]
fn room_is_not_lost_to_what_gave_it_back_since() {
    let plays = |meanwhile: &str| {
        let story = format!(
            "
            machine m1 cpu=4000
            job x by batch tasks=1 cpu=3000
            job gang by ml tasks=1 cpu=1000
            job late by service tasks=1 cpu=2000
            snapshot
            batch: claim x[0]@m1
            {meanwhile}
            service: claim late[0]@m1
            "
        );
        check(
            &story,
            "
            batch: committed; x[0] granted
            service: refused; late[0] conflict NoRoom short cpu_millis 1000 culprits batch 3000 total 3000
            ",
        );
    };
    plays("hold gang m1 cpu=1000\nunhold gang");
    plays("machine m1 cpu=4000 runs=alloc-7-1\nreceipt m1 alloc-7-1");
    plays("machine m1 cpu=3500\nmachine m1 cpu=4000");
}

// All that it had ever taken was added up: more than it ever held, so that others who took some were left out.
#[test]
fn a_hold_that_changed_is_blamed_for_no_more_than_it_holds() {
    check(
        "
        machine m1 cpu=4000
        job x by batch tasks=1 cpu=1000
        job gang by ml tasks=1 cpu=1000
        job late by service tasks=1 cpu=3500
        snapshot
        batch: claim x[0]@m1
        hold gang m1 cpu=1000
        hold gang m1 cpu=500
        hold gang m1 cpu=1000
        service: claim late[0]@m1
        ",
        "
        batch: committed; x[0] granted
        service: refused; late[0] conflict NoRoom short cpu_millis 1500 culprits hold 500 hold 500 batch 1000 total 2000
        ",
    );
}

#[test]
fn what_one_hold_gives_back_is_not_taken_off_another_one() {
    check(
        "
        machine m1 cpu=4000
        job gang by ml tasks=1 cpu=1000
        job other by ml tasks=1 cpu=1500
        job late by service tasks=1 cpu=3000
        snapshot
        hold gang m1 cpu=1000
        hold other m1 cpu=1500
        unhold gang
        service: claim late[0]@m1
        ",
        "service: refused; late[0] conflict NoRoom short cpu_millis 500 culprits hold 1500 total 1500",
    );
}

// All that one who leaves had counted as if it had been there at the base: whoever took something since, when others left, was blamed for a claim that
// had never fitted.
#[test]
fn room_that_others_had_taken_over_at_the_base_already_is_no_lost_race() {
    check(
        "
        machine m1 cpu=1200
        job old by service tasks=1 cpu=1000
        job fill by batch tasks=1 cpu=200
        job a by ml tasks=1 cpu=300
        job x by batch tasks=1 cpu=200
        job b by ml tasks=1 cpu=800
        service: claim old[0]@m1
        batch: claim fill[0]@m1
        stopjob old
        ml: claim a[0]@m1 over=old[0]
        snapshot
        report fill[0] complete
        batch: claim x[0]@m1
        ml: claim b[0]@m1 over=old[0]
        ",
        "
        service: committed; old[0] granted
        batch: committed; fill[0] granted
        ml: committed; a[0] granted over old[0] 300
        batch: committed; x[0] granted
        ml: refused; b[0] misfit NoRoom short cpu_millis 100
        ",
    );
}

#[test]
fn a_device_that_others_had_taken_over_at_the_base_already_is_no_lost_race() {
    check(
        "
        machine m1 cpu=8000 gpus=2
        job old by service tasks=1 cpu=100 gpus=1000
        job fill by batch tasks=1 cpu=100 gpus=600
        job a by ml tasks=1 cpu=100 gpus=500
        job x by batch tasks=1 cpu=100 gpus=400
        job b by ml tasks=1 cpu=100 gpus=800
        service: claim old[0]@m1
        batch: claim fill[0]@m1
        stopjob old
        ml: claim a[0]@m1 over=old[0]
        snapshot
        batch: claim x[0]@m1
        ml: claim b[0]@m1 over=old[0]
        ",
        "
        service: committed; old[0] granted gpu0:1000
        batch: committed; fill[0] granted gpu1:600
        ml: committed; a[0] granted over old[0] 0 gpu0:500 gpu0:500
        batch: committed; x[0] granted gpu1:400
        ml: refused; b[0] misfit DeviceTaken short gpu 300
        ",
    );
}

// Its room counted twice: as free at the base, and as its own.
#[test]
fn who_came_and_went_since_the_base_had_no_room_there_at_the_base() {
    check(
        "
        machine m1 cpu=1000
        job fill by batch tasks=1 cpu=600
        job old by service tasks=1 cpu=400
        job x by batch tasks=1 cpu=500
        job b by ml tasks=1 cpu=800
        batch: claim fill[0]@m1
        snapshot
        service: claim old[0]@m1
        report old[0] complete
        report fill[0] complete
        batch: claim x[0]@m1
        ml: claim b[0]@m1 over=alloc-1-1
        ",
        "
        batch: committed; fill[0] granted
        service: committed; old[0] granted
        batch: committed; x[0] granted
        ml: refused; b[0] misfit NoRoom short cpu_millis 300
        ",
    );
}

// With one that had been found since the base, all tasks there that the cell does not know counted as found since.
#[test]
fn an_unknown_task_that_was_there_at_the_base_is_not_to_blame_for_what_it_has() {
    check(
        "
        machine m1 cpu=8000 gpus=1 runs=alloc-7-1 using=600
        machine m2 cpu=8000 runs=alloc-8-1 listening=8080
        machine m3 cpu=8000 gpus=1 runs=alloc-9-1 using=300
        job one by ml tasks=2 cpu=100 gpus=700
        job two by ml tasks=1 cpu=100 ports=http:8080
        wait 1
        snapshot
        machine m1 cpu=8000 gpus=1 runs=alloc-7-1,alloc-17-1
        machine m2 cpu=8000 runs=alloc-8-1,alloc-18-1
        machine m3 cpu=8000 gpus=1 runs=alloc-9-1,alloc-19-1 using=600
        ml: claim one[0]@m1 claim two[0]@m2 claim one[1]@m3
        ",
        "
        ml: refused; one[0] misfit DeviceTaken short gpu 300; two[0] misfit PortTaken port 8080; one[1] conflict DeviceTaken short gpu 600 culprits unknown task 600 total 600
        ",
    );
}

// Whatever device the machine had lost was to blame for each one that a claim lacks.
#[test]
fn a_device_of_another_kind_that_a_machine_lost_is_not_what_a_claim_lacks() {
    let device = |kind: &str, index| Device { kind: kind.into(), index, millis: 1000, model: "".into() };
    let (gpu, npu) = (device("gpu", 0), device("npu", 0));
    let mut large = Large::new(CoreOptions::default());
    let machine = large.machine_with("m".to_owned(), vec![gpu.clone(), npu.clone()]).slot;
    let gpus = vec![gpu.clone(); 2];
    let jobs = [gpus, vec![npu]].map(|devices| large.job(GroupShape { count: 1, devices, ..GroupShape::default() }));
    let base = large.core.cell().revision();
    large.machine_with("m".to_owned(), vec![gpu]);
    let told = jobs.map(|job| {
        let placements = vec![placement(job, 0..1, |_| machine, 0)];
        let outcome = large.commit_on(Transaction { base, placements, ..Transaction::default() });
        let events: Vec<_> = outcome.refusals[0].culprits.iter().map(|culprit| culprit.event.to_string()).collect();
        (outcome.refusals[0].kind, events)
    });
    let lost = (RefusalKind::Conflict, vec!["capacity".to_owned()]);
    assert_eq!(told, [(RefusalKind::Misfit, Vec::new()), lost]);
}

// That it had come to its present state since was enough: a scheduler that does not look at states was told that it had lost a race.
#[test]
fn a_machine_that_took_no_claims_at_the_base_already_is_no_lost_race() {
    check(
        "
        machine m1 cpu=4000
        machine m2 cpu=4000
        job web by service tasks=1 cpu=1000
        cordon m1
        snapshot
        drain m1 60
        service: claim web[0]@m1
        undrain m1
        uncordon m1
        cordon m1
        service: claim web[0]@m1
        cordon m2
        drain m2 60
        service: claim web[0]@m2
        machine m3 cpu=4000
        remove m3
        service: claim web[0]@m3
        ",
        "
        service: refused; web[0] misfit MachineNotReady
        service: refused; web[0] misfit MachineNotReady
        service: refused; web[0] conflict MachineNotReady culprits draining 0 total 0
        service: refused; web[0] misfit NoSuchMachine
        ",
    );
}

// Any grant since was to blame, also on a machine that had been full all along.
#[test]
fn a_machine_that_could_count_no_more_allocations_at_the_base_is_no_lost_race() {
    let most = u32::from(u16::MAX);
    let mut large = Large::new(CoreOptions::default());
    let machine = large.machine("m".to_owned());
    let job = large.job(GroupShape { count: most + 2, ..GroupShape::default() });
    let claims = |tasks| vec![placement(job, tasks, |_| machine.slot, 0)];
    let mut first = None;
    for start in (0..most).step_by(16_384) {
        let outcome = large.commit(claims(start..most.min(start + 16_384)));
        assert!(outcome.refusals.is_empty());
        first = first.or(outcome.placements[0][0]);
    }
    let full = large.core.cell().revision();
    large.ask(Command::ReportStatus(vec![complete(machine, first.expect("it was granted"))]));
    let had_place = large.core.cell().revision();
    assert_eq!(large.commit(claims(most..most + 1)).granted(), 1);
    let told = |base: Revision| {
        let placements = claims(most + 1..most + 2);
        let refusals = large.commit_on(Transaction { base, placements, ..Transaction::default() }).refusals;
        (refusals[0].kind, refusals[0].culprits.len())
    };
    assert_eq!([full, had_place].map(told), [(RefusalKind::Misfit, 0), (RefusalKind::Conflict, 1)]);
}

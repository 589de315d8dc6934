//! Stories of devices and ports.

use std::collections::BTreeSet;

use plenum_model::{AllocationId, Command, GroupShape, Port};

use super::check;
use super::costs::{Large, complete, placement};
use crate::CoreOptions;

#[test]
fn fractions_share_a_device_and_whole_ones_stay_whole() {
    check(
        "
        machine m1 cpu=8000 gpus=2
        job small by ml tasks=2 cpu=100 gpus=300
        job whole by ml tasks=2 cpu=100 gpus=1000
        ml: claim small[0]@m1 small[1]@m1
        ml: claim whole[0]@m1 whole[1]@m1
        ",
        "
        ml: committed; small[0] granted gpu0:300; small[1] granted gpu0:300
        ml: partial; whole[0] granted gpu1:1000; whole[1] misfit DeviceTaken short gpu 600
        ",
    );
}

/// A task that the cell does not know came with its agent, after the base: the claim was called a misfit, as if it had been there.
#[test]
fn what_an_unknown_task_has_since_the_base_is_lost_to_it() {
    check(
        "
        machine m1 cpu=8000 gpus=1
        machine m2 cpu=8000
        job one by ml tasks=1 cpu=100 gpus=700
        job two by ml tasks=1 cpu=100 ports=http:8080
        snapshot
        machine m1 cpu=8000 gpus=1 runs=alloc-7-1 using=600
        machine m2 cpu=8000 runs=alloc-8-1 listening=8080
        ml: claim one[0]@m1 claim two[0]@m2
        snapshot
        ml: claim one[0]@m1 claim two[0]@m2
        ",
        "
        ml: refused; one[0] conflict DeviceTaken short gpu 300 culprits unknown task 600 total 600; two[0] conflict PortTaken port 8080 culprits unknown task 1 total 1
        ml: refused; one[0] misfit DeviceTaken short gpu 300; two[0] misfit PortTaken port 8080
        ",
    );
}

/// Only the unknown task had the device. While the device was away nothing counted there, and when it was back it counted as free.
#[test]
fn a_device_that_comes_back_is_still_in_the_hands_of_an_unknown_task() {
    check(
        "
        machine m1 cpu=8000 gpus=1 runs=alloc-7-1 using=600
        job one by ml tasks=1 cpu=100 gpus=700
        machine m1 cpu=8000 runs=alloc-7-1 using=600
        machine m1 cpu=8000 gpus=1 runs=alloc-7-1 using=600
        snapshot
        ml: claim one[0]@m1
        ",
        "
        ml: refused; one[0] misfit DeviceTaken short gpu 300
        ",
    );
}

/// An agent came back with a device less, while a claim was under way: that was called a misfit, which is a bug of its scheduler.
#[test]
fn what_a_machine_has_no_more_since_the_base_is_lost_to_its_own_change() {
    check(
        "
        machine m1 cpu=8000 gpus=2
        job one by ml tasks=1 cpu=100 gpus=700
        job two by hpc tasks=2 cpu=100 gpus=1000
        hpc: claim two[0]@m1
        snapshot
        machine m1 cpu=8000 gpus=1
        ml: claim one[0]@m1
        snapshot
        ml: claim one[0]@m1
        snapshot
        machine m1 cpu=9000 gpus=1
        ml: claim one[0]@m1
        ",
        "
        hpc: committed; two[0] granted gpu0:1000
        ml: refused; one[0] conflict DeviceTaken short gpu 700 culprits capacity 700 total 700
        ml: refused; one[0] misfit DeviceTaken short gpu 700
        ml: refused; one[0] misfit DeviceTaken short gpu 700
        ",
    );
}

#[test]
fn who_lost_the_device_learns_who_took_it() {
    check(
        "
        machine m1 cpu=8000 gpus=1
        job one by ml tasks=1 cpu=100 gpus=700
        job two by hpc tasks=1 cpu=100 gpus=500
        snapshot
        ml: claim one[0]@m1
        hpc: claim two[0]@m1
        ",
        "
        ml: committed; one[0] granted gpu0:700
        hpc: refused; two[0] conflict DeviceTaken short gpu 200 culprits ml 700 total 700
        ",
    );
}

#[test]
fn a_device_of_a_victim_is_taken_over_and_free_after_its_receipt() {
    check(
        "
        machine m1 cpu=8000 gpus=1
        job low by batch tasks=1 cpu=100 gpus=1000 prio=10
        job high by ml tasks=1 cpu=100 gpus=600 prio=90
        job rest by ml tasks=1 cpu=100 gpus=400 prio=10
        batch: claim low[0]@m1
        ml: claim high[0]@m1 victim=low[0]
        ml: claim rest[0]@m1
        report low[0] evicted
        ml: claim rest[0]@m1
        ",
        "
        batch: committed; low[0] granted gpu0:1000
        ml: committed; high[0] granted over low[0] 0 gpu0:600 gpu0:600
        ml: refused; rest[0] misfit DeviceTaken short gpu 400
        ml: committed; rest[0] granted gpu0:400
        ",
    );
}

#[test]
fn a_fixed_port_is_given_once_and_dynamic_ones_as_there_are() {
    check(
        "
        machine m1 cpu=8000
        job web by service tasks=2 cpu=100 ports=http:8080,admin
        job two by edge tasks=1 cpu=100 ports=http:8080
        snapshot
        service: claim web[0]@m1 web[1]@m1
        edge: claim two[0]@m1
        ",
        "
        service: partial; web[0] granted http:8080 admin:dynamic; web[1] misfit PortTaken port 8080
        edge: refused; two[0] conflict PortTaken port 8080 culprits service 1 total 1
        ",
    );
}

// Whoever got it last was blamed, and so its scheduler told to try once more what had never fitted.
#[test]
fn a_port_that_somebody_else_had_at_the_base_is_no_lost_race() {
    check(
        "
        machine m1 cpu=8000
        job web by service tasks=1 cpu=100 ports=http:8080
        job new by service tasks=1 cpu=100 ports=http:8080
        job two by edge tasks=1 cpu=100 ports=http:8080
        service: claim web[0]@m1
        snapshot
        service: stop web[0]
        report web[0] stopped
        service: claim new[0]@m1
        edge: claim two[0]@m1
        edge: claim two[0]@m1 over=alloc-0-1
        ",
        "
        service: committed; web[0] granted http:8080
        service: committed
        service: committed; new[0] granted http:8080
        edge: refused; two[0] misfit PortTaken port 8080
        edge: refused; two[0] conflict PortTaken port 8080 culprits service 1 total 1
        ",
    );
}

#[test]
fn a_port_that_is_handed_on_since_the_base_is_no_lost_race() {
    check(
        "
        machine m1 cpu=8000
        job web by service tasks=1 cpu=100 ports=http:8080
        job new by service tasks=1 cpu=100 ports=http:8080
        job two by edge tasks=1 cpu=100 ports=http:8080
        service: claim web[0]@m1
        snapshot
        service: stop web[0] claim new[0]@m1 over=web[0]
        edge: claim two[0]@m1
        edge: claim two[0]@m1 over=web[0]
        report web[0] stopped
        edge: claim two[0]@m1
        edge: claim two[0]@m1 over=alloc-0-1
        ",
        "
        service: committed; web[0] granted http:8080
        service: committed; new[0] granted over web[0] 0 port 8080 http:8080
        edge: refused; two[0] misfit PortTaken port 8080
        edge: refused; two[0] conflict PortTaken port 8080 culprits service 1 total 1
        edge: refused; two[0] misfit PortTaken port 8080
        edge: refused; two[0] conflict PortTaken port 8080 culprits service 1 total 1
        ",
    );
}

// A device that has less than nothing left gives nothing to whoever takes over from its tenants: the claim was said to lack nothing.
#[test]
fn a_device_that_an_unknown_task_spoils_is_lost_to_it_also_for_who_takes_over() {
    check(
        "
        machine m1 cpu=8000 gpus=1
        job low by ml tasks=1 cpu=100 gpus=1000
        job next by ml tasks=1 cpu=100 gpus=400
        ml: claim low[0]@m1
        ml: stop low[0]
        snapshot
        machine m1 cpu=8000 gpus=1 runs=alloc-0-1,alloc-7-1 using=500
        ml: claim next[0]@m1 over=low[0]
        ",
        "
        ml: committed; low[0] granted gpu0:1000
        ml: committed
        ml: refused; next[0] conflict DeviceTaken short gpu 400 culprits unknown task 500 total 500
        ",
    );
}

// What was free of two devices fitted both parts, until somebody took a little of one: the larger part goes to the other, and the smaller one lacks that.
#[test]
fn devices_that_fitted_together_at_the_base_are_a_lost_race() {
    check(
        "
        machine m1 cpu=8000 gpus=2
        job one by batch tasks=1 cpu=100 gpus=600
        job two by batch tasks=1 cpu=100 gpus=500
        job bit by batch tasks=1 cpu=100 gpus=10
        job both by ml tasks=1 cpu=100 gpus=400,500
        batch: claim one[0]@m1
        batch: claim two[0]@m1
        snapshot
        batch: claim bit[0]@m1
        ml: claim both[0]@m1
        snapshot
        ml: claim both[0]@m1
        ",
        "
        batch: committed; one[0] granted gpu0:600
        batch: committed; two[0] granted gpu1:500
        batch: committed; bit[0] granted gpu0:10
        ml: refused; both[0] conflict DeviceTaken short gpu 10 culprits batch 10 total 10
        ml: refused; both[0] misfit DeviceTaken short gpu 10
        ",
    );
}

// Where the search for a dynamic port began with the number that another port of the task has, the task was refused its own port.
#[test]
fn a_dynamic_port_is_none_that_the_task_itself_asks_for_by_number() {
    // Wherever the search begins.
    for first in (20_000_u16..32_000).step_by(1000) {
        let fixed: Vec<String> = (first..first + 1000).map(|port| format!("p{port}:{port}")).collect();
        let granted: String = (first..first + 1000).map(|port| format!(" p{port}:dynamic")).collect();
        check(
            &format!(
                "
                machine m1 cpu=8000
                job web by service tasks=1 cpu=100 ports=any,{}
                service: claim web[0]@m1
                ",
                fixed.join(",")
            ),
            &format!(
                "
                service: committed; web[0] granted any:dynamic{granted}
                "
            ),
        );
    }
}

#[test]
fn a_port_is_handed_to_the_successor() {
    check(
        "
        machine m1 cpu=8000
        job web by service tasks=1 cpu=100 ports=http:8080
        job new by service tasks=1 cpu=100 ports=http:8080
        job two by edge tasks=1 cpu=100 ports=http:8080
        service: claim web[0]@m1
        service: stop web[0] claim new[0]@m1 over=web[0]
        report web[0] stopped
        edge: claim two[0]@m1
        service: stop new[0]
        report new[0] stopped
        edge: claim two[0]@m1
        ",
        "
        service: committed; web[0] granted http:8080
        service: committed; new[0] granted over web[0] 0 port 8080 http:8080
        edge: refused; two[0] misfit PortTaken port 8080
        service: committed
        edge: committed; two[0] granted http:8080
        ",
    );
}

// Its parts were looked at one by one: of what somebody had taken over of both, only the first was missing, and the other was given away
// once more.
#[test]
fn a_device_that_a_victim_has_twice_is_handed_over_once() {
    check(
        "
        machine m1 cpu=8000 gpus=1
        job low by batch tasks=1 cpu=100 gpus=300,300 prio=10
        job rest by batch tasks=1 cpu=100 gpus=400 prio=10
        job high by ml tasks=3 cpu=100 gpus=300 prio=90
        batch: claim low[0]@m1 claim rest[0]@m1
        ml: claim high[0]@m1 high[1]@m1 high[2]@m1 victim=low[0]
        ",
        "
        batch: committed; low[0] granted gpu0:300 gpu0:300; rest[0] granted gpu0:400
        ml: partial; high[0] granted over low[0] 0 gpu0:300 gpu0:300; high[1] granted over low[0] 0 gpu0:300 gpu0:300; high[2] misfit DeviceTaken short gpu 300
        ",
    );
}

#[test]
fn what_a_victim_has_of_a_device_in_two_parts_is_taken_over_as_one() {
    check(
        "
        machine m1 cpu=8000 gpus=1
        job low by batch tasks=1 cpu=100 gpus=300,300 prio=10
        job high by ml tasks=1 cpu=100 gpus=900 prio=90
        batch: claim low[0]@m1
        ml: claim high[0]@m1 victim=low[0]
        ",
        "
        batch: committed; low[0] granted gpu0:300 gpu0:300
        ml: committed; high[0] granted over low[0] 0 gpu0:500 gpu0:900
        ",
    );
}

// Who was asked first had a part that fitted more tightly than what was free of another device: it was evicted for that, though a device
// that only the next one had was all that was lacking.
#[test]
fn a_victim_whose_device_is_not_lacking_stays() {
    check(
        "
        machine m1 cpu=8000 gpus=3
        job keep by batch tasks=1 cpu=100 gpus=600 prio=90
        job whole by batch tasks=1 cpu=100 gpus=1000 prio=10
        job more by batch tasks=1 cpu=100 gpus=700 prio=90
        job part by batch tasks=1 cpu=100 gpus=300 prio=10
        job high by ml tasks=1 cpu=100 gpus=300,1000 prio=90
        batch: claim keep[0]@m1
        batch: claim whole[0]@m1
        batch: claim more[0]@m1
        batch: claim part[0]@m1
        ml: claim high[0]@m1 victim=part[0] victim=whole[0]
        show part[0]
        ",
        "
        batch: committed; keep[0] granted gpu0:600
        batch: committed; whole[0] granted gpu1:1000
        batch: committed; more[0] granted gpu2:700
        batch: committed; part[0] granted gpu2:300
        ml: committed; high[0] granted over whole[0] 0 gpu1:1000 gpu0:300 gpu1:1000
        part[0] Granted
        ",
    );
}

// The device of one that leaves anyway was asked for only after those of victims that were named before it.
#[test]
fn nobody_is_evicted_for_a_device_of_one_that_leaves_anyway() {
    check(
        "
        machine m1 cpu=8000 gpus=2
        job stays by batch tasks=1 cpu=100 gpus=400 prio=10
        job goes by batch tasks=1 cpu=100 gpus=300 prio=10
        job rest by batch tasks=1 cpu=100 gpus=300 prio=90
        job whole by batch tasks=1 cpu=100 gpus=1000 prio=10
        job high by ml tasks=1 cpu=100 gpus=300,1000 prio=90
        batch: claim stays[0]@m1
        batch: claim goes[0]@m1
        batch: claim rest[0]@m1
        batch: claim whole[0]@m1
        batch: stop goes[0]
        ml: claim high[0]@m1 victim=stays[0] victim=goes[0] victim=whole[0]
        show stays[0]
        ",
        "
        batch: committed; stays[0] granted gpu0:400
        batch: committed; goes[0] granted gpu0:300
        batch: committed; rest[0] granted gpu0:300
        batch: committed; whole[0] granted gpu1:1000
        batch: committed
        ml: committed; high[0] granted over goes[0] 0 gpu0:300 over whole[0] 0 gpu1:1000 gpu0:300 gpu1:1000
        stays[0] Granted
        ",
    );
}

// The next transaction began one port further: of the ports of four tasks three were those of another job within milliseconds, and who still had the old
// endpoints reached that.
#[test]
fn ports_that_were_given_back_rest_while_two_jobs_of_several_tasks_take_turns() {
    const ROUNDS: u32 = 600;
    let mut large = Large::new(CoreOptions::default());
    let machine = large.machine("m1".to_owned());
    let ports = vec![Port { name: "http".into(), number: 0 }];
    let jobs =
        [0, 1].map(|_| large.job(GroupShape { count: 2 * ROUNDS, ports: ports.clone(), ..GroupShape::default() }));
    let mut given = BTreeSet::new();
    for round in 0..ROUNDS {
        let (job, first) = (jobs[round as usize % 2], round / 2 * 4);
        let ids = large.commit(vec![placement(job, first..first + 4, |_| machine.slot, 4)]).placements.concat();
        let ids: Vec<AllocationId> = ids.into_iter().flatten().collect();
        let ports = ids.iter().flat_map(|id| &large.core.cell().extra(id.slot).expect("it has a port").ports);
        let ports: Vec<u16> = ports.map(|port| port.number).collect();
        assert_eq!(ports.len(), 4);
        for port in ports {
            assert!(given.insert(port), "{port} is given again in round {round}");
        }
        large.ask(Command::ReportStatus(ids.into_iter().map(|id| complete(machine, id)).collect()));
    }
}

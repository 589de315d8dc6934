//! Stories of room that changes hands: take-overs, evictions, spare machines.

use plenum_model::{
    AllocationId, AllocationState, ClaimExtra, Command, Device, GroupShape, Outcome, Placement, Port, Preemption,
    RefusalKind, RefusalReason, Resources, TakeOver, Transaction,
};

use super::check;
use super::costs::{Large, placement};
use crate::CoreOptions;
use crate::resolve::preempt::nothing_of;

#[test]
fn an_update_in_place_on_a_full_machine_takes_over_the_room_of_what_it_stops() {
    check(
        "
        machine m1 cpu=4000
        job web by service tasks=1 cpu=4000
        job new by service tasks=1 cpu=3000
        job other by service tasks=1 cpu=2000
        service: claim web[0]@m1
        report web[0] running
        service: stop web[0] claim new[0]@m1 over=web[0]
        service: claim other[0]@m1
        report web[0] stopped
        service: claim other[0]@m1
        show new[0]
        ",
        "
        service: committed; web[0] granted
        service: committed; new[0] granted over web[0] 3000
        service: refused; other[0] misfit NoRoom short cpu_millis 2000
        service: refused; other[0] misfit NoRoom short cpu_millis 1000
        new[0] Granted
        ",
    );
}

#[test]
fn only_what_free_room_lacks_is_taken_over() {
    check(
        "
        machine m1 cpu=4000
        job web by service tasks=1 cpu=3000
        job new by service tasks=2 cpu=2000
        service: claim web[0]@m1
        service: stop web[0] claim new[0]@m1 over=web[0] new[1]@m1 over=web[0]
        ",
        "
        service: committed; web[0] granted
        service: committed; new[0] granted over web[0] 1000; new[1] granted over web[0] 2000
        ",
    );
}

// Each claim of a transaction had others leave anew for what a machine that shrank lacked: the second one was refused, or evicted one more.
#[test]
fn those_who_leave_make_up_once_for_what_a_machine_has_less_than_it_gave() {
    check(
        "
        machine m1 cpu=2000
        job low by batch tasks=4 cpu=500 prio=10
        job high by ml tasks=2 cpu=450 prio=90
        job next by ml tasks=1 cpu=400 prio=90
        batch: claim low[0]@m1 low[1]@m1 low[2]@m1 low[3]@m1
        machine m1 cpu=1900
        ml: claim high[0]@m1 high[1]@m1 victim=low[0] victim=low[1] claim next[0]@m1
        show low[2]
        ",
        "
        batch: committed; low[0] granted; low[1] granted; low[2] granted; low[3] granted
        ml: partial; high[0] granted over low[0] 450 over low[1] 0; high[1] granted over low[0] 50 over low[1] 400; next[0] misfit NoRoom short cpu_millis 500
        low[2] Granted
        ",
    );
}

#[test]
fn what_a_placement_took_over_is_there_again_when_it_misses_its_minimum() {
    check(
        "
        machine m1 cpu=1000
        machine m2 cpu=100
        job low by batch tasks=2 cpu=500 prio=10
        job gang by ml tasks=2 cpu=400 prio=90
        job high by ml tasks=1 cpu=400 prio=90
        batch: claim low[0]@m1 low[1]@m1
        machine m1 cpu=900
        ml: claim gang[0]@m1 gang[1]@m2 victim=low[0] min=2 claim high[0]@m1 victim=low[0]
        ",
        "
        batch: committed; low[0] granted; low[1] granted
        ml: partial; gang[0] mate MinimumMissed; gang[1] misfit NoRoom short cpu_millis 300; high[0] granted over low[0] 400
        ",
    );
}

// Who took over took all that the machine lacked as well, and it counted as free: what others gave back then was given to the next one, beside the one
// that was still there. Memory of a machine was used twice.
#[test]
fn what_makes_up_for_what_a_machine_lacks_is_nobodys_until_it_has_gone() {
    check(
        "
        machine m1 cpu=1500
        job v by a tasks=1 cpu=1000
        job w by a tasks=1 cpu=500
        job s by a tasks=2 cpu=100
        job x by b tasks=1 cpu=500
        a: claim v[0]@m1
        a: claim w[0]@m1
        machine m1 cpu=1000
        a: stop v[0] claim s[0]@m1 over=v[0]
        report w[0] complete
        b: claim x[0]@m1
        a: claim s[1]@m1 over=v[0]
        report v[0] stopped
        b: claim x[0]@m1
        ",
        "
        a: committed; v[0] granted
        a: committed; w[0] granted
        a: committed; s[0] granted over v[0] 100
        b: refused; x[0] misfit NoRoom short cpu_millis 500
        a: committed; s[1] granted over v[0] 100
        b: committed; x[0] granted
        ",
    );
}

// The same without any machine that shrank below what runs: a gang was started in what somebody else still used.
#[test]
fn what_makes_up_for_what_is_held_and_not_free_is_nobodys_until_it_has_gone() {
    check(
        "
        machine m1 cpu=1000
        job v by a tasks=1 cpu=400
        job s by a tasks=1 cpu=100
        job gang by ml tasks=1 cpu=600
        a: claim v[0]@m1
        hold gang m1 cpu=600
        machine m1 cpu=800
        a: stop v[0] claim s[0]@m1 over=v[0]
        ml: claim gang[0]@m1
        report v[0] stopped
        ml: claim gang[0]@m1
        ",
        "
        a: committed; v[0] granted
        a: committed; s[0] granted over v[0] 100
        ml: refused; gang[0] misfit NoRoom short cpu_millis 200
        ml: committed; gang[0] granted
        ",
    );
}

// A victim whose room is needed for what the machine lacks alone gave nothing, and would have stayed.
#[test]
fn a_successor_waits_for_all_who_have_to_leave_for_it() {
    check(
        "
        machine m1 cpu=1500
        job low by batch tasks=3 cpu=500 prio=10
        job high by ml tasks=1 cpu=400 prio=90
        batch: claim low[0]@m1 low[1]@m1 low[2]@m1
        machine m1 cpu=1000
        ml: claim high[0]@m1 victim=low[0] victim=low[1]
        ",
        "
        batch: committed; low[0] granted; low[1] granted; low[2] granted
        ml: committed; high[0] granted over low[0] 400 over low[1] 0
        ",
    );
}

#[test]
fn a_successor_that_ends_first_leaves_its_victim_all_of_its_room() {
    check(
        "
        machine m1 cpu=4000
        job web by service tasks=1 cpu=4000
        job new by service tasks=1 cpu=4000
        job last by service tasks=1 cpu=4000
        service: claim web[0]@m1
        service: stop web[0] claim new[0]@m1 over=web[0]
        service: stop new[0]
        report new[0] stopped
        service: claim last[0]@m1
        report web[0] stopped
        service: claim last[0]@m1
        ",
        "
        service: committed; web[0] granted
        service: committed; new[0] granted over web[0] 4000
        service: committed
        service: refused; last[0] misfit NoRoom short cpu_millis 4000
        service: committed; last[0] granted
        ",
    );
}

#[test]
fn victims_of_a_lower_band_go_in_order_and_only_as_many_as_are_needed() {
    check(
        "
        machine m1 cpu=4000
        job low by batch tasks=4 cpu=1000 prio=20
        job high by ml tasks=1 cpu=1500 prio=80
        batch: claim low[0]@m1 low[1]@m1 low[2]@m1 low[3]@m1
        ml: claim high[0]@m1 victim=low[2] victim=low[0] victim=low[1]
        show low[0]
        show low[1]
        show low[2]
        report low[2] stopped
        show low[2]
        ",
        "
        batch: committed; low[0] granted; low[1] granted; low[2] granted; low[3] granted
        ml: committed; high[0] granted over low[2] 1000 over low[0] 500
        low[0] Evicting
        low[1] Granted
        low[2] Evicting
        low[2] gone
        ",
    );
}

#[test]
fn a_victim_of_the_same_band_stays() {
    check(
        "
        machine m1 cpu=1000
        job low by batch tasks=1 cpu=1000 prio=51
        job high by ml tasks=1 cpu=1000 prio=59
        batch: claim low[0]@m1
        ml: claim high[0]@m1 victim=low[0]
        show low[0]
        ",
        "
        batch: committed; low[0] granted
        ml: refused; high[0] misfit NoRoom short cpu_millis 1000
        low[0] Granted
        ",
    );
}

#[test]
fn a_gang_that_misses_its_minimum_evicts_nobody() {
    check(
        "
        machine m1 cpu=1000
        machine m2 cpu=500
        job low by batch tasks=1 cpu=1000 prio=10
        job gang by ml tasks=2 cpu=1000 prio=90
        batch: claim low[0]@m1
        ml: claim gang[0]@m1 gang[1]@m2 victim=low[0] min=2
        show low[0]
        ",
        "
        batch: committed; low[0] granted
        ml: refused; gang[0] mate MinimumMissed; gang[1] misfit NoRoom short cpu_millis 500
        low[0] Granted
        ",
    );
}

#[test]
fn who_waits_for_a_victim_is_no_victim_itself() {
    check(
        "
        machine m1 cpu=1000
        job low by batch tasks=1 cpu=1000 prio=10
        job middle by ml tasks=1 cpu=1000 prio=50
        job high by ml tasks=1 cpu=1000 prio=90
        batch: claim low[0]@m1
        ml: claim middle[0]@m1 victim=low[0]
        ml: claim high[0]@m1 victim=middle[0]
        report low[0] evicted
        ml: claim high[0]@m1 victim=middle[0]
        ",
        "
        batch: committed; low[0] granted
        ml: committed; middle[0] granted over low[0] 1000
        ml: refused; high[0] misfit NoRoom short cpu_millis 1000
        ml: committed; high[0] granted over middle[0] 1000
        ",
    );
}

#[test]
fn who_loses_the_race_for_a_victim_learns_who_took_its_room() {
    check(
        "
        machine m1 cpu=1000
        job low by batch tasks=1 cpu=1000 prio=10
        job one by ml tasks=1 cpu=1000 prio=50
        job two by hpc tasks=1 cpu=1000 prio=50
        batch: claim low[0]@m1
        snapshot
        ml: claim one[0]@m1 victim=low[0]
        hpc: claim two[0]@m1 victim=low[0]
        ",
        "
        batch: committed; low[0] granted
        ml: committed; one[0] granted over low[0] 1000
        hpc: refused; two[0] conflict NoRoom short cpu_millis 1000 culprits ml 1000 total 1000
        ",
    );
}

// What was short was told as if nobody left: more than the one who came between had, so that nobody was blamed, and the scheduler was told of a bug.
#[test]
fn who_comes_between_and_takes_what_victims_have_not_is_to_blame() {
    check(
        "
        machine m1 cpu=4000
        job low by batch tasks=3 cpu=1000 prio=10
        job between by hpc tasks=1 cpu=1000 prio=10
        job high by ml tasks=1 cpu=4000 prio=90
        job higher by ml tasks=1 cpu=5000 prio=90
        batch: claim low[0]@m1 low[1]@m1 low[2]@m1
        snapshot
        hpc: claim between[0]@m1
        ml: claim high[0]@m1 victim=low[0] victim=low[1] victim=low[2]
        ml: claim higher[0]@m1 victim=low[0] victim=low[1] victim=low[2]
        ",
        "
        batch: committed; low[0] granted; low[1] granted; low[2] granted
        hpc: committed; between[0] granted
        ml: refused; high[0] conflict NoRoom short cpu_millis 1000 culprits hpc 1000 total 1000
        ml: refused; higher[0] misfit NoRoom short cpu_millis 2000
        ",
    );
}

// Who was named both to be taken over from and as a victim was evicted for a claim that was granted, and was overlooked where it was refused: that it
// had fitted was not seen, and of a device all that he has was said to be short, too.
#[test]
fn a_victim_that_a_claim_names_to_take_over_from_gives_what_he_has_all_the_same() {
    check(
        "
        machine m1 cpu=1000 gpus=1
        machine m2 cpu=1000 gpus=1
        job low by batch tasks=2 cpu=600 gpus=600 prio=10
        job between by hpc tasks=2 cpu=300 gpus=300 prio=10
        job room by ml tasks=1 cpu=1000 prio=90
        job device by ml tasks=1 cpu=100 gpus=1000 prio=90
        batch: claim low[0]@m1 low[1]@m2
        snapshot
        hpc: claim between[0]@m1 between[1]@m2
        ml: claim room[0]@m1 over=low[0] victim=low[0] claim device[0]@m2 over=low[1] victim=low[1]
        ",
        "
        batch: committed; low[0] granted gpu0:600; low[1] granted gpu0:600
        hpc: committed; between[0] granted gpu0:300; between[1] granted gpu0:300
        ml: refused; room[0] conflict NoRoom short cpu_millis 300 culprits hpc 300 total 300; device[0] conflict DeviceTaken short gpu 300 culprits hpc 300 total 300
        ",
    );
}

// What an earlier claim of the transaction leaves of its victim was not counted for one of the victim's own band.
#[test]
fn what_a_victim_of_an_earlier_claim_has_left_is_counted_also_for_who_could_not_evict_it() {
    check(
        "
        machine m1 cpu=4000
        job low by ml tasks=1 cpu=3000 prio=10
        job between by hpc tasks=1 cpu=1000 prio=10
        job high by ml tasks=1 cpu=2000 prio=90
        job equal by ml tasks=1 cpu=2000 prio=10
        ml: claim low[0]@m1
        snapshot
        hpc: claim between[0]@m1
        ml: claim high[0]@m1 victim=low[0] claim equal[0]@m1 victim=low[0]
        ",
        "
        ml: committed; low[0] granted
        hpc: committed; between[0] granted
        ml: partial; high[0] granted over low[0] 2000; equal[0] conflict NoRoom short cpu_millis 1000 culprits hpc 1000 total 1000
        ",
    );
}

#[test]
fn who_comes_between_and_takes_devices_that_victims_have_not_is_to_blame() {
    check(
        "
        machine m1 cpu=4000 gpus=1
        job low by batch tasks=1 cpu=100 gpus=500 prio=10
        job between by hpc tasks=1 cpu=100 gpus=500 prio=10
        job high by ml tasks=1 cpu=100 gpus=1000 prio=90
        batch: claim low[0]@m1
        snapshot
        hpc: claim between[0]@m1
        ml: claim high[0]@m1 victim=low[0]
        snapshot
        ml: claim high[0]@m1 victim=low[0]
        ",
        "
        batch: committed; low[0] granted gpu0:500
        hpc: committed; between[0] granted gpu0:500
        ml: refused; high[0] conflict DeviceTaken short gpu 500 culprits hpc 500 total 500
        ml: refused; high[0] misfit DeviceTaken short gpu 500
        ",
    );
}

// What a victim has was lent twice: the device was short by nothing, and the claim was one that had never fitted.
#[test]
fn a_victim_that_is_named_twice_is_counted_once() {
    let refused = |victims: &str| {
        let story = format!(
            "
            machine m1 cpu=4000 gpus=1
            job low by batch tasks=1 cpu=100 gpus=500 prio=10
            job between by hpc tasks=1 cpu=100 gpus=500 prio=10
            job high by ml tasks=1 cpu=100 gpus=1000 prio=90
            batch: claim low[0]@m1
            snapshot
            hpc: claim between[0]@m1
            ml: claim high[0]@m1 {victims}
            "
        );
        check(
            &story,
            "
            batch: committed; low[0] granted gpu0:500
            hpc: committed; between[0] granted gpu0:500
            ml: refused; high[0] conflict DeviceTaken short gpu 500 culprits hpc 500 total 500
            ",
        );
    };
    ["victim=low[0]", "victim=low[0] victim=low[0]"].into_iter().for_each(refused);
}

#[test]
fn a_victim_that_is_claimed_for_makes_no_sense() {
    check(
        "
        machine m1 cpu=1000
        job low by ml tasks=1 cpu=1000 prio=10
        ml: claim low[0]@m1
        ml: claim low[0]@m1 victim=low[0]
        ",
        "
        ml: committed; low[0] granted
        ml: INVALID_REQUEST
        ",
    );
}

// It was refused with the advice to stop it, which it did.
#[test]
fn a_victim_that_is_stopped_with_the_transaction_may_be_claimed_for() {
    check(
        "
        machine m1 cpu=1000
        job low by ml tasks=1 cpu=1000 prio=10
        ml: claim low[0]@m1
        ml: stop low[0] claim low[0]@m1 victim=low[0]
        ",
        "
        ml: committed; low[0] granted
        ml: committed; low[0] granted over low[0] 1000
        ",
    );
}

// Whoever counts on the room of those who leave names them all. With the task's own among them the whole transaction was refused, with
// all other claims in it, and planned alike until the receipt came.
#[test]
fn a_task_gets_the_room_of_its_own_allocation_that_leaves() {
    check(
        "
        machine m1 cpu=1000
        machine m2 cpu=1000
        job low by ml tasks=1 cpu=1000 prio=10
        job next by ml tasks=1 cpu=1000 prio=10
        ml: claim low[0]@m1
        report low[0] running
        stopid alloc-0-1
        ml: claim low[0]@m1 victim=low[0] claim next[0]@m2
        ",
        "
        ml: committed; low[0] granted
        ml: committed; low[0] granted over low[0] 1000; next[0] granted
        ",
    );
}

#[test]
fn who_leaves_makes_room_for_others_where_its_task_is_claimed_elsewhere() {
    check(
        "
        machine m1 cpu=1000
        machine m2 cpu=1000
        job low by ml tasks=1 cpu=1000 prio=10
        job high by ml tasks=1 cpu=1000 prio=90
        ml: claim low[0]@m1
        report low[0] running
        stopid alloc-0-1
        ml: claim high[0]@m1 victim=low[0] claim low[0]@m2
        ",
        "
        ml: committed; low[0] granted
        ml: committed; high[0] granted over low[0] 1000; low[0] granted
        ",
    );
}

#[test]
fn a_lost_race_costs_no_second_trip_when_a_spare_machine_fits() {
    check(
        "
        machine m1 cpu=1000
        machine m2 cpu=500
        machine m3 cpu=2000
        job web by service tasks=1 cpu=1000
        job map by batch tasks=3 cpu=1000
        snapshot
        service: claim web[0]@m1
        batch: claim map[0]@m1 map[1]@m1 map[2]@m1 or=m2 or=m3
        ",
        "
        service: committed; web[0] granted
        batch: partial; map[0] granted on m3; map[1] granted on m3; map[2] conflict NoRoom short cpu_millis 1000 culprits service 1000 total 1000
        ",
    );
}

// A scheduler ranks them: the best comes first.
#[test]
fn of_spare_machines_that_fit_the_first_is_taken() {
    check(
        "
        machine m1 cpu=1000
        machine m2 cpu=4000
        machine m3 cpu=4000
        job web by service tasks=1 cpu=2000
        job map by batch tasks=1 cpu=2000
        service: claim web[0]@m1 or=m3 or=m2
        batch: claim map[0]@m1 or=m2 or=m3
        ",
        "
        service: committed; web[0] granted on m3
        batch: committed; map[0] granted on m2
        ",
    );
}

/// What comes of a claim on a full machine that may take over `entry`, completed with its victim, from the task that its transaction
/// stops: one with all of the machine's room, half of each of two devices, and two ports.
fn handed_over(ports: Vec<Port>, devices: Vec<Device>, entry: TakeOver) -> Outcome {
    let mut large = Large::new(CoreOptions::default());
    let machine = large.machine_with("m1".to_owned(), vec![gpu(0, 500), gpu(1, 500)]).slot;
    let resources = Resources::new(1_000_000, 1);
    let web = GroupShape {
        count: 1,
        resources,
        devices: vec![gpu(0, 500), gpu(1, 500)],
        ports: vec![port("http", 80), port("https", 443)],
        ..GroupShape::default()
    };
    let (web, new) = (
        large.job_at(50, web),
        large.job_at(50, GroupShape { count: 1, resources, devices, ports, ..GroupShape::default() }),
    );
    let victim = large.commit(vec![placement(web, 0..1, |_| machine, 0)]).placements[0][0].expect("it is granted");
    let extra = ClaimExtra { take_overs: vec![TakeOver { victim, ..entry }], ..ClaimExtra::default() };
    let claim = Placement { extras: vec![extra], ..placement(new, 0..1, |_| machine, 0) };
    let base = large.core.cell().revision();
    large.commit_on(Transaction { base, stops: vec![victim], placements: vec![claim], ..Transaction::default() })
}

fn gpu(index: u32, millis: u32) -> Device {
    Device { kind: "gpu".into(), index, millis, model: "".into() }
}

fn port(name: &str, number: u16) -> Port {
    Port { name: name.into(), number }
}

// An entry that named a port was one of no room at all, and the claim was refused for lack of it; that it named one port let the claim have
// the other one, too.
#[test]
fn what_an_entry_does_not_name_is_taken_over_as_it_is_lacking_and_of_what_it_names_no_more() {
    let named = nothing_of(AllocationId { slot: 0, generation: 1 });
    let http = || TakeOver { ports: vec![80], ..named.clone() };
    assert_eq!(handed_over(vec![port("http", 80)], Vec::new(), named.clone()).granted(), 1);
    assert_eq!(handed_over(vec![port("http", 80)], Vec::new(), http()).granted(), 1);
    assert_eq!(handed_over(vec![port("https", 443)], Vec::new(), http()).granted(), 0);
    assert_eq!(handed_over(Vec::new(), Vec::new(), TakeOver { amount: Resources::new(1, 1), ..http() }).granted(), 0);
    let first = || TakeOver { devices: vec![gpu(0, 300)], ..named.clone() };
    assert_eq!(handed_over(Vec::new(), vec![gpu(0, 300)], first()).granted(), 1);
    assert_eq!(handed_over(Vec::new(), vec![gpu(0, 400)], first()).granted(), 0);
    assert_eq!(handed_over(Vec::new(), vec![gpu(0, 300); 2], first()).granted(), 0, "the other one is not named");
}

// Who may not evict was denied the room of victims, also of those who left already and whom nobody had to evict for it.
#[test]
fn who_may_not_evict_takes_over_from_named_victims_that_leave_already() {
    check(
        "
        machine m1 cpu=4000
        job low by batch tasks=2 cpu=2000 prio=10
        job small by ml tasks=1 cpu=2000 prio=90
        job high by ml tasks=1 cpu=4000 prio=90
        batch: claim low[0]@m1 low[1]@m1
        batch: stop low[0]
        rights ml evicts=no
        ml: claim high[0]@m1 victim=low[0] victim=low[1]
        ml: claim small[0]@m1 victim=low[1] victim=low[0]
        show low[1]
        rights ml evicts=yes
        ml: claim high[0]@m1 victim=low[0] victim=low[1]
        ",
        "
        batch: committed; low[0] granted; low[1] granted
        batch: committed
        ml: refused; high[0] permission MayNotEvict
        ml: committed; small[0] granted over low[0] 2000
        low[1] Granted
        ml: refused; high[0] misfit NoRoom short cpu_millis 2000
        ",
    );
}

// Who left and a task that the cell does not know had one port, and whoever came next was given it while the unknown task still listened.
#[test]
fn a_port_that_an_unknown_task_has_too_is_taken_over_from_nobody() {
    check(
        "
        machine m1 cpu=4000
        job web by service tasks=1 cpu=1000 ports=http:80
        service: claim web[0]@m1
        machine m1 cpu=4000 runs=alloc-7-1 each=0 listening=80
        service: stop web[0] claim web[0]@m1 over=web[0]
        receipt m1 alloc-7-1
        service: claim web[0]@m1 over=web[0]
        ",
        "
        service: committed; web[0] granted http:80
        service: partial; web[0] misfit PortTaken port 80
        service: committed; web[0] granted over web[0] 0 port 80 http:80
        ",
    );
}

// A spare machine was used up by a claim that the quota had nothing left for, and was not there for one behind an eviction that gave some back.
#[test]
fn a_spare_machine_is_not_used_up_by_a_quota_that_an_eviction_gives_back_later() {
    check(
        "
        machine m1 cpu=600
        machine m2 cpu=2000
        machine m3 cpu=1000
        job tiny by batch tasks=1 cpu=100 prio=10
        job low by batch tasks=1 cpu=2000 prio=10
        job high by ml tasks=3 cpu=1000 prio=90
        batch: claim tiny[0]@m1 claim low[0]@m2
        quota default cpu=2100
        ml: claim high[0]@m1 high[1]@m2 high[2]@m1 victim=tiny[0] victim=low[0] or=m3
        ",
        "
        batch: committed; tiny[0] granted; low[0] granted
        ml: partial; high[0] misfit NoRoom short cpu_millis 400; high[1] granted over low[0] 1000; high[2] granted on m3
        ",
    );
}

// Victims gave in the order in which they were named: one was evicted for room that another one, who was on his way already, left to nobody.
#[test]
fn nobody_is_evicted_for_room_of_one_that_leaves_anyway() {
    check(
        "
        machine m1 cpu=1000
        job stays by batch tasks=2 cpu=250 prio=10
        job goes by batch tasks=1 cpu=500 prio=10
        job high by ml tasks=1 cpu=500 prio=90
        job higher by ml tasks=1 cpu=300 prio=90
        batch: claim stays[0]@m1 stays[1]@m1 claim goes[0]@m1
        batch: stop goes[0]
        ml: claim high[0]@m1 victim=stays[0] victim=goes[0]
        show stays[0]
        ml: claim higher[0]@m1 victim=stays[1] victim=goes[0] victim=stays[0]
        ",
        "
        batch: committed; stays[0] granted; stays[1] granted; goes[0] granted
        batch: committed
        ml: committed; high[0] granted over goes[0] 500
        stays[0] Granted
        ml: committed; higher[0] granted over stays[1] 250 over stays[0] 50
        ",
    );
}

// Of devices that the cell chooses that was so already.
#[test]
fn nobody_is_evicted_for_a_named_device_of_one_that_leaves_anyway() {
    let mut large = Large::new(CoreOptions::default());
    let machine = large.machine_with("m1".to_owned(), vec![gpu(0, 1000)]).slot;
    let half = || {
        let (resources, devices) = (Resources::new(1, 1), vec![gpu(0, 500)]);
        GroupShape { count: 1, resources, devices, ..GroupShape::default() }
    };
    let [stays, goes, high] = [10, 10, 90].map(|priority| large.job_at(priority, half()));
    let claim = |job| placement(job, 0..1, |_| machine, 0);
    let [stays, goes] =
        [stays, goes].map(|job| large.commit(vec![claim(job)]).placements[0][0].expect("it is granted"));
    let base = large.core.cell().revision();
    large.commit_on(Transaction { base, stops: vec![goes], ..Transaction::default() });
    let extras = vec![ClaimExtra { devices: vec![gpu(0, 500)], ..ClaimExtra::default() }];
    let preemptions = [stays, goes].map(|victim| Preemption { machine, victim }).into();
    let outcome = large.commit(vec![Placement { extras, preemptions, ..claim(high) }]);
    assert_eq!(outcome.granted(), 1);
    let states = [stays, goes].map(|id| large.core.cell().allocation(id).map(|found| found.status.state));
    assert_eq!(states, [Some(AllocationState::Granted), Some(AllocationState::Stopping)]);
}

// It was told that it may not evict, whoever it had named: neither what was short, nor who had taken it.
#[test]
fn a_scheduler_that_may_not_evict_is_told_so_only_where_that_would_help() {
    check(
        "
        machine m1 cpu=1000 gpus=1
        machine m2 cpu=4000
        job low by batch tasks=1 cpu=500 prio=10
        job far by batch tasks=1 cpu=500 prio=10
        job rival by batch tasks=1 cpu=500 gpus=1000 prio=90
        job room by ml tasks=1 cpu=1000 prio=90
        job device by ml tasks=1 gpus=500 prio=90
        rights ml evicts=no
        batch: claim low[0]@m1 claim far[0]@m2
        snapshot
        batch: claim rival[0]@m1
        ml: claim room[0]@m1 victim=far[0]@m1
        ml: claim device[0]@m1 victim=low[0]
        ml: claim room[0]@m1 victim=low[0]
        ",
        "
        batch: committed; low[0] granted; far[0] granted
        batch: committed; rival[0] granted gpu0:1000
        ml: refused; room[0] misfit NoRoom short cpu_millis 1000
        ml: refused; device[0] conflict DeviceTaken short gpu 500 culprits batch 1000 total 1000
        ml: refused; room[0] permission MayNotEvict
        ",
    );
}

// Whoever had anything of any device of the kind was enough: the right to evict was asked for in vain.
#[test]
fn a_scheduler_that_may_not_evict_is_told_so_only_where_enough_of_one_device_would_come_free() {
    check(
        "
        machine m1 cpu=4000 gpus=1
        job low by batch tasks=1 cpu=100 gpus=300 prio=10
        job stays by batch tasks=1 cpu=100 gpus=600 prio=90
        job whole by ml tasks=1 cpu=100 gpus=1000 prio=90
        job part by ml tasks=1 cpu=100 gpus=400 prio=90
        rights ml evicts=no
        batch: claim low[0]@m1 claim stays[0]@m1
        ml: claim whole[0]@m1 victim=low[0]
        ml: claim part[0]@m1 victim=low[0]
        ",
        "
        batch: committed; low[0] granted gpu0:300; stays[0] granted gpu0:600
        ml: refused; whole[0] misfit DeviceTaken short gpu 900
        ml: refused; part[0] permission MayNotEvict
        ",
    );
}

#[test]
fn a_device_of_another_model_is_not_what_a_scheduler_that_may_not_evict_lacks() {
    let of_model = |index: u32, model: &str| Device { model: model.into(), ..gpu(index, 1000) };
    let mut large = Large::new(CoreOptions::default());
    let machine = large.machine_with("m1".to_owned(), vec![of_model(0, "a100"), of_model(1, "h100")]).slot;
    large.ask(Command::SetRights { scheduler: "batch".into(), evicts: Some(false), priority: None });
    let [low, stays, same, other] =
        [(10, "a100"), (90, "h100"), (90, "a100"), (90, "h100")].map(|(priority, model)| {
            let (resources, devices) = (Resources::new(1, 1), vec![of_model(0, model)]);
            large.job_at(priority, GroupShape { count: 1, resources, devices, ..GroupShape::default() })
        });
    let claim = |job| placement(job, 0..1, |_| machine, 0);
    let victim = large.commit(vec![claim(low)]).placements[0][0].expect("it is granted");
    assert_eq!(large.commit(vec![claim(stays)]).granted(), 1);
    let told = [same, other].map(|job| {
        let preemptions = vec![Preemption { machine, victim }];
        let outcome = large.commit(vec![Placement { preemptions, ..claim(job) }]);
        (outcome.refusals[0].kind, outcome.refusals[0].reason)
    });
    let may_not = (RefusalKind::Permission, RefusalReason::MayNotEvict);
    assert_eq!(told, [may_not, (RefusalKind::Misfit, RefusalReason::DeviceTaken)]);
}

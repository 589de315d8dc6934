//! Stories of quotas, holds, unknown tasks, late registrations and launches.

use super::story::check;

#[test]
fn a_quota_counts_allocations_and_holds_that_are_neither_leaving_nor_lost() {
    check(
        "
        machine m1 cpu=9000
        machine m2 cpu=9000
        job web by service tasks=4 cpu=1000
        service: claim web[0]@m1 web[1]@m2
        quota default cpu=8000
        used? default
        service: claim web[2]@m1
        hold web m1,m2 cpu=500 for=300
        used? default
        service: stop web[0]
        used? default
        report web[0] stopped
        used? default
        expire m2
        wait 60
        used? default
        unhold web
        used? default
        restart
        used? default
        stopjob web
        used? default
        ",
        "
        service: committed; web[0] granted; web[1] granted
        default uses 2000
        service: committed; web[2] granted
        default uses 4000
        service: committed
        default uses 3000
        default uses 3000
        default uses 2000
        default uses 1000
        default uses 1000
        default uses 0
        ",
    );
}

#[test]
fn a_quota_can_be_lowered_below_what_is_used_and_removed() {
    check(
        "
        machine m1 cpu=9000
        job web by service tasks=2 cpu=1000
        service: claim web[0]@m1 web[1]@m1
        quota default cpu=1000
        used? default
        show web[1]
        quota default
        quota default
        ",
        "
        service: committed; web[0] granted; web[1] granted
        default uses 2000
        web[1] Granted
        NO_SUCH_QUOTA: the namespace default has no quota; there is nothing to remove
        ",
    );
}

#[test]
fn an_earlier_hold_takes_room_from_a_later_one_which_keeps_its_place() {
    check(
        "
        machine m1 cpu=4000
        machine m2 cpu=4000
        job low by ml tasks=2 cpu=3000 prio=10
        job high by ml tasks=2 cpu=3000 prio=90
        job same by ml tasks=2 cpu=1000 prio=10
        hold low m1,m2 cpu=3000
        hold same m1 cpu=1000
        hold same m1 cpu=1500
        hold high m1 cpu=3000 for=120
        hold? low
        hold? same
        hold? high
        hold low m1 cpu=3000
        wait 60
        hold? low
        hold? high
        hold low m1 cpu=3000
        wait 60
        hold? high
        due?
        ",
        "
        NO_ROOM_TO_HOLD: m1 is short of cpu by 500m for same beside the holds that come first
        low holds [m2] for 60
        same holds [m1] for 60
        high holds [m1] for 120
        NO_ROOM_TO_HOLD: m1 is short of cpu by 2000m for low beside the holds that come first
        low no hold
        high holds [m1] for 60
        NO_ROOM_TO_HOLD: m1 is short of cpu by 2000m for low beside the holds that come first
        high no hold
        due never
        ",
    );
}

// The quota that the later one would give back was missing to the earlier one, and both kept what they had for ever.
#[test]
fn two_half_fitting_gangs_of_one_namespace_do_not_block_each_other_by_its_quota() {
    check(
        "
        machine m1 cpu=1000
        machine m2 cpu=1000
        machine m3 cpu=1000
        quota default cpu=2000
        job a by ml tasks=2 cpu=1000
        job b by ml tasks=2 cpu=1000
        hold a m1 cpu=1000
        hold b m2 cpu=1000
        hold b m1,m2 cpu=1000
        hold a m1,m3 cpu=1000
        hold a m1,m2 cpu=1000
        hold? a
        hold? b
        used? default
        hold a m1,m2,m3 cpu=1000
        ",
        "
        NO_ROOM_TO_HOLD: m1 is short of cpu by 1000m for b beside the holds that come first
        NO_ROOM_TO_HOLD: the quota of default is short of cpu by 1000m for a to hold that
        a holds [m1 m2] for 60
        b holds [] for 60
        default uses 2000
        NO_ROOM_TO_HOLD: the quota of default is short of cpu by 1000m for a to hold that
        ",
    );
}

#[test]
fn a_hold_without_machines_still_keeps_its_place() {
    check(
        "
        machine m1 cpu=4000
        job low by ml tasks=2 cpu=3000 prio=10
        job late by ml tasks=2 cpu=3000 prio=10
        job high by ml tasks=2 cpu=3000 prio=90
        hold low m1 cpu=3000
        hold high m1 cpu=3000
        hold? low
        unhold high
        hold late m1 cpu=3000
        hold low m1 cpu=3000
        hold? low
        hold? late
        unhold low
        unhold low
        ",
        "
        low holds [] for 60
        low holds [m1] for 60
        late holds [] for 60
        ",
    );
}

#[test]
fn a_hold_needs_machines_that_take_claims_of_its_job() {
    check(
        "
        machine m1 cpu=4000
        machine m2 cpu=4000 rack=a
        machine m3 cpu=4000
        job gang by ml tasks=2 cpu=3000
        job over by ml tasks=1 cpu=1000
        stopjob over
        cordon m1
        partition lab rack=a for=research
        hold gang m1 cpu=1000
        hold gang m2 cpu=1000
        hold gang m3 cpu=5000
        hold gang m3
        hold gang m3 cpu=1000 for=0
        hold over m3 cpu=1000
        partition lab rack=a for=research,ml
        hold gang m2 cpu=1000 for=6000
        hold? gang
        partition lab
        partition lab
        ",
        "
        NO_ROOM_TO_HOLD: m1 takes no claims (cordoned)
        NO_ROOM_TO_HOLD: m2 is reserved for other schedulers than ml by a partition
        NO_ROOM_TO_HOLD: m3 is short of cpu by 1000m for gang
        INVALID_REQUEST: resources: expected some of each machine's room, found none
        INVALID_REQUEST: within_micros: expected a deadline that is still to come when this is decided, found one that was 0 µs before
        JOB_OVER: over is over (stopped) and can't be changed
        gang holds [m2] for 600
        NO_SUCH_PARTITION: there is no partition lab to remove; `plenum partition list` shows those that are
        ",
    );
}

#[test]
fn a_hold_counts_in_the_quota_and_is_refused_beyond_it() {
    check(
        "
        machine m1 cpu=9000
        job gang by ml tasks=2 cpu=3000
        quota default cpu=3000
        hold gang m1 cpu=4000
        hold gang m1 cpu=3000
        hold gang m1 cpu=2500
        used? default
        ",
        "
        NO_ROOM_TO_HOLD: the quota of default is short of cpu by 1000m for gang to hold that
        default uses 2500
        ",
    );
}

#[test]
fn a_hold_ends_with_its_job_and_leaves_a_machine_that_is_removed() {
    check(
        "
        machine m1 cpu=4000
        machine m2 cpu=4000
        job gang by ml tasks=2 cpu=3000
        hold gang m1,m2 cpu=3000
        remove m1
        hold? gang
        machine m9 cpu=4000
        stopjob gang
        hold? gang
        ",
        "
        gang holds [m2] for 60
        gang no hold
        ",
    );
}

#[test]
fn a_task_that_the_cell_does_not_know_occupies_its_room_until_its_receipt() {
    check(
        "
        machine m1 cpu=4000 runs=alloc-7-1
        unknown? m1
        restart
        ",
        "
        m1 alloc-7-1 stopping; free 3000
        ",
    );
}

// What came with the backup, and ended here, ran on for 15 minutes beside its replacement when its machine came back.
#[test]
fn what_a_restored_cell_knew_and_gave_up_is_stopped_at_once() {
    check(
        "
        machine m1 cpu=4000
        machine m2 cpu=4000
        job web by service tasks=1 cpu=1000
        job api by service tasks=1 cpu=1000
        service: claim web[0]@m1
        restore
        machine m1 cpu=4000 runs=alloc-0-1
        machine m2 cpu=4000
        expire m1
        remove m1 unless-alive
        machine m1 cpu=4000 runs=alloc-0-1,alloc-0-2,alloc-1-1
        unknown? m1
        ",
        "
        service: committed; web[0] granted
        m1 alloc-0-1 stopping; alloc-0-2 until 900; alloc-1-1 until 900; free 1000
        ",
    );
}

#[test]
fn after_a_restore_unknown_tasks_wait_for_adoption_and_are_told_to_stop() {
    check(
        "
        machine m1 cpu=4000
        job web by service tasks=1 cpu=3000
        restore
        machine m1 cpu=4000 runs=alloc-7-1,alloc-9-4
        unknown? m1
        service: claim web[0]@m1
        adopt m1 alloc-9-4
        adopt m1 alloc-9-4
        adopt m1 alloc-9-5
        restart
        due?
        wait 899
        unknown? m1
        wait 1
        unknown? m1
        adopt m1 alloc-7-1
        receipt m1 alloc-7-1
        unknown? m1
        receipt m1 alloc-7-1
        machine m1 cpu=4000
        unknown? m1
        due?
        ",
        "
        m1 alloc-7-1 until 900; alloc-9-4 until 900; free 2000
        service: refused; web[0] misfit NoRoom short cpu_millis 1000
        NO_SUCH_TASK: alloc-9-5 on m1 is no unknown task, or has ended; `plenum machine show` lists those that run
        due 900
        m1 alloc-7-1 until 1; alloc-9-4 adopted; free 2000
        m1 alloc-7-1 stopping; alloc-9-4 adopted; free 2000
        NO_SUCH_TASK: alloc-7-1 on m1 was told to stop, and can't be adopted any more; `plenum machine show` lists those that run
        m1 alloc-9-4 adopted; free 3000
        m1 free 4000
        due never
        ",
    );
}

/// The server was away when their time was over, and told all of them to stop as it came back, before anybody could adopt one.
#[test]
fn unknown_tasks_have_their_whole_time_again_when_a_server_starts() {
    check(
        "
        machine m1 cpu=4000
        restore
        machine m1 cpu=4000 runs=alloc-7-1,alloc-9-4
        wait 300
        restart after=900
        wait 0
        due?
        adopt m1 alloc-9-4
        wait 899
        due?
        wait 1
        unknown? m1
        due?
        ",
        "
        due 900
        due 1
        m1 alloc-7-1 stopping; alloc-9-4 adopted; free 2000
        due never
        ",
    );
}

/// Who had adopted one could not stop it any more: no command knew it, and it ran until it ended by itself.
#[test]
fn an_unknown_task_is_stopped_by_request_whether_adopted_or_not() {
    check(
        "
        machine m1 cpu=4000
        restore
        machine m1 cpu=4000 runs=alloc-7-1,alloc-9-4
        adopt m1 alloc-9-4
        stopid alloc-9-4
        stopid alloc-9-4
        unknown? m1
        adopt m1 alloc-9-4
        stopid alloc-7-1
        due?
        restart
        unknown? m1
        receipt m1 alloc-7-1
        receipt m1 alloc-9-4
        unknown? m1
        stopid alloc-9-4
        ",
        "
        m1 alloc-7-1 until 900; alloc-9-4 stopping; free 2000
        NO_SUCH_TASK: alloc-9-4 on m1 was told to stop, and can't be adopted any more; `plenum machine show` lists those that run
        due never
        m1 alloc-7-1 stopping; alloc-9-4 stopping; free 2000
        m1 free 4000
        NO_SUCH_ALLOCATION: alloc-9-4 has ended, or never was
        ",
    );
}

#[test]
fn unknown_tasks_go_with_a_boot_and_with_their_machine() {
    check(
        "
        machine m1 cpu=4000
        machine m2 cpu=500
        restore
        machine m1 cpu=4000 runs=alloc-7-1
        machine m2 cpu=500 runs=alloc-8-1
        unknown? m2
        machine m1 cpu=4000 boot=b
        unknown? m1
        remove m2
        machine m3 cpu=500
        unknown? m3
        due?
        ",
        "
        m2 alloc-8-1 until 900; free -500
        m1 free 4000
        m3 free 500
        due never
        ",
    );
}

// It was removed though its agent was there, came back at once, and which of its tasks were adopted was forgotten.
#[test]
fn a_machine_that_runs_what_the_cell_does_not_know_is_removed_only_by_who_says_so() {
    let alive = "MACHINE_ALIVE: the agent of m1 renews its lease, or did a moment ago, and m1 runs 1 task: that would count as lost at once, \
                 and run twice; drain m1 and then stop its agent, or stop the agent and wait until m1 is unreachable (`--force` \
                 removes it all the same, and an agent that runs brings it back as a new machine)";
    check(
        "
        machine m1 cpu=4000
        restore
        machine m1 cpu=4000 runs=alloc-7-1
        remove m1 unless-alive
        unknown? m1
        expire m1
        remove m1 unless-alive
        ",
        &format!(
            "
        {alive}
        m1 alloc-7-1 until 900; free 3000
        "
        ),
    );
}

/// A machine had booted since the backup was taken. In the restored cell its registration looked like one of a machine that boots now,
/// where nothing runs: what it ran was told to nobody, and its room was given away.
#[test]
fn what_runs_on_a_machine_that_booted_after_the_backup_is_found() {
    check(
        "
        machine m1 cpu=4000 boot=a
        job web by service tasks=1 cpu=1000
        service: claim web[0]@m1
        restore
        machine m1 cpu=4000 boot=b runs=alloc-7-1
        unknown? m1
        show web[0]
        machine m1 cpu=4000 boot=c runs=alloc-7-1
        unknown? m1
        ",
        "
        service: committed; web[0] granted
        m1 alloc-7-1 until 900; free 3000
        web[0] gone
        m1 free 4000
        ",
    );
}

/// The agent of an earlier boot had sent its registration just before the machine went down, and the network kept it: it was taken for
/// yet another boot, and the cell thought that nothing ran there.
#[test]
fn a_registration_from_before_a_boot_comes_too_late() {
    check(
        "
        machine m1 cpu=4000 boot=a
        job web by service tasks=1 cpu=1000
        machine m1 cpu=4000 boot=b
        service: claim web[0]@m1
        machine m1 cpu=4000 boot=a seen=2
        machine m1 cpu=4000 boot=a seen=0
        show web[0]
        machine m1 cpu=4000 boot=b seen=0
        machine m1 cpu=4000 boot=b seen=3
        show web[0]
        machine m1 cpu=4000 boot=c
        show web[0]
        ",
        "
        service: committed; web[0] granted
        STALE_EPOCH: m1 began its epoch at revision 4, and this agent has heard of 2 only; register again with what it heard now
        STALE_EPOCH: m1 began its epoch at revision 4, and this agent has heard of 0 only; register again with what it heard now
        web[0] Granted
        STALE_EPOCH: m1 began its epoch at revision 4, and this agent has heard of 3 only; register again with what it heard now
        web[0] Granted
        web[0] gone
        ",
    );
}

// What its name stood for in between had no instants, and the next version began without any.
#[test]
fn a_recurring_job_goes_on_where_it_stood_whatever_its_name_was_meanwhile() {
    check(
        "
        machine m1 cpu=4000
        job nightly by cron tasks=1 cpu=1000 recurring
        launch nightly 3000000
        stopjob nightly
        job nightly by cron tasks=1 cpu=1000
        stopjob nightly
        job nightly by cron tasks=1 cpu=1000 recurring
        launch nightly 2000000
        launch nightly 4000000
        jobs?
        ",
        "
        INSTANT_PASSED: nightly was launched for 3000000 µs; expected a later instant, found 2000000 µs
        nightly cron Waiting
        nightly-3 cron Waiting
        nightly-4 cron Waiting
        ",
    );
}

#[test]
fn each_instant_is_launched_once_and_in_order() {
    check(
        "
        machine m1 cpu=4000
        job nightly by cron tasks=2 cpu=1000 recurring
        scale nightly 1
        launch nightly 3000000
        launch nightly 3000000
        launch nightly 2000000
        launch nightly 3500000
        jobs?
        cron: claim nightly-3[0]@m1
        report nightly-3[0] complete
        job? nightly-3
        service: claim nightly[0]@m1
        restart
        launch nightly 3500000
        launch nightly 3400000
        stopjob nightly
        launch nightly 9000000
        launch nightly 3000000
        job nightly by cron tasks=1 cpu=1000 recurring
        launch nightly 3500000
        launch nightly 3600000
        launch nightly 3550000
        launch nightly 4000000
        jobs?
        launch nightly-4 5000000
        launch nightly -1
        launch nightly 0
        ",
        "
        INSTANT_PASSED: nightly was launched for 3000000 µs; expected a later instant, found 2000000 µs
        nightly cron Waiting
        nightly-3 cron Waiting
        nightly-3500000 cron Waiting
        cron: committed; nightly-3[0] granted
        nightly-3 Complete
        service: refused; nightly[0] permission OtherScheduler
        INSTANT_PASSED: nightly was launched for 3500000 µs; expected a later instant, found 3400000 µs
        JOB_OVER: nightly is over (stopped) and can't be changed
        INSTANT_PASSED: nightly was launched for 3600000 µs; expected a later instant, found 3550000 µs
        nightly cron Waiting
        nightly-3 cron Complete
        nightly-3500000 cron Waiting
        nightly-3600000 cron Waiting
        nightly-4 cron Waiting
        INVALID_REQUEST: nightly-4 is not recurring; only jobs that are can be launched from
        INVALID_REQUEST: instant: expected 1 or more microseconds since 1970, found -1
        INVALID_REQUEST: instant: expected 1 or more microseconds since 1970, found 0
        ",
    );
}

// Holds were not in the ring of changes: who lost its room to one was told that it had never fitted.
#[test]
fn who_loses_room_to_a_hold_learns_of_it_and_its_owner_does_not_stand_in_its_own_way() {
    check(
        "
        machine m1 cpu=4000
        job gang by ml tasks=1 cpu=3000
        job web by service tasks=2 cpu=2000
        ml:
        snapshot
        hold gang m1 cpu=3000 for=300
        service: claim web[0]@m1
        ml: sequence claim gang[0]@m1
        service: claim web[0]@m1
        ",
        "
        ml: committed
        service: refused; web[0] conflict NoRoom short cpu_millis 1000 culprits hold 3000 total 3000
        ml: committed; gang[0] granted
        service: refused; web[0] conflict NoRoom short cpu_millis 1000 culprits ml 3000 total 3000
        ",
    );
}

#[test]
fn a_recurring_job_that_was_scaled_to_nothing_is_not_launched() {
    check(
        "
        job nightly by batch tasks=2 cpu=100 recurring
        scale nightly 0
        launch nightly 100
        ",
        "INVALID_REQUEST: nightly was scaled to no tasks at all; scale it up before it is launched",
    );
}

// Where nobody could be evicted what is short was left out, and the right to evict asked for in vain.
#[test]
fn the_right_to_evict_is_not_what_is_missing_where_nobody_could_be_evicted() {
    check(
        "
        machine m1 cpu=1000
        job same by batch tasks=1 cpu=1000 prio=50
        job gang by ml tasks=1 cpu=1000 prio=50
        batch: claim same[0]@m1
        ml: claim gang[0]@m1 victim=same[0]
        rights ml evicts=no
        ml: claim gang[0]@m1 victim=same[0]
        ",
        "
        batch: committed; same[0] granted
        ml: refused; gang[0] misfit NoRoom short cpu_millis 1000
        ml: refused; gang[0] misfit NoRoom short cpu_millis 1000
        ",
    );
}

// Epochs go on behind those of the life before: the first one of a new machine is not the first of all.
#[test]
fn a_new_machine_of_a_restored_cell_is_said_to_have_registered() {
    check(
        "
        machine m9 cpu=1000
        restore
        job web by service tasks=2 cpu=1000
        snapshot
        machine m1 cpu=1000
        machine m9 cpu=1000
        service: claim web[0]@m1
        service: claim web[1]@m9
        ",
        "
        service: refused; web[0] conflict MachineChanged culprits registered 0 total 0
        service: refused; web[1] conflict MachineChanged culprits epoch 0 total 0
        ",
    );
}

// The victim's part of the quota was not seen: its better was refused though nothing would have grown.
#[test]
fn a_scheduler_that_may_not_evict_gets_what_is_free_and_no_more() {
    check(
        "
        machine m1 cpu=4000
        machine m2 cpu=4000
        job low by batch tasks=2 cpu=3000 prio=10
        job high by ml tasks=3 cpu=2000 prio=90
        job small by ml tasks=1 cpu=1000 prio=90
        batch: claim low[0]@m1 low[1]@m2
        rights ml evicts=no
        rights ml evicts=no
        ml: claim high[0]@m1 victim=low[0]
        ml: claim high[0]@m1
        ml: claim small[0]@m1 victim=low[0]
        show low[0]
        restart
        ml: claim high[0]@m1 victim=low[0] or=m2
        rights ml priority=4
        rights ml priority=101
        rights ml evicts=yes
        ml: claim high[0]@m1 victim=low[0]
        show low[0]
        ",
        "
        batch: committed; low[0] granted; low[1] granted
        ml: refused; high[0] permission MayNotEvict
        ml: refused; high[0] misfit NoRoom short cpu_millis 1000
        ml: committed; small[0] granted
        low[0] Granted
        ml: refused; high[0] permission MayNotEvict
        INVALID_REQUEST: priority 101; expected 1 to 100
        ml: committed; high[0] granted over low[0] 2000
        low[0] Evicting
        ",
    );
}

#[test]
fn a_claim_may_have_the_quota_of_whom_it_evicts_and_no_more() {
    check(
        "
        machine m1 cpu=4000
        machine m2 cpu=4000
        job low by batch tasks=1 cpu=4000 prio=10
        job high by ml tasks=1 cpu=3000 prio=90
        job small by batch tasks=1 cpu=1000 prio=10
        job large by ml tasks=1 cpu=4000 prio=90
        quota default cpu=4000
        batch: claim low[0]@m1
        ml: claim high[0]@m1 victim=low[0]
        used? default
        batch: claim small[0]@m2
        ml: claim large[0]@m2 victim=small[0]
        show small[0]
        ",
        "
        batch: committed; low[0] granted
        ml: committed; high[0] granted over low[0] 3000
        default uses 3000
        batch: committed; small[0] granted
        ml: refused; large[0] quota QuotaExceeded short cpu_millis 3000
        small[0] Granted
        ",
    );
}

// What a job held was taken room for the others in the very transaction that granted it what it waited for.
#[test]
fn room_that_was_held_is_free_once_its_job_was_granted_what_it_waited_for() {
    check(
        "
        machine m1 cpu=4000
        machine m2 cpu=100
        job gang by ml tasks=2 cpu=1000
        job web by ml tasks=2 cpu=3000
        quota default cpu=4000
        hold gang m1 cpu=3000
        ml: claim web[0]@m1
        ml: claim gang[0]@m1 gang[1]@m2 min=2 claim web[0]@m1
        hold? gang
        ml: claim gang[0]@m1 claim web[0]@m1 claim web[1]@m1
        hold? gang
        used? default
        ",
        "
        ml: refused; web[0] quota QuotaExceeded short cpu_millis 2000
        ml: refused; gang[0] mate MinimumMissed; gang[1] misfit NoRoom short cpu_millis 900; web[0] quota QuotaExceeded short cpu_millis 2000
        gang holds [m1] for 60
        ml: partial; gang[0] granted; web[0] granted; web[1] quota QuotaExceeded short cpu_millis 3000
        gang no hold
        default uses 4000
        ",
    );
}

#[test]
fn who_lacks_room_beside_a_hold_that_ends_is_told_of_those_who_came_between() {
    check(
        "
        machine m1 cpu=5000
        job gang by ml tasks=1 cpu=1000
        job web by ml tasks=2 cpu=3000
        job other by batch tasks=1 cpu=1500
        snapshot
        hold gang m1 cpu=3000
        batch: claim other[0]@m1
        ml: claim web[0]@m1
        ml: claim gang[0]@m1 claim web[0]@m1
        ",
        "
        batch: committed; other[0] granted
        ml: refused; web[0] conflict NoRoom short cpu_millis 2500 culprits batch 1500 hold 3000 total 4500
        ml: partial; gang[0] granted; web[0] conflict NoRoom short cpu_millis 500 culprits batch 1500 total 1500
        ",
    );
}

// An unknown task of which no room is known left no trace: who wanted its device was told that it had never been free.
#[test]
fn an_unknown_task_without_room_is_blamed_for_its_device_and_its_port() {
    check(
        "
        machine m1 cpu=4000 gpus=1
        job gpu by ml tasks=1 cpu=1000 gpus=1000
        job web by service tasks=1 cpu=1000 ports=http:8080
        restore
        machine m1 cpu=4000 gpus=1
        snapshot
        machine m1 cpu=4000 gpus=1 runs=alloc-7-1 each=0 using=1000 listening=8080
        ml: claim gpu[0]@m1
        service: claim web[0]@m1
        receipt m1 alloc-7-1
        ml: claim gpu[0]@m1
        ",
        "
        ml: refused; gpu[0] conflict DeviceTaken short gpu 1000 culprits unknown task 1000 total 1000
        service: refused; web[0] conflict PortTaken port 8080 culprits unknown task 1 total 1
        ml: committed; gpu[0] granted gpu0:1000
        ",
    );
}

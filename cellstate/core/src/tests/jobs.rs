//! Stories of jobs: what waits for what, retries, tasks that share a machine, scaling, and the end.

use super::story::check;

#[test]
fn a_group_waits_for_the_groups_before_it() {
    check(
        "
        machine m1 cpu=8000
        job wc by batch tasks=1 cpu=1000
        group wc reduce after=main tasks=1 cpu=1000
        snapshot
        batch: claim wc.reduce[0]@m1
        batch: claim wc[0]@m1
        report wc[0] complete
        snapshot
        batch: claim wc.reduce[0]@m1
        report wc.reduce[0] complete
        job? wc
        ",
        "
        batch: refused; wc.reduce[0] misfit NotWanted (group 0 is not done)
        batch: committed; wc[0] granted
        batch: committed; wc.reduce[0] granted
        wc Complete
        ",
    );
}

#[test]
fn the_failure_after_the_last_retry_fails_the_job_and_stops_the_rest() {
    check(
        "
        machine m1 cpu=8000
        job map by batch tasks=2 cpu=1000 retry=1 delay=5
        snapshot
        batch: claim map[0]@m1 map[1]@m1
        report map[0] failed 7
        snapshot
        batch: claim map[0]@m1
        wait 5
        batch: claim map[0]@m1
        report map[0] failed 7
        job? map
        show map[1]
        ",
        "
        batch: committed; map[0] granted; map[1] granted
        batch: refused; map[0] misfit NotWanted (waits after a failure until 1970-01-01T00:00:06Z)
        batch: committed; map[0] granted
        map Failed task main[0] failed: exit code 7
        map[1] Stopping
        ",
    );
}

#[test]
fn an_exit_of_a_service_is_a_failure_and_is_retried_for_ever() {
    check(
        "
        machine m1 cpu=8000
        job web by service tasks=1 cpu=1000 forever
        snapshot
        service: claim web[0]@m1
        report web[0] complete
        snapshot
        service: claim web[0]@m1
        job? web
        ",
        "
        service: committed; web[0] granted
        service: committed; web[0] granted
        web Running
        ",
    );
}

#[test]
fn tasks_that_share_a_machine_stay_together_and_start_over_when_it_is_lost() {
    check(
        "
        machine m1 cpu=8000
        machine m2 cpu=8000
        job wc by batch tasks=2 cpu=1000 together
        snapshot
        batch: claim wc[0]@m1 wc[1]@m2
        report wc[0] complete
        batch: claim wc[1]@m1
        expire m1
        wait 61
        batch: claim wc[0]@m2 wc[1]@m2
        ",
        "
        batch: partial; wc[0] granted; wc[1] misfit OtherMachine
        batch: committed; wc[1] granted
        batch: committed; wc[0] granted; wc[1] granted
        ",
    );
}

#[test]
fn a_finished_job_is_retired_after_a_time() {
    check(
        "
        machine m1 cpu=1000
        job map by batch tasks=1 cpu=1000
        batch: claim map[0]@m1
        report map[0] complete
        job? map
        wait 3601
        job? map
        ",
        "
        batch: committed; map[0] granted
        map Complete
        map gone
        ",
    );
}

#[test]
fn of_too_many_finished_jobs_those_leave_that_finished_first_and_have_nothing_left() {
    check(
        "
        machine m1 cpu=1000
        job a by batch tasks=1 cpu=100
        job b by batch tasks=1 cpu=100
        job c by batch tasks=1 cpu=100
        job d by batch tasks=1 cpu=100
        batch: claim a[0]@m1
        stopjob a
        wait 1
        stopjob b
        wait 1
        stopjob c
        most finished-jobs 2
        wait 1
        job? a
        job? b
        job? c
        restart
        stopjob d
        wait 1
        job? a
        job? c
        job? d
        report a[0] stopped
        wait 1
        job? a
        job? d
        ",
        "
        batch: committed; a[0] granted
        a Stopped stopped by a request
        b gone
        c Stopped stopped by a request
        a Stopped stopped by a request
        c gone
        d Stopped stopped by a request
        a Stopped stopped by a request
        d Stopped stopped by a request
        ",
    );
}

#[test]
fn a_job_that_began_again_counts_once_among_those_that_are_over() {
    check(
        "
        job a by batch tasks=1 cpu=100
        stopjob a
        job a by batch tasks=1 cpu=100
        stopjob a
        most finished-jobs 1
        wait 1
        job? a
        ",
        "a Stopped stopped by a request",
    );
}

#[test]
fn a_job_that_began_again_is_retired_after_its_second_end() {
    check(
        "
        machine m1 cpu=1000
        job map by batch tasks=1 cpu=1000
        batch: claim map[0]@m1
        report map[0] complete
        wait 3000
        job map by batch tasks=1 cpu=1000
        wait 700
        job? map
        batch: claim map[0]@m1
        report map[0] complete
        wait 3500
        job? map
        wait 101
        job? map
        ",
        "
        batch: committed; map[0] granted
        map Waiting
        batch: committed; map[0] granted
        map Complete
        map gone
        ",
    );
}

// Looking for live tasks among those that go away subtracted 1 from the 0 of those without an allocation.
#[test]
fn a_group_shrinks_by_its_waiting_tasks() {
    check(
        "
        machine m1 cpu=2000
        job map by batch tasks=3 cpu=1000
        batch: claim map[0]@m1
        job map by batch tasks=1 cpu=1000
        batch: claim map[1]@m1
        ",
        "
        batch: committed; map[0] granted
        batch: refused; map[1] misfit NotWanted (no such task)
        ",
    );
}

#[test]
fn scaling_down_stops_the_highest_tasks_and_their_room_waits_for_the_receipt() {
    check(
        "
        machine m1 cpu=3000
        job web by service tasks=3 cpu=1000
        job map by batch tasks=1 cpu=1000
        service: claim web[0]@m1 web[1]@m1 web[2]@m1
        scale web 1
        show web[0]
        show web[2]
        snapshot
        batch: claim map[0]@m1
        scale web 2
        service: claim web[1]@m1
        report web[2] stopped
        snapshot
        batch: claim map[0]@m1
        ",
        "
        service: committed; web[0] granted; web[1] granted; web[2] granted
        web[0] Granted
        web[2] Stopping
        batch: refused; map[0] misfit NoRoom short cpu_millis 1000
        service: refused; web[1] misfit NoRoom short cpu_millis 1000
        batch: committed; map[0] granted
        ",
    );
}

#[test]
fn a_job_whose_undone_tasks_are_scaled_away_is_complete() {
    check(
        "
        machine m1 cpu=1000
        job map by batch tasks=2 cpu=1000
        batch: claim map[0]@m1
        report map[0] complete
        scale map 1
        job? map
        ",
        "
        batch: committed; map[0] granted
        map Complete
        ",
    );
}

// Who scaled a job of workers to nothing for the night found it complete, with nothing done, and could not scale it up again.
#[test]
fn a_job_that_is_scaled_to_nothing_waits_to_be_scaled_up_again() {
    for kind in ["", "forever"] {
        check(
            &format!(
                "
                machine m1 cpu=3000
                job map by batch tasks=2 cpu=1000 {kind}
                batch: claim map[0]@m1 map[1]@m1
                report map[0] complete
                scale map 0
                show map[1]
                wait 3601
                job? map
                job map by batch tasks=2 cpu=1000 {kind}
                job map by batch tasks=0 cpu=1000 {kind}
                report map[1] stopped
                job? map
                scale map 2
                snapshot
                batch: claim map[0]@m1
                "
            ),
            "
            batch: committed; map[0] granted; map[1] granted
            map[1] Stopping
            map Running
            map Running
            batch: committed; map[0] granted
            ",
        );
    }
}

#[test]
fn a_job_whose_shared_machine_is_removed_between_two_tasks_starts_over() {
    check(
        "
        machine m1 cpu=1000
        machine m2 cpu=1000
        job wc by batch tasks=2 cpu=1000 together
        batch: claim wc[0]@m1
        report wc[0] complete
        remove m1
        snapshot
        batch: claim wc[0]@m2
        ",
        "
        batch: committed; wc[0] granted
        batch: committed; wc[0] granted
        ",
    );
}

#[test]
fn a_job_whose_shared_machine_vanishes_between_two_tasks_starts_over_after_a_time() {
    check(
        "
        machine m1 cpu=1000
        machine m2 cpu=1000
        job wc by batch tasks=2 cpu=1000 together
        batch: claim wc[0]@m1
        report wc[0] complete
        expire m1
        wait 59
        snapshot
        batch: claim wc[1]@m2
        wait 2
        snapshot
        batch: claim wc[0]@m2
        ",
        "
        batch: committed; wc[0] granted
        batch: refused; wc[1] misfit OtherMachine
        batch: committed; wc[0] granted
        ",
    );
}

// Each group lost its tasks after its own time, and the first loss took the machine away: the job ran on two machines, and the tasks
// of the group that was lost last went on there when the old machine came back.
#[test]
fn a_job_whose_tasks_share_a_machine_loses_them_together_after_the_longest_time_of_its_groups() {
    check(
        "
        machine m1 cpu=4000
        machine m2 cpu=4000
        machine m3 cpu=4000
        job wc by batch tasks=1 cpu=1000 together lost=60
        group wc late tasks=1 cpu=1000 lost=300
        batch: claim wc[0]@m1 claim wc.late[0]@m1
        expire m1
        wait 299
        show wc[0]
        batch: claim wc[0]@m2
        wait 1
        show wc[0]
        show wc.late[0]
        batch: claim wc[0]@m2
        batch: claim wc.late[0]@m3
        batch: claim wc.late[0]@m2
        ",
        "
        batch: committed; wc[0] granted; wc.late[0] granted
        wc[0] Granted
        batch: refused; wc[0] misfit TaskTaken
        wc[0] Lost
        wc.late[0] Lost
        batch: committed; wc[0] granted
        batch: refused; wc.late[0] misfit OtherMachine
        batch: committed; wc.late[0] granted
        ",
    );
}

#[test]
fn a_job_whose_tasks_share_a_machine_is_never_lost_there_where_one_group_never_is() {
    check(
        "
        machine m1 cpu=4000
        machine m2 cpu=4000
        job wc by batch tasks=1 cpu=1000 together lost=60
        group wc kept tasks=1 cpu=1000 lost=never
        batch: claim wc[0]@m1 claim wc.kept[0]@m1
        expire m1
        wait 10000
        show wc[0]
        batch: claim wc[0]@m2
        remove m1
        batch: claim wc[0]@m2 claim wc.kept[0]@m2
        ",
        "
        batch: committed; wc[0] granted; wc.kept[0] granted
        wc[0] Granted
        batch: refused; wc[0] misfit TaskTaken
        batch: committed; wc[0] granted; wc.kept[0] granted
        ",
    );
}

// The machine stayed the job's for ever, though nothing of the job was left there: with its room gone to those who had evicted it, the job
// waited until they ended.
#[test]
fn a_job_whose_tasks_share_a_machine_and_all_left_it_undone_may_go_elsewhere() {
    check(
        "
        machine m1 cpu=1000
        machine m2 cpu=1000
        job wc by batch tasks=1 cpu=1000 prio=10 together
        job web by service tasks=1 cpu=1000 prio=90 forever
        batch: claim wc[0]@m1
        service: claim web[0]@m1 victim=wc[0]
        batch: claim wc[0]@m2
        report wc[0] evicted
        batch: claim wc[0]@m2
        batch: stop wc[0]
        report wc[0] stopped
        stopjob web
        report web[0] stopped
        batch: claim wc[0]@m1
        ",
        "
        batch: committed; wc[0] granted
        service: committed; web[0] granted over wc[0] 1000
        batch: refused; wc[0] misfit OtherMachine
        batch: committed; wc[0] granted
        batch: committed
        batch: committed; wc[0] granted
        ",
    );
}

#[test]
fn a_job_keeps_the_machine_where_a_task_of_it_is_done_runs_leaves_or_failed() {
    check(
        "
        machine m1 cpu=2000
        machine m2 cpu=2000
        job done by batch tasks=2 cpu=1000 together
        batch: claim done[0]@m1 done[1]@m1
        report done[0] complete
        batch: stop done[1]
        report done[1] stopped
        batch: claim done[1]@m2
        stopjob done
        job runs by batch tasks=2 cpu=1000 together
        batch: claim runs[0]@m1 runs[1]@m1
        batch: stop runs[0]
        report runs[0] stopped
        batch: claim runs[0]@m2
        batch: stop runs[1]
        batch: claim runs[0]@m2
        report runs[1] stopped
        batch: claim runs[0]@m2
        job failed by batch tasks=1 cpu=1000 together retry=1
        batch: claim failed[0]@m1
        report failed[0] failed 1
        batch: claim failed[0]@m2
        ",
        "
        batch: committed; done[0] granted; done[1] granted
        batch: committed
        batch: refused; done[1] misfit OtherMachine
        batch: committed; runs[0] granted; runs[1] granted
        batch: committed
        batch: refused; runs[0] misfit OtherMachine
        batch: committed
        batch: refused; runs[0] misfit OtherMachine
        batch: committed; runs[0] granted
        batch: committed; failed[0] granted
        batch: refused; failed[0] misfit OtherMachine
        ",
    );
}

// The receipt of what was lost elsewhere before gave up the machine that the job had since: what failed there found nothing of its own
// when it was tried again.
#[test]
fn a_receipt_from_a_machine_that_a_job_lost_leaves_it_the_one_that_it_has() {
    check(
        "
        machine m1 cpu=1000
        machine m2 cpu=1000
        machine m3 cpu=1000
        job wc by batch tasks=1 cpu=1000 together retry=1
        batch: claim wc[0]@m1
        expire m1
        wait 61
        batch: claim wc[0]@m2
        report wc[0] failed 1
        machine m1 cpu=1000
        receipt m1 alloc-0-1
        batch: claim wc[0]@m3
        batch: claim wc[0]@m2
        ",
        "
        batch: committed; wc[0] granted
        batch: committed; wc[0] granted
        batch: refused; wc[0] misfit OtherMachine
        batch: committed; wc[0] granted
        ",
    );
}

// Whatever of it still left counted, wherever: the machine stayed the job's until the receipt of what was lost elsewhere, which may never come.
#[test]
fn a_job_that_left_its_machine_goes_on_though_something_of_it_still_leaves_one_that_it_lost() {
    check(
        "
        machine m1 cpu=1000
        machine m2 cpu=1000
        machine m3 cpu=1000
        job wc by batch tasks=2 cpu=500 together
        batch: claim wc[0]@m1 wc[1]@m1
        expire m1
        wait 61
        batch: claim wc[0]@m2 wc[1]@m2
        batch: stop wc[0]
        batch: stop wc[1]
        receipt m2 alloc-2-1
        batch: claim wc[0]@m3
        receipt m2 alloc-3-1
        batch: claim wc[0]@m3
        machine m1 cpu=1000
        receipt m1 alloc-0-1
        receipt m1 alloc-1-1
        batch: claim wc[1]@m3
        ",
        "
        batch: committed; wc[0] granted; wc[1] granted
        batch: committed; wc[0] granted; wc[1] granted
        batch: committed
        batch: committed
        batch: refused; wc[0] misfit OtherMachine
        batch: committed; wc[0] granted
        batch: committed; wc[1] granted
        ",
    );
}

// The job's last event of any task counted, and a scheduler that erred was sent around once more.
#[test]
fn a_claim_on_a_task_that_was_done_is_a_misfit_whatever_others_of_the_job_do_meanwhile() {
    check(
        "
        machine m1 cpu=4000
        job map by batch tasks=3 cpu=1000
        batch: claim map[0]@m1 map[1]@m1
        report map[0] running
        report map[1] running
        report map[0] complete
        snapshot
        report map[1] complete
        batch: claim map[0]@m1 map[1]@m1 map[2]@m1
        ",
        "
        batch: committed; map[0] granted; map[1] granted
        batch: partial; map[0] misfit NotWanted (the task does not wait (Done)); map[1] conflict NotWanted (the task does not wait (Done)) culprits task 0 total 0; map[2] granted
        ",
    );
}

// As with tasks: that another group was scaled counted.
#[test]
fn a_claim_on_a_task_that_there_never_was_is_a_misfit_whatever_becomes_of_other_groups() {
    check(
        "
        machine m1 cpu=4000
        job wc by batch tasks=2 cpu=1000
        group wc reduce tasks=2 cpu=1000
        snapshot
        scale wc 1
        batch: claim wc.reduce[2]@m1
        batch: claim wc[1]@m1
        ",
        "
        batch: refused; wc.reduce[2] misfit NotWanted (no such task)
        batch: refused; wc[1] conflict NotWanted (no such task) culprits group 0 total 0
        ",
    );
}

// Its done task was scaled away, nothing of it was anywhere, and it waited without end for room on the machine where that had been.
#[test]
fn a_job_that_is_scaled_away_from_its_machine_may_go_elsewhere() {
    let plays = |scales: &str, granted: &str| {
        check(
            &format!(
                "
                machine m1 cpu=1000
                machine m2 cpu=1000
                job wc by batch tasks=2 cpu=1000 prio=10 retry=3 together
                job web by service tasks=1 cpu=1000 prio=90 forever
                batch: claim wc[1]@m1
                report wc[1] complete
                batch: claim wc[0]@m1
                service: claim web[0]@m1 victim=wc[0]
                report wc[0] evicted
                {scales}
                batch: claim wc[0]@m2
                "
            ),
            &format!(
                "
                batch: committed; wc[1] granted
                batch: committed; wc[0] granted
                service: committed; web[0] granted over wc[0] 1000
                batch: {granted}
                "
            ),
        );
    };
    plays("scale wc 1", "committed; wc[0] granted");
    plays("scale wc 3", "refused; wc[0] misfit OtherMachine");
}

// What was lost elsewhere counted as if it left the machine that the job has now. When that had ended, nobody looked again.
#[test]
fn a_job_that_is_scaled_away_goes_elsewhere_though_something_of_it_still_leaves_a_machine_that_it_lost() {
    check(
        "
        machine m1 cpu=1000
        machine m2 cpu=1000
        machine m3 cpu=1000
        job wc by batch tasks=2 cpu=500 together
        batch: claim wc[0]@m1
        expire m1
        wait 61
        batch: claim wc[1]@m2
        report wc[1] complete
        batch: claim wc[0]@m3
        scale wc 1
        batch: claim wc[0]@m3
        machine m1 cpu=1000
        receipt m1 alloc-0-1
        batch: claim wc[0]@m2
        ",
        "
        batch: committed; wc[0] granted
        batch: committed; wc[1] granted
        batch: refused; wc[0] misfit OtherMachine
        batch: committed; wc[0] granted
        batch: refused; wc[0] misfit TaskTaken
        ",
    );
}

#[test]
fn a_job_that_is_scaled_keeps_the_machine_that_something_of_it_still_leaves() {
    check(
        "
        machine m1 cpu=1000
        machine m2 cpu=1000
        job wc by batch tasks=2 cpu=500 together
        batch: claim wc[0]@m1 wc[1]@m1
        report wc[1] complete
        batch: stop wc[0]
        scale wc 1
        batch: claim wc[0]@m2
        report wc[0] stopped
        batch: claim wc[0]@m2
        ",
        "
        batch: committed; wc[0] granted; wc[1] granted
        batch: committed
        batch: refused; wc[0] misfit OtherMachine
        batch: committed; wc[0] granted
        ",
    );
}

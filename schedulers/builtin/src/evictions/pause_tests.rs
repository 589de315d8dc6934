//! Stories of tasks that fail after others were evicted for them.

use plenum_model::{Command, JobId, Quota};
use plenum_testkit::{JobBuilder, Seat, Stage};

use super::tests::{Rival, job, leave, leaving, stage, stands, submit};
use crate::service::Service;

fn web(count: u32) -> JobBuilder {
    JobBuilder::new("web", "service").group("main", count, 2000).priority(90).forever()
}

/// A cell that a job of low priority fills, with so many machines.
fn full(machines: u32) -> (Stage, JobId) {
    let (stage, low, _) = full_with_seat(machines);
    (stage, low)
}

fn full_with_seat(machines: u32) -> (Stage, JobId, Seat) {
    let mut stage = stage(machines);
    let seat = stage.seat(Service::default());
    let low = submit(&mut stage, &job("low", machines, 2000, 10));
    (stage, low, seat)
}

/// For so many seconds what runs of the job fails in each, and who is evicted for it has left a second later; gives how many were.
fn fail(stage: &mut Stage, job: JobId, seconds: u32) -> usize {
    let (mut passed, mut evicted) = (0, 0);
    while passed < seconds {
        stage.finish(job, false);
        stage.advance(1_000_000);
        passed += 1;
        let leaving = leaving(stage).count();
        if leaving > 0 {
            evicted += leaving;
            leave(stage);
            passed += 1;
        }
    }
    evicted
}

// It took the place of the same task every two seconds, which began anew in between and never came to anything.
#[test]
fn what_fails_again_and_again_evicts_ever_more_seldom() {
    let (mut stage, low) = full(1);
    let web = submit(&mut stage, &web(1));
    assert_eq!(stands(&stage, low), (0, 1));
    leave(&mut stage);
    assert_eq!(fail(&mut stage, web, 7), 0);
    assert_eq!((stands(&stage, web), stands(&stage, low)), ((0, 0), (1, 0)), "who was evicted is back meanwhile");
    let told = stage.passed_over(web, 0).to_owned();
    assert!(told.starts_with("it evicted others for tasks that failed, and evicts nobody before "), "{told}");
    assert!(told.ends_with("short of cpu by 2000m"), "{told}");
    assert_eq!(fail(&mut stage, web, 5), 1, "after ten seconds");
    assert_eq!(fail(&mut stage, web, 15), 0);
    assert_eq!(fail(&mut stage, web, 10), 1, "after twenty more");
    assert_eq!(fail(&mut stage, web, 290), 3, "after 40, 80 and 160");
    assert_eq!(fail(&mut stage, web, 1500), 5, "and then every five minutes");
}

// Who waited for the pause was silent: a second later the other one was offered the job, knew of no pause, and evicted. Later it said that this was not up to it, over
// what the owner had said of the pause.
#[test]
fn no_other_session_evicts_for_what_fails_while_its_own_waits() {
    let (mut stage, low, _) = full_with_seat(1);
    stage.seat(Service::default());
    let web = submit(&mut stage, &web(1));
    assert_eq!(stands(&stage, low), (0, 1));
    leave(&mut stage);
    assert_eq!(fail(&mut stage, web, 7), 0);
    assert_eq!((stands(&stage, web), stands(&stage, low)), ((0, 0), (1, 0)));
    let told = stage.passed_over(web, 0);
    assert!(told.starts_with("it evicted others for tasks that failed, and evicts nobody before "), "{told}");
    assert_eq!(fail(&mut stage, web, 5), 1, "after ten seconds");
    assert_eq!(fail(&mut stage, web, 15), 0);
    assert_eq!(fail(&mut stage, web, 10), 1, "after twenty more");
    assert_eq!(fail(&mut stage, web, 290), 3, "after 40, 80 and 160");
    assert_eq!(fail(&mut stage, web, 1500), 5, "and then every five minutes");
}

// It was left to the one that was gone until the cell ended its session, ten minutes later: nothing else of that one's was granted, and so nobody knew it to be silent.
#[test]
fn what_failed_and_was_left_by_a_session_that_is_gone_evicts_once_no_pause_of_it_can_last() {
    let (mut stage, low, one) = full_with_seat(1);
    let other = stage.seat(Service::default());
    let web = submit(&mut stage, &web(1));
    let owner = if stage.runtime(one).counters().claims_granted > 0 { one } else { other };
    assert_eq!(stage.runtime(owner).counters().claims_granted, 1);
    leave(&mut stage);
    stage.cut_off(owner);
    stage.finish(web, false);
    stage.advance(11_000_000);
    assert_eq!((stands(&stage, web), stands(&stage, low)), ((0, 0), (1, 0)), "13 seconds after the eviction");
    stage.advance(4_000_000);
    assert_eq!((stands(&stage, web), stands(&stage, low)), ((1, 0), (0, 1)), "{}", stage.passed_over(web, 0));
    leave(&mut stage);
    assert_eq!(fail(&mut stage, web, 6), 0, "who evicted for it waits for a pause of its own");
    assert_eq!(fail(&mut stage, web, 5), 1);
}

// Each start left another session to which the job could fall, and each such session kept it for ten minutes.
#[test]
fn however_often_its_scheduler_was_killed_what_failed_once_evicts_soon_after_the_last_start() {
    let (mut stage, low, mut seat) = full_with_seat(6);
    let web = |number: u32| {
        JobBuilder::new(&format!("web-{number}"), "service").group("main", 1, 2000).priority(90).forever()
    };
    let webs: Vec<JobId> = (0..6).map(|number| submit(&mut stage, &web(number))).collect();
    leave(&mut stage);
    for _ in 0..4 {
        stage.cut_off(seat);
        seat = stage.seat(Service::default());
    }
    webs.iter().for_each(|&web| stage.finish(web, false));
    stage.advance(18_000_000);
    let placed = webs.iter().filter(|&&web| stands(&stage, web) == (1, 0)).count();
    assert_eq!((placed, stands(&stage, low)), (6, (0, 6)));
}

#[test]
fn the_more_often_tasks_of_a_group_failed_the_longer_it_is_left_to_a_session_that_may_be_gone() {
    let (mut stage, low, one) = full_with_seat(2);
    let other = stage.seat(Service::default());
    let web = submit(&mut stage, &web(2));
    let owner = if stage.runtime(one).counters().claims_granted > 0 { one } else { other };
    leave(&mut stage);
    stage.cut_off(owner);
    stage.finish(web, false);
    stage.advance(21_000_000);
    assert_eq!((stands(&stage, web), stands(&stage, low)), ((0, 0), (2, 0)), "two failures: twenty seconds, and five");
    stage.advance(4_000_000);
    assert_eq!((stands(&stage, web), stands(&stage, low)), ((2, 0), (0, 2)), "{}", stage.passed_over(web, 0));
}

// Each decision looked for a machine on which others could be evicted for it, and then evicted nobody there: in a large cell that is a walk over all that runs.
#[test]
fn what_shares_a_machine_and_fails_looks_for_no_other_one_before_its_pause_is_over() {
    let (mut stage, low) = full(2);
    let web = submit(&mut stage, &web(1).same_machine());
    assert_eq!((stands(&stage, web), stands(&stage, low)), ((1, 0), (1, 1)));
    leave(&mut stage);
    let home = stage.placed(web)[0].2;
    stage.finish(web, false);
    stage.remove(home);
    stage.advance(2_000_000);
    let told = stage.passed_over(web, 0);
    let pauses = "its tasks share a machine: it evicted others for tasks that failed, and evicts nobody before ";
    assert!(told.starts_with(pauses), "{told}");
    stage.advance(8_000_000);
    assert_eq!((stands(&stage, web), stands(&stage, low)), ((1, 0), (0, 1)), "ten seconds after the first one");
}

// It waited for ten seconds after an eviction that the cell, put back to before that, knows nothing of.
#[test]
fn in_a_cell_that_was_restored_nobody_waits_for_a_pause_of_before() {
    let (mut stage, low) = full(1);
    let web = stage.submit(&web(1));
    let backup = stage.cell().clone();
    stage.advance(1_000_000);
    assert_eq!((stands(&stage, web), stands(&stage, low)), ((1, 0), (0, 1)));
    stage.restore(backup);
    stage.machine("m1", 2000, &[]);
    stage.advance(2_000_000);
    assert_eq!((stands(&stage, web), stands(&stage, low)), ((1, 0), (1, 0)));
    let elsewhere = stage.placed(web)[0].2;
    stage.finish(web, false);
    stage.remove(elsewhere);
    stage.advance(2_000_000);
    assert_eq!((stands(&stage, web), stands(&stage, low)), ((1, 0), (0, 1)), "{}", stage.passed_over(web, 0));
}

#[test]
fn what_failed_is_placed_at_once_where_there_is_room() {
    let (mut stage, low) = full(2);
    let web = submit(&mut stage, &web(1));
    leave(&mut stage);
    stage.machine("m2", 2000, &[]);
    stage.advance(1_000_000);
    assert_eq!((stands(&stage, web), stands(&stage, low)), ((1, 0), (2, 0)));
    stage.machine("m3", 2000, &[]);
    stage.finish(web, false);
    stage.advance(2_000_000);
    assert_eq!((stands(&stage, web), stands(&stage, low)), ((1, 0), (2, 0)));
}

#[test]
fn what_ran_for_a_while_before_it_failed_evicts_at_once() {
    let (mut stage, low) = full(1);
    let web = submit(&mut stage, &web(1));
    leave(&mut stage);
    for _ in 0..3 {
        stage.advance(20_000_000);
        stage.finish(web, false);
        stage.advance(2_000_000);
        assert_eq!((stands(&stage, web).0, stands(&stage, low).0), (1, 0));
        leave(&mut stage);
    }
}

#[test]
fn tasks_that_never_failed_do_not_wait() {
    let (mut stage, low) = full(4);
    let web = submit(&mut stage, &web(3));
    assert_eq!((stands(&stage, web), stands(&stage, low)), ((3, 0), (1, 3)));
    leave(&mut stage);
    let lost = stage.placed(web)[0].2;
    stage.remove(lost);
    stage.advance(1_000_000);
    assert_eq!((stands(&stage, web), stands(&stage, low)), ((3, 0), (0, 1)));
}

// The pause began with the plan: who lost a race for it had evicted nobody, and waited for ten seconds, or twice as long as the last time.
#[test]
fn who_lost_the_race_for_its_victim_evicts_another_at_once() {
    let (mut stage, low, seat) = full_with_seat(3);
    let web = submit(&mut stage, &web(1));
    leave(&mut stage);
    stage.seat(Rival);
    stage.advance(11_000_000);
    stage.finish(web, false);
    stage.advance(500_000);
    assert_eq!(stands(&stage, low), (3, 0), "in the place of the one that failed is another");
    stage.hold(seat);
    stage.advance(2_000_000);
    submit(&mut stage, &JobBuilder::new("rival", "rival").group("main", 1, 2000).priority(95));
    stage.transcript();
    stage.release(seat);
    stage.advance(1_000_000);
    let told = stage.transcript();
    assert!(told.contains("service: 0 of 1 granted\n  task 0 on m0: conflict NoRoom, culprit rival\n"), "{told}");
    assert_eq!((stands(&stage, web), leaving(&stage).count()), ((1, 0), 2), "{told}");
}

// Each one made the pause twice as long, though nothing had failed: what failed first then waited for as long.
#[test]
fn evictions_for_what_never_failed_make_no_pause_longer() {
    let (mut stage, low) = full(5);
    let web = submit(&mut stage, &web(1));
    for (count, seconds) in [(2, 15), (3, 25)] {
        leave(&mut stage);
        stage.advance(seconds * 1_000_000);
        stage.ask("owner", Command::ScaleJob { job: web, version: None, group: 0, count });
        stage.advance(1_000_000);
        assert_eq!(stands(&stage, web), (count as usize, 0));
    }
    leave(&mut stage);
    stage.finish(web, false);
    stage.advance(2_000_000);
    assert_eq!((stands(&stage, web), stands(&stage, low)), ((0, 0), (5, 0)));
    stage.advance(8_000_000);
    assert_eq!((stands(&stage, web), stands(&stage, low)), ((3, 0), (2, 3)), "ten seconds after the last one");
}

// Both were asked about at once, and their quota went to the first, for which there was no room and nobody to evict.
#[test]
fn what_evicts_nobody_for_now_leaves_its_quota_to_an_equal_one() {
    let mut stage = stage(1);
    let mut limits = Quota::default().limits;
    limits[0] = Some(2000);
    stage.ask("operator", Command::SetQuota { namespace: "prod".into(), limit: Some(Quota { limits }) });
    let low = submit(&mut stage, &job("low", 1, 2000, 10).forgiving());
    let high = |name: &str| job(name, 1, 2000, 90).namespace("prod").forgiving();
    let first = submit(&mut stage, &high("first"));
    leave(&mut stage);
    stage.finish(first, false);
    stage.advance(2_000_000);
    assert_eq!((stands(&stage, first), stands(&stage, low)), ((0, 0), (1, 0)));
    let second = submit(&mut stage, &high("second"));
    assert_eq!((stands(&stage, second), stands(&stage, low)), ((1, 0), (0, 1)), "{}", stage.passed_over(second, 0));
}

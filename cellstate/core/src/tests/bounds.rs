//! Stories of what there may be so many of, and no more.

use plenum_model::{
    AllocationState, Command, Decision, GroupShape, JobId, JobKind, JobShape, Request, Resources, SessionId, Transition,
};

use super::costs::{Large, complete, placement};
use super::sizes::submit;
use super::story::check;
use crate::derived::job_bytes::JobBytes;
use crate::{Core, CoreOptions};

// One scheduler whose jobs held all places kept everybody else's gangs out for as long as it liked, also those that come first.
#[test]
fn one_scheduler_leaves_others_places_for_holds() {
    check(
        "
        most holds 4
        machine m1 cpu=9000
        job a1 by ml tasks=1 cpu=1000 prio=10
        job a2 by ml tasks=1 cpu=1000 prio=10
        job a3 by ml tasks=1 cpu=1000 prio=90
        job b1 by web tasks=1 cpu=1000
        job b2 by web tasks=1 cpu=1000
        job c1 by gang tasks=1 cpu=1000
        job d1 by batch tasks=1 cpu=1000
        hold a1 m1 cpu=100
        hold a2 m1 cpu=100
        hold a3 m1 cpu=100
        hold a2 m1 cpu=200 for=120
        hold b1 m1 cpu=100
        hold b2 m1 cpu=100
        hold c1 m1 cpu=100
        hold d1 m1 cpu=100
        unhold a1
        hold d1 m1 cpu=100
        hold? a1
        hold? a2
        hold? a3
        hold? b1
        hold? b2
        hold? c1
        hold? d1
        ",
        "
        LIMIT_REACHED: at most 4 jobs can hold room at once, and those of one scheduler half of what others leave: 2 of ml do, and 0 of others; give some back, or try again when some are done
        LIMIT_REACHED: at most 4 jobs can hold room at once, and those of one scheduler half of what others leave: 1 of web do, and 2 of others; give some back, or try again when some are done
        LIMIT_REACHED: at most 4 jobs can hold room at once, and those of one scheduler half of what others leave: 0 of batch do, and 4 of others; give some back, or try again when some are done
        a1 no hold
        a2 holds [m1] for 120
        a3 no hold
        b1 holds [m1] for 60
        b2 no hold
        c1 holds [m1] for 60
        d1 holds [m1] for 60
        ",
    );
}

#[test]
fn of_partitions_there_are_so_many_and_those_can_be_changed() {
    check(
        "
        most partitions 1
        partition lab rack=a for=research
        partition den rack=b for=research
        partition lab rack=b for=research
        partition lab
        partition den rack=b for=research
        partition den
        ",
        "
        LIMIT_REACHED: at most 1 partitions; remove some
        ",
    );
}

#[test]
fn of_machines_there_are_so_many_and_those_can_come_back() {
    check(
        "
        most machines 2
        machine m1 cpu=4000
        machine m2 cpu=4000
        machine m3 cpu=4000
        machine m1 cpu=5000
        remove m2
        machine m3 cpu=4000
        machine? m1
        machine? m3
        ",
        "
        LIMIT_REACHED: at most 2 machines in the cell; remove some
        m1 Ready
        m3 Ready
        ",
    );
}

/// A job of one task for each of these amounts of memory.
fn of_memory(amounts: &[u64]) -> Command {
    let group = |&memory_bytes: &u64| GroupShape {
        name: format!("g{memory_bytes}").into(),
        count: 1,
        resources: Resources::new(1, memory_bytes),
        ..GroupShape::default()
    };
    let shape = JobShape {
        namespace: "default".into(),
        name: "of-memory".into(),
        scheduler: "batch".into(),
        groups: amounts.iter().map(group).collect(),
        ..JobShape::default()
    };
    Command::submit(shape)
}

/// A job of one task, with a body of so many bytes.
fn of_body(name: &str, bytes: usize) -> Command {
    let Command::SubmitJob { shape, .. } = submit(name, JobShape::default(), &[1]) else { panic!("it submits a job") };
    Command::SubmitJob { shape, body: vec![0_u8; bytes].into(), body_digest: [0; 32], expected_version: None }
}

/// What a job counts as that is submitted so.
fn bytes_of(command: &Command) -> u64 {
    let Command::SubmitJob { shape, body, .. } = command else { panic!("it submits a job") };
    (shape.kept_bytes() + body.len()) as u64
}

// A million jobs of 320 KiB were within all bounds: they took more memory than there was, and the cell did not start any more.
#[test]
fn jobs_are_taken_as_long_as_there_is_room_for_their_bytes() {
    let each = bytes_of(&of_body("a", 1000));
    let mut large = Large::new(CoreOptions { job_bytes_max: 2 * each, ..CoreOptions::default() });
    let [first, _] = ["a", "b"].map(|name| large.submit(of_body(name, 1000)));
    let more = of_body("c", 1);
    let (most, own) = (2 * each, bytes_of(&more));
    let expected = format!(
        "at most {most} bytes of jobs in the cell: those that are there have {most}, and this one has {own}; make it smaller, or end some that are not needed"
    );
    assert_eq!(large.refused(more.clone()).message, expected);
    large.core = Core::from_cell(large.core.cell().clone(), large.core.options().clone());
    assert_eq!(large.refused(more).message, expected, "a server that starts counts the same");
    // What has room takes none when it is scaled, nor when it begins again.
    let scaled = large.ask(Command::ScaleJob { job: first, version: None, group: 0, count: 9 });
    assert!(matches!(scaled, Decision::Accepted { .. }), "{scaled:?}");
    large.ask(Command::StopJob { job: first, version: None });
    assert_eq!(large.submit(of_body("a", 1000)), first);
    large.ask(Command::StopJob { job: first, version: None });
    large.refused(of_body("a", 1001));
    assert_eq!(large.core.derived.job_bytes, JobBytes { all: 2 * each, over: each });
}

#[test]
fn a_job_that_is_launched_needs_room_for_its_bytes_like_any() {
    let recurring = submit("nightly", JobShape { kind: JobKind::Recurring, ..JobShape::default() }, &[1]);
    let each = bytes_of(&recurring);
    // `nightly-1` has two letters more.
    for (job_bytes_max, is_taken) in [(2 * each + 1, false), (2 * each + 2, true)] {
        let mut large = Large::new(CoreOptions { job_bytes_max, ..CoreOptions::default() });
        let parent = large.submit(recurring.clone());
        let launch = Command::Launch { parent, instant_micros: 1_000_000 };
        if is_taken {
            large.submit(launch);
        } else {
            let refused = large.refused(launch);
            assert!(refused.message.starts_with(&format!("at most {job_bytes_max} bytes of jobs")), "{refused}");
        }
    }
}

/// Lets time pass, which comes to the same in a server that starts now.
fn tick_also_after_a_start(large: &mut Large) {
    let mut started = Core::from_cell(large.core.cell().clone(), large.core.options().clone());
    let tick = Request { principal: "local".into(), namespace: "default".into(), command: Command::Tick };
    started.decide(&tick, large.now);
    large.ask(Command::Tick);
    assert_eq!(started.cell().first_difference(large.core.cell()), None);
}

#[test]
fn while_jobs_that_are_over_have_more_than_half_of_the_bytes_the_first_one_leaves_that_nothing_is_left_of() {
    let each = bytes_of(&of_body("a", 1000));
    let mut large = Large::new(CoreOptions { job_bytes_max: 4 * each, ..CoreOptions::default() });
    let machine = large.machine("m1".to_owned());
    let jobs = ["a", "b", "c", "d"].map(|name| large.submit(of_body(name, 1000)));
    let granted = large.commit(vec![placement(jobs[0], 0..1, |_| machine.slot, 0)]).placements.concat();
    let left = |large: &Large| jobs.map(|job| large.core.cell().job(job).is_some());
    for (stopped, expected) in [
        (0, [true; 4]),
        (1, [true; 4]),
        // Of the first one something still stops.
        (2, [true, false, true, true]),
        (3, [true, false, false, true]),
    ] {
        large.now = large.now.plus_micros(1_000_000);
        large.ask(Command::StopJob { job: jobs[stopped], version: None });
        let is_due = large.core.next_due().is_some_and(|due| due <= large.now);
        tick_also_after_a_start(&mut large);
        assert_eq!((is_due, left(&large)), (stopped > 1, expected), "{stopped} and those before are stopped");
    }
    assert_eq!(large.core.derived.job_bytes, JobBytes { all: 2 * each, over: 2 * each });
    let ended = complete(machine, granted[0].expect("it is granted"));
    large.ask(Command::ReportStatus(vec![Transition { state: AllocationState::Stopped, ..ended }]));
    tick_also_after_a_start(&mut large);
    assert_eq!(left(&large), [true, false, false, true], "half may stay for its time");
    for name in ["e", "f"] {
        large.submit(of_body(name, 1000));
    }
    large.refused(of_body("g", 0));
}

#[test]
fn who_is_larger_than_all_jobs_may_be_is_not_told_to_wait() {
    let mut large = Large::new(CoreOptions { job_bytes_max: 1200, ..CoreOptions::default() });
    let over = large.job(GroupShape { count: 1, ..GroupShape::default() });
    large.ask(Command::StopJob { job: over, version: None });
    for (asked, may_pass) in [(of_body("more", 300), true), (of_body("more", 700), false)] {
        let refused = large.refused(asked);
        let told = (refused.passes_in_micros.is_some(), refused.message.contains("try again"));
        assert_eq!(told, (may_pass, may_pass), "{refused}");
    }
}

// Where no job was over, some were told to wait until one is retired; and nobody was told when that is.
#[test]
fn who_comes_above_a_bound_of_what_jobs_have_is_told_when_the_next_one_that_is_over_is_retired() {
    let options = || CoreOptions { retire_after_micros: 60_000_000, ..CoreOptions::default() };
    let more = |tasks| submit("more", JobShape::default(), &[tasks]);
    for (options, asked, bound) in [
        (CoreOptions { jobs_max: 1, ..options() }, more(1), "at most 1 jobs"),
        (CoreOptions { tasks_max: 4, ..options() }, more(2), "at most 4 tasks"),
        // Three tasks have four rows.
        (CoreOptions { tasks_max: 6, ..options() }, more(3), "at most 6 rows of tasks"),
        // The job that is there has 533.
        (CoreOptions { job_bytes_max: 1200, ..options() }, of_body("more", 300), "at most 1200 bytes of jobs"),
        (CoreOptions { shapes_max: 1, ..options() }, of_memory(&[2]), "at most 1 different resources"),
        (
            CoreOptions { schedulers_max: 1, ..options() },
            Command::OpenSession { scheduler: "another".into() },
            "at most 1 names of schedulers",
        ),
    ] {
        let mut large = Large::new(options);
        let job = large.job(GroupShape { count: 3, ..GroupShape::default() });
        let session = large.core.cell().sessions().next().expect("it is open").id;
        large.ask(Command::CloseSession(session));
        let refused = large.refused(asked.clone());
        assert!(refused.message.starts_with(bound) && !refused.message.contains("try again"), "{refused}");
        assert_eq!(refused.passes_in_micros, None, "{bound}: no job is over");
        large.ask(Command::StopJob { job, version: None });
        for (seconds, left_micros) in [(0, 60_000_000), (10, 50_000_000), (50, 0)] {
            large.now = large.now.plus_micros(seconds * 1_000_000);
            let refused = large.refused(asked.clone());
            assert!(refused.message.ends_with("or try again when jobs that are over are retired"), "{refused}");
            assert_eq!(refused.passes_in_micros, Some(left_micros), "{bound}");
        }
        large.ask(Command::Tick);
        let answer = large.ask(asked);
        assert!(matches!(answer, Decision::Accepted { .. }), "{bound}: {answer:?}");
    }
}

#[test]
fn nobody_is_told_to_wait_for_a_job_that_is_over_its_time_and_still_stops_something() {
    let mut large = Large::new(CoreOptions { jobs_max: 1, retire_after_micros: 60_000_000, ..CoreOptions::default() });
    let machine = large.machine("m1".to_owned());
    let job = large.job(GroupShape { count: 1, ..GroupShape::default() });
    let granted = large.commit(vec![placement(job, 0..1, |_| machine.slot, 0)]).placements.concat();
    large.ask(Command::StopJob { job, version: None });
    let more = submit("more", JobShape::default(), &[1]);
    assert_eq!(large.refused(more.clone()).passes_in_micros, Some(60_000_000));
    large.now = large.now.plus_micros(60_000_000);
    large.ask(Command::Tick);
    let refused = large.refused(more.clone());
    assert!(refused.passes_in_micros.is_none() && !refused.message.contains("try again"), "{refused}");
    // With the end of what it stopped it is to be retired at once.
    let stopped = complete(machine, granted[0].expect("it is granted"));
    large.ask(Command::ReportStatus(vec![Transition { state: AllocationState::Stopped, ..stopped }]));
    assert_eq!(large.refused(more.clone()).passes_in_micros, Some(0));
    large.ask(Command::Tick);
    large.submit(more);
}

#[test]
fn where_there_are_too_many_jobs_that_are_over_the_first_one_is_retired_at_once() {
    let mut large = Large::new(CoreOptions { jobs_max: 1, finished_jobs_max: 0, ..CoreOptions::default() });
    let job = large.job(GroupShape { count: 1, ..GroupShape::default() });
    large.ask(Command::StopJob { job, version: None });
    assert_eq!(large.refused(submit("more", JobShape::default(), &[1])).passes_in_micros, Some(0));
}

#[test]
fn who_is_above_a_bound_by_itself_is_not_told_to_wait() {
    let mut large = Large::new(CoreOptions { tasks_max: 4, shapes_max: 1, ..CoreOptions::default() });
    let [over, lives] = [(); 2].map(|()| large.job(GroupShape { count: 1, ..GroupShape::default() }));
    large.ask(Command::StopJob { job: over, version: None });
    let more = |tasks| submit("more", JobShape::default(), &[tasks]);
    let scale = |count| Command::ScaleJob { job: lives, version: None, group: 0, count };
    for (asked, may_pass) in [
        (more(4), true),
        (more(5), false),
        (scale(4), true),
        (scale(5), false),
        (of_memory(&[2]), true),
        (of_memory(&[1, 2]), false),
    ] {
        let refused = large.refused(asked);
        let told = (refused.passes_in_micros.is_some(), refused.message.contains("try again"));
        assert_eq!(told, (may_pass, may_pass), "{refused}");
    }
}

// Where there were more tasks than there may be, as with a bound that was lowered, nothing could become less: what the message advised was refused, and
// so was the very same job again.
#[test]
fn a_job_may_have_fewer_tasks_also_where_there_are_more_than_there_may_be() {
    let mut large = Large::new(CoreOptions::default());
    let of = |groups: &[u32]| submit("one", JobShape::default(), groups);
    let job = large.submit(of(&[8, 5]));
    large.core.options.tasks_max = 4;
    assert_eq!(large.submit(of(&[8, 5])), job, "nothing of it changes");
    let scale = |count| Command::ScaleJob { job, version: None, group: 0, count };
    let fewer = large.ask(scale(6));
    assert!(matches!(fewer, Decision::Accepted { .. }), "{fewer:?}");
    assert_eq!(large.submit(of(&[5, 6])), job, "one group has more than before, and all together have not");
    assert_eq!(large.core.derived.tasks, 11);
    let refused = large.refused(of(&[6, 6]));
    assert!(refused.message.starts_with("at most 4 tasks in the cell: 11 are there, and 1 more is asked"), "{refused}");
    large.refused(scale(6));
    large.refused(submit("another", JobShape::default(), &[1]));
    assert_eq!(large.submit(of(&[0, 4])), job);
}

// The table of tasks kept the length that it once had: who had waited as advised was refused then, until a restart.
#[test]
fn rows_of_a_job_that_is_retired_are_there_for_larger_ones() {
    let mut large = Large::new(CoreOptions { tasks_max: 8, retire_after_micros: 60_000_000, ..CoreOptions::default() });
    let [_, over] = [3, 1].map(|count| large.job(GroupShape { count, ..GroupShape::default() }));
    large.ask(Command::StopJob { job: over, version: None });
    let more = submit("more", JobShape::default(), &[4]);
    let refused = large.refused(more.clone());
    assert!(refused.message.starts_with("at most 8 rows of tasks"), "{refused}");
    assert_eq!(refused.passes_in_micros, Some(60_000_000));
    large.now = large.now.plus_micros(60_000_000);
    large.ask(Command::Tick);
    large.submit(more);
    assert_eq!(large.core.mark().task_rows, 8);
}

#[test]
fn whose_tasks_would_find_no_rows_with_nobody_else_there_is_not_told_to_wait() {
    let submits: fn(JobId) -> Command = |_| submit("more", JobShape::default(), &[1, 8]);
    let scales: fn(JobId) -> Command = |job| Command::ScaleJob { job, version: None, group: 0, count: 7 };
    // Eight tasks behind one begin at row 8; and who grows out of four rows has both places for a while.
    for (tasks_max, counts, asked) in [(13, [1, 3], submits), (8, [4, 1], scales)] {
        let mut large = Large::new(CoreOptions { tasks_max, ..CoreOptions::default() });
        let [lives, over] = counts.map(|count| large.job(GroupShape { count, ..GroupShape::default() }));
        large.ask(Command::StopJob { job: over, version: None });
        let refused = large.refused(asked(lives));
        assert!(refused.message.starts_with(&format!("at most {tasks_max} rows of tasks")), "{refused}");
        assert!(refused.passes_in_micros.is_none() && !refused.message.contains("try again"), "{refused}");
    }
}

#[test]
fn who_finds_no_place_for_a_hold_is_told_when_one_that_helps_ends() {
    let mut large = Large::new(CoreOptions { holds_max: 2, ..CoreOptions::default() });
    let machines = vec![large.machine("m1".to_owned()).slot];
    let [first, second] = [(); 2].map(|()| large.job(GroupShape { count: 1, ..GroupShape::default() }));
    let (resources, deadline) = (Resources::new(1, 1), large.now.plus_micros(60_000_000));
    large.hold(first, &machines, resources, deadline);
    large.now = large.now.plus_micros(20_000_000);
    let deadline = large.now.plus_micros(60_000_000);
    let take = Command::TakeHold { session: SessionId::default(), job: second, machines, resources, deadline };
    let refused = large.refused(take.clone());
    assert_eq!(refused.passes_in_micros, Some(40_000_000));
    assert!(refused.message.ends_with("give some back, or try again when some are done"), "{refused}");
    // Then the end of that one makes no place.
    large.core.options.holds_max = 0;
    let refused = large.refused(take.clone());
    assert_eq!(refused.passes_in_micros, None);
    assert!(refused.message.ends_with("give some back"), "{refused}");
    large.core.options.holds_max = 2;
    large.now = large.now.plus_micros(40_000_000);
    large.ask(Command::Tick);
    let answer = large.ask(take);
    assert!(matches!(answer, Decision::Accepted { .. }), "{answer:?}");
}

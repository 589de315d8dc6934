//! Stories of drains and of paused schedulers.

use plenum_model::{Command, Decision, GroupShape, JobKind, JobShape, RejectionCode, Request, Resources, SessionId};

use super::costs::Large;
use super::sizes::submit;
use super::story::check;
use crate::{CoreOptions, Decided};

#[test]
fn a_draining_machine_takes_no_claims_and_stops_the_rest_at_its_deadline() {
    check(
        "
        machine m1 cpu=4000
        machine m2 cpu=4000
        job web by service tasks=3 cpu=1000
        service: claim web[0]@m1 web[1]@m1
        report web[0] running
        drain m1 60
        machine? m1
        due?
        service: claim web[2]@m1
        service: stop web[0] claim web[0]@m2
        wait 59
        show web[1]
        wait 1
        show web[1]
        due?
        report web[1] stopped
        service: claim web[1]@m2
        ",
        "
        service: committed; web[0] granted; web[1] granted
        m1 Draining
        due 60
        service: refused; web[2] misfit MachineNotReady
        service: committed; web[0] granted
        web[1] Granted
        web[1] Stopping
        due never
        service: committed; web[1] granted
        ",
    );
}

#[test]
fn what_ends_by_itself_may_do_so_until_the_deadline_of_a_drain() {
    check(
        "
        machine m1 cpu=4000
        machine m2 cpu=4000
        job map by batch tasks=2 cpu=1000
        batch: claim map[0]@m1 map[1]@m1
        report map[0] running
        report map[1] running
        drain m1 60
        wait 59
        report map[0] complete
        show map[0]
        show map[1]
        wait 1
        show map[1]
        report map[1] stopped
        batch: claim map[0]@m2 map[1]@m2
        ",
        "
        batch: committed; map[0] granted; map[1] granted
        map[0] gone
        map[1] Running
        map[1] Stopping
        batch: partial; map[0] misfit NotWanted (the task does not wait (Done)); map[1] granted
        ",
    );
}

#[test]
fn a_drain_that_came_between_is_the_culprit() {
    check(
        "
        machine m1 cpu=4000
        job web by service tasks=1 cpu=1000
        snapshot
        drain m1 60
        service: claim web[0]@m1
        ",
        "service: refused; web[0] conflict MachineNotReady culprits draining 0 total 0",
    );
}

#[test]
fn a_drain_is_kept_while_the_machine_is_away_and_ends_when_it_is_told_to() {
    check(
        "
        machine m1 cpu=4000
        job web by service tasks=1 cpu=1000
        service: claim web[0]@m1
        drain m1 30
        expire m1
        machine? m1
        wait 31
        show web[0]
        machine m1 cpu=4000
        machine? m1
        wait 0
        show web[0]
        undrain m1
        machine? m1
        ",
        "
        service: committed; web[0] granted
        m1 Unreachable
        web[0] Granted
        m1 Draining
        web[0] Stopping
        m1 Ready
        ",
    );
}

#[test]
fn a_machine_that_was_cordoned_is_cordoned_again_after_its_drain() {
    check(
        "
        machine m1 cpu=4000
        cordon m1
        drain m1 60
        machine? m1
        undrain m1
        machine? m1
        drain m1 60
        uncordon m1
        machine? m1
        undrain m1
        machine? m1
        ",
        "
        m1 Draining
        m1 Cordoned
        m1 Draining
        m1 Ready
        ",
    );
}

/// The agent's word and the operator's are kept apart: neither takes the other's back.
#[test]
fn a_machine_whose_agent_is_unfit_takes_no_claims_until_it_is_fit_and_nobody_cordons_it() {
    check(
        "
        machine m1 cpu=4000
        job web by service tasks=2 cpu=1000
        service: claim web[0]@m1
        unfit m1 leaves
        machine? m1
        service: claim web[1]@m1
        show web[0]
        unfit m1 leaves
        unfit m1 unwritable
        cordon m1
        unfit m1 no
        machine? m1
        unfit m1 unwritable
        uncordon m1
        machine? m1
        drain m1 60
        unfit m1 no
        machine? m1
        undrain m1
        machine? m1
        service: claim web[1]@m1
        ",
        "
        service: committed; web[0] granted
        m1 Cordoned
        service: refused; web[1] misfit MachineNotReady
        web[0] Granted
        m1 Cordoned
        m1 Cordoned
        m1 Draining
        m1 Ready
        service: committed; web[1] granted
        ",
    );
}

/// What it said of its fitness is kept while it is away, and a report of before counts no more.
#[test]
fn an_agent_that_is_back_is_as_fit_as_it_says_then() {
    check(
        "
        machine m1 cpu=4000
        unfit m1 leaves
        expire m1
        machine? m1
        unfit m1 no
        machine m1 cpu=4000
        machine? m1
        unfit m1 no 1
        machine? m1
        unfit m1 no
        machine? m1
        ",
        "
        m1 Unreachable
        STALE_EPOCH: m1 is in epoch 1, unreachable; its agent reports of epoch 1
        m1 Cordoned
        STALE_EPOCH: m1 is in epoch 2, cordoned; its agent reports of epoch 1
        m1 Cordoned
        m1 Ready
        ",
    );
}

#[test]
fn the_deadline_of_a_drain_survives_a_restart_of_the_server() {
    check(
        "
        machine m1 cpu=4000
        job web by service tasks=1 cpu=1000
        service: claim web[0]@m1
        drain m1 60
        restart
        due?
        wait 60
        show web[0]
        restart
        wait 1
        show web[0]
        ",
        "
        service: committed; web[0] granted
        due 60
        web[0] Stopping
        web[0] Stopping
        ",
    );
}

#[test]
fn a_job_whose_tasks_share_a_drained_machine_starts_over_elsewhere() {
    check(
        "
        machine m1 cpu=4000
        machine m2 cpu=4000
        job pair by batch tasks=2 cpu=1000 together
        batch: claim pair[0]@m1
        report pair[0] complete
        drain m1 10
        batch: claim pair[1]@m2
        wait 10
        batch: claim pair[0]@m2 pair[1]@m2
        ",
        "
        batch: committed; pair[0] granted
        batch: refused; pair[1] misfit OtherMachine
        batch: committed; pair[0] granted; pair[1] granted
        ",
    );
}

// No drain stopped them: who drained a machine to take it away waited for them for ever.
#[test]
fn what_the_cell_does_not_know_is_stopped_at_the_deadline_of_a_drain_adopted_or_not() {
    check(
        "
        machine m1 cpu=4000
        restore
        machine m1 cpu=4000 runs=alloc-7-1,alloc-9-4
        adopt m1 alloc-9-4
        drain m1 60
        due?
        wait 59
        unknown? m1
        restart
        wait 1
        unknown? m1
        due?
        receipt m1 alloc-7-1
        receipt m1 alloc-9-4
        remove m1 unless-alive
        ",
        "
        due 60
        m1 alloc-7-1 until 841; alloc-9-4 adopted; free 2000
        m1 alloc-7-1 stopping; alloc-9-4 stopping; free 2000
        due never
        ",
    );
}

#[test]
fn the_deadline_of_a_drain_makes_no_unknown_task_run_longer() {
    check(
        "
        machine m1 cpu=4000
        restore
        machine m1 cpu=4000 runs=alloc-7-1,alloc-9-4
        drain m1 2000
        adopt m1 alloc-9-4
        due?
        wait 900
        unknown? m1
        undrain m1
        wait 1100
        unknown? m1
        ",
        "
        due 900
        m1 alloc-7-1 stopping; alloc-9-4 adopted; free 2000
        m1 alloc-7-1 stopping; alloc-9-4 adopted; free 2000
        ",
    );
}

/// After a restore the deadline may be over before the agent is back; and it may find something more once it is.
#[test]
fn unknown_tasks_that_are_found_after_the_deadline_of_a_drain_are_stopped_at_once() {
    check(
        "
        machine m1 cpu=4000
        drain m1 10
        restore
        wait 20
        due?
        machine m1 cpu=4000 runs=alloc-7-1
        due?
        wait 0
        unknown? m1
        due?
        machine m1 cpu=4000 runs=alloc-7-1,alloc-9-4
        wait 0
        unknown? m1
        due?
        ",
        "
        due never
        due -10
        m1 alloc-7-1 stopping; free 3000
        due never
        m1 alloc-7-1 stopping; alloc-9-4 stopping; free 2000
        due never
        ",
    );
}

#[test]
fn very_many_unknown_tasks_of_a_drained_machine_are_stopped_in_steps() {
    let runs: Vec<String> = (1..=300).map(|slot| format!("alloc-{slot}-1")).collect();
    check(
        &format!(
            "
        machine m1 cpu=4000
        restore
        machine m1 cpu=4000 each=1 runs={}
        drain m1 60
        wait 60
        due?
        adopt m1 alloc-1-1
        adopt m1 alloc-300-1
        wait 0
        due?
        adopt m1 alloc-300-1
        ",
            runs.join(",")
        ),
        "
        due 0
        NO_SUCH_TASK: alloc-1-1 on m1 was told to stop, and can't be adopted any more; `plenum machine show` lists those that run
        due never
        NO_SUCH_TASK: alloc-300-1 on m1 was told to stop, and can't be adopted any more; `plenum machine show` lists those that run
        ",
    );
}

#[test]
fn a_paused_scheduler_commits_nothing_and_what_it_placed_runs_on() {
    check(
        "
        machine m1 cpu=4000
        job web by service tasks=2 cpu=1000
        job map by batch tasks=1 cpu=1000
        service: claim web[0]@m1
        pause service
        service: claim web[1]@m1
        batch: claim map[0]@m1
        wait 3600
        show web[0]
        restart
        service: claim web[1]@m1
        resume service
        service: claim web[1]@m1
        ",
        "
        service: committed; web[0] granted
        service: SCHEDULER_PAUSED
        batch: committed; map[0] granted
        web[0] Granted
        service: SCHEDULER_PAUSED
        service: committed; web[1] granted
        ",
    );
}

// Whether it was paused was looked up where the request came in: one that waited its turn meanwhile took room after the pause was answered.
#[test]
fn what_a_scheduler_asks_for_before_it_is_paused_is_not_held_afterwards() {
    let mut large = Large::new(CoreOptions::default());
    let machine = large.machine("m1".to_owned()).slot;
    let job = large.job(GroupShape { count: 1, ..GroupShape::default() });
    let session = large.core.cell().sessions().next().expect("it is open").id;
    let deadline = large.now.plus_micros(60_000_000);
    let hold = |session, cpu_millis, machines| Command::TakeHold {
        session,
        job,
        machines,
        resources: Resources::new(cpu_millis, 1),
        deadline,
    };
    let refused = |decision| match decision {
        Decision::Rejected(rejection) => rejection.code,
        other => panic!("{other:?}"),
    };
    let operator = SessionId::default();
    large.ask(hold(session, 1, vec![machine]));
    assert!(large.core.cell().hold(job).is_some());
    large.ask(Command::PauseScheduler { scheduler: "batch".into(), paused: true });
    assert_eq!(refused(large.ask(hold(session, 2, vec![machine]))), RejectionCode::SchedulerPaused);
    assert_eq!(refused(large.ask(hold(session, 1, vec![machine]))), RejectionCode::SchedulerPaused);
    large.ask(hold(session, 1, Vec::new()));
    assert!(large.core.cell().hold(job).is_none(), "what it has it may give back");
    large.ask(hold(operator, 1, vec![machine]));
    assert!(large.core.cell().hold(job).is_some(), "an operator is paused by nobody");
    large.ask(hold(operator, 1, Vec::new()));

    large.ask(Command::PauseScheduler { scheduler: "batch".into(), paused: false });
    large.ask(Command::CloseSession(session));
    assert_eq!(refused(large.ask(hold(session, 1, vec![machine]))), RejectionCode::NoSuchSession);
    assert!(large.core.cell().hold(job).is_none());
}

// Whose a job is was looked up where the request came in: one that waited its turn while the job was given to another scheduler took and ended the
// hold of that one, and launched from its job.
#[test]
fn what_a_scheduler_asks_of_a_job_that_is_another_s_by_then_is_refused() {
    let mut large = Large::new(CoreOptions::default());
    let machine = large.machine("m1".to_owned()).slot;
    let job = large.job(GroupShape { count: 1, ..GroupShape::default() });
    let own = large.core.cell().sessions().next().expect("it is open").id;
    large.ask(Command::OpenSession { scheduler: "other".into() });
    let foreign = large.core.cell().sessions().map(|session| session.id).find(|id| *id != own).expect("it is open");
    let deadline = large.now.plus_micros(60_000_000);
    let hold = |session, machines| {
        let resources = Resources::new(1, 1);
        Command::TakeHold { session, job, machines, resources, deadline }
    };
    let code = |decision| match decision {
        Decision::Rejected(rejection) => Some(rejection.code),
        _ => None,
    };
    assert_eq!(code(large.ask(hold(foreign, vec![machine]))), Some(RejectionCode::NotPermitted));
    large.ask(hold(own, vec![machine]));
    assert_eq!(code(large.ask(hold(foreign, Vec::new()))), Some(RejectionCode::NotPermitted));
    assert!(large.core.cell().hold(job).is_some());
    // Nobody's session was nobody's to refuse.
    let closed = SessionId(large.core.cell().revision().0 + 1);
    assert_eq!(code(large.ask(hold(closed, Vec::new()))), Some(RejectionCode::NoSuchSession));
    assert!(large.core.cell().hold(job).is_some());

    let kind = JobKind::Recurring;
    let parent = large.submit(submit("nightly", JobShape { kind, ..JobShape::default() }, &[1]));
    let mut launch = |principal: &str| {
        let command = Command::Launch { parent, instant_micros: 5_000_000 };
        let request = Request { principal: principal.into(), namespace: "default".into(), command };
        match large.core.decide(&request, large.now) {
            Decided::Changed { decision, .. } => code(decision),
            Decided::Unchanged(decision) => code(decision),
            Decided::Repeated(_) => None,
        }
    };
    assert_eq!(launch("scheduler/other"), Some(RejectionCode::NotPermitted));
    assert_eq!(launch("scheduler/batch"), None);
}

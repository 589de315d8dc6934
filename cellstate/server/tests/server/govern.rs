//! What operators lay down: quotas, partitions, pauses, drains; holds of schedulers, launches, and tasks that nobody knows.

use plenum_proto::v1::{
    self, cell_client::CellClient, govern_client::GovernClient, inspect_client::InspectClient, jobs_client::JobsClient,
};
use tonic::Code;

use crate::client::{Session, as_principal, code, connect, job, placement, register, start, submit};

fn list() -> v1::ListRequest {
    v1::ListRequest::default()
}

#[tokio::test]
async fn quotas_and_partitions_are_set_listed_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    register(&channel, "m1", 4000).await;
    let mut govern = GovernClient::new(channel.clone());

    let crunch = submit(&channel, job("crunch", 2)).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    session.commit(session.transaction(1, vec![placement(crunch.job, vec![0], vec![0])])).await.unwrap();
    let limit = Some(v1::Quota { cpu_millis: Some(0), ..v1::Quota::default() });
    govern.set_quota(v1::SetQuota { namespace: "default".into(), limit }).await.unwrap();
    let quotas = govern.list_quotas(list()).await.unwrap().into_inner().quotas;
    assert_eq!((quotas.len(), quotas[0].namespace.as_str()), (1, "default"));
    assert!(quotas[0].used.as_ref().unwrap().cpu_millis > 0, "lowering evicts nothing");
    let outcome = session.commit(session.transaction(2, vec![placement(crunch.job, vec![0], vec![1])])).await.unwrap();
    assert_eq!(outcome.refusals[0].kind(), v1::RefusalKind::Quota);
    govern.set_quota(v1::SetQuota { namespace: "default".into(), limit: None }).await.unwrap();
    let refused = govern.set_quota(v1::SetQuota { namespace: "default".into(), limit: None }).await.unwrap_err();
    assert_eq!((refused.code(), code(&refused).as_str()), (Code::NotFound, "NO_SUCH_QUOTA"));

    let rule = v1::Constraint {
        attribute: "rack".into(),
        operator: v1::Operator::Equal.into(),
        values: vec!["nowhere".into()],
    };
    let set = v1::SetPartition { name: "lab".into(), machines: vec![rule], schedulers: vec!["ml".into()] };
    govern.set_partition(set).await.unwrap();
    let partitions = govern.list_partitions(list()).await.unwrap().into_inner().partitions;
    assert_eq!((partitions[0].name.as_str(), partitions[0].machines), ("lab", 0));
    govern.set_partition(v1::SetPartition { name: "lab".into(), ..Default::default() }).await.unwrap();
    assert!(govern.list_partitions(list()).await.unwrap().into_inner().partitions.is_empty());
    server.shutdown().await.unwrap();
}

// It set aside room for jobs that could not be placed, and went on renewing that.
#[tokio::test]
async fn a_paused_scheduler_takes_no_holds_and_gives_back_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    register(&channel, "m1", 4000).await;
    let gang = submit(&channel, job("gang", 1)).await;
    let mut cell = CellClient::new(channel.clone());
    let open = v1::OpenRequest { scheduler: "batch".into(), namespace: "default".into() };
    let session = cell.open(open).await.unwrap().into_inner().session;
    let take = |session, machines| v1::TakeHoldRequest {
        session,
        job: gang.job,
        machines,
        resources: Some(v1::Resources { cpu_millis: 1000, ..Default::default() }),
        within_micros: 60_000_000,
        incarnation: 0,
    };
    cell.take_hold(take(session, vec![0])).await.unwrap();
    let mut govern = GovernClient::new(channel.clone());
    let pause = v1::PauseScheduler { scheduler: "batch".into(), paused: true };
    govern.pause_scheduler(pause).await.unwrap();
    let refused = cell.take_hold(take(session, vec![0])).await.unwrap_err();
    assert_eq!((refused.code(), code(&refused).as_str()), (Code::Unavailable, "SCHEDULER_PAUSED"));
    cell.take_hold(take(session, Vec::new())).await.unwrap();
    assert!(govern.list_holds(list()).await.unwrap().into_inner().holds.is_empty());
    // An operator is paused by nobody.
    cell.take_hold(take(0, vec![0])).await.unwrap();
    let holds = govern.list_holds(list()).await.unwrap().into_inner().holds;
    assert_eq!(holds.len(), 1);
    let request = v1::GetMachineRequest { name: "m1".into(), at: None };
    let machine = InspectClient::new(channel).get_machine(request).await.unwrap().into_inner().machine.unwrap();
    assert_eq!(machine.holds, holds, "its room is taken, and nothing else of the machine says so");
    server.shutdown().await.unwrap();
}

// It was short of what every list showed as free, and nothing said whose that was.
#[tokio::test]
async fn a_claim_that_lacks_room_which_another_job_holds_is_told_whose_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    register(&channel, "m1", 4000).await;
    let (gang, other) = (submit(&channel, job("gang", 1)).await, submit(&channel, job("other", 5)).await);
    let take = v1::TakeHoldRequest {
        session: 0,
        job: gang.job,
        machines: vec![0],
        resources: Some(v1::Resources { cpu_millis: 3500, ..Default::default() }),
        within_micros: 60_000_000,
        incarnation: 0,
    };
    CellClient::new(channel.clone()).take_hold(take.clone()).await.unwrap();
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let mut inspect = InspectClient::new(channel.clone());
    let mut held = async |number: u64, tasks: Vec<u32>| {
        let claims = placement(other.job, vec![0; tasks.len()], tasks);
        let outcome = session.commit(session.transaction(number, vec![claims])).await.unwrap();
        assert_eq!(outcome.refusals.last().unwrap().reason(), v1::RefusalReason::NoRoom, "{outcome:?}");
        let request = v1::GetTransactionRequest { session: outcome.session, number };
        inspect.get_transaction(request).await.unwrap().into_inner().held
    };
    let one = held(1, vec![0]).await;
    assert_eq!((one.len(), one[0].claim, one[0].amount, one[0].jobs_total), (1, 0, 3500, 1));
    assert_eq!(one[0].jobs, ["default/gang"]);
    CellClient::new(channel).take_hold(v1::TakeHoldRequest { machines: Vec::new(), ..take }).await.unwrap();
    assert_eq!(held(2, vec![0, 1, 2, 3, 4]).await, [], "nobody holds what it lacks");
    // Of a job of which others run, lists by state alone did not tell that some wait.
    let mut jobs = JobsClient::new(connect(&server).await);
    let mut listed = async |filter: &str| {
        let request = v1::ListRequest { filter: filter.to_owned(), ..list() };
        jobs.list(request).await.unwrap().into_inner().jobs.len()
    };
    let counts = (listed("waiting!=0").await, listed("waiting=1").await, listed("waiting=0").await);
    assert_eq!(counts, (2, 2, 0), "one of each");
    server.shutdown().await.unwrap();
}

// A status had nothing of them: in a cell that seemed to have room, everything waited.
#[tokio::test]
async fn a_status_tells_of_the_room_that_is_held_and_of_the_oldest_hold() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    register(&channel, "m1", 4000).await;
    register(&channel, "m2", 4000).await;
    let (first, second) = (submit(&channel, job("first", 1)).await.job, submit(&channel, job("second", 1)).await.job);
    let mut cell = CellClient::new(channel.clone());
    let mut take = async |job, machines, cpu_millis| {
        let resources = Some(v1::Resources { cpu_millis, ..Default::default() });
        let hold = v1::TakeHoldRequest { job, machines, resources, within_micros: 60_000_000, ..Default::default() };
        cell.take_hold(hold).await.unwrap().into_inner().revision
    };
    let held = async || {
        let status = InspectClient::new(channel.clone()).status(v1::StatusRequest {}).await.unwrap().into_inner();
        let held = status.held.unwrap();
        (held.holds, held.resources.unwrap().cpu_millis, held.oldest)
    };
    assert_eq!(held().await, (0, 0, None));
    let since = take(second, vec![0, 1], 1000).await;
    take(first, vec![0], 500).await;
    // Renewed, it has its place all the same.
    take(second, vec![0, 1], 1500).await;
    let (holds, cpu_millis, oldest) = held().await;
    assert_eq!((holds, cpu_millis), (2, 3500), "on each of its machines");
    let oldest = oldest.unwrap();
    assert_eq!((oldest.namespace.as_str(), oldest.job.as_str(), oldest.machines), ("default", "second", 2));
    assert_eq!((oldest.resources.unwrap().cpu_millis, oldest.first_wait_revision), (1500, since));
    server.shutdown().await.unwrap();
}

// It went on renewing room for jobs that had long been placed.
#[tokio::test]
async fn no_room_is_held_for_a_job_of_which_nothing_waits() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    register(&channel, "m1", 4000).await;
    let gang = submit(&channel, job("gang", 1)).await.job;
    let mut cell = CellClient::new(channel.clone());
    let take = |machines| v1::TakeHoldRequest {
        job: gang,
        machines,
        resources: Some(v1::Resources { cpu_millis: 1000, ..Default::default() }),
        within_micros: 60_000_000,
        ..Default::default()
    };
    let mut session = Session::open(&channel, "batch").await.unwrap();
    session.commit(session.transaction(1, vec![placement(gang, vec![0], vec![0])])).await.unwrap();
    let refused = cell.take_hold(take(vec![0])).await.unwrap_err();
    assert_eq!((refused.code(), code(&refused).as_str()), (Code::FailedPrecondition, "NOT_WANTED"));
    assert!(refused.message().starts_with("gang: expected a task that waits to be placed, found none"), "{refused}");
    assert!(!refused.metadata().contains_key("plenum-retry-after-micros"), "nobody knows when one will wait");
    cell.take_hold(take(Vec::new())).await.expect("there is nothing to give back");
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_paused_scheduler_is_told_when_to_try_again_and_a_drained_machine_by_when() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    register(&channel, "m1", 4000).await;
    let mut govern = GovernClient::new(channel.clone());
    let crunch = submit(&channel, job("crunch", 1)).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let pause = |paused| v1::PauseScheduler { scheduler: "batch".into(), paused };
    assert!(govern.pause_scheduler(pause(true)).await.unwrap().into_inner().changed);
    let refused =
        session.commit(session.transaction(1, vec![placement(crunch.job, vec![0], vec![0])])).await.unwrap_err();
    let told = (Code::from(refused.status), refused.code.as_str(), refused.retry_after_micros > 0);
    assert_eq!(told, (Code::Unavailable, "SCHEDULER_PAUSED", true));
    let rows = govern.list_schedulers(list()).await.unwrap().into_inner().schedulers;
    let batch = rows.iter().find(|row| row.name == "batch").unwrap();
    assert_eq!((batch.paused, batch.connected, batch.jobs, batch.waiting_tasks), (true, Some(1), 1, 1));
    govern.pause_scheduler(pause(false)).await.unwrap();
    session.commit(session.transaction(1, vec![placement(crunch.job, vec![0], vec![0])])).await.unwrap();

    let drain = v1::DrainRequest { name: "m1".into(), undrain: false, within_micros: 0 };
    govern.drain_machine(drain).await.unwrap();
    let mut jobs = JobsClient::new(channel.clone());
    for _ in 0..600 {
        let rows = jobs.list_allocations(v1::ListAllocationsRequest::default()).await.unwrap().into_inner().allocations;
        if rows[0].state() == v1::AllocationState::Stopping {
            assert_eq!(rows[0].reason, "drained");
            server.shutdown().await.unwrap();
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("nothing was stopped at the deadline");
}

// It was told as it is now: a scheduler that was away at night was shown as connected then.
#[tokio::test]
async fn what_a_scheduler_is_granted_is_listed_kept_over_a_restart_and_for_operators_to_say() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let mut govern = GovernClient::new(channel.clone());
    let set = |evicts, priority| v1::SetRights { scheduler: "ml".into(), evicts, priority };
    let first = govern.set_rights(set(Some(false), None)).await.unwrap().into_inner();
    assert!(first.changed);
    assert!(govern.set_rights(set(None, Some(7))).await.unwrap().into_inner().changed);
    assert!(!govern.set_rights(set(Some(false), Some(7))).await.unwrap().into_inner().changed);
    for wrong in [0, 101, 256 + 7] {
        let refused = govern.set_rights(set(None, Some(wrong))).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        let text = format!("set_rights.priority: expected 1 to 100, found {wrong}");
        assert!(refused.message().contains(&text), "{}", refused.message());
    }
    let foreign = govern.set_rights(as_principal("scheduler/ml", set(Some(true), None))).await.unwrap_err();
    assert_eq!(code(&foreign), "NOT_PERMITTED");
    server.shutdown().await.unwrap();

    let server = start(dir.path()).await;
    let mut govern = GovernClient::new(connect(&server).await);
    let rights = |rows: Vec<v1::SchedulerView>| rows.into_iter().map(|row| (row.name, row.evicts, row.priority)).next();
    let listed = govern.list_schedulers(list()).await.unwrap().into_inner().schedulers;
    assert_eq!(rights(listed), Some(("ml".to_owned(), Some(false), 7)));
    let then = v1::At { revision: first.revision, ..v1::At::default() };
    let listed = govern.list_schedulers(v1::ListRequest { at: Some(then), ..list() }).await.unwrap().into_inner();
    assert_eq!(rights(listed.schedulers), Some(("ml".to_owned(), Some(false), 1)));
    assert!(govern.set_rights(set(Some(true), Some(1))).await.unwrap().into_inner().changed);
    assert_eq!(rights(govern.list_schedulers(list()).await.unwrap().into_inner().schedulers), None);
    server.shutdown().await.unwrap();
}

fn listed_at(revision: u64) -> v1::ListRequest {
    v1::ListRequest { at: Some(v1::At { revision, time_micros: 0 }), ..list() }
}

#[tokio::test]
async fn quotas_and_what_was_used_of_them_are_listed_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    register(&channel, "m1", 4000).await;
    let mut govern = GovernClient::new(channel.clone());
    let mut set = async |limit| {
        let quota = v1::SetQuota { namespace: "default".into(), limit };
        govern.set_quota(quota).await.unwrap().into_inner().revision
    };
    let first = set(Some(limit_of(3000))).await;
    let crunch = submit(&channel, job("crunch", 1)).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    session.commit(session.transaction(1, vec![placement(crunch.job, vec![0], vec![0])])).await.unwrap();
    let second = set(Some(limit_of(2000))).await;
    let removed = set(None).await;
    let amounts = |quotas: Vec<v1::QuotaView>| -> Vec<_> {
        let cpu = |quota: v1::QuotaView| (quota.limit.unwrap().cpu_millis, quota.used.unwrap().cpu_millis);
        quotas.into_iter().map(cpu).collect()
    };
    for (revision, expected) in [
        (first - 1, vec![]),
        (first, vec![(Some(3000), 0)]),
        (second - 1, vec![(Some(3000), 1000)]),
        (second, vec![(Some(2000), 1000)]),
        (removed, vec![]),
    ] {
        let listed = govern.list_quotas(listed_at(revision)).await.unwrap().into_inner();
        assert_eq!((listed.revision, amounts(listed.quotas)), (revision, expected));
    }
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn partitions_and_their_machines_are_listed_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let mut govern = GovernClient::new(channel.clone());
    let mut set = async |racks: &[&str], schedulers: &[&str]| {
        let of_rack = |rack: &&str| v1::Constraint {
            attribute: "rack".into(),
            operator: v1::Operator::Equal.into(),
            values: vec![rack.to_string()],
        };
        let schedulers = schedulers.iter().map(ToString::to_string).collect();
        let machines = racks.iter().map(of_rack).collect();
        let lab = v1::SetPartition { name: "lab".into(), machines, schedulers };
        govern.set_partition(lab).await.unwrap().into_inner().revision
    };
    let first = set(&["a"], &["ml"]).await;
    let machine = v1::RegisterMachine {
        name: "m1".into(),
        boot_id: "boot-1".into(),
        capacity: Some(v1::Resources { cpu_millis: 1000, ..Default::default() }),
        attributes: [("rack".to_owned(), "a".to_owned())].into(),
        ..Default::default()
    };
    let register = v1::RegisterRequest { machine: Some(machine), ..Default::default() };
    let mut agents = v1::agents_client::AgentsClient::new(channel.clone());
    let machine = agents.register(register).await.unwrap().into_inner().revision;
    let second = set(&["b"], &["batch"]).await;
    let removed = set(&[], &[]).await;
    let told = |partitions: Vec<v1::PartitionView>| -> Vec<_> {
        let row = |row: v1::PartitionView| (row.rules[0].values.join(","), row.schedulers.join(","), row.machines);
        partitions.into_iter().map(row).collect()
    };
    let lab = |rack: &str, scheduler: &str, machines| vec![(rack.to_owned(), scheduler.to_owned(), machines)];
    for (revision, expected) in [
        (first - 1, vec![]),
        (first, lab("a", "ml", 0)),
        (machine, lab("a", "ml", 1)),
        (second, lab("b", "batch", 0)),
        (removed, vec![]),
    ] {
        let listed = govern.list_partitions(listed_at(revision)).await.unwrap().into_inner();
        assert_eq!((listed.revision, told(listed.partitions)), (revision, expected));
    }
    // A machine said in no way that it is in one.
    let mut inspect = v1::inspect_client::InspectClient::new(channel.clone());
    let mut of_machine = async |revision| {
        let request = v1::GetMachineRequest { name: "m1".into(), at: Some(v1::At { revision, time_micros: 0 }) };
        inspect.get_machine(request).await.unwrap().into_inner().machine.unwrap().partitions
    };
    assert_eq!(of_machine(machine).await, ["lab"]);
    assert_eq!(of_machine(second).await, [""; 0]);
    server.shutdown().await.unwrap();
}

// The bound of the cell may be shorter than what was asked for, and who renews in time had to list all holds to know until when.
#[tokio::test]
async fn the_answer_to_a_hold_says_until_when_it_lasts() {
    const MINUTE: i64 = 60_000_000;
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    register(&channel, "m1", 4000).await;
    let gang = submit(&channel, job("gang", 1)).await.job;
    let (mut cell, mut govern) = (CellClient::new(channel.clone()), GovernClient::new(channel));
    let mut take = async |machines, within_micros| {
        let resources = Some(v1::Resources { cpu_millis: 1000, ..Default::default() });
        let hold = v1::TakeHoldRequest { job: gang, machines, resources, within_micros, ..Default::default() };
        cell.take_hold(hold).await.unwrap().into_inner()
    };
    let mut last = 0;
    for within_micros in [MINUTE, 2 * MINUTE, 60 * MINUTE, i64::MAX] {
        let told = take(vec![0], within_micros).await;
        let holds = govern.list_holds(list()).await.unwrap().into_inner().holds;
        assert_eq!((told.changed, told.deadline_micros), (true, holds[0].deadline_micros), "{within_micros}");
        let longer = told.deadline_micros - std::mem::replace(&mut last, told.deadline_micros);
        assert!(longer > 0, "each begins anew: {longer}");
        assert!(within_micros < i64::MAX || longer < MINUTE, "ten minutes count for an hour as for ever: {longer}");
    }
    let given_back = take(Vec::new(), MINUTE).await;
    assert_eq!((given_back.changed, given_back.deadline_micros), (true, 0));
    assert!(!take(Vec::new(), MINUTE).await.changed, "there is nothing left to give back");
    server.shutdown().await.unwrap();
}

// They stood by job, and which of two may take the other's room nobody saw.
#[tokio::test]
async fn holds_are_listed_in_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    register(&channel, "m1", 4000).await;
    let mut jobs = Vec::new();
    for (name, priority) in [("late", 50), ("early", 50), ("high", 90)] {
        let mut spec = job(name, 1);
        spec.shape.as_mut().unwrap().priority = priority;
        jobs.push(submit(&channel, spec).await.job);
    }
    let mut cell = CellClient::new(channel.clone());
    for at in [1, 0, 2] {
        let resources = Some(v1::Resources { cpu_millis: 1000, ..Default::default() });
        let within_micros = 60_000_000;
        let hold =
            v1::TakeHoldRequest { job: jobs[at], machines: vec![0], resources, within_micros, ..Default::default() };
        cell.take_hold(hold).await.unwrap();
    }
    let listed = GovernClient::new(channel).list_holds(list()).await.unwrap().into_inner().holds;
    assert_eq!(listed.iter().map(|hold| &*hold.job).collect::<Vec<_>>(), ["high", "early", "late"]);
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn holds_are_listed_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    register(&channel, "m1", 4000).await;
    let gang = submit(&channel, job("gang", 1)).await.job;
    let mut cell = CellClient::new(channel.clone());
    // An operator's, as no session is named.
    let mut take = async |machines, cpu_millis| {
        let resources = Some(v1::Resources { cpu_millis, ..Default::default() });
        let within_micros = 60_000_000;
        let hold = v1::TakeHoldRequest { job: gang, machines, resources, within_micros, ..Default::default() };
        cell.take_hold(hold).await.unwrap().into_inner().revision
    };
    let first = take(vec![0], 1000).await;
    let second = take(vec![0], 2000).await;
    let given_back = take(Vec::new(), 0).await;
    let mut govern = GovernClient::new(channel.clone());
    assert!(govern.list_holds(list()).await.unwrap().into_inner().holds.is_empty());
    let told = |holds: Vec<v1::HoldView>| -> Vec<_> {
        holds.into_iter().map(|hold| (hold.job, hold.machines.join(","), hold.resources.unwrap().cpu_millis)).collect()
    };
    let hold = |cpu_millis| ("gang".to_owned(), "m1".to_owned(), cpu_millis);
    for (revision, expected) in
        [(first - 1, vec![]), (first, vec![hold(1000)]), (second, vec![hold(2000)]), (given_back, vec![])]
    {
        let listed = govern.list_holds(listed_at(revision)).await.unwrap().into_inner();
        assert_eq!((listed.revision, told(listed.holds)), (revision, expected));
    }
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn who_was_connected_in_the_past_is_not_made_up() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let session = Session::open(&channel, "batch").await.unwrap();
    let (mut govern, mut inspect) = (GovernClient::new(channel.clone()), InspectClient::new(channel.clone()));
    let now = govern.list_schedulers(list()).await.unwrap().into_inner();
    assert_eq!((now.schedulers[0].connected, now.schedulers[0].sessions), (Some(1), 1));
    let then = |filter: &str| v1::ListRequest {
        at: Some(v1::At { revision: now.revision, time_micros: 0 }),
        filter: filter.into(),
        ..list()
    };
    let past = govern.list_schedulers(then("")).await.unwrap().into_inner();
    assert_eq!((past.schedulers[0].connected, past.schedulers[0].sessions), (None, 1));
    let sessions = inspect.list_sessions(list()).await.unwrap().into_inner().sessions;
    assert_eq!((sessions.len(), sessions[0].connected), (1, Some(true)));
    let sessions = inspect.list_sessions(then("scheduler=batch")).await.unwrap().into_inner().sessions;
    assert_eq!((sessions.len(), sessions[0].connected), (1, None));
    let refused = inspect.list_sessions(then("connected=true")).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    drop(session);
    server.shutdown().await.unwrap();
}

// By its row the command line tells it from a name that was never heard. In the list of all, a hundred such names hid the two schedulers that worked.
#[tokio::test]
async fn a_scheduler_that_has_left_is_listed_with_nothing_where_it_is_asked_for_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let session = Session::open(&channel, "batch").await.unwrap().welcome.session;
    CellClient::new(channel.clone()).close(v1::CloseRequest { session, incarnation: 0 }).await.unwrap();
    let _there = Session::open(&channel, "ml").await.unwrap();
    let listed = async |filter: &str, limit| {
        let request = v1::ListRequest { filter: filter.to_owned(), limit, ..list() };
        let listed = GovernClient::new(channel.clone()).list_schedulers(request).await.unwrap().into_inner();
        let rows = listed.schedulers.into_iter().map(|row| format!("{} {} {}", row.name, row.sessions, row.jobs));
        (rows.collect::<Vec<_>>().join(", "), listed.truncated, listed.left_out)
    };
    let told = |rows: &str, left_out| (rows.to_owned(), false, left_out);
    assert_eq!(listed("", 0).await, told("ml 1 0", 1));
    assert_eq!(listed("", 1).await, told("ml 1 0", 1), "what is left out takes no place");
    assert_eq!(listed("paused=true", 0).await, told("", 0));
    assert_eq!(listed("name=batch", 0).await, told("batch 0 0", 0));
    assert_eq!(listed("name!=", 0).await, told("batch 0 0, ml 1 0", 0));
    let mut govern = GovernClient::new(channel.clone());
    let mut pause = async |paused| {
        govern.pause_scheduler(v1::PauseScheduler { scheduler: "batch".into(), paused }).await.unwrap();
    };
    pause(true).await;
    assert_eq!(listed("", 0).await, told("batch 0 0, ml 1 0", 0));
    pause(false).await;
    assert_eq!(listed("", 0).await, told("ml 1 0", 1));
    submit(&channel, job("crunch", 1)).await;
    assert_eq!(listed("", 0).await, told("batch 0 1, ml 1 0", 0), "who has jobs is missed");
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn holds_are_taken_by_their_jobs_own_scheduler_and_recurring_jobs_are_launched() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    register(&channel, "m1", 4000).await;
    let gang = submit(&channel, job("gang", 1)).await;
    let mut cell = CellClient::new(channel.clone());
    let mut open = async |scheduler: &str| {
        let request = v1::OpenRequest { scheduler: scheduler.into(), namespace: "default".into() };
        cell.open(request).await.unwrap().into_inner().session
    };
    let (own, other) = (open("batch").await, open("ml").await);
    let take = |session, cpu_millis| v1::TakeHoldRequest {
        session,
        job: gang.job,
        machines: vec![0],
        resources: Some(v1::Resources { cpu_millis, ..Default::default() }),
        within_micros: 60_000_000,
        incarnation: 0,
    };
    let denied = cell.take_hold(take(other, 1000)).await.unwrap_err();
    assert_eq!((denied.code(), code(&denied).as_str()), (Code::PermissionDenied, "NOT_PERMITTED"));
    assert_eq!(denied.message(), "the job gang belongs to the scheduler batch, and the scheduler ml asks");
    let short = cell.take_hold(take(own, 5000)).await.unwrap_err();
    assert_eq!((short.code(), code(&short).as_str()), (Code::FailedPrecondition, "NO_ROOM_TO_HOLD"));
    cell.take_hold(take(own, 1000)).await.unwrap();
    let mut govern = GovernClient::new(channel.clone());
    let holds = govern.list_holds(list()).await.unwrap().into_inner().holds;
    assert_eq!((holds[0].job.as_str(), holds[0].machines.as_slice()), ("gang", ["m1".to_owned()].as_slice()));

    let mut nightly = job("nightly", 1);
    nightly.shape.as_mut().unwrap().kind = v1::JobKind::Recurring.into();
    submit(&channel, nightly).await;
    let mut jobs = JobsClient::new(channel.clone());
    let instant_micros = Some(1_000_000_005_000_000);
    let launch = v1::LaunchRequest { namespace: "default".into(), name: "nightly".into(), instant_micros };
    let first = jobs.launch(launch.clone()).await.unwrap().into_inner();
    assert_eq!((first.name.as_str(), first.changed), ("nightly-1000000005", true));
    let again = jobs.launch(launch.clone()).await.unwrap().into_inner();
    assert_eq!((again.job, again.name.as_str(), again.changed), (first.job, "nightly-1000000005", false));
    let passed =
        jobs.launch(v1::LaunchRequest { instant_micros: Some(1_000_000_004_000_000), ..launch }).await.unwrap_err();
    assert_eq!((passed.code(), code(&passed).as_str()), (Code::FailedPrecondition, "INSTANT_PASSED"));
    let user = as_principal("user/ann", v1::SetQuota { namespace: "default".into(), limit: None });
    assert_eq!(govern.set_quota(user).await.unwrap_err().code(), Code::PermissionDenied);
    server.shutdown().await.unwrap();
}

// It said that nothing of it is placed, as if something were wrong.
#[tokio::test]
async fn a_recurring_job_says_that_it_waits_for_its_next_launch() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let mut nightly = job("nightly", 1);
    nightly.shape.as_mut().unwrap().kind = v1::JobKind::Recurring.into();
    submit(&channel, nightly).await;
    let mut jobs = JobsClient::new(channel.clone());
    let (namespace, name) = ("default".to_owned(), "nightly".to_owned());
    let waits = async || {
        let get = v1::GetJobRequest { namespace: namespace.clone(), name: name.clone(), at: None };
        let view = JobsClient::new(channel.clone()).get(get).await.unwrap().into_inner().job.unwrap();
        assert_eq!((view.state(), view.groups[0].waiting), (v1::JobState::JobWaiting, 0));
        view.waiting_reason
    };
    let by_hand = "`plenum job launch nightly` launches it by hand";
    assert_eq!(waits().await, format!("it is recurring, and waits for its first launch; {by_hand}"));
    let instant_micros = Some(1_000_000_005_000_000);
    jobs.launch(v1::LaunchRequest { namespace: namespace.clone(), name: name.clone(), instant_micros }).await.unwrap();
    let next = "it is recurring, and waits for its next launch, after the one for 2001-09-09T01:46:45Z";
    assert_eq!(waits().await, format!("{next}; {by_hand}"));
    let group = "work".to_owned();
    jobs.scale(v1::ScaleRequest {
        namespace: namespace.clone(),
        name: name.clone(),
        group,
        count: 0,
        ..Default::default()
    })
    .await
    .unwrap();
    let empty =
        "it is recurring, and launched once a group of it has a task; `plenum job scale nightly COUNT` asks for some";
    assert_eq!(waits().await, empty);
    server.shutdown().await.unwrap();
}

// An instant in nanoseconds was taken for one in fifty thousand years, and no later one ever came; nor did one for a year after a wrong year. One in
// seconds was of 1970, and what it launched had the name that belongs to that second of today.
#[tokio::test]
async fn a_recurring_job_is_not_launched_for_an_instant_after_which_there_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let mut nightly = job("nightly", 1);
    nightly.shape.as_mut().unwrap().kind = v1::JobKind::Recurring.into();
    submit(&channel, nightly).await;
    let mut jobs = JobsClient::new(channel);
    let launch =
        |instant_micros| v1::LaunchRequest { namespace: "default".into(), name: "nightly".into(), instant_micros };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let tomorrow = i64::try_from(now.as_micros()).unwrap() + 24 * 3600 * 1_000_000;
    let (seconds, millis) = (tomorrow / 1_000_000, tomorrow / 1_000);
    for instant in [tomorrow, 1_700_000_000_000_000_000, i64::MAX, seconds, millis, 0, -1] {
        let refused = jobs.launch(launch(Some(instant))).await.unwrap_err();
        assert_eq!((refused.code(), code(&refused).as_str()), (Code::InvalidArgument, "INVALID_REQUEST"));
        assert!(refused.message().ends_with(&format!("found {instant} µs")), "{}", refused.message());
    }
    jobs.launch(launch(None)).await.unwrap();
    server.shutdown().await.unwrap();
}

fn lines(story: &v1::HistoryResponse) -> Vec<String> {
    let line = |event: &v1::HistoryEvent| {
        format!("{} {} by {}: {}", event.event, event.detail, event.principal, event.command)
    };
    story.events.iter().map(line).collect()
}

/// Everything that is laid down, by two operators; the last revision.
async fn lay_down(govern: &mut GovernClient<tonic::transport::Channel>) -> u64 {
    let (ann, ben) = ("operator/ann", "operator/ben");
    let quota = |namespace: &str, limit| v1::SetQuota { namespace: namespace.to_owned(), limit };
    let limit = v1::Quota { cpu_millis: Some(4000), memory_bytes: Some(3 << 29), ..v1::Quota::default() };
    govern.set_quota(as_principal(ann, quota("ml", Some(limit)))).await.unwrap();
    govern
        .set_quota(as_principal(ben, quota("web", Some(v1::Quota { disk_bytes: Some(7), ..limit_of(500) }))))
        .await
        .unwrap();
    govern.set_quota(as_principal(ben, quota("ml", None))).await.unwrap();
    let (operator, values) = (v1::Operator::In.into(), vec!["a".into(), "b".into()]);
    let machines = vec![v1::Constraint { attribute: "rack".into(), operator, values }];
    let partition = v1::SetPartition { name: "lab".into(), machines, schedulers: vec!["ml".into(), "batch".into()] };
    govern.set_partition(as_principal(ann, partition)).await.unwrap();
    govern
        .set_partition(as_principal(ben, v1::SetPartition { name: "lab".into(), ..Default::default() }))
        .await
        .unwrap();
    let pause = |paused| v1::PauseScheduler { scheduler: "batch".into(), paused };
    govern.pause_scheduler(as_principal(ann, pause(true))).await.unwrap();
    let rights = v1::SetRights { scheduler: "batch".into(), evicts: Some(false), priority: Some(4) };
    govern.set_rights(as_principal(ben, rights)).await.unwrap();
    govern.pause_scheduler(as_principal(ben, pause(false))).await.unwrap().into_inner().revision
}

fn limit_of(cpu_millis: i64) -> v1::Quota {
    v1::Quota { cpu_millis: Some(cpu_millis), ..v1::Quota::default() }
}

/// Who had set a quota stood in the log, and nobody could be asked.
#[tokio::test]
async fn what_was_laid_down_is_told_with_who_asked_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let mut govern = GovernClient::new(channel.clone());
    let last = lay_down(&mut govern).await;
    // What else goes on is not told of.
    register(&channel, "m1", 4000).await;
    submit(&channel, job("crunch", 2)).await;
    let ask = async |of: &str, name: &str, revision: u64, limit| {
        let at = (revision > 0).then_some(v1::At { revision, time_micros: 0 });
        let ask = v1::GovernHistoryRequest { of: of.to_owned(), name: name.to_owned(), at, limit };
        GovernClient::new(channel.clone()).govern_history(ask).await
    };
    let told = async |of: &str, name: &str| lines(&ask(of, name, 0, 0).await.unwrap().into_inner());
    let ml = ["set ml: cpu 4, memory 1.5GiB by operator/ann: set-quota", "removed ml by operator/ben: set-quota"];
    assert_eq!(told("quota", "ml").await, ml);
    assert_eq!(told("quota", "").await, [ml[0], "set web: cpu 500m, disk 7B by operator/ben: set-quota", ml[1]]);
    assert_eq!(told("quota", "m").await, [""; 0]);
    let lab = [
        "set lab: attr.rack in [\"a\", \"b\"], for ml, batch by operator/ann: set-partition",
        "removed lab by operator/ben: set-partition",
    ];
    assert_eq!(told("partition", "").await, lab);
    let batch = [
        "paused batch by operator/ann: pause-scheduler",
        "set batch: evicts nobody, priority 4 by operator/ben: set-rights",
        "resumed batch by operator/ben: resume-scheduler",
    ];
    assert_eq!(told("scheduler", "batch").await, batch);

    // Up to a moment, and with where the older ones are.
    let whole = ask("scheduler", "", 0, 0).await.unwrap().into_inner();
    assert_eq!((whole.truncated, whole.oldest_revision, whole.events[2].revision), (false, 0, last));
    let early = ask("scheduler", "", last - 1, 1).await.unwrap().into_inner();
    assert_eq!(lines(&early), batch[1..2]);
    assert_eq!((early.truncated, early.older_at), (true, whole.events[0].revision));
    let wrong = ask("machine", "", 0, 0).await.unwrap_err();
    assert_eq!(code(&wrong), "INVALID_REQUEST");
    server.shutdown().await.unwrap();

    let server = start(dir.path()).await;
    let ask = v1::GovernHistoryRequest { of: "partition".into(), ..Default::default() };
    let again = GovernClient::new(connect(&server).await).govern_history(ask).await.unwrap().into_inner();
    assert_eq!(lines(&again), lab, "after a restart, too");
    server.shutdown().await.unwrap();
}

// While its session was being closed a scheduler was taken for an operator, who may hold room for anybody's job.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_scheduler_whose_session_is_being_closed_holds_no_room_for_jobs_of_others() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    register(&channel, "m1", 4000).await;
    let foreign = submit(&channel, job("foreign", 1)).await.job;
    let mut cell = v1::cell_client::CellClient::new(channel.clone());
    for _ in 0..100 {
        let open = v1::OpenRequest { scheduler: "a".into(), namespace: "default".into() };
        let session = cell.open(as_principal("scheduler/a", open)).await.unwrap().into_inner().session;
        let mut closing = cell.clone();
        let close = tokio::spawn(async move {
            closing.close(as_principal("scheduler/a", v1::CloseRequest { session, incarnation: 0 })).await
        });
        let holds: Vec<_> = (0..16)
            .map(|_| {
                let mut asking = cell.clone();
                let hold = v1::TakeHoldRequest {
                    session,
                    job: foreign,
                    machines: vec![0],
                    resources: Some(v1::Resources { cpu_millis: 1000, ..Default::default() }),
                    within_micros: 60_000_000,
                    incarnation: 0,
                };
                tokio::spawn(async move { asking.take_hold(as_principal("scheduler/a", hold)).await })
            })
            .collect();
        close.await.unwrap().unwrap();
        for hold in holds {
            let refused = code(&hold.await.unwrap().unwrap_err());
            assert!(["NOT_PERMITTED", "NO_SUCH_SESSION"].contains(&refused.as_str()), "{refused}");
        }
    }
    server.shutdown().await.unwrap();
}

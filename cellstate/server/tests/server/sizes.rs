//! Requests whose effects are large: those that the log has no room for are refused, change nothing, and the server stays.

use plenum_proto::v1;
use plenum_server::{Handle, Server};
use tonic::transport::Channel;

use crate::client::{Session, code, connect, job, options, placement, register, submit};

const LIMIT: (tonic::Code, &str) = (tonic::Code::ResourceExhausted, "LIMIT_REACHED");

/// With the smallest segments: a request may come to some 45,000 bytes.
async fn small(dir: &std::path::Path) -> (Handle, Channel) {
    let mut small = options(dir);
    small.settings.segment_bytes = 64 << 10;
    // Nobody renews it here.
    small.settings.lease = std::time::Duration::from_secs(600);
    let server = Server::start(small).await.unwrap();
    let channel = connect(&server).await;
    (server, channel)
}

fn refusal(status: &tonic::Status) -> (tonic::Code, &'static str) {
    assert_eq!(code(status), LIMIT.1, "{status:?}");
    (status.code(), LIMIT.1)
}

/// It ends in order, and begins again.
async fn end_and_start_again(server: Handle, dir: &std::path::Path) {
    server.shutdown().await.unwrap();
    let (server, _) = small(dir).await;
    server.shutdown().await.unwrap();
}

// What a scaling down stops was counted, and what a job that is submitted again with fewer tasks stops was not: the server ended.
#[tokio::test]
async fn a_job_submitted_again_with_so_many_fewer_tasks_that_the_log_has_no_room_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (server, channel) = small(dir.path()).await;
    register(&channel, "m1", 4_000_000).await;
    let crunch = submit(&channel, job("crunch", 2000)).await.job;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    for first in (0..2000).step_by(40) {
        let tasks = (first..first + 40).collect();
        let some = session.transaction(u64::from(first) + 1, vec![placement(crunch, vec![0; 40], tasks)]);
        assert_eq!(session.commit(some).await.unwrap().granted, 40);
    }
    let mut jobs = v1::jobs_client::JobsClient::new(channel.clone());
    let refused =
        jobs.submit(v1::SubmitRequest { spec: Some(job("crunch", 1)), ..Default::default() }).await.unwrap_err();
    assert_eq!(refusal(&refused), LIMIT);
    assert!(refused.message().contains("1999 allocations"), "{}", refused.message());
    submit(&channel, job("crunch", 1900)).await;
    let rows = jobs.list_allocations(v1::ListAllocationsRequest::default()).await.unwrap().into_inner().allocations;
    let stopping = rows.iter().filter(|row| row.state() == v1::AllocationState::Stopping).count();
    assert_eq!((rows.len(), stopping), (2000, 100));
    end_and_start_again(server, dir.path()).await;
}

// The ports of a claim were not counted: with long names they are fifteen times as many bytes as all else.
#[tokio::test]
async fn a_transaction_whose_granted_ports_the_log_has_no_room_for_is_refused_and_a_smaller_one_is_granted() {
    let dir = tempfile::tempdir().unwrap();
    let (server, channel) = small(dir.path()).await;
    register(&channel, "m1", 4_000_000).await;
    let mut spec = job("ports", 40);
    let port = |number: usize| v1::Port { name: format!("{}{number:02}", "p".repeat(60)), number: 0 };
    spec.shape.as_mut().unwrap().groups[0].ports = (0..64).map(port).collect();
    let ports = submit(&channel, spec).await.job;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let all = session.transaction(1, vec![placement(ports, vec![0; 40], (0..40).collect())]);
    let refused = session.commit(all).await.unwrap_err();
    assert_eq!((refused.number, refused.code.as_str()), (1, LIMIT.1));
    assert!(refused.message.contains("40 grants"), "{}", refused.message);
    // The number was not used up, and the rows neither.
    let few = session.transaction(1, vec![placement(ports, vec![0; 2], (0..2).collect())]);
    let granted = session.commit(few).await.unwrap();
    let slots: Vec<_> = granted.placements[0].allocations.iter().map(|id| id & u64::from(u32::MAX)).collect();
    assert_eq!((granted.granted, slots), (2, vec![0, 1]));
    drop(session);
    end_and_start_again(server, dir.path()).await;
}

// Its agent could not read its record, and all that its job had done there was to run again: the log had no room for that, and so the cell took no word
// of that task for ever, nor acknowledged what else its machine reported.
#[tokio::test]
async fn a_report_of_a_task_that_is_lost_is_taken_however_much_of_its_job_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let (server, channel) = small(dir.path()).await;
    let machine = register(&channel, "m1", 4_000_000).await;
    let (count, at_once) = (12_000, 40);
    let mut spec = job("mapped", count);
    spec.shape.as_mut().unwrap().same_machine = true;
    let mapped = submit(&channel, spec).await.job;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let mut agents = v1::agents_client::AgentsClient::new(channel.clone());
    let report = |allocations: &[u64], state: v1::AllocationState| {
        let transition = |&allocation| v1::Transition { allocation, state: state.into(), ..Default::default() };
        let transitions = allocations.iter().map(transition).collect();
        v1::ReportRequest { machine: machine.machine, epoch: machine.epoch, transitions, ..Default::default() }
    };
    let mut last = Vec::new();
    for number in 0..count / at_once {
        let tasks: Vec<u32> = (number * at_once..(number + 1) * at_once).collect();
        let transaction =
            session.transaction(u64::from(number) + 1, vec![placement(mapped, vec![0; tasks.len()], tasks)]);
        last = session.commit(transaction).await.unwrap().placements.remove(0).allocations;
        let done = if number + 1 == count / at_once { &last[1..] } else { &last[..] };
        agents.report(report(done, v1::AllocationState::Complete)).await.unwrap();
    }
    agents.report(report(&last[..1], v1::AllocationState::EndedLost)).await.unwrap();
    let get = v1::GetJobRequest { namespace: "default".into(), name: "mapped".into(), at: None };
    let view = v1::jobs_client::JobsClient::new(channel.clone()).get(get).await.unwrap().into_inner().job.unwrap();
    assert_eq!((view.groups[0].done, view.groups[0].waiting), (count - 1, 1));
    // With the machine all of them are: that is still too much at once.
    let mut inspect = v1::inspect_client::InspectClient::new(channel.clone());
    let remove = v1::RemoveMachineRequest { name: "m1".into(), force: true, ..Default::default() };
    let refused = inspect.remove_machine(remove).await.unwrap_err();
    assert_eq!(refusal(&refused), LIMIT);
    assert!(refused.message().contains("it helps to stop the job default/mapped"), "{}", refused.message());
    drop(session);
    end_and_start_again(server, dir.path()).await;
}

/// Machines, of each of which each of so many jobs holds a little.
async fn hold_much(channel: &Channel, machines: u32, jobs: u32) -> Session {
    for machine in 0..machines {
        register(channel, &format!("m{machine}"), 64_000).await;
    }
    let session = Session::open(channel, "batch").await.unwrap();
    for number in 0..jobs {
        let id = submit(channel, job(&format!("j{number}"), 1)).await.job;
        take_hold(channel, &session, id, machines, 1).await.unwrap();
    }
    session
}

async fn take_hold(
    channel: &Channel,
    session: &Session,
    job: u64,
    machines: u32,
    cpu_millis: i64,
) -> Result<(), tonic::Status> {
    let request = v1::TakeHoldRequest {
        session: session.welcome.session,
        job,
        machines: (0..machines).collect(),
        resources: Some(v1::Resources { cpu_millis, ..Default::default() }),
        within_micros: 300_000_000,
        incarnation: session.welcome.incarnation,
    };
    v1::cell_client::CellClient::new(channel.clone()).take_hold(request).await.map(drop)
}

// A hold that changes is logged whole, for each job that held something there.
#[tokio::test]
async fn what_changes_more_holds_than_the_log_has_room_for_is_refused_until_there_are_fewer() {
    let dir = tempfile::tempdir().unwrap();
    let (server, channel) = small(dir.path()).await;
    let session = hold_much(&channel, 300, 100).await;
    let mut inspect = v1::inspect_client::InspectClient::new(channel.clone());
    let remove = || v1::RemoveMachineRequest { name: "m7".into(), force: true, ..Default::default() };
    let refused = inspect.remove_machine(remove()).await.unwrap_err();
    assert_eq!(refusal(&refused), LIMIT);
    assert!(refused.message().contains("100 holds"), "{}", refused.message());
    // Who comes first takes the machine from all the others.
    let mut urgent = job("urgent", 1);
    urgent.shape.as_mut().unwrap().priority = 90;
    let urgent = submit(&channel, urgent).await.job;
    let refused = take_hold(&channel, &session, urgent, 1, 64_000).await.unwrap_err();
    assert_eq!(refusal(&refused), LIMIT);
    let mut jobs = v1::jobs_client::JobsClient::new(channel.clone());
    for number in 0..30 {
        let stop = v1::StopRequest { namespace: "default".into(), name: format!("j{number}"), ..Default::default() };
        jobs.stop(stop).await.unwrap();
    }
    inspect.remove_machine(remove()).await.unwrap();
    take_hold(&channel, &session, urgent, 1, 64_000).await.unwrap();
    drop(session);
    end_and_start_again(server, dir.path()).await;
}

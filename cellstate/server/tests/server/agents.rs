//! Machines, what they shall run, and what they report.

use std::time::Duration;

use plenum_proto::v1;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::transport::Channel;

use crate::client::{
    Session, as_principal, code, connect, eventually, job, options, placement, register, start, start_with_leases_of,
    submit,
};
use crate::inspection::page;

fn report(machine: &v1::RegisterResponse, transitions: Vec<v1::Transition>) -> v1::ReportRequest {
    v1::ReportRequest { machine: machine.machine, epoch: machine.epoch, transitions, ..Default::default() }
}

fn transition(allocation: u64, state: v1::AllocationState) -> v1::Transition {
    v1::Transition { allocation, state: state.into(), ..Default::default() }
}

/// A machine, and an allocation there.
async fn granted(channel: &Channel) -> (v1::RegisterResponse, u64) {
    let machine = register(channel, "m1", 4000).await;
    let crunch = submit(channel, job("crunch", 1)).await;
    let mut session = Session::open(channel, "batch").await.unwrap();
    let transaction = session.transaction(1, vec![placement(crunch.job, vec![0], vec![0])]);
    let allocation = session.commit(transaction).await.unwrap().placements[0].allocations[0];
    (machine, allocation)
}

/// A relay speaks for a rack: what is reported of its machines counts, but for those whose epoch is over.
#[tokio::test]
async fn a_relay_reports_of_many_machines_and_hears_which_have_to_register() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let (one, other) = (register(&channel, "m1", 4000).await, register(&channel, "m2", 4000).await);
    let crunch = submit(&channel, job("crunch", 2)).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let transaction = session.transaction(1, vec![placement(crunch.job, vec![0, 1], vec![0, 1])]);
    let outcome = session.commit(transaction).await.unwrap();
    let complete = v1::AllocationState::Complete.into();
    let many = v1::ReportManyRequest {
        machines: vec![one.machine, other.machine],
        epochs: vec![one.epoch, other.epoch + 1],
        of: vec![0, 1],
        allocations: outcome.placements[0].allocations.clone(),
        states: vec![complete; 2],
        ..v1::ReportManyRequest::default()
    };
    let mut agents = v1::agents_client::AgentsClient::new(channel.clone());
    let answer = agents.report_many(many.clone()).await.unwrap().into_inner();
    assert_eq!(answer.register, [other.machine]);
    assert!(answer.revision > outcome.revision);
    let mut jobs = v1::jobs_client::JobsClient::new(channel.clone());
    let get = v1::GetJobRequest { namespace: "default".into(), name: "crunch".into(), at: None };
    let view = jobs.get(get.clone()).await.unwrap().into_inner().job.unwrap();
    assert_eq!((view.state(), view.groups[0].done), (v1::JobState::JobRunning, 1));

    // Said again, as its answer may have been lost; and now of both.
    let many = v1::ReportManyRequest { epochs: vec![one.epoch, other.epoch], ..many };
    let answer = agents.report_many(many).await.unwrap().into_inner();
    assert!(answer.register.is_empty());
    let view = jobs.get(get).await.unwrap().into_inner().job.unwrap();
    assert_eq!((view.state(), view.groups[0].done), (v1::JobState::JobComplete, 2));
    let foreign = as_principal(
        "agent/m1",
        v1::ReportManyRequest { machines: vec![one.machine, other.machine], epochs: vec![1, 1], ..Default::default() },
    );
    assert_eq!(code(&agents.report_many(foreign).await.unwrap_err()), "NOT_PERMITTED");
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_agent_is_told_what_to_run_and_its_receipts_end_the_job() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let machine = register(&channel, "m1", 4000).await;
    let mut agents = v1::agents_client::AgentsClient::new(channel.clone());
    let follow = v1::FollowRequest { machine: machine.machine, epoch: machine.epoch, ..Default::default() };
    let mut told = agents.follow(follow).await.unwrap().into_inner();
    let first = told.message().await.unwrap().unwrap();
    assert!(first.full && first.wanted.is_empty());

    let crunch = submit(&channel, job("crunch", 2)).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let transaction = session.transaction(1, vec![placement(crunch.job, vec![0, 0], vec![0, 1])]);
    session.commit(transaction).await.unwrap();
    let next = told.message().await.unwrap().unwrap();
    assert_eq!((next.full, next.wanted.len()), (false, 2));
    let assignment = &next.wanted[0];
    assert_eq!((assignment.job.as_str(), assignment.group.as_str(), assignment.attempt), ("crunch", "work", 1));
    assert_eq!(assignment.body.as_ref().unwrap().command, ["/bin/true"]);
    assert_eq!((assignment.state(), assignment.group_count), (v1::AllocationState::Granted, 2));
    assert_eq!((assignment.job_version, crunch.version), (1, 1));

    let ids: Vec<u64> = next.wanted.iter().map(|wanted| wanted.allocation).collect();
    let running = ids.iter().map(|id| transition(*id, v1::AllocationState::Running)).collect();
    agents.report(report(&machine, running)).await.unwrap();
    let complete = ids.iter().map(|id| transition(*id, v1::AllocationState::Complete)).collect();
    let answer = agents.report(report(&machine, complete)).await.unwrap().into_inner();
    assert!(!answer.register);

    let mut jobs = v1::jobs_client::JobsClient::new(channel.clone());
    let get = v1::GetJobRequest { namespace: "default".into(), name: "crunch".into(), at: None };
    let view = jobs.get(get).await.unwrap().into_inner().job.unwrap();
    assert_eq!((view.state(), view.groups[0].done), (v1::JobState::JobComplete, 2));
    let list = v1::ListAllocationsRequest { ended: true, job: "crunch".into(), ..Default::default() };
    let ended = jobs.list_allocations(list).await.unwrap().into_inner().allocations;
    assert_eq!(ended.len(), 2);
    assert_eq!((ended[0].state(), ended[0].machine.as_str()), (v1::AllocationState::Complete, "m1"));
    assert!(ended[0].created_micros > 0 && ended[0].ended_micros >= ended[0].created_micros);
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_lease_that_is_not_renewed_runs_out_and_the_agent_registers_anew() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let machine = register(&channel, "m1", 4000).await;
    let mut agents = v1::agents_client::AgentsClient::new(channel);
    assert!(!agents.report(report(&machine, Vec::new())).await.unwrap().into_inner().register);
    server.shutdown().await.unwrap();

    let server = start_with_leases_of(dir.path(), Duration::from_millis(150)).await;
    let channel = connect(&server).await;
    let mut agents = v1::agents_client::AgentsClient::new(channel.clone());
    let mut inspect = v1::inspect_client::InspectClient::new(channel.clone());
    let unreachable = async {
        loop {
            let list = inspect.list_machines(v1::ListRequest::default()).await.unwrap().into_inner();
            let machine = &list.machines[0];
            if machine.state() == v1::MachineState::Unreachable {
                // With the margin for clocks that differ.
                assert_eq!(machine.since_micros - machine.silent_since_micros, 150_000 + 50_000);
                return;
            }
            assert_eq!(machine.silent_since_micros, 0);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), unreachable).await.expect("it runs out");
    assert!(agents.report(report(&machine, Vec::new())).await.unwrap().into_inner().register);
    let again = register(&channel, "m1", 4000).await;
    assert_eq!((again.machine, again.epoch), (machine.machine, 2));
    assert_eq!((again.lease_micros, again.renew_micros), (150_000, 50_000));
    let old = v1::FollowRequest { machine: machine.machine, epoch: 1, ..Default::default() };
    assert_eq!(code(&agents.follow(old).await.unwrap_err()), "STALE_EPOCH");
    server.shutdown().await.unwrap();
}

async fn shown(channel: &Channel, allocation: u64) -> v1::AllocationView {
    let ask = v1::GetAllocationRequest { allocation, at: None };
    let mut jobs = v1::jobs_client::JobsClient::new(channel.clone());
    jobs.get_allocation(ask).await.unwrap().into_inner()
}

// Of a task on a machine that nobody hears it was said that it runs, and nowhere when it would be given up.
#[tokio::test]
async fn what_is_on_an_unreachable_machine_says_so_and_when_it_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let (_, allocation) = granted(&channel).await;
    let heard = shown(&channel, allocation).await;
    assert_eq!((heard.unreachable_micros, heard.lost_at_micros), (0, 0));
    server.shutdown().await.unwrap();

    let server = start_with_leases_of(dir.path(), Duration::from_millis(150)).await;
    let channel = connect(&server).await;
    eventually("its lease runs out", async || shown(&channel, allocation).await.unreachable_micros > 0).await;
    let away = shown(&channel, allocation).await;
    assert_eq!(away.lost_at_micros - away.unreachable_micros, 60_000_000);
    let mut jobs = v1::jobs_client::JobsClient::new(channel.clone());
    let mut listed = async |filter: &str| {
        let request = v1::ListRequest { filter: filter.to_owned(), ..Default::default() };
        let jobs = jobs.list(request).await.unwrap().into_inner().jobs;
        jobs.iter().map(|job| job.groups[0].unreachable).collect::<Vec<_>>()
    };
    assert_eq!((listed("unreachable!=0").await, listed("unreachable=0").await), (vec![1], vec![]));
    v1::jobs_client::JobsClient::new(channel.clone())
        .stop_allocation(v1::StopAllocationRequest { allocation })
        .await
        .unwrap();
    let leaving = shown(&channel, allocation).await;
    assert_eq!(
        (leaving.unreachable_micros, leaving.lost_at_micros),
        (away.unreachable_micros, 0),
        "its end is not known"
    );
    server.shutdown().await.unwrap();
}

// The stream of an agent without power or network stays open for as long as nobody notices. Its logs were asked for over it, and waited for half a minute.
#[tokio::test]
async fn a_log_on_an_unreachable_machine_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let (machine, allocation) = granted(&connect(&server).await).await;
    server.shutdown().await.unwrap();

    let server = start_with_leases_of(dir.path(), Duration::from_secs(2)).await;
    let channel = connect(&server).await;
    let mut silent = follow(&channel, &machine).await;
    eventually("its lease runs out", async || shown(&channel, allocation).await.unreachable_micros > 0).await;
    let mut jobs = v1::jobs_client::JobsClient::new(channel.clone());
    let gone = jobs.logs(v1::LogsRequest { allocation, ..Default::default() }).await.unwrap_err();
    assert_eq!((gone.code(), code(&gone).as_str()), (Code::Unavailable, "AGENT_GONE"), "{gone}");
    assert!(gone.message().contains("m1 is unreachable, and its agent does not answer"), "{gone}");
    assert_eq!(gone.metadata().get("plenum-retry-after-micros").unwrap(), "1000000");
    let asked = asked_of(&mut silent).await;
    let left = asked_of(&mut silent).await;
    assert!(left.cancelled && left.request == asked.request, "it need not answer any more: {left:?}");
    server.shutdown().await.unwrap();
}

// It was refused without a look, though its agent was there, and only its reports were not.
#[tokio::test]
async fn a_log_on_an_unreachable_machine_comes_from_an_agent_that_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let (machine, allocation) = granted(&connect(&server).await).await;
    server.shutdown().await.unwrap();

    let server = start_with_leases_of(dir.path(), Duration::from_millis(300)).await;
    let channel = connect(&server).await;
    eventually("its lease runs out", async || shown(&channel, allocation).await.unreachable_micros > 0).await;
    let mut jobs = v1::jobs_client::JobsClient::new(channel.clone());
    let ask = v1::LogsRequest { allocation, ..Default::default() };
    let gone = jobs.logs(ask).await.unwrap_err();
    assert!(gone.message().contains("m1 is unreachable, and its agent is not connected"), "{gone}");

    let mut told = follow(&channel, &machine).await;
    let mut agents = v1::agents_client::AgentsClient::new(channel.clone());
    let answers = async {
        let request = asked_of(&mut told).await.request;
        let first = v1::SendLogsRequest { request, next: Some(0), ..Default::default() };
        let last =
            v1::SendLogsRequest { request, data: "hello".into(), next: Some(5), end: true, ..Default::default() };
        agents.send_logs(as_principal("agent/m1", tokio_stream::iter([first, last]))).await.unwrap();
    };
    let reads = async {
        let mut reader = jobs.logs(ask).await.unwrap().into_inner();
        let mut data = Vec::new();
        while let Some(chunk) = reader.message().await.unwrap() {
            data.extend(chunk.data);
        }
        data
    };
    let ((), data) = tokio::join!(answers, reads);
    assert_eq!(data, b"hello");
    server.shutdown().await.unwrap();
}

/// What an agent said that its machine uses was kept as it came, up to the size of a message for each machine; and a report that broke a
/// rule renewed the lease before it was refused.
#[tokio::test]
async fn a_report_that_breaks_a_rule_is_refused_and_renews_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let machine = register(&channel, "m1", 4000).await;
    let mut agents = v1::agents_client::AgentsClient::new(channel.clone());
    let used = |used: v1::Resources| v1::ReportRequest {
        telemetry: Some(v1::MachineTelemetry { used: Some(used), tasks: 1 }),
        ..report(&machine, Vec::new())
    };
    let fair = v1::Resources { cpu_millis: 500, memory_bytes: 1 << 20, ..Default::default() };
    assert!(!agents.report(used(fair)).await.unwrap().into_inner().register);
    server.shutdown().await.unwrap();

    let server = start_with_leases_of(dir.path(), Duration::from_millis(300)).await;
    let mut agents = v1::agents_client::AgentsClient::new(connect(&server).await);
    let many = v1::Resources { custom: vec![1; 100_000], ..Default::default() };
    let mut found = String::new();
    for _ in 0..300 {
        found = agents.report(used(many.clone())).await.unwrap_err().message().to_owned();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(found.starts_with("telemetry.used.custom: expected at most 5 named resources"), "{found}");
    assert!(agents.report(report(&machine, Vec::new())).await.unwrap().into_inner().register, "its lease is over");
    server.shutdown().await.unwrap();
}

// It was refused as it was each time it was repeated: the lease ran out while its agent spoke, and how the task had ended was not heard.
#[tokio::test]
async fn a_report_with_a_reason_that_is_too_long_renews_the_lease_and_its_reason_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let (machine, allocation) = granted(&channel).await;
    let mut agents = v1::agents_client::AgentsClient::new(channel.clone());
    let reason = "ö".repeat(150);
    let failed = v1::Transition { reason: reason.clone(), ..transition(allocation, v1::AllocationState::Failed) };
    assert!(!agents.report(report(&machine, vec![failed])).await.unwrap().into_inner().register);
    let ended = shown(&channel, allocation).await;
    assert_eq!((ended.state(), ended.reason.as_str()), (v1::AllocationState::Failed, &reason[..254]));
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_agent_speaks_for_its_own_machine_only() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let machine = register(&channel, "m1", 4000).await;
    let mut agents = v1::agents_client::AgentsClient::new(channel.clone());
    let own = as_principal("agent/m1", report(&machine, Vec::new()));
    assert!(agents.report(own).await.is_ok());
    let foreign = as_principal("agent/m2", report(&machine, Vec::new()));
    let denied = agents.report(foreign).await.unwrap_err();
    assert_eq!((denied.code(), code(&denied).as_str()), (Code::PermissionDenied, "NOT_PERMITTED"));
    let mut jobs = v1::jobs_client::JobsClient::new(channel.clone());
    let submit = as_principal("agent/m1", v1::SubmitRequest { spec: Some(job("x", 1)), ..Default::default() });
    assert_eq!(jobs.submit(submit).await.unwrap_err().code(), Code::PermissionDenied);
    let nobody = as_principal("root", v1::SubmitRequest { spec: Some(job("x", 1)), ..Default::default() });
    assert_eq!(jobs.submit(nobody).await.unwrap_err().code(), Code::Unauthenticated);
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn logs_are_relayed_from_the_agent_to_the_reader() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let (machine, allocation) = granted(&channel).await;

    let mut jobs = v1::jobs_client::JobsClient::new(channel.clone());
    let ask = v1::LogsRequest { allocation, tail_lines: 5, ..Default::default() };
    let gone = jobs.logs(ask).await.unwrap_err();
    assert_eq!(code(&gone), "AGENT_GONE");
    assert_eq!(gone.metadata().get("plenum-retry-after-micros").unwrap(), "1000000");

    let mut agents = v1::agents_client::AgentsClient::new(channel.clone());
    let mut told = follow(&channel, &machine).await;
    let mut reader = jobs.logs(ask).await.unwrap().into_inner();
    let asked = told.message().await.unwrap().unwrap().logs.remove(0);
    assert_eq!((asked.allocation, asked.tail_lines), (allocation, 5));
    let forged = v1::SendLogsRequest { request: asked.request, data: "forged".into(), ..Default::default() };
    let forged = as_principal("agent/m2", tokio_stream::iter([forged]));
    let denied = agents.send_logs(forged).await.unwrap_err();
    assert_eq!((denied.code(), code(&denied).as_str()), (Code::PermissionDenied, "NOT_PERMITTED"));
    // Sixteen of these were kept for each reader, of up to a whole message.
    let data = vec![b'x'; (64 << 10) + 1].into();
    let large = v1::SendLogsRequest { request: asked.request, data, ..Default::default() };
    let large = agents.send_logs(as_principal("agent/m1", tokio_stream::iter([large]))).await.unwrap_err();
    assert_eq!((large.code(), code(&large).as_str()), (Code::InvalidArgument, "INVALID_REQUEST"));
    let (chunks, sent) = tokio::sync::mpsc::channel(4);
    for (data, skipped, end) in [("hello ", 0, false), ("world", 7, true)] {
        let request = asked.request;
        let chunk = v1::SendLogsRequest { request, data: data.into(), skipped, end, ..Default::default() };
        chunks.send(chunk).await.unwrap();
    }
    drop(chunks);
    agents.send_logs(as_principal("agent/m1", ReceiverStream::new(sent))).await.unwrap();
    let mut chunks = Vec::new();
    while let Some(chunk) = reader.message().await.unwrap() {
        chunks.push((chunk.skipped, chunk.data));
    }
    assert_eq!(chunks, [(0, "hello ".into()), (7, "world".into())], "a reader hears of what was skipped");
    server.shutdown().await.unwrap();
}

// Its agent was said to be away, and whoever asked was told to ask again.
#[tokio::test]
async fn what_ran_on_a_machine_that_was_removed_has_no_log_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let (machine, allocation) = granted(&channel).await;
    let mut agents = v1::agents_client::AgentsClient::new(channel.clone());
    agents.report(report(&machine, vec![transition(allocation, v1::AllocationState::Complete)])).await.unwrap();
    let remove = v1::RemoveMachineRequest { name: "m1".to_owned(), force: true, ..Default::default() };
    v1::inspect_client::InspectClient::new(channel.clone()).remove_machine(remove).await.unwrap();
    let mut jobs = v1::jobs_client::JobsClient::new(channel.clone());
    let gone = jobs.logs(v1::LogsRequest { allocation, ..Default::default() }).await.unwrap_err();
    assert_eq!((gone.code(), code(&gone).as_str()), (Code::NotFound, "NO_LOGS"), "{gone}");
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_large_wanted_set_comes_in_parts() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let machine = register(&channel, "m1", 200_000).await;
    let mut large = job("large", 150);
    large.body.as_mut().unwrap().groups[0].command.push("x".repeat(60 << 10));
    let large = submit(&channel, large).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let transaction = session.transaction(1, vec![placement(large.job, vec![0; 150], (0..150).collect())]);
    let outcome = session.commit(transaction).await.unwrap();
    assert_eq!(outcome.granted, 150);
    let mut agents = v1::agents_client::AgentsClient::new(channel.clone()).max_decoding_message_size(5 << 20);
    let follow = v1::FollowRequest { machine: machine.machine, epoch: machine.epoch, ..Default::default() };
    let mut told = agents.follow(follow).await.unwrap().into_inner();
    let (mut parts, mut wanted, mut more) = (0, Vec::new(), true);
    while more {
        let part = told.message().await.unwrap().unwrap();
        assert_eq!((part.full, part.revision > 0), (parts == 0, parts == 0), "the first part says what it is");
        wanted.extend(part.wanted.into_iter().map(|assignment| assignment.allocation));
        (parts, more) = (parts + 1, part.more);
    }
    assert!(parts > 1);
    let mut granted = outcome.placements[0].allocations.clone();
    granted.sort_unstable();
    assert_eq!(wanted, granted);
    server.shutdown().await.unwrap();
}

/// What an agent is asked for next.
async fn asked_of(told: &mut tonic::Streaming<v1::Assignments>) -> v1::LogsAsked {
    loop {
        if let Some(asked) = told.message().await.unwrap().unwrap().logs.pop() {
            return asked;
        }
    }
}

// The reader of a log whose agent was restarted took what had come by then for all.
#[tokio::test]
async fn a_log_that_breaks_off_is_not_taken_for_a_whole_one() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let (machine, allocation) = granted(&channel).await;
    let mut jobs = v1::jobs_client::JobsClient::new(channel.clone());
    let ask = v1::LogsRequest { allocation, follow: true, ..Default::default() };

    // The agent begins anew; its sending ends without the end of the log.
    for is_agent_gone in [true, false] {
        let of_agent = connect(&server).await;
        let mut agents = v1::agents_client::AgentsClient::new(of_agent);
        let follow = v1::FollowRequest { machine: machine.machine, epoch: machine.epoch, ..Default::default() };
        let mut told = agents.follow(follow).await.unwrap().into_inner();
        assert!(told.message().await.unwrap().unwrap().full);
        let mut reader = jobs.logs(ask).await.unwrap().into_inner();
        let asked = asked_of(&mut told).await;
        assert!(asked.follow);
        let (chunks, sent) = tokio::sync::mpsc::channel(4);
        let sending = tokio::spawn({
            let mut agents = agents.clone();
            async move { agents.send_logs(ReceiverStream::new(sent)).await }
        });
        let part = v1::SendLogsRequest { request: asked.request, data: "part".into(), ..Default::default() };
        chunks.send(part).await.unwrap();
        assert_eq!(reader.message().await.unwrap().unwrap().data, "part");
        if is_agent_gone {
            told = agents.follow(follow).await.unwrap().into_inner();
        } else {
            drop(chunks);
            sending.await.unwrap().unwrap();
        }
        let broken = reader.message().await.unwrap_err();
        assert_eq!((broken.code(), code(&broken).as_str()), (Code::Unavailable, "AGENT_GONE"));
        drop(told);
    }

    // Of what has ended nothing more comes: whoever follows gets what there is.
    let mut agents = v1::agents_client::AgentsClient::new(channel.clone());
    agents.report(report(&machine, vec![transition(allocation, v1::AllocationState::Complete)])).await.unwrap();
    let mut told = follow(&channel, &machine).await;
    let _reader = jobs.logs(ask).await.unwrap();
    assert!(!asked_of(&mut told).await.follow);
    server.shutdown().await.unwrap();
}

/// A machine whose agent follows, and an allocation there.
async fn followed(channel: &Channel) -> (u64, tonic::Streaming<v1::Assignments>) {
    let (machine, allocation) = granted(channel).await;
    (allocation, follow(channel, &machine).await)
}

async fn follow(channel: &Channel, machine: &v1::RegisterResponse) -> tonic::Streaming<v1::Assignments> {
    let mut agents = v1::agents_client::AgentsClient::new(channel.clone());
    let follow = v1::FollowRequest { machine: machine.machine, epoch: machine.epoch, ..Default::default() };
    let mut told = agents.follow(follow).await.unwrap().into_inner();
    assert!(told.message().await.unwrap().unwrap().full);
    told
}

// Numbers began anew with each server. A chunk of the one before could go to another log's reader; and an agent that had not yet done
// with a number did not answer the reader that had it now, who waited for ever.
#[tokio::test]
async fn a_reader_of_a_log_has_a_number_that_no_earlier_server_gave() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let (allocation, mut told) = followed(&channel).await;
    let ask = v1::LogsRequest { allocation, follow: true, ..Default::default() };
    let _reader = v1::jobs_client::JobsClient::new(channel.clone()).logs(ask).await.unwrap();
    let first = asked_of(&mut told).await;
    server.shutdown().await.unwrap();

    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let mut told = follow(&channel, &register(&channel, "m1", 4000).await).await;
    let _reader = v1::jobs_client::JobsClient::new(channel.clone()).logs(ask).await.unwrap();
    assert_ne!(asked_of(&mut told).await.request, first.request);
    server.shutdown().await.unwrap();
}

// A call knew only the request that it had sent of last: who read the one before was told of no end.
#[tokio::test]
async fn a_call_answers_one_reader_of_a_log_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let (allocation, mut told) = followed(&channel).await;
    let ask = v1::LogsRequest { allocation, follow: true, ..Default::default() };
    let mut jobs = v1::jobs_client::JobsClient::new(channel.clone());
    let mut one = jobs.logs(ask).await.unwrap().into_inner();
    let mut other = jobs.logs(ask).await.unwrap().into_inner();
    let (first, second) = (asked_of(&mut told).await.request, asked_of(&mut told).await.request);
    let mut agents = v1::agents_client::AgentsClient::new(channel.clone());
    let chunk = |request, end| v1::SendLogsRequest { request, data: "part".into(), end, ..Default::default() };
    let mixed = agents.send_logs(tokio_stream::iter([chunk(first, false), chunk(second, false)]));
    let refused = tokio::time::timeout(Duration::from_secs(60), mixed).await.unwrap().unwrap_err();
    assert_eq!(code(&refused), "INVALID_REQUEST");
    assert_eq!(one.message().await.unwrap().unwrap().data, "part");
    assert_eq!(code(&one.message().await.unwrap_err()), "AGENT_GONE");
    // Nobody has answered the other one yet. One after the other is as good as a call for each.
    let third = jobs.logs(ask).await.unwrap().into_inner();
    let in_turn = [chunk(second, true), chunk(asked_of(&mut told).await.request, true)];
    agents.send_logs(tokio_stream::iter(in_turn)).await.unwrap();
    for reader in [&mut other, &mut { third }] {
        assert_eq!(reader.message().await.unwrap().unwrap().data, "part");
        assert!(reader.message().await.unwrap().is_none());
    }
    server.shutdown().await.unwrap();
}

/// An agent's call in the name of one of a machine's agents.
fn of_instance<T>(instance: &str, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("plenum-instance", instance.parse().unwrap());
    request
}

fn registration(instance: &str) -> v1::RegisterRequest {
    let machine = v1::RegisterMachine {
        name: "m1".to_owned(),
        boot_id: "boot-1".to_owned(),
        capacity: Some(v1::Resources { cpu_millis: 4000, memory_bytes: 1 << 40, ..Default::default() }),
        ..Default::default()
    };
    v1::RegisterRequest { machine: Some(machine), instance: instance.to_owned(), ..Default::default() }
}

#[tokio::test]
async fn a_machine_is_served_by_one_agent_until_its_lease_ends() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let mut agents = v1::agents_client::AgentsClient::new(connect(&server).await);
    let bad = agents.register(registration("No Instance")).await.unwrap_err();
    assert_eq!(code(&bad), "INVALID_REQUEST");

    // Both at once: which one comes first is the network's business.
    let mut twin = agents.clone();
    let (a, b) = tokio::join!(agents.register(registration("a")), twin.register(registration("b")));
    let (machine, refused, holder, other) = match (a, b) {
        (Ok(machine), Err(refused)) => (machine.into_inner(), refused, "a", "b"),
        (Err(refused), Ok(machine)) => (machine.into_inner(), refused, "b", "a"),
        both => panic!("one of them is taken: {both:?}"),
    };
    assert_eq!((refused.code(), code(&refused).as_str()), (Code::AlreadyExists, "MACHINE_TAKEN"));
    assert!(refused.message().contains("machine m1") && refused.message().contains("--name"), "{}", refused.message());
    let again = agents.register(registration(holder)).await.unwrap().into_inner();
    assert_eq!((again.machine, again.epoch), (machine.machine, machine.epoch), "the holder may come back");

    let follow = v1::FollowRequest { machine: machine.machine, epoch: machine.epoch, ..Default::default() };
    assert_eq!(code(&agents.follow(of_instance(other, follow)).await.unwrap_err()), "MACHINE_TAKEN");
    let foreign = agents.report(of_instance(other, report(&machine, Vec::new()))).await.unwrap().into_inner();
    assert!(foreign.register, "it is sent to register, which tells it why");
    assert!(!agents.report(of_instance(holder, report(&machine, Vec::new()))).await.unwrap().into_inner().register);
    server.shutdown().await.unwrap();

    let server = start_with_leases_of(dir.path(), Duration::from_millis(1500)).await;
    let mut agents = v1::agents_client::AgentsClient::new(connect(&server).await);
    agents.report(of_instance(holder, report(&machine, Vec::new()))).await.unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    let successor = loop {
        match agents.register(registration(other)).await {
            Ok(machine) => break machine.into_inner(),
            Err(refused) => assert_eq!(code(&refused), "MACHINE_TAKEN"),
        }
        assert!(tokio::time::Instant::now() < deadline, "the lease does not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(successor.machine, machine.machine);
    assert_eq!(code(&agents.register(registration(holder)).await.unwrap_err()), "MACHINE_TAKEN");
    server.shutdown().await.unwrap();
}

// What an agent had sent before it was killed arrived behind its successor's registration, and gave the machine the room and the attributes of
// before.
#[tokio::test]
async fn what_an_agent_asked_before_it_asked_for_the_registration_that_counts_is_too_late() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let mut agents = v1::agents_client::AgentsClient::new(connect(&server).await);
    let mut machines = v1::inspect_client::InspectClient::new(connect(&server).await);
    let asked = |asked_micros: u64, cpu_millis: i64| {
        let mut request = v1::RegisterRequest { asked_micros, ..registration("a") };
        request.machine.as_mut().unwrap().capacity.as_mut().unwrap().cpu_millis = cpu_millis;
        request
    };
    agents.register(asked(20, 8000)).await.unwrap();
    let late = agents.register(asked(10, 4000)).await.unwrap_err();
    assert_eq!((late.code(), code(&late).as_str()), (Code::AlreadyExists, "MACHINE_TAKEN"));
    assert!(late.message().contains("asked 0.000010 s after the boot"), "{}", late.message());
    let listed = machines.list_machines(v1::ListRequest::default()).await.unwrap().into_inner().machines;
    assert_eq!(listed[0].capacity.as_ref().unwrap().cpu_millis, 8000);
    // Later ones count, and those of who doesn't say when it asked.
    agents.register(asked(30, 6000)).await.unwrap();
    let registered = agents.register(asked(0, 7000)).await.unwrap().into_inner();
    // After a boot the time begins anew.
    let mut booted = v1::RegisterRequest { revision: registered.revision, incarnation: 1, ..asked(5, 9000) };
    booted.machine.as_mut().unwrap().boot_id = "boot-2".to_owned();
    assert_eq!(agents.register(booted).await.unwrap().into_inner().epoch, registered.epoch + 1);
    server.shutdown().await.unwrap();
}

/// Waits for the next segment of the log, which is made behind whatever else goes on.
async fn next_segment_is_made(inspect: &mut v1::inspect_client::InspectClient<Channel>) -> v1::StatusResponse {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let status = inspect.status(v1::StatusRequest {}).await.unwrap().into_inner();
        if status.log_bytes == 2 << 20 {
            return status;
        }
        assert!(tokio::time::Instant::now() < deadline, "the next segment is not made: {status:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The segments of a log, byte for byte.
fn log_of(dir: &std::path::Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(dir.join("log")).unwrap().map(|entry| entry.unwrap().path());
    let mut segments: Vec<_> = entries.filter(|path| path.extension().is_some_and(|kind| kind == "segment")).collect();
    segments.sort();
    assert!(!segments.is_empty());
    segments.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

#[tokio::test]
async fn what_machines_use_can_be_read_and_moves_neither_the_revision_nor_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let machines = [register(&channel, "m1", 4000).await, register(&channel, "m2", 4000).await];
    let mut inspect = v1::inspect_client::InspectClient::new(channel.clone());
    let before = next_segment_is_made(&mut inspect).await;
    let logged = log_of(dir.path());
    let mut agents = v1::agents_client::AgentsClient::new(channel.clone());
    for round in 1..=20 {
        for (number, machine) in (1..).zip(&machines) {
            let used = v1::Resources { cpu_millis: round * number, memory_bytes: round << 20, ..Default::default() };
            let telemetry = Some(v1::MachineTelemetry { used: Some(used), tasks: 3 });
            let said = v1::ReportRequest { telemetry, ..report(machine, Vec::new()) };
            let answer = agents.report(said).await.unwrap().into_inner();
            assert_eq!((answer.revision, answer.register), (before.revision, false));
        }
    }
    let after = inspect.status(v1::StatusRequest {}).await.unwrap().into_inner();
    assert_eq!((after.revision, after.log_bytes), (before.revision, before.log_bytes));
    assert!(log_of(dir.path()) == logged, "nothing of it is logged");
    // The last of each machine, added up.
    let metrics = page(server.address(), "/metrics").await;
    let used = |line: &str| metrics.lines().any(|found| found == line);
    assert!(used("plenum_machine_resource_used{resource=\"cpu_millis\"} 60"), "{metrics}");
    assert!(used("plenum_machine_resource_used{resource=\"memory_bytes\"} 41943040"), "{metrics}");
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_reader_of_logs_too_many_is_told_when_to_come_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut narrow = options(dir.path());
    narrow.settings.log_readers = 1;
    let server = plenum_server::Server::start(narrow).await.unwrap();
    let channel = connect(&server).await;
    let (allocation, _told) = followed(&channel).await;
    let ask = v1::LogsRequest { allocation, follow: true, ..Default::default() };
    let mut jobs = v1::jobs_client::JobsClient::new(channel.clone());
    let _reader = jobs.logs(ask).await.unwrap();
    let refused = jobs.logs(ask).await.unwrap_err();
    assert_eq!((refused.code(), code(&refused).as_str()), (Code::ResourceExhausted, "TOO_MANY_READERS"));
    assert_eq!(refused.metadata().get("plenum-retry-after-micros").unwrap(), "1000000");
    server.shutdown().await.unwrap();
}

// The call ended where it waited for the reader, without a word, and the reader waited for ever.
#[tokio::test]
async fn a_reader_that_is_behind_hears_that_its_agent_broke_off() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let (allocation, mut told) = followed(&connect(&server).await).await;
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", server.address())).unwrap();
    let narrow = endpoint.initial_stream_window_size(1 << 16).initial_connection_window_size(1 << 16);
    let mut jobs = v1::jobs_client::JobsClient::new(narrow.connect().await.unwrap());
    let mut reader = jobs.logs(v1::LogsRequest { allocation, ..Default::default() }).await.unwrap().into_inner();
    let asked = asked_of(&mut told).await;
    let (chunks, sent) = tokio::sync::mpsc::channel(1);
    let uploads = connect(&server).await;
    let call = tokio::spawn(async move {
        v1::agents_client::AgentsClient::new(uploads).send_logs(ReceiverStream::new(sent)).await
    });
    // More than the reader has room for.
    let filling = async {
        loop {
            let data = vec![b'x'; 60 << 10].into();
            let chunk = v1::SendLogsRequest { request: asked.request, data, ..Default::default() };
            chunks.send(chunk).await.unwrap();
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(3), filling).await.is_err());
    // The call is reset; its agent goes on following.
    call.abort();
    let reading = async {
        loop {
            match reader.message().await {
                Ok(Some(_)) => {}
                end => return end.map_err(|status| code(&status)),
            }
        }
    };
    let end = tokio::time::timeout(Duration::from_secs(20), reading).await;
    assert_eq!(end.expect("the reader hears of it"), Err("AGENT_GONE".to_owned()));
    drop(told);
    server.shutdown().await.unwrap();
}

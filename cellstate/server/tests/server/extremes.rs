//! Numbers at the ends of their types, in each request that has some: answered, or refused with a code of ours, and never a fault.

use plenum_proto::v1;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::client::{Session, code, connect, job, placement, register, start, submit};

const NUMBERS: [u64; 8] = [0, 1, 1 << 32, (1 << 32) + 1, u32::MAX as u64, i64::MAX as u64, 1 << 63, u64::MAX];

fn low(number: u64) -> u32 {
    u32::try_from(number & u64::from(u32::MAX)).unwrap()
}

/// Fails on an answer that is a fault of the server.
#[track_caller]
fn judge<T>(number: u64, answer: Result<tonic::Response<T>, Status>) {
    if let Err(status) = answer {
        let (kind, code) = (status.code(), code(&status));
        assert!(!matches!(kind, Code::Internal | Code::Unknown | Code::Cancelled), "{number}: {status:?}");
        assert!(!code.is_empty(), "{number} has no code: {status:?}");
    }
}

#[tokio::test]
async fn numbers_at_the_ends_of_their_types_are_answered_and_never_a_fault() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let machine = register(&channel, "m1", 4000).await;
    let crunch = submit(&channel, job("crunch", 3)).await.job;
    let mut nightly = job("nightly", 1);
    nightly.shape.as_mut().unwrap().kind = v1::JobKind::Recurring.into();
    submit(&channel, nightly).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let own = session.transaction(1, vec![placement(crunch, vec![0], vec![0])]);
    session.commit(own).await.unwrap();
    for number in NUMBERS {
        let time_micros = number.cast_signed();
        for at in [v1::At { revision: number, time_micros: 0 }, v1::At { revision: 0, time_micros }] {
            who_lists(&channel, number, at).await;
            who_reads(&channel, number, Some(at)).await;
        }
        who_reads(&channel, number, None).await;
        who_schedules(&channel, &session, crunch, number).await;
        who_owns_jobs(&channel, number).await;
        who_operates(&channel, number).await;
        for (machine, epoch) in
            [(machine.machine, machine.epoch), (number, machine.epoch), (machine.machine, low(number))]
        {
            who_runs_tasks(&channel, number, machine, epoch).await;
        }
        who_registers(&channel, number).await;
    }
    drop(session);
    server.shutdown().await.unwrap();
    let report = plenum_server::verify(dir.path()).unwrap();
    assert!(report.is_sound(), "{:?}", report.violations);
}

async fn who_lists(channel: &Channel, number: u64, at: v1::At) {
    let mut jobs = v1::jobs_client::JobsClient::new(channel.clone());
    let mut inspect = v1::inspect_client::InspectClient::new(channel.clone());
    let mut govern = v1::govern_client::GovernClient::new(channel.clone());
    let list = v1::ListRequest { at: Some(at), limit: low(number), ..Default::default() };
    judge(number, jobs.list(list.clone()).await);
    judge(number, inspect.list_machines(list.clone()).await);
    judge(number, inspect.list_sessions(list.clone()).await);
    judge(number, govern.list_holds(list.clone()).await);
    let all = v1::ListAllocationsRequest { list: Some(list.clone()), ended: true, ..Default::default() };
    judge(number, jobs.list_allocations(all).await);
    for oldest_first in [true, false] {
        let (list, after_revision) = (Some(list.clone()), number);
        let request = v1::ListTransactionsRequest { list, oldest_first, after_revision, ..Default::default() };
        judge(number, inspect.list_transactions(request).await);
    }
    let (since_micros, limit) = (number.cast_signed(), low(number));
    let request = v1::ListConflictsRequest { since_micros, limit, at: Some(at), ..Default::default() };
    judge(number, inspect.list_conflicts(request).await);
}

async fn who_reads(channel: &Channel, number: u64, at: Option<v1::At>) {
    let mut jobs = v1::jobs_client::JobsClient::new(channel.clone());
    let mut inspect = v1::inspect_client::InspectClient::new(channel.clone());
    let (limit, allocation) = (low(number), number);
    let request = v1::JobHistoryRequest { name: "crunch".into(), at, limit, ..Default::default() };
    judge(number, jobs.job_history(request).await);
    judge(number, inspect.machine_history(v1::MachineHistoryRequest { name: "m1".into(), at, limit }).await);
    judge(number, jobs.allocation_history(v1::AllocationHistoryRequest { allocation, at, limit }).await);
    judge(number, jobs.get_allocation(v1::GetAllocationRequest { allocation, at }).await);
    judge(number, jobs.logs(v1::LogsRequest { allocation, tail_lines: limit, ..Default::default() }).await);
    judge(number, inspect.get_transaction(v1::GetTransactionRequest { session: number, number }).await);
}

async fn who_schedules(channel: &Channel, session: &Session, crunch: u64, number: u64) {
    let mut cell = v1::cell_client::CellClient::new(channel.clone());
    let (signed, short) = (number.cast_signed(), low(number));
    let request = v1::TakeHoldRequest {
        session: 0,
        job: crunch,
        machines: vec![short, 0],
        resources: Some(v1::Resources { cpu_millis: signed, ..Default::default() }),
        within_micros: signed,
        incarnation: 0,
    };
    judge(number, cell.take_hold(request.clone()).await);
    judge(number, cell.take_hold(v1::TakeHoldRequest { job: number, ..request.clone() }).await);
    judge(number, cell.take_hold(v1::TakeHoldRequest { session: number, ..request.clone() }).await);
    judge(number, cell.take_hold(v1::TakeHoldRequest { incarnation: number, ..request.clone() }).await);
    judge(number, cell.close(v1::CloseRequest { session: number, incarnation: 0 }).await);
    judge(number, cell.close(v1::CloseRequest { session: 1 << 40, incarnation: number }).await);
    let placement = v1::Placement {
        group: short,
        job_version: short,
        min: short,
        alternates: vec![short],
        ..placement(number, vec![short], vec![short])
    };
    let transaction = v1::Transaction {
        base_revision: number,
        check: v1::ConflictCheck::Sequence.into(),
        stops: vec![number],
        ..session.transaction(number, vec![placement])
    };
    judge(number, cell.commit(transaction).await);
    let hello = v1::Hello { revision: number, incarnation: short.into(), ..Default::default() };
    judge(number, cell.watch(hello).await);
}

async fn who_owns_jobs(channel: &Channel, number: u64) {
    let mut jobs = v1::jobs_client::JobsClient::new(channel.clone());
    let (name, group, count) = ("crunch".to_owned(), "work".to_owned(), low(number));
    judge(number, jobs.scale(v1::ScaleRequest { name, group, count, ..Default::default() }).await);
    let instant_micros = Some(number.cast_signed());
    let request = v1::LaunchRequest { name: "nightly".into(), instant_micros, ..Default::default() };
    judge(number, jobs.launch(request).await);
    judge(number, jobs.stop_allocation(v1::StopAllocationRequest { allocation: number }).await);
}

async fn who_operates(channel: &Channel, number: u64) {
    let mut govern = v1::govern_client::GovernClient::new(channel.clone());
    let signed = number.cast_signed();
    let request = v1::AdoptTaskRequest { machine: "m1".into(), allocation: number };
    judge(number, govern.adopt_task(request).await);
    let quota =
        v1::Quota { cpu_millis: Some(signed), memory_bytes: Some(signed), disk_bytes: None, custom: vec![signed; 5] };
    judge(number, govern.set_quota(v1::SetQuota { namespace: "other".into(), limit: Some(quota) }).await);
    let request = v1::DrainRequest { name: "m1".into(), undrain: false, within_micros: signed };
    judge(number, govern.drain_machine(request).await);
}

async fn who_runs_tasks(channel: &Channel, number: u64, machine: u64, epoch: u32) {
    let mut agents = v1::agents_client::AgentsClient::new(channel.clone());
    let (signed, short) = (number.cast_signed(), low(number));
    let transition = v1::Transition {
        allocation: number,
        state: v1::AllocationState::Running.into(),
        exit_code: short.cast_signed(),
        restarts: short,
        ..Default::default()
    };
    let request = v1::ReportRequest { machine, epoch, transitions: vec![transition], ..Default::default() };
    judge(number, agents.report(request.clone()).await);
    let used = Some(v1::Resources { cpu_millis: signed, ..Default::default() });
    let telemetry = Some(v1::MachineTelemetry { used, tasks: short });
    judge(number, agents.report(v1::ReportRequest { telemetry, ..request }).await);
    judge(number, agents.follow(v1::FollowRequest { machine, epoch, ..Default::default() }).await);
    let request = v1::ReportManyRequest {
        machines: vec![machine],
        epochs: vec![epoch],
        of: vec![short],
        allocations: vec![number],
        states: vec![short.cast_signed()],
        unfit: vec![short.cast_signed()],
        ..Default::default()
    };
    judge(number, agents.report_many(request).await);
}

async fn who_registers(channel: &Channel, number: u64) {
    let mut agents = v1::agents_client::AgentsClient::new(channel.clone());
    let (signed, short) = (number.cast_signed(), low(number));
    let state = v1::AllocationState::Running.into();
    let machine = v1::RegisterMachine {
        name: "m2".into(),
        boot_id: "boot".into(),
        capacity: Some(v1::Resources { cpu_millis: signed, memory_bytes: signed, ..Default::default() }),
        devices: vec![v1::Device {
            kind: "gpu".into(),
            index: short,
            millis: short.cast_signed(),
            ..Default::default()
        }],
        inventory: vec![v1::InventoryItem { allocation: number, state, ..Default::default() }],
        ..Default::default()
    };
    let request = v1::RegisterRequest { machine: Some(machine), revision: number, ..Default::default() };
    judge(number, agents.register(request.clone()).await);
    judge(number, agents.register(v1::RegisterRequest { revision: 0, incarnation: number, ..request }).await);
}

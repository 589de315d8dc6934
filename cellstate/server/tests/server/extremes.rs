//! Numbers at the ends of their types, in each request that has some: answered, or refused with a code of ours, and never a fault.

use plenum_proto::v1;
use tonic::{Code, Status};

use crate::client::{Session, code, connect, job, placement, register, start, submit};

const NUMBERS: [u64; 8] = [0, 1, 1 << 32, (1 << 32) + 1, u32::MAX as u64, i64::MAX as u64, 1 << 63, u64::MAX];

fn low(number: u64) -> u32 {
    u32::try_from(number & u64::from(u32::MAX)).unwrap()
}

/// Fails on an answer that is a fault of the server.
#[track_caller]
fn judge<T>(what: &str, number: u64, answer: Result<tonic::Response<T>, Status>) {
    if let Err(status) = answer {
        let (kind, code) = (status.code(), code(&status));
        assert!(!matches!(kind, Code::Internal | Code::Unknown | Code::Cancelled), "{what} of {number}: {status:?}");
        assert!(!code.is_empty(), "{what} of {number} has no code: {status:?}");
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
    let mut cell = v1::cell_client::CellClient::new(channel.clone());
    let mut jobs = v1::jobs_client::JobsClient::new(channel.clone());
    let mut inspect = v1::inspect_client::InspectClient::new(channel.clone());
    let mut govern = v1::govern_client::GovernClient::new(channel.clone());
    let mut agents = v1::agents_client::AgentsClient::new(channel.clone());
    for number in NUMBERS {
        let (signed, short) = (number.cast_signed(), low(number));
        for at in [v1::At { revision: number, time_micros: 0 }, v1::At { revision: 0, time_micros: signed }] {
            let list = v1::ListRequest { at: Some(at), limit: short, ..Default::default() };
            judge("list jobs", number, jobs.list(list.clone()).await);
            judge("list machines", number, inspect.list_machines(list.clone()).await);
            judge("list sessions", number, inspect.list_sessions(list.clone()).await);
            judge("list holds", number, govern.list_holds(list.clone()).await);
            let all = v1::ListAllocationsRequest { list: Some(list.clone()), ended: true, ..Default::default() };
            judge("list allocations", number, jobs.list_allocations(all).await);
            for oldest_first in [true, false] {
                let list = Some(list.clone());
                let request =
                    v1::ListTransactionsRequest { list, oldest_first, after_revision: number, ..Default::default() };
                judge("list transactions", number, inspect.list_transactions(request).await);
            }
            let request =
                v1::ListConflictsRequest { since_micros: signed, limit: short, at: Some(at), ..Default::default() };
            judge("list conflicts", number, inspect.list_conflicts(request).await);
            let request =
                v1::JobHistoryRequest { name: "crunch".into(), at: Some(at), limit: short, ..Default::default() };
            judge("job history", number, jobs.job_history(request).await);
            let request = v1::MachineHistoryRequest { name: "m1".into(), at: Some(at), limit: short };
            judge("machine history", number, inspect.machine_history(request).await);
            let request = v1::AllocationHistoryRequest { allocation: number, at: Some(at), limit: short };
            judge("allocation history", number, jobs.allocation_history(request).await);
            judge(
                "get allocation",
                number,
                jobs.get_allocation(v1::GetAllocationRequest { allocation: number, at: Some(at) }).await,
            );
        }
        judge(
            "get allocation",
            number,
            jobs.get_allocation(v1::GetAllocationRequest { allocation: number, at: None }).await,
        );
        judge(
            "get transaction",
            number,
            inspect.get_transaction(v1::GetTransactionRequest { session: number, number }).await,
        );
        let request = v1::TakeHoldRequest {
            session: 0,
            job: crunch,
            machines: vec![short, 0],
            resources: Some(v1::Resources { cpu_millis: signed, ..Default::default() }),
            within_micros: signed,
        };
        judge("take hold", number, cell.take_hold(request.clone()).await);
        judge("take hold", number, cell.take_hold(v1::TakeHoldRequest { job: number, ..request.clone() }).await);
        judge("take hold", number, cell.take_hold(v1::TakeHoldRequest { session: number, ..request }).await);
        judge("close", number, cell.close(v1::CloseRequest { session: number }).await);
        let transaction = v1::Transaction {
            session: session.welcome.session,
            number,
            incarnation: session.welcome.incarnation,
            base_revision: number,
            check: v1::ConflictCheck::Sequence.into(),
            placements: vec![v1::Placement {
                job: number,
                group: short,
                job_version: short,
                machines: vec![short],
                tasks: vec![short],
                min: short,
                alternates: vec![short],
                ..Default::default()
            }],
            stops: vec![number],
            ..Default::default()
        };
        judge("commit", number, cell.commit(transaction).await);
        let scale =
            v1::ScaleRequest { name: "crunch".into(), group: "work".into(), count: short, ..Default::default() };
        judge("scale", number, jobs.scale(scale).await);
        judge(
            "launch",
            number,
            jobs.launch(v1::LaunchRequest {
                name: "nightly".into(),
                instant_micros: Some(signed),
                ..Default::default()
            })
            .await,
        );
        judge("stop allocation", number, jobs.stop_allocation(v1::StopAllocationRequest { allocation: number }).await);
        judge("logs", number, jobs.logs(v1::LogsRequest { allocation: number, ..Default::default() }).await);
        let request = v1::AdoptTaskRequest { machine: "m1".into(), allocation: number };
        judge("adopt", number, govern.adopt_task(request).await);
        let quota = v1::Quota {
            cpu_millis: Some(signed),
            memory_bytes: Some(signed),
            disk_bytes: None,
            custom: vec![signed; 5],
        };
        let request = v1::SetQuota { namespace: "other".into(), limit: Some(quota) };
        judge("set quota", number, govern.set_quota(request).await);
        let request = v1::DrainRequest { name: "m1".into(), undrain: false, within_micros: signed };
        judge("drain", number, govern.drain_machine(request).await);
        let transition = v1::Transition {
            allocation: number,
            state: v1::AllocationState::Running.into(),
            exit_code: short.cast_signed(),
            restarts: short,
            ..Default::default()
        };
        let telemetry = v1::MachineTelemetry {
            used: Some(v1::Resources { cpu_millis: signed, ..Default::default() }),
            tasks: short,
        };
        for (machine, epoch) in [(machine.machine, machine.epoch), (number, machine.epoch), (machine.machine, short)] {
            let transitions = vec![transition.clone()];
            let request = v1::ReportRequest { machine, epoch, transitions, ..Default::default() };
            judge("report", number, agents.report(request.clone()).await);
            let request = v1::ReportRequest { telemetry: Some(telemetry.clone()), ..request };
            judge("report", number, agents.report(request).await);
            judge("follow", number, agents.follow(v1::FollowRequest { machine, epoch }).await);
            let request = v1::ReportManyRequest {
                machines: vec![machine],
                epochs: vec![epoch],
                of: vec![short],
                allocations: vec![number],
                states: vec![short.cast_signed()],
                unfit: vec![short.cast_signed()],
                ..Default::default()
            };
            judge("report many", number, agents.report_many(request).await);
        }
        let wire = v1::RegisterMachine {
            name: "m2".into(),
            boot_id: "boot".into(),
            capacity: Some(v1::Resources { cpu_millis: signed, memory_bytes: signed, ..Default::default() }),
            devices: vec![v1::Device {
                kind: "gpu".into(),
                index: short,
                millis: short.cast_signed(),
                model: String::new(),
            }],
            inventory: vec![v1::InventoryItem {
                allocation: number,
                state: v1::AllocationState::Running.into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let request = v1::RegisterRequest { machine: Some(wire), revision: number, ..Default::default() };
        judge("register", number, agents.register(request.clone()).await);
        judge(
            "register",
            number,
            agents.register(v1::RegisterRequest { revision: 0, incarnation: number, ..request }).await,
        );
        let hello = v1::Hello { revision: number, incarnation: short.into(), ..Default::default() };
        judge("watch", number, cell.watch(hello).await);
    }
    drop(session);
    server.shutdown().await.unwrap();
    let report = plenum_server::verify(dir.path()).unwrap();
    assert!(report.is_sound(), "{:?}", report.violations);
}

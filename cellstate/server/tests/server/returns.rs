//! Machines that come back: late, restored, or in two hands at once.

use std::path::Path;
use std::time::Duration;

use plenum_proto::v1::{self, agents_client::AgentsClient, govern_client::GovernClient, inspect_client::InspectClient};
use plenum_server::{Handle, RestoreOptions, Server, restore};
use tonic::transport::Channel;

use crate::client::{Session, code, connect, job, options, placement, register, start, start_with_leases_of, submit};
use crate::inspection::page;
use crate::stalled::shows;

fn machine(boot_id: &str, inventory: Vec<v1::InventoryItem>) -> v1::RegisterMachine {
    v1::RegisterMachine {
        name: "m1".to_owned(),
        boot_id: boot_id.to_owned(),
        capacity: Some(v1::Resources { cpu_millis: 4000, memory_bytes: 1 << 40, ..Default::default() }),
        inventory,
        ..Default::default()
    }
}

/// The machine as it is listed.
async fn listed(channel: &Channel) -> v1::MachineView {
    let request = v1::GetMachineRequest { name: "m1".to_owned(), at: None };
    InspectClient::new(channel.clone()).get_machine(request).await.unwrap().into_inner().machine.unwrap()
}

/// What comes of a registration of `m1` since a boot, by an agent that has seen so much of the cell.
async fn ask(
    channel: &Channel,
    boot_id: &str,
    instance: &str,
    revision: u64,
) -> Result<v1::RegisterResponse, tonic::Status> {
    let request = v1::RegisterRequest {
        machine: Some(machine(boot_id, Vec::new())),
        revision,
        incarnation: u64::from(revision > 0),
        instance: instance.to_owned(),
        ..Default::default()
    };
    AgentsClient::new(channel.clone()).register(request).await.map(tonic::Response::into_inner)
}

/// The agent registered, its request was held up, the machine booted and registered; then the first request arrived once more, and
/// the machine went back to its former boot.
#[tokio::test]
async fn a_registration_that_was_held_up_past_a_boot_takes_no_effect() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let ask = async |boot_id: &str, revision: u64| ask(&channel, boot_id, "a", revision).await.unwrap();
    let first = ask("boot-1", 0).await;
    let booted = ask("boot-2", first.revision).await;
    assert_eq!((booted.machine, booted.epoch, booted.register_again), (first.machine, first.epoch + 1, false));
    let before = listed(&channel).await;
    let late = ask("boot-1", first.revision).await;
    assert!(late.register_again && late.revision >= booted.revision, "{late:?}");
    assert_eq!(listed(&channel).await, before, "nothing of the machine has changed");
    // Whoever really is there asks again with what it has heard now.
    let again = ask("boot-2", late.revision).await;
    assert_eq!((again.epoch, again.register_again), (booted.epoch, false));
    server.shutdown().await.unwrap();
}

// Two hosts of one image, with one name and the same agent's directory, took turns: each counted as the other one after a boot, and every few seconds all
// that ran there was lost. Nobody said so.
#[tokio::test]
async fn a_boot_that_a_later_one_has_superseded_does_not_come_back_while_the_lease_runs() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let ask = async |boot_id: &str, revision: u64| {
        ask(&channel, boot_id, "a", revision).await.map_err(|status| code(&status))
    };
    let first = ask("boot-1", 0).await.unwrap();
    let other = ask("boot-2", first.revision).await.unwrap();
    assert_eq!((other.epoch, other.register_again), (first.epoch + 1, false));
    // Its epoch is over, of which it hears first.
    let heard = ask("boot-1", first.revision).await.unwrap();
    assert!(heard.register_again);
    let before = listed(&channel).await;
    assert_eq!(ask("boot-1", heard.revision).await.unwrap_err(), "MACHINE_TAKEN");
    assert_eq!(listed(&channel).await, before, "nothing of the machine has changed");
    // Whose machine it is goes on, and may boot.
    let same = ask("boot-2", other.revision).await.unwrap();
    assert_eq!((same.epoch, same.register_again), (other.epoch, false));
    let booted = ask("boot-3", same.revision).await.unwrap();
    assert_eq!((booted.epoch, booted.register_again), (other.epoch + 1, false));
    for superseded in ["boot-1", "boot-2"] {
        assert_eq!(ask(superseded, booted.revision).await.unwrap_err(), "MACHINE_TAKEN");
    }
    server.shutdown().await.unwrap();
}

// Two hosts were merely called the same, each with a directory of its own: the first one was told that the other has a copy of its directory.
#[tokio::test]
async fn who_comes_back_to_a_machine_of_another_directory_is_told_so_though_that_one_has_booted() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let first = ask(&connect(&server).await, "boot-1", "a", 0).await.unwrap();
    server.shutdown().await.unwrap();
    // The other one is quicker.
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let other = ask(&channel, "boot-2", "b", first.revision).await.unwrap();
    assert_eq!((other.machine, other.epoch, other.register_again), (first.machine, first.epoch + 1, false));
    let copied = "a copy of this one's directory; what runs here counts as lost and runs on";
    for (instance, expected) in [("a", "an agent with another directory"), ("b", copied)] {
        let refused = ask(&channel, "boot-1", instance, other.revision).await.unwrap_err();
        assert_eq!(code(&refused), "MACHINE_TAKEN");
        assert!(refused.message().contains(expected), "{refused}");
    }
    server.shutdown().await.unwrap();
}

/// A machine of a cell with small segments ran some hundred tasks. When its agent had been started again, its registration came to more than
/// a frame of the log: it was refused for ever, and all that ran there was lost.
#[tokio::test]
async fn a_machine_that_runs_much_comes_back_whatever_its_tasks_are_called() {
    let dir = tempfile::tempdir().unwrap();
    let mut small = options(dir.path());
    small.settings.segment_bytes = 64 << 10;
    let server = Server::start(small).await.unwrap();
    let channel = connect(&server).await;
    let first = register(&channel, "m1", 4_000_000).await;
    let (name, mut allocations) = ("x".repeat(63), Vec::new());
    let crunch = submit(&channel, job(&name, 200)).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    for number in 0..10 {
        let tasks = (number * 20..number * 20 + 20).collect();
        let transaction = session.transaction(u64::from(number) + 1, vec![placement(crunch.job, vec![0; 20], tasks)]);
        allocations.extend(session.commit(transaction).await.unwrap().placements.remove(0).allocations);
    }
    let inventory = allocations.iter().map(|&allocation| {
        let mut item = stranger(allocation, 0);
        let task = item.task.as_mut().unwrap();
        (task.job, task.namespace, task.group) = (name.clone(), name.clone(), name.clone());
        item
    });
    let stray = (7 << 32) | 5000;
    let inventory: Vec<_> = inventory.chain([stranger(stray, 0)]).collect();
    let machine = v1::RegisterMachine {
        capacity: Some(v1::Resources { cpu_millis: 4_000_000, memory_bytes: 1 << 40, ..Default::default() }),
        ..machine("boot-1", inventory)
    };
    let request = v1::RegisterRequest { machine: Some(machine), ..Default::default() };
    let again = AgentsClient::new(channel.clone()).register(request).await.unwrap().into_inner();
    assert_eq!((again.machine, again.epoch), (first.machine, first.epoch));
    assert_eq!(unknown(&channel).await.iter().map(|task| task.allocation).collect::<Vec<_>>(), [stray]);
    drop(session);
    server.shutdown().await.unwrap();
}

/// An agent that had seen a later life of the cell was taken by a server of before, which told it to stop all that it ran.
#[tokio::test]
async fn an_agent_that_has_seen_more_than_there_is_is_not_registered() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let mut agents = AgentsClient::new(channel.clone());
    let mut ask = async |incarnation: u64, revision: u64| {
        let machine = Some(machine("boot-1", Vec::new()));
        let request =
            v1::RegisterRequest { machine, revision, incarnation, instance: "a".to_owned(), ..Default::default() };
        agents.register(request).await.map(|answer| answer.into_inner().revision).map_err(|status| code(&status))
    };
    let refused = Err("NO_SUCH_REVISION".to_owned());
    assert_eq!(ask(2, 1).await, refused);
    assert_eq!(ask(1, 1000).await, refused);
    let mut inspect = InspectClient::new(channel.clone());
    let listed = inspect.list_machines(v1::ListRequest::default()).await.unwrap().into_inner();
    assert!(listed.machines.is_empty(), "nothing of it is written down");
    let first = ask(0, 0).await.unwrap();
    assert!(ask(1, first).await.is_ok() && ask(0, 1 << 40).await.is_ok(), "of an earlier life it may have seen any");
    server.shutdown().await.unwrap();
}

/// Within its lease an agent does not register: an older copy that was put back told it to stop all that it did not know.
#[tokio::test]
async fn an_agent_that_has_seen_more_than_there_is_is_not_told_what_to_run() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let registered = register(&channel, "m1", 4000).await;
    let mut agents = AgentsClient::new(channel.clone());
    let mut ask = async |incarnation: u64, revision: u64| {
        let (machine, epoch) = (registered.machine, registered.epoch);
        let follow = v1::FollowRequest { machine, epoch, revision, incarnation };
        let mut told = agents.follow(follow).await.map_err(|status| code(&status))?.into_inner();
        Ok::<_, String>(told.message().await.unwrap().unwrap().full)
    };
    let refused = Err("NO_SUCH_REVISION".to_owned());
    assert_eq!(ask(1, registered.revision + 1000).await, refused);
    assert_eq!(ask(2, 1).await, refused);
    assert_eq!(ask(1, registered.revision).await, Ok(true));
    assert_eq!(ask(0, 0).await, Ok(true), "who does not say is told as before");
    server.shutdown().await.unwrap();
}

/// An older copy that was put back within the lease took a report, and said that all was well: its agent forgot how tasks had ended of which the cell
/// that went on has not heard.
#[tokio::test]
async fn nothing_that_an_agent_reports_is_taken_where_it_has_seen_more_than_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let registered = register(&channel, "m1", 4000).await;
    let (machine, epoch) = (registered.machine, registered.epoch);
    let mut agents = AgentsClient::new(channel.clone());
    let unfit: i32 = v1::Unfit::AgentLeaves.into();
    let mut ask = async |incarnation: u64, revision: u64| {
        let report = v1::ReportRequest { machine, epoch, unfit, revision, incarnation, ..Default::default() };
        let alone = agents.report(report).await.map(|answer| answer.into_inner().register);
        let (machines, epochs, unfit) = (vec![machine], vec![epoch], vec![unfit]);
        let (revisions, incarnations) = (vec![revision], vec![incarnation]);
        let many = v1::ReportManyRequest { machines, epochs, unfit, revisions, incarnations, ..Default::default() };
        let relayed = agents.report_many(many).await.unwrap().into_inner();
        (alone.map_err(|status| code(&status)), relayed.register)
    };
    let refused = (Err("NO_SUCH_REVISION".to_owned()), vec![machine]);
    assert_eq!(ask(1, registered.revision + 1000).await, refused);
    assert_eq!(ask(2, 1).await, refused);
    assert_eq!(listed(&channel).await.unfit(), v1::Unfit::Unspecified, "nothing of it is written down");
    let status = InspectClient::new(channel.clone()).status(v1::StatusRequest {}).await.unwrap().into_inner();
    assert!(status.older_copy.starts_with("the agent of m1 has seen incarnation 2"), "{}", status.older_copy);
    shows(&server, "plenum_older_copy 1").await;
    let taken = (Ok(false), Vec::new());
    assert_eq!(ask(0, 0).await, taken, "who does not say is believed as before");
    assert_eq!(listed(&channel).await.unfit(), v1::Unfit::AgentLeaves);
    assert_eq!(ask(1, registered.revision).await, taken);
    server.shutdown().await.unwrap();
}

/// A task that only its agent knows.
fn stranger(allocation: u64, task_index: u32) -> v1::InventoryItem {
    let task = v1::TaskTraces {
        namespace: "default".to_owned(),
        job: "forgotten".to_owned(),
        group: "work".to_owned(),
        task_index,
        resources: Some(v1::Resources { cpu_millis: 1000, memory_bytes: 1 << 20, ..Default::default() }),
        ..Default::default()
    };
    let state = v1::AllocationState::Running.into();
    v1::InventoryItem { allocation, state, task: Some(task), ..Default::default() }
}

async fn unknown(channel: &Channel) -> Vec<v1::UnknownTaskView> {
    listed_unknown(channel, None).await.tasks
}

async fn listed_unknown(channel: &Channel, at: Option<v1::At>) -> v1::ListUnknownTasksResponse {
    let request = v1::ListRequest { at, ..Default::default() };
    GovernClient::new(channel.clone()).list_unknown_tasks(request).await.unwrap().into_inner()
}

/// Starts a cell in which unknown tasks are told to stop after so long.
async fn start_with(dir: &Path, unknown_micros: i64) -> (Handle, Channel) {
    let mut options = options(dir);
    options.settings.core.unknown_micros = unknown_micros;
    let server = Server::start(options).await.unwrap();
    let channel = connect(&server).await;
    (server, channel)
}

async fn register_with(channel: &Channel, inventory: Vec<v1::InventoryItem>) -> v1::RegisterResponse {
    let request = v1::RegisterRequest { machine: Some(machine("boot-1", inventory)), ..Default::default() };
    AgentsClient::new(channel.clone()).register(request).await.unwrap().into_inner()
}

async fn adopt(channel: &Channel, allocation: u64) -> Result<bool, String> {
    let request = v1::AdoptTaskRequest { machine: "m1".to_owned(), allocation };
    let answer = GovernClient::new(channel.clone()).adopt_task(request).await;
    answer.map(|answer| answer.into_inner().changed).map_err(|status| code(&status))
}

// After a start it was said to be stopped at a time that had passed, and was not stopped then.
#[tokio::test]
async fn an_unknown_task_is_shown_with_the_time_that_it_has_since_the_server_started() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    let server = start(&old).await;
    register(&connect(&server).await, "m1", 4000).await;
    server.shutdown().await.unwrap();
    restore(&old, &new, &RestoreOptions::default()).unwrap();

    let (server, channel) = start_with(&new, 900_000_000).await;
    register_with(&channel, vec![stranger((1 << 32) | 8, 0)]).await;
    let first = listed_unknown(&channel, None).await;
    server.shutdown().await.unwrap();
    let (server, channel) = start_with(&new, 900_000_000).await;
    let again = unknown(&channel).await;
    assert_eq!((again.len(), again[0].since_micros), (1, first.tasks[0].since_micros));
    assert!(again[0].until_micros > first.tasks[0].until_micros, "{again:?} after {first:?}");
    let at = v1::At { revision: first.revision, time_micros: 0 };
    assert_eq!(listed_unknown(&channel, Some(at)).await, first, "as it was before the start");
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_unknown_task_keeps_its_room_is_told_to_stop_and_goes_with_its_agents_receipt() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    let server = start(&old).await;
    register(&connect(&server).await, "m1", 4000).await;
    server.shutdown().await.unwrap();
    restore(&old, &new, &RestoreOptions::default()).unwrap();

    let (adopted, left) = ((1 << 32) | 7, (1 << 32) | 8);
    let (server, channel) = start_with(&new, 900_000_000).await;
    register_with(&channel, vec![stranger(adopted, 0)]).await;
    let tasks = unknown(&channel).await;
    let traces = tasks[0].task.as_ref().unwrap();
    assert_eq!((tasks.len(), tasks[0].allocation, tasks[0].machine.as_str()), (1, adopted, "m1"));
    assert_eq!((traces.job.as_str(), traces.group.as_str(), traces.task_index), ("forgotten", "work", 0));
    assert!(!tasks[0].stopping && tasks[0].until_micros == tasks[0].since_micros + 900_000_000);
    assert_eq!((listed(&channel).await.unknown_tasks, cpu_taken(&channel).await), (1, 1000));
    assert_eq!(adopt(&channel, adopted).await, Ok(true));
    assert_eq!(adopt(&channel, adopted).await, Ok(false), "once is enough");
    assert_eq!(adopt(&channel, left).await, Err("NO_SUCH_TASK".to_owned()));
    server.shutdown().await.unwrap();

    // From here on, time is over at once.
    let (server, channel) = start_with(&new, 1).await;
    let registered = register_with(&channel, vec![stranger(adopted, 0), stranger(left, 1)]).await;
    let mut agents = AgentsClient::new(channel.clone());
    // Its agent hears that one of them is to stop, and the other one not.
    let follow = v1::FollowRequest { machine: registered.machine, epoch: registered.epoch, ..Default::default() };
    let mut told = agents.follow(follow).await.unwrap().into_inner();
    let first = told.message().await.unwrap().unwrap();
    let mut stop = first.stop;
    assert!(first.full && first.keep.contains(&adopted), "kept: {:?}", first.keep);
    assert!(!stop.contains(&adopted));
    while stop.is_empty() {
        stop = told.message().await.unwrap().unwrap().stop;
    }
    assert_eq!(stop, [left]);
    let tasks = unknown(&channel).await;
    assert_eq!(tasks.iter().map(|task| task.stopping).collect::<Vec<_>>(), [false, true]);
    assert_eq!(adopt(&channel, left).await, Err("NO_SUCH_TASK".to_owned()), "it is too late");
    assert_eq!(cpu_taken(&channel).await, 2000, "what is told to stop still runs");

    let ended = |allocation| v1::ReportRequest {
        machine: registered.machine,
        epoch: registered.epoch,
        transitions: vec![v1::Transition {
            allocation,
            state: v1::AllocationState::Stopped.into(),
            ..Default::default()
        }],
        ..Default::default()
    };
    agents.report(ended(left)).await.unwrap();
    assert_eq!(cpu_taken(&channel).await, 1000);
    agents.report(ended(adopted)).await.unwrap();
    assert_eq!((unknown(&channel).await, cpu_taken(&channel).await), (Vec::new(), 0));
    server.shutdown().await.unwrap();
    let report = plenum_server::verify(&new).unwrap();
    assert!(report.is_sound() && report.decided_again > 0, "{report:#?}");
}

/// After a restore a successor was started beside the task that its agent had told of, and that the cell listed: both wrote.
#[tokio::test]
async fn of_a_task_of_which_only_one_may_run_nothing_is_placed_beside_an_unknown_one() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let stray = (7 << 32) | 5000;
    let registered = register_with(&channel, vec![stranger(stray, 1)]).await;
    let mut single = job("forgotten", 2);
    single.shape.as_mut().unwrap().groups[0].single_instance = true;
    let job = submit(&channel, single).await.job;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let both = session.transaction(1, vec![placement(job, vec![0, 0], vec![0, 1])]);
    let outcome = session.commit(both).await.unwrap();
    let refused: Vec<_> = outcome.refusals.iter().map(|refusal| (refusal.task, refusal.reason())).collect();
    assert_eq!((outcome.granted, refused), (1, vec![(1, v1::RefusalReason::Predecessor)]));

    // Who keeps no mirror is not told of it, either.
    let mut cell = v1::cell_client::CellClient::new(channel.clone());
    let open = v1::OpenRequest { scheduler: "batch".to_owned(), namespace: String::new() };
    let v1::OpenResponse { session: own, incarnation, .. } = cell.open(open).await.unwrap().into_inner();
    let mut wanted = async || {
        let request = v1::WantedRequest { session: own, incarnation, ..Default::default() };
        let groups = cell.wanted(request).await.unwrap().into_inner().groups;
        groups.into_iter().map(|group| group.tasks).collect::<Vec<_>>()
    };
    assert_eq!(wanted().await, Vec::<Vec<u32>>::new());
    let request = v1::GetJobRequest { namespace: String::new(), name: "forgotten".to_owned(), at: None };
    let view = v1::jobs_client::JobsClient::new(channel.clone()).get(request).await.unwrap().into_inner().job.unwrap();
    let expected = "work: 1 waiting for an unknown task on m1, as of each only one may run (single_instance); `plenum machine show m1` says what becomes \
                    of it, `plenum alloc stop alloc-5000-7` stops it";
    assert_eq!(view.waiting_reason, expected);

    let state = v1::AllocationState::Stopped.into();
    let report = v1::ReportRequest {
        machine: registered.machine,
        epoch: registered.epoch,
        transitions: vec![v1::Transition { allocation: stray, state, ..Default::default() }],
        ..Default::default()
    };
    AgentsClient::new(channel.clone()).report(report).await.unwrap();
    assert_eq!(wanted().await, [[1]]);
    let again = session.transaction(2, vec![placement(job, vec![0], vec![1])]);
    assert_eq!(session.commit(again).await.unwrap().granted, 1);
    drop(session);
    server.shutdown().await.unwrap();
}

async fn cpu_taken(channel: &Channel) -> i64 {
    listed(channel).await.allocated.unwrap().cpu_millis
}

/// A second agent of the same name waited for the first one's lease. After a start of the server it was sometimes the first to speak: the machine
/// was its own, and all that ran there had failed, as it had no trace of it.
#[tokio::test]
async fn after_a_start_of_the_server_what_a_machine_runs_is_not_a_newcomers() {
    let dir = tempfile::tempdir().unwrap();
    let ask = async |server: &Handle, instance: &str, revision: u64| {
        ask(&connect(server).await, "boot-1", instance, revision).await
    };
    let server = start(dir.path()).await;
    let first = ask(&server, "first", 0).await.unwrap();
    let channel = connect(&server).await;
    let crunch = submit(&channel, job("crunch", 1)).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let transaction = session.transaction(1, vec![placement(crunch.job, vec![0], vec![0])]);
    assert_eq!(session.commit(transaction).await.unwrap().granted, 1);
    drop(session);
    server.shutdown().await.unwrap();

    let server = start(dir.path()).await;
    assert_eq!(code(&ask(&server, "second", 0).await.unwrap_err()), "MACHINE_TAKEN");
    let back = ask(&server, "first", first.revision).await.unwrap();
    assert_eq!((back.machine, back.epoch), (first.machine, first.epoch));
    server.shutdown().await.unwrap();

    // Where nobody comes back, the machine is free once its lease has ended.
    let server = start_with_leases_of(dir.path(), Duration::from_millis(700)).await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    let second = loop {
        match ask(&server, "second", 0).await {
            Ok(second) if second.register_again => {}
            Ok(second) => break second,
            Err(refused) => assert_eq!(code(&refused), "MACHINE_TAKEN"),
        }
        assert!(tokio::time::Instant::now() < deadline, "the lease does not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!((second.machine, second.epoch), (first.machine, first.epoch + 1));
    server.shutdown().await.unwrap();
}

/// After a start of the server nobody has spoken for a machine yet. A relay reported of it, by its agent, in the very moment in which
/// another agent registered it: both were told that it is theirs.
#[tokio::test]
async fn a_relay_and_an_agent_that_registers_are_not_both_told_that_a_machine_is_theirs() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let known = register(&connect(&server).await, "m1", 4000).await;
    server.shutdown().await.unwrap();
    for round in 0..12 {
        let server = start(dir.path()).await;
        let mut agents = AgentsClient::new(connect(&server).await);
        let mut relay = AgentsClient::new(connect(&server).await);
        let mine = v1::ReportManyRequest {
            machines: vec![known.machine],
            epochs: vec![known.epoch],
            instances: vec!["relayed".to_owned()],
            ..Default::default()
        };
        let request = v1::RegisterRequest {
            machine: Some(machine("boot-1", Vec::new())),
            instance: "registers".to_owned(),
            ..Default::default()
        };
        let reporting = async {
            tokio::time::sleep(Duration::from_micros(100 * round)).await;
            relay.report_many(mine).await.unwrap().into_inner().register.is_empty()
        };
        let (registered, relayed) = match round {
            // Each order by itself, and then the two at once.
            0 => (agents.register(request).await, reporting.await),
            1 => {
                let relayed = reporting.await;
                (agents.register(request).await, relayed)
            }
            _ => tokio::join!(agents.register(request), reporting),
        };
        let registered = match registered {
            Ok(_) => true,
            Err(status) => {
                assert_eq!(code(&status), "MACHINE_TAKEN");
                false
            }
        };
        assert!(registered != relayed, "round {round}: registered: {registered}, renewed for the relay: {relayed}");
        assert!(round > 1 || registered == (round == 0), "round {round}: who comes first has it");
        server.shutdown().await.unwrap();
    }
}

/// One may be given up a minute, of so few. The others waited, and nothing told.
#[tokio::test]
async fn machines_that_vanish_together_raise_an_alarm_until_they_are_back() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    for name in ["m1", "m2", "m3"] {
        register(&channel, name, 4000).await;
    }
    let mut jobs = Vec::new();
    for (name, tasks, lost_after_micros) in [("fragile", 2, 1000), ("patient", 1, 5_000_000)] {
        let mut job = job(name, tasks);
        job.shape.as_mut().unwrap().groups[0].lost_after_micros = lost_after_micros;
        jobs.push(submit(&channel, job).await.job);
    }
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let placements = vec![placement(jobs[0], vec![0, 1], vec![0, 1]), placement(jobs[1], vec![2], vec![0])];
    assert_eq!(session.commit(session.transaction(1, placements)).await.unwrap().granted, 3);
    server.shutdown().await.unwrap();
    let server = start_with_leases_of(dir.path(), Duration::from_millis(150)).await;
    let channel = connect(&server).await;
    held_back(&server, &channel, 1).await;
    // Nothing happens meanwhile but that time passes.
    held_back(&server, &channel, 2).await;
    server.shutdown().await.unwrap();
    // They are still away, and stay when they are back.
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    held_back(&server, &channel, 2).await;
    for name in ["m1", "m2", "m3"] {
        register(&channel, name, 4000).await;
    }
    held_back(&server, &channel, 0).await;
    server.shutdown().await.unwrap();
}

/// Waits until so many machines wait to be given up.
async fn held_back(server: &plenum_server::Handle, channel: &Channel, expected: u64) {
    let mut inspect = v1::inspect_client::InspectClient::new(channel.clone());
    let reached = async {
        while inspect.status(v1::StatusRequest {}).await.unwrap().into_inner().machines_held_back != expected {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), reached).await.expect("it comes to that");
    let metrics = page(server.address(), "/metrics").await;
    assert!(metrics.lines().any(|line| line == format!("plenum_machines_held_back {expected}")), "{metrics}");
}

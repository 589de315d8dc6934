//! What is said of machines whose agents want no new claims there: by an agent of its own, and by a relay of a rack.

use plenum_proto::v1;
use tonic::transport::Channel;

use crate::client::{Session, code, connect, job, placement, register, start, submit};

const FIT: v1::Unfit = v1::Unfit::Unspecified;
const LEAVES: v1::Unfit = v1::Unfit::AgentLeaves;
const UNWRITABLE: v1::Unfit = v1::Unfit::StateUnwritable;

async fn registered(channel: &Channel, names: &[&str]) -> Vec<v1::RegisterResponse> {
    let mut machines = Vec::new();
    for name in names {
        machines.push(register(channel, name, 4000).await);
    }
    machines
}

/// What a relay reports of these machines; of no fitness where nothing is given.
fn many(machines: &[v1::RegisterResponse], unfit: &[v1::Unfit]) -> v1::ReportManyRequest {
    v1::ReportManyRequest {
        machines: machines.iter().map(|machine| machine.machine).collect(),
        epochs: machines.iter().map(|machine| machine.epoch).collect(),
        unfit: unfit.iter().map(|&unfit| unfit.into()).collect(),
        ..v1::ReportManyRequest::default()
    }
}

async fn relayed(channel: &Channel, request: v1::ReportManyRequest) -> Vec<u64> {
    let mut agents = v1::agents_client::AgentsClient::new(channel.clone());
    agents.report_many(request).await.unwrap().into_inner().register
}

/// How each machine stands by now, by name, and the cell's revision.
async fn listed(channel: &Channel) -> (Vec<(v1::MachineState, v1::Unfit)>, u64) {
    let mut inspect = v1::inspect_client::InspectClient::new(channel.clone());
    let list = inspect.list_machines(v1::ListRequest::default()).await.unwrap().into_inner();
    (list.machines.iter().map(|machine| (machine.state(), machine.unfit())).collect(), list.revision)
}

#[tokio::test]
async fn a_relay_says_which_machines_of_its_rack_take_no_claims() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let machines = registered(&channel, &["m1", "m2", "m3"]).await;
    let (ready, cordoned) = (v1::MachineState::Ready, v1::MachineState::Cordoned);
    let said = [(cordoned, LEAVES), (ready, FIT), (cordoned, UNWRITABLE)];
    assert!(relayed(&channel, many(&machines, &[LEAVES, FIT, UNWRITABLE])).await.is_empty());
    let (found, revision) = listed(&channel).await;
    assert_eq!(found, said);

    let crunch = submit(&channel, job("crunch", 3)).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let transaction = session.transaction(1, vec![placement(crunch.job, vec![0, 1, 2], vec![0, 1, 2])]);
    let outcome = session.commit(transaction).await.unwrap();
    let refused: Vec<(u32, i32)> = outcome.refusals.iter().map(|refusal| (refusal.machine, refusal.reason)).collect();
    let state = v1::RefusalReason::MachineNotReady.into();
    assert_eq!((outcome.granted, refused), (1, vec![(0, state), (2, state)]));

    // Without the column nothing is said, and what was said stays; said again, nothing is news.
    let after = listed(&channel).await.1;
    assert!(after > revision);
    assert!(relayed(&channel, many(&machines, &[])).await.is_empty());
    assert!(relayed(&channel, many(&machines, &[LEAVES, FIT, UNWRITABLE])).await.is_empty());
    assert_eq!(listed(&channel).await, (said.to_vec(), after));
    // The agent of one of them reports by itself, too: whoever spoke last is believed.
    let mut agents = v1::agents_client::AgentsClient::new(channel.clone());
    let own = |unfit: v1::Unfit| v1::ReportRequest {
        machine: machines[0].machine,
        epoch: machines[0].epoch,
        unfit: unfit.into(),
        ..v1::ReportRequest::default()
    };
    agents.report(own(FIT)).await.unwrap();
    assert_eq!(listed(&channel).await.0[0], (ready, FIT));
    agents.report(own(UNWRITABLE)).await.unwrap();
    assert_eq!(listed(&channel).await.0[0], (cordoned, UNWRITABLE));
    assert!(relayed(&channel, many(&machines, &[FIT; 3])).await.is_empty());
    assert_eq!(listed(&channel).await.0, [(ready, FIT); 3]);
    server.shutdown().await.unwrap();
}

/// The agent of one has registered again since: what the relay knows is of the past.
#[tokio::test]
async fn what_a_relay_says_of_an_epoch_that_is_over_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let mut machines = registered(&channel, &["m1", "m2"]).await;
    machines[0].epoch += 1;
    assert_eq!(relayed(&channel, many(&machines, &[LEAVES, LEAVES])).await, [machines[0].machine]);
    let (ready, cordoned) = (v1::MachineState::Ready, v1::MachineState::Cordoned);
    assert_eq!(listed(&channel).await.0, [(ready, FIT), (cordoned, LEAVES)]);
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_relay_that_says_nonsense_of_one_machine_changes_none() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let machines = registered(&channel, &["m1", "m2"]).await;
    let mut agents = v1::agents_client::AgentsClient::new(channel.clone());
    let before = listed(&channel).await;
    for unfit in [vec![1], vec![1, 7], vec![1, -1], vec![1, 0, 0]] {
        let request = v1::ReportManyRequest { unfit, ..many(&machines, &[]) };
        assert_eq!(code(&agents.report_many(request).await.unwrap_err()), "INVALID_REQUEST");
    }
    assert_eq!(listed(&channel).await, before);
    server.shutdown().await.unwrap();
}

/// More than are noted at a time. The answer comes when all of them are.
#[tokio::test]
async fn a_hall_that_is_switched_off_takes_no_claims_when_its_relay_has_the_answer() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let names: Vec<String> = (0..150).map(|number| format!("m{number}")).collect();
    let machines = registered(&channel, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert!(relayed(&channel, many(&machines, &[LEAVES; 150])).await.is_empty());
    assert_eq!(listed(&channel).await.0, [(v1::MachineState::Cordoned, LEAVES); 150]);
    server.shutdown().await.unwrap();
}

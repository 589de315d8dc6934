//! Resources that a cell named itself are told by these names.

use plenum_proto::v1;
use plenum_server::Server;
use tonic::Code;

use crate::client::{Session, code, connect, job, options, placement, submit};
use crate::stalled::shows;

fn seats(seats: i64) -> v1::Resources {
    v1::Resources { cpu_millis: 1000, memory_bytes: 1 << 20, disk_bytes: 0, custom: vec![0, seats] }
}

/// One task that wants so many seats.
fn seated(name: &str, wanted: i64) -> v1::JobSpec {
    let mut spec = job(name, 1);
    spec.shape.as_mut().unwrap().groups[0].resources = Some(seats(wanted));
    spec
}

#[tokio::test]
async fn an_agent_offers_named_resources_by_their_names() {
    let dir = tempfile::tempdir().unwrap();
    let mut named = options(dir.path());
    named.custom_resources = vec!["licences".to_owned(), "seats".to_owned()];
    let server = Server::start(named).await.unwrap();
    let channel = connect(&server).await;
    let mut agents = v1::agents_client::AgentsClient::new(channel.clone());
    let registration = |custom: &[i64], named: &[(&str, i64)]| v1::RegisterRequest {
        machine: Some(v1::RegisterMachine {
            name: "m1".to_owned(),
            boot_id: "boot".to_owned(),
            capacity: Some(v1::Resources { custom: custom.to_vec(), ..seats(0) }),
            ..Default::default()
        }),
        named: named.iter().map(|&(name, amount)| (name.to_owned(), amount)).collect(),
        ..Default::default()
    };
    for (wrong, told) in [
        (
            registration(&[], &[("chairs", 1)]),
            "named (licences, seats), found \"chairs\"; a cell is given these when it is made",
        ),
        (registration(&[0, 1], &[("seats", 1)]), "machine.capacity.custom"),
        (registration(&[], &[("seats", -1)]), "-1"),
    ] {
        let refused = agents.register(wrong).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(told), "{}", refused.message());
    }
    agents.register(registration(&[], &[("seats", 3)])).await.unwrap();
    let mut inspect = v1::inspect_client::InspectClient::new(channel);
    let machines = inspect.list_machines(v1::ListRequest::default()).await.unwrap().into_inner().machines;
    assert_eq!(machines[0].capacity.as_ref().unwrap().custom, [0, 3]);
    server.shutdown().await.unwrap();
}

// Metrics, and why a job waits for its quota, said `custom_2`; what machines have of it was in no metric.
#[tokio::test]
async fn a_resource_that_the_cell_named_has_its_name_wherever_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut named = options(dir.path());
    named.custom_resources = vec!["licences".to_owned(), "seats".to_owned()];
    let server = Server::start(named).await.unwrap();
    let channel = connect(&server).await;
    let machine = v1::RegisterMachine {
        name: "m1".to_owned(),
        boot_id: "boot".to_owned(),
        capacity: Some(v1::Resources { cpu_millis: 8000, memory_bytes: 1 << 30, ..seats(3) }),
        ..Default::default()
    };
    let request = v1::RegisterRequest { machine: Some(machine), ..Default::default() };
    v1::agents_client::AgentsClient::new(channel.clone()).register(request).await.unwrap();
    let (one, other) = (submit(&channel, seated("one", 2)).await.job, submit(&channel, seated("other", 2)).await.job);
    let mut winner = Session::open(&channel, "batch").await.unwrap();
    let mut loser = Session::open(&channel, "batch").await.unwrap();
    winner.reach(loser.cell.revision().0).await;
    let wanting = |job| v1::Placement { resources: Some(seats(2)), ..placement(job, vec![0], vec![0]) };
    let loses = loser.transaction(1, vec![wanting(other)]);
    assert_eq!(winner.commit(winner.transaction(1, vec![wanting(one)])).await.unwrap().granted, 1);
    let lost = loser.commit(loses).await.unwrap();
    assert_eq!((lost.refusals[0].resource(), lost.refusals[0].short_by), (v1::ResourceName::Custom2, 1));
    shows(&server, "plenum_conflicts_total{loser=\"batch\",winner=\"batch\",resource=\"seats\"} 1").await;
    shows(&server, "plenum_machine_resource_capacity{resource=\"seats\"} 3").await;
    shows(&server, "plenum_machine_resource_allocated{resource=\"seats\"} 2").await;
    shows(&server, "plenum_machine_resource_capacity{resource=\"licences\"} 0").await;

    let limit = Some(v1::Quota { custom: vec![-1, 3], ..Default::default() });
    let quota = v1::SetQuota { namespace: "default".to_owned(), limit };
    v1::govern_client::GovernClient::new(channel.clone()).set_quota(quota).await.unwrap();
    let get = v1::GetJobRequest { namespace: "default".to_owned(), name: "other".to_owned(), at: None };
    let waiting = v1::jobs_client::JobsClient::new(channel.clone()).get(get).await.unwrap().into_inner().job.unwrap();
    let why = "the quota of default is short of seats by 1 for one more: 2 of 3 are used";
    assert!(waiting.waiting_reason.contains(why), "{}", waiting.waiting_reason);

    let mut inspect = v1::inspect_client::InspectClient::new(channel);
    let moment = inspect.moment(v1::MomentRequest::default()).await.unwrap().into_inner();
    assert_eq!(moment.custom_resources, ["licences", "seats"]);
    server.shutdown().await.unwrap();
}

// They were taken, and the job waited for ever for what no machine can have.
#[tokio::test]
async fn a_resource_that_the_cell_has_not_named_is_asked_for_in_vain_by_its_position_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut named = options(dir.path());
    named.custom_resources = vec!["licences".to_owned(), "seats".to_owned()];
    let server = Server::start(named).await.unwrap();
    let channel = connect(&server).await;
    let with = |custom: &[i64]| v1::Resources { custom: custom.to_vec(), ..seats(0) };
    let asking = |custom: &[i64]| {
        let mut spec = job("one", 1);
        spec.shape.as_mut().unwrap().groups[0].resources = Some(with(custom));
        v1::SubmitRequest { spec: Some(spec), ..Default::default() }
    };
    let refused = |field: &str, answer: Result<(), tonic::Status>| {
        let refused = answer.unwrap_err();
        assert_eq!((refused.code(), code(&refused).as_str()), (Code::NotFound, "NO_SUCH_RESOURCE"), "{refused}");
        let told = format!("{field}: expected amounts of the resources that this cell has named (licences, seats)");
        assert!(refused.message().starts_with(&told), "{refused}");
    };
    let mut jobs = v1::jobs_client::JobsClient::new(channel.clone());
    let answer = jobs.submit(asking(&[0, 0, 3])).await.map(drop);
    refused("spec.shape.groups[0].resources.custom[2]", answer);
    let one = jobs.submit(asking(&[1, 1, 0, 0, 0])).await.unwrap().into_inner().job;

    let mut govern = v1::govern_client::GovernClient::new(channel.clone());
    let quota = |custom: &[i64]| {
        let limit = Some(v1::Quota { custom: custom.to_vec(), ..Default::default() });
        v1::SetQuota { namespace: "default".to_owned(), limit }
    };
    refused("limit.custom[3]", govern.set_quota(quota(&[-1, -1, -1, 5])).await.map(drop));
    govern.set_quota(quota(&[5, 5, -1, -1, -1])).await.unwrap();

    let mut cell = v1::cell_client::CellClient::new(channel.clone());
    let room = v1::TakeHoldRequest {
        job: one,
        machines: vec![0],
        resources: Some(with(&[1, 1, 0, 0, 1])),
        within_micros: 60_000_000,
        ..Default::default()
    };
    refused("resources.custom[4]", cell.take_hold(room.clone()).await.map(drop));
    cell.take_hold(v1::TakeHoldRequest { machines: Vec::new(), ..room }).await.expect("it is given back");
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn when_a_moment_was_is_told_of_revisions_and_of_times() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(options(dir.path())).await.unwrap();
    let channel = connect(&server).await;
    let first = submit(&channel, job("one", 1)).await.revision;
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    let second = submit(&channel, job("other", 1)).await.revision;
    let mut inspect = v1::inspect_client::InspectClient::new(channel.clone());
    let mut moment = async |revision, time_micros| {
        let request = v1::MomentRequest { at: Some(v1::At { revision, time_micros }) };
        inspect.moment(request).await.map(|moment| moment.into_inner().time_micros)
    };
    let (one, other, now) =
        (moment(first, 0).await.unwrap(), moment(second, 0).await.unwrap(), moment(0, 0).await.unwrap());
    assert!(one + 20_000 <= other && other <= now && now < other + 60_000_000, "{one} {other} {now}");
    assert_eq!(moment(0, one).await.unwrap(), one);
    assert_eq!(moment(second + 100, 0).await.unwrap_err().code(), Code::OutOfRange);
    server.shutdown().await.unwrap();
}

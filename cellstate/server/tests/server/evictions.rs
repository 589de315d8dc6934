//! Who went for whom, as transactions and the stories of jobs tell it.

use plenum_proto::v1;
use tonic::transport::Channel;

use crate::client::{Session, connect, job, placement, register, start, submit};

type Inspect = v1::inspect_client::InspectClient<Channel>;

async fn submit_with(channel: &Channel, name: &str, count: u32, priority: u32) -> v1::SubmitResponse {
    let mut spec = job(name, count);
    spec.shape.as_mut().unwrap().priority = priority;
    submit(channel, spec).await
}

/// A task of 1000 CPU in each half of a machine, and then one of a higher band in the room of both.
async fn evict_two(channel: &Channel, session: &mut Session) -> Vec<u64> {
    register(channel, "m0", 1000).await;
    register(channel, "m1", 2000).await;
    let low = submit_with(channel, "low", 2, 15).await;
    let mut high = job("high", 1);
    let shape = high.shape.as_mut().unwrap();
    shape.priority = 90;
    shape.groups[0].resources.as_mut().unwrap().cpu_millis *= 2;
    let high = submit(channel, high).await;
    session.reach(high.revision).await;
    let fills = session.transaction(1, vec![placement(low.job, vec![1, 1], vec![0, 1])]);
    let victims = session.commit(fills).await.unwrap().placements[0].allocations.clone();
    let preemptions = victims.iter().map(|&victim| v1::Preemption { machine: 1, victim }).collect();
    let evicts = v1::Placement { preemptions, ..placement(high.job, vec![1], vec![0]) };
    let evicts = session.transaction(2, vec![evicts]);
    let outcome = session.commit(evicts).await.unwrap();
    assert_eq!(outcome.granted, 1, "{outcome:?}");
    session.reach(outcome.revision).await;
    [victims, outcome.placements[0].allocations.clone()].concat()
}

// Of a free row a checkpoint has the generation alone: after a start they were tasks of job-0-0 on whatever machine was the first.
#[tokio::test]
async fn whom_a_transaction_evicted_is_told_alike_after_they_ended_and_the_server_was_started_again() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    evict_two(&channel, &mut session).await;
    // The machine goes, and with it all that ran there; nobody comes into the slots.
    let remove = v1::RemoveMachineRequest { name: "m1".into(), force: true, ..Default::default() };
    Inspect::new(channel.clone()).remove_machine(remove).await.unwrap();
    let get = v1::GetTransactionRequest { session: session.welcome.session, number: 2 };
    let before = Inspect::new(channel).get_transaction(get).await.unwrap().into_inner();
    assert_eq!(before.evictions.len(), 2);
    server.shutdown().await.unwrap();

    let server = start(dir.path()).await;
    let after = Inspect::new(connect(&server).await).get_transaction(get).await.unwrap().into_inner();
    assert_eq!(after.evictions, before.evictions);
    server.shutdown().await.unwrap();
}

// They were told by their ids: whom it had hit took a command for each, and by then that could be another job's.
#[tokio::test]
async fn a_transaction_tells_whom_it_evicted_and_for_whom_also_when_others_have_come_into_their_slots() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let ids = evict_two(&channel, &mut session).await;
    let mut inspect = Inspect::new(channel.clone());
    let get = v1::GetTransactionRequest { session: session.welcome.session, number: 2 };
    let then = inspect.get_transaction(get).await.unwrap().into_inner();
    let eviction = |task: u32| v1::EvictionView {
        allocation: ids[task as usize],
        job: "default/low".into(),
        group: "work".into(),
        task,
        machine: "m1".into(),
        priority: Some(15),
        heir: ids[2],
        heir_job: "default/high".into(),
        heir_group: "work".into(),
        heir_task: 0,
        heir_priority: Some(90),
        other_heirs: 0,
    };
    assert_eq!(then.evictions, [eviction(0), eviction(1)]);
    assert_eq!((then.evicted.as_slice(), then.evicted_total), (&ids[..2], 2));
    let listed = inspect.list_transactions(v1::ListTransactionsRequest::default()).await.unwrap().into_inner();
    let counts: Vec<_> = listed.transactions.iter().map(|view| (view.evicted_total, view.evictions.len())).collect();
    assert_eq!(counts, [(2, 0), (0, 0)]);

    let mut jobs = v1::jobs_client::JobsClient::new(channel.clone());
    jobs.stop(v1::StopRequest { namespace: String::new(), name: "low".into(), ..Default::default() }).await.unwrap();
    // The machine goes, and with it all that ran there; others come into the slots, and the job is not as urgent any more.
    let remove = v1::RemoveMachineRequest { name: "m1".into(), force: true, ..Default::default() };
    inspect.remove_machine(remove).await.unwrap();
    register(&channel, "m2", 9000).await;
    let again = submit_with(&channel, "low", 2, 35).await;
    let others = submit(&channel, job("others", 4)).await;
    session.reach(others.revision).await;
    let slots = |ids: &[u64]| ids.iter().map(|id| id & u64::from(u32::MAX)).collect::<std::collections::BTreeSet<_>>();
    let others = session.transaction(3, vec![placement(others.job, vec![1; 4], (0..4).collect())]);
    let others = session.commit(others).await.unwrap().placements[0].allocations.clone();
    assert!(slots(&others).is_superset(&slots(&ids)), "{others:?}");
    assert!(again.changed);
    let now = inspect.get_transaction(get).await.unwrap().into_inner();
    assert_eq!(now.evictions, then.evictions);
    server.shutdown().await.unwrap();
}

// It told that the task was placed, and not that others had to go for it.
#[tokio::test]
async fn the_story_of_a_job_tells_in_whose_place_its_tasks_are() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    evict_two(&channel, &mut session).await;
    let mut jobs = v1::jobs_client::JobsClient::new(channel.clone());
    let story = jobs.job_history(v1::JobHistoryRequest { name: "high".into(), ..Default::default() }).await.unwrap();
    let placed: Vec<String> = story.into_inner().events.into_iter().map(|event| event.detail).collect();
    assert!(
        placed.contains(&"work: task 0 on machine m1, in place of default/low work[0] and 1 more".to_owned()),
        "{placed:?}"
    );
    server.shutdown().await.unwrap();
}

//! The cell in numbers, as it was at a moment.

use plenum_proto::v1;
use v1::inspect_client::InspectClient;

use crate::client::{Session, code, connect, job, placement, register, start, submit};

/// What is kept nowhere, taken out of a status of the present.
fn of_state(status: v1::StatusResponse) -> v1::StatusResponse {
    let v1::StatusResponse { cell_id, incarnation, term, revision, time_micros, .. } = status;
    let v1::StatusResponse { machines, jobs, allocations, capacity, allocated, sessions, .. } = status;
    let v1::StatusResponse { custom_resources, paused_schedulers, waiting_tasks, failing_jobs, held, .. } = status;
    v1::StatusResponse {
        cell_id,
        incarnation,
        term,
        revision,
        time_micros,
        machines,
        jobs,
        allocations,
        capacity,
        allocated,
        sessions,
        custom_resources,
        paused_schedulers,
        waiting_tasks,
        failing_jobs,
        held,
        ..v1::StatusResponse::default()
    }
}

// Whether a cell is an older copy was told by its status alone, for which all of it is counted.
#[tokio::test]
async fn a_moment_tells_which_cell_it_is_of_and_whether_somebody_has_seen_more_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let registered = register(&channel, "m1", 4000).await;
    let mut inspect = InspectClient::new(channel.clone());
    let status = inspect.status(v1::StatusRequest {}).await.unwrap().into_inner();
    let moment = inspect.moment(v1::MomentRequest::default()).await.unwrap().into_inner();
    assert_eq!((moment.cell_id, moment.older_copy), (Some(status.cell_id), Some(String::new())));
    let follow = v1::FollowRequest {
        machine: registered.machine,
        epoch: registered.epoch,
        revision: 1,
        incarnation: status.incarnation + 1,
    };
    let refused = v1::agents_client::AgentsClient::new(channel).follow(follow).await.unwrap_err();
    assert_eq!(code(&refused), "NO_SUCH_REVISION");
    let past = Some(v1::At { revision: status.revision, time_micros: 0 });
    for at in [None, past] {
        let moment = inspect.moment(v1::MomentRequest { at }).await.unwrap().into_inner();
        let told = moment.older_copy.unwrap();
        assert!(told.starts_with("the agent of m1 has seen incarnation 2"), "{told}");
    }
    server.shutdown().await.unwrap();
}

// What the cell was like in the night took a listing of each kind, and counting.
#[tokio::test]
async fn a_status_is_told_of_a_moment_also_after_a_restart_as_far_as_its_state_was_kept() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    register(&channel, "m1", 4000).await;
    let crunch = submit(&channel, job("crunch", 3)).await.job;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let two = session.transaction(1, vec![placement(crunch, vec![0, 0], vec![0, 1])]);
    assert_eq!(session.commit(two).await.unwrap().granted, 2);
    let pause = v1::PauseScheduler { scheduler: "ml".into(), paused: true };
    v1::govern_client::GovernClient::new(channel.clone()).pause_scheduler(pause).await.unwrap();
    let then = InspectClient::new(channel.clone()).status(v1::StatusRequest {}).await.unwrap().into_inner();
    assert_eq!((then.allocations["granted"], then.waiting_tasks, then.machines["ready"]), (2, 1, 1));
    let at = |revision| v1::GetStatusAtRequest { at: Some(v1::At { revision, time_micros: 0 }) };
    let told = InspectClient::new(channel.clone()).get_status_at(at(then.revision)).await.unwrap().into_inner();
    assert_eq!(told, of_state(then.clone()), "of the newest revision, too");
    drop((session, channel));
    server.shutdown().await.unwrap();

    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    register(&channel, "m2", 1000).await;
    submit(&channel, job("more", 5)).await;
    let mut inspect = InspectClient::new(channel.clone());
    let now = inspect.status(v1::StatusRequest {}).await.unwrap().into_inner();
    assert_eq!((now.machines["ready"], now.waiting_tasks, now.term), (2, 6, then.term + 1));
    let told = inspect.get_status_at(at(then.revision)).await.unwrap().into_inner();
    assert_eq!(told, of_state(then.clone()));
    let by_time = Some(v1::At { revision: 0, time_micros: then.time_micros });
    let by_time = inspect.get_status_at(v1::GetStatusAtRequest { at: by_time }).await.unwrap().into_inner();
    assert_eq!((by_time.revision, by_time.waiting_tasks), (then.revision, 1));
    let present = inspect.get_status_at(v1::GetStatusAtRequest::default()).await.unwrap().into_inner();
    assert_eq!(present, of_state(now.clone()));
    assert_eq!(code(&inspect.get_status_at(at(now.revision + 1)).await.unwrap_err()), "NO_SUCH_REVISION");
    server.shutdown().await.unwrap();
}

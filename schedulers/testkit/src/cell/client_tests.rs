//! What a framework does that submits and launches.

use plenum_sdk::{Client, RunError, code_of, is_unanswered, tonic};

use super::*;

fn nightly() -> v1::JobSpec {
    let mut spec = JobBuilder::new("nightly", "cron").group("main", 1, 1000).spec();
    spec.shape.iter_mut().for_each(|shape| shape.kind = v1::JobKind::Recurring.into());
    spec
}

#[tokio::test]
async fn a_framework_submits_and_launches_as_whom_it_says_and_may_repeat_both() {
    let mut cell = TestCell::start().await;
    let owner = Client::new(cell.address(), "user/ann").unwrap();
    let cron = Client::new(cell.address(), "scheduler/cron").unwrap();
    let request = v1::SubmitRequest { spec: Some(nightly()), ..Default::default() };
    let refused = cron.jobs().submit(request.clone()).await.unwrap_err();
    assert_eq!((refused.code(), code_of(&refused)), (tonic::Code::PermissionDenied, "NOT_PERMITTED"));
    let mut changed = Vec::new();
    for _ in 0..2 {
        changed.push(owner.jobs().submit(request.clone()).await.unwrap().into_inner().changed);
    }
    assert_eq!(changed, [true, false]);

    // One that is over is no repetition: it runs again, unless that is said.
    let once = || v1::SubmitRequest {
        spec: Some(JobBuilder::new("once", "batch").group("main", 1, 1000).spec()),
        ..Default::default()
    };
    assert_eq!(owner.jobs().submit(once()).await.unwrap().into_inner().version, 1);
    owner.jobs().stop(v1::StopRequest { name: "once".into(), ..Default::default() }).await.unwrap();
    let again = owner.jobs().submit(once()).await.unwrap().into_inner();
    assert_eq!((again.version, again.changed), (2, true));
    let expected_version = Some(1);
    let next = owner.jobs().submit(v1::SubmitRequest { expected_version, ..once() }).await.unwrap().into_inner();
    assert_eq!((next.version, next.changed), (2, false));

    let micros = |second: i64| (1_000_000_000 + second) * 1_000_000;
    let launch = |second| v1::LaunchRequest {
        namespace: "default".into(),
        name: "nightly".into(),
        instant_micros: Some(micros(second)),
    };
    let first = cron.jobs().launch(launch(60)).await.unwrap().into_inner();
    // The connection breaks, and with it perhaps an answer.
    cell.restart().await;
    let again = loop {
        match cron.jobs().launch(launch(60)).await {
            Ok(answer) => break answer.into_inner(),
            Err(status) => assert!(is_unanswered(&status), "{status:?}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!((&*first.name, first.changed), ("nightly-1000000060", true));
    assert_eq!((again.name, again.job, again.changed), (first.name, first.job, false));
    let late = cron.jobs().launch(launch(59)).await.unwrap_err();
    assert_eq!((code_of(&late), is_unanswered(&late)), ("INSTANT_PASSED", false));
    assert_eq!(cell.job("nightly").await.last_instant_micros, Some(micros(60)), "it was not launched again");
    let child = cell.job("nightly-1000000060").await;
    assert_eq!((&*child.parent, child.shape.unwrap().scheduler), ("nightly", "cron".to_owned()));
    let pause = |paused| v1::PauseScheduler { scheduler: "cron".into(), paused };
    let operator = Client::new(cell.address(), "operator/op").unwrap();
    operator.govern().pause_scheduler(pause(true)).await.unwrap();
    let paused = cron.jobs().launch(launch(90)).await.unwrap_err();
    assert_eq!((paused.code(), code_of(&paused)), (tonic::Code::Unavailable, "SCHEDULER_PAUSED"));
    let known = cron.jobs().launch(launch(60)).await.unwrap().into_inner();
    assert_eq!((known.name.as_str(), known.changed), ("nightly-1000000060", false), "what was launched is answered");
    assert!(owner.jobs().launch(launch(90)).await.is_ok(), "by hand it is launched");
    operator.govern().pause_scheduler(pause(false)).await.unwrap();
    assert!(cron.jobs().launch(launch(91)).await.is_ok());
    let other = Client::new(cell.address(), "scheduler/batch").unwrap();
    let denied = other.jobs().launch(launch(120)).await.unwrap_err();
    assert_eq!(code_of(&denied), "NOT_PERMITTED");
}

// A server that had begun on an empty directory by mistake was given all jobs anew, while their tasks went on elsewhere.
#[tokio::test]
async fn a_client_of_a_cell_is_refused_by_another_one_at_the_address() {
    let mut cell = TestCell::start().await;
    let anybodys = Client::new(cell.address(), "user/ann").unwrap();
    let status = anybodys.inspect().status(v1::StatusRequest::default()).await.unwrap().into_inner();
    let client = anybodys.clone().of_cell(&status.cell_id);
    let job = || v1::SubmitRequest { spec: Some(nightly()), ..v1::SubmitRequest::default() };
    assert!(client.jobs().submit(job()).await.unwrap().into_inner().changed);
    cell.restore("restored").await;
    assert!(!answered(&client, job).await.unwrap().into_inner().changed, "it is the same cell");
    cell.restart_in("other").await;
    let refused = answered(&client, job).await.unwrap_err();
    assert_eq!((code_of(&refused), is_unanswered(&refused)), ("OTHER_CELL", false));
    assert!(anybodys.jobs().submit(job()).await.unwrap().into_inner().changed, "it took nothing before");
}

/// What is said of a job, once a server is heard again.
async fn answered(
    client: &Client,
    job: impl Fn() -> v1::SubmitRequest,
) -> Result<tonic::Response<v1::SubmitResponse>, tonic::Status> {
    loop {
        match client.jobs().submit(job()).await {
            Err(status) if is_unanswered(&status) => tokio::time::sleep(LOOK).await,
            said => return said,
        }
    }
}

#[tokio::test]
async fn a_client_that_can_never_work_says_so_before_it_asks() {
    assert!(matches!(Client::new("127.0.0.1:7070", ""), Err(RunError::NoCell { .. })));
    assert!(matches!(Client::new("http://127.0.0.1:7070", "user/änn"), Err(RunError::Principal { .. })));
}

// By the codes that the protocol named it was given up, though it may have taken effect.
#[tokio::test]
async fn a_call_whose_connection_breaks_was_not_answered() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::new(&format!("http://{}", listener.local_addr().unwrap()), "").unwrap();
    let mut jobs = client.jobs();
    let breaks = async { drop(listener.accept().await.unwrap()) };
    let (stopped, ()) = tokio::join!(jobs.stop(v1::StopRequest::default()), breaks);
    let status = stopped.unwrap_err();
    assert!(is_unanswered(&status), "{status:?}");
}

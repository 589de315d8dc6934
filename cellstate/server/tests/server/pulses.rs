//! How schedulers say that they do, and how long jobs wait for them: as people and their monitoring see it.

use plenum_model::Cell;
use plenum_proto::v1;
use plenum_server::Server;
use v1::session_request::Ask;

use crate::client::{Session, code, connect, eventually, job, options, placement, register, start, submit};
use crate::inspection::page;
use crate::stalled::shows;

async fn beat(session: &Session, pulse: v1::Pulse) {
    session.asks.send(v1::SessionRequest { ask: Some(Ask::Pulse(pulse)) }).await.unwrap();
}

async fn scheduler(channel: &tonic::transport::Channel, name: &str) -> v1::SchedulerView {
    let mut govern = v1::govern_client::GovernClient::new(channel.clone());
    let listed = govern.list_schedulers(v1::ListRequest::default()).await.unwrap().into_inner();
    listed.schedulers.into_iter().find(|view| view.name == name).unwrap()
}

fn doing(view: &v1::SchedulerView) -> (Option<u32>, Option<u32>) {
    (view.busy_millis, view.waiting_jobs)
}

#[tokio::test]
async fn what_schedulers_say_of_themselves_is_shown_for_as_long_as_they_are_there() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let (first, second) = (Session::open(&channel, "ml").await.unwrap(), Session::open(&channel, "ml").await.unwrap());
    assert_eq!(first.welcome.pulse_micros, 5_000_000);
    assert_eq!(doing(&scheduler(&channel, "ml").await), (None, None), "nobody has said anything yet");

    let revision = second.welcome.revision;
    beat(&first, v1::Pulse { over_micros: 4_000_000, busy_micros: 1_000_000, waiting_jobs: 2, revision }).await;
    beat(&second, v1::Pulse { over_micros: 4_000_000, busy_micros: 2_000_000, waiting_jobs: 1, revision }).await;
    shows(&server, "plenum_scheduler_busy_ratio{scheduler=\"ml\"} 0.75").await;
    shows(&server, "plenum_scheduler_queue_jobs{scheduler=\"ml\"} 3").await;
    shows(&server, "plenum_snapshot_age_seconds{scheduler=\"ml\"} 0").await;
    let view = scheduler(&channel, "ml").await;
    assert_eq!((doing(&view), view.snapshot_age_micros), ((Some(750), Some(3)), Some(0)));

    // The cell goes on, and one of them tells that it has not.
    let newer = submit(&channel, job("news", 1)).await.revision;
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    beat(&first, v1::Pulse { over_micros: 1, busy_micros: 0, waiting_jobs: 0, revision: newer - 1 }).await;
    shows(&server, "plenum_scheduler_busy_ratio{scheduler=\"ml\"} 0.5").await;
    let age = scheduler(&channel, "ml").await.snapshot_age_micros.unwrap();
    assert!((1000..60_000_000).contains(&age), "{age} us");

    drop((first, second));
    eventually("whoever is gone is not busy", async || doing(&scheduler(&channel, "ml").await) == (None, None)).await;
    assert!(!page(server.address(), "/metrics").await.contains("scheduler_busy_ratio{"));
}

// What waited for one that hung was said to wait for no known reason, and the status had nothing of it.
#[tokio::test]
async fn one_that_falls_silent_is_named_by_what_waits_for_it_and_by_the_status() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.settings.sync.pulse_micros = 1000;
    let server = Server::start(options).await.unwrap();
    let channel = connect(&server).await;
    let (mut jobs, mut inspect) =
        (v1::jobs_client::JobsClient::new(channel.clone()), v1::inspect_client::InspectClient::new(channel.clone()));
    let session = Session::open(&channel, "batch").await.unwrap();
    let revision = inspect.status(v1::StatusRequest {}).await.unwrap().into_inner().revision;
    beat(&session, v1::Pulse { over_micros: 1, busy_micros: 0, waiting_jobs: 0, revision }).await;
    shows(&server, "plenum_scheduler_queue_jobs{scheduler=\"batch\"} 0").await;
    let mut standing = async || {
        let status = inspect.status(v1::StatusRequest {}).await.unwrap().into_inner();
        (status.away_schedulers, status.silent_schedulers)
    };
    assert_eq!(standing().await, (vec![], vec![]), "in a cell that stands still it has nothing to say");
    submit(&channel, job("crunch", 2)).await;
    let get = || v1::GetJobRequest { namespace: String::new(), name: "crunch".to_owned(), at: None };
    let mut reason = async || jobs.get(get()).await.unwrap().into_inner().job.unwrap().waiting_reason;
    let silent = "work: 2 waiting: scheduler batch is silent: it stands still, or makes one long decision; \
                  `plenum scheduler list -o wide` says since when";
    eventually("one that does not say that it has seen the job is silent", async || reason().await == silent).await;
    assert_eq!(standing().await, (vec![], vec!["batch".to_owned()]));
    // Another one has taken over.
    let other = Session::open(&channel, "batch").await.unwrap();
    assert!(reason().await.starts_with("work: 2 waiting: scheduler batch has not placed them yet"));
    assert_eq!(standing().await, (vec![], vec!["batch".to_owned()]), "one of them hangs");
    drop((session, other));
    eventually("both are gone", async || standing().await == (vec!["batch".to_owned()], vec![])).await;
    server.shutdown().await.unwrap();
}

/// A greeting of who promises pulses after such pauses; 0: of who promises none.
fn greets(scheduler: &str, pulse_micros: u64) -> v1::Hello {
    let (scheduler, namespace) = (scheduler.to_owned(), "default".to_owned());
    v1::Hello { scheduler, namespace, pulse_micros, ..v1::Hello::default() }
}

// With a session of another namespace it counted as there: the status had nothing of jobs that waited for nobody, and the list of schedulers had it
// connected.
#[tokio::test]
async fn one_whose_sessions_are_for_other_namespaces_than_that_of_a_job_is_away() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let mut inspect = v1::inspect_client::InspectClient::new(channel.clone());
    let hello = |namespace: &str| v1::Hello { namespace: namespace.to_owned(), ..greets("batch", 0) };
    let other = Session::hello(&channel, hello("ml"), Cell::default()).await.unwrap();
    let mut away = async || inspect.status(v1::StatusRequest {}).await.unwrap().into_inner().away_schedulers;
    assert_eq!(away().await, [""; 0], "it has no jobs");
    submit(&channel, job("crunch", 2)).await;
    eventually("none is there for the namespace default", async || away().await == ["batch"]).await;
    let get = v1::GetJobRequest { namespace: String::new(), name: "crunch".to_owned(), at: None };
    let crunch = v1::jobs_client::JobsClient::new(channel.clone()).get(get).await.unwrap().into_inner().job.unwrap();
    let waits = "work: 2 waiting: no scheduler batch is connected for the namespace default (one is for ml); start one";
    assert_eq!(crunch.waiting_reason, waits);
    let unserved = async || {
        let view = scheduler(&channel, "batch").await;
        (view.connected, view.jobs, view.unserved_jobs)
    };
    assert_eq!(unserved().await, (Some(1), 1, Some(1)));
    let all = Session::hello(&channel, hello(""), Cell::default()).await.unwrap();
    eventually("one is there for all", async || away().await.is_empty()).await;
    assert_eq!(unserved().await, (Some(2), 1, Some(0)));
    let listed = inspect.list_sessions(v1::ListRequest::default()).await.unwrap().into_inner();
    let namespaces: Vec<_> = listed.sessions.into_iter().map(|session| session.namespace).collect();
    assert_eq!(namespaces, ["ml", ""]);
    drop((other, all));
    server.shutdown().await.unwrap();
}

// One that hung before its first pulse was connected for as long as it did: nothing told it from one that sends none.
#[tokio::test]
async fn who_promised_pulses_and_sends_none_is_silent_and_who_promised_none_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.settings.sync.pulse_micros = 1000;
    let server = Server::start(options).await.unwrap();
    let channel = connect(&server).await;
    let hangs = Session::hello(&channel, greets("batch", 100), Cell::default()).await.unwrap();
    let older = Session::open(&channel, "older").await.unwrap();
    let patient = Session::hello(&channel, greets("patient", 600_000_000), Cell::default()).await.unwrap();
    let revision = submit(&channel, job("crunch", 2)).await.revision;
    let silent = async |name: &str| scheduler(&channel, name).await.silent;
    eventually("it promised pulses", async || silent("batch").await == Some(1)).await;
    let view = scheduler(&channel, "batch").await;
    assert_eq!(doing(&view), (None, None), "what it does it has not said");
    assert!(view.pulse_age_micros.unwrap() > 2000 && view.snapshot_age_micros.unwrap() > 2000, "{view:?}");
    let mut inspect = v1::inspect_client::InspectClient::new(channel.clone());
    let status = inspect.status(v1::StatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.silent_schedulers, status.away_schedulers), (vec!["batch".to_owned()], vec![]));
    let view = scheduler(&channel, "older").await;
    assert_eq!((view.silent, view.pulse_age_micros), (None, None), "it never said that it would say anything");
    assert_eq!(silent("patient").await, Some(0), "it has more time");
    assert!(!page(server.address(), "/metrics").await.contains("scheduler_busy_ratio{"));

    beat(&hangs, v1::Pulse { over_micros: 1, busy_micros: 0, waiting_jobs: 0, revision }).await;
    eventually("it has come to itself", async || silent("batch").await == Some(0)).await;
    drop(hangs);
    eventually("it is gone", async || silent("batch").await.is_none()).await;
    drop((older, patient));
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_promise_of_pulses_that_is_none_is_refused_and_opens_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let refused = Session::hello(&channel, greets("batch", 600_000_001), Cell::default()).await.err().unwrap();
    let expected = "pulse_micros: expected at most 600000000 µs (ten minutes) between pulses, or 0 where none are promised, \
                    found 600000001";
    assert_eq!((code(&refused).as_str(), refused.message()), ("INVALID_REQUEST", expected));
    let mut govern = v1::govern_client::GovernClient::new(channel);
    let listed = govern.list_schedulers(v1::ListRequest::default()).await.unwrap().into_inner();
    assert!(listed.schedulers.is_empty(), "{listed:?}");
    server.shutdown().await.unwrap();
}

// A watch was refused for it, though it promises nothing and says so of this field.
#[tokio::test]
async fn a_watch_reads_no_promise_of_pulses() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let mut cell = v1::cell_client::CellClient::new(connect(&server).await);
    let mut watching = cell.watch(greets("", 600_000_001)).await.unwrap().into_inner();
    assert!(watching.message().await.unwrap().is_some(), "it is welcomed");
    drop(watching);
    server.shutdown().await.unwrap();
}

// Copies share a scheduler's jobs: what was the turn of one that had been killed waited, and the one that was there had nothing to say of it.
#[tokio::test]
async fn a_session_that_is_away_is_named_where_what_waits_may_be_its_turn_to_place() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let mut jobs = v1::jobs_client::JobsClient::new(channel.clone());
    let killed = Session::open(&channel, "batch").await.unwrap();
    let there = Session::open(&channel, "batch").await.unwrap();
    submit(&channel, job("crunch", 2)).await;
    let get = || v1::GetJobRequest { namespace: String::new(), name: "crunch".to_owned(), at: None };
    let mut reason = async || jobs.get(get()).await.unwrap().into_inner().job.unwrap().waiting_reason;
    let unsaid = "work: 2 waiting: scheduler batch has not placed them yet, and has not said why; \
                  `plenum txn list --refused --scheduler batch` lists what it was refused";
    assert_eq!(reason().await, unsaid);
    let left = killed.welcome.session;
    drop(killed);
    let named = format!("{unsaid}; its session {left} is away, and it may be that one's turn to place them");
    eventually("the one that is gone is named", async || reason().await == named).await;
    drop(there);
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_pulse_that_says_nonsense_harms_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let odd = Session::open(&channel, "odd").await.unwrap();
    let most = v1::Pulse { over_micros: 0, busy_micros: u64::MAX, waiting_jobs: u32::MAX, revision: u64::MAX };
    beat(&odd, most).await;
    shows(&server, "plenum_scheduler_busy_ratio{scheduler=\"odd\"} 1").await;
    let view = scheduler(&channel, "odd").await;
    assert_eq!((doing(&view), view.snapshot_age_micros), ((Some(1000), Some(u32::MAX)), Some(0)));

    let (asks, asked) = tokio::sync::mpsc::channel(1);
    asks.send(v1::SessionRequest { ask: Some(Ask::Pulse(most)) }).await.unwrap();
    let asked = tokio_stream::wrappers::ReceiverStream::new(asked);
    let mut cell = v1::cell_client::CellClient::new(channel.clone());
    let refused = match cell.session(asked).await {
        Ok(answer) => answer.into_inner().message().await.unwrap_err(),
        Err(refused) => refused,
    };
    assert_eq!(
        (code(&refused).as_str(), refused.message()),
        ("INVALID_REQUEST", "ask: expected hello first, found pulse")
    );
}

#[tokio::test]
async fn how_long_jobs_waited_for_their_first_task_is_counted_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    register(&channel, "m1", 4000).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let mut gang = job("gang", 2);
    gang.shape.as_mut().unwrap().groups[0].min = 2;
    let (single, gang) = (submit(&channel, job("single", 2)).await, submit(&channel, gang).await);
    session.reach(gang.revision).await;
    let both = session
        .transaction(1, vec![placement(single.job, vec![0], vec![0]), placement(gang.job, vec![0, 0], vec![0, 1])]);
    assert_eq!(session.commit(both).await.unwrap().granted, 3);
    let more = session.transaction(2, vec![placement(single.job, vec![0], vec![1])]);
    assert_eq!(session.commit(more).await.unwrap().granted, 1);
    shows(&server, "plenum_claims_total{scheduler=\"batch\",outcome=\"granted\",kind=\"\"} 4").await;
    shows(&server, "plenum_job_wait_seconds_count{scheduler=\"batch\"} 2").await;
    shows(&server, "plenum_gang_wait_seconds_count 1").await;
}

// The end of the old stream of a session that was gone on with took away what the new one had said.
#[tokio::test]
async fn what_a_session_said_stays_as_long_as_one_of_its_streams_does() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let old = Session::open(&channel, "ml").await.unwrap();
    let (session, incarnation, revision) = (old.welcome.session, old.welcome.incarnation, old.cell.revision().0);
    let hello = v1::Hello { session, incarnation, revision, ..v1::Hello::default() };
    let new = Session::hello(&channel, hello, old.cell.clone()).await.unwrap();
    beat(&new, v1::Pulse { over_micros: 4, busy_micros: 1, waiting_jobs: 0, revision }).await;
    shows(&server, "plenum_scheduler_busy_ratio{scheduler=\"ml\"} 0.25").await;
    drop(old);
    // By then the server has seen that the stream has ended.
    for number in 0..3 {
        submit(&channel, job(&format!("j{number}"), 1)).await;
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(doing(&scheduler(&channel, "ml").await), (Some(250), Some(0)));
}

// Which scheduler loses stood in the metrics alone: who looked at the list saw two that were connected, and jobs of one that waited.
#[tokio::test]
async fn what_became_of_the_claims_of_each_scheduler_is_listed_for_the_present() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    register(&channel, "m1", 2000).await;
    let of = |scheduler: &str, name: &str| {
        let mut spec = job(name, 2);
        spec.shape.as_mut().unwrap().scheduler = scheduler.to_owned();
        spec
    };
    let first = submit(&channel, of("batch", "crunch")).await.job;
    let second = submit(&channel, of("ml", "train")).await.job;
    let (mut batch, mut ml) =
        (Session::open(&channel, "batch").await.unwrap(), Session::open(&channel, "ml").await.unwrap());
    batch.reach(ml.cell.revision().0).await;
    let loses = ml.transaction(1, vec![placement(second, vec![0, 0], vec![0, 1])]);
    let one = batch.transaction(1, vec![placement(first, vec![0], vec![0])]);
    assert_eq!(batch.commit(one).await.unwrap().granted, 1);
    assert_eq!(ml.commit(loses).await.unwrap().granted, 1, "there was room for one more");
    let claims = |view: v1::SchedulerView| (view.claims_granted, view.claims_refused, view.claims_lost);
    let counted = async |name: &str| claims(scheduler(&channel, name).await);
    eventually("the lost one is counted", async || counted("ml").await == (Some(1), Some(1), Some(1))).await;
    assert_eq!(counted("batch").await, (Some(1), Some(0), Some(0)));

    let mut govern = v1::govern_client::GovernClient::new(channel.clone());
    let at = Some(v1::At { revision: batch.cell.revision().0, time_micros: 0 });
    let then = govern.list_schedulers(v1::ListRequest { at, ..Default::default() }).await.unwrap().into_inner();
    let then: Vec<_> = then.schedulers.into_iter().map(claims).collect();
    assert_eq!(then, [(None, None, None), (None, None, None)], "since when they were counted is nothing of then");
    server.shutdown().await.unwrap();
}

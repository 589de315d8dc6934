//! Tasks that were moved: what is said of those that left, and of those that came for them.

use std::collections::BTreeMap;

use plenum_proto::v1;
use plenum_server::Server;
use tonic::transport::Channel;

use crate::client::{Session, connect, eventually, job, options, placement, register, start, submit};

type Jobs = v1::jobs_client::JobsClient<Channel>;

async fn shown(channel: &Channel, allocation: u64) -> v1::AllocationView {
    let ask = v1::GetAllocationRequest { allocation, ..Default::default() };
    Jobs::new(channel.clone()).get_allocation(ask).await.unwrap().into_inner()
}

const WHY: &str = "moved off m1, which is drained";

/// Two tasks of a job, `before` on m1; the first of them is moved to m2, as its machine is drained.
struct Moved {
    machine: v1::RegisterResponse,
    before: Vec<u64>,
    after: u64,
}

async fn moved(channel: &Channel) -> Moved {
    let machine = register(channel, "m1", 4000).await;
    register(channel, "m2", 4000).await;
    let mut session = Session::open(channel, "batch").await.unwrap();
    let work = submit(channel, job("web", 2)).await;
    session.reach(work.revision).await;
    let first = session.transaction(1, vec![placement(work.job, vec![0, 0], vec![0, 1])]);
    let before = session.commit(first).await.unwrap().placements[0].allocations.clone();
    let drain = v1::DrainRequest { name: "m1".into(), undrain: false, within_micros: 600_000_000 };
    let mut govern = v1::govern_client::GovernClient::new(channel.clone());
    let drained = govern.drain_machine(drain).await.unwrap().into_inner();
    session.reach(drained.revision).await;
    let mut moves = session.transaction(2, vec![placement(work.job, vec![1], vec![0])]);
    moves.stops = vec![before[0]];
    let after = session.commit(moves).await.unwrap().placements[0].allocations[0];
    Moved { machine, before, after }
}

async fn report(channel: &Channel, machine: &v1::RegisterResponse, allocation: u64, state: v1::AllocationState) {
    let transition = v1::Transition { allocation, state: state.into(), ..Default::default() };
    let (machine, epoch) = (machine.machine, machine.epoch);
    let report = v1::ReportRequest { machine, epoch, transitions: vec![transition], ..Default::default() };
    v1::agents_client::AgentsClient::new(channel.clone()).report(report).await.unwrap();
}

// Both had their transaction, and nothing else that would have told of the drain.
#[tokio::test]
async fn a_task_that_was_moved_off_a_drained_machine_says_so_where_it_left_and_where_it_came() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let Moved { machine, before, after } = moved(&channel).await;
    let (left, came) = (shown(&channel, before[0]).await, shown(&channel, after).await);
    let why = |view: &v1::AllocationView| (view.state(), view.reason.clone(), view.move_reason.clone());
    assert_eq!(why(&left), (v1::AllocationState::Stopping, WHY.to_owned(), String::new()));
    assert_eq!(why(&came), (v1::AllocationState::Granted, String::new(), WHY.to_owned()), "it does not leave");
    assert!(came.created_micros > 0 && came.machine == "m2", "{came:?}");
    let stays = shown(&channel, before[1]).await;
    assert_eq!((stays.reason.as_str(), stays.move_reason.as_str()), ("", ""), "that one stays where it is");
    let ask = v1::AllocationHistoryRequest { allocation: after, ..Default::default() };
    let story = Jobs::new(channel.clone()).allocation_history(ask).await.unwrap().into_inner();
    assert_eq!(story.events[0].detail, format!("default/web work[0] on machine m2: {WHY}"));

    let ask = v1::JobHistoryRequest { name: "web".into(), ..Default::default() };
    let story = Jobs::new(channel.clone()).job_history(ask).await.unwrap().into_inner();
    let mut placed = story.events.iter().filter(|event| event.event == "placed").map(|event| event.detail.as_str());
    assert_eq!(placed.next_back(), Some(format!("work: task 0 on machine m2: {WHY}").as_str()));

    // It is told in lists, too, and once it has ended.
    report(&channel, &machine, before[0], v1::AllocationState::Stopped).await;
    let list = v1::ListAllocationsRequest { ended: true, ..Default::default() };
    let listed = Jobs::new(channel.clone()).list_allocations(list).await.unwrap().into_inner().allocations;
    let ended = listed.iter().find(|row| row.id == before[0]).unwrap();
    assert_eq!((ended.state(), ended.reason.as_str()), (v1::AllocationState::Stopped, WHY));
    let live = listed.iter().filter(|row| row.ended_revision == 0);
    let reasons = live.map(|row| (row.id, (row.reason.as_str(), row.move_reason.as_str())));
    assert_eq!(reasons.collect::<BTreeMap<_, _>>(), BTreeMap::from([(before[1], ("", "")), (after, ("", WHY))]));
    assert_eq!(shown(&channel, before[0]).await.reason, WHY);
    server.shutdown().await.unwrap();
}

// When it had begun was waited for until the history had the present, for two seconds where that was behind, and then not told; so was why it was
// moved.
#[tokio::test]
async fn what_lives_is_shown_with_its_start_and_its_reason_however_far_behind_the_history_is() {
    let dir = tempfile::tempdir().unwrap();
    let mut without = options(dir.path());
    without.settings.history = false;
    let server = Server::start(without).await.unwrap();
    let channel = connect(&server).await;
    let Moved { machine, before, after } = moved(&channel).await;
    report(&channel, &machine, before[1], v1::AllocationState::Running).await;
    let (came, stays) = (shown(&channel, after).await, shown(&channel, before[1]).await);
    assert_eq!((came.move_reason.as_str(), came.started_micros), (WHY, 0), "it has not begun");
    assert!(stays.created_micros > 0 && stays.started_micros >= stays.created_micros, "{stays:?}");
    let mut jobs = Jobs::new(channel.clone());
    jobs.stop_allocation(v1::StopAllocationRequest { allocation: before[1] }).await.unwrap();
    let stopping = shown(&channel, before[1]).await;
    assert_eq!((stopping.state(), stopping.started_micros), (v1::AllocationState::Stopping, stays.started_micros));
    let listed = jobs.list_allocations(v1::ListAllocationsRequest::default()).await.unwrap().into_inner().allocations;
    assert_eq!(listed.iter().find(|row| row.id == after).unwrap().move_reason, WHY);
    server.shutdown().await.unwrap();
}

/// Waits until this is why the job waits.
async fn waits_because(channel: &Channel, name: &str, why: &str) {
    let told = async || waiting(channel, name).await.waiting_reason == why;
    eventually("what its scheduler says is told", told).await;
}

async fn waiting(channel: &Channel, name: &str) -> v1::JobView {
    let get = v1::GetJobRequest { namespace: String::new(), name: name.to_owned(), at: None };
    Jobs::new(channel.clone()).get(get).await.unwrap().into_inner().job.unwrap()
}

// At the deadline it was stopped, and nothing had said before that it stays, or why. Then what its scheduler had said of a task that waited was the reason.
#[tokio::test]
async fn what_is_left_on_a_drained_machine_says_so_and_why_where_its_scheduler_does() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    moved(&channel).await;
    let view = waiting(&channel, "web").await;
    let left = "work: 1 is on a machine that is drained; what scheduler batch does not move is stopped at the deadline";
    assert_eq!(view.waiting_reason, left);
    assert_eq!(format!("work: {}", view.groups[0].staying), left);
    let session = Session::open(&channel, "batch").await.unwrap();
    let other = submit(&channel, job("other", 1)).await.job;
    let later = submit(&channel, job("later", 1)).await;
    let say = async |job, staying| {
        let (reason, revision) = ("no room".to_owned(), later.revision);
        let note = v1::PassedOverNote { job, tasks: 1, reason, revision, staying, ..Default::default() };
        let ask = v1::session_request::Ask::PassedOver(v1::PassedOver { notes: vec![note] });
        session.asks.send(v1::SessionRequest { ask: Some(ask) }).await.unwrap();
    };
    say(view.id, false).await;
    say(other, true).await;
    say(later.job, false).await;
    waits_because(&channel, "later", &format!("work: 1 waiting: no room (at revision {})", later.revision)).await;
    assert_eq!(waiting(&channel, "web").await.waiting_reason, left, "why another one waited is no reason to stay");
    let why = waiting(&channel, "other").await.waiting_reason;
    let unsaid = "work: 1 waiting: scheduler batch has not placed them yet, and has not said why; ";
    assert!(why.starts_with(unsaid), "why another one stays is no reason to wait: {why}");
    say(view.id, true).await;
    let stays = "1 stays on a machine that is drained, and is stopped at the deadline";
    waits_because(&channel, "web", &format!("work: {stays}: no room (at revision {})", later.revision)).await;
    let mut govern = v1::govern_client::GovernClient::new(channel.clone());
    let undrain = v1::DrainRequest { name: "m1".into(), undrain: true, within_micros: 0 };
    govern.drain_machine(undrain).await.unwrap();
    assert_eq!(waiting(&channel, "web").await.waiting_reason, "");
    server.shutdown().await.unwrap();
}

// All that it moved was refused, and of what stayed nothing was said but what becomes of it.
#[tokio::test]
async fn what_is_left_on_a_drained_machine_says_so_where_its_scheduler_is_paused() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    moved(&channel).await;
    let left = "1 is on a machine that is drained; what scheduler batch does not move is stopped at the deadline";
    let mut govern = v1::govern_client::GovernClient::new(channel.clone());
    for paused in [true, false] {
        govern.pause_scheduler(v1::PauseScheduler { scheduler: "batch".into(), paused }).await.unwrap();
        let why =
            if paused { "; the scheduler batch is paused; `plenum scheduler resume batch` lets it go on" } else { "" };
        assert_eq!(waiting(&channel, "web").await.groups[0].staying, format!("{left}{why}"));
    }
    server.shutdown().await.unwrap();
}

// Of a job of which another task waited it was told why that one waits, and of those that stay nothing.
#[tokio::test]
async fn what_is_left_on_a_drained_machine_says_so_also_where_others_of_its_group_wait() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    moved(&channel).await;
    let scale = v1::ScaleRequest { name: "web".into(), group: "work".into(), count: 3, ..Default::default() };
    Jobs::new(channel.clone()).scale(scale).await.unwrap();
    let view = waiting(&channel, "web").await;
    let staying = "1 is on a machine that is drained; what scheduler batch does not move is stopped at the deadline";
    assert_eq!(view.groups[0].staying, staying);
    let both = (view.waiting_reason.starts_with("work: 1 waiting: "), view.waiting_reason.ends_with(staying));
    assert_eq!(both, (true, true), "{}", view.waiting_reason);
    server.shutdown().await.unwrap();
}

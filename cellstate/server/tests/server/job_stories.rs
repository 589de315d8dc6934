//! What a job's story tells of its tasks: their stops, losses and failures, with cause and exit code.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use plenum_proto::v1;
use plenum_server::{Handle, Server};
use prost::Message;
use tonic::transport::Channel;
use v1::AllocationState as State;

use crate::backups::history;
use crate::client::{Session, code, connect, job, options, placement, register, start, start_with_leases_of, submit};

type Jobs = v1::jobs_client::JobsClient<Channel>;
type Inspect = v1::inspect_client::InspectClient<Channel>;

/// Places a task of a job on the machine in slot 0.
async fn place(session: &mut Session, job: &v1::SubmitResponse, task: u32) -> u64 {
    session.reach(job.revision).await;
    let number = session.cell.revision().0;
    let transaction = session.transaction(number, vec![placement(job.job, vec![0], vec![task])]);
    session.commit(transaction).await.unwrap().placements[0].allocations[0]
}

pub(crate) async fn report(
    channel: &Channel,
    machine: &v1::RegisterResponse,
    allocation: u64,
    state: State,
    exit_code: i32,
    reason: &str,
) {
    let mut agents = v1::agents_client::AgentsClient::new(channel.clone());
    let transition =
        v1::Transition { allocation, state: state.into(), exit_code, reason: reason.to_owned(), ..Default::default() };
    let (machine, epoch) = (machine.machine, machine.epoch);
    agents
        .report(v1::ReportRequest { machine, epoch, transitions: vec![transition], ..Default::default() })
        .await
        .unwrap();
}

pub(crate) async fn stop(channel: &Channel, allocation: u64) {
    Jobs::new(channel.clone()).stop_allocation(v1::StopAllocationRequest { allocation }).await.unwrap();
}

async fn story(channel: &Channel, name: &str, revision: u64, limit: u32) -> v1::HistoryResponse {
    let at = (revision > 0).then_some(v1::At { revision, time_micros: 0 });
    let ask = v1::JobHistoryRequest { name: name.to_owned(), at, limit, ..Default::default() };
    Jobs::new(channel.clone()).job_history(ask).await.unwrap().into_inner()
}

/// A story as a reader would see it.
fn lines(story: &v1::HistoryResponse) -> Vec<String> {
    let line = |event: &v1::HistoryEvent| format!("{} {} by {}", event.event, event.detail, event.command);
    story.events.iter().map(line).collect()
}

/// The story of an allocation.
pub(crate) async fn own_story(channel: &Channel, allocation: u64) -> Result<v1::HistoryResponse, tonic::Status> {
    let ask = v1::AllocationHistoryRequest { allocation, ..Default::default() };
    Ok(Jobs::new(channel.clone()).allocation_history(ask).await?.into_inner())
}

fn name_of(allocation: u64) -> String {
    format!("alloc-{}-{}", allocation & u64::from(u32::MAX), allocation >> 32)
}

/// What stops one allocation was logged without a namespace, as if it were about no job.
#[tokio::test]
async fn the_stop_of_an_allocation_is_logged_with_the_namespace_of_its_job() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    register(&channel, "m1", 4000).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let mut spec = job("work", 1);
    spec.shape.as_mut().unwrap().namespace = "ml".to_owned();
    let work = submit(&channel, spec).await;
    let allocation = place(&mut session, &work, 0).await;
    let mut jobs = Jobs::new(channel.clone());
    let stopped = jobs.stop_allocation(v1::StopAllocationRequest { allocation }).await.unwrap().into_inner();
    let unknown = jobs.stop_allocation(v1::StopAllocationRequest { allocation: 1 << 32 | 77 }).await.unwrap_err();
    assert_eq!(code(&unknown), "NO_SUCH_ALLOCATION");
    server.shutdown().await.unwrap();
    let logged = history(dir.path()).entry(stopped.revision).unwrap().entry;
    let asked = v1::Command::decode(logged.asked).unwrap();
    assert_eq!((&*asked.principal, &*asked.namespace), ("local", "ml"));
}

/// It told only that a task waits again, if that: of stops and losses, their causes and exit codes nothing.
#[tokio::test]
async fn a_job_tells_of_its_tasks_stops_losses_and_failures_in_order_and_why() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let machine = register(&channel, "m1", 4000).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let work = submit(&channel, job("work", 1)).await;
    let stopped = place(&mut session, &work, 0).await;
    report(&channel, &machine, stopped, State::Running, 0, "").await;
    stop(&channel, stopped).await;
    report(&channel, &machine, stopped, State::Stopped, 143, "").await;
    // Another job's task comes into the same slot: what becomes of it is not told here.
    let other = submit(&channel, job("other", 1)).await;
    let foreign = place(&mut session, &other, 0).await;
    assert_eq!(foreign & u64::from(u32::MAX), stopped & u64::from(u32::MAX), "it got the same slot");
    stop(&channel, foreign).await;
    report(&channel, &machine, foreign, State::Stopped, 7, "").await;
    let failed = place(&mut session, &work, 0).await;
    report(&channel, &machine, failed, State::Failed, 3, "exit code 3").await;
    let lost = place(&mut session, &work, 0).await;
    let remove = v1::RemoveMachineRequest { name: "m1".into(), force: true, ..Default::default() };
    Inspect::new(channel.clone()).remove_machine(remove).await.unwrap();

    let whole = story(&channel, "work", 0, 0).await;
    let [stopped, failed, lost] = [stopped, failed, lost].map(name_of);
    let expected = [
        "submitted version 1 by submit-job".to_owned(),
        "placed work: task 0 on machine m1 by transaction".to_owned(),
        "running  by transaction".to_owned(),
        format!("stopping work: task 0 ({stopped}) on machine m1: stopped by a request by stop-allocation"),
        format!("stopped work: task 0 ({stopped}) on machine m1: exit code 143: stopped by a request by report-status"),
        "placed work: task 0 on machine m1 by transaction".to_owned(),
        format!("failed work: task 0 ({failed}) on machine m1: exit code 3 by report-status"),
        "waiting work: task 0 by report-status".to_owned(),
        "placed work: task 0 on machine m1 by transaction".to_owned(),
        format!("lost work: task 0 ({lost}) on machine m1: the machine was removed by remove-machine"),
    ];
    assert_eq!(lines(&whole), expected);

    // With a limit it is the end of that, at a revision its beginning.
    for count in 1..=expected.len() {
        let newest = story(&channel, "work", 0, u32::try_from(count).unwrap()).await;
        let first = whole.events[expected.len() - count].revision;
        let older = whole.events.partition_point(|event| event.revision < first);
        assert_eq!(lines(&newest), expected[older..]);
        assert_eq!(newest.truncated, older > 0);
        // And where the rest is, that is told, too.
        let before = whole.events[..older].last().map_or(0, |event| event.revision);
        assert_eq!(newest.older_at, before);
    }
    for revision in whole.events[0].revision..=whole.revision {
        let then = story(&channel, "work", revision, 0).await;
        let until = whole.events.iter().take_while(|event| event.revision <= revision).count();
        assert_eq!(lines(&then), expected[..until]);
    }
    server.shutdown().await.unwrap();
}

/// A job with these groups.
fn job_of(groups: &[&str]) -> v1::JobSpec {
    let mut spec = job("work", 1);
    let (shape, body) = (spec.shape.as_mut().unwrap(), spec.body.as_mut().unwrap());
    let named = |name: &&str| v1::GroupShape { name: (*name).to_owned(), ..shape.groups[0].clone() };
    shape.groups = groups.iter().map(named).collect();
    let named = |name: &&str| v1::GroupBody { name: (*name).to_owned(), ..body.groups[0].clone() };
    body.groups = groups.iter().map(named).collect();
    spec
}

/// A cell in which one transaction placed a task of each of three groups.
async fn with_three_groups(dir: &Path) -> (Handle, Channel, Session) {
    let server = start(dir).await;
    let channel = connect(&server).await;
    register(&channel, "m1", 4000).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let work = submit(&channel, job_of(&["work", "second", "third"])).await;
    session.reach(work.revision).await;
    let of = |group| v1::Placement { group, ..placement(work.job, vec![0], vec![0]) };
    let transaction = session.transaction(1, vec![of(0), of(1), of(2)]);
    session.commit(transaction).await.unwrap();
    (server, channel, session)
}

/// Those of the last group were told first.
#[tokio::test]
async fn groups_that_are_placed_together_are_told_in_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let (server, channel, _session) = with_three_groups(dir.path()).await;
    let placed = |group: &str| format!("placed {group}: task 0 on machine m1 by transaction");
    let told = lines(&story(&channel, "work", 0, 0).await);
    assert_eq!(told[1..4], ["work", "second", "third"].map(placed));
    server.shutdown().await.unwrap();
}

// Who went on where the answer said was told the same page again and again: what was cut off had happened in the revision of the first event.
#[tokio::test]
async fn a_story_that_is_read_page_by_page_comes_to_its_beginning_and_tells_nothing_twice() {
    let dir = tempfile::tempdir().unwrap();
    let (server, channel, _session) = with_three_groups(dir.path()).await;
    let stop = v1::StopRequest { name: "work".into(), ..Default::default() };
    Jobs::new(channel.clone()).stop(stop).await.unwrap();
    let whole = story(&channel, "work", 0, 0).await;
    let revisions: BTreeSet<u64> = whole.events.iter().map(|event| event.revision).collect();
    assert!(whole.events.len() >= revisions.len() + 3, "the transaction alone has several: {whole:?}");
    for limit in 1..=4 {
        let (mut told, mut at) = (Vec::new(), 0);
        loop {
            let page = story(&channel, "work", at, limit).await;
            assert!(at == 0 || page.older_at < at, "the same once more at {at}, {limit} at a time");
            told.splice(0..0, page.events);
            at = page.older_at;
            if at == 0 {
                break;
            }
        }
        assert_eq!(told, whole.events, "{limit} at a time");
    }
    server.shutdown().await.unwrap();
}

/// Of tasks that were placed long before, only the cell of then tells which slots they were in.
#[tokio::test]
async fn ends_of_tasks_are_told_also_where_the_limit_leaves_their_beginning_out() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let machine = register(&channel, "m1", 4000).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let work = submit(&channel, job("work", 2)).await;
    let old = place(&mut session, &work, 0).await;
    // More than a block of the history has.
    let mut inspect = Inspect::new(channel.clone());
    for round in 0..1100 {
        inspect.cordon_machine(v1::CordonRequest { name: "m1".into(), cordoned: round % 2 == 0 }).await.unwrap();
    }
    let young = place(&mut session, &work, 1).await;
    stop(&channel, old).await;
    report(&channel, &machine, old, State::Stopped, 0, "").await;

    let newest = story(&channel, "work", 0, 3).await;
    let expected = [
        "placed work: task 1 on machine m1 by transaction".to_owned(),
        format!("stopping work: task 0 ({}) on machine m1: stopped by a request by stop-allocation", name_of(old)),
        format!(
            "stopped work: task 0 ({}) on machine m1: exit code 0: stopped by a request by report-status",
            name_of(old)
        ),
    ];
    assert_eq!(lines(&newest), expected);
    assert!(newest.truncated);
    // And of those that are still there nothing is told yet.
    assert!(!lines(&newest).concat().contains(&name_of(young)));
    server.shutdown().await.unwrap();
}

// Of one that was lost with its machine, and was known to have ended later, it told the same words twice.
#[tokio::test]
async fn tasks_that_are_lost_together_are_one_event_and_their_ends_are_told_in_other_words() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    register(&channel, "m1", 4000).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let mut fragile = job("work", 3);
    fragile.shape.as_mut().unwrap().groups[0].lost_after_micros = 1000;
    let work = submit(&channel, fragile).await;
    session.reach(work.revision).await;
    let transaction = session.transaction(1, vec![placement(work.job, vec![0; 3], vec![0, 1, 2])]);
    let granted = session.commit(transaction).await.unwrap().placements[0].allocations.clone();
    server.shutdown().await.unwrap();
    let server = start_with_leases_of(dir.path(), Duration::from_millis(150)).await;
    let channel = connect(&server).await;
    let told = async {
        loop {
            let story = story(&channel, "work", 0, 0).await;
            if let Some(lost) = lines(&story).into_iter().find(|line| line.starts_with("lost")) {
                return lost;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let told = tokio::time::timeout(Duration::from_secs(30), told).await.expect("they are lost");
    assert_eq!(told, "lost work: 3 tasks on machine m1: given up: m1 is unreachable by tick");

    let machine = register(&channel, "m1", 4000).await;
    report(&channel, &machine, granted[1], State::Stopped, 143, "").await;
    let ended = lines(&story(&channel, "work", 0, 0).await).into_iter().rfind(|line| line.starts_with("lost"));
    let why = "exit code 143: its machine is back, and it has ended for sure";
    let expected = format!("lost work: task 1 ({}) on machine m1: {why} by report-status", name_of(granted[1]));
    assert_eq!(ended, Some(expected));
    let own = own_story(&channel, granted[1]).await.unwrap();
    let lost = own.events.into_iter().filter(|event| event.event == "lost").map(|event| event.detail);
    assert_eq!(lost.collect::<Vec<_>>(), ["given up: m1 is unreachable", why]);
    server.shutdown().await.unwrap();
}

/// A job that is submitted again has other rows, and those that it has now were others' before: what became of their tasks was told of it, and
/// what became of its own was not.
#[tokio::test]
async fn a_job_that_was_submitted_again_tells_nothing_of_the_tasks_of_others() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let machine = register(&channel, "m1", 4000).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let (ours, theirs) = (submit(&channel, job("ours", 1)).await, submit(&channel, job("theirs", 1)).await);
    for (name, of) in [("theirs", theirs), ("ours", ours)] {
        let allocation = place(&mut session, &of, 0).await;
        report(&channel, &machine, allocation, State::Complete, 0, "").await;
        let again = submit(&channel, job(name, 1)).await;
        assert_eq!((again.job, again.version), (of.job, 2));
    }
    let again = story(&channel, "ours", 0, 0).await;
    assert_eq!(lines(&again), ["replaced version 2 by submit-job"]);
    assert_eq!((again.truncated, again.older_at), (true, again.revision - 1));
    let before = story(&channel, "ours", again.older_at, 0).await;
    let expected = [
        "submitted version 1 by submit-job",
        "placed work: task 0 on machine m1 by transaction",
        "running  by transaction",
        "done work: task 0 by report-status",
        "complete  by report-status",
    ];
    assert_eq!(lines(&before), expected);
    assert_eq!((before.truncated, before.older_at), (false, 0));
    server.shutdown().await.unwrap();
}

/// They had the names that are in their places in the job's newest version.
#[tokio::test]
async fn groups_of_a_job_that_was_submitted_again_are_called_as_they_were_then() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let machine = register(&channel, "m1", 4000).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let first = submit(&channel, job_of(&["split", "map"])).await;
    session.reach(first.revision).await;
    let of = |group| v1::Placement { group, ..placement(first.job, vec![0], vec![0]) };
    let transaction = session.transaction(1, vec![of(0), of(1)]);
    let outcome = session.commit(transaction).await.unwrap();
    let old: Vec<u64> = outcome.placements.iter().map(|placed| placed.allocations[0]).collect();
    for allocation in &old {
        report(&channel, &machine, *allocation, State::Complete, 0, "").await;
    }
    let again = submit(&channel, job_of(&["fetch", "split", "map"])).await;
    assert_eq!((again.job, again.version), (first.job, 2));
    session.reach(again.revision).await;
    let placed = v1::Placement { job_version: 2, ..of(0) };
    let transaction = session.transaction(2, vec![placed]);
    let young = session.commit(transaction).await.unwrap().placements[0].allocations[0];

    let mut granted = Vec::new();
    for allocation in old.into_iter().chain([young]) {
        granted.push(own_story(&channel, allocation).await.unwrap().events[0].detail.clone());
    }
    assert_eq!(granted, ["split", "map", "fetch"].map(|group| format!("default/work {group}[0] on machine m1")));
    let mut groups = Vec::new();
    for number in [1, 2] {
        let ask = v1::GetTransactionRequest { session: session.welcome.session, number };
        let names = Inspect::new(channel.clone()).get_transaction(ask).await.unwrap().into_inner().group_names;
        let mut names: Vec<String> = names.into_values().collect();
        names.sort();
        groups.push(names);
    }
    assert_eq!(groups, [vec!["map", "split"], vec!["fetch"]]);
    server.shutdown().await.unwrap();
}

// As long as the oldest revision that is retained was one of the history's first block, what became of allocations from before it was not told, and
// nothing said that it is missing.
#[tokio::test]
async fn what_becomes_of_allocations_is_told_where_the_first_block_is_retired_in_part() {
    let dir = tempfile::tempdir().unwrap();
    let mut forgetful = options(dir.path());
    forgetful.settings.segment_bytes = 64 << 10;
    forgetful.settings.retain_bytes = 0;
    forgetful.settings.checkpoint_interval = Duration::from_millis(20);
    let server = Server::start(forgetful).await.unwrap();
    let channel = connect(&server).await;
    let machine = register(&channel, "m1", 4000).await;
    let crunch = submit(&channel, job("crunch", 1)).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let allocation = place(&mut session, &crunch, 0).await;
    let mut inspect = Inspect::new(channel.clone());
    for number in 0.. {
        let status = inspect.status(v1::StatusRequest {}).await.unwrap().into_inner();
        if status.oldest_revision > crunch.revision {
            break;
        }
        let mut filler = job(&format!("filler{number}"), 1);
        filler.body.as_mut().unwrap().groups[0].env.insert("FILL".into(), "x".repeat(4000));
        submit(&channel, filler).await;
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    report(&channel, &machine, allocation, State::Failed, 3, "").await;
    let told = lines(&story(&channel, "crunch", 0, 0).await);
    assert!(told.iter().any(|line| line.starts_with("failed ") && line.contains("exit code 3")), "{told:?}");
    server.shutdown().await.unwrap();
}

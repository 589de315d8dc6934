//! What happened, and how it was: also when the history was behind, and when it is retired.

use std::time::Duration;

use plenum_proto::v1;
use plenum_server::{Server, ServerOptions};
use tonic::Code;
use tonic::transport::Channel;
use v1::session_response::Tell;

use crate::client::{Session, code, connect, job, options, placement, register, start, submit};
use crate::stalled::large_machine;

type Jobs = v1::jobs_client::JobsClient<Channel>;
type Inspect = v1::inspect_client::InspectClient<Channel>;

/// Places the only task of a new job, and lets it run to its end: the allocation.
async fn run_one(channel: &Channel, session: &mut Session, machine: &v1::RegisterResponse, name: &str) -> u64 {
    let job = submit(channel, job(name, 1)).await;
    session.reach(job.revision).await;
    let number = session.cell.revision().0;
    let outcome =
        session.commit(session.transaction(number, vec![placement(job.job, vec![0], vec![0])])).await.unwrap();
    let allocation = outcome.placements[0].allocations[0];
    report(channel, machine, allocation, v1::AllocationState::Running).await;
    report(channel, machine, allocation, v1::AllocationState::Complete).await;
    allocation
}

async fn report(channel: &Channel, machine: &v1::RegisterResponse, allocation: u64, state: v1::AllocationState) {
    let mut agents = v1::agents_client::AgentsClient::new(channel.clone());
    let transition = v1::Transition { allocation, state: state.into(), ..Default::default() };
    let (machine, epoch) = (machine.machine, machine.epoch);
    agents
        .report(v1::ReportRequest { machine, epoch, transitions: vec![transition], ..Default::default() })
        .await
        .unwrap();
}

fn words(story: &v1::HistoryResponse) -> Vec<&str> {
    story.events.iter().map(|event| event.event.as_str()).collect()
}

async fn status(channel: &Channel) -> v1::StatusResponse {
    Inspect::new(channel.clone()).status(v1::StatusRequest {}).await.unwrap().into_inner()
}

/// Asks until the answer is as it should be.
async fn until(channel: &Channel, is_so: impl Fn(&v1::StatusResponse) -> bool) -> v1::StatusResponse {
    for _ in 0..3000 {
        let status = status(channel).await;
        if is_so(&status) {
            return status;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never came to that: {:?}", status(channel).await);
}

/// The history has not come so far, and whoever asks is told when to ask again.
fn assert_behind(refused: &tonic::Status) {
    assert_eq!((refused.code(), code(refused).as_str()), (Code::Unavailable, "HISTORY_BEHIND"), "{refused}");
    assert_eq!(refused.metadata().get("plenum-retry-after-micros").unwrap(), "1000000");
}

#[tokio::test]
async fn a_job_an_allocation_and_a_machine_tell_what_happened_and_who_asked() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let machine = register(&channel, "m1", 4000).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let first = run_one(&channel, &mut session, &machine, "first").await;
    let second = run_one(&channel, &mut session, &machine, "second").await;
    assert_eq!(first & u64::from(u32::MAX), second & u64::from(u32::MAX), "it got the same slot");
    let mut inspect = Inspect::new(channel.clone());
    inspect.cordon_machine(v1::CordonRequest { name: "m1".into(), cordoned: true }).await.unwrap();

    let mut jobs = Jobs::new(channel.clone());
    let ask = |allocation| v1::AllocationHistoryRequest { allocation, ..Default::default() };
    for allocation in [first, second] {
        let story = jobs.allocation_history(ask(allocation)).await.unwrap().into_inner();
        assert_eq!(words(&story), ["granted", "running", "complete"]);
        let granted = &story.events[0];
        assert_eq!((granted.command.as_str(), granted.scheduler.as_str()), ("transaction", "batch"));
        assert!(
            granted.session > 0 && granted.time_micros > 0 && granted.detail.ends_with("on machine m1"),
            "{granted:?}"
        );
        assert_eq!(story.events[2].command, "report-status");
        assert_eq!((story.truncated, story.oldest_revision), (false, 0));
    }
    let ask_job = |limit| v1::JobHistoryRequest { name: "first".into(), limit, ..Default::default() };
    let story = jobs.job_history(ask_job(0)).await.unwrap().into_inner();
    assert_eq!((words(&story)[0], story.events[0].principal.as_str()), ("submitted", "local"));
    assert!(words(&story).contains(&"placed") && words(&story).contains(&"done"), "{story:?}");
    assert_eq!(words(&story).last(), Some(&"complete"));
    let newest = jobs.job_history(ask_job(1)).await.unwrap().into_inner();
    assert_eq!((words(&newest), newest.truncated), (vec!["done", "complete"], true), "all of that revision");
    let before = v1::At { revision: story.events[1].revision - 1, time_micros: 0 };
    let early = v1::JobHistoryRequest { at: Some(before), ..ask_job(0) };
    assert_eq!(words(&jobs.job_history(early).await.unwrap().into_inner()), ["submitted"]);

    let ask = v1::MachineHistoryRequest { name: "m1".into(), ..Default::default() };
    let story = inspect.machine_history(ask).await.unwrap().into_inner();
    assert_eq!(words(&story), ["registered", "cordoned"]);
    assert_eq!(story.events[1].command, "cordon-machine");
    server.shutdown().await.unwrap();
}

// A task that fails at once is started again and again before its agent tells of it: the final row said that it never was.
#[tokio::test]
async fn restarts_that_came_with_the_end_are_shown_and_told_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let machine = register(&channel, "m1", 4000).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let job = submit(&channel, job("flaky", 3)).await;
    session.reach(job.revision).await;
    let claims = vec![placement(job.job, vec![0, 0, 0], vec![0, 1, 2])];
    let transaction = session.transaction(session.cell.revision().0, claims);
    let ids = session.commit(transaction).await.unwrap().placements[0].allocations.clone();
    let mut agents = v1::agents_client::AgentsClient::new(channel.clone());
    let mut tell_all = async |allocation, steps: &[(v1::AllocationState, u32)]| {
        let exit_code = 3;
        let told = |&(state, restarts): &(v1::AllocationState, u32)| {
            let state = state.into();
            v1::Transition { allocation, state, restarts, exit_code, ..Default::default() }
        };
        let (machine, epoch, transitions) = (machine.machine, machine.epoch, steps.iter().map(told).collect());
        let report = v1::ReportRequest { machine, epoch, transitions, ..Default::default() };
        agents.report(report).await.unwrap();
    };
    let mut jobs = Jobs::new(channel.clone());
    tell_all(ids[0], &[(v1::AllocationState::Running, 1)]).await;
    tell_all(ids[0], &[(v1::AllocationState::Failed, 4)]).await;
    jobs.stop_allocation(v1::StopAllocationRequest { allocation: ids[1] }).await.unwrap();
    tell_all(ids[1], &[(v1::AllocationState::Stopped, 2)]).await;
    tell_all(ids[2], &[(v1::AllocationState::Running, 3), (v1::AllocationState::Failed, 3)]).await;

    let list = v1::ListAllocationsRequest { job: "flaky".into(), ended: true, ..Default::default() };
    let listed = jobs.list_allocations(list).await.unwrap().into_inner().allocations;
    // Of the last one, nobody was told that it ran: it ran and ended within one report.
    let ran = ["granted", "running", "failed"];
    let stories = [ran, ["granted", "stopping", "stopped"], ran];
    for ((id, restarts), words_of_it) in ids.into_iter().zip([4, 2, 3]).zip(stories) {
        let row =
            jobs.get_allocation(v1::GetAllocationRequest { allocation: id, at: None }).await.unwrap().into_inner();
        assert_eq!(row.restarts, restarts);
        assert_eq!(listed.iter().find(|row| row.id == id).map(|row| row.restarts), Some(restarts));
        let ask = v1::AllocationHistoryRequest { allocation: id, ..Default::default() };
        let story = jobs.allocation_history(ask).await.unwrap().into_inner();
        assert_eq!(words(&story), words_of_it);
        let detail = &story.events[2].detail;
        assert!(detail.starts_with(&format!("exit code 3, restarts {restarts}")), "{detail}");
        let ran = story.events.iter().find(|event| event.event == "running");
        assert_eq!(row.started_micros, ran.map_or(0, |event| event.time_micros), "as its story tells");
    }
    let ask = v1::JobHistoryRequest { name: "flaky".into(), ..Default::default() };
    let story = jobs.job_history(ask).await.unwrap().into_inner();
    assert_eq!(words(&story).iter().filter(|word| **word == "stopping").count(), 1, "{story:#?}");
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_ended_allocation_is_shown_as_it_was_at_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let machine = register(&channel, "m1", 4000).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let (first, second) = (
        run_one(&channel, &mut session, &machine, "first").await,
        run_one(&channel, &mut session, &machine, "second").await,
    );
    let mut jobs = Jobs::new(channel.clone());
    let get = |allocation| v1::GetAllocationRequest { allocation, at: None };
    for (allocation, job) in [(first, "first"), (second, "second")] {
        let row = jobs.get_allocation(get(allocation)).await.unwrap().into_inner();
        assert_eq!(
            (row.id, row.job.as_str(), row.group.as_str(), row.machine.as_str()),
            (allocation, job, "work", "m1")
        );
        assert_eq!((row.state(), row.attempt, row.epoch), (v1::AllocationState::Complete, 1, machine.epoch));
        assert!(row.created_revision > 0 && row.ended_revision > row.created_revision);
        assert!(row.created_micros > 0 && row.ended_micros >= row.created_micros);
        // A moment before, it was running.
        let at = Some(v1::At { revision: row.ended_revision - 1, time_micros: 0 });
        let then = jobs.get_allocation(v1::GetAllocationRequest { allocation, at }).await.unwrap().into_inner();
        assert_eq!((then.state(), then.ended_revision), (v1::AllocationState::Running, 0));
        assert!((row.created_micros..=row.ended_micros).contains(&row.started_micros), "{row:?}");
        assert_eq!(then.started_micros, row.started_micros, "while it ran and once it had ended");
        // And before its grant it was not there.
        let at = Some(v1::At { revision: row.created_revision - 1, time_micros: 0 });
        let early = jobs.get_allocation(v1::GetAllocationRequest { allocation, at }).await.unwrap_err();
        assert_eq!(code(&early), "NO_SUCH_ALLOCATION");
    }
    let list = v1::ListAllocationsRequest { ended: true, ..Default::default() };
    let ended = jobs.list_allocations(list.clone()).await.unwrap().into_inner();
    assert_eq!(ended.allocations.iter().map(|row| row.id).collect::<Vec<_>>(), [second, first], "the newest end first");
    let limited = v1::ListAllocationsRequest { list: Some(v1::ListRequest { limit: 1, ..Default::default() }), ..list };
    let limited = jobs.list_allocations(limited).await.unwrap().into_inner();
    assert_eq!((limited.allocations.len(), limited.allocations[0].id, limited.truncated), (1, second, true));
    server.shutdown().await.unwrap();
}

// Where as many were live as were asked for, it said so without having looked.
#[tokio::test]
async fn a_listing_that_is_full_says_that_there_is_more_only_where_more_has_ended() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let machine = register(&channel, "m1", 4000).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let running = submit(&channel, job("running", 1)).await;
    session.reach(running.revision).await;
    let transaction = session.transaction(1, vec![placement(running.job, vec![0], vec![0])]);
    let live = session.commit(transaction).await.unwrap().placements[0].allocations[0];
    let listed = async |limit: u32| {
        let list = Some(v1::ListRequest { limit, ..Default::default() });
        let ask = v1::ListAllocationsRequest { list, ended: true, ..Default::default() };
        let found = Jobs::new(channel.clone()).list_allocations(ask).await.unwrap().into_inner();
        (found.allocations.iter().map(|row| row.id).collect::<Vec<_>>(), found.truncated, found.oldest_revision)
    };
    assert_eq!(listed(1).await, (vec![live], false, 0), "nothing has ended");
    let ended = run_one(&channel, &mut session, &machine, "ended").await;
    assert_eq!(listed(1).await, (vec![live], true, 0));
    assert_eq!(listed(2).await, (vec![live, ended], false, 0));
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_ended_over_many_checkpoints_is_listed_whole_the_newest_end_first() {
    let dir = tempfile::tempdir().unwrap();
    let mut brisk = options(dir.path());
    brisk.settings.checkpoint_interval = Duration::from_millis(5);
    let server = Server::start(brisk).await.unwrap();
    let channel = connect(&server).await;
    let machine = register(&channel, "m1", 4000).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let mut expected = Vec::new();
    for number in 0..20 {
        expected.insert(0, run_one(&channel, &mut session, &machine, &format!("job{number}")).await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut jobs = Jobs::new(channel.clone());
    let list = v1::ListAllocationsRequest { ended: true, ..Default::default() };
    let ended = jobs.list_allocations(list).await.unwrap().into_inner();
    assert_eq!(ended.allocations.iter().map(|row| row.id).collect::<Vec<_>>(), expected);
    assert!(!ended.truncated);
    server.shutdown().await.unwrap();
}

/// Nothing is kept longer than a checkpoint ago.
fn forgetful(dir: &std::path::Path) -> ServerOptions {
    let mut forgetful = options(dir);
    forgetful.settings.retain = Duration::ZERO;
    forgetful.settings.checkpoint_interval = Duration::from_millis(20);
    forgetful.settings.sync.heartbeat_micros = 10_000;
    forgetful
}

#[tokio::test]
async fn what_is_retired_is_told_from_what_never_was() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(forgetful(dir.path())).await.unwrap();
    let channel = connect(&server).await;
    let machine = register(&channel, "m1", 4000).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let ended = run_one(&channel, &mut session, &machine, "first").await;
    let last = status(&channel).await.revision;
    let mut round = 0;
    while status(&channel).await.oldest_revision <= last {
        round += 1;
        assert!(round < 1000, "nothing is ever retired");
        register(&channel, &format!("more{}", round % 7), 1000).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Who follows the cell hears of it without asking.
    let told = async {
        loop {
            if let Some(Tell::Heartbeat(beat)) = session.next().await.unwrap()
                && beat.oldest_revision > last
            {
                return beat.oldest_revision;
            }
        }
    };
    let told = tokio::time::timeout(Duration::from_secs(30), told).await.expect("a heartbeat tells it");
    assert!(told <= status(&channel).await.oldest_revision);

    let mut jobs = Jobs::new(channel.clone());
    let get = |allocation| v1::GetAllocationRequest { allocation, at: None };
    let retired = jobs.get_allocation(get(ended)).await.unwrap_err();
    assert_eq!((retired.code(), code(&retired).as_str()), (Code::NotFound, "ALLOCATION_RETIRED"), "{retired}");
    let never = jobs.get_allocation(get(ended + (1 << 32))).await.unwrap_err();
    assert_eq!((never.code(), code(&never).as_str()), (Code::NotFound, "NO_SUCH_ALLOCATION"), "{never}");
    let ask = |allocation| v1::AllocationHistoryRequest { allocation, ..Default::default() };
    assert_eq!(code(&jobs.allocation_history(ask(ended)).await.unwrap_err()), "ALLOCATION_RETIRED");
    assert_eq!(code(&jobs.allocation_history(ask(ended + (1 << 32))).await.unwrap_err()), "NO_SUCH_ALLOCATION");

    let mut inspect = Inspect::new(channel.clone());
    let at = |revision| v1::ListRequest { at: Some(v1::At { revision, time_micros: 0 }), ..Default::default() };
    let past = inspect.list_machines(at(1)).await.unwrap_err();
    assert_eq!((past.code(), code(&past).as_str()), (Code::OutOfRange, "REVISION_RETIRED"), "{past}");
    let future = inspect.list_machines(at(1 << 40)).await.unwrap_err();
    assert_eq!((future.code(), code(&future).as_str()), (Code::OutOfRange, "NO_SUCH_REVISION"), "{future}");
    let mut listed = async |after_revision, oldest_first| {
        let request = v1::ListTransactionsRequest { after_revision, oldest_first, ..Default::default() };
        inspect.list_transactions(request).await.map(|listed| listed.into_inner().oldest_revision)
    };
    // What was missing from a list looked as if it had never been.
    assert!(listed(0, true).await.unwrap() > last && listed(0, false).await.unwrap() > last);
    assert_eq!(listed(status(&channel).await.revision, true).await.unwrap(), 0);
    assert_eq!(code(&listed(1 << 40, true).await.unwrap_err()), "NO_SUCH_REVISION");
    let conflicts = inspect.list_conflicts(v1::ListConflictsRequest::default()).await.unwrap().into_inner();
    let past = conflicts.retired.unwrap();
    let counted: u64 = past.days.iter().map(|day| day.counted_revisions).sum();
    assert!(conflicts.oldest_revision > last && counted + past.uncounted_revisions + 1 >= conflicts.oldest_revision);
    let get = |session, number| v1::GetTransactionRequest { session, number };
    let number = session.cell.session(plenum_model::SessionId(session.welcome.session)).unwrap().decided[0].number;
    let gone = inspect.get_transaction(get(session.welcome.session, number)).await.unwrap_err();
    assert!(code(&gone) == "TRANSACTION_RETIRED" && gone.message().contains("is retired: "), "{gone}");
    server.shutdown().await.unwrap();
}

// It was refused where nothing was retired yet: who asked for the transactions of the last day was told in each cell that was younger that there is no such
// revision.
#[tokio::test]
async fn transactions_since_a_time_before_the_first_revision_are_all_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let machine = register(&channel, "m1", 4000).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    run_one(&channel, &mut session, &machine, "first").await;
    let now = status(&channel).await.time_micros;
    let mut inspect = Inspect::new(channel.clone());
    let mut listed = async |after_micros| {
        let request = v1::ListTransactionsRequest { after_micros, ..Default::default() };
        inspect.list_transactions(request).await.map(|listed| listed.into_inner())
    };
    let day = 24 * 3_600_000_000;
    for before in [now - day, -1] {
        let list = listed(before).await.unwrap();
        assert_eq!((list.transactions.len(), list.oldest_revision), (1, 0), "since {before}");
    }
    assert_eq!(listed(now).await.unwrap().transactions.len(), 0);
    assert_eq!(code(&listed(now + day).await.unwrap_err()), "NO_SUCH_REVISION");
    server.shutdown().await.unwrap();
}

// It was a list like any other, as if nothing had ever ended before.
#[tokio::test]
async fn a_list_with_ended_allocations_says_from_when_on_these_are_retained() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let machine = register(&channel, "m1", 4000).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    run_one(&channel, &mut session, &machine, "first").await;
    let last = status(&channel).await.revision;
    let listed = async |channel: &Channel, ended| {
        let list = v1::ListAllocationsRequest { ended, ..Default::default() };
        let listed = Jobs::new(channel.clone()).list_allocations(list).await.unwrap().into_inner();
        (listed.allocations.len(), listed.oldest_revision)
    };
    assert_eq!(listed(&channel, true).await, (1, 0));
    drop((session, channel));
    server.shutdown().await.unwrap();

    let server = Server::start(forgetful(dir.path())).await.unwrap();
    let channel = connect(&server).await;
    until(&channel, |status| status.oldest_revision > last).await;
    assert_eq!(listed(&channel, false).await, (0, 0));
    let (rows, oldest) = listed(&channel, true).await;
    assert!(rows == 0 && oldest > last, "{rows} rows, from {oldest} on");
    server.shutdown().await.unwrap();
}

// The oldest revision that could be read was its end: it was refused with another revision, and not as retired.
#[tokio::test]
async fn what_ended_at_the_oldest_revision_that_is_retained_is_retired() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(forgetful(dir.path())).await.unwrap();
    let channel = connect(&server).await;
    let machine = register(&channel, "m1", 4000).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let ended = run_one(&channel, &mut session, &machine, "first").await;
    until(&channel, |status| status.oldest_revision == status.revision).await;
    let mut jobs = Jobs::new(channel.clone());
    let get = v1::GetAllocationRequest { allocation: ended, at: None };
    let retired = jobs.get_allocation(get).await.unwrap_err();
    assert_eq!((retired.code(), code(&retired).as_str()), (Code::NotFound, "ALLOCATION_RETIRED"), "{retired}");
    server.shutdown().await.unwrap();
}

// What is retained began behind all that was durable in the history, and `plenum verify` found the state before the log retired.
#[tokio::test]
async fn a_cell_that_retires_what_its_history_has_in_memory_is_sound_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = forgetful(dir.path());
    options.settings.segment_bytes = 64 << 10;
    let server = Server::start(options.clone()).await.unwrap();
    let channel = connect(&server).await;
    for number in 0..120 {
        large_machine(&channel, number).await;
    }
    let durable = status(&channel).await.revision;
    server.shutdown().await.unwrap();
    // What comes now is little, and goes to no tables.
    let server = Server::start(options).await.unwrap();
    let channel = connect(&server).await;
    let mut round = 0;
    while status(&channel).await.oldest_revision <= durable + 2 {
        round += 1;
        assert!(round < 1000, "nothing is ever retired");
        register(&channel, &format!("more{}", round % 7), 1000).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.kill().await.unwrap();
    let report = plenum_server::verify(dir.path()).unwrap();
    assert!(report.is_sound() && report.from_revision > 1, "{report:?}");
    let server = Server::start(forgetful(dir.path())).await.unwrap();
    server.shutdown().await.unwrap();
}

// A power cut brought the rows of checkpoints back that were retired, and `plenum verify` called the history damaged as their images were gone.
#[tokio::test]
async fn checkpoints_that_are_retired_are_none_for_a_check_of_the_cell() {
    let dir = tempfile::tempdir().unwrap();
    let options = || {
        let mut options = forgetful(dir.path());
        options.settings.checkpoint_interval = Duration::from_millis(20);
        options
    };
    let server = Server::start(options()).await.unwrap();
    let channel = connect(&server).await;
    for number in 0..6 {
        let before = register(&channel, &format!("m{number}"), 1000).await;
        until(&channel, |status| status.oldest_revision == status.revision).await;
        drop(before);
    }
    server.kill().await.unwrap();
    // What the store has only in its journal is what a power cut may take.
    for entry in std::fs::read_dir(dir.path().join("history/store")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "jnl") {
            std::fs::remove_file(path).unwrap();
        }
    }
    let report = plenum_server::verify(dir.path()).unwrap();
    assert!(report.is_sound(), "{report:?}");
}

#[tokio::test]
async fn a_history_that_was_behind_at_a_crash_is_fed_from_the_log_while_the_server_serves() {
    let dir = tempfile::tempdir().unwrap();
    let mut without = options(dir.path());
    without.settings.history = false;
    let server = Server::start(without).await.unwrap();
    let channel = connect(&server).await;
    let first = register(&channel, "m1", 4000).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let ended = run_one(&channel, &mut session, &first, "first").await;
    let before = status(&channel).await;
    assert_eq!(before.history_revision, 0);
    server.kill().await.unwrap();

    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let caught_up = until(&channel, |status| status.history_revision >= status.revision).await;
    assert!(caught_up.revision > before.revision && caught_up.oldest_revision == 1);
    let mut jobs = Jobs::new(channel.clone());
    let row = jobs.get_allocation(v1::GetAllocationRequest { allocation: ended, at: None }).await.unwrap().into_inner();
    assert_eq!((row.job.as_str(), row.state()), ("first", v1::AllocationState::Complete));
    let at = v1::ListRequest { at: Some(v1::At { revision: first.revision, time_micros: 0 }), ..Default::default() };
    let mut inspect = Inspect::new(channel.clone());
    assert_eq!(inspect.list_machines(at).await.unwrap().into_inner().machines.len(), 1);
    server.shutdown().await.unwrap();
    let report = plenum_server::verify(dir.path()).unwrap();
    assert!(report.is_sound(), "{:?}", report.violations);
}

// It was said that there never was such an allocation; and that it was retired, where anything was.
#[tokio::test]
async fn of_an_allocation_that_the_history_has_not_heard_of_yet_nothing_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let mut without = options(dir.path());
    without.settings.history = false;
    let server = Server::start(without).await.unwrap();
    let channel = connect(&server).await;
    let machine = register(&channel, "m1", 4000).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let ended = run_one(&channel, &mut session, &machine, "first").await;
    let ask = v1::AllocationHistoryRequest { allocation: ended, ..Default::default() };
    let behind = Jobs::new(channel).allocation_history(ask).await.unwrap_err();
    assert_behind(&behind);
    server.shutdown().await.unwrap();
}

// Any time of the past was refused until the history had the newest revision, also one that it had long had.
#[tokio::test]
async fn a_time_that_the_history_has_is_told_of_however_far_behind_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let first = submit(&channel, job("first", 1)).await.revision;
    let second = submit(&channel, job("second", 1)).await.revision;
    until(&channel, |status| status.history_revision >= status.revision).await;
    server.shutdown().await.unwrap();

    let mut without = options(dir.path());
    without.settings.history = false;
    let server = Server::start(without).await.unwrap();
    let channel = connect(&server).await;
    submit(&channel, job("third", 1)).await;
    submit(&channel, job("fourth", 1)).await;
    let mut jobs = Jobs::new(channel);
    let get = |name: &str, at| v1::GetJobRequest { name: name.into(), at, ..Default::default() };
    let then = |revision, time_micros| Some(v1::At { revision, time_micros });
    let submitted = |got: &v1::GetJobResponse| got.job.as_ref().unwrap().submitted_micros;
    let by_revision = jobs.get(get("first", then(first, 0))).await.unwrap().into_inner();
    // The second one was submitted when the first one was decided, in a later batch.
    let by_time = jobs.get(get("first", then(0, submitted(&by_revision)))).await.unwrap().into_inner();
    assert!((first..second).contains(&by_time.revision), "{} of {first} to {second}", by_time.revision);
    // Which was the newest one then, only who has all of that time can tell.
    let third = jobs.get(get("third", None)).await.unwrap().into_inner();
    let behind = jobs.get(get("third", then(0, submitted(&third)))).await.unwrap_err();
    assert_behind(&behind);
    server.kill().await.unwrap();
}

#[tokio::test]
async fn a_history_that_is_too_far_behind_leaps_and_says_what_it_gave_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut without = options(dir.path());
    without.settings.history = false;
    let server = Server::start(without).await.unwrap();
    let channel = connect(&server).await;
    for number in 0..20 {
        register(&channel, &format!("m{number}"), 1000).await;
    }
    let before = status(&channel).await.revision;
    server.kill().await.unwrap();

    let mut tight = options(dir.path());
    tight.settings.log_bytes_max = 0;
    let server = Server::start(tight).await.unwrap();
    let channel = connect(&server).await;
    let told = |status: &v1::StatusResponse| status.history_revision >= status.revision && status.history_given_up > 0;
    let after = until(&channel, told).await;
    assert!(after.oldest_revision > before && after.history_given_up >= before, "{after:?}");
    let mut inspect = Inspect::new(channel.clone());
    // What is said to be readable is: the newest revision, as long as there is none after the leap.
    assert!(after.oldest_revision <= after.revision, "{after:?}");
    let at = v1::At { revision: after.oldest_revision, time_micros: 0 };
    let readable = v1::ListRequest { at: Some(at), ..Default::default() };
    assert_eq!(inspect.list_machines(readable).await.unwrap().into_inner().machines.len(), 20);
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let beat = async {
        loop {
            if let Some(Tell::Heartbeat(beat)) = session.next().await.unwrap() {
                return beat;
            }
        }
    };
    let beat = tokio::time::timeout(Duration::from_secs(30), beat).await.expect("a heartbeat comes");
    assert!((1..=beat.revision).contains(&beat.oldest_revision), "{beat:?}");
    let at = v1::ListRequest { at: Some(v1::At { revision: before - 10, time_micros: 0 }), ..Default::default() };
    assert_eq!(code(&inspect.list_machines(at).await.unwrap_err()), "REVISION_RETIRED");
    // What comes from here on is there.
    let more = register(&channel, "more", 1000).await.revision;
    until(&channel, |status| status.history_revision >= more).await;
    server.kill().await.unwrap();

    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let machines = Inspect::new(channel.clone()).list_machines(v1::ListRequest::default()).await.unwrap().into_inner();
    assert_eq!(machines.machines.len(), 21, "no machine is lost by that");
    server.shutdown().await.unwrap();
    let report = plenum_server::verify(dir.path()).unwrap();
    assert!(report.is_sound(), "{:?}", report.violations);
}

// What is kept for it is counted in whole segments: the one that is written is there in any case.
#[tokio::test]
async fn a_history_leaps_once_whole_segments_that_are_kept_for_it_come_to_the_bound() {
    let dir = tempfile::tempdir().unwrap();
    let small = |log_bytes_max| {
        let mut small = options(dir.path());
        small.settings.segment_bytes = 256 << 10;
        small.settings.log_bytes_max = log_bytes_max;
        small
    };
    let mut without = small(0);
    without.settings.history = false;
    let server = Server::start(without).await.unwrap();
    let channel = connect(&server).await;
    // One is written, one may be ready: at least four are whole.
    let enough = |status: &v1::StatusResponse| status.log_bytes >= 6 * (256 << 10);
    crate::kept::submit_until(&channel, 0, enough).await;
    let before = status(&channel).await.revision;
    server.kill().await.unwrap();

    let server = Server::start(small(4 * (256 << 10))).await.unwrap();
    let channel = connect(&server).await;
    let told =
        |status: &v1::StatusResponse| status.history_revision >= status.revision && status.history_lag_bytes == 0;
    let after = until(&channel, told).await;
    assert!(after.oldest_revision > before && after.history_given_up >= before, "{after:?}");
    server.shutdown().await.unwrap();
    let report = plenum_server::verify(dir.path()).unwrap();
    assert!(report.is_sound(), "{:?}", report.violations);
}

// Which machines had been lost or cordoned was asked of each, and when the server had started stood in its own log.
#[tokio::test]
async fn the_story_of_a_cell_is_told_over_restarts_since_a_time_and_up_to_a_revision() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    register(&channel, "m1", 4000).await;
    submit(&channel, job("crunch", 1)).await;
    let cordon = v1::CordonRequest { name: "m1".into(), cordoned: true };
    let cordoned = Inspect::new(channel.clone()).cordon_machine(cordon).await.unwrap().into_inner().revision;
    drop(channel);
    server.shutdown().await.unwrap();

    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    register(&channel, "m2", 1000).await;
    let told = async |since_micros, revision, limit| {
        let at = Some(v1::At { revision, time_micros: 0 });
        let request = v1::CellHistoryRequest { since_micros, at, limit };
        Inspect::new(channel.clone()).cell_history(request).await.unwrap().into_inner()
    };
    let whole = told(0, 0, 0).await;
    assert_eq!(words(&whole), ["started", "registered", "cordoned", "started", "registered"]);
    let second = &whole.events[2];
    assert_eq!((second.revision, second.detail.as_str()), (cordoned, "machine m1"));
    assert_eq!((second.command.as_str(), second.principal.as_str()), ("cordon-machine", "local"));
    assert!(whole.events[3].detail.starts_with("server: term 2, incarnation "), "{}", whole.events[3].detail);
    assert!(!whole.truncated && whole.oldest_revision == 0);
    assert_eq!(words(&told(whole.events[3].time_micros, 0, 0).await), ["started", "registered"]);
    assert_eq!(words(&told(0, cordoned, 0).await), ["started", "registered", "cordoned"]);
    let newest = told(0, 0, 1).await;
    assert_eq!((words(&newest), newest.truncated), (vec!["registered"], true));
    server.shutdown().await.unwrap();
}

// Each page by itself was tested, and not that they join: an event at the border of two could have been told by both of them, or by none.
#[tokio::test]
async fn the_pages_of_the_story_of_a_cell_join_also_while_more_happens() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    for name in ["m1", "m2", "m3"] {
        register(&channel, name, 4000).await;
        // What is not told has revisions, too.
        submit(&channel, job(&format!("on-{name}"), 1)).await;
    }
    let cordon = async |channel: &Channel, name: &str, cordoned| {
        let request = v1::CordonRequest { name: name.to_owned(), cordoned };
        Inspect::new(channel.clone()).cordon_machine(request).await.unwrap();
    };
    cordon(&channel, "m1", true).await;
    cordon(&channel, "m2", true).await;
    drop(channel);
    server.shutdown().await.unwrap();

    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    cordon(&channel, "m1", false).await;
    let page = async |revision, limit| {
        let at = Some(v1::At { revision, time_micros: 0 });
        let request = v1::CellHistoryRequest { since_micros: 0, at, limit };
        Inspect::new(channel.clone()).cell_history(request).await.unwrap().into_inner()
    };
    let whole = page(0, 0).await;
    let expected = "started registered registered registered cordoned cordoned started ready";
    assert_eq!((words(&whole).join(" ").as_str(), whole.older_at), (expected, 0));
    let mut is_cordoned = false;
    for limit in 1..=8 {
        let (mut until, mut gathered, mut pages) = (whole.revision, Vec::new(), 0);
        while until > 0 {
            let told = page(until, limit).await;
            assert!(told.older_at < until && told.events.len() <= limit as usize, "{limit}: {told:?}");
            gathered.splice(0..0, told.events);
            (until, pages) = (told.older_at, pages + 1);
            is_cordoned = !is_cordoned;
            cordon(&channel, "m3", is_cordoned).await;
        }
        assert!(pages >= 8_u32.div_ceil(limit), "{limit}: each had a part of it");
        assert_eq!(gathered, whole.events, "pages of {limit}");
    }
    server.shutdown().await.unwrap();
}

//! Stories over real connections: what the stage can't show.

use std::sync::mpsc;
use std::time::Duration;

use plenum_sdk::{Decision, Plan, Scheduler, View};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::rival::Rival;

const SHORT: Duration = Duration::from_millis(20);

/// Claims the first machine that fits. Before each decision it asks `thinks`.
struct FirstFit<F>(F);

impl<F: FnMut()> Scheduler for FirstFit<F> {
    fn name(&self) -> &str {
        "first-fit"
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        (self.0)();
        let (mut decision, mut plan, mut ledger) = (Decision::default(), Plan::incremental(), view.ledger());
        for work in view.work() {
            for &task in &work.tasks {
                let slots = view.cell().machines().map(|machine| machine.id.slot);
                if let Some(slot) = slots.into_iter().find(|&slot| ledger.take(work, slot)) {
                    plan.claim(work, &[task], &[slot]);
                }
            }
        }
        decision.commit(plan);
        decision
    }
}

fn job(name: &str, count: u32) -> JobBuilder {
    JobBuilder::new(name, "first-fit").group("main", count, 1000)
}

#[tokio::test]
async fn a_job_runs_to_its_end_in_a_real_cell() {
    let mut cell = TestCell::start().await;
    cell.machine("m1", 2000, SHORT).await;
    let scheduler = cell.scheduler(FirstFit(|| {}));
    cell.submit(&job("words", 5)).await;
    let done = cell.wait_until_complete("words").await;
    assert_eq!(done.groups[0].done, 5);
    scheduler.stop().await;
    assert!(cell.inspect().list_sessions(v1::ListRequest::default()).await.unwrap().into_inner().sessions.is_empty());
}

// Above 4 MiB a test was told OUT_OF_RANGE of a listing that everybody else takes.
#[tokio::test]
async fn a_listing_of_a_test_may_be_as_large_as_a_cell_makes_it() {
    const JOBS: usize = 80;
    let cell = TestCell::start().await;
    let value = "x".repeat(1 << 10);
    for number in 0..JOBS {
        let large =
            (0..64).fold(job(&format!("large-{number}"), 1), |job, option| job.option(&format!("o{option}"), &value));
        cell.submit(&large).await;
    }
    let listed = cell.jobs().list(v1::ListRequest::default()).await.unwrap().into_inner();
    let values = listed.jobs.iter().flat_map(|job| &job.shape).flat_map(|shape| shape.options.values());
    assert_eq!(values.map(String::len).sum::<usize>(), JOBS * (64 << 10));
}

#[tokio::test]
async fn a_lost_race_names_its_culprit_and_is_run_again() {
    let mut cell = TestCell::start().await;
    cell.machine("m1", 1000, SHORT).await;
    let (thinking, begun) = mpsc::channel();
    let (proceed, may_proceed) = mpsc::channel::<()>();
    // Decides on the snapshot that it had before the rival came.
    let _scheduler = cell.scheduler(FirstFit(move || {
        let _ = thinking.send(());
        let _ = may_proceed.recv();
    }));
    cell.submit(&job("slow", 1)).await;
    tokio::task::spawn_blocking(move || begun.recv().unwrap()).await.unwrap();
    let mut rival = Rival::open(&cell).await;
    assert_eq!(rival.take("m1", 1000).await.granted, 1);
    drop(proceed);
    let lost = loop {
        if let Some(transaction) = cell.transactions("first-fit").await.first() {
            break transaction.outcome.clone().unwrap();
        }
        tokio::time::sleep(SHORT).await;
    };
    assert_eq!(lost.granted, 0);
    assert_eq!(lost.refusals[0].kind(), v1::RefusalKind::Conflict);
    assert_eq!(lost.refusals[0].culprits[0].scheduler, "rival");
    cell.machine("m2", 1000, SHORT).await;
    cell.wait_until_complete("slow").await;
}

/// Nobody answered the cell's pings meanwhile, and it cut the connection of a scheduler that thought for long.
#[tokio::test]
async fn a_connection_is_served_while_its_scheduler_thinks() {
    let mut cell = TestCell::start().await;
    cell.machine("m1", 1000, SHORT).await;
    let (says, said) = mpsc::channel();
    // What its runtime is given comes to its end before the decision does.
    let _scheduler = cell.scheduler(FirstFit(move || {
        let (ends, ended) = mpsc::channel();
        tokio::spawn(async move {
            let _ = ends.send(());
        });
        let _ = says.send(ended.recv_timeout(PATIENCE).is_ok());
    }));
    cell.submit(&job("words", 1)).await;
    let served = tokio::task::spawn_blocking(move || said.recv().unwrap()).await.unwrap();
    assert!(served, "nothing else was done while the scheduler thought");
    cell.wait_until_complete("words").await;
}

#[tokio::test]
async fn a_scheduler_finds_its_cell_again_after_a_crash_and_nothing_is_placed_twice() {
    let mut cell = TestCell::start().await;
    cell.machine("m1", 4000, Duration::from_millis(100)).await;
    let _scheduler = cell.scheduler(FirstFit(|| {}));
    cell.submit(&job("before", 12)).await;
    cell.wait_for("before", |job| job.groups[0].done > 0).await;
    cell.crash().await;
    cell.submit(&job("after", 4)).await;
    cell.wait_until_complete("before").await;
    let after = cell.wait_until_complete("after").await;
    assert_eq!(after.groups[0].done, 4);
    let granted: u32 =
        cell.transactions("first-fit").await.iter().flat_map(|view| &view.outcome).map(|one| one.granted).sum();
    assert_eq!(granted, 16);
}

#[tokio::test]
async fn the_jobs_of_a_killed_scheduler_go_on_when_it_is_back() {
    let mut cell = TestCell::start().await;
    cell.machine("m1", 2000, SHORT).await;
    let scheduler = cell.scheduler(FirstFit(|| {}));
    cell.submit(&job("first", 2)).await;
    cell.wait_until_complete("first").await;
    scheduler.kill();
    for number in 0..4 {
        cell.submit(&job(&format!("job{number}"), 2)).await;
    }
    let _again = cell.scheduler(FirstFit(|| {}));
    for number in 0..4 {
        cell.wait_until_complete(&format!("job{number}")).await;
    }
}

/// Hands the next connection on to a cell, until the value goes.
async fn handed_on(relay: &TcpListener, to: &TestCell) -> Ends {
    let (mut near, _) = tokio::time::timeout(PATIENCE, relay.accept()).await.expect("somebody connects").unwrap();
    let mut far = TcpStream::connect(to.address().trim_start_matches("http://")).await.unwrap();
    Ends::spawn(async move { drop(tokio::io::copy_bidirectional(&mut near, &mut far).await) })
}

async fn sessions(cell: &TestCell) -> Vec<u64> {
    let listed = cell.inspect().list_sessions(v1::ListRequest::default()).await.unwrap().into_inner();
    listed.sessions.iter().map(|session| session.id).collect()
}

// The session of the same number was closed there, and its scheduler lost what it had in flight.
#[tokio::test]
async fn who_ends_closes_no_session_of_another_cell_that_answers_at_its_address_by_now() {
    let (mut own, other) = (TestCell::start().await, TestCell::start().await);
    let open = v1::OpenRequest { scheduler: "first-fit".into(), ..v1::OpenRequest::default() };
    let opened = other.sessions().open(open).await.unwrap().into_inner().session;
    let relay = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", relay.local_addr().unwrap());
    let scheduler = own.scheduler_with(FirstFit(|| {}), Options::new(address));
    let connection = handed_on(&relay, &own).await;
    while sessions(&own).await.is_empty() {
        tokio::time::sleep(SHORT).await;
    }
    own.machine("m1", 500, SHORT).await;
    own.submit(&job("wide", 1)).await;
    own.wait_for("wide", |job| job.waiting_reason.contains("left them for later")).await;
    assert_eq!(sessions(&own).await, [opened], "both have the same number");
    drop(connection);
    // Nobody answers the next attempt: it is asked to end before it has heard of the other cell.
    let _silent = relay.accept().await.unwrap();
    let (_connection, ()) = tokio::join!(handed_on(&relay, &other), scheduler.stop());
    assert_eq!(sessions(&other).await, [opened]);
}

/// Claims the first machine, and names it 150 times to fall back on: more than twenty claims of it come to more than 4 KiB.
struct Anxious;

impl Scheduler for Anxious {
    fn name(&self) -> &str {
        "first-fit"
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let (mut decision, mut plan) = (Decision::default(), Plan::incremental());
        for work in view.work() {
            for task in &work.tasks {
                plan.claim(work, &[*task], &[0]).spare(&[0; 150]);
            }
        }
        decision.commit(plan);
        decision
    }
}

/// The transaction ended its stream, was sent again over the next one, ended that, and so on.
#[tokio::test]
async fn what_no_message_has_room_for_is_placed_in_parts() {
    let mut cell = TestCell::start_with(|settings| settings.message_bytes_max = 4096).await;
    cell.machine("m1", 4000, SHORT).await;
    let _scheduler = cell.scheduler(Anxious);
    cell.submit(&JobBuilder::new("many", "first-fit").group("main", 60, 10)).await;
    let done = cell.wait_until_complete("many").await;
    assert_eq!(done.groups[0].done, 60);
    assert!(cell.transactions("first-fit").await.len() >= 3, "parts of 15 tasks, and some that grew");
}

/// The transaction was refused as a whole, and the same was planned again, for ever.
#[tokio::test]
async fn more_spare_machines_than_one_transaction_may_name_are_planned_in_parts() {
    let mut cell = TestCell::start().await;
    cell.machine("m1", 4000, SHORT).await;
    let _scheduler = cell.scheduler(Anxious);
    cell.submit(&JobBuilder::new("many", "first-fit").group("main", 120, 10)).await;
    let done = cell.wait_until_complete("many").await;
    assert_eq!(done.groups[0].done, 120);
}

/// All notes came in one message, which ended its stream, and the next one, and so on: nothing was placed any more, and no reason was ever told.
#[tokio::test]
async fn why_more_jobs_wait_than_one_message_has_room_for_can_be_read() {
    let mut cell = TestCell::start_with(|settings| settings.message_bytes_max = 2048).await;
    cell.machine("m1", 500, SHORT).await;
    let _scheduler = cell.scheduler(FirstFit(|| {}));
    let names: Vec<_> = (0..60).map(|number| format!("wide-{number}")).collect();
    for name in &names {
        cell.submit(&job(name, 1)).await;
    }
    for name in &names {
        cell.wait_for(name, |job| job.waiting_reason.contains("left them for later")).await;
    }
}

#[tokio::test]
async fn why_a_job_waits_can_be_read() {
    let mut cell = TestCell::start().await;
    cell.machine("m1", 500, SHORT).await;
    let _scheduler = cell.scheduler(FirstFit(|| {}));
    cell.submit(&job("wide", 1)).await;
    cell.wait_for("wide", |job| job.waiting_reason.contains("left them for later")).await;
}

// Whoever set something and left the rest as it is by default had no clock, and was called idle however long it thought.
#[tokio::test]
async fn a_process_tells_how_long_it_thinks_whatever_its_settings_begin_from() {
    let mut cell = TestCell::start().await;
    cell.machine("m1", 2000, SHORT).await;
    let settings = plenum_sdk::Settings { window: 2, ..plenum_sdk::Settings::default() };
    let options = Options { settings, ..Options::new(cell.address()) };
    let _scheduler = cell.scheduler_with(FirstFit(|| std::thread::sleep(SHORT)), options);
    cell.submit(&job("words", 1)).await;
    cell.wait_until_complete("words").await;
    let deciding_micros = cell.transactions("first-fit").await[0].decision.as_ref().unwrap().deciding_micros;
    assert!(deciding_micros >= 20_000, "{deciding_micros}");
}

// When jobs were over their histories told alone, in a call for each.
#[tokio::test]
async fn a_job_says_since_when_it_has_stood_as_it_does() {
    let mut cell = TestCell::start().await;
    cell.machine("m1", 2000, SHORT).await;
    let _scheduler = cell.scheduler(FirstFit(|| {}));
    cell.submit(&job("words", 1)).await;
    let done = cell.wait_until_complete("words").await;
    assert!(done.state_since_micros > done.submitted_micros, "{done:?}");
}

// Each had its name and nothing else: neither constraints nor gangs of GPUs could be placed.
#[tokio::test]
async fn machines_of_a_real_cell_may_have_attributes_and_gpus() {
    let mut cell = TestCell::start().await;
    cell.machine_with("m1", 2000, SHORT, &[("rack", "r2")], 0).await;
    cell.machine_with("m2", 2000, SHORT, &[("rack", "r1")], 1).await;
    cell.machine_with("m3", 2000, SHORT, &[("rack", "r2")], 1).await;
    let _scheduler = cell.scheduler(FirstFit(|| {}));
    cell.submit(&job("train", 1).on("rack", "r2").gpu(1000).forever()).await;
    cell.wait_for("train", |job| job.groups[0].running == 1).await;
    assert_eq!(cell.allocations("train").await[0].machine, "m3");
}

// All tasks of a real cell ended with success: what a framework does about those that fail could be tested on a stage alone.
#[tokio::test]
async fn a_test_says_with_which_exit_code_a_task_ends_and_sees_it_listed() {
    let mut cell = TestCell::start().await;
    cell.machine("m1", 3000, SHORT).await;
    let _scheduler = cell.scheduler(FirstFit(|| {}));
    cell.exits_with("words", "main", 1, 42);
    cell.submit(&job("words", 3).retry(1, 0)).await;
    cell.wait_for("words", |job| job.state() == v1::JobState::JobFailed).await;
    let told = |ended: &[v1::AllocationView], task| -> Vec<_> {
        let of_task = ended.iter().filter(|one| one.task == task);
        of_task.map(|one| (one.state(), one.exit_code, one.reason.clone())).collect()
    };
    let ended = cell.ended("words").await;
    let failed = (v1::AllocationState::Failed, 42, "exit code 42".to_owned());
    assert_eq!(told(&ended, 1), [failed.clone(), failed.clone()], "it was tried once more");
    cell.exits_with("words", "main", 1, 0);
    cell.submit(&job("words", 3).retry(1, 0)).await;
    cell.wait_until_complete("words").await;
    let done = (v1::AllocationState::Complete, 0, String::new());
    assert_eq!(told(&cell.ended("words").await, 1).last(), Some(&done));

    cell.exits_with("web", "main", 0, 7);
    cell.submit(&job("web", 1).forever()).await;
    cell.wait_for("web", |job| job.groups[0].failures > 0).await;
    assert_eq!(told(&cell.ended("web").await, 0).first().map(|end| end.1), Some(7), "one that runs for ever ends, too");
}

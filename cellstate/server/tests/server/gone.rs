//! Stories of what the cell has no more: jobs that are retired, and machines that were removed.

use std::path::Path;
use std::time::Duration;

use plenum_proto::v1;
use plenum_server::{Handle, RestoreOptions, Server, ServerOptions, back_up_folder, restore};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::client::{as_principal, code, connect, job, options, register, submit};

type Jobs = v1::jobs_client::JobsClient<Channel>;
type Inspect = v1::inspect_client::InspectClient<Channel>;

/// Whatever is over is retired with the next tick.
fn hasty(dir: &Path) -> ServerOptions {
    let mut hasty = options(dir);
    hasty.settings.core.retire_after_micros = 0;
    hasty
}

const fn at(revision: u64) -> Option<v1::At> {
    Some(v1::At { revision, time_micros: 0 })
}

async fn job_story(
    channel: &Channel,
    name: &str,
    at: Option<v1::At>,
    limit: u32,
) -> Result<v1::HistoryResponse, Status> {
    let ask = v1::JobHistoryRequest { name: name.to_owned(), at, limit, ..Default::default() };
    Ok(Jobs::new(channel.clone()).job_history(ask).await?.into_inner())
}

async fn machine_story(channel: &Channel, name: &str, at: Option<v1::At>) -> Result<v1::HistoryResponse, Status> {
    let ask = v1::MachineHistoryRequest { name: name.to_owned(), at, limit: 0 };
    Ok(Inspect::new(channel.clone()).machine_history(ask).await?.into_inner())
}

fn lines(story: &v1::HistoryResponse) -> Vec<String> {
    let line = |event: &v1::HistoryEvent| format!("{} {} by {}", event.event, event.detail, event.principal);
    story.events.iter().map(line).collect()
}

/// Submits a job, stops it, and waits until the cell has it no more: the revision of its submission.
async fn retire(channel: &Channel, name: &str) -> u64 {
    let submitted = submit(channel, job(name, 1)).await.revision;
    stop(channel, name).await;
    submitted
}

/// Stops a job, and waits until the cell has it no more.
async fn stop(channel: &Channel, name: &str) {
    let mut jobs = Jobs::new(channel.clone());
    jobs.stop(v1::StopRequest { name: name.to_owned(), ..Default::default() }).await.unwrap();
    for _ in 0..3000 {
        let get = v1::GetJobRequest { name: name.to_owned(), ..Default::default() };
        if jobs.get(get).await.is_err_and(|status| code(&status) == "NO_SUCH_JOB") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{name} is never retired");
}

const WHOLE: [&str; 3] =
    ["submitted version 1 by local", "stopped stopped by a request by local", "retired  by server"];

/// It was NO_SUCH_JOB, and who did not know a revision at which the job had been there never learned what became of it.
#[tokio::test]
async fn a_retired_job_is_found_by_its_name_and_tells_all_up_to_its_retirement() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(hasty(dir.path())).await.unwrap();
    let channel = connect(&server).await;
    let first = retire(&channel, "crunch").await;
    // Its rows are others' by now.
    let other = submit(&channel, job("other", 1)).await;
    assert_eq!(other.job & u64::from(u32::MAX), 0, "the only row of jobs that was ever given");
    let scale = v1::ScaleRequest { name: "other".into(), group: "work".into(), count: 7, ..Default::default() };
    Jobs::new(channel.clone()).scale(scale).await.unwrap();
    let story = job_story(&channel, "crunch", None, 0).await.unwrap();
    assert_eq!(lines(&story), WHOLE);
    assert_eq!((story.truncated, story.oldest_revision, story.events[2].command.as_str()), (false, 0, "tick"));
    let retired = story.events[2].revision;
    assert!(story.revision > retired, "up to the present nothing more happened to it");

    // Of two jobs of a name it is the newer one, and at a revision the newest of then.
    let second = retire(&channel, "crunch").await;
    let newest = job_story(&channel, "crunch", None, 0).await.unwrap();
    assert_eq!((lines(&newest), newest.events[0].revision), (WHOLE.map(str::to_owned).to_vec(), second));
    for revision in retired..second {
        let then = job_story(&channel, "crunch", at(revision), 0).await.unwrap();
        assert_eq!((&then.events, then.revision), (&story.events, revision));
    }
    let before = job_story(&channel, "crunch", at(retired - 1), 0).await.unwrap();
    assert_eq!(lines(&before), WHOLE[..2]);
    let early = job_story(&channel, "crunch", at(first - 1), 0).await.unwrap_err();
    assert_eq!(code(&early), "NO_SUCH_JOB");

    // With a limit it is the end of that, and where the rest is is told.
    for limit in 1..=3 {
        let newest = job_story(&channel, "crunch", at(second - 1), u32::try_from(limit).unwrap()).await.unwrap();
        assert_eq!(newest.events, story.events[3 - limit..]);
        let older = story.events[..3 - limit].last().map_or(0, |event| event.revision);
        assert_eq!((newest.truncated, newest.older_at), (limit < 3, older));
    }
    server.shutdown().await.unwrap();
    // After a restart, too.
    let server = Server::start(hasty(dir.path())).await.unwrap();
    let again = job_story(&connect(&server).await, "crunch", at(second - 1), 0).await.unwrap();
    assert_eq!(again.events, story.events);
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_removed_machine_tells_its_story_and_who_removed_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(options(dir.path())).await.unwrap();
    let channel = connect(&server).await;
    register(&channel, "m1", 4000).await;
    let mut inspect = Inspect::new(channel.clone());
    let cordon = v1::CordonRequest { name: "m1".into(), cordoned: true };
    inspect.cordon_machine(as_principal("operator/ann", cordon)).await.unwrap();
    let remove = |name: &str| v1::RemoveMachineRequest { name: name.to_owned(), force: true, ..Default::default() };
    let removed =
        inspect.remove_machine(as_principal("operator/ben", remove("m1"))).await.unwrap().into_inner().revision;
    let told = ["registered ready, epoch 1 by local", "cordoned  by operator/ann", "gone  by operator/ben"];
    let story = machine_story(&channel, "m1", None).await.unwrap();
    assert_eq!((lines(&story), story.truncated), (told.map(str::to_owned).to_vec(), false));

    // Another one in its slot, and one of its name: each has its own story.
    register(&channel, "m2", 4000).await;
    inspect.remove_machine(remove("m2")).await.unwrap();
    assert_eq!(lines(&machine_story(&channel, "m1", None).await.unwrap()), told);
    assert_eq!(lines(&machine_story(&channel, "m2", None).await.unwrap()).len(), 2);
    register(&channel, "m1", 4000).await;
    assert_eq!(lines(&machine_story(&channel, "m1", None).await.unwrap()).len(), 1);
    assert_eq!(lines(&machine_story(&channel, "m1", at(removed)).await.unwrap()), told);
    let never = machine_story(&channel, "m3", None).await.unwrap_err();
    assert_eq!((never.code(), code(&never).as_str()), (Code::NotFound, "NO_SUCH_MACHINE"), "{never}");
    assert!(never.message().contains("there never was one"), "{never}");
    server.shutdown().await.unwrap();
}

/// Nothing is kept longer than a checkpoint ago.
async fn forgetful(dir: &Path) -> Handle {
    let mut forgetful = hasty(dir);
    forgetful.settings.retain = Duration::ZERO;
    forgetful.settings.checkpoint_interval = Duration::from_millis(20);
    Server::start(forgetful).await.unwrap()
}

#[tokio::test]
async fn what_is_no_longer_retained_of_a_name_is_told_from_what_never_was() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(hasty(dir.path())).await.unwrap();
    let never = job_story(&connect(&server).await, "crunch", None, 0).await.unwrap_err();
    assert_eq!((never.code(), code(&never).as_str()), (Code::NotFound, "NO_SUCH_JOB"), "{never}");
    assert!(never.message().contains("there never was one"), "{never}");
    server.shutdown().await.unwrap();

    let server = forgetful(dir.path()).await;
    let channel = connect(&server).await;
    retire(&channel, "crunch").await;
    register(&channel, "m1", 4000).await;
    let remove = v1::RemoveMachineRequest { name: "m1".into(), force: true, ..Default::default() };
    let mut inspect = Inspect::new(channel.clone());
    let last = inspect.remove_machine(remove).await.unwrap().into_inner().revision;
    let mut round = 0;
    while inspect.status(v1::StatusRequest {}).await.unwrap().into_inner().oldest_revision <= last {
        round += 1;
        assert!(round < 1000, "nothing is ever retired");
        register(&channel, &format!("more{}", round % 7), 1000).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let retired = |status: Status, expected: &str| {
        assert_eq!((status.code(), code(&status).as_str()), (Code::NotFound, expected), "{status}");
        // Of one whose name is left it is known, of the other it may be.
        assert!(status.message().contains("it is retired"), "{status}");
        assert!(!status.message().contains("there never was"), "{status}");
    };
    let now = at(inspect.status(v1::StatusRequest {}).await.unwrap().into_inner().revision);
    retired(job_story(&channel, "crunch", now, 0).await.unwrap_err(), "NO_SUCH_JOB");
    retired(machine_story(&channel, "m1", now).await.unwrap_err(), "NO_SUCH_MACHINE");
    server.shutdown().await.unwrap();
}

// What named them lay before the beginning of its history: it was said that nobody knows of them, though all of their end is retained.
#[tokio::test]
async fn what_a_restored_cell_began_with_is_found_by_its_name_when_it_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(hasty(dir.path())).await.unwrap();
    let channel = connect(&server).await;
    submit(&channel, job("web", 1)).await;
    register(&channel, "m1", 4000).await;
    register(&channel, "m2", 4000).await;
    server.shutdown().await.unwrap();
    let (file, target) = (dir.path().join("backup"), dir.path().join("restored"));
    back_up_folder(dir.path(), &mut std::fs::File::create(&file).unwrap(), &file).unwrap();
    let manifest = restore(&file, &target, &RestoreOptions::default()).unwrap().manifest;

    let server = Server::start(hasty(&target)).await.unwrap();
    let channel = connect(&server).await;
    // A job of its name that comes later is another one.
    stop(&channel, "web").await;
    retire(&channel, "web").await;
    let mut inspect = Inspect::new(channel.clone());
    let remove = v1::RemoveMachineRequest { name: "m1".into(), force: true, ..Default::default() };
    inspect.remove_machine(as_principal("operator/ben", remove)).await.unwrap();
    let newer = job_story(&channel, "web", None, 0).await.unwrap();
    assert_eq!(lines(&newer), WHOLE);
    let before = at(newer.events[0].revision - 1);
    let web = job_story(&channel, "web", before, 0).await.unwrap();
    assert_eq!(lines(&web), WHOLE[1..], "of the one of the backup all that came after the beginning");
    assert!(web.events[0].revision > manifest.revision);
    assert_eq!(lines(&machine_story(&channel, "m1", None).await.unwrap()), ["gone  by operator/ben"]);
    server.shutdown().await.unwrap();
}

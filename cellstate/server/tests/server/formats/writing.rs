//! How a fixture is made.

use std::fs;
use std::path::Path;
use std::time::Duration;

use plenum_proto::v1;
use plenum_server::{Handle, Server};
use tonic::transport::Channel;

use super::shown::Shown;
use super::{copy, small};
use crate::client::{Session, connect, job, placement, register, submit};
use crate::fallback::FALLBACK;
use crate::kept::kept;

/// Longer than the interval of checkpoints, so that there is one after each step: sets of images, and what is added to them.
const STEP: Duration = Duration::from_millis(150);

/// A cell in which something of each table stands, as this version writes it, in a folder: `cell`, `backup` and `shown.txt`. It is
/// started twice, so that there are checkpoints and blocks of two runs, and sets of images that begin in the store and with a file.
pub(super) async fn write_fixture(folder: &Path) {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("cell");
    let mut settings = small(&dir);
    settings.settings.checkpoint_interval = STEP / 3;
    let mut shown = Shown::default();

    let server = Server::start(settings.clone()).await.unwrap();
    let channel = connect(&server).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let machine = register(&channel, "m1", 64_000).await;
    step(&mut session, machine.revision, &mut shown).await;
    let other = register(&channel, "m2", 2_000).await.revision;
    step(&mut session, other, &mut shown).await;
    let first = submit(&channel, job("first", 6)).await;
    step(&mut session, first.revision, &mut shown).await;
    let second = submit(&channel, job("second", 1)).await;
    step(&mut session, second.revision, &mut shown).await;
    let stale = session.transaction(2, vec![placement(first.job, vec![1], vec![3])]);
    let transaction = session.transaction(1, vec![placement(first.job, vec![0, 1, 1], vec![0, 1, 2])]);
    let granted = session.commit(transaction).await.unwrap();
    assert_eq!(granted.granted, 3);
    step(&mut session, granted.revision, &mut shown).await;
    let governed = govern(&channel, &session, second.job).await;
    step(&mut session, governed, &mut shown).await;
    // A lost race, for what is kept about conflicts.
    let lost = session.commit(stale).await.unwrap();
    assert_eq!((lost.granted, lost.refusals[0].kind()), (0, v1::RefusalKind::Conflict));
    step(&mut session, lost.revision, &mut shown).await;
    drop((session, channel));
    server.shutdown().await.unwrap();

    // As those of a large cell: its sets of images begin with files.
    settings.settings.image_file_pages = 1;
    let server = Server::start(settings).await.unwrap();
    let channel = connect(&server).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let ended = granted.placements[0].allocations[0];
    for state in [v1::AllocationState::Running, v1::AllocationState::Complete] {
        let next = session.cell.revision().0 + 1;
        report(&channel, &machine, ended, state).await;
        step(&mut session, next, &mut shown).await;
    }
    let transaction = session.transaction(1, vec![placement(first.job, vec![0, 0], vec![3, 4])]);
    let granted = session.commit(transaction).await.unwrap();
    assert_eq!(granted.granted, 2);
    step(&mut session, granted.revision, &mut shown).await;
    finish(folder, &dir, server, (session, channel), shown).await;
}

/// A cell that retained little: it has given up its first segments, so that it has a fallback, and kept others. It goes on as one that retains
/// more, and shows what it came to then.
pub(super) async fn write_fixture_with_fallback(folder: &Path) {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("cell");
    let mut settings = small(&dir);
    settings.settings.checkpoint_interval = STEP / 3;
    let mut forgetful = settings.clone();
    forgetful.settings.retain_bytes = 128 << 10;
    let server = Server::start(forgetful).await.unwrap();
    let first = dir.join(format!("log/{:020}.segment", 1));
    let begins_in_its_middle = || !first.exists() && !first.with_extension("kept").exists();
    fill_until(&connect(&server).await, || begins_in_its_middle() && dir.join(FALLBACK).exists()).await;
    server.shutdown().await.unwrap();

    let server = Server::start(settings).await.unwrap();
    let channel = connect(&server).await;
    fill_until(&channel, || !kept(&dir).is_empty()).await;
    let mut shown = Shown::default();
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let machine = register(&channel, "m1", 64_000).await.revision;
    step(&mut session, machine, &mut shown).await;
    let first = submit(&channel, job("first", 6)).await;
    step(&mut session, first.revision, &mut shown).await;
    let second = submit(&channel, job("second", 1)).await;
    step(&mut session, second.revision, &mut shown).await;
    let transaction = session.transaction(1, vec![placement(first.job, vec![0, 0], vec![0, 1])]);
    let granted = session.commit(transaction).await.unwrap();
    assert_eq!(granted.granted, 2);
    step(&mut session, granted.revision, &mut shown).await;
    finish(folder, &dir, server, (session, channel), shown).await;
    assert!(dir.join(FALLBACK).exists() && !kept(&dir).is_empty(), "it has both: {:?}", kept(&dir));
}

/// Notes what the cell is in the end, takes a backup, stops it, and lays everything down.
async fn finish(folder: &Path, dir: &Path, server: Handle, (session, channel): (Session, Channel), mut shown: Shown) {
    shown.note_story(&channel).await;
    shown.note_governed(&session);
    fs::write(folder.join("backup"), backup(&channel).await).unwrap();
    drop((session, channel));
    server.shutdown().await.unwrap();
    copy(dir, &folder.join("cell"));
    fs::write(folder.join("shown.txt"), shown.write()).unwrap();
}

/// Lets the machine in the first slot say something else of itself, which fills the log and not the cell, until it is so.
async fn fill_until(channel: &Channel, is_so: impl Fn() -> bool) {
    register(channel, "m1", 64_000).await;
    let mut agents = v1::agents_client::AgentsClient::new(channel.clone());
    for number in 0..4000 {
        if is_so() {
            return;
        }
        let text = format!("{:0>250}", number % 2);
        let attributes = (0..32).map(|attribute| (format!("attribute-{attribute}"), text.clone())).collect();
        let machine = v1::RegisterMachine {
            name: "m1".to_owned(),
            boot_id: "boot-1".to_owned(),
            capacity: Some(v1::Resources { cpu_millis: 64_000, memory_bytes: 1 << 40, ..Default::default() }),
            attributes,
            ..Default::default()
        };
        agents.register(v1::RegisterRequest { machine: Some(machine), ..Default::default() }).await.unwrap();
        // Slow enough for the server to give up what is written: the fixture is to be small.
        tokio::time::sleep(STEP / 10).await;
    }
    panic!("the log was filled in vain");
}

/// Lays down a quota and a partition, and holds room for a job. Gives the last revision.
async fn govern(channel: &Channel, session: &Session, job: u64) -> u64 {
    let mut govern = v1::govern_client::GovernClient::new(channel.clone());
    let limit = Some(v1::Quota { cpu_millis: Some(1_000_000), ..v1::Quota::default() });
    govern.set_quota(v1::SetQuota { namespace: "default".into(), limit }).await.unwrap();
    let rule = v1::Constraint {
        attribute: "rack".into(),
        operator: v1::Operator::Equal.into(),
        values: vec!["nowhere".into()],
    };
    let lab = v1::SetPartition { name: "lab".into(), machines: vec![rule], schedulers: vec!["ml".into()] };
    govern.set_partition(lab).await.unwrap();
    let hold = v1::TakeHoldRequest {
        session: session.welcome.session,
        job,
        machines: vec![0],
        resources: Some(v1::Resources { cpu_millis: 1, ..v1::Resources::default() }),
        within_micros: 300_000_000,
        incarnation: 0,
    };
    let taken = v1::cell_client::CellClient::new(channel.clone()).take_hold(hold).await.unwrap();
    taken.into_inner().revision
}

/// Notes what the cell is once the mirror has a revision, and leaves time for a checkpoint.
async fn step(session: &mut Session, revision: u64, shown: &mut Shown) {
    session.reach(revision).await;
    shown.note(session);
    tokio::time::sleep(STEP).await;
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

async fn backup(channel: &Channel) -> Vec<u8> {
    let mut inspect = v1::inspect_client::InspectClient::new(channel.clone());
    let mut chunks = inspect.backup(v1::BackupRequest {}).await.unwrap().into_inner();
    let mut backup = Vec::new();
    while let Some(chunk) = chunks.message().await.unwrap() {
        backup.extend_from_slice(&chunk.data);
    }
    backup
}

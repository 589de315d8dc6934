//! Files of each format version, as they were written when it was made, are opened by every later version. `BLESS=1 cargo test -p
//! plenum-server --test server formats` writes them anew: only together with a new version, next to the old ones.

use std::fs;
use std::path::{Path, PathBuf};

use plenum_proto::v1;
use plenum_server::{RestoreOptions, Server, check_backup, restore, verify};

use crate::client::{Session, connect, job, options, placement, register, submit};

/// What the fixtures show: kept beside them, so that it need not be computed by what is tested.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    revision: u64,
    live: u32,
    machines: usize,
    jobs: usize,
}

impl Shown {
    fn of(cell: &plenum_model::Cell) -> Self {
        let (live, machines, jobs) = (cell.live(), cell.machines().count(), cell.jobs().count());
        Self { revision: cell.revision().0, live, machines, jobs }
    }

    fn read(text: &str) -> Self {
        let number = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().parse::<u64>().unwrap()
        };
        Self {
            revision: number("revision"),
            live: u32::try_from(number("live")).unwrap(),
            machines: usize::try_from(number("machines")).unwrap(),
            jobs: usize::try_from(number("jobs")).unwrap(),
        }
    }

    fn write(&self) -> String {
        let Self { revision, live, machines, jobs } = self;
        format!("revision {revision}\nlive {live}\nmachines {machines}\njobs {jobs}\n")
    }
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/server/golden").join(name)
}

fn small(dir: &Path) -> plenum_server::ServerOptions {
    let mut small = options(dir);
    small.settings.segment_bytes = 64 << 10;
    small.cell_id = Some([0xce; 16]);
    small
}

/// A cell in which something of each table stands, written by this version.
async fn write_fixtures() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("cell");
    let server = Server::start(small(&dir)).await.unwrap();
    let channel = connect(&server).await;
    register(&channel, "m1", 64_000).await;
    register(&channel, "m2", 2_000).await;
    let first = submit(&channel, job("first", 4)).await.job;
    submit(&channel, job("second", 1)).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let transaction = session.transaction(1, vec![placement(first, vec![0, 0, 1], vec![0, 1, 2])]);
    assert_eq!(session.commit(transaction).await.unwrap().granted, 3);
    let shown = Shown::of(&session.cell);
    let mut inspect = v1::inspect_client::InspectClient::new(channel.clone());
    let mut chunks = inspect.backup(v1::BackupRequest {}).await.unwrap().into_inner();
    let mut backup = Vec::new();
    while let Some(chunk) = chunks.message().await.unwrap() {
        backup.extend_from_slice(&chunk.data);
    }
    drop((session, channel));
    server.shutdown().await.unwrap();
    let target = fixture("cell-1");
    if target.exists() {
        fs::remove_dir_all(&target).unwrap();
    }
    copy(&dir, &target);
    fs::write(fixture("backup-1"), backup).unwrap();
    fs::write(fixture("shown-1.txt"), shown.write()).unwrap();
}

/// Copies a folder, without what only a running server has.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &target);
        } else if !["LOCK", "address"].contains(&entry.file_name().to_str().unwrap()) {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// The fixtures in a folder of their own, because opening writes.
async fn fixtures() -> (tempfile::TempDir, Shown) {
    if std::env::var_os("BLESS").is_some() {
        write_fixtures().await;
    }
    let temporary = tempfile::tempdir().unwrap();
    copy(&fixture("cell-1"), &temporary.path().join("cell"));
    let shown = Shown::read(&fs::read_to_string(fixture("shown-1.txt")).unwrap());
    (temporary, shown)
}

/// Starts a server there, and checks that it shows what was written and goes on.
async fn assert_goes_on(dir: &Path, shown: &Shown) {
    let server = Server::start(small(dir)).await.unwrap();
    let channel = connect(&server).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let now = Shown::of(&session.cell);
    assert!(now.revision > shown.revision);
    assert_eq!(Shown { revision: shown.revision, ..now }, *shown);
    register(&channel, "m1", 64_000).await;
    let known = session.cell.jobs().find(|job| &*job.shape.name == "second").unwrap().id.to_bits();
    let last = submit(&channel, job("third", 1)).await.revision;
    session.reach(last).await;
    let transaction = session.transaction(1, vec![placement(known, vec![0], vec![0])]);
    assert_eq!(session.commit(transaction).await.unwrap().granted, 1);
    drop((session, channel));
    server.shutdown().await.unwrap();
    let report = verify(dir).unwrap();
    assert!(report.is_sound(), "{report:#?}");
}

#[tokio::test]
async fn log_history_and_backup_of_version_one_are_opened_and_go_on() {
    let (temporary, shown) = fixtures().await;
    let dir = temporary.path().join("cell");
    let report = verify(&dir).unwrap();
    assert!(report.is_sound(), "{report:#?}");
    assert_goes_on(&dir, &shown).await;

    let manifest = check_backup(&fixture("backup-1")).unwrap();
    assert_eq!(manifest.revision, shown.revision);
    let restored = temporary.path().join("restored");
    restore(&fixture("backup-1"), &restored, &RestoreOptions::default()).unwrap();
    assert_goes_on(&restored, &shown).await;
    // The log alone holds everything, too, as long as it begins with the first revision.
    let log = temporary.path().join("log-only");
    copy(&fixture("cell-1").join("log"), &log.join("log"));
    assert_goes_on(&log, &shown).await;
}

#[tokio::test]
async fn a_newer_version_of_history_or_backup_is_refused_with_both_versions() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("cell");
    Server::start(small(&dir)).await.unwrap().shutdown().await.unwrap();
    let identity = dir.join("history/identity");
    let text = fs::read_to_string(&identity).unwrap();
    let format = text.lines().find_map(|line| line.strip_prefix("format ")).unwrap().to_owned();
    let newer = (format.parse::<u32>().unwrap() + 1).to_string();
    fs::write(&identity, text.replace(&format!("format {format}"), &format!("format {newer}"))).unwrap();
    let refused = Server::start(small(&dir)).await.err().unwrap();
    let words = refused.to_string();
    assert_eq!(refused.code(), "OTHER_FORMAT", "{words}");
    assert!(words.contains(&format) && words.contains(&newer), "{words}");

    let file = temporary.path().join("backup");
    let mut bytes = b"PLENUMBK".to_vec();
    bytes.extend_from_slice(&[2, 0, 0, 0, 0, 0, 0, 0]);
    fs::write(&file, bytes).unwrap();
    let refused = restore(&file, &temporary.path().join("new"), &RestoreOptions::default()).unwrap_err();
    assert_eq!(refused.code(), "OTHER_FORMAT");
    assert!(refused.to_string().contains("backup format version 2, expected 1"), "{refused}");
}

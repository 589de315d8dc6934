//! Files of each format version, as they were written when it was made, are opened by every later version. The fixtures are folders that
//! are named after their formats; those with a fallback have kept segments, too. With a new format,
//! `BLESS=1 cargo nextest run -p plenum-server --test server formats::the_formats` makes one more beside them, and leaves those that are
//! there as they are.

mod shown;
mod writing;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use plenum_proto::v1;
use plenum_server::{RestoreOptions, Server, back_up_folder, check_backup, restore, verify};
use prost::Message as _;

use crate::client::{Session, connect, job, options, placement, register, submit};
use crate::fallback::FALLBACK;
use crate::kept::kept;
use shown::{Count, Shown};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/server/golden/formats")
}

fn small(dir: &Path) -> plenum_server::ServerOptions {
    let mut small = options(dir);
    small.settings.segment_bytes = 64 << 10;
    small.cell_id = Some([0xce; 16]);
    small
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

/// The version in the head of a file.
fn version_in(file: &Path, magic: &[u8]) -> u32 {
    let bytes = fs::read(file).unwrap();
    let rest = bytes.strip_prefix(magic).unwrap_or_else(|| panic!("{file:?}"));
    u32::from_le_bytes(rest[..4].try_into().unwrap())
}

/// Whose formats a fixture has, by what stands in its files.
fn name_of(fixture: &Path) -> String {
    let log = version_in(&fixture.join("cell/log/CELL"), b"PLENUMID");
    let backup = version_in(&fixture.join("backup"), b"PLENUMBK");
    let name = format!("log-{log}-history-{}-backup-{backup}", history_format(&fixture.join("cell")));
    match fallback_version(fixture) {
        Some(version) => format!("{name}-fallback-{version}"),
        None => name,
    }
}

fn fallback_version(fixture: &Path) -> Option<u32> {
    let file = fixture.join("cell").join(FALLBACK);
    file.exists().then(|| version_in(&file, b"PLENUMBK"))
}

fn history_format(cell: &Path) -> u32 {
    let text = fs::read_to_string(cell.join("history/identity")).unwrap();
    text.lines().find_map(|line| line.strip_prefix("format ")).unwrap().parse().unwrap()
}

/// Starts a server there, and checks that it shows what was written and goes on.
async fn assert_goes_on(dir: &Path, shown: &Shown, tells_the_past: bool) {
    let server = Server::start(small(dir)).await.unwrap();
    let channel = connect(&server).await;
    if tells_the_past {
        shown.assert_is_told(&channel).await;
    }
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let (now, then) = (Count::of(&session.cell), shown.newest());
    assert!(now.revision > then.revision);
    assert_eq!(Count { revision: then.revision, ..now }, then);
    shown.assert_is_governed(&session.cell);
    register(&channel, "m1", 64_000).await;
    let known = session.cell.jobs().find(|job| &*job.shape.name == "second").unwrap().id.to_bits();
    let last = submit(&channel, job("third", 1)).await.revision;
    session.reach(last).await;
    let transaction = session.transaction(1, vec![placement(known, vec![0], vec![0])]);
    assert_eq!(session.commit(transaction).await.unwrap().granted, 1);
    drop((session, channel));
    server.shutdown().await.unwrap();
    assert_sound(dir);
}

fn assert_sound(dir: &Path) {
    let report = verify(dir).unwrap();
    assert!(report.is_sound(), "{report:#?}");
}

async fn assert_is_opened_and_goes_on(fixture: &Path) {
    let shown = Shown::read(&fs::read_to_string(fixture.join("shown.txt")).unwrap());
    // In a folder of its own, because opening writes.
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("cell");
    copy(&fixture.join("cell"), &dir);
    assert_sound(&dir);
    assert_goes_on(&dir, &shown, true).await;
    // Rows of its version are still there, beside those of ours.
    let server = Server::start(small(&dir)).await.unwrap();
    shown.assert_is_told(&connect(&server).await).await;
    server.shutdown().await.unwrap();

    let backup = fixture.join("backup");
    assert_eq!(check_backup(&backup).unwrap().revision, shown.newest().revision);
    let restored = temporary.path().join("restored");
    restore(&backup, &restored, &RestoreOptions::default()).unwrap();
    assert_goes_on(&restored, &shown, false).await;
    // The log alone holds everything, too, as long as it begins with the first revision; with a fallback it need not.
    let log = temporary.path().join("log-only");
    copy(&fixture.join("cell/log"), &log.join("log"));
    if fallback_version(fixture).is_some() {
        assert!(!kept(&log).is_empty(), "{fixture:?} has no kept segment");
        let refused = Server::start(small(&log)).await.err();
        assert!(refused.is_some(), "the log alone begins in its middle");
        fs::copy(fixture.join("cell").join(FALLBACK), log.join(FALLBACK)).unwrap();
    }
    assert_goes_on(&log, &shown, false).await;
}

/// The versions of a kind of file, of all fixtures.
fn versions(fixtures: &[PathBuf], of: impl Fn(&Path) -> Option<u32>) -> BTreeSet<u32> {
    fixtures.iter().filter_map(|fixture| of(fixture)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn log_history_and_backup_of_each_version_are_opened_and_go_on() {
    let all: Vec<PathBuf> = fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap().path()).collect();
    // Beside each other: most of the time they wait for the disk.
    let mut checks = tokio::task::JoinSet::new();
    for fixture in all.clone() {
        assert_eq!(fixture.file_name().unwrap().to_str(), Some(name_of(&fixture).as_str()));
        checks.spawn(async move {
            println!("{}", fixture.display());
            assert_is_opened_and_goes_on(&fixture).await;
        });
    }
    checks.join_all().await;
    let histories = versions(&all, |fixture| Some(history_format(&fixture.join("cell"))));
    assert_eq!(histories, plenum_history::FORMATS.collect(), "each format of the history that is read has a fixture");
    let logs = versions(&all, |fixture| Some(version_in(&fixture.join("cell/log/CELL"), b"PLENUMID")));
    assert_eq!(logs, (1..=plenum_journal::FORMAT_VERSION).collect(), "so has each version of the log");
    let backups = versions(&all, |fixture| Some(version_in(&fixture.join("backup"), b"PLENUMBK")));
    assert_eq!(backups, (1..=plenum_server::FILE_VERSION).collect(), "and each version of backups");
    // A fallback is a backup. It got its name when these had their second version.
    let fallbacks = versions(&all, fallback_version);
    assert_eq!(fallbacks, (2..=plenum_server::FILE_VERSION).collect(), "and of those, as a fallback");
}

#[tokio::test]
async fn the_formats_that_are_written_now_have_a_fixture() {
    let temporary = tempfile::tempdir().unwrap();
    let [plain, with_fallback] = ["plain", "with-fallback"].map(|name| temporary.path().join(name));
    [&plain, &with_fallback].into_iter().for_each(|folder| fs::create_dir(folder).unwrap());
    writing::write_fixture(&plain).await;
    writing::write_fixture_with_fallback(&with_fallback).await;
    for written in [plain, with_fallback] {
        let name = name_of(&written);
        let fixture = fixtures().join(&name);
        if std::env::var_os("BLESS").is_some() && !fixture.exists() {
            copy(&written, &fixture);
        }
        assert!(
            fixture.exists(),
            "{name} is not in {:?}: make it with `BLESS=1 cargo nextest run -p plenum-server --test server formats::the_formats`",
            fixtures()
        );
    }
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
    let newer = plenum_server::FILE_VERSION + 1;
    bytes.extend_from_slice(&newer.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    fs::write(&file, bytes).unwrap();
    let refused = restore(&file, &temporary.path().join("new"), &RestoreOptions::default()).unwrap_err();
    assert_eq!(refused.code(), "OTHER_FORMAT");
    let words = format!("backup format version {newer}, expected {}", newer - 1);
    assert!(refused.to_string().contains(&words), "{refused}");
}

/// Appends a change of one revision to the log of a server that is down, in these bytes.
fn append(dir: &Path, delta: impl FnOnce(u64) -> Vec<u8>) {
    let disk = std::sync::Arc::new(plenum_journal::RealDisk::existing(dir.join("log")).unwrap());
    let options = plenum_journal::Options { segment_bytes: 64 << 10, frame_bytes_max: 60 << 10, ..Default::default() };
    let (mut journal, recovered) = plenum_journal::Journal::open(disk, options).unwrap();
    let (term, revision) = (recovered.tail.term, recovered.tail.revision + 1);
    let entry = v1::LogEntry { revision, delta: delta(revision).into(), ..Default::default() };
    let batch = v1::LogBatch { time_micros: LATER_MICROS, entries: vec![entry], ..Default::default() };
    let label = plenum_journal::BatchLabel { term, first_revision: revision, last_revision: revision };
    journal.append_and_sync(label, &[&batch.encode_to_vec()]).unwrap();
}

/// Later than any clock here says.
const LATER_MICROS: i64 = 4_102_444_800_000_000;

// What a later version had said was left out in silence, and was in no checkpoint that this one wrote: lost for good.
#[tokio::test]
async fn a_change_that_only_a_later_version_knows_is_not_left_out_of_a_cell() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("cell");
    Server::start(small(&dir)).await.unwrap().shutdown().await.unwrap();
    append(&dir, |revision| {
        let machine = v1::MachineChange { id: 1 << 32, name: "m1".to_owned(), ..Default::default() };
        let mut later = machine.encode_to_vec();
        // Its field 1000: a number.
        later.extend([0xc0, 0x3e, 1]);
        let mut delta = v1::Delta { revision, time_micros: LATER_MICROS, ..Default::default() }.encode_to_vec();
        delta.extend([0x32, u8::try_from(later.len()).unwrap()]);
        delta.extend(later);
        delta
    });
    assert_takes_a_later_version(&dir, "`machines.field 1000`").await;
}

// It was told as damage, and given up with `--accept-loss`.
#[tokio::test]
async fn a_value_that_only_a_later_version_knows_is_no_damage() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("cell");
    Server::start(small(&dir)).await.unwrap().shutdown().await.unwrap();
    append(&dir, |revision| {
        let machine = v1::MachineChange { id: 1 << 32, name: "m1".to_owned(), state: 300, ..Default::default() };
        v1::Delta { revision, time_micros: LATER_MICROS, machines: vec![machine], ..Default::default() }.encode_to_vec()
    });
    assert_takes_a_later_version(&dir, "`machines.state = 300`").await;
}

/// Nobody goes on from a cell with what only a later version knows. Nothing is wrong with it, and nothing of it is given up.
async fn assert_takes_a_later_version(dir: &Path, what: &str) {
    let refused = Server::start(small(dir)).await.err().unwrap();
    assert_eq!(refused.code(), "OTHER_FORMAT", "{refused}");
    assert!(refused.to_string().contains(what), "{refused}");
    assert_eq!(verify(dir).unwrap_err().code(), "OTHER_FORMAT");
    let (file, target) = (dir.with_file_name("backup"), dir.with_file_name("new"));
    assert_eq!(back_up_folder(dir, &mut Vec::new(), &file).unwrap_err().code(), "OTHER_FORMAT");
    let options = RestoreOptions { accept_loss: true, ..RestoreOptions::default() };
    assert_eq!(restore(dir, &target, &options).unwrap_err().code(), "OTHER_FORMAT");
    assert!(!target.exists());
}

//! Limits that the system sets a process: open files, and the size of a file.

use std::{
    collections::BTreeSet,
    net::TcpStream,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{
    cell::{CrashCell, Up},
    warden::{Call, Kind, Verdict},
};
use crate::{rivals::Rivals, stage::eventually};

/// Open files of a server that has them all to itself: its log, its history and some connections.
const OPEN_FILES: u32 = 256;
/// More connections than that.
const CONNECTIONS: usize = 600;
const CONNECT_PATIENCE: Duration = Duration::from_millis(300);

/// Sets a limit of a running process.
fn limit(up: &Up, words: &str) {
    let id = up.process.id().to_string();
    let status = Command::new("prlimit").args(["--pid", &id, words]).status().expect("a part of every Debian");
    assert!(status.success());
}

#[test]
fn connections_beyond_the_open_files_limit_do_no_harm() {
    let mut cell = CrashCell::new(31);
    cell.stage.prefix = vec!["prlimit".to_owned(), format!("--nofile={OPEN_FILES}")];
    let mut up = cell.start();
    let round = cell.work(&mut up, 100).unwrap();
    let place = up.address.trim_start_matches("http://");
    let place = place.parse().unwrap();
    // Until nobody more is let in, not even into the system's own queue.
    let connect = |_| TcpStream::connect_timeout(&place, CONNECT_PATIENCE).ok();
    let crowd: Vec<TcpStream> = (0..CONNECTIONS).map_while(connect).collect();
    assert!(crowd.len() > OPEN_FILES as usize / 2, "{}", crowd.len());
    let decided = cell.load.ticks.decided();
    // Long enough for segments of the log, and files of the history, to be opened.
    eventually("those who are connected go on", || {
        assert_eq!(up.process.has_ended(), None, "it goes on: {}", cell.told());
        (cell.load.ticks.decided() > decided + 1500).then_some(())
    });
    drop(crowd);
    cell.load.finish(round);
    eventually("others can connect again", || cell.stage.try_ask(&up.address, &["status"]).ok());
    cell.load.examine(&up.address).unwrap();
    up.process.kill();
    cell.stage.prefix.clear();
    cell.conclude();
}

/// The lowest number that no open file of the process has: with that as its limit it opens nothing more.
fn lowest_unopened(up: &Up) -> usize {
    let folder = format!("/proc/{}/fd", up.process.id());
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let open: BTreeSet<usize> = names.filter_map(|name| name.to_str()?.parse().ok()).collect();
    (0..).find(|number| !open.contains(number)).unwrap()
}

/// A segment that was made, and could not be opened when its turn came, was looked for again and again, and nobody was told: requests were decided and
/// waited, until their queue was full.
#[test]
fn a_server_that_can_open_nothing_more_takes_no_changes_and_says_what_it_lacks() {
    for has_checkpoints in [false, true] {
        let mut cell = CrashCell::new(34);
        cell.set_checkpoints(has_checkpoints);
        let mut up = cell.start();
        let round = cell.work(&mut up, 100).unwrap();
        // Nobody can connect later.
        let rivals = Rivals::new(&up.address);
        rivals.revision().unwrap();
        eventually("a segment is due, and the cell is read-only", || {
            // Again and again: a history that can't be opened gives back what it had.
            limit(&up, &format!("--nofile={}:", lowest_unopened(&up)));
            assert_eq!(up.process.has_ended(), None, "it goes on: {}", cell.told());
            cell.told().contains("the cell is read-only").then_some(())
        });
        let refused = rivals.submit("one-more", "nobody", 1).unwrap_err();
        let told = refused.message();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{told}");
        // The next segment can't be made, or can't be opened when its turn has come.
        let names_the_file = told.contains(".segment") || told.contains("spare.tmp");
        assert!(names_the_file && told.contains("Too many open files"), "{told}");
        limit(&up, "--nofile=1024:");
        let decided = cell.load.ticks.decided();
        eventually("transactions are decided again", || {
            assert_eq!(up.process.has_ended(), None, "it goes on: {}", cell.told());
            (cell.load.ticks.decided() > decided + 50).then_some(())
        });
        let status = cell.stage.ask(&up.address, &["status"]);
        assert!(status["read_only"].is_null(), "{status}");
        // Before anybody dies: of two that were asked, the first may have been turned away, and nobody read that yet.
        cell.load.finish(round);
        up.process.kill();
        cell.conclude();
    }
}

#[test]
fn a_limit_on_the_size_of_files_is_told_like_a_full_disk_and_does_not_kill() {
    let mut cell = CrashCell::new(32);
    cell.stage.prefix = vec!["prlimit".to_owned(), "--fsize=100000".to_owned()];
    let status = cell.start_or_end().map(|_| ()).expect_err("a segment does not fit");
    let told = cell.told();
    assert_eq!(status.code(), Some(1), "{told}");
    assert!(told.contains("File too large") && told.contains("error["), "{told}");
    cell.stage.prefix.clear();

    // Lowered under a running server, it is a failed write: nobody knows what became of it, and so the server ends.
    let mut up = cell.start();
    let round = cell.work(&mut up, 100);
    limit(&up, "--fsize=100000:");
    assert_eq!(up.process.ended().code(), Some(1), "{}", cell.told());
    cell.join(round);
    let told = cell.told();
    assert!(told.contains("error[LOG_WRITE_FAILED]") && told.contains("File too large"), "{told}");
    cell.conclude();
}

/// A disk with room that does not let the log grow, as under a quota: transactions waited without a word until their queue was full.
#[test]
fn whatever_keeps_the_log_from_growing_makes_the_cell_read_only_and_is_named() {
    let mut cell = CrashCell::new(33);
    let is_over = Arc::new(AtomicBool::new(false));
    let quota = is_over.clone();
    let judge = move |call: &Call| {
        let grows = matches!(call.kind, Kind::Write { .. }) && call.is_of("spare.tmp");
        if grows && quota.load(Ordering::SeqCst) { Verdict::Fail(nix::libc::EDQUOT) } else { Verdict::Pass }
    };
    let mut up = cell.start_under(judge).unwrap();
    let round = cell.work(&mut up, 20).unwrap();
    is_over.store(true, Ordering::SeqCst);
    let status = eventually("the cell says that it is read-only", || {
        let status = cell.stage.try_ask(&up.address, &["status"]).ok()?;
        (!status["read_only"].is_null()).then_some(status)
    });
    let told = status["read_only"].as_str().unwrap();
    assert!(told.contains("can't grow") && told.contains("spare.tmp") && told.contains("quota"), "{told}");
    eventually("transactions are turned away", || (cell.load.ticks.turned_away() > 20).then_some(()));
    is_over.store(false, Ordering::SeqCst);
    let decided = cell.load.ticks.decided();
    eventually("transactions are decided again", || (cell.load.ticks.decided() > decided + 50).then_some(()));
    cell.load.finish(round);
    up.process.kill();
    cell.conclude();
}

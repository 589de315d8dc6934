//! What a directory says, and what is in the way of a start.

use std::time::Duration;

use plenum_server::{Server, ServerError};

use crate::client::{connect, options, register, start};

#[tokio::test]
async fn a_second_server_on_one_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let second = Server::start(options(dir.path())).await.err().unwrap();
    assert_eq!(second.code(), "DIRECTORY_LOCKED", "{second}");
    assert!(second.to_string().contains(&std::process::id().to_string()), "{second}");
    server.shutdown().await.unwrap();
    start(dir.path()).await.shutdown().await.unwrap();
}

/// Its threads went on without it, and kept the directory for as long as the process lived.
#[tokio::test]
async fn a_start_that_is_given_up_gives_the_directory_back() {
    let dir = tempfile::tempdir().unwrap();
    tokio::select! {
        biased;
        started = Server::start(options(dir.path())) => panic!("at its first wait: {:?}", started.err()),
        () = tokio::task::yield_now() => {}
    }
    let server = loop {
        match Server::start(options(dir.path())).await {
            Ok(server) => break server,
            Err(error) => assert_eq!(error.code(), "DIRECTORY_LOCKED", "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    server.shutdown().await.unwrap();
}

// It was begun, took four changes, and was read-only from then on.
#[tokio::test]
async fn a_new_cell_is_not_begun_where_there_is_too_little_room_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut tight = options(dir.path());
    tight.settings.reserve_bytes = Some(u64::MAX);
    let refused = Server::start(tight.clone()).await.err().unwrap();
    assert_eq!(refused.code(), "NO_SPACE", "{refused}");
    assert!(refused.to_string().contains(&format!("a new cell needs {}", u64::MAX)), "{refused}");
    assert!(!dir.path().join("log").join(plenum_journal::IDENTITY_FILE).exists(), "it is none yet");
    start(dir.path()).await.shutdown().await.unwrap();
    // One that is there can be read all the same.
    Server::start(tight).await.unwrap().shutdown().await.unwrap();
}

/// A new log would be another cell's, and the history's own way back would be gone.
#[tokio::test]
async fn a_history_without_its_log_becomes_no_new_cell() {
    let dir = tempfile::tempdir().unwrap();
    start(dir.path()).await.shutdown().await.unwrap();
    let (log, aside) = (dir.path().join("log"), dir.path().join("aside"));
    std::fs::rename(&log, &aside).unwrap();
    let refused = Server::start(options(dir.path())).await.err().unwrap();
    assert_eq!(refused.code(), "DAMAGED_LOG", "{refused}");
    assert!(refused.to_string().contains("a fallback, and no log"), "{refused}");
    assert!(!log.exists(), "nothing was made");
    std::fs::rename(&aside, &log).unwrap();
    start(dir.path()).await.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_place_of_the_mark_that_is_not_whole_is_told_by_verify_and_is_no_violation() {
    let dir = tempfile::tempdir().unwrap();
    start(dir.path()).await.shutdown().await.unwrap();
    let sound = plenum_server::verify(dir.path()).unwrap();
    assert_eq!((sound.is_sound(), &sound.mark), (true, &None));
    let mark = dir.path().join("log/MARK");
    let mut bytes = std::fs::read(&mark).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&mark, bytes).unwrap();
    let report = plenum_server::verify(dir.path()).unwrap();
    assert!(report.is_sound(), "{:?}", report.violations);
    assert!(report.mark.unwrap().contains("MARK"));
}

#[tokio::test]
async fn nobody_else_may_look_into_a_cell_s_folders() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    start(dir.path()).await.shutdown().await.unwrap();
    // As an earlier version left it.
    std::fs::set_permissions(dir.path().join("history"), std::fs::Permissions::from_mode(0o755)).unwrap();
    start(dir.path()).await.shutdown().await.unwrap();
    for folder in ["log", "history"] {
        let mode = std::fs::metadata(dir.path().join(folder)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o700, "{folder}: {mode:o}");
    }
}

#[tokio::test]
async fn a_directory_of_another_cell_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut own = options(dir.path());
    own.cell_id = Some([1; 16]);
    Server::start(own.clone()).await.unwrap().shutdown().await.unwrap();
    own.cell_id = Some([2; 16]);
    let refused = Server::start(own).await.err().unwrap();
    assert_eq!(refused.code(), "OTHER_CELL", "{refused}");
}

#[tokio::test]
async fn a_port_in_use_and_an_address_beyond_loopback_are_refused() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = start(one.path()).await;
    let mut second = options(other.path());
    second.listen = server.address();
    let refused = Server::start(second.clone()).await.err().unwrap();
    assert!(matches!(refused, ServerError::AddressInUse { address } if address == server.address()), "{refused}");
    second.listen = "0.0.0.0:0".parse().unwrap();
    let refused = Server::start(second).await.err().unwrap();
    assert_eq!(refused.code(), "NOT_LOOPBACK", "{refused}");
    assert_eq!(std::fs::read_dir(other.path()).unwrap().count(), 0, "nothing was made");
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn the_address_stands_in_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let written = std::fs::read_to_string(dir.path().join("address")).unwrap();
    assert_eq!(written.trim(), server.address().to_string());
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn named_resources_are_those_of_the_first_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut named = options(dir.path());
    named.custom_resources = vec!["licences".to_owned()];
    Server::start(named.clone()).await.unwrap().shutdown().await.unwrap();
    Server::start(options(dir.path())).await.unwrap().shutdown().await.unwrap();
    named.custom_resources = vec!["tapes".to_owned()];
    let refused = Server::start(named).await.err().unwrap();
    assert_eq!(refused.code(), "BAD_SETTING", "{refused}");
}

// Of two resources of one name nobody could ask for the second, and a page of metrics with the same line twice is read by no scraper.
#[tokio::test]
async fn a_named_resource_has_a_name_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let named = |names: &[&str]| {
        let mut options = options(dir.path());
        options.custom_resources = names.iter().map(|name| (*name).to_owned()).collect();
        Server::start(options)
    };
    for names in [&["licences", "licences"][..], &["memory"], &["tapes", "cpu_millis"]] {
        let refused = named(names).await.err().unwrap();
        assert_eq!(refused.code(), "BAD_SETTING", "{refused}");
        assert!(refused.to_string().contains(&format!("{:?}", names.last().unwrap())), "{refused}");
    }
    named(&["licences", "tapes"]).await.unwrap().shutdown().await.unwrap();
}

#[tokio::test]
async fn a_damaged_log_is_refused_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    for machine in 0..10 {
        register(&channel, &format!("m{machine}"), 1000).await;
    }
    drop(channel);
    server.kill().await.unwrap();
    let log = std::fs::read_dir(dir.path().join("log")).unwrap().map(|entry| entry.unwrap().path());
    let mut segments: Vec<_> = log.filter(|path| path.metadata().unwrap().len() > 100_000).collect();
    segments.sort();
    let mut bytes = std::fs::read(&segments[0]).unwrap();
    bytes[1500] ^= 1;
    std::fs::write(&segments[0], bytes).unwrap();
    let refused = Server::start(options(dir.path())).await.err().unwrap();
    assert_eq!(refused.code(), "DAMAGED_LOG", "{refused}");
    let name = segments[0].file_name().unwrap().to_str().unwrap();
    assert!(refused.to_string().contains(name), "{refused}");
    let report = plenum_server::verify(dir.path()).unwrap();
    assert!(report.violations.iter().any(|violation| violation.what.contains(name)), "{:?}", report.violations);
}

#[tokio::test]
async fn a_disk_without_room_does_not_hold_the_end_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut small = options(dir.path());
    small.settings.segment_bytes = 64 << 10;
    let server = Server::start(small).await.unwrap();
    let channel = connect(&server).await;
    // Taken away when it is ready: a segment that could not be made in time would make the cell read-only before. With a folder in its place it is not
    // made anew.
    let next = dir.path().join("log/00000000000000000002.segment");
    while !next.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    std::fs::remove_file(&next).unwrap();
    std::fs::create_dir(&next).unwrap();
    let mut jobs = plenum_proto::v1::jobs_client::JobsClient::new(channel.clone());
    let mut waits = false;
    for number in 0..64 {
        let mut spec = crate::client::job(&format!("job-{number}"), 1);
        spec.body.as_mut().unwrap().groups[0].command = vec!["x".repeat(8 << 10)];
        let submitting = jobs.submit(plenum_proto::v1::SubmitRequest { spec: Some(spec), ..Default::default() });
        // Longer than any sync takes: one that is waited for is still on its way.
        waits = tokio::time::timeout(Duration::from_secs(5), submitting).await.is_err();
        if waits {
            break;
        }
    }
    assert!(waits, "the log took everything");
    // What is durable can be read all the same, though the resolver's own cell is ahead of it for as long as the disk is full.
    let mut inspect = plenum_proto::v1::inspect_client::InspectClient::new(channel.clone());
    let reading = inspect.status(plenum_proto::v1::StatusRequest::default());
    let status = tokio::time::timeout(Duration::from_secs(30), reading).await.expect("reads go on").unwrap();
    assert!(status.into_inner().revision > 1);
    let ending = tokio::time::timeout(Duration::from_secs(60), server.shutdown()).await;
    let refused = ending.expect("it does not wait for room").unwrap_err();
    assert_eq!(refused.code(), "LOG_WRITE_FAILED", "{refused}");
}

// Whatever was decided was acknowledged, into files that nobody could read any more: a sweeper of temporary files is enough.
#[tokio::test]
async fn a_server_whose_directory_is_removed_acknowledges_nothing_for_long() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    register(&connect(&server).await, "m1", 1000).await;
    std::fs::remove_dir_all(dir.path().join("log")).unwrap();
    tokio::time::timeout(Duration::from_secs(30), server.ended()).await.expect("it ends by itself");
    let error = server.shutdown().await.unwrap_err();
    assert!(error.code() == "BAD_DIRECTORY" && error.to_string().contains("was removed"), "{error}");
}

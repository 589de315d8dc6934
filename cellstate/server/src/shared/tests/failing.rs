//! A server that fails.

use tracing::Event;

use super::*;
use crate::engine::warnings::Warnings;

// It was told first. Where nobody read the standard error any more, as behind a terminal that is held with Ctrl-S, the server went on: connected,
// and with its directory locked.
#[test]
fn a_server_fails_though_nobody_reads_what_it_says_of_that() {
    let dir = tempfile::tempdir().unwrap();
    let (_journal, shared) = without_threads(dir.path(), |_| None);
    let standard_error = Arc::new(Mutex::new(()));
    let unread = standard_error.lock();
    let failing = std::thread::spawn({
        let (shared, standard_error) = (shared.clone(), standard_error.clone());
        move || {
            let log = Warnings(move |_: &Event<'_>| drop(standard_error.lock()));
            let error = ServerError::Thread { name: "feeder", what: "no such block".to_owned() };
            tracing::subscriber::with_default(log, || shared.fail(error));
        }
    });
    let began = Instant::now();
    let ends = || shared.has_failed() && *shared.ending.borrow();
    while !ends() && began.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let (ends, tells) = (ends(), !failing.is_finished());
    let why = shared.take_failure().map(|error| error.to_string());
    drop(unread);
    failing.join().unwrap();
    assert!(ends && tells);
    assert_eq!(why.as_deref(), Some("the thread feeder failed: no such block"));
}

#[test]
fn the_first_reason_of_a_failure_counts_and_is_told_once() {
    let dir = tempfile::tempdir().unwrap();
    let (_journal, shared) = without_threads(dir.path(), |_| None);
    let lines = Arc::new(Mutex::new(0));
    let told = lines.clone();
    let log = Warnings(move |_: &Event<'_>| *told.lock() += 1);
    tracing::subscriber::with_default(log, || {
        for name in ["feeder", "keeping"] {
            shared.fail(ServerError::Thread { name, what: "no such block".to_owned() });
        }
    });
    assert_eq!(*lines.lock(), 1);
    assert_eq!(shared.take_failure().unwrap().to_string(), "the thread feeder failed: no such block");
}

//! Whoever reads standard output: notices that they have gone while nothing is printed, which a write alone would tell.

use std::{io, os::fd::AsFd, process, thread};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};
use tokio::sync::oneshot;

/// Does this for as long as somebody reads what it prints. A reader that went away has seen enough, and the process ends, as [`super::print()`] lets it.
pub(crate) async fn while_read<T>(doing: impl Future<Output = T>) -> T {
    tokio::select! {
        // What is done when both are has its own exit code.
        biased;
        done = doing => done,
        () = reader_gone() => process::exit(0),
    }
}

/// Comes back once nobody reads standard output any more. A file has no reader that could go.
async fn reader_gone() {
    let (gone, is_gone) = oneshot::channel();
    // Nothing but that wakes it, and so it ends with the process. Where it can't be started, the next line tells.
    let _ = thread::Builder::new().name("reader".to_owned()).spawn(move || {
        if has_gone(io::stdout()) {
            let _ = gone.send(());
        }
    });
    if is_gone.await.is_err() {
        std::future::pending().await
    }
}

/// Waits until the other end has gone; false where that can't be waited for.
fn has_gone(out: impl AsFd) -> bool {
    // Nothing is asked for. What is told all the same is an error or a hang-up.
    let mut polled = [PollFd::new(&out, PollFlags::empty())];
    loop {
        match poll(&mut polled, None) {
            Err(Errno::INTR) => {}
            outcome => return outcome.is_ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{io::Write, sync::mpsc, time::Duration};

    use super::*;

    // It was noticed with the next line that came alone.
    #[test]
    fn a_reader_that_goes_is_noticed_whether_it_has_read_all_or_not() {
        for unread in ["", "a line\n"] {
            let (reader, mut writer) = io::pipe().unwrap();
            writer.write_all(unread.as_bytes()).unwrap();
            let (tell, told) = mpsc::channel();
            let looking = thread::spawn(move || tell.send(has_gone(writer)).unwrap());
            assert!(told.recv_timeout(Duration::from_millis(50)).is_err(), "it is there");
            drop(reader);
            assert_eq!(told.recv_timeout(Duration::from_secs(60)), Ok(true));
            looking.join().unwrap();
        }
    }
}

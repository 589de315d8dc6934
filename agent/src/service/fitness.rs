//! Whether tasks could be started here: tried by writing as much as that may take, where the agent keeps what it knows of them. Where there is no room
//! for that, ended tasks have to give up what they printed.
//!
//! It looks at no numbers of the file system: quotas, inodes, a disk that turned read-only or broke would all have their own.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use plenum_model::Unfit;
use tokio::sync::mpsc;

use super::calls::Arrival;
use crate::{directories::AgentDirectory, durable::FILE_BYTES_MAX, exec::Relief, reconciler::Input};

/// How often it is tried.
const EVERY: Duration = Duration::from_secs(5);
/// After so many of these periods without an answer the disk counts as one that can't be written: what is started would wait as long.
const PATIENCE_PERIODS: u32 = 3;
/// What there must be room for: the largest file that a start writes.
const ROOM_BYTES: u64 = FILE_BYTES_MAX;
/// What there must be room for before tasks are wanted again: more than it takes to be without at once.
const ROOM_AGAIN_BYTES: u64 = 4 * FILE_BYTES_MAX;

/// Tries it for as long as somebody hears of it. Each time it is told, so that who forgot it hears it again.
pub(super) async fn watch(directory: AgentDirectory, relief: Relief, arrivals: mpsc::Sender<Arrival>) {
    let path = directory.probe();
    let probe = move |bytes| relieved(bytes, |bytes| probe(&path, bytes), || relief.give_up_oldest());
    watch_by(directory.root(), probe, EVERY, &arrivals).await;
}

async fn watch_by<P>(directory: &Path, probe: P, every: Duration, arrivals: &mpsc::Sender<Arrival>)
where
    P: Fn(u64) -> io::Result<()> + Clone + Send + 'static,
{
    let mut unfit = None;
    loop {
        let bytes = if unfit.is_none() { ROOM_BYTES } else { ROOM_AGAIN_BYTES };
        let probe = probe.clone();
        // A disk that does not answer keeps this thread waiting, and no other. It is waited for, however long: another try would keep another one.
        let mut trying = tokio::task::spawn_blocking(move || probe(bytes));
        let tried = loop {
            let Ok(tried) = tokio::time::timeout(every * PATIENCE_PERIODS, &mut trying).await else {
                let error = io::Error::new(io::ErrorKind::TimedOut, "the disk does not answer");
                unfit = heed(Err(error), unfit, directory);
                if !is_heard(unfit, arrivals).await {
                    return;
                }
                continue;
            };
            break tried.unwrap_or_else(|error| Err(io::Error::other(error)));
        };
        unfit = heed(tried, unfit, directory);
        if !is_heard(unfit, arrivals).await {
            return;
        }
        tokio::time::sleep(every).await;
    }
}

/// Tries it. Where there is no room, again each time that `give_up` gave some back, until there is more than it takes.
fn relieved(bytes: u64, probe: impl Fn(u64) -> io::Result<()>, give_up: impl Fn() -> bool) -> io::Result<()> {
    let (mut tried, mut given_up) = (probe(bytes), 0_u32);
    while tried.as_ref().is_err_and(lacks_room) && give_up() {
        given_up += 1;
        tried = probe(ROOM_AGAIN_BYTES);
    }
    if given_up > 0 {
        tracing::warn!(
            tasks = given_up,
            "no room for what starting a task takes: what the tasks printed that ended first was given up"
        );
    }
    tried
}

/// Other failures are none that room helps against.
fn lacks_room(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// What the machine is after a try, told in the log where it was something else before.
fn heed(tried: io::Result<()>, before: Option<Unfit>, directory: &Path) -> Option<Unfit> {
    match tried {
        Ok(()) => {
            if before.is_some() {
                tracing::info!("what starting a task takes can be written again: this machine takes tasks");
            }
            None
        }
        Err(error) => {
            if before.is_none() {
                let directory = directory.display();
                tracing::error!(%error, %directory, "can't write what starting a task takes: this machine takes none until it can");
            }
            Some(Unfit::StateUnwritable)
        }
    }
}

async fn is_heard(unfit: Option<Unfit>, arrivals: &mpsc::Sender<Arrival>) -> bool {
    arrivals.send(Arrival::Input(Input::Fitness(unfit))).await.is_ok()
}

/// Writes so many bytes, and takes them away again: most of them before they reach the disk. The first ones must reach it, as what a start
/// writes down must: memory takes bytes for a while on behalf of a disk that does not answer.
fn probe(path: &PathBuf, bytes: u64) -> io::Result<()> {
    let written = File::create(path).and_then(|mut file| {
        file.write_all(&[1])?;
        file.sync_all()?;
        let piece = [1; 1 << 16];
        for _ in 0..bytes.div_ceil(piece.len() as u64) {
            file.write_all(&piece)?;
        }
        Ok(())
    });
    let removed = fs::remove_file(path);
    written.and(removed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::cell::{Cell, RefCell};

    use super::*;

    async fn told(arrivals: &mut mpsc::Receiver<Arrival>) -> Option<Unfit> {
        let arrival = tokio::time::timeout(Duration::from_secs(20), arrivals.recv()).await;
        match arrival.expect("something is told").unwrap() {
            Arrival::Input(Input::Fitness(unfit)) => unfit,
            _ => panic!("something else is told"),
        }
    }

    // The try waited for the disk, and so did whoever was to hear of it: the machine stayed ready, and what was placed there never began.
    #[tokio::test]
    async fn a_disk_that_does_not_answer_keeps_tasks_away_until_it_does() {
        let (answer, answers) = std::sync::mpsc::channel();
        let answers = std::sync::Arc::new(std::sync::Mutex::new(answers));
        let probe = move |_| answers.lock().unwrap().recv().map_err(io::Error::other)?;
        let (sender, mut arrivals) = mpsc::channel(1);
        let watching =
            tokio::spawn(async move { watch_by(Path::new("/place"), probe, Duration::from_millis(20), &sender).await });
        answer.send(Ok(())).unwrap();
        assert_eq!(told(&mut arrivals).await, None);
        for _ in 0..2 {
            assert_eq!(told(&mut arrivals).await, Some(Unfit::StateUnwritable), "who forgot it hears it again");
        }
        answer.send(Ok(())).unwrap();
        while told(&mut arrivals).await.is_some() {}
        answer.send(Err(io::Error::other("full"))).unwrap();
        assert_eq!(told(&mut arrivals).await, Some(Unfit::StateUnwritable));
        watching.abort();
        drop(answer);
    }

    // A machine whose disk ended tasks had filled took no new ones for ever: only by these anything would have been cleaned.
    #[test]
    fn what_ended_tasks_printed_is_given_up_until_there_is_room_and_for_nothing_else() {
        use ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        // What comes of it with these failures, what was asked for, and how often something was given up, of so much that there is.
        let tried = |failures: &[ErrorKind], there_is: u32| {
            let (asked, given_up) = (RefCell::new(Vec::new()), Cell::new(0));
            let probe = |bytes| {
                let mut asked = asked.borrow_mut();
                asked.push(bytes);
                failures.get(asked.len() - 1).map_or(Ok(()), |&kind| Err(io::Error::from(kind)))
            };
            let give_up = || given_up.replace(given_up.get() + 1) < there_is;
            let kind = relieved(ROOM_BYTES, probe, give_up).err().map(|error| error.kind());
            (kind, asked.into_inner(), given_up.get().min(there_is))
        };
        assert_eq!(tried(&[], 9), (None, vec![ROOM_BYTES], 0));
        let until_enough = vec![ROOM_BYTES, ROOM_AGAIN_BYTES, ROOM_AGAIN_BYTES];
        assert_eq!(tried(&[StorageFull, QuotaExceeded], 9), (None, until_enough.clone(), 2));
        assert_eq!(tried(&[StorageFull; 9], 2), (Some(StorageFull), until_enough, 2));
        assert_eq!(tried(&[ReadOnlyFilesystem; 9], 9), (Some(ReadOnlyFilesystem), vec![ROOM_BYTES], 0));
    }

    #[test]
    fn a_probe_leaves_nothing_behind_and_fails_where_nothing_can_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("probe");
        probe(&path, ROOM_AGAIN_BYTES).unwrap();
        assert!(!path.exists());
        // What an agent that was killed in between left is no reason to fail.
        fs::write(&path, "old").unwrap();
        probe(&path, 1).unwrap();
        assert!(probe(&folder.path().join("missing/probe"), 1).is_err());
    }
}

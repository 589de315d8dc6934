//! Whether tasks could be started here: tried by writing as much as that may take, where the agent keeps what it knows of them. As soon as one could not be
//! set up it is tried as well: that one would have used up its attempts here before anybody knew. Where there is no room twice in a row, ended tasks have
//! to give up what they printed.
//!
//! It looks at no numbers of the file system: quotas, inodes, a disk that turned read-only or broke would all have their own.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use plenum_model::Unfit;
use tokio::{
    sync::{Notify, mpsc},
    time::{sleep, timeout},
};

use super::calls::Arrival;
use crate::{
    directories::AgentDirectory, durable::FILE_BYTES_MAX, exec::Relief, reconciler::Input, threads::on_a_thread,
};

/// How often it is tried.
const EVERY: Duration = Duration::from_secs(5);
/// How soon again where a task could not be set up meanwhile: before it is tried here once more, as attempts are a second apart by default.
const SOONEST: Duration = Duration::from_millis(500);
/// After so many of these periods without an answer the disk counts as one that can't be written: what is started would wait as long.
const PATIENCE_PERIODS: u32 = 3;
/// What there must be room for: the largest file that a start writes.
const ROOM_BYTES: u64 = FILE_BYTES_MAX;
/// What there must be room for before tasks are wanted again: more than it takes to be without at once.
const ROOM_AGAIN_BYTES: u64 = 4 * FILE_BYTES_MAX;

/// Tries it for as long as somebody hears of it. Each time it is told, so that who forgot it hears it again.
pub(super) async fn watch(
    directory: AgentDirectory,
    relief: Relief,
    setups_failed: Arc<Notify>,
    arrivals: mpsc::Sender<Arrival>,
) {
    let tried = directory.clone();
    let probe = move |bytes| relieved(bytes, |bytes| probe_all(&tried, bytes), |bytes| relief.give_up_oldest(bytes));
    watch_by(directory.root(), probe, EVERY, &setups_failed, &arrivals).await;
}

async fn watch_by<P>(
    directory: &Path,
    probe: P,
    every: Duration,
    setups_failed: &Notify,
    arrivals: &mpsc::Sender<Arrival>,
) where
    P: Fn(u64) -> io::Result<()> + Clone + Send + 'static,
{
    let mut unfit = None;
    loop {
        let bytes = if unfit.is_none() { ROOM_BYTES } else { ROOM_AGAIN_BYTES };
        let probe = probe.clone();
        // A disk that does not answer keeps this thread waiting, and no other. It is waited for, however long: another try would keep another one.
        let mut trying = pin!(on_a_thread(move || probe(bytes)));
        let tried = loop {
            let Ok(tried) = timeout(every * PATIENCE_PERIODS, &mut trying).await else {
                let error =
                    io::Error::new(io::ErrorKind::TimedOut, "the disk does not answer, or no thread is left to ask it");
                unfit = heed(Err(error), unfit, directory);
                if !is_heard(unfit, arrivals).await {
                    return;
                }
                continue;
            };
            break tried;
        };
        unfit = heed(tried, unfit, directory);
        if !is_heard(unfit, arrivals).await {
            return;
        }
        let soonest = if unfit.is_none() { SOONEST.min(every) } else { every };
        sleep(soonest).await;
        // Or as soon as one fails.
        let _ = timeout(every.saturating_sub(soonest), setups_failed.notified()).await;
    }
}

/// Tries it. Where there is no room, and was none the time before either, `give_up` has to give back at least so many bytes, and says of how many
/// tasks: then it is tried once more. Nothing more is given up before the next period: a disk may be full for a moment only, and room that is being
/// freed, as by removing a task's files, takes a while.
fn relieved(bytes: u64, probe: impl Fn(u64) -> io::Result<()>, give_up: impl Fn(u64) -> u32) -> io::Result<()> {
    let tried = probe(bytes);
    // Only where the try before failed so much is asked for.
    if bytes < ROOM_AGAIN_BYTES || !tried.as_ref().is_err_and(lacks_room) {
        return tried;
    }
    let tasks = give_up(bytes);
    if tasks == 0 {
        return tried;
    }
    tracing::warn!(
        tasks,
        "no room for what starting a task takes: what the tasks printed that ended first was given up"
    );
    probe(bytes)
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

/// Tries it where all that is known of the agent is kept, and where allocations are: where there are none, a start makes that.
fn probe_all(directory: &AgentDirectory, bytes: u64) -> io::Result<()> {
    // One that can't be looked at is there, on a disk that is not.
    if matches!(directory.allocations().try_exists(), Ok(false)) {
        return probe(&directory.probe(), bytes);
    }
    probe(&directory.probe(), 0)?;
    probe(&directory.probe_of_allocations(), bytes)
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
    use std::{
        cell::RefCell,
        sync::atomic::{AtomicU32, Ordering},
    };

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
        let watching = tokio::spawn(async move {
            let every = Duration::from_millis(20);
            watch_by(Path::new("/place"), probe, every, &Notify::new(), &sender).await;
        });
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

    // A job with three attempts made all of them on a machine whose disk was full since a moment, and failed for good, while others had room.
    #[tokio::test]
    async fn a_disk_is_tried_at_once_where_a_task_could_not_be_set_up() {
        let tries = Arc::new(AtomicU32::new(0));
        let probe = move |_| match tries.fetch_add(1, Ordering::SeqCst) {
            0 => Ok(()),
            _ => Err(io::Error::other("full")),
        };
        let (sender, mut arrivals) = mpsc::channel(1);
        let setups_failed = Arc::new(Notify::new());
        let heard = Arc::clone(&setups_failed);
        let watching = tokio::spawn(async move {
            watch_by(Path::new("/place"), probe, Duration::from_secs(3600), &heard, &sender).await;
        });
        assert_eq!(told(&mut arrivals).await, None);
        setups_failed.notify_one();
        assert_eq!(told(&mut arrivals).await, Some(Unfit::StateUnwritable));
        watching.abort();
    }

    // Where allocations are could not be written, and the machine stayed ready.
    #[test]
    fn it_is_tried_where_allocations_are_as_well() {
        let folder = tempfile::tempdir().unwrap();
        let directory = AgentDirectory::new(folder.path().to_owned());
        probe_all(&directory, 1).unwrap();
        fs::create_dir(directory.allocations()).unwrap();
        probe_all(&directory, 1).unwrap();
        assert_eq!(fs::read_dir(directory.allocations()).unwrap().count(), 0);
        fs::create_dir(directory.probe_of_allocations()).unwrap();
        assert!(probe_all(&directory, 1).is_err());
    }

    // A machine whose disk ended tasks had filled took no new ones for ever: only by these anything would have been cleaned. Then a disk that was full
    // for one moment took all that they had printed.
    #[test]
    fn what_ended_tasks_printed_is_given_up_a_portion_a_try_and_only_after_one_that_failed() {
        use ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        // What comes of it with these failures, what was asked for, and how much was to be given up, by so many tasks.
        let tried = |bytes: u64, failures: &[ErrorKind], tasks: u32| {
            let (asked, given_up) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
            let probe = |bytes| {
                let mut asked = asked.borrow_mut();
                asked.push(bytes);
                failures.get(asked.len() - 1).map_or(Ok(()), |&kind| Err(io::Error::from(kind)))
            };
            let give_up = |bytes| {
                given_up.borrow_mut().push(bytes);
                tasks
            };
            let kind = relieved(bytes, probe, give_up).err().map(|error| error.kind());
            (kind, asked.into_inner(), given_up.into_inner())
        };
        let (first, again, none) = (ROOM_BYTES, ROOM_AGAIN_BYTES, Vec::<u64>::new());
        assert_eq!(tried(first, &[StorageFull; 9], 9), (Some(StorageFull), vec![first], none.clone()));
        assert_eq!(tried(again, &[], 9), (None, vec![again], none.clone()));
        assert_eq!(tried(again, &[QuotaExceeded], 9), (None, vec![again; 2], vec![again]));
        assert_eq!(tried(again, &[StorageFull; 9], 9), (Some(StorageFull), vec![again; 2], vec![again]));
        assert_eq!(tried(again, &[StorageFull; 9], 0), (Some(StorageFull), vec![again], vec![again]));
        assert_eq!(tried(again, &[ReadOnlyFilesystem; 9], 9), (Some(ReadOnlyFilesystem), vec![again], none));
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

//! Writing down what an agent remembers of its cell, aside: a disk that does not answer must not keep it from its
//! lease.
//!
//! One value is being written, and one waits, which is the newest.

use std::{path::PathBuf, sync::Arc};

use tokio::{sync::watch, task::JoinHandle};

use super::Remembered;
use crate::{
    durable,
    threads::{self, Alarm, on_a_thread},
};

pub(super) struct Memory {
    newest: watch::Sender<Remembered>,
    /// False while a value waits or is being written. One that can't be written counts as written: starts go on
    /// without.
    is_written: Arc<watch::Sender<bool>>,
    writing: JoinHandle<()>,
}

impl Memory {
    /// To be called inside a runtime.
    pub(super) fn at(path: PathBuf, alarm: &Alarm) -> Self {
        let (newest, values) = watch::channel(Remembered::default());
        let is_written = Arc::new(watch::channel(true).0);
        let writing = threads::spawn("what writes down the cell", alarm, write(path, values, Arc::clone(&is_written)));
        Self { newest, is_written, writing }
    }

    /// Says true while all that was to be kept is written.
    pub(super) fn gate(&self) -> watch::Receiver<bool> {
        self.is_written.subscribe()
    }

    /// Nothing is started until this is written.
    pub(super) fn keep(&self, value: Remembered) {
        self.is_written.send_replace(false);
        self.note(value);
    }

    /// The same of what no start waits for.
    pub(super) fn note(&self, value: Remembered) {
        self.newest.send_replace(value);
    }

    /// Comes back when all is written.
    pub(super) async fn end(self) {
        let Self { newest, writing, .. } = self;
        drop(newest);
        drop(writing.await);
    }
}

async fn write(path: PathBuf, mut values: watch::Receiver<Remembered>, is_written: Arc<watch::Sender<bool>>) {
    // Of a sender that is gone, the last value still comes.
    while values.changed().await.is_ok() {
        let value = values.borrow_and_update().clone();
        let path = path.clone();
        let written = on_a_thread(move || durable::write_surely(&path, &value)).await;
        if let Err(error) = written {
            tracing::warn!(%error, "can't write down which cell this agent belongs to");
        }
        if matches!(values.has_changed(), Ok(false)) {
            is_written.send_replace(true);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{fs::OpenOptions, os::unix::fs::OpenOptionsExt, time::Duration};

    use nix::{fcntl::OFlag, sys::stat::Mode, unistd::mkfifo};
    use tokio::sync::mpsc;

    use super::*;
    use crate::threads::runtime_without_threads;

    // The agent's loop wrote it, with each registration. On a disk that did not answer no lease was renewed any more,
    // and the tasks ran elsewhere, too.
    #[tokio::test]
    async fn a_disk_that_does_not_answer_holds_up_nobody_and_the_newest_is_written_then() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("cell.json");
        // Where it is prepared: a pipe is opened for writing when somebody reads.
        let prepared_in = place.path().join(format!("cell.json.{}.tmp", std::process::id()));
        mkfifo(&prepared_in, Mode::S_IRWXU).unwrap();
        let memory = Memory::at(path.clone(), &mpsc::channel(1).0);
        let mut gate = memory.gate();
        assert!(*gate.borrow());
        for revision in 1..=3 {
            memory.keep(Remembered { cell_id: "ab".to_owned(), incarnation: 1, revision, ..Remembered::default() });
            tokio::task::yield_now().await;
        }
        assert!(!*gate.borrow(), "nothing is started before it is written");
        assert!(!path.exists());
        // The first one fails now, as a pipe can't be synced.
        let reader = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&prepared_in).unwrap();
        let patience = Duration::from_secs(60);
        assert!(tokio::time::timeout(patience, gate.wait_for(|is_written| *is_written)).await.unwrap().is_ok());
        drop(reader);
        let written = durable::read::<Remembered>(&path).unwrap().unwrap();
        assert_eq!((written.cell_id.as_str(), written.revision), ("ab", 3));
        memory.keep(Remembered { revision: 4, ..written });
        tokio::time::timeout(patience, memory.end()).await.unwrap();
        assert_eq!(durable::read::<Remembered>(&path).unwrap().unwrap().revision, 4, "an end loses nothing");
    }

    // Who was to write it panicked. Nothing was started from then on, what was placed there stayed granted, and nobody said so.
    #[test]
    fn where_the_system_gives_no_thread_the_value_waits_for_one() {
        let place = tempfile::tempdir().unwrap();
        runtime_without_threads().block_on(async {
            let (alarm, mut panics) = mpsc::channel(1);
            let memory = Memory::at(place.path().join("cell.json"), &alarm);
            memory.keep(Remembered::default());
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert!(!*memory.gate().borrow(), "nothing is started before it is written");
            assert!(!memory.writing.is_finished(), "and it will be");
            assert!(panics.try_recv().is_err());
        });
    }
}

//! Marking what was forgotten, so that the next agent does not find it: aside, as a disk that does not answer must not keep an agent from its lease, and
//! again where it failed. It does not know why something was forgotten.

use std::{
    collections::BTreeSet,
    fs::File,
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use plenum_model::AllocationId;
use tokio::sync::watch;

use super::recording::remove_starts_before_last;
use crate::directories::{AgentDirectory, AllocationDirectory};

/// What was forgotten and is not marked.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// It waits for that, or is being marked.
    under_way: watch::Sender<BTreeSet<AllocationId>>,
    /// It could not be, such as for want of room: until then it would be kept for ever. Held while one of them is marked, so that what begins anew is not.
    failed: Mutex<BTreeSet<AllocationId>>,
}

impl Marks {
    /// Takes up what is forgotten. True: who calls it has to bring it to [`mark`](Self::mark).
    pub(super) fn forget(&self, allocation: AllocationId) -> bool {
        self.under_way.send_if_modified(|all| all.insert(allocation))
    }

    /// Marks what was forgotten, where something of it is kept. Waits for the disk.
    pub(super) fn mark(&self, directory: &AllocationDirectory, allocation: AllocationId) {
        if let Err(error) = mark(directory) {
            // Recovery would report it once more, which does no harm.
            tracing::warn!(%allocation, %error, "can't mark an ended allocation: it is tried again later");
            self.failed().insert(allocation);
        }
        self.under_way.send_if_modified(|all| all.remove(&allocation));
    }

    /// Tries again what has failed. Waits for the disk.
    pub(super) fn try_again(&self, agent: &AgentDirectory) {
        let all = self.failed().clone();
        for allocation in all {
            let mut failed = self.failed();
            if failed.contains(&allocation) && mark(&agent.allocation(allocation)).is_ok() {
                failed.remove(&allocation);
            }
        }
    }

    /// It is started anew: a mark that failed before shall not be made any more.
    pub(super) fn begins_anew(&self, allocation: AllocationId) {
        self.failed().remove(&allocation);
    }

    /// A mark of it may be made at any time.
    pub(super) fn is_under_way(&self, allocation: AllocationId) -> bool {
        self.under_way.borrow().contains(&allocation)
    }

    /// It ended and was forgotten, whether or not it could be marked. Waits for the disk.
    ///
    /// # Errors
    /// When that can't be found out.
    pub(super) fn has_ended(&self, directory: &AllocationDirectory, allocation: AllocationId) -> io::Result<bool> {
        // In this order: it may be marked in between.
        let is_unmarked = self.failed().contains(&allocation);
        Ok((is_unmarked && directory.root().try_exists()?) || directory.ended().try_exists()?)
    }

    /// Comes back when all is marked that can be.
    pub(super) async fn made(&self) {
        drop(self.under_way.subscribe().wait_for(BTreeSet::is_empty).await);
    }

    fn failed(&self) -> MutexGuard<'_, BTreeSet<AllocationId>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of what is marked, no more than its latest end is kept: those of many restarts of many tasks filled a small disk, which nothing gave back.
fn mark(directory: &AllocationDirectory) -> io::Result<()> {
    if !directory.root().exists() {
        return Ok(());
    }
    let marked = File::create(directory.ended());
    // Where there was no room for the mark, there may be now.
    if remove_starts_before_last(directory) > 0 && marked.is_err() {
        File::create(directory.ended())?;
        return Ok(());
    }
    marked.map(drop)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use super::*;

    const ALLOCATION: AllocationId = AllocationId { slot: 1, generation: 1 };

    /// An allocation that was forgotten and could not be marked: where the mark is to be, is a folder.
    fn failed(agent: &AgentDirectory) -> Marks {
        let (marks, directory) = (Marks::default(), agent.allocation(ALLOCATION));
        fs::create_dir_all(directory.ended()).unwrap();
        assert!(marks.forget(ALLOCATION) && !marks.forget(ALLOCATION) && marks.is_under_way(ALLOCATION));
        marks.mark(&directory, ALLOCATION);
        assert!(!marks.is_under_way(ALLOCATION) && marks.failed().contains(&ALLOCATION));
        fs::remove_dir(directory.ended()).unwrap();
        marks
    }

    // On a disk that was full just then its output was kept, beyond all others, until the agent was started again.
    #[test]
    fn what_could_not_be_marked_is_marked_later() {
        let place = tempfile::tempdir().unwrap();
        let agent = AgentDirectory::new(place.path().to_owned());
        let marks = failed(&agent);
        marks.try_again(&agent);
        assert!(agent.allocation(ALLOCATION).ended().is_file() && marks.failed().is_empty());
    }

    // 29 tasks that had printed nothing filled a disk of 32 MiB with what was written down of their restarts.
    #[test]
    fn what_is_marked_keeps_nothing_of_starts_before_its_last() {
        let place = tempfile::tempdir().unwrap();
        let agent = AgentDirectory::new(place.path().to_owned());
        let (marks, directory) = (Marks::default(), agent.allocation(ALLOCATION));
        fs::create_dir_all(directory.root()).unwrap();
        (0..=256).for_each(|restart| fs::write(directory.exit(restart), "").unwrap());
        assert!(marks.forget(ALLOCATION));
        marks.mark(&directory, ALLOCATION);
        let left = fs::read_dir(directory.root()).unwrap().count();
        assert_eq!((left, directory.last_ended().unwrap(), directory.ended().exists()), (2, Some(256), true));
    }

    // The next agent would not find it, and not know that it runs.
    #[test]
    fn what_began_anew_is_not_marked_for_its_end_before() {
        let place = tempfile::tempdir().unwrap();
        let agent = AgentDirectory::new(place.path().to_owned());
        let marks = failed(&agent);
        marks.begins_anew(ALLOCATION);
        marks.try_again(&agent);
        assert!(!agent.allocation(ALLOCATION).ended().exists());
    }
}

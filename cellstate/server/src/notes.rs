//! Why jobs wait, as their schedulers say: bounded, the last word of each, never logged.

use std::collections::{BTreeMap, VecDeque};

use plenum_model::JobId;

/// Bytes of a reason that are kept.
const REASON_BYTES_MAX: usize = 255;

/// A scheduler's last word about a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) tasks: u32,
    pub(crate) reason: String,
    pub(crate) revision: u64,
}

/// Notes by job and group. The job noted longest ago goes when there are too many.
#[derive(Debug)]
pub(crate) struct Notes {
    jobs: BTreeMap<JobId, BTreeMap<u32, Note>>,
    order: VecDeque<JobId>,
    most: usize,
}

impl Notes {
    pub(crate) fn new(most: usize) -> Self {
        Self { jobs: BTreeMap::new(), order: VecDeque::new(), most }
    }

    /// Takes a note, with as much of its reason as is kept; an empty one takes it back.
    pub(crate) fn put(&mut self, job: JobId, group: u32, mut note: Note) {
        if note.reason.is_empty() {
            if let Some(groups) = self.jobs.get_mut(&job) {
                groups.remove(&group);
            }
            return;
        }
        if !self.jobs.contains_key(&job) {
            self.order.push_back(job);
            if self.order.len() > self.most
                && let Some(oldest) = self.order.pop_front()
            {
                self.jobs.remove(&oldest);
            }
        }
        // What is cut off a text stays its memory, and the rest of a message may have been one reason.
        note.reason.truncate(note.reason.floor_char_boundary(REASON_BYTES_MAX));
        note.reason.shrink_to_fit();
        // A job has at most 64 groups; whoever names others only wastes its own notes.
        let groups = self.jobs.entry(job).or_default();
        if groups.len() < 64 || groups.contains_key(&group) {
            groups.insert(group, note);
        }
    }

    pub(crate) fn of(&self, job: JobId, group: u32) -> Option<&Note> {
        self.jobs.get(&job)?.get(&group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_job_makes_room_and_the_last_word_counts() {
        let job = |slot| JobId { slot, generation: 1 };
        let note = |reason: &str| Note { tasks: 1, reason: reason.to_owned(), revision: 1 };
        let mut notes = Notes::new(2);
        notes.put(job(1), 0, note("no room"));
        notes.put(job(2), 0, note("no room"));
        notes.put(job(2), 0, note("no machine"));
        notes.put(job(3), 0, note("no room"));
        assert_eq!(notes.of(job(1), 0), None);
        assert_eq!(notes.of(job(2), 0), Some(&note("no machine")));
        notes.put(job(2), 0, note(""));
        assert_eq!(notes.of(job(2), 0), None);
    }

    // A reason was cut, and its memory kept: with reasons of 4 MiB, notes of a few hundred groups took a gibibyte.
    #[test]
    fn a_reason_takes_no_more_memory_than_what_is_kept_of_it() {
        let job = JobId { slot: 1, generation: 1 };
        let mut notes = Notes::new(2);
        notes.put(job, 0, Note { tasks: 1, reason: "ä".repeat(1 << 20), revision: 1 });
        let kept = &notes.of(job, 0).unwrap().reason;
        assert_eq!(*kept, "ä".repeat(127));
        assert!(kept.capacity() <= REASON_BYTES_MAX, "{} bytes", kept.capacity());
    }
}

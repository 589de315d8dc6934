//! Why jobs wait, or stay where they are not to, as their schedulers say: bounded, the last word of each, never logged.

use std::collections::{BTreeMap, VecDeque};

use plenum_model::{JobId, SessionId};

/// Bytes of a reason that are kept.
const REASON_BYTES_MAX: usize = 255;

/// A scheduler's last word about a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) tasks: u32,
    pub(crate) reason: String,
    pub(crate) revision: u64,
    /// Of the job; 0 before the cell has been looked at, where nobody said.
    pub(crate) version: u32,
    /// Why tasks stay on machines that they are to leave; otherwise why they wait.
    pub(crate) staying: bool,
}

impl Note {
    /// What is cut off a text stays its memory, and the rest of a message may have been one reason.
    fn cut(&mut self) {
        self.reason.truncate(self.reason.floor_char_boundary(REASON_BYTES_MAX));
        self.reason.shrink_to_fit();
    }
}

/// A note with its job, as bits, and group.
pub(crate) type Addressed = (u64, u32, Note);

/// Notes that wait for a picture of the cell that has their jobs, which may take as long as the disk does: nobody waits for them. Bounded; the
/// oldest are let go of.
#[derive(Debug, Default)]
pub(crate) struct Arrived {
    /// By message, in their order, with whose they are.
    waiting: VecDeque<(SessionId, Vec<Addressed>)>,
    notes: usize,
    /// Somebody takes them.
    is_taken: bool,
}

/// Notes that wait at most: what a few messages have.
const ARRIVED_MAX: usize = 16_384;

impl Arrived {
    /// Adds those of a message. True: nobody takes them, and the caller has to from now on.
    pub(crate) fn add(&mut self, session: SessionId, notes: impl Iterator<Item = Addressed>) -> bool {
        let cut = |(job, group, mut note): Addressed| {
            note.cut();
            (job, group, note)
        };
        let notes: Vec<Addressed> = notes.map(cut).collect();
        // Messages that say nothing would not be bounded.
        if notes.is_empty() {
            return false;
        }
        self.notes += notes.len();
        self.waiting.push_back((session, notes));
        while self.notes > ARRIVED_MAX
            && let Some((_, oldest)) = self.waiting.pop_front()
        {
            self.notes -= oldest.len();
        }
        !std::mem::replace(&mut self.is_taken, true)
    }

    /// All that wait. `None`: none do, and nobody takes them any more.
    pub(crate) fn take(&mut self) -> Option<VecDeque<(SessionId, Vec<Addressed>)>> {
        self.notes = 0;
        let taken = std::mem::take(&mut self.waiting);
        self.is_taken = !taken.is_empty();
        self.is_taken.then_some(taken)
    }
}

/// Notes by job and group. The job noted longest ago goes when there are too many.
#[derive(Debug)]
pub(crate) struct Notes {
    jobs: BTreeMap<JobId, OfJob>,
    /// Jobs by their places, which rise.
    order: BTreeMap<u64, JobId>,
    next: u64,
    most: usize,
}

/// Of one job. Invariant: some group has a note.
#[derive(Debug, Default)]
struct OfJob {
    place: u64,
    groups: BTreeMap<u32, Note>,
}

impl Notes {
    pub(crate) fn new(most: usize) -> Self {
        Self { jobs: BTreeMap::new(), order: BTreeMap::new(), next: 0, most }
    }

    /// Takes a note, with as much of its reason as is kept; an empty one takes it back.
    pub(crate) fn put(&mut self, job: JobId, group: u32, mut note: Note) {
        if note.reason.is_empty() {
            self.take_back(job, group);
            return;
        }
        if self.most == 0 {
            return;
        }
        if !self.jobs.contains_key(&job) {
            if self.is_full()
                && let Some((_, oldest)) = self.order.pop_first()
            {
                self.jobs.remove(&oldest);
            }
            self.order.insert(self.next, job);
            self.jobs.insert(job, OfJob { place: self.next, groups: BTreeMap::new() });
            self.next += 1;
        }
        note.cut();
        // A job has at most 64 groups; whoever names others only wastes its own notes.
        let groups = &mut self.jobs.entry(job).or_default().groups;
        if groups.len() < 64 || groups.contains_key(&group) {
            groups.insert(group, note);
        }
    }

    /// A job without a note leaves its place to others: those that have waited for long are told of once.
    fn take_back(&mut self, job: JobId, group: u32) {
        let Some(of_job) = self.jobs.get_mut(&job) else { return };
        of_job.groups.remove(&group);
        if of_job.groups.is_empty() {
            self.order.remove(&of_job.place);
            self.jobs.remove(&job);
        }
    }

    /// Whether the next job that is noted takes the place of another one.
    pub(crate) fn is_full(&self) -> bool {
        self.jobs.len() >= self.most
    }

    /// Lets go of jobs of which nobody says anything any more.
    pub(crate) fn retain(&mut self, waits: impl Fn(JobId) -> bool) {
        self.jobs.retain(|job, _| waits(*job));
        let jobs = &self.jobs;
        self.order.retain(|_, job| jobs.contains_key(job));
    }

    pub(crate) fn of(&self, job: JobId, group: u32) -> Option<&Note> {
        self.jobs.get(&job)?.groups.get(&group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_job_makes_room_and_the_last_word_counts() {
        let job = |slot| JobId { slot, generation: 1 };
        let note = |reason: &str| Note { tasks: 1, reason: reason.to_owned(), revision: 1, version: 1, staying: false };
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
        notes.put(job, 0, Note { tasks: 1, reason: "ä".repeat(1 << 20), revision: 1, version: 1, staying: false });
        let kept = &notes.of(job, 0).unwrap().reason;
        assert_eq!(*kept, "ä".repeat(127));
        assert!(kept.capacity() <= REASON_BYTES_MAX, "{} bytes", kept.capacity());
    }

    // What is told of a job that waits is told once. Ten thousand that had waited a moment pushed it out, though nothing waited any more.
    #[test]
    fn a_job_that_waits_no_more_leaves_its_place() {
        let job = |slot| JobId { slot, generation: 1 };
        let note = |reason: &str| Note { tasks: 1, reason: reason.to_owned(), revision: 1, version: 1, staying: false };
        let mut notes = Notes::new(3);
        notes.put(job(0), 0, note("no such machine"));
        for slot in 1..100 {
            notes.put(job(slot), 0, note("no room"));
            notes.put(job(slot), 1, note("no room"));
            notes.put(job(slot), 0, note(""));
            assert!(notes.of(job(slot), 1).is_some());
            notes.put(job(slot), 1, note(""));
        }
        assert_eq!((notes.jobs.len(), notes.order.len()), (1, 1));
        (100..102).for_each(|slot| notes.put(job(slot), 0, note("no room")));
        assert!(notes.is_full());
        notes.retain(|job| job.slot != 100);
        notes.put(job(103), 0, note("no room"));
        assert!([0, 101, 103].iter().all(|&slot| notes.of(job(slot), 0).is_some()));
    }

    #[test]
    fn notes_that_wait_are_taken_by_one_and_are_bounded() {
        let note =
            |job: u64| (job, 0, Note { tasks: 1, reason: "x".repeat(1000), revision: 1, version: 1, staying: false });
        let mut arrived = Arrived::default();
        assert!(!arrived.add(SessionId(1), (0..0).map(note)), "there is nothing to take");
        assert!(arrived.add(SessionId(1), (0..3).map(note)));
        assert!(!arrived.add(SessionId(2), (3..4).map(note)), "the first one takes those, too");
        let taken = arrived.take().unwrap();
        assert_eq!(taken.iter().map(|(session, notes)| (session.0, notes.len())).collect::<Vec<_>>(), [(1, 3), (2, 1)]);
        assert_eq!(taken[1].1[0].2.reason.len(), REASON_BYTES_MAX);
        (0..20).for_each(|_| assert!(!arrived.add(SessionId(1), (0..4096).map(note))));
        assert_eq!(arrived.take().unwrap().len(), ARRIVED_MAX / 4096);
        assert_eq!(arrived.take(), None);
        assert!(arrived.add(SessionId(1), (0..3).map(note)), "nobody takes them any more");
    }
}

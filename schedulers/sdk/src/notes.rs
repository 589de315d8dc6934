//! Why jobs were passed over, told to the cell when it changes and not more often than needed.

use std::collections::{BTreeMap, BTreeSet};

use plenum_model::{JobId, Revision};
use plenum_proto::v1;

use crate::scheduler::PassedOver;

/// Most notes of one message.
const NOTES_MAX: usize = 256;

/// Longest reason, in bytes.
const REASON_BYTES_MAX: usize = 255;

/// What was said, and what is to be said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notes {
    told: BTreeMap<(JobId, u16), (u32, String)>,
    /// Groups whose note changed since it was told. One that is gone is told as a note of no tasks.
    fresh: BTreeSet<(JobId, u16)>,
    now: BTreeMap<(JobId, u16), (u32, String)>,
    revision: Revision,
}

impl Notes {
    /// A new pass over the queue begins: whatever is not said again is void.
    pub(crate) fn begin(&mut self) {
        self.now.clear();
    }

    /// Notes of a decision on the snapshot of `revision`.
    pub(crate) fn add(&mut self, notes: impl IntoIterator<Item = PassedOver>, revision: Revision) {
        let bounded = |note: PassedOver| {
            let mut reason = note.reason;
            let end = (0..=REASON_BYTES_MAX.min(reason.len())).rev().find(|&end| reason.is_char_boundary(end));
            reason.truncate(end.unwrap_or(0));
            ((note.job, note.group), (note.tasks, reason))
        };
        let room = NOTES_MAX.saturating_sub(self.now.len());
        self.now.extend(notes.into_iter().take(room).map(bounded));
        self.revision = revision;
        let changed =
            self.now.iter().filter(|(group, note)| self.told.get(group) != Some(note)).map(|(group, _)| *group);
        let gone = self.told.keys().filter(|group| !self.now.contains_key(group)).copied();
        self.fresh = changed.chain(gone).collect();
    }

    /// The server has forgotten what it was told.
    pub(crate) fn tell_again(&mut self) {
        self.told.clear();
        self.fresh = self.now.keys().copied().collect();
    }

    pub(crate) fn has_news(&self) -> bool {
        !self.fresh.is_empty()
    }

    /// What is to be told now. Notes that are gone are taken back where the job is `is_own`.
    pub(crate) fn news(&mut self, is_own: impl Fn(JobId) -> bool) -> v1::PassedOver {
        let mut notes = Vec::new();
        for (job, group) in std::mem::take(&mut self.fresh) {
            let note = self.now.get(&(job, group));
            let (tasks, reason) = note.cloned().unwrap_or_default();
            match note {
                Some(note) => self.told.insert((job, group), note.clone()),
                None => self.told.remove(&(job, group)),
            };
            if note.is_none() && !is_own(job) {
                continue;
            }
            let (job, group, revision) = (job.to_bits(), u32::from(group), self.revision.0);
            notes.push(v1::PassedOverNote { job, group, tasks, reason, revision });
        }
        v1::PassedOver { notes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(notes: &mut Notes, all: impl IntoIterator<Item = PassedOver>, revision: u64) {
        notes.begin();
        notes.add(all, Revision(revision));
    }

    fn note(slot: u32, reason: &str) -> PassedOver {
        PassedOver { job: JobId { slot, generation: 1 }, group: 0, tasks: 2, reason: reason.into() }
    }

    fn told(notes: &mut Notes) -> Vec<(u64, u32, String)> {
        let low = |job: u64| job & 0xFFFF_FFFF;
        notes.news(|_| true).notes.into_iter().map(|note| (low(note.job), note.tasks, note.reason)).collect()
    }

    #[test]
    fn only_what_changed_is_told_and_what_is_gone_is_told_as_nothing() {
        let mut notes = Notes::default();
        put(&mut notes, vec![note(1, "no room"), note(2, "no room")], 5);
        assert_eq!(told(&mut notes).len(), 2);
        put(&mut notes, vec![note(1, "no room"), note(2, "no machine")], 6);
        assert_eq!(told(&mut notes), [(2, 2, "no machine".into())]);
        put(&mut notes, vec![note(1, "no room")], 7);
        assert_eq!(told(&mut notes), [(2, 0, String::new())]);
        put(&mut notes, vec![note(1, "no room")], 8);
        assert!(!notes.has_news());
    }

    #[test]
    fn notes_about_jobs_of_others_are_not_taken_back() {
        let mut notes = Notes::default();
        put(&mut notes, vec![note(1, "no room"), note(2, "no room")], 5);
        told(&mut notes);
        put(&mut notes, vec![], 6);
        let news = notes.news(|job| job.slot == 2);
        assert_eq!(news.notes.len(), 1);
        put(&mut notes, vec![], 7);
        assert!(!notes.has_news());
    }

    #[test]
    fn long_reasons_are_cut_between_characters() {
        let mut notes = Notes::default();
        put(&mut notes, vec![note(1, &"ä".repeat(200))], 5);
        assert_eq!(told(&mut notes)[0].2.len(), 254);
    }

    #[test]
    fn a_server_that_forgot_is_told_all_again() {
        let mut notes = Notes::default();
        put(&mut notes, vec![note(1, "no room")], 5);
        told(&mut notes);
        notes.tell_again();
        assert_eq!(told(&mut notes).len(), 1);
    }
}

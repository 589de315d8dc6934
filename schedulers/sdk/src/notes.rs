//! Why jobs were passed over, told to the cell when it changes and not more often than needed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use plenum_model::{JobId, Revision};
use plenum_proto::v1;

use crate::scheduler::PassedOver;

/// Most notes of one message: what there is more of is told with the next ones.
const NOTES_MAX: usize = 256;

/// Groups of own jobs of which something is said in one pass, some 400 bytes each: as many as a server keeps of jobs, unless it is told otherwise. Twice as
/// many are kept: those of the pass before have their places until it is over, and until what was told of them is taken back. Of peers' jobs, which are
/// tried in some passes only and take no places of own ones, as many are kept, and twice as many until the pass is over.
const KEPT_MAX: usize = 10_000;

/// Longest reason, in bytes.
const REASON_BYTES_MAX: usize = 255;

/// Most bytes of a note without its reason: 3 for its own key and length, 3 for those of the reason, 11 for each of two numbers of 64 bits, 6 for each of
/// three of 32, and 2 for what it tells of.
const NOTE_BYTES: usize = 3 + 3 + 2 * 11 + 3 * 6 + 2;

/// Most bytes of what is around the notes of a message: a key and a length.
const ENVELOPE_BYTES: usize = 6;

type Group = (JobId, u16);

/// What is told of a group. It is news as soon as any of it is another one, be it in the same words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Note {
    tasks: u32,
    reason: String,
    /// Of the job.
    version: u32,
    /// Why tasks stay where they are; otherwise why they wait.
    staying: bool,
}

/// What was said, and what is to be said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notes {
    groups: BTreeMap<Group, Said>,
    /// How many of these are `of_peer`.
    of_peers: usize,
    /// Groups whose note changed since it was told. One that is gone is told as a note of no tasks.
    fresh: BTreeSet<Group>,
    /// The last one that was told: the next message begins behind it, so that whatever changes all the time keeps nobody else's from being told.
    last: Option<Group>,
    /// Passes over the queue.
    pass: u64,
    /// Groups of which something was said in this one.
    said: usize,
    /// The same of peers' jobs.
    said_of_peers: usize,
}

/// What is said of a group. Invariant: one of the two notes is there.
#[derive(Clone, Debug, Default)]
struct Said {
    /// `None`: nothing any more.
    now: Option<Note>,
    told: Option<Note>,
    /// The job was a peer's when it was said last, or since. The peer says so itself, so that what was told may be gone over by that.
    of_peer: bool,
    /// The pass in which it was said last, and the revision that it was decided on.
    pass: u64,
    revision: Revision,
}

/// What one decision says of a group in several notes, in one: part of it may wait for something else than the rest.
pub(crate) fn joined(notes: impl IntoIterator<Item = PassedOver>) -> Vec<PassedOver> {
    let (mut joined, mut places) = (Vec::<PassedOver>::new(), BTreeMap::new());
    for note in notes {
        let place = *places.entry((note.job, note.group)).or_insert(joined.len());
        let Some(first) = joined.get_mut(place) else {
            joined.push(note);
            continue;
        };
        first.tasks = first.tasks.saturating_add(note.tasks);
        // What is beyond the bound is cut anyway.
        if first.reason.len() < REASON_BYTES_MAX && !first.reason.contains(&note.reason) {
            first.reason.push_str("; ");
            first.reason.push_str(&note.reason);
        }
    }
    joined
}

impl Notes {
    /// A new pass over the queue begins.
    pub(crate) fn begin(&mut self) {
        self.pass += 1;
        (self.said, self.said_of_peers) = (0, 0);
    }

    /// Why tasks wait, or with `staying` why they stay on machines that they are to leave: by a decision on the snapshot of `revision`, in which jobs have
    /// the versions that `version_of` tells. Those that are not `is_own` are peers'.
    pub(crate) fn add(
        &mut self,
        notes: impl IntoIterator<Item = PassedOver>,
        staying: bool,
        revision: Revision,
        version_of: impl Fn(JobId) -> u32,
        is_own: impl Fn(JobId) -> bool,
    ) {
        for PassedOver { job, group, tasks, mut reason } in notes {
            let (version, is_own, group) = (version_of(job), is_own(job), (job, group));
            let said_in = self.groups.get(&group).map(|said| said.pass);
            if said_in != Some(self.pass) {
                // Of peers' jobs as many as are said in a pass come on top: if they are too many then, those of earlier passes leave at its end.
                let kept = if is_own { self.groups.len() - self.of_peers } else { 0 };
                let said = if is_own { &mut self.said } else { &mut self.said_of_peers };
                // Who comes first in the pass, and not who was there before: notes of a full queue would keep the first in it from having any.
                if *said >= KEPT_MAX || (said_in.is_none() && kept >= 2 * KEPT_MAX) {
                    continue;
                }
                *said += 1;
            }
            reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
            let said = self.groups.entry(group).or_default();
            if is_own && said.of_peer {
                // Whether that still stands nobody knows here.
                said.told = None;
            }
            self.of_peers = self.of_peers + usize::from(!is_own) - usize::from(said.of_peer);
            said.of_peer = !is_own;
            said.now = Some(Note { tasks, reason, version, staying });
            (said.pass, said.revision) = (self.pass, revision);
            if said.now == said.told {
                self.fresh.remove(&group)
            } else {
                self.fresh.insert(group)
            };
        }
    }

    /// The pass is over: what was said before it, and not in it, is void. Not before its end, as it may take several decisions. What was told is taken
    /// back where the job `is_own`. A peer's is not tried in each pass: as long as its group `waits` what was said of it stands, told or not yet. It is
    /// told once, as each time it would go over what the peer has said meanwhile.
    pub(crate) fn end(&mut self, is_own: impl Fn(JobId) -> bool, waits: impl Fn(Group) -> bool) {
        let (pass, fresh, mut of_peers) = (self.pass, &mut self.fresh, 0);
        let are_too_many = self.of_peers > KEPT_MAX;
        self.groups.retain(|group, said| {
            if said.pass != pass {
                let is_own = is_own(group.0);
                // Of one that was not a peer's when it was said, the peer knows better.
                let may_stand = said.of_peer || said.now == said.told;
                said.of_peer |= !is_own;
                let stands = may_stand && !is_own && !are_too_many && waits(*group);
                if !stands {
                    said.now = None;
                    if !is_own || said.told.is_none() {
                        fresh.remove(group);
                        return false;
                    }
                    fresh.insert(*group);
                }
            }
            of_peers += usize::from(said.of_peer);
            true
        });
        self.of_peers = of_peers;
    }

    /// The server has forgotten what it was told. What was said of peers' jobs before this pass is not told once more: it would go over what they have
    /// said since.
    pub(crate) fn tell_again(&mut self) {
        let pass = self.pass;
        self.groups.retain(|_, said| {
            said.told = None;
            said.now.is_some() && (!said.of_peer || said.pass == pass)
        });
        self.of_peers = self.groups.values().filter(|said| said.of_peer).count();
        self.fresh = self.groups.keys().copied().collect();
    }

    pub(crate) fn has_news(&self) -> bool {
        !self.fresh.is_empty()
    }

    /// What is to be told now, in a message that the server takes; whether there is more, [`Notes::has_news`] says. Notes that are gone are taken back
    /// where the job is `is_own`.
    pub(crate) fn news(&mut self, bytes_max: usize, is_own: impl Fn(JobId) -> bool) -> v1::PassedOver {
        let some = self.next(bytes_max);
        self.last = some.last().copied();
        let mut notes = Vec::new();
        for group in some {
            self.fresh.remove(&group);
            let Some(said) = self.groups.get_mut(&group) else { continue };
            said.told.clone_from(&said.now);
            let (note, revision) = (said.now.clone(), said.revision.0);
            if note.is_none() {
                self.of_peers -= usize::from(said.of_peer);
                self.groups.remove(&group);
                if !is_own(group.0) {
                    continue;
                }
            }
            let Note { tasks, reason, version: job_version, staying } = note.unwrap_or_default();
            let (job, group) = (group.0.to_bits(), group.1.into());
            notes.push(v1::PassedOverNote { job, group, tasks, reason, revision, job_version, staying });
        }
        v1::PassedOver { notes }
    }

    /// Whose notes are the next ones: as many as a message has room for, and one at least. It ends the stream of a server that does not even take that, and
    /// so would any transaction.
    fn next(&self, bytes_max: usize) -> Vec<Group> {
        let behind = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let all = self.fresh.range((behind, Bound::Unbounded)).chain(&self.fresh);
        let (mut some, mut left) = (Vec::new(), bytes_max.saturating_sub(ENVELOPE_BYTES));
        for group in all.take(NOTES_MAX.min(self.fresh.len())) {
            let note = self.groups.get(group).and_then(|said| said.now.as_ref());
            let bytes = NOTE_BYTES + note.map_or(0, |note| note.reason.len());
            if bytes > left && !some.is_empty() {
                break;
            }
            left = left.saturating_sub(bytes);
            some.push(*group);
        }
        some
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(notes: &mut Notes, all: impl IntoIterator<Item = PassedOver>, revision: u64) {
        put_where(notes, all, revision, |_| true);
    }

    fn put_where(
        notes: &mut Notes,
        all: impl IntoIterator<Item = PassedOver>,
        revision: u64,
        is_own: impl Fn(JobId) -> bool + Copy,
    ) {
        notes.begin();
        notes.add(all, false, Revision(revision), |_| 1, is_own);
        notes.end(is_own, |_| true);
    }

    fn add(notes: &mut Notes, all: impl IntoIterator<Item = PassedOver>) {
        notes.add(all, false, Revision(6), |_| 1, |_| true);
    }

    fn end(notes: &mut Notes) {
        notes.end(|_| true, |_| true);
    }

    fn note(slot: u32, reason: &str) -> PassedOver {
        PassedOver { job: JobId { slot, generation: 1 }, group: 0, tasks: 2, reason: reason.into() }
    }

    fn told(notes: &mut Notes) -> Vec<(u64, u32, String)> {
        told_in(notes, usize::MAX)
    }

    fn told_in(notes: &mut Notes, bytes_max: usize) -> Vec<(u64, u32, String)> {
        let low = |job: u64| job & 0xFFFF_FFFF;
        notes.news(bytes_max, |_| true).notes.into_iter().map(|note| (low(note.job), note.tasks, note.reason)).collect()
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
        let news = notes.news(usize::MAX, |job| job.slot == 2);
        assert_eq!(news.notes.len(), 1);
        put(&mut notes, vec![], 7);
        assert!(!notes.has_news());
    }

    // It was void in each pass in which peers' jobs are not tried, and told again after the next one in which they are: over what its owner had said meanwhile.
    #[test]
    fn what_is_said_of_a_peers_job_is_told_again_only_where_it_changes() {
        let mut notes = Notes::default();
        let put = |notes: &mut Notes, all: &[PassedOver]| put_where(notes, all.to_vec(), 5, |_| false);
        put(&mut notes, &[note(1, "no room")]);
        assert_eq!(told(&mut notes).len(), 1);
        for _ in 0..3 {
            put(&mut notes, &[]);
            assert!(!notes.has_news());
            put(&mut notes, &[note(1, "no room")]);
            assert!(!notes.has_news());
        }
        put(&mut notes, &[]);
        put(&mut notes, &[note(1, "no machine")]);
        assert_eq!(told(&mut notes), [(1, 2, "no machine".into())]);
    }

    // A pass in which peers' jobs are tried comes once a second, and the one after it made void what no message had room for: of thousands hardly any was told.
    #[test]
    fn what_is_said_of_a_peers_job_is_told_once_also_after_a_pass_without_it() {
        let mut notes = Notes::default();
        let put = |notes: &mut Notes, all: &[PassedOver]| put_where(notes, all.to_vec(), 5, |_| false);
        for reason in ["no room", "no machine"] {
            put(&mut notes, &[note(1, reason)]);
            put(&mut notes, &[]);
            assert_eq!(told(&mut notes), [(1, 2, reason.into())]);
            put(&mut notes, &[]);
            assert!(!notes.has_news());
        }
    }

    // A wrong reason stood until the peer had another one: it says none twice.
    #[test]
    fn what_was_said_of_a_peers_job_goes_not_over_the_peers_own_word_after_a_break_or_once_the_job_is_the_peers() {
        let mut notes = Notes::default();
        put_where(&mut notes, [note(1, "no room")], 5, |_| false);
        told(&mut notes);
        put_where(&mut notes, [], 6, |_| false);
        notes.tell_again();
        assert!(!notes.has_news() && notes.groups.is_empty());
        put_where(&mut notes, [note(1, "no room")], 7, |_| false);
        notes.tell_again();
        assert_eq!(told(&mut notes).len(), 1, "of this pass it is news");

        let mut notes = Notes::default();
        put_where(&mut notes, [note(1, "no room")], 5, |_| true);
        put_where(&mut notes, [], 6, |_| false);
        assert!(!notes.has_news() && notes.groups.is_empty());
    }

    // Its owner took back what it had waited for. Once it waited again for the same, and the owner was gone, nobody would say so.
    #[test]
    fn what_was_told_of_a_peers_job_counts_no_more_once_it_does_not_wait() {
        let mut notes = Notes::default();
        let no_own = |_: JobId| false;
        put_where(&mut notes, [note(1, "no room")], 5, no_own);
        told(&mut notes);
        notes.begin();
        notes.end(no_own, |_| false);
        assert!(notes.groups.is_empty() && !notes.has_news(), "to take it back is not ours");
        put_where(&mut notes, [note(1, "no room")], 6, no_own);
        assert_eq!(told(&mut notes).len(), 1);
    }

    #[test]
    fn who_takes_over_a_peers_job_says_anew_why_it_waits_or_takes_that_back() {
        for waits in [true, false] {
            let mut notes = Notes::default();
            put_where(&mut notes, [note(1, "no room")], 5, |_| false);
            told(&mut notes);
            put_where(&mut notes, [], 6, |_| false);
            put(&mut notes, waits.then(|| note(1, "no room")), 7);
            let expected = if waits { (1, 2, "no room".into()) } else { (1, 0, String::new()) };
            assert_eq!(told(&mut notes), [expected]);
            assert_eq!((notes.of_peers, notes.groups.len()), (0, usize::from(waits)));
        }
    }

    // In each pass in which peers' jobs were tried, those behind them in the queue lost their reasons, and had them again with the next one.
    #[test]
    fn peers_jobs_take_no_places_of_own_ones_and_are_as_many_at_most() {
        let mut notes = Notes::default();
        let is_own = |job: JobId| job.slot >= 20_000;
        for pass in 1..5 {
            let first = pass * 2_000;
            put_where(&mut notes, (first..40_000).map(|slot| note(slot, "no room")), 5, is_own);
            while !told(&mut notes).is_empty() {}
            let own = notes.groups.keys().filter(|(job, _)| is_own(*job)).count();
            assert_eq!((own, notes.groups.len()), (KEPT_MAX, 2 * KEPT_MAX), "in pass {pass}");
            assert_eq!(notes.of_peers, KEPT_MAX);
        }
    }

    // Of a group of which part was beyond its quota and part found no room, people were told of the latter alone, and of no more tasks than those.
    #[test]
    fn several_notes_of_one_decision_about_a_group_are_one() {
        let other = PassedOver { group: 1, ..note(1, "no room") };
        let all = [note(2, "quota"), note(1, "no room"), note(2, "no room"), other.clone(), note(2, "quota")];
        let one = PassedOver { tasks: 6, ..note(2, "quota; no room") };
        assert_eq!(joined(all), [one, note(1, "no room"), other], "in the order in which they came first");
        let many = joined((0..10_000).map(|number| note(1, &format!("reason {number}"))));
        assert!(many[0].tasks == 20_000 && many[0].reason.len() < 2 * REASON_BYTES_MAX, "{many:?}");
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

    // Of three hundred jobs that waited forty-four never got a reason: what one message had no room for was told in none.
    #[test]
    fn what_one_message_has_no_room_for_is_told_in_the_next_ones() {
        let mut notes = Notes::default();
        put(&mut notes, (0..600).map(|slot| note(slot, "no room")), 5);
        let messages: Vec<_> = (0..4).map(|_| told(&mut notes)).collect();
        assert_eq!(messages.iter().map(Vec::len).collect::<Vec<_>>(), [256, 256, 88, 0]);
        let mut jobs: Vec<u64> = messages.into_iter().flatten().map(|(job, ..)| job).collect();
        jobs.sort_unstable();
        assert_eq!(jobs, (0..600).collect::<Vec<_>>());
    }

    // They ended the stream of a server that takes little, were told again over the next one, and ended that.
    #[test]
    fn a_message_has_no_more_bytes_than_the_server_takes() {
        let mut notes = Notes::default();
        put(&mut notes, (0..20).map(|slot| note(slot, &"x".repeat(100))), 5);
        let sizes = [1000, 450, 449, 50, 0, usize::MAX];
        let messages = sizes.map(|bytes_max| told_in(&mut notes, bytes_max).len());
        assert_eq!(messages, [6, 3, 2, 1, 1, 7], "148 bytes each, and one at least");
        assert!(!notes.has_news());
    }

    #[test]
    fn notes_that_change_all_the_time_keep_no_others_from_being_told() {
        let mut notes = Notes::default();
        let mut missing: BTreeSet<u64> = (0..600).collect();
        for round in 0..3 {
            put(&mut notes, (0..600).map(|slot| note(slot, &format!("short by {round}"))), 5);
            let message = told(&mut notes);
            missing.retain(|job| !message.iter().any(|(told, ..)| told == job));
        }
        assert!(missing.is_empty(), "{missing:?}");
    }

    // They were taken back with the first decision of each pass, and told again after a pause.
    #[test]
    fn what_a_later_decision_of_the_same_pass_says_again_is_not_taken_back_meanwhile() {
        let mut notes = Notes::default();
        put(&mut notes, [note(1, "no room"), note(2, "no room")], 5);
        told(&mut notes);
        notes.begin();
        add(&mut notes, [note(1, "no room")]);
        assert!(!notes.has_news());
        add(&mut notes, [note(2, "no room")]);
        end(&mut notes);
        assert!(!notes.has_news());
        notes.begin();
        end(&mut notes);
        assert_eq!(told(&mut notes).len(), 2);
        assert!(notes.groups.is_empty());
    }

    #[test]
    fn a_bounded_number_of_notes_is_kept() {
        let mut notes = Notes::default();
        put(&mut notes, (0..20_000).map(|slot| note(slot, "no room")), 5);
        assert_eq!(notes.groups.len(), KEPT_MAX);
        while !told(&mut notes).is_empty() {}
        for pass in 1..5 {
            notes.begin();
            add(&mut notes, (pass * 10_000..pass * 10_000 + 20_000).map(|slot| note(slot, "no room")));
            assert!(notes.groups.len() <= 2 * KEPT_MAX, "{} in pass {pass}", notes.groups.len());
            end(&mut notes);
        }
        while !told(&mut notes).is_empty() {}
        assert!(notes.groups.len() <= KEPT_MAX, "what was told is taken back");
    }

    // Ten thousand others were there before it, and all of them were said again in each pass.
    #[test]
    fn the_first_in_a_crowded_queue_has_a_reason() {
        let mut notes = Notes::default();
        put(&mut notes, (1..=10_001).map(|slot| note(slot, "no room")), 5);
        put(&mut notes, (0..=10_001).map(|slot| note(slot, "no room")), 6);
        assert!(notes.groups.contains_key(&(JobId { slot: 0, generation: 1 }, 0)), "it is first in the pass");
        assert!(!notes.groups.contains_key(&(JobId { slot: 10_000, generation: 1 }, 0)), "and others are last");
    }

    // To the server they are another reason: why a task stays was told as what another one had waited for, in the same words.
    #[test]
    fn the_same_words_about_what_stays_and_no_longer_waits_are_news() {
        let mut notes = Notes::default();
        let news_of = |staying: bool| {
            notes.begin();
            notes.add([note(1, "no room")], staying, Revision(6), |_| 1, |_| true);
            end(&mut notes);
            notes.news(usize::MAX, |_| true).notes.iter().map(|note| note.staying).collect::<Vec<_>>()
        };
        assert_eq!([false, true, true, false].map(news_of), [vec![false], vec![true], vec![], vec![false]]);
    }

    // The server lets go of what was said of the version before, and heard nothing of this one: the words were the same.
    #[test]
    fn the_same_words_about_the_next_version_of_a_job_are_news() {
        let mut notes = Notes::default();
        put(&mut notes, [note(1, "no room")], 6);
        assert_eq!(notes.news(usize::MAX, |_| true).notes[0].job_version, 1);
        notes.begin();
        notes.add([note(1, "no room")], false, Revision(7), |_| 2, |_| true);
        end(&mut notes);
        assert!(notes.has_news());
        assert_eq!(notes.news(usize::MAX, |_| true).notes[0].job_version, 2);
        assert!(!notes.has_news());
    }
}

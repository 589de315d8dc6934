//! What is found by time, by number, by session and by subject is what a twin finds that keeps everything; through feeding, retiring, leaps,
//! ends, kills and power cuts.
use super::twin::Dice;
use super::*;
use crate::keys::{self, Shelf};
use crate::{GroupBy, Lookup, Order, ReadError, Subject};

#[derive(Clone, Copy, Debug, PartialEq)]
enum What {
    Opened,
    Closed(u64),
    /// Of a session; whether it lost a claim.
    Transaction(u64, bool),
    Other,
}

/// Everything that ever was.
#[derive(Default)]
struct Twin {
    /// By revision, from 1 on: its time, and what it was.
    log: Vec<(i64, What)>,
    batches: Vec<EncodedBatch>,
    open: Vec<u64>,
}

impl Twin {
    fn newest(&self) -> u64 {
        self.log.len() as u64
    }

    fn at(&self, revision: u64) -> (i64, What) {
        self.log[usize::try_from(revision - 1).unwrap()]
    }

    fn decide(&mut self, dice: &mut Dice) {
        let first = self.newest() + 1;
        let time_micros = self.log.last().map_or(0, |(time, _)| *time) + i64::try_from(dice.below(3)).unwrap() * SECOND;
        let entries = (first..=first + dice.below(4)).map(|revision| {
            let session = self.open.get(usize::try_from(dice.below(4)).unwrap()).copied();
            let (what, entry) = match (dice.below(12), session) {
                (0, _) if self.open.len() < 6 => {
                    self.open.push(revision);
                    (What::Opened, opening(revision, "batch"))
                }
                (1, Some(session)) => {
                    self.open.retain(|open| *open != session);
                    (What::Closed(session), closing(revision, session))
                }
                // A session's numbers are revisions: they rise.
                (2..=5, Some(session)) => {
                    (What::Transaction(session, true), lost(revision, session, 0, &[("other", 1, 1)]))
                }
                (6..=9, Some(session)) => {
                    (What::Transaction(session, false), transaction(revision, session, revision, 0))
                }
                _ => (What::Other, entry(revision, 0)),
            };
            self.log.push((time_micros, what));
            entry
        });
        let entries = entries.collect();
        self.batches.push(batch(time_micros, entries));
    }

    fn feed(&self, history: &History, batches: usize) {
        let newest = history.newest_revision();
        let missing = self.batches.iter().filter(|batch| batch.first > newest).take(batches).cloned();
        history.append(&missing.collect::<Vec<_>>()).unwrap();
    }

    fn check(&self, history: &History, dice: &mut Dice) {
        let (oldest, newest) = (history.oldest_revision(), history.newest_revision());
        if newest == 0 {
            return;
        }
        for _ in 0..4 {
            self.check_time(
                history,
                oldest,
                newest,
                i64::try_from(dice.below(self.newest() + 3)).unwrap() * SECOND / 2,
            );
            self.check_number(history, oldest, newest, 1 + dice.below(self.newest() + 2));
            let (from, to) = (1 + dice.below(self.newest()), 1 + dice.below(self.newest()));
            self.check_range(history, oldest, newest, (from, to), dice.below(1 + self.newest()));
        }
        self.check_range(history, oldest, newest, (1, self.newest()), 0);
    }

    fn check_time(&self, history: &History, oldest: u64, newest: u64, micros: i64) {
        let decided = self.batches.iter().filter(|batch| batch.last <= newest && batch.time_micros <= micros);
        let expected = decided.map(|batch| batch.last).max();
        match (history.revision_at_time(micros), expected) {
            (Ok(found), Some(expected)) => assert_eq!(found, expected, "at {micros}"),
            (Err(ReadError::TimeRetired { .. }), expected) => {
                assert!(expected.is_none_or(|revision| revision < oldest))
            }
            (Err(ReadError::BeforeFirst), expected) => assert!(expected.is_none() && oldest <= 1),
            (found, expected) => panic!("{found:?}, and not {expected:?}"),
        }
    }

    fn check_number(&self, history: &History, oldest: u64, newest: u64, revision: u64) {
        let was = if revision <= newest { self.at(revision).1 } else { What::Other };
        let session = history.session(revision).unwrap();
        match was {
            What::Opened if revision >= oldest => assert!(matches!(session, Lookup::Found(_)), "session {revision}"),
            What::Opened => assert!(session != Lookup::NeverWas, "session {revision}"),
            _ => assert!(!matches!(session, Lookup::Found(_)), "session {revision}"),
        }
        if let What::Transaction(session, _) = was {
            let found = history.transaction(session, revision).unwrap();
            if revision >= oldest {
                assert_eq!(found, Lookup::Found(revision));
            } else {
                assert_eq!(found, Lookup::Retired { oldest }, "number {revision} of session {session}");
            }
        }
    }

    /// What was said of a session among these revisions, and which transactions there were, and which lost.
    fn check_range(&self, history: &History, oldest: u64, newest: u64, (from, to): (u64, u64), session: u64) {
        let there = (from.max(oldest).max(1)..=to.min(newest)).map(|revision| (revision, self.at(revision)));
        let there: Vec<_> = there.collect();
        let of = |passes: &dyn Fn(u64, What) -> bool| {
            there
                .iter()
                .filter(|(revision, (_, what))| passes(*revision, *what))
                .map(|found| found.0)
                .collect::<Vec<_>>()
        };
        let is_of = |revision, what| match what {
            What::Opened => revision == session,
            What::Closed(of) | What::Transaction(of, _) => of == session,
            What::Other => false,
        };
        for order in [Order::OldestFirst, Order::NewestFirst] {
            let mut walk = history.walk(from..=to, order);
            let mut found = Vec::new();
            while let Some(entries) = walk.next(|summary| summary.may_tell_of(Subject::Session(session))).unwrap() {
                found.extend(entries.into_iter().map(|logged| logged.entry.revision));
            }
            let in_order =
                if order == Order::NewestFirst { found.is_sorted_by(|a, b| a > b) } else { found.is_sorted() };
            assert!(in_order, "{found:?}");
            found.retain(|revision| is_of(*revision, self.at(*revision).1));
            found.sort_unstable();
            assert_eq!(found, of(&is_of), "session {session} among {from} to {to}");

            let mut found = listed(history, from..=to, order, usize::MAX, |_| true).0;
            found.sort_unstable();
            assert_eq!(found, of(&|_, what| matches!(what, What::Transaction(..))));
        }
        let since = self.at(from.min(newest)).0;
        let losses = (oldest.max(1)..=to.min(newest))
            .filter(|revision| matches!(self.at(*revision), (time, What::Transaction(_, true)) if time >= since));
        let table = history.conflicts(since, to, GroupBy::Resource, 10, None).unwrap();
        assert_eq!(table.rows.iter().map(|row| row.transactions).sum::<u64>(), losses.count() as u64);
    }
}

/// The newest blocks are lost, and not what was written about them: it goes to tables before.
fn cut_the_power(history: History, dice: &mut Dice) {
    history.persist().unwrap();
    let store = history.store().unwrap();
    let blocks: Vec<_> =
        store.rows(Shelf::Blocks, keys::block(0)..=keys::block(u64::MAX)).map(Result::unwrap).collect();
    let mut changes = store.changes();
    let lost = usize::try_from(dice.below(4)).unwrap();
    // What was retired up to is durable, and so is the block that has it.
    let floor = history.oldest_revision();
    for row in blocks.into_iter().rev().take(lost).filter(|row| row.key > keys::block(floor)) {
        changes.remove(Shelf::Blocks, row.key);
    }
    changes.commit().unwrap();
    drop(store);
    history.persist().unwrap();
}

#[test]
fn what_is_found_is_what_was_through_all_that_happens_to_a_history() {
    for seed in 0..6 {
        let mut dice = Dice(seed);
        let folder = tempfile::tempdir().unwrap();
        let mut place = folder.path().join("0");
        let mut history = open(&place).0;
        let mut twin = Twin::default();
        for step in 0..90 {
            match dice.below(24) {
                0..9 => (0..=dice.below(12)).for_each(|_| twin.decide(&mut dice)),
                9..14 => twin.feed(&history, usize::try_from(dice.below(20)).unwrap()),
                14 | 15 if twin.newest() > 0 => {
                    let time = twin.at(twin.newest()).0;
                    history.checkpoint_of_all(twin.newest(), time, &[pages(1, 1)], [page(1, 0, "x")]).unwrap();
                    if dice.below(6) == 0 && twin.newest() > history.newest_revision() {
                        history.leap_to(twin.newest()).unwrap();
                    }
                }
                16 | 17 => drop(history.retire(dice.below(history.newest_revision() + 1)).unwrap()),
                18 => history.persist().unwrap(),
                19 => drop(history.reopen().unwrap()),
                20 => {
                    drop(history);
                    history = open(&place).0;
                }
                21 => {
                    let copy = folder.path().join((step + 1).to_string());
                    copy_of(&history, &place, &copy);
                    place = copy;
                    history = open(&place).0;
                }
                22 => {
                    cut_the_power(history, &mut dice);
                    history = open(&place).0;
                }
                _ => {}
            }
            twin.check(&history, &mut dice);
        }
        twin.feed(&history, usize::MAX);
        twin.check(&history, &mut dice);
    }
}

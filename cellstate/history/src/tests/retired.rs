//! What is retired is added up by day.
use super::inspection::job_change;
use super::retention::{long_history, retire_all};
use super::*;
use crate::Lookup;
use crate::keys::{self, Shelf};
use crate::records::TimeRecord;
use crate::retired::{DAYS_MAX, PAIRS_MAX};
use v1::job_change::Change;
use v1::{RetiredDay, RetiredPair, RetiredPast};

const DAY: i64 = 24 * 3600 * SECOND;

/// A block for each batch.
fn one_by_one(folder: &Path) -> History {
    History::open(folder, Options { block_batches: 1, ..options() }).unwrap().0
}

fn pair(winner: &str, transactions: u64, claims: u64) -> RetiredPair {
    RetiredPair { loser: "batch".to_owned(), winner: winner.to_owned(), transactions, claims }
}

/// Nothing was left of what is retired but that it had been.
#[test]
fn each_block_is_in_the_sums_once_whatever_steps_it_takes_and_whatever_a_crash_takes() {
    let folder = tempfile::tempdir().unwrap();
    let live = folder.path().join("live");
    let history = one_by_one(&live);
    long_history(&history);
    history.persist().unwrap();
    assert_eq!(history.retired().unwrap(), RetiredPast::default());
    // Three revisions without a transaction, and then one each, of ten claims, none granted; up to the block of the checkpoint 2973.
    let day = RetiredDay {
        first_revision: 1,
        last_revision: 2964,
        from_micros: SECOND,
        to_micros: 2956 * SECOND,
        counted_revisions: 2964,
        transactions: 2961,
        claims: 29_610,
        refused_claims: 29_610,
        lost_claims: 2961,
        pairs: vec![pair("service", 2961, 2961)],
    };
    let expected = RetiredPast { days: vec![day], uncounted_revisions: 8 };
    let mut steps = 0;
    let mut done = false;
    while !done {
        done = history.retire(2990).unwrap().done;
        steps += 1;
        for power_fails in [false, true] {
            let copy = folder.path().join(format!("copy-{steps}-{power_fails}"));
            copy_of(&history, &live, &copy);
            if power_fails {
                crashes::journals(&copy).into_iter().for_each(|journal| std::fs::remove_file(journal).unwrap());
            }
            let survivor = one_by_one(&copy);
            assert_eq!(retire_all(&survivor, 2990), 2973);
            assert_eq!(survivor.retired().unwrap(), expected, "after step {steps}, {power_fails}");
        }
    }
    assert!(steps > 2, "{steps} steps");
    assert_eq!(history.retired().unwrap(), expected);
}

// Clearing away passed over what was fed again from before where it had got to: names of what was gone, and all that the index has about such blocks,
// stayed for good.
#[test]
fn what_a_lost_journal_has_fed_again_is_cleared_away_again() {
    let folder = tempfile::tempdir().unwrap();
    let (live, copy) = (folder.path().join("live"), folder.path().join("copy"));
    // Nothing goes to tables by itself.
    let open = |folder: &Path| {
        History::open(folder, Options { block_batches: 1, memtable_bytes: 4 << 20, ..options() }).unwrap().0
    };
    let feed = |history: &History| {
        for first in (1..=28).step_by(3) {
            let put = Change::Put(v1::JobPut { id: first, ..Default::default() });
            let entries =
                vec![job_change(first, put), job_change(first + 1, Change::Removed(first)), entry(first + 2, 0)];
            history.append(&[batch(i64::try_from(first).unwrap() * SECOND, entries)]).unwrap();
        }
    };
    let history = open(&live);
    feed(&history);
    history.checkpoint(30, 30 * SECOND, &[], []).unwrap();
    assert_eq!(retire_all(&history, 30), 30);
    // A power cut leaves how far it had got, and none of the blocks.
    let store = history.store().unwrap();
    store.rotate(&[Shelf::Index]).and_then(|()| store.catch_up()).unwrap();
    drop(store);
    copy_of(&history, &live, &copy);
    crashes::journals(&copy).into_iter().for_each(|journal| std::fs::remove_file(journal).unwrap());

    let survivor = open(&copy);
    assert_eq!((survivor.newest_revision(), survivor.oldest_revision()), (0, 30));
    feed(&survivor);
    assert_eq!(retire_all(&survivor, 30), 30);
    let store = survivor.store().unwrap();
    let ranges = [
        keys::leaver(0, 0)..=keys::leaver(u64::MAX, u64::MAX),
        keys::job(0)..=keys::job(u64::MAX),
        keys::time(i64::MIN, 0)..=keys::time(i64::MAX, u64::MAX),
    ];
    let left = ranges.map(|keys| store.rows(Shelf::Index, keys).count());
    assert_eq!(left, [0, 0, 1], "of the block that the oldest revision is in");
    assert_eq!(survivor.retired().unwrap(), history.retired().unwrap(), "each block is in the sums once");
}

/// Names went first: it would have been told that nobody lost.
#[test]
fn who_lost_has_a_name_though_the_session_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let history = one_by_one(folder.path());
    let losses = [("(expired)", 1, 1), ("service", 1, 1), ("service", 2, 1)];
    let repeated = v1::LogEntry { revision: 5, ..transaction(4, 1, 4, 3) };
    for (second, entries) in [
        (1, vec![opening(1, "batch"), lost(2, 1, 1, &losses), closing(3, 1)]),
        (2, vec![transaction(4, 1, 4, 3), repeated, entry(6, 0)]),
        (3, vec![entry(7, 0), entry(8, 0), entry(9, 0)]),
    ] {
        history.append(&[batch(second * SECOND, entries)]).unwrap();
    }
    history.checkpoint(9, 3 * SECOND, &[pages(1, 1)], [page(1, 0, "x")]).unwrap();
    assert_eq!(retire_all(&history, 9), 9);
    assert_eq!(history.session(1).unwrap(), Lookup::Retired { oldest: 9 });
    let RetiredPast { days, uncounted_revisions } = history.retired().unwrap();
    let [day] = &days[..] else { panic!("{days:?}") };
    assert_eq!((day.counted_revisions, uncounted_revisions), (6, 2), "those of the oldest revision's block wait");
    assert_eq!((day.transactions, day.claims, day.refused_claims, day.lost_claims), (2, 20, 13, 3));
    assert_eq!(day.pairs, [pair("service", 1, 2), pair("(expired)", 1, 1)]);
}

// The names of then were settled first: of all that was retained it would have been told that nobody lost.
#[test]
fn who_lost_before_a_leap_has_a_name_though_the_session_is_not_there_behind_it() {
    let folder = tempfile::tempdir().unwrap();
    let history = one_by_one(folder.path());
    history.append(&[batch(SECOND, vec![opening(1, "batch"), lost(2, 1, 1, &[("service", 1, 2)])])]).unwrap();
    // More than are added up in one step.
    for revision in 3..=150 {
        history.append(&[batch(SECOND, vec![lost(revision, 1, 1, &[("service", 1, 1)])])]).unwrap();
    }
    history.checkpoint(200, 2 * SECOND, &[], []).unwrap();
    history.leap_to(200).unwrap();
    history.settle_names([], |_| false).unwrap();
    assert_eq!(history.session(1).unwrap(), Lookup::Retired { oldest: 201 });
    assert_eq!(retire_all(&history, 200), 201);
    let RetiredPast { days, uncounted_revisions } = history.retired().unwrap();
    let [day] = &days[..] else { panic!("{days:?}") };
    assert_eq!((day.pairs.as_slice(), uncounted_revisions), (&[pair("service", 149, 150)][..], 50));
}

#[test]
fn the_oldest_of_many_days_become_one_and_of_many_pairs_those_with_most_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let history = one_by_one(folder.path());
    history.append(&[batch(0, vec![opening(1, "batch")])]).unwrap();
    let days = u64::try_from(DAYS_MAX).unwrap() + 5;
    let winners: Vec<String> = (1..=PAIRS_MAX + 4).map(|number| format!("winner-{number}")).collect();
    for day in 0..days {
        let many: Vec<_> = (1..).zip(&winners).map(|(claims, winner)| (winner.as_str(), 1, claims)).collect();
        let losses = if day + 1 == days { &many[..] } else { &[("service", 1, 1)] };
        history.append(&[batch(DAY * day.cast_signed(), vec![lost(day + 2, 1, 1, losses)])]).unwrap();
    }
    let newest = days + 2;
    history.append(&[batch(DAY * days.cast_signed(), vec![entry(newest, 0)])]).unwrap();
    history.checkpoint(newest, DAY * days.cast_signed(), &[pages(1, 1)], [page(1, 0, "x")]).unwrap();
    assert_eq!(retire_all(&history, newest), newest);
    let RetiredPast { days: told, uncounted_revisions } = history.retired().unwrap();
    assert_eq!((told.len(), uncounted_revisions), (DAYS_MAX, 0));
    let (oldest, newest) = (&told[0], &told[DAYS_MAX - 1]);
    assert_eq!((oldest.first_revision, oldest.last_revision, told[1].first_revision), (1, 7, 8));
    assert_eq!((oldest.from_micros, oldest.to_micros, oldest.transactions), (0, 5 * DAY, 6));
    assert_eq!(oldest.pairs, [pair("service", 6, 6)]);
    assert_eq!(told.iter().map(|day| day.transactions).sum::<u64>(), days);
    let claims: Vec<_> = newest.pairs.iter().map(|pair| pair.claims).collect();
    assert_eq!((claims, newest.lost_claims), ((5..=20).rev().collect(), (1..=20).sum()));
}

#[test]
fn what_nobody_counted_or_can_read_or_fed_is_told_by_its_number() {
    let folder = tempfile::tempdir().unwrap();
    let history = one_by_one(folder.path());
    let first = vec![opening(1, "batch"), lost(2, 1, 1, &[("service", 1, 2)]), entry(3, 0)];
    history.append(&[batch(SECOND, first)]).unwrap();
    history.append(&batches(4, 9, 0)).unwrap();
    let put = |key: Vec<u8>, value: &[u8]| {
        let mut changes = history.store().unwrap().changes();
        changes.put(Shelf::Index, key, value);
        changes.commit().unwrap();
    };
    // As earlier versions wrote it; and as no version did.
    let counted: TimeRecord = history.store().unwrap().message(Shelf::Index, &keys::time(SECOND, 1)).unwrap().unwrap();
    assert_eq!(counted.counts.map(|counts| (counts.revisions, counts.transactions)), Some((3, 1)));
    put(keys::time(SECOND, 1), &TimeRecord { counts: None, ..counted }.encode_to_vec());
    put(keys::time(2 * SECOND, 4), b"something else");
    history.checkpoint(30, 10 * SECOND, &[], []).unwrap();
    history.leap_to(30).unwrap();
    assert_eq!(retire_all(&history, 30), 31);
    let past = history.retired().unwrap();
    let sums = |day: &RetiredDay| (day.first_revision, day.last_revision, day.counted_revisions, day.transactions);
    assert_eq!(past.days.iter().map(sums).collect::<Vec<_>>(), [(1, 9, 3, 0)]);
    assert_eq!((past.days[0].pairs.as_slice(), past.uncounted_revisions), (&[pair("service", 1, 2)][..], 27));

    put(keys::retired(0), b"something else");
    assert_eq!(history.retired().unwrap(), RetiredPast { days: vec![], uncounted_revisions: 30 });
    history.append(&batches(31, 36, 0)).unwrap();
    history.checkpoint(36, 12 * SECOND, &[], []).unwrap();
    assert_eq!(retire_all(&history, 36), 36, "it goes on all the same");
    let past = history.retired().unwrap();
    assert_eq!(past.days.iter().map(sums).collect::<Vec<_>>(), [(31, 33, 3, 0)]);
    assert_eq!(past.uncounted_revisions, 32);
}

// Each step began anew behind the last day that it could read, and no block was ever cleared away; nor could conflicts be listed.
#[test]
fn days_whose_table_is_damaged_keep_nothing_from_being_retired() {
    let folder = tempfile::tempdir().unwrap();
    // Nothing goes to tables by itself.
    let (history, _) =
        History::open(folder.path(), Options { block_batches: 1, memtable_bytes: 4 << 20, ..options() }).unwrap();
    history.append(&batches(1, 900, 0)).unwrap();
    history.checkpoint(900, 301 * SECOND, &[], []).unwrap();
    assert!(!history.retire(900).unwrap().done, "more blocks than are added up in one step");
    let before = damage::tables(folder.path());
    let store = history.store().unwrap();
    store.rotate(&[Shelf::Index]).unwrap();
    store.catch_up().unwrap();
    let new: Vec<_> = damage::tables(folder.path()).into_iter().filter(|table| !before.contains(table)).collect();
    let [of_the_day] = &new[..] else { panic!("{new:?}") };
    let mut bytes = std::fs::read(of_the_day).unwrap();
    bytes[40] ^= 1;
    std::fs::write(of_the_day, bytes).unwrap();
    assert!(store.last(Shelf::Index, keys::retired(i64::MIN)..=keys::retired(i64::MAX)).is_err());

    assert!((0..9).any(|_| history.retire(900).unwrap().done));
    assert_eq!(history.retired().unwrap(), RetiredPast { days: vec![], uncounted_revisions: 899 });
}

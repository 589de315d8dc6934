//! Which of what has ended has a place still: a rule on the kind of each, and on how much it has. It knows nothing of files.

/// What is left of an ended allocation. Of two kinds that have equally much, the later one keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing that it printed, however it ended: its record alone, by which a cell that was restored hears that it ran here.
    Silent,
    /// What it printed, and it ended well or was asked to end.
    Printed,
    /// What it printed, and it failed, or nobody knows how it ended.
    Failed,
}

const KINDS: [Kind; 3] = [Kind::Silent, Kind::Printed, Kind::Failed];

/// Which of these stay, so that together they have at most `max`: allocations, each counting as one, or bytes. Each comes with its kind and with
/// what it has of that, the first that ended first.
///
/// As long as they have more, the oldest goes of the kind that has most. So no kind takes from another what that needs of an equal share, and what
/// one does not need the others have. Then, from the newest on, what has room beside those that stay does so as well: who had too much by itself
/// takes nothing from older ones.
pub(super) fn stay(ended: &[(Kind, u64)], max: u64) -> Vec<bool> {
    let max = u128::from(max);
    let mut kinds = KINDS.map(|kind| {
        let all = ended.iter().enumerate().filter(move |(_, one)| one.0 == kind);
        let all = all.map(|(position, one)| (position, u128::from(one.1)));
        (all.clone().map(|(_, amount)| amount).sum::<u128>(), all)
    });
    let mut sum: u128 = kinds.iter().map(|(of_kind, _)| of_kind).sum();
    let mut stay = vec![true; ended.len()];
    while sum > max {
        // Of equal ones this gives the last, which is to be the first kind.
        let Some((of_kind, oldest)) = kinds.iter_mut().rev().max_by_key(|(of_kind, _)| *of_kind) else { break };
        let Some((position, amount)) = oldest.next() else { break };
        stay[position] = false;
        *of_kind -= amount;
        sum -= amount;
    }
    for (stays, &(_, amount)) in stay.iter_mut().zip(ended).rev() {
        let with_it = sum + u128::from(amount);
        if !*stays && with_it <= max {
            (*stays, sum) = (true, with_it);
        }
    }
    stay
}

#[cfg(test)]
mod tests {
    use super::{
        Kind::{Failed, Printed, Silent},
        *,
    };

    /// How many of each kind stay of so many, one of each kind ending after the other as long as there are some; the newest of each do.
    fn counts(silent: usize, printed: usize, failed: usize, max: u64) -> [usize; 3] {
        let all_of = |kind, count| (0..count).map(move |turn| (turn, (kind, 1)));
        let all = all_of(Silent, silent).chain(all_of(Printed, printed)).chain(all_of(Failed, failed));
        let mut ended: Vec<(usize, (Kind, u64))> = all.collect();
        ended.sort_by_key(|&(turn, _)| turn);
        let ended: Vec<_> = ended.into_iter().map(|(_, one)| one).collect();
        let stay = stay(&ended, max);
        [Silent, Printed, Failed].map(|kind| {
            let of_kind: Vec<bool> =
                ended.iter().zip(&stay).filter(|(one, _)| one.0 == kind).map(|(_, &s)| s).collect();
            assert!(of_kind.is_sorted(), "the oldest of a kind goes first: {of_kind:?}");
            of_kind.into_iter().filter(|&stays| stays).count()
        })
    }

    // A sweep of some thousand tasks that printed nothing was over, and of the three that had failed nobody could read why: 256 that ended after them had
    // their places.
    #[test]
    fn what_ended_well_does_not_push_out_what_failed() {
        assert_eq!(counts(2500, 0, 3, 256), [253, 0, 3]);
        assert_eq!(counts(0, 2500, 3, 256), [0, 253, 3]);
        assert_eq!(counts(2500, 40, 3, 256), [213, 40, 3]);
    }

    // What fails again and again must not push out the others either, nor what the machine would tell a restored cell.
    #[test]
    fn where_all_kinds_want_more_each_has_a_third() {
        assert_eq!(counts(1000, 1000, 1000, 256), [85, 85, 86]);
        assert_eq!(counts(0, 1000, 1000, 256), [0, 128, 128]);
        assert_eq!(counts(10, 1000, 1000, 256), [10, 123, 123]);
        assert_eq!(counts(5, 5, 5, 1), [0, 0, 1]);
        assert_eq!(counts(5, 5, 5, 0), [0, 0, 0]);
    }

    #[test]
    fn of_one_kind_the_newest_stay() {
        for (silent, printed, failed) in [(9, 0, 0), (0, 9, 0), (0, 0, 9)] {
            assert_eq!(counts(silent, printed, failed, 4).iter().sum::<usize>(), 4);
            assert_eq!(counts(silent, printed, failed, 10).iter().sum::<usize>(), 9);
        }
    }

    // What failed had printed little, and lost it to tasks that ended well after it and had printed all that is kept.
    #[test]
    fn bytes_are_shared_as_places_are() {
        let ended = [(Failed, 100), (Silent, 0), (Printed, 400), (Failed, 100), (Printed, 700)];
        assert_eq!(stay(&ended, 1300), [true; 5]);
        assert_eq!(stay(&ended, 1000), [true, true, false, true, true]);
        assert_eq!(stay(&ended, 899), [true, true, true, true, false], "what has room after all stays");
        assert_eq!(stay(&ended, 0), [false, true, false, false, false], "what has nothing is in nobody's way");
    }

    #[test]
    fn who_has_more_than_all_may_takes_nothing_from_others() {
        let ended =
            [(Failed, 400), (Failed, 400), (Printed, 300), (Failed, u64::MAX), (Failed, u64::MAX), (Failed, 100)];
        assert_eq!(stay(&ended, 1200), [true, true, true, false, false, true]);
    }
}

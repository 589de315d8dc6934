//! Stories of work that waits: who has its turn, and who tries whose jobs.

use plenum_sdk::Settings;

use super::tests::{FirstFit, OneByOne, job};
use super::*;

/// The second group of a job was never offered: the first, as large as a decision, fitted nowhere, and with it the whole job was
/// passed over, in every pass.
#[test]
fn a_group_behind_a_sibling_that_fits_nowhere_has_its_turn() {
    for (wide, more) in [(2, 0), (3, 0), (2, 4)] {
        let mut stage = Stage::new();
        stage.machine("m1", 4000, &[]);
        let settings = Settings { tasks_max: 2, ..Settings::default() };
        let seat = stage.seat_with(FirstFit("blue"), settings);
        let both = JobBuilder::new("both", "blue").group("wide", wide, 9000).group("small", 1 + more, 500);
        let both = stage.submit(&both);
        let other = stage.submit(&job("other", "blue", 1));
        stage.advance(100_000);
        let placed = |job| stage.placed(job).len();
        assert_eq!((placed(both), placed(other)), (1 + more as usize, 1), "{wide} that fit nowhere");
        assert_eq!(stage.passed_over(both, 0), "no room");
        let before = stage.runtime(seat).counters().decisions;
        stage.advance(10_000_000);
        assert!(stage.runtime(seat).counters().decisions <= before + 2, "then there is rest");
    }
}

/// What was planned beyond the window was dropped, and the pass went on behind it: jobs that came later took the room.
#[test]
fn what_the_window_cut_off_goes_before_all_that_is_behind_it() {
    let mut stage = Stage::new();
    let settings = Settings { tasks_max: 3, window: 2, ..Settings::default() };
    let seat = stage.seat_with(OneByOne, settings);
    stage.cut_off(seat);
    let jobs: Vec<_> = (0..6).map(|number| stage.submit(&job(&format!("job{number}"), "one-by-one", 1))).collect();
    stage.machine("m1", 4000, &[]);
    stage.let_back(seat);
    stage.advance(1_000_000);
    let placed: Vec<_> = jobs.iter().map(|&job| stage.placed(job).len()).collect();
    assert_eq!(placed, [1, 1, 1, 1, 0, 0]);
}

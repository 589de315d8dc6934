//! Stories of jobs of high bands that could have what a gang of a low band holds.

use super::*;

/// In thousandths.
const CORE: i64 = 1000;

/// Four machines of four cores, of which tasks of a low band run on three, and on the last one on all; a gang of that band holds what is free of the first three.
fn beside_a_low_gang() -> (Stage, JobId) {
    let mut stage = Stage::new();
    for name in ["m1", "m2", "m3", "m4"] {
        stage.machine(name, 4000, &[]);
    }
    stage.seat_with(Batch::default(), settings(Some(SOON)));
    stage.seat_with(Service::default(), settings(Some(SOON)));
    let low = |name: &str, tasks| JobBuilder::new(name, "batch").group("main", tasks, CORE).priority(20).forever();
    stage.submit(&low("long", 12).per_machine(3));
    stage.settle();
    stage.submit(&low("plug", 1));
    stage.settle();
    let gang = JobBuilder::new("gang", "batch").group("main", 4, CORE).min(4).per_machine(1).priority(20);
    let gang = stage.submit(&gang);
    stage.advance(3_000_000);
    assert_eq!((stage.placed(gang).len(), held(&stage, gang).len()), (0, 3));
    (stage, gang)
}

/// A hold was asked for only where it had room for all that a machine was to have of the job: of a long queue that was more than any had, and the more waited the less was taken.
#[test]
fn a_long_queue_of_a_higher_band_takes_what_is_held() {
    let (mut stage, gang) = beside_a_low_gang();
    let sweep = stage.submit(&JobBuilder::new("sweep", "batch").group("main", 100, CORE).priority(60));
    stage.advance(1_000_000);
    assert_eq!((stage.placed(sweep).len(), held(&stage, gang).len()), (16, 0), "the whole cell is theirs");
}

//! Damage of a log sector by sector, as the checker sees it.

use plenum_checker::Chronicle;
use plenum_checker::properties::{Damage, Made, property_damage_is_named};

use crate::scenes::Stopped;

/// Frames at the end of a log whose sectors are all damaged.
const LAST_FRAMES: usize = 20;
const SECTOR_BYTES: usize = 512;

/// The last frames of a log, each of whose sectors is damaged, one at a time: by a bit, or as a whole.
async fn damaged_sectors() -> (Chronicle, Vec<Damage>) {
    let stopped = Stopped::after(LAST_FRAMES + 4, true).await;
    let (path, end) = stopped.logs().pop().unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let sectors = (0..end).step_by(SECTOR_BYTES);
    let frames: Vec<usize> = sectors.filter(|at| bytes[*at..].starts_with(b"PLFR")).collect();
    let first = frames[frames.len() - LAST_FRAMES];
    assert!((end - first) / SECTOR_BYTES > LAST_FRAMES + 2, "some frames have several sectors: {frames:?}");
    let mut damages = Vec::new();
    for (number, at) in (first..end).step_by(SECTOR_BYTES).enumerate() {
        // Another byte and another bit each time, of those that are written: what is behind the end of a frame is zeros.
        let used = SECTOR_BYTES.min(end - at);
        let injure = |bytes: &mut [u8]| match number % 4 {
            3 => bytes[at..at + SECTOR_BYTES].fill(0),
            _ => bytes[at + number * 37 % used] ^= 1 << (number % 8),
        };
        damages.push(stopped.injured(&path, at, injure).await);
    }
    (stopped.chronicle, damages)
}

/// Nothing of what a mark covers can be left out: whatever sector it is, the start names it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_damaged_sector_of_the_last_frames_is_named_or_costs_nothing() {
    let (chronicle, damages) = damaged_sectors().await;
    let refused = damages.iter().filter(|damage| matches!(damage.made, Made::Refused(_))).count();
    eprintln!("of {} damaged sectors {refused} were refused", damages.len());
    assert!(damages.len() < 2 * refused, "hardly any damage was noticed: {damages:?}");
    assert_eq!(property_damage_is_named(&chronicle, &damages), []);
}

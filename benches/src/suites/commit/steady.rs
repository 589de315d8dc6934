//! A cell's steady state. Until its history has retired something, each segment of the log is a new file: pages of memory and blocks of the disk
//! that nobody had before. From then on segments are used again, and clearing away the past is a part of the work. What is measured earlier is a
//! cell of its first quarter of a minute, and not the one that goes on for months.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::closed::Shape;
use super::ground::Ground;
use crate::interrupt;
use crate::progress::say;

/// What the history keeps up with: under larger transactions it falls behind, and what it has not got the log keeps, in more and more files.
const LOAD: Shape = Shape { claims: 100, streams: 4, in_flight: 16, mirrors: false };
/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);
/// A cell retains a GiB of log by default: a disk that takes ten megabytes of it a second comes there.
const PATIENCE: Duration = Duration::from_secs(180);
/// The number of a log's first segment.
const FIRST: u64 = 1;

/// Loads a cell until segments of its log are used again; no longer than [`PATIENCE`], and not after a Ctrl-C. Whether they are stands beside the figures.
pub(super) async fn reach(ground: &mut Ground) -> anyhow::Result<()> {
    let (began, log) = (Instant::now(), ground.log());
    let mut oldest = oldest_segment(&log)?;
    let running = ground.begin(LOAD.manner(), LOAD.streams, Vec::new()).await?;
    // Filling it may have been enough; whoever ends a load ends what has begun.
    ground.wait(&running, LOOK).await?;
    while goes_on(oldest, began.elapsed(), interrupt::asked()) {
        ground.wait(&running, LOOK).await?;
        oldest = oldest_segment(&log)?;
    }
    let seconds = began.elapsed().as_secs_f64();
    ground.end(running).await?;
    ground.segments_used_again = oldest > FIRST;
    say(&if ground.segments_used_again {
        format!("segments of the log are used again after {seconds:.1} s")
    } else {
        format!("no segment of the log was used again within {seconds:.1} s: the cell is not yet in its steady state")
    });
    Ok(())
}

/// Whether the cell is to be loaded for longer.
fn goes_on(oldest: u64, took: Duration, is_interrupted: bool) -> bool {
    oldest <= FIRST && took < PATIENCE && !is_interrupted
}

/// The lowest number of the segments in a log's folder, those that are kept for the history included.
fn oldest_segment(log: &Path) -> anyhow::Result<u64> {
    let entries = std::fs::read_dir(log)?.collect::<std::io::Result<Vec<_>>>()?;
    let numbers = entries.iter().filter_map(|entry| number_in(&entry.file_name().to_string_lossy()));
    numbers.min().with_context(|| format!("{} has no segments", log.display()))
}

/// The number in the name of a segment's file; none in names of others.
fn number_in(name: &str) -> Option<u64> {
    let (number, kind) = name.split_once('.')?;
    if matches!(kind, "segment" | "kept") { number.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_loaded_until_it_is_steady_or_nobody_waits_for_that_any_longer() {
        let second = Duration::from_secs(1);
        assert!(goes_on(FIRST, second, false));
        assert!(!goes_on(FIRST + 1, second, false), "it is steady");
        assert!(!goes_on(FIRST, PATIENCE, false), "on this disk it takes too long");
        assert!(!goes_on(FIRST, second, true), "Ctrl-C was pressed");
    }

    #[test]
    fn the_oldest_segment_of_a_log_may_be_a_kept_one() {
        let log = tempfile::tempdir().unwrap();
        assert!(oldest_segment(log.path()).is_err(), "nothing is there");
        for name in [
            "00000000000000000012.segment",
            "00000000000000000003.kept",
            "spare.tmp",
            "CELL",
            "00000000000000000001.tmp",
        ] {
            std::fs::write(log.path().join(name), b"").unwrap();
        }
        assert_eq!(oldest_segment(log.path()).unwrap(), 3);
    }
}

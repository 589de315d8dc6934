//! A cell's steady state. Until its history has retired something, each segment of the log is a new file: pages of memory and blocks of the disk
//! that nobody had before. From then on segments are used again, and clearing away the past is a part of the work. What is measured earlier is a
//! cell of its first quarter of a minute, and not the one that goes on for months.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::closed::Shape;
use super::ground::Ground;
use crate::progress::say;

/// What the history keeps up with: under larger transactions it falls behind, and what it has not got the log keeps, in more and more files.
const LOAD: Shape = Shape { claims: 100, streams: 4, in_flight: 16, mirrors: false };
/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);
/// A cell retains a GiB of log by default: a disk that takes ten megabytes of it a second comes there.
const PATIENCE: Duration = Duration::from_secs(180);

/// Loads a cell until segments of its log are used again.
pub(super) async fn reach(ground: &mut Ground) -> anyhow::Result<()> {
    let began = Instant::now();
    let running = ground.begin(LOAD.manner(), LOAD.streams, Vec::new()).await?;
    while oldest_segment(&ground.log())? <= 1 {
        ensure!(began.elapsed() < PATIENCE, "no segment of the log was used again within {PATIENCE:?}");
        ground.wait(&running, LOOK).await?;
    }
    ground.end(running).await?;
    say(&format!("segments of the log are used again after {:.1} s", began.elapsed().as_secs_f64()));
    Ok(())
}

/// The lowest number of the segments in a log's folder, those that are kept for the history included.
fn oldest_segment(log: &Path) -> anyhow::Result<u64> {
    let mut oldest = None;
    for entry in std::fs::read_dir(log)? {
        let name = entry?.file_name();
        oldest = number_in(&name.to_string_lossy()).into_iter().chain(oldest).min();
    }
    oldest.with_context(|| format!("{} has no segments", log.display()))
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

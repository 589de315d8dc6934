//! Suite `recovery`: how long a killed server takes to serve again, and what its cell costs in memory.
//!
//! A cell is filled and ended, so that its checkpoint has everything. It is started again and loaded, without any further checkpoint,
//! until the log behind the checkpoint has the wanted length; then it is killed. Each sample starts a server on a copy of what was left, and looks whether all
//! that was acknowledged is there.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::json;

use super::commit::cell::{self, Serving};
use super::commit::ground::{Ground, Left, Size};
use super::commit::server_counts::Counts;
use super::commit::{open_loop, runtime, scratch};
use super::cores_of_all;
use crate::figure::{Better, Case, Figure, by_name, number};
use crate::kept::Kept;
use crate::progress::say;
use crate::{Run, interrupt};

pub(crate) const NAME: &str = "recovery";

/// A cell, and the log behind its checkpoint.
#[derive(Clone, Copy, Debug)]
struct Shape {
    size: Size,
    tail_mib: u64,
}

const QUICK: Shape = Shape { size: Size { machines: 10_000, live: LIVE }, tail_mib: 32 };
const FURTHER: Shape = Shape { size: Size { machines: 100_000, live: LIVE }, tail_mib: 256 };

/// How memory is measured.
const BYTES: &str = "proportional set size of the server, when nothing has been under way for four seconds and its threads gave back what they did not need, after one and not after a minute: what it has more, all of its copies included, with all allocations than with a part of them, and with many machines than with few";

/// Live allocations of a full cell.
const LIVE: u32 = 1_000_000;

/// What a machine costs shows in a large cell only: in a small one it is less than what a server has anyway, which differs from start to start.
const FEW_AND_MANY: [u32; 2] = [10_000, 100_000];

/// No checkpoint is written on the way to a tail.
const RARELY: Serving = Serving::checkpoint_after(1 << 40);
/// Claims a second of the load that makes the tail: not so many that what was stopped, and waits for its machine's report, would be more
/// than what is live.
const RATE: u32 = 100_000;
/// Between two looks at its length.
const LOOK: Duration = Duration::from_millis(200);
/// How often memory is measured, until nothing has happened meanwhile.
const LOOKS_MAX: u32 = 5;
/// Memory is compared between so many live allocations in a hundred and all of them: tables with a bound are full by then, and cancel out.
const PART_PERCENT: u32 = 60;

impl Shape {
    fn name(&self) -> String {
        let Self { size: Size { machines, live }, tail_mib } = self;
        format!("machines={machines} allocations={live} tail_mib={tail_mib}")
    }
}

pub(crate) fn run(options: &Run, kept: &mut Kept<'_>) -> anyhow::Result<()> {
    let (folder, file_system) = scratch(options)?;
    let runtime = runtime()?;
    let [few, many] = FEW_AND_MANY;
    let name = format!("machines={many} over machines={few}");
    if options.has_case(&name) {
        say(&name);
        let dir = tempfile::tempdir_in(folder.path())?;
        let samples = runtime.block_on(machines(options, dir.path())).with_context(|| name.clone())?;
        let parameters = [("live_allocations", json!(LIVE)), ("bytes", json!(BYTES))];
        let parameters = by_name(parameters);
        let case = Case { suite: NAME, case: &name, parameters };
        kept.add(case.figure("bytes_per_machine", "B", Better::Lower, samples)?.if_told());
    }
    let further = if options.quick { None } else { Some(FURTHER) };
    for shape in [QUICK].into_iter().chain(further).filter(|shape| options.has_case(&shape.name())) {
        say(&shape.name());
        let dir = tempfile::tempdir_in(folder.path())?;
        let measured = runtime.block_on(measure(shape, options, dir.path()));
        kept.add(measured.with_context(|| shape.name())?.figures(shape, &file_system)?);
    }
    Ok(())
}

/// What one case gave.
struct Measured {
    bytes_per_allocation: f64,
    tail_bytes: u64,
    revisions: u64,
    unfed: u64,
    recovery_seconds: Vec<f64>,
    cores_of_others: f64,
}

async fn measure(shape: Shape, options: &Run, dir: &Path) -> anyhow::Result<Measured> {
    let samples = if options.quick { 1 } else { 5 };
    let cell = dir.join("cell");
    let mut ground = Ground::empty(&cell, shape.size, Serving::resting_soon(), options.seed).await?;
    let part = shape.size.live / 100 * PART_PERCENT;
    ground.fill(part).await?;
    let before = memory(&ground).await?;
    ground.fill(shape.size.live).await?;
    let bytes_per_allocation = (memory(&ground).await? - before) / f64::from(shape.size.live - part);
    let ground = ground.restart(RARELY).await?;
    let (left, tail) = make_tail(ground, shape.tail_mib << 20).await?;
    let Tail { bytes: tail_bytes, revisions, unfed } = tail;
    let (mut recovery_seconds, mut others) = (Vec::new(), Vec::new());
    for sample in 0..samples {
        let copy = dir.join(format!("copy-{sample}"));
        copy_folder(&cell, &copy)?;
        let again = left.check(&copy, Serving::usual()).await?;
        recovery_seconds.push(again.seconds);
        others.push(again.cores_of_others);
        std::fs::remove_dir_all(&copy)?;
        if interrupt::asked() {
            break;
        }
    }
    let cores_of_others = cores_of_all(&others);
    Ok(Measured { bytes_per_allocation, tail_bytes, revisions, unfed, recovery_seconds, cores_of_others })
}

/// Bytes that the server has for each machine: what it has more with many of them than with few. Both cells have the same load afterwards, so
/// that all tables with a bound are full of the same: a part of the load would leave the newest batches short of theirs.
async fn machines(options: &Run, dir: &Path) -> anyhow::Result<Vec<f64>> {
    let [few, many] = FEW_AND_MANY;
    let mut samples = Vec::new();
    for _ in 0..if options.quick { 1 } else { 5 } {
        let mut of_few_and_many = [0.0; 2];
        for (machines, bytes) in [few, many].into_iter().zip(&mut of_few_and_many) {
            let dir = dir.join("cell");
            let (size, serving) = (Size { machines, live: LIVE }, Serving::resting_soon());
            let mut ground = Ground::empty(&dir, size, serving, options.seed).await?;
            ground.fill(LIVE).await?;
            *bytes = memory(&ground).await?;
            drop(ground.kill().await?);
            std::fs::remove_dir_all(dir)?;
        }
        let [of_few, of_many] = of_few_and_many;
        let bytes = (of_many - of_few) / f64::from(many - few);
        say(&format!("{bytes:.0} bytes a machine"));
        samples.push(bytes);
        if interrupt::asked() {
            break;
        }
    }
    Ok(samples)
}

/// The server's memory when nothing is under way: those who work beside a load rest meanwhile.
async fn memory(ground: &Ground) -> anyhow::Result<f64> {
    let revision = async || {
        cell::history_caught_up(ground.address()).await?;
        Ok(cell::status(ground.address()).await?.revision)
    };
    Ok(number(at_rest(revision, async || ground.memory_bytes().await).await?))
}

/// What was measured while the cell stood still, which the revision tells: the first measurements may come while others end what they do.
async fn at_rest(
    mut revision: impl AsyncFnMut() -> anyhow::Result<u64>,
    mut measure: impl AsyncFnMut() -> anyhow::Result<u64>,
) -> anyhow::Result<u64> {
    for _ in 0..LOOKS_MAX {
        let before = revision().await?;
        let measured = measure().await?;
        if revision().await? == before {
            return Ok(measured);
        }
    }
    bail!("expected a cell at rest, but something happened each of the {LOOKS_MAX} times that its memory was measured")
}

/// What a killed cell has behind its checkpoint.
struct Tail {
    bytes: u64,
    revisions: u64,
    /// Revisions that the history had not got yet.
    unfed: u64,
}

/// Loads the cell until so much has been written into its log, and kills it. Gives what must be found.
async fn make_tail(mut ground: Ground, bytes: u64) -> anyhow::Result<(Left, Tail)> {
    let log_bytes = async |ground: &Ground| Counts::of(ground.address()).await?.log_bytes();
    let revision = async |ground: &Ground| anyhow::Ok(cell::status(ground.address()).await?.revision);
    let (bytes_before, revision_before) = (log_bytes(&ground).await?, revision(&ground).await?);
    let (running, pacer) = open_loop::begin(&mut ground, RATE).await?;
    while log_bytes(&ground).await? < bytes_before + bytes {
        ground.wait(&running, LOOK).await?;
    }
    drop(pacer);
    ground.end_before_its_history(running).await?;
    let bytes = log_bytes(&ground).await? - bytes_before;
    let status = cell::status(ground.address()).await?;
    let unfed = status.revision.saturating_sub(status.history_revision);
    let tail = Tail { bytes, revisions: status.revision - revision_before, unfed };
    Ok((ground.kill().await?, tail))
}

/// Copies a folder with all that is in it, durably; the copy is in the page cache then.
fn copy_folder(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir(to).with_context(|| format!("cannot make {}", to.display()))?;
    for entry in std::fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy_folder(&source, &target)?;
        } else {
            std::fs::copy(&source, &target).with_context(|| format!("cannot copy {}", source.display()))?;
            // A server that is killed leaves what it synced; to write a copy would be none of the next one's work.
            let written = std::fs::File::open(&target).and_then(|file| file.sync_all());
            written.with_context(|| format!("cannot sync {}", target.display()))?;
        }
    }
    Ok(())
}

impl Measured {
    fn figures(self, shape: Shape, file_system: &str) -> anyhow::Result<Vec<Figure>> {
        let all = [
            ("machines", json!(shape.size.machines)),
            ("live_allocations", json!(shape.size.live)),
            ("log_bytes_behind_the_checkpoint", json!(self.tail_bytes)),
            ("revisions_behind_the_checkpoint", json!(self.revisions)),
            ("revisions_that_the_history_lacks", json!(self.unfed)),
            ("file_system", json!(file_system)),
            (
                "recovery_seconds",
                json!(
                    "from the start of the process until it serves and tells its address, which is looked for every 5 ms; its files are in the page cache"
                ),
            ),
            ("bytes", json!(BYTES)),
            ("cores_of_others", json!(self.cores_of_others)),
            ("checked", json!("live allocations of each recovered cell are exactly the acknowledged ones")),
        ];
        let parameters = by_name(all);
        let name = shape.name();
        let case = Case { suite: NAME, case: &name, parameters };
        let bytes = case.figure("bytes_per_allocation", "B", Better::Lower, vec![self.bytes_per_allocation])?;
        let seconds = case.figure("recovery_seconds", "s", Better::Lower, self.recovery_seconds)?;
        Ok(std::iter::once(seconds).chain(bytes.if_told()).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn memory_counts_that_was_measured_while_nothing_happened() {
        // The first measurement has a revision within it, the second one has none.
        let revisions = Cell::new([7, 8, 8, 8].iter());
        let next = async || {
            let mut left = revisions.take();
            let revision = left.next().copied().context("asked too often");
            revisions.set(left);
            revision
        };
        let measured = Cell::new(0);
        let count = async || {
            measured.set(measured.get() + 1);
            Ok(measured.get())
        };
        assert_eq!(at_rest(next, count).await.unwrap(), 2);

        let busy = Cell::new(0);
        let moves = async || Ok(busy.replace(busy.get() + 1));
        assert!(at_rest(moves, async || Ok(1)).await.is_err(), "a cell that never rests has no such figure");
    }

    #[test]
    fn how_busy_others_were_stands_beside_the_seconds() {
        let cores_of_others = cores_of_all(&[0.0, 0.25, 0.05]);
        let recovery_seconds = vec![1.0, 2.0, 1.5];
        let measured = Measured {
            bytes_per_allocation: 50.0,
            tail_bytes: 1,
            revisions: 1,
            unfed: 0,
            recovery_seconds,
            cores_of_others,
        };
        let figures = measured.figures(QUICK, "ext4").unwrap();
        assert_eq!(
            (figures[0].metric.as_str(), &figures[0].parameters["cores_of_others"]),
            ("recovery_seconds", &json!(0.1))
        );
    }

    #[test]
    fn a_folder_is_copied_whole() {
        let folder = tempfile::tempdir().unwrap();
        let from = folder.path().join("from");
        std::fs::create_dir_all(from.join("inner/deeper")).unwrap();
        std::fs::write(from.join("one"), "1").unwrap();
        std::fs::write(from.join("inner/deeper/two"), "2").unwrap();
        let to = folder.path().join("to");
        copy_folder(&from, &to).unwrap();
        assert_eq!(std::fs::read_to_string(to.join("inner/deeper/two")).unwrap(), "2");
        assert_eq!(std::fs::read_to_string(to.join("one")).unwrap(), "1");
        assert!(copy_folder(&from, &to).is_err(), "what is there is not overwritten");
    }
}

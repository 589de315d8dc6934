//! `MapReduce` jobs as SWIM publishes them (Chen, Ganapathi, Griffith and Katz, MASCOTS 2011): one line a job, without names of columns:
//! job, submission, gap to the job before, bytes of map input, of shuffle and of reduce output.

use std::path::Path;

use super::table::{Flaw, Layout, Row, Seen, Table};
use super::work::{Trace, TraceJob, resources, whole_micros};

const COLUMNS: [&str; 6] = ["job", "submit_s", "gap_s", "map_bytes", "shuffle_bytes", "reduce_bytes"];

/// A map task reads one block: the block size of Hadoop's file system when these traces were recorded.
pub(crate) const BLOCK_BYTES: u64 = 64 << 20;

/// What a task gets through in a second, where the trace tells bytes only: a disk of those years, shared by two.
const TASK_BYTES_PER_SECOND: u64 = 32 << 20;

/// Nothing runs shorter: starting a worker took seconds.
const TASK_SECONDS_MIN: u64 = 5;

/// Map tasks of one job: larger inputs are read in larger blocks.
const TASKS_MAX: u64 = 10_000;

/// A line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MapReduceJob {
    pub(crate) name: String,
    pub(crate) submit_s: u64,
    pub(crate) map_bytes: u64,
    pub(crate) shuffle_bytes: u64,
    pub(crate) reduce_bytes: u64,
}

/// Reads a file of SWIM's.
///
/// # Errors
/// A file that is none, with the place; a gap that does not lead from one submission to the next, too.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<MapReduceJob>> {
    read_table(Table::open(path, &Layout::tabs(&COLUMNS))?)
}

fn read_table(mut table: Table) -> anyhow::Result<Vec<MapReduceJob>> {
    let mut jobs: Vec<MapReduceJob> = Vec::new();
    let mut seen = Seen::default();
    while let Some(row) = table.next()? {
        row.once("job", &mut seen)?;
        let before = jobs.last().map_or(0, |job| job.submit_s);
        jobs.push(job(&row, before)?);
    }
    Ok(jobs)
}

fn job(row: &Row<'_>, before: u64) -> Result<MapReduceJob, Flaw> {
    let submit_s = row.whole("submit_s", 0..=10_000_000_000)?;
    let gap_s = row.whole("gap_s", 0..=10_000_000_000)?;
    if before + gap_s != submit_s {
        let least = submit_s.checked_sub(before);
        let expected = least.map_or_else(
            || format!("submissions in order, with {before} s before"),
            |gap| format!("{gap}, from {before} s to {submit_s} s"),
        );
        return Err(row.wrong("gap_s", &expected));
    }
    let bytes = |column: &str| row.whole(column, 0..=1 << 60);
    Ok(MapReduceJob {
        name: row.text("job")?.to_owned(),
        submit_s,
        map_bytes: bytes("map_bytes")?,
        shuffle_bytes: bytes("shuffle_bytes")?,
        reduce_bytes: bytes("reduce_bytes")?,
    })
}

impl MapReduceJob {
    /// Map tasks: one for each block.
    pub(crate) fn maps(&self) -> u32 {
        let blocks = self.map_bytes.div_ceil(BLOCK_BYTES).clamp(1, TASKS_MAX);
        u32::try_from(blocks).expect("at most TASKS_MAX")
    }

    /// How long one of them runs, when all that the job reads and writes is divided among them.
    pub(crate) fn task_seconds(&self) -> u64 {
        let bytes = self.map_bytes.saturating_add(self.shuffle_bytes).saturating_add(self.reduce_bytes);
        (bytes / u64::from(self.maps()) / TASK_BYTES_PER_SECOND).max(TASK_SECONDS_MIN)
    }
}

/// The jobs as work: a task for each block, each of one core and 1 GiB.
pub(crate) fn trace(name: &str, jobs: &[MapReduceJob]) -> Trace {
    let trace_job = |job: &MapReduceJob| TraceJob {
        name: job.name.clone(),
        user: String::new(),
        class: String::new(),
        submit_micros: whole_micros(job.submit_s),
        run_micros: Some(whole_micros(job.task_seconds())),
        estimate_micros: None,
        tasks: job.maps(),
        each: resources(1000, 1 << 30, 0),
        gang: false,
        asks: None,
    };
    let mut trace = Trace::new(name, jobs.iter().map(trace_job).collect());
    trace.assumed.push(format!(
        "the trace tells bytes only: a task for each {} MiB of input (at most {TASKS_MAX}), one core and 1 GiB each, {} MiB/s of all bytes \
         a task, at least {TASK_SECONDS_MIN} s",
        BLOCK_BYTES >> 20,
        TASK_BYTES_PER_SECOND >> 20
    ));
    trace
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> anyhow::Result<Vec<MapReduceJob>> {
        let source = std::io::Cursor::new(text.as_bytes().to_vec());
        read_table(Table::read(source, "jobs.tsv", &Layout::tabs(&COLUMNS))?)
    }

    #[test]
    fn a_map_task_reads_a_block_and_small_jobs_still_take_seconds() {
        let jobs = read_text("a\t7\t7\t200000000\t0\t0\nb\t9\t2\t10\t0\t5\n").unwrap();
        let seen: Vec<_> = jobs.iter().map(|job| (job.maps(), job.task_seconds())).collect();
        assert_eq!(seen, [(3, 5), (1, 5)]);
        let work = trace("t", &jobs);
        assert_eq!((work.jobs[1].submit_micros, work.assumed.len()), (9_000_000, 1));
    }

    #[test]
    fn gaps_lead_from_one_submission_to_the_next() {
        let error = read_text("a\t7\t7\t1\t0\t0\nb\t9\t3\t1\t0\t0\n").unwrap_err().to_string();
        assert_eq!(error, "jobs.tsv, line 2, column 3 (gap_s): expected 2, from 7 s to 9 s, found \"3\"");
        let error = read_text("a\t7\t7\t1\t0\t0\nb\t5\t3\t1\t0\t0\n").unwrap_err().to_string();
        assert_eq!(
            error,
            "jobs.tsv, line 2, column 3 (gap_s): expected submissions in order, with 7 s before, found \"3\""
        );
    }
}

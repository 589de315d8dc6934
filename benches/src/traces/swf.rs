//! Logs of parallel machines in the Standard Workload Format, version 2.2 (Feitelson and others,
//! <https://www.cs.huji.ac.il/labs/parallel/workload/swf.html>): 18 fields a job, -1 where nothing is known, remarks behind `;`.

use std::path::Path;

use super::table::{Flaw, Layout, Row, Seen, Table};
use super::work::{MachineClass, Trace, TraceJob, resources, whole_micros};

const COLUMNS: [&str; 18] = [
    "job",
    "submit_s",
    "wait_s",
    "run_s",
    "allocated_processors",
    "cpu_s",
    "used_kb",
    "requested_processors",
    "requested_s",
    "requested_kb",
    "status",
    "user",
    "group",
    "executable",
    "queue",
    "partition",
    "preceding_job",
    "think_s",
];

/// Beyond any log: three centuries.
const SECONDS_MAX: u64 = 10_000_000_000;
const PROCESSORS_MAX: u64 = 10_000_000;
const KB_MAX: u64 = 1 << 40;

/// A line of a log: what the harness uses of it. `None` where the log has -1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SwfJob {
    pub(crate) number: u64,
    pub(crate) submit_s: u64,
    pub(crate) run_s: Option<u64>,
    pub(crate) processors: Option<u64>,
    pub(crate) requested_processors: Option<u64>,
    pub(crate) requested_s: Option<u64>,
    /// Of one processor, in KB: what was asked for, or else what was used.
    pub(crate) kb: Option<u64>,
    pub(crate) user: Option<u64>,
    pub(crate) queue: Option<u64>,
}

/// A log.
pub(crate) struct Log {
    pub(crate) jobs: Vec<SwfJob>,
    /// From the header, where it tells.
    pub(crate) nodes: Option<u32>,
    pub(crate) processors: Option<u32>,
}

/// Reads a log.
///
/// # Errors
/// A file that is no such log, with the place.
pub(crate) fn read(path: &Path) -> anyhow::Result<Log> {
    read_table(Table::open(path, &Layout::blanks(&COLUMNS, b';'))?)
}

fn read_table(mut table: Table) -> anyhow::Result<Log> {
    let mut jobs = Vec::new();
    let mut seen = Seen::default();
    while let Some(row) = table.next()? {
        row.once("job", &mut seen)?;
        jobs.push(job(&row)?);
    }
    let remark = |name: &str| {
        table
            .remarks()
            .iter()
            .find_map(|remark| remark.strip_prefix(name)?.trim().parse::<u32>().ok())
            .filter(|n| *n > 0)
    };
    Ok(Log { nodes: remark("MaxNodes:"), processors: remark("MaxProcs:"), jobs })
}

fn job(row: &Row<'_>) -> Result<SwfJob, Flaw> {
    let known = |column: &str, most: u64| known(row, column, most);
    // Looked at, so that a log of other columns does not pass, and not kept: -1 to 5, parts of seconds, and numbers.
    row.number_in("status", -1.0..=5.0)?;
    row.number_in("cpu_s", -1.0..=1e12)?;
    for column in ["wait_s", "think_s"] {
        known(column, SECONDS_MAX)?;
    }
    for column in ["group", "executable", "partition", "preceding_job"] {
        known(column, u64::from(u32::MAX))?;
    }
    let (used, requested) = (known("used_kb", KB_MAX)?, known("requested_kb", KB_MAX)?);
    Ok(SwfJob {
        number: row.whole("job", 0..=u64::MAX)?,
        submit_s: row.whole("submit_s", 0..=SECONDS_MAX)?,
        run_s: known("run_s", SECONDS_MAX)?,
        processors: known("allocated_processors", PROCESSORS_MAX)?,
        requested_processors: known("requested_processors", PROCESSORS_MAX)?,
        requested_s: known("requested_s", SECONDS_MAX)?,
        kb: requested.or(used),
        user: known("user", u64::from(u32::MAX))?,
        queue: known("queue", u64::from(u32::MAX))?,
    })
}

/// A number, or -1 for what nobody knows.
fn known(row: &Row<'_>, column: &str, most: u64) -> Result<Option<u64>, Flaw> {
    if row.maybe_text(column) == Some("-1") {
        return Ok(None);
    }
    row.whole(column, 0..=most).map(Some).map_err(|_| row.wrong(column, &format!("a whole number to {most}, or -1")))
}

/// A log as a trace: each processor is a task of one core, and all of a job start together.
pub(crate) fn trace(name: &str, log: &Log) -> Trace {
    let mut left_out = std::collections::BTreeMap::new();
    let mut jobs = Vec::new();
    for job in &log.jobs {
        let processors = job.requested_processors.or(job.processors).unwrap_or(0);
        let reason = match (processors, job.run_s) {
            (0, _) => "no processors",
            (_, None) => "no run time",
            (_, Some(0)) => "a run time of 0 s",
            (_, Some(run_s)) => {
                jobs.push(trace_job(job, processors, run_s));
                continue;
            }
        };
        *left_out.entry(reason).or_default() += 1;
    }
    let mut trace = Trace { left_out, ..Trace::new(name, jobs) };
    trace.machines = log.machines();
    trace
}

fn trace_job(job: &SwfJob, processors: u64, run_s: u64) -> TraceJob {
    let number = |number: Option<u64>, of: &str| number.map_or_else(String::new, |number| format!("{of}{number}"));
    TraceJob {
        name: job.number.to_string(),
        user: number(job.user, "user-"),
        class: number(job.queue, "queue-"),
        submit_micros: whole_micros(job.submit_s),
        run_micros: Some(whole_micros(run_s)),
        estimate_micros: job.requested_s.filter(|seconds| *seconds > 0).map(whole_micros),
        tasks: u32::try_from(processors).expect("bounded where it was read"),
        each: resources(1000, job.kb.unwrap_or(0) << 10, 0),
        gang: true,
        asks: None,
    }
}

impl Log {
    /// The machines that the header names, where its numbers go into each other. Their memory is not told: it is as much as can be, so that
    /// only processors count.
    fn machines(&self) -> Vec<MachineClass> {
        let Some(processors) = self.processors else { return Vec::new() };
        let nodes = self.nodes.filter(|nodes| processors.is_multiple_of(*nodes)).unwrap_or(processors);
        let capacity = resources(u64::from(processors / nodes) * 1000, plenum_model::AMOUNT_MAX, 0);
        vec![MachineClass { name: "node".to_owned(), count: nodes, capacity, attributes: Vec::new() }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> anyhow::Result<Log> {
        let source = std::io::Cursor::new(text.as_bytes().to_vec());
        read_table(Table::read(source, "log.swf", &Layout::blanks(&COLUMNS, b';'))?)
    }

    /// Made up: two jobs that can run, one that was never started, and one that nobody knows the length of.
    const LOG: &str = "\
; MaxNodes: 4
; MaxProcs: 8
  1    0  5  100  2  99.5  -1   2  200 1000  1  3  1 -1  1 -1 -1 -1
  2   10  5   -1  2    -1  -1   2  200   -1 -1  3  1 -1  1 -1 -1 -1
  3   10  5   50 -1    -1  -1  -1  200   -1  0  4  1 -1  1 -1 -1 -1
  4   10  5   50  4    -1  -1  -1   -1   -1  0 -1  1 -1 -1 -1 -1 -1
";

    #[test]
    fn each_processor_is_a_task_and_what_cannot_run_is_counted() {
        let trace = trace("log", &read_text(LOG).unwrap());
        let seen: Vec<_> = trace.jobs.iter().map(|job| (job.name.as_str(), job.tasks, job.user.as_str())).collect();
        assert_eq!(seen, [("1", 2, "user-3"), ("4", 4, "")]);
        assert_eq!(trace.jobs[0].each.memory_bytes, 1_024_000);
        assert_eq!((trace.jobs[0].estimate_micros, trace.jobs[1].estimate_micros), (Some(200_000_000), None));
        assert_eq!(trace.left_out.into_iter().collect::<Vec<_>>(), [("no processors", 1), ("no run time", 1)]);
    }

    #[test]
    fn the_header_tells_the_machines() {
        let machines = trace("log", &read_text(LOG).unwrap()).machines;
        assert_eq!((machines[0].count, machines[0].capacity.cpu_millis), (4, 2000));
    }

    #[test]
    fn negative_times_and_repeated_jobs_are_refused_with_their_line() {
        let negative = LOG.replacen("  3   10", "  3  -10", 1);
        let error = read_text(&negative).err().unwrap().to_string();
        assert_eq!(
            error,
            "log.swf, line 5, column 2 (submit_s): expected a whole number from 0 to 10000000000, found \"-10\""
        );
        let negative = LOG.replacen("5  100", "5  -100", 1);
        let error = read_text(&negative).err().unwrap().to_string();
        assert!(
            error.contains("column 4 (run_s): expected a whole number to 10000000000, or -1, found \"-100\""),
            "{error}"
        );
        let twice = LOG.replacen("  4   10", "  3   10", 1);
        let error = read_text(&twice).err().unwrap().to_string();
        assert!(
            error.starts_with("log.swf, line 6, column 1 (job): expected a value that no other row has (line 5"),
            "{error}"
        );
    }

    #[test]
    fn a_line_that_was_cut_is_refused() {
        let error = read_text("1 0 5 100\n").err().unwrap().to_string();
        assert!(error.starts_with("log.swf, line 1: expected 18 fields (job, submit_s, "), "{error}");
    }
}

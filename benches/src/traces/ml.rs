//! Jobs of machine learning: what is left of Microsoft's Philly trace (Jeon and others, ATC 2019) in other people's repositories, and a summary of
//! five GPU clusters (Hu and others, NSDI 2024) to hold generators against.

use std::path::Path;

use super::table::{Flaw, Layout, Row, Seen, Table};
use super::work::{Trace, TraceJob, resources, whole_micros};

/// GPUs of the largest machines of that cluster: a job of more gets several.
const GPUS_PER_MACHINE: u64 = 8;

const SECONDS_MAX: u64 = 10_000_000_000;

/// A job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MlJob {
    pub(crate) id: u64,
    pub(crate) tenant: String,
    pub(crate) submit_s: u64,
    pub(crate) gpus: u64,
    pub(crate) duration_s: u64,
}

const PHILLY: [&str; 4] = ["job_id", "submit_s", "gpus", "duration_s"];
const CHRONUS: [&str; 5] = ["job_id", "tenant", "submit_min", "gpus", "duration_min"];

/// Jobs of one virtual cluster, in seconds.
///
/// # Errors
/// A file that is none, with the place.
pub(crate) fn read_philly(path: &Path) -> anyhow::Result<Vec<MlJob>> {
    jobs(Table::open(path, &Layout::commas(&PHILLY, &[]))?, &|row| {
        let seconds = |column| row.whole(column, 0..=SECONDS_MAX);
        Ok((String::new(), seconds("submit_s")?, seconds("duration_s")?))
    })
}

/// Jobs of several tenants, in minutes.
///
/// # Errors
/// As [`read_philly`].
pub(crate) fn read_chronus(path: &Path) -> anyhow::Result<Vec<MlJob>> {
    jobs(Table::open(path, &Layout::commas(&CHRONUS, &[]))?, &|row| {
        let seconds = |column| Ok::<_, Flaw>(row.whole(column, 0..=SECONDS_MAX / 60)? * 60);
        Ok((row.text("tenant")?.to_owned(), seconds("submit_min")?, seconds("duration_min")?))
    })
}

type Times = (String, u64, u64);

fn jobs(mut table: Table, times: &dyn Fn(&Row<'_>) -> Result<Times, Flaw>) -> anyhow::Result<Vec<MlJob>> {
    let mut jobs = Vec::new();
    let mut seen = Seen::default();
    while let Some(row) = table.next()? {
        row.once("job_id", &mut seen)?;
        let (tenant, submit_s, duration_s) = times(&row)?;
        let (id, gpus) = (row.whole("job_id", 0..=u64::MAX)?, row.whole("gpus", 1..=100_000)?);
        jobs.push(MlJob { id, tenant, submit_s, gpus, duration_s });
    }
    Ok(jobs)
}

/// The jobs as work: up to eight GPUs are one task, more are several that start together.
pub(crate) fn trace(name: &str, jobs: &[MlJob]) -> Trace {
    let trace_job = |job: &MlJob| {
        // As many tasks as the largest machines make it, of equal size where that is possible.
        let most = GPUS_PER_MACHINE.min(job.gpus);
        let each = (1..=most).rev().find(|each| job.gpus.is_multiple_of(*each)).unwrap_or(1);
        TraceJob {
            name: job.id.to_string(),
            user: job.tenant.clone(),
            class: String::new(),
            submit_micros: whole_micros(job.submit_s),
            run_micros: Some(whole_micros(job.duration_s.max(1))),
            estimate_micros: None,
            tasks: u32::try_from(job.gpus / each).expect("bounded where it was read"),
            each: resources(each * CPU_PER_GPU_MILLIS, each * MEMORY_PER_GPU_BYTES, each),
            gang: true,
            asks: None,
        }
    };
    let mut trace = Trace::new(name, jobs.iter().map(trace_job).collect());
    trace.assumed.push(format!(
        "the trace tells GPUs only: {} cores and {} GiB for each",
        CPU_PER_GPU_MILLIS / 1000,
        MEMORY_PER_GPU_BYTES >> 30
    ));
    trace
}

/// What a job gets beside each GPU, where the trace does not tell: an eighth of a usual machine of eight.
const CPU_PER_GPU_MILLIS: u64 = 4000;
const MEMORY_PER_GPU_BYTES: u64 = 32 << 30;

/// Reads the sorted run times of all jobs, in seconds.
///
/// # Errors
/// A file that is none, with the place; a run time below the one before, too.
pub(crate) fn read_runtimes(path: &Path) -> anyhow::Result<Vec<f64>> {
    let mut table = Table::open(path, &Layout::commas(&["runtime"], &[]))?;
    let mut runtimes: Vec<f64> = Vec::new();
    while let Some(row) = table.next()? {
        let least = runtimes.last().copied().unwrap_or(0.0);
        let runtime = row.number_in("runtime", 0.0..=1e10)?;
        if runtime < least {
            return Err(row.wrong("runtime", &format!("run times that rise, with {least} before")).into());
        }
        runtimes.push(runtime);
    }
    Ok(runtimes)
}

/// One of the clusters that are compared. What a cluster does not tell is `None`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CellSummary {
    pub(crate) name: String,
    pub(crate) gpu_jobs: u64,
    pub(crate) mean_run_s: Option<f64>,
    pub(crate) median_run_s: Option<f64>,
    pub(crate) mean_gpus: Option<f64>,
}

const SUMMARY: [&str; 6] = ["id", "gpu_job_num", "avg_run_time_gpu", "med_run_time_gpu", "avg_gpu_num", "job_num"];
const SUMMARY_MORE: [&str; 22] = [
    "cpu_job_num",
    "avg_que_time_gpu",
    "med_que_time_gpu",
    "med_gpu_num",
    "max_run_time_gpu",
    "max_gpu",
    "complete_rate_gpu",
    "cancel_rate_gpu",
    "fail_rate_gpu",
    "complete_gpu_time",
    "cancel_gpu_time",
    "fail_gpu_time",
    "complete_rate_gpu_time",
    "cancel_rate_gpu_time",
    "fail_rate_gpu_time",
    "avg_run_time_cpu",
    "avg_que_time_cpu",
    "med_run_time_cpu",
    "med_que_time_cpu",
    "complete_rate_cpu",
    "cancel_rate_cpu",
    "fail_rate_cpu",
];

/// Reads the summary.
///
/// # Errors
/// A file that is none, with the place.
pub(crate) fn read_summary(path: &Path) -> anyhow::Result<Vec<CellSummary>> {
    let mut table = Table::open(path, &Layout::commas(&SUMMARY, &SUMMARY_MORE))?;
    let mut cells = Vec::new();
    let mut seen = Seen::default();
    while let Some(row) = table.next()? {
        row.once("id", &mut seen)?;
        for column in SUMMARY_MORE {
            row.maybe_number_in(column, 0.0..=1e15)?;
        }
        cells.push(CellSummary {
            name: row.text("id")?.to_owned(),
            gpu_jobs: row.whole("gpu_job_num", 0..=row.whole("job_num", 0..=u64::MAX)?)?,
            mean_run_s: row.maybe_number_in("avg_run_time_gpu", 0.0..=1e12)?,
            median_run_s: row.maybe_number_in("med_run_time_gpu", 0.0..=1e12)?,
            mean_gpus: row.maybe_number_in("avg_gpu_num", 0.0..=1e6)?,
        });
    }
    Ok(cells)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn jobs_of_more_gpus_than_a_machine_has_are_several_tasks() {
        let file = file("job_id,submit_s,gpus,duration_s\n1,5,4,60\n2,6,32,60\n3,7,12,60\n");
        let work = trace("p", &read_philly(file.path()).unwrap());
        let seen: Vec<_> = work.jobs.iter().map(|job| (job.tasks, job.each.custom[0])).collect();
        assert_eq!(seen, [(1, 4), (4, 8), (2, 6)]);
    }

    #[test]
    fn minutes_are_told_from_seconds_by_their_column() {
        let minutes = file("job_id,tenant,submit_min,gpus,duration_min\n1,a,2,1,3\n");
        assert_eq!(read_chronus(minutes.path()).unwrap()[0].duration_s, 180);
        let error = read_philly(minutes.path()).unwrap_err().to_string();
        assert!(error.contains("line 1, column 2 (tenant): expected one of the columns"), "{error}");
        let seconds = file("job_id,tenant,submit_s,gpus,duration_min\n1,a,2,1,3\n");
        let error = read_chronus(seconds.path()).unwrap_err().to_string();
        assert!(error.contains("column 3 (submit_s): expected submit_min, which says its unit"), "{error}");
    }

    #[test]
    fn run_times_that_fall_were_not_sorted() {
        let error = read_runtimes(file("runtime\n1\n3\n2\n").path()).unwrap_err().to_string();
        assert!(
            error.ends_with("line 4, column 1 (runtime): expected run times that rise, with 3 before, found \"2\""),
            "{error}"
        );
    }
}

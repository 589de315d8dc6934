//! One's own jobs and machines, in plain CSV. The columns are described in docs/traces.md; each says its unit in its name.

use std::path::Path;

use plenum_model::{AMOUNT_MAX, CPU_MILLIS_MAX, Resources};

use super::table::{Flaw, Layout, Row, Seen, Table};
use super::work::{MachineClass, Trace, TraceJob, micros, resources};

/// Columns of jobs that must be there.
pub(crate) const JOB_COLUMNS: [&str; 6] = ["job", "submit_s", "run_s", "tasks", "cpu_millis", "memory_mib"];
const JOB_MORE: [&str; 6] = ["gpus", "disk_mib", "user", "class", "estimate_s", "gang"];

/// Columns of machines that must be there.
pub(crate) const MACHINE_COLUMNS: [&str; 4] = ["class", "count", "cpu_millis", "memory_mib"];
const MACHINE_MORE: [&str; 2] = ["gpus", "disk_mib"];

/// Three centuries, in seconds.
const SECONDS_MAX: f64 = 1e10;
const TASKS_MAX: u64 = 1_000_000;

/// Reads jobs.
///
/// # Errors
/// A file of other columns or values, with the place.
pub(crate) fn read_jobs(path: &Path, name: &str) -> anyhow::Result<Trace> {
    let mut table = Table::open(path, &Layout::commas(&JOB_COLUMNS, &JOB_MORE))?;
    let mut jobs = Vec::new();
    let mut seen = Seen::default();
    while let Some(row) = table.next()? {
        row.once("job", &mut seen)?;
        jobs.push(job(&row)?);
    }
    Ok(Trace::new(name, jobs))
}

fn job(row: &Row<'_>) -> Result<TraceJob, Flaw> {
    let text = |column: &str| row.maybe_text(column).unwrap_or_default().to_owned();
    let seconds = |column: &str, least: f64| row.maybe_number_in(column, least..=SECONDS_MAX);
    let gang = match row.maybe_text("gang") {
        None | Some("no") => false,
        Some("yes") => true,
        Some(_) => return Err(row.wrong("gang", "yes or no")),
    };
    Ok(TraceJob {
        name: row.text("job")?.to_owned(),
        user: text("user"),
        class: text("class"),
        submit_micros: micros(row.number_in("submit_s", 0.0..=SECONDS_MAX)?),
        run_micros: seconds("run_s", 1e-6)?.map(micros),
        estimate_micros: seconds("estimate_s", 1e-6)?.map(micros),
        tasks: u32::try_from(row.whole("tasks", 1..=TASKS_MAX)?).expect("at most a million"),
        each: amounts(row)?,
        gang,
        asks: None,
    })
}

/// Reads classes of machines.
///
/// # Errors
/// A file of other columns or values, with the place.
pub(crate) fn read_machines(path: &Path) -> anyhow::Result<Vec<MachineClass>> {
    let mut table = Table::open(path, &Layout::commas(&MACHINE_COLUMNS, &MACHINE_MORE))?;
    let mut classes = Vec::new();
    let mut seen = Seen::default();
    while let Some(row) = table.next()? {
        row.once("class", &mut seen)?;
        let count = u32::try_from(row.whole("count", 1..=TASKS_MAX)?).expect("at most a million");
        classes.push(MachineClass {
            name: row.text("class")?.to_owned(),
            count,
            capacity: amounts(&row)?,
            attributes: Vec::new(),
        });
    }
    Ok(classes)
}

fn amounts(row: &Row<'_>) -> Result<Resources, Flaw> {
    let mib = |column: &str| row.maybe_whole(column, 0..=AMOUNT_MAX >> 20).map(|mib| mib.unwrap_or(0) << 20);
    let gpus = row.maybe_whole("gpus", 0..=10_000)?.unwrap_or(0);
    let memory_bytes = row.whole("memory_mib", 0..=AMOUNT_MAX >> 20)? << 20;
    let mut amounts = resources(row.whole("cpu_millis", 0..=CPU_MILLIS_MAX)?, memory_bytes, gpus);
    amounts.disk_bytes = mib("disk_mib")?;
    Ok(amounts)
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
    fn the_least_columns_are_enough_and_the_others_are_understood() {
        let trace =
            read_jobs(file("job,submit_s,run_s,tasks,cpu_millis,memory_mib\na,1.5,,2,500,64\n").path(), "t").unwrap();
        let job = &trace.jobs[0];
        assert_eq!((job.submit_micros, job.run_micros, job.tasks, job.gang), (1_500_000, None, 2, false));
        let more = "job,submit_s,run_s,tasks,cpu_millis,memory_mib,gpus,disk_mib,user,class,estimate_s,gang\n\
                    a,0,9,2,500,64,1,10,ann,ml,20,yes\n";
        let job = read_jobs(file(more).path(), "t").unwrap().jobs.remove(0);
        assert_eq!((job.user.as_str(), job.class.as_str(), job.gang), ("ann", "ml", true));
        assert_eq!((job.each.custom[0], job.each.disk_bytes, job.estimate_micros), (1, 10 << 20, Some(20_000_000)));
    }

    #[test]
    fn jobs_are_in_the_order_of_their_submission() {
        let text = "job,submit_s,run_s,tasks,cpu_millis,memory_mib\nb,2,1,1,1,1\na,1,1,1,1,1\nc,2,1,1,1,1\n";
        let names: Vec<_> = read_jobs(file(text).path(), "t").unwrap().jobs.into_iter().map(|job| job.name).collect();
        assert_eq!(names, ["a", "b", "c"]);
    }

    #[test]
    fn amounts_in_another_unit_and_strange_words_are_refused() {
        let error = read_machines(file("class,count,cpu_cores,memory_mib\na,1,4,1\n").path()).unwrap_err().to_string();
        assert!(error.contains("column 3 (cpu_cores): expected cpu_millis, which says its unit"), "{error}");
        let text = "job,submit_s,run_s,tasks,cpu_millis,memory_mib,gang\nb,2,1,1,1,1,maybe\n";
        let error = read_jobs(file(text).path(), "t").unwrap_err().to_string();
        assert!(error.ends_with("line 2, column 7 (gang): expected yes or no, found \"maybe\""), "{error}");
    }
}

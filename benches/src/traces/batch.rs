//! Batch tasks of Alibaba's cluster trace of 2017 (github.com/alibaba/clusterdata), in the short form that simulators use: a line for each
//! task, with its number of equal instances.

use std::path::Path;

use super::table::{Layout, Seen, Table};
use super::work::{MachineClass, Trace, TraceJob, memory_of_part, micros, resources, thousandths, whole_micros};

const COLUMNS: [&str; 7] = ["job_id", "task_id", "submit_s", "instances", "cpu_cores", "mem_frac", "duration_s"];

/// Machines of that trace, and their cores.
const MACHINES: u32 = 1313;
const CORES: u64 = 64;

/// A line.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct BatchTask {
    pub(crate) job: u64,
    pub(crate) task: u64,
    pub(crate) submit_s: u64,
    pub(crate) instances: u32,
    /// Of one instance.
    pub(crate) cpu_cores: f64,
    /// Of one instance, as a part of the largest machine.
    pub(crate) memory_part: f64,
    /// Of one instance, on average.
    pub(crate) duration_s: f64,
}

/// Reads such a file.
///
/// # Errors
/// A file that is none, with the place.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<BatchTask>> {
    read_table(Table::open(path, &Layout::commas(&COLUMNS, &[]))?)
}

fn read_table(mut table: Table) -> anyhow::Result<Vec<BatchTask>> {
    let mut tasks = Vec::new();
    let mut seen = Seen::default();
    while let Some(row) = table.next()? {
        row.once_together(&["job_id", "task_id"], &mut seen)?;
        tasks.push(BatchTask {
            job: row.whole("job_id", 0..=u64::MAX)?,
            task: row.whole("task_id", 0..=u64::MAX)?,
            submit_s: row.whole("submit_s", 0..=10_000_000_000)?,
            instances: u32::try_from(row.whole("instances", 1..=1_000_000)?).expect("at most a million"),
            cpu_cores: row.number_in("cpu_cores", 0.0..=1000.0)?,
            memory_part: row.number_in("mem_frac", 0.0..=1.0)?,
            duration_s: row.number_in("duration_s", 0.0..=1e9)?,
        });
    }
    Ok(tasks)
}

/// The tasks as work: each line is a job whose instances start as they find room. What comes after what is not told.
pub(crate) fn trace(name: &str, tasks: &[BatchTask]) -> Trace {
    let trace_job = |task: &BatchTask| TraceJob {
        name: format!("{}/{}", task.job, task.task),
        user: String::new(),
        class: String::new(),
        submit_micros: whole_micros(task.submit_s),
        run_micros: Some(micros(task.duration_s).max(1)),
        estimate_micros: None,
        tasks: task.instances,
        each: resources(thousandths(task.cpu_cores), memory_of_part(task.memory_part), 0),
        gang: false,
        asks: None,
    };
    let mut trace = Trace::new(name, tasks.iter().map(trace_job).collect());
    let capacity = resources(CORES * 1000, memory_of_part(1.0), 0);
    trace.machines = vec![MachineClass { name: "node".to_owned(), count: MACHINES, capacity, attributes: Vec::new() }];
    trace.assumed.push(format!(
        "the trace tells parts of a machine's memory only: all of it is taken for {} GiB",
        capacity.memory_bytes >> 30
    ));
    trace
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> anyhow::Result<Vec<BatchTask>> {
        read_table(Table::read(
            std::io::Cursor::new(text.as_bytes().to_vec()),
            "b.csv",
            &Layout::commas(&COLUMNS, &[]),
        )?)
    }

    const HEAD: &str = "job_id,task_id,submit_s,instances,cpu_cores,mem_frac,duration_s\n";

    #[test]
    fn a_line_is_a_job_of_equal_instances() {
        let tasks = read_text(&format!("{HEAD}1,1,5,3,0.5,0.25,1.5\n1,2,6,1,1,0.5,2\n")).unwrap();
        let trace = trace("b", &tasks);
        let job = &trace.jobs[0];
        assert_eq!((job.tasks, job.each.cpu_millis, job.each.memory_bytes), (3, 500, 1 << 36));
        assert_eq!((job.run_micros, job.gang), (Some(1_500_000), false));
        assert!(trace.assumed[0].ends_with("all of it is taken for 256 GiB"), "{:?}", trace.assumed);
    }

    #[test]
    fn a_task_that_stands_twice_and_a_part_above_one_are_refused() {
        let error = read_text(&format!("{HEAD}1,1,5,3,0.5,0.25,1.5\n1,1,6,1,1,0.5,2\n")).unwrap_err().to_string();
        assert!(
            error
                .starts_with("b.csv, line 3, column 1 (job_id): expected job_id,task_id that no other row has (line 2"),
            "{error}"
        );
        let error = read_text(&format!("{HEAD}1,1,5,3,0.5,25,1.5\n")).unwrap_err().to_string();
        assert_eq!(error, "b.csv, line 2, column 6 (mem_frac): expected a number from 0 to 1, found \"25\"");
    }
}

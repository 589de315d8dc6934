//! Services of Alibaba's GPU trace of 2025 (github.com/alibaba/clusterdata): instances of applications for recommendation models, on nodes with CPUs
//! (role CN) and nodes with GPUs (role HN).

use std::path::Path;

use super::table::{Flaw, Layout, Row, Seen, Table};
use super::work::{Trace, TraceJob, resources, whole_micros};

const COLUMNS: [&str; 12] = [
    "instance",
    "app",
    "role",
    "cpu_cores",
    "gpus",
    "rdma_pct",
    "mem_gib",
    "disk_gib",
    "max_per_node",
    "created_s",
    "scheduled_s",
    "deleted_s",
];

/// The custom resource that counts percents of a network card.
const RDMA: usize = 1;

/// An instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Instance {
    pub(crate) id: u64,
    pub(crate) app: String,
    /// A node with CPUs (`CN`), or with GPUs (`HN`).
    pub(crate) role: String,
    pub(crate) cpu_cores: u64,
    pub(crate) gpus: u64,
    pub(crate) rdma_percent: u64,
    pub(crate) memory_gib: u64,
    pub(crate) disk_gib: u64,
    /// Most instances of its application on one node; `None` for any.
    pub(crate) max_per_node: Option<u64>,
    /// `None`: before the trace began.
    pub(crate) created_s: Option<u64>,
    /// `None`: after the trace ended.
    pub(crate) deleted_s: Option<u64>,
}

/// Reads such a file.
///
/// # Errors
/// A file that is none, with the place; an instance that is deleted before it was created, too.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<Instance>> {
    let mut table = Table::open(path, &Layout::commas(&COLUMNS, &[]))?;
    let mut instances = Vec::new();
    let mut seen = Seen::default();
    while let Some(row) = table.next()? {
        row.once("instance", &mut seen)?;
        instances.push(instance(&row)?);
    }
    Ok(instances)
}

fn instance(row: &Row<'_>) -> Result<Instance, Flaw> {
    let whole = |column: &str| row.whole(column, 0..=1_000_000);
    let time = |column: &str| row.maybe_whole(column, 0..=10_000_000_000);
    let (created_s, scheduled_s, deleted_s) = (time("created_s")?, time("scheduled_s")?, time("deleted_s")?);
    for (column, later) in [("scheduled_s", scheduled_s), ("deleted_s", deleted_s)] {
        if let (Some(created), Some(later)) = (created_s, later)
            && later < created
        {
            return Err(row.wrong(column, &format!("a time from {created} on, when it was created")));
        }
    }
    let role = row.text("role")?;
    if !matches!(role, "CN" | "HN") {
        return Err(row.wrong("role", "CN or HN"));
    }
    let max_per_node = if row.maybe_text("max_per_node") == Some("-1") {
        None
    } else {
        Some(row.whole("max_per_node", 1..=1_000_000)?)
    };
    Ok(Instance {
        id: row.whole("instance", 0..=u64::MAX)?,
        app: row.text("app")?.to_owned(),
        role: role.to_owned(),
        cpu_cores: whole("cpu_cores")?,
        gpus: whole("gpus")?,
        rdma_percent: whole("rdma_pct")?,
        memory_gib: whole("mem_gib")?,
        disk_gib: whole("disk_gib")?,
        max_per_node,
        created_s,
        deleted_s,
    })
}

/// The instances as work: each is a job of one task, that was there from the beginning where nothing else is told.
pub(crate) fn trace(name: &str, instances: &[Instance]) -> Trace {
    let trace_job = |instance: &Instance| {
        let mut each = resources(instance.cpu_cores * 1000, instance.memory_gib << 30, instance.gpus);
        each.disk_bytes = instance.disk_gib << 30;
        each.custom[RDMA] = instance.rdma_percent;
        let created = instance.created_s.unwrap_or(0);
        TraceJob {
            name: instance.id.to_string(),
            user: instance.app.clone(),
            class: instance.role.clone(),
            submit_micros: whole_micros(created),
            run_micros: instance.deleted_s.map(|deleted| whole_micros((deleted - created).max(1))),
            estimate_micros: None,
            tasks: 1,
            each,
            gang: false,
            asks: None,
        }
    };
    let mut trace = Trace::new(name, instances.iter().map(trace_job).collect());
    trace.assumed.push("limits of instances for each node are not kept: a task here is a job of its own".to_owned());
    trace
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "instance,app,role,cpu_cores,gpus,rdma_pct,mem_gib,disk_gib,max_per_node,created_s,scheduled_s,deleted_s\n";

    fn read_text(rows: &str) -> anyhow::Result<Vec<Instance>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("{HEAD}{rows}")).unwrap();
        read(file.path())
    }

    #[test]
    fn an_instance_runs_from_its_creation_to_its_deletion() {
        let instances = read_text("0,a,HN,12,1,25,120,640,8,,,\n1,a,CN,8,0,1,16,80,-1,10,12,30\n").unwrap();
        let work = trace("s", &instances);
        let seen: Vec<_> =
            work.jobs.iter().map(|job| (job.submit_micros, job.run_micros, job.each.custom[0])).collect();
        assert_eq!(seen, [(0, None, 1), (10_000_000, Some(20_000_000), 0)]);
    }

    #[test]
    fn nothing_is_deleted_before_it_was_created() {
        let error = read_text("1,a,CN,8,0,1,16,80,-1,10,12,9\n").unwrap_err().to_string();
        assert!(
            error.ends_with(
                "line 2, column 12 (deleted_s): expected a time from 10 on, when it was created, found \"9\""
            ),
            "{error}"
        );
    }
}

//! A live cell as a trace: the machines of a backup, and what runs and waits there, as jobs that are all submitted at once and never end.
//!
//! For asking what would fit on other machines. It asks about room alone: constraints, spread and limits a machine are not kept, which the report
//! says.

use std::path::Path;

use plenum_model::{CUSTOM_RESOURCES, Cell, Device, MachineState, Resources, TaskState};

use super::work::{GPUS, MachineClass, Trace, TraceJob};

/// Reads a file that `plenum backup` wrote.
///
/// # Errors
/// When it is none, or damaged.
pub(crate) fn read(path: &Path) -> anyhow::Result<Trace> {
    let cell = plenum_server::read_backup(path)?;
    let name = path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
    let trace = of_cell(&name, &cell);
    anyhow::ensure!(!trace.machines.is_empty(), "{}: expected machines that take claims, found none", path.display());
    anyhow::ensure!(!trace.jobs.is_empty(), "{}: expected tasks that run or wait, found none", path.display());
    Ok(trace)
}

/// The machines that take claims, alike ones together, and a job for each group with tasks that run or wait.
fn of_cell(name: &str, cell: &Cell) -> Trace {
    let mut machines: Vec<MachineClass> = Vec::new();
    for machine in cell.machines().filter(|machine| machine.state == MachineState::Ready) {
        let capacity = with_gpus(&machine.capacity, &machine.devices);
        match machines.iter_mut().find(|class| class.capacity == capacity) {
            Some(class) => class.count += 1,
            None => machines.push(MachineClass { name: format!("shape-{}", machines.len() + 1), count: 1, capacity }),
        }
    }
    let mut jobs = Vec::new();
    for job in cell.jobs().filter(|job| !job.state.is_final()) {
        for (number, shape) in (0_u16..).zip(&job.shape.groups) {
            let Some(row) = cell.group(job, number) else { continue };
            let tasks =
                [TaskState::Waiting, TaskState::Live, TaskState::Blocked].map(|state| row.tasks_in(state)).iter().sum();
            if tasks > 0 {
                jobs.push(TraceJob {
                    name: format!("{}/{}/{}", job.shape.namespace, job.shape.name, shape.name),
                    user: job.shape.namespace.to_string(),
                    class: job.shape.scheduler.to_string(),
                    submit_micros: 0,
                    run_micros: None,
                    estimate_micros: None,
                    tasks,
                    each: with_gpus(&shape.resources, &shape.devices),
                    gang: false,
                });
            }
        }
    }
    let mut trace = Trace { machines, ..Trace::new(name, jobs) };
    trace.assumed.push(
        "a live cell is judged by room alone: every task is placed anew, and constraints, spread, ports and limits a machine are not kept; \
         parts of a GPU count as a whole one; groups that wait for others count as if they ran"
            .to_owned(),
    );
    trace
}

/// The cell's own resources one place further, behind the GPUs, of which there may be parts. The last place of a cell's own is given up.
fn with_gpus(amount: &Resources, devices: &[Device]) -> Resources {
    let millis: u64 =
        devices.iter().filter(|device| &*device.kind == "gpu").map(|device| u64::from(device.millis)).sum();
    let mut moved = *amount;
    moved.custom[GPUS + 1..].copy_from_slice(&amount.custom[GPUS..CUSTOM_RESOURCES - 1]);
    moved.custom[GPUS] = millis.div_ceil(1000);
    moved
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::{Ground, placing::Placing};
    use crate::traces::work::resources;

    #[test]
    fn what_runs_and_what_waits_is_asked_about_and_what_is_over_is_not() {
        let class = MachineClass { name: "node".into(), count: 3, capacity: resources(4000, 1 << 30, 0) };
        let mut ground = Ground::new(&[class], Placing::named("best-fit", None).unwrap()).unwrap();
        let job = |name: &str, tasks: u32| TraceJob {
            name: name.into(),
            user: String::new(),
            class: String::new(),
            submit_micros: 0,
            run_micros: None,
            estimate_micros: None,
            tasks,
            each: resources(1000, 1 << 20, 0),
            gang: false,
        };
        let (kept, over) = (job("kept", 5), job("over", 1));
        let id = ground.submit(&kept, 0).unwrap();
        let machines = ground.choose(&kept.each, 3);
        ground.claim(id, 0, &kept.each, &machines, 0).unwrap();
        let id = ground.submit(&over, 0).unwrap();
        let machines = ground.choose(&over.each, 1);
        let running = ground.claim(id, 0, &over.each, &machines, 0).unwrap();
        ground.end(&running, &over.each, 1).unwrap();
        let trace = of_cell("backup", ground.cell());
        let jobs: Vec<_> = trace.jobs.iter().map(|job| (job.name.as_str(), job.tasks)).collect();
        assert_eq!(jobs, [("replay/kept/main", 5)]);
        assert_eq!(
            (trace.machines.len(), trace.machines[0].count, trace.machines[0].capacity.cpu_millis),
            (1, 3, 4000)
        );
    }

    #[test]
    fn parts_of_a_gpu_count_as_a_whole_one_and_named_resources_move_behind() {
        let gpu = |millis| Device { kind: "gpu".into(), index: 0, millis, model: "".into() };
        let mut amount = Resources::new(1000, 1);
        amount.custom[0] = 7;
        let moved = with_gpus(&amount, &[gpu(1000), gpu(250)]);
        assert_eq!((moved.custom[0], moved.custom[1]), (2, 7));
    }

    #[test]
    fn a_file_that_is_no_backup_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "job,submit_s\n").unwrap();
        assert!(format!("{:#}", read(file.path()).unwrap_err()).contains("is no backup"));
    }
}

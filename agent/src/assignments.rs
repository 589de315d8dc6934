//! Assignments from the wire, checked, as what the reconciler and the driver work with.

use std::{collections::BTreeMap, sync::Arc};

use plenum_model::{AllocationId, AllocationState, JobId, MachineId};
use plenum_proto::v1;

use crate::{
    driver::TaskSpec,
    reconciler::{Assignment, Input, RestartPolicy, Work},
    traces::Traces,
};

/// Variables by name.
type Variables = BTreeMap<String, String>;

/// What each task has besides what the cell says.
#[derive(Clone, Debug)]
pub struct Defaults {
    /// The machine's name.
    pub machine: String,
    /// Limit of processes and threads of a task; 0: none.
    pub pids_max: u32,
}

/// Reads one message of the stream of this machine and epoch. What can't be run becomes an assignment that says so;
/// what has no id is left out.
#[must_use]
pub fn read(machine: MachineId, epoch: u32, message: v1::Assignments, defaults: &Defaults) -> Input {
    let wanted = message.wanted.into_iter().filter_map(|wire| {
        let assignment = read_one(wire, defaults);
        if assignment.is_none() {
            tracing::error!("the cell assigned an allocation without an id: left out");
        }
        assignment
    });
    Input::Assignments {
        machine,
        epoch,
        revision: message.revision,
        full: message.full,
        wanted: wanted.collect(),
        stop: message.stop.into_iter().filter_map(AllocationId::from_bits).collect(),
        keep: message.keep.into_iter().filter_map(AllocationId::from_bits).collect(),
    }
}

fn read_one(wire: v1::Assignment, defaults: &Defaults) -> Option<Assignment> {
    let allocation = AllocationId::from_bits(wire.allocation)?;
    Some(Assignment {
        allocation,
        // An id that is none can't be waited for, and must not be ignored either.
        takes_over: wire.takes_over.iter().map(|&bits| AllocationId::from_bits(bits).unwrap_or_default()).collect(),
        may_start: wire.state() == v1::AllocationState::Granted,
        work: work(allocation, wire, defaults).map(Arc::new),
    })
}

fn work(allocation: AllocationId, wire: v1::Assignment, defaults: &Defaults) -> Result<Work, String> {
    let job = JobId::from_bits(wire.job_id).ok_or("the cell sent no id of its job")?;
    let body = wire.body.as_ref().ok_or("the cell sent no command")?;
    if !matches!(body.driver.as_str(), "" | "exec") {
        return Err(format!("driver {:?} is not there yet: this agent has exec", body.driver));
    }
    if body.command.first().is_none_or(String::is_empty) {
        return Err("the command is empty: expected a program and its arguments".to_owned());
    }
    let resources = wire.resources.as_ref().ok_or("the cell sent no resources")?;
    let amount =
        |what: &str, value: i64| u64::try_from(value).map_err(|_| format!("{what} is {value}: expected 0 or more"));
    let cpu_millis = amount("cpu_millis", resources.cpu_millis)?;
    let memory_bytes = amount("memory_bytes", resources.memory_bytes)?;
    let task = TaskSpec {
        allocation,
        restart: 0,
        job,
        job_version: wire.job_version,
        command: body.command.clone(),
        env: environment(allocation, &wire, body, resources, &defaults.machine),
        cpu_millis,
        memory_bytes,
        pids_max: defaults.pids_max,
        kill_timeout_ms: millis("kill_timeout_micros", body.kill_timeout_micros)?,
        traces: Some(Box::new(Traces::of(&wire))),
        policy: None,
        recent_restarts_at: Vec::new(),
    };
    let restart = match &body.restart {
        None => RestartPolicy::default(),
        Some(policy) => RestartPolicy {
            attempts: policy.attempts,
            delay_ms: millis("restart.delay_micros", policy.delay_micros)?,
            within_ms: millis("restart.within_micros", policy.within_micros)?,
        },
    };
    Ok(Work { task, restart })
}

/// Rounded up, so that a wait that was asked for never becomes none.
fn millis(what: &str, micros: i64) -> Result<u64, String> {
    u64::try_from(micros)
        .map(|micros| micros.div_ceil(1000))
        .map_err(|_| format!("{what} is {micros}: expected 0 or more"))
}

/// What the job gives, and over it what only the agent knows. The driver adds the two directories.
fn environment(
    allocation: AllocationId,
    wire: &v1::Assignment,
    body: &v1::GroupBody,
    resources: &v1::Resources,
    machine: &str,
) -> Variables {
    let mut variables: Variables = body.env.clone().into_iter().collect();
    // A job can't pretend to be another one.
    variables.retain(|name, _| !name.starts_with("PLENUM_"));
    let ports = wire.ports.iter().map(|port| (variable("PORT", &port.name), port.number.to_string()));
    let own = [
        ("PLENUM_ALLOC_ID", allocation.to_string()),
        ("PLENUM_ATTEMPT", wire.attempt.to_string()),
        ("PLENUM_CPU_MILLIS", resources.cpu_millis.to_string()),
        ("PLENUM_GROUP", wire.group.clone()),
        ("PLENUM_GROUP_COUNT", wire.group_count.to_string()),
        ("PLENUM_JOB", wire.job.clone()),
        ("PLENUM_MACHINE", machine.to_owned()),
        ("PLENUM_MEMORY_BYTES", resources.memory_bytes.to_string()),
        ("PLENUM_NAMESPACE", wire.namespace.clone()),
        ("PLENUM_TASK_INDEX", wire.task.to_string()),
    ];
    variables.extend(own.map(|(name, value)| (name.to_owned(), value)).into_iter().chain(ports));
    for device in &wire.devices {
        // In the order of the group's list: positions among the machine's devices of that kind, and how much of each.
        let each = [("DEVICES", device.index.to_string()), ("DEVICE_MILLIS", device.millis.to_string())];
        for (what, value) in each {
            let all = variables.entry(variable(what, &device.kind)).or_default();
            let comma = if all.is_empty() { "" } else { "," };
            *all = format!("{all}{comma}{value}");
        }
    }
    variables
}

/// The variable in which a task finds the positions of its devices of this kind. Kinds that differ only in `-`, `_`, `.`
/// and the size of letters share it, so that a task could not tell them apart: no machine may offer two of these.
#[must_use]
pub fn devices_variable(kind: &str) -> String {
    variable("DEVICES", kind)
}

/// `PLENUM_<WHAT>_<NAME>`: large letters, digits, and `_` for everything else.
fn variable(what: &str, name: &str) -> String {
    let letters =
        name.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter.to_ascii_uppercase() } else { '_' });
    format!("PLENUM_{what}_{}", letters.collect::<String>())
}

// Other states than granted say that there was a start; the reconciler then looks for its trace.
const _: () = assert!(AllocationState::Granted as i32 == v1::AllocationState::Granted as i32);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn wire() -> v1::Assignment {
        v1::Assignment {
            allocation: AllocationId { slot: 4, generation: 2 }.to_bits(),
            namespace: "default".to_owned(),
            job: "word-count".to_owned(),
            job_id: JobId { slot: 1, generation: 1 }.to_bits(),
            job_version: 3,
            group: "map".to_owned(),
            task: 7,
            attempt: 1,
            resources: Some(v1::Resources {
                cpu_millis: 500,
                memory_bytes: 1 << 26,
                disk_bytes: 0,
                custom: Vec::new(),
            }),
            body: Some(v1::GroupBody {
                name: "map".to_owned(),
                driver: "exec".to_owned(),
                command: vec!["/bin/true".to_owned()],
                env: [("LC_ALL", "C"), ("PLENUM_JOB", "another")].map(|(a, b)| (a.to_owned(), b.to_owned())).into(),
                restart: Some(v1::RestartPolicy { attempts: 2, delay_micros: 1, within_micros: 5_000_000 }),
                kill_timeout_micros: 10_000_000,
                image: String::new(),
            }),
            ports: vec![v1::Port { name: "http-admin".to_owned(), number: 8080 }],
            devices: [1, 3]
                .map(|index| v1::Device { kind: "gpu".to_owned(), index, millis: 1000, model: String::new() })
                .into(),
            state: v1::AllocationState::Granted.into(),
            group_count: 8,
            every_end_fails: false,
            ..v1::Assignment::default()
        }
    }

    fn work_of(wire: v1::Assignment) -> Result<Work, String> {
        let defaults = Defaults { machine: "m1".to_owned(), pids_max: 64 };
        read_one(wire, &defaults).unwrap().work.map(|work| (*work).clone())
    }

    #[test]
    fn a_task_gets_what_the_interface_promises() {
        let work = work_of(wire()).unwrap();
        let value = |name: &str| work.task.env.get(name).map(String::as_str);
        assert_eq!(value("PLENUM_JOB"), Some("word-count"), "a job's own PLENUM_ variables don't count");
        assert_eq!(value("PLENUM_ALLOC_ID"), Some("alloc-4-2"));
        assert_eq!(value("PLENUM_TASK_INDEX"), Some("7"));
        assert_eq!(value("PLENUM_PORT_HTTP_ADMIN"), Some("8080"));
        assert_eq!(value("PLENUM_DEVICES_GPU"), Some("1,3"));
        assert_eq!(value("PLENUM_DEVICE_MILLIS_GPU"), Some("1000,1000"));
        assert_eq!(value("PLENUM_CPU_MILLIS"), Some("500"));
        assert_eq!(value("PLENUM_MEMORY_BYTES"), Some("67108864"));
        assert_eq!((value("PLENUM_GROUP"), value("PLENUM_GROUP_COUNT")), (Some("map"), Some("8")));
        assert_eq!((value("PLENUM_MACHINE"), value("PLENUM_NAMESPACE")), (Some("m1"), Some("default")));
        assert_eq!(value("PLENUM_ATTEMPT"), Some("1"));
        assert_eq!(value("LC_ALL"), Some("C"));
        assert_eq!(work.task.job_version, 3);
        assert_eq!((work.task.kill_timeout_ms, work.restart.delay_ms, work.restart.within_ms), (10_000, 1, 5000));
    }

    #[test]
    fn what_can_not_be_run_says_why() {
        let body = |change: fn(&mut v1::GroupBody)| {
            let mut wire = wire();
            change(wire.body.as_mut().unwrap());
            work_of(wire).unwrap_err()
        };
        assert!(body(|body| body.driver = "oci".to_owned()).contains("\"oci\" is not there yet"));
        assert!(body(|body| body.command.clear()).contains("the command is empty"));
        assert!(body(|body| body.kill_timeout_micros = -1).contains("kill_timeout_micros is -1"));
        let negative = v1::Resources { cpu_millis: -5, ..v1::Resources::default() };
        assert!(
            work_of(v1::Assignment { resources: Some(negative), ..wire() }).unwrap_err().contains("cpu_millis is -5")
        );
        assert_eq!(work_of(v1::Assignment { body: None, ..wire() }), Err("the cell sent no command".to_owned()));
    }

    #[test]
    fn an_assignment_without_an_id_is_left_out() {
        let defaults = Defaults { machine: "m1".to_owned(), pids_max: 64 };
        assert_eq!(read_one(v1::Assignment { allocation: 0, ..wire() }, &defaults), None);
    }
}

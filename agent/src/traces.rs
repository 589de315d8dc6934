//! What an agent keeps of where a task comes from: for a cell that does not know it any more, as after a restore.

use plenum_model::{AllocationId, TaskTraces};
use plenum_proto::v1;
use serde::{Deserialize, Serialize};

use crate::reconciler::Status;

/// What the cell said of an allocation that is not needed to start it. Amounts as the cell sent them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traces {
    /// Its job's namespace.
    pub namespace: String,
    /// Its job's name.
    pub job: String,
    /// Its group's name.
    pub group: String,
    /// Its index.
    pub task: u32,
    /// Thousandths of a core.
    pub cpu_millis: i64,
    /// Bytes of memory.
    pub memory_bytes: i64,
    /// Bytes of disk.
    pub disk_bytes: i64,
    /// Units of the resources that the cell named.
    pub custom: Vec<i64>,
    /// Kind, index, thousandths and model of its devices.
    pub devices: Vec<(String, u32, i32, String)>,
    /// Its ports.
    pub ports: Vec<(String, u32)>,
    /// It is to run for ever: a restart follows also an end with code 0. Not written by agents that did not know that.
    #[serde(default)]
    pub every_end_fails: bool,
}

impl Traces {
    /// What is kept of an assignment.
    pub(crate) fn of(wire: &v1::Assignment) -> Self {
        let resources = wire.resources.clone().unwrap_or_default();
        let device = |device: &v1::Device| (device.kind.clone(), device.index, device.millis, device.model.clone());
        Self {
            namespace: wire.namespace.clone(),
            job: wire.job.clone(),
            group: wire.group.clone(),
            task: wire.task,
            cpu_millis: resources.cpu_millis,
            memory_bytes: resources.memory_bytes,
            disk_bytes: resources.disk_bytes,
            custom: resources.custom,
            devices: wire.devices.iter().map(device).collect(),
            ports: wire.ports.iter().map(|port| (port.name.clone(), port.number)).collect(),
            every_end_fails: wire.every_end_fails,
        }
    }

    fn to_wire(&self) -> v1::TaskTraces {
        let resources = v1::Resources {
            cpu_millis: self.cpu_millis,
            memory_bytes: self.memory_bytes,
            disk_bytes: self.disk_bytes,
            custom: self.custom.clone(),
        };
        let device = |(kind, index, millis, model): &(String, u32, i32, String)| v1::Device {
            kind: kind.clone(),
            index: *index,
            millis: *millis,
            model: model.clone(),
        };
        v1::TaskTraces {
            namespace: self.namespace.clone(),
            job: self.job.clone(),
            group: self.group.clone(),
            task_index: self.task,
            resources: Some(resources),
            devices: self.devices.iter().map(device).collect(),
            ports: self.ports.iter().map(|(name, number)| v1::Port { name: name.clone(), number: *number }).collect(),
        }
    }
}

/// An allocation that is here, for a registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Which.
    pub allocation: AllocationId,
    /// Where it stands.
    pub status: Status,
    /// Where it comes from, where that is known.
    pub traces: Option<Box<Traces>>,
}

impl Item {
    /// As the protocol has it. Traces that break its rules are left out, such as those that were damaged on the disk and can be read all the same: the
    /// registration of a whole machine would be refused for them.
    #[must_use]
    pub fn to_wire(&self) -> v1::InventoryItem {
        let traces = self.traces.as_ref().map(|traces| traces.to_wire());
        v1::InventoryItem {
            allocation: self.allocation.to_bits(),
            // The numbers are the same on both sides.
            state: i32::from(self.status.state as u8),
            exit_code: self.status.exit_code,
            reason: self.status.reason.to_string(),
            restarts: self.status.restarts,
            task: traces.filter(|traces| TaskTraces::try_from(traces.clone()).is_ok()),
        }
    }
}

#[cfg(test)]
mod tests {
    use plenum_model::AllocationState;

    use super::*;

    // One bit of a name had flipped on the disk. The cell refused the whole registration, again and again, and lost all tasks of the machine.
    #[test]
    fn traces_that_were_damaged_are_left_out_of_a_registration() {
        let named = |namespace: &str, job: &str, group: &str| {
            let [namespace, job, group] = [namespace, job, group].map(str::to_owned);
            Traces { namespace, job, group, ..Traces::default() }
        };
        let told = |traces: &Traces| {
            let (state, reason) = (AllocationState::Running, "".into());
            let status = Status { state, ready: true, exit_code: 0, reason, restarts: 0 };
            let allocation = AllocationId { slot: 1, generation: 1 };
            Item { allocation, status, traces: Some(Box::new(traces.clone())) }.to_wire().task
        };
        let sound = named("default", "web", "main");
        assert_eq!(told(&sound), Some(sound.to_wire()));
        let damaged = [
            Traces::default(),
            named("dEfault", "web", "main"),
            named("default", "wEb", "main"),
            named("default", "web", ""),
            Traces { memory_bytes: -1, ..sound.clone() },
            Traces { ports: vec![("http".to_owned(), 1 << 20)], ..sound },
        ];
        for traces in damaged {
            assert_eq!(told(&traces), None, "{traces:?}");
        }
    }
}

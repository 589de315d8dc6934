//! Allocations, as listed and as read by programs.

use plenum_model::{AllocationId, MachineId, SessionId, TransactionId};
use plenum_proto::v1::{AllocationState, AllocationView};
use serde_json::{Value, json};

use super::{Row, ago, json_time, or_dash, or_null, quantity};

/// An allocation's id, as people write it.
pub(crate) fn allocation_id(bits: u64) -> String {
    AllocationId::from_bits(bits).map_or_else(|| "-".to_owned(), |id| id.to_string())
}

/// A transaction's id, as people write it.
pub(super) fn transaction_id(session: u64, number: u64) -> String {
    TransactionId { session: SessionId(session), number }.to_string()
}

/// A machine's id, as people write it.
pub(super) fn machine_id(bits: u64) -> String {
    MachineId::from_bits(bits).map_or_else(|| "-".to_owned(), |id| id.to_string())
}

/// The state's name. Lost before and after the receipt have the same.
pub(super) fn state_name(state: AllocationState) -> &'static str {
    match state {
        AllocationState::Unspecified => "unknown",
        AllocationState::Granted => "granted",
        AllocationState::Starting => "starting",
        AllocationState::Running => "running",
        AllocationState::Stopping | AllocationState::Evicting => "stopping",
        AllocationState::Lost | AllocationState::EndedLost => "lost",
        AllocationState::Complete => "complete",
        AllocationState::Failed => "failed",
        AllocationState::Stopped => "stopped",
        AllocationState::Evicted => "evicted",
    }
}

/// True while it occupies room.
pub(super) fn is_live(state: AllocationState) -> bool {
    use AllocationState::{Evicting, Granted, Lost, Running, Starting, Stopping};
    matches!(state, Granted | Starting | Running | Stopping | Evicting | Lost)
}

impl Row for AllocationView {
    fn titles() -> (&'static [&'static str], &'static [&'static str]) {
        (
            &["ID", "JOB", "TASK", "MACHINE", "STATE", "ATTEMPT", "RESTARTS", "EXIT", "AGE"],
            &["NAMESPACE", "SCHEDULER", "RESOURCES", "TRANSACTION", "REVISION", "REASON"],
        )
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.name(),
            self.job.clone(),
            format!("{}[{}]", self.group, self.task),
            or_dash(&self.machine),
            state_name(self.state()).to_owned(),
            self.attempt.to_string(),
            self.restarts.to_string(),
            if is_live(self.state()) { "-".to_owned() } else { self.exit_code.to_string() },
            ago(self.created_micros),
            self.namespace.clone(),
            or_dash(&self.scheduler),
            quantity::short_resources(self.resources.as_ref()),
            transaction_id(self.session, self.number),
            self.created_revision.to_string(),
            or_dash(&self.reason),
        ]
    }

    fn to_json(&self) -> Value {
        let is_live = is_live(self.state());
        let mut object = json!({
            "id": self.name(),
            "namespace": self.namespace,
            "job": self.job,
            "job_version": self.job_version,
            "group": self.group,
            "task_index": self.task,
            "attempt": self.attempt,
            "machine": self.machine,
            "machine_id": machine_id(self.machine_id),
            "epoch": self.epoch,
            "scheduler": self.scheduler,
            "state": state_name(self.state()),
            "ready": self.ready,
            "restarts": self.restarts,
            "resources": quantity::json_resources(self.resources.as_ref()),
            "transaction": transaction_id(self.session, self.number),
            "created_revision": self.created_revision,
            "created_at": json_time(self.created_micros),
            "exit_code": if is_live { Value::Null } else { json!(self.exit_code) },
            "reason": or_null(&self.reason),
            "ended_revision": if self.ended_revision == 0 { Value::Null } else { json!(self.ended_revision) },
            "ended_at": json_time(self.ended_micros),
        });
        if !self.ports.is_empty() {
            let ports = self.ports.iter().map(|port| (port.name.clone(), json!(port.number)));
            object["ports"] = Value::Object(ports.collect());
        }
        object
    }

    fn name(&self) -> String {
        allocation_id(self.id)
    }
}

//! Allocations, as listed and as read by programs.

use plenum_model::{AllocationId, MachineId, SessionId, TransactionId, counted};
use plenum_proto::v1::{AllocationState, AllocationView, Port};
use serde_json::{Value, json};

use super::{Row, ago, device, json_time, or_dash, or_null, quantity, revision_or_null, seen::seen_from_micros};

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

/// What it ended with. The wire has 0 also where nothing could be told: of a task that failed or is lost, nobody saw an end that had a code.
pub(crate) fn exit_code(allocation: &AllocationView) -> Option<i32> {
    let is_unknown = match allocation.state() {
        // Its machine may have told of an end that came too late to count.
        AllocationState::Failed | AllocationState::EndedLost => allocation.exit_code == 0,
        state => is_live(state),
    };
    (!is_unknown).then_some(allocation.exit_code)
}

/// Why it failed, in the agent's words, which of a task that runs for ever may be with exit code 0; of one that did not, how often it was restarted.
pub(crate) fn failure_words(allocation: &AllocationView) -> String {
    if !matches!(allocation.state(), AllocationState::Failed | AllocationState::Complete) {
        return format!("restarted {}", counted(allocation.restarts.into(), "time"));
    }
    let reason = match allocation.reason.as_str() {
        "" => format!("exit code {}", allocation.exit_code),
        reason => reason.to_owned(),
    };
    if reason.starts_with("command not found") {
        return format!("{reason}; `plenum explain COMMAND_NOT_FOUND` tells more");
    }
    reason
}

/// Those on whose room it was granted and who still leave it: it is started once they have ended. None where it is not to be started any more.
pub(crate) fn waits_for(allocation: &AllocationView) -> Vec<String> {
    use AllocationState::{Granted, Running, Starting};
    if !matches!(allocation.state(), Granted | Starting | Running) {
        return Vec::new();
    }
    allocation.take_overs.iter().map(|entry| allocation_id(entry.victim)).collect()
}

/// The state, and whether nobody hears the machine, when what is told of it is what was heard last; or whether the task is down until its agent starts it
/// again, to which programs have `ready`.
fn state_words(allocation: &AllocationView) -> String {
    let state = allocation.state();
    let name = state_name(state);
    if allocation.unreachable_micros > 0 {
        format!("{name} (unreachable)")
    } else if state == AllocationState::Running && !allocation.ready {
        format!("{name} (down)")
    } else {
        name.to_owned()
    }
}

/// How long its machine has been unreachable, and when it is given up; nothing where the machine is heard.
pub(crate) fn away(allocation: &AllocationView) -> Option<String> {
    let since = Some(allocation.unreachable_micros).filter(|since| *since > 0)?;
    let what = match allocation.state() {
        AllocationState::Lost => {
            "it is given up; what became of it is known once its machine is back, or removed".to_owned()
        }
        AllocationState::Stopping | AllocationState::Evicting => {
            "it is known to have ended once its machine is back, or removed".to_owned()
        }
        _ => loss_words(allocation.lost_at_micros),
    };
    Some(format!("its machine is, for {}; {what}", ago(since)))
}

/// When something is lost that is on an unreachable machine; 0: never by itself.
pub(crate) fn loss_words(lost_at_micros: i64) -> String {
    match (lost_at_micros, lost_at_micros.saturating_sub(seen_from_micros())) {
        (0, _) => "it is not given up by itself".to_owned(),
        (_, left) if left > 0 => format!("given up as lost in {} at the earliest", quantity::whole_seconds(left)),
        _ => "given up as lost as soon as neither a start of the server nor the loss of many machines at once holds that back"
            .to_owned(),
    }
}

fn ports(allocation: &AllocationView) -> String {
    or_dash(&port_names(&allocation.ports))
}

/// `http=20000, metrics=20001`
pub(super) fn port_names(ports: &[Port]) -> String {
    ports.iter().map(|port| format!("{}={}", port.name, port.number)).collect::<Vec<_>>().join(", ")
}

impl Row for AllocationView {
    fn titles() -> (&'static [&'static str], &'static [&'static str]) {
        (
            &["ID", "JOB", "TASK", "MACHINE", "STATE", "ATTEMPT", "RESTARTS", "EXIT", "AGE", "NAMESPACE"],
            &["SCHEDULER", "RESOURCES", "PORTS", "DEVICES", "TRANSACTION", "REVISION", "VERSION", "REASON"],
        )
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.name(),
            self.job.clone(),
            format!("{}[{}]", self.group, self.task),
            or_dash(&self.machine),
            state_words(self),
            self.attempt.to_string(),
            self.restarts.to_string(),
            exit_code(self).map_or_else(|| "-".to_owned(), |code| code.to_string()),
            ago(self.created_micros),
            self.namespace.clone(),
            or_dash(&self.scheduler),
            quantity::short_resources(self.resources.as_ref()),
            ports(self),
            device::names(&self.devices),
            transaction_id(self.session, self.number),
            self.created_revision.to_string(),
            self.job_version.to_string(),
            or_dash(if self.reason.is_empty() { &self.move_reason } else { &self.reason }),
        ]
    }

    fn to_json(&self) -> Value {
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
            "devices": self.devices.iter().map(device::to_json).collect::<Vec<_>>(),
            "transaction": transaction_id(self.session, self.number),
            "created_revision": self.created_revision,
            "created_at": json_time(self.created_micros),
            "exit_code": exit_code(self),
            "reason": or_null(&self.reason),
            "move_reason": or_null(&self.move_reason),
            "waits_for_allocations": waits_for(self),
            "ended_revision": revision_or_null(self.ended_revision),
            "ended_at": json_time(self.ended_micros),
            "unreachable_since": json_time(self.unreachable_micros),
            "lost_at": json_time(self.lost_at_micros),
        });
        if !self.ports.is_empty() {
            object["ports"] = quantity::json_ports(&self.ports);
        }
        object
    }

    fn name(&self) -> String {
        allocation_id(self.id)
    }
}

#[cfg(test)]
mod tests {
    use plenum_proto::v1::{Device, Resources, TakeOver};

    use super::*;

    // A task whose shim was killed, or that never started, was shown as failed with exit code 0.
    #[test]
    fn what_failed_without_an_exit_code_has_none() {
        let ended = |state: AllocationState, exit_code| {
            let view = AllocationView { state: state.into(), exit_code, ..AllocationView::default() };
            (view.cells()[7].clone(), view.to_json()["exit_code"].clone())
        };
        let none = ("-".to_owned(), Value::Null);
        assert_eq!(ended(AllocationState::Failed, 0), none);
        assert_eq!(ended(AllocationState::EndedLost, 0), none);
        assert_eq!(ended(AllocationState::Running, 0), none);
        assert_eq!(ended(AllocationState::Failed, 3), ("3".to_owned(), json!(3)));
        // Its story told of that code, and its line did not.
        assert_eq!(ended(AllocationState::EndedLost, 143), ("143".to_owned(), json!(143)));
        assert_eq!(ended(AllocationState::Complete, 0), ("0".to_owned(), json!(0)));
    }

    // What was stopped before anybody left its room was told to wait for them for as long as it was retained.
    #[test]
    fn who_is_not_started_any_more_waits_for_nobody() {
        let view = |state: AllocationState| AllocationView {
            state: state.into(),
            take_overs: vec![TakeOver { victim: 7, ..TakeOver::default() }],
            ..AllocationView::default()
        };
        assert_eq!(waits_for(&view(AllocationState::Granted)), [allocation_id(7)]);
        for over in [AllocationState::Stopping, AllocationState::Stopped, AllocationState::EndedLost] {
            assert_eq!(view(over).to_json()["waits_for_allocations"], json!([]), "{over:?}");
        }
    }

    #[test]
    fn people_see_ports_and_which_amount_is_which() {
        let port = |name: &str, number| Port { name: name.to_owned(), number };
        let resources =
            Resources { cpu_millis: 100, memory_bytes: 16 << 20, disk_bytes: 10 << 20, ..Default::default() };
        let ports = vec![port("http", 20_000), port("metrics", 20_001)];
        let view = AllocationView { ports, resources: Some(resources), ..AllocationView::default() };
        let cells = view.cells();
        assert_eq!(cells[11..13], ["cpu 100m, memory 16MiB, disk 10MiB", "http=20000, metrics=20001"]);
        assert_eq!(AllocationView::default().cells()[12], "-");
        let (narrow, wide) = AllocationView::titles();
        assert_eq!(cells.len(), narrow.len() + wide.len());
    }

    // Of a running, ready allocation it was the reason, which is that of an end: who went by it took a healthy endpoint for one that leaves.
    #[test]
    fn why_a_task_came_is_no_reason_to_leave() {
        let moved = "moved off m1, which is drained";
        let came = AllocationView { move_reason: moved.to_owned(), ..AllocationView::default() };
        let object = came.to_json();
        assert_eq!((&object["reason"], &object["move_reason"]), (&Value::Null, &json!(moved)));
        let last = |view: &AllocationView| view.cells().last().cloned();
        assert_eq!(last(&came).as_deref(), Some(moved), "people have one column for both");
        let leaves = AllocationView { reason: "the job was stopped".to_owned(), ..came };
        assert_eq!(last(&leaves).as_deref(), Some("the job was stopped"));
    }

    // Of all namespaces, two jobs of one name had rows that looked alike.
    #[test]
    fn a_list_shows_the_namespace_without_being_asked() {
        let view = AllocationView { namespace: "staging".to_owned(), ..AllocationView::default() };
        let column = AllocationView::titles().0.iter().position(|title| *title == "NAMESPACE");
        assert_eq!(column.map(|column| view.cells()[column].clone()).as_deref(), Some("staging"));
    }

    // With its machine unreachable it was said to run, and no more.
    #[test]
    fn a_task_on_an_unreachable_machine_says_so_and_when_it_is_lost() {
        super::super::look_from(60_000_000);
        let state = AllocationState::Running.into();
        let heard = AllocationView { state, ready: true, ..AllocationView::default() };
        assert_eq!((heard.cells()[4].as_str(), away(&heard)), ("running", None));
        let view = |lost_at_micros| AllocationView { unreachable_micros: 47_000_000, lost_at_micros, ..heard.clone() };
        let soon = view(107_000_000);
        assert_eq!(soon.cells()[4], "running (unreachable)");
        assert_eq!(away(&soon).unwrap(), "its machine is, for 13s; given up as lost in 47s at the earliest");
        let json = soon.to_json();
        assert_eq!((&json["state"], &json["lost_at"]), (&json!("running"), &json!("1970-01-01T00:01:47Z")));
        assert!(away(&view(0)).unwrap().ends_with("; it is not given up by itself"));
        assert!(away(&view(50_000_000)).unwrap().contains("; given up as lost as soon as "), "its time is over");
        // What was given up a minute before, or was leaving, was said to be given up by nobody.
        for state in [AllocationState::Lost, AllocationState::Stopping, AllocationState::Evicting] {
            let gone = away(&AllocationView { state: state.into(), ..view(0) }).unwrap();
            assert!(gone.ends_with("once its machine is back, or removed"), "{gone}");
        }
    }

    // It was said to run like any other, for minutes where its restarts are that far apart.
    #[test]
    fn a_task_that_waits_for_its_restart_is_down() {
        let state = |state: AllocationState, ready, unreachable_micros| {
            let view = AllocationView { state: state.into(), ready, unreachable_micros, ..AllocationView::default() };
            (view.cells()[4].clone(), view.to_json()["state"].clone())
        };
        let running = json!("running");
        assert_eq!(state(AllocationState::Running, false, 0), ("running (down)".to_owned(), running.clone()));
        assert_eq!(state(AllocationState::Running, true, 0), ("running".to_owned(), running.clone()));
        assert_eq!(state(AllocationState::Running, false, 1), ("running (unreachable)".to_owned(), running));
        assert_eq!(state(AllocationState::Starting, false, 0).0, "starting", "nothing of it ran yet");
    }

    // Whoever had a GPU could not see which, and nobody who had it.
    #[test]
    fn an_allocation_shows_its_devices() {
        let device = Device { kind: "gpu".to_owned(), index: 1, millis: 500, model: "a100".to_owned() };
        let view = AllocationView { devices: vec![device], ..AllocationView::default() };
        assert_eq!(view.cells()[13], "500m of gpu[1]");
        assert_eq!(view.to_json()["devices"], json!([{"kind": "gpu", "index": 1, "millis": 500, "model": "a100"}]));
        assert_eq!(AllocationView::default().to_json()["devices"], json!([]));
    }
}

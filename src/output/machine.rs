//! Machines, as listed and as read by programs.

use plenum_proto::v1::{MachineState, MachineView, Resources, Unfit};
use serde_json::{Value, json};

use super::{
    Row, ago, allocation::machine_id, bytes, cpu, device, json_time, noted, quantity, quantity::whole_seconds,
    seen::seen_from_micros,
};

pub(crate) fn state_name(state: MachineState) -> &'static str {
    match state {
        MachineState::Unspecified => "unknown",
        MachineState::Ready => "ready",
        MachineState::Cordoned => "cordoned",
        MachineState::Draining => "draining",
        MachineState::Unreachable => "unreachable",
        MachineState::Gone => "gone",
    }
}

/// Why a machine's agent wants no new tasks there, for programs and in words.
pub(crate) fn unfit(view: &MachineView) -> Option<(&'static str, &'static str)> {
    match view.unfit() {
        Unfit::Unspecified => None,
        Unfit::AgentLeaves => Some((
            "agent-leaves",
            "its agent was asked to end; what runs there goes on, and new tasks wait for the next agent",
        )),
        Unfit::StateUnwritable => Some((
            "state-unwritable",
            "its agent can't write its state: new tasks wait until there is room on its disk; its log tells more",
        )),
        Unfit::SetupFails => Some((
            "setup-fails",
            "its agent could not set several tasks up, one after another, or what is to end does not: `plenum alloc list --all` and its log tell why; it is tried again after a while",
        )),
    }
}

/// How many tasks are on it: a drain is at its end once there are none.
pub(crate) fn tasks_left(view: &MachineView) -> u32 {
    view.allocations.saturating_add(view.unknown_tasks)
}

/// When what is left on a machine that is drained is stopped.
pub(crate) fn when_stopped(view: &MachineView) -> String {
    let rest = view.drain_deadline_micros.saturating_sub(seen_from_micros());
    if rest > 0 { format!("stopped in {}", whole_seconds(rest)) } else { "being stopped".to_owned() }
}

/// What becomes of what is left on a machine that is drained, and when.
pub(crate) fn drain_words(view: &MachineView) -> Option<String> {
    (view.drain_deadline_micros != 0).then(|| format!("what is left is {}", when_stopped(view)))
}

/// The state, for how long its agent is silent, how far it is drained, and why its agent wants no new tasks there.
fn state_words(view: &MachineView) -> String {
    let state = state_name(view.state());
    // A server of before does not say it.
    let silent = (view.silent_since_micros > 0).then(|| format!("silent for {}", ago(view.silent_since_micros)));
    let drained = (view.state() == MachineState::Draining).then(|| match tasks_left(view) {
        0 => "empty".to_owned(),
        left => format!("{left} left"),
    });
    let unfit = unfit(view).map(|(reason, _)| reason.to_owned());
    let notes: Vec<String> = silent.into_iter().chain(drained).chain(unfit).collect();
    noted(state, &notes)
}

/// "Taken/all" of one resource.
fn part(view: &MachineView, amount: impl Fn(&Resources) -> i64, show: impl Fn(i64) -> String) -> String {
    let of = |resources: &Option<Resources>| resources.as_ref().map_or(0, &amount);
    format!("{}/{}", show(of(&view.allocated)), show(of(&view.capacity)))
}

impl Row for MachineView {
    fn titles() -> (&'static [&'static str], &'static [&'static str]) {
        (
            &["NAME", "STATE", "CPU", "MEMORY", "ALLOCATIONS", "AGE"],
            &["ID", "EPOCH", "DISK", "OTHERS", "DEVICES", "SINCE", "ATTRIBUTES"],
        )
    }

    fn cells(&self) -> Vec<String> {
        let attributes: Vec<String> = self.attributes.iter().map(|(name, value)| format!("{name}={value}")).collect();
        vec![
            self.name.clone(),
            state_words(self),
            part(self, |amount| amount.cpu_millis, cpu),
            part(self, |amount| amount.memory_bytes, bytes),
            match self.unknown_tasks {
                0 => self.allocations.to_string(),
                unknown => format!("{} +{unknown} unknown", self.allocations),
            },
            ago(self.registered_micros),
            machine_id(self.id),
            self.epoch.to_string(),
            part(self, |amount| amount.disk_bytes, bytes),
            quantity::custom_cell(self.allocated.as_ref(), self.capacity.as_ref()),
            device::parts(&self.devices, &self.devices_used_millis),
            ago(self.since_micros),
            attributes.join(","),
        ]
    }

    fn to_json(&self) -> Value {
        let devices = self.devices.iter().enumerate().map(|(position, device)| {
            let mut object = device::to_json(device);
            object["used_millis"] = json!(self.devices_used_millis.get(position));
            object
        });
        json!({
            "id": machine_id(self.id),
            "name": self.name,
            "state": state_name(self.state()),
            "cordoned": self.cordoned,
            "unfit": unfit(self).map(|(reason, _)| reason),
            "drain_deadline": json_time(self.drain_deadline_micros),
            "unknown_tasks": self.unknown_tasks,
            "epoch": self.epoch,
            "attributes": self.attributes,
            "capacity": quantity::json_resources(self.capacity.as_ref()),
            "allocated": quantity::json_resources(self.allocated.as_ref()),
            "allocations": self.allocations,
            "devices": devices.collect::<Vec<_>>(),
            "since": json_time(self.since_micros),
            "silent_since": json_time(self.silent_since_micros),
            "registered_at": json_time(self.registered_micros),
            "last_change_revision": self.last_change,
        })
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

#[cfg(test)]
mod tests {
    use plenum_proto::v1::Device;

    use super::*;

    #[test]
    fn a_machine_that_its_agent_keeps_from_taking_tasks_says_why() {
        let state = MachineState::Cordoned.into();
        let by_operator = MachineView { state, cordoned: true, ..MachineView::default() };
        assert_eq!((state_words(&by_operator).as_str(), &by_operator.to_json()["unfit"]), ("cordoned", &Value::Null));
        let by_agent = MachineView { state, unfit: Unfit::StateUnwritable.into(), ..MachineView::default() };
        assert_eq!(state_words(&by_agent), "cordoned (state-unwritable)");
        assert_eq!(by_agent.to_json()["unfit"], "state-unwritable");
    }

    // The metric counted them, and in the list they looked like any other that is drained or unreachable.
    #[test]
    fn a_machine_that_is_unreachable_or_drained_says_as_well_why_its_agent_wants_no_tasks() {
        super::super::look_from(60_000_000);
        let view = |state: MachineState, unfit: Unfit| MachineView {
            state: state.into(),
            unfit: unfit.into(),
            ..MachineView::default()
        };
        let away =
            MachineView { silent_since_micros: 46_900_000, ..view(MachineState::Unreachable, Unfit::AgentLeaves) };
        assert_eq!(state_words(&away), "unreachable (silent for 13s, agent-leaves)");
        let drained = MachineView { allocations: 3, ..view(MachineState::Draining, Unfit::SetupFails) };
        assert_eq!(state_words(&drained), "draining (3 left, setup-fails)");
    }

    // It said that, and who wanted to know whether it was for a moment or since yesterday had to look for it.
    #[test]
    fn an_unreachable_machine_says_for_how_long_it_is_silent() {
        super::super::look_from(60_000_000);
        let state = MachineState::Unreachable.into();
        let view =
            MachineView { state, silent_since_micros: 46_900_000, since_micros: 50_000_000, ..Default::default() };
        assert_eq!(view.cells()[1], "unreachable (silent for 13s)");
        assert_eq!(view.to_json()["silent_since"], "1970-01-01T00:00:46.9Z");
        assert_eq!(view.to_json()["state"], "unreachable");
    }

    // One on which nothing was left was told as any other that is drained.
    #[test]
    fn a_machine_that_is_drained_says_how_far_that_is() {
        let state = MachineState::Draining.into();
        let drained =
            |allocations, unknown_tasks| MachineView { state, allocations, unknown_tasks, ..Default::default() };
        let words = |view: &MachineView| view.cells()[1].clone();
        assert_eq!(
            (words(&drained(2, 1)).as_str(), words(&drained(0, 0)).as_str()),
            ("draining (3 left)", "draining (empty)")
        );
        assert_eq!(drained(0, 0).to_json()["state"], "draining", "programs know five states");
        let away = MachineView { state: MachineState::Unreachable.into(), ..drained(1, 0) };
        assert_eq!(words(&away), "unreachable");
    }

    // What is in use of GPUs was told nowhere, and people saw none at all.
    #[test]
    fn a_machine_shows_how_much_of_its_devices_is_in_use() {
        let gpu = |index| Device { kind: "gpu".to_owned(), index, millis: 1000, model: String::new() };
        let view = MachineView {
            devices: vec![gpu(0), gpu(1)],
            devices_used_millis: vec![1000, 250],
            ..MachineView::default()
        };
        let (narrow, wide) = MachineView::titles();
        let titles = [narrow, wide].concat();
        let column = titles.iter().position(|title| *title == "DEVICES").unwrap();
        assert_eq!((view.cells().len(), view.cells()[column].as_str()), (titles.len(), "gpu=1250m/2"));
        let object = view.to_json();
        assert_eq!(
            object["devices"][1],
            json!({"kind": "gpu", "index": 1, "millis": 1000, "model": "", "used_millis": 250})
        );
    }
}

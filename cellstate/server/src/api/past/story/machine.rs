//! What happened to a machine: from each of its rows to the next.

use plenum_history::Logged;
use plenum_model::{Delta, Machine, MachineId, MachineState, Unfit};

use super::Teller;
use crate::api::failure::Failure;

impl Teller<'_> {
    /// Tells what an entry has of it.
    pub(super) fn machine(&mut self, id: MachineId, logged: &Logged, delta: &Delta) -> Result<(), Failure> {
        for machine in delta.machines.iter().filter(|machine| machine.id.slot == id.slot) {
            if machine.id.generation < id.generation {
                self.over = true;
                return Ok(());
            }
            if machine.id == id {
                let event = self.event(logged, "", String::new())?;
                self.events.push(event.clone());
                self.machines.push((event, machine.clone()));
                self.over = came(machine, delta);
            }
        }
        Ok(())
    }

    /// Says of each row of a machine what differs from the one before. `is_all`: all that is retained was looked at.
    pub(super) fn finish_machines(&mut self, is_all: bool) {
        if self.machines.is_empty() {
            return;
        }
        // A slot's first tenant has nobody before it.
        let begins = self.over || (is_all && self.history.oldest_revision() <= 1);
        self.over = begins;
        let rows: Vec<_> = self.machines.iter().map(|(_, machine)| machine.clone()).collect();
        self.events.clear();
        for (position, (mut event, machine)) in std::mem::take(&mut self.machines).into_iter().enumerate() {
            let (word, detail) = difference(rows.get(position + 1).map(AsRef::as_ref), &machine, begins);
            (event.event, event.detail) = (word.to_owned(), detail);
            self.events.push(event);
        }
    }
}

/// Whether a machine came with a delta that has its row. Where its first epoch began it did, whatever of its slot is retained.
pub(super) fn came(machine: &Machine, delta: &Delta) -> bool {
    machine.registered == delta.time && machine.epoch_began == delta.revision
}

/// How a machine differs from what it was before: the word of an event, and its detail. Of one without a `before`, `begins` says that there was none, and not
/// only that nothing is known of it.
pub(super) fn difference(before: Option<&Machine>, machine: &Machine, begins: bool) -> (&'static str, String) {
    let state = machine.state.word();
    let Some(before) = before else {
        return if begins {
            ("registered", format!("{state}, epoch {}", machine.epoch))
        } else {
            (state, String::new())
        };
    };
    if machine.state == MachineState::Gone {
        // What else is said of it then is nothing that it had.
        return (state, String::new());
    }
    let mut facts = Vec::new();
    if machine.epoch != before.epoch {
        facts.push(format!("epoch {}", machine.epoch));
    }
    if machine.boot_id != before.boot_id {
        facts.push("it booted".to_owned());
    }
    if machine.capacity != before.capacity || machine.devices != before.devices {
        facts.push("its capacity changed".to_owned());
    }
    if machine.attributes != before.attributes {
        facts.push("its attributes changed".to_owned());
    }
    if let Some(deadline) = machine.drain_deadline.filter(|_| machine.drain_deadline != before.drain_deadline) {
        facts.push(format!("what is left is stopped at {}", deadline.time().whole_second()));
    }
    if machine.unfit != before.unfit {
        facts.push(match machine.unfit {
            Some(Unfit::AgentLeaves) => "its agent leaves".to_owned(),
            Some(Unfit::StateUnwritable) => "its agent can't write its state".to_owned(),
            Some(Unfit::SetupFails) => "its agent can't set tasks up".to_owned(),
            None => "its agent wants tasks again".to_owned(),
        });
    }
    let word = match (machine.state == before.state, machine.cordoned == before.cordoned) {
        (false, _) => state,
        (true, false) if machine.cordoned => "cordoned",
        (true, false) => "uncordoned",
        (true, true) if machine.epoch != before.epoch => "registered",
        (true, true) => "changed",
    };
    (word, facts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::super::gone::tests::{append, at};
    use super::super::tests::with_a_job;
    use super::super::{Hero, tell};
    use super::*;
    use plenum_history::History;
    use plenum_model::{Cell, LogTime};
    use plenum_proto::v1;
    use std::sync::Arc;

    // Where a story was cut because more of the log would have had to be read, its oldest event was called the registration.
    #[test]
    fn a_machine_is_said_to_have_registered_only_where_its_story_begins() {
        let dir = tempfile::tempdir().unwrap();
        let (history, _) = History::open(dir.path(), plenum_history::Options::new(vec![1; 16])).unwrap();
        let cell = Cell::default();
        let machine = crate::agents::machine(0, 7, plenum_model::MachineState::Ready);
        let oldest = |is_all| {
            let mut teller = Teller::new(&history, &cell);
            teller.machines.push((v1::HistoryEvent::default(), Arc::new(machine.clone())));
            teller.finish_machines(is_all);
            (teller.events[0].event.clone(), teller.over)
        };
        assert_eq!(oldest(true), ("registered".to_owned(), true));
        assert_eq!(oldest(false), ("ready".to_owned(), false));
    }

    // Once anything had been retired, a machine in a slot that was never given before was told as "ready", and its story as one whose beginning
    // is no longer retained.
    #[test]
    fn a_new_machine_registers_also_where_older_revisions_are_retired() {
        let dir = tempfile::tempdir().unwrap();
        let (history, _) = History::open(dir.path(), plenum_history::Options::new(vec![1; 16])).unwrap();
        let mut cell = with_a_job();
        crate::checkpoint::write(&history, &cell, None).unwrap();
        let revision = cell.revision().next();
        let began = LogTime::from_micros(1);
        let new =
            Machine { registered: began, epoch_began: revision, ..crate::agents::machine(0, 7, MachineState::Ready) };
        // One that had registered before, and is back in another epoch.
        let back = Machine {
            id: MachineId { slot: 1, generation: 1 },
            name: "back".into(),
            registered: LogTime::from_micros(0),
            ..new.clone()
        };
        let mut delta = at(revision.0);
        delta.machines = [&new, &back].map(|machine| Arc::new(machine.clone())).to_vec();
        cell.apply(&delta).unwrap();
        append(&history, &[delta]);
        let told = |machine: &Machine| {
            let story = tell(&history, &cell, &Hero::Machine(machine.id), 10).unwrap();
            (story.events[0].event.clone(), story.oldest_revision)
        };
        assert_eq!(told(&new), ("registered".to_owned(), 0));
        assert_eq!(told(&back), ("ready".to_owned(), revision.0));
    }

    // Who gave a drain another deadline read that the machine had changed, and not in what.
    #[test]
    fn a_drain_is_told_with_its_deadline() {
        let ready = crate::agents::machine(0, 7, plenum_model::MachineState::Ready);
        let drained = |micros| Machine {
            state: plenum_model::MachineState::Draining,
            drain_deadline: plenum_model::Deadline::new(LogTime::from_micros(micros)),
            ..ready.clone()
        };
        let told = |before: &Machine, after: &Machine| difference(Some(before), after, false);
        let until = |time: &str| format!("what is left is stopped at 1970-01-01T00:{time}Z");
        assert_eq!(told(&ready, &drained(60_000_000)), ("draining", until("01:00")));
        assert_eq!(told(&drained(60_000_000), &drained(90_000_000)), ("changed", until("01:30")));
        assert_eq!(told(&drained(60_000_000), &ready), ("ready", String::new()));
    }
}

//! Claims on a machine that takes none, is another one by now, or does not suit: whether it was so at the base, and what changed it.

use plenum_model::{MachineState, Obstacle, RefusalKind, RefusalReason, Revision, SessionId};

use super::{About, Facts, Judge, event_culprit};

impl Judge<'_, '_> {
    /// It registered, or began this epoch, at this revision, which is after the base.
    pub(super) fn new_machine(&self, machine: u32, revision: Revision, epoch: u32) -> Facts {
        let known = self.past(machine).event_of(&["registered", "epoch"]).filter(|(at, _)| *at == revision);
        let word = known.map_or(if epoch == 1 { "registered" } else { "epoch" }, |(_, event)| event.word);
        let culprit = event_culprit(revision, word, 0);
        Facts::caused(RefusalKind::Conflict, RefusalReason::MachineChanged, culprit)
    }

    pub(super) fn machine_facts(&self, obstacle: Obstacle, machine: u32) -> Facts {
        let (reason, words): (_, &[&'static str]) = match obstacle {
            Obstacle::NoSuchMachine => (RefusalReason::NoSuchMachine, &["removed"]),
            Obstacle::NotReady(MachineState::Unreachable) => (RefusalReason::MachineNotReady, &["expired"]),
            Obstacle::NotReady(MachineState::Draining) => (RefusalReason::MachineNotReady, &["draining"]),
            Obstacle::NotReady(_) => (RefusalReason::MachineNotReady, &["cordoned"]),
            Obstacle::Full
            | Obstacle::OtherMachine
            | Obstacle::Constraint
            | Obstacle::NoRoom(_)
            | Obstacle::PerMachine
            | Obstacle::Spread(_)
            | Obstacle::Device(_)
            | Obstacle::Port(_) => unreachable!("judged by others"),
        };
        let past = self.past(machine);
        // That it changed from one such state to another one is nobody's fault.
        let stood = past.first_change().is_some_and(|event| match obstacle {
            Obstacle::NoSuchMachine => event.word == "registered",
            _ => !event.took_claims,
        });
        if let Some((revision, event)) = past.event_of(words).filter(|_| !stood) {
            let culprit = event_culprit(revision, event.word, 0);
            return Facts::caused(RefusalKind::Conflict, reason, culprit);
        }
        self.unseen(past.is_complete(), reason)
    }

    pub(super) fn changed(&self, machine: u32, session: SessionId, scheduler: (u16, Revision)) -> Facts {
        let past = self.past(machine);
        let event = past.change_by_others(scheduler).map(|(revision, event)| event_culprit(revision, event.word, 0));
        let grant = past.take_by_others(session).map(|change| self.grant_culprit(change, 0));
        match grant.into_iter().chain(event).max_by_key(|culprit| culprit.revision) {
            Some(culprit) => Facts::caused(RefusalKind::Conflict, RefusalReason::MachineChanged, culprit),
            None => Facts::plain(RefusalKind::Stale, RefusalReason::MachineChanged),
        }
    }

    /// What an attribute was before nobody remembers: the one that a failing constraint is about did suit if it has changed since. One that failed at
    /// the base already is not made good by a change of others.
    pub(super) fn constraint(&self, about: &About<'_>) -> Facts {
        let attributes = self.cell.machine_in(about.machine).map(|machine| &*machine.attributes);
        let constraints = about.shape.map(|shape| shape.constraints.as_slice()).unwrap_or_default();
        let failing = constraints.iter().filter(|constraint| !attributes.is_some_and(|has| constraint.holds(has)));
        let changed =
            failing.map(|failing| self.grounds.retagged.since(self.cell, about.machine, &failing.attribute, self.base));
        match changed.collect::<Option<Vec<_>>>().and_then(|changed| changed.into_iter().max()) {
            Some(revision) => {
                let culprit = event_culprit(revision, "attributes", 0);
                Facts::caused(RefusalKind::Conflict, RefusalReason::Constraint, culprit)
            }
            None => self.unseen(self.grounds.retagged.is_complete(self.base), RefusalReason::Constraint),
        }
    }
}

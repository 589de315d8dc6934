//! What may be blamed for which refusal: by its word, that of an event which did happen, where the refusal is about, at the revision that is named.
//! What was granted may be blamed for what can be taken alone, and for the limits of groups: for a task, and for how tasks are spread, as long as it
//! does not leave.

use plenum_proto::v1::{self, RefusalReason};

use super::Decided;
use super::asked::ALLOCATIONS_FEW;
use crate::chronicle::{Chronicle, Facts};
use crate::picture::slot_of;

/// To whom it happened.
enum To {
    /// The machine of the claim, or a spare one.
    Machine,
    AnyMachine,
    Job,
    /// What a guard is about.
    Guarded,
}

/// Words of events that can leave a machine less of something, and of all that `sequence` looks at.
const CHANGES: &[&str] = &[
    "registered",
    "epoch",
    "capacity",
    "attributes",
    "cordoned",
    "draining",
    "expired",
    "ready",
    "removed",
    "hold",
    "unknown task",
];

/// Which events stand in the way by which reason.
fn events(reason: RefusalReason) -> Option<(To, &'static [&'static str])> {
    use RefusalReason as Why;
    let (to, words): (To, &'static [&'static str]) = match reason {
        Why::NoRoom | Why::DeviceTaken | Why::MachineChanged => (To::Machine, CHANGES),
        Why::PortTaken => (To::Machine, &["unknown task"]),
        Why::MachineNotReady => (To::Machine, &["cordoned", "draining", "expired"]),
        Why::NoSuchMachine => (To::Machine, &["removed"]),
        Why::Constraint => (To::Machine, &["attributes"]),
        Why::SpreadLimit => (To::AnyMachine, &["attributes"]),
        Why::OtherMachine => (To::Job, &["home", "submitted"]),
        // Of what became of a task, the last is told: its allocation may have left behind that.
        Why::NotWanted => (To::Job, &["submitted", "over", "group", "task", "leaving", "backoff", "undone"]),
        Why::Predecessor => (To::Job, &["submitted", "task", "leaving", "unknown task"]),
        Why::NoSuchJob => (To::Job, &["retired"]),
        Why::JobVersion => (To::Job, &["submitted"]),
        Why::GuardFailed => (To::Guarded, &["submitted", "retired", "attributes", "registered", "removed"]),
        _ => return None,
    };
    Some((to, words))
}

/// A refusal whose culprits are looked at, and the machines that it is about.
pub(super) struct Blamed<'a> {
    pub(super) chronicle: &'a Chronicle,
    pub(super) one: &'a Decided<'a>,
    pub(super) refusal: &'a v1::Refusal,
    pub(super) machines: &'a [u32],
}

impl Blamed<'_> {
    /// Whether an event is none that stands in the way so, or did not happen there and then.
    pub(super) fn is_no_event(&self, culprit: &v1::Culprit) -> bool {
        let word = &*culprit.event;
        let Some((to, _)) = events(self.refusal.reason()).filter(|(_, words)| words.contains(&word)) else {
            return true;
        };
        let (told, at) = (&self.chronicle.words, culprit.revision);
        let happened = match to {
            To::Machine => self.machines.iter().any(|&slot| told.of_machine(slot, at).any(|it| it == word)),
            To::AnyMachine => told.of_any_machine(at).any(|it| it == word),
            To::Job => told.of_job(self.refusal.job, at).any(|it| it == word),
            To::Guarded => self.guards().iter().any(|guard| self.broke(guard, word, at)),
        };
        !happened
    }

    /// What is wrong with a transaction that is blamed without anything that it was granted: it may have done something to the job.
    pub(super) fn wrong_transaction(&self, culprit: &v1::Culprit) -> Option<String> {
        let (told, job, at) = (&self.chronicle.words, self.refusal.job, culprit.revision);
        match events(self.refusal.reason()) {
            Some((To::Job, words)) if told.of_job(job, at).any(|it| words.contains(&it)) => None,
            Some((To::Job, _)) => Some(format!("it did nothing of that to job {job:#x}")),
            _ => Some("it names no allocation that took anything".into()),
        }
    }

    /// What is wrong with a grant that is blamed, beside how much it took of what was short.
    pub(super) fn wrong_grant(&self, facts: &Facts) -> Option<String> {
        use RefusalReason as Why;
        let (refusal, granted) = (self.refusal, &facts.granted);
        let id = granted.id;
        let of_group = (granted.job, granted.group) == (refusal.job, refusal.group);
        let elsewhere = !self.machines.contains(&granted.machine);
        let at = self.one.outcome.revision;
        let had_left = [facts.left, facts.ended].into_iter().flatten().any(|then| then < at);
        match refusal.reason() {
            Why::TaskTaken if !of_group || granted.task != refusal.task => {
                Some(format!("allocation {id:#x} is of another task"))
            }
            // Of a machine that has as many allocations as one can have, any of them may be to blame.
            Why::PerMachineLimit if !of_group && self.chronicle.count_on(granted.machine) < ALLOCATIONS_FEW => {
                Some(format!("allocation {id:#x} is of another group"))
            }
            Why::SpreadLimit if !of_group => Some(format!("allocation {id:#x} is of another group")),
            Why::TaskTaken | Why::SpreadLimit if had_left => Some(format!("allocation {id:#x} was leaving by then")),
            Why::SpreadLimit if !self.counts_beside(granted.machine) => {
                Some(format!("allocation {id:#x} is where no rule counts it"))
            }
            Why::MachineChanged if granted.session == self.one.asked.session => {
                Some(format!("allocation {id:#x} is its own"))
            }
            Why::TaskTaken | Why::SpreadLimit => None,
            Why::NoRoom | Why::DeviceTaken | Why::PortTaken | Why::PerMachineLimit | Why::MachineChanged => {
                elsewhere.then(|| format!("allocation {id:#x} is on machine slot {}", granted.machine))
            }
            _ => Some(format!("allocation {id:#x} took nothing that was in its way")),
        }
    }

    /// Whether tasks on a machine count for those on the one that was refused: both have the same value of an attribute that the group is spread by.
    fn counts_beside(&self, slot: u32) -> bool {
        let (chronicle, refusal, before) = (self.chronicle, self.refusal, self.one.outcome.revision - 1);
        let Some(group) = chronicle.group_at(refusal.job, refusal.group, before) else { return true };
        let value = |slot: u32, rule: &v1::Spread| chronicle.machine_at(slot, before)?.attributes.get(&rule.attribute);
        let is_same = |rule: &v1::Spread| value(slot, rule).is_some_and(|it| value(refusal.machine, rule) == Some(it));
        group.spread.iter().any(is_same)
    }

    /// The guards that it can be about: those of its placement, or of the transaction.
    fn guards(&self) -> &[v1::Guard] {
        let asked = self.one.asked;
        asked.placements.get(self.refusal.placement as usize).map_or(&asked.guards, |placement| &placement.guards)
    }

    /// Whether what happened then can have made a guard fail.
    fn broke(&self, guard: &v1::Guard, word: &str, at: u64) -> bool {
        let (chronicle, told) = (self.chronicle, &self.chronicle.words);
        match &guard.fact {
            Some(v1::guard::Fact::JobVersion(guard)) => {
                matches!(word, "submitted" | "retired") && told.of_job(guard.job, at).any(|it| it == word)
            }
            Some(v1::guard::Fact::Attribute(guard)) => {
                let slot = slot_of(guard.machine);
                let value = |at: u64| chronicle.machine_at(slot, at)?.attributes.get(&guard.attribute);
                let is_it = word != "attributes" || value(at) != value(at - 1);
                is_it && told.of_machine(slot, at).any(|it| it == word)
            }
            None => false,
        }
    }
}

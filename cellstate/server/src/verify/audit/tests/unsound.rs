//! Logs that lead to a cell in which something does not hold that always must.

use std::sync::Arc;

use plenum_journal::{CellId, Identity, Mark, Tail};
use plenum_model::{AllocationId, Hold, Resources, TaskTraces, UnknownId, UnknownTask};

use super::*;

/// An entry in which this changes, whatever was asked.
fn changing(changed: &Delta) -> v1::LogEntry {
    let mut bytes = Vec::new();
    delta::encode(changed, &mut bytes);
    let asked = entries().remove(1).asked;
    v1::LogEntry { revision: changed.revision.0, asked, delta: bytes.into(), ..v1::LogEntry::default() }
}

/// Room on the machine in slot 0 is held for a job that is not there.
fn hold_astray() -> (JobId, Option<Hold>) {
    let (resources, deadline) = (Resources::new(1, 1), LogTime::from_micros(60_000_000));
    let hold = Hold { machines: vec![0], resources, deadline, first_wait: Revision(1) };
    (JobId { slot: 7, generation: 1 }, Some(hold))
}

/// A task runs unknown to the cell on a machine that was in slot 0 before the one that is there.
fn unknown_of_another_machine() -> (UnknownId, Option<Arc<UnknownTask>>) {
    let id = UnknownId { machine: 0, allocation: AllocationId { slot: 7, generation: 1 } };
    let machine = MachineId { slot: 0, generation: 2 };
    let (traces, since) = (Arc::new(TaskTraces::default()), LogTime::from_micros(5));
    (id, Some(Arc::new(UnknownTask { machine, traces, since, until: None, stopping: false })))
}

/// What is wrong, by revision, and where it was found.
fn told(violations: &[Violation]) -> Vec<(u64, &str, &str)> {
    let name = |what: &'_ Violation| what.what.find([' ', '{']).unwrap_or(what.what.len());
    violations.iter().map(|one| (one.revision.0, &one.what[..name(one)], &*one.place)).collect()
}

// All that looked at what always holds could have been left out of `plenum verify`: every other violation is found by deciding again or by folding.
#[test]
fn whatever_does_not_hold_behind_what_another_version_decided_is_told_at_each_revision() {
    let mut log = entries();
    let held = Delta { holds: vec![hold_astray()], ..Delta::new(Revision(4), LogTime::from_micros(5)) };
    let heard = Delta { unknown: vec![unknown_of_another_machine()], ..Delta::new(Revision(5), held.time) };
    log.extend([&held, &heard].map(changing));
    let mut audit = Audit::default();
    audit.begin_with(cell_with_machine(0, &[]));
    log.iter().for_each(|entry| audit.entry(entry, &origin(plenum_core::CORE_VERSION - 1), "here"));
    assert_eq!((audit.folded, audit.decided_again), (5, 0), "nothing else is wrong with it");
    let expected = [(4, "HoldAstray", "here"), (5, "HoldAstray", "here"), (5, "UnknownIsKnown", "here")];
    assert_eq!(told(audit.violations()), expected);
}

// A large cell is not looked at whole at each revision, and one whose log is empty at none.
#[test]
fn whatever_does_not_hold_at_the_end_is_told() {
    let mut cell = cell_with_machine(0, &[]);
    let held = Delta { holds: vec![hold_astray()], ..Delta::new(Revision(1), LogTime::from_micros(5)) };
    cell.apply(&held).unwrap();
    let mut audit = Audit::default();
    audit.begin_with(cell);
    let log = Report {
        identity: Identity { cell: CellId([7; 16]), incarnation: 1 },
        segments: 0,
        frames: 0,
        oldest_revision: 2,
        tail: Tail::default(),
        mark: Mark::default(),
        damages: Vec::new(),
        damages_unlisted: 0,
        torn: None,
        mark_damages: Vec::new(),
        refused: None,
    };
    let report = audit.into_report(&log, 1).unwrap();
    assert_eq!(told(&report.violations), [(1, "HoldAstray", "log: the end")]);
}

// As a core with a bug decides it: again the same comes out, and only what always holds tells that it should not.
#[test]
fn a_step_that_breaks_what_always_holds_is_told_though_again_the_same_comes_out() {
    let log = entries();
    let mut sound = Cell::default();
    log[..2].iter().for_each(|entry| sound.apply(&delta::decode(entry.delta.clone()).unwrap()).unwrap());
    let mut broken = Cell::default();
    let held = Delta { holds: vec![hold_astray()], ..Delta::new(Revision(1), LogTime::from_micros(5)) };
    broken.apply(&held).unwrap();
    broken.apply(&delta::decode(log[1].delta.clone()).unwrap()).unwrap();
    for (decided_on, expected) in [(&sound, [].as_slice()), (&broken, &[(3, "HoldAstray", "here")])] {
        let mut audit = Audit::default();
        audit.begin_with(sound.clone());
        let core = Core::from_cell(decided_on.clone(), CoreOptions::default());
        audit.again = Some(Again { core, exact: false, began: Revision(2), has_others: false });
        audit.entry(&log[2], &origin(plenum_core::CORE_VERSION), "here");
        assert_eq!((told(audit.violations()), audit.decided_again), (expected.to_vec(), 1));
    }
}

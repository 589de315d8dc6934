//! Telling operators which machines are given up, with how much is lost there, and which are back: by name, from what is durable.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use plenum_model::{AllocationState, Cell, Delta, MachineId, MachineState};

/// Machines of one revision that are told each in a line of its own; of more the last line says how many. A twentieth of a large cell may be given up at once.
const TOLD_MAX: usize = 8;

/// Machines that are unreachable, by slot: whoever is none of them any more is back.
#[derive(Default)]
pub(super) struct Whereabouts {
    unreachable: BTreeSet<u32>,
}

#[derive(Debug, PartialEq, Eq)]
enum News {
    /// Why, with the machine's name, and how many allocations are lost.
    GivenUp(Arc<str>, usize),
    Back {
        machine: MachineId,
        name: Arc<str>,
        epoch: u32,
    },
}

impl Whereabouts {
    pub(super) fn of_cell(cell: &Cell) -> Self {
        let unreachable = cell.machines().filter(|machine| machine.state == MachineState::Unreachable);
        Self { unreachable: unreachable.map(|machine| machine.id.slot).collect() }
    }

    /// Takes the next durable deltas, and tells what of them people should know.
    pub(super) fn fold(&mut self, deltas: &[Delta]) {
        for delta in deltas {
            let news = self.news(delta);
            for one in news.iter().take(TOLD_MAX) {
                match one {
                    News::GivenUp(why, tasks) => {
                        tracing::warn!(
                            tasks,
                            "given up, as {why}: the tasks there count as lost, and are placed elsewhere"
                        );
                    }
                    News::Back { machine, name, epoch } => {
                        tracing::info!(name = &**name, %machine, epoch, "a machine that was unreachable is back");
                    }
                }
            }
            if news.len() > TOLD_MAX {
                tracing::warn!(others = news.len() - TOLD_MAX, "other machines were given up or came back with these");
            }
        }
    }

    fn news(&mut self, delta: &Delta) -> Vec<News> {
        // Where a machine is given up, each of its allocations has its name in the reason.
        let mut lost: BTreeMap<&Arc<str>, usize> = BTreeMap::new();
        for moved in delta.moves.iter().filter(|moved| moved.status.state == AllocationState::Lost) {
            if let Some(why) = &moved.reason {
                *lost.entry(why).or_default() += 1;
            }
        }
        let mut news: Vec<News> = lost.into_iter().map(|(why, tasks)| News::GivenUp(why.clone(), tasks)).collect();
        for machine in &delta.machines {
            let slot = machine.id.slot;
            match machine.state {
                MachineState::Unreachable => {
                    self.unreachable.insert(slot);
                }
                MachineState::Gone => {
                    self.unreachable.remove(&slot);
                }
                MachineState::Ready | MachineState::Cordoned | MachineState::Draining => {
                    if self.unreachable.remove(&slot) {
                        let (machine, name, epoch) = (machine.id, machine.name.clone(), machine.epoch);
                        news.push(News::Back { machine, name, epoch });
                    }
                }
            }
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use plenum_model::{AllocationStatus, LogTime, Machine, Move, Revision};

    use super::*;
    use crate::agents::machine;

    fn delta(machines: Vec<Machine>, lost: &[(u32, &str)]) -> Delta {
        let moved = |&(slot, why): &(u32, &str)| {
            let status = AllocationStatus { state: AllocationState::Lost, ready: false };
            Move { slot, status, restarts: 0, reason: Some(why.into()) }
        };
        let machines = machines.into_iter().map(Arc::new).collect();
        Delta { machines, moves: lost.iter().map(moved).collect(), ..Delta::new(Revision(1), LogTime::default()) }
    }

    // That a machine was given up with four tasks, and that it was back, stood in no line of the log.
    #[test]
    fn a_machine_that_is_given_up_or_back_is_told_once_and_by_its_name() {
        let mut all = Whereabouts::default();
        assert!(all.news(&delta(vec![machine(3, 1, MachineState::Ready)], &[])).is_empty(), "a new one is not back");
        assert!(all.news(&delta(vec![machine(3, 1, MachineState::Unreachable)], &[])).is_empty());
        let why = "m3 is unreachable";
        let running = Move {
            slot: 9,
            status: AllocationStatus { state: AllocationState::Running, ready: true },
            restarts: 0,
            reason: None,
        };
        let mut given_up = delta(Vec::new(), &[(1, why), (2, why), (4, "m5 is unreachable")]);
        given_up.moves.push(running);
        let expected = [News::GivenUp(why.into(), 2), News::GivenUp("m5 is unreachable".into(), 1)];
        assert_eq!(all.news(&given_up), expected);
        let back = machine(3, 2, MachineState::Ready);
        let expected = News::Back { machine: back.id, name: back.name.clone(), epoch: 2 };
        assert_eq!(all.news(&delta(vec![back.clone()], &[])), [expected]);
        assert!(all.news(&delta(vec![back], &[])).is_empty(), "once");
    }

    #[test]
    fn what_was_unreachable_when_the_server_started_is_back_too_unless_it_was_removed() {
        let mut cell = Cell::default();
        let away = [0, 1].map(|slot| machine(slot, 1, MachineState::Unreachable));
        assert!(cell.apply(&delta(away.to_vec(), &[])).is_ok());
        let mut all = Whereabouts::of_cell(&cell);
        let removed = machine(1, 1, MachineState::Gone);
        assert!(all.news(&delta(vec![removed], &[])).is_empty());
        let next = [0, 1].map(|slot| machine(slot, 2, MachineState::Ready));
        let news = all.news(&delta(next.to_vec(), &[]));
        assert!(matches!(&news[..], [News::Back { name, .. }] if **name == *"m0"), "{news:?}");
    }
}

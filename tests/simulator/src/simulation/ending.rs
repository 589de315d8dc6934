//! How a run comes to its end: faults are over, every job gets where it should be, all are stopped, and nothing is left.

use plenum_model::MachineId;

use super::{Phase, Simulation};
use crate::books::{Checked, Violation, hold};
use crate::random::Random;
use crate::scheduler::Seat;
use crate::seen::Seen;
use crate::server::Server;
use crate::world::Event;

/// From the end of faults to the end of everything, at most. Not far above the longest that the report of the gate's seeds tells: a wake-up that was
/// lost, and is made good much later by a timer of something else, must not pass.
const END_WITHIN_MICROS: i64 = 180_000_000;
/// So much later where a machine has gone: only so many are given up in a minute.
const GONE_MICROS: i64 = 90_000_000;
/// After so long an operator removes it. What has a single instance waits for that, as it may still run there. Longer than until the turn of the next
/// one, a minute later: the cell gives up by itself what it may.
const REMOVED_MICROS: i64 = 80_000_000;
/// How often it is looked at whether all is done.
const LOOK_MICROS: i64 = 500_000;
/// In how many runs a machine goes when faults end, in thousandths.
const GONE_THOUSANDTHS: u64 = 300;
/// How often each machine behind the first four goes with it, in thousandths.
const OTHERS_THOUSANDTHS: u64 = 500;
/// Sets the numbers apart of which that is drawn.
const GONE_SEED: u64 = 619 << 40;

/// The machines that go when faults end, if any do: one of the first four, and of many several others with it. What can be placed somewhere can be without
/// them: another one stands in the rack of that one, and another one has devices.
pub(super) fn who_goes(seed: u64, machines: usize) -> Vec<usize> {
    let mut random = Random::new(!seed ^ GONE_SEED);
    let may_go: &[usize] = match machines {
        3 => &[0, 2],
        4.. => &[0, 1, 2, 3],
        _ => return Vec::new(),
    };
    if !random.chance(GONE_THOUSANDTHS) {
        return Vec::new();
    }
    let mut gone = vec![may_go[random.index(may_go.len())]];
    gone.extend((4..machines).filter(|_| random.chance(OTHERS_THOUSANDTHS)));
    gone
}

impl Simulation {
    pub(super) fn faults_end(&mut self) {
        self.world.tell(|| "faults end".to_owned());
        self.world.heal();
        // The next server takes requests of any size. Its start also wakes whoever waits for an answer.
        if self.world.mix.entry_bytes < usize::MAX {
            self.disk.kill();
        }
        for agent in 0..self.machines.len() {
            self.world.agenda.after(0, Event::MovesHome { agent });
        }
        self.phase = Phase::Calm;
        self.calm_since_micros = self.world.now();
        self.deadline_micros = self.world.now() + END_WITHIN_MICROS;
        self.world.agenda.after(LOOK_MICROS, Event::Looks);
        if !self.gone.is_empty() {
            self.deadline_micros += GONE_MICROS;
        }
        for &agent in &self.gone {
            self.world.tally.saw(Seen::MachineGone);
            self.machines[agent].kill(&mut self.world);
        }
    }

    /// Whether an event would let a machine that is gone come back.
    pub(super) fn is_of_who_is_gone(&self, event: &Event) -> bool {
        let (Event::AgentStarts { agent } | Event::AgentDiesRegistering { agent, .. } | Event::MovesHome { agent }) =
            *event
        else {
            return false;
        };
        self.phase == Phase::Calm && self.gone.contains(&agent)
    }

    /// Whether nothing is on the machines that are gone any more. Has those removed on which something is once that lasts too long.
    fn are_left(&mut self) -> bool {
        let cell = self.world.books.cell();
        let gone = self.gone.iter().filter_map(|&agent| cell.machine_named(self.machines[agent].name()));
        let is_on = |machine: &MachineId| cell.allocations().any(|found| found.row.machine == machine.slot);
        let occupied: Vec<MachineId> = gone.map(|machine| machine.id).filter(is_on).collect();
        if self.world.now() > self.calm_since_micros + REMOVED_MICROS {
            for &machine in &occupied {
                self.owner.removes(&mut self.world, machine);
            }
        }
        occupied.is_empty()
    }

    fn come_back(&mut self) {
        for agent in std::mem::take(&mut self.gone) {
            self.world.agenda.after(0, Event::AgentStarts { agent });
            self.world.agenda.after(1, Event::MovesHome { agent });
        }
    }

    /// Looks whether the phase is over.
    pub(super) fn looks(&mut self) -> Checked {
        self.world.agenda.after(LOOK_MICROS, Event::Looks);
        match self.phase {
            Phase::Calm => {
                self.owner.clears_the_way(&mut self.world);
                if self.are_left() && self.owner.is_content(&self.world) && self.is_up() {
                    self.world.tell(|| "all jobs are where they should be".to_owned());
                    self.phase = Phase::Stopping;
                    self.come_back();
                    self.owner.stops_all(&mut self.world);
                }
                Ok(())
            }
            Phase::Stopping if self.is_quiet() => {
                self.phase = Phase::Over;
                self.world.tally.ending_micros_max = (self.world.now() - self.calm_since_micros).unsigned_abs();
                self.check_end()
            }
            Phase::Stopping => {
                // What the owner had wished before may be asked for, or decided, only now; and a job that is submitted once more when it is over runs again.
                self.owner.clears_the_way(&mut self.world);
                if self.owner.is_answered() {
                    self.owner.stops_all(&mut self.world);
                }
                Ok(())
            }
            Phase::Stormy | Phase::Over => Ok(()),
        }
    }

    fn is_up(&self) -> bool {
        self.server.as_ref().is_some_and(Server::is_open)
            && self.seats.iter().all(Seat::runs)
            && (0..).zip(&self.machines).all(|(number, machine)| machine.runs() || self.gone.contains(&number))
            && self.world.books.machines_ready() == self.machines.len() - self.gone.len()
    }

    fn is_quiet(&self) -> bool {
        self.is_up()
            && self.owner.is_answered()
            && self.server.as_ref().is_some_and(Server::is_idle)
            && self.world.books.cell().allocations().next().is_none()
            && self.world.books.cell().unknown_tasks().next().is_none()
            && self.machines.iter().all(|machine| machine.is_settled() && machine.running() == 0)
            && self
                .seats
                .iter()
                .all(|seat| seat.mirror().is_some_and(|mirror| mirror.revision() == self.world.books.cell().revision()))
    }

    /// When all is over: nothing is used, everybody has the same cell, and the log is whole.
    fn check_end(&mut self) -> Checked {
        self.owner.check_ends(&mut self.world)?;
        let world = &mut self.world;
        self.seats.iter().try_for_each(|seat| seat.check_mirror(world))?;
        if let Some(server) = self.server.take() {
            world.books.invariant_everybody_has_the_same_cell("the committer", server.undurable_cell())?;
            world.books.invariant_everybody_has_the_same_cell("the picture", server.mirror().cell())?;
            hold(server.tail() == world.books.cell().revision(), "invariant_the_log_ends_with_the_cell", || {
                format!("the log ends at {}, the cell is at {}", server.tail(), world.books.cell().revision())
            })?;
        }
        self.check_log()
    }

    fn check_log(&self) -> Checked {
        self.disk.kill();
        let report = plenum_journal::verify(&self.disk.reboot(), None, &mut |_| {});
        let report = report
            .map_err(|error| Violation { invariant: "invariant_the_log_can_be_read", facts: error.to_string() })?;
        hold(report.is_sound(), "invariant_the_log_can_be_read", || format!("{report:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_goes_another_machine_stays_in_each_rack() {
        let mut most = 0;
        for machines in 2..=10 {
            for seed in 0..500 {
                let gone = who_goes(seed, machines);
                let stays = |first: usize| (first..machines).step_by(2).any(|number| !gone.contains(&number));
                assert!(stays(0) && stays(1), "of {machines} {gone:?} go with seed {seed}");
                most = most.max(gone.len());
            }
        }
        assert!(most > 3, "{most} go at most");
    }
}

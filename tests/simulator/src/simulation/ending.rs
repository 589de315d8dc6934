//! How a run comes to its end: faults are over, every job gets where it should be, all are stopped, and nothing is left.

use super::{Phase, Simulation};
use crate::agent::Machine;
use crate::books::{Checked, Violation, hold};
use crate::scheduler::Seat;
use crate::server::Server;
use crate::world::Event;

/// From the end of faults to the end of everything, at most. Not far above the longest that the report of the gate's seeds tells: a wake-up that was
/// lost, and is made good much later by a timer of something else, must not pass.
const END_WITHIN_MICROS: i64 = 180_000_000;
/// How often it is looked at whether all is done.
const LOOK_MICROS: i64 = 500_000;

impl Simulation {
    pub(super) fn faults_end(&mut self) {
        self.world.tell(|| "faults end".to_owned());
        self.world.heal();
        for agent in 0..self.machines.len() {
            self.world.agenda.after(0, Event::MovesHome { agent });
        }
        self.phase = Phase::Calm;
        self.deadline_micros = self.world.now() + END_WITHIN_MICROS;
        self.world.agenda.after(LOOK_MICROS, Event::Looks);
    }

    /// Looks whether the phase is over.
    pub(super) fn looks(&mut self) -> Checked {
        self.world.agenda.after(LOOK_MICROS, Event::Looks);
        match self.phase {
            Phase::Calm => {
                self.owner.clears_the_way(&mut self.world);
                if self.owner.is_content(&self.world) && self.is_up() {
                    self.world.tell(|| "all jobs are where they should be".to_owned());
                    self.phase = Phase::Stopping;
                    self.owner.stops_all(&mut self.world);
                }
                Ok(())
            }
            Phase::Stopping if self.is_quiet() => {
                self.phase = Phase::Over;
                let began_micros = self.deadline_micros - END_WITHIN_MICROS;
                self.world.tally.ending_micros_max = (self.world.now() - began_micros).unsigned_abs();
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
            && self.machines.iter().all(Machine::runs)
            && self.world.books.machines_ready() == self.machines.len()
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

//! Why a machine takes no new tasks: its agent takes its leave, or what starting one takes can't be written there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use plenum_agent::driver::{Exit, Failure, FailureKind};
use plenum_agent::fake::Fate;
use plenum_agent::reconciler::{AgentReconciler, Input};
use plenum_model::Unfit;

use super::Machine;
use crate::books::Checked;
use crate::faults::Fault;
use crate::world::{Event, World};

/// An agent that takes its leave waits so long for the cell to hear of it.
const FAREWELL_MICROS: i64 = 2_000_000;
/// Within this time an agent finds out that it can't write, or that it can again.
const PROBE_MICROS: i64 = 5_000_000;

/// Where a machine's agent writes what it takes to start a task.
#[derive(Debug, Default)]
pub(super) struct Disk {
    full_until_micros: i64,
    /// Somebody wanted to write while it was full.
    met: bool,
    /// For the driver, which knows no time but its own.
    is_full: FullDisk,
}

/// Whether it was full when somebody looked last.
#[derive(Clone, Debug, Default)]
pub(super) struct FullDisk(Arc<AtomicBool>);

impl FullDisk {
    /// The fate of a start that can't be written down.
    pub(super) fn fate(&self) -> Option<Fate> {
        let failure = || Failure::new(FailureKind::Setup, "starting a shim: no space left on device");
        let never_ran = || Fate { runs_ms: Some(0), exit: Exit::failed(failure(), 0), ..Fate::runs_for_ever() };
        self.0.load(Ordering::Relaxed).then(never_ran)
    }
}

impl Disk {
    pub(super) fn full(&self) -> FullDisk {
        self.is_full.clone()
    }

    /// Somebody tries to write: whether there is room.
    pub(super) fn has_room(&mut self, world: &mut World) -> bool {
        let is_full = world.now() < self.full_until_micros;
        if is_full && !std::mem::replace(&mut self.met, true) {
            world.struck(Fault::StateUnwritable);
        }
        self.is_full.0.store(is_full, Ordering::Relaxed);
        !is_full
    }
}

impl Machine {
    /// The agent is asked to end. It tells the cell first; what runs goes on.
    pub(crate) fn leaves(&mut self, world: &mut World, away_micros: i64) -> Checked {
        if self.reconciler.is_none() || self.away_micros.is_some() {
            return Ok(());
        }
        world.tell(|| format!("{}: the agent takes its leave", self.name));
        world.struck(Fault::AgentLeaves);
        self.away_micros = Some(away_micros);
        world.agenda.after(FAREWELL_MICROS, Event::AgentGivesUp { agent: self.number, life: self.life });
        self.give(world, Input::Leave)?;
        self.turn(world)
    }

    /// The agent that takes its leave has waited long enough for the cell.
    pub(crate) fn gives_up(&mut self, world: &mut World, life: u64) {
        if self.life == life {
            self.ends_having_left(world);
        }
    }

    /// The process ends if it is to, and the cell knows or won't know.
    pub(super) fn ends_once_it_has_left(&mut self, world: &mut World) {
        if self.reconciler.as_ref().is_some_and(AgentReconciler::has_left) {
            self.ends_having_left(world);
        }
    }

    fn ends_having_left(&mut self, world: &mut World) {
        let Some(away_micros) = self.away_micros else { return };
        self.ends(world, "has left");
        world.agenda.after(away_micros, Event::AgentStarts { agent: self.number });
    }

    /// Nothing can be written here for a while. The agent finds out in its own time.
    pub(crate) fn fills_up(&mut self, world: &mut World, micros: i64) {
        let until_micros = world.now() + micros;
        self.disk.full_until_micros = self.disk.full_until_micros.max(until_micros);
        self.disk.met = false;
        for from_micros in [world.now(), until_micros] {
            let found_micros = world.random.between(0, PROBE_MICROS);
            world.agenda.at(from_micros + found_micros, Event::AgentProbes { agent: self.number });
        }
    }

    /// The agent looks whether it can write.
    pub(crate) fn probes(&mut self, world: &mut World) -> Checked {
        let unfit = (!self.disk.has_room(world)).then_some(Unfit::StateUnwritable);
        world.tell(|| format!("{}: the agent tries to write: {unfit:?}", self.name));
        self.give(world, Input::Fitness(unfit))?;
        self.turn(world)
    }
}

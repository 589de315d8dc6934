//! Why a machine takes no new tasks: its agent takes its leave, what starting one takes can't be written there, or no task can be set up.

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

/// Something without which no task is started, and that is not to be had on a machine for a while.
#[derive(Debug)]
pub(super) struct Outage {
    fault: Fault,
    until_micros: i64,
    /// Somebody needed it meanwhile.
    met: bool,
    /// For the driver, which knows no time but its own.
    starts: Starts,
}

/// How starts fail, if it was not to be had when somebody looked last.
#[derive(Clone, Debug)]
pub(super) struct Starts {
    error: &'static str,
    fail: Arc<AtomicBool>,
}

impl Starts {
    /// The fate of a start that can't be made.
    pub(super) fn fate(&self) -> Option<Fate> {
        let failure = || Failure::new(FailureKind::Setup, self.error);
        let never_ran = || Fate { runs_ms: Some(0), exit: Exit::failed(failure(), 0), ..Fate::runs_for_ever() };
        self.fail.load(Ordering::Relaxed).then(never_ran)
    }
}

impl Outage {
    /// Of the disk on which an agent writes down what it starts.
    pub(super) fn of_the_disk() -> Self {
        Self::new(Fault::StateUnwritable, "starting a shim: no space left on device")
    }

    /// Of what a task is set up with.
    pub(super) fn of_cgroups() -> Self {
        Self::new(Fault::SetupsFail, "making a cgroup: device or resource busy")
    }

    fn new(fault: Fault, error: &'static str) -> Self {
        Self { fault, until_micros: 0, met: false, starts: Starts { error, fail: Arc::default() } }
    }

    pub(super) fn starts(&self) -> Starts {
        self.starts.clone()
    }

    fn lasts_until(&mut self, micros: i64) {
        self.until_micros = self.until_micros.max(micros);
        self.met = false;
    }

    /// Somebody needs what it keeps away: where it lasts, it has struck, and starts go by that from now on. Whether it lasts.
    pub(super) fn meet(&mut self, world: &mut World) -> bool {
        let lasts = world.now() < self.until_micros;
        if lasts && !std::mem::replace(&mut self.met, true) {
            world.struck(self.fault);
        }
        self.starts.fail.store(lasts, Ordering::Relaxed);
        lasts
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
        self.disk.lasts_until(until_micros);
        for from_micros in [world.now(), until_micros] {
            let found_micros = world.random.between(0, PROBE_MICROS);
            world.agenda.at(from_micros + found_micros, Event::AgentProbes { agent: self.number });
        }
    }

    /// No task can be set up here for a while: what starts meanwhile fails.
    pub(crate) fn sets_nothing_up(&mut self, world: &World, micros: i64) {
        self.cgroups.lasts_until(world.now() + micros);
    }

    /// The agent looks whether it can write.
    pub(crate) fn probes(&mut self, world: &mut World) -> Checked {
        let unfit = self.disk.meet(world).then_some(Unfit::StateUnwritable);
        world.tell(|| format!("{}: the agent tries to write: {unfit:?}", self.name));
        self.give(world, Input::Fitness(unfit))?;
        self.turn(world)
    }
}

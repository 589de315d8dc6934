//! Runs many simulations on as many threads as there are cores. Results are in the order of the tasks, whatever thread was first.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;

use super::plan::Task;
use crate::cells::bound::{self, Packing};
use crate::cells::row::Row;
use crate::cells::simulation::{Simulation, Watch};
use crate::cells::stage::{Free, seconds};
use crate::interrupt;
use crate::progress::say;
use crate::thread_time::Stopwatch;

/// Between two lines of progress.
const QUIET: Duration = Duration::from_secs(5);

/// A run that has ended.
pub(super) struct Done {
    pub(super) row: Row,
    /// When and on which machine claims were refused.
    pub(super) refusals: Vec<(i64, u32)>,
    /// Of its thread, filling the cell included.
    pub(super) cpu_seconds: f64,
    /// How far the last placement is from any optimum; of rows of which it is asked.
    pub(super) packing: Option<Packing>,
    /// It reached its horizon.
    pub(super) whole: bool,
}

/// Stops a run at Ctrl-C, and says how far it is when that takes long.
struct Progress {
    began: Instant,
    said: Mutex<Instant>,
    loud: bool,
}

impl Progress {
    fn new(loud: bool) -> Self {
        Self { began: Instant::now(), said: Mutex::new(Instant::now()), loud }
    }

    /// Whether it is time for a line.
    fn is_due(&self) -> bool {
        let Ok(mut said) = self.said.lock() else { return false };
        let due = said.elapsed() >= QUIET;
        if due {
            *said = Instant::now();
        }
        due
    }
}

impl Watch for Progress {
    fn go_on(&self, at_micros: i64, horizon_micros: i64) -> bool {
        if self.loud && self.is_due() {
            let (at, horizon) = (seconds(at_micros), seconds(horizon_micros));
            let times = at / self.began.elapsed().as_secs_f64();
            say(&format!("omega: {at:.0} of {horizon:.0} simulated seconds, {times:.0} times real time"));
        }
        !interrupt::asked()
    }
}

/// Runs one simulation, and checks at its end that nothing leaked.
pub(super) fn run_one(task: &Task, loud: bool) -> anyhow::Result<Done> {
    let horizon = task.settings.horizon_micros;
    let mut watch = Stopwatch::default();
    let mut simulation = watch.time(|| Simulation::new(task.settings.clone()))??;
    watch.time(|| simulation.run(&Progress::new(loud)))??;
    let cpu_seconds = watch.cpu.as_secs_f64();
    simulation.stage.settle()?;
    let row = Row::of(&simulation);
    let whole = simulation.settings.horizon_micros == horizon;
    let refusals = if task.map { std::mem::take(&mut simulation.refusals) } else { Vec::new() };
    let capacity = Free::of(&task.settings.cell.capacity());
    let packing = task.exp.starts_with("E8_").then(|| bound::packing(simulation.stage.core().cell(), capacity));
    Ok(Done { row, refusals, cpu_seconds, packing, whole })
}

/// Runs all tasks. A task is missing when the run was stopped before it was done.
pub(super) fn run_all(tasks: &[Task]) -> anyhow::Result<Vec<Option<Done>>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).clamp(1, 64);
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let progress = Progress::new(false);
    let results: Mutex<Vec<Option<Done>>> = Mutex::new(tasks.iter().map(|_| None).collect());
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(task) = tasks.get(number).filter(|_| !interrupt::asked()) else { return anyhow::Ok(()) };
            let ended = run_one(task, false).with_context(|| format!("{}: {:?}", task.exp, task.settings))?;
            if ended.whole
                && let Ok(mut results) = results.lock()
            {
                results[number] = Some(ended);
            }
            let count = done.fetch_add(1, Ordering::Relaxed) + 1;
            if progress.is_due() {
                let spent = progress.began.elapsed().as_secs();
                say(&format!("omega: {count} of {} runs in {spent} s", tasks.len()));
            }
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    results.into_inner().ok().context("no thread died while it kept a result")
}

//! A driver that runs nothing: for simulations. What becomes of each start is told to it; time is told to it, too.
//!
//! Like the real one, it outlives its agent: a crash of the agent loses undelivered events, and no task.

use std::{collections::BTreeMap, io};

use plenum_model::AllocationId;

use crate::driver::{Driver, DriverEvent, Exit, Failure, FailureKind, Found, Recovered, TaskSpec};

/// What becomes of a start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fate {
    /// From the order to its being written down: what is not is lost with its agent. Of an allocation's first start.
    pub recorded_after_ms: u64,
    /// From then to its shim: what has none yet when its agent ends is made by the next one, if at all.
    pub shim_after_ms: u64,
    /// From then to the running command.
    pub starts_after_ms: u64,
    /// From then to its end by itself; `None`: it runs until it is stopped.
    pub runs_ms: Option<u64>,
    /// Its end by itself.
    pub exit: Exit,
    /// From a stop to its end.
    pub stops_after_ms: u64,
    /// From an end to the moment when nothing is left.
    pub gone_after_ms: u64,
}

impl Fate {
    /// Runs at once, for that long, to exit code 0.
    #[must_use]
    pub fn succeeds_after_ms(runs_ms: u64) -> Self {
        Self { runs_ms: Some(runs_ms), ..Self::runs_for_ever() }
    }

    /// Runs at once, for that long, to this exit code.
    #[must_use]
    pub fn exits_after_ms(runs_ms: u64, code: i32) -> Self {
        let fate = Self::succeeds_after_ms(runs_ms);
        Self { exit: Exit { code: Some(code), ..fate.exit }, ..fate }
    }

    /// Runs at once, until it is stopped.
    #[must_use]
    pub fn runs_for_ever() -> Self {
        let exit = Exit { code: Some(0), started_unix_ms: Some(0), ..Exit::default() };
        let (recorded_after_ms, shim_after_ms, starts_after_ms) = (0, 0, 0);
        let (stops_after_ms, gone_after_ms) = (0, 0);
        Self { recorded_after_ms, shim_after_ms, starts_after_ms, runs_ms: None, exit, stops_after_ms, gone_after_ms }
    }
}

/// How the latest start of an allocation ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended<'a> {
    /// Which start it was.
    pub restart: u32,
    /// How.
    pub exit: &'a Exit,
    /// The machine was booted since then, or while it ran.
    pub booted: bool,
    /// The cell knows: the next agent does not find it.
    pub forgotten: bool,
}

#[derive(Clone, Debug)]
struct FakeTask {
    task: TaskSpec,
    fate: Fate,
    recorded_at_ms: u64,
    shim_at_ms: u64,
    /// It was written down, and its agent ended before it had a shim: nothing of it is made before somebody asks again.
    is_left: bool,
    started_at_ms: Option<u64>,
    ends_at_ms: Option<u64>,
    stopped: bool,
    exit: Option<Exit>,
    ended_at_ms: u64,
    told: Told,
    ran_before: bool,
    forgotten: bool,
    /// The machine was booted since it was started.
    booted: bool,
    /// What was written down of it can't be read: the next agent that looks for it stops it, and it ends with that.
    unreadable: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    Nothing,
    Recorded,
    Started,
    Exited,
    Gone,
}

/// The fake. Its fates come from the function that it was made with.
pub struct FakeDriver {
    fate: Box<dyn FnMut(&TaskSpec) -> Fate + Send>,
    now_ms: u64,
    tasks: BTreeMap<AllocationId, FakeTask>,
    starts: Vec<(AllocationId, u32)>,
}

impl std::fmt::Debug for FakeDriver {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("FakeDriver")
            .field("now_ms", &self.now_ms)
            .field("tasks", &self.tasks)
            .finish_non_exhaustive()
    }
}

impl FakeDriver {
    /// A driver on which each start meets the fate that `fate` gives it.
    pub fn new(fate: impl FnMut(&TaskSpec) -> Fate + Send + 'static) -> Self {
        Self { fate: Box::new(fate), now_ms: 0, tasks: BTreeMap::new(), starts: Vec::new() }
    }

    /// Lets time pass up to `now_ms`, and returns what happened, in order of allocations. A later call goes on.
    pub fn advance(&mut self, now_ms: u64) -> Vec<DriverEvent> {
        self.now_ms = self.now_ms.max(now_ms);
        let now_ms = self.now_ms;
        let mut events = Vec::new();
        for (&allocation, task) in self.tasks.iter_mut().filter(|(_, task)| !task.is_left) {
            task.advance(now_ms);
            let restart = task.task.restart;
            if task.recorded_at_ms <= now_ms && task.told < Told::Recorded {
                task.told = Told::Recorded;
                events.push(DriverEvent::Recorded { allocation, restart });
            }
            if task.started_at_ms.is_some_and(|at_ms| at_ms <= now_ms) && task.told < Told::Started {
                task.told = Told::Started;
                events.push(DriverEvent::Started { allocation, restart });
            }
            let Some(exit) = &task.exit else { continue };
            if task.told < Told::Exited {
                task.told = Told::Exited;
                events.push(DriverEvent::Exited { allocation, restart, exit: exit.clone() });
            }
            if task.told < Told::Gone && task.ended_at_ms + task.fate.gone_after_ms <= now_ms {
                task.told = Told::Gone;
                events.push(DriverEvent::Gone { allocation, restart });
            }
        }
        events
    }

    /// When something happens next; `None`: not by itself.
    #[must_use]
    pub fn next_at_ms(&self) -> Option<u64> {
        self.tasks.values().filter_map(FakeTask::next_at_ms).min()
    }

    /// All starts ever made, in order. The same one twice would be a bug of the agent or of this fake.
    #[must_use]
    pub fn starts(&self) -> &[(AllocationId, u32)] {
        &self.starts
    }

    /// How the latest start of an allocation ended; `None`: it did not, or there was none.
    #[must_use]
    pub fn ended(&self, allocation: AllocationId) -> Option<Ended<'_>> {
        let task = self.tasks.get(&allocation)?;
        let exit = task.exit.as_ref()?;
        Some(Ended { restart: task.task.restart, exit, booted: task.booted, forgotten: task.forgotten })
    }

    /// What runs now, or has ended and is not gone.
    pub fn running(&self) -> impl Iterator<Item = AllocationId> {
        self.tasks.values().filter(|task| task.lives(self.now_ms)).map(|task| task.task.allocation)
    }

    /// Which start of an allocation runs now, or has ended and is not gone; `None`: none does.
    #[must_use]
    pub fn running_start(&self, allocation: AllocationId) -> Option<u32> {
        let task = self.tasks.get(&allocation).filter(|task| task.lives(self.now_ms))?;
        Some(task.task.restart)
    }

    /// The agent's process ends: which starts were ordered by it, and are not written down by now. They were never made, and nothing is left of them.
    /// What has no shim by now is left to the next agent. Finding what earlier agents left begins with the same.
    pub fn lose_orders(&mut self) -> Vec<(AllocationId, u32)> {
        let now_ms = self.now_ms;
        let lost = self.tasks.values().filter(|task| task.recorded_at_ms > now_ms);
        let lost: Vec<_> = lost.map(|task| (task.task.allocation, task.task.restart)).collect();
        for start in &lost {
            self.tasks.remove(&start.0);
            // The newest: a cell that was restored may have asked for the same before.
            if let Some(place) = self.starts.iter().rposition(|made| made == start) {
                self.starts.remove(place);
            }
        }
        for task in self.tasks.values_mut().filter(|task| task.exit.is_none() && task.shim_at_ms > now_ms) {
            (task.is_left, task.stopped) = (true, false);
        }
        lost
    }

    /// What was written down of one of the tasks that run can't be read any more: the next agent stops it, and however it ends, it can only say that it is
    /// lost. Of those that can be read it is the one with this number, counted round; `None`: there is none.
    pub fn spoil_record(&mut self, number: usize) -> Option<AllocationId> {
        let count = self.tasks.values().filter(|task| task.can_be_spoiled()).count();
        let mut found = self.tasks.values_mut().filter(|task| task.can_be_spoiled());
        let spoiled = found.nth(number.checked_rem(count)?)?;
        spoiled.unreadable = true;
        Some(spoiled.task.allocation)
    }

    /// The machine boots: nothing runs any more, not even what was about to go, and traces stay.
    pub fn reboot(&mut self) {
        let now_ms = self.now_ms;
        for task in self.tasks.values_mut() {
            task.booted = true;
            task.is_left = false;
            task.fate.gone_after_ms = 0;
        }
        for task in self.tasks.values_mut().filter(|task| task.exit.is_none()) {
            let failure = Failure::new(FailureKind::Booted, "the machine was booted while it ran");
            task.exit = Some(Exit::failed(failure, now_ms));
            task.ended_at_ms = now_ms;
        }
    }
}

impl FakeTask {
    /// It is made from now on: when what of it happens.
    fn begin(&mut self, recorded_at_ms: u64) {
        let fate = &self.fate;
        let never_ran = fate.exit.started_unix_ms.is_none() && fate.exit.failure.is_some();
        (self.is_left, self.told, self.recorded_at_ms) = (false, Told::Nothing, recorded_at_ms);
        self.shim_at_ms = recorded_at_ms + fate.shim_after_ms;
        let runs_at_ms = self.shim_at_ms + fate.starts_after_ms;
        self.started_at_ms = (!never_ran).then_some(runs_at_ms);
        self.ends_at_ms = fate.runs_ms.map(|runs_ms| runs_at_ms + runs_ms);
    }

    /// It was left, and nobody wants it any more.
    fn give_up(&mut self, now_ms: u64) {
        (self.is_left, self.told, self.ended_at_ms) = (false, Told::Started, now_ms);
        // It never had a shim: where the same start is asked for again, none is told of either.
        (self.started_at_ms, self.ends_at_ms, self.fate.gone_after_ms) = (None, Some(now_ms), 0);
        self.exit = Some(Exit { stop_requested: true, ended_unix_ms: now_ms, ..Exit::default() });
    }

    fn advance(&mut self, now_ms: u64) {
        if self.exit.is_none()
            && let Some(ends_at_ms) = self.ends_at_ms.filter(|at_ms| *at_ms <= now_ms)
        {
            let killed = Exit { code: None, signal: Some(15), stop_requested: true, ..self.fate.exit.clone() };
            let exit = if self.stopped { killed } else { self.fate.exit.clone() };
            let exit = Exit { started_unix_ms: self.started_at_ms, ended_unix_ms: ends_at_ms, ..exit };
            let unreadable = Failure::new(FailureKind::Unreadable, "its record can't be read");
            // However it ended, nobody can tell.
            self.exit = Some(if self.unreadable { Exit::failed(unreadable, ends_at_ms) } else { exit });
            self.ended_at_ms = ends_at_ms;
        }
    }

    /// It is told to stop. It may be faster by itself.
    fn stop(&mut self, now_ms: u64) {
        let ends_at_ms = now_ms + self.fate.stops_after_ms;
        if self.ends_at_ms.is_none_or(|at_ms| at_ms > ends_at_ms) {
            self.stopped = true;
            self.ends_at_ms = Some(ends_at_ms);
        }
    }

    /// It has a shim, and has not ended.
    fn can_be_spoiled(&self) -> bool {
        !self.is_left && self.exit.is_none() && !self.unreadable
    }

    /// Something of it is left.
    fn lives(&self, now_ms: u64) -> bool {
        !self.is_left && (self.exit.is_none() || self.ended_at_ms + self.fate.gone_after_ms > now_ms)
    }

    fn has_run_by(&self, now_ms: u64) -> bool {
        self.started_at_ms.is_some_and(|at_ms| at_ms <= now_ms)
    }

    fn next_at_ms(&self) -> Option<u64> {
        match self.told {
            _ if self.is_left => None,
            Told::Nothing => Some(self.recorded_at_ms),
            Told::Recorded => self.started_at_ms.or(self.ends_at_ms),
            Told::Started => self.ends_at_ms,
            Told::Exited => Some(self.ended_at_ms + self.fate.gone_after_ms),
            Told::Gone => None,
        }
    }

    fn found(&self, now_ms: u64) -> Found {
        match &self.exit {
            Some(exit) if !self.lives(now_ms) => Found::Ended(exit.clone()),
            // Its shim is not what is left of it.
            Some(_) => Found::Leaving { ran: self.has_run_by(self.ended_at_ms) },
            None if self.is_left => Found::NotStarted,
            // Of what ran once, the cell hears of no step back.
            None if self.unreadable => Found::Leaving { ran: true },
            None => Found::Alive { running: self.has_run_by(now_ms) },
        }
    }
}

impl Driver for FakeDriver {
    fn recover(&mut self) -> io::Result<Vec<Recovered>> {
        let now_ms = self.now_ms;
        self.lose_orders();
        let mut all = Vec::new();
        for (&allocation, task) in self.tasks.iter_mut().filter(|(_, task)| !task.forgotten) {
            if !task.is_left {
                task.advance(now_ms);
            }
            if task.unreadable && task.exit.is_none() && !task.stopped {
                task.stop(now_ms);
            }
            let found = task.found(now_ms);
            // Ends are in what is returned, and that something ran that leaves; the rest is told again.
            task.told = match found {
                Found::Ended(_) => Told::Gone,
                Found::Leaving { .. } => Told::Started,
                Found::NotStarted | Found::Alive { .. } => Told::Nothing,
            };
            all.push(Recovered {
                allocation,
                restart: task.task.restart,
                restarts_at: task.task.restarts_at(),
                ran_before: task.ran_before,
                found,
                traces: task.task.traces.clone(),
                policy: task.task.policy,
                booted: task.booted,
            });
        }
        Ok(all)
    }

    fn start(&mut self, task: TaskSpec) {
        let runs = self.running_start(task.allocation).filter(|restart| *restart != task.restart);
        debug_assert!(runs.is_none(), "{}: restart {} beside {runs:?}", task.allocation, task.restart);
        // What was forgotten has left no trace.
        let known = self.tasks.get_mut(&task.allocation).filter(|known| !known.forgotten);
        let ran_before = match known {
            Some(known) if known.task.restart == task.restart => {
                if known.is_left {
                    known.begin(self.now_ms);
                }
                known.told = Told::Nothing;
                return;
            }
            Some(known) => known.ran_before || known.exit.as_ref().is_some_and(|exit| exit.started_unix_ms.is_some()),
            None => false,
        };
        self.starts.push((task.allocation, task.restart));
        let fate = (self.fate)(&task);
        let mut fake = FakeTask {
            recorded_at_ms: 0,
            shim_at_ms: 0,
            is_left: false,
            started_at_ms: None,
            ends_at_ms: None,
            stopped: false,
            exit: None,
            ended_at_ms: 0,
            told: Told::Nothing,
            ran_before,
            forgotten: false,
            booted: false,
            unreadable: false,
            fate,
            task,
        };
        // Of a later start there are traces of those before it, whatever becomes of it.
        let recorded_after_ms = if fake.task.restart == 0 { fake.fate.recorded_after_ms } else { 0 };
        fake.begin(self.now_ms + recorded_after_ms);
        self.tasks.insert(fake.task.allocation, fake);
    }

    fn stop(&mut self, allocation: AllocationId) {
        let now_ms = self.now_ms;
        if let Some(task) = self.tasks.get_mut(&allocation).filter(|task| task.exit.is_none() && !task.stopped) {
            if task.is_left {
                return task.give_up(now_ms);
            }
            task.stop(now_ms);
        }
    }

    fn forget(&mut self, allocation: AllocationId) {
        if let Some(task) = self.tasks.get_mut(&allocation) {
            task.forgotten = true;
        }
    }
}

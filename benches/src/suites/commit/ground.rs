//! The ground that loads are measured on: a cell with its machines, its agents, a rival, and so many live allocations. Several loads
//! run on it, one after the other, so that it is made once; at the end it is killed, started again, and looked through.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tokio::task::JoinHandle;

use super::agents::Agents;
use super::cell::{self, Registered, Serving};
use super::load::{Counters, Load, Manner, Pace};
use super::resting;
use super::rival::{self, Rival};
use super::scheduler::{self, Due, Ended, Scheduler};
use crate::progress::say;
use crate::server_process::ServerProcess;
use crate::suites::Others;
use crate::{event_loop, processes};

/// Live tasks of one job when all are placed, …
const JOB_TASKS: u32 = 1000;
/// … and how many more it has: tasks of transactions under way are neither live nor waiting.
pub(crate) const SPARE_TASKS: u32 = 200;
/// Room of a machine, in tasks for each one that is live there on average: what was stopped keeps its room until its receipt.
pub(crate) const ROOM: u32 = 5;
/// Between two looks at whether the agents have reported everything.
const LOOK: Duration = Duration::from_millis(10);
/// How the cell is filled.
const FILLING: Manner = Manner { claims: 4000, in_flight: 2, mirrors: false, pace: Pace::Fill };
const FILLING_STREAMS: u32 = 4;

/// How large a cell is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) machines: u32,
    /// Live allocations that are not leaving, in steady state.
    pub(crate) live: u32,
}

/// A live allocation that is not leaving.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Live {
    pub(crate) id: u64,
    /// Its slot.
    pub(crate) machine: u32,
    /// The position of its job in its share.
    pub(crate) job: u32,
    pub(crate) task: u32,
}

/// A job, as far as a scheduler of the load knows it.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) id: u64,
    /// Tasks that wait.
    pub(crate) waiting: Vec<u32>,
}

/// What one scheduler works with.
#[derive(Debug, Default)]
pub(crate) struct Share {
    pub(crate) jobs: Vec<Job>,
    pub(crate) live: Vec<Live>,
    /// So many shall be live.
    pub(crate) aim: usize,
}

/// Deals jobs and what is live of them to so many schedulers.
fn deal(whole: Share, streams: u32, live: u32) -> Vec<Share> {
    let count = streams as usize;
    let mut shares: Vec<Share> = (0..count).map(|_| Share::default()).collect();
    for (position, job) in whole.jobs.into_iter().enumerate() {
        shares[position % count].jobs.push(job);
    }
    for allocation in whole.live {
        let job = allocation.job as usize;
        let position = u32::try_from(job / count).expect("a part of a position");
        shares[job % count].live.push(Live { job: position, ..allocation });
    }
    let jobs: usize = shares.iter().map(|share| share.jobs.len()).sum();
    for share in &mut shares {
        share.aim = live as usize * share.jobs.len() / jobs.max(1);
    }
    shares
}

/// The whole again.
fn gather(shares: impl Iterator<Item = Share>) -> Share {
    let mut whole = Share::default();
    for share in shares {
        let first = u32::try_from(whole.jobs.len()).expect("jobs have 32 bits");
        whole.live.extend(share.live.into_iter().map(|live| Live { job: first + live.job, ..live }));
        whole.jobs.extend(share.jobs);
    }
    whole
}

/// A cell under load.
pub(crate) struct Ground {
    dir: PathBuf,
    serving: Serving,
    process: ServerProcess,
    size: Size,
    /// All of them, the rival's last.
    machines: Vec<Registered>,
    agents: Agents,
    rival: Rival,
    whole: Share,
    /// The newest revision that was acknowledged.
    revision: u64,
    seed: u64,
    /// Whether the log had come to use segments again before the loads that are measured.
    pub(super) segments_used_again: bool,
}

/// A load that runs.
pub(crate) struct Running {
    pub(crate) load: Arc<Load>,
    schedulers: Vec<JoinHandle<anyhow::Result<Ended>>>,
    live_before: usize,
}

/// What is known of a load when it is over.
pub(crate) struct Over {
    /// Transactions that were due and never sent.
    pub(crate) unsent: u64,
    /// How long the history took until it had the load, too; `None` where none is kept.
    pub(crate) history_caught_up_after: Option<f64>,
    /// How long the server went on working after that; `None` where it did not come to rest.
    pub(crate) rested_after: Option<f64>,
}

impl Ground {
    /// Starts a cell in this directory, which must not be there, and fills it.
    pub(crate) async fn prepare(dir: &Path, size: Size, serving: Serving, seed: u64) -> anyhow::Result<Self> {
        let began = Instant::now();
        let mut ground = Self::empty(dir, size, serving, seed).await?;
        ground.fill(size.live).await?;
        let Size { machines, live } = size;
        say(&format!(
            "{machines} machines, {live} live allocations: there after {:.1} s",
            began.elapsed().as_secs_f64()
        ));
        Ok(ground)
    }

    /// Starts a cell in this directory, which must not be there, with machines and jobs and nothing that is live.
    pub(crate) async fn empty(dir: &Path, size: Size, serving: Serving, seed: u64) -> anyhow::Result<Self> {
        let process = cell::start(dir, serving).await?;
        let tasks = ROOM * size.live.div_ceil(size.machines);
        let mut machines = cell::register(process.address(), "machine", size.machines, tasks).await?;
        let own = cell::register(process.address(), "rival", rival::MACHINES, 1).await?;
        machines.extend(&own);
        let agents = Agents::start(process.address(), machines.clone()).await?;
        let rival = Rival::start(process.address(), own, size.machines).await?;
        let mut whole = Share::default();
        let channel = cell::connect(process.address()).await?;
        for number in 0..size.live.div_ceil(JOB_TASKS) {
            let tasks = JOB_TASKS + SPARE_TASKS;
            let name = format!("load-{number}");
            let id = cell::submit(channel.clone(), name, scheduler::NAME.to_owned(), tasks).await?;
            whole.jobs.push(Job { id, waiting: (0..tasks).rev().collect() });
        }
        let size = Size { live: 0, ..size };
        let (dir, revision, segments_used_again) = (dir.to_owned(), 0, false);
        Ok(Self { dir, serving, process, size, machines, agents, rival, whole, revision, seed, segments_used_again })
    }

    /// Places tasks until so many allocations are live.
    pub(crate) async fn fill(&mut self, live: u32) -> anyhow::Result<()> {
        self.size.live = live;
        let streams = FILLING_STREAMS.min(u32::try_from(self.whole.jobs.len())?);
        let filling = self.begin(FILLING, streams, Vec::new()).await?;
        self.end(filling).await.context("while the cell was filled")?;
        let found = self.whole.live.len();
        ensure!(found == live as usize, "expected {live} live allocations in the filled cell, found {found}");
        Ok(())
    }

    /// Ends the server as an operator would, and starts it again on its directory.
    pub(crate) async fn restart(self, serving: Serving) -> anyhow::Result<Self> {
        let Self {
            dir, size, mut process, machines, agents, rival, whole, revision, seed, segments_used_again, ..
        } = self;
        let left = rival.finish().await?;
        ensure!(left.is_empty(), "the rival left {} allocations", left.len());
        agents.finish().await?;
        process.end().await?;
        let process = cell::start(&dir, serving).await?;
        let agents = Agents::start(process.address(), machines.clone()).await?;
        let own = machines[size.machines as usize..].to_vec();
        let rival = Rival::start(process.address(), own, size.machines).await?;
        Ok(Self { dir, serving, process, size, machines, agents, rival, whole, revision, seed, segments_used_again })
    }

    pub(crate) fn address(&self) -> &str {
        self.process.address()
    }

    /// The folder of the server's log.
    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// The server's process.
    pub(crate) fn process(&self) -> u32 {
        self.process.id()
    }

    /// The server's memory, after its allocator gave back what it only kept for later.
    pub(crate) async fn memory_bytes(&self) -> anyhow::Result<u64> {
        cell::memory_bytes(&self.process).await
    }

    pub(crate) fn size(&self) -> Size {
        self.size
    }

    pub(crate) fn agents(&self) -> &Agents {
        &self.agents
    }

    /// Starts so many schedulers, and sets agents and rival to work: beside an idle cell's client neither, while the cell is filled agents alone.
    /// With `dues` each scheduler has its own: they send when a transaction is due.
    pub(crate) async fn begin(&mut self, manner: Manner, streams: u32, dues: Vec<Due>) -> anyhow::Result<Running> {
        self.seed = self.seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        let (stopped, race) = (self.agents.stopped(), self.rival.race());
        let load = Arc::new(Load::new(manner, streams, self.size.machines, stopped, race));
        let live_before = self.whole.live.len();
        let shares = deal(std::mem::take(&mut self.whole), streams, self.size.live);
        let mut dues = dues.into_iter();
        self.agents.rest(manner.is_idle(streams));
        self.agents.report_seldom(manner.claims == 1);
        self.rival.race().want(manner.has_rival(streams));
        let on = event_loop::of_clients(streams, manner.in_flight)?;
        let mut opened = Vec::new();
        for (number, share) in (0..streams).zip(shares) {
            let seed = self.seed.wrapping_add(number.into());
            let (address, load, due) = (self.process.address().to_owned(), load.clone(), dues.next());
            let open = async move { Scheduler::open(&address, number, seed, &load, share, due).await };
            opened.push(on.spawn(open).await??);
        }
        let schedulers = opened.into_iter().map(|scheduler| on.spawn(scheduler.run())).collect();
        Ok(Running { load, schedulers, live_before })
    }

    /// Whether everybody is still at work.
    pub(crate) fn check(&self, running: &Running) -> anyhow::Result<()> {
        if let Some(failure) = running.load.failure() {
            bail!(failure);
        }
        if let Some(failure) = self.agents.failure() {
            bail!("the agents gave up: {failure}");
        }
        ensure!(!self.rival.has_failed(), "the rival gave up");
        Ok(())
    }

    /// Lets a load run so long.
    pub(crate) async fn wait(&self, running: &Running, time: Duration) -> anyhow::Result<()> {
        tokio::time::sleep(time).await;
        self.check(running)
    }

    /// Ends a load, and waits until the history has it all, where one is kept, and until the server rests. Nobody is at work on this cell then, until the
    /// next load, its server neither: what is measured beside it has the machine for itself. Where the server does not come to rest, that is said.
    pub(crate) async fn end(&mut self, running: Running) -> anyhow::Result<Over> {
        let unsent = self.end_before_its_history(running).await?;
        let history_caught_up_after =
            if self.serving.has_history() { Some(cell::history_caught_up(self.address()).await?) } else { None };
        let began = Instant::now();
        let rested_after = resting::comes_to_rest(self.process()).await?.then(|| began.elapsed().as_secs_f64());
        if rested_after.is_none() {
            say(
                "the server is still at work after a load: what is measured beside it does not have the machine for itself",
            );
        }
        Ok(Over { unsent, history_caught_up_after, rested_after })
    }

    /// Ends a load, and checks that what it was told adds up; what the history still lacks of it the server goes on to write. Gives transactions that
    /// were due and never sent. A filling load ends by itself.
    pub(crate) async fn end_before_its_history(&mut self, running: Running) -> anyhow::Result<u64> {
        if running.load.manner.pace != Pace::Fill {
            running.load.stop();
        }
        let (mut shares, mut unsent) = (Vec::new(), 0);
        for scheduler in running.schedulers {
            let ended = scheduler.await.context("a scheduler of the load")??;
            self.revision = self.revision.max(ended.revision);
            unsent += ended.unsent;
            shares.push(ended.share);
        }
        self.whole = gather(shares.into_iter());
        let Counters { granted, stopped, .. } = running.load.counters();
        let expected = running.live_before as u64 + granted - stopped;
        let found = self.whole.live.len() as u64;
        ensure!(expected == found, "granted less stopped is {expected} live allocations, the load knows {found}");
        self.rest().await?;
        Ok(unsent)
    }

    /// Lets the rival rest, and the agents as soon as they have reported all that was stopped.
    async fn rest(&self) -> anyhow::Result<()> {
        self.rival.race().want(false);
        self.agents.rest(false);
        self.agents.report_seldom(false);
        while self.agents.stopped().leaving() > 0 {
            if let Some(failure) = self.agents.failure() {
                bail!("the agents gave up: {failure}");
            }
            tokio::time::sleep(LOOK).await;
        }
        self.agents.rest(true);
        Ok(())
    }

    /// Kills the server (SIGKILL), starts it again on its directory, and checks that exactly what was acknowledged is live there.
    pub(crate) async fn kill_and_check(self) -> anyhow::Result<Again> {
        let (dir, serving) = (self.dir.clone(), self.serving);
        let left = self.kill().await?;
        left.check(&dir, serving).await
    }

    /// Kills the server (SIGKILL). Gives what must be found in its directory.
    pub(crate) async fn kill(self) -> anyhow::Result<Left> {
        let Self { mut process, agents, rival, whole, revision, .. } = self;
        let mut live = rival.finish().await?;
        agents.finish().await?;
        process.kill().await?;
        live.extend(whole.live.iter().map(|live| live.id));
        Ok(Left { live, revision })
    }
}

/// How a server that was killed began again.
pub(crate) struct Again {
    /// From its start to serving.
    pub(crate) seconds: f64,
    /// Cores that others kept busy meanwhile.
    pub(crate) cores_of_others: f64,
}

/// What was acknowledged before a server was killed.
pub(crate) struct Left {
    live: Vec<u64>,
    revision: u64,
}

impl Left {
    /// Starts a server on this directory, checks that exactly what was acknowledged is live there, and kills it.
    pub(crate) async fn check(&self, dir: &Path, serving: Serving) -> anyhow::Result<Again> {
        let others = Others::look(vec![std::process::id()])?;
        let began = Instant::now();
        let mut again = cell::start(dir, serving).await?;
        let seconds = began.elapsed().as_secs_f64();
        let cores_of_others = others.cores_beside(processes::cpu_seconds(again.id())?)?;
        let mut live = self.live.clone();
        cell::check(again.address(), &mut live, self.revision).await.context("after kill -9 and a restart")?;
        again.kill().await?;
        say(&format!("killed; serves again after {seconds:.1} s, and all {} live allocations are there", live.len()));
        Ok(Again { seconds, cores_of_others })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_dealt_is_gathered_again() {
        let jobs = (0..7).map(|job| Job { id: 100 + job, waiting: vec![9] }).collect();
        let live = (0..70).map(|id| Live { id, machine: 3, job: u32::try_from(id % 7).unwrap(), task: 1 }).collect();
        let shares = deal(Share { jobs, live, aim: 0 }, 3, 70);
        assert_eq!(shares.iter().map(|share| share.jobs.len()).collect::<Vec<_>>(), [3, 2, 2]);
        assert_eq!(shares.iter().map(|share| share.aim).sum::<usize>(), 70);
        for share in &shares {
            // Each allocation is of the job that it was of.
            assert!(share.live.iter().all(|live| share.jobs[live.job as usize].id == 100 + live.id % 7));
        }
        let whole = gather(shares.into_iter());
        assert_eq!((whole.jobs.len(), whole.live.len()), (7, 70));
        assert!(whole.live.iter().all(|live| whole.jobs[live.job as usize].id == 100 + live.id % 7));
    }
}

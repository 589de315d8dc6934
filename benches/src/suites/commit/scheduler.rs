//! A scheduler of the load: a session's stream, transactions of claims and stops at random, a bounded number of them under way.

use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use plenum_proto::v1;
use plenum_proto::v1::session_request::Ask;
use plenum_proto::v1::session_response::Tell;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use super::cell::{client, connect};
use super::ground::{Live, SPARE_TASKS, Share};
use super::load::{Count, Load, Pace};
use super::mirror::Mirror;
use super::rival::Losers;
use super::under_way::UnderWay;
use crate::latency;
use crate::random::Random;

/// The name of all of them: sessions of one name share its jobs.
pub(crate) const NAME: &str = "load";

/// When transactions are due; closed when there are no more.
pub(crate) type Due = mpsc::UnboundedReceiver<Instant>;

/// A transaction under way.
struct Sent {
    number: u64,
    /// When it was due.
    due: Instant,
    /// By placement: the job's position, machines and tasks.
    placements: Vec<(usize, Vec<u32>, Vec<u32>)>,
    stops: Vec<Live>,
    claims: usize,
}

/// One scheduler.
pub(crate) struct Scheduler {
    load: Arc<Load>,
    number: u32,
    due: Option<Due>,
    channel: Channel,
    sends: mpsc::Sender<v1::SessionRequest>,
    receives: Streaming<v1::SessionResponse>,
    mirror: Option<Mirror>,
    random: Random,
    session: u64,
    incarnation: u64,
    /// The newest revision that was seen: the base of what is decided.
    revision: u64,
    transactions: u64,
    share: Share,
    next_job: usize,
    losers: Losers,
    /// Won on a machine of the rival: stopped first, so that the rival gets it back.
    misplaced: Vec<Live>,
    in_flight: UnderWay<Sent>,
    claims_in_flight: usize,
}

/// What a scheduler knows at its end.
pub(crate) struct Ended {
    pub(crate) share: Share,
    /// The newest revision that was acknowledged.
    pub(crate) revision: u64,
    /// Transactions that were due and never sent.
    pub(crate) unsent: u64,
}

impl Scheduler {
    /// Opens its session. With `due` it sends when a transaction is due, otherwise whenever it may.
    pub(crate) async fn open(
        address: &str,
        number: u32,
        seed: u64,
        load: &Arc<Load>,
        share: Share,
        due: Option<Due>,
    ) -> anyhow::Result<Self> {
        let channel = connect(address).await?;
        let manner = load.manner;
        let (sends, queued) = mpsc::channel(manner.in_flight as usize + 1);
        let sections = if manner.mirrors { Vec::new() } else { vec![v1::Section::Outcomes.into()] };
        let namespace = "default".to_owned();
        let hello = v1::Hello { scheduler: NAME.to_owned(), namespace, sections, ..v1::Hello::default() };
        sends.send(v1::SessionRequest { ask: Some(Ask::Hello(hello)) }).await?;
        let receives = client(channel.clone()).session(ReceiverStream::new(queued)).await?.into_inner();
        Ok(Self {
            load: load.clone(),
            number,
            due,
            channel,
            sends,
            receives,
            mirror: manner.mirrors.then(Mirror::default),
            random: Random::new(seed),
            session: 0,
            incarnation: 0,
            revision: 0,
            transactions: 0,
            share,
            next_job: 0,
            losers: Losers::default(),
            misplaced: Vec::new(),
            in_flight: UnderWay::new(manner.in_flight as usize, Instant::now()),
            claims_in_flight: 0,
        })
    }

    /// Loads the cell until it is told to stop, or has filled it. Then its session is closed.
    pub(crate) async fn run(mut self) -> anyhow::Result<Ended> {
        let followed = self.follow().await;
        if let Err(error) = &followed {
            self.load.fail(format!("{error:#}"));
        }
        let unsent = followed?;
        let Self { channel, session, incarnation, mut share, revision, sends, receives, misplaced, .. } = self;
        share.live.extend(misplaced);
        drop((sends, receives));
        client(channel).close(v1::CloseRequest { session, incarnation }).await.context("a session was not closed")?;
        Ok(Ended { share, revision, unsent })
    }

    /// Gives how many transactions were due and never sent.
    async fn follow(&mut self) -> anyhow::Result<u64> {
        loop {
            let ready = self.session > 0 && self.mirror.as_ref().is_none_or(Mirror::is_filled);
            let over = self.load.stops() || self.is_full();
            while ready && !over && self.due.is_none() && self.in_flight.has_room() && !self.is_full() {
                self.send(Instant::now()).await?;
            }
            if over && self.in_flight.is_empty() {
                return Ok(self.give_up_due());
            }
            let may_send = ready && !over && self.in_flight.has_room();
            tokio::select! {
                message = self.receives.message() => {
                    self.take(message?.context("the server ended the stream")?)?;
                    // What came together is taken together. Who waits for no outcome and has no mirror does not look: only heartbeats come.
                    while (!self.in_flight.is_empty() || self.mirror.is_some())
                        && let Some(message) = at_hand(self.receives.message()).await
                    {
                        self.take(message?.context("the server ended the stream")?)?;
                    }
                }
                due = next(&mut self.due), if may_send => match due {
                    Some(due) => self.send(due).await?,
                    None => self.due = None,
                }
            }
            if self.load.manner.pace == Pace::Open && self.due.is_none() {
                self.load.stop();
            }
        }
    }

    /// Filling is over.
    fn is_full(&self) -> bool {
        self.load.manner.pace == Pace::Fill && self.share.live.len() + self.claims_in_flight >= self.share.aim
    }

    /// What was due and not sent has waited so long already: not to count it would hide the worst.
    fn give_up_due(&mut self) -> u64 {
        let mut unsent = 0;
        while let Some(due) = self.due.as_mut().and_then(|due| due.try_recv().ok()) {
            if due <= Instant::now() {
                self.load.took(self.number, latency::micros(due.elapsed()));
                unsent += 1;
            }
        }
        unsent
    }

    async fn send(&mut self, due: Instant) -> anyhow::Result<()> {
        let transaction = self.transaction(due);
        let request = v1::SessionRequest { ask: Some(Ask::Commit(transaction)) };
        if self.load.manner.pace == Pace::Open {
            self.load.was_late(self.number, latency::micros(self.in_flight.late(due, Instant::now())));
        }
        self.sends.send(request).await.context("the stream takes nothing any more")
    }

    fn take(&mut self, message: v1::SessionResponse) -> anyhow::Result<()> {
        match message.tell.context("a message that says nothing")? {
            Tell::Welcome(welcome) => self.welcome(&welcome),
            Tell::Outcome(outcome) => self.outcome(&outcome),
            Tell::Error(error) => bail!("transaction {}: {} {}", error.number, error.code, error.message),
            Tell::Snapshot(part) => self.mirror.as_mut().map_or(Ok(()), |mirror| mirror.fill(part)),
            Tell::Deltas(deltas) => self.mirror.as_mut().map_or(Ok(()), |mirror| mirror.fold(deltas)),
            Tell::Heartbeat(_) => Ok(()),
        }
    }

    fn welcome(&mut self, welcome: &v1::Welcome) -> anyhow::Result<()> {
        ensure!(self.session == 0 || self.session == welcome.session, "the stream began another session");
        (self.session, self.incarnation) = (welcome.session, welcome.incarnation);
        self.revision = self.revision.max(welcome.revision);
        if let Some(mirror) = &mut self.mirror {
            *mirror = Mirror::default();
        }
        Ok(())
    }

    /// Claims for tasks that wait, and as many stops of live allocations picked at random as keep their number.
    fn transaction(&mut self, due: Instant) -> v1::Transaction {
        let mut claims = self.load.manner.claims as usize;
        if self.load.manner.pace == Pace::Fill {
            claims = claims.min(self.share.aim - self.share.live.len() - self.claims_in_flight);
        }
        let turn = self.load.race.turn().filter(|_| self.load.manner.pace != Pace::Fill);
        let (of_transaction, seen) = (self.load.manner.claims, self.revision);
        let mut losers = turn.map_or(0, |turn| self.losers.take(of_transaction, turn, seen));
        let base = turn.filter(|_| losers > 0).map_or(seen, |turn| turn.base);
        let mut placements = Vec::new();
        let mut left = claims;
        // Once around at most: that so many tasks wait was made sure when the cell was filled.
        for _ in 0..self.share.jobs.len() {
            if left == 0 {
                break;
            }
            self.next_job = (self.next_job + 1) % self.share.jobs.len();
            let mut tasks = self.waiting_tasks(left);
            if tasks.is_empty() {
                continue;
            }
            tasks.sort_unstable();
            left -= tasks.len();
            let machines = tasks.iter().map(|_| match turn {
                Some(turn) if losers > 0 => {
                    losers -= 1;
                    self.load.machines + turn.machine(losers)
                }
                _ => self.random.below(self.load.machines),
            });
            placements.push((self.next_job, machines.collect::<Vec<u32>>(), tasks));
        }
        let stops = self.victims(claims - left);
        self.transactions += 1;
        let transaction = v1::Transaction {
            session: self.session,
            number: self.transactions,
            incarnation: self.incarnation,
            base_revision: base,
            check: v1::ConflictCheck::Fit.into(),
            placements: placements.iter().map(|(job, machines, tasks)| self.placement(*job, machines, tasks)).collect(),
            stops: stops.iter().map(|victim| victim.id).collect(),
            decision: Some(v1::DecisionMetadata { attempt: 1, policy: "random".to_owned(), ..Default::default() }),
            ..v1::Transaction::default()
        };
        let claims = claims - left;
        self.claims_in_flight += claims;
        self.in_flight.begin(Sent { number: self.transactions, due, placements, stops, claims });
        transaction
    }

    /// Tasks of the next job that wait, so many at most. While the cell is filled, each job keeps some for later.
    fn waiting_tasks(&mut self, most: usize) -> Vec<u32> {
        let filling = self.load.manner.pace == Pace::Fill;
        let waiting = &mut self.share.jobs[self.next_job].waiting;
        let kept = if filling { SPARE_TASKS as usize } else { 0 };
        let count = most.min(waiting.len().saturating_sub(kept));
        waiting.split_off(waiting.len() - count)
    }

    /// Whom a transaction of so many claims stops.
    fn victims(&mut self, claims: usize) -> Vec<Live> {
        if self.load.manner.pace == Pace::Fill {
            return Vec::new();
        }
        let known = self.share.live.len() + self.misplaced.len() + self.claims_in_flight;
        let count = (known + claims).saturating_sub(self.share.aim).min(claims);
        let mut victims = self.misplaced.split_off(self.misplaced.len() - count.min(self.misplaced.len()));
        // All are drawn before any is taken, so that their rows come from memory together.
        let live = &mut self.share.live;
        let first = u32::try_from(live.len()).expect("rows have 32 bits");
        let drawn = (0..first).rev().take(count - victims.len()).map(|last| self.random.below(last + 1) as usize);
        let drawn: Vec<usize> = drawn.inspect(|&victim| plenum_model::prefetch(&live[victim])).collect();
        victims.extend(drawn.into_iter().map(|victim| live.swap_remove(victim)));
        victims
    }

    fn placement(&self, job: usize, machines: &[u32], tasks: &[u32]) -> v1::Placement {
        v1::Placement {
            job: self.share.jobs[job].id,
            job_version: 1,
            machines: machines.to_vec(),
            tasks: tasks.to_vec(),
            ..v1::Placement::default()
        }
    }

    fn outcome(&mut self, outcome: &v1::Outcome) -> anyhow::Result<()> {
        let sent = self.in_flight.end(Instant::now()).context("an outcome that nobody asked for")?;
        let (expected, found) = (sent.number, outcome.number);
        ensure!(expected == found, "expected the outcome of {expected}, found that of {found}");
        ensure!(outcome.idle_stops.is_empty(), "stops of live allocations found none: {:?}", outcome.idle_stops);
        if let Some(mirror) = &self.mirror {
            // What an outcome speaks of is in the mirror when it comes.
            ensure!(mirror.revision() >= outcome.revision, "an outcome came before the deltas up to its revision");
        }
        self.revision = self.revision.max(outcome.revision);
        self.claims_in_flight -= sent.claims;
        let (mut granted, mut refused) = (0, 0);
        ensure!(outcome.placements.len() == sent.placements.len(), "a placement was not answered");
        for ((job, machines, tasks), answer) in sent.placements.into_iter().zip(&outcome.placements) {
            ensure!(answer.allocations.len() == tasks.len(), "a claim was not answered");
            for ((machine, task), id) in machines.into_iter().zip(tasks).zip(&answer.allocations) {
                let live = Live { id: *id, machine, job: u32::try_from(job)?, task };
                if *id == 0 {
                    refused += 1;
                    self.share.jobs[job].waiting.push(task);
                    continue;
                }
                granted += 1;
                let placed = if machine < self.load.machines { &mut self.share.live } else { &mut self.misplaced };
                placed.push(live);
            }
        }
        ensure!(refused == outcome.refusals.len() as u64, "a claim was refused without a reason");
        let kind = v1::RefusalKind::Conflict;
        let others = || outcome.refusals.iter().filter(|refusal| refusal.kind() != kind);
        self.load.count(Count::Refused, refused);
        self.load.count(Count::NoRace, others().count() as u64);
        if let Some(other) = others().next() {
            self.load.note_other_refusal(other);
        }
        // A task may be placed again as soon as its allocation is leaving; its room comes back with the receipt.
        self.load.stopped.add(sent.stops.iter().map(|stopped| (stopped.id, stopped.machine)));
        for stopped in &sent.stops {
            self.share.jobs[stopped.job as usize].waiting.push(stopped.task);
        }
        self.load.took(self.number, latency::micros(sent.due.elapsed()));
        self.load.count(Count::Granted, granted);
        self.load.count(Count::Stopped, sent.stops.len() as u64);
        self.load.count(Count::Effective, u64::from(granted > 0));
        self.load.count(Count::Answered, 1);
        Ok(())
    }
}

/// What is there without waiting.
async fn at_hand<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// The next transaction that is due; never, for who sends whenever it may.
async fn next(due: &mut Option<Due>) -> Option<Instant> {
    match due {
        Some(due) => due.recv().await,
        None => std::future::pending().await,
    }
}

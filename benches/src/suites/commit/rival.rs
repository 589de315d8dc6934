//! A rival of the load: takes the whole room of a few machines again and again, so that claims on them lose to it.
//!
//! Two sets of machines take turns. While the load claims on one set, on a base from before it was taken, the other is leaving; its
//! receipts come just before it is taken again. So a claim on the set that was published always finds it full, and since its base:
//! a conflict, with the rival as culprit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use plenum_proto::v1;
use plenum_proto::v1::agents_client::AgentsClient;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

use super::agents;
use super::cell::{Registered, client, connect, submit};
use super::load::LOSERS_PERCENT;
use crate::event_loop;

/// Machines of one set. Each has room for one task.
pub(crate) const SET: u32 = 4;
/// Both sets.
pub(crate) const MACHINES: u32 = 2 * SET;
/// A turn. What the cell remembers of its machines' changes must reach back over the base of a claim: at some million changes a
/// second that is about a tenth of a second.
const TURN: Duration = Duration::from_millis(25);

/// Where claims lose at the moment.
#[derive(Debug, Default)]
pub(crate) struct Race {
    /// The base to claim on, and in the lowest bits the machines that are taken, one bit each; 0 while there is no race.
    state: AtomicU64,
    wanted: AtomicBool,
}

/// One published turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    /// The revision just before they were taken.
    pub(crate) base: u64,
    /// The machines, one bit each, from the first machine of the rival on.
    taken: u64,
}

impl Turn {
    /// One of the machines, as an offset to the first machine of the rival.
    pub(crate) fn machine(self, choice: u32) -> u32 {
        let mut left = self.taken;
        for _ in 0..choice % self.taken.count_ones() {
            left &= left - 1;
        }
        left.trailing_zeros()
    }
}

/// Claims of a scheduler that are to lose a race.
#[derive(Debug, Default)]
pub(crate) struct Losers {
    /// Hundredths of a claim that are due: a transaction of one claim has one in twenty.
    due: u32,
}

impl Losers {
    /// How many of the claims of a transaction lose this turn, whose scheduler has seen everything up to a revision. One that has not seen yet what was there
    /// just before the turn would claim on machines that were still leaving then: a misfit, and no race. What is due loses later.
    pub(crate) fn take(&mut self, claims: u32, turn: Turn, seen: u64) -> u32 {
        self.due = self.due.saturating_add(claims * LOSERS_PERCENT);
        if seen < turn.base {
            return 0;
        }
        let losers = (self.due / 100).min(claims);
        self.due -= losers * 100;
        losers
    }
}

impl Race {
    /// Lets the rival race, or rest.
    pub(crate) fn want(&self, wanted: bool) {
        self.wanted.store(wanted, Ordering::Release);
    }

    /// Whether some of the claims are to lose.
    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire)
    }

    /// Where claims lose now.
    pub(crate) fn turn(&self) -> Option<Turn> {
        let state = self.state.load(Ordering::Acquire);
        let turn = Turn { base: state >> MACHINES, taken: state & ((1 << MACHINES) - 1) };
        (turn.taken > 0).then_some(turn)
    }

    fn publish(&self, turn: Option<Turn>) {
        let state = turn.map_or(0, |turn| (turn.base << MACHINES) | turn.taken);
        self.state.store(state, Ordering::Release);
    }
}

/// The rival.
pub(crate) struct Rival {
    race: Arc<Race>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<anyhow::Result<Vec<u64>>>,
}

impl Rival {
    /// Opens its session. These machines are its own: `MACHINES` of them, the last ones of the cell, from this slot on.
    pub(crate) async fn start(address: &str, machines: Vec<Registered>, first_slot: u32) -> anyhow::Result<Self> {
        ensure!(machines.len() == MACHINES as usize, "a rival has {MACHINES} machines");
        let own_loop = event_loop::of_agents()?;
        let address = address.to_owned();
        let channel = own_loop.spawn(async move { connect(&address).await }).await??;
        let job = submit(channel.clone(), "race".to_owned(), "rival".to_owned(), MACHINES).await?;
        let open = v1::OpenRequest { scheduler: "rival".to_owned(), namespace: "default".to_owned() };
        let opened = client(channel.clone()).open(open).await.context("the rival's session")?.into_inner();
        let race = Arc::new(Race::default());
        let stop = Arc::new(AtomicBool::new(false));
        let racer = Racer {
            race: race.clone(),
            stop: stop.clone(),
            agents: AgentsClient::new(channel.clone()),
            channel,
            machines,
            first_slot,
            job,
            opened,
            number: 0,
            held: vec![0; MACHINES as usize],
        };
        Ok(Self { race, stop, task: own_loop.spawn(racer.run()) })
    }

    /// What the load looks at.
    pub(crate) fn race(&self) -> Arc<Race> {
        self.race.clone()
    }

    /// Whether it gave up.
    pub(crate) fn has_failed(&self) -> bool {
        self.task.is_finished()
    }

    /// Ends the race. Gives the allocations that it leaves in the cell.
    pub(crate) async fn finish(self) -> anyhow::Result<Vec<u64>> {
        self.stop.store(true, Ordering::Release);
        self.task.await.context("the rival")?
    }
}

struct Racer {
    race: Arc<Race>,
    stop: Arc<AtomicBool>,
    channel: Channel,
    agents: AgentsClient<Channel>,
    machines: Vec<Registered>,
    first_slot: u32,
    job: u64,
    opened: v1::OpenResponse,
    number: u64,
    /// By machine, the allocation that it has there, leaving or not; 0: none.
    held: Vec<u64>,
}

impl Racer {
    async fn run(mut self) -> anyhow::Result<Vec<u64>> {
        let mut second = false;
        while !self.stop.load(Ordering::Acquire) {
            let began = Instant::now();
            if self.race.is_wanted() {
                self.turn(second).await?;
                second = !second;
            } else {
                self.race.publish(None);
            }
            tokio::time::sleep(TURN.saturating_sub(began.elapsed())).await;
        }
        self.race.publish(None);
        self.leave().await
    }

    fn set(second: bool) -> std::ops::Range<usize> {
        let first = if second { SET as usize } else { 0 };
        first..first + SET as usize
    }

    /// Takes one set, and stops what it has on the other.
    async fn turn(&mut self, second: bool) -> anyhow::Result<()> {
        self.receipts(Self::set(second)).await?;
        let free: Vec<usize> = Self::set(second).filter(|machine| self.held[*machine] == 0).collect();
        let stops = Self::set(!second).map(|machine| self.held[machine]).filter(|held| *held > 0).collect();
        let outcome = self.commit(&free, stops).await?;
        let granted = outcome.placements.first().map(|placement| placement.allocations.as_slice()).unwrap_or_default();
        let mut taken = 0;
        for (machine, allocation) in free.iter().zip(granted) {
            // 0: somebody of the load was quicker. It is stopped by its owner, and the machine taken with a later turn.
            self.held[*machine] = *allocation;
            taken |= u64::from(*allocation > 0) << machine;
        }
        self.race.publish(Some(Turn { base: outcome.revision.saturating_sub(1), taken }));
        Ok(())
    }

    /// Reports the end of what was stopped on these machines, as a relay does.
    async fn receipts(&mut self, machines: std::ops::Range<usize>) -> anyhow::Result<()> {
        let held = self.held[machines.clone()].iter().zip(0..).filter(|(held, _)| **held > 0);
        let ended: Vec<(u64, u32)> = held.map(|(held, position)| (*held, position)).collect();
        if ended.is_empty() {
            return Ok(());
        }
        let again = agents::relay(self.agents.clone(), &self.machines[machines.clone()], ended).await?;
        if again.is_empty() {
            self.held[machines].fill(0);
        }
        Ok(())
    }

    async fn commit(&mut self, machines: &[usize], stops: Vec<u64>) -> anyhow::Result<v1::Outcome> {
        self.number += 1;
        let slots = machines.iter().map(|machine| Ok(self.first_slot + u32::try_from(*machine)?));
        let placement = v1::Placement {
            job: self.job,
            job_version: 1,
            machines: slots.collect::<anyhow::Result<_>>()?,
            tasks: machines.iter().map(|machine| Ok(u32::try_from(*machine)?)).collect::<anyhow::Result<_>>()?,
            ..v1::Placement::default()
        };
        let transaction = v1::Transaction {
            session: self.opened.session,
            number: self.number,
            incarnation: self.opened.incarnation,
            base_revision: self.opened.revision,
            check: v1::ConflictCheck::Fit.into(),
            placements: if machines.is_empty() { Vec::new() } else { vec![placement] },
            stops,
            ..v1::Transaction::default()
        };
        let outcome = client(self.channel.clone()).commit(transaction).await.context("the rival's transaction")?;
        let outcome = outcome.into_inner();
        self.opened.revision = outcome.revision;
        Ok(outcome)
    }

    /// Stops everything, with its receipts.
    async fn leave(&mut self) -> anyhow::Result<Vec<u64>> {
        let held: Vec<u64> = self.held.iter().copied().filter(|held| *held > 0).collect();
        if !held.is_empty() {
            self.commit(&[], held).await?;
        }
        self.receipts(0..MACHINES as usize).await?;
        Ok(self.held.iter().copied().filter(|held| *held > 0).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_read_as_it_was_published() {
        let race = Race::default();
        assert_eq!(race.turn(), None);
        let turn = Turn { base: 1 << 50, taken: 0b1011_0000 };
        race.publish(Some(turn));
        assert_eq!(race.turn(), Some(turn));
        race.publish(Some(Turn { taken: 0, ..turn }));
        assert_eq!(race.turn(), None);
    }

    #[test]
    fn of_a_hundred_claims_five_lose_however_late_a_scheduler_sees_a_turn() {
        let (turn, mut losers) = (Turn { base: 10, taken: 1 }, Losers::default());
        let mut take = |claims, seen| losers.take(claims, turn, seen);
        assert_eq!((0..40).map(|_| take(1, 10)).sum::<u32>(), 2);
        assert_eq!((0..40).map(|_| take(1, 9)).sum::<u32>(), 0, "it would claim on what was still leaving");
        // Those two are due, and no transaction has more losers than claims.
        assert_eq!([take(1, 10), take(1, 10), take(1, 10)], [1, 1, 0]);
        assert_eq!([take(100, 9), take(100, 10)], [0, 10]);
    }

    #[test]
    fn claims_go_round_the_machines_that_are_taken() {
        let turn = Turn { base: 7, taken: 0b1011_0000 };
        assert_eq!([0, 1, 2, 3, 4].map(|choice| turn.machine(choice)), [4, 5, 7, 4, 5]);
    }
}

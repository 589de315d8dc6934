//! A cell without rules, jobs, history, receipts or a protocol of its own, for ratios: about as much as this machine can do.
//!
//! A rate says as much about a machine as about a program: the same build decided twice as many claims a second on one virtual machine as on
//! another of the same name. So the suites `core` and `commit` also measure a cell that does as little as anything can that grants claims,
//! stops allocations, finds culprits and keeps a log, on the same machine in the same run. It is no proven bound, only simple and quick.
//!
//! It is not a part of Plenum, shares no code with it but the prefetch and the priority of its threads, and nobody should want it: what it leaves out is what Plenum is for.

mod cell;
mod load;
mod pages;
mod path;
mod wire;

use anyhow::ensure;
use cell::{Cell, Counted};
use load::Load;
pub(crate) use path::{Shape, run as run_path};
use wire::Outcome;

use crate::thread_time::Stopwatch;

/// The name of it in figures.
pub(crate) const BARE: &str = "bare";

/// The bare resolver in its steady state, deciding alone.
pub(crate) struct Alone {
    cell: Cell,
    load: Load,
    delta: Vec<u8>,
}

impl Alone {
    /// A filled cell of so many machines.
    pub(crate) fn build(machines: u32, seed: u64) -> anyhow::Result<Self> {
        let (mut load, delta) = (Load::new(machines, seed), Vec::new());
        let cell = path::filled(&mut load, machines, 100)?;
        Ok(Self { cell, load, delta })
    }

    /// Decides so many batches of so many transactions of so many claims, as the suite `core` does. Gives granted claims for each second of the
    /// thread's CPU time.
    pub(crate) fn rate(&mut self, batches: u32, transactions: u32, claims: u32) -> anyhow::Result<f64> {
        let (mut stopwatch, mut granted) = (Stopwatch::default(), 0);
        for _ in 0..batches {
            // Room that was free at the base: who claims it after the rival has somebody to blame.
            let given_up = self.load.give_up(self.cell.revision());
            self.cell.decide(&given_up, &mut Outcome::default(), &mut self.delta)?;
            let base = self.cell.revision();
            let mut asked = vec![self.load.race(base)];
            asked.extend((0..transactions).map(|_| self.load.transaction(base, claims, true, true)));
            let mut outcomes = vec![Outcome::default(); asked.len()];
            let counted = stopwatch.time(|| {
                let mut all = Counted::default();
                for (transaction, outcome) in asked.iter().zip(&mut outcomes) {
                    self.delta.clear();
                    let counted = self.cell.decide(transaction, outcome, &mut self.delta)?;
                    std::hint::black_box(&self.delta);
                    all.granted += counted.granted;
                    all.refused += counted.refused;
                    all.with_culprit += counted.with_culprit;
                }
                anyhow::Ok(all)
            })??;
            ensure!(counted.refused == counted.with_culprit, "a claim lost to nobody: {counted:?}");
            self.load.follow_race(&outcomes[0]);
            outcomes[1..].iter().for_each(|outcome| self.load.follow(outcome));
            // Those of the rival are not of the load.
            granted += counted.granted - outcomes[0].allocations.len() as u64;
        }
        Ok(crate::figure::number(granted) / stopwatch.cpu.as_secs_f64())
    }

    /// Checks that it did its work.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let (cpu, memory) = Load::capacity();
        self.cell.check((cpu.into(), memory))
    }
}

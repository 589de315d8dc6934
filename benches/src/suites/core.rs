//! Suite `core`: claims that the resolver decides on one core, deltas encoded, no disk and no network.

use std::time::Duration;

use anyhow::bail;
use bytes::BytesMut;
use plenum_core::{Core, Decided};
use plenum_model::{LogTime, Request};
use plenum_proto::delta;

use crate::thread_time::thread_time;
use crate::workload::{Shape, Steady};

/// One sample: granted claims a second of resolver time.
pub(crate) fn sample(steady: &mut Steady, batches: u32) -> anyhow::Result<f64> {
    let mut granted = 0;
    let mut spent = Duration::ZERO;
    let mut encoded = BytesMut::new();
    let now = steady.now();
    for _ in 0..batches {
        let batch = steady.next_batch();
        let mut answers = Vec::with_capacity(batch.transactions.len() + 1);
        let started = thread_time()?;
        answers.push(step(&mut steady.core, &batch.rival, now, &mut encoded)?);
        for transaction in &batch.transactions {
            answers.push(step(&mut steady.core, transaction, now, &mut encoded)?);
        }
        spent += thread_time()? - started;
        for (request, decided) in std::iter::once(&batch.rival).chain(&batch.transactions).zip(&answers) {
            granted += steady.follow(request, decided)?;
        }
        let receipts = steady.receipts();
        let started = thread_time()?;
        let answer = step(&mut steady.core, &receipts, now, &mut encoded)?;
        spent += thread_time()? - started;
        drop(answer);
    }
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    Ok(granted as f64 / spent.as_secs_f64())
}

fn step(core: &mut Core, request: &Request, now: LogTime, encoded: &mut BytesMut) -> anyhow::Result<Decided> {
    let decided = core.decide(request, now);
    let Decided::Changed { delta, .. } = &decided else { bail!("expected a change, found {decided:?}") };
    encoded.clear();
    delta::encode(delta, encoded);
    Ok(decided)
}

/// The case that figures are named after.
pub(crate) const CASE: Shape = Shape { machines: 10_000, live: 1_000_000, claims: 100, batch: 64, losers_percent: 5 };

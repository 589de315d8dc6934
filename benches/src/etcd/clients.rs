//! Clients of etcd that commit as fast as they can: each with a connection of its own, and with so many transactions under way, all of them of other keys.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use hdrhistogram::Histogram;

use super::wire::kv_client::KvClient;
use super::wire::{Compare, PutRequest, RequestOp, TxnRequest, compare, request_op};
use super::{EtcdProcess, connect};
use crate::event_loop;
use crate::latency;
use crate::rate::Counted;

/// Bytes of each value: about what one claim has in the cell's log.
pub(crate) const VALUE_BYTES: usize = 100;
/// Keys that are written in turn by whoever has one transaction under way.
const KEYS: usize = 8;

/// How many there are, and how many transactions each has under way on its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Clients {
    pub(crate) count: u32,
    pub(crate) in_flight: u32,
}

impl Clients {
    /// As many, with one transaction under way each.
    pub(crate) const fn of_one(count: u32) -> Self {
        Self { count, in_flight: 1 }
    }

    /// Transactions of all of them that are under way at a time.
    pub(crate) const fn under_way(self) -> u32 {
        self.count * self.in_flight
    }
}

/// What came of it.
pub(crate) struct Burst {
    pub(crate) seconds: f64,
    /// Transactions that succeeded; no other ones are counted.
    pub(crate) transactions: u64,
    pub(crate) latency_micros: Histogram<u64>,
}

impl Burst {
    /// Its transactions, and the time that they had.
    pub(crate) fn counted(&self) -> Counted {
        Counted { count: self.transactions, seconds: self.seconds }
    }
}

/// Lets so many clients commit transactions of one compare and one put: first for a while that does not count, then for one that does.
///
/// # Errors
/// When a compare fails that must hold: whatever is under way compares keys of its own only.
pub(crate) async fn commit(
    etcd: &EtcdProcess,
    clients: Clients,
    warm_up: Duration,
    counted: Duration,
) -> anyhow::Result<Burst> {
    let shared = Arc::new(Shared::default());
    let Clients { count, in_flight } = clients;
    let on = event_loop::of_clients(count, in_flight)?;
    let mut preparing = Vec::new();
    for connection in 0..count {
        let kv = KvClient::new(on.spawn(connect(etcd.address.clone())).await??);
        for number in connection * in_flight..(connection + 1) * in_flight {
            // Clones share the connection.
            let committer = Committer { kv: kv.clone(), number, written: [0; KEYS] };
            preparing.push(on.spawn(committer.prepare()));
        }
    }
    // However many there are, none of their first writes is left for the time that counts.
    let mut running = Vec::new();
    for committer in preparing {
        let committer = committer.await.context("a client of etcd")??;
        running.push(on.spawn(committer.run(shared.clone())));
    }
    tokio::time::sleep(warm_up).await;
    shared.counts.store(true, Ordering::Release);
    let (began, before) = (Instant::now(), shared.transactions.load(Ordering::Relaxed));
    tokio::time::sleep(counted).await;
    let transactions = shared.transactions.load(Ordering::Relaxed) - before;
    let seconds = began.elapsed().as_secs_f64();
    shared.counts.store(false, Ordering::Release);
    shared.stop.store(true, Ordering::Release);
    let mut latency_micros = latency::histogram();
    for committer in running {
        latency_micros.add(committer.await.context("a client of etcd")??)?;
    }
    ensure!(transactions > 0, "etcd committed nothing within {counted:?}");
    Ok(Burst { seconds, transactions, latency_micros })
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Whether latencies are recorded now.
    counts: AtomicBool,
    transactions: AtomicU64,
}

/// Has one transaction under way.
struct Committer {
    kv: KvClient<tonic::transport::Channel>,
    number: u32,
    /// By key, the revision at which it was last written; 0: never by this one.
    written: [i64; KEYS],
}

impl Committer {
    /// Writes each key for the first time, and compares nothing: what a burst before left, nobody remembers.
    async fn prepare(mut self) -> anyhow::Result<Self> {
        for key in 0..KEYS {
            self.transaction(key, false).await?;
        }
        Ok(self)
    }

    async fn run(mut self, shared: Arc<Shared>) -> anyhow::Result<Histogram<u64>> {
        let mut latencies = latency::histogram();
        for key in (0..KEYS).cycle() {
            if shared.stop.load(Ordering::Acquire) {
                break;
            }
            let began = Instant::now();
            self.transaction(key, true).await?;
            if shared.counts.load(Ordering::Acquire) {
                latencies.record(latency::micros(began.elapsed()))?;
            }
            shared.transactions.fetch_add(1, Ordering::Relaxed);
        }
        Ok(latencies)
    }

    async fn transaction(&mut self, key: usize, compares: bool) -> anyhow::Result<()> {
        let name = format!("bench/{:04}/{key:04}", self.number).into_bytes();
        let unchanged = Compare {
            result: compare::CompareResult::Equal.into(),
            target: compare::CompareTarget::Mod.into(),
            key: name.clone(),
            target_union: Some(compare::TargetUnion::ModRevision(self.written[key])),
        };
        let put = PutRequest { key: name, value: vec![0x5a; VALUE_BYTES] };
        let request = TxnRequest {
            compare: if compares { vec![unchanged] } else { Vec::new() },
            success: vec![RequestOp { request: Some(request_op::Request::RequestPut(put)) }],
            failure: Vec::new(),
        };
        let answer = self.kv.txn(request).await.context("a transaction of etcd")?.into_inner();
        ensure!(answer.succeeded, "a compare of a key that nobody else writes failed");
        self.written[key] = answer.header.context("an answer of etcd without its header")?.revision;
        Ok(())
    }
}

//! Watchers of the cell beside a load: how many rows they are told of, how old their pictures are, and what those cost who do not read.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use hdrhistogram::Histogram;
use plenum_model::Delta;
use plenum_proto::v1::cell_client::CellClient;
use plenum_proto::v1::session_response::Tell;
use plenum_proto::{delta, v1};
use serde_json::json;
use tokio::task::JoinHandle;
use tonic::Streaming;
use tonic::transport::Channel;

use super::cell::{client, connect, status};
use super::closed::{self, Times};
use super::ground::Ground;
use super::{Place, open_loop};
use crate::Run;
use crate::figure::{Better, Case, Figure, median, number};
use crate::latency;
use crate::processes;
use crate::progress::say;

/// Who counts rows, and the loads beside them in claims a second: one after the other, for as long as more of them is told.
const MIRRORS: u32 = 256;
const MIRRORS_CASE: &str = "mirrors=256";
const MIRRORS_RATES: [u32; 6] = [5000, 10_000, 20_000, 40_000, 80_000, 160_000];
/// By how much a higher rate must tell more rows to go on.
const TELLS_MORE: f64 = 1.1;
/// Whose pictures are timed, and the load beside them in claims a second.
const TIMED: u32 = 50;
const TIMED_RATE: u32 = 100_000;
const TIMED_CASE: &str = "mirrors=50 rate=100000";
/// Who does not read.
const STALLED: u32 = 256;
const STALLED_CASE: &str = "stalled=256";
/// How often the server's memory is looked at, for one sample.
const LOOKS: u32 = 10;

/// Whether one of its cases was asked for.
pub(super) fn is_wanted(options: &Run) -> bool {
    [MIRRORS_CASE, TIMED_CASE, STALLED_CASE].iter().any(|case| is_case(options, case))
}

fn is_case(options: &Run, case: &str) -> bool {
    // The quick form times pictures only.
    options.has_case(case) && (!options.quick || case == TIMED_CASE)
}

/// Measures all of it.
pub(super) async fn run(ground: &mut Ground, place: &Place, options: &Run) -> anyhow::Result<Vec<Figure>> {
    let seconds = Duration::from_secs;
    let times = if options.quick {
        Times { warm_up: seconds(1), window: seconds(1), windows: 3 }
    } else {
        Times { warm_up: seconds(5), window: seconds(2), windows: 8 }
    };
    let mut figures = Vec::new();
    if is_case(options, MIRRORS_CASE) {
        // For each of several rates.
        let times = Times { warm_up: seconds(2), window: seconds(2), windows: 4 };
        figures.extend(rows(ground, place, times).await?);
    }
    if is_case(options, TIMED_CASE) {
        figures.extend(staleness(ground, place, times).await?);
    }
    if is_case(options, STALLED_CASE) {
        figures.push(stalled(ground, place, times).await?);
    }
    Ok(figures)
}

/// What one rate gave.
struct Rows {
    claims_due: u32,
    told: Vec<f64>,
    claims: Vec<f64>,
    resyncs: u64,
}

impl Rows {
    fn median(&self) -> f64 {
        let mut sorted = self.told.clone();
        sorted.sort_by(f64::total_cmp);
        median(&sorted)
    }

    /// Whether it is worth going on from here to a higher rate, after what was best so far.
    fn is_better_than(&self, best: Option<&Self>) -> bool {
        self.resyncs == 0 && best.is_none_or(|best| self.median() > best.median() * TELLS_MORE)
    }
}

/// Rows that all watchers together are told of, a second: the most that they can be, of all rates of claims.
async fn rows(ground: &mut Ground, place: &Place, times: Times) -> anyhow::Result<Vec<Figure>> {
    let mut best: Option<Rows> = None;
    for rate in MIRRORS_RATES {
        say(&format!("{MIRRORS_CASE}, {rate} claims a second"));
        let rows = rows_at(ground, rate, times).await?;
        if rows.is_better_than(best.as_ref()) {
            best = Some(rows);
        } else {
            best.get_or_insert(rows);
            break;
        }
    }
    let Rows { claims_due, told, claims, resyncs } = best.context("no rate was tried")?;
    let mut parameters = closed::parameters(ground.size(), times, &place.file_system);
    let more = [
        ("mirrors", json!(MIRRORS)),
        ("claims_due_per_second", json!(claims_due)),
        ("began_anew", json!(resyncs)),
        (
            "row_update",
            json!(
                "a grant, a move, an end, a task or a machine in a delta; each watcher has a connection, decodes all deltas and checks that no revision is missing"
            ),
        ),
    ];
    parameters.extend(more.into_iter().map(|(name, value)| (name.to_owned(), value)));
    let case = Case { suite: super::NAME, case: MIRRORS_CASE, parameters };
    Ok(vec![
        case.figure("row_updates_per_second", "1/s", Better::Higher, told)?,
        case.figure("claims_per_second", "1/s", Better::Higher, claims)?,
    ])
}

async fn rows_at(ground: &mut Ground, rate: u32, times: Times) -> anyhow::Result<Rows> {
    let watchers = Watchers::start(ground, MIRRORS).await?;
    let (running, pacer) = open_loop::begin(ground, rate).await?;
    ground.wait(&running, times.warm_up).await?;
    let (mut told, mut claims) = (Vec::new(), Vec::new());
    for window in 0..times.windows {
        let (rows, counted, began) = (watchers.rows(), running.load.counters(), Instant::now());
        // Once somebody has fallen behind, this rate is too high.
        if window > 0 && watchers.resyncs() > 0 {
            break;
        }
        ground.wait(&running, times.window).await?;
        watchers.check()?;
        let seconds = began.elapsed().as_secs_f64();
        told.push(number(watchers.rows() - rows) / seconds);
        claims.push(number(running.load.counters().since(counted).granted) / seconds);
    }
    drop(pacer);
    ground.end(running).await?;
    let newest = status(ground.address()).await?.revision;
    let resyncs = watchers.finish(newest).await?;
    Ok(Rows { claims_due: rate, told, claims, resyncs })
}

/// How old a picture is when a delta has come in.
async fn staleness(ground: &mut Ground, place: &Place, times: Times) -> anyhow::Result<Vec<Figure>> {
    say(TIMED_CASE);
    let watchers = Watchers::start(ground, TIMED).await?;
    let (running, pacer) = open_loop::begin(ground, TIMED_RATE).await?;
    ground.wait(&running, times.warm_up).await?;
    watchers.take_ages();
    let (mut p50, mut p99, mut most) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..times.windows {
        ground.wait(&running, times.window).await?;
        watchers.check()?;
        let ages = watchers.take_ages();
        ensure!(!ages.is_empty(), "no delta came within {:?}", times.window);
        p50.push(latency::seconds(&ages, 0.5));
        p99.push(latency::seconds(&ages, 0.99));
        most.push(latency::seconds(&ages, 1.0));
    }
    drop(pacer);
    ground.end(running).await?;
    let newest = status(ground.address()).await?.revision;
    let resyncs = watchers.finish(newest).await?;
    let mut parameters = closed::parameters(ground.size(), times, &place.file_system);
    let more = [
        ("mirrors", json!(TIMED)),
        ("claims_due_per_second", json!(TIMED_RATE)),
        ("began_anew", json!(resyncs)),
        (
            "staleness",
            json!(
                "when a message of deltas was decoded, less the time of its oldest batch: waiting, deciding, syncing, sending and decoding"
            ),
        ),
    ];
    parameters.extend(more.into_iter().map(|(name, value)| (name.to_owned(), value)));
    let case = Case { suite: super::NAME, case: TIMED_CASE, parameters };
    Ok(vec![
        case.figure("staleness_seconds_p50", "s", Better::Lower, p50)?,
        case.figure("staleness_seconds_p99", "s", Better::Lower, p99)?,
        case.figure("staleness_seconds_max", "s", Better::Lower, most)?,
    ])
}

/// The server's memory for each watcher that reads nothing. The samples are in the order of time: memory that grew would show.
async fn stalled(ground: &mut Ground, place: &Place, times: Times) -> anyhow::Result<Figure> {
    say(STALLED_CASE);
    let (running, pacer) = open_loop::begin(ground, TIMED_RATE).await?;
    ground.wait(&running, times.warm_up).await?;
    let before = memory(ground, times.window).await?;
    let hello = resume(ground.address()).await?;
    let mut silent = Vec::new();
    for _ in 0..STALLED {
        silent.push(client(connect(ground.address()).await?).watch(hello.clone()).await?);
    }
    ground.wait(&running, times.warm_up).await?;
    let mut bytes = Vec::new();
    for _ in 0..times.windows {
        bytes.push((memory(ground, times.window).await? - before).max(1.0) / f64::from(STALLED));
        ground.check(&running)?;
    }
    drop(silent);
    drop(pacer);
    ground.end(running).await?;
    let mut parameters = closed::parameters(ground.size(), times, &place.file_system);
    let more = [
        ("stalled", json!(STALLED)),
        ("claims_due_per_second", json!(TIMED_RATE)),
        ("memory", json!("proportional set size of the server with them less that before they came, for each of them")),
    ];
    parameters.extend(more.into_iter().map(|(name, value)| (name.to_owned(), value)));
    let case = Case { suite: super::NAME, case: STALLED_CASE, parameters };
    case.figure("stalled_watcher_bytes", "B", Better::Lower, bytes)
}

/// The mean of the server's memory over a time.
async fn memory(ground: &Ground, time: Duration) -> anyhow::Result<f64> {
    let mut sum = 0;
    for _ in 0..LOOKS {
        sum += processes::proportional_bytes(ground.process())?.1;
        tokio::time::sleep(time / LOOKS).await;
    }
    Ok(number(sum) / f64::from(LOOKS))
}

/// To follow the cell from now on, without its snapshot.
async fn resume(address: &str) -> anyhow::Result<v1::Hello> {
    let status = status(address).await?;
    Ok(v1::Hello { incarnation: status.incarnation, revision: status.revision, ..v1::Hello::default() })
}

/// What all watchers share.
#[derive(Default)]
struct Told {
    rows: AtomicU64,
    resyncs: AtomicU64,
    finishing: AtomicBool,
    newest: AtomicU64,
}

/// Watchers that read.
struct Watchers {
    told: Arc<Told>,
    ages: Vec<Arc<Mutex<Histogram<u64>>>>,
    tasks: Vec<JoinHandle<anyhow::Result<()>>>,
}

impl Watchers {
    /// Lets so many follow a cell that nothing happens to meanwhile: they need no snapshot.
    async fn start(ground: &Ground, count: u32) -> anyhow::Result<Self> {
        let hello = resume(ground.address()).await?;
        let told = Arc::new(Told::default());
        let (mut all_ages, mut tasks) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let mut client = client(connect(ground.address()).await?);
            let stream = client.watch(hello.clone()).await?.into_inner();
            let own = Arc::new(Mutex::new(latency::histogram()));
            let (told, ages, hello) = (told.clone(), own.clone(), hello.clone());
            let watcher = Watcher { client, stream, told, ages, hello };
            all_ages.push(own);
            tasks.push(tokio::spawn(watcher.run()));
        }
        Ok(Self { told, ages: all_ages, tasks })
    }

    fn rows(&self) -> u64 {
        self.told.rows.load(Ordering::Relaxed)
    }

    fn resyncs(&self) -> u64 {
        self.told.resyncs.load(Ordering::Relaxed)
    }

    /// How old pictures were since this was asked last, in microseconds.
    fn take_ages(&self) -> Histogram<u64> {
        let mut all = latency::histogram();
        for ages in &self.ages {
            let mut ages = ages.lock().expect("nobody panics while holding it");
            all.add(&*ages).expect("they have the same bounds");
            ages.reset();
        }
        all
    }

    fn check(&self) -> anyhow::Result<()> {
        let ended = self.tasks.iter().any(JoinHandle::is_finished);
        ensure!(!ended || self.resyncs() > 0, "a watcher ended before its time");
        Ok(())
    }

    /// Lets all of them come to this revision, and ends them. Gives how often one fell behind and began anew.
    async fn finish(self, newest: u64) -> anyhow::Result<u64> {
        self.told.newest.store(newest, Ordering::Release);
        self.told.finishing.store(true, Ordering::Release);
        for task in self.tasks {
            task.await.context("a watcher")??;
        }
        Ok(self.told.resyncs.load(Ordering::Relaxed))
    }
}

struct Watcher {
    client: CellClient<Channel>,
    stream: Streaming<v1::SessionResponse>,
    told: Arc<Told>,
    ages: Arc<Mutex<Histogram<u64>>>,
    /// How it would follow from here: with the revision up to which it was told everything.
    hello: v1::Hello,
}

impl Watcher {
    async fn run(mut self) -> anyhow::Result<()> {
        // A heartbeat comes each second: the end is noticed also when nothing happens.
        while !self.is_done() {
            // One that is far too slow loses its connection: it is counted as one that fell behind, and is not seen again.
            let Ok(Some(message)) = self.stream.message().await else {
                self.told.resyncs.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            };
            match message.tell.context("a message that says nothing")? {
                Tell::Deltas(deltas) => self.deltas(deltas)?,
                // It fell behind, which is counted. Its snapshot would be as large as the cell, and say nothing of deltas: it goes on
                // with what comes now.
                Tell::Welcome(welcome) if welcome.snapshot => {
                    self.told.resyncs.fetch_add(1, Ordering::Relaxed);
                    self.hello.revision = welcome.revision;
                    self.stream = self.client.watch(self.hello.clone()).await?.into_inner();
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.told.finishing.load(Ordering::Acquire) && self.hello.revision >= self.told.newest.load(Ordering::Acquire)
    }

    fn deltas(&mut self, deltas: v1::Deltas) -> anyhow::Result<()> {
        let (mut rows, mut oldest) = (0, i64::MAX);
        for bytes in deltas.deltas {
            let delta = delta::decode(bytes).context("a delta")?;
            let (expected, found) = (self.hello.revision + 1, delta.revision.0);
            ensure!(expected == found, "a watcher was told revision {found} where {expected} is next");
            self.hello.revision = found;
            rows += rows_of(&delta);
            oldest = oldest.min(delta.time.micros);
        }
        self.told.rows.fetch_add(rows, Ordering::Relaxed);
        let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros())?;
        let age = Duration::from_micros(u64::try_from(now.saturating_sub(oldest)).unwrap_or(0));
        self.ages.lock().expect("nobody panics while holding it").saturating_record(latency::micros(age));
        Ok(())
    }
}

/// Rows that a delta tells of.
fn rows_of(delta: &Delta) -> u64 {
    let grants: usize = delta.grants.iter().map(|grants| grants.slots.len()).sum();
    (grants + delta.moves.len() + delta.ends.len() + delta.tasks.len() + delta.machines.len()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use plenum_model::{End, Grants, LogTime, Revision};

    #[test]
    fn a_higher_rate_counts_when_more_is_told_and_nobody_falls_behind() {
        let rows =
            |told: f64, resyncs: u64| Rows { claims_due: 1, told: vec![told, 0.0, 9e9], claims: vec![1.0], resyncs };
        let best = rows(100.0, 0);
        assert!(best.is_better_than(None));
        assert!(rows(120.0, 0).is_better_than(Some(&best)));
        assert!(!rows(105.0, 0).is_better_than(Some(&best)));
        assert!(!rows(500.0, 1).is_better_than(Some(&best)));
    }

    #[test]
    fn each_row_of_a_delta_counts_once() {
        let mut delta = Delta::new(Revision(7), LogTime::default());
        assert_eq!(rows_of(&delta), 0);
        delta.grants =
            vec![Grants { slots: vec![1, 2, 3], ..Grants::default() }, Grants { slots: vec![4], ..Grants::default() }];
        delta.ends = vec![End { slot: 9, state: plenum_model::AllocationState::Stopped, exit_code: 0, reason: None }];
        assert_eq!(rows_of(&delta), 5);
    }
}

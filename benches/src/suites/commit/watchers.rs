//! Watchers of the cell beside a load: how many rows they are told of, how old their pictures are, and what those cost who do not read.

mod silent;

use std::collections::VecDeque;
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
use super::ground::{Ground, Running};
use super::load::Counters;
use super::machine_times::MachineTimes;
use super::{Place, open_loop};
use crate::figure::{Better, Case, Figure, by_name, number};
use crate::kept::Kept;
use crate::latency;
use crate::processes;
use crate::progress::say;
use crate::rate::{self, Counted};
use crate::suites::Others;
use crate::{Run, interrupt};

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
const STALENESS: &str = "staleness_seconds_p99";
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
pub(super) async fn run(ground: &mut Ground, place: &Place, options: &Run, kept: &mut Kept<'_>) -> anyhow::Result<()> {
    let seconds = Duration::from_secs;
    let times = if options.quick {
        Times { warm_up: seconds(1), window: seconds(1), windows: 3 }
    } else {
        Times { warm_up: seconds(5), window: seconds(2), windows: 8 }
    };
    if is_case(options, MIRRORS_CASE) {
        // For each of several rates.
        let times = Times { warm_up: seconds(2), window: seconds(2), windows: 4 };
        kept.add(rows(ground, place, times).await?);
    }
    if is_case(options, TIMED_CASE) {
        kept.add(staleness(ground, place, times).await?);
    }
    if is_case(options, STALLED_CASE) {
        kept.add(stalled(ground, place, times).await?);
    }
    Ok(())
}

/// What one rate gave.
struct Rows {
    claims_due: u32,
    told: Vec<Counted>,
    claims: Vec<Counted>,
    resyncs: u64,
    cores_of_others: f64,
}

impl Rows {
    /// Whether it is worth going on from here to a higher rate, after what was best so far.
    fn is_better_than(&self, best: Option<&Self>) -> bool {
        self.resyncs == 0 && best.is_none_or(|best| rate::of_all(&self.told) > rate::of_all(&best.told) * TELLS_MORE)
    }
}

/// Keeps what a rate gave if that is better than the best so far. Whether it was.
fn keep_if_better(best: &mut Option<Rows>, rows: Rows) -> bool {
    let better = rows.is_better_than(best.as_ref());
    if better {
        *best = Some(rows);
    }
    better
}

/// Rows that all watchers together are told of, a second: the most that they can be, of all rates of claims at which none falls behind.
async fn rows(ground: &mut Ground, place: &Place, times: Times) -> anyhow::Result<Vec<Figure>> {
    let mut best: Option<Rows> = None;
    for rate in MIRRORS_RATES {
        say(&format!("{MIRRORS_CASE}, {rate} claims a second"));
        if !keep_if_better(&mut best, rows_at(ground, rate, times).await?) || interrupt::asked() {
            break;
        }
    }
    let Some(Rows { claims_due, told, claims, resyncs, cores_of_others }) = best else {
        say(&format!("{MIRRORS_CASE}: rows will be missing: a watcher fell behind at the lowest rate already"));
        return Ok(Vec::new());
    };
    let mut parameters = closed::parameters(ground, times, &place.file_system);
    let more = [
        ("mirrors", json!(MIRRORS)),
        ("claims_due_per_second", json!(claims_due)),
        ("began_anew", json!(resyncs)),
        ("cores_of_others", json!(cores_of_others)),
        (
            "row_update",
            json!(
                "a grant, a move, an end, a task or a machine in a delta; each watcher has a connection, decodes all deltas and checks that no revision is missing"
            ),
        ),
    ];
    parameters.extend(by_name(more));
    let case = Case { suite: super::NAME, case: MIRRORS_CASE, parameters };
    Ok(vec![rate::figure(&case, "row_updates_per_second", &told)?, rate::figure(&case, "claims_per_second", &claims)?])
}

async fn rows_at(ground: &mut Ground, rate: u32, times: Times) -> anyhow::Result<Rows> {
    let mut watchers = Watchers::start(ground, MIRRORS).await?;
    let (running, pacer) = open_loop::begin(ground, rate).await?;
    ground.wait(&running, times.warm_up).await?;
    let others = others(ground)?;
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
        told.push(Counted { count: watchers.rows() - rows, seconds });
        claims.push(Counted { count: running.load.counters().since(counted).granted, seconds });
    }
    let cores_of_others = others.cores()?;
    drop(pacer);
    ground.end(running).await?;
    let newest = status(ground.address()).await?.revision;
    let resyncs = watchers.finish(newest).await?;
    Ok(Rows { claims_due: rate, told, claims, resyncs, cores_of_others })
}

/// How old pictures are.
async fn staleness(ground: &mut Ground, place: &Place, times: Times) -> anyhow::Result<Vec<Figure>> {
    say(TIMED_CASE);
    let mut alone = MachineTimes::new(&place.scratch, super::SYNC_BYTES)?;
    alone.look(super::SYNCS)?;
    let mut watchers = Watchers::start(ground, TIMED).await?;
    let (running, pacer) = open_loop::begin(ground, TIMED_RATE).await?;
    ground.wait(&running, times.warm_up).await?;
    watchers.take_ages()?;
    let others = others(ground)?;
    let (before, began) = (running.load.counters(), Instant::now());
    let mut ages = Vec::new();
    for _ in 0..times.windows {
        ground.wait(&running, times.window).await?;
        watchers.check()?;
        let of_window = watchers.take_ages()?;
        ensure!(!of_window.is_empty(), "no delta came within {:?}", times.window);
        ages.push(of_window);
    }
    let had = Had::since(&running, before, began);
    let cores_of_others = others.cores()?;
    drop(pacer);
    ground.end(running).await?;
    let newest = status(ground.address()).await?.revision;
    let resyncs = watchers.finish_timed(newest, &mut ages).await?;
    if !is_told(resyncs, &had) {
        return Ok(Vec::new());
    }
    alone.look(super::SYNCS)?;
    let mut parameters = closed::parameters(ground, times, &place.file_system);
    parameters.extend(alone.parameters());
    let more = [
        ("mirrors", json!(TIMED)),
        ("cores_of_others", json!(cores_of_others)),
        ("claims_due_per_second", json!(TIMED_RATE)),
        (
            "staleness",
            json!(
                "by revision and watcher: when the message with it was decoded, less its time: waiting, deciding, syncing, sending and decoding; what others were told of and a watcher was not when a window ended counts as old as it was then"
            ),
        ),
    ];
    parameters.extend(by_name(more));
    parameters.extend(closed::of_claims(had.counted));
    let case = Case { suite: super::NAME, case: TIMED_CASE, parameters };
    let mut figures = of_ages(&case, &ages)?;
    figures.push(rate::figure(&case, "claims_per_second", &[had.claims()])?);
    figures.extend(alone.figures(&case)?);
    Ok(figures)
}

/// How old pictures were, by window.
fn of_ages(case: &Case<'_>, ages: &[Histogram<u64>]) -> anyhow::Result<Vec<Figure>> {
    let medians = ages.iter().map(|ages| latency::seconds(ages, 0.5)).collect();
    Ok(vec![
        case.figure("staleness_seconds_p50", "s", Better::Lower, medians)?,
        latency::tail(case, STALENESS, 0.99, ages.iter())?,
        latency::tail(case, "staleness_seconds_max", 1.0, ages.iter())?,
    ])
}

/// The server's memory for each watcher that reads nothing. The samples are in the order of time: memory that grew would show.
async fn stalled(ground: &mut Ground, place: &Place, times: Times) -> anyhow::Result<Option<Figure>> {
    say(STALLED_CASE);
    let (running, pacer) = open_loop::begin(ground, TIMED_RATE).await?;
    ground.wait(&running, times.warm_up).await?;
    let before = memory(ground, times.window).await?;
    let hello = resume(ground.address()).await?;
    let mut silent = Vec::new();
    for _ in 0..STALLED {
        silent.push(client(connect(ground.address()).await?).watch(hello.clone()).await?.into_inner());
    }
    ground.wait(&running, times.warm_up).await?;
    let others = others(ground)?;
    let (counted, began) = (running.load.counters(), Instant::now());
    let mut bytes = Vec::new();
    for _ in 0..times.windows {
        bytes.push((memory(ground, times.window).await? - before) / f64::from(STALLED));
        ground.check(&running)?;
    }
    let had = Had::since(&running, counted, began);
    let cores_of_others = others.cores()?;
    let newest = status(ground.address()).await?.revision;
    let lost = silent::first_lost(&mut silent, newest, silent::PATIENCE).await;
    drop(silent);
    drop(pacer);
    ground.end(running).await?;
    // One that the server let go of costs it nothing.
    let lost = lost.map(|why| format!("one of them lost its stream: {why}"));
    if let Some(why) = lost.or_else(|| had.another_load()) {
        say(&format!("{STALLED_CASE}: memory will be missing: {why}"));
        return Ok(None);
    }
    let mut parameters = closed::parameters(ground, times, &place.file_system);
    let more = [
        ("stalled", json!(STALLED)),
        ("cores_of_others", json!(cores_of_others)),
        ("claims_due_per_second", json!(TIMED_RATE)),
        ("memory", json!("proportional set size of the server with them less that before they came, for each of them")),
    ];
    parameters.extend(by_name(more));
    parameters.extend(closed::of_claims(had.counted));
    let case = Case { suite: super::NAME, case: STALLED_CASE, parameters };
    Ok(case.figure("stalled_watcher_bytes", "B", Better::Lower, bytes)?.if_told())
}

/// What the load beside watchers had, in all windows together.
struct Had {
    counted: Counters,
    seconds: f64,
}

impl Had {
    fn since(running: &Running, before: Counters, began: Instant) -> Self {
        Self { counted: running.load.counters().since(before), seconds: began.elapsed().as_secs_f64() }
    }

    /// Claims that were granted.
    fn claims(&self) -> Counted {
        Counted { count: self.counted.granted, seconds: self.seconds }
    }

    /// Why that is not the load of which the case has its name, where it is not. Refused claims make no rows that anybody would be told of.
    fn another_load(&self) -> Option<String> {
        if !open_loop::keeps(self.counted.answered, self.seconds, TIMED_RATE) {
            return Some("the load did not keep its rate".to_owned());
        }
        let refused = || format!("{} of 100 claims were refused", closed::refused_percent(self.counted));
        closed::refuses_too_many(self.counted).then(refused)
    }
}

/// How busy others keep the machine from now on.
fn others(ground: &Ground) -> anyhow::Result<Others> {
    Others::look(vec![std::process::id(), ground.process()])
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
    /// Revisions that somebody was told of, in order, with their times in microseconds: by these is known what others lack.
    revisions: Mutex<VecDeque<(u64, i64)>>,
}

/// What one watcher was told of.
struct Picture {
    /// Everything up to here.
    revision: u64,
    /// How old each revision was when the picture had it, in microseconds.
    ages: Histogram<u64>,
}

impl Picture {
    fn shared(revision: u64) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self { revision, ages: latency::histogram() }))
    }
}

/// Watchers that read.
struct Watchers {
    told: Arc<Told>,
    pictures: Vec<Arc<Mutex<Picture>>>,
    tasks: Vec<JoinHandle<anyhow::Result<()>>>,
}

impl Watchers {
    /// Lets so many follow a cell that nothing happens to meanwhile: they need no snapshot.
    async fn start(ground: &Ground, count: u32) -> anyhow::Result<Self> {
        let hello = resume(ground.address()).await?;
        let told = Arc::new(Told::default());
        let (mut pictures, mut tasks) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let mut client = client(connect(ground.address()).await?);
            let stream = client.watch(hello.clone()).await?.into_inner();
            let picture = Picture::shared(hello.revision);
            pictures.push(picture.clone());
            let watcher = Watcher { client, stream, told: told.clone(), picture, hello: hello.clone() };
            tasks.push(tokio::spawn(watcher.run()));
        }
        Ok(Self { told, pictures, tasks })
    }

    fn rows(&self) -> u64 {
        self.told.rows.load(Ordering::Relaxed)
    }

    fn resyncs(&self) -> u64 {
        self.told.resyncs.load(Ordering::Relaxed)
    }

    /// How old pictures were since this was asked last, in microseconds: one age for each revision and watcher. What somebody was told of and
    /// a watcher still lacks counts as old as it is by now, so that one that hangs is not younger than others.
    fn take_ages(&self) -> anyhow::Result<Histogram<u64>> {
        let (mut all, mut least) = (latency::histogram(), u64::MAX);
        let mut revisions = self.told.revisions.lock().expect("nobody panics while holding it");
        let now = now_micros()?;
        for picture in &self.pictures {
            let mut picture = picture.lock().expect("nobody panics while holding it");
            all.add(&picture.ages).expect("they have the same bounds");
            picture.ages.reset();
            for (_, time) in revisions.iter().rev().take_while(|(revision, _)| *revision > picture.revision) {
                all.saturating_record(age(now, *time));
            }
            least = least.min(picture.revision);
        }
        revisions.retain(|(revision, _)| *revision > least);
        Ok(all)
    }

    fn check(&self) -> anyhow::Result<()> {
        let ended = self.tasks.iter().any(JoinHandle::is_finished);
        ensure!(!ended || self.resyncs() > 0, "a watcher ended before its time");
        Ok(())
    }

    /// Lets all of them come to this revision, and ends them. Gives how often one fell behind and began anew.
    async fn finish(&mut self, newest: u64) -> anyhow::Result<u64> {
        self.told.newest.store(newest, Ordering::Release);
        self.told.finishing.store(true, Ordering::Release);
        for task in std::mem::take(&mut self.tasks) {
            task.await.context("a watcher")??;
        }
        Ok(self.told.resyncs.load(Ordering::Relaxed))
    }

    /// The same. What nobody was told of when the last window ended came after it, and counts in it: a publisher that stalls for all of them just then
    /// would be seen in no window.
    async fn finish_timed(&mut self, newest: u64, ages: &mut [Histogram<u64>]) -> anyhow::Result<u64> {
        let resyncs = self.finish(newest).await?;
        if let Some(last) = ages.last_mut() {
            last.add(self.take_ages()?)?;
        }
        Ok(resyncs)
    }
}

/// Whether all of them have seen everything, of the load that the case says. Who begins anew has not: how old his picture was meanwhile nobody can tell, and
/// what the others tell is no figure.
fn is_told(resyncs: u64, had: &Had) -> bool {
    let why_not = why_not(resyncs, had);
    if let Some(why_not) = &why_not {
        say(why_not);
    }
    why_not.is_none()
}

/// The words for that. A load that was another one is excused in the gate, which knows the words by their beginning; a watcher that fell behind beside
/// the right load is not.
fn why_not(resyncs: u64, had: &Had) -> Option<String> {
    let behind = || {
        let why = format!("{resyncs} times a watcher fell behind and began anew");
        format!("{TIMED_CASE}: staleness will be missing: {why}")
    };
    let another = had.another_load().map(|why| format!("{STALENESS} will be missing: {why}"));
    another.or_else(|| (resyncs > 0).then(behind))
}

struct Watcher {
    client: CellClient<Channel>,
    stream: Streaming<v1::SessionResponse>,
    told: Arc<Told>,
    picture: Arc<Mutex<Picture>>,
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
                Tell::Deltas(deltas) => self.hello.revision = self.told.take(deltas, &self.picture)?,
                // It fell behind, which is counted. Its snapshot would be as large as the cell, and say nothing of deltas: it goes on
                // with what comes now.
                Tell::Welcome(welcome) if welcome.snapshot => {
                    self.told.resyncs.fetch_add(1, Ordering::Relaxed);
                    self.hello.revision = welcome.revision;
                    self.picture.lock().expect("nobody panics while holding it").revision = welcome.revision;
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
}

impl Told {
    /// Takes the next message of deltas of one watcher. Gives the revision up to which it was told everything now.
    fn take(&self, deltas: v1::Deltas, picture: &Mutex<Picture>) -> anyhow::Result<u64> {
        let mut revision = picture.lock().expect("nobody panics while holding it").revision;
        let mut rows = 0;
        let mut times = Vec::with_capacity(deltas.deltas.len());
        for bytes in deltas.deltas {
            let delta = delta::decode(bytes).context("a delta")?;
            let (expected, found) = (revision + 1, delta.revision.0);
            ensure!(expected == found, "a watcher was told revision {found} where {expected} is next");
            revision = found;
            rows += rows_of(&delta);
            times.push((revision, delta.time.micros));
        }
        self.rows.fetch_add(rows, Ordering::Relaxed);
        let now = now_micros()?;
        {
            let mut picture = picture.lock().expect("nobody panics while holding it");
            picture.revision = revision;
            for (_, time) in &times {
                picture.ages.saturating_record(age(now, *time));
            }
        }
        let mut revisions = self.revisions.lock().expect("nobody panics while holding it");
        let newest = revisions.back().map_or(0, |(revision, _)| *revision);
        revisions.extend(times.into_iter().filter(|(revision, _)| *revision > newest));
        Ok(revision)
    }
}

/// The time as the cell has it, in microseconds.
fn now_micros() -> anyhow::Result<i64> {
    Ok(i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros())?)
}

/// How old that is which was decided at this time, as a histogram takes it.
fn age(now_micros: i64, time_micros: i64) -> u64 {
    latency::micros(Duration::from_micros(u64::try_from(now_micros.saturating_sub(time_micros)).unwrap_or(0)))
}

/// Rows that a delta tells of.
fn rows_of(delta: &Delta) -> u64 {
    let grants: usize = delta.grants.iter().map(|grants| grants.slots.len()).sum();
    (grants + delta.moves.len() + delta.ends.len() + delta.tasks.len() + delta.machines.len()) as u64
}

#[cfg(test)]
mod tests;

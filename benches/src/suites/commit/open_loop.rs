//! An open loop: transactions are due at a fixed rate, whatever became of those before. Each is timed from when it was due, not from when
//! it could be sent: a cell that stalls makes all wait that were due meanwhile, and all of them count (no coordinated omission).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::json;
use tokio::sync::mpsc;

use super::Place;
use super::closed::{self, Seen, Times};
use super::ground::{Ground, Running};
use super::load::{Manner, Pace};
use super::machine_times::MachineTimes;
use super::scheduler::Due;
use crate::figure::{Case, Figure, by_name, number};
use crate::kept::Kept;
use crate::latency;
use crate::progress::say;
use crate::{Run, interrupt};

/// Claims of a transaction.
const CLAIMS: u32 = 100;
const STREAMS: u32 = 4;
/// Unanswered transactions of a stream: what a session may have. Those that are due beyond it wait, and are timed meanwhile.
const IN_FLIGHT: u32 = 256;
/// Claims a second that are due, highest first. Lower ones are measured when the cell can't keep up.
const RATES: [u32; 4] = [1_000_000, 500_000, 250_000, 100_000];
const RATES_QUICK: [u32; 1] = [100_000];
/// A cell keeps up when it answers so much of what is due.
const KEEPS_UP: f64 = 0.98;
/// Between two looks at what is due: below what would show in a latency, and not so short that looking costs a core.
const LOOK: Duration = Duration::from_micros(100);

/// How late transactions are given to their streams that are due and have room: who says what is due, and clients, run on the cell's cores, and what they took is
/// in `commit_seconds`. What waits for room waits for answers of the cell, and is not late.
const LATE: &str = "commit_late_seconds_p99";

/// `compare` knows it by how it begins, and by its rate: lower ones may be missing.
fn name(rate: u32) -> String {
    format!("claims={CLAIMS} streams={STREAMS} rate={rate}")
}

fn rates(options: &Run) -> Vec<u32> {
    let all = if options.quick { &RATES_QUICK[..] } else { &RATES };
    all.iter().copied().filter(|rate| options.has_case(&name(*rate))).collect()
}

/// Whether one of its cases was asked for.
pub(super) fn is_wanted(options: &Run) -> bool {
    !rates(options).is_empty()
}

/// Measures rates, until the cell keeps up with one.
pub(super) async fn run(ground: &mut Ground, place: &Place, options: &Run, kept: &mut Kept<'_>) -> anyhow::Result<()> {
    let seconds = Duration::from_secs;
    let times = if options.quick {
        Times { warm_up: seconds(1), window: seconds(1), windows: 3 }
    } else {
        Times { warm_up: seconds(5), window: seconds(5), windows: 4 }
    };
    let rates = rates(options);
    for rate in rates.iter().copied().take_while(|_| !interrupt::asked()) {
        let name = name(rate);
        say(&name);
        let mut alone = MachineTimes::new(&place.scratch, super::SYNC_BYTES)?;
        alone.look(super::SYNCS)?;
        let (running, pacer) = begin(ground, rate).await?;
        let (seen, another) = closed::look(ground, &running, times).await?;
        drop(pacer);
        let seen = closed::finish(ground, running, seen).await?;
        alone.look(super::SYNCS)?;
        if let Some(why) = another {
            // A rate that is too high for the cell is only tried. The lowest one is what is measured in any case.
            ensure!(rates.last() != Some(&rate), "{name}: {why}");
            say(&format!("{name}: figures will be missing: {why}"));
            continue;
        }
        let mut parameters = closed::parameters(ground, times, &place.file_system);
        let more = [
            ("claims_due_per_second", json!(rate)),
            (
                "loop",
                json!(
                    "open: timed from when a transaction was due; what was never sent counts with the time it waited"
                ),
            ),
        ];
        parameters.extend(by_name(more));
        parameters.extend(alone.parameters());
        parameters.extend(seen.parameters.clone());
        let case = Case { suite: super::NAME, case: &name, parameters };
        let figures = closed::figures(&case, &seen.windows, &alone)?;
        kept.add(figures.into_iter().chain(tails(&case, &seen)?));
        if keeps_up(&seen, rate) {
            break;
        }
        say(&format!("{name}: the cell can't keep up"));
    }
    Ok(())
}

fn keeps_up(seen: &Seen, rate: u32) -> bool {
    let answered = seen.windows.iter().map(|window| window.counted.answered).sum();
    keeps(answered, seen.windows.iter().map(|window| window.seconds).sum(), rate)
}

/// Whether so many answered transactions are as many claims as are due in that time. Refused ones are answered, too.
pub(super) fn keeps(answered: u64, seconds: f64, rate: u32) -> bool {
    number(answered * u64::from(CLAIMS)) / seconds >= KEEPS_UP * f64::from(rate)
}

fn tails(case: &Case<'_>, seen: &Seen) -> anyhow::Result<Vec<Figure>> {
    Ok(vec![
        closed::tail(case, "commit_seconds_p999", 0.999, &seen.windows)?,
        closed::tail(case, "commit_seconds_max", 1.0, &seen.windows)?,
        latency::tail(case, LATE, 0.99, seen.windows.iter().map(|window| &window.late_micros))?,
    ])
}

/// Starts the load, and who says what is due. What is due ends when the pacer is dropped.
pub(crate) async fn begin(ground: &mut Ground, rate: u32) -> anyhow::Result<(Running, Pacer)> {
    let manner = Manner { claims: CLAIMS, in_flight: IN_FLIGHT, mirrors: false, pace: Pace::Open };
    let (sends, dues): (Vec<_>, Vec<Due>) = (0..STREAMS).map(|_| mpsc::unbounded_channel()).unzip();
    let running = ground.begin(manner, STREAMS, dues).await?;
    Ok((running, Pacer::start(sends, f64::from(rate) / f64::from(CLAIMS))?))
}

/// Says when transactions are due, evenly, to one stream after the other. A thread of its own: timers of the event loop tell
/// milliseconds apart, and not less.
pub(crate) struct Pacer {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Pacer {
    fn start(streams: Vec<mpsc::UnboundedSender<Instant>>, transactions_per_second: f64) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stops = stop.clone();
        let body = move || {
            let schedule = Schedule { began: Instant::now(), transactions_per_second };
            let mut said = 0;
            while !stops.load(Ordering::Acquire) {
                while schedule.due(said) <= Instant::now() {
                    let stream = &streams[usize::try_from(said).expect("64 bits") % streams.len()];
                    // A stream that failed is noticed by who watches the load.
                    let _ = stream.send(schedule.due(said));
                    said += 1;
                }
                std::thread::sleep(LOOK);
            }
        };
        let thread =
            std::thread::Builder::new().name("pacer".to_owned()).spawn(body).context("cannot start a thread")?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// When each transaction is due, counted from the beginning: being late with one never moves the next.
struct Schedule {
    began: Instant,
    transactions_per_second: f64,
}

impl Schedule {
    fn due(&self, transaction: u64) -> Instant {
        self.began + Duration::from_secs_f64(number(transaction) / self.transactions_per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::Parameters;
    use crate::suites::commit::closed::Window;
    use crate::suites::commit::load::Counters;

    #[test]
    fn what_is_due_does_not_move_when_somebody_is_late() {
        let began = Instant::now();
        let schedule = Schedule { began, transactions_per_second: 10_000.0 };
        assert_eq!(schedule.due(0), began);
        assert_eq!(schedule.due(50), began + Duration::from_millis(5));
        assert_eq!(schedule.due(36_000_000), began + Duration::from_secs(3600));
    }

    #[test]
    fn a_pacer_says_everything_that_was_due_in_order() {
        let (sends, mut due) = mpsc::unbounded_channel();
        let pacer = Pacer::start(vec![sends], 1000.0).unwrap();
        let first = due.blocking_recv().unwrap();
        // However late the thread was, the hundredth is due a tenth of a second after the first.
        let hundredth = (1..=100).map(|_| due.blocking_recv().unwrap()).last().unwrap();
        assert_eq!(hundredth - first, Duration::from_millis(100));
        drop(pacer);
        while due.blocking_recv().is_some() {}
    }

    #[test]
    fn a_stall_in_one_of_three_windows_is_in_the_tails() {
        let window = |millis: u64| {
            let mut latency_micros = latency::histogram();
            latency_micros.record(latency::micros(Duration::from_millis(millis))).unwrap();
            Window { seconds: 1.0, counted: Counters::default(), late_micros: latency_micros.clone(), latency_micros }
        };
        let seen = Seen { windows: [5, 5, 1000].map(window).into(), parameters: Parameters::new() };
        let case = Case { suite: "commit", case: "rate=1", parameters: Parameters::new() };
        for figure in tails(&case, &seen).unwrap() {
            assert!(figure.value > 0.9, "{figure:?}");
        }
    }

    #[test]
    fn a_cell_keeps_up_when_it_answers_what_is_due() {
        let seen = |answered: u64| {
            let counted = Counters { answered, ..Counters::default() };
            let [latency_micros, late_micros] = [latency::histogram(), latency::histogram()];
            let window = Window { seconds: 2.0, counted, latency_micros, late_micros };
            Seen { windows: vec![window], parameters: Parameters::new() }
        };
        assert!(keeps_up(&seen(2000), 100_000) && keeps_up(&seen(1970), 100_000));
        assert!(!keeps_up(&seen(1900), 100_000));
    }
}

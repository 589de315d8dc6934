//! Suite `core`: claims that the resolver decides on one core, deltas encoded; no disk and no network.
//!
//! What is timed: deciding the transactions, and encoding their deltas, as the commit path does; and apart from it the same of the
//! receipts of what they stopped. Making requests and following outcomes is a client's work, and is not timed. Each sample checks that
//! the work was done.

use std::collections::VecDeque;
use std::fmt::Write;

use anyhow::{Context, ensure};
use plenum_core::{Core, Decided, invariants};
use plenum_model::{Cell, ConflictCheck, LogTime, Request};
use plenum_proto::delta;
use serde_json::json;

use super::Others;
use crate::bare::{self, BARE};
use crate::figure::{Better, Case, Figure, Parameters, by_name, number};
use crate::kept::Kept;
use crate::memory;
use crate::progress::say;
use crate::stalls::Stalls;
use crate::thread_time::Stopwatch;
use crate::workload::{Shape, Steady};
use crate::{Run, interrupt};

pub(crate) const NAME: &str = "core";

/// The figure that the suite is about: transactions alone, as a claim is defined (one grant, and one stop of an older allocation).
const RATE: &str = "claims_per_second";
/// Beside it: with the agents' receipts, one for each claim, which the same thread decides.
const RATE_WITH_RECEIPTS: &str = "claims_with_receipts_per_second";

/// The parameter that says how busy others were; of a ratio, beside that of its two cases beside which they were busier.
const OTHERS: &str = "cores_of_others";

/// Claims of one sample, about a fifth of a second.
const SAMPLE_CLAIMS: u32 = 320_000;
/// Claims that are decided before the first sample: so many allocations come and go until the pages are as mixed as they will be.
const WARM_UP_CLAIMS: u32 = 1_280_000;

/// The case that figures are named after.
const USUAL: Shape = Shape {
    machines: 10_000,
    live: 1_000_000,
    claims: 100,
    batch: 64,
    losers_percent: 5,
    check: ConflictCheck::Fit,
    rules: true,
    snapshots: 0,
};

/// The largest cell, which the quick form measures too, and the smallest one with as many live allocations.
const LARGE: Shape = Shape { machines: 100_000, ..USUAL };
const SMALL: Shape = Shape { machines: 1000, ..USUAL };

/// What the long form measures besides.
const FURTHER: [Shape; 6] = [
    SMALL,
    Shape { claims: 1, batch: 1024, ..USUAL },
    Shape { claims: 1000, ..USUAL },
    Shape { check: ConflictCheck::Sequence, ..USUAL },
    Shape { rules: false, ..USUAL },
    Shape { snapshots: 10, ..USUAL },
];

/// What one sample did.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    granted: u64,
    refused: u64,
    stopped: u64,
    /// On transactions, and on taking snapshots.
    on_claims: Stopwatch,
    on_receipts: Stopwatch,
}

pub(crate) fn run(options: &Run, kept: &mut Kept<'_>) -> anyhow::Result<()> {
    let further = if options.quick { &[][..] } else { &FURTHER };
    for shape in [&USUAL, &LARGE].into_iter().chain(further) {
        if !interrupt::asked() && options.has_case(&name(shape)) {
            kept.add(run_case(shape, options)?);
        }
    }
    let ratio = ratio(kept.figures(), &SMALL, &LARGE)?;
    kept.add(ratio);
    Ok(())
}

fn name(shape: &Shape) -> String {
    let mut name = format!("machines={} claims={}", shape.machines, shape.claims);
    if shape.check == ConflictCheck::Sequence {
        name.push_str(" check=sequence");
    }
    if !shape.rules {
        name.push_str(" rules=none");
    }
    if shape.snapshots > 0 {
        let _ = write!(name, " snapshots={}", shape.snapshots);
    }
    name
}

/// How many times the rate of one cell that of another is, where both were measured.
fn ratio(figures: &[Figure], of: &Shape, to: &Shape) -> anyhow::Result<Option<Figure>> {
    let find = |shape: &Shape| {
        let name = name(shape);
        figures.iter().find(|figure| figure.case == name && figure.metric == RATE)
    };
    let (Some(of), Some(to)) = (find(of), find(to)) else { return Ok(None) };
    let others = [of, to].into_iter().filter_map(|figure| figure.parameters.get(OTHERS)?.as_f64());
    let others = json!(others.fold(0.0, f64::max));
    let parameters = [("of", json!(of.case)), ("to", json!(to.case)), (OTHERS, others)];
    let name = format!("{} over {}", of.case, to.case);
    let case = Case { suite: NAME, case: &name, parameters: by_name(parameters) };
    Ok(Some(case.figure("claims_per_second_ratio", "1", Better::Lower, vec![of.value / to.value])?))
}

fn run_case(shape: &Shape, options: &Run) -> anyhow::Result<Vec<Figure>> {
    let name = name(shape);
    say(&format!("{name}: building {} machines and {} live allocations", shape.machines, shape.live));
    let mut steady = Steady::build(*shape, options.seed)?;
    let mut snapshots = VecDeque::new();
    let batches = (SAMPLE_CLAIMS / (shape.claims * shape.batch)).max(1);
    for _ in 0..WARM_UP_CLAIMS / SAMPLE_CLAIMS {
        sample(&mut steady, batches, &mut snapshots)?;
    }
    let others = Others::look(vec![std::process::id()])?;
    let mut beside = if *shape == USUAL { Some(Bare::build(shape, batches, options.seed)?) } else { None };
    let (mut samples, mut stalls) = (Vec::new(), vec![Stalls::look()?]);
    for _ in 0..if options.quick { 5 } else { 15 } {
        samples.push(sample(&mut steady, batches, &mut snapshots)?);
        if let Some(bare) = &mut beside {
            bare.sample()?;
        }
    }
    stalls.push(Stalls::look()?);
    let (others, stolen) = (others.cores()?, others.cores_stolen()?);
    let held = bytes_of(&mut snapshots);
    let cell = steady.cell();
    invariants::check_cell(cell).map_err(|violation| anyhow::anyhow!("{name}: the cell is not sound: {violation}"))?;
    let live = cell.allocations().count();
    ensure!(live == steady.live(), "{name}: expected {} live allocations, found {live}", steady.live());
    let total = |of: fn(&Sample) -> u64| samples.iter().map(of).sum::<u64>();
    let (granted, refused, stopped) = (total(|s| s.granted), total(|s| s.refused), total(|s| s.stopped));
    say(&format!("{name}: {granted} claims granted, {refused} refused, {stopped} stopped; others used {others} cores"));
    let mut parameters = parameters(shape, batches, [granted, refused, stopped], others);
    parameters.insert("cores_stolen".to_owned(), json!(stolen));
    let case = Case { suite: NAME, case: &name, parameters };
    let rate = |of: fn(&Sample) -> std::time::Duration| {
        samples.iter().map(|sample| number(sample.granted) / of(sample).as_secs_f64()).collect()
    };
    let both = |sample: &Sample| sample.on_claims.cpu + sample.on_receipts.cpu;
    let mut figures = vec![
        case.figure(RATE, "1/s", Better::Higher, rate(|sample| sample.on_claims.cpu))?,
        case.figure(RATE_WITH_RECEIPTS, "1/s", Better::Higher, rate(both))?,
        case.figure("claims_per_wall_second", "1/s", Better::Higher, rate(|sample| sample.on_claims.wall))?,
    ];
    if let Some(bare) = beside {
        let rates = figures[0].samples.clone();
        figures.extend(bare.figures(&case, &rates)?);
    }
    figures.extend(Stalls::figures(&case, &stalls)?);
    if let Some(held) = held {
        figures.push(case.figure("snapshots_bytes", "B", Better::Lower, vec![held])?);
    }
    Ok(figures)
}

/// The bare resolver beside it, in turns: what this machine can do at most.
struct Bare {
    alone: bare::Alone,
    shape: Shape,
    batches: u32,
    rates: Vec<f64>,
}

impl Bare {
    /// Fills it, and lets allocations come and go as in the cell beside it.
    fn build(shape: &Shape, batches: u32, seed: u64) -> anyhow::Result<Self> {
        let alone = bare::Alone::build(shape.machines, seed)?;
        let mut bare = Self { alone, shape: *shape, batches, rates: Vec::new() };
        for _ in 0..WARM_UP_CLAIMS / SAMPLE_CLAIMS {
            bare.sample()?;
        }
        bare.rates.clear();
        Ok(bare)
    }

    fn sample(&mut self) -> anyhow::Result<()> {
        self.rates.push(self.alone.rate(self.batches, self.shape.batch, self.shape.claims)?);
        Ok(())
    }

    /// Its rate, and what part of it the cell's is, sample by sample.
    fn figures(self, case: &Case<'_>, rates: &[f64]) -> anyhow::Result<[Figure; 2]> {
        self.alone.check()?;
        let ratios = rates.iter().zip(&self.rates).map(|(rate, bare)| rate / bare).collect();
        let ratio = case.figure("claims_ratio_to_bare", "1", Better::Higher, ratios)?;
        Ok([ratio, case.figure(RATE, "1/s", Better::Higher, self.rates)?.of(BARE)])
    }
}

/// Heap bytes that snapshots have, beyond what the cell has by itself: what comes free when all of them go. None without any.
fn bytes_of(snapshots: &mut VecDeque<Cell>) -> Option<f64> {
    let with = memory::heap_bytes().filter(|_| !snapshots.is_empty())?;
    snapshots.clear();
    Some(number(with.saturating_sub(memory::heap_bytes()?)))
}

fn parameters(shape: &Shape, batches: u32, [granted, refused, stopped]: [u64; 3], others: f64) -> Parameters {
    let check = if shape.check == ConflictCheck::Sequence { "sequence" } else { "fit" };
    let all = [
        ("machines", json!(shape.machines)),
        ("live_allocations", json!(shape.live)),
        ("claims_per_transaction", json!(shape.claims)),
        ("transactions_per_batch", json!(shape.batch)),
        ("batches_per_sample", json!(batches)),
        ("losers_percent", json!(shape.losers_percent)),
        ("check", json!(check)),
        ("granted", json!(granted)),
        ("refused", json!(refused)),
        ("stopped", json!(stopped)),
        (
            "claim",
            json!(
                "one grant and one stop of an older allocation picked at random; refused claims do not count; with receipts: and the agent's receipt of one stop"
            ),
        ),
        (
            "clock",
            json!(
                "claims_per_second, claims_with_receipts_per_second: CPU time of the deciding thread; claims_per_wall_second: the wall's clock"
            ),
        ),
        (
            "rules",
            json!(if shape.rules {
                "two constraints on every job, spread by rack on one in ten, a limit by machine on one in ten, a quota on the namespace; none is broken"
            } else {
                "none"
            }),
        ),
        ("snapshots_alive", json!(shape.snapshots)),
        (OTHERS, json!(others)),
    ];
    by_name(all)
}

/// Decides so many batches, and checks that every claim was answered. Taking a snapshot counts, dropping one does not: that is done on
/// another thread.
fn sample(steady: &mut Steady, batches: u32, snapshots: &mut VecDeque<Cell>) -> anyhow::Result<Sample> {
    let mut sample = Sample::default();
    let mut encoded = Vec::new();
    for _ in 0..batches {
        let batch = steady.next_batch();
        let requests = || std::iter::once(&batch.rival).chain(&batch.transactions);
        let mut answers = Vec::with_capacity(batch.transactions.len() + 1);
        let (core, now) = steady.core_and_time();
        sample.on_claims.time(|| answers.extend(requests().map(|request| step(core, request, now, &mut encoded))))?;
        for (request, decided) in requests().zip(&answers) {
            let counted = steady.follow(request, decided)?;
            sample.granted += counted.granted;
            sample.refused += counted.refused;
        }
        let receipts = steady.receipts();
        sample.stopped += receipts.stopped;
        let (core, now) = steady.core_and_time();
        let answer = sample.on_receipts.time(|| step(core, &receipts.request, now, &mut encoded))?;
        ensure!(matches!(answer, Decided::Changed { .. }), "expected receipts to change something, found {answer:?}");
        if steady.shape().snapshots > 0 {
            if snapshots.len() == steady.shape().snapshots {
                snapshots.pop_front();
            }
            snapshots.push_back(sample.on_claims.time(|| steady.cell().clone())?);
        }
    }
    steady.settle().context("after a sample")?;
    Ok(sample)
}

fn step(core: &mut Core, request: &Request, now: LogTime, encoded: &mut Vec<u8>) -> Decided {
    let decided = core.decide(request, now);
    if let Decided::Changed { delta, .. } = &decided {
        encoded.clear();
        delta::encode(delta, encoded);
        std::hint::black_box(&encoded);
    }
    decided
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny() -> Shape {
        Shape { machines: 50, live: 2000, claims: 20, batch: 8, ..USUAL }
    }

    #[test]
    fn each_batch_grants_stops_and_loses_what_it_says() {
        let mut steady = Steady::build(tiny(), 7).unwrap();
        let mut snapshots = VecDeque::new();
        sample(&mut steady, 3, &mut snapshots).unwrap();
        let counted = sample(&mut steady, 10, &mut snapshots).unwrap();
        // 10 batches of 8 transactions of 20 claims; one in twenty loses.
        assert_eq!((counted.granted, counted.refused), (1520, 80));
        assert_eq!(counted.stopped, 1520);
        assert_eq!(invariants::check_cell(steady.cell()), Ok(()));
        assert_eq!(steady.cell().allocations().count(), steady.live());
    }

    #[test]
    fn snapshots_show_what_was_when_they_were_taken() {
        let mut steady = Steady::build(Shape { snapshots: 3, ..tiny() }, 7).unwrap();
        let mut snapshots = VecDeque::new();
        sample(&mut steady, 5, &mut snapshots).unwrap();
        assert_eq!(snapshots.len(), 3);
        let revisions: Vec<u64> = snapshots.iter().map(|cell| cell.revision().0).collect();
        // A rival's transaction, eight of the load and the receipts are ten revisions.
        assert_eq!((revisions[1] - revisions[0], revisions[2] - revisions[1]), (10, 10));
        assert_eq!(snapshots[2].revision(), steady.cell().revision());
    }

    #[test]
    fn a_ratio_is_there_when_both_cells_were_measured() {
        let figure = |shape: &Shape, value: f64| {
            let (name, parameters) = (name(shape), [(OTHERS.to_owned(), json!(value / 100.0))].into());
            let case = Case { suite: NAME, case: &name, parameters };
            case.figure(RATE, "1/s", Better::Higher, vec![value]).unwrap()
        };
        let both = [figure(&SMALL, 6.0), figure(&LARGE, 4.0)];
        let measured = ratio(&both, &SMALL, &LARGE).unwrap().unwrap();
        assert_eq!(measured.value, 1.5);
        assert_eq!(measured.parameters[OTHERS], 0.06, "others were busier beside the one than beside the other");
        assert!(ratio(&both[..1], &SMALL, &LARGE).unwrap().is_none());
    }
}

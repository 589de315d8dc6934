//! Suite `core`: claims that the resolver decides on one core, deltas encoded; no disk and no network.
//!
//! What is timed: deciding the transactions and the receipts of what they stopped, and encoding their deltas, as the commit path does.
//! Making requests and following outcomes is a client's work, and is not. Each sample checks that the work was done.

use anyhow::{Context, ensure};
use bytes::BytesMut;
use plenum_core::{Core, Decided, invariants};
use plenum_model::{ConflictCheck, LogTime, Request};
use plenum_proto::delta;
use serde_json::json;

use super::Others;
use crate::Run;
use crate::figure::{Better, Case, Figure, Parameters, number};
use crate::progress::say;
use crate::thread_time::Stopwatch;
use crate::workload::{Shape, Steady};

pub(crate) const NAME: &str = "core";

/// Claims of one sample, about a fifth of a second.
const SAMPLE_CLAIMS: u32 = 320_000;
/// Claims that are decided before the first sample: so many allocations come and go until the pages are as mixed as they will be.
const WARM_UP_CLAIMS: u32 = 1_280_000;

/// The case that figures are named after.
const USUAL: Shape =
    Shape { machines: 10_000, live: 1_000_000, claims: 100, batch: 64, losers_percent: 5, check: ConflictCheck::Fit };

/// What the long form measures besides.
const FURTHER: [Shape; 4] = [
    Shape { machines: 100_000, ..USUAL },
    Shape { claims: 1, batch: 1024, ..USUAL },
    Shape { claims: 1000, ..USUAL },
    Shape { check: ConflictCheck::Sequence, ..USUAL },
];

/// What one sample did.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    granted: u64,
    refused: u64,
    stopped: u64,
    spent: Stopwatch,
}

pub(crate) fn run(options: &Run) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let further = if options.quick { &[][..] } else { &FURTHER };
    for shape in std::iter::once(&USUAL).chain(further) {
        if options.has_case(&name(shape)) {
            figures.extend(run_case(shape, options)?);
        }
    }
    Ok(figures)
}

fn name(shape: &Shape) -> String {
    let check = if shape.check == ConflictCheck::Sequence { " check=sequence" } else { "" };
    format!("machines={} claims={}{check}", shape.machines, shape.claims)
}

fn run_case(shape: &Shape, options: &Run) -> anyhow::Result<[Figure; 2]> {
    let name = name(shape);
    say(&format!("{name}: building {} machines and {} live allocations", shape.machines, shape.live));
    let mut steady = Steady::build(*shape, options.seed)?;
    let batches = (SAMPLE_CLAIMS / (shape.claims * shape.batch)).max(1);
    for _ in 0..WARM_UP_CLAIMS / SAMPLE_CLAIMS {
        sample(&mut steady, batches)?;
    }
    let others = Others::look(vec![std::process::id()])?;
    let samples = (0..if options.quick { 5 } else { 15 }).map(|_| sample(&mut steady, batches));
    let samples = samples.collect::<anyhow::Result<Vec<_>>>()?;
    let others = others.cores()?;
    let cell = steady.cell();
    invariants::check_cell(cell).map_err(|violation| anyhow::anyhow!("{name}: the cell is not sound: {violation}"))?;
    let live = cell.allocations().count();
    ensure!(live == steady.live(), "{name}: expected {} live allocations, found {live}", steady.live());
    let total = |of: fn(&Sample) -> u64| samples.iter().map(of).sum::<u64>();
    let (granted, refused, stopped) = (total(|s| s.granted), total(|s| s.refused), total(|s| s.stopped));
    say(&format!("{name}: {granted} claims granted, {refused} refused, {stopped} stopped; others used {others} cores"));
    let case =
        Case { suite: NAME, case: &name, parameters: parameters(shape, batches, [granted, refused, stopped], others) };
    let rate = |of: fn(&Stopwatch) -> std::time::Duration| {
        samples.iter().map(|sample| number(sample.granted) / of(&sample.spent).as_secs_f64()).collect()
    };
    Ok([
        case.figure("claims_per_second", "1/s", Better::Higher, rate(|spent| spent.cpu))?,
        case.figure("claims_per_wall_second", "1/s", Better::Higher, rate(|spent| spent.wall))?,
    ])
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
                "one grant, one stop of an older allocation picked at random, and its receipt; refused claims do not count"
            ),
        ),
        (
            "clock",
            json!("claims_per_second: CPU time of the deciding thread; claims_per_wall_second: the wall's clock"),
        ),
        ("snapshots", json!("none alive")),
        ("cores_of_others", json!(others)),
    ];
    all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Decides so many batches, and checks that every claim was answered.
fn sample(steady: &mut Steady, batches: u32) -> anyhow::Result<Sample> {
    let mut sample = Sample::default();
    let mut encoded = BytesMut::new();
    for _ in 0..batches {
        let batch = steady.next_batch();
        let requests = || std::iter::once(&batch.rival).chain(&batch.transactions);
        let mut answers = Vec::with_capacity(batch.transactions.len() + 1);
        let (core, now) = steady.core_and_time();
        sample.spent.time(|| answers.extend(requests().map(|request| step(core, request, now, &mut encoded))))?;
        for (request, decided) in requests().zip(&answers) {
            let counted = steady.follow(request, decided)?;
            sample.granted += counted.granted;
            sample.refused += counted.refused;
        }
        let receipts = steady.receipts();
        sample.stopped += receipts.stopped;
        let (core, now) = steady.core_and_time();
        let answer = sample.spent.time(|| step(core, &receipts.request, now, &mut encoded))?;
        ensure!(matches!(answer, Decided::Changed { .. }), "expected receipts to change something, found {answer:?}");
    }
    steady.settle().context("after a sample")?;
    Ok(sample)
}

fn step(core: &mut Core, request: &Request, now: LogTime, encoded: &mut BytesMut) -> Decided {
    let decided = core.decide(request, now);
    if let Decided::Changed { delta, .. } = &decided {
        encoded.clear();
        delta::encode(delta, encoded);
        std::hint::black_box(&encoded);
    }
    decided
}

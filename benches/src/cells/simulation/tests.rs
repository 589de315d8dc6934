//! Short runs of the small cell: closed forms, what is conserved, and that the same seeds give the same bytes.

use plenum_model::ConflictCheck;

use super::*;
use crate::cells::row::Row;
use crate::cells::settings::{Beyond, Choice, Cost, PAPER, REFERENCE};
use crate::cells::stage::seconds;
use crate::cells::workload::{CellShape, Draw, R1, StreamShape, float, micros};

fn settings(arch: Arch, hours: f64) -> Settings {
    let cost = Cost { job_micros: 100_000, task_micros: 5000 };
    Settings {
        cell: &R1,
        horizon_micros: micros(hours * 3600.0),
        arch,
        check: ConflictCheck::Fit,
        commit: Commit::Incremental,
        batch_schedulers: 1,
        batch: cost,
        service: cost,
        rate: 1.0,
        workload_seed: 1,
        scheduler_seed: 0,
        retrying: REFERENCE,
        beyond: Beyond::default(),
    }
}

fn slow_service(settings: Settings, job_seconds: f64) -> Settings {
    Settings { service: Cost { job_micros: micros(job_seconds), task_micros: 5000 }, ..settings }
}

fn run(settings: Settings) -> (Simulation, Row) {
    let mut simulation = Simulation::new(settings).unwrap();
    simulation.run(&Unwatched).unwrap();
    simulation.stage.settle().unwrap();
    let row = Row::of(&simulation);
    (simulation, row)
}

/// What deciding on all jobs of a stream once takes, as a part of the horizon.
fn closed_form(settings: &Settings, stream: Stream, cost: Cost) -> f64 {
    let horizon = seconds(settings.horizon_micros);
    let jobs = settings.cell.jobs(settings.workload_seed, horizon, settings.rate);
    let of = jobs.iter().filter(|job| job.stream == stream);
    seconds(of.map(|job| cost.of(job.tasks as usize)).sum()) / horizon
}

#[test]
fn a_scheduler_with_time_to_spare_is_busy_for_its_load_times_its_decision_time() {
    for arch in [Arch::MonoSingle, Arch::Partitioned, Arch::Mesos, Arch::Omega] {
        let settings = settings(arch, 1.0);
        let (_, row) = run(settings.clone());
        for (stream, found) in [(Stream::Batch, &row.batch), (Stream::Service, &row.service)] {
            let expected = closed_form(&settings, stream, settings.batch);
            // The last jobs may still be thought about at the end.
            assert!(
                (found.busy - expected).abs() < 0.002 * expected + 2e-4,
                "{arch:?} {stream:?}: {} {expected}",
                found.busy
            );
            assert!(found.jobs - found.fully <= 2, "{arch:?} {stream:?}: {found:?}");
        }
    }
}

#[test]
fn a_single_path_that_thinks_too_long_saturates_as_the_reference_does() {
    // Rows of the reference: jobs that were decided, waits, and the part of the time that was spent on each stream.
    let settings = settings(Arch::MonoSingle, 24.0);
    let slow = Cost { job_micros: 100_000_000, task_micros: 5000 };
    let (_, row) = run(Settings { batch: slow, service: slow, ..settings });
    assert_eq!((row.batch.attempted, row.service.attempted, row.batch.left_queue), (832, 31, 21_551));
    let near = |found: f64, expected: f64| assert!((found / expected - 1.0).abs() < 1e-5, "{found} {expected}");
    near(row.batch.wait_mean, 41_672.3);
    near(row.service.wait_mean, 38_623.2);
    near(row.batch.wait_censored_mean, 41_665.8);
    near(row.batch.busy, 0.963_461);
    near(row.service.busy, 0.035_890_0);
}

#[test]
fn the_same_seeds_give_the_same_bytes_and_other_seeds_do_not() {
    let omega = || slow_service(settings(Arch::Omega, 1.0), 30.0);
    let line = |settings: Settings| run(settings).1.line("E");
    assert_eq!(line(omega()), line(omega()));
    let machines = |settings: Settings| run(settings).0.stage.free().to_vec();
    assert_eq!(machines(omega()), machines(omega()));
    assert_ne!(machines(omega()), machines(Settings { scheduler_seed: 1, ..omega() }));
    assert_ne!(line(omega()), line(Settings { workload_seed: 2, ..omega() }));
}

#[test]
fn every_task_is_placed_once_and_ends_once() {
    let settings = Settings { batch_schedulers: 4, rate: 4.0, ..settings(Arch::Omega, 0.5) };
    let (simulation, row) = run(settings);
    let placed: u64 = simulation.jobs.iter().map(|job| u64::from(job.plan.tasks) - job.waiting.len() as u64).sum();
    let there = simulation.settings.cell.jobs(1, 1.0, 1.0);
    let fill: u64 = there.iter().filter(|job| job.stream == Stream::Prefill).map(|job| u64::from(job.tasks)).sum();
    let waiting: u64 = simulation.jobs[simulation.arrived..].iter().map(|job| u64::from(job.plan.tasks)).sum();
    assert!(waiting <= 200 * 100);
    assert_eq!(row.placements, simulation.stage.granted);
    assert_eq!(row.batch.task_ok + row.service.task_ok + fill, row.placements);
    let submitted = simulation.jobs.iter().filter(|job| job.id != plenum_model::JobId::default());
    let submitted: u64 = submitted.map(|job| u64::from(job.plan.tasks) - job.waiting.len() as u64).sum();
    assert_eq!(submitted + fill, row.placements);
    assert!(placed >= submitted);
    let live = simulation.stage.core().cell().allocations().count() as u64;
    assert_eq!(live, simulation.stage.granted - simulation.stage.ended);
}

// One test, as all of it is compared with the same run.
#[test]
fn long_decisions_conflict_more_with_coarse_detection_and_less_with_alternates_or_machines_of_ones_own() {
    let with = |check, commit, beyond| {
        let settings = slow_service(settings(Arch::Omega, 3.0), 30.0);
        run(Settings { check, commit, beyond, rate: 4.0, ..settings }).1.service
    };
    let usual = Beyond::default();
    let fine = with(ConflictCheck::Fit, Commit::Incremental, usual);
    let coarse = with(ConflictCheck::Sequence, Commit::Incremental, usual);
    let coarse_gang = with(ConflictCheck::Sequence, Commit::AllOrNothing, usual);
    assert!(fine.txn_fail >= 10, "{fine:?}");
    assert!(fine.conflict_frac * 2.0 < coarse.conflict_frac, "{} {}", fine.conflict_frac, coarse.conflict_frac);
    assert!(coarse.conflict_frac < coarse_gang.conflict_frac, "{} {}", coarse.conflict_frac, coarse_gang.conflict_frac);
    // What was in vain costs time.
    assert!(fine.busy > fine.busy_noconflict && coarse.busy > fine.busy);

    for beyond in [Beyond { alternates_percent: 50, ..usual }, Beyond { own_first: true, ..usual }] {
        let saved = with(ConflictCheck::Fit, Commit::Incremental, beyond);
        assert!(saved.txn_fail * 2 < fine.txn_fail, "{beyond:?}: {} {}", saved.txn_fail, fine.txn_fail);
    }
}

#[test]
fn batch_jobs_do_not_wait_for_slow_service_decisions_unless_there_is_one_queue() {
    let wait = |arch, job| run(slow_service(settings(arch, 2.0), job)).1.batch.wait_mean;
    assert!((wait(Arch::Omega, 0.1) - wait(Arch::Omega, 30.0)).abs() < 1e-4);
    assert!(wait(Arch::MonoMulti, 30.0) > 100.0 * wait(Arch::MonoMulti, 0.1));
}

#[test]
fn what_is_offered_is_locked_until_it_is_answered() {
    let (simulation, row) = run(slow_service(settings(Arch::Mesos, 2.0), 30.0));
    assert!(row.cpu_locked > 0.05, "{}", row.cpu_locked);
    assert!((row.batch.txn_fail, row.service.txn_fail) == (0, 0));
    // Batch jobs wait for what is offered to the other framework, and a second for their own offer.
    assert!(row.batch.wait_mean > 0.5 && row.batch.wait_p90 > 1.0, "{:?}", row.batch);
    let offers = simulation.offers.as_ref().unwrap();
    assert!(offers.is_sound(), "locks are those of open offers");
}

#[test]
fn schedulers_that_agree_on_the_best_machine_conflict_most() {
    let with = |choice| {
        let beyond = Beyond { choice, ..Beyond::default() };
        run(Settings { beyond, rate: 8.0, batch_schedulers: 4, ..settings(Arch::Omega, 0.25) }).1.batch.txn_fail
    };
    let (best, apart, random) =
        (with(Choice::BestFit), with(Choice::BestFitDecorrelated), with(Choice::RandomFirstFit));
    assert!(best > 10 * random && apart <= random, "{best} {apart} {random}");
}

#[test]
fn constrained_jobs_go_only_where_they_may() {
    let beyond = Beyond { constraints: true, ..Beyond::default() };
    // The core refuses what a constraint forbids, as a misfit; that would end the run.
    let (simulation, row) = run(Settings { beyond, ..settings(Arch::Omega, 1.0) });
    assert!(row.batch.fully + 2 >= row.batch.jobs);
    assert!(simulation.jobs.iter().any(|job| job.kind == 4));
}

/// A cell in which no batch task fits anywhere.
static FULL: CellShape = CellShape {
    name: "full",
    machines: 10,
    cpu: 4.0,
    memory: 16.0,
    fill: 0.9,
    batch: StreamShape { gap_seconds: 1500.0, cpu: Draw::Always(3.9), tasks: Draw::Always(1.0), ..R1.batch },
    service: StreamShape { gap_seconds: 1e9, tasks: Draw::Always(1.0), ..R1.service },
};

#[test]
fn the_papers_rules_give_up_later_and_count_fruitless_time() {
    let full = |retrying| {
        let cost = Cost { job_micros: 500_000, task_micros: 500_000 };
        let settings = Settings { cell: &FULL, retrying, batch: cost, ..settings(Arch::Omega, 10.0) };
        run(settings).1.batch
    };
    let (theirs, papers) = (full(REFERENCE), full(PAPER));
    // Two seconds an attempt: the last jobs have not had all of theirs.
    assert!(theirs.abandoned > 10 && theirs.jobs - theirs.abandoned <= 2, "{theirs:?}");
    assert!((101 * theirs.abandoned..=101 * theirs.jobs).contains(&theirs.no_fit_attempts), "{theirs:?}");
    assert!((1001 * papers.abandoned..=1001 * papers.jobs).contains(&papers.no_fit_attempts), "{papers:?}");
    assert!(papers.abandoned > 5);
    assert!(theirs.busy == 0.0 && papers.busy > 0.3, "{} {}", theirs.busy, papers.busy);
}

#[test]
fn a_run_that_is_stopped_is_a_shorter_run() {
    struct Impatient;
    impl Watch for Impatient {
        fn go_on(&self, _: i64, _: i64) -> bool {
            false
        }
    }
    let mut simulation = Simulation::new(settings(Arch::Omega, 24.0)).unwrap();
    simulation.run(&Impatient).unwrap();
    let row = Row::of(&simulation);
    let horizon = row.settings.horizon_micros;
    assert!(horizon > 0 && horizon < micros(86_400.0));
    assert!(row.batch.busy > 0.0 && float(row.batch.attempted) > 100.0);
    // Jobs that would have come later were counted, as not placed, and with waits below nothing.
    for stream in [&row.batch, &row.service] {
        assert!(stream.jobs - stream.attempted <= 2, "{stream:?}");
        assert!(stream.wait_censored_mean >= 0.0 && stream.pct_unsched() < 5.0, "{stream:?}");
    }
}

/// It ended the run: who thinks for half an hour in a busy cell commits on a picture that is older than all changes that the core
/// remembers.
#[test]
fn a_claim_whose_picture_is_too_old_to_tell_why_it_lost_counts_as_a_conflict() {
    let mut simulation = Simulation::new(settings(Arch::Omega, 1.0)).unwrap();
    let refusal = |kind| plenum_model::Refusal {
        kind,
        reason: plenum_model::RefusalReason::NoRoom,
        claim: Some((0, 0)),
        job: plenum_model::JobId::default(),
        group: 0,
        task: 0,
        machine: 3,
        short: None,
        short_device: None,
        port: None,
        not_wanted: None,
        culprits: Vec::new(),
        culprits_total: 0,
    };
    let outcome = |kind| Outcome {
        id: plenum_model::TransactionId { session: plenum_model::SessionId(1), number: 1 },
        revision: Revision(1),
        time: plenum_model::LogTime::from_micros(1),
        outcome: plenum_model::TransactionOutcome::Refused,
        placements: vec![vec![None]],
        refusals: vec![refusal(kind)],
        idle_stops: Vec::new(),
        ports: Vec::new(),
        elsewhere: Vec::new(),
        evicted: Vec::new(),
        divergences: Vec::new(),
    };
    simulation.take_grants(0, &outcome(RefusalKind::Stale)).unwrap();
    assert_eq!(simulation.refusals, [(0, 3)]);
    assert!(simulation.take_grants(0, &outcome(RefusalKind::Misfit)).is_err(), "that would be a bug");
}

#[test]
fn a_scheduler_that_never_committed_is_not_one_without_conflicts() {
    let mut simulation = Simulation::new(Settings { batch_schedulers: 2, ..settings(Arch::Omega, 1.0) }).unwrap();
    let tally = simulation.schedulers[0].tally(Stream::Batch);
    (tally.committed, tally.conflicted) = (10, 1);
    simulation.schedulers[1].tally(Stream::Batch).conflicted = 7;
    let fraction = Row::of(&simulation).batch.conflict_frac;
    assert!((fraction - (0.1 + 7.0) / 2.0).abs() < 1e-12, "{fraction}");
}

//! Jobs where nobody has a trace: rigid parallel jobs after Lublin and Feitelson, "The Workload on Parallel Supercomputers: Modeling the
//! Characteristics of Rigid Jobs" (JPDC 63(11), 2003), with the parameters that they published for jobs of all types together.
//!
//! Sizes and run times are theirs. Arrivals are not: theirs follow the hours of a day at a load of their own; here they come at random at a load
//! that is asked for. Users said up to six times as long as their jobs run (the f-model of Feitelson and Weil, IPPS 1998, with f = 5), and of
//! fifty users the k-th has jobs in proportion to 1/k.

use crate::figure::number;
use crate::random::Random;
use crate::traces::work::{MachineClass, Trace, TraceJob, micros, resources};

/// The machine that the model's sizes end at: 128 processors.
const LOG_PROCESSORS: f64 = 7.0;
const SERIAL: f64 = 0.244;
const POWER_OF_TWO: f64 = 0.576;
/// Two uniform distributions of the size's logarithm meet at the middle; the first one is drawn with this probability.
const LOW: f64 = 0.8;
const MIDDLE: f64 = 4.5;
const FIRST: f64 = 0.86;
/// Two gamma distributions of the run time's logarithm; the first one is drawn with probability `SLOPE * size + BASE`.
const SHORT: (f64, f64) = (4.2, 0.94);
const LONG: (f64, f64) = (312.0, 0.03);
const SLOPE: f64 = -0.0054;
const BASE: f64 = 0.78;
/// Longer jobs are drawn again: e^12 seconds are 45 hours.
const LOG_SECONDS_MAX: f64 = 12.0;

const USERS: u32 = 50;
const ESTIMATE_FACTOR: f64 = 5.0;

/// So many jobs on a machine of 128 processors, at a load: the part of it that they would use if none ever waited.
pub(crate) fn jobs(count: u32, load: f64, seed: u64) -> Trace {
    let mut random = Random::new(seed);
    let shapes: Vec<(u32, f64)> = (0..count)
        .map(|_| {
            let size = size(&mut random);
            (size, seconds(&mut random, size))
        })
        .collect();
    let work: f64 = shapes.iter().map(|(size, seconds)| f64::from(*size) * seconds).sum();
    let processors = LOG_PROCESSORS.exp2();
    let gap = work / f64::from(count) / (processors * load);
    let harmonic: f64 = (1..=USERS).map(|user| 1.0 / f64::from(user)).sum();
    let mut submit = 0.0;
    let mut jobs = Vec::with_capacity(shapes.len());
    for (job, (size, seconds)) in shapes.iter().enumerate() {
        let user = user(&mut random, harmonic);
        let estimate = seconds * (1.0 + ESTIMATE_FACTOR * uniform(&mut random));
        jobs.push(TraceJob {
            name: format!("job-{job}"),
            user: format!("user-{user:02}"),
            class: String::new(),
            submit_micros: micros(submit),
            run_micros: Some(micros(*seconds)),
            estimate_micros: Some(micros(estimate)),
            tasks: *size,
            each: resources(1000, 0, 0),
            gang: true,
            asks: None,
        });
        submit += -gap * (1.0 - uniform(&mut random)).ln();
    }
    let mut trace = Trace::new(&format!("lublin-feitelson-{seed} jobs={count} load={load}"), jobs);
    let capacity = resources(1000, 1 << 30, 0);
    trace.machines = vec![MachineClass { name: "node".to_owned(), count: 1 << 7, capacity, attributes: Vec::new() }];
    trace.assumed.push(format!(
        "no trace was named: {count} jobs were drawn after Lublin and Feitelson (2003) at a load of {load}; docs/traces.md tells where to get real ones"
    ));
    trace
}

/// From 0, below 1.
fn uniform(random: &mut Random) -> f64 {
    number(random.next() >> 11) / 9_007_199_254_740_992.0
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 1 to 128")]
fn size(random: &mut Random) -> u32 {
    let kind = uniform(random);
    if kind < SERIAL {
        return 1;
    }
    let (from, to) = if uniform(random) < FIRST { (LOW, MIDDLE) } else { (MIDDLE, LOG_PROCESSORS) };
    let log = from + (to - from) * uniform(random);
    let log = if kind < SERIAL + POWER_OF_TWO { log.round() } else { log };
    log.exp2().round() as u32
}

fn seconds(random: &mut Random, size: u32) -> f64 {
    loop {
        let first = uniform(random) < (SLOPE * f64::from(size) + BASE).clamp(0.0, 1.0);
        let (shape, scale) = if first { SHORT } else { LONG };
        let log = gamma(random, shape) * scale;
        if log <= LOG_SECONDS_MAX {
            return log.exp().max(1.0);
        }
    }
}

/// Marsaglia and Tsang, "A Simple Method for Generating Gamma Variables" (ACM TOMS 26(3), 2000), for shapes above 1.
fn gamma(random: &mut Random, shape: f64) -> f64 {
    let d = shape - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        // Box and Muller (1958).
        let radius = (-2.0 * (1.0 - uniform(random)).ln()).sqrt();
        let normal = radius * (std::f64::consts::TAU * uniform(random)).cos();
        let v = (1.0 + c * normal).powi(3);
        if v > 0.0 && (1.0 - uniform(random)).ln() < 0.5 * normal * normal + d - d * v + d * v.ln() {
            return d * v;
        }
    }
}

fn user(random: &mut Random, harmonic: f64) -> u32 {
    let mut left = uniform(random) * harmonic;
    (1..USERS)
        .find(|user| {
            left -= 1.0 / f64::from(*user);
            left < 0.0
        })
        .unwrap_or(USERS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_as_the_model_says() {
        let trace = jobs(20_000, 0.7, 1);
        let part = |of: &dyn Fn(&TraceJob) -> bool| {
            number(trace.jobs.iter().filter(|job| of(job)).count() as u64) / number(trace.jobs.len() as u64)
        };
        let serial = part(&|job| job.tasks == 1);
        let power = part(&|job| job.tasks.is_power_of_two());
        assert!((serial - 0.244).abs() < 0.02, "{serial}");
        // Those of the model, and a few of the others that happen to be.
        assert!((0.82..0.90).contains(&power), "{power}");
        assert!(trace.jobs.iter().all(|job| (1..=128).contains(&job.tasks)));
        // e^(4.2 * 0.94) seconds in the middle of the short ones, e^(312 * 0.03) in that of the long ones.
        let short = part(&|job| job.run_micros.is_some_and(|micros| micros < 600_000_000));
        assert!((0.6..0.85).contains(&short), "{short}");
    }

    #[test]
    fn the_load_is_what_was_asked_for() {
        let trace = jobs(20_000, 0.7, 2);
        let work: f64 = trace
            .jobs
            .iter()
            .map(|job| f64::from(job.tasks) * super::super::ledger::seconds(job.run_micros.unwrap()))
            .sum();
        let span = super::super::ledger::seconds(trace.jobs.last().unwrap().submit_micros);
        let load = work / span / 128.0;
        assert!((load - 0.7).abs() < 0.03, "{load}");
    }

    #[test]
    fn the_same_seed_gives_the_same_jobs() {
        assert_eq!(jobs(100, 0.7, 3).jobs, jobs(100, 0.7, 3).jobs);
        assert_ne!(jobs(100, 0.7, 3).jobs, jobs(100, 0.7, 4).jobs);
    }

    // Jobs of two seeds, and of the quick form, had one name: they were compared as if they were the same, and counted as regressions.
    #[test]
    fn other_jobs_have_another_name() {
        assert_eq!(jobs(100, 0.7, 3).name, "lublin-feitelson-3 jobs=100 load=0.7");
        assert_ne!(jobs(100, 0.7, 3).name, jobs(100, 0.7, 4).name);
        assert_ne!(jobs(100, 0.7, 3).name, jobs(50, 0.7, 3).name);
    }
}

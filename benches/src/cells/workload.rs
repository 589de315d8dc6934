//! The cells R1, R2 and R3: machines, and jobs from seeded distributions.
//!
//! Nobody published the inputs of the Omega paper's cells. These three are made up and exactly described (docs/omega.md), so that any other
//! simulator can run the same jobs: R1 is small and everything in it is exponential; R2 has heavy tails, fitted to the
//! percentiles that the paper tells; R3 is R2, fuller. Counter-based: job k is the same whatever was drawn before.
//!
//! Integers all through: times in microseconds, CPU in ten-thousandths of a core, memory in ten-thousandths of 10^9 bytes, as
//! the job lists are rounded. So nothing depends on the order in which sums are made.

use std::fmt::Write;

use plenum_model::Resources;

/// What the core counts for a ten-thousandth of 10^9 bytes: tenths of bytes, as it counts ten-thousandths of a core where other cells count
/// thousandths. So a core is worth as much memory here as anywhere.
const MEMORY_UNIT: u64 = 1_000_000;

/// Ten-thousandths of one.
const PER_ONE: f64 = 1e4;

/// Which jobs, and their streams of random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Stream {
    /// Many short jobs.
    Batch = 1,
    /// Few long ones.
    Service = 2,
    /// What is there before the first job and never ends.
    Prefill = 3,
}

impl Stream {
    /// The name in job lists.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Batch => "Batch",
            Self::Service => "Service",
            Self::Prefill => "Prefill",
        }
    }
}

/// A distribution.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Draw {
    Always(f64),
    Exponential { mean: f64 },
    LogNormal { median: f64, sigma: f64, most: f64 },
}

/// How the jobs of a stream are drawn. Per task: CPU in cores, memory in 10^9 bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamShape {
    pub(crate) gap_seconds: f64,
    pub(crate) tasks: Draw,
    pub(crate) seconds: Draw,
    pub(crate) cpu: Draw,
    pub(crate) memory: Draw,
}

/// A cell and its load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CellShape {
    pub(crate) name: &'static str,
    pub(crate) machines: u32,
    pub(crate) cpu: f64,
    pub(crate) memory: f64,
    /// Filled to this part of its CPU and memory before the first job.
    pub(crate) fill: f64,
    pub(crate) batch: StreamShape,
    pub(crate) service: StreamShape,
}

const fn log_normal(median: f64, sigma: f64, most: f64) -> Draw {
    Draw::LogNormal { median, sigma, most }
}

const fn exponential(mean: f64) -> Draw {
    Draw::Exponential { mean }
}

/// Small, and everything exponential.
pub(crate) const R1: CellShape = CellShape {
    name: "R1",
    machines: 1000,
    cpu: 4.0,
    memory: 16.0,
    fill: 0.60,
    batch: StreamShape {
        gap_seconds: 4.0,
        tasks: exponential(10.0),
        seconds: exponential(20.0),
        cpu: Draw::Always(0.5),
        memory: Draw::Always(1.0),
    },
    service: StreamShape {
        gap_seconds: 100.0,
        tasks: exponential(5.0),
        seconds: exponential(3600.0),
        cpu: Draw::Always(1.0),
        memory: Draw::Always(2.0),
    },
};

/// Heavy tails.
pub(crate) const R2: CellShape = CellShape {
    name: "R2",
    machines: 10_000,
    cpu: 4.0,
    memory: 16.0,
    fill: 0.60,
    batch: StreamShape {
        gap_seconds: 3.5,
        tasks: log_normal(2.0, 2.4, 3000.0),
        seconds: log_normal(300.0, 1.5, f64::INFINITY),
        cpu: log_normal(0.10, 0.8, 3.9),
        memory: log_normal(0.4, 0.8, 15.9),
    },
    service: StreamShape {
        gap_seconds: 150.0,
        tasks: log_normal(3.0, 1.5, 500.0),
        seconds: log_normal(432_000.0, 2.1, f64::INFINITY),
        cpu: log_normal(0.3, 1.0, 3.9),
        memory: log_normal(1.0, 1.0, 15.9),
    },
};

/// R2, fuller.
pub(crate) const R3: CellShape = CellShape { name: "R3", fill: 0.85, ..R2 };

/// The cell with this name.
pub(crate) fn cell_named(name: &str) -> Option<&'static CellShape> {
    [&R1, &R2, &R3].into_iter().find(|cell| cell.name == name)
}

/// A job of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct JobPlan {
    pub(crate) stream: Stream,
    /// Its number in its stream.
    pub(crate) number: u32,
    pub(crate) submitted_micros: i64,
    pub(crate) tasks: u32,
    pub(crate) duration_micros: i64,
    /// Ten-thousandths of a core, each task.
    pub(crate) cpu: u64,
    /// Ten-thousandths of 10^9 bytes, each task.
    pub(crate) memory: u64,
}

impl JobPlan {
    /// What each task gets, in ten-thousandths of a core and tenths of bytes.
    pub(crate) const fn resources(&self) -> Resources {
        Resources::new(self.cpu, self.memory * MEMORY_UNIT)
    }
}

impl CellShape {
    /// What each machine has, in the units of [`JobPlan::resources`].
    pub(crate) fn capacity(&self) -> Resources {
        Resources::new(count(self.cpu * PER_ONE), count(self.memory * PER_ONE) * MEMORY_UNIT)
    }

    fn stream(&self, stream: Stream) -> &StreamShape {
        if stream == Stream::Batch { &self.batch } else { &self.service }
    }

    /// All jobs submitted before the horizon, Batch first, each stream in its order, then what the cell is filled with.
    /// `rate` multiplies the arrivals of Batch.
    pub(crate) fn jobs(&self, seed: u64, horizon_seconds: f64, rate: f64) -> Vec<JobPlan> {
        let mut jobs = Vec::new();
        for (stream, rate) in [(Stream::Batch, rate), (Stream::Service, 1.0)] {
            let gap = exponential(self.stream(stream).gap_seconds / rate);
            let mut submitted = 0.0;
            for number in 0.. {
                submitted += Numbers { stream, seed, job: number }.draw(gap, 0);
                if submitted >= horizon_seconds {
                    break;
                }
                let plan = self.job(stream, seed, number);
                let micros = i64::try_from(rounded(submitted, 6)).unwrap_or(i64::MAX);
                jobs.push(JobPlan { submitted_micros: micros, ..plan });
            }
        }
        self.fill(seed, &mut jobs);
        jobs
    }

    fn fill(&self, seed: u64, jobs: &mut Vec<JobPlan>) {
        let most = |each: f64| f64::from(self.machines) * each * PER_ONE * self.fill;
        let (mut cpu, mut memory) = (0, 0);
        for number in 0.. {
            let plan = self.job(Stream::Prefill, seed, number);
            cpu += plan.cpu * u64::from(plan.tasks);
            memory += plan.memory * u64::from(plan.tasks);
            if float(cpu) > most(self.cpu) || float(memory) > most(self.memory) {
                return;
            }
            jobs.push(JobPlan { duration_micros: FOREVER_MICROS, ..plan });
        }
    }

    fn job(&self, stream: Stream, seed: u64, number: u32) -> JobPlan {
        let shape = self.stream(stream);
        let numbers = Numbers { stream, seed, job: number };
        let whole = |draw: Draw, field: u64, places: u32, least: u64| {
            rounded(numbers.draw(draw, field).min(draw.most()), places).max(least)
        };
        let tasks = numbers.draw(shape.tasks, 1).ceil().max(1.0).min(shape.tasks.most());
        let millis = whole(shape.seconds, 3, 3, 1);
        JobPlan {
            stream,
            number,
            submitted_micros: 0,
            tasks: u32::try_from(count(tasks)).unwrap_or(u32::MAX),
            duration_micros: i64::try_from(millis).unwrap_or(i64::MAX / 1000).saturating_mul(1000),
            cpu: whole(shape.cpu, 5, 4, 100),
            memory: whole(shape.memory, 7, 4, 100),
        }
    }
}

/// The duration of what never ends: 10^9 seconds.
const FOREVER_MICROS: i64 = 1_000_000_000_000_000;

/// The random numbers of one job.
#[derive(Clone, Copy)]
struct Numbers {
    stream: Stream,
    seed: u64,
    job: u32,
}

impl Numbers {
    /// Between 0 and 1, neither of them: the finalizer of SplitMix64 on a counter.
    fn uniform(self, field: u64) -> f64 {
        let key = ((self.stream as u64) << 56) ^ self.seed;
        let step = (16 * u64::from(self.job) + field + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut word = key.wrapping_add(step);
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^= word >> 31;
        (float(word >> 11) + 0.5) / float(1 << 53)
    }

    fn draw(self, draw: Draw, field: u64) -> f64 {
        match draw {
            Draw::Always(value) => value,
            Draw::Exponential { mean } => -mean * self.uniform(field).ln(),
            Draw::LogNormal { median, sigma, .. } => {
                let radius = (-2.0 * self.uniform(field).ln()).sqrt();
                let normal = radius * (2.0 * std::f64::consts::PI * self.uniform(field + 1)).cos();
                median * (sigma * normal).exp()
            }
        }
    }
}

impl Draw {
    const fn most(self) -> f64 {
        match self {
            Self::LogNormal { most, .. } => most,
            _ => f64::INFINITY,
        }
    }
}

/// The list as text, one job a line: stream, number, submission in seconds, tasks, duration in seconds, cores and 10^9 bytes a task.
pub(crate) fn rows(jobs: &[JobPlan]) -> String {
    let mut text = String::with_capacity(jobs.len() * 64);
    for job in jobs {
        let (submitted, millis) = (job.submitted_micros, job.duration_micros / 1000);
        let _ = writeln!(
            text,
            "{},{},{}.{:06},{},{}.{:03},{}.{:04},{}.{:04}",
            job.stream.name(),
            job.number,
            submitted / 1_000_000,
            submitted % 1_000_000,
            job.tasks,
            millis / 1000,
            millis % 1000,
            job.cpu / 10_000,
            job.cpu % 10_000,
            job.memory / 10_000,
            job.memory % 10_000,
        );
    }
    text
}

/// Seconds as microseconds, rounded. What is too long for them is as good as for ever.
#[allow(clippy::cast_possible_truncation, reason = "a cast from a float saturates, which is what is wanted")]
pub(crate) fn micros(seconds: f64) -> i64 {
    (seconds * 1e6).round_ties_even() as i64
}

/// A number, not negative, times `10^places`, rounded as it is when it is written with so many places: by its exact value, half to even. A
/// product can come out on a half where the value is not, so what is near one is written.
fn rounded(value: f64, places: u32) -> u64 {
    let scaled = value * f64::from(10u32.pow(places));
    let near_half = (scaled.fract() - 0.5).abs() < 1e-3;
    if !near_half {
        return count(scaled.round());
    }
    let places = usize::try_from(places).unwrap_or(0);
    format!("{value:.places$}").replace('.', "").parse().unwrap_or(u64::MAX)
}

/// A whole number, as one; 0 for what is below.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast from a float saturates")]
fn count(whole: f64) -> u64 {
    whole as u64
}

/// An integer below 2^53, or so near to it that the last digits don't matter.
#[allow(clippy::cast_precision_loss, reason = "53 bits are what is wanted")]
pub(crate) const fn float(whole: u64) -> f64 {
    whole as f64
}

#[cfg(test)]
mod tests;

//! How many workers a data-parallel job that can grow is given: the three policies of Omega's MapReduce scheduler (Schwarzkopf et al.,
//! EuroSys 2013, section 6).
//!
//! People ask for a number of workers out of habit (5, 11, 200 and 1,000 are common), far from what the job could use or what the cell
//! has to spare. A scheduler that sees the whole cell can give more. Each policy is a pure function of the job, of what is idle, and of how full the
//! cell is; none gives fewer than were asked for.

/// A job of independent pieces of work in two phases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ElasticJob {
    /// Workers that were asked for: at least 1.
    pub asked: u32,
    /// Pieces of work of the first phase, all of about equal length.
    pub maps: u32,
    /// And of the second, which begins when the first is over.
    pub reduces: u32,
    /// Microseconds of a piece of the first phase.
    pub map_micros: i64,
    /// And of the second.
    pub reduce_micros: i64,
}

impl ElasticJob {
    /// Workers beyond which nothing is faster: each piece has one of its own.
    #[must_use]
    pub fn useful(&self) -> u32 {
        self.maps.max(self.reduces).max(self.asked)
    }

    /// Microseconds that it runs with so many workers, at least 1: each phase takes as many rounds as it needs.
    #[must_use]
    pub fn duration_micros(&self, workers: u32) -> i64 {
        let rounds = |pieces: u32| i64::from(pieces.div_ceil(workers.max(1)));
        (rounds(self.maps).saturating_mul(self.map_micros))
            .saturating_add(rounds(self.reduces).saturating_mul(self.reduce_micros))
    }

    /// How many times as fast it is with so many workers as with those that were asked for. 1 for a job without work.
    #[must_use]
    pub fn speed_up(&self, workers: u32) -> f64 {
        let micros = |workers| {
            // Far below 2^53: a job of three hundred years.
            #[allow(clippy::cast_precision_loss, reason = "see above")]
            let micros = self.duration_micros(workers) as f64;
            micros
        };
        let with = micros(workers);
        if with > 0.0 { micros(self.asked) / with } else { 1.0 }
    }
}

/// How much of what is idle a job gets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ElasticPolicy {
    /// As many workers as can be used and are idle.
    MaxParallelism,
    /// The same, but only as long as no more than this part of the cell is used, in thousandths (the paper: 600). Keeps room for others.
    GlobalCap {
        /// Thousandths of the cell.
        used_millis: u32,
    },
    /// The same, but at most so many times as many as were asked for (the paper: 4). Keeps one job from taking all.
    RelativeJobSize {
        /// At least 1.
        times: u32,
    },
}

/// The cell as the policies see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idle {
    /// Workers of this job's size that fit on what is free.
    pub workers: u32,
    /// Of the scarcest resource: what is used, and what there is, in any unit.
    pub used: u64,
    /// What there is; at least `used`.
    pub capacity: u64,
    /// What one worker takes of it.
    pub each: u64,
}

impl ElasticPolicy {
    /// Workers for a job: never fewer than were asked for (whether these fit is not judged here), never more than it can use.
    #[must_use]
    pub fn workers(&self, job: &ElasticJob, idle: &Idle) -> u32 {
        let could = job.useful().min(idle.workers);
        let most = match *self {
            Self::MaxParallelism => could,
            Self::GlobalCap { used_millis } => {
                let cap = u128::from(idle.capacity) * u128::from(used_millis) / 1000;
                let room = cap.saturating_sub(u128::from(idle.used)) / u128::from(idle.each.max(1));
                could.min(u32::try_from(room).unwrap_or(u32::MAX))
            }
            Self::RelativeJobSize { times } => could.min(job.asked.saturating_mul(times)),
        };
        self.fewest_as_fast(job, most.max(job.asked))
    }

    /// The fewest workers, at least those asked for, with which it is as fast as with `most`: further ones would idle in the last round.
    fn fewest_as_fast(self, job: &ElasticJob, most: u32) -> u32 {
        let fastest = job.duration_micros(most);
        let (mut low, mut high) = (job.asked.max(1), most.max(1));
        // The duration never rises with the number of workers.
        while low < high {
            let middle = low + (high - low) / 2;
            if job.duration_micros(middle) == fastest {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        low
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: ElasticJob = ElasticJob { asked: 5, maps: 100, reduces: 20, map_micros: 10, reduce_micros: 30 };
    const EMPTY: Idle = Idle { workers: 1000, used: 0, capacity: 10_000, each: 10 };

    #[test]
    fn a_job_takes_as_many_rounds_as_its_workers_leave_it() {
        // 20 rounds of maps and 4 of reduces; with 100 workers one each.
        assert_eq!(JOB.duration_micros(5), 200 + 120);
        assert_eq!(JOB.duration_micros(100), 10 + 30);
        assert_eq!(JOB.speed_up(100), 8.0);
        assert_eq!(JOB.speed_up(1000), 8.0);
        assert_eq!(ElasticJob { maps: 0, reduces: 0, ..JOB }.speed_up(9), 1.0);
    }

    #[test]
    fn max_parallelism_takes_what_is_idle_and_of_use() {
        let policy = ElasticPolicy::MaxParallelism;
        assert_eq!(policy.workers(&JOB, &EMPTY), 100);
        // With 49 workers as with 34 the maps take three rounds, and one round of reduces is left.
        assert_eq!(policy.workers(&JOB, &Idle { workers: 49, ..EMPTY }), 34);
        assert_eq!(policy.workers(&JOB, &Idle { workers: 2, ..EMPTY }), 5);
    }

    #[test]
    fn a_global_cap_leaves_the_rest_of_the_cell_alone() {
        let policy = ElasticPolicy::GlobalCap { used_millis: 600 };
        assert_eq!(policy.workers(&JOB, &EMPTY), 100);
        // 5,500 of 10,000 are used: 50 workers of 10 until 6,000, and 50 are two rounds.
        assert_eq!(policy.workers(&JOB, &Idle { used: 5500, ..EMPTY }), 50);
        assert_eq!(policy.workers(&JOB, &Idle { used: 6000, ..EMPTY }), 5);
        assert_eq!(policy.workers(&JOB, &Idle { used: 9000, ..EMPTY }), 5);
    }

    #[test]
    fn a_relative_job_size_bounds_each_job_by_itself() {
        let policy = ElasticPolicy::RelativeJobSize { times: 4 };
        assert_eq!(policy.workers(&JOB, &EMPTY), 20);
        assert_eq!(policy.workers(&ElasticJob { asked: 50, ..JOB }, &EMPTY), 100);
        assert_eq!(policy.workers(&ElasticJob { asked: u32::MAX, ..JOB }, &EMPTY), u32::MAX);
    }

    #[test]
    fn more_idle_room_never_makes_a_job_slower() {
        let policies = [
            ElasticPolicy::MaxParallelism,
            ElasticPolicy::GlobalCap { used_millis: 600 },
            ElasticPolicy::RelativeJobSize { times: 4 },
        ];
        for policy in policies {
            let durations: Vec<i64> =
                (0..200).map(|workers| JOB.duration_micros(policy.workers(&JOB, &Idle { workers, ..EMPTY }))).collect();
            assert!(durations.is_sorted_by(|less, more| less >= more), "{policy:?}: {durations:?}");
        }
    }
}

//! Small bounds of the core, and of a batch, so that a run comes to them. What is above one is refused, and done later or never: whoever asks must get
//! by with that.

use plenum_core::CoreOptions;

use crate::random::Random;
use crate::server::USERS;

/// Schedulers that run at once, and how many of them go by one name.
const SEATS: usize = 4;
const ALIKE: usize = 2;
/// Names that they go by.
const SCHEDULERS: usize = 3;

/// See the module. Each scheduler of the simulation finds a place beside the others, once those that nobody uses are free again.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    ring_changes: usize,
    sessions_max: usize,
    sessions_of_principal_max: usize,
    sessions_of_scheduler_max: usize,
    schedulers_max: usize,
    jobs_max: u32,
    tasks_max: u32,
    shapes_max: usize,
    quotas_max: usize,
    partitions_max: usize,
    holds_max: usize,
    retire_after_micros: i64,
    finished_jobs_max: usize,
    stops_max: usize,
    /// A batch of so many bytes takes no further request.
    pub(crate) batch_bytes: usize,
}

impl Bounds {
    pub(crate) fn draw(random: &mut Random) -> Self {
        let mut up_to = |least: u32, more: u64| least + u32::try_from(random.below(more)).unwrap_or(0);
        let (jobs_max, tasks_max) = (up_to(8, 12), 64_u32 << up_to(0, 2));
        Self {
            jobs_max,
            tasks_max,
            ring_changes: [2, 8, 24][random.index(3)],
            sessions_max: SEATS + 1 + random.index(3),
            sessions_of_principal_max: SEATS + random.index(3),
            sessions_of_scheduler_max: ALIKE + random.index(2),
            schedulers_max: SCHEDULERS + random.index(2),
            shapes_max: 10 + random.index(14),
            quotas_max: 1 + random.index(2),
            partitions_max: 1 + random.index(2),
            holds_max: 1 + random.index(4),
            retire_after_micros: random.between(500_000, 10_000_000),
            finished_jobs_max: 1 + random.index(6),
            stops_max: 1 + random.index(4),
            batch_bytes: 256 << random.index(5),
        }
    }

    /// Schedulers are of several users, each of whom has as many as the others: none has room for one more.
    pub(crate) fn of_users(&mut self) {
        self.sessions_of_principal_max = SEATS / USERS.len();
    }

    /// The core's options with these bounds.
    pub(crate) fn of(&self, options: CoreOptions) -> CoreOptions {
        CoreOptions {
            ring_changes: self.ring_changes,
            sessions_max: self.sessions_max,
            sessions_of_principal_max: self.sessions_of_principal_max,
            sessions_of_scheduler_max: self.sessions_of_scheduler_max,
            schedulers_max: self.schedulers_max,
            // Who had a name once keeps nobody from having another.
            schedulers_spare: 0,
            jobs_max: self.jobs_max,
            tasks_max: self.tasks_max,
            shapes_max: self.shapes_max,
            quotas_max: self.quotas_max,
            partitions_max: self.partitions_max,
            holds_max: self.holds_max,
            retire_after_micros: self.retire_after_micros,
            finished_jobs_max: self.finished_jobs_max,
            stops_max: self.stops_max,
            ..options
        }
    }
}

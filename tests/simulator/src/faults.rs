//! What goes wrong, and how often: each seed draws its own mix, also one with almost no faults.

use plenum_core::CoreOptions;

use crate::bounds::Bounds;
use crate::outfit::{self, Outfit};
use crate::random::Random;

/// So few that jobs of a handful of tasks are stopped in steps.
const STOPS_MAX: usize = 4;

/// Fewer than most runs have jobs.
const FINISHED_JOBS_MAX: usize = 6;

macro_rules! faults {
    ($($(#[$about:meta])* $fault:ident: $name:literal,)*) => {
        /// A kind of fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Fault {
            $($(#[$about])* $fault,)*
        }

        impl Fault {
            pub(crate) const ALL: &[Self] = &[$(Self::$fault,)*];

            /// As the report calls it.
            pub(crate) const fn name(self) -> &'static str {
                match self {
                    $(Self::$fault => $name,)*
                }
            }
        }
    };
}

faults! {
    /// A connection breaks.
    Break: "a broken connection",
    /// A party is cut off for a while.
    Cut: "a party cut off",
    /// A party is not heard, or does not hear, for a while.
    CutOneWay: "a party cut off one way",
    /// The server's machine loses power, at once or within one of the next steps of its disk.
    PowerCut: "a power cut",
    /// The server's process is killed, at once or within one of the next steps of its disk.
    ServerKill: "a killed server",
    /// A write or a sync of the server's disk fails.
    DiskFails: "a failing disk",
    /// The server's disk is full for a while.
    DiskFull: "a full disk",
    /// Syncs of the server's disk take seconds for a while.
    DiskSlow: "a slow disk",
    /// Bits flip on the disk of a server that does not run.
    BitFlip: "a flipped bit",
    /// Log time of a server that runs jumps, forward or back. A real one goes by a clock that nobody sets, and has log time jump while its machine
    /// sleeps, or when it starts and the other clock was set: what is decided here must hold for worse.
    ClockJump: "log time that jumps",
    /// The server stands still, and goes on.
    ServerPause: "a paused server",
    /// A scheduler stands still, and goes on.
    SchedulerPause: "a paused scheduler",
    /// An agent stands still, perhaps for longer than its lease, and goes on. Its tasks run meanwhile.
    AgentPause: "a paused agent",
    /// A scheduler's process is killed, and comes back with a new session.
    SchedulerKill: "a killed scheduler",
    /// An agent's process is killed; its tasks go on.
    AgentKill: "a killed agent",
    /// A machine boots; its tasks are gone.
    Reboot: "a machine that boots",
    /// The cell goes on from its newest backup, on a new disk: what came after is forgotten, and what agents run of it is not.
    Restore: "a cell that was restored",
    /// An agent takes its leave, and the next one of its machine comes later; its tasks go on.
    AgentLeaves: "an agent that takes its leave",
    /// What it takes to start a task can't be written on a machine, for a while: its agent wants none.
    StateUnwritable: "a machine on which nothing can be written",
    /// A machine stands in another rack from now on: its agent is started again, and says so. Its tasks go on.
    OtherRack: "a machine in another rack",
    /// An agent is killed while it registers, and what it asked arrives when the next one has registered.
    LateRegistration: "a registration that came too late",
    /// No task can be set up on a machine, for a while: its agent can write, and has to find out by the tasks.
    SetupsFail: "a machine on which no task could be set up",
    /// A read of the server's disk fails: of a server that runs, or of the next one, which is to read its log.
    DiskUnreadable: "a disk that could not be read",
    /// A machine's clock is set: the next agent begins at another time, and goes on from there by a clock that nobody sets, as those before did. What
    /// these wrote down has times of theirs. Schedulers know no clock but one that nobody sets, and log time.
    ClockSet: "a machine's clock that was set",
    /// An agent's process ends, and the next one can't read what was written down of one of its tasks: it stops that one, and says that it is lost. The
    /// machine is there, with all else.
    RecordUnreadable: "a task's record that could not be read",
    /// A machine has less than it began with, fewer cores or a device less, or all of it again: its agent is started again, and says so. Its tasks go
    /// on, also those that have more than is left.
    OtherHardware: "a machine with other hardware",
    /// The agents of several machines end at once, and are started again one by one: most so late that their tasks are lost, if they may be. Strikes
    /// where there are many machines.
    ManyLost: "several machines that were lost at once",
}

/// Faults that `apart` draws: see [`Mix::draw`].
const APART: [Fault; 4] = [Fault::AgentLeaves, Fault::StateUnwritable, Fault::OtherRack, Fault::LateRegistration];
/// How often one of these is in a mix, in thousandths.
const APART_THOUSANDTHS: u64 = 300;
/// Faults that `later` draws.
const LATER: [Fault; 5] =
    [Fault::SetupsFail, Fault::DiskUnreadable, Fault::ClockSet, Fault::RecordUnreadable, Fault::OtherHardware];
/// How often one of these is in a mix, in thousandths.
const LATER_THOUSANDTHS: u64 = 60;
/// How often there are many machines, in thousandths: then several are lost at once, and of these no more are given up within a minute than may be.
const CROWD_THOUSANDTHS: u64 = 100;
/// How often the bounds of the core are small, in thousandths.
const BOUNDS_THOUSANDTHS: u64 = 150;
/// How often there are several users, in thousandths.
const USERS_THOUSANDTHS: u64 = 200;
/// How often the log takes so few bytes of a request that some are refused after they were decided, in thousandths.
const SMALL_ENTRY_THOUSANDTHS: u64 = 150;

/// What sets the generators of [`Mix::draw`] apart.
const LATER_SEED: u64 = 49 << 40;
const SMALL_ENTRY_SEED: u64 = 919 << 40;
const CROWD_SEED: u64 = 1279 << 40;
const BOUNDS_SEED: u64 = 1329 << 40;
const USERS_SEED: u64 = 1200 << 40;

/// The circumstances of a run.
#[derive(Clone, Debug)]
pub(crate) struct Mix {
    /// Mean time between strikes; 0 for never. By kind.
    pub(crate) every_micros: [i64; Fault::ALL.len()],
    /// When faults end.
    pub(crate) quiet_at_micros: i64,
    pub(crate) delay_micros_max: i64,
    /// Messages that take seconds.
    pub(crate) stuck_thousandths: u64,
    pub(crate) sync_micros_max: i64,
    pub(crate) fold_micros_max: i64,
    /// What watchers are kept for.
    pub(crate) recent_bytes: usize,
    pub(crate) message_bytes: usize,
    pub(crate) batch_requests: usize,
    pub(crate) lease_micros: i64,
    pub(crate) lost_after_micros: i64,
    /// Mean time between the owner's second thoughts; 0 for none.
    pub(crate) meddles_micros: i64,
    /// Mean time between what a mad scheduler does; 0 for none.
    pub(crate) mad_every_micros: i64,
    /// How often the history makes a checkpoint when the server keeps house, in thousandths; the log is given up behind it.
    pub(crate) checkpoint_thousandths: u64,
    /// How often a backup is taken when the server keeps house, in thousandths.
    pub(crate) backup_thousandths: u64,
    /// After which time unknown tasks are told to stop.
    pub(crate) unknown_micros: i64,
    /// For how long room is held at most.
    pub(crate) hold_micros_max: i64,
    /// What the core remembers of machines, to tell conflict from misfit.
    pub(crate) ring_changes: usize,
    pub(crate) machines: usize,
    pub(crate) jobs: usize,
    /// Restarts within an allocation, and failures.
    pub(crate) failing_thousandths: u64,
    /// How long it takes at most until an order to start a task is written down, in milliseconds: 0 where that is at once.
    pub(crate) recorded_ms_max: u64,
    /// Most bytes that a request may come to in the log until faults end: what is more is decided, and must then leave no trace.
    pub(crate) entry_bytes: usize,
    /// So many of a thousand machines may be given up within a minute, and one at least.
    pub(crate) lost_millis_a_minute: u32,
    /// Other bounds of the core than usual.
    pub(crate) bounds: Option<Bounds>,
    /// Several users ask, schedulers are of several, and some of these are there for the jobs of one namespace.
    pub(crate) has_users: bool,
    /// What machines have beside CPU and memory.
    pub(crate) outfit: Outfit,
}

impl Mix {
    /// Bounds of the core that decides, and of the one that decides again.
    pub(crate) fn core_options(&self) -> CoreOptions {
        let Self { ring_changes, unknown_micros, hold_micros_max, lost_millis_a_minute, .. } = *self;
        let options = CoreOptions {
            ring_changes,
            unknown_micros,
            hold_micros_max,
            lost_millis_a_minute,
            stops_max: STOPS_MAX,
            // Few jobs are retired in a run: what they had is given to others at once.
            shapes_spare: 0,
            finished_jobs_max: FINISHED_JOBS_MAX,
            ..CoreOptions::default()
        };
        match &self.bounds {
            Some(bounds) => bounds.of(options),
            None => options,
        }
    }

    /// The mix of a seed.
    ///
    /// A new draw comes from a generator of its own, so that old seeds stay the same runs: all that don't draw it, among which its `…_SEED` is chosen to have
    /// those that failed once. The draws of a generator keep their order, and so do the fields below, which are drawn as they stand.
    ///
    /// | generator | seeded by | draws |
    /// |---|---|---|
    /// | `random` | the seed; the run goes on with it | all else |
    /// | `apart` | `!seed` | the faults of [`APART`], then `recorded_ms_max` |
    /// | `later` | [`LATER_SEED`] | the faults of [`LATER`] |
    /// | `small` | [`SMALL_ENTRY_SEED`] | `entry_bytes` |
    /// | in [`Mix::draw_apart`] | [`CROWD_SEED`] | many machines, and [`Fault::ManyLost`] |
    /// | | [`BOUNDS_SEED`] | `bounds` |
    /// | | [`USERS_SEED`] | `has_users` |
    /// | | [`outfit::numbers`] | `outfit`, and [`Fault::OtherHardware`] where `later` has none |
    pub(crate) fn draw(random: &mut Random, seed: u64) -> Self {
        let (mut apart, mut later) = (Random::new(!seed), Random::new(!seed ^ LATER_SEED));
        let mut small = Random::new(!seed ^ SMALL_ENTRY_SEED);
        let calm = random.chance(120);
        let mut every_micros = [0; Fault::ALL.len()];
        for fault in LATER {
            let (is_drawn, every) = (later.chance(LATER_THOUSANDTHS), later.between(1_500_000, 12_000_000));
            every_micros[fault as usize] = if is_drawn && !calm { every } else { 0 };
        }
        for &fault in Fault::ALL.iter().filter(|fault| !LATER.contains(fault) && **fault != Fault::ManyLost) {
            let (random, thousandths) =
                if APART.contains(&fault) { (&mut apart, APART_THOUSANDTHS) } else { (&mut *random, 600) };
            if !calm && random.chance(thousandths) {
                // Few of them fill a spread between a decision and its commit.
                let most = if fault == Fault::OtherRack { 6_000_000 } else { 20_000_000 };
                every_micros[fault as usize] = random.between(1_500_000, most);
            }
        }
        // Each takes back what was reached: more of them, and nothing is ever old.
        let restored = !calm && random.chance(250);
        every_micros[Fault::Restore as usize] = if restored { random.between(4_000_000, 15_000_000) } else { 0 };
        let pick = |random: &mut Random, of: &[i64]| of[random.index(of.len())];
        let mut mix = Self {
            every_micros,
            quiet_at_micros: random.between(8_000_000, 25_000_000),
            delay_micros_max: pick(random, &[100, 1_000, 20_000, 200_000]),
            stuck_thousandths: if calm { 0 } else { random.below(4) * 5 },
            sync_micros_max: pick(random, &[0, 300, 5_000, 100_000]),
            fold_micros_max: pick(random, &[0, 0, 1_000, 50_000]),
            recent_bytes: if random.chance(600) { 512 } else { 1 << 20 },
            message_bytes: if random.chance(300) { 300 } else { 256 << 10 },
            batch_requests: if random.chance(200) { 2 } else { 4096 },
            lease_micros: random.between(1_000_000, 4_000_000),
            lost_after_micros: random.between(1_000_000, 6_000_000),
            meddles_micros: if random.chance(700) { random.between(600_000, 4_000_000) } else { 0 },
            mad_every_micros: if !calm && random.chance(400) { random.between(50_000, 800_000) } else { 0 },
            checkpoint_thousandths: if random.chance(500) { random.below(300) } else { 0 },
            backup_thousandths: if restored { pick(random, &[30, 100, 400]).unsigned_abs() } else { 0 },
            unknown_micros: random.between(500_000, 8_000_000),
            hold_micros_max: pick(random, &[1_000_000, 4_000_000, 20_000_000]),
            ring_changes: if random.chance(300) { 24 } else { 1 << 19 },
            machines: 2 + random.index(3),
            jobs: 5 + random.index(8),
            failing_thousandths: if random.chance(500) { random.below(700) } else { 0 },
            recorded_ms_max: if !calm && apart.chance(APART_THOUSANDTHS) { 1_500 } else { 0 },
            entry_bytes: if small.chance(SMALL_ENTRY_THOUSANDTHS) { 600 + 100 * small.index(6) } else { usize::MAX },
            lost_millis_a_minute: CoreOptions::default().lost_millis_a_minute,
            bounds: None,
            has_users: false,
            outfit: Outfit::default(),
        };
        mix.draw_apart(seed, calm);
        mix
    }

    /// Draws what is in few mixes: see [`Mix::draw`].
    fn draw_apart(&mut self, seed: u64, calm: bool) {
        if let Some(mut random) = Random::drawn(seed, CROWD_SEED, CROWD_THOUSANDTHS) {
            self.machines = 5 + random.index(6);
            self.jobs += random.index(6);
            self.lost_millis_a_minute = [50, 250, 500][random.index(3)];
            let (is_drawn, every) = (random.chance(750), random.between(3_000_000, 12_000_000));
            self.every_micros[Fault::ManyLost as usize] = if is_drawn && !calm { every } else { 0 };
        }
        self.bounds = Random::drawn(seed, BOUNDS_SEED, BOUNDS_THOUSANDTHS).map(|mut random| Bounds::draw(&mut random));
        self.has_users = Random::drawn(seed, USERS_SEED, USERS_THOUSANDTHS).is_some();
        if self.has_users {
            self.bounds.iter_mut().for_each(Bounds::of_users);
        }
        if let Some(mut random) = outfit::numbers(seed) {
            self.outfit = Outfit::draw(&mut random, self.machines);
            let hardware = &mut self.every_micros[Fault::OtherHardware as usize];
            // Machines lose what few have seldom enough.
            if *hardware == 0 && !calm && random.chance(300) {
                *hardware = random.between(1_500_000, 8_000_000);
            }
        }
    }
}

//! In whose name the owner of the jobs asks: of one user, or of several, and launches now and then in that of a scheduler, which may launch from its own
//! jobs alone.

use plenum_model::Command;

use crate::random::Random;
use crate::server;

/// Who asks where there are no users.
pub(super) const OWNER: &str = "owner";
/// The owner, and those whose the schedulers are.
const USERS: [&str; 3] = {
    let [one, other] = server::USERS;
    [OWNER, one, other]
};
/// As servers call schedulers that say who they are.
const SCHEDULERS: [&str; 3] = ["scheduler/cron", "scheduler/batch", "scheduler/rival"];
/// How often a launch is a scheduler's, in thousandths.
const OF_SCHEDULERS_THOUSANDTHS: u64 = 500;
/// Sets the numbers apart of which they are drawn.
const ASKS_SEED: u64 = 1201 << 40;

/// What users are drawn from, where there are several: see `Mix::has_users`.
pub(super) fn numbers(seed: u64) -> Random {
    Random::new(!seed ^ ASKS_SEED)
}

/// In whose name something is asked.
pub(super) fn asks(random: &mut Random, command: &Command) -> &'static str {
    if matches!(command, Command::Launch { .. }) && random.chance(OF_SCHEDULERS_THOUSANDTHS) {
        return SCHEDULERS[random.index(SCHEDULERS.len())];
    }
    USERS[random.index(USERS.len())]
}

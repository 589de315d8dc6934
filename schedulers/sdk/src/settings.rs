//! What can be set about a runtime. All bounds of a runtime are here; those of its connection stand in the shell.

use std::sync::Arc;

use plenum_model::{is_name, session::NUMBERS_KEPT};

use crate::backoff::Backoff;

/// Settings of a [`crate::SchedulerRuntime`]. The default ones are those of a stage or a simulation, the same each time; [`run`](crate::run) gives them what
/// a process has: a clock, and a seed of its own.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whose jobs: those of this namespace, or of all where it is empty. Sessions of one scheduler share its jobs only where this is the same: one of `ml`
    /// and one of all namespaces both take all jobs of `ml` for their own, and race for each task.
    pub namespace: Arc<str>,
    /// Most transactions that are unanswered at once, 1 to 256.
    pub window: usize,
    /// Most tasks that are offered to one call of `decide`, 1 to 16,384. Bounds a transaction, and how long a call takes.
    pub tasks_max: usize,
    /// Least time between two calls of `decide`, so that a burst of deltas is one occasion and not a thousand. There is
    /// none behind a call that had nothing to place and sent nothing. It also passes behind a look for work that finds nothing but gangs that wait for their predecessors.
    pub pause_micros: i64,
    /// Before a job is tried again that was refused everything.
    pub retry: Backoff,
    /// Before the next connection, and after a rejected transaction without a hint.
    pub reconnect: Backoff,
    /// Once a peer has committed nothing for so long while a job of it waits, that job is tried here too, at most as often. Where there is room
    /// for it, the peer is thought dead until it commits something. For as long, room is left to a peer's job of a higher band of which nothing is granted, and to an own one that rests after a
    /// lost race ([`View::ahead`](crate::View::ahead)).
    pub peer_silence_micros: i64,
    /// Least time between two messages of notes why jobs were passed over.
    pub notes_pause_micros: i64,
    /// How room is held for jobs that starve, by the runtime of a scheduler that wants it to ([`Scheduler::takes_holds`](crate::Scheduler::takes_holds)); `None`:
    /// not at all.
    pub holds: Option<Holding>,
    /// For jitter, and for the scheduler's own randomness. 0: [`run`](crate::run) draws one, so that a thousand schedulers do not come back to a restarted cell in
    /// the same instant.
    pub seed: u64,
    /// Reads a clock that never goes backwards, in microseconds: how long deciding took is told, and what came in meanwhile is read before the next decision.
    /// Of use to who drives a runtime; a constant in simulations. [`run`](crate::run) goes by the clock of the process, whatever stands here.
    pub stopwatch: fn() -> i64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            namespace: Arc::default(),
            window: 4,
            tasks_max: 4096,
            pause_micros: 1_000,
            retry: Backoff { first_micros: 5_000, most_micros: 2_000_000 },
            reconnect: Backoff { first_micros: 50_000, most_micros: 2_000_000 },
            peer_silence_micros: 1_000_000,
            notes_pause_micros: 250_000,
            holds: Some(Holding::default()),
            seed: 0,
            stopwatch: || 0,
        }
    }
}

/// How a runtime holds room for jobs that starve: gangs, as a group with a `min` is one until so many of its tasks are there, which never find room for all
/// that start at once; and jobs whose room is held by jobs of lower bands. It asks for what is free, machine by machine, until the gang has all that it starts
/// with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Most jobs of this process for which room is held at once, 1 to 64: the first in its queue. Once one that comes before them holds some, the last one gives its own back. A few, so that a long queue does not set aside the whole cell.
    pub jobs_max: usize,
    /// A gang asks once so many attempts to place it were refused in a row, at least 1.
    pub after_losses: u32,
    /// Or once it has waited for so long, 0 or more.
    pub after_wait_micros: i64,
    /// For how long it asks at a time, at least 1; once half of that is over it asks again. After a scheduler that was killed nobody has the room for as long.
    pub within_micros: i64,
    /// What has not grown for so long, at least 1, is given back, and not asked for again before as much time has passed, and twice as much with each time in a row, up to
    /// eight times: what the gang lacks is taken by what runs long, or is nothing that can be held. Other gangs which lack that, too, begin no hold for as long on its machines.
    pub patience_micros: i64,
}

impl Default for Holding {
    /// For tasks that run for seconds or minutes.
    fn default() -> Self {
        Self {
            jobs_max: 4,
            after_losses: 8,
            after_wait_micros: 10_000_000,
            within_micros: 60_000_000,
            patience_micros: 300_000_000,
        }
    }
}

/// Settings with which no runtime can work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// Names are never paths.
    #[error(
        "{field}: expected 1 to 63 bytes of a-z, 0-9 and -, with a letter or a digit at both ends, found {found:?}"
    )]
    Name {
        /// Which setting.
        field: &'static str,
        /// What was there.
        found: String,
    },
    /// A number out of its bounds.
    #[error("{field}: expected {expected}, found {found}")]
    Bounds {
        /// Which setting.
        field: &'static str,
        /// What would be right.
        expected: &'static str,
        /// What was there.
        found: i64,
    },
}

impl Settings {
    /// Checks all bounds, and the scheduler's name.
    ///
    /// # Errors
    /// Names the first setting that is out of its bounds.
    pub fn check(&self, scheduler: &str) -> Result<(), SettingsError> {
        let name = |field, text: &str, may_be_empty: bool| {
            let good = is_name(text, false) || (may_be_empty && text.is_empty());
            if good { Ok(()) } else { Err(SettingsError::Name { field, found: text.chars().take(80).collect() }) }
        };
        name("scheduler", scheduler, false)?;
        name("namespace", &self.namespace, true)?;
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let kept = count(NUMBERS_KEPT);
        let holds = self.holds.unwrap_or_default();
        let bounds = [
            ("window", "1 to 256", count(self.window), 1, kept),
            ("tasks_max", "1 to 16384", count(self.tasks_max), 1, count(plenum_model::CLAIMS_MAX)),
            ("pause_micros", "0 or more", self.pause_micros, 0, i64::MAX),
            ("retry.first_micros", "1 or more", self.retry.first_micros, 1, i64::MAX),
            ("retry.most_micros", "1 or more", self.retry.most_micros, 1, i64::MAX),
            ("reconnect.first_micros", "1 or more", self.reconnect.first_micros, 1, i64::MAX),
            ("reconnect.most_micros", "1 or more", self.reconnect.most_micros, 1, i64::MAX),
            ("peer_silence_micros", "1 or more", self.peer_silence_micros, 1, i64::MAX),
            ("notes_pause_micros", "0 or more", self.notes_pause_micros, 0, i64::MAX),
            ("holds.jobs_max", "1 to 64", count(holds.jobs_max), 1, 64),
            ("holds.after_losses", "1 or more", holds.after_losses.into(), 1, i64::MAX),
            ("holds.after_wait_micros", "0 or more", holds.after_wait_micros, 0, i64::MAX),
            ("holds.within_micros", "1 or more", holds.within_micros, 1, i64::MAX),
            ("holds.patience_micros", "1 or more", holds.patience_micros, 1, i64::MAX),
        ];
        match bounds.into_iter().find(|(_, _, found, least, most)| !(least..=most).contains(&found)) {
            Some((field, expected, found, _, _)) => Err(SettingsError::Bounds { field, expected, found }),
            None => Ok(()),
        }
    }
}

//! Housekeeping of the log, off the commit path: the high-water mark, the next segment, and the room on the disk.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};
use plenum_journal::{Keeper, PrepareError, Space};

use crate::shared::Shared;

/// From a batch to the writing of its mark; the design allows 100 ms.
const MARK_DELAY: Duration = Duration::from_millis(50);
/// How often the room on the disk is looked at.
const SPACE_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Signals {
    written: bool,
    stopping: bool,
}

/// Wakes the keeping thread.
#[derive(Default)]
pub(crate) struct Keeping {
    signals: Mutex<Signals>,
    changed: Condvar,
}

impl Keeping {
    /// Something was written.
    pub(crate) fn wake(&self) {
        let mut signals = self.signals.lock();
        if !signals.written {
            signals.written = true;
            self.changed.notify_one();
        }
    }

    pub(crate) fn stop(&self) {
        self.signals.lock().stopping = true;
        self.changed.notify_one();
    }

    /// Waits for a batch, the end, or a time: whether something was written, and whether it is the end.
    fn wait(&self, until: Instant) -> (bool, bool) {
        let mut signals = self.signals.lock();
        if !signals.written && !signals.stopping {
            self.changed.wait_until(&mut signals, until);
        }
        (std::mem::take(&mut signals.written), signals.stopping)
    }
}

/// Why the cell takes no changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NoSpace {
    /// The log's directory.
    pub(crate) path: String,
    pub(crate) free_bytes: u64,
    pub(crate) needed_bytes: u64,
    /// Why the log can't grow although there is room: a quota, a limit of the process.
    pub(crate) obstacle: Option<String>,
}

impl std::fmt::Display for NoSpace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { path, free_bytes, needed_bytes, obstacle } = self;
        if let Some(obstacle) = obstacle {
            return write!(
                f,
                "the cell is read-only: {path} can't grow: {obstacle}; when it can, the cell goes on by itself"
            );
        }
        write!(
            f,
            "the cell is read-only: {path} has {free_bytes} bytes free, and needs {needed_bytes}; make room, and it goes on by itself"
        )
    }
}

/// Whether there is room for the log to grow.
pub(crate) struct SpaceWatch {
    path: String,
    low: RwLock<Option<NoSpace>>,
    /// Why the next segment could not be made when that was tried last.
    obstacle: Mutex<Option<String>>,
}

impl SpaceWatch {
    pub(crate) fn new(path: String) -> Self {
        Self { path, low: RwLock::new(None), obstacle: Mutex::new(None) }
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.low.read().is_some()
    }

    pub(crate) fn low(&self) -> Option<NoSpace> {
        self.low.read().clone()
    }

    /// Whether to try to make the next segment: not while there is no room for it, and now and then where something else is in its
    /// way.
    fn may_grow(&self, due: bool) -> bool {
        self.low.read().as_ref().is_none_or(|low| due && low.obstacle.is_some())
    }

    /// The next segment was made, or could not be.
    fn tried_to_grow(&self, keeper: &Keeper, tried: Result<(), PrepareError>) {
        let obstacle = tried.err().map(|error| {
            let cause = error.source.to_string();
            let source = std::error::Error::source(&error.source).map(|source| format!(": {source}"));
            format!("{cause}{}", source.unwrap_or_default())
        });
        if let Some(obstacle) = &obstacle {
            tracing::warn!(%obstacle, "the next segment could not be made");
        }
        let changed = {
            let mut before = self.obstacle.lock();
            let changed = *before != obstacle;
            *before = obstacle;
            changed
        };
        if changed {
            self.check_now(keeper);
        }
    }

    /// Looks at the disk.
    pub(crate) fn check_now(&self, keeper: &Keeper) {
        let low = match keeper.space() {
            Ok(Space::Ok { free_bytes }) => {
                let no_space = |obstacle| NoSpace {
                    path: self.path.clone(),
                    free_bytes,
                    needed_bytes: 0,
                    obstacle: Some(obstacle),
                };
                self.obstacle.lock().clone().map(no_space)
            }
            Ok(Space::Low { free_bytes, needed_bytes }) => {
                Some(NoSpace { path: self.path.clone(), free_bytes, needed_bytes, obstacle: None })
            }
            Err(error) => {
                tracing::warn!(%error, "the room on the disk is not known");
                return;
            }
        };
        let was = self.low.read().is_some();
        match &low {
            Some(low) if !was => tracing::error!("{low}"),
            None if was => tracing::info!("there is room again: the cell takes changes"),
            _ => {}
        }
        if was || low.is_some() {
            *self.low.write() = low;
        }
    }
}

/// The keeping thread.
pub(crate) fn run(shared: &Arc<Shared>) {
    let mut space_due = Instant::now();
    loop {
        let (written, stopping) = shared.keeping.wait(space_due);
        if written && !stopping {
            std::thread::sleep(MARK_DELAY);
        }
        if (written || stopping)
            && !shared.has_failed()
            && let Err(error) = shared.keeper.high_water().flush()
        {
            tracing::warn!(%error, "the high-water mark could not be written");
        }
        if stopping {
            return;
        }
        let due = Instant::now() >= space_due;
        if !shared.keeper.is_ready() && shared.space.may_grow(due) {
            shared.space.tried_to_grow(&shared.keeper, shared.keeper.prepare());
        }
        if due {
            space_due = Instant::now() + SPACE_INTERVAL;
            if shared.space.is_read_only()
                && let Err(error) = shared.keeper.give_back()
            {
                tracing::warn!(%error, "segments that nobody needs could not be removed");
            }
            shared.space.check_now(&shared.keeper);
        }
    }
}

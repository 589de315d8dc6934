//! Bugs put in on purpose: each checker is shown to find its own.
//!
//! They are there only under the feature `planted-bugs`, which no production binary has; without it [`is`] is `false` at compile
//! time, and nothing of them is left. With it, one bug can be planted by name in the thread that runs a simulation, or in all threads
//! of a process that runs a server. So one build has all of them, and each run has at most one.
//!
//! A hook is a line where a rule is kept: `if !planted::is(Bug::…)`. It knows nothing of simulations.

macro_rules! bugs {
    ($($(#[$about:meta])* $bug:ident,)*) => {
        /// What is done wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Bug {
            $($(#[$about])* $bug,)*
        }

        impl Bug {
            /// All of them.
            pub const ALL: [Self; [$(Bug::$bug),*].len()] = [$(Self::$bug),*];
        }
    };
}

bugs! {
    /// A claim is granted although there is no room.
    GrantsWithoutRoom,
    /// A claim is granted although its machine takes none.
    GrantsOnAnyMachine,
    /// A machine takes claims although its agent wants none there.
    OverlooksFitness,
    /// A conflict names no culprit.
    BlamesNobody,
    /// A conflict names an event that did not happen.
    BlamesEvents,
    /// A conflict says that all its culprits took half of what they took.
    HalvesBlame,
    /// A conflict leaves out the newest of several culprits.
    BlamesOlder,
    /// A placement that missed its minimum keeps what it was granted.
    ForgetsMinimums,
    /// A transaction that is atomic, and undone, keeps its stops.
    ForgetsAtomic,
    /// The picture that readers get leaves out what moved.
    PicturesHalf,
    /// The server answers when a batch is written, and syncs it later.
    AnswersBeforeSync,
    /// The disk says that it synced, and did not.
    LyingDisk,
    /// A session's number is decided again when it is repeated.
    ForgetsNumbers,
    /// A claim is granted although a declared constraint fails.
    OverlooksConstraints,
    /// A claim is granted although its group has enough tasks there.
    OverlooksLimits,
    /// A claim is granted although its namespace has too much already.
    OverlooksQuotas,
    /// A claim is granted although its machine is reserved for others.
    OverlooksPartitions,
    /// Thousandths of a device are granted although somebody has them.
    OverlooksDevices,
    /// A port is granted although somebody has it.
    OverlooksPorts,
    /// A claim that asks for it is not held to what others did on its machine since the base.
    OverlooksSequence,
    /// A claim is granted although a guard fails.
    OverlooksGuards,
    /// A scheduler that is paused is granted something.
    OverlooksPauses,
    /// A task of which only one may run waits no more for the one before, which leaves.
    OverlooksPredecessors,
    /// A task of which only one may run does not wait for one that runs unknown to the cell, and is the same.
    OverlooksUnknownTasks,
    /// A task of which only one may run does not wait for what agents of a restored cell are yet to tell of.
    OverlooksTheUnheard,
    /// A job is changed although its caller expects another version of it.
    OverlooksExpectations,
    /// A claim is granted in room that is held for others.
    OverlooksHolds,
    /// A hold takes room from those that came first, too.
    JumpsTheQueue,
    /// Room is held although its namespace has too much already.
    HoldsBeyondQuotas,
    /// Room is held on machines that are reserved for others.
    HoldsAnywhere,
    /// Room is held where no task of the job may run.
    HoldsAgainstConstraints,
    /// Room is held for a job of which nothing waits.
    HoldsForNothing,
    /// Room is held for one more job than may hold some.
    HoldsWithoutPlace,
    /// A job that is over holds its room still.
    KeepsHolds,
    /// A job loses its hold with a claim that is refused.
    RefusalsEndHolds,
    /// What an agent runs and the cell does not know is not written down.
    ForgetsUnknownTasks,
    /// The room of an unknown task is free when its time is over, and not when it has ended.
    FreesUnknownTasks,
    /// What an agent runs that the cell granted there counts as unknown, too.
    ForgetsWhatItGranted,
    /// A job is launched for an instant that is over.
    LaunchesAgain,
    /// Sessions of the old cell go on in a restored one.
    KeepsSessions,
    /// Anybody may be evicted, whatever the band.
    EvictsAnybody,
    /// A scheduler evicts that may not.
    EvictsWithoutRight,
    /// Room of one who leaves is handed over more than once.
    HandsOverTwice,
    /// Who leaves gives room away that it waits for itself.
    HandsOverWhatIsAwaited,
    /// An agent starts a successor while those whose room it has still run.
    StartsTooSoon,
    /// An agent starts a task again while its last start is still there.
    RestartsTooSoon,
    /// What is decided depends on something that is not in the log.
    DecidesByHiddenState,
    /// An allocation that ends gives no room back.
    LeaksRoom,
    /// A late report makes an allocation that leaves run again.
    RevivesTheLeaving,
    /// A task that failed never becomes ready to be placed again.
    NeverTriesAgain,
    /// What a job whose tasks share a machine loses there first takes the machine from those that still run there.
    TearsApart,
    /// The time in which a server stood still counts for leases, too.
    CountsItsSleep,
    /// What is due when a server begins, or wakes, is taken at once.
    TakesAtOnce,
    /// What an agent asked before it was killed counts, when it comes behind its successor's registration.
    BelievesTheLate,
    /// Agents report that a task is gone when they have told it to stop.
    HastyReceipts,
    /// A transaction that took effect in part is said to be refused.
    CallsPartsRefused,
    /// A claim that lost its room to others is said never to have fitted.
    DeniesConflicts,
    /// A claim that lost its room to others is said to be too old to tell.
    CallsStale,
    /// A claim that never fitted is said to be above its quota.
    RefusesByQuota,
    /// A claim that never fitted is said to be on a machine that is for others.
    RefusesByPartition,
    /// A claim that never fitted is said to need a right that its scheduler has not.
    RefusesByRight,
    /// A claim that never fitted is said to have a guard that fails.
    RefusesByGuard,
    /// A claim that never fitted is said to have lost its mates.
    RefusesAsMate,
    /// A claim that never fitted is said to be one too many on its machine.
    RefusesByLimit,
    /// A claim that never fitted is said to wait for the task's predecessor.
    RefusesByPredecessor,
    /// A claim that never fitted is said to be of another version of its job.
    RefusesByVersion,
    /// A number that is repeated is answered by what the cell is now.
    AnswersAnew,
    /// A batch that was decided is not written.
    LosesBatches,
    /// Who asks for a snapshot is shown what is not durable.
    ShowsTooSoon,
    /// A batch that became durable is not shown.
    ForgetsToPublish,
    /// What is written is not what is shown.
    LogsAnotherTime,
    /// Watchers are not told of some revisions.
    LeavesOutDeltas,
    /// Deltas are kept for watchers that do not read, however many they are.
    KeepsAllForWatchers,
    /// Changes are taken although there is no room on the disk.
    OverlooksFullDisks,
    /// A damaged log is refused without a word about where.
    HidesDamage,
    /// A start makes another cell of its log than the one that wrote it.
    RecoversAnother,
    /// The end of a batch is not written.
    CutsBatches,
    /// Schedulers are not told what was refused.
    TellsAnotherOutcome,
    /// A sector of the disk that rotted reads as zeros.
    RotReadsAsZeros,
    /// A mirror folds something else than what it was sent.
    MirrorsAnother,
    /// A scheduler takes log time for later than it was told.
    HearsTheFuture,
    /// A machine whose lease ran out is taken to be gone, and all that ran there with it.
    FreesAtExpiry,
    /// What the core keeps is not what its delta says.
    KeepsAnother,
    /// A backup has pages of an earlier one.
    TearsBackups,
    /// What was decided is answered before it is durable.
    AnswersAtOnce,
    /// A job fails with the first failure of a task, whatever attempts it may have.
    GivesUpAtOnce,
    /// An outcome is told before the deltas up to it.
    TellsOutcomesFirst,
    /// A group goes on to count what has left.
    MiscountsTheLeaving,
    /// A machine whose agent was heard since the cell was restored counts as one that is yet to tell what it runs.
    MiscountsTheUnheard,
    /// An unknown task that has ended is found by its names still.
    NamesTheEnded,
    /// A number that stands for somebody's resources is given to others.
    GivesUsedNumbers,
    /// An agent starts once more what has ended there.
    StartsAgain,
    /// A registration is answered with a revision from before it.
    TellsOldRevisions,
    /// A dry run is written down, and takes effect.
    LogsDryRuns,
    /// An agent starts tasks although its lease has run out.
    StartsWithoutLease,
    /// An agent that came back starts tasks while others still run that were placed elsewhere meanwhile.
    StartsBesideTheFenced,
    /// An agent does not know how that did end which ended while no agent was there.
    ForgetsExits,
    /// What victims of other namespaces give back counts for the quota of a claim, too.
    CreditsOtherNamespaces,
    /// Of several partitions that are reserved for others one counts.
    ObeysOnePartition,
    /// A claim that asks for it is not held to what others hold on its machine since the base.
    SequenceIgnoresHolds,
    /// A limit that is lowered stops the newest task of those that are above it.
    EvictsByLoweredQuota,
    /// What runs on a machine that has other attributes now is stopped.
    EvictsByChangedAttributes,
    /// What is left on a machine that is drained is stopped at once.
    DrainsTooSoon,
    /// What is left on a machine that is drained is stopped ten seconds after its deadline.
    DrainsTooLate,
    /// What an unreachable machine ran is lost after half of the time that it has.
    LosesTooSoon,
    /// Whatever is due by time, all holds end with it.
    EndsHoldsTooSoon,
    /// All machines are given up that are due, however many within a minute.
    GivesUpTooMany,
    /// Of all versions of a job but the first, a task of which only one may run waits for ever for the one before, which has ended.
    KeepsSuccessorsWaiting,
    /// A transaction does not tell whom it evicted.
    HidesVictims,
    /// An allocation that somebody stops is said to stop, and goes on.
    LetsRunOn,
    /// A scheduler is said to have other rights, and has those that it had.
    ForgetsRights,
    /// An instant counts as launched, and no job comes of it.
    LaunchesNobody,
    /// A job is launched, and its instant may be launched again.
    ForgetsLaunches,
    /// All victims that a claim names go, also those of whom it needs nothing.
    EvictsForNothing,
    /// A claim takes over all the room of those who leave, and not only what is lacking.
    TakesAllOver,
    /// What a watcher missed is asked for again and again, though it was handed over.
    AsksForEver,
}

#[cfg(feature = "planted-bugs")]
mod there {
    use std::borrow::Cow;
    use std::cell::Cell;
    use std::fmt;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::Bug;
    use crate::Delta;

    /// The bug of all threads, as its number from 1 on; 0 for none.
    static EVERYWHERE: AtomicUsize = AtomicUsize::new(0);

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
        static ASKED: Cell<u64> = const { Cell::new(0) };
    }

    /// Plants a bug in this thread, or none, until the next call.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.set(bug);
        ASKED.set(0);
    }

    /// Plants a bug in all threads, or none, until the next call: for servers, which have many. Whoever calls it has the process for
    /// himself.
    pub fn plant_everywhere(bug: Option<Bug>) {
        EVERYWHERE.store(bug.map_or(0, |bug| bug as usize + 1), Ordering::SeqCst);
    }

    /// Whether this bug is planted in this thread.
    #[must_use]
    pub fn is(bug: Bug) -> bool {
        PLANTED.get() == Some(bug) || EVERYWHERE.load(Ordering::Relaxed) == bug as usize + 1
    }

    /// Whether any bug is planted in this thread: then what the core asserts of itself is left to the checkers outside.
    #[must_use]
    pub fn any() -> bool {
        PLANTED.get().is_some() || EVERYWHERE.load(Ordering::Relaxed) > 0
    }

    /// Whether this bug is planted and strikes now: once in so many questions.
    #[must_use]
    pub fn strikes(bug: Bug, once_in: u64) -> bool {
        if !is(bug) {
            return false;
        }
        ASKED.set(ASKED.get() + 1);
        ASKED.get().is_multiple_of(once_in)
    }

    /// Counts the questions of this thread anew, as the beginning of a run: when it is made again, its bug strikes at the same of them.
    pub fn count_anew() {
        ASKED.set(0);
    }

    /// A delta as a reader sees it, without what moved to a state in which it goes on: see [`Bug::PicturesHalf`].
    #[must_use]
    pub fn clouded(delta: &Delta) -> Cow<'_, Delta> {
        if !is(Bug::PicturesHalf) {
            return Cow::Borrowed(delta);
        }
        let mut clouded = delta.clone();
        clouded.moves.retain(|change| !change.status.state.is_active());
        Cow::Owned(clouded)
    }

    /// A delta, or another one where this bug is planted: for whoever folds something else than what was decided.
    #[must_use]
    pub fn folded(delta: &Delta, bug: Bug) -> Cow<'_, Delta> {
        if !is(bug) {
            return Cow::Borrowed(delta);
        }
        let mut other = delta.clone();
        other.moves.iter_mut().for_each(|change| change.restarts += 1);
        Cow::Owned(other)
    }

    impl fmt::Display for Bug {
        fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
            fmt::Debug::fmt(self, to)
        }
    }

    impl std::str::FromStr for Bug {
        type Err = String;

        fn from_str(name: &str) -> Result<Self, String> {
            let found = Self::ALL.into_iter().find(|bug| bug.to_string() == name);
            found.ok_or_else(|| format!("no bug is called {name}; there are: {:?}", Self::ALL))
        }
    }
}

#[cfg(all(feature = "planted-bugs", not(debug_assertions)))]
compile_error!(
    "bugs can be planted in builds of the dev profile only: leave out the feature `planted-bugs`, or build without --release"
);

#[cfg(feature = "planted-bugs")]
pub use there::{any, clouded, count_anew, folded, is, plant, plant_everywhere, strikes};

/// Whether this bug is planted: never, without the feature.
#[cfg(not(feature = "planted-bugs"))]
#[must_use]
#[inline(always)]
pub const fn is(_bug: Bug) -> bool {
    false
}

/// Whether any bug is planted: never, without the feature.
#[cfg(not(feature = "planted-bugs"))]
#[must_use]
#[inline(always)]
pub const fn any() -> bool {
    false
}

/// Whether this bug strikes now: never, without the feature.
#[cfg(not(feature = "planted-bugs"))]
#[must_use]
#[inline(always)]
pub const fn strikes(_bug: Bug, _once_in: u64) -> bool {
    false
}

/// Counts nothing, without the feature.
#[cfg(not(feature = "planted-bugs"))]
#[inline(always)]
pub const fn count_anew() {}

/// The delta itself, without the feature.
#[cfg(not(feature = "planted-bugs"))]
#[must_use]
#[inline(always)]
pub const fn clouded(delta: &crate::Delta) -> std::borrow::Cow<'_, crate::Delta> {
    std::borrow::Cow::Borrowed(delta)
}

/// The delta itself, without the feature.
#[cfg(not(feature = "planted-bugs"))]
#[must_use]
#[inline(always)]
pub const fn folded(delta: &crate::Delta, _bug: Bug) -> std::borrow::Cow<'_, crate::Delta> {
    std::borrow::Cow::Borrowed(delta)
}

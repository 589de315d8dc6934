//! Enumerations: each value of the model has one on the wire. The wire has one more, which says nothing and is refused.

use crate::error::Invalid;
use crate::v1;

/// A value that the wire names by number.
pub(super) trait Known: Sized {
    /// The value with this number.
    ///
    /// `field` is only used in the error, which lists what is known.
    fn known(field: &str, number: i32) -> Result<Self, Invalid>;
}

fn unknown(field: &str, known: &[&str], number: i32, name: Option<&str>) -> Invalid {
    let found = name.map_or_else(|| number.to_string(), str::to_owned);
    Invalid::new(field, format!("one of {}", known.join(", ")), found)
}

macro_rules! enums {
    ($($name:ident { $($model:ident = $wire:ident),* $(,)? })*) => {
        $(
            impl From<plenum_model::$name> for v1::$name {
                fn from(value: plenum_model::$name) -> Self {
                    match value { $(plenum_model::$name::$model => Self::$wire,)* }
                }
            }

            impl Known for plenum_model::$name {
                #[allow(unreachable_patterns, reason = "where each value of the wire has one in the model")]
                fn known(field: &str, number: i32) -> Result<Self, Invalid> {
                    let found = v1::$name::try_from(number).ok();
                    match found {
                        // What the wire leaves unspecified is first in some enumerations of the model, where it means nothing.
                        Some(v1::$name::Unspecified) | None => {
                            let all = [$(v1::$name::$wire),*];
                            let known: Vec<_> = all
                                .iter()
                                .filter(|one| **one != v1::$name::Unspecified)
                                .map(v1::$name::as_str_name)
                                .collect();
                            Err(unknown(field, &known, number, found.as_ref().map(v1::$name::as_str_name)))
                        }
                        $(Some(v1::$name::$wire) => Ok(Self::$model),)*
                    }
                }
            }
        )*
    };
}

enums! {
    AllocationState {
        Free = Unspecified, Granted = Granted, Starting = Starting, Running = Running, Stopping = Stopping, Lost = Lost,
        Complete = Complete, Failed = Failed, Stopped = Stopped, Evicted = Evicted, EndedLost = EndedLost,
        Evicting = Evicting,
    }
    MachineState {
        Ready = Ready, Cordoned = Cordoned, Draining = Draining, Unreachable = Unreachable, Gone = Gone,
    }
    Unfit { AgentLeaves = AgentLeaves, StateUnwritable = StateUnwritable, SetupFails = SetupFails }
    JobState {
        Waiting = JobWaiting, Running = JobRunning, Complete = JobComplete, Failed = JobFailed, Stopped = JobStopped,
    }
    JobKind { ToCompletion = ToCompletion, Forever = Forever, Recurring = Recurring }
    ConflictCheck { Fit = Fit, Sequence = Sequence }
    TransactionOutcome { Committed = Committed, Partial = Partial, Refused = Refused }
    RefusalKind {
        Conflict = Conflict, Misfit = Misfit, Stale = Stale, Mate = Mate, Guard = Guard, Quota = Quota,
        Permission = Permission,
    }
    RefusalReason {
        NoRoom = NoRoom, TaskTaken = TaskTaken, NotWanted = NotWanted, NoSuchMachine = NoSuchMachine,
        MachineNotReady = MachineNotReady, Constraint = Constraint, OtherMachine = OtherMachine, NoSuchJob = NoSuchJob,
        JobVersion = JobVersion, ResourcesDiffer = ResourcesDiffer, MachineChanged = MachineChanged,
        MinimumMissed = MinimumMissed, GuardFailed = GuardFailed, DeviceTaken = DeviceTaken, PortTaken = PortTaken,
        SpreadLimit = SpreadLimit, PerMachineLimit = PerMachineLimit, QuotaExceeded = QuotaExceeded,
        NotPermitted = NotPermitted, Predecessor = Predecessor, OtherScheduler = OtherScheduler, MayNotEvict = MayNotEvict,
    }
    Operator {
        Equal = Equal, NotEqual = NotEqual, Less = Less, LessOrEqual = LessOrEqual, Greater = Greater,
        GreaterOrEqual = GreaterOrEqual, In = In,
    }
}

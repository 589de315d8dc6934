//! Allocations: a row written once at the grant, and a byte that changes.

use std::sync::Arc;

use crate::{AllocationId, Device, JobId, Port, Resources, Revision};

/// Where an allocation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
#[repr(u8)]
pub enum AllocationState {
    /// The slot is free.
    #[default]
    Free = 0,
    /// Committed; its agent has not started it yet.
    Granted = 1,
    /// Its agent is starting it.
    Starting = 2,
    /// Its process runs.
    Running = 3,
    /// Its end was decided; leaving.
    Stopping = 4,
    /// Its machine was unreachable too long; leaving.
    Lost = 5,
    /// Ended with exit code 0.
    Complete = 6,
    /// Ended any other way than asked for.
    Failed = 7,
    /// Ended as asked for.
    Stopped = 8,
    /// Ended for a task of a higher band.
    Evicted = 9,
    /// Ended as it was lost: with its machine, or alone, as its agent can't read its record.
    EndedLost = 10,
    /// Its room was claimed by a task of a higher band; leaving.
    Evicting = 11,
}

impl AllocationState {
    /// All states, in the order of their numbers.
    pub const ALL: [Self; 12] = [
        Self::Free,
        Self::Granted,
        Self::Starting,
        Self::Running,
        Self::Stopping,
        Self::Lost,
        Self::Complete,
        Self::Failed,
        Self::Stopped,
        Self::Evicted,
        Self::EndedLost,
        Self::Evicting,
    ];

    /// The state with this number.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// Occupies room: from the grant to the agent's receipt.
    #[must_use]
    #[inline]
    pub const fn is_live(self) -> bool {
        self.is_active() || self.is_leaving()
    }

    /// Its end was decided, and its room is not free yet.
    #[must_use]
    #[inline]
    pub const fn is_leaving(self) -> bool {
        matches!(self, Self::Stopping | Self::Evicting | Self::Lost)
    }

    /// Live and not leaving: it is its task's one allocation.
    #[must_use]
    #[inline]
    pub const fn is_active(self) -> bool {
        matches!(self, Self::Granted | Self::Starting | Self::Running)
    }

    /// Over.
    #[must_use]
    #[inline]
    pub const fn is_end(self) -> bool {
        matches!(self, Self::Complete | Self::Failed | Self::Stopped | Self::Evicted | Self::EndedLost)
    }
}

/// What of an allocation changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct AllocationStatus {
    /// Where it stands.
    pub state: AllocationState,
    /// Its health check passed, or it has none and runs.
    pub ready: bool,
}

/// The same in one byte: a stop writes nothing else of its allocation, and a page of bytes is dense.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct StatusByte(u8);

/// The bit of `StatusByte` that says *ready*; the state is in the lowest four.
const READY: u8 = 1 << 7;

/// States by the lowest four bits of a byte; there are none above the twelfth.
const STATES: [AllocationState; 16] = {
    let mut states = [AllocationState::Free; 16];
    let mut number = 0;
    while number < AllocationState::ALL.len() {
        states[number] = AllocationState::ALL[number];
        number += 1;
    }
    states
};

/// A bit for each active state: a byte is judged by a shift, without looking its state up.
const ACTIVE: u16 = bits(false);
/// And for each live one.
const LIVE: u16 = bits(true);

/// A bit for each state that is active, or leaves where these count, too.
const fn bits(and_leaving: bool) -> u16 {
    let (mut bits, mut number) = (0, 0);
    while number < STATES.len() {
        let state = STATES[number];
        bits |= ((state.is_active() || and_leaving && state.is_leaving()) as u16) << number;
        number += 1;
    }
    bits
}

impl StatusByte {
    /// Where the allocation stands.
    #[must_use]
    #[inline]
    pub const fn state(self) -> AllocationState {
        STATES[(self.0 & 15) as usize]
    }

    /// Whether [`AllocationState::is_active`] holds of its state.
    #[must_use]
    #[inline]
    pub const fn is_active(self) -> bool {
        self.is_among(ACTIVE)
    }

    /// Whether [`AllocationState::is_live`] holds of its state.
    #[must_use]
    #[inline]
    pub const fn is_live(self) -> bool {
        self.is_among(LIVE)
    }

    const fn is_among(self, states: u16) -> bool {
        states >> (self.0 & 15) & 1 == 1
    }

    /// All that it says.
    #[must_use]
    #[inline]
    pub const fn status(self) -> AllocationStatus {
        AllocationStatus { state: self.state(), ready: self.0 & READY != 0 }
    }
}

impl From<AllocationStatus> for StatusByte {
    #[inline]
    fn from(status: AllocationStatus) -> Self {
        Self(status.state as u8 | if status.ready { READY } else { 0 })
    }
}

impl std::fmt::Debug for StatusByte {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.status().fmt(f)
    }
}

/// What was granted: written once, 64 bytes, which is one line of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(align(64))]
pub struct AllocationRow {
    /// The revision that granted it.
    pub created: Revision,
    /// The session of the transaction that it is from.
    pub session: u64,
    /// The transaction's number.
    pub number: u32,
    /// Of the slot; stays when the allocation ends.
    pub generation: u32,
    /// Its job's slot and generation.
    pub job_slot: u32,
    /// See `job_slot`.
    pub job_generation: u32,
    /// The version of the job that it was granted for.
    pub job_version: u32,
    /// Its group's row in the table of groups.
    pub group_row: u32,
    /// Its task's index in the group.
    pub task: u32,
    /// Its machine's slot.
    pub machine: u32,
    /// The machine's epoch at the grant.
    pub epoch: u32,
    /// The number of what it got.
    pub shape: u32,
    /// Its group's position in the job.
    pub group: u16,
    /// How many allocations its task had had, with this one.
    pub attempt: u16,
    /// The number of its scheduler's name.
    pub scheduler: u16,
}

const _: () = assert!(size_of::<AllocationRow>() == 64, "a page of 64 rows is 4 KiB");

impl AllocationRow {
    /// The id of the allocation in `slot`.
    #[must_use]
    #[inline]
    pub const fn id(&self, slot: u32) -> AllocationId {
        AllocationId { slot, generation: self.generation }
    }

    /// The id of its job.
    #[must_use]
    #[inline]
    pub const fn job(&self) -> JobId {
        JobId { slot: self.job_slot, generation: self.job_generation }
    }
}

/// Room of a leaving allocation, on which a successor was granted: only what free room lacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakeOver {
    /// Who leaves.
    pub victim: AllocationId,
    /// How much of its room.
    pub amount: Resources,
    /// How much of its devices.
    pub devices: Vec<Device>,
    /// Which of its ports.
    pub ports: Vec<u16>,
}

/// What few allocations have.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct AllocationExtra {
    /// Devices that it was granted.
    pub devices: Vec<Device>,
    /// Ports that it was granted.
    pub ports: Vec<Port>,
    /// Whose room it was granted on, and waits for.
    pub takes_over: Vec<TakeOver>,
    /// Restarts within it.
    pub restarts: u32,
    /// Why it leaves.
    pub reason: Option<Arc<str>>,
}

impl AllocationExtra {
    /// True when there is nothing in it, so that it needn't be kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_is_judged_as_its_state_is() {
        for state in AllocationState::ALL {
            for ready in [false, true] {
                let byte = StatusByte::from(AllocationStatus { state, ready });
                assert_eq!(byte.status(), AllocationStatus { state, ready });
                assert_eq!((byte.is_active(), byte.is_live()), (state.is_active(), state.is_live()), "{state:?}");
            }
        }
    }
}

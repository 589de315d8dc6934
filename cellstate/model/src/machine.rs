//! Machines: a hot row that every grant writes, and a cold one that says what the machine is.

use std::sync::Arc;

use crate::{Attributes, Device, LogTime, MachineId, Resources, Revision};

/// Where a machine stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
#[repr(u8)]
pub enum MachineState {
    /// The slot is free.
    #[default]
    Gone = 0,
    /// Takes claims.
    Ready = 1,
    /// Takes no new claims.
    Cordoned = 2,
    /// Takes no new claims, and what it runs is being moved.
    Draining = 3,
    /// Its lease expired.
    Unreachable = 4,
}

/// What a grant or an end writes: 32 bytes, so that a page of 256 is 8 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct MachineRow {
    /// Free memory. Negative only after the machine shrank.
    pub free_memory_bytes: i64,
    /// The last revision that changed anything here.
    pub last_change: Revision,
    /// Free CPU. Negative only after the machine shrank.
    pub free_cpu_millis: i32,
    /// Raised when its agent comes back after an expired lease or a reboot.
    pub epoch: u32,
    /// Number of its class: machines with equal attributes share one.
    pub class: u32,
    /// Live allocations.
    pub allocations: u16,
    /// Where it stands.
    pub state: MachineState,
    /// True when some resource besides CPU and memory is there: then `Cell::rest` counts too.
    pub has_rest: bool,
}

const _: () = assert!(size_of::<MachineRow>() == 32, "a page of 256 rows is 8 KiB");

/// What a machine is: changes when it registers, or an operator acts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Its id.
    pub id: MachineId,
    /// Unique in the cell.
    pub name: Arc<str>,
    /// Where it stands; the hot row repeats it.
    pub state: MachineState,
    /// An operator wants no new claims there; stays while the machine is away.
    pub cordoned: bool,
    /// The hot row repeats it.
    pub epoch: u32,
    /// All there is.
    pub capacity: Resources,
    /// What constraints look at.
    pub attributes: Arc<Attributes>,
    /// Its devices.
    pub devices: Vec<Device>,
    /// Changes when it boots.
    pub boot_id: Arc<str>,
    /// When its state began.
    pub since: LogTime,
    /// When its drain ends.
    pub drain_deadline: Option<LogTime>,
    /// When it registered first.
    pub registered: LogTime,
    /// The revision at which its epoch began.
    pub epoch_began: Revision,
}

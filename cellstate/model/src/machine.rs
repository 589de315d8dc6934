//! Machines: a hot row that every grant writes, and a cold one that says what the machine is.

use std::fmt;
use std::num::NonZeroI64;
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

impl MachineState {
    /// What people call it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Ready => "ready",
            Self::Cordoned => "cordoned",
            Self::Draining => "draining",
            Self::Unreachable => "unreachable",
        }
    }
}

/// Why a machine's own agent wants no new claims there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Unfit {
    /// It was asked to end. What runs goes on.
    AgentLeaves = 1,
    /// It can't write down what it needs to start tasks: as a rule its disk is full.
    StateUnwritable = 2,
    /// It could not set several tasks up one after another (no cgroup, no mount, no process), or what is to end does not, and nothing is started
    /// before. It tries again after a while.
    SetupFails = 3,
}

/// What a grant or an end writes: 32 bytes, half a line of the cache, so that a page of 256 is 8 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(align(32))]
pub struct MachineRow {
    /// Free memory. Negative only after the machine shrank.
    pub free_memory_bytes: i64,
    /// The last revision that changed anything here, but that something was given back.
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

/// The name that a machine's system gives to the time from one start to the next.
///
/// Linux gives a UUID, which is kept as its 16 bytes; anything else as text.
#[derive(Clone, PartialEq, Eq)]
pub struct BootId(Boot);

#[derive(Clone, PartialEq, Eq)]
enum Boot {
    /// Written as `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`, in small letters.
    Uuid([u8; 16]),
    Text(Arc<str>),
}

/// Letters of a UUID.
const UUID_LENGTH: usize = 36;
/// Bytes of a UUID before each of its hyphens.
const UUID_HYPHENS: [usize; 4] = [4, 6, 8, 10];

impl From<&str> for BootId {
    fn from(text: &str) -> Self {
        Self(uuid(text).map_or_else(|| Boot::Text(text.into()), Boot::Uuid))
    }
}

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Boot::Uuid(bytes) => {
                // Each checkpoint writes the ones of all machines: formatting byte by byte was a sixth of what its pages took.
                let digits = b"0123456789abcdef";
                let (mut text, mut end) = ([b'-'; UUID_LENGTH], 0);
                for (position, byte) in bytes.iter().enumerate() {
                    end += usize::from(UUID_HYPHENS.contains(&position));
                    text[end] = digits[usize::from(byte >> 4)];
                    text[end + 1] = digits[usize::from(byte & 15)];
                    end += 2;
                }
                f.write_str(str::from_utf8(&text).map_err(|_| fmt::Error)?)
            }
            Boot::Text(text) => f.write_str(text),
        }
    }
}

impl fmt::Debug for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BootId({self})")
    }
}

/// The bytes of a UUID, if the text is exactly how one is written.
fn uuid(text: &str) -> Option<[u8; 16]> {
    let digit = |letter: &u8| match letter {
        b'0'..=b'9' => Some(letter - b'0'),
        b'a'..=b'f' => Some(letter - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; 16];
    let mut rest = text.as_bytes();
    for (position, byte) in bytes.iter_mut().enumerate() {
        if UUID_HYPHENS.contains(&position) {
            rest = rest.strip_prefix(b"-")?;
        }
        let [high, low, after @ ..] = rest else { return None };
        *byte = digit(high)? << 4 | digit(low)?;
        rest = after;
    }
    rest.is_empty().then_some(bytes)
}

/// A time at which something ends, and not the Unix epoch itself: so an optional one takes no more room than one that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(NonZeroI64);

impl Deadline {
    /// A deadline at that time; `None` at the epoch itself, which stands for no deadline on the wire, too.
    #[must_use]
    pub const fn new(time: LogTime) -> Option<Self> {
        match NonZeroI64::new(time.micros) {
            Some(micros) => Some(Self(micros)),
            None => None,
        }
    }

    /// When it is.
    #[must_use]
    pub const fn time(self) -> LogTime {
        LogTime::from_micros(self.0.get())
    }
}

const _: () = assert!(size_of::<Option<Deadline>>() == 8, "none is one of its values");

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
    /// Its agent wants no new claims there; until it says otherwise.
    pub unfit: Option<Unfit>,
    /// The hot row repeats it.
    pub epoch: u32,
    /// All there is. Machines of one make share it.
    pub capacity: Arc<Resources>,
    /// What constraints look at. Machines of one class share them.
    pub attributes: Arc<Attributes>,
    /// Its devices. Machines of one make share them.
    pub devices: Arc<Vec<Device>>,
    /// Changes when it boots.
    pub boot_id: BootId,
    /// When its state began.
    pub since: LogTime,
    /// When its drain ends.
    pub drain_deadline: Option<Deadline>,
    /// When it registered first.
    pub registered: LogTime,
    /// The revision at which its epoch began.
    pub epoch_began: Revision,
}

const _: () = assert!(
    size_of::<Machine>() <= 112,
    "with two counts it is 128 bytes, as the heap gives them; one more would be 160"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_id_is_the_text_that_it_was_made_of() {
        let whole = "3e1c0f9a-0b1d-4c5e-8f70-00ff10a0b0c9";
        for text in [whole, "", "boot-1", &whole[..35], &whole.to_uppercase(), &whole.replace('-', "_")] {
            assert_eq!(BootId::from(text).to_string(), text);
        }
        assert!(matches!(BootId::from(whole).0, Boot::Uuid(_)));
        let long = format!("{whole}0");
        assert!(matches!(BootId::from(long.as_str()).0, Boot::Text(_)));
        assert_ne!(BootId::from(whole), BootId::from("3e1c0f9a-0b1d-4c5e-8f70-00ff10a0b0c8"));
    }
}

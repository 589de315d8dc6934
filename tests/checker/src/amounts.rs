//! Amounts of each resource, wide enough that no sum of them wraps.

use std::fmt;

use plenum_proto::v1;

/// Resources that there are: cpu, memory, disk, and five that a cell names.
pub const DIMENSIONS: usize = 8;

/// Names, in the order of the amounts, as `v1::ResourceName` has them.
pub const NAMES: [v1::ResourceName; DIMENSIONS] = [
    v1::ResourceName::CpuMillis,
    v1::ResourceName::MemoryBytes,
    v1::ResourceName::DiskBytes,
    v1::ResourceName::Custom1,
    v1::ResourceName::Custom2,
    v1::ResourceName::Custom3,
    v1::ResourceName::Custom4,
    v1::ResourceName::Custom5,
];

/// An amount of each resource; may be below zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts(pub [i128; DIMENSIONS]);

impl Amounts {
    /// What a message says; missing custom resources are 0.
    #[must_use]
    pub fn of(wire: &v1::Resources) -> Self {
        let mut amounts = [0; DIMENSIONS];
        amounts[0] = wire.cpu_millis.into();
        amounts[1] = wire.memory_bytes.into();
        amounts[2] = wire.disk_bytes.into();
        for (amount, &custom) in amounts[3..].iter_mut().zip(&wire.custom) {
            *amount = custom.into();
        }
        Self(amounts)
    }

    /// As `of`, and nothing where there is no message.
    #[must_use]
    pub fn of_optional(wire: Option<&v1::Resources>) -> Self {
        wire.map(Self::of).unwrap_or_default()
    }

    /// The amount of a resource.
    #[must_use]
    pub fn get(&self, name: v1::ResourceName) -> i128 {
        NAMES.iter().position(|&known| known == name).map_or(0, |at| self.0[at])
    }

    /// Adds another.
    pub fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(mine, theirs)| *mine += theirs);
    }

    /// Takes another away.
    pub fn take(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(mine, theirs)| *mine -= theirs);
    }

    /// What there is of each resource beyond another's.
    #[must_use]
    pub fn beyond(&self, other: &Self) -> Self {
        let mut beyond = *self;
        beyond.0.iter_mut().zip(other.0).for_each(|(mine, theirs)| *mine = (*mine - theirs).max(0));
        beyond
    }

    /// The first resource of which `self` has more than `room`.
    #[must_use]
    pub fn first_above(&self, room: &Self) -> Option<v1::ResourceName> {
        (0..DIMENSIONS).find(|&at| self.0[at] > 0 && self.0[at] > room.0[at]).map(|at| NAMES[at])
    }

    /// True where nothing is asked that `room` lacks.
    #[must_use]
    pub fn fits_in(&self, room: &Self) -> bool {
        self.first_above(room).is_none()
    }
}

impl fmt::Display for Amounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

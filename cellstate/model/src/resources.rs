//! Amounts of resources, and what fits into what.

use std::fmt;
use std::sync::Arc;

/// Number of named resources that a cell may have besides CPU, memory and disk.
pub const CUSTOM_RESOURCES: usize = 5;

/// Number of dimensions of `Resources`.
pub const DIMENSIONS: usize = 3 + CUSTOM_RESOURCES;

/// Most CPU of one machine or task, in thousandths of a core: a million cores. Free CPU is kept in 32 bits with a sign.
pub const CPU_MILLIS_MAX: u64 = 1_000_000_000;

/// Most of any other resource of one machine or task: far above any machine, and far below where a sum over a cell overflows. What a quota limits is
/// such a sum, and has a bound of its own ([`QUOTA_MAX`](crate::QUOTA_MAX)).
pub const AMOUNT_MAX: u64 = 1 << 50;

/// One dimension of `Resources`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// Thousandths of a core.
    CpuMillis,
    /// Bytes of memory.
    MemoryBytes,
    /// Bytes of disk.
    DiskBytes,
    /// Units of a resource that the cell named: its position, below `CUSTOM_RESOURCES`.
    Custom(u8),
}

impl Resource {
    /// All dimensions, in their order.
    pub const ALL: [Self; DIMENSIONS] = [
        Self::CpuMillis,
        Self::MemoryBytes,
        Self::DiskBytes,
        Self::Custom(0),
        Self::Custom(1),
        Self::Custom(2),
        Self::Custom(3),
        Self::Custom(4),
    ];

    /// Its position in `ALL`.
    #[must_use]
    #[inline]
    pub const fn index(self) -> usize {
        match self {
            Self::CpuMillis => 0,
            Self::MemoryBytes => 1,
            Self::DiskBytes => 2,
            Self::Custom(position) => 3 + position as usize,
        }
    }

    /// What people call it: its own name, or the one that the cell's operator gave, of `CellIdentity::custom_resources`.
    #[must_use]
    pub fn name_in(self, custom_resources: &[Arc<str>]) -> String {
        match self {
            Self::CpuMillis => "cpu".to_owned(),
            Self::MemoryBytes => "memory".to_owned(),
            Self::DiskBytes => "disk".to_owned(),
            Self::Custom(position) => {
                custom_resources.get(usize::from(position)).map_or_else(|| self.to_string(), ToString::to_string)
            }
        }
    }

    /// So much of it that is missing, given in its unit, as people write it: `500m`, `1.5GiB`, `3`. Rounded up: who adds that has enough.
    #[must_use]
    pub fn lack(self, amount: u64) -> String {
        match self {
            Self::CpuMillis => format!("{amount}m"),
            Self::MemoryBytes | Self::DiskBytes => {
                let (size, unit) = unit_of(amount);
                in_tenths((u128::from(amount) * 10).div_ceil(size.into()), unit)
            }
            Self::Custom(_) => amount.to_string(),
        }
    }
}

/// Thousandths of a core, as job files write them.
#[must_use]
pub fn cpu(millis: u64) -> String {
    if millis.is_multiple_of(1000) { (millis / 1000).to_string() } else { format!("{millis}m") }
}

/// Bytes in the greatest unit of which there is at least one; with one decimal, rounded down, where it is not whole.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    let (size, unit) = unit_of(bytes);
    in_tenths(u128::from(bytes) * 10 / u128::from(size), unit)
}

fn in_tenths(tenths: u128, unit: &str) -> String {
    match tenths % 10 {
        0 => format!("{}{unit}", tenths / 10),
        rest => format!("{}.{rest}{unit}", tenths / 10),
    }
}

/// The greatest unit of which there is at least one: its bytes, and its name.
fn unit_of(bytes: u64) -> (u64, &'static str) {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"].into_iter().enumerate();
    let fitting =
        units.map(|(power, name)| (1_u64 << (10 * power), name)).take_while(|(size, _)| *size <= bytes.max(1));
    fitting.last().unwrap_or((1, "B"))
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CpuMillis => f.write_str("cpu_millis"),
            Self::MemoryBytes => f.write_str("memory_bytes"),
            Self::DiskBytes => f.write_str("disk_bytes"),
            Self::Custom(position) => write!(f, "custom_{}", position + 1),
        }
    }
}

/// An amount of each resource. Within `CPU_MILLIS_MAX` and `AMOUNT_MAX` wherever it entered the cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resources {
    /// Thousandths of a core.
    pub cpu_millis: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Bytes of disk.
    pub disk_bytes: u64,
    /// Units of the resources that the cell named.
    pub custom: [u64; CUSTOM_RESOURCES],
}

impl Resources {
    /// CPU and memory, and nothing else.
    #[must_use]
    #[inline]
    pub const fn new(cpu_millis: u64, memory_bytes: u64) -> Self {
        Self { cpu_millis, memory_bytes, disk_bytes: 0, custom: [0; CUSTOM_RESOURCES] }
    }

    /// The amount in one dimension.
    #[must_use]
    #[inline]
    pub const fn get(&self, resource: Resource) -> u64 {
        match resource {
            Resource::CpuMillis => self.cpu_millis,
            Resource::MemoryBytes => self.memory_bytes,
            Resource::DiskBytes => self.disk_bytes,
            Resource::Custom(position) => self.custom[position as usize],
        }
    }

    fn get_mut(&mut self, resource: Resource) -> &mut u64 {
        match resource {
            Resource::CpuMillis => &mut self.cpu_millis,
            Resource::MemoryBytes => &mut self.memory_bytes,
            Resource::DiskBytes => &mut self.disk_bytes,
            Resource::Custom(position) => &mut self.custom[position as usize],
        }
    }

    /// True when every dimension of `self` is at most that of `room`.
    #[must_use]
    #[inline]
    pub fn fits_in(&self, room: &Self) -> bool {
        Resource::ALL.iter().all(|&resource| self.get(resource) <= room.get(resource))
    }

    /// True when no other dimension than CPU and memory is used: then the hot columns alone decide.
    #[must_use]
    #[inline]
    pub fn is_plain(&self) -> bool {
        // Not with `==`, which calls a function to compare so short an array.
        self.custom.iter().fold(self.disk_bytes, |used, custom| used | custom) == 0
    }

    /// Does something with the amount in each dimension that is used, by its position in `Resource::ALL`. Most use CPU and memory alone:
    /// to look at the others one by one would take longer than all else about an amount.
    #[inline]
    pub(crate) fn for_each_used(&self, mut with: impl FnMut(usize, u64)) {
        with(0, self.cpu_millis);
        with(1, self.memory_bytes);
        if !self.is_plain() {
            with(2, self.disk_bytes);
            (3..).zip(self.custom).for_each(|(dimension, amount)| with(dimension, amount));
        }
    }

    /// Whether every dimension is within the bounds that a cell takes.
    #[must_use]
    #[inline]
    pub fn within_bounds(&self) -> bool {
        self.cpu_millis <= CPU_MILLIS_MAX && Resource::ALL[1..].iter().all(|&one| self.get(one) <= AMOUNT_MAX)
    }

    /// True when nothing of anything is asked for.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// The same in each dimension, by `of` this amount and another one.
    #[must_use]
    fn by_dimension(&self, other: &Self, of: impl Fn(u64, u64) -> u64) -> Self {
        let mut custom = self.custom;
        custom.iter_mut().zip(other.custom).for_each(|(mine, theirs)| *mine = of(*mine, theirs));
        Self {
            cpu_millis: of(self.cpu_millis, other.cpu_millis),
            memory_bytes: of(self.memory_bytes, other.memory_bytes),
            disk_bytes: of(self.disk_bytes, other.disk_bytes),
            custom,
        }
    }

    /// The smaller amount in each dimension.
    #[must_use]
    pub fn at_most(&self, other: &Self) -> Self {
        self.by_dimension(other, u64::min)
    }

    /// What is left without `other`, in each dimension; 0 where that has more.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        self.by_dimension(other, u64::saturating_sub)
    }

    /// The sum; amounts in a cell are far below overflow.
    #[must_use]
    pub fn with(&self, other: &Self) -> Self {
        self.by_dimension(other, u64::saturating_add)
    }

    /// The sum, `None` on overflow.
    #[must_use]
    #[inline]
    pub fn checked_add(&self, other: &Self) -> Option<Self> {
        let mut custom = self.custom;
        for (mine, theirs) in custom.iter_mut().zip(other.custom) {
            *mine = mine.checked_add(theirs)?;
        }
        Some(Self {
            cpu_millis: self.cpu_millis.checked_add(other.cpu_millis)?,
            memory_bytes: self.memory_bytes.checked_add(other.memory_bytes)?,
            disk_bytes: self.disk_bytes.checked_add(other.disk_bytes)?,
            custom,
        })
    }
}

/// Free amounts of each resource, in the order of `Resource::ALL`. Negative on a machine that shrank below what it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room(pub [i64; DIMENSIONS]);

impl Room {
    /// All of `capacity` is free.
    #[must_use]
    #[inline]
    pub fn all_of(capacity: &Resources) -> Self {
        let mut room = Self::default();
        room.add(capacity);
        room
    }

    /// The free amount in one dimension.
    #[must_use]
    #[inline]
    pub const fn get(&self, resource: Resource) -> i64 {
        self.0[resource.index()]
    }

    /// Gives `amount` back.
    #[inline]
    pub fn add(&mut self, amount: &Resources) {
        amount.for_each_used(|dimension, amount| self.0[dimension] += amount.cast_signed());
    }

    /// Takes `amount` away. The caller has judged that it fits, or accepts a negative room.
    #[inline]
    pub fn take(&mut self, amount: &Resources) {
        amount.for_each_used(|dimension, amount| self.0[dimension] -= amount.cast_signed());
    }

    /// The amounts, 0 where they are negative.
    #[must_use]
    pub fn positive(&self) -> Resources {
        let mut free = Resources::default();
        for resource in Resource::ALL {
            *free.get_mut(resource) = u64::try_from(self.get(resource)).unwrap_or(0);
        }
        free
    }

    /// What of `need` no free room is there for, in each dimension: all of it where that is negative.
    #[must_use]
    pub fn uncovered(&self, need: &Resources) -> Resources {
        need.without(&self.positive())
    }

    /// What has to come free before `need` fits, in each dimension that is asked for: what is uncovered, and besides what negative room lacks.
    #[must_use]
    pub fn lack(&self, need: &Resources) -> Resources {
        let mut lack = self.uncovered(need);
        for resource in Resource::ALL.into_iter().filter(|&resource| self.get(resource) < 0 && need.get(resource) > 0) {
            *lack.get_mut(resource) += self.get(resource).unsigned_abs();
        }
        lack
    }

    /// The first dimension in which `need` is more than what is free, and by how much. A dimension that is not asked for is
    /// never short, even where the room in it is negative.
    #[must_use]
    #[inline]
    pub fn shortage(&self, need: &Resources) -> Option<Shortage> {
        Resource::ALL.into_iter().find_map(|resource| {
            let need = need.get(resource).cast_signed();
            let short_by = need.saturating_sub(self.get(resource));
            (need > 0 && short_by > 0).then(|| Shortage { resource, short_by: short_by.cast_unsigned() })
        })
    }
}

/// What was not enough, and by how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// Which resource.
    pub resource: Resource,
    /// In its unit, above 0.
    pub short_by: u64,
}

impl Shortage {
    /// Such as `cpu by 500m`, with the cell's names of its own resources.
    #[must_use]
    pub fn words_in(&self, custom_resources: &[Arc<str>]) -> String {
        format!("{} by {}", self.resource.name_in(custom_resources), self.resource.lack(self.short_by))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Who read that its quota was short of memory_bytes by 1610612736 had to count digits.
    #[test]
    fn what_is_short_is_told_as_people_write_it() {
        let seats: [Arc<str>; 1] = ["seats".into()];
        let told = |resource, short_by| Shortage { resource, short_by }.words_in(&seats);
        assert_eq!(told(Resource::CpuMillis, 2000), "cpu by 2000m");
        assert_eq!(told(Resource::MemoryBytes, 3 << 29), "memory by 1.5GiB");
        assert_eq!(told(Resource::DiskBytes, 1023), "disk by 1023B");
        // Who was short by 1.59 GiB and added what was told was still short.
        assert_eq!(told(Resource::MemoryBytes, 1_707_249_500), "memory by 1.6GiB");
        assert_eq!(told(Resource::MemoryBytes, (1 << 30) + 1), "memory by 1.1GiB");
        assert_eq!(told(Resource::MemoryBytes, (2 << 30) - 1), "memory by 2GiB");
        assert_eq!(told(Resource::MemoryBytes, u64::MAX), "memory by 16384PiB");
        assert_eq!((bytes(1_707_249_500), bytes(0), bytes(1024)), ("1.5GiB".into(), "0B".into(), "1KiB".into()));
        assert_eq!(
            (told(Resource::Custom(0), 3), told(Resource::Custom(1), 3)),
            ("seats by 3".into(), "custom_2 by 3".into())
        );
    }

    #[test]
    fn the_first_short_dimension_is_named_with_its_amount() {
        let room = Room::all_of(&Resources::new(1000, 64));
        assert_eq!(room.shortage(&Resources::new(1000, 64)), None);
        let short = room.shortage(&Resources::new(1000, 100));
        assert_eq!(short, Some(Shortage { resource: Resource::MemoryBytes, short_by: 36 }));
    }

    #[test]
    fn negative_room_hurts_only_who_asks_for_it() {
        let mut room = Room::all_of(&Resources::new(1000, 64));
        room.take(&Resources::new(0, 100));
        assert_eq!(room.shortage(&Resources::new(500, 0)), None);
        assert!(room.shortage(&Resources::new(500, 1)).is_some());
    }

    #[test]
    fn sums_that_overflow_are_seen() {
        assert_eq!(Resources::new(u64::MAX, 0).checked_add(&Resources::new(1, 0)), None);
    }
}

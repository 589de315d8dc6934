//! How well a machine suits a task: ordered structs, the smallest wins, fields are compared from the top.

/// How much memory weighs as much as a thousandth of a core: 4 GiB a core, which is what most machines are built with. One
/// fixed rate, and not the cell's own mix, so that a rank depends on one machine alone and a decision can be replayed.
pub const MEMORY_BYTES_PER_CPU_MILLI: u64 = 4 * 1024 * 1024 * 1024 / 1000;

/// How schedulers that see the same snapshot come to take different machines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decorrelation {
    /// Orders machines that rank alike. Equal seeds give equal orders.
    pub seed: u64,
    /// How far apart the room of two machines may be while they still rank alike, in thousandths of a core (memory at
    /// [`MEMORY_BYTES_PER_CPU_MILLI`]). 0 or 1: only true ties are broken by the seed.
    pub nearness_cpu_millis: u64,
}

/// A machine as a rank sees it, with room for the task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The machine's slot.
    pub machine: u32,
    /// Room after placing the task, in thousandths of a core, memory at its rate; rounded down to a multiple of the nearness.
    pub leftover: u64,
    /// Tasks of the same group that are there already.
    pub siblings: u32,
    /// Pseudo-random for each seed and machine; 0 without decorrelation.
    pub tie: u64,
}

/// Fullest machine first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BestFitRank {
    /// Room left after placing: big holes stay whole for big tasks.
    pub leftover: u64,
    /// Keeps schedulers apart.
    pub tie: u64,
    /// Breaks ties, so that a run can be replayed.
    pub machine: u32,
}

/// Fewest siblings first, then the emptiest machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SpreadRank {
    /// Tasks of the same group already there: losing one machine should not lose the group.
    pub siblings: u32,
    /// Most room first.
    pub leftover: std::cmp::Reverse<u64>,
    /// Keeps schedulers apart.
    pub tie: u64,
    /// Breaks ties, so that a run can be replayed.
    pub machine: u32,
}

/// Lowest slot first; with decorrelation any machine that fits, in an order of the seed's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FirstFitRank {
    /// Keeps schedulers apart.
    pub tie: u64,
    /// First come.
    pub machine: u32,
}

impl From<&Candidate> for BestFitRank {
    fn from(candidate: &Candidate) -> Self {
        let &Candidate { machine, leftover, tie, .. } = candidate;
        Self { leftover, tie, machine }
    }
}

impl From<&Candidate> for SpreadRank {
    fn from(candidate: &Candidate) -> Self {
        let &Candidate { machine, leftover, siblings, tie } = candidate;
        Self { siblings, leftover: std::cmp::Reverse(leftover), tie, machine }
    }
}

impl From<&Candidate> for FirstFitRank {
    fn from(candidate: &Candidate) -> Self {
        Self { tie: candidate.tie, machine: candidate.machine }
    }
}

impl Decorrelation {
    /// The rank's tie for a machine: `splitmix64` of seed and slot.
    #[must_use]
    pub fn tie(&self, machine: u32) -> u64 {
        let mut mixed = self.seed.wrapping_add(u64::from(machine).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

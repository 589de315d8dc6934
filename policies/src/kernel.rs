//! The scan of packed columns: what all machines cost, 64 at a time, and which costs least.
//!
//! Plain loops over arrays, without branches, so that the compiler makes vector code of them; `lanes` compiles them once for each kind of
//! processor. The results are the same bits everywhere: nothing is summed up in another order, and no multiplication is fused with an addition.
//! Knows rows and bits, nothing of requests.

#![allow(clippy::needless_range_loop, reason = "one counter over several arrays is what becomes vector code")]

pub(crate) mod lanes;

use plenum_model::{Resources, Room};

use crate::scoring::{Amounts, Candidate, Scoring};
use crate::settings::Order;

/// Rows of a block: one word of a bitmap.
pub(crate) const BLOCK: usize = 64;

/// A column of 32-bit amounts, padded to whole blocks.
pub(crate) type Column<T> = [[T; BLOCK]];

/// What is scanned. All slices are equally long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    /// Free CPU, memory and disk, in whole units rounded down; CPU is negative where nothing may be claimed.
    pub(crate) free: [&'a Column<i32>; 3],
    pub(crate) capacity: [&'a Column<f32>; 3],
    pub(crate) per_capacity: [&'a Column<f32>; 3],
    /// What is subtracted from costs, as a part of what a whole machine is worth.
    pub(crate) weights: Option<&'a Column<f32>>,
    /// One bit for each machine that is to be looked at; may be shorter: the rest is not.
    pub(crate) words: &'a [u64],
    /// Exactly what is free, by slot.
    pub(crate) rooms: &'a [Room],
}

/// What is asked of each row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) resources: &'a Resources,
    /// The least free amounts, rounded down as the columns are: a row with less has too little, a row with more has enough.
    pub(crate) least: [i32; 3],
    /// The rows with just the least may lack the part that was rounded away.
    pub(crate) inexact: bool,
    /// Something is asked for that has no column.
    pub(crate) beyond_columns: bool,
    /// What is asked for, rounded up.
    pub(crate) task: Amounts,
    pub(crate) order: Order,
    /// Ties do not simply go to the lowest slot.
    pub(crate) seeded: bool,
    /// Costs are rounded down to multiples of this, if it is above 0.
    pub(crate) nearness: f32,
    /// What a whole machine is worth in costs.
    pub(crate) whole: f32,
}

/// A machine's place among all: by cost, and then by tie. The smallest is best.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Place {
    pub(crate) cost: f32,
    pub(crate) tie: i32,
}

impl Place {
    /// Behind every machine.
    pub(crate) const NONE: Self = Self { cost: f32::INFINITY, tie: i32::MAX };

    #[inline]
    pub(crate) fn is_before(&self, other: &Self) -> bool {
        (self.cost < other.cost) | ((self.cost == other.cost) & (self.tie < other.tie))
    }

    /// The same order in one word.
    #[inline]
    pub(crate) fn key(&self) -> u64 {
        // Adding 0 makes a negative 0 positive: they are equal as costs.
        let bits = (self.cost + 0.0).to_bits();
        let ordered = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
        u64::from(ordered) << 32 | u64::from(self.tie.cast_unsigned() ^ 1 << 31)
    }

    /// The place of a key.
    #[allow(clippy::cast_possible_truncation, reason = "the two halves of a word")]
    pub(crate) fn of_key(key: u64) -> Self {
        let ordered = (key >> 32) as u32;
        let bits = if ordered >> 31 == 1 { ordered & !(1 << 31) } else { !ordered };
        Self { cost: f32::from_bits(bits), tie: (key as u32 ^ 1 << 31).cast_signed() }
    }
}

impl Ask<'_> {
    /// A cost as it counts: with what is wished for, and rounded.
    #[inline]
    pub(crate) fn weighed(&self, cost: f32, weight: f32) -> f32 {
        let cost = cost - weight * self.whole;
        if self.nearness > 0.0 { (cost / self.nearness).floor() * self.nearness } else { cost }
    }
}

/// The best of some blocks: a scan of all rows in them.
pub(crate) struct Best<'a, S: ?Sized> {
    pub(crate) scoring: &'a S,
    pub(crate) rows: Rows<'a>,
    pub(crate) ask: Ask<'a>,
}

impl<S: Scoring + ?Sized> lanes::Work for Best<'_, S> {
    type Output = Place;

    #[inline(always)]
    fn run(self) -> Place {
        let Self { scoring, rows, ask } = self;
        let (mut best, mut bound) = (Place::NONE, Place::NONE.cost);
        let mut seen = [0.0; BLOCK];
        for (block, &word) in rows.words.iter().enumerate() {
            if word == 0 {
                continue;
            }
            score(scoring, &rows, block, word, &ask, &mut seen);
            // Rarely, but where many cost the same: only then are ties looked at. Minima and ties that run along for each row of a block would be
            // stored under masks, which takes some processors twenty cycles each.
            if any_below(&seen, bound) {
                let place = least(&seen, &ties_of(&ask, block));
                best = if place.is_before(&best) { place } else { best };
                // Blocks come in rising order, so whoever was there first has the lower slot; a seed may put others before it.
                bound = if ask.seeded { best.cost.next_up() } else { best.cost };
            }
        }
        best
    }
}

/// The best of each of some blocks.
pub(crate) struct Minima<'a, 'b, S: ?Sized> {
    pub(crate) scoring: &'a S,
    pub(crate) rows: Rows<'a>,
    pub(crate) ask: Ask<'a>,
    /// Which blocks.
    pub(crate) blocks: &'b [u32],
    /// Of all blocks: those that were asked for are written.
    pub(crate) minima: &'b mut [Place],
}

impl<S: Scoring + ?Sized> lanes::Work for Minima<'_, '_, S> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { scoring, rows, ask, blocks, minima } = self;
        let mut seen = [0.0; BLOCK];
        for &block in blocks {
            let block = block as usize;
            let word = rows.words.get(block).copied().unwrap_or(0);
            if word == 0 {
                minima[block] = Place::NONE;
                continue;
            }
            score(scoring, &rows, block, word, &ask, &mut seen);
            minima[block] = least(&seen, &ties_of(&ask, block));
        }
    }
}

/// The first few machines, in the order of their places.
#[derive(Debug)]
pub(crate) struct Shortlist {
    most: usize,
    /// Not yet sorted; up to twice as many as wanted.
    keys: Vec<u64>,
    /// No place behind this one is needed any more.
    last: u64,
}

impl Shortlist {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, keys: Vec::new(), last: Place::NONE.key() }
    }

    #[inline]
    pub(crate) fn add(&mut self, place: Place) {
        let key = place.key();
        // Whoever is not before infinity, or is no number, is not there at all.
        if place.cost < f32::INFINITY && key < self.last {
            self.keys.push(key);
            if self.keys.len() >= self.most.saturating_mul(2).max(64) {
                self.cut();
            }
        }
    }

    fn cut(&mut self) {
        if self.keys.len() > self.most && self.most > 0 {
            let (_, &mut last, _) = self.keys.select_nth_unstable(self.most - 1);
            self.keys.truncate(self.most);
            self.last = last;
        }
    }

    /// The keys, best first.
    pub(crate) fn sorted(mut self) -> Vec<u64> {
        self.cut();
        self.keys.truncate(self.most);
        self.keys.sort_unstable();
        self.keys
    }
}

/// The first few of some blocks.
pub(crate) struct First<'a, 'b, S: ?Sized> {
    pub(crate) scoring: &'a S,
    pub(crate) rows: Rows<'a>,
    pub(crate) ask: Ask<'a>,
    pub(crate) list: &'b mut Shortlist,
}

impl<S: Scoring + ?Sized> lanes::Work for First<'_, '_, S> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { scoring, rows, ask, list } = self;
        let mut seen = [0.0; BLOCK];
        for (block, &word) in rows.words.iter().enumerate() {
            if word == 0 {
                continue;
            }
            score(scoring, &rows, block, word, &ask, &mut seen);
            let first = first_of(block);
            let (last, first_tie) = (Place::of_key(list.last), ask.order.tie(first));
            let mut wanted = 0;
            for lane in 0..BLOCK {
                let tie = lane_tie(&ask, lane).wrapping_add(first_tie);
                wanted += u32::from((seen[lane] < last.cost) | ((seen[lane] == last.cost) & (tie < last.tie)));
            }
            if wanted == 0 {
                continue;
            }
            for (slot, &cost) in (first..).zip(&seen) {
                if cost <= last.cost {
                    list.add(Place { cost, tie: ask.order.tie(slot) });
                }
            }
        }
    }
}

/// What each row of a block costs; infinity where the task does not fit, or the bit is not set.
#[inline(always)]
#[allow(clippy::cast_precision_loss, reason = "24 bits are what scorings see")]
fn score<S: Scoring + ?Sized>(
    scoring: &S,
    rows: &Rows<'_>,
    block: usize,
    word: u64,
    ask: &Ask<'_>,
    costs: &mut [f32; BLOCK],
) {
    let [cpu, memory, disk] = rows.free.map(|column| &column[block]);
    let capacity = rows.capacity.map(|column| &column[block]);
    let per_capacity = rows.per_capacity.map(|column| &column[block]);
    let amounts = |columns: [&[f32; BLOCK]; 3], lane: usize| Amounts {
        cpu_millis: columns[0][lane],
        memory_mib: columns[1][lane],
        disk_mib: columns[2][lane],
    };
    let first = first_of(block);
    let halves = halves(word);
    for half in 0..2_u32 {
        let bits = halves[half as usize];
        for bit in 0..32_u32 {
            let lane = (half * 32 + bit) as usize;
            let candidate = Candidate {
                machine: first + half * 32 + bit,
                free: Amounts::of([cpu[lane], memory[lane], disk[lane]]),
                capacity: amounts(capacity, lane),
                per_capacity: amounts(per_capacity, lane),
                siblings: 0,
                placed: 0,
            };
            let cost = scoring.cost(&candidate, &ask.task);
            let fits = (cpu[lane] >= ask.least[0]) & (memory[lane] >= ask.least[1]) & ((bits >> bit) & 1 == 1);
            // What is no number is not below infinity either.
            costs[lane] = if fits & (cost < f32::INFINITY) { cost } else { f32::INFINITY };
        }
    }
    if ask.least[2] > 0 {
        for lane in 0..BLOCK {
            // A maximum, as a choice would become a store under a mask: see `Best`. A sum with infinity would be no number where the cost is minus infinity.
            costs[lane] = costs[lane].max(if disk[lane] >= ask.least[2] { f32::NEG_INFINITY } else { f32::INFINITY });
        }
    }
    if let Some(weights) = rows.weights {
        for lane in 0..BLOCK {
            costs[lane] -= weights[block][lane] * ask.whole;
        }
    }
    if ask.nearness > 0.0 {
        for cost in costs.iter_mut() {
            *cost = (*cost / ask.nearness).floor() * ask.nearness;
        }
    }
    if ask.inexact {
        let mut close = 0;
        for lane in 0..BLOCK {
            close += u32::from((memory[lane] == ask.least[1]) | (disk[lane] == ask.least[2]));
        }
        if close > 0 || ask.beyond_columns {
            judge_exactly(rows, block, ask, costs);
        }
    }
}

/// Rules out rows on which the task does not really fit.
#[cold]
#[inline(never)]
fn judge_exactly(rows: &Rows<'_>, block: usize, ask: &Ask<'_>, costs: &mut [f32; BLOCK]) {
    let rooms = rows.rooms.iter().skip(block * BLOCK);
    for (cost, room) in costs.iter_mut().zip(rooms) {
        if *cost < f32::INFINITY && room.shortage(ask.resources).is_some() {
            *cost = f32::INFINITY;
        }
    }
}

/// The slot of a block's first row.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "machine slots have 32 bits")]
const fn first_of(block: usize) -> u32 {
    (block * BLOCK) as u32
}

/// How far the tie of a row is behind that of its block's first one.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "below 64")]
const fn lane_tie(ask: &Ask<'_>, lane: usize) -> i32 {
    (lane as i32).wrapping_mul(ask.order.multiplier)
}

#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "the two halves of a word")]
const fn halves(word: u64) -> [u32; 2] {
    [word as u32, (word >> 32) as u32]
}

/// The ties of a block's rows.
#[inline(always)]
fn ties_of(ask: &Ask<'_>, block: usize) -> [i32; BLOCK] {
    let first = ask.order.tie(first_of(block));
    std::array::from_fn(|lane| lane_tie(ask, lane).wrapping_add(first))
}

/// Whether any of 64 costs is below a bound. What is no number is not.
#[inline(always)]
fn any_below(costs: &[f32; BLOCK], bound: f32) -> bool {
    let mut lows = [f32::INFINITY; 8];
    for costs in costs.as_chunks::<8>().0 {
        for lane in 0..8 {
            lows[lane] = if costs[lane] < lows[lane] { costs[lane] } else { lows[lane] };
        }
    }
    let mut any = 0;
    for low in lows {
        any |= u32::from(low < bound);
    }
    any > 0
}

/// The best of 64 places, in six rounds that each halve them.
#[inline(always)]
fn least(costs: &[f32; BLOCK], ties: &[i32; BLOCK]) -> Place {
    let (mut costs, mut ties) = (*costs, *ties);
    let mut left = BLOCK / 2;
    while left > 0 {
        for lane in 0..left {
            let (cost, tie) = (costs[lane + left], ties[lane + left]);
            let better = (cost < costs[lane]) | ((cost == costs[lane]) & (tie < ties[lane]));
            costs[lane] = if better { cost } else { costs[lane] };
            ties[lane] = if better { tie } else { ties[lane] };
        }
        left /= 2;
    }
    if costs[0] < f32::INFINITY { Place { cost: costs[0], tie: ties[0] } } else { Place::NONE }
}

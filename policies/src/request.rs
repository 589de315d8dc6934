//! What is asked: equal tasks, and what their machines must be.

use std::collections::BTreeMap;
use std::fmt;

use plenum_model::{Hold, Resources, Room};

use crate::columns::{Columns, Eligible, UNIT_BYTES, units};
use crate::kernel::{Ask, Place, Rows};
use crate::scoring::{Amounts, Candidate, Scoring};
use crate::settings::{Order, Settings, Ties};

/// Equal tasks that want machines.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// What each task gets.
    pub resources: &'a Resources,
    /// The machines that satisfy the constraints, from [`Columns::eligible_for`]; `None`: all of them.
    pub eligible: Option<&'a Eligible>,
    /// The machine that the job's tasks share, once one was chosen.
    pub home: Option<u32>,
    /// Tasks of the same group by machine slot, for scorings that look at [`Candidate::siblings`]. Others are quicker without.
    pub siblings: &'a BTreeMap<u32, u32>,
    /// What the job holds: free for it, and taken for others.
    pub hold: Option<&'a Hold>,
    /// What else a machine must be, for groups that ask for more than room. Then each machine is chosen once at most.
    pub suits: Option<Suits<'a>>,
    /// Machines that are known not to suit, one bit a slot, the lowest bit of a word first; shorter than the cell: the rest may suit. What was
    /// found out for one task holds for the next equal one, and nobody asks about such a machine again.
    pub without: Option<&'a [u64]>,
    /// Ties, samples and the like.
    pub settings: Settings,
}

/// A further condition on machines, by slot. Asked about few machines only, the best first.
#[derive(Clone, Copy)]
pub struct Suits<'a>(pub &'a dyn Fn(u32) -> bool);

impl fmt::Debug for Suits<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Suits")
    }
}

const NO_SIBLINGS: &BTreeMap<u32, u32> = &BTreeMap::new();

impl<'a> Request<'a> {
    /// Tasks that ask for room and nothing else, wherever it is.
    #[must_use]
    pub const fn new(resources: &'a Resources, settings: Settings) -> Self {
        Self {
            resources,
            eligible: None,
            home: None,
            siblings: NO_SIBLINGS,
            hold: None,
            suits: None,
            without: None,
            settings,
        }
    }
}

/// A request on its columns with its scoring: what each machine costs.
pub(crate) struct Judge<'a, S: ?Sized> {
    pub(crate) columns: &'a Columns,
    pub(crate) request: &'a Request<'a>,
    pub(crate) scoring: &'a S,
    pub(crate) ask: Ask<'a>,
}

impl<'a, S: Scoring + ?Sized> Judge<'a, S> {
    pub(crate) fn new(columns: &'a Columns, request: &'a Request<'a>, scoring: &'a S) -> Self {
        let need = request.resources;
        let all = Room::all_of(need);
        let least = units(&all);
        let is_rounded = |bytes: u64| !bytes.is_multiple_of(UNIT_BYTES);
        let rounded = [false, is_rounded(need.memory_bytes), is_rounded(need.disk_bytes)];
        let up = |resource: usize| least[resource].saturating_add(i32::from(rounded[resource]));
        let beyond_columns = need.custom.iter().any(|&units| units > 0);
        let settings = &request.settings;
        let ask = Ask {
            resources: need,
            least,
            inexact: rounded[1] || rounded[2] || beyond_columns,
            beyond_columns,
            task: Amounts::of([up(0), up(1), up(2)]),
            order: Order::of(settings),
            seeded: settings.ties == Ties::Seeded,
            nearness: settings.nearness,
            whole: scoring.whole(columns.largest()),
        };
        Self { columns, request, scoring, ask }
    }

    /// The columns as the kernel takes them.
    pub(crate) fn rows<'b>(&'b self, words: &'b [u64]) -> Rows<'b> {
        Rows {
            free: self.columns.free.each_ref().map(Vec::as_slice),
            capacity: self.columns.capacity.each_ref().map(Vec::as_slice),
            per_capacity: self.columns.per_capacity.each_ref().map(Vec::as_slice),
            weights: self.request.eligible.and_then(Eligible::weights),
            words,
            rooms: &self.columns.rooms,
        }
    }

    /// Where a machine stands for one task more, when `placed` of the tasks went there already; `None` when it does not fit, or must not go there.
    /// The one exact judgement, a row at a time: the kernel gives the same for rows that nothing special is known of.
    pub(crate) fn place(&self, slot: u32, placed: u32) -> Option<Place> {
        let Request { resources, eligible, home, siblings, hold, without, .. } = *self.request;
        let known = without.and_then(|without| without.get(slot as usize / 64)).copied().unwrap_or(0);
        if known >> (slot % 64) & 1 == 1
            || home.is_some_and(|home| home != slot)
            || eligible.is_some_and(|eligible| !eligible.contains(slot))
        {
            return None;
        }
        let mut room = *self.columns.room(slot)?;
        if let Some(hold) = hold.filter(|hold| hold.machines.binary_search(&slot).is_ok()) {
            room.add(&hold.resources);
        }
        if placed > 0 {
            room.take(&times(resources, placed)?);
        }
        if room.shortage(resources).is_some() {
            return None;
        }
        let [capacity, per_capacity] = self.columns.capacities(slot);
        let candidate = Candidate {
            machine: slot,
            free: Amounts::of(units(&room)),
            capacity,
            per_capacity,
            siblings: siblings.get(&slot).copied().unwrap_or(0).saturating_add(placed),
            placed,
        };
        let weight = eligible.map_or(0.0, |eligible| eligible.weight(slot));
        let cost = self.scoring.cost(&candidate, &self.ask.task);
        let place = Place { cost: self.ask.weighed(cost, weight), tie: self.ask.order.tie(slot) };
        (cost < f32::INFINITY).then_some(place)
    }

    /// Slots of which the kernel does not know all: it has neither siblings nor holds. Rising.
    pub(crate) fn special_rows(&self) -> Vec<u32> {
        let held = self.request.hold.iter().flat_map(|hold| hold.machines.iter().copied());
        let mut special: Vec<u32> = self.request.siblings.keys().copied().chain(held).collect();
        special.retain(|&slot| slot < self.columns.rows());
        special.sort_unstable();
        special.dedup();
        special
    }
}

/// `count` times the amount, `None` on overflow.
pub(crate) fn times(amount: &Resources, count: u32) -> Option<Resources> {
    let count = u64::from(count);
    let mut product = *amount;
    product.cpu_millis = amount.cpu_millis.checked_mul(count)?;
    product.memory_bytes = amount.memory_bytes.checked_mul(count)?;
    product.disk_bytes = amount.disk_bytes.checked_mul(count)?;
    for units in &mut product.custom {
        *units = units.checked_mul(count)?;
    }
    Some(product)
}

//! Whom to evict for tasks that fit nowhere: the choice is made by [`plenum_policies::eviction`], and this says for whom it is asked, and how often.
//!
//! Asked for is only what fits nowhere as things are, and whose job is of a higher band than somebody who runs. What leaves already comes first: a task
//! is granted on top of it, and nobody else has to go; unless it has been leaving for long.

mod asked;
mod lent;
mod pauses;
mod remembered;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use plenum_model::{
    AllocationId, Cell, Device, GroupCounts, GroupShape, Job, JobId, LogTime, Outcome, Resources, Special,
};
use plenum_policies::eviction::{Cheapest, Found, Tenants, Wanting};
use plenum_policies::{Columns, Eligible, Request};
use plenum_sdk::{Plan, Specials, View, Work};

use self::asked::Asked;
use self::pauses::Pauses;
use self::remembered::{Begun, Remembered};
use crate::placer::Need;
use crate::shared_machine;

/// Allocations that one decision looks at, and steps of searches among them: some tenths of a second. What is left over has its turn in the next one.
const LOOKS_MAX: usize = 4_000_000;

/// Victims that one decision names; a transaction may name 16,384.
const NAMED_MAX: usize = 12_000;

/// Kinds of tasks that one decision finds machines for: each remembers a place for each machine.
const KINDS_MAX: usize = 64;

/// Rows of jobs and allocations of which a walk is made up for by a microsecond without one: a quarter of a second for a million, of which the walk takes some 75 ms.
const ROWS_A_MICRO: i64 = 4;

/// Who was seen to leave so long ago is not waited for by anybody else: its `kill_timeout` may be hours, or it hangs. Six times the usual one.
const AWAITED_MICROS: i64 = 60_000_000;

/// Why tasks got no machine by evictions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// There is nobody to evict.
    Nobody,
    /// Its scheduler may not.
    Right,
    /// On no machine there is enough of lower bands.
    Enough,
    /// On none to which more tasks of its group may go.
    Limits,
    /// On none of those that were asked, as it may not use all of them.
    Usable,
    /// For all that it needs at once more would have to go than a decision names.
    Many,
    /// It was not looked at to the end.
    Later,
    /// Its tasks failed after it had evicted others for them: it evicts nobody before then.
    Fails(LogTime),
    /// Tasks of it failed, and a peer owns it, who knows whether it evicted others for them, and may be waiting for that.
    Peer,
}

impl Denied {
    /// What people are told of tasks that wait for this `reason`, and of which so many are placed at once; `None` where the peer that owns them knows better.
    pub(crate) fn told(self, scheduler: &str, at_once: usize, reason: &str) -> Option<String> {
        Some(match self {
            Self::Peer => return None,
            // There may be enough for some of them.
            Self::Enough | Self::Limits | Self::Usable if at_once > 1 => {
                let machines = match self {
                    Self::Limits => " on the machines that its limits allow",
                    Self::Usable => " on the machines that it may use",
                    _ => "",
                };
                format!("not enough of lower bands can be evicted for all {at_once}{machines}; {reason}")
            }
            Self::Nobody => reason.to_owned(),
            Self::Right => {
                format!("{scheduler} may evict nobody (`plenum scheduler set {scheduler} --evict yes`); {reason}")
            }
            Self::Enough => format!("no lower band has enough on any machine to be evicted; {reason}"),
            Self::Limits => {
                format!("on no machine that its limits allow has a lower band enough to be evicted; {reason}")
            }
            Self::Usable => format!("on no machine that it may use has a lower band enough to be evicted; {reason}"),
            Self::Many => format!("more than {NAMED_MAX} would have to be evicted at once; {reason}"),
            Self::Later => format!("whom to evict is looked for in a moment; {reason}"),
            Self::Fails(until) => {
                format!(
                    "it evicted others for tasks that failed, and evicts nobody before {}; {reason}",
                    until.whole_second()
                )
            }
        })
    }
}

/// A machine for a task.
#[derive(Clone, Debug)]
pub(crate) struct Seat {
    pub(crate) machine: u32,
    /// The ones that the cell is going to choose. To name them would be an error: when somebody ends before, it may choose one of these for another claim.
    pub(crate) devices: Vec<Device>,
    /// How many were chosen for it.
    victims: usize,
    /// How many more are named for it.
    named: usize,
}

/// What is asked for alike: the needs, the band, and whose it is where that matters.
type Kind = (Need, u8, Option<(JobId, u16)>);

/// How much a decision may look at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) looks_max: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { looks_max: LOOKS_MAX }
    }
}

/// What one decision knows of others' tasks.
#[derive(Debug, Default)]
pub(crate) struct Evictions {
    bounds: Bounds,
    /// Nobody is evicted in the rest of this decision.
    is_off: bool,
    /// Read when the first one asks.
    tenants: Option<Tenants>,
    kinds: BTreeMap<Kind, Cheapest>,
    looks: usize,
    named: usize,
    /// By machine, how many of them for the claims in hand, which name each once.
    named_on: BTreeMap<u32, usize>,
    /// By machine, who was chosen for the claims in hand.
    own: BTreeMap<u32, Vec<AllocationId>>,
    /// Tasks of the group in hand by machine, where they are to be spread.
    siblings: Option<BTreeMap<u32, u32>>,
    /// Machines on which the search that came to no end found nobody.
    in_vain: Vec<u32>,
    /// Ports of those who leave that were given to somebody, by machine.
    ports: BTreeSet<(u32, u16)>,
    /// When what was put off can be gone on with, in microseconds; `None`: nothing was.
    later_micros: Option<i64>,
    /// The lowest band of all jobs, once somebody asked.
    lowest_band: Option<Option<u8>>,
    /// When the allocations were walked over last, over all decisions.
    walked: Option<LogTime>,
    /// Over all decisions.
    denied: Remembered<Kind>,
    /// The same of machines for jobs whose tasks share one, by what these need and their band.
    homeless: Remembered<(shared_machine::Need, u8)>,
    /// Since when those are known to leave that the last walk met, over all decisions.
    known_to_leave: BTreeMap<AllocationId, LogTime>,
    /// Groups that evicted not long ago.
    pauses: Pauses,
    /// Of the last plan, over all decisions.
    tag: u64,
}

/// Where claims are booked.
pub(crate) struct Books<'a, 'v> {
    pub(crate) view: &'a View<'v>,
    pub(crate) columns: &'a mut Columns,
    /// Made, where the group asks for more than room.
    pub(crate) specials: Option<&'a mut Specials>,
    /// Where tasks are to be spread: the machines that this decision has chosen for the group so far.
    pub(crate) spread: Option<&'a [u32]>,
}

impl Evictions {
    #[cfg(test)]
    pub(crate) fn within(bounds: Bounds) -> Self {
        Self { bounds, ..Self::default() }
    }

    /// Nothing of what is remembered is of the jobs and allocations that there are from now on, whatever their numbers.
    pub(crate) fn begin_anew(&mut self) {
        *self = Self { bounds: self.bounds, tag: self.tag, ..Self::default() };
    }

    /// Begins a decision.
    pub(crate) fn begin(&mut self, view: &View<'_>) {
        let last = std::mem::take(self);
        let Self { bounds, walked, denied, homeless, known_to_leave, pauses, tag, .. } = last;
        let looks = bounds.looks_max;
        *self = Self { bounds, walked, denied, homeless, known_to_leave, pauses, tag, looks, ..Self::default() };
        self.denied.begin(view);
        self.homeless.begin(view);
    }

    /// Whoever is placed from now on in this decision is not worth an eviction.
    pub(crate) fn end(&mut self) {
        self.is_off = true;
    }

    /// From now on in this decision nobody is evicted, or somebody may be again. Gives how it was before.
    pub(crate) fn set_off(&mut self, is_off: bool) -> bool {
        std::mem::replace(&mut self.is_off, is_off)
    }

    /// When the next decision can go on with what was put off in this one, in microseconds.
    pub(crate) fn goes_on_micros(&self) -> Option<i64> {
        self.later_micros
    }

    /// Something is put off for so long.
    fn put_off(&mut self, micros: i64) {
        let micros = micros.max(1);
        self.later_micros = Some(self.later_micros.map_or(micros, |sooner| sooner.min(micros)));
    }

    /// How long it is until allocations may be walked over again. A walk serves one decision, and decisions can come each millisecond.
    fn rest_micros(&self, view: &View<'_>) -> i64 {
        self.walked.map_or(0, |walked| left_of(rest_of(view.cell()), walked, view.now()))
    }

    /// Whether a task of this job may ask for tenants.
    fn may_ask(&mut self, view: &View<'_>, work: &Work) -> Result<(), Denied> {
        let band = work.job.shape.priority / 10;
        if self.is_off || band == 0 {
            return Err(Denied::Nobody);
        }
        // Most cells have jobs of one band only: they are never walked over.
        let lowest = *self.lowest_band.get_or_insert_with(|| Tenants::lowest_band(view.cell()));
        if lowest.is_none_or(|lowest| lowest >= band) {
            return Err(Denied::Nobody);
        }
        if !view.cell().rights_of(&work.job.shape.scheduler).evicts {
            return Err(Denied::Right);
        }
        Ok(())
    }

    /// The tenants, if a task of this job may ask for some.
    fn read(&mut self, view: &View<'_>, work: &Work) -> Result<(), Denied> {
        self.may_ask(view, work)?;
        if self.tenants.is_none() {
            let rest = self.rest_micros(view);
            if rest > 0 {
                self.put_off(rest);
                return Err(Denied::Later);
            }
            let band = work.job.shape.priority / 10;
            self.walked = Some(view.now());
            self.tenants = Some(self.walk(view, band));
        }
        if self.tenants.as_ref().is_none_or(Tenants::is_empty) { Err(Denied::Nobody) } else { Ok(()) }
    }

    /// The tenants for a job of this band, without those that have been leaving for long. The mirror does not tell for how long.
    fn walk(&mut self, view: &View<'_>, band: u8) -> Tenants {
        let (now, known) = (view.now(), std::mem::take(&mut self.known_to_leave));
        let awaited = |id: AllocationId| {
            // It may have been later than now (`View::now`).
            let since = known.get(&id).copied().filter(|since| *since <= now).unwrap_or(now);
            self.known_to_leave.insert(id, since);
            left_of(AWAITED_MICROS, since, now) > 0
        };
        Tenants::of(view.cell(), band, |id| view.may_be_evicted(id), awaited)
    }

    /// Why a group evicts nobody for now, as tasks of it failed.
    fn pause(&mut self, view: &View<'_>, work: &Work) -> Option<Denied> {
        if pauses::is_up_to_a_peer(view, work) && self.may_ask(view, work).is_ok() {
            return Some(Denied::Peer);
        }
        let until = self.pauses.until(view, work)?;
        self.put_off(until.micros.saturating_sub(view.now().micros));
        Some(Denied::Fails(until))
    }

    /// Why nobody is looked for.
    fn denied_unasked(&mut self, view: &View<'_>, work: &Work, kind: &Kind) -> Option<Denied> {
        if self.is_off {
            // What is remembered is said of tasks for which somebody may be evicted.
            return Some(Denied::Nobody);
        }
        if let Some((why, again)) = self.denied.get(view, kind) {
            again.into_iter().for_each(|micros| self.put_off(micros));
            return Some(why);
        }
        self.pause(view, work)
    }

    /// Machines for so many tasks of a group, which are booked; and if these are fewer, why.
    pub(crate) fn seats(
        &mut self,
        mut books: Books<'_, '_>,
        work: &Work,
        (request, need): (&Request<'_>, &Need),
        tasks: usize,
    ) -> (Vec<Seat>, Denied) {
        let mut seats = Vec::new();
        let limited = GroupCounts::are_needed_by(work.shape());
        let own = (limited || request.hold.is_some()).then_some((work.job.id, work.group));
        let kind: Kind = (need.clone(), work.job.shape.priority / 10, own);
        if let Some(denied) = self.denied_unasked(books.view, work, &kind) {
            return (seats, denied);
        }
        if let Err(denied) = self.read(books.view, work) {
            return (seats, denied);
        }
        if let Some(specials) = books.specials.as_mut().filter(|_| limited) {
            specials.count(books.view.cell(), &work.job, work.group);
        }
        let known = self.kinds.remove(&kind);
        if known.is_none() && self.kinds.len() >= KINDS_MAX {
            self.put_off(rest_of(books.view.cell()));
            return (seats, Denied::Later);
        }
        let begun = self.denied.take(&kind);
        let mut cheapest = known.unwrap_or_else(|| self.all_machines(&books, work, request, begun.as_ref()));
        let (mut denied, named_before, looks_before) = (Denied::Enough, self.named, self.looks);
        self.named_on.clear();
        self.own.clear();
        self.in_vain.clear();
        self.siblings = books.spread.map(|chosen| {
            let mut siblings = books.view.siblings(&work.job, work.group);
            chosen.iter().for_each(|&machine| *siblings.entry(machine).or_default() += 1);
            siblings
        });
        while seats.len() < tasks {
            match self.seat(&mut books, work, request, &mut cheapest) {
                Ok(seat) => seats.push(seat),
                Err(why) => {
                    denied = if why == Denied::Enough { on_none(books.view, request, limited) } else { why };
                    break;
                }
            }
        }
        // What does not fit into a decision of its own never does.
        if denied == Denied::Many && (named_before > 0 || seats.len() >= work.least.max(1) as usize) {
            denied = Denied::Later;
        }
        let looks = looks_before - self.looks;
        if seats.len() >= tasks {
            self.kinds.insert(kind, cheapest);
        } else if denied != Denied::Later {
            self.denied.put(books.view, kind, (denied, looks), begun);
        } else {
            self.put_off(rest_of(books.view.cell()));
            if seats.len() >= work.least.max(1) as usize || !self.are_most(looks) {
                self.kinds.insert(kind, cheapest);
            } else {
                let mut begun = begun.unwrap_or_else(|| Begun::at(books.view.cell().revision()));
                self.in_vain.iter().for_each(|&slot| begun.add(slot));
                self.denied.put(books.view, kind, (denied, looks), Some(begun));
            }
        }
        (seats, denied)
    }

    /// Who makes so many looks leaves none to others, if it does so in each decision.
    fn are_most(&self, looks: usize) -> bool {
        looks > self.bounds.looks_max / 2
    }

    /// All that may be asked, but for those that an earlier decision looked at for it.
    fn all_machines(
        &self,
        books: &Books<'_, '_>,
        work: &Work,
        request: &Request<'_>,
        begun: Option<&Begun>,
    ) -> Cheapest {
        let Some(tenants) = &self.tenants else { return Cheapest::default() };
        let asked = Asked {
            cell: books.view.cell(),
            columns: books.columns,
            specials: books.specials.as_deref(),
            work,
            request,
        };
        let wanting = Wanting::new(&work.shape().resources, work.job.shape.priority / 10);
        let is_allowed = |slot: &u32| {
            request.eligible.is_none_or(|eligible| eligible.contains(*slot))
                && request.home.is_none_or(|home| home == *slot)
                && begun.is_none_or(|begun| !begun.has(*slot))
        };
        let machines = (0..books.columns.rows()).filter(is_allowed);
        Cheapest::new(tenants, machines.filter_map(|slot| Some((slot, asked.free(slot)?))), &wanting)
    }

    /// A machine for one more task, booked.
    fn seat(
        &mut self,
        books: &mut Books<'_, '_>,
        work: &Work,
        request: &Request<'_>,
        cheapest: &mut Cheapest,
    ) -> Result<Seat, Denied> {
        let Some(tenants) = &mut self.tenants else { return Err(Denied::Nobody) };
        let (cell, shape) = (books.view.cell(), work.shape());
        let asked = Asked { cell, columns: books.columns, specials: books.specials.as_deref(), work, request };
        let beyond = !(shape.devices.is_empty() && shape.ports.is_empty());
        let band = work.job.shape.priority / 10;
        // What the cell will choose of those whom a transaction in flight names is not known.
        let is_known = |id: &&AllocationId| !books.view.may_be_evicted(**id);
        let enough = |slot: u32, victims: &[AllocationId]| {
            let leave = tenants.leaving(slot, band).filter(is_known);
            let lent = || asked.lent(slot, (leave.clone(), victims, std::iter::empty()));
            let has_devices = || lent().is_none_or(|lent| lent.is_enough());
            let leaving = leave.clone().chain(victims);
            let ports = || {
                asked
                    .specials
                    .is_none_or(|specials| lent::has_ports((cell, specials), shape, slot, leaving.clone(), &self.ports))
            };
            has_devices() && ports()
        };
        let wanting = Wanting {
            enough: if beyond { Some(&enough) } else { None },
            siblings: self.siblings.as_ref(),
            ..Wanting::new(&shape.resources, band)
        };
        let looked_at = RefCell::new(Vec::new());
        let free = |slot| {
            looked_at.borrow_mut().push(slot);
            asked.free(slot)
        };
        let found = match cheapest.next(tenants, free, &wanting, &mut self.looks) {
            Found::Here(found) => found,
            Found::Nowhere => return Err(Denied::Enough),
            Found::Unsure => {
                self.in_vain = looked_at.into_inner();
                return Err(Denied::Later);
            }
        };
        let machine = found.rank.machine;
        let (before, behind) = beside(tenants, &self.own, machine, band);
        let lent = asked.lent(machine, (before.filter(is_known), &found.victims, behind.filter(is_known)));
        let devices = lent.and_then(|lent| lent.choose()).unwrap_or_default();
        let names = tenants.leaving(machine, band).count() + found.victims.len();
        let more = names - self.named_on.get(&machine).copied().unwrap_or(0).min(names);
        if self.named + more > NAMED_MAX {
            tenants.leave_be(machine);
            return Err(Denied::Many);
        }
        self.named += more;
        self.named_on.insert(machine, names);
        if !found.victims.is_empty() {
            tenants.choose(machine, &found.victims);
            self.own.entry(machine).or_default().extend_from_slice(&found.victims);
        }
        books.columns.take(machine, &shape.resources);
        if let Some(siblings) = &mut self.siblings {
            *siblings.entry(machine).or_default() += 1;
        }
        if let Some(specials) = books.specials.as_mut().filter(|_| Special::is_needed_by(shape)) {
            specials.take_named(cell, &work.job, work.group, machine, (&devices, &[]));
        }
        self.ports.extend(shape.ports.iter().filter(|port| port.number > 0).map(|port| (machine, port.number)));
        Ok(Seat { machine, devices, victims: found.victims.len(), named: more })
    }

    /// Whom to name as victims of the claims in hand, which are a job's, on a machine. Of these the cell takes from those who leave by then first.
    pub(crate) fn leaving(&self, machine: u32, job: &Job) -> impl Iterator<Item = &AllocationId> {
        let band = job.shape.priority / 10;
        self.tenants.iter().flat_map(move |tenants| {
            let (before, behind) = beside(tenants, &self.own, machine, band);
            before.chain(behind)
        })
    }

    /// A tag for a plan, by which [`Evictions::answered`] knows it.
    pub(crate) fn next_tag(&mut self) -> u64 {
        self.tag += 1;
        self.tag
    }

    /// These seats were claimed for these tasks, by the last claims of the plan.
    pub(crate) fn claimed(&mut self, view: &View<'_>, work: &Work, (tasks, seats): (&[u32], &[Seat]), plan: &Plan) {
        if seats.iter().any(|seat| seat.victims > 0) {
            let end = plan.claims();
            self.pauses.ask(view, work, tasks, (plan.tag(), end - seats.len().min(end)..end));
        }
    }

    /// What became of a plan.
    pub(crate) fn answered(&mut self, tag: u64, outcome: &Outcome) {
        self.pauses.answered(tag, outcome);
    }

    /// Undoes [`Evictions::seats`], the last one, but for what is booked.
    pub(crate) fn spare(&mut self, shape: &GroupShape, seats: &[Seat]) {
        let Some(tenants) = &mut self.tenants else { return };
        for seat in seats.iter().rev() {
            tenants.spare(seat.machine, seat.victims);
            self.named -= seat.named.min(self.named);
            shape.ports.iter().for_each(|port| {
                self.ports.remove(&(seat.machine, port.number));
            });
        }
    }

    /// The machine on which it would cost least to make room for a job whose tasks share one.
    pub(crate) fn home(
        &mut self,
        (view, columns): (&View<'_>, &Columns),
        work: &Work,
        eligible: Option<&Eligible>,
        need: &shared_machine::Need,
    ) -> Result<u32, Denied> {
        if self.is_off {
            // Else it would be remembered that there is nobody, also for those for whom somebody may be evicted.
            return Err(Denied::Nobody);
        }
        let has_hold = view.cell().hold(work.job.id).is_some();
        let kind = (need.clone(), work.job.shape.priority / 10);
        if let Some((why, again)) = self.homeless.get(view, &kind).filter(|_| !has_hold) {
            again.into_iter().for_each(|micros| self.put_off(micros));
            return Err(why);
        }
        // Of what is found for it nothing would come, and the next decision would look again.
        if let Some(denied) = self.pause(view, work) {
            return Err(denied);
        }
        let (mut denied, looks_before) = (Denied::Nobody, self.looks);
        for resources in need.rooms() {
            match self.home_with((view, columns), work, eligible, resources) {
                // For less room it is bound to a machine only where none has more.
                Err(why @ (Denied::Enough | Denied::Usable)) => denied = why,
                Err(Denied::Later) if self.are_most(looks_before - self.looks) => denied = Denied::Later,
                found => return found,
            }
            if denied == Denied::Later {
                break;
            }
        }
        if !has_hold {
            self.homeless.put(view, kind, (denied, looks_before - self.looks), None);
        }
        Err(denied)
    }

    /// The one on which it would cost least to make this much room.
    fn home_with(
        &mut self,
        (view, columns): (&View<'_>, &Columns),
        work: &Work,
        eligible: Option<&Eligible>,
        resources: &Resources,
    ) -> Result<u32, Denied> {
        self.read(view, work)?;
        let Some(tenants) = &self.tenants else { return Err(Denied::Nobody) };
        let request =
            Request { eligible, hold: view.cell().hold(work.job.id), ..Request::new(resources, Default::default()) };
        let asked = Asked { cell: view.cell(), columns, specials: None, work, request: &request };
        let wanting = Wanting::new(resources, work.job.shape.priority / 10);
        let machines = (0..columns.rows()).filter(|slot| eligible.is_none_or(|eligible| eligible.contains(*slot)));
        let machines = machines.filter_map(|slot| Some((slot, asked.free(slot)?)));
        self.looks = self.looks.saturating_sub(columns.rows() as usize);
        let mut cheapest = Cheapest::new(tenants, machines, &wanting);
        match cheapest.next(tenants, |slot| asked.free(slot), &wanting, &mut self.looks) {
            Found::Here(found) => Ok(found.rank.machine),
            Found::Nowhere => Err(on_none(view, &request, false)),
            Found::Unsure => {
                self.put_off(rest_of(view.cell()));
                Err(Denied::Later)
            }
        }
    }
}

/// Whom the claims in hand name as victims on a machine, before those of one more of them, and behind these. Those that were chosen for other claims come last: if such a
/// claim is refused, its victim stays as long as the own ones are enough. Each of the own ones is needed even beside the others: where nothing is refused the same ones go.
fn beside<'a>(
    tenants: &'a Tenants,
    own: &'a BTreeMap<u32, Vec<AllocationId>>,
    machine: u32,
    band: u8,
) -> (impl Iterator<Item = &'a AllocationId>, impl Iterator<Item = &'a AllocationId>) {
    let own = own.get(&machine).map(Vec::as_slice).unwrap_or_default();
    let of_others = tenants.chosen(machine, band).filter(move |id| !own.contains(id));
    (tenants.alone(machine).chain(own), of_others)
}

/// On which machines there was not enough.
fn on_none(view: &View<'_>, request: &Request<'_>, limited: bool) -> Denied {
    let (cell, rows) = (view.cell(), view.cell().machine_rows().len());
    if request.eligible.is_some()
        || request.home.is_some()
        || (0..rows).any(|slot| asked::lacks_what_it_gave(cell, slot))
    {
        Denied::Usable
    } else if limited {
        Denied::Limits
    } else {
        Denied::Enough
    }
}

/// The rest after a walk over the allocations of a cell, in microseconds.
fn rest_of(cell: &Cell) -> i64 {
    (i64::from(cell.allocation_rows().len()) + i64::from(cell.job_slots().len())) / ROWS_A_MICRO
}

/// What is left now of so long a time that began then, in microseconds. It may have begun later than now (`View::now`).
fn left_of(micros: i64, began: LogTime, now: LogTime) -> i64 {
    let since = now.micros.saturating_sub(began.micros);
    if (0..micros).contains(&since) { micros - since } else { 0 }
}

#[cfg(test)]
mod pause_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod turn_tests;

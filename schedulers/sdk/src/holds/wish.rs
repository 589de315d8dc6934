//! What a hold is to be: the same as it is, larger, or none.

use plenum_model::{Hold, JobId, Resources};

use super::aim::{Aim, fits};
use super::contenders::Search;
use super::vain::Vain;

/// What a hold is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) job: JobId,
    /// Slots, rising; none: it is given back.
    pub(crate) machines: Vec<u32>,
    /// On each.
    pub(crate) resources: Resources,
    /// By slot, what of that is not held yet.
    pub(crate) more: Vec<(u32, Resources)>,
}

pub(super) fn given_back(job: JobId) -> Wish {
    Wish { job, machines: Vec::new(), resources: Resources::default(), more: Vec::new() }
}

pub(super) fn wish(job: JobId, hold: Option<&Hold>, machines: Vec<u32>, resources: Resources) -> Wish {
    let more_of = |slot: u32| {
        let before = hold.filter(|hold| hold.machines.binary_search(&slot).is_ok());
        let more = before.map_or(resources, |hold| resources.without(&hold.resources));
        (!more.is_nothing()).then_some((slot, more))
    };
    let more = machines.iter().filter_map(|&slot| more_of(slot)).collect();
    Wish { job, machines, resources, more }
}

/// More than is held, on the machines that it is on and on some of `slots`. `None` where these have no more for it.
pub(super) fn larger(
    search: &mut Search<'_>,
    aim: &Aim,
    hold: Option<&Hold>,
    (slots, vain): (&[u32], &Vain),
) -> Option<Wish> {
    let rooms = search.rooms;
    let kept = hold.map_or(&[][..], |hold| hold.machines.as_slice());
    let takes_more_there = hold.is_some_and(|hold| !aim.each.fits_in(&hold.resources));
    if takes_more_there && kept.iter().any(|slot| search.leaves(*slot)) {
        return None;
    }
    let tried = |slot| vain.tried(rooms.cell, slot);
    let machines = aim.choose(rooms, kept, (slots, tried), |slot| search.leaves(slot));
    let number = |machines: &[u32]| u64::try_from(machines.len()).unwrap_or(u64::MAX);
    let before = hold.map_or(0, |hold| {
        // What is drained by now, or lost its room, is no part of it any more.
        let is_of_use = |slot: &u32| aim.suits(rooms.cell, *slot) && rooms.may_hold(*slot, &hold.resources);
        let of_use: Vec<u32> = kept.iter().copied().filter(is_of_use).collect();
        // Where several machines are wanted a part of one counts, too: it may be all that evictions leave to be held.
        let on_each = fits(&aim.each, &hold.resources).max(u64::from(aim.machines > 1));
        number(&of_use).saturating_mul(on_each)
    });
    if number(&machines) > before {
        return Some(wish(rooms.job, hold, machines, aim.each));
    }
    if aim.machines > 1 || before > 0 {
        return None;
    }
    let (machine, part) = aim.part(rooms, kept, (slots, vain), |slot| search.leaves(slot))?;
    let grows = |hold: &Hold| hold.resources.fits_in(&part) && hold.resources != part;
    let is_more = hold.is_none_or(|hold| hold.machines != [machine] || grows(hold));
    is_more.then(|| wish(rooms.job, hold, vec![machine], part))
}

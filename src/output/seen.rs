//! From where a command looks at what it prints: at which cell, from which moment, and what the cell calls the resources that it named itself.
//!
//! A command shows one cell, and does so on one thread: what is said here once counts for all that this thread prints. Rows handed it down
//! one by one would all have a parameter that is the same everywhere.

use std::cell::{Cell, RefCell};

use plenum_proto::v1::ResourceName;

use super::now_micros;

thread_local! {
    static CUSTOM_RESOURCES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    static THEN_MICROS: Cell<Option<i64>> = const { Cell::new(None) };
    static AHEAD_MICROS: Cell<i64> = const { Cell::new(0) };
    static ASKED_AT: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// From now on commands that are told to people ask the cell at this address. For a flag alone: a variable and the user's file hold for
/// the next call as well.
pub(crate) fn name_cell(address: &str) {
    ASKED_AT.replace(Some(address.to_owned()));
}

/// The address that the flag named.
pub(super) fn asked_at() -> Option<String> {
    ASKED_AT.with_borrow(Clone::clone)
}

/// From now on what is printed is of that moment: ages count up to then.
pub(crate) fn look_from(then_micros: i64) {
    THEN_MICROS.set(Some(then_micros));
}

/// From now on the present goes by the cell's clock, which shows this time just now: deadlines are told by that one, and it may be days ahead.
pub(crate) fn go_by_clock(cell_micros: i64) {
    AHEAD_MICROS.set(cell_micros.saturating_sub(now_micros()));
}

/// Now, by the cell's clock as far as that is known.
pub(crate) fn cell_now_micros() -> i64 {
    now_micros().saturating_add(AHEAD_MICROS.get())
}

/// The moment that is looked from: now, unless somebody said otherwise.
pub(super) fn seen_from_micros() -> i64 {
    THEN_MICROS.get().unwrap_or_else(cell_now_micros)
}

/// From now on resources have these names, in the order of the cell.
pub(crate) fn name_resources(names: Vec<String>) {
    CUSTOM_RESOURCES.replace(names);
}

/// How many resources the operator gave names to, as far as that is known.
pub(super) fn names_given() -> usize {
    CUSTOM_RESOURCES.with_borrow(Vec::len)
}

/// The name that the operator gave to the resource at a place of `Resources.custom`, where it is known.
pub(super) fn given_name(place: usize) -> Option<String> {
    CUSTOM_RESOURCES.with_borrow(|names| names.get(place).cloned())
}

/// The same of a resource as the protocol names it; none of those that every cell has.
pub(super) fn given_name_of(resource: ResourceName) -> Option<String> {
    let place = (resource as i32).checked_sub(ResourceName::Custom1 as i32)?;
    given_name(usize::try_from(place).ok()?)
}

//! From where a command looks at what it prints: at which cell, from which moment, and what the cell calls the resources that it named itself.
//!
//! A command shows one cell, and does so on one thread: what is said here once counts for all that this thread prints. Rows handed it down
//! one by one would all have a parameter that is the same everywhere.

use std::{
    cell::{Cell, RefCell},
    time::Duration,
};

use nix::time::{ClockId, clock_gettime};
use plenum_proto::v1::ResourceName;

use super::now_micros;

thread_local! {
    static CUSTOM_RESOURCES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    static THEN_MICROS: Cell<Option<i64>> = const { Cell::new(None) };
    static CELLS_CLOCK: Cell<Option<CellsClock>> = const { Cell::new(None) };
    static ASKED_AT: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// What the cell's clock showed, and this machine's since its boot at the same moment. The usual one may be set meanwhile, also by hours.
#[derive(Clone, Copy, Debug)]
struct CellsClock {
    cell_micros: i64,
    boot_micros: i64,
}

impl CellsClock {
    /// What the cell's shows when this machine's shows this since its boot.
    const fn at(self, boot_micros: i64) -> i64 {
        self.cell_micros.saturating_add(boot_micros.saturating_sub(self.boot_micros))
    }
}

/// From now on commands that are told to people ask the cell at this address, which they would not find by themselves: as a flag named it, or as it is
/// one that this command has started. A variable and the user's file hold for the next call as well.
pub(crate) fn name_cell(address: &str) {
    ASKED_AT.set(Some(address.to_owned()));
}

/// From now on they name none: the one that was started has ended.
pub(crate) fn name_no_cell() {
    ASKED_AT.set(None);
}

/// The address that commands name.
pub(super) fn asked_at() -> Option<String> {
    ASKED_AT.with_borrow(Clone::clone)
}

/// From now on what is printed is of that moment: ages count up to then.
pub(crate) fn look_from(then_micros: i64) {
    THEN_MICROS.set(Some(then_micros));
}

/// From now on the present goes by the cell's clock, which shows this time just now: deadlines are told by that one, and it may be days ahead.
pub(crate) fn go_by_clock(cell_micros: i64) {
    CELLS_CLOCK.set(boot_micros().map(|boot_micros| CellsClock { cell_micros, boot_micros }));
}

/// Now, by the cell's clock as far as that is known.
pub(crate) fn cell_now_micros() -> i64 {
    cell_now(CELLS_CLOCK.get(), boot_micros(), now_micros)
}

fn cell_now(clock: Option<CellsClock>, boot_micros: Option<i64>, now_micros: impl FnOnce() -> i64) -> i64 {
    clock.zip(boot_micros).map_or_else(now_micros, |(clock, boot_micros)| clock.at(boot_micros))
}

/// How long ago this machine was booted, also while it slept. Nobody sets that clock, and every Linux has it.
fn boot_micros() -> Option<i64> {
    let since_boot = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?);
    i64::try_from(since_boot.as_micros()).ok()
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

#[cfg(test)]
mod tests {
    use super::*;

    // The difference of both clocks was kept: on a machine whose clock was put forward by an hour, a watched list of the last ten minutes was empty for as
    // long as it was watched.
    #[test]
    fn the_cells_clock_goes_on_as_it_did_when_this_machines_is_set() {
        let clock = CellsClock { cell_micros: 1_000, boot_micros: 50 };
        for set_to_micros in [0, 3_600_000_000] {
            assert_eq!(cell_now(Some(clock), Some(60), || set_to_micros), 1_010);
            assert_eq!(cell_now(None, Some(60), || set_to_micros), set_to_micros, "there is no other one");
        }
        go_by_clock(7_000_000);
        let shown = cell_now_micros();
        assert!((7_000_000..1_000_000_000).contains(&shown), "{shown}");
    }
}

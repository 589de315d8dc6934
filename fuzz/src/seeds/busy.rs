//! Cells in which there is some of everything, and deltas with which one goes on: what changed deltas are folded into.

use plenum_model::Delta;

use super::world::World;

/// The number of a step of machines, jobs or sessions: `world.rs` does one of 14 kinds, with what `which` says.
const fn step(kind: u32, which: u32) -> u32 {
    kind + 14 * which
}

/// The same of what is held, reserved and limited, of six kinds.
const fn govern(kind: u32, which: u32) -> u32 {
    100_000 + kind + 6 * which
}

/// Jobs, of which one holds room and one is removed; allocations on two machines that were granted, run, leave, take over from one that leaves, or
/// have ended; and all that governs them.
const BUSY: &[u32] = &[
    step(0, 1),
    step(0, 2),
    step(0, 3),
    step(1, 0),
    step(1, 1),
    step(2, 9),
    step(2, 11),
    step(3, 4),
    step(3, 3),
    step(3, 1),
    // Slot 1 runs, slot 2 leaves, and its task is granted anew to one that takes over from it.
    step(6, 1),
    step(6, 2),
    step(3, 4),
    step(7, 5),
    step(8, 0),
    step(2, 13),
    // A group that grew, and has other rows of tasks now.
    step(10, 3),
    govern(1, 2),
    step(2, 15),
    step(2, 19),
    step(11, 1),
    govern(0, 1),
    govern(2, 1),
    govern(3, 50),
    govern(4, 1),
    govern(5, 1),
    // A machine where nothing is.
    step(0, 6),
    step(10, 0),
];

/// Each kind of step again: as it goes on from there.
const NEXT: &[u32] = &[
    step(0, 5),
    step(0, 1),
    step(1, 2),
    step(2, 17),
    step(3, 2),
    step(3, 4),
    step(3, 5),
    step(3, 7),
    step(6, 0),
    step(6, 2),
    step(6, 5),
    step(7, 0),
    step(7, 1),
    // Who leaves, and who takes over.
    step(7, 2),
    step(7, 10),
    step(8, 1),
    step(9, 0),
    step(10, 0),
    step(10, 1),
    step(10, 2),
    step(10, 3),
    step(11, 0),
    step(12, 0),
    step(13, 0),
    govern(0, 2),
    govern(1, 3),
    govern(1, 5),
    govern(2, 2),
    govern(3, 51),
    govern(3, 4),
    govern(4, 2),
    govern(5, 2),
];

/// One in which nothing contradicts anything, of few rows.
const SOUND: &[u32] = &[
    step(0, 1),
    step(0, 2),
    step(1, 0),
    step(2, 9),
    step(3, 4),
    step(6, 1),
    step(6, 2),
    step(7, 3),
    govern(0, 1),
    govern(1, 2),
    govern(2, 1),
    govern(3, 50),
];

pub(super) fn world() -> World {
    World::after(BUSY)
}

/// The same world, one step of each kind later.
pub(super) fn later() -> World {
    World::after(&[BUSY, NEXT].concat())
}

pub(super) fn sound() -> World {
    World::after(SOUND)
}

/// Of each of these steps by itself the delta, if it changes anything.
pub(super) fn next() -> Vec<Delta> {
    let one = |&number: &u32| {
        let mut world = world();
        let nothing = world.delta();
        world.step(number);
        world.deltas.pop().filter(|delta| *delta != nothing)
    };
    NEXT.iter().filter_map(one).collect()
}

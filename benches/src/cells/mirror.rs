//! A scheduler's picture of the cell: packed columns that follow the cell by what changed, and randomised first fit on them.

use std::ops::Range;

use super::stage::{Free, Stage};
use crate::random::Random;

/// A picture of some machines of the cell as it was at one moment, with what its scheduler would like to place there.
pub(crate) struct Mirror {
    free: Vec<Free>,
    /// Changes of the cell that it has seen.
    seen: u64,
    /// Machines whose room here is not the cell's, because something is to be placed there.
    wished: Vec<u32>,
    /// Machines to draw from, pool after pool. The order within one is whatever drawing left: it is drawn at random.
    pools: Vec<Vec<u32>>,
}

impl Mirror {
    /// A picture that has seen nothing yet, of a scheduler that may use these machines.
    pub(crate) fn new(machines: Range<u32>) -> Self {
        Self { free: Vec::new(), seen: 0, wished: Vec::new(), pools: vec![machines.collect()] }
    }

    /// From now on machines of `share` out of `shares` are drawn first, and the others only when none of these has room: schedulers
    /// with different shares keep out of each other's way as long as there is room.
    pub(crate) fn prefer_share(&mut self, share: u32, shares: u32) {
        let all = self.pools.concat();
        let (own, others) = all.into_iter().partition(|machine| machine % shares == share);
        self.pools = vec![own, others];
    }

    /// Becomes the cell as it is now. Costs as much as changed since the last time, or one copy of all.
    pub(crate) fn follow(&mut self, stage: &Stage) {
        let live = stage.free();
        let behind = stage.changed() - self.seen;
        let changes =
            stage.changes_since(self.seen).filter(|_| behind < live.len() as u64 && self.free.len() == live.len());
        if let Some(changes) = changes {
            for machine in changes.chain(self.wished.iter().copied()) {
                self.free[machine as usize] = live[machine as usize];
            }
        } else {
            self.free.clear();
            self.free.extend_from_slice(live);
        }
        self.wished.clear();
        self.seen = stage.changed();
    }

    /// Becomes a picture in which so much is free.
    pub(crate) fn show(&mut self, free: &[Free]) {
        self.free.clear();
        self.free.extend_from_slice(free);
        self.wished.clear();
        self.seen = u64::MAX;
    }

    /// Randomised first fit (Omega's lightweight simulator): draws machines at random. One on which a task fits gets it, and stays
    /// to be drawn again; one on which none fits is not drawn any more. Ends when `count` tasks have machines, or no machine is
    /// left. `allowed` leaves machines out.
    pub(crate) fn place(
        &mut self,
        random: &mut Random,
        need: Free,
        count: usize,
        allowed: impl Fn(u32) -> bool,
        chosen: &mut Vec<u32>,
    ) {
        for pool in &mut self.pools {
            let mut left = pool.len();
            while chosen.len() < count && left > 0 {
                let drawn = random.below(u32::try_from(left).expect("machines have 32-bit numbers")) as usize;
                let machine = pool[drawn];
                let free = &mut self.free[machine as usize];
                if free.fits(need) && allowed(machine) {
                    *free = free.less(need);
                    self.wished.push(machine);
                    chosen.push(machine);
                } else {
                    left -= 1;
                    pool.swap(drawn, left);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use plenum_model::{Attributes, Resources};

    use super::*;

    const NEED: Free = Free { cpu: 10, memory: 10 };

    fn mirror(machines: u32, room: i64) -> Mirror {
        let mut mirror = Mirror::new(0..machines);
        mirror.show(&vec![NEED.times(room); machines as usize]);
        mirror
    }

    fn place(mirror: &mut Mirror, count: usize) -> Vec<u32> {
        let mut chosen = Vec::new();
        mirror.place(&mut Random::new(1), NEED, count, |_| true, &mut chosen);
        chosen
    }

    #[test]
    fn an_attempt_fills_every_machine_before_it_gives_up() {
        let mut chosen = place(&mut mirror(7, 3), 100);
        chosen.sort_unstable();
        let all: Vec<u32> = (0..7).flat_map(|machine| [machine; 3]).collect();
        assert_eq!(chosen, all);
    }

    #[test]
    fn all_machines_are_drawn_alike() {
        let mut drawn = [0u32; 10];
        let mut mirror = mirror(10, 1_000_000);
        place(&mut mirror, 100_000).into_iter().for_each(|machine| drawn[machine as usize] += 1);
        assert!(drawn.iter().all(|&times| (9600..10_400).contains(&times)), "{drawn:?}");
    }

    #[test]
    fn a_share_is_left_only_when_it_is_full() {
        let mut mirror = mirror(10, 2);
        mirror.prefer_share(1, 5);
        let chosen = place(&mut mirror, 6);
        assert!(chosen[..4].iter().all(|machine| machine % 5 == 1), "{chosen:?}");
        assert!(chosen[4..].iter().all(|machine| machine % 5 != 1), "{chosen:?}");
    }

    #[test]
    fn a_mirror_that_follows_forgets_its_wishes_and_sees_what_others_did() {
        let room = Resources::new(40, 40);
        let mut stage = crate::cells::stage::Stage::new(4, room, |_| Attributes::new()).unwrap();
        let mut mirror = Mirror::new(0..4);
        mirror.follow(&stage);
        place(&mut mirror, 5);
        assert_ne!(mirror.free, stage.free());
        crate::cells::stage::tests::grant(&mut stage, 2, Resources::new(30, 5));
        mirror.follow(&stage);
        assert_eq!(mirror.free, stage.free());
        assert_eq!(mirror.free[2], Free { cpu: 10, memory: 35 });
    }
}

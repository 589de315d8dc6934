//! What the machines of a run have beside CPU and memory: disk, named resources, devices of two models. Some have none of it, and one named resource
//! no machine has. Drawn from numbers of its own: a run without is the same as if there were none of that.

use std::sync::Arc;

use crate::random::Random;

/// How often a run has any of it, in thousandths.
const OUTFIT_THOUSANDTHS: u64 = 250;
/// Sets the numbers apart of which that is drawn. With this one, no seed that failed once is another run.
const OUTFIT_SEED: u64 = 1107 << 40;
/// How often each of the three is there then, in thousandths.
const EACH_THOUSANDTHS: u64 = 650;

/// Disk of machines that have all of it.
pub(crate) const DISK_BYTES: u64 = 8 << 30;
/// Fewest seats of machines that have all of them.
pub(crate) const SEATS: u64 = 4;
/// Models of devices. A machine that has all of it has a whole device of each.
pub(crate) const MODELS: [&str; 2] = ["large", "small"];
/// What the cell calls its named resources. Of the second one no machine has any.
const NAMES: [&str; 2] = ["seats", "tapes"];

/// What a machine has beside CPU and memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Equipment {
    pub(crate) disk_bytes: u64,
    pub(crate) seats: u64,
    /// Model and thousandths of each device; `None`: it has those of a run without an outfit.
    pub(crate) devices: Option<Vec<(&'static str, i32)>>,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outfit {
    /// By machine; empty in a run without.
    equipment: Vec<Equipment>,
    pub(crate) has_disks: bool,
    pub(crate) has_seats: bool,
    pub(crate) has_models: bool,
}

/// The numbers of which an outfit is drawn; the first of them also seeds those of what jobs ask of it. `None`: there is none.
pub(crate) fn numbers(seed: u64) -> Option<Random> {
    Random::drawn(seed, OUTFIT_SEED, OUTFIT_THOUSANDTHS)
}

impl Outfit {
    /// For so many machines. Every other one has all of what there is, so that it can be had also when one of these is gone.
    pub(crate) fn draw(random: &mut Random, machines: usize) -> Self {
        let mut has = || random.chance(EACH_THOUSANDTHS);
        let (has_disks, has_seats, mut has_models) = (has(), has(), has());
        has_models |= !has_disks && !has_seats;
        let mut outfit = Self { equipment: Vec::new(), has_disks, has_seats, has_models };
        outfit.equipment = (0..machines).map(|number| outfit.equip(random, number)).collect();
        outfit
    }

    fn equip(&self, random: &mut Random, number: usize) -> Equipment {
        let has_all = number.is_multiple_of(2);
        let (disk_bytes, seats) = match (has_all, random.below(3)) {
            (true, more) => (DISK_BYTES, SEATS + more),
            (false, 0) => (DISK_BYTES / 4, 1),
            (false, _) => (0, 0),
        };
        let (turned, further) = (random.chance(500), random.chance(400));
        let mut models = if has_all { vec![(MODELS[0], 1000), (MODELS[1], 1000)] } else { Vec::new() };
        if turned {
            models.reverse();
        }
        if further {
            models.push((MODELS[1], 500));
        }
        Equipment {
            disk_bytes: if self.has_disks { disk_bytes } else { 0 },
            seats: if self.has_seats { seats } else { 0 },
            devices: self.has_models.then_some(models),
        }
    }

    /// What a machine has.
    pub(crate) fn of(&self, number: usize) -> Equipment {
        self.equipment.get(number).cloned().unwrap_or_default()
    }

    /// What the cell calls its named resources.
    pub(crate) fn names(&self) -> Vec<Arc<str>> {
        if self.has_seats { NAMES.map(Arc::from).into() } else { Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seeds of which some have an outfit.
    const SEEDS: u64 = 200;

    #[test]
    fn what_an_outfit_has_two_of_three_machines_have_and_one_need_not() {
        let drawn = |seed| numbers(seed).map(|mut random| Outfit::draw(&mut random, 3));
        let outfits: Vec<Outfit> = (0..SEEDS).filter_map(drawn).collect();
        assert!(outfits.len() > 20, "{}", outfits.len());
        for outfit in &outfits {
            let has_all = |number: usize| {
                let Equipment { disk_bytes, seats, devices } = outfit.of(number);
                let has = |model: &str| devices.iter().flatten().any(|device| *device == (model, 1000));
                (!outfit.has_disks || disk_bytes == DISK_BYTES)
                    && (!outfit.has_seats || seats >= SEATS)
                    && (!outfit.has_models || MODELS.iter().all(|model| has(model)))
            };
            assert!(has_all(0) && !has_all(1) && has_all(2), "{outfit:?}");
            assert!(outfit.has_disks || outfit.has_seats || outfit.has_models);
        }
        let some = |has: fn(&Outfit) -> bool| outfits.iter().any(has) && !outfits.iter().all(has);
        assert!(some(|outfit| outfit.has_disks) && some(|outfit| outfit.has_seats) && some(|outfit| outfit.has_models));
    }
}

//! Ports of a machine that a task may get.

use std::collections::BTreeSet;

use crate::{InUse, Port};

/// Dynamic ports are chosen from these. Below stands what services ask for by number, above what kernels give to clients.
pub const DYNAMIC_PORTS: std::ops::Range<u16> = 20_000..32_000;

/// Candidates that are looked at one by one, before all ports are noted in a map.
const PORTS_TRIED: u16 = 16;

/// Words of 64 dynamic ports.
const PORT_WORDS: usize = (DYNAMIC_PORTS.end - DYNAMIC_PORTS.start).div_ceil(64) as usize;

/// The ports of one machine that one task may get, chosen one after the other.
#[derive(Debug)]
pub struct PortChoice<'a> {
    used: Option<&'a InUse>,
    spoken: Option<&'a BTreeSet<u16>>,
    /// Those that it has chosen.
    mine: Vec<u16>,
    /// A bit for each dynamic port that is not free. Only made where it is needed: most machines have few of them in use.
    taken: Option<Box<[u64; PORT_WORDS]>>,
}

impl<'a> PortChoice<'a> {
    /// With those that are `used`, and those that are `spoken` for.
    #[must_use]
    pub const fn new(used: Option<&'a InUse>, spoken: Option<&'a BTreeSet<u16>>) -> Self {
        Self { used, spoken, mine: Vec::new(), taken: None }
    }

    /// Whether a port is in use.
    #[must_use]
    pub fn is_used(&self, port: u16) -> bool {
        self.used.is_some_and(|used| used.has_port(port))
    }

    /// How many have a port in use, two at most: who took it over counts beside whom it was taken over from.
    #[must_use]
    pub fn users(&self, port: u16) -> usize {
        self.used.map_or(0, |used| used.users_of(port))
    }

    /// Whether a port is spoken for, or its own.
    #[must_use]
    pub fn is_spoken(&self, port: u16) -> bool {
        self.spoken.is_some_and(|spoken| spoken.contains(&port)) || self.mine.contains(&port)
    }

    /// How many ports are spoken for, with its own.
    #[must_use]
    pub fn spoken_count(&self) -> usize {
        self.spoken.map_or(0, BTreeSet::len) + self.mine.len()
    }

    /// Makes a port its own.
    pub fn take(&mut self, port: u16) {
        self.mine.push(port);
        if let Some(taken) = &mut self.taken {
            note(taken, port);
        }
    }

    /// A dynamic port that is free: the first from `hint` on, around the range. `None` when all are in use.
    ///
    /// Whoever asks moves the hint by far more than one transaction takes, so that a port that was just given back rests before somebody else gets it.
    #[must_use]
    pub fn choose(&mut self, hint: u64) -> Option<u16> {
        let count = DYNAMIC_PORTS.end - DYNAMIC_PORTS.start;
        let start = u16::try_from(hint % u64::from(count)).expect("below the count");
        let near = (0..PORTS_TRIED).map(|step| DYNAMIC_PORTS.start + (start + step) % count);
        for port in near {
            if !self.is_used(port) && !self.is_spoken(port) {
                return Some(port);
            }
        }
        let taken = self.taken.get_or_insert_with(|| {
            let mut taken = Box::new([0; PORT_WORDS]);
            let used = self.used.into_iter().flat_map(|used| &used.ports);
            let spoken = self.spoken.into_iter().flatten();
            used.chain(spoken).chain(&self.mine).for_each(|&port| note(&mut taken, port));
            taken
        });
        free_between(taken, start, count).or_else(|| free_between(taken, 0, start))
    }
}

/// Whether a machine has the dynamic ports that a task wants, beside those with a number that it gets: as many as [`PortChoice`] would find.
///
/// Of ports that are `used`, and `spoken` for: rising, with a 0 for each that the cell is going to choose.
pub(crate) fn has_dynamic_ports(used: Option<&InUse>, spoken: &[u16], wanted: &[Port]) -> bool {
    let dynamic = wanted.iter().filter(|port| port.number == 0).count();
    let used = used.map(|used| used.ports.as_slice()).unwrap_or_default();
    let count = usize::from(DYNAMIC_PORTS.end - DYNAMIC_PORTS.start);
    if dynamic == 0 || used.len() + spoken.len() + wanted.len() <= count {
        return true;
    }
    let unchosen = spoken.partition_point(|&port| port == 0);
    let mut taken = [0; PORT_WORDS];
    used.iter().chain(&spoken[unchosen..]).for_each(|&port| note(&mut taken, port));
    wanted.iter().for_each(|port| note(&mut taken, port.number));
    let taken: u32 = taken.iter().map(|word| word.count_ones()).sum();
    taken as usize + unchosen + dynamic <= count
}

/// Notes a port, where it is a dynamic one.
fn note(taken: &mut [u64; PORT_WORDS], port: u16) {
    if DYNAMIC_PORTS.contains(&port) {
        let place = usize::from(port - DYNAMIC_PORTS.start);
        taken[place / 64] |= 1 << (place % 64);
    }
}

/// The first free port from one place among the dynamic ones to another.
fn free_between(taken: &[u64; PORT_WORDS], from: u16, to: u16) -> Option<u16> {
    let (from, to) = (usize::from(from), usize::from(to));
    for (word, bits) in taken.iter().enumerate().take(to.div_ceil(64)).skip(from / 64) {
        let before = if word == from / 64 { (1_u64 << (from % 64)) - 1 } else { 0 };
        let free = !(bits | before);
        if free != 0 {
            let place = word * 64 + free.trailing_zeros() as usize;
            let port = u16::try_from(place).expect("below their count") + DYNAMIC_PORTS.start;
            return (place < to).then_some(port);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_free_port_from_the_hint_on_is_chosen() {
        let one_by_one = |used: &InUse, spoken: &BTreeSet<u16>, hint: u64| {
            let count = u64::from(DYNAMIC_PORTS.end - DYNAMIC_PORTS.start);
            let ports = (0..count).map(|step| DYNAMIC_PORTS.start + u16::try_from((hint + step) % count).unwrap());
            ports.into_iter().find(|port| !used.has_port(*port) && !spoken.contains(port))
        };
        for free in [None, Some(20_000), Some(20_063), Some(20_064), Some(27_001), Some(31_999)] {
            let mut used = InUse::default();
            used.ports.extend((1..40_000).filter(|port| port % 3 > 0 && Some(*port) != free));
            let spoken: BTreeSet<u16> = (1..40_000).filter(|port| port % 3 == 0 && Some(*port) != free).collect();
            for hint in [0, 1, 62, 63, 64, 6999, 7001, 7002, 11_998, 11_999, 12_000, 1 << 40] {
                let mut choice = PortChoice::new(Some(&used), Some(&spoken));
                assert_eq!(choice.choose(hint), free, "from {hint} on");
                assert_eq!(choice.choose(hint), one_by_one(&used, &spoken, hint));
                if let Some(port) = free {
                    choice.take(port);
                    assert_eq!(choice.choose(hint), None, "it is taken now");
                }
            }
        }
        let mut all = PortChoice::new(None, None);
        let chosen: BTreeSet<u16> = (0..12_000)
            .map_while(|_| {
                let port = all.choose(77)?;
                all.take(port);
                Some(port)
            })
            .collect();
        assert_eq!((chosen.len(), all.choose(77)), (12_000, None));
    }

    // A machine with used up ports was planned for, and refused: the planner looked at ports with a number alone.
    #[test]
    fn as_many_dynamic_ports_are_planned_with_as_can_be_chosen() {
        let port = |number: u16| Port { name: format!("p{number}").into(), number };
        let (mut fits, mut lacks) = (0, 0);
        for (step, free) in [(3_u16, 0), (3, 1), (3, 7), (5, 20), (7, 64)] {
            // Some twice, as while one is handed over; some beyond the range; and of those that are free some at either end.
            let free: BTreeSet<u16> = (0..free).map(|place| 20_000 + place * 187).collect();
            let mut used = InUse::default();
            let numbers = (19_000..33_000).filter(|port| !free.contains(port) && port % step > 0);
            used.ports.extend(numbers.flat_map(|port| std::iter::repeat_n(port, 1 + usize::from(port % 11 == 0))));
            let rest: BTreeSet<u16> =
                (19_000..33_000).filter(|port| port % step == 0 && !free.contains(port)).collect();
            for (unchosen, wanted) in (0..12).flat_map(|unchosen| (0..12).map(move |wanted| (unchosen, wanted))) {
                let spoken: Vec<u16> = std::iter::repeat_n(0, unchosen).chain(rest.iter().copied()).collect();
                let fixed = free.iter().take(wanted % 3).map(|&number| port(number));
                let wanted: Vec<Port> = std::iter::repeat_n(port(0), wanted).chain(fixed).collect();
                let mut choice = PortChoice::new(Some(&used), Some(&rest));
                wanted.iter().filter(|port| port.number > 0).for_each(|port| choice.take(port.number));
                let dynamic = wanted.iter().filter(|port| port.number == 0).count();
                let chosen = (0..unchosen + dynamic).map_while(|_| {
                    let port = choice.choose(4711)?;
                    choice.take(port);
                    Some(port)
                });
                let is_enough = dynamic == 0 || chosen.count() == unchosen + dynamic;
                assert_eq!(
                    has_dynamic_ports(Some(&used), &spoken, &wanted),
                    is_enough,
                    "{unchosen} {dynamic} {free:?}"
                );
                *(if is_enough { &mut fits } else { &mut lacks }) += 1;
            }
        }
        assert!(fits > 100 && lacks > 100, "{fits} {lacks}");
    }
}

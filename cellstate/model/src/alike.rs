//! What machines of one make have alike: their capacity and their devices are kept once for many.

use std::sync::Arc;

use crate::{Device, Machine, Resources};

/// Makes that are remembered. One that was pushed out is merely not shared by those who come later.
const MAKES: usize = 256;

/// Capacities and devices that machines registered with lately, each at the place of its hash.
#[derive(Clone, Debug, Default)]
pub(crate) struct Alike {
    capacities: Vec<Option<Arc<Resources>>>,
    devices: Vec<Option<Arc<Vec<Device>>>>,
}

impl Alike {
    /// The machine, sharing what an earlier one has, too.
    pub(crate) fn share(&mut self, machine: &mut Machine) {
        let capacity = machine.capacity.as_ref();
        let amounts = [capacity.cpu_millis, capacity.memory_bytes, capacity.disk_bytes].into_iter();
        let place = place(amounts.chain(capacity.custom.iter().copied()));
        share(&mut self.capacities, place, &mut machine.capacity);
        let devices = machine.devices.iter();
        let words = devices.flat_map(|device| {
            [u64::from(device.index), device.millis.into(), word(&device.kind), word(&device.model)]
        });
        let place = self::place(words);
        share(&mut self.devices, place, &mut machine.devices);
    }
}

fn share<T: PartialEq + ?Sized>(known: &mut Vec<Option<Arc<T>>>, place: usize, value: &mut Arc<T>) {
    if known.is_empty() {
        known.resize(MAKES, None);
    }
    match &mut known[place] {
        Some(known) if **known == **value => value.clone_from(known),
        other => *other = Some(value.clone()),
    }
}

/// As much of a text as the place of a hash needs.
fn word(text: &str) -> u64 {
    place(text.bytes().map(u64::from)) as u64
}

fn place(words: impl Iterator<Item = u64>) -> usize {
    let hash = words.fold(0xcbf2_9ce4_8422_2325, |hash: u64, word| {
        (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
    });
    usize::try_from(hash >> 56).expect("eight bits")
}

const _: () = assert!(MAKES == 1 << 8, "a place has eight bits");

//! Who arrives when, and which machine is first: by seed, in the way of the published experiment, with random numbers of our own.

use super::{ARRIVED_PERCENT, Conditions, Workload};
use crate::random::Random;
use crate::traces::openb::Pod;

/// The list once, shuffled, without some at random if it is too much; then tasks drawn with replacement, until one would be too much. All
/// machines shuffled.
pub(crate) fn own(workload: &Workload, seed: u64) -> Conditions {
    let mut random = Random::new(seed);
    let mut order = (0..workload.nodes.len()).collect::<Vec<_>>();
    shuffle(&mut random, &mut order);
    let pods = &workload.pods;
    let most = workload.capacity_millis() * ARRIVED_PERCENT as u64 / 100;
    let mut arrivals = (0..pods.len()).collect::<Vec<_>>();
    shuffle(&mut random, &mut arrivals);
    let mut sum = pods.iter().map(Pod::all_gpu_millis).sum::<u64>();
    while sum > most {
        let dropped = arrivals.remove(below(&mut random, arrivals.len()));
        sum -= pods[dropped].all_gpu_millis();
    }
    // A list that asks for no GPU would be drawn from for ever.
    let draws = if sum > 0 { usize::MAX } else { 0 };
    for _ in 0..draws {
        let drawn = below(&mut random, pods.len());
        // Of one GPU, not of all: so the published experiment has it.
        if sum + u64::from(pods[drawn].gpu_millis) > most {
            break;
        }
        sum += pods[drawn].all_gpu_millis();
        arrivals.push(drawn);
    }
    Conditions { arrivals, order, seed, through_core: false }
}

fn below(random: &mut Random, bound: usize) -> usize {
    random.below(u32::try_from(bound).expect("lists are read whole, and shorter")) as usize
}

fn shuffle(random: &mut Random, items: &mut [usize]) {
    for position in (1..items.len()).rev() {
        items.swap(position, below(random, position + 1));
    }
}

//! Cells and lists that nobody published: for tests, for whoever has no data, and to see whether a policy is good only where it was looked at.
//!
//! Machines of five makes, from CPU-poor to CPU-rich. The parts of GPUs that tasks ask for, and how much CPU goes with them, are drawn anew by each seed:
//! some popular sizes, as teams choose them, each with a few usual amounts of CPU.

use super::Workload;
use crate::random::{Random, seed_of};
use crate::traces::openb::{Node, Pod};

/// Cores and GiB a GPU, GPUs, and machines of a hundred.
const MAKES: [(&str, u32, u32, u8, u32); 5] =
    [("m1", 12, 48, 8, 45), ("m2", 48, 256, 2, 30), ("m3", 8, 60, 2, 10), ("m4", 16, 96, 8, 5), ("m5", 8, 32, 4, 10)];

/// A cell of so many machines, and a list that asks for about as many GPUs as it has: one of several of a seed, by its number from 0 on.
pub(crate) fn workload(machines: u32, seed: u64, number: u64) -> Workload {
    let mut random = Random::new(seed_of(seed, number));
    let mut nodes = Vec::new();
    for (model, cores, gibibytes, gpus, percent) in MAKES {
        for _ in 0..(machines * percent).div_ceil(100) {
            let all = u32::from(gpus);
            let (cpu_millis, memory_mib) = (cores * all * 1000, gibibytes * all * 1024);
            let name = format!("node-{}", nodes.len());
            nodes.push(Node { name, cpu_millis, memory_mib, gpus, model: model.to_owned() });
        }
    }
    // Makes are rounded up.
    nodes.truncate(machines as usize);
    let popular = (0..8).map(|_| Popular::drawn(&mut random)).collect::<Vec<_>>();
    let mut workload = Workload { name: name(seed, number), nodes, pods: Vec::new() };
    let (capacity, mut asked) = (workload.capacity_millis(), 0);
    while asked < capacity {
        let popular = &popular[random.below(8) as usize];
        let pod = popular.pod(&mut random, workload.pods.len());
        asked += pod.all_gpu_millis();
        workload.pods.push(pod);
    }
    workload
}

/// The name of a list: the first of a seed is named by the seed alone.
fn name(seed: u64, number: u64) -> String {
    let further = if number > 0 { format!("-{number}") } else { String::new() };
    format!("generated-{seed}{further}")
}

/// A size that many ask for.
struct Popular {
    /// Of a GPU: below 1000 for half of the sizes.
    gpu_millis: u16,
    cpu_millis: [u32; 3],
}

impl Popular {
    fn drawn(random: &mut Random) -> Self {
        let part = 100 + 10 * u16::try_from(random.below(81)).expect("small");
        let gpu_millis = if random.below(2) == 0 { part } else { 1000 };
        Self { gpu_millis, cpu_millis: [(); 3].map(|()| 2000 + 500 * random.below(31)) }
    }

    fn pod(&self, random: &mut Random, number: usize) -> Pod {
        let cpu_millis = self.cpu_millis[random.below(3) as usize];
        let name = format!("pod-{number}");
        let without = random.below(8) == 0;
        let block = self.gpu_millis == 1000 && random.below(40) == 0;
        let gpus = if block { [2, 4, 8][random.below(3) as usize] } else { u8::from(!without) };
        let cpu_millis = cpu_millis * u32::from(gpus.max(1));
        let gpu_millis = if gpus == 0 { 0 } else { self.gpu_millis };
        Pod { name, cpu_millis, memory_mib: cpu_millis * 3, gpus, gpu_millis, models: String::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The second list of seed 1 was the first one of seed 2, by its name, too.
    #[test]
    fn lists_of_neighbouring_seeds_are_others_and_have_other_names() {
        let (second, first) = (workload(20, 1, 1), workload(20, 2, 0));
        assert_eq!((&*second.name, &*first.name), ("generated-1-1", "generated-2"));
        let asked = |workload: &Workload| workload.pods.iter().map(|pod| pod.cpu_millis).collect::<Vec<_>>();
        assert_ne!(asked(&second), asked(&first));
    }
}

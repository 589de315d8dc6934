//! The machine that figures are measured on, and how busy others keep it meanwhile.

use std::fs;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::processes::seconds;

/// What stands beside every figure.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cpu_model: String,
    pub(crate) cores: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) kernel: String,
    /// When the run started: of 1, 5 and 15 minutes.
    pub(crate) load_average: [f64; 3],
}

impl Machine {
    /// This machine, now.
    pub(crate) fn this() -> anyhow::Result<Self> {
        let cpus = read("/proc/cpuinfo")?;
        let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
        let memory = read("/proc/meminfo")?;
        let memory_kib = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")).and_then(first_number);
        let mut load_average = [0.0; 3];
        for (average, word) in load_average.iter_mut().zip(read("/proc/loadavg")?.split_whitespace()) {
            *average = word.parse().context("/proc/loadavg: expected numbers")?;
        }
        Ok(Self {
            cpu_model: model.trim_start_matches([' ', '\t', ':']).to_owned(),
            cores: std::thread::available_parallelism()?.get() as u64,
            memory_bytes: memory_kib.context("/proc/meminfo: expected MemTotal")? * 1024,
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            load_average,
        })
    }
}

/// CPU time of all cores since the machine started, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct CpuSeconds {
    /// Used by processes and interrupts of this system.
    pub(crate) busy: f64,
    /// Given to others by a hypervisor that tells of it (steal), while somebody here wanted to run. 0 where none tells.
    pub(crate) stolen: f64,
}

/// So far.
pub(crate) fn cpu_seconds() -> anyhow::Result<CpuSeconds> {
    cpu_seconds_of(&read("/proc/stat")?)
}

fn cpu_seconds_of(stat: &str) -> anyhow::Result<CpuSeconds> {
    let line =
        stat.lines().next().and_then(|line| line.strip_prefix("cpu ")).context("/proc/stat: expected cpu first")?;
    let ticks = line.split_whitespace().map(str::parse).collect::<Result<Vec<u64>, _>>()?;
    // user, nice, system, idle, iowait, irq, softirq, steal; guests are in user already.
    let busy = ticks.iter().take(7).enumerate().filter(|(column, _)| !matches!(column, 3 | 4)).map(|(_, ticks)| ticks);
    let stolen = ticks.get(7).copied().unwrap_or(0);
    Ok(CpuSeconds { busy: seconds(busy.sum()), stolen: seconds(stolen) })
}

fn read(path: &str) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {path}"))
}

fn first_number(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_can_be_told() {
        let machine = Machine::this().unwrap();
        assert!(machine.cores > 0 && machine.memory_bytes > 1 << 20 && !machine.kernel.is_empty());
        assert!(cpu_seconds().unwrap().busy > 0.0);
    }

    #[test]
    fn what_a_hypervisor_took_is_not_the_work_of_others() {
        let stat = "cpu  100 20 300 9000 700 4 6 5000 40 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(cpu_seconds_of(stat).unwrap(), CpuSeconds { busy: 4.3, stolen: 50.0 });
        let old = "cpu  100 20 300 9000 700 4 6\n";
        assert_eq!(cpu_seconds_of(old).unwrap().stolen, 0.0);
        assert!(cpu_seconds_of("intr 1 2 3\n").is_err());
    }
}

//! The machine that figures are measured on, and how busy others keep it meanwhile.

use std::fs;

use anyhow::Context;
use serde::{Deserialize, Serialize};

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

/// Seconds of CPU time that all processes of the machine have used since it started.
pub(crate) fn busy_seconds() -> anyhow::Result<f64> {
    let stat = read("/proc/stat")?;
    let line =
        stat.lines().next().and_then(|line| line.strip_prefix("cpu ")).context("/proc/stat: expected cpu first")?;
    let ticks = line.split_whitespace().map(str::parse).collect::<Result<Vec<u64>, _>>()?;
    // user, nice, system, idle, iowait, irq, softirq, steal; guests are in user already.
    let busy = ticks.iter().take(8).enumerate().filter(|(column, _)| !matches!(column, 3 | 4)).map(|(_, ticks)| ticks);
    Ok(crate::processes::seconds(busy.sum()))
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
        assert!(busy_seconds().unwrap() > 0.0);
    }
}

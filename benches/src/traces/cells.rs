//! Machines of whole cells: Alibaba's cluster trace of 2018 (github.com/alibaba/clusterdata), and Google's of 2011 as table 1 of Reiss and others,
//! "Heterogeneity and Dynamicity of Clouds at Scale" (SoCC 2012) has it.

use std::path::Path;

use super::table::{Layout, Seen, Table};
use super::work::{MachineClass, memory_of_part, resources, thousandths};

/// A machine, or several that are alike.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CellMachines {
    pub(crate) count: u32,
    /// The platform, or the two domains in which machines fail together.
    pub(crate) kind: String,
    /// Cores, or a part of the largest machine.
    pub(crate) cpu: f64,
    /// A part of the largest machine, or percent of it.
    pub(crate) memory: f64,
}

/// Cores of Google's largest machine, which the trace does not tell: a usual one of 2011, so that requests of whole cores mean something.
pub(crate) const GOOGLE_CORES: f64 = 32.0;

/// Machines of 2018: cores, and memory in percent.
///
/// # Errors
/// A file that is none, with the place.
pub(crate) fn read_alibaba(path: &Path) -> anyhow::Result<Vec<CellMachines>> {
    let columns = ["machine", "failure_domain_1", "failure_domain_2", "cpu_cores", "mem_norm"];
    let mut table = Table::open(path, &Layout::commas(&columns, &[]))?;
    let mut machines = Vec::new();
    let mut seen = Seen::default();
    while let Some(row) = table.next()? {
        row.once("machine", &mut seen)?;
        let kind =
            format!("{}/{}", row.whole("failure_domain_1", 0..=100_000)?, row.whole("failure_domain_2", 0..=100_000)?);
        let (cpu, memory) = (row.number_in("cpu_cores", 1.0..=10_000.0)?, row.number_in("mem_norm", 0.0..=100.0)?);
        machines.push(CellMachines { count: 1, kind, cpu, memory });
    }
    Ok(machines)
}

/// Machines of 2011, one a line or by shape: parts of the largest one.
///
/// # Errors
/// A file that is none, with the place.
pub(crate) fn read_google(path: &Path) -> anyhow::Result<Vec<CellMachines>> {
    let layout = Layout::commas(&["platform", "cpu_norm", "mem_norm"], &["machine", "machines"]);
    let mut table = Table::open(path, &layout)?;
    let mut machines = Vec::new();
    let mut seen = Seen::default();
    while let Some(row) = table.next()? {
        if row.maybe_text("machine").is_some() {
            row.once("machine", &mut seen)?;
        }
        let count = row.maybe_whole("machines", 1..=1_000_000)?.unwrap_or(1);
        machines.push(CellMachines {
            count: u32::try_from(count).expect("at most a million"),
            kind: row.text("platform")?.to_owned(),
            cpu: row.number_in("cpu_norm", 0.0..=1.0)?,
            memory: row.number_in("mem_norm", 0.0..=1.0)?,
        });
    }
    Ok(machines)
}

/// Classes of machines that are alike, those with most machines first. `cores` is what a CPU of 1 has, `whole_memory` what all of the memory is in
/// the file.
pub(crate) fn classes(machines: &[CellMachines], cores: f64, whole_memory: f64) -> Vec<MachineClass> {
    let mut classes: Vec<MachineClass> = Vec::new();
    for machine in machines {
        let memory = memory_of_part(machine.memory / whole_memory);
        let capacity = resources(thousandths(machine.cpu * cores), memory, 0);
        match classes.iter_mut().find(|class| class.capacity == capacity) {
            Some(class) => class.count += machine.count,
            None => classes.push(MachineClass {
                name: String::new(),
                count: machine.count,
                capacity,
                attributes: Vec::new(),
            }),
        }
    }
    classes.sort_by_key(|class| std::cmp::Reverse(class.count));
    for (number, class) in classes.iter_mut().enumerate() {
        class.name = format!("shape-{}", number + 1);
    }
    classes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_that_are_alike_are_one_class() {
        let machine = |cpu: f64, memory: f64| CellMachines { count: 2, kind: "B".into(), cpu, memory };
        let classes = classes(&[machine(1.0, 1.0), machine(0.5, 0.25), machine(0.5, 0.25)], 64.0, 1.0);
        let seen: Vec<_> =
            classes.iter().map(|class| (class.name.as_str(), class.count, class.capacity.cpu_millis)).collect();
        assert_eq!(seen, [("shape-1", 4, 32_000), ("shape-2", 2, 64_000)]);
    }
}

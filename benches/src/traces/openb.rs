//! Machines and pods of the openb lists (Weng and others, ATC 2023): a GPU cell of Alibaba's, and tasks with thousandths of GPUs.
//!
//! `sn, cpu_milli, memory_mib, gpu, model` and `name, cpu_milli, memory_mib, num_gpu, gpu_milli` with `gpu_spec` and what else the lists have. Orders are
//! names, one a line.

use std::collections::HashMap;
use std::path::Path;

use super::table::{Layout, Row, Seen, Table};

/// A machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) cpu_millis: u32,
    pub(crate) memory_mib: u32,
    pub(crate) gpus: u8,
    /// Empty without GPUs.
    pub(crate) model: String,
}

/// A task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) cpu_millis: u32,
    pub(crate) memory_mib: u32,
    /// 0 to 8.
    pub(crate) gpus: u8,
    /// Of each GPU; 0 without GPUs, below 1000 only with one.
    pub(crate) gpu_millis: u16,
    /// Models joined by `|`; empty for any.
    pub(crate) models: String,
}

impl Pod {
    /// Thousandths of all its GPUs.
    pub(crate) fn all_gpu_millis(&self) -> u64 {
        u64::from(self.gpus) * u64::from(self.gpu_millis)
    }
}

const NODE: [&str; 5] = ["sn", "cpu_milli", "memory_mib", "gpu", "model"];
const POD: [&str; 5] = ["name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli"];
const POD_MORE: [&str; 6] = ["gpu_spec", "qos", "pod_phase", "creation_time", "deletion_time", "scheduled_time"];

/// Largest amounts that are believed: of a thousand cores and 64 TiB a machine is most likely in another unit.
const CPU_MILLIS_MAX: u64 = 1_000_000;
const MEMORY_MIB_MAX: u64 = 64 << 20;
const SECONDS_MAX: u64 = 10_000_000_000;

/// Reads machines.
///
/// # Errors
/// A file that is none, with the place.
pub(crate) fn read_nodes(path: &Path) -> anyhow::Result<Vec<Node>> {
    nodes(Table::open(path, &Layout::commas(&NODE, &[]))?)
}

fn nodes(mut table: Table) -> anyhow::Result<Vec<Node>> {
    let (mut nodes, mut seen) = (Vec::new(), Seen::default());
    while let Some(row) = table.next()? {
        row.once("sn", &mut seen)?;
        let (cpu_millis, memory_mib) = amounts(&row, 1)?;
        let gpus = u8::try_from(row.whole("gpu", 0..=8)?)?;
        let model = row.maybe_text("model").unwrap_or_default().to_owned();
        if model.is_empty() != (gpus == 0) {
            return Err(row.wrong("model", "a model where there are GPUs, and none where there are not").into());
        }
        nodes.push(Node { name: row.text("sn")?.to_owned(), cpu_millis, memory_mib, gpus, model });
    }
    Ok(nodes)
}

/// Reads pods.
///
/// # Errors
/// A file that is none, with the place.
pub(crate) fn read_pods(path: &Path) -> anyhow::Result<Vec<Pod>> {
    pods(Table::open(path, &Layout::commas(&POD, &POD_MORE))?)
}

fn pods(mut table: Table) -> anyhow::Result<Vec<Pod>> {
    let (mut pods, mut seen) = (Vec::new(), Seen::default());
    while let Some(row) = table.next()? {
        row.once("name", &mut seen)?;
        let (cpu_millis, memory_mib) = amounts(&row, 0)?;
        for column in ["creation_time", "deletion_time", "scheduled_time"] {
            row.maybe_whole(column, 0..=SECONDS_MAX)?;
        }
        let gpus = u8::try_from(row.whole("num_gpu", 0..=8)?)?;
        let gpu_millis = u16::try_from(row.whole("gpu_milli", 0..=1000)?)?;
        match gpus {
            0 if gpu_millis > 0 => return Err(row.wrong("gpu_milli", "0 where num_gpu is 0").into()),
            1 if gpu_millis == 0 => return Err(row.wrong("gpu_milli", "1 to 1000 where num_gpu is 1").into()),
            2.. if gpu_millis != 1000 => {
                return Err(row.wrong("gpu_milli", "1000 where num_gpu is above 1: only one GPU is shared").into());
            }
            _ => {}
        }
        let models = row.maybe_text("gpu_spec").unwrap_or_default().to_owned();
        let name = row.text("name")?.to_owned();
        pods.push(Pod { name, cpu_millis, memory_mib, gpus, gpu_millis, models });
    }
    Ok(pods)
}

fn amounts(row: &Row<'_>, cpu_least: u64) -> anyhow::Result<(u32, u32)> {
    let cpu_millis = row.whole("cpu_milli", cpu_least..=CPU_MILLIS_MAX)?;
    let memory_mib = row.whole("memory_mib", 0..=MEMORY_MIB_MAX)?;
    Ok((u32::try_from(cpu_millis)?, u32::try_from(memory_mib)?))
}

/// Reads an order: names, one a line, each of them known. Gives their positions.
///
/// # Errors
/// When a name is not known, or, where each may come only once, comes again or is missing.
pub(crate) fn read_order<'a>(
    path: &Path,
    names: impl Iterator<Item = &'a str>,
    each_once: bool,
) -> anyhow::Result<Vec<usize>> {
    order(Table::open(path, &Layout::blanks(&["name"], b'#'))?, names, each_once)
}

fn order<'a>(mut table: Table, names: impl Iterator<Item = &'a str>, each_once: bool) -> anyhow::Result<Vec<usize>> {
    let known: HashMap<&str, usize> = names.enumerate().map(|(position, name)| (name, position)).collect();
    let (mut order, mut seen) = (Vec::new(), Seen::default());
    while let Some(row) = table.next()? {
        if each_once {
            row.once("name", &mut seen)?;
        }
        let position = known.get(row.text("name")?).copied();
        order.push(position.ok_or_else(|| row.wrong("name", "a name of the list that it orders"))?);
    }
    let complete = !each_once || order.len() == known.len();
    anyhow::ensure!(complete, "expected all {} names in the order, found {}", known.len(), order.len());
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &'static str, layout: &Layout) -> anyhow::Result<Table> {
        Table::read(text.as_bytes(), "list.csv", layout)
    }

    fn pod_flaw(lines: &'static str) -> String {
        let read = table(lines, &Layout::commas(&POD, &POD_MORE)).and_then(pods);
        read.unwrap_err().to_string()
    }

    #[test]
    fn pods_with_and_without_gpus_are_read() {
        let text =
            "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\na,4000,1024,1,460,V100M16|T4\nb,8000,0,0,0,\n";
        let read = pods(table(text, &Layout::commas(&POD, &POD_MORE)).unwrap()).unwrap();
        assert_eq!(read.iter().map(Pod::all_gpu_millis).collect::<Vec<_>>(), [460, 0]);
        assert_eq!(read[0].models, "V100M16|T4");
    }

    #[test]
    fn what_is_wrong_with_a_pod_is_told_with_its_place() {
        let parts = pod_flaw("name,cpu_milli,memory_mib,num_gpu,gpu_milli\na,4000,1024,1,460\nb,4000,1024,2,500\n");
        assert!(parts.starts_with("list.csv, line 3, column 5 (gpu_milli): expected 1000 where num_gpu"), "{parts}");
        let none = pod_flaw("name,cpu_milli,memory_mib,num_gpu,gpu_milli\na,4000,1024,0,460\n");
        assert!(none.contains("line 2, column 5 (gpu_milli): expected 0 where num_gpu is 0"), "{none}");
        let zero = pod_flaw("name,cpu_milli,memory_mib,num_gpu,gpu_milli\na,4000,1024,1,0\n");
        assert!(zero.contains("expected 1 to 1000"), "{zero}");
        let twice = pod_flaw("name,cpu_milli,memory_mib,num_gpu,gpu_milli\na,4000,1024,0,0\na,1,1,0,0\n");
        assert!(twice.contains("line 3, column 1 (name)"), "{twice}");
        let missing = pod_flaw("name,cpu_milli,memory_mib,num_gpu\na,4000,1024,0\n");
        assert!(missing.contains("gpu_milli"), "{missing}");
        let unit = pod_flaw("name,cpu_cores,memory_mib,num_gpu,gpu_milli\na,4,1024,0,0\n");
        assert!(unit.contains("cpu_milli") && unit.contains("cpu_cores"), "{unit}");
        let negative = pod_flaw("name,cpu_milli,memory_mib,num_gpu,gpu_milli,creation_time\na,4000,1024,0,0,-5\n");
        assert!(negative.contains("line 2, column 6 (creation_time)"), "{negative}");
    }

    #[test]
    fn a_machine_without_gpus_has_no_model() {
        let text = "sn,cpu_milli,memory_mib,gpu,model\na,4000,1024,0,T4\n";
        let flaw = nodes(table(text, &Layout::commas(&NODE, &[])).unwrap()).unwrap_err().to_string();
        assert!(flaw.contains("line 2, column 5 (model)"), "{flaw}");
    }

    #[test]
    fn an_order_of_machines_has_each_once_and_one_of_arrivals_as_often_as_they_come() {
        let read =
            |text, once| order(table(text, &Layout::blanks(&["name"], b'#')).unwrap(), ["a", "b"].into_iter(), once);
        assert_eq!(read("b\na\nb\n", false).unwrap(), [1, 0, 1]);
        assert!(read("b\na\nb\n", true).unwrap_err().to_string().contains("line 3"));
        assert!(read("b\n", true).unwrap_err().to_string().contains("all 2 names"));
        assert!(read("b\nc\n", false).unwrap_err().to_string().contains("line 2, column 1 (name)"));
    }
}

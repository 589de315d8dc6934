//! Sums over the known files, held against those that came with them: a loader that misreads a column, a unit or a row is seen here.
//!
//! Files are looked for below `--data DIR`, in the folders that the data came in. One that is not there is told, and is no error.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use super::{batch, cells, mapreduce, ml, services, swf};
use crate::figure::number;

#[cfg(test)]
#[path = "../../../tests/skips.rs"]
mod skips;

/// What was found in a file, by the name of the sum.
pub(crate) type Sums = Vec<(&'static str, f64)>;

/// A file with known sums.
pub(crate) struct Known {
    /// Below the data folder.
    pub(crate) file: &'static str,
    /// In the order in which `sums` gives them.
    pub(crate) expected: &'static [f64],
    pub(crate) sums: fn(&Path) -> anyhow::Result<Sums>,
}

/// All of them. The sums are those of the data's own README.
pub(crate) const KNOWN: [Known; 14] = [
    Known {
        file: "hpc/NASA-iPSC-1993-3.1-cln.swf.gz",
        expected: &[18_239.0, 309_953.0, 13_950_781.0, 474_238_015.0, 0.0, 0.0, 69.0],
        sums: log,
    },
    Known {
        file: "hpc/RICC-2010-2.days0-13.swf.gz",
        expected: &[13_607.0, 407_457.0, 687_917_481.0, 7_829_187_942.0, 410_603.0, 2_552_496_300.0, 70.0],
        sums: log,
    },
    Known {
        file: "hpc/HPC2N-2002-first3170.swf.gz",
        expected: &[3170.0, 63_965.0, 31_853_357.0, 503_655_194.0, 62_836.0, 79_732_020.0, 17.0],
        sums: log,
    },
    Known {
        file: "mapreduce/FB-2009_samples_24_times_1hr_0.tsv",
        expected: &[5894.0, 86_404.0, 26_886_497_357_605.0, 22_216_712_306_762.0, 6_852_686_303_142.0],
        sums: map_reduce,
    },
    Known {
        file: "mapreduce/FB-2010_samples_24_times_1hr_0.tsv",
        expected: &[24_442.0, 86_408.0, 1_082_621_755_403_831.0, 437_891_230_970_678.0, 339_413_094_842_194.0],
        sums: map_reduce,
    },
    Known {
        file: "batch/alibaba2017_tasks_a.csv",
        expected: &[12_538.0, 615_026.0, 8_503.85, 87.139_659, 661_514.141],
        sums: batch_tasks,
    },
    Known { file: "ml/philly_vc103959.csv", expected: &[876.0, 1899.0, 49_556_598.0, 1.0], sums: philly },
    Known {
        file: "ml/philly_chronus_slo.csv",
        expected: &[30_735.0, 42_785.0, 7_997_664.0 * 60.0, 11.0],
        sums: chronus,
    },
    Known { file: "ml/philly_runtimes.csv.gz", expected: &[83_154.0, 1_215_156_667.0], sums: runtimes },
    // What the file itself says: it came without sums.
    Known {
        file: "ml/acme_cluster_summary.csv",
        expected: &[5.0, 3_414_225.0, 32_118.869, 1806.667, 38.777],
        sums: compared,
    },
    Known {
        file: "services/alibaba2025_dlrm_even_apps.csv",
        expected: &[13_624.0, 78.0, 9164.0, 4460.0, 665_306.0, 4460.0, 3_360_085.0, 4_764_400.0, 189_092.0],
        sums: instances,
    },
    Known { file: "cells/alibaba2018_machines.csv", expected: &[4034.0, 387_264.0, 403_400.0], sums: alibaba_cell },
    Known {
        file: "cells/google2011_cell.csv",
        expected: &[12_583.0, 126.0, 11_659.0, 798.0, 6659.0, 5921.8],
        sums: google_cell,
    },
    Known {
        file: "cells/google2011_machine_shapes.csv",
        expected: &[12_583.0, 126.0, 11_659.0, 798.0, 6659.0, 5921.8],
        sums: google_cell,
    },
];

/// What came of checking a folder.
pub(crate) struct Checked {
    /// A table for people.
    pub(crate) text: String,
    /// Files that were there.
    pub(crate) found: usize,
    /// Files that could not be read, or have other sums.
    pub(crate) wrong: usize,
}

impl Checked {
    /// What came of it, in a line.
    pub(crate) fn verdict(&self) -> String {
        match (self.found, self.wrong) {
            (0, _) => "none of the known files is there".to_owned(),
            (found, 0) => format!("{found} files are there, all as they should be"),
            (found, wrong) => format!("{found} files are there, {wrong} of them not as they should be"),
        }
    }
}

/// Reads every known file that is there, and compares its sums.
pub(crate) fn check(data: &Path) -> Checked {
    let mut checked = Checked { text: String::new(), found: 0, wrong: 0 };
    for known in &KNOWN {
        let path = data.join(known.file);
        if !path.exists() {
            let _ = writeln!(checked.text, "{:<46} not there", known.file);
            continue;
        }
        checked.found += 1;
        let verdict = (known.sums)(&path).map(|sums| compare(&sums, known.expected));
        let (good, words) = match verdict {
            Ok(Ok(words)) => (true, format!("as it should be: {words}")),
            Ok(Err(words)) => (false, format!("WRONG: {words}")),
            Err(error) => (false, format!("WRONG: {error:#}")),
        };
        checked.wrong += usize::from(!good);
        let _ = writeln!(checked.text, "{:<46} {words}", known.file);
    }
    checked
}

/// The sums in words, as `Err` where one of them is another one. Sums of parts may differ in the last of their six digits behind the point.
fn compare(sums: &Sums, expected: &[f64]) -> Result<String, String> {
    let same = |found: f64, expected: f64| (found - expected).abs() <= 1e-6 * expected.abs().clamp(1.0, 1e5);
    let all =
        sums.len() == expected.len() && sums.iter().zip(expected).all(|((_, found), expected)| same(*found, *expected));
    let rounded = |value: f64| (value * 1e6).round() / 1e6;
    let words = sums.iter().zip(expected).map(|((name, found), expected)| {
        let ending = if same(*found, *expected) { String::new() } else { format!(", expected {expected}") };
        format!("{name} {}{ending}", rounded(*found))
    });
    let words = words.collect::<Vec<_>>().join("; ");
    if all { Ok(words) } else { Err(words) }
}

fn total(values: impl Iterator<Item = u64>) -> f64 {
    number(values.sum())
}

fn count<T>(rows: &[T]) -> f64 {
    number(rows.len() as u64)
}

fn distinct<T: Ord>(values: impl Iterator<Item = T>) -> f64 {
    count(&values.collect::<BTreeSet<T>>().into_iter().collect::<Vec<T>>())
}

fn log(path: &Path) -> anyhow::Result<Sums> {
    let jobs = swf::read(path)?.jobs;
    let sum = |of: fn(&swf::SwfJob) -> Option<u64>| total(jobs.iter().filter_map(of));
    Ok(vec![
        ("jobs", count(&jobs)),
        ("processors", sum(|job| job.processors)),
        ("run s", sum(|job| job.run_s)),
        ("processors x run s", sum(|job| Some(job.processors? * job.run_s?))),
        ("requested processors", sum(|job| job.requested_processors)),
        ("requested s", sum(|job| job.requested_s)),
        ("users", distinct(jobs.iter().filter_map(|job| job.user))),
    ])
}

fn map_reduce(path: &Path) -> anyhow::Result<Sums> {
    let jobs = mapreduce::read(path)?;
    Ok(vec![
        ("jobs", count(&jobs)),
        ("last submit s", jobs.last().map_or(0.0, |job| number(job.submit_s))),
        ("map bytes", total(jobs.iter().map(|job| job.map_bytes))),
        ("shuffle bytes", total(jobs.iter().map(|job| job.shuffle_bytes))),
        ("reduce bytes", total(jobs.iter().map(|job| job.reduce_bytes))),
    ])
}

fn batch_tasks(path: &Path) -> anyhow::Result<Sums> {
    let tasks = batch::read(path)?;
    Ok(vec![
        ("tasks", count(&tasks)),
        ("instances", total(tasks.iter().map(|task| task.instances.into()))),
        ("cpu", tasks.iter().map(|task| task.cpu_cores).sum()),
        ("memory", tasks.iter().map(|task| task.memory_part).sum()),
        ("duration s", tasks.iter().map(|task| task.duration_s).sum()),
    ])
}

fn philly(path: &Path) -> anyhow::Result<Sums> {
    Ok(ml_sums(&ml::read_philly(path)?))
}

fn chronus(path: &Path) -> anyhow::Result<Sums> {
    Ok(ml_sums(&ml::read_chronus(path)?))
}

fn ml_sums(jobs: &[ml::MlJob]) -> Sums {
    vec![
        ("jobs", count(jobs)),
        ("gpus", total(jobs.iter().map(|job| job.gpus))),
        ("duration s", total(jobs.iter().map(|job| job.duration_s))),
        ("tenants", distinct(jobs.iter().map(|job| &job.tenant))),
    ]
}

fn runtimes(path: &Path) -> anyhow::Result<Sums> {
    let runtimes = ml::read_runtimes(path)?;
    Ok(vec![("jobs", count(&runtimes)), ("run s", runtimes.iter().sum())])
}

fn compared(path: &Path) -> anyhow::Result<Sums> {
    let cells = ml::read_summary(path)?;
    let sum = |of: fn(&ml::CellSummary) -> Option<f64>| cells.iter().filter_map(of).sum::<f64>();
    Ok(vec![
        ("cells", distinct(cells.iter().map(|cell| &cell.name))),
        ("jobs with GPUs", total(cells.iter().map(|cell| cell.gpu_jobs))),
        ("mean run s", sum(|cell| cell.mean_run_s)),
        ("median run s", sum(|cell| cell.median_run_s)),
        ("mean GPUs", sum(|cell| cell.mean_gpus)),
    ])
}

fn instances(path: &Path) -> anyhow::Result<Sums> {
    let instances = services::read(path)?;
    let sum = |of: fn(&services::Instance) -> u64| total(instances.iter().map(of));
    let of_role = |role: &str| number(instances.iter().filter(|instance| instance.role == role).count() as u64);
    Ok(vec![
        ("instances", count(&instances)),
        ("apps", distinct(instances.iter().map(|instance| &instance.app))),
        ("CN", of_role("CN")),
        ("HN", of_role("HN")),
        ("cpu", sum(|instance| instance.cpu_cores)),
        ("gpus", sum(|instance| instance.gpus)),
        ("memory GiB", sum(|instance| instance.memory_gib)),
        ("disk GiB", sum(|instance| instance.disk_gib)),
        ("rdma percent", sum(|instance| instance.rdma_percent)),
    ])
}

fn alibaba_cell(path: &Path) -> anyhow::Result<Sums> {
    let machines = cells::read_alibaba(path)?;
    Ok(vec![
        ("machines", total(machines.iter().map(|machine| machine.count.into()))),
        ("cores", machines.iter().map(|machine| machine.cpu).sum()),
        ("memory", machines.iter().map(|machine| machine.memory).sum()),
    ])
}

fn google_cell(path: &Path) -> anyhow::Result<Sums> {
    let machines = cells::read_google(path)?;
    let of =
        |kind: &str| total(machines.iter().filter(|machine| machine.kind == kind).map(|machine| machine.count.into()));
    Ok(vec![
        ("machines", total(machines.iter().map(|machine| machine.count.into()))),
        ("A", of("A")),
        ("B", of("B")),
        ("C", of("C")),
        ("cpu", machines.iter().map(|machine| number(machine.count.into()) * machine.cpu).sum()),
        ("memory", machines.iter().map(|machine| number(machine.count.into()) * machine.memory).sum()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_other_sums_is_wrong_and_one_that_is_not_there_is_told() {
        let data = tempfile::tempdir().unwrap();
        std::fs::create_dir(data.path().join("ml")).unwrap();
        std::fs::write(data.path().join("ml/philly_vc103959.csv"), "job_id,submit_s,gpus,duration_s\n0,0,1,976570\n")
            .unwrap();
        let checked = check(data.path());
        assert_eq!((checked.found, checked.wrong), (1, 1));
        assert_eq!(checked.verdict(), "1 files are there, 1 of them not as they should be");
        assert_eq!(Checked { wrong: 0, ..checked }.verdict(), "1 files are there, all as they should be");
        let checked = check(data.path());
        assert!(checked.text.contains("WRONG: jobs 1, expected 876; gpus 1, expected 1899"), "{}", checked.text);
        assert!(checked.text.contains("NASA-iPSC-1993-3.1-cln.swf.gz              not there"), "{}", checked.text);
    }

    /// The real files are no part of the project. Where somebody has them, `PLENUM_TRACES` names their folder.
    #[test]
    fn real_files_have_the_sums_that_came_with_them() {
        let Some(data) = std::env::var_os("PLENUM_TRACES") else {
            skips::skipped("needs the real traces, whose folder PLENUM_TRACES names: see docs/traces.md");
            return;
        };
        let checked = check(Path::new(&data));
        assert!(checked.found > 0 && checked.wrong == 0, "{}", checked.text);
    }
}

//! Published results, where they lie beside the lists: `replay_reference.csv` for given orders, `expected/summary.csv` for orders of one's own.

use std::collections::BTreeMap;
use std::path::Path;

use super::Orders;
use crate::traces::table::{Layout, Table};

/// What the policies are called there.
const NAMES: [(&str, &str); 6] = [
    ("Random", "random"),
    ("DotProd", "dot-product"),
    ("GpuClustering", "gpu-clustering"),
    ("GpuPacking", "gpu-packing"),
    ("BestFit", "best-fit"),
    ("FGD", "fgd"),
];

/// How far a run may lie from the same run elsewhere, in points.
const SAME_RUN: f64 = 0.1;

/// How far a mean may lie from the published mean, in points, other orders being drawn.
const MEANS: f64 = 0.3;

/// Allocated percent at 100 and 130 by list, policy and seed; of means there is no seed.
#[derive(Debug, Default)]
pub(super) struct Reference {
    rows: BTreeMap<(String, String, Option<u64>), Row>,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    at: [f64; 2],
    /// The standard error of the second; 0 of a single run.
    error: f64,
}

/// What should have come out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Expected {
    /// At 100 and 130.
    pub(super) at: [f64; 2],
    /// How far off is allowed.
    pub(super) off_max: f64,
    /// How uncertain the published mean at 130 is itself: one standard error.
    pub(super) error: f64,
}

const RUNS: [&str; 13] = [
    "workload",
    "policy",
    "seed",
    "arrivals",
    "typical_pods",
    "placed",
    "failed",
    "arrived_gpu_milli",
    "used_gpu_milli",
    "alloc_pct_at_100",
    "alloc_pct_at_130",
    "final_frag_gpus",
    "placements_sha256",
];

const SUMMARY: [&str; 11] = [
    "workload",
    "policy",
    "seeds",
    "alloc_at_80",
    "alloc_at_100",
    "alloc_at_130",
    "sd_at_130",
    "min_at_130",
    "max_at_130",
    "unallocated_at_130",
    "frag_of_total_at_100",
];

impl Reference {
    /// Of the folder in which the list lies; nothing when it is not there, nor for orders of which one is given and the other drawn.
    ///
    /// # Errors
    /// When what is there is not what it should be.
    pub(super) fn beside(list: Option<&Path>, orders: Orders) -> anyhow::Result<Self> {
        let Some(folder) = list.and_then(Path::parent) else { return Ok(Self::default()) };
        let given_orders = orders == Orders::Given;
        let path = match orders {
            Orders::Given => folder.join("replay_reference.csv"),
            Orders::Own => folder.join("expected/summary.csv"),
            Orders::ArrivalsGiven | Orders::MachinesGiven => return Ok(Self::default()),
        };
        if !path.exists() {
            return Ok(Self::default());
        }
        let (layout, columns) = if given_orders {
            (Layout::commas(&RUNS, &[]), ["alloc_pct_at_100", "alloc_pct_at_130"])
        } else {
            (Layout::commas(&SUMMARY, &["frag_of_total_at_130"]), ["alloc_at_100", "alloc_at_130"])
        };
        let mut rows = BTreeMap::new();
        let mut table = Table::open(&path, &layout)?;
        while let Some(row) = table.next()? {
            let name = row.text("policy")?;
            let known = NAMES.iter().find(|(published, _)| *published == name);
            let policy = known.ok_or_else(|| row.wrong("policy", "a policy of the published experiment"))?.1.to_owned();
            let seed = if given_orders { Some(row.whole("seed", 0..=u64::MAX)?) } else { None };
            let [at_100, at_130] = columns.map(|column| row.number_in(column, 0.0..=100.0));
            let error = if given_orders {
                0.0
            } else {
                row.number_in("sd_at_130", 0.0..=100.0)? / row.number_in("seeds", 1.0..=1e6)?.sqrt()
            };
            rows.insert((row.text("workload")?.to_owned(), policy, seed), Row { at: [at_100?, at_130?], error });
        }
        Ok(Self { rows })
    }

    /// What should have come out. For given orders, the mean over the seeds that were run.
    ///
    /// Random is one sample there, never to be met: its means are compared, by twice as much.
    pub(super) fn of(&self, list: &str, policy: &str, seeds: &[u64]) -> Option<Expected> {
        let row = |seed| self.rows.get(&(list.to_owned(), policy.to_owned(), seed)).copied();
        if let Some(means) = row(None) {
            return Some(Expected { at: means.at, off_max: MEANS, error: means.error });
        }
        let rows = seeds.iter().map(|seed| row(Some(*seed))).collect::<Option<Vec<_>>>()?;
        let mean = |at: usize| super::mean(&rows.iter().map(|row| row.at[at]).collect::<Vec<_>>());
        let off_max = if policy == "random" { 2.0 * MEANS } else { SAME_RUN };
        Some(Expected { at: [mean(0)?, mean(1)?], off_max, error: 0.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_found_beside_the_list_and_nothing_is_when_nothing_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join("list.csv");
        assert!(Reference::beside(Some(&list), Orders::Own).unwrap().of("a", "fgd", &[42]).is_none());
        std::fs::create_dir(folder.path().join("expected")).unwrap();
        let text = format!("{}\na,FGD,10,80.0,94.0,95.5,0.1,95,96,4.5,1\n", SUMMARY.join(","));
        std::fs::write(folder.path().join("expected/summary.csv"), text).unwrap();
        let reference = Reference::beside(Some(&list), Orders::Own).unwrap();
        let expected = reference.of("a", "fgd", &[42]).unwrap();
        assert_eq!((expected.at, expected.off_max), ([94.0, 95.5], MEANS));
        // A deviation of 0.1 over ten seeds.
        assert!((expected.error - 0.031_62).abs() < 1e-4, "{}", expected.error);
        assert_eq!(reference.of("a", "worth", &[42]), None);
        // Means over drawn orders say nothing about one that is given.
        let half_given = Reference::beside(Some(&list), Orders::ArrivalsGiven).unwrap();
        assert_eq!(half_given.of("a", "fgd", &[42]), None);
    }
}

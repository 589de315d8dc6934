//! The experiment `inflation`: how much of a cell's GPUs each policy allocates when more is asked for than there is.

mod pages;
mod reference;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::ensure;
use clap::Args;
use serde_json::json;

use super::{Flags, NAME, made_of, named, seeds};
use crate::figure::{Better, Case, Figure, Parameters, SEEDS, by_name};
use crate::inflation::{
    ARRIVED_PERCENT, Conditions, Inflated, POLICIES, Workload, check_policy, generated, inflate, names, orders,
};
use crate::kept::Kept;
use crate::progress::say;
use crate::traces::openb;
use crate::{Run, interrupt};
use reference::Reference;

/// What only this experiment wants to know.
#[derive(Clone, Debug, Args)]
pub(super) struct InflationFlags {
    /// inflation: the machines (docs/gpu-placement.md) [default: the known ones below --data, or generated ones]
    #[arg(long, value_name = "FILE", requires = "pods")]
    nodes: Option<PathBuf>,
    /// inflation: lists of tasks to draw from, joined by ","
    #[arg(long, value_name = "FILES", value_delimiter = ',', requires = "nodes")]
    pods: Vec<PathBuf>,
    /// inflation: names of tasks as they arrive, one a line, for one list and one seed, that of --seeds or 42 [default: drawn by seed]
    #[arg(long, value_name = "FILE", requires = "pods")]
    arrivals: Option<PathBuf>,
    /// inflation: names of machines, one a line, for one seed, that of --seeds or 42: the first wins a tie [default: drawn by seed]
    #[arg(long, value_name = "FILE", requires = "pods")]
    node_order: Option<PathBuf>,
    /// inflation: a folder in which arrivals/LIST.seedN.txt and node_order/LIST.seedN.txt give the orders of seed N of each list
    #[arg(long, value_name = "DIR", requires = "pods", conflicts_with_all = ["arrivals", "node_order"])]
    orders: Option<PathBuf>,
    /// inflation: each placement is a transaction that the production core decides
    #[arg(long)]
    through_core: bool,
}

/// Seeds of the published runs.
const SEEDS_LONG: &str = "42..51";
const SEEDS_QUICK: &str = "42..44";
/// The first of them: of an order that is given.
const SEED_OF_ONE_ORDER: &str = "42";

/// Machines of a generated cell.
const GENERATED_MACHINES: u32 = 300;

/// Who drew the orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Orders {
    /// Both are given.
    Given,
    ArrivalsGiven,
    MachinesGiven,
    /// Both are drawn by seed.
    Own,
}

impl Orders {
    fn words(self) -> &'static str {
        match self {
            Self::Given => "given",
            Self::ArrivalsGiven => "arrivals given",
            Self::MachinesGiven => "node order given",
            Self::Own => "own",
        }
    }
}

/// All runs of one policy on one list.
struct Runs {
    list: String,
    policy: String,
    orders: Orders,
    limit_percent: f64,
    by_seed: Vec<(u64, Inflated)>,
}

impl Runs {
    fn at(&self, percent: usize) -> Vec<f64> {
        self.by_seed.iter().filter_map(|(_, run)| run.allocated_at(percent)).collect()
    }

    fn case(&self) -> String {
        case(&self.policy, &self.list, self.orders)
    }
}

/// Orders that are given make another case than those that are drawn.
fn case(policy: &str, list: &str, orders: Orders) -> String {
    let mark = if orders == Orders::Own { String::new() } else { format!(" orders={}", orders.words()) };
    format!("policy={policy} pods={list}{mark}")
}

/// What is asked for, and all that is read for it but orders that are given: what is wrong with it is told before anything runs, which takes long.
pub(super) struct Prepared {
    policies: Vec<String>,
    seeds: Vec<u64>,
    orders: Orders,
    reference: Reference,
    /// With the digests of the files that each is made of.
    workloads: Vec<(Workload, Parameters)>,
}

/// Reads what the experiment runs on, and what it is compared with.
///
/// # Errors
/// When something is asked for that there is not, or a file is not what it should be.
pub(super) fn prepare(options: &Run) -> anyhow::Result<Prepared> {
    let flags = &options.trace;
    let own = &flags.inflation;
    let policies = named(&flags.policy, &POLICIES);
    policies.iter().try_for_each(|policy| check_policy(policy))?;
    let seeds = seeds(flags.seeds.as_deref().unwrap_or_else(|| own.usual_seeds(options.quick)))?;
    own.check_seeds(&seeds)?;
    let orders = own.given_orders();
    let reference = Reference::beside(own.pods.first().map(PathBuf::as_path), orders)?;
    let workloads = workloads(own, options)?;
    Ok(Prepared { policies, seeds, orders, reference, workloads })
}

impl Prepared {
    /// Runs the experiment.
    pub(super) fn run(self, options: &Run, kept: &mut Kept<'_>) -> anyhow::Result<()> {
        let flags = &options.trace;
        let Self { policies, seeds, orders, reference, workloads } = self;
        let folder = options.folder();
        let mut all = Vec::new();
        for (workload, made_of) in workloads {
            if !policies.iter().any(|policy| options.has_case(&case(policy, &workload.name, orders))) {
                continue;
            }
            let conditions = conditions(&workload, flags, &seeds)?;
            for policy in &policies {
                if interrupt::asked() || !options.has_case(&case(policy, &workload.name, orders)) {
                    continue;
                }
                let mut runs = Runs {
                    list: workload.name.clone(),
                    policy: policy.clone(),
                    orders,
                    limit_percent: workload.mix_limit_percent(),
                    by_seed: Vec::new(),
                };
                for conditions in conditions.iter().take_while(|_| !interrupt::asked()) {
                    runs.by_seed.push((conditions.seed, inflate(&workload, policy, conditions)?));
                }
                ensure!(
                    interrupt::asked() || runs.at(ARRIVED_PERCENT).len() == conditions.len(),
                    "{}: expected tasks that ask for {ARRIVED_PERCENT}% of the GPUs",
                    runs.case()
                );
                if let Some(end) = mean(&runs.at(ARRIVED_PERCENT)) {
                    say(&format!(
                        "{}: {end:.2}% of the GPUs allocated, mean of {} seeds",
                        runs.case(),
                        runs.by_seed.len()
                    ));
                    kept.add(figures(&runs, &made_of, &flags.inflation)?);
                    all.push(runs);
                }
            }
        }
        // Nothing of a run before is overwritten by one that measures nothing.
        if all.is_empty() { Ok(()) } else { pages::write(&all, &reference, &folder) }
    }
}

impl InflationFlags {
    /// Whether files are named.
    pub(super) fn says_anything(&self) -> bool {
        self.nodes.is_some() || !self.pods.is_empty()
    }

    /// Machines and lists of tasks.
    pub(super) fn take_lists(&mut self, nodes: PathBuf, pods: Vec<PathBuf>) {
        (self.nodes, self.pods) = (Some(nodes), pods);
    }

    /// Whose orders.
    fn given_orders(&self) -> Orders {
        match (self.orders.is_some() || self.arrivals.is_some(), self.orders.is_some() || self.node_order.is_some()) {
            (true, true) => Orders::Given,
            (true, false) => Orders::ArrivalsGiven,
            (false, true) => Orders::MachinesGiven,
            (false, false) => Orders::Own,
        }
    }

    /// A list's name is all that its cases are told apart by.
    fn check_names(&self) -> anyhow::Result<()> {
        let mut seen = BTreeSet::new();
        for path in &self.pods {
            let name = list_name(path);
            ensure!(
                seen.insert(name.clone()),
                "--pods: expected lists of different names, found two that are {name:?}"
            );
        }
        Ok(())
    }

    /// Whether a file gives an order.
    fn gives_one_order(&self) -> bool {
        self.arrivals.is_some() || self.node_order.is_some()
    }

    /// The seeds where none are said.
    fn usual_seeds(&self, quick: bool) -> &'static str {
        match quick {
            _ if self.gives_one_order() => SEED_OF_ONE_ORDER,
            true => SEEDS_QUICK,
            false => SEEDS_LONG,
        }
    }

    /// A file gives the order of one run: with several seeds it would be run as often, and pass for so many orders.
    fn check_seeds(&self, seeds: &[u64]) -> anyhow::Result<()> {
        ensure!(
            !self.gives_one_order() || seeds.len() == 1,
            "--arrivals and --node-order give one order: expected --seeds with one number, found {} seeds",
            seeds.len()
        );
        Ok(())
    }
}

/// The lists that were asked for, or generated ones, and which files each is made of.
fn workloads(own: &InflationFlags, options: &Run) -> anyhow::Result<Vec<(Workload, Parameters)>> {
    let Some(nodes) = &own.nodes else {
        say(
            "no --nodes and --pods: running on generated lists; docs/gpu-placement.md says where to get published ones",
        );
        let count = if options.quick { 1 } else { 10 };
        let generated = |list| (generated::workload(GENERATED_MACHINES, options.seed, list), Parameters::new());
        return Ok((0..count).map(generated).collect());
    };
    ensure!(
        own.pods.len() == 1 || own.arrivals.is_none(),
        "--arrivals: expected one list of --pods, found {}",
        own.pods.len()
    );
    own.check_names()?;
    let machines = nodes.as_path();
    let nodes = openb::read_nodes(machines)?;
    ensure!(nodes.iter().any(|node| node.gpus > 0), "--nodes: expected machines with GPUs, found none");
    let workload = |path: &PathBuf| {
        let pods = openb::read_pods(path)?;
        ensure!(!pods.is_empty(), "{}: expected tasks, found none", path.display());
        let tasks = [Some(path.as_path()), own.arrivals.as_deref()];
        let made_of = made_of::digests(tasks, [Some(machines), own.node_order.as_deref()])?;
        Ok((Workload { name: list_name(path), nodes: nodes.clone(), pods }, made_of))
    };
    own.pods.iter().map(workload).collect()
}

/// `default` of `openb_pod_list_default.csv`; of another file its name without what stands behind the last dot.
fn list_name(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    stem.strip_prefix("openb_pod_list_").unwrap_or(&stem).to_owned()
}

/// Who arrives when, for each seed; of a folder of orders those seeds that it has.
fn conditions(workload: &Workload, flags: &Flags, seeds: &[u64]) -> anyhow::Result<Vec<Conditions>> {
    let own = &flags.inflation;
    let arrivals = |path: &Path| openb::read_order(path, names(&workload.pods), false);
    let order = |path: &Path| openb::read_order(path, workload.nodes.iter().map(|node| node.name.as_str()), true);
    let mut all = Vec::new();
    for &seed in seeds {
        let mut conditions = orders::own(workload, seed);
        conditions.through_core = own.through_core;
        if let Some(folder) = &own.orders {
            let file = format!("{}.seed{seed}.txt", workload.name);
            let (arriving, ordered) = (folder.join("arrivals").join(&file), folder.join("node_order").join(&file));
            if !arriving.exists() {
                continue;
            }
            (conditions.arrivals, conditions.order) = (arrivals(&arriving)?, order(&ordered)?);
        }
        if let Some(path) = &own.arrivals {
            conditions.arrivals = arrivals(path)?;
        }
        if let Some(path) = &own.node_order {
            conditions.order = order(path)?;
        }
        all.push(conditions);
    }
    ensure!(!all.is_empty(), "--orders: expected arrivals of {} for some of the seeds, found none", workload.name);
    Ok(all)
}

fn figures(runs: &Runs, made_of: &Parameters, own: &InflationFlags) -> anyhow::Result<Vec<Figure>> {
    let name = runs.case();
    let seeds = runs.by_seed.iter().map(|(seed, _)| *seed).collect::<Vec<_>>();
    let (seeds, orders) = (json!(seeds), json!(runs.orders.words()));
    let mut parameters = by_name([(SEEDS, seeds), ("orders", orders), ("through_core", json!(own.through_core))]);
    parameters.extend(made_of.clone());
    let case = Case { suite: NAME, case: &name, parameters };
    let of = |value: fn(&Inflated) -> f64| runs.by_seed.iter().map(|(_, run)| value(run)).collect::<Vec<_>>();
    let mut figures = vec![
        case.figure("allocated_percent_at_100", "%", Better::Higher, runs.at(100))?,
        case.figure("allocated_percent_at_130", "%", Better::Higher, runs.at(ARRIVED_PERCENT))?,
        case.figure("mean_decision_seconds", "s", Better::Lower, of(|run| run.decision_seconds))?,
    ];
    if own.through_core {
        figures.push(case.figure("mean_commit_seconds", "s", Better::Lower, of(|run| run.commit_seconds))?);
    }
    Ok(figures)
}

/// The mean; nothing of nothing.
fn mean(samples: &[f64]) -> Option<f64> {
    (!samples.is_empty()).then(|| samples.iter().sum::<f64>() / crate::figure::number(samples.len() as u64))
}

/// How far samples lie from their mean: the standard deviation of what they are drawn from, estimated with one less than their number, since the mean is
/// theirs. 0 of fewer than two.
fn deviation(samples: &[f64]) -> f64 {
    let Some(middle) = mean(samples).filter(|_| samples.len() > 1) else { return 0.0 };
    let squares: f64 = samples.iter().map(|sample| (sample - middle).powi(2)).sum();
    (squares / crate::figure::number(samples.len() as u64 - 1)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::{JOBS_DIGEST, MACHINES_DIGEST};

    #[test]
    fn deviations_are_those_of_what_was_drawn_from() {
        // Squares of 4, 0 and 4, over two.
        assert_eq!(deviation(&[1.0, 3.0, 5.0]), 2.0);
        assert_eq!((deviation(&[7.0]), deviation(&[])), (0.0, 0.0));
    }

    #[test]
    fn a_given_order_is_one_run_and_is_told_from_drawn_ones() {
        let given = |arrivals: bool, machines: bool| InflationFlags {
            nodes: None,
            pods: Vec::new(),
            arrivals: arrivals.then(|| "arrivals.txt".into()),
            node_order: machines.then(|| "order.txt".into()),
            orders: None,
            through_core: false,
        };
        let words = |arrivals, machines| given(arrivals, machines).given_orders().words();
        assert_eq!((words(false, false), words(true, true)), ("own", "given"));
        assert_eq!((words(true, false), words(false, true)), ("arrivals given", "node order given"));
        let of_a_folder = InflationFlags { orders: Some("DIR".into()), ..given(false, false) };
        assert_eq!(of_a_folder.given_orders(), Orders::Given);

        assert!(of_a_folder.check_seeds(&[42, 43]).is_ok() && given(false, false).check_seeds(&[42, 43]).is_ok());
        for flags in [given(true, false), given(false, true), given(true, true)] {
            assert!(flags.check_seeds(&[42]).is_ok());
            let error = flags.check_seeds(&[42, 43, 44]).unwrap_err().to_string();
            assert!(error.contains("expected --seeds with one number, found 3 seeds"), "{error}");
        }
    }

    // The seeds of drawn orders were taken there, too, and refused as too many.
    #[test]
    fn an_order_that_is_given_is_run_with_one_seed_where_none_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let nodes = file("nodes.csv", "sn,cpu_milli,memory_mib,gpu,model\nm,8000,1024,2,A\n");
        let pods = file("pods.csv", "name,cpu_milli,memory_mib,num_gpu,gpu_milli\nt,1,1,1,1000\n");
        let lists = ["trace", "--experiment", "inflation", "--nodes", nodes.as_str(), "--pods", pods.as_str()];
        let seeds = |more: &[&str]| prepare(&Run::of(&[&lists[..], more].concat())).map(|prepared| prepared.seeds);
        for (flag, name) in [("--arrivals", "t"), ("--node-order", "m")] {
            let order = file("order.txt", name);
            let given = [flag, order.as_str()];
            assert_eq!(seeds(&given).unwrap(), [42]);
            assert_eq!(seeds(&[&given[..], &["--quick"]].concat()).unwrap(), [42]);
            assert_eq!(seeds(&[&given[..], &["--seeds", "7"]].concat()).unwrap(), [7]);
            let error = seeds(&[&given[..], &["--seeds", "42..51"]].concat()).unwrap_err().to_string();
            assert!(error.contains("found 10 seeds"), "{error}");
        }
        assert_eq!(seeds(&["--quick"]).unwrap(), [42, 43, 44]);
    }

    // It was measured twice, and `results.json` had two figures of one case and metric, of which `compare` took the first.
    #[test]
    fn a_policy_that_is_named_twice_is_measured_once() {
        let flags = ["trace", "--experiment", "inflation", "--quick", "--policy"];
        let policies = |named| prepare(&Run::of(&[&flags[..], &[named]].concat())).unwrap().policies;
        assert_eq!(policies("fgd,best-fit,fgd"), ["fgd", "best-fit"]);
    }

    /// What is read for these lists, and the digests of their files.
    fn workloads_of(nodes: &Path, pods: &[&Path]) -> Result<Vec<Parameters>, String> {
        let pods = pods.iter().map(|path| path.to_str().unwrap()).collect::<Vec<_>>().join(",");
        let flags = ["trace", "--experiment", "inflation", "--nodes", nodes.to_str().unwrap(), "--pods", pods.as_str()];
        let options = Run::of(&flags);
        let read = workloads(&options.trace.inflation, &options).map_err(|error| error.to_string())?;
        Ok(read.into_iter().map(|(_, made_of)| made_of).collect())
    }

    // Both were cases of one name, and the page had two rows that nobody could tell apart.
    #[test]
    fn two_lists_of_one_name_are_refused_and_others_are_told_apart_by_what_is_in_them() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            path
        };
        let nodes = file("nodes.csv", "sn,cpu_milli,memory_mib,gpu,model\nm,8000,1024,2,A\n");
        let list = |millis: u32| format!("name,cpu_milli,memory_mib,num_gpu,gpu_milli\nt,{millis},1,1,1000\n");
        let [one, other] =
            [("a/default.csv", 1), ("b/openb_pod_list_default.csv", 2)].map(|(name, m)| file(name, &list(m)));
        let refused = workloads_of(&nodes, &[&one, &other]).unwrap_err();
        assert!(refused.contains("found two that are \"default\""), "{refused}");
        let [one, other] = [one, other].map(|list| workloads_of(&nodes, &[&list]).unwrap());
        assert_ne!(one[0][JOBS_DIGEST], other[0][JOBS_DIGEST]);
        assert_eq!(one[0][MACHINES_DIGEST], other[0][MACHINES_DIGEST]);
    }
}

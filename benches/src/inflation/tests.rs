//! Stories of the inflation experiment, on small generated cells: none needs a published list.

use super::*;

fn conditions(workload: &Workload, seed: u64) -> Conditions {
    orders::own(workload, seed)
}

#[test]
fn tasks_arrive_until_they_ask_for_130_percent() {
    let workload = generated::workload(40, 1, 0);
    let conditions = conditions(&workload, 42);
    let asked = conditions.arrivals.iter().map(|pod| workload.pods[*pod].all_gpu_millis()).sum::<u64>();
    let most = workload.capacity_millis() * 13 / 10;
    // The last one drawn may have more GPUs than the one that is looked at.
    assert!(asked <= most + 7000 && asked + 1000 > most, "{asked} of {most}");
    assert!(
        conditions.arrivals[..workload.pods.len()].iter().collect::<std::collections::BTreeSet<_>>().len()
            == workload.pods.len()
    );
    let mut order = conditions.order.clone();
    order.sort_unstable();
    assert!(order.iter().copied().eq(0..workload.nodes.len()));
    assert_eq!(conditions.arrivals, orders::own(&workload, 42).arrivals);
    assert_ne!(conditions.arrivals, orders::own(&workload, 43).arrivals);
}

#[test]
fn the_core_grants_what_every_policy_chooses_and_it_comes_out_the_same() {
    let workload = generated::workload(25, 7, 0);
    for policy in POLICIES {
        let alone = conditions(&workload, 3);
        let committed = Conditions { through_core: true, ..alone.clone() };
        let (alone, committed) =
            (inflate(&workload, policy, &alone).unwrap(), inflate(&workload, policy, &committed).unwrap());
        assert_eq!(alone.placements, committed.placements, "{policy}");
        assert!(alone.placed > 0 && alone.failed > 0, "{policy}");
    }
}

#[test]
fn what_is_allocated_is_what_arrived_until_somebody_fits_nowhere() {
    let workload = generated::workload(25, 5, 0);
    let inflated = inflate(&workload, "worth", &conditions(&workload, 9)).unwrap();
    let percent = |millis| 100.0 * number(millis) / number(workload.capacity_millis());
    assert!((percent(inflated.arrived_millis) - 130.0).abs() < 4.0);
    for arrived in [20, 40, 60] {
        let allocated = inflated.allocated_at(arrived).unwrap();
        assert!((allocated - number(arrived as u64)).abs() < 1.0, "{arrived}: {allocated}");
    }
    let end = inflated.allocated_at(ARRIVED_PERCENT).unwrap();
    assert!((end - percent(inflated.used_millis)).abs() < 1.0);
    assert!(end < 100.0 && inflated.fragmented > 0.0);
}

/// One task was 25% of such a cell: nothing can arrive between 125% and 150%, and the run was told to have asked for too little.
#[test]
fn on_a_few_gpus_a_curve_goes_on_where_nobody_arrives() {
    let node = |number: u32| Node {
        name: format!("node-{number}"),
        cpu_millis: 8000,
        memory_mib: 1024,
        gpus: 1,
        model: "m".into(),
    };
    let pod = |number: u32| Pod {
        name: format!("pod-{number}"),
        cpu_millis: 1000,
        memory_mib: 1,
        gpus: 1,
        gpu_millis: WHOLE,
        models: String::new(),
    };
    let nodes = (0..4).map(node).collect();
    let workload = Workload { name: "four".into(), nodes, pods: (0..3).map(pod).collect() };
    let own = conditions(&workload, 1);
    let inflated = inflate(&workload, "best-fit", &own).unwrap();
    assert_eq!((inflated.placed, inflated.failed), (4, 1));
    let at = |percent| inflated.allocated_at(percent);
    assert_eq!([at(0), at(24), at(25), at(49), at(75)], [None, None, Some(25.0), Some(25.0), Some(75.0)]);
    assert_eq!([at(100), at(125), at(ARRIVED_PERCENT)], [Some(100.0); 3]);
    // An order that ends early says nothing of what comes behind it.
    let short = Conditions { arrivals: own.arrivals[..3].to_vec(), ..own };
    let inflated = inflate(&workload, "best-fit", &short).unwrap();
    assert_eq!([75, 76, ARRIVED_PERCENT].map(|percent| inflated.allocated_at(percent)), [Some(75.0), None, None]);
}

#[test]
fn random_is_the_floor_and_worth_does_not_lose_to_the_gradient_on_lists_nobody_looked_at() {
    let mean = |policy: &str| {
        let at_end = (0..4_u64).map(|seed| {
            let workload = generated::workload(60, 100 + seed, 0);
            inflate(&workload, policy, &conditions(&workload, seed)).unwrap().allocated_at(ARRIVED_PERCENT).unwrap()
        });
        at_end.sum::<f64>() / 4.0
    };
    let (random, gradient, worth) = (mean("random"), mean("fgd"), mean("worth"));
    assert!(random < gradient && gradient < worth, "random {random}, gradient {gradient}, worth {worth}");
}

#[test]
fn a_policy_that_there_is_not_is_told_with_those_there_are() {
    let error = check_policy("fgdd").unwrap_err().to_string();
    assert!(error.contains("worth") && error.contains("fgdd"), "{error}");
}

#[test]
fn the_mix_limit_counts_what_no_packing_can_use() {
    // Each of 800 leaves 200 of its GPU, each of 500 has a mate.
    let pod = |name: &str, gpu_millis| Pod {
        name: name.into(),
        cpu_millis: 1000,
        memory_mib: 1,
        gpus: 1,
        gpu_millis,
        models: String::new(),
    };
    let pods = vec![pod("a", 800), pod("b", 500), pod("c", 500), pod("d", 1000)];
    let workload = Workload { name: "small".into(), nodes: Vec::new(), pods };
    assert!((workload.mix_limit_percent() - 100.0 * 2.8 / 3.0).abs() < 1e-6);
}

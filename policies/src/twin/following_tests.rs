//! A scoring of a team's own whose costs depend on what went where before, against a full sort.

use proptest::prelude::*;

use super::*;
use crate::{Following, choose_following};

/// As few tasks of the decision as can be in one rack, then the fullest machine. Racks are by slot here, five machines each.
struct FewByRack {
    in_rack: Vec<u32>,
}

impl Scoring for FewByRack {
    fn name(&self) -> &str {
        "few-by-rack"
    }

    #[allow(clippy::cast_precision_loss, reason = "small numbers")]
    fn cost(&self, candidate: &Candidate, task: &Amounts) -> f32 {
        let beside = self.in_rack.get(candidate.machine as usize / 5).copied().unwrap_or(0);
        beside as f32 + (candidate.free.cpu_millis - task.cpu_millis) * 1e-6
    }
}

impl Following for FewByRack {
    fn placed(&mut self, machine: u32, touched: &mut Vec<u32>) {
        let rack = machine / 5;
        self.in_rack[rack as usize] += 1;
        touched.extend((rack * 5..rack * 5 + 5).filter(|&other| other != machine));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_task_goes_to_the_best_of_all_as_things_stand_then(
        sizes in prop::collection::vec((0u64..6, 0u64..6), 0..200),
        siblings in prop::collection::btree_map(0u32..200, 1u32..3, 0..3),
        need in 1u64..3,
        count in 0u32..60,
    ) {
        let machines: Vec<Made> = sizes.iter().map(|&(cpu, memory)| plain(cpu * 500, memory)).collect();
        let cell = cell_of(&machines);
        let columns = followed(&cell, &BTreeMap::new());
        let resources = Resources::new(need * 500, MIB);
        let request = Request { siblings: &siblings, ..Request::new(&resources, Settings::default()) };
        let fresh = || FewByRack { in_rack: vec![0; 41] };
        let chosen = choose_following(&columns, &request, &mut fresh(), count);

        let twin = Twin {
            cell: &cell, promised: &BTreeMap::new(), constraints: &[], affinities: &[], job: JobId::default(),
            request: &request,
        };
        let (mut scoring, mut placed, mut expected) = (fresh(), BTreeMap::new(), Vec::new());
        for _ in 0..count {
            let Some(&(_, _, slot)) = twin.sorted(&scoring, &placed).first() else { break };
            *placed.entry(slot).or_default() += 1;
            scoring.placed(slot, &mut Vec::new());
            expected.push(slot);
        }
        prop_assert_eq!(chosen, expected);
    }
}

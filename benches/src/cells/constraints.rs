//! Machines that differ, and jobs that mind: what the light simulator of the paper leaves out.
//!
//! The shares are made up, and stand here: half of the jobs take any machine, the others need a platform, a kernel, or both, which 80%
//! to 8% of the machines have. Whether a machine suits is judged by the model's code, by schedulers and by the core alike.

use plenum_model::{Attributes, Cell, ClassSet, Constraint, Operator};

use super::workload::JobPlan;

/// A list of constraints, with the part of jobs that has it, in hundredths.
struct Kind {
    jobs_percent: u32,
    constraints: &'static [(&'static str, Operator, &'static [&'static str])],
}

const KINDS: [Kind; 5] = [
    Kind { jobs_percent: 50, constraints: &[] },
    Kind { jobs_percent: 20, constraints: &[("platform", Operator::In, &["a", "b"])] },
    Kind { jobs_percent: 15, constraints: &[("kernel", Operator::GreaterOrEqual, &["5"])] },
    Kind { jobs_percent: 10, constraints: &[("platform", Operator::Equal, &["c"])] },
    Kind {
        jobs_percent: 5,
        constraints: &[("platform", Operator::Equal, &["c"]), ("kernel", Operator::GreaterOrEqual, &["6"])],
    },
];

/// How many kinds there are.
pub(crate) const KINDS_COUNT: usize = KINDS.len();

/// What a machine is. Slots are numbered as they register, so kinds are mixed all over the cell.
pub(crate) fn attributes(machine: u32) -> Attributes {
    let platform = ["a", "a", "b", "a", "c", "b", "a", "b", "a", "c"][machine as usize % 10];
    let kernel = ["4", "5", "6", "5", "6"][machine as usize / 10 % 5];
    [("platform", platform), ("kernel", kernel)].map(|(name, value)| (name.into(), value.into())).into_iter().collect()
}

/// Which kind of constraints a job has: by its stream and number alone.
pub(crate) fn kind_of(plan: &JobPlan) -> usize {
    let mut mixed = (u64::from(plan.number) << 2 | plan.stream as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mut drawn = (mixed >> 33) % 100;
    for (number, kind) in KINDS.iter().enumerate() {
        match drawn.checked_sub(kind.jobs_percent.into()) {
            Some(rest) => drawn = rest,
            None => return number,
        }
    }
    0
}

/// The constraints of a kind.
pub(crate) fn constraints(kind: usize) -> Vec<Constraint> {
    let made = KINDS[kind].constraints.iter().map(|&(attribute, operator, values)| Constraint {
        attribute: attribute.into(),
        operator,
        values: values.iter().map(|&value| value.into()).collect(),
    });
    made.collect()
}

/// By kind, the classes of machines that suit; `None` where all do.
pub(crate) fn classes(cell: &Cell) -> Vec<Option<ClassSet>> {
    let of = |kind: usize| {
        let constraints = constraints(kind);
        (!constraints.is_empty()).then(|| {
            let mut set = ClassSet::default();
            set.refresh(&constraints, cell);
            set
        })
    };
    (0..KINDS.len()).map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cells::workload::R1;

    #[test]
    fn shares_of_jobs_are_what_is_said() {
        assert_eq!(KINDS.iter().map(|kind| kind.jobs_percent).sum::<u32>(), 100);
        let jobs = R1.jobs(1, 86_400.0, 1.0);
        let mut counted = [0u32; KINDS.len()];
        jobs.iter().for_each(|job| counted[kind_of(job)] += 1);
        let all: u32 = counted.iter().sum();
        for (kind, count) in KINDS.iter().zip(counted) {
            let percent = f64::from(count) * 100.0 / f64::from(all);
            assert!((percent - f64::from(kind.jobs_percent)).abs() < 2.0, "{counted:?}");
        }
    }

    #[test]
    fn every_kind_of_job_finds_machines_and_not_all() {
        let suits = |kind: usize| {
            let constraints = constraints(kind);
            (0..1000).filter(|&machine| constraints.iter().all(|one| one.holds(&attributes(machine)))).count()
        };
        assert_eq!([0, 1, 2, 3, 4].map(suits), [1000, 800, 800, 200, 80]);
    }
}

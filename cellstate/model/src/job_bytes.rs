//! What a job counts as, of the bytes that a cell keeps of jobs.
//!
//! A sum over what it consists of, and not what it takes to the byte, which is for allocators and compilers to say: whether a job is taken, and when one that
//! is over is retired, goes by it, on every machine and in each replay. So another sum is another version of the core.

use crate::{Constraint, GroupShape, Job, JobShape};

/// Of a job, beside what follows: its row, its place among slots and names, the numbers of its shape.
const JOB_BYTES: usize = 256;

/// The same of a group.
const GROUP_BYTES: usize = 256;

/// An entry of a list, beside the letters of its text: 16 bytes in the list, 16 for two counters before the letters, and what allocations are rounded up by.
const ENTRY_BYTES: usize = 40;

impl Job {
    /// What it counts as of the bytes that a cell keeps of jobs: its shape, and its body as it is encoded.
    #[must_use]
    pub fn kept_bytes(&self) -> usize {
        self.shape.kept_bytes() + self.body.as_ref().map_or(0, |body| body.len())
    }
}

impl JobShape {
    /// What a job of this shape counts as of the bytes that a cell keeps of jobs, its body aside. Some 600 of a small one, about what it takes in memory; of
    /// one with long lists a multiple of what it has encoded.
    #[must_use]
    pub fn kept_bytes(&self) -> usize {
        let names = self.namespace.len() + self.name.len() + self.scheduler.len();
        let options: usize = self.options.iter().map(|(name, value)| entry(name) + entry(value)).sum();
        let groups: usize = self.groups.iter().map(GroupShape::kept_bytes).sum();
        JOB_BYTES + names + options + groups
    }
}

impl GroupShape {
    /// The part of a group in [`JobShape::kept_bytes`].
    #[must_use]
    pub fn kept_bytes(&self) -> usize {
        let wishes = self.affinities.iter().map(|affinity| &affinity.rule);
        let rules: usize = self.constraints.iter().chain(wishes).map(rule).sum();
        let spread: usize = self.spread.iter().map(|spread| entry(&spread.attribute)).sum();
        let devices: usize = self.devices.iter().map(|device| entry(&device.kind) + entry(&device.model)).sum();
        let ports: usize = self.ports.iter().map(|port| entry(&port.name)).sum();
        GROUP_BYTES + self.name.len() + self.after.len() * size_of::<u16>() + rules + spread + devices + ports
    }
}

/// A constraint: itself, its attribute and its values.
fn rule(rule: &Constraint) -> usize {
    ENTRY_BYTES + entry(&rule.attribute) + rule.values.iter().map(|value| entry(value)).sum::<usize>()
}

fn entry(text: &str) -> usize {
    ENTRY_BYTES + text.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Affinity, Device, Operator, Port, Spread};

    fn of_values(count: usize) -> Constraint {
        Constraint { attribute: "rack".into(), operator: Operator::In, values: vec!["a".into(); count] }
    }

    // A value of one letter has three bytes in an encoded shape: by these, a shape of 256 KiB took 3.3 MB.
    #[test]
    fn a_value_of_a_constraint_counts_with_what_it_takes_beside_its_letters() {
        let of_constraint = |count| GroupShape { constraints: vec![of_values(count)], ..GroupShape::default() };
        let of_affinity = |count| {
            let affinity = Affinity { rule: of_values(count), weight: 1 };
            GroupShape { affinities: vec![affinity], ..GroupShape::default() }
        };
        assert_eq!(of_constraint(65).kept_bytes() - of_constraint(1).kept_bytes(), 64 * 41);
        assert_eq!(of_affinity(65).kept_bytes() - of_affinity(1).kept_bytes(), 64 * 41);
    }

    // Whether jobs are taken goes by these numbers: with others, a log is decided otherwise, and the core has another version.
    #[test]
    fn all_that_a_shape_consists_of_counts_as_it_always_did() {
        let group = GroupShape {
            name: "main".into(),
            after: vec![0, 1],
            constraints: vec![of_values(2)],
            affinities: vec![Affinity { rule: of_values(1), weight: 1 }],
            spread: vec![Spread { attribute: "rack".into(), at_most: 1 }],
            devices: vec![Device { kind: "gpu".into(), index: 0, millis: 1000, model: "x1".into() }],
            ports: vec![Port { name: "http".into(), number: 0 }],
            ..GroupShape::default()
        };
        let rules = (40 + 44 + 2 * 41) + (40 + 44 + 41);
        let of_group = 256 + 4 + 2 * 2 + rules + 44 + (43 + 42) + 44;
        assert_eq!(group.kept_bytes(), of_group);
        let shape = JobShape {
            namespace: "default".into(),
            name: "web".into(),
            scheduler: "batch".into(),
            groups: vec![group.clone(), group],
            options: [("every".to_owned(), "5s".to_owned())].into(),
            ..JobShape::default()
        };
        assert_eq!(shape.kept_bytes(), 256 + (7 + 3 + 5) + (45 + 42) + 2 * of_group);
    }
}

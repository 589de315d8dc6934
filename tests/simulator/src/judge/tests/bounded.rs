//! Steps that leave more of something than there may be.

use plenum_model::Partition;

use super::*;
use crate::judge::bounded::Bounded;

/// Sets a bound.
type Bound = fn(&mut CoreOptions, u32);

impl Stage {
    /// Asks for something of which there are so many then, and makes sure that these bounds are judged by that.
    fn is_bounded(&mut self, command: Command, bounds: &[(u32, Bound)]) {
        let before = self.core.cell().clone();
        self.ask(command);
        let Some((request, Decided::Changed { delta, .. })) = &self.last else { panic!("{:?}", self.last) };
        for (number, (there, bound)) in bounds.iter().enumerate() {
            let is_found = [there - 1, *there].map(|most| {
                let mut options = CoreOptions::default();
                bound(&mut options, most);
                let bounded = Bounded::of(&options);
                let check = |step: &Step<'_>| bounded.invariant_nothing_comes_above_a_bound(step);
                self.judged(&before, self.core.cell(), delta, check).is_err()
            });
            assert_eq!(is_found, [true, false], "bound {number} of {:?}", request.command);
        }
    }
}

// Small bounds were drawn, and what was refused by one was counted: what was not refused nobody looked for.
#[test]
fn whatever_a_step_brings_above_its_bound_is_found() {
    let mut stage = Stage::new(GroupShape::default());
    let (first, machine) = (stage.job, stage.machine);
    let shape = JobShape::clone(&stage.core.cell().job(first).expect("it is there").shape);
    stage.submit(JobShape { name: "second".into(), ..shape.clone() });
    let second = stage.job;
    let mut third = JobShape { name: "third".into(), ..shape };
    third.groups[0].resources = Resources::new(2, 2);
    let shape = Arc::new(third);
    let command = Command::submit(shape);
    let bounds: [(u32, Bound); 3] = [
        (3, |options, most| options.jobs_max = most),
        (3, |options, most| options.tasks_max = most),
        (2, |options, most| options.shapes_max = most as usize),
    ];
    stage.is_bounded(command, &bounds);
    let bounds: [(u32, Bound); 4] = [
        (1, |options, most| options.sessions_max = most as usize),
        (1, |options, most| options.sessions_of_principal_max = most as usize),
        (1, |options, most| options.sessions_of_scheduler_max = most as usize),
        (1, |options, most| options.schedulers_max = most as usize),
    ];
    stage.is_bounded(Command::OpenSession { scheduler: "batch".into() }, &bounds);
    let holds = |job: JobId| {
        let (session, machines, resources) = (SessionId::default(), vec![machine.slot], Resources::new(1, 1));
        Command::TakeHold { session, job, machines, resources, deadline: NOW.plus_micros(60_000_000) }
    };
    stage.is_bounded(holds(first), &[(1, |options, most| options.holds_max = most as usize)]);
    // One scheduler has half of the places, and the odd one.
    stage.is_bounded(holds(second), &[(2, |options, most| options.holds_max = most as usize + 1)]);
    let partition = Some(Partition { machines: Vec::new(), schedulers: Vec::new() });
    let command = Command::SetPartition { name: "apart".into(), partition };
    stage.is_bounded(command, &[(1, |options, most| options.partitions_max = most as usize)]);
    let mut limits = Quota::default().limits;
    limits[0] = Some(500);
    let command = Command::SetQuota { namespace: "default".into(), limit: Some(Quota { limits }) };
    stage.is_bounded(command, &[(1, |options, most| options.quotas_max = most as usize)]);
}

#[test]
fn what_is_above_a_bound_as_another_setting_left_it_may_stay() {
    let mut stage = Stage::new(GroupShape::default());
    let (before, machine) = (stage.core.cell().clone(), stage.machine);
    stage.ask(Command::CordonMachine { machine, cordoned: true });
    let bounded = Bounded::of(&CoreOptions { jobs_max: 0, tasks_max: 0, shapes_max: 0, ..CoreOptions::default() });
    let check = |step: &Step<'_>| bounded.invariant_nothing_comes_above_a_bound(step);
    assert_eq!(stage.judged(&before, stage.core.cell(), &next(&before), check), Ok(()));
}

//! Claims that something stands in the way of: each as a lost race, as a misfit, and where nobody can tell any more.

use plenum_proto::v1;
use v1::command::Ask;

use super::stage::{Stage, cpu, gpu, placement, port, runs_unknown};

/// A situation: what it is, and how it is played.
pub(super) type Situation = (&'static str, fn(&mut Stage<'_>));

pub(super) const RACES: &[Situation] = &[
    ("room that somebody took", |stage| {
        let (_, slot) = stage.machine(|_| {});
        let wanted = stage.job("batch", |job| job.groups[0].resources = Some(cpu(1500)));
        let others = stage.job("service", |_| {});
        stage.look();
        stage.place("service", others, &[slot, slot], &[0, 1]);
        stage.lose(placement(wanted, &[slot], &[0]));
    }),
    ("room that a machine lost", |stage| {
        let (mut machine, slot) = stage.machine(|_| {});
        let wanted = stage.job("batch", |job| job.groups[0].resources = Some(cpu(1500)));
        stage.look();
        machine.capacity = Some(v1::Resources { cpu_millis: 1000, memory_bytes: 1 << 30, ..Default::default() });
        stage.ask(Ask::RegisterMachine(machine));
        stage.lose(placement(wanted, &[slot], &[0]));
    }),
    ("room that is held", |stage| {
        let (_, slot) = stage.machine(|_| {});
        let wanted = stage.job("batch", |job| job.groups[0].resources = Some(cpu(1500)));
        let gang = stage.job("gang", |_| {});
        stage.look();
        hold(stage, gang, slot, 1000);
        stage.lose(placement(wanted, &[slot], &[0]));
    }),
    ("a task that was placed", |stage| {
        let (_, slot) = stage.machine(|_| {});
        let job = stage.job("batch", |_| {});
        stage.look();
        stage.place("rival", job, &[slot], &[0]);
        stage.lose(placement(job, &[slot], &[0]));
    }),
    ("a task that is done", |stage| {
        let (_, slot) = stage.machine(|_| {});
        let job = stage.job("batch", |_| {});
        stage.place("batch", job, &[slot], &[0]);
        stage.look();
        stage.report(stage.allocation(job, 0), v1::AllocationState::Complete);
        stage.lose(placement(job, &[slot], &[0]));
    }),
    ("a group of an earlier version that is scaled", |stage| {
        let job = stage.job("batch", |_| {});
        stage.ask(Ask::StopJob(v1::StopJob { job, ..Default::default() }));
        stage.job("batch", |shape| shape.name = "job-0".to_owned());
        for version in [1, 2] {
            stage.ask(Ask::ScaleJob(v1::ScaleJob { job, group: 0, count: 1, version }));
        }
    }),
    ("a job that is scaled to nothing", |stage| {
        let job = stage.job("batch", |_| {});
        for count in [0, 1] {
            stage.ask(Ask::ScaleJob(v1::ScaleJob { job, group: 0, count, ..Default::default() }));
        }
    }),
    ("a task that was scaled away", |stage| {
        let (_, slot) = stage.machine(|_| {});
        let job = stage.job("batch", |_| {});
        stage.look();
        stage.ask(Ask::ScaleJob(v1::ScaleJob { job, group: 0, count: 1, ..Default::default() }));
        stage.lose(placement(job, &[slot], &[1]));
    }),
    ("a job that was stopped", |stage| {
        let (_, slot) = stage.machine(|_| {});
        let job = stage.job("batch", |_| {});
        stage.look();
        stage.ask(Ask::StopJob(v1::StopJob { job, ..Default::default() }));
        stage.lose(placement(job, &[slot], &[0]));
    }),
    ("a group that sleeps over a failure", |stage| {
        let (_, slot) = stage.machine(|_| {});
        let retry = v1::RetryPolicy { attempts: 2, delay_micros: 60_000_000 };
        let job = stage.job("batch", |job| job.groups[0].retry = Some(retry));
        stage.place("batch", job, &[slot], &[0]);
        stage.look();
        stage.report(stage.allocation(job, 0), v1::AllocationState::Failed);
        stage.lose(placement(job, &[slot], &[0]));
    }),
    ("a group whose predecessor was scaled up", |stage| {
        let (_, slot) = stage.machine(|_| {});
        let job = stage.job("batch", |job| {
            job.groups[0].count = 1;
            let after = vec!["g0".to_owned()];
            job.groups.push(v1::GroupShape { name: "g1".to_owned(), after, ..job.groups[0].clone() });
        });
        stage.place("batch", job, &[slot], &[0]);
        stage.report(stage.allocation(job, 0), v1::AllocationState::Complete);
        stage.look();
        stage.ask(Ask::ScaleJob(v1::ScaleJob { job, group: 0, count: 2, ..Default::default() }));
        stage.lose(v1::Placement { group: 1, ..placement(job, &[slot], &[0]) });
    }),
    ("a machine that was removed", |stage| {
        let (_, slot) = stage.machine(|_| {});
        let job = stage.job("batch", |_| {});
        stage.look();
        stage.ask(Ask::RemoveMachine(v1::RemoveMachine { machine: stage.machine_id(slot).0, unless_alive: false }));
        stage.lose(placement(job, &[slot], &[0]));
    }),
    ("a machine that was cordoned", |stage| {
        let (_, slot) = stage.machine(|_| {});
        let job = stage.job("batch", |_| {});
        stage.look();
        stage.ask(Ask::CordonMachine(v1::CordonMachine { machine: stage.machine_id(slot).0, cordoned: true }));
        stage.lose(placement(job, &[slot], &[0]));
    }),
    ("a machine that is drained", |stage| {
        let (_, slot) = stage.machine(|_| {});
        let job = stage.job("batch", |_| {});
        stage.look();
        let deadline_micros = stage.time + 60_000_000;
        stage.ask(Ask::DrainMachine(v1::DrainMachine { machine: stage.machine_id(slot).0, deadline_micros }));
        stage.lose(placement(job, &[slot], &[0]));
    }),
    ("a machine that is out of reach", |stage| {
        let (_, slot) = stage.machine(|_| {});
        let job = stage.job("batch", |_| {});
        stage.look();
        let (machine, epoch) = stage.machine_id(slot);
        stage.ask(Ask::ExpireMachine(v1::ExpireMachine { machine, epoch }));
        stage.lose(placement(job, &[slot], &[0]));
    }),
    ("a machine with other attributes", |stage| {
        let disk = |value: &str| std::collections::BTreeMap::from([("disk".to_owned(), value.to_owned())]);
        let (mut machine, slot) = stage.machine(|machine| machine.attributes = disk("ssd"));
        let (operator, values) = (v1::Operator::Equal.into(), vec!["ssd".to_owned()]);
        let rule = v1::Constraint { attribute: "disk".to_owned(), operator, values };
        let job = stage.job("batch", |job| job.groups[0].constraints = vec![rule]);
        stage.look();
        machine.attributes = disk("hdd");
        stage.ask(Ask::RegisterMachine(machine));
        stage.lose(placement(job, &[slot], &[0]));
    }),
    ("a machine that booted", |stage| {
        let (mut machine, slot) = stage.machine(|_| {});
        let job = stage.job("batch", |_| {});
        stage.look();
        machine.boot_id = "boot-2".to_owned();
        machine.seen_revision = stage.cell().revision().0;
        stage.ask(Ask::RegisterMachine(machine));
        stage.lose(placement(job, &[slot], &[0]));
    }),
    ("a machine that somebody changed", |stage| {
        let (_, slot) = stage.machine(|_| {});
        let job = stage.job("batch", |_| {});
        let others = stage.job("service", |_| {});
        stage.look();
        stage.place("service", others, &[slot], &[0]);
        let sequence = v1::ConflictCheck::Sequence.into();
        stage.lose_with(placement(job, &[slot], &[0]), |transaction| transaction.check = sequence);
    }),
    ("a machine that is not the one that a job's tasks share", |stage| {
        let (first, second) = (stage.machine(|_| {}).1, stage.machine(|_| {}).1);
        let job = stage.job("batch", |job| job.same_machine = true);
        stage.look();
        stage.place("rival", job, &[first], &[0]);
        stage.lose(placement(job, &[second], &[1]));
    }),
    ("a job that was retired", |stage| {
        let (_, slot) = stage.machine(|_| {});
        let job = stage.job("batch", |_| {});
        stage.look();
        stage.ask(Ask::StopJob(v1::StopJob { job, ..Default::default() }));
        stage.pass(100);
        stage.lose(placement(job, &[slot], &[0]));
    }),
    ("a job of another version", |stage| {
        let (_, slot) = stage.machine(|_| {});
        let name = |job: &mut v1::JobShape| job.name = "again".to_owned();
        let job = stage.job("batch", name);
        stage.look();
        stage.ask(Ask::StopJob(v1::StopJob { job, ..Default::default() }));
        stage.job("batch", name);
        stage.lose(placement(job, &[slot], &[0]));
    }),
    ("a device that somebody took", |stage| {
        let (_, slot) = stage.machine(|machine| machine.devices = vec![gpu(0, 1000)]);
        let wants = |job: &mut v1::JobShape| job.groups[0].devices = vec![gpu(0, 600)];
        let (job, others) = (stage.job("batch", wants), stage.job("service", wants));
        stage.look();
        stage.place("service", others, &[slot], &[0]);
        stage.lose(placement(job, &[slot], &[0]));
    }),
    ("a device and a port of a task that the cell does not know", |stage| {
        let (mut machine, slot) = stage.machine(|machine| machine.devices = vec![gpu(0, 1000)]);
        let device = stage.job("batch", |job| job.groups[0].devices = vec![gpu(0, 600)]);
        let listens = stage.job("batch", |job| job.groups[0].ports = vec![port(8080)]);
        stage.look();
        let (devices, ports) = (vec![gpu(0, 700)], vec![port(8080)]);
        machine.inventory = vec![runs_unknown(v1::TaskTraces { devices, ports, ..Default::default() })];
        stage.ask(Ask::RegisterMachine(machine));
        let listens = placement(listens, &[slot], &[0]);
        stage.lose_with(placement(device, &[slot], &[0]), |transaction| transaction.placements.push(listens));
    }),
    ("a port that somebody took", |stage| {
        let (_, slot) = stage.machine(|_| {});
        let listens = |job: &mut v1::JobShape| job.groups[0].ports = vec![port(8080)];
        let (job, others) = (stage.job("batch", listens), stage.job("service", listens));
        stage.look();
        stage.place("service", others, &[slot], &[0]);
        stage.lose(placement(job, &[slot], &[0]));
    }),
    ("a rack that has enough of a group", |stage| {
        let rack = |machine: &mut v1::RegisterMachine| {
            machine.attributes.insert("rack".to_owned(), "r1".to_owned());
        };
        let (first, second) = (stage.machine(rack).1, stage.machine(rack).1);
        let spread = v1::Spread { attribute: "rack".to_owned(), at_most: 1 };
        let job = stage.job("batch", |job| job.groups[0].spread = vec![spread]);
        stage.look();
        stage.place("rival", job, &[first], &[0]);
        stage.lose(placement(job, &[second], &[1]));
    }),
    ("a machine that has enough of a group", |stage| {
        let (_, slot) = stage.machine(|_| {});
        let job = stage.job("batch", |job| job.groups[0].per_machine = 1);
        stage.look();
        stage.place("rival", job, &[slot], &[0]);
        stage.lose(placement(job, &[slot], &[1]));
    }),
    ("a task whose predecessor has not left", |stage| {
        let (_, slot) = stage.machine(|_| {});
        let job = stage.job("batch", |job| job.groups[0].single_instance = true);
        stage.place("batch", job, &[slot], &[0]);
        stage.look();
        let leaves = stage.allocation(job, 0);
        stage.ask(Ask::StopAllocation(v1::StopAllocation { allocation: leaves }));
        stage.lose(placement(job, &[slot], &[0]));
        stage.report(leaves, v1::AllocationState::Stopped);
        stage.place("batch", job, &[slot], &[0]);
    }),
    ("a rack to which a machine with a task has moved", |stage| {
        let rack = |value: &str| std::collections::BTreeMap::from([("rack".to_owned(), value.to_owned())]);
        let (mut moving, first) = stage.machine(|machine| machine.attributes = rack("r1"));
        let (_, second) = stage.machine(|machine| machine.attributes = rack("r2"));
        let spread = v1::Spread { attribute: "rack".to_owned(), at_most: 1 };
        let job = stage.job("batch", |job| job.groups[0].spread = vec![spread]);
        stage.place("batch", job, &[first], &[0]);
        stage.look();
        moving.attributes = rack("r2");
        stage.ask(Ask::RegisterMachine(moving));
        stage.lose(placement(job, &[second], &[1]));
    }),
    ("a rack to which a machine has moved, and which the same transaction fills", |stage| {
        let rack = |value: &str| std::collections::BTreeMap::from([("rack".to_owned(), value.to_owned())]);
        let (mut moving, first) = stage.machine(|machine| machine.attributes = rack("r1"));
        let (_, second) = stage.machine(|machine| machine.attributes = rack("r2"));
        let spread = v1::Spread { attribute: "rack".to_owned(), at_most: 1 };
        let job = stage.job("batch", |job| job.groups[0].spread = vec![spread]);
        stage.look();
        moving.attributes = rack("r2");
        stage.ask(Ask::RegisterMachine(moving));
        stage.lose(placement(job, &[first, second], &[0, 1]));
    }),
];

/// Sets room of a machine aside for a job, for a minute.
pub(super) fn hold(stage: &mut Stage<'_>, job: u64, slot: u32, cpu_millis: i64) {
    let resources = Some(v1::Resources { cpu_millis, ..Default::default() });
    let deadline_micros = stage.time + 60_000_000;
    stage.ask(Ask::TakeHold(v1::TakeHold { job, machines: vec![slot], resources, deadline_micros, session: 0 }));
}

//! What else the core decides: guards, minimums, quotas and partitions; who makes way for whom; what comes with time.

use plenum_proto::v1;
use v1::command::Ask;

use super::races::{Situation, hold};
use super::stage::{Stage, cpu, gpu, placement, port, runs_unknown};

pub(super) const OTHERS: &[Situation] = &[
    ("guards that fail, and guards that hold", |stage| {
        let (_, slot) = stage.machine(|machine| {
            machine.attributes.insert("disk".to_owned(), "ssd".to_owned());
        });
        let job = stage.job("batch", |_| {});
        let version = |version| {
            let fact = v1::guard::Fact::JobVersion(v1::JobVersionGuard { job, version });
            v1::Guard { fact: Some(fact) }
        };
        let machine = stage.machine_id(slot).0;
        let disk = |value: &str| {
            let (attribute, value) = ("disk".to_owned(), value.to_owned());
            v1::Guard { fact: Some(v1::guard::Fact::Attribute(v1::AttributeGuard { machine, attribute, value })) }
        };
        let mut whole = stage.transaction("batch", vec![placement(job, &[slot], &[0])]);
        whole.guards = vec![version(2)];
        stage.ask(Ask::Commit(whole));
        stage.claim("batch", v1::Placement { guards: vec![disk("hdd")], ..placement(job, &[slot], &[0]) });
        stage.claim("batch", v1::Placement { guards: vec![version(1), disk("ssd")], ..placement(job, &[slot], &[0]) });
    }),
    ("minimums that are missed: of a placement, of a gang, of a whole", |stage| {
        let (_, slot) = stage.machine(|_| {});
        let large = |job: &mut v1::JobShape| job.groups[0].resources = Some(cpu(1500));
        let (job, alone) = (stage.job("batch", large), stage.job("batch", |_| {}));
        let gang = stage.job("batch", |job| {
            large(job);
            job.groups[0].min = 2;
        });
        stage.claim("batch", v1::Placement { min: 2, ..placement(job, &[slot, slot], &[0, 1]) });
        stage.place("batch", gang, &[slot, slot], &[0, 1]);
        let missed = v1::Placement { min: 2, ..placement(job, &[slot, slot], &[0, 1]) };
        let mut whole = stage.transaction("batch", vec![missed, placement(alone, &[slot], &[0])]);
        whole.atomic = true;
        stage.ask(Ask::Commit(whole));
        stage.place("batch", job, &[slot, slot], &[0, 1]);
    }),
    ("a quota, and none", |stage| {
        let (_, slot) = stage.machine(|_| {});
        let job = stage.job("batch", |_| {});
        let quota = |namespace: &str, limit: Option<i64>| {
            let limit = limit.map(|cpu| v1::Quota { cpu_millis: Some(cpu), ..Default::default() });
            Ask::SetQuota(v1::SetQuota { namespace: namespace.to_owned(), limit })
        };
        stage.ask(quota("default", Some(700)));
        stage.place("batch", job, &[slot, slot], &[0, 1]);
        hold(stage, job, slot, 300);
        stage.ask(quota("second", Some(700)));
        stage.ask(quota("third", Some(700)));
        stage.ask(quota("third", None));
        stage.ask(quota("default", None));
        stage.place("batch", job, &[slot], &[1]);
    }),
    ("a partition for others, and none", |stage| {
        let (_, slot) = stage.machine(|machine| {
            machine.attributes.insert("rack".to_owned(), "r1".to_owned());
        });
        let (job, others) = (stage.job("batch", |_| {}), stage.job("service", |_| {}));
        let (operator, values) = (v1::Operator::Equal.into(), vec!["r1".to_owned()]);
        let rule = v1::Constraint { attribute: "rack".to_owned(), operator, values };
        let partition = |machines, schedulers| {
            Ask::SetPartition(v1::SetPartition { name: "east".to_owned(), machines, schedulers })
        };
        stage.ask(partition(vec![rule], vec!["service".to_owned()]));
        stage.place("batch", job, &[slot], &[0]);
        stage.place("service", others, &[slot], &[0]);
        stage.ask(partition(Vec::new(), Vec::new()));
        stage.ask(partition(Vec::new(), Vec::new()));
        stage.place("batch", job, &[slot], &[0]);
    }),
    ("what is another scheduler's", |stage| {
        let (_, slot) = stage.machine(|_| {});
        let others = stage.job("service", |_| {});
        stage.place("batch", others, &[slot], &[0]);
        stage.place("service", others, &[slot], &[0]);
        let mut stops = stage.transaction("batch", Vec::new());
        stops.stops = vec![stage.allocation(others, 0)];
        stage.ask(Ask::Commit(stops));
    }),
    ("claims that contradict their job or themselves", |stage| {
        let (_, slot) = stage.machine(|_| {});
        let job = stage.job("batch", |_| {});
        let other = Some(v1::Resources { cpu_millis: 123, ..Default::default() });
        stage.claim("batch", v1::Placement { resources: other, ..placement(job, &[slot], &[0]) });
        stage.claim("batch", v1::Placement { group: 7, ..placement(job, &[slot], &[0]) });
        let twice = vec![placement(job, &[slot], &[0]), placement(job, &[slot], &[0])];
        let twice = stage.transaction("batch", twice);
        stage.ask(Ask::Commit(twice));
        stage.place("batch", job, &[slot + 9], &[1]);
        let names = v1::ClaimExtras { devices: vec![gpu(0, 100)], ..Default::default() };
        stage.claim("batch", v1::Placement { extras: vec![names], ..placement(job, &[slot], &[1]) });
    }),
    ("a single instance that its own transaction stops", |stage| {
        let (_, slot) = stage.machine(|_| {});
        let job = stage.job("batch", |job| job.groups[0].single_instance = true);
        stage.place("batch", job, &[slot], &[0]);
        let mut again = stage.transaction("batch", vec![placement(job, &[slot], &[0])]);
        again.stops = vec![stage.allocation(job, 0)];
        stage.ask(Ask::Commit(again));
    }),
    ("room, devices and ports of victims", |stage| {
        let (_, slot) = stage.machine(|machine| machine.devices = vec![gpu(0, 1000), gpu(1, 1000)]);
        let wants = |priority| {
            move |job: &mut v1::JobShape| {
                job.priority = priority;
                job.groups[0].resources = Some(cpu(1000));
                job.groups[0].devices = vec![gpu(0, 1000)];
                job.groups[0].ports = vec![v1::Port { name: "any".to_owned(), number: 0 }];
            }
        };
        let (low, even, high) =
            (stage.job("batch", wants(10)), stage.job("service", wants(10)), stage.job("service", wants(90)));
        stage.place("batch", low, &[slot, slot], &[0, 1]);
        let victims = |stage: &Stage<'_>| {
            let victim = |task| v1::Preemption { machine: slot, victim: stage.allocation(low, task) };
            vec![victim(0), victim(1)]
        };
        let preemptions = victims(stage);
        stage.claim("service", v1::Placement { preemptions, ..placement(even, &[slot], &[0]) });
        let (preemptions, evicted) = (victims(stage), stage.allocation(low, 0));
        stage.claim("service", v1::Placement { preemptions, ..placement(high, &[slot], &[0]) });
        stage.place("service", high, &[slot], &[1]);
        stage.report(evicted, v1::AllocationState::Evicted);
        stage.report(stage.allocation(high, 0), v1::AllocationState::Running);
    }),
    ("room, a device and a port of one that its own transaction stops", |stage| {
        let (_, slot) = stage.machine(|machine| machine.devices = vec![gpu(0, 1000)]);
        let wants = |job: &mut v1::JobShape| {
            job.groups[0].resources = Some(cpu(1500));
            job.groups[0].devices = vec![gpu(0, 1000)];
            job.groups[0].ports = vec![port(8080)];
        };
        let (first, second) = (stage.job("batch", wants), stage.job("batch", wants));
        stage.place("batch", first, &[slot], &[0]);
        let leaves = stage.allocation(first, 0);
        let take_overs = vec![v1::TakeOver { victim: leaves, ..Default::default() }];
        let extras = vec![v1::ClaimExtras { take_overs, devices: vec![gpu(0, 1000)], ports: vec![port(8080)] }];
        let successor = v1::Placement { extras, ..placement(second, &[slot], &[0]) };
        let mut replaces = stage.transaction("batch", vec![successor]);
        replaces.stops = vec![leaves];
        let mut tried = replaces.clone();
        (tried.dry_run, tried.number) = (true, tried.number + 100);
        stage.ask(Ask::Commit(tried));
        stage.ask(Ask::Commit(replaces));
        let mut idle = stage.transaction("batch", Vec::new());
        idle.stops = vec![leaves];
        stage.ask(Ask::Commit(idle));
        stage.report(leaves, v1::AllocationState::Stopped);
    }),
    ("a spare machine where the first one was lost", |stage| {
        let (first, second) = (stage.machine(|_| {}).1, stage.machine(|_| {}).1);
        let large = |job: &mut v1::JobShape| job.groups[0].resources = Some(cpu(1500));
        let (job, others) = (stage.job("batch", large), stage.job("service", large));
        stage.place("service", others, &[first], &[0]);
        stage.claim("batch", v1::Placement { alternates: vec![first, second], ..placement(job, &[first], &[0]) });
        stage.claim("batch", v1::Placement { alternates: vec![first, second], ..placement(job, &[first], &[1]) });
    }),
    ("holds: used, lost to an earlier one, overdue and given back", |stage| {
        let (first, second) = (stage.machine(|_| {}).1, stage.machine(|_| {}).1);
        let early = stage.job("gang", |job| {
            job.priority = 90;
            job.groups[0].resources = Some(cpu(1000));
        });
        let late = stage.job("service", |_| {});
        hold(stage, late, first, 1500);
        hold(stage, early, first, 1500);
        hold(stage, late, first, 1500);
        hold(stage, late, second, 5000);
        stage.place("gang", early, &[first, first], &[0, 1]);
        hold(stage, late, second, 1500);
        stage.pass(100);
        hold(stage, late, second, 1500);
        let (resources, deadline_micros) = (Some(cpu(500)), stage.time + 60_000_000);
        let back = v1::TakeHold { job: late, machines: Vec::new(), resources, deadline_micros, session: 0 };
        stage.ask(Ask::TakeHold(back));
    }),
    ("a hold for a job of which nothing waits", |stage| {
        let (first, second) = (stage.machine(|_| {}).1, stage.machine(|_| {}).1);
        let gang = stage.job("gang", |_| {});
        stage.place("gang", gang, &[first], &[0]);
        hold(stage, gang, second, 500);
        stage.ask(Ask::ScaleJob(v1::ScaleJob { job: gang, group: 0, count: 1, ..Default::default() }));
        hold(stage, gang, second, 500);
        stage.ask(Ask::StopAllocation(v1::StopAllocation { allocation: stage.allocation(gang, 0) }));
        hold(stage, gang, second, 500);
    }),
    ("launches: each instant once, and in order", |stage| {
        let (_, slot) = stage.machine(|_| {});
        let parent = stage.job("cron", |job| {
            job.kind = v1::JobKind::Recurring.into();
            job.options.insert("launch.scheduler".into(), "batch".into());
        });
        let own = stage.job("gang", |job| job.kind = v1::JobKind::Recurring.into());
        let plain = stage.job("batch", |_| {});
        let mut launch = |parent, instant_micros| stage.ask(Ask::Launch(v1::Launch { parent, instant_micros }));
        let first = launch(parent, 60_000_000);
        for (parent, instant) in [(parent, 60_000_000), (parent, 30_000_000), (plain, 60_000_000), (1 << 32 | 77, 1)] {
            launch(parent, instant);
        }
        let second = launch(parent, 120_000_000);
        let third = launch(own, 120_000_000);
        stage.place("gang", third, &[slot, slot], &[0, 1]);
        for child in [first, second] {
            stage.place("batch", child, &[slot, slot], &[0, 1]);
        }
        stage.place("cron", parent, &[slot], &[0]);
        stage.report(stage.allocation(first, 0), v1::AllocationState::Complete);
        stage.report(stage.allocation(first, 1), v1::AllocationState::Complete);
    }),
    ("tasks that a restored cell does not know: adopted, told to stop, ended", |stage| {
        let (mut machine, slot) = stage.machine(|_| {});
        stage.incarnation = 2;
        stage.start();
        let one = runs_unknown(v1::TaskTraces::default());
        let other = v1::InventoryItem { allocation: one.allocation + 1, ..one.clone() };
        machine.inventory = vec![one.clone(), other.clone()];
        stage.ask(Ask::RegisterMachine(machine.clone()));
        let id = stage.machine_id(slot).0;
        let adopt = |allocation| Ask::AdoptUnknown(v1::AdoptUnknown { machine: id, allocation });
        for allocation in [one.allocation, one.allocation, 1 << 32 | 70] {
            stage.ask(adopt(allocation));
        }
        stage.pass(100);
        stage.ask(adopt(other.allocation));
        machine.inventory = vec![one];
        machine.seen_revision = stage.cell().revision().0;
        stage.ask(Ask::RegisterMachine(machine));
    }),
    ("tasks that a restored cell does not know are stopped by request", |stage| {
        let (mut machine, slot) = stage.machine(|_| {});
        stage.incarnation = 2;
        stage.start();
        let one = runs_unknown(v1::TaskTraces::default());
        let other = v1::InventoryItem { allocation: one.allocation + 1, ..one.clone() };
        machine.inventory = vec![one.clone(), other.clone()];
        stage.ask(Ask::RegisterMachine(machine));
        let machine = stage.machine_id(slot).0;
        stage.ask(Ask::AdoptUnknown(v1::AdoptUnknown { machine, allocation: one.allocation }));
        for allocation in [one.allocation, one.allocation, other.allocation, other.allocation + 1] {
            stage.ask(Ask::StopAllocation(v1::StopAllocation { allocation }));
        }
        stage.pass(1000);
    }),
    ("an agent wants no claims for its machine, and wants them again", |stage| {
        let (mut machine, slot) = stage.machine(|_| {});
        let job = stage.job("batch", |_| {});
        let (id, epoch) = stage.machine_id(slot);
        let (fit, leaves, unwritable) = (v1::Unfit::Unspecified, v1::Unfit::AgentLeaves, v1::Unfit::StateUnwritable);
        let says =
            |unfit: v1::Unfit, epoch| Ask::ReportFitness(v1::ReportFitness { machine: id, epoch, unfit: unfit.into() });
        stage.ask(says(unwritable, epoch));
        stage.place("batch", job, &[slot], &[0]);
        for (unfit, epoch) in [(unwritable, epoch), (leaves, epoch), (fit, epoch + 1), (fit, epoch), (leaves, epoch)] {
            stage.ask(says(unfit, epoch));
        }
        stage.ask(Ask::ExpireMachine(v1::ExpireMachine { machine: id, epoch }));
        stage.ask(says(fit, epoch));
        machine.seen_revision = stage.cell().revision().0;
        stage.ask(Ask::RegisterMachine(machine));
        stage.ask(says(fit, epoch));
        stage.ask(says(fit, epoch + 1));
        stage.place("batch", job, &[slot], &[0]);
    }),
    ("a machine is drained by its deadline", |stage| {
        let (_, slot) = stage.machine(|_| {});
        let job = stage.job("batch", |_| {});
        stage.place("batch", job, &[slot], &[0]);
        let leaves = stage.allocation(job, 0);
        let (machine, deadline_micros) = (stage.machine_id(slot).0, stage.time + 20_000_000);
        stage.ask(Ask::DrainMachine(v1::DrainMachine { machine, deadline_micros }));
        stage.pass(30);
        stage.report(leaves, v1::AllocationState::Stopped);
        stage.ask(Ask::DrainMachine(v1::DrainMachine { machine, deadline_micros: 0 }));
        stage.place("batch", job, &[slot], &[0]);
    }),
    ("a task moves off a machine that is drained, and another one is only stopped there", |stage| {
        let (slot, elsewhere) = (stage.machine(|_| {}).1, stage.machine(|_| {}).1);
        let job = stage.job("batch", |_| {});
        stage.place("batch", job, &[slot, slot], &[0, 1]);
        let deadline_micros = stage.time + 60_000_000;
        stage.ask(Ask::DrainMachine(v1::DrainMachine { machine: stage.machine_id(slot).0, deadline_micros }));
        let mut moves = stage.transaction("batch", vec![placement(job, &[elsewhere], &[0])]);
        moves.stops = vec![stage.allocation(job, 0), stage.allocation(job, 1)];
        let stopped = moves.stops.clone();
        stage.ask(Ask::Commit(moves));
        stopped.into_iter().for_each(|each| stage.report(each, v1::AllocationState::Stopped));
    }),
    ("tasks that the cell does not know are stopped by the deadline of a drain, adopted or not", |stage| {
        let (mut machine, slot) = stage.machine(|_| {});
        stage.incarnation = 2;
        stage.start();
        let one = runs_unknown(v1::TaskTraces::default());
        let item = |more| v1::InventoryItem { allocation: one.allocation + more, ..one.clone() };
        machine.inventory = vec![item(0), item(1)];
        stage.ask(Ask::RegisterMachine(machine.clone()));
        let (id, deadline_micros) = (stage.machine_id(slot).0, stage.time + 20_000_000);
        stage.ask(Ask::AdoptUnknown(v1::AdoptUnknown { machine: id, allocation: one.allocation }));
        stage.ask(Ask::DrainMachine(v1::DrainMachine { machine: id, deadline_micros }));
        stage.pass(10);
        stage.pass(10);
        machine.inventory.push(item(2));
        machine.seen_revision = stage.cell().revision().0;
        stage.ask(Ask::RegisterMachine(machine));
        stage.pass(0);
        stage.ask(Ask::RemoveMachine(v1::RemoveMachine { machine: id, unless_alive: true }));
    }),
    ("what a machine ran is lost, and the machine comes back", |stage| {
        let (mut registration, slot) = stage.machine(|_| {});
        let job = stage.job("batch", |job| {
            job.kind = v1::JobKind::Forever.into();
            job.same_machine = true;
        });
        stage.place("batch", job, &[slot, slot], &[0, 1]);
        stage.report(stage.allocation(job, 0), v1::AllocationState::Running);
        let (machine, epoch) = stage.machine_id(slot);
        stage.ask(Ask::ExpireMachine(v1::ExpireMachine { machine, epoch: epoch + 1 }));
        stage.ask(Ask::ExpireMachine(v1::ExpireMachine { machine, epoch }));
        for _ in 0..4 {
            stage.pass(60);
        }
        registration.boot_id = "boot-2".to_owned();
        stage.ask(Ask::RegisterMachine(registration.clone()));
        registration.seen_revision = stage.cell().revision().0;
        stage.ask(Ask::RegisterMachine(registration));
        stage.place("batch", job, &[slot, slot], &[0, 1]);
        stage.ask(Ask::RemoveMachine(v1::RemoveMachine { machine, unless_alive: false }));
        stage.ask(Ask::RemoveMachine(v1::RemoveMachine { machine, unless_alive: false }));
    }),
    ("a task of a job that shares its machine is lost alone, and then all that runs of one is", |stage| {
        let (_, slot) = stage.machine(|_| {});
        let job = stage.job("batch", |job| {
            job.same_machine = true;
            job.groups[0].count = 3;
        });
        stage.place("batch", job, &[slot, slot], &[0, 1]);
        stage.report(stage.allocation(job, 0), v1::AllocationState::Complete);
        stage.report(stage.allocation(job, 1), v1::AllocationState::EndedLost);
        stage.ask(Ask::ScaleJob(v1::ScaleJob { job, group: 0, count: 2, ..Default::default() }));
        let pair = stage.job("batch", |job| job.same_machine = true);
        stage.place("batch", pair, &[slot, slot], &[0, 1]);
        stage.report(stage.allocation(pair, 1), v1::AllocationState::EndedLost);
        stage.report(stage.allocation(pair, 0), v1::AllocationState::EndedLost);
    }),
    ("failures, to the last attempt", |stage| {
        let (_, slot) = stage.machine(|_| {});
        let retry = v1::RetryPolicy { attempts: 1, delay_micros: 5_000_000 };
        let job = stage.job("batch", |job| job.groups[0].retry = Some(retry));
        for _ in 0..2 {
            stage.place("batch", job, &[slot], &[0]);
            stage.report(stage.allocation(job, 0), v1::AllocationState::Failed);
            stage.pass(10);
        }
        stage.ask(Ask::ScaleJob(v1::ScaleJob { job, group: 0, count: 1, ..Default::default() }));
    }),
    ("transactions that are not decided", |stage| {
        let (_, slot) = stage.machine(|_| {});
        let job = stage.job("batch", |_| {});
        let first = stage.transaction("batch", vec![placement(job, &[slot], &[0])]);
        stage.ask(Ask::Commit(first.clone()));
        stage.ask(Ask::Commit(first.clone()));
        stage.ask(Ask::Commit(v1::Transaction { atomic: true, ..first.clone() }));
        let next = |number| v1::Transaction { number, ..first.clone() };
        stage.ask(Ask::Commit(v1::Transaction { base_revision: 1 << 40, ..next(2) }));
        stage.ask(Ask::Commit(v1::Transaction { incarnation: 9, ..next(2) }));
        let skipped = stage.transaction("batch", Vec::new());
        let last = stage.transaction("batch", Vec::new());
        stage.ask(Ask::Commit(last));
        stage.ask(Ask::Commit(skipped));
        for paused in [true, false] {
            stage.ask(Ask::PauseScheduler(v1::PauseScheduler { scheduler: "batch".to_owned(), paused }));
            stage.place("batch", job, &[slot], &[1]);
        }
        let session = stage.session("batch");
        for _ in 0..2 {
            stage.ask(Ask::CloseSession(v1::CloseSession { session }));
        }
    }),
    ("what is asked of nobody", |stage| {
        let none = 1 << 32 | 77;
        let job = stage.job("batch", |_| {});
        stage.ask(Ask::StopJob(v1::StopJob { job: none, ..Default::default() }));
        stage.ask(Ask::StopAllocation(v1::StopAllocation { allocation: none }));
        stage.ask(Ask::CordonMachine(v1::CordonMachine { machine: none, cordoned: true }));
        stage.ask(Ask::ScaleJob(v1::ScaleJob { job, group: 5, count: 1, ..Default::default() }));
        stage.job("batch", |shape| {
            shape.name = "job-0".to_owned();
            shape.priority = 10;
        });
        stage.ask(Ask::StopJob(v1::StopJob { job, ..Default::default() }));
        stage.ask(Ask::StopJob(v1::StopJob { job, ..Default::default() }));
        stage.report(none, v1::AllocationState::Complete);
    }),
    ("a job of the version that is expected, and of another one", |stage| {
        let mut shape = None;
        let job = stage.job("batch", |made| shape = Some(made.clone()));
        let shape = shape.expect("a job was made");
        for version in [2, 1, 1] {
            stage.ask(Ask::ScaleJob(v1::ScaleJob { job, group: 0, count: 3, version }));
            stage.ask(Ask::StopJob(v1::StopJob { job, version }));
        }
        for expected in [0, 2, 1, 1, 2] {
            stage.submit_at(shape.clone(), Some(expected));
        }
        let other = v1::JobShape { priority: 10, ..shape.clone() };
        for expected in [0, 1, 2] {
            stage.submit_at(other.clone(), Some(expected));
        }
        let new = v1::JobShape { name: "new".to_owned(), ..shape };
        for expected in [1, 0, 0] {
            stage.submit_at(new.clone(), Some(expected));
        }
    }),
    ("a job that is submitted again while a task of it stops", |stage| {
        let (_, slot) = stage.machine(|_| {});
        let mut shape = None;
        let job = stage.job("batch", |made| {
            made.groups[0].single_instance = true;
            shape = Some(made.clone());
        });
        let shape = shape.expect("a job was made");
        stage.place("batch", job, &[slot, slot], &[0, 1]);
        let placed = [0, 1].map(|task| stage.allocation(job, task));
        for count in [1, 2] {
            stage.ask(Ask::ScaleJob(v1::ScaleJob { job, group: 0, count, ..Default::default() }));
        }
        stage.ask(Ask::StopJob(v1::StopJob { job, ..Default::default() }));
        stage.submit(shape.clone());
        for allocation in placed {
            stage.report(allocation, v1::AllocationState::Stopped);
        }
        stage.submit(shape);
    }),
    ("a machine that is removed unless it is alive", |stage| {
        let (_, slot) = stage.machine(|_| {});
        let job = stage.job("batch", |_| {});
        stage.place("batch", job, &[slot], &[0]);
        let (machine, epoch) = stage.machine_id(slot);
        for _ in 0..2 {
            stage.ask(Ask::RemoveMachine(v1::RemoveMachine { machine, unless_alive: true }));
            stage.ask(Ask::ExpireMachine(v1::ExpireMachine { machine, epoch }));
        }
    }),
    ("a scheduler that may not evict", |stage| {
        let (_, slot) = stage.machine(|_| {});
        let wants = |priority| {
            move |job: &mut v1::JobShape| {
                job.priority = priority;
                job.groups[0].resources = Some(cpu(2000));
            }
        };
        let (low, high) = (stage.job("batch", wants(10)), stage.job("service", wants(90)));
        stage.place("batch", low, &[slot], &[0]);
        let rights = [(Some(false), None), (None, Some(9)), (None, Some(9)), (Some(true), Some(1))];
        for (evicts, priority) in rights {
            stage.ask(Ask::SetRights(v1::SetRights { scheduler: "service".to_owned(), evicts, priority }));
            let preemptions = vec![v1::Preemption { machine: slot, victim: stage.allocation(low, 0) }];
            stage.claim("service", v1::Placement { preemptions, ..placement(high, &[slot], &[0]) });
        }
    }),
    ("restarts that come with an end, and with that of one who leaves", |stage| {
        let (_, slot) = stage.machine(|_| {});
        let job = stage.job("batch", |job| job.groups[0].count = 3);
        stage.place("batch", job, &[slot, slot], &[0, 1]);
        let [first, second] = [0, 1].map(|task| stage.allocation(job, task));
        stage.report(first, v1::AllocationState::Running);
        stage.report_of(first, v1::AllocationState::Failed, 3);
        stage.report_of(second, v1::AllocationState::Stopped, 2);
    }),
    ("restarts that come with a registration after a boot", |stage| {
        let (mut registration, slot) = stage.machine(|_| {});
        let job = stage.job("batch", |job| job.groups[0].count = 3);
        stage.place("batch", job, &[slot, slot], &[0, 1]);
        let item = |task, state: v1::AllocationState, restarts| v1::InventoryItem {
            allocation: stage.allocation(job, task),
            state: state.into(),
            restarts,
            ..Default::default()
        };
        registration.inventory =
            vec![item(0, v1::AllocationState::Complete, 3), item(1, v1::AllocationState::Running, 2)];
        registration.boot_id = "boot-2".to_owned();
        registration.seen_revision = stage.cell().revision().0;
        stage.ask(Ask::RegisterMachine(registration));
    }),
    ("a port that is taken over by its name, with room, and then no room for another one", |stage| {
        let (_, slot) = stage.machine(|_| {});
        let wants = |number| {
            move |job: &mut v1::JobShape| {
                job.groups[0].resources = Some(cpu(2000));
                job.groups[0].ports = vec![port(number)];
            }
        };
        let (old, other, new) =
            (stage.job("batch", wants(80)), stage.job("batch", wants(443)), stage.job("batch", wants(80)));
        stage.place("batch", old, &[slot], &[0]);
        let victim = stage.allocation(old, 0);
        stage.ask(Ask::StopAllocation(v1::StopAllocation { allocation: victim }));
        for job in [new, other] {
            let take_overs = vec![v1::TakeOver { victim, ports: vec![80], ..Default::default() }];
            let extras = vec![v1::ClaimExtras { take_overs, ..Default::default() }];
            stage.claim("batch", v1::Placement { extras, ..placement(job, &[slot], &[0]) });
        }
    }),
    ("a victim whose task is claimed, and one that leaves already", |stage| {
        let (_, slot) = stage.machine(|_| {});
        let job = stage.job("batch", |job| job.groups[0].resources = Some(cpu(2000)));
        stage.place("batch", job, &[slot], &[0]);
        let victim = stage.allocation(job, 0);
        stage.report(victim, v1::AllocationState::Running);
        for _ in 0..2 {
            let preemptions = vec![v1::Preemption { machine: slot, victim }];
            stage.claim("batch", v1::Placement { preemptions, ..placement(job, &[slot], &[0]) });
            stage.ask(Ask::StopAllocation(v1::StopAllocation { allocation: victim }));
        }
    }),
];

//! What the built-in schedulers decide, against somebody who sorts all machines anew for each task and asks the ledger about one after the other.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use plenum_policies::{BestFit, Columns, Policy, Request, Scoring, Settings, Spread, Ties, rank};
use plenum_sdk::{Decision, Plan, Scheduler, View};
use plenum_testkit::{JobBuilder, Seat, Stage};
use proptest::prelude::*;

use super::Placer;
use crate::{Batch, GpuPolicy, Service};

/// Task by task, as plainly as can be.
struct Straight<S> {
    name: &'static str,
    scoring: S,
    settings: fn(&View<'_>) -> Settings,
    counts_siblings: bool,
}

impl<S: Scoring> Scheduler for Straight<S> {
    fn name(&self) -> &str {
        self.name
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let (mut decision, mut ledger, mut columns) = (Decision::default(), view.ledger(), Columns::default());
        columns.follow(view.cell(), None, view.promised());
        for work in view.work() {
            let shape = work.shape();
            let eligible = columns.eligible(&shape.constraints, &shape.affinities, view.cell());
            let mut siblings =
                if self.counts_siblings { view.siblings(&work.job, work.group) } else { BTreeMap::new() };
            let mut machines = Vec::new();
            for _ in &work.tasks {
                let request = Request {
                    eligible: eligible.as_deref(),
                    siblings: &siblings,
                    ..Request::new(&shape.resources, (self.settings)(view))
                };
                let ranked = rank(&columns, &request, &self.scoring, usize::MAX);
                let mut slots = ranked.into_iter().map(|ranked| ranked.machine);
                let Some(slot) = slots.find(|&slot| ledger.take(work, slot)) else { break };
                columns.take(slot, &shape.resources);
                if self.counts_siblings {
                    *siblings.entry(slot).or_default() += 1;
                }
                machines.push(slot);
            }
            let mut plan = Plan::incremental();
            plan.claim(work, &work.tasks[..machines.len()], &machines);
            decision.commit(plan);
        }
        decision
    }
}

/// A group: tasks, CPU, and what it asks for besides.
#[derive(Clone, Debug)]
struct Group {
    count: u32,
    cpu_millis: i64,
    per_machine: u32,
    spread: Vec<(&'static str, u32)>,
    port: Option<u32>,
    gpu_millis: Option<i32>,
    wish: Option<(u32, i32)>,
    rack: Option<u32>,
}

fn group() -> impl Strategy<Value = Group> {
    let spread = prop::collection::btree_map(prop::sample::select(vec!["rack", "zone", "serial"]), 1u32..6, 0..3);
    let limits = (prop_oneof![2 => Just(0u32), 1 => 1u32..4], spread);
    let devices = (prop::option::weighted(0.2, 0u32..2), prop::option::weighted(0.2, 1i32..5));
    let wishes = (prop::option::weighted(0.3, (0u32..4, 1i32..100)), prop::option::weighted(0.2, 0u32..4));
    (1u32..20, 1i64..6, limits, devices, wishes).prop_map(|(count, cpu, limits, devices, wishes)| Group {
        count,
        cpu_millis: cpu * 100,
        per_machine: limits.0,
        spread: limits.1.into_iter().collect(),
        port: devices.0,
        gpu_millis: devices.1.map(|quarters| quarters * 250),
        wish: wishes.0,
        rack: wishes.1,
    })
}

impl Group {
    fn add_to(&self, job: JobBuilder, name: &str) -> JobBuilder {
        let job = job.group(name, self.count, self.cpu_millis).per_machine(self.per_machine);
        let job = self.spread.iter().fold(job, |job, &(attribute, most)| job.spread(attribute, most));
        let job = self.port.into_iter().fold(job, |job, port| job.port("http", port * 80));
        let job = self.gpu_millis.into_iter().fold(job, JobBuilder::gpu);
        let job = self.wish.iter().fold(job, |job, &(rack, weight)| job.wish("rack", &format!("r{rack}"), weight));
        self.rack.into_iter().fold(job, |job, rack| job.on("rack", &format!("r{rack}")))
    }
}

#[derive(Clone, Debug)]
enum Happening {
    Submit(Vec<Group>),
    /// So many jobs, of which the cell hears later than the scheduler decides on the next one.
    SubmitUnheard(Vec<Group>),
    Finish(usize, bool),
    Advance(i64),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        3 => prop::collection::vec(group(), 1..3).prop_map(Happening::Submit),
        2 => prop::collection::vec(group(), 2..4).prop_map(Happening::SubmitUnheard),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(job, success)| Happening::Finish(job, success)),
        1 => (1i64..3_000_000).prop_map(Happening::Advance),
    ]
}

/// A machine's CPU, rack (0: it has none) and GPUs.
type Made = (u64, u32, u32);

/// Where all tasks of all jobs are after each happening, and how much was refused that never fitted.
fn told(scheduler: impl Scheduler + 'static, machines: &[Made], happenings: &[Happening]) -> (Vec<String>, u64) {
    let mut stage = Stage::new();
    for (number, &(cpu_millis, rack, gpus)) in (0..).zip(machines) {
        let (rack_name, zone, serial) = (format!("r{rack}"), format!("z{}", number % 2), format!("s{number}"));
        let attributes = [("serial", serial.as_str()), ("zone", zone.as_str()), ("rack", rack_name.as_str())];
        let attributes = &attributes[..if rack == 0 { 2 } else { 3 }];
        stage.machine_with_gpus(&format!("m{number}"), cpu_millis * 250, attributes, gpus);
    }
    let name = scheduler.name().to_owned();
    let seat: Seat = stage.seat(scheduler);
    let (mut jobs, mut story) = (Vec::new(), Vec::new());
    for happening in happenings {
        match happening {
            Happening::Submit(groups) => {
                let job = JobBuilder::new(&format!("job{}", jobs.len()), &name);
                let job = (0..).zip(groups).fold(job, |job, (at, group)| group.add_to(job, &format!("g{at}")));
                jobs.push(stage.submit(&job.forgiving()));
                stage.advance(10_000);
            }
            Happening::SubmitUnheard(groups) => {
                stage.hold(seat);
                for group in groups {
                    let job = group.add_to(JobBuilder::new(&format!("job{}", jobs.len()), &name), "g");
                    jobs.push(stage.submit(&job.forgiving()));
                    stage.advance(10_000);
                }
                stage.release(seat);
            }
            Happening::Finish(job, success) if !jobs.is_empty() => stage.finish(jobs[job % jobs.len()], *success),
            Happening::Finish(..) => {}
            Happening::Advance(micros) => stage.advance(*micros),
        }
        // Two decisions are a moment apart, whenever the last one was.
        stage.advance(5_000);
        story.push(format!("{:?}", jobs.iter().map(|&job| stage.placed(job)).collect::<Vec<_>>()));
    }
    (story, stage.runtime(seat).counters().claims_misfit)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn limits_devices_and_ports_are_placed_as_if_all_machines_were_sorted_and_asked_for_each_task(
        machines in prop::collection::vec((1u64..16, 0u32..4, 0u32..3), 1..14),
        happenings in prop::collection::vec(happening(), 1..7),
    ) {
        let spread = Straight {
            name: "service",
            scoring: Spread,
            settings: |_| Settings::default(),
            counts_siblings: true,
        };
        prop_assert_eq!(told(Service::default(), &machines, &happenings), told(spread, &machines, &happenings));
        let packed = Straight {
            name: "batch",
            scoring: BestFit,
            settings: |view| {
                Settings { ties: Ties::Seeded, seed: view.seed(), nearness: 250.0, ..Settings::default() }
            },
            counts_siblings: false,
        };
        let batch = Batch::default().gpus_by(GpuPolicy::ByRoom);
        prop_assert_eq!(told(batch, &machines, &happenings), told(packed, &machines, &happenings));
    }
}

/// Places nothing. Notes of each group that waits whether its job's need is the one that was found for the first group, and whether it would be in the next decision.
struct Asking {
    placer: Placer,
    same: Rc<RefCell<Vec<[bool; 2]>>>,
}

impl Scheduler for Asking {
    fn name(&self) -> &str {
        "batch"
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let mut needs = || {
            self.placer.begin(view, Settings::default());
            view.work().iter().map(|work| self.placer.need(view, &work.job)).collect::<Vec<_>>()
        };
        let (now, next) = (needs(), needs());
        let is_first = |need: &Arc<_>| Arc::ptr_eq(&now[0], need);
        self.same.borrow_mut().extend(now.iter().zip(&next).map(|(now, next)| [is_first(now), is_first(next)]));
        Decision::default()
    }
}

/// Each of fifty groups that waited for a machine found out anew which of them may run side by side, in each decision.
#[test]
fn what_a_job_asks_of_a_machine_to_share_is_found_out_once_in_a_decision() {
    let mut stage = Stage::new();
    stage.machine("m0", 4_000, &[]);
    let same: Rc<RefCell<Vec<[bool; 2]>>> = Rc::default();
    stage.seat(Asking { placer: Placer::new(Policy::BestFit), same: Rc::clone(&same) });
    let job = JobBuilder::new("words", "batch").same_machine().group("a", 1, 9_000).group("b", 1, 9_000);
    stage.submit(&job.group("c", 1, 9_000));
    stage.settle();
    assert_eq!(same.borrow()[..3], [[true, false]; 3]);
}

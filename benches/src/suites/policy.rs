//! Suite `policy`: how long a placement decision takes, and what settings do to neighbours who decide on the same snapshot. One core, warm; no disk and
//! no network.
//!
//! Each decision is exact: all machines that satisfy a constraint are looked at, and the answers of one round are compared with a plain search before
//! anything is timed.

mod gpus;
mod neighbours;
mod world;

use std::hint::black_box;

use anyhow::ensure;
use plenum_policies::{Index, Policy, Request, Settings, Ties, choose};
use serde_json::json;

use super::Others;
use crate::figure::{Better, Case, Figure, Parameters, by_name, number};
use crate::kept::Kept;
use crate::progress::say;
use crate::thread_time::Stopwatch;
use crate::{Run, interrupt};
use world::World;

pub(crate) const NAME: &str = "policy";

/// Sizes of cells. The first two are what the suite's goals are about.
const SIZES: [u32; 2] = [10_000, 100_000];

/// A sample looks at so many machines, over all its decisions: some milliseconds.
const SAMPLE_ROWS: u32 = 20_000_000;

/// Equal tasks that are placed at once.
const MANY: u32 = 1000;

/// Rows that change between two decisions of a class of equal tasks that an index is asked about.
const CHANGED: u32 = 50;

/// One case: which machines, by which policy, with ties by which rule.
#[derive(Clone, Copy)]
struct Shape {
    machines: u32,
    policy: Policy,
    seeded: bool,
}

impl Shape {
    fn name(&self) -> String {
        let ties = if self.seeded { " ties=seeded" } else { "" };
        format!("machines={} policy={}{ties}", self.machines, self.policy.name())
    }

    fn settings(&self, seed: u64) -> Settings {
        Settings { ties: if self.seeded { Ties::Seeded } else { Ties::LowestSlot }, seed, ..Settings::default() }
    }
}

pub(crate) fn run(options: &Run, kept: &mut Kept<'_>) -> anyhow::Result<()> {
    for machines in SIZES {
        let further = if options.quick { &[Policy::BestFit][..] } else { &Policy::ALL };
        let shapes = further.iter().flat_map(|&policy| {
            let seeded = if options.quick { &[false][..] } else { &[false, true] };
            seeded.iter().map(move |&seeded| Shape { machines, policy, seeded })
        });
        let shapes: Vec<Shape> = shapes.filter(|shape| options.has_case(&shape.name())).collect();
        if shapes.is_empty() {
            continue;
        }
        say(&format!("machines={machines}: building"));
        let mut world = World::build(machines, options.seed)?;
        for shape in shapes.into_iter().take_while(|_| !interrupt::asked()) {
            kept.add(run_case(&mut world, &shape, options)?);
        }
    }
    gpus::run(options, kept)?;
    neighbours::run(options, kept)
}

fn run_case(world: &mut World, shape: &Shape, options: &Run) -> anyhow::Result<Vec<Figure>> {
    let name = shape.name();
    let settings = shape.settings(options.seed);
    let checked = check(world, shape, settings)?;
    let samples = if options.quick { 7 } else { 15 };
    let others = Others::look(vec![std::process::id()])?;
    let rounds = (SAMPLE_ROWS / shape.machines).max(1);
    let one = time(samples, rounds, |round| {
        let request = world.request(round, settings);
        black_box(choose(&world.columns, black_box(&request), shape.policy, 1));
    })?;
    let many_rounds = (rounds / 20).max(1);
    let many = time(samples, many_rounds, |round| {
        let request = world.request(round, settings);
        black_box(choose(&world.columns, black_box(&request), shape.policy, MANY));
    })?;
    let indexed = if shape.policy == Policy::Random { None } else { Some(index(world, shape, settings, samples)?) };
    let others = others.cores()?;
    say(&format!("{name}: {checked} decisions checked; others used {others} cores"));
    let case = Case { suite: NAME, case: &name, parameters: parameters(world, rounds, others) };
    let mut figures = vec![
        case.figure("decision_seconds", "s", Better::Lower, one)?,
        case.figure("thousand_tasks_seconds", "s", Better::Lower, many)?,
    ];
    if let Some(indexed) = indexed {
        figures.push(case.figure("indexed_decision_seconds", "s", Better::Lower, indexed)?);
    }
    Ok(figures)
}

/// Decisions of an index, some rows changing before each: the changes are a scheduler's own placements, and are timed with it.
fn index(world: &mut World, shape: &Shape, settings: Settings, samples: u32) -> anyhow::Result<Vec<f64>> {
    let mut index = Index::default();
    let mut next = 0;
    let rounds = (SAMPLE_ROWS / shape.machines).max(1);
    time(samples, rounds, |_| {
        for _ in 0..CHANGED {
            next = (next + 7919) % shape.machines;
            world.columns.touch(next);
        }
        let request = Request::new(world.needs(0), settings);
        black_box(index.choose(&world.columns, black_box(&request), world.eligible(0), shape.policy, 1));
    })
}

/// Seconds a round, of each sample. One round of all is done before, to warm up.
fn time(samples: u32, rounds: u32, mut work: impl FnMut(u32)) -> anyhow::Result<Vec<f64>> {
    (0..rounds.min(100)).for_each(&mut work);
    let mut sample = || {
        let mut watch = Stopwatch::default();
        watch.time(|| (0..rounds).for_each(&mut work))?;
        Ok(watch.cpu.as_secs_f64() / f64::from(rounds))
    };
    (0..samples).map(|_| sample()).collect()
}

/// Compares one round of decisions with a plain search over all machines.
fn check(world: &World, shape: &Shape, settings: Settings) -> anyhow::Result<u64> {
    let mut checked = 0;
    for round in 0..world.kinds() {
        let request = world.request(round, settings);
        let chosen = choose(&world.columns, &request, shape.policy, 1);
        let fitting = world.fitting(round);
        ensure!(chosen.len() == usize::from(!fitting.is_empty()), "{}: expected one machine", shape.name());
        let Some(&chosen) = chosen.first() else { continue };
        ensure!(fitting.contains(&chosen), "{}: expected a machine that fits, found {chosen}", shape.name());
        if shape.policy == Policy::BestFit {
            let least = fitting.iter().map(|&slot| world.room_left(slot)).fold(f64::INFINITY, f64::min);
            // Costs have 24 bits.
            let near = least + least.abs() / number(1 << 22) + 0.5;
            let found = world.room_left(chosen);
            ensure!(found <= near, "{}: expected {least} left on the best machine, found {found}", shape.name());
        }
        checked += 1;
    }
    ensure!(checked > 0, "{}: expected some tasks to fit", shape.name());
    let many = choose(&world.columns, &world.request(0, settings), shape.policy, MANY).len();
    ensure!(many == MANY as usize, "{}: expected room for {MANY} tasks, found {many}", shape.name());
    Ok(checked)
}

fn parameters(world: &World, rounds: u32, others: f64) -> Parameters {
    let all = [
        ("decisions_per_sample", json!(rounds)),
        ("kinds_of_tasks", json!(world.kinds())),
        ("room_used", json!(world.used())),
        (
            "decision",
            json!(
                "the best of all machines that satisfy one of two constraints, each met by about half of them; kinds of tasks in turn"
            ),
        ),
        ("thousand_tasks", json!("one call for 1,000 equal tasks, as if each had been placed after the one before")),
        ("indexed_decision", json!(format!("equal tasks one by one, {CHANGED} rows changing before each"))),
        ("clock", json!("CPU time of the deciding thread")),
        ("cores_of_others", json!(others)),
    ];
    by_name(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions_of_all_policies_hold_against_a_plain_search() {
        let world = World::build(2000, 7).unwrap();
        for policy in Policy::ALL {
            for seeded in [false, true] {
                let shape = Shape { machines: 2000, policy, seeded };
                assert!(check(&world, &shape, shape.settings(3)).unwrap() > 10);
            }
        }
    }
}

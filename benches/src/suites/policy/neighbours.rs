//! Schedulers that decide on the same snapshot: how many of their claims a cell would grant, and how well they pack, by setting.
//!
//! Each of the schedulers places tasks of its own, without knowing of the others; then their claims are judged one by one in turns, as a cell does. Nothing
//! is timed, so these figures are the same on every machine.

use std::collections::BTreeMap;

use anyhow::ensure;
use plenum_model::Resources;
use plenum_policies::{Parts, Policy, Request, Settings, Ties, choose};
use serde_json::json;

use super::NAME;
use super::world::World;
use crate::Run;
use crate::figure::{Better, Case, by_name};
use crate::kept::Kept;
use crate::progress::say;
use crate::random::seed_of;

/// The cell, schedulers, and the tasks that each of them places.
const MACHINES: u32 = 10_000;
const SCHEDULERS: u32 = 8;
const TASKS: u32 = 100;
/// Snapshots, each with other tasks.
const ROUNDS: u32 = 16;

/// How schedulers keep apart.
#[derive(Clone, Copy)]
struct Apart {
    name: &'static str,
    policy: Policy,
    settings: Settings,
    /// Each scheduler begins with another of so many parts.
    parts: u32,
}

const PLAIN: Settings = Settings { ties: Ties::LowestSlot, seed: 0, turn: 0, nearness: 0.0, sample: None, parts: None };
const SEEDED: Settings = Settings { ties: Ties::Seeded, ..PLAIN };

const APART: [Apart; 9] = [
    Apart { name: "policy=best-fit", policy: Policy::BestFit, settings: PLAIN, parts: 0 },
    Apart { name: "policy=best-fit ties=seeded", policy: Policy::BestFit, settings: SEEDED, parts: 0 },
    nearness("policy=best-fit nearness=250", 250.0),
    nearness("policy=best-fit nearness=1000", 1000.0),
    nearness("policy=best-fit nearness=4000", 4000.0),
    Apart { name: "policy=best-fit parts=8", policy: Policy::BestFit, settings: PLAIN, parts: SCHEDULERS },
    sample("policy=best-fit sample=2", 2),
    sample("policy=best-fit sample=10", 10),
    Apart { name: "policy=random", policy: Policy::Random, settings: PLAIN, parts: 0 },
];

const fn nearness(name: &'static str, nearness: f32) -> Apart {
    Apart { name, policy: Policy::BestFit, settings: Settings { nearness, ..SEEDED }, parts: 0 }
}

const fn sample(name: &'static str, most: u32) -> Apart {
    Apart { name, policy: Policy::BestFit, settings: Settings { sample: Some(most), ..PLAIN }, parts: 0 }
}

/// What became of all claims.
#[derive(Clone, Copy, Default)]
struct Seen {
    claims: u32,
    granted: u32,
    /// Large tasks that would still fit afterwards, over those that fitted before.
    holes: f64,
}

pub(super) fn run(options: &Run, kept: &mut Kept<'_>) -> anyhow::Result<()> {
    let name = |apart: &Apart| format!("schedulers={SCHEDULERS} {}", apart.name);
    let wanted: Vec<&Apart> = APART.iter().filter(|apart| options.has_case(&name(apart))).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let rounds = if options.quick { 2 } else { ROUNDS };
    say(&format!("schedulers={SCHEDULERS}: {rounds} snapshots of {MACHINES} machines"));
    let mut worlds = worlds(MACHINES, options.seed, rounds)?;
    for apart in wanted {
        let seen: Vec<Seen> = worlds.iter_mut().map(|world| judge(world, apart)).collect::<anyhow::Result<_>>()?;
        let parameters = [
            ("machines", json!(MACHINES)),
            ("tasks_per_scheduler", json!(TASKS)),
            ("snapshots", json!(rounds)),
            ("granted", json!("claims that still fit when their turn comes, of all; nothing is tried again")),
            ("holes", json!("tasks of 8 cores and 32 GiB that fit afterwards, of those that fitted before")),
        ];
        let parameters = by_name(parameters);
        let name = name(apart);
        let case = Case { suite: NAME, case: &name, parameters };
        let granted = |seen: &Seen| f64::from(seen.granted) / f64::from(seen.claims);
        kept.add([
            case.figure("granted_ratio", "1", Better::Higher, seen.iter().map(granted).collect())?,
            case.figure("holes_ratio", "1", Better::Higher, seen.iter().map(|seen| seen.holes).collect())?,
        ]);
    }
    Ok(())
}

/// So many snapshots, each drawn by itself.
fn worlds(machines: u32, seed: u64, rounds: u32) -> anyhow::Result<Vec<World>> {
    (0..rounds).map(|round| World::build(machines, seed_of(seed, round.into()))).collect()
}

/// All schedulers decide, and then the cell judges.
fn judge(world: &mut World, apart: &Apart) -> anyhow::Result<Seen> {
    let claims: Vec<(u32, Vec<u32>)> = (0..SCHEDULERS)
        .map(|scheduler| {
            let mut settings = Settings { seed: u64::from(scheduler) + 1, ..apart.settings };
            if apart.parts > 0 {
                settings.parts = Some(Parts { count: apart.parts, first: scheduler });
            }
            // All ask for the same: what happens when a job is cut into as many as there are schedulers, and the worst case.
            (0, choose(&world.columns, &world.request(0, settings), apart.policy, TASKS))
        })
        .collect();
    let before = holes(world);
    let mut seen = Seen::default();
    let mut taken: BTreeMap<u32, u32> = BTreeMap::new();
    for turn in 0..TASKS as usize {
        for (kind, machines) in &claims {
            let Some(&slot) = machines.get(turn) else { continue };
            seen.claims += 1;
            let need = *world.needs(*kind);
            if world.columns.room(slot).is_some_and(|room| room.shortage(&need).is_none()) {
                world.columns.take(slot, &need);
                *taken.entry(slot).or_default() += 1;
                seen.granted += 1;
            }
        }
    }
    ensure!(seen.claims == SCHEDULERS * TASKS, "expected a machine for every task, found {}", seen.claims);
    seen.holes = f64::from(holes(world)) / f64::from(before);
    let need = *world.needs(0);
    for (slot, times) in taken {
        (0..times).for_each(|_| world.columns.give(slot, &need));
    }
    Ok(seen)
}

/// How many large tasks would fit.
fn holes(world: &World) -> u32 {
    let large = Resources::new(8000, 32 << 30);
    let most = u32::MAX >> 8;
    let machines = choose(&world.columns, &Request::new(&large, PLAIN), Policy::FirstFit, most);
    u32::try_from(machines.len()).unwrap_or(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    // All snapshots of a seed but one were those of the next seed, too: two runs with neighbouring seeds were no two samples.
    #[test]
    fn runs_with_neighbouring_seeds_have_no_snapshot_in_common() {
        let tasks = |seed: u64| {
            let worlds = worlds(200, seed, 4).unwrap();
            worlds.iter().map(|world| format!("{:?}", [0, 2, 4].map(|kind| *world.needs(kind)))).collect::<Vec<_>>()
        };
        let (one, next) = (tasks(1), tasks(2));
        assert!(one.iter().all(|world| !next.contains(world)), "{one:?} {next:?}");
        assert_eq!(tasks(1), one);
    }

    #[test]
    fn neighbours_who_keep_apart_are_granted_more_than_those_who_do_not() {
        let mut world = World::build(4000, 7).unwrap();
        let granted = |world: &mut World, apart: &Apart| judge(world, apart).unwrap().granted;
        let [alike, .., random] = [&APART[0], &APART[5], &APART[8]].map(|apart| granted(&mut world, apart));
        assert!(alike * 2 < random, "{alike} against {random}");
        assert_eq!(granted(&mut world, &APART[5]), SCHEDULERS * TASKS, "parts do not meet while they have room");
        assert_eq!(granted(&mut world, &APART[0]), alike, "what was taken is given back");
    }
}

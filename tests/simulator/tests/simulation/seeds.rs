//! Seeds without a bug: the cell survives all of them.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use plenum_model::planted::Bug;
use plenum_simulator::{Failure, Tally, run, run_with, story};

use crate::stories::first_difference;

/// Seeds of the gate.
const SEEDS: Range<u64> = 0..1000;
/// Where these have not taken all paths, so many more are played at a time, up to this one.
const SEEDS_MORE: u64 = 250;
const SEEDS_MOST: u64 = 3000;

/// Seeds that failed once, and what was wrong then. A seed is another run as soon as the simulation draws anything else: each of these has a test
/// of its own, too, where the mistake was.
const FAILED_ONCE: [(u64, &str); 8] = [
    (5_681, "a job whose submission was stuck until it had been stopped ran again, and nobody stopped it any more"),
    (60_005, "a victim that ran again in a restored cell kept its old successor from starting anew, for the judge"),
    (
        72_257,
        "the owner of the jobs asked a cell with a slow disk for so much each second that it was never answered in time",
    ),
    (3_007_458, "a task that waited again before its outcome was heard was not placed any more"),
    (3_007_829, "somebody was to be evicted for a port that a task unknown to the cell has, too"),
    (3_025_644, "a claim that lost a device since its base was told that it never fitted"),
    (3_036_077, "an outcome was read back from a disk that had died, for a server that was to follow it"),
    (3_052_706, "an agent forgot an end that had come too late for its epoch, and the task was started again"),
];

/// The seeds that were asked for; `None`: those of the gate.
fn asked() -> Option<Range<u64>> {
    let asked = std::env::var("PLENUM_SEEDS").ok()?;
    let (first, end) = asked.split_once("..").expect("PLENUM_SEEDS is FIRST..END");
    Some(first.parse().expect("a number")..end.parse().expect("a number"))
}

/// The bug that was asked for.
fn bug() -> Option<Bug> {
    std::env::var("PLENUM_BUG").ok().map(|name| name.parse().unwrap_or_else(|error| panic!("PLENUM_BUG: {error}")))
}

/// Plays the seeds on all processors. The failure of the smallest seed that fails, whoever comes first to one.
fn play(seeds: Range<u64>) -> Result<Tally, Box<Failure>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (next, end) = (AtomicU64::new(seeds.start), AtomicU64::new(seeds.end));
    let (tally, failed) = (Mutex::new(Tally::default()), Mutex::new(None::<Box<Failure>>));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end.load(Ordering::Relaxed) {
                        return;
                    }
                    match bug().map_or_else(|| run(seed), |bug| run_with(bug, seed)) {
                        Ok(counts) => tally.lock().expect("nobody panics with it").add(&counts),
                        Err(failure) => {
                            end.fetch_min(seed, Ordering::Relaxed);
                            let mut failed = failed.lock().expect("nobody panics with it");
                            if failed.as_ref().is_none_or(|other| other.seed > seed) {
                                *failed = Some(failure);
                            }
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("nobody panics with it");
    failed.map_or_else(|| Ok(tally.into_inner().expect("nobody panics with it")), Err)
}

/// The same; what fails is told with its story.
fn play_or_tell(seeds: Range<u64>) -> Tally {
    play(seeds).unwrap_or_else(|failure| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("seed-{}.txt", failure.seed));
        std::fs::write(&path, &failure.story).expect("Cargo's folder for tests is writable");
        panic!(
            "{failure}\nits story: {}; it becomes a test when it is copied to tests/stories, with words for what it tells, \
             and blessed: cargo xtask stories --bless; where it is too long, write a test where the mistake is, and add \
             the seed to FAILED_ONCE",
            path.display()
        );
    })
}

/// What is counted or marked, and was never met.
fn never_taken(tally: &Tally) -> Vec<String> {
    let rare = marked_paths().into_iter().filter(|path| !tally.rare.contains_key(path));
    tally.never_taken().into_iter().chain(rare).collect()
}

#[test]
fn a_cell_survives_every_mix_of_faults() {
    let asked = asked();
    let mut seeds = asked.clone().unwrap_or(SEEDS);
    let started = Instant::now();
    let mut tally = play_or_tell(seeds.clone());
    let mut never = never_taken(&tally);
    // The rarest paths are taken once in some hundred seeds: what these have not taken by chance, some of the next ones do.
    while asked.is_none() && !never.is_empty() && seeds.end < SEEDS_MOST {
        let more = seeds.end..seeds.end + SEEDS_MORE;
        seeds.end = more.end;
        tally.add(&play_or_tell(more));
        never = never_taken(&tally);
    }
    let count = seeds.end - seeds.start;
    // Not asserted: the machine may be busy.
    let (seconds, number) = (started.elapsed().as_secs_f64(), f64::from(u32::try_from(count).unwrap_or(u32::MAX)));
    println!("{tally}\n{count} seeds took {seconds:.1} s, {:.1} a second", number / seconds);
    // A few seeds that somebody asks for need not see everything.
    assert!(asked.is_some() || never.is_empty(), "no seed took these paths: {}", never.join(", "));
}

#[test]
fn seeds_that_failed_once_fail_no_more() {
    for (seed, wrong) in FAILED_ONCE {
        if let Err(failure) = run(seed) {
            panic!("{failure}\nonce it was that {wrong}");
        }
    }
}

// Two runs that count the same may have done it in another order.
#[test]
fn a_seed_gives_the_same_run_again() {
    for seed in 0..5 {
        let counts = || run(seed).expect("it is a seed of the gate");
        assert_eq!(counts(), counts());
        let (first, again) = (story(seed), story(seed));
        assert!(first == again, "seed {seed}, told twice: {}", first_difference(&first, &again));
        assert!(first.lines().count() > 100, "seed {seed} tells nothing:\n{first}");
    }
}

/// The sentences of all `rare!("…")` in the sources of the parts that are simulated.
fn marked_paths() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut paths = BTreeSet::new();
    let mut folders: Vec<PathBuf> =
        ["cellstate", "agent/src", "schedulers", "policies/src", "proto/src"].map(|folder| root.join(folder)).into();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("the project's folders are readable") {
            let path = entry.expect("the project's folders are readable").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source file is text");
                let marks = text.split("rare!(\"").skip(1).filter_map(|rest| rest.split('"').next());
                paths.extend(marks.map(str::to_owned));
            }
        }
    }
    assert!(paths.len() > 5, "the marks of rare paths were not found: {paths:?}");
    paths
}

//! Stories in `tests/stories`: each is played, and must be told as it is written there. `cargo xtask stories --bless` writes what is
//! told now; whether that is right, whoever reads the change decides.

use std::path::{Path, PathBuf};

use plenum_simulator::{run_with, stories, story};

/// Runs that are told and played again.
const SEEDS: std::ops::Range<u64> = 0..30;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../stories")
}

fn files() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder()).expect("the stories lie in tests/stories");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("the folder is readable").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    files.sort();
    files
}

/// The first line that differs, with its number, as written and as told.
pub(crate) fn first_difference(written: &str, told: &str) -> String {
    let number = written.lines().zip(told.lines()).take_while(|(one, other)| one == other).count();
    let line = |text: &str| text.lines().nth(number).unwrap_or("the end").to_owned();
    format!("line {}\n  written: {}\n  told:    {}", number + 1, line(written), line(told))
}

#[test]
fn every_story_is_told_as_it_is_written() {
    let bless = std::env::var_os("PLENUM_BLESS").is_some();
    let files = files();
    assert!(files.len() >= 3, "stories were not found: {files:?}");
    let mut wrong = Vec::new();
    for path in files {
        let written = std::fs::read_to_string(&path).expect("a story is text");
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        match stories::play(&written) {
            Ok(told) if told == written => {}
            Ok(told) if bless => std::fs::write(&path, told).expect("the folder is writable"),
            Ok(told) => wrong.push(format!("{name}: {}", first_difference(&written, &told))),
            Err(violation) => wrong.push(format!("{name}: {violation}")),
        }
    }
    assert!(wrong.is_empty(), "{}\nif this is as it should be: cargo xtask stories --bless", wrong.join("\n"));
}

#[test]
fn every_story_opens_with_words() {
    for path in files() {
        let text = std::fs::read_to_string(&path).expect("a story is text");
        let words = text.split(stories::RULE).next().unwrap_or_default();
        assert!(words.split_whitespace().count() > 20, "{}: say what happens, and why it matters", path.display());
    }
}

// Of the bounds of its core a run told five, so that another one played it: what was decided by the others came out otherwise.
#[test]
fn a_run_is_told_as_it_is_when_it_is_played_again() {
    for seed in SEEDS {
        let written = story(seed);
        let told = stories::play(&written).unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        assert!(told == written, "seed {seed}: {}", first_difference(&written, &told));
    }
}

/// A seed becomes a test by copying what it printed.
#[test]
fn a_failed_run_prints_a_story_that_can_be_played() {
    let bug = plenum_model::planted::Bug::HastyReceipts;
    let failure = (0..50).find_map(|seed| run_with(bug, seed).err()).expect("the bug is found");
    assert!(failure.to_string().contains(&format!("--seeds {}..{}", failure.seed, failure.seed + 1)));
    let told = stories::play(&failure.story).unwrap_or_else(|violation| panic!("{violation}\n{}", failure.story));
    let steps = |text: &str| text.lines().filter(|line| line.starts_with('@')).count();
    assert!(steps(&told) > 5 && steps(&told) == steps(&failure.story), "{told}");
    assert_eq!(stories::play(&told).expect("it was just played"), told);
}

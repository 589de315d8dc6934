//! The loop: takes inputs of the corpus, changes them, feeds them, and says what it found.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::coverage::Reached;
use crate::mutate::{Random, mutate};
use crate::targets::Target;
use crate::weigh::most_held;

/// What a target may hold at most: this …
const HELD_BYTES: usize = 1 << 20;
/// … and so many bytes for each byte of the input. An empty message takes two bytes on the wire and some hundred as a value, a copy of
/// it in the model as many again, and a vector that grows twice as much. A length that is believed before it is seen is far above.
const HELD_BYTES_PER_BYTE: usize = 1024;

/// What an input did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Find {
    /// The target panicked.
    Panic(String),
    /// It held so many bytes at once.
    Hunger(usize),
}

/// An input that did something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The bytes.
    pub input: Vec<u8>,
    /// What they did.
    pub find: Find,
}

/// The folder of a target's corpus.
#[must_use]
pub fn folder(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name)
}

/// The inputs of a target's corpus, by name.
///
/// # Errors
/// When its folder can't be read.
pub fn corpus(target: &Target) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut inputs = Vec::new();
    for entry in fs::read_dir(folder(target))? {
        let path = entry?.path();
        inputs.push((path.clone(), fs::read(path)?));
    }
    inputs.sort();
    Ok(inputs)
}

/// Feeds one input.
///
/// # Errors
/// What it did.
pub fn feed(target: &Target, input: &[u8]) -> Result<(), Find> {
    let (done, held) = most_held(|| catch_unwind(AssertUnwindSafe(|| (target.run)(input))));
    if let Err(panic) = done {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        return Err(Find::Panic(text.unwrap_or_default()));
    }
    let most = HELD_BYTES + HELD_BYTES_PER_BYTE * input.len();
    if held > most { Err(Find::Hunger(held)) } else { Ok(()) }
}

/// Feeds changed inputs while `goes_on` says so; the first find, made smaller.
///
/// # Errors
/// What was found.
pub fn search(
    target: &Target,
    corpus: &[Vec<u8>],
    seed: u64,
    mut goes_on: impl FnMut(u64) -> bool,
) -> Result<u64, Box<Found>> {
    let mut random = Random::new(seed);
    let empty = Vec::new();
    let mut fed = 0;
    while goes_on(fed) {
        let pick = |random: &mut Random| corpus.get(random.below(corpus.len())).unwrap_or(&empty).clone();
        let (mut input, other) = (pick(&mut random), pick(&mut random));
        mutate(&mut input, &other, &mut random);
        if let Err(find) = feed(target, &input) {
            let input = smaller(target, input, &find);
            return Err(Box::new(Found { input, find }));
        }
        fed += 1;
    }
    Ok(fed)
}

/// Inputs that one exploration keeps at most: with the longest input, 96 MiB.
const POOL_MAX: usize = 4096;

/// What an exploration came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explored {
    /// Inputs that were fed.
    pub fed: u64,
    /// Edges of the control flow that the first pool reached.
    pub edges_before: usize,
    /// Those that are reached now.
    pub edges: usize,
}

/// As [`search`], in a build that counts what is reached: inputs that lead somewhere new come into the pool, and are changed further.
///
/// # Errors
/// What was found.
pub fn explore(
    target: &Target,
    pool: &mut Vec<Vec<u8>>,
    seed: u64,
    mut goes_on: impl FnMut(u64) -> bool,
) -> Result<Explored, Box<Found>> {
    let (mut random, mut reached, mut fed) = (Random::new(seed), Reached::default(), 0);
    let found = |input: Vec<u8>, find: Find| Err(Box::new(Found { input: smaller(target, input, &find), find }));
    for input in &*pool {
        if let (Err(find), _) = reached.by(|| feed(target, input)) {
            return found(input.clone(), find);
        }
    }
    let edges_before = reached.edges();
    while goes_on(fed) {
        let pick = |random: &mut Random| pool.get(random.below(pool.len())).cloned().unwrap_or_default();
        let (mut input, other) = (pick(&mut random), pick(&mut random));
        mutate(&mut input, &other, &mut random);
        let (done, is_new) = reached.by(|| feed(target, &input));
        if let Err(find) = done {
            return found(input, find);
        }
        if is_new && pool.len() < POOL_MAX {
            pool.push(input);
        }
        fed += 1;
    }
    Ok(Explored { fed, edges_before, edges: reached.edges() })
}

/// Leaves pieces out of an input as long as it does the same kind of thing.
fn smaller(target: &Target, mut input: Vec<u8>, find: &Find) -> Vec<u8> {
    let same =
        |other: &Find| matches!((find, other), (Find::Panic(_), Find::Panic(_)) | (Find::Hunger(_), Find::Hunger(_)));
    let mut piece = input.len() / 2;
    while piece > 0 {
        let mut at = 0;
        while at + piece <= input.len() {
            let mut shorter = input.clone();
            drop(shorter.drain(at..at + piece));
            if feed(target, &shorter).is_err_and(|other| same(&other)) {
                input = shorter;
            } else {
                at += piece;
            }
        }
        piece /= 2;
    }
    input
}

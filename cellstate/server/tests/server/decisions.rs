//! What the core decides, as a file in the repository: a fixed course of commands, and what becomes of each. A difference means that an
//! older log, decided again, would come out otherwise. That is allowed, under another version of the core, and never unnoticed.

mod course;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use bytes::BytesMut;
use plenum_core::{CORE_VERSION, Core, CoreOptions, Decided, invariants};
use plenum_model::{Decision, Delta, LogTime, Outcome};
use plenum_proto::{command, delta, v1};
use prost::Message;

use course::Course;

/// Commands of the course: as many as give each refusal several times, and a file that can still be read.
const COMMANDS: u32 = 900;

const FILE: &str = "tests/server/golden/decisions.txt";

/// A line for each command, and what was counted in the end.
fn transcript() -> String {
    let mut course = Course::new(7);
    let mut core = Core::new(CoreOptions { retire_after_micros: 60_000_000, ..CoreOptions::default() });
    let mut text = format!("core version {CORE_VERSION}\n");
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for number in 0..COMMANDS {
        let (wire, time) = course.next(core.cell());
        let asked = bytes::Bytes::from(wire.encode_to_vec());
        let line = match command::decode(asked.clone()) {
            Err(error) => panic!("command {number}: {error}: {wire:?}"),
            Ok(request) => {
                let before = core.cell().clone();
                let decided = core.decide(&request, LogTime::from_micros(time));
                if let Err(violation) = invariants::check_step(&before, &request, &decided, core.cell()) {
                    panic!("command {number}: {violation}: {wire:?}");
                }
                course.learn(&wire, &decided);
                told(&decided, &mut counts)
            }
        };
        writeln!(text, "{number} {} {} -> {line}", word(&wire), short(&asked)).unwrap();
    }
    text.push_str("in all:\n");
    for (what, count) in counts {
        writeln!(text, "{count} {what}").unwrap();
    }
    text
}

/// What became of a command: for people, and the hashes of what the log would hold.
fn told(decided: &Decided, counts: &mut BTreeMap<String, u32>) -> String {
    let mut count = |what: String| *counts.entry(what).or_default() += 1;
    match decided {
        Decided::Repeated(revision) => {
            count("repeated".to_owned());
            format!("repeats {revision}")
        }
        Decided::Unchanged(decision) => {
            let words = words(decision, &mut count);
            count("unchanged".to_owned());
            format!("unchanged, {words}, {}", short(&v1::Decision::from(decision).encode_to_vec()))
        }
        Decided::Changed { decision, delta } => {
            let words = words(decision, &mut count);
            count("changed".to_owned());
            let mut changed = BytesMut::new();
            delta::encode(delta, &mut changed);
            let hashes = (short(&v1::Decision::from(decision).encode_to_vec()), short(&changed));
            format!("{}: {words}{}, {} {}", delta.revision, parts(delta), hashes.0, hashes.1)
        }
    }
}

fn words(decision: &Decision, count: &mut impl FnMut(String)) -> String {
    match decision {
        Decision::Accepted { .. } => "accepted".to_owned(),
        Decision::Rejected(rejection) => {
            count(format!("rejected {}", rejection.code.as_str()));
            format!("rejected {}", rejection.code.as_str())
        }
        Decision::Outcome(outcome) => outcome_words(outcome, count),
    }
}

fn outcome_words(outcome: &Outcome, count: &mut impl FnMut(String)) -> String {
    let wire = v1::Outcome::from(outcome);
    count(format!("outcome {}", wire.outcome().as_str_name()));
    let mut reasons: BTreeMap<String, u32> = BTreeMap::new();
    for refusal in &wire.refusals {
        let what = format!("{} {}", refusal.kind().as_str_name(), refusal.reason().as_str_name());
        count(format!("kind {}", refusal.kind().as_str_name()));
        count(format!("refusal {what}"));
        *reasons.entry(what).or_default() += 1;
    }
    let mut text = format!("{} {}/{}", wire.outcome().as_str_name(), wire.granted, wire.claims);
    for (what, number) in reasons {
        write!(text, ", {number} {what}").unwrap();
    }
    text
}

/// Which parts a delta has.
fn parts(delta: &Delta) -> String {
    let counts = [
        ("machines", delta.machines.len()),
        ("jobs", delta.jobs.len()),
        ("grants", delta.grants.iter().map(|grants| grants.slots.len()).sum()),
        ("moves", delta.moves.len()),
        ("ends", delta.ends.len()),
        ("sessions", delta.sessions.len()),
    ];
    counts.iter().filter(|(_, count)| *count > 0).map(|(what, count)| format!(", {count} {what}")).collect()
}

fn short(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex()[..8].to_owned()
}

/// The name of a command is the name of its variant.
fn word(wire: &v1::Command) -> String {
    let text = wire.ask.as_ref().map(|ask| format!("{ask:?}")).unwrap_or_default();
    text.split(['(', ' ']).next().unwrap_or_default().to_owned()
}

#[test]
fn what_the_core_decides_changes_only_with_its_version() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
    let now = transcript();
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &now).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    let difference = now.lines().zip(golden.lines()).find(|(now, golden)| now != golden);
    if now == golden {
        return;
    }
    let (now_line, golden_line) = difference.unwrap_or(("another number of lines", ""));
    panic!(
        "the core decides otherwise than {FILE} says, first here:\n  now    {now_line}\n  golden {golden_line}\n\
         Logs of core version {CORE_VERSION} would come out otherwise when `plenum verify` decides them again. If this is meant: raise \
         CORE_VERSION in cellstate/core/src/lib.rs and in proto/src/convert/log.rs, so that older batches are folded and not decided \
         again; then write the file anew with `BLESS=1 cargo test -p plenum-server --test server decisions`, and look at its diff."
    );
}

#[test]
fn the_course_meets_every_kind_of_refusal() {
    let text = transcript();
    let missing: Vec<&str> = (1..)
        .map_while(|kind| v1::RefusalKind::try_from(kind).ok())
        .map(|kind| kind.as_str_name())
        .filter(|kind| !text.contains(&format!(" kind {kind}\n")))
        .collect();
    // A command that this version does not know leaves no quota to be over.
    let expected: &[&str] = if text.contains("rejected UNIMPLEMENTED") { &["QUOTA"] } else { &[] };
    assert!(
        missing.iter().all(|kind| expected.contains(kind)),
        "{missing:?}: {}",
        text.split("in all:").last().unwrap()
    );
    for outcome in ["COMMITTED", "PARTIAL", "REFUSED"] {
        assert!(text.contains(&format!(" outcome {outcome}\n")), "{outcome}");
    }
    assert!(text.contains("repeated\n") && text.contains("rejected NUMBER_REUSED\n"));
}

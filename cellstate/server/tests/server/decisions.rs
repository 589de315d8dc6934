//! What the core decides, as a file in the repository: a fixed course of commands, and situations that it would hardly ever come to, each on
//! a cell of its own; and what becomes of each command. A difference means that an older log, decided again, would come out otherwise. That
//! is allowed, under another version of the core, and never unnoticed.

mod course;
mod other;
mod races;
mod stage;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use plenum_core::{CORE_VERSION, Core, CoreOptions, Decided, invariants};
use plenum_model::{AllocationState, Decision, Delta, JobChange, LogTime, Outcome, RejectionCode};
use plenum_proto::{command, delta, v1};
use prost::Message;

use course::Course;
use stage::{Look, Stage};
use v1::command::Ask;

/// Commands of the course: as many as give each refusal several times, and a file that can still be read.
const COMMANDS: u32 = 900;

const FILE: &str = "tests/server/golden/decisions.txt";

/// Lines about commands, and what was counted.
#[derive(Default)]
struct Told {
    text: String,
    counts: BTreeMap<String, u32>,
    /// Of everything together: commands by their kind, and what they brought about.
    all: BTreeMap<String, u32>,
}

impl Told {
    /// Decides a command, and writes a line.
    fn play(&mut self, core: &mut Core, number: u32, wire: &v1::Command, time: i64) -> Decided {
        let asked = bytes::Bytes::from(wire.encode_to_vec());
        let request =
            command::decode(asked.clone()).unwrap_or_else(|error| panic!("command {number}: {error}: {wire:?}"));
        let before = core.cell().clone();
        let decided = core.decide(&request, LogTime::from_micros(time));
        if let Err(violation) = invariants::check_step(&before, &request, &decided, core.cell()) {
            panic!("command {number}: {violation}: {wire:?}");
        }
        let word = word(wire);
        *self.all.entry(format!("command {word}")).or_default() += 1;
        for sign in signs(wire, &decided) {
            *self.all.entry(format!("with {sign}")).or_default() += 1;
        }
        let line = told(&decided, &mut self.counts);
        writeln!(self.text, "{number} {word} {} -> {line}", short(&asked)).unwrap();
        decided
    }

    /// Writes down what was counted since the last time.
    fn sum_up(&mut self, title: &str) {
        writeln!(self.text, "{title}:").unwrap();
        for (what, count) in std::mem::take(&mut self.counts) {
            writeln!(self.text, "{count} {what}").unwrap();
            *self.all.entry(what).or_default() += count;
        }
    }
}

/// A line for each command, and what was counted in the end.
fn transcript() -> Told {
    let mut told = Told { text: format!("core version {CORE_VERSION}\n"), ..Told::default() };
    let mut course = Course::new(7);
    let mut core = Core::new(CoreOptions { retire_after_micros: 60_000_000, ..CoreOptions::default() });
    for number in 0..COMMANDS {
        let (wire, time) = course.next(core.cell());
        let decided = told.play(&mut core, number, &wire, time);
        course.learn(&wire, &decided);
    }
    told.sum_up("in all");
    for (title, play) in races::RACES {
        let looks = [
            (Look::Before, "come between"),
            (Look::Newest, "known before"),
            (Look::BeforeAStart, "come between, and forgotten"),
        ];
        for (look, how) in looks {
            writeln!(told.text, "{title}, {how}:").unwrap();
            play(&mut Stage::new(&mut told, look));
        }
    }
    for (title, play) in other::OTHERS {
        writeln!(told.text, "{title}:").unwrap();
        play(&mut Stage::new(&mut told, Look::Newest));
    }
    told.sum_up("in all situations");
    told.text.push_str("in all of both:\n");
    for (what, count) in &told.all {
        writeln!(told.text, "{count} {what}").unwrap();
    }
    told
}

/// What only some commands bring about.
fn signs(wire: &v1::Command, decided: &Decided) -> Vec<&'static str> {
    let (decision, delta) = match decided {
        Decided::Changed { decision, delta } => (decision, delta),
        Decided::Unchanged(Decision::Outcome(_)) => return vec!["a dry run"],
        Decided::Unchanged(_) | Decided::Repeated(_) => return Vec::new(),
    };
    let outcome = match decision {
        Decision::Outcome(outcome) => v1::Outcome::from(&**outcome),
        Decision::Accepted { .. } | Decision::Rejected(_) => v1::Outcome::default(),
    };
    let extras = || delta.grants.iter().flat_map(|grants| &grants.extras);
    let asked = match &wire.ask {
        Some(Ask::Commit(transaction)) => transaction.placements.as_slice(),
        _ => &[],
    };
    let elsewhere = delta.grants.iter().any(|grants| {
        let asked: BTreeSet<u32> = asked
            .iter()
            .filter(|placement| placement.job == grants.job.to_bits())
            .flat_map(|placement| placement.machines.iter().copied())
            .collect();
        grants.machines.iter().any(|machine| !asked.contains(machine))
    });
    let ends = |slot| delta.ends.iter().any(|end| end.slot == slot);
    let all = [
        ("a culprit", outcome.refusals.iter().any(|refusal| !refusal.culprits.is_empty())),
        ("a divergence", !outcome.divergences.is_empty()),
        ("a stop that is idle", !outcome.idle_stops.is_empty()),
        ("a spare machine", elsewhere),
        ("devices", extras().any(|extra| !extra.devices.is_empty())),
        ("ports", extras().any(|extra| !extra.ports.is_empty())),
        ("room taken over", extras().any(|extra| !extra.takes_over.is_empty())),
        ("a victim", delta.moves.iter().any(|one| one.status.state == AllocationState::Evicting)),
        ("a loss", delta.moves.iter().any(|one| one.status.state == AllocationState::Lost)),
        ("restarts told with an end", delta.moves.iter().any(|one| one.restarts > 0 && ends(one.slot))),
        ("a hold taken", delta.holds.iter().any(|(_, hold)| hold.is_some())),
        ("a hold ended", delta.holds.iter().any(|(_, hold)| hold.is_none())),
        ("a launch", delta.jobs.iter().any(|change| matches!(change, JobChange::Launched { .. }))),
        ("a retired job", delta.jobs.iter().any(|change| matches!(change, JobChange::Removed(_)))),
        ("a shared machine", delta.jobs.iter().any(|change| matches!(change, JobChange::Home { .. }))),
        ("an unknown task", delta.unknown.iter().any(|(_, task)| task.is_some())),
        ("an unknown task gone", delta.unknown.iter().any(|(_, task)| task.is_none())),
    ];
    all.into_iter().filter(|(_, is_so)| *is_so).map(|(sign, _)| sign).collect()
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
            let mut changed = Vec::new();
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

/// The names of commands are the names of their variants. Another one does not compile before it is listed, and once it is, a test
/// demands that it occurs.
macro_rules! commands {
    ($($word:ident,)*) => {
        const COMMAND_WORDS: &[&str] = &[$(stringify!($word),)*];

        fn word(wire: &v1::Command) -> &'static str {
            match &wire.ask {
                $(Some(Ask::$word(_)) => stringify!($word),)*
                None => "",
            }
        }
    };
}

commands! {
    OpenServer,
    OpenSession,
    CloseSession,
    Commit,
    SubmitJob,
    StopJob,
    ScaleJob,
    StopAllocation,
    RegisterMachine,
    ExpireMachine,
    ReportStatus,
    CordonMachine,
    DrainMachine,
    RemoveMachine,
    Tick,
    Launch,
    TakeHold,
    SetQuota,
    SetPartition,
    AdoptUnknown,
    PauseScheduler,
    SetRights,
    ReportFitness,
}

#[test]
fn what_the_core_decides_changes_only_with_its_version() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
    let now = transcript().text;
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

/// Of which kinds refusals for each reason can be. What is left out can't occur: nobody loses a race for what contradicts itself, for one.
/// That a machine has as many allocations as it can count, which is a `PER_MACHINE_LIMIT` too, takes 65,535 of them.
const REFUSALS: &[(&str, &[&str])] = &[
    ("NO_ROOM", &["CONFLICT", "MISFIT", "STALE"]),
    ("TASK_TAKEN", &["CONFLICT", "MISFIT"]),
    ("NOT_WANTED", &["CONFLICT", "MISFIT", "STALE"]),
    ("NO_SUCH_MACHINE", &["CONFLICT", "MISFIT", "STALE"]),
    ("MACHINE_NOT_READY", &["CONFLICT", "MISFIT", "STALE"]),
    ("CONSTRAINT", &["CONFLICT", "MISFIT", "STALE"]),
    ("OTHER_MACHINE", &["CONFLICT", "MISFIT", "STALE"]),
    ("NO_SUCH_JOB", &["CONFLICT", "MISFIT", "STALE"]),
    ("JOB_VERSION", &["CONFLICT", "MISFIT", "STALE"]),
    ("RESOURCES_DIFFER", &["MISFIT"]),
    ("MACHINE_CHANGED", &["CONFLICT", "STALE"]),
    ("MINIMUM_MISSED", &["MATE"]),
    ("GUARD_FAILED", &["GUARD"]),
    ("DEVICE_TAKEN", &["CONFLICT", "MISFIT", "STALE"]),
    ("PORT_TAKEN", &["CONFLICT", "MISFIT", "STALE"]),
    ("SPREAD_LIMIT", &["CONFLICT", "MISFIT", "STALE"]),
    ("PER_MACHINE_LIMIT", &["CONFLICT", "MISFIT", "STALE"]),
    ("QUOTA_EXCEEDED", &["QUOTA"]),
    ("NOT_PERMITTED", &["PERMISSION"]),
    ("PREDECESSOR", &["CONFLICT", "MISFIT", "STALE"]),
    ("OTHER_SCHEDULER", &["PERMISSION"]),
    ("MAY_NOT_EVICT", &["PERMISSION"]),
];

#[test]
fn every_command_refusal_and_rejection_occurs_that_can() {
    let told = transcript();
    let refusals =
        REFUSALS.iter().flat_map(|(reason, kinds)| kinds.iter().map(move |kind| format!("refusal {kind} {reason}")));
    let refusals: BTreeSet<String> = refusals.collect();
    let met: BTreeSet<String> = told.all.keys().filter(|what| what.starts_with("refusal ")).cloned().collect();
    assert_eq!(met, refusals, "left: what occurs; right: what can");
    let reasons = (1..).map_while(|reason| v1::RefusalReason::try_from(reason).ok()).map(|reason| reason.as_str_name());
    assert!(reasons.eq(REFUSALS.iter().map(|(reason, _)| *reason)), "each reason is listed, in its order");
    let kinds =
        (1..).map_while(|kind| v1::RefusalKind::try_from(kind).ok()).map(|kind| format!("kind {}", kind.as_str_name()));
    let commands = COMMAND_WORDS.iter().map(|word| format!("command {word}"));
    let outcomes = ["COMMITTED", "PARTIAL", "REFUSED"].map(|outcome| format!("outcome {outcome}"));
    // Nothing that the core decides today is answered with these.
    let beyond = [RejectionCode::Unimplemented, RejectionCode::NotPermitted];
    let rejections = RejectionCode::ALL.iter().filter(|code| !beyond.contains(code));
    let rejections = rejections.map(|code| format!("rejected {}", code.as_str()));
    let signs = [
        "a culprit",
        "a divergence",
        "a dry run",
        "a hold ended",
        "a hold taken",
        "a launch",
        "a loss",
        "a retired job",
        "a shared machine",
        "a spare machine",
        "a stop that is idle",
        "a victim",
        "an unknown task",
        "an unknown task gone",
        "restarts told with an end",
        "devices",
        "ports",
        "room taken over",
    ];
    let signs = signs.map(|sign| format!("with {sign}"));
    let demanded = kinds.chain(commands).chain(outcomes).chain(rejections).chain(signs).chain(["repeated".to_owned()]);
    let missing: Vec<String> = demanded.filter(|what| !told.all.contains_key(what)).collect();
    assert!(missing.is_empty(), "{missing:?}: {:#?}", told.all);
}

//! The corpus, and some thousand changes of it, in every run of the tests; and canaries that show what a find is.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use plenum_fuzz::coverage::__sanitizer_cov_8bit_counters_init;
use plenum_fuzz::runner::{self, Find};
use plenum_fuzz::shown::{Messages, Shown};
use plenum_fuzz::targets::{TARGETS, Target, folds, named, row_of_messages};
use plenum_fuzz::weigh::Counting;
use plenum_proto::v1::{self, session_response::Tell};
use plenum_server::publish::LoggedBatch;
use prost::Message;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn inputs(target: &Target) -> Vec<Vec<u8>> {
    runner::corpus(target).unwrap().into_iter().map(|(_, input)| input).collect()
}

#[test]
fn every_input_of_the_corpus_does_no_harm_and_some_of_each_target_are_read() {
    for target in TARGETS {
        let mut read = 0;
        for (path, input) in runner::corpus(target).unwrap() {
            assert_eq!(runner::feed(target, &input), Ok(()), "{}", path.display());
            read += usize::from((target.run)(&input));
        }
        assert!(read > 1, "{} reads {read} of its corpus", target.name);
    }
}

/// What no input can have, and why.
const EXCUSED: [(&str, &str, &str); 1] = [("GroupBody", "image", "a job with one is refused")];

/// Targets, the message that each reads, and whether an input is a row of them, each behind its length.
const ROOTS: [(&str, &str, bool); 9] = [
    ("delta", "Delta", false),
    ("command", "Command", false),
    ("decision", "Decision", false),
    ("transaction", "Transaction", false),
    ("job", "JobSpec", false),
    ("pages", "Page", true),
    ("session_request", "SessionRequest", false),
    ("session_responses", "SessionResponse", true),
    ("assignments", "Assignments", true),
];

/// The message that an input is, or those in its row.
fn messages_in(input: Vec<u8>, is_row: bool) -> Vec<Bytes> {
    if is_row { row_of_messages(&input) } else { vec![input.into()] }
}

/// Of the kinds of commands eight of 23 were in it; and later, when each was, no transaction among them placed anything, no delta had a job's body,
/// and none of both an unknown task with what its agent knows of it. Then streams and pages were looked at: no scheduler sent a pulse, or was told what
/// became of its claims, and no agent was asked for logs. What no input has, changes of inputs hardly ever have.
#[test]
fn whatever_a_message_may_hold_is_held_by_some_input() {
    let messages = Messages::of_the_protocol();
    let mut missing = Vec::new();
    for (name, root, is_row) in ROOTS {
        let target = named(name).unwrap();
        let read = inputs(target).into_iter().filter(|input| (target.run)(input));
        let shown: Shown = read
            .flat_map(|input| messages_in(input, is_row))
            .flat_map(|message| messages.shown_by(root, &message))
            .collect();
        let mut all = messages.all_in(root);
        if root == "Page" {
            // All else in pages stands in deltas, too, and the same code reads it.
            all.retain(|(message, _)| message.ends_with("Page") || message.ends_with("Row"));
        }
        assert!(all.len() > 20, "{root} has {all:?}");
        missing.extend(all.difference(&shown).map(|(message, field)| (name, message.clone(), field.clone())));
    }
    let excused = |message: &str, field: &str| EXCUSED.iter().any(|one| (one.0, one.1) == (message, field));
    let unexcused: Vec<_> = missing.iter().filter(|(_, message, field)| !excused(message, field)).collect();
    assert!(unexcused.is_empty(), "of these fields no input has one: {unexcused:?}");
    let needless =
        |one: &&(&str, &str, &str)| !missing.iter().any(|(_, message, field)| (one.0, one.1) == (message, field));
    assert_eq!(EXCUSED.iter().find(needless), None, "it needs no excuse");
}

// Nearly all had a revision at random, with which folding ended at once: by none an allocation was granted, changed or ended.
#[test]
fn deltas_of_the_corpus_are_folded_with_all_that_becomes_of_a_cell() {
    let messages = Messages::of_the_protocol();
    let folded = inputs(named("delta").unwrap()).into_iter().filter(|input| folds(input));
    let shown: Shown = folded.flat_map(|input| messages.shown_by("Delta", &input)).collect();
    let tables = ["machines", "jobs", "grants", "moves", "ends", "tasks", "sessions"];
    let small = ["quotas", "holds", "partitions", "unknown_tasks", "paused", "rights"];
    let is_missing = |field: &&str| !shown.contains(&("Delta".to_owned(), (*field).to_owned()));
    let missing: Vec<&str> = tables.into_iter().chain(small).filter(is_missing).collect();
    assert!(missing.is_empty(), "no delta is folded that has {missing:?}");
    assert!(shown.contains(&("GrantExtras".to_owned(), "take_overs".to_owned())), "nobody takes over from another one");
}

// They were made of worlds in which nothing was granted.
#[test]
fn schedulers_of_the_corpus_are_told_of_allocations_in_deltas_and_in_pages() {
    let messages = Messages::of_the_protocol();
    let mut shown = Shown::new();
    let responses = inputs(named("session_responses").unwrap()).into_iter().flat_map(|input| messages_in(input, true));
    for response in responses {
        match v1::SessionResponse::decode(response).ok().and_then(|response| response.tell) {
            Some(Tell::Deltas(told)) => {
                shown.extend(told.deltas.iter().flat_map(|delta| messages.shown_by("Delta", delta)));
            }
            Some(Tell::Snapshot(told)) => {
                shown.extend(told.pages.iter().flat_map(|page| messages.shown_by("Page", page)));
            }
            _ => {}
        }
    }
    let wanted = [("Delta", "grants"), ("Delta", "moves"), ("Delta", "ends"), ("Delta", "tasks")];
    let wanted = wanted.into_iter().chain([("Page", "allocations"), ("AllocationPage", "extras")]);
    let is_missing = |(message, field): &(&str, &str)| !shown.contains(&((*message).to_owned(), (*field).to_owned()));
    let missing: Vec<_> = wanted.filter(is_missing).collect();
    assert!(missing.is_empty(), "no scheduler is told of {missing:?}");
}

/// What no message begins with: a page as a checkpoint keeps it. Its table is the next byte.
const NARROW: u8 = 7;

// Checkpoints were written so, and no valid input was.
#[test]
fn cells_of_the_corpus_have_tasks_and_allocations_as_checkpoints_keep_them() {
    let pages = inputs(named("pages").unwrap()).into_iter().flat_map(|input| messages_in(input, true));
    let tables: BTreeSet<i32> = pages.filter(|page| page.first() == Some(&NARROW)).map(|page| page[1].into()).collect();
    assert_eq!(tables, BTreeSet::from([v1::Table::Tasks.into(), v1::Table::Allocations.into()]));
}

// Their seals were walked, and what they seal was read by nobody: of most of them pages are missing.
#[test]
fn a_backup_of_the_corpus_is_a_sound_cell_with_allocations() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let live = |input: Vec<u8>| {
        fs::write(file.path(), input).unwrap();
        plenum_server::read_backup(file.path()).map_or(0, |cell| cell.live())
    };
    let live: Vec<u32> = inputs(named("backup").unwrap()).into_iter().map(live).collect();
    assert!(live.iter().any(|&live| live > 0), "{live:?}");
}

/// The only rows were blocks and two of the index.
#[test]
fn the_corpus_of_histories_has_a_row_of_each_kind() {
    let rows = plenum_history::probe::rows();
    let corpus = inputs(named("history").unwrap());
    for row in &rows {
        let input = [&[u8::try_from(row.key.len()).unwrap()][..], &row.key, &row.value].concat();
        assert!(corpus.contains(&input), "a row with {} is not in it: cargo run -p plenum-fuzz -- seed", row.kind);
    }
    // Blocks are made of batches by hand; of these rows the others are parts.
    let elsewhere = ["BatchRecord", "BlockRecord", "CountsRecord", "ConflictRecord", "LossRecord"];
    let records = include_str!("../../cellstate/history/src/records.rs");
    let names = records.lines().filter_map(|line| line.strip_prefix("pub(crate) struct ")?.split(' ').next());
    let records: Vec<&str> = names.filter(|name| name.ends_with("Record")).collect();
    let missing: Vec<_> =
        records.iter().filter(|name| !elsewhere.contains(name) && !rows.iter().any(|row| row.kind == **name)).collect();
    assert!(records.len() > 10 && missing.is_empty(), "of these records there is no row: {missing:?}");
}

/// Of what may stand in a job file not half did, and a key comes about by no change.
#[test]
fn each_key_of_job_files_stands_in_one_of_the_corpus() {
    fn keys_of_the_schema(schema: &serde_json::Value, keys: &mut BTreeSet<String>) {
        if let Some(properties) = schema.get("properties").and_then(serde_json::Value::as_object) {
            keys.extend(properties.keys().cloned());
        }
        schema.as_object().into_iter().flat_map(|object| object.values()).for_each(|one| keys_of_the_schema(one, keys));
        schema.as_array().into_iter().flatten().for_each(|one| keys_of_the_schema(one, keys));
    }
    fn keys_of(value: &serde_json::Value, keys: &mut BTreeSet<String>) {
        keys.extend(value.as_object().into_iter().flat_map(|object| object.keys().cloned()));
        value.as_object().into_iter().flat_map(|object| object.values()).for_each(|one| keys_of(one, keys));
        value.as_array().into_iter().flatten().for_each(|one| keys_of(one, keys));
    }
    let schema = serde_json::from_str(include_str!("../../docs/job-file.schema.json")).unwrap();
    let (mut wanted, mut found) = (BTreeSet::new(), BTreeSet::new());
    keys_of_the_schema(&schema, &mut wanted);
    for input in inputs(named("job_file").unwrap()) {
        let text = String::from_utf8_lossy(&input);
        let read = toml::from_str(&text).ok().or_else(|| serde_json::from_str(&text).ok());
        if let Some(value) = read {
            keys_of(&value, &mut found);
        }
    }
    let missing: Vec<_> = wanted.difference(&found).collect();
    assert!(wanted.len() > 30 && missing.is_empty(), "in no job file of the corpus there is one of {missing:?}");
}

/// None did, as batches of servers do.
#[test]
fn batches_of_the_corpus_say_with_which_bounds_they_were_decided() {
    let batches = inputs(named("batch").unwrap()).into_iter().filter_map(|input| LoggedBatch::parse(input.into()).ok());
    let have_bounds: Vec<bool> = batches.map(|batch| batch.core_options().is_some()).collect();
    assert!(have_bounds.contains(&true) && have_bounds.contains(&false), "{have_bounds:?}");
}

#[test]
fn changed_inputs_do_no_harm() {
    // Those that are found are told below, with their input.
    std::panic::set_hook(Box::new(|_| {}));
    let mut found = Vec::new();
    for target in TARGETS {
        let searched = runner::search(target, &inputs(target), 1, |fed| fed < target.briefly);
        found.extend(searched.err().map(|found| (target.name, found.find, found.input)));
    }
    drop(std::panic::take_hook());
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn a_panic_and_hunger_are_found_and_made_small() {
    std::panic::set_hook(Box::new(|_| {}));
    let panics = |input: &[u8]| {
        assert!(!input.contains(&0xff), "there it is");
        true
    };
    let hungers = |input: &[u8]| {
        let bytes = input.first().map_or(0, |byte| usize::from(*byte) << 20);
        Vec::<u8>::with_capacity(bytes).capacity() > 0
    };
    let target = |run: fn(&[u8]) -> bool| Target { name: "canary", about: "", run, briefly: 0 };
    let corpus = vec![vec![0; 100]];
    let found = runner::search(&target(panics), &corpus, 1, |_| true).unwrap_err();
    assert_eq!((found.find, found.input), (Find::Panic("there it is".into()), vec![0xff]));
    let found = runner::search(&target(hungers), &corpus, 1, |_| true).unwrap_err();
    drop(std::panic::take_hook());
    assert!(matches!(found.find, Find::Hunger(bytes) if bytes > 1 << 20), "{found:?}");
    assert_eq!(found.input.len(), 1);
}

/// Four bytes that must all be right are found one after the other where it is known that each leads somewhere new; by chance alone,
/// that would take thousands of millions of inputs.
#[test]
fn what_leads_somewhere_new_is_changed_further() {
    static COUNTERS: [AtomicU8; 4] = [const { AtomicU8::new(0) }; 4];
    fn opens(input: &[u8]) -> bool {
        let right = input.iter().zip(b"plen").take_while(|(byte, wanted)| byte == wanted).count();
        COUNTERS.iter().take(right).for_each(|counter| counter.store(1, Ordering::Relaxed));
        assert!(right < 4, "open");
        false
    }
    let counters = COUNTERS.as_ptr_range();
    #[allow(unsafe_code, reason = "as an instrumented object does")]
    // SAFETY: they are bytes that may be changed while they are shared, and there for ever.
    unsafe {
        __sanitizer_cov_8bit_counters_init(
            counters.start.cast::<u8>().cast_mut(),
            counters.end.cast::<u8>().cast_mut(),
        );
    }
    std::panic::set_hook(Box::new(|_| {}));
    let target = Target { name: "canary", about: "", run: opens, briefly: 0 };
    let mut pool = vec![vec![0; 4]];
    let found = runner::explore(&target, &mut pool, 1, |fed| fed < 1_000_000).unwrap_err();
    drop(std::panic::take_hook());
    assert_eq!((found.find, &found.input[..]), (Find::Panic("open".into()), &b"plen"[..]));
    assert!(pool.len() > 3, "each byte was kept: {pool:?}");
}

// Where Cargo found other flags for the compiler, a night of it was a search like others, and said that there was nothing.
#[test]
fn a_search_that_is_to_be_guided_is_refused_where_nothing_is_counted() {
    let mut program = Command::new(env!("CARGO_BIN_EXE_plenum-fuzz"));
    let done = program.args(["run", "--seconds", "0", "--pool", "/nowhere", "moment"]).output().unwrap();
    let told = String::from_utf8_lossy(&done.stdout);
    assert!(!done.status.success() && told.contains("nothing is counted in this build"), "{told}");
}

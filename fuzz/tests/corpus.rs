//! The corpus, and some thousand changes of it, in every run of the tests; and canaries that show what a find is.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU8, Ordering};

use plenum_fuzz::coverage::__sanitizer_cov_8bit_counters_init;
use plenum_fuzz::runner::{self, Find};
use plenum_fuzz::targets::{TARGETS, Target, named};
use plenum_fuzz::weigh::Counting;
use plenum_proto::fields::fields;
use plenum_server::publish::LoggedBatch;

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

/// Eight kinds of 23 were in it, and the others were hardly ever read.
#[test]
fn whatever_can_be_asked_is_asked_by_the_corpus_of_commands() {
    let protocol = include_str!("../../proto/plenum/v1/log.proto");
    let (_, asks) = protocol.split_once("oneof ask {\n").unwrap();
    let (asks, _) = asks.split_once('}').unwrap();
    let number = |line: &str| line.strip_suffix(';')?.rsplit_once("= ")?.1.parse::<u64>().ok();
    let asks: BTreeSet<u64> = asks.lines().filter_map(number).collect();
    let target = named("command").unwrap();
    let mut found = BTreeSet::new();
    for input in inputs(target).iter().filter(|input| (target.run)(input)) {
        found.extend(fields(input).flatten().map(|field| field.number));
    }
    let missing: Vec<_> = asks.difference(&found).collect();
    assert!(asks.len() > 20 && missing.is_empty(), "no input has one of the fields {missing:?} of `Command`");
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

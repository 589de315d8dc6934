//! Messages of the protocol, and what the log and the history keep of them.

use bytes::Bytes;
use plenum_model::{Command, Decision, Delta};
use plenum_proto::fields::fields;
use plenum_proto::sections::Sections;
use plenum_proto::{
    codec, command as commands, delta as deltas, jobs, log, machines, outcome as outcomes, pages as images,
    transaction as commits, v1,
};
use plenum_server::publish::LoggedBatch;
use prost::Message;

use super::fold::fold;
use super::stream::messages;

fn owned(input: &[u8]) -> Bytes {
    Bytes::copy_from_slice(input)
}

fn encoded(delta: &Delta) -> Bytes {
    let mut out = Vec::new();
    deltas::encode(delta, &mut out);
    out.into()
}

pub(super) fn delta(input: &[u8]) -> bool {
    let Ok(delta) = deltas::decode(owned(input)) else { return false };
    assert_eq!(deltas::decode(encoded(&delta)).expect("what was encoded is read"), delta);
    // Generated code reads the same bytes.
    v1::Delta::decode(input).expect("what is read by hand is a message");
    fold(delta);
    true
}

/// Whether a delta is folded, and what came of it compared with its pages.
pub(super) fn is_compared(input: &[u8]) -> bool {
    deltas::decode(owned(input)).is_ok_and(fold)
}

pub(super) fn command(input: &[u8]) -> bool {
    let Ok(request) = commands::decode(owned(input)) else { return false };
    let mut again = commands::decode(commands::encode(&request)).expect("what was encoded is read");
    assert_eq!(commands::decode(commands::encode(&again)).expect("what was encoded is read"), again);
    // The digest of a transaction is of its bytes: it is the same from the second encoding on, and all else from the first.
    if let (Command::Commit(_, came), Command::Commit(_, digest)) = (&request.command, &mut again.command) {
        *digest = *came;
    }
    assert_eq!(again, request);
    true
}

pub(super) fn decision(input: &[u8]) -> bool {
    let Ok(Ok(decision)) = v1::Decision::decode(input).map(Decision::try_from) else { return false };
    let again = v1::Decision::from(&decision).encode_to_vec();
    // The log gets what is written by hand.
    let mut logged = Vec::new();
    outcomes::encode(&decision, &mut logged);
    assert_eq!(logged[..], again[..], "{decision:?} is not written as generated code writes it");
    let again = v1::Decision::decode(&*again).expect("what was encoded is read");
    assert_eq!(Decision::try_from(again).expect("what was valid is valid"), decision);
    true
}

/// An input is a row of length-delimited pages.
pub(super) fn pages(input: &[u8]) -> bool {
    let Ok(cell) = images::restore(messages(input)) else { return false };
    let again = images::every(&cell).map(|(table, number)| images::encode_page(&cell, table, number));
    let again = images::restore(again.collect::<Vec<_>>()).expect("the pages of a cell are a cell");
    assert_eq!(cell.first_difference(&again).map(|difference| difference.to_string()), None);
    let kept = images::every(&cell).map(|(table, number)| images::encode_image(&cell, table, number));
    let kept = images::restore(kept.collect::<Vec<_>>()).expect("the images of a cell are a cell");
    assert_eq!(cell.first_difference(&kept).map(|difference| difference.to_string()), None);
    // Pages may fit each other and be no sound cell, which a restore looks for next.
    let _ = plenum_core::invariants::check_cell(&cell);
    true
}

pub(super) fn transaction(input: &[u8]) -> bool {
    let Ok(command) = commits::commit(owned(input)) else { return false };
    let Command::Commit(transaction, digest) = &command else { panic!("a transaction became {command:?}") };
    assert_eq!(commits::digest(input), *digest);
    // Another encoding may have another digest, and no other content; written by this library, it is the same command again.
    let again = commits::commit(commits::encode(transaction)).expect("what was valid is valid");
    assert!(matches!(&again, Command::Commit(content, _) if content == transaction), "{again:?} was {transaction:?}");
    survives_the_log(again);
    true
}

pub(super) fn job(input: &[u8]) -> bool {
    let Ok(Ok(command)) = v1::JobSpec::decode(input).map(jobs::submit) else { return false };
    survives_the_log(command);
    true
}

pub(super) fn agent(input: &[u8]) -> bool {
    let registration = v1::RegisterMachine::decode(input).map(machines::register);
    let report = v1::ReportRequest::decode(input).map(machines::transitions);
    let many = v1::ReportManyRequest::decode(input).map(|wire| machines::many(wire, |of| of.epoch != 5));
    let read = matches!(registration, Ok(Ok(_))) || matches!(report, Ok(Ok(_))) || matches!(many, Ok(Ok(_)));
    if let Ok(Ok(command)) = registration {
        survives_the_log(command);
    }
    if let Ok(Ok(transitions)) = report {
        survives_the_log(Command::ReportStatus(transitions));
    }
    if let Ok(Ok(many)) = many {
        survives_the_log(Command::ReportStatus(many.transitions));
        for machines::Fitness { machine, epoch, unfit } in many.fitness {
            survives_the_log(Command::ReportFitness { machine, epoch, unfit });
        }
    }
    read
}

/// A message that the census knows, as the edge reads it; the first byte chooses which. Only those of more than 16 KiB are counted.
pub(super) fn large(input: &[u8]) -> bool {
    const READERS: [fn(Bytes) -> bool; 8] = [
        is_read::<v1::SessionRequest>,
        is_read::<v1::PassOverRequest>,
        is_read::<v1::SubmitRequest>,
        is_read::<v1::SetPartition>,
        is_read::<v1::RegisterRequest>,
        is_read::<v1::ReportRequest>,
        is_read::<v1::ReportManyRequest>,
        is_read::<v1::Assignments>,
    ];
    let Some((choice, message)) = input.split_first() else { return false };
    READERS[usize::from(*choice) % READERS.len()](owned(message))
}

/// What is read may be written and read again: what was counted in pieces is not more as a whole.
fn is_read<T: Message + Default + 'static>(message: Bytes) -> bool {
    let Ok(read) = codec::read::<T>(message) else { return false };
    let written = read.encode_to_vec();
    let again = codec::read::<T>(written.clone().into()).expect("what was read and counted is read again");
    assert!(again.encode_to_vec() == written, "what is read is not what was written");
    true
}

fn survives_the_log(command: Command) {
    let request = plenum_model::Request { principal: "local".into(), namespace: "default".into(), command };
    let again = commands::decode(commands::encode(&request)).expect("what passed the edge is read from the log");
    assert_eq!(again, request);
}

pub(super) fn batch(input: &[u8]) -> bool {
    const CORE_OPTIONS: u64 = 4;
    let Ok(batch) = LoggedBatch::parse(owned(input)) else {
        let _ = log::decode_batch(owned(input));
        return false;
    };
    // The reader by hand skips what it need not understand, so generated code may refuse what it takes; never the other way round
    // with another result.
    let Ok(generated) = log::decode_batch(owned(input)) else { return false };
    assert_eq!(generated.entries.len() as u64, batch.last().0 - batch.first().0 + 1);
    for entry in &generated.entries {
        let revision = plenum_model::Revision(entry.revision);
        assert_eq!(batch.delta(revision).unwrap_or_default(), entry.delta);
        assert_eq!(batch.asked(revision).unwrap_or_default(), entry.asked);
        assert_eq!(batch.decided(revision).unwrap_or_default(), entry.decided);
        check_outcome(batch.outcome(revision), &entry.decided);
    }
    // Of several bounds generated code makes one, and by hand the last ones count: nobody writes more than one.
    let bounds = batch.core_options();
    if fields(input).flatten().filter(|field| field.number == CORE_OPTIONS).count() <= 1 {
        assert_eq!(bounds.unwrap_or_default(), generated.core_options.unwrap_or_default());
    }
    let sections = some_sections(input.len());
    let cut = batch.deltas(sections);
    assert_eq!(cut.len(), generated.entries.len());
    for (cut, entry) in cut.iter().zip(&generated.entries) {
        check_cut(sections, cut, &entry.delta);
    }
    true
}

/// What was found by hand in a decision is the outcome that generated code finds there. Of several answers the latter takes the last one, and
/// by hand it is the first: nobody writes more than one.
fn check_outcome(found: Option<Bytes>, decided: &Bytes) {
    let Ok(decision) = v1::Decision::decode(decided.clone()) else { return };
    if fields(decided).any(|field| field.is_err()) || fields(decided).count() > 1 {
        return;
    }
    let found = found.map(|outcome| v1::Outcome::decode(outcome).expect("it is read within its decision"));
    let expected = match decision.answer {
        Some(v1::decision::Answer::Outcome(outcome)) => Some(outcome),
        _ => None,
    };
    assert_eq!(found, expected);
}

/// What watchers ask for, by a number: all, what a mirror has, or one section with what it brings along.
fn some_sections(number: usize) -> Sections {
    let one = |section: v1::Section| Sections::from_wire(&[section.into()]).expect("it is known");
    match number % 8 {
        0 => Sections::ALL,
        1 => Sections::MIRROR,
        2 => one(v1::Section::Machines),
        3 => one(v1::Section::Allocations),
        4 => one(v1::Section::Sessions),
        5 => one(v1::Section::Quotas),
        6 => one(v1::Section::Bodies),
        _ => one(v1::Section::Outcomes),
    }
}

/// Generated code reads of what was cut what it reads of the whole, but for the sections that were not asked for.
fn check_cut(sections: Sections, cut: &Bytes, whole: &Bytes) {
    let Ok(mut kept) = v1::Delta::decode(whole.clone()) else { return };
    // What generated code skips as a group, or reads behind one, is not cut as it should be: nobody writes any.
    if fields(whole).any(|field| field.is_err()) {
        return;
    }
    if !sections.has(v1::Section::Machines) {
        kept.machines.clear();
    }
    if !sections.has(v1::Section::Jobs) {
        kept = v1::Delta { jobs: Vec::new(), tasks: Vec::new(), ..kept };
    }
    if !sections.has(v1::Section::Allocations) {
        kept = v1::Delta { grants: Vec::new(), moves: None, ends: None, ..kept };
        let (holds, partitions, unknown_tasks, paused) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        kept = v1::Delta { holds, partitions, unknown_tasks, paused, ..kept };
    }
    if !sections.has(v1::Section::Sessions) {
        kept.sessions.clear();
    }
    if !sections.has(v1::Section::Quotas) {
        kept.quotas.clear();
    }
    if !sections.has(v1::Section::Bodies) {
        kept.bodies.clear();
    }
    assert_eq!(v1::Delta::decode(cut.clone()).expect("what is left is a delta"), kept, "{sections:?}");
}

//! Whether all is counted that has to be, and told as it is.

use std::collections::BTreeMap;

use prost::Message;

use plenum_model::cell::page_rows;

use super::*;
use crate::bounds::{LIST_MAX, SHAPE_BYTES_MAX};
use crate::fields::number;
use crate::{FILE_DESCRIPTOR_SET, v1};

fn told(census: &Census, message: &impl Message) -> String {
    census.check(&message.encode_to_vec()).unwrap_err().to_string()
}

fn census(name: &str) -> &'static Census {
    all().find(|(known, ..)| *known == name).map(|(.., census)| census).unwrap()
}

#[test]
fn what_is_too_much_is_told_by_its_field_and_its_count() {
    let groups = vec![v1::GroupShape::default(); 9000];
    let shape = v1::JobShape { groups, ..v1::JobShape::default() };
    let spec = v1::JobSpec { shape: Some(shape), body: None };
    let submit = v1::SubmitRequest { spec: Some(spec.clone()), ..Default::default() };
    let expected = "spec.shape.groups: expected at most 64 groups, found 9000";
    assert_eq!(told(census("SubmitRequest"), &submit), expected);
    let reports = v1::ReportManyRequest { machines: vec![1; 20_000], ..v1::ReportManyRequest::default() };
    assert_eq!(told(census("ReportManyRequest"), &reports), "machines: expected at most 4096 machines, found 20000");
    let reports = v1::ReportManyRequest { unfit: vec![1; 20_000], ..v1::ReportManyRequest::default() };
    let expected = "unfit: expected at most 4096 reasons why machines want no claims, found 20000";
    assert_eq!(told(census("ReportManyRequest"), &reports), expected);
    let notes = vec![v1::PassedOverNote::default(); 70_000];
    let ask = v1::session_request::Ask::PassedOver(v1::PassedOver { notes });
    let expected = "passed_over.notes: expected at most 65536 notes, found 70000";
    assert_eq!(told(&SESSION, &v1::SessionRequest { ask: Some(ask) }), expected);
}

// A byte of it was eight in memory: some were kept so for as long as the disk did not answer.
#[test]
fn columns_of_numbers_are_counted_before_they_are_decoded() {
    let many = || vec![1; 20_000];
    let resources = || Some(v1::Resources { custom: many(), ..Default::default() });
    let decision = v1::DecisionMetadata { assumed: vec![1; 20_000], ..Default::default() };
    let assumes = v1::Transaction { decision: Some(decision), ..Default::default() };
    let expected = "decision.assumed: expected at most 256 transactions in flight, found 20000";
    assert_eq!(told(&TRANSACTION, &assumes), expected);
    let placements = vec![v1::Placement { resources: resources(), ..Default::default() }; 5];
    let expected =
        "placements.resources.custom: expected at most 81920 named resources in all placements, found 100000";
    assert_eq!(told(&TRANSACTION, &v1::Transaction { placements, ..Default::default() }), expected);
    let capacity = v1::RegisterMachine { capacity: resources(), ..Default::default() };
    let register = v1::RegisterRequest { machine: Some(capacity), ..Default::default() };
    let expected = "machine.capacity.custom: expected at most 5 named resources, found 20000";
    assert_eq!(told(census("RegisterRequest"), &register), expected);
    let hold = v1::TakeHoldRequest { machines: vec![1; 20_000], resources: resources(), ..Default::default() };
    assert_eq!(told(census("TakeHoldRequest"), &hold), "machines: expected at most 16384 machines, found 20000");
    let hold = v1::TakeHoldRequest { resources: resources(), ..Default::default() };
    let expected = "resources.custom: expected at most 5 named resources, found 20000";
    assert_eq!(told(census("TakeHoldRequest"), &hold), expected);
    let limit = Some(v1::Quota { custom: many(), ..Default::default() });
    let expected = "limit.custom: expected at most 5 named resources, found 20000";
    assert_eq!(told(census("SetQuota"), &v1::SetQuota { limit, ..Default::default() }), expected);
    let hello = v1::Hello { sections: vec![1; 20_000], ..Default::default() };
    assert_eq!(told(census("Hello"), &hello), "sections: expected at most 64 sections, found 20000");
    let hello = v1::SessionRequest { ask: Some(v1::session_request::Ask::Hello(hello)) };
    assert_eq!(told(&SESSION, &hello), "hello.sections: expected at most 64 sections, found 20000");
}

/// Decoding joins the pieces of a message that there is once.
#[test]
fn a_message_in_pieces_is_counted_as_one() {
    let groups = vec![v1::GroupShape { name: "a".repeat(200), ..v1::GroupShape::default() }; 40];
    let shape = v1::JobShape { groups, ..v1::JobShape::default() };
    let piece = v1::SubmitRequest { spec: Some(v1::JobSpec { shape: Some(shape), body: None }), ..Default::default() }
        .encode_to_vec();
    let census = census("SubmitRequest");
    assert_eq!(census.check(&piece.repeat(1)), Ok(()));
    let told = census.check(&piece.repeat(3)).unwrap_err().to_string();
    assert_eq!(told, "spec.shape.groups: expected at most 64 groups, found 120");
}

#[test]
fn bytes_that_are_no_message_are_told_from_one() {
    let mut bytes = vec![0x0a, 2, 0x0b, 0];
    bytes.resize(UNCOUNTED_BYTES_MAX + 1, 0);
    let told = census("SubmitRequest").check(&bytes).unwrap_err().to_string();
    assert_eq!(told, "expected a SubmitRequest, found what can't be read as it: no field of one at byte 0");
}

/// The descriptor of a field, as far as it is looked at.
#[derive(Clone, Debug, Default)]
struct Known {
    number: u64,
    name: String,
    repeated: bool,
    kind: u64,
    of: String,
}

const STRING: u64 = 9;
const MESSAGE: u64 = 11;
const BYTES: u64 = 12;

fn texts(message: &[u8], of: u64) -> Vec<&[u8]> {
    fields(message).flatten().filter(|field| field.number == of).map(|field| &message[field.content]).collect()
}

fn text(message: &[u8], of: u64) -> String {
    texts(message, of).first().map_or(String::new(), |found| String::from_utf8_lossy(found).into_owned())
}

/// All messages of the protocol by name, and the names of those that methods take, and of those that they answer with.
fn protocol() -> (BTreeMap<String, Vec<Known>>, Vec<String>, Vec<String>) {
    let (mut messages, mut taken, mut given) = (BTreeMap::new(), Vec::new(), Vec::new());
    for file in texts(FILE_DESCRIPTOR_SET, 1).into_iter().filter(|file| text(file, 2) == "plenum.v1") {
        for message in texts(file, 4) {
            let value = |field: &[u8], of| texts(field, of).first().and_then(|found| number(found)).unwrap_or(0);
            let known = texts(message, 2).into_iter().map(|field| Known {
                number: value(field, 3),
                name: text(field, 1),
                repeated: value(field, 4) == 3,
                kind: value(field, 5),
                of: text(field, 6).trim_start_matches(".plenum.v1.").to_owned(),
            });
            messages.insert(text(message, 1), known.collect());
        }
        for method in texts(file, 6).into_iter().flat_map(|service| texts(service, 2)) {
            for (number, names) in [(2, &mut taken), (3, &mut given)] {
                names.push(text(method, number).trim_start_matches(".plenum.v1.").to_owned());
            }
        }
    }
    (messages, taken, given)
}

/// Lists that a census does not count, by their paths: of messages and of texts, and of numbers, too, where these are to be counted.
fn uncounted(
    messages: &BTreeMap<String, Vec<Known>>,
    message: &str,
    shape: Option<&Shape>,
    path: &str,
    numbers: bool,
) -> Vec<String> {
    let mut found = Vec::new();
    let within = |of: &str, shape: Option<&Shape>, path: &str| uncounted(messages, of, shape, path, numbers);
    for field in messages.get(message).into_iter().flatten() {
        let part = shape.and_then(|shape| shape.parts.iter().find(|(number, _)| *number == field.number));
        let path = format!("{path}.{}", field.name);
        let by_others = shape.is_some_and(|shape| shape.others.is_some());
        let is_column = field.repeated && ![STRING, MESSAGE, BYTES].contains(&field.kind);
        match part {
            Some((_, Part::Numbers(_))) if is_column => {}
            // An entry is a field, and one field may have all of a column.
            _ if is_column && numbers => found.push(path),
            Some((_, Part::Entry(_))) if field.kind != MESSAGE || !messages.contains_key(&field.of) => {}
            Some((_, Part::Within(_, inner) | Part::Once(inner))) => {
                found.extend(within(&field.of, Some(inner), &path));
            }
            // What is in an entry whose own fields are not counted.
            Some((_, Part::Entry(_))) => found.extend(within(&field.of, None, &path)),
            _ if by_others => found.extend(within(&field.of, None, &path)),
            _ if field.repeated && [STRING, MESSAGE, BYTES].contains(&field.kind) => found.push(path),
            _ if field.kind == MESSAGE => found.extend(within(&field.of, None, &path)),
            _ => {}
        }
    }
    found
}

#[test]
fn whatever_a_method_takes_or_gives_has_no_list_that_is_not_counted() {
    let (messages, taken, given) = protocol();
    assert!(messages.len() > 100 && taken.len() > 30, "{} and {}", messages.len(), taken.len());
    let mut found = Vec::new();
    // What a server answers is taken by one process, not by one for everybody.
    let taken = taken.into_iter().map(|name| (name, true));
    for (name, numbers) in taken.chain(given.into_iter().map(|name| (name, false))) {
        let shape = all().find(|(known, ..)| *known == name).map(|(.., census)| &census.shape);
        found.extend(uncounted(&messages, &name, shape, &name, numbers));
    }
    // Counted where their columns are read.
    let (transactions, found): (Vec<_>, Vec<_>) = found
        .into_iter()
        .partition(|path| path.starts_with("Transaction.") || path.starts_with("SessionRequest.commit."));
    assert_eq!((found, transactions.is_empty()), (vec![], false));
    assert_eq!(uncounted(&messages, "Transaction", Some(&TRANSACTION.shape), "Transaction", true), [""; 0]);
    for (name, census) in within_answers() {
        assert_eq!(uncounted(&messages, name, Some(&census.shape), name, false), [""; 0]);
    }
}

/// What is in that which a server tells a session.
fn within_answers() -> [(&'static str, &'static Census); 2] {
    [("Page", &PAGE), ("Delta", &DELTA)]
}

// Two bytes of it were 32 in memory, of an outcome two hundred: with one message a server took gigabytes of whoever called it.
#[test]
fn a_server_that_lies_is_found_out_before_its_answer_is_decoded() {
    use v1::session_response::Tell;
    let census = census("SessionResponse");
    let told = |tell| told(census, &v1::SessionResponse { tell: Some(tell) });
    let pages = vec![bytes::Bytes::new(); (1 << 20) + 1];
    let expected = "snapshot.pages: expected at most 1048576 pages, found 1048577";
    assert_eq!(told(Tell::Snapshot(v1::SnapshotPart { pages, ..Default::default() })), expected);
    let deltas = vec![bytes::Bytes::new(); 1 << 21];
    let expected = "deltas.deltas: expected at most 1048576 deltas, found 2097152";
    assert_eq!(told(Tell::Deltas(v1::Deltas { deltas })), expected);
    let refusals = vec![v1::Refusal::default(); 100_000];
    let expected = "outcome.refusals: expected at most 32768 refusals, found 100000";
    assert_eq!(told(Tell::Outcome(v1::Outcome { refusals, ..Default::default() })), expected);
    let machines = vec![v1::MachineChange::default(); 600_000];
    let page = v1::MachinePage { machines: machines.clone(), ..Default::default() };
    let page = v1::Page { machines: Some(page), ..Default::default() };
    assert_eq!(super::tests::told(&PAGE, &page), "expected at most 524288 rows, found 600000");
    let delta = v1::Delta { machines, ..Default::default() };
    assert_eq!(super::tests::told(&DELTA, &delta), "expected at most 524288 rows, found 600000");
}

// Two bytes of it were some hundred in memory.
#[test]
fn what_agents_and_people_are_told_is_counted_too() {
    let wanted = vec![v1::Assignment::default(); (1 << 17) + 1];
    let assignments = v1::Assignments { wanted, stop: vec![1; 100], ..Default::default() };
    assert_eq!(told(census("Assignments"), &assignments), "wanted: expected at most 131072 assignments, found 131073");
    let assignments = v1::Assignments { stop: vec![1; (1 << 22) + 1], ..Default::default() };
    assert_eq!(
        told(census("Assignments"), &assignments),
        "wanted: expected at most 4194304 entries in all assignments, found 4194305"
    );
    assert!(Census::of::<v1::Assignments>().is_some() && Census::of::<v1::ListJobsResponse>().is_some());
    // Each is its number, and that it is empty.
    let listed = [18, 0].repeat((1 << 22) + 1);
    for listing in ["ListJobsResponse", "HistoryResponse"] {
        let told = census(listing).check(&listed).unwrap_err().to_string();
        assert_eq!(told, "expected at most 4194304 rows, found 4194305");
    }
}

// Some thirty such jobs kept each mirror from being built: a page with them was refused by who got it, again and again.
#[test]
fn pages_and_listings_of_the_largest_jobs_are_not_too_much_for_who_gets_them() {
    let constraint = v1::Constraint {
        attribute: "a".to_owned(),
        operator: v1::Operator::In.into(),
        values: vec![String::new(); LIST_MAX],
    };
    let group = v1::GroupShape { constraints: vec![constraint; LIST_MAX], ..Default::default() };
    let shape = v1::JobShape { groups: vec![group; 29], ..Default::default() };
    assert!((SHAPE_BYTES_MAX - 10_000..=SHAPE_BYTES_MAX).contains(&shape.encoded_len()));
    let put = v1::JobPut { shape: Some(shape.clone()), ..Default::default() };
    let row = v1::JobRow { put: Some(put), ..Default::default() };
    // A list is as many of its entries, one behind the other.
    let rows = v1::JobPage { jobs: vec![row], ..Default::default() }.encode_to_vec().repeat(page_rows::JOBS);
    let page = [key_and_length(5, rows.len()), rows].concat();
    assert_eq!(PAGE.check(&page), Ok(()));
    let listed = v1::ListJobsResponse {
        jobs: vec![v1::JobView { shape: Some(shape), ..Default::default() }],
        ..Default::default()
    };
    let listed = listed.encode_to_vec().repeat((64 << 20) / SHAPE_BYTES_MAX);
    assert_eq!(census("ListJobsResponse").check(&listed), Ok(()));
}

// Of a shape that may be kept there were 83,000, and of a request half a million: each three bytes of it, and dozens in memory.
#[test]
fn values_of_constraints_and_affinities_of_a_job_are_counted_together() {
    let rule = v1::Constraint { values: vec!["long".to_owned(); LIST_MAX], ..Default::default() };
    let affinity = v1::Affinity { rule: Some(rule.clone()), weight: 1 };
    let group =
        v1::GroupShape { constraints: vec![rule; 32], affinities: vec![affinity; 32], ..v1::GroupShape::default() };
    let of_groups = |groups: usize| {
        let shape = v1::JobShape { groups: vec![group.clone(); groups], ..v1::JobShape::default() };
        v1::SubmitRequest { spec: Some(v1::JobSpec { shape: Some(shape), body: None }), ..Default::default() }
    };
    assert!(of_groups(1).encoded_len() > UNCOUNTED_BYTES_MAX, "it is counted");
    assert_eq!(census("SubmitRequest").check(&of_groups(1).encode_to_vec()), Ok(()));
    let expected = "spec.shape.groups: expected at most 4096 values of all constraints and affinities (give machines an \
                    attribute that stands for many values, or make several jobs of it), found 8192";
    assert_eq!(told(census("SubmitRequest"), &of_groups(2)), expected);
}

/// What comes before the bytes of a message that is the field with this number.
fn key_and_length(number: u32, length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::encode_key(number, prost::encoding::WireType::LengthDelimited, &mut bytes);
    prost::encoding::encode_varint(length as u64, &mut bytes);
    bytes
}

#[test]
fn each_census_counts_fields_that_there_are() {
    fn check(messages: &BTreeMap<String, Vec<Known>>, message: &str, shape: &Shape, totals: usize) {
        for (number, part) in shape.parts {
            let known = messages[message].iter().find(|field| field.number == *number);
            let known = known.unwrap_or_else(|| panic!("{message} has no field {number}"));
            let is_message = known.kind == MESSAGE;
            match part {
                Part::Entry(total) => assert!(known.repeated && *total < totals, "{message}.{}", known.name),
                Part::Numbers(total) => {
                    assert!(
                        known.repeated && known.kind != STRING && !is_message && *total < totals,
                        "{message}.{}",
                        known.name
                    );
                }
                Part::Within(total, inner) => {
                    assert!(known.repeated && is_message && *total < totals, "{message}.{}", known.name);
                    check(messages, &known.of, inner, totals);
                }
                Part::Once(inner) => {
                    assert!(!known.repeated && is_message, "{message}.{}", known.name);
                    check(messages, &known.of, inner, totals);
                }
            }
        }
    }
    let (messages, ..) = protocol();
    for (name, census) in all().map(|(name, _, census)| (name, census)).chain(within_answers()) {
        check(&messages, name, &census.shape, census.totals.len());
    }
    check(&messages, "Transaction", &TRANSACTION.shape, TRANSACTION.totals.len());
}

//! What a later version said, and this one has no field for: generated code leaves it out in silence. And values that it has no name for.
//!
//! Who only looks may do without it. Who goes on from what is left of it, and writes that down, would have lost it for good.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use bytes::Bytes;
use plenum_model::{AllocationState, TaskState};
use prost::Message;
use prost::encoding::decode_varint;

use crate::FILE_DESCRIPTOR_SET;
use crate::error::{self, Invalid, ReadError};
use crate::fields::{fields, number};

/// The fields of a message by number: what each is called, and what it holds.
type FieldsOf = BTreeMap<u64, (String, Holds)>;

/// What a field holds, as far as a later version may have more in it.
enum Holds {
    /// A message of this name.
    Message(String),
    /// A value of the enumeration of this name, or several.
    Value(String),
    /// A column of states: numbers, of which these are known.
    States(fn(u32) -> bool),
    Other,
}

/// The messages of `plenum.v1`, by name. Of the descriptors no more is read than that: decoded, they and their comments are megabytes.
static MESSAGES: LazyLock<BTreeMap<String, FieldsOf>> = LazyLock::new(|| {
    let mut messages = BTreeMap::new();
    for file in parts(FILE_DESCRIPTOR_SET, 1) {
        let package = format!(".{}", text(file, 2));
        parts(file, 4).for_each(|message| note(&package, message, &mut messages));
    }
    messages
});

/// The numbers of the values of each enumeration, by its name, read in the same way: none is within a message.
static ENUMERATIONS: LazyLock<BTreeMap<String, BTreeSet<u64>>> = LazyLock::new(|| {
    let mut enumerations = BTreeMap::new();
    for file in parts(FILE_DESCRIPTOR_SET, 1) {
        for one in parts(file, 5) {
            let values = parts(one, 2).map(|value| number_in(value, 2)).collect();
            enumerations.insert(format!(".{}.{}", text(file, 2), text(one, 1)), values);
        }
    }
    enumerations
});

/// `descriptor`: a `google.protobuf.DescriptorProto`.
fn note(outer: &str, descriptor: &[u8], messages: &mut BTreeMap<String, FieldsOf>) {
    /// `TYPE_MESSAGE` and `TYPE_ENUM`.
    const MESSAGE: u64 = 11;
    const ENUM: u64 = 14;
    let name = format!("{outer}.{}", text(descriptor, 1));
    parts(descriptor, 3).for_each(|inner| note(&name, inner, messages));
    let of_message = parts(descriptor, 2).map(|field| {
        let called = text(field, 1);
        let holds = match number_in(field, 5) {
            MESSAGE => Holds::Message(text(field, 6)),
            ENUM => Holds::Value(text(field, 6)),
            _ => states(&name, &called).map_or(Holds::Other, Holds::States),
        };
        (number_in(field, 3), (called, holds))
    });
    let of_message = of_message.collect();
    messages.insert(name, of_message);
}

/// Which states are known of a column of them: on the wire it is one of numbers.
fn states(message: &str, field: &str) -> Option<fn(u32) -> bool> {
    match (message.strip_prefix(".plenum.v1.")?, field) {
        ("ReportStatus" | "Moves" | "Ends" | "AllocationPage", "states") => {
            Some(|number| AllocationState::from_number(number).is_some())
        }
        ("TaskChanges" | "TaskPage", "states") => Some(|number| TaskState::from_number(number).is_some()),
        _ => None,
    }
}

/// What a message has in the fields with this number.
fn parts(message: &[u8], number: u64) -> impl Iterator<Item = &[u8]> {
    let all = fields(message).map_while(Result::ok);
    all.filter(move |field| field.number == number).map(|field| &message[field.content])
}

fn text(message: &[u8], number: u64) -> String {
    parts(message, number).next().map(|text| String::from_utf8_lossy(text).into_owned()).unwrap_or_default()
}

fn number_in(message: &[u8], at: u64) -> u64 {
    parts(message, at).next().and_then(number).unwrap_or_default()
}

/// The first field of an encoded message, or of one in it, that this version does not know: its path. Bytes that are no message have none.
fn unknown_field(message: &str, bytes: &[u8]) -> Option<String> {
    find(&format!(".plenum.v1.{message}"), bytes, |number, known, _| known.is_none().then(|| format!("field {number}")))
}

/// The first value of a message that was decoded, or of one in it, that this version does not know: the path of its field, and its number.
fn unknown_value(message: &str, bytes: &[u8]) -> Option<String> {
    find(&format!(".plenum.v1.{message}"), bytes, |_, known, content| {
        let (name, holds) = known?;
        let unknown = match holds {
            Holds::Value(values) => {
                let values = ENUMERATIONS.get(values)?;
                numbers(content).find(|number| !values.contains(number))
            }
            Holds::States(are_known) => numbers(content).find(|number| !u32::try_from(*number).is_ok_and(are_known)),
            Holds::Message(_) | Holds::Other => None,
        };
        unknown.map(|number| format!("{name} = {number}"))
    })
}

/// What is told of a field: of its number, what is known of it, and its content.
type Told = fn(u64, Option<&(String, Holds)>, &[u8]) -> Option<String>;

/// The first that is told of a field of a message, or of one in it, with the path to it. Messages hold no other ones of their own kind: it goes no
/// deeper than they do.
fn find(message: &str, bytes: &[u8], told: Told) -> Option<String> {
    let all = MESSAGES.get(message)?;
    fields(bytes).map_while(Result::ok).find_map(|field| {
        let content = &bytes[field.content.clone()];
        match all.get(&field.number) {
            Some((name, Holds::Message(inner))) if field.is_delimited(bytes) => {
                find(inner, content, told).map(|found| format!("{name}.{found}"))
            }
            known => told(field.number, known, content),
        }
    })
}

/// What is in a field of numbers: one of them, or a packed column.
fn numbers(mut content: &[u8]) -> impl Iterator<Item = u64> {
    std::iter::from_fn(move || if content.is_empty() { None } else { decode_varint(&mut content).ok() })
}

/// Why a message that was decoded is not taken, when it breaks a rule. With something in it that this version does not know, a later one wrote it: it may
/// keep to that one's rules.
pub(super) fn breaks_a_rule(name: &'static str, bytes: &[u8], source: Invalid) -> ReadError {
    match unknown_field(name, bytes).or_else(|| unknown_value(name, bytes)) {
        Some(field) => ReadError::Newer { what: name, field },
        None => ReadError::Content { what: name, source },
    }
}

/// Decodes a message of this name, without judging its content. `whole`: not where it has a field that this version does not know.
pub(super) fn decode<M: Message + Default>(name: &'static str, bytes: Bytes, whole: bool) -> Result<M, ReadError> {
    let decoded: M = error::decode(name, bytes.clone())?;
    if whole
        && !says_all(&decoded, bytes.len())
        && let Some(field) = unknown_field(name, &bytes)
    {
        return Err(ReadError::Newer { what: name, field });
    }
    Ok(decoded)
}

/// Whether a message that was decoded from so many bytes says all that they do: as this project's writers encode it, it has as many again.
pub(super) fn says_all<M: Message>(decoded: &M, bytes: usize) -> bool {
    decoded.encoded_len() == bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sections::Sections;
    use crate::{command, delta, pages, v1};

    #[test]
    fn a_field_of_a_later_version_is_found_wherever_it_is() {
        let machine = v1::MachineChange { name: "m1".to_owned(), ..v1::MachineChange::default() };
        let mut delta = v1::Delta { revision: 7, machines: vec![machine], ..v1::Delta::default() }.encode_to_vec();
        assert_eq!(unknown_field("Delta", &delta), None);
        // Field 2000 of a machine, which is field 6 of a delta; and field 1000 of the delta: varints.
        let inner = [&delta[..], &[0x32, 3], &[0x80, 0x7d, 1]].concat();
        assert_eq!(unknown_field("Delta", &inner).as_deref(), Some("machines.field 2000"));
        delta.extend([0xc0, 0x3e, 1]);
        assert_eq!(unknown_field("Delta", &delta).as_deref(), Some("field 1000"));
        assert_eq!(unknown_field("Delta", &[0xff]), None, "generated code says what is wrong with it");
    }

    // It was told as damage, and in a checkpoint had an earlier one taken in its place.
    #[test]
    fn a_value_of_a_later_version_is_told_as_what_that_one_wrote() {
        let newer = |field: &str| ReadError::Newer { what: "Delta", field: field.to_owned() };
        let refused = |delta: &v1::Delta| delta::decode_whole(delta.encode_to_vec().into()).unwrap_err();
        let machine = |state| v1::MachineChange { name: "m1".to_owned(), state, ..v1::MachineChange::default() };
        let mut of_machines = v1::Delta { machines: vec![machine(1), machine(300)], ..v1::Delta::default() };
        assert_eq!(refused(&of_machines), newer("machines.state = 300"));
        // Who only looks can't do without it either.
        let looked_at = delta::decode(of_machines.encode_to_vec().into()).unwrap_err();
        assert_eq!(looked_at, newer("machines.state = 300"));
        // That it says nothing is nothing that a later version would say.
        of_machines.machines = vec![machine(0)];
        assert!(matches!(refused(&of_machines), ReadError::Content { .. }));

        let moves = v1::Moves { slots: vec![4, 5], states: vec![2, 200], ready: vec![0, 0], ..v1::Moves::default() };
        assert_eq!(refused(&v1::Delta { moves: Some(moves), ..v1::Delta::default() }), newer("moves.states = 200"));
        let tasks = vec![v1::TaskChanges { tasks: vec![1], states: vec![9], failures: vec![0], ..Default::default() }];
        assert_eq!(refused(&v1::Delta { tasks, ..v1::Delta::default() }), newer("tasks.states = 9"));
    }

    #[test]
    fn so_is_one_in_a_page_or_in_what_was_asked() {
        let page = |table| v1::Page { table, meta: Some(v1::MetaPage::default()), ..v1::Page::default() };
        let added = |page: &v1::Page| {
            let read = pages::read_whole(page.encode_to_vec().into()).unwrap();
            pages::Decoder::new(Sections::ALL).add_read(read).unwrap_err()
        };
        let newer = pages::PageError::Read(ReadError::Newer { what: "Page", field: "table = 40".to_owned() });
        assert_eq!(added(&page(40)), newer);
        let looked_at = pages::Decoder::new(Sections::ALL).add(page(40).encode_to_vec().into());
        assert_eq!(looked_at.unwrap_err(), newer);
        assert!(matches!(added(&page(1)), pages::PageError::Read(ReadError::Content { .. })), "it has no cell");

        // Field 1000: a number, be it of what can be asked for.
        let asked = v1::Command { principal: "local".to_owned(), ..v1::Command::default() }.encode_to_vec();
        assert!(matches!(command::decode(asked.clone().into()), Err(ReadError::Content { .. })), "it asks for nothing");
        let later = command::decode([&asked[..], &[0xc0, 0x3e, 1]].concat().into()).unwrap_err();
        assert_eq!(later, ReadError::Newer { what: "Command", field: "field 1000".to_owned() });
    }

    // Those of a report that was logged were left out, and one with a state of a later version was told as damage.
    #[test]
    fn every_column_of_states_is_known_as_one() {
        let columns = MESSAGES.iter().flat_map(|(message, of_message)| {
            let states = of_message.values().filter(|(name, _)| name == "states");
            states.map(move |(_, holds)| (message, holds))
        });
        let columns: Vec<_> = columns.collect();
        assert!(columns.len() > 5, "{} columns", columns.len());
        for (message, holds) in columns {
            assert!(matches!(holds, Holds::States(_) | Holds::Value(_)), "{message}");
        }
        let report = v1::ReportStatus { states: vec![200], ..v1::ReportStatus::default() };
        assert_eq!(unknown_value("ReportStatus", &report.encode_to_vec()).as_deref(), Some("states = 200"));
    }

    #[test]
    fn no_enumeration_is_within_a_message() {
        let within =
            parts(FILE_DESCRIPTOR_SET, 1).flat_map(|file| parts(file, 4)).flat_map(|message| parts(message, 4));
        assert_eq!(within.count(), 0);
        assert!(ENUMERATIONS[".plenum.v1.MachineState"].len() > 5);
    }

    #[test]
    fn messages_of_the_log_hold_none_of_their_own_kind() {
        fn depth(message: &str, above: &mut Vec<String>) {
            assert!(!above.iter().any(|name| name == message), "{message} is in itself");
            above.push(message.to_owned());
            for (_, holds) in MESSAGES.get(message).into_iter().flat_map(BTreeMap::values) {
                if let Holds::Message(inner) = holds {
                    depth(inner, above);
                }
            }
            above.pop();
        }
        for message in ["Command", "Delta", "Page"] {
            depth(&format!(".plenum.v1.{message}"), &mut Vec::new());
        }
    }
}

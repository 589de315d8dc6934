//! What a later version said, and this one has no field for: generated code leaves it out in silence.
//!
//! Who only looks may do without it. Who goes on from what is left of it, and writes that down, would have lost it for good.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use bytes::Bytes;
use prost::Message;

use crate::FILE_DESCRIPTOR_SET;
use crate::error::{self, ReadError};
use crate::fields::{fields, number};

/// The fields of a message by number: what each is called, and which message it holds, if any.
type FieldsOf = BTreeMap<u64, (String, Option<String>)>;

/// The messages of `plenum.v1`, by name. Of the descriptors no more is read than that: decoded, they and their comments are megabytes.
static MESSAGES: LazyLock<BTreeMap<String, FieldsOf>> = LazyLock::new(|| {
    let mut messages = BTreeMap::new();
    for file in parts(FILE_DESCRIPTOR_SET, 1) {
        let package = format!(".{}", text(file, 2));
        parts(file, 4).for_each(|message| note(&package, message, &mut messages));
    }
    messages
});

/// `descriptor`: a `google.protobuf.DescriptorProto`.
fn note(outer: &str, descriptor: &[u8], messages: &mut BTreeMap<String, FieldsOf>) {
    /// `TYPE_MESSAGE`.
    const MESSAGE: u64 = 11;
    let name = format!("{outer}.{}", text(descriptor, 1));
    parts(descriptor, 3).for_each(|inner| note(&name, inner, messages));
    let of_message = parts(descriptor, 2).map(|field| {
        let value = |at| parts(field, at).next().and_then(number).unwrap_or_default();
        let inner = (value(5) == MESSAGE).then(|| text(field, 6));
        (value(3), (text(field, 1), inner))
    });
    messages.insert(name, of_message.collect());
}

/// What a message has in the fields with this number.
fn parts(message: &[u8], number: u64) -> impl Iterator<Item = &[u8]> {
    let all = fields(message).map_while(Result::ok);
    all.filter(move |field| field.number == number).map(|field| &message[field.content])
}

fn text(message: &[u8], number: u64) -> String {
    parts(message, number).next().map(|text| String::from_utf8_lossy(text).into_owned()).unwrap_or_default()
}

/// The first field of an encoded message, or of one in it, that this version does not know: its path. Bytes that are no message have none.
fn unknown_field(message: &str, bytes: &[u8]) -> Option<String> {
    find(&format!(".plenum.v1.{message}"), bytes)
}

/// Messages hold no other ones of their own kind: it goes no deeper than they do.
fn find(message: &str, bytes: &[u8]) -> Option<String> {
    let known = MESSAGES.get(message)?;
    for field in fields(bytes) {
        let field = field.ok()?;
        let Some((name, inner)) = known.get(&field.number) else { return Some(format!("field {}", field.number)) };
        if let Some(inner) = inner.as_ref().filter(|_| field.is_delimited(bytes))
            && let Some(found) = find(inner, &bytes[field.content])
        {
            return Some(format!("{name}.{found}"));
        }
    }
    None
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
    use crate::v1;

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

    #[test]
    fn messages_of_the_log_hold_none_of_their_own_kind() {
        fn depth(message: &str, above: &mut Vec<String>) {
            assert!(!above.iter().any(|name| name == message), "{message} is in itself");
            above.push(message.to_owned());
            let known = MESSAGES.get(message).into_iter().flat_map(BTreeMap::values);
            known.filter_map(|(_, inner)| inner.as_deref()).for_each(|inner| depth(inner, above));
            above.pop();
        }
        for message in ["Delta", "Page"] {
            depth(&format!(".plenum.v1.{message}"), &mut Vec::new());
        }
    }
}

//! Which fields of which messages an input shows: by it inputs are chosen, and the corpus is judged.
//!
//! It goes along the bytes with the description of the protocol and decodes nothing: a field is shown where it is written.

use std::collections::{BTreeMap, BTreeSet};

use plenum_proto::fields::fields;
use prost::Message;
use prost_types::DescriptorProto;
use prost_types::field_descriptor_proto::Type;

/// A message's name without its package, and one of its fields' names.
pub type Shown = BTreeSet<(String, String)>;

/// Messages that are in each other deeper than this are not looked at: none of the protocol's are.
const DEPTH_MAX: usize = 16;

struct Field {
    name: String,
    /// The message that it holds.
    message: Option<String>,
}

/// Messages of the protocol, by name, with their fields by number.
pub struct Messages(BTreeMap<String, BTreeMap<u64, Field>>);

impl Messages {
    /// As the protocol describes itself.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    pub fn of_the_protocol() -> Self {
        let set = prost_types::FileDescriptorSet::decode(plenum_proto::FILE_DESCRIPTOR_SET);
        let mut all = Self(BTreeMap::new());
        for file in set.expect("the protocol has a description").file {
            file.message_type.iter().for_each(|message| all.add(message));
        }
        all
    }

    fn add(&mut self, message: &DescriptorProto) {
        let field = |field: &prost_types::FieldDescriptorProto| {
            let number = u64::try_from(field.number()).unwrap_or(0);
            let message = (field.r#type() == Type::Message).then(|| short(field.type_name()).to_owned());
            (number, Field { name: field.name().to_owned(), message })
        };
        self.0.insert(message.name().to_owned(), message.field.iter().map(field).collect());
        message.nested_type.iter().for_each(|nested| self.add(nested));
    }

    /// Each field of a message, and of all messages in it.
    #[must_use]
    pub fn all_in(&self, root: &str) -> Shown {
        let (mut all, mut waiting, mut seen) = (Shown::new(), vec![root], BTreeSet::new());
        while let Some(message) = waiting.pop() {
            if !seen.insert(message) {
                continue;
            }
            for field in self.0.get(message).into_iter().flat_map(BTreeMap::values) {
                all.insert((message.to_owned(), field.name.clone()));
                waiting.extend(field.message.as_deref());
            }
        }
        all
    }

    /// The fields that are written in an input, read as this message.
    #[must_use]
    pub fn shown_by(&self, root: &str, input: &[u8]) -> Shown {
        let mut shown = Shown::new();
        self.walk(root, input, 0, &mut shown);
        shown
    }

    fn walk(&self, message: &str, input: &[u8], depth: usize, shown: &mut Shown) {
        let Some(known) = self.0.get(message).filter(|_| depth < DEPTH_MAX) else { return };
        for found in fields(input).map_while(Result::ok) {
            let Some(field) = known.get(&found.number) else { continue };
            shown.insert((message.to_owned(), field.name.clone()));
            if let Some(inner) = field.message.as_deref().filter(|_| found.is_delimited(input)) {
                self.walk(inner, &input[found.content], depth + 1, shown);
            }
        }
    }
}

/// Names are unique within what we read: only `plenum.v1` and what is well known is in the description.
fn short(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(_, short)| short)
}

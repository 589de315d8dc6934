//! A job file as a tree of values, each with its place: the one form in which TOML and JSON are read.

use std::ops::Range;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{fault::Fault, units};

/// A value and where it stands, in bytes.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) at: Range<usize>,
    pub(super) value: Value,
}

/// What both formats can say. Numbers stay as they were written until a field says what they may be.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    /// An integer that fits 64 bits.
    Integer(i64),
    /// Any other number.
    Decimal(String),
    Boolean(bool),
    List(Vec<Node>),
    Table(Vec<Entry>),
    /// A date of TOML, or null of JSON: nothing that a field takes.
    Other(&'static str),
}

/// A field of a table.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) name_at: Range<usize>,
    pub(super) node: Node,
}

impl Node {
    /// What this is, in the words of an error message.
    pub(super) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Text(_) => "a text",
            Value::Integer(_) => "an integer",
            Value::Decimal(_) => "a number",
            Value::Boolean(_) => "a boolean",
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
            Value::Other(kind) => kind,
        }
    }

    /// The error for a value of the wrong kind. `path` is empty for the file itself.
    pub(super) fn unexpected(&self, path: &str, expected: &str) -> Fault {
        let what = if path.is_empty() { "the file".to_owned() } else { format!("`{path}`") };
        Fault::value(self.at.clone(), format!("{what} is {}; expected {expected}", self.kind()))
    }
}

/// Reads TOML.
pub(super) fn parse_toml(text: &str) -> Result<Node, Fault> {
    let (document, errors) = DeTable::parse_recoverable(text);
    // The first one that the parser gives is of its first pass, and quotes are looked at in a later one: where one is missing, it tells of a comma
    // that is missing on the next line. Of two at one place the later pass knows more.
    let first = errors.iter().rev().min_by_key(|error| error.span().map_or(usize::MAX, |at| at.start));
    if let Some(error) = first {
        let name = error.span().filter(|_| error.message() == "duplicate key").and_then(|at| text.get(at));
        let name = name.map_or_else(String::new, |name| format!(" `{}`", units::shortened(name)));
        return Err(Fault::syntax(error.span(), format!("{}{name}", error.message())));
    }
    let at = document.span();
    table(document.get_ref()).map(|value| Node { at, value })
}

fn node(value: &Spanned<DeValue<'_>>) -> Result<Node, Fault> {
    let at = value.span();
    let value = match value.get_ref() {
        DeValue::String(text) => Value::Text(text.clone().into_owned()),
        DeValue::Integer(digits) => match i64::from_str_radix(digits.as_str(), digits.radix()) {
            Ok(integer) => Value::Integer(integer),
            // The parser lets `0x` pass.
            Err(_) if digits.as_str().is_empty() => return Err(Fault::value(at, "this number has no digits")),
            Err(_) => return Err(Fault::value(at, "this integer does not fit 64 bits")),
        },
        DeValue::Float(number) => Value::Decimal(number.as_str().to_owned()),
        DeValue::Boolean(boolean) => Value::Boolean(*boolean),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Array(values) => Value::List(values.iter().map(node).collect::<Result<_, _>>()?),
        DeValue::Table(entries) => table(entries)?,
    };
    Ok(Node { at, value })
}

/// Fields in the order of the file: the parser sorts them by name, but groups are shown as they were written.
fn table(entries: &DeTable<'_>) -> Result<Value, Fault> {
    let mut read = Vec::with_capacity(entries.len());
    for (name, value) in entries {
        read.push(Entry { name: name.get_ref().to_string(), name_at: name.span(), node: node(value)? });
    }
    read.sort_by_key(|entry| entry.name_at.start);
    Ok(Value::Table(read))
}

//! JSON with places. `serde_json` judges the text; then a walk over text that is known to be right finds where each
//! value stands, which `serde_json` does not tell.

use std::collections::BTreeSet;

use super::{
    fault::Fault,
    tree::{Entry, Node, Value},
};

/// Where editors find a schema of the file: theirs alone.
pub(super) const FOR_EDITORS: &str = "$schema";

/// Reads JSON. Numbers beyond 64 bits and duplicate names are errors.
pub(super) fn parse(text: &str) -> Result<Node, Fault> {
    if text.trim().is_empty() {
        return Err(Fault::syntax(None, "the file is empty"));
    }
    if let Err(error) = serde_json::from_str::<serde_json::Value>(text) {
        let line_start: usize = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
        let place = line_start + error.column().saturating_sub(1);
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or(&message).to_owned();
        return Err(Fault::syntax(Some(place..place + 1), message));
    }
    let mut walk = Walk { text, place: 0 };
    let mut node = walk.node()?;
    if let Value::Table(entries) = &mut node.value {
        entries.retain(|entry| entry.name != FOR_EDITORS || !matches!(entry.node.value, Value::Text(_)));
    }
    Ok(node)
}

/// A walk over valid JSON. Its depth is bounded by what `serde_json` accepts: 128.
struct Walk<'text> {
    text: &'text str,
    place: usize,
}

impl Walk<'_> {
    fn peek(&mut self) -> u8 {
        let bytes = self.text.as_bytes();
        while bytes.get(self.place).is_some_and(u8::is_ascii_whitespace) {
            self.place += 1;
        }
        bytes.get(self.place).copied().unwrap_or(b'\0')
    }

    /// Takes one of the structural characters if it is next.
    fn take(&mut self, wanted: u8) -> bool {
        let found = self.peek() == wanted;
        self.place += usize::from(found);
        found
    }

    fn node(&mut self) -> Result<Node, Fault> {
        let first = self.peek();
        let start = self.place;
        let value = match first {
            b'{' => self.table()?,
            b'[' => self.list()?,
            b'"' => Value::Text(self.string()),
            _ => self.scalar(start)?,
        };
        Ok(Node { at: start..self.place, value })
    }

    fn table(&mut self) -> Result<Value, Fault> {
        self.take(b'{');
        let mut entries = Vec::new();
        let mut seen = BTreeSet::new();
        while !self.take(b'}') {
            self.take(b',');
            self.peek();
            let start = self.place;
            let name = self.string();
            let name_at = start..self.place;
            if !seen.insert(name.clone()) {
                return Err(Fault::syntax(Some(name_at), format!("duplicate key `{name}`")));
            }
            self.take(b':');
            let node = self.node()?;
            entries.push(Entry { name, name_at, node });
        }
        Ok(Value::Table(entries))
    }

    fn list(&mut self) -> Result<Value, Fault> {
        self.take(b'[');
        let mut values = Vec::new();
        while !self.take(b']') {
            self.take(b',');
            values.push(self.node()?);
        }
        Ok(Value::List(values))
    }

    fn string(&mut self) -> String {
        let start = self.place;
        let bytes = self.text.as_bytes();
        let mut end = start + 1;
        while end < bytes.len() && bytes[end] != b'"' {
            end += if bytes[end] == b'\\' { 2 } else { 1 };
        }
        self.place = (end + 1).min(bytes.len());
        serde_json::from_str(&self.text[start..self.place]).unwrap_or_default()
    }

    fn scalar(&mut self, start: usize) -> Result<Value, Fault> {
        let rest = &self.text[start..];
        let length = rest.find(|each: char| ",]}".contains(each) || each.is_whitespace()).unwrap_or(rest.len());
        self.place = start + length;
        let word = &rest[..length];
        Ok(match word {
            "true" => Value::Boolean(true),
            "false" => Value::Boolean(false),
            "null" => Value::Other("null"),
            _ => match word.parse() {
                Ok(integer) => Value::Integer(integer),
                Err(_) if word.contains(['.', 'e', 'E']) => Value::Decimal(word.to_owned()),
                Err(_) => return Err(Fault::value(start..self.place, "this integer does not fit 64 bits")),
            },
        })
    }
}

//! Reading the fields of a table: every name is known or refused, every value is of its kind and within its bounds.

use std::{
    collections::{BTreeMap, btree_map},
    ops::Range,
};

use plenum_proto::{
    bounds::{NAME_BYTES_MAX, OPTION_BYTES_MAX},
    names,
};

use super::{
    constraint,
    fault::{Fault, Faults},
    group, job, nearest,
    tree::{Entry, Node, Value},
    units,
};

/// Names that other systems have for what a job file calls otherwise, and its own.
pub(super) const SYNONYMS: &[(&str, &str)] = &[
    ("args", "command"),
    ("cmd", "command"),
    ("cores", "cpu"),
    ("depends_on", "after"),
    ("device", "gpu"),
    ("devices", "gpu"),
    ("environment", "env"),
    ("gpus", "gpu"),
    ("instances", "count"),
    ("mem", "memory"),
    ("ram", "memory"),
    ("replicas", "count"),
];

/// A table whose names were all checked.
pub(super) struct Fields<'file> {
    path: String,
    at: Range<usize>,
    entries: &'file [Entry],
    /// Entries that nobody knows, each below the name that was most likely meant.
    slips: Vec<(&'static str, &'file Entry)>,
}

impl<'file> Fields<'file> {
    /// Opens a table that has no fields but `known` ones: each that nobody knows is noted. `path` is how messages name it; empty for the
    /// file itself. `None`: it is none, and `expected` says what it should be.
    pub(super) fn open_noting(
        node: &'file Node,
        path: &str,
        known: &'static [&'static str],
        expected: &str,
        faults: &mut Faults,
    ) -> Option<Self> {
        let mut fields = faults.note(Self::open_any(node, path, expected))?;
        for entry in fields.entries().iter().filter(|entry| !known.contains(&entry.name.as_str())) {
            fields.note_unknown(entry, known, faults);
        }
        Some(fields)
    }

    /// Opens a table whose names are free.
    pub(super) fn open_any(node: &'file Node, path: &str, expected: &str) -> Result<Self, Fault> {
        match &node.value {
            Value::Table(entries) => {
                Ok(Self { path: path.to_owned(), at: node.at.clone(), entries, slips: Vec::new() })
            }
            _ => Err(node.unexpected(path, expected)),
        }
    }

    /// Notes a field that nobody knows. What it was most likely meant for is read from it from here on: so it is not called missing, and what is
    /// wrong in it is told, too.
    pub(super) fn note_unknown(&mut self, entry: &'file Entry, known: &'static [&'static str], faults: &mut Faults) {
        faults.add_with(|| {
            self.slips.extend(meant(&entry.name, known).map(|name| (name, entry)));
            self.unknown(entry, known)
        });
    }

    /// A field that nobody knows, with the nearest known name, or where a field of that name stands. Nobody is led to one that is refused.
    pub(super) fn unknown(&self, entry: &Entry, known: &'static [&'static str]) -> Fault {
        let place = if self.path.is_empty() { "a job file".to_owned() } else { format!("`{}`", self.path) };
        let (name, own) = (units::shortened(&entry.name), own_word(&entry.name));
        let elsewhere = elsewhere(own, known);
        let renamed = elsewhere.is_some().then_some(own).filter(|own| *own != entry.name);
        let guess = renamed.or_else(|| meant(&entry.name, known));
        let guess = guess.map_or_else(String::new, |meant| format!("; did you mean `{meant}`?"));
        // Of these a cell may have more, which files are not to know.
        let more =
            if known == group::KNOWN_RESOURCES { "; what the cell itself names takes a whole number" } else { "" };
        let known_here = || format!("known here: {}{more}", built(known).collect::<Vec<_>>().join(", "));
        Fault::value(entry.name_at.clone(), format!("unknown field `{name}` in {place}{guess}"))
            .with_code("JOB_FILE_UNKNOWN_FIELD")
            .with_hint(elsewhere.unwrap_or_else(known_here))
    }

    /// How messages name a field of this table.
    pub(super) fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// Where the table stands.
    pub(super) fn at(&self) -> Range<usize> {
        self.at.clone()
    }

    pub(super) fn entries(&self) -> &'file [Entry] {
        self.entries
    }

    /// The field of this name, or a slip in it.
    pub(super) fn entry(&self, name: &str) -> Option<&'file Entry> {
        let slip = || self.slips.iter().find(|(meant, _)| *meant == name).map(|(_, entry)| *entry);
        self.entries.iter().find(|entry| entry.name == name).or_else(slip)
    }

    pub(super) fn node(&self, name: &str) -> Option<&'file Node> {
        self.entry(name).map(|entry| &entry.node)
    }

    /// Refuses a field that is part of the format but not built.
    pub(super) fn refuse(&self, name: &str) -> Result<(), Fault> {
        match self.entry(name) {
            Some(entry) => Err(Fault::unimplemented(entry.name_at.clone(), &format!("`{}`", self.path_of(name)))),
            None => Ok(()),
        }
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<&'file str>, Fault> {
        self.node(name).map(|node| text(node, &self.path_of(name))).transpose()
    }

    pub(super) fn boolean(&self, name: &str) -> Result<Option<bool>, Fault> {
        match self.node(name) {
            None => Ok(None),
            Some(Node { value: Value::Boolean(boolean), .. }) => Ok(Some(*boolean)),
            Some(node) => Err(node.unexpected(&self.path_of(name), "true or false")),
        }
    }

    /// An integer from `least` to `most`.
    pub(super) fn number(&self, name: &str, least: u32, most: u32) -> Result<Option<u32>, Fault> {
        let Some(node) = self.node(name) else { return Ok(None) };
        let expected = format!("an integer from {least} to {most}");
        let Value::Integer(integer) = node.value else {
            return Err(node.unexpected(&self.path_of(name), &expected));
        };
        match u32::try_from(integer) {
            Ok(number) if (least..=most).contains(&number) => Ok(Some(number)),
            _ => Err(Fault::value(
                node.at.clone(),
                format!("`{}` is {integer}; expected {expected}", self.path_of(name)),
            )),
        }
    }

    /// A time, in microseconds.
    pub(super) fn duration(&self, name: &str) -> Result<Option<i64>, Fault> {
        let Some(node) = self.node(name) else { return Ok(None) };
        let path = self.path_of(name);
        let Value::Text(text) = &node.value else {
            return Err(node.unexpected(&path, "a time with a unit, such as \"10s\""));
        };
        units::duration_micros(text)
            .map(Some)
            .map_err(|what| Fault::value(node.at.clone(), format!("`{path}`: {what}")))
    }

    /// A name of a job, a group, a namespace or a scheduler.
    pub(super) fn name(&self, name: &str) -> Result<Option<&'file str>, Fault> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        match units::name_fault(text) {
            Some(what) => {
                let at = self.node(name).map_or_else(|| self.at(), |node| node.at.clone());
                Err(Fault::value(at, format!("`{}` {what}", self.path_of(name))))
            }
            None => Ok(Some(text)),
        }
    }

    /// The nodes of a list; none when the field is missing.
    pub(super) fn list(&self, name: &str, expected: &str) -> Result<&'file [Node], Fault> {
        match self.node(name) {
            None => Ok(&[]),
            Some(Node { value: Value::List(values), .. }) => Ok(values),
            Some(node) => Err(node.unexpected(&self.path_of(name), expected)),
        }
    }

    /// Each entry of such a list, with how messages name it: by the list's own name, its entry would be told to be of the list's kind.
    pub(super) fn each<'list>(&self, name: &str, nodes: &'list [Node]) -> impl Iterator<Item = (String, &'list Node)> {
        let path = self.path_of(name);
        nodes.iter().enumerate().map(move |(position, node)| (format!("{path}[{position}]"), node))
    }

    /// An attribute of machines, written `attr.NAME`.
    pub(super) fn attribute(&self, name: &str) -> Result<Option<String>, Fault> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let at = self.node(name).map_or_else(|| self.at(), |node| node.at.clone());
        constraint::attribute(text)
            .map(Some)
            .map_err(|what| Fault::value(at, format!("`{}`: {what}", self.path_of(name))))
    }
}

/// The text of a node.
pub(super) fn text<'file>(node: &'file Node, path: &str) -> Result<&'file str, Fault> {
    match &node.value {
        Value::Text(text) => Ok(text),
        _ => Err(node.unexpected(path, "a text in quotes")),
    }
}

/// The known name that was most likely meant; none where another table has a field of that very name.
fn meant(name: &str, known: &'static [&'static str]) -> Option<&'static str> {
    let own = own_word(name);
    let same = built(known).find(|known| *known == own);
    same.or_else(|| if elsewhere(own, known).is_some() { None } else { nearest(name, built(known)) })
}

/// The name that job files have for what other systems call so.
pub(super) fn own_word(name: &str) -> &str {
    SYNONYMS.iter().find(|(synonym, _)| *synonym == name).map_or(name, |(_, own)| *own)
}

/// Where a field of this name stands, if that is in another table.
fn elsewhere(name: &str, here: &'static [&'static str]) -> Option<String> {
    let is_in = |known: &'static [&'static str]| !here.contains(&name) && built(known).any(|known| known == name);
    if is_in(job::KNOWN) {
        Some(format!("`{name}` belongs to the job: put it beside `group`, in TOML above the first [group.…]"))
    } else if is_in(group::KNOWN) {
        Some(format!("`{name}` belongs to a group: put it into one, in TOML below a line such as [group.main]"))
    } else if is_in(group::KNOWN_RESOURCES) {
        let example = if name == "gpu" { group::RESOURCES_WITH_GPU } else { group::RESOURCES };
        Some(format!("`{name}` belongs to `resources` of a group: for example resources = {example}"))
    } else {
        None
    }
}

/// The known names that are not refused.
fn built(known: &'static [&'static str]) -> impl Iterator<Item = &'static str> {
    // No driver that is built takes an image.
    let is_built = |name: &&str| !job::UNBUILT.contains(name) && !group::UNBUILT.contains(name) && *name != "image";
    known.iter().copied().filter(is_built)
}

/// Options of a job's scheduler: tables become dotted names, values become texts.
pub(super) fn options(node: &Node, path: &str, faults: &mut Faults) -> BTreeMap<String, String> {
    const OPTIONS_MAX: usize = 64;
    let mut flat = BTreeMap::new();
    let mut open = vec![(String::new(), node)];
    while let Some((prefix, node)) = open.pop() {
        let Some(fields) = faults.note(Fields::open_any(node, path, "a table, such as { policy = \"fifo\" }")) else {
            continue;
        };
        for entry in fields.entries() {
            let name = if prefix.is_empty() { entry.name.clone() } else { format!("{prefix}.{}", entry.name) };
            if matches!(entry.node.value, Value::Table(_)) {
                // Each name below it begins with all of it: of a long one there would be as many copies.
                if name.len() > NAME_BYTES_MAX {
                    faults.add(beyond_bounds(entry, &name, path));
                } else {
                    open.push((name, &entry.node));
                }
                continue;
            }
            let Some(value) = faults.note(option(entry, &name, path)) else { continue };
            match flat.entry(name) {
                btree_map::Entry::Vacant(vacant) => {
                    vacant.insert(value);
                }
                btree_map::Entry::Occupied(known) => {
                    let what = format!("`{path}.{}` is given twice: as a dotted name, and in a table", known.key());
                    faults.add(Fault::value(entry.name_at.clone(), what).with_hint("leave one of them out"));
                }
            }
        }
    }
    if flat.len() > OPTIONS_MAX {
        let what = format!("`{path}` has {} options; expected at most {OPTIONS_MAX}", flat.len());
        faults.add(Fault::value(node.at.clone(), what));
    }
    flat
}

/// The value of one option, whose whole name is `name`.
fn option(entry: &Entry, name: &str, path: &str) -> Result<String, Fault> {
    let value = match &entry.node.value {
        Value::Text(text) => text.clone(),
        Value::Integer(integer) => integer.to_string(),
        Value::Decimal(number) => number.clone(),
        Value::Boolean(boolean) => boolean.to_string(),
        _ => return Err(entry.node.unexpected(&format!("{path}.{name}"), "a text, a number or a boolean")),
    };
    if names::attribute("", name).is_err() || value.len() > OPTION_BYTES_MAX {
        return Err(beyond_bounds(entry, name, path));
    }
    Ok(value)
}

fn beyond_bounds(entry: &Entry, name: &str, path: &str) -> Fault {
    let what = format!(
        "`{path}.{}`: expected a name of 1 to {NAME_BYTES_MAX} letters, digits, `-`, `_`, `.`, the first a letter or a \
         digit, and a value of at most {OPTION_BYTES_MAX} bytes",
        units::shortened(name)
    );
    Fault::value(entry.name_at.clone(), what)
}

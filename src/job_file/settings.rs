//! Files of settings: TOML, read with the code and in the words of job files. It knows how a setting is read, and not which there are: a name that nobody
//! asked for is unknown.

use std::{collections::BTreeMap, fmt::Display, ops::RangeInclusive, time::Duration};

use super::{
    fault::{Fault, Faults, JobFileError},
    fields::{self, Fields},
    nearest::guess,
    tree::{self, Entry, Node, Value},
    units,
};

/// The code of whatever is wrong in such a file.
const CODE: &str = "CONFIG";

/// A table of settings. What is read of it that can't be is noted, and told together in the end; here it is as if it had been left out.
pub(crate) struct Settings<'file> {
    fields: Fields<'file>,
    /// What was asked for, in that order.
    known: Vec<&'static str>,
    faults: &'file mut Faults,
}

/// Reads the settings of a file. `name` is how messages call it.
///
/// # Errors
///
/// `CONFIG` with all that is wrong in it, each with its place: no TOML, a setting that `read` did not ask for, a value that it can't have.
pub(crate) fn settings<T>(
    name: &str,
    text: &str,
    read: impl FnOnce(&mut Settings<'_>) -> T,
) -> Result<T, JobFileError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut faults = Faults::default();
    let tree = faults.note(tree::parse_toml(text));
    let read = tree.and_then(|tree| Settings::table(&tree, "", &mut faults, read));
    match read {
        Some(value) if faults.is_empty() => Ok(value),
        _ => Err(JobFileError { code: CODE, ..JobFileError::told(name, text, faults, "") }),
    }
}

impl Settings<'_> {
    /// Reads a whole table, and notes what nobody asked for.
    fn table<T>(node: &Node, path: &str, faults: &mut Faults, read: impl FnOnce(&mut Settings<'_>) -> T) -> Option<T> {
        let fields = faults.note(Fields::open_any(node, path, "a table"))?;
        let mut table = Settings { fields, known: Vec::new(), faults };
        let value = read(&mut table);
        let Settings { fields, known, faults } = table;
        for entry in fields.entries().iter().filter(|entry| !known.contains(&entry.name.as_str())) {
            faults.add_with(|| unknown(entry, path, &known));
        }
        Some(value)
    }

    /// A text, as it is read by `parse`, which otherwise says what it expects.
    pub(crate) fn parsed<T>(&mut self, name: &'static str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let node = self.asked(name)?;
        let path = self.fields.path_of(name);
        let text = self.faults.note(fields::text(node, &path))?;
        let wrong =
            |what: String| Fault::value(node.at.clone(), format!("`{path}` is `{}`; {what}", units::shortened(text)));
        self.faults.note(parse(text).map_err(wrong))
    }

    /// A text.
    pub(crate) fn text(&mut self, name: &'static str) -> Option<String> {
        self.parsed(name, |text| Ok(text.to_owned()))
    }

    /// Whether it is true; false where it is left out.
    pub(crate) fn is_true(&mut self, name: &'static str) -> bool {
        self.known.push(name);
        self.faults.note(self.fields.boolean(name)).flatten().unwrap_or(false)
    }

    /// An integer of `range`, which ends with the greatest of its type where there is no other bound.
    pub(crate) fn number<N>(&mut self, name: &'static str, range: RangeInclusive<N>) -> Option<N>
    where
        N: TryFrom<i64> + Display + PartialOrd,
    {
        let node = self.asked(name)?;
        self.faults.note(number(node, &self.fields.path_of(name), &range))
    }

    /// A time.
    pub(crate) fn time(&mut self, name: &'static str) -> Option<Duration> {
        self.known.push(name);
        let micros = self.faults.note(self.fields.duration(name)).flatten();
        micros.map(|micros| Duration::from_micros(micros.unsigned_abs()))
    }

    /// A list of texts; none where it is left out.
    pub(crate) fn texts(&mut self, name: &'static str) -> Vec<String> {
        self.known.push(name);
        let nodes = self.faults.note(self.fields.list(name, "a list of texts")).unwrap_or_default();
        let each = self.fields.each(name, nodes);
        each.filter_map(|(path, node)| self.faults.note(fields::text(node, &path))).map(str::to_owned).collect()
    }

    /// Texts by names that are free.
    pub(crate) fn named_texts(&mut self, name: &'static str) -> BTreeMap<String, String> {
        self.named(name, "a table of texts", |node, path, faults| {
            faults.note(fields::text(node, path)).map(str::to_owned)
        })
    }

    /// Integers from 0 on by names that are free.
    pub(crate) fn named_numbers(&mut self, name: &'static str) -> BTreeMap<String, u64> {
        self.named(name, "a table of numbers", |node, path, faults| faults.note(number(node, path, &(0..=u64::MAX))))
    }

    /// Tables by names that are free.
    pub(crate) fn named_tables<T>(
        &mut self,
        name: &'static str,
        expected: &str,
        read: impl Fn(&mut Settings<'_>) -> T,
    ) -> BTreeMap<String, T> {
        self.named(name, "a table of tables", |node, path, faults| match node.value {
            Value::Table(_) => Settings::table(node, path, faults, &read),
            _ => faults.note(Err(node.unexpected(path, expected))),
        })
    }

    /// Notes that the table lacks what it can't be without.
    pub(crate) fn lacks(&mut self, name: &'static str) {
        // A value that can't be was told of.
        if self.fields.node(name).is_none() {
            self.faults.add(Fault::value(self.fields.at(), format!("`{}` is missing", self.fields.path_of(name))));
        }
    }

    /// Notes what is wrong with what stands at a path of names, or as far down it as there is something: what was seen only when it had been read. Without
    /// a path it is told of the file, and no line of that is shown.
    pub(crate) fn refuse(&mut self, path: &[&str], what: String) {
        let fields = &self.fields;
        self.faults.add_with(|| {
            let (mut entries, mut at) = (fields.entries(), None);
            for name in path {
                let Some(entry) = entries.iter().find(|entry| entry.name == *name) else { break };
                at = Some(entry.name_at.clone());
                let Value::Table(below) = &entry.node.value else { break };
                entries = below;
            }
            Fault { code: CODE, at, message: what, hint: None }
        });
    }

    fn named<T>(
        &mut self,
        name: &'static str,
        expected: &str,
        read: impl Fn(&Node, &str, &mut Faults) -> Option<T>,
    ) -> BTreeMap<String, T> {
        let Some(node) = self.asked(name) else { return BTreeMap::new() };
        let path = self.fields.path_of(name);
        let Some(table) = self.faults.note(Fields::open_any(node, &path, expected)) else { return BTreeMap::new() };
        let each = |entry: &Entry| {
            let value = read(&entry.node, &table.path_of(&units::shortened(&entry.name)), self.faults)?;
            Some((entry.name.clone(), value))
        };
        table.entries().iter().filter_map(each).collect()
    }
}

impl<'file> Settings<'file> {
    /// The value of a setting, which is known from now on.
    fn asked(&mut self, name: &'static str) -> Option<&'file Node> {
        self.known.push(name);
        self.fields.node(name)
    }
}

fn number<N>(node: &Node, path: &str, range: &RangeInclusive<N>) -> Result<N, Fault>
where
    N: TryFrom<i64> + Display + PartialOrd,
{
    let (least, most) = (range.start(), range.end());
    let Value::Integer(integer) = node.value else {
        return Err(node.unexpected(path, &format!("an integer of {least} or more")));
    };
    let number = N::try_from(integer).ok();
    let is_too_small = number.as_ref().map_or(integer < 0, |number| number < least);
    number.filter(|number| range.contains(number)).ok_or_else(|| {
        let expected = if is_too_small { format!("{least} or more") } else { format!("at most {most}") };
        Fault::value(node.at.clone(), format!("`{path}` is {integer}; expected {expected}"))
    })
}

/// A setting that nobody knows, with the one that was most likely meant.
fn unknown(entry: &Entry, path: &str, known: &[&'static str]) -> Fault {
    let table = if path.is_empty() { String::new() } else { format!(" in `{path}`") };
    let meant = guess(&entry.name, known.iter().copied());
    let what = format!("unknown setting `{}`{table}{meant}", units::shortened(&entry.name));
    Fault::value(entry.name_at.clone(), what).with_hint(format!("known here: {}", known.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told<T: std::fmt::Debug>(text: &str, read: impl FnOnce(&mut Settings<'_>) -> T) -> JobFileError {
        settings("part.toml", text, read).unwrap_err()
    }

    // `invalid type: integer `2`, expected struct Devices`: whoever writes settings knows no Rust.
    #[test]
    fn a_setting_of_another_kind_is_told_in_the_words_of_job_files() {
        let gpus = |settings: &mut Settings<'_>| {
            settings.named_tables("devices", "a table, such as { count = 2 }", |devices| {
                devices.number("count", 0..=u32::MAX).or_else(|| {
                    devices.lacks("count");
                    None
                })
            })
        };
        for (text, message) in [
            (
                "devices = { gpu = 2 }\n",
                "part.toml:1:19: `devices.gpu` is an integer; expected a table, such as { count = 2 }",
            ),
            ("devices = 2\n", "part.toml:1:11: `devices` is an integer; expected a table of tables"),
            (
                "[devices.gpu]\ncount = \"2\"\n",
                "part.toml:2:9: `devices.gpu.count` is a text; expected an integer of 0 or more",
            ),
            ("[devices.gpu]\ncount = -1\n", "part.toml:2:9: `devices.gpu.count` is -1; expected 0 or more"),
            (
                "[devices.gpu]\ncount = 9999999999\n",
                "part.toml:2:9: `devices.gpu.count` is 9999999999; expected at most 4294967295",
            ),
            (
                "[devices.gpu]\ncout = 1\n",
                "part.toml:2:1: unknown setting `cout` in `devices.gpu`; did you mean `count`?",
            ),
            ("[devices.gpu]\n", "`devices.gpu.count` is missing"),
            ("devices = {\n", "part.toml:1:"),
        ] {
            let error = told(text, gpus);
            assert!(error.code == CODE && error.message.contains(message), "{text}: {error}");
        }
        let error = told("name = 3\n", |settings| settings.text("name"));
        assert!(
            error.message.starts_with("part.toml:1:8: `name` is an integer; expected a text in quotes\n"),
            "{error}"
        );
        let error = told("a = [\"b\", 1]\n", |settings| settings.texts("a"));
        assert!(
            error.message.starts_with("part.toml:1:11: `a[1]` is an integer; expected a text in quotes\n"),
            "{error}"
        );
        let error = told("a.b = 1\n", |settings| settings.named_texts("a"));
        assert!(
            error.message.starts_with("part.toml:1:7: `a.b` is an integer; expected a text in quotes\n"),
            "{error}"
        );
    }

    // Of a slip all twenty names were listed, and not which of them is near.
    #[test]
    fn a_setting_that_nobody_knows_is_told_with_the_nearest_one_beside_all_other_mistakes() {
        let read = |settings: &mut Settings<'_>| (settings.time("lease"), settings.is_true("quiet"));
        let one = told("leese = \"15s\"\n", read);
        assert!(one.message.starts_with("part.toml:1:1: unknown setting `leese`; did you mean `lease`?\n"), "{one}");
        assert_eq!(one.hint.as_deref(), Some("known here: lease, quiet"));
        let several = told("other = 2\nlease = 5\nquiet = 1\n", read);
        assert!(
            several.message.starts_with("part.toml:1:1: unknown setting `other`"),
            "in the order of the file: {several}"
        );
        for part in [
            "`lease` is an integer; expected a time with a unit",
            "`quiet` is an integer; expected true or false",
            "unknown setting `other`",
        ] {
            assert!(several.message.contains(part), "{several}");
        }
        assert_eq!(several.hint.as_deref(), Some("these are 3 mistakes"));
    }

    #[test]
    fn what_is_refused_after_all_was_read_is_told_with_its_place() {
        let text = "name = \"a\"\nlease = 5\n[devices.gpu]\ncount = 2\n";
        let error = told(text, |settings| {
            let _ = (settings.text("name"), settings.time("lease"));
            settings.named_tables("devices", "a table", |devices| devices.number("count", 0..=9));
            settings.refuse(&["devices", "gpu", "count"], "too many".to_owned());
            settings.refuse(&["devices", "gpu", "model"], "no model".to_owned());
            settings.refuse(&["name", "first"], "no name".to_owned());
            settings.refuse(&[], "no file".to_owned());
        });
        let lines = error.message.lines().filter(|line| line.starts_with("part.toml"));
        // The column of a table's name is that of its header.
        let told: Vec<(&str, &str)> = lines
            .map(|line| (line.split(':').nth(1).unwrap_or_default(), line.rsplit(": ").next().unwrap_or_default()))
            .collect();
        let lease = "`lease` is an integer; expected a time with a unit, such as \"10s\"";
        assert_eq!(
            told,
            [("1", "no name"), ("2", lease), ("3", "no model"), ("4", "too many"), (" no file", "no file")]
        );
    }

    #[test]
    fn what_is_right_is_read() {
        let text = "\u{feff}lease = \"15s\"\nnames = [\"a\"]\nseats.b = 3\n";
        let read = settings("part.toml", text, |settings| {
            (settings.time("lease"), settings.texts("names"), settings.named_numbers("seats"), settings.text("none"))
        });
        let seats = BTreeMap::from([("b".to_owned(), 3)]);
        assert_eq!(read, Ok((Some(Duration::from_secs(15)), vec!["a".to_owned()], seats, None)));
    }
}

//! A strict reader for tables in text: comma, tab or blanks between fields, plain or gzip.
//!
//! Whatever is wrong is told with file, line, column, what was expected and what was found. Nothing is guessed, skipped or read twice,
//! and neither a line nor a file can take more memory or time than its limit. Knows no trace: those are the modules beside it.
//!
//! ```text
//! let mut table = Table::open(path, &Layout::commas(&["name", "cpu_milli"], &["qos"]))?;
//! while let Some(row) = table.next()? {
//!     let name = row.text("name")?;
//!     let cpu = row.whole("cpu_milli", 0..=1_000_000)?;
//!     let qos = row.maybe_text("qos")?;
//! }
//! ```

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::RangeInclusive;
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

/// A line is at most so long: the longest of any known trace has some hundred bytes.
const LINE_BYTES: usize = 64 << 10;
/// A file is at most so long, decompressed: what a gzip of a few MiB could claim to be is not read to its end.
const FILE_BYTES: u64 = 8 << 30;
/// Of what was found, an error shows so many characters.
const SHOWN: usize = 60;

/// What stands between two fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Between {
    Comma,
    Tab,
    /// One or more blanks or tabs, as in the Standard Workload Format.
    Blanks,
}

/// Which columns a table has, and how its fields are told apart.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    between: Between,
    required: Vec<&'static str>,
    optional: Vec<&'static str>,
    /// Whether the first line names the columns. Otherwise they are the required ones, in this order.
    header: bool,
    /// Lines that begin with it are remarks.
    remark: Option<u8>,
}

impl Layout {
    /// Commas, and a first line that names the columns, in any order. A column that is neither required nor optional is an error.
    pub(crate) fn commas(required: &[&'static str], optional: &[&'static str]) -> Self {
        let (required, optional) = (required.to_vec(), optional.to_vec());
        Self { between: Between::Comma, required, optional, header: true, remark: None }
    }

    /// Tabs, and no line that names the columns: each line has exactly these.
    pub(crate) fn tabs(columns: &[&'static str]) -> Self {
        Self { between: Between::Tab, required: columns.to_vec(), optional: Vec::new(), header: false, remark: None }
    }

    /// Blanks, and no line that names the columns: each line has exactly these. Lines that begin with `remark` are not read, nor are
    /// lines of nothing but blanks.
    pub(crate) fn blanks(columns: &[&'static str], remark: u8) -> Self {
        Self { between: Between::Blanks, remark: Some(remark), ..Self::tabs(columns) }
    }

    fn known(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.required.iter().chain(&self.optional).copied()
    }
}

/// What is wrong with a file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flaw {
    file: String,
    /// From 1; 0 where it is about the whole file.
    line: u64,
    /// The number, from 1, and the name.
    column: Option<(usize, String)>,
    expected: String,
    found: String,
}

impl std::error::Error for Flaw {}

impl fmt::Display for Flaw {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.file)?;
        if self.line > 0 {
            write!(out, ", line {}", self.line)?;
        }
        if let Some((number, name)) = &self.column {
            write!(out, ", column {number} ({name})")?;
        }
        write!(out, ": expected {}, found {}", self.expected, self.found)
    }
}

/// A file that is being read.
pub(crate) struct Table {
    reader: Box<dyn BufRead + Send>,
    file: String,
    layout: Layout,
    columns: Columns,
    line_number: u64,
    bytes: u64,
    line: Vec<u8>,
    /// Where each field of the line lies in `text`.
    fields: Vec<(usize, usize)>,
    /// The line's fields without quotes, one behind the other.
    text: String,
    remarks: Vec<String>,
}

/// The columns of a file, in its order.
type Columns = Vec<&'static str>;

impl Table {
    /// Opens a file, and reads the line that names its columns if the layout has one. That it is compressed is seen by its first bytes, not
    /// by its name.
    ///
    /// # Errors
    /// When it cannot be read, and when its columns are not those of the layout.
    pub(crate) fn open(path: &Path, layout: &Layout) -> anyhow::Result<Self> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(|error| flaw(&name, 0, "a file that can be read", &error.to_string()))?;
        Self::read(file, &name, layout)
    }

    /// The same, of anything that can be read. `name` stands in its errors.
    ///
    /// # Errors
    /// As [`Table::open`].
    pub(crate) fn read(source: impl Read + Send + 'static, name: &str, layout: &Layout) -> anyhow::Result<Self> {
        let mut raw = BufReader::with_capacity(1 << 16, source);
        let first = raw.fill_buf().map_err(|error| flaw(name, 0, "a file that can be read", &error.to_string()))?;
        let reader: Box<dyn BufRead + Send> = if first.starts_with(&[0x1f, 0x8b]) {
            Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(raw)))
        } else {
            Box::new(raw)
        };
        let mut table = Self {
            reader,
            file: name.to_owned(),
            layout: layout.clone(),
            columns: layout.required.clone(),
            line_number: 0,
            bytes: 0,
            line: Vec::new(),
            fields: Vec::new(),
            text: String::new(),
            remarks: Vec::new(),
        };
        if layout.header {
            table.read_header()?;
        }
        Ok(table)
    }

    /// The remarks that were read so far, without their first character.
    pub(crate) fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// The next row.
    ///
    /// # Errors
    /// When the file cannot be read on, its compression is damaged or cut short, a line is too long or has another number of fields.
    pub(crate) fn next(&mut self) -> Result<Option<Row<'_>>, Flaw> {
        if !self.next_line()? {
            return Ok(None);
        }
        self.split()?;
        if self.fields.len() != self.columns.len() {
            let expected = format!("{} fields ({})", self.columns.len(), self.columns.join(", "));
            return Err(self.flaw(&expected, &format!("{} fields", self.fields.len())));
        }
        Ok(Some(Row { table: self }))
    }

    fn flaw(&self, expected: &str, found: &str) -> Flaw {
        flaw(&self.file, self.line_number, expected, found)
    }

    fn read_header(&mut self) -> Result<(), Flaw> {
        let wanted = self.layout.required.join(",");
        if !self.next_line()? {
            return Err(self.flaw(&format!("a first line with the columns {wanted}"), "an empty file"));
        }
        self.split()?;
        let mut columns: Columns = Vec::new();
        for number in 0..self.fields.len() {
            let name = self.field(number).trim();
            let Some(known) = self.layout.known().find(|known| *known == name) else {
                return Err(self.unknown_column(number, name));
            };
            if columns.contains(&known) {
                return Err(self.at(number, known, "each column once", &format!("{known} again")));
            }
            columns.push(known);
        }
        for required in &self.layout.required {
            if !columns.contains(required) {
                return Err(self.flaw(&format!("the column {required}"), &format!("only {}", columns.join(","))));
            }
        }
        self.columns = columns;
        Ok(())
    }

    /// A name that differs from a known one only in what stands behind the last `_` is most likely the same in another unit.
    fn unknown_column(&self, number: usize, name: &str) -> Flaw {
        let stem = |name: &str| name.rsplit_once('_').map_or_else(|| name.to_owned(), |(stem, _)| stem.to_owned());
        let known = || self.layout.known();
        if let Some(meant) = known().find(|known| stem(known) == stem(name) || stem(known) == name) {
            let found = format!("{name:?}; convert it, if it is another unit");
            return self.at(number, name, &format!("{meant}, which says its unit"), &found);
        }
        let expected = format!("one of the columns {}", known().collect::<Vec<_>>().join(","));
        self.at(number, name, &expected, &shown(name))
    }

    fn at(&self, number: usize, name: &str, expected: &str, found: &str) -> Flaw {
        Flaw { column: Some((number + 1, name.to_owned())), ..self.flaw(expected, found) }
    }

    fn field(&self, number: usize) -> &str {
        let (from, to) = self.fields[number];
        &self.text[from..to]
    }

    /// Reads one line that is neither a remark nor, where that is allowed, blank, into `line`, without its end.
    fn next_line(&mut self) -> Result<bool, Flaw> {
        let mut blank_line = None;
        while self.read_line()? {
            if self.layout.remark.is_some_and(|remark| self.line.first() == Some(&remark)) {
                // Remarks are for people; names in them may be of any encoding.
                self.remarks.push(String::from_utf8_lossy(&self.line[1..]).trim().to_owned());
                continue;
            }
            if self.line.iter().all(u8::is_ascii_whitespace) {
                blank_line = blank_line.or(Some(self.line_number));
                continue;
            }
            // At the end of a file a blank line is harmless; in its middle something is missing.
            match blank_line {
                Some(line) if self.layout.between != Between::Blanks => {
                    return Err(flaw(&self.file, line, "a row", "a blank line before further rows"));
                }
                _ => return Ok(true),
            }
        }
        Ok(false)
    }

    fn read_line(&mut self) -> Result<bool, Flaw> {
        self.line.clear();
        self.line_number += 1;
        let limit = u64::try_from(LINE_BYTES).expect("a small number") + 1;
        match self.reader.by_ref().take(limit).read_until(b'\n', &mut self.line) {
            Ok(0) => return Ok(false),
            Ok(read) => self.bytes += u64::try_from(read).expect("at most the limit"),
            Err(error) => return Err(self.unreadable(&error)),
        }
        if self.bytes > FILE_BYTES {
            return Err(self.flaw(&format!("at most {FILE_BYTES} bytes, decompressed"), "more"));
        }
        if self.line.last() == Some(&b'\n') {
            self.line.pop();
        } else if self.line.len() > LINE_BYTES {
            return Err(self.flaw(&format!("a line of at most {LINE_BYTES} bytes"), "a longer one"));
        }
        if self.line.last() == Some(&b'\r') {
            self.line.pop();
        }
        if self.line_number == 1 && self.line.starts_with(b"\xef\xbb\xbf") {
            self.line.drain(..3);
        }
        Ok(true)
    }

    fn unreadable(&self, error: &io::Error) -> Flaw {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                self.flaw("the rest of a gzip file", "its end: it was cut short; copy or fetch it again")
            }
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => {
                self.flaw("sound gzip data", &format!("damage ({error}); copy or fetch it again"))
            }
            _ => self.flaw("a file that can be read", &error.to_string()),
        }
    }

    /// Splits `line` into `fields`.
    fn split(&mut self) -> Result<(), Flaw> {
        self.fields.clear();
        self.text.clear();
        let line = std::mem::take(&mut self.line);
        let split = match std::str::from_utf8(&line) {
            Ok(line) => self.split_text(line),
            Err(error) => {
                let found = format!("byte {:#04x} at position {}", line[error.valid_up_to()], error.valid_up_to() + 1);
                Err(self.flaw("text in UTF-8", &found))
            }
        };
        self.line = line;
        split
    }

    fn split_text(&mut self, line: &str) -> Result<(), Flaw> {
        let mut push = |field: &str| {
            let from = self.text.len();
            self.text.push_str(field);
            self.fields.push((from, self.text.len()));
        };
        match self.layout.between {
            Between::Blanks => line.split_ascii_whitespace().for_each(push),
            Between::Tab => line.split('\t').for_each(push),
            Between::Comma if !line.contains('"') => line.split(',').for_each(push),
            Between::Comma => {
                let fields = quoted(line);
                for field in fields.as_deref().unwrap_or_default() {
                    push(field);
                }
                if let Err(number) = fields {
                    let column = self.columns.get(number).copied().unwrap_or("?");
                    let expected = "a quoted field that ends on its line, and then a comma";
                    return Err(self.at(number, column, expected, "a quote somewhere else"));
                }
            }
        }
        Ok(())
    }
}

/// The fields of a line in which some are quoted (RFC 4180, section 2, without line breaks inside quotes); or the number of the field that
/// is wrong.
fn quoted(line: &str) -> Result<Vec<String>, usize> {
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        let (field, behind) = match rest.strip_prefix('"') {
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                if rest[..end].contains('"') {
                    return Err(fields.len());
                }
                (rest[..end].to_owned(), &rest[end..])
            }
            Some(inner) => quoted_field(inner).ok_or(fields.len())?,
        };
        fields.push(field);
        match behind.strip_prefix(',') {
            Some(next) => rest = next,
            None if behind.is_empty() => return Ok(fields),
            None => return Err(fields.len() - 1),
        }
    }
}

/// What stands before the closing quote, with doubled quotes made one, and what stands behind it.
fn quoted_field(mut inner: &str) -> Option<(String, &str)> {
    let mut field = String::new();
    loop {
        let end = inner.find('"')?;
        field.push_str(&inner[..end]);
        inner = &inner[end + 1..];
        match inner.strip_prefix('"') {
            Some(more) => {
                field.push('"');
                inner = more;
            }
            None => return Some((field, inner)),
        }
    }
}

/// One row of a table. Columns are asked for by name; a name that the layout does not have is a bug of ours.
pub(crate) struct Row<'a> {
    table: &'a Table,
}

impl Row<'_> {
    /// The line it stands on, from 1.
    pub(crate) fn line(&self) -> u64 {
        self.table.line_number
    }

    /// The field as it stands there; nothing where it is empty, or where the file does not have this optional column.
    pub(crate) fn maybe_text(&self, column: &str) -> Option<&str> {
        let field = self.table.field(self.number(column)?).trim();
        (!field.is_empty()).then_some(field)
    }

    /// The field, which must not be empty.
    ///
    /// # Errors
    /// When it is.
    pub(crate) fn text(&self, column: &str) -> Result<&str, Flaw> {
        self.maybe_text(column).ok_or_else(|| self.wrong(column, "a value"))
    }

    /// A whole number in the range.
    ///
    /// # Errors
    /// When it is none, or out of the range; a negative one, too.
    pub(crate) fn whole(&self, column: &str, range: RangeInclusive<u64>) -> Result<u64, Flaw> {
        let value = self.text(column).ok().and_then(|text| text.parse().ok());
        value.filter(|value| range.contains(value)).ok_or_else(|| {
            let (from, to) = (range.start(), range.end());
            let bound = if *to == u64::MAX { format!("from {from} on") } else { format!("from {from} to {to}") };
            self.wrong(column, &format!("a whole number {bound}"))
        })
    }

    /// The same, where the field may be empty.
    ///
    /// # Errors
    /// As [`Row::whole`], when it is not empty.
    pub(crate) fn maybe_whole(&self, column: &str, range: RangeInclusive<u64>) -> Result<Option<u64>, Flaw> {
        self.maybe_text(column).map(|_| self.whole(column, range)).transpose()
    }

    /// A number in the range.
    ///
    /// # Errors
    /// When it is none, or out of the range; a negative one, too, unless the range has it.
    pub(crate) fn number_in(&self, column: &str, range: RangeInclusive<f64>) -> Result<f64, Flaw> {
        let value = self.text(column).ok().and_then(|text| text.parse().ok());
        value
            .filter(|value: &f64| range.contains(value))
            .ok_or_else(|| self.wrong(column, &format!("a number from {} to {}", range.start(), range.end())))
    }

    /// The same, where the field may be empty.
    ///
    /// # Errors
    /// As [`Row::number_in`], when it is not empty.
    pub(crate) fn maybe_number_in(&self, column: &str, range: RangeInclusive<f64>) -> Result<Option<f64>, Flaw> {
        self.maybe_text(column).map(|_| self.number_in(column, range)).transpose()
    }

    /// Notes a value that may stand in one row only.
    ///
    /// # Errors
    /// When another row had it; both lines are named.
    pub(crate) fn once(&self, column: &str, seen: &mut Seen) -> Result<(), Flaw> {
        match seen.0.insert(self.text(column)?.to_owned(), self.line()) {
            None => Ok(()),
            Some(line) => {
                let expected = format!("a value that no other row has (line {line} has it)");
                Err(self.wrong(column, &expected))
            }
        }
    }

    /// Notes values of several columns that may stand together in one row only.
    ///
    /// # Errors
    /// When another row had them; both lines are named.
    pub(crate) fn once_together(&self, columns: &[&str], seen: &mut Seen) -> Result<(), Flaw> {
        let mut together = String::new();
        for column in columns {
            together.push_str(self.text(column)?);
            together.push('\n');
        }
        match seen.0.insert(together, self.line()) {
            None => Ok(()),
            Some(line) => {
                let expected = format!("{} that no other row has (line {line} has them)", columns.join(","));
                Err(self.wrong(columns[0], &expected))
            }
        }
    }

    /// That this field is wrong, for rules that only the reader of the trace knows.
    pub(crate) fn wrong(&self, column: &str, expected: &str) -> Flaw {
        let number = self.number(column);
        let found = number.map_or_else(String::new, |number| self.table.field(number).to_owned());
        let found = if found.trim().is_empty() { "nothing".to_owned() } else { shown(&found) };
        self.table.at(number.unwrap_or_default(), column, expected, &found)
    }

    fn number(&self, column: &str) -> Option<usize> {
        let number = self.table.columns.iter().position(|name| *name == column);
        debug_assert!(number.is_some() || self.table.layout.known().any(|known| known == column), "no column {column}");
        number
    }
}

/// Values of a column of which each may stand in one row only, with their lines. Only looked up, never listed.
#[derive(Debug, Default)]
pub(crate) struct Seen(HashMap<String, u64>);

fn flaw(file: &str, line: u64, expected: &str, found: &str) -> Flaw {
    let (file, expected, found) = (file.to_owned(), expected.to_owned(), found.to_owned());
    Flaw { file, line, column: None, expected, found }
}

fn shown(text: &str) -> String {
    let short: String = text.chars().take(SHOWN).collect();
    let dots = if short.len() < text.len() { "…" } else { "" };
    format!("{short:?}{dots}")
}

#[cfg(test)]
mod tests;

//! Reference results: rows of another implementation of the same experiments, read from where the user keeps them.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, bail, ensure};

use crate::cells::row::COLUMNS;

/// Cells before this position say what a row is, those after it what came out.
const SETTINGS: usize = 14;

/// A row as text, by column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cells(Vec<String>);

/// Positions of columns.
fn position(column: &str) -> usize {
    COLUMNS.split(',').position(|name| name == column).expect("a column of the table")
}

impl Cells {
    /// A row of our own.
    pub(super) fn of(line: &str) -> Self {
        Self(line.split(',').map(str::to_owned).collect())
    }

    /// What the row is.
    pub(super) fn key(&self) -> String {
        self.0[..SETTINGS].join(",")
    }

    pub(super) fn text(&self, column: &str) -> &str {
        &self.0[position(column)]
    }

    /// A number. Rows are checked when they are read.
    pub(super) fn number(&self, column: &str) -> f64 {
        self.text(column).parse().unwrap_or(f64::NAN)
    }

    pub(super) fn line(&self) -> String {
        self.0.join(",")
    }

    /// The same with another text in a column.
    pub(super) fn with(mut self, column: &str, text: &str) -> Self {
        text.clone_into(&mut self.0[position(column)]);
        self
    }
}

/// Rows by what they are.
pub(super) type Reference = BTreeMap<String, Cells>;

/// Reads a file of the folder; nothing when it is not there.
///
/// # Errors
/// When it is there and not such a table: file, line, column, and what was expected.
pub(super) fn read(folder: &Path, file: &str) -> anyhow::Result<Reference> {
    let path = folder.join("omega-reference").join(format!("{file}.csv"));
    if !path.exists() {
        return Ok(Reference::new());
    }
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| path.display().to_string())
}

fn parse(text: &str) -> anyhow::Result<Reference> {
    let mut lines = text.lines();
    let head = lines.next().unwrap_or_default();
    ensure!(head == COLUMNS, "line 1: expected the columns {COLUMNS}, found {head}");
    let names: Vec<&str> = COLUMNS.split(',').collect();
    let mut rows = Reference::new();
    for (line, number) in lines.zip(2..) {
        let cells = Cells::of(line);
        ensure!(cells.0.len() == names.len(), "line {number}: expected {} cells, found {}", names.len(), cells.0.len());
        for (name, cell) in names.iter().zip(&cells.0).skip(SETTINGS) {
            let value: Result<f64, _> = cell.parse();
            ensure!(
                value.is_ok_and(|value| value.is_finite() && value >= 0.0),
                "line {number}, column {name}: expected a number that is not negative, found {cell:?}"
            );
        }
        if let Some(twice) = rows.insert(cells.key(), cells) {
            bail!("line {number}: a second row for {}", twice.key());
        }
    }
    Ok(rows)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A row with these values, and 1 in all other columns.
    pub(in super::super) fn row(values: &[(&str, &str)]) -> Cells {
        let cell = |name: &str| values.iter().find(|(column, _)| *column == name).map_or("1", |(_, value)| value);
        Cells(COLUMNS.split(',').map(|name| cell(name).to_owned()).collect())
    }

    #[test]
    fn a_table_is_read_by_what_its_rows_are() {
        let one = row(&[("exp", "E1"), ("batch_busy", "0.5")]);
        let rows = parse(&format!("{COLUMNS}\n{}\n", one.line())).unwrap();
        assert_eq!(rows[&one.key()].number("batch_busy"), 0.5);
    }

    #[test]
    fn what_is_wrong_is_named_with_line_and_column() {
        let bad = row(&[("service_busy", "-1")]);
        let one = row(&[]).line();
        let cases = [
            ("exp,workload\n".to_owned(), "line 1: expected the columns"),
            (format!("{COLUMNS}\n1,2,3\n"), "line 2: expected 55 cells, found 3"),
            (format!("{COLUMNS}\n{}\n", bad.line()), "line 2, column service_busy"),
            (format!("{COLUMNS}\n{one}\n{one}\n"), "line 3: a second row"),
        ];
        for (text, word) in cases {
            let error = parse(&text).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}

//! What commands print: tables for people, one JSON value for programs.
//!
//! Results go to standard output, everything else to standard error. This module knows the wire's views and nothing of
//! how they were asked for.

mod allocation;
mod asked;
mod command;
mod conflict;
mod device;
mod govern;
mod history;
mod job;
mod machine;
#[cfg(test)]
mod page;
mod plain;
mod prose;
mod quantity;
mod reader;
mod refusal;
mod retired;
mod scribe;
mod seen;
mod status;
mod table;
mod transaction;
mod window;
mod yaml;

use std::io::{self, Write};

use clap::ValueEnum;
use serde_json::{Value, json};

pub(crate) use allocation::{allocation_id, away, failure_words, loss_words, waits_for};
pub(crate) use asked::asked_text;
#[cfg(test)]
pub(crate) use command::ASK_NO_CELL;
pub(crate) use command::word;
pub(crate) use conflict::{grouped, key_columns, said_span};
pub(crate) use device::{device_lines, missing_device_lines};
pub(crate) use govern::{held_words, unknown_words};
pub(crate) use job::{
    failing_words, how_often, job_called, job_state, state_words as job_state_words, waiting_reasons,
};
pub(crate) use machine::{drain_words, state_name as machine_state, tasks_left, unfit, when_stopped};
pub(crate) use plain::lines;
pub(crate) use prose::prose;
pub(crate) use quantity::{ago, bytes, cpu, json_time, now_micros, span, span_of};
pub(crate) use reader::while_read;
pub(crate) use refusal::{Names, sentence};
pub(crate) use retired::{retired, retired_json, retired_lines};
pub(crate) use scribe::Scribe;
pub(crate) use seen::{cell_now_micros, go_by_clock, look_from, name_cell, name_no_cell, name_resources};
pub(crate) use status::{cell_name, past_status_json, past_status_text, status_json, status_text};
pub(crate) use table::{fields, is_styled, moves_cursor, table};
pub(crate) use transaction::{assumed, check_name, configuration, evictions, grants, minima, stopped};
pub(crate) use window::Window;

use crate::failure::Failure;

/// How a result is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A table for people
    Table,
    /// A table with more columns
    Wide,
    /// One JSON value
    Json,
    /// The same as YAML
    Yaml,
    /// Only names or ids, one a line
    Name,
}

impl Format {
    /// Whether people read it, who are told besides what is missing and what to do next. Programs read the others: also names, which scripts take.
    pub(crate) const fn is_for_people(self) -> bool {
        match self {
            Self::Table | Self::Wide => true,
            Self::Json | Self::Yaml | Self::Name => false,
        }
    }
}

/// Something that can be listed.
pub(crate) trait Row {
    /// Titles of columns; the second list only with `-o wide`.
    fn titles() -> (&'static [&'static str], &'static [&'static str]);
    /// How many of the second list stand in a narrow table too, as one of these rows has something there that must not be overlooked.
    fn promoted(_rows: &[Self]) -> usize
    where
        Self: Sized,
    {
        0
    }
    /// One cell for each title of both lists.
    fn cells(&self) -> Vec<String>;
    /// The object that programs read.
    fn to_json(&self) -> Value;
    /// What it is called on the command line.
    fn name(&self) -> String;
    /// What it shows that no revision tells: it changes while the cell stands still.
    fn unlogged(&self) -> String {
        String::new()
    }
}

/// A listing in the format asked for.
pub(crate) fn listing<R: Row>(format: Format, revision: u64, rows: &[R], truncated: bool) -> String {
    listing_with(format, revision, rows, truncated, &[])
}

/// The same, with what programs read besides: by its names, where it is not null.
pub(crate) fn listing_with<R: Row>(
    format: Format,
    revision: u64,
    rows: &[R],
    truncated: bool,
    besides: &[(&str, Value)],
) -> String {
    match format {
        Format::Table | Format::Wide => rows_table(format, rows),
        Format::Json | Format::Yaml => {
            let items: Vec<Value> = rows.iter().map(Row::to_json).collect();
            let mut whole = json!({"revision": revision, "items": items});
            if truncated {
                whole["truncated"] = json!(true);
            }
            for (name, value) in besides.iter().filter(|(_, value)| !value.is_null()) {
                whole[*name] = value.clone();
            }
            value(format, &whole)
        }
        Format::Name => rows.iter().map(|row| row.name() + "\n").collect(),
    }
}

/// Rows below their titles.
fn rows_table<R: Row>(format: Format, rows: &[R]) -> String {
    let (narrow, wide) = R::titles();
    let mut titles: Vec<&str> = narrow.to_vec();
    let more = if format == Format::Wide { wide.len() } else { R::promoted(rows) };
    titles.extend(&wide[..more]);
    let cells = rows.iter().map(|row| {
        let mut cells = row.cells();
        cells.truncate(titles.len());
        cells
    });
    table(&titles, cells.collect())
}

/// One object in the format asked for; `text` is what people get.
pub(crate) fn object(format: Format, json: &Value, name: &str, text: impl FnOnce() -> String) -> String {
    match format {
        Format::Table | Format::Wide => text(),
        Format::Json | Format::Yaml => value(format, json),
        Format::Name => format!("{name}\n"),
    }
}

/// A value for programs that read line by line.
pub(crate) fn one_line_of(json: &Value) -> String {
    plain::escaped(&json.to_string()) + "\n"
}

/// A value for programs.
fn value(format: Format, json: &Value) -> String {
    plain::escaped(&if format == Format::Yaml { yaml::to_yaml(json) } else { format!("{json:#}\n") })
}

/// Writes a result to standard output.
///
/// # Errors
///
/// `IO`, for example when the disk behind it is full. A reader that went away is no error: it has seen enough, and the
/// process ends.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    print_bytes(text.as_bytes())
}

/// Writes bytes to standard output, as [`print()`] does.
pub(crate) fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    if write(bytes)? { Ok(()) } else { std::process::exit(0) }
}

/// Writes bytes to standard output where the process has more to do, such as to end others or to exit with a job's result: it goes on
/// without a reader.
///
/// # Errors
///
/// As [`print()`].
pub(crate) fn print_and_go_on(bytes: &[u8]) -> Result<(), Failure> {
    write(bytes).map(drop)
}

/// False: the reader went away.
fn write(bytes: &[u8]) -> Result<bool, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::io("cannot write to standard output", &error)),
        Ok(()) => Ok(true),
    }
}

/// Tells people something, on standard error, behind all that was said there before. Nobody can be told that this failed.
pub(crate) fn tell(text: &str) {
    let line = told(text) + "\n";
    if !scribe::tell(&line) {
        let _ = io::stderr().lock().write_all(line.as_bytes());
    }
}

/// What stands there then.
pub(crate) fn told(text: &str) -> String {
    lines(&command::of_this_call(text))
}

/// Tells people what went wrong, on standard error; programs that asked for JSON or YAML find it on standard output, where
/// they would have found the answer.
pub(crate) fn tell_failure(format: Format, failure: &Failure) {
    let of_this_call = |text: &str| command::of_this_call(text).into_owned();
    let failure = &Failure {
        message: of_this_call(&failure.message),
        hint: failure.hint.as_deref().map(of_this_call),
        ..failure.clone()
    };
    if matches!(format, Format::Json | Format::Yaml) {
        // Who can't be told on standard output may still be on standard error.
        let _ = io::stdout().lock().write_all(failure_for_programs(format, failure).as_bytes());
    }
    let mut text = format!("error[{}]: {}", failure.code, failure.message);
    if let Some(hint) = &failure.hint {
        text.push_str(&format!("\nhint: {hint}"));
    }
    tell(&text);
}

/// On one line, so that it is found among other lines, such as a log's. JSON is YAML, too: a document of its own, as there may be others before
/// it, such as what a listing showed that was watched.
fn failure_for_programs(format: Format, failure: &Failure) -> String {
    let begin = if format == Format::Yaml { "---\n" } else { "" };
    format!("{begin}{}", one_line_of(&failure.to_json()))
}

/// A revision, or nothing for 0.
pub(crate) fn revision_or_null(revision: u64) -> Value {
    if revision == 0 { Value::Null } else { json!(revision) }
}

/// A text, or nothing.
fn or_null(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { Value::from(text) }
}

/// A state, with what there is to be noted of it.
fn noted(state: &str, notes: &[String]) -> String {
    if notes.is_empty() { state.to_owned() } else { format!("{state} ({})", notes.join(", ")) }
}

/// A text for a cell of a table.
pub(crate) fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Which formats people read was spelled in eight places, and each could have forgotten one.
    #[test]
    fn people_read_tables_and_programs_the_rest() {
        let read: Vec<Format> = Format::value_variants().iter().copied().filter(|each| each.is_for_people()).collect();
        assert_eq!(read, [Format::Table, Format::Wide]);
    }

    // A watched listing that failed in the end was no YAML: the error stood behind the fields of the last document.
    #[test]
    fn a_failure_is_a_document_of_its_own() {
        let failure = Failure::new("UNAVAILABLE", "gone");
        let line = "{\"error\":{\"code\":\"UNAVAILABLE\",\"hint\":null,\"message\":\"gone\"}}\n";
        assert_eq!(failure_for_programs(Format::Json, &failure), line);
        assert_eq!(failure_for_programs(Format::Yaml, &failure), format!("---\n{line}"));
    }
}

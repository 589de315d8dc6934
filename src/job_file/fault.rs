//! What is wrong in a job file, and where: the message that people read.

use std::{fmt, ops::Range};

/// A fault as the readers find it: a place in bytes, not yet in lines.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) code: &'static str,
    pub(super) at: Option<Range<usize>>,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

impl Fault {
    /// The text is not TOML or not JSON.
    pub(super) fn syntax(at: Option<Range<usize>>, message: impl Into<String>) -> Self {
        Self { code: "JOB_FILE_SYNTAX", at, message: message.into(), hint: None }
    }

    /// A field has a value that cannot be.
    pub(super) fn value(at: Range<usize>, message: impl Into<String>) -> Self {
        Self { code: "JOB_FILE_VALUE", at: Some(at), message: message.into(), hint: None }
    }

    /// A field that is part of the format, and not built yet.
    pub(super) fn unimplemented(at: Range<usize>, what: &str) -> Self {
        Self {
            code: "UNIMPLEMENTED",
            at: Some(at),
            message: format!("{what} is part of the job file's format, but this version of Plenum cannot do it"),
            hint: Some(
                "take it out of the file: it is refused because a job that runs without it would not be the job \
                 you asked for"
                    .to_owned(),
            ),
        }
    }

    pub(super) fn with_code(mut self, code: &'static str) -> Self {
        self.code = code;
        self
    }

    pub(super) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// So many mistakes are told at once; more would hide the first ones.
const FAULTS_MAX: usize = 20;

/// What is wrong in one file, in the order in which it is found. Readers go on behind a fault where the rest means the same without it.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// Invariant: at most [`FAULTS_MAX`].
    told: Vec<Fault>,
    /// Those beyond.
    untold: usize,
}

impl Faults {
    pub(super) fn add(&mut self, fault: Fault) {
        self.add_with(|| fault);
    }

    /// Makes one only if there is room for it: names that nobody knows are compared with all that there are.
    pub(super) fn add_with(&mut self, fault: impl FnOnce() -> Fault) {
        if self.told.len() < FAULTS_MAX {
            self.told.push(fault());
        } else {
            self.untold += 1;
        }
    }

    /// What was read, or nothing and the fault is noted.
    pub(super) fn note<T>(&mut self, read: Result<T, Fault>) -> Option<T> {
        read.map_err(|fault| self.add(fault)).ok()
    }

    /// In the order of the file from now on.
    pub(super) fn sort_by_place(&mut self) {
        self.told.sort_by_key(|fault| fault.at.as_ref().map_or(0, |at| at.start));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.told.is_empty()
    }
}

impl From<Fault> for Faults {
    fn from(fault: Fault) -> Self {
        Self { told: vec![fault], untold: 0 }
    }
}

/// Why a job file, or a file of settings, was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JobFileError {
    /// A stable code with a page of its own: that of the first mistake.
    pub(crate) code: &'static str,
    /// File, line, column, what was found and what was expected; then the line itself with the place marked. Of several mistakes each in
    /// turn, with what to do below it.
    pub(crate) message: String,
    /// What to do, where there is something to say, about a mistake that is the only one.
    pub(crate) hint: Option<String>,
}

impl JobFileError {
    pub(super) fn new(file: &str, text: &str, faults: Faults) -> Self {
        Self::told(file, text, faults, "; nothing was submitted")
    }

    /// The same, where that follows from several mistakes.
    pub(super) fn told(file: &str, text: &str, faults: Faults, follows: &str) -> Self {
        let code = faults.told.first().map_or("JOB_FILE_VALUE", |first| first.code);
        let in_words = |fault: &Fault| match &fault.at {
            Some(at) => marked(file, text, at, &fault.message),
            None => format!("{file}: {}", fault.message),
        };
        if let ([fault], 0) = (&faults.told[..], faults.untold) {
            return Self { code, message: in_words(fault), hint: fault.hint.clone() };
        }
        let with_hint = |fault: &Fault| match &fault.hint {
            Some(hint) => format!("{}\n   {hint}", in_words(fault)),
            None => in_words(fault),
        };
        let mut all: Vec<String> = faults.told.iter().map(with_hint).collect();
        if faults.untold > 0 {
            all.push(format!("{file}: and {} more", faults.untold));
        }
        let hint = format!("these are {} mistakes{follows}", faults.told.len() + faults.untold);
        Self { code, message: all.join("\n"), hint: Some(hint) }
    }

    pub(super) fn unreadable(file: &str, why: &str, hint: Option<&str>) -> Self {
        Self {
            code: "JOB_FILE_UNREADABLE",
            message: format!("cannot read the job file {file}: {why}"),
            hint: hint.map(str::to_owned),
        }
    }
}

impl fmt::Display for JobFileError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}

impl std::error::Error for JobFileError {}

/// Longest part of a line that is shown. A whole job on one line of JSON would hide the message.
const SHOWN_CHARS_MAX: usize = 100;

/// The message with its place, and the line it stands on with a caret below.
fn marked(file: &str, text: &str, at: &Range<usize>, message: &str) -> String {
    let start = floor(text, at.start);
    let line_start = text[..start].rfind('\n').map_or(0, |end| end + 1);
    let line_end = text[start..].find('\n').map_or(text.len(), |end| start + end);
    let number = text[..start].matches('\n').count() + 1;
    let before = text[line_start..start].chars().count();
    let skipped = before.saturating_sub(SHOWN_CHARS_MAX / 2);
    let line = text[line_start..line_end].trim_end();
    let shown: String = line
        .chars()
        .skip(skipped)
        .take(SHOWN_CHARS_MAX)
        .map(|each| if each.is_control() { ' ' } else { each })
        .collect();
    let marked = text[start..floor(text, at.end.max(start)).min(line_end)].chars().count();
    let carets = marked.clamp(1, SHOWN_CHARS_MAX - (before - skipped).min(SHOWN_CHARS_MAX - 1));
    let margin = " ".repeat(number.to_string().len());
    format!(
        "{file}:{number}:{column}: {message}\n {number} | {shown}\n {margin} | {space}{caret}",
        column = before + 1,
        space = " ".repeat(before - skipped),
        caret = "^".repeat(carets),
    )
}

/// The nearest place at or before `at` where a character begins.
fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

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

    /// In the order of the file from now on, as people go through it: readers find unknown fields of a table first. What is missing has no place, and comes
    /// last.
    fn sort_by_place(&mut self) {
        self.told.sort_by_key(|fault| fault.at.as_ref().map_or(usize::MAX, |at| at.start));
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
    pub(super) fn told(file: &str, text: &str, mut faults: Faults, follows: &str) -> Self {
        // Of the one that was found first: an unknown field goes before what is missing for it.
        let code = faults.told.first().map_or("JOB_FILE_VALUE", |first| first.code);
        faults.sort_by_place();
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
    let shown: String = line.chars().skip(skipped).take(SHOWN_CHARS_MAX).map(shown_as).collect();
    let space = columns(text[line_start..start].chars().skip(skipped));
    let marked = text[start..floor(text, at.end.max(start)).min(line_end)].chars();
    let carets = columns(marked.take(SHOWN_CHARS_MAX - (before - skipped).min(SHOWN_CHARS_MAX - 1))).max(1);
    let margin = " ".repeat(number.to_string().len());
    format!(
        "{file}:{number}:{column}: {message}\n {number} | {shown}\n {margin} | {space}{caret}",
        column = before + 1,
        space = " ".repeat(space),
        caret = "^".repeat(carets),
    )
}

/// A character as it stands there, on one line.
fn shown_as(each: char) -> char {
    if each.is_control() { ' ' } else { each }
}

/// How many columns of a terminal characters take, as far as the caret has to know: those that stand above others take none, and those of East
/// Asian scripts and pictures two.
fn columns(characters: impl Iterator<Item = char>) -> usize {
    let width = |each: char| match u32::from(shown_as(each)) {
        0x0300..=0x036f | 0x200b..=0x200f | 0x20d0..=0x20ff | 0xfe00..=0xfe0f | 0xfeff => 0,
        0x1100..=0x115f
        | 0x2e80..=0x303e
        | 0x3041..=0xa4cf
        | 0xa960..=0xa97f
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1f64f
        | 0x1f680..=0x1f6ff
        | 0x1f900..=0x1f9ff
        | 0x2_0000..=0x3_fffd => 2,
        _ => 1,
    };
    characters.map(width).sum()
}

/// The nearest place at or before `at` where a character begins.
fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    // Behind a word in Japanese the caret stood below what was right.
    #[test]
    fn the_caret_stands_below_what_is_wrong_also_behind_wide_characters() {
        let below = |before: &str, wrong: &str| {
            let text = format!("{before}{wrong} = 1");
            let told = marked("job.toml", &text, &(before.len()..before.len() + wrong.len()), "unknown");
            told.lines().last().and_then(|line| line.strip_prefix("   | ")).map(str::to_owned)
        };
        let caret = |space: usize, carets: usize| Some(" ".repeat(space) + &"^".repeat(carets));
        assert_eq!(below("a\tb ", "cout"), caret(4, 4));
        assert_eq!(below("日本語 ", "cout"), caret(7, 4));
        assert_eq!(below("e\u{301} 🦀", "名"), caret(4, 2));
        assert_eq!(below("", ""), caret(0, 1));
    }
}

//! What a run says while it goes: plain lines on standard error, so that standard output is for results.

use std::io::Write;

/// Says a line. That nobody reads it is no reason to stop measuring.
pub(crate) fn say(line: &str) {
    drop(writeln!(std::io::stderr().lock(), "{line}"));
}

/// Prints a line of the result.
///
/// # Errors
/// When standard output is closed.
pub(crate) fn print(line: &str) -> std::io::Result<()> {
    writeln!(std::io::stdout().lock(), "{line}")
}

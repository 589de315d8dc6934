//! Stories that could not be told where the tests run. Tests of other crates have this file, too, by its path.

use std::fs::OpenOptions;
use std::io::Write;

/// Says that a story was not told, or only in part, and why; the gate counts these and names them. What a test that passed wrote to standard
/// error, nobody sees.
pub(crate) fn skipped(why: &str) {
    let why = why.trim_end().replace('\n', "; ");
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
    if let Some(path) = std::env::var_os("PLENUM_SKIPS") {
        let story = std::thread::current().name().unwrap_or("a test").to_owned();
        let file = OpenOptions::new().create(true).append(true).open(path);
        file.and_then(|mut file| file.write_all(format!("{story}: {why}\n").as_bytes())).unwrap();
    }
}

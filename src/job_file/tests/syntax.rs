//! What is neither TOML nor JSON, or no text at all: where it is told, and what to do.

use std::path::Path;

use super::{GROUP, HEAD, JobFile, check};
use crate::job_file::{FILE_BYTES_MAX, JobFileError};

/// A right job as JSON.
const JSON: &str = r#"{"name": "story", "scheduler": "batch", "group": {"main": {"command": ["/bin/true"],
    "resources": {"cpu": 1, "memory": "64MiB"}}}}"#;

#[track_caller]
fn check_as(name: &str, text: &str, message: &str, hint: &str) {
    let error = JobFile::parse(name, text).expect_err("the file should be refused");
    assert_eq!(error.code, "JOB_FILE_SYNTAX", "{error}");
    assert!(error.message.contains(message), "expected {message:?} in:\n{error}");
    assert_eq!(error.hint.as_deref(), Some(hint), "{error}");
}

#[track_caller]
fn check_unreadable(error: &JobFileError, message: &str, hint: Option<&str>) {
    assert_eq!(error.code, "JOB_FILE_UNREADABLE", "{error}");
    assert!(error.message.contains(message), "expected {message:?} in:\n{error}");
    assert_eq!(error.hint.as_deref(), hint, "{error}");
}

// It was told on the next line, which was right, as a comma that was missing there.
#[test]
fn a_quote_that_is_missing_in_a_list_is_told_where_it_is_missing() {
    let resources = "resources = { cpu = \"1\", memory = \"16MiB\" }\n";
    let text = format!("{HEAD}[group.a]\ncommand = [\"/bin/tr\n{resources}");
    check(&text, "JOB_FILE_SYNTAX", &["job.toml:4:20: invalid basic string", "4 | command = [\"/bin/tr"]);
    // Both are missing at the end of the file: the bracket, which the parser tells first, and the quotes before it.
    let text = format!("{HEAD}[group.a]\ncommand = [\"\"\"/bin/tr\n{resources}");
    check(&text, "JOB_FILE_SYNTAX", &["job.toml:6:1: invalid multi-line basic string"]);
    // Each is told where it stands, and the first one first.
    let text = format!("{HEAD}[group.a]\ncommand = [/bin/tr]\n{resources}count = = 3\n");
    check(&text, "JOB_FILE_SYNTAX", &["job.toml:4:"]);
}

#[test]
fn a_name_that_is_given_twice_is_told_in_both_formats() {
    check("name = \"a\"\nname = \"b\"\n", "JOB_FILE_SYNTAX", &["job.toml:2:1: duplicate key `name`"]);
    check(&format!("{HEAD}{GROUP}[group.main]\n"), "JOB_FILE_SYNTAX", &["job.toml:6:8: duplicate key `main`"]);
    check("{\"name\": \"a\", \"name\": \"b\"}", "JOB_FILE_SYNTAX", &["duplicate key `name`"]);
}

// JSON with one was told to have no value, with nothing to see above the mark.
#[test]
fn a_byte_order_mark_says_nothing() {
    let toml = format!("{HEAD}{GROUP}");
    for (name, text) in [("job.json", JSON), ("standard input", JSON), ("job.toml", toml.as_str())] {
        let marked = JobFile::parse(name, &format!("\u{feff}{text}")).expect("the mark is no mistake");
        assert_eq!(marked.spec, JobFile::parse(name, text).expect("it is right without").spec);
    }
    check("\u{feff}name = = 3\n", "JOB_FILE_SYNTAX", &["job.toml:1:8"]);
}

// Its name was told as an empty one in quotes.
#[test]
fn a_file_that_is_no_table_is_told_as_a_file() {
    for (text, kind) in [("[1]", "a list"), ("\"x\"", "a text"), ("3", "an integer")] {
        let error = JobFile::parse("job.json", text).expect_err("that is no job");
        let told = format!("job.json:1:1: the file is {kind}; expected one job, as {{ \"name\": \"word-count\", … }}");
        assert_eq!((error.code, error.message.lines().next()), ("JOB_FILE_VALUE", Some(told.as_str())));
    }
}

// The parser's words alone let nobody see that another format was read than had been written.
#[test]
fn what_is_malformed_is_told_as_which_format_it_was_read() {
    let by_name = "this is read as JSON, as its name ends in .json";
    check_as("job.json", &format!("{HEAD}{GROUP}"), "job.json:1:2: expected ident", by_name);
    check_as("job.json", "{'name': 'a'}", "job.json:1:2: key must be a string", by_name);
    check_as("job.json", " \n", "job.json: the file is empty", by_name);
    check_as("job.toml", "{\"name\": }", "job.toml:1:10", "this is read as JSON, as it begins with {");
    let toml = "this is read as TOML; JSON begins with {, or has a name that ends in .json";
    check_as("job.hcl", "job \"story\" {\n}\n", "job.hcl:1:5: key with no value", toml);
    check_as("job.yaml", "name: story\n", "job.yaml:1:5: invalid unquoted key", toml);
}

// All had the same hint: to give the path of a job file in TOML or JSON, which they had done.
#[test]
fn a_file_that_can_not_be_read_is_told_what_to_do_about_that() {
    let path = Some("give the path of a job file in TOML or JSON");
    let read = |path: &str| JobFile::read(Path::new(path)).expect_err("there is no such file");
    check_unreadable(&read("/nowhere/job.toml"), "/nowhere/job.toml: No such file", path);
    check_unreadable(&read("/"), "Is a directory", path);
    let read = |bytes| JobFile::from_bytes("job.toml", bytes).expect_err("that is no job file");
    let long = vec![b' '; usize::try_from(FILE_BYTES_MAX).expect("it fits memory") + 1];
    check_unreadable(
        &read(long),
        "more than the 1048576 bytes",
        Some("put long scripts into files that the command reads"),
    );
    let latin = b"name = \"a\"\n# caf\xe9\n".to_vec();
    check_unreadable(&read(latin), "no text in UTF-8 from line 2 on", Some("save it as UTF-8"));
    let utf16 = b"\xff\xfen\0".to_vec();
    check_unreadable(&read(utf16), "no text in UTF-8 from line 1 on", Some("save it as UTF-8"));
}

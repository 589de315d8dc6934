//! What is neither TOML nor JSON: where it is told.

use super::{GROUP, HEAD, check};

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

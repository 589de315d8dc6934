//! One canary for each rule: a text that breaks it must be found, and one beside it that doesn't must not.
//! Without them a rule that finds nothing looks just like a project that breaks none.

use std::collections::BTreeSet;

use crate::checks::{
    Asker, are_asked, are_asked_as_listed, are_shown_to_fail, compare_what_stands, have_all_their_rules_broken,
    have_their_tests, names,
};
use crate::dependencies::{Graph, check_arrows, check_forbidden, parse_table};
use crate::licences::is_allowed;
use crate::rules::*;

/// `findings` has one finding for each of `expected`, which are parts of the sentences, in order.
#[track_caller]
fn check(findings: Vec<String>, expected: &[&str]) {
    assert_eq!(findings.len(), expected.len(), "{findings:#?}");
    for (finding, part) in findings.iter().zip(expected) {
        assert!(finding.contains(part), "{finding:?} should say {part:?}");
    }
}

#[test]
fn a_file_without_purpose_is_found() {
    check(opens_with_its_purpose("a.rs", "// A remark.\n//! Late."), &["a.rs:1: open the file with `//!`"]);
    check(opens_with_its_purpose("a.rs", "//! A module.\n"), &[]);
}

#[test]
fn a_file_that_is_too_long_is_found() {
    check(is_short_enough("a.rs", &"\n".repeat(801)), &["a.rs:800: 801 lines"]);
    check(is_short_enough("a.rs", &"\n".repeat(800)), &[]);
}

#[test]
fn a_long_function_is_found_and_a_listed_one_may_not_grow() {
    let text = format!("//! A.\nfn long() {{\n{}}}\nfn short() {{}}\n", "work();\n".repeat(70));
    check(has_short_functions("a.rs", &text, &[]), &["a.rs:2: `long` has 72 lines"]);
    let listed = |lines| [Long { path: "a.rs", function: "long", lines, reason: "a table" }];
    check(has_short_functions("a.rs", &text, &listed(72)), &[]);
    check(has_short_functions("a.rs", &text, &listed(71)), &["grew to 72"]);
    check(has_short_functions("a.rs", &text, &listed(90)), &["has shrunk to 72"]);
    check(has_short_functions("b.rs", &text, &listed(72)), &["b.rs:2"]);
}

#[test]
fn a_test_that_is_named_by_a_number_is_found() {
    let text =
        "#[test]\nfn test_grants() {}\n#[tokio::test]\nasync fn grants_2() {}\n#[test]\nfn grants() {}\nfn v2() {}";
    check(names_tests_as_sentences("a.rs", text), &["a.rs:2: the test `test_grants`", "a.rs:4: the test `grants_2`"]);
}

#[test]
fn a_module_name_that_says_nothing_is_found() {
    check(has_a_telling_name("core/src/utils.rs", ""), &["`utils`"]);
    check(has_a_telling_name("core/src/helpers/room.rs", ""), &["`helpers`"]);
    check(has_a_telling_name("a.rs", "mod room;\npub(crate) mod types { }"), &["a.rs:2: the module name `types`"]);
    check(has_a_telling_name("core/src/room.rs", "mod prototypes;"), &[]);
}

#[test]
fn a_foreign_word_is_found_in_identifiers_only() {
    let text = "// pod\nlet a = \"pod\";\nstruct PodId;\nlet node_count = 1;";
    check(uses_our_words("a.rs", text), &["a.rs:3: `PodId`", "a.rs:4: `node_count`"]);
    check(uses_our_words("benches/src/trace.rs", text), &[]);
}

#[test]
fn a_hash_map_in_a_pure_crate_is_found() {
    check(has_no_hash_order("a.rs", "use std::collections::{BTreeMap, HashMap};"), &["a.rs:1: HashMap"]);
    check(has_no_hash_order("a.rs", "// not a HashMap\nuse std::collections::BTreeMap;"), &[]);
}

#[test]
fn the_outside_is_found_in_a_state_machine() {
    check(stays_inside("a.rs", "use std::{fmt, fs::{self, File}, net};"), &["`fs`", "`net`"]);
    check(stays_inside("a.rs", "fn now() -> std::time::Instant { tokio::spawn(x) }"), &["`Instant`", "`tokio`"]);
    check(stays_inside("a.rs", "// tokio\nuse std::{fmt, time::Duration};\nfn net(fs: u8) {}"), &[]);
}

#[test]
fn a_call_or_a_request_without_a_word_is_found() {
    let calls =
        "service Jobs {\n  // Ends it.\n  rpc Stop(StopRequest) returns (A);\n  rpc Get(GetRequest) returns (A);\n}\n";
    check(says_what_calls_are_for("a.proto", calls), &["a.proto:4: say above `rpc Get("]);
    let requests =
        "// Which.\nmessage StopRequest {\n  string name = 1;\n}\n\nmessage GetRequest {\n}\n\nmessage Answer {\n}\n";
    check(says_what_calls_are_for("a.proto", requests), &["a.proto:6: say above `message GetRequest {`"]);
}

#[test]
fn a_private_place_is_found_in_any_file() {
    let planted = concat!("see /wo", "rk/notes\nuse https://somewhere");
    check(names_no_private_place("docs/a.md", planted), &["docs/a.md:1"]);
    let lock = "source = \"registry+https://mirror.example/index\"\nsource = \"registry+https://github.com/rust-lang/crates.io-index\"";
    check(names_no_private_place("Cargo.lock", lock), &["Cargo.lock:1: every crate comes from crates.io"]);
}

const TABLE: &str = "\
## Who may depend on whom

| folder | crate | may reach, of ours | never reaches |
|---|---|---|---|
| `m/` | `plenum-model` | nothing | tokio, libc |
| `c/` | `plenum-core` | model | tokio |
| `.` | `plenum` | any | |

## Next
| not | `plenum-core` | this | table |
";

fn graph(arrows: &[(&str, &str)]) -> Graph {
    Graph::of(&[("plenum", "Cargo.toml"), ("plenum-core", "c/Cargo.toml"), ("plenum-model", "m/Cargo.toml")], arrows)
}

#[test]
fn an_arrow_that_the_table_forbids_is_found_also_through_others() {
    let rows = parse_table(TABLE).expect("the table is whole");
    check(check_arrows(&rows, &graph(&[("plenum-core", "plenum-model"), ("plenum", "plenum-core")])), &[]);
    let arrows = [("plenum-core", "plenum-model"), ("plenum-model", "other"), ("other", "plenum")];
    let wrong = check_arrows(&rows, &graph(&arrows));
    assert!(wrong.iter().any(|w| w.contains("plenum-model → other → plenum ")), "{wrong:#?}");
    assert!(wrong.iter().any(|w| w.contains("plenum-core → plenum-model → other → plenum ")), "{wrong:#?}");
}

#[test]
fn a_row_that_allows_too_much_or_is_missing_is_found() {
    let rows = parse_table(TABLE).expect("the table is whole");
    check(check_arrows(&rows, &graph(&[])), &["the table lets plenum-core reach plenum-model"]);
    let without_core =
        parse_table(&TABLE.replace("| `c/` | `plenum-core` | model | tokio |\n", "")).expect("still a table");
    check(check_arrows(&without_core, &graph(&[])), &["plenum-core has no row"]);
    assert!(parse_table("## Another heading").is_err());
}

#[test]
fn a_forbidden_crate_is_found_however_deep_it_lies() {
    let rows = parse_table(TABLE).expect("the table is whole");
    let deep = graph(&[("plenum-core", "plenum-model"), ("plenum-model", "clock"), ("clock", "libc")]);
    check(check_forbidden(&rows, &deep), &["plenum-model → clock → libc"]);
}

#[test]
fn a_licence_outside_the_list_is_found() {
    let list = ["MIT", "Apache-2.0", "Unicode-3.0", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned);
    for right in [
        "MIT",
        "MIT/Apache-2.0",
        "GPL-3.0 OR MIT",
        "(MIT OR Apache-2.0) AND Unicode-3.0",
        "Apache-2.0 WITH LLVM-exception OR GPL-2.0",
    ] {
        assert!(is_allowed(right, &list), "{right}");
    }
    for wrong in ["GPL-3.0", "MIT AND GPL-3.0", "(MIT OR Apache-2.0) AND OpenSSL", ""] {
        assert!(!is_allowed(wrong, &list), "{wrong}");
    }
}

#[test]
fn a_check_that_nobody_asks_is_found() {
    let asked = "pub const OF_A_CELL: &[CellCheck] = &[\n    invariant_first,\n];\npub fn check_step() {\n    invariant_second(after)?;\n}\n";
    let check = "pub fn invariant_first(cell: &Cell) {}\npub fn invariant_second(after: &Cell) {}\n";
    check_names(check, &|names| are_asked(names, asked), &[]);
    let third = format!("{check}pub fn invariant_sec(after: &Cell) {{ invariant_sec(after) }}\n");
    check_names(&third, &|names| are_asked(names, asked), &["`invariant_sec` is asked neither"]);
}

#[test]
fn a_check_that_nothing_shows_to_fail_is_found() {
    let sources = "pub fn invariant_first(cell: &Cell) {}\npub fn invariant_second(after: &Cell) {}\n";
    let bugs = "    a_bug_is_found: Bug by \"invariant_first\";\n";
    let called = "assert_eq!(invariant_second(&cell), found);";
    check_names(sources, &|names| are_shown_to_fail(names, called, bugs), &[]);
    let imported = "use crate::invariants::invariant_second;";
    check_names(sources, &|names| are_shown_to_fail(names, imported, bugs), &["shows `invariant_second` to fail"]);
    check_names(sources, &|names| are_shown_to_fail(names, called, ""), &["shows `invariant_first` to fail"]);
}

#[track_caller]
fn check_names(sources: &str, rule: &dyn Fn(&BTreeSet<String>) -> Vec<String>, expected: &[&str]) {
    check(rule(&names(sources)), expected);
}

#[test]
fn a_rule_that_no_test_breaks_is_found() {
    let source = "fn broken(rule: &'static str) {}\n    return Err(broken(\"waits for nobody\"));\n";
    check(have_all_their_rules_broken(source, "found(\"waits for nobody\")"), &[]);
    check(have_all_their_rules_broken(source, ""), &["\"waits for nobody\""]);
    check(have_all_their_rules_broken("    return Err(broken(\n        \"waits\",\n", "\"waits\""), &["another line"]);
}

#[test]
fn a_place_that_asks_checks_more_or_less_often_than_is_listed_is_found() {
    let askers = [Asker { path: "a.rs", calls: 1, tests: &["it_is_found"] }];
    let once = "fn check_cell() {\n    invariants::check_cell(&cell)\n}\n";
    check(are_asked_as_listed("a.rs", once, &askers), &[]);
    check(are_asked_as_listed("b.rs", once, &askers), &["b.rs: asks the core's checks 1 times, listed are 0"]);
    check(are_asked_as_listed("a.rs", "", &askers), &["0 times, listed are 1"]);
    check(have_their_tests(&askers, "#[test]\nfn it_is_found() {\n"), &[]);
    check(have_their_tests(&askers, "    #[test]\n    fn it_is_found() {\n"), &[]);
    check(have_their_tests(&askers, "#[test]\nfn it_is_found_too() {\n"), &["there is no test it_is_found,"]);
}

#[test]
fn a_test_of_bad_input_that_does_not_look_at_what_it_left_is_found() {
    let looks = "#[tokio::test]\nasync fn it_looks() {\n    let before = standing(&server, &channel).await;\n}\n";
    check(compare_what_stands("a.rs", looks), &[]);
    let blind = format!("{looks}\n#[tokio::test]\nasync fn it_is_blind() {{\n    refused();\n}}\n\n{looks}");
    check(compare_what_stands("a.rs", &blind), &["a.rs: it_is_blind does not compare"]);
}

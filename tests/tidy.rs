//! What clippy can't check: the words, the sizes and the arrows of the house.
//!
//! Built as a test of `xtask`, so that it needs no crate but that one to compile, and answers within seconds.
//! The rules are in `tidy/`, each with a canary that shows it to fail. A finding says where, what, and what to do.

#[path = "tidy/canaries.rs"]
mod canaries;
#[path = "tidy/checks.rs"]
mod checks;
#[path = "tidy/dependencies.rs"]
mod dependencies;
#[path = "tidy/licences.rs"]
mod licences;
#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/source.rs"]
mod source;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use serde_json::Value;

use crate::dependencies::Graph;
use crate::rules::Long;

/// Functions that are mostly one table or one match. A ratchet: they may shrink, and not grow.
const LONG_FUNCTIONS: &[Long] = &[];

/// Crates that give the same output for the same input, whatever machine and moment.
const PURE: &[&str] = &["cellstate/model/src/", "cellstate/core/src/", "policies/src/"];

/// State machines without I/O, and the module (a file or a folder) where each lives.
const STATE_MACHINES: &[(&str, &str)] = &[
    ("Committer", "cellstate/server/src/commit"),
    ("SyncSession", "cellstate/server/src/sync"),
    ("what is published", "cellstate/server/src/publish"),
    ("who may call what", "cellstate/server/src/authorise"),
    ("Leases", "cellstate/server/src/agents/leases"),
    ("Standstill", "cellstate/server/src/agents/standstill"),
    ("Registrations", "cellstate/server/src/agents/registrations"),
    ("WantedIndex", "cellstate/server/src/agents/wanted"),
    ("SchedulerRuntime and Picture", "schedulers/sdk/src"),
    ("AgentReconciler", "agent/src/reconciler"),
];

/// What stands beside a state machine in its module and is none, with the reason.
const SHELLS: &[(&str, &str)] = &[
    ("schedulers/sdk/src/line.rs", "the connection, the clock and the timer of a runtime"),
    ("schedulers/sdk/src/shell.rs", "the seed and the end of a process"),
    ("schedulers/sdk/src/watch.rs", "the same of a picture"),
    ("schedulers/sdk/src/repeats.rs", "how often each of them says the same, by the clock"),
    ("schedulers/sdk/src/client.rs", "calls beside a session"),
    ("schedulers/sdk/src/address.rs", "how all of them connect"),
    ("schedulers/sdk/src/signals.rs", "what ends the process"),
];

/// What the pure crates must never reach, whatever the table says.
const NEVER_PURE: &[&str] = &["tokio", "rand", "getrandom", "libc"];

/// No text that people write is longer; what is, is data.
const TEXT_BYTES_MAX: u64 = 1 << 20;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the project's folder").to_owned()
}

/// Paths from the root, with `/`, in order.
fn files() -> Vec<String> {
    let mut found = Vec::new();
    collect(&root(), "", &mut found);
    found.sort();
    assert!(found.len() > 20, "the project's files were not found from {}", root().display());
    found
}

fn collect(folder: &Path, prefix: &str, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("the project's folders are readable") {
        let entry = entry.expect("the project's folders are readable");
        let name = entry.file_name().to_string_lossy().into_owned();
        let hidden = name.starts_with('.') && !matches!(name.as_str(), ".ci" | ".cargo" | ".config" | ".github");
        let kind = entry.file_type().expect("the project's folders are readable");
        if hidden || kind.is_symlink() || (prefix.is_empty() && name.starts_with("target")) {
            continue;
        }
        if kind.is_dir() {
            collect(&entry.path(), &format!("{prefix}{name}/"), found);
        } else if entry.metadata().is_ok_and(|metadata| metadata.len() <= TEXT_BYTES_MAX) {
            found.push(format!("{prefix}{name}"));
        }
    }
}

/// Applies `rule` to every text for which `wanted` holds.
fn findings(wanted: impl Fn(&str) -> bool, rule: impl Fn(&str, &str) -> Vec<String>) -> Vec<String> {
    let mut findings = Vec::new();
    for path in files().iter().filter(|path| wanted(path)) {
        // What isn't UTF-8 is data, and what is gone meanwhile was an editor's.
        if let Ok(text) = fs::read_to_string(root().join(path)) {
            findings.extend(rule(path, &text));
        }
    }
    findings
}

fn is_rust(path: &str) -> bool {
    path.ends_with(".rs")
}

fn is_pure(path: &str) -> bool {
    is_rust(path) && PURE.iter().any(|folder| path.starts_with(folder))
}

/// Whether a file is of the state machine in this module.
fn is_of_machine(module: &str, path: &str) -> bool {
    let is_there = path.strip_prefix(module).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'));
    is_rust(path) && is_there && !SHELLS.iter().any(|(shell, _)| path == *shell)
}

fn is_of_any_machine(path: &str) -> bool {
    STATE_MACHINES.iter().any(|(_, module)| is_of_machine(module, path))
}

#[track_caller]
fn none(findings: Vec<String>) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

#[test]
fn every_file_opens_with_its_purpose() {
    none(findings(is_rust, rules::opens_with_its_purpose));
}

#[test]
fn no_file_is_too_long() {
    none(findings(is_rust, rules::is_short_enough));
}

#[test]
fn no_function_is_too_long() {
    none(findings(is_rust, |path, text| rules::has_short_functions(path, text, LONG_FUNCTIONS)));
}

#[test]
fn every_entry_for_a_long_function_still_has_its_function() {
    none(
        LONG_FUNCTIONS
            .iter()
            .filter(|entry| {
                let text = fs::read_to_string(root().join(entry.path)).unwrap_or_default();
                !text.contains(&format!("fn {}", entry.function))
            })
            .map(|entry| {
                format!("tests/tidy.rs: {} has no function `{}`: remove its entry", entry.path, entry.function)
            })
            .collect(),
    );
}

#[test]
fn every_test_is_named_as_a_sentence() {
    none(findings(is_rust, rules::names_tests_as_sentences));
}

#[test]
fn every_module_has_a_telling_name() {
    none(findings(is_rust, rules::has_a_telling_name));
}

#[test]
fn there_is_one_word_per_idea() {
    none(findings(|path| is_rust(path) && !path.starts_with("tests/tidy"), rules::uses_our_words));
}

#[test]
fn the_pure_crates_have_no_hash_order() {
    none(findings(is_pure, rules::has_no_hash_order));
}

#[test]
fn the_pure_crates_do_not_name_the_world_outside() {
    none(findings(is_pure, rules::stays_inside));
}

#[test]
fn the_state_machines_have_no_hash_order() {
    none(findings(is_of_any_machine, rules::has_no_hash_order));
}

#[test]
fn the_state_machines_do_not_name_the_world_outside() {
    none(findings(is_of_any_machine, rules::stays_inside));
}

// A rule that looks at no file finds nothing.
#[test]
fn each_state_machine_and_each_shell_is_where_it_is_looked_for() {
    let files = files();
    let machines = STATE_MACHINES.iter().filter(|(_, module)| !files.iter().any(|path| is_of_machine(module, path)));
    let machines = machines.map(|(machine, module)| {
        format!(
            "tests/tidy.rs: {machine} is neither in {module}.rs nor in {module}/: put it there, or say where it is now"
        )
    });
    let shells = SHELLS.iter().filter(|(shell, _)| !files.iter().any(|path| path == shell));
    let shells = shells.map(|(shell, _)| format!("tests/tidy.rs: there is no {shell}: remove its entry"));
    none(machines.chain(shells).collect());
}

// Of the scheduler's runtime only the files below `runtime/` were looked at, and of what agents are told neither of these two.
#[test]
fn all_that_a_state_machine_is_made_of_is_looked_at_and_no_shell() {
    for path in [
        "schedulers/sdk/src/queue.rs",
        "schedulers/sdk/src/holds/aim.rs",
        "schedulers/sdk/src/runtime/deciding.rs",
        "cellstate/server/src/agents/registrations.rs",
        "cellstate/server/src/agents/wanted.rs",
    ] {
        assert!(is_of_any_machine(path), "{path}");
    }
    for path in ["schedulers/sdk/src/shell.rs", "cellstate/server/src/agents/hub.rs", "agent/src/reconcilers.rs"] {
        assert!(!is_of_any_machine(path), "{path}");
    }
}

#[test]
fn each_call_and_each_request_says_what_it_is_for() {
    none(findings(|path| path.starts_with("proto/") && path.ends_with(".proto"), rules::says_what_calls_are_for));
}

#[test]
fn no_file_names_a_private_place() {
    none(findings(|_| true, rules::names_no_private_place));
}

#[test]
fn every_crate_takes_the_lints_of_the_workspace() {
    none(findings(|path| path.ends_with("Cargo.toml"), dependencies::takes_the_lints));
}

#[test]
fn planted_bugs_are_for_tests_of_checkers_alone() {
    none(findings(|path| path.ends_with("Cargo.toml"), dependencies::plants_no_bugs));
}

/// The text of a file, or of all files of a folder.
fn text(of: &str) -> String {
    let files = files().into_iter().filter(|path| is_rust(path) && path.starts_with(of));
    let text: String = files.filter_map(|path| fs::read_to_string(root().join(path)).ok()).collect();
    // A rule that looks at no file finds nothing.
    assert!(!text.is_empty(), "tests/tidy/checks.rs: there is no {of}: say where it is now");
    text
}

#[test]
fn every_check_of_the_core_is_asked_and_shown_to_fail() {
    let (lists, tests) = (text(checks::LISTS), text(checks::TESTS));
    let apart = text(checks::CHECKS);
    let names = checks::names(&(lists.clone() + &apart));
    assert!(names.len() > 20, "tests/tidy/checks.rs: only these were found: {names:?}");
    let mut found = checks::are_asked(&names, &lists);
    found.extend(checks::are_shown_to_fail(&names, &tests, &text(checks::BUGS)));
    found.extend(checks::have_all_their_rules_broken(&apart, &tests));
    none(found);
}

#[test]
fn whoever_asks_the_checks_of_the_core_has_a_test_that_fails_without() {
    let is_of_server = |path: &str| is_rust(path) && path.starts_with("cellstate/server/src/");
    let mut found = findings(is_of_server, |path, text| checks::are_asked_as_listed(path, text, checks::ASKERS));
    found.extend(checks::have_their_tests(checks::ASKERS, &text("cellstate/server/src/")));
    none(found);
}

#[test]
fn every_test_of_bad_input_looks_at_what_it_left() {
    let tests = text(checks::BAD_INPUT);
    assert!(tests.matches("standing(&server").count() > 20, "tests/tidy/checks.rs: what compares is called otherwise");
    none(checks::compare_what_stands(checks::BAD_INPUT, &tests));
}

#[test]
fn the_table_of_dependencies_is_true() {
    let rows = table();
    none(dependencies::check_arrows(&rows, &graph(&metadata())));
}

#[test]
fn no_crate_reaches_what_it_must_never_reach() {
    let rows = table();
    for pure in ["plenum-model", "plenum-core", "plenum-policies"] {
        let row = rows.iter().find(|row| row.name == pure).expect("each pure crate has a row");
        let missing: Vec<_> = NEVER_PURE.iter().filter(|name| !row.never.contains(**name)).collect();
        assert!(missing.is_empty(), "\nARCHITECTURE.md: the row of {pure} must also forbid {missing:?}\n");
    }
    none(dependencies::check_forbidden(&rows, &graph(&metadata())));
}

#[test]
fn every_licence_is_one_that_we_may_ship() {
    let deny = fs::read_to_string(root().join("deny.toml")).expect("deny.toml is part of the project");
    let allowed = licences::allow_list(&deny);
    assert!(allowed.iter().any(|name| name == "MIT"), "the allow list of deny.toml was not found: {allowed:?}");
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("`cargo metadata` lists packages");
    none(
        packages
            .iter()
            .filter(|package| !licences::is_allowed(package["license"].as_str().unwrap_or_default(), &allowed))
            .map(|package| {
                format!(
                    "Cargo.lock:1: {} {} has the licence {}, which is not in deny.toml: use another crate, or add the licence if Apache-2.0 allows it",
                    package["name"], package["version"], package["license"]
                )
            })
            .collect(),
    );
}

fn table() -> Vec<dependencies::Row> {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md is part of the project");
    dependencies::parse_table(&page).unwrap_or_else(|error| panic!("\n{error}\n"))
}

fn graph(metadata: &Value) -> Graph {
    Graph::from_metadata(metadata, &root().to_string_lossy())
}

/// What Cargo knows, for this kind of machine only: crates for others may never have been downloaded.
/// Without network first; a fresh clone that has built little needs it.
fn metadata() -> Value {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let platform = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    let ask = |extra: &[&str]| {
        let mut command = Command::new(&cargo);
        command.args(["metadata", "--format-version", "1", "--filter-platform", &platform]).args(extra);
        command.current_dir(root()).output().expect("Cargo runs us, so it can be started")
    };
    let mut output = ask(&["--offline"]);
    if !output.status.success() {
        output = ask(&[]);
    }
    assert!(output.status.success(), "`cargo metadata` failed: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("`cargo metadata` prints JSON")
}

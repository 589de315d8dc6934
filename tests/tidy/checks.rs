//! A check that was never seen to fail may as well say that all is well. Each of the core's is asked, and is shown to find something: by a bug that
//! is planted in the simulator, or by a step that a test of the core forges.

use std::collections::BTreeSet;

/// Where the core's checks and the lists of them are.
pub(crate) const LISTS: &str = "cellstate/core/src/invariants.rs";
/// Where those are that have files of their own.
pub(crate) const CHECKS: &str = "cellstate/core/src/invariants/";
/// Where steps are forged.
pub(crate) const TESTS: &str = "cellstate/core/src/tests/";
/// Which planted bug is found by which check.
pub(crate) const BUGS: &str = "tests/simulator/tests/simulation/bugs.rs";

/// The names of the checks in these sources.
pub(crate) fn names(sources: &str) -> BTreeSet<String> {
    let functions = sources.split("pub fn invariant_").skip(1).filter_map(|rest| rest.split('(').next());
    functions.map(|name| format!("invariant_{name}")).collect()
}

/// Those of the names that neither a test calls nor a planted bug is found by.
pub(crate) fn are_shown_to_fail(names: &BTreeSet<String>, tests: &str, bugs: &str) -> Vec<String> {
    // Behind the name may stand a seed that is known to find the bug.
    let has_bug = |name: &str| [";", " at "].iter().any(|end| bugs.contains(&format!("by \"{name}\"{end}")));
    let is_shown = |name: &str| tests.contains(&format!("{name}(")) || has_bug(name);
    let unshown = names.iter().filter(|name| !is_shown(name));
    unshown
        .map(|name| {
            format!(
                "{LISTS}: nothing shows `{name}` to fail: forge a step in {TESTS}, or plant a bug and list it in {BUGS}"
            )
        })
        .collect()
}

/// Those of the names that are on no list by which everybody asks: of a cell by itself, or of a step.
pub(crate) fn are_asked(names: &BTreeSet<String>, lists: &str) -> Vec<String> {
    let list = |begins: &str, ends: &str| {
        let list = lists.split_once(begins).and_then(|(_, rest)| rest.split_once(ends));
        list.map_or("", |(list, _)| list)
    };
    let (of_a_cell, of_a_step) = (list("pub const OF_A_CELL", "];"), list("pub fn check_step", "\n}"));
    let is_asked = |name: &str| of_a_cell.contains(&format!(" {name},")) || of_a_step.contains(&format!(" {name}("));
    let unasked = names.iter().filter(|name| !is_asked(name));
    unasked.map(|name| format!("{LISTS}: `{name}` is asked neither by `OF_A_CELL` nor by `check_step`")).collect()
}

/// Sentences in which a check says what is broken, each of which no test expects: a check of several rules is shown by none of them but its own.
pub(crate) fn have_all_their_rules_broken(sources: &str, tests: &str) -> Vec<String> {
    let calls = sources.lines().filter(|line| line.contains("broken(") && !line.trim_start().starts_with("fn "));
    calls
        .filter_map(|line| match line.split('"').nth(1) {
            None => Some(format!("{CHECKS}: the rule stands on another line than its `broken(`: {}", line.trim())),
            Some(rule) if tests.contains(&format!("\"{rule}\"")) => None,
            Some(rule) => {
                Some(format!("{CHECKS}: no test shows that it is found what {rule:?}: forge a step in {TESTS}"))
            }
        })
        .collect()
}

/// A source of the server that asks the core's checks.
pub(crate) struct Asker {
    pub(crate) path: &'static str,
    /// How often, calls of its own functions for that among them.
    pub(crate) calls: usize,
    /// The tests of which one fails without each of the calls.
    pub(crate) tests: &'static [&'static str],
}

/// All of them: what goes on from a cell, or says that it is sound, has looked.
pub(crate) const ASKERS: &[Asker] = &[
    Asker {
        path: "cellstate/server/src/verify/audit.rs",
        calls: 4,
        tests: &[
            "whatever_does_not_hold_behind_what_another_version_decided_is_told_at_each_revision",
            "whatever_does_not_hold_at_the_end_is_told",
            "a_step_that_breaks_what_always_holds_is_told_though_again_the_same_comes_out",
        ],
    },
    Asker {
        path: "cellstate/server/src/backup/restore.rs",
        calls: 2,
        tests: &["a_backup_of_a_cell_in_which_something_does_not_hold_is_refused_by_all_who_read_it"],
    },
    Asker {
        path: "cellstate/server/src/backup/fallback.rs",
        calls: 1,
        tests: &["a_backup_of_a_cell_in_which_something_does_not_hold_is_refused_by_all_who_read_it"],
    },
];

/// A source of the server asks as often as its entry says: whoever asks once more, or no more, looks at the tests, too.
pub(crate) fn are_asked_as_listed(path: &str, text: &str, askers: &[Asker]) -> Vec<String> {
    let calls = ["check_cell(", "check_step("].into_iter().flat_map(|call| text.match_indices(call));
    let found = calls.filter(|(at, _)| !text[..*at].ends_with("fn ")).count();
    let listed = askers.iter().find(|asker| asker.path == path).map_or(0, |asker| asker.calls);
    if found == listed {
        return Vec::new();
    }
    vec![format!(
        "{path}: asks the core's checks {found} times, listed are {listed}: list it in tests/tidy/checks.rs, with a test that fails without it"
    )]
}

/// Tests of askers that are nowhere.
pub(crate) fn have_their_tests(askers: &[Asker], sources: &str) -> Vec<String> {
    let tests = askers.iter().flat_map(|asker| asker.tests.iter().map(|test| (asker.path, test)));
    let gone = tests.filter(|(_, test)| {
        !sources.contains(&format!("#[test]\n    fn {test}() {{"))
            && !sources.contains(&format!("#[test]\nfn {test}() {{"))
    });
    gone.map(|(path, test)| {
        format!("tests/tidy/checks.rs: there is no test {test}, without which {path} may ask for nothing")
    })
    .collect()
}

/// Where everything is that nobody should send, which changes nothing.
pub(crate) const BAD_INPUT: &str = "cellstate/server/tests/server/bad_input.rs";

/// Each test of bad input looks at what the server has behind it: a mirror is told of a change later, and a status is right whatever was written.
pub(crate) fn compare_what_stands(path: &str, text: &str) -> Vec<String> {
    let tests = text.split("#[tokio::test]\n").skip(1).filter_map(|rest| rest.split("\n}\n").next());
    let blind = tests.filter(|test| !test.contains("standing(&server"));
    let name = |test: &str| test.split('(').next().map(|head| head.rsplit(' ').next().unwrap_or(head).to_owned());
    let blind = blind.filter_map(name);
    blind.map(|name| format!("{path}: {name} does not compare what `standing` tells before and behind it")).collect()
}

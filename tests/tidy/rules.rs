//! Rules about one file at a time. Each takes a path and a text, and gives a sentence for every place that breaks it:
//! where, what, and what to do. So each can be shown to fail, on a text made for it.

use std::collections::BTreeSet;

use crate::source::{Token, code_only, functions, tokens, words};

/// A file holds one idea; past this it holds two.
const FILE_LINES_MAX: usize = 800;
/// A function past this is a table, one match, or two functions.
const FUNCTION_LINES_MAX: usize = 70;

/// A word that is not ours, the word to use, and where the other one is right nevertheless.
pub(crate) struct Banned {
    word: &'static str,
    instead: &'static str,
    /// Beginnings of paths, each with the reason.
    except: &'static [(&'static str, &'static str)],
}

/// One word per idea: the design's list of words decides. Only words that people do bring from other systems stand here.
pub(crate) const BANNED: &[Banned] = &[
    Banned {
        word: "pod",
        instead: "allocation (or task, before it is granted)",
        except: &[("benches/", "the published traces name their columns so")],
    },
    Banned {
        word: "node",
        instead: "machine (in a tree: branch)",
        except: &[
            ("benches/", "the published traces name their columns so"),
            ("src/job_file/", "the nodes of a file's syntax tree"),
            ("cellstate/model/src/paged.rs", "the nodes of the tree of pages"),
        ],
    },
    Banned { word: "cluster", instead: "cell", except: &[] },
    Banned { word: "replica", instead: "task", except: &[] },
    Banned { word: "replicas", instead: "count", except: &[] },
    Banned { word: "reservation", instead: "hold", except: &[] },
    Banned { word: "rollback", instead: "undo (a placement that missed its minimum is undone)", except: &[] },
    Banned { word: "wal", instead: "journal", except: &[] },
    Banned { word: "ttl", instead: "a deadline, or a duration with its unit", except: &[] },
    Banned { word: "master", instead: "leader", except: &[] },
    Banned {
        word: "slave",
        instead: "standby, or agent",
        except: &[("agent/src/isolation.rs", "the kernel calls a kind of mounts so")],
    },
    Banned { word: "whitelist", instead: "allow list", except: &[] },
    Banned { word: "blacklist", instead: "deny list", except: &[] },
];

/// A function that may be longer, with the length that it has: it may shrink, and not grow.
pub(crate) struct Long {
    pub(crate) path: &'static str,
    pub(crate) function: &'static str,
    pub(crate) lines: usize,
    pub(crate) reason: &'static str,
}

/// What a state machine without I/O may not name: single words.
const OUTSIDE_WORDS: &[&str] = &["tokio", "SystemTime", "Instant", "rand", "getrandom"];
/// The same: modules of `std`.
const OUTSIDE_MODULES: &[&str] = &["fs", "net", "thread", "process", "env"];

/// Names of modules that say nothing about what is in them.
const EMPTY_NAMES: &[&str] = &["utils", "util", "common", "helpers", "helper", "types", "misc"];

/// The module's own words come first: what it is, and what it must not know.
pub(crate) fn opens_with_its_purpose(path: &str, text: &str) -> Vec<String> {
    if text.starts_with("//!") {
        return Vec::new();
    }
    vec![format!("{path}:1: open the file with `//!`: what this module is, and what it must not know")]
}

/// One idea per file.
pub(crate) fn is_short_enough(path: &str, text: &str) -> Vec<String> {
    let lines = text.lines().count();
    if lines <= FILE_LINES_MAX {
        return Vec::new();
    }
    vec![format!(
        "{path}:{FILE_LINES_MAX}: {lines} lines, at most {FILE_LINES_MAX}: split it by its ideas (long tests go to NAME/tests.rs)"
    )]
}

/// One thing per function; `long` lists the ones that are allowed more.
pub(crate) fn has_short_functions(path: &str, text: &str, long: &[Long]) -> Vec<String> {
    let mut findings = Vec::new();
    for function in functions(&tokens(&code_only(text))) {
        let (line, name, lines) = (function.line, &function.name, function.lines);
        let entry = long.iter().find(|entry| entry.path == path && entry.function == *name);
        match entry {
            None if lines > FUNCTION_LINES_MAX => findings.push(format!(
                "{path}:{line}: `{name}` has {lines} lines, at most {FUNCTION_LINES_MAX}: split it (a table or one match may be listed with its reason in tests/tidy.rs)"
            )),
            Some(entry) if lines > entry.lines => findings.push(format!(
                "{path}:{line}: `{name}` grew to {lines} lines; it is listed with {} ({}): split it",
                entry.lines, entry.reason
            )),
            Some(entry) if lines < entry.lines => findings.push(format!(
                "{path}:{line}: `{name}` has shrunk to {lines} lines: set its entry in tests/tidy.rs from {} to that, or remove it when {FUNCTION_LINES_MAX} are enough",
                entry.lines
            )),
            _ => {}
        }
    }
    findings
}

/// A test's name is a sentence about behaviour: no number tells what `…_2` adds to `…_1`.
pub(crate) fn names_tests_as_sentences(path: &str, text: &str) -> Vec<String> {
    let tests = functions(&tokens(&code_only(text))).into_iter().filter(|function| function.is_test);
    let bad = tests.filter(|test| test.name.ends_with(|c: char| c.is_ascii_digit()) || test.name.starts_with("test_"));
    bad.map(|test| {
        format!(
            "{path}:{}: the test `{}` needs a sentence about behaviour as its name: no digit at its end, no `test_` at its start",
            test.line, test.name
        )
    })
    .collect()
}

/// A module's name says what is in it.
pub(crate) fn has_a_telling_name(path: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    let without_end = path.strip_suffix(".rs").unwrap_or(path);
    for part in without_end.split('/').filter(|part| EMPTY_NAMES.contains(part)) {
        findings.push(format!("{path}:1: `{part}` says nothing about what is in it: name the idea"));
    }
    let tokens = tokens(&code_only(text));
    for pair in tokens.windows(2).filter(|pair| pair[0].text == "mod" && EMPTY_NAMES.contains(&pair[1].text.as_str())) {
        findings.push(format!(
            "{path}:{}: the module name `{}` says nothing about what is in it: name the idea",
            pair[0].line, pair[1].text
        ));
    }
    findings
}

/// One word per idea, in identifiers; comments and texts may quote other systems. Each identifier is named once a file.
pub(crate) fn uses_our_words(path: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    let mut seen = BTreeSet::new();
    for token in tokens(&code_only(text)).iter().filter(|token| token.is_word()) {
        for word in words(&token.text) {
            let Some(banned) = BANNED.iter().find(|banned| banned.word == word) else { continue };
            if !banned.except.iter().any(|(beginning, _)| path.starts_with(beginning)) && seen.insert(&token.text) {
                findings.push(format!(
                    "{path}:{}: `{}` has the word `{word}`; ours is: {}",
                    token.line, token.text, banned.instead
                ));
            }
        }
    }
    findings
}

/// The order of a hash map differs from process to process, so pure crates have none.
pub(crate) fn has_no_hash_order(path: &str, text: &str) -> Vec<String> {
    let tokens = tokens(&code_only(text));
    let hashed = tokens.iter().filter(|token| matches!(token.text.as_str(), "HashMap" | "HashSet"));
    hashed
        .map(|token| {
            format!(
                "{path}:{}: {} has a random order: use a BTreeMap, a BTreeSet or a sorted Vec",
                token.line, token.text
            )
        })
        .collect()
}

/// State machines without I/O, and pure crates, don't name what belongs to the world outside.
pub(crate) fn stays_inside(path: &str, text: &str) -> Vec<String> {
    let tokens = tokens(&code_only(text));
    let mut findings = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let named: Vec<&Token> = if OUTSIDE_WORDS.contains(&token.text.as_str()) {
            vec![token]
        } else if token.text == "std" && tokens.get(at + 1).is_some_and(|next| next.text == "::") {
            let modules = imported(&tokens[at + 2..]).into_iter();
            modules.filter(|module| OUTSIDE_MODULES.contains(&module.text.as_str())).collect()
        } else {
            Vec::new()
        };
        findings.extend(named.iter().map(|named| {
            format!(
                "{path}:{}: `{}` belongs to the shell: take time as a parameter, give I/O back as an output",
                named.line, named.text
            )
        }));
    }
    findings
}

/// The names right after `std::`, one or a group in braces.
fn imported(after: &[Token]) -> Vec<&Token> {
    if after.first().is_none_or(|first| first.text != "{") {
        return after.first().into_iter().collect();
    }
    let mut depth = 0_usize;
    let mut names = Vec::new();
    for pair in after.windows(2) {
        match pair[0].text.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
        if depth == 1 && matches!(pair[0].text.as_str(), "{" | ",") {
            names.push(&pair[1]);
        }
    }
    names
}

/// Who writes in another language has nothing but these words.
pub(crate) fn says_what_calls_are_for(path: &str, text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let is_asked = |line: &str| {
        line.starts_with("rpc ")
            || (line.starts_with("message ") && line.trim_end_matches([' ', '{', '}']).ends_with("Request"))
    };
    let bare = (2..).zip(lines.windows(2)).filter(|(_, pair)| is_asked(pair[1]) && !pair[0].starts_with("//"));
    bare.map(|(number, pair)| {
        format!("{path}:{number}: say above `{}` what the call does, or what is asked with it", pair[1])
    })
    .collect()
}

/// Nothing of the machine on which it was written.
pub(crate) fn names_no_private_place(path: &str, text: &str) -> Vec<String> {
    // In two halves, so that this file doesn't find itself.
    let places = [concat!("/wo", "rk/"), concat!("/tm", "p/t/"), concat!("/ro", "ot/.")];
    let registries = [
        concat!("replace", "-with"),
        concat!("[regis", "tries"),
        concat!("artifact", "ory"),
        concat!("/pypi/", "simple"),
    ];
    let mut findings = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        for found in places.iter().filter(|place| line.contains(**place)) {
            findings.push(format!("{path}:{number}: `{found}` is a folder of one machine: take it from a parameter, or write a relative path"));
        }
        for found in registries.iter().filter(|registry| line.contains(**registry)) {
            findings.push(format!(
                "{path}:{number}: `{found}` points to somebody's own registry: settings of a machine stay on it"
            ));
        }
        let from_elsewhere = line
            .strip_prefix("source = ")
            .is_some_and(|source| !source.contains("github.com/rust-lang/crates.io-index"));
        if path.ends_with("Cargo.lock") && from_elsewhere {
            findings.push(format!("{path}:{number}: every crate comes from crates.io, this one doesn't: {line}"));
        }
    }
    findings
}

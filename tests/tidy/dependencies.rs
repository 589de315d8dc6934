//! Who depends on whom, as Cargo sees it, against the table in `ARCHITECTURE.md`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::Value;

/// The heading above the table.
const HEADING: &str = "## Who may depend on whom";

/// What one crate may reach.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    /// Our crates that it reaches, directly or through others; none: any of them.
    reaches: Option<BTreeSet<String>>,
    /// Crates of anybody that it must not reach.
    pub(crate) never: BTreeSet<String>,
}

/// Dependencies for building and running, not those for tests. A key is `name` or `name version`.
pub(crate) struct Graph {
    /// Our crates with the paths of their manifests.
    pub(crate) members: BTreeMap<String, String>,
    arrows: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    /// Made up, for canaries.
    pub(crate) fn of(members: &[(&str, &str)], arrows: &[(&str, &str)]) -> Self {
        let members = members.iter().map(|(name, path)| (name.to_string(), path.to_string())).collect();
        let mut graph = Self { members, arrows: BTreeMap::new() };
        for (from, to) in arrows {
            graph.arrows.entry(from.to_string()).or_default().insert(to.to_string());
        }
        graph
    }

    /// From what `cargo metadata --format-version 1` prints.
    pub(crate) fn from_metadata(metadata: &Value, root: &str) -> Self {
        let members: BTreeSet<&str> = list(metadata, "workspace_members").filter_map(Value::as_str).collect();
        let mut keys = BTreeMap::new();
        let mut ours = BTreeMap::new();
        for package in list(metadata, "packages") {
            let (id, name) = (text(package, "id"), text(package, "name"));
            if members.contains(id) {
                let manifest = text(package, "manifest_path");
                let path = manifest.strip_prefix(root).unwrap_or(manifest).trim_start_matches('/');
                ours.insert(name.to_owned(), path.to_owned());
                keys.insert(id, name.to_owned());
            } else {
                keys.insert(id, format!("{name} {}", text(package, "version")));
            }
        }
        let mut arrows: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for package in list(&metadata["resolve"], "nodes") {
            let Some(from) = keys.get(text(package, "id")) else { continue };
            for dependency in list(package, "deps") {
                // What a build script uses runs on the builder's machine, and tests on the tester's; both reach no user,
                // but an arrow between our own crates is one in either case but tests.
                let kinds: Vec<&Value> = list(dependency, "dep_kinds").map(|kind| &kind["kind"]).collect();
                let Some(to) = keys.get(text(dependency, "pkg")) else { continue };
                if kinds.iter().any(|kind| kind.is_null() || (*kind == "build" && ours.contains_key(to))) {
                    arrows.entry(from.clone()).or_default().insert(to.clone());
                }
            }
        }
        Self { members: ours, arrows }
    }

    /// Everything that `from` reaches, each with the shortest way to it.
    fn reached(&self, from: &str) -> BTreeMap<String, Vec<String>> {
        let mut ways = BTreeMap::from([(from.to_owned(), vec![from.to_owned()])]);
        let mut queue = VecDeque::from([from.to_owned()]);
        while let Some(current) = queue.pop_front() {
            let way = ways[&current].clone();
            for next in self.arrows.get(&current).into_iter().flatten() {
                if !ways.contains_key(next) {
                    ways.insert(next.clone(), way.iter().chain([next]).cloned().collect());
                    queue.push_back(next.clone());
                }
            }
        }
        ways.remove(from);
        ways
    }
}

fn list<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    value[field].as_array().into_iter().flatten()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// The rows of the table, or what is wrong with it.
pub(crate) fn parse_table(page: &str) -> Result<Vec<Row>, String> {
    let section =
        page.split(HEADING).nth(1).ok_or_else(|| format!("ARCHITECTURE.md: the heading `{HEADING}` is missing"))?;
    let section = section.split("\n## ").next().unwrap_or(section);
    let lines = section.lines().map(str::trim).filter(|line| line.starts_with('|'));
    // The first two are the heads of the columns and the rule below them.
    let rows: Vec<Row> = lines
        .skip(2)
        .map(|line| {
            let cells: Vec<String> =
                line.trim_matches('|').split('|').map(|cell| cell.replace('`', "").trim().to_owned()).collect();
            let [_, name, reaches, never] = cells.as_slice() else {
                return Err(format!("ARCHITECTURE.md: this row has {} columns instead of 4: {line}", cells.len()));
            };
            let names = |cell: &str| {
                cell.split(',').map(str::trim).filter(|n| !n.is_empty()).map(str::to_owned).collect::<BTreeSet<_>>()
            };
            let reaches = match reaches.as_str() {
                "any" => None,
                "nothing" => Some(BTreeSet::new()),
                some => Some(names(some).iter().map(|name| format!("plenum-{name}")).collect()),
            };
            Ok(Row { name: name.clone(), reaches, never: names(never) })
        })
        .collect::<Result<_, _>>()?;
    if rows.is_empty() { Err("ARCHITECTURE.md: the table of dependencies is empty".to_owned()) } else { Ok(rows) }
}

/// The table and the manifests say the same about our own crates.
pub(crate) fn check_arrows(rows: &[Row], graph: &Graph) -> Vec<String> {
    let mut findings = Vec::new();
    for (name, manifest) in &graph.members {
        let Some(row) = rows.iter().find(|row| row.name == *name) else {
            findings.push(format!(
                "{manifest}:1: {name} has no row in the table of ARCHITECTURE.md: say what it may reach"
            ));
            continue;
        };
        let Some(allowed) = &row.reaches else { continue };
        let reached = graph.reached(name);
        for (other, way) in reached.iter().filter(|(other, _)| graph.members.contains_key(*other)) {
            if !allowed.contains(other) {
                findings.push(format!(
                    "{manifest}:1: {} is an arrow that the table of ARCHITECTURE.md doesn't have: remove the dependency (the table is the design; change it only with a decision)",
                    way.join(" → ")
                ));
            }
        }
        for other in allowed.iter().filter(|other| !reached.contains_key(*other)) {
            findings.push(format!(
                "ARCHITECTURE.md:1: the table lets {name} reach {other}, which it doesn't: take it out of the row"
            ));
        }
    }
    for row in rows.iter().filter(|row| !graph.members.contains_key(&row.name)) {
        findings.push(format!(
            "ARCHITECTURE.md:1: the table has a row for {}, which is no crate of ours: take it out",
            row.name
        ));
    }
    findings
}

/// No crate reaches what its row forbids, however deep.
pub(crate) fn check_forbidden(rows: &[Row], graph: &Graph) -> Vec<String> {
    let mut findings = Vec::new();
    for row in rows {
        for (other, way) in graph.reached(&row.name) {
            let name = other.split(' ').next().unwrap_or_default();
            if row.never.contains(name) {
                let manifest = graph.members.get(&row.name).map_or("ARCHITECTURE.md", String::as_str);
                findings.push(format!(
                    "{manifest}:1: {} must never reach {name}, and does: {}. Remove what brings it",
                    row.name,
                    way.join(" → ")
                ));
            }
        }
    }
    findings
}

/// A manifest that doesn't take the workspace's lints is held to nothing.
pub(crate) fn takes_the_lints(path: &str, manifest: &str) -> Vec<String> {
    let mut lines = manifest.lines().map(str::trim).skip_while(|line| *line != "[lints]").skip(1);
    if lines.next() == Some("workspace = true") {
        return Vec::new();
    }
    vec![format!("{path}:1: add `[lints]` with `workspace = true`: the house's lints hold in every crate")]
}

/// Where the feature with bugs for checkers is made, and who asks for it; nobody gets it by depending on somebody.
const BUGS_IN: &[&str] = &["cellstate/model/Cargo.toml", "tests/checker/Cargo.toml", "tests/simulator/Cargo.toml"];

/// A manifest that turns on the bugs of `plenum_model::planted` would bring them into a binary.
pub(crate) fn plants_no_bugs(path: &str, manifest: &str) -> Vec<String> {
    let named = (1..).zip(manifest.lines()).filter(|(_, line)| !line.starts_with('#') && line.contains("planted-bugs"));
    let is_fine = |line: &str| line.starts_with("planted-bugs = [") || line.starts_with("required-features = [");
    let wrong = named.filter(|(_, line)| !BUGS_IN.contains(&path) || !is_fine(line));
    wrong
        .map(|(number, _)| {
            format!("{path}:{number}: planted bugs belong into no binary: only tests of checkers are built with them, by `cargo xtask`")
        })
        .collect()
}

#[test]
fn a_crate_that_would_ship_planted_bugs_is_found() {
    let depends = "plenum-model = { path = \"x\", features = [\"planted-bugs\"] }\n";
    assert_eq!(plants_no_bugs("Cargo.toml", depends).len(), 1);
    assert_eq!(plants_no_bugs("tests/simulator/Cargo.toml", depends).len(), 1);
    assert_eq!(plants_no_bugs("cellstate/model/Cargo.toml", "default = [\"planted-bugs\"]\n").len(), 1);
    assert_eq!(plants_no_bugs("cellstate/model/Cargo.toml", "planted-bugs = []\n").len(), 0);
}

#[test]
fn a_crate_without_the_lints_is_found() {
    assert_eq!(takes_the_lints("a/Cargo.toml", "[package]\nname = \"a\"\n").len(), 1);
    assert_eq!(takes_the_lints("a/Cargo.toml", "[lints]\nworkspace = true\n").len(), 0);
}

//! `plenum verify`: the log of a stopped cell, folded and decided again.

use std::{path::PathBuf, process::ExitCode};

use plenum_model::counted;
use plenum_server::{ServerError, VerifyReport, Violation};
use serde_json::{Value, json};

use super::{server::failure, state_folder};
use crate::{
    failure::{EXIT_FAILED, Failure},
    output::{self, Format},
};

/// Checks the log of a stopped cell: 0 when it is sound, 1 when something is wrong with it.
pub(crate) fn verify(format: Format, dir: Option<PathBuf>) -> Result<ExitCode, Failure> {
    let dir = match dir {
        Some(dir) => dir,
        None => state_folder("plenum")?,
    };
    if dir.is_file() {
        let (file, word) = (dir.display(), output::word(&dir.display().to_string()));
        let hint = format!(
            "a backup is checked as it is restored: `plenum restore --from {word} --dir NEW`, then `plenum verify --dir NEW`"
        );
        return Err(Failure::new("BAD_DIRECTORY", format!("{file} is a file, no cell's directory")).with_hint(hint));
    }
    let dir = super::server_folder(dir);
    let report = plenum_server::verify(&dir).map_err(|error| {
        let failure = failure(&error);
        match (&error, failure.code.as_str()) {
            // No server has it.
            (ServerError::BeingRestored { .. }, _) => failure,
            (_, "DIRECTORY_LOCKED") => failure.with_hint("stop its server first: a log that grows cannot be checked"),
            _ => failure,
        }
    })?;
    // Who has read enough is still told by the exit code.
    output::print_and_go_on(output::object(format, &to_json(&report), &report.cell_id, || text(&report)).as_bytes())?;
    Ok(if report.is_sound() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILED) })
}

fn to_json(report: &VerifyReport) -> Value {
    let violation = |violation: &Violation| json!({"revision": violation.revision.0, "place": violation.place, "message": violation.what});
    let of_version = |(version, requests): (&u32, &u64)| json!({"core_version": version, "requests": requests});
    let by_other_versions: Vec<Value> = report.by_other_versions.iter().map(of_version).collect();
    json!({
        "sound": report.is_sound(),
        "cell_id": report.cell_id,
        "incarnation": report.incarnation,
        "from_revision": report.from_revision,
        "to_revision": report.to_revision,
        "frames": report.frames,
        "folded": report.folded,
        "decided_again": report.decided_again,
        "not_decided_again": report.not_decided_again,
        "by_other_versions": by_other_versions,
        "compared_loosely": report.compared_loosely,
        "transactions": report.transactions,
        "conflicts": report.conflicts,
        "live_allocations": report.live_allocations,
        "torn": report.torn,
        "mark": report.mark,
        "fallback": report.fallback,
        "violations": report.violations.iter().map(violation).collect::<Vec<_>>(),
        "not_looked_at": report.not_looked_at,
        "violations_unlisted": report.violations_unlisted,
    })
}

fn text(report: &VerifyReport) -> String {
    let mut pairs = vec![
        ("cell", format!("{} (incarnation {})", report.cell_id, report.incarnation)),
        (
            "revisions",
            format!("{} to {}, in {}", report.from_revision, report.to_revision, counted(report.frames, "frame")),
        ),
        ("folded", report.folded.to_string()),
        ("decided again", decided_again(report)),
    ];
    if !report.by_other_versions.is_empty() {
        pairs.push(("of other versions", of_other_versions(report)));
    }
    pairs.extend([
        ("transactions", report.transactions.to_string()),
        ("conflicts", report.conflicts.to_string()),
        ("live allocations", report.live_allocations.to_string()),
    ]);
    if let Some(obstacle) = &report.not_looked_at {
        pairs.push(("not looked at", obstacle.clone()));
    }
    if let Some(torn) = &report.torn {
        pairs.push(("torn write", format!("{torn} (promised to nobody; the next start cuts it off)")));
    }
    if let Some(mark) = &report.mark {
        pairs.push((
            "high-water mark",
            format!("{mark} (a crash may leave this, or a worn sector; the other place of the mark is whole)"),
        ));
    }
    if let Some(fallback) = &report.fallback {
        pairs.push(("fallback", fallback.clone()));
    }
    let mut text = output::fields(&pairs);
    for violation in &report.violations {
        text.push_str(&format!("\nWRONG at revision {}, {}: {}", violation.revision, violation.place, violation.what));
    }
    if report.violations_unlisted > 0 {
        text.push_str(&format!("\nand {} more", report.violations_unlisted));
    }
    text.push_str(&verdict(report));
    text
}

/// Only what was decided again was shown to give the same bytes: how much was not is told, whatever else is wrong.
fn verdict(report: &VerifyReport) -> String {
    let left_out = match report.not_decided_again {
        0 => None,
        1 => Some(format!("1 of {} requests was not", report.folded)),
        more => Some(format!("{more} of {} requests were not", report.folded)),
    };
    if !report.is_sound() {
        let all = report.violations_unlisted.saturating_add(report.violations.len() as u64);
        let what = if all == 1 { "violation" } else { "violations" };
        let left_out = left_out.map_or_else(String::new, |left_out| format!("; {left_out} decided again"));
        return format!("\nnot sound: {all} {what}{left_out}; {}\n", what_to_do(report));
    }
    match left_out {
        None => "\nsound: the same commands give the same bytes\n".to_owned(),
        Some(left_out) if report.decided_again == 0 => {
            format!("\nsound as far as it folds; nothing was decided again: {left_out}, as {}\n", why_not(report))
        }
        Some(left_out) => {
            format!("\nsound, as far as it was decided again: {left_out}, as {}\n", why_not(report))
        }
    }
}

/// Why some were not decided again, and who does it where somebody can. Of those of this core the report does not tell the reasons apart.
fn why_not(report: &VerifyReport) -> String {
    const OF_THIS_CORE: &str = "nobody knows what they depended on, or only a later version what they asked for";
    let others = report.by_other_versions.values().sum::<u64>();
    match (others, report.not_decided_again.saturating_sub(others)) {
        (0, _) => OF_THIS_CORE.to_owned(),
        (_, 0) => "another version decided them: a plenum with its core decides them again".to_owned(),
        (others, rest) => format!(
            "another version decided {others} of them (a plenum with its core decides them again), and of {rest} {OF_THIS_CORE}"
        ),
    }
}

/// How many each other version decided.
fn of_other_versions(report: &VerifyReport) -> String {
    let each = report.by_other_versions.iter();
    let each: Vec<_> = each.map(|(core, requests)| format!("{requests} by core {core}")).collect();
    format!("{} (a plenum with that core decides them again)", each.join(", "))
}

/// What is wrong with the log counts most: without it, nobody knows what history and fallback are worth. So nothing is to be moved away for what is wrong
/// anywhere else than in these.
fn what_to_do(report: &VerifyReport) -> &'static str {
    const FALLBACK: &str = "fallback.backup";
    let are_all_in = |parts: &[&str]| {
        let is_in = |violation: &Violation| parts.iter().any(|part| violation.place.starts_with(part));
        !report.violations.is_empty() && report.violations.iter().all(is_in)
    };
    if are_all_in(&[FALLBACK]) {
        "the cell starts without its fallback: move `fallback.backup` away, and the server writes it anew"
    } else if are_all_in(&["history", FALLBACK]) {
        "`plenum explain DAMAGED_HISTORY` tells what to do"
    } else {
        "`plenum explain DAMAGED_LOG` tells what to do"
    }
}

/// How many, and of how many of them rows and culprits were not compared.
fn decided_again(report: &VerifyReport) -> String {
    match report.compared_loosely {
        0 => report.decided_again.to_string(),
        loosely => format!(
            "{}; of {loosely} of them, before which no start of a server is kept, only what was granted and refused was compared (no fault)",
            report.decided_again
        ),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_folder_without_a_cell_is_an_error_with_a_code() {
        let folder = tempfile::tempdir().unwrap();
        let failure = verify(Format::Table, Some(folder.path().to_owned())).unwrap_err();
        assert_eq!((failure.code.as_str(), failure.exit), ("NO_CELL", EXIT_FAILED));
        assert!(failure.message.contains("holds no cell"), "{failure}");
        // It was said of the folder `log` that it can't be used.
        let failure = verify(Format::Table, Some(folder.path().join("misspelt"))).unwrap_err();
        assert_eq!(failure.code, "NO_CELL", "{failure}");
        std::fs::write(folder.path().join("fallback.backup"), "PLENUM").unwrap();
        let failure = verify(Format::Table, Some(folder.path().to_owned())).unwrap_err();
        assert_eq!(failure.code, "DAMAGED_LOG", "what is left of a cell is not called none: {failure}");
    }

    // Of a backup it was said that its directory is to be there, and writable.
    #[test]
    fn a_backup_is_told_how_it_is_checked() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("my cell.backup");
        std::fs::write(&file, "PLENUM").unwrap();
        let failure = verify(Format::Table, Some(file.clone())).unwrap_err();
        let hint = failure.hint.clone().unwrap_or_default();
        assert!(hint.contains(&format!("`plenum restore --from '{}' --dir NEW`", file.display())), "{failure}: {hint}");
    }

    // It said that there is no folder `log`, of a cell that had never been one.
    #[test]
    fn a_restore_that_came_to_no_end_is_told_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("restoring")).unwrap();
        let failure = verify(Format::Table, Some(folder.path().to_owned())).unwrap_err();
        assert_eq!((failure.code.as_str(), failure.exit), ("BAD_DIRECTORY", EXIT_FAILED));
        let told = "did not come to its end; remove that directory, and restore again";
        assert!(failure.message.contains(told), "{failure}");
    }

    // Of a log of which nothing was decided again it was said that the same commands give the same bytes.
    #[test]
    fn only_a_log_that_was_decided_again_as_a_whole_is_said_to_give_the_same_bytes() {
        let report = |not_decided_again| VerifyReport {
            folded: 5,
            decided_again: 5 - not_decided_again,
            not_decided_again,
            ..VerifyReport::default()
        };
        assert!(text(&report(0)).ends_with("\nsound: the same commands give the same bytes\n"));
        let (one, two) = (text(&report(1)), text(&report(2)));
        assert!(one.contains("\nsound, as far as it was decided again: 1 of 5 requests was not, as "), "{one}");
        assert!(two.contains("\nsound, as far as it was decided again: 2 of 5 requests were not, as "), "{two}");
        assert_eq!(to_json(&report(2))["not_decided_again"], 2);
    }

    // After an upgrade all was "sound, as far as it was decided again", of which that was nothing, and no word told that the plenum of before can do it.
    #[test]
    fn what_other_versions_decided_is_told_with_which_plenum_decides_it_again() {
        let report = |not_decided_again, by_other_versions: &[(u32, u64)]| VerifyReport {
            folded: 9,
            decided_again: 9 - not_decided_again,
            not_decided_again,
            by_other_versions: by_other_versions.iter().copied().collect(),
            ..VerifyReport::default()
        };
        let (all, some) = (text(&report(9, &[(31, 2), (32, 7)])), text(&report(7, &[(32, 4)])));
        assert!(all.contains(" 2 by core 31, 7 by core 32 (a plenum with that core decides them again)\n"), "{all}");
        assert!(
            all.contains("\nsound as far as it folds; nothing was decided again: 9 of 9 requests were not, "),
            "{all}"
        );
        assert!(
            all.ends_with(", as another version decided them: a plenum with its core decides them again\n"),
            "{all}"
        );
        assert!(
            some.contains("\nsound, as far as it was decided again: 7 of 9 requests were not, as another "),
            "{some}"
        );
        // Of what only a later version can be asked for it was told that nobody knows what it depended on.
        let others = "and of 3 nobody knows what they depended on, or only a later version what they asked for\n";
        assert!(some.contains(" decided 4 of them ") && some.ends_with(others), "{some}");
        let nobody = text(&report(2, &[]));
        let reasons = ", as nobody knows what they depended on, or only a later version what they asked for\n";
        assert!(nobody.ends_with(reasons), "{nobody}");
        assert!(!nobody.contains("of other versions"), "{nobody}");
        let told = to_json(&report(7, &[(32, 4)]));
        assert_eq!(told["by_other_versions"], json!([{"core_version": 32, "requests": 4}]));
        assert_eq!(told["sound"], true);
    }

    // Of a log with a violation it was told nowhere but in JSON.
    #[test]
    fn how_much_was_not_decided_again_is_told_in_the_last_line_of_a_log_with_violations_too() {
        let last_line = |not_decided_again| {
            let violation =
                Violation { revision: Default::default(), place: "log".to_owned(), what: "torn".to_owned() };
            let violations = vec![violation];
            let told = text(&VerifyReport { folded: 5, not_decided_again, violations, ..VerifyReport::default() });
            told.lines().last().unwrap().to_owned()
        };
        let what_to_do = "`plenum explain DAMAGED_LOG` tells what to do";
        assert_eq!(last_line(0), format!("not sound: 1 violation; {what_to_do}"));
        assert_eq!(
            last_line(1),
            format!("not sound: 1 violation; 1 of 5 requests was not decided again; {what_to_do}")
        );
        assert_eq!(
            last_line(2),
            format!("not sound: 1 violation; 2 of 5 requests were not decided again; {what_to_do}")
        );
    }

    // "Without the rows given out, and who was in the way" told an operator nothing.
    #[test]
    fn what_was_compared_loosely_is_counted_with_what_was_compared() {
        let report = VerifyReport { decided_again: 257, compared_loosely: 19, ..VerifyReport::default() };
        let told = decided_again(&report);
        assert!(told.starts_with("257; of 19 of them, ") && told.ends_with("(no fault)"), "{told}");
        assert_eq!(decided_again(&VerifyReport { decided_again: 3, ..VerifyReport::default() }), "3");
    }

    // They were called refused claims, and thousands that were refused for want of a quota were none.
    #[test]
    fn lost_races_are_told_by_their_name() {
        let told = text(&VerifyReport { conflicts: 3, ..VerifyReport::default() });
        assert!(told.lines().any(|line| line.starts_with("conflicts:") && line.ends_with(" 3")), "{told}");
    }

    #[test]
    fn what_is_to_be_known_of_the_fallback_of_a_sound_cell_is_told() {
        let report = VerifyReport { fallback: Some("there is none".to_owned()), ..VerifyReport::default() };
        assert_eq!(to_json(&report)["fallback"], "there is none");
        let told = text(&report);
        assert!(told.lines().any(|line| line.contains("fallback") && line.ends_with("there is none")), "{told}");
        assert!(!text(&VerifyReport::default()).contains("fallback"));
    }

    // Whatever was wrong, the page of a damaged log was named, which says that the history must stay where it is. Then a sound fallback was to be moved
    // away for what was wrong elsewhere.
    #[test]
    fn what_is_wrong_decides_what_is_to_be_done() {
        let what_to_do = |places: &[&str]| {
            let violation = |place: &&str| Violation {
                revision: Default::default(),
                place: (*place).to_owned(),
                what: String::new(),
            };
            let violations = places.iter().map(violation).collect();
            super::what_to_do(&VerifyReport { violations, ..VerifyReport::default() })
        };
        assert!(what_to_do(&["fallback.backup", "history", "log: segment 1, offset 0"]).contains("DAMAGED_LOG"));
        assert!(what_to_do(&["fallback.backup", "history"]).contains("DAMAGED_HISTORY"));
        assert!(what_to_do(&["fallback.backup"]).contains("move `fallback.backup` away"));
        for place in ["the end", "log: the end", "log (read through the history)"] {
            assert!(what_to_do(&[place]).contains("DAMAGED_LOG"), "{place}");
            assert!(what_to_do(&["history", place]).contains("DAMAGED_LOG"), "{place}");
        }
    }
}

//! What could not be read of a command line: help, or wrong usage with what to type instead.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{
    CommandFactory,
    builder::StyledStr,
    error::{ContextKind, ContextValue, ErrorKind},
};

use super::args::Arguments;
use crate::{
    failure::{EXIT_USAGE, Failure},
    output::{self, Format},
};

/// Commands that are looked for and are not there, and what there is: the nearest name may be one that starts something.
const INSTEAD: [(&str, &str); 9] = [
    ("plan", "there is no `plan` yet; `plenum job run` checks a file before it submits the job"),
    (
        "why",
        "there is no `why` yet; `plenum job show NAME` says why a job waits, `plenum alloc show ID --history` what happened",
    ),
    ("whatif", "there is no `whatif` yet; `plenum machine show NAME` says what runs on a machine"),
    ("gap", "there is no `gap` yet"),
    ("top", "there is no `top` yet; `plenum status` shows the cell, and lists go on with --watch"),
    ("support-bundle", "there is no `support-bundle` yet; `plenum backup` keeps the whole state of the cell"),
    ("exec", "there is no `exec` yet; `plenum alloc logs ID` has what a task printed"),
    ("replay", "there is no `replay` yet; `plenum verify` decides a whole log again"),
    ("watch", "lists are watched with --watch"),
];

/// Help goes to standard output; wrong usage to standard error, and as JSON to standard output where that was asked for.
pub(super) fn refused(error: clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return match error.print().and_then(|()| io::stdout().flush()) {
            // Who has seen enough has gone.
            Err(unwritten) if unwritten.kind() != io::ErrorKind::BrokenPipe => {
                let failure = Failure::io("cannot write to standard output", &unwritten);
                output::tell_failure(Format::Table, &failure);
                ExitCode::from(failure.exit)
            }
            _ => ExitCode::SUCCESS,
        };
    }
    let tip = tip(&error);
    let error = with_tip(error, tip);
    // What could not be read as a whole is looked through for the one thing that matters. Words need not be texts.
    let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    if is_for_programs(&words) {
        let failure = Failure::usage(message(&error)).with_hint(tip.unwrap_or("try `plenum --help`"));
        output::tell_failure(Format::Json, &failure);
    } else {
        let _ = error.print();
    }
    ExitCode::from(EXIT_USAGE)
}

/// Whether JSON or YAML was asked for.
fn is_for_programs(words: &[String]) -> bool {
    let is_one = |format: &str| matches!(format, "json" | "yaml");
    words.iter().enumerate().any(|(place, word)| match format_in(word) {
        Some("") => words.get(place + 1).is_some_and(|next| is_one(next)),
        Some(format) => is_one(format),
        None => false,
    })
}

/// The format in a word that has the flag for one; empty where that ends with the flag, and the next word is the format. Of the short flags no other takes
/// a value, so that any of them may stand before it: `-wo json`.
fn format_in(word: &str) -> Option<&str> {
    if let Some(long) = word.strip_prefix("--output") {
        return if long.is_empty() { Some(long) } else { long.strip_prefix('=') };
    }
    let (flags, format) = word.strip_prefix('-')?.split_once('o')?;
    flags.bytes().all(|flag| flag.is_ascii_lowercase()).then(|| format.strip_prefix('=').unwrap_or(format))
}

/// What is wrong, in a few words: the rest is the usage.
fn message(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let told = || text.trim_start_matches("error: ").split("\n\n").next().unwrap_or_default().trim().to_owned();
    let without_command = error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    without_command.then(|| lacks_command(&text)).flatten().unwrap_or_else(told)
}

/// What is told of commands that are named without one of theirs, of which all that clap says is their help.
fn lacks_command(help: &str) -> Option<String> {
    let usage = help.lines().find_map(|line| line.strip_prefix("Usage: "))?;
    let words: Vec<&str> = usage.split(' ').take_while(|word| !word.starts_with(['[', '<'])).collect();
    let all = Arguments::command();
    let group = words.iter().skip(1).try_fold(&all, |command, word| command.find_subcommand(*word))?;
    let commands: Vec<&str> = group.get_subcommands().map(clap::Command::get_name).collect();
    (!commands.is_empty()).then(|| format!("`{}` needs a command: {}", words.join(" "), commands.join(", ")))
}

/// What to type instead, where that is known better than by likeness.
fn tip(error: &clap::Error) -> Option<&'static str> {
    let word = |kind| match error.get(kind) {
        Some(ContextValue::String(word)) => Some(word.as_str()),
        _ => None,
    };
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let word = word(ContextKind::InvalidSubcommand)?;
            INSTEAD.iter().find(|(name, _)| *name == word).map(|(_, instead)| *instead)
        }
        ErrorKind::UnknownArgument if word(ContextKind::InvalidArg) == Some("--json") => Some("`-o json` prints JSON"),
        _ => None,
    }
}

/// The same with a tip in place of what is alike.
fn with_tip(mut error: clap::Error, tip: Option<&'static str>) -> clap::Error {
    let Some(tip) = tip else { return error };
    // The usage names what is alike, too.
    for alike in [ContextKind::SuggestedSubcommand, ContextKind::SuggestedArg, ContextKind::Usage] {
        error.remove(alike);
    }
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![StyledStr::from(tip)]));
    error
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use clap::Parser;

    use super::*;

    // Who asked what a file would change was led to `job launch`, which starts something, and who wanted JSON to `--job`.
    #[test]
    fn who_looks_for_what_is_not_there_is_told_what_is() {
        let told = |line: &str| {
            let error = Arguments::try_parse_from(line.split(' ')).unwrap_err();
            let tip = tip(&error);
            with_tip(error, tip).render().to_string()
        };
        let plan = told("plenum job plan web.toml");
        assert!(plan.contains("tip: there is no `plan` yet") && !plan.contains("launch"), "{plan}");
        let json = told("plenum alloc list --json");
        assert!(json.contains("tip: `-o json` prints JSON") && !json.contains("--job"), "{json}");
        assert!(told("plenum why web").contains("`plenum job show NAME`"));
        assert!(told("plenum job lits").contains("'list'"), "likeness serves slips");
    }

    // "Jobs" was the whole message: the first line of the help.
    #[test]
    fn commands_without_one_of_theirs_are_told_to_need_one() {
        let told = |line: &str| message(&Arguments::try_parse_from(line.split(' ')).unwrap_err());
        assert_eq!(
            told("plenum -o json job"),
            "`plenum job` needs a command: run, list, show, history, stop, launch, scale"
        );
        for group in ["alloc", "machine", "txn", "quota", "partition", "hold"] {
            let told = told(&format!("plenum {group}"));
            assert!(
                told.starts_with(&format!("`plenum {group}` needs a command: ")) && told.contains("list"),
                "{told}"
            );
        }
        assert!(told("plenum job list --limit many").starts_with("invalid value 'many' for '--limit"));
    }

    // `plenum job list -wo json --limit x` put no JSON on standard output.
    #[test]
    fn a_format_for_programs_is_found_behind_other_short_flags_too() {
        let found = |line: &str| is_for_programs(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        for flag in
            ["-o json", "-ojson", "-o=yaml", "-wo json", "-wojson", "-wo=json", "--output yaml", "--output=json"]
        {
            assert!(found(&format!("plenum job list {flag} --limit x")), "{flag}");
        }
        for flag in ["-o wide", "-wo name", "--output table", "--oops json", "-o", "foo json", "-10o json"] {
            assert!(!found(&format!("plenum job list {flag} --limit x")), "{flag}");
        }
    }

    #[test]
    fn what_is_told_not_to_be_there_is_not() {
        let all = Arguments::command();
        let commands = all.get_subcommands().flat_map(|command| command.get_subcommands().chain([command]));
        let there: Vec<&str> = commands.map(clap::Command::get_name).collect();
        assert!(there.contains(&"status") && there.contains(&"launch"), "{there:?}");
        assert_eq!(INSTEAD.iter().find(|(name, _)| there.contains(name)), None);
    }
}

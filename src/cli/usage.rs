//! What could not be read of a command line: help, or wrong usage with what to type instead.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{
    builder::StyledStr,
    error::{ContextKind, ContextValue, ErrorKind},
};

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
    let is_for_programs = |format: &str| matches!(format, "json" | "yaml");
    let is_glued = |word: &String| {
        let format = ["--output=", "-o=", "-o"].iter().find_map(|flag| word.strip_prefix(flag));
        format.is_some_and(is_for_programs)
    };
    let is_apart = |pair: &[String]| matches!(pair[0].as_str(), "-o" | "--output") && is_for_programs(&pair[1]);
    if words.iter().any(is_glued) || words.windows(2).any(is_apart) {
        let text = error.render().to_string();
        let message = text.trim_start_matches("error: ").split("\n\n").next().unwrap_or_default().trim().to_owned();
        output::tell_failure(Format::Json, &Failure::usage(message).with_hint(tip.unwrap_or("try `plenum --help`")));
    } else {
        let _ = error.print();
    }
    ExitCode::from(EXIT_USAGE)
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

    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::cli::args::Arguments;

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

    #[test]
    fn what_is_told_not_to_be_there_is_not() {
        let all = Arguments::command();
        let commands = all.get_subcommands().flat_map(|command| command.get_subcommands().chain([command]));
        let there: Vec<&str> = commands.map(clap::Command::get_name).collect();
        assert!(there.contains(&"status") && there.contains(&"launch"), "{there:?}");
        assert_eq!(INSTEAD.iter().find(|(name, _)| there.contains(name)), None);
    }
}

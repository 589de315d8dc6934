//! Completions for shells: generated from the command line, as far as its help shows it.

use std::process::ExitCode;

use clap::{Arg, Command, CommandFactory, ValueHint, builder::PossibleValuesParser};
use clap_complete::Shell;

use super::{args::Arguments, explain};
use crate::{failure::Failure, output};

/// Prints what a shell reads.
pub(super) fn run(shell: Shell) -> Result<ExitCode, Failure> {
    output::print_bytes(&script(shell)).map(|()| ExitCode::SUCCESS)
}

fn script(shell: Shell) -> Vec<u8> {
    let mut whole = with_words(Arguments::command());
    // From here on each command has by itself what those above it give it, but for what it hides.
    whole.build();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut shown(&whole), "plenum", &mut script);
    match shell {
        Shell::Fish => script.extend(words_for_fish(&whole).into_bytes()),
        Shell::Bash => script = with_flags_before_equals_signs(&script),
        _ => {}
    }
    script
}

/// How the generator's script for bash learns which word stands before the one that is completed.
const BASH_PREVIOUS: &str = "    prev=\"$3\"\n";
/// The flag where that word is its equals sign, at which bash parts words.
const BASH_FLAG: &str = "    if [[ \"${prev}\" == \"=\" && \"${COMP_CWORD}\" -ge 2 ]]; then\n        prev=\"${COMP_WORDS[COMP_CWORD-2]}\"\n    fi\n";

/// The script for bash, which completes the beginning of a value behind `--wait=`, too: the generator's looks for what may stand behind an equals sign, finds
/// nothing, and files are offered.
fn with_flags_before_equals_signs(script: &[u8]) -> Vec<u8> {
    let script = String::from_utf8_lossy(script);
    script.replacen(BASH_PREVIOUS, &format!("{BASH_PREVIOUS}{BASH_FLAG}"), 1).into_bytes()
}

/// For which words may stand behind a command without a flag: the generator for fish leaves them out, and files would be offered in their place. Commands
/// below another one take none.
fn words_for_fish(whole: &Command) -> String {
    let mut lines = String::new();
    for command in whole.get_subcommands() {
        let values = command.get_positionals().flat_map(Arg::get_possible_values);
        let words: Vec<String> = values.map(|value| value.get_name().to_owned()).collect();
        if !words.is_empty() {
            let (name, words) = (command.get_name(), words.join(" "));
            lines += &format!("complete -c plenum -n \"__fish_plenum_using_subcommand {name}\" -f -a \"{words}\"\n");
        }
    }
    lines
}

/// The command line with what may stand in places that take other words, too: other names have answers of their own. Schedulers stand there as commands: not
/// all shells are told of words and commands that may stand in one place.
fn with_words(command: Command) -> Command {
    let codes = PossibleValuesParser::new(explain::codes());
    let schedulers =
        plenum_schedulers::NAMES.iter().map(|&name| Command::new(name).about("Runs this built-in scheduler"));
    command
        .mut_subcommand("explain", |of| of.mut_arg("code", |arg| arg.value_parser(codes)))
        .mut_subcommand("scheduler", |of| of.mut_arg("names", |arg| arg.hide(true)).subcommands(schedulers))
}

/// The command, and those below it, without what their help hides: generators offer all that they find.
fn shown(command: &Command) -> Command {
    // Names of commands last as long as the process, which ends with this.
    let name: &'static str = command.get_name().to_owned().leak();
    let shown = Command::new(name)
        .version(env!("CARGO_PKG_VERSION"))
        .disable_help_flag(true)
        .disable_help_subcommand(true)
        .disable_version_flag(true)
        .args(command.get_arguments().filter(|arg| !arg.is_hide_set()).map(with_hint))
        .subcommands(command.get_subcommands().map(shown));
    match command.get_about() {
        Some(about) => shown.about(about.clone()),
        None => shown,
    }
}

/// Names of files are offered for every value of which nothing is said. Only words without a flag may be files where their type does not say so: such as a
/// job's name, or its file.
fn with_hint(arg: &Arg) -> Arg {
    let arg = arg.clone().global(false);
    let is_open = arg.get_action().takes_values() && arg.get_possible_values().is_empty();
    let is_unsaid = is_open && arg.get_value_hint() == ValueHint::Unknown;
    if is_unsaid && !arg.is_positional() { arg.value_hint(ValueHint::Other) } else { arg }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(shell: Shell) -> String {
        String::from_utf8_lossy(&script(shell)).into_owned()
    }

    #[test]
    fn completions_have_the_codes_and_the_names_of_built_in_schedulers() {
        assert!(text(Shell::Bash).contains(" NO_ROOM "));
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let text = text(shell);
            let offers = |name: &&str| match shell {
                Shell::Bash => text.contains(&format!(" {name} ")),
                Shell::Zsh => text.contains(&format!("'{name}:Runs")),
                _ => text.contains(&format!("-a \"{name}\" -d 'Runs")),
            };
            assert!(plenum_schedulers::NAMES.iter().all(offers), "{shell}: {text}");
        }
    }

    // `--wait=r` became `--wait=` and a file of the working directory; it is the only form in which `--wait` takes a value.
    #[test]
    fn bash_completes_the_beginning_of_a_value_behind_an_equals_sign() {
        let text = text(Shell::Bash);
        let (_, behind) = text.split_once(BASH_PREVIOUS).unwrap_or_default();
        assert!(behind.starts_with(BASH_FLAG), "{text}");
        // That is set before it is asked, and nowhere else.
        assert_eq!((text.matches("prev=").count(), behind.matches("case \"${prev}\" in").count() > 1), (2, true));
        let wait = "--wait)\n                    COMPREPLY=($(compgen -W \"end running\" -- \"${cur}\"))";
        assert!(behind.contains(wait), "{text}");
    }

    // In fish `plenum explain` and `plenum completion` were offered the files of the working directory.
    #[test]
    fn fish_completes_words_that_stand_without_a_flag() {
        let text = text(Shell::Fish);
        for (command, word) in [("explain", "NO_ROOM"), ("completion", "zsh")] {
            let behind = format!("complete -c plenum -n \"__fish_plenum_using_subcommand {command}\" -f -a \"");
            let offered: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix(&behind)).collect();
            let words = offered.first().and_then(|words| words.strip_suffix('"')).unwrap_or_default();
            assert_eq!(offered.len(), 1, "{text}");
            assert!(words.split(' ').any(|each| each == word), "{command}: {words}");
        }
        // The generator makes the function that these lines ask.
        assert!(text.contains("function __fish_plenum_using_subcommand\n"), "{text}");
    }

    // In zsh `plenum scheduler` had no commands: behind names of schedulers they were looked for as the second word.
    #[test]
    fn commands_of_schedulers_are_the_first_word_behind_it() {
        let text = text(Shell::Zsh);
        assert!(text.contains("$line[1]") && !text.contains("$line[2]"), "{text}");
    }

    // `plenum shim`, and flags that a command refuses, were offered like any other.
    #[test]
    fn what_help_hides_is_not_offered() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let text = text(shell);
            assert!(!text.contains("with-parent") && !text.contains("shim"), "{shell}: {text}");
        }
        let text = text(Shell::Fish);
        let has_address = |command: &str| {
            let behind = format!("_using_subcommand {command}\"");
            text.lines().any(|line| line.contains(&behind) && line.contains(" -l addr "))
        };
        assert!(has_address("status") && has_address("agent"), "{text}");
        assert!(!has_address("dev") && !has_address("server") && !has_address("verify"), "{text}");
    }

    // Files of the working directory were offered as values of `--filter` and `--deadline`.
    #[test]
    fn files_are_offered_where_one_is_meant_alone() {
        let text = text(Shell::Fish);
        let ends = |flag: &str, end: &str| {
            let flag = format!(" -l {flag} ");
            let mut lines = text.lines().filter(|line| line.contains(&flag)).peekable();
            lines.peek().is_some() && lines.all(|line| line.ends_with(end))
        };
        assert!(["filter", "deadline", "namespace", "at"].iter().all(|flag| ends(flag, " -r -f")), "{text}");
        assert!(["dir", "config", "out", "from"].iter().all(|flag| ends(flag, " -r -F")), "{text}");
    }
}

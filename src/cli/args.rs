//! The command line, as people type it: what all commands take, and which there are.

mod jobs;
mod machines;
mod number;
mod operators;
mod parts;

use std::{path::PathBuf, time::Duration};

use clap::{
    Arg, Args, Parser, Subcommand,
    builder::{PathBufValueParser, TypedValueParser},
};
use clap_complete::Shell;
use plenum_proto::{filters, v1::At};

pub(crate) use jobs::{Alloc, Job, WaitFor};
pub(crate) use machines::Machine;
use number::whole;
pub(crate) use operators::{Conflicts, Holds, Limits, Partitions, Quotas, Schedulers, Txn};
#[cfg(test)]
pub(crate) use parts::WithParent;
pub(crate) use parts::{Agent, Dev, Restore, Scheduler, Server};

use super::at::{Since, parse_at, parse_before, parse_since};
use crate::output::Format;

/// The kernel of a data-centre operating system: one shared cell state, many independent schedulers.
#[derive(Debug, Parser)]
#[command(
    name = "plenum",
    version,
    max_term_width = 100,
    after_help = "Exit codes: 0 done, 1 it did not work, 2 wrong \
    usage, 3 not finished at the time limit, 130 interrupted while it waited, watched or followed, \
    143 asked to end while it watched a list."
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// The cell's address [env: PLENUM_ADDR] [file: addr in $XDG_CONFIG_HOME/plenum/config.toml] [default: http://127.0.0.1:7070]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) addr: Option<String>,
    /// The namespace of jobs and allocations [env: PLENUM_NAMESPACE] [file: namespace in $XDG_CONFIG_HOME/plenum/config.toml]
    /// [default: default; listings: all]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
    /// How results are printed
    #[arg(short, long, global = true, value_enum, default_value = "table", value_name = "FORMAT")]
    pub(crate) output: Format,
    /// Longest wait for the connection (5s at most) and for each answer, such as 10s; then exit with 1. What is watched or followed may
    /// take longer [default: 1m]
    #[arg(long, global = true, value_name = "TIME", value_parser = request_timeout, allow_hyphen_values = true)]
    pub(crate) request_timeout: Option<Duration>,
}

fn request_timeout(text: &str) -> Result<Duration, String> {
    match crate::job_file::duration_micros(text)? {
        0 => Err("expected a time above 0".to_owned()),
        micros => Ok(Duration::from_micros(micros.unsigned_abs())),
    }
}

/// In place of the address, for what asks no cell: read, so that it can be refused with what to say instead, and not in its help.
fn address_of_no_use() -> Arg {
    Arg::new("addr").long("addr").value_name("URL").global(true).hide(true)
}

/// The same of the limit for answers, for what waits for none.
fn request_timeout_of_no_use() -> Arg {
    let limit = Arg::new("request_timeout").long("request-timeout").value_name("TIME");
    limit.value_parser(request_timeout).allow_hyphen_values(true).global(true).hide(true)
}

/// A namespace is accepted and of no use where nothing is asked about one.
fn namespace_of_no_use() -> Arg {
    Arg::new("namespace").long("namespace").value_name("NAME").global(true).hide(true)
}

/// The same of a format where nothing is printed but a failure, or what tasks print.
fn output_of_no_use() -> Arg {
    let output = Arg::new("output").short('o').long("output").value_name("FORMAT");
    output.value_parser(clap::value_parser!(Format)).global(true).hide(true)
}

/// Below the help of parts that run on.
const LOG_HELP: &str = "What it says of itself goes to standard error: from `info` upwards, or as the variable RUST_LOG says, such as \
                        `warn` or `plenum_server=debug`.";

/// What a flag that narrows a list down says. Nothing narrows nothing down: most often it comes from a variable that is not set, and who then stops all that
/// is listed stops the whole cell's.
fn not_empty(text: &str) -> Result<String, String> {
    match text.trim_matches(|each: char| each == ',' || each.is_whitespace()) {
        "" if text.is_empty() => Err("it is empty; leave the flag out for all".to_owned()),
        "" => Err("it has neither a field nor a name; leave the flag out for all".to_owned()),
        _ => Ok(text.to_owned()),
    }
}

/// A file's path. Elsewhere `-` stands for a stream, and a file of that name is found by nobody who looks for a backup.
fn no_stream(path: PathBuf) -> Result<PathBuf, &'static str> {
    if path.as_os_str() == "-" {
        Err("a backup is not written to standard output; name a file or a folder")
    } else {
        Ok(path)
    }
}

/// Says in a listing's help which fields it is narrowed down by.
fn by(fields: &'static [&'static str]) -> impl FnOnce(Arg) -> Arg {
    move |filter| {
        let help = filter.get_help().map(ToString::to_string).unwrap_or_default();
        filter.help(format!("{help}; FIELD is one of {}", filters::words(fields)))
    }
}

/// What every listing takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct Listing {
    /// As it was at a revision, or at a time such as 2026-11-20T08:00:00Z or -10m
    #[arg(long, value_name = "REVISION|TIME", value_parser = parse_at, allow_hyphen_values = true)]
    pub(crate) at: Option<At>,
    /// List again each time that the cell has changed, at most once a second, until interrupted; with `-o json`, one line of JSON each time
    #[arg(short, long, conflicts_with = "at")]
    pub(crate) watch: bool,
    /// Most rows to list [default: 0, the server's own limit]
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "N", value_parser = whole(0..=u32::MAX), allow_hyphen_values = true)]
    pub(crate) limit: u32,
    /// Only rows with these values: FIELD=VALUE or FIELD!=VALUE, joined by commas
    #[arg(long, value_parser = not_empty)]
    pub(crate) filter: Option<String>,
}

/// How much is told of what happened.
#[derive(Clone, Debug, Args)]
pub(crate) struct Told {
    /// Up to a revision, or a time such as 2026-11-20T08:00:00Z or -10m
    #[arg(long, value_name = "REVISION|TIME", value_parser = parse_at, allow_hyphen_values = true)]
    pub(crate) at: Option<At>,
    /// Only events below this revision, or before this time; ages still count up to --at, or to now
    #[arg(long, value_name = "REVISION|TIME", value_parser = parse_before, allow_hyphen_values = true)]
    pub(crate) before: Option<At>,
    /// Most events, the newest, and what else happened at the first one's revision [default: 0, the server's own limit]
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "N", value_parser = whole(0..=u32::MAX), allow_hyphen_values = true)]
    pub(crate) limit: u32,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// A whole cell on this machine: server, schedulers and agents; runs the jobs of the files
    #[command(args = [address_of_no_use(), request_timeout_of_no_use(), output_of_no_use()])]
    Dev(Dev),
    /// The cell state's server
    #[command(
        args = [address_of_no_use(), request_timeout_of_no_use(), namespace_of_no_use(), output_of_no_use()],
        after_help = LOG_HELP
    )]
    Server(Server),
    /// Built-in schedulers, by name; or lists, pauses, resumes and sets schedulers, and tells who did
    #[command(args = [namespace_of_no_use()], after_help = LOG_HELP)]
    Scheduler(Scheduler),
    /// The agent of this machine
    #[command(args = [request_timeout_of_no_use(), namespace_of_no_use(), output_of_no_use()], after_help = LOG_HELP)]
    Agent(Agent),
    /// Jobs
    #[command(subcommand)]
    Job(Job),
    /// Allocations: granted claims and what became of them
    #[command(subcommand)]
    Alloc(Alloc),
    /// Machines
    #[command(subcommand, args = [namespace_of_no_use()])]
    Machine(Machine),
    /// What namespaces may have at most
    #[command(subcommand)]
    Quota(Quotas),
    /// Named sets of machines, reserved for some schedulers or only named
    #[command(subcommand, args = [namespace_of_no_use()])]
    Partition(Partitions),
    /// Room that is set aside for jobs that starve
    #[command(subcommand)]
    Hold(Holds),
    /// Transactions, refused ones too
    #[command(subcommand)]
    Txn(Txn),
    /// Who loses against whom
    #[command(mut_arg("filter", by(filters::CONFLICTS)))]
    Conflicts(Conflicts),
    /// The cell in a few lines
    #[command(args = [namespace_of_no_use()])]
    Status {
        /// As it was at a revision, or at a time such as 2026-11-20T08:00:00Z or -10m
        #[arg(long, value_name = "REVISION|TIME", value_parser = parse_at, allow_hyphen_values = true)]
        at: Option<At>,
    },
    /// What happened to the cell: starts of its server, machines that came, went or changed, and jobs that failed
    #[command(args = [namespace_of_no_use()])]
    History {
        /// Only of the last time, such as 10m, or since a time such as 2026-11-20T08:00:00Z; with --at, of the time before that moment
        #[arg(long, value_name = "TIME", value_parser = parse_since, allow_hyphen_values = true)]
        since: Option<Since>,
        #[command(flatten)]
        told: Told,
    },
    /// Checks the log of a stopped cell: decides it again and compares
    #[command(args = [address_of_no_use(), request_timeout_of_no_use(), namespace_of_no_use()])]
    Verify {
        /// The cell's directory, or that of `plenum dev` [default: $XDG_STATE_HOME/plenum]
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// Writes the state of a cell into one file, while it runs
    #[command(args = [namespace_of_no_use()])]
    Backup {
        /// A new file, or a folder that gets one named after cell, incarnation and revision
        #[arg(long, value_name = "FILE|DIR", value_parser = PathBufValueParser::new().try_map(no_stream))]
        out: PathBuf,
        /// The directory of a stopped cell, or that of `plenum dev`, instead of asking a running one
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// Makes a new cell directory from a backup: the same cell, in a new incarnation
    #[command(args = [address_of_no_use(), request_timeout_of_no_use(), namespace_of_no_use()])]
    Restore(Restore),
    /// The page of an error or refusal code
    Explain {
        /// Such as NO_ROOM; without it, all codes
        code: Option<String>,
    },
    /// Completions for a shell
    Completion {
        /// The shell
        shell: Shell,
    },
    /// The version
    Version,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use clap::{CommandFactory, error::ErrorKind};

    use super::*;
    use crate::output;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    // A watched list that was asked to end left with one that the help did not have.
    #[test]
    fn the_help_says_what_each_exit_code_means() {
        use crate::failure::{EXIT_FAILED, EXIT_INTERRUPTED, EXIT_TERMINATED, EXIT_UNFINISHED, EXIT_USAGE};
        let help = Arguments::try_parse_from(["plenum", "--help"]).unwrap_err().to_string();
        let (_, told) = help.split_once("Exit codes:").unwrap();
        for code in [0, EXIT_FAILED, EXIT_USAGE, EXIT_UNFINISHED, EXIT_INTERRUPTED, EXIT_TERMINATED] {
            let code = code.to_string();
            assert!(told.split_whitespace().any(|word| word == code), "{code}: {told}");
        }
    }

    #[test]
    fn listings_take_what_the_interface_promises() {
        for line in [
            "plenum job list -o wide --at 7 --limit 3 --filter state=running",
            "plenum alloc list --watch -o json --job web --machine m1 -a",
            "plenum -o name machine list",
            "plenum txn list --refused --scheduler blue",
            "plenum conflicts --by pair --since 10m",
            "plenum conflicts --since -10m",
            "plenum machine list --at -10m",
            "plenum status --at -10m",
            "plenum history --since 10m --limit 5 --before -1m -o json",
            "plenum conflicts --at=-1h",
            "plenum job history web --limit 5 --at 12",
            "plenum quota history ml --limit 5 --at 12",
            "plenum partition history",
            "plenum scheduler history batch --before 7",
            "plenum scheduler history batch --before -10m",
            "plenum txn list --after 2026-11-20T08:00:00Z --before -10m",
            "plenum txn list --after 0 --filter job=ml/train,machine=m1",
            "plenum alloc show alloc-1-1 --history",
            "plenum machine show m1 --history",
            "plenum dev examples/word-count.toml --until-done --machines 2 --dir /tmp/x --no-isolation",
            "plenum job run x.toml --wait --timeout 5m --request-timeout 10s",
            "plenum job run x.toml --wait=running --timeout 5m",
            "plenum job scale web 5 --group main --wait --timeout 5m",
            "plenum --request-timeout 10s machine drain m1 --timeout 20m",
            "plenum scheduler batch service",
            "plenum backup --out /backups",
            "plenum restore --from /backups/x --dir /var/lib/new --accept-loss --incarnation 3",
        ] {
            Arguments::try_parse_from(line.split(' ')).unwrap();
        }
    }

    // The tip was to write `-- -1`, which is no such number or time either.
    #[test]
    fn a_number_or_a_time_below_zero_is_told_as_a_wrong_value_of_its_flag() {
        for line in [
            "plenum job list --limit -1",
            "plenum job scale web -1",
            "plenum alloc logs alloc-1-1 --tail -1",
            "plenum job run x.toml --wait --timeout -5m",
            "plenum machine drain m1 --deadline -5m",
            "plenum quota set ml --cpu -1",
            "plenum dev --machines -1",
            "plenum status --request-timeout -1s",
        ] {
            let refused = Arguments::try_parse_from(line.split(' ')).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ValueValidation, "{line}: {refused}");
            let value = line.rsplit(' ').next().unwrap();
            assert!(refused.to_string().contains(&format!("invalid value '{value}' for")), "{line}: {refused}");
        }
    }

    #[test]
    fn each_flag_with_a_number_or_a_time_is_told_when_it_is_below_zero() {
        let all = Arguments::command();
        let commands = all.get_subcommands().flat_map(|command| command.get_subcommands().chain([command]));
        let flags: Vec<&Arg> = commands.chain([&all]).flat_map(|command| command.get_arguments()).collect();
        let takes_one = |arg: &&&Arg| {
            let mut names = arg.get_value_names().into_iter().flatten();
            names.any(|name| ["N", "TIME", "REVISION|TIME", "LINES", "CORES", "BYTES", "PORT"].contains(&name.as_str()))
        };
        let flags: Vec<&&Arg> = flags.iter().filter(takes_one).collect();
        assert!(flags.len() > 20, "{}", flags.len());
        let silent: Vec<_> = flags.iter().filter(|arg| !arg.is_allow_hyphen_values_set()).collect();
        assert!(silent.is_empty(), "{silent:?}");
    }

    // `alloc list --machine "$M"` listed the whole cell where the variable was not set, and `xargs` stopped all of it.
    #[test]
    fn a_flag_that_narrows_a_list_down_to_nothing_is_wrong_usage() {
        for (command, flag) in [
            ("alloc list", "--job"),
            ("alloc list", "--machine"),
            ("alloc list", "--filter"),
            ("machine list", "--filter"),
            ("txn list", "--scheduler"),
            ("conflicts", "--filter"),
        ] {
            let words = |value| ["plenum"].into_iter().chain(command.split(' ')).chain([flag, value]);
            let refused = Arguments::try_parse_from(words("")).unwrap_err();
            assert!(refused.exit_code() == 2 && refused.to_string().contains("it is empty"), "{command}: {refused}");
            // Nor does one to which two such variables came.
            for value in [",", " "] {
                let refused = Arguments::try_parse_from(words(value)).unwrap_err();
                assert!(refused.exit_code() == 2 && refused.to_string().contains("leave the flag out"), "{refused}");
            }
            Arguments::try_parse_from(words("x")).unwrap();
        }
    }

    // It was written, into a file of that name.
    #[test]
    fn a_backup_goes_into_a_file_and_not_to_standard_output() {
        let refused = Arguments::try_parse_from(["plenum", "backup", "--out", "-"]).unwrap_err();
        assert!(
            refused.exit_code() == 2 && refused.to_string().contains("not written to standard output"),
            "{refused}"
        );
        Arguments::try_parse_from(["plenum", "backup", "--out", "./-"]).unwrap();
    }

    // They were taken for names of built-in schedulers, of which there is none called `list`.
    #[test]
    fn flags_of_all_commands_may_stand_before_a_command_of_schedulers() {
        for line in [
            "plenum scheduler -o json list",
            "plenum scheduler --addr http://127.0.0.1:7071 pause batch",
            "plenum scheduler --namespace ml history",
            "plenum scheduler list -o json",
        ] {
            let read = Arguments::try_parse_from(line.split(' ')).unwrap();
            let Command::Scheduler(scheduler) = read.command else { panic!("{line}") };
            assert!(scheduler.command.is_some(), "{line}: taken for names: {:?}", scheduler.names);
        }
    }

    // Which fields there are was learned by a wrong one alone.
    #[test]
    fn the_help_of_each_listing_names_the_fields_that_narrow_it_down() {
        let all = Arguments::command();
        let commands = all.get_subcommands().flat_map(|command| command.get_subcommands().chain([command]));
        let flags = commands.flat_map(|command| command.get_arguments()).filter(|arg| arg.get_id() == "filter");
        let told: Vec<String> = flags.filter_map(|filter| Some(filter.get_help()?.to_string())).collect();
        assert_eq!(told.len(), 9);
        assert!(told.iter().all(|help| help.contains("; FIELD is one of ")), "{told:?}");
        assert!(told.iter().any(|help| help.ends_with(" name, state, epoch, attr.NAME")), "{told:?}");
    }

    // That of `conflicts` did not say what programs get, and all of them that a list comes when it is another one: it does so when the cell is.
    #[test]
    fn the_help_of_each_list_says_the_same_of_what_is_watched() {
        let all = Arguments::command();
        let commands = all.get_subcommands().flat_map(|command| command.get_subcommands().chain([command]));
        let flags = commands.flat_map(|command| command.get_arguments()).filter(|arg| arg.get_id() == "watch");
        let mut told: Vec<String> = flags.filter_map(|watch| Some(watch.get_help()?.to_string())).collect();
        assert_eq!(told.len(), 9);
        told.dedup();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("each time that the cell has changed") && told[0].contains("`-o json`"), "{told:?}");
    }

    // The help of what refuses an address told of one.
    #[test]
    fn an_address_is_in_the_help_of_those_alone_that_ask_a_cell() {
        for command in ["dev", "server", "verify", "restore"] {
            let help = Arguments::try_parse_from(["plenum", command, "--help"]).unwrap_err().to_string();
            assert!(!help.contains("--addr"), "{help}");
            assert!(!help.contains("--request-timeout"), "{help}");
        }
        for command in ["status", "agent", "backup", "scheduler"] {
            let help = Arguments::try_parse_from(["plenum", command, "--help"]).unwrap_err().to_string();
            assert!(help.contains("--addr"), "{help}");
        }
        for line in ["plenum dev --addr a:1", "plenum --addr a:1 dev", "plenum verify --addr a:1"] {
            let read = Arguments::try_parse_from(line.split(' ')).unwrap();
            assert_eq!(read.global.addr.as_deref(), Some("a:1"), "{line}");
        }
        let backup = Arguments::try_parse_from(["plenum", "backup", "--help"]).unwrap_err().to_string();
        assert!(backup.contains("--request-timeout"), "{backup}");
        for line in ["plenum agent --request-timeout 1s", "plenum --request-timeout 1s dev"] {
            let read = Arguments::try_parse_from(line.split(' ')).unwrap();
            assert_eq!(read.global.request_timeout, Some(Duration::from_secs(1)), "{line}");
        }
    }

    // A server's log was not printed as JSON, whatever its help offered, and how to have less or more of it stood nowhere.
    #[test]
    fn the_help_of_parts_offers_what_they_heed() {
        let help = |command| Arguments::try_parse_from(["plenum", command, "--help"]).unwrap_err().to_string();
        for command in ["server", "agent"] {
            let help = help(command);
            assert!(!help.contains("--output") && !help.contains("--namespace"), "{help}");
        }
        for command in ["verify", "restore", "status", "backup", "machine", "partition"] {
            let help = help(command);
            assert!(help.contains("--output") && !help.contains("--namespace"), "{help}");
        }
        let dev = help("dev");
        assert!(!dev.contains("--output") && dev.contains("--namespace"), "{dev}");
        for command in ["server", "agent", "scheduler"] {
            assert!(help(command).contains("RUST_LOG"), "{}", help(command));
        }
        for line in ["plenum machine list --help", "plenum scheduler list --help", "plenum partition set --help"] {
            let help = Arguments::try_parse_from(line.split(' ')).unwrap_err().to_string();
            assert!(!help.contains("--namespace"), "{help}");
        }
        // A script may give them to all commands alike: they are read as ever.
        for line in [
            "plenum server -o json --namespace ml",
            "plenum -o json --namespace ml agent",
            "plenum dev -o json --namespace ml",
            "plenum --namespace ml machine -o json list",
            "plenum machine list -o json --namespace ml",
        ] {
            let read = Arguments::try_parse_from(line.split(' ')).unwrap();
            assert_eq!((read.global.output, read.global.namespace.as_deref()), (Format::Json, Some("ml")), "{line}");
        }
        let usual = Arguments::try_parse_from(["plenum", "server"]).unwrap();
        assert_eq!(usual.global.output, Format::Table);
    }

    // Of a namespace's quota it was said that no machine can have so much, and more than one machine can have was refused.
    #[test]
    fn a_quota_may_be_of_many_machines_and_one_that_is_too_large_is_told_how_large_it_may_be() {
        let set = |flag: &str| Arguments::try_parse_from(["plenum", "quota", "set", "ml", flag]);
        for flag in ["--cpu=3200000", "--memory=6144TiB", "--disk=4194304TiB"] {
            assert!(set(flag).is_ok(), "{flag}");
        }
        for (flag, most) in [
            ("--cpu=4611686018427388", "4611686018427387 cores"),
            ("--memory=4194305TiB", "4194304TiB"),
            ("--disk=99999999999999999999", "4194304TiB"),
        ] {
            let refused = set(flag).unwrap_err().to_string();
            assert!(refused.contains(&format!("is too much; expected at most {most}")), "{refused}");
        }
    }

    #[test]
    fn what_is_told_without_an_address_are_commands_that_ask_no_cell() {
        let all = Arguments::command();
        let is_told_without = |name: &str| output::ASK_NO_CELL.contains(&name);
        for command in all.get_subcommands() {
            let refuses = command.get_arguments().any(|arg| arg.get_id().as_str() == "addr");
            assert!(!refuses || is_told_without(command.get_name()), "{}", command.get_name());
        }
        for name in ["explain", "completion", "version"] {
            assert!(is_told_without(name), "{name}");
        }
        let is_there = |name: &str| name == "help" || all.find_subcommand(name).is_some();
        assert_eq!(output::ASK_NO_CELL.iter().find(|name| !is_there(name)), None);
    }

    #[test]
    fn wrong_usage_is_refused() {
        for line in [
            "plenum",
            "plenum dev --until-done",
            "plenum dev --machines 0",
            "plenum job list -o xml",
            "plenum conflicts --by colour",
            "plenum job list --at 1 --watch",
            "plenum job scale web many",
            "plenum job run x.toml --wait=ready",
            "plenum job run x.toml --wait running",
            "plenum job run x.toml --timeout 5m",
            "plenum job scale web 5 --timeout 5m",
            "plenum status --request-timeout 0s",
            "plenum status --request-timeout 10",
            "plenum scheduler",
            "plenum scheduler -o json",
        ] {
            assert_eq!(Arguments::try_parse_from(line.split(' ')).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}

//! `plenum agent` and its shims.

use std::{ffi::OsString, io, path::Path, process::ExitCode};

use plenum_agent::{AgentError, Options};

use super::{causes, config, config::AgentFile, state_folder, trace};
use crate::{
    address,
    cli::{self, Context},
    failure::Failure,
    parent,
};

/// How the agent begins the line in which it names what its tasks lack.
const MISSING: &str = "tasks run without: ";

/// What it says of each task that it had to kill with its shim.
const KILLED: &str = "a shim didn't end its task in time";

/// Runs the agent of this machine until it is asked to end.
pub(crate) fn agent(context: &Context, flags: &cli::Agent) -> Result<(), Failure> {
    parent::follow(flags.with_parent.with_parent)?;
    let file: AgentFile = config::read(flags.config.as_deref())?;
    let devices = file.each_device();
    let directory = match flags.dir.clone().or(file.dir) {
        Some(directory) => directory,
        None => state_folder("plenum-agent")?,
    };
    expect_no_cell(&directory)?;
    let mut options = Options::new(address::url(&server_of(context, file.addr))?, directory);
    options.name = name_of(flags.name.as_deref(), file.name)?;
    options.shares = flags.share.or(file.share).unwrap_or(options.shares);
    options.memory_aside = file.memory_aside;
    options.no_isolation = flags.no_isolation || file.no_isolation;
    options.stop_tasks_on_exit = flags.stop_tasks_on_exit || file.stop_tasks_on_exit;
    options.devices = devices;
    options.resources = file.resources;
    options.attributes = file.attributes;
    options.log_file_bytes_max = file.log_file_bytes_max.unwrap_or(options.log_file_bytes_max);
    options.ended_kept_max = file.ended_kept_max.unwrap_or(options.ended_kept_max);
    options.ended_bytes_max = file.ended_bytes_max.unwrap_or(options.ended_bytes_max);
    options.pids_max = file.pids_max.unwrap_or(options.pids_max);
    // A parent that keeps it tries again, and tells people what it waits for.
    options.waits_for_predecessor = flags.with_parent.with_parent.is_none();
    let _last_words = trace::begin()?;
    plenum_agent::run(&options).map_err(|error| failure(&error))
}

/// Refuses the directory of a cell: what a server and an agent keep would lie among each other's, and a backup or a move of one would take half of the other.
fn expect_no_cell(directory: &Path) -> Result<(), Failure> {
    if !directory.join("log/CELL").exists() {
        return Ok(());
    }
    let what = format!("{} holds a cell: an agent needs a directory of its own", directory.display());
    Err(Failure::new("BAD_DIRECTORY", what).with_hint("name another one with --dir; it is made where there is none"))
}

/// The machine's name, where somebody says it. That of the file was judged where it was read.
fn name_of(flag: Option<&str>, in_file: Option<String>) -> Result<Option<String>, Failure> {
    let Some(flag) = flag else { return Ok(in_file) };
    let judged = plenum_agent::machine::name(Some(flag)).map(Some);
    judged.map_err(|fault| Failure::usage(format!("--name: {fault}")))
}

/// The cell's address. One that somebody gave, even the default's, wins over the agent's file, and that over the user's.
fn server_of(context: &Context, in_file: Option<String>) -> String {
    context.address_given.clone().or(in_file).unwrap_or_else(|| context.address.clone())
}

/// Runs a shim. To be called before the process has a second thread, and before anything that takes time: this is on
/// the way of every task's start.
pub(crate) fn shim(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    plenum_agent::shim::main(arguments)
}

/// What an agent said that its tasks lack, found in what it printed.
pub(crate) fn missing_isolation(printed: &str) -> Option<&str> {
    printed.lines().find_map(|line| line.split_once(MISSING)).map(|(_, missing)| missing.trim())
}

/// How many tasks an agent had to kill with their shims, as it said in what it printed.
pub(crate) fn tasks_killed(printed: &str) -> usize {
    printed.lines().filter(|line| line.contains(KILLED)).count()
}

fn failure(error: &AgentError) -> Failure {
    let code = match error {
        AgentError::Address { .. } => return Failure::usage(causes(error)),
        AgentError::InUse { .. } => "DIRECTORY_LOCKED",
        AgentError::Renamed { .. } => "MACHINE_RENAMED",
        AgentError::Panicked { .. } => "INTERNAL",
        // What the system answers is of other kinds.
        AgentError::Machine(source) if source.kind() == io::ErrorKind::InvalidInput => "CONFIG",
        AgentError::Directory { .. }
        | AgentError::Damaged { .. }
        | AgentError::Machine(_)
        | AgentError::Recover(_)
        | AgentError::Start(_) => "IO",
    };
    Failure::new(code, causes(error)).with_hint(format!("`plenum explain {code}` tells more"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{address::ADDRESS_DEFAULT, output::Format};

    #[test]
    fn an_address_that_was_given_wins_over_the_file_even_if_it_is_the_default() {
        let context = |given: Option<&str>| Context {
            address: ADDRESS_DEFAULT.to_owned(),
            address_given: given.map(str::to_owned),
            namespace: None,
            namespace_flag: None,
            format: Format::Table,
            request_timeout: None,
            timeout: None,
        };
        let in_file = || Some("http://127.0.0.1:1".to_owned());
        assert_eq!(server_of(&context(Some(ADDRESS_DEFAULT)), in_file()), ADDRESS_DEFAULT);
        assert_eq!(server_of(&context(None), in_file()), "http://127.0.0.1:1");
        assert_eq!(server_of(&context(None), None), ADDRESS_DEFAULT);
    }

    // A `memory_aside` above all memory was told as if the operating system had refused it, and without a page.
    #[test]
    fn a_setting_that_this_machine_cannot_have_is_told_as_one() {
        let aside = "memory_aside is 9; expected less than the 8 bytes of memory that it has";
        let setting = failure(&AgentError::Machine(io::Error::new(io::ErrorKind::InvalidInput, aside)));
        assert_eq!((setting.code.as_str(), setting.message), ("CONFIG", format!("this machine: {aside}")));
        assert_eq!(setting.hint.as_deref(), Some("`plenum explain CONFIG` tells more"));
        let kernel = failure(&AgentError::Machine(io::Error::from(io::ErrorKind::NotFound)));
        assert_eq!((kernel.code.as_str(), kernel.hint.as_deref()), ("IO", Some("`plenum explain IO` tells more")));
        for code in ["CONFIG", "IO", "DIRECTORY_LOCKED", "MACHINE_RENAMED"] {
            assert!(cli::has_page(code), "{code}");
        }
    }

    // It started in silence, and laid its tasks beside the log.
    #[test]
    fn an_agent_takes_no_directory_of_a_cell() {
        let folder = tempfile::tempdir().expect("temporary folders are writable");
        assert!(expect_no_cell(folder.path()).is_ok() && expect_no_cell(&folder.path().join("new")).is_ok());
        std::fs::create_dir(folder.path().join("log")).expect("temporary folders are writable");
        assert!(expect_no_cell(folder.path()).is_ok(), "somebody may keep other logs there");
        std::fs::write(folder.path().join("log/CELL"), "").expect("temporary folders are writable");
        let failure = expect_no_cell(folder.path()).expect_err("it is a cell's");
        assert_eq!(failure.code, "BAD_DIRECTORY", "{failure}");
    }

    #[test]
    fn what_tasks_lack_is_found_in_the_agents_words() {
        let printed =
            "2026-11-20T08:00:00Z  WARN plenum_agent::service: tasks run without: pid namespace, cgroups\nmore";
        assert_eq!(missing_isolation(printed), Some("pid namespace, cgroups"));
        assert_eq!(missing_isolation("nothing\n"), None);
    }

    #[test]
    fn tasks_that_were_killed_with_their_shims_are_counted() {
        let killed = "2026-11-20T08:00:00Z  WARN plenum_agent::exec::start: a shim didn't end its task in time: killing both allocation=alloc-1-1\n";
        assert_eq!(tasks_killed(&format!("{killed}another word\n{killed}")), 2);
        assert_eq!(tasks_killed("another word"), 0);
    }
}

//! The command line: reads it, asks the cell, prints what it answered, and ends with the promised exit code.

mod accepted;
mod alloc;
mod args;
mod at;
mod colours;
mod completion;
mod conflicts;
mod drain;
mod ended;
mod explain;
mod fits;
mod gaps;
mod govern;
mod hints;
mod history;
mod interrupt;
mod job;
mod job_wait;
mod logs;
mod long_wait;
mod machine;
mod retired;
mod running;
mod silence;
mod stop;
mod target;
mod txn;
mod usage;
mod watch;

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::Parser;
use plenum_proto::v1::{At, GetStatusAtRequest, MomentRequest, MomentResponse, StatusRequest};
use serde_json::json;
use tonic::Code;

#[cfg(test)]
pub(crate) use args::WithParent;
pub(crate) use args::{Agent, Dev, Restore, Scheduler, Server};
pub(crate) use colours::Colours;
pub(crate) use ended::{final_groups, has_failed, is_of};
pub(crate) use explain::has_page;
pub(crate) use job::{get_job, number_resources};
pub(crate) use long_wait::{LongWait, waiting_line};
pub(crate) use retired::get_job_to_its_end;
pub(crate) use target::JobName;

use crate::{
    address::{self, ADDRESS_DEFAULT},
    connect::Connection,
    dev,
    failure::Failure,
    job_file::JobFile,
    output::{self, Format},
    parts,
    preferences::{Preferences, Wanted, check_namespace},
};
use args::{Alloc, Arguments, Command, Global, Quotas, Txn};

/// What every command needs to know.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    /// The cell's address: flag, environment, file, default.
    pub(crate) address: String,
    /// The same where the flag or the environment said it: it wins over a part's own file.
    pub(crate) address_given: Option<String>,
    /// The namespace, if anybody named one.
    pub(crate) namespace: Option<String>,
    /// The same where the flag said it: a variable or a file gives way to a name that has its namespace with it.
    pub(crate) namespace_flag: Option<String>,
    /// How results are printed.
    pub(crate) format: Format,
    /// How long the connection, and then each answer, is waited for, where the flag said it.
    pub(crate) request_timeout: Option<Duration>,
    /// How long the whole command may take, where it says so: no answer is waited for longer.
    pub(crate) timeout: Option<Duration>,
}

/// What a command has to know of what is meant, where it is not said by a flag. What it has no use for can't be in its way, be it in the environment or in
/// the user's file.
fn wanted(command: &Command) -> Wanted {
    let (addr, namespace) = match command {
        // Its jobs go to the namespace in which other commands look for them.
        Command::Dev(dev) => (false, !dev.files.is_empty()),
        Command::Server(_)
        | Command::Verify { .. }
        | Command::Backup { dir: Some(_), .. }
        | Command::Restore(_)
        | Command::Explain { .. }
        | Command::Completion { .. }
        | Command::Version => (false, false),
        Command::Agent(_)
        | Command::Scheduler(_)
        | Command::Backup { dir: None, .. }
        | Command::Status { .. }
        | Command::History { .. }
        | Command::Machine(_)
        | Command::Partition(_) => (true, false),
        // Ids and names of namespaces say what is meant by themselves.
        Command::Alloc(Alloc::Show { .. } | Alloc::Logs { .. } | Alloc::Stop { .. })
        | Command::Txn(Txn::Show { .. })
        | Command::Quota(Quotas::Set { .. } | Quotas::Remove { .. } | Quotas::History { name: Some(_), .. }) => {
            (true, false)
        }
        _ => (true, true),
    };
    Wanted { addr, namespace }
}

impl Context {
    /// Flags before environment before file, as far as they are wanted.
    fn of(global: &Global, wanted: Wanted) -> Result<Self, Failure> {
        let address_flag = full("--addr", global.addr.clone())?;
        let namespace_flag = full("--namespace", global.namespace.clone())?;
        namespace_flag.as_deref().map_or(Ok(()), check_namespace)?;
        // An empty variable is how shells unset one for a single command. Read here: what is given to clap as a variable's value makes its usage
        // show the flag as one that is needed.
        let given = |flag: Option<String>, variable: &str, needed: bool, check: Check| match flag {
            None if needed => {
                let value = variable_of(variable)?.filter(|value| !value.is_empty());
                value.as_deref().map_or(Ok(()), check).map_err(|failure| failure.found_in(variable))?;
                Ok(value)
            }
            flag => Ok::<_, Failure>(flag),
        };
        let address_given = given(address_flag, "PLENUM_ADDR", wanted.addr, check_address)?;
        let namespace_given = given(namespace_flag.clone(), "PLENUM_NAMESPACE", wanted.namespace, check_namespace)?;
        // What is said elsewhere, or of no use, is not asked of the file: what is wrong with it there is of no matter.
        let preferences = Preferences::read(Wanted {
            addr: wanted.addr && address_given.is_none(),
            namespace: wanted.namespace && namespace_given.is_none(),
        })?;
        let address = address_given.clone().or(preferences.addr).unwrap_or_else(|| ADDRESS_DEFAULT.to_owned());
        let namespace = if wanted.namespace { namespace_given.or(preferences.namespace) } else { None };
        let (format, request_timeout) = (global.output, global.request_timeout);
        Ok(Self { address, address_given, namespace, namespace_flag, format, request_timeout, timeout: None })
    }

    /// What asks the cell at an address, and has no other wish.
    #[cfg(test)]
    fn asking(address: String) -> Self {
        Self {
            address,
            address_given: None,
            namespace: None,
            namespace_flag: None,
            format: Format::Table,
            request_timeout: None,
            timeout: None,
        }
    }

    /// The same for a command that may take so many microseconds.
    fn within(&self, timeout: Option<i64>) -> Self {
        let timeout = timeout.map(|micros| Duration::from_micros(micros.unsigned_abs()));
        Self { timeout, ..self.clone() }
    }

    pub(crate) async fn connect(&self) -> Result<Connection, Failure> {
        Connection::open_impatiently(&self.address, self.request_timeout, self.timeout).await
    }

    /// Connects for something to be shown, as it was at a moment or as it is, and learns what is needed to read it.
    async fn connect_to_read(&self, at: Option<At>) -> Result<Connection, Failure> {
        let connection = self.connect().await?;
        match connection.inspect().moment(MomentRequest { at }).await {
            Ok(moment) => {
                let MomentResponse { time_micros, custom_resources, .. } = moment.into_inner();
                output::name_resources(custom_resources);
                // The present moves on while it is watched.
                if at.is_some() {
                    output::look_from(time_micros);
                } else if time_micros > 0 {
                    output::go_by_clock(time_micros);
                }
            }
            // Resources that the cell named itself are called by their places then, and ages count up to now by this machine's clock.
            Err(status) if tells_no_moments(status.code()) => {}
            Err(status) => return Err(status.into()),
        }
        Ok(connection)
    }

    /// A job file, with its job in the namespace that is meant.
    pub(crate) fn job_file(&self, path: &Path) -> Result<JobFile, Failure> {
        JobFile::read(path)?.in_namespace(self.namespace_flag.as_deref(), self.namespace.as_deref())
    }

    /// The namespace of something named on the command line.
    fn namespace(&self) -> String {
        self.namespace.clone().unwrap_or_else(|| "default".to_owned())
    }
}

/// A server on a new directory, and what asks it.
#[cfg(test)]
async fn served(folder: &Path) -> (plenum_server::Handle, Connection, Context) {
    let options = plenum_server::ServerOptions::new(folder);
    let server = plenum_server::Server::start(options).await.expect("a server");
    let address = server.address().to_string();
    let connection = Connection::open(&address).await.expect("a connection");
    (server, connection, Context::asking(address))
}

/// Changes something there, so that there is a revision.
#[cfg(test)]
async fn changed(connection: &Connection) -> plenum_proto::v1::ChangeResponse {
    use plenum_proto::v1::{Quota, SetQuota};
    let limit = Some(Quota { cpu_millis: Some(1), ..Quota::default() });
    let quota = SetQuota { namespace: "ml".to_owned(), limit };
    connection.govern().set_quota(quota).await.expect("a change").into_inner()
}

/// The address that commands go to without a flag; none where the environment or the user's file has what is no address.
pub(crate) fn asked_without_flag() -> Option<String> {
    let global = Global { addr: None, namespace: None, output: Format::Table, request_timeout: None };
    Context::of(&global, Wanted { addr: true, namespace: false }).ok().map(|context| context.address)
}

/// What a flag says. Nothing is no answer to what it asks: most often it comes from a variable that is not set, and what stands in the flag's place
/// then, another variable or the default, would be another cell than was meant.
fn full(flag: &str, value: Option<String>) -> Result<Option<String>, Failure> {
    match value {
        Some(value) if value.is_empty() => {
            Err(Failure::usage(format!("{flag} is empty; expected a value")).with_hint(format!("leave {flag} out")))
        }
        value => Ok(value),
    }
}

/// Judges a value, to be told with where it stands: what is in a variable nobody has typed.
type Check = fn(&str) -> Result<(), Failure>;

fn check_address(address: &str) -> Result<(), Failure> {
    address::url(address).map(drop)
}

/// A variable of the environment, if it is there.
fn variable_of(name: &str) -> Result<Option<String>, Failure> {
    let wrong = |value| Failure::usage(format!("{name} is no text in UTF-8; found {value:?}"));
    std::env::var_os(name).map(|value| value.into_string().map_err(wrong)).transpose()
}

/// Whether that is the answer of a server of before, which has no word for moments: it says that nobody may call such a method. Who may not
/// read anything hears so of what is asked for next.
fn tells_no_moments(code: Code) -> bool {
    matches!(code, Code::Unimplemented | Code::PermissionDenied)
}

/// What the cell calls resources of its own, in order.
async fn custom_resources(connection: &Connection) -> Result<Vec<String>, Failure> {
    match connection.inspect().moment(MomentRequest { at: None }).await {
        Ok(moment) => Ok(moment.into_inner().custom_resources),
        Err(status) if tells_no_moments(status.code()) => {
            Ok(connection.inspect().status(StatusRequest {}).await?.into_inner().custom_resources)
        }
        Err(status) => Err(status.into()),
    }
}

/// Runs the command line of this process.
pub(crate) fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    // Agents alone start it: it is none of the commands that people are shown.
    if words.next().is_some_and(|command| command == "shim") {
        return parts::shim(words);
    }
    let arguments = match Arguments::try_parse() {
        Ok(read) => read,
        Err(error) => return usage::refused(error),
    };
    let format = arguments.global.output;
    // Who has a variable for all commands need not unset it for one that has no use for it.
    let heeded = if arguments.global.addr.is_some() { heeds_address(&arguments.command) } else { Ok(()) };
    let has_limit = arguments.global.request_timeout.is_some();
    let heeded = heeded.and_then(|()| if has_limit { heeds_request_timeout(&arguments.command) } else { Ok(()) });
    match heeded.and_then(|()| run(arguments)) {
        Ok(code) => code,
        Err(failure) => {
            output::tell_failure(format, &failure);
            ExitCode::from(failure.exit)
        }
    }
}

/// Refuses an address for what asks no cell: it would be another one than was named, or listen elsewhere.
fn heeds_address(command: &Command) -> Result<(), Failure> {
    let (word, instead) = match command {
        Command::Dev(_) => ("dev", "its port is said with --port"),
        Command::Server(_) => ("server", "where it can be reached is said with --listen"),
        Command::Verify { .. } => ("verify", "which cell it reads is said with --dir"),
        Command::Restore(_) => ("restore", "which cell it makes is said with --dir"),
        Command::Backup { dir: Some(_), .. } => {
            ("backup --dir", "name either the address of a running cell, or a directory")
        }
        _ => return Ok(()),
    };
    Err(Failure::usage(format!("`plenum {word}` asks no cell, so that --addr is of no use to it")).with_hint(instead))
}

/// Refuses a limit for the answers of a cell where none is asked for one, or what is asked for goes on for as long as it takes.
fn heeds_request_timeout(command: &Command) -> Result<(), Failure> {
    let word = match command {
        Command::Dev(_) => "dev",
        Command::Server(_) => "server",
        Command::Scheduler(Scheduler { command: None, .. }) => "scheduler",
        Command::Agent(_) => "agent",
        Command::Verify { .. } => "verify",
        Command::Backup { dir: Some(_), .. } => "backup --dir",
        Command::Restore(_) => "restore",
        _ => return Ok(()),
    };
    let what = format!("`plenum {word}` waits for no single answer, so that --request-timeout is of no use to it");
    Err(Failure::usage(what).with_hint("leave it out"))
}

/// Refuses to go on as somebody who is known by a token: no cell takes one, and whoever says so would be taken for anybody else.
fn heeds_no_token() -> Result<(), Failure> {
    if std::env::var_os("PLENUM_TOKEN").is_none_or(|token| token.is_empty()) {
        return Ok(());
    }
    let what = "PLENUM_TOKEN is set, and this version of Plenum knows no tokens: a cell trusts whoever reaches it";
    Err(Failure::new("UNIMPLEMENTED", what).with_hint("unset PLENUM_TOKEN"))
}

fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let wanted = wanted(&arguments.command);
    // What `plenum dev` starts asks its cell, in the same environment.
    if wanted.addr || matches!(arguments.command, Command::Dev(_)) {
        heeds_no_token()?;
    }
    let context = Context::of(&arguments.global, wanted)?;
    if let Some(address) = &arguments.global.addr {
        output::name_cell(address);
    }
    match arguments.command {
        Command::Dev(dev) => dev::run(&context, &dev),
        Command::Server(server) => parts::server(&server).map(|()| ExitCode::SUCCESS),
        Command::Scheduler(Scheduler { command: Some(_), names, .. }) if !names.is_empty() => {
            let what =
                format!("`plenum scheduler {}` runs schedulers, and a command stands behind it", names.join(" "));
            Err(Failure::usage(what).with_hint("name either schedulers to run, or a command such as `list`"))
        }
        Command::Scheduler(Scheduler { command: Some(command), .. }) => {
            block_on(govern::scheduler(&context, command))?.map(|()| ExitCode::SUCCESS)
        }
        Command::Scheduler(scheduler) => parts::scheduler(&context, &scheduler).map(|()| ExitCode::SUCCESS),
        Command::Agent(agent) => parts::agent(&context, &agent).map(|()| ExitCode::SUCCESS),
        Command::Verify { dir } => parts::verify(context.format, dir.clone()).map_err(|why| unreadable(dir, why)),
        Command::Backup { out, dir } => parts::backup(&context, &out, dir.as_deref()),
        Command::Restore(flags) => parts::restore(&context, &flags),
        Command::Explain { code } => explain::run(&context, code.as_deref()),
        Command::Completion { shell } => completion::run(shell),
        Command::Version => version(context.format),
        asking => block_on(ask(&context, asking))?,
    }
}

/// That one may not look into a folder does not mean that nothing is there.
fn unreadable(dir: Option<PathBuf>, failure: Failure) -> Failure {
    let looked = dir.filter(|_| failure.code == "BAD_DIRECTORY").map(|dir| (dir.join("log").metadata(), dir));
    match looked {
        Some((Err(error), dir)) if error.kind() == io::ErrorKind::PermissionDenied => {
            Failure::io(format!("cannot read {}", dir.display()), &error).with_hint("verify it as its server's user")
        }
        _ => failure,
    }
}

/// Commands that ask a cell.
async fn ask(context: &Context, command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Job(command) => return job::run(context, command).await,
        Command::Alloc(command) => alloc::run(context, command).await?,
        Command::Machine(command) => machine::run(context, command).await?,
        Command::Txn(command) => txn::run(context, command).await?,
        Command::Quota(command) => govern::quota(context, command).await?,
        Command::Partition(command) => govern::partition(context, command).await?,
        Command::Hold(command) => govern::hold(context, command).await?,
        Command::Conflicts(command) => conflicts::run(context, &command).await?,
        Command::Status { at } => status(context, at).await?,
        Command::History { since, told } => history::of_cell(context, since, &told).await?,
        _ => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs a future on this thread: a command has nothing to do at the same time.
pub(crate) fn block_on<F: Future>(future: F) -> Result<F::Output, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::io("cannot start the event loop", &error))?;
    let output = runtime.block_on(future);
    // A name that is still being looked up, though nobody waits for its address any more, holds nothing up.
    runtime.shutdown_background();
    Ok(output)
}

async fn status(context: &Context, at: Option<At>) -> Result<(), Failure> {
    let connection = context.connect_to_read(at).await?;
    let mut status = match at {
        None => connection.inspect().status(StatusRequest {}).await?,
        Some(_) => connection.inspect().get_status_at(GetStatusAtRequest { at }).await?,
    }
    .into_inner();
    output::name_resources(status.custom_resources.clone());
    let is_past = at.is_some();
    let then = at.map(|_| At { revision: status.revision, time_micros: 0 });
    let unfit = machine::unfit_counts(&connection, &status.machines, then).await;
    let mut object = if is_past { output::past_status_json(&status) } else { output::status_json(&status) };
    object["machines_unfit"] = json!(unfit);
    if let Some(unfit) = &unfit {
        machine::tell_unfit(&mut status.machines, unfit);
    }
    output::print(&output::object(context.format, &object, &output::cell_name(&status), || {
        if is_past { output::past_status_text(&status) } else { output::status_text(&status) }
    }))
}

fn version(format: Format) -> Result<ExitCode, Failure> {
    let (version, core) = (env!("CARGO_PKG_VERSION"), plenum_proto::log::CORE_VERSION);
    let object = json!({"version": version, "core_version": core});
    let text = output::object(format, &object, version, || format!("plenum {version}, core {core}\n"));
    output::print(&text).map(|()| ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    // A slip in the variable for namespaces was told by `plenum machine list`, which has no use for one, and nothing of the cell.
    #[test]
    fn a_namespace_is_looked_for_where_it_can_make_a_difference_alone() {
        let is_wanted = |line: &str| {
            let words = ["plenum"].into_iter().chain(line.split(' '));
            Arguments::try_parse_from(words).map(|read| wanted(&read.command)).ok().map(|wanted| wanted.namespace)
        };
        for line in [
            "job list",
            "job show web",
            "job run web.toml",
            "alloc list",
            "txn list",
            "hold list",
            "quota list",
            "quota history",
            "conflicts",
        ] {
            assert_eq!(is_wanted(line), Some(true), "{line}");
        }
        for line in [
            "machine list",
            "machine drain m1",
            "partition list",
            "partition remove lab",
            "scheduler list",
            "scheduler history",
            "scheduler batch",
            "alloc show alloc-1-1",
            "alloc logs alloc-1-1",
            "alloc stop alloc-1-1",
            "txn show txn-1-1",
            "quota set ml --cpu 1",
            "quota remove ml",
            "quota history ml",
            "status",
        ] {
            assert_eq!(is_wanted(line), Some(false), "{line}");
        }
    }

    // A server of before denies what it does not know, and no listing of it could be read any more.
    #[test]
    fn a_server_that_knows_no_moments_is_listed_all_the_same() {
        assert!(tells_no_moments(Code::PermissionDenied) && tells_no_moments(Code::Unimplemented));
        assert!(!tells_no_moments(Code::OutOfRange), "that revision is yet to come");
        assert!(!tells_no_moments(Code::Unavailable), "the next call would only wait once more");
    }
}

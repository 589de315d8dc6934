//! `plenum-checker`: watches a cell from outside, or reads what was recorded, and says which promises do not hold.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::{Parser, Subcommand};
use plenum_checker::stream::Event;
use plenum_checker::watch::{WatchError, Watcher};
use plenum_checker::{Evidence, Recording, calls, check};
use plenum_proto::v1;
use prost::Message;
use tonic::Status;

/// Between two attempts to reach the cell.
const RETRY: Duration = Duration::from_millis(200);

/// A cell that says for so long that it is behind what a client was told has lost it: nobody is told of what is not durable yet.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Parser)]
#[command(version, about = "Checks from outside what a cell promises; shares no code with it")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Follow a cell, through restarts, until a revision and what clients and its history know of by then; then check all of it
    Watch {
        /// Where the cell is
        #[arg(long, default_value = "http://127.0.0.1:7070", env = "PLENUM_ADDR")]
        addr: String,
        /// Logs of clients' calls, read at the end
        #[arg(long, num_args = 1..)]
        calls: Vec<PathBuf>,
        /// A revision to wait for; without it, the highest one that a client was told of at the start, or the cell's
        #[arg(long)]
        until_revision: Option<u64>,
        /// Keep what was heard in this file, for `offline`
        #[arg(long)]
        record: Option<PathBuf>,
    },
    /// Check what was recorded
    Offline {
        /// Files that `watch --record` wrote
        #[arg(required = true)]
        recordings: Vec<PathBuf>,
        /// Logs of clients' calls
        #[arg(long, num_args = 1..)]
        calls: Vec<PathBuf>,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(evidence) => report(&evidence),
        Err(error) => {
            say(&format!("error: {error}"));
            ExitCode::from(2)
        }
    }
}

type Problem = Box<dyn std::error::Error>;

fn run(command: Command) -> Result<Evidence, Problem> {
    match command {
        Command::Offline { recordings, calls } => {
            let mut evidence = Evidence { calls: read_calls(&calls)?, ..Evidence::default() };
            for path in recordings {
                let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                evidence.recordings.push(Recording::read(&name, Bytes::from(std::fs::read(&path)?))?);
            }
            Ok(evidence)
        }
        Command::Watch { addr, calls, until_revision, record } => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(watch(&addr, &calls, until_revision, record))
        }
    }
}

async fn watch(
    addr: &str,
    logs: &[PathBuf],
    until_revision: Option<u64>,
    record: Option<PathBuf>,
) -> Result<Evidence, Problem> {
    let mut file = record.map(File::create_new).transpose()?;
    let mut watcher = Watcher::new("watcher", addr)?;
    if file.is_some() {
        watcher = watcher.keeping_messages();
    }
    watcher.connect().await?;
    match until_revision {
        Some(revision) => follow(&mut watcher, revision, None, &mut file).await?,
        None => {
            // Clients may not have begun yet.
            let begun: Vec<PathBuf> = logs.iter().filter(|path| path.exists()).cloned().collect();
            let told = read_calls(&begun)?.iter().filter_map(calls::Call::revision).max();
            let until = told.unwrap_or(watcher.status().await?.revision);
            follow(&mut watcher, until, Some(PATIENCE), &mut file).await?;
        }
    }
    let (transactions, listed) = watcher.transactions().await?;
    let calls = read_calls(logs)?;
    // The cell went on meanwhile, and its clients were told of that.
    let decided = transactions.iter().filter_map(|view| Some(view.outcome.as_ref()?.revision));
    let told = calls.iter().filter_map(calls::Call::revision).chain(decided).max();
    follow(&mut watcher, told.unwrap_or(0), Some(PATIENCE), &mut file).await?;
    // A cell that has lost something can't list what was heard last.
    let newest = watcher.status().await?.revision;
    let listings = vec![watcher.listing(watcher.recording.revision().map(|heard| heard.min(newest))).await?];
    let recordings = vec![watcher.recording];
    Ok(Evidence { recordings, calls, transactions, listed: Some(listed), listings, sightings: Vec::new() })
}

/// Follows until a revision was heard, over however many connections; or, where there is a patience, until the cell has said for so long
/// that it is not there. It ends at once where the cell has less than it told this watcher: what is heard is then a gap.
async fn follow(
    watcher: &mut Watcher,
    until: u64,
    patience: Option<Duration>,
    file: &mut Option<File>,
) -> Result<(), Problem> {
    let mut behind: Option<Instant> = None;
    while watcher.recording.revision().is_none_or(|heard| heard < until) {
        let heard = watcher.next().await;
        keep(file, watcher.take_messages())?;
        match heard {
            Ok(()) => {}
            Err(WatchError::Bad(error)) => return Err(error.into()),
            // A message that is too large to be read would be so again. That is said on this side: the cell gives a code of its own with all it says.
            Err(WatchError::Refused(status))
                if status.code() == tonic::Code::OutOfRange && status.metadata().get("plenum-code").is_none() =>
            {
                return Err(WatchError::Refused(status).into());
            }
            // It ends and comes back: that is part of what is watched.
            Err(_) => {
                behind = None;
                tokio::time::sleep(RETRY).await;
                match watcher.connect().await {
                    Err(WatchError::Refused(status)) if is_beyond_the_cell(&status) => {
                        let heard = watcher.hear_status().await?;
                        keep(file, watcher.take_messages())?;
                        return if heard { Ok(()) } else { Err(WatchError::Refused(status).into()) };
                    }
                    _ => continue,
                }
            }
        }
        if let Some(Event::Heartbeat(heartbeat)) = watcher.recording.events.last() {
            behind = if heartbeat.revision < until { behind.or_else(|| Some(Instant::now())) } else { None };
        }
        let waited = behind.zip(patience).is_some_and(|(since, patience)| since.elapsed() >= patience);
        if waited && watcher.status().await.is_ok_and(|status| status.revision < until) {
            break;
        }
    }
    Ok(())
}

/// Whether the cell knows nothing of the revision up to which this watcher has heard. It tells what is durable only, so it has lost it.
fn is_beyond_the_cell(status: &Status) -> bool {
    status.metadata().get("plenum-code").is_some_and(|code| code == "NO_SUCH_REVISION")
}

/// Writes messages for `offline`, where they are kept.
fn keep(file: &mut Option<File>, messages: Vec<v1::SessionResponse>) -> Result<(), Problem> {
    let Some(file) = file else { return Ok(()) };
    for message in messages {
        file.write_all(&message.encode_length_delimited_to_vec())?;
    }
    Ok(())
}

fn read_calls(logs: &[PathBuf]) -> Result<Vec<calls::Call>, Problem> {
    let mut all = Vec::new();
    for path in logs {
        all.extend(calls::read(path)?);
    }
    Ok(all)
}

/// Prints what was checked and everything that does not hold; 1 if anything does not, 2 if there was nothing to check.
fn report(evidence: &Evidence) -> ExitCode {
    let verdict = check(evidence);
    for violation in &verdict.violations {
        say(&format!("violation: {violation}"));
    }
    let (folded, newest, transactions) = (verdict.folded, verdict.newest, verdict.transactions);
    say(&format!(
        "{} violations; {folded} revisions folded, up to {newest}; {transactions} transactions, {} calls",
        verdict.violations.len(),
        evidence.calls.len()
    ));
    if verdict.unchecked > 0 {
        let count = verdict.unchecked;
        say(&format!("{count} transactions could not be checked: neither deltas nor a list tell of them"));
    }
    match (verdict.violations.is_empty(), folded) {
        (false, _) => ExitCode::from(1),
        (true, 0) => {
            say("error: nothing was folded, and so nothing was checked");
            ExitCode::from(2)
        }
        (true, _) if transactions == 0 && verdict.unchecked > 0 => {
            say("error: none of the transactions could be checked");
            ExitCode::from(2)
        }
        (true, _) => ExitCode::SUCCESS,
    }
}

#[allow(clippy::print_stdout, reason = "the one place where the program speaks")]
fn say(line: &str) {
    println!("{line}");
}

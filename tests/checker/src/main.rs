//! `plenum-checker`: watches a cell from outside, or reads what was recorded, and says which promises do not hold.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use clap::{Parser, Subcommand};
use plenum_checker::watch::{WatchError, Watcher};
use plenum_checker::{Evidence, Recording, calls, check};
use prost::Message;

/// Between two attempts to reach the cell.
const RETRY: Duration = Duration::from_millis(200);

#[derive(Parser)]
#[command(version, about = "Checks from outside what a cell promises; shares no code with it")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Follow a cell, through restarts, until a revision; then check all of it
    Watch {
        /// Where the cell is
        #[arg(long, default_value = "http://127.0.0.1:7070", env = "PLENUM_ADDR")]
        addr: String,
        /// Logs of clients' calls, read at the end
        #[arg(long, num_args = 1..)]
        calls: Vec<PathBuf>,
        /// The last revision to wait for; without it, the highest one that a client was told of, or the cell's at the start
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
    let until = match until_revision {
        Some(revision) => revision,
        None => {
            let told = read_calls(logs)?.iter().filter_map(calls::Call::revision).max();
            told.unwrap_or(watcher.status().await?.revision)
        }
    };
    loop {
        let heard = watcher.next().await;
        for message in watcher.take_messages() {
            if let Some(file) = &mut file {
                file.write_all(&message.encode_length_delimited_to_vec())?;
            }
        }
        match heard {
            Err(WatchError::Bad(error)) => return Err(error.into()),
            // It ends and comes back: that is part of what is watched.
            Err(_) => {
                tokio::time::sleep(RETRY).await;
                let _ = watcher.connect().await;
            }
            Ok(()) if watcher.recording.position().is_some_and(|(_, revision)| revision >= until) => break,
            Ok(()) => {}
        }
    }
    let transactions = watcher.transactions().await?;
    let listings = vec![watcher.listing(watcher.recording.position().map(|(_, revision)| revision)).await?];
    let recordings = vec![watcher.recording];
    Ok(Evidence { recordings, calls: read_calls(logs)?, transactions, listings, sightings: Vec::new() })
}

fn read_calls(logs: &[PathBuf]) -> Result<Vec<calls::Call>, Problem> {
    let mut all = Vec::new();
    for path in logs {
        all.extend(calls::read(path)?);
    }
    Ok(all)
}

/// Prints what was checked and everything that does not hold; 1 if anything does not.
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
    if verdict.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

#[allow(clippy::print_stdout, reason = "the one place where the program speaks")]
fn say(line: &str) {
    println!("{line}");
}

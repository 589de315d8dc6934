//! `plenum-fuzz`: runs targets for as long as one likes, and makes their corpus.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use clap::{Parser, Subcommand};
use plenum_fuzz::targets::{TARGETS, Target, named};
use plenum_fuzz::{coverage, runner, seeds, weigh::Counting};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[derive(Parser)]
#[command(about = "Feeds decoders with valid inputs that were changed")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Name the targets
    List,
    /// Make the valid inputs of the corpus again; what was found is kept
    Seed,
    /// Feed targets, for so long in all
    Run {
        /// Which; without one, all in turn
        targets: Vec<String>,
        /// How long
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// The first seed; without it, one from the clock
        #[arg(long)]
        seed: Option<u64>,
        /// In a build that counts what is reached: where inputs that lead somewhere new are kept, and taken up again
        #[arg(long, value_name = "DIR")]
        pool: Option<PathBuf>,
    },
    /// Feed one input
    Feed {
        /// To which target
        target: String,
        /// What
        file: PathBuf,
    },
}

type Problem = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            say(&format!("error: {error}"));
            ExitCode::from(2)
        }
    }
}

fn run(command: Command) -> Result<bool, Problem> {
    match command {
        Command::List => TARGETS.iter().for_each(|target| say(&format!("{:<14} {}", target.name, target.about))),
        Command::Seed => TARGETS.iter().try_for_each(seed)?,
        Command::Feed { target, file } => {
            let target = named(&target).ok_or_else(|| format!("there is no target {target}"))?;
            say(if (target.run)(&fs::read(file)?) { "it is read" } else { "it is refused" });
        }
        Command::Run { targets, seconds, seed, pool } => return search(&targets, seconds, seed, pool.as_deref()),
    }
    Ok(true)
}

/// Valid inputs are named by number; what was found has other names.
fn seed(target: &Target) -> Result<(), Problem> {
    let folder = runner::folder(target);
    fs::create_dir_all(&folder)?;
    for (number, input) in seeds::of(target.name).iter().enumerate() {
        fs::write(folder.join(format!("valid-{number:02}")), input)?;
    }
    Ok(())
}

fn search(names: &[String], seconds: u64, seed: Option<u64>, pool: Option<&Path>) -> Result<bool, Problem> {
    if pool.is_some() && !coverage::is_counted() {
        return Err("nothing is counted in this build; `cargo xtask fuzz --coverage` makes one that counts".into());
    }
    let mut targets: Vec<&Target> = Vec::new();
    for name in names {
        targets.push(named(name).ok_or_else(|| format!("there is no target {name}"))?);
    }
    if targets.is_empty() {
        targets = TARGETS.iter().collect();
    }
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let seed = seed.unwrap_or(clock.as_secs());
    let each = Duration::from_secs(seconds) / u32::try_from(targets.len())?;
    std::panic::set_hook(Box::new(|_| {}));
    let mut clean = true;
    for target in targets {
        let mut inputs: Vec<Vec<u8>> = runner::corpus(target)?.into_iter().map(|(_, input)| input).collect();
        let name = target.name;
        let fed = if coverage::is_counted() {
            let own = pool.map(|pool| pool.join(name));
            explore(target, &mut inputs, seed, each, own.as_deref())?
        } else {
            let begun = Instant::now();
            let fed = runner::search(target, &inputs, seed, |_| begun.elapsed() < each);
            fed.map(|fed| format!("{fed} inputs"))
        };
        match fed {
            Ok(fed) => say(&format!("{name:<14} {fed}, seed {seed}: nothing")),
            Err(found) => {
                clean = false;
                let file = runner::folder(target).join(format!("found-{seed}"));
                fs::write(&file, &found.input)?;
                let (find, place) = (&found.find, file.display());
                say(&format!(
                    "{name:<14} FOUND {find:?}\n  kept in {place}\n  again: cargo run -p plenum-fuzz -- feed {name} {place}"
                ));
            }
        }
    }
    Ok(clean)
}

/// What was fed, in words, or what was found. Inputs that led somewhere new are kept in the folder, for the next time.
fn explore(
    target: &Target,
    inputs: &mut Vec<Vec<u8>>,
    seed: u64,
    each: Duration,
    folder: Option<&Path>,
) -> Result<Result<String, Box<runner::Found>>, Problem> {
    let corpus = inputs.len();
    if let Some(folder) = folder {
        fs::create_dir_all(folder)?;
        for entry in fs::read_dir(folder)? {
            inputs.push(fs::read(entry?.path())?);
        }
    }
    let (known, begun) = (inputs.len(), Instant::now());
    let explored = runner::explore(target, inputs, seed, |_| begun.elapsed() < each);
    if let Some(folder) = folder {
        for (number, input) in inputs.iter().enumerate().skip(known) {
            fs::write(folder.join(format!("{number:04}-{seed}")), input)?;
        }
    }
    Ok(explored.map(|explored| {
        let (fed, before, after, more) = (explored.fed, explored.edges_before, explored.edges, inputs.len() - known);
        let old = known - corpus;
        format!("{fed} inputs, {more} of them led somewhere new (beside {old} of before): {before} edges, then {after}")
    }))
}

#[allow(clippy::print_stdout, reason = "the one place where the program speaks")]
fn say(line: &str) {
    println!("{line}");
}

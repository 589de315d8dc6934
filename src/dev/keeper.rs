//! Keeps one part of the cell running: starts it again when it dies, and ends it when asked to.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::{
        signal::{Signal, kill},
        statvfs::{Statvfs, statvfs},
    },
    unistd::{Pid, geteuid},
};
use tokio::{
    process::{Child, Command},
    sync::{mpsc, watch},
    task::JoinHandle,
};

use super::{
    folder::{Folder, LOG_SHOWN_BYTES},
    progress::Progress,
};
use crate::failure::Failure;

/// A part that lived this long was well; the next death starts the count again.
const WELL_AFTER: Duration = Duration::from_secs(10);
/// Deaths in a row after which the part is given up.
const DEATHS_MAX: u32 = 8;
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(3);
/// How often it is tried whether an earlier part has let go of its directory.
const LOCKED_PERIOD: Duration = Duration::from_millis(100);

/// How a part is started.
#[derive(Clone, Debug)]
pub(super) struct PartSpec {
    /// Such as "scheduler batch".
    pub(super) name: String,
    pub(super) arguments: Vec<OsString>,
    pub(super) environment: Vec<(&'static str, OsString)>,
    pub(super) log: PathBuf,
    /// How long an earlier part that still has its directory is waited for: one that is known to end by itself.
    pub(super) patience: Duration,
}

/// What is wanted of a part. Only ever rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wanted {
    Run,
    Stop,
    /// Asked once more, which an agent takes for: kill your tasks.
    Hurry,
    Kill,
}

/// A part that is kept running.
#[derive(Debug)]
pub(super) struct Keeper {
    wanted: watch::Sender<Wanted>,
    task: JoinHandle<()>,
}

impl Keeper {
    /// Starts a part. When it is given up, the reason is sent to `given_up`.
    pub(super) fn start(binary: &Path, spec: PartSpec, progress: Progress, given_up: mpsc::Sender<Failure>) -> Self {
        let (wanted, receiver) = watch::channel(Wanted::Run);
        let binary = binary.to_owned();
        let task = tokio::spawn(async move {
            if let Err(failure) = keep(&binary, &spec, &progress, receiver).await {
                // Where one is told already nobody listens for another: who waited for that would never end, nor would the cell.
                let _ = given_up.try_send(failure);
            }
        });
        Self { wanted, task }
    }

    /// Asks the part to end.
    pub(super) fn stop(&self) {
        self.wanted.send_if_modified(|wanted| {
            *wanted == Wanted::Run && {
                *wanted = Wanted::Stop;
                true
            }
        });
    }

    /// Asks the part once more.
    pub(super) fn hurry(&self) {
        self.wanted.send_if_modified(|wanted| {
            *wanted < Wanted::Hurry && {
                *wanted = Wanted::Hurry;
                true
            }
        });
    }

    /// Ends the part at once.
    pub(super) fn kill(&self) {
        self.wanted.send_replace(Wanted::Kill);
    }

    /// Waits until the part has ended.
    pub(super) async fn ended(&mut self) {
        if !self.task.is_finished() {
            let _ = (&mut self.task).await;
        }
    }
}

async fn keep(
    binary: &Path,
    spec: &PartSpec,
    progress: &Progress,
    mut wanted: watch::Receiver<Wanted>,
) -> Result<(), Failure> {
    let mut deaths = 0;
    let mut backoff = BACKOFF_MIN;
    let (begun, mut has_told) = (Instant::now(), false);
    loop {
        let since = Instant::now();
        // What stands there already is another one's: of an earlier start, or an earlier cell in the same directory.
        let printed_from = Folder::log_bytes(&spec.log);
        let mut child = spawn(binary, spec)?;
        let status = tokio::select! {
            status = child.wait() => status,
            () = until(&mut wanted, Wanted::Stop) => return end(child, &mut wanted).await,
        };
        let status = status.map_err(|error| Failure::io(format!("cannot wait for {}", spec.name), &error))?;
        if since.elapsed() >= WELL_AFTER {
            (deaths, backoff) = (0, BACKOFF_MIN);
        }
        deaths += 1;
        // A part that refuses to start says why and would say so again: its directory, its port, its options. Of its directory it says so only
        // after it has waited for an earlier part that is ending; of its port after a second.
        let failed = status.code().is_some_and(|code| code != 0);
        let failure = failure(spec, status, printed_from);
        let is_locked = failed && failure.code == "DIRECTORY_LOCKED";
        let refuses = failed && deaths == 1 && since.elapsed() < WELL_AFTER / 3;
        if refuses || is_locked || deaths > DEATHS_MAX {
            if failure.code != "DIRECTORY_LOCKED" || begun.elapsed() >= spec.patience {
                return Err(failure);
            }
            if !std::mem::replace(&mut has_told, true) {
                progress
                    .say(&format!("the {} of a cell that was killed here is still ending; waiting for it", spec.name));
            }
            deaths = 0;
            tokio::select! {
                () = tokio::time::sleep(LOCKED_PERIOD) => continue,
                () = until(&mut wanted, Wanted::Stop) => return Ok(()),
            }
        }
        progress.say(&format!("{} {}; starting it again", spec.name, status_words(status)));
        tokio::select! {
            () = tokio::time::sleep(backoff) => {}
            () = until(&mut wanted, Wanted::Stop) => return Ok(()),
        }
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

fn spawn(binary: &Path, spec: &PartSpec) -> Result<Child, Failure> {
    let log = OpenOptions::new().create(true).append(true).open(&spec.log);
    let log = log.map_err(|error| Failure::io(format!("cannot open {}", spec.log.display()), &error))?;
    let same = |log: &File| log.try_clone().map(Stdio::from).unwrap_or_else(|_| Stdio::null());
    Command::new(binary)
        .args(&spec.arguments)
        .envs(spec.environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(same(&log))
        .stderr(same(&log))
        // A Ctrl-C on the terminal is for this process alone: it ends the others in the right order.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| Failure::io(format!("cannot start {}", spec.name), &error))
}

async fn until(wanted: &mut watch::Receiver<Wanted>, least: Wanted) {
    if wanted.wait_for(|wanted| *wanted >= least).await.is_err() {
        // Whoever wants something is gone, and so this task soon is.
        std::future::pending::<()>().await;
    }
}

/// Asks a part to end, and insists when told to.
async fn end(mut child: Child, wanted: &mut watch::Receiver<Wanted>) -> Result<(), Failure> {
    let process = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
    for next in [Wanted::Hurry, Wanted::Kill] {
        if let Some(process) = process {
            let _ = kill(process, Signal::SIGTERM);
        }
        tokio::select! {
            _ = child.wait() => return Ok(()),
            () = until(wanted, next) => {}
        }
    }
    let _ = child.kill().await;
    Ok(())
}

fn status_words(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// Why a part was given up: its own words if it said something.
fn failure(spec: &PartSpec, status: ExitStatus, printed_from: u64) -> Failure {
    let tail = Folder::printed_since(&spec.log, printed_from, LOG_SHOWN_BYTES);
    if let Some(own) = tail.lines().rev().find_map(own_failure) {
        return own;
    }
    let what = format!("{} {} and does not stay up", spec.name, status_words(status));
    let log = spec.log.display();
    let (code, what) = match tail.trim_end() {
        "" if is_full(&spec.log) => {
            ("NO_SPACE", format!("{what}: the disk of {log} is full, and what it said is lost"))
        }
        // Somebody else may have made room since.
        "" => ("PART_FAILED", format!("{what}; it said nothing, as where the disk of {log} is full")),
        said => ("PART_FAILED", format!("{what}; it said:\n{said}")),
    };
    Failure::new(code, what).with_hint(format!("`plenum explain {code}` tells more"))
}

/// Whether this user can't write any more where a file is. What has no blocks at all keeps none free.
fn is_full(path: &Path) -> bool {
    let left = |disk: &Statvfs| if geteuid().is_root() { disk.blocks_free() } else { disk.blocks_available() };
    statvfs(path).is_ok_and(|disk| disk.blocks() > 0 && left(&disk) == 0)
}

/// The error that a part printed for programs, on one line.
fn own_failure(line: &str) -> Option<Failure> {
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    let error = value.get("error")?;
    let failure = Failure::new(error.get("code")?.as_str()?, error.get("message")?.as_str()?);
    Some(match error.get("hint").and_then(serde_json::Value::as_str) {
        Some(hint) => failure.with_hint(hint),
        None => failure,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::cli::block_on;

    fn spec(folder: &Path, script: &str) -> PartSpec {
        let arguments = ["-c", script].map(OsString::from).to_vec();
        let (name, log, patience) = ("part".to_owned(), folder.join("part.log"), Duration::ZERO);
        PartSpec { name, arguments, environment: Vec::new(), log, patience }
    }

    const LOCKED: &str = r#"echo '{"error":{"code":"DIRECTORY_LOCKED","message":"locked"}}' >&2; exit 1"#;

    // Where no part could be started, `plenum dev` neither said so nor ended, and heard no signal any more.
    #[test]
    fn a_part_that_is_given_up_ends_though_nobody_hears_of_it() {
        let folder = tempfile::tempdir().unwrap();
        block_on(async {
            let (sender, mut given_up) = mpsc::channel(1);
            let start =
                || Keeper::start(Path::new("/nowhere"), spec(folder.path(), ""), Progress::quiet(), sender.clone());
            let mut keepers = [start(), start(), start()];
            assert_eq!(given_up.recv().await.unwrap().code, "IO");
            for keeper in &mut keepers {
                keeper.kill();
                tokio::time::timeout(Duration::from_secs(10), keeper.ended()).await.unwrap();
            }
        })
        .unwrap();
    }

    // A script that started a cell again at once after it had killed it was told that the old server has the directory.
    #[test]
    fn an_earlier_part_that_is_ending_is_waited_for_as_long_as_there_is_patience() {
        let folder = tempfile::tempdir().unwrap();
        let patient = |patience, script: &str| PartSpec { patience, ..spec(folder.path(), script) };
        let (tries, up) = (folder.path().join("tries"), folder.path().join("up"));
        let free = format!(
            "echo >> {0}; if [ $(wc -l < {0}) -gt 3 ]; then touch {1}; exec sleep 60; fi; {LOCKED}",
            tries.display(),
            up.display()
        );
        block_on(async {
            let (sender, mut given_up) = mpsc::channel(1);
            let start = |spec| Keeper::start(Path::new("/bin/sh"), spec, Progress::quiet(), sender.clone());
            let mut keeper = start(patient(Duration::from_secs(60), &free));
            while !up.exists() {
                assert!(given_up.try_recv().is_err());
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            keeper.stop();
            keeper.ended().await;
            let since = Instant::now();
            let _keeper = start(patient(Duration::from_millis(250), LOCKED));
            let failure = given_up.recv().await.unwrap();
            assert_eq!(failure.code, "DIRECTORY_LOCKED");
            assert!(since.elapsed() >= Duration::from_millis(250));
        })
        .unwrap();
    }

    #[test]
    fn a_part_that_refuses_to_start_is_given_up_with_its_own_words() {
        let folder = tempfile::tempdir().unwrap();
        let script = r#"echo '{"error":{"code":"ADDRESS_IN_USE","message":"taken","hint":"another"}}' >&2; exit 1"#;
        let failure = block_on(async {
            let (sender, mut given_up) = mpsc::channel(1);
            let _keeper = Keeper::start(Path::new("/bin/sh"), spec(folder.path(), script), Progress::quiet(), sender);
            given_up.recv().await.unwrap()
        })
        .unwrap();
        assert_eq!((failure.code.as_str(), failure.message.as_str()), ("ADDRESS_IN_USE", "taken"));
        assert_eq!(failure.hint.as_deref(), Some("another"));
    }

    // In a named directory the error of the cell before was told as this one's.
    #[test]
    fn what_a_part_of_an_earlier_cell_said_is_not_taken_for_what_this_one_says() {
        let folder = tempfile::tempdir().unwrap();
        let part = spec(folder.path(), "echo cannot go on; exit 7");
        std::fs::write(&part.log, "{\"error\":{\"code\":\"ADDRESS_IN_USE\",\"message\":\"taken\"}}\n").unwrap();
        let failure = block_on(async {
            let (sender, mut given_up) = mpsc::channel(1);
            let _keeper = Keeper::start(Path::new("/bin/sh"), part, Progress::quiet(), sender);
            given_up.recv().await.unwrap()
        })
        .unwrap();
        let said = "part ended with exit code 7 and does not stay up; it said:\ncannot go on";
        assert_eq!((failure.code.as_str(), failure.message.as_str()), ("PART_FAILED", said));
    }

    // "It said:" was the end of the message, with an empty line below, where the disk of the log was full.
    #[test]
    fn a_part_that_said_nothing_is_told_with_where_it_would_have_done_so() {
        let folder = tempfile::tempdir().unwrap();
        let part = spec(folder.path(), "exit 1");
        let log = part.log.display().to_string();
        let failure = block_on(async {
            let (sender, mut given_up) = mpsc::channel(1);
            let _keeper = Keeper::start(Path::new("/bin/sh"), part, Progress::quiet(), sender);
            given_up.recv().await.unwrap()
        })
        .unwrap();
        let said = format!(
            "part ended with exit code 1 and does not stay up; it said nothing, as where the disk of {log} is full"
        );
        assert_eq!((failure.code.as_str(), failure.message), ("PART_FAILED", said));
        assert!(!is_full(Path::new("/proc/self/status")), "nothing is ever free there");
    }

    #[test]
    fn a_part_that_was_killed_is_started_again() {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("mark");
        let script =
            format!("if [ -e {0} ]; then touch {0}2; exec sleep 60; fi; touch {0}; kill -9 $$", mark.display());
        block_on(async {
            let (sender, _given_up) = mpsc::channel(1);
            let mut keeper =
                Keeper::start(Path::new("/bin/sh"), spec(folder.path(), &script), Progress::quiet(), sender);
            let second = folder.path().join("mark2");
            for _ in 0..500 {
                if second.exists() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert!(second.exists(), "it was started a second time");
            keeper.stop();
            keeper.ended().await;
        })
        .unwrap();
    }

    #[test]
    fn a_part_that_does_not_end_when_asked_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("mark");
        let script = format!("trap '' TERM; touch {}; while :; do sleep 1; done", mark.display());
        block_on(async {
            let (sender, _given_up) = mpsc::channel(1);
            let mut keeper =
                Keeper::start(Path::new("/bin/sh"), spec(folder.path(), &script), Progress::quiet(), sender);
            while !mark.exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            keeper.stop();
            let asked = tokio::time::timeout(Duration::from_millis(300), keeper.ended()).await;
            assert!(asked.is_err(), "it does not end when asked");
            keeper.kill();
            keeper.ended().await;
        })
        .unwrap();
    }
}

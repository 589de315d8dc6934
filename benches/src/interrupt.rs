//! Ctrl-C keeps what was measured: the first one asks the suite to come to an end, the second one ends the program at once. So does the first one where whoever
//! started this program ends by it, or after it: nobody waits any more for what would be measured. Where that one had ended long before, as by a log-out under
//! `nohup`, this program was left to run on by itself, and the first one asks as usual. It ends at once by a single
//! SIGTERM, too, and by a terminal that is closed (SIGHUP; not under `nohup`). Either way programs that were started end with this one, and folders that were made
//! for them are removed. Where nobody can listen, as at a SIGKILL, programs that run on by themselves end all the same ([`following`]).
//!
//! The harness listens from its beginning. A suite looks at [`asked`] between its cases (and inside long ones), and gives the figures that it has. Programs that
//! it started are out of a terminal's reach ([`spared`]): a server that ended at Ctrl-C would end the measurement with an error.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};

use crate::progress::say;
use crate::{processes, scratch};

static ASKED: AtomicBool = AtomicBool::new(false);
static LISTENS: OnceLock<()> = OnceLock::new();
/// Programs that are to end with this one.
static CHILDREN: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// What a shell gives for a program that Ctrl-C ended: 128 and the signal's number.
pub(crate) const EXIT_CODE: u8 = 130;
/// The same for one that was told to end.
const EXIT_CODE_TERMINATED: u8 = 143;
/// And for one whose terminal was closed.
const EXIT_CODE_HUNG_UP: u8 = 129;
/// How long programs that were killed are waited for: until then they may write.
const END_PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at who this program's parent is: seldom enough to disturb no figure, …
const PARENT_LOOK: Duration = Duration::from_secs(1);
/// … and where somebody has asked, when nobody should wait for the end.
const PARENT_LOOK_WHEN_ASKED: Duration = Duration::from_millis(100);
/// A Ctrl-C that comes so soon after this program's parent was found to have ended is the one that ended it: which of both is seen first is chance.
const ONE_CTRL_C: Duration = Duration::from_secs(1);

/// From now on Ctrl-C asks, and SIGTERM and SIGHUP end what was started, too. Before, all of them end the program as usual.
///
/// # Errors
/// When no signal can be waited for.
pub(crate) fn listen() -> anyhow::Result<()> {
    if LISTENS.set(()).is_err() {
        return Ok(());
    }
    let parent = nix::unistd::getppid();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let runtime = runtime.context("cannot wait for signals")?;
    // Made here, so that a Ctrl-C after this call is not lost.
    let (mut interrupts, mut terminates, mut hangups) = {
        let _inside = runtime.enter();
        let interrupts = signal(SignalKind::interrupt()).context("cannot wait for Ctrl-C")?;
        let terminates = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
        let hangups = if ignores_hangups() { None } else { Some(signal(SignalKind::hangup())) };
        (interrupts, terminates, hangups.transpose().context("cannot wait for SIGHUP")?)
    };
    let wait = move || {
        runtime.block_on(async {
            // When it was found that the parent had ended: nobody is watched from then on.
            let mut parent_ended: Option<Instant> = None;
            loop {
                let code = tokio::select! {
                    Some(()) = interrupts.recv() => EXIT_CODE,
                    Some(()) = terminates.recv() => EXIT_CODE_TERMINATED,
                    Some(()) = next(&mut hangups) => EXIT_CODE_HUNG_UP,
                    () = end_of(parent), if parent_ended.is_none() => {
                        parent_ended = Some(Instant::now());
                        if asked() { EXIT_CODE } else { continue }
                    }
                    else => return,
                };
                let is_the_first = code == EXIT_CODE && !ASKED.swap(true, Ordering::Relaxed);
                if is_the_first && !ended_the_parent(parent_ended.map(|found| found.elapsed())) {
                    say("stopping: what was measured so far is kept; Ctrl-C again ends at once");
                    continue;
                }
                end_children();
                scratch::remove_all();
                std::process::exit(code.into());
            }
        });
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait).context("cannot start a thread")?;
    Ok(())
}

/// The next one; never, where nobody listens.
async fn next(signals: &mut Option<tokio::signal::unix::Signal>) -> Option<()> {
    match signals {
        Some(signals) => signals.recv().await,
        None => std::future::pending().await,
    }
}

/// Comes when this program has another parent than it had: that one has ended.
async fn end_of(parent: Pid) {
    while nix::unistd::getppid() == parent {
        tokio::time::sleep(if asked() { PARENT_LOOK_WHEN_ASKED } else { PARENT_LOOK }).await;
    }
}

/// Whether a Ctrl-C ended this program's parent, too, which was found to have ended so long before.
fn ended_the_parent(found_before: Option<Duration>) -> bool {
    found_before.is_some_and(|before| before < ONE_CTRL_C)
}

/// Whether this program was started so that it goes on when its terminal is closed, as `nohup` does: to listen would undo that.
fn ignores_hangups() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores(&status, Signal::SIGHUP))
}

/// Whether a process with such a `/proc/…/status` ignores a signal.
fn ignores(status: &str, signal: Signal) -> bool {
    let mask = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    mask.is_some_and(|mask| (mask >> (signal as i32 - 1)) & 1 == 1)
}

/// Whether Ctrl-C was pressed since [`listen`].
pub(crate) fn asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}

/// Starts a program that a Ctrl-C on the terminal does not reach; the second one kills it, and a SIGTERM to this program. Who has it in hand calls [`ended`] when it is waited for.
///
/// # Errors
/// When it cannot be started.
pub(crate) fn spared(command: &mut Command) -> std::io::Result<Child> {
    let mut children = CHILDREN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let child = command.process_group(0).spawn()?;
    children.insert(child.id());
    Ok(child)
}

/// What runs another program, whose arguments are still to be given, so that it ends when this one does, whatever ends it; and when the thread that starts it
/// does. It takes some milliseconds longer to start.
///
/// # Errors
/// When this program's own file cannot be found.
pub(crate) fn following(program: &Path) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("cannot find this program's file")?);
    command.args(["follow", "--parent", &std::process::id().to_string(), "--"]).arg(program);
    Ok(command)
}

/// Becomes another program that ends when this process does, which started it. Gives why it could not.
pub(crate) fn follow(parent: i32, command: &[OsString]) -> anyhow::Error {
    let Some((program, arguments)) = command.split_first() else { return anyhow::anyhow!("expected a program") };
    if let Err(error) = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL) {
        return anyhow::Error::new(error).context("cannot follow the harness");
    }
    // It may have ended before.
    if nix::unistd::getppid() != Pid::from_raw(parent) {
        return anyhow::anyhow!("the harness has ended");
    }
    let error = Command::new(program).args(arguments).exec();
    anyhow::Error::new(error).context(format!("cannot start {}", program.display()))
}

/// A program has ended: its number may be that of another one from now on.
pub(crate) fn ended(child: &Child) {
    CHILDREN.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&child.id());
}

/// Kills them, and waits until they have ended.
fn end_children() {
    let children = CHILDREN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for child in children.iter() {
        if let Ok(process) = i32::try_from(*child) {
            let _ = nix::sys::signal::kill(Pid::from_raw(process), Signal::SIGKILL);
        }
    }
    let began = Instant::now();
    while children.iter().any(|child| processes::runs(*child)) && began.elapsed() < END_PATIENCE {
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::process::Stdio;

    use super::*;
    use crate::scratch::Scratch;

    /// Set for this program itself, run again: it is asked to stop.
    const TO_BE_ASKED: &str = "PLENUM_BENCH_TO_BE_ASKED";
    /// Set for this program itself, run again: it starts this program once more, and waits to be killed.
    const TO_BE_LOST: &str = "PLENUM_BENCH_TO_BE_LOST";
    /// Set for this program itself, run again by that one: it says which process it is, and that it was asked to stop, and goes on.
    const LOSES: &str = "PLENUM_BENCH_LOSES";
    /// Set for this program itself, run again: it starts a program, says which, and waits to be ended.
    const TO_BE_ENDED: &str = "PLENUM_BENCH_TO_BE_ENDED";
    /// The same, and the program follows it.
    const TO_BE_KILLED: &str = "PLENUM_BENCH_TO_BE_KILLED";
    /// Set for this program itself, run again by that one: it becomes the program.
    const FOLLOWS: &str = "PLENUM_BENCH_FOLLOWS";

    /// Waits for something, and not for ever.
    fn until(what: &str, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !is_so() {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// This program, for one of its tests alone.
    fn again(test: &str) -> Command {
        let mut again = Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", &format!("interrupt::tests::{test}")]).stdout(Stdio::null());
        again
    }

    /// What was written there.
    fn process_in(file: &Path) -> u32 {
        let read = || std::fs::read_to_string(file).unwrap_or_default().parse().ok();
        until("it never said which program it started", || read().is_some());
        read().unwrap()
    }

    fn send(process: u32, signal: Signal) {
        nix::sys::signal::kill(Pid::from_raw(process.try_into().unwrap()), signal).unwrap();
    }

    /// Whether this program is one of those that such a test starts: then it has done its part.
    fn is_one_that_loses_its_parent(test: &str) -> bool {
        if let Some(folder) = std::env::var_os(LOSES).map(PathBuf::from) {
            listen().unwrap();
            std::fs::write(folder.join("process"), std::process::id().to_string()).unwrap();
            until("nobody asked", asked);
            std::fs::write(folder.join("asked"), "").unwrap();
            std::thread::sleep(Duration::from_secs(120));
            return true;
        }
        if let Some(folder) = std::env::var_os(TO_BE_LOST) {
            drop(again(test).env(LOSES, folder).status());
            return true;
        }
        false
    }

    /// Starts a program that starts a harness, and says which process that is.
    fn start_one_that_loses_its_parent(test: &str, folder: &Path) -> (std::process::Child, u32) {
        let parent = again(test).env(TO_BE_LOST, folder).spawn().unwrap();
        (parent, process_in(&folder.join("process")))
    }

    // In a program of its own: where one process runs all tests, those that came later saw that somebody had asked, and measured nothing.
    #[test]
    fn the_first_interrupt_asks_and_does_not_end_the_program() {
        if std::env::var_os(TO_BE_ASKED).is_some() {
            listen().unwrap();
            assert!(!asked());
            nix::sys::signal::raise(Signal::SIGINT).unwrap();
            until("the signal was never seen", asked);
            return;
        }
        let mut harness = again("the_first_interrupt_asks_and_does_not_end_the_program");
        assert!(harness.env(TO_BE_ASKED, "").status().unwrap().success());
        assert!(!asked());
    }

    // What starts the harness may end at the Ctrl-C that reaches both, as the gate does: the harness went on for half a minute, for nobody.
    #[test]
    fn a_harness_that_is_asked_to_stop_ends_at_once_when_its_parent_has_ended() {
        const NAME: &str = "a_harness_that_is_asked_to_stop_ends_at_once_when_its_parent_has_ended";
        if is_one_that_loses_its_parent(NAME) {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let (mut parent, process) = start_one_that_loses_its_parent(NAME, folder.path());
        send(process, Signal::SIGINT);
        until("it was never asked", || folder.path().join("asked").exists());
        assert!(processes::runs(process), "its parent is still there");
        parent.kill().unwrap();
        parent.wait().unwrap();
        until("it goes on for nobody", || !processes::runs(process));
    }

    // Under `nohup`, hours after a log-out: the first one ended it at once, and took the case that was under way.
    #[test]
    fn a_harness_whose_parent_ended_long_before_goes_on_when_it_is_asked_to_stop() {
        const NAME: &str = "a_harness_whose_parent_ended_long_before_goes_on_when_it_is_asked_to_stop";
        if is_one_that_loses_its_parent(NAME) {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let (mut parent, process) = start_one_that_loses_its_parent(NAME, folder.path());
        parent.kill().unwrap();
        parent.wait().unwrap();
        // Until it has found that, and what comes then did not end both.
        std::thread::sleep(PARENT_LOOK + ONE_CTRL_C + Duration::from_secs(4));
        send(process, Signal::SIGINT);
        until("it was never asked", || folder.path().join("asked").exists());
        std::thread::sleep(Duration::from_secs(1));
        assert!(processes::runs(process), "what was under way is lost");
        send(process, Signal::SIGKILL);
        until("it was killed", || !processes::runs(process));
    }

    #[test]
    fn a_ctrl_c_just_after_the_parents_end_ended_that_and_a_later_one_did_not() {
        assert!(ended_the_parent(Some(Duration::ZERO)) && ended_the_parent(Some(ONE_CTRL_C / 2)));
        assert!(!ended_the_parent(Some(ONE_CTRL_C)) && !ended_the_parent(None));
    }

    #[test]
    fn what_was_started_and_what_was_written_go_when_this_program_is_told_to_end() {
        if let Some(folder) = std::env::var_os(TO_BE_ENDED).map(PathBuf::from) {
            listen().unwrap();
            let scratch = Scratch::make(&folder).unwrap();
            std::fs::write(scratch.path().join("log"), "of a cell").unwrap();
            let mut child = spared(Command::new("sleep").arg("60")).unwrap();
            std::fs::write(folder.join("process"), child.id().to_string()).unwrap();
            child.wait().unwrap();
            // Whoever ended it ends this program, too.
            std::thread::sleep(Duration::from_secs(60));
            return;
        }
        let hangup = (!ignores_hangups()).then_some((Signal::SIGHUP, EXIT_CODE_HUNG_UP));
        for (signal, code) in [(Signal::SIGTERM, EXIT_CODE_TERMINATED)].into_iter().chain(hangup) {
            let folder = tempfile::tempdir().unwrap();
            let mut harness = again("what_was_started_and_what_was_written_go_when_this_program_is_told_to_end");
            let mut harness = harness.env(TO_BE_ENDED, folder.path()).spawn().unwrap();
            let process = process_in(&folder.path().join("process"));
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
            send(harness.id(), signal);
            assert_eq!(harness.wait().unwrap().code(), Some(code.into()), "{signal}");
            until("what it started still runs", || !processes::runs(process));
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "{signal}: its scratch folder is there");
        }
    }

    #[test]
    fn a_program_that_follows_ends_when_this_one_is_killed() {
        const NAME: &str = "a_program_that_follows_ends_when_this_one_is_killed";
        if let Some(parent) = std::env::var_os(FOLLOWS) {
            let parent = parent.to_str().unwrap().parse().unwrap();
            panic!("{:#}", follow(parent, &["sleep".into(), "600".into()]));
        }
        if let Some(file) = std::env::var_os(TO_BE_KILLED) {
            let mut child = spared(again(NAME).env(FOLLOWS, std::process::id().to_string())).unwrap();
            std::fs::write(&file, child.id().to_string()).unwrap();
            child.wait().unwrap();
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("process");
        let mut harness = again(NAME).env(TO_BE_KILLED, &file).spawn().unwrap();
        let process = process_in(&file);
        let name = || std::fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
        until("it never became the program", || name().trim() == "sleep");
        harness.kill().unwrap();
        harness.wait().unwrap();
        until("what it started still runs", || !processes::runs(process));
    }

    #[test]
    fn whether_a_terminal_that_is_closed_is_ignored_stands_in_the_process_status() {
        let status = |mask: &str| format!("Name:\tbench\nSigBlk:\tffff\nSigIgn:\t{mask}\nSigCgt:\tffff\n");
        assert!(ignores(&status("0000000000000001"), Signal::SIGHUP));
        assert!(!ignores(&status("0000000000001000"), Signal::SIGHUP));
        assert!(ignores(&status("0000000000001000"), Signal::SIGPIPE));
        assert!(!ignores("Name:\tbench\n", Signal::SIGHUP));
    }

    #[test]
    fn a_program_that_is_spared_has_a_group_of_its_own_and_ends_with_the_second_interrupt() {
        let mut child = spared(Command::new("sleep").arg("600")).unwrap();
        let process = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
        assert_eq!(nix::unistd::getpgid(Some(process)), Ok(process));
        end_children();
        assert!(!child.wait().unwrap().success());
        ended(&child);
        assert!(CHILDREN.lock().unwrap().is_empty());
    }
}

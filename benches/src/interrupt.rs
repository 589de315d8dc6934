//! Ctrl-C keeps what was measured: the first one asks the suite to come to an end, the second one ends the program at once. So does a single
//! SIGTERM. Either way programs that were started end with this one.
//!
//! The harness listens from its beginning. A suite looks at [`asked`] between its cases (and inside long ones), and gives the figures that it has. Programs that
//! it started are out of a terminal's reach ([`spared`]): a server that ended at Ctrl-C would end the measurement with an error.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use crate::progress::say;

static ASKED: AtomicBool = AtomicBool::new(false);
static LISTENS: OnceLock<()> = OnceLock::new();
/// Programs that are to end with this one.
static CHILDREN: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// What a shell gives for a program that Ctrl-C ended: 128 and the signal's number.
pub(crate) const EXIT_CODE: u8 = 130;
/// The same for one that was told to end.
const EXIT_CODE_TERMINATED: u8 = 143;

/// From now on Ctrl-C asks, and SIGTERM ends what was started, too. Before, both end the program as usual.
///
/// # Errors
/// When no signal can be waited for.
pub(crate) fn listen() -> anyhow::Result<()> {
    if LISTENS.set(()).is_err() {
        return Ok(());
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_io().build().context("cannot wait for signals")?;
    // Made here, so that a Ctrl-C after this call is not lost.
    let (mut interrupts, mut terminates) = {
        let _inside = runtime.enter();
        let interrupts = signal(SignalKind::interrupt()).context("cannot wait for Ctrl-C")?;
        (interrupts, signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?)
    };
    let wait = move || {
        runtime.block_on(async {
            loop {
                let code = tokio::select! {
                    Some(()) = interrupts.recv() => EXIT_CODE,
                    Some(()) = terminates.recv() => EXIT_CODE_TERMINATED,
                    else => return,
                };
                if code == EXIT_CODE && !ASKED.swap(true, Ordering::Relaxed) {
                    say("stopping: what was measured so far is kept; Ctrl-C again ends at once");
                    continue;
                }
                end_children();
                std::process::exit(code.into());
            }
        });
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait).context("cannot start a thread")?;
    Ok(())
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

/// A program has ended: its number may be that of another one from now on.
pub(crate) fn ended(child: &Child) {
    CHILDREN.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&child.id());
}

fn end_children() {
    for child in CHILDREN.lock().unwrap_or_else(std::sync::PoisonError::into_inner).iter() {
        if let Ok(process) = i32::try_from(*child) {
            let process = nix::unistd::Pid::from_raw(process);
            let _ = nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGKILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::processes;

    #[test]
    fn the_first_interrupt_asks_and_does_not_end_the_program() {
        listen().unwrap();
        assert!(!asked());
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGINT).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while !asked() {
            assert!(Instant::now() < deadline, "the signal was never seen");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Set for this program itself, run again: it starts a program, says which, and waits to be ended.
    const TO_BE_ENDED: &str = "PLENUM_BENCH_TO_BE_ENDED";

    #[test]
    fn a_program_that_is_spared_ends_when_this_one_is_told_to_end() {
        if let Some(file) = std::env::var_os(TO_BE_ENDED) {
            listen().unwrap();
            let mut child = spared(Command::new("sleep").arg("60")).unwrap();
            std::fs::write(&file, child.id().to_string()).unwrap();
            child.wait().unwrap();
            // Whoever ended it ends this program, too.
            std::thread::sleep(Duration::from_secs(60));
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("process");
        let mut again = Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", "interrupt::tests::a_program_that_is_spared_ends_when_this_one_is_told_to_end"]);
        let mut again = again.env(TO_BE_ENDED, &file).stdout(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        let wait = |what: &str| {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(5));
        };
        let process: u32 = loop {
            match std::fs::read_to_string(&file).unwrap_or_default().parse() {
                Ok(process) => break process,
                Err(_) => wait("it never said which program it started"),
            }
        };
        let harness = nix::unistd::Pid::from_raw(again.id().try_into().unwrap());
        nix::sys::signal::kill(harness, nix::sys::signal::Signal::SIGTERM).unwrap();
        assert_eq!(again.wait().unwrap().code(), Some(EXIT_CODE_TERMINATED.into()));
        while processes::runs(process) {
            wait("what it started still runs");
        }
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

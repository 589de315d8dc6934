//! Finding out which isolation works here, by trying it in children. It knows nothing of tasks.

use std::{
    io::{self, Write},
    process::ExitCode,
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::wait::{WaitStatus, waitpid},
    unistd::{ForkResult, Pid, fork},
};

use super::command::exit_now;
use crate::isolation::{Isolation, Probed};

/// How often the ladder is walked while something that may pass is in the way: a moment without memory ends in between.
const WALKS_MAX: u32 = 3;
const PAUSE: Duration = Duration::from_millis(20);

pub(super) fn main() -> ExitCode {
    let probed = probe_by(works, || thread::sleep(PAUSE));
    let text = serde_json::to_string(&probed).expect("booleans and a text are always JSON");
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// The most that works, and what may pass of what kept more from it.
fn probe_by(mut works: impl FnMut(Isolation) -> Result<(), Errno>, mut pause: impl FnMut()) -> Probed {
    let mut probed = Probed::default();
    for walk in 1..=WALKS_MAX {
        probed = Probed::default();
        for isolation in Isolation::ladder() {
            match works(isolation) {
                Ok(()) => {
                    probed.isolation = isolation;
                    break;
                }
                Err(errno) if may_pass(errno) => {
                    probed.hindrance.get_or_insert_with(|| errno.desc().to_owned());
                }
                Err(_) => {}
            }
        }
        if probed.hindrance.is_none() {
            break;
        }
        if walk < WALKS_MAX {
            pause();
        }
    }
    probed
}

/// Refusals that are of a moment, and not of what this kernel is or this user may. ENOSPC can be either: there are as many namespaces as there
/// may be, which may be none.
fn may_pass(errno: Errno) -> bool {
    use Errno::{EAGAIN, EINTR, EIO, EMFILE, ENFILE, ENOMEM, ENOSPC};
    matches!(errno, EAGAIN | EINTR | EIO | EMFILE | ENFILE | ENOMEM | ENOSPC)
}

/// Tries it in a child, because entering a namespace can't be undone.
fn works(isolation: Isolation) -> Result<(), Errno> {
    in_child(|| {
        isolation.unshare_for_child().map_err(|refused| refused.errno)?;
        in_child(|| isolation.unshare_self(true).map_err(|refused| refused.errno))
    })
}

/// What comes of it in a child, which tells by its exit code.
fn in_child(attempt: impl FnOnce() -> Result<(), Errno>) -> Result<(), Errno> {
    // SAFETY: a shim has one thread, so that the child may do whatever its parent might.
    #[allow(unsafe_code)]
    match unsafe { fork() }? {
        ForkResult::Child => exit_now(attempt().err().map_or(0, |errno| errno as i32)),
        ForkResult::Parent { child } => ended(child),
    }
}

fn ended(child: Pid) -> Result<(), Errno> {
    match waitpid(child, None)? {
        WaitStatus::Exited(_, 0) => Ok(()),
        WaitStatus::Exited(_, errno) => Err(Errno::from_raw(errno)),
        // Killed, as it is where there is too little memory.
        _ => Err(Errno::EINTR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a probe finds, with these refusals by walk and rung, and how often it paused.
    fn probed(refusals: impl Fn(usize, usize) -> Option<Errno>) -> (Probed, usize) {
        let (walk, mut rung) = (std::cell::Cell::new(0), 0);
        let works = |isolation| {
            rung = if isolation == Isolation::ladder()[0] { 0 } else { rung + 1 };
            refusals(walk.get(), rung).map_or(Ok(()), Err)
        };
        let probed = probe_by(works, || walk.set(walk.get() + 1));
        (probed, walk.get())
    }

    // One moment without memory for one more namespace, and all tasks were without any until the agent was started again.
    #[test]
    fn what_passes_costs_nothing_and_what_lasts_is_told() {
        let ladder = Isolation::ladder();
        let found = |isolation, hindrance: Option<Errno>| Probed {
            isolation,
            hindrance: hindrance.map(|errno| errno.desc().to_owned()),
        };
        let once = |walk, rung| (walk == 0 && rung < 3).then_some(Errno::ENOMEM);
        assert_eq!(probed(once), (found(ladder[0], None), 1));
        let always = |_, rung| (rung < 4).then_some(Errno::ENOSPC);
        assert_eq!(probed(always), (found(Isolation::default(), Some(Errno::ENOSPC)), 2));
        let no_child = |_, _| Some(Errno::EAGAIN);
        assert_eq!(probed(no_child), (found(Isolation::default(), Some(Errno::EAGAIN)), 2));
    }

    #[test]
    fn what_the_kernel_never_gives_is_asked_for_once() {
        let never = |_, rung| (rung < 2).then_some(Errno::EPERM);
        assert_eq!(probed(never), (Probed { isolation: Isolation::ladder()[2], hindrance: None }, 0));
        let either = |_, rung| [Some(Errno::EPERM), Some(Errno::EMFILE)].get(rung).copied().flatten();
        let (either, pauses) = probed(either);
        assert_eq!((either.isolation, pauses), (Isolation::ladder()[2], 2));
        assert!(either.hindrance.is_some());
    }
}

//! The signals that end what somebody keeps running: `plenum dev`, a backup, a listing that is watched, and what is waited for.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::{EXIT_INTERRUPTED, EXIT_TERMINATED, Failure};

/// Interrupt, quit, terminate and hang-up, from now on handled here.
pub(crate) struct Signals {
    interrupt: Signal,
    /// What a terminal sends at Ctrl-\. Who wants a picture of the process instead has SIGABRT.
    quit: Signal,
    terminate: Signal,
    /// None where whoever started this has it ignored, as `nohup` does.
    hang_up: Option<Signal>,
}

impl Signals {
    pub(crate) fn listen() -> Result<Self, Failure> {
        // Before anybody listens: listening is the end of ignoring.
        let hang_up_ignored = is_ignored(SignalKind::hangup());
        let listen = |kind| signal(kind).map_err(|error| Failure::io("cannot listen for signals", &error));
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            quit: listen(SignalKind::quit())?,
            terminate: listen(SignalKind::terminate())?,
            hang_up: if hang_up_ignored { None } else { Some(listen(SignalKind::hangup())?) },
        })
    }

    /// Waits for the next of them. A hang-up is none behind another signal: when a terminal goes away its shell sends one, and the kernel a second, and nobody has asked
    /// twice.
    pub(crate) async fn next(&mut self) {
        let hang_up = async {
            match &mut self.hang_up {
                Some(hang_up) => hang_up.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.quit.recv() => {}
            _ = self.terminate.recv() => {}
            _ = hang_up => {}
        }
        // Its handler stays, so that what comes still ends nothing.
        self.hang_up = None;
    }
}

/// Interrupt and terminate, from now on handled here as far as they were not ignored, as the shell of a script has its background ignore the former.
pub(crate) struct Leave {
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
}

impl Leave {
    pub(crate) fn listen() -> Result<Self, Failure> {
        let listen = |kind| match is_ignored(kind) {
            true => Ok(None),
            false => signal(kind).map(Some).map_err(|error| Failure::io("cannot listen for signals", &error)),
        };
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// Waits for the next of them, and gives what shells show of a process that it ended.
    pub(crate) async fn next(&mut self) -> u8 {
        tokio::select! {
            () = heard(&mut self.interrupt) => EXIT_INTERRUPTED,
            () = heard(&mut self.terminate) => EXIT_TERMINATED,
        }
    }
}

/// Listens for Ctrl-C, which from then on has no other effect. Nothing where this process was started with it ignored, which it stays, or where
/// nobody can listen.
pub(crate) fn interrupt() -> Option<Signal> {
    if is_ignored(SignalKind::interrupt()) { None } else { signal(SignalKind::interrupt()).ok() }
}

/// Waits for Ctrl-C; for ever where that is not listened for.
pub(crate) async fn interrupted() {
    heard(&mut interrupt()).await;
}

async fn heard(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Whether this process was started with the signal ignored. Where that can't be read, it was not: most are not.
fn is_ignored(kind: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.is_some_and(|mask| has_signal(mask.trim(), kind.as_raw_value()))
}

/// Whether the number of a signal, counted from 1, is in a set of them in hexadecimal digits.
fn has_signal(mask: &str, number: i32) -> bool {
    let bit = number.checked_sub(1).and_then(|bit| 1_u64.checked_shl(bit.try_into().ok()?));
    u64::from_str_radix(mask, 16).is_ok_and(|mask| bit.is_some_and(|bit| mask & bit != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_counted_from_one_in_a_set_of_them() {
        assert!(has_signal("0000000000001001", 1) && has_signal("0000000000001001", 13));
        assert!(!has_signal("0000000000001000", 1) && !has_signal("", 1) && !has_signal("1", 0));
    }
}

//! Whose turn it is when more threads want to run than there are cores.
//!
//! Everything waits for the thread that decides, and for the one that syncs; nothing waits for the history. What is said here is about the
//! calling thread alone, and those that it starts: on Linux each thread has a nice value of its own (`nice(2)`, under "C library/kernel
//! differences"). It counts from that of the server, which may have been started with another one.

/// How much less of the processor the feeding thread gets when others want it, too: they have ten times its weight.
const BEHIND: i32 = 10;
/// Threads for which everything waits have ten times the weight of those who wait.
const AHEAD: i32 = -10;

/// Takes a thread, and those that it starts, back behind all others.
pub(crate) fn step_back() {
    if let Err(error) = rustix::process::nice(BEHIND) {
        tracing::debug!(%error, "the history's threads are as important as all others");
    }
}

/// Puts the calling thread before all others, where the process may: as root, with `CAP_SYS_NICE`, or with a limit of nice values (`LimitNICE=` of a
/// unit). Else it is one of many. So do peers that are measured beside a cell, or others' work on a busy machine would slow them alone.
pub fn step_forward() {
    if let Err(error) = rustix::process::nice(AHEAD) {
        tracing::debug!(%error, "a thread for which everything waits is as important as all others");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nice() -> i32 {
        rustix::process::getpriority_process(None).unwrap()
    }

    #[test]
    fn a_thread_steps_back_and_no_other_with_it() {
        let before = nice();
        let behind = std::thread::spawn(|| {
            step_back();
            nice()
        });
        assert_eq!((behind.join().unwrap(), nice()), ((before + BEHIND).min(19), before));
    }

    #[test]
    fn who_may_not_step_forward_goes_on_as_before() {
        let before = nice();
        let stepped = std::thread::spawn(|| {
            step_forward();
            nice()
        });
        let stepped = stepped.join().unwrap();
        assert!([(before + AHEAD).max(-20), before].contains(&stepped), "nice {stepped}");
        assert_eq!(nice(), before);
    }
}

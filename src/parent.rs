//! Ends this process when the one that started it is gone, however that one ended.

use nix::{
    sys::{prctl::set_pdeathsig, signal::Signal},
    unistd::getppid,
};

use crate::failure::Failure;

/// From now on the death of `parent`, which started this process, arrives here as a request to end. To be called first,
/// on the main thread.
///
/// # Errors
///
/// `PART_FAILED` when the parent is gone already: the kernel tells of deaths only from here on.
pub(crate) fn follow(parent: Option<i32>) -> Result<(), Failure> {
    let Some(parent) = parent else { return Ok(()) };
    let failed = |what: &str| Failure::new("PART_FAILED", what);
    set_pdeathsig(Signal::SIGTERM).map_err(|error| failed(&format!("cannot follow the parent process: {error}")))?;
    if getppid().as_raw() == parent { Ok(()) } else { Err(failed("the process that started this one is gone")) }
}

//! How many files this process may have open: as many as it may by itself, because each task costs the agent one or two.

use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What it was before it was raised; `None` where there was no limit.
static BEFORE: OnceLock<Option<u64>> = OnceLock::new();

/// Raises this process's own limit to what the system allows it. Tasks get the one from before: programs that still use `select`
/// break beyond 1,024.
pub(crate) fn raise() {
    BEFORE.get_or_init(|| {
        let limit = getrlimit(Resource::Nofile);
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        // Lowering nothing and within what is allowed, it fails nowhere; if it does, there is the old one.
        let _ = setrlimit(Resource::Nofile, raised);
        limit.current
    });
}

/// The limit for tasks: what it was before [`raise`]; `None`: as it is.
pub(crate) fn for_tasks() -> Option<u64> {
    BEFORE.get().copied().flatten()
}

/// Lowers the calling process's limit, and not what it may raise it to.
pub(crate) fn lower_to(current: u64) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum });
}

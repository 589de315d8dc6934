//! What is fed.

mod disk;
mod fold;
mod stream;
mod text;
mod wire;

/// Something that reads bytes from outside.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and that of its folder in the corpus.
    pub name: &'static str,
    /// What it reads, for people.
    pub about: &'static str,
    /// Reads an input, and says whether it was one. Panics where what was decoded is not what comes back after encoding it.
    pub run: fn(&[u8]) -> bool,
    /// Inputs that it is fed in the gate: about half a second's worth without optimisation.
    pub briefly: u64,
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target {
        name: "delta",
        about: "deltas, decoded by hand and folded into a cell with some of everything",
        run: wire::delta,
        briefly: 2000,
    },
    Target { name: "command", about: "requests, as the log keeps them", run: wire::command, briefly: 4000 },
    Target { name: "decision", about: "decisions and outcomes", run: wire::decision, briefly: 4000 },
    Target { name: "pages", about: "page images of a whole cell", run: wire::pages, briefly: 1500 },
    Target { name: "transaction", about: "transactions of schedulers", run: wire::transaction, briefly: 4000 },
    Target { name: "job", about: "submitted jobs", run: wire::job, briefly: 4000 },
    Target { name: "agent", about: "registrations and reports of agents", run: wire::agent, briefly: 4000 },
    Target {
        name: "arriving",
        about: "bodies of requests in pieces, whose messages the server counts",
        run: stream::arriving,
        briefly: 4000,
    },
    Target {
        name: "session_request",
        about: "messages of a session, as the server takes them",
        run: stream::session_request,
        briefly: 4000,
    },
    Target {
        name: "session_responses",
        about: "what a scheduler is told, by its runtime",
        run: stream::session_responses,
        briefly: 400,
    },
    Target {
        name: "assignments",
        about: "what an agent is told, by its state machine",
        run: stream::assignments,
        briefly: 1500,
    },
    Target {
        name: "registrations",
        about: "what an agent is answered when it registers, by its state machine",
        run: stream::registrations,
        briefly: 4000,
    },
    Target {
        name: "batch",
        about: "batches of the log, read twice: by hand and by generated code",
        run: wire::batch,
        briefly: 1500,
    },
    Target {
        name: "large",
        about: "messages that are counted before they are decoded",
        run: wire::large,
        briefly: 400,
    },
    Target { name: "log", about: "files of a log: identity, mark, segments", run: disk::log, briefly: 400 },
    Target {
        name: "sealed_log",
        about: "the same, with checksums that are right",
        run: disk::sealed_log,
        briefly: 400,
    },
    Target { name: "archive", about: "segments that are kept, and places in them", run: disk::archive, briefly: 400 },
    Target { name: "frames", about: "frames of a log whose checksums are right", run: disk::frames, briefly: 400 },
    Target { name: "history", about: "rows of the history, unsealed", run: disk::history, briefly: 4000 },
    Target { name: "records", about: "files of an agent's directory", run: disk::records, briefly: 4000 },
    Target { name: "backup", about: "backup files", run: disk::backup, briefly: 400 },
    Target {
        name: "sealed_backup",
        about: "backup files whose seals are right",
        run: disk::sealed_backup,
        briefly: 400,
    },
    Target {
        name: "job_file",
        about: "job files in TOML and JSON, with constraints and units",
        run: text::job_file,
        briefly: 1500,
    },
    Target { name: "moment", about: "revisions and times of --at", run: text::moment, briefly: 4000 },
    Target { name: "filter", about: "filters of listings", run: text::filter, briefly: 4000 },
    Target {
        name: "configuration",
        about: "configuration files of servers and agents",
        run: text::configuration,
        briefly: 4000,
    },
    Target {
        name: "preferences",
        about: "what a user wrote down for all commands",
        run: text::preferences,
        briefly: 4000,
    },
    Target { name: "ids", about: "ids and names, as people type them", run: text::ids, briefly: 4000 },
];

/// The target of that name.
#[must_use]
pub fn named(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// Whether the target `delta` folds this one, and compares what comes of it with its pages.
#[must_use]
pub fn folds(delta: &[u8]) -> bool {
    wire::is_compared(delta)
}

/// The messages of an input that is a row of them, each behind its length: up to the first that is not whole.
#[must_use]
pub fn row_of_messages(input: &[u8]) -> Vec<bytes::Bytes> {
    stream::messages(input)
}

/// The files of the log that the target `log` damages.
#[must_use]
pub fn log_files() -> &'static [(String, Vec<u8>)] {
    disk::files()
}

//! Feeds every decoder of what comes from outside with valid inputs that were changed a little.
//!
//! A target is a function of bytes that must neither panic nor take memory out of proportion, and that compares what it decoded with
//! what encoding and decoding it again gives. Its corpus lies in `fuzz/corpus/TARGET`: small inputs, most of them made by
//! `cargo run -p plenum-fuzz -- seed` from valid values, and every input that ever found something.
//!
//! | module | what it is |
//! |---|---|
//! | [`targets`] | what is fed |
//! | [`mutate`] | how inputs are changed, from a seed |
//! | [`runner`] | the loop, and what it calls a find |
//! | [`coverage`] | which code inputs reach, where the build counts that |
//! | [`weigh`] | how much memory a thread holds |
//! | [`seeds`] | valid inputs |
//! | [`shown`] | which fields of messages inputs have |
//!
//! No instrumented build is needed: it runs on stable, in the gate for a moment and by `cargo xtask fuzz` for as long as one likes.
//! Without one it does not know which change led somewhere new, and relies on the corpus for that. `cargo xtask fuzz --coverage` makes one, on
//! stable too: what leads somewhere new is then changed further.

pub mod coverage;
pub mod mutate;
pub mod runner;
pub mod seeds;
pub mod shown;
pub mod targets;
pub mod weigh;

// The binary has no library; its parsers are read where they stand.
#[allow(dead_code, unused_imports, clippy::unwrap_used, reason = "only a part of it is fed")]
#[path = "../../src/job_file/mod.rs"]
mod job_file;

#[allow(dead_code, reason = "only a part of it is fed")]
#[path = "../../src/address.rs"]
mod address;

#[allow(dead_code, reason = "only a part of it is fed")]
#[path = "../../src/cli/at.rs"]
mod at;

#[allow(dead_code, reason = "only a part of it is fed")]
#[path = "../../src/parts/config.rs"]
mod config;

#[allow(dead_code, reason = "only a part of it is fed")]
#[path = "../../src/preferences.rs"]
mod preferences;

/// What the parsers of the command line know of its failures.
mod failure {
    use std::fmt;

    /// Stands for the binary's own.
    #[derive(Debug)]
    #[allow(dead_code, reason = "the parsers' own tests look at it, where they run")]
    pub(crate) struct Failure {
        pub(crate) code: &'static str,
        pub(crate) message: String,
    }

    impl Failure {
        pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
            Self { code, message: message.into() }
        }

        pub(crate) fn io(what: impl Into<String>, error: &std::io::Error) -> Self {
            Self::new("IO", format!("{}: {error}", what.into()))
        }

        pub(crate) fn usage(what: impl Into<String>) -> Self {
            Self::new("USAGE", what)
        }

        pub(crate) fn found_in(self, place: impl fmt::Display) -> Self {
            Self { message: format!("{place}: {}", self.message), ..self }
        }

        pub(crate) fn found_in_file(self, place: impl fmt::Display) -> Self {
            self.found_in(place)
        }

        pub(crate) fn with_hint(self, hint: impl Into<String>) -> Self {
            let message = format!("{}; {}", self.message, hint.into());
            Self { message, ..self }
        }
    }

    impl From<crate::job_file::JobFileError> for Failure {
        fn from(error: crate::job_file::JobFileError) -> Self {
            Self::new(error.code, error.message)
        }
    }

    impl fmt::Display for Failure {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(&self.message)
        }
    }
}

//! A whole cell in one thread, from a seed: server, schedulers and agents are the production state machines; clock, network
//! and disk are simulated, and fail; checkers see everything that was written, published, answered and started.
//!
//! ```text
//! seed ─▶ mix of faults ─▶ events by time ─▶ server · schedulers · agents · owner of jobs
//!                                                 │ batches, answers, outcomes, receipts, starts
//!                                                 ▼
//!                                    books: a fold and a core of their own, `invariant_…`
//! ```
//!
//! [`run`] plays one seed; the same seed gives the same run, so that a failure is told by playing it again.

mod agenda;
mod agent;
mod books;
mod bounds;
mod checkpoint;
mod describe;
mod faults;
mod governed;
mod judge;
mod mad;
mod outfit;
mod owner;
mod random;
mod report;
mod rival;
mod rot;
mod scheduler;
mod seen;
mod server;
mod simulation;
pub mod stories;
mod story;
mod text;
mod world;

pub use books::Violation;
pub use report::Tally;
pub use simulation::{Failure, run, story};
#[cfg(feature = "planted-bugs")]
pub use simulation::{finds, run_with};

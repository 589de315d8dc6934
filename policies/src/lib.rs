//! Pure placement: which machines suit k equal tasks best, and why none does.
//!
//! Exact by default: every machine is looked at, in packed columns, and an exact judgement has the last word, made with the code that the committer
//! uses too. Decorrelation and sampling are settings, because many schedulers that all take the same best machine conflict needlessly. Nothing here
//! knows transactions, sessions or the wire.
//!
//! [`Columns`] follow a cell, a [`Request`] says what tasks need, a [`Scoring`] what a machine costs; [`choose()`] gives machines for k tasks, [`choose_asking`] for such
//! that ask for more than room, [`rank`] the best ones for one, and an [`Index`] remembers what was found out between decisions.

mod choose;
mod columns;
mod elastic;
pub mod eviction;
pub mod gpu;
mod index;
mod kernel;
mod policy;
mod request;
mod scoring;
mod settings;
#[cfg(test)]
mod twin;
mod unplaced;

pub use choose::{Ranked, choose, choose_asking, choose_asking_by, choose_by, choose_following, rank};
pub use columns::{Columns, Eligible};
pub use elastic::{ElasticJob, ElasticPolicy, Idle};
pub use index::Index;
pub use policy::Policy;
pub use request::{Request, Suits};
pub use scoring::{
    Amounts, BestFit, Candidate, Consolidation, DotProduct, FirstFit, Following, MEMORY_MIB_PER_CPU_MILLI, Scoring,
    Spread, Tetris, WorstFit,
};
pub use settings::{PARTS_MAX, Parts, Settings, Ties};
pub use unplaced::{Beyond, Held, Lack, Missing, Nearest, Unplaced, at_most_when_empty, explain};

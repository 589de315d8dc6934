//! Pure placement: which machines suit k equal tasks best, and why none does.
//!
//! Exact by default: every machine is looked at, in packed columns, and the one judgement that the committer uses too has the
//! last word. Decorrelation is a setting, because many schedulers that all take the same best machine conflict needlessly.
//! Nothing here knows transactions, sessions or the wire.

mod choose;
mod columns;
mod rank;
mod scoring;
mod unplaced;

pub use choose::{Policy, Request, Suits, choose};
pub use columns::Columns;
pub use rank::{
    BestFitRank, Candidate as RankCandidate, Decorrelation, FirstFitRank, MEMORY_BYTES_PER_CPU_MILLI, SpreadRank,
};
pub use scoring::{
    Amounts, BestFit, Candidate, Consolidation, DotProduct, FirstFit, Following, MEMORY_MIB_PER_CPU_MILLI, Scoring,
    Spread, Tetris, WorstFit,
};
pub use unplaced::{Lack, Nearest, Unplaced, explain};

//! Worst fit: the emptiest machine, so that load is level and each task has neighbours as few as can be.
//!
//! The opposite of best fit, with the same measure of room. Large tasks find no hole any more long before the cell is full.
//!
//! Source: Johnson, *Fast algorithms for bin packing* (J. Computer and System Sciences, 1974). What it does to a cluster: Verma et al.,
//! *Large-scale cluster management at Google with Borg* (EuroSys 2015), §3.2.

use super::best_fit::{leftover, room};
use super::{Amounts, Candidate, Scoring};

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct WorstFit;

impl Scoring for WorstFit {
    fn name(&self) -> &str {
        "worst-fit"
    }

    #[inline]
    fn cost(&self, candidate: &Candidate, task: &Amounts) -> f32 {
        -leftover(candidate, task)
    }

    fn whole(&self, largest: &Amounts) -> f32 {
        room(largest)
    }
}

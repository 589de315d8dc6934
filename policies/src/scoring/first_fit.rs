//! First fit: the first machine that has room.
//!
//! All machines cost the same, so the request's rule for ties alone decides: the lowest slot, which is the textbook's first fit, or
//! an order of the seed's own, which keeps many schedulers apart at the price of a looser packing.
//!
//! Source: Garey, Graham and Ullman, *Worst-case analysis of memory allocation algorithms* (STOC 1972).

use super::{Amounts, Candidate, Scoring};

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct FirstFit;

impl Scoring for FirstFit {
    fn name(&self) -> &str {
        "first-fit"
    }

    #[inline]
    fn cost(&self, _candidate: &Candidate, _task: &Amounts) -> f32 {
        0.0
    }
}

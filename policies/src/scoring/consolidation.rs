//! Consolidation: as few machines awake as can be, so that the others may sleep.
//!
//! A machine that is empty costs more than any that is not; of those awake the fullest share wins, so that lightly used ones drain by themselves as
//! their tasks end; if one has to be woken, the smallest that does.
//!
//! Source: Chase, Anderson, Thakar, Vahdat and Doyle, *Managing energy and server resources in hosting centers* (SOSP 2001), which concentrates load on
//! the least set of servers; Srikantaiah, Kansal and Zhao, *Energy aware consolidation for cloud computing* (HotPower 2008).

use super::best_fit::{leftover, room};
use super::{Amounts, Candidate, Scoring};

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Consolidation;

impl Scoring for Consolidation {
    fn name(&self) -> &str {
        "consolidation"
    }

    #[inline]
    fn cost(&self, candidate: &Candidate, task: &Amounts) -> f32 {
        let whole = room(&candidate.capacity).max(1.0);
        let share = leftover(candidate, task) / whole;
        let empty = room(&candidate.free) >= whole;
        // Between empty machines the smallest costs least: its size in thousandths of a core, as a part below 1 of a billion.
        let size = 1.0 - 1.0 / (1.0 + whole * 1e-6);
        if empty { 2.0 + size } else { share }
    }

    fn whole(&self, _largest: &Amounts) -> f32 {
        3.0
    }
}

//! The built-in policies by name: all scorings, and the one that draws instead of scoring.

use crate::columns::Columns;
use crate::scoring::{BestFit, Consolidation, DotProduct, FirstFit, Scoring, Spread, Tetris, WorstFit};

/// Which machine is best. The scorings' own pages say more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Policy {
    /// See [`FirstFit`].
    FirstFit,
    /// See [`BestFit`].
    BestFit,
    /// See [`WorstFit`].
    WorstFit,
    /// See [`Spread`].
    Spread,
    /// See [`DotProduct`].
    DotProduct,
    /// See [`Tetris`].
    Tetris,
    /// See [`Consolidation`].
    Consolidation,
    /// For each task any machine that fits, all equally likely: Omega's randomised first fit. See `choose/draw.rs`.
    Random,
}

/// Something that is done with a scoring, whichever it is.
pub(crate) trait WithScoring {
    type Output;

    fn with<S: Scoring>(self, scoring: &S) -> Self::Output;
}

impl Policy {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::FirstFit,
        Self::BestFit,
        Self::WorstFit,
        Self::Spread,
        Self::DotProduct,
        Self::Tetris,
        Self::Consolidation,
        Self::Random,
    ];

    /// What people call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::FirstFit => "first-fit",
            Self::BestFit => "best-fit",
            Self::WorstFit => "worst-fit",
            Self::Spread => "spread",
            Self::DotProduct => "dot-product",
            Self::Tetris => "tetris",
            Self::Consolidation => "consolidation",
            Self::Random => "random",
        }
    }

    /// The one of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.name() == name)
    }

    /// Does something with its scoring; `None` for the one that draws.
    pub(crate) fn with<W: WithScoring>(self, columns: &Columns, work: W) -> Option<W::Output> {
        Some(match self {
            Self::FirstFit => work.with(&FirstFit),
            Self::BestFit => work.with(&BestFit),
            Self::WorstFit => work.with(&WorstFit),
            Self::Spread => work.with(&Spread),
            Self::DotProduct => work.with(&DotProduct::measured_by(columns.largest())),
            Self::Tetris => work.with(&Tetris),
            Self::Consolidation => work.with(&Consolidation),
            Self::Random => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Name;

    impl WithScoring for Name {
        type Output = String;

        fn with<S: Scoring>(self, scoring: &S) -> String {
            scoring.name().to_owned()
        }
    }

    #[test]
    fn each_is_found_by_its_name_and_its_scoring_says_the_same() {
        for policy in Policy::ALL {
            assert_eq!(Policy::named(policy.name()), Some(policy));
            let scoring = policy.with(&Columns::default(), Name);
            assert!(scoring.is_none_or(|name| name == policy.name()), "{policy:?}");
        }
        assert_eq!(Policy::named("best"), None);
    }
}

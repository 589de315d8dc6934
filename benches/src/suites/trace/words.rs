//! What runs of several seeds came to, in words: the value in the middle, and how far they lie apart.

use crate::figure::median;
use crate::replay::summary::Summary;

/// A resource of which a part is used.
pub(super) struct Used {
    /// As tables head their columns.
    pub(super) name: &'static str,
    pub(super) metric: &'static str,
    /// The part, from 0 to 1; `None` where there is nothing of it, or nobody told how much.
    of: fn(&Summary) -> Option<f64>,
}

/// What is told of each run.
pub(super) static USED: [Used; 3] = [
    Used { name: "CPU", metric: "cpu_used_percent", of: |summary| Some(summary.cpu_used) },
    Used { name: "memory", metric: "memory_used_percent", of: |summary| summary.memory_used },
    Used { name: "GPUs", metric: "gpus_used_percent", of: |summary| summary.gpus_used },
];

impl Used {
    /// Percent that were used, of each run; nothing where there is nothing of it.
    pub(super) fn percents<'a>(&self, runs: impl IntoIterator<Item = &'a Summary>) -> Vec<f64> {
        runs.into_iter().filter_map(|summary| (self.of)(summary)).map(|part| part * 100.0).collect()
    }
}

/// What is used of all that there is.
pub(super) fn used<'a>(runs: impl IntoIterator<Item = &'a Summary> + Clone) -> String {
    let one = |used: &Used| {
        let percents = used.percents(runs.clone());
        (!percents.is_empty()).then(|| format!("{} {}", used.name, over_seeds(&percents, percent)))
    };
    USED.iter().filter_map(one).collect::<Vec<_>>().join(", ")
}

/// Seeds as they are asked for.
pub(super) fn seeds(seeds: &[u64]) -> String {
    match seeds {
        [first, .., last] if seeds.windows(2).all(|pair| pair[0].checked_add(1) == Some(pair[1])) => {
            format!("{first}..{last}")
        }
        _ => seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(","),
    }
}

pub(super) fn percent(value: f64) -> String {
    format!("{value:.1}%")
}

/// The median of these, and the range behind it where that can be seen.
pub(super) fn over_seeds(samples: &[f64], words: impl Fn(f64) -> String) -> String {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (Some(first), Some(last)) = (sorted.first(), sorted.last()) else { return String::new() };
    let (least, most, middle) = (words(*first), words(*last), words(median(&sorted)));
    if least == most { middle } else { format!("{middle} ({least} to {most})") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_told_as_they_are_asked_for() {
        assert_eq!((seeds(&[3, 4, 5]), seeds(&[7]), seeds(&[1, 3])), ("3..5".into(), "7".into(), "1,3".into()));
    }

    #[test]
    fn several_seeds_are_told_by_their_median_and_the_range_that_can_be_seen() {
        assert_eq!(over_seeds(&[9.0, 1.0, 4.0], percent), "4.0% (1.0% to 9.0%)");
        assert_eq!(over_seeds(&[9.01, 9.0], percent), "9.0%");
        assert_eq!(over_seeds(&[9.0], percent), "9.0%");
        assert_eq!(over_seeds(&[], percent), "");
    }
}

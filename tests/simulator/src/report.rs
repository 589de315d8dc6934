//! What a run went through: counts that show whether rare paths were taken.

use std::collections::BTreeMap;
use std::fmt;

use plenum_model::{Refusal, RejectionCode};
use plenum_proto::v1;

use crate::faults::Fault;
use crate::seen::Seen;

/// Codes with which a transaction, or what an operator, a gang or the owner of a job asks for, is not executed.
const REJECTIONS: &[RejectionCode] = &[
    RejectionCode::InstantPassed,
    RejectionCode::NoRoomToHold,
    RejectionCode::NotWanted,
    RejectionCode::OtherIncarnation,
    RejectionCode::NumberRetired,
    RejectionCode::NumberReused,
    RejectionCode::FutureBase,
    RejectionCode::InvalidRequest,
    RejectionCode::SchedulerPaused,
    RejectionCode::JobVersion,
    RejectionCode::LimitReached,
    RejectionCode::NotPermitted,
];

/// Counts of one run, or of many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// What happened, and how often.
    seen: BTreeMap<Seen, u64>,
    /// What was not executed, by code.
    pub rejections: BTreeMap<String, u64>,
    /// Refusals by kind and reason, as the protocol calls them.
    pub refusals: BTreeMap<(String, String), u64>,
    /// Paths that are marked as rare, by their sentences.
    pub rare: BTreeMap<String, u64>,
    /// Allocations that ended, by state.
    pub ends: BTreeMap<String, u64>,
    /// Faults that struck, by kind: those that did something, and not what was armed and never came to it.
    pub faults: BTreeMap<String, u64>,
    /// What became of flipped bits.
    pub flips: BTreeMap<String, u64>,
    /// From the end of faults to the end of everything, in simulated microseconds; of many runs, of the one that took longest.
    pub ending_micros_max: u64,
}

impl Tally {
    /// Adds the counts of another run.
    pub fn add(&mut self, other: &Self) {
        other.seen.iter().for_each(|(&seen, &times)| self.saw_times(seen, times));
        self.ending_micros_max = self.ending_micros_max.max(other.ending_micros_max);
        let maps = [
            (&mut self.rejections, &other.rejections),
            (&mut self.rare, &other.rare),
            (&mut self.ends, &other.ends),
            (&mut self.faults, &other.faults),
            (&mut self.flips, &other.flips),
        ];
        for (mine, theirs) in maps {
            for (name, count) in theirs {
                *mine.entry(name.clone()).or_default() += count;
            }
        }
        for (refused, count) in &other.refusals {
            *self.refusals.entry(refused.clone()).or_default() += count;
        }
    }

    /// Names of paths that no run took, of those that a range of seeds should take.
    #[must_use]
    pub fn never_taken(&self) -> Vec<String> {
        let struck = |fault: Fault| self.faults.get(&format!("{fault:?}")).copied().unwrap_or(0);
        let flipped = |verdict: &str| self.flips.get(verdict).copied().unwrap_or(0);
        let ended = |state: &str| self.ends.get(state).copied().unwrap_or(0);
        let listed = [
            ("a flipped bit that was refused", flipped("Refused")),
            ("a flipped bit in a last frame, which was cut", flipped("Cut")),
            ("a flipped bit that did not matter", flipped("Harmless")),
            ("an allocation lost", ended("EndedLost")),
            ("an allocation evicted", ended("Evicted")),
            ("an allocation stopped", ended("Stopped")),
            ("an allocation failed", ended("Failed")),
        ];
        let seen = Seen::MUST.iter().map(|&seen| (seen.sentence(), self.times(seen)));
        let faults = Fault::ALL.iter().map(|&fault| (fault.name(), struck(fault)));
        let paths = seen.chain(listed).chain(faults).map(|(path, count)| (path.to_owned(), count));
        paths
            .chain(self.refused())
            .chain(self.rejected())
            .filter(|(_, count)| *count == 0)
            .map(|(path, _)| path)
            .collect()
    }

    /// Each kind of refusal and each reason that there is.
    fn refused(&self) -> impl Iterator<Item = (String, u64)> {
        let kinds = (1..).map_while(|number| v1::RefusalKind::try_from(number).ok()).map(|kind| kind.as_str_name());
        let reasons = (1..).map_while(|number| v1::RefusalReason::try_from(number).ok());
        let reasons = reasons.map(|reason| reason.as_str_name());
        let count = |name: &str| {
            let of_it = self.refusals.iter().filter(|((kind, reason), _)| kind == name || reason == name);
            of_it.map(|(_, count)| count).sum()
        };
        kinds.chain(reasons).map(move |name| (format!("refused: {name}"), count(name)))
    }

    /// Each code with which something is not executed.
    fn rejected(&self) -> impl Iterator<Item = (String, u64)> {
        let count = |code: &RejectionCode| self.rejections.get(code.as_str()).copied().unwrap_or(0);
        REJECTIONS.iter().map(move |code| (format!("not executed: {code}"), count(code)))
    }

    pub(crate) fn saw(&mut self, seen: Seen) {
        self.saw_times(seen, 1);
    }

    /// None is as if nothing had been said.
    pub(crate) fn saw_times(&mut self, seen: Seen, times: u64) {
        if times > 0 {
            *self.seen.entry(seen).or_default() += times;
        }
    }

    /// How often it was seen so far.
    pub(crate) fn times(&self, seen: Seen) -> u64 {
        self.seen.get(&seen).copied().unwrap_or(0)
    }

    pub(crate) fn count_refusal(&mut self, refusal: &Refusal) {
        let wire = v1::Refusal::from(refusal);
        let name = (wire.kind().as_str_name().to_owned(), wire.reason().as_str_name().to_owned());
        *self.refusals.entry(name).or_default() += 1;
    }

    /// Whether that fault has struck.
    pub(crate) fn has_seen(&self, fault: Fault) -> bool {
        self.faults.contains_key(&format!("{fault:?}"))
    }

    pub(crate) fn count(map: &mut BTreeMap<String, u64>, name: impl fmt::Debug) {
        *map.entry(format!("{name:?}")).or_default() += 1;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (seen, times) in &self.seen {
            writeln!(f, "{}: {times}", seen.sentence())?;
        }
        for (what, map) in [
            ("faults that struck", &self.faults),
            ("flipped bits", &self.flips),
            ("ends", &self.ends),
            ("not executed", &self.rejections),
            ("rare", &self.rare),
        ] {
            let items = map.iter().map(|(name, count)| format!("{name} {count}"));
            writeln!(f, "{what}: {}", items.collect::<Vec<_>>().join(", "))?;
        }
        let refusals = self.refusals.iter().map(|((kind, reason), count)| format!("{kind} {reason} {count}"));
        writeln!(f, "refusals: {}", refusals.collect::<Vec<_>>().join(", "))?;
        write!(f, "all was over at most {} ms after faults had ended", self.ending_micros_max / 1000)
    }
}

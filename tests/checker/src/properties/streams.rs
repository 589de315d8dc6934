//! Streams: nothing is left out, nothing goes back, everybody hears the same, and a snapshot is what folding gives.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::chronicle::Chronicle;
use crate::stream::{Event, Recording};
use crate::violation::Violation;

/// Each stream delivers r, r + 1, r + 2 … or a snapshot at s and then s + 1; whatever restarts, no stream goes back below what it
/// showed; and two watchers hear the same bytes for the same revision.
#[must_use]
pub fn property_revisions_have_no_gaps(recordings: &[Recording]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut told: BTreeMap<(u64, u64), (&str, &Bytes)> = BTreeMap::new();
    for recording in recordings {
        let mut walk = Walk::default();
        let mut gap = |what: String| violations.push(Violation::Gap { watcher: recording.name.clone(), what });
        for event in &recording.events {
            if let Some(what) = walk.step(event) {
                gap(what);
            }
            let Event::Delta { bytes, delta } = event else { continue };
            let (first, before) = told.entry((walk.incarnation, delta.revision)).or_insert((&recording.name, bytes));
            if *before != bytes {
                gap(format!("revision {} is told otherwise than to {first}", delta.revision));
            }
        }
    }
    violations
}

#[derive(Default)]
struct Walk {
    incarnation: u64,
    /// The last revision that the watcher has in full.
    position: Option<u64>,
    /// A snapshot was announced.
    awaits: bool,
    /// The highest revision that was shown in this incarnation.
    seen: u64,
}

impl Walk {
    fn step(&mut self, event: &Event) -> Option<String> {
        match event {
            Event::Welcome(welcome) => {
                if welcome.incarnation < self.incarnation {
                    return Some(format!("incarnation {} comes after {}", welcome.incarnation, self.incarnation));
                }
                if welcome.incarnation > self.incarnation {
                    *self = Self { incarnation: welcome.incarnation, ..Self::default() };
                }
                self.awaits = welcome.snapshot;
                if welcome.revision < self.seen && welcome.snapshot {
                    return Some(format!(
                        "it begins anew at revision {} after {} was shown",
                        welcome.revision, self.seen
                    ));
                }
                let before = self.position;
                let goes_on = welcome.snapshot || before.is_none_or(|position| position == welcome.revision);
                if !welcome.snapshot {
                    self.position = Some(welcome.revision);
                }
                (!goes_on).then(|| format!("it goes on after {}, and {before:?} was its last", welcome.revision))
            }
            Event::Snapshot(picture) => {
                let announced = std::mem::take(&mut self.awaits);
                let seen = self.show(picture.revision);
                self.position = Some(picture.revision);
                if !announced {
                    return Some(format!("a snapshot at {} comes without a welcome", picture.revision));
                }
                (picture.revision < seen)
                    .then(|| format!("a snapshot at {} comes after {seen} was shown", picture.revision))
            }
            Event::Delta { delta, .. } => {
                let expected = self.position.map(|position| position + 1);
                self.position = Some(delta.revision);
                self.show(delta.revision);
                let gap = self.awaits || expected != Some(delta.revision);
                gap.then(|| format!("revision {} comes, and {expected:?} was expected", delta.revision))
            }
            Event::Outcome(outcome) => {
                let ahead = self.position.is_none_or(|position| outcome.revision > position);
                ahead.then(|| format!("an outcome at {} comes before its delta", outcome.revision))
            }
            Event::Heartbeat(heartbeat) => {
                let behind = self.position.is_some_and(|position| heartbeat.revision < position);
                self.show(heartbeat.revision);
                behind.then(|| format!("the cell is said to be at {}, behind what was told", heartbeat.revision))
            }
        }
    }

    /// Notes a revision as shown, and gives the highest one before.
    fn show(&mut self, revision: u64) -> u64 {
        let before = self.seen;
        self.seen = before.max(revision);
        before
    }
}

/// A snapshot equals the fold of all deltas up to its revision, whichever server gave it: one that has run all the time, and one that
/// recovered from its disk a moment ago.
#[must_use]
pub fn property_snapshots_equal_the_fold(chronicle: &Chronicle, recordings: &[Recording]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for recording in recordings {
        let mut incarnation = 0;
        for event in &recording.events {
            if let Event::Welcome(welcome) = event {
                incarnation = welcome.incarnation;
            }
            let Event::Snapshot(picture) = event else { continue };
            let folded = chronicle.picture_at(picture.revision).filter(|_| incarnation == chronicle.incarnation);
            if let Some(difference) = folded.and_then(|folded| picture.first_difference(&folded)) {
                violations.push(Violation::OtherPicture {
                    source_name: recording.name.clone(),
                    revision: picture.revision,
                    difference,
                });
            }
        }
    }
    violations
}

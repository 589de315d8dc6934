//! The promises of the store, one function each: evidence in, violations out. Numbers in the table are those of the list of
//! properties that the project keeps; all but the last eleven stand there.
//!
//! | | function |
//! |---|---|
//! | 1 | [`property_no_room_is_overcommitted`] |
//! | 2 | [`property_culprits_are_true`] |
//! | 3 | [`property_minimums_hold`] |
//! | 4 | [`property_revisions_have_no_gaps`] |
//! | 5 | [`property_acknowledged_is_durable`], [`property_acknowledged_is_listed`], [`property_the_history_reaches_what_was_told`] |
//! | 6 | [`property_a_number_takes_effect_once`] |
//! | 7 | [`property_used_is_the_sum`] |
//! | 8 | [`property_snapshots_equal_the_fold`] |
//! | 9 | [`property_quotas_and_priorities_hold`] |
//! | 15 | [`property_a_full_disk_only_refuses`] |
//! | 16 | [`property_damage_is_named`] |
//! | 18 | [`property_slow_watchers_cost_nobody`] |
//! | | [`property_declared_rules_hold`] |
//! | | [`property_a_task_has_one_allocation`] |
//! | | [`property_replies_equal_the_fold`] |
//! | | [`property_real_time_order_holds`] |
//! | | [`property_what_runs_has_room`] |
//! | | [`property_each_instant_is_launched_once`] |
//! | | [`property_holds_keep_their_order`] |
//! | | [`property_whoever_leaves_has_a_reason`] |
//! | | [`property_guards_and_sequence_hold`] |
//! | | [`property_spares_are_taken_in_order`] |
//! | | [`property_dry_runs_change_nothing`] |

mod asked;
mod blamed;
mod culprits;
mod denied;
mod dry;
mod governed;
mod kinds;
mod leaving;
mod numbers;
mod order;
mod outside;
mod room;
mod rules;
mod streams;

pub use asked::{property_guards_and_sequence_hold, property_spares_are_taken_in_order};
pub use culprits::property_culprits_are_true;
pub use dry::property_dry_runs_change_nothing;
pub use governed::{
    Sighting, property_each_instant_is_launched_once, property_holds_keep_their_order, property_what_runs_has_room,
};
pub use leaving::property_whoever_leaves_has_a_reason;
pub use numbers::{
    count_of_unchecked, property_a_number_takes_effect_once, property_acknowledged_is_durable,
    property_acknowledged_is_listed, property_minimums_hold, property_replies_equal_the_fold,
    property_the_history_reaches_what_was_told,
};
pub use order::property_real_time_order_holds;
pub use outside::{
    Damage, FullDisk, Made, SlowWatchers, property_a_full_disk_only_refuses, property_damage_is_named,
    property_slow_watchers_cost_nobody,
};
pub use room::{Listing, property_no_room_is_overcommitted, property_used_is_the_sum};
pub use rules::{
    property_a_task_has_one_allocation, property_declared_rules_hold, property_quotas_and_priorities_hold,
};
pub use streams::{property_revisions_have_no_gaps, property_snapshots_equal_the_fold};

use plenum_proto::v1;

use crate::calls::Call;
use crate::chronicle::Chronicle;
use crate::stream::Recording;
use crate::violation::Violation;

/// All that is known of a run.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// What watchers were told.
    pub recordings: Vec<Recording>,
    /// What clients asked and were answered.
    pub calls: Vec<Call>,
    /// Transactions as the cell's history has them.
    pub transactions: Vec<v1::TransactionView>,
    /// How much of the history they are all of; `None`: nobody asked for them.
    pub listed: Option<Listed>,
    /// What the cell said of its machines.
    pub listings: Vec<Listing>,
    /// What ran on its machines.
    pub sightings: Vec<Sighting>,
}

/// Revisions of which a cell listed all transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Of which incarnation the cell was then.
    pub incarnation: u64,
    /// The first one: what is older is retired.
    pub from: u64,
    /// The last one.
    pub to: u64,
}

impl Listed {
    /// Whether a transaction of this revision would be listed.
    #[must_use]
    pub fn covers(&self, revision: u64) -> bool {
        (self.from..=self.to).contains(&revision)
    }
}

/// Who tells of what the cell's history has.
const HISTORY: &str = "the history";

/// A transaction that was decided, wherever that is known from.
#[derive(Clone, Copy, Debug)]
pub struct Decided<'a> {
    /// As it was asked.
    pub asked: &'a v1::Transaction,
    /// What became of it.
    pub outcome: &'a v1::Outcome,
    /// Who told: a client, or the cell's history.
    pub told_by: &'a str,
}

impl Evidence {
    /// Everything that was decided and was no dry run: each transaction once for each who told of it.
    pub fn decided(&self) -> impl Iterator<Item = Decided<'_>> {
        let by_clients = self.calls.iter().filter_map(|call| {
            let (asked, outcome) = call.decided()?;
            Some(Decided { asked, outcome, told_by: &call.client })
        });
        let by_history = self.transactions.iter().filter_map(|view| {
            Some(Decided { asked: view.transaction.as_ref()?, outcome: view.outcome.as_ref()?, told_by: HISTORY })
        });
        by_clients.chain(by_history).filter(|decided| !decided.asked.dry_run)
    }

    /// The same, of one incarnation.
    pub fn decided_in(&self, incarnation: u64) -> impl Iterator<Item = Decided<'_>> {
        self.decided().filter(move |one| one.asked.incarnation == incarnation)
    }
}

/// What was checked, and what does not hold.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// All of them.
    pub violations: Vec<Violation>,
    /// Revisions whose deltas were folded.
    pub folded: usize,
    /// Transactions that were looked at.
    pub transactions: usize,
    /// Those of which nobody can say whether they are there: of revisions whose deltas are not known, and that no list was read of.
    pub unchecked: usize,
    /// The last revision that was folded.
    pub newest: u64,
    /// Which property found each violation, in their order; an empty name of what is no history, of which none is asked.
    by: Vec<&'static str>,
}

impl Verdict {
    /// Each violation, with the property that found it: an empty name of what is no history, of which none is asked.
    pub fn found(&self) -> impl Iterator<Item = (&'static str, &Violation)> {
        self.by.iter().copied().zip(&self.violations)
    }

    fn note(&mut self, property: &'static str, violations: Vec<Violation>) {
        self.by.extend(std::iter::repeat_n(property, violations.len()));
        self.violations.extend(violations);
    }
}

/// Asks properties, and notes what each of them finds under its name.
macro_rules! ask {
    ($verdict:ident: $($property:ident($($evidence:expr),*);)*) => {
        $($verdict.note(stringify!($property), $property($($evidence),*));)*
    };
}

/// Checks everything that a run's streams, calls and listings can show.
#[must_use]
pub fn check(evidence: &Evidence) -> Verdict {
    let mut verdict = Verdict::default();
    let chronicles = Chronicle::of(&evidence.recordings);
    let watched = chronicles.as_deref().unwrap_or_default();
    ask! { verdict:
        property_revisions_have_no_gaps(&evidence.recordings);
        property_real_time_order_holds(&evidence.calls, watched);
    }
    let chronicles = match chronicles {
        Ok(chronicles) => chronicles,
        Err(fault) => {
            verdict.note("", vec![Violation::NoHistory { what: fault.to_string() }]);
            return verdict;
        }
    };
    ask! { verdict: property_the_history_reaches_what_was_told(&chronicles, &evidence.calls); }
    let is_watched = |incarnation: u64| chronicles.iter().any(|chronicle| chronicle.incarnation == incarnation);
    verdict.unchecked = evidence.decided().filter(|one| !is_watched(one.asked.incarnation)).count();
    for chronicle in &chronicles {
        let decided: Vec<_> = evidence.decided_in(chronicle.incarnation).collect();
        let unchecked = count_of_unchecked(chronicle, evidence);
        verdict.folded += chronicle.folded();
        verdict.transactions += decided.len() - unchecked;
        verdict.unchecked += unchecked;
        verdict.newest = chronicle.newest();
        ask! { verdict:
            property_no_room_is_overcommitted(chronicle);
            property_culprits_are_true(chronicle, &decided);
            property_minimums_hold(chronicle, &decided);
            property_acknowledged_is_durable(chronicle, &decided);
            property_acknowledged_is_listed(chronicle, evidence);
            property_a_number_takes_effect_once(chronicle, &decided);
            property_used_is_the_sum(chronicle, &evidence.listings);
            property_snapshots_equal_the_fold(chronicle, &evidence.recordings);
            property_quotas_and_priorities_hold(chronicle);
            property_declared_rules_hold(chronicle);
            property_a_task_has_one_allocation(chronicle);
            property_replies_equal_the_fold(chronicle, &decided);
            property_what_runs_has_room(chronicle, &evidence.sightings);
            property_each_instant_is_launched_once(chronicle);
            property_holds_keep_their_order(chronicle);
            property_whoever_leaves_has_a_reason(chronicle, &decided);
            property_guards_and_sequence_hold(chronicle, &decided);
            property_spares_are_taken_in_order(chronicle, &decided);
            property_dry_runs_change_nothing(chronicle, evidence);
        }
    }
    verdict
}

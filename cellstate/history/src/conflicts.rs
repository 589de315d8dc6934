//! Who lost against whom: conflicts, grouped.
use crate::batch::UNKNOWN;
use crate::error::ReadError;
use crate::history::History;
use crate::keys::{self, Shelf};
use crate::records::{ConflictRecord, ConflictsRecord, LossRecord};
use crate::sessions::Lookup;
use crate::staleness::{Fineness, Spread};
use crate::store::decode;
use plenum_proto::v1::SessionOpened;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

/// Most groups that are told apart; claims of further ones are only counted.
const GROUPS_MAX: usize = 10_000;
/// Most transactions that one call looks at, the newest ones.
const TRANSACTIONS_MAX: usize = 200_000;
/// When so many buckets have come together of all groups, some 7 MB, they are made coarser. The coarsest ones of all groups are at most
/// 650,000.
const BUCKETS_MAX: usize = 1 << 18;

/// What conflicts are grouped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupBy {
    /// Loser and winner.
    Pair,
    /// The machine.
    Machine,
    /// The loser's job.
    Job,
    /// The resource that was short.
    Resource,
}

/// What the conflicts of a row have in common; what they were not grouped by is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConflictGroup {
    /// The scheduler that lost.
    pub loser: String,
    /// The scheduler that won; an event in parentheses where it was none.
    pub winner: String,
    /// The machine's slot, which others had before, or have had since.
    pub machine: Option<u32>,
    /// The id of the machine that was there at these conflicts; 0 if it is not known.
    pub machine_id: u64,
    /// The loser's job; 0 if it is not told.
    pub job: u64,
    /// The number of a `ResourceName`.
    pub resource: i32,
}

/// Conflicts of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConflictRow {
    /// What they have in common.
    pub group: ConflictGroup,
    /// Transactions that lost at least one claim.
    pub transactions: u64,
    /// The claims they lost.
    pub claims: u64,
    /// The median of the revisions between the losers' bases and decisions; exact up to 63, else up to 1/32 too small. Where thousands of
    /// groups lost at hundreds of such distances it is more, at most a half.
    pub median_staleness_revisions: u64,
    /// Deciding time of these transactions, in proportion to what they lost.
    pub wasted_micros: i64,
    /// The newest of them: its revision, session and number.
    pub newest_revision: u64,
    /// When it was decided, in microseconds of log time.
    pub newest_micros: i64,
    /// See `newest_revision`.
    pub session: u64,
    /// See `newest_revision`.
    pub number: u64,
}

/// Conflicts, grouped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConflictTable {
    /// Most lost claims first.
    pub rows: Vec<ConflictRow>,
    /// There is more than the rows tell: more groups than were asked for, other claims, or older conflicts.
    pub truncated: bool,
    /// Lost claims of groups beyond the 10,000 that are told apart.
    pub other_claims: u64,
    /// The oldest conflict that was looked at, where there were older ones: 200,000 transactions are, at most.
    pub cut_at_revision: Option<u64>,
}

/// A conflict about one machine, job and resource, as [`Counts`] is asked about it: with all that it can be grouped by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Grouped by everything at once.
    pub group: ConflictGroup,
    /// When it was decided.
    pub revision: u64,
    /// As log time, in microseconds.
    pub time_micros: i64,
}

/// Says which conflicts count; `None`: all.
pub type Counts<'a> = Option<&'a mut dyn FnMut(&Lost) -> bool>;

impl History {
    /// Groups the conflicts that count, since a log time and up to a revision, and gives the `limit` groups that lost most claims.
    ///
    /// # Errors
    ///
    /// [`ReadError::Store`].
    pub fn conflicts(
        &self,
        since_micros: i64,
        up_to: u64,
        by: GroupBy,
        limit: usize,
        counts: Counts<'_>,
    ) -> Result<ConflictTable, ReadError> {
        let (oldest, newest, _) = self.extent();
        let newest = newest.min(up_to);
        let mut table = ConflictTable::default();
        if newest == 0 || oldest > newest {
            return Ok(table);
        }
        let mut sums = Sums {
            by,
            counts,
            groups: Groups::default(),
            losers: BTreeMap::new(),
            machines: BTreeMap::new(),
            count: 0,
            looked_at: None,
        };
        let (gathering, from) = {
            let view = self.view();
            (view.digest.conflicts.clone(), view.gathering.first().map_or(u64::MAX, |batch| batch.first))
        };
        let mut done = self.add_conflicts(&mut sums, &mut table, gathering, oldest..=newest, since_micros)?;
        let first = self.block_start(oldest)?;
        // Those of a block that was closed meanwhile have been counted.
        let stored = keys::conflicts(first)..=keys::conflicts(from.saturating_sub(1).min(newest));
        // Kept to the end, as rows don't keep it: opened again under them, it could delete the tables that they are in.
        let store = self.store()?;
        let mut rows = (first < from).then(|| store.rows(Shelf::Index, stored).rev());
        while let Some(row) = rows.as_mut().filter(|_| !done).and_then(Iterator::next) {
            let row = row?;
            let record: ConflictsRecord = decode(Shelf::Index, &row.key, row.value)?;
            done = self.add_conflicts(&mut sums, &mut table, record.conflicts, oldest..=newest, since_micros)?;
        }
        let groups = sums.groups.sums;
        table.truncated = groups.len() > limit || table.other_claims > 0 || table.cut_at_revision.is_some();
        table.rows = groups.into_iter().map(|(group, sum)| sum.into_row(group)).collect();
        table.rows.sort_by(|one, other| other.claims.cmp(&one.claims).then_with(|| one.group.cmp(&other.group)));
        table.rows.truncate(limit);
        Ok(table)
    }
}

/// What adding up has come to.
struct Sums<'a> {
    by: GroupBy,
    counts: Counts<'a>,
    groups: Groups,
    /// The scheduler of each session that lost.
    losers: BTreeMap<u64, String>,
    /// By slot, the id of the machine that was asked for last, and since when it was there. As the newest conflicts come first it is the one
    /// of all further ones down to that revision.
    machines: BTreeMap<u32, (u64, u64)>,
    count: usize,
    looked_at: Option<u64>,
}

impl History {
    /// Adds conflicts up, the newest first. True when the rest is too old, or too much.
    fn add_conflicts(
        &self,
        sums: &mut Sums<'_>,
        table: &mut ConflictTable,
        conflicts: Vec<ConflictRecord>,
        revisions: RangeInclusive<u64>,
        since_micros: i64,
    ) -> Result<bool, ReadError> {
        for conflict in conflicts.into_iter().rev().filter(|conflict| revisions.contains(&conflict.revision)) {
            if sums.count == TRANSACTIONS_MAX {
                table.cut_at_revision = sums.looked_at;
                return Ok(true);
            }
            if conflict.time_micros < since_micros {
                return Ok(true);
            }
            let session = conflict.session;
            let loser = loser(&mut sums.losers, session, || self.session(session).map(Lookup::found))?;
            sums.count += 1;
            sums.looked_at = Some(conflict.revision);
            let (revision, time_micros) = (conflict.revision, conflict.time_micros);
            let machines = &mut sums.machines;
            let group_of = |loss: &LossRecord| {
                if let Some(counts) = &mut sums.counts {
                    let group = self.group_of(None, machines, loser, (loss, revision))?;
                    if !counts(&Lost { group, revision, time_micros }) {
                        return Ok(None);
                    }
                }
                self.group_of(Some(sums.by), machines, loser, (loss, revision)).map(Some)
            };
            table.other_claims += sums.groups.add(group_of, &conflict)?;
        }
        Ok(false)
    }

    /// What a loss at a revision is added to, where losses are grouped so; `None`: by everything at once.
    fn group_of(
        &self,
        by: Option<GroupBy>,
        machines: &mut BTreeMap<u32, (u64, u64)>,
        loser: &str,
        (loss, revision): (&LossRecord, u64),
    ) -> Result<ConflictGroup, ReadError> {
        let is_by = |one: GroupBy| by.is_none_or(|by| by == one);
        let mut group = ConflictGroup::default();
        if is_by(GroupBy::Pair) {
            (group.loser, group.winner) = (loser.to_owned(), loss.winner.clone());
        }
        if is_by(GroupBy::Machine) {
            group.machine = loss.machine.checked_sub(1).and_then(|slot| u32::try_from(slot).ok());
            let id = group.machine.map(|slot| self.machine_id_then(machines, slot, revision)).transpose()?;
            group.machine_id = id.unwrap_or_default();
        }
        if is_by(GroupBy::Job) {
            group.job = loss.job;
        }
        if is_by(GroupBy::Resource) {
            group.resource = loss.resource;
        }
        Ok(group)
    }

    /// The id of the machine that was in a slot at a revision, which is not above that of any call before; 0 if it is not known.
    fn machine_id_then(
        &self,
        machines: &mut BTreeMap<u32, (u64, u64)>,
        slot: u32,
        revision: u64,
    ) -> Result<u64, ReadError> {
        if let Some((id, _)) = machines.get(&slot).filter(|(_, from)| *from <= revision) {
            return Ok(*id);
        }
        let (from, id) = self.machine_then(slot, revision)?.map_or((0, 0), |(from, row)| (from, row.id));
        // Without bound they would be as many as the cell has machines.
        if machines.len() >= GROUPS_MAX {
            machines.clear();
        }
        machines.insert(slot, (id, from));
        Ok(id)
    }
}

/// The scheduler of a session that lost something: one of `losers`, or else what `look` finds about the session, and then one of them.
pub(crate) fn loser<E>(
    losers: &mut BTreeMap<u64, String>,
    session: u64,
    look: impl FnOnce() -> Result<Option<SessionOpened>, E>,
) -> Result<&str, E> {
    match losers.entry(session) {
        Entry::Occupied(known) => Ok(known.into_mut()),
        Entry::Vacant(unknown) => {
            let opened = look()?;
            Ok(unknown.insert(opened.map_or_else(|| UNKNOWN.to_owned(), |opened| opened.scheduler)))
        }
    }
}

/// Sums of one group.
#[derive(Default)]
struct Sum {
    transactions: u64,
    claims: u64,
    staleness: Spread,
    wasted_micros: i64,
    newest_revision: u64,
    newest_micros: i64,
    session: u64,
    number: u64,
}

impl Sum {
    fn into_row(self, group: ConflictGroup) -> ConflictRow {
        ConflictRow {
            group,
            transactions: self.transactions,
            claims: self.claims,
            median_staleness_revisions: self.staleness.median(),
            wasted_micros: self.wasted_micros,
            newest_revision: self.newest_revision,
            newest_micros: self.newest_micros,
            session: self.session,
            number: self.number,
        }
    }
}

/// What was lost, by group.
struct Groups {
    sums: BTreeMap<ConflictGroup, Sum>,
    /// Buckets of all of them.
    buckets: usize,
    fineness: Fineness,
}

impl Default for Groups {
    fn default() -> Self {
        Self { sums: BTreeMap::new(), buckets: 0, fineness: Fineness::FINEST }
    }
}

impl Groups {
    /// Adds what counts of a transaction to its groups; the newest transaction comes first. Gives the claims that found no group.
    fn add(
        &mut self,
        mut group_of: impl FnMut(&LossRecord) -> Result<Option<ConflictGroup>, ReadError>,
        conflict: &ConflictRecord,
    ) -> Result<u64, ReadError> {
        let mut seen = BTreeSet::new();
        let mut other_claims = 0;
        for loss in &conflict.losses {
            let Some(group) = group_of(loss)? else { continue };
            if self.sums.len() >= GROUPS_MAX && !self.sums.contains_key(&group) {
                other_claims += u64::from(loss.claims);
                continue;
            }
            let is_first = seen.insert(group.clone());
            let sum = self.sums.entry(group).or_default();
            if is_first {
                if sum.transactions == 0 {
                    (sum.newest_revision, sum.newest_micros) = (conflict.revision, conflict.time_micros);
                    (sum.session, sum.number) = (conflict.session, conflict.number);
                }
                sum.transactions += 1;
                let is_new = sum.staleness.add(conflict.staleness_revisions, self.fineness);
                self.buckets += usize::from(is_new);
            }
            sum.claims += u64::from(loss.claims);
            sum.wasted_micros = sum.wasted_micros.saturating_add(wasted_micros(conflict, loss));
        }
        self.bound_buckets();
        Ok(other_claims)
    }

    /// Makes buckets coarser as long as there are too many.
    fn bound_buckets(&mut self) {
        while self.buckets > BUCKETS_MAX
            && let Some(coarser) = self.fineness.coarser()
        {
            self.fineness = coarser;
            self.buckets = self.sums.values_mut().map(|sum| sum.staleness.coarsen(coarser)).sum();
        }
    }
}

fn wasted_micros(conflict: &ConflictRecord, loss: &LossRecord) -> i64 {
    let claims = i128::from(conflict.claims.max(loss.claims).max(1));
    let wasted = i128::from(conflict.deciding_micros) * i128::from(loss.claims) / claims;
    i64::try_from(wasted).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    // Each of up to 10,000 groups had hundreds of buckets of its own: 100 MB for one call, and as many calls at a time as there are turns.
    #[test]
    fn however_many_groups_lost_at_however_many_distances_the_buckets_are_bounded() {
        // 600 values, each with a bucket of its own.
        let distances: Vec<u64> = (0..600).map(|number| (32 + number % 32) << (number / 32)).collect();
        let mut groups = Groups::default();
        for distance in &distances {
            for machines in [1..=256, 257..=512] {
                let loss = |machine| LossRecord { machine, claims: 1, ..LossRecord::default() };
                let losses = machines.map(loss).collect();
                let conflict = ConflictRecord { staleness_revisions: *distance, losses, ..ConflictRecord::default() };
                let group_of = |loss: &LossRecord| {
                    let machine = u32::try_from(loss.machine).ok();
                    Ok(Some(ConflictGroup { machine, ..ConflictGroup::default() }))
                };
                groups.add(group_of, &conflict).unwrap();
            }
        }
        assert!(groups.buckets <= BUCKETS_MAX, "{} buckets", groups.buckets);
        let fineness = groups.fineness;
        let buckets: usize = groups.sums.values_mut().map(|sum| sum.staleness.coarsen(fineness)).sum();
        assert_eq!((groups.sums.len(), groups.buckets), (512, buckets));
        let (median, rows) = (distances[299], groups.sums.into_iter().map(|(group, sum)| sum.into_row(group)));
        for row in rows {
            let found = row.median_staleness_revisions;
            assert!(row.transactions == 600 && found <= median && median - found < median / 16, "{row:?}");
        }
    }
}

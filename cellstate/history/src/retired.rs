//! What is left of what is retired: sums by day.
//!
//! A block is added up before any row goes that tells of it, names of sessions among them. Its day's row says up to which revision blocks are in
//! it, and is in the shelf of all these rows: whatever a crash takes of that shelf is its end, so that each block is in the sums once.
use crate::block::BlockHead;
use crate::conflicts::loser;
use crate::error::{ReadError, StoreError};
use crate::history::{History, Writer, number};
use crate::keys::{self, Shelf};
use crate::records::{ConflictsHead, TimeRecord};
use crate::retire::oldest_from;
use crate::store::{Changes, Row, Store, decode};
use bytes::Bytes;
use plenum_proto::v1::{RetiredDay, RetiredPair, RetiredPast};
use std::collections::BTreeMap;

/// Days that are kept apart; the oldest one has what was before.
pub(crate) const DAYS_MAX: usize = 400;
/// Pairs that are told apart in a block and in a day: with the longest names, a day takes some 2 KiB.
pub(crate) const PAIRS_MAX: usize = 16;
/// So many blocks are added up in one call. The conflicts of each may be as large as the block.
const BLOCKS_PER_CALL: usize = 128;

const DAY_MICROS: i64 = 24 * 3_600_000_000;

impl History {
    /// What is known of all that is retired. Reads some KiB where there are few days, at most one MiB.
    ///
    /// # Errors
    ///
    /// [`ReadError::Store`].
    pub fn retired(&self) -> Result<RetiredPast, ReadError> {
        // Looked at first: what is added up meanwhile is not among what is missing.
        let before = self.oldest_revision().saturating_sub(1);
        // Kept to the end, as rows don't keep it.
        let store = self.store()?;
        let days = days(rows_of_days(&store)).collect::<Result<Vec<_>, _>>()?;
        let counted = days.iter().map(|day| day.counted_revisions).fold(0, u64::saturating_add);
        Ok(RetiredPast { days, uncounted_revisions: before.saturating_sub(counted) })
    }

    /// Adds up the blocks before the floor that are in no day yet. True when none is left.
    ///
    /// What can't be read of a block, or of the days, is not counted, and keeps nothing from being retired. Of a session that was closed in
    /// the block in which an earlier floor lay the name is gone.
    pub(crate) fn sum_up(&self, writer: &mut Writer, floor: u64) -> Result<bool, StoreError> {
        let store = self.store()?;
        let cleaned = number(&store, &keys::CLEANED)?.unwrap_or(0);
        let mut newest = days(rows_of_days(&store).rev()).next().transpose()?;
        let mut losers = BTreeMap::new();
        for _ in 0..BLOCKS_PER_CALL {
            let from = newest.as_ref().map(|day| (day.last_revision.saturating_add(1), day.to_micros));
            // Days that can't be read would have each call begin anew.
            let (next, time_micros) = from.max(writer.cleaning.summed_to).unwrap_or((0, i64::MIN));
            let found = oldest_from(&store, next.max(cleaned), time_micros)?;
            let Some((block, _)) = found.filter(|(block, _)| block.last < floor) else { return Ok(true) };
            let sums = sums_of(&store, &block, &mut losers)?;
            let mut changes = store.changes();
            let day = match newest.take() {
                Some(mut day) if key_of(&day) == key_of(&sums) => {
                    add(&mut day, sums);
                    day
                }
                _ => {
                    make_room(&store, &mut changes)?;
                    sums
                }
            };
            changes.put_message(Shelf::Index, key_of(&day), &day);
            writer.rows_waiting_bytes += changes.bytes();
            changes.commit()?;
            writer.cleaning.summed_to = Some((block.last.saturating_add(1), block.newest_time_micros));
            newest = Some(day);
        }
        Ok(false)
    }

    /// As [`History::sum_up`], until none is left: before names go. Where something can't be read, what comes after it waits its turn.
    pub(crate) fn sum_up_all(&self, writer: &mut Writer, floor: u64) -> Result<(), StoreError> {
        loop {
            match self.sum_up(writer, floor) {
                Ok(false) => self.rotate_when_due(writer)?,
                Ok(true) => return Ok(()),
                Err(error) if error.may_be_sound() => return Err(error),
                Err(error) => {
                    let cause = &error as &dyn std::error::Error;
                    tracing::warn!(cause, "not all that is retired could be added up before names went");
                    return Ok(());
                }
            }
        }
    }
}

/// The rows of all days, oldest first. To be used up while the store is held.
fn rows_of_days(store: &Store) -> impl DoubleEndedIterator<Item = Result<Row, StoreError>> + use<> {
    store.rows(Shelf::Index, keys::retired(i64::MIN)..=keys::retired(i64::MAX))
}

/// The days of these rows that can be read: one that is damaged is left out, and where a table is, all that would come from there on.
fn days(rows: impl Iterator<Item = Result<Row, StoreError>>) -> impl Iterator<Item = Result<RetiredDay, StoreError>> {
    let goes_on = |row: &Result<Row, StoreError>| match row {
        Ok(_) | Err(StoreError::Damaged { .. }) => true,
        Err(error) => error.may_be_sound(),
    };
    let days = rows.take_while(goes_on);
    let days = days.map(|row| row.and_then(|row| decode::<RetiredDay>(Shelf::Index, &row.key, row.value)));
    days.filter(|day| !matches!(day, Err(StoreError::Damaged { .. })))
}

/// The key of a day's row. One that has what was before is where its oldest block is.
fn key_of(day: &RetiredDay) -> Vec<u8> {
    keys::retired(day.from_micros.div_euclid(DAY_MICROS))
}

/// Has the two oldest days become one where there are as many as are kept apart.
fn make_room(store: &Store, changes: &mut Changes) -> Result<(), StoreError> {
    let mut days = days(rows_of_days(store));
    let oldest = (days.next().transpose()?, days.next().transpose()?);
    if let (Some(mut oldest), Some(next)) = oldest
        && days.count() + 2 >= DAYS_MAX
    {
        changes.remove(Shelf::Index, key_of(&next));
        add(&mut oldest, next);
        changes.put_message(Shelf::Index, key_of(&oldest), &oldest);
    }
    Ok(())
}

/// What was read; nothing where it is damaged.
fn readable<T>(read: Result<Option<T>, StoreError>) -> Result<Option<T>, StoreError> {
    read.or_else(|error| if error.may_be_sound() { Err(error) } else { Ok(None) })
}

/// What a block came to, as if it were all of its day.
fn sums_of(store: &Store, block: &BlockHead, losers: &mut BTreeMap<u64, String>) -> Result<RetiredDay, StoreError> {
    let time: Option<TimeRecord> = readable(store.message(Shelf::Index, &keys::time(block.time_micros, block.first)))?;
    let counts = time.and_then(|time| time.counts).unwrap_or_default();
    let conflicts: Option<ConflictsHead> = readable(store.message(Shelf::Index, &keys::conflicts(block.first)))?;
    // A transaction counts once with each who took something from it.
    let mut losses: BTreeMap<(u64, Bytes), RetiredPair> = BTreeMap::new();
    for conflict in conflicts.unwrap_or_default().conflicts {
        let mut by_winner: BTreeMap<Bytes, u64> = BTreeMap::new();
        for loss in conflict.losses {
            *by_winner.entry(loss.winner).or_default() += u64::from(loss.claims);
        }
        for (winner, claims) in by_winner {
            let pair = losses.entry((conflict.session, winner)).or_default();
            pair.transactions += 1;
            pair.claims += claims;
        }
    }
    let lost_claims = losses.values().map(|pair| pair.claims).sum();
    let mut pairs: BTreeMap<(String, String), RetiredPair> = BTreeMap::new();
    for ((session, winner), lost) in losses {
        let loser = loser(losers, session, || readable(store.message(Shelf::Index, &keys::session(session))))?;
        let pair = pairs.entry((loser.to_owned(), String::from_utf8_lossy(&winner).into_owned())).or_default();
        pair.transactions += lost.transactions;
        pair.claims += lost.claims;
    }
    let pairs = pairs.into_iter().map(|((loser, winner), pair)| RetiredPair { loser, winner, ..pair });
    Ok(RetiredDay {
        first_revision: block.first,
        last_revision: block.last,
        from_micros: block.time_micros,
        to_micros: block.newest_time_micros,
        counted_revisions: counts.revisions,
        transactions: counts.transactions,
        claims: counts.claims,
        refused_claims: counts.refused_claims,
        lost_claims,
        pairs: with_most(pairs.collect()),
    })
}

/// Adds what came after.
fn add(day: &mut RetiredDay, later: RetiredDay) {
    day.last_revision = later.last_revision;
    day.to_micros = later.to_micros;
    let sums = [
        (&mut day.counted_revisions, later.counted_revisions),
        (&mut day.transactions, later.transactions),
        (&mut day.claims, later.claims),
        (&mut day.refused_claims, later.refused_claims),
        (&mut day.lost_claims, later.lost_claims),
    ];
    for (sum, more) in sums {
        *sum = sum.saturating_add(more);
    }
    let mut pairs = std::mem::take(&mut day.pairs);
    for pair in later.pairs {
        match pairs.iter_mut().find(|known| (&known.loser, &known.winner) == (&pair.loser, &pair.winner)) {
            Some(known) => {
                known.transactions = known.transactions.saturating_add(pair.transactions);
                known.claims = known.claims.saturating_add(pair.claims);
            }
            None => pairs.push(pair),
        }
    }
    day.pairs = with_most(pairs);
}

/// The pairs with most lost claims, these first.
fn with_most(mut pairs: Vec<RetiredPair>) -> Vec<RetiredPair> {
    pairs.sort_by(|one, other| {
        other.claims.cmp(&one.claims).then_with(|| (&one.loser, &one.winner).cmp(&(&other.loser, &other.winner)))
    });
    pairs.truncate(PAIRS_MAX);
    pairs
}

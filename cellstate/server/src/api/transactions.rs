//! Transactions as people read them: listed, and one by its number.

use std::collections::BTreeSet;
use std::sync::Arc;

use plenum_history::{History, LoggedTransaction, Lookup, Order, ReadError};
use plenum_model::{Cell, JobId, Revision};
use plenum_proto::v1;
use prost::Message;
use tonic::Code;

use super::evictions::Evicted;
use super::failure::Failure;
use super::listing::{self, Filter};
use super::names;
use super::past::{self, Moment};
use crate::shared::Shared;

const FIELDS: &[&str] = &["scheduler", "outcome"];

/// All words of [`outcome_word`] for what there is.
const OUTCOME_WORDS: &[&str] = &["committed", "partial", "refused"];

fn outcome_word(outcome: v1::TransactionOutcome) -> &'static str {
    match outcome {
        v1::TransactionOutcome::Committed => "committed",
        v1::TransactionOutcome::Partial => "partial",
        v1::TransactionOutcome::Refused => "refused",
        v1::TransactionOutcome::Unspecified => "unknown",
    }
}

/// Lists them, as far as the history has come.
pub(super) async fn list(
    shared: &Arc<Shared>,
    wire: v1::ListTransactionsRequest,
) -> Result<v1::ListTransactionsResponse, Failure> {
    let list = wire.list.unwrap_or_default();
    let filter = Filter::parse(&list.filter, FIELDS)?.with_words("outcome", OUTCOME_WORDS)?;
    let limit = listing::limit(list.limit, shared.settings.listing_rows);
    let cell = past::cell(shared, list.at).await?;
    let to = cell.revision();
    past::reach_for(shared, list.at, to).await?;
    // Who saw it saw another copy of the cell, and would wait for ever for what comes after.
    if !past::is_asked(list.at) {
        past::yet_to_come(shared, Revision(wire.after_revision))?;
    }
    let order = if wire.oldest_first { Order::OldestFirst } else { Order::NewestFirst };
    let (refused, scheduler, after) = (wire.refused, wire.scheduler, wire.after_revision);
    let history = shared.feed.history().clone();
    let read = cell.read(&shared.reads, move |cell| {
        // Of the present it may lack the end.
        let to = to.min(Revision(history.newest_revision()));
        let passes = |found: &LoggedTransaction| {
            let own = names::scheduler(&history, cell, found.outcome.session);
            (!refused || !found.outcome.refusals.is_empty())
                && (scheduler.is_empty() || own == scheduler)
                && filter.passes(|field| match field {
                    "scheduler" => Some(own.clone()),
                    _ => Some(outcome_word(found.outcome.outcome()).to_owned()),
                })
        };
        let revisions = after.saturating_add(1)..=to.0;
        let page = history.transactions(revisions, order, limit, passes).map_err(|error| Failure::history(&error))?;
        let mut room = listing::Room::new(limit);
        let groups = names::Groups::new(&history, cell);
        let mut response = v1::ListTransactionsResponse {
            revision: to.0,
            resume_revision: page.resume.unwrap_or(0),
            ..v1::ListTransactionsResponse::default()
        };
        for found in page.transactions {
            let revision = found.revision;
            let view = transaction(&history, cell, &groups, found, false)?;
            if !room.takes(&view) {
                response.resume_revision = revision;
                break;
            }
            response.transactions.push(view);
        }
        response.truncated = response.resume_revision > 0;
        // Looked at last: what was retired while the log was read is missing, too.
        let oldest = history.oldest_revision();
        let is_missing = oldest > after.saturating_add(1) && (order == Order::OldestFirst || !response.truncated);
        response.oldest_revision = if is_missing { oldest } else { 0 };
        Ok(response)
    });
    read.await
}

/// One of them, whole.
pub(super) async fn get(shared: &Arc<Shared>, wire: v1::GetTransactionRequest) -> Result<v1::TransactionView, Failure> {
    let cell = Moment::present(shared.snapshot().await);
    past::reach(shared, cell.revision()).await?;
    let history = shared.feed.history().clone();
    let v1::GetTransactionRequest { session, number } = wire;
    // Each of its machines is looked up in the history, too.
    let read = cell.read(&shared.reads, move |cell| {
        let found = find(&history, session, number).map_err(|failure| {
            // It is looked for in what there is: after its store was opened again, that may be less than was waited for.
            let newest = history.newest_revision();
            let is_behind = failure.code == "NO_SUCH_TRANSACTION" && newest < cell.revision().0;
            let behind = || Failure::history(&ReadError::NotThere { asked: cell.revision().0, newest });
            if is_behind { behind() } else { failure }
        })?;
        transaction(&history, cell, &names::Groups::new(&history, cell), found, true)
    });
    read.await
}

fn find(history: &History, session: u64, number: u64) -> Result<LoggedTransaction, Failure> {
    let failed = |error| Failure::history(&error);
    let missing = |what: &str| {
        Failure::new(Code::NotFound, "NO_SUCH_TRANSACTION", format!("transaction txn-{session}-{number} {what}"))
    };
    let retired = |oldest| missing(&format!("is retired: revisions from {oldest} on are retained"));
    let revision = match history.transaction(session, number).map_err(failed)? {
        Lookup::Found(revision) => revision,
        Lookup::Retired { oldest } => return Err(retired(oldest)),
        Lookup::NeverWas => return Err(missing("never was")),
    };
    let logged = history.entry(revision).map_err(|error| match error {
        // It was there a moment ago.
        ReadError::Retired { oldest, .. } => retired(oldest),
        error => failed(error),
    })?;
    let decision = v1::Decision::decode(logged.entry.decided.clone());
    let Ok(v1::Decision { answer: Some(v1::decision::Answer::Outcome(outcome)) }) = decision else {
        return Err(Failure::internal(format!("revision {revision} has no outcome")));
    };
    Ok(LoggedTransaction { revision, time_micros: logged.time_micros, outcome, entry: logged.entry })
}

/// A transaction as people read it, with names for what its refusals speak of.
fn transaction(
    history: &History,
    cell: &Cell,
    groups: &names::Groups<'_>,
    found: LoggedTransaction,
    whole: bool,
) -> Result<v1::TransactionView, Failure> {
    let unreadable = |error: prost::DecodeError| {
        Failure::internal(format!("the request of revision {} can't be read: {error}", found.revision))
    };
    let command = v1::Command::decode(found.entry.asked.clone()).map_err(unreadable)?;
    let Some(v1::command::Ask::Commit(asked)) = command.ask else {
        return Err(Failure::internal(format!("revision {} is no transaction", found.revision)));
    };
    let mut view = v1::TransactionView {
        scheduler: names::scheduler(history, cell, asked.session),
        principal: command.principal,
        base_revision: asked.base_revision,
        atomic: asked.atomic,
        check: asked.check,
        decision: asked.decision.clone(),
        stops: u32::try_from(asked.stops.len()).unwrap_or(u32::MAX),
        ..v1::TransactionView::default()
    };
    let mut slots: BTreeSet<u32> = found.outcome.refusals.iter().map(|refusal| refusal.machine).collect();
    let mut spoken_of: BTreeSet<(u64, u32)> =
        found.outcome.refusals.iter().map(|refusal| (refusal.job, refusal.group)).collect();
    let waits = |refusal: &&v1::Refusal| refusal.not_wanted() == v1::NotWantedCause::AfterGroup;
    spoken_of.extend(found.outcome.refusals.iter().filter(waits).map(|refusal| (refusal.job, refusal.after_group)));
    let evicted = Evicted::of(&asked, &found)?;
    view.evicted_total = u32::try_from(evicted.ids.len()).unwrap_or(u32::MAX);
    if whole {
        for placement in &asked.placements {
            spoken_of.insert((placement.job, placement.group));
            slots.extend(&placement.machines);
        }
        view.evictions = evicted.views(history, cell)?;
        view.evicted = evicted.ids;
        view.transaction = Some(asked);
    }
    let jobs: BTreeSet<u64> = spoken_of.iter().map(|(job, _)| *job).collect();
    view.job_names.extend(jobs.into_iter().filter_map(|job| Some((job, names::job(history, cell, job)?))));
    // Of a job only those groups: a transaction may speak of very many jobs, each of which has many.
    for (job, group) in spoken_of {
        let Some((id, number)) = JobId::from_bits(job).zip(usize::try_from(group).ok()) else { continue };
        let name = groups.known(id, number, found.revision, found.time_micros);
        view.group_names.extend(name.map(|name| (format!("{job}/{group}"), name)));
    }
    for slot in slots {
        let name = names::machine_then(history, cell, slot, found.revision, found.time_micros);
        view.machine_names.extend(name.map(|name| (slot, name)));
    }
    view.outcome = Some(found.outcome);
    Ok(view)
}

#[cfg(test)]
mod tests {
    use super::*;

    // It was refused with the number of its revision, as that was retired between the look for it and its reading.
    #[test]
    fn a_transaction_that_is_retired_while_it_is_looked_for_is_retired() {
        let folder = tempfile::tempdir().unwrap();
        let history = past::tests::retiring(folder.path());
        let retired = find(&history, 1, 2).unwrap_err();
        assert_eq!(retired.code, "NO_SUCH_TRANSACTION", "{}", retired.message);
        assert!(retired.message.contains("is retired: revisions from 4 on"), "{}", retired.message);
        assert_eq!(find(&history, 1, 4).unwrap().revision, 4);
    }
}

//! Transactions as people read them: listed, and one by its number.

mod culprits;
mod elsewhere;
mod held;

use std::collections::BTreeSet;
use std::sync::Arc;

use plenum_history::{History, LoggedTransaction, Lookup, Order, ReadError};
use plenum_model::session::Standing;
use plenum_model::{Cell, JobId, Revision, SessionId};
use plenum_proto::{filters, v1};
use prost::Message;
use tonic::Code;

use crate::api::failure::{Failure, RETIRED};
use crate::api::listing::{self, Filter, Room};
use crate::api::past;
use crate::api::past::evictions::Evicted;
use crate::api::past::names::{self, Names};
use crate::publish::Divergence;
use crate::shared::Shared;

/// Of what was not found, and is not known never to have been.
const TRANSACTION_RETIRED: &str = "TRANSACTION_RETIRED";

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

/// Which are asked for.
struct Asked {
    refused: bool,
    scheduler: String,
    /// Empty: of all.
    namespace: String,
    filter: Filter,
    /// By which jobs and machines its claims are for and on.
    claims: Filter,
    order: Order,
    /// Of revisions above this one.
    after: u64,
    limit: usize,
}

impl Asked {
    fn read(wire: v1::ListTransactionsRequest, list: &v1::ListRequest, rows_max: u32) -> Result<Self, Failure> {
        let mut filter = Filter::parse(&list.filter, filters::TRANSACTIONS)?
            .with_words("outcome", OUTCOME_WORDS)?
            .with_words("divergent", listing::YES_OR_NO)?;
        Ok(Self {
            refused: wire.refused,
            scheduler: wire.scheduler,
            namespace: list.namespace.clone(),
            claims: filter.split_off(&["job", "machine"]),
            filter,
            order: if wire.oldest_first { Order::OldestFirst } else { Order::NewestFirst },
            after: wire.after_revision,
            limit: listing::limit(list.limit, rows_max),
        })
    }

    /// Whether one passes. Whose it is, `scheduler` looks up, which may read the disk: it is asked only where that matters.
    fn passes(
        &self,
        outcome: &v1::Outcome,
        mut scheduler: impl FnMut() -> Result<String, Failure>,
    ) -> Result<bool, Failure> {
        if self.refused && outcome.refusals.is_empty() {
            return Ok(false);
        }
        if !self.scheduler.is_empty() && scheduler()? != self.scheduler {
            return Ok(false);
        }
        let mut failed = None;
        let passes = self.filter.passes(|field| match field {
            "scheduler" => scheduler().map_err(|failure| failed = Some(failure)).ok(),
            "divergent" => Some(Divergence::of_outcome(outcome, 0).is_some().to_string()),
            _ => Some(outcome_word(outcome.outcome()).to_owned()),
        });
        failed.map_or(Ok(passes), Err)
    }

    /// Whether it claims something for a job of the namespace.
    fn is_of_namespace(&self, names: &mut Names<'_>, asked: &v1::Transaction) -> Result<bool, Failure> {
        let of = |job: &str| job.split_once('/').is_some_and(|(namespace, _)| namespace == self.namespace);
        Ok(self.namespace.is_empty() || has_job(names, asked, of)?)
    }

    /// Whether its claims are for the jobs, and on the machines, that are asked for. Names are looked up where that matters, each once.
    fn has_claims(
        &self,
        names: &mut Names<'_>,
        asked: &v1::Transaction,
        found: &LoggedTransaction,
    ) -> Result<bool, Failure> {
        let mut failed = None;
        let passes = self.claims.passes_among(|field, value| {
            let has = if field == "job" {
                let is_it = |full: &str| full == value || full.split_once('/').is_some_and(|(_, name)| name == value);
                has_job(names, asked, is_it)
            } else {
                has_machine(names, asked, found, value)
            };
            has.unwrap_or_else(|failure| {
                failed = Some(failure);
                false
            })
        });
        failed.map_or(Ok(passes), Err)
    }

    /// Lists those up to a revision that the history has. They are looked at one by one, so that none is kept for which there is no room.
    fn list(&self, history: &History, cell: &Cell, to: Revision) -> Result<v1::ListTransactionsResponse, Failure> {
        let mut room = Room::new(self.limit);
        let (groups, mut names) = (names::Groups::new(history, cell), Names::new(history, cell));
        let mut response = v1::ListTransactionsResponse { revision: to.0, ..Default::default() };
        let mut transactions = history.transactions(self.after.saturating_add(1)..=to.0, self.order);
        let mut resume = None;
        for found in transactions.by_ref() {
            let found = found.map_err(|error| Failure::history(&error))?;
            if !self.passes(&found.outcome, || names.find_scheduler(found.outcome.session))? {
                continue;
            }
            let asked = asked_of(&found)?;
            if !self.is_of_namespace(&mut names, &asked.1)? || !self.has_claims(&mut names, &asked.1, &found)? {
                continue;
            }
            let revision = found.revision;
            if room.rows() == 0 {
                resume = Some(revision);
                break;
            }
            let view = transaction(history, cell, (&groups, &mut names), (found, asked), false)?;
            if !takes(&mut room, &view) {
                resume = Some(revision);
                break;
            }
            response.transactions.push(view);
        }
        response.resume_revision = resume.or_else(|| transactions.resume()).unwrap_or(0);
        response.truncated = response.resume_revision > 0;
        // Looked at last: what was retired while the log was read is missing, too.
        let oldest = history.oldest_revision();
        let reaches_them = self.order == Order::OldestFirst || !response.truncated;
        let is_missing = reaches_them && oldest > self.after.saturating_add(1);
        response.oldest_revision = if is_missing { oldest } else { 0 };
        Ok(response)
    }
}

/// Whether a transaction claims something for a job whose full name is it.
fn has_job(names: &mut Names<'_>, asked: &v1::Transaction, is_it: impl Fn(&str) -> bool) -> Result<bool, Failure> {
    for placement in &asked.placements {
        if names.find_job(placement.job)?.is_some_and(&is_it) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether it claims something on a machine of this name, or was granted that there.
fn has_machine(
    names: &mut Names<'_>,
    asked: &v1::Transaction,
    found: &LoggedTransaction,
    name: &str,
) -> Result<bool, Failure> {
    let own = asked.placements.iter().flat_map(|placement| &placement.machines);
    let elsewhere = found.outcome.placements.iter().flat_map(|placement| &placement.elsewhere);
    let slots: BTreeSet<u32> = own.copied().chain(elsewhere.map(|elsewhere| elsewhere.machine)).collect();
    for slot in slots {
        if names.find_machine_then(slot, found.revision, found.time_micros)?.as_deref() == Some(name) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether there is room for one, which then takes it. A refusal of some 20 bytes takes more than a hundred in memory, and one with culprits several hundred.
fn takes(room: &mut Room, view: &v1::TransactionView) -> bool {
    let refusals = view.outcome.iter().flat_map(|outcome| &outcome.refusals);
    let bytes =
        refusals.map(|refusal| size_of::<v1::Refusal>() + refusal.culprits.capacity() * size_of::<v1::Culprit>());
    room.takes_with(view, bytes.sum())
}

/// Lists them, as far as the history has come.
pub(super) async fn list(
    shared: &Arc<Shared>,
    mut wire: v1::ListTransactionsRequest,
) -> Result<v1::ListTransactionsResponse, Failure> {
    let list = wire.list.take().unwrap_or_default();
    // What its caller has seen; of a time nobody has.
    let after = wire.after_revision;
    if wire.after_micros != 0 {
        wire.after_revision = after.max(after_time(shared, wire.after_micros).await?);
    }
    let asked = Asked::read(wire, &list, shared.settings.listing_rows)?;
    let cell = past::cell_and_history(shared, list.at).await?;
    let to = cell.revision();
    // Who saw it saw another copy of the cell, and would wait for ever for what comes after.
    if !past::is_asked(list.at) {
        past::yet_to_come(shared, Revision(after))?;
    }
    let history = shared.feed.history().clone();
    let read = cell.read(move |cell| {
        // Of the present it may lack the end.
        asked.list(&history, cell, to.min(Revision(history.newest_revision())))
    });
    read.await
}

/// The last revision of a time; 0 where it is retired, or before the first one, as all that is retained comes after it.
async fn after_time(shared: &Arc<Shared>, time_micros: i64) -> Result<u64, Failure> {
    let has_passed = time_micros <= shared.clock.latest_micros();
    match past::revision_of(shared, v1::At { revision: 0, time_micros }).await {
        Err(failure) if failure.code == RETIRED => Ok(0),
        // One that has passed is before the first one, and not yet to come.
        Err(failure) if failure.code == "NO_SUCH_REVISION" && has_passed => Ok(0),
        found => found,
    }
}

/// One of them, whole.
pub(super) async fn get(shared: &Arc<Shared>, wire: v1::GetTransactionRequest) -> Result<v1::TransactionView, Failure> {
    let (cell, reached) = past::cell_in_history(shared, None).await?;
    reached?;
    let history = shared.feed.history().clone();
    let v1::GetTransactionRequest { session, number } = wire;
    // Each of its machines is looked up in the history, too.
    let read = cell.read(move |cell| {
        let found = find(&history, cell, session, number).map_err(|failure| {
            // It is looked for in what there is: after its store was opened again, that may be less than was waited for.
            let newest = history.newest_revision();
            let is_behind =
                ["NO_SUCH_TRANSACTION", TRANSACTION_RETIRED].contains(&failure.code) && newest < cell.revision().0;
            let behind = || Failure::history(&ReadError::NotThere { asked: cell.revision().0, newest });
            if is_behind { behind() } else { failure }
        })?;
        let (groups, mut names) = (names::Groups::new(&history, cell), Names::new(&history, cell));
        let asked = asked_of(&found)?;
        transaction(&history, cell, (&groups, &mut names), (found, asked), true)
    });
    read.await
}

/// `cell`: as it is now. It knows the last numbers of sessions that are open, also where nothing of them is retained.
fn find(history: &History, cell: &Cell, session: u64, number: u64) -> Result<LoggedTransaction, Failure> {
    let failed = |error| Failure::history(&error);
    let missing =
        |code, what: &str| Failure::new(Code::NotFound, code, format!("transaction txn-{session}-{number} {what}"));
    let never_was = || missing("NO_SUCH_TRANSACTION", "never was");
    let retired =
        |what: &str, oldest| missing(TRANSACTION_RETIRED, &format!("{what}: revisions from {oldest} on are retained"));
    let revision = match history.transaction(session, number).map_err(failed)? {
        Lookup::Found(revision) => revision,
        Lookup::Retired { oldest } => {
            let standing = cell.session(SessionId(session)).map(|open| open.standing(number));
            return Err(match standing {
                Some(Standing::New | Standing::Skipped) => never_was(),
                Some(Standing::Decided(_)) => retired("is retired", oldest),
                Some(Standing::Retired) | None => retired("is retired, or never was", oldest),
            });
        }
        Lookup::NeverWas => return Err(never_was()),
    };
    let logged = history.entry(revision).map_err(|error| match error {
        // It was there a moment ago.
        ReadError::Retired { oldest, .. } => retired("is retired", oldest),
        error => failed(error),
    })?;
    let decision = v1::Decision::decode(logged.entry.decided.clone());
    let Ok(v1::Decision { answer: Some(v1::decision::Answer::Outcome(outcome)) }) = decision else {
        return Err(Failure::internal(format!("revision {revision} has no outcome")));
    };
    Ok(LoggedTransaction { revision, time_micros: logged.time_micros, outcome, entry: logged.entry })
}

/// Who asked for it, and for what.
fn asked_of(found: &LoggedTransaction) -> Result<(String, v1::Transaction), Failure> {
    let revision = found.revision;
    let command = v1::Command::decode(found.entry.asked.clone())
        .map_err(|error| Failure::internal(format!("the request of revision {revision} can't be read: {error}")))?;
    match command.ask {
        Some(v1::command::Ask::Commit(asked)) => Ok((command.principal, asked)),
        _ => Err(Failure::internal(format!("revision {revision} is no transaction"))),
    }
}

/// A transaction as people read it, with names for what its refusals speak of.
fn transaction(
    history: &History,
    cell: &Cell,
    (groups, names): (&names::Groups<'_>, &mut Names<'_>),
    (mut found, (principal, asked)): (LoggedTransaction, (String, v1::Transaction)),
    whole: bool,
) -> Result<v1::TransactionView, Failure> {
    let mut view = v1::TransactionView {
        scheduler: names.scheduler(asked.session),
        principal,
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
        elsewhere::tell(&asked, &mut found)?;
        let placements = found.outcome.placements.iter();
        slots.extend(placements.flat_map(|placement| &placement.elsewhere).map(|elsewhere| elsewhere.machine));
        view.evictions = evicted.views(history, cell)?;
        view.evicted = evicted.ids;
        view.held = held::told(history, &found);
        view.culprits = culprits::told(history, cell, (groups, &mut *names), &found);
        view.transaction = Some(asked);
    }
    let jobs: BTreeSet<u64> = spoken_of.iter().map(|(job, _)| *job).collect();
    view.job_names.extend(jobs.into_iter().filter_map(|job| Some((job, names.job(job)?.to_owned()))));
    // Of a job only those groups: a transaction may speak of very many jobs, each of which has many.
    for (job, group) in spoken_of {
        let Some((id, number)) = JobId::from_bits(job).zip(usize::try_from(group).ok()) else { continue };
        let name = groups.known(id, number, found.revision, found.time_micros);
        view.group_names.extend(name.map(|name| (format!("{job}/{group}"), name)));
    }
    for slot in slots {
        let name = names.machine_then(slot, found.revision, found.time_micros);
        view.machine_names.extend(name.map(|name| (slot, name)));
    }
    view.outcome = Some(found.outcome);
    Ok(view)
}

#[cfg(test)]
mod tests {
    use super::*;
    use plenum_model::{Delta, LogTime, SessionChange};

    // It was refused with the number of its revision, as that was retired between the look for it and its reading.
    #[test]
    fn a_transaction_that_is_retired_while_it_is_looked_for_is_retired() {
        let folder = tempfile::tempdir().unwrap();
        let history = past::tests::retiring(folder.path());
        let cell = Cell::default();
        let retired = find(&history, &cell, 1, 2).unwrap_err();
        assert_eq!(retired.code, "TRANSACTION_RETIRED", "{}", retired.message);
        assert!(retired.message.contains("is retired"), "{}", retired.message);
        assert!(retired.message.contains("revisions from 4 on"), "{}", retired.message);
        assert_eq!(find(&history, &cell, 1, 4).unwrap().revision, 4);
    }

    // Whatever was not found of a session from before what is retained was said to be retired, also what was never sent.
    #[test]
    fn a_transaction_that_never_was_is_told_from_one_that_may_be_retired() {
        let folder = tempfile::tempdir().unwrap();
        let history = past::tests::retiring(folder.path());
        let mut cell = Cell::default();
        let opened = SessionChange::Opened { scheduler: "a".into(), principal: "a".into(), namespace: "a".into() };
        let decided = |number| SessionChange::Number { session: SessionId(1), number, digest: 0 };
        for (revision, change) in [(1, opened.clone()), (2, opened), (3, decided(2)), (4, decided(4))] {
            let mut delta = Delta::new(Revision(revision), LogTime::from_micros(1));
            delta.sessions.push(change);
            cell.apply(&delta).unwrap();
        }
        // The rest is retired while this one is read.
        find(&history, &cell, 1, 2).unwrap_err();
        let told = |session, number| {
            let failure = find(&history, &cell, session, number).unwrap_err();
            (failure.code, failure.message)
        };
        let never_was = |id: &str| ("NO_SUCH_TRANSACTION", format!("transaction {id} never was"));
        let retired = |id: &str, what: &str| {
            (TRANSACTION_RETIRED, format!("transaction {id} {what}: revisions from 4 on are retained"))
        };
        assert_eq!(told(1, 2), retired("txn-1-2", "is retired"), "the session knows that it was decided");
        assert_eq!(told(1, 3), never_was("txn-1-3"), "the session knows that it was passed over");
        assert_eq!(told(1, 9), never_was("txn-1-9"));
        assert_eq!(told(2, 9), never_was("txn-2-9"), "nothing was decided in that session");
        assert_eq!(told(3, 1), retired("txn-3-1", "is retired, or never was"), "nothing is known of such a session");
    }

    // Whose each of the transactions was that a listing reads was looked up in the store, also where nobody asked.
    #[test]
    fn whose_a_transaction_is_is_looked_up_only_where_that_matters() {
        let asked = |refused, filter: &str, scheduler: &str| {
            let (list, scheduler) =
                (v1::ListRequest { filter: filter.to_owned(), ..Default::default() }, scheduler.to_owned());
            let wire = v1::ListTransactionsRequest { refused, scheduler, ..Default::default() };
            Asked::read(wire, &list, 10).unwrap()
        };
        let outcome = v1::Outcome { outcome: v1::TransactionOutcome::Committed.into(), ..Default::default() };
        let nobody = || -> Result<String, Failure> { panic!("it was looked up") };
        assert!(asked(false, "outcome=committed", "").passes(&outcome, nobody).unwrap());
        assert!(!asked(true, "", "batch").passes(&outcome, nobody).unwrap());
        assert!(!asked(false, "outcome=refused,scheduler=batch", "").passes(&outcome, nobody).unwrap());
        let own = || Ok("batch".to_owned());
        assert!(asked(false, "scheduler=batch", "batch").passes(&outcome, own).unwrap());
        assert!(!asked(false, "scheduler!=batch", "").passes(&outcome, own).unwrap());
        assert!(!asked(false, "", "service").passes(&outcome, own).unwrap());
        let refusals = vec![v1::Refusal::default()];
        let divergent = v1::Outcome { refusals, divergences: vec![0], ..outcome.clone() };
        assert!(asked(false, "divergent=true", "").passes(&divergent, nobody).unwrap());
        assert!(!asked(false, "divergent=true", "").passes(&outcome, nobody).unwrap());
        // Who can't be looked up now is not taken for one who is not known, whether that would have let it pass or not.
        let unread = || Err(Failure::history_behind("the store is being opened again"));
        for (filter, scheduler) in [("scheduler=batch", ""), ("scheduler!=batch", ""), ("", "batch")] {
            assert!(asked(false, filter, scheduler).passes(&outcome, unread).is_err(), "{filter}");
        }
    }

    // Which transactions a job had lost, or which had claimed a machine, was to be found out by reading all of them.
    #[test]
    fn transactions_are_asked_for_by_the_jobs_and_machines_of_their_claims() {
        let folder = tempfile::tempdir().unwrap();
        let (history, _) = History::open(folder.path(), plenum_history::Options::new(vec![7; 16])).unwrap();
        let mut delta = Delta::new(Revision(1), LogTime::from_micros(1));
        for (slot, name) in [(3, "m3"), (4, "m4")] {
            let machine = crate::agents::machine(slot, 1, plenum_model::MachineState::Ready);
            delta.machines.push(Arc::new(plenum_model::Machine { name: name.into(), ..machine }));
        }
        let mut cell = Cell::default();
        cell.apply(&delta).unwrap();
        let asked = v1::Transaction {
            placements: vec![v1::Placement { job: 7, machines: vec![3, 9], ..Default::default() }],
            ..Default::default()
        };
        let found = LoggedTransaction {
            revision: 5,
            time_micros: i64::MAX,
            outcome: v1::Outcome::default(),
            entry: v1::LogEntry::default(),
        };
        let passes = |filter: &str| {
            let list = v1::ListRequest { filter: filter.to_owned(), ..Default::default() };
            let asking = Asked::read(v1::ListTransactionsRequest::default(), &list, 10).unwrap();
            let mut names = Names::new(&history, &cell);
            names.know_job(7, "ml/train");
            let passes = asking.passes(&found.outcome, || Ok(String::new())).unwrap();
            passes && asking.has_claims(&mut names, &asked, &found).unwrap()
        };
        assert!(passes("job=train") && passes("job=ml/train") && passes("machine=m3,job!=web"));
        assert!(!passes("job=ml/web") && !passes("job!=train") && !passes("machine=m4") && !passes("machine!=m3"));
        assert!(passes("machine!=m4") && passes(""));
    }

    // So many of them as are within 64 MiB of an answer took several times as much in memory: 0.5 GB for each who listed.
    #[test]
    fn a_listing_has_room_for_what_its_refusals_take_in_memory() {
        let culprits = vec![v1::Culprit::default(); 4];
        let refusal = v1::Refusal { kind: v1::RefusalKind::Conflict.into(), culprits, ..Default::default() };
        for (refusal, bytes) in [
            (v1::Refusal::default(), size_of::<v1::Refusal>()),
            (refusal, size_of::<v1::Refusal>() + 4 * size_of::<v1::Culprit>()),
        ] {
            let outcome = v1::Outcome { refusals: vec![refusal; 16_384], ..Default::default() };
            let view = v1::TransactionView { outcome: Some(outcome), ..Default::default() };
            let mut room = Room::new(10_000);
            let kept = (0..10_000).take_while(|_| takes(&mut room, &view)).count();
            let most = (64 << 20) / (bytes * 16_384);
            assert!((1..=most).contains(&kept), "{kept} of at most {most}");
        }
    }
}

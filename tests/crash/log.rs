//! What the cell says that its log holds of transactions, beside what their clients were told.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
};

use plenum_proto::v1;
use tonic::Status;

use super::{
    cell::CrashCell,
    client::{Answer, Client},
};
use crate::rivals::Rivals;

/// Numbers of a session that the cell remembers, and that are looked at after each crash.
const REMEMBERED: usize = 256;
/// Transactions in one answer.
const PAGE: u32 = 1000;

/// The newest transactions of the log are those that the clients know of, and they were decided as was said.
///
/// # Panics
/// When one is missing, is there twice, was turned away, was never asked for, or has another outcome.
pub(super) fn newest_are_as_told(rivals: &Rivals, clients: &[Client]) -> Result<(), Status> {
    let limit = u32::try_from(REMEMBERED * clients.len()).unwrap();
    let list = Some(v1::ListRequest { limit, ..v1::ListRequest::default() });
    let page = rivals.transactions(v1::ListTransactionsRequest { list, ..v1::ListTransactionsRequest::default() })?;
    let mut logged = outcomes(page.transactions);
    let from = if page.truncated { logged.last().map_or(0, |oldest| oldest.revision) } else { 0 };
    // What is older by now may have been there when it was listed.
    let from = from.max(rivals.oldest_revision()?);
    logged.retain(|outcome| outcome.revision >= from);
    compare(&logged, from, clients);
    Ok(())
}

/// The same of all that is retained, from the oldest revision on; how many there are.
///
/// # Panics
/// As above, and when of what was acknowledged since then some is missing.
pub(super) fn all_are_as_told(rivals: &Rivals, clients: &[Client]) -> Result<usize, Status> {
    let mut logged: Vec<v1::Outcome> = Vec::new();
    loop {
        let page = rivals.transactions(v1::ListTransactionsRequest {
            list: Some(v1::ListRequest { limit: PAGE, ..v1::ListRequest::default() }),
            oldest_first: true,
            after_revision: logged.last().map_or(0, |newest| newest.revision),
            ..v1::ListTransactionsRequest::default()
        })?;
        assert!(!page.transactions.is_empty() || !page.truncated, "a page of nothing leads nowhere");
        logged.extend(outcomes(page.transactions));
        if !page.truncated {
            break;
        }
    }
    let from = rivals.oldest_revision()?;
    logged.retain(|outcome| outcome.revision >= from);
    compare(&logged, from, clients);
    Ok(logged.len())
}

fn outcomes(views: Vec<v1::TransactionView>) -> Vec<v1::Outcome> {
    views.into_iter().map(|view| view.outcome.expect("what is in the log was decided")).collect()
}

/// `logged` is all that the log has from this revision on.
fn compare(logged: &[v1::Outcome], from: u64, clients: &[Client]) {
    let mut by_number = BTreeMap::new();
    for outcome in logged {
        let first = by_number.insert((outcome.session, outcome.number), outcome);
        assert_eq!(first, None, "a number was decided twice: {outcome:?}");
    }
    for client in clients {
        for (&number, said) in &client.said {
            let logged = by_number.remove(&(client.session, number));
            match &said.answer {
                Answer::Outcome { outcome, .. } if outcome.revision >= from => {
                    assert_eq!(logged, Some(&**outcome), "what was acknowledged is what is in the log");
                }
                Answer::Outcome { outcome, .. } => assert_eq!(logged, None, "it was decided earlier: {outcome:?}"),
                Answer::TurnedAway { code } => assert_eq!(logged, None, "{number} was turned away with {code}"),
                Answer::Open => {
                    let revision = logged.map(|outcome| outcome.revision);
                    assert!(revision.is_none() || revision == said.found, "{revision:?}, and found as {said:?}");
                }
            }
        }
    }
    assert!(by_number.is_empty(), "nobody asked for these: {by_number:?}");
}

/// The canary: whoever compares must see what differs.
#[test]
fn a_log_that_says_something_else_than_was_told_is_noticed() {
    let mut cell = CrashCell::new(106);
    let mut up = cell.start();
    let round = cell.work(&mut up, 50).unwrap();
    cell.load.finish(round);
    let rivals = Rivals::new(&up.address);
    let decided = cell.load.ticks.decided();
    let clients = cell.load.clients();
    assert_eq!(all_are_as_told(&rivals, clients).unwrap(), decided);
    newest_are_as_told(&rivals, clients).unwrap();

    let changes: [fn(&mut Client); 4] = [
        |client| with_an_outcome(client, |outcome| outcome.revision += 1),
        |client| with_an_outcome(client, |outcome| outcome.granted += 1),
        |client| {
            let newest = newest_decided(client);
            client.said.remove(&newest);
        },
        |client| *newest_answer(client) = Answer::TurnedAway { code: "NO".into() },
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let client = &mut cell.load.clients()[0];
        let before = client.said.clone();
        change(client);
        let (all, newest) = (looks(cell.load.clients(), &rivals, true), looks(cell.load.clients(), &rivals, false));
        assert!(!all && !newest, "change {number} was not noticed: {all} {newest}");
        cell.load.clients()[0].said = before;
    }
    assert!(looks(cell.load.clients(), &rivals, true), "and nothing else was noticed");
}

/// The newest transaction that was decided: of all that there are, one of the two looks at the newest only.
fn newest_decided(client: &Client) -> u64 {
    let mut newest_first = client.said.iter().rev();
    *newest_first.find(|(_, said)| matches!(said.answer, Answer::Outcome { .. })).unwrap().0
}

fn newest_answer(client: &mut Client) -> &mut Answer {
    let newest = newest_decided(client);
    &mut client.said.get_mut(&newest).unwrap().answer
}

fn with_an_outcome(client: &mut Client, change: fn(&mut v1::Outcome)) {
    if let Answer::Outcome { outcome, .. } = newest_answer(client) {
        change(outcome);
    }
}

/// Whether all looks well.
fn looks(clients: &[Client], rivals: &Rivals, all: bool) -> bool {
    let looked = catch_unwind(AssertUnwindSafe(|| match all {
        true => drop(all_are_as_told(rivals, clients).unwrap()),
        false => newest_are_as_told(rivals, clients).unwrap(),
    }));
    looked.is_ok()
}

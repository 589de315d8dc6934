//! Transactions whose deltas nobody heard, since the watcher began with a snapshot or was begun anew: they are looked for in what the
//! cell lists of its history, and counted where nobody read that.

use bytes::Bytes;
use plenum_checker::calls::{Asked, Call, Reply};
use plenum_checker::picture::Picture;
use plenum_checker::properties::{Listed, Verdict};
use plenum_checker::stream::Event;
use plenum_checker::{Evidence, Recording, Violation, check};
use plenum_proto::v1;
use prost::Message;

const INCARNATION: u64 = 2;

/// A watcher that came at revision 80, and heard of one more.
fn late() -> Recording {
    let welcome = v1::Welcome { incarnation: INCARNATION, revision: 80, snapshot: true, ..v1::Welcome::default() };
    let picture = Picture { revision: 80, ..Picture::default() };
    let delta = v1::Delta { revision: 81, ..v1::Delta::default() };
    let bytes = Bytes::from(delta.encode_to_vec());
    let mut recording = Recording::new("late");
    recording.events = vec![
        Event::Welcome(welcome),
        Event::Snapshot(Box::new(picture)),
        Event::Delta { bytes, delta: Box::new(delta) },
    ];
    recording
}

fn asked() -> v1::Transaction {
    v1::Transaction { session: 7, number: 3, incarnation: INCARNATION, ..v1::Transaction::default() }
}

fn outcome() -> v1::Outcome {
    v1::Outcome { session: 7, number: 3, revision: 40, ..v1::Outcome::default() }
}

/// A client was told of a transaction at revision 40; and what is found then.
fn judged(transactions: Vec<v1::TransactionView>, listed: Option<Listed>) -> Verdict {
    let call = Call {
        client: "anna".into(),
        called_nanos: 1,
        replied_nanos: Some(2),
        asked: Asked::Transaction(Box::new(asked())),
        reply: Reply::Outcome(Box::new(outcome())),
    };
    check(&Evidence { recordings: vec![late()], calls: vec![call], transactions, listed, ..Evidence::default() })
}

fn all_from(from: u64) -> Option<Listed> {
    Some(Listed { incarnation: INCARNATION, from, to: 81 })
}

fn view(change: impl Fn(&mut v1::Outcome)) -> Vec<v1::TransactionView> {
    let mut outcome = outcome();
    change(&mut outcome);
    let transaction = v1::Transaction { number: outcome.number, ..asked() };
    let (outcome, transaction) = (Some(outcome), Some(transaction));
    vec![v1::TransactionView { outcome, transaction, ..v1::TransactionView::default() }]
}

#[test]
fn an_acknowledged_transaction_that_the_cell_does_not_list_is_lost() {
    for from in [1, 40] {
        let verdict = judged(Vec::new(), all_from(from));
        let lost = |one: &Violation| matches!(one, Violation::Lost { client, session: 7, number: 3, revision: 40, .. } if client == "anna");
        assert!(matches!(&verdict.violations[..], [one] if lost(one)), "{verdict:?}");
        assert_eq!((verdict.transactions, verdict.unchecked), (1, 0));
    }
    // Somebody else's does not stand for it.
    assert_eq!(judged(view(|outcome| outcome.number += 1), all_from(1)).violations.len(), 1);
}

#[test]
fn an_acknowledged_transaction_that_the_cell_lists_is_there() {
    let verdict = judged(view(|_| ()), all_from(1));
    assert_eq!(verdict.violations, []);
    // Once for each who told of it.
    assert_eq!((verdict.transactions, verdict.unchecked), (2, 0));
}

#[test]
fn a_transaction_that_nobody_can_say_anything_of_is_counted_as_unchecked() {
    let of_another = Some(Listed { incarnation: INCARNATION + 1, from: 1, to: 81 });
    let too_early = Some(Listed { incarnation: INCARNATION, from: 1, to: 39 });
    // Nobody asked; it is retired; another incarnation was asked; the history had not got that far.
    for listed in [None, all_from(41), of_another, too_early] {
        let verdict = judged(Vec::new(), listed);
        assert_eq!(verdict.violations, [], "{listed:?}");
        assert_eq!((verdict.transactions, verdict.unchecked), (0, 1), "{listed:?}");
    }
}

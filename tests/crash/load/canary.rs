//! The canaries of what is looked at after a crash: of a cell that has all its revisions, each thing that is not as it was told must be seen.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
};

use plenum_proto::v1;

use super::{
    super::{
        cell::CrashCell,
        client::{Answer, Client, Said},
    },
    Load,
};

/// An id of a slot that no table here comes to.
const NOBODYS: u64 = 1 << 32 | 900_000;

/// What must be said of a change of what was told.
type Change = (&'static str, fn(&mut Load));

const CHANGES: [Change; 12] = [
    ("was published", |load| load.seen += 1_000_000),
    ("was turned away with NO", |load| {
        newest_decided(load).answer = Answer::TurnedAway { code: "NO".into() };
    }),
    ("was acknowledged at", |load| outcome(newest_decided(load)).revision += 1),
    ("what is decided was asked", |load| {
        let number = outcome(newest_decided(load)).number;
        load.clients[0].said.remove(&number);
    }),
    ("was submitted, and is gone", |load| load.clients[0].own.job = NOBODYS),
    ("was registered in epoch", |load| load.agent.machines.values_mut().for_each(|(_, epoch)| *epoch += 1)),
    ("room was held for", |load| load.held = Some((NOBODYS, load.seen_micros))),
    ("is not as it was granted", |load| load.clients[0].granted.values_mut().for_each(|revision| *revision += 1)),
    ("was granted at 1, and is gone", |load| {
        load.clients[0].granted.insert(NOBODYS, 1);
    }),
    ("the stop of ", |load| {
        let client = &mut load.clients[0];
        client.said.values_mut().for_each(|said| said.asked.stops.extend(client.granted.keys()));
    }),
    ("its end was acknowledged", |load| load.agent.ended.extend(load.clients[0].granted.keys())),
    ("not in its outcome", |load| decided(&mut load.clients[0]).for_each(|said| outcome(said).placements.clear())),
];

#[test]
fn a_cell_that_has_something_else_than_was_told_is_noticed() {
    let mut cell = CrashCell::new(107);
    // Room is held from the second round on.
    for _ in 0..2 {
        let mut up = cell.start();
        let round = cell.work(&mut up, 50);
        up.process.kill();
        cell.join(round);
    }
    let up = cell.start();
    cell.load.examine(&up.address).unwrap();
    for (words, change) in CHANGES {
        let load = &mut cell.load;
        let (agent, held, client) = (load.agent.clone(), load.held, &load.clients[0]);
        let (said, granted, own) = (client.said.clone(), client.granted.clone(), client.own);
        change(load);
        let looked = catch_unwind(AssertUnwindSafe(|| load.examine(&up.address)));
        let told = looked.err().and_then(words_of).unwrap_or_default();
        assert!(told.contains(words), "of {words:?} was said: {told:?}");
        (load.agent, load.held) = (agent, held);
        let client = &mut load.clients[0];
        (client.said, client.granted, client.own) = (said, granted, own);
        load.seen = 0;
    }
    cell.load.examine(&up.address).unwrap();
}

/// A server refused to renew leases with an answer, and whoever looked at its status alone took that for a lease.
#[test]
fn a_lease_that_is_not_renewed_is_noticed() {
    let mut cell = CrashCell::new(109);
    let up = cell.start();
    cell.load.prepare(&up.address).unwrap();
    cell.load.renew_leases(&up.address).unwrap();
    cell.load.machines.iter_mut().for_each(|(_, epoch)| *epoch += 1);
    let refused = cell.load.renew_leases(&up.address).unwrap_err();
    assert!(refused.message().contains("no lease was renewed"), "{refused}");
}

fn decided(client: &mut Client) -> impl DoubleEndedIterator<Item = &mut Said> {
    client.said.values_mut().filter(|said| matches!(said.answer, Answer::Outcome { .. }))
}

fn newest_decided(load: &mut Load) -> &mut Said {
    decided(&mut load.clients[0]).next_back().unwrap()
}

fn outcome(said: &mut Said) -> &mut v1::Outcome {
    match &mut said.answer {
        Answer::Outcome { outcome, .. } => outcome,
        other => panic!("it was decided: {other:?}"),
    }
}

fn words_of(panic: Box<dyn Any + Send>) -> Option<String> {
    panic.downcast::<String>().ok().map(|words| *words)
}

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
        picture::Picture,
    },
    Load, real_time_is_kept, snapshot,
};

/// An id of a slot that no table here comes to.
const NOBODYS: u64 = 1 << 32 | 900_000;

/// What must be said of a change of what was told.
type Change = (&'static str, fn(&mut Load));

const CHANGES: [Change; 15] = [
    ("was published", |load| load.seen += 1_000_000),
    ("was turned away with NO", |load| {
        newest_decided(load).answer = Answer::TurnedAway { code: "NO".into() };
    }),
    ("was acknowledged at", |load| outcome(newest_decided(load)).revision += 1),
    ("is what its number says", |load| outcome(newest_decided(load)).claims += 1),
    ("was there after an earlier crash", |load| {
        let said = newest_decided(load);
        (said.found, said.answer) = (Some(outcome(said).revision + 1), Answer::Open);
    }),
    ("nobody's: ", |load| {
        let client = &mut load.clients[0];
        client.session = 0;
        client.granted.clear();
    }),
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
    let mut earlier = None;
    // Room is held from the second round on.
    for _ in 0..2 {
        let mut up = cell.start();
        earlier = Some(cell.load.runtime.block_on(snapshot(&up.address)).unwrap());
        let round = cell.work(&mut up, 50);
        up.process.kill();
        cell.join(round);
    }
    let up = cell.start();
    cell.load.examine(&up.address).unwrap();
    for (words, change) in CHANGES {
        let load = &mut cell.load;
        let (agent, held, client) = (load.agent.clone(), load.held, &load.clients[0]);
        let (said, granted, own, session) = (client.said.clone(), client.granted.clone(), client.own, client.session);
        change(load);
        is_told(words, || load.examine(&up.address).unwrap());
        (load.agent, load.held) = (agent, held);
        let client = &mut load.clients[0];
        (client.said, client.granted, client.own, client.session) = (said, granted, own, session);
        load.seen = 0;
    }
    cell.load.examine(&up.address).unwrap();

    // Of what is not remembered of a session any more, allocations tell.
    let fresh = cell.load.runtime.block_on(snapshot(&up.address)).unwrap();
    let turn_away = |said: &mut Said| said.answer = Answer::TurnedAway { code: "NO".into() };
    let said = cell.load.clients[0].said.clone();
    decided(&mut cell.load.clients[0]).for_each(turn_away);
    is_told("turned away with NO, and took effect", || cell.load.allocations_are_kept(&fresh));
    cell.load.clients[0].said = said;

    let (earlier, now) = (earlier.unwrap(), cell.load.seen);
    let load = &mut cell.load;
    let pictures = load.clients.iter_mut().map(|client| &mut client.picture).chain([&mut load.follower]);
    pictures.for_each(|picture| *picture = Picture::that_slept(earlier.clone(), now));
    is_told("mirrored ", || load.examine(&up.address).unwrap());
}

#[test]
fn what_was_asked_after_an_answer_and_decided_before_it_is_noticed() {
    let asked = |called| Said { asked: v1::Transaction::default(), called, answer: Answer::Open, found: None };
    let (first, second) = (asked(1), asked(3));
    let at = |revision| v1::Outcome { revision, ..v1::Outcome::default() };
    let (earlier, later) = (at(7), at(8));
    real_time_is_kept(&[(&first, 2, &earlier), (&second, 4, &later)]);
    // They were under way at once.
    real_time_is_kept(&[(&first, 4, &later), (&second, 5, &earlier)]);
    is_told("was asked after 8 was answered", || real_time_is_kept(&[(&first, 2, &later), (&second, 4, &earlier)]));
}

/// Whoever looks must say this.
fn is_told(words: &str, look: impl FnOnce()) {
    let told = catch_unwind(AssertUnwindSafe(look)).err().and_then(words_of).unwrap_or_default();
    assert!(told.contains(words), "of {words:?} was said: {told:?}");
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

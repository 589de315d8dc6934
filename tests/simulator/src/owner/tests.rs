//! What the owner makes of answers.

use super::*;
use crate::bounds::Bounds;

// Where bounds were small, a planned job that was refused for any reason had not to complete any more.
#[test]
fn only_a_planned_job_that_is_above_a_bound_need_not_complete() {
    let mut random = Random::new(1);
    let mut mix = Mix::draw(&mut random, 1);
    mix.bounds = Some(Bounds::draw(&mut random));
    let (mut world, mut owner) = (World::new(random, mix, false), Owner::default());
    let name = "job-0".to_owned();
    let spec = JobBuilder::new(&name, "batch").group("work", 1, 1).spec();
    let command = jobs::submit(spec).expect("it is a job");
    owner.plans.push(Plan { namespace: NAMESPACES[0], name, completes: true, fits: true, ends: true });
    let mut stays_planned = |is_above: bool| {
        owner.wish(&mut world, 0, command.clone());
        let wish = owner.wishes.len() - 1;
        owner.asks(&mut world, wish);
        let connection = owner.wishes[wish].connection.expect("it was asked");
        owner.receive(&mut world, connection, wish, &Message::Answered { done: false, is_above });
        !owner.plans.is_empty()
    };
    assert!(stays_planned(false));
    assert!(!stays_planned(true));
}

//! What the server's shell says of itself to its checkers.

use super::*;
use crate::faults::Mix;
use crate::random::Random;

// A tick that came to more than the log took of a request was refused, and all that it had been for was said to be overdue.
#[test]
fn what_is_due_may_wait_as_long_as_the_log_takes_little_of_a_request() {
    let mut random = Random::new(1);
    let mix = Mix { entry_bytes: 600, bounds: None, ..Mix::draw(&mut random, 1) };
    let mut world = World::new(random, mix, false);
    let Ok(server) = start(&SimDisk::new(1), 1, &mut world) else { panic!("it starts on an empty disk") };
    assert_eq!(server.ticks_by(&world), None);
    world.quiet = true;
    assert!(server.ticks_by(&world).is_some(), "requests of any size are taken");
}

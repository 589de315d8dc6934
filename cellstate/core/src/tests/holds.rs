//! Stories of holds on machines that have less than they gave.

use super::check;

// An earlier hold, or a mere renewal of it, took the machine from a later one for memory that it did not ask for.
#[test]
fn an_earlier_hold_takes_nothing_for_a_resource_that_it_does_not_ask_for() {
    check(
        "
        machine m1 cpu=4000 mem=100
        job late by ml tasks=1 cpu=1000 prio=10
        job early by ml tasks=1 cpu=1000 prio=90
        hold late m1 cpu=1000 mem=60
        machine m1 cpu=4000 mem=40
        hold early m1 cpu=1000
        hold? late
        hold early m1 cpu=1000 mem=1
        hold? late
        ",
        "
        late holds [m1] for 60
        late holds [] for 60
        ",
    );
}

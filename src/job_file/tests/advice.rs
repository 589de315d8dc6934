//! Whoever does what a message says gets on: quantities are told what they lack.

use super::{GROUP, HEAD, check_group, check_resources, read};

// A number with a unit was told to have one.
#[test]
fn a_quantity_is_told_what_it_lacks() {
    let whole = ["`1.5GiB` is no amount of bytes; expected a whole number and a unit, such as \"64MiB\""];
    check_resources("{ cpu = 1, memory = \"1.5GiB\" }", &whole);
    check_group("kill_timeout = \"1.5s\"", &["`1.5s` is no time; expected whole numbers with units, such as \"10s\""]);
    check_group("lost_after = \"forever\"", &["`forever` is no time", "h, d), or \"never\""]);
    check_group("lost_after = 60", &["is an integer; expected a time with a unit, such as \"10s\", or \"never\""]);
    let gpu = |gpu: &str| format!("{{ cpu = 1, memory = \"1MiB\", gpu = {gpu} }}");
    check_resources(&gpu("1.5"), &["`group.main.resources.gpu` is 1.5; expected whole GPUs, at most 64"]);
    check_resources(&gpu("\"1500m\""), &["`group.main.resources.gpu` is 1500m; expected"]);
}

// Some took it, and some did not.
#[test]
fn any_unit_may_stand_behind_a_space() {
    let group = GROUP.replace("\"1\"", "\"500 m\"").replace("64MiB", "64 MiB");
    let file = read(&format!("{HEAD}{group}kill_timeout = \"1 m 30 s\"\n"));
    let resources = file.spec.shape.unwrap().groups[0].resources.clone().unwrap();
    assert_eq!((resources.cpu_millis, resources.memory_bytes), (500, 64 << 20));
    assert_eq!(file.spec.body.unwrap().groups[0].kill_timeout_micros, 90_000_000);
    check_group("kill_timeout = \"10 \"", &["no time"]);
    check_group("kill_timeout = \"1 0s\"", &["no time"]);
}

//! Crashes of the real server, of all kinds, under load: what was acknowledged is there exactly once, with its revision and its
//! outcome, and nothing that was refused took effect.
//!
//! | module | what it is |
//! |---|---|
//! | `client`, `agent`, `picture`, `dice` | whoever works with the cell, and remembers what it was told |
//! | `load` | all of them, and what must hold of a cell that came back |
//! | `log` | what the cell's log says of transactions, beside what was told |
//! | `cell` | the server, started again and again |
//! | `volume` | a file system of the test's own, whose power can be cut |
//! | `warden` | stands between a server and its kernel |
//! | `kills` | `kill -9` at random |
//! | `full`, `limits` | full disks, failing devices, the system's limits on files |
//! | `power` | power cuts: what was not synced is gone |
//! | `syncs` | kills at exact calls, torn writes, failed syncs |
//!
//! The gate runs a few rounds of each story; `cargo xtask crash` runs as many as one likes.

mod agent;
mod cell;
mod client;
mod dice;
pub(crate) mod load;
mod log;
pub(crate) mod picture;
mod volume;
mod warden;

mod full;
mod kills;
mod limits;
mod power;
mod syncs;

/// Rounds of a story: what the gate does, unless `PLENUM_CRASH_NAME` says how many.
fn budget(name: &str, in_the_gate: u64) -> u64 {
    match std::env::var(format!("PLENUM_CRASH_{name}")) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("PLENUM_CRASH_{name}: expected a number, found {text}")),
        Err(_) => in_the_gate,
    }
}

/// The same of a story that counts how many there are. None: all of them, as the variable says `all`.
fn budget_or_all(name: &str, in_the_gate: u64) -> Option<u64> {
    let is_all = std::env::var(format!("PLENUM_CRASH_{name}")).is_ok_and(|text| text == "all");
    (!is_all).then(|| budget(name, in_the_gate))
}

//! Crashes of the real server, of all kinds, under load: what was acknowledged is there exactly once, with its revision and its
//! outcome, and nothing that was refused took effect.
//!
//! | module | what it is |
//! |---|---|
//! | `client`, `agent`, `picture`, `dice` | whoever works with the cell, and remembers what it was told |
//! | `load` | all of them, and what must hold of a cell that came back |
//! | `witness` | the separate checker, which watches all of it |
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
mod witness;

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

/// Of a story that counts how many rounds there are: how many of them `PLENUM_CRASH_NAME` asks for. None: all of them, as in the gate.
fn budget_or_all(name: &str) -> Option<u64> {
    (std::env::var(format!("PLENUM_CRASH_{name}")).is_ok() && !is_long(name)).then(|| budget(name, 0))
}

/// Whether the variable says `all`: then also of a story's long form.
fn is_long(name: &str) -> bool {
    std::env::var(format!("PLENUM_CRASH_{name}")).is_ok_and(|text| text == "all")
}

//! Seeds of the simulated cell: a thousand in the gate, as many as one likes with `cargo xtask simulate --seeds 0..10000`. And planted
//! bugs, each of which a checker finds.

mod bugs;
mod seeds;
mod stories;

//! The scheduling simulator: how architectures and policies fare on one workload, with the paper's model of what deciding costs.
//!
//! Not the fault simulator: nothing fails here. Discrete events, seeds, no clock. Whether a claim is granted is decided by the production core, on
//! the production model, from transactions as any scheduler sends them; there is no second judgement of shared state here.
//!
//! | module | what it is |
//! |---|---|
//! | `workload` | cells R1, R2 and R3, and their jobs |
//! | `settings` | what an experiment sets |
//! | `stage` | the core, and what its deltas say |
//! | `mirror`, `choice` | what a scheduler sees, and which machines it claims |
//! | `constraints` | machines that differ, and jobs that mind |
//! | `scheduler`, `simulation` | who thinks about what, and what happens when |
//! | `offers` | two levels: an allocator that offers, frameworks that answer |
//! | `mapreduce` | jobs that can grow, and the policies of how far |
//! | `agenda` | events by time |
//! | `row` | what a run comes to |
//! | `bound` | how few machines could hold what runs |

pub(crate) mod agenda;
pub(crate) mod bound;
pub(crate) mod choice;
pub(crate) mod constraints;
pub(crate) mod mapreduce;
pub(crate) mod mirror;
pub(crate) mod offers;
pub(crate) mod row;
pub(crate) mod scheduler;
pub(crate) mod settings;
pub(crate) mod simulation;
pub(crate) mod stage;
pub(crate) mod workload;

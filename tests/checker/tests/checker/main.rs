//! The checker, checked: real cells are green, and each property has a run in which it fails, here or in the tests `planted`.
//!
//! | module | |
//! |---|---|
//! | `bench` | the real core on one thread, telling a recording: for planted bugs, which are planted by thread |
//! | `traffic` | clients that make conflicts on purpose, from a seed |
//! | `restored` | a cell that is restored, on the bench |
//! | `green` | the core's runs, checked |
//! | `forged` | streams, replies and logs that were changed on their way to the checker |
//! | `replies` | replies that do not say what was done, or say it of other claims |
//! | `forged_blame` | conflicts that blame some of those who came between, and not the right ones |
//! | `forged_names` | snapshots and starts that are of another cell |
//! | `forged_rules` | who leaves, is granted or holds room against the rules, in streams and logs that were changed |
//! | `kinds` | refusals of a wrong kind, and what they blame |
//! | `asked` | guards, `sequence` and spare machines that were overlooked |
//! | `listed` | transactions whose deltas nobody heard |
//! | `untrue` | grants and refusals that say what is not so |
//! | `sectors` | a log whose last frames are damaged sector by sector |
//! | `client`, `scenes`, `served` | the real server over real connections: rivals, restarts, slow watchers, a full disk, a damaged log |
#![allow(clippy::unwrap_used)]

mod asked;
mod bench;
mod client;
mod forged;
mod forged_blame;
mod forged_names;
mod forged_rules;
mod green;
mod kinds;
mod listed;
mod replies;
mod restored;
mod scenes;
mod sectors;
mod served;
mod traffic;
mod untrue;

//! The protocol from outside: what goes in comes out, what breaks a rule is refused by name, and the format stays.
#![allow(clippy::unwrap_used, reason = "a test that unwraps fails at the right line")]

mod edge;
mod format;
mod pages;
mod round_trips;
mod strategies;
mod world;

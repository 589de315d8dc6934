//! A dumb twin of the core: short, slow and obvious, written from the design. Random commands go to both, and every answer and
//! every state must be the same.
//!
//! The twin keeps a whole picture for each revision. So it looks up what the real core works out: whether a claim's
//! obstacle was there at its base already.
#![allow(clippy::unwrap_used, reason = "a test that unwraps fails at the right line")]

mod chaos;
mod commands;
mod compare;
mod dice;
mod hindsight;
mod life;
mod picture;
mod recover;
mod rivals;
mod twin;
mod verdict;

//! The deterministic state machine that decides everything a cell decides.

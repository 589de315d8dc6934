//! A cell inside the process, for testing schedulers.

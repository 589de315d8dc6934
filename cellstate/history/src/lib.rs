//! What is kept behind the log: page images, delta blocks, transactions and conflicts.

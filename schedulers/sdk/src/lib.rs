//! What a scheduler needs: a connection, a mirror, transactions, and a runtime that retries.

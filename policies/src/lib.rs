//! Pure placement policies over packed columns.

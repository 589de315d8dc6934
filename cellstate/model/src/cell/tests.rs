//! Stories of the cell.

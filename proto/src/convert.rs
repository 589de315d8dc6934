//! Conversions between `plenum.v1` and the model, one module for each family of messages.

pub mod command;
pub mod delta;
pub mod jobs;
pub mod log;
pub mod machines;
pub mod outcome;
pub mod pages;
pub mod resources;
pub mod sections;
pub mod transaction;

mod columns;
mod enums;
mod governance;
mod newer;
mod refusal;
mod written;

use crate::error::{Invalid, Within};

/// Converts each element; a fault names its position.
fn each<W, M>(field: &str, wire: Vec<W>, mut convert: impl FnMut(W) -> Result<M, Invalid>) -> Result<Vec<M>, Invalid> {
    wire.into_iter().enumerate().map(|(position, one)| convert(one).within_at(field, position)).collect()
}

/// A message that must be there.
fn required<W>(field: &str, what: &str, wire: Option<W>) -> Result<W, Invalid> {
    wire.ok_or_else(|| Invalid::missing(field, what))
}

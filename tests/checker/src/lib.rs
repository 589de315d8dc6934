//! A checker that shares no code with what it checks.
//!
//! It follows the stream of a cell over a connection of its own, folds it with maps of its own, reads what clients logged, and
//! says which promises of the store do not hold. Of the project it knows the messages of the protocol (`plenum_proto::v1`) and
//! nothing else: neither the model, nor the core, nor the conversions that validate.
//!
//! | module | what it is |
//! |---|---|
//! | [`stream`] | what a watcher was told |
//! | [`picture`], [`fold`], [`pages`] | the cell as the checker sees it |
//! | [`chronicle`], [`words`] | the whole history, and what can be looked up in it |
//! | [`calls`] | what clients asked and were answered |
//! | [`properties`] | one function for each promise |
//! | [`watch`] | the connection |

pub mod amounts;
pub mod calls;
pub mod chronicle;
pub mod fold;
pub mod pages;
pub mod picture;
pub mod properties;
pub mod room;
pub mod stream;
pub mod violation;
pub mod watch;
pub mod words;

pub use chronicle::Chronicle;
pub use properties::{Evidence, check};
pub use stream::Recording;
pub use violation::Violation;

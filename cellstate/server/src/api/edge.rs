//! What a call passes on its way in, before anything is done for it, and its answer on its way out: who may knock, which resources are known by name here,
//! how large messages are read, and how much memory those take that arrive or that nobody reads.

pub(super) mod arriving;
pub(crate) mod budget;
pub(super) mod bypass;
pub(super) mod custom;
pub(super) mod driven;
pub(super) mod guard;
pub(super) mod metadata;
pub(crate) mod reflection;
pub(super) mod unread;

//! The built-in schedulers, each a small module on the public SDK.

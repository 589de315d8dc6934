//! The node agent: it carries out what was committed, with real isolation.

//! Real traces: read strictly from where their owner keeps them, and checked against what is known of them.
//!
//! | module | what it is |
//! |---|---|
//! | `table` | CSV, TSV and blank-separated text, plain or gzip, whose errors name file, line and column |

pub(crate) mod table;

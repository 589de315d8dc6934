//! Real traces: read strictly from where their owner keeps them, and checked against what is known of them.
//!
//! | module | what it is |
//! |---|---|
//! | `table` | CSV, TSV and blank-separated text, plain or gzip, whose errors name file, line and column |
//! | `work` | what all traces become: jobs of equal tasks, and classes of machines |
//! | `own` | one's own jobs and machines, in plain CSV |
//! | `swf` | logs of parallel machines in the Standard Workload Format |
//! | `mapreduce`, `batch`, `ml`, `services`, `cells` | what the operators of large cells published |
//! | `backup` | a live cell, from its backup |
//! | `openb` | machines and pods of a cell with GPUs |
//! | `open` | which of these a file is |
//! | `check` | sums over the known files |
//!
//! Nothing of a trace is part of the project: see docs/traces.md for where to get them.

pub(crate) mod backup;
pub(crate) mod batch;
pub(crate) mod cells;
pub(crate) mod check;
pub(crate) mod mapreduce;
pub(crate) mod ml;
pub(crate) mod open;
pub(crate) mod openb;
pub(crate) mod own;
pub(crate) mod services;
pub(crate) mod swf;
pub(crate) mod table;
pub(crate) mod work;

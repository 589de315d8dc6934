//! What a scheduler needs: a connection, a mirror, transactions, and a runtime that retries.
//!
//! Write a [`Scheduler`], and give it to [`run`]. The rest is done for it: the session and its numbers, the mirror of the cell
//! state, whose turn it is, what may be placed now, backoff and jitter, sending again what a broken connection left open.
//!
//! ```no_run
//! use plenum_sdk::{Decision, Options, Plan, Scheduler, View, asked_to_end, run};
//!
//! /// Puts tasks on the first machine that has room, until it is full.
//! struct FirstFit;
//!
//! impl Scheduler for FirstFit {
//!     fn name(&self) -> &str {
//!         "first-fit"
//!     }
//!
//!     fn decide(&mut self, view: &View<'_>) -> Decision {
//!         let (mut decision, mut plan, mut ledger) = (Decision::default(), Plan::incremental(), view.ledger());
//!         for work in view.work() {
//!             // Of a gang all that start at once, or none.
//!             let slots = ledger.fill(work, view.cell().machines().map(|machine| machine.id.slot));
//!             let (placed, left) = work.tasks.split_at(slots.len());
//!             plan.claim(work, placed, &slots);
//!             if !left.is_empty() {
//!                 decision.pass_over(work, left.len(), "no machine, or no quota, has room for it");
//!             }
//!         }
//!         decision.commit(plan);
//!         decision
//!     }
//! }
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), plenum_sdk::RunError> {
//! run(Options::new("http://127.0.0.1:7070"), FirstFit, asked_to_end()).await
//! # }
//! ```
//!
//! What people should know (no cell answers, a server lost data, a transaction was not executed, a claim could never fit) are events of
//! [`tracing`](https://docs.rs/tracing): without a subscriber, such as `tracing_subscriber::fmt().init()`, nobody hears of them.
//!
//! | module | what it knows |
//! |---|---|
//! | `scheduler`, `plan`, `view` | what a scheduler sees, and what it can say |
//! | `runtime` | the state machine between the two: no I/O, no clock, no thread |
//! | `holds` | for which jobs that starve room is to be held, and where |
//! | `shell` | the connection, the clock, and nothing to decide |
//! | `client` | calls of the API beside a session: [`Client`], for frameworks that submit and launch; their messages are in [`api`] |
//! | `draft` | jobs to submit, with what job files fill in |
//! | `picture`, `watch` | the mirror of who has no session: [`Watch`], for frameworks that look and act; `picture` is without I/O |
//!
//! A scheduler sees nothing of the core or the server: whoever speaks `plenum.v1` can do all of this from any language.

mod address;
mod ahead;
mod backoff;
mod client;
mod counters;
mod draft;
mod holds;
mod in_flight;
mod leaving;
mod line;
mod mirror;
mod notes;
mod picture;
mod plan;
mod portion;
mod pulses;
mod queue;
mod quotas;
mod repeats;
mod runtime;
mod scheduler;
mod seen;
mod settings;
mod share;
mod shell;
mod signals;
mod specials;
mod view;
mod watch;
mod wire;

pub use address::RunError;
pub use backoff::Backoff;
pub use client::{Client, Signature, Signed};
pub use counters::Counters;
pub use draft::{GroupDraft, JobDraft};
pub use plan::{Plan, PlanError};
pub use quotas::Quotas;
pub use runtime::{HoldAnswer, Input, Loss, Notice, Output, SchedulerRuntime};
pub use scheduler::{Decision, Ended, PassedOver, Scheduler, Unanswered};
pub use settings::{Holding, Settings, SettingsError};
pub use shell::{Options, run};
pub use signals::asked_to_end;
pub use specials::Specials;
pub use view::{Ledger, View, Work};
pub use watch::{Watch, WatchError};

pub use bytes;
pub use plenum_model as model;
pub use plenum_proto::error::{code_of, is_unanswered, retry_micros_of, words};
pub use plenum_proto::v1 as api;
pub use tonic;

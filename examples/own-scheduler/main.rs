//! A scheduler of one's own: cheapest machine first.
//!
//! Jobs ask for it with `scheduler = "thrifty"`. Machines say their price with the attribute `price`; one without a price is
//! dearest. It fills the cheapest machine before it touches the next one, so that dear machines stay empty, and can be given
//! back. Nothing in the cell has to know of it: it is a process like any other, and commits what it decides.
//!
//! ```sh
//! plenum dev &                                                     # a cell on this machine
//! cargo run --release -p plenum-sdk --example own-scheduler &      # this scheduler; PLENUM_ADDR says where the cell is
//! plenum job run examples/own-scheduler/job.toml --wait
//! ```
#![allow(clippy::print_stdout, reason = "it tells the terminal what it does")]

use std::cmp::Ordering;

use plenum_sdk::model::{Machine, Outcome, Special, compare_values};
use plenum_sdk::{Decision, Options, Plan, RunError, Scheduler, View, asked_to_end, run};

/// All that it remembers: nothing. What it needs to know stands in the mirror, which the runtime keeps.
struct Thrifty;

impl Scheduler for Thrifty {
    /// The name that job files ask for.
    fn name(&self) -> &str {
        "thrifty"
    }

    /// Called when something happened that concerns our jobs: one was submitted, a task ended, room came free, a claim was lost.
    fn decide(&mut self, view: &View<'_>) -> Decision {
        // The snapshot that we decide on. Others commit meanwhile; what they take comes back to us as a refused claim.
        let mut machines: Vec<&Machine> = view.cell().machines().map(|machine| &**machine).collect();
        machines.sort_by(|one, other| cheaper(one, other));

        let mut decision = Decision::default();
        // Claims are granted one by one, as far as they fit. `Plan::all_or_nothing` would be for gangs.
        let mut plan = Plan::incremental().decided_by("cheapest-first", &[]);
        // The room that is left by what we claim in this very decision, and by our transactions in flight.
        let mut ledger = view.ledger();
        // What found no room. Nothing comes free within a decision, so that equal needs find none either: to try them would cost a look at each machine.
        let mut hopeless = Vec::new();

        // Work: tasks that may be placed now, most important first. Those of one group are all alike.
        for work in view.work() {
            // One machine after the other, until it is full. The judgement is the cell's own code: room, constraints, a machine's state, the
            // namespace's quota. What is refused here would be refused there. Of a gang it is all that start at once, or none.
            let need = (&work.shape().resources, &work.shape().constraints);
            // Its own hold is room that others did not find.
            let is_hopeless = hopeless.contains(&need) && view.cell().hold(work.job.id).is_none();
            let tried = machines.iter().filter(|_| !is_hopeless);
            let claimed = ledger.fill(work, tried.map(|machine| machine.id.slot));
            let (placed, left) = work.tasks.split_at(claimed.len());
            plan.claim(work, placed, &claimed);
            if !left.is_empty() {
                // Whoever asks why the job waits reads this. We are called again when room comes free.
                let why = if ledger.quota_shortage(work).is_some() {
                    "its quota allows no more of it".to_owned()
                } else if claimed.is_empty() && work.least > 1 {
                    format!("machines and quota have no room for the {} that start at once", work.least)
                } else {
                    // Of one that is bound to a machine, to limits, devices or ports that may be why.
                    if !is_hopeless && !work.job.shape.same_machine && !Special::is_needed_by(work.shape()) {
                        hopeless.push(need);
                    }
                    "no machine takes it, at any price".to_owned()
                };
                decision.pass_over(work, left.len(), why);
            }
        }
        decision.commit(plan);
        decision
    }

    /// Hears what became of a transaction. Nothing has to be done about refused claims: their tasks are offered again.
    fn outcome(&mut self, outcome: &Outcome) {
        println!("{}: {} of {} claims granted", outcome.id, outcome.granted(), outcome.claims());
        for refusal in &outcome.refusals {
            let culprits: Vec<_> = refusal.culprits.iter().map(|culprit| &*culprit.scheduler).collect();
            println!("  task {} refused: {:?} by {}", refusal.task, refusal.reason, culprits.join(", "));
        }
    }
}

/// By price, then by name. Digits in prices compare as numbers.
fn cheaper(one: &Machine, other: &Machine) -> Ordering {
    let by_price = match (one.attributes.get("price"), other.attributes.get("price")) {
        (Some(one), Some(other)) => compare_values(one, other),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    };
    by_price.then_with(|| one.name.cmp(&other.name))
}

#[tokio::main]
async fn main() -> Result<(), RunError> {
    // What the runtime has to say, such as that no cell answers, it says as events of `tracing`: without this nobody hears it.
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let address = std::env::var("PLENUM_ADDR").unwrap_or_else(|_| "http://127.0.0.1:7070".to_owned());
    let mut options = Options::new(address);
    // Who decided it, for histories. Whoever is this principal may schedule the jobs that name `thrifty`, and no others.
    options.principal = "scheduler/thrifty".into();
    // Ctrl-C and SIGTERM end it in order, with its session: else its jobs would be another one's for ten minutes.
    run(options, Thrifty, asked_to_end()).await
}

//! A team's scheduler that wants the same machines as its rival: started twice, as `blue` and as `green`.
//!
//! Both fill the machines in the order of their names, and both think for a while about it. So both decide on the same snapshot,
//! and claim the same room: whoever commits first gets it, the other one loses a race, learns to whom, and tries again. Nothing
//! is locked meanwhile, and nothing is ever booked twice.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it tells the terminal what it does")]

use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use plenum_sdk::model::{Outcome, RefusalKind};
use plenum_sdk::{Decision, Options, Plan, Scheduler, View, asked_to_end, run};

/// How long a decision takes. A real team would solve an optimisation problem meanwhile.
const THINKING: Duration = Duration::from_millis(100);

struct Team {
    name: String,
}

impl Scheduler for Team {
    fn name(&self) -> &str {
        &self.name
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let mut machines: Vec<_> =
            view.cell().machines().map(|machine| (machine.name.clone(), machine.id.slot)).collect();
        machines.sort();
        // The snapshot stays as it is while we think. The cell does not.
        sleep(THINKING);

        let (mut decision, mut plan, mut ledger) = (Decision::default(), Plan::incremental(), view.ledger());
        for work in view.work() {
            // Of a gang all that start at once, or none.
            let claimed = ledger.fill(work, machines.iter().map(|(_, slot)| *slot));
            let (placed, left) = work.tasks.split_at(claimed.len());
            plan.claim(work, placed, &claimed);
            if !left.is_empty() {
                decision.pass_over(work, left.len(), "machines or quota have no room for more of it");
            }
        }
        decision.commit(plan);
        decision
    }

    fn outcome(&mut self, outcome: &Outcome) {
        let lost = outcome.refusals.iter().filter(|refusal| refusal.kind == RefusalKind::Conflict);
        let mut culprits: Vec<&str> =
            lost.flat_map(|refusal| &refusal.culprits).map(|culprit| &*culprit.scheduler).collect();
        culprits.sort_unstable();
        culprits.dedup();
        let lost =
            if culprits.is_empty() { String::new() } else { format!(", lost the rest to {}", culprits.join(", ")) };
        println!("{}: {} of {} claims granted{lost}", self.name, outcome.granted(), outcome.claims());
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let Some(name) = std::env::args().nth(1) else {
        eprintln!("expected the name of a team: two-teams blue");
        return ExitCode::from(2);
    };
    let address = std::env::var("PLENUM_ADDR").unwrap_or_else(|_| "http://127.0.0.1:7070".to_owned());
    let mut options = Options::new(address);
    options.principal = format!("scheduler/{name}");
    match run(options, Team { name }, asked_to_end()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

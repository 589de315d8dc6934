//! Revisions of the log in a line each, for the story.

use plenum_model::{Command, Decision, Outcome, Request};

/// What was asked, and what came of it.
pub(crate) fn revision(request: &Request, decision: &Decision) -> String {
    let asked = command(&request.command);
    match decision {
        Decision::Outcome(outcome) => format!("{asked} → {}", outcome_line(outcome)),
        Decision::Accepted { .. } => asked,
        Decision::Rejected(rejection) => format!("{asked} → {}", rejection.code),
    }
}

/// A command, without its bulk.
pub(crate) fn command(command: &Command) -> String {
    match command {
        Command::OpenServer(identity) => format!("a server opens, term {}", identity.term),
        Command::OpenSession { scheduler } => format!("{scheduler} opens a session"),
        Command::CloseSession(session) => format!("session {} is closed", session.0),
        Command::Commit(transaction, _) => {
            let (claims, base) = (transaction.claims(), transaction.base);
            format!("{} claims {claims} on base {base}", transaction.id)
        }
        Command::SubmitJob { shape, .. } => {
            let groups: Vec<String> = shape
                .groups
                .iter()
                .map(|group| format!("{}×{} of {} millis", group.count, group.name, group.resources.cpu_millis))
                .collect();
            format!("{} is submitted for {}: {}", shape.name, shape.scheduler, groups.join(", "))
        }
        Command::RegisterMachine { name, boot_id, inventory, .. } => {
            format!("{name} registers, {boot_id}, with {} tasks", inventory.len())
        }
        Command::ReportStatus(transitions) => {
            let lines: Vec<String> = transitions
                .iter()
                .map(|one| format!("{} {:?} in epoch {} of {}", one.allocation, one.state, one.epoch, one.machine))
                .collect();
            format!("reported: {}", lines.join(", "))
        }
        other => format!("{other:?}"),
    }
}

fn outcome_line(outcome: &Outcome) -> String {
    let mut line = format!("{} of {} granted", outcome.granted(), outcome.claims());
    for refusal in &outcome.refusals {
        let (kind, reason) = (refusal.kind, refusal.reason);
        line += &format!(
            "; {}[{}].{} on {}: {kind:?} {reason:?}",
            refusal.job, refusal.group, refusal.task, refusal.machine
        );
    }
    line
}

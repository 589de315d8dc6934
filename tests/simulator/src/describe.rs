//! What was asked and what came of it, in lines: for transcripts of runs, and for stories.

use plenum_model::{
    AllocationId, Cell, Command, Decision, Delta, FoundMachine, JobChange, LogTime, Outcome, Refusal, SessionChange,
};

use crate::server::BEGIN_MICROS;

/// A step of a story: when it was asked, and the command's text.
pub(crate) fn asked(time: LogTime, text: &str) -> String {
    let micros = time.micros - BEGIN_MICROS;
    format!("@{}.{:06} {text}", micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000))
}

/// What came of it, in lines that begin with two blanks. `before` knows the rows that end.
pub(crate) fn decided(decision: &Decision, delta: Option<&Delta>, before: &Cell) -> Vec<String> {
    let mut lines = Vec::new();
    match decision {
        Decision::Accepted { id, version } => lines.push(format!("  accepted: {id}, version {version}")),
        Decision::Rejected(rejection) => lines.push(format!("  rejected: {}: {}", rejection.code, rejection.message)),
        Decision::Outcome(outcome) => outcome_lines(outcome, &mut lines),
    }
    match delta {
        None => lines.push("  nothing changed".to_owned()),
        Some(delta) => delta_lines(delta, before, &mut lines),
    }
    lines
}

fn outcome_lines(outcome: &Outcome, lines: &mut Vec<String>) {
    let (granted, claims) = (outcome.granted(), outcome.claims());
    lines.push(format!("  {}: {:?}, {granted} of {claims} granted", outcome.id, outcome.outcome));
    for refusal in &outcome.refusals {
        lines.push(refusal_line(refusal));
        for culprit in &refusal.culprits {
            let who = culprit
                .transaction
                .map_or_else(|| culprit.event.to_string(), |id| format!("{id} of {}", culprit.scheduler));
            lines.push(format!("      culprit: {who} at {}, {} taken", culprit.revision, culprit.amount));
        }
    }
    if !outcome.idle_stops.is_empty() {
        lines.push(format!("    nothing to stop at {:?}", outcome.idle_stops));
    }
}

fn refusal_line(refusal: &Refusal) -> String {
    let Refusal { kind, reason, job, group, task, machine, .. } = refusal;
    let what = match refusal.claim {
        Some(_) => format!("task {task} of {job}[{group}] on {machine}"),
        None => format!("the whole, for {job}"),
    };
    let short = refusal.short.map_or_else(String::new, |(resource, by)| format!(", {resource:?} short by {by}"));
    format!("    refused: {what}: {kind:?} {reason:?}{short}")
}

fn delta_lines(delta: &Delta, before: &Cell, lines: &mut Vec<String>) {
    lines.push(format!("  revision {}", delta.revision));
    for machine in &delta.machines {
        let (id, state, epoch) = (machine.id, machine.state, machine.epoch);
        lines.push(format!("    {} is {id}: {state:?}, epoch {epoch}", machine.name));
    }
    for grants in &delta.grants {
        for (claim, &slot) in grants.slots.iter().enumerate() {
            let id = AllocationId { slot, generation: grants.generations[claim] };
            let (task, machine) = (grants.tasks[claim], grants.machines[claim]);
            lines.push(format!("    {id} is granted: task {task} of {}[{}] on {machine}", grants.job, grants.group));
        }
    }
    let id =
        |slot: u32| before.allocation_in(slot).map_or_else(|| format!("slot {slot}"), |found| found.id.to_string());
    for change in &delta.moves {
        let ready = if change.status.ready { ", ready" } else { "" };
        lines.push(format!("    {} is {:?}{ready}", id(change.slot), change.status.state));
    }
    for end in &delta.ends {
        let reason = end.reason.as_deref().map_or_else(String::new, |reason| format!(": {reason}"));
        lines.push(format!("    {} ends {:?}{reason}", id(end.slot), end.state));
    }
    for change in &delta.tasks {
        lines.push(format!("    task {} of group row {} is {:?}", change.task, change.group_row, change.state));
    }
    for change in &delta.jobs {
        lines.push(match change {
            JobChange::Put { job, .. } => format!("    {} is {}, version {}", job.shape.name, job.id, job.version),
            JobChange::State { id, state, reason } if reason.is_empty() => format!("    {id} is {state:?}"),
            JobChange::State { id, state, reason } => format!("    {id} is {state:?}: {reason}"),
            other => format!("    {other:?}"),
        });
    }
    for change in &delta.sessions {
        if let SessionChange::Opened { scheduler, .. } = change {
            lines.push(format!("    session {} of {scheduler}", delta.revision));
        }
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
        Command::RegisterMachine(FoundMachine { name, boot_id, inventory, .. }) => {
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

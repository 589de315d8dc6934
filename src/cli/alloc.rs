//! `plenum alloc`: list, show, read the logs of, and stop allocations.

use plenum_proto::v1::{
    AllocationHistoryRequest, At, GetAllocationRequest, ListAllocationsRequest, ListAllocationsResponse, LogsRequest,
    StopAllocationRequest,
};

use super::{
    Context,
    args::Alloc,
    history,
    job::{list_request, tell_change},
    logs, target,
    watch::{self, Listed},
};
use crate::{
    failure::Failure,
    output::{self, Format, Row},
};

/// Says so to people where there are more allocations of what is shown than the server lists.
pub(super) fn tell_of_more(context: &Context, listed: &ListAllocationsResponse) {
    if listed.truncated && matches!(context.format, Format::Table | Format::Wide) {
        output::tell("there are more allocations; see them with `plenum alloc list` and --filter");
    }
}

pub(super) async fn run(context: &Context, command: Alloc) -> Result<(), Failure> {
    match command {
        Alloc::List { job, machine, all, listing } => {
            let connection = context.connect_to_read(listing.at).await?;
            let request = ListAllocationsRequest {
                list: Some(list_request(context, &listing)),
                job: job.unwrap_or_default(),
                machine: machine.unwrap_or_default(),
                ended: all,
            };
            watch::print(context.format, listing.watch, async || {
                let answer = connection.jobs().list_allocations(request.clone()).await?.into_inner();
                Ok(Listed::of(context.format, answer.revision, &answer.allocations, answer.truncated, listing.limit))
            })
            .await
        }
        Alloc::Show { id, at, history } => show(context, &id, at, history).await,
        Alloc::Logs { id, follow, stderr, tail } => {
            let allocation = target::allocation(&id)?;
            if matches!(context.format, Format::Json | Format::Yaml) {
                let what = "a log is printed as the task printed it, in no other format";
                return Err(
                    Failure::usage(what).with_hint("leave -o out; bytes that are missing are told on standard error")
                );
            }
            let tail_lines = tail.map_or(0, |lines| lines.max(1));
            let only_new = tail == Some(0);
            logs::print(context, LogsRequest { allocation, stderr, follow, tail_lines, only_new, from: None }).await
        }
        Alloc::Stop { id } => {
            let request = StopAllocationRequest { allocation: target::allocation(&id)? };
            let answer = context.connect().await?.jobs().stop_allocation(request).await?.into_inner();
            tell_change(context, &answer, &id, "stopping", "is leaving or has ended already")
        }
    }
}

/// One allocation, with its story if that is asked for.
async fn show(context: &Context, id: &str, at: Option<At>, history: bool) -> Result<(), Failure> {
    let allocation = target::allocation(id)?;
    let connection = context.connect_to_read(at).await?;
    let request = GetAllocationRequest { allocation, at };
    let view = connection.jobs().get_allocation(request).await?.into_inner();
    let mut object = view.to_json();
    let mut events = String::new();
    if history {
        let request = AllocationHistoryRequest { allocation, at, limit: 0 };
        let story = connection.jobs().allocation_history(request).await?.into_inner();
        object["history"] = history::to_json(&story);
        events = format!("\n{}", output::listing(context.format, story.revision, &story.events, false));
        history::tell_what_is_missing(context, &story);
    }
    let text = || {
        let titles = [
            "id",
            "job",
            "task",
            "machine",
            "state",
            "attempt",
            "restarts",
            "exit code",
            "age",
            "namespace",
            "scheduler",
            "resources",
            "ports",
            "devices",
            "transaction",
            "revision",
            "reason",
        ];
        let mut pairs: Vec<_> = titles.into_iter().zip(view.cells()).collect();
        // Only what was granted on room that others are leaving does.
        let waits_for = output::waits_for(&view);
        if !waits_for.is_empty() {
            pairs.push(("waits for", format!("the end of {}", waits_for.join(", "))));
        }
        output::fields(&pairs) + &events
    };
    output::print(&output::object(context.format, &object, &view.name(), text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cli::block_on, failure::EXIT_USAGE};

    // It ended with 1 and told of the missing cell, where a slip in the id is wrong usage whether or not there is one.
    #[test]
    fn an_id_that_is_none_is_told_before_a_missing_cell() {
        let address = "http://127.0.0.1:1".to_owned();
        let context = Context { address, address_given: None, namespace: None, format: Format::Table };
        let id = || "web".to_owned();
        for command in [
            Alloc::Show { id: id(), at: None, history: false },
            Alloc::Logs { id: id(), follow: false, stderr: false, tail: None },
            Alloc::Stop { id: id() },
        ] {
            let failed = block_on(run(&context, command)).and_then(|failed| failed);
            assert_eq!(failed.map_err(|failure| failure.exit), Err(EXIT_USAGE));
        }
    }
}

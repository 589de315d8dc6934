//! `plenum machine`: list, show, cordon, uncordon and remove machines.

use plenum_proto::v1::{
    CordonRequest, GetMachineRequest, ListAllocationsRequest, ListRequest, MachineHistoryRequest, MachineView,
    RemoveMachineRequest,
};

use super::{
    Context,
    args::Machine,
    history,
    job::{list_request, tell_change},
    watch::{self, Listed},
};
use crate::{
    failure::Failure,
    output::{self, Row},
};

pub(super) async fn run(context: &Context, command: Machine) -> Result<(), Failure> {
    let connection = context.connect().await?;
    match command {
        Machine::List(listing) => {
            watch::print(context.format, listing.watch, async || {
                let request = list_request(context, &listing);
                let answer = connection.inspect().list_machines(request).await?.into_inner();
                let text = output::listing(context.format, answer.revision, &answer.machines, answer.truncated);
                Ok(Listed { revision: answer.revision, text, truncated: answer.truncated && listing.limit == 0 })
            })
            .await
        }
        Machine::Show { name, at, history } => {
            let request = GetMachineRequest { name: name.clone(), at };
            let answer = connection.inspect().get_machine(request).await?.into_inner();
            let Some(view) = answer.machine else {
                return Err(Failure::new("NO_SUCH_MACHINE", format!("there is no machine {name}")));
            };
            let list = Some(ListRequest { at, ..ListRequest::default() });
            let request = ListAllocationsRequest { list, machine: name, ..ListAllocationsRequest::default() };
            let allocations = connection.jobs().list_allocations(request).await?.into_inner().allocations;
            let mut object = view.to_json();
            object["revision"] = answer.revision.into();
            let mut events = String::new();
            if history {
                let request = MachineHistoryRequest { name: view.name.clone(), at, limit: 0 };
                let story = connection.inspect().machine_history(request).await?.into_inner();
                object["history"] = history::to_json(&story);
                events = format!("\n{}", output::listing(context.format, story.revision, &story.events, false));
                history::tell_what_is_missing(context, &story);
            }
            let text = || {
                let rows = output::listing(context.format, answer.revision, &allocations, false);
                format!("{}\n{rows}{events}", fields(&view))
            };
            output::print(&output::object(context.format, &object, &view.name(), text))
        }
        Machine::Cordon { name } => cordon(context, connection, name, true).await,
        Machine::Uncordon { name } => cordon(context, connection, name, false).await,
        Machine::Remove { name } => {
            let request = RemoveMachineRequest { name: name.clone() };
            let answer = connection.inspect().remove_machine(request).await?.into_inner();
            tell_change(context, &answer, &name, "removed", "is gone already")
        }
    }
}

async fn cordon(
    context: &Context,
    connection: crate::connect::Connection,
    name: String,
    cordoned: bool,
) -> Result<(), Failure> {
    let request = CordonRequest { name: name.clone(), cordoned };
    let answer = connection.inspect().cordon_machine(request).await?.into_inner();
    let (done, idle) =
        if cordoned { ("cordoned", "is cordoned already") } else { ("takes claims again", "is not cordoned") };
    tell_change(context, &answer, &name, done, idle)
}

fn fields(view: &MachineView) -> String {
    let titles = ["name", "state", "cpu", "memory", "allocations", "age", "id", "epoch", "disk", "since"];
    let mut pairs: Vec<(&str, String)> = titles.into_iter().zip(view.cells()).collect();
    for (name, value) in &view.attributes {
        pairs.push(("attribute", format!("{name} = {value}")));
    }
    output::fields(&pairs)
}

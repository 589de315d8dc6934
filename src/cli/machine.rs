//! `plenum machine`: list, show, cordon, drain and remove machines.

use std::collections::BTreeMap;

use plenum_proto::v1::{
    AdoptTaskRequest, AllocationView, At, ChangeResponse, CordonRequest, DrainRequest, GetMachineRequest,
    ListAllocationsRequest, ListAllocationsResponse, ListMachinesResponse, ListRequest, ListUnknownTasksResponse,
    MachineHistoryRequest, MachineState, MachineView, RemoveMachineRequest, Unfit, UnknownTaskView,
};
use serde_json::{Value, json};

use super::{
    Context, alloc,
    args::Machine,
    drain, hints, history,
    job::{list_request, of_one_revision, tell_change, tell_change_with},
    target,
    watch::{self, Listed},
};
use crate::{
    connect::Connection,
    failure::Failure,
    output::{self, Row},
};

/// The state of machines that take no claims, in words.
const CORDONED: &str = "cordoned";

pub(super) async fn run(context: &Context, command: Machine) -> Result<(), Failure> {
    let (at, timeout) = match &command {
        Machine::List(listing) => (listing.at, None),
        Machine::Show { at, .. } => (*at, None),
        Machine::Drain { timeout, .. } => (None, *timeout),
        _ => (None, None),
    };
    let context = &context.within(timeout);
    let connection = context.connect_to_read(at).await?;
    match command {
        Machine::List(listing) => {
            watch::print(context.format, listing.watch, async || {
                let request = list_request(context, &listing);
                let answer = connection.inspect().list_machines(request).await?.into_inner();
                let rows = &answer.machines;
                let listed = Listed::of(context.format, answer.revision, rows, answer.truncated, listing.limit);
                Ok(Listed { hint: where_unknown(rows), ..listed })
            })
            .await
        }
        Machine::Show { name, at, history } => show(context, &connection, name, at, history).await,
        Machine::Cordon { name } => cordon(context, connection, name, true).await,
        Machine::Uncordon { name } => cordon(context, connection, name, false).await,
        Machine::Drain { name, deadline, no_wait, timeout } => {
            let (answer, idle) = drain::begin(&connection, &name, deadline).await?;
            if no_wait {
                let now = now(&connection, &name).await;
                return tell_standing(context, &answer, &name, ("draining", &idle), now.as_ref());
            }
            if !answer.changed {
                output::tell(&format!("{name}: {idle}"));
            }
            drain::wait(context, &connection, &name, &answer, timeout).await
        }
        Machine::Undrain { name } => {
            let request = DrainRequest { name: name.clone(), undrain: true, within_micros: 0 };
            let answer = connection.govern().drain_machine(request).await?.into_inner();
            let words = ["is drained no more", "is drained no more", "is not drained"];
            tell_ended(context, &connection, &answer, &name, words).await
        }
        Machine::Adopt { name, id } => {
            let request = AdoptTaskRequest { machine: name.clone(), allocation: target::allocation(&id)? };
            let answer = connection.govern().adopt_task(request).await?.into_inner();
            tell_change(context, &answer, &id, "adopted: it runs until it ends by itself", "is adopted already")
        }
        Machine::Remove { name, force } => remove(context, &connection, name, force).await,
    }
}

/// Of machines by state, as they were at a moment or are: how many of the cordoned ones their own agents cordoned, by why. Nothing where that can't be told
/// soon, or not of all.
pub(super) async fn unfit_counts(
    connection: &Connection,
    by_state: &BTreeMap<String, u64>,
    at: Option<At>,
) -> Option<BTreeMap<&'static str, u64>> {
    if by_state.get(CORDONED).is_none_or(|count| *count == 0) {
        return Some(BTreeMap::new());
    }
    let request = ListRequest { at, filter: format!("state={CORDONED}"), ..ListRequest::default() };
    let answer = hints::besides(hints::look_until(None), connection.inspect().list_machines(request)).await?;
    unfit_of(&answer)
}

fn unfit_of(cordoned: &ListMachinesResponse) -> Option<BTreeMap<&'static str, u64>> {
    let mut counts = BTreeMap::new();
    for (word, _) in cordoned.machines.iter().filter_map(output::unfit) {
        *counts.entry(word).or_default() += 1;
    }
    (!cordoned.truncated).then_some(counts)
}

/// Tells these apart from the machines that operators cordoned, as lists do.
pub(super) fn tell_unfit(by_state: &mut BTreeMap<String, u64>, unfit: &BTreeMap<&'static str, u64>) {
    for (word, count) in unfit {
        let Some(cordoned) = by_state.get_mut(CORDONED) else { return };
        // Some may have become so since the states were counted.
        let count = (*count).min(*cordoned);
        *cordoned -= count;
        by_state.insert(format!("{CORDONED} ({word})"), count);
    }
}

/// Where tasks run that the cell does not know, and how to see them.
fn where_unknown(rows: &[MachineView]) -> Option<String> {
    let first = rows.iter().find(|row| row.unknown_tasks > 0)?;
    Some(format!("unknown: tasks that the cell does not know; `plenum machine show {}` lists those of {0}", first.name))
}

async fn show(
    context: &Context,
    connection: &Connection,
    name: String,
    at: Option<At>,
    history: bool,
) -> Result<(), Failure> {
    let list = Some(ListRequest { at, ..ListRequest::default() });
    let request = ListAllocationsRequest { list, machine: name.clone(), ..ListAllocationsRequest::default() };
    let allocations = async || {
        let listed = connection.jobs().list_allocations(request.clone()).await?.into_inner();
        Ok((listed.revision, listed))
    };
    let shown = of_one_revision(async || with_unknown(connection, &name, at).await, allocations).await;
    let (revision, (view, unknown), listed) = match shown {
        Err(failure) if failure.code == "NO_SUCH_MACHINE" && history => {
            return show_removed(context, connection, &name, at).await;
        }
        Err(failure) if failure.code == "NO_SUCH_MACHINE" => {
            let command = format!("machine show {name} --history");
            return Err(failure.with_hint(history::where_its_story_is("it was removed", &command, at)));
        }
        shown => shown?,
    };
    let mut object = to_json(revision, &view, &listed, &unknown);
    let (mut rest, mut told) = (String::new(), None);
    if !unknown.tasks.is_empty() {
        rest = format!("\n{}", output::listing(context.format, revision, &unknown.tasks, false));
    }
    if history {
        let request = MachineHistoryRequest { name: view.name.clone(), at, limit: 0 };
        let story = connection.inspect().machine_history(request).await?.into_inner();
        object["history"] = history::to_json(&story);
        rest.push_str(&format!("\n{}", output::listing(context.format, story.revision, &story.events, false)));
        told = Some(story);
    }
    let is_drained_now = view.drain_deadline_micros > 0 && at.is_none() && !listed.allocations.is_empty();
    let stays = if is_drained_now { drain::why_left(connection, &listed.allocations).await.0 } else { Vec::new() };
    object["left"] = json!(stays);
    let text = || {
        let rows = output::listing(context.format, revision, &listed.allocations, false);
        format!("{}\n{rows}{rest}", fields(&view, (&listed.allocations, &unknown.tasks), &stays))
    };
    output::print(&output::object(context.format, &object, &view.name(), text))?;
    alloc::tell_of_more(context, &listed);
    // Behind what it is about.
    if let Some(story) = told {
        history::tell_what_is_missing(context, &story);
    }
    Ok(())
}

/// What programs read. `allocations` is how many there are, as in lists; of so many not all may stand here.
fn to_json(
    revision: u64,
    view: &MachineView,
    listed: &ListAllocationsResponse,
    unknown: &ListUnknownTasksResponse,
) -> Value {
    let mut object = view.to_json();
    object["revision"] = json!(revision);
    object["partitions"] = json!(view.partitions);
    object["holds"] = view.holds.iter().map(Row::to_json).collect();
    object["live"] = listed.allocations.iter().map(Row::to_json).collect();
    object["unknown"] = unknown.tasks.iter().map(Row::to_json).collect();
    if listed.truncated || unknown.truncated {
        object["truncated"] = json!(true);
    }
    object
}

/// The story of a machine that is not there any more; there is nothing else to show of it.
async fn show_removed(context: &Context, connection: &Connection, name: &str, at: Option<At>) -> Result<(), Failure> {
    let request = MachineHistoryRequest { name: name.to_owned(), at, limit: 0 };
    let story = connection.inspect().machine_history(request).await?.into_inner();
    let state = output::machine_state(MachineState::Gone);
    let object = json!({"name": name, "state": state, "revision": story.revision, "history": history::to_json(&story)});
    let text = || {
        let fields = output::fields(&[("name", name.to_owned()), ("state", state.to_owned())]);
        format!("{fields}\n{}", output::listing(context.format, story.revision, &story.events, false))
    };
    output::print(&output::object(context.format, &object, name, text))?;
    history::tell_what_is_missing(context, &story);
    history::tell_how_it_was(context, &story, &format!("machine show {name}"));
    Ok(())
}

/// A machine, and the tasks on it that the cell does not know, as they are at one revision.
async fn with_unknown(
    connection: &Connection,
    name: &str,
    at: Option<At>,
) -> Result<(u64, (MachineView, ListUnknownTasksResponse)), Failure> {
    let machine = async || {
        let answer = connection.inspect().get_machine(GetMachineRequest { name: name.to_owned(), at }).await?;
        let answer = answer.into_inner();
        let missing = || Failure::new("NO_SUCH_MACHINE", format!("there is no machine {name}"));
        Ok::<_, Failure>((answer.revision, answer.machine.ok_or_else(missing)?))
    };
    let (revision, view) = machine().await?;
    if view.unknown_tasks == 0 {
        return Ok((revision, (view, ListUnknownTasksResponse::default())));
    }
    let request = ListRequest { at, filter: format!("machine={name}"), ..ListRequest::default() };
    let unknown = async || {
        let listed = connection.govern().list_unknown_tasks(request.clone()).await?.into_inner();
        Ok((listed.revision, listed))
    };
    let (revision, view, unknown) = of_one_revision(machine, unknown).await?;
    Ok((revision, (view, unknown)))
}

async fn cordon(context: &Context, connection: Connection, name: String, cordoned: bool) -> Result<(), Failure> {
    let request = CordonRequest { name: name.clone(), cordoned };
    let answer = connection.inspect().cordon_machine(request).await?.into_inner();
    if cordoned {
        let now = now(&connection, &name).await;
        return tell_standing(context, &answer, &name, ("cordoned", "is cordoned already"), now.as_ref());
    }
    let words = ["takes claims again", "is cordoned no more", "is not cordoned"];
    tell_ended(context, &connection, &answer, &name, words).await
}

/// Removes a machine, and says so where it may be back in a moment.
async fn remove(context: &Context, connection: &Connection, name: String, force: bool) -> Result<(), Failure> {
    // Asked before: of what is gone nobody tells whether its lease still ran.
    let request = GetMachineRequest { name: name.clone(), at: None };
    let before = match connection.inspect().get_machine(request).await.map_err(Failure::from) {
        // The removal would only wait as long once more.
        Err(failure) if failure.code == "UNAVAILABLE" => return Err(failure),
        before => before.ok().and_then(|answer| answer.into_inner().machine),
    };
    let machine = before.as_ref().map_or(0, |before| before.id);
    let request = RemoveMachineRequest { name: name.clone(), force, machine };
    let answer = connection.inspect().remove_machine(request).await?.into_inner();
    tell_change(context, &answer, &name, "removed", "is gone already")?;
    if let Some(words) = before.as_ref().filter(|_| answer.changed).and_then(comes_back) {
        output::tell(&words);
    }
    Ok(())
}

/// What becomes of a machine that was removed while its agent may still run; nothing where that one has left, or was not heard for too long.
fn comes_back(before: &MachineView) -> Option<String> {
    let has_lease = matches!(before.state(), MachineState::Ready | MachineState::Cordoned | MachineState::Draining);
    (has_lease && before.unfit() != Unfit::AgentLeaves).then(|| {
        format!(
            "warning: the lease of {name} had not run out: an agent that still runs there brings it back within moments, as a new machine that \
             is neither drained nor cordoned; stop that agent, and the unit that would start it, and then remove {name} again",
            name = before.name
        )
    })
}

/// Says that a cordon or a drain was ended, and why the machine takes no claims all the same where it takes none.
async fn tell_ended(
    context: &Context,
    connection: &Connection,
    answer: &ChangeResponse,
    name: &str,
    words: [&str; 3],
) -> Result<(), Failure> {
    let now = now(connection, name).await;
    let (done, idle) = ended_words(now.as_ref(), words);
    tell_standing(context, answer, name, (&done, &idle), now.as_ref())
}

/// What is said of a cordon or a drain that was ended, and of one that there was not, where the machine stands like this. That it takes claims again is
/// not said where nobody told how it stands.
fn ended_words(now: Option<&MachineView>, [done, ended, idle]: [&str; 3]) -> (String, String) {
    match now.map(still_none) {
        None => (ended.to_owned(), idle.to_owned()),
        Some(None) => (done.to_owned(), idle.to_owned()),
        Some(Some(why)) => (format!("{ended}, and takes no claims: {why}"), format!("{idle}: {why}")),
    }
}

/// A machine after a change, where the cell tells that soon. It may be gone by now, which is no failure of what was asked.
async fn now(connection: &Connection, name: &str) -> Option<MachineView> {
    let request = GetMachineRequest { name: name.to_owned(), at: None };
    hints::besides(hints::look_until(None), connection.inspect().get_machine(request)).await?.machine
}

/// Says what a change did, and to programs how the machine stands now.
fn tell_standing(
    context: &Context,
    answer: &ChangeResponse,
    name: &str,
    words: (&str, &str),
    now: Option<&MachineView>,
) -> Result<(), Failure> {
    tell_change_with(context, answer, (name, name), words, standing(now))
}

/// What programs read of how a machine stands; null where that is not known.
pub(super) fn standing(now: Option<&MachineView>) -> Value {
    json!({
        "state": now.map(|view| output::machine_state(view.state())),
        "cordoned": now.map(|view| view.cordoned),
        "drain_deadline": now.map(|view| output::json_time(view.drain_deadline_micros)),
    })
}

/// Why a machine takes no claims all the same where a cordon or a drain of it was ended.
fn still_none(view: &MachineView) -> Option<String> {
    match (view.state(), output::unfit(view)) {
        (MachineState::Draining, _) => {
            Some(format!("it is draining, and `plenum machine undrain {}` ends that", view.name))
        }
        (MachineState::Unreachable, _) => Some("it is unreachable".to_owned()),
        (MachineState::Cordoned, _) if view.cordoned => {
            Some(format!("it is cordoned, and `plenum machine uncordon {}` ends that", view.name))
        }
        (MachineState::Cordoned, Some((_, why))) => Some(why.to_owned()),
        _ => None,
    }
}

/// When the first of these is lost of an unreachable machine; nothing where none ever is.
fn first_lost(allocations: &[AllocationView]) -> Option<String> {
    let first = allocations.iter().map(|one| one.lost_at_micros).filter(|&micros| micros > 0).min()?;
    Some(format!("what it runs is {}", output::loss_words(first)))
}

/// `stays`: why tasks stay on it though it is drained.
fn fields(
    view: &MachineView,
    (allocations, unknown): (&[AllocationView], &[UnknownTaskView]),
    stays: &[String],
) -> String {
    let titles =
        ["name", "state", "cpu", "memory", "allocations", "age", "id", "epoch", "disk", "others", "devices", "since"];
    let mut pairs: Vec<(&str, String)> = titles.into_iter().zip(view.cells()).collect();
    pairs.extend(output::drain_words(view).map(|words| ("drain", words)));
    pairs.extend(stays.iter().map(|why| ("left", why.clone())));
    pairs.extend(first_lost(allocations).map(|words| ("unreachable", words)));
    if let Some((_, why)) = output::unfit(view) {
        pairs.push(("unfit", why.to_owned()));
    }
    // None of it is in the room that is taken.
    pairs.extend(view.holds.iter().map(|hold| ("held", output::held_words(hold))));
    pairs.extend(view.partitions.iter().map(|name| ("partition", name.clone())));
    let lines = output::device_lines(&view.devices, &view.devices_used_millis);
    let unknown = unknown.iter().filter_map(|one| one.task.as_ref()).flat_map(|task| &task.devices);
    let held = allocations.iter().flat_map(|one| &one.devices).chain(unknown);
    let waited_for = allocations.iter().flat_map(|one| &one.take_overs).flat_map(|over| &over.devices);
    let missing = output::missing_device_lines(&view.devices, held, waited_for);
    pairs.extend(lines.into_iter().chain(missing).map(|line| ("device", line)));
    for (name, value) in &view.attributes {
        pairs.push(("attribute", format!("{name} = {value}")));
    }
    output::fields(&pairs)
}

#[cfg(test)]
mod tests {
    use plenum_proto::v1::{Device, HoldView};

    use super::*;

    // "1 cordoned" was a machine whose agent could not write to its disk, and looked like one that somebody had set aside.
    #[test]
    fn machines_that_their_agents_cordoned_are_told_apart() {
        let states = |states: &[(&str, u64)]| -> BTreeMap<String, u64> {
            states.iter().map(|(state, count)| ((*state).to_owned(), *count)).collect()
        };
        let told = |mut by_state: BTreeMap<String, u64>, unfit: &[(&'static str, u64)]| {
            tell_unfit(&mut by_state, &unfit.iter().copied().collect());
            by_state
        };
        let both = told(states(&[("cordoned", 3), ("ready", 4)]), &[("setup-fails", 1), ("state-unwritable", 1)]);
        let expected =
            [("cordoned", 1), ("cordoned (setup-fails)", 1), ("cordoned (state-unwritable)", 1), ("ready", 4)];
        assert_eq!(both, states(&expected));
        let later = told(states(&[("cordoned", 1)]), &[("setup-fails", 2)]);
        assert_eq!(later, states(&[("cordoned", 0), ("cordoned (setup-fails)", 1)]), "they became so meanwhile");
    }

    // Of more cordoned machines than one listing has, those that it has were counted, as if they were all.
    #[test]
    fn machines_that_their_agents_cordoned_are_counted_all_or_not_at_all() {
        let unfit = MachineView {
            state: MachineState::Cordoned.into(),
            unfit: Unfit::StateUnwritable.into(),
            ..MachineView::default()
        };
        let mut listed = ListMachinesResponse { machines: vec![unfit.clone(), unfit], ..Default::default() };
        assert_eq!(unfit_of(&listed), Some(BTreeMap::from([("state-unwritable", 2)])));
        listed.truncated = true;
        assert_eq!(unfit_of(&listed), None);
    }

    // Programs read how many allocations there are, and none of them; nor that people saw a part alone.
    #[test]
    fn programs_read_what_lives_on_a_machine_and_whether_that_is_all() {
        let hold = HoldView { job: "royal".to_owned(), namespace: "gold".to_owned(), ..HoldView::default() };
        let view = MachineView {
            allocations: 7,
            partitions: vec!["lab".to_owned()],
            holds: vec![hold],
            ..MachineView::default()
        };
        let mut listed =
            ListAllocationsResponse { allocations: vec![AllocationView::default(); 2], ..Default::default() };
        let read = |listed: &ListAllocationsResponse| to_json(9, &view, listed, &ListUnknownTasksResponse::default());
        let object = read(&listed);
        assert_eq!((&object["allocations"], &object["revision"]), (&json!(7), &json!(9)));
        assert_eq!(object["partitions"], json!(["lab"]));
        let text = fields(&view, (&[], &[]), &[]);
        assert!(text.lines().any(|line| line.starts_with("partition:") && line.ends_with(" lab")), "{text}");
        assert!(text.lines().any(|line| line.starts_with("held:") && line.contains(" for gold/royal, ")), "{text}");
        let gpu = |index| Device { kind: "gpu".to_owned(), index, millis: 1000, ..Device::default() };
        let with_gpu = AllocationView { devices: vec![gpu(1)], ..AllocationView::default() };
        let view = MachineView { devices: vec![gpu(0)], devices_used_millis: vec![0], ..view.clone() };
        let text = fields(&view, (&[with_gpu], &[]), &[]);
        let devices: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("device:")).map(str::trim).collect();
        assert_eq!(devices, ["gpu[0]: 0/1", "gpu[1]: 1/0, not there any more"]);
        assert_eq!(object["holds"][0]["job"], "royal");
        assert_eq!((&object["live"][1], &object["unknown"]), (&AllocationView::default().to_json(), &json!([])));
        assert_eq!(object.get("truncated"), None);
        listed.truncated = true;
        assert_eq!(read(&listed)["truncated"], true);
    }

    #[test]
    fn an_unreachable_machine_says_when_the_first_of_its_tasks_is_lost() {
        output::look_from(60_000_000);
        let at = |lost_at_micros| AllocationView { lost_at_micros, ..AllocationView::default() };
        assert_eq!(first_lost(&[at(0)]), None, "it stays whatever happens");
        let told = first_lost(&[at(0), at(95_000_000), at(90_000_000)]).unwrap();
        assert_eq!(told, "what it runs is given up as lost in 30s at the earliest");
    }

    // `drained by` had a moment, where all else has ages, and reads as if somebody's name stood behind it.
    #[test]
    fn a_machine_that_is_drained_says_when_what_is_left_is_stopped() {
        output::look_from(60_000_000);
        let told = |drain_deadline_micros| {
            let text = fields(&MachineView { drain_deadline_micros, ..MachineView::default() }, (&[], &[]), &[]);
            let line = text.lines().find_map(|line| line.strip_prefix("drain:"));
            line.map(|words| words.trim().to_owned())
        };
        assert_eq!(told(0), None);
        assert_eq!(told(600_000_000).as_deref(), Some("what is left is stopped in 9m0s"));
        assert_eq!(told(60_000_000).as_deref(), Some("what is left is being stopped"));
    }

    // Who uncordoned a machine that was drained read that it takes claims again, and at the deadline all its tasks were stopped.
    #[test]
    fn what_still_takes_no_claims_is_not_said_to_take_them_again() {
        let view = |state: MachineState, unfit: Unfit| MachineView {
            name: "m1".to_owned(),
            state: state.into(),
            unfit: unfit.into(),
            ..MachineView::default()
        };
        let told = |state, unfit| still_none(&view(state, unfit)).unwrap_or_default();
        assert_eq!(told(MachineState::Ready, Unfit::Unspecified), "");
        assert!(told(MachineState::Draining, Unfit::Unspecified).contains("`plenum machine undrain m1`"));
        assert_eq!(told(MachineState::Unreachable, Unfit::Unspecified), "it is unreachable");
        assert!(told(MachineState::Cordoned, Unfit::StateUnwritable).contains("can't write its state"));
        let cordoned = MachineView { cordoned: true, ..view(MachineState::Cordoned, Unfit::Unspecified) };
        let why = "it is cordoned, and `plenum machine uncordon m1` ends that";
        assert_eq!(still_none(&cordoned).as_deref(), Some(why), "where its drain was ended");
    }

    // One that drained was said to take claims again where the cell had not told within seconds how it stands.
    #[test]
    fn what_is_not_known_to_take_claims_is_not_said_to_take_them_again() {
        let said =
            |now: Option<&MachineView>| ended_words(now, ["takes claims again", "is cordoned no more", "is not"]).0;
        let view = |state: MachineState| MachineView { state: state.into(), ..MachineView::default() };
        assert_eq!(said(Some(&view(MachineState::Ready))), "takes claims again");
        let away = said(Some(&view(MachineState::Unreachable)));
        assert_eq!(away, "is cordoned no more, and takes no claims: it is unreachable");
        assert_eq!(said(None), "is cordoned no more");
    }

    // `removed` was all that was said of a machine whose agent ran, and a moment later it was there again, and took tasks.
    #[test]
    fn a_machine_that_was_removed_with_its_agent_there_is_said_to_come_back() {
        let told = |state: MachineState, unfit: Unfit| {
            let view =
                MachineView { name: "m1".to_owned(), state: state.into(), unfit: unfit.into(), ..Default::default() };
            comes_back(&view).unwrap_or_default()
        };
        for state in [MachineState::Ready, MachineState::Cordoned, MachineState::Draining] {
            let told = told(state, Unfit::Unspecified);
            assert!(told.contains("brings it back") && told.ends_with("and then remove m1 again"), "{told}");
        }
        assert_eq!(told(MachineState::Cordoned, Unfit::AgentLeaves), "");
        assert_eq!(told(MachineState::Unreachable, Unfit::Unspecified), "");
    }

    // A server that cordoned a machine and then stood still kept the command from saying so for a minute.
    #[tokio::test]
    async fn how_a_machine_stands_after_a_change_is_asked_for_some_seconds_only() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let connection = Connection::open(&silent.local_addr().unwrap().to_string()).await.unwrap();
        let asked = tokio::time::timeout(std::time::Duration::from_secs(20), now(&connection, "m1")).await;
        assert_eq!(asked.ok(), Some(None));
    }

    // Of a machine that drains and was uncordoned programs read the same as of one that takes claims again.
    #[test]
    fn programs_read_how_a_machine_stands_after_a_change() {
        let state = MachineState::Draining.into();
        let view = MachineView { state, cordoned: true, drain_deadline_micros: 1_000_000, ..MachineView::default() };
        let expected = json!({"state": "draining", "cordoned": true, "drain_deadline": "1970-01-01T00:00:01Z"});
        assert_eq!(standing(Some(&view)), expected);
        assert_eq!(standing(None)["state"], Value::Null, "it is gone");
    }
}

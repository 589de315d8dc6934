//! Beginning a drain, and waiting for it: what is left, each time it changed, until the machine is empty.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use plenum_proto::v1::{
    AllocationState, AllocationView, ChangeResponse, DrainRequest, GetJobRequest, GetMachineRequest, JobView,
    ListAllocationsRequest, MachineState, MachineView,
};
use serde_json::{Value, json};
use tokio::time::sleep_until;
use tonic::Code;

use super::{
    Context,
    accepted::Accepted,
    hints,
    interrupt::unless_interrupted,
    job::{change_json, deadline},
    machine::standing,
    silence::{OTHER_CELL, found, given_up},
};
use crate::{
    connect::Connection,
    failure::{EXIT_UNFINISHED, Failure},
    output,
};

/// From now to the deadline of a drain that is begun without one.
const WITHIN_MICROS_DEFAULT: i64 = 10 * 60 * 1_000_000;

/// How often the machine is asked for: first often, then seldom.
const PERIOD_MIN: Duration = Duration::from_millis(50);
const PERIOD_MAX: Duration = Duration::from_secs(1);

/// Jobs of what is left on a machine that are asked why.
const JOBS_ASKED_MAX: usize = 8;

/// How long the last look of all may take.
const LAST_LOOK: Duration = Duration::from_secs(5);
/// They are once what is left was the same for so long: what moves needs some seconds for each task.
const SAME_MIN: Duration = Duration::from_secs(5);

/// What is told at the time limit where nobody answers.
const SILENT: &str = "the cell does not answer";

/// Drains a machine. One that is draining is left alone where no deadline is named: the usual one, counted from now, would put off that of
/// somebody else. Gives the answer with what is said where nothing changed.
pub(super) async fn begin(
    connection: &Connection,
    name: &str,
    within_micros: Option<i64>,
) -> Result<(ChangeResponse, String), Failure> {
    const IDLE: &str = "is draining already";
    if within_micros.is_none() {
        let request = GetMachineRequest { name: name.to_owned(), at: None };
        let found = connection.inspect().get_machine(request).await?.into_inner();
        let deadline_micros = found.machine.map_or(0, |view| view.drain_deadline_micros);
        if deadline_micros > 0 {
            let deadline = output::json_time(deadline_micros);
            let idle = format!("{IDLE}, with the deadline {}", deadline.as_str().unwrap_or("-"));
            return Ok((ChangeResponse { revision: found.revision, changed: false }, idle));
        }
    }
    let within_micros = within_micros.unwrap_or(WITHIN_MICROS_DEFAULT);
    let request = DrainRequest { name: name.to_owned(), undrain: false, within_micros };
    let answer = connection.govern().drain_machine(request).await?.into_inner();
    Ok((answer, IDLE.to_owned()))
}

/// Waits until nothing is left on a machine that is drained since what was answered. Interrupting the command leaves the drain as it is, and
/// says so.
///
/// # Errors
///
/// When somebody ended the drain; `TIME_LIMIT` where it takes longer than that.
pub(super) async fn wait(
    context: &Context,
    connection: &Connection,
    name: &str,
    begun: &ChangeResponse,
    timeout_micros: Option<i64>,
) -> Result<(), Failure> {
    let deadline = deadline(timeout_micros);
    let waiting = async {
        let accepted = &Accepted::at(connection, begun.revision, hints::look_until(deadline)).await;
        tokio::select! {
            () = sleep_until(deadline.unwrap_or_else(tokio::time::Instant::now)), if deadline.is_some() => {
                at_the_limit(context, connection, name, (begun, accepted)).await
            }
            ended = until_empty(context, connection, name, (begun, accepted)) => ended,
        }
    };
    unless_interrupted(waiting, || format!("the drain of {name} goes on; `plenum machine undrain {name}` ends it"))
        .await
}

/// A machine that is drained, as it was found.
#[derive(Debug)]
enum Look {
    /// Something is left on it.
    Left(MachineView),
    /// Nothing is. With the revision; `None` where it was removed.
    Empty(Option<(u64, MachineView)>),
    /// Somebody ended the drain.
    Undrained,
}

impl Look {
    fn of(revision: u64, view: MachineView) -> Self {
        if view.drain_deadline_micros == 0 {
            Self::Undrained
        } else if output::tasks_left(&view) == 0 {
            Self::Empty(Some((revision, view)))
        } else {
            Self::Left(view)
        }
    }
}

/// One look at a machine that is drained. It is taken from the cell that was asked alone: another one, or an older copy, may have no such machine, or one that
/// is not drained.
async fn look(connection: &Connection, name: &str, accepted: &Accepted) -> Result<Look, Failure> {
    let request = GetMachineRequest { name: name.to_owned(), at: None };
    let look = match connection.inspect().get_machine(request).await {
        Ok(answer) => {
            let answer = answer.into_inner();
            accepted.expect_shown_at(answer.revision)?;
            Look::of(answer.revision, answer.machine.unwrap_or_default())
        }
        Err(status) if status.code() == Code::NotFound => Look::Empty(None),
        Err(status) => return Err(status.into()),
    };
    if !matches!(look, Look::Left(_)) {
        accepted.expect_known_to(connection).await?;
    }
    Ok(look)
}

/// Looks once more: where the limit is 0, nobody has.
async fn at_the_limit(
    context: &Context,
    connection: &Connection,
    name: &str,
    (begun, accepted): (&ChangeResponse, &Accepted),
) -> Result<(), Failure> {
    let looked = tokio::time::timeout(LAST_LOOK, look(connection, name, accepted)).await;
    let unseen = match looked {
        Ok(Ok(Look::Left(_))) => None,
        Ok(Ok(Look::Empty(seen))) => return done(context, name, begun, seen.as_ref()),
        Ok(Ok(Look::Undrained)) => return Err(ended_by_another(name)),
        Ok(Err(failure)) => Some(why_unseen(failure)),
        Err(_) => Some(SILENT.to_owned()),
    };
    Err(Failure::new("TIME_LIMIT", unreached(name, unseen.as_deref()))
        .with_hint(format!("the drain goes on; `plenum machine show {name}` tells what is left"))
        .with_exit(EXIT_UNFINISHED))
}

/// Why a machine could not be looked at, where that is to be told.
fn why_unseen(failure: Failure) -> String {
    match failure.code.as_str() {
        OTHER_CELL => failure.message,
        "UNAVAILABLE" | "SERVER_ENDING" => SILENT.to_owned(),
        _ => String::new(),
    }
}

/// What is told at the time limit. `unseen`: the machine could not be looked at, and why, where that is to be told.
fn unreached(name: &str, unseen: Option<&str>) -> String {
    match unseen {
        None => format!("{name} is not empty at the time limit"),
        Some("") => format!("{name} is not known to be empty at the time limit"),
        Some(why) => format!("{name} is not known to be empty at the time limit; {why}"),
    }
}

fn ended_by_another(name: &str) -> Failure {
    Failure::new("NOT_DRAINING", format!("the drain of {name} was ended by somebody else"))
        .with_hint(format!("see `plenum machine show {name}`"))
}

/// The failure with which the wait ends, the cell having been away for too long.
fn accepted_all_the_same(failure: Failure, name: &str, begun: &ChangeResponse) -> Failure {
    let revision = begun.revision;
    let what = if begun.changed {
        format!("the drain of {name} (revision {revision}) was accepted, and goes on")
    } else {
        format!("{name} was draining already (seen at revision {revision}), and the drain goes on")
    };
    given_up(failure, &what, &format!("`plenum machine show {name}`"))
}

async fn until_empty(
    context: &Context,
    connection: &Connection,
    name: &str,
    (begun, accepted): (&ChangeResponse, &Accepted),
) -> Result<(), Failure> {
    let mut period = PERIOD_MIN;
    let mut told = Told::default();
    let mut silence = None;
    loop {
        let looked = look(connection, name, accepted).await;
        // The drain goes on while the cell is away.
        let found = found(looked, &mut silence).map_err(|failure| accepted_all_the_same(failure, name, begun))?;
        let seen = match found {
            Some(Look::Empty(seen)) => return done(context, name, begun, seen.as_ref()),
            Some(Look::Undrained) => return Err(ended_by_another(name)),
            Some(Look::Left(view)) => Some(view),
            None => None,
        };
        if let Some(view) = seen {
            let standing = (view.allocations, view.unknown_tasks, view.state());
            if told.is_news(standing, Instant::now()) {
                output::tell(&progress(name, &view));
            }
            if told.asks_why(Instant::now()) {
                match why_all_left(connection, name).await {
                    Some(why) => why.iter().for_each(|line| output::tell(line)),
                    None => told.asks_again(Instant::now()),
                }
            }
        }
        tokio::time::sleep(period).await;
        period = (period * 2).min(PERIOD_MAX);
    }
}

/// Allocations on a machine, tasks there that the cell does not know, and how it stands.
type Standing = (u32, u32, MachineState);

/// What a wait has said.
#[derive(Debug, Default)]
struct Told {
    /// Last of what is left.
    standing: Option<Standing>,
    /// When it is asked why that is left; `None` once it was. Reasons count machines and what these lack, and so change all the time where much
    /// happens: each time they did, the same jobs would be told of again.
    asks_at: Option<Instant>,
}

impl Told {
    /// Whether this was not said yet, which it is now.
    fn is_news(&mut self, standing: Standing, now: Instant) -> bool {
        let is_news = self.standing != Some(standing);
        if is_news {
            *self = Self { standing: Some(standing), asks_at: Some(now + SAME_MIN) };
        }
        is_news
    }

    /// Whether it is time to ask why that is left: once, unless something changes.
    fn asks_why(&mut self, now: Instant) -> bool {
        self.asks_at.take_if(|at| *at <= now).is_some()
    }

    /// There was no answer.
    fn asks_again(&mut self, now: Instant) {
        self.asks_at = Some(now + SAME_MIN);
    }
}

/// Why tasks stay on a machine; nothing where the cell does not answer all of it just now.
async fn why_all_left(connection: &Connection, machine: &str) -> Option<Vec<String>> {
    let request = ListAllocationsRequest { machine: machine.to_owned(), ..ListAllocationsRequest::default() };
    let listed = connection.jobs().list_allocations(request).await.ok()?.into_inner();
    let (why, is_all) = why_left(connection, &listed.allocations).await;
    is_all.then_some(why)
}

/// Why these stay on a machine that is drained: a line for each of the first few jobs of which somebody says so, and whether that is all. Where the cell does
/// not answer, the rest is left out: each further call might wait as long for it.
pub(super) async fn why_left(connection: &Connection, allocations: &[AllocationView]) -> (Vec<String>, bool) {
    let mut told = Vec::new();
    for ((namespace, name), groups) in groups_left(allocations).into_iter().take(JOBS_ASKED_MAX) {
        let request = GetJobRequest { namespace: namespace.to_owned(), name: name.to_owned(), at: None };
        let found = match connection.jobs().get(request).await {
            Ok(found) => found.into_inner(),
            // It was retired meanwhile.
            Err(status) if status.code() == Code::NotFound => continue,
            Err(_) => return (told, false),
        };
        let why = why_stay(&found.job.unwrap_or_default(), &groups);
        if !why.is_empty() {
            told.push(format!("{}: {why}", output::job_called(namespace, name)));
        }
    }
    (told, true)
}

/// The groups of which tasks are still to leave, by their jobs' namespaces and names. Those that are leaving need no reason.
fn groups_left(allocations: &[AllocationView]) -> BTreeMap<(&str, &str), BTreeSet<&str>> {
    use AllocationState::{Granted, Running, Starting};
    let mut jobs: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for one in allocations.iter().filter(|one| matches!(one.state(), Granted | Starting | Running)) {
        jobs.entry((one.namespace.as_str(), one.job.as_str())).or_default().insert(one.group.as_str());
    }
    jobs
}

/// Why tasks of these groups stay where they are; empty where nobody says it. Why other tasks wait is another matter.
fn why_stay(job: &JobView, groups: &BTreeSet<&str>) -> String {
    let staying = job.groups.iter().filter(|group| groups.contains(group.name.as_str()) && !group.staying.is_empty());
    staying.map(|group| format!("{}: {}", group.name, group.staying)).collect::<Vec<_>>().join("; ")
}

/// One line about what is left, and what becomes of it.
fn progress(name: &str, view: &MachineView) -> String {
    let count = output::tasks_left(view);
    let tasks = if count == 1 { "1 task".to_owned() } else { format!("{count} tasks") };
    let told = match view.state() {
        MachineState::Draining => format!("{name}: {tasks} left, {}", output::when_stopped(view)),
        other => format!("{name}: {tasks} left; it is {}", output::machine_state(other)),
    };
    match view.unknown_tasks {
        0 => told,
        unknown => format!("{told}; {unknown} of them the cell does not know (see `plenum machine show {name}`)"),
    }
}

/// Says how it ended. `seen`: the machine then, where it was not removed meanwhile, and at which revision.
fn done(
    context: &Context,
    name: &str,
    begun: &ChangeResponse,
    seen: Option<&(u64, MachineView)>,
) -> Result<(), Failure> {
    let seen = seen.map(|(revision, view)| (*revision, view));
    let object = ended_json(name, begun, seen);
    let how = seen.map_or_else(|| "removed".to_owned(), |(revision, _)| format!("drained (revision {revision})"));
    output::print(&output::object(context.format, &object, name, || format!("{name}: {how}\n")))
}

/// What programs read of a drain that was waited for: all that they read of one that was not, and its end.
fn ended_json(name: &str, begun: &ChangeResponse, seen: Option<(u64, &MachineView)>) -> Value {
    let mut object = change_json(begun, name, standing(seen.map(|(_, view)| view)));
    if seen.is_none() {
        object["state"] = json!(output::machine_state(MachineState::Gone));
    }
    object["ended_revision"] = json!(seen.map(|(revision, _)| revision));
    object
}

#[cfg(test)]
mod tests {
    use plenum_proto::v1::{GroupView, RegisterMachine, RegisterRequest, Resources, agents_client::AgentsClient};
    use tonic::transport::Endpoint;

    use super::super::{changed, served};
    use super::*;

    // Of a job of which one task waited for room it said that the others, which nothing would ever move, wait for it.
    #[test]
    fn what_is_left_is_told_with_why_it_stays_and_not_with_why_others_wait() {
        let group = |name: &str, staying: &str| GroupView {
            name: name.to_owned(),
            staying: staying.to_owned(),
            ..GroupView::default()
        };
        let groups = vec![group("a", "1 is there"), group("b", ""), group("c", "2 are there")];
        let waiting_reason = "a: 1 waiting: no room; a: 1 is there".to_owned();
        let job = JobView { groups, waiting_reason, ..JobView::default() };
        assert_eq!(why_stay(&job, &BTreeSet::from(["a", "b"])), "a: 1 is there", "those of c are elsewhere");
        let one = |group: &str, state: AllocationState| AllocationView {
            job: "big".to_owned(),
            group: group.to_owned(),
            state: state.into(),
            ..AllocationView::default()
        };
        let here = [one("b", AllocationState::Running), one("a", AllocationState::Granted)];
        assert_eq!(groups_left(&here), BTreeMap::from([(("", "big"), BTreeSet::from(["a", "b"]))]));
        assert!(groups_left(&[one("a", AllocationState::Stopping)]).is_empty(), "it goes");
    }

    // Five answers came within a second and a half, in which a task that moves has not ended yet: it was said to stay. And each reason was said again
    // whenever its counts of machines changed.
    #[test]
    fn why_tasks_stay_is_asked_once_they_have_stayed_for_seconds_and_not_again() {
        let (begin, mut told) = (Instant::now(), Told::default());
        let at = |millis| begin + Duration::from_millis(millis);
        let left = |allocations| (allocations, 0, MachineState::Draining);
        assert!(!told.asks_why(at(0)), "nothing is known of what is left");
        assert!(told.is_news(left(2), at(0)));
        assert!(!told.is_news(left(2), at(4_000)));
        assert!(!told.asks_why(at(4_999)));
        assert!(told.is_news(left(1), at(4_999)));
        assert!(!told.asks_why(at(9_000)), "one has moved meanwhile");
        assert!(told.asks_why(at(9_999)));
        assert!(!told.is_news(left(1), at(10_000)) && !told.asks_why(at(50_000)));
        told.asks_again(at(50_000));
        assert!(!told.asks_why(at(54_999)) && told.asks_why(at(55_000)), "nobody had answered");
        assert!(told.is_news(left(0), at(60_000)) && told.asks_why(at(65_000)));
    }

    // A drain with five seconds to go was told to have ten days, where the cell's clock was as far ahead of this machine's.
    #[test]
    fn the_time_to_the_deadline_goes_by_the_cells_clock() {
        const TEN_DAYS_MICROS: i64 = 10 * 86_400 * 1_000_000;
        output::go_by_clock(output::now_micros() + TEN_DAYS_MICROS);
        let drain_deadline_micros = output::cell_now_micros() + 3_600_000_000;
        let state = MachineState::Draining.into();
        let view = MachineView { state, drain_deadline_micros, allocations: 1, ..Default::default() };
        let told = progress("m1", &view);
        output::go_by_clock(output::now_micros());
        assert!(told.starts_with("m1: 1 task left, stopped in "), "{told}");
        assert!(told.ends_with('s'), "an hour is told in minutes and seconds, ten days in hours: {told}");
    }

    // A machine that had been empty for long was said not to be, by a command that could not look at it.
    #[test]
    fn at_the_time_limit_nothing_is_told_that_was_not_seen() {
        assert_eq!(unreached("m1", None), "m1 is not empty at the time limit");
        assert_eq!(unreached("m1", Some("")), "m1 is not known to be empty at the time limit");
        let silent = "m1 is not known to be empty at the time limit; the cell does not answer";
        let why = |code| why_unseen(Failure::new(code, "no"));
        assert_eq!(unreached("m1", Some(&why("SERVER_ENDING"))), silent);
        assert_eq!(why("QUEUE_FULL"), "", "it answers");
    }

    // Removed just before, it was said that the cell does not answer.
    #[tokio::test]
    async fn a_machine_that_is_removed_by_the_time_limit_has_nothing_left() {
        let folder = tempfile::tempdir().expect("a folder");
        let (server, connection, context) = served(folder.path()).await;
        let begun = changed(&connection).await;
        let accepted = Accepted::at(&connection, begun.revision, hints::look_until(None)).await;
        assert_eq!(at_the_limit(&context, &connection, "m1", (&begun, &accepted)).await, Ok(()));
        assert_eq!(until_empty(&context, &connection, "m1", (&begun, &accepted)).await, Ok(()));
        server.shutdown().await.expect("a server that ends");
    }

    // Where the server came back on an empty directory, as its disk was not mounted, the drain ended well: the machine was switched off with all that ran there.
    #[tokio::test]
    async fn a_machine_that_another_cell_does_not_know_is_not_told_as_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let (server, connection, context) = served(folder.path()).await;
        let begun = ChangeResponse { revision: 1 << 40, changed: true };
        let accepted = Accepted::numbered(begun.revision);
        let ended = at_the_limit(&context, &connection, "m1", (&begun, &accepted)).await;
        let failure = ended.expect_err("it is another cell's");
        assert_eq!((failure.code.as_str(), failure.exit), ("TIME_LIMIT", EXIT_UNFINISHED));
        let told = "m1 is not known to be empty at the time limit; what answers now lacks revision";
        assert!(failure.message.starts_with(told), "{failure}");
        let waiting = until_empty(&context, &connection, "m1", (&begun, &accepted));
        let waited = tokio::time::timeout(Duration::from_secs(1), waiting).await;
        assert!(waited.is_err(), "it waits for the cell that was asked: {waited:?}");
        server.shutdown().await.expect("a server that ends");
    }

    // A copy from before the drain has the machine, and not as one that is drained: somebody was said to have ended the drain.
    #[tokio::test]
    async fn a_machine_that_another_cell_has_under_that_name_does_not_end_the_wait() {
        let folder = tempfile::tempdir().expect("a folder");
        let (server, connection, context) = served(folder.path()).await;
        let capacity = Some(Resources { cpu_millis: 1000, memory_bytes: 1 << 30, ..Resources::default() });
        let (name, boot_id) = ("m1".to_owned(), "boot-1".to_owned());
        let machine = RegisterMachine { name, boot_id, capacity, ..RegisterMachine::default() };
        let request = RegisterRequest { machine: Some(machine), ..RegisterRequest::default() };
        let endpoint = Endpoint::from_shared(format!("http://{}", server.address())).expect("an address");
        let mut agents = AgentsClient::new(endpoint.connect_lazy());
        let registered = agents.register(request).await.expect("a machine").into_inner();
        let begun = ChangeResponse { revision: registered.revision, changed: true };
        let limit = async |accepted: &Accepted| at_the_limit(&context, &connection, "m1", (&begun, accepted)).await;
        // It has the machine at a lower revision: that was never looked into, and the wait went on without a word.
        for elsewhere in [Accepted::elsewhere(begun.revision), Accepted::numbered(1 << 40)] {
            let failure = limit(&elsewhere).await.expect_err("it is another cell's");
            assert_eq!(failure.code, "TIME_LIMIT", "{failure}");
            let failure = look(&connection, "m1", &elsewhere).await.expect_err("it is another cell's");
            assert_eq!(failure.code, OTHER_CELL, "{failure}");
        }
        let accepted = Accepted::at(&connection, begun.revision, hints::look_until(None)).await;
        assert_eq!(limit(&accepted).await, Err(ended_by_another("m1")));
        assert_eq!(until_empty(&context, &connection, "m1", (&begun, &accepted)).await, Err(ended_by_another("m1")));
        server.shutdown().await.expect("a server that ends");
    }

    // The code said that nothing had been changed.
    #[test]
    fn a_drain_whose_cell_does_not_answer_any_more_was_accepted_all_the_same() {
        let begun = ChangeResponse { revision: 9, changed: true };
        let failure = accepted_all_the_same(Failure::new("UNAVAILABLE", "no cell answers"), "m1", &begun);
        assert_eq!(failure.code, "OUTCOME_UNKNOWN");
        assert!(failure.message.starts_with("the drain of m1 (revision 9) was accepted, and goes on; "), "{failure}");
        let failure = accepted_all_the_same(Failure::new(OTHER_CELL, "it is an older copy"), "m1", &begun);
        assert_eq!(failure.code, "OUTCOME_UNKNOWN", "{failure}");
        let there = ChangeResponse { revision: 9, changed: false };
        let failure = accepted_all_the_same(Failure::new("UNAVAILABLE", "no cell answers"), "m1", &there);
        assert!(failure.message.starts_with("m1 was draining already (seen at revision 9), and the drain goes on; "));
    }

    // With a wait the state was `drained`, which no machine has, `changed` was not there, and `revision` was another one.
    #[test]
    fn programs_read_the_same_of_a_drain_that_is_waited_for_and_its_end() {
        let begun = ChangeResponse { revision: 5, changed: true };
        let state = MachineState::Draining.into();
        let view = MachineView { state, drain_deadline_micros: 1_000_000, ..MachineView::default() };
        let expected = json!({
            "name": "m1", "revision": 5, "changed": true, "state": "draining", "cordoned": false,
            "drain_deadline": "1970-01-01T00:00:01Z", "ended_revision": 9,
        });
        assert_eq!(ended_json("m1", &begun, Some((9, &view))), expected);
        let removed = ended_json("m1", &begun, None);
        assert_eq!((&removed["state"], &removed["ended_revision"]), (&json!("gone"), &Value::Null));
        assert_eq!((&removed["cordoned"], &removed["revision"]), (&Value::Null, &json!(5)));
    }

    #[test]
    fn progress_says_what_is_left_and_what_becomes_of_it() {
        let view = |state: MachineState, allocations, unknown_tasks| MachineView {
            state: state.into(),
            drain_deadline_micros: 1,
            allocations,
            unknown_tasks,
            ..Default::default()
        };
        assert_eq!(progress("m1", &view(MachineState::Draining, 1, 0)), "m1: 1 task left, being stopped");
        assert_eq!(progress("m1", &view(MachineState::Unreachable, 3, 0)), "m1: 3 tasks left; it is unreachable");
        assert_eq!(
            progress("m1", &view(MachineState::Draining, 2, 1)),
            "m1: 3 tasks left, being stopped; 1 of them the cell does not know (see `plenum machine show m1`)"
        );
        assert!(
            progress("m1", &view(MachineState::Draining, 0, 2)).starts_with("m1: 2 tasks left, being stopped; 2 of")
        );
    }
}

//! `plenum alloc`: list, show, read the logs of, and stop allocations.

use plenum_proto::v1::{
    AllocationHistoryRequest, AllocationView, At, GetAllocationRequest, ListAllocationsRequest,
    ListAllocationsResponse, ListRequest, LogsRequest, StopAllocationRequest,
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
    connect::Connection,
    failure::Failure,
    output::{self, Format, Row},
};

/// Says so to people where there are more allocations of what is shown than the server lists, or may be.
pub(super) fn tell_of_more(context: &Context, listed: &ListAllocationsResponse) {
    if listed.truncated && context.format.is_for_people() {
        let more = "there are more allocations; see them with `plenum alloc list` and --filter";
        output::tell(&where_older(listed).unwrap_or_else(|| more.to_owned()));
    }
}

/// How to see what ended earlier, where the server did not look for it.
fn where_older(listed: &ListAllocationsResponse) -> Option<String> {
    let looked_back_to = Some(listed.looked_back_to).filter(|revision| *revision > 0)?;
    Some(format!(
        "what ended before revision {looked_back_to} was not looked at: that is more of the past than a server reads at once; see it with --at {}",
        looked_back_to - 1
    ))
}

pub(super) async fn run(context: &Context, command: Alloc) -> Result<(), Failure> {
    match command {
        Alloc::List { job, machine, all, listing } => {
            let mut list = list_request(context, &listing);
            let job = job.map(|job| target::listed_job(context, &job)).transpose()?;
            if let Some(job) = &job {
                list.namespace.clone_from(&job.namespace);
            }
            let connection = context.connect_to_read(listing.at).await?;
            let request = ListAllocationsRequest {
                list: Some(list),
                job: job.map(|job| job.name).unwrap_or_default(),
                machine: machine.unwrap_or_default(),
                ended: all,
            };
            watch::print(context.format, listing.watch, async || {
                let answer = connection.jobs().list_allocations(request.clone()).await?.into_inner();
                let listed = listed(context.format, &answer, listing.limit);
                let is_empty = answer.allocations.is_empty() && !answer.truncated && listing.filter.is_none();
                let why_empty = if is_empty { why_empty(&connection, &request).await } else { None };
                Ok(Listed { hint: why_empty.or(listed.hint), ..listed })
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

fn listed(format: Format, answer: &ListAllocationsResponse, limit: u32) -> Listed {
    let ListAllocationsResponse { revision, allocations, truncated, oldest_revision, looked_back_to } = answer;
    let revisions = [("oldest_revision", *oldest_revision), ("looked_back_to", *looked_back_to)];
    let revisions = revisions.map(|(name, revision)| (name, output::revision_or_null(revision)));
    let text = output::listing_with(format, *revision, allocations, *truncated, &revisions);
    let missing = watch::missing(format, allocations.len(), *truncated, limit, "--filter");
    let missing = missing.map(|missing| where_older(answer).unwrap_or(missing));
    let hint = output::retired(*oldest_revision);
    Listed { text, missing, hint, ..Listed::of(format, *revision, allocations, *truncated, limit) }
}

/// Why nothing is listed of a job or a machine, where that can be told: a slip in the name looks like one that runs nothing.
async fn why_empty(connection: &Connection, asked: &ListAllocationsRequest) -> Option<String> {
    let named = |name: &str| {
        let list = asked.list.clone().unwrap_or_default();
        ListRequest { filter: format!("name={name}"), limit: 1, ..list }
    };
    let machines = ListRequest { namespace: String::new(), ..named(&asked.machine) };
    let has_job = match asked.job.as_str() {
        "" => true,
        job => !connection.jobs().list(named(job)).await.ok()?.into_inner().jobs.is_empty(),
    };
    let has_machine = match asked.machine.as_str() {
        "" => true,
        _ => !connection.inspect().list_machines(machines).await.ok()?.into_inner().machines.is_empty(),
    };
    empty_words(asked, has_job, has_machine)
}

fn empty_words(asked: &ListAllocationsRequest, has_job: bool, has_machine: bool) -> Option<String> {
    let ListAllocationsRequest { list, job, machine, ended } = asked;
    let job = output::job_called(list.as_ref().map_or("", |list| list.namespace.as_str()), job);
    match (has_job, has_machine) {
        (_, false) => Some(format!("there is no machine {machine}")),
        (false, true) if *ended => Some(format!("there is no job {job}, and nothing is retained of one")),
        (false, true) => Some(format!("there is no job {job}; of one that was there, --all lists what ended")),
        (true, true) if !ended && !asked.job.is_empty() => {
            Some(format!("nothing of {job} is live; --all lists what ended, too"))
        }
        (true, true) => None,
    }
}

/// One allocation, with its story if that is asked for.
async fn show(context: &Context, id: &str, at: Option<At>, history: bool) -> Result<(), Failure> {
    let allocation = target::allocation(id)?;
    let connection = context.connect_to_read(at).await?;
    let request = GetAllocationRequest { allocation, at };
    let view = connection.jobs().get_allocation(request).await?.into_inner();
    let mut object = view.to_json();
    // Lists don't know it.
    object["started_at"] = output::json_time(view.started_micros);
    let (mut events, mut told) = (String::new(), None);
    if history {
        let request = AllocationHistoryRequest { allocation, at, limit: 0 };
        let story = connection.jobs().allocation_history(request).await?.into_inner();
        object["history"] = history::to_json(&story);
        events = format!("\n{}", output::listing(context.format, story.revision, &story.events, false));
        told = Some(story);
    }
    let text = || fields(&view) + &events;
    output::print(&output::object(context.format, &object, &view.name(), text))?;
    // Behind what it is about.
    if let Some(story) = told {
        history::tell_what_is_missing(context, &story);
    }
    Ok(())
}

/// What people read of an allocation.
fn fields(view: &AllocationView) -> String {
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
        "job version",
        "reason",
    ];
    let mut pairs: Vec<_> = titles.into_iter().zip(view.cells()).collect();
    // Only what was granted on room that others are leaving does.
    let waits_for = output::waits_for(view);
    if !waits_for.is_empty() {
        pairs.push(("waits for", format!("the end of {}", waits_for.join(", "))));
    }
    pairs.extend(output::away(view).map(|words| ("unreachable", words)));
    let times = [("granted", view.created_micros), ("started", view.started_micros), ("ended", view.ended_micros)];
    // What has not happened, or is not known, has none.
    let known = |(title, micros)| Some((title, output::json_time(micros).as_str()?.to_owned()));
    pairs.extend(times.into_iter().filter_map(known));
    output::fields(&pairs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cli::block_on, failure::EXIT_USAGE};

    // Titles without rows were the answer to a slip in the job's name, and to a job that had completed.
    #[test]
    fn an_empty_list_of_a_job_or_a_machine_says_why() {
        let told = |job: &str, machine: &str, ended, has_job, has_machine| {
            let asked = ListAllocationsRequest { job: job.into(), machine: machine.into(), ended, list: None };
            empty_words(&asked, has_job, has_machine).unwrap_or_default()
        };
        assert_eq!(told("wbe", "", true, false, true), "there is no job wbe, and nothing is retained of one");
        assert!(told("wbe", "", false, false, true).starts_with("there is no job wbe; "));
        assert!(told("web", "", false, true, true).starts_with("nothing of web is live; --all"));
        assert_eq!(told("web", "m9", false, true, false), "there is no machine m9");
        let list = Some(ListRequest { namespace: "ml".into(), ..ListRequest::default() });
        let asked = ListAllocationsRequest { job: "web".into(), list, ..ListAllocationsRequest::default() };
        assert!(empty_words(&asked, true, true).unwrap().starts_with("nothing of ml/web is live;"));
        assert_eq!(empty_words(&ListAllocationsRequest { job: String::new(), ..asked }, true, true), None);
        assert_eq!(
            (told("web", "", true, true, true), told("", "m1", false, true, true)),
            (String::new(), String::new())
        );
    }

    // It was a list like any other, as if nothing had ever ended before.
    #[test]
    fn that_what_ended_longer_ago_is_not_retained_is_said() {
        let told = |oldest_revision, format| {
            let answer = ListAllocationsResponse { revision: 7, oldest_revision, ..ListAllocationsResponse::default() };
            listed(format, &answer, 0)
        };
        assert_eq!(told(0, Format::Table).hint, None);
        assert_eq!(told(5, Format::Table).hint.unwrap(), "nothing from before revision 5 is retained");
        let json = |oldest| serde_json::from_str::<serde_json::Value>(&told(oldest, Format::Json).text).unwrap();
        assert_eq!((json(5)["oldest_revision"].as_u64(), json(0).get("oldest_revision")), (Some(5), None));
    }

    // "There are more rows" was said of a past that nobody had looked at, and in which there may be none.
    #[test]
    fn what_was_not_looked_at_is_not_said_to_be_there() {
        let told = |looked_back_to, format| {
            let answer = ListAllocationsResponse { truncated: true, looked_back_to, ..Default::default() };
            listed(format, &answer, 0)
        };
        for format in [Format::Table, Format::Name] {
            let missing = told(4711, format).missing.unwrap();
            assert!(missing.starts_with("what ended before revision 4711 was not looked at"), "{missing}");
            assert!(missing.ends_with("--at 4710"), "{missing}");
            assert!(told(0, format).missing.unwrap().starts_with("there are more rows than the 0"));
        }
        let json = |back_to| serde_json::from_str::<serde_json::Value>(&told(back_to, Format::Json).text).unwrap();
        assert_eq!((json(4711)["looked_back_to"].as_u64(), json(0).get("looked_back_to")), (Some(4711), None));
        assert_eq!((&json(4711)["truncated"], told(4711, Format::Json).missing), (&true.into(), None));
    }

    // When it began to run and when it had ended stood in its story only.
    #[test]
    fn an_allocation_is_shown_with_the_times_that_are_known() {
        let time = |view: &AllocationView, title: &str| {
            let text = fields(view);
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("{title}:")).map(str::trim));
            line.unwrap_or_default().to_owned()
        };
        let view = AllocationView { created_micros: 1_000_000, ended_micros: 3_000_000, ..AllocationView::default() };
        assert_eq!((time(&view, "granted").as_str(), time(&view, "started").as_str()), ("1970-01-01T00:00:01Z", ""));
        assert_eq!(time(&view, "ended"), "1970-01-01T00:00:03Z");
        let ran = AllocationView { started_micros: 2_500_000, ..view };
        assert_eq!(time(&ran, "started"), "1970-01-01T00:00:02.5Z");
    }

    // It ended with 1 and told of the missing cell, where a slip in the id is wrong usage whether or not there is one.
    #[test]
    fn an_id_that_is_none_is_told_before_a_missing_cell() {
        let context = Context::asking("http://127.0.0.1:1".to_owned());
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

//! `plenum quota`, `plenum partition`, `plenum scheduler list|history|pause|resume|set` and `plenum hold`: who may have how much, and where.

use plenum_model::{agreeing, counted};
use plenum_proto::v1::{GovernHistoryRequest, ListRequest, PauseScheduler, Quota, SetPartition, SetQuota, SetRights};

use super::{
    Context,
    args::{Holds, Limits, Listing, Partitions, Quotas, Schedulers, Told},
    hints, history,
    job::{list_request, tell_change},
    watch::{self, Listed},
};
use crate::{connect::Connection, failure::Failure, job_file, output};

/// Stands for no limit of a named resource.
const UNLIMITED: i64 = -1;

pub(super) async fn quota(context: &Context, command: Quotas) -> Result<(), Failure> {
    match command {
        Quotas::List(listing) => {
            let connection = context.connect_to_read(listing.at).await?;
            watch::print(context.format, listing.watch, async || {
                let request = list_request(context, &listing);
                let answer = connection.govern().list_quotas(request).await?.into_inner();
                Ok(Listed::of(context.format, answer.revision, &answer.quotas, answer.truncated, listing.limit))
            })
            .await
        }
        Quotas::History { name, told } => {
            let name = name.or_else(|| context.namespace.clone());
            tell(context, ("quota", "namespace"), name, &told).await
        }
        Quotas::Set { name, limits } => {
            named("namespace", &name)?;
            each_once(&limits)?;
            let connection = context.connect().await?;
            let limit = Some(quota_of(&connection, &limits).await?);
            let had_one = has_quota(&connection, &name).await?;
            let request = SetQuota { namespace: name.clone(), limit };
            let answer = connection.govern().set_quota(request).await?.into_inner();
            tell_change(context, &answer, &name, "has this quota from now on", "has this quota already")?;
            if answer.changed && !had_one {
                note_where_empty(&connection, &name).await;
            }
            Ok(())
        }
        Quotas::Remove { name } => {
            named("namespace", &name)?;
            let request = SetQuota { namespace: name.clone(), limit: None };
            let answer = context.connect().await?.govern().set_quota(request).await?.into_inner();
            tell_change(context, &answer, &name, "has no quota any more", "has no quota")
        }
    }
}

/// Whether a namespace has a quota already; so it is taken where that may not be read.
///
/// # Errors
///
/// `UNAVAILABLE`: the change would only wait as long once more, and nothing is asked for yet.
async fn has_quota(connection: &Connection, namespace: &str) -> Result<bool, Failure> {
    let request = ListRequest { namespace: namespace.to_owned(), limit: 1, ..ListRequest::default() };
    match connection.govern().list_quotas(request).await.map_err(Failure::from) {
        Ok(answer) => Ok(!answer.into_inner().quotas.is_empty()),
        Err(failure) if failure.code == "UNAVAILABLE" => Err(failure),
        Err(_) => Ok(true),
    }
}

/// Says so where a namespace that has a quota for the first time has no jobs: its name may be a slip. Most often they are yet to come.
async fn note_where_empty(connection: &Connection, namespace: &str) {
    let request = ListRequest { namespace: namespace.to_owned(), limit: 1, ..ListRequest::default() };
    let listed = hints::besides(hints::look_until(None), connection.jobs().list(request)).await;
    if listed.is_some_and(|listed| listed.jobs.is_empty()) {
        output::tell(&format!("note: no job is in the namespace {namespace} now"));
    }
}

/// What was set of this kind, and what its names are: of one name or of all.
async fn tell(context: &Context, (of, what): (&str, &str), name: Option<String>, told: &Told) -> Result<(), Failure> {
    name.iter().try_for_each(|name| named(what, name))?;
    let (of, name) = (of.to_owned(), name.unwrap_or_default());
    let connection = context.connect_to_read(told.at).await?;
    let story = history::below(told.at, told.before, async |at| {
        let request = GovernHistoryRequest { of: of.clone(), name: name.clone(), at, limit: told.limit };
        Ok(connection.govern().govern_history(request).await?.into_inner())
    });
    let story = story.await?;
    history::print(context, &story)?;
    if story.events.is_empty() && !story.truncated && context.format.is_for_people() {
        output::tell(&format!("there is nothing of that up to revision {}", story.revision));
    }
    Ok(())
}

/// Wrong usage, where a name can't be one.
fn named(what: &str, name: &str) -> Result<(), Failure> {
    job_file::name_fault(name).map_or(Ok(()), |fault| Err(Failure::usage(format!("the {what} {fault}"))))
}

/// Wrong usage, where a resource has two limits: which one was meant is not known.
fn each_once(limits: &Limits) -> Result<(), Failure> {
    let twice = limits.resource.iter().enumerate().find(|(position, (name, _))| {
        let earlier = &limits.resource[..*position];
        earlier.iter().any(|(known, _)| known == name)
    });
    let failure = |(_, (name, _)): (_, &(String, i64))| Failure::usage(format!("--resource names {name} twice"));
    twice.map_or(Ok(()), |twice| Err(failure(twice)))
}

/// The whole quota: what is not named is not limited.
async fn quota_of(connection: &Connection, limits: &Limits) -> Result<Quota, Failure> {
    let mut quota =
        Quota { cpu_millis: limits.cpu, memory_bytes: limits.memory, disk_bytes: limits.disk, custom: Vec::new() };
    if !limits.resource.is_empty() {
        let known = super::custom_resources(connection).await?;
        quota.custom = vec![UNLIMITED; known.len()];
        for (name, amount) in &limits.resource {
            let place = known.iter().position(|known| known == name).ok_or_else(|| no_such_resource(name, &known))?;
            quota.custom[place] = *amount;
        }
    }
    Ok(quota)
}

fn no_such_resource(name: &str, known: &[String]) -> Failure {
    let there = if known.is_empty() { "none of its own".to_owned() } else { known.join(", ") };
    Failure::new("NO_SUCH_RESOURCE", format!("this cell has no resource `{name}`; it has {there}"))
}

pub(super) async fn partition(context: &Context, command: Partitions) -> Result<(), Failure> {
    match command {
        Partitions::List(listing) => {
            let connection = context.connect_to_read(listing.at).await?;
            watch::print(context.format, listing.watch, async || {
                let request = list_request(context, &listing);
                let answer = connection.govern().list_partitions(request).await?.into_inner();
                Ok(Listed::of(context.format, answer.revision, &answer.partitions, answer.truncated, listing.limit))
            })
            .await
        }
        Partitions::History { name, told } => tell(context, ("partition", "partition's name"), name, &told).await,
        Partitions::Set { name, rules, schedulers } => {
            named("partition's name", &name)?;
            schedulers.iter().try_for_each(|scheduler| named("scheduler's name", scheduler))?;
            let machines = rules.iter().map(|rule| job_file::constraint(rule)).collect::<Result<_, _>>();
            let machines = machines.map_err(Failure::usage)?;
            let request = SetPartition { name: name.clone(), machines, schedulers: schedulers.clone() };
            let connection = context.connect().await?;
            for scheduler in schedulers {
                if !is_known_if_answered(&connection, &scheduler).await? {
                    output::tell(&never_seen(&scheduler));
                }
            }
            let answer = connection.govern().set_partition(request).await?.into_inner();
            tell_change(context, &answer, &name, "is this partition from now on", "is this partition already")?;
            let request = ListRequest { filter: format!("name={name}"), ..ListRequest::default() };
            let listed = connection.govern().list_partitions(request).await.map(tonic::Response::into_inner);
            if listed.is_ok_and(|listed| listed.partitions.iter().any(|partition| partition.machines == 0)) {
                output::tell(&format!("warning: no machine is in the partition {name} now"));
            }
            Ok(())
        }
        Partitions::Remove { name } => {
            named("partition's name", &name)?;
            let request = SetPartition { name: name.clone(), ..SetPartition::default() };
            let answer = context.connect().await?.govern().set_partition(request).await?.into_inner();
            tell_change(context, &answer, &name, "is removed", "is gone already")
        }
    }
}

pub(super) async fn scheduler(context: &Context, command: Schedulers) -> Result<(), Failure> {
    match command {
        Schedulers::List { all, listing } => {
            let connection = context.connect().await?;
            watch::print(context.format, listing.watch, async || {
                let request = of_schedulers(context, &listing, all);
                let answer = connection.govern().list_schedulers(request).await?.into_inner();
                let rows = &answer.schedulers;
                let listed = Listed::of(context.format, answer.revision, rows, answer.truncated, listing.limit);
                Ok(Listed { hint: left_out_words(answer.left_out), ..listed })
            })
            .await
        }
        Schedulers::History { name, told } => tell(context, ("scheduler", "scheduler's name"), name, &told).await,
        Schedulers::Pause { name } => pause(context, name, true).await,
        Schedulers::Resume { name } => pause(context, name, false).await,
        Schedulers::Set { name, evict, priority } => {
            named("scheduler's name", &name)?;
            let connection = context.connect().await?;
            // Asked before: whoever has unusual rights is known from then on.
            if !is_known_if_answered(&connection, &name).await? {
                output::tell(&never_seen(&name));
            }
            let request = SetRights { scheduler: name.clone(), evicts: evict, priority };
            let answer = connection.govern().set_rights(request).await?.into_inner();
            let rights = rights_words(evict, priority);
            tell_change(context, &answer, &name, &format!("{rights} from now on"), &format!("{rights} already"))
        }
    }
}

/// What a scheduler was granted, of what was named.
fn rights_words(evicts: Option<bool>, priority: Option<u32>) -> String {
    let evicts = evicts.map(|evicts| if evicts { "may evict" } else { "may not evict" }.to_owned());
    let priority = priority.map(|priority| format!("has priority {priority}"));
    evicts.into_iter().chain(priority).collect::<Vec<_>>().join(" and ")
}

/// What to say of a name that may be a slip: what it is granted would be nobody's.
fn never_seen(scheduler: &str) -> String {
    format!("warning: this cell has never seen a scheduler named \"{scheduler}\"")
}

/// Schedulers are of no namespace. Those of which nothing is left but the name are listed where names are asked for: with `all`, every one.
fn of_schedulers(context: &Context, listing: &Listing, all: bool) -> ListRequest {
    let mut request = ListRequest { namespace: String::new(), ..list_request(context, listing) };
    if all {
        request.filter.insert_str(0, "name!=,");
    }
    request
}

/// What to say of schedulers that came and went.
fn left_out_words(count: u32) -> Option<String> {
    let (are, have) = (agreeing(count.into(), "is", "are"), agreeing(count.into(), "has", "have"));
    (count > 0).then(|| {
        format!(
            "{} that {have} neither sessions nor jobs any more {are} left out; --all lists them, too",
            counted(count.into(), "scheduler")
        )
    })
}

async fn pause(context: &Context, name: String, paused: bool) -> Result<(), Failure> {
    named("scheduler's name", &name)?;
    let connection = context.connect().await?;
    // Asked before: whoever is paused is known from then on.
    if paused && !is_known_if_answered(&connection, &name).await? {
        let resume = format!("one that comes is paused (`plenum scheduler resume {name}` ends that)");
        output::tell(&format!("{}; {resume}", never_seen(&name)));
    }
    let request = PauseScheduler { scheduler: name.clone(), paused };
    let answer = connection.govern().pause_scheduler(request).await?.into_inner();
    let (done, idle) = if paused {
        ("paused: its transactions are refused, what it placed runs on", "is paused already")
    } else {
        ("resumed", "is not paused")
    };
    tell_change(context, &answer, &name, done, idle)
}

/// True where the cell has seen a scheduler of this name, or where that can't be found out.
pub(super) async fn is_known(connection: &Connection, name: &str) -> bool {
    is_known_if_answered(connection, name).await.unwrap_or(true)
}

/// The same for who asks before a change.
///
/// # Errors
///
/// `UNAVAILABLE`: the change would only wait as long once more, and nothing is asked for yet.
async fn is_known_if_answered(connection: &Connection, name: &str) -> Result<bool, Failure> {
    let request = ListRequest { filter: format!("name={name}"), ..ListRequest::default() };
    match connection.govern().list_schedulers(request).await.map_err(Failure::from) {
        Ok(answer) => Ok(!answer.into_inner().schedulers.is_empty()),
        Err(failure) if failure.code == "UNAVAILABLE" => Err(failure),
        Err(_) => Ok(true),
    }
}

pub(super) async fn hold(context: &Context, command: Holds) -> Result<(), Failure> {
    let Holds::List(listing) = command;
    let connection = context.connect_to_read(listing.at).await?;
    watch::print(context.format, listing.watch, async || {
        let request = list_request(context, &listing);
        let answer = connection.govern().list_holds(request).await?.into_inner();
        Ok(Listed::of(context.format, answer.revision, &answer.holds, answer.truncated, listing.limit))
    })
    .await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::{cli::block_on, failure::EXIT_USAGE};

    // Most cells have none, and nothing was named.
    #[test]
    fn what_resources_a_cell_has_is_told_also_where_it_has_none() {
        let told = |known: &[&str]| {
            let known: Vec<String> = known.iter().map(ToString::to_string).collect();
            no_such_resource("licences", &known).message
        };
        assert_eq!(told(&[]), "this cell has no resource `licences`; it has none of its own");
        assert_eq!(told(&["seats", "tapes"]), "this cell has no resource `licences`; it has seats, tapes");
    }

    // A hundred names of schedulers that had come and gone stood among the two that worked.
    #[test]
    fn schedulers_that_came_and_went_are_counted_and_listed_where_all_are_asked_for() {
        let context = Context { namespace: Some("ml".to_owned()), ..Context::asking(String::new()) };
        let asked = |filter: Option<&str>, all| {
            let listing = Listing { at: None, watch: false, limit: 7, filter: filter.map(str::to_owned) };
            let ListRequest { namespace, limit, filter, .. } = of_schedulers(&context, &listing, all);
            assert_eq!((namespace.as_str(), limit), ("", 7));
            filter
        };
        assert_eq!((asked(None, false), asked(Some("paused=true"), false)), (String::new(), "paused=true".to_owned()));
        assert_eq!(
            (asked(None, true), asked(Some("paused=true"), true)),
            ("name!=,".to_owned(), "name!=,paused=true".to_owned())
        );
        assert_eq!(left_out_words(0), None);
        let one = "1 scheduler that has neither sessions nor jobs any more is left out; --all lists them, too";
        assert_eq!(left_out_words(1).as_deref(), Some(one));
        assert!(
            left_out_words(97)
                .unwrap()
                .starts_with("97 schedulers that have neither sessions nor jobs any more are left out")
        );
    }

    // A pause took twice the limit that it was given: the question before it was given up without a word, and the change then had an unknown outcome.
    #[test]
    fn a_pause_asks_a_silent_server_for_nothing_more_than_it_has_asked() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let request_timeout = Some(std::time::Duration::from_millis(50));
        let context = Context { request_timeout, ..Context::asking(silent.local_addr().unwrap().to_string()) };
        let paused = block_on(scheduler(&context, Schedulers::Pause { name: "batch".to_owned() })).unwrap();
        assert_eq!(paused.unwrap_err().code, "UNAVAILABLE");
    }

    // The last of two limits counted, without a word. Names went to the cell, or a missing one was told first.
    #[test]
    fn slips_are_told_before_a_missing_cell() {
        let context = Context::asking("http://127.0.0.1:1".to_owned());
        let twice = vec![("licences".to_owned(), 1), ("licences".to_owned(), 2)];
        let limits = Limits { cpu: None, memory: None, disk: None, resource: twice };
        let failed = block_on(quota(&context, Quotas::Set { name: "ml".to_owned(), limits })).unwrap().unwrap_err();
        assert_eq!((failed.exit, failed.message.as_str()), (EXIT_USAGE, "--resource names licences twice"));
        let rules = vec!["attr.rack == \"a\"".to_owned()];
        let set = |name: &str, scheduler: &str| {
            let (name, schedulers) = (name.to_owned(), vec![scheduler.to_owned()]);
            block_on(partition(&context, Partitions::Set { name, rules: rules.clone(), schedulers }))
                .unwrap()
                .unwrap_err()
        };
        assert_eq!((set("Lab", "ml").exit, set("lab", "").exit), (EXIT_USAGE, EXIT_USAGE));
        assert_eq!(set("lab", "ml").code, "UNAVAILABLE");
    }
}

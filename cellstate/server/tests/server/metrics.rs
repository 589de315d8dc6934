//! What `/metrics` serves: names and labels that other people's dashboards rely on.

use std::collections::BTreeMap;
use std::time::Duration;

use plenum_model::Cell;
use plenum_proto::v1;
use tonic::transport::Channel;
use v1::session_request::Ask;

use crate::client::{
    Session, as_principal, code, connect, job, placement, register, start, start_with_leases_of, submit,
};
use crate::inspection::page;
use crate::stalled::shows;

/// What is promised, with its labels; of a histogram its count.
const PROMISED: &[(&str, &[&str])] = &[
    ("transactions_total", &["scheduler", "outcome"]),
    ("claims_total", &["scheduler", "outcome", "kind"]),
    ("conflicts_total", &["loser", "winner", "resource"]),
    ("transaction_staleness_revisions_count", &[]),
    ("commit_duration_seconds_count", &["stage"]),
    ("snapshot_age_seconds", &["scheduler"]),
    ("scheduler_busy_ratio", &["scheduler"]),
    ("scheduler_queue_jobs", &["scheduler"]),
    ("job_wait_seconds_count", &["scheduler"]),
    ("gang_wait_seconds_count", &[]),
    ("allocations", &["state"]),
    ("job_bytes", &[]),
    ("machine_resource_capacity", &["resource"]),
    ("machine_resource_allocated", &["resource"]),
    ("machine_resource_used", &["resource"]),
    ("divergences_total", &[]),
    ("journal_sync_seconds_count", &[]),
    ("queue_depth", &["queue"]),
    ("agent_lease_lost_total", &[]),
    ("placement_gap_ratio", &[]),
];

/// What is promised and not there yet is said to be missing.
const LIMITS: &str = include_str!("../../../../docs/limits.md");

/// The page on which dashboards are built.
const PAGE: &str = include_str!("../../../../docs/output.md");

fn is_excused(name: &str) -> bool {
    LIMITS.contains(&format!("`{name}` is not measured yet"))
}

/// The names of the labels of each line of a metric.
fn labels_of<'a>(metrics: &'a str, name: &str) -> Vec<Vec<&'a str>> {
    let of_line = |line: &'a str| {
        let (series, _value) = line.rsplit_once(' ')?;
        let series = series.strip_prefix("plenum_")?.strip_prefix(name)?;
        if series.is_empty() {
            return Some(Vec::new());
        }
        let labels = series.strip_prefix('{')?.strip_suffix('}')?;
        labels.split(',').map(|label| Some(label.split_once('=')?.0)).collect()
    };
    metrics.lines().filter_map(of_line).collect()
}

/// The name of a metric in a line of that kind.
fn name_of<'a>(line: &'a str, kind: &str) -> Option<&'a str> {
    line.strip_prefix(kind)?.split(' ').next()
}

/// The metrics that have a type, and not a text before it that says what they are.
fn without_help(metrics: &str) -> Vec<&str> {
    let lines: Vec<&str> = metrics.lines().collect();
    let typed = lines.windows(2).filter_map(|pair| Some((name_of(pair[0], "# HELP "), name_of(pair[1], "# TYPE ")?)));
    typed.filter(|(helped, name)| *helped != Some(*name)).map(|(_, name)| name).collect()
}

/// Each metric that is served, with its kind and, where it has samples, its labels, is on the page, and no other.
fn is_on_the_page(metrics: &str) {
    let listed: BTreeMap<&str, (&str, &str)> = PAGE
        .lines()
        .filter_map(|row| {
            let (series, rest) = row.strip_prefix("| `plenum_")?.split_once("` | ")?;
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            Some((name, (labels.strip_suffix('}')?, rest.split_once(" | ")?.0)))
        })
        .collect();
    let served = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE plenum_")?.split_once(' '));
    let mut names = Vec::new();
    for (name, kind) in served {
        let name = if kind == "counter" { format!("{name}_total") } else { name.to_owned() };
        let sample = if kind == "histogram" { format!("{name}_count") } else { name.clone() };
        let (labels, listed_kind) = listed.get(name.as_str()).copied().unwrap_or_default();
        let labels: Vec<&str> = labels.split(',').filter(|label| !label.is_empty()).collect();
        assert_eq!(listed_kind, kind, "plenum_{name}, in docs/output.md");
        assert!(labels_of(metrics, &sample).iter().all(|found| *found == labels), "the labels of plenum_{name}");
        names.push(name);
    }
    names.sort_unstable();
    assert_eq!(
        listed.into_keys().collect::<Vec<_>>(),
        names,
        "the metrics in docs/output.md, and those that are served"
    );
}

/// Nothing is served of it before.
async fn says_what_it_uses(channel: &Channel, machine: &v1::RegisterResponse) {
    let used = Some(v1::Resources { cpu_millis: 250, ..Default::default() });
    let telemetry = Some(v1::MachineTelemetry { used, tasks: 1 });
    let (machine, epoch) = (machine.machine, machine.epoch);
    let said = v1::ReportRequest { machine, epoch, telemetry, ..Default::default() };
    v1::agents_client::AgentsClient::new(channel.clone()).report(said).await.unwrap();
}

#[tokio::test]
async fn everything_that_is_promised_is_served_under_its_name_and_labels_or_said_to_be_missing() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let machine = register(&channel, "m1", 1000).await;
    says_what_it_uses(&channel, &machine).await;
    let (won, lost) = (submit(&channel, job("won", 1)).await, submit(&channel, job("lost", 1)).await);
    let mut session = Session::open(&channel, "batch").await.unwrap();
    session.reach(lost.revision).await;
    // Both are of the same picture, and one finds the room taken.
    let first = session.transaction(1, vec![placement(won.job, vec![0], vec![0])]);
    let second = session.transaction(2, vec![placement(lost.job, vec![0], vec![0])]);
    assert_eq!(session.commit(first).await.unwrap().granted, 1);
    assert_eq!(session.commit(second).await.unwrap().refusals[0].kind(), v1::RefusalKind::Conflict);
    let pulse = v1::Pulse { over_micros: 4, busy_micros: 1, waiting_jobs: 1, revision: session.cell.revision().0 };
    session.asks.send(v1::SessionRequest { ask: Some(Ask::Pulse(pulse)) }).await.unwrap();
    for line in [
        "plenum_scheduler_queue_jobs{scheduler=\"batch\"} 1",
        "plenum_transactions_total{scheduler=\"batch\",outcome=\"committed\"} 1",
        "plenum_transactions_total{scheduler=\"batch\",outcome=\"refused\"} 1",
        "plenum_claims_total{scheduler=\"batch\",outcome=\"refused\",kind=\"conflict\"} 1",
        "plenum_conflicts_total{loser=\"batch\",winner=\"batch\",resource=\"cpu_millis\"} 1",
        "plenum_transaction_staleness_revisions_count 1",
        "plenum_allocations{state=\"granted\"} 1",
        "plenum_tasks_waiting 1",
        "plenum_jobs_failing 0",
        "plenum_tasks_unknown 0",
        "plenum_tasks_unknown_adopted 0",
        "plenum_older_copy 0",
        "plenum_clock_ahead_seconds 0",
    ] {
        shows(&server, line).await;
    }
    let (version, core) = (env!("CARGO_PKG_VERSION"), plenum_core::CORE_VERSION);
    shows(&server, &format!("plenum_build_info{{version=\"{version}\",core=\"{core}\"}} 1")).await;
    let metrics = page(server.address(), "/metrics").await;
    for (name, labels) in PROMISED {
        let served = labels_of(&metrics, name);
        if is_excused(name) {
            assert!(served.is_empty(), "{name} is served: docs/limits.md need not say more");
            continue;
        }
        assert!(!served.is_empty() && served.iter().all(|found| found == labels), "{name}: {served:?} in {metrics}");
    }
    let value = |name: &str| {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim().parse::<u32>().unwrap_or_default()
    };
    let (used, most) = (value("plenum_connections "), value("plenum_connections_max "));
    // The channel's, and the one on which the page was asked for.
    assert!((2..=most).contains(&used), "{used} of {most}: {metrics}");
    let stages =
        ["queue", "durable"].map(|stage| format!("plenum_commit_duration_seconds_count{{stage=\"{stage}\"}} "));
    assert!(stages.iter().all(|stage| metrics.contains(stage)), "{metrics}");
    assert_eq!(without_help(&metrics), [""; 0]);
    is_on_the_page(&metrics);
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_agent_that_says_nothing_any_more_is_counted_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = start_with_leases_of(dir.path(), Duration::from_millis(200)).await;
    let channel = connect(&server).await;
    shows(&server, "plenum_agent_lease_lost_total 0").await;
    // An alert on no machine that is ready found no such series.
    shows(&server, "plenum_machines{state=\"ready\"} 0").await;
    register(&channel, "m1", 1000).await;
    shows(&server, "plenum_agent_lease_lost_total 1").await;
    shows(&server, "plenum_machines{state=\"unreachable\"} 1").await;
    shows(&server, "plenum_machines{state=\"ready\"} 0").await;
    server.shutdown().await.unwrap();
}

// There was nothing to raise an alert on for a scheduler that is paused or away, a quota that is full, or a machine whose agent wants no more.
#[tokio::test]
async fn who_schedules_what_quotas_leave_and_which_machines_their_agents_cordoned_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let machine = register(&channel, "m1", 4000).await;
    let mut govern = v1::govern_client::GovernClient::new(channel.clone());
    let limit = Some(v1::Quota { cpu_millis: Some(3000), ..Default::default() });
    govern.set_quota(v1::SetQuota { namespace: "default".to_owned(), limit }).await.unwrap();
    let crunch = submit(&channel, job("crunch", 2)).await;
    // Its jobs wait, though no session of it is known.
    shows(&server, "plenum_scheduler_connected{scheduler=\"batch\"} 0").await;
    let mut inspect = v1::inspect_client::InspectClient::new(channel.clone());
    let status = inspect.status(v1::StatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.away_schedulers, status.sessions), (vec!["batch".to_owned()], 0));
    let mut session = Session::open(&channel, "batch").await.unwrap();
    session.reach(crunch.revision).await;
    let both = session.transaction(1, vec![placement(crunch.job, vec![0, 0], vec![0, 1])]);
    assert_eq!(session.commit(both).await.unwrap().granted, 2);
    for line in [
        "plenum_scheduler_connected{scheduler=\"batch\"} 1",
        "plenum_scheduler_silent{scheduler=\"batch\"} 0",
        "plenum_scheduler_paused{scheduler=\"batch\"} 0",
        "plenum_quota_limit{namespace=\"default\",resource=\"cpu_millis\"} 3000",
        "plenum_quota_used{namespace=\"default\",resource=\"cpu_millis\"} 2000",
        "plenum_machines_unfit{reason=\"state-unwritable\"} 0",
    ] {
        shows(&server, line).await;
    }
    let metrics = page(server.address(), "/metrics").await;
    assert!(
        !metrics.contains("namespace=\"default\",resource=\"memory_bytes\""),
        "what is not limited is not told: {metrics}"
    );
    assert_eq!(without_help(&metrics), [""; 0]);

    let pause = v1::PauseScheduler { scheduler: "batch".into(), paused: true };
    govern.pause_scheduler(pause).await.unwrap();
    let (machine, epoch) = (machine.machine, machine.epoch);
    let unfit = v1::Unfit::StateUnwritable.into();
    let said = v1::ReportRequest { machine, epoch, unfit, ..Default::default() };
    v1::agents_client::AgentsClient::new(channel.clone()).report(said).await.unwrap();
    drop(session);
    for line in [
        "plenum_scheduler_connected{scheduler=\"batch\"} 0",
        "plenum_scheduler_paused{scheduler=\"batch\"} 1",
        "plenum_machines_unfit{reason=\"state-unwritable\"} 1",
    ] {
        shows(&server, line).await;
    }
    server.shutdown().await.unwrap();
}

// What the table of methods let through and a method refused was not counted, and what was meant for another cell was.
#[tokio::test]
async fn a_call_that_is_refused_for_who_makes_it_is_counted_once_wherever_that_is_found_out() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let denied = async || {
        let metrics = page(server.address(), "/metrics").await;
        let line = metrics.lines().find_map(|line| line.strip_prefix("plenum_calls_denied_total "));
        line.unwrap().parse::<u32>().unwrap()
    };
    let mut jobs = v1::jobs_client::JobsClient::new(channel.clone());
    let submit = || v1::SubmitRequest { spec: Some(job("crunch", 1)), ..Default::default() };
    jobs.submit(submit()).await.unwrap();
    assert_eq!(denied().await, 0);

    let refused = jobs.submit(as_principal("agent/m1", submit())).await.unwrap_err();
    assert_eq!((code(&refused).as_str(), denied().await), ("NOT_PERMITTED", 1), "by the table");
    let refused = jobs.submit(as_principal("root", submit())).await.unwrap_err();
    assert_eq!((code(&refused).as_str(), denied().await), ("NO_SUCH_PRINCIPAL", 2));
    let machine = v1::RegisterMachine { name: "m2".to_owned(), ..Default::default() };
    let foreign = v1::RegisterRequest { machine: Some(machine), ..Default::default() };
    let mut agents = v1::agents_client::AgentsClient::new(channel.clone());
    let refused = agents.register(as_principal("agent/m1", foreign)).await.unwrap_err();
    assert_eq!((code(&refused).as_str(), denied().await), ("NOT_PERMITTED", 3), "by the method");
    let hello = v1::Hello { scheduler: "batch".to_owned(), namespace: "default".to_owned(), ..Default::default() };
    let greeted = Session::greeted_as("scheduler/other", &channel, hello, Cell::default()).await;
    let refused = greeted.err().unwrap();
    assert_eq!((code(&refused).as_str(), denied().await), ("NOT_PERMITTED", 4), "in a stream that has begun");

    let mut elsewhere = tonic::Request::new(submit());
    elsewhere.metadata_mut().insert("plenum-cell", "0badce11".parse().unwrap());
    let refused = jobs.submit(elsewhere).await.unwrap_err();
    assert_eq!((code(&refused).as_str(), denied().await), ("OTHER_CELL", 4));
    server.shutdown().await.unwrap();
}

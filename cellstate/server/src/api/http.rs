//! The pages for people and probes, on the same port as gRPC.

mod gauges;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::iter;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use plenum_model::{AllocationState, MachineState};
use plenum_proto::v1;

use super::edge::unread;
use super::failure::Failure;
use super::listing;
use crate::pulses::Doing;
use crate::shared::Shared;
use gauges::{Gauge, single};

/// Whether a path is that of a gRPC method: `/package.Service/Method`.
pub(super) fn is_method(path: &str) -> bool {
    let mut parts = path.trim_start_matches('/').split('/');
    matches!((parts.next(), parts.next()), (Some(service), Some(_)) if service.contains('.'))
}

pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/", get(home))
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(shared)
}

/// The answer to a request that is not looked at.
pub(super) fn forbidden(why: &str) -> Response {
    text(StatusCode::FORBIDDEN, PLAIN, format!("{why}\n"))
}

fn text(status: StatusCode, kind: &'static str, body: impl IntoResponse) -> Response {
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers
        .insert("content-security-policy", HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

const PLAIN: &str = "text/plain; charset=utf-8";

async fn live(State(shared): State<Arc<Shared>>) -> Response {
    if shared.has_failed() {
        return text(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, "the server ends\n".to_owned());
    }
    text(StatusCode::OK, PLAIN, "ok\n".to_owned())
}

async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    if *shared.ending.borrow() {
        return text(StatusCode::SERVICE_UNAVAILABLE, PLAIN, "the server ends\n".to_owned());
    }
    match shared.space.low() {
        Some(low) => text(StatusCode::SERVICE_UNAVAILABLE, PLAIN, format!("{low}\n")),
        None => text(StatusCode::OK, PLAIN, "ok\n".to_owned()),
    }
}

/// Why something was not looked at: it may be, soon.
pub(super) fn failed(failure: &Failure) -> Response {
    text(StatusCode::SERVICE_UNAVAILABLE, PLAIN, format!("{}: {}\n", failure.code, failure.message))
}

/// What is told of the cell, unless too much of that kind waits for its readers. What probes are told is a few bytes, and always is: a
/// server that somebody reads too much of is not to be started anew for that.
fn page(shared: &Shared, kind: &'static str, body: String) -> Response {
    match unread::page(&shared.unread, body) {
        Some(body) => text(StatusCode::OK, kind, body),
        None => failed(&Failure::too_much_unread(shared.unread.most())),
    }
}

/// How long is waited for the cell to be counted: less than the 10 s that Prometheus waits for an answer, unless it is told otherwise. On a disk that is full the cell is
/// folded for who reads it once two seconds are over, and a large one takes some more.
const COUNTED_WITHIN: Duration = Duration::from_secs(8);

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let gauges = gauges_within(&shared, COUNTED_WITHIN).await;
    let depths = [
        ("requests", shared.ingress.len()),
        ("publish_bytes", shared.published.bytes()),
        ("snapshots", shared.lending.len()),
        ("history_bytes", usize::try_from(shared.feed.lag_bytes()).unwrap_or(usize::MAX)),
    ];
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    page(&shared, kind, shared.metrics.render(&depths, &gauges))
}

/// All gauges; where the cell is not counted by then, or can't be, as too many wait for that or there is no thread for it, those that need no picture of it. There may be
/// none while the disk does not answer, which is what some of these tell.
async fn gauges_within(shared: &Arc<Shared>, patience: Duration) -> Vec<Gauge> {
    let counting = super::inspect::status_with(shared, self::gauges::all);
    let (mut gauges, status) = match tokio::time::timeout(patience, counting).await {
        Ok(Ok((status, counted))) => (cell_gauges(shared, &status, counted), status),
        Ok(Err(_)) | Err(_) => (Vec::new(), super::inspect::of_server(shared)),
    };
    gauges.extend(scheduler_gauges(shared));
    gauges.extend(server_gauges(shared, &status));
    gauges.push(single("machines_held_back", status.machines_held_back));
    gauges.extend(log_gauges(shared, &status));
    gauges.push(single("history_revision", status.history_revision));
    gauges.push(single("history_oldest_revision", status.oldest_revision));
    gauges.push(single("history_given_up_revisions", shared.feed.given_up()));
    gauges.push(single("history_stopped", u64::from(shared.feed.stopped().is_some())));
    gauges
}

/// What the cell and its machines tell, with what was counted besides.
fn cell_gauges(shared: &Shared, status: &v1::StatusResponse, counted: Vec<Gauge>) -> Vec<Gauge> {
    let mut gauges = Vec::from(state_gauges(status));
    let used = shared.hub.used();
    for (name, amounts) in [
        ("machine_resource_capacity", status.capacity.as_ref()),
        ("machine_resource_allocated", status.allocated.as_ref()),
        ("machine_resource_used", used.as_ref()),
    ] {
        gauges
            .push((name, amounts.map(|amounts| amount_values(amounts, &status.custom_resources)).unwrap_or_default()));
    }
    gauges.extend(counted);
    gauges.extend(work_gauges(status));
    gauges.push(single("revision", status.revision));
    gauges
}

/// How many allocations, machines and jobs are in each state.
fn state_gauges(status: &v1::StatusResponse) -> [Gauge; 3] {
    let live = AllocationState::ALL.into_iter().filter(|state| state.is_live());
    let of_allocations = live.map(|state| listing::allocation_word(v1::AllocationState::from(state).into()));
    let of_machines = listing::MACHINE_WORDS.iter().copied().filter(|word| *word != MachineState::Gone.word());
    let of_jobs = listing::JOB_WORDS.iter().copied().chain(["recurring"]);
    [
        ("allocations", by_state(of_allocations, &status.allocations)),
        ("machines", by_state(of_machines, &status.machines)),
        ("jobs", by_state(of_jobs, &status.jobs)),
    ]
}

/// With 0 for what nothing is in: an alert on the last one that left would find no series, and say nothing.
fn by_state(words: impl Iterator<Item = &'static str>, counts: &BTreeMap<String, u64>) -> Vec<(String, f64)> {
    let mut by_word: BTreeMap<&str, u64> = words.map(|word| (word, 0)).collect();
    by_word.extend(counts.iter().map(|(word, count)| (word.as_str(), *count)));
    by_word.into_iter().map(|(word, count)| (format!("{{state=\"{word}\"}}"), float(count))).collect()
}

/// How schedulers do, by name, as they say.
fn scheduler_gauges(shared: &Shared) -> Vec<Gauge> {
    let mut by_name: BTreeMap<String, Doing> = BTreeMap::new();
    for (scheduler, doing) in shared.doing() {
        let of_name = by_name.entry(shared.metrics.name(&scheduler)).or_default();
        *of_name = of_name.and(doing);
    }
    let gauge = |gauge, value: fn(&Doing) -> Option<f64>| {
        let values =
            by_name.iter().filter_map(|(name, doing)| Some((format!("{{scheduler=\"{name}\"}}"), value(doing)?)));
        (gauge, values.collect())
    };
    vec![
        gauge("scheduler_busy_ratio", |doing| doing.busy_ratio),
        gauge("scheduler_queue_jobs", |doing| doing.waiting_jobs.map(|jobs| float(jobs.into()))),
        gauge("snapshot_age_seconds", |doing| doing.snapshot_age_micros.map(|age| float(age.unsigned_abs()) / 1e6)),
    ]
}

/// What waits, what fails, and what runs that the cell does not know.
fn work_gauges(status: &v1::StatusResponse) -> [Gauge; 4] {
    let values = [
        ("tasks_waiting", status.waiting_tasks),
        ("jobs_failing", status.failing_jobs),
        ("tasks_unknown", status.unknown_tasks),
        ("tasks_unknown_adopted", status.unknown_adopted),
    ];
    values.map(|(name, value)| single(name, value))
}

/// Which server it is, whether it has the newest copy of its cell, how far its time is from the machine's clock, and how many connections and calls it has.
fn server_gauges(shared: &Shared, status: &v1::StatusResponse) -> Vec<Gauge> {
    let mut gauges = vec![
        ("build_info", vec![(format!("{{version=\"{}\",core=\"{}\"}}", status.version, status.core_version), 1.0)]),
        single("older_copy", u64::from(!status.older_copy.is_empty())),
        ("clock_ahead_seconds", vec![(String::new(), signed(status.clock_ahead_seconds.unwrap_or(0)))]),
        single("calls", shared.calls.open() as u64),
        single("shared_calls", shared.calls.shared() as u64),
        single("shared_calls_max", shared.calls.shared_max() as u64),
    ];
    if let Some(places) = shared.places.get() {
        gauges.extend([single("connections", places.used() as u64), single("connections_max", places.most() as u64)]);
    }
    gauges
}

/// How the log stands: its size, what was written into it, what is kept of it for the history, the room, what was cut off it at this start, how far the high-water mark is behind its end, and for how long a write is under way.
fn log_gauges(shared: &Shared, status: &v1::StatusResponse) -> Vec<Gauge> {
    let marked = shared.keeper.high_water().durable().map_or(0, |mark| mark.revision);
    let behind = shared.keeper.tail().revision.saturating_sub(marked);
    let read_only = u64::from(shared.space.is_read_only());
    let values = [
        ("journal_bytes", status.log_bytes),
        ("journal_written_bytes", shared.feed.durable_bytes()),
        ("journal_kept_bytes", status.log_kept_bytes),
        ("journal_disk_free_bytes", status.free_bytes),
        ("journal_disk_needed_bytes", shared.keeper.needed_bytes()),
        ("journal_cut_bytes", shared.cut_bytes),
        ("journal_mark_behind_revisions", behind),
        ("read_only", read_only),
    ];
    let mut gauges = Vec::from(values.map(|(name, value)| single(name, value)));
    // Of a write that does not come back, no histogram tells.
    let writing_micros = shared.writing.micros(shared.clock.monotonic_micros());
    gauges.push(("journal_write_age_seconds", vec![(String::new(), signed(writing_micros) / 1e6)]));
    gauges
}

/// Of each resource of the cell, those that it named itself by these names.
fn amount_values(amounts: &v1::Resources, custom_resources: &[String]) -> Vec<(String, f64)> {
    let of_all = [
        ("cpu_millis", amounts.cpu_millis),
        ("memory_bytes", amounts.memory_bytes),
        ("disk_bytes", amounts.disk_bytes),
    ];
    let others = amounts.custom.iter().copied().chain(iter::repeat(0));
    let custom = custom_resources.iter().map(String::as_str).zip(others);
    let values = of_all.into_iter().chain(custom);
    values
        .map(|(name, amount)| (format!("{{resource=\"{name}\"}}"), float(u64::try_from(amount).unwrap_or(0))))
        .collect()
}

/// A count as metrics have it: exact below 2^53.
#[allow(clippy::cast_precision_loss, reason = "metrics are floating-point numbers")]
pub(super) fn float(count: u64) -> f64 {
    count as f64
}

/// The same of what may be below 0.
fn signed(count: i64) -> f64 {
    let size = float(count.unsigned_abs());
    if count < 0 { -size } else { size }
}

async fn home(State(shared): State<Arc<Shared>>) -> Response {
    let status = match super::inspect::status(&shared).await {
        Ok(status) => status,
        Err(failure) => return failed(&failure),
    };
    let mut html = String::from(
        "<!doctype html><meta charset=utf-8><title>plenum</title><style>body{font:16px sans-serif;margin:2em}\
         td{padding:0 1em 0 0}</style><h1>plenum</h1><table>",
    );
    let mut row = |name: &str, value: String| {
        // Writing to a string can't fail.
        let _ = write!(html, "<tr><td>{name}<td>{value}");
    };
    row("revision", status.revision.to_string());
    row("term", status.term.to_string());
    row("version", format!("{}, core {}", status.version, status.core_version));
    for (name, counts) in [("machines", &status.machines), ("jobs", &status.jobs), ("allocations", &status.allocations)]
    {
        let counts: Vec<String> = counts.iter().map(|(state, count)| format!("{count} {state}")).collect();
        row(name, counts.join(", "));
    }
    row("transactions", status.transactions.to_string());
    row("conflicts", status.conflicts.to_string());
    html.push_str("</table><p>See <code>plenum status</code>, <code>/metrics</code>.\n");
    page(&shared, "text/html; charset=utf-8", html)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::tests::without_threads;

    #[test]
    fn methods_and_pages_are_told_apart() {
        assert!(is_method("/plenum.v1.Cell/Commit") && is_method("/grpc.health.v1.Health/Check"));
        assert!(!is_method("/") && !is_method("/metrics") && !is_method("/readyz"));
    }

    // While a disk did not answer nothing was decided, and no metric said so: what was measured of a write was known once it had come back.
    #[test]
    fn a_write_that_does_not_come_back_is_told_with_its_age() {
        let dir = tempfile::tempdir().unwrap();
        let (_journal, shared) = without_threads(dir.path(), |_| None);
        let age_seconds = || {
            let gauges = log_gauges(&shared, &v1::StatusResponse::default());
            gauges.into_iter().find(|(name, _)| *name == "journal_write_age_seconds").unwrap().1.remove(0).1
        };
        assert!(age_seconds() <= 0.0, "nothing is being written");
        shared.writing.begins(shared.clock.monotonic_micros() - 7_000_000);
        assert!(age_seconds() >= 7.0);
        shared.writing.ends();
        assert!(age_seconds() <= 0.0);
    }

    // All of them waited for a picture of the cell, and none came while the disk could not be read: nothing told of a disk that does not answer.
    #[tokio::test]
    async fn what_needs_no_picture_of_the_cell_is_told_where_none_comes() {
        let dir = tempfile::tempdir().unwrap();
        let (_journal, shared) = without_threads(dir.path(), |_| None);
        // None is shown, and nobody takes another one.
        shared.picture.tidy();
        assert!(!shared.picture.shows(shared.durable_revision()));
        are_without_a_picture(&gauges_within(&shared, Duration::ZERO).await);
    }

    fn are_without_a_picture(gauges: &[Gauge]) {
        let told: Vec<&str> = gauges.iter().map(|(name, _)| *name).collect();
        for name in ["journal_write_age_seconds", "read_only", "history_stopped", "older_copy", "calls", "revision"] {
            assert_eq!(told.contains(&name), name != "revision", "{name}, of {told:?}");
        }
    }

    // Nothing was told, not even that the disk is full, where too many others waited to count.
    #[tokio::test]
    async fn what_needs_no_picture_of_the_cell_is_told_where_it_can_not_be_counted() {
        let dir = tempfile::tempdir().unwrap();
        let (_journal, shared) = without_threads(dir.path(), |_| None);
        let (mut counting, mut waiting) = (Vec::new(), Vec::new());
        loop {
            let mut asks = Box::pin(shared.reads.turn_to_count());
            let turn = tokio::time::timeout(Duration::ZERO, asks.as_mut()).await;
            match turn {
                Ok(Ok(turn)) => counting.push(turn),
                Ok(Err(_)) => break,
                Err(_) => waiting.push(asks),
            }
        }
        assert!(counting.len() + waiting.len() > 1);
        are_without_a_picture(&gauges_within(&shared, Duration::from_secs(60)).await);
    }

    // An alert on them went on for as long as one ran that an operator had adopted.
    #[test]
    fn unknown_tasks_that_were_adopted_are_told_apart() {
        let status = v1::StatusResponse { unknown_tasks: 3, unknown_adopted: 2, ..Default::default() };
        let told = work_gauges(&status);
        assert!(told.contains(&single("tasks_unknown", 3)) && told.contains(&single("tasks_unknown_adopted", 2)));
    }

    // That of the last machine that was ready was gone, and with it the alert.
    #[test]
    fn states_that_nothing_is_in_are_told_as_zero() {
        let counts = |word: &str| BTreeMap::from([(word.to_owned(), 2)]);
        let status = v1::StatusResponse { machines: counts("ready"), jobs: counts("running"), ..Default::default() };
        let told = state_gauges(&status).map(|(name, values)| {
            let values: Vec<_> = values.iter().map(|(labels, value)| format!("{labels} {value}")).collect();
            format!("{name}: {}", values.join(", ").replace("{state=\"", "").replace("\"}", ""))
        });
        let expected = [
            "allocations: granted 0, lost 0, running 0, starting 0, stopping 0",
            "machines: cordoned 0, draining 0, ready 2, unreachable 0",
            "jobs: complete 0, failed 0, recurring 0, running 2, stopped 0, waiting 0",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn a_clock_that_is_behind_is_told_with_its_sign() {
        let told = [86_400, 0, -90].map(signed).map(|seconds| seconds.to_string());
        assert_eq!(told, ["86400", "0", "-90"]);
    }
}

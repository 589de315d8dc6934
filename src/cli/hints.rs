//! What a refusal about a job does not say and its cell can tell: where else there is one of that name, and in what a file differs from the
//! job that lives; and what an answer does not say: that the cell that gave it is an older copy.

use std::time::Duration;

use plenum_model as model;
use plenum_proto::v1::{
    At, JobBody, JobShape, JobSpec, JobState, JobView, ListRequest, MomentRequest, MomentResponse, StatusRequest,
    StatusResponse,
};
use tokio::time::Instant;
use tonic::{Response, Status};

use super::{JobName, get_job, history::where_its_story_is, tells_no_moments};
use crate::{connect::Connection, failure::Failure, output};

/// Most jobs of one name that are told of.
const ELSEWHERE_MAX: u32 = 4;

/// How long is looked whether the cell is an older copy: what was asked for is done.
const LOOK_MAX: Duration = Duration::from_secs(2);

/// How long all that a command asks besides may take: what it was asked for is done by then, or known.
const BESIDES_MAX: Duration = Duration::from_secs(5);

/// Until when a command that may last until the deadline, if there is one, waits for what it asks besides.
pub(super) fn look_until(deadline: Option<Instant>) -> Instant {
    let last = Instant::now() + BESIDES_MAX;
    deadline.map_or(last, |deadline| deadline.min(last))
}

/// The answer to what a command asks besides; nothing where there is none until then.
pub(super) async fn besides<T>(until: Instant, answer: impl Future<Output = Result<Response<T>, Status>>) -> Option<T> {
    let answer = tokio::time::timeout_at(until, answer).await.ok()?;
    answer.ok().map(Response::into_inner)
}

/// Says so where somebody has seen more of the cell than it has: what it acknowledged then is not in the copy that went on. That this cannot be found
/// out is no reason to fail.
pub(super) async fn warn_of_older_copy(connection: &Connection) {
    let (mut inspect, mut also) = (connection.inspect(), connection.inspect());
    let told = older_copy(inspect.moment(MomentRequest { at: None }), also.status(StatusRequest {}));
    let Ok(Some(words)) = tokio::time::timeout(LOOK_MAX, told).await else { return };
    if let Some(warning) = of_older_copy(&words) {
        output::tell(&warning);
    }
}

/// What is said of a newer copy; nothing where that can't be found out. For a status the server counts the whole cell: an earlier one alone is asked for it,
/// whose moment does not have it.
async fn older_copy(
    moment: impl Future<Output = Result<Response<MomentResponse>, Status>>,
    status: impl Future<Output = Result<Response<StatusResponse>, Status>>,
) -> Option<String> {
    match moment.await.map(|answer| answer.into_inner().older_copy) {
        Ok(Some(words)) => return Some(words),
        Ok(None) => {}
        Err(refused) if tells_no_moments(refused.code()) => {}
        Err(_) => return None,
    }
    status.await.ok().map(|answer| answer.into_inner().older_copy)
}

fn of_older_copy(words: &str) -> Option<String> {
    (!words.is_empty()).then(|| format!("warning: this may be lost, as the copy is OLD: {words}"))
}

/// From here on it is told that the cell's time is ahead of this machine's clock: a launch for a moment by that one may come too late for no other reason.
const AHEAD_MICROS: i64 = 60_000_000;

/// The failure of a launch. Where it came too late and the cell's time is ahead of this machine's clock, it says so.
pub(super) async fn of_passed(connection: &Connection, failure: Failure) -> Failure {
    if failure.code != "INSTANT_PASSED" {
        return failure;
    }
    let mut inspect = connection.inspect();
    let moment = besides(look_until(None), inspect.moment(MomentRequest { at: None })).await;
    let ahead_micros = moment.map_or(0, |moment| moment.time_micros.saturating_sub(output::now_micros()));
    match of_clock_ahead(ahead_micros) {
        Some(hint) => failure.with_hint(hint),
        None => failure,
    }
}

fn of_clock_ahead(ahead_micros: i64) -> Option<String> {
    (ahead_micros >= AHEAD_MICROS).then(|| {
        format!(
            "the cell's time is {} ahead of this machine's clock: without --at the job is launched for now by the cell's time; `plenum explain INSTANT_PASSED` \
             tells more",
            output::span(ahead_micros)
        )
    })
}

/// The failure of a command about a job. Where there is no such job, it says where else to look.
pub(super) async fn of_missing(connection: &Connection, job: &JobName, at: Option<At>, failure: Failure) -> Failure {
    let name = format!("{}/{}", job.namespace, job.name);
    let story = where_its_story_is(&format!("{name} is retired"), &format!("job history {name}"), at);
    told_elsewhere(connection, job, at, failure, Some(story)).await
}

/// The same, without a word where no other namespace has a job of that name.
pub(super) async fn elsewhere(connection: &Connection, job: &JobName, at: Option<At>, failure: Failure) -> Failure {
    told_elsewhere(connection, job, at, failure, None).await
}

async fn told_elsewhere(
    connection: &Connection,
    job: &JobName,
    at: Option<At>,
    failure: Failure,
    retired: Option<String>,
) -> Failure {
    if failure.code != "NO_SUCH_JOB" {
        return failure;
    }
    let filter = format!("name={}", job.name);
    let request = ListRequest { namespace: String::new(), at, limit: ELSEWHERE_MAX, filter };
    // What was asked for failed all the same.
    let others = connection.jobs().list(request).await.ok().and_then(|answer| {
        let answer = answer.into_inner();
        others(&answer.jobs, answer.truncated)
    });
    match where_to_look(others, retired) {
        Some(hint) => failure.with_hint(hint),
        None => failure,
    }
}

/// A name lives on in one namespace while another one's job of it is retired: which of them is meant, nobody knows.
fn where_to_look(others: Option<String>, retired: Option<String>) -> Option<String> {
    others.into_iter().chain(retired).reduce(|others, retired| format!("{others}; {retired}"))
}

/// Jobs of that name, as every command takes them, whatever namespace is the usual one.
fn others(jobs: &[JobView], are_more: bool) -> Option<String> {
    let shapes = jobs.iter().filter_map(|job| job.shape.as_ref());
    let names: Vec<String> = shapes.map(|shape| format!("{}/{}", shape.namespace, shape.name)).collect();
    let more = if are_more { ", among others" } else { "" };
    match names.as_slice() {
        [] => None,
        [only] => Some(format!("there is {only}{more}")),
        several => Some(format!("there are {}{more}", several.join(", "))),
    }
}

/// The failure of a submission. Where the job lives and is another one, it says in what, and what to do.
pub(super) async fn of_changed(connection: &Connection, spec: &JobSpec, failure: Failure) -> Failure {
    if failure.code != "JOB_CHANGED" {
        return failure;
    }
    let JobShape { namespace, name, .. } = spec.shape.clone().unwrap_or_default();
    let job = JobName { namespace, name };
    let Ok((_, live)) = get_job(connection, &job, None).await else { return failure };
    match changed(&live, spec) {
        Some(hint) => failure.with_hint(hint),
        None => failure,
    }
}

/// Nothing where the job is over by now: it can be submitted.
fn changed(live: &JobView, spec: &JobSpec) -> Option<String> {
    let differences = differences(live, spec)?;
    if !matches!(live.state(), JobState::JobWaiting | JobState::JobRunning) || differences.is_empty() {
        return None;
    }
    let shape = spec.shape.as_ref()?;
    let (namespace, name) = (&shape.namespace, &shape.name);
    Some(format!(
        "what differs: {}; `plenum job stop {namespace}/{name}` stops the job, and once it has ended this one can be submitted",
        differences.join("; ")
    ))
}

/// In what a file differs from a job, apart from numbers of tasks, in the words of job files; nothing where one of them can't be read.
fn differences(live: &JobView, spec: &JobSpec) -> Option<Vec<String>> {
    let shape = |wire: &Option<JobShape>| model::JobShape::try_from(wire.clone()?).ok();
    let (old, new) = (shape(&live.shape)?, shape(&spec.shape)?);
    let fields = [
        ("scheduler", old.scheduler != new.scheduler),
        ("priority", old.priority != new.priority),
        ("runs", old.kind != new.kind),
        ("same_machine", old.same_machine != new.same_machine),
        ("options", old.options != new.options),
    ];
    let mut told: Vec<String> = differing(fields).map(str::to_owned).collect();
    let names = |shape: &model::JobShape| -> Vec<_> { shape.groups.iter().map(|group| group.name.clone()).collect() };
    if names(&old) != names(&new) {
        told.push("groups".to_owned());
        return Some(told);
    }
    for (position, (old, new)) in old.groups.iter().zip(&new.groups).enumerate() {
        let bodies = (&live.body, &spec.body);
        let fields: Vec<&str> = differing(of_group(old, new)).chain(of_body(bodies, position)).collect();
        if !fields.is_empty() {
            told.push(format!("group {}: {}", new.name, fields.join(", ")));
        }
    }
    Some(told)
}

fn of_group(old: &model::GroupShape, new: &model::GroupShape) -> [(&'static str, bool); 9] {
    [
        ("after", old.after != new.after),
        ("resources", (old.resources, &old.ports, &old.devices) != (new.resources, &new.ports, &new.devices)),
        ("constraints", old.constraints != new.constraints),
        ("affinities", old.affinities != new.affinities),
        ("spread", (&old.spread, old.per_machine) != (&new.spread, new.per_machine)),
        ("single_instance", old.single_instance != new.single_instance),
        ("retry", old.retry != new.retry),
        ("lost_after", old.lost_after_micros != new.lost_after_micros),
        ("min", old.min != new.min),
    ]
}

/// What differs in what a group's tasks run; nothing where that may not be read.
fn of_body((old, new): (&Option<JobBody>, &Option<JobBody>), position: usize) -> impl Iterator<Item = &'static str> {
    let group = |body: &Option<JobBody>| body.as_ref()?.groups.get(position).cloned();
    let both = group(old).zip(group(new));
    let fields = both.map(|(old, new)| {
        differing([
            ("driver", (old.driver, old.image) != (new.driver, new.image)),
            ("command", old.command != new.command),
            ("env", old.env != new.env),
            ("restart", old.restart != new.restart),
            ("kill_timeout", old.kill_timeout_micros != new.kill_timeout_micros),
        ])
    });
    fields.into_iter().flatten()
}

/// The names of the fields that differ.
fn differing<const N: usize>(fields: [(&'static str, bool); N]) -> impl Iterator<Item = &'static str> {
    fields.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use plenum_proto::v1::{Device, GroupBody, GroupShape, JobKind, Resources};

    use super::*;
    use crate::cli::block_on;

    // A stop that was done was not told for a minute where the server stood still just then, and `--wait` took longer than its limit.
    #[test]
    fn what_is_asked_besides_is_waited_for_no_longer_than_the_command_may_last() {
        let now = Instant::now();
        assert_eq!(look_until(Some(now)), now);
        let far = now + Duration::from_secs(3600);
        assert!(look_until(Some(far)) < far && look_until(None) < far);
        let silent = || std::future::pending::<Result<Response<()>, Status>>();
        assert_eq!(block_on(async { besides(now, silent()).await }).unwrap(), None);
        let refused = async { besides(far, async { Err::<Response<()>, _>(Status::permission_denied("no")) }).await };
        assert_eq!(block_on(refused).unwrap(), None);
        let answered = async { besides(far, async { Ok(Response::new(7)) }).await };
        assert_eq!(block_on(answered).unwrap(), Some(7));
    }

    // What an older copy had acknowledged was gone when the right server was back, and only `plenum status` had said what it was.
    #[test]
    fn a_change_in_an_older_copy_is_told_to_be_in_danger() {
        assert_eq!(of_older_copy(""), None);
        let told = of_older_copy("the agent of m1 has seen revision 7").unwrap();
        assert!(told.starts_with("warning: ") && told.ends_with("OLD: the agent of m1 has seen revision 7"), "{told}");
    }

    // After each command that changed something the server counted a million rows, for one word.
    #[test]
    fn a_status_is_asked_for_only_where_the_moment_does_not_tell_of_a_newer_copy() {
        let told = |moment: Result<Option<&str>, Status>| {
            let moment = moment.map(|words| {
                let older_copy = words.map(str::to_owned);
                Response::new(MomentResponse { older_copy, ..MomentResponse::default() })
            });
            let counted = std::cell::Cell::new(0);
            let status = async {
                counted.set(counted.get() + 1);
                let older_copy = "by the status".to_owned();
                Ok(Response::new(StatusResponse { older_copy, ..StatusResponse::default() }))
            };
            let words = block_on(older_copy(async { moment }, status)).unwrap();
            (words, counted.get())
        };
        assert_eq!(told(Ok(Some("by the moment"))), (Some("by the moment".to_owned()), 0));
        assert_eq!(told(Ok(Some(""))), (Some(String::new()), 0));
        let by_status = (Some("by the status".to_owned()), 1);
        assert_eq!(told(Ok(None)), by_status, "of an earlier server");
        assert_eq!(told(Err(Status::permission_denied("no such method"))), by_status);
        assert_eq!(told(Err(Status::unavailable("it ends"))), (None, 0));
    }

    // In a cell that was a year ahead, as its server's clock had been once, each launch for an instant of now was refused, and nothing said why that one had passed.
    #[test]
    fn an_instant_that_passed_by_a_cell_that_is_ahead_is_told_with_how_far_it_is() {
        assert_eq!([0, -400, 59_000_000].map(of_clock_ahead), [const { None }; 3]);
        let told = of_clock_ahead(400 * 24 * 3_600_000_000).unwrap();
        assert!(told.starts_with("the cell's time is 400d0h ahead of this machine's clock: without --at "), "{told}");
    }

    fn spec() -> JobSpec {
        let resources = Some(Resources { cpu_millis: 100, memory_bytes: 16 << 20, ..Resources::default() });
        let group = GroupShape { name: "main".to_owned(), count: 2, resources, ..GroupShape::default() };
        let shape = JobShape {
            namespace: "prod".to_owned(),
            name: "web".to_owned(),
            scheduler: "service".to_owned(),
            kind: JobKind::Forever.into(),
            groups: vec![group],
            ..JobShape::default()
        };
        let body = GroupBody { name: "main".to_owned(), command: vec!["/bin/web".to_owned()], ..GroupBody::default() };
        JobSpec { shape: Some(shape), body: Some(JobBody { groups: vec![body] }) }
    }

    fn live() -> JobView {
        let JobSpec { shape, body } = spec();
        JobView { shape, body, state: JobState::JobRunning.into(), ..JobView::default() }
    }

    // `job list` shows `crunch`, and `job show crunch` said that there is none, and to look for a retired one.
    #[test]
    fn a_job_that_other_namespaces_have_is_named_with_them() {
        let job = |namespace: &str| {
            let mut job = live();
            job.shape.as_mut().unwrap().namespace = namespace.to_owned();
            job
        };
        assert_eq!(others(&[], false), None);
        assert_eq!(others(&[job("data")], false).unwrap(), "there is data/web");
        let both = [job("data"), job("default")];
        assert_eq!(others(&both, false).unwrap(), "there are data/web, default/web");
        assert_eq!(others(&both, true).unwrap(), "there are data/web, default/web, among others");
    }

    // Of one that is retired it told nothing more as soon as another namespace had one of that name.
    #[test]
    fn a_job_that_others_have_may_be_retired_all_the_same() {
        let look = |others: Option<&str>, retired: Option<&str>| {
            where_to_look(others.map(str::to_owned), retired.map(str::to_owned))
        };
        assert_eq!(look(None, None), None);
        assert_eq!(look(Some("there"), None).unwrap(), "there");
        assert_eq!(look(None, Some("retired")).unwrap(), "retired");
        assert_eq!(look(Some("there"), Some("retired")).unwrap(), "there; retired");
    }

    // It said that the job is not over, and left it to the reader to find what had been edited.
    #[test]
    fn a_file_for_a_job_that_lives_is_told_in_what_it_differs() {
        let mut file = spec();
        file.shape.as_mut().unwrap().groups[0].count = 7;
        assert_eq!(changed(&live(), &file), None, "numbers of tasks may change");
        let shape = file.shape.as_mut().unwrap();
        shape.priority = 70;
        shape.groups[0].resources = Some(Resources { cpu_millis: 200, memory_bytes: 16 << 20, ..Resources::default() });
        shape.groups[0].min = 1;
        file.body.as_mut().unwrap().groups[0].env.insert("A".to_owned(), "1".to_owned());
        let told = changed(&live(), &file).unwrap();
        assert!(told.starts_with("what differs: priority; group main: resources, min, env; "), "{told}");
        assert!(told.contains("`plenum job stop prod/web`"), "{told}");
        let secret = JobView { body: None, ..live() };
        assert!(changed(&secret, &file).unwrap().starts_with("what differs: priority; group main: resources, min; "));
        let mut with_gpu = spec();
        with_gpu.shape.as_mut().unwrap().groups[0].devices =
            vec![Device { kind: "gpu".to_owned(), millis: 1000, ..Device::default() }];
        let told = changed(&live(), &with_gpu).unwrap();
        assert!(told.starts_with("what differs: group main: resources; "), "as job files call it: {told}");
        let over = JobView { state: JobState::JobStopped.into(), ..live() };
        assert_eq!(changed(&over, &file), None, "it can be submitted by now");
        file.shape.as_mut().unwrap().groups[0].name = "other".to_owned();
        assert!(changed(&live(), &file).unwrap().starts_with("what differs: priority; groups; "));
    }
}

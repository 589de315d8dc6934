//! For owners of jobs.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use plenum_model::{
    AllocationId, AllocationRef, Cell, Command, Decision, GroupShape, Job, JobId, NotWanted, RejectionCode, Sum,
    TaskState, group_is_wanted,
};
use plenum_proto::v1;
use prost::Message;
use tokio_stream::Stream;
use tonic::{Code, Request, Response, Status};

use super::ended::{self, Fate};
use super::failure::Failure;
use super::govern::used_by_namespace;
use super::listing::{self, Filter};
use super::story::{self, Hero};
use super::{past, principal};
use crate::agents::{NoLogs, Reading};
use crate::shared::{Decided, Shared};
use crate::view;

const JOB_FIELDS: &[&str] = &["name", "namespace", "scheduler", "state", "priority"];
const ALLOCATION_FIELDS: &[&str] =
    &["id", "namespace", "job", "group", "machine", "scheduler", "state", "ready", "task_index", "attempt"];

/// An agent that is started again needs about so long.
const AGENT_RETRY: Duration = Duration::from_secs(1);

/// `plenum.v1.Jobs`.
pub(super) struct JobsService {
    shared: Arc<Shared>,
}

impl JobsService {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    async fn change<T>(
        &self,
        request: &Request<T>,
        namespace: &str,
        command: Command,
    ) -> Result<v1::ChangeResponse, Failure> {
        let principal = principal(request)?;
        change(self.shared.ask(Shared::request(principal.text(), namespace.into(), command)).await?)
    }
}

/// The answer to a change.
pub(super) fn change(decided: Decided) -> Result<v1::ChangeResponse, Failure> {
    match decided.decision {
        Decision::Accepted { .. } => Ok(v1::ChangeResponse { revision: decided.at.0, changed: decided.changed }),
        Decision::Rejected(rejection) => Err(rejection.into()),
        Decision::Outcome(_) => Err(Failure::internal("a change gave an outcome")),
    }
}

fn job_named<'a>(cell: &'a Cell, namespace: &str, name: &str) -> Result<&'a Arc<Job>, Failure> {
    let namespace = if namespace.is_empty() { "default" } else { namespace };
    cell.job_named(namespace, name).ok_or_else(|| {
        let message = format!("there is no job {name:?} in namespace {namespace:?} at revision {}", cell.revision());
        Failure::not_found(RejectionCode::NoSuchJob, message)
    })
}

#[tonic::async_trait]
impl v1::jobs_server::Jobs for JobsService {
    type LogsStream = Pin<Box<dyn Stream<Item = Result<v1::LogChunk, Status>> + Send>>;

    async fn submit(&self, request: Request<v1::SubmitRequest>) -> Result<Response<v1::SubmitResponse>, Status> {
        let principal = principal(&request)?;
        let Some(spec) = request.into_inner().spec else {
            return Err(Failure::invalid("spec: expected a job, found nothing").into());
        };
        let command = plenum_proto::jobs::submit(spec)?;
        let namespace = match &command {
            Command::SubmitJob { shape, .. } => shape.namespace.clone(),
            _ => Arc::from(""),
        };
        let decided = self.shared.ask(Shared::request(principal.text(), namespace, command)).await?;
        match decided.decision {
            Decision::Accepted { id, version } => Ok(Response::new(v1::SubmitResponse {
                job: id,
                version,
                revision: decided.at.0,
                changed: decided.changed,
            })),
            Decision::Rejected(rejection) => Err(Failure::from(rejection).into()),
            Decision::Outcome(_) => Err(Failure::internal("submitting gave an outcome").into()),
        }
    }

    async fn get(&self, request: Request<v1::GetJobRequest>) -> Result<Response<v1::GetJobResponse>, Status> {
        let reads_body = principal(&request)?.may_read_bodies();
        let wire = request.into_inner();
        let cell = past::cell(&self.shared, wire.at).await?;
        let job = job_named(&cell, &wire.namespace, &wire.name)?;
        let counts = view::count_groups(&cell, |slot| slot == job.id.slot);
        let mut view = view::job(&cell, job, &counts);
        view.waiting_reason = waiting_reason(&self.shared, &cell, &used_by_namespace(&cell), job);
        let body = job.body.as_deref().filter(|_| reads_body);
        view.body = body.and_then(|body| v1::JobBody::decode(body).ok());
        Ok(Response::new(v1::GetJobResponse { revision: cell.revision().0, job: Some(view) }))
    }

    async fn list(&self, request: Request<v1::ListRequest>) -> Result<Response<v1::ListJobsResponse>, Status> {
        let wire = request.into_inner();
        let filter = Filter::parse(&wire.filter, JOB_FIELDS)?;
        let limit = listing::limit(wire.limit, self.shared.settings.listing_rows);
        let cell = past::cell(&self.shared, wire.at).await?;
        let (counts, used) = (view::count_groups(&cell, |_| true), used_by_namespace(&cell));
        let mut response = v1::ListJobsResponse { revision: cell.revision().0, ..Default::default() };
        for job in cell.jobs().filter(|job| wire.namespace.is_empty() || *job.shape.namespace == *wire.namespace) {
            let state = listing::job_word(v1::JobState::from(job.state).into());
            let passes = filter.passes(|field| match field {
                "name" => Some(job.shape.name.to_string()),
                "namespace" => Some(job.shape.namespace.to_string()),
                "scheduler" => Some(job.shape.scheduler.to_string()),
                "state" => Some(state.to_owned()),
                _ => Some(job.shape.priority.to_string()),
            });
            if !passes {
                continue;
            }
            if response.jobs.len() == limit {
                response.truncated = true;
                break;
            }
            let mut view = view::job(&cell, job, &counts);
            view.waiting_reason = waiting_reason(&self.shared, &cell, &used, job);
            response.jobs.push(view);
        }
        Ok(Response::new(response))
    }

    async fn stop(&self, request: Request<v1::StopRequest>) -> Result<Response<v1::ChangeResponse>, Status> {
        let cell = self.shared.snapshot().await;
        let wire = request.get_ref();
        let job = job_named(&cell, &wire.namespace, &wire.name)?;
        Ok(Response::new(self.change(&request, &job.shape.namespace, Command::StopJob(job.id)).await?))
    }

    async fn scale(&self, request: Request<v1::ScaleRequest>) -> Result<Response<v1::ChangeResponse>, Status> {
        let cell = self.shared.snapshot().await;
        let wire = request.get_ref();
        let job = job_named(&cell, &wire.namespace, &wire.name)?;
        if wire.count > plenum_proto::bounds::COUNT_MAX {
            let most = plenum_proto::bounds::COUNT_MAX;
            return Err(Failure::invalid(format!("count: expected 0 to {most}, found {}", wire.count)).into());
        }
        let Some(group) = (0_u16..).zip(&job.shape.groups).find(|(_, group)| *group.name == *wire.group) else {
            let known: Vec<&str> = job.shape.groups.iter().map(|group| &*group.name).collect();
            let message = format!("there is no group {:?} in the job; it has {}", wire.group, known.join(", "));
            return Err(Failure::not_found(RejectionCode::NoSuchGroup, message).into());
        };
        let command = Command::ScaleJob { job: job.id, group: group.0, count: wire.count };
        Ok(Response::new(self.change(&request, &job.shape.namespace, command).await?))
    }

    async fn stop_allocation(
        &self,
        request: Request<v1::StopAllocationRequest>,
    ) -> Result<Response<v1::ChangeResponse>, Status> {
        let id = allocation_id(request.get_ref().allocation)?;
        Ok(Response::new(self.change(&request, "", Command::StopAllocation(id)).await?))
    }

    async fn launch(&self, request: Request<v1::LaunchRequest>) -> Result<Response<v1::LaunchResponse>, Status> {
        let principal = principal(&request)?;
        let wire = request.into_inner();
        let cell = self.shared.snapshot().await;
        let job = job_named(&cell, &wire.namespace, &wire.name)?;
        principal.may_schedule_as(&job.shape.scheduler).map_err(Failure::from)?;
        let now = self.shared.clock.now().micros;
        let instant_micros = wire.instant_micros.unwrap_or_else(|| now - now.rem_euclid(1_000_000));
        let command = Command::Launch { parent: job.id, instant_micros };
        let asked = Shared::request(principal.text(), job.shape.namespace.clone(), command);
        let decided = self.shared.ask(asked).await?;
        let id = match decided.decision {
            Decision::Accepted { id, .. } => id,
            Decision::Rejected(rejection) => return Err(Failure::from(rejection).into()),
            Decision::Outcome(_) => return Err(Failure::internal("a launch gave an outcome").into()),
        };
        let after = self.shared.snapshot_of(decided.at).await;
        let child = JobId::from_bits(id).and_then(|id| after.job(id)).map(|job| job.shape.name.to_string());
        Ok(Response::new(v1::LaunchResponse {
            job: id,
            name: child.unwrap_or_default(),
            instant_micros,
            revision: decided.at.0,
        }))
    }

    async fn list_allocations(
        &self,
        request: Request<v1::ListAllocationsRequest>,
    ) -> Result<Response<v1::ListAllocationsResponse>, Status> {
        Ok(Response::new(list_allocations(&self.shared, request.into_inner()).await?))
    }

    async fn get_allocation(
        &self,
        request: Request<v1::GetAllocationRequest>,
    ) -> Result<Response<v1::AllocationView>, Status> {
        let wire = request.into_inner();
        let id = allocation_id(wire.allocation)?;
        let cell = past::cell(&self.shared, wire.at).await?;
        if let Some(allocation) = cell.allocation(id) {
            return Ok(Response::new(live(&self.shared, &cell, &allocation).await));
        }
        Ok(Response::new(ended(&self.shared, &cell, id).await?))
    }

    async fn job_history(
        &self,
        request: Request<v1::JobHistoryRequest>,
    ) -> Result<Response<v1::HistoryResponse>, Status> {
        let wire = request.into_inner();
        let cell = past::cell(&self.shared, wire.at).await?;
        let job = job_named(&cell, &wire.namespace, &wire.name)?.clone();
        let story = past::story(&self.shared, wire.at, cell, wire.limit, move |history, cell, limit| {
            story::tell(history, cell, &Hero::Job(&job), limit)
        });
        Ok(Response::new(story.await?))
    }

    async fn allocation_history(
        &self,
        request: Request<v1::AllocationHistoryRequest>,
    ) -> Result<Response<v1::HistoryResponse>, Status> {
        let wire = request.into_inner();
        let id = allocation_id(wire.allocation)?;
        let cell = past::cell(&self.shared, wire.at).await?;
        let story = past::story(&self.shared, wire.at, cell, wire.limit, move |history, cell, limit| {
            let story = story::tell(history, cell, &Hero::Allocation(id), limit)?;
            if story.events.is_empty() && cell.allocation(id).is_none() {
                let oldest = ended::is_retired(history, cell, id).ok_or_else(|| never_was(id, cell))?;
                return Err(retired(id, oldest));
            }
            Ok(story)
        });
        Ok(Response::new(story.await?))
    }

    async fn logs(&self, request: Request<v1::LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let wire = request.into_inner();
        let id = allocation_id(wire.allocation)?;
        let cell = self.shared.snapshot().await;
        let found = cell.allocation(id);
        // Nothing more comes of one that ended: an agent that has forgotten it would wait for ever.
        let follow = wire.follow && found.is_some();
        let machine = match found {
            Some(allocation) => allocation.row.machine,
            None => {
                let ended = ended(&self.shared, &cell, id).await?;
                let machine = plenum_model::MachineId::from_bits(ended.machine_id);
                let machine = machine.and_then(|machine| cell.machine(machine));
                let gone = || Failure::new(Code::Unavailable, "AGENT_GONE", "the machine that ran it was removed");
                machine.ok_or_else(gone)?.id.slot
            }
        };
        let asked = v1::LogsAsked {
            allocation: wire.allocation,
            stderr: wire.stderr,
            follow,
            tail_lines: wire.tail_lines,
            ..Default::default()
        };
        let reading = self.shared.hub.logs.read(machine, asked).map_err(|no_logs| {
            let (status, code) = match &no_logs {
                NoLogs::TooMany(_) => (Code::ResourceExhausted, "TOO_MANY_READERS"),
                NoLogs::AgentGone => (Code::Unavailable, "AGENT_GONE"),
            };
            Failure::new(status, code, no_logs.to_string())
        })?;
        Ok(Response::new(Box::pin(Reader { shared: self.shared.clone(), reading, has_ended: false })))
    }
}

/// A reader's stream; when it goes, the agent is told.
struct Reader {
    shared: Arc<Shared>,
    reading: Reading,
    has_ended: bool,
}

impl Stream for Reader {
    type Item = Result<v1::LogChunk, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let Poll::Ready(chunk) = self.reading.chunks.poll_recv(cx) else { return Poll::Pending };
        let failed = match chunk {
            Some(Ok(data)) => return Poll::Ready(Some(Ok(v1::LogChunk { data }))),
            Some(Err(error)) => Some(Failure::new(Code::Unavailable, "NO_LOGS", error)),
            None if self.reading.is_complete() => None,
            None => Some(broken_off()),
        };
        self.has_ended = true;
        Poll::Ready(failed.map(|failure| Err(failure.into_status())))
    }
}

/// What came so far is not all.
fn broken_off() -> Failure {
    let message = "the machine's agent left before the end of the log; what came so far is not all: read it again";
    Failure::new(Code::Unavailable, "AGENT_GONE", message).retry(AGENT_RETRY)
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.hub.logs.done(self.reading.request);
    }
}

fn allocation_id(bits: u64) -> Result<AllocationId, Failure> {
    AllocationId::from_bits(bits)
        .ok_or_else(|| Failure::invalid("allocation: expected the id of an allocation, found 0"))
}

/// The final row of an allocation that is not live in the cell.
async fn ended(shared: &Arc<Shared>, cell: &Cell, id: AllocationId) -> Result<v1::AllocationView, Failure> {
    past::reach(shared, cell.revision()).await?;
    let (shared, cell) = (shared.clone(), cell.clone());
    past::blocking(move || match ended::fate(&shared, &cell, id)? {
        Fate::Ended(row) => Ok(*row),
        Fate::NeverWas => Err(never_was(id, &cell)),
        Fate::Retired(oldest) => Err(retired(id, oldest)),
    })
    .await
}

fn never_was(id: AllocationId, cell: &Cell) -> Failure {
    let message = format!("there never was an {id} up to revision {}", cell.revision());
    Failure::not_found(RejectionCode::NoSuchAllocation, message)
}

fn retired(id: AllocationId, oldest: u64) -> Failure {
    let message = format!("{id} ended, and is no longer retained: the oldest revision that can be read is {oldest}");
    Failure::new(Code::NotFound, "ALLOCATION_RETIRED", message)
}

/// A live allocation's row, with the time of its grant where the picture or the history knows it.
async fn live(shared: &Arc<Shared>, cell: &Cell, allocation: &AllocationRef<'_>) -> v1::AllocationView {
    let created = shared.picture.time_of(allocation.row.created);
    let mut view = view::allocation(cell, allocation, created);
    if created.is_none() {
        let (history, revision) = (shared.feed.history().clone(), view.created_revision);
        let read = past::blocking(move || history.entry(revision).map_err(|error| Failure::history(&error)));
        view.created_micros = read.await.map_or(0, |logged| logged.time_micros);
    }
    view
}

async fn list_allocations(
    shared: &Arc<Shared>,
    wire: v1::ListAllocationsRequest,
) -> Result<v1::ListAllocationsResponse, Failure> {
    let list = wire.list.unwrap_or_default();
    let filter = Filter::parse(&list.filter, ALLOCATION_FIELDS)?;
    let limit = listing::limit(list.limit, shared.settings.listing_rows);
    let cell = past::cell(shared, list.at).await?;
    let passes = |row: &v1::AllocationView| {
        (list.namespace.is_empty() || row.namespace == list.namespace)
            && (wire.job.is_empty() || row.job == wire.job)
            && (wire.machine.is_empty() || row.machine == wire.machine)
            && filter.passes(|field| allocation_field(row, field))
    };
    let mut response = v1::ListAllocationsResponse { revision: cell.revision().0, ..Default::default() };
    let mut times: BTreeMap<u64, i64> = BTreeMap::new();
    for allocation in cell.allocations() {
        let created = shared.picture.time_of(allocation.row.created);
        let mut row = view::allocation(&cell, &allocation, created);
        if !passes(&row) {
            continue;
        }
        if response.allocations.len() == limit {
            response.truncated = true;
            return Ok(response);
        }
        if created.is_none() {
            row.created_micros = created_micros(shared, &mut times, row.created_revision);
        }
        response.allocations.push(row);
    }
    if wire.ended {
        // What ended last is left out rather than waited for long, and said to be.
        let behind = past::reach(shared, cell.revision()).await.is_err();
        let left = limit - response.allocations.len();
        let (shared, at, job, machine) = (shared.clone(), cell.revision(), wire.job.clone(), wire.machine.clone());
        let page = past::blocking(move || {
            ended::list(&shared, at, left, |row| {
                (list.namespace.is_empty() || row.namespace == list.namespace)
                    && (job.is_empty() || row.job == job)
                    && (machine.is_empty() || row.machine == machine)
                    && filter.passes(|field| allocation_field(row, field))
            })
        });
        let (rows, truncated) = page.await?;
        response.truncated = truncated || behind;
        response.allocations.extend(rows);
    }
    Ok(response)
}

/// When a revision was decided that the picture has forgotten. Read once for all allocations of a transaction.
fn created_micros(shared: &Shared, times: &mut BTreeMap<u64, i64>, revision: u64) -> i64 {
    if let Some(&known) = times.get(&revision) {
        return known;
    }
    // A listing of very many old transactions leaves the rest out, rather than to read all blocks there are.
    if times.len() >= TIMES_READ_MAX {
        return 0;
    }
    let read = shared.feed.history().entry(revision).map_or(0, |logged| logged.time_micros);
    times.insert(revision, read);
    read
}

/// Times that one listing reads from the history.
const TIMES_READ_MAX: usize = 256;

fn allocation_field(row: &v1::AllocationView, field: &str) -> Option<String> {
    Some(match field {
        "id" => AllocationId::from_bits(row.id)?.to_string(),
        "namespace" => row.namespace.clone(),
        "job" => row.job.clone(),
        "group" => row.group.clone(),
        "machine" => row.machine.clone(),
        "scheduler" => row.scheduler.clone(),
        "state" => listing::allocation_word(row.state).to_owned(),
        "ready" => row.ready.to_string(),
        "task_index" => row.task.to_string(),
        _ => row.attempt.to_string(),
    })
}

/// What is used of each quota, by namespace.
type Used = BTreeMap<Arc<str>, Sum>;

/// Why tasks of a job wait: what the cell itself knows, or else what its scheduler said last.
fn waiting_reason(shared: &Shared, cell: &Cell, used: &Used, job: &Arc<Job>) -> String {
    if job.state.is_final() {
        return String::new();
    }
    let mut reasons = Vec::new();
    for (position, shape) in (0_u16..).zip(&job.shape.groups) {
        let waiting = cell.group(job, position).map_or(0, |row| row.tasks_in(TaskState::Waiting));
        if waiting == 0 {
            continue;
        }
        let reason = match group_is_wanted(cell, job, position, shared.clock.now()) {
            Err(NotWanted::After(before)) => {
                let before = job.shape.groups.get(usize::from(before)).map_or("another group", |group| &group.name);
                format!("group {before} is not done")
            }
            Err(not_wanted) => not_wanted.to_string(),
            Ok(()) => governed(cell, used, job, shape).unwrap_or_else(|| scheduler_says(shared, cell, job, position)),
        };
        reasons.push(format!("{}: {waiting} waiting: {reason}", shape.name));
    }
    reasons.join("; ")
}

/// What operators laid down that stands in the way: no scheduler can do anything about that.
fn governed(cell: &Cell, used: &Used, job: &Job, shape: &GroupShape) -> Option<String> {
    let (scheduler, namespace) = (&job.shape.scheduler, &job.shape.namespace);
    if cell.is_paused(scheduler) {
        return Some(format!(
            "the scheduler {scheduler} is paused; `plenum scheduler resume {scheduler}` lets it go on"
        ));
    }
    let used = used.get(namespace).map(Sum::total).unwrap_or_default();
    let short = cell.quota(namespace)?.shortage(&used, &shape.resources)?;
    Some(format!("the quota of {namespace} is short of {} by {} for one more", short.resource, short.short_by))
}

fn scheduler_says(shared: &Shared, cell: &Cell, job: &Job, group: u16) -> String {
    if let Some(note) = shared.notes.lock().of(job.id, group.into()) {
        return format!("{} (at revision {})", note.reason, note.revision);
    }
    let sessions = shared.sessions.lock();
    let connected =
        cell.sessions().any(|session| *session.scheduler == *job.shape.scheduler && sessions.is_connected(session.id));
    if connected {
        format!("scheduler {} has not placed them yet, and has not said why", job.shape.scheduler)
    } else {
        format!("no scheduler {} is connected; start one", job.shape.scheduler)
    }
}

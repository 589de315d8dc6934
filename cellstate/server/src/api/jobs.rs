//! For owners of jobs.

mod log_reader;
pub(super) mod waiting;

use std::pin::Pin;
use std::sync::Arc;

use plenum_model::{AllocationId, Cell, Command, Decision, Job, JobId, Rejection, RejectionCode, Revision, floor_of};
use plenum_proto::{filters, v1};
use prost::Message;
use tokio_stream::Stream;
use tonic::{Code, Request, Response, Status};

use super::edge::custom;
use super::failure::Failure;
use super::listing::{self, Filter};
use super::past::ended::{self, Fate};
use super::past::moved;
use super::past::story::stay::{self, Ran, Said};
use super::past::story::{self, Hero, gone};
use super::past::{self, Glance, Moment};
use super::{allocations, principal};
use crate::authorise::Role;
use crate::shared::{Decided, Shared};
use crate::view::{self, Counts};
use waiting::Reasons;

/// How far ahead of the server's clock an instant may be: what is launched starts at once, and a day or a unit that was mistaken would keep the
/// job from being launched for all instants until then.
const AHEAD_MICROS_MAX: i64 = 3600 * 1_000_000;
/// The year 2000: what is earlier was meant in other units.
const INSTANT_MICROS_MIN: i64 = 946_684_800 * 1_000_000;

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

    /// The job of this name as it is now. The picture that has it is let go of: pages that change while something is decided would be copied.
    async fn job(&self, namespace: &str, name: &str) -> Result<Arc<Job>, Failure> {
        job_named(&self.shared.snapshot().await, namespace, name).cloned()
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

fn namespace_or_default(namespace: &str) -> &str {
    if namespace.is_empty() { "default" } else { namespace }
}

/// The namespace of an allocation's job; empty where there is no such allocation, which is for the core to say.
fn namespace_of(cell: &Cell, id: AllocationId) -> Arc<str> {
    let job = cell.allocation(id).and_then(|found| cell.job(found.row.job()));
    job.map_or_else(Arc::default, |job| job.shape.namespace.clone())
}

fn job_named<'a>(cell: &'a Cell, namespace: &str, name: &str) -> Result<&'a Arc<Job>, Failure> {
    let namespace = namespace_or_default(namespace);
    cell.job_named(namespace, name).ok_or_else(|| {
        let message = format!("there is no job {name:?} in namespace {namespace:?} at revision {}", cell.revision());
        Failure::not_found(RejectionCode::NoSuchJob, message)
    })
}

/// Refuses what was decided on another job, or another version of it. That it is this one yet when it is changed is for the core to say: the command has
/// both.
fn expect(job: &Job, id: Option<u64>, version: Option<u32>) -> Result<(), Failure> {
    if let Some(id) = id.filter(|&id| id != job.id.to_bits()) {
        let expected = JobId::from_bits(id).map_or_else(|| id.to_string(), |id| id.to_string());
        let message = format!(
            "{}: expected {expected}, found {}, another job of this name; look at it and decide anew",
            job.shape.name, job.id
        );
        return Err(Rejection::new(RejectionCode::JobVersion, message).into());
    }
    if let Some(version) = version {
        plenum_core::expect_version(&job.shape.name, Some(job), version)?;
    }
    Ok(())
}

fn list(shared: &Shared, cell: &Cell, wire: &v1::ListRequest, filter: &Filter, limit: usize) -> v1::ListJobsResponse {
    let reasons = Reasons::new(shared, wire.at, cell);
    let counts = Counts::new(cell, reasons.now());
    let mut response = v1::ListJobsResponse { revision: cell.revision().0, ..Default::default() };
    let mut room = listing::Room::new(limit);
    for job in cell.jobs().filter(|job| wire.namespace.is_empty() || *job.shape.namespace == *wire.namespace) {
        let passes = filter.passes(|field| match field {
            "name" => Some(job.shape.name.to_string()),
            "namespace" => Some(job.shape.namespace.to_string()),
            "scheduler" => Some(job.shape.scheduler.to_string()),
            "state" => Some(job.state.word().to_owned()),
            "priority" => Some(job.shape.priority.to_string()),
            "runs" => Some(job.shape.kind.word().to_owned()),
            "waiting" => Some(view::waiting_in(cell, job).to_string()),
            "failing" => Some(counts.failing(job).to_string()),
            "unreachable" => Some(counts.unreachable(job).to_string()),
            _ => Some(view::parent_of(cell, job).map(|parent| parent.shape.name.to_string()).unwrap_or_default()),
        });
        if !passes {
            continue;
        }
        let mut view = view::job(cell, job, &counts);
        reasons.tell(job, &mut view);
        let memory_bytes = job.shape.kept_bytes() + view.groups.len() * size_of::<v1::GroupView>();
        if !room.takes_shaped(&view, view.shape.as_ref(), memory_bytes) {
            response.truncated = true;
            break;
        }
        response.jobs.push(view);
    }
    response
}

#[tonic::async_trait]
impl v1::jobs_server::Jobs for JobsService {
    type LogsStream = Pin<Box<dyn Stream<Item = Result<v1::LogChunk, Status>> + Send>>;

    async fn submit(&self, request: Request<v1::SubmitRequest>) -> Result<Response<v1::SubmitResponse>, Status> {
        let principal = principal(&request)?;
        let wire = request.into_inner();
        let Some(spec) = wire.spec else {
            return Err(Failure::invalid("spec: expected a job, found nothing").into());
        };
        let mut command = plenum_proto::jobs::submit(spec)?;
        custom::check(&command, &self.shared.identity.custom_resources)?;
        let namespace = match &mut command {
            Command::SubmitJob { shape, expected_version, .. } => {
                *expected_version = wire.expected_version;
                shape.namespace.clone()
            }
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
        let shared = self.shared.clone();
        // Who waits for a job asks often, and a job may have a million tasks.
        let got = cell.read(move |cell| {
            let job = job_named(cell, &wire.namespace, &wire.name)?;
            let reasons = Reasons::new(&shared, wire.at, cell);
            let mut view = view::job(cell, job, &Counts::new(cell, reasons.now()));
            reasons.tell(job, &mut view);
            let body = job.body.as_deref().filter(|_| reads_body);
            view.body = body.and_then(|body| v1::JobBody::decode(body).ok());
            Ok(v1::GetJobResponse { revision: cell.revision().0, job: Some(view) })
        });
        Ok(Response::new(got.await?))
    }

    async fn list(&self, request: Request<v1::ListRequest>) -> Result<Response<v1::ListJobsResponse>, Status> {
        let wire = request.into_inner();
        let filter = Filter::parse(&wire.filter, filters::JOBS)?.with_words("state", listing::JOB_WORDS)?;
        let filter = filter.with_words("runs", listing::KIND_WORDS)?.with_names("name")?.with_names("parent")?;
        let filter =
            ["priority", "waiting", "failing", "unreachable"].into_iter().try_fold(filter, Filter::with_numbers)?;
        let limit = listing::limit(wire.limit, self.shared.settings.listing_rows);
        let cell = past::cell(&self.shared, wire.at).await?;
        let shared = self.shared.clone();
        // Looks at every task of what it shows.
        let listed = cell.read(move |cell| Ok(list(&shared, cell, &wire, &filter, limit)));
        Ok(Response::new(listed.await?))
    }

    async fn stop(&self, request: Request<v1::StopRequest>) -> Result<Response<v1::ChangeResponse>, Status> {
        let wire = request.get_ref();
        let job = self.job(&wire.namespace, &wire.name).await?;
        expect(&job, wire.job, wire.version)?;
        let command = Command::StopJob { job: job.id, version: wire.version };
        Ok(Response::new(self.change(&request, &job.shape.namespace, command).await?))
    }

    async fn scale(&self, request: Request<v1::ScaleRequest>) -> Result<Response<v1::ChangeResponse>, Status> {
        let wire = request.get_ref();
        let job = self.job(&wire.namespace, &wire.name).await?;
        expect(&job, wire.job, wire.version)?;
        if wire.count > plenum_proto::bounds::COUNT_MAX {
            let most = plenum_proto::bounds::COUNT_MAX;
            return Err(Failure::invalid(format!("count: expected 0 to {most}, found {}", wire.count)).into());
        }
        let Some(group) = (0_u16..).zip(&job.shape.groups).find(|(_, group)| *group.name == *wire.group) else {
            let known: Vec<&str> = job.shape.groups.iter().map(|group| &*group.name).collect();
            let message = format!("there is no group {:?} in the job; it has {}", wire.group, known.join(", "));
            return Err(Failure::not_found(RejectionCode::NoSuchGroup, message).into());
        };
        // The job may be submitted again with other groups before this is decided.
        let (version, (group, _)) = (Some(job.version), group);
        let command = Command::ScaleJob { job: job.id, version, group, count: wire.count };
        Ok(Response::new(self.change(&request, &job.shape.namespace, command).await?))
    }

    async fn stop_allocation(
        &self,
        request: Request<v1::StopAllocationRequest>,
    ) -> Result<Response<v1::ChangeResponse>, Status> {
        let id = allocation_id(request.get_ref().allocation)?;
        let namespace = namespace_of(&self.shared.snapshot().await, id);
        Ok(Response::new(self.change(&request, &namespace, Command::StopAllocation(id)).await?))
    }

    async fn launch(&self, request: Request<v1::LaunchRequest>) -> Result<Response<v1::LaunchResponse>, Status> {
        let principal = principal(&request)?;
        let wire = request.into_inner();
        let cell = self.shared.snapshot().await;
        let job = job_named(&cell, &wire.namespace, &wire.name)?.clone();
        let is_paused = cell.is_paused(&job.shape.scheduler);
        // Not kept while it is decided: pages that change meanwhile would be copied.
        drop(cell);
        principal.may_schedule_as(&job.shape.scheduler).map_err(Failure::from)?;
        // Not log time alone: frameworks go by the system's clock, which may have been set forward.
        let now = self.shared.clock.latest_micros();
        let instant_micros = wire.instant_micros.unwrap_or_else(|| now - now.rem_euclid(1_000_000));
        // What was launched is answered, however far ahead it is, and whoever is paused.
        if job.last_instant_micros.is_none_or(|last| instant_micros > last) {
            let latest = now.saturating_add(AHEAD_MICROS_MAX);
            if !(INSTANT_MICROS_MIN..=latest).contains(&instant_micros) {
                let message = format!(
                    "instant_micros: expected microseconds since 1970, from {INSTANT_MICROS_MIN} µs to {latest} µs, an hour from now, as what is launched \
                     starts at once, and no earlier instant is launched after it; found {instant_micros} µs"
                );
                return Err(Failure::invalid(message).into());
            }
            // Who pauses a framework wants it to launch nothing.
            if principal.role() == Role::Scheduler && is_paused {
                return Err(Failure::paused(&job.shape.scheduler).into());
            }
        }
        let command = Command::Launch { parent: job.id, instant_micros };
        let asked = Shared::request(principal.text(), job.shape.namespace.clone(), command);
        let decided = self.shared.ask(asked).await?;
        let id = match decided.decision {
            Decision::Accepted { id, .. } => id,
            Decision::Rejected(rejection) => return Err(Failure::from(rejection).into()),
            Decision::Outcome(_) => return Err(Failure::internal("a launch gave an outcome").into()),
        };
        let after = self.shared.snapshot_with(decided.at).await;
        let child = JobId::from_bits(id).and_then(|id| after.job(id)).map(|job| job.shape.name.to_string());
        Ok(Response::new(v1::LaunchResponse {
            job: id,
            name: child.unwrap_or_default(),
            instant_micros,
            revision: decided.at.0,
            changed: decided.changed,
        }))
    }

    async fn list_allocations(
        &self,
        request: Request<v1::ListAllocationsRequest>,
    ) -> Result<Response<v1::ListAllocationsResponse>, Status> {
        Ok(Response::new(allocations::list(&self.shared, request.into_inner()).await?))
    }

    async fn get_allocation(
        &self,
        request: Request<v1::GetAllocationRequest>,
    ) -> Result<Response<v1::AllocationView>, Status> {
        let wire = request.into_inner();
        let id = allocation_id(wire.allocation)?;
        let glance = past::glance(&self.shared, wire.at).await?;
        let (mut view, shown) = if glance.allocation(id).is_some() {
            let shown = glance.revision();
            (live(&self.shared, glance, id).await?, shown)
        } else {
            let cell = glance.with_history(&self.shared, wire.at).await?;
            let (is_live, shown) = (cell.allocation(id).is_some(), cell.revision());
            let view =
                if is_live { live(&self.shared, cell.into(), id).await } else { ended(&self.shared, cell, id).await };
            (view?, shown)
        };
        view.started_micros = started_micros(&self.shared, id, &view, shown).await;
        Ok(Response::new(view))
    }

    async fn job_history(
        &self,
        request: Request<v1::JobHistoryRequest>,
    ) -> Result<Response<v1::HistoryResponse>, Status> {
        let wire = request.into_inner();
        let story = past::story(&self.shared, wire.at, wire.limit, move |history, cell, limit| {
            let (namespace, name) = (namespace_or_default(&wire.namespace), &*wire.name);
            match cell.job_named(namespace, name) {
                Some(job) => story::tell(history, cell, &Hero::Job(job), limit),
                None => gone::job(history, cell, (namespace, name), limit),
            }
        });
        Ok(Response::new(story.await?))
    }

    async fn allocation_history(
        &self,
        request: Request<v1::AllocationHistoryRequest>,
    ) -> Result<Response<v1::HistoryResponse>, Status> {
        let wire = request.into_inner();
        let id = allocation_id(wire.allocation)?;
        let known = self.shared.clone();
        let story = past::story(&self.shared, wire.at, wire.limit, move |history, cell, limit| {
            match stay::tell(history, cell, id, limit)? {
                Said::Story(story) => Ok(story),
                Said::Behind => Err(past::behind(&known, cell.revision())),
                Said::Retired(oldest) => Err(retired(id, oldest)),
                Said::NeverWas => Err(never_was(id, cell)),
            }
        });
        Ok(Response::new(story.await?))
    }

    async fn logs(&self, request: Request<v1::LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let wire = request.into_inner();
        let id = allocation_id(wire.allocation)?;
        let (machine, is_live) = found_on(&self.shared, id).await?;
        // Nothing more comes of one that ended: an agent that has forgotten it would wait for ever.
        let follow = wire.follow && is_live;
        let asked = v1::LogsAsked {
            allocation: wire.allocation,
            stderr: wire.stderr,
            follow,
            tail_lines: wire.tail_lines,
            only_new: wire.only_new,
            from: wire.from,
            ..Default::default()
        };
        Ok(Response::new(Box::pin(log_reader::read(&self.shared, machine, asked).await?)))
    }
}

/// The slot of the machine on which an allocation runs or ran, and whether it runs. The picture by which that is found is let go of with the answer: an
/// agent that is asked next may take seconds, and for as long each page that changes would be copied.
async fn found_on(shared: &Arc<Shared>, id: AllocationId) -> Result<(u32, bool), Failure> {
    let now = past::glance(shared, None).await?;
    let live = runs_on(&now, id);
    match live {
        Some(machine) => Ok((machine, true)),
        None => Ok((ran_on(shared, now, id).await?, false)),
    }
}

/// The slot of the machine on which an allocation runs. What the cell does not know goes by what its agent calls it, as it does when it is stopped.
fn runs_on(cell: &Cell, id: AllocationId) -> Option<u32> {
    let known = cell.allocation(id).map(|allocation| allocation.row.machine);
    let unknown = || cell.unknown_tasks().find(|(unknown, _)| unknown.allocation == id);
    known.or_else(|| unknown().map(|(unknown, _)| unknown.machine))
}

/// The same of one that did not run a moment ago, and of where it did.
async fn ran_on(shared: &Arc<Shared>, now: Glance, id: AllocationId) -> Result<u32, Failure> {
    let cell = now.with_history(shared, None).await?;
    if let Some(machine) = runs_on(&cell, id) {
        return Ok(machine);
    }
    let ended = ended(shared, cell, id).await?;
    let cell = shared.snapshot().await;
    let machine = plenum_model::MachineId::from_bits(ended.machine_id).and_then(|machine| cell.machine(machine));
    // For good: a machine that comes under that name is another one.
    let gone = || Failure::new(Code::NotFound, "NO_LOGS", "the machine that ran it was removed");
    Ok(machine.ok_or_else(gone)?.id.slot)
}

pub(super) fn allocation_id(bits: u64) -> Result<AllocationId, Failure> {
    AllocationId::from_bits(bits)
        .ok_or_else(|| Failure::invalid(format!("allocation: expected an id with a generation above 0, found {bits}")))
}

/// The final row of an allocation that is not live in the cell, up to which the history has all.
async fn ended(shared: &Arc<Shared>, moment: Moment, id: AllocationId) -> Result<v1::AllocationView, Failure> {
    let known = shared.clone();
    let read = moment.read(move |cell| match ended::fate(known.feed.history(), &known.picture, cell, id)? {
        Fate::Ended(row) => Ok(*row),
        Fate::NeverWas => Err(unknown_to(cell, id).unwrap_or_else(|| never_was(id, cell))),
        Fate::Retired(oldest) => Err(unknown_to(cell, id).unwrap_or_else(|| retired(id, oldest))),
    });
    read.await
}

/// What to say of a task that an agent runs, under an id that the cell has no allocation of.
fn unknown_to(cell: &Cell, id: AllocationId) -> Option<Failure> {
    let (unknown, _) = cell.unknown_tasks().find(|(unknown, _)| unknown.allocation == id)?;
    let machine = cell.machine_in(unknown.machine).map_or("a machine", |machine| &machine.name);
    let message = format!(
        "{id} runs on {machine}, and the cell knows nothing more of it, as after a restore; `plenum machine show {machine}` tells what its agent says"
    );
    Some(Failure::not_found(RejectionCode::NoSuchAllocation, message))
}

fn never_was(id: AllocationId, cell: &Cell) -> Failure {
    let now = cell.revision();
    let message = if id.generation <= floor_of(cell.identity().incarnation) {
        format!(
            "there is no {id} at revision {now}, and nothing is known of one: the cell was restored, and has forgotten what was granted after its backup"
        )
    } else {
        format!("there never was an {id} up to revision {now}")
    };
    Failure::not_found(RejectionCode::NoSuchAllocation, message)
}

fn retired(id: AllocationId, oldest: u64) -> Failure {
    let message = format!("{id} ended, and is no longer retained: the oldest revision that can be read is {oldest}");
    Failure::new(Code::NotFound, "ALLOCATION_RETIRED", message)
}

/// A live allocation's row, with the time of its grant where the picture or the log knows it, and with why its task was moved where the log does. What
/// the history has not got yet is not waited for: what lives is told of at once.
async fn live(shared: &Arc<Shared>, glance: Glance, id: AllocationId) -> Result<v1::AllocationView, Failure> {
    let allocation = glance.allocation(id).ok_or_else(|| never_was(id, &glance))?;
    let created = shared.picture.exactly_when(allocation.row.created);
    let about = created.or_else(|| shared.picture.about_when(allocation.row.created));
    let mut view = view::allocation(&glance, &allocation, about);
    // It may have a turn, and what follows waits for one.
    drop(glance);
    // What was moved had another allocation before; of what leaves, why it does is of more use.
    let may_be_moved = view.attempt > 1 && view.reason.is_empty();
    if created.is_none() || may_be_moved {
        let (known, revision) = (shared.clone(), Revision(view.created_revision));
        let read = move || {
            let granted = past::changed_at(&known, revision)?;
            let moved = moved::reason(&granted, id.slot).filter(|_| may_be_moved).map(str::to_owned);
            Ok((granted.time, moved))
        };
        // Not refused when many read: a row without its time would look like one of 1970.
        if let Ok((time, moved)) = past::patiently(&shared.reads, read).await {
            view.created_micros = time.micros;
            view.move_reason = moved.unwrap_or_default();
        }
    }
    Ok(view)
}

/// When an allocation first ran, of which this is the row at a revision; 0 where it did not, or neither the history nor what was published last tells.
async fn started_micros(shared: &Arc<Shared>, id: AllocationId, view: &v1::AllocationView, shown: Revision) -> i64 {
    if matches!(view.state(), v1::AllocationState::Granted | v1::AllocationState::Starting) {
        return 0;
    }
    let last = if view.ended_revision > 0 { Revision(view.ended_revision) } else { shown };
    let (known, granted) = (shared.clone(), Revision(view.created_revision));
    let read = move || match stay::first_ran(known.feed.history(), id, granted, last)? {
        Ran::At(time) => Ok(Some(time)),
        // The history may be far behind, and is not waited for.
        Ran::NotBy(revision) if revision < last => {
            let recent = known.recent.read().after(revision);
            recent.map_or(Ok(None), |batches| stay::first_ran_in(&batches, id, revision, last))
        }
        Ran::NotBy(_) | Ran::Unknown => Ok(None),
    };
    let read = past::patiently(&shared.reads, read).await;
    read.ok().flatten().map_or(0, |time| time.micros)
}

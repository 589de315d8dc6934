//! For operators: drains, quotas, partitions, paused schedulers and rights, holds, and tasks that the cell does not know.

use std::cell::LazyCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use plenum_model::{
    Cell, Command, Hold, JobId, LogTime, Partition, RejectionCode, Rights, Sum, TaskState, UnknownId, UnknownTask,
};
use plenum_proto::v1::command::Ask;
use plenum_proto::{filters, v1};
use tonic::{Request, Response, Status};

use super::edge::custom;
use super::failure::Failure;
use super::inspect::machine_named;
use super::jobs::{allocation_id, change};
use super::listing::{self, Filter};
use super::past::story::{self, Governed, Hero};
use super::past::{self, Moment};
use super::{members, principal};
use crate::metrics::Claims;
use crate::shared::Shared;
use crate::view;

/// Longest time that a drain may take.
const DRAIN_MICROS_MAX: i64 = plenum_proto::bounds::SPAN_MICROS_MAX;

/// `plenum.v1.Govern`.
pub(super) struct GovernService {
    shared: Arc<Shared>,
}

impl GovernService {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    async fn change<T>(&self, request: &Request<T>, command: Command) -> Result<Response<v1::ChangeResponse>, Failure> {
        let principal = principal(request)?;
        let decided = self.shared.ask(Shared::request(principal.text(), "".into(), command)).await?;
        Ok(Response::new(change(decided)?))
    }

    /// The cell of a listing, and how many rows it may have.
    async fn listed(&self, wire: &v1::ListRequest) -> Result<(Moment, usize), Failure> {
        let limit = listing::limit(wire.limit, self.shared.settings.listing_rows);
        Ok((past::cell(&self.shared, wire.at).await?, limit))
    }
}

/// At most so many of the rows that pass, as far as a listing has room for them, and whether there are more.
fn page<T: prost::Message>(rows: impl Iterator<Item = T>, limit: usize, passes: impl Fn(&T) -> bool) -> (Vec<T>, bool) {
    let (mut room, mut truncated) = (listing::Room::new(limit), false);
    let takes = |row: &T| {
        truncated = !room.takes(row);
        !truncated
    };
    let page = rows.filter(|row| passes(row)).take_while(takes).collect();
    (page, truncated)
}

#[tonic::async_trait]
impl v1::govern_server::Govern for GovernService {
    async fn drain_machine(&self, request: Request<v1::DrainRequest>) -> Result<Response<v1::ChangeResponse>, Status> {
        let wire = request.get_ref();
        if !wire.undrain && !(0..=DRAIN_MICROS_MAX).contains(&wire.within_micros) {
            let message = format!("within_micros: expected 0 to {DRAIN_MICROS_MAX}, found {}", wire.within_micros);
            return Err(Failure::invalid(message).into());
        }
        let machine = machine_named(&self.shared.snapshot().await, &wire.name)?.id;
        let deadline = (!wire.undrain).then(|| self.shared.clock.now().plus_micros(wire.within_micros));
        Ok(self.change(&request, Command::DrainMachine { machine, deadline }).await?)
    }

    async fn set_quota(&self, request: Request<v1::SetQuota>) -> Result<Response<v1::ChangeResponse>, Status> {
        let command =
            plenum_proto::command::command(Ask::SetQuota(request.get_ref().clone())).map_err(Failure::from)?;
        custom::check(&command, &self.shared.identity.custom_resources)?;
        Ok(self.change(&request, command).await?)
    }

    async fn list_quotas(&self, request: Request<v1::ListRequest>) -> Result<Response<v1::ListQuotasResponse>, Status> {
        let wire = request.into_inner();
        let filter = Filter::parse(&wire.filter, filters::QUOTAS)?;
        let (cell, limit) = self.listed(&wire).await?;
        let revision = cell.revision().0;
        let read = cell.read(move |cell| {
            let used = cell.used_of_quotas();
            let view = |(namespace, limit): (&Arc<str>, &plenum_model::Quota)| v1::QuotaView {
                namespace: namespace.to_string(),
                limit: Some(limit.into()),
                used: Some((&used.get(namespace).map(Sum::total).unwrap_or_default()).into()),
            };
            let passes = |row: &v1::QuotaView| {
                (wire.namespace.is_empty() || row.namespace == wire.namespace)
                    && filter.passes(|_| Some(row.namespace.clone()))
            };
            Ok(page(cell.quotas().map(view), limit, passes))
        });
        let (quotas, truncated) = read.await?;
        Ok(Response::new(v1::ListQuotasResponse { revision, quotas, truncated }))
    }

    async fn set_partition(&self, request: Request<v1::SetPartition>) -> Result<Response<v1::ChangeResponse>, Status> {
        let ask = Ask::SetPartition(request.get_ref().clone());
        let command = plenum_proto::command::command(ask).map_err(Failure::from)?;
        Ok(self.change(&request, command).await?)
    }

    async fn list_partitions(
        &self,
        request: Request<v1::ListRequest>,
    ) -> Result<Response<v1::ListPartitionsResponse>, Status> {
        let wire = request.into_inner();
        let filter = Filter::parse(&wire.filter, filters::PARTITIONS)?;
        let (cell, limit) = self.listed(&wire).await?;
        let revision = cell.revision().0;
        // Looks at all machines.
        let read = cell.read(move |cell| {
            let named = cell.partitions().filter(|(name, _)| filter.passes(|_| Some(name.to_string())));
            let totals = LazyCell::new(|| class_totals(cell));
            let rows = named.map(|(name, partition)| partition_view(cell, &totals, name, partition));
            Ok(page(rows, limit, |_| true))
        });
        let (partitions, truncated) = read.await?;
        Ok(Response::new(v1::ListPartitionsResponse { revision, partitions, truncated }))
    }

    async fn pause_scheduler(
        &self,
        request: Request<v1::PauseScheduler>,
    ) -> Result<Response<v1::ChangeResponse>, Status> {
        let ask = Ask::PauseScheduler(request.get_ref().clone());
        let command = plenum_proto::command::command(ask).map_err(Failure::from)?;
        Ok(self.change(&request, command).await?)
    }

    async fn set_rights(&self, request: Request<v1::SetRights>) -> Result<Response<v1::ChangeResponse>, Status> {
        let ask = Ask::SetRights(request.get_ref().clone());
        let command = plenum_proto::command::command(ask).map_err(Failure::from)?;
        Ok(self.change(&request, command).await?)
    }

    async fn list_schedulers(
        &self,
        request: Request<v1::ListRequest>,
    ) -> Result<Response<v1::ListSchedulersResponse>, Status> {
        let wire = request.into_inner();
        let filter = Filter::parse(&wire.filter, filters::SCHEDULERS)?.with_words("paused", listing::YES_OR_NO)?;
        let (cell, limit) = self.listed(&wire).await?;
        let present = if past::is_asked(wire.at) { None } else { Some(self.shared.clone()) };
        let (revision, is_named) = (cell.revision().0, filter.asks_for("name"));
        // Looks at all jobs.
        let read = cell.read(move |cell| {
            let passes = |row: &v1::SchedulerView| {
                filter.passes(|field| Some(if field == "name" { row.name.clone() } else { row.paused.to_string() }))
            };
            let views = scheduler_views(present.as_deref(), cell).into_values().filter(passes);
            let (gone, rows): (Vec<_>, Vec<_>) = views.partition(|row| !is_named && is_gone(row));
            Ok((page(rows.into_iter(), limit, |_| true), gone.len()))
        });
        let ((schedulers, truncated), gone) = read.await?;
        let left_out = u32::try_from(gone).unwrap_or(u32::MAX);
        Ok(Response::new(v1::ListSchedulersResponse { revision, schedulers, truncated, left_out }))
    }

    async fn list_holds(&self, request: Request<v1::ListRequest>) -> Result<Response<v1::ListHoldsResponse>, Status> {
        let wire = request.into_inner();
        let filter = Filter::parse(&wire.filter, filters::HOLDS)?.with_names("job")?;
        let (cell, limit) = self.listed(&wire).await?;
        let revision = cell.revision().0;
        let read = cell.read(move |cell| {
            let passes = |row: &v1::HoldView| {
                (wire.namespace.is_empty() || row.namespace == wire.namespace)
                    && filter.passes(|_| Some(row.job.clone()))
            };
            let rank = |job: JobId, hold: &Hold| hold.rank(cell.job(job).map_or(0, |job| job.shape.priority), job);
            let mut holds: Vec<_> = cell.holds().collect();
            holds.sort_by_cached_key(|(job, hold)| rank(*job, hold));
            let views = holds.into_iter().filter_map(|(job, hold)| view::hold(cell, job, hold, &hold.machines));
            Ok(page(views, limit, passes))
        });
        let (holds, truncated) = read.await?;
        Ok(Response::new(v1::ListHoldsResponse { revision, holds, truncated }))
    }

    async fn govern_history(
        &self,
        request: Request<v1::GovernHistoryRequest>,
    ) -> Result<Response<v1::HistoryResponse>, Status> {
        let wire = request.into_inner();
        let governed = Governed::parse(&wire.of, wire.name)?;
        let story = past::story(&self.shared, wire.at, wire.limit, move |history, cell, limit| {
            story::tell(history, cell, &Hero::Governed(&governed), limit)
        });
        Ok(Response::new(story.await?))
    }

    async fn list_unknown_tasks(
        &self,
        request: Request<v1::ListRequest>,
    ) -> Result<Response<v1::ListUnknownTasksResponse>, Status> {
        let wire = request.into_inner();
        let filter = Filter::parse(&wire.filter, filters::UNKNOWN_TASKS)?.with_names("job")?;
        let (cell, limit) = self.listed(&wire).await?;
        let revision = cell.revision().0;
        let earliest_micros = told_from_micros(&self.shared, &cell);
        let read = cell.read(move |cell| {
            let passes = |row: &v1::UnknownTaskView| {
                let task = row.task.as_ref();
                let job = || task.map(|task| task.job.clone());
                let namespace = task.is_some_and(|task| task.namespace == wire.namespace);
                (wire.namespace.is_empty() || namespace)
                    && filter.passes(|field| if field == "job" { job() } else { Some(row.machine.clone()) })
            };
            let rows = cell.unknown_tasks().map(|(id, task)| unknown_view(cell, id, task, earliest_micros));
            Ok(page(rows, limit, passes))
        });
        let (tasks, truncated) = read.await?;
        Ok(Response::new(v1::ListUnknownTasksResponse { revision, tasks, truncated }))
    }

    async fn adopt_task(&self, request: Request<v1::AdoptTaskRequest>) -> Result<Response<v1::ChangeResponse>, Status> {
        let wire = request.get_ref();
        let allocation = allocation_id(wire.allocation)?;
        let machine = machine_named(&self.shared.snapshot().await, &wire.machine)?.id;
        Ok(self.change(&request, Command::AdoptUnknown { machine, allocation }).await?)
    }
}

/// What the machines of a class come to.
#[derive(Clone, Debug, Default)]
struct ClassTotal {
    machines: u32,
    capacity: v1::Resources,
    allocated: v1::Resources,
}

/// By the number of a class, what its machines come to: a cell has many machines, and as a rule few sets of attributes.
fn class_totals(cell: &Cell) -> Vec<ClassTotal> {
    let mut totals = vec![ClassTotal::default(); cell.classes().len()];
    for machine in cell.machines() {
        let class = cell.machine_row(machine.id.slot).and_then(|row| usize::try_from(row.class).ok());
        let Some(total) = class.and_then(|class| totals.get_mut(class)) else { continue };
        total.machines += 1;
        view::add(&mut total.capacity, &machine.capacity.as_ref().into());
        view::add(&mut total.allocated, &view::taken(&machine.capacity, &cell.room(machine.id.slot)));
    }
    totals
}

/// `totals`: as [`class_totals`] tells them of this cell.
fn partition_view(cell: &Cell, totals: &[ClassTotal], name: &Arc<str>, partition: &Partition) -> v1::PartitionView {
    let mut view = v1::PartitionView {
        name: name.to_string(),
        rules: partition.machines.iter().map(Into::into).collect(),
        schedulers: partition.schedulers.iter().map(ToString::to_string).collect(),
        ..v1::PartitionView::default()
    };
    let (mut capacity, mut allocated) = (v1::Resources::default(), v1::Resources::default());
    // Machines of a class have equal attributes; some classes have none any more.
    let classes = cell.classes().iter().zip(totals).filter(|(_, total)| total.machines > 0);
    for (_, total) in classes.filter(|(attributes, _)| partition.has(attributes)) {
        view.machines += total.machines;
        view::add(&mut capacity, &total.capacity);
        view::add(&mut allocated, &total.allocated);
    }
    (view.capacity, view.allocated) = (Some(capacity), Some(allocated));
    view
}

/// Everybody who schedules: has a session, jobs, unusual rights, or is paused. And who had a session or jobs, as long as the cell knows the name: by that
/// the command line tells a scheduler that is away from a slip in its name. Of the past nobody knows who was connected: `present` is none then.
fn scheduler_views(present: Option<&Shared>, cell: &Cell) -> BTreeMap<String, v1::SchedulerView> {
    let mut views: BTreeMap<String, v1::SchedulerView> = BTreeMap::new();
    let members = present.map(|shared| members::by_scheduler(shared, cell));
    let mut view = |name: &str, change: &mut dyn FnMut(&mut v1::SchedulerView)| {
        let none_yet = present.map(|_| 0);
        let new = || {
            let Rights { evicts, priority } = cell.rights_of(name);
            v1::SchedulerView {
                name: name.to_owned(),
                connected: none_yet,
                unserved_jobs: none_yet,
                evicts: Some(evicts),
                priority: priority.into(),
                ..v1::SchedulerView::default()
            }
        };
        change(views.entry(name.to_owned()).or_insert_with(new));
    };
    cell.scheduler_names().iter().for_each(|name| view(name, &mut |_| {}));
    cell.paused().for_each(|name| view(name, &mut |row| row.paused = true));
    cell.rights().for_each(|(name, _)| view(name, &mut |_| {}));
    cell.sessions().for_each(|session| view(&session.scheduler, &mut |row| row.sessions += 1));
    for (scheduler, of_name) in members.iter().flatten() {
        view(scheduler, &mut |row| row.connected = Some(of_name.connected));
    }
    for (scheduler, doing) in present.map(Shared::doing).into_iter().flatten() {
        view(&scheduler, &mut |row| doing.tell(row));
    }
    for job in cell.jobs().filter(|job| !job.state.is_final()) {
        let (mut waiting, mut live) = (0, 0);
        for group in view::group_rows(cell, job) {
            waiting += u64::from(view::waiting_tasks(job, group));
            live += u64::from(group.tasks_in(TaskState::Live));
        }
        let of_name = members.as_ref().and_then(|members| members.get(&job.shape.scheduler));
        let is_served = of_name.is_some_and(|of_name| of_name.serve(&job.shape.namespace));
        view(&job.shape.scheduler, &mut |row| {
            row.jobs += 1;
            row.unserved_jobs = row.unserved_jobs.map(|jobs| jobs + u32::from(!is_served));
            row.waiting_tasks += waiting;
            row.live_tasks += live;
        });
    }
    if let Some(shared) = present {
        views.values_mut().for_each(|row| tell_claims(shared, row));
    }
    views
}

/// What became of its claims, as far as that is told apart.
fn tell_claims(shared: &Shared, row: &mut v1::SchedulerView) {
    if let Some(Claims { granted, refused, lost }) = shared.metrics.claims_of(&row.name) {
        (row.claims_granted, row.claims_refused, row.claims_lost) = (Some(granted), Some(refused), Some(lost));
    }
}

/// Whether nothing is left of a scheduler but its name.
fn is_gone(row: &v1::SchedulerView) -> bool {
    let Rights { evicts, priority } = Rights::default();
    let has_usual_rights = row.evicts == Some(evicts) && row.priority == u32::from(priority);
    row.sessions == 0 && row.jobs == 0 && !row.paused && has_usual_rights
}

/// From when on the server of that cell tells unknown tasks to stop. Of one before this one nobody knows when it started.
fn told_from_micros(shared: &Shared, cell: &Cell) -> i64 {
    let start_micros = shared.clock.start_micros();
    let is_past = cell.time().micros < start_micros;
    if is_past { 0 } else { start_micros.saturating_add(shared.settings.core.unknown_micros) }
}

fn unknown_view(cell: &Cell, id: UnknownId, task: &UnknownTask, earliest_micros: i64) -> v1::UnknownTaskView {
    let told_micros = |until: LogTime| if task.stopping { until.micros } else { until.micros.max(earliest_micros) };
    v1::UnknownTaskView {
        machine: cell.machine_in(id.machine).map(|machine| machine.name.to_string()).unwrap_or_default(),
        allocation: id.allocation.to_bits(),
        task: Some((&*task.traces).into()),
        since_micros: task.since.micros,
        until_micros: task.until.map_or(0, told_micros),
        stopping: task.stopping,
    }
}

/// Who asks for a hold.
#[derive(Debug)]
pub(super) enum Holder {
    /// Without a session, for a job of anybody.
    Operator,
    /// A scheduler, for a job of its own.
    Scheduler(Arc<str>),
}

/// A job that room may be held for.
pub(super) fn held_job(cell: &Cell, holder: &Holder, bits: u64) -> Result<JobId, Failure> {
    let Some(id) = JobId::from_bits(bits) else {
        return Err(Failure::invalid(format!("job: expected an id with a generation above 0, found {bits}")));
    };
    let Some(job) = cell.job(id) else {
        return Err(Failure::not_found(RejectionCode::NoSuchJob, format!("{id} is retired or never was")));
    };
    match holder {
        Holder::Scheduler(scheduler) if *scheduler != job.shape.scheduler => {
            let message = format!(
                "the job {} belongs to the scheduler {}, and the scheduler {scheduler} asks",
                job.shape.name, job.shape.scheduler
            );
            Err(Failure::new(tonic::Code::PermissionDenied, "NOT_PERMITTED", message))
        }
        Holder::Scheduler(_) | Holder::Operator => Ok(id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plenum_model::{
        Attributes, Constraint, Delta, Grants, GroupShape, Job, JobChange, JobShape, JobState, Machine, MachineState,
        Operator, Resources, Revision,
    };

    fn machine_in(slot: u32, rack: &str) -> Arc<Machine> {
        let capacity = Arc::new(Resources::new(1_000 * (u64::from(slot) + 1), 1 << 30));
        let attributes = Arc::new(Attributes::from([("rack".into(), rack.into())]));
        let machine = crate::agents::machine(slot, 1, MachineState::Ready);
        Arc::new(Machine { capacity, attributes, ..machine })
    }

    /// Machines of several racks with a task on each of the first two, and a class that no machine is of any more.
    fn cell_of_several_classes() -> Cell {
        let id = JobId { slot: 0, generation: 1 };
        let group = GroupShape { name: "main".into(), count: 2, ..GroupShape::default() };
        let job = Job {
            id,
            version: 1,
            shape: Arc::new(JobShape { name: "web".into(), groups: vec![group], ..JobShape::default() }),
            body: None,
            body_digest: [0; 32],
            submitted: LogTime::default(),
            state: JobState::Waiting,
            state_since: LogTime::default(),
            reason: "".into(),
            group_base: 0,
            home: None,
            last_instant_micros: None,
        };
        let mut first = Delta::new(Revision(1), LogTime::from_micros(1));
        first.machines.extend((0..).zip(["a", "b", "a", "gone"]).map(|(slot, rack)| machine_in(slot, rack)));
        first.jobs.push(JobChange::Put { job: Arc::new(job), task_bases: vec![0] });
        first.shapes.push(Resources::new(300, 1 << 20));
        first.scheduler_names.push("batch".into());
        let grants = Grants {
            job: id,
            job_version: 1,
            machines: vec![0, 1],
            tasks: vec![0, 1],
            slots: vec![0, 1],
            generations: vec![1, 1],
            ..Grants::default()
        };
        let mut second = Delta::new(Revision(2), LogTime::from_micros(2));
        second.machines.push(machine_in(3, "b"));
        second.grants.push(grants);
        let mut cell = Cell::default();
        for delta in [first, second] {
            cell.apply(&delta).unwrap();
        }
        cell
    }

    // Each partition went through all machines of the cell, and judged and added up each of them anew.
    #[test]
    fn a_partition_comes_to_what_its_machines_do_whichever_class_they_are_of() {
        let cell = cell_of_several_classes();
        let totals = class_totals(&cell);
        let rules =
            |operator, rack: &str| vec![Constraint { attribute: "rack".into(), operator, values: vec![rack.into()] }];
        let told = |machines: Vec<Constraint>| {
            let partition = Partition { machines, schedulers: Vec::new() };
            let view = partition_view(&cell, &totals, &"lab".into(), &partition);
            let amounts = |amounts: Option<v1::Resources>| amounts.map(|amounts| amounts.cpu_millis);
            (view.machines, amounts(view.capacity), amounts(view.allocated))
        };
        assert_eq!(told(rules(Operator::Equal, "a")), (2, Some(4_000), Some(300)));
        assert_eq!(told(rules(Operator::Equal, "b")), (2, Some(6_000), Some(300)), "also who came there later");
        assert_eq!(told(rules(Operator::NotEqual, "c")), (4, Some(10_000), Some(600)), "of several classes");
        assert_eq!(told(rules(Operator::Equal, "gone")), (0, Some(0), Some(0)));
        assert_eq!(told(Vec::new()), (4, Some(10_000), Some(600)));
    }

    // A thousand holds of sixteen thousand machines each came to a GiB, which nobody takes.
    #[test]
    fn a_page_ends_at_its_rows_or_at_its_bytes_and_says_that_there_are_more() {
        let rows = |bytes: usize| {
            let hold = move |number: u32| v1::HoldView {
                priority: number,
                machines: vec!["m".repeat(bytes)],
                ..v1::HoldView::default()
            };
            (0..1_000).map(hold)
        };
        let odd = |row: &v1::HoldView| row.priority % 2 == 1;
        let listed = |bytes: usize, limit: usize| {
            let (page, truncated) = page(rows(bytes), limit, odd);
            assert!(page.iter().all(odd));
            (page.len(), truncated)
        };
        assert_eq!((listed(1, 499), listed(1, 500), listed(1, 501)), ((499, true), (500, false), (500, false)));
        assert_eq!(listed(256 << 10, 1_000), (255, true));
        assert_eq!(listed(1, 0), (0, true));
    }
}

//! For operators: the cell, its machines, its transactions and its conflicts.

mod backup;
mod conflicts;
mod transactions;

use std::sync::Arc;

use plenum_model::{Cell, CellIdentity, Command, JobKind, LogTime, Machine, RejectionCode, Sum};
use plenum_proto::{filters, v1};
use tonic::{Request, Response, Status};

use super::failure::Failure;
use super::jobs::change;
use super::jobs::waiting::Reasons;
use super::listing::{self, Filter};
use super::members::{self, ByScheduler, Members};
use super::past;
use super::past::story::{self, Hero, gone};
use super::principal;
use crate::shared::Shared;
use crate::view;
use conflicts::Conflicts;

/// `plenum.v1.Inspect`.
pub(super) struct InspectService {
    shared: Arc<Shared>,
}

impl InspectService {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

pub(super) fn machine_named<'a>(cell: &'a Cell, name: &str) -> Result<&'a Arc<plenum_model::Machine>, Failure> {
    cell.machine_named(name).ok_or_else(|| {
        let message = format!("there is no machine {name:?} at revision {}", cell.revision());
        Failure::not_found(RejectionCode::NoSuchMachine, message)
    })
}

#[tonic::async_trait]
impl v1::inspect_server::Inspect for InspectService {
    type BackupStream = self::backup::Chunks;

    async fn backup(&self, _request: Request<v1::BackupRequest>) -> Result<Response<Self::BackupStream>, Status> {
        Ok(Response::new(self::backup::begin(&self.shared).await?))
    }

    async fn status(&self, _request: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        Ok(Response::new(status(&self.shared).await?))
    }

    async fn get_status_at(
        &self,
        request: Request<v1::GetStatusAtRequest>,
    ) -> Result<Response<v1::StatusResponse>, Status> {
        let at = request.into_inner().at;
        let cell = past::cell(&self.shared, at).await?;
        let then = Reasons::new(&self.shared, at, &cell).now();
        let counted = cell.read(move |cell| {
            let mut status = of_state(cell, cell.identity(), v1::StatusResponse::default());
            count_rows(cell, then, &mut status);
            Ok(status)
        });
        Ok(Response::new(counted.await?))
    }

    async fn moment(&self, request: Request<v1::MomentRequest>) -> Result<Response<v1::MomentResponse>, Status> {
        let time_micros = past::time_micros(&self.shared, request.into_inner().at).await?;
        let identity = &self.shared.identity;
        Ok(Response::new(v1::MomentResponse {
            time_micros,
            custom_resources: identity.custom_resources.iter().map(ToString::to_string).collect(),
            older_copy: Some(self.shared.ahead.words(self.shared.clock.monotonic_micros())),
            cell_id: Some(bytes::Bytes::copy_from_slice(&identity.cell_id)),
        }))
    }

    async fn list_machines(
        &self,
        request: Request<v1::ListRequest>,
    ) -> Result<Response<v1::ListMachinesResponse>, Status> {
        let wire = request.into_inner();
        let filter = Filter::parse(&wire.filter, filters::MACHINES)?.with_words("state", listing::MACHINE_WORDS)?;
        let filter = filter.with_numbers("epoch")?;
        let most = self.shared.settings.listing_rows;
        // Schedulers without a mirror ask for this, too.
        let cell = if past::is_asked(wire.at) {
            past::cell(&self.shared, wire.at).await?
        } else {
            past::to_place(&self.shared).await?
        };
        let lease_micros = self.shared.lease_micros();
        let listed = cell.read(move |cell| Ok(list_machines(cell, &filter, (wire.limit, most), lease_micros)));
        Ok(Response::new(listed.await?))
    }

    async fn get_machine(
        &self,
        request: Request<v1::GetMachineRequest>,
    ) -> Result<Response<v1::GetMachineResponse>, Status> {
        let wire = request.into_inner();
        let cell = past::glance(&self.shared, wire.at).await?;
        let machine = machine_named(&cell, &wire.name)?;
        let mut view = view::machine(&cell, machine, self.shared.lease_micros());
        view.partitions = view::partitions_of(&cell, machine);
        view.holds = view::holds_on(&cell, machine);
        Ok(Response::new(v1::GetMachineResponse { revision: cell.revision().0, machine: Some(view) }))
    }

    async fn machine_history(
        &self,
        request: Request<v1::MachineHistoryRequest>,
    ) -> Result<Response<v1::HistoryResponse>, Status> {
        let wire = request.into_inner();
        let story = past::story(&self.shared, wire.at, wire.limit, move |history, cell, limit| {
            match cell.machine_named(&wire.name) {
                Some(machine) => story::tell(history, cell, &Hero::Machine(machine.id), limit),
                None => gone::machine(history, cell, &wire.name, limit),
            }
        });
        Ok(Response::new(story.await?))
    }

    async fn cell_history(
        &self,
        request: Request<v1::CellHistoryRequest>,
    ) -> Result<Response<v1::HistoryResponse>, Status> {
        let v1::CellHistoryRequest { since_micros, at, limit } = request.into_inner();
        let story = past::story(&self.shared, at, limit, move |history, cell, limit| {
            let from = story::first_since(history, since_micros)?;
            story::tell(history, cell, &Hero::Cell { from }, limit)
        });
        Ok(Response::new(story.await?))
    }

    async fn cordon_machine(
        &self,
        request: Request<v1::CordonRequest>,
    ) -> Result<Response<v1::ChangeResponse>, Status> {
        let principal = principal(&request)?;
        let wire = request.into_inner();
        let machine = machine_named(&self.shared.snapshot().await, &wire.name)?.id;
        let command = Command::CordonMachine { machine, cordoned: wire.cordoned };
        let decided = self.shared.ask(Shared::request(principal.text(), "".into(), command)).await?;
        Ok(Response::new(change(decided)?))
    }

    async fn remove_machine(
        &self,
        request: Request<v1::RemoveMachineRequest>,
    ) -> Result<Response<v1::ChangeResponse>, Status> {
        let principal = principal(&request)?;
        let v1::RemoveMachineRequest { name, force, machine: meant } = request.get_ref();
        let machine = machine_named(&self.shared.snapshot().await, name)?.id;
        // Who asks again after an answer that was lost must not remove what came back under the name.
        if *meant != 0 && *meant != machine.to_bits() {
            let message = format!("{name:?} is another machine by now than the one that is meant");
            return Err(Failure::not_found(RejectionCode::NoSuchMachine, message).into());
        }
        let command = Command::RemoveMachine { machine, unless_alive: !force };
        let decided = self.shared.ask(Shared::request(principal.text(), "".into(), command)).await?;
        Ok(Response::new(change(decided)?))
    }

    async fn list_transactions(
        &self,
        request: Request<v1::ListTransactionsRequest>,
    ) -> Result<Response<v1::ListTransactionsResponse>, Status> {
        Ok(Response::new(transactions::list(&self.shared, request.into_inner()).await?))
    }

    async fn get_transaction(
        &self,
        request: Request<v1::GetTransactionRequest>,
    ) -> Result<Response<v1::TransactionView>, Status> {
        Ok(Response::new(transactions::get(&self.shared, request.into_inner()).await?))
    }

    async fn list_conflicts(
        &self,
        request: Request<v1::ListConflictsRequest>,
    ) -> Result<Response<v1::ListConflictsResponse>, Status> {
        let wire = request.into_inner();
        let asked = Conflicts::read(&wire, self.shared.settings.listing_rows, &self.shared.identity.custom_resources)?;
        let cell = past::cell_and_history(&self.shared, wire.at).await?;
        let history = self.shared.feed.history().clone();
        let rows = cell.read(move |cell| asked.list(&history, cell));
        Ok(Response::new(rows.await?))
    }

    async fn list_sessions(
        &self,
        request: Request<v1::ListRequest>,
    ) -> Result<Response<v1::ListSessionsResponse>, Status> {
        let wire = request.into_inner();
        let filter = Filter::parse(&wire.filter, filters::SESSIONS)?.with_words("connected", listing::YES_OR_NO)?;
        let limit = listing::limit(wire.limit, self.shared.settings.listing_rows);
        let present = if past::is_asked(wire.at) { None } else { Some(self.shared.clone()) };
        if present.is_none() && filter.asks_for("connected") {
            return Err(Failure::invalid(
                "filter: who was connected is not kept, so `connected` can't be asked for with `at`",
            )
            .into());
        }
        let cell = past::cell(&self.shared, wire.at).await?;
        let read = move |cell: &Cell| Ok(list_sessions(present.as_deref(), cell, &filter, limit));
        let listed = cell.read(read);
        Ok(Response::new(listed.await?))
    }
}

/// By name: slots are given in the order in which machines came, and again. As many as are asked for, up to the most.
fn list_machines(
    cell: &Cell,
    filter: &Filter,
    (asked, most): (u32, u32),
    lease_micros: i64,
) -> v1::ListMachinesResponse {
    let mut response = v1::ListMachinesResponse { revision: cell.revision().0, ..Default::default() };
    let limit = listing::limit(asked, most);
    let mut room = listing::Room::new(limit);
    let passes = |machine: &&Arc<Machine>| {
        filter.passes(|field| match field {
            "name" => Some(machine.name.to_string()),
            "state" => Some(machine.state.word().to_owned()),
            "epoch" => Some(machine.epoch.to_string()),
            attribute => {
                let name = attribute.strip_prefix("attr.").unwrap_or(attribute);
                machine.attributes.get(name).map(ToString::to_string)
            }
        })
    };
    let mut passing: Vec<_> = cell.machines().filter(passes).collect();
    response.exceeds_listing_rows = passing.len() > listing::limit(0, most);
    let by_name = |one: &&Arc<Machine>, other: &&Arc<Machine>| one.name.cmp(&other.name);
    // One more than is told, so that it is known whether there are more: of very many machines some few are asked for with each job.
    if limit < passing.len() {
        passing.select_nth_unstable_by(limit, by_name);
        passing.truncate(limit + 1);
    }
    passing.sort_unstable_by(by_name);
    for machine in passing {
        let view = view::machine(cell, machine, lease_micros);
        if !room.takes(&view) {
            response.truncated = true;
            break;
        }
        response.machines.push(view);
    }
    response
}

/// `present`: none of the past, of which nobody knows who was connected.
fn list_sessions(present: Option<&Shared>, cell: &Cell, filter: &Filter, limit: usize) -> v1::ListSessionsResponse {
    let mut response = v1::ListSessionsResponse { revision: cell.revision().0, ..Default::default() };
    let known = present.map(|shared| (shared.sessions.lock(), shared.clock.monotonic_micros()));
    for session in cell.sessions() {
        let connected = known.as_ref().map(|(known, now)| known.is_connected(session.id, *now));
        let passes = filter.passes(|field| match field {
            "scheduler" => Some(session.scheduler.to_string()),
            "principal" => Some(session.principal.to_string()),
            _ => connected.map(|connected| connected.to_string()),
        });
        if !passes {
            continue;
        }
        if response.sessions.len() == limit {
            response.truncated = true;
            break;
        }
        response.sessions.push(v1::SessionView {
            id: session.id.0,
            scheduler: session.scheduler.to_string(),
            principal: session.principal.to_string(),
            connected,
            last_number: session.decided.back().map_or(0, |decided| decided.number),
            namespace: session.namespace.to_string(),
        });
    }
    response
}

/// Schedulers that a status names at most, of each kind.
const NAMED_MAX: usize = 32;

/// The cell in numbers. Refused when too many wait for it.
pub(super) async fn status(shared: &Arc<Shared>) -> Result<v1::StatusResponse, Failure> {
    Ok(status_with(shared, |_, _, _| ()).await?.0)
}

/// The same, and what else is counted in that turn, of the same picture of the cell.
pub(super) async fn status_with<T: Send + 'static>(
    shared: &Arc<Shared>,
    also: impl FnOnce(&Shared, &Cell, &ByScheduler) -> T + Send + 'static,
) -> Result<(v1::StatusResponse, T), Failure> {
    let turn = shared.reads.turn_to_count().await?;
    let cell = shared.snapshot().await;
    let mut status = of_state(&cell, &shared.identity, of_server(shared));
    // Right after a leap the batch of the oldest is yet to come, and the cell that was leapt to can be read.
    status.oldest_revision = status.oldest_revision.min(status.revision);
    // A large cell takes some milliseconds, in which connections would stand still.
    let known = shared.clone();
    let counted = turn.take(move || {
        let members = members::with_awaited(&known, &cell);
        status.away_schedulers = named(&members, Members::are_away);
        status.silent_schedulers = named(&members, |members| members.silent > 0);
        count_rows(&cell, known.clock.now(), &mut status);
        let also = also(&known, &cell, &members);
        Ok((status, also))
    });
    Ok(counted.await?.0)
}

/// What a server that runs knows of itself, of its log and of its history, without a picture of the cell.
pub(super) fn of_server(shared: &Shared) -> v1::StatusResponse {
    let (transactions, conflicts) = shared.metrics.totals();
    v1::StatusResponse {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        core_version: plenum_core::CORE_VERSION,
        read_only: shared.space.low().map(|low| low.to_string()).unwrap_or_default(),
        oldest_revision: shared.feed.history().oldest_revision(),
        history_revision: shared.feed.history().newest_revision(),
        history_lag_bytes: shared.feed.lag_bytes(),
        history_given_up: shared.feed.given_up(),
        history_stopped: shared.feed.stopped().map(|stopped| format!("it {}", stopped.told())).unwrap_or_default(),
        machines_held_back: shared.held_back.machines(shared.clock.now()) as u64,
        log_bytes: shared.keeper.size_bytes(),
        log_kept_bytes: shared.keeper.kept_bytes(),
        free_bytes: shared.space.free_bytes(),
        transactions,
        conflicts,
        started_micros: shared.clock.start_micros(),
        clock_ahead_seconds: Some(shared.clock.ahead_seconds()),
        older_copy: shared.ahead.words(shared.clock.monotonic_micros()),
        ..v1::StatusResponse::default()
    }
}

/// What a cell's state tells of itself at a glance, of the present and of the past, beside what its server tells.
fn of_state(cell: &Cell, identity: &CellIdentity, of_server: v1::StatusResponse) -> v1::StatusResponse {
    v1::StatusResponse {
        cell_id: bytes::Bytes::copy_from_slice(&identity.cell_id),
        incarnation: identity.incarnation,
        term: identity.term,
        revision: cell.revision().0,
        time_micros: cell.time().micros,
        sessions: cell.sessions().count() as u64,
        custom_resources: identity.custom_resources.iter().map(ToString::to_string).collect(),
        paused_schedulers: cell.paused().take(NAMED_MAX).map(ToString::to_string).collect(),
        ..of_server
    }
}

/// The first schedulers of those that are meant.
fn named(members: &ByScheduler, is_meant: fn(&Members) -> bool) -> Vec<String> {
    let meant = members.iter().filter(|(_, members)| is_meant(members));
    meant.take(NAMED_MAX).map(|(name, _)| name.to_string()).collect()
}

/// Counts machines, jobs and allocations by state, and adds up what machines have. What fails goes by `now`.
fn count_rows(cell: &Cell, now: LogTime, status: &mut v1::StatusResponse) {
    let (mut capacity, mut allocated) = (v1::Resources::default(), v1::Resources::default());
    for machine in cell.machines() {
        // A whole view of each would copy all their attributes: most of what a status takes.
        listing::count(&mut status.machines, machine.state.word());
        view::add(&mut capacity, &machine.capacity.as_ref().into());
        view::add(&mut allocated, &view::taken(&machine.capacity, &cell.room(machine.id.slot)));
    }
    for job in cell.jobs() {
        // One that is recurring waits for nothing: that is its place for as long as it is there.
        let stands = job.shape.kind == JobKind::Recurring && !job.state.is_final();
        listing::count(&mut status.jobs, if stands { "recurring" } else { job.state.word() });
        status.waiting_tasks += view::waiting_in(cell, job);
    }
    status.failing_jobs = view::failing_jobs(cell, now) as u64;
    let mut states = [0_u64; plenum_model::AllocationState::ALL.len()];
    for allocation in cell.allocations() {
        states[allocation.status.state as usize] += 1;
    }
    for (state, count) in plenum_model::AllocationState::ALL.into_iter().zip(states).filter(|(_, count)| *count > 0) {
        let word = listing::allocation_word(v1::AllocationState::from(state).into());
        *status.allocations.entry(word.to_owned()).or_default() += count;
    }
    let mut machine = None;
    for (id, task) in cell.unknown_tasks() {
        status.unknown_tasks += 1;
        status.unknown_machines += u64::from(machine.replace(id.machine) != Some(id.machine));
        status.unknown_adopted += u64::from(task.until.is_none());
        status.unknown_stopping += u64::from(task.stopping);
    }
    status.capacity = Some(capacity);
    status.allocated = Some(allocated);
    status.held = Some(held(cell));
}

/// All holds in short. There are a thousand at most.
fn held(cell: &Cell) -> v1::HeldRoom {
    let mut resources = Sum::default();
    cell.holds().for_each(|(_, hold)| resources.add(&hold.resources, hold.machines.len()));
    let oldest = cell.holds().min_by_key(|(job, hold)| (hold.first_wait, *job));
    let oldest = oldest.and_then(|(job, hold)| {
        let job = cell.job(job)?;
        Some(v1::OldestHold {
            namespace: job.shape.namespace.to_string(),
            job: job.shape.name.to_string(),
            machines: u32::try_from(hold.machines.len()).unwrap_or(u32::MAX),
            resources: Some((&hold.resources).into()),
            deadline_micros: hold.deadline.micros,
            first_wait_revision: hold.first_wait.0,
        })
    });
    v1::HeldRoom { holds: cell.holds().len() as u64, resources: Some((&resources.total()).into()), oldest }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::tests::without_threads;
    use plenum_model::{Delta, MachineState, Revision};

    // The disk was asked by a thread that serves connections: where it did not answer, as that of a file server that is gone, two who asked for a
    // status stopped all connections, and with them the leases.
    #[tokio::test]
    async fn a_status_tells_what_was_free_at_the_last_look_and_waits_for_no_disk() {
        let dir = tempfile::tempdir().unwrap();
        // Nobody looks but the start.
        let (_journal, shared) = without_threads(dir.path(), |_| None);
        assert!(status(&shared).await.unwrap().free_bytes > 0, "a start looks");
        shared.space.found(7);
        assert_eq!(status(&shared).await.unwrap().free_bytes, 7);
    }

    // They were listed by slot: in the order in which they had registered first, with newer ones wherever one had been removed.
    #[test]
    fn machines_are_listed_by_name_also_where_not_all_of_them_are() {
        let mut delta = Delta::new(Revision(1), LogTime::from_micros(1));
        for (slot, name) in (0..).zip(["north-2", "west-1", "east-1", "north-10"]) {
            let machine = crate::agents::machine(slot, 1, MachineState::Ready);
            delta.machines.push(Arc::new(Machine { name: name.into(), ..machine }));
        }
        let mut cell = Cell::default();
        cell.apply(&delta).unwrap();
        let list =
            |filter: &str, rows| list_machines(&cell, &Filter::parse(filter, filters::MACHINES).unwrap(), rows, 0);
        let listed = |filter: &str, limit| {
            let listed = list(filter, (limit, 9));
            (listed.machines.iter().map(|machine| machine.name.clone()).collect::<Vec<_>>().join(" "), listed.truncated)
        };
        assert_eq!(listed("", 9), ("east-1 north-10 north-2 west-1".to_owned(), false));
        assert_eq!(listed("", 2), ("east-1 north-10".to_owned(), true));
        assert_eq!(listed("name!=north-10", 2), ("east-1 north-2".to_owned(), true));
        // Who saw the first ones of very many asked for all of them besides, of which as many were told.
        let tells_of_more =
            |filter: &str, most| [0, 1, 9].map(|asked| list(filter, (asked, most)).exceeds_listing_rows);
        assert_eq!((tells_of_more("", 3), tells_of_more("", 4)), ([true; 3], [false; 3]));
        assert_eq!(tells_of_more("name!=north-10", 3), [false; 3], "it counts what passes");
    }
}

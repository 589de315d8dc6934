//! Machines and schedulers played by the test, over gRPC: so that a race is lost when the story says so.

use plenum_model::MachineId;
use plenum_proto::v1;
use tokio::runtime::Runtime;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

/// What each task of a job here asks for.
pub(crate) const TASK_MILLIS: i64 = 1000;
/// The priority of a job that may take the room of the others.
const URGENT: u32 = 90;

/// A connection to a cell. It connects anew by itself when the server was away.
pub(crate) struct Rivals {
    runtime: Runtime,
    channel: Channel,
}

/// A machine without an agent, for as long as the lease lasts that it was given.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) slot: u32,
    pub(crate) id: u64,
    pub(crate) epoch: u32,
    /// Of the answer.
    pub(crate) revision: u64,
}

/// A scheduler's session.
#[derive(Clone, Debug)]
pub(crate) struct Rival {
    pub(crate) session: u64,
    incarnation: u64,
}

impl Rival {
    /// A transaction that claims this machine for these tasks of a job.
    pub(crate) fn claims(&self, number: u64, base: u64, job: u64, machine: &Machine, tasks: &[u32]) -> v1::Transaction {
        let placement = v1::Placement {
            job,
            job_version: 1,
            machines: vec![machine.slot; tasks.len()],
            tasks: tasks.to_vec(),
            ..v1::Placement::default()
        };
        v1::Transaction {
            session: self.session,
            number,
            incarnation: self.incarnation,
            base_revision: base,
            check: v1::ConflictCheck::Fit.into(),
            placements: vec![placement],
            ..v1::Transaction::default()
        }
    }
}

impl Rivals {
    pub(crate) fn new(address: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let endpoint = Endpoint::from_shared(address.to_owned()).unwrap();
        let channel = runtime.block_on(async { endpoint.connect_lazy() });
        Self { runtime, channel }
    }

    /// A machine with room for so many tasks.
    pub(crate) fn machine(&self, name: &str, tasks: i64) -> Result<Machine, Status> {
        let capacity =
            v1::Resources { cpu_millis: tasks * TASK_MILLIS, memory_bytes: 1 << 40, ..v1::Resources::default() };
        let machine = v1::RegisterMachine {
            name: name.to_owned(),
            boot_id: "boot-1".to_owned(),
            capacity: Some(capacity),
            attributes: [("rack".to_owned(), "r1".to_owned())].into(),
            ..v1::RegisterMachine::default()
        };
        let request = v1::RegisterRequest { machine: Some(machine), ..v1::RegisterRequest::default() };
        let mut agents = v1::agents_client::AgentsClient::new(self.channel.clone());
        let answer = self.runtime.block_on(agents.register(request))?.into_inner();
        let slot = MachineId::from_bits(answer.machine).unwrap().slot;
        Ok(Machine { slot, id: answer.machine, epoch: answer.epoch, revision: answer.revision })
    }

    /// Submits a job of so many tasks, and gives its id.
    pub(crate) fn job(&self, name: &str, scheduler: &str, count: u32) -> Result<u64, Status> {
        Ok(self.submit(name, scheduler, count)?.job)
    }

    /// The same, with all of the answer.
    pub(crate) fn submit(&self, name: &str, scheduler: &str, count: u32) -> Result<v1::SubmitResponse, Status> {
        self.submit_with(spec(name, scheduler, count))
    }

    /// The same, of a job that may take the room of the others.
    pub(crate) fn submit_urgent(&self, name: &str, scheduler: &str, count: u32) -> Result<v1::SubmitResponse, Status> {
        let mut spec = spec(name, scheduler, count);
        spec.shape.iter_mut().for_each(|shape| shape.priority = URGENT);
        self.submit_with(spec)
    }

    fn submit_with(&self, spec: v1::JobSpec) -> Result<v1::SubmitResponse, Status> {
        let mut jobs = v1::jobs_client::JobsClient::new(self.channel.clone());
        Ok(self
            .runtime
            .block_on(jobs.submit(v1::SubmitRequest { spec: Some(spec), ..Default::default() }))?
            .into_inner())
    }

    pub(crate) fn open(&self, scheduler: &str) -> Result<Rival, Status> {
        let mut cell = v1::cell_client::CellClient::new(self.channel.clone());
        let request = v1::OpenRequest { scheduler: scheduler.to_owned(), namespace: "default".to_owned() };
        let answer = self.runtime.block_on(cell.open(request))?.into_inner();
        Ok(Rival { session: answer.session, incarnation: answer.incarnation })
    }

    /// Holds room for one task on each of these machines, for a minute; without machines, gives it back.
    pub(crate) fn hold(&self, rival: &Rival, job: u64, machines: &[&Machine]) -> Result<v1::TakeHoldResponse, Status> {
        let request = v1::TakeHoldRequest {
            session: rival.session,
            job,
            machines: machines.iter().map(|machine| machine.slot).collect(),
            resources: Some(v1::Resources { cpu_millis: TASK_MILLIS, ..v1::Resources::default() }),
            within_micros: 60_000_000,
            incarnation: rival.incarnation,
        };
        self.take_hold(request)
    }

    /// The same as an operator, on the machine in this slot, for so long.
    pub(crate) fn hold_for(&self, job: u64, slot: u32, within_micros: i64) -> Result<v1::TakeHoldResponse, Status> {
        let resources = Some(v1::Resources { cpu_millis: TASK_MILLIS, ..v1::Resources::default() });
        let machines = vec![slot];
        self.take_hold(v1::TakeHoldRequest {
            job,
            machines,
            resources,
            within_micros,
            ..v1::TakeHoldRequest::default()
        })
    }

    fn take_hold(&self, request: v1::TakeHoldRequest) -> Result<v1::TakeHoldResponse, Status> {
        let mut cell = v1::cell_client::CellClient::new(self.channel.clone());
        Ok(self.runtime.block_on(cell.take_hold(request))?.into_inner())
    }

    pub(crate) fn commit(&self, transaction: v1::Transaction) -> Result<v1::Outcome, Status> {
        let mut cell = v1::cell_client::CellClient::new(self.channel.clone());
        Ok(self.runtime.block_on(cell.commit(transaction))?.into_inner())
    }

    /// The cell's newest revision.
    pub(crate) fn revision(&self) -> Result<u64, Status> {
        let mut inspect = v1::inspect_client::InspectClient::new(self.channel.clone());
        Ok(self.runtime.block_on(inspect.status(v1::StatusRequest {}))?.into_inner().revision)
    }

    /// Reports as an agent does.
    pub(crate) fn report(&self, report: v1::ReportRequest) -> Result<v1::ReportResponse, Status> {
        let mut agents = v1::agents_client::AgentsClient::new(self.channel.clone());
        Ok(self.runtime.block_on(agents.report(report))?.into_inner())
    }

    /// What was live at a revision.
    pub(crate) fn allocations_at(&self, revision: u64) -> Result<Vec<v1::AllocationView>, Status> {
        let at = Some(v1::At { revision, time_micros: 0 });
        let list = Some(v1::ListRequest { at, limit: 10_000, ..v1::ListRequest::default() });
        let request = v1::ListAllocationsRequest { list, ..v1::ListAllocationsRequest::default() };
        let mut jobs = v1::jobs_client::JobsClient::new(self.channel.clone());
        let answer = self.runtime.block_on(jobs.list_allocations(request))?.into_inner();
        assert!(!answer.truncated, "the test stays below one listing: {}", answer.allocations.len());
        Ok(answer.allocations)
    }

    /// The oldest revision that can be read.
    pub(crate) fn oldest_revision(&self) -> Result<u64, Status> {
        let mut inspect = v1::inspect_client::InspectClient::new(self.channel.clone());
        Ok(self.runtime.block_on(inspect.status(v1::StatusRequest::default()))?.into_inner().oldest_revision)
    }

    pub(crate) fn transactions(
        &self,
        request: v1::ListTransactionsRequest,
    ) -> Result<v1::ListTransactionsResponse, Status> {
        let mut inspect = v1::inspect_client::InspectClient::new(self.channel.clone());
        Ok(self.runtime.block_on(inspect.list_transactions(request))?.into_inner())
    }

    pub(crate) fn transaction(&self, session: u64, number: u64) -> Result<v1::TransactionView, Status> {
        let mut inspect = v1::inspect_client::InspectClient::new(self.channel.clone());
        let request = v1::GetTransactionRequest { session, number };
        Ok(self.runtime.block_on(inspect.get_transaction(request))?.into_inner())
    }
}

/// A job of one group.
fn spec(name: &str, scheduler: &str, count: u32) -> v1::JobSpec {
    let group = v1::GroupShape {
        name: "work".to_owned(),
        count,
        resources: Some(v1::Resources { cpu_millis: TASK_MILLIS, memory_bytes: 1 << 20, ..v1::Resources::default() }),
        lost_after_micros: 60_000_000,
        retry: Some(v1::RetryPolicy { attempts: 3, delay_micros: 0 }),
        ..v1::GroupShape::default()
    };
    let body = v1::GroupBody {
        name: "work".to_owned(),
        driver: "exec".to_owned(),
        command: vec!["/bin/true".to_owned()],
        kill_timeout_micros: 1_000_000,
        ..v1::GroupBody::default()
    };
    let shape = v1::JobShape {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        scheduler: scheduler.to_owned(),
        priority: 50,
        kind: v1::JobKind::ToCompletion.into(),
        groups: vec![group],
        ..v1::JobShape::default()
    };
    v1::JobSpec { shape: Some(shape), body: Some(v1::JobBody { groups: vec![body] }) }
}

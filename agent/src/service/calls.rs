//! Calls to the cell, each in the background: what comes of it arrives in the agent's queue.

use std::{
    net::ToSocketAddrs,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hyper_util::client::legacy::connect::{HttpConnector, dns::Name};
use plenum_model::{AllocationId, MachineId, Unfit};
use plenum_proto::{
    bounds::CONNECTION_WINDOW_BYTES,
    error::{code_of, words},
    v1::{self, agents_client::AgentsClient},
};
use prost::Message;
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};
use tonic::{
    Code, Request, Status as RpcStatus,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};
use tower::service_fn;

use super::AgentError;
use crate::{
    clock::since_boot,
    isolation::Isolation,
    machine::Machine,
    reconciler::{Input, Registration, Status},
    threads::{self, Alarm, on_a_thread},
    traces::Item,
};

/// A call that takes longer has failed; it is repeated.
const CALL_WITHIN: Duration = Duration::from_secs(10);
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// A dead connection is noticed within this and the next after the last word that came on it. Of a lease of the usual 15 s up to a third is left by
/// then for a new one: the later after a renewal the last assignments came, the less. Sooner would cost more: who stands still for longer than the
/// next has its connection cut, and gets the whole set anew.
const ALIVE_EVERY: Duration = Duration::from_secs(5);
const ALIVE_WITHIN: Duration = Duration::from_secs(5);
/// A part of a wanted set has some MiB.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Parts of one message, of some MiB each: more than the tasks that a machine can run need.
const PARTS_MAX: usize = 1024;
/// What an inventory may have of where tasks come from and why they ended, in bytes. With the longest list of bare allocations, of 25 bytes
/// each, a registration stays below the 4 MiB that the cell takes.
const INVENTORY_BYTES_MAX: usize = 2 << 20;
/// Where the cell reads who asks.
const PRINCIPAL_KEY: &str = "plenum-principal";
/// Where it reads which agent of that machine.
const INSTANCE_KEY: &str = "plenum-instance";
/// Where it reads which cell is meant, and says which one it is if it is another.
const CELL_KEY: &str = "plenum-cell";
/// What it says in that case.
const OTHER_CELL: &str = "OTHER_CELL";
/// What it says to an agent that has seen more of it than it has.
const NO_SUCH_REVISION: &str = "NO_SUCH_REVISION";
/// What it says to all but one agent of a machine.
const MACHINE_TAKEN: &str = "MACHINE_TAKEN";

/// Says who asks, and whom.
#[derive(Clone)]
pub(super) struct Principal {
    principal: MetadataValue<Ascii>,
    instance: MetadataValue<Ascii>,
    /// The cell of the agent's tasks, as soon as it has one: whoever listens at the address by then.
    cell: Arc<Mutex<Option<MetadataValue<Ascii>>>>,
}

impl Interceptor for Principal {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, RpcStatus> {
        request.metadata_mut().insert(PRINCIPAL_KEY, self.principal.clone());
        request.metadata_mut().insert(INSTANCE_KEY, self.instance.clone());
        if let Some(cell) = self.cell.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            request.metadata_mut().insert(CELL_KEY, cell);
        }
        Ok(request)
    }
}

pub(super) type Client = AgentsClient<InterceptedService<Channel, Principal>>;

/// What a call brought.
pub(super) enum Arrival {
    Input(Input),
    Registered(v1::RegisterResponse),
    /// Another agent serves this machine; in the cell's words.
    Taken(String),
    /// Tasks can be separated better than before.
    Isolation(Isolation),
    /// Another cell answers at the address; its id in hexadecimal.
    OtherCell(String),
    Assignments {
        machine: MachineId,
        epoch: u32,
        message: v1::Assignments,
    },
}

/// Where the cell is, and who calls it.
#[derive(Clone)]
pub(super) struct Connector {
    endpoint: Endpoint,
    principal: Principal,
}

impl Connector {
    /// A client with a connection of its own, which connects when there is something to say, and again whenever the connection broke.
    pub(super) fn client(&self) -> Client {
        AgentsClient::with_interceptor(self.channel(), self.principal.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn channel(&self) -> Channel {
        // By itself it would look names up on a thread of tokio's, and be of no use any more where the system gave none once.
        let mut http = HttpConnector::new_with_resolver(service_fn(|name: Name| {
            on_a_thread(move || (name.as_str(), 0).to_socket_addrs())
        }));
        http.enforce_http(false);
        http.set_nodelay(true);
        // Not of the endpoint, which would count the lookup, too: that takes as long by itself where the first server of names is down.
        http.set_connect_timeout(Some(CONNECT_WITHIN));
        self.endpoint.connect_with_connector_lazy(http)
    }
}

pub(super) struct Calls {
    connector: Connector,
    client: Client,
    instance: String,
    arrivals: mpsc::Sender<Arrival>,
    /// For a panic of what calls.
    alarm: Alarm,
    following: Option<JoinHandle<()>>,
    /// Assignments could not be followed, and nothing of them has come since.
    unheard: Arc<AtomicBool>,
}

impl Calls {
    /// Calls of a machine's agent.
    pub(super) fn new(
        server: &str,
        machine: &str,
        instance: String,
        arrivals: mpsc::Sender<Arrival>,
        alarm: Alarm,
    ) -> Result<Self, AgentError> {
        let wrong = |message: String| AgentError::Address { address: server.to_owned(), message };
        let endpoint = Endpoint::from_shared(server.to_owned())
            .map_err(|error| wrong(error.to_string()))?
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_keep_alive_interval(ALIVE_EVERY)
            .keep_alive_timeout(ALIVE_WITHIN);
        let principal = format!("agent/{machine}").parse().map_err(|_| wrong("the machine's name".to_owned()))?;
        let value = instance.parse().map_err(|_| wrong("the agent's instance".to_owned()))?;
        let principal = Principal { principal, instance: value, cell: Arc::default() };
        let connector = Connector { endpoint, principal };
        let (client, unheard) = (connector.client(), Arc::default());
        Ok(Self { connector, client, instance, arrivals, alarm, following: None, unheard })
    }

    /// From now on calls are meant for this cell, by its id in hexadecimal; with an empty one, for whoever answers.
    pub(super) fn mean(&self, cell_id: &str) {
        let value = if cell_id.is_empty() { None } else { cell_id.parse().ok() };
        *self.connector.principal.cell.lock().unwrap_or_else(PoisonError::into_inner) = value;
    }

    /// For what must not wait for these calls, nor they for it.
    pub(super) fn connector(&self) -> Connector {
        self.connector.clone()
    }

    /// Of the connection on which all of these are made.
    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    pub(super) fn register(&self, machine: &Machine, inventory: &[Item], (incarnation, revision): (u64, u64)) {
        let named = machine.resources.iter().map(|(name, &value)| (name.clone(), amount(value))).collect();
        let machine = Some(registered_machine(machine, inventory));
        let instance = self.instance.clone();
        let asked_micros = u64::try_from(since_boot().as_micros()).unwrap_or(u64::MAX);
        let request = v1::RegisterRequest { machine, revision, incarnation, instance, named, asked_micros };
        let (mut client, arrivals) = (self.client.clone(), self.arrivals.clone());
        let server = self.connector.endpoint.uri().to_string();
        let call = async move {
            let arrival = match within(client.register(request)).await {
                Ok(response) => Arrival::Registered(response),
                Err(status) if code_of(&status) == MACHINE_TAKEN => Arrival::Taken(status.message().to_owned()),
                Err(status) if code_of(&status) == OTHER_CELL => Arrival::OtherCell(other_cell(&status)),
                Err(status) => {
                    tracing::warn!(server, code = ?status.code(), message = words(&status), "can't register");
                    Arrival::Input(Input::RegisterFailed)
                }
            };
            let _ = arrivals.send(arrival).await;
        };
        drop(threads::spawn("what registers the machine", &self.alarm, call));
    }

    pub(super) fn report(
        &self,
        number: u64,
        (machine, epoch): (MachineId, u32),
        transitions: Vec<(AllocationId, Status)>,
        running: u32,
        unfit: Option<Unfit>,
        (incarnation, revision): (u64, u64),
    ) {
        let request = v1::ReportRequest {
            machine: machine.to_bits(),
            epoch,
            transitions: transitions.into_iter().map(|(allocation, status)| transition(allocation, &status)).collect(),
            telemetry: Some(v1::MachineTelemetry { used: None, tasks: running }),
            unfit: plenum_proto::machines::unfit_to_wire(unfit),
            revision,
            incarnation,
        };
        let (mut client, arrivals) = (self.client.clone(), self.arrivals.clone());
        let call = async move {
            let input = match within(client.report(request)).await {
                Ok(response) => {
                    Input::ReportAnswered { number, revision: response.revision, register: response.register }
                }
                Err(status) => {
                    tracing::warn!(code = ?status.code(), message = words(&status), "can't report");
                    if is_to_register(status.code()) || code_of(&status) == NO_SUCH_REVISION {
                        Input::ReportAnswered { number, revision: 0, register: true }
                    } else {
                        Input::ReportFailed { number }
                    }
                }
            };
            let _ = arrivals.send(Arrival::Input(input)).await;
        };
        drop(threads::spawn("what reports of tasks", &self.alarm, call));
    }

    /// Follows this epoch's assignments instead of what was followed before, of a cell that has what was seen.
    pub(super) fn follow(&mut self, machine: MachineId, epoch: u32, (incarnation, revision): (u64, u64)) {
        if let Some(earlier) = self.following.take() {
            earlier.abort();
        }
        let request = v1::FollowRequest { machine: machine.to_bits(), epoch, revision, incarnation };
        let (client, arrivals, unheard) = (self.client.clone(), self.arrivals.clone(), self.unheard.clone());
        let call = async move {
            let mut input = Input::FollowEnded;
            if let Err(status) = read_assignments(client, request, (machine, epoch), &arrivals, &unheard).await {
                tracing::warn!(code = ?status.code(), message = words(&status), "can't follow assignments");
                unheard.store(true, Ordering::Relaxed);
                if is_to_register(status.code()) || [MACHINE_TAKEN, NO_SUCH_REVISION].contains(&code_of(&status)) {
                    input = Input::FollowRefused { machine, epoch };
                }
            }
            let _ = arrivals.send(Arrival::Input(input)).await;
        };
        self.following = Some(threads::spawn("what follows assignments", &self.alarm, call));
    }
}

/// The cell doesn't know this machine, or this epoch of it, or is another one, as registering will tell.
fn is_to_register(code: Code) -> bool {
    matches!(code, Code::NotFound | Code::FailedPrecondition | Code::Aborted)
}

async fn read_assignments(
    mut client: Client,
    request: v1::FollowRequest,
    (machine, epoch): (MachineId, u32),
    arrivals: &mpsc::Sender<Arrival>,
    unheard: &AtomicBool,
) -> Result<(), RpcStatus> {
    let mut stream = within(client.follow(request)).await?;
    let mut parts = Parts::default();
    while let Some(part) = stream.message().await? {
        let Some(message) = parts.add(part)? else { continue };
        if unheard.swap(false, Ordering::Relaxed) {
            // The warning would be the last word for as long as all is well.
            tracing::info!("follows assignments again");
        }
        if arrivals.send(Arrival::Assignments { machine, epoch, message }).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Parts of a message that is not whole yet.
#[derive(Default)]
struct Parts {
    begun: Option<v1::Assignments>,
    count: usize,
}

impl Parts {
    /// The whole message, with its last part.
    fn add(&mut self, part: v1::Assignments) -> Result<Option<v1::Assignments>, RpcStatus> {
        self.count += 1;
        if self.count > PARTS_MAX {
            return Err(RpcStatus::resource_exhausted(format!("the wanted set has more than {PARTS_MAX} parts")));
        }
        let more = part.more;
        let whole = match self.begun.take() {
            None => v1::Assignments { more: false, ..part },
            Some(mut begun) => {
                begun.wanted.extend(part.wanted);
                begun.stop.extend(part.stop);
                begun.keep.extend(part.keep);
                begun.logs.extend(part.logs);
                begun
            }
        };
        if more {
            self.begun = Some(whole);
            return Ok(None);
        }
        self.count = 0;
        Ok(Some(whole))
    }
}

/// Which cell it was that answered.
fn other_cell(status: &RpcStatus) -> String {
    status.metadata().get(CELL_KEY).and_then(|cell| cell.to_str().ok()).unwrap_or("unknown").to_owned()
}

pub(super) async fn within<T>(
    call: impl Future<Output = Result<tonic::Response<T>, RpcStatus>>,
) -> Result<T, RpcStatus> {
    match timeout(CALL_WITHIN, call).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(RpcStatus::deadline_exceeded(format!("no answer within {} s", CALL_WITHIN.as_secs()))),
    }
}

/// `None` when something in it can't be.
pub(crate) fn registration(response: &v1::RegisterResponse) -> Option<Registration> {
    let millis = |micros: i64| u64::try_from(micros / 1000).ok().filter(|ms| *ms > 0);
    Some(Registration {
        machine: MachineId::from_bits(response.machine)?,
        epoch: response.epoch,
        lease_ms: millis(response.lease_micros)?,
        renew_ms: millis(response.renew_micros)?,
        revision: response.revision,
        incarnation: response.incarnation,
        // Of a reason that this agent does not know it only matters that its own is another.
        unfit: plenum_proto::machines::unfit("unfit", response.unfit).unwrap_or(Some(Unfit::StateUnwritable)),
    })
}

fn amount(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn registered_machine(machine: &Machine, inventory: &[Item]) -> v1::RegisterMachine {
    v1::RegisterMachine {
        name: machine.name.clone(),
        boot_id: machine.boot_id.clone(),
        capacity: Some(v1::Resources {
            cpu_millis: amount(machine.cpu_millis),
            memory_bytes: amount(machine.memory_bytes),
            disk_bytes: amount(machine.disk_bytes),
            custom: Vec::new(),
        }),
        attributes: machine.attributes.clone().into_iter().collect(),
        devices: machine.devices.iter().map(Into::into).collect(),
        inventory: inventory_to_wire(inventory),
        // The server fills it in from the request, if that is of its own incarnation.
        seen_revision: 0,
    }
}

/// Each allocation that is here; of very many, the last ones bare: a registration that is too large would be refused for ever.
fn inventory_to_wire(inventory: &[Item]) -> Vec<v1::InventoryItem> {
    let mut bytes = 0;
    let item = |item: &Item| {
        let whole = item.to_wire();
        bytes += whole.encoded_len();
        if bytes <= INVENTORY_BYTES_MAX {
            whole
        } else {
            v1::InventoryItem { reason: String::new(), restarts: 0, task: None, ..whole }
        }
    };
    inventory.iter().map(item).collect()
}

fn transition(allocation: AllocationId, status: &Status) -> v1::Transition {
    v1::Transition {
        allocation: allocation.to_bits(),
        state: wire_state(status),
        ready: status.ready,
        exit_code: status.exit_code,
        reason: status.reason.to_string(),
        restarts: status.restarts,
    }
}

fn wire_state(status: &Status) -> i32 {
    // The numbers are the same on both sides.
    i32::from(status.state as u8)
}

#[cfg(test)]
mod tests {
    use plenum_model::AllocationState;

    use super::*;
    use crate::{threads::runtime_without_threads, traces::Traces};

    // The server's name could not be looked up, of which a panic was made. No later call was made either, until the agent was started again.
    #[test]
    fn where_the_system_gives_no_thread_a_connection_waits_for_the_servers_address() {
        runtime_without_threads().block_on(async {
            let ((arrivals, _answers), (alarm, _panics)) = (mpsc::channel(1), mpsc::channel(1));
            let calls = Calls::new("http://localhost:1", "m1", "one".to_owned(), arrivals, alarm).expect("an address");
            let mut client = calls.client();
            let asked = timeout(Duration::from_millis(200), client.report(v1::ReportRequest::default())).await;
            assert!(asked.is_err(), "{asked:?}");
        });
    }

    // The cell takes 4 MiB, and refused it each time.
    #[test]
    fn a_registration_of_as_many_tasks_as_can_be_is_one_that_the_cell_takes() {
        let name = "x".repeat(63);
        let traces = Traces { namespace: name.clone(), job: name.clone(), group: name, ..Traces::default() };
        let status = Status {
            state: AllocationState::Failed,
            ready: false,
            exit_code: -1,
            reason: "y".repeat(255).into(),
            restarts: 7,
        };
        let item = |slot| Item {
            allocation: AllocationId { slot, generation: u32::MAX },
            status: status.clone(),
            traces: Some(Box::new(traces.clone())),
        };
        let inventory: Vec<Item> = (0..65_536).map(item).collect();
        let wire = v1::RegisterMachine { inventory: inventory_to_wire(&inventory), ..v1::RegisterMachine::default() };
        assert_eq!(wire.inventory.len(), inventory.len());
        assert_eq!(wire.inventory[0], inventory[0].to_wire());
        assert_eq!(wire.inventory[0].restarts, 7, "what a receipt tells, it tells here too");
        assert!(wire.encoded_len() < (4 << 20) - (256 << 10), "{}", wire.encoded_len());
        let few =
            v1::RegisterMachine { inventory: inventory_to_wire(&inventory[..1000]), ..v1::RegisterMachine::default() };
        assert!(few.inventory.iter().all(|item| item.task.is_some() && !item.reason.is_empty()));
    }
}

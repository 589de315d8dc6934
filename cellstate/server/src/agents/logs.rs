//! Logs of tasks, relayed from agents to readers. Nothing is kept: a bounded channel a reader, and the agent waits for the slowest.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use plenum_model::MachineId;
use plenum_proto::v1;
use tokio::sync::mpsc;

/// Chunks that wait for a reader.
const CHUNKS_MAX: usize = 16;
/// Requests that wait for an agent's stream.
const ASKED_MAX: usize = 64;

/// Why there are no logs (any more).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoLogs {
    /// Too many readers at once.
    TooMany(usize),
    /// The machine's agent is not connected.
    AgentGone,
}

impl fmt::Display for NoLogs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany(most) => write!(f, "{most} readers of logs already; try again when one is done"),
            Self::AgentGone => f.write_str("the machine's agent is not connected; try again when it is back"),
        }
    }
}

/// A piece of a log, or why it ends.
pub(crate) type Chunk = Result<bytes::Bytes, String>;

#[derive(Clone)]
struct Reader {
    machine: u32,
    chunks: mpsc::Sender<Chunk>,
    /// Set before the last sender goes, if the agent has sent all.
    complete: Arc<AtomicBool>,
}

/// What a reader gets.
pub(crate) struct Reading {
    pub(crate) request: u64,
    pub(crate) chunks: mpsc::Receiver<Chunk>,
    complete: Arc<AtomicBool>,
}

impl Reading {
    /// Once `chunks` is at its end: whether that is the log's. Otherwise the agent left in the middle of it.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }
}

/// Where an agent's chunks of a request go.
pub(crate) struct Writing {
    /// The slot of the machine that was asked.
    pub(crate) machine: u32,
    reader: Reader,
}

impl Writing {
    /// False: nobody reads it any more.
    pub(crate) async fn send(&self, chunk: Chunk) -> bool {
        self.reader.chunks.send(chunk).await.is_ok()
    }
}

#[derive(Default)]
struct Relay {
    next: u64,
    readers: BTreeMap<u64, Reader>,
    /// By machine slot: the agent that follows.
    agents: BTreeMap<u32, mpsc::Sender<v1::LogsAsked>>,
}

/// Readers and agents, and who reads what from whom.
pub(crate) struct LogRelay {
    relay: Mutex<Relay>,
    readers_max: usize,
}

impl LogRelay {
    pub(crate) fn new(readers_max: usize) -> Self {
        Self { relay: Mutex::new(Relay::default()), readers_max }
    }

    /// An agent follows: it is asked through this. The one before it, if any, is not asked any more.
    pub(crate) fn agent(&self, machine: MachineId) -> mpsc::Receiver<v1::LogsAsked> {
        let (sender, receiver) = mpsc::channel(ASKED_MAX);
        let mut relay = self.relay.lock();
        relay.agents.insert(machine.slot, sender);
        // What was asked of the agent before is lost with its stream.
        relay.readers.retain(|_, reader| reader.machine != machine.slot);
        receiver
    }

    /// An agent's stream ended: its readers learn it.
    pub(crate) fn agent_left(&self, machine: MachineId) {
        let mut relay = self.relay.lock();
        if relay.agents.get(&machine.slot).is_some_and(mpsc::Sender::is_closed) {
            relay.agents.remove(&machine.slot);
            relay.readers.retain(|_, reader| reader.machine != machine.slot);
        }
    }

    /// Asks a machine's agent for a log.
    pub(crate) fn read(&self, machine: u32, mut asked: v1::LogsAsked) -> Result<Reading, NoLogs> {
        let mut relay = self.relay.lock();
        if relay.readers.len() >= self.readers_max {
            return Err(NoLogs::TooMany(self.readers_max));
        }
        relay.next += 1;
        let request = relay.next;
        asked.request = request;
        let agent = relay.agents.get(&machine).ok_or(NoLogs::AgentGone)?;
        agent.try_send(asked).map_err(|_| NoLogs::AgentGone)?;
        let (chunks, receiver) = mpsc::channel(CHUNKS_MAX);
        let complete = Arc::<AtomicBool>::default();
        relay.readers.insert(request, Reader { machine, chunks, complete: Arc::clone(&complete) });
        Ok(Reading { request, chunks: receiver, complete })
    }

    /// A reader left, or has all.
    pub(crate) fn done(&self, request: u64) {
        let mut relay = self.relay.lock();
        let Some(reader) = relay.readers.remove(&request) else { return };
        if let Some(agent) = relay.agents.get(&reader.machine) {
            // An agent that is not there has nothing to stop.
            let _ = agent.try_send(v1::LogsAsked { request, cancelled: true, ..v1::LogsAsked::default() });
        }
    }

    /// Where an agent's chunks of a request go; `None` if nobody reads it any more.
    pub(crate) fn writing(&self, request: u64) -> Option<Writing> {
        let reader = self.relay.lock().readers.get(&request)?.clone();
        Some(Writing { machine: reader.machine, reader })
    }

    /// The agent has sent all: the reader's channel ends when it was read.
    pub(crate) fn ended(&self, request: u64, writing: &Writing) {
        writing.reader.complete.store(true, Ordering::Release);
        self.relay.lock().readers.remove(&request);
    }

    /// The agent sends nothing more, in the middle: its reader learns it.
    pub(crate) fn broken_off(&self, request: u64) {
        self.relay.lock().readers.remove(&request);
    }
}

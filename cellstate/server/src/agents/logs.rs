//! Logs of tasks, relayed from agents to readers. Nothing is kept: a bounded channel a reader, and the agent waits for the slowest.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use plenum_model::MachineId;
use plenum_proto::v1;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Chunks that wait for a reader.
const CHUNKS_MAX: usize = 16;
/// Readers of one agent at once, and what waits for its stream: a reader has a place in it for the word that it has left, and another one
/// until it was asked for. An agent sends to 64 readers at a time.
const ASKED_MAX: usize = 128;

/// Why there are no logs (any more).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoLogs {
    /// Too many readers at once.
    TooMany(usize),
    /// Too many readers of one agent, or it takes nothing more.
    AgentBusy,
    /// The machine's agent is not connected.
    AgentGone,
}

impl fmt::Display for NoLogs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany(most) => write!(f, "{most} readers of logs already; try again when one is done"),
            Self::AgentBusy => {
                f.write_str("too many readers of logs of that machine already; try again when one is done")
            }
            Self::AgentGone => f.write_str("the machine's agent is not connected; try again when it is back"),
        }
    }
}

/// A piece of a log, or why it ends.
pub(crate) type Chunk = Result<v1::LogChunk, String>;

struct Reader {
    /// Of the machine that was asked.
    machine: u32,
    chunks: mpsc::Sender<Chunk>,
    /// Set before the last sender goes, if the agent has sent all.
    complete: Arc<AtomicBool>,
    /// Its place among what waits for the agent, to say that it has left: that word must not be lost, or the agent would go on for nobody.
    leaving: mpsc::OwnedPermit<v1::LogsAsked>,
}

/// What a reader gets.
pub(crate) struct Reading {
    pub(crate) request: u64,
    pub(crate) chunks: mpsc::Receiver<Chunk>,
    complete: Arc<AtomicBool>,
    /// It counts as a reader until it has read all that waits for it, or left, also where its agent has sent all.
    admitted: Option<OwnedSemaphorePermit>,
}

impl Reading {
    /// Once `chunks` is at its end: whether that is the log's. Otherwise the agent left in the middle of it.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    /// Nothing waits for it any more: another one may read.
    pub(crate) fn end(&mut self) {
        drop(self.admitted.take());
    }
}

/// Where an agent's chunks of a request go.
pub(crate) struct Writing {
    /// The slot of the machine that was asked.
    pub(crate) machine: u32,
    chunks: mpsc::Sender<Chunk>,
    complete: Arc<AtomicBool>,
}

impl Writing {
    /// False: nobody reads it any more.
    pub(crate) async fn send(&self, chunk: Chunk) -> bool {
        self.chunks.send(chunk).await.is_ok()
    }
}

struct Relay {
    last: u64,
    readers: BTreeMap<u64, Reader>,
    /// By machine slot: the agent that follows.
    agents: BTreeMap<u32, mpsc::Sender<v1::LogsAsked>>,
}

/// Readers and agents, and who reads what from whom.
pub(crate) struct LogRelay {
    relay: Mutex<Relay>,
    readers_max: usize,
    /// How many more there may be.
    admits: Arc<Semaphore>,
}

impl LogRelay {
    /// For a server of this term, and for so many readers at once.
    pub(crate) fn new(term: u64, readers_max: usize) -> Self {
        // An agent may still answer what a server before this one asked: no number may be given twice.
        let last = term << 32;
        let relay = Mutex::new(Relay { last, readers: BTreeMap::new(), agents: BTreeMap::new() });
        Self { relay, readers_max, admits: Arc::new(Semaphore::new(readers_max.min(Semaphore::MAX_PERMITS))) }
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
        let admitted = Arc::clone(&self.admits).try_acquire_owned().map_err(|_| NoLogs::TooMany(self.readers_max))?;
        let mut relay = self.relay.lock();
        let agent = relay.agents.get(&machine).ok_or(NoLogs::AgentGone)?;
        let place = || agent.clone().try_reserve_owned().map_err(|full| no_place(&full));
        let (leaving, asking) = (place()?, place()?);
        relay.last += 1;
        let request = relay.last;
        asked.request = request;
        asking.send(asked);
        let (chunks, receiver) = mpsc::channel(CHUNKS_MAX);
        let complete = Arc::<AtomicBool>::default();
        relay.readers.insert(request, Reader { machine, chunks, complete: Arc::clone(&complete), leaving });
        Ok(Reading { request, chunks: receiver, complete, admitted: Some(admitted) })
    }

    /// A reader left, or has all.
    pub(crate) fn done(&self, request: u64) {
        if let Some(reader) = self.relay.lock().readers.remove(&request) {
            // An agent that is not there has nothing to stop.
            reader.leaving.send(v1::LogsAsked { request, cancelled: true, ..v1::LogsAsked::default() });
        }
    }

    /// Where an agent's chunks of a request go; `None` if nobody reads it any more.
    pub(crate) fn writing(&self, request: u64) -> Option<Writing> {
        let relay = self.relay.lock();
        let Reader { machine, chunks, complete, .. } = relay.readers.get(&request)?;
        Some(Writing { machine: *machine, chunks: chunks.clone(), complete: Arc::clone(complete) })
    }

    /// The agent has sent all: the reader's channel ends when it was read.
    pub(crate) fn ended(&self, request: u64, writing: &Writing) {
        writing.complete.store(true, Ordering::Release);
        self.relay.lock().readers.remove(&request);
    }

    /// The agent sends nothing more, in the middle: its reader learns it.
    pub(crate) fn broken_off(&self, request: u64) {
        self.relay.lock().readers.remove(&request);
    }
}

/// Why nothing can be asked of an agent.
fn no_place<T>(error: &TrySendError<T>) -> NoLogs {
    match error {
        TrySendError::Full(_) => NoLogs::AgentBusy,
        TrySendError::Closed(_) => NoLogs::AgentGone,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: MachineId = MachineId { slot: 3, generation: 1 };

    /// What waits for an agent: numbers of requests, and whether they are cancelled.
    fn waiting(asked: &mut mpsc::Receiver<v1::LogsAsked>) -> Vec<(u64, bool)> {
        std::iter::from_fn(|| asked.try_recv().ok()).map(|asked| (asked.request, asked.cancelled)).collect()
    }

    // The word that a reader had left was lost while much waited for the agent. It went on sending, or looking for more to send, as one of
    // the few that it sends to at a time, until the task ended.
    #[test]
    fn an_agent_hears_of_each_reader_that_left_however_many_wait() {
        let relay = LogRelay::new(1, 1000);
        let mut asked = relay.agent(MACHINE);
        let read = || relay.read(MACHINE.slot, v1::LogsAsked::default()).map(|reading| reading.request);
        let mut left: Vec<u64> = (0..20).map(|_| read().unwrap()).collect();
        assert_eq!(waiting(&mut asked).len(), left.len());
        let mut others: Vec<u64> = std::iter::from_fn(|| read().ok()).take(1000).collect();
        assert!(others.len() < 1000, "there is a bound");
        left.extend(others.split_off(others.len() / 2));
        left.iter().for_each(|request| relay.done(*request));
        let heard = waiting(&mut asked);
        let cancelled: Vec<u64> =
            heard.iter().filter(|(_, cancelled)| *cancelled).map(|(request, _)| *request).collect();
        assert_eq!(cancelled, left);
        assert!(read().is_ok());
    }

    // A log that its agent had sent counted as read, and what waited of it for a slow reader was bounded by nothing.
    #[test]
    fn who_has_not_read_all_counts_as_a_reader_also_when_the_agent_has_sent_it() {
        let relay = LogRelay::new(1, 1);
        let mut asked = relay.agent(MACHINE);
        let read = || relay.read(MACHINE.slot, v1::LogsAsked::default());
        let send_all = |request| {
            let writing = relay.writing(request).unwrap();
            (0..CHUNKS_MAX).for_each(|_| writing.chunks.try_send(Ok(v1::LogChunk::default())).unwrap());
            relay.ended(request, &writing);
        };
        let mut first = read().unwrap();
        send_all(first.request);
        assert_eq!(read().err(), Some(NoLogs::TooMany(1)));
        first.end();
        let second = read().unwrap();
        assert_eq!(waiting(&mut asked).len(), 2);
        // Nor does it go with its agent.
        drop(asked);
        relay.agent_left(MACHINE);
        assert_eq!(read().err(), Some(NoLogs::TooMany(1)));
        drop(second);
        assert_eq!(read().err(), Some(NoLogs::AgentGone));
    }
}

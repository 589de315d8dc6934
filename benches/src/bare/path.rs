//! The bare path: a client, a connection on loopback, a decoder, the bare resolver, and a log with one sync a batch, all on this machine's cores.
//!
//! ```text
//! client ──▶ decoder ──▶ resolver ──▶ log: append, sync ──▶ client
//! ```
//!
//! Each is a thread; those that decide and write go before all others where they may, as a cell's do. The log has frames with a checksum and the hash of the frame before, in a file of zeros that is overwritten from the start; one
//! batch is written while the next one is decided. Answers go out when they are durable. There is no history, no session, no authorisation, nobody
//! who watches, and no frame of HTTP.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use prost::Message;

use super::load::RACES;
use super::wire::{Outcome, Transaction};
use super::{Cell, Load};
use crate::disk;
use crate::rate::Counted;

/// The log's file.
const LOG_BYTES: u64 = 64 << 20;
/// A batch of so many bytes takes no further transaction.
const BATCH_BYTES: usize = 1 << 20;
/// What is read from a connection at a time.
const READ_BYTES: usize = 256 << 10;
/// So many transactions of the load come before the rival's next one.
const TURN: u64 = 32;

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) machines: u32,
    /// Claims of a transaction.
    pub(crate) claims: u32,
    /// Unanswered transactions, at most.
    pub(crate) in_flight: usize,
    pub(crate) warm_up: Duration,
    pub(crate) window: Duration,
    pub(crate) windows: usize,
}

/// What happens to the resolver.
enum Input {
    Asked(Vec<Transaction>),
    /// The batch in flight is durable.
    Written,
}

/// On its way to the log.
#[derive(Default)]
struct Batch {
    delta: Vec<u8>,
    outcomes: Vec<Outcome>,
}

/// Runs the load, in a folder of the disk to be measured. Gives granted claims, by window.
pub(crate) fn run(shape: Shape, seed: u64, folder: &Path) -> anyhow::Result<Vec<Counted>> {
    let mut load = Load::new(shape.machines, seed);
    let cell = filled(&mut load, shape.machines, shape.claims)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    let (server, _) = listener.accept()?;
    for end in [&client, &server] {
        end.set_nodelay(true)?;
    }
    let (inputs, taken) = channel();
    let (batches, written) = channel();
    let decoder = {
        let (from, to) = (server.try_clone()?, inputs.clone());
        spawn("bare-decoder", move || decode(from, &to))?
    };
    let resolver = spawn("bare-resolver", move || resolve(cell, &taken, &batches))?;
    let log = {
        let log = Log::make(&folder.join("bare-log"))?;
        spawn("bare-log", move || write(log, &written, &inputs, server))?
    };
    let counted = Client { stream: client, load, shape, base: 0, unanswered: 0, sent: 0, racing: None }.run();
    let joined = (joined(decoder), joined(resolver), joined(log));
    // Where one part fails, the others lose their connections: the client's words are the least telling ones.
    let ((), cell, ()) = (joined.0?, joined.1?, joined.2?);
    let (counted, live) = counted?;
    ensure!(
        cell.live() == live as u64 + u64::from(RACES),
        "{} allocations are live, and {live} of the load are known",
        cell.live()
    );
    let (cpu, memory) = Load::capacity();
    cell.check((cpu.into(), memory))?;
    Ok(counted)
}

fn spawn<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<JoinHandle<anyhow::Result<T>>> {
    Ok(std::thread::Builder::new().name(name.to_owned()).spawn(body)?)
}

fn joined<T>(thread: JoinHandle<anyhow::Result<T>>) -> anyhow::Result<T> {
    thread.join().map_err(|_| anyhow::anyhow!("a thread of the bare path panicked"))?
}

/// A cell in steady state, without a log.
pub(super) fn filled(load: &mut Load, machines: u32, claims: u32) -> anyhow::Result<Cell> {
    let (cpu, memory) = Load::capacity();
    let mut cell = Cell::new(machines, cpu, memory);
    let (mut outcome, mut delta) = (Outcome::default(), Vec::new());
    let race = load.race(0);
    cell.decide(&race, &mut outcome, &mut delta)?;
    load.follow_race(&outcome);
    while load.live() < load.aim() {
        let transaction = load.transaction(cell.revision(), claims, false, false);
        delta.clear();
        cell.decide(&transaction, &mut outcome, &mut delta)?;
        load.follow(&outcome);
    }
    Ok(cell)
}

/// Takes messages off the front of `buffer`, each behind its length.
fn take<M: Message + Default>(buffer: &mut Vec<u8>) -> anyhow::Result<Vec<M>> {
    let (mut messages, mut at) = (Vec::new(), 0);
    while let Some(head) = buffer.get(at..at + 4) {
        let length = u32::from_le_bytes(head.try_into().expect("four bytes")) as usize;
        let Some(body) = buffer.get(at + 4..at + 4 + length) else { break };
        messages.push(M::decode(body)?);
        at += 4 + length;
    }
    buffer.drain(..at);
    Ok(messages)
}

fn put(message: &impl Message, into: &mut Vec<u8>) -> anyhow::Result<()> {
    into.extend(u32::try_from(message.encoded_len())?.to_le_bytes());
    message.encode(into)?;
    Ok(())
}

/// Reads what has come, at least something. False at the end.
fn read_more(stream: &mut TcpStream, piece: &mut [u8], buffer: &mut Vec<u8>) -> anyhow::Result<bool> {
    let read = stream.read(piece)?;
    buffer.extend_from_slice(&piece[..read]);
    Ok(read > 0)
}

fn decode(mut from: TcpStream, to: &Sender<Input>) -> anyhow::Result<()> {
    let (mut piece, mut buffer) = (vec![0; READ_BYTES], Vec::new());
    while read_more(&mut from, &mut piece, &mut buffer)? {
        let messages = take(&mut buffer)?;
        if !messages.is_empty() && to.send(Input::Asked(messages)).is_err() {
            break;
        }
    }
    // The client is gone: an empty one ends the resolver.
    drop(to.send(Input::Asked(Vec::new())));
    Ok(())
}

fn resolve(mut cell: Cell, inputs: &Receiver<Input>, batches: &Sender<Batch>) -> anyhow::Result<Cell> {
    plenum_server::step_forward();
    let (mut building, mut waiting, mut is_writing) = (Batch::default(), VecDeque::new(), false);
    loop {
        let has_room = building.delta.len() < BATCH_BYTES;
        let mut input = if waiting.is_empty() || !has_room { Some(inputs.recv()?) } else { inputs.try_recv().ok() };
        while let Some(next) = input {
            match next {
                Input::Written => is_writing = false,
                Input::Asked(asked) if asked.is_empty() => return Ok(cell),
                Input::Asked(asked) => waiting.extend(asked),
            }
            input = inputs.try_recv().ok();
        }
        while building.delta.len() < BATCH_BYTES
            && let Some(transaction) = waiting.pop_front()
        {
            let mut outcome = Outcome::default();
            cell.decide(&transaction, &mut outcome, &mut building.delta)?;
            building.outcomes.push(outcome);
        }
        if !is_writing && !building.outcomes.is_empty() {
            batches.send(std::mem::take(&mut building)).context("the log ended")?;
            is_writing = true;
        }
    }
}

/// Frames in a file of zeros, overwritten from the start.
struct Log {
    file: File,
    at: u64,
    hash: blake3::Hash,
    frame: Vec<u8>,
}

impl Log {
    fn make(path: &Path) -> anyhow::Result<Self> {
        let file = disk::file_of_zeros(path, BATCH_BYTES, LOG_BYTES / BATCH_BYTES as u64)?;
        std::fs::remove_file(path)?;
        Ok(Self { file, at: 0, hash: blake3::hash(&[]), frame: Vec::new() })
    }

    fn append_and_sync(&mut self, delta: &[u8]) -> anyhow::Result<()> {
        self.frame.clear();
        self.frame.extend((delta.len() as u64).to_le_bytes());
        self.frame.extend(self.hash.as_bytes());
        self.frame.extend_from_slice(delta);
        let checksum = crc32fast::hash(&self.frame);
        self.frame.extend(checksum.to_le_bytes());
        self.hash = blake3::hash(&self.frame);
        let length = self.frame.len() as u64;
        if self.at + length > LOG_BYTES {
            self.at = 0;
        }
        self.file.write_all_at(&self.frame, self.at)?;
        self.file.sync_data()?;
        self.at += length;
        Ok(())
    }
}

fn write(mut log: Log, batches: &Receiver<Batch>, done: &Sender<Input>, mut to: TcpStream) -> anyhow::Result<()> {
    plenum_server::step_forward();
    let mut answers = Vec::new();
    while let Ok(batch) = batches.recv() {
        log.append_and_sync(&batch.delta)?;
        // The resolver may hand on the next one while the answers of this one go out.
        drop(done.send(Input::Written));
        answers.clear();
        for outcome in &batch.outcomes {
            put(outcome, &mut answers)?;
        }
        to.write_all(&answers)?;
    }
    Ok(())
}

/// Sends whenever it may.
struct Client {
    stream: TcpStream,
    load: Load,
    shape: Shape,
    /// The newest revision that was answered.
    base: u64,
    unanswered: usize,
    sent: u64,
    /// The number of the rival's transaction under way.
    racing: Option<u64>,
}

impl Client {
    /// Gives granted claims by window, and how many allocations of the load are live at the end.
    fn run(mut self) -> anyhow::Result<(Vec<Counted>, usize)> {
        let (mut windows, mut granted) = (Vec::new(), 0);
        let (mut since, mut until) = (Instant::now(), self.shape.warm_up);
        let (mut piece, mut buffer) = (vec![0; READ_BYTES], Vec::new());
        let mut is_warm = false;
        while windows.len() < self.shape.windows {
            self.send()?;
            ensure!(read_more(&mut self.stream, &mut piece, &mut buffer)?, "the server is gone");
            granted += self.follow(&mut buffer)?;
            if since.elapsed() >= until {
                if is_warm {
                    windows.push(Counted { count: granted, seconds: since.elapsed().as_secs_f64() });
                }
                (is_warm, granted, since, until) = (true, 0, Instant::now(), self.shape.window);
            }
        }
        while self.unanswered > 0 {
            ensure!(read_more(&mut self.stream, &mut piece, &mut buffer)?, "the server is gone");
            self.follow(&mut buffer)?;
        }
        self.stream.shutdown(std::net::Shutdown::Write)?;
        Ok((windows, self.load.live()))
    }

    fn send(&mut self) -> anyhow::Result<()> {
        let mut bytes = Vec::new();
        while self.unanswered < self.shape.in_flight {
            let race = self.sent.is_multiple_of(TURN) && self.racing.is_none();
            let transaction = match race {
                true => self.load.race(self.base),
                false => self.load.transaction(self.base, self.shape.claims, true, true),
            };
            if race {
                self.racing = Some(transaction.number);
            }
            put(&transaction, &mut bytes)?;
            self.unanswered += 1;
            self.sent += 1;
        }
        self.stream.write_all(&bytes)?;
        Ok(())
    }

    /// Granted claims in what has come; the rival's do not count.
    fn follow(&mut self, buffer: &mut Vec<u8>) -> anyhow::Result<u64> {
        let mut granted = 0;
        for outcome in take::<Outcome>(buffer)? {
            self.unanswered -= 1;
            ensure!(outcome.revision > self.base, "answers came out of order");
            self.base = outcome.revision;
            if self.racing == Some(outcome.number) {
                self.racing = None;
                self.load.follow_race(&outcome);
                continue;
            }
            granted += outcome.allocations.iter().filter(|id| **id != 0).count() as u64;
            self.load.follow(&outcome);
        }
        Ok(granted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_answered_is_what_the_cell_has() {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let millis = Duration::from_millis;
        let shape =
            Shape { machines: 64, claims: 20, in_flight: 8, warm_up: millis(20), window: millis(40), windows: 2 };
        let windows = run(shape, 7, folder.path()).unwrap();
        assert_eq!(windows.len(), 2);
        assert!(windows.iter().all(|window| window.count > 0));
    }
}

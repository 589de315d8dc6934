//! Sending what tasks printed to those who asked the cell for it.

use std::{
    collections::BTreeMap,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    time::{Duration, Instant},
};

use plenum_model::AllocationId;
use plenum_proto::{
    error::{code_of, words},
    v1,
};
use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::calls::{Client, Connector, within};
use crate::{
    directories::{AgentDirectory, AllocationDirectory},
    logs,
    threads::{on_a_thread, said},
};

/// Readers at once; more are told to come back.
const UPLOADS_MAX: usize = 64;
const CHUNK_BYTES_MAX: usize = 32 << 10;
/// Chunks that wait for the cell.
const CHUNKS_MAX: usize = 4;
/// How soon a reader who follows sees a new line. Only looked for while somebody follows.
const LOOKED_FOR_EVERY: Duration = Duration::from_millis(100);
/// What the cell says of a request whose reader has left.
const READER_GONE: &str = "READER_GONE";
/// Who reads of an allocation that is not here may have been faster than the word that it is wanted. Longer than that takes.
const AWAITED_FOR: Duration = Duration::from_secs(2);

/// What this agent knows of an allocation that somebody follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Not heard of (any more).
    Unknown,
    /// More may come.
    Held,
    /// Nothing more comes. It may have ended without a directory.
    Over,
}

struct Upload {
    allocation: u64,
    standing: watch::Sender<Standing>,
    task: AbortHandle,
}

pub(super) struct LogUploads {
    directory: AgentDirectory,
    connector: Connector,
    /// Of the connection that is there anyway: for a word when there is none to be had.
    client: Client,
    running: BTreeMap<u64, Upload>,
}

impl LogUploads {
    pub(super) fn new(directory: AgentDirectory, connector: Connector, client: Client) -> Self {
        Self { directory, connector, client, running: BTreeMap::new() }
    }

    /// To be called whenever something may have changed of the allocations that are here.
    pub(super) fn look(&mut self, is_held: impl Fn(AllocationId) -> bool) {
        self.running.retain(|_, upload| !upload.task.is_finished());
        for upload in self.running.values() {
            let held = AllocationId::from_bits(upload.allocation).is_some_and(&is_held);
            upload.standing.send_if_modified(|standing| {
                let now = match (*standing, held) {
                    (_, true) => Standing::Held,
                    (Standing::Held, false) => Standing::Over,
                    (before, false) => before,
                };
                std::mem::replace(standing, now) != now
            });
        }
    }

    /// The stream through which they were asked for is replaced, and with it the cell forgets its readers: it won't say of any that it left. One that
    /// follows a quiet log would never hear of it, and keep its place for ever.
    pub(super) fn end_all(&mut self) {
        for upload in std::mem::take(&mut self.running).into_values() {
            upload.task.abort();
        }
    }

    /// Answers it, or stops answering. [`Self::look`] is to follow.
    pub(super) fn asked(&mut self, asked: &v1::LogsAsked) {
        self.running.retain(|_, upload| !upload.task.is_finished());
        if asked.cancelled {
            if let Some(upload) = self.running.remove(&asked.request) {
                upload.task.abort();
            }
            return;
        }
        if self.running.contains_key(&asked.request) {
            return;
        }
        let (chunks, sent) = mpsc::channel(CHUNKS_MAX);
        let (asked, directory, connector) = (*asked, self.directory.clone(), self.connector.clone());
        let complaints = self.client.clone();
        let too_many = self.running.len() >= UPLOADS_MAX;
        let (standing, watched) = watch::channel(Standing::Unknown);
        let upload = tokio::spawn(async move {
            let reading = async move {
                let outcome = if too_many {
                    Err(format!("this machine sends logs to {UPLOADS_MAX} readers already: try again later"))
                } else {
                    send(&directory, &asked, &chunks, &watched).await
                };
                let error = outcome.err().unwrap_or_default();
                let last = v1::SendLogsRequest { request: asked.request, end: true, error, ..Default::default() };
                let _ = chunks.send(last).await;
            };
            // On a connection of its own: what a reader leaves unread fills its window, and reports and other readers would wait behind it.
            let mut client = connector.client();
            // The reader is dropped when the cell ends the call.
            let call = client.send_logs(ReceiverStream::new(sent));
            let (_, answer) = tokio::join!(reading, call);
            if let Err(status) = answer {
                broke_off(complaints, asked.request, &status).await;
            }
        });
        self.running
            .insert(asked.request, Upload { allocation: asked.allocation, standing, task: upload.abort_handle() });
    }
}

/// A call ended early. Where the reader has not left, it is told: the cell may have heard nothing of the call.
async fn broke_off(mut client: Client, request: u64, status: &Status) {
    if code_of(status) == READER_GONE {
        tracing::debug!(message = status.message(), "a reader of logs left");
        return;
    }
    tracing::warn!(code = ?status.code(), message = words(status), "a log could not be sent");
    let error = format!("the machine's agent could not send it: {}", words(status));
    let last = v1::SendLogsRequest { request, end: true, error, ..Default::default() };
    // A cell that can't be reached at all has told its readers that the agent is gone.
    drop(within(client.send_logs(tokio_stream::iter([last]))).await);
}

async fn send(
    directory: &AgentDirectory,
    asked: &v1::LogsAsked,
    chunks: &mpsc::Sender<v1::SendLogsRequest>,
    standing: &watch::Receiver<Standing>,
) -> Result<(), String> {
    let allocation = AllocationId::from_bits(asked.allocation).ok_or("expected an allocation's id")?;
    let files = directory.allocation(allocation);
    let stream = if asked.stderr { "stderr" } else { "stdout" };
    // Looked at once, before anybody hears of this call: what is printed from here on is new.
    let root: PathBuf = files.root().to_owned();
    let (lines, from) = (asked.tail_lines, root.clone());
    let failed = |error: io::Error| format!("{allocation}: reading its {stream}: {error}");
    let there = read(move || logs::tail(&from, stream, lines)).await.map_err(failed)?;
    let mut offset = match (asked.from, asked.only_new, lines) {
        (Some(from), ..) => from,
        (None, true, _) => there.end,
        // All of it: that the beginning is not kept any more is told as any other gap. So is that nothing is.
        (None, false, _) if lines == 0 || there.is_empty() => 0,
        (None, false, _) => there.start,
    };
    // The cell knows by it which reader this call is for, and tells that one when the call breaks off before there is a line.
    let first = v1::SendLogsRequest { request: asked.request, next: Some(offset), ..v1::SendLogsRequest::default() };
    if chunks.send(first).await.is_err() {
        return Ok(());
    }
    let nothing_kept = || Err(format!("{allocation}: nothing of it is kept on this machine (any more)"));
    if !asked.follow && !is_there(root.clone()).await {
        return nothing_kept();
    }
    let asked_at = Instant::now();
    // Who doesn't follow gets what is there now: a loud task prints faster than anybody reads.
    let until = if asked.follow { u64::MAX } else { there.end };
    loop {
        // Looked at first: what was printed before the end is read after it.
        let now = *standing.borrow();
        let ended = match now {
            Standing::Held => has_ended(&files).await,
            Standing::Unknown => has_ended(&files).await || asked_at.elapsed() > AWAITED_FOR,
            Standing::Over => true,
        };
        let from = root.clone();
        let most = usize::try_from(until.saturating_sub(offset)).unwrap_or(usize::MAX).min(CHUNK_BYTES_MAX);
        let (mut data, next) = read(move || logs::read_at(&from, stream, offset, most)).await.map_err(failed)?;
        // What was rotated away before it was read, of what was asked for; what came after that was not.
        let begin = next.saturating_sub(data.len() as u64);
        let skipped = begin.min(until).saturating_sub(offset);
        data.truncate(usize::try_from(until.saturating_sub(begin)).unwrap_or(usize::MAX));
        let next = begin.saturating_add(data.len() as u64).min(until).max(offset);
        // What comes next is told with what was skipped before it: a file may be there before its first line. Behind the last line it is told by itself.
        if !data.is_empty() || (skipped > 0 && (ended || !asked.follow)) {
            offset = next;
            let (request, next) = (asked.request, Some(next));
            let chunk = v1::SendLogsRequest { request, data: data.into(), skipped, next, ..Default::default() };
            if chunks.send(chunk).await.is_err() {
                return Ok(());
            }
        } else if !asked.follow || ended {
            return if is_there(root.clone()).await { Ok(()) } else { nothing_kept() };
        } else {
            tokio::time::sleep(LOOKED_FOR_EVERY).await;
            if chunks.is_closed() {
                return Ok(());
            }
        }
    }
}

async fn has_ended(files: &AllocationDirectory) -> bool {
    is_there(files.ended()).await
}

async fn is_there(path: PathBuf) -> bool {
    read(move || Ok(path.exists())).await.unwrap_or_default()
}

/// Asks the disk on another thread. It may not answer, and on this one the agent keeps its lease. A panic is told to the reader, too: it is that of one
/// log, and the agent goes on. Where the reader leaves first, no thread is asked for any more.
async fn read<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    let caught = on_a_thread(move || catch_unwind(AssertUnwindSafe(work))).await;
    caught.unwrap_or_else(|panic| Err(io::Error::other(format!("the agent panicked: {}", said(&*panic)))))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{fs, io::Write};

    use super::*;
    use crate::threads::runtime_without_threads;

    /// An agent's directory with a folder for an allocation, which is the last one.
    fn place() -> (tempfile::TempDir, AgentDirectory, AllocationId, PathBuf) {
        let place = tempfile::tempdir().unwrap();
        let directory = AgentDirectory::new(place.path().to_owned());
        let allocation = AllocationId { slot: 1, generation: 1 };
        let root = directory.allocation(allocation).root().to_owned();
        fs::create_dir_all(&root).unwrap();
        (place, directory, allocation, root)
    }

    // Who read of a loud task without following it was not told that the beginning was gone.
    #[tokio::test]
    async fn who_reads_what_is_kept_hears_that_the_beginning_is_not() {
        let (_place, directory, allocation, root) = place();
        fs::write(root.join("stdout-100.log"), "7\n8\n").unwrap();
        let asked = v1::LogsAsked { allocation: allocation.to_bits(), ..Default::default() };
        let read = async |asked: v1::LogsAsked| {
            let (chunks, mut sent) = mpsc::channel(8);
            let (_standing, watched) = watch::channel(Standing::Held);
            send(&directory, &asked, &chunks, &watched).await.unwrap();
            drop(chunks);
            let mut received = Vec::new();
            while let Some(chunk) = sent.recv().await {
                received.push((chunk.skipped, chunk.data));
            }
            received
        };
        let first = (0, "".into());
        assert_eq!(read(asked).await, [first.clone(), (100, "7\n8\n".into())]);
        // Who wants the last lines has them.
        assert_eq!(read(v1::LogsAsked { tail_lines: 1, ..asked }).await, [first.clone(), (0, "8\n".into())]);
        // It is all rotated away while it is read: what comes after it was not asked for.
        let (chunks, mut sent) = mpsc::channel(1);
        let (_standing, watched) = watch::channel(Standing::Held);
        let long = "7\n".repeat(4 * CHUNK_BYTES_MAX);
        fs::write(root.join("stdout-100.log"), &long).unwrap();
        let sending = tokio::spawn({
            let directory = directory.clone();
            async move { send(&directory, &asked, &chunks, &watched).await }
        });
        let greeting = sent.recv().await.unwrap();
        assert!(greeting.data.is_empty());
        let (mut told, mut got) = (0, Vec::new());
        let first_part = sent.recv().await.unwrap();
        fs::write(root.join("stdout-90000000.log"), "8\n").unwrap();
        fs::remove_file(root.join("stdout-100.log")).unwrap();
        let mut chunk = Some(first_part);
        while let Some(part) = chunk {
            told += part.skipped;
            got.extend_from_slice(&part.data);
            chunk = sent.recv().await;
        }
        sending.await.unwrap().unwrap();
        assert!(!got.contains(&b'8') && got.len() < long.len(), "{} bytes", got.len());
        assert_eq!(told + got.len() as u64, 100 + long.len() as u64);
        fs::rename(root.join("stdout-90000000.log"), root.join("stdout-100.log")).unwrap();
        // It was all rotated away, and the next file is still empty; or it was given up. Who wants the last lines hears of that as well.
        fs::remove_file(root.join("stdout-100.log")).unwrap();
        fs::write(root.join("stdout-200.log"), "").unwrap();
        assert_eq!(read(asked).await, [first.clone(), (200, "".into())]);
        assert_eq!(read(v1::LogsAsked { tail_lines: 1, ..asked }).await, [first, (200, "".into())]);
    }

    #[tokio::test]
    async fn who_says_where_it_was_goes_on_there_and_hears_where_it_is() {
        let (_place, directory, allocation, root) = place();
        fs::write(root.join("stdout-100.log"), "7\n8\n").unwrap();
        let read = async |from| {
            let (chunks, mut sent) = mpsc::channel(8);
            let (_standing, watched) = watch::channel(Standing::Held);
            let (allocation, only_new) = (allocation.to_bits(), true);
            let asked = v1::LogsAsked { allocation, from, tail_lines: 1, only_new, ..Default::default() };
            send(&directory, &asked, &chunks, &watched).await.unwrap();
            drop(chunks);
            let mut received = Vec::new();
            while let Some(chunk) = sent.recv().await {
                received.push((chunk.next.unwrap(), chunk.skipped, chunk.data));
            }
            received
        };
        assert_eq!(read(Some(102)).await, [(102, 0, "".into()), (104, 0, "8\n".into())]);
        assert_eq!(read(Some(90)).await, [(90, 0, "".into()), (104, 10, "7\n8\n".into())], "what is gone is told");
        for end in [104, 105, u64::MAX] {
            assert_eq!(read(Some(end)).await, [(end, 0, "".into())]);
        }
        let all = [(0, 0, "".into()), (104, 100, "7\n8\n".into())];
        assert_eq!(read(Some(0)).await, all, "who was there before anything was printed");
        assert_eq!(read(None).await, [(104, 0, "".into())], "nowhere: the others count");
    }

    // What comes of a place behind the end was told nowhere, and tested of who does not follow alone.
    #[tokio::test]
    async fn who_follows_from_a_place_behind_the_end_gets_what_is_printed_from_there_on() {
        let (_place, directory, allocation, root) = place();
        let path = root.join("stdout-0.log");
        fs::write(&path, "one\n").unwrap();
        let (chunks, mut sent) = mpsc::channel(1);
        let (standing, watched) = watch::channel(Standing::Held);
        let (bits, from) = (allocation.to_bits(), Some(8));
        let asked = v1::LogsAsked { allocation: bits, follow: true, from, ..Default::default() };
        let sending = tokio::spawn(async move { send(&directory, &asked, &chunks, &watched).await });
        assert_eq!(sent.recv().await.unwrap().next, from, "nothing is there yet");
        let mut file = fs::File::options().append(true).open(&path).unwrap();
        file.write_all(b"two\n").unwrap();
        tokio::time::sleep(2 * LOOKED_FOR_EVERY).await;
        file.write_all(b"three\n").unwrap();
        let chunk = sent.recv().await.unwrap();
        assert_eq!((chunk.next, chunk.skipped, chunk.data), (Some(14), 0, "three\n".into()));
        standing.send_replace(Standing::Over);
        assert!(sent.recv().await.is_none());
        sending.await.unwrap().unwrap();
    }

    // Who asked a task that prints without end for its last two lines got hundreds of megabytes.
    #[tokio::test]
    async fn who_does_not_follow_gets_what_was_there() {
        let (_place, directory, allocation, root) = place();
        let path = root.join("stdout-0.log");
        let line = "again and again and again\n";
        fs::write(&path, line.repeat(5000)).unwrap();
        let (chunks, mut sent) = mpsc::channel(1);
        let (_standing, watched) = watch::channel(Standing::Held);
        let asked = v1::LogsAsked { allocation: allocation.to_bits(), tail_lines: 3000, ..v1::LogsAsked::default() };
        let sending = tokio::spawn(async move { send(&directory, &asked, &chunks, &watched).await });
        let mut received = 0;
        while let Some(chunk) = sent.recv().await {
            received += chunk.data.len();
            assert!(received <= 3000 * line.len(), "what was printed later is not asked for");
            // The task prints more than anybody reads.
            let mut file = fs::File::options().append(true).open(&path).unwrap();
            file.write_all(line.repeat(3000).as_bytes()).unwrap();
        }
        sending.await.unwrap().unwrap();
        assert_eq!(received, 3000 * line.len());
    }

    // Whoever followed a log on a file server that was gone silenced the agent. Its lease ran out, and its tasks ran elsewhere, too.
    #[test]
    fn who_waits_for_a_disk_that_does_not_answer_keeps_no_others_waiting() {
        let place = tempfile::tempdir().unwrap();
        let files = AgentDirectory::new(place.path().to_owned()).allocation(AllocationId { slot: 1, generation: 1 });
        fs::create_dir_all(files.root()).unwrap();
        fs::write(files.ended(), "").unwrap();
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().max_blocking_threads(1).build().unwrap();
        runtime.block_on(async {
            let (answer, disk) = std::sync::mpsc::channel::<()>();
            // The only thread that may wait for the disk does so until the sender is gone.
            drop(tokio::task::spawn_blocking(move || disk.recv()));
            let mut ended = std::pin::pin!(has_ended(&files));
            let has_waited = tokio::select! {
                biased;
                _ = &mut ended => true,
                () = std::future::ready(()) => false,
            };
            assert!(!has_waited, "the disk was asked on the only thread of the agent");
            drop(answer);
            assert!(ended.await);
        });
    }

    // It took two questions, for the last line and for what follows: a line that was printed in between looked like the old one where both
    // said the same, and was lost.
    #[tokio::test]
    async fn who_wants_only_what_is_new_gets_each_line_from_then_on() {
        let (_place, directory, allocation, root) = place();
        let path = root.join("stdout-0.log");
        fs::write(&path, "again\nand").unwrap();
        let (chunks, mut sent) = mpsc::channel(1);
        let (standing, watched) = watch::channel(Standing::Held);
        let bits = allocation.to_bits();
        let asked =
            v1::LogsAsked { allocation: bits, tail_lines: 1, only_new: true, follow: true, ..Default::default() };
        let sending = tokio::spawn(async move { send(&directory, &asked, &chunks, &watched).await });
        assert!(sent.recv().await.unwrap().data.is_empty(), "the cell knows whose call it is");
        let mut file = fs::File::options().append(true).open(&path).unwrap();
        file.write_all(b" again\nagain\n").unwrap();
        let mut received = Vec::new();
        while received.len() < 13 {
            received.extend_from_slice(&sent.recv().await.unwrap().data);
        }
        assert_eq!(received, b" again\nagain\n");
        standing.send_replace(Standing::Over);
        assert!(sent.recv().await.is_none());
        sending.await.unwrap().unwrap();
    }

    // The call broke off, and whoever read heard neither why nor that the machine's agent was there.
    #[tokio::test]
    async fn a_panic_over_a_log_is_told_to_who_reads_it() {
        let told = read::<()>(|| panic!("no such line")).await.unwrap_err().to_string();
        assert_eq!(told, "the agent panicked: no such line");
    }

    // Where the system gave no thread, a task went on asking for one for each reader who had left.
    #[test]
    fn where_a_reader_leaves_before_there_is_a_thread_none_is_asked_for_any_more() {
        runtime_without_threads().block_on(async {
            let reading = tokio::time::timeout(Duration::from_millis(50), read(|| Ok(7)));
            assert!(reading.await.is_err(), "there is none");
            tokio::task::yield_now().await;
            assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0);
        });
    }

    // Lines were missing, and nobody said so.
    #[tokio::test]
    async fn who_follows_hears_of_what_was_rotated_away_before_it_was_read() {
        let (_place, directory, allocation, root) = place();
        let asked = v1::LogsAsked { allocation: allocation.to_bits(), follow: true, ..Default::default() };
        let (chunks, mut sent) = mpsc::channel(1);
        let (standing, watched) = watch::channel(Standing::Held);
        fs::write(root.join("stdout-20.log"), "one\n").unwrap();
        let sending = tokio::spawn(async move { send(&directory, &asked, &chunks, &watched).await });
        let mut received = Vec::new();
        for (begins_at, line) in [(100, "two\n"), (104, "three\n")] {
            while received.len() < 1 + usize::from(begins_at > 100) {
                let chunk = sent.recv().await.unwrap();
                received.extend((!chunk.data.is_empty()).then_some((chunk.skipped, chunk.data)));
            }
            // It was looked at just between the two, and what was skipped was told to nobody.
            let file = root.join(format!("stdout-{begins_at}.log"));
            fs::write(&file, "").unwrap();
            tokio::time::sleep(2 * LOOKED_FOR_EVERY).await;
            fs::write(&file, line).unwrap();
        }
        while received.len() < 3 {
            received.push(sent.recv().await.map(|chunk| (chunk.skipped, chunk.data)).unwrap());
        }
        fs::write(root.join("stdout-120.log"), "").unwrap();
        standing.send_replace(Standing::Over);
        while let Some(chunk) = sent.recv().await {
            received.push((chunk.skipped, chunk.data));
        }
        sending.await.unwrap().unwrap();
        let last = (10, "".into());
        assert_eq!(received, [(20, "one\n".into()), (76, "two\n".into()), (0, "three\n".into()), last]);
    }
}

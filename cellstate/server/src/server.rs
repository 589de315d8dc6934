//! Starting, serving and ending.

use std::io::{Seek, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use plenum_core::Core;
use plenum_model::{Command, Decision};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::commit::Committer;
use crate::engine::{self, ClockGap, Feed, Threads};
use crate::error::ServerError;
use crate::options::ServerOptions;
use crate::recovery::{self, Opened};
use crate::shared::{Parts, Shared};
use crate::{api, listen, tasks};

/// How long connections may take to end after they were told to.
const ENDING_PATIENCE: Duration = Duration::from_millis(500);
/// How often, a millisecond apart, is looked whether all streams have ended.
const RELEASE_LOOKS_MAX: u32 = 2000;
/// The file that holds the address.
pub(crate) const ADDRESS: &str = "address";
/// What a server logs, as an error, that serves at the port that it was given, and cannot write its address into its directory.
pub const ADDRESS_NOT_TOLD: &str = "the address can't be told in a file";

/// Bytes of a call that may come before they are read, beside those of its connection
/// ([`CONNECTION_WINDOW_BYTES`](plenum_proto::bounds::CONNECTION_WINDOW_BYTES)). It bounds what callers who do not read their answers keep here: times
/// 16 calls on each of 4,096 connections and 32,768 more, 24 GiB. Four times as much is the library's default. The largest message comes in sixteen of
/// these, each of which is let in once half of the one before it was read: over loopback that is at once.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 256 << 10;

/// Threads that serve connections, at least and at most: one that is busy with a large answer must not stop all others, and the thread that
/// decides can be kept busy by some few.
const SERVING_THREADS: std::ops::RangeInclusive<usize> = 2..=16;

/// The event loop that a server runs on: on half of the cores. Deciding, syncing, publishing and the history have threads of their own.
///
/// # Errors
/// The system's, when threads can't be started.
pub fn event_loop() -> std::io::Result<tokio::runtime::Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    tokio::runtime::Builder::new_multi_thread().worker_threads(serving_threads(cores)).enable_all().build()
}

fn serving_threads(cores: usize) -> usize {
    (cores / 2).clamp(*SERVING_THREADS.start(), *SERVING_THREADS.end())
}

/// What is waited for, with its type left out: an `async fn` would be compiled once more in each crate that waits for it, and with it all that serves
/// connections, which is a third of the programs.
pub type Waiting<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Runs a server until SIGTERM or SIGINT, or until it fails. Needs a tokio runtime, such as [`event_loop`]; its other threads are its own.
///
/// # Errors
/// Why it did not start, or ended by itself.
pub fn run(options: ServerOptions) -> Waiting<'static, Result<(), ServerError>> {
    Box::pin(serve_until_asked(options))
}

async fn serve_until_asked(options: ServerOptions) -> Result<(), ServerError> {
    use tokio::signal::unix::{SignalKind, signal};
    // A file that may not grow is an error of the write then, as on a full disk, and not the end of the process.
    let file_size = signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()));
    if let Err(error) = file_size {
        tracing::warn!(%error, "a limit on the size of files would kill the server");
    }
    let (dir, port) = (options.dir.clone(), options.listen.port());
    let handle = Server::serve(options).await?;
    // Before the address is told: whoever reads it may ask for the end at once, and that end must be an orderly one.
    let signals = signal(SignalKind::terminate()).and_then(|term| Ok((term, signal(SignalKind::interrupt())?)));
    let handle = handle.announced(&dir, port).await?;
    let asked_to_end = async {
        let Ok((mut term, mut interrupt)) = signals else {
            tracing::warn!("signals can't be waited for");
            return std::future::pending().await;
        };
        tokio::select! {
            _ = term.recv() => tracing::info!("ends: SIGTERM"),
            _ = interrupt.recv() => tracing::info!("ends: SIGINT"),
        }
    };
    tokio::select! {
        () = asked_to_end => {}
        () = handle.ended() => {}
    }
    handle.shutdown().await
}

/// A server in this process.
pub struct Server;

impl Server {
    /// Starts a server: recovers its cell, makes the start durable, and serves. The address stands in `DIR/address`.
    ///
    /// # Errors
    /// [`ServerError`] names what is in the way. Nothing runs then.
    pub fn start(options: ServerOptions) -> Waiting<'static, Result<Handle, ServerError>> {
        let (dir, port) = (options.dir.clone(), options.listen.port());
        Box::pin(async move { Self::serve(options).await?.announced(&dir, port).await })
    }

    /// The same, and nobody is told the address.
    async fn serve(options: ServerOptions) -> Result<Handle, ServerError> {
        options.settings.check()?;
        let listener = listen::bind(options.listen).await?;
        let address =
            listener.local_addr().map_err(|source| ServerError::Listen { address: options.listen, source })?;
        let (shared, threads) = blocking({
            let options = options.clone();
            move || begin(options)
        })
        .await?;
        if let Err(error) = open_cell(&shared).await {
            stop(threads).await?;
            return Err(shared.take_failure().unwrap_or(error));
        }
        let routes = api::routes(&shared).await;
        let (routes, health) =
            routes.map_err(|error| ServerError::Thread { name: "serving", what: error.to_string() })?;
        let settings = &shared.settings;
        let cut = watch::Sender::new(false);
        let places = shared.places.get_or_init(|| listen::Places::within_the_files_limit(settings.connections));
        let connections = listen::connections(listener, places.clone(), settings.greeting, cut.subscribe());
        let ending = shared.clone();
        let serving = tonic::transport::Server::builder()
            .accept_http1(true)
            .initial_connection_window_size(plenum_proto::bounds::CONNECTION_WINDOW_BYTES)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .max_concurrent_streams(settings.streams_per_connection)
            .http2_max_header_list_size(settings.metadata_bytes_max)
            .http2_keepalive_interval(Some(settings.keepalive))
            .http2_keepalive_timeout(Some(settings.keepalive))
            .add_routes(routes)
            .serve_with_incoming_shutdown(connections, async move { ending.ended().await });
        let serving = tasks::spawn("serving", &shared, ends_with_the_server(shared.clone(), serving));
        let mut tasks = tasks::start(&shared);
        tasks.push(tasks::spawn("health", &shared, api::health::tell(shared.clone(), health)));
        Ok(Handle { address, told: None, shared, threads: Some(threads), serving, cut, tasks })
    }
}

/// A running server. Dropped without [`Handle::shutdown`], it ends as if killed; dropping waits for its threads.
pub struct Handle {
    address: SocketAddr,
    /// The file that tells the address.
    told: Option<PathBuf>,
    shared: Arc<Shared>,
    threads: Option<Threads>,
    serving: JoinHandle<()>,
    /// Ends all connections at once.
    cut: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Handle {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The server, once its address is told. Where that can't be it ends, and has ended when this returns: what serves connections holds the directory
    /// for a while after the server was dropped.
    async fn announced(mut self, dir: &Path, asked_for: u16) -> Result<Self, ServerError> {
        let Err(error) = self.tell_address(dir, asked_for) else { return Ok(self) };
        // Why it ended besides is not what was in its way.
        drop(self.shutdown().await);
        Err(error)
    }

    /// Writes the address into the cell's directory. Where that can't be, as on a full disk, a port that was asked for is known all the same;
    /// one that was taken, as 0 was asked for, is known to nobody.
    fn tell_address(&mut self, dir: &Path, asked_for: u16) -> Result<(), ServerError> {
        match write_address(dir, self.address) {
            Ok(path) => self.told = Some(path),
            Err(error) if asked_for != 0 => {
                // What is there is the address of a server before.
                drop(std::fs::remove_file(dir.join(ADDRESS)));
                tracing::error!(error = &error as &dyn std::error::Error, "{ADDRESS_NOT_TOLD}");
            }
            Err(error) => return Err(error),
        }
        let (version, core) = (env!("CARGO_PKG_VERSION"), plenum_core::CORE_VERSION);
        tracing::info!(address = %self.address, dir = %dir.display(), version, core, "serving");
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Returns when the server ends by itself.
    pub fn ended(&self) -> Waiting<'_, ()> {
        Box::pin(self.shared.ended())
    }

    /// Ends it: streams are told, what was decided is made durable, a last mark and a last checkpoint are written. The directory
    /// is free then, and tells no address any more.
    ///
    /// # Errors
    /// Why it had ended already.
    pub fn shutdown(mut self) -> Waiting<'static, Result<(), ServerError>> {
        Box::pin(async move {
            // Whoever wants the directory now is not in the wrong place, but early.
            self.shared.keeper.ends();
            // As long as the directory is this server's: once it is free, the file may be the next one's.
            if let Some(told) = self.told.take() {
                drop(std::fs::remove_file(told));
            }
            self.end().await?;
            self.shared.take_failure().map_or(Ok(()), Err)
        })
    }

    /// Ends it as if by `kill -9`, as far as one process can: nothing more is written, acknowledged or tidied up. The directory is
    /// free then.
    ///
    /// # Errors
    /// When a thread does not end.
    pub fn kill(mut self) -> Waiting<'static, Result<(), ServerError>> {
        Box::pin(async move {
            self.shared.abandon();
            self.end().await
        })
    }

    async fn end(&mut self) -> Result<(), ServerError> {
        self.shared.ending.send_replace(true);
        if tokio::time::timeout(ENDING_PATIENCE, &mut self.serving).await.is_err() {
            self.cut.send_replace(true);
            if tokio::time::timeout(ENDING_PATIENCE, &mut self.serving).await.is_err() {
                self.serving.abort();
            }
        }
        self.tasks.iter().for_each(JoinHandle::abort);
        if let Some(threads) = self.threads.take() {
            stop(threads).await?;
        }
        // Streams that were told to end hold the directory until they have.
        for _ in 0..RELEASE_LOOKS_MAX {
            if Arc::strong_count(&self.shared) == 1 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Some(threads) = self.threads.take() {
            self.shared.abandon();
            self.shared.ending.send_replace(true);
            self.cut.send_replace(true);
            self.serving.abort();
            self.tasks.iter().for_each(JoinHandle::abort);
            threads.stop();
        }
    }
}

/// Opens the directory and starts the threads.
fn begin(options: ServerOptions) -> Result<(Arc<Shared>, Threads), ServerError> {
    let Opened { journal, history, mirror, identity, checkpoint, lag_bytes, cut_bytes } = recovery::open(&options)?;
    ClockGap::of_start(mirror.cell().time()).into_iter().for_each(ClockGap::log);
    let core = Core::from_cell(mirror.cell().clone(), options.settings.core_options());
    let committer = Committer::new(core, options.settings.commit_options());
    let feed = Feed::new(history, lag_bytes);
    let keeper = journal.keeper();
    let parts = Parts { settings: options.settings, identity, keeper, feed, mirror, dir: options.dir, cut_bytes };
    let shared = Arc::new(Shared::new(parts));
    let threads = engine::start(&shared, committer, journal, checkpoint)?;
    Ok((shared, threads))
}

/// Serves until the server ends. If that ends before, so does the server: it holds the directory, and nobody could reach it.
async fn ends_with_the_server(
    shared: Arc<Shared>,
    serving: impl Future<Output = Result<(), tonic::transport::Error>> + Send,
) {
    let served = serving.await;
    if !*shared.ending.borrow() {
        shared.fail(ServerError::Serve(served.err()));
    }
}

/// Makes this start of the server the cell's, durably.
async fn open_cell(shared: &Shared) -> Result<(), ServerError> {
    let command = Command::OpenServer(shared.identity.clone());
    match shared.ask_own(command).await {
        Ok(decided) => match decided.decision {
            Decision::Rejected(rejection) => Err(ServerError::Opening(rejection)),
            _ => Ok(()),
        },
        Err(failure) => Err(ServerError::Thread { name: "resolver", what: failure.message }),
    }
}

/// Puts the address where others look for it, in one step; gives the file. Where there is no room for another file, one that is there is
/// written over.
fn write_address(dir: &Path, address: SocketAddr) -> Result<PathBuf, ServerError> {
    let path = dir.join(ADDRESS);
    let draft = dir.join("address.tmp");
    let text = format!("{address}\n");
    let written = std::fs::write(&draft, &text).and_then(|()| std::fs::rename(&draft, &path));
    let written = written.or_else(|error| {
        drop(std::fs::remove_file(&draft));
        write_over(&path, &text).map_err(|_| error)
    });
    match written {
        Ok(()) => Ok(path),
        Err(source) => Err(ServerError::Directory { path, source }),
    }
}

/// Writes so little that the block of a file that is there is enough for it.
fn write_over(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).open(path)?;
    file.write_all(text.as_bytes())?;
    let end = file.stream_position()?;
    file.set_len(end)
}

/// Runs what waits for the disk on a thread of its own.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ServerError> + Send + 'static,
) -> Result<T, ServerError> {
    let failed = |what| ServerError::Thread { name: "blocking", what };
    let begun = tasks::on_a_thread(&tokio::runtime::Handle::current(), work);
    let no_thread = "the system gives none: raise TasksMax= of the unit, or ulimit -u";
    let begun = begun.ok_or_else(|| failed(no_thread.to_owned()))?;
    begun.await.map_err(|error| failed(error.to_string()))?
}

/// Waits for the end of the threads, on one of its own. Where the system gives none they end all the same, and the event loop waits for them.
async fn stop(threads: Threads) -> Result<(), ServerError> {
    let running = Arc::new(Mutex::new(Some(threads)));
    let stopping = running.clone();
    // Locked until they have ended: whoever looks whether there is still something to stop waits for that.
    let end = |running: &Mutex<Option<Threads>>| running.lock().take().into_iter().for_each(Threads::stop);
    let Some(stopped) = tasks::on_a_thread(&tokio::runtime::Handle::current(), move || end(&stopping)) else {
        end(&running);
        return Ok(());
    };
    stopped.await.map_err(|error| ServerError::Thread { name: "blocking", what: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::runtime_without_threads;

    // The process stayed, with the directory locked, and nobody could reach it.
    #[tokio::test]
    async fn a_server_that_serves_nobody_any_more_ends_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(ServerOptions::new(dir.path())).await.unwrap();
        ends_with_the_server(server.shared().clone(), async { Ok(()) }).await;
        tokio::time::timeout(Duration::from_secs(30), server.ended()).await.expect("the server ends");
        let why = server.shutdown().await.unwrap_err();
        assert!(matches!(why, ServerError::Serve(None)), "{why}");
        assert_eq!(why.code(), "INTERNAL");
    }

    // It was a panic.
    #[test]
    fn a_start_that_gets_no_thread_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let started = runtime_without_threads().block_on(Server::start(ServerOptions::new(dir.path())));
        let refused = started.map(drop).unwrap_err();
        assert!(refused.to_string().contains("TasksMax="), "{refused}");
    }

    // It was a panic, and the last mark and checkpoint were not written.
    #[test]
    fn a_server_that_gets_no_thread_ends_in_order_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let options = ServerOptions::new(dir.path());
        let mut with = tokio::runtime::Builder::new_multi_thread();
        let with = with.worker_threads(1).enable_all().build().unwrap();
        let server = with.block_on(Server::start(options.clone())).unwrap();
        // Just before its end: the mark of it waits a moment for what comes behind.
        let session = Command::OpenSession { scheduler: "batch".into() };
        let opening = server.shared.ask(Shared::request(&"local".into(), "default".into(), session));
        assert!(with.block_on(opening).unwrap().changed);
        let (mark, newest) = (server.shared.keeper.high_water(), server.shared.keeper.tail().revision);
        runtime_without_threads().block_on(server.shutdown()).unwrap();
        let marked = mark.durable().map(|mark| mark.revision);
        assert!(marked >= Some(newest), "{marked:?} of {newest}");
        let opened = recovery::open(&options).map(drop);
        assert!(opened.is_ok(), "{opened:?}");
    }

    // On a disk that is really full a cell that could start read-only did not start at all: there was no room for the file of its address.
    #[tokio::test]
    async fn a_server_whose_port_was_asked_for_serves_where_its_address_cannot_be_written() {
        let dir = tempfile::tempdir().unwrap();
        // In the way of the draft, as no room would be.
        std::fs::create_dir(dir.path().join("address.tmp")).unwrap();
        let mut server = Server::serve(ServerOptions::new(dir.path())).await.unwrap();
        let port = server.address().port();
        let refused = server.tell_address(dir.path(), 0).unwrap_err();
        assert!(matches!(refused, ServerError::Directory { .. }), "{refused}");
        server.tell_address(dir.path(), port).unwrap();
        let path = dir.path().join(ADDRESS);
        assert!(!path.exists());
        // What a server that was killed left has room enough.
        std::fs::write(&path, "127.0.0.1:1, and what was longer than it\n").unwrap();
        server.tell_address(dir.path(), 0).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n", server.address()));
        server.shutdown().await.unwrap();
        assert!(!path.exists());
    }

    // It was dropped, and its tasks, which held the directory, ended later: whoever tried again at once found it locked.
    #[tokio::test]
    async fn a_start_whose_address_can_not_be_told_leaves_the_directory_free() {
        let dir = tempfile::tempdir().unwrap();
        let options = ServerOptions::new(dir.path());
        // In the way of the draft, as no room would be.
        std::fs::create_dir(dir.path().join("address.tmp")).unwrap();
        let refused = Server::start(options.clone()).await.map(drop).unwrap_err();
        assert!(matches!(refused, ServerError::Directory { .. }), "{refused}");
        let opened = recovery::open(&options).map(drop);
        assert!(opened.is_ok(), "{opened:?}");
    }

    // Where a thread had failed just before, the start waited for ever, with the directory locked.
    #[tokio::test]
    async fn a_start_during_which_a_thread_fails_ends_and_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let options = ServerOptions::new(dir.path());
        let (shared, threads) = blocking(move || begin(options)).await.unwrap();
        shared.fail(ServerError::Thread { name: "feeder", what: "no such block".to_owned() });
        blocking(move || {
            threads.stop();
            Ok(())
        })
        .await
        .unwrap();
        let opened = tokio::time::timeout(Duration::from_secs(30), open_cell(&shared)).await;
        assert!(opened.expect("it is not waited for").is_err());
        assert_eq!(shared.take_failure().unwrap().to_string(), "the thread feeder failed: no such block");
    }

    #[test]
    fn connections_are_served_by_half_of_the_cores_and_never_by_one_thread_alone() {
        assert_eq!([1, 2, 4, 5, 6, 16, 32, 192].map(serving_threads), [2, 2, 2, 2, 3, 8, 16, 16]);
    }
}

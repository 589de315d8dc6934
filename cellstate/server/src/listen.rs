//! Listening: on loopback only, and for a bounded number of connections at once.

mod connection;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

pub(crate) use self::connection::Connection;
use crate::error::{ServerError, too_many_files};
use crate::seldom::Seldom;

/// How long a port that is in use is tried again: a server that was asked to end lets go of it at once, as soon as it has heard of that.
const IN_USE_MAX: Duration = Duration::from_secs(1);
const IN_USE_PAUSE: Duration = Duration::from_millis(10);

/// Opens the port.
pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener, ServerError> {
    if !address.ip().is_loopback() {
        return Err(ServerError::NotLoopback { address });
    }
    let begun = Instant::now();
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                return Err(ServerError::Listen { address, source: error });
            }
            Err(_) if begun.elapsed() >= IN_USE_MAX => return Err(ServerError::AddressInUse { address }),
            Err(_) => tokio::time::sleep(IN_USE_PAUSE).await,
        }
    }
}

/// Open files that are not connections': the log's, the history's, and what the system wants for itself.
const OTHER_FILES: u64 = 192;

/// Between two lines of the log that say that no connection more is accepted.
const FULL_TOLD_EVERY: Duration = Duration::from_secs(60);

/// The places for connections.
pub(crate) struct Places {
    most: usize,
    /// What it is that allows no more.
    limit: &'static str,
    free: Arc<Semaphore>,
    used: AtomicUsize,
    full_told: Seldom,
}

impl Places {
    /// As many as are wanted, or fewer where the limit on open files leaves fewer.
    pub(crate) fn within_the_files_limit(wanted: usize) -> Arc<Self> {
        let most = connections_within_the_files_limit(wanted);
        let limit = if most < wanted {
            "the limit on open files leaves no more: raise LimitNOFILE= of the unit, or ulimit -n"
        } else {
            "`connections` of the server's settings allows no more"
        };
        Arc::new(Self::of(most, limit))
    }

    fn of(most: usize, limit: &'static str) -> Self {
        let free = Arc::new(Semaphore::new(most));
        Self { most, limit, free, used: AtomicUsize::new(0), full_told: Seldom::every(FULL_TOLD_EVERY) }
    }

    /// How many there are.
    pub(crate) fn most(&self) -> usize {
        self.most
    }

    /// How many connections have.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Waits for a free one; `None`: never.
    async fn take(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = self.free.clone().try_acquire_owned() {
            return Some(place);
        }
        if let Some(words) = self.full(Instant::now()) {
            tracing::warn!("{words}");
        }
        self.free.clone().acquire_owned().await.ok()
    }

    /// What is to be told when none is free; `None`: it was told a moment ago.
    fn full(&self, now: Instant) -> Option<String> {
        let Self { most, limit, .. } = self;
        let words =
            || format!("all {most} places for connections are taken, further ones wait to be accepted: {limit}");
        self.full_told.is_due(now).then(words)
    }
}

/// A place that a connection has.
struct Place {
    places: Arc<Places>,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    fn taken(places: &Arc<Places>, permit: OwnedSemaphorePermit) -> Self {
        places.used.fetch_add(1, Ordering::Relaxed);
        Self { places: places.clone(), _permit: permit }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.used.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many connections there may be at once: so many, or fewer where the system allows fewer open files. A connection more would
/// take the file that the next segment of the log needs. Raises what this process may raise by itself.
fn connections_within_the_files_limit(wanted: usize) -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let files = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    let Some(files) = files else { return wanted };
    let most = connections_within(files, wanted);
    if most < wanted {
        tracing::warn!(files, most, wanted, "the limit of open files lowers how many connections are accepted at once");
    }
    most
}

fn connections_within(files: u64, wanted: usize) -> usize {
    let most = files.saturating_sub(OTHER_FILES).max(files / 8).max(1);
    usize::try_from(most).unwrap_or(usize::MAX).min(wanted)
}

/// Connections as they come in, at most so many at once: further ones wait to be accepted. One that has not said what it wants
/// after `patience`, be it with a request of HTTP/1 whose head does not end, gives its place up. When `cut` turns true, all of them end, at whatever point they are: a peer that does not read
/// any more must not hold the server up.
pub(crate) fn connections(
    listener: TcpListener,
    places: Arc<Places>,
    patience: Duration,
    cut: watch::Receiver<bool>,
) -> ReceiverStream<io::Result<Connection>> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let failed_told = Seldom::every(FULL_TOLD_EVERY);
        loop {
            let Some(permit) = places.take().await else { return };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = sender.closed() => return,
            };
            match accepted {
                Ok((stream, _)) => {
                    // Small messages must not wait for larger ones.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "a connection was gone before it began");
                        continue;
                    }
                    let place = Place::taken(&places, permit);
                    let connection = Connection::new(stream, patience, cut.clone(), place);
                    if sender.send(Ok(connection)).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    // Out of file descriptors, mostly: it gets better when somebody leaves.
                    if failed_told.is_due(Instant::now()) {
                        tracing::warn!(%error, hint = too_many_files(&error), "a connection could not be accepted");
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    });
    ReceiverStream::new(receiver)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_the_log_and_the_history() {
        assert_eq!(connections_within(1 << 20, 4096), 4096);
        assert_eq!(connections_within(1024, 4096), 832);
        assert_eq!(connections_within(256, 4096), 64);
        assert_eq!(connections_within(64, 4096), 8);
        assert_eq!(connections_within(0, 4096), 1);
    }

    // Commands were told to start a server, and its log had no line that its places were taken.
    #[test]
    fn that_no_place_is_left_is_told_with_the_limit_and_not_for_each_that_waits() {
        let (places, now) = (Places::of(2, "the limit on open files"), Instant::now());
        let told = places.full(now).unwrap();
        assert!(told.contains("all 2 places") && told.ends_with("the limit on open files"), "{told}");
        assert_eq!(places.full(now + FULL_TOLD_EVERY / 2), None);
        assert_eq!(places.full(now + FULL_TOLD_EVERY), Some(told));
    }

    #[tokio::test]
    async fn a_place_is_used_for_as_long_as_its_connection_is_there() {
        let places = Arc::new(Places::of(2, ""));
        let permit = places.take().await.unwrap();
        assert_eq!((places.used(), places.most()), (0, 2), "nobody has come yet");
        let place = Place::taken(&places, permit);
        assert_eq!(places.used(), 1);
        drop(place);
        assert_eq!((places.used(), places.free.available_permits()), (0, 2));
    }
}

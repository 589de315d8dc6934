//! Settings of a server, with their bounds.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::commit::{CommitOptions, stops_within};
use crate::error::ServerError;
use crate::ingress::QueueBounds;
use crate::sync::SyncOptions;

/// What a server is started with. [`ServerOptions::new`] has a default for everything that can have one.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The cell's directory: made when it is not there.
    pub dir: PathBuf,
    /// Where to listen; loopback only, as there is no TLS yet. Port 0 takes a free one. The address is written to `DIR/address`.
    pub listen: SocketAddr,
    /// Names of the cell's resources besides CPU, memory and disk, at most five. Only the first start decides; later ones must give
    /// the same, or none.
    pub custom_resources: Vec<String>,
    /// The id of a new cell; none draws a random one. An existing cell keeps its own.
    pub cell_id: Option<[u8; 16]>,
    /// Bounds and times.
    pub settings: Settings,
}

impl ServerOptions {
    /// The defaults, for this directory: a free port on loopback.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            custom_resources: Vec::new(),
            cell_id: None,
            settings: Settings::default(),
        }
    }
}

/// Bounds and times. Everything that could grow has its bound here.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bytes of requests that have begun to arrive, of everybody: at least twice [`Settings::message_bytes_max`].
    pub arriving_bytes: usize,
    /// Bytes of answers that their callers have not read, of everybody: of listings and whatever else only reads, of dry runs, of
    /// transactions by a call of their own, of what goes to watchers without a session, and outcomes above 64 KiB on sessions' streams.
    pub unread_bytes: usize,
    /// Requests that wait for the resolver.
    pub queue: QueueBounds,
    /// One batch of the log.
    pub commit: CommitOptions,
    /// The core's tables.
    pub core: plenum_core::CoreOptions,
    /// Streams of watchers.
    pub sync: SyncOptions,
    /// Newest batches kept in memory for watchers, in bytes. Whoever is further behind gets a snapshot.
    pub recent_bytes: usize,
    /// Batches that wait to be told to agents and counted, in bytes. At the bound, commits wait.
    pub backlog_bytes: usize,
    /// Largest message that is taken, in bytes.
    pub message_bytes_max: usize,
    /// Metadata of a call by HTTP/2, in bytes as that counts them: of each field its name, its value, and 32 more. Clients of ours send some 1 KB, and
    /// others may add what their proxies and tracing put there.
    pub metadata_bytes_max: u32,
    /// Streams at once on one connection. With more of them, or more of [`Settings::outstanding`], than by default their small requests may end it.
    pub streams_per_connection: u32,
    /// Connections at once.
    pub connections: usize,
    /// Calls at once beyond the first 16 of each connection, of all of them together: further ones are refused.
    pub shared_calls: usize,
    /// A connection that has not begun to say what it wants for so long, be it by the preface of HTTP/2 alone, is closed; so is one with a request of
    /// HTTP/1 whose head does not end within this time, and a stream without a hello. A request that is no stream is refused when nothing more of it comes for so long before it is whole.
    pub greeting: Duration,
    /// A connection of HTTP/2 that says nothing for so long is asked whether it is there, and closed if it does not answer for as long.
    pub keepalive: Duration,
    /// Requests of one session whose answers have not been sent: it is not read from while there are so many. The core remembers 256.
    pub outstanding: usize,
    /// A session whose stream is gone for so long is closed.
    pub session_linger: Duration,
    /// Term of an agent's lease. Agents renew it after a third.
    pub lease: Duration,
    /// Added to the term, for clocks that do not run alike.
    pub lease_margin: Duration,
    /// The snapshot of a watcher that takes nothing more of it is taken back after so long, once no recent batch continues it …
    pub snapshot_idle: Duration,
    /// … and that of any watcher after so long.
    pub snapshot_patience: Duration,
    /// Snapshots for readers are taken so far apart, where more than 32 KiB were logged since the one before: with less hardly any page was copied
    /// for that one, and the next is taken at once.
    pub snapshot_age: Duration,
    /// Whole segments of the log are kept for a history that is behind until they have so many bytes; then what the history has not got is
    /// given up.
    pub log_bytes_max: u64,
    /// Whether anything goes into the history. Without, the past can't be read, no checkpoint is written, and the log keeps everything:
    /// to measure what the history costs, and for nothing else.
    pub history: bool,
    /// Without a history: whether the log lets go of what is durable, as it does of what a history has. No start finds the cell again then: to measure
    /// what the history costs a log that uses its segments again, and for nothing else.
    pub forgets_log: bool,
    /// A checkpoint is written after so many bytes of log …
    pub checkpoint_bytes: u64,
    /// … or after so long, if anything changed.
    pub checkpoint_interval: Duration,
    /// Segment files of the log, in bytes; one is written and one kept ready.
    pub segment_bytes: u64,
    /// The cell turns read-only while less is free on its disk; none is what the journal thinks right.
    pub reserve_bytes: Option<u64>,
    /// How long history is retained.
    pub retain: Duration,
    /// How many bytes of batches are retained.
    pub retain_bytes: u64,
    /// Sets of page images that begin with at least so many pages have a file for these; others are rows of the history's store.
    pub image_file_pages: usize,
    /// Rows of one listing, when the caller asks for more or names no limit.
    pub listing_rows: u32,
    /// Jobs about which notes are kept why they wait.
    pub notes: usize,
    /// Readers of logs at once.
    pub log_readers: usize,
    /// A server that has had nothing to do for so long gives memory back that it keeps for more work. When it works again it takes that anew, in
    /// smaller pieces, and decides a tenth more slowly for some minutes: so not in each pause.
    pub rest: Duration,
}

/// Smallest segments: below, a frame has hardly room for one request.
const SEGMENT_BYTES_MIN: u64 = 64 << 10;
/// Largest segments: they are filled with zeros beforehand, two of them.
const SEGMENT_BYTES_MAX: u64 = 4 << 30;
/// What disks write at once, and the journal aligns to.
const SECTOR_BYTES: u64 = 512;
/// Less has no room for an ordinary listing, which would be refused as if others had taken it.
const UNREAD_BYTES_MIN: usize = 1 << 20;
/// Agents count terms in milliseconds and renew after a third: the shortest that a reply on a busy machine keeps.
const LEASE_MIN: Duration = Duration::from_millis(100);
/// A simple client has no stream, and its session must be there from one of its calls to the next.
const SESSION_LINGER_MIN: Duration = Duration::from_secs(1);
/// What a connection begins with takes a round trip or two, and a busy machine some time to read it.
const GREETING_MIN: Duration = Duration::from_millis(10);
/// Less has no room for the greeting of a scheduler with long names.
const MESSAGE_BYTES_MIN: usize = 1 << 10;
/// More often, a watcher's next heartbeat is due before it is told anything else.
const HEARTBEAT_MICROS_MIN: i64 = 1_000;
/// Largest frames: what the history takes.
const FRAME_BYTES_MAX: u64 = 64 << 20;
/// Of a segment, what is no frame; of a frame, what is no batch.
const SEGMENT_HEAD_BYTES: u64 = 4096;
const FRAME_HEAD_BYTES: u64 = 512;

impl Settings {
    /// Checks what would otherwise show up only while serving. All that is out of its bounds is told.
    pub(crate) fn check(&self) -> Result<(), ServerError> {
        let wrong = |name, expected, found| ServerError::Setting { name, expected, found }.to_string();
        let whole = |name, least: u64, found: u64| {
            (found < least).then(|| wrong(name, format!("at least {least}"), found.to_string()))
        };
        let size = |name, least: usize, found: usize| whole(name, least as u64, found as u64);
        let span = |name, least: Duration, found: Duration| {
            let found_words = if found.is_zero() { "0s".to_owned() } else { format!("{found:?}") };
            (found < least).then(|| wrong(name, format!("at least {least:?}"), found_words))
        };
        let beat = self.sync.heartbeat_micros;
        let least_beat = || format!("at least {HEARTBEAT_MICROS_MIN}");
        let segments = SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX;
        let is_segment = segments.contains(&self.segment_bytes) && self.segment_bytes.is_multiple_of(SECTOR_BYTES);
        let segment_rule = || format!("a multiple of {SECTOR_BYTES} from {} to {}", segments.start(), segments.end());
        let all = [
            (!is_segment).then(|| wrong("segment_bytes", segment_rule(), self.segment_bytes.to_string())),
            size("arriving_bytes", self.message_bytes_max.saturating_mul(2), self.arriving_bytes),
            size("unread_bytes", UNREAD_BYTES_MIN, self.unread_bytes),
            size("connections", 1, self.connections),
            whole("listing_rows", 1, self.listing_rows.into()),
            whole("streams_per_connection", 1, self.streams_per_connection.into()),
            size("outstanding", 1, self.outstanding),
            size("queue.requests", 1, self.queue.requests),
            size("commit.batch_requests", 1, self.commit.batch_requests),
            size("commit.batch_bytes", 1, self.commit.batch_bytes),
            size("message_bytes_max", MESSAGE_BYTES_MIN, self.message_bytes_max),
            span("greeting", GREETING_MIN, self.greeting),
            size("sync.message_bytes", 1, self.sync.message_bytes),
            (beat < HEARTBEAT_MICROS_MIN).then(|| wrong("sync.heartbeat_micros", least_beat(), beat.to_string())),
            span("lease", LEASE_MIN, self.lease),
            span("session_linger", SESSION_LINGER_MIN, self.session_linger),
        ];
        let all: Vec<String> = all.into_iter().flatten().collect();
        if all.is_empty() { Ok(()) } else { Err(ServerError::OutOfBounds(all)) }
    }

    /// Largest frame of the log, in bytes: it is in one segment, and the history takes it.
    #[must_use]
    pub fn frame_bytes_max(&self) -> u64 {
        self.segment_bytes.min(FRAME_BYTES_MAX).saturating_sub(SEGMENT_HEAD_BYTES)
    }

    /// [`Settings::commit`], with batches of a quarter of a frame at most: the rest is for the request that takes one above.
    #[must_use]
    pub fn commit_options(&self) -> CommitOptions {
        let batch_bytes = self.commit.batch_bytes.min(self.payload_bytes_max() / 4);
        let effect_bytes = self.commit.effect_bytes.min(self.payload_bytes_max() - batch_bytes);
        let entry_bytes = self.commit.entry_bytes.min(self.payload_bytes_max() - batch_bytes);
        CommitOptions { batch_bytes, effect_bytes, entry_bytes, ..self.commit }
    }

    /// [`Settings::core`], whose commands stop at most what an eighth of an effect has room for, and whose tables can be read back.
    pub(crate) fn core_options(&self) -> plenum_core::CoreOptions {
        let stops_max = self.core.stops_max.min(stops_within(self.commit_options().effect_bytes / 8));
        let [machines_max, jobs_max, tasks_max] = [self.core.machines_max, self.core.jobs_max, self.core.tasks_max]
            .map(|most| most.min(plenum_core::ROWS_MAX));
        plenum_core::CoreOptions { stops_max, machines_max, jobs_max, tasks_max, ..self.core.clone() }
    }

    /// What reports that are gathered into one request may come to in the log, in bytes: with what they set off in the tasks of jobs that
    /// fail, that is what any request may come to.
    pub(crate) fn reported_bytes_max(&self) -> usize {
        self.logged_bytes_max() - self.commit_options().effect_bytes / 8
    }

    /// What one request may come to in the log, in bytes: with a batch that is nearly full, it fits a frame.
    pub(crate) fn logged_bytes_max(&self) -> usize {
        self.commit_options().entry_bytes
    }

    fn payload_bytes_max(&self) -> usize {
        usize::try_from(self.frame_bytes_max().saturating_sub(FRAME_HEAD_BYTES)).unwrap_or(usize::MAX)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            arriving_bytes: 128 << 20,
            unread_bytes: 512 << 20,
            queue: QueueBounds::default(),
            commit: CommitOptions::default(),
            core: plenum_core::CoreOptions::default(),
            sync: SyncOptions::default(),
            recent_bytes: 16 << 20,
            backlog_bytes: 64 << 20,
            message_bytes_max: plenum_proto::bounds::REQUEST_BYTES_MAX,
            // What gRPC itself takes, where nobody says otherwise.
            metadata_bytes_max: 8 << 10,
            streams_per_connection: 256,
            connections: 4096,
            // As many as 128 connections have by which all their streams are used, and 900 MB with those of up to 27 KB.
            shared_calls: 32_768,
            greeting: Duration::from_secs(10),
            keepalive: Duration::from_secs(20),
            outstanding: plenum_model::session::NUMBERS_KEPT,
            session_linger: Duration::from_secs(600),
            lease: Duration::from_secs(15),
            lease_margin: Duration::from_secs(2),
            snapshot_idle: Duration::from_secs(5),
            snapshot_patience: Duration::from_secs(120),
            snapshot_age: Duration::from_millis(5),
            log_bytes_max: 1 << 30,
            history: true,
            forgets_log: false,
            checkpoint_bytes: 8 << 20,
            checkpoint_interval: Duration::from_secs(60),
            segment_bytes: 16 << 20,
            reserve_bytes: None,
            retain: Duration::from_secs(7 * 24 * 3600),
            retain_bytes: 1 << 30,
            image_file_pages: 1 << 10,
            listing_rows: 10_000,
            notes: 10_000,
            log_readers: 64,
            rest: Duration::from_secs(60),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_and_one_request_more_fit_a_frame_whatever_is_set() {
        for segment_bytes in [64 << 10, 1 << 20, 16 << 20, 1 << 30] {
            for batch_bytes in [1, 1 << 20, usize::MAX] {
                let commit = CommitOptions { batch_bytes, ..CommitOptions::default() };
                let settings = Settings { segment_bytes, commit, ..Settings::default() };
                assert!(settings.check().is_ok());
                let most = settings.commit_options().batch_bytes + settings.logged_bytes_max();
                assert!(most as u64 + FRAME_HEAD_BYTES <= settings.frame_bytes_max());
                assert!(settings.frame_bytes_max() < segment_bytes && settings.logged_bytes_max() > 40_000);
            }
        }
    }

    #[test]
    fn a_connection_has_room_for_the_smallest_requests_of_all_its_streams() {
        let Settings { streams_per_connection, outstanding, .. } = Settings::default();
        let counted = u64::from(streams_per_connection) * outstanding as u64 * 256;
        assert!(counted <= u64::from(plenum_proto::bounds::CONNECTION_WINDOW_BYTES) / 2);
        assert!(outstanding as u64 * 256 <= u64::from(crate::server::STREAM_WINDOW_BYTES));
    }

    // Of machines and jobs there could be more than anybody reads rows of a table.
    #[test]
    fn no_table_of_the_core_may_have_more_rows_than_are_read_back() {
        let most = plenum_core::ROWS_MAX;
        let bounds = |wanted: u32| {
            let core = plenum_core::CoreOptions {
                machines_max: wanted,
                jobs_max: wanted,
                tasks_max: wanted,
                ..plenum_core::CoreOptions::default()
            };
            let core = Settings { core, ..Settings::default() }.core_options();
            [core.machines_max, core.jobs_max, core.tasks_max]
        };
        assert_eq!((bounds(u32::MAX), bounds(most - 1)), ([most; 3], [most - 1; 3]));
    }

    // With most of these a server began and served nobody: it took no connection, listed nothing, gave leases that no agent keeps, closed the
    // sessions of simple clients at once, or told watchers nothing but heartbeats, or not even these; it took no streams, no requests and no messages, read
    // nothing of a session behind its hello, or closed each connection as soon as it had come.
    // Odd sizes of segments were told as a damaged log.
    #[test]
    fn settings_with_which_nobody_is_served_are_refused_at_the_start() {
        let usual = Settings::default;
        let with_sync = |message_bytes, heartbeat_micros| {
            let sync = SyncOptions { message_bytes, heartbeat_micros, ..SyncOptions::default() };
            Settings { sync, ..usual() }
        };
        let with_commit = |batch_requests, batch_bytes| {
            let commit = CommitOptions { batch_requests, batch_bytes, ..CommitOptions::default() };
            Settings { commit, ..usual() }
        };
        let queue = QueueBounds { requests: 0, ..QueueBounds::default() };
        for (settings, told) in [
            (Settings { segment_bytes: 4096, ..usual() }, "segment_bytes: expected a multiple of 512 from 65536 to"),
            (Settings { segment_bytes: 65_537, ..usual() }, "segment_bytes: expected a multiple of 512 from 65536 to"),
            (Settings { segment_bytes: 1 << 40, ..usual() }, "segment_bytes: expected a multiple of 512 from 65536 to"),
            (Settings { arriving_bytes: 4 << 20, ..usual() }, "arriving_bytes: expected at least 8388608"),
            (Settings { unread_bytes: 1, ..usual() }, "unread_bytes: expected at least 1048576, found 1"),
            (Settings { connections: 0, ..usual() }, "connections: expected at least 1, found 0"),
            (Settings { listing_rows: 0, ..usual() }, "listing_rows: expected at least 1, found 0"),
            (Settings { streams_per_connection: 0, ..usual() }, "streams_per_connection: expected at least 1, found 0"),
            (Settings { outstanding: 0, ..usual() }, "outstanding: expected at least 1, found 0"),
            (Settings { queue, ..usual() }, "queue.requests: expected at least 1, found 0"),
            (with_commit(0, 1 << 20), "commit.batch_requests: expected at least 1, found 0"),
            (with_commit(1, 0), "commit.batch_bytes: expected at least 1, found 0"),
            (Settings { message_bytes_max: 0, ..usual() }, "message_bytes_max: expected at least 1024, found 0"),
            (Settings { greeting: Duration::ZERO, ..usual() }, "greeting: expected at least 10ms, found 0s"),
            (with_sync(0, 1_000_000), "sync.message_bytes: expected at least 1, found 0"),
            (with_sync(1 << 10, 0), "sync.heartbeat_micros: expected at least 1000, found 0"),
            (with_sync(1 << 10, -1), "sync.heartbeat_micros: expected at least 1000, found -1"),
            (Settings { lease: Duration::ZERO, ..usual() }, "lease: expected at least 100ms, found 0s"),
            (Settings { session_linger: Duration::ZERO, ..usual() }, "session_linger: expected at least 1s, found 0s"),
        ] {
            let error = settings.check().unwrap_err();
            assert!(error.code() == "BAD_SETTING" && error.to_string().contains(told), "{error}");
        }
        assert!(usual().check().is_ok() && with_sync(1, 1_000).check().is_ok());
    }

    // Each start told the next one of them.
    #[test]
    fn all_settings_that_are_out_of_their_bounds_are_told_at_once() {
        let settings = Settings { connections: 0, listing_rows: 0, lease: Duration::ZERO, ..Settings::default() };
        let told = "connections: expected at least 1, found 0; listing_rows: expected at least 1, found 0; \
                    lease: expected at least 100ms, found 0s";
        assert_eq!(settings.check().unwrap_err().to_string(), told);
    }
}

//! A cell whose server is started, crashed and started again.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    process::ExitStatus,
    time::{Duration, Instant},
};

use tonic::Code;

use super::{
    load::{Load, Round},
    warden::{Call, Judge, Verdict, Warden},
};
use crate::stage::{PATIENCE, Process, Stage, read_address};

/// Small segments, so that a run begins many of them; leases that don't run out under the test.
const CONFIGURATION: &str = "segment_bytes = 262144\nreserve_bytes = 1048576\nlease = \"10m\"\n";
/// Checkpoints all the time, after which segments are released, the smallest that there are.
const CHECKPOINTS: &str = "segment_bytes = 65536\nreserve_bytes = 1048576\nlease = \"10m\"\n\
    checkpoint_interval = \"30ms\"\n";
/// Besides, as of a large cell: page images of whole checkpoints go to files.
const IMAGE_FILES: &str = "image_file_pages = 1\n";
/// Besides, as of a cell that has run for long: what is older than a few segments is retired, their files are used again, and the fallback is written anew.
/// Some four hundred transactions: whoever asks again after a crash finds what became of those that were under way.
const RETAINS_LITTLE: &str = "retain_bytes = 131072\n";
const LOOK_PERIOD: Duration = Duration::from_millis(2);
const VERIFY_PATIENCE: Duration = Duration::from_secs(3600);

/// A cell, and everybody who has to do with it.
pub(crate) struct CrashCell {
    // Ended before the stage is taken down.
    pub(crate) load: Load,
    dir: PathBuf,
    has_checkpoints: bool,
    retains_little: bool,
    pub(crate) starts: usize,
    pub(crate) stage: Stage,
}

/// A server that can be reached.
pub(crate) struct Up {
    pub(crate) address: String,
    pub(crate) process: Process,
    // After the process: it ends with it.
    _warden: Option<Warden>,
}

impl CrashCell {
    pub(crate) fn new(seed: u64) -> Self {
        Self::within(Stage::new(), "cell", seed)
    }

    /// A cell in a folder of the stage that may be a file system of its own.
    pub(crate) fn within(stage: Stage, dir: &str, seed: u64) -> Self {
        let dir = stage.path(dir);
        Self { load: Load::new(seed), dir, has_checkpoints: false, retains_little: false, starts: 0, stage }
    }

    /// The same cell, which writes checkpoints all the time from its next start on.
    pub(crate) fn with_checkpoints(mut self) -> Self {
        self.set_checkpoints(true);
        self
    }

    /// The same cell, which retires what is older than its last segments as soon as it writes checkpoints.
    pub(crate) fn that_retains_little(mut self) -> Self {
        self.retains_little = true;
        self.load.allow_retiring();
        self
    }

    /// The same cell, which the separate checker watches, and judges when all is concluded.
    pub(super) fn with_a_witness(mut self) -> Self {
        self.load.call_a_witness();
        self
    }

    /// Whether it writes checkpoints all the time from its next start on, or as seldom as by default: hardly one while these tests run.
    pub(crate) fn set_checkpoints(&mut self, all_the_time: bool) {
        self.has_checkpoints = all_the_time;
    }

    /// The file of the next server.
    fn config(&self) -> String {
        // Each second one has its images in the history's store.
        let images = if self.starts.is_multiple_of(2) { IMAGE_FILES } else { "" };
        let retention = if self.retains_little { RETAINS_LITTLE } else { "" };
        let with_checkpoints = format!("{CHECKPOINTS}{images}{retention}");
        let without = format!("{CONFIGURATION}{retention}");
        self.stage.file("server.toml", if self.has_checkpoints { &with_checkpoints } else { &without })
    }

    /// The number of the oldest segment of the log that is there: those before were retired, and their files used again.
    pub(crate) fn oldest_segment(&self) -> u64 {
        let names = std::fs::read_dir(self.dir.join("log")).unwrap().map(|entry| entry.unwrap().file_name());
        let number = |name: std::ffi::OsString| {
            let (number, kind) = name.to_str()?.split_once('.')?;
            if matches!(kind, "segment" | "kept") { number.parse::<u64>().ok() } else { None }
        };
        names.filter_map(number).min().expect("a log has segments")
    }

    /// How many segments of the log were released: a start has what stands in them from the history alone.
    pub(crate) fn released_segments(&self) -> usize {
        let names = std::fs::read_dir(self.dir.join("log")).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().ends_with(".kept")).count()
    }

    /// The cell's directory.
    pub(crate) fn dir(&self) -> PathBuf {
        self.dir.clone()
    }

    /// Starts the server, which must come up.
    #[track_caller]
    pub(crate) fn start(&mut self) -> Up {
        self.start_process(None).unwrap_or_else(|status| panic!("it ended with {status}: {}", self.told()))
    }

    /// Starts the server; how it ended, if it did before it could be reached.
    pub(crate) fn start_or_end(&mut self) -> Result<Up, ExitStatus> {
        self.start_process(None)
    }

    /// Starts the server under a warden; how it ended, if it did before it could be reached.
    pub(crate) fn start_under(
        &mut self,
        judge: impl FnMut(&Call) -> Verdict + Send + 'static,
    ) -> Result<Up, ExitStatus> {
        self.start_process(Some(Box::new(judge)))
    }

    #[track_caller]
    fn start_process(&mut self, judge: Option<Judge>) -> Result<Up, ExitStatus> {
        let (mut process, warden) = self.launch(judge);
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(address) = read_address(&self.dir.join("address")) {
                return Ok(Up { address, process, _warden: warden });
            }
            if let Some(status) = process.has_ended() {
                return Err(status);
            }
            assert!(Instant::now() < deadline, "the server can't be reached: {}", self.told());
            std::thread::sleep(LOOK_PERIOD);
        }
    }

    /// Starts the server and does not wait.
    pub(crate) fn launch(&mut self, judge: Option<Judge>) -> (Process, Option<Warden>) {
        // What the one before said is written over.
        self.nothing_panicked();
        let _ = std::fs::remove_file(self.dir.join("address"));
        self.starts += 1;
        let dir = self.dir.display().to_string();
        let config = self.config();
        let words = ["server", "--dir", &dir, "--listen", "127.0.0.1:0", "--config", &config];
        self.stage.start_by("server", &words, |command| match judge {
            None => (command.spawn().unwrap(), None),
            Some(judge) => {
                let (child, warden) = Warden::start(command, judge).unwrap();
                (child, Some(warden))
            }
        })
    }

    /// What the last server said.
    pub(crate) fn told(&self) -> String {
        self.stage.text("server.err")
    }

    /// Whatever the last server met, and however it ended: nothing from a disk or a network may trip an assertion. One that is tripped ends it with an
    /// error like others, or a single connection without a word.
    #[track_caller]
    fn nothing_panicked(&self) {
        let told = self.told();
        assert!(!told.contains("panicked at"), "a server panicked: {told}");
    }

    /// Everybody works until so many transactions more are answered, or the server has ended.
    pub(crate) fn work(&mut self, up: &mut Up, transactions: usize) -> Option<Round> {
        let deadline = Instant::now() + PATIENCE;
        while let Err(status) = self.load.prepare(&up.address) {
            // A server that goes in the middle of this is a crash like any other, and one that takes no changes takes them later.
            let is_gone = matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal);
            if is_gone {
                return None;
            }
            assert_eq!(status.code(), Code::ResourceExhausted, "what is asked for is right: {status}");
            assert!(Instant::now() < deadline, "it takes changes again: {status}");
            std::thread::sleep(LOOK_PERIOD);
        }
        let enough = self.load.ticks.decided() + transactions;
        let round = self.load.begin(&up.address);
        while self.load.ticks.decided() < enough && up.process.has_ended().is_none() {
            assert!(Instant::now() < deadline, "transactions are answered; the server says: {}", self.told());
            std::thread::sleep(LOOK_PERIOD);
        }
        Some(round)
    }

    /// The server is gone: everybody notices.
    pub(crate) fn join(&mut self, round: Option<Round>) {
        if let Some(round) = round {
            self.load.join(round);
        }
    }

    /// After the last crash: all is answered, all is well, and the log is sound.
    #[track_caller]
    pub(crate) fn conclude(mut self) -> super::load::Summary {
        let mut up = self.start();
        self.load.examine(&up.address).unwrap();
        let round = self.work(&mut up, 10).expect("nothing is in its way any more");
        self.load.finish(round);
        let summary = self.load.conclude(&up.address);
        up.process.signal(nix::sys::signal::Signal::SIGINT);
        assert_eq!(up.process.ended().code(), Some(0), "{}", self.told());
        // Of a long form it takes minutes: each revision is decided again, with every invariant.
        let mut verify = self.stage.start("verify", &["verify", "--dir", &self.dir.display().to_string()]);
        let deadline = Instant::now() + VERIFY_PATIENCE;
        let status = loop {
            assert!(Instant::now() < deadline, "verify comes to an end");
            match verify.has_ended() {
                Some(status) => break status,
                None => std::thread::sleep(LOOK_PERIOD),
            }
        };
        assert!(status.success(), "{}{}", self.stage.text("verify.out"), self.stage.text("verify.err"));
        summary
    }
}

impl Drop for CrashCell {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.nothing_panicked();
        }
    }
}

#[test]
fn a_server_that_panicked_is_noticed_by_the_next_one_and_at_the_end() {
    let mut cell = CrashCell::new(110);
    cell.stage.file("server.err", "\nthread 'feeder' (7) panicked at cellstate/server/src/feeder.rs:1:2:\n");
    assert!(catch_unwind(AssertUnwindSafe(|| drop(cell.launch(None)))).is_err(), "the next one was started");
    assert!(catch_unwind(AssertUnwindSafe(|| drop(cell))).is_err(), "all was well at the end");
}

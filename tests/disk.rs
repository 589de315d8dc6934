//! What a full disk costs of the past, and a damaged log. What else a full disk does is told in `crash::full`.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use serde_json::Value;

use crate::{
    rivals::Rivals,
    skips::skipped,
    stage::{Served, Stage, eventually, is_root},
};

/// What this thread mounts from here on, only it has, with the threads and processes that it starts. Others that come to mounts of their own
/// meanwhile, as isolated tasks of other tests do, would each hold a copy of it: taken off here it would not be off, and mounted
/// again it would be as it was.
pub(crate) fn keep_mounts_to_oneself() {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
}

/// A file system of its own, unmounted at the end.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    pub(crate) fn mount(path: PathBuf, bytes: u64) -> Self {
        keep_mounts_to_oneself();
        fs::create_dir(&path).unwrap();
        let size = format!("size={bytes}");
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&path).status().unwrap();
        assert!(status.success(), "root may mount");
        Self(path)
    }

    /// Takes all but so many bytes of the room.
    pub(crate) fn fill_up_to(&self, left_bytes: u64) {
        let statistics = nix::sys::statvfs::statvfs(&self.0).unwrap();
        let free = statistics.blocks_available() * statistics.fragment_size();
        let ballast = vec![1_u8; usize::try_from(free - left_bytes).unwrap()];
        let mut file = OpenOptions::new().create(true).append(true).open(self.ballast()).unwrap();
        match file.write_all(&ballast) {
            // Somebody else took some of it meanwhile.
            Err(error) if error.kind() == ErrorKind::StorageFull => {}
            written => written.unwrap(),
        }
    }

    pub(crate) fn free(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// The disk, what the cell keeps free of it, and segments so small that the story is short.
const DISK_BYTES: u64 = 160 << 20;
const RESERVE_BYTES: u64 = 8 << 20;
/// Many times what passes between two checkpoints.
const CHECKPOINT_PATIENCE: Duration = Duration::from_secs(5);

/// The history was given up at the first write that failed, until the next start: what had happened could not be asked for, and as the log
/// waits for the history, the disk was soon full again.
#[test]
fn the_past_can_be_asked_for_again_when_a_full_disk_has_room_again() {
    if !is_root() {
        skipped("only root can mount the small disk that this story needs");
        return;
    }
    let stage = Stage::new();
    let disk = SmallDisk::mount(stage.path("disk"), DISK_BYTES);
    let mut options = plenum_server::ServerOptions::new(stage.path("disk/cell"));
    options.settings.segment_bytes = 1 << 20;
    options.settings.reserve_bytes = Some(RESERVE_BYTES);
    options.settings.checkpoint_interval = Duration::from_millis(200);
    options.settings.image_file_pages = 1;
    let runtime = plenum_server::event_loop().unwrap();
    let server = runtime.block_on(plenum_server::Server::start(options)).unwrap();
    let address = format!("http://{}", server.address());
    let rivals = Rivals::new(&address);
    let history = |job: &str| stage.try_ask(&address, &["job", "history", job]);
    rivals.job("early", "blue", 1).unwrap();
    assert!(history("early").is_ok());

    let mut jobs = 0;
    let mut takes_a_job = || rivals.job(&format!("job-{jobs}"), "blue", 1).is_ok().then(|| jobs += 1);
    // The history has found room all the same, where some was given back just then: by a checkpoint that was being written, say. Of ten times
    // it fails once for as long as there is none.
    let refused = (0..10).find_map(|_| {
        disk.fill_up_to(0);
        // Until the cell notices, it takes what its segments have room for.
        while takes_a_job().is_some() {}
        let deadline = Instant::now() + CHECKPOINT_PATIENCE;
        let refused =
            std::iter::from_fn(|| (Instant::now() < deadline).then(|| history("early").err())).flatten().next();
        let refused = refused.filter(|_| history("early").is_err());
        if refused.is_none() {
            disk.free();
            eventually("the cell takes changes again", &mut takes_a_job);
        }
        refused
    });
    assert!(jobs > 0);
    let refused = refused.expect("the history fails");
    refused.says(1, &["HISTORY_BEHIND", "goes on by itself"]);

    disk.free();
    eventually("the cell takes changes again", || rivals.job("late", "blue", 1).ok());
    let told = eventually("the history can be read again", || history("late").ok());
    assert_eq!(told["items"][0]["event"], "submitted");
    for job in ["early", "job-0", &format!("job-{}", jobs - 1)] {
        assert_eq!(history(job).unwrap()["items"][0]["event"], "submitted", "{job}");
    }
    runtime.block_on(server.shutdown()).unwrap();
    stage.run(&["verify", "--dir", &stage.word("disk/cell")]).says(0, &[]);
}

#[track_caller]
fn names(stage: &Stage, server: &Served, what: &str) -> Vec<String> {
    let listed = stage.ask(&server.address, &[what, "list"]);
    listed["items"].as_array().unwrap().iter().map(|each| each["name"].as_str().unwrap().to_owned()).collect()
}

/// A stopped cell with twenty jobs, each submitted after the one before was acknowledged: so each is a frame of its own.
fn stopped_cell() -> Stage {
    let stage = Stage::new();
    let server = stage.server("cell", None, &[]);
    let rivals = Rivals::new(&server.address);
    for number in 1..=20 {
        rivals.job(&format!("job-{number}"), "blue", 1).unwrap();
    }
    assert_eq!(server.stop().code(), Some(0));
    stage
}

const SECTOR_BYTES: usize = 512;

fn segment(stage: &Stage) -> PathBuf {
    stage.path("cell/log/00000000000000000001.segment")
}

/// Where frames begin: sectors that begin like the first one after the segment's own header.
fn frames(segment: &Path) -> Vec<usize> {
    let bytes = fs::read(segment).unwrap();
    let magic = &bytes[SECTOR_BYTES..SECTOR_BYTES + 4];
    let sectors = (SECTOR_BYTES..bytes.len()).step_by(SECTOR_BYTES);
    sectors.filter(|at| bytes[*at..].starts_with(magic)).collect()
}

fn write_at(path: &Path, offset: usize, bytes: &[u8]) {
    let mut file: File = OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(offset as u64)).unwrap();
    file.write_all(bytes).unwrap();
}

#[test]
fn damage_in_the_middle_of_the_log_is_named_and_nothing_is_lost_silently() {
    let stage = stopped_cell();
    let path = segment(&stage);
    let before = fs::read(&path).unwrap();
    let frames = frames(&path);
    assert!(frames.len() > 20, "{frames:?}");
    let damaged = frames[frames.len() / 2];
    write_at(&path, damaged + 200, &[before[damaged + 200] ^ 1]);
    let damaged_log = fs::read(&path).unwrap();

    let place = format!("offset {damaged}");
    let done = stage.run(&["server", "--dir", &stage.word("cell"), "--listen", "127.0.0.1:0"]);
    done.says(1, &["error[DAMAGED_LOG]", "00000000000000000001.segment", &place, "revision"]);
    let verified = stage.run(&["verify", "--dir", &stage.word("cell")]);
    assert_eq!(verified.code(), Some(1), "{verified}");
    let told = format!("{}{}", verified.out, verified.err);
    for words in ["00000000000000000001.segment", &place, "revision"] {
        assert!(told.contains(words), "expected {words:?} in: {verified}");
    }
    // With `| head`, a damaged cell was as good as a sound one.
    assert!(verified.out.contains("not sound"), "{verified}");
    assert_eq!(stage.unread(&["verify", "--dir", &stage.word("cell")]), Some(1));
    assert!(fs::read(&path).unwrap() == damaged_log, "neither of them changed the log");

    write_at(&path, damaged + 200, &[before[damaged + 200]]);
    let server = stage.server("cell", None, &[]);
    assert_eq!(names(&stage, &server, "job").len(), 20, "made good, the whole log is there");
}

#[test]
fn a_torn_write_at_the_end_is_cut_and_told() {
    let stage = stopped_cell();
    let path = segment(&stage);
    let (bytes, frames) = (fs::read(&path).unwrap(), frames(&path));
    // What a crash leaves of the frame that was under way: its beginning, after the last whole one.
    let last = *frames.last().unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    let torn_at = (used + 1).next_multiple_of(SECTOR_BYTES);
    write_at(&path, torn_at, &bytes[last..last + 300]);

    let verified = stage.run(&["verify", "--dir", &stage.word("cell"), "-o", "json"]);
    assert_eq!(verified.code(), Some(0), "what nobody was promised is no damage: {verified}");
    assert!(verified.out.contains(&torn_at.to_string()), "but it is told: {verified}");
    let server = stage.server("cell", None, &[]);
    // A thread of its own writes what the server says.
    let is_told = || stage.text("server.err").contains(&torn_at.to_string());
    eventually("the cut is told with its place", || is_told().then_some(()));
    assert_eq!(names(&stage, &server, "job").len(), 20, "nothing acknowledged is lost");
    Rivals::new(&server.address).job("after", "blue", 1).unwrap();
    assert_eq!(server.stop().code(), Some(0));
    let verified = stage.run(&["verify", "--dir", &stage.word("cell"), "-o", "json"]);
    assert_eq!(
        (verified.code(), verified.json().get("torn").unwrap_or(&Value::Null)),
        (Some(0), &Value::Null),
        "{verified}"
    );
}

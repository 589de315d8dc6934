//! Lives of a cell's directory, at random from a seed: it is used, stopped, killed, damaged, copied and restored. Whatever it went through,
//! what was acknowledged is there or the start says why not, `verify` says the same as the start, and the past is told truly or not at all.
//!
//! Threads of the server take their own time, so that a seed gives the same steps and not the same bytes. `PLENUM_SEEDS=0..300` asks for
//! more lives than the gate has time for.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use plenum_proto::v1;
use plenum_server::{Handle, RestoreOptions, Restored, Server, ServerOptions, back_up_folder, check_backup, verify};
use tonic::transport::Channel;

use crate::backups::back_up;
use crate::client::{code, connect, job, register, submit};
use crate::dice::Dice;
use crate::kept::{brisk, copy_folder, kept};

type Inspect = v1::inspect_client::InspectClient<Channel>;
type Jobs = v1::jobs_client::JobsClient<Channel>;

/// Steps of a life.
const STEPS: u32 = 40;
/// What is said where the past is not told.
const NOT_TOLD: [&str; 3] = ["REVISION_RETIRED", "DAMAGED_HISTORY", "HISTORY_BEHIND"];

/// A cell that gives up its log, and retires the past, as soon as it can.
fn hasty(dir: &Path) -> ServerOptions {
    let mut hasty = brisk(dir);
    hasty.settings.segment_bytes = 128 << 10;
    hasty.settings.retain_bytes = 512 << 10;
    hasty
}

/// How many machines and jobs there were from a revision on: they are called `m0`, `m1` … and `job0` …, and none ever leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Moment {
    revision: u64,
    machines: u32,
    jobs: u32,
}

/// All that the cell acknowledged.
#[derive(Clone, Default)]
struct Twin(Vec<Moment>);

impl Twin {
    fn at(&self, revision: u64) -> Moment {
        self.0.iter().rfind(|moment| moment.revision <= revision).copied().unwrap_or_default()
    }

    fn last(&self) -> Moment {
        self.at(u64::MAX)
    }
}

struct Life {
    dice: Dice,
    temporary: tempfile::TempDir,
    dir: PathBuf,
    twin: Twin,
    running: Option<(Handle, Channel)>,
    /// As the directory was when it was stopped, if it was harmed since: with that it started.
    unharmed: Option<PathBuf>,
    /// It was harmed at some time.
    is_harmed: bool,
    /// The log's high-water mark is at its end.
    is_marked: bool,
    /// An earlier history of this directory.
    older: Option<PathBuf>,
    /// A backup, and what had been acknowledged when it was taken.
    backup: Option<(PathBuf, Twin)>,
    folders: u32,
    told: Vec<String>,
}

impl Drop for Life {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let steps = format!("{}\n", self.told.join("\n"));
            drop(std::io::stderr().write_all(steps.as_bytes()));
        }
    }
}

/// Each failure has a page.
fn assert_explained(code: &str, error: &dyn std::fmt::Display) {
    let page = format!("{}/../../docs/errors/{code}.md", env!("CARGO_MANIFEST_DIR"));
    assert!(Path::new(&page).exists(), "{code}: {error}");
}

fn flip(path: &Path, dice: &mut Dice) -> String {
    let mut bytes = std::fs::read(path).unwrap();
    let at = usize::try_from(dice.roll(bytes.len() as u64)).unwrap();
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1 << dice.roll(8);
        std::fs::write(path, &bytes).unwrap();
    }
    format!("a bit of byte {at} of {} is flipped in {}", bytes.len(), path.display())
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> =
        std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

/// All files below a folder.
fn collect(folder: &Path, all: &mut Vec<PathBuf>) {
    for path in files(folder) {
        if path.is_dir() { collect(&path, all) } else { all.push(path) }
    }
}

impl Life {
    fn new(seed: u64) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        Self {
            dice: Dice::new(seed),
            dir: temporary.path().join("cell"),
            temporary,
            twin: Twin::default(),
            running: None,
            unharmed: None,
            is_harmed: false,
            is_marked: true,
            older: None,
            backup: None,
            folders: 0,
            told: vec![format!("the life of seed {seed}:")],
        }
    }

    fn tell(&mut self, what: impl Into<String>) {
        self.told.push(what.into());
    }

    fn new_path(&mut self, what: &str) -> PathBuf {
        self.folders += 1;
        self.temporary.path().join(format!("{what}{}", self.folders))
    }

    async fn step(&mut self) {
        match (self.running.take(), self.dice.roll(16)) {
            (Some((server, channel)), roll) => {
                match roll {
                    0..=5 => self.commit(&channel).await,
                    6 | 7 => self.look_back(&channel).await,
                    8 => self.wait_for_history(&channel).await,
                    9 => self.back_up(&channel).await,
                    roll => return self.stop(server, roll < 13).await,
                }
                self.running = Some((server, channel));
            }
            (None, 0..=7) => self.harm(),
            (None, 8) => self.back_up_folder(),
            (None, 9) => self.restore().await,
            (None, _) => self.start().await,
        }
    }

    async fn commit(&mut self, channel: &Channel) {
        let (many, filler_bytes) = (1 + self.dice.roll(40), self.dice.roll(3) * 15_000);
        for _ in 0..many {
            let mut moment = self.twin.last();
            if self.dice.once_in(2) {
                moment.revision = register(channel, &format!("m{}", moment.machines), 1000).await.revision;
                moment.machines += 1;
            } else {
                let mut spec = job(&format!("job{}", moment.jobs), 1);
                let body = spec.body.get_or_insert_default();
                body.groups[0].env.insert("FILLER".to_owned(), "x".repeat(usize::try_from(filler_bytes).unwrap()));
                moment.revision = submit(channel, spec).await.revision;
                moment.jobs += 1;
            }
            self.twin.0.push(moment);
        }
        self.tell(format!("{many} commands, up to {:?}", self.twin.last()));
    }

    /// Waits until all is in the history, as long as that may come to it.
    async fn wait_for_history(&mut self, channel: &Channel) {
        let mut inspect = Inspect::new(channel.clone());
        for _ in 0..if self.is_harmed { 100 } else { 6000 } {
            let status = inspect.status(v1::StatusRequest {}).await.unwrap().into_inner();
            if status.history_revision >= status.revision {
                return self.tell(format!("the history has {} to {}", status.oldest_revision, status.history_revision));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(self.is_harmed, "the history does not come to the present");
        self.tell("the history is not at the present");
    }

    /// The past is told as it was, or not.
    async fn look_back(&mut self, channel: &Channel) {
        for _ in 0..4 {
            let revision = 1 + self.dice.roll(self.twin.last().revision);
            let told = shown(channel, Some(revision)).await;
            match told {
                Ok((machines, jobs)) => self.expect(self.twin.at(revision), &machines, &jobs),
                Err(error) => {
                    let code = code(&error);
                    assert!(NOT_TOLD.contains(&code.as_str()), "{revision}: {error}");
                    assert!(self.is_harmed || code != "DAMAGED_HISTORY", "{revision}: {error}");
                }
            }
        }
        self.tell("looked back");
    }

    fn expect(&self, moment: Moment, machines: &BTreeSet<String>, jobs: &BTreeSet<String>) {
        let names = |what: &str, many| (0..many).map(|number| format!("{what}{number}")).collect::<BTreeSet<_>>();
        assert!(*machines == names("m", moment.machines), "{moment:?}: {machines:?}");
        assert!(*jobs == names("job", moment.jobs), "{moment:?}: {jobs:?}");
    }

    async fn back_up(&mut self, channel: &Channel) {
        let path = self.new_path("backup");
        let manifest = back_up(channel, &path).await;
        assert!(manifest.revision >= self.twin.last().revision);
        self.tell(format!("a backup of revision {}", manifest.revision));
        self.backup = Some((path, self.twin.clone()));
    }

    async fn stop(&mut self, server: Handle, cleanly: bool) {
        self.tell(if cleanly { "stopped" } else { "killed" });
        if cleanly {
            server.shutdown().await.unwrap()
        } else {
            server.kill().await.unwrap()
        }
        self.is_marked = cleanly;
        assert!(self.is_sound() || self.is_harmed, "nobody has harmed it");
        if self.dice.once_in(3) {
            let older = self.new_path("older");
            copy_folder(&self.dir.join("history"), &older);
            self.older = Some(older);
            self.tell("its history is copied");
        }
    }

    fn is_sound(&mut self) -> bool {
        match verify(&self.dir) {
            Ok(report) => {
                let violations: Vec<_> = report.violations.iter().take(4).map(ToString::to_string).collect();
                if !violations.is_empty() {
                    self.tell(format!("verify: {violations:#?}"));
                }
                report.is_sound()
            }
            Err(error) => {
                assert_explained(error.code(), &error);
                self.tell(format!("verify fails: {error}"));
                false
            }
        }
    }
}

/// The names of machines and jobs that the cell shows, now or at a revision.
async fn shown(
    channel: &Channel,
    revision: Option<u64>,
) -> Result<(BTreeSet<String>, BTreeSet<String>), tonic::Status> {
    let at = revision.map(|revision| v1::At { revision, time_micros: 0 });
    let all = v1::ListRequest { at, limit: 10_000, ..Default::default() };
    let machines = Inspect::new(channel.clone()).list_machines(all.clone()).await?.into_inner().machines;
    let jobs = Jobs::new(channel.clone()).list(all).await?.into_inner().jobs;
    Ok((
        machines.into_iter().map(|machine| machine.name).collect(),
        jobs.into_iter().map(|job| job.shape.unwrap().name).collect(),
    ))
}

/// What is done to a directory that nobody uses.
impl Life {
    fn harm(&mut self) {
        if self.twin.0.is_empty() {
            return;
        }
        if self.unharmed.is_none() {
            let copy = self.new_path("unharmed");
            copy_folder(&self.dir, &copy);
            self.unharmed = Some(copy);
        }
        let (history, fallback) = (self.dir.join("history"), self.dir.join("fallback.backup"));
        let told = match self.dice.roll(10) {
            0 | 1 => self.move_history_away(&history),
            2 => self.put_history_back(&history),
            3 => {
                let gone = kept(&self.dir).into_iter().filter(|_| self.dice.once_in(2)).collect::<Vec<_>>();
                gone.iter().for_each(|path| std::fs::remove_file(path).unwrap());
                format!("kept segments are deleted: {gone:?}")
            }
            4 => format!("the fallback is deleted: {:?}", std::fs::remove_file(fallback)),
            5 => self.flip_one_of(&kept(&self.dir)),
            6 => self.flip_one_of(&[fallback]),
            7 if self.is_marked && self.dice.once_in(2) => {
                let mut log = files(&self.dir.join("log"));
                log.retain(|path| path.extension().is_some_and(|suffix| suffix == "segment"));
                self.flip_one_of(&log)
            }
            8 => {
                let mut all = Vec::new();
                collect(&history, &mut all);
                self.flip_one_of(&all)
            }
            _ => {
                let keyspaces = files(&history.join("store/keyspaces"));
                let mut tables: Vec<_> =
                    keyspaces.iter().flat_map(|keyspace| files(&keyspace.join("tables"))).collect();
                tables.extend(files(&history.join("images")));
                self.flip_one_of(&tables)
            }
        };
        self.is_harmed = true;
        self.tell(told);
    }

    fn move_history_away(&mut self, history: &Path) -> String {
        if history.exists() {
            let away = self.new_path("away");
            std::fs::rename(history, &away).unwrap();
            if self.dice.once_in(2) {
                self.older = Some(away);
            }
        }
        "the history is moved away".to_owned()
    }

    fn put_history_back(&mut self, history: &Path) -> String {
        let Some(older) = &self.older else { return "there is no older history".to_owned() };
        if history.exists() {
            std::fs::remove_dir_all(history).unwrap();
        }
        copy_folder(older, history);
        format!("{} is put back", older.display())
    }

    fn flip_one_of(&mut self, paths: &[PathBuf]) -> String {
        let there: Vec<_> = paths.iter().filter(|path| path.exists()).cloned().collect();
        let picked = self.dice.pick(&there);
        picked.map_or_else(|| "there is nothing to damage".to_owned(), |path| flip(&path, &mut self.dice))
    }

    fn back_up_folder(&mut self) {
        if self.twin.0.is_empty() {
            return;
        }
        let (path, is_sound) = (self.new_path("backup"), self.is_sound());
        let mut file = std::fs::File::create(&path).unwrap();
        match back_up_folder(&self.dir, &mut file, &path) {
            Ok(manifest) => {
                assert!(manifest.revision >= self.twin.last().revision, "{manifest:?}");
                assert_eq!(check_backup(&path).unwrap().revision, manifest.revision);
                self.tell(format!("a backup of the folder, of revision {}", manifest.revision));
                self.backup = Some((path, self.twin.clone()));
            }
            Err(error) => {
                assert_explained(error.code(), &error);
                assert!(!is_sound, "{error}");
                self.tell(format!("no backup of the folder: {error}"));
            }
        }
    }

    /// What is restored of a backup, or of the directory, is what was acknowledged; now and then the life goes on there.
    async fn restore(&mut self) {
        if self.twin.0.is_empty() {
            return;
        }
        let restored = if let Some((path, twin)) = self.backup.clone().filter(|_| self.dice.once_in(2)) {
            let target = self.new_path("cell");
            let restored = plenum_server::restore(&path, &target, &RestoreOptions::default()).unwrap();
            Some((target, restored, twin))
        } else {
            let is_sound = self.is_sound();
            let restored = self.restore_folder(false).await;
            assert!(restored.is_some() || !is_sound);
            restored
        };
        if let Some((target, restored, twin)) = restored {
            self.assert_restored(&target, &restored, &twin).await;
            if self.dice.once_in(4) {
                self.go_on_in(target, &restored, twin).await;
            }
        }
    }

    /// What can be restored of the directory, if anything.
    async fn restore_folder(&mut self, accept_loss: bool) -> Option<(PathBuf, Restored, Twin)> {
        let target = self.new_path("cell");
        let options = RestoreOptions { accept_loss, ..Default::default() };
        match plenum_server::restore(&self.dir, &target, &options) {
            Ok(restored) => {
                let last = self.twin.last().revision;
                match &restored.loss {
                    None => assert!(restored.manifest.revision >= last, "{last}: {restored:?}"),
                    Some(loss) => {
                        assert!(accept_loss && loss.kept_revision == restored.manifest.revision, "{restored:?}");
                        assert!(loss.last_known_revision >= last || loss.may_be_more, "{last}: {restored:?}");
                        assert!(!loss.damages.is_empty(), "{restored:?}");
                    }
                }
                Some((target, restored, self.twin.clone()))
            }
            Err(error) => {
                assert_explained(error.code(), &error);
                assert!(!target.exists());
                self.tell(format!("not restored: {error}"));
                None
            }
        }
    }

    async fn assert_restored(&mut self, target: &Path, restored: &Restored, twin: &Twin) {
        self.tell(format!("restored: {:?}, {:?}", restored.manifest, restored.loss));
        let report = verify(target).unwrap();
        assert!(report.is_sound(), "{:?}", report.violations);
        let server = Server::start(hasty(target)).await.unwrap();
        let (machines, jobs) = shown(&connect(&server).await, None).await.unwrap();
        self.expect(twin.at(restored.manifest.revision), &machines, &jobs);
        server.shutdown().await.unwrap();
    }

    async fn go_on_in(&mut self, target: PathBuf, restored: &Restored, mut twin: Twin) {
        self.tell(format!("it goes on in {}", target.display()));
        twin.0.retain(|moment| moment.revision <= restored.manifest.revision);
        (self.dir, self.unharmed, self.older, self.is_harmed, self.twin) = (target, None, None, false, twin);
        self.start_unharmed().await;
    }

    /// As of a small cell, or of a large one, whose page images go to files.
    fn options(&mut self) -> ServerOptions {
        let mut options = hasty(&self.dir);
        if self.dice.once_in(2) {
            options.settings.image_file_pages = 1;
        }
        options
    }

    async fn start_unharmed(&mut self) {
        match Server::start(self.options()).await {
            Ok(server) => self.started(server).await,
            Err(error) => panic!("{error:?}"),
        }
    }

    async fn start(&mut self) {
        let is_sound = !self.dir.exists() || self.is_sound();
        match Server::start(self.options()).await {
            Ok(server) => self.started(server).await,
            Err(error) => {
                self.tell(format!("refused: {error:?}"));
                assert_explained(error.code(), &error);
                assert!(!is_sound, "verify called it sound: {error}");
                self.mend().await;
            }
        }
    }

    /// Nothing that was acknowledged is lost, and nothing else is there.
    async fn started(&mut self, server: Handle) {
        self.tell("started");
        let channel = connect(&server).await;
        let (machines, jobs) = shown(&channel, None).await.unwrap();
        self.expect(self.twin.last(), &machines, &jobs);
        self.unharmed = None;
        self.running = Some((server, channel));
    }

    /// What an operator does where a start was refused.
    async fn mend(&mut self) {
        let accept_loss = self.dice.once_in(2);
        if let Some((target, restored, twin)) = self.restore_folder(accept_loss).await {
            self.assert_restored(&target, &restored, &twin).await;
            if self.dice.once_in(4) {
                return self.go_on_in(target, &restored, twin).await;
            }
        }
        let unharmed = self.unharmed.take().expect("it started last time, and nobody has harmed it since");
        std::fs::remove_dir_all(&self.dir).unwrap();
        std::fs::rename(unharmed, &self.dir).unwrap();
        self.tell("all is put back as it was when it was stopped");
        self.start_unharmed().await;
    }
}

/// The lives to try: a few, or those that a long run asks for.
fn seeds() -> std::ops::Range<u64> {
    let asked = std::env::var("PLENUM_SEEDS").unwrap_or_else(|_| "0..2".to_owned());
    let (first, end) = asked.split_once("..").expect("PLENUM_SEEDS is FIRST..END");
    first.parse().unwrap()..end.parse().unwrap()
}

#[tokio::test]
async fn whatever_a_directory_goes_through_nothing_is_lost_unnoticed_and_nothing_wrong_is_told() {
    for seed in seeds() {
        let mut life = Life::new(seed);
        life.start().await;
        for _ in 0..STEPS {
            life.step().await;
        }
        if life.running.is_none() {
            life.start().await;
        }
        let (server, channel) = life.running.take().unwrap();
        life.look_back(&channel).await;
        life.stop(server, true).await;
    }
}

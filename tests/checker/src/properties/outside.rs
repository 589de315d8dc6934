//! What happens around a cell: a disk that fills up, a log that is damaged, watchers that do not read. The evidence is gathered by
//! whoever does it to the cell.

use crate::calls::Reply;
use crate::chronicle::Chronicle;
use crate::picture::Picture;
use crate::stream::{Event, Recording};
use crate::violation::Violation;

/// A moment of a run whose disk fills up and is freed again, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum FullDisk {
    /// There is too little room from now on.
    Fills,
    /// There is room again, and the cell has been given the time, or the restart, that it asked for.
    Frees,
    /// Somebody committed, and was told this.
    Commit(Reply),
    /// Somebody read, or followed a stream; why it did not work, if it did not.
    Read(Option<String>),
    /// An agent renewed its lease; why it could not, if so.
    Heartbeat(Option<String>),
    /// What the cell says of itself: why it takes no changes.
    Status(String),
}

/// What somebody tried while the disk was full.
#[derive(Default)]
struct Tried {
    commit: bool,
    read: bool,
    heartbeat: bool,
    status: bool,
}

/// `RESOURCE_EXHAUSTED` of `google.rpc`.
const RESOURCE_EXHAUSTED: i32 = 8;

/// With a full disk the cell refuses commits, saying where how much is free and how much is needed, and says of itself that it is
/// read-only; everything that only reads goes on, and so do the leases of agents; and when there is room again, so do commits.
#[must_use]
pub fn property_a_full_disk_only_refuses(events: &[FullDisk]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut found = |what: String| violations.push(Violation::FullDisk { what });
    let (mut full, mut after) = (false, None);
    let mut tried = Tried::default();
    for event in events {
        match event {
            FullDisk::Fills => full = true,
            FullDisk::Frees => (full, after) = (false, Some(false)),
            FullDisk::Commit(reply) if full => match reply {
                Reply::Failed { status: RESOURCE_EXHAUSTED, message, .. } => {
                    tried.commit = true;
                    // A path may have digits, too.
                    let (paths, words): (Vec<_>, Vec<_>) = message.split_whitespace().partition(|it| it.contains('/'));
                    let numbers = words.iter().filter(|word| word.starts_with(|first: char| first.is_ascii_digit()));
                    if paths.is_empty() || numbers.count() < 2 {
                        found(format!("a refusal names no path, free and needed bytes: {message}"));
                    }
                }
                other => found(format!("a commit was answered {other:?} while the disk was full")),
            },
            FullDisk::Commit(Reply::Outcome(_) | Reply::Revision(_)) => after = after.map(|_| true),
            FullDisk::Commit(_) => {}
            FullDisk::Read(Some(why)) => found(format!("a reader failed: {why}")),
            FullDisk::Read(None) => tried.read |= full,
            FullDisk::Heartbeat(Some(why)) => found(format!("an agent could not renew its lease: {why}")),
            FullDisk::Heartbeat(None) => tried.heartbeat |= full,
            FullDisk::Status(read_only) if full && read_only.is_empty() => {
                found("the cell does not say that it is read-only".to_owned());
            }
            FullDisk::Status(read_only) if !full && !read_only.is_empty() => {
                found(format!("there is room, and the cell says that it is read-only: {read_only}"));
            }
            FullDisk::Status(_) => tried.status |= full,
        }
    }
    let Tried { commit, read, heartbeat, status } = tried;
    if !(commit && read && heartbeat && status) {
        found(
            "nobody tried to commit, to read, to renew a lease and to ask for the status while the disk was full"
                .into(),
        );
    }
    if after != Some(true) {
        found("no commit worked after there was room again".to_owned());
    }
    violations
}

/// What was done to the log of a stopped cell, and what its next start made of it.
#[derive(Clone, Debug)]
pub struct Damage {
    /// The file's name and the offset in it at which the damage begins, with a space between.
    pub place: String,
    /// The highest revision that anybody was told of.
    pub acknowledged: u64,
    /// What the next start made of it.
    pub made: Made,
}

/// What a start made of a damaged log.
#[derive(Clone, Debug)]
pub enum Made {
    /// It serves, with this picture; its own start is the last revision in it.
    Started(Box<Picture>),
    /// It does not, and says why.
    Refused(String),
    /// It crashed, or took memory out of all proportion.
    Crashed(String),
}

/// Damage to a log either takes nothing that was acknowledged, and then the cell is at a prefix of its history; or the start fails
/// and names file, offset and revision. Never a shorter history, never another one or a longer one, never a crash. The chronicle is to reach
/// the last revision of the stopped cell.
#[must_use]
pub fn property_damage_is_named(chronicle: &Chronicle, damages: &[Damage]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for damage in damages {
        let what = match &damage.made {
            Made::Crashed(why) => Some(format!("the start crashed: {why}")),
            Made::Refused(message) => unnamed(message, &damage.place),
            Made::Started(picture) => other_history(chronicle, picture, damage.acknowledged),
        };
        violations.extend(what.map(|what| Violation::DamageUnnamed { place: damage.place.clone(), what }));
    }
    violations
}

/// Records of a log begin with a sector.
const SECTOR_BYTES: u64 = 512;

fn unnamed(message: &str, place: &str) -> Option<String> {
    let file = place.split_whitespace().next().unwrap_or(place);
    // Zeros are said to be zeros, not found to be them; and a log that is too short is said to end.
    let found = ["zeros", "ends with"].into_iter().find(|word| message.contains(word)).unwrap_or("found");
    let missing = [file, "offset", "revision", "expected", found].into_iter().find(|word| !message.contains(word));
    if let Some(word) = missing {
        return Some(format!("the start failed without `{word}`: {message}"));
    }
    // What it names begins at the damage or before it; or with the next sector, where the damage begins in what fills one up.
    let told = message.split_once(file).and_then(|(_, rest)| number(rest.split_once("offset ")?.1));
    let at = place.split_whitespace().nth(1).and_then(number);
    let is_behind = told.zip(at).is_none_or(|(told, at)| told > at.next_multiple_of(SECTOR_BYTES));
    is_behind.then(|| format!("the start names no offset up to the damage at {place}: {message}"))
}

/// The number that a text begins with.
fn number(text: &str) -> Option<u64> {
    text.trim_start().split(|it: char| !it.is_ascii_digit()).next()?.parse().ok()
}

fn other_history(chronicle: &Chronicle, picture: &Picture, acknowledged: u64) -> Option<String> {
    let recovered = picture.revision - 1;
    if recovered < acknowledged {
        return Some(format!("revision {acknowledged} was acknowledged, and the cell came back at {recovered}"));
    }
    if recovered > chronicle.newest() {
        return Some(format!("the cell came back at {recovered}, and had ended at {}", chronicle.newest()));
    }
    let Some(folded) = chronicle.picture_at(recovered) else {
        return Some(format!("it came back at {recovered}, and nobody heard what the cell was then"));
    };
    // A start changes nothing but the time, and the term, which is its own.
    let mut same = Picture { revision: recovered, time_micros: folded.time_micros, ..picture.clone() };
    if let (Some(own), Some(before)) = (&mut same.cell, &folded.cell) {
        own.term = before.term;
    }
    same.first_difference(&folded).map(|difference| format!("the cell came back as another one: {difference}"))
}

/// A run with watchers that stopped reading for a while.
#[derive(Clone, Debug, Default)]
pub struct SlowWatchers {
    /// What those heard who stopped reading, and read on later.
    pub stalled: Vec<Recording>,
    /// What those heard who read all the time.
    pub reading: Vec<Recording>,
    /// The revision that all were to reach.
    pub target: u64,
    /// What the server took before, and while they did not read.
    pub memory_bytes: (u64, u64),
    /// What it may take more.
    pub memory_bound_bytes: u64,
}

/// Watchers that do not read cost no memory beyond a bound; they are begun anew and reach everybody else's picture; and those who
/// read hear every delta meanwhile.
#[must_use]
pub fn property_slow_watchers_cost_nobody(chronicle: &Chronicle, run: &SlowWatchers) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut found = |watcher: &str, what: String| {
        violations.push(Violation::SlowWatcher { watcher: watcher.to_owned(), what });
    };
    let grown = run.memory_bytes.1.saturating_sub(run.memory_bytes.0);
    if grown > run.memory_bound_bytes {
        found("all", format!("the server took {grown} bytes more, of {} at most", run.memory_bound_bytes));
    }
    for recording in &run.stalled {
        if resyncs(recording) == 0 {
            found(&recording.name, "it was not begun anew".to_owned());
        }
    }
    for recording in &run.reading {
        if resyncs(recording) > 0 {
            found(&recording.name, "it read all the time and was begun anew".to_owned());
        }
    }
    for recording in run.stalled.iter().chain(&run.reading) {
        let reached = recording.revision().unwrap_or(0);
        if reached < run.target {
            found(&recording.name, format!("it came to revision {reached}, and all were to reach {}", run.target));
            continue;
        }
        let last = Chronicle::of(std::slice::from_ref(recording)).ok().and_then(|all| all.into_iter().last());
        let own = last.and_then(|last| last.picture_at(run.target.max(last.segments.last()?.start.revision)));
        let Some(own) = own else {
            found(&recording.name, "what it heard gives no picture".to_owned());
            continue;
        };
        let difference = match chronicle.picture_at(own.revision) {
            Some(picture) => own.first_difference(&picture),
            None => Some(format!("nobody else heard what the cell was at {}", own.revision)),
        };
        if let Some(difference) = difference {
            found(&recording.name, format!("it reached another picture: {difference}"));
        }
    }
    violations
}

/// How often a watcher was begun anew: with a snapshot, and not at the beginning.
fn resyncs(recording: &Recording) -> usize {
    let welcomes = recording.events.iter().filter_map(|event| match event {
        Event::Welcome(welcome) => Some(welcome.snapshot),
        _ => None,
    });
    welcomes.skip(1).filter(|snapshot| *snapshot).count()
}

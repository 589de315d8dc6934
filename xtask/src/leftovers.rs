//! What an example leaves on the machine after its end: processes of the release build, all else that it started, and control groups.
//!
//! Things are named, never removed: somebody may have started a cell of their own meanwhile, and what an example
//! forgot is evidence.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// How long something may still be seen after the example's end: what init adopts takes a moment to go.
const GRACE: Duration = Duration::from_secs(5);
/// Where every Linux mounts its control groups, of either version.
const CGROUPS: &str = "/sys/fs/cgroup";
/// The agents' folder in each hierarchy.
const OUR_GROUP: &str = "plenum";

/// What there was at one moment.
pub(crate) struct Traces {
    /// Where the programs lie whose processes count.
    programs: PathBuf,
    /// The example's own folder: whatever it starts has that in its environment, and so have the tasks of a cell that lies there.
    folder: PathBuf,
    cgroups: PathBuf,
    processes: BTreeSet<u32>,
    groups: BTreeSet<PathBuf>,
}

impl Traces {
    /// Looks at this machine before an example starts; `programs` is the folder of the release build, `folder` that of the example.
    pub(crate) fn before(programs: &Path, folder: &Path) -> Self {
        Self::taken(programs, folder, Path::new(CGROUPS))
    }

    fn taken(programs: &Path, folder: &Path, cgroups: &Path) -> Self {
        // Links in /proc are resolved ones.
        let programs = fs::canonicalize(programs).unwrap_or_else(|_| programs.to_owned());
        let processes = processes_of(&programs, folder);
        let groups = idle_groups(cgroups);
        Self { programs, folder: folder.to_owned(), cgroups: cgroups.to_owned(), processes, groups }
    }

    /// What is there now, was not before, and doesn't go within a few seconds: a sentence for each.
    pub(crate) fn left(&self) -> Vec<String> {
        self.left_after(GRACE)
    }

    fn left_after(&self, grace: Duration) -> Vec<String> {
        let started = Instant::now();
        loop {
            let now = Self::taken(&self.programs, &self.folder, &self.cgroups);
            let processes = now.processes.difference(&self.processes).map(|id| format!("process {id}"));
            let groups = now.groups.difference(&self.groups).map(|path| format!("cgroup {}", path.display()));
            let left: Vec<String> = processes.chain(groups).collect();
            if left.is_empty() || started.elapsed() >= grace {
                return left;
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}

/// The ids of all processes whose program lies in `programs`, or whose environment names `folder`.
fn processes_of(programs: &Path, folder: &Path) -> BTreeSet<u32> {
    let named = folder.as_os_str().as_encoded_bytes();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_of_a_program = |id: u32| fs::read_link(format!("/proc/{id}/exe")).is_ok_and(|exe| exe.starts_with(programs));
    let names_it = |id: u32| {
        let variables = fs::read(format!("/proc/{id}/environ"));
        variables.is_ok_and(|all| all.windows(named.len()).any(|part| part == named))
    };
    ids.filter(|id| is_of_a_program(*id) || names_it(*id)).collect()
}

/// The agents' groups in which, and below which, no process is. One with a process belongs to a cell that runs.
fn idle_groups(cgroups: &Path) -> BTreeSet<PathBuf> {
    let mut all = BTreeSet::new();
    collect_groups(cgroups, false, &mut all);
    let busy: Vec<PathBuf> = all
        .iter()
        .filter(|group| fs::read_to_string(group.join("cgroup.procs")).is_ok_and(|ids| !ids.trim().is_empty()))
        .cloned()
        .collect();
    all.into_iter().filter(|group| !busy.iter().any(|other| other.starts_with(group))).collect()
}

fn collect_groups(folder: &Path, inside_ours: bool, found: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let ours = inside_ours || entry.file_name() == OUR_GROUP;
            if ours {
                found.insert(entry.path());
            }
            collect_groups(&entry.path(), ours, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_that_outlives_its_example_is_named() {
        let programs = Path::new("/usr/bin");
        let nowhere = Path::new("/nowhere");
        let before = Traces::taken(programs, nowhere, nowhere);
        let mut sleeper = Command::new("sleep").arg("60").spawn().expect("every system has a sleep");
        let left = before.left_after(Duration::from_millis(300));
        sleeper.kill().expect("it is our child");
        sleeper.wait().expect("it is our child");
        assert!(left.contains(&format!("process {}", sleeper.id())), "{left:?}");
    }

    // A server in another language, and a task whose shim had gone, were somebody else's.
    #[test]
    fn a_process_of_whatever_program_is_named_if_the_example_started_it() {
        let nowhere = Path::new("/nowhere");
        let folder = std::env::temp_dir().join(format!("plenum-xtask-example-{}", std::process::id()));
        let before = Traces::taken(nowhere, &folder, nowhere);
        let mut command = Command::new("sleep");
        command.arg("60").env("PLENUM_TASK_DIR", folder.join("cell/tasks/7-1"));
        let mut sleeper = command.spawn().expect("every system has a sleep");
        // The kernel shows the environment of a program a moment after it has begun.
        let variables = format!("/proc/{}/environ", sleeper.id());
        let began = Instant::now();
        while fs::read(&variables).is_ok_and(|shown| shown.is_empty()) && began.elapsed() < Duration::from_secs(10) {
            thread::sleep(Duration::from_millis(1));
        }
        let left = before.left_after(Duration::from_millis(300));
        sleeper.kill().expect("it is our child");
        sleeper.wait().expect("it is our child");
        assert_eq!(left, [format!("process {}", sleeper.id())]);
    }

    #[test]
    fn an_idle_group_is_left_over_and_a_busy_one_is_somebody_elses() {
        let root = std::env::temp_dir().join(format!("plenum-xtask-groups-{}", std::process::id()));
        let nowhere = Path::new("/nowhere");
        fs::create_dir_all(root.join("memory")).expect("the temporary folder is writable");
        let before = Traces::taken(nowhere, nowhere, &root);
        for (group, processes) in [("memory/plenum/m1/7-1", "42\n"), ("memory/plenum/m2", ""), ("memory/other", "")] {
            fs::create_dir_all(root.join(group)).expect("the temporary folder is writable");
            fs::write(root.join(group).join("cgroup.procs"), processes).expect("the temporary folder is writable");
        }
        let left = before.left_after(Duration::ZERO);
        fs::remove_dir_all(&root).expect("the temporary folder is ours");
        assert_eq!(left, [format!("cgroup {}", root.join("memory/plenum/m2").display())]);
    }
}

//! Where an agent keeps what: the layout of its directory. Every path component is made here, from numbers only.
//!
//! ```text
//! <agent>/lock                     held while an agent uses the directory
//! <agent>/allocs/alloc-<slot>-<generation>/
//!     spec.json                    what to run, with the number of the restart; written before a shim is started
//!     record-<restart>             the one shim that may run this restart: made by it, once
//!     running-<restart>            the command was started
//!     exit-<restart>               how it ended; nothing of it ran any more when this was written
//!     exit.reserved                room for that, while it runs
//!     ended                        the cell knows of the end; kept for its logs only
//!     stdout-<offset>.log, stderr-<offset>.log
//!     task/                        the task's working directory; removed when the cell knows of the end
//! <agent>/jobs/job-<slot>-<generation>-v<version>/    shared by the tasks of one version of a job on this machine
//! <agent>/allocs/.removed-*, <agent>/jobs/.removed-*    what is being removed
//! <agent>/instance                 which agent this directory makes
//! <agent>/instance-place           which file that stands in, by which a copied directory is told
//! <agent>/cell.json                which cell it belongs to, under which name, and what it has seen of it
//! ```

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use plenum_model::{AllocationId, JobId};

/// Ids of the model in files: as numbers, as they are on the wire.
pub(crate) mod id_as_number {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    /// An id that has a number.
    pub(crate) trait Id: Copy {
        fn to_number(self) -> u64;
        fn from_number(number: u64) -> Option<Self>;
    }

    impl Id for plenum_model::AllocationId {
        fn to_number(self) -> u64 {
            self.to_bits()
        }

        fn from_number(number: u64) -> Option<Self> {
            Self::from_bits(number)
        }
    }

    impl Id for plenum_model::JobId {
        fn to_number(self) -> u64 {
            self.to_bits()
        }

        fn from_number(number: u64) -> Option<Self> {
            Self::from_bits(number)
        }
    }

    pub(crate) fn serialize<I: Id, S: Serializer>(id: &I, serializer: S) -> Result<S::Ok, S::Error> {
        id.to_number().serialize(serializer)
    }

    pub(crate) fn deserialize<'de, I: Id, D: Deserializer<'de>>(deserializer: D) -> Result<I, D::Error> {
        I::from_number(u64::deserialize(deserializer)?).ok_or_else(|| D::Error::custom("an id's generation is never 0"))
    }
}

/// Gives the owner of a directory back what a task took from him with `chmod`, which without namespaces can also enter what is above its own: an
/// ordinary user could not enter it any more.
pub(crate) fn let_owner_in(directory: &Path) {
    const ALL: u32 = 0o700;
    let mode = fs::metadata(directory).map_or(ALL, |metadata| metadata.permissions().mode());
    if mode & ALL != ALL {
        // Where it fails, entering it says why.
        let _ = fs::set_permissions(directory, fs::Permissions::from_mode(mode | ALL));
    }
}

/// Others than the owner pass through our directories, as tasks that change their user must, and don't look into them.
const OTHERS_PASS: u32 = 0o711;
/// What they may not do there.
const OTHERS_LOOK_OR_WRITE: u32 = 0o066;

/// Makes a directory of ours, and those above it that are not there. One that is there stays as it is.
pub(crate) fn make(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(OTHERS_PASS).create(directory)
}

/// Lets others than the owner pass through a directory at most. What is none, as what a task may have put in its place, stays as it is.
fn close_to_others(directory: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(directory)?;
    let mode = metadata.permissions().mode();
    if !metadata.is_dir() || mode & OTHERS_LOOK_OR_WRITE == 0 {
        return Ok(());
    }
    fs::set_permissions(directory, fs::Permissions::from_mode(mode & !OTHERS_LOOK_OR_WRITE))
}

/// How the names of all begin that is in an agent's directory; the last one is of a disk that is mounted there.
const OUR_NAMES: [&str; 7] = ["allocs", "cell.json", "instance", "jobs", "lock", "probe", "lost+found"];

/// What is written beside allocations to find out whether anything can be.
pub(crate) const PROBE_OF_ALLOCATIONS: &str = ".probe";

/// The directory of one agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentDirectory(PathBuf);

impl AgentDirectory {
    /// `root` need not exist yet. It should be absolute: shims have another working directory.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self(root)
    }

    /// The directory itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.0
    }

    /// The file that is locked while an agent uses the directory.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }

    /// Lets others than the owner pass through its directories at most: earlier versions let them look into these. The log says once where that
    /// can't be.
    pub(crate) fn close_to_others(&self) {
        let allocations = fs::read_dir(self.allocations()).into_iter().flatten().flatten().map(|entry| entry.path());
        let own = self.is_ours_alone().then(|| self.0.clone());
        let all = own.into_iter().chain([self.allocations(), self.jobs()]).chain(allocations);
        let failed =
            all.filter_map(|directory| close_to_others(&directory).err().map(|error| (directory, error))).last();
        if let Some((directory, error)) = failed {
            let directory = directory.display();
            tracing::warn!(%error, %directory, "can't keep others from looking into what the agent keeps");
        }
    }

    /// True when all that is in it is ours. One that is everybody's, as `/tmp`, or somebody's home, may have been named by mistake.
    fn is_ours_alone(&self) -> bool {
        const STICKY: u32 = 0o1000;
        let is_ours = |name: &OsStr| OUR_NAMES.iter().any(|ours| name.as_encoded_bytes().starts_with(ours.as_bytes()));
        let is_everybodys = fs::metadata(&self.0).is_ok_and(|found| found.permissions().mode() & STICKY != 0);
        !is_everybodys
            && fs::read_dir(&self.0).is_ok_and(|entries| entries.flatten().all(|entry| is_ours(&entry.file_name())))
    }

    /// What is written to find out whether anything can be.
    #[must_use]
    pub(crate) fn probe(&self) -> PathBuf {
        self.0.join("probe")
    }

    /// Where allocations are.
    #[must_use]
    pub fn allocations(&self) -> PathBuf {
        self.0.join("allocs")
    }

    /// Where one allocation is.
    #[must_use]
    pub fn allocation(&self, key: AllocationId) -> AllocationDirectory {
        AllocationDirectory(self.allocations().join(key.to_string()))
    }

    /// The same beside these: they may be on a disk of their own, or be writable no more. Nothing takes it for one of them.
    #[must_use]
    pub(crate) fn probe_of_allocations(&self) -> PathBuf {
        self.allocations().join(PROBE_OF_ALLOCATIONS)
    }

    /// Where jobs are.
    #[must_use]
    pub fn jobs(&self) -> PathBuf {
        self.0.join("jobs")
    }

    /// What the tasks of one version of a job share.
    #[must_use]
    pub fn job(&self, key: JobId, version: u32) -> PathBuf {
        self.jobs().join(format!("{key}-v{version}"))
    }
}

/// The directory of one allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllocationDirectory(PathBuf);

impl AllocationDirectory {
    /// The directory of a shim that was told this path.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// The directory itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.0
    }

    /// Gives the owner of this directory, and of the agent's that it is in, back what a task took from him.
    pub(crate) fn let_owner_in(&self) {
        let own: Vec<_> = self.0.ancestors().take(3).collect();
        // From the outermost one: nobody can look into another before.
        own.into_iter().rev().for_each(let_owner_in);
    }

    /// The agent's directory that it is in.
    pub(crate) fn agent(&self) -> Option<PathBuf> {
        Some(self.0.parent()?.parent()?.to_owned())
    }

    pub(crate) fn spec(&self) -> PathBuf {
        self.0.join("spec.json")
    }

    pub(crate) fn record(&self, restart: u32) -> PathBuf {
        self.0.join(format!("record-{restart}"))
    }

    pub(crate) fn running(&self, restart: u32) -> PathBuf {
        self.0.join(format!("running-{restart}"))
    }

    pub(crate) fn exit(&self, restart: u32) -> PathBuf {
        self.0.join(format!("exit-{restart}"))
    }

    /// The latest start of those of which an end is written down here.
    ///
    /// # Errors
    /// When that can't be found out, such as without a descriptor left.
    pub(crate) fn last_ended(&self) -> io::Result<Option<u32>> {
        let restart_of = |name: &OsStr| name.to_str()?.strip_prefix("exit-")?.parse::<u32>().ok();
        let mut last: Option<u32> = None;
        for entry in fs::read_dir(&self.0)? {
            last = last.max(restart_of(&entry?.file_name()));
        }
        Ok(last)
    }

    /// How that one ended, as far as that can be found out.
    pub(crate) fn last_exit(&self) -> Option<PathBuf> {
        self.last_ended().ok().flatten().map(|last| self.exit(last))
    }

    pub(crate) fn exit_reserved(&self) -> PathBuf {
        self.0.join("exit.reserved")
    }

    pub(crate) fn ended(&self) -> PathBuf {
        self.0.join("ended")
    }

    /// The task's working directory.
    #[must_use]
    pub fn task(&self) -> PathBuf {
        self.0.join("task")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const KEY: AllocationId = AllocationId { slot: 1, generation: 1 };

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// An agent's directory in which everybody may look, as earlier versions made it.
    fn open_to_all(root: &Path) -> AgentDirectory {
        let agent = AgentDirectory::new(root.to_owned());
        fs::create_dir_all(agent.allocation(KEY).task()).unwrap();
        fs::create_dir_all(agent.job(JobId { slot: 1, generation: 1 }, 1)).unwrap();
        fs::write(agent.lock(), "").unwrap();
        for open in
            [root, &agent.allocations(), agent.allocation(KEY).root(), &agent.allocation(KEY).task(), &agent.jobs()]
        {
            set_mode(open, 0o775);
        }
        agent
    }

    // Of what can't be listed no end was known: a restored cell had what had completed run once more.
    #[test]
    fn which_start_ended_last_is_not_known_where_it_cannot_be_found_out() {
        let place = tempfile::tempdir().unwrap();
        let directory = AllocationDirectory::new(place.path().join("task"));
        fs::write(directory.root(), "").unwrap();
        assert!(directory.last_ended().is_err() && directory.last_exit().is_none());
        fs::remove_file(directory.root()).unwrap();
        fs::create_dir(directory.root()).unwrap();
        assert_eq!(directory.last_ended().unwrap(), None);
        for file in [directory.exit(9), directory.exit(10), directory.record(11), directory.exit_reserved()] {
            fs::write(file, "").unwrap();
        }
        assert_eq!(directory.last_ended().unwrap(), Some(10));
    }

    // All users of the machine saw which tasks had run there, and what each had written.
    #[test]
    fn others_pass_through_what_the_agent_keeps_and_do_not_look_into_it() {
        let place = tempfile::tempdir().unwrap();
        let agent = open_to_all(place.path());
        let made = agent.allocation(AllocationId { slot: 2, generation: 1 });
        make(made.root()).unwrap();
        assert_eq!(mode(made.root()) & OTHERS_LOOK_OR_WRITE, 0);
        make(&agent.allocations()).unwrap();
        assert_eq!(mode(&agent.allocations()), 0o775, "what is there stays as it is");
        agent.close_to_others();
        for closed in [agent.root(), &agent.allocations(), agent.allocation(KEY).root(), &agent.jobs()] {
            assert_eq!(mode(closed), 0o711, "{}", closed.display());
        }
        assert_eq!(mode(&agent.allocation(KEY).task()), 0o775, "that is the task's own");
    }

    // Who named such a directory by mistake would have shut everybody else out of it.
    #[test]
    fn a_directory_that_is_not_the_agents_alone_stays_open() {
        let (home, temporary) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(home.path().join("letter"), "").unwrap();
        for (place, own) in [(&home, 0o755), (&temporary, 0o1777)] {
            let agent = open_to_all(place.path());
            set_mode(agent.root(), own);
            agent.close_to_others();
            assert_eq!((mode(agent.root()), mode(&agent.allocations())), (own, 0o711));
        }
    }

    #[test]
    fn what_a_task_put_in_the_place_of_a_directory_is_not_followed() {
        let (place, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let agent = open_to_all(place.path());
        set_mode(elsewhere.path(), 0o755);
        let link = agent.allocation(AllocationId { slot: 2, generation: 1 });
        std::os::unix::fs::symlink(elsewhere.path(), link.root()).unwrap();
        agent.close_to_others();
        assert_eq!(mode(elsewhere.path()), 0o755);
    }
}

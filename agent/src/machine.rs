//! What this machine is: what the agent offers to the cell.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use plenum_model::{AMOUNT_MAX, Device, is_name};

use crate::{cgroup::Version, process};

/// One part in this many is what file systems set aside for root, unless they are told otherwise.
const SET_ASIDE_PART: u64 = 20;
/// Memory that is not offered, unless it is told how much: one part in so many, and at least so much. The kernel has its own of it, and the
/// agent, and the parents of tasks: some 1.2 MB a task, which no claim counts; and often a server on the same machine.
const MEMORY_ASIDE_PART: u64 = 20;
const MEMORY_ASIDE_MIN: u64 = 256 << 20;
/// But never more than one part in so many: a small machine shall run something, too.
const MEMORY_ASIDE_PART_MOST: u64 = 4;
/// One part in this many of what is set aside is in the limit of all tasks together: the kernel counts some of its own there.
const MEMORY_ASIDE_LIMIT_PART: u64 = 4;

/// A machine as its agent found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Its name in the cell; also a path component of its cgroups.
    pub name: String,
    /// Changes with every boot.
    pub boot_id: String,
    /// Processor time on offer, in thousandths of a processor.
    pub cpu_millis: u64,
    /// Memory on offer.
    pub memory_bytes: u64,
    /// What all tasks together may take of it: what is on offer, and a part of what is set aside. The kernel counts there what it needs itself to keep
    /// tasks apart, and none is to be killed for that.
    pub memory_limit_bytes: u64,
    /// Room on offer on the disk of the agent's directory, in use or not; at most [`AMOUNT_MAX`].
    pub disk_bytes: u64,
    /// Without `attr.` in front: `kernel`, `arch`, `os`, `cgroup`.
    pub attributes: BTreeMap<String, String>,
    /// Its devices, as it was told.
    pub devices: Vec<Device>,
    /// Resources that the cell has named, by these names.
    pub resources: BTreeMap<String, u64>,
}

/// What is told to the discovery rather than found.
#[derive(Clone, Debug)]
pub struct Discovery {
    /// The machine's name.
    pub name: String,
    /// Offer one part in this many of everything; at least 1.
    pub shares: u32,
    /// Memory of the machine that is not offered, before it is divided into shares; `None`: as much as is usual.
    pub memory_aside: Option<u64>,
    /// The file system whose size is offered.
    pub directory: PathBuf,
    /// The cgroup interface that tasks will be limited by.
    pub cgroup: Option<Version>,
    /// Attributes that are told; they win over those that are found.
    pub attributes: BTreeMap<String, String>,
    /// Devices that are told: how many of each kind, and their model. None are found by looking.
    pub devices: Vec<Device>,
    /// Resources that are told, by the names that the cell has given them. Each share offers all of them.
    pub resources: BTreeMap<String, u64>,
}

/// The name that was told, or the host's in small letters.
///
/// # Errors
/// When it can't be a machine's name (see [`is_name`]).
pub fn name(told: Option<&str>) -> io::Result<String> {
    let name = match told {
        Some(name) => name.to_owned(),
        None => rustix::system::uname().nodename().to_string_lossy().to_lowercase(),
    };
    if is_name(&name, true) {
        return Ok(name);
    }
    let message = format!(
        "name {name:?}: expected 1 to 63 of a-z, 0-9, '-' and '.', beginning and ending with a letter or a digit; give it another name"
    );
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}

/// Looks at this machine.
///
/// # Errors
/// When the kernel doesn't tell, or all memory is to be set aside.
pub fn discover(discovery: &Discovery) -> io::Result<Machine> {
    let system = rustix::system::uname();
    let shares = u64::from(discovery.shares.max(1));
    let processors = std::thread::available_parallelism()?.get() as u64;
    let memory_bytes = memory_bytes()?;
    let offered_bytes = offered_memory(memory_bytes, discovery.memory_aside)?;
    let limit_bytes = offered_bytes + (memory_bytes - offered_bytes) / MEMORY_ASIDE_LIMIT_PART;
    let cgroup = discovery.cgroup.map_or("none", Version::name);
    let attributes = [
        ("arch", std::env::consts::ARCH.to_owned()),
        ("cgroup", cgroup.to_owned()),
        ("kernel", kernel_version(&system.release().to_string_lossy())),
        ("os", std::env::consts::OS.to_owned()),
    ];
    Ok(Machine {
        name: discovery.name.clone(),
        boot_id: process::boot_id().to_owned(),
        cpu_millis: processors * 1000 / shares,
        memory_bytes: offered_bytes / shares,
        memory_limit_bytes: limit_bytes / shares,
        disk_bytes: offered_disk(disk_bytes(&discovery.directory)?, shares),
        attributes: attributes
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .chain(discovery.attributes.clone())
            .collect(),
        devices: discovery.devices.clone(),
        resources: discovery.resources.clone(),
    })
}

/// The leading digits and dots: `6.18.44-cloud` is `6.18.44`, so that it compares as a version.
fn kernel_version(release: &str) -> String {
    let end = release.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(release.len());
    release[..end].trim_end_matches('.').to_owned()
}

/// All memory, or less where the agent itself is confined.
fn memory_bytes() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/meminfo: expected a line 'MemTotal: … kB'"))?;
    let total = kib.saturating_mul(1024);
    let limits = ["/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory.max"];
    let limit = limits.iter().find_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok());
    Ok(total.min(limit.unwrap_or(u64::MAX)))
}

/// How many processes and threads the tasks of an agent may have together: of all that the machine can have at once three quarters, divided by its
/// shares.
///
/// # Errors
/// When the kernel doesn't tell.
pub fn pids_of_tasks(shares: u32) -> io::Result<u32> {
    let read = |path: &str| {
        let text = fs::read_to_string(path)?;
        text.trim().parse::<u64>().map_err(|error| io::Error::other(format!("{path}: {error}")))
    };
    let all = read("/proc/sys/kernel/pid_max")?.min(read("/proc/sys/kernel/threads-max")?);
    Ok(tasks_part_of_pids(all, shares))
}

fn tasks_part_of_pids(all: u64, shares: u32) -> u32 {
    let part = all.saturating_mul(3) / 4 / u64::from(shares.max(1));
    u32::try_from(part).unwrap_or(u32::MAX).max(1)
}

/// All memory but what is set aside.
fn offered_memory(all: u64, told: Option<u64>) -> io::Result<u64> {
    let usual = (all / MEMORY_ASIDE_PART).max(MEMORY_ASIDE_MIN).min(all / MEMORY_ASIDE_PART_MOST);
    let aside = told.unwrap_or(usual);
    let left = all.checked_sub(aside).filter(|left| *left > 0);
    left.ok_or_else(|| {
        let message = format!("memory_aside is {aside}; expected less than the {all} bytes of memory that it has");
        io::Error::new(io::ErrorKind::InvalidInput, message)
    })
}

/// A share of the disk, and no more than a cell takes of one machine.
fn offered_disk(all: u64, shares: u64) -> u64 {
    (all / shares).min(AMOUNT_MAX)
}

/// The whole file system, less what is set aside for root. Not what is free at the moment: that counts what tasks use a
/// second time, and makes another machine of each registration.
fn disk_bytes(directory: &Path) -> io::Result<u64> {
    let file_system = rustix::fs::statvfs(directory)?;
    let blocks = offered_blocks(file_system.f_blocks, file_system.f_bfree, file_system.f_bavail);
    Ok(blocks.saturating_mul(file_system.f_frsize))
}

/// All blocks but those that are set aside for root. How many these are shows in what is free for root only, as long as anything is free for others:
/// after that root uses them up. Then it is taken to be as many as usual, or else a disk would be the larger the fuller it is.
fn offered_blocks(all: u64, free: u64, free_for_others: u64) -> u64 {
    let for_root = free.saturating_sub(free_for_others);
    let set_aside = if free_for_others > 0 { for_root } else { for_root.max(all / SET_ASIDE_PART) };
    all.saturating_sub(set_aside)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn discovery() -> Discovery {
        let attributes = BTreeMap::from([("rack".to_owned(), "r1".to_owned())]);
        Discovery {
            name: "m1".to_owned(),
            shares: 1,
            memory_aside: None,
            directory: "/".into(),
            cgroup: Some(Version::V1),
            attributes,
            devices: Vec::new(),
            resources: BTreeMap::new(),
        }
    }

    #[test]
    fn shares_divide_everything() {
        let whole = discover(&discovery()).unwrap();
        let half = discover(&Discovery { shares: 2, ..discovery() }).unwrap();
        assert!(whole.cpu_millis >= 1000 && whole.memory_bytes > 1 << 26 && whole.disk_bytes > 0);
        assert_eq!(half.cpu_millis, whole.cpu_millis / 2);
        assert_eq!(half.memory_bytes, whole.memory_bytes / 2);
        assert_eq!((whole.attributes["cgroup"].as_str(), whole.attributes["rack"].as_str()), ("v1", "r1"));
    }

    // All of it was offered. Tasks that used what they had claimed left none to the kernel, the agent and their own parents, and the kernel killed
    // whatever was the largest on the machine, be it a server.
    #[test]
    fn some_memory_is_set_aside() {
        let (mib, gib) = (1_u64 << 20, 1_u64 << 30);
        let usual = [512 * mib, gib, 4 * gib, 40 * gib].map(|all| all - offered_memory(all, None).unwrap());
        assert_eq!(usual, [128 * mib, 256 * mib, 256 * mib, 2 * gib]);
        assert_eq!(offered_memory(4 * gib, Some(gib)).unwrap(), 3 * gib);
        assert_eq!(offered_memory(4 * gib, Some(0)).unwrap(), 4 * gib);
        let error = offered_memory(gib, Some(gib)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "memory_aside is 1073741824; expected less than the 1073741824 bytes of memory that it has"
        );
        let offered = |aside, shares| {
            discover(&Discovery { memory_aside: Some(aside), shares, ..discovery() }).unwrap().memory_bytes
        };
        assert_eq!(offered(0, 1) - offered(64 * mib, 1), 64 * mib);
        assert_eq!(offered(64 * mib, 2), offered(64 * mib, 1) / 2, "shares are of what is left");
    }

    // What the kernel counts of its own to all tasks together came on top of what they had been granted: where that was all that is offered, one was
    // killed within its own limit.
    #[test]
    fn a_quarter_of_what_is_set_aside_is_in_the_limit_of_all_tasks() {
        let above = |aside: u64, shares| {
            let machine = discover(&Discovery { memory_aside: Some(aside), shares, ..discovery() }).unwrap();
            machine.memory_limit_bytes - machine.memory_bytes
        };
        assert_eq!([above(64 << 20, 1), above(64 << 20, 2), above(0, 1)], [16 << 20, 8 << 20, 0]);
    }

    // Eight tasks that forked without end, each within its limit, had all numbers of processes that there are: nobody else on the machine could start
    // one.
    #[test]
    fn a_quarter_of_all_processes_is_left_to_others() {
        let parts = [(32_768, 1), (32_768, 4), (1000, 64), (1, 64), (u64::MAX, 1)];
        assert_eq!(parts.map(|(all, shares)| tasks_part_of_pids(all, shares)), [24_576, 6144, 11, 1, u32::MAX]);
        assert_eq!(pids_of_tasks(2).unwrap(), pids_of_tasks(1).unwrap() / 2);
    }

    // On a disk that was filled beyond what is set aside for root, each registration offered more than the last one.
    #[test]
    fn a_full_disk_is_no_larger_than_an_empty_one() {
        let offered = [(1000, 950), (400, 350), (51, 1), (50, 0), (20, 0), (0, 0)]
            .map(|(free, free_for_others)| offered_blocks(1000, free, free_for_others));
        assert_eq!(offered, [950; 6]);
        assert_eq!(offered_blocks(1000, 400, 400), 1000, "nothing is set aside");
        assert_eq!(offered_blocks(1000, 80, 0), 920, "at least that much is");
        assert_eq!(offered_blocks(0, 0, 0), 0);
    }

    // Some file servers say that they have 8 EiB. The cell takes no machine with as much, and was asked for ever.
    #[test]
    fn no_more_of_a_disk_is_offered_than_a_cell_takes() {
        let offered = [(1 << 63, 1), (1 << 63, 64), (1 << 40, 2)].map(|(all, shares)| offered_disk(all, shares));
        assert_eq!(offered, [AMOUNT_MAX, AMOUNT_MAX, 1 << 39]);
    }

    #[test]
    fn a_name_that_is_a_path_is_refused() {
        let error = name(Some("../m1")).unwrap_err();
        assert!(error.to_string().contains("\"../m1\""), "{error}");
    }

    #[test]
    fn kernels_compare_as_versions() {
        assert_eq!(kernel_version("6.18.44-fc-v657"), "6.18.44");
        assert_eq!(kernel_version("5.10"), "5.10");
        assert_eq!(kernel_version("6.1.0-13-cloud-amd64"), "6.1.0");
    }
}

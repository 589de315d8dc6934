//! What processes cost, as the kernel counts it: CPU time by process and thread, memory in proportion to who shares it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context;

use crate::figure::number;

/// One line of `/proc/…/stat`.
struct Stat {
    name: String,
    /// `Z`: it has ended, and nobody has waited for it.
    state: String,
    parent: u32,
    ticks: u64,
    /// Of children that ended and were waited for, and of theirs.
    children_ticks: u64,
    /// From -20, before all others, to 19.
    nice: i32,
}

/// Ticks of the kernel's accounting as seconds.
pub(crate) fn seconds(ticks: u64) -> f64 {
    // USER_HZ is 100 on every architecture that Linux still builds for.
    number(ticks) / 100.0
}

/// CPU time of a process so far, all its threads included, also those that ended; its children are not.
pub(crate) fn cpu_seconds(process: u32) -> anyhow::Result<f64> {
    Ok(seconds(stat(Path::new(&format!("/proc/{process}/stat")))?.ticks))
}

/// CPU time of a process's children that ended and were waited for, with all below them of which that is so, too.
pub(crate) fn children_cpu_seconds(process: u32) -> anyhow::Result<f64> {
    Ok(seconds(stat(Path::new(&format!("/proc/{process}/stat")))?.children_ticks))
}

/// CPU time of the threads of a process so far in nanoseconds, by thread, for those that hardly use any.
pub(crate) fn cpu_nanos(process: u32) -> anyhow::Result<BTreeMap<u32, u64>> {
    let folder = format!("/proc/{process}/task");
    let mut threads = BTreeMap::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("process {process} is gone"))? {
        let entry = entry?;
        // A thread may end while it is looked at.
        let text = fs::read_to_string(entry.path().join("schedstat")).unwrap_or_default();
        let ran = text.split_whitespace().next().and_then(|ran| ran.parse::<u64>().ok());
        let thread = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        threads.extend(thread.zip(ran));
    }
    Ok(threads)
}

/// CPU time of the threads of a process, by name.
pub(crate) fn cpu_seconds_by_thread(process: u32) -> anyhow::Result<BTreeMap<String, f64>> {
    let mut threads = BTreeMap::new();
    let folder = format!("/proc/{process}/task");
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))? {
        // A thread may end while it is looked at.
        if let Ok(stat) = stat(&entry?.path().join("stat")) {
            *threads.entry(stat.name).or_default() += seconds(stat.ticks);
        }
    }
    Ok(threads)
}

/// The nice value of the thread of that name.
pub(crate) fn nice_of_thread(process: u32, name: &str) -> anyhow::Result<i32> {
    let folder = format!("/proc/{process}/task");
    let threads = fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))?;
    // A thread may end while it is looked at.
    let mut stats = threads.flatten().filter_map(|thread| stat(&thread.path().join("stat")).ok());
    let found = stats.find(|stat| stat.name == name).with_context(|| format!("process {process} has no {name}"))?;
    Ok(found.nice)
}

/// Whether a process is there and has not ended.
pub(crate) fn runs(process: u32) -> bool {
    stat(Path::new(&format!("/proc/{process}/stat"))).is_ok_and(|stat| stat.state != "Z")
}

/// A process and everything below it that runs, as far as nobody was adopted.
pub(crate) fn tree(root: u32) -> anyhow::Result<Vec<u32>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").context("cannot read /proc")? {
        let name = entry?.file_name();
        let Some(process) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if let Ok(stat) = stat(Path::new(&format!("/proc/{process}/stat")))
            && stat.state != "Z"
        {
            parents.push((process, stat.parent));
        }
    }
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(process, _)| *process));
        next += 1;
    }
    Ok(found)
}

/// Name and memory of a process: what it has alone, and its part of what it shares.
pub(crate) fn proportional_bytes(process: u32) -> anyhow::Result<(String, u64)> {
    let path = format!("/proc/{process}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).with_context(|| format!("{path}: no Pss"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().with_context(|| format!("{path}: Pss:{line}"))?;
    let arguments = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    let mut words = arguments.split(|byte| *byte == 0).map(String::from_utf8_lossy).skip(1);
    Ok((words.next().unwrap_or_default().into_owned(), kib * 1024))
}

fn stat(path: &Path) -> anyhow::Result<Stat> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| format!("{}: expected the fields of proc(5), found {text:?}", path.display()))
}

/// The name stands in brackets and may have brackets and spaces itself.
fn parse(text: &str) -> Option<Stat> {
    let (head, tail) = text.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = tail.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let state = (*fields.first()?).to_owned();
    let parent = fields.get(1)?.parse().ok()?;
    let (ticks, children_ticks) = (ticks(11)? + ticks(12)?, ticks(13)? + ticks(14)?);
    Some(Stat { name, state, parent, ticks, children_ticks, nice: fields.get(16)?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_is_read_whole() {
        let stat = parse("7 (a) (b) S 3 0 0 0 0 0 0 0 0 0 20 5 4 2 30 -10 1").unwrap();
        assert_eq!((stat.name.as_str(), stat.parent, stat.ticks), ("a) (b", 3, 25));
        assert_eq!((stat.children_ticks, stat.nice), (6, -10));
    }

    #[test]
    fn this_process_is_in_its_own_tree_and_costs_something() {
        let own = std::process::id();
        assert!(tree(own).unwrap().contains(&own));
        assert!(proportional_bytes(own).unwrap().1 > 1 << 16);
        assert!(!cpu_seconds_by_thread(own).unwrap().is_empty());
    }

    #[test]
    fn a_thread_of_that_name_tells_its_nice_value() {
        let (ends, waits) = std::sync::mpsc::channel::<()>();
        let named = std::thread::Builder::new().name("nice-to-know".to_owned());
        let thread = named.spawn(move || waits.recv().is_ok()).unwrap();
        let own = std::process::id();
        // Its name is set by itself, as it begins.
        let began = std::time::Instant::now();
        while nice_of_thread(own, "nice-to-know").is_err() {
            assert!(began.elapsed().as_secs() < 60, "it never had its name");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert!((-20..=19).contains(&nice_of_thread(own, "nice-to-know").unwrap()));
        assert!(nice_of_thread(own, "nobody").is_err());
        drop(ends);
        thread.join().unwrap();
    }
}

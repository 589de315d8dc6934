//! What the simulated disk knows: for each file what is durable, what is shown, and what is in between.

use super::{SimCounts, SimOperation, SimStrikes};
use crate::format::{SECTOR_BYTES, Sector, count, index};
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// A small generator (splitmix64): the simulation needs repeatable, not unpredictable, numbers.
#[derive(Clone)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which must not be 0. The bias is far below what a test could see.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// How a power cut treats the unsynced sectors of one file.
#[derive(Clone, Copy)]
enum Fate {
    AllLost,
    AllKept,
    EachAtRandom,
    /// Those before a random one are kept: a write that was torn in order.
    Prefix,
}

#[derive(Default, Clone)]
pub(super) struct File {
    /// What a power cut leaves for certain.
    pub(super) durable: Vec<u8>,
    /// What reads show.
    pub(super) cached: Vec<u8>,
    /// Sectors written since they were last durable, with every content they had since then, oldest first.
    pending: BTreeMap<u64, Vec<Sector>>,
}

impl File {
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let start = index(offset);
        let end = start.checked_add(bytes.len()).ok_or(io::ErrorKind::FileTooLarge)?;
        if self.cached.len() < end {
            self.cached.resize(end, 0);
        }
        self.cached[start..end].copy_from_slice(bytes);
        for number in offset / SECTOR_BYTES..count(end).div_ceil(SECTOR_BYTES) {
            let sector = sector_of(&self.cached, number);
            self.pending.entry(number).or_default().push(sector);
        }
        Ok(())
    }

    fn keep(&mut self, number: u64, sector: &Sector) {
        let start = index(number * SECTOR_BYTES);
        let end = (start + sector.len()).min(self.cached.len());
        if self.durable.len() < end {
            self.durable.resize(end, 0);
        }
        self.durable[start..end].copy_from_slice(&sector[..end - start]);
    }

    fn sync(&mut self) {
        for (number, versions) in std::mem::take(&mut self.pending) {
            if let Some(newest) = versions.last() {
                self.keep(number, newest);
            }
        }
    }

    /// A sync that failed: some of it is on the disk, the rest is forgotten though reads still show it.
    fn sync_badly(&mut self, random: &mut Random) {
        for (number, versions) in std::mem::take(&mut self.pending) {
            if let (0, Some(newest)) = (random.below(2), versions.last()) {
                self.keep(number, newest);
            }
        }
    }

    pub(super) fn forget_cached(&mut self) {
        self.cached.clone_from(&self.durable);
    }

    /// What was not synced is kept or lost; whether it was torn: of what was written last, and is not what there was, some sectors are there, and
    /// some are not.
    fn lose_power(&mut self, random: &mut Random) -> bool {
        let fate = match random.below(4) {
            0 => Fate::AllLost,
            1 => Fate::AllKept,
            2 => Fate::EachAtRandom,
            _ => Fate::Prefix,
        };
        let pending = std::mem::take(&mut self.pending);
        let first_lost = random.below(count(pending.len()) + 1);
        let (mut kept, mut lost) = (false, false);
        for (place, (number, versions)) in (0..).zip(pending) {
            let version = match fate {
                Fate::AllLost => None,
                Fate::AllKept => versions.last(),
                // Any content it had since it was last durable, or that one.
                Fate::EachAtRandom => versions.get(index(random.below(count(versions.len()) + 1))),
                Fate::Prefix => versions.last().filter(|_| place < first_lost),
            };
            let newest = versions.last().filter(|newest| **newest != sector_of(&self.durable, number));
            kept |= newest.is_some() && version == newest;
            lost |= newest.is_some() && version != newest;
            if let Some(sector) = version {
                self.keep(number, sector);
            }
        }
        self.forget_cached();
        kept && lost
    }
}

/// A sector of a file that has this; zeros past the end.
fn sector_of(content: &[u8], number: u64) -> Sector {
    let mut sector = [0; index(SECTOR_BYTES)];
    let start = index(number * SECTOR_BYTES).min(content.len());
    let end = content.len().min(start + sector.len());
    sector[..end - start].copy_from_slice(&content[start..end]);
    sector
}

/// A change of names that a power cut may still lose.
#[derive(Clone)]
pub(super) enum NameChange {
    Create { name: String, inode: u64 },
    Rename { from: String, to: String },
    Remove { name: String },
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, u64>) -> io::Result<()> {
        match self {
            NameChange::Create { name, inode } => {
                names.insert(name.clone(), *inode);
            }
            NameChange::Rename { from, to } => {
                let inode = names.remove(from).ok_or(io::ErrorKind::NotFound)?;
                names.insert(to.clone(), inode);
            }
            NameChange::Remove { name } => {
                names.remove(name).ok_or(io::ErrorKind::NotFound)?;
            }
        }
        Ok(())
    }
}

#[derive(Clone)]
pub(super) struct State {
    files: BTreeMap<u64, File>,
    next_inode: u64,
    pub(super) names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    pending_names: Vec<NameChange>,
    pub(super) random: Random,
    /// Raised by each crash and kill; handles of an earlier life are dead.
    pub(super) life: u64,
    pub(super) steps: u64,
    /// Steps before the power goes, and the seed of what is lost.
    pub(super) crash_at: Option<(u64, u64)>,
    /// Steps before the process dies.
    pub(super) kill_at: Option<u64>,
    pub(super) faults: Vec<(SimOperation, u64, io::ErrorKind)>,
    pub(super) capacity_bytes: Option<u64>,
    pub(super) counts: SimCounts,
    pub(super) strikes: SimStrikes,
    pub(super) locked: bool,
    pub(super) keeps_cache: bool,
    pub(super) lies_about_syncs: bool,
    pub(super) refuses_to_zero: bool,
}

impl State {
    pub(super) fn new(seed: u64) -> Self {
        State {
            files: BTreeMap::new(),
            next_inode: 0,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending_names: Vec::new(),
            random: Random::new(seed),
            life: 0,
            steps: 0,
            crash_at: None,
            kill_at: None,
            faults: Vec::new(),
            capacity_bytes: None,
            counts: SimCounts::default(),
            strikes: SimStrikes::default(),
            locked: false,
            keeps_cache: false,
            lies_about_syncs: false,
            refuses_to_zero: false,
        }
    }

    pub(super) fn copy(&self) -> Self {
        let mut copy = State::new(self.random.0);
        for (name, inode) in &self.names {
            if let Some(file) = self.files.get(inode) {
                copy.put(name, file.cached.clone());
            }
        }
        copy.capacity_bytes = self.capacity_bytes;
        copy
    }

    pub(super) fn check_life(&self, life: u64) -> io::Result<()> {
        if self.life == life {
            Ok(())
        } else {
            Err(io::Error::new(io::ErrorKind::BrokenPipe, "the process that had this file is gone"))
        }
    }

    /// Counts the operation and takes the fault that is armed for it.
    pub(super) fn take_fault(&mut self, operation: SimOperation) -> Option<io::ErrorKind> {
        match operation {
            SimOperation::Write => self.counts.writes += 1,
            SimOperation::Sync => self.counts.syncs += 1,
            SimOperation::Read => self.counts.reads += 1,
            SimOperation::SyncDir | SimOperation::Name => self.counts.names += 1,
        }
        let mut struck = None;
        self.faults.retain_mut(|(aim, before, kind)| {
            if *aim != operation {
                return true;
            }
            if *before == 0 {
                struck = Some(*kind);
                return false;
            }
            *before -= 1;
            true
        });
        self.strikes.failures += u64::from(struck.is_some());
        self.strikes.failed_reads += u64::from(struck.is_some() && operation == SimOperation::Read);
        struck
    }

    /// True when the step that is being taken is the one that the power does not outlive.
    pub(super) fn crashes_now(&self) -> bool {
        self.crash_at.is_some_and(|(steps_before, _)| steps_before == 0)
    }

    /// True when the step that is being taken is the one that the process does not outlive.
    pub(super) fn is_killed_now(&self) -> bool {
        self.kill_at == Some(0)
    }

    /// Ends a step; an error when the power went with it.
    pub(super) fn step(&mut self, life: u64) -> io::Result<()> {
        self.steps += 1;
        match &mut self.crash_at {
            Some((0, seed)) => {
                let seed = *seed;
                self.strikes.crashes_in_steps += 1;
                self.crash(seed);
            }
            Some((steps_before, _)) => *steps_before -= 1,
            None => {}
        }
        match &mut self.kill_at {
            Some(0) => {
                self.strikes.kills_in_steps += 1;
                self.end_life();
            }
            Some(steps_before) => *steps_before -= 1,
            None => {}
        }
        self.check_life(life)
    }

    pub(super) fn end_life(&mut self) {
        self.life += 1;
        self.locked = false;
        self.crash_at = None;
        self.kill_at = None;
        self.faults.clear();
    }

    pub(super) fn crash(&mut self, seed: u64) {
        self.end_life();
        self.random = Random::new(seed);
        let kept = self.random.below(count(self.pending_names.len()) + 1);
        for change in self.pending_names.drain(..).take(index(kept)) {
            // Each was possible after those before it, so it is now.
            let applied = change.apply(&mut self.durable_names);
            debug_assert!(applied.is_ok(), "changes of names are kept in order");
        }
        self.names.clone_from(&self.durable_names);
        self.free_nameless();
        for file in self.files.values_mut() {
            self.strikes.torn_writes += u64::from(file.lose_power(&mut self.random));
        }
    }

    pub(super) fn sync_names(&mut self) {
        self.pending_names.clear();
        self.durable_names.clone_from(&self.names);
        self.free_nameless();
    }

    /// Frees what no name leads to any more. Only when changes of names are settled, because until then a power
    /// cut may bring a name back. Unlike on a real disk, handles that are still open lose it too.
    fn free_nameless(&mut self) {
        let named: BTreeSet<u64> = self.names.values().copied().collect();
        self.files.retain(|inode, _| named.contains(inode));
    }

    pub(super) fn change_name(&mut self, change: NameChange) -> io::Result<()> {
        change.apply(&mut self.names)?;
        self.pending_names.push(change);
        Ok(())
    }

    pub(super) fn create(&mut self, name: &str) -> u64 {
        let inode = self.next_inode;
        self.next_inode += 1;
        self.files.insert(inode, File::default());
        self.names.insert(name.to_owned(), inode);
        self.pending_names.push(NameChange::Create { name: name.to_owned(), inode });
        inode
    }

    pub(super) fn put(&mut self, name: &str, content: Vec<u8>) {
        let inode = self.names.get(name).copied().unwrap_or_else(|| self.create(name));
        let file = File { durable: content.clone(), cached: content, pending: BTreeMap::new() };
        self.files.insert(inode, file);
        self.sync_names();
    }

    pub(super) fn erase(&mut self, name: &str) {
        self.names.remove(name);
        self.sync_names();
    }

    pub(super) fn find(&self, name: &str) -> Option<&File> {
        self.files.get(self.names.get(name)?)
    }

    pub(super) fn find_mut(&mut self, name: &str) -> Option<&mut File> {
        self.files.get_mut(self.names.get(name)?)
    }

    pub(super) fn file(&self, inode: u64) -> io::Result<&File> {
        self.files.get(&inode).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn file_mut(&mut self, inode: u64) -> io::Result<&mut File> {
        self.files.get_mut(&inode).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Syncs one file; when the power goes within this step, the cut decides instead what is kept.
    pub(super) fn sync_file(&mut self, inode: u64, badly: bool) -> io::Result<()> {
        if self.crashes_now() || self.lies_about_syncs {
            return Ok(());
        }
        let file = self.files.get_mut(&inode).ok_or(io::ErrorKind::NotFound)?;
        if badly {
            file.sync_badly(&mut self.random)
        } else {
            file.sync()
        }
        Ok(())
    }

    /// Files whose names are gone, but that a reader may still have open, take no room here.
    fn used_bytes(&self) -> u64 {
        let named = self.names.values().filter_map(|inode| self.files.get(inode));
        named.map(|file| count(file.cached.len())).sum()
    }

    pub(super) fn free_bytes(&self) -> u64 {
        self.capacity_bytes.map_or(u64::MAX, |capacity| capacity.saturating_sub(self.used_bytes()))
    }

    /// How many bytes can be written to a file from there on, over what it has and behind its end.
    pub(super) fn room_for(&self, inode: u64, offset: u64) -> u64 {
        let present = self.files.get(&inode).map_or(0, |file| count(file.cached.len()));
        present.saturating_add(self.free_bytes()).saturating_sub(offset)
    }

    /// Full, when that write would make the files grow beyond the capacity. Blocks that exist can be overwritten.
    pub(super) fn is_too_small_for(&mut self, inode: u64, offset: u64, bytes: usize) -> Option<io::ErrorKind> {
        let present = self.files.get(&inode).map_or(0, |file| count(file.cached.len()));
        let growth = offset.saturating_add(count(bytes)).saturating_sub(present);
        let is_full = growth > self.free_bytes();
        self.strikes.full += u64::from(is_full);
        is_full.then_some(io::ErrorKind::StorageFull)
    }
}

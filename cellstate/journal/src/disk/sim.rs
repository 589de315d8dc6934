//! A disk in memory that loses power, tears writes, fails, fills up and rots on purpose, from a seed.
//!
//! It is part of the library, not of the tests: the simulation of the whole cell runs on it. It is meaner than
//! most disks, but allows nothing that a file system may not do:
//! - what was written and not synced may survive a power cut or not, sector by sector, in any order;
//! - a change of names is lost unless the directory was synced; changes are lost from the newest backwards;
//! - a renaming or a removal that fails may have been done all the same;
//! - a sync that fails loses some of the data, keeps showing it from memory, and the next sync succeeds;
//! - a write that fails may have been done in part, on a full disk as far as there is room, and so may one within which the process ends.

mod state;

use super::{Disk, DiskError, DiskFile, DiskLock, LockError, OpenMode};
use crate::format::{count, index};
use state::{NameChange, State};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

/// What a fault can be aimed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SimOperation {
    /// [`DiskFile::write_at`].
    Write,
    /// [`DiskFile::sync`] and [`DiskFile::settle`].
    Sync,
    /// [`DiskFile::read_at`].
    Read,
    /// [`Disk::sync_dir`].
    SyncDir,
    /// A file made, renamed or removed.
    Name,
}

/// How often each operation was asked for since the disk was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SimCounts {
    /// Writes.
    pub writes: u64,
    /// Syncs of files.
    pub syncs: u64,
    /// Reads.
    pub reads: u64,
    /// Syncs of the directory, and changes of names.
    pub names: u64,
}

/// How often what was armed struck since the disk was made. What never comes to its step does not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SimStrikes {
    /// Operations that failed: see [`SimDisk::fail`].
    pub failures: u64,
    /// Those of them that only read.
    pub failed_reads: u64,
    /// Power cuts within a step: see [`SimDisk::crash_at_step`].
    pub crashes_in_steps: u64,
    /// Ends of the process within a step: see [`SimDisk::kill_at_step`].
    pub kills_in_steps: u64,
    /// Writes that found no room.
    pub full: u64,
    /// Files of which a power cut kept a part of what was written last, and not synced, and lost another: where nothing changed, nothing counts.
    pub torn_writes: u64,
}

/// A handle on one simulated disk; clones share it. A handle belongs to one life of the machine: after a crash or
/// a kill its operations fail, as those of a dead process would, and [`SimDisk::reboot`] gives a live one. What
/// injects faults and looks inside works from any handle.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
    life: u64,
}

impl SimDisk {
    /// An empty disk without a limit; everything it does follows from the seed and the calls.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        SimDisk { state: Arc::new(Mutex::new(State::new(seed))), life: 0 }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A test that panicked while holding it has failed already; others may still look.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Cuts the power: what was not synced is kept, lost or torn, as the seed decides. All handles die.
    pub fn crash(&self, seed: u64) {
        self.state().crash(seed);
    }

    /// Ends the process that uses the disk and leaves the machine running: nothing is lost, though nothing
    /// unsynced is durable. All handles die.
    pub fn kill(&self) {
        self.state().end_life();
    }

    /// A live handle on the same disk, as the next process gets it.
    #[must_use]
    pub fn reboot(&self) -> Self {
        let life = self.state().life;
        SimDisk { state: Arc::clone(&self.state), life }
    }

    /// Whether the process that has this handle is still there. Asks the disk for nothing, so that no armed fault strikes.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.state().check_life(self.life).is_ok()
    }

    /// Another disk with the same content, all of it durable; live, unlocked, without armed faults.
    #[must_use]
    pub fn copy(&self) -> Self {
        SimDisk { state: Arc::new(Mutex::new(self.state().copy())), life: 0 }
    }

    /// Another disk in the very same state, unsynced data included; live and unlocked, without armed faults. For
    /// trying several futures of one past.
    #[must_use]
    pub fn fork(&self) -> Self {
        let mut state = self.state().clone();
        state.end_life();
        let life = state.life;
        SimDisk { state: Arc::new(Mutex::new(state)), life }
    }

    /// Cuts the power within the n-th step from now (0 is the next one). A step is whatever changes the disk:
    /// a write, a sync, a change of names, a sync of the directory.
    pub fn crash_at_step(&self, steps_before: u64, seed: u64) {
        self.state().crash_at = Some((steps_before, seed));
    }

    /// Ends the process within the n-th step from now, as [`SimDisk::kill`] does.
    pub fn kill_at_step(&self, steps_before: u64) {
        self.state().kill_at = Some(steps_before);
    }

    /// The steps taken since the disk was made.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.state().steps
    }

    /// Lets the n-th such operation from now fail (0 is the next one), once.
    pub fn fail(&self, operation: SimOperation, operations_before: u64, kind: io::ErrorKind) {
        self.state().faults.push((operation, operations_before, kind));
    }

    /// Sets how many bytes all files together may have; none is without a limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity_bytes = bytes;
    }

    /// Makes [`DiskFile::settle`] unable to forget what is cached, as on systems where that is only advice. What a
    /// failed sync lost is then shown until the machine goes down.
    pub fn keep_cache(&self) {
        self.state().keeps_cache = true;
    }

    /// Lets syncs of files answer success and do nothing, as drives do that were built to win benchmarks. No log
    /// survives that; a story that still passes proves nothing.
    pub fn lie_about_syncs(&self) {
        self.state().lies_about_syncs = true;
    }

    /// Lets [`DiskFile::zero`] do nothing, as file systems do that can only write zeros.
    pub fn refuse_to_zero(&self) {
        self.state().refuses_to_zero = true;
    }

    /// Bit rot: flips one bit, on the disk and in memory.
    ///
    /// # Panics
    /// When there is no such byte: the test is wrong.
    pub fn flip_bit(&self, name: &str, offset: u64, bit: u8) {
        let mut flipped = false;
        let mut state = self.state();
        let file = state.find_mut(name).expect("the test names a file that is there");
        // What is not synced yet may be in memory only.
        for content in [&mut file.durable, &mut file.cached] {
            if let Some(byte) = content.get_mut(index(offset)) {
                *byte ^= 1 << bit;
                flipped = true;
            }
        }
        assert!(flipped, "{name} has no byte at {offset}");
    }

    /// Overwrites bytes behind the log's back, on the disk and in memory.
    ///
    /// # Panics
    /// When there is no such place: the test is wrong.
    pub fn overwrite(&self, name: &str, offset: u64, bytes: &[u8]) {
        self.edit(name, |content| content[index(offset)..index(offset) + bytes.len()].copy_from_slice(bytes));
    }

    /// Cuts a file off behind the log's back.
    ///
    /// # Panics
    /// When there is no such file: the test is wrong.
    pub fn truncate(&self, name: &str, bytes: u64) {
        self.edit(name, |content| content.truncate(index(bytes)));
    }

    fn edit(&self, name: &str, edit: impl Fn(&mut Vec<u8>)) {
        let mut state = self.state();
        let file = state.find_mut(name).expect("the test names a file that is there");
        edit(&mut file.durable);
        edit(&mut file.cached);
    }

    /// What a file holds, as a process would read it; none when there is no such file.
    #[must_use]
    pub fn image(&self, name: &str) -> Option<Vec<u8>> {
        self.state().find(name).map(|file| file.cached.clone())
    }

    /// Puts a file there, durable at once.
    pub fn put(&self, name: &str, content: Vec<u8>) {
        self.state().put(name, content);
    }

    /// Removes a file behind the log's back.
    pub fn erase(&self, name: &str) {
        self.state().erase(name);
    }

    /// The names of all files, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.state().names.keys().cloned().collect()
    }

    /// How often each operation was asked for.
    #[must_use]
    pub fn counts(&self) -> SimCounts {
        self.state().counts
    }

    /// How often which fault struck.
    #[must_use]
    pub fn strikes(&self) -> SimStrikes {
        self.state().strikes
    }

    /// Runs one operation: counts it, refuses dead handles, and lets armed faults strike.
    fn run<T>(
        &self,
        what: &'static str,
        path: &str,
        operation: SimOperation,
        act: impl FnOnce(&mut State, Option<io::ErrorKind>) -> io::Result<T>,
    ) -> Result<T, DiskError> {
        let mut state = self.state();
        let outcome = state.check_life(self.life).and_then(|()| {
            let fault = state.take_fault(operation);
            let done = act(&mut state, fault);
            if operation != SimOperation::Read {
                state.step(self.life)?;
            }
            done
        });
        outcome.map_err(|source| DiskError { operation: what, path: path.to_owned(), source })
    }
}

impl std::fmt::Debug for SimDisk {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("SimDisk").field("life", &self.life).field("names", &self.names()).finish()
    }
}

fn refuse_if(fault: Option<io::ErrorKind>) -> io::Result<()> {
    fault.map_or(Ok(()), |kind| Err(kind.into()))
}

/// Where it fails, the seed decides whether it is done: which name the file has then nobody knows.
fn change_name(state: &mut State, change: NameChange, fault: Option<io::ErrorKind>) -> io::Result<()> {
    if fault.is_none() || state.random.below(2) == 0 {
        state.change_name(change)?;
    }
    refuse_if(fault)
}

impl Disk for SimDisk {
    fn place(&self) -> String {
        "simulated disk".to_owned()
    }

    fn list(&self) -> Result<Vec<String>, DiskError> {
        self.run("listing", "simulated disk", SimOperation::Read, |state, fault| {
            refuse_if(fault)?;
            Ok(state.names.keys().cloned().collect())
        })
    }

    fn open(&self, name: &str, mode: OpenMode) -> Result<Box<dyn DiskFile>, DiskError> {
        let known = self.state().names.contains_key(name);
        let operation = if known || mode == OpenMode::Existing { SimOperation::Read } else { SimOperation::Name };
        let inode = self.run("opening", name, operation, |state, fault| {
            refuse_if(fault)?;
            match (state.names.get(name).copied(), mode) {
                (Some(inode), _) => Ok(inode),
                (None, OpenMode::Create) => Ok(state.create(name)),
                (None, OpenMode::Existing) => Err(io::ErrorKind::NotFound.into()),
            }
        })?;
        Ok(Box::new(SimFile { disk: self.clone(), name: name.to_owned(), inode }))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        self.run("renaming", from, SimOperation::Name, |state, fault| {
            change_name(state, NameChange::Rename { from: from.to_owned(), to: to.to_owned() }, fault)
        })
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        self.run("removal", name, SimOperation::Name, |state, fault| {
            change_name(state, NameChange::Remove { name: name.to_owned() }, fault)
        })
    }

    fn sync_dir(&self) -> Result<(), DiskError> {
        self.run("sync", "simulated disk", SimOperation::SyncDir, |state, fault| {
            refuse_if(fault)?;
            // Only when the power outlives the call: a cut within it must be able to lose the changes.
            if !state.crashes_now() {
                state.sync_names();
            }
            Ok(())
        })
    }

    fn free_bytes(&self) -> Result<u64, DiskError> {
        self.run("statvfs", "simulated disk", SimOperation::Read, |state, fault| {
            refuse_if(fault)?;
            Ok(state.free_bytes())
        })
    }

    fn lock(&self, name: &str) -> Result<Box<dyn DiskLock>, LockError> {
        let mut state = self.state();
        state.check_life(self.life).map_err(|source| DiskError {
            operation: "locking",
            path: name.to_owned(),
            source,
        })?;
        if state.locked {
            return Err(LockError::Held { path: name.to_owned(), owner: "simulated".to_owned() });
        }
        state.locked = true;
        Ok(Box::new(SimLock { disk: self.clone() }))
    }
}

struct SimLock {
    disk: SimDisk,
}

impl DiskLock for SimLock {
    fn ends(&self) {}

    fn is_removed(&self) -> bool {
        false
    }
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        // The lock of a dead process went with it, and may be somebody else's now.
        if state.life == self.disk.life {
            state.locked = false;
        }
    }
}

struct SimFile {
    disk: SimDisk,
    name: String,
    inode: u64,
}

impl DiskFile for SimFile {
    fn size_bytes(&self) -> Result<u64, DiskError> {
        self.disk.run("stat", &self.name, SimOperation::Read, |state, fault| {
            refuse_if(fault)?;
            Ok(count(state.file(self.inode)?.cached.len()))
        })
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        self.disk.run("read", &self.name, SimOperation::Read, |state, fault| {
            refuse_if(fault)?;
            let file = state.file(self.inode)?;
            let bytes = index(offset).checked_add(into.len()).and_then(|end| file.cached.get(index(offset)..end));
            into.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.disk.run("write", &self.name, SimOperation::Write, |state, fault| {
            let fault = fault.or_else(|| state.is_too_small_for(self.inode, offset, bytes.len()));
            let Some(kind) = fault else {
                let part =
                    if state.is_killed_now() { state.random.below(count(bytes.len()) + 1) } else { count(bytes.len()) };
                return state.file_mut(self.inode)?.write(offset, &bytes[..index(part)]);
            };
            let part = state.random.below(count(bytes.len()) + 1).min(state.room_for(self.inode, offset));
            state.file_mut(self.inode)?.write(offset, &bytes[..index(part)])?;
            Err(kind.into())
        })
    }

    fn zero(&self, offset: u64, bytes: u64) -> Result<bool, DiskError> {
        if self.disk.state().refuses_to_zero {
            return Ok(false);
        }
        self.write_at(offset, &vec![0; index(bytes)]).map(|()| true)
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.disk.run("sync", &self.name, SimOperation::Sync, |state, fault| {
            state.sync_file(self.inode, fault.is_some())?;
            refuse_if(fault)
        })
    }

    fn settle(&self) -> Result<(), DiskError> {
        self.disk.run("sync", &self.name, SimOperation::Sync, |state, fault| {
            state.sync_file(self.inode, fault.is_some())?;
            refuse_if(fault)?;
            if !state.keeps_cache && !state.lies_about_syncs {
                state.file_mut(self.inode)?.forget_cached();
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests;

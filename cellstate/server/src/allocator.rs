//! Where a server's memory comes from: mimalloc. Whoever builds a program with a server in it makes this its global allocator.
//!
//! Nearly everything that a commit takes from the heap is given back by another thread. glibc has an arena for each thread and takes that
//! arena's slow path then; mimalloc needs one atomic step. `docs/decisions` has the figures.
//!
//! A program that is a server only at times leaves the rest to the C library. What is taken from one must not go back to the other: so a process
//! decides once, when something is allocated for the first time, and all that is known of it by then is its command line.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::c_long;
use std::fs::File;
use std::io::Read;
use std::sync::atomic::{AtomicU8, Ordering};

use libmimalloc_sys::{mi_collect, mi_option_set_default, mi_option_t};
use mimalloc::MiMalloc;

/// What is read of a command line, in bytes: the command is among its first words.
const READ_MAX: usize = 1024;

/// Whether mimalloc has the system provide all of an arena (a GiB) at once. The bindings lack its name.
const ARENA_EAGER_COMMIT: mi_option_t = 4;

/// How long what is free stays with the process, in milliseconds. The bindings lack its name.
const PURGE_DELAY: mi_option_t = 15;
/// While a server works: much longer than from one checkpoint to the next under full load. The pages that are copied for one then lie where
/// those of the one before did, and the system need not fill them with zeros anew. mimalloc counts from the first piece that comes free, and then
/// gives back whatever is free, in pieces that split huge pages: so this is also how seldom that happens, and for how long a server that is
/// never at rest keeps what it needed at its peak.
const KEPT_MILLISECONDS: c_long = 600_000;
/// When it rests: as the allocator has it.
const SPARED_MILLISECONDS: c_long = 1000;

const UNDECIDED: u8 = 0;
const LIBRARY: u8 = 1;
const BUSY: u8 = 2;

/// Takes memory from mimalloc, or from the C library.
#[derive(Debug)]
pub struct Allocator {
    choice: AtomicU8,
    command: Option<Words>,
}

/// Words of a command line.
#[derive(Clone, Copy, Debug)]
struct Words {
    /// Memory comes from mimalloc with this one.
    busy: &'static str,
    /// With this one besides, it is taken from the system page by page.
    lean: &'static str,
}

impl Allocator {
    /// From mimalloc in processes that have this word in their command line, as their command. Those that have the other one, too, take it from
    /// the system page by page, for cells that are small and often idle: 20 MB less in an idle server. The others take whole arenas, which the
    /// kernel gives in huge pages where it may: random rows are found a fifth sooner.
    #[must_use]
    pub const fn for_command(busy: &'static str, lean: &'static str) -> Self {
        Self { choice: AtomicU8::new(UNDECIDED), command: Some(Words { busy, lean }) }
    }

    /// Always from mimalloc.
    #[must_use]
    pub const fn always() -> Self {
        Self { choice: AtomicU8::new(UNDECIDED), command: None }
    }

    #[inline]
    fn is_busy(&self) -> bool {
        match self.choice.load(Ordering::Relaxed) {
            LIBRARY => false,
            BUSY => true,
            _ => self.decide(),
        }
    }

    /// Allocates nothing. Two threads that are here at once decide alike.
    #[cold]
    fn decide(&self) -> bool {
        let busy = self.command.is_none_or(|words| {
            let mut line = [0; READ_MAX];
            let read = File::open("/proc/self/cmdline").and_then(|mut file| file.read(&mut line));
            let line = &line[..read.unwrap_or(0)];
            let busy = has_word(line, words.busy);
            if busy && has_word(line, words.lean) {
                be_lean();
            }
            busy
        });
        self.choice.store(if busy { BUSY } else { LIBRARY }, Ordering::Relaxed);
        busy
    }
}

/// Whether a command line, its words ended by zeros, has this word behind the program's name. Global flags may stand before the command; whoever
/// has such a word later on gets the other allocator, and no harm.
fn has_word(line: &[u8], command: &str) -> bool {
    line.split(|byte| *byte == 0).skip(1).any(|word| word == command.as_bytes())
}

/// An arena provided page by page.
fn be_lean() {
    set(ARENA_EAGER_COMMIT, 0);
}

/// What comes free stays with the process for a while: somebody works, and will need it again.
pub(crate) fn keep() {
    set(PURGE_DELAY, KEPT_MILLISECONDS);
}

/// What comes free goes back to the system soon, as nobody works any more.
pub(crate) fn spare() {
    set(PURGE_DELAY, SPARED_MILLISECONDS);
}

/// Who sets mimalloc's variables in the environment is heard first.
#[allow(unsafe_code, reason = "the allocator has no other way to be told")]
fn set(option: mi_option_t, value: c_long) {
    // SAFETY: it sets a number.
    unsafe { mi_option_set_default(option, value) };
}

/// Gives memory back to the system that mimalloc keeps for this thread's next needs, and what no thread has. Does nothing in a process that takes
/// none from it.
#[allow(unsafe_code, reason = "the allocator has no other way to be asked")]
pub(crate) fn give_back() {
    // SAFETY: it touches nothing that is handed out.
    unsafe { mi_collect(true) };
}

#[allow(unsafe_code, reason = "an allocator is made of it")]
// SAFETY: both keep the contract of `GlobalAlloc`, and the choice never changes after the first call.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are passed on.
        unsafe { if self.is_busy() { MiMalloc.alloc(layout) } else { System.alloc(layout) } }
    }

    #[inline]
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on, to whom the memory came from.
        unsafe { if self.is_busy() { MiMalloc.dealloc(pointer, layout) } else { System.dealloc(pointer, layout) } }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are passed on.
        unsafe { if self.is_busy() { MiMalloc.alloc_zeroed(layout) } else { System.alloc_zeroed(layout) } }
    }

    #[inline]
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promises are passed on, to whom the memory came from.
        unsafe {
            if self.is_busy() { MiMalloc.realloc(pointer, layout, size) } else { System.realloc(pointer, layout, size) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_process_with_the_command_is_busy() {
        let is_server = |line: &str| has_word(line.as_bytes(), "server");
        let is_of_dev = |line: &str| has_word(line.as_bytes(), "--with-parent");
        assert!(is_of_dev("plenum\0server\0--output\0json\0--with-parent\0pid\0"));
        assert!(!is_of_dev("/usr/bin/plenum\0server\0--dir\0/var/lib/plenum\0"));
        assert!(is_server("/usr/bin/plenum\0server\0--dir\0/var/lib/plenum\0"));
        assert!(is_server("plenum\0--output\0json\0server\0"));
        assert!(!is_server("plenum\0agent\0--server-name\0a\0"));
        assert!(!is_server("plenum\0dev\0server.toml\0"));
        assert!(!is_server("server\0job\0list\0"));
        assert!(!is_server(""));
    }

    #[test]
    fn a_decision_is_made_once() {
        let allocator = Allocator::for_command("no-test-has-this-word", "nor-this");
        assert!(!allocator.is_busy());
        assert_eq!(allocator.choice.load(Ordering::Relaxed), LIBRARY);
        allocator.choice.store(BUSY, Ordering::Relaxed);
        assert!(allocator.is_busy(), "the command line is not asked again");
        let allocator = Allocator::always();
        assert!(allocator.is_busy());
        assert_eq!(allocator.choice.load(Ordering::Relaxed), BUSY);
    }

    // Options have no names in the bindings: another release of the allocator might count them otherwise.
    #[test]
    #[allow(unsafe_code, reason = "the allocator has no other way to be asked")]
    fn the_numbers_of_options_mean_what_they_are_taken_for() {
        let of_ours = |name: &&str| std::env::var_os(name).is_some();
        assert!(!["MIMALLOC_PURGE_DELAY", "MIMALLOC_ARENA_EAGER_COMMIT"].iter().any(of_ours), "defaults are looked at");
        // SAFETY: they read numbers.
        let read = |option| unsafe { libmimalloc_sys::mi_option_get(option) };
        // No option beside them has these values. A server of another test may be at work in this process.
        assert!([SPARED_MILLISECONDS, KEPT_MILLISECONDS].contains(&read(PURGE_DELAY)), "{}", read(PURGE_DELAY));
        assert_eq!(read(ARENA_EAGER_COMMIT), 2);
    }

    #[test]
    fn what_was_allocated_grows_keeps_its_bytes_and_goes_back() {
        for allocator in [Allocator::for_command("no-test-has-this-word", "nor-this"), Allocator::always()] {
            let layout = Layout::from_size_align(100, 16).unwrap();
            let larger = Layout::from_size_align(100_000, 16).unwrap();
            #[allow(unsafe_code, reason = "an allocator is asked")]
            // SAFETY: sizes are not zero, and memory goes back with the layout it has then.
            unsafe {
                let bytes = allocator.alloc_zeroed(layout);
                assert!(std::slice::from_raw_parts(bytes, 100).iter().all(|byte| *byte == 0));
                bytes.write_bytes(7, 100);
                let bytes = allocator.realloc(bytes, layout, 100_000);
                assert!(std::slice::from_raw_parts(bytes, 100).iter().all(|byte| *byte == 7));
                allocator.dealloc(bytes, larger);
            }
        }
    }
}

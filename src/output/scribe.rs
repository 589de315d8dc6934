//! Lines on standard error that a thread of their own writes: whoever has something to say does not wait for who reads it, but for a moment where it may be
//! the last.
//!
//! It knows bytes alone: what stands in a line is for others to say.

use std::{
    io::{self, Write},
    mem,
    os::fd::AsFd,
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::Duration,
};

use plenum_model::{agreeing, counted};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::retry_on_intr,
};

/// Bytes of lines that wait at most, while as many are being written: some thousands of lines.
const WAITING_BYTES_MAX: usize = 1 << 20;
/// How long last words wait for somebody who takes them: where all is well that is no time.
const LAST_WORDS_MAX: Duration = Duration::from_secs(2);

/// The one of this process, where it has one.
static OF_THIS_PROCESS: OnceLock<Scribe> = OnceLock::new();

/// Has lines written in the order in which they came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scribe(Arc<Desk>);

#[derive(Debug, Default)]
struct Desk {
    lines: Mutex<Lines>,
    /// Told when lines have come, and when all have been written.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Lines {
    /// Whole ones. Invariant: no line was taken that lifted it above [`WAITING_BYTES_MAX`] bytes; what is said of dropped ones comes on top.
    waiting: Vec<u8>,
    /// Lines for which there was no room, and of which nothing was said yet.
    dropped: u64,
    is_writing: bool,
}

impl Scribe {
    /// From now on what this process says is written by a thread.
    ///
    /// # Errors
    ///
    /// There can be no more threads.
    pub(crate) fn begin() -> io::Result<Self> {
        let scribe = Self::writing_to(io::stderr())?;
        Ok(OF_THIS_PROCESS.get_or_init(|| scribe).clone())
    }

    fn writing_to(to: impl Write + AsFd + Send + 'static) -> io::Result<Self> {
        let scribe = Self::default();
        let desk = scribe.0.clone();
        drop(thread::Builder::new().name("scribe".to_owned()).spawn(move || desk.write_on(to))?);
        Ok(scribe)
    }

    /// Waits for a moment until all is written: the process may end after that.
    pub(crate) fn last_words(&self) {
        self.has_written_within(LAST_WORDS_MAX);
    }

    fn put(&self, line: &[u8]) {
        self.0.lock().put(line);
        self.0.changed.notify_all();
    }

    fn has_written_within(&self, most: Duration) -> bool {
        let waited = self.0.changed.wait_timeout_while(self.0.lock(), most, |lines| !lines.are_written());
        let (lines, _) = waited.unwrap_or_else(PoisonError::into_inner);
        lines.are_written()
    }
}

impl Write for Scribe {
    /// Takes a line, which has to come whole: parts of it could be dropped.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Has a line written that may be the last one, and waits for that; false in a process without a scribe.
pub(super) fn tell(line: &str) -> bool {
    let Some(scribe) = OF_THIS_PROCESS.get() else { return false };
    // It is not to be dropped for others that are on their way.
    scribe.last_words();
    scribe.put(line.as_bytes());
    scribe.last_words();
    true
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes whatever comes, for as long as the process lives.
    fn write_on(&self, to: impl Write + AsFd) {
        let mut pen = Pen::new(to);
        let mut lines = self.lock();
        loop {
            let taken = lines.take();
            if taken.is_empty() {
                self.changed.notify_all();
                lines = self.changed.wait(lines).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            drop(lines);
            pen.write(&taken);
            lines = self.lock();
        }
    }
}

impl Lines {
    fn put(&mut self, line: &[u8]) {
        if self.waiting.len() + line.len() > WAITING_BYTES_MAX {
            self.dropped += 1;
            return;
        }
        self.tell_dropped();
        self.waiting.extend_from_slice(line);
    }

    /// All that waits, which is to be written now.
    fn take(&mut self) -> Vec<u8> {
        self.tell_dropped();
        self.is_writing = !self.waiting.is_empty();
        mem::take(&mut self.waiting)
    }

    /// Says how many lines are missing, in their place.
    fn tell_dropped(&mut self) {
        if self.dropped > 0 {
            let (lines, were) = (counted(self.dropped, "line"), agreeing(self.dropped, "was", "were"));
            let told = format!("warning: {lines} {were} dropped here, as nobody took what was said before\n");
            self.waiting.extend_from_slice(told.as_bytes());
            self.dropped = 0;
        }
    }

    const fn are_written(&self) -> bool {
        self.waiting.is_empty() && self.dropped == 0 && !self.is_writing
    }
}

/// What writes lines, each by itself: other processes may write to the same place, and what comes at once is not mixed with theirs.
struct Pen<W> {
    to: W,
    /// Lines that could not be written, as on a full disk, and of which nothing was said yet.
    unwritten: u64,
    /// Whether the last one was begun.
    is_within_line: bool,
}

impl<W: Write + AsFd> Pen<W> {
    const fn new(to: W) -> Self {
        Self { to, unwritten: 0, is_within_line: false }
    }

    /// Writes these lines, as far as they can be written. How many can't is said before the next one that can.
    fn write(&mut self, lines: &[u8]) {
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            if self.begin_anew().and_then(|()| self.write_line(line)).is_err() {
                self.unwritten += 1;
            }
        }
    }

    /// Says what is missing, on a line of its own.
    fn begin_anew(&mut self) -> io::Result<()> {
        if self.is_within_line {
            self.write_line(b"\n")?;
        }
        if self.unwritten > 0 {
            let told = format!("warning: {} could not be written here\n", counted(self.unwritten, "line"));
            self.write_line(told.as_bytes())?;
            self.unwritten = 0;
        }
        Ok(())
    }

    /// Writes all of a line, however long nobody takes it: also where somebody who shares the place has made writes fail rather than wait (`O_NONBLOCK`).
    fn write_line(&mut self, mut line: &[u8]) -> io::Result<()> {
        while !line.is_empty() {
            match self.to.write(line) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    line = &line[written..];
                    self.is_within_line = !line.is_empty();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait_for_room(&self.to)?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Waits until something more can be written, or nothing ever can.
fn wait_for_room(to: &impl AsFd) -> io::Result<()> {
    let mut polled = [PollFd::new(to, PollFlags::OUT)];
    retry_on_intr(|| poll(&mut polled, None))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{
        collections::VecDeque,
        io::{BufRead, BufReader, ErrorKind, PipeWriter, Read},
        os::fd::BorrowedFd,
    };

    use super::*;

    /// More than wait, are being written and are in the pipe.
    const LINES: usize = 30_000;

    fn line(number: usize) -> String {
        format!("{number:0>99}\n")
    }

    // Whoever had a line to say waited for who reads it, be it the thread that decides.
    #[test]
    fn who_speaks_waits_for_no_reader_and_what_is_dropped_is_counted_in_its_place() {
        let (reader, writer) = io::pipe().unwrap();
        let mut scribe = Scribe::writing_to(writer).unwrap();
        for number in 0..LINES {
            scribe.write_all(line(number).as_bytes()).unwrap();
        }
        assert!(!scribe.has_written_within(Duration::from_millis(10)), "last words wait no longer than that");

        let mut reader = BufReader::new(reader);
        let mut read = || {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            line
        };
        let (mut next, mut dropped) = (0, 0);
        while next < LINES {
            let found = read();
            match found.strip_prefix("warning: ") {
                Some(told) => {
                    let count: usize = told.split(' ').next().unwrap().parse().unwrap();
                    assert!(told.ends_with("dropped here, as nobody took what was said before\n"), "{told}");
                    (next, dropped) = (next + count, dropped + count);
                }
                None => {
                    assert_eq!(found, line(next), "the order in which they came");
                    next += 1;
                }
            }
        }
        assert!(next == LINES && dropped > 0, "{next}, {dropped}");

        scribe.write_all(b"the last one\n").unwrap();
        assert!(scribe.has_written_within(Duration::from_secs(60)));
        assert_eq!(read(), "the last one\n");
    }

    /// A pipe that takes so many bytes with each of the next writes, or fails; and after these all.
    struct Fitful {
        to: PipeWriter,
        next: VecDeque<Result<usize, ErrorKind>>,
    }

    impl Write for Fitful {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let most = self.next.pop_front().unwrap_or(Ok(usize::MAX))?;
            self.to.write(&bytes[..most.min(bytes.len())])
        }

        fn flush(&mut self) -> io::Result<()> {
            self.to.flush()
        }
    }

    impl AsFd for Fitful {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.to.as_fd()
        }
    }

    // All that was on its way, up to a megabyte of lines, was lost without a word, and one of them was cut in its middle.
    #[test]
    fn what_can_not_be_written_at_once_is_waited_for_and_what_can_not_at_all_is_counted() {
        let (mut reader, to) = io::pipe().unwrap();
        let mut pen = Pen::new(Fitful { to, next: VecDeque::new() });
        let mut write = |next: &[Result<usize, ErrorKind>], lines: &str| {
            pen.to.next.extend(next);
            pen.write(lines.as_bytes());
            assert!(pen.to.next.is_empty(), "{lines}: each line is written by itself");
        };
        let (away, full) = (Err(ErrorKind::WouldBlock), Err(ErrorKind::StorageFull));
        write(&[away, Ok(3), away, Err(ErrorKind::Interrupted)], "one that waits\nanother one\n");
        write(&[Ok(4), full, full], "one that is cut\none that is lost\n");
        write(&[], "the next one\n");
        write(&[full], "lost again\nthe last one\n");
        drop(pen);
        let mut read = String::new();
        reader.read_to_string(&mut read).unwrap();
        let told = [
            "one that waits\nanother one\none \nwarning: 2 lines could not be written here\nthe next one\n",
            "warning: 1 line could not be written here\nthe last one\n",
        ];
        assert_eq!(read, told.concat());
    }
}

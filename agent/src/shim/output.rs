//! A task's output, from its pipe into files of bounded size.
//!
//! Files are named by the offset at which they begin in the whole stream, and the two newest are kept; so a reader
//! that comes back after a rotation, or after a crash of either side, knows what it missed without asking anybody.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
};

use nix::fcntl::{FcntlArg, fcntl};

use crate::logs::{segment_name, segments};

/// Read at once. A pipe holds 64 KiB; a quarter of it costs few calls and little memory.
const CHUNK_BYTES: usize = 16 << 10;
/// More than a pipe holds that tells no size.
const PIPE_BYTES_MAX: usize = 1 << 20;
/// Chunks pumped before the shim looks at its signals again, so that a loud task can still be stopped.
const CHUNKS_PER_ROUND: u32 = 16;

pub(super) struct Output {
    source: File,
    open: bool,
    directory: PathBuf,
    stream: &'static str,
    file_bytes_max: u64,
    /// The newest file; `None` before the first byte, and while the disk takes nothing.
    file: Option<File>,
    /// Where the newest file begins in the stream, and how much it has.
    begins_at: u64,
    length: u64,
}

impl Output {
    pub(super) fn new(source: File, directory: &Path, stream: &'static str, file_bytes_max: u64) -> Self {
        // An earlier restart of the same allocation wrote here too; its output stays in front of ours.
        let (begins_at, length) =
            segments(directory, stream).pop().map_or((0, 0), |newest| (newest.begins_at, newest.length));
        Self {
            source,
            open: true,
            directory: directory.to_owned(),
            stream,
            file_bytes_max,
            file: None,
            begins_at,
            length,
        }
    }

    pub(super) fn source(&self) -> BorrowedFd<'_> {
        self.source.as_fd()
    }

    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// Moves what is there now, without waiting, and not more than some.
    pub(super) fn pump(&mut self) {
        for _ in 0..CHUNKS_PER_ROUND {
            if self.pump_chunk() == 0 {
                return;
            }
        }
    }

    /// Moves all that is left; to be called when nothing of the task writes any more. Somebody else may go on, whom it handed its output to.
    pub(super) fn drain(&mut self) {
        let held = fcntl(&self.source, FcntlArg::F_GETPIPE_SZ).ok().and_then(|bytes| usize::try_from(bytes).ok());
        let mut left = held.unwrap_or(PIPE_BYTES_MAX);
        while left > 0 {
            match self.pump_chunk() {
                0 => return,
                moved => left = left.saturating_sub(moved),
            }
        }
    }

    /// Gives how many bytes there were; 0: nothing (more) for now.
    fn pump_chunk(&mut self) -> usize {
        let mut chunk = [0; CHUNK_BYTES];
        loop {
            return match self.source.read(&mut chunk) {
                Ok(0) => {
                    self.open = false;
                    0
                }
                Ok(count) => {
                    self.write(&chunk[..count]);
                    count
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => 0,
            };
        }
    }

    /// What the disk doesn't take is lost: a task must not stand still because its logs can't be kept.
    fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.length >= self.file_bytes_max {
                self.rotate();
            }
            let room = usize::try_from(self.file_bytes_max - self.length).unwrap_or(usize::MAX);
            if self.file.is_none() {
                let path = self.directory.join(segment_name(self.stream, self.begins_at));
                self.file = OpenOptions::new().create(true).append(true).mode(0o600).open(path).ok();
            }
            let Some(file) = &mut self.file else { return };
            let Ok(written) = file.write(&bytes[..bytes.len().min(room)]) else { return };
            self.length += written as u64;
            bytes = &bytes[written..];
        }
    }

    fn rotate(&mut self) {
        self.file = None;
        let kept_from = self.begins_at;
        self.begins_at += self.length;
        self.length = 0;
        for old in segments(&self.directory, self.stream).into_iter().filter(|segment| segment.begins_at < kept_from) {
            let _ = fs::remove_file(old.path);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::logs;

    fn output_of(directory: &Path, text: &[u8], file_bytes_max: u64) {
        let (source, mut sink) = std::io::pipe().unwrap();
        let source = File::from(std::os::fd::OwnedFd::from(source));
        sink.write_all(text).unwrap();
        drop(sink);
        Output::new(source, directory, "stdout", file_bytes_max).drain();
    }

    #[test]
    fn two_files_are_kept_and_named_by_their_offset() {
        let dir = tempfile::tempdir().unwrap();
        let text: Vec<u8> = (0..=255).collect();
        output_of(dir.path(), &text, 100);
        let kept = logs::segments(dir.path(), "stdout");
        assert_eq!(kept.iter().map(|one| (one.begins_at, one.length)).collect::<Vec<_>>(), [(100, 100), (200, 56)]);
        assert_eq!(fs::read(&kept[0].path).unwrap(), text[100..200]);
        assert_eq!(fs::read(&kept[1].path).unwrap(), text[200..]);
    }

    // A task may hand its output to a service of its machine, as `systemd-run --pipe` does. Where that printed faster than its lines were written to
    // the disk, the task never ended.
    #[test]
    fn what_others_go_on_to_print_keeps_no_task_from_ending() {
        let dir = tempfile::tempdir().unwrap();
        let (source, mut sink) = std::io::pipe().unwrap();
        let source = File::from(std::os::fd::OwnedFd::from(source));
        let other = std::thread::spawn(move || while sink.write_all(&[b'x'; 64 << 10]).is_ok() {});
        let mut output = Output::new(source, dir.path(), "stdout", 1 << 20);
        output.drain();
        drop(output);
        other.join().unwrap();
        let kept: u64 = logs::segments(dir.path(), "stdout").iter().map(|one| one.length).sum();
        assert!(kept < (64 << 10) + CHUNK_BYTES as u64, "{kept} bytes are more than a pipe holds");
    }

    #[test]
    fn a_restart_goes_on_behind_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        output_of(dir.path(), b"first\n", 100);
        output_of(dir.path(), b"second\n", 100);
        assert_eq!(logs::read_tail(dir.path(), "stdout", 0).unwrap().0, b"first\nsecond\n");
    }
}

//! Reading what tasks printed, while they may still be printing.
//!
//! A stream's place is its offset since the allocation's first byte; see [`crate::shim`] for who writes the files.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Read, Seek, SeekFrom},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// Looked through at once for lines, from the end: a file may be as large as its agent was told.
const BLOCK_BYTES: usize = 64 << 10;
/// How often it is looked for files, where some that were seen can't be found a moment later.
const LOOKS_MAX: u32 = 2;

/// One file of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The file.
    pub path: PathBuf,
    /// The offset of its first byte in the stream.
    pub begins_at: u64,
    /// Its length when it was looked at.
    pub length: u64,
}

impl Segment {
    /// The offset behind its last byte.
    pub(crate) fn end(&self) -> u64 {
        self.begins_at + self.length
    }
}

pub(crate) fn segment_name(stream: &str, begins_at: u64) -> String {
    format!("{stream}-{begins_at}.log")
}

/// The files of `stream` (`stdout` or `stderr`) in an allocation's directory, oldest first.
#[must_use]
pub fn segments(directory: &Path, stream: &str) -> Vec<Segment> {
    let mut found: Vec<Segment> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let name = entry.file_name();
            let offset = name.to_str()?.strip_prefix(stream)?.strip_prefix('-')?.strip_suffix(".log")?;
            let begins_at = offset.parse().ok()?;
            Some(Segment { path: entry.path(), begins_at, length: entry.metadata().ok()?.len() })
        })
        .collect();
    found.sort_by_key(|segment| segment.begins_at);
    found
}

/// Reads on from `offset`, at most `bytes_max`, and says where the next byte is. Nothing read: there is no more yet.
/// What was rotated away meanwhile is skipped.
///
/// # Errors
/// When a file can't be read.
pub fn read_at(directory: &Path, stream: &str, offset: u64, bytes_max: usize) -> io::Result<(Vec<u8>, u64)> {
    for _ in 0..LOOKS_MAX {
        let mut is_missed = false;
        for segment in segments(directory, stream).into_iter().filter(|segment| segment.end() > offset) {
            let from = offset.max(segment.begins_at);
            let mut file = match File::open(&segment.path) {
                Ok(file) => file,
                // Rotated away since we looked, or given up: then one that we have not seen says how much there was.
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    is_missed = true;
                    continue;
                }
                Err(error) => return Err(error),
            };
            file.seek(SeekFrom::Start(from - segment.begins_at))?;
            // Only what was there when we looked: the rest is the next call's.
            let available = segment.end() - from;
            let mut bytes = Vec::new();
            file.take(available.min(bytes_max as u64)).read_to_end(&mut bytes)?;
            let next = from + bytes.len() as u64;
            return Ok((bytes, next));
        }
        if !is_missed {
            break;
        }
    }
    Ok((Vec::new(), offset))
}

/// Where the last `lines` lines begin, of what is kept (0 lines: all of it), and where the next byte of the stream will be: both as they are
/// at one look.
///
/// # Errors
/// When a file can't be read.
pub fn tail(directory: &Path, stream: &str, lines: u32) -> io::Result<Range<u64>> {
    let kept = segments(directory, stream);
    Ok(tail_of(&kept, lines)?..kept.last().map_or(0, Segment::end))
}

fn tail_of(kept: &[Segment], lines: u32) -> io::Result<u64> {
    let (Some(oldest), Some(newest)) = (kept.first(), kept.last()) else { return Ok(0) };
    if lines == 0 {
        return Ok(oldest.begins_at);
    }
    let (mut missing, mut begins_at) = (lines, newest.end());
    let mut block = vec![0; BLOCK_BYTES];
    for segment in kept.iter().rev() {
        let file = match File::open(&segment.path) {
            Ok(file) => file,
            // Rotated away since we looked: the stream begins behind it now.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(begins_at),
            Err(error) => return Err(error),
        };
        begins_at = segment.begins_at;
        let mut end = segment.length;
        while end > 0 {
            let from = end.saturating_sub(BLOCK_BYTES as u64);
            let bytes = &mut block[..usize::try_from(end - from).unwrap_or(BLOCK_BYTES)];
            file.read_exact_at(bytes, from)?;
            for (index, _) in bytes.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
                let after = segment.begins_at + from + index as u64 + 1;
                // The newline that ends the last line begins no other.
                missing -= u32::from(after != newest.end());
                if missing == 0 {
                    return Ok(after);
                }
            }
            end = from;
        }
    }
    Ok(oldest.begins_at)
}

/// The last `lines` lines of what is kept (0: all), and where the next byte will be.
///
/// # Errors
/// When a file can't be read.
pub fn read_tail(directory: &Path, stream: &str, lines: u32) -> io::Result<(Vec<u8>, u64)> {
    let mut offset = tail(directory, stream, lines)?.start;
    let mut all = Vec::new();
    loop {
        let (bytes, next) = read_at(directory, stream, offset, usize::MAX)?;
        if bytes.is_empty() {
            return Ok((all, next));
        }
        all.extend(bytes);
        offset = next;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn directory_with(segments: &[(u64, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (begins_at, text) in segments {
            fs::write(dir.path().join(segment_name("stdout", *begins_at)), text).unwrap();
        }
        dir
    }

    #[test]
    fn lines_are_counted_over_files() {
        let dir = directory_with(&[(10, "one\ntwo\nth"), (20, "ree\nfour\n")]);
        let tail = |lines| String::from_utf8(read_tail(dir.path(), "stdout", lines).unwrap().0).unwrap();
        assert_eq!(tail(1), "four\n");
        assert_eq!(tail(2), "three\nfour\n");
        assert_eq!(tail(3), "two\nthree\nfour\n");
        assert_eq!(tail(99), "one\ntwo\nthree\nfour\n");
        assert_eq!(tail(0), tail(99));
    }

    #[test]
    fn lines_are_counted_over_blocks() {
        let text = "0123456789abcde\n".repeat(3 * BLOCK_BYTES / 16 + 1);
        let dir = directory_with(&[(0, &text)]);
        for lines in [1, 4095, 4096, 4097, 8192, 12_288] {
            let behind = u64::from(lines) * 16;
            let found = tail(dir.path(), "stdout", lines).unwrap();
            assert_eq!(found.end - found.start, behind);
        }
        assert_eq!(tail(dir.path(), "stdout", 99_999).unwrap().start, 0);
    }

    // Whoever asked a loud task for its last lines while its oldest file was removed was told that there is no such file.
    #[test]
    fn a_file_that_is_rotated_away_meanwhile_is_behind_the_tail() {
        let dir = directory_with(&[(10, "one\ntwo\nth"), (20, "ree\nfour\n")]);
        let kept = segments(dir.path(), "stdout");
        fs::remove_file(&kept[0].path).unwrap();
        assert_eq!(tail_of(&kept, 9).unwrap(), 20);
        fs::remove_file(&kept[1].path).unwrap();
        assert_eq!(tail_of(&kept, 9).unwrap(), 29);
    }

    #[test]
    fn reading_goes_on_behind_what_was_rotated_away() {
        let dir = directory_with(&[(100, "abc"), (103, "def")]);
        assert_eq!(read_at(dir.path(), "stdout", 0, 2).unwrap(), (b"ab".to_vec(), 102));
        assert_eq!(read_at(dir.path(), "stdout", 102, 9).unwrap(), (b"c".to_vec(), 103));
        assert_eq!(read_at(dir.path(), "stdout", 103, 9).unwrap(), (b"def".to_vec(), 106));
        assert_eq!(read_at(dir.path(), "stdout", 106, 9).unwrap(), (b"".to_vec(), 106));
        assert_eq!(read_at(dir.path(), "stderr", 7, 9).unwrap(), (b"".to_vec(), 7));
    }
}

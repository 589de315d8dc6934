//! A log that is printed by whole lines, also where some of it is not kept any more.

use std::borrow::Cow;

use plenum_proto::v1::LogChunk;

/// How much is held back behind a gap, at most, in search of the beginning of a line: what has none is printed as it is.
const HELD_MAX: usize = 64 << 10;

/// What is printed of a log's chunks. Half of one line and half of another would be a line that nobody printed: so one that is cut off by a
/// gap ends there, and behind the gap it goes on at the beginning of a line.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// The last byte that was printed ended no line.
    within: bool,
    /// What came behind a gap, as long as no line began.
    held: Option<Vec<u8>>,
}

impl Lines {
    /// What goes out of a chunk: whether the line before it ends, and which bytes follow.
    pub(super) fn of<'a>(&mut self, chunk: &'a LogChunk) -> (bool, Cow<'a, [u8]>) {
        let mut ends = false;
        if chunk.skipped > 0 {
            ends = std::mem::take(&mut self.within);
            self.held = Some(Vec::new());
        }
        let data = match self.held.take() {
            None => Cow::Borrowed(&chunk.data[..]),
            Some(mut held) => {
                if let Some(end) = chunk.data.iter().position(|byte| *byte == b'\n') {
                    Cow::Borrowed(&chunk.data[end + 1..])
                } else {
                    held.extend_from_slice(&chunk.data);
                    if held.len() <= HELD_MAX {
                        self.held = Some(held);
                        return (ends, Cow::Borrowed(&[]));
                    }
                    Cow::Owned(held)
                }
            }
        };
        if let Some(last) = data.last() {
            self.within = *last != b'\n';
        }
        (ends, data)
    }

    /// What is left when nothing more comes.
    pub(super) fn rest(self) -> Vec<u8> {
        self.held.unwrap_or_default()
    }
}

/// What people are told of a gap.
pub(super) fn skipped_words(bytes: u64) -> String {
    let bytes = if bytes == 1 { "1 byte that is".to_owned() } else { format!("{bytes} bytes that are") };
    format!("skipped {bytes} not kept any more, and the rest of the line behind that")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(chunks: &[(u64, &str)]) -> String {
        let mut lines = Lines::default();
        let mut all = Vec::new();
        for (skipped, data) in chunks {
            let chunk = LogChunk { data: data.as_bytes().to_vec().into(), skipped: *skipped, next: None };
            let (ends, data) = lines.of(&chunk);
            all.extend(ends.then_some(b'\n'));
            all.extend_from_slice(&data);
        }
        all.extend(lines.rest());
        String::from_utf8_lossy(&all).into_owned()
    }

    // Of 29200128 and 30128662 came 29200128662.
    #[test]
    fn no_line_is_made_of_halves_of_two() {
        assert_eq!(printed(&[(0, "1\n29200128"), (700, "662\n30128663\n")]), "1\n29200128\n30128663\n");
        assert_eq!(printed(&[(0, "1\n2\n"), (700, "662\n3\n")]), "1\n2\n3\n");
        assert_eq!(printed(&[(9, "662\n3\n")]), "3\n", "also where the beginning is not kept");
        assert_eq!(printed(&[(0, "12"), (0, "34\n"), (0, "5")]), "1234\n5");
        assert_eq!(printed(&[(0, "1\n"), (7, "66"), (0, "2\n3"), (0, "\n")]), "1\n3\n", "a line may come in parts");
        assert_eq!(printed(&[(0, "1\n2"), (7, "")]), "1\n2\n");
        assert_eq!(printed(&[(0, "1\n2"), (7, "3"), (7, "4\n5\n")]), "1\n2\n5\n", "what two gaps cut off is no line");
    }

    // A task that draws a bar, and never ends a line, lost all that was kept of it, or 64 KiB.
    #[test]
    fn what_has_no_lines_is_printed_behind_a_gap_all_the_same() {
        assert_eq!(printed(&[(7, "10%\r20%"), (0, "\r30%")]), "10%\r20%\r30%");
        let endless = ".".repeat(HELD_MAX);
        assert_eq!(printed(&[(7, &endless), (0, "!"), (0, "?\n")]), format!("{endless}!?\n"));
    }

    #[test]
    fn a_gap_in_a_log_has_a_size() {
        assert_eq!(skipped_words(1), "skipped 1 byte that is not kept any more, and the rest of the line behind that");
        assert!(skipped_words(76).starts_with("skipped 76 bytes that are not kept any more"));
    }
}

//! A log that is printed by whole lines, also where some of it is not kept any more.

use plenum_proto::v1::LogChunk;

/// How much is dropped behind a gap, at most, in search of the beginning of a line: what has none is printed as it comes.
const DROPPED_MAX: usize = 64 << 10;

/// What is printed of a log's chunks. Half of one line and half of another would be a line that nobody printed: so one that is cut off by a
/// gap ends there, and behind the gap it goes on at the beginning of a line.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// The last byte that was printed ended no line.
    within: bool,
    /// So many bytes are dropped, unless a line begins before.
    to_drop: usize,
}

impl Lines {
    /// What goes out of a chunk: whether the line before it ends, and which bytes follow.
    pub(super) fn of<'a>(&mut self, chunk: &'a LogChunk) -> (bool, &'a [u8]) {
        let mut data = &chunk.data[..];
        let mut ends = false;
        if chunk.skipped > 0 {
            ends = std::mem::take(&mut self.within);
            self.to_drop = DROPPED_MAX;
        }
        if self.to_drop > 0 {
            let line = data.iter().take(self.to_drop).position(|byte| *byte == b'\n').map(|end| end + 1);
            let dropped = line.unwrap_or_else(|| self.to_drop.min(data.len()));
            self.to_drop = if line.is_some() { 0 } else { self.to_drop - dropped };
            data = &data[dropped..];
        }
        if let Some(last) = data.last() {
            self.within = *last != b'\n';
        }
        (ends, data)
    }
}

/// What people are told of a gap.
pub(super) fn skipped_words(bytes: u64) -> String {
    let (bytes, they_are) =
        if bytes == 1 { ("1 byte".to_owned(), "it is") } else { (format!("{bytes} bytes"), "they are") };
    format!("skipped {bytes}, and the rest of a line: {they_are} not kept any more")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(chunks: &[(u64, &str)]) -> String {
        let mut lines = Lines::default();
        let mut all = Vec::new();
        for (skipped, data) in chunks {
            let chunk = LogChunk { data: data.as_bytes().to_vec().into(), skipped: *skipped };
            let (ends, data) = lines.of(&chunk);
            all.extend(ends.then_some(b'\n'));
            all.extend(data);
        }
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
    }

    #[test]
    fn what_has_no_lines_is_printed_behind_a_gap_all_the_same() {
        let endless = ".".repeat(DROPPED_MAX + 5);
        assert_eq!(printed(&[(7, &endless), (0, "..")]), ".......");
        assert_eq!(printed(&[(7, &endless[..DROPPED_MAX]), (0, "..\n.")]), "..\n.");
    }

    #[test]
    fn a_gap_in_a_log_has_a_size() {
        assert_eq!(skipped_words(1), "skipped 1 byte, and the rest of a line: it is not kept any more");
        assert!(skipped_words(76).starts_with("skipped 76 bytes, and the rest of a line"));
    }
}

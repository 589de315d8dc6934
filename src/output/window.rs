//! The window of a terminal: how many rows a text takes there, and how much of a list it has room for. Knows nothing of what is listed.

use std::os::fd::AsFd;

use plenum_model::agreeing;

/// How large a window is, in rows and columns, of which it has at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    rows: usize,
    columns: usize,
}

impl Window {
    /// That of a terminal, as it is now; nothing where this is none, or does not know how large it is.
    pub(crate) fn of(stream: &impl AsFd) -> Option<Self> {
        let size = rustix::termios::tcgetwinsize(stream).ok()?;
        Self::new(size.ws_row, size.ws_col)
    }

    /// A terminal that nobody has told its size says 0.
    fn new(rows: u16, columns: u16) -> Option<Self> {
        (rows > 0 && columns > 0).then(|| Self { rows: rows.into(), columns: columns.into() })
    }

    pub(crate) const fn columns(self) -> usize {
        self.columns
    }

    /// The rows that these lines take: one that is wider than the window goes on in the next row. Never too few; a few more where characters beyond ASCII
    /// take one column.
    pub(crate) fn rows_of(self, text: &str) -> usize {
        text.lines().map(|line| self.rows_of_line(line)).sum()
    }

    fn rows_of_line(self, line: &str) -> usize {
        let (mut rows, mut column) = (1, 0);
        for width in widths(line) {
            if column + width > self.columns {
                rows += 1;
                column = 0;
            }
            column += width;
        }
        rows
    }

    /// The list as it is where it has room above so many rows and the cursor's; or its title, as many rows as have, and a line that says how many more there
    /// are. Of a window of very few rows all but the title is left out.
    pub(crate) fn fitted(self, list: String, rows_below: usize) -> String {
        let room = self.rows.saturating_sub(1).saturating_sub(rows_below);
        let all = list.lines().count();
        if self.rows_of(&list) <= room || all < 2 {
            return list;
        }
        // No line of fewer is longer.
        let room = room.saturating_sub(self.rows_of(&left_out(all)));
        let mut taken = 0;
        let fits = |line: &&str| {
            taken += self.rows_of_line(line);
            taken <= room
        };
        let kept = list.lines().take_while(fits).count().max(1);
        let shown: String = list.lines().take(kept).flat_map(|line| [line, "\n"]).collect();
        shown + &left_out(all - kept)
    }
}

/// The last line of a list of which so many rows are left out.
fn left_out(rows: usize) -> String {
    let noun = agreeing(rows as u64, "row", "rows");
    format!("{rows} more {noun} than this window shows: narrow the list with --filter or --limit\n")
}

/// How many columns each character takes, at most: one beyond ASCII may take two. Codes for bold letters take none.
pub(super) fn widths(line: &str) -> impl Iterator<Item = usize> {
    let mut is_code = false;
    line.chars().map(move |each| match each {
        '\u{1b}' => {
            is_code = true;
            0
        }
        _ if is_code => {
            // Its letter ends it.
            is_code = !each.is_ascii_alphabetic();
            0
        }
        ' '..='~' => 1,
        _ => 2,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn window(rows: u16, columns: u16) -> Window {
        Window::new(rows, columns).unwrap()
    }

    fn list(rows: usize) -> String {
        (1..=rows).fold("NAME\n".to_owned(), |list, row| format!("{list}m{row}\n"))
    }

    // Of a list that was watched and longer than the window its end was on the screen, without its title, and the rest of it, once more with each change,
    // above that.
    #[test]
    fn of_a_list_that_is_longer_than_the_window_what_fits_is_shown_and_how_much_does_not() {
        let more = "narrow the list with --filter or --limit\n";
        assert_eq!(window(6, 80).fitted(list(4), 0), list(4), "the cursor has the last row");
        assert_eq!(window(6, 80).fitted(list(5), 0), list(3) + "2 more rows than this window shows: " + more);
        assert_eq!(window(6, 80).fitted(list(4), 1), list(2) + "2 more rows than this window shows: " + more);
        assert_eq!(window(5, 80).fitted(list(4), 1), list(1) + "3 more rows than this window shows: " + more);
        assert_eq!(left_out(1), "1 more row than this window shows: ".to_owned() + more);
    }

    #[test]
    fn a_window_of_hardly_any_rows_has_the_title() {
        for rows in 1..=3 {
            assert_eq!(window(rows, 80).fitted(list(4), 0), "NAME\n".to_owned() + &left_out(4));
            assert_eq!(window(rows, 80).fitted("no conflicts\n".to_owned(), 3), "no conflicts\n");
        }
    }

    #[test]
    fn a_line_that_is_wider_than_the_window_counts_as_the_rows_that_it_takes() {
        assert_eq!(window(9, 10).rows_of("\n0123456789\n0123456789a\n"), 4);
        // The title is bold.
        assert_eq!(window(9, 4).rows_of("\u{1b}[1mNAME\u{1b}[0m"), 1);
        // Two columns each: one of five is left free.
        assert_eq!(window(9, 5).rows_of("\u{8a08}\u{7b97}\u{6a5f}"), 2);
        let wide = format!("NAME\n{}\n{}\n{}\n", "a".repeat(200), "b".repeat(200), "c".repeat(200));
        let shown = window(7, 100).fitted(wide.clone(), 0);
        assert_eq!(shown.lines().count(), 4, "the title, two rows of two lines each, and what is left out: {shown}");
        assert_eq!(window(7, 300).fitted(wide.clone(), 0), wide);
    }

    #[test]
    fn a_terminal_that_does_not_know_its_size_has_no_window() {
        assert_eq!([Window::new(0, 0), Window::new(0, 80), Window::new(24, 0)], [None; 3]);
        let file = tempfile::tempfile().unwrap();
        assert_eq!(Window::of(&file), None);
    }
}

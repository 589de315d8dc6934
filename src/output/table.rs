//! Tables without lines, as wide as they need to be when nobody looks at them on a terminal.

use std::{
    env,
    ffi::OsStr,
    io::{self, IsTerminal},
};

use comfy_table::{Attribute, Cell, ContentArrangement, Table, presets};

use super::{command::of_this_call, plain::one_line};

/// Rows below their titles. Titles alone when there are no rows, so that people see that nothing was found.
pub(crate) fn table(titles: &[&str], rows: Vec<Vec<String>>) -> String {
    styled_table(titles, rows, is_styled(&io::stdout()))
}

fn styled_table(titles: &[&str], rows: Vec<Vec<String>>, is_styled: bool) -> String {
    let mut table = plain_table();
    if is_styled {
        table.enforce_styling();
        table.set_header(titles.iter().map(|title| Cell::new(title).add_attribute(Attribute::Bold)));
    } else {
        table.set_header(titles);
    }
    for row in rows {
        table.add_row(row.iter().map(|text| one_line(&of_this_call(text))));
    }
    lines(table)
}

/// Names and values, one pair a line.
pub(crate) fn fields(pairs: &[(&str, String)]) -> String {
    let pairs: Vec<_> = pairs.iter().map(|(name, value)| (*name, of_this_call(value).into_owned())).collect();
    fields_as_they_are(&pairs)
}

/// The same of what somebody else wrote: a command that stands in it is theirs, and asks the cell that they meant.
pub(super) fn fields_as_they_are(pairs: &[(&str, String)]) -> String {
    let mut table = plain_table();
    for (name, value) in pairs {
        table.add_row([format!("{name}:"), one_line(value)]);
    }
    lines(table)
}

fn plain_table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.force_no_tty();
    table
}

/// Whether what is printed there may have colours and bold letters.
pub(crate) fn is_styled(stream: &impl IsTerminal) -> bool {
    let no_color = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !no_color && moves_cursor(stream)
}

/// Whether this is a terminal on which more can be done than to print one line after the other.
pub(crate) fn moves_cursor(stream: &impl IsTerminal) -> bool {
    knows_more_than_lines(env::var_os("TERM").as_deref()) && stream.is_terminal()
}

/// A terminal of which nothing is said may know no more, either.
fn knows_more_than_lines(term: Option<&OsStr>) -> bool {
    term.is_some_and(|term| !term.is_empty() && term != "dumb")
}

fn lines(mut table: Table) -> String {
    table.column_iter_mut().for_each(|column| {
        column.set_padding((0, 2));
    });
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    // Each list stood below an empty line on a terminal: what was bold began with no space, and all of it was taken off with one.
    #[test]
    fn titles_are_the_same_on_a_terminal_but_for_being_bold() {
        let rows = || vec![vec!["m1".to_owned(), "ready".to_owned()]];
        let plain = styled_table(&["NAME", "STATE"], rows(), false);
        assert_eq!(plain, "NAME  STATE\nm1    ready\n");
        let styled = styled_table(&["NAME", "STATE"], rows(), true);
        assert!(styled.contains("\u{1b}[1m"), "{styled:?}");
        let unstyled = styled.replace("\u{1b}[1m", "").replace("\u{1b}[0m", "");
        let trimmed: Vec<_> = unstyled.lines().map(str::trim_end).collect();
        assert_eq!(trimmed.join("\n") + "\n", plain, "{styled:?}");
    }

    // A list that was watched in an editor's shell cleared the screen in codes that stood in the text there.
    #[test]
    fn no_cursor_is_moved_where_a_terminal_says_that_it_is_dumb_or_nothing() {
        for plain in [None, Some(""), Some("dumb")] {
            assert!(!knows_more_than_lines(plain.map(OsStr::new)), "{plain:?}");
        }
        assert!(knows_more_than_lines(Some(OsStr::new("xterm-256color"))));
    }

    #[test]
    fn columns_stand_below_their_titles() {
        let text =
            table(&["NAME", "STATE"], vec![vec!["web".into(), "running".into()], vec!["w\n".into(), "x".into()]]);
        assert_eq!(text, "NAME  STATE\nweb   running\nw     x\n");
    }

    #[test]
    fn fields_stand_behind_their_names() {
        assert_eq!(fields(&[("name", "web".into()), ("priority", "50".into())]), "name:      web\npriority:  50\n");
    }
}

//! Tables without lines, as wide as they need to be when nobody looks at them on a terminal.

use std::env;

use comfy_table::{Attribute, Cell, ContentArrangement, Table, presets};

use super::{command::of_this_call, plain::one_line};

/// Rows below their titles. Titles alone when there are no rows, so that people see that nothing was found.
pub(crate) fn table(titles: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = plain_table();
    if is_styled() {
        table.set_header(titles.iter().map(|title| Cell::new(title).add_attribute(Attribute::Bold)));
    } else {
        table.set_header(titles);
    }
    for row in rows {
        table.add_row(row.iter().map(|text| one_line(&of_this_call(text))));
    }
    lines(&table)
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
    lines(&table)
}

fn plain_table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    if !is_styled() {
        table.force_no_tty();
    }
    table
}

fn is_styled() -> bool {
    let is_dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
    let no_color = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !is_dumb && !no_color && std::io::IsTerminal::is_terminal(&std::io::stdout())
}

fn lines(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().strip_prefix(' ').unwrap_or_default().to_owned() + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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

//! Our own pages, which are written in a little Markdown, for people at a terminal: in lines that fit, where headings, commands and stressed words look so.

use super::window::widths;

const BOLD: &str = "\u{1b}[1m";
const UNDERLINED: &str = "\u{1b}[4m";
const PLAIN: &str = "\u{1b}[0m";

/// Lines that belong together.
enum Block<'a> {
    Empty,
    Heading(&'a str),
    /// Of a table, as it stands.
    Row(&'a str),
    /// A paragraph, or what stands behind the mark of a list.
    Text {
        mark: &'a str,
        words: Vec<&'a str>,
    },
}

/// The page in lines of at most so many columns, but for words that are longer and for tables. Without styles, marks within lines stay.
pub(crate) fn prose(page: &str, columns: usize, is_styled: bool) -> String {
    let painted = |text: &str| if is_styled { styled(text) } else { text.to_owned() };
    let lines = blocks(page).into_iter().map(|block| match block {
        Block::Empty => "\n".to_owned(),
        Block::Heading(text) if is_styled => wrapped("", &format!("{BOLD}{text}{PLAIN}"), columns),
        Block::Heading(text) => wrapped("", text, columns),
        Block::Row(line) => format!("{line}\n"),
        Block::Text { mark, words } => wrapped(mark, &painted(&words.join(" ")), columns),
    });
    lines.collect()
}

fn blocks(page: &str) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    for line in page.lines() {
        let (mark, text) = mark_of(line);
        if line.trim().is_empty() {
            blocks.push(Block::Empty);
        } else if line.starts_with('#') {
            blocks.push(Block::Heading(line.trim_start_matches('#').trim()));
        } else if line.starts_with('|') {
            blocks.push(Block::Row(line));
        } else if let (true, Some(Block::Text { words, .. })) = (mark.is_empty(), blocks.last_mut()) {
            words.extend(line.split_whitespace());
        } else {
            blocks.push(Block::Text { mark, words: text.split_whitespace().collect() });
        }
    }
    blocks
}

/// The mark that begins a part of a list, `- ` or `1. `, and what stands behind it.
fn mark_of(line: &str) -> (&str, &str) {
    let behind = line.trim_start_matches(|each: char| each.is_ascii_digit());
    let digits = line.len() - behind.len();
    let length = match digits {
        0 if line.starts_with("- ") => 2,
        1.. if behind.starts_with(". ") => digits + 2,
        _ => 0,
    };
    line.split_at(length)
}

/// Marks within lines as what they stand for: commands bold, stressed words underlined.
fn styled(text: &str) -> String {
    let (mut is_code, mut is_stressed) = (false, false);
    let mut out = String::with_capacity(text.len());
    for each in text.chars() {
        match each {
            '`' => {
                is_code = !is_code;
                out.push_str(if is_code { BOLD } else { PLAIN });
            }
            '*' if !is_code => {
                is_stressed = !is_stressed;
                out.push_str(if is_stressed { UNDERLINED } else { PLAIN });
            }
            _ => out.push(each),
        }
    }
    out
}

/// The words in lines, behind this mark.
fn wrapped(mark: &str, text: &str, columns: usize) -> String {
    let mut out = mark.to_owned();
    let (mut column, mut is_first) = (mark.len(), true);
    for word in text.split(' ') {
        let width: usize = widths(word).sum();
        if !is_first && column + 1 + width > columns {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', mark.len()));
            column = mark.len();
        } else if !is_first {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += width;
        is_first = false;
    }
    out + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# NO_ROOM: not enough\n\n## Meaning\n\nA claim was refused, as a *conflict*: see\n`plenum txn show ID` and `log/*.kept`.\n\n\
                        - first it is this\n  and that\n- then\n1. at last\n\n| a | `b` |\n|---|---|\n";

    // Lines of two hundred columns were cut in the middle of words by the window, between marks that nobody at a terminal needs.
    #[test]
    fn a_page_is_told_in_lines_that_fit() {
        let told = prose(PAGE, 20, false);
        let expected = "NO_ROOM: not enough\n\nMeaning\n\nA claim was refused,\nas a *conflict*: see\n`plenum txn show ID`\nand `log/*.kept`.\n\n\
                        - first it is this\n  and that\n- then\n1. at last\n\n| a | `b` |\n|---|---|\n";
        assert_eq!(told, expected);
        assert!(prose(PAGE, 90, false).contains("see `plenum txn show ID` and"));
    }

    #[test]
    fn what_is_bold_or_underlined_takes_no_room() {
        let told = prose(PAGE, 20, true);
        assert!(told.starts_with("\u{1b}[1mNO_ROOM: not enough\u{1b}[0m\n\n\u{1b}[1mMeaning\u{1b}[0m\n"), "{told:?}");
        assert!(told.contains("\nas a \u{1b}[4mconflict\u{1b}[0m: see\n"), "{told:?}");
        assert!(
            told.contains("\n\u{1b}[1mplenum txn show ID\u{1b}[0m\nand \u{1b}[1mlog/*.kept\u{1b}[0m.\n"),
            "{told:?}"
        );
    }
}

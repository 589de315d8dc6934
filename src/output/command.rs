//! Commands that a text names: whoever was told which cell to ask is shown commands that ask the same one.
//!
//! They stand in what this program says and in what a server answers, everywhere as `` `plenum COMMAND …` ``. So they are completed where texts
//! are printed, and nobody who writes one has to think of it.

use std::borrow::Cow;

use super::{plain::is_unprintable, seen::asked_at};

/// How a command begins in a text.
const BEGIN: &str = "`plenum ";

/// Commands that ask no cell: an address is of no use to them, or refused.
pub(crate) const ASK_NO_CELL: &[&str] =
    &["completion", "dev", "explain", "help", "restore", "server", "verify", "version"];

/// The text, in which each command that asks a cell asks the one that this call named by its flag, or has started. A text that has been completed stays as
/// it is.
pub(super) fn of_this_call(text: &str) -> Cow<'_, str> {
    match asked_at() {
        Some(address) if text.contains(BEGIN) => with_address(text, &address).into(),
        _ => text.into(),
    }
}

fn with_address(text: &str, address: &str) -> String {
    let mut parts = text.split(BEGIN);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str(BEGIN);
        let command = part.split(|each: char| !each.is_ascii_lowercase()).next().unwrap_or_default();
        // Flags in its place say themselves which cell is meant, or ask for help.
        if !command.is_empty() && !ASK_NO_CELL.contains(&command) {
            out.push_str(&format!("--addr {} ", word(address)));
        }
        out.push_str(part);
    }
    out
}

/// The text as one word of a shell, on one line: the address of version 6 of the protocol has brackets, in which some shells look for names of files.
pub(crate) fn word(text: &str) -> String {
    if text.chars().any(is_unprintable) {
        return escaped_word(text);
    }
    let is_plain = |each: char| each.is_ascii_alphanumeric() || ":/.-_".contains(each);
    if !text.is_empty() && text.chars().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// The same of what does not stand on one line as it is, such as a script of several: a shell reads the very same again.
fn escaped_word(text: &str) -> String {
    let mut word = "$'".to_owned();
    for each in text.chars() {
        match each {
            '\n' => word.push_str(r"\n"),
            '\t' => word.push_str(r"\t"),
            '\\' | '\'' => word.extend(['\\', each]),
            _ if is_unprintable(each) => {
                // By its bytes, and each with all three digits: a digit may follow.
                each.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| word.push_str(&format!("\\{byte:03o}")));
            }
            _ => word.push(each),
        }
    }
    word.push('\'');
    word
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{fields, name_cell, table};

    // Whoever asked a cell by its address was told to run what asks the one at the usual address.
    #[test]
    fn commands_that_ask_a_cell_are_told_with_the_address_of_the_call() {
        let told = |text| with_address(text, "http://127.0.0.1:7171");
        let of_server = "paused; `plenum scheduler resume batch` lets it go on, `plenum job list` lists";
        assert_eq!(
            told(of_server),
            "paused; `plenum --addr http://127.0.0.1:7171 scheduler resume batch` lets it go on, \
             `plenum --addr http://127.0.0.1:7171 job list` lists"
        );
        for text in [
            "`plenum explain NO_ROOM` tells more",
            "start one with `plenum dev` or `plenum server`, or name another address with --addr",
            "`plenum restore --accept-loss` goes on",
            "try `plenum --help`",
            "`plenum --addr A machine undrain m1` ends that",
            "plenum job list",
            "",
        ] {
            assert_eq!(told(text), text);
        }
        assert_eq!(told(&told(of_server)), told(of_server), "once is enough");
        assert_eq!(with_address("`plenum status`", "[::1]:7"), "`plenum --addr '[::1]:7' status`");
    }

    #[test]
    fn tables_tell_commands_with_the_address_too() {
        let cells = || vec![vec!["`plenum job list`".to_owned()]];
        assert_eq!(table(&["WHY"], cells()), "WHY\n`plenum job list`\n");
        name_cell("a:1");
        assert_eq!(table(&["WHY"], cells()), "WHY\n`plenum --addr a:1 job list`\n");
        assert_eq!(fields(&[("why", "`plenum job list`".into())]), "why:  `plenum --addr a:1 job list`\n");
    }
}

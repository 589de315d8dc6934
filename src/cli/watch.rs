//! Listings that are printed once, or again whenever something changed.

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use crate::{
    failure::Failure,
    output::{self, Format},
};

/// How often a watched listing is asked for again.
const PERIOD: Duration = Duration::from_secs(1);

/// What a listing says, and the revision it is of.
pub(super) struct Listed {
    pub(super) revision: u64,
    pub(super) text: String,
    /// There are more rows than were listed, and nobody asked for so few.
    pub(super) truncated: bool,
}

/// Prints a listing; with `watch`, again each time its revision has changed, until the process is interrupted.
pub(super) async fn print(
    format: Format,
    watch: bool,
    mut list: impl AsyncFnMut() -> Result<Listed, Failure>,
) -> Result<(), Failure> {
    let mut shown = None;
    loop {
        let listed = list().await?;
        if shown != Some(listed.revision) {
            shown = Some(listed.revision);
            output::print(&framed(format, watch, listed.text))?;
            let is_for_people = matches!(format, Format::Table | Format::Wide);
            if listed.truncated && is_for_people {
                output::tell("there are more rows; list them with --limit, or narrow the list with --filter");
            }
        }
        if !watch {
            return Ok(());
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// What separates one listing from the next: a fresh screen, an empty line, or for programs a line of its own.
fn framed(format: Format, watch: bool, text: String) -> String {
    match format {
        _ if !watch => text,
        Format::Json => match serde_json::from_str::<serde_json::Value>(&text) {
            Ok(value) => format!("{value}\n"),
            Err(_) => text,
        },
        Format::Yaml => format!("---\n{text}"),
        Format::Table | Format::Wide if io::stdout().is_terminal() => format!("\x1b[H\x1b[2J{text}"),
        _ => format!("{text}\n"),
    }
}

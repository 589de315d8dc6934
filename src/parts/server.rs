//! `plenum server`.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use plenum_server::{ServerError, ServerOptions};

use super::{causes, config, config::ServerFile, state_folder, trace};
use crate::{cli, failure::Failure, parent};

/// When the server of `plenum dev` gives memory back: its cell is small, and often idle.
const REST_OF_DEV: Duration = Duration::from_secs(1);

/// Runs the cell state's server until it is asked to end.
pub(crate) fn server(flags: &cli::Server) -> Result<(), Failure> {
    parent::follow(flags.with_parent.with_parent)?;
    let options = options(flags, config::read(flags.config.as_deref())?)?;
    let _last_words = trace::begin()?;
    let runtime = plenum_server::event_loop().map_err(|error| Failure::io("cannot start the event loop", &error))?;
    runtime.block_on(plenum_server::run(options)).map_err(|error| failure(&error))
}

/// Flags before the file before defaults.
fn options(flags: &cli::Server, file: ServerFile) -> Result<ServerOptions, Failure> {
    let dir = match flags.dir.clone().or(file.dir) {
        Some(dir) => dir,
        None => state_folder("plenum")?,
    };
    let mut options = ServerOptions::new(dir);
    options.listen = flags.listen.or(file.listen).unwrap_or_else(|| ([127, 0, 0, 1], 7070).into());
    options.custom_resources = file.custom_resources;
    let settings = &mut options.settings;
    settings.lease = file.lease.unwrap_or(settings.lease);
    settings.session_linger = file.session_linger.unwrap_or(settings.session_linger);
    settings.retain = file.retain.unwrap_or(settings.retain);
    settings.retain_bytes = file.retain_bytes.unwrap_or(settings.retain_bytes);
    if let Some(after) = file.unknown_after {
        settings.core.unknown_micros = i64::try_from(after.as_micros()).unwrap_or(i64::MAX);
    }
    if let Some(after) = file.retire_after {
        settings.core.retire_after_micros = i64::try_from(after.as_micros()).unwrap_or(i64::MAX);
    }
    settings.core.finished_jobs_max = file.finished_jobs.unwrap_or(settings.core.finished_jobs_max);
    settings.checkpoint_bytes = file.checkpoint_bytes.unwrap_or(settings.checkpoint_bytes);
    settings.checkpoint_interval = file.checkpoint_interval.unwrap_or(settings.checkpoint_interval);
    settings.image_file_pages = file.image_file_pages.unwrap_or(settings.image_file_pages);
    settings.segment_bytes = file.segment_bytes.unwrap_or(settings.segment_bytes);
    settings.reserve_bytes = file.reserve_bytes.or(settings.reserve_bytes);
    settings.recent_bytes = file.recent_bytes.unwrap_or(settings.recent_bytes);
    settings.arriving_bytes = file.arriving_bytes.unwrap_or(settings.arriving_bytes);
    settings.unread_bytes = file.unread_bytes.unwrap_or(settings.unread_bytes);
    settings.connections = file.connections.unwrap_or(settings.connections);
    settings.shared_calls = file.shared_calls.unwrap_or(settings.shared_calls);
    settings.listing_rows = file.listing_rows.unwrap_or(settings.listing_rows);
    if flags.with_parent.with_parent.is_some() {
        settings.rest = REST_OF_DEV;
    }
    Ok(options)
}

/// The file in a cell's directory in which its server tells its address.
pub(crate) fn address_file(dir: &Path) -> PathBuf {
    dir.join("address")
}

pub(super) fn failure(error: &ServerError) -> Failure {
    let code = error.code();
    let failure = Failure::new(code, causes(error));
    match error {
        ServerError::Directory { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) =>
        {
            Failure { code: "NO_SPACE".to_owned(), ..failure }
        }
        _ if cli::has_page(code) => failure.with_hint(format!("`plenum explain {code}` tells more")),
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn flags() -> cli::Server {
        let with_parent = cli::WithParent { with_parent: None };
        cli::Server { config: None, dir: Some("/tmp/cell".into()), listen: None, with_parent }
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let listen = Some(([127, 0, 0, 1], 1).into());
        let file = || ServerFile { listen, connections: Some(3), shared_calls: Some(0), ..ServerFile::default() };
        let made = options(&flags(), file()).unwrap();
        assert_eq!((made.listen.port(), made.settings.connections, made.settings.shared_calls), (1, 3, 0));
        let listen = Some(([127, 0, 0, 1], 2).into());
        assert_eq!(options(&cli::Server { listen, ..flags() }, file()).unwrap().listen.port(), 2);
        assert_eq!(options(&flags(), ServerFile::default()).unwrap().listen.port(), 7070);
    }
}

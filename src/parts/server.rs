//! `plenum server`.

use std::path::{Path, PathBuf};

use super::{config, config::ServerFile, state_folder, trace};
use crate::{cli, failure::Failure, parent};

/// Runs the cell state's server until it is asked to end.
pub(crate) fn server(flags: &cli::Server) -> Result<(), Failure> {
    parent::follow(flags.with_parent.with_parent)?;
    let file: ServerFile = config::read(flags.config.as_deref())?;
    let _dir = match flags.dir.clone().or(file.dir) {
        Some(dir) => dir,
        None => state_folder("plenum")?,
    };
    trace::begin();
    Err(Failure::new("UNIMPLEMENTED", "the server is not wired into the binary yet"))
}

/// The file in a cell's directory in which its server tells its address.
pub(crate) fn address_file(dir: &Path) -> PathBuf {
    dir.join("address")
}

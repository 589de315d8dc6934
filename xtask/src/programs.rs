//! Programs that a step needs beyond crates: found, installed where we may, or named with the command
//! that installs them.

use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::watch::watch;
use crate::workspace::{Workspace, in_ci};

/// The runner's version that CI installs. Any other that is found is used as it is.
const NEXTEST_VERSION: &str = "0.9.143";
const INSTALL_LIMIT: Duration = Duration::from_secs(20 * 60);

/// What runs the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Runner {
    /// `cargo nextest`: a process for each test, a time limit for each, all binaries at once.
    Nextest,
    /// `cargo test`, which comes with every toolchain.
    CargoTest,
}

/// The best runner that is there; in CI, nextest is installed first.
///
/// On a developer's bare machine it is not: building it takes minutes, and a first run of the gate
/// should not wait for that. What is lost without it is the time limit for each test, not a verdict.
pub(crate) fn test_runner(workspace: &Workspace) -> Runner {
    let command = format!("cargo install cargo-nextest --locked --version {NEXTEST_VERSION}");
    if answers(workspace, &["nextest", "--version"]) {
        return Runner::Nextest;
    }
    if in_ci() {
        eprintln!("cargo-nextest is missing; this is CI, so: {command}");
        let mut install = workspace.cargo(command.split(' ').skip(1));
        // It waits for tests: what the compiler would make of it in thrice the time is not worth that.
        install.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1").env("CARGO_PROFILE_RELEASE_LTO", "off");
        match watch(install, "the installation of cargo-nextest", INSTALL_LIMIT, |_, _| {}) {
            Ok(status) if status.success() => return Runner::Nextest,
            Ok(status) => eprintln!("it could not be installed ({status}); `cargo test` does the work"),
            Err(error) => eprintln!("it could not be installed ({error:#}); `cargo test` does the work"),
        }
    } else {
        eprintln!("cargo-nextest is missing; `cargo test` does the work. For a time limit on each test: {command}");
    }
    Runner::CargoTest
}

/// Makes sure that a part of the toolchain (`clippy`, `rustfmt`) is there.
pub(crate) fn need_component(workspace: &Workspace, subcommand: &str, component: &str) -> Result<()> {
    if answers(workspace, &[subcommand, "--version"]) {
        return Ok(());
    }
    add_component(workspace, component)
}

/// Installs a part of the toolchain.
pub(crate) fn add_component(workspace: &Workspace, component: &str) -> Result<()> {
    let command = format!("rustup component add {component}");
    eprintln!("{component} is missing: {command}");
    let mut install = Command::new("rustup");
    install.args(["component", "add", component]).current_dir(&workspace.root);
    match watch(install, &command, INSTALL_LIMIT, |_, _| {}) {
        Ok(status) if status.success() => Ok(()),
        _ => bail!("{component} is missing and could not be installed. Do it by hand: {command}"),
    }
}

/// Makes sure that `program` can be started, or that the file with this whole path, such as a library's, is there; where it is missing, installs
/// Debian's `package` if we are root.
pub(crate) fn need_program(workspace: &Workspace, program: &str, package: &str) -> Result<()> {
    if found(program).is_some() {
        return Ok(());
    }
    if is_root() && found("apt-get").is_some() {
        for arguments in [vec!["update"], vec!["install", "-y", "--no-install-recommends", package]] {
            eprintln!("{program} is missing: apt-get {}", arguments.join(" "));
            let mut install = Command::new("apt-get");
            install.args(&arguments).env("DEBIAN_FRONTEND", "noninteractive").current_dir(&workspace.root);
            let status = watch(install, "apt-get", INSTALL_LIMIT, |_, _| {})?;
            if !status.success() {
                break;
            }
        }
        if found(program).is_some() {
            return Ok(());
        }
    }
    bail!("{program} is missing. Install it: sudo apt-get install -y {package}")
}

/// True when Cargo has this subcommand and it can say its version.
pub(crate) fn answers(workspace: &Workspace, arguments: &[&str]) -> bool {
    workspace.cargo(arguments).output().is_ok_and(|output| output.status.success())
}

/// Where the shell would find `program`; a whole path is that file, which need not be executable.
pub(crate) fn found(program: &str) -> Option<PathBuf> {
    if program.starts_with('/') {
        return Some(PathBuf::from(program)).filter(|file| file.is_file());
    }
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// The effective user of this process, from `/proc`, which needs no library.
fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        status
            .lines()
            .find_map(|line| line.strip_prefix("Uid:"))
            .and_then(|ids| ids.split_whitespace().nth(1))
            .is_some_and(|effective| effective == "0")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_looked_for_in_the_path_and_a_whole_path_is_that_file() {
        let library = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        assert_eq!(found(library), Some(PathBuf::from(library)), "it is there, and nothing that could be started");
        assert_eq!(found("/nowhere/Cargo.toml"), None);
        assert_eq!(found(env!("CARGO_MANIFEST_DIR")), None, "a folder is no file");
        assert!(found("sh").is_some_and(|file| file.ends_with("sh")));
        assert_eq!(found("no-such-program"), None);
    }
}

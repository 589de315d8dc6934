//! Where the project lies, and how its programs are started: one target folder and one set of
//! settings for all steps, so that no step builds again what another has built.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{IsTerminal, stderr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// The project's folder and Cargo's target folder.
pub(crate) struct Workspace {
    /// The folder that holds the root `Cargo.toml`.
    pub(crate) root: PathBuf,
    /// Where Cargo puts what it builds, `CARGO_TARGET_DIR` and configuration considered.
    pub(crate) target: PathBuf,
    /// Whether nothing of ours had been built there when this was begun.
    pub(crate) is_first_build: bool,
}

impl Workspace {
    /// Asks Cargo, so that a configured target folder is found, too.
    pub(crate) fn find() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in no folder")?.to_owned();
        let output = Command::new(cargo_program())
            .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
            .current_dir(&root)
            .output()
            .context("could not start `cargo metadata`")?;
        if !output.status.success() {
            bail!("`cargo metadata` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let metadata: serde_json::Value =
            serde_json::from_slice(&output.stdout).context("`cargo metadata` gave no valid JSON")?;
        let target = metadata["target_directory"].as_str().context("`cargo metadata` names no target_directory")?;
        let target = PathBuf::from(target);
        let is_first_build = !has_been_built(&target);
        Ok(Self { root, target, is_first_build })
    }

    /// A `cargo` that runs in the project's folder, and knows nothing of what somebody has set for tests: see [`forget_settings`].
    pub(crate) fn cargo<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(cargo_program());
        command.args(arguments).current_dir(&self.root);
        forget_settings(&mut command);
        // What is built once and thrown away needs no incremental state: it costs time and half the disk. Nor does a first build, which would give a
        // third of its time for what helps only the next one: that builds what is ours once more.
        if (in_ci() || self.is_first_build) && env::var_os("CARGO_INCREMENTAL").is_none() {
            command.env("CARGO_INCREMENTAL", "0");
        }
        // As for dependencies. Only where nobody builds anything afterwards: these would be other builds than those of a `cargo test` by hand.
        if in_ci() && env::var_os(UNITS).is_none() {
            command.env(UNITS, "4");
        }
        // Its output goes through a pipe, where Cargo would drop the colours.
        if colours() {
            command.env("CARGO_TERM_COLOR", "always");
        }
        command
    }

    /// Where the programs of the release build lie.
    pub(crate) fn release_folder(&self) -> PathBuf {
        self.target.join("release")
    }

    /// Makes sure that programs of this release build, which has run, lie in the folder of release builds: what lies there otherwise is old, and would be
    /// run in their place. Cargo has nothing to build any more, and only says where they are.
    pub(crate) fn check_place(&self, mut build: Command) -> Result<()> {
        // Whoever looks on sees that it waits for another Cargo, and why it fails.
        build.arg("--message-format=json").stderr(Stdio::inherit());
        let output = build.output().context("could not start Cargo")?;
        ensure!(
            output.status.success(),
            "expected Cargo to say where the programs of the release build are, and it ended with {}: see what it said above",
            output.status
        );
        let said = String::from_utf8_lossy(&output.stdout);
        let elsewhere = said.lines().filter_map(program_of).find(|program| !program.starts_with(self.release_folder()));
        if let Some(program) = elsewhere {
            bail!(
                "expected programs in {}, and Cargo builds {}: take `build.target` out of Cargo's configuration",
                self.release_folder().display(),
                program.display()
            );
        }
        Ok(())
    }

    /// Where fuzzing keeps what led somewhere new.
    pub(crate) fn fuzz_pool(&self) -> PathBuf {
        self.target.join("fuzz-pool")
    }

    /// An empty folder below the target folder, for what a step writes.
    pub(crate) fn scratch(&self, name: &str) -> Result<PathBuf> {
        let folder = self.target.join("xtask").join(name);
        if folder.exists() {
            std::fs::remove_dir_all(&folder).with_context(|| format!("could not empty {}", folder.display()))?;
        }
        std::fs::create_dir_all(&folder).with_context(|| format!("could not make {}", folder.display()))?;
        Ok(folder)
    }
}

/// The program that was built, if that is what a line of Cargo's JSON says.
fn program_of(line: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    message["executable"].as_str().map(PathBuf::from)
}

/// Whether anything that most of our crates need was built in a target folder.
fn has_been_built(target: &Path) -> bool {
    let built = std::fs::read_dir(target.join("debug").join("deps"));
    let is_ours = |entry: std::fs::DirEntry| entry.file_name().as_encoded_bytes().starts_with(b"libplenum_model-");
    built.is_ok_and(|built| built.flatten().any(is_ours))
}

/// In how many units a crate is compiled that is ours, for tests.
const UNITS: &str = "CARGO_PROFILE_DEV_CODEGEN_UNITS";

/// Files that are no part of the project: where somebody has them, a test more has something to do.
const KEPT: &str = "PLENUM_TRACES";

/// Takes from a command all variables with which somebody has changed what tests do, or where a client goes: fewer seeds or cases, a bug, files
/// that are written anew instead of compared, tries after one that failed, another cell, another target. Forgotten in a shell, each would let the gate pass without
/// having looked, the last one as what is built for a target that is named lies elsewhere.
/// What is set after this is kept.
pub(crate) fn forget_settings(command: &mut Command) {
    forget(command, env::vars_os().map(|(name, _)| name));
}

fn forget(command: &mut Command, names: impl Iterator<Item = OsString>) {
    for name in names {
        let bytes = name.as_encoded_bytes();
        let is_ours = bytes.starts_with(b"PLENUM_") || name == "BLESS";
        let is_a_runners = bytes.starts_with(b"PROPTEST_") || name == "NEXTEST_RETRIES";
        let is_of_the_build = name == "CARGO_BUILD_TARGET";
        if (is_ours || is_a_runners || is_of_the_build) && name != KEPT {
            command.env_remove(name);
        }
    }
}

/// True in continuous integration, where all common services set `CI`.
pub(crate) fn in_ci() -> bool {
    env::var("CI").is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"))
}

/// The very Cargo that runs us, so that a toolchain that was chosen on the command line holds for every step.
fn cargo_program() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// True when a person looks on who has not asked for plain text.
pub(crate) fn colours() -> bool {
    stderr().is_terminal()
        && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && env::var_os("TERM").is_none_or(|value| value != "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_is_the_first_one_until_something_of_ours_is_there() {
        let target = env::temp_dir().join(format!("plenum-first-build-{}", std::process::id()));
        let deps = target.join("debug").join("deps");
        std::fs::create_dir_all(&deps).expect("there is room");
        std::fs::write(deps.join("libxtask-1a2b.rlib"), "").expect("there is room");
        assert!(!has_been_built(&target), "this program is built in any case");
        std::fs::write(deps.join("libplenum_model-3c4d.rmeta"), "").expect("there is room");
        let found = has_been_built(&target);
        std::fs::remove_dir_all(&target).expect("it is ours");
        assert!(found);
    }

    #[test]
    fn what_somebody_has_set_for_tests_reaches_no_step_and_what_a_step_sets_does() {
        let of_tests = ["PLENUM_BLESS", "PLENUM_CRASH_CUTS", "BLESS", "PROPTEST_CASES", "NEXTEST_RETRIES"];
        let changed = [&of_tests[..], &["PLENUM_ADDR", "CARGO_BUILD_TARGET"]].concat();
        let names = [&["PLENUM_SEEDS"][..], &changed[..], &[KEPT, "PLENUM", "NEXTEST_PROFILE", "PATH"]].concat();
        let mut command = Command::new("cargo");
        forget(&mut command, names.iter().map(OsString::from));
        command.env("PLENUM_SEEDS", "0..1000");
        let is_removed = |name: &str| command.get_envs().any(|(of, value)| of == name && value.is_none());
        let removed: Vec<&str> = names.into_iter().filter(|name| is_removed(name)).collect();
        assert_eq!(removed, changed);
        assert!(command.get_envs().any(|(_, value)| value.is_some_and(|value| value == "0..1000")));
    }

    #[test]
    fn where_a_program_lies_is_read_from_what_cargo_says() {
        let program = r#"{"reason":"compiler-artifact","executable":"/target/release/plenum"}"#;
        assert_eq!(program_of(program), Some(PathBuf::from("/target/release/plenum")));
        let others = [r#"{"reason":"compiler-artifact","executable":null}"#, r#"{"reason":"build-finished"}"#, "text"];
        assert!(others.into_iter().all(|line| program_of(line).is_none()));
    }

    // Examples and harness ran what an older build had left, where this one had put nothing.
    #[test]
    fn programs_that_cargo_builds_elsewhere_are_not_taken_for_those_that_are_run() {
        let target = PathBuf::from("/project/target");
        let workspace = Workspace { root: env::temp_dir(), target, is_first_build: false };
        let built_at = |place: &str| {
            // Instead of Cargo.
            let mut says = Command::new("sh");
            says.args(["-c", r#"echo "{\"executable\": \"$1\"}""#, "sh", place]);
            workspace.check_place(says)
        };
        for place in ["/project/target/release/plenum", "/project/target/release/examples/own-scheduler"] {
            built_at(place).expect("it is where it is looked for");
        }
        let error = built_at("/project/target/x86_64-unknown-linux-gnu/release/plenum").expect_err("it is elsewhere");
        let told = error.to_string();
        assert!(told.starts_with("expected programs in /project/target/release, and Cargo builds"), "{told}");
    }

    // Its error was what Cargo had said, kept back until its end: that it waits for another one, too.
    #[test]
    fn a_cargo_that_does_not_say_where_programs_are_is_told_by_how_it_ended() {
        let target = PathBuf::from("/project/target");
        let workspace = Workspace { root: env::temp_dir(), target, is_first_build: false };
        let mut fails = Command::new("sh");
        fails.args(["-c", "exit 3"]);
        let told = workspace.check_place(fails).expect_err("it failed").to_string();
        assert!(told.contains("it ended with exit status: 3"), "{told}");
    }
}

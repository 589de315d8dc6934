//! Generates a client of etcd's documented API and an echo service from files of our own, without a system `protoc`, and notes how the harness is
//! built: figures of one build say little beside those of another.
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, error::Error};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let root = folder.join("proto");
    println!("cargo::rerun-if-changed=proto");
    for (file, serves) in [("etcd.proto", false), ("echo.proto", true)] {
        let mut compiler = protox::Compiler::new([&root])?;
        compiler.include_imports(true).open_files([root.join(file)])?;
        tonic_prost_build::configure().build_server(serves).compile_fds(compiler.file_descriptor_set())?;
    }
    note_profile();
    // A debug build measures nothing, and shall not be made again for each commit.
    if env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        note_commit(&folder);
    }
    Ok(())
}

/// The profile by its name, which is that of the folder it is built into: Cargo tells `release` of each that inherits from it. And whether the compiler was
/// given counts of what was run.
fn note_profile() {
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    // …/PROFILE/build/…/out
    let build = out.ancestors().find(|folder| folder.ends_with("build"));
    let name = build.and_then(Path::parent).and_then(Path::file_name).unwrap_or_default();
    println!("cargo::rustc-env=PLENUM_BENCH_PROFILE={}", name.to_string_lossy());
    println!("cargo::rerun-if-env-changed=RUSTFLAGS");
    println!("cargo::rerun-if-env-changed=CARGO_ENCODED_RUSTFLAGS");
    if env::var("CARGO_ENCODED_RUSTFLAGS").is_ok_and(|flags| flags.contains("profile-use")) {
        println!("cargo::rustc-env=PLENUM_BENCH_COUNTS=used");
    }
}

/// The commit that is checked out, where git tells: not where the sources are no checkout, or only lie within that of something else. Asked again when
/// another one is.
fn note_commit(folder: &Path) {
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        command.args(arguments).current_dir(folder).env_remove("GIT_DIR").env_remove("GIT_WORK_TREE");
        let output = command.output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
    };
    let root = git(&["rev-parse", "--show-toplevel"]).and_then(|root| Path::new(&root).canonicalize().ok());
    let own = folder.parent().and_then(|parent| parent.canonicalize().ok());
    if root.is_none() || root != own {
        return;
    }
    // Each commit and each checkout writes there. A file that is not there would have this run with every build.
    for file in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", file]).map(|path| folder.join(path));
        if let Some(path) = path.filter(|path| path.is_file()) {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
    if let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) {
        println!("cargo::rustc-env=PLENUM_BENCH_COMMIT={commit}");
    }
}

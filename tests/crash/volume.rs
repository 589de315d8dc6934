//! A file system of the test's own, in a file, whose power can be cut: what the system has not synced by then is gone.
//!
//! The kernel's own ioctl for it (XFS, and since then ext4) shuts the file system down without writing anything more. Mounted again, it
//! recovers as after a power cut. What it can't show is a device that lies about its own cache.
#![allow(unsafe_code, reason = "one ioctl that no crate has")]

use std::{
    fs::{self, File},
    io::Read,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    disk::keep_mounts_to_oneself,
    stage::{eventually, is_root},
};

/// `FS_IOC_SHUTDOWN`: `_IOR('X', 125, __u32)`.
const SHUTDOWN: nix::libc::c_ulong = 0x8004_587d;
/// Not even what the file system has in its own journal.
static WITHOUT_FLUSH: u32 = 2;

/// Which file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Ext4,
    Xfs,
}

impl Kind {
    fn program(self) -> &'static str {
        match self {
            Self::Ext4 => "mkfs.ext4",
            Self::Xfs => "mkfs.xfs",
        }
    }

    /// The smallest that it makes.
    fn least_bytes(self) -> u64 {
        match self {
            Self::Ext4 => 1 << 20,
            Self::Xfs => 320 << 20,
        }
    }

    /// Why such a volume can't be had here.
    pub(crate) fn missing(self) -> Option<String> {
        if !is_root() {
            return Some("only root can mount the volume that this story needs".to_owned());
        }
        let found = Command::new(self.program()).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
        (!found).then(|| format!("{} is missing: apt-get install -y {}", self.program(), self.package()))
    }

    fn package(self) -> &'static str {
        match self {
            Self::Ext4 => "e2fsprogs",
            Self::Xfs => "xfsprogs",
        }
    }
}

/// The volume, mounted.
pub(crate) struct Volume {
    image: PathBuf,
    path: PathBuf,
}

impl Volume {
    /// Makes a volume and mounts it at `path`. Its image is beside it.
    pub(crate) fn make(kind: Kind, path: PathBuf, bytes: u64) -> Self {
        keep_mounts_to_oneself();
        let image = path.with_extension("image");
        File::create(&image).unwrap().set_len(bytes.max(kind.least_bytes())).unwrap();
        let quiet = if kind == Kind::Ext4 { "-qF" } else { "-qf" };
        run(Command::new(kind.program()).arg(quiet).arg(&image));
        fs::create_dir(&path).unwrap();
        let volume = Self { image, path };
        volume.mount();
        volume
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn mount(&self) {
        run(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.path));
    }

    /// Cuts the power: nothing reaches the volume any more.
    pub(crate) fn cut(&self) {
        cut(&self.path);
    }

    /// Power is back. Whoever used the volume must have ended.
    pub(crate) fn restore(&self) {
        self.take_off();
        self.mount();
    }

    /// The device is whole again. Its ext4 is checked first, as a machine does at boot after errors: mounted as it was left, it may
    /// find what its failed writes left behind, and turn read-only once more.
    pub(crate) fn restore_after_errors(&self) {
        self.take_off();
        eventually("the device of the volume is given back", || {
            let devices = Command::new("losetup").arg("-j").arg(&self.image).output().unwrap();
            devices.stdout.is_empty().then_some(())
        });
        let checked = Command::new("e2fsck").arg("-fy").arg(&self.image).output().unwrap();
        let mended = checked.status.code().is_some_and(|code| code <= 2);
        assert!(mended, "the volume is mended: {}", String::from_utf8_lossy(&checked.stdout));
        self.mount();
    }

    fn take_off(&self) {
        eventually("the volume can be taken off", || {
            Command::new("umount").arg(&self.path).stderr(Stdio::null()).status().unwrap().success().then_some(())
        });
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).stderr(Stdio::null()).status();
    }
}

/// Cuts the power of the volume mounted here; nothing where it is off already.
pub(crate) fn cut(path: &Path) {
    let Ok(folder) = File::open(path) else { return };
    // SAFETY: the kernel reads one number through the pointer, which outlives the call.
    let done = unsafe { nix::libc::ioctl(folder.as_raw_fd(), SHUTDOWN, &raw const WITHOUT_FLUSH) };
    assert_eq!(done, 0, "the file system can be shut down: {}", std::io::Error::last_os_error());
}

#[track_caller]
fn run(command: &mut Command) {
    let done = command.output().unwrap();
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Without this, a power cut that cuts nothing would pass all stories.
#[test]
fn what_is_synced_survives_a_power_cut_and_what_is_not_does_not() {
    for kind in [Kind::Ext4, Kind::Xfs] {
        if let Some(why) = kind.missing() {
            crate::skips::skipped(&why);
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let volume = Volume::make(kind, folder.path().join("volume"), 64 << 20);
        let [kept, changed, lost] = ["kept", "changed", "lost"].map(|name| volume.path().join(name));
        for synced in [&kept, &changed] {
            fs::write(synced, "synced").unwrap();
            File::open(synced).unwrap().sync_all().unwrap();
        }
        File::open(volume.path()).unwrap().sync_all().unwrap();
        fs::write(&changed, "changed").unwrap();
        fs::write(&lost, "never synced").unwrap();
        volume.cut();
        assert!(fs::write(&lost, "without power").is_err());
        volume.restore();
        assert_eq!(fs::read_to_string(kept).unwrap(), "synced");
        let text = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        // Written anew, it may have been emptied.
        assert_ne!(text(&changed), "changed");
        assert_eq!(text(&lost), "");
    }
}

/// A task of another test, with mounts of its own, kept the volume there: taken off and mounted again it was still without power.
#[test]
fn a_volume_has_power_again_whoever_had_mounts_of_his_own_meanwhile() {
    if let Some(why) = Kind::Ext4.missing() {
        crate::skips::skipped(&why);
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (starts, started) = std::sync::mpsc::channel::<()>();
    let (there, is_there) = std::sync::mpsc::channel();
    let other = std::thread::spawn(move || {
        started.recv().unwrap();
        let command = ["--mount", "--propagation", "private", "sh", "-c", "echo; read line"];
        let mut task =
            Command::new("unshare").args(command).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        task.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
        there.send(task).unwrap();
    });
    let volume = Volume::make(Kind::Ext4, folder.path().join("volume"), 64 << 20);
    starts.send(()).unwrap();
    let mut task = is_there.recv().unwrap();
    volume.cut();
    volume.restore();
    fs::write(volume.path().join("file"), "with power").unwrap();
    drop(task.stdin.take());
    task.wait().unwrap();
    other.join().unwrap();
}

//! Closing to a task what it could change the whole machine by, and what others left open. It knows no task.

use std::{ffi::CString, path::Path};

use nix::{
    errno::Errno,
    libc,
    mount::{MsFlags, mount},
    unistd::Uid,
};

use crate::isolation::Isolation;

/// What tasks have to do without because the kernel is too old for it, in words for people. Found out by calls that change nothing.
pub(crate) fn not_in_kernel(isolation: Isolation) -> Vec<String> {
    // Others than root may not write there as it is.
    let is_to_be_read_only = isolation.mount && Uid::effective().is_root();
    let read_only = if is_to_be_read_only { set_mount_attributes("/", 0) } else { Ok(()) };
    missing(read_only, close_on_exec_from(libc::c_uint::MAX))
}

/// Refusals for another reason, as of a user who may not ask, say nothing of the kernel.
fn missing(read_only: nix::Result<()>, closing: nix::Result<()>) -> Vec<String> {
    let parts = [
        (read_only, "a read-only /sys (needs Linux 5.12)"),
        (closing, "closing what the agent inherited open (needs Linux 5.11)"),
    ];
    let is_unknown = |outcome: &nix::Result<()>| matches!(outcome, Err(Errno::ENOSYS | Errno::EINVAL));
    parts.into_iter().filter(|(outcome, _)| is_unknown(outcome)).map(|(_, name)| name.to_owned()).collect()
}

/// Makes a tree read-only for this mount namespace, so that a root task can't lift its own limits. Not possible before
/// Linux 5.12 or for mounts of another owner; nothing else depends on it.
pub(super) fn make_read_only(tree: &str) {
    let _ = set_mount_attributes(tree, libc::MOUNT_ATTR_RDONLY);
}

/// Sets these attributes of all mounts of a tree. None: changes nothing.
fn set_mount_attributes(tree: &str, set: u64) -> nix::Result<()> {
    #[repr(C)]
    struct MountAttributes {
        set: u64,
        clear: u64,
        propagation: u64,
        user_namespace: u64,
    }
    let attributes = MountAttributes { set, clear: 0, propagation: 0, user_namespace: 0 };
    let path = CString::new(tree).map_err(|_| Errno::ENOENT)?;
    // SAFETY: path and attributes live during the call, and the size is that of the struct.
    #[allow(unsafe_code)]
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::AT_RECURSIVE,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    };
    Errno::result(outcome).map(drop)
}

/// Puts the control group of a command in the place where its hierarchy is mounted, for this mount namespace. In version 2 root may start a process in
/// any group that it can open (`CLONE_INTO_CGROUP`), and the kernel does not ask whether that is on a read-only mount. The group with its limits must
/// not be seen either: a process in there makes a namespace of control groups, mounts them, and may write those.
pub(super) fn show_only_group(group: &Path, mounted_at: &Path) -> nix::Result<()> {
    mount(Some(group), mounted_at, None::<&str>, MsFlags::MS_BIND, None::<&str>)
}

/// Files of `/proc` through which root changes or ends the whole machine by writing, whatever its capabilities: the program that
/// the kernel runs, outside of all namespaces, for each process that crashes; the key that reboots; disks that are taken away.
const KERNEL_FILES: [&str; 7] =
    ["/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs", "/proc/scsi", "/proc/acpi"];

/// Makes them read-only for this mount namespace. Where one is not there, nothing needs to be done.
pub(super) fn close_kernel_files() {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
    for path in KERNEL_FILES {
        // Over itself, to have a mount of its own that can be closed.
        if mount(Some(path), path, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>).is_ok() {
            let _ =
                mount(None::<&str>, path, None::<&str>, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | flags, None::<&str>);
            // And what is mounted below it, which that leaves as it was.
            make_read_only(path);
        }
    }
}

/// Closes what the agent's own parent left open, as `flock -n LOCK plenum agent` does: a shim outlives its agent, and would hold that for as long as its task runs.
/// Before Linux 5.9 it stays open. To be called before anything is opened.
pub(super) fn close_inherited() {
    // SAFETY: nobody here has a descriptor yet but of the three standard streams.
    #[allow(unsafe_code)]
    let _ = unsafe { libc::syscall(libc::SYS_close_range, 3 as libc::c_uint, libc::c_uint::MAX, 0 as libc::c_uint) };
}

/// What the agent's parent left open is no business of a task. Ours close by themselves; before Linux 5.11, only those.
pub(super) fn close_on_exec_all() {
    let _ = close_on_exec_from(3);
}

/// Has all descriptors from this one on closed at an exec. From the last number there is: none.
fn close_on_exec_from(first: libc::c_uint) -> nix::Result<()> {
    // SAFETY: marks descriptors, touches no memory.
    #[allow(unsafe_code)]
    let outcome = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    Errno::result(outcome).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    // On a kernel without the call a root task could lift its own limits, and nobody was told.
    #[test]
    fn what_the_kernel_does_not_know_is_told_and_what_it_refuses_is_not() {
        assert_eq!(missing(Ok(()), Ok(())), [""; 0]);
        assert_eq!(missing(Err(Errno::EPERM), Err(Errno::ENOMEM)), [""; 0]);
        let told = missing(Err(Errno::ENOSYS), Ok(()));
        assert_eq!(told, ["a read-only /sys (needs Linux 5.12)"]);
        let told = missing(Ok(()), Err(Errno::EINVAL));
        assert_eq!(told, ["closing what the agent inherited open (needs Linux 5.11)"]);
    }

    // It is asked in the agent, whose own mounts and descriptors must stay as they are. Tests need Linux 5.12, as root's tasks do.
    #[test]
    fn a_kernel_that_knows_all_of_it_is_found_to() {
        assert_eq!(not_in_kernel(Isolation::full(false)), [""; 0]);
    }
}

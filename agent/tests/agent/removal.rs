//! Removing what even root can't remove.

use std::{fs, io, path::Path};

use plenum_agent::removal::remove_tree;

use crate::skips::skipped;

/// Whether a file could be made one that root may not remove either, or an ordinary one again.
fn make_immutable(file: &Path, flag: &str) -> bool {
    let made = std::process::Command::new("chattr").arg(flag).arg(file).output();
    made.is_ok_and(|made| made.status.success())
}

// What was moved out of a directory with something in it that can't be removed was left where it had been moved to, and so was all
// that lay below it.
#[test]
fn what_can_not_be_removed_keeps_nothing_else() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("task");
    fs::create_dir_all(root.join("a/deep/deeper")).unwrap();
    for file in ["a/locked", "a/deep/file", "a/deep/deeper/file"] {
        fs::write(root.join(file), "x").unwrap();
    }
    let locked = root.join("a/locked");
    if !make_immutable(&locked, "+i") {
        skipped("files that can't be removed need root, and a file system with chattr");
        return;
    }
    let removed = remove_tree(&root);
    let left = |directory: &Path| {
        let entries = fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    let (at_root, beside) = (left(&root), left(&root.join("a")));
    assert!(make_immutable(&locked, "-i"));
    assert_eq!(removed.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    assert_eq!((at_root, beside), (vec!["a".to_owned()], vec!["locked".to_owned()]));
    remove_tree(&root).unwrap();
    assert!(!root.exists());
}

//! Cells that are sound, and are not what the cell was.

use super::*;

/// A cell with a session of this scheduler, at revision 2.
fn with_session_of(scheduler: &str) -> Cell {
    let mut core = Core::new(CoreOptions::default());
    let identity = plenum_model::CellIdentity { incarnation: 1, term: 1, ..Default::default() };
    for command in [Command::OpenServer(identity), Command::OpenSession { scheduler: scheduler.into() }] {
        let request = Request { principal: "local".into(), namespace: "default".into(), command };
        let decided = core.decide(&request, LogTime::from_micros(1));
        assert!(matches!(decided, Decided::Changed { .. }), "{decided:?}");
    }
    core.cell().clone()
}

// A backup became what everything else was compared with, whatever was in it.
#[test]
fn a_backup_of_another_cell_is_found() {
    let mut books = Books::new(CoreOptions::default());
    books.snapshots.push_back(with_session_of("batch"));
    let restored = |books: &mut Books, scheduler: &str| {
        books.restored(with_session_of(scheduler), &Endings::default(), 2).map_err(|violation| violation.invariant)
    };
    assert_eq!(restored(&mut books, "batch"), Ok(()));
    assert_eq!(restored(&mut books, "service"), Err("invariant_a_backup_is_sound"));
    books.snapshots.clear();
    assert_eq!(restored(&mut books, "service"), Ok(()), "what it was is not known any more");
}

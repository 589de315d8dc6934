//! A directory whose identity is lost is looked at as what its segments say it is, and is not opened.

use super::*;
use crate::segment;

const OTHER: CellId = CellId([1; 16]);

/// A log of some segments, with its mark at the end.
fn log() -> SimDisk {
    let (disk, journal) = log_of(12);
    journal.high_water().flush().unwrap();
    drop(journal);
    disk.copy()
}

/// The same disk without its identity: one bit of it flipped, cut short, gone.
fn without_identity(disk: &SimDisk) -> [SimDisk; 3] {
    let lost = [disk.copy(), disk.copy(), disk.copy()];
    lost[0].flip_bit("CELL", 40, 0);
    lost[1].truncate("CELL", 100);
    lost[2].erase("CELL");
    lost
}

fn places(report: &Report) -> Vec<&str> {
    report.damages.iter().map(|damage| damage.file.as_str()).collect()
}

// One lost sector kept everybody from a log of which nothing else was missing.
#[test]
fn a_log_whose_identity_is_lost_is_looked_at_and_not_opened() {
    let disk = log();
    let whole = verify(&disk, None, &mut |_| {}).unwrap();
    for lost in without_identity(&disk) {
        let mut frames = 0;
        let report = verify(&lost, Some(CELL), &mut |_| frames += 1).unwrap();
        assert_eq!((report.identity, report.tail, report.mark), (whole.identity, whole.tail, whole.mark));
        assert_eq!((frames, places(&report)), (whole.frames, vec!["CELL"]));
        assert!(matches!(report.refused, Some(OpenError::IdentityDamaged { .. })), "{:?}", report.refused);
        assert!(report.refused_as_a_whole().is_none());
        assert!(verify_kept(&lost, Some(CELL), &mut |_| {}).unwrap().damages.is_empty());
        assert_eq!(identity(&lost).unwrap(), whole.identity);
        let refused = verify(&lost, Some(OTHER), &mut |_| {}).unwrap_err();
        assert!(matches!(refused, OpenError::OtherCell { expected: OTHER, found: CELL, .. }), "{refused}");
        let refused = try_open(&lost).err().unwrap();
        assert!(matches!(refused, OpenError::IdentityDamaged { .. } | OpenError::Orphaned { .. }), "{refused}");
    }
}

// A next incarnation has to be one that nobody has seen.
#[test]
fn the_segments_of_a_restored_cell_tell_its_incarnation() {
    let disk = SimDisk::new(1);
    let restored = Identity { cell: CELL, incarnation: 7 };
    plant(&disk, restored, Tail { revision: 30, term: 4, hash: ChainHash([7; 32]) }, &options()).unwrap();
    disk.erase("CELL");
    assert_eq!(identity(&disk).unwrap(), restored);
}

#[test]
fn what_is_wrong_beside_a_lost_identity_is_told_as_well() {
    let disk = log();
    disk.erase("CELL");
    let without_mark = disk.copy();
    without_mark.erase("MARK");
    let report = verify(&without_mark, None, &mut |_| {}).unwrap();
    assert_eq!(places(&report), ["CELL", "MARK"]);
    assert!(matches!(report.refused, Some(OpenError::NoMark { .. })), "nobody knows how far it had come");

    let mut last = 0;
    verify(&disk, None, &mut |frame| last = frame.segment).unwrap();
    let is_last = |name: &String| segment::number_in(name).is_some_and(|number| number >= last);
    disk.names().iter().filter(|name| is_last(name)).for_each(|name| disk.erase(name));
    let report = verify(&disk, None, &mut |_| {}).unwrap();
    assert_eq!(places(&report), ["CELL"]);
    assert!(matches!(report.refused_as_a_whole(), Some(OpenError::EndsBeforeMark { .. })), "{:?}", report.refused);
}

#[test]
fn segments_that_disagree_or_can_not_be_read_tell_no_identity() {
    let of_other = SimDisk::new(0);
    drop(Journal::open(Arc::new(of_other.clone()), Options { create: Some(OTHER), ..options() }).unwrap());
    let (mixed, blank) = (log(), log());
    mixed.put(&segment::name(1), of_other.image(&segment::name(1)).unwrap());
    let is_segment = |name: &String| segment::number_in(name).is_some();
    blank.names().iter().filter(|name| is_segment(name)).for_each(|name| blank.overwrite(name, 0, &[0xff; 512]));
    for disk in [mixed, blank] {
        for (lost, is_gone) in without_identity(&disk).into_iter().zip([false, false, true]) {
            for refused in [identity(&lost).unwrap_err(), verify(&lost, None, &mut |_| {}).unwrap_err()] {
                let is_told = match refused {
                    OpenError::Orphaned { .. } => is_gone,
                    OpenError::IdentityDamaged { .. } => !is_gone,
                    _ => false,
                };
                assert!(is_told, "{refused}");
                // Who went on as it said met the same words again.
                assert!(refused.to_string().contains("where its segments agree"), "{refused}");
            }
        }
    }
}

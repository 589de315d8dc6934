//! Snapshots and starts that are of another cell, or of one whose resources have other names: told otherwise on their way to the checker.

use plenum_checker::picture::Picture;
use plenum_checker::properties::{Damage, Made, property_damage_is_named, property_snapshots_equal_the_fold};
use plenum_checker::{Evidence, Violation};
use plenum_proto::v1;

use crate::forged::{chronicle, run_of};
use crate::untrue::change_all;

type Change = fn(&mut v1::CellChange);

const CHANGES: [Change; 3] = [
    |cell| cell.cell_id = vec![8; 16].into(),
    |cell| cell.custom_resources = vec!["licenses".to_owned()],
    |cell| cell.term += 1,
];

/// Every start of a server is told otherwise; snapshots are as they were.
fn opened_otherwise(evidence: &Evidence, change: Change) -> Vec<Violation> {
    let mut told = evidence.clone();
    change_all(&mut told, |delta| delta.cell.iter_mut().for_each(change));
    property_snapshots_equal_the_fold(&chronicle(&told), &evidence.recordings)
}

// Neither deltas nor pages were read for it: a start that forgot what its resources are called gave the same picture.
#[test]
fn a_snapshot_of_a_cell_that_goes_by_other_names_is_found() {
    let evidence = run_of(140);
    assert_eq!(opened_otherwise(&evidence, |_| ()), []);
    for change in CHANGES {
        let found = opened_otherwise(&evidence, change);
        let is_it = |one: &Violation| matches!(one, Violation::OtherPicture { difference, .. } if difference.starts_with("cell: "));
        assert!(!found.is_empty() && found.iter().all(is_it), "{found:?}");
    }
}

/// A term is of one start.
#[test]
fn a_start_as_another_cell_than_before_the_damage_is_found_but_for_its_term() {
    let chronicle = chronicle(&run_of(140));
    let newest = chronicle.newest();
    let found = |change: Change| {
        let folded = chronicle.picture_at(newest).unwrap();
        let mut picture = Picture { revision: newest + 1, ..folded };
        change(picture.cell.as_mut().unwrap());
        let made = Made::Started(Box::new(picture));
        let damage = Damage { place: "segment-7 offset 4096".into(), acknowledged: newest, made };
        property_damage_is_named(&chronicle, &[damage]).len()
    };
    assert_eq!(CHANGES.map(found), [1, 1, 0]);
}

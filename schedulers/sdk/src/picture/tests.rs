//! Stories of one picture and hand-made messages. Stories of a real cell stand in the testkit.

use bytes::BytesMut;
use plenum_model::{CellIdentity, Delta, LogTime};
use plenum_proto::delta;

use super::*;

fn welcome(revision: u64, snapshot: bool) -> v1::Welcome {
    let cell_id = vec![1; 16].into();
    v1::Welcome { incarnation: 1, term: 1, revision, snapshot, cell_id, ..v1::Welcome::default() }
}

/// The delta of a revision; the first one opens the server, all others do nothing.
fn encoded(revision: u64) -> bytes::Bytes {
    let mut delta = Delta::new(Revision(revision), LogTime::from_micros(5));
    if revision == 1 {
        delta.cell = Some(CellIdentity { cell_id: [1; 16], incarnation: 1, term: 1, ..CellIdentity::default() });
    }
    let mut bytes = BytesMut::new();
    delta::encode(&delta, &mut bytes);
    bytes.freeze()
}

fn deltas(revisions: impl IntoIterator<Item = u64>) -> Tell {
    Tell::Deltas(v1::Deltas { deltas: revisions.into_iter().map(encoded).collect() })
}

fn beat(revision: u64) -> Tell {
    Tell::Heartbeat(v1::Heartbeat { revision, ..v1::Heartbeat::default() })
}

fn take(picture: &mut Picture, tell: Tell) -> Result<(), Useless> {
    picture.take(v1::SessionResponse { tell: Some(tell) })
}

/// The revision of the picture, if it is current.
fn current(picture: &Picture) -> Option<u64> {
    picture.current().map(|cell| cell.revision().0)
}

/// A picture that is current at revision 5 of incarnation 1.
fn at_five() -> Picture {
    let mut picture = Picture::default();
    for tell in [Tell::Welcome(welcome(0, false)), deltas(1..=5), beat(5)] {
        take(&mut picture, tell).unwrap();
    }
    assert!(picture.is_news());
    picture.looked();
    picture
}

// Of a welcome that goes on it was thought that it is the present: a framework would have acted on a picture 237 revisions old.
#[test]
fn who_comes_back_is_current_once_it_has_come_to_what_a_heartbeat_told() {
    let mut picture = at_five();
    picture.lost();
    assert_eq!(current(&picture), None);
    let hello = picture.hello();
    assert_eq!((hello.revision, hello.incarnation, hello.seen_revision, hello.seen_term), (5, 1, 5, 1));
    take(&mut picture, Tell::Welcome(welcome(5, false))).unwrap();
    assert_eq!(current(&picture), None, "how far the cell is, nobody has said");
    take(&mut picture, beat(8)).unwrap();
    take(&mut picture, deltas([6, 7])).unwrap();
    assert_eq!((current(&picture), picture.is_news()), (None, false));
    take(&mut picture, deltas([8])).unwrap();
    assert_eq!((current(&picture), picture.is_news()), (Some(8), true));
    picture.looked();
    take(&mut picture, beat(8)).unwrap();
    assert!(!picture.is_news(), "nothing has changed");
    take(&mut picture, beat(9)).unwrap();
    assert_eq!(current(&picture), None, "it is behind");
}

#[test]
fn who_fell_behind_keeps_the_old_picture_until_the_new_one_is_whole() {
    let mut picture = at_five();
    take(&mut picture, Tell::Welcome(welcome(900, true))).unwrap();
    assert_eq!((current(&picture), picture.cell().map(|cell| cell.revision().0)), (None, Some(5)));
    let early = take(&mut picture, deltas([6])).unwrap_err();
    assert_eq!(early, unread("a delta before the mirror was complete"));
    let part = v1::SnapshotPart { revision: 900, last: true, ..v1::SnapshotPart::default() };
    assert!(matches!(take(&mut picture, Tell::Snapshot(part)), Err(Useless::Unread(_))), "no page is no cell");
    picture.lost();
    picture.forget();
    assert_eq!((picture.hello().revision, picture.hello().seen_revision), (0, 900), "what was seen stays");
}

#[test]
fn what_does_not_fit_is_not_shown() {
    for (tell, why) in [
        (deltas([7]), "a delta that does not fit"),
        (Tell::Deltas(v1::Deltas { deltas: vec![vec![7].into()] }), "a delta that cannot be read"),
        (Tell::Snapshot(v1::SnapshotPart::default()), "a page of a snapshot that was not announced"),
        (Tell::Welcome(welcome(6, false)), "at revision 5, and offered to go on after 6"),
    ] {
        let Err(Useless::Unread(found)) = take(&mut at_five(), tell) else { panic!("{why}") };
        assert!(found.starts_with(why), "{found}");
    }
}

#[test]
fn a_server_that_does_not_compare_is_compared() {
    let other = v1::Welcome { cell_id: vec![2; 16].into(), ..welcome(5, true) };
    assert_eq!(take(&mut at_five(), Tell::Welcome(other)), Err(Useless::OtherCell(vec![2; 16])));
    assert_eq!(take(&mut at_five(), Tell::Welcome(welcome(4, true))), Err(Useless::Older));
    let restored = v1::Welcome { incarnation: 2, ..welcome(3, true) };
    let mut picture = at_five();
    take(&mut picture, Tell::Welcome(restored)).unwrap();
    assert_eq!((picture.hello().revision, picture.hello().seen_incarnation), (0, 2), "its mirror is of another life");
    let goes_on = v1::Welcome { incarnation: 2, ..welcome(5, false) };
    assert!(matches!(take(&mut at_five(), Tell::Welcome(goes_on)), Err(Useless::Unread(_))));
}

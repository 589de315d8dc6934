//! What a greeting says together, judged before anything is looked for or opened for it.

use plenum_proto::bounds::PULSE_MICROS_MAX;
use plenum_proto::v1;

use crate::api::failure::Failure;

/// A revision, or a server, is one of an incarnation: who does not say of which is told so. It would count for nothing else, without a word: the whole cell
/// would be sent at each new attempt, and what was seen compared with nothing.
pub(super) fn names_its_incarnations(hello: &v1::Hello) -> Result<(), Failure> {
    let told = [
        ("revision", hello.revision, "incarnation", hello.incarnation),
        ("seen_revision", hello.seen_revision, "seen_incarnation", hello.seen_incarnation),
        ("seen_term", hello.seen_term, "seen_incarnation", hello.seen_incarnation),
    ];
    let lacking = told.into_iter().find(|&(_, said, _, incarnation)| said > 0 && incarnation == 0);
    let Some((field, said, of, _)) = lacking else { return Ok(()) };
    Err(Failure::invalid(format!("{of}: expected the one that {field} {said} is of, above 0, found 0")))
}

/// Whoever promises pulses says how long it takes to see that none comes.
pub(super) fn promises_what_it_can_keep(hello: &v1::Hello) -> Result<(), Failure> {
    let found = hello.pulse_micros;
    if found <= PULSE_MICROS_MAX {
        return Ok(());
    }
    let message = format!(
        "pulse_micros: expected at most {PULSE_MICROS_MAX} µs (ten minutes) between pulses, or 0 where none are promised, found {found}"
    );
    Err(Failure::invalid(message))
}

/// Whoever watches has no session, and commits in none.
pub(super) fn has_no_session(hello: &v1::Hello) -> Result<(), Failure> {
    if hello.session == 0 {
        return Ok(());
    }
    let message =
        format!("session: expected 0, for a watch has none, found {}; Cell.Session goes on with it", hello.session);
    Err(Failure::invalid(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    // A revision without its incarnation was ignored, which looked like a server that never goes on; and what was seen was compared with nothing.
    #[test]
    fn a_revision_without_its_incarnation_is_refused_by_its_field() {
        let told =
            |hello: v1::Hello| names_its_incarnations(&hello).err().map(|failure| (failure.code, failure.message));
        let lacks = |field: &str, of: &str| {
            Some(("INVALID_REQUEST", format!("{of}: expected the one that {field} 7 is of, above 0, found 0")))
        };
        let nothing = v1::Hello::default;
        assert_eq!(told(v1::Hello { revision: 7, seen_incarnation: 1, ..nothing() }), lacks("revision", "incarnation"));
        let seen = v1::Hello { seen_revision: 7, incarnation: 1, ..nothing() };
        assert_eq!(told(seen), lacks("seen_revision", "seen_incarnation"));
        assert_eq!(told(v1::Hello { seen_term: 7, ..nothing() }), lacks("seen_term", "seen_incarnation"));
        let whole = v1::Hello { revision: 7, incarnation: 1, seen_revision: 7, seen_term: 2, ..nothing() };
        assert_eq!(told(v1::Hello { seen_incarnation: 1, ..whole }), None);
        assert_eq!(told(v1::Hello { seen_incarnation: 1, incarnation: 1, ..nothing() }), None);
        assert_eq!(told(nothing()), None);
    }

    #[test]
    fn pulses_are_promised_for_within_ten_minutes_or_not_at_all() {
        let told = |pulse_micros| promises_what_it_can_keep(&v1::Hello { pulse_micros, ..v1::Hello::default() }).err();
        for kept in [0, 1, 100_000, 600_000_000] {
            assert!(told(kept).is_none(), "{kept}");
        }
        for (broken, found) in [(600_000_001, "found 600000001"), (u64::MAX, "found 18446744073709551615")] {
            let failure = told(broken).unwrap();
            assert_eq!(failure.code, "INVALID_REQUEST");
            let expected = "pulse_micros: expected at most 600000000 µs (ten minutes) between pulses, or 0 where none";
            assert!(failure.message.starts_with(expected), "{}", failure.message);
            assert!(failure.message.ends_with(found), "{}", failure.message);
        }
    }
}

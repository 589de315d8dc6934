//! A moment in the cell's history, as people type it. Knows nothing of the rest of the command line: a fuzzer reads it alone.

use plenum_proto::v1::At;

use crate::job_file::duration_micros;

/// A revision, a time, or how long ago: `4711`, `2026-11-20T08:00:00Z`, `-10m`.
///
/// # Errors
/// Says what was expected.
pub(crate) fn parse_at(text: &str) -> Result<At, String> {
    if let Ok(revision) = text.parse::<u64>() {
        return if revision == 0 {
            Err("revision 0 is the empty cell; the first one is 1".to_owned())
        } else {
            Ok(At { revision, time_micros: 0 })
        };
    }
    let expected = "expected a revision such as 4711, a time such as 2026-11-20T08:00:00Z, or -10m for ten minutes ago";
    let time_micros = time_micros(text, expected)?;
    // In the protocol 0 means that no time is given; no cell is as old as that.
    if time_micros <= 0 {
        return Err(format!("{text} is not after the beginning of 1970, and no cell is as old as that"));
    }
    Ok(At { revision: 0, time_micros })
}

/// An instant, as microseconds since 1970: a time, or how long ago or from now on, in whole seconds: `2026-11-20T08:00:00Z`, `-10m`, `+10m`.
///
/// # Errors
/// Says what was expected.
pub(crate) fn parse_instant(text: &str) -> Result<i64, String> {
    if duration_micros(text).is_ok() {
        return Err(format!("{text} may be ago or still to come: write -{text} or +{text}"));
    }
    let expected =
        "expected a time such as 2026-11-20T08:00:00Z, -10m for ten minutes ago, or +10m for ten minutes from now";
    let ahead = text.strip_prefix('+').map(|ahead| away_micros(ahead, expected)).transpose()?;
    let ahead = ahead.map(|ahead| jiff::Timestamp::now().as_microsecond().saturating_add(ahead));
    let micros = ahead.map_or_else(|| time_micros(text, expected), Ok)?;
    if micros < 0 {
        return Err(format!("{text} is before 1970, where instants begin"));
    }
    // Asked for again within the second, it is the same instant.
    Ok(if ahead.is_some() || text.starts_with('-') { micros - micros % 1_000_000 } else { micros })
}

/// A time, or how long ago. What looks like one is told what is wrong with it, and all else what was `expected`.
fn time_micros(text: &str, expected: &str) -> Result<i64, String> {
    if let Some(ago) = text.strip_prefix('-') {
        return Ok(jiff::Timestamp::now().as_microsecond().saturating_sub(away_micros(ago, expected)?));
    }
    match text.parse::<jiff::Timestamp>() {
        Ok(time) => Ok(time.as_microsecond()),
        Err(error) if error.is_range() => {
            Err(format!("{text} is out of range; expected a day of the calendar, up to {}", jiff::Timestamp::MAX))
        }
        Err(_) => Err(expected.to_owned()),
    }
}

/// How far away from now, as it stands behind a sign.
fn away_micros(text: &str, expected: &str) -> Result<i64, String> {
    let begins_as_one = text.starts_with(|each: char| each.is_ascii_digit());
    duration_micros(text).map_err(|what| if begins_as_one { what } else { expected.to_owned() })
}

/// Up to which moment is read when only what is below revision `before` is asked for, of a cell that is looked at as it was `at`: a long
/// list is gone on with so, and is seen from the same moment all the time.
pub(crate) fn up_to(at: Option<At>, before: Option<u64>) -> Option<At> {
    let Some(last) = before.map(|before| before.saturating_sub(1)) else { return at };
    let revision =
        at.map(|at| at.revision).filter(|&revision| revision > 0).map_or(last, |revision| revision.min(last));
    // Of both the earlier one counts.
    Some(At { revision, time_micros: at.map_or(0, |at| at.time_micros) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_moment_is_a_revision_or_a_time() {
        assert_eq!(parse_at("42").unwrap().revision, 42);
        assert_eq!(parse_at("1970-01-01T00:00:01Z").unwrap().time_micros, 1_000_000);
        assert!(parse_at("1970-01-01T00:00:00Z").is_err() && parse_at("-100000w").is_err());
        assert!(parse_at("0").is_err() && parse_at("yesterday").is_err() && parse_at("-1").is_err());
    }

    // `--at -10m` was taken for flags.
    #[test]
    fn an_instant_is_a_time_and_no_revision() {
        assert_eq!(parse_instant("1970-01-01T00:00:01.5Z"), Ok(1_500_000));
        assert!(parse_instant("-10m").is_ok_and(|instant| instant > 0 && instant % 1_000_000 == 0));
        assert!(parse_instant("1969-12-31T23:59:59Z").unwrap_err().contains("before 1970"));
        assert!(parse_instant("42").unwrap_err().starts_with("expected a time such as"));
        assert!(parse_instant("").is_err() && parse_instant("-").is_err());
    }

    // The message expected what had been given: a time, or how long ago.
    #[test]
    fn what_is_out_of_bounds_is_told_the_bound() {
        let far = parse_at("9999-12-31T23:59:59Z").unwrap_err();
        assert!(far.contains("is out of range; expected a day of the calendar, up to 9999-12-30T22:00:00"), "{far}");
        assert_eq!(parse_instant("9999-12-31T23:59:59Z"), Err(far));
        assert!(parse_at("2026-02-30T08:00:00Z").unwrap_err().contains("expected a day of the calendar"));
        for far in ["-400d", "+400d"] {
            assert_eq!(parse_instant(far).unwrap_err(), "`400d` is too long; expected at most 366d");
        }
        assert_eq!(parse_at("-400d").unwrap_err(), "`400d` is too long; expected at most 366d");
        assert!(parse_at("-1.5h").unwrap_err().contains("expected whole numbers with units"));
        let eldest = parse_at("1970-01-01T00:00:00Z").unwrap_err();
        assert!(eldest.contains("is not after the beginning of 1970"), "{eldest}");
        assert!(parse_at("-soon").unwrap_err().starts_with("expected a revision such as"));
    }

    // Of what is still to come it was said that no such time was expected, and nobody could say it but as a date.
    #[test]
    fn an_instant_may_be_told_by_how_soon_it_comes() {
        let ahead = parse_instant("+10m").unwrap();
        let from_now = ahead - jiff::Timestamp::now().as_microsecond();
        // Down to a whole second, and now was a little earlier there than here.
        assert!(ahead % 1_000_000 == 0 && (540_000_000..=600_000_000).contains(&from_now), "{from_now}");
        assert!(parse_instant("10m").unwrap_err().ends_with("write -10m or +10m"));
        assert!(parse_instant("+").is_err() && parse_instant("+42").is_err() && parse_instant("+-10m").is_err());
        assert!(parse_at("+10m").is_err(), "nobody has seen that");
    }

    #[test]
    fn what_is_below_a_revision_is_read_up_to_the_one_before_it() {
        let at = |revision| Some(At { revision, time_micros: 0 });
        assert_eq!((up_to(None, None), up_to(at(7), None)), (None, at(7)));
        assert_eq!((up_to(None, Some(5)), up_to(at(7), Some(5)), up_to(at(3), Some(5))), (at(4), at(4), at(3)));
        let by_time = Some(At { revision: 0, time_micros: 1_000_000 });
        // Whatever was above the revision of that time was listed, too.
        let both = Some(At { revision: 4, time_micros: 1_000_000 });
        assert_eq!((up_to(by_time, None), up_to(by_time, Some(5))), (by_time, both));
    }

    #[test]
    fn a_moment_may_be_told_by_how_long_ago_it_was() {
        let ago = jiff::Timestamp::now().as_microsecond() - parse_at("-1h30m").unwrap().time_micros;
        // Now was a little earlier here than there.
        assert!((5_390_000_000..5_460_000_000).contains(&ago), "{ago}");
    }
}

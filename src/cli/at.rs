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
    if is_number(text) {
        return Err(format!("{text} is too large for a revision; expected at most {}", u64::MAX));
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
        // Of a number alone it would be said that it has too many days.
        Err(error) if error.is_range() && !is_number(text) => {
            Err(format!("{text} is out of range; expected a day of the calendar, up to {}", jiff::Timestamp::MAX))
        }
        Err(_) => Err(expected.to_owned()),
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// How far away from now, as it stands behind a sign.
fn away_micros(text: &str, expected: &str) -> Result<i64, String> {
    let begins_as_one = text.starts_with(|each: char| each.is_ascii_digit());
    duration_micros(text).map_err(|what| if begins_as_one { what } else { expected.to_owned() })
}

/// A moment below which is read: there is nothing below the first revision.
///
/// # Errors
/// Says what was expected.
pub(crate) fn parse_before(text: &str) -> Result<At, String> {
    match parse_at(text)? {
        At { revision: 1, .. } => Err("there is nothing below revision 1".to_owned()),
        before => Ok(before),
    }
}

/// A moment above which is read; 0: all.
///
/// # Errors
/// Says what was expected.
pub(crate) fn parse_after(text: &str) -> Result<At, String> {
    if text == "0" { Ok(At::default()) } else { parse_at(text) }
}

/// From when on something counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Since {
    /// So many microseconds before the moment that is looked at.
    Ago(i64),
    /// A time.
    Time(i64),
}

/// How long ago, or a time: `10m`, `-10m`, `2026-11-20T08:00:00Z`.
///
/// # Errors
/// Says what was expected.
pub(crate) fn parse_since(text: &str) -> Result<Since, String> {
    let expected = "expected how long, such as 10m, or a time such as 2026-11-20T08:00:00Z";
    let ago = text.strip_prefix('-').unwrap_or(text);
    if text.starts_with('-') || duration_micros(ago).is_ok() {
        return away_micros(ago, expected).map(Since::Ago);
    }
    // A slip in a length of time is told as one.
    match time_micros(text, expected) {
        Err(what) if what == expected => away_micros(ago, expected).map(Since::Ago),
        time => time.map(Since::Time),
    }
}

/// Up to which moment is read when only what is below the moment `before` is asked for, of a cell that is looked at as it was `at`: a long
/// list is gone on with so, and is seen from the same moment all the time.
pub(crate) fn up_to(at: Option<At>, before: Option<At>) -> Option<At> {
    let Some(before) = before else { return at };
    let at = at.unwrap_or_default();
    // Of both the earlier one counts; 0 stands for none.
    let earlier = |at: u64, before: u64| match (at, before.saturating_sub(1)) {
        (0, last) => last,
        (at, 0) => at,
        (at, last) => at.min(last),
    };
    let time_micros = earlier(at.time_micros.max(0).cast_unsigned(), before.time_micros.max(0).cast_unsigned());
    Some(At { revision: earlier(at.revision, before.revision), time_micros: time_micros.cast_signed() })
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
        // It was said to be no day of the calendar.
        let large = "99999999999999999999";
        assert!(parse_at(large).unwrap_err().starts_with("99999999999999999999 is too large for a revision; expected"));
        assert!(parse_instant(large).unwrap_err().starts_with("expected a time such as"));
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
        assert_eq!((up_to(None, at(5)), up_to(at(7), at(5)), up_to(at(3), at(5))), (at(4), at(4), at(3)));
        let by_time = Some(At { revision: 0, time_micros: 1_000_000 });
        // Whatever was above the revision of that time was listed, too.
        let both = Some(At { revision: 4, time_micros: 1_000_000 });
        assert_eq!((up_to(by_time, None), up_to(by_time, at(5))), (by_time, both));
        let time = |time_micros| Some(At { revision: 0, time_micros });
        assert_eq!(
            (up_to(None, time(9)), up_to(time(3), time(9)), up_to(time(12), time(9))),
            (time(8), time(3), time(8))
        );
        assert_eq!(up_to(at(7), time(9)), Some(At { revision: 7, time_micros: 8 }));
    }

    // `--before` and `--after` took revisions alone, and `--since` neither a time nor `-10m`: "02:00 to 02:10" took another command first.
    #[test]
    fn spans_are_bounded_by_what_moments_are_told_by() {
        assert_eq!(parse_before("42"), parse_at("42"));
        assert!(parse_before("1").unwrap_err().contains("nothing below") && parse_before("0").is_err());
        assert_eq!(
            (parse_after("0"), parse_after("1970-01-01T00:00:01Z")),
            (Ok(At::default()), parse_at("1970-01-01T00:00:01Z"))
        );
        let ten_minutes = Ok(Since::Ago(600_000_000));
        assert_eq!((parse_since("10m"), parse_since("-10m")), (ten_minutes.clone(), ten_minutes));
        assert_eq!(parse_since("1970-01-01T00:00:01Z"), Ok(Since::Time(1_000_000)));
        assert!(parse_since("soon").unwrap_err().starts_with("expected how long"));
        assert!(parse_since("1.5h").unwrap_err().contains("expected whole numbers with units"));
    }

    #[test]
    fn a_moment_may_be_told_by_how_long_ago_it_was() {
        let ago = jiff::Timestamp::now().as_microsecond() - parse_at("-1h30m").unwrap().time_micros;
        // Now was a little earlier here than there.
        assert!((5_390_000_000..5_460_000_000).contains(&ago), "{ago}");
    }
}

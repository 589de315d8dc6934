//! A moment in the cell's history, as people type it. Knows nothing of the rest of the command line: a fuzzer reads it alone.

use plenum_proto::v1::At;

/// A revision or a time.
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
    match text.parse::<jiff::Timestamp>() {
        Ok(time) => Ok(At { revision: 0, time_micros: time.as_microsecond() }),
        Err(_) => Err("expected a revision such as 4711, or a time such as 2026-11-20T08:00:00Z".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_moment_is_a_revision_or_a_time() {
        assert_eq!(parse_at("42").unwrap().revision, 42);
        assert_eq!(parse_at("1970-01-01T00:00:01Z").unwrap().time_micros, 1_000_000);
        assert!(parse_at("0").is_err() && parse_at("yesterday").is_err() && parse_at("-1").is_err());
    }
}

//! Log time as people read it. Knows no clock: it only writes down what is given.

use std::fmt;

use crate::LogTime;

const SECOND: i64 = 1_000_000;
const DAY: i64 = 24 * 3600 * SECOND;

/// RFC 3339 in UTC, with as much of a second as there is: `2026-11-20T08:00:00Z`.
impl fmt::Display for LogTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = date(self.micros.div_euclid(DAY));
        let (seconds, rest) = (self.micros.rem_euclid(DAY) / SECOND, self.micros.rem_euclid(SECOND));
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
        if rest > 0 {
            write!(f, ".{rest:06}")?;
        }
        f.write_str("Z")
    }
}

impl LogTime {
    /// The first whole second that is not before.
    #[must_use]
    pub fn whole_second(self) -> Self {
        let rest = self.micros.rem_euclid(SECOND);
        if rest == 0 { self } else { self.plus_micros(SECOND - rest) }
    }
}

/// Year, month and day of a day that is counted from 1970-01-01.
///
/// Source: Hinnant, *chrono-compatible low-level date algorithms*, `civil_from_days`: years begin in March, so that the day that some of them have
/// more is their last.
const fn date(day: i64) -> (i64, i64, i64) {
    let day = day + 719_468;
    let (era, of_era) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, turned) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (year + era * 400 + turned, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_in_utc() {
        let told = |micros| LogTime::from_micros(micros).to_string();
        assert_eq!(told(0), "1970-01-01T00:00:00Z");
        assert_eq!(told(-1), "1969-12-31T23:59:59.999999Z");
        assert_eq!(told(951_782_400_000_000), "2000-02-29T00:00:00Z");
        assert_eq!(told(4_107_542_400_000_000), "2100-03-01T00:00:00Z");
        assert_eq!(told(1_795_344_440_177_572), "2026-11-22T10:47:20.177572Z");
        assert!(told(i64::MAX).starts_with("294247-01-10T") && told(i64::MIN).starts_with("-290308-12-21T"));
        let up = |micros| LogTime::from_micros(micros).whole_second().micros;
        assert_eq!([up(0), up(1), up(1_000_000), up(1_000_001)], [0, 1_000_000, 1_000_000, 2_000_000]);
        assert_eq!(up(i64::MAX), i64::MAX);
    }

    // Whoever asked why a job waits was told until how many microseconds since 1970.
    #[test]
    fn a_backoff_is_told_with_the_time_of_its_end() {
        let until = LogTime::from_micros(1_795_344_440_177_572);
        let told = crate::NotWanted::Backoff(until).to_string();
        assert_eq!(told, "waits after a failure until 2026-11-22T10:47:21Z");
    }

    // Each day has the date that follows on that of the day before.
    #[test]
    fn no_day_is_left_out() {
        let length = |year: i64, month: i64| match month {
            2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        let mut expected = (1970, 1, 1);
        for day in 0..200_000 {
            assert_eq!(date(day), expected, "day {day}");
            let (year, month, of_month) = expected;
            expected = match (month, of_month == length(year, month)) {
                (12, true) => (year + 1, 1, 1),
                (_, true) => (year, month + 1, 1),
                _ => (year, month, of_month + 1),
            };
        }
    }
}

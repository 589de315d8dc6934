//! Flags that are numbers or addresses: what is none of them is answered with what was expected, not with what a parser stumbled over.

use std::{fmt::Display, net::SocketAddr, ops::RangeInclusive, str::FromStr};

/// Reads a whole number of `range`.
///
/// # Errors
/// Says which numbers there are.
pub(super) fn whole<N>(range: RangeInclusive<N>) -> impl Fn(&str) -> Result<N, String> + Clone + Send + Sync + 'static
where
    N: FromStr + PartialOrd + Display + Clone + Send + Sync + 'static,
{
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| format!("expected a whole number from {} to {}", range.start(), range.end()))
    }
}

/// Reads where to listen.
///
/// # Errors
/// Shows an address.
pub(super) fn socket(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "expected an address and a port, such as 127.0.0.1:7070".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    // "invalid digit found in string" was all that was said.
    #[test]
    fn what_is_no_number_of_the_range_is_answered_with_the_range() {
        let share = whole(1..=64_u32);
        assert_eq!((share("1"), share("64")), (Ok(1), Ok(64)));
        for wrong in ["", "0", "65", "-1", "1.5", "abc", "99999999999999999999"] {
            assert_eq!(share(wrong), Err("expected a whole number from 1 to 64".to_owned()), "{wrong}");
        }
    }

    #[test]
    fn an_address_without_a_port_is_answered_with_one_that_has_it() {
        assert!(socket("127.0.0.1:7070").is_ok());
        assert!(socket("localhost").is_err_and(|what| what.ends_with("such as 127.0.0.1:7070")));
    }
}

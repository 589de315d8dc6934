//! A cell's address, as people give it.

use plenum_proto::address::{Uri, fault, told};

use crate::failure::Failure;

/// Where a cell listens when nobody says otherwise.
pub(crate) const ADDRESS_DEFAULT: &str = "http://127.0.0.1:7070";

/// A cell's address as everything that connects takes it: `127.0.0.1:7070` stands for `http://127.0.0.1:7070`.
///
/// # Errors
///
/// `USAGE` for an address that is none, `UNIMPLEMENTED` for TLS.
pub(crate) fn uri(address: &str) -> Result<Uri, Failure> {
    let told = told(address);
    let url = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    if url.starts_with("https://") {
        let what = format!("{told} asks for TLS, which this version of Plenum cannot speak yet");
        return Err(Failure::new("UNIMPLEMENTED", what));
    }
    let wrong =
        |why: &str| Failure::usage(format!("`{told}` is no address: {why}; expected such as {ADDRESS_DEFAULT}"));
    let uri = url.parse::<Uri>().map_err(|error| wrong(&error.to_string()))?;
    match fault(&uri) {
        Some(why) => Err(wrong(why)),
        None => Ok(uri),
    }
}

/// The same as text.
///
/// # Errors
///
/// As [`uri`].
pub(crate) fn url(address: &str) -> Result<String, Failure> {
    uri(address).map(|uri| uri.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn an_address_needs_no_scheme_wherever_it_is_used() {
        assert_eq!(url("127.0.0.1:7070").unwrap(), "http://127.0.0.1:7070/");
        assert_eq!(url("http://127.0.0.1:7070").unwrap(), "http://127.0.0.1:7070/");
        assert_eq!(url("https://cell:7070").unwrap_err().code, "UNIMPLEMENTED");
        assert_eq!(url("[::1]:7070").unwrap(), "http://[::1]:7070/");
        for wrong in ["a cell", "", "ftp://cell:7070", "127.0.0.1:70700", "http://cell:", "http://cell:x"] {
            assert_eq!(url(wrong).unwrap_err().code, "USAGE", "{wrong}");
        }
    }

    // Port 80 of whatever was named was asked: `7601` counted as the name of a host.
    #[test]
    fn an_address_without_a_port_is_wrong_usage_and_a_password_in_one_is_not_told() {
        for (wrong, why) in [
            ("127.0.0.1", "it names no port"),
            ("7601", "it names no port"),
            ("http://[::1]", "it names no port"),
            (":7601", "it names no host"),
            ("http://cell:7070/x", "more stands behind its port"),
        ] {
            let failure = url(wrong).unwrap_err();
            assert_eq!(failure.code, "USAGE");
            assert_eq!(
                failure.message,
                format!("`{wrong}` is no address: {why}; expected such as http://127.0.0.1:7070")
            );
        }
        for address in ["me:word@cell:7070", "http://me:word@cell", "https://me:word@cell:7070", "me:word@a cell"] {
            let failure = url(address).unwrap_err();
            assert!(!failure.message.contains("word") && failure.message.contains("cell"), "{failure}");
        }
    }
}

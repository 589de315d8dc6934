//! Which addresses a cell can be at: judged in one place, for commands, parts and programs of others alike.
//!
//! Must not know: connections.

use std::borrow::Cow;

pub use tonic::codegen::http::Uri;

/// What is wrong with an address, if no cell can be at it. Names and ports that nobody has are no matter of this.
#[must_use]
pub fn fault(uri: &Uri) -> Option<&'static str> {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let names_port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
    match uri.scheme_str() {
        None => Some("it has no scheme"),
        Some("http") if authority.contains('@') => Some("it names a user, and a cell knows none"),
        Some("http") if authority.is_empty() || authority.starts_with(':') => Some("it names no host"),
        // Without a readable one the connection would go to port 80, where somebody else may be.
        Some("http") if !names_port => Some("it names no port"),
        Some("http") if uri.port_u16().is_none() => Some("its port is not one of 0 to 65535"),
        // They would be dropped, and another cell be asked than was meant.
        Some("http") if !matches!(uri.path(), "" | "/") || uri.query().is_some() => Some("more stands behind its port"),
        Some("http") => None,
        Some(_) => Some("its scheme is not http"),
    }
}

/// The address as it may be told: what stands before an `@` may be a password, and that may have a slash in it.
#[must_use]
pub fn told(address: &str) -> Cow<'_, str> {
    match address.rsplit_once('@') {
        Some((_, place)) => format!("…@{place}").into(),
        None => address.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // An address without a port was asked for at port 80, and what stood behind the port was dropped.
    #[test]
    fn no_cell_is_asked_for_at_a_port_that_nobody_named() {
        let fault = |text: &str| fault(&text.parse().unwrap());
        for good in ["http://127.0.0.1:7070", "http://cell:80/", "http://[::1]:7070", "http://[::1]:7070/"] {
            assert_eq!(fault(good), None, "{good}");
        }
        for (wrong, why) in [
            ("127.0.0.1:7070", "it has no scheme"),
            ("ftp://cell:7070", "its scheme is not http"),
            ("http://127.0.0.1", "it names no port"),
            ("http://7070", "it names no port"),
            ("http://[::1]", "it names no port"),
            ("http://:7070", "it names no host"),
            ("http://cell:", "its port is not one of 0 to 65535"),
            ("http://cell:70700", "its port is not one of 0 to 65535"),
            ("http://cell:7070/x", "more stands behind its port"),
            ("http://cell:7070?x=y", "more stands behind its port"),
            ("http://user:word@cell:7070", "it names a user, and a cell knows none"),
        ] {
            assert_eq!(fault(wrong), Some(why), "{wrong}");
        }
    }

    // It stood in what a command said of the address that it could not use.
    #[test]
    fn a_password_in_an_address_is_not_told() {
        assert_eq!(told("http://user:p@ss@cell:7070"), "…@cell:7070");
        assert_eq!(told("http://cell:7070"), "http://cell:7070");
    }
}

//! Who may knock at all. Web pages may not: a browser on this machine reaches loopback, whoever's page it shows.
//!
//! Three rules, of which a page breaks at least one, whatever it tries:
//!
//! - A request with an `Origin` comes from a script of a page. No client of ours sends one.
//! - The host that was asked for must be a name of loopback. A page whose own name was made to point here (DNS rebinding) asks for
//!   that name. The port is not compared: it says nothing about a page, and a tunnel has another one.
//! - A method is called by POST over HTTP/2 with a body of gRPC: that can't be had from a page without asking us first.

use axum::http::{HeaderMap, Method, Version, header};

/// Why a request is not looked at: for a person who reads it in a terminal.
pub(in crate::api) fn refusal<B>(request: &axum::http::Request<B>, is_method: bool) -> Option<String> {
    let headers = request.headers();
    if let Some(origin) = headers.get(header::ORIGIN) {
        return Some(format!("expected no origin, found {origin:?}: web pages may not call a cell"));
    }
    let asked = [request.uri().authority().map(ToString::to_string), host(headers)];
    if let Some(foreign) = asked.into_iter().flatten().find(|authority| !is_loopback(authority)) {
        return Some(format!(
            "host: expected 127.0.0.1, [::1] or localhost, found {foreign:?}; ask under one of these"
        ));
    }
    let is_post = request.method() == Method::POST;
    if is_method && !(is_post && request.version() == Version::HTTP_2 && is_grpc(headers)) {
        let kind = headers.get(header::CONTENT_TYPE).cloned();
        let kind = kind.map_or_else(|| "none".to_owned(), |kind| format!("{kind:?}"));
        let (method, version) = (request.method(), request.version());
        return Some(format!(
            "expected POST over HTTP/2.0 with a content type of application/grpc, found {method} over {version:?} with \
             {kind}; use a gRPC client"
        ));
    }
    None
}

/// The host header; one that can't be read is nobody's name.
fn host(headers: &HeaderMap) -> Option<String> {
    headers.get(header::HOST).map(|host| host.to_str().unwrap_or("?").to_owned())
}

/// Whether `name`, `name:port` or `address:port` is this machine, as seen from itself.
fn is_loopback(authority: &str) -> bool {
    let port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let name = match authority.rsplit_once(':') {
        Some((name, digits)) if port(digits) && !authority.ends_with(']') => name,
        _ => authority,
    };
    let inner = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    match inner {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok_and(|address| address.is_loopback()),
        None => {
            name.eq_ignore_ascii_case("localhost")
                || name.parse::<std::net::Ipv4Addr>().is_ok_and(|address| address.is_loopback())
        }
    }
}

/// Whether the body says that it is gRPC.
pub(in crate::api) fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
    let rest = kind.strip_prefix("application/grpc");
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['+', ';']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(version: Version, headers: &[(&str, &str)]) -> axum::http::Request<()> {
        let mut request = axum::http::Request::post("/plenum.v1.Jobs/Submit").version(version);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn only_names_of_loopback_are_answered_to() {
        for own in ["127.0.0.1:7070", "127.0.0.2", "localhost", "LocalHost:80", "[::1]:7070", "[::1]"] {
            assert!(is_loopback(own), "{own}");
        }
        for foreign in ["evil.example:7070", "127.0.0.1.evil.example", "10.0.0.1:7070", "", "::1", "[::2]:1", "?"] {
            assert!(!is_loopback(foreign), "{foreign}");
        }
    }

    #[test]
    fn a_method_is_called_by_a_post_of_grpc_over_the_second_version_only() {
        let grpc = ("content-type", "application/grpc+proto");
        assert_eq!(refusal(&request(Version::HTTP_2, &[grpc]), true), None);
        assert!(refusal(&request(Version::HTTP_11, &[grpc]), true).is_some());
        for other in ["text/plain", "application/grpc-web", "application/grpcish"] {
            let found = refusal(&request(Version::HTTP_2, &[("content-type", other)]), true).unwrap();
            assert!(found.contains("application/grpc,") && found.contains(other), "{found}");
        }
        assert!(refusal(&request(Version::HTTP_2, &[]), true).is_some());
        // It was done as if it had been one.
        let mut put = request(Version::HTTP_2, &[grpc]);
        *put.method_mut() = Method::PUT;
        let found = refusal(&put, true).unwrap();
        assert!(found.contains("found PUT over HTTP/2.0"), "{found}");
        assert_eq!(refusal(&request(Version::HTTP_11, &[]), false), None);
    }

    #[test]
    fn an_origin_and_a_foreign_host_are_refused_everywhere() {
        let grpc = ("content-type", "application/grpc");
        for (name, value) in [("origin", "http://evil.example"), ("origin", "null"), ("host", "evil.example:7070")] {
            for is_method in [true, false] {
                let refused = refusal(&request(Version::HTTP_2, &[grpc, (name, value)]), is_method).unwrap();
                assert!(refused.contains(value), "{refused}");
            }
        }
        assert_eq!(refusal(&request(Version::HTTP_2, &[grpc, ("host", "localhost:7070")]), true), None);
    }
}

//! Metadata of calls: what nobody reads any more is let go before a call is waited for. One that is open may stay so for as long as its caller likes.

use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};

use crate::api::agents::INSTANCE;

/// What methods read, and the transport before and after them. Who calls, and which cell is meant, is known by then.
const READ_LATER: [&str; 3] = [INSTANCE, "grpc-encoding", "grpc-accept-encoding"];

/// Leaves of a call its path and what is read later. As copies: what came is parts of whole frames, and one byte of a frame keeps all of it in memory.
pub(in crate::api) fn let_go(parts: &mut Parts) {
    let mut kept = HeaderMap::new();
    for name in READ_LATER {
        if let Some(Ok(value)) = parts.headers.get(name).map(|value| HeaderValue::from_bytes(value.as_bytes())) {
            kept.insert(name, value);
        }
    }
    parts.headers = kept;
    // A path is an address by itself.
    if let Ok(path) = parts.uri.path().parse() {
        parts.uri = path;
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{Request, Uri};
    use bytes::Bytes;

    use super::*;

    // A call of which the rest was waited for kept all that had come before: with one header of 14 KB that was three times as much.
    #[test]
    fn a_call_that_is_open_keeps_nothing_of_the_frame_that_it_came_in() {
        let (path, instance, other) = ("/plenum.v1.Agents/SendLogs", "one", "x".repeat(14_000));
        let frame = Bytes::from(format!("{path}{instance}{other}"));
        let (of_instance, of_other) = (path.len(), path.len() + instance.len());
        let request = Request::builder()
            .uri(Uri::from_maybe_shared(frame.slice(..of_instance)).unwrap())
            .header(INSTANCE, HeaderValue::from_maybe_shared(frame.slice(of_instance..of_other)).unwrap())
            .header("baggage", HeaderValue::from_maybe_shared(frame.slice(of_other..)).unwrap())
            .body(())
            .unwrap();
        let (mut parts, ()) = request.into_parts();
        assert!(!frame.is_unique(), "this is how it comes");
        let_go(&mut parts);
        assert!(frame.is_unique());
        assert_eq!((parts.uri.path(), parts.headers.len()), (path, 1));
        assert_eq!(parts.headers.get(INSTANCE).unwrap(), instance);
    }
}

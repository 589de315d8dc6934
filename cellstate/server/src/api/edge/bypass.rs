//! Messages of a session's stream that go past the buffer of the library that reads it.
//!
//! That buffer grows to what it is given, takes the same memory again once all that was cut from it is gone, and lets go of it with the stream alone: one
//! message of megabytes would be kept for days by a stream that says nothing more. Whoever counts what arrives has a message that comes in pieces whole
//! before it is read. So an empty one is handed on in its place, and the decoder takes the message itself from here.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use plenum_proto::census;
use plenum_proto::codec::{Codec, Reader, Writer};
use tonic::Status;
use tonic::codec::{DecodeBuf, Decoder};

use crate::api::cell::session::{Request, Response};

/// One message, without its head, from when an empty one is handed on in its place until that is decoded. No more than one is ever here: the library
/// asks for more only when it has decoded all that it has.
#[derive(Clone, Debug, Default)]
pub(in crate::api) struct Bypass(Arc<Mutex<Option<Bytes>>>);

impl Bypass {
    pub(in crate::api) fn put(&self, message: Bytes) {
        *self.0.lock() = Some(message);
    }

    fn take(&self) -> Option<Bytes> {
        self.0.lock().take()
    }
}

/// The codec of sessions' streams.
pub(in crate::api) struct SessionCodec {
    plain: Codec<Response, Request>,
    bypass: Bypass,
}

impl SessionCodec {
    pub(in crate::api) fn new(bypass: Bypass) -> Self {
        Self { plain: Codec::counted(&census::SESSION), bypass }
    }
}

impl tonic::codec::Codec for SessionCodec {
    type Encode = Response;
    type Decode = Request;
    type Encoder = Writer<Response>;
    type Decoder = SessionReader;

    fn encoder(&mut self) -> Writer<Response> {
        self.plain.encoder()
    }

    fn decoder(&mut self) -> SessionReader {
        SessionReader { plain: self.plain.decoder(), bypass: self.bypass.clone() }
    }
}

/// Reads what comes on a session's stream.
pub(in crate::api) struct SessionReader {
    plain: Reader<Request>,
    bypass: Bypass,
}

impl Decoder for SessionReader {
    type Item = Request;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Request>, Status> {
        let message = if from.has_remaining() { None } else { self.bypass.take() };
        match message {
            Some(message) => self.plain.read(message).map(Some),
            // An empty message that is meant is read here, too.
            None => self.plain.decode(from),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::BoxError;
    use axum::body::Body;
    use prost::Message;
    use tonic::Streaming;
    use tonic::codec::Codec as _;

    use super::super::arriving::{Taken, counted};
    use super::super::budget::Budget;
    use super::*;
    use crate::api::cell::session::{Ask, SESSION};

    /// What is read of these bytes, which come in such pieces.
    fn read(sent: &[u8], piece: usize) -> Streaming<Request> {
        let pieces: Vec<_> = sent.chunks(piece).map(|piece| Ok::<_, BoxError>(Bytes::copy_from_slice(piece))).collect();
        let body = Body::from_stream(tokio_stream::iter(pieces));
        let bypass = Bypass::default();
        let taken = Taken::of(SESSION, 4 << 20, Duration::from_secs(60)).with(bypass.clone());
        let (body, _unanswered) = counted(&Arc::new(Budget::new(16 << 20)), body, taken);
        Streaming::new_request(SessionCodec::new(bypass).decoder(), body, None, Some(4 << 20))
    }

    /// The message on the wire.
    fn on_the_wire(message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        [&[0_u8], &length[..], message].concat()
    }

    #[tokio::test]
    async fn messages_are_read_in_order_and_whole_however_they_are_cut_be_they_empty_or_large() {
        let sizes = [0, 3, 0, 0, 200_000, 0, 0, 70_000, 5, 5, 40_000, 1, 300_000, 0];
        let messages = sizes.map(|bytes: usize| {
            let content = Bytes::from(vec![u8::try_from(bytes % 251).unwrap(); bytes]);
            Request { ask: (bytes > 0).then_some(Ask::Commit(content)) }
        });
        let sent: Vec<u8> = messages.iter().flat_map(|message| on_the_wire(&message.encode_to_vec())).collect();
        for piece in [3, 1000, 16 << 10, 100_000, sent.len()] {
            let mut stream = read(&sent, piece);
            for (position, expected) in messages.iter().enumerate() {
                let found = stream.message().await.unwrap();
                assert!(found.as_ref() == Some(expected), "pieces of {piece}: message {position} is another one");
            }
            assert!(stream.message().await.unwrap().is_none(), "pieces of {piece}");
        }
    }

    #[tokio::test]
    async fn a_message_in_pieces_that_is_compressed_or_none_at_all_is_refused_as_any_other_is() {
        let transaction = Request { ask: Some(Ask::Commit(Bytes::from(vec![7; 100_000]))) };
        let whole = on_the_wire(&transaction.encode_to_vec());
        let compressed = [&[1_u8], &whole[1..]].concat();
        let no_message = on_the_wire(&[0x7f; 10_000]);
        for sent in [compressed, no_message] {
            let refused = [1000, sent.len()].map(|piece| read(&sent, piece));
            for mut stream in refused {
                assert_eq!(stream.message().await.unwrap_err().code(), tonic::Code::Internal);
            }
        }
    }
}

//! How messages become the bytes of a stream: as `tonic_prost::ProstCodec` does it, in half the time for columns of numbers.
//!
//! A packed column is thousands of single bytes, and the buffers of a connection check their room for each. Here a message of a few
//! kilobytes is written into a slice of its own first and copied once, and a message is read from one shared piece of memory, which is
//! a pointer that moves.
use std::marker::PhantomData;

use bytes::buf::UninitSlice;
use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use tonic::Status;
use tonic::codec::{DecodeBuf, Decoder, EncodeBuf, Encoder};

use crate::census::Census;

/// Messages up to this size, in bytes, are written apart first; each stream keeps as much. Of larger ones most is pages and
/// deltas, which are copied whole anyway.
const APART_MAX: usize = 32 * 1024;

/// The codec of all services: messages `T` are sent, messages `U` received.
///
/// What the fields of type `bytes` of a received message hold is shared with the message as it came. A message that has lists is counted
/// before it is decoded.
#[derive(Clone, Debug)]
pub struct Codec<T, U> {
    census: Option<&'static Census>,
    messages: PhantomData<(T, U)>,
}

impl<T, U: 'static> Default for Codec<T, U> {
    fn default() -> Self {
        Self { census: Census::of::<U>(), messages: PhantomData }
    }
}

impl<T, U> Codec<T, U> {
    /// For a type of one's own, whose messages are those of this census on the wire.
    #[must_use]
    pub fn counted(census: &'static Census) -> Self {
        Self { census: Some(census), messages: PhantomData }
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = Writer<T>;
    type Decoder = Reader<U>;

    fn encoder(&mut self) -> Writer<T> {
        Writer { apart: Vec::new(), message: PhantomData }
    }

    fn decoder(&mut self) -> Reader<U> {
        Reader { census: self.census, message: PhantomData }
    }
}

/// Writes messages.
#[derive(Debug)]
pub struct Writer<T> {
    /// Where messages are written; as long as the longest, and [`APART_MAX`] at most.
    apart: Vec<u8>,
    message: PhantomData<T>,
}

impl<T: Message> Encoder for Writer<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, message: T, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let mut room = Room { bytes: &mut self.apart, written: 0 };
        // It asks for the room first, so that the length of a message is counted once.
        if let Err(lack) = message.encode(&mut room) {
            let bytes = lack.required_capacity();
            if bytes > APART_MAX {
                return message.encode(into).map_err(|error| Status::internal(error.to_string()));
            }
            self.apart.resize(bytes.next_power_of_two(), 0);
            return self.encode(message, into);
        }
        let written = room.written;
        into.put_slice(&self.apart[..written]);
        Ok(())
    }
}

/// Room for a message. A slice is such room, too, but becomes another one with each byte.
struct Room<'a> {
    bytes: &'a mut [u8],
    written: usize,
}

// SAFETY: what is left to write is what `chunk_mut` gives and `remaining_mut` counts, and all of it is initialised; `written` never passes the end.
#[allow(unsafe_code, reason = "prost writes to no other kind of buffer")]
unsafe impl BufMut for Room<'_> {
    #[inline]
    fn remaining_mut(&self) -> usize {
        self.bytes.len() - self.written
    }

    unsafe fn advance_mut(&mut self, count: usize) {
        assert!(count <= self.remaining_mut(), "expected {} bytes at most, found {count}", self.remaining_mut());
        self.written += count;
    }

    fn chunk_mut(&mut self) -> &mut UninitSlice {
        UninitSlice::new(&mut self.bytes[self.written..])
    }

    #[inline]
    fn put_slice(&mut self, bytes: &[u8]) {
        self.bytes[self.written..][..bytes.len()].copy_from_slice(bytes);
        self.written += bytes.len();
    }

    #[inline]
    fn put_u8(&mut self, byte: u8) {
        self.bytes[self.written] = byte;
        self.written += 1;
    }
}

/// Reads messages.
#[derive(Debug)]
pub struct Reader<U> {
    census: Option<&'static Census>,
    message: PhantomData<U>,
}

impl<U: Message + Default> Reader<U> {
    /// Reads a message that did not come through the stream's buffer, as those that did are read.
    ///
    /// # Errors
    /// When there is too much of something in it, or the bytes are no such message.
    pub fn read(&self, message: Bytes) -> Result<U, Status> {
        counted(self.census, message)
    }
}

impl<U: Message + Default> Decoder for Reader<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        self.read(from.copy_to_bytes(from.remaining())).map(Some)
    }
}

/// Reads a message as all services do: one that has lists is counted before it is decoded.
///
/// # Errors
/// When there is too much of something in it, or the bytes are no such message.
pub fn read<U: Message + Default + 'static>(message: Bytes) -> Result<U, Status> {
    counted(Census::of::<U>(), message)
}

fn counted<U: Message + Default>(census: Option<&Census>, message: Bytes) -> Result<U, Status> {
    if let Some(census) = census {
        census.check(&message)?;
    }
    U::decode(message).map_err(|error| Status::internal(error.to_string()))
}

#[cfg(test)]
mod tests {
    use tonic::codec::{Codec as _, EncodeBody, Streaming};
    use tonic::codegen::Body;

    use super::*;
    use crate::v1;

    type Both = Codec<v1::Transaction, v1::Transaction>;

    /// A transaction with so many stops, which have 5 bytes each.
    fn with_stops(stops: u64) -> v1::Transaction {
        let stops = (0..stops).map(|stop| stop + (1 << 32)).collect();
        v1::Transaction { session: 7, number: 9, stops, ..v1::Transaction::default() }
    }

    /// What a client sends to stream these.
    fn body(messages: Vec<v1::Transaction>) -> impl Body<Data = Bytes, Error = Status> + Send + 'static {
        let messages = tokio_stream::iter(messages.into_iter().map(Ok));
        EncodeBody::new_client(Both::default().encoder(), messages, None, None)
    }

    #[tokio::test]
    async fn messages_of_all_sizes_come_back_in_order_as_they_were_sent() {
        let sizes = [0, 1, 20, 19, 6_000, 6_800, 0, 400_000, 3];
        let messages: Vec<_> = sizes.into_iter().map(with_stops).collect();
        let mut stream = Streaming::new_request(Both::default().decoder(), body(messages.clone()), None, None);
        for expected in messages {
            assert_eq!(stream.message().await.unwrap(), Some(expected));
        }
        assert_eq!(stream.message().await.unwrap(), None);
    }

    #[tokio::test]
    async fn what_is_sent_is_what_any_grpc_client_sends() {
        for stops in [0, 20, 400_000] {
            let message = with_stops(stops);
            let mut body = Box::pin(body(vec![message.clone()]));
            let mut sent = Vec::new();
            while let Some(frame) = std::future::poll_fn(|context| body.as_mut().poll_frame(context)).await {
                sent.extend(frame.unwrap().into_data().unwrap_or_default());
            }
            let encoded = message.encode_to_vec();
            assert_eq!(sent[0], 0, "it is not compressed");
            assert_eq!(sent[1..5], u32::try_from(encoded.len()).unwrap().to_be_bytes());
            assert_eq!(sent[5..], encoded);
        }
    }

    #[tokio::test]
    async fn a_message_that_is_none_is_refused() {
        let body = "\0\0\0\0\u{2}\u{7f}\u{7f}".to_owned();
        let mut stream = Streaming::<v1::Transaction>::new_request(Both::default().decoder(), body, None, None);
        assert_eq!(stream.message().await.unwrap_err().code(), tonic::Code::Internal);
    }
}

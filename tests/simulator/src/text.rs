//! Commands as text: the protocol's own text form, on one line, so that whatever the protocol can say, a story can.

use std::sync::OnceLock;

use bytes::Bytes;
use plenum_proto::FILE_DESCRIPTOR_SET;
use prost::Message as _;
use prost_reflect::text_format::FormatOptions;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};

fn descriptor() -> MessageDescriptor {
    static COMMAND: OnceLock<MessageDescriptor> = OnceLock::new();
    let find = || {
        let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("made by our own build");
        pool.get_message_by_name("plenum.v1.Command").expect("it is in the protocol")
    };
    COMMAND.get_or_init(find).clone()
}

/// An encoded command as text.
///
/// # Errors
/// When the bytes are none.
pub(crate) fn print(encoded: &[u8]) -> Result<String, prost::DecodeError> {
    let message = DynamicMessage::decode(descriptor(), encoded)?;
    Ok(message.to_text_format_with_options(&FormatOptions::new().pretty(false)))
}

/// A command's text, encoded.
///
/// # Errors
/// What is wrong with the text, and where.
pub(crate) fn parse(text: &str) -> Result<Bytes, String> {
    let message = DynamicMessage::parse_text_format(descriptor(), text).map_err(|error| error.to_string())?;
    Ok(message.encode_to_vec().into())
}

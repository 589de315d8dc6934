//! Names and texts as they come in. Names are never paths, and texts are bounded.

use std::sync::Arc;

use plenum_model::is_name;

use crate::bounds::{NAME_BYTES_MAX, TEXT_BYTES_MAX};
use crate::error::{Invalid, quoted};

const NAME_RULE: &str = "1 to 63 bytes of a-z, 0-9 and -, with a letter or a digit at both ends";
const HOST_RULE: &str = "1 to 63 bytes of a-z, 0-9, - and ., with a letter or a digit at both ends";
const ATTRIBUTE_RULE: &str = "1 to 63 bytes of A-Z, a-z, 0-9, -, _ and ., beginning with a letter or a digit";
const VARIABLE_RULE: &str = "A-Z, a-z, 0-9 and _, not beginning with a digit";

/// The name of a job, a group, a namespace, a scheduler, a partition or a port.
///
/// # Errors
/// Says the rule, and the text that breaks it.
pub fn name(field: &str, text: &str) -> Result<Arc<str>, Invalid> {
    if is_name(text, false) { Ok(text.into()) } else { Err(Invalid::new(field, NAME_RULE, quoted(text))) }
}

/// A name that may be left out: then it is empty.
///
/// # Errors
/// As `name`.
pub fn optional_name(field: &str, text: &str) -> Result<Arc<str>, Invalid> {
    if text.is_empty() { Ok(Arc::default()) } else { name(field, text) }
}

/// The name of a machine, which may be that of a host.
///
/// # Errors
/// As `name`.
pub fn machine_name(field: &str, text: &str) -> Result<Arc<str>, Invalid> {
    if is_name(text, true) { Ok(text.into()) } else { Err(Invalid::new(field, HOST_RULE, quoted(text))) }
}

/// The name of an attribute, of a named resource, of a kind of device or of a scheduler's option.
///
/// # Errors
/// As `name`.
pub fn attribute(field: &str, text: &str) -> Result<Arc<str>, Invalid> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let fits = (1..=NAME_BYTES_MAX).contains(&text.len())
        && text.bytes().all(good)
        && text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
    if fits { Ok(text.into()) } else { Err(Invalid::new(field, ATTRIBUTE_RULE, quoted(text))) }
}

/// The name of an environment variable.
///
/// # Errors
/// As `name`.
pub fn variable(field: &str, text: &str) -> Result<(), Invalid> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let fits = text.bytes().all(good) && text.as_bytes().first().is_some_and(|first| !first.is_ascii_digit());
    if fits { Ok(()) } else { Err(Invalid::new(field, VARIABLE_RULE, quoted(text))) }
}

/// Who asks: 1 to 255 bytes without control characters.
///
/// # Errors
/// As `name`.
pub fn principal(field: &str, text: &str) -> Result<Arc<str>, Invalid> {
    if (1..=TEXT_BYTES_MAX).contains(&text.len()) && !text.contains(char::is_control) {
        Ok(text.into())
    } else {
        Err(Invalid::new(field, "1 to 255 bytes without control characters", quoted(text)))
    }
}

/// A text of at most so many bytes; may be empty.
pub(crate) fn text(field: &str, text: &str, bytes_max: usize) -> Result<Arc<str>, Invalid> {
    match short(field, text.len(), bytes_max) {
        Ok(()) => Ok(if text.is_empty() { Arc::default() } else { text.into() }),
        Err(invalid) => Err(invalid),
    }
}

/// Why something happened: at most 255 bytes; may be empty.
pub(crate) fn reason(field: &str, reason: &str) -> Result<Arc<str>, Invalid> {
    text(field, reason, TEXT_BYTES_MAX)
}

/// As much of a reason as one may have.
pub(crate) fn cut_reason(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(TEXT_BYTES_MAX)]
}

/// At most so many bytes.
pub(crate) fn short(field: &str, bytes: usize, bytes_max: usize) -> Result<(), Invalid> {
    if bytes <= bytes_max {
        Ok(())
    } else {
        Err(Invalid::new(field, format!("at most {bytes_max} bytes"), format_args!("{bytes} bytes")))
    }
}

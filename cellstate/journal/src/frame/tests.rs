//! The format of a frame is what it was.

#![allow(clippy::unwrap_used)]

use super::*;

#[test]
fn a_frame_has_the_bytes_that_format_one_has() {
    let mut buffer = Vec::new();
    begin(&mut buffer);
    buffer.extend_from_slice(b"a batch");
    let label = FrameLabel {
        segment: 2,
        term: 3,
        first_revision: 0x0102_0304_0506_0708,
        last_revision: 0x0102_0304_0506_0709,
        previous: ChainHash([0xab; 32]),
    };
    seal(&mut buffer, &label);
    let hash = hash(&buffer);
    assert_eq!(buffer.len(), 512);
    let text: String = buffer[..87].iter().map(|byte| format!("{byte:02x}")).collect();
    let fields = [
        "504c4652",
        "07000000",
        "0200000000000000",
        "0300000000000000",
        "0807060504030201",
        "0907060504030201",
        "abababababababababababababababababababababababababababababababab",
        "63cf2389",
        "f5b492c3",
        "61206261746368",
    ];
    assert_eq!(text, fields.concat());
    assert!(buffer[87..].iter().all(|byte| *byte == 0));
    assert_eq!(hash.to_string(), "5324e1bb7844297543125c51bc2d6230bd2cc309d9f20c4af5a35a49d3b31d78");
}

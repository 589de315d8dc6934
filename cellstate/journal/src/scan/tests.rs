//! The scanner meets anything and neither panics nor believes it.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::format::put;
use crate::frame::{FrameLabel, begin, seal};
use proptest::prelude::*;

const SEGMENT: u64 = 5;
const BYTES: u64 = 8192;

/// A segment with as many frames of those payload lengths as fit.
fn segment(lengths: &[usize]) -> (Vec<u8>, u64) {
    let mut bytes = vec![0; index(BYTES)];
    let (mut offset, mut previous, mut frame, mut revision) = (FIRST_FRAME_AT, ChainHash::default(), Vec::new(), 0);
    for length in lengths {
        begin(&mut frame);
        frame.resize(frame.len() + length, 0x5a);
        let label = FrameLabel {
            segment: SEGMENT,
            term: 1,
            first_revision: revision + 1,
            last_revision: revision + 1,
            previous,
        };
        seal(&mut frame, &label);
        let hash = crate::frame::hash(&frame);
        if offset + count(frame.len()) > BYTES {
            break;
        }
        put(&mut bytes, index(offset), &frame);
        (previous, revision, offset) = (hash, revision + 1, offset + count(frame.len()));
    }
    (bytes, revision)
}

/// Frames until the end or damage.
fn scan(bytes: &Vec<u8>) -> (u64, Option<Flaw>) {
    let mut scanner = Scanner::new(SEGMENT, count(bytes.len()), Tail::default());
    let mut frames = 0;
    loop {
        match scanner.step(bytes).unwrap() {
            Step::End => return (frames, None),
            Step::Damaged { flaw, .. } => return (frames, Some(flaw)),
            Step::Frame(found) if found.breaks.is_some() => return (frames, found.breaks),
            Step::Frame(_) => frames += 1,
        }
        assert!(scanner.frame().len() <= bytes.len(), "no more memory than the file has bytes");
    }
}

proptest! {
    #[test]
    fn whole_frames_are_found_and_nothing_else(lengths in prop::collection::vec(0usize..1500, 0..12)) {
        let (bytes, frames) = segment(&lengths);
        prop_assert_eq!(scan(&bytes), (frames, None));
    }

    #[test]
    fn overwritten_bytes_are_found_at_their_frame(
        lengths in prop::collection::vec(0usize..1500, 1..12),
        at in 512usize..8000,
        junk in prop::collection::vec(any::<u8>(), 1..700),
    ) {
        let (whole, frames) = segment(&lengths);
        let mut bytes = whole.clone();
        let end = (at + junk.len()).min(bytes.len());
        bytes[at..end].copy_from_slice(&junk[..end - at]);
        let (found, flaw) = scan(&bytes);
        prop_assert_eq!(flaw.is_none(), bytes == whole);
        prop_assert!(found <= frames);
    }

    #[test]
    fn any_bytes_at_all_are_judged_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        let (frames, _) = scan(&bytes);
        prop_assert_eq!(frames, 0);
    }
}

#[test]
fn a_length_beyond_the_segment_allocates_nothing() {
    let (mut bytes, _) = segment(&[100]);
    put(&mut bytes, 512 + 4, &u32::MAX.to_le_bytes());
    let crc = crc32fast::hash(&bytes[512..512 + 72]);
    put(&mut bytes, 512 + 72, &crc.to_le_bytes());
    let (frames, flaw) = scan(&bytes);
    assert_eq!(frames, 0);
    assert!(matches!(flaw, Some(Flaw::Length { room_bytes: 7680, .. })), "{flaw:?}");
}

#[test]
fn what_looks_like_a_frame_inside_a_torn_payload_is_no_proof() {
    // A payload may hold anything, also the image of a whole frame, and its sender must not be able to make a
    // torn write look like damage of something durable.
    let (inner, _) = segment(&[10]);
    let mut frame = Vec::new();
    begin(&mut frame);
    frame.resize(512, 0);
    frame.extend_from_slice(&inner[512..1024]);
    frame.extend_from_slice(&[9; 500]);
    let label =
        FrameLabel { segment: SEGMENT, term: 1, first_revision: 1, last_revision: 1, previous: ChainHash::default() };
    seal(&mut frame, &label);
    let mut bytes = vec![0; index(BYTES)];
    put(&mut bytes, 512, &frame);
    bytes[512 + 1100] ^= 1;
    let mut scanner = Scanner::new(SEGMENT, BYTES, Tail::default());
    let step = scanner.step(&bytes).unwrap();
    assert!(matches!(step, Step::Damaged { flaw: Flaw::FrameChecksum { .. }, next: None }), "{step:?}");
}

#[test]
fn a_term_that_goes_back_breaks_the_chain() {
    let mut bytes = vec![0; index(BYTES)];
    let mut previous = ChainHash::default();
    for (place, term) in [(0, 2), (1, 1)] {
        let mut frame = Vec::new();
        begin(&mut frame);
        let label =
            FrameLabel { segment: SEGMENT, term, first_revision: place + 1, last_revision: place + 1, previous };
        seal(&mut frame, &label);
        previous = crate::frame::hash(&frame);
        put(&mut bytes, index(512 + place * 512), &frame);
    }
    assert_eq!(scan(&bytes), (1, Some(Flaw::Term { expected: 2, found: 1 })));
}

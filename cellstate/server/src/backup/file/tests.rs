//! A backup is read as it was written, or not at all.

use super::*;
use std::fmt::Write;

fn manifest(pages: u64) -> v1::BackupManifest {
    v1::BackupManifest {
        plenum_version: "0.1.0".to_owned(),
        core_version: 1,
        cell_id: Bytes::from_static(&[7; 16]),
        incarnation: 1,
        term: 2,
        revision: 300,
        time_micros: 5,
        frame_hash: Bytes::from_static(&[9; 32]),
        pages,
    }
}

fn encoded() -> Vec<u8> {
    let mut encoder = Encoder::begin(&manifest(3));
    [&[1; 40][..], &[], &[2; 300]].into_iter().for_each(|page| encoder.page(page));
    encoder.end();
    assert!(encoder.pending_bytes() > 0);
    encoder.take().to_vec()
}

fn read(bytes: &[u8]) -> Result<Vec<Bytes>, Fault> {
    let mut decoder = Decoder::begin(bytes)?;
    let mut pages = Vec::new();
    while let Some(page) = decoder.next_page()? {
        pages.push(page);
    }
    assert_eq!(decoder.manifest, manifest(3));
    Ok(pages)
}

#[test]
fn a_backup_is_read_as_it_was_written() {
    let pages = read(&encoded()).unwrap();
    assert_eq!(pages.iter().map(Bytes::len).collect::<Vec<_>>(), [40, 0, 300]);
}

/// BLAKE3 of all of it, its first four bytes.
fn fingerprint(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(blake3::hash(bytes).as_bytes()[..4].try_into().unwrap())
}

#[test]
fn format_two_has_these_bytes() {
    let mut text = String::new();
    encoded()[..24].iter().for_each(|byte| write!(text, "{byte:02x}").unwrap());
    assert_eq!(text, "504c454e554d424b020000000000000001480000000a0530");
    // With the seals in it: it changes with any byte.
    let bytes = encoded();
    assert_eq!((bytes.len(), fingerprint(&bytes)), (533, 0xab58_b0f9));
}

#[test]
fn every_flipped_bit_and_every_length_is_found() {
    let whole = encoded();
    for byte in 0..whole.len() {
        for bit in 0..8 {
            let mut flipped = whole.clone();
            flipped[byte] ^= 1 << bit;
            // The last four bytes of the head mean nothing yet; the first seal covers them.
            assert!(read(&flipped).is_err(), "bit {bit} of byte {byte}");
        }
    }
    for length in 0..whole.len() {
        assert!(read(&whole[..length]).is_err(), "cut to {length}");
    }
    let more = [whole.as_slice(), &[0]].concat();
    assert!(matches!(read(&more), Err(Fault::Damaged { .. })));
}

#[test]
fn records_that_are_left_out_repeated_or_swapped_are_found_where_they_are() {
    let whole = encoded();
    let mut places = vec![HEAD_BYTES];
    while let Some(&at) = places.last().filter(|at| **at < whole.len()) {
        let length = u32::from_le_bytes(whole[at + 1..at + 5].try_into().unwrap()) as usize;
        places.push(at + RECORD_HEAD_BYTES + length + SEAL_BYTES);
    }
    let record = |number: usize| &whole[places[number]..places[number + 1]];
    let records = places.len() - 1;
    assert_eq!(records, 5);
    let with = |order: &[usize]| -> Vec<u8> {
        let mut bytes = whole[..HEAD_BYTES].to_vec();
        order.iter().for_each(|&number| bytes.extend_from_slice(record(number)));
        bytes
    };
    for order in [[0, 2, 1, 3, 4].as_slice(), &[0, 1, 3, 4], &[0, 1, 2, 2, 3, 4], &[1, 2, 3, 4], &[0, 4]] {
        let at = order.iter().zip(0..).position(|(&number, expected)| number != expected).unwrap();
        match read(&with(order)) {
            Err(Fault::Damaged { record, offset, .. }) => {
                assert_eq!((record, offset), (at as u64, places[at] as u64), "{order:?}");
            }
            other => panic!("{order:?}: {other:?}"),
        }
    }
}

#[test]
fn a_length_that_is_not_there_allocates_nothing() {
    let mut bytes = encoded();
    bytes[HEAD_BYTES + 1..HEAD_BYTES + 5].copy_from_slice(&u32::MAX.to_le_bytes());
    let Err(Fault::Damaged { record: 0, offset: 16, what }) = read(&bytes) else { panic!("it is refused") };
    assert!(what.contains("at most 67108864 bytes, found 4294967295"), "{what}");
}

#[test]
fn another_version_and_another_kind_of_file_are_told_apart() {
    let mut newer = encoded();
    newer[8] = 3;
    assert!(matches!(read(&newer), Err(Fault::OtherFormat(3))));
    assert!(
        matches!(read(b"PK\x03\x04 a zip file, or so"), Err(Fault::NotABackup(found)) if found == b"PK\x03\x04 a z")
    );
    assert!(matches!(read(b""), Err(Fault::NotABackup(found)) if found.is_empty()));
}

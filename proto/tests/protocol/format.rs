//! The bytes of one delta and one page, as they were written when the format was made. What is on somebody's disk is read
//! by every later version: so these only change together with a new field, never with an old one.

use std::fmt::Write;
use std::path::Path;

use bytes::Bytes;
use plenum_proto::{delta, pages, v1};
use prost::Message;

use crate::world::World;

/// A cell with machines, sessions, jobs, grants, moves, an end and a number.
const STEPS: [u32; 12] = [0, 14, 1, 2, 45, 3, 46, 6, 20, 7, 8, 10];

fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for line in bytes.chunks(32) {
        line.iter().for_each(|byte| write!(text, "{byte:02x}").unwrap());
        text.push('\n');
    }
    text
}

/// Compares with the golden file; `BLESS=1` writes it anew.
#[track_caller]
fn check(file: &str, bytes: &[u8]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/protocol/golden").join(file);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, hex(bytes)).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    assert_eq!(hex(bytes), golden, "{file} is written otherwise than before");
}

#[test]
fn deltas_keep_their_bytes() {
    let world = World::after(&STEPS);
    let mut out = Vec::new();
    for delta in &world.deltas {
        delta::encode(delta, &mut out);
    }
    check("deltas.hex", &out);
}

#[test]
fn pages_keep_their_bytes() {
    let cell = World::after(&STEPS).cell;
    let every = pages::every(&cell).map(|(table, number)| pages::encode_page(&cell, table, number));
    check("pages.hex", &every.collect::<Vec<Bytes>>().concat());
}

#[test]
fn fields_of_a_later_version_are_passed_over_in_messages() {
    let unknown = b"\xfa\x07\x01x";
    let status = v1::LogEntry { revision: 1, ..v1::LogEntry::default() };
    let later = [status.encode_to_vec(), unknown.to_vec()].concat();
    assert_eq!(v1::LogEntry::decode(&*later).unwrap(), status);
}

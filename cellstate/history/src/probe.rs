//! Reads a row of the store whatever it holds: the way in for the fuzzer, which has no store.
//!
//! Seals are not looked at here. They keep damage out; what a row says must not be able to do harm without them either.

mod rows;

pub use rows::{ProbeRow, rows};

use bytes::Bytes;
use plenum_proto::v1;
use prost::Message;

use crate::batch::EncodedBatch;
use crate::block::{Block, StoredBlock, compressed, key_number, time_row};
use crate::digest::{Digest, KnownMachines, Machines};
use crate::filter::{Filter, Subject, Subjects};
use crate::image_files;
use crate::keys::{ImageKey, Shelf, describe};
use crate::records::{
    BlockRecord, CheckpointRecord, ConflictsRecord, JobRecord, LeaverRecord, MachineRecord, NumberRecord,
    SummaryRecord, TimeRecord,
};
use crate::store::{Row, decode};

/// Reads a row as each kind of row there is, and gives how many kinds it could be. What stands in `value` as a block is compressed
/// first: hardly a change of compressed bytes would leave a block.
#[must_use]
pub fn row(key: &[u8], value: &Bytes) -> usize {
    let row = || Row { key: key.to_vec(), value: value.clone() };
    let as_block = |value: Bytes| Block::from_row(Row { key: key.to_vec(), value }).is_ok_and(|block| read(&block));
    let bare = BlockRecord::decode(value.clone()).map(|record| compressed(record.batches));
    let summary = decode::<SummaryRecord>(Shelf::Index, key, value.clone());
    let kinds = [
        as_block(value.clone()),
        StoredBlock::from_row(row()).is_ok_and(|block| block.head().first <= block.head().last),
        bare.is_ok_and(|value| as_block(value.into())),
        summary.is_ok_and(|summary| {
            let last = summary.last;
            Filter::of(summary).is_none_or(|filter| filter.may_hold(Subject::Job(7)) || last > 0)
        }),
        time_row(&row()).is_ok(),
        key_number(Shelf::Index, key, 1).is_ok(),
        ImageKey::decode(key).is_some_and(|image| image.encode() == key),
        image_files::is_index(value),
        ImageKey::decode(key).is_some_and(|image| !describe(ImageKey::shelf(image.set), key).is_empty()),
        decode::<CheckpointRecord>(Shelf::Pages, key, value.clone()).is_ok(),
        decode::<ConflictsRecord>(Shelf::Index, key, value.clone()).is_ok(),
        decode::<JobRecord>(Shelf::Index, key, value.clone()).is_ok(),
        decode::<MachineRecord>(Shelf::Index, key, value.clone()).is_ok(),
        decode::<LeaverRecord>(Shelf::Index, key, value.clone()).is_ok(),
        decode::<NumberRecord>(Shelf::Index, key, value.clone()).is_ok(),
        decode::<TimeRecord>(Shelf::Index, key, value.clone()).is_ok(),
        decode::<v1::RetiredDay>(Shelf::Index, key, value.clone()).is_ok(),
        decode::<v1::SessionOpened>(Shelf::Index, key, value.clone()).is_ok(),
        !describe(Shelf::Index, key).is_empty(),
        !describe(Shelf::Blocks, key).is_empty(),
    ];
    kinds.into_iter().filter(|is| *is).count()
}

/// Reads all of a block, and what it is about.
fn read(block: &Block) -> bool {
    let mut known = KnownMachines::default();
    let mut machine_in = Machines { known: &mut known, read: &|_| None, base: 0 };
    let batches = block.batches.iter().map(|batch| EncodedBatch {
        first: batch.first,
        last: batch.last,
        time_micros: batch.time_micros,
        bytes: batch.bytes.clone(),
        place: None,
    });
    let mut subjects = Subjects::default();
    let digested =
        batches.map(|batch| Digest::of(&batch, &mut subjects, &mut machine_in)).filter(Result::is_ok).count();
    let entries = block.entries(block.first, block.last);
    block.bytes() > 0 && digested > 0 && entries.is_ok()
}

//! Larger logs under several injuries at once: whatever is read is what was written, in order and up to the mark at least, or nothing
//! is read at all.

use super::*;
use crate::segment;
use proptest::prelude::*;

/// Something that happens to a file of the log.
#[derive(Clone, Debug)]
enum Injury {
    Flip { bit: u8 },
    Zeros { sectors: u64 },
    Junk { bytes: Vec<u8> },
    Cut,
    Copy { from: prop::sample::Index, sectors: u64 },
    Erase,
}

fn injury() -> impl Strategy<Value = Injury> {
    prop_oneof![
        4 => (0..8u8).prop_map(|bit| Injury::Flip { bit }),
        2 => (1..9u64).prop_map(|sectors| Injury::Zeros { sectors }),
        2 => prop::collection::vec(any::<u8>(), 1..900).prop_map(|bytes| Injury::Junk { bytes }),
        1 => Just(Injury::Cut),
        3 => (any::<prop::sample::Index>(), 1..9u64).prop_map(|(from, sectors)| Injury::Copy { from, sectors }),
        1 => Just(Injury::Erase),
    ]
}

fn injure(disk: &SimDisk, file: prop::sample::Index, at: prop::sample::Index, injury: &Injury) {
    let names: Vec<String> = disk.names().into_iter().filter(|name| segment::number_in(name).is_some()).collect();
    if names.is_empty() {
        return;
    }
    let name = file.get(&names);
    let mut image = disk.image(name).unwrap();
    if image.is_empty() {
        return;
    }
    let place = at.index(image.len());
    let sector = place / 512 * 512;
    let write = |image: &mut Vec<u8>, at: usize, bytes: &[u8]| {
        let end = (at + bytes.len()).min(image.len());
        image[at..end].copy_from_slice(&bytes[..end - at]);
    };
    match injury {
        Injury::Flip { bit } => image[place] ^= 1 << bit,
        Injury::Zeros { sectors } => write(&mut image, sector, &vec![0; usize::try_from(sectors * 512).unwrap()]),
        Injury::Junk { bytes } => write(&mut image, place, bytes),
        Injury::Cut => image.truncate(place),
        Injury::Copy { from, sectors } => {
            let other = disk.image(&names[from.index(names.len())]).unwrap();
            let start = at.index(other.len().max(1)) / 512 * 512;
            let end = (start + usize::try_from(sectors * 512).unwrap()).min(other.len());
            write(&mut image, sector, &other[start..end]);
        }
        Injury::Erase => return disk.erase(name),
    }
    disk.put(name, image);
}

/// A log of so many batches with the mark after one of them, and segments given up behind it.
fn log(batches: u64, marked: u64, released: u64) -> SimDisk {
    let (disk, mut journal) = log_of(0);
    for batch in 0..batches {
        append(&mut journal, batch).unwrap();
        if batch < marked {
            journal.high_water().flush().unwrap();
        }
        journal.keeper().release(released * REVISIONS_PER_BATCH);
        journal.keeper().prepare().unwrap();
    }
    drop(journal);
    disk.copy()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_nothing_is_read_that_was_not_written_and_nothing_promised_is_missing(
        batches in 1..60u64,
        marked in 0..60u64,
        released in 0..40u64,
        injuries in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), injury()), 0..5),
    ) {
        let (marked, released) = (marked.min(batches), released.min(batches));
        let disk = log(batches, marked, released);
        let before: Vec<_> = disk.names().iter().map(|name| disk.image(name)).collect();
        for (file, at, injury) in &injuries {
            injure(&disk, *file, *at, injury);
        }
        let same = before == disk.names().iter().map(|name| disk.image(name)).collect::<Vec<_>>();
        let report = verify(&disk, None, &mut |_| {}).unwrap();
        prop_assert!(!same || report.is_sound());
        match try_open(&disk) {
            Ok((mut journal, recovered)) => {
                prop_assert!(report.is_sound());
                prop_assert_eq!(recovered.cut.is_some(), report.torn.is_some());
                let there = read_all(&journal);
                prop_assert!(there >= marked, "{} of {} marked batches are there", there, marked);
                prop_assert!(there <= batches);
                append(&mut journal, there).unwrap();
                prop_assert_eq!(read_all(&journal), there + 1);
            }
            Err(error) => {
                prop_assert!(!report.is_sound());
                let text = error.to_string();
                prop_assert!(text.contains("restore") || text.contains("use the version"), "no remedy: {}", text);
            }
        }
    }
}

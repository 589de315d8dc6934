//! The cell at any revision that can be read is the fold of all that was fed up to it; and what can not be read says why. Told by
//! a twin that keeps everything and thinks of nothing.
use super::*;
use crate::{ReadError, StartingPoint};
use std::collections::BTreeMap;

/// What the "cell" has: a text for each page of two tables.
type Picture = BTreeMap<(u8, u32), String>;

const TABLES: [(u8, u32); 2] = [(1, 1), (2, 6)];

/// SplitMix64, so that a seed is a story.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (value ^ (value >> 31)) % end
    }

    fn page(&mut self) -> (u8, u32) {
        if self.below(4) == 0 { (1, 0) } else { (2, u32::try_from(self.below(6)).unwrap()) }
    }
}

/// Everything that ever was.
struct Twin {
    /// By revision, from 0 on.
    pictures: Vec<Picture>,
    batches: Vec<EncodedBatch>,
    /// At the newest checkpoint.
    imaged: Option<Picture>,
    /// The oldest revision whose cell may be asked for.
    floor: u64,
}

impl Twin {
    fn newest(&self) -> u64 {
        self.pictures.len() as u64 - 1
    }

    fn picture(&self, revision: u64) -> &Picture {
        &self.pictures[usize::try_from(revision).unwrap()]
    }

    /// One more batch: each entry writes a page or two, named in its delta.
    fn decide(&mut self, dice: &mut Dice) {
        let first = self.newest() + 1;
        let entries = (first..=first + dice.below(4)).map(|revision| {
            let mut picture = self.pictures.last().unwrap().clone();
            let names = (0..=dice.below(2)).map(|_| {
                let (table, page) = dice.page();
                let text = format!("{revision}:{}", dice.below(1000));
                picture.insert((table, page), text.clone());
                format!("{table}/{page}={text}")
            });
            let delta = v1::Delta { revision, scheduler_names: names.collect(), ..Default::default() };
            self.pictures.push(picture);
            changing(delta)
        });
        let entries = entries.collect();
        self.batches.push(batch(i64::try_from(first).unwrap() * SECOND, entries));
    }

    /// Feeds some of what is missing.
    fn feed(&self, history: &History, batches: usize) {
        let newest = history.newest_revision();
        let missing = self.batches.iter().filter(|batch| batch.first > newest).take(batches).cloned();
        history.append(&missing.collect::<Vec<_>>()).unwrap();
    }

    /// A checkpoint of the present, with images of what changed, or of all where that is wanted.
    fn checkpoint(&mut self, history: &History) {
        let (revision, now) = (self.newest(), self.pictures.last().unwrap().clone());
        let live: Vec<TablePages> = TABLES.iter().map(|(table, count)| pages(*table, *count)).collect();
        let all = TABLES.iter().flat_map(|(table, count)| (0..*count).map(|number| (*table, number)));
        let text = |picture: &Picture, key| picture.get(&key).cloned().unwrap_or_default();
        let image = |key: (u8, u32)| page(key.0, key.1, &text(&now, key));
        let changes =
            |key: &(u8, u32)| self.imaged.as_ref().is_none_or(|before| text(before, *key) != text(&now, *key));
        let changed: Vec<PageImage> = all.clone().filter(changes).map(image).collect();
        if history.wants_all_pages(changed.len(), &live) {
            history.checkpoint_of_all(revision, 0, &live, all.map(image)).unwrap();
        } else {
            history.checkpoint(revision, 0, &live, changed).unwrap();
        }
        self.imaged = Some(now);
    }

    /// Reads the cell at a revision as the server does, and compares.
    fn check(&self, history: &History, revision: u64) {
        let start = match history.start_for(revision) {
            Ok(start) => start,
            Err(ReadError::NotThere { newest, .. }) => {
                assert_eq!(newest, history.newest_revision());
                return assert!(revision > newest, "revision {revision} is said to come after {newest}");
            }
            Err(ReadError::Retired { .. }) => {
                return assert!(
                    revision < self.floor,
                    "revision {revision} is said to be retired, up to {}",
                    self.floor
                );
            }
            Err(error) => panic!("{error}"),
        };
        assert!(revision >= self.floor, "revision {revision} should be retired, up to {}", self.floor);
        let (mut picture, from) = match start {
            StartingPoint::Empty => (Picture::new(), 0),
            StartingPoint::Checkpoint(info) => {
                let images = history.pages_at(info.revision).unwrap().map(Result::unwrap);
                let text = |image: &PageImage| String::from_utf8(image.bytes.to_vec()).unwrap();
                let picture = images.map(|image| ((image.table, image.number), text(&image)));
                (picture.filter(|(_, text)| !text.is_empty()).collect(), info.revision)
            }
        };
        for logged in history.entries(from + 1, revision).unwrap() {
            let delta = v1::Delta::decode(logged.unwrap().entry.delta).unwrap();
            for change in delta.scheduler_names {
                let (place, text) = change.split_once('=').unwrap();
                let (table, page) = place.split_once('/').unwrap();
                picture.insert((table.parse().unwrap(), page.parse().unwrap()), text.to_owned());
            }
        }
        assert_eq!(&picture, self.picture(revision), "at revision {revision}");
    }

    fn check_some(&self, history: &History, dice: &mut Dice) {
        for _ in 0..8 {
            self.check(history, dice.below(self.newest() + 3));
        }
        for edge in [self.floor, self.floor.saturating_sub(1), history.newest_revision(), self.newest()] {
            self.check(history, edge);
        }
    }
}

#[test]
fn the_cell_at_each_revision_is_the_fold_of_all_up_to_it() {
    for seed in 0..6 {
        let mut dice = Dice(seed);
        let folder = tempfile::tempdir().unwrap();
        // Whole sets in files, in the store, and some here and some there.
        let image_file_pages = [1, usize::MAX, 6][usize::try_from(seed % 3).unwrap()];
        let open = || History::open(folder.path(), Options { image_file_pages, ..options() }).unwrap().0;
        let mut history = open();
        let mut twin = Twin { pictures: vec![Picture::new()], batches: Vec::new(), imaged: None, floor: 0 };
        twin.decide(&mut dice);
        twin.feed(&history, 1);
        for _ in 0..60 {
            match dice.below(20) {
                0..8 => twin.decide(&mut dice),
                8..14 => twin.feed(&history, usize::try_from(dice.below(6)).unwrap()),
                14 | 15 => twin.checkpoint(&history),
                16 => {
                    let keep_from = dice.below(history.newest_revision() + 1);
                    history.retire(keep_from).unwrap();
                    let oldest = history.checkpoint_at_or_before(keep_from).unwrap().map_or(0, |info| info.revision);
                    twin.floor = twin.floor.max(oldest);
                }
                17 => {
                    twin.checkpoint(&history);
                    if twin.newest() > history.newest_revision() && dice.below(2) == 0 {
                        history.leap_to(twin.newest()).unwrap();
                        twin.floor = twin.newest();
                    }
                }
                18 => history.persist().unwrap(),
                _ => {
                    drop(history);
                    history = open();
                }
            }
            twin.check_some(&history, &mut dice);
        }
        twin.feed(&history, usize::MAX);
        assert_eq!(history.newest_revision(), twin.newest(), "seed {seed}");
        (0..=twin.newest() + 1).for_each(|revision| twin.check(&history, revision));
    }
}

//! Slots by the names of their tenants: a table of slots alone. The names stay where they are.
//!
//! A tree of names had each name a second time, and was copied whole by the first change after a snapshot; this costs some eight bytes a
//! tenant, and a change copies a page of 4 KiB. Where a slot stands in the table depends on the cell's id and on the order in which
//! tenants came: nobody sees it.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::Paged;

/// Rows a page of the table.
const PAGE: usize = 1024;
/// The least rows of a table that has any.
const ROWS_MIN: u32 = 64;
/// A row for nobody.
const EMPTY: u32 = 0;

/// An open-addressing table with linear probing. A name is a text, or several.
///
/// Invariant: each tenant stands between its home row and the first empty row after that. At least a quarter of the rows is empty.
#[derive(Clone, Debug, Default)]
pub(crate) struct NameIndex {
    /// Slot + 1 of a tenant, or [`EMPTY`].
    table: Paged<u32, PAGE>,
    /// Rows of the table: a power of two, or 0.
    rows: u32,
    tenants: u32,
    /// The id of the cell: names that meet in one row of one cell's table are far apart in another one's. Else they could be found once and
    /// for all, and each look-up would go through all jobs that somebody gave them.
    key: [u8; 16],
}

impl NameIndex {
    /// One without tenants, for the cell with this id.
    pub(crate) fn of_cell(key: [u8; 16]) -> Self {
        Self { key, ..Self::default() }
    }

    /// The cell has this id from now on: all tenants get other places, unless it had it before.
    pub(crate) fn set_key<N: Hash + Eq>(&mut self, key: [u8; 16], name_of: impl Fn(u32) -> N) {
        if key != self.key {
            self.key = key;
            self.rebuild(self.rows, &name_of);
        }
    }

    /// The slot of the tenant with this name. `name_of` gives the name of a slot's tenant.
    pub(crate) fn find<N: Hash + Eq>(&self, name: N, name_of: impl Fn(u32) -> N) -> Option<u32> {
        self.row_of(&name, &name_of).map(|row| self.at(row) - 1)
    }

    /// Tenants that it has.
    pub(crate) const fn len(&self) -> u32 {
        self.tenants
    }

    /// Takes a tenant in, whose name nobody has.
    pub(crate) fn insert<N: Hash + Eq>(&mut self, slot: u32, name: N, name_of: impl Fn(u32) -> N) {
        if u64::from(self.tenants + 1) * 4 > u64::from(self.rows) * 3 {
            self.rebuild((self.rows * 2).max(ROWS_MIN), &name_of);
        }
        self.put(slot, self.hash_of(&name));
        self.tenants += 1;
    }

    /// Lets the tenant with this name go, if it is there. All names must still be as they were.
    pub(crate) fn remove<N: Hash + Eq>(&mut self, name: N, name_of: impl Fn(u32) -> N) {
        let Some(mut hole) = self.row_of(&name, &name_of) else { return };
        self.tenants -= 1;
        // Who stands behind moves up, unless its home is behind the hole: so no probe ends before it should.
        let mut row = hole;
        loop {
            row = self.after(row);
            let slot = self.at(row);
            if slot == EMPTY {
                break;
            }
            let home = self.home(self.hash_of(&name_of(slot - 1)));
            let from_home = row.wrapping_sub(home) & (self.rows - 1);
            let from_hole = row.wrapping_sub(hole) & (self.rows - 1);
            if from_home >= from_hole {
                *self.table.get_mut(hole) = slot;
                hole = row;
            }
        }
        *self.table.get_mut(hole) = EMPTY;
    }

    #[cfg(test)]
    pub(crate) const fn key(&self) -> [u8; 16] {
        self.key
    }

    fn row_of<N: Hash + Eq>(&self, name: &N, name_of: &impl Fn(u32) -> N) -> Option<u32> {
        if self.rows == 0 {
            return None;
        }
        let mut row = self.home(self.hash_of(name));
        loop {
            match self.at(row) {
                EMPTY => return None,
                slot if name_of(slot - 1) == *name => return Some(row),
                _ => row = self.after(row),
            }
        }
    }

    fn put(&mut self, slot: u32, hash: u64) {
        let mut row = self.home(hash);
        while self.at(row) != EMPTY {
            row = self.after(row);
        }
        *self.table.get_mut(row) = slot + 1;
    }

    fn rebuild<N: Hash + Eq>(&mut self, rows: u32, name_of: &impl Fn(u32) -> N) {
        let before = std::mem::take(&mut self.table);
        self.rows = rows;
        for &slot in before.iter().filter(|&&slot| slot != EMPTY) {
            self.put(slot - 1, self.hash_of(&name_of(slot - 1)));
        }
    }

    fn at(&self, row: u32) -> u32 {
        self.table.get(row).copied().unwrap_or(EMPTY)
    }

    fn after(&self, row: u32) -> u32 {
        (row + 1) & (self.rows - 1)
    }

    #[allow(clippy::cast_possible_truncation, reason = "only the low bits count")]
    fn home(&self, hash: u64) -> u32 {
        hash as u32 & (self.rows - 1)
    }

    /// The standard library's hash for tables that strangers fill. Its own keys are fixed: the cell's id goes before the name.
    fn hash_of(&self, name: &impl Hash) -> u64 {
        let mut hasher = DefaultHasher::new();
        hasher.write(&self.key);
        name.hash(&mut hasher);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn check(index: &NameIndex, names: &[String], there: &BTreeMap<&str, u32>) {
        let name_of = |slot: u32| names[slot as usize].as_str();
        assert_eq!(index.len() as usize, there.len());
        for name in names {
            assert_eq!(index.find(name.as_str(), name_of), there.get(name.as_str()).copied(), "{name}");
        }
    }

    #[test]
    fn tenants_that_come_and_go_are_found_as_in_a_tree() {
        let names: Vec<String> = (0..500).map(|number| format!("rack-{}-machine-{number}", number % 7)).collect();
        let name_of = |slot: u32| names[slot as usize].as_str();
        let (mut index, mut there) = (NameIndex::default(), BTreeMap::new());
        let mut dice = 1_u64;
        for step in 0..20_000 {
            dice = dice.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            let slot = u32::try_from((dice >> 33) % 500).unwrap();
            let name = name_of(slot);
            if there.remove(name).is_some() {
                index.remove(name, name_of);
            } else {
                index.insert(slot, name, name_of);
                there.insert(name, slot);
            }
            if step % 500 == 0 {
                check(&index, &names, &there);
            }
        }
        check(&index, &names, &there);
    }

    // The same few thousand names made a run of rows in each cell's table, and all look-ups there went through it.
    #[test]
    fn names_that_meet_in_one_cell_are_apart_in_another_one() {
        const ROWS: u32 = 1 << 10;
        let with_rows = |key| NameIndex { rows: ROWS, ..NameIndex::of_cell(key) };
        let home = |index: &NameIndex, name: &str| index.home(index.hash_of(&name));
        let (here, there) = (with_rows([1; 16]), with_rows([2; 16]));
        let names = (0..100 * ROWS).map(|number| format!("job-{number}"));
        let meeting: Vec<String> = names.filter(|name| home(&here, name) == 7).collect();
        assert!(meeting.len() > 50, "{} names", meeting.len());
        let mut homes: Vec<u32> = meeting.iter().map(|name| home(&there, name)).collect();
        homes.sort_unstable();
        homes.dedup();
        assert!(homes.len() > meeting.len() / 2, "{} rows for {} names", homes.len(), meeting.len());
    }

    #[test]
    fn all_tenants_are_found_when_the_cell_gets_another_id() {
        let names: Vec<String> = (0..100).map(|number| format!("machine-{number}")).collect();
        let name_of = |slot: u32| names[slot as usize].as_str();
        let mut index = NameIndex::default();
        index.set_key([1; 16], name_of);
        (0..100).for_each(|slot| index.insert(slot, name_of(slot), name_of));
        index.set_key([2; 16], name_of);
        assert_eq!(index.key, [2; 16]);
        check(&index, &names, &(0..).zip(&names).map(|(slot, name)| (name.as_str(), slot)).collect());
        index.remove("machine-7", name_of);
        assert_eq!((index.find("machine-7", name_of), index.len()), (None, 99));
    }

    #[test]
    fn a_name_that_is_not_there_is_not_removed() {
        let names = ["a", "b"];
        let name_of = |slot: u32| names[slot as usize];
        let mut index = NameIndex::default();
        assert_eq!(index.find("a", name_of), None);
        index.insert(0, "a", name_of);
        index.remove("b", name_of);
        assert_eq!((index.find("a", name_of), index.len()), (Some(0), 1));
        let snapshot = index.clone();
        index.remove("a", name_of);
        assert_eq!((index.find("a", name_of), snapshot.find("a", name_of)), (None, Some(0)));
    }

    #[test]
    fn a_name_of_several_texts_is_another_one_when_they_are_divided_otherwise() {
        let names = [("a", "bc"), ("ab", "c"), ("", "abc")];
        let name_of = |slot: u32| names[slot as usize];
        let mut index = NameIndex::default();
        (0..).zip(names).for_each(|(slot, name)| index.insert(slot, name, name_of));
        index.remove(("ab", "c"), name_of);
        assert_eq!(names.map(|name| index.find(name, name_of)), [Some(0), None, Some(2)]);
        assert_eq!(index.find(("abc", ""), name_of), None);
    }
}

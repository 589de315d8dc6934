//! Which parts of the cell state a watcher follows.

use crate::error::{Invalid, Within};
use crate::v1;

/// A set of sections, closed: what refers to rows of another section comes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sections(u8);

const MACHINES: u8 = 1;
const ALLOCATIONS: u8 = 1 << 1;
const JOBS: u8 = 1 << 2;
const SESSIONS: u8 = 1 << 3;
const QUOTAS: u8 = 1 << 4;
const BODIES: u8 = 1 << 5;
const OUTCOMES: u8 = 1 << 6;

impl Sections {
    /// All there is: what the log and the history keep.
    pub const ALL: Self = Self(MACHINES | ALLOCATIONS | JOBS | SESSIONS | QUOTAS | BODIES);

    /// What a watcher gets who names none: all but what jobs do.
    pub const MIRROR: Self = Self(Self::ALL.0 & !BODIES);

    /// Nothing of the cell: what a scheduler without a mirror follows.
    pub const OUTCOMES: Self = Self(OUTCOMES);

    /// The sections that a watcher named; none stands for `MIRROR`.
    ///
    /// # Errors
    /// When one is not known.
    pub fn from_wire(sections: &[i32]) -> Result<Self, Invalid> {
        let mut set = 0;
        for (position, &number) in sections.iter().enumerate() {
            set |= known(number).within_at("sections", position)?;
        }
        // The state of a task follows its allocations, and an allocation needs its machine and its job to be folded.
        if set & (ALLOCATIONS | JOBS | BODIES) != 0 {
            set |= MACHINES | ALLOCATIONS | JOBS;
        }
        Ok(match set & !OUTCOMES {
            0 if set == 0 => Self::MIRROR,
            0 => Self::OUTCOMES,
            cell => Self(cell),
        })
    }

    /// Whether it has nothing of the cell: no snapshot and no delta is for this watcher.
    #[must_use]
    pub fn is_of_answers_alone(self) -> bool {
        self == Self::OUTCOMES
    }

    /// Whether it has that section.
    #[must_use]
    pub fn has(self, section: v1::Section) -> bool {
        self.0 & bit(section) != 0
    }

    /// Whether pages of that table belong to it.
    #[must_use]
    pub fn has_table(self, table: v1::Table) -> bool {
        match table {
            v1::Table::Unspecified => false,
            v1::Table::Meta => true,
            v1::Table::Machines => self.has(v1::Section::Machines),
            v1::Table::Jobs | v1::Table::Groups | v1::Table::Tasks => self.has(v1::Section::Jobs),
            v1::Table::Allocations | v1::Table::Holds | v1::Table::Partitions | v1::Table::UnknownTasks => {
                self.has(v1::Section::Allocations)
            }
            v1::Table::Quotas => self.has(v1::Section::Quotas),
            v1::Table::Sessions => self.has(v1::Section::Sessions),
        }
    }
}

const fn bit(section: v1::Section) -> u8 {
    match section {
        v1::Section::Unspecified => 0,
        v1::Section::Machines => MACHINES,
        v1::Section::Allocations => ALLOCATIONS,
        v1::Section::Jobs => JOBS,
        v1::Section::Sessions => SESSIONS,
        v1::Section::Quotas => QUOTAS,
        v1::Section::Bodies => BODIES,
        v1::Section::Outcomes => OUTCOMES,
    }
}

fn known(number: i32) -> Result<u8, Invalid> {
    let set = v1::Section::try_from(number).map_or(0, bit);
    if set > 0 { Ok(set) } else { Err(Invalid::new("", "the number of a section, 1 to 7", number)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_refers_to_other_rows_brings_them_along() {
        let jobs = Sections::from_wire(&[v1::Section::Jobs.into()]).unwrap();
        assert!(jobs.has(v1::Section::Machines) && jobs.has(v1::Section::Allocations));
        assert!(!jobs.has(v1::Section::Bodies) && !jobs.has(v1::Section::Sessions));
    }

    #[test]
    fn naming_none_gives_all_but_bodies() {
        assert_eq!(Sections::from_wire(&[]), Ok(Sections::MIRROR));
        assert!(!Sections::MIRROR.has(v1::Section::Bodies));
    }

    #[test]
    fn who_asks_for_outcomes_alone_follows_nothing_of_the_cell() {
        let (outcomes, quotas) = (v1::Section::Outcomes.into(), v1::Section::Quotas.into());
        let alone = Sections::from_wire(&[outcomes]).unwrap();
        assert!(alone.is_of_answers_alone() && !alone.has(v1::Section::Quotas));
        assert_eq!(Sections::from_wire(&[outcomes, quotas]), Sections::from_wire(&[quotas]));
        assert!(!Sections::MIRROR.is_of_answers_alone());
    }

    #[test]
    fn an_unknown_section_is_named_by_its_position() {
        let error = Sections::from_wire(&[1, 0]).unwrap_err();
        assert_eq!(error.to_string(), "sections[1]: expected the number of a section, 1 to 7, found 0");
    }
}

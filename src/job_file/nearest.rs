//! The nearest known name to one that nobody knows.

use std::cmp::Reverse;

/// The known name that is fewest edits away, if that is few enough to be a slip. Of several the one that begins and ends most alike: a letter
/// is left out more often than it is mistaken for another. What shares less than half of its letters with a name is no slip in it.
pub(crate) fn nearest<'names>(unknown: &str, known: impl IntoIterator<Item = &'names str>) -> Option<&'names str> {
    let most = (unknown.chars().count() / 3).max(1) + 1;
    known
        .into_iter()
        .map(|name| {
            let (unknown, known) = (unknown.to_lowercase(), name.to_lowercase());
            (edits(&unknown, &known), Reverse(alike_at_ends(&unknown, &known)), name)
        })
        .filter(|(distance, _, name)| *distance <= most && distance * 2 <= name.chars().count())
        .min()
        .map(|(.., name)| name)
}

/// Asks whether the nearest known name was meant, behind a sentence about an unknown one; nothing where none is near.
pub(crate) fn guess<'names>(unknown: &str, known: impl IntoIterator<Item = &'names str>) -> String {
    nearest(unknown, known).map_or_else(String::new, |near| format!("; did you mean `{near}`?"))
}

/// How many characters two words have in common at their beginning, and behind it at their end.
fn alike_at_ends(one: &str, other: &str) -> usize {
    let beginning = one.chars().zip(other.chars()).take_while(|(one, other)| one == other).count();
    let rest = one.chars().count().min(other.chars().count()) - beginning;
    let end = one.chars().rev().zip(other.chars().rev()).take(rest);
    beginning + end.take_while(|(one, other)| one == other).count()
}

/// Insertions, removals, replacements and swaps of neighbours that lead from one word to the other (the optimal string
/// alignment distance). Words are cut at 64 characters, which bounds the work.
pub(super) fn edits(from: &str, to: &str) -> usize {
    let from: Vec<char> = from.chars().take(64).collect();
    let to: Vec<char> = to.chars().take(64).collect();
    let mut rows: Vec<Vec<usize>> = vec![(0..=to.len()).collect()];
    for (row, from_char) in from.iter().enumerate() {
        let mut next = vec![row + 1];
        for (column, to_char) in to.iter().enumerate() {
            let replaced = rows[row][column] + usize::from(from_char != to_char);
            let mut fewest = replaced.min(rows[row][column + 1] + 1).min(next[column] + 1);
            if row > 0 && column > 0 && *from_char == to[column - 1] && from[row - 1] == *to_char {
                fewest = fewest.min(rows[row - 1][column - 1] + 1);
            }
            next.push(fewest);
        }
        rows.push(next);
    }
    rows[from.len()][to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    // A job file that said `schedulr` was asked whether it meant `schedule`, which nobody can use yet.
    #[test]
    fn of_names_that_are_as_near_the_one_with_more_of_the_word_is_meant() {
        let known = ["name", "schedule", "scheduler", "elastic"];
        assert_eq!(nearest("schedulr", known), Some("scheduler"));
        assert_eq!(nearest("schedulee", known), Some("schedule"));
        assert_eq!(nearest("Scheduler", known), Some("scheduler"));
        assert_eq!(nearest("rack", known), None);
    }

    // `plenum explain FOO` asked whether IO was meant.
    #[test]
    fn a_short_name_is_not_meant_by_a_word_that_has_one_letter_of_it() {
        assert_eq!(nearest("foo", ["io", "usage"]), None);
        assert_eq!(nearest("oi", ["io", "usage"]), Some("io"));
    }
}

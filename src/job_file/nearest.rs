//! The nearest known name to one that nobody knows.

/// The known name that is fewest edits away, if that is few enough to be a slip.
pub(crate) fn nearest<'names>(unknown: &str, known: impl IntoIterator<Item = &'names str>) -> Option<&'names str> {
    let most = (unknown.chars().count() / 3).max(1) + 1;
    known
        .into_iter()
        .map(|name| (edits(&unknown.to_lowercase(), &name.to_lowercase()), name))
        .filter(|(distance, _)| *distance <= most)
        .min()
        .map(|(_, name)| name)
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

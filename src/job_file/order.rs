//! The order of groups: what `after` names, and that it never leads back.

use super::fault::{Fault, Faults};

/// What one group says of the others.
pub(super) struct GroupOrder<'file> {
    pub(super) name: &'file str,
    /// Names in `after`, with their places.
    pub(super) after: Vec<(&'file str, std::ops::Range<usize>)>,
}

/// Checks that each name in `after` is another group, named once, and that no group waits for itself in the end.
pub(super) fn check(groups: &[GroupOrder<'_>], faults: &mut Faults) {
    let mut are_known = true;
    for group in groups {
        for (position, (name, at)) in group.after.iter().enumerate() {
            if group.after[..position].iter().any(|(earlier, _)| earlier == name) {
                faults.add(Fault::value(at.clone(), format!("`{name}` is named twice in `after`")));
            } else if !groups.iter().any(|other| other.name == *name) {
                are_known = false;
                let known = groups.iter().map(|other| other.name);
                let near = super::nearest(name, known.clone());
                let names = known.collect::<Vec<_>>().join("`, `");
                let fault = Fault::value(
                    at.clone(),
                    format!("`group.{}.after` names `{name}`, which is no group of this job", group.name),
                );
                faults.add(fault.with_hint(
                    near.map_or_else(|| format!("the groups are `{names}`"), |near| format!("did you mean `{near}`?")),
                ));
            }
        }
    }
    // One that nobody knows may have been meant for any of them.
    if let Some((names, at)) = cycle(groups).filter(|_| are_known) {
        let what = format!("groups wait for each other for ever: {} (each starts after the next)", names.join(" → "));
        let fault = Fault::value(at, what).with_code("JOB_FILE_CYCLE");
        faults.add(fault.with_hint("take one of these names out of its `after`"));
    }
}

/// The first cycle found, walking groups in the file's order: its names, the first one repeated at the end.
fn cycle<'file>(groups: &[GroupOrder<'file>]) -> Option<(Vec<&'file str>, std::ops::Range<usize>)> {
    let mut finished = vec![false; groups.len()];
    for start in 0..groups.len() {
        // The walk's path: a group, and how many of its names were followed.
        let mut path = vec![(start, 0)];
        while let Some((group, followed)) = path.pop() {
            if finished[group] || followed == groups[group].after.len() {
                finished[group] = true;
                continue;
            }
            path.push((group, followed + 1));
            let (name, at) = &groups[group].after[followed];
            let next = groups.iter().position(|other| other.name == *name)?;
            if let Some(first) = path.iter().position(|(on_path, _)| *on_path == next) {
                let mut names: Vec<&str> = path[first..].iter().map(|(on_path, _)| groups[*on_path].name).collect();
                names.push(groups[next].name);
                return Some((names, at.clone()));
            }
            if !finished[next] {
                path.push((next, 0));
            }
        }
    }
    None
}

//! `--machines`: which machines, or what is changed of those there are.

use std::path::Path;

use anyhow::{Context, bail, ensure};
use plenum_model::{CUSTOM_RESOURCES, Resources};

use crate::traces::open;
use crate::traces::work::{GPUS, MachineClass, UNTOLD, memory_is_told, resources};

/// A million machines: what a cell takes.
const MACHINES_MAX: u64 = 1_000_000;

/// Another number of machines of a class.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Change {
    /// `None`: of all together, each class by its share.
    pub(super) class: Option<String>,
    pub(super) by: By,
}

/// By how much.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum By {
    /// So many more, or fewer, of a hundred.
    Percent(f64),
    /// So many more, or fewer.
    Count(i64),
    /// So many.
    Exactly(u64),
}

/// What was asked for: machines, and the changes of them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Asked {
    pub(super) machines: Vec<MachineClass>,
    pub(super) changes: Vec<Change>,
}

/// Reads `--machines` and `--cell`. `known` are the machines of the trace, if it tells them.
///
/// # Errors
/// When nothing tells the machines, or the text is none that is known.
pub(super) fn asked(text: Option<&str>, cell: Option<&Path>, known: &[MachineClass]) -> anyhow::Result<Asked> {
    let base = match cell {
        Some(path) => with_untold(open::machines(path)?),
        None => known.to_vec(),
    };
    let need =
        || "--machines: the trace does not tell its machines: expected a number, NxCORES[xGIB[xGPUS]] or a CSV file";
    let Some(text) = text else {
        ensure!(!base.is_empty(), need());
        return Ok(Asked { machines: base, changes: Vec::new() });
    };
    if let Some(changes) = changes(text)? {
        ensure!(
            !base.is_empty(),
            "--machines {text}: expected --cell FILE or a trace that tells its machines, to change them"
        );
        return Ok(Asked { machines: base, changes });
    }
    let machines = absolute(text, &base)?;
    Ok(Asked { machines, changes: Vec::new() })
}

/// Where nobody told of disk, or of what a trace has of its own (such as parts of a network card), there is enough for every job.
fn with_untold(mut machines: Vec<MachineClass>) -> Vec<MachineClass> {
    let untold = |of: &dyn Fn(&Resources) -> u64| machines.iter().all(|class| of(&class.capacity) == 0);
    let disk = untold(&|capacity| capacity.disk_bytes);
    let others: Vec<usize> =
        (GPUS + 1..CUSTOM_RESOURCES).filter(|&own| untold(&|capacity| capacity.custom[own])).collect();
    for class in &mut machines {
        if disk {
            class.capacity.disk_bytes = UNTOLD;
        }
        others.iter().for_each(|&own| class.capacity.custom[own] = UNTOLD);
    }
    machines
}

/// Changes, where the text is some.
pub(super) fn changes(text: &str) -> anyhow::Result<Option<Vec<Change>>> {
    let is_change = |part: &str| part.starts_with(['+', '-']) || part.contains('=');
    if !text.split(',').any(is_change) {
        return Ok(None);
    }
    text.split(',').map(change).collect::<anyhow::Result<Vec<Change>>>().map(Some)
}

fn change(text: &str) -> anyhow::Result<Change> {
    let (class, amount) = match text.split_once('=') {
        Some((class, amount)) => (Some(class.to_owned()), amount),
        None => (None, text),
    };
    let by = match amount.strip_suffix('%') {
        Some(percent) => {
            // Without a sign it could be a part of what there is as well.
            let signed = Some(percent).filter(|percent| percent.starts_with(['+', '-']));
            let percent = signed.and_then(|percent| percent.parse().ok());
            let percent = percent.filter(|percent: &f64| (-99.0..=10_000.0).contains(percent)).with_context(|| {
                format!("--machines: expected a percentage from -99% to +10000%, with its sign, found {amount:?}")
            })?;
            By::Percent(percent)
        }
        None if amount.starts_with(['+', '-']) => By::Count(amount.parse().ok().with_context(|| wrong(text))?),
        None => By::Exactly(amount.parse().ok().with_context(|| wrong(text))?),
    };
    Ok(Change { class, by })
}

fn wrong(text: &str) -> String {
    format!("--machines: expected a change such as +20%, -3, CLASS=+20% or CLASS=40, found {text:?}")
}

/// What `--machines` may be besides changes.
const FORMS: &str = "N, NxCORES, NxCORESxGIB or NxCORESxGIBxGPUS, each a whole number to a million, N at least 1";

/// The numbers of `NxCORES` and the like.
fn numbers(text: &str) -> Option<Vec<u64>> {
    text.split('x').map(|part| part.parse().ok()).collect()
}

/// The file that a text names which is neither changes nor numbers.
pub(super) fn file(text: &str) -> Option<&Path> {
    (matches!(changes(text), Ok(None)) && numbers(text).is_none()).then(|| Path::new(text))
}

/// Whether a text tells the machines by itself, and is neither about those there are nor how many of them.
pub(super) fn are_told(text: &str) -> bool {
    matches!(changes(text), Ok(None)) && numbers(text).is_none_or(|numbers| numbers.len() > 1)
}

fn absolute(text: &str, base: &[MachineClass]) -> anyhow::Result<Vec<MachineClass>> {
    let Some(numbers) = numbers(text) else {
        let path = Path::new(text);
        ensure!(path.exists(), "--machines {text}: expected {FORMS}, or a CSV file, found none of that name");
        return Ok(with_untold(open::machines(path)?));
    };
    let in_range = numbers.iter().all(|number| *number <= MACHINES_MAX) && numbers[0] > 0 && numbers.len() <= 4;
    ensure!(in_range, "--machines {text}: expected {FORMS}");
    let count = u32::try_from(numbers[0]).context("at most a million")?;
    let capacity = match (numbers.get(1), base) {
        (Some(cores), _) => {
            let memory = numbers.get(2).map_or(UNTOLD, |gib| gib << 30);
            resources(cores * 1000, memory, numbers.get(3).copied().unwrap_or(0))
        }
        // As many of the machine that the trace tells of, with all that it has.
        (None, [one]) => return Ok(vec![MachineClass { count, ..one.clone() }]),
        (None, []) => resources(1000, UNTOLD, 0),
        (None, _) => {
            bail!("--machines {text}: expected NxCORES[xGIB[xGPUS]], because there are several classes of machines")
        }
    };
    Ok(with_untold(vec![MachineClass { name: "node".to_owned(), count, capacity, attributes: Vec::new() }]))
}

/// The machines after the changes.
///
/// # Errors
/// When a class is not there, or none of its machines would be left.
pub(super) fn changed(machines: &[MachineClass], changes: &[Change]) -> anyhow::Result<Vec<MachineClass>> {
    let mut machines = machines.to_vec();
    for change in changes {
        let Some(name) = &change.class else {
            change_all(&mut machines, change.by);
            continue;
        };
        let names = machines.iter().map(|class| class.name.clone()).collect::<Vec<_>>().join(", ");
        let class = machines.iter_mut().find(|class| class.name == *name);
        let class = class.with_context(|| format!("--machines: expected a class of {names}, found {name:?}"))?;
        class.count = after(class.count, change.by);
    }
    ensure!(
        machines.iter().any(|class| class.count > 0),
        "--machines: expected some machines, found none after the changes"
    );
    machines.retain(|class| class.count > 0);
    Ok(machines)
}

/// Changes how many there are in all. Each class has its share, and shares are rounded along the list: a cell of many small classes changes by as much as
/// one of a single class. Along the list means by what machines have: of a cell of single machines, every other one large, half would be all the large ones.
fn change_all(machines: &mut [MachineClass], by: By) {
    let all: u64 = machines.iter().map(|class| u64::from(class.count)).sum();
    let after = u64::from(after(u32::try_from(all).unwrap_or(u32::MAX), by));
    let (mut passed, mut given) = (0, 0);
    let mut by_kind: Vec<&mut MachineClass> = machines.iter_mut().collect();
    by_kind.sort_by_key(|class| class.capacity);
    for class in by_kind {
        passed += u64::from(class.count);
        let due = (passed * after + all / 2) / all.max(1);
        class.count = u32::try_from(due - given).expect("a part of what a cell takes");
        given = due;
    }
}

/// So many machines after a change: parts of machines are rounded to the nearest.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to what a cell takes")]
pub(super) fn after(count: u32, by: By) -> u32 {
    let most = u32::try_from(MACHINES_MAX).expect("a million");
    match by {
        By::Percent(percent) => (f64::from(count) * (1.0 + percent / 100.0)).round().clamp(0.0, f64::from(most)) as u32,
        By::Count(more) => {
            u32::try_from(i64::from(count).saturating_add(more).clamp(0, i64::from(most))).expect("clamped")
        }
        By::Exactly(count) => u32::try_from(count).unwrap_or(most).min(most),
    }
}

/// Machines in words.
pub(super) fn words(machines: &[MachineClass]) -> String {
    let one = |class: &MachineClass| {
        let capacity = &class.capacity;
        let mut words = format!(
            "{} x {} cores",
            class.count,
            crate::report::three_digits(crate::figure::number(capacity.cpu_millis) / 1000.0)
        );
        if memory_is_told(std::slice::from_ref(class)) {
            words.push_str(&format!(", {} GiB", capacity.memory_bytes >> 30));
        }
        if capacity.custom[0] > 0 {
            words.push_str(&format!(", {} GPUs", capacity.custom[0]));
        }
        format!("{}: {words}", class.name)
    };
    machines.iter().map(one).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(name: &str, count: u32) -> MachineClass {
        MachineClass { name: name.into(), count, capacity: resources(8000, 1 << 34, 0), attributes: Vec::new() }
    }

    fn counts(text: &str, base: &[MachineClass]) -> Result<Vec<u32>, String> {
        let asked = asked(Some(text), None, base).map_err(|error| error.to_string())?;
        let changed = changed(&asked.machines, &asked.changes).map_err(|error| error.to_string())?;
        Ok(changed.iter().map(|class| class.count).collect())
    }

    #[test]
    fn changes_are_about_every_class_or_about_one() {
        let base = [class("small", 10), class("gpu", 5)];
        assert_eq!(counts("+20%", &base), Ok(vec![12, 6]));
        assert_eq!(counts("gpu=+3,small=-50%", &base), Ok(vec![5, 8]));
        assert_eq!(counts("gpu=0", &base), Ok(vec![10]));
        assert!(counts("large=+1", &base).unwrap_err().contains("expected a class of small, gpu, found \"large\""));
        assert!(counts("-100", &base).unwrap_err().contains("expected some machines"));
    }

    // Each class was rounded by itself: a cell of which each machine had a name of its own stayed as it was from -49% to +49%, and was called large
    // enough at -50%. And three fewer were three fewer of each class.
    #[test]
    fn a_change_of_all_machines_is_of_all_together_however_they_are_listed() {
        let each: Vec<_> = (0..20).map(|machine| class(&format!("m{machine}"), 1)).collect();
        for (text, after) in [("-20%", 16), ("-50%", 10), ("+25%", 25), ("-3", 17), ("+3", 23), ("-99%", 0)] {
            let of_one = counts(text, &[class("node", 20)]).map(|counts| counts[0]);
            assert_eq!(of_one.unwrap_or_default(), after, "{text}");
            assert_eq!(counts(text, &each).unwrap_or_default().iter().sum::<u32>(), after, "{text}");
        }
        assert_eq!(counts("-1", &[class("a", 2), class("b", 2)]), Ok(vec![2, 1]));
        assert_eq!(counts("-30%", &[class("a", 2), class("b", 2)]), Ok(vec![2, 1]));
    }

    #[test]
    fn half_of_a_cell_is_half_of_each_kind_in_whatever_order_machines_are_listed() {
        let machine = |number: u32| {
            let cores = if number.is_multiple_of(2) { 64_000 } else { 8000 };
            MachineClass { capacity: resources(cores, 1 << 34, 0), ..class(&format!("m{number}"), 1) }
        };
        let each: Vec<_> = (0..20).map(machine).collect();
        let half = changed(&each, &[Change { class: None, by: By::Percent(-50.0) }]).unwrap();
        let large = half.iter().filter(|class| class.capacity.cpu_millis == 64_000).count();
        assert_eq!((large, half.len()), (5, 10));
    }

    #[test]
    fn machines_are_a_number_or_a_size() {
        assert_eq!(counts("7", &[class("node", 3)]), Ok(vec![7]));
        let asked = asked(Some("4x2x8x1"), None, &[]).unwrap();
        // What is not told never decides.
        let capacity = asked.machines[0].capacity;
        assert_eq!((capacity.cpu_millis, capacity.memory_bytes, capacity.custom[GPUS]), (2000, 8 << 30, 1));
        assert_eq!((capacity.disk_bytes, capacity.custom[GPUS + 1]), (UNTOLD, UNTOLD));
        // A live cell's had lost its attributes, and got resources that it has not.
        let rack = |name: &str| std::sync::Arc::new([("rack".into(), name.into())].into_iter().collect());
        let live = MachineClass { attributes: vec![rack("a"), rack("b")], ..class("shape-1", 3) };
        let more = super::asked(Some("7"), None, std::slice::from_ref(&live)).unwrap().machines;
        assert_eq!(more, [MachineClass { count: 7, ..live }]);
        assert!(counts("7", &[class("a", 3), class("b", 4)]).unwrap_err().contains("several classes of machines"));
        // A part of a core, and the like, were told to be files that are not there.
        for wrong in ["0x2", "4x0.5", "1e3", "4x-1", "1x1x1x1x1"] {
            assert!(counts(wrong, &[]).unwrap_err().contains("expected N, NxCORES"), "{wrong}");
        }
    }

    #[test]
    fn nonsense_is_told_before_anything_runs() {
        assert!(counts("+lots", &[class("a", 3)]).unwrap_err().contains("expected a change such as +20%"));
        assert!(counts("-100%", &[class("a", 3)]).unwrap_err().contains("expected a percentage from -99%"));
        // Half of them, it was thought, and half as many more it was.
        assert!(counts("a=50%", &[class("a", 3)]).unwrap_err().contains("with its sign, found \"50%\""));
        assert_eq!(counts(&format!("+{}", i64::MAX), &[class("a", 3)]), Ok(vec![1_000_000]));
        assert!(counts("+20%", &[]).unwrap_err().contains("expected --cell FILE"));
        assert!(asked(None, None, &[]).unwrap_err().to_string().contains("does not tell its machines"));
    }
}

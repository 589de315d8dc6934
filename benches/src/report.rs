//! A page to read, made from the results alone, with the plots beside it.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::figure::{Figure, Results};
use crate::plot::{self, Bar};

/// Writes `report.md` and the plots into a run's folder; gives the files.
pub(crate) fn write(results: &Results, folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut save = |name: String, text: String| {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        files.push(path);
        anyhow::Ok(())
    };
    let suites: BTreeSet<&str> = results.figures.iter().map(|figure| figure.suite.as_str()).collect();
    let mut page = head(results);
    for suite in suites {
        let figures: Vec<&Figure> = results.figures.iter().filter(|figure| figure.suite == suite).collect();
        let _ = write!(page, "\n## Suite `{suite}`\n\n{}", table(&figures));
        for metric in in_order(figures.iter().map(|figure| figure.metric.as_str())) {
            let of_metric: Vec<&Figure> = figures.iter().filter(|figure| figure.metric == metric).copied().collect();
            let unit = &of_metric[0].unit;
            let bars: Vec<Bar> = of_metric.iter().map(|figure| bar(figure)).collect();
            let name = format!("{suite}-{metric}.svg");
            save(name.clone(), plot::bars(metric, &bars))?;
            let _ = write!(page, "\n![{metric} in {unit}]({name})\n");
            let runs: Vec<(&str, &[f64])> =
                of_metric.iter().map(|figure| (figure.case.as_str(), figure.samples.as_slice())).collect();
            if runs.iter().any(|(_, samples)| samples.len() > 2) {
                let name = format!("{suite}-{metric}-samples.svg");
                save(name.clone(), plot::lines(&format!("{metric}: the samples in order"), unit, &runs))?;
                let _ = writeln!(page, "![its samples in order]({name})");
            }
        }
        page.push_str(&parameters(&figures));
    }
    save("report.md".to_owned(), page)?;
    Ok(files)
}

fn head(results: &Results) -> String {
    let machine = &results.machine;
    let [one, five, fifteen] = machine.load_average;
    let form = if results.quick { "the quick form (fewer samples and cases)" } else { "the long form" };
    let form = if results.stopped {
        format!("{form}, **stopped before its end**: cases are missing")
    } else {
        form.to_owned()
    };
    format!(
        "# Figures of Plenum {}\n\n\
        Measured on {}, {} cores, {} of memory, Linux {}; load average {one}, {five}, {fifteen} at the start.\n\
        Started {}, seed {}, {form}. Values are medians; the range is that of all samples.\n",
        results.plenum,
        machine.cpu_model,
        machine.cores,
        quantity(crate::figure::number(machine.memory_bytes), "B"),
        machine.kernel,
        results.started,
        results.seed,
    )
}

fn table(figures: &[&Figure]) -> String {
    let mut text = "| case | metric | value | range | samples |\n|---|---|---|---|---|\n".to_owned();
    for figure in figures {
        let of = figure.system.as_ref().map_or_else(String::new, |system| format!(" ({system})"));
        let (min, max) = (quantity(figure.min, &figure.unit), quantity(figure.max, &figure.unit));
        let value = quantity(figure.value, &figure.unit);
        let (case, metric, count) = (&figure.case, &figure.metric, figure.samples.len());
        let _ = writeln!(text, "| {case} | `{metric}`{of} | **{value}** | {min} to {max} | {count} |");
    }
    text
}

/// What each case was measured with, once.
fn parameters(figures: &[&Figure]) -> String {
    let mut text = String::new();
    for case in in_order(figures.iter().map(|figure| figure.case.as_str())) {
        let Some(figure) = figures.iter().find(|figure| figure.case == case) else { continue };
        let _ = write!(text, "\n### {case}\n\n| parameter | |\n|---|---|\n");
        for (name, value) in &figure.parameters {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let _ = writeln!(text, "| {name} | {value} |");
        }
    }
    text
}

/// Each text once, where it first came.
fn in_order<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = BTreeSet::new();
    texts.filter(|text| seen.insert(*text)).collect()
}

fn bar(figure: &Figure) -> Bar {
    let of = figure.system.as_ref().map_or_else(String::new, |system| format!(" ({system})"));
    Bar {
        label: format!("{}{of}", figure.case),
        value: figure.value,
        range: (figure.min, figure.max),
        text: quantity(figure.value, &figure.unit),
    }
}

/// A figure in one line.
pub(crate) fn line(figure: &Figure) -> String {
    let of = figure.system.as_ref().map_or_else(String::new, |system| format!(" ({system})"));
    format!("{} · {} · {}{of} · {}", figure.suite, figure.case, figure.metric, quantity(figure.value, &figure.unit))
}

/// A value for people: three digits and the unit.
pub(crate) fn quantity(value: f64, unit: &str) -> String {
    let scaled = |steps: &[(f64, &str)]| {
        let step = steps.iter().find(|(size, _)| value.abs() >= *size).or_else(|| steps.last());
        let (size, name) = step.copied().unwrap_or((1.0, ""));
        format!("{} {name}", three_digits(value / size))
    };
    match unit {
        "s" => scaled(&[(1.0, "s"), (1e-3, "ms"), (1e-6, "µs")]),
        "B" => scaled(&[(1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")]),
        "1/s" => scaled(&[(1e6, "M/s"), (1e3, "k/s"), (1.0, "/s")]),
        "1" => three_digits(value),
        other => format!("{} {other}", three_digits(value)),
    }
}

/// A value for people: three digits.
pub(crate) fn three_digits(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_like_what_people_write() {
        assert_eq!(quantity(2_345_678.0, "1/s"), "2.35 M/s");
        assert_eq!(quantity(0.000_123, "s"), "123 µs");
        assert_eq!(quantity(48_000_000.0, "B"), "48.0 MB");
        assert_eq!(quantity(0.0042, "1"), "0.0042");
    }
}

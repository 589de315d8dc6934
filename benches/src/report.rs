//! A page to read, made from what a run left behind: as Markdown with the plots beside it, and as one HTML file with the plots inside.

mod html;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::figure::{self, Figure, Parameters, Results};
use crate::plot::{self, Bar};

/// The report's own files.
const PAGES: [&str; 2] = ["report.md", "report.html"];
/// Bars of more cases than this say nothing that the table does not.
const BARS_MAX: usize = 48;
/// Lines of more cases cannot be told apart.
const LINES_MAX: usize = 8;
/// Parameters of more cases are left to `results.json`.
const CASES_MAX: usize = 48;

/// Writes `report.md`, `report.html` and the plots into a run's folder; gives the files.
///
/// What a suite left there itself belongs to the report, too: pages `SUITE.md` and `SUITE-….md`, and plots `SUITE-….svg`.
pub(crate) fn write(results: &Results, folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut save = |name: String, text: String| {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        files.push(path);
        anyhow::Ok(())
    };
    let there = names_in(folder)?;
    let suites: BTreeSet<&str> = results.figures.iter().map(|figure| figure.suite.as_str()).collect();
    let mut page = head(results);
    for suite in suites {
        let figures: Vec<&Figure> = results.figures.iter().filter(|figure| figure.suite == suite).collect();
        let _ = write!(page, "\n## Suite `{suite}`\n\n{}", table(&figures));
        let mut own_plots = BTreeSet::new();
        let mut plots = String::new();
        for metric in in_order(figures.iter().map(|figure| figure.metric.as_str())) {
            let of_metric: Vec<&Figure> = figures.iter().filter(|figure| figure.metric == metric).copied().collect();
            let unit = &of_metric[0].unit;
            let (bars_name, samples_name) = (format!("{suite}-{metric}.svg"), format!("{suite}-{metric}-samples.svg"));
            own_plots.extend([bars_name.clone(), samples_name.clone()]);
            if of_metric.len() > BARS_MAX {
                continue;
            }
            // One bar says nothing that its number does not, nor do many that have no length.
            if of_metric.len() > 1 && of_metric.iter().any(|figure| figure.max > 0.0) {
                let bars: Vec<Bar> = of_metric.iter().map(|figure| bar(figure)).collect();
                save(bars_name.clone(), plot::bars(metric, &bars))?;
                let _ = write!(plots, "\n![{metric} in {unit}]({bars_name})\n");
            }
            let names: Vec<String> = of_metric.iter().map(|figure| label(figure)).collect();
            let samples = of_metric.iter().map(|figure| figure.samples.as_slice());
            let runs: Vec<(&str, &[f64])> = names.iter().map(String::as_str).zip(samples).collect();
            // Of more cases than colours, lines cannot be told apart.
            if runs.len() <= LINES_MAX && runs.iter().any(|(_, samples)| samples.len() > 2) {
                save(samples_name.clone(), plot::lines(&format!("{metric}: the samples in order"), unit, &runs))?;
                let _ = write!(plots, "\n![its samples in order]({samples_name})\n");
            }
        }
        page.push_str(&left_by(suite, &there, &own_plots, folder)?);
        page.push_str(&plots);
        page.push_str(&parameters(&figures));
    }
    let title = format!("Figures of Plenum {}", results.plenum);
    let html = html::page(&title, &page, &|name| {
        // A name, and no way to elsewhere.
        let plain = !name.contains('/') && Path::new(name).extension().is_some_and(|extension| extension == "svg");
        plain.then(|| std::fs::read_to_string(folder.join(name)).ok()).flatten()
    });
    for (name, text) in PAGES.into_iter().zip([page, html]) {
        save(name.to_owned(), text)?;
    }
    Ok(files)
}

/// Removes what a run of these suites before left in its folder and a report would take for this one's: pages, plots, and the report itself.
/// A folder without a run's results is left as it is.
pub(crate) fn remove(suites: &[String], folder: &Path) -> anyhow::Result<()> {
    if !folder.join(figure::FILE).exists() {
        return Ok(());
    }
    for name in names_in(folder)? {
        if is_left(suites, &name) {
            let path = folder.join(name);
            std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// What lay in a run's folder before another one began: to be put back when that one measured nothing.
pub(crate) struct Before {
    files: Vec<(PathBuf, Vec<u8>)>,
}

impl Before {
    /// Reads the results, and what [`remove`] would take away.
    pub(crate) fn of(suites: &[String], folder: &Path) -> anyhow::Result<Self> {
        let mut files = Vec::new();
        if folder.join(figure::FILE).exists() {
            for name in names_in(folder)?.into_iter().filter(|name| name == figure::FILE || is_left(suites, name)) {
                let path = folder.join(name);
                let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
                files.push((path, text));
            }
        }
        Ok(Self { files })
    }

    /// Whether no run had left results.
    pub(crate) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Writes it again.
    pub(crate) fn put_back(&self) -> anyhow::Result<()> {
        self.files.iter().try_for_each(|(path, text)| {
            std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
        })
    }
}

/// Whether a run of these suites left it for a report, or the report itself.
fn is_left(suites: &[String], name: &str) -> bool {
    PAGES.contains(&name) || suites.iter().any(|suite| is_page_of(suite, name) || is_plot_of(suite, name))
}

/// Whether this is the name of a page of a suite.
fn is_page_of(suite: &str, name: &str) -> bool {
    let rest = name.strip_prefix(suite).and_then(|rest| rest.strip_suffix(".md"));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// Whether this is the name of a plot of a suite.
fn is_plot_of(suite: &str, name: &str) -> bool {
    let rest = name.strip_prefix(suite).and_then(|rest| rest.strip_suffix(".svg"));
    rest.is_some_and(|rest| rest.starts_with('-'))
}

/// Names of the files of a folder, sorted.
fn names_in(folder: &Path) -> anyhow::Result<Vec<String>> {
    let cannot = || format!("cannot read {}", folder.display());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(cannot)? {
        names.push(entry.with_context(cannot)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Pages and plots that a suite wrote itself.
fn left_by(suite: &str, there: &[String], own_plots: &BTreeSet<String>, folder: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let prefix = format!("{suite}-");
    for name in there.iter().filter(|name| is_page_of(suite, name)) {
        let path = folder.join(name);
        let words = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let _ = write!(text, "\n{}\n", words.trim());
    }
    for name in there.iter().filter(|name| is_plot_of(suite, name)) {
        if !own_plots.contains(name) && !text.contains(&format!("({name})")) {
            let words = name.trim_start_matches(&prefix).trim_end_matches(".svg").replace('-', " ");
            let _ = write!(text, "\n![{words}]({name})\n");
        }
    }
    Ok(text)
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
    let mut page = format!(
        "# Figures of Plenum {}\n\n\
        Measured on {}, {} cores, {} of memory, Linux {}; load average {one}, {five}, {fifteen} at the start.\n\
        Started {}, seed {}, {form}. Values are medians of the samples, but for rates of a loaded server (parameter `rate`) and tails of times \
        (parameter `tail`), which are those of all windows together; the range is that of all samples.\n",
        results.plenum,
        machine.cpu_model,
        machine.cores,
        quantity(figure::number(machine.memory_bytes), "B"),
        machine.kernel,
        results.started,
        results.seed,
    );
    if let Some(build) = &results.build {
        let _ = writeln!(page, "The harness and its server: {build}.");
    }
    if let Some(suite) = &results.under_way {
        let what = "figures of cases that had come to their end; what it looks for at its own end was not looked for";
        let _ = write!(page, "\n**Suite `{suite}` was under way**: {what}.\n");
    }
    for failed in &results.failed {
        let _ = write!(page, "\n**Suite `{}` failed**, its figures are missing: {}\n", failed.suite, failed.error);
    }
    page
}

fn table(figures: &[&Figure]) -> String {
    let mut text = "| case | metric | value | range | samples |\n|---|---|---|---|---|\n".to_owned();
    let mut before = "";
    for figure in figures {
        let of = figure.system.as_ref().map_or_else(String::new, |system| format!(" ({system})"));
        let (min, max) = (quantity(figure.min, &figure.unit), quantity(figure.max, &figure.unit));
        let value = quantity(figure.value, &figure.unit);
        let (metric, count) = (&figure.metric, figure.samples.len());
        // A case is named once, and one sample has no range.
        let case = if figure.case == before { "" } else { &figure.case };
        let range = if count > 1 { format!("{min} to {max}") } else { String::new() };
        let _ = writeln!(text, "| {case} | `{metric}`{of} | **{value}** | {range} | {count} |");
        before = &figure.case;
    }
    text
}

/// What was the same for all cases, once; and what each case was measured with besides.
fn parameters(figures: &[&Figure]) -> String {
    let names = in_order(figures.iter().map(|figure| figure.case.as_str())).into_iter();
    let cases: Vec<(&str, Parameters)> = names.map(|case| (case, parameters_of(case, figures))).collect();
    let Some((_, first)) = cases.first() else { return String::new() };
    let mut same = first.clone();
    if cases.len() > 1 {
        same.retain(|name, value| cases.iter().all(|(_, parameters)| parameters.get(name) == Some(value)));
    } else {
        same.clear();
    }
    let mut text = String::new();
    let mut list = |head: &str, parameters: &Parameters| {
        if parameters.is_empty() {
            return;
        }
        let _ = write!(text, "\n### {head}\n\n| parameter | |\n|---|---|\n");
        for (name, value) in parameters {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let _ = writeln!(text, "| {name} | {value} |");
        }
    };
    list("All cases", &same);
    if cases.len() <= CASES_MAX {
        for (case, mut besides) in cases {
            besides.retain(|name, _| !same.contains_key(name));
            list(case, &besides);
        }
    }
    text
}

/// What a case was measured with, by all of its figures: some have parameters that the first lacks. What another figure has otherwise stands beside it,
/// with whose it is, or of which metric.
fn parameters_of(case: &str, figures: &[&Figure]) -> Parameters {
    let mut all = Parameters::new();
    for figure in figures.iter().filter(|figure| figure.case == case) {
        let whose = figure.system.as_ref().unwrap_or(&figure.metric);
        for (name, value) in &figure.parameters {
            let name = match all.get(name) {
                None => name.clone(),
                Some(first) if first == value => continue,
                Some(_) => format!("{name} ({whose})"),
            };
            all.entry(name).or_insert_with(|| value.clone());
        }
    }
    all
}

/// Each text once, where it first came.
pub(crate) fn in_order<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = BTreeSet::new();
    texts.filter(|text| seen.insert(*text)).collect()
}

/// Its case, and whose it is where it is not ours: a peer has the case that it stands beside.
fn label(figure: &Figure) -> String {
    let of = figure.system.as_ref().map_or_else(String::new, |system| format!(" ({system})"));
    format!("{}{of}", figure.case)
}

fn bar(figure: &Figure) -> Bar {
    Bar {
        label: label(figure),
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
        "s" if value == 0.0 => "0 s".to_owned(),
        "s" if value.abs() >= 2.0 * 86_400.0 => format!("{} days", three_digits(value / 86_400.0)),
        "s" if value.abs() >= 2.0 * 3600.0 => format!("{} h", three_digits(value / 3600.0)),
        "s" => scaled(&[(1.0, "s"), (1e-3, "ms"), (1e-6, "µs")]),
        "B" => scaled(&[(1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")]),
        "1/s" => scaled(&[(1e6, "M/s"), (1e3, "k/s"), (1.0, "/s")]),
        "1" if value.abs() >= 1e6 => format!("{} million", three_digits(value / 1e6)),
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
    use crate::figure::{Better, Case};

    #[test]
    fn what_a_suite_left_is_part_of_both_pages() {
        let folder = tempfile::tempdir().unwrap();
        let parameters =
            |seed: u64| Parameters::from([("seed".to_owned(), seed.into()), ("live".to_owned(), 7.into())]);
        let figure = |name: &str, seed: u64| {
            let case = Case { suite: "trace", case: name, parameters: parameters(seed) };
            case.figure("wait_seconds", "s", Better::Lower, vec![1.0, 2.0, 3.0]).unwrap()
        };
        let results = Results::of(vec![figure("policy=a", 1), figure("policy=b", 2)]);
        std::fs::write(folder.path().join("trace-used.svg"), "<svg>used</svg>").unwrap();
        std::fs::write(folder.path().join("trace-verdicts.md"), "Verdicts: **met**\n").unwrap();
        std::fs::write(folder.path().join("other-plot.svg"), "<svg>other</svg>").unwrap();
        write(&results, folder.path()).unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        let (markdown, html) = (read("report.md"), read("report.html"));
        assert!(markdown.contains("Verdicts: **met**") && markdown.contains("![used](trace-used.svg)"), "{markdown}");
        assert!(html.contains("<strong>met</strong>") && html.contains("<svg>used</svg>"), "{html}");
        assert!(html.contains("wait_seconds</title>") && !html.contains("<svg>other"), "{html}");
        // The same for all stands once, the rest with its case.
        assert_eq!((markdown.matches("| live | 7 |").count(), markdown.matches("| seed | 2 |").count()), (1, 1));
        // Made again, it is the same.
        write(&results, folder.path()).unwrap();
        assert_eq!(markdown, read("report.md"));
    }

    #[test]
    fn a_page_of_a_run_that_was_killed_says_which_suite_was_under_way() {
        let results = Results { stopped: true, under_way: Some("commit".into()), ..Results::of(Vec::new()) };
        let head = head(&results);
        assert!(head.contains("**Suite `commit` was under way**") && head.contains("stopped before its end"), "{head}");
    }

    #[test]
    fn samples_of_a_peer_are_told_from_ours() {
        let folder = tempfile::tempdir().unwrap();
        let case = Case { suite: "core", case: "machines=1", parameters: Parameters::new() };
        let figure = || case.figure("rate", "1/s", Better::Higher, vec![1.0, 2.0, 3.0]).unwrap();
        write(&Results::of(vec![figure(), figure().of("bare")]), folder.path()).unwrap();
        let svg = std::fs::read_to_string(folder.path().join("core-rate-samples.svg")).unwrap();
        assert!(svg.contains(">machines=1</text>") && svg.contains(">machines=1 (bare)</text>"), "{svg}");
    }

    #[test]
    fn a_figure_that_has_more_parameters_than_the_first_of_its_case_shows_them() {
        let folder = tempfile::tempdir().unwrap();
        let figure = |metric: &str, parameters: &[(&str, u64)]| {
            let parameters =
                parameters.iter().map(|(name, value)| ((*name).to_owned(), serde_json::Value::from(*value))).collect();
            let case = Case { suite: "commit", case: "claims=1", parameters };
            case.figure(metric, "1/s", Better::Higher, vec![1.0]).unwrap()
        };
        let first = figure("claims_per_second", &[("turns", 5), ("cores_of_server", 1)]);
        let peer = figure("claims_per_second", &[("turns", 5), ("cores_of_server", 0), ("bare", 9)]).of("bare");
        let ratio = figure("claims_ratio_to_bare", &[("turns", 4), ("bare", 9)]);
        write(&Results::of(vec![first, peer, ratio]), folder.path()).unwrap();
        let page = std::fs::read_to_string(folder.path().join("report.md")).unwrap();
        let rows: Vec<&str> = page.split("### claims=1\n").nth(1).unwrap().lines().skip(3).collect();
        let expected = [
            "| bare | 9 |",
            "| cores_of_server | 1 |",
            "| cores_of_server (bare) | 0 |",
            "| turns | 5 |",
            "| turns (claims_ratio_to_bare) | 4 |",
        ];
        assert_eq!(rows, expected);
    }

    #[test]
    fn quantities_read_like_what_people_write() {
        assert_eq!(quantity(2_345_678.0, "1/s"), "2.35 M/s");
        assert_eq!(quantity(0.000_123, "s"), "123 µs");
        assert_eq!(quantity(0.0, "s"), "0 s");
        assert_eq!(quantity(9000.0, "s"), "2.50 h");
        assert_eq!(quantity(864_000.0, "s"), "10.0 days");
        assert_eq!(quantity(1_795_182.0, "1"), "1.80 million");
        assert_eq!(quantity(48_000_000.0, "B"), "48.0 MB");
        assert_eq!(quantity(0.0042, "1"), "0.0042");
    }
}

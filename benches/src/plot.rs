//! Plots as SVG, drawn by hand. Colours work on light and dark pages.
//!
//! | module | what it draws |
//! |---|---|
//! | here | bars with their range, and the samples of a figure in their order |
//! | `chart` | lines with error bars over linear or logarithmic axes |
//! | `heat` | heat maps |
//! | `axis` | what they share: from values to places, and ticks |

mod axis;
mod chart;
mod heat;

use std::fmt::Write;

use axis::count;
pub(crate) use axis::{Axis, TimeUnit};
pub(crate) use chart::{Chart, Point, Series, over_time};
pub(crate) use heat::HeatMap;

const WIDTH: f64 = 720.0;
const COLOURS: [&str; 8] = ["#3b7dd8", "#d8743b", "#4a9d5b", "#9a5bb5", "#b59a3b", "#5bb0b5", "#d05a7d", "#7a8699"];
const INK: &str = "#888888";

/// One bar.
pub(crate) struct Bar {
    pub(crate) label: String,
    pub(crate) value: f64,
    /// The least and the greatest sample.
    pub(crate) range: (f64, f64),
    /// The value as people read it.
    pub(crate) text: String,
}

/// Bars from 0, one below the other, each with the range of its samples. Those of values below 0 go to the left.
pub(crate) fn bars(title: &str, bars: &[Bar]) -> String {
    const ROW: f64 = 34.0;
    const RIGHT: f64 = 110.0;
    let left = room_for_labels(bars.iter().map(|bar| bar.label.chars().count()).max().unwrap_or(0));
    let most = bars.iter().map(|bar| bar.range.1.max(bar.value)).fold(f64::MIN_POSITIVE, f64::max);
    let least = bars.iter().map(|bar| bar.range.0.min(bar.value)).fold(0.0, f64::min);
    let place = |value: f64| left + (WIDTH - left - RIGHT) * (value - least) / (most - least);
    let mut y = 40.0;
    let mut body = String::new();
    for bar in bars {
        let middle = y + ROW / 2.0;
        let _ = writeln!(body, "{}", label(left - 8.0, middle, "end", &bar.label));
        let (top, height) = (y + 6.0, ROW - 12.0);
        let (start, end) = (place(bar.value.min(0.0)), place(bar.value.max(0.0)));
        let width = end - start;
        let colour = COLOURS[0];
        let _ = writeln!(
            body,
            r#"<rect x="{start:.1}" y="{top:.1}" width="{width:.1}" height="{height:.1}" rx="2" fill="{colour}" fill-opacity="0.8"/>"#
        );
        let (from, to) = (place(bar.range.0), place(bar.range.1));
        let _ = writeln!(
            body,
            r#"<path d="M{from:.1} {middle:.1}H{to:.1}M{from:.1} {:.1}v8M{to:.1} {:.1}v8" stroke="{INK}" stroke-width="1.5" fill="none"/>"#,
            middle - 4.0,
            middle - 4.0
        );
        let _ = writeln!(body, "{}", label(to.max(end) + 8.0, middle, "start", &bar.text));
        y += ROW;
    }
    page(title, y + 10.0, &body)
}

/// What labels of so many characters take, of a page that is for bars in the first place.
fn room_for_labels(characters: usize) -> f64 {
    const CHARACTER: f64 = 7.2;
    (count(characters) * CHARACTER + 16.0).clamp(250.0, 440.0)
}

/// Samples in their order, one line for each case, from 0 up; or from the least of them, where that is below 0.
pub(crate) fn lines(title: &str, unit: &str, runs: &[(&str, &[f64])]) -> String {
    const TOP: f64 = 44.0;
    const BOTTOM: f64 = 244.0;
    const LEFT: f64 = 90.0;
    const RIGHT: f64 = 700.0;
    let most = runs.iter().flat_map(|(_, samples)| samples.iter()).fold(f64::MIN_POSITIVE, |most, one| most.max(*one));
    let least = runs.iter().flat_map(|(_, samples)| samples.iter()).fold(0.0, |least: f64, one| least.min(*one));
    let mut body = String::new();
    for part in [0.0, 0.5, 1.0] {
        let y = BOTTOM - (BOTTOM - TOP) * part;
        let value = least + (most - least) * part;
        let _ = writeln!(body, r#"<path d="M{LEFT} {y:.1}H{RIGHT}" stroke="{INK}" stroke-opacity="0.3"/>"#);
        let _ = writeln!(body, "{}", label(LEFT - 8.0, y, "end", &crate::report::quantity(value, unit)));
    }
    let mut y = BOTTOM + 22.0;
    for ((case, samples), colour) in runs.iter().zip(COLOURS.iter().cycle()) {
        let last = samples.len().saturating_sub(1).max(1);
        let mut path = String::new();
        for (number, sample) in samples.iter().enumerate() {
            let x = LEFT + (RIGHT - LEFT) * count(number) / count(last);
            let up = (BOTTOM - TOP) * (sample - least) / (most - least);
            let _ = write!(path, "{}{x:.1} {:.1}", if number == 0 { "M" } else { "L" }, BOTTOM - up);
        }
        let _ = writeln!(body, r#"<path d="{path}" stroke="{colour}" stroke-width="2" fill="none"/>"#);
        let _ = writeln!(body, r#"<path d="M{LEFT} {y:.1}h18" stroke="{colour}" stroke-width="3"/>"#);
        let _ = writeln!(body, "{}", label(LEFT + 26.0, y, "start", case));
        y += 20.0;
    }
    page(title, y, &body)
}

/// A picture that stands alone, or among others in a grid.
pub(crate) struct Panel {
    pub(crate) title: String,
    height: f64,
    body: String,
}

impl Panel {
    /// The picture alone.
    pub(crate) fn svg(&self) -> String {
        page(&self.title, self.height, &self.body)
    }
}

/// Pictures side by side, in so many columns, with what they share below them.
pub(crate) fn grid(title: &str, columns: usize, panels: &[Panel], shared: Option<&Panel>) -> String {
    const HEAD: f64 = 44.0;
    let columns = columns.clamp(1, panels.len().max(1));
    let whole = WIDTH * count(columns);
    let mut body = String::new();
    let mut y = HEAD;
    let place = |body: &mut String, panel: &Panel, x: f64, y: f64, width: f64| {
        let (height, title) = (panel.height, escape(&panel.title));
        let _ = writeln!(
            body,
            r#"<svg x="{x:.0}" y="{y:.0}" width="{width}" height="{height:.0}" viewBox="0 0 {width} {height:.0}"><text x="12" y="24" font-size="17" font-weight="bold">{title}</text>
{}</svg>"#,
            panel.body
        );
    };
    for row in panels.chunks(columns) {
        for (column, panel) in row.iter().enumerate() {
            place(&mut body, panel, WIDTH * count(column), y, WIDTH);
        }
        y += row.iter().map(|panel| panel.height).fold(0.0, f64::max) + 12.0;
    }
    if let Some(shared) = shared {
        place(&mut body, shared, (whole - WIDTH) / 2.0, y, WIDTH);
        y += shared.height;
    }
    let title = escape(title);
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {whole} {y:.0}" role="img" font-family="sans-serif" font-size="15" fill="{INK}">
<title>{title}</title>
<text x="12" y="28" font-size="21" font-weight="bold">{title}</text>
{body}</svg>
"#
    )
}

/// Charts side by side; where all have the same series, these are named once.
pub(crate) fn charts(title: &str, columns: usize, charts: &[Chart]) -> String {
    let names = |chart: &Chart| chart.series.iter().map(|series| series.name.clone()).collect::<Vec<_>>();
    let same = charts.windows(2).all(|pair| names(&pair[0]) == names(&pair[1]));
    let panels: Vec<Panel> = charts.iter().map(|chart| chart.panel(!same)).collect();
    let shared = charts.first().filter(|_| same).map(Chart::names);
    grid(title, columns, &panels, shared.as_ref())
}

/// Maps side by side.
pub(crate) fn maps(title: &str, columns: usize, maps: &[HeatMap]) -> String {
    let panels: Vec<Panel> = maps.iter().map(HeatMap::panel).collect();
    grid(title, columns, &panels, None)
}

fn label(x: f64, y: f64, anchor: &str, text: &str) -> String {
    let text = escape(text);
    format!(r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" dominant-baseline="middle">{text}</text>"#)
}

fn page(title: &str, height: f64, body: &str) -> String {
    let title = escape(title);
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0}" role="img" font-family="sans-serif" font-size="13" fill="{INK}">
<title>{title}</title>
<text x="12" y="22" font-size="15" font-weight="bold">{title}</text>
{body}</svg>
"#
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_fills_the_room_and_texts_are_escaped() {
        let bar = |value: f64| Bar { label: "a<b".into(), value, range: (value, value), text: format!("{value}") };
        let svg = bars("claims & more", &[bar(1.0), bar(2.0)]);
        assert!(svg.contains(r#"width="360.0""#) && svg.contains(r#"width="180.0""#), "{svg}");
        assert!(svg.contains("a&lt;b") && svg.contains("claims &amp; more") && !svg.contains("a<b"));
    }

    /// What a history costs is at times less than what the rates scatter by.
    #[test]
    fn values_below_zero_are_within_the_page() {
        let bar = |value: f64| Bar { label: "a".into(), value, range: (value, value), text: format!("{value}") };
        let svg = bars("history_cost_ratio", &[bar(-1.0), bar(3.0)]);
        // 360 for four: 0 lies at 90, from where one goes to the left and the other to the right.
        assert!(svg.contains(r#"<rect x="250.0" y="46.0" width="90.0""#), "{svg}");
        assert!(svg.contains(r#"<rect x="340.0" y="80.0" width="270.0""#), "{svg}");
        let svg = lines("history_cost_ratio", "1", &[("one", &[-1.0, 0.0, 1.0])]);
        assert!(svg.contains(r#"d="M90.0 244.0L395.0 144.0L700.0 44.0""#), "{svg}");
    }

    #[test]
    fn long_labels_have_room_beside_the_bars() {
        let label = "machines=100000 allocations=1000000 tail_mib=256".to_owned();
        let svg = bars("recovery_seconds", &[Bar { label, value: 1.0, range: (1.0, 1.0), text: "1 s".into() }]);
        // 48 characters, and the bar has the rest of the page.
        assert!(svg.contains(r#"x="361.6""#) && svg.contains(r#"width="248.4""#), "{svg}");
    }

    #[test]
    fn charts_that_stand_together_name_their_series_once_where_these_are_the_same() {
        let chart = |name: &str| Chart {
            title: format!("of {name}"),
            x: Axis::linear("x"),
            y: Axis::linear("y"),
            series: vec![Series::new("the series", vec![Point::at(0.0, 1.0), Point::at(1.0, 2.0)])],
        };
        let named = |svg: &str| svg.matches(">the series</text>").count();
        let same = charts("both", 2, &[chart("one"), chart("two"), chart("three")]);
        assert_eq!((named(&same), same.matches("<svg ").count()), (1, 5), "{same}");
        // The second column begins where the first ends, and the second row below both.
        assert!(same.contains(r#"x="720" y="44""#) && same.contains(r#"x="0" y="456""#), "{same}");
        let mut other = chart("two");
        other.series.push(Series::new("another", vec![]));
        assert_eq!(named(&charts("both", 2, &[chart("one"), other])), 2);
    }

    #[test]
    fn a_line_begins_at_its_first_sample() {
        let svg = lines("samples", "s", &[("one", &[1.0, 0.0, 0.5])]);
        assert!(svg.contains(r#"d="M90.0 44.0L395.0 244.0L700.0 144.0""#), "{svg}");
    }
}

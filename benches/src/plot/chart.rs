//! Line charts: several series over one axis, with error bars, linear or logarithmic.

use std::fmt::Write;

use super::axis::{Axis, Placed, TimeUnit, count};
use super::{COLOURS, INK, Panel, WIDTH, escape, label};
use crate::report::three_digits;

const LEFT: f64 = 78.0;
const RIGHT: f64 = 700.0;
const TOP: f64 = 42.0;
const BOTTOM: f64 = 342.0;

/// A measured value, with how far it may lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    pub(crate) x: f64,
    pub(crate) y: f64,
    /// The ends of the error bar: both are `y` where there is none.
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Point {
    /// A value without an error bar.
    pub(crate) fn at(x: f64, y: f64) -> Self {
        Self { x, y, low: y, high: y }
    }

    /// The same with an error bar from `low` to `high`.
    pub(crate) fn between(self, low: f64, high: f64) -> Self {
        Self { low, high, ..self }
    }
}

/// Points of one kind, joined in their order.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) points: Vec<Point>,
    /// For what we compare with: references, bounds, peers.
    pub(crate) dashed: bool,
    /// Which colour, so that a reference has that of what it belongs to; the number in the chart where nothing is said.
    pub(crate) colour: Option<usize>,
    /// A step stays at its value until the next point, as a count over time does; otherwise points are joined by straight lines.
    pub(crate) steps: bool,
}

impl Series {
    /// A solid line.
    pub(crate) fn new(name: &str, points: Vec<Point>) -> Self {
        Self { name: name.to_owned(), points, dashed: false, colour: None, steps: false }
    }

    /// The same as a dashed line without marks, in the colour of series `of`.
    pub(crate) fn reference_of(self, of: usize) -> Self {
        Self { dashed: true, colour: Some(of), ..self }
    }

    /// The same as steps without marks.
    pub(crate) fn in_steps(self) -> Self {
        Self { steps: true, ..self }
    }
}

/// Series over time, whose points have seconds: in what the longest of them is told in, and the axis of that.
pub(crate) fn over_time(mut series: Vec<Series>) -> (Axis, Vec<Series>) {
    let ends = series.iter().flat_map(|series| &series.points).map(|point| point.x);
    let unit = TimeUnit::of(ends.fold(0.0, f64::max));
    for point in series.iter_mut().flat_map(|series| &mut series.points) {
        point.x /= unit.seconds;
    }
    (Axis::linear(unit.name), series)
}

/// A chart of lines.
#[derive(Clone, Debug)]
pub(crate) struct Chart {
    pub(crate) title: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) series: Vec<Series>,
}

impl Chart {
    /// The chart as SVG.
    pub(crate) fn svg(&self) -> String {
        self.panel(true).svg()
    }

    /// The chart to stand among others, with the names of its series or without.
    pub(super) fn panel(&self, named: bool) -> Panel {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let x = Placed::new(&self.x, points().map(|point| point.x), (LEFT, RIGHT));
        let y = Placed::new(&self.y, points().flat_map(|point| [point.y, point.low, point.high]), (BOTTOM, TOP));
        let mut body = axes(&x, &y, &self.x.label, &self.y.label);
        for (number, series) in self.series.iter().enumerate() {
            draw(&mut body, series, number, &x, &y);
        }
        let height = if named { legend(&mut body, &self.series, BOTTOM + 58.0) } else { BOTTOM + 58.0 };
        Panel { title: self.title.clone(), height, body }
    }

    /// The names of the series, for charts that share them.
    pub(super) fn names(&self) -> Panel {
        let mut body = String::new();
        let height = legend(&mut body, &self.series, 12.0);
        Panel { title: String::new(), height, body }
    }
}

fn axes(x: &Placed, y: &Placed, x_label: &str, y_label: &str) -> String {
    let mut body = String::new();
    for (value, text) in y.ticks() {
        let Some(at) = y.place(value) else { continue };
        let _ = writeln!(body, r#"<path d="M{LEFT} {at:.1}H{RIGHT}" stroke="{INK}" stroke-opacity="0.25"/>"#);
        let _ = writeln!(body, "{}", label(LEFT - 8.0, at, "end", &text));
    }
    for (value, text) in x.ticks() {
        let Some(at) = x.place(value) else { continue };
        let _ = writeln!(body, r#"<path d="M{at:.1} {TOP}V{BOTTOM}" stroke="{INK}" stroke-opacity="0.12"/>"#);
        let _ = writeln!(body, "{}", label(at, BOTTOM + 14.0, "middle", &text));
    }
    let _ = writeln!(body, r#"<path d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}" stroke="{INK}" fill="none"/>"#);
    let _ = writeln!(body, "{}", label(f64::midpoint(LEFT, RIGHT), BOTTOM + 34.0, "middle", x_label));
    let middle = f64::midpoint(TOP, BOTTOM);
    let _ = writeln!(
        body,
        r#"<text transform="translate(16 {middle:.1}) rotate(-90)" text-anchor="middle" dominant-baseline="middle">{}</text>"#,
        escape(y_label)
    );
    body
}

fn draw(body: &mut String, series: &Series, number: usize, x: &Placed, y: &Placed) {
    let colour = COLOURS[series.colour.unwrap_or(number) % COLOURS.len()];
    let mut path = String::new();
    let mut bars = String::new();
    let mut marks = String::new();
    let mut drawn = false;
    for point in &series.points {
        // A point that has no place leaves a gap: a line across it would claim values that nobody measured.
        let (Some(right), Some(down)) = (x.place(point.x), y.place(point.y)) else {
            drawn = false;
            continue;
        };
        let _ = match (drawn, series.steps) {
            (false, _) => write!(path, "M{right:.1} {down:.1}"),
            (true, true) => write!(path, "H{right:.1}V{down:.1}"),
            (true, false) => write!(path, "L{right:.1} {down:.1}"),
        };
        drawn = true;
        if point.low < point.high {
            // A bar whose lower end has no place on a logarithmic axis goes down to its bottom.
            let (low, high) = (y.place(point.low).unwrap_or(BOTTOM), y.place(point.high).unwrap_or(down));
            let left = right - 3.0;
            let _ = write!(bars, "M{right:.1} {low:.1}V{high:.1}M{left:.1} {low:.1}h6M{left:.1} {high:.1}h6");
        }
        if !series.dashed && !series.steps {
            let text = format!("{}: {} at {}", series.name, three_digits(point.y), three_digits(point.x));
            mark(&mut marks, number, right, down, &text);
        }
    }
    let dashes = dashes(series, number);
    let _ = writeln!(
        body,
        r#"<g stroke="{colour}" fill="{colour}"><path d="{path}" stroke-width="2" fill="none"{dashes}/><path d="{bars}" fill="none"/>{marks}</g>"#
    );
}

/// How a line is broken: one that is no reference only where all colours are there already, so that no two lines look alike.
fn dashes(series: &Series, number: usize) -> &'static str {
    if series.dashed {
        return r#" stroke-dasharray="6 4""#;
    }
    match series.colour.unwrap_or(number) / COLOURS.len() {
        0 => "",
        1 => r#" stroke-dasharray="2 3""#,
        _ => r#" stroke-dasharray="9 3 2 3""#,
    }
}

/// A mark whose shape tells series apart where colours don't, with a text that browsers show.
fn mark(marks: &mut String, number: usize, x: f64, y: f64, text: &str) {
    let text = escape(text);
    let _ = match number % 4 {
        0 => write!(marks, r#"<circle cx="{x:.1}" cy="{y:.1}" r="3.2"><title>{text}</title></circle>"#),
        1 => write!(
            marks,
            r#"<rect x="{:.1}" y="{:.1}" width="6" height="6"><title>{text}</title></rect>"#,
            x - 3.0,
            y - 3.0
        ),
        2 => write!(marks, r#"<path d="M{x:.1} {:.1}l4 7h-8z"><title>{text}</title></path>"#, y - 4.0),
        _ => write!(marks, r#"<path d="M{x:.1} {:.1}l4 4l-4 4l-4-4z"><title>{text}</title></path>"#, y - 4.0),
    };
}

/// The names of series, in two columns where they are short; gives where the page ends.
fn legend(body: &mut String, series: &[Series], top: f64) -> f64 {
    let longest = series.iter().map(|series| series.name.chars().count()).max().unwrap_or(0);
    let columns = if longest <= 24 {
        3
    } else if longest <= 38 {
        2
    } else {
        1
    };
    let width = (WIDTH - 24.0) / count(columns);
    for (number, series) in series.iter().enumerate() {
        let x = 16.0 + width * count(number % columns);
        let y = top + 20.0 * count(number / columns);
        let colour = COLOURS[series.colour.unwrap_or(number) % COLOURS.len()];
        let dashes = dashes(series, number);
        let _ = writeln!(body, r#"<path d="M{x:.1} {y:.1}h22" stroke="{colour}" stroke-width="3"{dashes}/>"#);
        let _ = writeln!(body, "{}", label(x + 30.0, y, "start", &series.name));
    }
    top + 20.0 * count(series.len().div_ceil(columns))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<Point>) -> String {
        let series = vec![Series::new("a<b", points)];
        Chart { title: "t".into(), x: Axis::log("x"), y: Axis::linear("y").over(0.0, 1.0), series }.svg()
    }

    #[test]
    fn a_line_that_has_the_colour_of_another_is_broken_in_its_own_way() {
        let lines = (0..20).map(|number| Series::new(&number.to_string(), vec![Point::at(1.0, f64::from(number))]));
        let series: Vec<_> = lines.collect();
        let mut body = String::new();
        legend(&mut body, &series, 0.0);
        let looks = body.lines().filter(|line| line.starts_with("<path"));
        let looks: std::collections::BTreeSet<_> = looks.map(|line| line.split_once("h22").unwrap().1).collect();
        assert_eq!(looks.len(), 20, "{body}");
    }

    #[test]
    fn points_lie_where_the_axes_say_and_texts_are_escaped() {
        let svg = chart(vec![Point::at(1.0, 0.0), Point::at(10.0, 0.5), Point::at(100.0, 1.0)]);
        assert!(svg.contains(r#"d="M78.0 342.0L389.0 192.0L700.0 42.0""#), "{svg}");
        assert!(svg.contains("a&lt;b") && !svg.contains("a<b"));
    }

    #[test]
    fn a_value_without_a_place_leaves_a_gap_instead_of_a_line() {
        let svg = chart(vec![Point::at(1.0, 0.0), Point::at(10.0, f64::NAN), Point::at(100.0, 1.0)]);
        assert!(svg.contains(r#"d="M78.0 342.0M700.0 42.0""#), "{svg}");
    }

    #[test]
    fn error_bars_reach_from_end_to_end() {
        let svg = chart(vec![Point::at(1.0, 0.5).between(0.25, 1.0), Point::at(100.0, 0.5)]);
        assert!(svg.contains("M78.0 267.0V42.0"), "{svg}");
    }

    // It was in days: the last tick of a trace of ten minutes was 0.007.
    #[test]
    fn times_are_in_what_the_longest_series_is_told_in() {
        let until = |seconds: f64| Series::new("used", vec![Point::at(0.0, 0.0), Point::at(seconds, 1.0)]);
        for (seconds, name) in [(10.0, "seconds"), (600.0, "minutes"), (36_000.0, "hours"), (864_000.0, "days")] {
            let (axis, series) = over_time(vec![until(seconds / 10.0), until(seconds)]);
            let ends = [0, 1].map(|number: usize| series[number].points[1].x);
            assert_eq!((&*axis.label, ends), (name, [1.0, 10.0]));
        }
    }

    #[test]
    fn steps_stay_until_the_next_point() {
        let series = vec![Series::new("machines", vec![Point::at(0.0, 0.0), Point::at(1.0, 1.0)]).in_steps()];
        let svg = Chart { title: "t".into(), x: Axis::linear("x"), y: Axis::linear("y"), series }.svg();
        assert!(svg.contains(r#"d="M78.0 342.0H700.0V42.0""#), "{svg}");
    }
}

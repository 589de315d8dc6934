//! Heat maps: a value for each pair of a column and a row, as colour.

use std::fmt::Write;

use super::axis::{Axis, Placed, Scale, count, tick_text};
use super::{INK, Panel, escape, label};
use crate::report::three_digits;

const LEFT: f64 = 110.0;
const RIGHT: f64 = 620.0;
const TOP: f64 = 42.0;
/// Beside the map: which colour is which value.
const BAR_LEFT: f64 = 640.0;
const BAR_WIDTH: f64 = 14.0;
/// So many columns and rows have room for a label each; of more, only some have one.
const LABELS: usize = 16;

/// Dark blue over green to yellow: lightness rises evenly, so that it can be read without colour, and every step is seen on white and on
/// black. Stops of viridis (Smith and van der Walt, 2015), without its darkest part.
const STOPS: [[f64; 3]; 6] = [
    [70.0, 50.0, 127.0],
    [54.0, 92.0, 141.0],
    [39.0, 127.0, 142.0],
    [31.0, 161.0, 135.0],
    [99.0, 203.0, 95.0],
    [244.0, 228.0, 62.0],
];

/// A map of values.
#[derive(Clone, Debug)]
pub(crate) struct HeatMap {
    pub(crate) title: String,
    /// What columns and rows are: `t_job (s)`.
    pub(crate) x_label: String,
    pub(crate) y_label: String,
    pub(crate) columns: Vec<String>,
    /// From the top down.
    pub(crate) rows: Vec<String>,
    /// One list for each row, as long as there are columns. Nothing is drawn where there is no value.
    pub(crate) values: Vec<Vec<Option<f64>>>,
    /// What the values are, and how they become colours; with a range, all maps of a page can have the same colours.
    pub(crate) colour: Axis,
}

impl HeatMap {
    /// The map as SVG.
    pub(crate) fn svg(&self) -> String {
        self.panel().svg()
    }

    /// The map to stand among others.
    pub(super) fn panel(&self) -> Panel {
        let (columns, rows) = (count(self.columns.len().max(1)), count(self.rows.len().max(1)));
        let width = (RIGHT - LEFT) / columns;
        let height = (400.0 / rows).clamp(2.0, 34.0);
        let bottom = TOP + height * rows;
        let values = self.values.iter().flatten().flatten().copied();
        let colour = Placed::new(&self.colour, values, (0.0, 1.0));
        let written = width >= 34.0 && height >= 16.0;
        let mut body = String::new();
        for (row, values) in self.values.iter().enumerate() {
            for (column, value) in values.iter().enumerate() {
                let Some((value, part)) = value.and_then(|value| Some((value, self.part(&colour, value)?))) else {
                    continue;
                };
                let (x, y) = (LEFT + width * count(column), TOP + height * count(row));
                let name =
                    |names: &[String], number: usize| names.get(number).map(|name| escape(name)).unwrap_or_default();
                let text = three_digits(value);
                let _ = writeln!(
                    body,
                    r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" fill="{}"><title>{}, {}: {text}</title></rect>"#,
                    shade(part),
                    name(&self.columns, column),
                    name(&self.rows, row),
                );
                if written {
                    let ink = if part > 0.6 { "#111111" } else { "#ffffff" };
                    let (x, y) = (x + width / 2.0, y + height / 2.0);
                    let _ = writeln!(
                        body,
                        r#"<text x="{x:.1}" y="{y:.1}" text-anchor="middle" dominant-baseline="central" font-size="11" style="fill:{ink}">{text}</text>"#
                    );
                }
            }
        }
        self.names(&mut body, width, height, bottom);
        self.colour_bar(&mut body, &colour, bottom.max(TOP + 120.0));
        Panel { title: self.title.clone(), height: bottom.max(TOP + 120.0) + 52.0, body }
    }

    /// Where a value lies between the least and the greatest. On a logarithmic scale 0 is the least.
    fn part(&self, colour: &Placed, value: f64) -> Option<f64> {
        colour.place(value).or_else(|| (self.colour.scale == Scale::Log && value == 0.0).then_some(0.0))
    }

    fn names(&self, body: &mut String, width: f64, height: f64, bottom: f64) {
        for (number, name) in self.columns.iter().enumerate().step_by(self.columns.len().div_ceil(LABELS).max(1)) {
            let x = LEFT + width * (count(number) + 0.5);
            let _ = writeln!(body, "{}", label(x, bottom + 14.0, "middle", name));
        }
        for (number, name) in self.rows.iter().enumerate().step_by(self.rows.len().div_ceil(LABELS).max(1)) {
            let y = TOP + height * (count(number) + 0.5);
            let _ = writeln!(body, "{}", label(LEFT - 8.0, y, "end", name));
        }
        let _ = writeln!(body, "{}", label(f64::midpoint(LEFT, RIGHT), bottom + 34.0, "middle", &self.x_label));
        let middle = f64::midpoint(TOP, bottom);
        let _ = writeln!(
            body,
            r#"<text transform="translate(14 {middle:.1}) rotate(-90)" text-anchor="middle" dominant-baseline="middle">{}</text>"#,
            escape(&self.y_label)
        );
    }

    fn colour_bar(&self, body: &mut String, colour: &Placed, bottom: f64) {
        const STRIPES: u32 = 40;
        let height = (bottom - TOP) / f64::from(STRIPES);
        for stripe in 0..STRIPES {
            let y = bottom - height * f64::from(stripe + 1);
            let fill = shade((f64::from(stripe) + 0.5) / f64::from(STRIPES));
            // A little higher than its step, so that no gap shows between two.
            let _ = writeln!(
                body,
                r#"<rect x="{BAR_LEFT}" y="{y:.1}" width="{BAR_WIDTH}" height="{:.1}" fill="{fill}"/>"#,
                height + 0.3
            );
        }
        for (value, _) in colour.ticks() {
            let Some(part) = colour.place(value) else { continue };
            let y = bottom - (bottom - TOP) * part;
            let x = BAR_LEFT + BAR_WIDTH;
            let _ = writeln!(body, r#"<path d="M{x} {y:.1}h4" stroke="{INK}"/>"#);
            let _ = writeln!(body, "{}", label(x + 8.0, y, "start", &tick_text(value)));
        }
        let _ = writeln!(body, "{}", label(BAR_LEFT + BAR_WIDTH + 60.0, bottom + 34.0, "end", &self.colour.label));
    }
}

/// The colour of a part from 0 to 1.
fn shade(part: f64) -> String {
    let last = count(STOPS.len() - 1);
    let at = part.clamp(0.0, 1.0) * last;
    let lower = STOPS.iter().enumerate().rev().find(|(number, _)| count(*number) <= at).map_or(0, |(number, _)| number);
    let upper = (lower + 1).min(STOPS.len() - 1);
    let between = at - count(lower);
    let mix = |channel: usize| STOPS[lower][channel] + (STOPS[upper][channel] - STOPS[lower][channel]) * between;
    format!("rgb({:.0},{:.0},{:.0})", mix(0), mix(1), mix(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(values: Vec<Vec<Option<f64>>>, colour: Axis) -> String {
        let names = |number: usize, of: &str| (0..number).map(|one| format!("{of}{one}")).collect::<Vec<_>>();
        let (columns, rows) = (names(values[0].len(), "c"), names(values.len(), "r"));
        let (title, x_label, y_label) = ("t".to_owned(), "x".to_owned(), "y".to_owned());
        HeatMap { title, x_label, y_label, columns, rows, values, colour }.svg()
    }

    #[test]
    fn the_ends_of_the_range_have_the_ends_of_the_colours() {
        let svg = map(vec![vec![Some(0.0), Some(1.0)]], Axis::linear("v").over(0.0, 1.0));
        assert!(svg.contains(r#"fill="rgb(70,50,127)"><title>c0, r0: 0"#), "{svg}");
        assert!(svg.contains(r#"fill="rgb(244,228,62)"><title>c1, r0: 1"#), "{svg}");
    }

    #[test]
    fn a_place_without_a_value_stays_empty() {
        let svg = map(vec![vec![Some(1.0), None], vec![None, Some(2.0)]], Axis::linear("v"));
        assert_eq!(svg.matches("<title>c").count(), 2, "{svg}");
    }

    #[test]
    fn nothing_is_the_least_of_a_logarithmic_scale() {
        let svg = map(vec![vec![Some(0.0), Some(10.0), Some(1000.0)]], Axis::log("v"));
        assert_eq!(svg.matches("rgb(70,50,127)\"><title>c0").count(), 1, "{svg}");
        assert_eq!(svg.matches("<title>c").count(), 3);
    }
}

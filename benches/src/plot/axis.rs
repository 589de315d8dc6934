//! Axes: from values to places on a page, and the ticks that people read.

use crate::figure::number;

/// How values become lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    Linear,
    /// Powers of ten at equal distances. Values that are not above 0 have no place, and are left out.
    Log,
}

/// One axis of a chart.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    /// What it shows, with its unit: `decision time (s)`.
    pub(crate) label: String,
    pub(crate) scale: Scale,
    /// From where to where; `None` leaves it to the values, and begins at 0 where they are linear and none is below it.
    pub(crate) range: Option<(f64, f64)>,
}

impl Axis {
    /// A linear axis whose range comes from the values.
    pub(crate) fn linear(label: &str) -> Self {
        Self { label: label.to_owned(), scale: Scale::Linear, range: None }
    }

    /// A logarithmic one.
    pub(crate) fn log(label: &str) -> Self {
        Self { label: label.to_owned(), scale: Scale::Log, range: None }
    }

    /// The same, over a given range.
    pub(crate) fn over(self, from: f64, to: f64) -> Self {
        Self { range: Some((from, to)), ..self }
    }
}

/// What times are told in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct TimeUnit {
    pub(crate) name: &'static str,
    pub(crate) seconds: f64,
}

impl TimeUnit {
    /// The largest that so long a span has two of; seconds, where it has not even two minutes. In a larger one ticks would be small parts of it, which nobody reads.
    pub(crate) fn of(span_seconds: f64) -> Self {
        const ALL: [TimeUnit; 3] = [
            TimeUnit { name: "days", seconds: 86_400.0 },
            TimeUnit { name: "hours", seconds: 3600.0 },
            TimeUnit { name: "minutes", seconds: 60.0 },
        ];
        let larger = ALL.into_iter().find(|unit| span_seconds >= 2.0 * unit.seconds);
        larger.unwrap_or(Self { name: "seconds", seconds: 1.0 })
    }
}

/// An axis laid on a page.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    scale: Scale,
    values: (f64, f64),
    page: (f64, f64),
}

impl Placed {
    /// Lays an axis over `page` so that all values that have a place on it are inside.
    pub(super) fn new(axis: &Axis, values: impl Iterator<Item = f64>, page: (f64, f64)) -> Self {
        let scale = axis.scale;
        let has_place = |value: &f64| value.is_finite() && (scale == Scale::Linear || *value > 0.0);
        let (mut least, mut most) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(has_place) {
            (least, most) = (least.min(value), most.max(value));
        }
        let (mut from, mut to) = match (axis.range, scale) {
            (Some((from, to)), _) => (from, to),
            (None, _) if least > most => (if scale == Scale::Log { 0.1 } else { 0.0 }, 1.0),
            (None, Scale::Linear) => (least.min(0.0), most.max(0.0)),
            (None, Scale::Log) => (least, most),
        };
        if scale == Scale::Log {
            from = from.max(f64::MIN_POSITIVE);
            // Whole powers of ten only where there are some: a range within one decade stays as it is.
            if axis.range.is_none() && to / from > 30.0 {
                (from, to) = (10_f64.powf(from.log10().floor()), 10_f64.powf(to.log10().ceil()));
            } else if axis.range.is_none() {
                (from, to) = (from / 1.1, to * 1.1);
            }
        } else if axis.range.is_none() && to > from {
            let step = step(to - from);
            (from, to) = ((from / step).floor() * step, (to / step).ceil() * step);
        }
        if to <= from {
            to = if scale == Scale::Log { from * 10.0 } else { from + 1.0 };
        }
        Self { scale, values: (from, to), page }
    }

    /// Where a value lies on the page; none where the axis has no place for it. Values beyond a given range lie on its end.
    pub(super) fn place(&self, value: f64) -> Option<f64> {
        if !value.is_finite() || (self.scale == Scale::Log && value <= 0.0) {
            return None;
        }
        let (from, to) = self.values;
        let part = match self.scale {
            Scale::Linear => (value - from) / (to - from),
            Scale::Log => (value / from).ln() / (to / from).ln(),
        };
        Some(self.page.0 + (self.page.1 - self.page.0) * part.clamp(0.0, 1.0))
    }

    /// Values to write beside the axis, with their text.
    pub(super) fn ticks(&self) -> Vec<(f64, String)> {
        let (from, to) = self.values;
        match self.scale {
            Scale::Linear => {
                let step = step(to - from);
                let first = (from / step).ceil();
                let ticks = (0..20_u32).map(|tick| (first + f64::from(tick)) * step);
                // Half a thousandth of a step: sums of tenths miss the end by a few bits.
                ticks.take_while(|value| *value <= to + step * 0.0005).map(|value| (value, tick_text(value))).collect()
            }
            Scale::Log => log_ticks(from, to),
        }
    }
}

/// Powers of ten, thinned where they are many, with 2 and 5 between them where they are few.
fn log_ticks(from: f64, to: f64) -> Vec<(f64, String)> {
    let decades = (to / from).log10();
    let every = (decades / 9.0).ceil().max(1.0);
    let between: &[f64] = if decades <= 2.5 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let mut ticks = Vec::new();
    let mut power = from.log10().floor();
    while power <= to.log10() + 1e-9 {
        for factor in between {
            let value = factor * 10_f64.powf(power);
            if value >= from * (1.0 - 1e-9) && value <= to * (1.0 + 1e-9) {
                ticks.push((value, tick_text(value)));
            }
        }
        power += every;
    }
    ticks
}

/// 1, 2 or 5 times a power of ten, so that a span has four to ten of them.
fn step(span: f64) -> f64 {
    let rough = span / 5.0;
    let power = 10_f64.powf(rough.log10().floor());
    let factor = rough / power;
    power
        * if factor < 1.5 {
            1.0
        } else if factor < 3.5 {
            2.0
        } else if factor < 7.5 {
            5.0
        } else {
            10.0
        }
}

/// A round number, short: 20000 is `20k`, 0.001 is `0.001`, 1e-7 is `1e-7`.
pub(super) fn tick_text(value: f64) -> String {
    let size = value.abs();
    let plain = |value: f64| {
        let text = format!("{value:.6}");
        let text = text.trim_end_matches('0').trim_end_matches('.');
        if text == "-0" { "0".to_owned() } else { text.to_owned() }
    };
    if size == 0.0 {
        "0".to_owned()
    } else if !(1e-4..1e13).contains(&size) {
        format!("{value:e}")
    } else if size >= 1e9 {
        format!("{}G", plain(value / 1e9))
    } else if size >= 1e6 {
        format!("{}M", plain(value / 1e6))
    } else if size >= 1e4 {
        format!("{}k", plain(value / 1e3))
    } else {
        plain(value)
    }
}

/// The same for a count.
pub(super) fn count(value: usize) -> f64 {
    number(value as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(axis: &Axis, values: &[f64]) -> String {
        let placed = Placed::new(axis, values.iter().copied(), (0.0, 100.0));
        placed.ticks().into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn ticks_are_round_and_reach_the_end() {
        assert_eq!(texts(&Axis::linear("x"), &[0.13, 0.97]), "0 0.2 0.4 0.6 0.8 1");
        assert_eq!(texts(&Axis::linear("x"), &[31_000.0]), "0 5000 10k 15k 20k 25k 30k 35k");
        assert_eq!(texts(&Axis::log("x"), &[0.01, 100.0]), "0.01 0.1 1 10 100");
        assert_eq!(texts(&Axis::log("x"), &[1.0, 32.0]), "1 2 5 10 20 50 100");
        assert_eq!(texts(&Axis::linear("x").over(0.0, 130.0), &[]), "0 20 40 60 80 100 120");
    }

    #[test]
    fn a_span_is_told_in_what_it_has_two_of() {
        let names = [0.0, 90.0, 120.0, 7000.0, 7200.0, 86_400.0, 172_800.0, 3e7].map(|span| TimeUnit::of(span).name);
        assert_eq!(names, ["seconds", "seconds", "minutes", "minutes", "hours", "hours", "days", "days"]);
    }

    #[test]
    fn equal_ratios_are_equal_distances_on_a_logarithmic_axis() {
        let placed = Placed::new(&Axis::log("x"), [0.01, 100.0].into_iter(), (0.0, 100.0));
        let places = [0.01, 0.1, 1.0, 10.0].map(|value| placed.place(value).unwrap().round());
        assert_eq!(places, [0.0, 25.0, 50.0, 75.0]);
        assert_eq!(placed.place(0.0), None);
    }

    #[test]
    fn an_axis_without_values_can_still_be_drawn() {
        for axis in [Axis::linear("x"), Axis::log("x")] {
            let placed = Placed::new(&axis, [f64::NAN].into_iter(), (0.0, 100.0));
            assert!(!placed.ticks().is_empty());
        }
        assert_eq!(texts(&Axis::linear("x"), &[0.0, 0.0]), "0 0.2 0.4 0.6 0.8 1");
    }
}

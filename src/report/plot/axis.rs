//! Parts of axes that plotters does not provide: ranges it can divide, logarithmic axes with a
//! place for 0, the labels of ticks, and labels that keep out of each other's way.

use std::ops::Range;

use plotters::coord::ranged1d::{BoldPoints, DefaultFormatting, KeyPointHint, Ranged};
use plotters::coord::types::RangedCoordf64;
use serde::{Deserialize, Serialize};

/// How numbers are placed along an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// In proportion.
    #[default]
    Linear,
    /// By their logarithm. Along x, counts from 0 on keep their zero: from 0 to the first of them
    /// the axis is linear and as long as a decade (matplotlib's `symlog`). Any other number that is
    /// not positive is left out.
    Log,
}

/// Least relative width of an axis; what differs by less is drawn as equal, so that tick labels
/// stay short.
const MIN_SPAN: f64 = 1e-6;
/// Least absolute width: below it powers of ten are not normal numbers.
const TINY: f64 = 1e-290;

/// Ratio of its ends below which a logarithmic axis would look linear, and is.
const LOG_RATIO: f64 = 2.0;

/// An axis in units that plotters can divide: of a power of ten, since its ticks are looked for
/// with absolute tolerances, or of decades.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    /// From, to, in units.
    pub(super) range: (f64, f64),
    kind: Kind,
    /// Tick positions, in units.
    pub(super) ticks: Vec<f64>,
    /// Shorter ticks without a label, in units.
    pub(super) minor: Vec<f64>,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Linear {
        exponent: i32,
        decimals: usize,
    },
    /// Linear from 0 to `first`, where there is one.
    Log {
        first: Option<f64>,
    },
}

impl Axis {
    /// A linear axis over at least `[lo, hi]` with at most `count` ticks.
    pub(super) fn new(lo: f64, hi: f64, count: usize) -> Self {
        let size = lo.abs().max(hi.abs());
        let short = (size * MIN_SPAN).max(TINY) - (hi - lo);
        let (lo, hi) = if short > 0.0 { (lo - short / 2.0, hi + short / 2.0) } else { (lo, hi) };
        let size = lo.abs().max(hi.abs());
        let exponent = if (1e-3..1e7).contains(&size) { 0 } else { size.log10().floor() as i32 };
        let range = (lo / power(exponent), hi / power(exponent));
        let ticks = RangedCoordf64::from(range.0..range.1).key_points(BoldPoints(count.max(2)));
        let exact = |d: &i32| ticks.iter().all(|t| (t * power(*d) - (t * power(*d)).round()).abs() < 1e-3);
        let decimals = (0..9).find(exact).unwrap_or(9) as usize;
        Self { range, kind: Kind::Linear { exponent, decimals }, ticks, minor: Vec::new() }
    }

    /// A logarithmic axis over at least `[lo, hi]`, both positive, with at most `count` ticks, and
    /// from 0 on if `zero`; a linear one where the difference could not be seen.
    pub(super) fn log(lo: f64, hi: f64, zero: bool, count: usize) -> Self {
        if hi.is_nan() || hi < lo * LOG_RATIO {
            return Self::new(if zero { 0.0 } else { lo }, hi, count);
        }
        let first = zero.then_some(lo);
        let kind = Kind::Log { first };
        let range = (place(if zero { 0.0 } else { lo }, first), place(hi, first));
        let inside = |u: &f64| (range.0 - 1e-9..=range.1 + 1e-9).contains(u);
        let decades: Vec<i32> = (lo.log10().floor() as i32..=hi.log10().floor() as i32).collect();
        let at = |parts: &[u32], decades: &[i32]| -> Vec<f64> {
            let all = decades.iter().flat_map(|e| parts.iter().map(|m| f64::from(*m) * power(*e)));
            all.filter(|v| *v >= lo * (1.0 - 1e-9)).map(|v| place(v, first)).filter(inside).collect()
        };
        let between = [2, 3, 4, 5, 6, 7, 8, 9];
        let whole = at(&[1], &decades);
        let count = count.max(2);
        let (mut ticks, minor) = if whole.len() >= 3 || zero && whole.len() == 2 {
            let every = whole.len().div_ceil(count).max(1);
            let ticks = whole.iter().copied().step_by(every).collect();
            (ticks, if every == 1 { at(&between, &decades) } else { whole })
        } else {
            let some = at(&[1, 2, 5], &decades);
            let all = at(&[1, 2, 3, 4, 5, 6, 7, 8, 9], &decades);
            (if some.len() >= 2 { some } else { all.clone() }, all)
        };
        if zero {
            ticks.insert(0, 0.0);
        }
        Self { range, kind, ticks, minor }
    }

    /// `v` in units of this axis. What a logarithmic axis cannot show is not finite.
    pub(super) fn scaled(&self, v: f64) -> f64 {
        match self.kind {
            Kind::Linear { exponent, .. } => v / power(exponent),
            Kind::Log { first } => place(v, first),
        }
    }

    /// Label of a tick.
    pub(super) fn label(&self, tick: f64) -> String {
        let (exponent, decimals) = match self.kind {
            Kind::Linear { exponent, decimals } => (exponent, decimals),
            Kind::Log { first: None } => return log_label(tick),
            Kind::Log { first: Some(_) } if tick < 0.5 => return "0".to_string(),
            Kind::Log { first: Some(first) } => return log_label(tick - 1.0 + first.log10()),
        };
        let text = format!("{tick:.decimals$}");
        match exponent {
            _ if !text.contains(|c: char| c.is_ascii_digit() && c != '0') => "0".to_string(),
            0 => group_thousands(&minus(&text)),
            e => format!("{}\u{b7}10{}", minus(&text), superscript(e)),
        }
    }

    /// As plotters' coordinate.
    pub(super) fn coord(&self) -> Coord {
        Coord { range: self.range, ticks: self.ticks.clone() }
    }
}

/// Where `v` is on a logarithmic axis.
fn place(v: f64, first: Option<f64>) -> f64 {
    match (first, v) {
        (Some(_), v) if v < 0.0 => f64::NAN,
        (Some(first), v) if v < first => v / first,
        (Some(first), v) => 1.0 + (v / first).log10(),
        (None, v) if v <= 0.0 => f64::NEG_INFINITY,
        (None, v) => v.log10(),
    }
}

/// A coordinate of plotters whose ticks are those of an [`Axis`].
#[derive(Debug, Clone)]
pub(super) struct Coord {
    range: (f64, f64),
    ticks: Vec<f64>,
}

impl Ranged for Coord {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let part = (value - self.range.0) / (self.range.1 - self.range.0);
        limit.0 + (f64::from(limit.1 - limit.0) * part).round() as i32
    }

    fn key_points<H: KeyPointHint>(&self, _: H) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.0..self.range.1
    }
}

fn power(exponent: i32) -> f64 {
    10.0_f64.powi(exponent)
}

/// Label of the number with the logarithm `log`, a power of ten or a multiple of one.
fn log_label(log: f64) -> String {
    let exponent = (log + 1e-9).floor() as i32;
    let factor = 10f64.powf(log - f64::from(exponent)).round();
    match exponent {
        // Shortest digits of an exact decimal.
        -2..=3 => format!("{factor}e{exponent}").parse::<f64>().map_or(String::new(), |v| v.to_string()),
        _ if factor == 1.0 => format!("10{}", superscript(exponent)),
        _ => format!("{factor}\u{b7}10{}", superscript(exponent)),
    }
}

/// A value for a label, to five significant digits.
pub(super) fn value_label(v: f64) -> String {
    if v == 0.0 {
        return "0".to_string();
    }
    let exponent = v.abs().log10().floor();
    if !(-3.0..6.0).contains(&exponent) {
        return scientific(v);
    }
    let decimals = (4.0 - exponent).max(0.0) as usize;
    group_thousands(&minus(&format!("{v:.decimals$}")))
}

fn scientific(v: f64) -> String {
    // Subnormal numbers keep an exponent whose power of ten is normal.
    let exponent = v.abs().log10().floor().max(-300.0) as i32;
    format!("{}\u{b7}10{}", minus(&format!("{:.4}", v / power(exponent))), superscript(exponent))
}

/// The typographer's minus, as wide as a plus.
fn minus(text: &str) -> String {
    text.replace('-', "\u{2212}")
}

fn superscript(exponent: i32) -> String {
    const DIGITS: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    exponent.to_string().chars().map(|c| c.to_digit(10).map_or('⁻', |d| DIGITS[d as usize])).collect()
}

/// Thin spaces between groups of three digits, from five digits on.
fn group_thousands(text: &str) -> String {
    let digits = text.chars().filter(char::is_ascii_digit).count();
    if text.contains('.') || digits < 5 {
        return text.to_string();
    }
    let sign = text.chars().count() - digits;
    let mut out = String::new();
    for (i, c) in text.chars().enumerate() {
        if i > sign && (digits - (i - sign)).is_multiple_of(3) {
            out.push('\u{2009}');
        }
        out.push(c);
    }
    out
}

/// Move label centres as little as needed for neighbours to be `gap` apart and inside `[lo, hi]`;
/// the order of equal wishes is kept. When they cannot all fit, they are spaced evenly.
pub(super) fn spread(wishes: &[f64], gap: f64, lo: f64, hi: f64) -> Vec<f64> {
    let n = wishes.len();
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| wishes[a].total_cmp(&wishes[b]));
    let gap = if n > 1 { gap.min((hi - lo).max(0.0) / (n - 1) as f64) } else { gap };
    // Isotonic regression on wish - rank * gap: clusters of touching labels settle at their mean.
    let mut clusters: Vec<(f64, usize)> = Vec::new();
    for (rank, &i) in order.iter().enumerate() {
        let mut cluster = (wishes[i] - rank as f64 * gap, 1);
        while let Some(&(mean, size)) = clusters.last().filter(|(mean, _)| *mean > cluster.0) {
            clusters.pop();
            let total = size + cluster.1;
            cluster = ((mean * size as f64 + cluster.0 * cluster.1 as f64) / total as f64, total);
        }
        clusters.push(cluster);
    }
    let mut placed = vec![0.0; n];
    let ranks = clusters.iter().flat_map(|&(mean, size)| std::iter::repeat_n(mean, size));
    for (rank, (mean, &i)) in ranks.zip(&order).enumerate() {
        let room_below = (n - 1 - rank) as f64 * gap;
        placed[i] = (mean + rank as f64 * gap).min(hi - room_below).max(lo + rank as f64 * gap);
    }
    placed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_survive_any_range_and_label_what_their_ticks_resolve() {
        let labels = |lo, hi, n| {
            let axis = Axis::new(lo, hi, n);
            axis.ticks.iter().map(|t| axis.label(*t)).collect::<Vec<_>>()
        };
        assert_eq!(labels(0.0, 131_072.0, 6), ["0", "50\u{2009}000", "100\u{2009}000"]);
        assert_eq!(labels(-1.0, 1.0, 5), ["\u{2212}1.0", "\u{2212}0.5", "0", "0.5", "1.0"]);
        assert_eq!(labels(0.0, 5e-5, 3), ["0", "2\u{b7}10⁻⁵", "4\u{b7}10⁻⁵"]);
        for (lo, hi) in [
            (3.0, 3.0),
            (0.0, 0.0),
            (1e-310, 2e-310),
            (1e-300, 2e-300),
            (-1e300, 1e300),
            (1e300, 1e300),
            (0.1, 0.1 + 1e-12),
            (-1e16, -1e16 + 2.0),
        ] {
            let axis = Axis::new(lo, hi, 6);
            assert!(axis.ticks.len() <= 6 && axis.ticks.iter().all(|v| v.is_finite()), "{lo} {hi}: {axis:?}");
            assert!(
                axis.scaled(lo) >= axis.range.0 && axis.scaled(hi) <= axis.range.1,
                "{lo} {hi}: {axis:?}"
            );
        }
    }

    #[test]
    fn logarithmic_axes_have_places_for_all_they_can_show() {
        let labels = |lo, hi, zero, n| {
            let axis = Axis::log(lo, hi, zero, n);
            axis.ticks.iter().map(|t| axis.label(*t)).collect::<Vec<_>>()
        };
        assert_eq!(labels(1.0, 131_072.0, true, 8), ["0", "1", "10", "100", "1000", "10⁴", "10⁵"]);
        assert_eq!(labels(1.0, 131_072.0, true, 4), ["0", "1", "100", "10⁴"]);
        assert_eq!(labels(1024.0, 131_072.0, true, 8), ["0", "10⁴", "10⁵"]);
        assert_eq!(labels(64.0, 800.0, true, 8), ["0", "100", "200", "500"]);
        assert_eq!(labels(20.0, 256.0, false, 8), ["20", "50", "100", "200"]);
        assert_eq!(labels(1e-7, 1e-3, false, 8), ["10⁻⁷", "10⁻⁶", "10⁻⁵", "10⁻⁴", "10⁻³"]);
        // Less than a factor of two is linear.
        assert_eq!(labels(1.0, 1.5, false, 3), ["1.0", "1.2", "1.4"]);
        let axis = Axis::log(64.0, 6400.0, true, 8);
        let places = [0.0, 32.0, 64.0, 640.0, 6400.0].map(|v| (axis.scaled(v) * 1e9).round() / 1e9);
        assert_eq!(places, [0.0, 0.5, 1.0, 2.0, 3.0]);
        let axis = Axis::log(1.0, 1000.0, true, 8);
        assert_eq!([0.0, 0.5, 1.0, 10.0, 1000.0].map(|v| axis.scaled(v)), [0.0, 0.5, 1.0, 2.0, 4.0]);
        assert!(axis.scaled(-1.0).is_nan() && axis.minor.len() == 3 * 8);
        assert_eq!(Axis::log(1e-3, 1e3, false, 8).scaled(0.0), f64::NEG_INFINITY);
        for (lo, hi) in [(1.0, 1.0), (1e-150, 1e150), (1e300, 1e300), (3.0, 6.0), (7.0, 15.0)] {
            for zero in [false, true] {
                let axis = Axis::log(lo, hi, zero, 6);
                assert!(axis.ticks.len() >= 2, "{lo} {hi}: {axis:?}");
                assert!(
                    axis.scaled(lo) >= axis.range.0 && axis.scaled(hi) <= axis.range.1,
                    "{lo} {hi}: {axis:?}"
                );
            }
        }
    }

    #[test]
    fn values_have_five_digits() {
        assert_eq!(
            [5.0, -2.0, 20f64.log10(), 3e-5f64.log10()].map(log_label),
            ["10⁵", "0.01", "20", "3\u{b7}10⁻⁵"]
        );
        assert_eq!(value_label(1.609438), "1.6094");
        assert_eq!(value_label(2.24551), "2.2455");
        assert_eq!(value_label(1.76), "1.7600");
        assert_eq!(value_label(-0.0625), "\u{2212}0.062500");
        assert_eq!(value_label(-2.5e-7), "\u{2212}2.5000\u{b7}10⁻⁷");
    }

    #[test]
    fn spread_labels_neither_touch_nor_cross() {
        let placed = spread(&[10.0, 11.0, 50.0, 10.5], 12.0, 0.0, 100.0);
        assert!(placed[3] - placed[0] >= 12.0 - 1e-9 && placed[1] - placed[3] >= 12.0 - 1e-9, "{placed:?}");
        assert_eq!(placed[2], 50.0);
        let edge = spread(&[99.0, 100.0], 12.0, 0.0, 100.0);
        assert_eq!(edge, [88.0, 100.0]);
        let full = spread(&[5.0; 11], 50.0, 0.0, 100.0);
        assert!(full.windows(2).all(|w| (w[1] - w[0] - 10.0).abs() < 1e-9), "{full:?}");
        assert!(spread(&[], 5.0, 0.0, 1.0).is_empty());
    }
}

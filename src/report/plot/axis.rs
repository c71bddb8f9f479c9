//! Parts of axes that plotters does not provide: ranges it can divide, the labels of its ticks, and
//! labels that keep out of each other's way.

use plotters::coord::ranged1d::{BoldPoints, Ranged};
use plotters::coord::types::RangedCoordf64;

/// Least relative width of an axis; what differs by less is drawn as equal, so that tick labels
/// stay short.
const MIN_SPAN: f64 = 1e-6;
/// Least absolute width: below it powers of ten are not normal numbers.
const TINY: f64 = 1e-290;

/// A linear axis in units of a power of ten, so that plotters, whose ticks are looked for with
/// absolute tolerances, only meets numbers of a moderate size.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    /// From, to, in units.
    pub(super) range: (f64, f64),
    exponent: i32,
    /// plotters' tick positions, in units.
    pub(super) ticks: Vec<f64>,
    decimals: usize,
    /// The requested number of ticks.
    pub(super) count: usize,
}

impl Axis {
    /// An axis over at least `[lo, hi]` with at most `count` ticks.
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
        Self { range, exponent, ticks, decimals, count: count.max(2) }
    }

    /// `v` in units of this axis.
    pub(super) fn scaled(&self, v: f64) -> f64 {
        v / power(self.exponent)
    }

    /// Label of a tick.
    pub(super) fn label(&self, tick: f64) -> String {
        let text = format!("{tick:.0$}", self.decimals);
        match self.exponent {
            _ if !text.contains(|c: char| c.is_ascii_digit() && c != '0') => "0".to_string(),
            0 => group_thousands(&minus(&text)),
            e => format!("{}\u{b7}10{}", minus(&text), superscript(e)),
        }
    }
}

fn power(exponent: i32) -> f64 {
    10.0_f64.powi(exponent)
}

/// Label of a power of ten.
pub(super) fn log_label(v: f64) -> String {
    let exponent = v.log10().round() as i32;
    if (-2..=3).contains(&exponent) { v.to_string() } else { format!("10{}", superscript(exponent)) }
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
    fn values_have_five_digits() {
        assert_eq!(log_label(1e5), "10⁵");
        assert_eq!(log_label(0.01), "0.01");
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

//! Round tick positions, their labels, and labels that keep out of each other's way.

/// Round positions in `[lo, hi]`, about `target` of them, and the step between them.
pub(super) fn ticks(lo: f64, hi: f64, target: usize) -> (Vec<f64>, f64) {
    let span = hi - lo;
    // Below this the step itself would not be a normal number.
    if !(span > 1e-290 && span.is_finite()) {
        return (vec![lo], 1.0);
    }
    let raw = span / target.max(1) as f64;
    let power = 10.0_f64.powf(raw.log10().floor());
    let step = power * [1.0, 2.0, 5.0, 10.0].into_iter().find(|m| m * power >= raw * 0.999).unwrap_or(10.0);
    // Positions are whole multiples of the step, so that 0 comes out as 0 and not as 1e-17.
    let first = (lo / step - 1e-9).ceil();
    let last = (hi / step + 1e-9).floor();
    let count = (last - first + 1.0).clamp(0.0, 1000.0) as usize;
    ((0..count).map(|i| (first + i as f64) * step).collect(), step)
}

/// Positions for a logarithmic axis over `[lo, hi]`, both positive: powers of ten, and 2 and 5 times these when
/// fewer than two powers fit.
pub(super) fn log_ticks(lo: f64, hi: f64, target: usize) -> Vec<f64> {
    let (first, last) = (lo.log10().floor() as i32, hi.log10().ceil() as i32);
    let within = |v: &f64| *v >= lo * (1.0 - 1e-9) && *v <= hi * (1.0 + 1e-9);
    let decades: Vec<f64> = (first..=last).map(|e| 10.0_f64.powi(e)).filter(within).collect();
    if decades.len() >= 2 {
        let stride = decades.len().div_ceil(target.max(2));
        return decades.into_iter().step_by(stride).collect();
    }
    (first..=last).flat_map(|e| [1.0, 2.0, 5.0].map(|m| m * 10.0_f64.powi(e))).filter(within).collect()
}

/// Label of a tick on an axis whose ticks are `step` apart and reach `largest` in size.
pub(super) fn tick_label(v: f64, step: f64, largest: f64) -> String {
    if v == 0.0 {
        return "0".to_string();
    }
    if largest >= 1e7 || largest < 1e-3 {
        return scientific(v, step);
    }
    // As many decimals as the step needs; a step of 2.5 would need one more, but steps are 1, 2 or 5.
    let decimals = (-(step.log10() + 1e-9).floor()).max(0.0) as usize;
    group_thousands(&minus(&format!("{v:.decimals$}")))
}

/// Label of a power of ten, or of a small multiple of one, on a logarithmic axis.
pub(super) fn log_label(v: f64) -> String {
    let exponent = (v.log10() + 1e-9).floor();
    if (-2.0..=3.0).contains(&exponent) {
        let decimals = (-exponent).max(0.0) as usize;
        return format!("{v:.decimals$}");
    }
    let mantissa = (v / 10.0_f64.powf(exponent)).round();
    let power = format!("10{}", superscript(exponent as i32));
    if mantissa == 1.0 { power } else { format!("{mantissa}\u{b7}{power}") }
}

/// A value for a label: four significant digits, idle zeros removed.
pub(super) fn value_label(v: f64) -> String {
    if v == 0.0 || !v.is_finite() {
        return if v == 0.0 { "0".to_string() } else { v.to_string() };
    }
    let exponent = v.abs().log10().floor();
    if !(-3.0..6.0).contains(&exponent) {
        return scientific(v, v.abs() * 1e-3);
    }
    let decimals = (3.0 - exponent).max(0.0) as usize;
    let text = format!("{v:.decimals$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    group_thousands(&minus(text))
}

fn scientific(v: f64, step: f64) -> String {
    // Subnormal numbers keep an exponent whose power of ten is normal.
    let exponent = (v.abs().log10() + 1e-9).floor().max(-300.0);
    let mantissa = v / 10.0_f64.powf(exponent);
    let decimals = (exponent - (step.log10() + 1e-9).floor()).clamp(0.0, 6.0) as usize;
    format!("{}\u{b7}10{}", minus(&format!("{mantissa:.decimals$}")), superscript(exponent as i32))
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

/// Move label centres as little as needed for neighbours to be `gap` apart and inside `[lo, hi]`; the order of equal
/// wishes is kept. When they cannot all fit, they are spaced evenly.
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
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks(0.0, 131_072.0, 6).0, [0.0, 50_000.0, 100_000.0]);
        assert_eq!(ticks(1.7, 2.4, 6).0.len(), 4);
        assert_eq!(ticks(-1.0, 1.0, 4).0, [-1.0, -0.5, 0.0, 0.5, 1.0]);
        assert_eq!(ticks(3.0, 3.0, 4).0, [3.0]);
        for (lo, hi) in [(1e-300, 2e-300), (-1e300, 1e300), (0.1, 0.1 + 1e-12)] {
            let (t, _) = ticks(lo, hi, 5);
            assert!(t.len() <= 12 && t.iter().all(|v| v.is_finite()), "{lo} {hi}: {t:?}");
        }
    }

    #[test]
    fn labels_show_what_the_step_resolves() {
        assert_eq!(tick_label(0.30000000000000004, 0.1, 1.0), "0.3");
        assert_eq!(tick_label(-0.5, 0.5, 1.0), "\u{2212}0.5");
        assert_eq!(tick_label(50_000.0, 50_000.0, 1e5), "50\u{2009}000");
        assert_eq!(tick_label(2000.0, 1000.0, 5000.0), "2000");
        assert_eq!(tick_label(2e-5, 1e-5, 5e-5), "2\u{b7}10⁻⁵");
        assert_eq!(log_label(1e5), "10⁵");
        assert_eq!(log_label(0.01), "0.01");
        assert_eq!(value_label(2.302585), "2.303");
        assert_eq!(value_label(1.76), "1.76");
        assert_eq!(value_label(-0.0625), "\u{2212}0.0625");
    }

    #[test]
    fn log_ticks_cover_short_and_long_ranges() {
        assert_eq!(log_ticks(1.0, 131_072.0, 8), [1.0, 10.0, 100.0, 1e3, 1e4, 1e5]);
        assert_eq!(log_ticks(3.0, 60.0, 8), [5.0, 10.0, 20.0, 50.0]);
        assert_eq!(log_ticks(1e-9, 1e9, 5).len(), 5);
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

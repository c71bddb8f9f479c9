//! A curve made fit to draw: cut at the bounds of its chart, and no finer than its canvas.

use super::canvas::Point;

/// The parts of a curve with y inside `[lo, hi]`: plotters draws what lies outside of its areas,
/// too.
pub(super) fn clipped(points: impl Iterator<Item = Point>, (lo, hi): (f64, f64)) -> Vec<Vec<Point>> {
    let mut parts: Vec<Vec<Point>> = Vec::new();
    let mut last: Option<Point> = None;
    for b in points {
        let a = last.unwrap_or(b);
        // Where on the way from a to b the level y is crossed; slopes divide first, since y may be
        // huge.
        let at = |y: f64| (a.0 + (b.0 - a.0) * ((y - a.1) / (b.1 - a.1)).clamp(0.0, 1.0), y);
        let bound = |p: Point| {
            if p.1 < lo {
                at(lo)
            } else if p.1 > hi {
                at(hi)
            } else {
                p
            }
        };
        let outside = (a.1 < lo && b.1 < lo) || (a.1 > hi && b.1 > hi);
        let inside = |p: Point| p.1 >= lo && p.1 <= hi;
        if !outside {
            match parts.last_mut() {
                Some(part) if last.is_some() && inside(a) => part.push(bound(b)),
                _ if last.is_some() => parts.push(vec![bound(a), bound(b)]),
                _ => parts.push(vec![b]),
            }
        }
        last = Some(b);
    }
    parts
}

/// A polyline that looks the same with at most four points per column of the canvas: the first,
/// least, greatest and last of each. Curves have one point per step, far more than an SVG should
/// carry.
pub(super) fn thinned(points: Vec<Point>, key: impl Fn(f64) -> i32) -> Vec<Point> {
    let mut out: Vec<Point> = Vec::new();
    let mut column: Vec<Point> = Vec::new();
    let flush = |column: &mut Vec<Point>, out: &mut Vec<Point>| {
        if column.len() <= 4 {
            out.append(column);
            return;
        }
        let by_y = |a: &usize, b: &usize| column[*a].1.total_cmp(&column[*b].1);
        let (least, most) = ((0..column.len()).min_by(by_y), (0..column.len()).max_by(by_y));
        let mut keep = vec![0, least.unwrap_or(0), most.unwrap_or(0), column.len() - 1];
        keep.sort_unstable();
        keep.dedup();
        out.extend(keep.iter().map(|&k| column[k]));
        column.clear();
    };
    for point in points {
        if column.last().is_some_and(|last| key(last.0) != key(point.0)) {
            flush(&mut column, &mut out);
        }
        column.push(point);
    }
    flush(&mut column, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinning_keeps_ends_and_extremes() {
        let wave: Vec<Point> = (0..100_000).map(|i| (f64::from(i) / 1000.0, f64::from(i % 977))).collect();
        let key = |x: f64| (x * 2.0) as i32;
        let thin = thinned(wave.clone(), key);
        assert!(thin.len() <= 4 * 200, "{}", thin.len());
        assert_eq!((thin[0], thin[thin.len() - 1]), (wave[0], wave[99_999]));
        assert!(thin.iter().any(|p| p.1 == 976.0));
        assert!(thin.is_sorted_by(|a, b| a.0 <= b.0), "order is kept");
        assert_eq!(thinned(vec![(0.0, 1.0), (5.0, 2.0)], key), [(0.0, 1.0), (5.0, 2.0)]);
    }

    #[test]
    fn clipping_cuts_at_the_bounds() {
        let parts = |points: &[Point]| clipped(points.iter().copied(), (0.0, 1.0));
        assert_eq!(
            parts(&[(0.0, 0.5), (1.0, 1.5), (2.0, 0.5)]),
            [vec![(0.0, 0.5), (0.5, 1.0)], vec![(1.5, 1.0), (2.0, 0.5)]]
        );
        assert_eq!(parts(&[(0.0, -1.0), (1.0, 2.0)]), [vec![(1.0 / 3.0, 0.0), (2.0 / 3.0, 1.0)]]);
        assert_eq!(parts(&[(0.0, 5.0), (1.0, 6.0)]), Vec::<Vec<Point>>::new());
        assert_eq!(parts(&[(0.0, 0.5)]), [[(0.0, 0.5)]]);
    }
}

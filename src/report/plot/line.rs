//! Line charts: curves over steps, with dashed reference lines named at the right margin.

use super::axis::{log_label, log_ticks, spread, tick_label, ticks, value_label};
use super::color::line_color;
use super::font::text_width;
use super::scene::{Anchor, Rect, Scene, Stroke, TextStyle};
use super::{GAP, LABEL_SIZE, PAD, TICK_SIZE, TITLE_HEIGHT, draw_title, drawable, title_width};
use crate::error::{Error, Result};

/// One curve.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Name in the legend; empty for none.
    pub label: String,
    /// Points `(x, y)` in the order they are joined. A point that is not finite breaks the line.
    pub points: Vec<(f64, f64)>,
    /// Colour: an index into a palette of seven, repeating.
    pub color: usize,
    /// Dashed instead of solid.
    pub dashed: bool,
}

impl Series {
    /// A solid curve in palette colour `color`.
    pub fn new(label: impl Into<String>, points: Vec<(f64, f64)>, color: usize) -> Self {
        Self { label: label.into(), points, color, dashed: false }
    }
}

/// A horizontal dashed line across the chart, named with its value at the right margin.
#[derive(Debug, Clone, PartialEq)]
pub struct RefLine {
    /// What the level is, e.g. `Bayes`.
    pub label: String,
    /// The level; not drawn when not finite or outside the y range.
    pub y: f64,
}

impl RefLine {
    /// A reference line at `y`.
    pub fn new(label: impl Into<String>, y: f64) -> Self {
        Self { label: label.into(), y }
    }
}

/// Curves over a common axis.
#[derive(Debug, Clone, PartialEq)]
pub struct LineChart {
    /// Heading; empty for none.
    pub title: String,
    /// Name of the x axis.
    pub x_label: String,
    /// Name of the y axis.
    pub y_label: String,
    /// Logarithmic x axis; points at x <= 0 are then left out.
    pub x_log: bool,
    /// The curves, drawn in order.
    pub series: Vec<Series>,
    /// Horizontal reference lines.
    pub reference_lines: Vec<RefLine>,
    /// y axis from, to; from the data and the reference lines when absent.
    pub y_range: Option<(f64, f64)>,
    /// Size of the plotting area in px, without labels.
    pub size: (f64, f64),
}

impl Default for LineChart {
    fn default() -> Self {
        Self {
            title: String::new(),
            x_label: String::new(),
            y_label: String::new(),
            x_log: false,
            series: Vec::new(),
            reference_lines: Vec::new(),
            y_range: None,
            size: (520.0, 320.0),
        }
    }
}

const LINE_HEIGHT: f64 = 16.0;
const SWATCH: f64 = 22.0;
const LEADER: f64 = 18.0;
const REFERENCE: Stroke = Stroke { color: "#555555", width: 1.1, dashed: true };

/// Everything that placing the chart's parts needs, computed once.
struct Layout {
    x: (f64, f64),
    y: (f64, f64),
    x_ticks: Vec<(f64, String)>,
    y_ticks: Vec<(f64, String)>,
    references: Vec<(f64, String)>,
    legend: Vec<Vec<(usize, f64)>>,
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

impl LineChart {
    pub(super) fn check(&self) -> Result<()> {
        let (w, h) = self.size;
        if !(w >= 50.0 && h >= 50.0 && w <= 4000.0 && h <= 4000.0) {
            return Err(Error::invalid("size", format!("{w} x {h} px"), "50 to 4000 px a side"));
        }
        match self.y_range {
            Some((lo, hi)) if !(lo < hi && drawable(lo) && drawable(hi)) => Err(Error::invalid(
                "y_range",
                format!("{lo} to {hi}"),
                "two finite numbers, the lesser first",
            )),
            _ => Ok(()),
        }
    }

    pub(super) fn natural_size(&self) -> (f64, f64) {
        let l = self.layout();
        let width = (l.left + self.size.0 + l.right).max(title_width(&self.title));
        (width, l.top + self.size.1 + l.bottom)
    }

    pub(super) fn draw(&self, scene: &mut Scene, (x0, y0): (f64, f64)) {
        let l = self.layout();
        let area = Rect { x: x0 + l.left, y: y0 + l.top, w: self.size.0, h: self.size.1 };
        let total = (l.left + self.size.0 + l.right).max(title_width(&self.title));
        draw_title(scene, &self.title, area.x + area.w / 2.0, (x0, y0, total));
        let x_at = |x: f64| area.x + self.x_fraction(x, l.x) * area.w;
        let y_at = |y: f64| area.bottom() - (y - l.y.0) / (l.y.1 - l.y.0) * area.h;
        self.draw_axes(scene, &l, area, &x_at, &y_at);
        let curves_at = |&(x, y): &(f64, f64)| (x_at(x), y_at(y));
        scene.clipped(area, |scene| {
            for &(y, _) in &l.references {
                scene.line((area.x, y_at(y)), (area.right(), y_at(y)), REFERENCE);
            }
            for series in &self.series {
                let color = line_color(series.color);
                let stroke = Stroke { color, width: 1.7, dashed: series.dashed };
                for run in self.runs(series) {
                    let run = thinned(run.iter().map(curves_at));
                    match run[..] {
                        [point] => scene.dot(point, 2.0, color),
                        _ => scene.polyline(&run, stroke),
                    }
                }
            }
        });
        draw_references(scene, &l, area, &y_at);
        self.draw_legend(scene, &l, area, y0);
    }

    fn draw_axes(
        &self,
        scene: &mut Scene,
        l: &Layout,
        area: Rect,
        x_at: &dyn Fn(f64) -> f64,
        y_at: &dyn Fn(f64) -> f64,
    ) {
        let axis = Stroke::solid("#444444", 1.0);
        let grid = Stroke::solid("#ebebeb", 1.0);
        for (y, label) in &l.y_ticks {
            let y = y_at(*y);
            scene.line((area.x, y), (area.right(), y), grid);
            scene.line((area.x - 4.0, y), (area.x, y), axis);
            scene.text((area.x - 7.0, y), label, TextStyle::new(TICK_SIZE, Anchor::End));
        }
        for (x, label) in &l.x_ticks {
            let x = x_at(*x);
            scene.line((x, area.bottom()), (x, area.bottom() + 4.0), axis);
            scene.text((x, area.bottom() + 13.0), label, TextStyle::new(TICK_SIZE, Anchor::Middle));
        }
        let corners = [(area.x, area.y), (area.x, area.bottom()), (area.right(), area.bottom())];
        scene.polyline(&corners, axis);
        let label = TextStyle::new(LABEL_SIZE, Anchor::Middle);
        scene.text((area.x + area.w / 2.0, area.bottom() + 31.0), &self.x_label, label);
        let upward = TextStyle { upward: true, ..label };
        scene.text((area.x - l.left + PAD + 7.0, area.y + area.h / 2.0), &self.y_label, upward);
    }

    fn draw_legend(&self, scene: &mut Scene, l: &Layout, area: Rect, y0: f64) {
        let mut y = y0 + PAD + if self.title.is_empty() { 0.0 } else { TITLE_HEIGHT } + LINE_HEIGHT / 2.0;
        for row in &l.legend {
            for &(index, x) in row {
                let series = &self.series[index];
                let stroke = Stroke { color: line_color(series.color), width: 2.2, dashed: series.dashed };
                let x = area.x + x;
                scene.line((x, y), (x + SWATCH, y), stroke);
                scene.text((x + SWATCH + 5.0, y), &series.label, TextStyle::new(TICK_SIZE, Anchor::Start));
            }
            y += LINE_HEIGHT;
        }
    }

    /// Consecutive drawable points.
    fn runs<'a>(&self, series: &'a Series) -> impl Iterator<Item = &'a [(f64, f64)]> + use<'a> {
        let log = self.x_log;
        series
            .points
            .split(move |(x, y)| !(drawable(*x) && drawable(*y) && (!log || *x > 0.0)))
            .filter(|run| !run.is_empty())
    }

    fn x_fraction(&self, x: f64, (lo, hi): (f64, f64)) -> f64 {
        if self.x_log { (x.ln() - lo.ln()) / (hi.ln() - lo.ln()) } else { (x - lo) / (hi - lo) }
    }

    fn layout(&self) -> Layout {
        let points = || self.series.iter().flat_map(|s| self.runs(s)).flatten();
        let references = || self.reference_lines.iter().map(|r| r.y).filter(|y| drawable(*y));
        let x = extent(points().map(|p| p.0)).unwrap_or(if self.x_log { (1.0, 10.0) } else { (0.0, 1.0) });
        let x = match x {
            (lo, hi) if lo < hi => (lo, hi),
            (lo, _) if self.x_log => (lo / 2.0, lo * 2.0),
            (lo, _) => (lo - 0.5, lo + 0.5),
        };
        let y = self.y_range.unwrap_or_else(|| {
            let (lo, hi) = extent(points().map(|p| p.1).chain(references())).unwrap_or((0.0, 1.0));
            let margin = if hi > lo { (hi - lo) * 0.04 } else { hi.abs().max(1.0) * 0.05 };
            (lo - margin, hi + margin)
        });
        let (width, height) = self.size;
        let x_ticks: Vec<(f64, String)> = if self.x_log {
            log_ticks(x.0, x.1, (width / 60.0) as usize).into_iter().map(|v| (v, log_label(v))).collect()
        } else {
            labelled(x, (width / 75.0) as usize)
        };
        let y_ticks = labelled(y, (height / 45.0) as usize);
        let references: Vec<(f64, String)> = self
            .reference_lines
            .iter()
            .filter(|r| drawable(r.y) && r.y >= y.0 && r.y <= y.1)
            .map(|r| (r.y, format!("{} {}", r.label, value_label(r.y)).trim_start().to_string()))
            .collect();

        let widest = |texts: &mut dyn Iterator<Item = &String>| {
            texts.map(|t| text_width(t, TICK_SIZE, false)).fold(0.0, f64::max)
        };
        let half_last_tick = widest(&mut x_ticks.iter().map(|(_, t)| t)) / 2.0;
        let mut right = half_last_tick;
        if !references.is_empty() {
            right = right.max(LEADER + 4.0 + widest(&mut references.iter().map(|(_, t)| t)));
        }
        let left = widest(&mut y_ticks.iter().map(|(_, t)| t))
            + 7.0
            + if self.y_label.is_empty() { 0.0 } else { 22.0 };
        let legend = self.legend_rows(width + right);
        let heading = if self.title.is_empty() { 0.0 } else { TITLE_HEIGHT };
        let legend_height = if legend.is_empty() { 0.0 } else { legend.len() as f64 * LINE_HEIGHT + 6.0 };
        Layout {
            x,
            y,
            x_ticks,
            y_ticks,
            references,
            legend,
            left: PAD + left.max(half_last_tick),
            right: right + PAD,
            top: PAD + heading + legend_height + 4.0,
            bottom: 20.0 + if self.x_label.is_empty() { 0.0 } else { 18.0 } + PAD,
        }
    }

    /// Legend entries as rows of (series, x offset), above the plotting area where they cover no data.
    fn legend_rows(&self, width: f64) -> Vec<Vec<(usize, f64)>> {
        let mut rows: Vec<Vec<(usize, f64)>> = Vec::new();
        let mut x = f64::INFINITY;
        for (index, series) in self.series.iter().enumerate().filter(|(_, s)| !s.label.is_empty()) {
            let entry = SWATCH + 5.0 + text_width(&series.label, TICK_SIZE, false);
            match rows.last_mut() {
                Some(row) if x + entry <= width => row.push((index, x)),
                _ => {
                    x = 0.0;
                    rows.push(vec![(index, 0.0)]);
                }
            }
            x += entry + GAP;
        }
        rows
    }
}

/// Names of the reference lines beside the area, moved apart where they would touch, each led to its line.
fn draw_references(scene: &mut Scene, l: &Layout, area: Rect, y_at: &dyn Fn(f64) -> f64) {
    let wishes: Vec<f64> = l.references.iter().map(|(y, _)| y_at(*y)).collect();
    let placed = spread(&wishes, TICK_SIZE + 4.0, area.y, area.bottom());
    let leader = Stroke::solid("#999999", 0.8);
    for ((wish, place), (_, label)) in wishes.iter().zip(&placed).zip(&l.references) {
        let x = area.right();
        scene.polyline(
            &[(x, *wish), (x + 4.0, *wish), (x + LEADER - 4.0, *place), (x + LEADER, *place)],
            leader,
        );
        let style = TextStyle { color: "#333333", ..TextStyle::new(TICK_SIZE, Anchor::Start) };
        scene.text((x + LEADER + 4.0, *place), label, style);
    }
}

fn labelled(range: (f64, f64), target: usize) -> Vec<(f64, String)> {
    let (positions, step) = ticks(range.0, range.1, target.max(2));
    let largest = positions.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
    positions.into_iter().map(|v| (v, tick_label(v, step, largest))).collect()
}

fn extent(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |e, v| match e {
        None => Some((v, v)),
        Some((lo, hi)) => Some((lo.min(v), hi.max(v))),
    })
}

/// A polyline that looks the same with at most four points per half px of x: the first, least, greatest and last of
/// each column. Curves have one point per step, far more than an SVG should carry.
fn thinned(points: impl Iterator<Item = (f64, f64)>) -> Vec<(f64, f64)> {
    let mut out: Vec<(f64, f64)> = Vec::new();
    let mut column: Vec<(f64, f64)> = Vec::new();
    let key = |x: f64| (x * 2.0).floor();
    let flush = |column: &mut Vec<(f64, f64)>, out: &mut Vec<(f64, f64)>| {
        if column.len() <= 4 {
            out.append(column);
            return;
        }
        let by_y = |a: &usize, b: &usize| column[*a].1.total_cmp(&column[*b].1);
        let (least, most) = ((0..column.len()).min_by(by_y), (0..column.len()).max_by(by_y));
        let mut keep = [0, least.unwrap_or(0), most.unwrap_or(0), column.len() - 1];
        keep.sort_unstable();
        out.extend(
            keep.iter().enumerate().filter(|(i, k)| *i == 0 || keep[i - 1] != **k).map(|(_, &k)| column[k]),
        );
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
        let wave: Vec<(f64, f64)> =
            (0..100_000).map(|i| (f64::from(i) / 1000.0, f64::from(i % 977))).collect();
        let thin = thinned(wave.iter().copied());
        assert!(thin.len() <= 4 * 200, "{}", thin.len());
        assert_eq!((thin[0], thin[thin.len() - 1]), (wave[0], wave[99_999]));
        assert!(thin.iter().any(|p| p.1 == 976.0));
        assert!(thin.is_sorted_by(|a, b| a.0 <= b.0), "order is kept");
        assert_eq!(thinned([(0.0, 1.0), (5.0, 2.0)].into_iter()), [(0.0, 1.0), (5.0, 2.0)]);
    }
}

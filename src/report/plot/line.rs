//! Line charts: curves over steps, with dashed reference lines named at the right margin.

use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use serde::{Deserialize, Serialize};

use super::axis::{Axis, Coord, Scale, spread, value_label};
use super::canvas::{AXIS, Area, Drawn, Lettering, Point, path, stroke, text, units, writable};
use super::color::line_color;
use super::curve::{clipped, thinned};
use super::font::text_width;
use super::record;
use super::{GAP, LABEL_SIZE, PAD, TICK_SIZE, TITLE_HEIGHT, draw_title, drawable, title_width};
use crate::error::{Error, Result};

/// One curve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Name in the legend; empty for none.
    pub label: String,
    /// Points `(x, y)` in the order they are joined. A point that is not finite breaks the line.
    #[serde(with = "record")]
    pub points: Vec<(f64, f64)>,
    /// Colour: an index into a palette of seven, repeating.
    pub color: usize,
    /// Dashed instead of solid.
    pub dashed: bool,
    /// A dot at every point: the curve exists there alone.
    #[serde(default)]
    pub marked: bool,
    /// Shaded below the curve, in its colour: `(x, from, to)` with x ascending, e.g. a mean and its
    /// spread. A point that is not finite breaks it.
    #[serde(with = "record", default)]
    pub band: Vec<(f64, f64, f64)>,
}

impl Series {
    /// A solid curve in palette colour `color`.
    pub fn new(label: impl Into<String>, points: Vec<(f64, f64)>, color: usize) -> Self {
        Self { label: label.into(), points, color, dashed: false, marked: false, band: Vec::new() }
    }

    /// The same with a dot at every point.
    pub fn marked(self) -> Self {
        Self { marked: true, ..self }
    }
}

/// A horizontal dashed line across the chart, named with its value at the right margin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RefLine {
    /// What the level is, e.g. `Bayes`.
    pub label: String,
    /// The level; not drawn when not finite or outside the y range.
    #[serde(with = "record")]
    pub y: f64,
}

impl RefLine {
    /// A reference line at `y`.
    pub fn new(label: impl Into<String>, y: f64) -> Self {
        Self { label: label.into(), y }
    }
}

/// Curves over a common axis.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LineChart {
    /// Heading; empty for none.
    pub title: String,
    /// Name of the x axis.
    pub x_label: String,
    /// Name of the y axis.
    pub y_label: String,
    /// How x is placed.
    pub x_scale: Scale,
    /// How y is placed.
    pub y_scale: Scale,
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
            x_scale: Scale::Linear,
            y_scale: Scale::Linear,
            series: Vec::new(),
            reference_lines: Vec::new(),
            y_range: None,
            size: (520.0, 320.0),
        }
    }
}

impl LineChart {
    /// Curves over training steps, on a logarithmic axis, in the size that panels of several charts
    /// have.
    pub fn over_steps(
        title: &str,
        y_label: &str,
        series: Vec<Series>,
        y_range: Option<(f64, f64)>,
    ) -> LineChart {
        LineChart {
            title: title.into(),
            x_label: "step".into(),
            x_scale: Scale::Log,
            y_label: y_label.into(),
            series,
            y_range,
            size: (440.0, 280.0),
            ..LineChart::default()
        }
    }
}

const LINE_HEIGHT: f64 = 16.0;
/// Most lines of a legend.
const LEGEND_LINES: usize = 24;
const SWATCH: f64 = 22.0;
const LEADER: f64 = 18.0;
/// Dash and gap, px.
const DASH: (f64, f64) = (6.0, 4.0);
const REFERENCE: RGBColor = RGBColor(0x66, 0x66, 0x66);
const GRID: RGBColor = RGBColor(0xeb, 0xeb, 0xeb);
const TICK: f64 = 4.0;
/// Radius of a dot.
const DOT: f64 = 2.2;
/// Opacity of bands.
const BAND: f64 = 0.2;
/// What a logarithmic axis can show: ratios of such numbers are finite.
const LOG_RANGE: std::ops::RangeInclusive<f64> = 1e-150..=1e150;

/// Everything that placing the chart's parts needs, computed once.
struct Layout {
    x: Axis,
    y: Axis,
    references: Vec<(f64, String)>,
    legend: Vec<Vec<(usize, f64)>>,
    /// Between the figure's rim and the plotting area.
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

    pub(super) fn draw(&self, area: &Area<'_>) -> Drawn {
        let l = self.layout();
        let total = (l.left + self.size.0 + l.right).max(title_width(&self.title));
        draw_title(area, &self.title, l.left + self.size.0 / 2.0, total)?;
        self.draw_legend(area, &l)?;
        let mut builder = ChartBuilder::on(area);
        let (width, height) = area.dim_in_pixel();
        let rest = |size: u32, parts: f64| size as i32 - units(parts);
        builder
            .margin_top(units(l.top))
            .margin_left(units(PAD))
            .margin_right(rest(width, l.left + self.size.0))
            .margin_bottom(rest(height, l.top + self.size.1 + l.bottom) + units(PAD))
            .set_label_area_size(LabelAreaPosition::Left, units(l.left - PAD))
            .set_label_area_size(LabelAreaPosition::Bottom, units(l.bottom - PAD));
        let chart = builder.build_cartesian_2d(l.x.coord(), l.y.coord())?;
        self.draw_in(chart, area, &l)
    }

    fn draw_in(
        &self,
        mut chart: ChartContext<'_, SVGBackend<'_>, Cartesian2d<Coord, Coord>>,
        area: &Area<'_>,
        l: &Layout,
    ) -> Drawn {
        let ticks = Lettering::new(TICK_SIZE, HPos::Center);
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .max_light_lines(0)
            .bold_line_style(stroke(GRID, 1.0))
            .axis_style(stroke(AXIS, 1.0))
            .set_all_tick_mark_size(units(TICK))
            .label_style(ticks.style())
            .axis_desc_style(Lettering::new(LABEL_SIZE, HPos::Center).style())
            .x_desc(writable(&self.x_label))
            .y_desc(writable(&self.y_label))
            .x_labels(l.x.ticks.len())
            .y_labels(l.y.ticks.len())
            .y_label_offset(ticks.drop())
            .x_label_formatter(&|x| l.x.label(*x))
            .y_label_formatter(&|y| l.y.label(*y))
            .draw()?;
        self.draw_minor(area, l)?;
        let (from, to) = l.x.range;
        let dash =
            |points: Vec<Point>, style| DashedLineSeries::new(points, units(DASH.0), units(DASH.1), style);
        for (y, _) in &l.references {
            chart.draw_series(dash(vec![(from, *y), (to, *y)], stroke(REFERENCE, 1.1)))?;
        }
        for series in &self.series {
            let fill = line_color(series.color).mix(BAND).filled();
            for outline in self.bands(series) {
                let scaled =
                    |&(x, y): &(f64, f64)| (l.x.scaled(x), l.y.scaled(y).clamp(l.y.range.0, l.y.range.1));
                chart.draw_series([Polygon::new(outline.iter().map(scaled).collect::<Vec<_>>(), fill)])?;
            }
        }
        let column = |x: f64| chart.backend_coord(&(x, l.y.range.0)).0;
        let inside = |p: &Point| p.1 >= l.y.range.0 && p.1 <= l.y.range.1;
        let (mut solid, mut dashed, mut dots) = (Vec::new(), Vec::new(), Vec::new());
        for series in &self.series {
            let color = line_color(series.color);
            for run in self.runs(series) {
                let scaled = || run.iter().map(|&(x, y)| (l.x.scaled(x), l.y.scaled(y)));
                if series.marked {
                    dots.extend(scaled().filter(inside).map(|p| (p, color)));
                }
                for part in clipped(scaled(), l.y.range) {
                    match thinned(part, column) {
                        points if points.len() == 1 && series.marked => {}
                        points if points.len() == 1 => dots.push((points[0], color)),
                        points if series.dashed => dashed.push((points, color)),
                        points => solid.push((points, color)),
                    }
                }
            }
        }
        // Where curves meet, those below show on both sides of those above.
        let below = |left: usize| 1.5 + 0.6 * left.min(2) as f64;
        let parts = solid.len();
        for (i, (points, color)) in solid.into_iter().enumerate() {
            chart.draw_series(LineSeries::new(points, stroke(color, below(parts - 1 - i))))?;
        }
        for (points, color) in dashed {
            chart.draw_series(dash(points, stroke(color, 1.7)))?;
        }
        chart.draw_series(dots.into_iter().map(|(p, color)| Circle::new(p, units(DOT), color.filled())))?;
        self.draw_references(area, l)
    }

    /// Short ticks between the labelled ones of logarithmic axes.
    fn draw_minor(&self, area: &Area<'_>, l: &Layout) -> Drawn {
        let (width, height) = self.size;
        let part = |axis: &Axis, u: f64| (u - axis.range.0) / (axis.range.1 - axis.range.0);
        let style = stroke(AXIS, 0.75);
        for u in &l.x.minor {
            let (x, y) = (l.left + part(&l.x, *u) * width, l.top + height);
            path(area, &[(x, y), (x, y + TICK / 2.0)], style)?;
        }
        for u in &l.y.minor {
            let y = l.top + (1.0 - part(&l.y, *u)) * height;
            path(area, &[(l.left - TICK / 2.0, y), (l.left, y)], style)?;
        }
        Ok(())
    }

    /// Names of the reference lines beside the area, moved apart where they would touch, each led
    /// to its line.
    fn draw_references(&self, area: &Area<'_>, l: &Layout) -> Drawn {
        let (lo, hi) = l.y.range;
        let at = |y: f64| l.top + (hi - y) / (hi - lo) * self.size.1;
        let wishes: Vec<f64> = l.references.iter().map(|(y, _)| at(*y)).collect();
        let placed = spread(&wishes, TICK_SIZE + 4.0, l.top, l.top + self.size.1);
        let x = l.left + self.size.0;
        for ((wish, place), (_, label)) in wishes.iter().zip(&placed).zip(&l.references) {
            let bend = [(x, *wish), (x + 4.0, *wish), (x + LEADER - 4.0, *place), (x + LEADER, *place)];
            path(area, &bend, stroke(REFERENCE, 0.75))?;
            text(area, (x + LEADER + 4.0, *place), label, Lettering::new(TICK_SIZE, HPos::Left))?;
        }
        Ok(())
    }

    fn draw_legend(&self, area: &Area<'_>, l: &Layout) -> Drawn {
        let mut y = PAD + if self.title.is_empty() { 0.0 } else { TITLE_HEIGHT } + LINE_HEIGHT / 2.0;
        for row in &l.legend {
            for &(index, x) in row {
                let (series, x) = (&self.series[index], l.left + x);
                let style = stroke(line_color(series.color), 2.25);
                if series.dashed {
                    let ends = [(units(x), units(y)), (units(x + SWATCH), units(y))];
                    for dash in DashedLineSeries::new(ends, units(DASH.0), units(DASH.1), style) {
                        area.draw(&dash)?;
                    }
                } else {
                    path(area, &[(x, y), (x + SWATCH, y)], style)?;
                }
                if series.marked {
                    let dot = line_color(series.color).filled();
                    area.draw(&Circle::new((units(x + SWATCH / 2.0), units(y)), units(DOT), dot))?;
                }
                text(area, (x + SWATCH + 5.0, y), &series.label, Lettering::new(TICK_SIZE, HPos::Left))?;
            }
            y += LINE_HEIGHT;
        }
        match self.unnamed(&l.legend) {
            Some(more) => text(area, (l.left, y), &more, Lettering::new(TICK_SIZE, HPos::Left)),
            None => Ok(()),
        }
    }

    /// True if a logarithmic x axis has a place for 0: every other x is at least 1.
    fn keeps_zero(&self) -> bool {
        let points = self.series.iter().flat_map(|s| s.points.iter().map(|p| p.0));
        let bands = self.series.iter().flat_map(|s| s.band.iter().map(|p| p.0));
        let mut all = points.chain(bands);
        self.x_scale == Scale::Log && all.all(|x| !(x > 0.0 && x < 1.0))
    }

    /// Consecutive drawable points.
    fn runs<'a>(&self, series: &'a Series) -> impl Iterator<Item = &'a [(f64, f64)]> + use<'a> {
        let (x_scale, y_scale, zero) = (self.x_scale, self.y_scale, self.keeps_zero());
        let shown =
            move |(x, y): &(f64, f64)| (can_show(x_scale, *x) || zero && *x == 0.0) && can_show(y_scale, *y);
        series.points.split(move |p| !shown(p)).filter(|run| !run.is_empty())
    }

    /// Outlines of the parts of a series' band: there along its upper side, back along the lower.
    fn bands(&self, series: &Series) -> Vec<Vec<(f64, f64)>> {
        let zero = self.keeps_zero();
        let broken = |&(x, lo, hi): &(f64, f64, f64)| {
            let along = can_show(self.x_scale, x) || zero && x == 0.0;
            !(along && drawable(lo) && can_show(self.y_scale, hi))
        };
        let outline = |part: &[(f64, f64, f64)]| {
            let (there, back) = (part.iter().map(|p| (p.0, p.2)), part.iter().rev().map(|p| (p.0, p.1)));
            there.chain(back).collect()
        };
        series.band.split(broken).filter(|part| part.len() > 1).map(outline).collect()
    }

    fn layout(&self) -> Layout {
        let bands: Vec<(f64, f64)> = self.series.iter().flat_map(|s| self.bands(s)).flatten().collect();
        let points = || self.series.iter().flat_map(|s| self.runs(s)).flatten().chain(&bands);
        let levels = || self.reference_lines.iter().map(|r| r.y).filter(|y| drawable(*y));
        let (width, height) = self.size;
        let x = extent(points().map(|p| p.0)).unwrap_or((0.0, 1.0));
        let x_ticks = (width / 65.0) as usize;
        let x = match self.x_scale {
            Scale::Log => {
                let positive = extent(points().map(|p| p.0).filter(|x| *x > 0.0)).unwrap_or((1.0, 10.0));
                Axis::log(positive.0, positive.1, x.0 == 0.0, x_ticks)
            }
            Scale::Linear if x.0 < x.1 => Axis::new(x.0, x.1, x_ticks),
            Scale::Linear => Axis::new(x.0 - 0.5, x.1 + 0.5, x_ticks),
        };
        let y_ticks = (height / 40.0) as usize;
        let shown = |y: &f64| self.y_scale == Scale::Linear || *y > 0.0;
        let y = self.y_range.or_else(|| extent(points().map(|p| p.1).chain(levels()).filter(shown)));
        let y = match (self.y_scale, y.unwrap_or((0.0, 1.0))) {
            (Scale::Log, (lo, hi)) if lo > 0.0 => {
                let margin = if self.y_range.is_some() { 1.0 } else { (hi / lo).powf(0.04).max(1.05) };
                Axis::log(lo / margin, hi * margin, false, y_ticks)
            }
            (_, (lo, hi)) if self.y_range.is_some() => Axis::new(lo, hi, y_ticks),
            (_, (lo, hi)) => {
                let margin = if hi > lo { (hi - lo) * 0.04 } else { hi.abs().max(1.0) * 0.05 };
                Axis::new(lo - margin, hi + margin, y_ticks)
            }
        };
        let references: Vec<(f64, String)> = self
            .reference_lines
            .iter()
            .map(|r| (y.scaled(r.y), format!("{} {}", r.label, value_label(r.y)).trim_start().to_string()))
            .filter(|(at, _)| *at >= y.range.0 && *at <= y.range.1)
            .collect();

        let width_of = |t: &String| text_width(t, TICK_SIZE, false);
        let widest = |axis: &Axis| axis.ticks.iter().map(|t| width_of(&axis.label(*t))).fold(0.0, f64::max);
        let half_last_tick = widest(&x) / 2.0;
        let mut right = half_last_tick;
        if !references.is_empty() {
            right = right.max(LEADER + 4.0 + references.iter().map(|(_, t)| width_of(t)).fold(0.0, f64::max));
        }
        let left = widest(&y) + 2.0 * TICK + 1.0 + if self.y_label.is_empty() { 0.0 } else { 20.0 };
        let legend = self.legend_rows(width + right);
        let heading = if self.title.is_empty() { 0.0 } else { TITLE_HEIGHT };
        let more = self.unnamed(&legend).is_some();
        let lines = legend.len() + usize::from(more);
        let legend_height = if legend.is_empty() { 0.0 } else { lines as f64 * LINE_HEIGHT + 6.0 };
        Layout {
            x,
            y,
            references,
            legend,
            left: PAD + left.max(half_last_tick),
            right: right + PAD,
            top: PAD + heading + legend_height + 4.0,
            bottom: 22.0 + if self.x_label.is_empty() { 0.0 } else { 16.0 } + PAD,
        }
    }

    /// Legend entries as rows of (series, x offset), above the plotting area where they cover no
    /// data.
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
        rows.truncate(LEGEND_LINES);
        rows
    }

    /// What is said of the curves that the legend has no room for.
    fn unnamed(&self, legend: &[Vec<(usize, f64)>]) -> Option<String> {
        let named = legend.iter().map(Vec::len).sum::<usize>();
        let all = self.series.iter().filter(|s| !s.label.is_empty()).count();
        (named < all).then(|| format!("and {} more curves", all - named))
    }
}

/// True if an axis has a place for `v`; for 0 on a logarithmic one see [`LineChart::keeps_zero`].
fn can_show(scale: Scale, v: f64) -> bool {
    match scale {
        Scale::Linear => drawable(v),
        Scale::Log => LOG_RANGE.contains(&v),
    }
}

fn extent(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |e, v| match e {
        None => Some((v, v)),
        Some((lo, hi)) => Some((lo.min(v), hi.max(v))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bands_break_at_gaps_and_widen_the_axis() {
        let band =
            vec![(0.0, -1.0, 1.0), (1.0, -2.0, 3.0), (2.0, f64::NAN, 0.0), (3.0, 0.0, 1.0), (4.0, 0.5, 2.0)];
        let series = Series { band, ..Series::new("s", vec![(0.0, 0.0), (4.0, 0.0)], 0) };
        let mut chart = LineChart { series: vec![series], ..LineChart::default() };
        let expected = [
            [(0.0, 1.0), (1.0, 3.0), (1.0, -2.0), (0.0, -1.0)],
            [(3.0, 1.0), (4.0, 2.0), (4.0, 0.5), (3.0, 0.0)],
        ];
        assert_eq!(chart.bands(&chart.series[0]), expected);
        let (lo, hi) = chart.layout().y.range;
        assert!(lo < -2.0 && hi > 3.0);
        let svg = crate::report::plot::Figure::from(chart.clone()).to_svg().unwrap();
        assert_eq!(svg.matches("<polygon").count(), 2);
        // A logarithmic axis of counts keeps 0; beside numbers below 1 it has no place.
        chart.x_scale = Scale::Log;
        assert_eq!(chart.bands(&chart.series[0]), expected);
        chart.series[0].points.push((0.5, 0.0));
        assert_eq!(chart.bands(&chart.series[0]), expected[1..]);
        // What is not positive has none along y.
        (chart.y_scale, chart.series[0].points) = (Scale::Log, vec![(1.0, 2.0), (2.0, -1.0), (3.0, 4.0)]);
        assert_eq!(chart.runs(&chart.series[0]).map(<[_]>::len).collect::<Vec<_>>(), [1, 1]);
    }
}

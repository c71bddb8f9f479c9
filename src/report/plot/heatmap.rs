//! Matrices as coloured cells, with the papers' block layout named along the edges.
//!
//! From the inside out, each edge carries: the cells, tick labels, block names, the axis label.

use std::fmt::Write as _;

use super::axis::{spread, tick_label, ticks};
use super::color::{Colormap, LEVELS, NAN_COLOR};
use super::font::text_width;
use super::scene::{Anchor, Rect, Scene, Stroke, TextStyle};
use super::{GAP, LABEL_SIZE, PAD, TICK_SIZE, TITLE_HEIGHT, draw_title, drawable, keep_inside, title_width};
use crate::error::{Error, Result};

/// A named run of neighbouring rows or columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Name along the edge; may be empty.
    pub label: String,
    /// Rows or columns in it.
    pub size: usize,
}

impl Block {
    /// A block of `size` rows or columns.
    pub fn new(label: impl Into<String>, size: usize) -> Self {
        Self { label: label.into(), size }
    }
}

/// What is written at single rows or columns.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Ticks {
    /// Nothing.
    #[default]
    None,
    /// Their numbers, counted from here; as many as fit.
    From(usize),
    /// One label each; as many as fit.
    Labels(Vec<String>),
}

/// A matrix.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HeatMap {
    /// Heading; empty for none.
    pub title: String,
    /// Values, row-major, `rows` x `cols`. NaN cells are grey.
    pub values: Vec<f64>,
    /// Number of rows; row 0 is drawn on top.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// Blocks of rows from the top; empty, or of `rows` rows in all.
    pub row_blocks: Vec<Block>,
    /// Blocks of columns from the left; empty, or of `cols` columns in all.
    pub col_blocks: Vec<Block>,
    /// Colours.
    pub colormap: Colormap,
    /// Values at the ends of the colour bar, values beyond them clamped; from the data when absent.
    pub range: Option<(f64, f64)>,
    /// Labels of single rows.
    pub row_ticks: Ticks,
    /// Labels of single columns.
    pub col_ticks: Ticks,
    /// Name of the column axis, below.
    pub x_label: String,
    /// Name of the row axis, on the left.
    pub y_label: String,
}

/// Longest side of the cells, px, and of the cells of a matrix much longer than wide.
const SIDE: f64 = 330.0;
const LONG_SIDE: f64 = 480.0;
/// Largest cell, px.
const MAX_CELL: f64 = 32.0;
const BAR_WIDTH: f64 = 12.0;
const MIN_BAR: f64 = 90.0;
const LINE_HEIGHT: f64 = 13.0;

/// Sizes of the parts around the cells, px.
struct Layout {
    cell: f64,
    range: (f64, f64),
    /// Width of the row tick labels.
    row_ticks: f64,
    /// Height of the column tick labels and of the column block names.
    col_ticks: f64,
    col_names: f64,
    col_names_upward: bool,
    bar_labels: Vec<(f64, String)>,
    left: f64,
    top: f64,
    content: (f64, f64),
    size: (f64, f64),
}

impl HeatMap {
    pub(super) fn check(&self) -> Result<()> {
        let Self { rows, cols, .. } = *self;
        if rows == 0 || cols == 0 || rows.checked_mul(cols) != Some(self.values.len()) {
            return Err(Error::invalid(
                "heat map values",
                format!("{} values for {rows} x {cols}", self.values.len()),
                "rows x cols values, at least one",
            ));
        }
        if rows.max(cols) > 4000 {
            return Err(Error::invalid("heat map size", format!("{rows} x {cols}"), "at most 4000 a side"));
        }
        for (name, blocks, tick, count) in [
            ("row", &self.row_blocks, &self.row_ticks, rows),
            ("col", &self.col_blocks, &self.col_ticks, cols),
        ] {
            let sum = blocks.iter().try_fold(0_usize, |s, b| s.checked_add(b.size));
            if !blocks.is_empty() && sum != Some(count) {
                let problem = format!("sizes sum to {sum:?} for {count} {name}s");
                return Err(Error::invalid(
                    format!("{name}_blocks"),
                    problem,
                    format!("sizes that sum to {count}"),
                ));
            }
            if let Ticks::Labels(labels) = tick
                && labels.len() != count
            {
                let problem = format!("{} labels", labels.len());
                return Err(Error::invalid(format!("{name}_ticks"), problem, format!("{count} labels")));
            }
        }
        match self.range {
            Some((lo, hi)) if !(lo < hi && drawable(lo) && drawable(hi)) => {
                Err(Error::invalid("range", format!("{lo} to {hi}"), "two finite numbers, the lesser first"))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn natural_size(&self) -> (f64, f64) {
        self.layout().size
    }

    pub(super) fn draw(&self, scene: &mut Scene, (x0, y0): (f64, f64)) {
        let l = self.layout();
        let area = Rect {
            x: x0 + l.left,
            y: y0 + l.top,
            w: self.cols as f64 * l.cell,
            h: self.rows as f64 * l.cell,
        };
        draw_title(scene, &self.title, area.x + area.w / 2.0, (x0, y0, l.size.0));
        scene.cells((area.x, area.y), (l.cell, l.cell), |svg| self.put_cells(svg, l.range));
        self.draw_separators(scene, area, l.cell);
        scene.frame(area, Stroke::solid("#444444", 1.0));
        self.draw_row_edge(scene, &l, area);
        self.draw_col_edge(scene, &l, area);
        let style = TextStyle::new(LABEL_SIZE, Anchor::Middle);
        let below = area.bottom() + l.col_ticks + l.col_names + 13.0;
        let centre = keep_inside(area.x + area.w / 2.0, self.x_label_width(), x0, l.size.0);
        scene.text((centre, below), &self.x_label, style);
        let upward = TextStyle { upward: true, ..style };
        let middle = keep_inside(area.y + area.h / 2.0, self.y_label_width(), area.y, l.content.1);
        scene.text((x0 + PAD + 6.0, middle), &self.y_label, upward);
        self.draw_bar(scene, &l, area);
    }

    /// Cells in unit coordinates: one path per colour, neighbours of a row merged, the commonest colour as one
    /// ground under all.
    fn put_cells(&self, svg: &mut String, range: (f64, f64)) {
        let level = |v: f64| Colormap::level(v, range).unwrap_or(LEVELS);
        let mut counts = [0_usize; LEVELS + 1];
        self.values.iter().for_each(|&v| counts[level(v)] += 1);
        let ground = (0..=LEVELS).max_by_key(|&i| (counts[i], i)).unwrap_or(LEVELS);
        let mut paths = vec![String::new(); LEVELS + 1];
        for (i, row) in self.values.chunks(self.cols).enumerate() {
            let mut j = 0;
            for run in row.chunk_by(|&a, &b| level(a) == level(b)) {
                let (color, n) = (level(run[0]), run.len());
                if color != ground {
                    // Infallible: writing to a String.
                    let _ = write!(paths[color], "M{j} {i}h{n}v1h-{n}z");
                }
                j += n;
            }
        }
        let color_of = |i: usize| if i == LEVELS { NAN_COLOR.to_string() } else { self.colormap.color(i) };
        let (rows, cols) = (self.rows, self.cols);
        let _ = writeln!(svg, "<path fill=\"{}\" d=\"M0 0h{cols}v{rows}h-{cols}z\"/>", color_of(ground));
        for (i, path) in paths.iter().enumerate().filter(|(_, p)| !p.is_empty()) {
            let _ = writeln!(svg, "<path fill=\"{}\" d=\"{path}\"/>", color_of(i));
        }
    }

    fn draw_separators(&self, scene: &mut Scene, area: Rect, cell: f64) {
        // White under dark shows on either end of a colour map.
        for stroke in [Stroke::solid("#ffffff", 2.0), Stroke::solid("#444444", 0.8)] {
            for y in inner_edges(&self.row_blocks) {
                let y = area.y + y as f64 * cell;
                scene.line((area.x, y), (area.right(), y), stroke);
            }
            for x in inner_edges(&self.col_blocks) {
                let x = area.x + x as f64 * cell;
                scene.line((x, area.y), (x, area.bottom()), stroke);
            }
        }
    }

    fn draw_row_edge(&self, scene: &mut Scene, l: &Layout, area: Rect) {
        let style = TextStyle::new(TICK_SIZE, Anchor::End);
        for (i, label) in tick_labels(&self.row_ticks, self.rows, LINE_HEIGHT / l.cell) {
            scene.text((area.x - 5.0, area.y + (i as f64 + 0.5) * l.cell), &label, style);
        }
        let x = area.x - l.row_ticks - 4.0;
        let centres = block_centres(&self.row_blocks, area.y, l.cell);
        let placed = spread(&centres, LINE_HEIGHT, area.y - 2.0, area.y + l.content.1 + 2.0);
        for ((block, wish), y) in self.row_blocks.iter().zip(&centres).zip(placed) {
            bracket(scene, block, |t| (x, wish + t * l.cell), |t| (x - 3.0, wish + t * l.cell));
            scene.text((x - 8.0, y), &block.label, style);
        }
    }

    fn draw_col_edge(&self, scene: &mut Scene, l: &Layout, area: Rect) {
        let style = TextStyle::new(TICK_SIZE, Anchor::Middle);
        for (j, label) in self.fitting_col_ticks(l.cell) {
            scene.text((area.x + (j as f64 + 0.5) * l.cell, area.bottom() + 10.0), &label, style);
        }
        let y = area.bottom() + l.col_ticks + 4.0;
        let centres = block_centres(&self.col_blocks, area.x, l.cell);
        let placed = if l.col_names_upward {
            spread(&centres, LINE_HEIGHT, area.x - 2.0, area.x + l.content.0 + 2.0)
        } else {
            centres.clone()
        };
        for ((block, wish), x) in self.col_blocks.iter().zip(&centres).zip(placed) {
            bracket(scene, block, |t| (wish + t * l.cell, y), |t| (wish + t * l.cell, y + 3.0));
            if l.col_names_upward {
                let upward = TextStyle { upward: true, anchor: Anchor::End, ..style };
                scene.text((x, y + 8.0), &block.label, upward);
            } else {
                scene.text((x, y + 12.0), &block.label, style);
            }
        }
    }

    fn draw_bar(&self, scene: &mut Scene, l: &Layout, area: Rect) {
        let height = area.h.max(MIN_BAR);
        let bar = Rect { x: area.x + l.content.0 + GAP, y: area.y, w: BAR_WIDTH, h: height };
        scene.cells((bar.x, bar.y), (bar.w, bar.h / LEVELS as f64), |svg| {
            for i in 0..LEVELS {
                // Each stripe reaches to the bottom, under the next ones: no rounding can open a gap.
                let (y, color) = (i, self.colormap.color(LEVELS - 1 - i));
                let _ = writeln!(svg, "<path fill=\"{color}\" d=\"M0 {y}h1V{LEVELS}h-1z\"/>");
            }
        });
        let line = Stroke::solid("#444444", 1.0);
        scene.frame(bar, line);
        for (v, label) in &l.bar_labels {
            let y = bar.bottom() - (v - l.range.0) / (l.range.1 - l.range.0) * bar.h;
            scene.line((bar.right(), y), (bar.right() + 3.0, y), line);
            scene.text((bar.right() + 6.0, y), label, TextStyle::new(TICK_SIZE, Anchor::Start));
        }
        if self.values.iter().any(|v| v.is_nan()) {
            let y = bar.bottom() + 8.0;
            scene.rect(Rect { x: bar.x, y, w: BAR_WIDTH, h: BAR_WIDTH }, NAN_COLOR);
            let style = TextStyle::new(TICK_SIZE, Anchor::Start);
            scene.text((bar.right() + 6.0, y + BAR_WIDTH / 2.0), "NaN", style);
        }
    }

    fn x_label_width(&self) -> f64 {
        text_width(&self.x_label, LABEL_SIZE, false) + 2.0 * PAD
    }

    fn y_label_width(&self) -> f64 {
        text_width(&self.y_label, LABEL_SIZE, false)
    }

    /// Column tick labels that fit beside each other.
    fn fitting_col_ticks(&self, cell: f64) -> Vec<(usize, String)> {
        let widest = match &self.col_ticks {
            Ticks::None => 0.0,
            Ticks::From(first) => text_width(&(first + self.cols).to_string(), TICK_SIZE, false),
            Ticks::Labels(labels) => {
                labels.iter().map(|t| text_width(t, TICK_SIZE, false)).fold(0.0, f64::max)
            }
        };
        tick_labels(&self.col_ticks, self.cols, (widest + 5.0) / cell)
    }

    fn layout(&self) -> Layout {
        let (rows, cols) = (self.rows as f64, self.cols as f64);
        let (long, short) = (rows.max(cols), rows.min(cols));
        let side = if long >= 4.0 * short { LONG_SIDE } else { SIDE };
        // Whole px, so that cells of one matrix are all equally large; half px still are in the PNG.
        let cell = match side / long {
            c if c >= 1.0 => c.floor().min(MAX_CELL),
            c if c >= 0.5 => 0.5_f64.max(c.floor()),
            _ => 0.5,
        };
        let range = self.range.unwrap_or_else(|| self.colormap.range_of(&self.values));
        let widest = |texts: &mut dyn Iterator<Item = &str>| {
            texts.map(|t| text_width(t, TICK_SIZE, false)).fold(0.0, f64::max)
        };
        let row_labels = tick_labels(&self.row_ticks, self.rows, LINE_HEIGHT / cell);
        let row_ticks = if row_labels.is_empty() {
            0.0
        } else {
            widest(&mut row_labels.iter().map(|(_, t)| t.as_str())) + 6.0
        };
        let row_names = match widest(&mut self.row_blocks.iter().map(|b| b.label.as_str())) {
            _ if self.row_blocks.is_empty() => 0.0,
            w => w + 12.0,
        };
        let name_width = |b: &Block| text_width(&b.label, TICK_SIZE, false);
        let col_names_upward = self.col_blocks.iter().any(|b| name_width(b) + 6.0 > b.size as f64 * cell);
        let col_names = match self.col_blocks.iter().map(name_width).fold(0.0, f64::max) {
            _ if self.col_blocks.is_empty() => 0.0,
            w if col_names_upward => w + 12.0,
            _ => 20.0,
        };
        let col_ticks = if matches!(self.col_ticks, Ticks::None) { 0.0 } else { 17.0 };

        let area = (cols * cell, rows * cell);
        let spread_width = if col_names_upward { self.col_blocks.len() as f64 * LINE_HEIGHT } else { 0.0 };
        let spread_height = self.row_blocks.len() as f64 * LINE_HEIGHT;
        let content = (
            area.0.max(spread_width - LINE_HEIGHT),
            area.1.max(MIN_BAR).max(self.y_label_width()).max(spread_height - LINE_HEIGHT),
        );
        let (positions, step) = ticks(range.0, range.1, (area.1.max(MIN_BAR) / 45.0) as usize);
        let largest = positions.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
        let bar_labels: Vec<(f64, String)> =
            positions.into_iter().map(|v| (v, tick_label(v, step, largest))).collect();
        let bar_text = widest(&mut bar_labels.iter().map(|(_, t)| t.as_str()).chain(["NaN"]));

        let y_name = if self.y_label.is_empty() { 0.0 } else { 20.0 };
        let left = PAD + y_name + row_names + row_ticks + if row_names + row_ticks > 0.0 { 0.0 } else { 2.0 };
        let top = PAD + if self.title.is_empty() { 0.0 } else { TITLE_HEIGHT };
        let x_name = if self.x_label.is_empty() { 0.0 } else { 22.0 };
        let width = left + content.0 + GAP + BAR_WIDTH + 6.0 + bar_text + PAD;
        let below_bar = area.1.max(MIN_BAR) + 8.0 + BAR_WIDTH;
        let height = top + (area.1 + col_ticks + col_names + x_name).max(content.1).max(below_bar) + PAD;
        Layout {
            cell,
            range,
            row_ticks,
            col_ticks,
            col_names,
            col_names_upward,
            bar_labels,
            left,
            top,
            content,
            size: (width.max(title_width(&self.title)).max(self.x_label_width()), height),
        }
    }
}

/// Edges between blocks, in cells.
fn inner_edges(blocks: &[Block]) -> impl Iterator<Item = usize> + '_ {
    let ends = blocks.iter().scan(0, |at, b| {
        *at += b.size;
        Some(*at)
    });
    ends.take(blocks.len().saturating_sub(1))
}

/// Centres of blocks, px, when cell 0 starts at `start`.
fn block_centres(blocks: &[Block], start: f64, cell: f64) -> Vec<f64> {
    let mut at = 0;
    let centre = |b: &Block| {
        let centre = start + (at as f64 + b.size as f64 / 2.0) * cell;
        at += b.size;
        centre
    };
    blocks.iter().map(centre).collect()
}

/// A bracket along a block, a little shorter than it; `near` and `far` map an offset in cells from the block's centre
/// to its open and its closed side.
fn bracket(
    scene: &mut Scene,
    block: &Block,
    near: impl Fn(f64) -> (f64, f64),
    far: impl Fn(f64) -> (f64, f64),
) {
    let half = block.size as f64 / 2.0;
    let half = (half - 0.15).max(half * 0.8);
    scene.polyline(&[near(-half), far(-half), far(half), near(half)], Stroke::solid("#888888", 0.8));
}

/// Labels at every `n`-th row or column, where `n` is a round number of at least `room`.
fn tick_labels(ticks: &Ticks, count: usize, room: f64) -> Vec<(usize, String)> {
    let stride = match ticks {
        Ticks::None => return Vec::new(),
        _ => [1, 2, 5, 10, 20, 25, 50, 100, 200, 500, 1000].into_iter().find(|&s| s as f64 >= room),
    };
    let stride = stride.unwrap_or(count);
    match ticks {
        Ticks::None => Vec::new(),
        // Numbers that are multiples of the stride read better than the first and every n-th after it.
        Ticks::From(first) => (0..count)
            .map(|i| (i, i + first))
            .filter(|(_, n)| n % stride == 0)
            .map(|(i, n)| (i, n.to_string()))
            .collect(),
        Ticks::Labels(labels) => labels.iter().cloned().enumerate().step_by(stride).collect(),
    }
}

//! Matrices as coloured cells, with the papers' block layout named along the edges.
//!
//! From the inside out, each edge carries: the cells, tick labels, block names, the axis label.

use std::borrow::Cow;

use plotters::prelude::*;
use plotters::style::text_anchor::HPos;
use serde::{Deserialize, Serialize};

use super::axis::{Axis, spread};
use super::canvas::{AXIS, Area, Drawn, Image, Lettering, Point, path, stroke, text, units};
use super::cells::{Cells, factors, pooled};
use super::color::{Colormap, LEVELS, NAN_COLOR};
use super::edge::{Block, Ticks, block_centres, half_bracket, inner_edges};
use super::font::text_width;
use super::record;
use super::{GAP, LABEL_SIZE, PAD, TICK_SIZE, TITLE_HEIGHT, draw_title, drawable, keep_inside, title_width};
use crate::error::{Error, Result};

/// A matrix.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HeatMap {
    /// Heading; empty for none.
    pub title: String,
    /// Values, row-major, `rows` x `cols`, or pooled. NaN cells are grey.
    #[serde(with = "record")]
    pub values: Vec<f64>,
    /// Number of rows; row 0 is drawn on top.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// Rows and columns that each of `values` stands for, see [`HeatMap::of`]; none of (0, 0).
    pub pool: (usize, usize),
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
/// Most cells that are a rectangle of the SVG each, about 90 bytes; more are one image.
const RECTANGLES: usize = 64 * 64;
/// Least room of a block, px, for a line beside it to be told from the next.
const MIN_BLOCK: f64 = 3.0;
const BAR_WIDTH: f64 = 12.0;
const MIN_BAR: f64 = 90.0;
const LINE_HEIGHT: f64 = 13.0;
/// Length of a tick mark; plotters puts its label twice as far away.
const TICK: f64 = 2.5;
const BRACKET: RGBColor = RGBColor(0x88, 0x88, 0x88);

/// Sizes of the parts around the cells, px.
struct Layout {
    /// A row and a column.
    row: f64,
    col: f64,
    /// Rows and columns that a drawn cell stands for.
    pool: (usize, usize),
    /// Drawn cells a column and a row.
    drawn: (usize, usize),
    range: (f64, f64),
    bar: Axis,
    /// Width of the row tick labels.
    row_ticks: f64,
    /// Most labels of rows and of columns that fit.
    row_labels: usize,
    col_labels: usize,
    /// Height of the column tick labels and of the column block names.
    col_ticks: f64,
    col_names: f64,
    col_names_upward: bool,
    /// Upper left corner and size of the cells.
    at: Point,
    cells: Point,
    /// Size of the cells with what must fit beside and below them.
    content: Point,
    size: Point,
}

impl HeatMap {
    /// A matrix (`rows`, `cols`) without names. If it is too large to be drawn cell by cell, it is
    /// pooled: each cell is then the entry of largest size among the k x l that it covers, so that
    /// thin structure survives, and the heading says so. Larger matrices in `values` are pooled
    /// likewise when they are drawn; this does not copy them first.
    pub fn of(values: &[f64], rows: usize, cols: usize) -> HeatMap {
        let fits = rows > 0 && cols > 0 && rows.checked_mul(cols) == Some(values.len());
        let pool = if fits { factors(rows, cols) } else { (1, 1) };
        let values = pooled(values, cols.max(1), pool).into_owned();
        HeatMap { values, rows, cols, pool, ..HeatMap::default() }
    }

    /// As [`HeatMap::of`] for a matrix of zeros but for `entries` (row, column, value); those
    /// outside are left out. The matrix itself is never made.
    pub fn sparse(
        rows: usize,
        cols: usize,
        entries: impl IntoIterator<Item = (usize, usize, f64)>,
    ) -> HeatMap {
        let pool = factors(rows, cols);
        let width = cols.div_ceil(pool.1);
        let mut values = vec![0.0_f64; rows.div_ceil(pool.0) * width];
        for (i, j, x) in entries {
            let at = i / pool.0 * width + j / pool.1;
            if i < rows && j < cols && x.abs() > values[at].abs() {
                values[at] = x;
            }
        }
        HeatMap { values, rows, cols, pool, ..HeatMap::default() }
    }

    /// Rows and columns that a cell of `values` stands for.
    fn pool(&self) -> (usize, usize) {
        (self.pool.0.max(1), self.pool.1.max(1))
    }

    /// `values` pooled as they are drawn, and by how much.
    fn drawn_values(&self) -> (Cow<'_, [f64]>, (usize, usize)) {
        match self.pool() {
            (1, 1) => {
                let pool = factors(self.rows, self.cols);
                (pooled(&self.values, self.cols, pool), pool)
            }
            pool => (Cow::Borrowed(&self.values), pool),
        }
    }

    /// True for a relation, whose cells are 0 or 1: it needs no bar.
    fn is_binary(&self) -> bool {
        self.colormap == Colormap::Binary && self.drawn_values().0.iter().all(|v| *v == 0.0 || *v == 1.0)
    }

    fn heading(&self) -> String {
        let own = Some(self.pool()).filter(|p| *p != (1, 1));
        match own.unwrap_or_else(|| factors(self.rows, self.cols)) {
            (1, 1) => self.title.clone(),
            (k, l) => format!("{} (largest of each {k} x {l})", self.title).trim_start().into(),
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        let Self { rows, cols, .. } = *self;
        let (k, l) = self.pool();
        let held = rows.div_ceil(k).checked_mul(cols.div_ceil(l));
        if rows == 0 || cols == 0 || held != Some(self.values.len()) {
            return Err(Error::invalid(
                "heat map values",
                format!("{} values for {rows} x {cols} in cells of {k} x {l}", self.values.len()),
                "rows x cols values, at least one, or as pooled",
            ));
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
            if let Ticks::Labels(labels) | Ticks::Letters(labels) = tick
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

    pub(super) fn draw(&self, area: &Area<'_>, images: &mut Vec<Image>) -> Drawn {
        let l = self.layout();
        let ((x, y), (w, h)) = (l.at, l.cells);
        draw_title(area, &self.heading(), x + w / 2.0, l.size.0)?;
        self.draw_cells(area, &l, images)?;
        self.draw_separators(area, &l)?;
        self.draw_row_names(area, &l)?;
        self.draw_col_names(area, &l)?;
        let style = Lettering::new(LABEL_SIZE, HPos::Center);
        let below = y + h + l.col_ticks + l.col_names + 12.0;
        let centre = keep_inside(x + w / 2.0, self.x_label_width(), 0.0, l.size.0);
        text(area, (centre, below), &self.x_label, style)?;
        let upward = Lettering { upward: true, ..style };
        let middle = keep_inside(y + h / 2.0, self.y_label_width(), y, l.content.1);
        text(area, (PAD + 6.0, middle), &self.y_label, upward)?;
        self.draw_bar(area, &l)
    }

    /// The cells, in coordinates where cell (i, j) is the unit square around the point with these
    /// numbers, and plotters' tick labels at them. Neighbours of a row that share a colour are one
    /// rectangle; many cells are an image.
    fn draw_cells(&self, area: &Area<'_>, l: &Layout, images: &mut Vec<Image>) -> Drawn {
        let (first_row, first_col) = (self.row_ticks.first(), self.col_ticks.first());
        let (left, below) = (units(l.row_ticks), units(l.col_ticks));
        // plotters' last unit is the far edge, not the one beyond it: a canvas unit more.
        let (w, h) = (units(l.cells.0) + 1, units(l.cells.1) + 1);
        let place = area.clone().shrink((units(l.at.0) - left, units(l.at.1)), (w + left, h + below));
        let mut chart = ChartBuilder::on(&place)
            .set_label_area_size(LabelAreaPosition::Left, left)
            .set_label_area_size(LabelAreaPosition::Bottom, below)
            .build_cartesian_2d(
                first_col - 0.5..first_col - 0.5 + (l.drawn.1 * l.pool.1) as f64,
                first_row - 0.5 + (l.drawn.0 * l.pool.0) as f64..first_row - 0.5,
            )?;
        let values = self.drawn_values().0;
        let many = values.len() > RECTANGLES;
        if many {
            let (x, y) = area.get_base_pixel();
            let (colormap, range) = (self.colormap, l.range);
            let cells = Cells { values: values.to_vec(), rows: l.drawn.0, cols: l.drawn.1, range, colormap };
            let at = (x + units(l.at.0), y + units(l.at.1));
            images.push(Image { at, size: (units(l.cells.0), units(l.cells.1)), cells });
        }
        let level = |v: f64| Colormap::level(v, l.range).unwrap_or(LEVELS);
        let mut cells = Vec::new();
        // Few cells are never pooled, so these are single rows and columns.
        for (i, row) in values.chunks(self.cols).enumerate().filter(|_| !many) {
            let (mut j, i) = (0, i as f64 + first_row);
            for run in row.chunk_by(|&a, &b| level(a) == level(b)) {
                let color =
                    if level(run[0]) == LEVELS { NAN_COLOR } else { self.colormap.color(level(run[0])) };
                let (from, to) = (j as f64 + first_col - 0.5, (j + run.len()) as f64 + first_col - 0.5);
                cells.push(Rectangle::new([(from, i - 0.5), (to, i + 0.5)], color.filled()));
                j += run.len();
            }
        }
        chart.draw_series(cells)?;
        let lettering = Lettering::new(TICK_SIZE, HPos::Center);
        let mut mesh = chart.configure_mesh();
        mesh.disable_mesh()
            .max_light_lines(0)
            .axis_style(stroke(AXIS, 1.0))
            .set_all_tick_mark_size(units(TICK))
            .label_style(lettering.style())
            .x_labels(l.col_labels)
            .y_labels(l.row_labels)
            .y_label_offset(lettering.drop());
        // The last pooled cells may reach beyond the matrix.
        let inside = |ticks: &Ticks, count: usize, v: f64| match v - ticks.first() < count as f64 - 0.5 {
            true => ticks.label(v),
            false => String::new(),
        };
        let rows = |v: &f64| inside(&self.row_ticks, self.rows, *v);
        let cols = |v: &f64| inside(&self.col_ticks, self.cols, *v);
        mesh.x_label_formatter(&cols).y_label_formatter(&rows).draw()
    }

    fn draw_separators(&self, area: &Area<'_>, l: &Layout) -> Drawn {
        let ((x, y), (w, h)) = (l.at, l.cells);
        // White under dark shows on either end of a colour map.
        for style in [stroke(WHITE, 1.5), stroke(AXIS, 0.75)] {
            for row in inner_edges(&self.row_blocks).filter(|_| distinct(&self.row_blocks, h)) {
                let y = y + row as f64 * l.row;
                path(area, &[(x, y), (x + w, y)], style)?;
            }
            for col in inner_edges(&self.col_blocks).filter(|_| distinct(&self.col_blocks, w)) {
                let x = x + col as f64 * l.col;
                path(area, &[(x, y), (x, y + h)], style)?;
            }
        }
        frame(area, l.at, l.cells)
    }

    fn draw_row_names(&self, area: &Area<'_>, l: &Layout) -> Drawn {
        if !distinct(&self.row_blocks, l.cells.1) {
            return Ok(());
        }
        let x = l.at.0 - l.row_ticks - 4.0;
        let centres = block_centres(&self.row_blocks, l.at.1, l.row);
        let placed = spread(&centres, LINE_HEIGHT, l.at.1 - 2.0, l.at.1 + l.content.1 + 2.0);
        for ((block, wish), y) in self.row_blocks.iter().zip(&centres).zip(placed) {
            let half = half_bracket(block, l.row);
            let (top, bottom) = (wish - half, wish + half);
            path(area, &[(x, top), (x - 3.0, top), (x - 3.0, bottom), (x, bottom)], stroke(BRACKET, 0.75))?;
            text(area, (x - 8.0, y), &block.label, Lettering::new(TICK_SIZE, HPos::Right))?;
        }
        Ok(())
    }

    fn draw_col_names(&self, area: &Area<'_>, l: &Layout) -> Drawn {
        if !distinct(&self.col_blocks, l.cells.0) {
            return Ok(());
        }
        let y = l.at.1 + l.cells.1 + l.col_ticks + 4.0;
        let centres = block_centres(&self.col_blocks, l.at.0, l.col);
        let placed = if l.col_names_upward {
            spread(&centres, LINE_HEIGHT, l.at.0 - 2.0, l.at.0 + l.content.0 + 2.0)
        } else {
            centres.clone()
        };
        for ((block, wish), x) in self.col_blocks.iter().zip(&centres).zip(placed) {
            let half = half_bracket(block, l.col);
            let (left, right) = (wish - half, wish + half);
            path(area, &[(left, y), (left, y + 3.0), (right, y + 3.0), (right, y)], stroke(BRACKET, 0.75))?;
            let style = Lettering::new(TICK_SIZE, HPos::Center);
            if l.col_names_upward {
                let upward = Lettering { upward: true, anchor: HPos::Right, ..style };
                text(area, (x, y + 8.0), &block.label, upward)?;
            } else {
                text(area, (x, y + 12.0), &block.label, style)?;
            }
        }
        Ok(())
    }

    /// The colour bar. Its ticks stand on the right, where plotters aligns labels by widths that it
    /// guesses, so they are drawn one by one.
    fn draw_bar(&self, area: &Area<'_>, l: &Layout) -> Drawn {
        if self.is_binary() {
            return Ok(());
        }
        let (x, y) = (l.at.0 + l.content.0 + GAP, l.at.1);
        let size = (BAR_WIDTH, l.cells.1.max(MIN_BAR));
        let place = area.clone().shrink((units(x), units(y)), (units(size.0) + 1, units(size.1) + 1));
        let mut chart =
            ChartBuilder::on(&place).build_cartesian_2d(0.0..1.0, l.bar.range.0..l.bar.range.1)?;
        let (lo, hi) = l.bar.range;
        // Each stripe reaches to the top, under the next ones: no rounding can open a gap.
        chart.draw_series((0..LEVELS).map(|i| {
            let from = lo + (hi - lo) * i as f64 / LEVELS as f64;
            Rectangle::new([(0.0, from), (1.0, hi)], self.colormap.color(i).filled())
        }))?;
        frame(area, (x, y), size)?;
        let (right, style) = (x + size.0, Lettering::new(TICK_SIZE, HPos::Left));
        for &tick in &l.bar.ticks {
            let y = y + (hi - tick) / (hi - lo) * size.1;
            path(area, &[(right, y), (right + 3.0, y)], stroke(AXIS, 1.0))?;
            text(area, (right + 6.0, y), &l.bar.label(tick), style)?;
        }
        if self.drawn_values().0.iter().any(|v| v.is_nan()) {
            let y = y + size.1 + 8.0;
            let corners = [(units(x), units(y)), (units(x + BAR_WIDTH), units(y + BAR_WIDTH))];
            area.draw(&Rectangle::new(corners, NAN_COLOR.filled()))?;
            text(area, (right + 6.0, y + BAR_WIDTH / 2.0), "no value", style)?;
        }
        Ok(())
    }

    fn x_label_width(&self) -> f64 {
        text_width(&self.x_label, LABEL_SIZE, false) + 2.0 * PAD
    }

    fn y_label_width(&self) -> f64 {
        text_width(&self.y_label, LABEL_SIZE, false)
    }

    fn layout(&self) -> Layout {
        let (values, pool) = self.drawn_values();
        let drawn = (self.rows.div_ceil(pool.0), self.cols.div_ceil(pool.1));
        let (rows, cols) = (drawn.0 as f64, drawn.1 as f64);
        let (long, short) = (rows.max(cols), rows.min(cols));
        let side = if long >= 4.0 * short { LONG_SIDE } else { SIDE };
        // Whole px, so that cells of one matrix are all equally large; half px still are in the
        // PNG.
        let cell = match side / long {
            c if c >= 1.0 => c.floor().min(MAX_CELL),
            _ => 0.5,
        };
        let lettered = |ticks: &Ticks| matches!(ticks, Ticks::Letters(_));
        let cell =
            if lettered(&self.row_ticks) || lettered(&self.col_ticks) { cell.max(LINE_HEIGHT) } else { cell };
        let range = self.range.unwrap_or_else(|| self.colormap.range_of(&values));
        let width_of = |t: &str| text_width(t, TICK_SIZE, false);
        let widest = |ticks: &Ticks, count: usize| match ticks {
            Ticks::None => 0.0,
            Ticks::From(first) => width_of(&(first + count).to_string()),
            Ticks::Labels(labels) | Ticks::Letters(labels) => {
                labels.iter().map(|t| width_of(t)).fold(0.0, f64::max)
            }
        };
        let shown = |ticks: &Ticks| !matches!(ticks, Ticks::None);
        let cells = (cols * cell, rows * cell);
        // Never more than one a cell, or plotters labels between them. Numbers are equally dense on
        // both sides.
        let fitting = |length: f64, gap: f64, count: usize| ((length / gap) as usize).clamp(1, count);
        let widest_col = widest(&self.col_ticks, self.cols);
        // Letters that are words after all are as many as fit.
        let apart = if lettered(&self.col_ticks) && widest_col <= cell { 0.0 } else { widest_col + 5.0 };
        let col_room = LINE_HEIGHT.max(apart);
        let numbers = matches!((&self.row_ticks, &self.col_ticks), (Ticks::From(_), Ticks::From(_)));
        let row_room = if numbers { col_room } else { LINE_HEIGHT };
        let row_ticks =
            if shown(&self.row_ticks) { widest(&self.row_ticks, self.rows) + 2.0 * TICK + 1.0 } else { 0.0 };
        let name_width = |b: &Block| width_of(&b.label);
        let widest_name = |blocks: &[Block]| blocks.iter().map(name_width).fold(0.0, f64::max);
        let row_names = if self.row_blocks.is_empty() { 0.0 } else { widest_name(&self.row_blocks) + 12.0 };
        let (row, col) = (cell / pool.0 as f64, cell / pool.1 as f64);
        let col_names_upward = self.col_blocks.iter().any(|b| name_width(b) + 6.0 > b.size as f64 * col);
        let col_names = match widest_name(&self.col_blocks) {
            _ if self.col_blocks.is_empty() => 0.0,
            w if col_names_upward => w + 12.0,
            _ => 20.0,
        };
        let col_ticks = if shown(&self.col_ticks) { 17.0 } else { 0.0 };

        let named = |blocks: &[Block], side: f64| {
            let some = blocks.iter().any(|b| !b.label.is_empty());
            if some && distinct(blocks, side) { blocks.len() } else { 0 }
        };
        let spread_width =
            if col_names_upward { named(&self.col_blocks, cells.0) as f64 * LINE_HEIGHT } else { 0.0 };
        let spread_height = named(&self.row_blocks, cells.1) as f64 * LINE_HEIGHT;
        let content = (
            cells.0.max(spread_width - LINE_HEIGHT),
            cells.1.max(MIN_BAR).max(self.y_label_width()).max(spread_height - LINE_HEIGHT),
        );
        let bar = Axis::new(range.0, range.1, ((cells.1.max(MIN_BAR) / 30.0) as usize).min(9));
        let bar_labels = bar.ticks.iter().map(|t| width_of(&bar.label(*t)));
        let bar_text = bar_labels.fold(width_of("no value"), f64::max);

        let y_name = if self.y_label.is_empty() { 0.0 } else { 20.0 };
        let left = PAD + y_name + row_names + row_ticks + if row_names + row_ticks > 0.0 { 0.0 } else { 2.0 };
        let top = PAD + if self.heading().is_empty() { 0.0 } else { TITLE_HEIGHT };
        let x_name = if self.x_label.is_empty() { 0.0 } else { 22.0 };
        let (bar_room, below_bar) = match self.is_binary() {
            true => (0.0, 0.0),
            false => (GAP + BAR_WIDTH + 6.0 + bar_text, cells.1.max(MIN_BAR) + 8.0 + BAR_WIDTH),
        };
        let width = left + content.0 + bar_room + PAD;
        let height = top + (cells.1 + col_ticks + col_names + x_name).max(content.1).max(below_bar) + PAD;
        Layout {
            row,
            col,
            pool,
            drawn,
            range,
            bar,
            row_ticks,
            row_labels: fitting(cells.1, row_room, self.rows),
            col_labels: fitting(cells.0, col_room, self.cols),
            col_ticks,
            col_names,
            col_names_upward,
            at: (left, top),
            cells,
            content,
            size: (width.max(title_width(&self.heading())).max(self.x_label_width()), height),
        }
    }
}

/// True if lines between these blocks of a side of `length` px can be told apart.
fn distinct(blocks: &[Block], length: f64) -> bool {
    blocks.len() as f64 * MIN_BLOCK <= length
}

fn frame(area: &Area<'_>, (x, y): Point, (w, h): Point) -> Drawn {
    path(area, &[(x, y), (x + w, y), (x + w, y + h), (x, y + h), (x, y)], stroke(AXIS, 1.0))
}

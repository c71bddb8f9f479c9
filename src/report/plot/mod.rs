//! Figures from plain records: line charts, heat maps with named blocks, and grids of them.
//!
//! plotters draws them: its drawing areas, coordinates, meshes and series. What is laid out here is
//! what it leaves to its callers: how large labels are (it has no fonts), block names, the labels
//! of reference lines, colour bars.
//!
//! [`save_figure`] writes an SVG, the PNG rendered from it, and the record itself as JSON, from
//! which a figure can be drawn again in another size or format, here or by matplotlib. Pictures are
//! drawn with an embedded typeface, so a machine without any font draws the same one, and equal
//! records give equal bytes.

mod axis;
mod canvas;
mod cells;
mod color;
mod curve;
mod edge;
mod font;
mod heatmap;
mod line;
mod output;
mod pdf;
mod record;

use std::borrow::Cow;

pub use axis::Scale;
pub use color::Colormap;
pub use edge::{Block, Ticks};
pub use heatmap::HeatMap;
pub use line::{LineChart, RefLine, Series};
pub use output::{Format, Gallery, Look, RECORD_ENDING, Width, save_figure};

use plotters::style::text_anchor::HPos;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use canvas::{Area, Drawn, Image, Lettering, Picture, Point, text, units, whole};

/// White rim of every figure, px.
const PAD: f64 = 10.0;
/// Space between neighbouring parts, px.
const GAP: f64 = 14.0;
const TITLE_SIZE: f64 = 13.0;
const TITLE_HEIGHT: f64 = 24.0;
const LABEL_SIZE: f64 = 12.0;
const TICK_SIZE: f64 = 10.5;

/// Largest side of panels together, px, and their largest area: what is beyond is left out, and
/// said to be.
const MAX_SIDE: f64 = 7600.0;
const MAX_AREA: f64 = 2.4e7;
/// Most characters of a title.
const MAX_TITLE: usize = 200;

/// Anything that can be drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Figure {
    /// Curves over a common axis.
    Line(LineChart),
    /// A matrix as coloured cells.
    Heat(HeatMap),
    /// Several figures in one.
    Panels(Panels),
}

/// Figures in rows of `columns`, filled row by row, each in the middle of its column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Panels {
    /// Heading over all; empty for none.
    pub title: String,
    /// Figures per row; at least 1.
    pub columns: usize,
    /// The figures.
    pub figures: Vec<Figure>,
}

impl From<LineChart> for Figure {
    fn from(f: LineChart) -> Self {
        Figure::Line(f)
    }
}

impl From<HeatMap> for Figure {
    fn from(f: HeatMap) -> Self {
        Figure::Heat(f)
    }
}

impl From<Panels> for Figure {
    fn from(f: Panels) -> Self {
        Figure::Panels(f)
    }
}

impl Figure {
    /// The figure as an SVG document.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the record contradicts itself (sizes that do not match) or the
    /// figure would exceed 8000 px a side, which panels never do.
    pub fn to_svg(&self) -> Result<String> {
        self.picture()?.svg()
    }

    /// The same as a PNG image, of two pixels per px, or fewer where those would be more than 20
    /// million.
    ///
    /// # Errors
    /// As [`Figure::to_svg`].
    pub fn to_png(&self) -> Result<Vec<u8>> {
        self.picture()?.png(2.0)
    }

    fn picture(&self) -> Result<Picture> {
        self.check()?;
        canvas::picture(self.natural_size(), |area, images| self.draw(area, images))
    }

    fn check(&self) -> Result<()> {
        match self {
            Figure::Line(f) => f.check(),
            Figure::Heat(f) => f.check(),
            Figure::Panels(f) => f.check(),
        }
    }

    fn natural_size(&self) -> Point {
        match self {
            Figure::Line(f) => f.natural_size(),
            Figure::Heat(f) => f.natural_size(),
            Figure::Panels(f) => f.natural_size(),
        }
    }

    fn draw(&self, area: &Area<'_>, images: &mut Vec<Image>) -> Drawn {
        match self {
            Figure::Line(f) => f.draw(area),
            Figure::Heat(f) => f.draw(area, images),
            Figure::Panels(f) => f.draw(area, images),
        }
    }
}

impl Panels {
    fn check(&self) -> Result<()> {
        if self.columns == 0 || self.figures.is_empty() {
            return Err(Error::invalid(
                "panels",
                format!("{} figures in {} columns", self.figures.len(), self.columns),
                "at least one of each",
            ));
        }
        self.figures.iter().try_for_each(Figure::check)
    }

    /// Widths of the columns and heights of the rows, in as many columns as fit the page.
    fn grid(&self) -> Grid {
        let sizes: Vec<Point> = self.figures.iter().map(|f| f.natural_size()).collect();
        let most = self.columns.min(sizes.len());
        let of = |columns: usize| {
            let mut widths = vec![0.0_f64; columns];
            let mut heights = vec![0.0_f64; sizes.len().div_ceil(columns)];
            for (i, (w, h)) in sizes.iter().enumerate() {
                widths[i % columns] = widths[i % columns].max(whole(*w));
                heights[i / columns] = heights[i / columns].max(whole(*h));
            }
            (widths, heights)
        };
        let fits = |columns: &usize| *columns == 1 || of(*columns).0.iter().sum::<f64>() <= MAX_SIDE;
        let (widths, mut heights) = of((1..=most).rev().find(fits).unwrap_or(1));
        let width: f64 = widths.iter().sum::<f64>().max(title_width(&self.title));
        let mut height = self.heading();
        let inside = |h: &&f64| {
            height += **h;
            height <= MAX_SIDE && height * width <= MAX_AREA
        };
        let rows = heights.iter().take_while(inside).count().max(1);
        heights.truncate(rows);
        let shown = (rows * widths.len()).min(sizes.len());
        Grid { widths, heights, sizes, shown }
    }

    /// What is said of figures that are left out, and the height of it.
    fn note(&self, grid: &Grid) -> Option<String> {
        let (shown, all) = (grid.shown, self.figures.len());
        (shown < all).then(|| format!("the first {shown} of {all} panels; the others are left out"))
    }

    fn heading(&self) -> f64 {
        if self.title.is_empty() { 0.0 } else { PAD + TITLE_HEIGHT }
    }

    fn natural_size(&self) -> Point {
        let grid = self.grid();
        let note = self.note(&grid);
        let width: f64 = grid.widths.iter().sum();
        let width = width.max(title_width(&self.title)).max(note.as_deref().map_or(0.0, title_width));
        let below = if note.is_some() { TITLE_HEIGHT } else { 0.0 };
        (width, grid.heights.iter().sum::<f64>() + self.heading() + below)
    }

    fn draw(&self, area: &Area<'_>, images: &mut Vec<Image>) -> Drawn {
        let grid = self.grid();
        let Grid { widths, heights, sizes, shown } = &grid;
        let (total, whole_height) = self.natural_size();
        draw_title(area, &self.title, total / 2.0, total)?;
        let left = (total - widths.iter().sum::<f64>()) / 2.0;
        let below = area.margin(units(self.heading()), 0, units(left), 0);
        let breaks = |sizes: &[f64]| -> Vec<i32> {
            let ends = sizes.iter().scan(0.0, |at, size| {
                *at += size;
                Some(units(*at))
            });
            ends.collect()
        };
        // The last break is the far edge, or short of it where the title is wider than the grid.
        let cells = below.split_by_breakpoints(breaks(widths), breaks(heights));
        let per_row = cells.len() / (heights.len() + 1);
        for (i, figure) in self.figures[..*shown].iter().enumerate() {
            let cell = cells[i / widths.len() * per_row + i % widths.len()].clone();
            let (width, height) = sizes[i];
            let aside = units((widths[i % widths.len()] - whole(width)) / 2.0);
            let place = cell.shrink((aside, 0), (units(whole(width)), units(whole(height))));
            figure.draw(&place, images)?;
        }
        if let Some(note) = self.note(&grid) {
            let middle = (total / 2.0, whole_height - TITLE_HEIGHT / 2.0);
            text(area, middle, &note, Lettering::new(LABEL_SIZE, HPos::Center))?;
        }
        Ok(())
    }
}

/// Panels in rows and columns.
struct Grid {
    widths: Vec<f64>,
    /// Of the rows that are shown.
    heights: Vec<f64>,
    /// Of every panel.
    sizes: Vec<Point>,
    /// Panels that are shown.
    shown: usize,
}

/// True if `v` can be placed on an axis: it and sums or differences of such values are finite.
fn drawable(v: f64) -> bool {
    v.abs() <= 1e300
}

/// Width a figure needs for its title.
fn title_width(title: &str) -> f64 {
    if title.is_empty() { 0.0 } else { font::text_width(&shortened(title), TITLE_SIZE, true) + 2.0 * PAD }
}

/// `title`, or what fits of it.
fn shortened(title: &str) -> Cow<'_, str> {
    match title.char_indices().nth(MAX_TITLE) {
        Some((end, _)) => format!("{}…", &title[..end]).into(),
        None => title.into(),
    }
}

/// Draw a title centred on `centre`, moved sideways as far as staying inside the figure's `width`
/// demands.
fn draw_title(area: &Area<'_>, title: &str, centre: f64, width: f64) -> Drawn {
    let centre = keep_inside(centre, title_width(title), 0.0, width);
    let lettering = Lettering { bold: true, ..Lettering::new(TITLE_SIZE, HPos::Center) };
    text(area, (centre, PAD + TITLE_HEIGHT / 2.0 - 3.0), &shortened(title), lettering)
}

/// The centre nearest to `centre` for something `size` long inside `[start, start + width]`.
fn keep_inside(centre: f64, size: f64, start: f64, width: f64) -> f64 {
    centre.min(start + width - size / 2.0).max(start + size / 2.0)
}

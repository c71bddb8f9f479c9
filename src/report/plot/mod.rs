//! Figures from plain records: line charts, heat maps with named blocks, and grids of them.
//!
//! plotters draws them: its drawing areas, coordinates, meshes and series. What is laid out here is
//! what it leaves to its callers: how large labels are (it has no fonts), block names, the labels
//! of reference lines, colour bars.
//!
//! [`save_figure`] writes an SVG and the PNG rendered from it. Both are drawn with an embedded
//! typeface, so a machine without any font draws the same picture, and equal records give equal
//! bytes.

mod axis;
mod canvas;
mod color;
mod curve;
mod edge;
mod font;
mod heatmap;
mod line;

use std::path::{Path, PathBuf};

pub use color::Colormap;
pub use edge::{Block, Ticks};
pub use heatmap::HeatMap;
pub use line::{LineChart, RefLine, Series};

use plotters::style::text_anchor::HPos;

use super::files::write_bytes_atomic;
use crate::error::{Error, Result};
use canvas::{Area, Drawn, Lettering, Point, text, units, whole};

/// White rim of every figure, px.
const PAD: f64 = 10.0;
/// Space between neighbouring parts, px.
const GAP: f64 = 14.0;
const TITLE_SIZE: f64 = 13.0;
const TITLE_HEIGHT: f64 = 24.0;
const LABEL_SIZE: f64 = 12.0;
const TICK_SIZE: f64 = 10.5;

/// Anything that can be drawn.
#[derive(Debug, Clone, PartialEq)]
pub enum Figure {
    /// Curves over a common axis.
    Line(LineChart),
    /// A matrix as coloured cells.
    Heat(HeatMap),
    /// Several figures in one.
    Panels(Panels),
}

/// Figures in rows of `columns`, filled row by row, each in the middle of its column.
#[derive(Debug, Clone, PartialEq)]
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
    /// figure would exceed 8000 px a side.
    pub fn to_svg(&self) -> Result<String> {
        self.check()?;
        canvas::svg_of(self.natural_size(), |area| self.draw(area))
    }

    /// The figure as a PNG image of two pixels per px, rendered from [`Figure::to_svg`].
    ///
    /// # Errors
    /// As [`Figure::to_svg`].
    pub fn to_png(&self) -> Result<Vec<u8>> {
        canvas::png_of(&self.to_svg()?)
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

    fn draw(&self, area: &Area<'_>) -> Drawn {
        match self {
            Figure::Line(f) => f.draw(area),
            Figure::Heat(f) => f.draw(area),
            Figure::Panels(f) => f.draw(area),
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

    /// Widths of the columns and heights of the rows.
    fn grid(&self) -> (Vec<f64>, Vec<f64>) {
        let columns = self.columns.min(self.figures.len());
        let mut widths = vec![0.0_f64; columns];
        let mut heights = vec![0.0_f64; self.figures.len().div_ceil(columns)];
        for (i, figure) in self.figures.iter().enumerate() {
            let (w, h) = figure.natural_size();
            widths[i % columns] = widths[i % columns].max(whole(w));
            heights[i / columns] = heights[i / columns].max(whole(h));
        }
        (widths, heights)
    }

    fn heading(&self) -> f64 {
        if self.title.is_empty() { 0.0 } else { PAD + TITLE_HEIGHT }
    }

    fn natural_size(&self) -> Point {
        let (widths, heights) = self.grid();
        let width: f64 = widths.iter().sum();
        (width.max(title_width(&self.title)), heights.iter().sum::<f64>() + self.heading())
    }

    fn draw(&self, area: &Area<'_>) -> Drawn {
        let (widths, heights) = self.grid();
        let total = self.natural_size().0;
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
        let cells = below.split_by_breakpoints(breaks(&widths), breaks(&heights));
        let per_row = cells.len() / (heights.len() + 1);
        for (i, figure) in self.figures.iter().enumerate() {
            let cell = cells[i / widths.len() * per_row + i % widths.len()].clone();
            let (width, height) = figure.natural_size();
            let aside = units((widths[i % widths.len()] - whole(width)) / 2.0);
            figure.draw(&cell.shrink((aside, 0), (units(whole(width)), units(whole(height)))))?;
        }
        Ok(())
    }
}

/// Write `figure` as `<stem>.svg` and `<stem>.png` into the folder `dir`, each atomically, and
/// return both paths.
///
/// # Errors
/// [`Error::Invalid`] as [`Figure::to_svg`], before anything is written; [`Error::Io`] naming the
/// file.
pub fn save_figure(dir: &Path, stem: &str, figure: &Figure) -> Result<(PathBuf, PathBuf)> {
    let svg = figure.to_svg()?;
    let png = canvas::png_of(&svg)?;
    let paths = (dir.join(format!("{stem}.svg")), dir.join(format!("{stem}.png")));
    write_bytes_atomic(&paths.0, svg.as_bytes())?;
    write_bytes_atomic(&paths.1, &png)?;
    Ok(paths)
}

/// True if `v` can be placed on an axis: it and sums or differences of such values are finite.
fn drawable(v: f64) -> bool {
    v.abs() <= 1e300
}

/// Width a figure needs for its title.
fn title_width(title: &str) -> f64 {
    if title.is_empty() { 0.0 } else { font::text_width(title, TITLE_SIZE, true) + 2.0 * PAD }
}

/// Draw a title centred on `centre`, moved sideways as far as staying inside the figure's `width`
/// demands.
fn draw_title(area: &Area<'_>, title: &str, centre: f64, width: f64) -> Drawn {
    let centre = keep_inside(centre, title_width(title), 0.0, width);
    let lettering = Lettering { bold: true, ..Lettering::new(TITLE_SIZE, HPos::Center) };
    text(area, (centre, PAD + TITLE_HEIGHT / 2.0 - 3.0), title, lettering)
}

/// The centre nearest to `centre` for something `size` long inside `[start, start + width]`.
fn keep_inside(centre: f64, size: f64, start: f64, width: f64) -> f64 {
    centre.min(start + width - size / 2.0).max(start + size / 2.0)
}

//! Figures from plain records: line charts, heat maps with named blocks, and grids of them.
//!
//! [`save_figure`] writes an SVG and the PNG rendered from it. Both are drawn with an embedded typeface, so a machine
//! without any font draws the same picture, and equal records give equal bytes.

mod axis;
mod color;
mod font;
mod heatmap;
mod line;
mod scene;

use std::path::{Path, PathBuf};

pub use color::Colormap;
pub use heatmap::{Block, HeatMap, Ticks};
pub use line::{LineChart, RefLine, Series};

use super::files::write_bytes_atomic;
use crate::error::{Error, Result};
use scene::{Anchor, Scene, TextStyle};

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

/// Figures in rows of `columns`, filled row by row.
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
    /// [`Error::Invalid`] when the record contradicts itself (sizes that do not match) or the figure would exceed
    /// 8000 px a side.
    pub fn to_svg(&self) -> Result<String> {
        self.check()?;
        let (width, height) = self.natural_size();
        let mut scene = Scene::default();
        self.draw(&mut scene, (0.0, 0.0));
        scene.finish(width, height)
    }

    /// The figure as a PNG image of two pixels per px, rendered from [`Figure::to_svg`].
    ///
    /// # Errors
    /// As [`Figure::to_svg`].
    pub fn to_png(&self) -> Result<Vec<u8>> {
        scene::png_of(&self.to_svg()?)
    }

    fn check(&self) -> Result<()> {
        match self {
            Figure::Line(f) => f.check(),
            Figure::Heat(f) => f.check(),
            Figure::Panels(f) => f.check(),
        }
    }

    fn natural_size(&self) -> (f64, f64) {
        match self {
            Figure::Line(f) => f.natural_size(),
            Figure::Heat(f) => f.natural_size(),
            Figure::Panels(f) => f.natural_size(),
        }
    }

    fn draw(&self, scene: &mut Scene, at: (f64, f64)) {
        match self {
            Figure::Line(f) => f.draw(scene, at),
            Figure::Heat(f) => f.draw(scene, at),
            Figure::Panels(f) => f.draw(scene, at),
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
            widths[i % columns] = widths[i % columns].max(w);
            heights[i / columns] = heights[i / columns].max(h);
        }
        (widths, heights)
    }

    fn heading(&self) -> f64 {
        if self.title.is_empty() { 0.0 } else { PAD + TITLE_HEIGHT }
    }

    fn natural_size(&self) -> (f64, f64) {
        let (widths, heights) = self.grid();
        let width: f64 = widths.iter().sum();
        (width.max(title_width(&self.title)), heights.iter().sum::<f64>() + self.heading())
    }

    fn draw(&self, scene: &mut Scene, (x0, y0): (f64, f64)) {
        let (widths, heights) = self.grid();
        let total = self.natural_size().0;
        draw_title(scene, &self.title, x0 + total / 2.0, (x0, y0, total));
        let mut y = y0 + self.heading();
        for (row, height) in self.figures.chunks(widths.len()).zip(&heights) {
            let mut x = x0;
            for (figure, width) in row.iter().zip(&widths) {
                figure.draw(scene, (x, y));
                x += width;
            }
            y += height;
        }
    }
}

/// Write `figure` as `<stem>.svg` and `<stem>.png` into the folder `dir`, each atomically, and return both paths.
///
/// # Errors
/// [`Error::Invalid`] as [`Figure::to_svg`], before anything is written; [`Error::Io`] naming the file.
pub fn save_figure(dir: &Path, stem: &str, figure: &Figure) -> Result<(PathBuf, PathBuf)> {
    let svg = figure.to_svg()?;
    let png = scene::png_of(&svg)?;
    let paths = (dir.join(format!("{stem}.svg")), dir.join(format!("{stem}.png")));
    write_bytes_atomic(&paths.0, svg.as_bytes())?;
    write_bytes_atomic(&paths.1, &png)?;
    Ok(paths)
}

/// Whether `v` can be placed on an axis: finite, and with room for sums and differences to stay so.
fn drawable(v: f64) -> bool {
    v.abs() <= 1e300
}

/// Width a figure needs for its title.
fn title_width(title: &str) -> f64 {
    if title.is_empty() { 0.0 } else { font::text_width(title, TITLE_SIZE, true) + 2.0 * PAD }
}

/// Draw a title centred on `centre`, moved sideways as far as staying inside the figure `(x, y, width)` demands.
fn draw_title(scene: &mut Scene, title: &str, centre: f64, (x, y, width): (f64, f64, f64)) {
    let centre = keep_inside(centre, title_width(title), x, width);
    let style = TextStyle { bold: true, ..TextStyle::new(TITLE_SIZE, Anchor::Middle) };
    scene.text((centre, y + PAD + TITLE_HEIGHT / 2.0 - 3.0), title, style);
}

/// The centre nearest to `centre` for something `size` long inside `[start, start + room]`.
fn keep_inside(centre: f64, size: f64, start: f64, room: f64) -> f64 {
    centre.min(start + room - size / 2.0).max(start + size / 2.0)
}

//! Figures as files: SVG, PNG and PDF in a chosen width, and the record they were drawn from, with
//! a script of matplotlib that draws it again.

use std::path::{Path, PathBuf};

use super::super::files::write_bytes_atomic;
use super::{Figure, LineChart, Panels, canvas};
use crate::error::{Error, Result};

/// A script that draws the records beside it by matplotlib.
const REDRAW_FILE: &str = "redraw.py";
/// How names of records end; results of commands are `.json` too.
pub const RECORD_ENDING: &str = ".figure.json";
/// Largest record, bytes: of more heads than a page shows well the numbers are in the checkpoint.
const MOST_RECORD: usize = 8 << 20;
const REDRAW: &str = include_str!("redraw.py");

/// px an inch, as in CSS.
const PX: f64 = 96.0;
/// Least width of the plotting area of a chart, px.
const LEAST_CHART: f64 = 150.0;
/// Least scale of panels that stand beside each other.
const LEAST_SCALE: f64 = 0.6;

/// A kind of picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Scalable, with text.
    Svg,
    /// Pixels.
    Png,
    /// Scalable, text as outlines.
    Pdf,
}

impl Format {
    /// All of them.
    pub const ALL: [Format; 3] = [Format::Svg, Format::Png, Format::Pdf];

    /// Its name, which is the ending of its files.
    pub fn name(self) -> &'static str {
        match self {
            Format::Svg => "svg",
            Format::Png => "png",
            Format::Pdf => "pdf",
        }
    }
}

/// How wide a figure is.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Width {
    /// As its parts ask for.
    #[default]
    Natural,
    /// A column of a page in two columns: 3.4 inches.
    Column,
    /// A page: 7 inches.
    Page,
    /// In inches.
    Inches(f64),
}

impl Width {
    fn px(self) -> Result<Option<f64>> {
        let inches = match self {
            Width::Natural => return Ok(None),
            Width::Column => 3.4,
            Width::Page => 7.0,
            Width::Inches(w) => w,
        };
        if !(1.0..=40.0).contains(&inches) {
            return Err(Error::invalid("width", format!("{inches} inches"), "1 to 40 inches"));
        }
        Ok(Some(inches * PX))
    }
}

/// Width and resolution of a picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Look {
    /// Width.
    pub width: Width,
    /// Pixels an inch, for PNG; fewer where they would be more than 20 million.
    pub dpi: f64,
}

impl Default for Look {
    fn default() -> Self {
        Look { width: Width::Natural, dpi: 2.0 * PX }
    }
}

impl Figure {
    /// The figure as a file of the given kind.
    ///
    /// # Errors
    /// As [`Figure::to_svg`]; a width or a resolution out of range.
    pub fn to_bytes(&self, format: Format, look: Look) -> Result<Vec<u8>> {
        if !(10.0..=2400.0).contains(&look.dpi) {
            return Err(Error::invalid("dpi", look.dpi.to_string(), "10 to 2400"));
        }
        let picture = match look.width.px()? {
            None => self.picture()?,
            Some(width) => {
                // Check before sizes are computed from the record.
                self.check()?;
                let mut picture = self.fitted(width).picture()?;
                picture.resize(width);
                picture
            }
        };
        match format {
            Format::Svg => Ok(picture.svg()?.into_bytes()),
            Format::Png => picture.png((look.dpi / PX) as f32),
            Format::Pdf => picture.pdf(),
        }
    }

    /// The same with charts as wide, and panels as many in a row, as fit `width` px. Matrices keep
    /// their cells: what is left over is for the picture to be scaled by.
    fn fitted(&self, width: f64) -> Figure {
        match self {
            Figure::Line(chart) => {
                let mut chart = chart.clone();
                let shape = chart.size.1 / chart.size.0;
                // Labels change with the width, and the room that they leave with them.
                for _ in 0..3 {
                    let side = (chart.size.0 + width - chart.natural_size().0).clamp(LEAST_CHART, 4000.0);
                    chart = LineChart { size: (side, (side * shape).clamp(50.0, 4000.0)), ..chart };
                }
                chart.into()
            }
            Figure::Heat(map) => map.clone().into(),
            Figure::Panels(panels) => {
                let most = panels.columns.min(panels.figures.len()).max(1);
                let of = |columns: usize| -> Figure {
                    let each = width / columns as f64;
                    let charts = panels.figures.iter().all(|f| matches!(f, Figure::Line(_)));
                    let one = |f: &Figure| if charts { f.fitted(each) } else { f.clone() };
                    let figures = panels.figures.iter().map(one).collect();
                    Panels { title: panels.title.clone(), columns, figures }.into()
                };
                // As many as leave letters to be read.
                let legible = |f: &Figure| f.natural_size().0 * LEAST_SCALE <= width;
                (2..=most).rev().map(of).find(legible).unwrap_or_else(|| of(1))
            }
        }
    }

    /// The record as JSON, of which [`Figure::from_json`] makes an equal figure.
    ///
    /// # Errors
    /// None for a figure that can be drawn.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|e| canvas::failed(&e))
    }

    /// The figure of a record; `path` names it in errors.
    ///
    /// # Errors
    /// No such record.
    pub fn from_json(path: &Path, text: &[u8]) -> Result<Figure> {
        let found: Figure = serde_json::from_slice(text)
            .map_err(|e| Error::format(path, format!("{e}; expected the record of a figure")))?;
        found.check().map_err(|e| Error::format(path, e.to_string()))?;
        Ok(found)
    }
}

/// Writes `figure` as `<stem>.svg`, `<stem>.png` and the record `<stem>.figure.json` into the
/// folder `dir`, each atomically, with the script that draws records again, and returns the paths
/// of the pictures. A record of more than 8 MiB is left out.
///
/// # Errors
/// [`Error::Invalid`] as [`Figure::to_svg`], before anything is written; [`Error::Io`] naming the
/// file.
pub fn save_figure(dir: &Path, stem: &str, figure: &Figure) -> Result<(PathBuf, PathBuf)> {
    let picture = figure.picture()?;
    let (svg, png) = (picture.svg()?, picture.png((Look::default().dpi / PX) as f32)?);
    let record = figure.to_json()?;
    let paths = (dir.join(format!("{stem}.svg")), dir.join(format!("{stem}.png")));
    write_bytes_atomic(&paths.0, svg.as_bytes())?;
    write_bytes_atomic(&paths.1, &png)?;
    if record.len() <= MOST_RECORD {
        write_bytes_atomic(&dir.join(format!("{stem}{RECORD_ENDING}")), record.as_bytes())?;
    }
    let script = dir.join(REDRAW_FILE);
    if !script.exists() {
        write_bytes_atomic(&script, REDRAW.as_bytes())?;
    }
    Ok(paths)
}

/// Writes figures into one folder: one that fails does not keep the others from being drawn.
#[derive(Debug)]
pub struct Gallery {
    dir: PathBuf,
    failed: Option<Error>,
}

impl Gallery {
    /// In the folder `dir`, which is created if it does not exist.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be created.
    pub fn new(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, "cannot create", e))?;
        Ok(Gallery { dir: dir.into(), failed: None })
    }

    /// As [`save_figure`]; the first failure is kept for [`Gallery::finish`].
    pub fn save(&mut self, stem: &str, figure: &Figure) {
        if let Err(e) = save_figure(&self.dir, stem, figure) {
            self.failed.get_or_insert(e);
        }
    }

    /// Ends it.
    ///
    /// # Errors
    /// The first failure.
    pub fn finish(self) -> Result<()> {
        self.failed.map_or(Ok(()), Err)
    }
}

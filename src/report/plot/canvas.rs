//! The canvas that figures are drawn on: a plotters SVG, and the PNG rendered from it.
//!
//! Figures are laid out in px, but plotters places everything on integers, so its canvas is
//! [`SCALE`] times finer.

use std::sync::{Arc, OnceLock};

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{self, fontdb};

use super::font::FAMILY;
use crate::error::{Error, Result};

/// Canvas units per px: enough that curves show no steps, and a multiple of [`PNG_SCALE`] so that
/// cells end on pixels.
const SCALE: f64 = 4.0;
/// PNG pixels per px: legible on dense screens and in print at column width.
const PNG_SCALE: f32 = 2.0;
/// Largest side of a figure, in px.
const MAX_SIDE: f64 = 8000.0;
/// What plotters divides font sizes by before writing them.
const FONT_FACTOR: f64 = 1.24;
/// plotters centres text at half an x-height above its baseline; capitals and digits have their
/// middle this many em higher.
const CENTRE_DROP: f64 = 0.115;

/// A rectangle of the canvas, whose coordinates start at its upper left corner.
pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// What drawing returns.
pub(super) type Drawn<T = ()> = std::result::Result<T, DrawingAreaErrorKind<std::io::Error>>;
pub(super) type Point = (f64, f64);

pub(super) const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
pub(super) const AXIS: RGBColor = RGBColor(0x44, 0x44, 0x44);

/// Where a text lies relative to its x, how large and how it is drawn.
#[derive(Clone, Copy)]
pub(super) struct Lettering {
    pub(super) size: f64,
    pub(super) anchor: HPos,
    pub(super) bold: bool,
    /// Reads bottom to top instead of left to right.
    pub(super) upward: bool,
}

impl Lettering {
    pub(super) const fn new(size: f64, anchor: HPos) -> Self {
        Self { size, anchor, bold: false, upward: false }
    }

    /// As plotters wants it.
    pub(super) fn style(self) -> TextStyle<'static> {
        let weight = if self.bold { FontStyle::Bold } else { FontStyle::Normal };
        let font = FontDesc::new(FontFamily::Name(FAMILY), self.size * SCALE * FONT_FACTOR, weight);
        let turn = if self.upward { FontTransform::Rotate270 } else { FontTransform::None };
        font.transform(turn).color(&INK).pos(Pos::new(self.anchor, VPos::Center))
    }

    /// How much lower than plotters puts them the middles of capitals belong, in canvas units.
    pub(super) fn drop(self) -> i32 {
        units(self.size * CENTRE_DROP)
    }
}

/// Canvas units of a length in px.
pub(super) fn units(px: f64) -> i32 {
    (px * SCALE).round() as i32
}

/// Whole px that hold a length in px.
pub(super) fn whole(px: f64) -> f64 {
    (px - 1e-9).ceil()
}

/// A line of `width` px.
pub(super) fn stroke(color: RGBColor, width: f64) -> ShapeStyle {
    color.stroke_width(units(width).max(1) as u32)
}

/// A polyline through points in px.
pub(super) fn path(area: &Area<'_>, points: &[Point], style: ShapeStyle) -> Drawn {
    let points: Vec<(i32, i32)> = points.iter().map(|&(x, y)| (units(x), units(y))).collect();
    area.draw(&PathElement::new(points, style))
}

/// `text` on the line through the point in px: its y is the middle of the capitals.
pub(super) fn text(area: &Area<'_>, (x, y): Point, text: &str, lettering: Lettering) -> Drawn {
    if text.is_empty() {
        return Ok(());
    }
    let (x, y) = (units(x), units(y));
    let at = if lettering.upward { (x + lettering.drop(), y) } else { (x, y + lettering.drop()) };
    area.draw_text(&writable(text), &lettering.style(), at)
}

/// `text` without the characters that XML has no way to write at all; plotters escapes the others.
pub(super) fn writable(text: &str) -> String {
    let banned = |c: char| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}');
    text.chars().map(|c| if banned(c) { '\u{fffd}' } else { c }).collect()
}

/// The SVG document of `size` px that `draw` fills.
pub(super) fn svg_of((width, height): Point, draw: impl FnOnce(&Area<'_>) -> Drawn) -> Result<String> {
    let (width, height) = (whole(width), whole(height));
    if !(width <= MAX_SIDE && height <= MAX_SIDE) {
        return Err(Error::invalid(
            "figure size",
            format!("{width} x {height} px"),
            format!("at most {MAX_SIDE} px a side"),
        ));
    }
    let (w, h) = (units(width), units(height));
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (w as u32, h as u32)).into_drawing_area();
        root.fill(&WHITE).and_then(|()| draw(&root)).and_then(|()| root.present()).map_err(|e| failed(&e))?;
    }
    // plotters' own first line, with the size in px instead of canvas units, and cells without
    // seams between them.
    let (_, body) = svg.split_once('\n').unwrap_or_default();
    Ok(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {w} {h}\">\n\
         <style>rect {{ shape-rendering: crispEdges }}</style>\n{body}"
    ))
}

/// Render an SVG made by [`svg_of`] to PNG bytes, with the embedded typeface only.
pub(super) fn png_of(svg: &str) -> Result<Vec<u8>> {
    let options = usvg::Options { fontdb: fonts(), font_family: "DejaVu Sans".into(), ..Default::default() };
    let tree = usvg::Tree::from_str(svg, &options).map_err(|e| failed(&e))?;
    let side = |length: f32| (length * PNG_SCALE).ceil() as u32;
    let mut pixels = Pixmap::new(side(tree.size().width()), side(tree.size().height()))
        .ok_or_else(|| failed(&"no memory for its pixels"))?;
    resvg::render(&tree, Transform::from_scale(PNG_SCALE, PNG_SCALE), &mut pixels.as_mut());
    pixels.encode_png().map_err(|e| failed(&e))
}

fn failed(e: &dyn std::fmt::Display) -> Error {
    Error::invalid("figure", format!("cannot be drawn: {e}"), "plain SVG")
}

fn fonts() -> Arc<fontdb::Database> {
    static FONTS: OnceLock<Arc<fontdb::Database>> = OnceLock::new();
    let load = || {
        let mut fonts = fontdb::Database::new();
        for bytes in [dejavu::sans::regular(), dejavu::sans::bold()] {
            fonts.load_font_source(fontdb::Source::Binary(Arc::new(bytes)));
        }
        fonts.set_sans_serif_family("DejaVu Sans");
        Arc::new(fonts)
    };
    FONTS.get_or_init(load).clone()
}

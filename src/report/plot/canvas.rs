//! The canvas that figures are drawn on: a plotters SVG, and the PNG rendered from it.
//!
//! Figures are laid out in px, but plotters places everything on integers, so its canvas is
//! [`SCALE`] times finer.

use std::sync::{Arc, OnceLock};

use base64::prelude::{BASE64_STANDARD, Engine};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use resvg::tiny_skia::{Color as Rgba, FilterQuality, Pixmap, PixmapPaint, Transform};
use resvg::usvg::{self, fontdb};

use super::cells::Cells;
use super::font::FAMILY;
use super::pdf::{self, Placed};
use crate::error::{Error, Result};

/// Canvas units per px: enough that curves show no steps, and a multiple of the usual 2 pixels
/// a px so that cells end on pixels.
const SCALE: f64 = 4.0;
/// Most pixels of a PNG, 80 MB while it is made: a larger figure gets fewer a px.
const MAX_PIXELS: f64 = 20_971_520.0;
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

/// Cells that are an image instead of a rectangle each.
pub(super) struct Image {
    /// Upper left corner, and size, in canvas units.
    pub(super) at: (i32, i32),
    pub(super) size: (i32, i32),
    pub(super) cells: Cells,
}

/// A drawn figure: what plotters wrote, between a white ground and the images that lie on it.
pub(super) struct Picture {
    size: Point,
    /// How much larger it is shown.
    scale: f64,
    ground: String,
    images: Vec<Image>,
    /// The rest of the document.
    body: String,
}

/// The picture of `size` px that `draw` fills.
pub(super) fn picture(
    (width, height): Point,
    draw: impl FnOnce(&Area<'_>, &mut Vec<Image>) -> Drawn,
) -> Result<Picture> {
    let (width, height) = (whole(width), whole(height));
    if !(width <= MAX_SIDE && height <= MAX_SIDE) {
        return Err(Error::invalid(
            "figure size",
            format!("{width} x {height} px"),
            format!("at most {MAX_SIDE} px a side"),
        ));
    }
    let (w, h) = (units(width), units(height));
    let (mut svg, mut images) = (String::new(), Vec::new());
    {
        let root = SVGBackend::with_string(&mut svg, (w as u32, h as u32)).into_drawing_area();
        root.fill(&WHITE)
            .and_then(|()| draw(&root, &mut images))
            .and_then(|()| root.present())
            .map_err(|e| failed(&e))?;
    }
    // plotters' own first line, with the size in px instead of canvas units, and cells without
    // seams between them.
    let (_, rest) = svg.split_once('\n').unwrap_or_default();
    let (ground, body) = rest.split_once('\n').unwrap_or_default();
    Ok(Picture {
        size: (width, height),
        scale: 1.0,
        ground: format!("{ground}\n"),
        images,
        body: body.into(),
    })
}

impl Picture {
    /// Shows it `width` px wide.
    pub(super) fn resize(&mut self, width: f64) {
        self.scale = width / self.size.0;
    }

    /// Opening tag and style of a document shown `scale` times as large.
    fn head(&self, scale: f64) -> String {
        let (width, height) = (self.size.0 * scale, self.size.1 * scale);
        let (w, h) = (units(self.size.0), units(self.size.1));
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {w} {h}\">\n\
             <style>rect {{ shape-rendering: crispEdges }}</style>\n"
        )
    }

    /// What is drawn over the images, on a ground if there are none and it is asked for.
    fn tree(&self, ground: bool) -> Result<usvg::Tree> {
        let options =
            usvg::Options { fontdb: fonts(), font_family: "DejaVu Sans".into(), ..Default::default() };
        // resvg would need decoders of every format to show an image: they are laid down before it
        // draws, on the ground that it then leaves out.
        let ground = if ground && self.images.is_empty() { self.ground.as_str() } else { "" };
        let document = [&self.head(1.0), ground, &self.body].concat();
        usvg::Tree::from_str(&document, &options).map_err(|e| failed(&e))
    }

    /// The same as a page of PDF.
    pub(super) fn pdf(&self) -> Result<Vec<u8>> {
        let px = |v: i32| (f64::from(v) / SCALE) as f32;
        let placed = |i: &Image| {
            let pixels = i.cells.pixels(1).ok_or_else(|| failed(&"an image"))?;
            Ok(Placed { at: [i.at.0, i.at.1, i.size.0, i.size.1].map(px), pixels })
        };
        let images = self.images.iter().map(placed).collect::<Result<Vec<_>>>()?;
        Ok(pdf::page(&self.tree(false)?, &images, self.scale as f32))
    }

    /// The SVG document.
    pub(super) fn svg(&self) -> Result<String> {
        let mut out = format!("{}{}", self.head(self.scale), self.ground);
        for Image { at: (x, y), size: (w, h), cells } in &self.images {
            let png = cells.pixels(1).and_then(|p| p.encode_png().ok()).ok_or_else(|| failed(&"an image"))?;
            out += &format!(
                "<image x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" preserveAspectRatio=\"none\" \
                 image-rendering=\"optimizeSpeed\" style=\"image-rendering:pixelated\" \
                 href=\"data:image/png;base64,{}\"/>\n",
                BASE64_STANDARD.encode(png)
            );
        }
        out += &self.body;
        Ok(out)
    }

    /// PNG bytes of the same, `density` pixels a px, drawn with the embedded typeface only.
    pub(super) fn png(&self, density: f32) -> Result<Vec<u8>> {
        let tree = self.tree(true)?;
        let area = self.size.0 * self.size.1;
        let mut scale = density * self.scale as f32;
        while area * f64::from(scale * scale) > MAX_PIXELS {
            scale /= 2.0;
        }
        let side = |length: f32| (length * scale).ceil() as u32;
        let mut pixels = Pixmap::new(side(tree.size().width()), side(tree.size().height()))
            .ok_or_else(|| failed(&"no memory for its pixels"))?;
        if !self.images.is_empty() {
            pixels.fill(Rgba::WHITE);
        }
        let unit = scale / SCALE as f32;
        for Image { at: (x, y), size: (w, h), cells } in &self.images {
            // No cell may fall between two pixels.
            let pool = (cells.cols as f32 / (*w as f32 * unit)).max(cells.rows as f32 / (*h as f32 * unit));
            let image = cells.pixels(pool.ceil().max(1.0) as usize).ok_or_else(|| failed(&"an image"))?;
            let paint = PixmapPaint { quality: FilterQuality::Nearest, ..PixmapPaint::default() };
            let place = Transform::from_row(
                *w as f32 * unit / image.width() as f32,
                0.0,
                0.0,
                *h as f32 * unit / image.height() as f32,
                *x as f32 * unit,
                *y as f32 * unit,
            );
            pixels.draw_pixmap(0, 0, image.as_ref(), &paint, place, None);
        }
        resvg::render(&tree, Transform::from_scale(scale, scale), &mut pixels.as_mut());
        drop(tree);
        pixels.encode_png().map_err(|e| failed(&e))
    }
}

pub(super) fn failed(e: &dyn std::fmt::Display) -> Error {
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

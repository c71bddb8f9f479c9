//! A figure being drawn: SVG text with the few shapes that plots need, and its PNG.
//!
//! Coordinates are px from the top left. The PNG is rendered from the finished SVG, so the two cannot disagree.

use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{self, fontdb};

use super::font::{CAP_HEIGHT, FAMILY};
use crate::error::{Error, Result};

/// PNG pixels per SVG px: legible on dense screens and in print at column width.
const PNG_SCALE: f32 = 2.0;
/// Largest side of a figure, in px.
const MAX_SIDE: f64 = 8000.0;

/// Where a text lies relative to its x.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// How a text is drawn.
#[derive(Debug, Clone, Copy)]
pub(super) struct TextStyle {
    pub(super) size: f64,
    pub(super) anchor: Anchor,
    pub(super) bold: bool,
    /// Reads bottom to top instead of left to right.
    pub(super) upward: bool,
    pub(super) color: &'static str,
}

impl TextStyle {
    pub(super) const fn new(size: f64, anchor: Anchor) -> Self {
        Self { size, anchor, bold: false, upward: false, color: "#222222" }
    }
}

/// How a line is drawn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stroke {
    pub(super) color: &'static str,
    pub(super) width: f64,
    pub(super) dashed: bool,
}

impl Stroke {
    pub(super) const fn solid(color: &'static str, width: f64) -> Self {
        Self { color, width, dashed: false }
    }
}

/// An axis-parallel rectangle.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rect {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) w: f64,
    pub(super) h: f64,
}

impl Rect {
    pub(super) fn right(&self) -> f64 {
        self.x + self.w
    }

    pub(super) fn bottom(&self) -> f64 {
        self.y + self.h
    }
}

/// SVG under construction.
#[derive(Debug, Default)]
pub(super) struct Scene {
    body: String,
    clips: usize,
}

impl Scene {
    pub(super) fn rect(&mut self, r: Rect, fill: &str) {
        self.put(format_args!(
            "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"{fill}\"/>\n",
            px(r.x),
            px(r.y),
            px(r.w),
            px(r.h)
        ));
    }

    /// A rectangle's outline.
    pub(super) fn frame(&mut self, r: Rect, stroke: Stroke) {
        let corners = [(r.x, r.y), (r.right(), r.y), (r.right(), r.bottom()), (r.x, r.bottom()), (r.x, r.y)];
        self.polyline(&corners, stroke);
    }

    pub(super) fn line(&mut self, from: (f64, f64), to: (f64, f64), stroke: Stroke) {
        self.polyline(&[from, to], stroke);
    }

    pub(super) fn polyline(&mut self, points: &[(f64, f64)], stroke: Stroke) {
        let mut d = String::with_capacity(points.len() * 14);
        for (i, (x, y)) in points.iter().enumerate() {
            // Infallible: writing to a String.
            let _ = write!(d, "{}{} {}", if i == 0 { 'M' } else { 'L' }, px(*x), px(*y));
        }
        let dash = if stroke.dashed { " stroke-dasharray=\"6 4\"" } else { "" };
        self.put(format_args!(
            "<path d=\"{d}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{}\" stroke-linejoin=\"round\"{dash}/>\n",
            stroke.color,
            px(stroke.width)
        ));
    }

    pub(super) fn dot(&mut self, (x, y): (f64, f64), radius: f64, fill: &str) {
        self.put(format_args!(
            "<circle cx=\"{}\" cy=\"{}\" r=\"{}\" fill=\"{fill}\"/>\n",
            px(x),
            px(y),
            px(radius)
        ));
    }

    /// `text` centred on the line through `(x, y)`: y is the middle of its capitals, not the baseline.
    pub(super) fn text(&mut self, (x, y): (f64, f64), text: &str, style: TextStyle) {
        if text.is_empty() {
            return;
        }
        let anchor = match style.anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let drop = style.size * CAP_HEIGHT / 2.0;
        let place = if style.upward {
            format!("transform=\"translate({} {}) rotate(-90)\"", px(x + drop), px(y))
        } else {
            format!("x=\"{}\" y=\"{}\"", px(x), px(y + drop))
        };
        let weight = if style.bold { " font-weight=\"bold\"" } else { "" };
        self.put(format_args!(
            "<text {place} font-size=\"{}\" text-anchor=\"{anchor}\" fill=\"{}\"{weight}>{}</text>\n",
            px(style.size),
            style.color,
            escape(text)
        ));
    }

    /// Draw with `content` cut off outside `area`.
    pub(super) fn clipped(&mut self, area: Rect, content: impl FnOnce(&mut Scene)) {
        let id = self.clips;
        self.clips += 1;
        self.put(format_args!("<clipPath id=\"clip{id}\">"));
        self.rect(area, "#000");
        self.put(format_args!("</clipPath>\n<g clip-path=\"url(#clip{id})\">\n"));
        content(self);
        self.put(format_args!("</g>\n"));
    }

    /// Unit cells: `content` draws in a frame whose unit is `cell` px and whose origin is `origin`, edges unsmoothed
    /// so that neighbouring cells show no seam.
    pub(super) fn cells(&mut self, origin: (f64, f64), cell: (f64, f64), content: impl FnOnce(&mut String)) {
        self.put(format_args!(
            "<g transform=\"translate({} {}) scale({} {})\" shape-rendering=\"crispEdges\">\n",
            px(origin.0),
            px(origin.1),
            px(cell.0),
            px(cell.1)
        ));
        content(&mut self.body);
        self.put(format_args!("</g>\n"));
    }

    fn put(&mut self, piece: std::fmt::Arguments<'_>) {
        // Infallible: writing to a String.
        let _ = self.body.write_fmt(piece);
    }

    /// The complete SVG document on a white ground.
    pub(super) fn finish(self, width: f64, height: f64) -> Result<String> {
        let (width, height) = (width.ceil(), height.ceil());
        if !(width <= MAX_SIDE && height <= MAX_SIDE) {
            return Err(Error::invalid(
                "figure size",
                format!("{width} x {height} px"),
                format!("at most {MAX_SIDE} px a side"),
            ));
        }
        Ok(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" font-family=\"{FAMILY}\">\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n{}</svg>\n",
            self.body
        ))
    }
}

/// Render an SVG made by [`Scene::finish`] to PNG bytes, with the embedded typeface only.
pub(super) fn png_of(svg: &str) -> Result<Vec<u8>> {
    let failed =
        |e: &dyn std::fmt::Display| Error::invalid("figure", format!("cannot be drawn: {e}"), "plain SVG");
    let options = usvg::Options { fontdb: fonts(), font_family: "DejaVu Sans".into(), ..Default::default() };
    let tree = usvg::Tree::from_str(svg, &options).map_err(|e| failed(&e))?;
    let side = |length: f32| (length * PNG_SCALE).ceil() as u32;
    let mut pixels = Pixmap::new(side(tree.size().width()), side(tree.size().height()))
        .ok_or_else(|| failed(&"no memory for its pixels"))?;
    resvg::render(&tree, Transform::from_scale(PNG_SCALE, PNG_SCALE), &mut pixels.as_mut());
    pixels.encode_png().map_err(|e| failed(&e))
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

/// A coordinate to a hundredth of a px, without idle zeros.
fn px(v: f64) -> String {
    let text = format!("{v:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_string() } else { text.to_string() }
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            // XML has no way to write these at all.
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

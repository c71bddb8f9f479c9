//! A drawn figure as one page of PDF, without fonts: texts are outlines.

use std::io::Write;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use pdf_writer::types::{LineCapStyle, LineJoinStyle};
use pdf_writer::{Content, Filter, Finish, Name, Pdf, Rect, Ref};
use resvg::tiny_skia::{PathSegment, Pixmap, Point, Transform};
use resvg::usvg::{self, FillRule, LineCap, LineJoin, Node, Paint};

/// Points an inch over px an inch.
const POINTS: f32 = 72.0 / 96.0;

const CATALOG: Ref = Ref::new(1);
const PAGES: Ref = Ref::new(2);
const PAGE: Ref = Ref::new(3);
const CONTENT: Ref = Ref::new(4);
/// States of transparency, then images.
const FIRST: i32 = 5;

/// A pixel image, and where it lies: left, top, width, height in px of the document.
pub(super) struct Placed {
    pub(super) at: [f32; 4],
    pub(super) pixels: Pixmap,
}

/// The page: `images`, and `tree` over them, scaled by `scale`.
pub(super) fn page(tree: &usvg::Tree, images: &[Placed], scale: f32) -> Vec<u8> {
    let unit = POINTS * scale;
    let (width, height) = (tree.size().width() * unit, tree.size().height() * unit);
    let mut content = Content::new();
    for (i, image) in images.iter().enumerate() {
        let [x, y, w, h] = image.at.map(|v| v * unit);
        content.save_state();
        content.transform([w, 0.0, 0.0, h, x, height - y - h]);
        content.x_object(Name(image_name(i).as_bytes()));
        content.restore_state();
    }
    let mut page =
        Page { content, turn: Transform::from_row(unit, 0.0, 0.0, -unit, 0.0, height), alphas: vec![] };
    page.group(tree.root());
    let Page { content, alphas, .. } = page;

    let first_image = FIRST + alphas.len() as i32;
    let mut pdf = Pdf::new();
    pdf.catalog(CATALOG).pages(PAGES);
    pdf.pages(PAGES).kids([PAGE]).count(1);
    let mut head = pdf.page(PAGE);
    head.media_box(Rect::new(0.0, 0.0, width, height)).parent(PAGES).contents(CONTENT);
    let mut resources = head.resources();
    let mut states = resources.ext_g_states();
    for i in 0..alphas.len() {
        states.pair(Name(alpha_name(i).as_bytes()), Ref::new(FIRST + i as i32));
    }
    states.finish();
    let mut objects = resources.x_objects();
    for i in 0..images.len() {
        objects.pair(Name(image_name(i).as_bytes()), Ref::new(first_image + i as i32));
    }
    objects.finish();
    resources.finish();
    head.finish();
    for (i, alpha) in alphas.iter().enumerate() {
        pdf.ext_graphics(Ref::new(FIRST + i as i32)).non_stroking_alpha(*alpha).stroking_alpha(*alpha);
    }
    for (i, image) in images.iter().enumerate() {
        let colors: Vec<u8> =
            image.pixels.pixels().iter().flat_map(|p| [p.red(), p.green(), p.blue()]).collect();
        let packed = deflated(&colors);
        let mut object = pdf.image_xobject(Ref::new(first_image + i as i32), &packed);
        object.filter(Filter::FlateDecode);
        object.width(image.pixels.width() as i32).height(image.pixels.height() as i32);
        object.color_space().device_rgb();
        object.bits_per_component(8);
    }
    pdf.stream(CONTENT, &deflated(&content.finish())).filter(Filter::FlateDecode);
    pdf.finish()
}

fn image_name(i: usize) -> String {
    format!("I{i}")
}

fn alpha_name(i: usize) -> String {
    format!("A{i}")
}

fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut out = ZlibEncoder::new(Vec::new(), Compression::default());
    // Writing to memory does not fail.
    let _ = out.write_all(bytes);
    out.finish().unwrap_or_default()
}

struct Page {
    content: Content,
    /// From px of the document, downwards, to points, upwards.
    turn: Transform,
    /// Opacities that were met, each a state of the page.
    alphas: Vec<f32>,
}

impl Page {
    fn group(&mut self, group: &usvg::Group) {
        for node in group.children() {
            match node {
                Node::Group(g) => self.group(g),
                Node::Path(p) => self.path(p),
                Node::Text(t) => self.group(t.flattened()),
                // Images of figures are laid down apart.
                Node::Image(_) => {}
            }
        }
    }

    fn path(&mut self, path: &usvg::Path) {
        let map = path.abs_transform().post_concat(self.turn);
        let at = |mut p: Point| {
            map.map_point(&mut p);
            (p.x, p.y)
        };
        let color = |paint: &Paint| match paint {
            Paint::Color(c) => Some([c.red, c.green, c.blue].map(|v| f32::from(v) / 255.0)),
            _ => None,
        };
        let fill = path.fill().and_then(|f| Some((f, color(f.paint())?)));
        let stroke = path.stroke().and_then(|s| Some((s, color(s.paint())?)));
        let opacity = fill.map(|(f, _)| f.opacity()).or(stroke.map(|(s, _)| s.opacity()));
        let Some(opacity) = opacity.filter(|_| path.is_visible()) else { return };
        self.content.save_state();
        if opacity.get() < 1.0 {
            let i = self.alphas.iter().position(|a| *a == opacity.get()).unwrap_or_else(|| {
                self.alphas.push(opacity.get());
                self.alphas.len() - 1
            });
            self.content.set_parameters(Name(alpha_name(i).as_bytes()));
        }
        if let Some((_, [r, g, b])) = fill {
            self.content.set_fill_rgb(r, g, b);
        }
        if let Some((s, [r, g, b])) = stroke {
            // Figures are scaled alike in both directions.
            let unit = (map.sx * map.sx + map.ky * map.ky).sqrt();
            self.content.set_stroke_rgb(r, g, b).set_line_width(s.width().get() * unit);
            self.content.set_line_cap(match s.linecap() {
                LineCap::Butt => LineCapStyle::ButtCap,
                LineCap::Round => LineCapStyle::RoundCap,
                LineCap::Square => LineCapStyle::ProjectingSquareCap,
            });
            self.content.set_line_join(match s.linejoin() {
                LineJoin::Round => LineJoinStyle::RoundJoin,
                LineJoin::Bevel => LineJoinStyle::BevelJoin,
                _ => LineJoinStyle::MiterJoin,
            });
            if let Some(dashes) = s.dasharray() {
                self.content.set_dash_pattern(dashes.iter().map(|d| d * unit), s.dashoffset() * unit);
            }
        }
        let mut last = Point::zero();
        for segment in path.data().segments() {
            match segment {
                PathSegment::MoveTo(p) => {
                    let (x, y) = at(p);
                    self.content.move_to(x, y);
                    last = p;
                }
                PathSegment::LineTo(p) => {
                    let (x, y) = at(p);
                    self.content.line_to(x, y);
                    last = p;
                }
                PathSegment::QuadTo(c, p) => {
                    // The same curve as a cubic one.
                    let toward = |e: Point| {
                        Point::from_xy(e.x + (c.x - e.x) * 2.0 / 3.0, e.y + (c.y - e.y) * 2.0 / 3.0)
                    };
                    let ((x1, y1), (x2, y2), (x, y)) = (at(toward(last)), at(toward(p)), at(p));
                    self.content.cubic_to(x1, y1, x2, y2, x, y);
                    last = p;
                }
                PathSegment::CubicTo(c, d, p) => {
                    let ((x1, y1), (x2, y2), (x, y)) = (at(c), at(d), at(p));
                    self.content.cubic_to(x1, y1, x2, y2, x, y);
                    last = p;
                }
                PathSegment::Close => {
                    self.content.close_path();
                }
            }
        }
        let odd = fill.is_some_and(|(f, _)| f.rule() == FillRule::EvenOdd);
        match (fill.is_some(), stroke.is_some()) {
            (true, true) if odd => self.content.fill_even_odd_and_stroke(),
            (true, true) => self.content.fill_nonzero_and_stroke(),
            (true, false) if odd => self.content.fill_even_odd(),
            (true, false) => self.content.fill_nonzero(),
            (false, _) => self.content.stroke(),
        };
        self.content.restore_state();
    }
}

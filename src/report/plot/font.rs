//! The embedded typeface: what it draws with and how wide its text is.
//!
//! Layout needs true widths, and the machine may have no fonts at all, so DejaVu Sans travels in
//! the binary. The SVG refers to it by name and the PNG renderer knows no other.

use std::sync::OnceLock;

use skrifa::instance::{LocationRef, Size};
use skrifa::metrics::GlyphMetrics;
use skrifa::{FontRef, MetadataProvider};

/// Family list written into every SVG.
pub(super) const FAMILY: &str = "DejaVu Sans, sans-serif";

/// Advance width of `text` at `size` px.
pub(super) fn text_width(text: &str, size: f64, bold: bool) -> f64 {
    static FONTS: OnceLock<[Option<FontRef<'static>>; 2]> = OnceLock::new();
    let fonts =
        FONTS.get_or_init(|| [dejavu::sans::regular(), dejavu::sans::bold()].map(|b| FontRef::new(b).ok()));
    let Some(font) = &fonts[usize::from(bold)] else {
        // Cannot happen with the embedded files; an average width keeps the figure legible all the
        // same.
        return 0.6 * size * text.chars().count() as f64;
    };
    let characters = font.charmap();
    let glyphs = GlyphMetrics::new(font, Size::new(size as f32), LocationRef::default());
    let width = |c| characters.map(c).and_then(|g| glyphs.advance_width(g));
    text.chars().map(|c| width(c).map_or(0.6 * size, f64::from)).sum()
}

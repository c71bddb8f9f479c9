//! Colours: two maps for numbers, one palette for lines.

use plotters::style::RGBColor;
use serde::{Deserialize, Serialize};

use super::drawable;

/// A colour map for a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Colormap {
    /// Viridis: dark blue (low) to yellow (high), perceptually uniform, legible in grey and to the
    /// colour-blind.
    #[default]
    Sequential,
    /// Blue (negative), white (zero), red (positive): lightness and chroma change evenly and alike
    /// on both sides, in the OKLab space (Ottosson 2020).
    Diverging,
    /// White (0) to ink (1), for relations such as graphs; without a bar where only these two
    /// occur.
    Binary,
}

/// Colour of a cell without a number.
pub(super) const NAN_COLOR: RGBColor = RGBColor(0xbd, 0xbd, 0xbd);

/// Line colours that the colour-blind can tell apart (Okabe and Ito), strongest first.
const PALETTE: [RGBColor; 7] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0x00, 0x00, 0x00),
];

/// Levels a colour map is cut into; finer steps cannot be seen and would only swell the SVG.
pub(super) const LEVELS: usize = 256;

/// Matplotlib's viridis (CC0) at 33 even positions; linear between them, within 3/255 of the
/// original (plotters' own has 8).
#[rustfmt::skip]
const VIRIDIS: [[u8; 3]; 33] = [
    [68, 1, 84], [71, 13, 96], [72, 24, 106], [72, 35, 116], [71, 45, 123], [69, 55, 129], [66, 64, 134],
    [62, 73, 137], [59, 82, 139], [55, 91, 141], [51, 99, 141], [47, 107, 142], [44, 114, 142], [41, 122, 142],
    [38, 130, 142], [35, 137, 142], [33, 145, 140], [31, 152, 139], [31, 160, 136], [34, 167, 133], [40, 174, 128],
    [50, 182, 122], [63, 188, 115], [78, 195, 107], [94, 201, 98], [112, 207, 87], [132, 212, 75], [152, 216, 62],
    [173, 220, 48], [194, 223, 35], [216, 226, 25], [236, 229, 27], [253, 231, 37],
];

/// Palette colour of series `index`; past the end it starts over.
pub(super) fn line_color(index: usize) -> RGBColor {
    PALETTE[index % PALETTE.len()]
}

impl Colormap {
    /// Level of `v` in a map over `[lo, hi]`: `0..LEVELS`, values outside clamped; `None` for NaN.
    pub(super) fn level(v: f64, (lo, hi): (f64, f64)) -> Option<usize> {
        if v.is_nan() {
            return None;
        }
        // The cast saturates, which is the clamp that infinities need.
        Some((((v - lo) / (hi - lo) * LEVELS as f64).floor().max(0.0) as usize).min(LEVELS - 1))
    }

    /// Colour of `level`.
    pub(super) fn color(self, level: usize) -> RGBColor {
        let t = level as f64 / (LEVELS - 1) as f64;
        let [r, g, b] = match self {
            Colormap::Sequential => viridis(t),
            Colormap::Diverging => diverging(2.0 * t - 1.0),
            Colormap::Binary => oklab(1.0 - 0.75 * t, 0.0, 0.0),
        };
        RGBColor(r, g, b)
    }

    /// The range a map needs to show `values`: from least to greatest, or symmetric about zero for
    /// a diverging map. Only finite values count; without spread the range is one wide.
    pub(super) fn range_of(self, values: &[f64]) -> (f64, f64) {
        let finite = || values.iter().copied().filter(|v| drawable(*v));
        let (lo, hi) = (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
        let (lo, hi) = match self {
            _ if lo > hi => (0.0, 1.0),
            Colormap::Sequential => (lo, hi),
            Colormap::Binary => (0.0, 1.0),
            Colormap::Diverging => (-hi.abs().max(lo.abs()), hi.abs().max(lo.abs())),
        };
        if hi > lo { (lo, hi) } else { (lo - 0.5, hi + 0.5) }
    }
}

fn viridis(t: f64) -> [u8; 3] {
    let at = t.clamp(0.0, 1.0) * (VIRIDIS.len() - 1) as f64;
    let i = (at as usize).min(VIRIDIS.len() - 2);
    let part = at - i as f64;
    std::array::from_fn(|c| {
        let (a, b) = (f64::from(VIRIDIS[i][c]), f64::from(VIRIDIS[i + 1][c]));
        (a + (b - a) * part).round() as u8
    })
}

/// `t` from -1 (blue) through 0 (white) to 1 (red).
fn diverging(t: f64) -> [u8; 3] {
    let strength = t.abs().min(1.0);
    let hue = if t < 0.0 { 257.0_f64 } else { 27.0 }.to_radians();
    // White to a lightness both hues reach inside sRGB with equal chroma.
    let (lightness, chroma) = (1.0 - 0.55 * strength, 0.165 * strength.powf(0.9));
    oklab(lightness, chroma * hue.cos(), chroma * hue.sin())
}

/// OKLab to sRGB bytes (Björn Ottosson, "A perceptual color space for image processing", 2020).
fn oklab(lightness: f64, a: f64, b: f64) -> [u8; 3] {
    let l = (lightness + 0.3963377774 * a + 0.2158037573 * b).powi(3);
    let m = (lightness - 0.1055613458 * a - 0.0638541728 * b).powi(3);
    let s = (lightness - 0.0894841775 * a - 1.2914855480 * b).powi(3);
    let linear = [
        4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
        -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
        -0.0041960863 * l - 0.7034186147 * m + 1.7076147010 * s,
    ];
    linear.map(|v| {
        let v = v.clamp(0.0, 1.0);
        let gamma = if v <= 0.0031308 { 12.92 * v } else { 1.055 * v.powf(1.0 / 2.4) - 0.055 };
        (255.0 * gamma).round() as u8
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_meet_their_anchors() {
        assert_eq!(viridis(0.0), [68, 1, 84]);
        assert_eq!(viridis(0.5), [33, 145, 140]);
        assert_eq!(viridis(1.0), [253, 231, 37]);
        assert_eq!(diverging(0.0), [255, 255, 255]);
        let ([_, _, blue], [red, _, _]) = (diverging(-1.0), diverging(1.0));
        assert!(blue > 120 && red > 120);
    }

    #[test]
    fn levels_clamp_and_ranges_survive_odd_values() {
        let range = (0.0, 1.0);
        assert_eq!(Colormap::level(f64::NAN, range), None);
        assert_eq!(Colormap::level(f64::NEG_INFINITY, range), Some(0));
        assert_eq!(Colormap::level(f64::INFINITY, range), Some(LEVELS - 1));
        assert_eq!(Colormap::level(1.0, range), Some(LEVELS - 1));
        assert_eq!(Colormap::Diverging.range_of(&[-1.0, 3.0, f64::NAN, f64::INFINITY]), (-3.0, 3.0));
        assert_eq!(Colormap::Sequential.range_of(&[2.0, 2.0]), (1.5, 2.5));
        assert_eq!(Colormap::Sequential.range_of(&[f64::NAN]), (0.0, 1.0));
        assert_eq!(Colormap::Diverging.range_of(&[0.0]), (-0.5, 0.5));
        for map in [Colormap::Sequential, Colormap::Diverging, Colormap::Binary] {
            let (lo, hi) = map.range_of(&[f64::MAX, f64::MIN]);
            assert!((hi - lo).is_finite() && hi > lo);
        }
    }
}

//! What stands around the cells of a matrix: names along its edges, lines between blocks, the bar
//! of colours. The cells are a canvas above it, which the page's script fills.

use super::data::{Map, Side};
use crate::report::records::number;
use maud::{Markup, html};

/// Width of a letter, px.
const LETTER: f64 = 6.2;
/// Height of a line.
const LINE: f64 = 11.5;

/// Longest name along an edge.
fn longest(side: &Side) -> f64 {
    let names: Box<dyn Iterator<Item = &String>> = match side.blocks.is_empty() {
        true => Box::new(side.names.iter()),
        false => Box::new(side.blocks.iter().map(|b| &b.0)),
    };
    names.map(|n| n.chars().count()).max().unwrap_or(0) as f64 * LETTER
}

/// Names along an edge with the middle of what each covers, in cells; as many as fit.
fn places(side: &Side, cell: f64, room: f64) -> Vec<(f64, &str)> {
    let all: Vec<(f64, &str)> = match side.blocks.is_empty() {
        true => side.names.iter().enumerate().map(|(i, n)| (i as f64 + 0.5, n.as_str())).collect(),
        false => {
            let ends = side.blocks.iter().scan(0.0, |at, (name, size)| {
                *at += size;
                Some((*at - size / 2.0, name.as_str()))
            });
            ends.collect()
        }
    };
    if side.blocks.is_empty() {
        // Numbers at round places.
        let every = [1, 2, 5, 10, 20, 50, 100].into_iter().find(|k| *k as f64 * cell >= room);
        return all.into_iter().step_by(every.unwrap_or(200)).collect();
    }
    let mut out: Vec<(f64, &str)> = Vec::new();
    for (at, name) in all.into_iter().filter(|(_, name)| !name.is_empty()) {
        if out.last().is_none_or(|(before, _)| (at - before) * cell >= room) {
            out.push((at, name));
        }
    }
    out
}

/// Edges between blocks, in cells.
fn edges(side: &Side) -> Vec<f64> {
    let ends = side.blocks.iter().scan(0.0, |at, b| {
        *at += b.1;
        Some(*at)
    });
    ends.take(side.blocks.len().saturating_sub(1)).collect()
}

/// The matrix number `at` of its part.
pub(super) fn map(at: usize, map: &Map) -> Markup {
    let (rows, cols) = (map.rows.names.len(), map.cols.names.len());
    // Cells of a narrow matrix are wide, so that they can be seen.
    let side = |n: usize| (290.0 / n.max(1) as f64).clamp(2.0, 20.0);
    let (cell_w, cell_h) = (side(cols).min(3.0 * side(rows)), side(rows).min(3.0 * side(cols)));
    let (w, h) = (cols as f64 * cell_w, rows as f64 * cell_h);
    let of_blocks = !map.cols.blocks.is_empty();
    let left = longest(&map.rows) + 6.0 + if map.rows.label.is_empty() { 0.0 } else { 15.0 };
    // Names of blocks are written aslant, others in a line.
    let names = if of_blocks { longest(&map.cols) * 0.62 + 12.0 } else { 15.0 };
    let below = names + if map.cols.label.is_empty() { 0.0 } else { 15.0 };
    let (width, height) = ((left + w + 8.0).max(150.0), 4.0 + h + below);
    let per = |x: f64, of: f64| format!("{:.3}%", 100.0 * x / of);
    let style = format!(
        "left:{};top:{};width:{};height:{}",
        per(left, width),
        per(4.0, height),
        per(w, width),
        per(h, height)
    );
    let px = |x: f64| format!("{x:.1}");
    let room = if of_blocks { LINE } else { longest(&map.cols).max(LETTER) + 3.0 };
    html! {
        div.map data-map=(at) style=(format!("width:{width:.0}px")) {
            h4 { (map.title) }
            div.face {
                svg viewBox=(format!("0 0 {width:.1} {height:.1}")) aria-hidden="true" {
                    @for (y, name) in places(&map.rows, cell_h, LINE) {
                        text x=(px(left - 4.0)) y=(px(4.0 + y * cell_h + 3.7)) text-anchor="end" { (name) }
                    }
                    @for (x, name) in places(&map.cols, cell_w, room) {
                        @let (x, y) = (left + x * cell_w, 4.0 + h + 12.0);
                        @if of_blocks {
                            text transform=(format!("translate({:.1} {y:.1}) rotate(-38)", x + 3.0)) text-anchor="end" { (name) }
                        } @else {
                            text x=(px(x)) y=(px(y)) text-anchor="middle" { (name) }
                        }
                    }
                    @for y in edges(&map.rows) {
                        path.axis d=(format!("M{:.1} {:.1}h-5", left, 4.0 + y * cell_h)) {}
                    }
                    @for x in edges(&map.cols) {
                        path.axis d=(format!("M{:.1} {:.1}v5", left + x * cell_w, 4.0 + h)) {}
                    }
                    @if !map.rows.label.is_empty() {
                        text transform=(format!("translate(11 {:.1}) rotate(-90)", 4.0 + h / 2.0)) text-anchor="middle" { (map.rows.label) }
                    }
                    @if !map.cols.label.is_empty() {
                        @let half = map.cols.label.chars().count() as f64 * LETTER / 2.0;
                        text x=(px((left + w / 2.0).min(width - half).max(half))) y=(px(height - 3.0)) text-anchor="middle" {
                            (map.cols.label)
                        }
                    }
                }
                canvas width=(cols) height=(rows) style=(style) tabindex="0" role="img"
                    aria-label=(format!("{}: {rows} by {cols}; arrow keys read cells", map.title)) {}
            }
            output {}
            div.bar.signed[map.signed].unit[!map.signed] {
                b { (number(map.range.0)) } i {} b { (number(map.range.1)) }
                @if map.pool != (1, 1) {
                    " each cell: the largest of " (map.pool.0) " × " (map.pool.1)
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(n: usize, blocks: &[(&str, f64)]) -> Side {
        let blocks = blocks.iter().map(|(n, s)| (n.to_string(), *s)).collect();
        Side { label: "key".into(), names: (0..n).map(|i| i.to_string()).collect(), blocks }
    }

    #[test]
    fn names_that_fit_and_edges_between_blocks() {
        let s = side(20, &[]);
        let shown = |room| places(&s, 5.0, room).iter().map(|p| p.1).collect::<Vec<_>>();
        assert_eq!(shown(12.0), ["0", "5", "10", "15"]);
        assert_eq!(shown(4.0).len(), 20);
        let b = side(5, &[("token", 2.0), ("position", 3.0)]);
        assert_eq!(places(&b, 20.0, 11.0), [(1.0, "token"), (3.5, "position")]);
        assert_eq!(edges(&b), [2.0]);
        assert!(edges(&s).is_empty());
    }

    #[test]
    fn text_around_a_matrix_is_escaped() {
        let mut rows = side(1, &[]);
        rows.names[0] = "<q>".into();
        let m = Map {
            title: "<s>".into(),
            rows,
            cols: side(1, &[]),
            signed: true,
            range: (-1.0, 1.0),
            pool: (1, 1),
            frames: vec![vec![0.5]],
        };
        let out = map(3, &m).into_string();
        assert!(!out.contains("<q>") && !out.contains("<s>") && out.contains("data-map=\"3\""), "{out}");
    }
}

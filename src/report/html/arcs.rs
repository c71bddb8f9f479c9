//! A graph over positions: the true edges as arcs above the line, those that attention shows below.

use super::data::Edge;
use maud::{Markup, html};

/// Largest height of the arcs on each side, px.
const MOST_HEIGHT: f64 = 120.0;

/// The class that colours and dashes an edge; none for one that is neither true nor found.
pub(super) fn status(e: &Edge) -> Option<usize> {
    match (e.found, e.right) {
        (true, true) => Some(0),
        (true, false) => Some(1),
        (false, true) => Some(2),
        (false, false) => None,
    }
}

const CLASSES: [&str; 3] = ["right", "wrong", "missed"];

/// The graph with parents `truth` of each position, and what was learned after the last snapshot.
pub(super) fn graph(truth: &[Vec<usize>], positions: usize, learned: &[Edge]) -> Markup {
    let edges = || truth.iter().enumerate().flat_map(|(i, set)| set.iter().map(move |p| (i, *p)));
    let n = positions.max(truth.len()).max(1);
    // Up to twenty positions fit a telephone.
    let by = if n <= 20 { (330.0 / n as f64).clamp(16.0, 44.0) } else { (680.0 / n as f64).clamp(9.0, 16.0) };
    let spans = edges().chain(learned.iter().map(|e| (e.child, e.parent)));
    let longest = spans.map(|(i, p)| i - p).max().unwrap_or(1).max(1) as f64;
    // Flatter ellipses where a half circle would be too high.
    let k = (MOST_HEIGHT / (longest * by / 2.0)).min(1.0);
    let height = longest * by / 2.0 * k + 14.0;
    let radius = (by / 2.0 - 2.0).clamp(3.0, 11.0);
    // Two digits in a circle.
    let letter = (radius * 1.25).clamp(8.0, 11.0);
    let x0 = 8.0 + radius;
    let above = height - radius;
    let below = height + radius;
    let (width, whole) = (x0 + (n - 1) as f64 * by + radius + 8.0, 2.0 * height);
    let x = |i: usize| x0 + i as f64 * by;
    let arc = |i: usize, p: usize, y: f64, sweep: u8| {
        let rx = (x(i) - x(p)) / 2.0;
        format!("M{:.1} {y:.1}A{rx:.2} {:.2} 0 0 {sweep} {:.1} {y:.1}", x(i), rx * k, x(p))
    };
    let named = |i: usize| by >= 15.0 || i.is_multiple_of(5);
    let count = |s: usize| learned.iter().filter(|e| status(e) == Some(s)).count();
    let said = format!("{} of {} edges found, {} others", count(0), count(0) + count(2), count(1));
    html! {
        div.arcs data-x0=(x0) data-by=(by) data-y=(below) data-k=(k) {
            p.key.quiet {
                "above: the true graph; below: what the first layer attends to"
                @for (class, what) in CLASSES.iter().zip(["true edge", "no true edge", "true edge not found"]) {
                    " " svg width="30" height="8" viewBox="0 0 30 8" aria-hidden="true" {
                        path class=(class) d="M0 4H30" {}
                    }
                    (what)
                }
            }
            div.scroll {
                svg width=(format!("{width:.0}")) height=(format!("{whole:.0}"))
                    viewBox=(format!("0 0 {width:.1} {whole:.1}")) role="img"
                    aria-label=(format!("True graph and learned graph: {said}")) {
                    g {
                        @for (i, p) in edges() {
                            path class="true" d=(arc(i, p, above, 0)) { title { "from " (i) " to its parent " (p) } }
                        }
                    }
                    g.learned {
                        @for e in learned {
                            @if let Some(s) = status(e) { path class=(CLASSES[s]) d=(arc(e.child, e.parent, below, 1)) {} }
                        }
                    }
                    @for i in 0..n {
                        circle cx=(format!("{:.1}", x(i))) cy=(format!("{height:.1}")) r=(format!("{radius:.1}")) {}
                        @if named(i) {
                            text x=(format!("{:.1}", x(i))) y=(format!("{:.1}", height + letter / 3.0))
                                font-size=(format!("{letter:.1}")) {
                                @if i < positions { (i) } @else { "→" }
                            }
                        }
                    }
                }
            }
            output { (said) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn true_edges_lie_above_and_learned_ones_below() {
        let edge =
            |child, parent, found, right| Edge { child, parent, attention: 0.5, head: 0, found, right };
        let learned = [edge(1, 0, true, true), edge(2, 1, false, true), edge(2, 0, true, false)];
        let out = graph(&[vec![], vec![0], vec![1]], 4, &learned).into_string();
        assert_eq!(out.matches("class=\"true\"").count(), 2);
        for class in CLASSES {
            // One in the key.
            assert_eq!(out.matches(&format!("class=\"{class}\"")).count(), 2, "{class}");
        }
        assert!(out.contains("1 of 2 edges found, 1 others"), "{out}");
        assert_eq!(out.matches("<circle").count(), 4);
    }
}

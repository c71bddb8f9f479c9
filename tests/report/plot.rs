//! Figures: valid, complete, repeatable, inside their canvas; every cell in its place; odd input
//! neither panics nor shows.
//!
//! The samples are also written to `target/tmp/figures`, to be looked at.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use popgrad::Error;
use popgrad::report::plot::*;
use resvg::tiny_skia::Pixmap;
use resvg::usvg::{self, fontdb};

fn tree(svg: &str) -> usvg::Tree {
    static FONTS: OnceLock<Arc<fontdb::Database>> = OnceLock::new();
    let load = || {
        let mut fonts = fontdb::Database::new();
        fonts.load_font_data(dejavu::sans::regular().to_vec());
        fonts.load_font_data(dejavu::sans::bold().to_vec());
        Arc::new(fonts)
    };
    let fontdb = FONTS.get_or_init(load).clone();
    usvg::Tree::from_str(svg, &usvg::Options { fontdb, ..Default::default() }).expect("valid SVG")
}

/// Boxes of everything that is drawn, texts with their true widths, in px.
fn boxes(group: &usvg::Group, out: &mut Vec<(usvg::Rect, Option<String>)>) {
    for node in group.children() {
        match node {
            usvg::Node::Group(g) => boxes(g, out),
            usvg::Node::Text(t) => {
                let text = t.chunks().iter().map(|c| c.text().to_string()).collect();
                out.push((t.abs_bounding_box(), Some(text)));
            }
            other => out.push((other.abs_bounding_box(), None)),
        }
    }
}

/// Draw and check what holds for every figure; returns its texts.
fn check(name: &str, figure: &Figure) -> Vec<String> {
    let svg = figure.to_svg().unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(svg, figure.to_svg().unwrap(), "{name}: equal records give equal bytes");
    for word in ["NaN\"", "inf", "2147483647", "-2147483648"] {
        assert!(!svg.contains(word), "{name}: {word} in the SVG");
    }
    let tree = tree(&svg);
    let (width, height) = (tree.size().width(), tree.size().height());
    let mut all = Vec::new();
    boxes(tree.root(), &mut all);
    for (b, text) in &all {
        let inside =
            b.left() >= -0.01 && b.top() >= -0.01 && b.right() <= width + 0.01 && b.bottom() <= height + 0.01;
        assert!(inside, "{name}: {b:?} {text:?} outside of {width} x {height}");
    }
    let texts: Vec<_> = all.iter().filter_map(|(b, t)| t.as_ref().map(|t| (b, t))).collect();
    for (i, (a, s)) in texts.iter().enumerate() {
        for (b, t) in &texts[..i] {
            let apart = a.left() >= b.right() - 0.5
                || b.left() >= a.right() - 0.5
                || a.top() >= b.bottom() - 1.5
                || b.top() >= a.bottom() - 1.5;
            assert!(apart, "{name}: `{s}` {a:?} covers `{t}` {b:?}");
        }
    }
    texts.into_iter().map(|(_, t)| t.trim().to_string()).collect()
}

/// [`check`], and leave the figure in `target/tmp/figures`.
fn sample(name: &str, figure: impl Into<Figure>) -> Vec<String> {
    let figure = figure.into();
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("figures");
    std::fs::create_dir_all(&dir).unwrap();
    let (svg, png) = save_figure(&dir, name, &figure).unwrap();
    assert_eq!(std::fs::read_to_string(svg).unwrap(), figure.to_svg().unwrap());
    assert_eq!(
        std::fs::read(png).unwrap(),
        figure.to_png().unwrap(),
        "{name}: equal records give equal bytes"
    );
    check(name, &figure)
}

/// Numbers that look random and are the same on every machine.
fn noise(n: usize) -> Vec<f64> {
    (0..n as u64)
        .map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f64 / (1 << 23) as f64 - 1.0)
        .collect()
}

fn loss() -> LineChart {
    let curve = |scale: f64, noisy: f64| {
        let noise = noise(1001);
        (0..=1000).map(move |i| {
            let t = i as f64 / 1000.0;
            (i as f64 * 131.072, 1.2 + 1.1 / (1.0 + (scale * (t - 0.4)).exp()) + noisy * noise[i])
        })
    };
    LineChart {
        title: "Test loss".into(),
        x_label: "step".into(),
        y_label: "cross-entropy (nats)".into(),
        series: vec![
            Series::new("training", curve(20.0, 0.02).collect(), 5),
            Series::new("test", curve(20.0, 0.0).step_by(50).collect(), 0),
        ],
        reference_lines: vec![
            RefLine::new("uniform guess", 10.0_f64.ln()),
            RefLine::new("Bayes, counts", 1.2455),
            RefLine::new("Bayes, public code", 1.2458),
            RefLine::new("Bayes, exact posterior", 1.21),
        ],
        ..LineChart::default()
    }
}

fn stream(names: &[(&str, usize)]) -> Vec<Block> {
    names.iter().map(|(n, size)| Block::new(*n, *size)).collect()
}

fn matrix(title: &str, rows: &[(&str, usize)], cols: &[(&str, usize)]) -> HeatMap {
    let (row_blocks, col_blocks) = (stream(rows), stream(cols));
    let size = |blocks: &[Block]| blocks.iter().map(|b| b.size).sum::<usize>();
    let (n, m) = (size(&row_blocks), size(&col_blocks));
    let mut values = noise(n * m);
    values.iter_mut().for_each(|v| *v *= 0.2);
    (0..n.min(m)).for_each(|i| values[i * m + i] += 3.0);
    HeatMap {
        title: title.into(),
        values,
        rows: n,
        cols: m,
        row_blocks,
        col_blocks,
        colormap: Colormap::Diverging,
        x_label: "key".into(),
        y_label: "query".into(),
        ..HeatMap::default()
    }
}

const INPUT: [(&str, usize); 2] = [("token", 10), ("position", 20)];
const AFTER_ONE: [(&str, usize); 4] =
    [("token", 10), ("position", 20), ("attn1 token", 10), ("attn1 position", 20)];

fn readout() -> HeatMap {
    let mut rows: Vec<(&str, usize)> = AFTER_ONE.to_vec();
    rows.extend([
        ("attn2 token", 10),
        ("attn2 position", 20),
        ("attn2 attn1 token", 10),
        ("attn2 attn1 position", 20),
    ]);
    let mut map = matrix("W", &rows, &[("", 10)]);
    map.col_blocks.clear();
    map.col_ticks = Ticks::From(1);
    map.x_label = "next symbol".into();
    map.y_label = "residual stream at the query".into();
    map
}

fn pattern() -> HeatMap {
    let n = 20;
    let values = (0..n * n).map(|i| if i % n > i / n { 0.0 } else { 1.0 / (i / n + 1) as f64 }).collect();
    HeatMap {
        title: "softmax of A1, positions".into(),
        values,
        rows: n,
        cols: n,
        range: Some((0.0, 1.0)),
        row_ticks: Ticks::From(1),
        col_ticks: Ticks::From(1),
        x_label: "key position".into(),
        y_label: "query position".into(),
        ..HeatMap::default()
    }
}

#[test]
fn loss_curves_name_everything() {
    let texts = sample("loss", loss());
    for expected in [
        "Test loss",
        "step",
        "cross-entropy (nats)",
        "training",
        "test",
        "uniform guess 2.3026",
        "Bayes, counts 1.2455",
        "Bayes, public code 1.2458",
        "Bayes, exact posterior 1.2100",
        "40\u{2009}000",
        "2.0",
    ] {
        assert!(texts.iter().any(|t| t == expected), "`{expected}` missing in {texts:?}");
    }
    let log = LineChart { x_scale: Scale::Log, title: "Logarithmic".into(), ..loss() };
    let texts = sample("loss_log", log);
    assert!(texts.contains(&"10⁴".to_string()), "{texts:?}");
    let mut both = LineChart { x_scale: Scale::Log, y_scale: Scale::Log, ..loss() };
    both.series.iter_mut().for_each(|s| s.marked = true);
    both.series[0].points = (0..8).map(|i| (f64::from(1 << i), 0.5f64.powi(i))).collect();
    let texts = sample("loss_log_log", both);
    for expected in ["10", "100", "0.01", "0.1", "1"] {
        assert!(texts.iter().any(|t| t == expected), "`{expected}` missing in {texts:?}");
    }
}

/// Sizes of what a document shows, in px.
fn size(svg: &[u8]) -> (f32, f32) {
    let tree = tree(std::str::from_utf8(svg).unwrap());
    (tree.size().width(), tree.size().height())
}

#[test]
fn figures_have_the_width_that_is_asked_for_in_every_format() {
    let panels = Panels {
        title: "Panels".into(),
        columns: 3,
        figures: vec![loss().into(), pattern().into(), readout().into()],
    };
    for figure in [Figure::from(loss()), readout().into(), pattern().into(), panels.into()] {
        for (width, inches) in [(Width::Column, 3.4), (Width::Page, 7.0), (Width::Inches(5.0), 5.0)] {
            let look = Look { width, dpi: 150.0 };
            let svg = figure.to_bytes(Format::Svg, look).unwrap();
            assert!((size(&svg).0 - inches * 96.0).abs() < 0.01);
            let png = Pixmap::decode_png(&figure.to_bytes(Format::Png, look).unwrap()).unwrap();
            assert!((png.width() as f32 - inches * 150.0).abs() <= 1.0, "{} px", png.width());
            let pdf = figure.to_bytes(Format::Pdf, look).unwrap();
            let pdf = String::from_utf8_lossy(&pdf);
            let (_, page) = pdf.split_once("/MediaBox [").unwrap();
            let page: Vec<f32> =
                page.split(']').next().unwrap().split_whitespace().map(|v| v.parse().unwrap()).collect();
            assert!(pdf.starts_with("%PDF-") && (page[2] - inches * 72.0).abs() < 0.01, "{page:?}");
            let (w, h) = size(&svg);
            assert!((page[3] / page[2] - h / w).abs() < 1e-3);
        }
        assert_eq!(
            figure.to_bytes(Format::Svg, Look::default()).unwrap(),
            figure.to_svg().unwrap().as_bytes()
        );
        assert_eq!(figure.to_bytes(Format::Png, Look::default()).unwrap(), figure.to_png().unwrap());
    }
    let refused = |look| Figure::from(loss()).to_bytes(Format::Png, look).unwrap_err().to_string();
    assert!(refused(Look { width: Width::Inches(0.1), dpi: 100.0 }).starts_with("width: 0.1 inches"));
    assert!(refused(Look { width: Width::Natural, dpi: f64::NAN }).starts_with("dpi: NaN"));
}

#[test]
fn records_give_equal_figures_back() {
    let mut gaps = loss();
    gaps.series[0].points.push((f64::NAN, 1.0));
    gaps.reference_lines.push(RefLine::new("none", f64::NAN));
    let holes =
        HeatMap { values: vec![0.0, f64::NAN, 1.0 / 3.0, 1e-300], rows: 2, cols: 2, ..HeatMap::default() };
    let panels =
        Panels { title: "p".into(), columns: 2, figures: vec![gaps.into(), holes.into(), readout().into()] };
    let path = Path::new("a.json");
    for figure in [Figure::from(panels), pattern().into()] {
        let record = figure.to_json().unwrap();
        let again = Figure::from_json(path, record.as_bytes()).unwrap();
        assert_eq!(again.to_json().unwrap(), record);
        assert_eq!(again.to_svg().unwrap(), figure.to_svg().unwrap());
    }
    for (text, problem) in [
        ("", "a.json: EOF"),
        ("{}", "a.json: missing field `kind`"),
        (r#"{"kind": "heat", "rows": 2, "cols": 2}"#, "a.json: heat map values: 0 values"),
        (r#"{"kind": "panels", "title": "", "columns": 0, "figures": []}"#, "a.json: panels: 0 figures"),
    ] {
        let found = Figure::from_json(path, text.as_bytes()).unwrap_err().to_string();
        assert!(found.starts_with(problem), "{found}");
    }
}

#[test]
fn matrices_of_the_papers_sizes_name_their_blocks() {
    for (name, map) in [
        ("A1", matrix("A1", &INPUT, &INPUT)),
        ("A2", matrix("A2", &AFTER_ONE, &AFTER_ONE)),
        ("W", readout()),
        ("pattern", pattern()),
    ] {
        let texts = sample(name, map.clone());
        let names = map.row_blocks.iter().chain(&map.col_blocks).map(|b| &b.label);
        for expected in names.chain([&map.title, &map.x_label, &map.y_label]) {
            let found = texts.iter().filter(|t| *t == expected).count();
            assert!(found > 0, "{name}: `{expected}` missing in {texts:?}");
        }
    }
    let ticks = sample("pattern", pattern());
    assert!(["2", "10", "20", "0.2", "1.0"].iter().all(|t| ticks.contains(&t.to_string())), "{ticks:?}");
}

#[test]
fn panels_are_one_grid() {
    let figures = vec![
        loss().into(),
        pattern().into(),
        pattern().into(),
        matrix("A1", &INPUT, &INPUT).into(),
        matrix("A2", &AFTER_ONE, &AFTER_ONE).into(),
        readout().into(),
    ];
    let title = "random-tree graph, S = 10, T = 20, alpha = 0.1".to_string();
    let texts = sample("overview", Panels { title: title.clone(), columns: 3, figures });
    assert!(texts.contains(&title));
    // A grid inside a grid, and one whose title is wider than its only figure.
    let inner =
        Panels { title: String::new(), columns: 2, figures: vec![pattern().into(), pattern().into()] };
    let wide = Panels { title: "w".repeat(90), columns: 3, figures: vec![inner.into(), readout().into()] };
    sample("nested", wide);
    let tiny = HeatMap { values: vec![1.0], rows: 1, cols: 1, ..HeatMap::default() };
    let narrow = Panels { title: "a title wider than all".into(), columns: 9, figures: vec![tiny.into()] };
    sample("narrow", narrow);
}

/// Colour of the PNG at a point of the figure in px.
fn probe(png: &Pixmap, (x, y): (f64, f64)) -> (u8, u8, u8) {
    let p = png.pixel((x * 2.0) as u32, (y * 2.0) as u32).expect("inside").demultiply();
    (p.red(), p.green(), p.blue())
}

/// Where the SVG has its cells, in px: upper left corner and size of the first rectangle of each
/// colour.
fn cells(svg: &str) -> Vec<(usvg::Rect, (u8, u8, u8))> {
    fn walk(group: &usvg::Group, out: &mut Vec<(usvg::Rect, (u8, u8, u8))>) {
        for node in group.children() {
            match node {
                usvg::Node::Group(g) => walk(g, out),
                usvg::Node::Path(p) => {
                    if let Some(usvg::Paint::Color(c)) = p.fill().map(|f| f.paint().clone()) {
                        out.push((p.abs_bounding_box(), (c.red, c.green, c.blue)));
                    }
                }
                _ => {}
            }
        }
    }
    let mut out = Vec::new();
    walk(tree(svg).root(), &mut out);
    out
}

#[test]
fn every_cell_has_its_colour_in_its_row_and_column() {
    let figure: Figure = HeatMap {
        values: vec![0.0, 0.2, 0.4, 0.6, f64::NAN, 1.0],
        rows: 2,
        cols: 3,
        range: Some((0.0, 1.0)),
        ..HeatMap::default()
    }
    .into();
    check("2x3", &figure);
    let found = cells(&figure.to_svg().unwrap());
    // After the white ground.
    let (first, size) = (found[1].0, found[1].0.width());
    assert_eq!((size, first.height()), (32.0, 32.0), "cells are square");
    let png = Pixmap::decode_png(&figure.to_png().unwrap()).unwrap();
    let at = |i: usize, j: usize| {
        let offset = |k: usize| f64::from(size) * (k as f64 + 0.5);
        probe(&png, (f64::from(first.left()) + offset(j), f64::from(first.top()) + offset(i)))
    };
    // Viridis at 0, 51/255, .., by matplotlib.
    let expected =
        [[(68, 1, 84), (65, 68, 135), (42, 120, 142)], [(34, 168, 132), (189, 189, 189), (253, 231, 37)]];
    for (i, row) in expected.iter().enumerate() {
        for (j, &(r, g, b)) in row.iter().enumerate() {
            let (fr, fg, fb) = at(i, j);
            let near = |a: u8, b: u8| a.abs_diff(b) <= 4;
            assert!(
                near(fr, r) && near(fg, g) && near(fb, b),
                "({i}, {j}): {:?} for {:?}",
                at(i, j),
                (r, g, b)
            );
        }
    }
}

#[test]
fn diverging_maps_are_white_at_zero_and_cells_have_no_seams() {
    let mut map = matrix("", &[("", 60)], &[("", 60)]);
    map.values.fill(0.0);
    map.values[0] = 1.0;
    map.row_blocks.clear();
    map.col_blocks.clear();
    let figure: Figure = map.into();
    let svg = figure.to_svg().unwrap();
    assert!(cells(&svg).iter().skip(2).take(60).all(|(_, c)| *c >= (250, 250, 250)), "white at zero");
    let png = Pixmap::decode_png(&figure.to_png().unwrap()).unwrap();
    let first = cells(&svg)[1].0;
    for step in 5..595 {
        let at = (f64::from(first.left()) + 100.0, f64::from(first.top()) + f64::from(step) / 2.0);
        assert!(probe(&png, at) >= (250, 250, 250), "seam at {at:?}");
    }
}

fn chart(points: &[(f64, f64)]) -> LineChart {
    LineChart { series: vec![Series::new("s", points.to_vec(), 0)], ..LineChart::default() }
}

#[test]
fn odd_charts_are_drawn() {
    const NAN: f64 = f64::NAN;
    const INFINITY: f64 = f64::INFINITY;
    for (name, points) in [
        ("empty", &[][..]),
        ("one point", &[(3.0, 2.0)]),
        ("only NaN", &[(NAN, NAN), (1.0, NAN), (INFINITY, 0.0)]),
        (
            "gaps",
            &[(0.0, 1.0), (1.0, NAN), (2.0, 3.0), (3.0, INFINITY), (4.0, -INFINITY), (5.0, 2.0), (6.0, 1.0)],
        ),
        ("constant", &[(0.0, 7.0), (1.0, 7.0)]),
        ("vertical", &[(1.0, 0.0), (1.0, 5.0)]),
        ("huge", &[(-1e300, -1e300), (1e300, 1e300)]),
        ("too huge", &[(0.0, f64::MAX), (1.0, f64::MIN), (2.0, 1.0)]),
        ("tiny", &[(0.0, 0.0), (1e-300, 5e-324)]),
        ("close", &[(1e15, 1.0), (1e15 + 1.0, 1.0 + 1e-15)]),
        ("negative", &[(-5.0, -1e-4), (-4.0, -2e-4)]),
    ] {
        for (x_scale, dashed) in [(Scale::Linear, false), (Scale::Log, true)] {
            let mut chart = LineChart { x_scale, title: name.into(), ..chart(points) };
            chart.series[0].dashed = dashed;
            chart.reference_lines = vec![RefLine::new("bound", NAN), RefLine::new("", INFINITY)];
            check(name, &chart.into());
        }
    }
    check("no series", &LineChart::default().into());
    let log = [(1e-320, 1.0), (-1.0, 1.0), (0.0, 0.0), (1e-100, 1.0), (1e100, 2.0), (1e308, 2.0)];
    check("log", &LineChart { x_scale: Scale::Log, ..chart(&log) }.into());
    check("log, narrow", &LineChart { x_scale: Scale::Log, ..chart(&[(3.0, 0.0), (60.0, 1.0)]) }.into());
    let names =
        LineChart { title: "<&\"'\u{1}>".into(), x_label: "a < b & c \u{0}".into(), ..chart(&[(0.0, 1.0)]) };
    assert!(check("names", &names.into()).contains(&"<&\"'\u{fffd}>".to_string()));
}

#[test]
fn what_leaves_the_y_range_is_cut_off() {
    let points: Vec<(f64, f64)> =
        (0..50).map(|i| (f64::from(i), if i % 3 == 0 { 1e9 } else { -1e200 })).collect();
    let mut chart = LineChart { y_range: Some((0.0, 1.0)), ..chart(&points) };
    chart.reference_lines = vec![RefLine::new("inside", 0.25), RefLine::new("outside", 1.5)];
    let texts = check("cut", &chart.into());
    assert!(texts.contains(&"inside 0.25000".to_string()) && !texts.iter().any(|t| t.contains("outside")));
}

#[test]
fn many_equal_reference_lines_stay_apart() {
    let mut chart = chart(&[(0.0, 0.0), (1.0, 1.0)]);
    chart.reference_lines =
        (0..12).map(|i| RefLine::new(format!("line {i}"), 0.999 + f64::from(i) * 1e-5)).collect();
    let texts = sample("references", chart);
    assert!(texts.contains(&"line 11 0.99911".to_string()), "{texts:?}");
}

fn square(n: usize, value: impl Fn(usize) -> f64) -> HeatMap {
    HeatMap { values: (0..n * n).map(value).collect(), rows: n, cols: n, ..HeatMap::default() }
}

#[test]
fn matrices_of_every_size_and_value_are_drawn() {
    let ticked = |map: HeatMap| HeatMap {
        row_ticks: Ticks::From(1),
        col_ticks: Ticks::From(1),
        x_label: "column".into(),
        y_label: "row".into(),
        title: "T".into(),
        ..map
    };
    for n in [1, 2, 3, 7, 11, 20, 100, 300] {
        check(&format!("{n} x {n}"), &ticked(square(n, |i| i as f64)).into());
        check(
            &format!("{n} x 1"),
            &ticked(HeatMap { values: noise(n), rows: n, cols: 1, ..HeatMap::default() }).into(),
        );
        check(
            &format!("1 x {n}"),
            &ticked(HeatMap { values: noise(n), rows: 1, cols: n, ..HeatMap::default() }).into(),
        );
    }
    for (name, value) in [
        ("NaN", f64::NAN),
        ("infinite", f64::INFINITY),
        ("zero", 0.0),
        ("huge", 1e300),
        ("too huge", f64::MIN),
        ("tiny", 1e-320),
    ] {
        for colormap in [Colormap::Sequential, Colormap::Diverging] {
            let map = HeatMap { colormap, ..square(3, |i| if i == 4 { 1.0 } else { value }) };
            check(name, &ticked(map).into());
            check(name, &HeatMap { colormap, ..square(3, |_| value) }.into());
        }
    }
    let labels = ["short", "a longer label", "x & y"].map(String::from).to_vec();
    let named = HeatMap {
        row_ticks: Ticks::Labels(labels.clone()),
        col_ticks: Ticks::Labels(labels),
        row_blocks: stream(&[("first of the blocks", 1), ("", 0), ("rest", 2)]),
        ..square(3, |i| i as f64)
    };
    let texts = sample("labels", named);
    assert!(
        texts.contains(&"a longer label".to_string()) && texts.contains(&"rest".to_string()),
        "{texts:?}"
    );
    // Every position of a text, where numbers would be thinned out.
    let letters: Vec<String> = ('a'..='z').chain('A'..='N').map(String::from).collect();
    let (rows, cols) = (Ticks::Letters(letters.clone()), Ticks::Letters(letters.clone()));
    let texts = sample("letters", HeatMap { row_ticks: rows, col_ticks: cols, ..square(40, |i| i as f64) });
    for letter in letters {
        assert_eq!(texts.iter().filter(|t| **t == letter).count(), 2, "{letter}: {texts:?}");
    }
    // Words are thinned out along columns, where they would run into each other.
    let words: Vec<String> = (100..140).map(|i| i.to_string()).collect();
    let (rows, cols) = (Ticks::Letters(words.clone()), Ticks::Letters(words.clone()));
    let texts = sample("words", HeatMap { row_ticks: rows, col_ticks: cols, ..square(40, |i| i as f64) });
    let found = words.iter().map(|w| texts.iter().filter(|t| *t == w).count()).sum::<usize>();
    assert!((50..=70).contains(&found), "{found} of 80");
    sample("random300", square(300, |i| noise(i % 97 + 1)[i % 97]));
}

#[test]
fn contradictory_records_are_typed_errors() {
    let good = square(2, |i| i as f64);
    let wrong: Vec<(&str, Figure)> = vec![
        ("heat map values", HeatMap { rows: 3, ..good.clone() }.into()),
        ("heat map values", HeatMap { rows: usize::MAX, cols: 2, ..good.clone() }.into()),
        ("heat map values", HeatMap::default().into()),
        ("heat map values", HeatMap { pool: (2, 2), ..square(600, |_| 0.0) }.into()),
        ("row_blocks", HeatMap { row_blocks: stream(&[("a", 3)]), ..good.clone() }.into()),
        ("col_blocks", HeatMap { col_blocks: stream(&[("a", usize::MAX), ("b", 3)]), ..good.clone() }.into()),
        ("col_ticks", HeatMap { col_ticks: Ticks::Labels(vec!["a".into()]), ..good.clone() }.into()),
        ("row_ticks", HeatMap { row_ticks: Ticks::Letters(vec!["a".into(); 3]), ..good.clone() }.into()),
        ("range", HeatMap { range: Some((1.0, 1.0)), ..good.clone() }.into()),
        ("range", HeatMap { range: Some((f64::NAN, 1.0)), ..good.clone() }.into()),
        ("y_range", LineChart { y_range: Some((2.0, 1.0)), ..LineChart::default() }.into()),
        ("size", LineChart { size: (f64::NAN, 100.0), ..LineChart::default() }.into()),
        ("panels", Panels { title: String::new(), columns: 0, figures: vec![good.clone().into()] }.into()),
        ("panels", Panels { title: String::new(), columns: 2, figures: vec![] }.into()),
        ("figure size", HeatMap { row_ticks: Ticks::Labels(vec!["w".repeat(2000); 2]), ..good }.into()),
    ];
    let dir = tempfile::tempdir().unwrap();
    for (name, figure) in wrong {
        match save_figure(dir.path(), "x", &figure) {
            Err(Error::Invalid { field, .. }) => assert_eq!(field, name),
            other => panic!("{name}: {other:?}"),
        }
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing may be left behind");
}

/// Images of an SVG: their boxes in px, and their pixels.
fn images(svg: &str) -> Vec<(usvg::Rect, Pixmap)> {
    fn walk(group: &usvg::Group, out: &mut Vec<(usvg::Rect, Pixmap)>) {
        for node in group.children() {
            match node {
                usvg::Node::Group(g) => walk(g, out),
                usvg::Node::Image(image) => {
                    let usvg::ImageKind::PNG(data) = image.kind() else { panic!("no PNG") };
                    out.push((image.abs_bounding_box(), Pixmap::decode_png(data).unwrap()));
                }
                _ => {}
            }
        }
    }
    let mut out = Vec::new();
    walk(tree(svg).root(), &mut out);
    out
}

fn count(image: &Pixmap, (r, g, b): (u8, u8, u8)) -> usize {
    image.pixels().iter().filter(|p| (p.red(), p.green(), p.blue()) == (r, g, b)).count()
}

#[test]
fn many_cells_are_one_image_with_the_colours_of_few() {
    let value = |i: usize, j: usize| match (i + 2 * j) % 6 {
        4 => f64::NAN,
        k => k as f64 / 5.0,
    };
    let map = |n: usize| HeatMap { range: Some((0.0, 1.0)), ..square(n, |e| value(e / n, e % n)) };
    let [few, many] = [64, 66].map(|n| Figure::from(map(n)));
    check("64 x 64", &few);
    check("66 x 66", &many);
    let (small, large) = (few.to_svg().unwrap(), many.to_svg().unwrap());
    assert!(images(&small).is_empty() && images(&large).len() == 1, "which is an image");
    let [(place, image)] = images(&large).try_into().unwrap();
    assert_eq!((image.width(), image.height()), (66, 66));
    let first = cells(&small)[1].0;
    assert_eq!((place.left(), place.top()), (first.left(), first.top()), "where the cells begin");
    let [few, many] = [few, many].map(|f| Pixmap::decode_png(&f.to_png().unwrap()).unwrap());
    let size = 5.0;
    for (i, j) in [(0, 0), (0, 63), (63, 0), (63, 63), (17, 40), (40, 17), (31, 5), (2, 1)] {
        let at = |k: usize| size * (k as f64 + 0.5);
        let at = (f64::from(first.left()) + at(j), f64::from(first.top()) + at(i));
        assert_eq!(probe(&few, at), probe(&many, at), "{i} {j}");
        let pixel = image.pixel(j as u32, i as u32).unwrap();
        assert_eq!((pixel.red(), pixel.green(), pixel.blue()), probe(&many, at), "{i} {j}");
    }
    // Equally wide cells to the last.
    assert_eq!((place.width(), place.height()), (66.0 * size as f32, 66.0 * size as f32));
}

#[test]
fn large_maps_are_bounded_and_keep_a_single_cell() {
    const HOT: (u8, u8, u8) = (253, 231, 37);
    let random = noise(4096);
    for (rows, cols) in [(400, 400), (401, 401), (1024, 3000), (4096, 4096), (4096, 3), (3, 4096)] {
        let values: Vec<f64> = (0..rows * cols).map(|i| random[i * 31 % 4096]).collect();
        let svg = Figure::from(HeatMap { values, rows, cols, ..HeatMap::default() }).to_svg().unwrap();
        assert!(svg.len() < 1 << 20, "{rows} x {cols}: {} bytes", svg.len());
    }
    let n = 4096;
    for (i, j) in [(0, 0), (4095, 4095), (1234, 77), (10, 4095)] {
        let mut values = vec![0.0; n * n];
        values[i * n + j] = 1.0;
        let whole = HeatMap { row_ticks: Ticks::From(1), ..HeatMap::default() };
        let pooled = HeatMap { row_ticks: Ticks::From(1), ..HeatMap::of(&values, n, n) };
        assert_eq!(pooled.values.len(), 373 * 373);
        let figure = Figure::from(pooled);
        let svg = figure.to_svg().unwrap();
        let [(_, image)] = images(&svg).try_into().unwrap();
        assert_eq!(count(&image, HOT), 1, "{i} {j}");
        let pixel = image.pixel((j / 11) as u32, (i / 11) as u32).unwrap();
        assert_eq!((pixel.red(), pixel.green(), pixel.blue()), HOT, "{i} {j}");
        let texts = check("pooled", &figure);
        assert!(texts.contains(&"(largest of each 11 x 11)".to_string()), "{texts:?}");
        assert!(texts.contains(&"4000".to_string()), "rows keep their numbers: {texts:?}");
        if (i, j) == (1234, 77) {
            assert_eq!(svg, Figure::from(HeatMap { values, rows: n, cols: n, ..whole }).to_svg().unwrap());
        }
    }
    // Long ones keep their short side.
    let long = HeatMap::of(&vec![0.0; 3240 * 20], 3240, 20);
    assert_eq!((long.pool, long.values.len()), ((9, 1), 360 * 20));
    // Blocks too many to be named take no room.
    let blocks = vec![Block::new("", 10); 324];
    let texts =
        check("long", &HeatMap { row_blocks: blocks.clone(), title: "W".into(), ..long.clone() }.into());
    assert!(texts.contains(&"W (largest of each 9 x 1)".to_string()), "{texts:?}");
    let height = |map: HeatMap| tree(&Figure::from(map).to_svg().unwrap()).size().height();
    assert_eq!(height(HeatMap { row_blocks: blocks, ..long.clone() }), height(long));
    // So many panels that there is less than a pixel for a cell: one that stands out stays.
    let hot = HeatMap { range: Some((0.0, 1.0)), ..square(400, |e| f64::from(u8::from(e == 201 * 400 + 7))) };
    let cold = HeatMap { range: Some((0.0, 1.0)), ..square(400, |_| 0.0) };
    let figures = std::iter::once(hot).chain(vec![cold; 299]).map(Figure::from).collect();
    let figure = Figure::from(Panels { title: String::new(), columns: 20, figures });
    let png = Pixmap::decode_png(&figure.to_png().unwrap()).unwrap();
    assert!(u64::from(png.width()) * u64::from(png.height()) <= 20 << 20, "{} px", png.width());
    // In the map, beside the colour bars.
    let corner = |x: u32, y: u32| png.pixel(x, y).map(|p| (p.red(), p.green(), p.blue())) == Some(HOT);
    let found = (0..230).flat_map(|x| (0..230).map(move |y| (x, y))).filter(|(x, y)| corner(*x, *y)).count();
    assert!(found > 0, "the one cell is gone");
}

#[test]
fn any_number_of_panels_is_drawn_and_what_is_left_out_is_said() {
    let of = |figures: Vec<Figure>, columns: usize| {
        Figure::from(Panels { title: "panels".into(), columns, figures })
    };
    let said = |texts: &[String]| texts.iter().find(|t| t.ends_with("are left out")).cloned();
    for (number, columns, all) in
        [(9, 3, true), (25, 1, false), (65, 65, true), (200, 2, false), (900, 900, false)]
    {
        let texts = check("many panels", &of(vec![pattern().into(); number], columns));
        let shown = texts.iter().filter(|t| t.starts_with("softmax")).count();
        assert_eq!(shown == number, all, "{number} in {columns}: {shown}");
        let expected = format!("the first {shown} of {number} panels; the others are left out");
        assert_eq!(said(&texts), (!all).then_some(expected));
    }
    // Rows of unequal length: each wraps by itself.
    let rows = (1..30).map(|n| of(vec![pattern().into(); 3 * n], 3 * n)).collect();
    assert!(said(&check("rows", &of(rows, 1))).is_some());
    // Words without end.
    let titled = HeatMap { title: "w".repeat(5000), ..square(2, |i| i as f64) };
    let texts = check("long title", &of(vec![titled.into()], 1));
    assert!(texts.contains(&format!("{}…", "w".repeat(200))), "{texts:?}");
    // More curves than a legend holds.
    let series = (0..700).map(|i| Series::new(format!("curve {i}"), vec![(0.0, f64::from(i))], i as usize));
    let texts = check("legend", &LineChart { series: series.collect(), ..LineChart::default() }.into());
    let named = texts.iter().filter(|t| t.starts_with("curve")).count();
    assert!(texts.contains(&format!("and {} more curves", 700 - named)) && named > 50, "{named}");
}

#[test]
fn one_figure_that_fails_keeps_no_other_from_being_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let mut gallery = Gallery::new(&dir.path().join("figures")).unwrap();
    gallery.save("first", &loss().into());
    gallery.save("bad", &HeatMap::default().into());
    gallery.save("last", &loss().into());
    let mut files: Vec<_> = std::fs::read_dir(dir.path().join("figures"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    assert_eq!(
        files,
        [
            "first.figure.json",
            "first.png",
            "first.svg",
            "last.figure.json",
            "last.png",
            "last.svg",
            "redraw.py"
        ]
    );
    let error = gallery.finish().unwrap_err();
    assert!(error.to_string().starts_with("heat map values"), "{error}");
    let error = error.of_figures(dir.path());
    assert!(error.is_of_figures() && error.exit_code() == 1, "{error}");
    assert!(error.to_string().starts_with("figures: heat map values"), "{error}");
}

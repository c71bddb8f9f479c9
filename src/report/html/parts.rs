//! A report of runs and studies as one page.

use super::data::{Album, Command, Map, Part, RunPart, Side, StudyPart, Text};
use super::{arcs, document, face, island, math, table};
use crate::Result;
use crate::report::plot::{Block, Colormap, Figure, HeatMap, LineChart, Ticks};
use crate::report::records::value;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use maud::{Markup, PreEscaped, html};
use serde_json::{Map as Object, Value, json};

const SCRIPT: &str = include_str!("report.js");

/// The anchor of part number `at`.
pub fn anchor(at: usize) -> String {
    format!("part-{at}")
}

/// The page.
///
/// # Errors
/// As [`Figure::to_svg`].
pub fn page(title: &str, lead: &str, parts: &[Part]) -> Result<String> {
    let mut data = Object::new();
    let mut sections = Vec::new();
    for (at, part) in parts.iter().enumerate() {
        let alone = parts.len() == 1;
        let (section, own) = match part {
            Part::Run(run) => (of_run(&anchor(at), run, alone)?, run_data(run)),
            Part::Study(study) => {
                let charts: Vec<Value> = study.charts.iter().map(chart_data).collect();
                (of_study(&anchor(at), study, alone)?, json!({ "charts": charts }))
            }
        };
        sections.push(section);
        data.insert(anchor(at), own);
    }
    let body = html! {
        @if parts.len() > 1 {
            h1 { (title) }
            nav {
                ul {
                    @for (at, part) in parts.iter().enumerate() {
                        li { a href={ "#" (anchor(at)) } { (part.name()) } }
                    }
                }
            }
        }
        noscript { p.warning { "Without JavaScript this page shows the end of each run; with it, every snapshot." } }
        @for section in &sections { (section) }
        p.quiet { (lead) }
        (island("data", &data)?)
    };
    Ok(document(title, "data:", &body, SCRIPT))
}

/// The heading of a part, which may be all of the page.
fn heading(name: &str, alone: bool) -> Markup {
    if alone {
        html! { h1 { (name) } }
    } else {
        html! { h2 { (name) } }
    }
}

fn of_run(id: &str, run: &RunPart, alone: bool) -> Result<Markup> {
    let results = html! {
        @for (key, v) in &run.results { tr { td { (key) } td { (shown(v)) } } }
    };
    let config = html! {
        @for (key, v) in &run.config { tr { td { (key) } td { (v) } } }
    };
    let album = &run.album;
    let has_frames = !album.steps.is_empty();
    Ok(html! {
        section.part id=(id) data-part=(id) {
            (heading(&run.name, alone))
            @for text in &run.about { p { (text) } }
            @for text in &run.warnings { p.warning { "Warning: " (text) } }
            @if !run.sketch.headline.is_empty() {
                div.facts { @for (what, v) in &run.sketch.headline { div { b { (shown(v)) } span { (what) } } } }
            }
            @if !run.sketch.charts.is_empty() {
                h3 { "Curves" }
                (charts(&run.sketch.charts)?)
            }
            @if has_frames {
                h3 { @if run.sketch.graph.is_some() { "Graph, attention, weights" } @else { "Attention and weights" } }
                (slider(id, album))
                @if let Some(truth) = &run.sketch.graph {
                    (arcs::graph(truth, run.sketch.positions, album.learned.last().map_or(&[], Vec::as_slice)))
                }
                @if let Some(text) = run.sketch.text.as_ref().filter(|_| !album.looks.is_empty()) { (sample(text, album)) }
                div.maps { @for (at, map) in album.maps.iter().enumerate() { (face::map(at, map)) } }
                noscript { @for map in &album.maps { figure { (PreEscaped(last(map).to_svg()?)) } } }
            }
            @for note in &run.notes { p.quiet { (note) } }
            div.sides {
                div {
                    h3 { @if run.finished { "Results" } @else { "Last evaluation: the run is not over" } }
                    div.names { (table(&[], &results)) }
                }
                div {
                    h3 { "Configuration" }
                    div.names { (table(&[], &config)) }
                    details { summary { "as a file, config.toml" } pre { (run.config_text) } }
                }
            }
            @if !run.sketch.formulas.is_empty() {
                h3 { "Formulas" }
                @for f in &run.sketch.formulas {
                    div.quiet { (f.what) }
                    div.formula { (PreEscaped(math::mathml(&f.text))) }
                }
            }
            (provenance(&run.sessions))
            (commands(&run.commands))
        }
    })
}

fn of_study(id: &str, study: &StudyPart, alone: bool) -> Result<Markup> {
    let (columns, rows) = &study.key_numbers;
    let key_numbers = html! {
        @for row in rows { tr { @for cell in row { td { (cell) } } } }
    };
    let runs = html! {
        @for (name, leads, cells) in &study.runs {
            tr {
                td { @if leads.is_empty() { (name) } @else { a href=(leads) { (name) } } }
                @for cell in cells { td { (cell) } }
            }
        }
    };
    let heads: Vec<String> = std::iter::once("run".into()).chain(study.columns.iter().cloned()).collect();
    Ok(html! {
        section.part id=(id) data-part=(id) {
            (heading(&study.name, alone))
            p { (study.title) }
            @for text in &study.about { p { (text) } }
            @if !rows.is_empty() { h3 { "Key numbers" } (table(columns, &key_numbers)) }
            h3 { "Runs" }
            div.names.wide { (table(&heads, &runs)) }
            @if !study.charts.is_empty() { h3 { "Curves" } (charts(&study.charts)?) }
            @if !study.pictures.is_empty() { h3 { "Figures" } }
            @for p in &study.pictures {
                figure {
                    img src={ "data:image/svg+xml;base64," (STANDARD.encode(&p.svg)) } alt=(p.caption) loading="lazy";
                    figcaption { (p.caption) }
                }
            }
            @for note in &study.notes { p.quiet { (note) } }
            (provenance(&study.sessions))
            (commands(&study.commands))
        }
    })
}

/// A value in a line; a text as it is.
fn shown(v: &Value) -> String {
    match v {
        Value::Array(list) if list.is_empty() => "none".into(),
        v => value(v),
    }
}

fn charts(charts: &[LineChart]) -> Result<Markup> {
    let mut drawn = Vec::new();
    for chart in charts {
        drawn.push(Figure::from(chart.clone()).to_svg()?);
    }
    Ok(html! {
        div.sides {
            @for (at, (chart, svg)) in charts.iter().zip(&drawn).enumerate() {
                div.chart data-chart=(at) {
                    h4 { (chart.title) }
                    noscript { (PreEscaped(svg)) }
                }
            }
        }
    })
}

fn slider(id: &str, album: &Album) -> Markup {
    let last = album.steps.len() - 1;
    html! {
        div.step hidden {
            @if last > 0 {
                label for={ (id) "-step" } { "Snapshot" }
                input id={ (id) "-step" } type="range" min="0" max=(last) value=(last) step="1"
                    autocomplete="off" aria-label="Snapshot: number of updates";
            } @else {
                input type="range" min="0" max="0" value="0" hidden;
            }
            output { "step " (album.steps[last]) }
            @if last > 0 && album.maps.iter().any(|m| m.signed) {
                button.mode type="button" aria-pressed="false" title="Else the colours of weights cover all snapshots" {
                    "colours of this snapshot"
                }
            }
        }
    }
}

fn sample(text: &Text, album: &Album) -> Markup {
    let marked = text.marked.iter().rposition(|m| *m);
    let query = marked.unwrap_or(text.tokens.len().saturating_sub(1));
    html! {
        div.sample {
            h4 { "Attention on a sample" }
            p.quiet { (text.caption) }
            select aria-label="Layer and head" autocomplete="off" {
                @for (at, look) in album.looks.iter().enumerate() {
                    option value=(at) selected[at + 1 == album.looks.len()] { (look.title) }
                }
            }
            div.tokens tabindex="0" data-query=(query) role="group"
                aria-label="Sample sequence: choose a token, with the arrow keys too" {
                @for (i, token) in text.tokens.iter().enumerate() {
                    span.marked[text.marked.get(i) == Some(&true)] { (token) }
                    "\u{200b}"
                }
            }
            output {}
        }
    }
}

fn provenance(sessions: &[Vec<(String, Value)>]) -> Markup {
    let Some(first) = sessions.first() else { return html! {} };
    let of = |session: &[(String, Value)], key: &str| {
        session.iter().find(|(k, _)| k == key).map_or(String::new(), |(_, v)| shown(v))
    };
    let rows = html! {
        @for (key, _) in first {
            tr { td { (key) } @for session in sessions { td { (of(session, key)) } } }
        }
    };
    html! {
        h3 { "Provenance" }
        div.names { (table(&[], &rows)) }
    }
}

fn commands(commands: &[Command]) -> Markup {
    html! {
        @if !commands.is_empty() { h3 { "How to make it again" } }
        @for c in commands { div.quiet { (c.what) } code.line { (c.line) } }
    }
}

/// The matrix after the last snapshot, as a figure.
fn last(map: &Map) -> Figure {
    let values: Vec<f64> =
        map.frames.last().map_or(Vec::new(), |f| f.iter().map(|v| f64::from(*v)).collect());
    let whole = map.pool == (1, 1);
    let blocks = |s: &Side| -> Vec<Block> {
        let of = |b: &(String, f64)| Block::new(b.0.clone(), b.1 as usize);
        if whole { s.blocks.iter().map(of).collect() } else { Vec::new() }
    };
    let ticks = |s: &Side| if s.blocks.is_empty() { Ticks::Labels(s.names.clone()) } else { Ticks::None };
    HeatMap {
        title: map.title.clone(),
        colormap: if map.signed { Colormap::Diverging } else { Colormap::Sequential },
        range: Some(map.range),
        row_blocks: blocks(&map.rows),
        col_blocks: blocks(&map.cols),
        row_ticks: ticks(&map.rows),
        col_ticks: ticks(&map.cols),
        x_label: map.cols.label.clone(),
        y_label: map.rows.label.clone(),
        ..HeatMap::of(&values, map.rows.names.len(), map.cols.names.len())
    }
    .into()
}

// What the script reads.

fn run_data(run: &RunPart) -> Value {
    let album = &run.album;
    let side = |s: &Side| json!({ "label": s.label, "names": s.names });
    let map = |m: &Map| {
        json!({
            "rows": side(&m.rows), "cols": side(&m.cols), "signed": m.signed,
            "range": [m.range.0, m.range.1], "frames": frames(m),
        })
    };
    let edges = |of: &Vec<super::data::Edge>| -> Vec<Value> {
        let one = |e: &super::data::Edge| {
            Some(json!([e.child, e.parent, rounded(e.attention), e.head, arcs::status(e)?]))
        };
        of.iter().filter_map(one).collect()
    };
    json!({
        "charts": run.sketch.charts.iter().map(chart_data).collect::<Vec<_>>(),
        "steps": album.steps,
        "maps": album.maps.iter().map(map).collect::<Vec<_>>(),
        "learned": album.learned.iter().map(edges).collect::<Vec<_>>(),
        "looks": album.looks.iter().map(|m| json!({ "frames": frames(m) })).collect::<Vec<_>>(),
    })
}

/// Each frame as base64 of float32, the first byte the lowest.
fn frames(map: &Map) -> Vec<String> {
    let bytes = |f: &Vec<f32>| f.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    map.frames.iter().map(|f| STANDARD.encode(bytes(f))).collect()
}

fn chart_data(chart: &LineChart) -> Value {
    let series = |s: &crate::report::plot::Series| {
        let points: Vec<Value> = s.points.iter().map(|(x, y)| json!([x, rounded(*y)])).collect();
        json!({ "name": s.label, "dashed": s.dashed, "points": points })
    };
    let levels = chart.reference_lines.iter().filter(|l| l.y.is_finite());
    json!({
        "title": chart.title, "x": chart.x_label, "y": chart.y_label,
        "range": chart.y_range.map(|(lo, hi)| [lo, hi]),
        "series": chart.series.iter().map(series).collect::<Vec<_>>(),
        "levels": levels.map(|l| json!([l.label, rounded(l.y)])).collect::<Vec<_>>(),
    })
}

/// Seven digits; null where there is no number.
fn rounded(x: f64) -> Option<f64> {
    x.is_finite().then(|| format!("{x:.6e}").parse().unwrap_or(x))
}

#[cfg(test)]
mod tests {
    use super::super::data::{Edge, Formula, Frame, Picture, Sketch};
    use super::*;
    use crate::report::plot::{RefLine, Series};

    const ODD: &str = "</script><img src=x onerror=alert(1)>&\"'";

    fn run() -> RunPart {
        let frame = |v: f64| Frame {
            learned: vec![Edge { child: 1, parent: 0, attention: v, head: 0, found: v > 0.5, right: true }],
            maps: vec![HeatMap {
                title: ODD.into(),
                row_ticks: Ticks::Letters(vec![ODD.into(), "b".into()]),
                ..HeatMap::of(&[1.0, f64::NAN, v, 0.25], 2, 2)
            }],
            looks: vec![(ODD.into(), vec![1.0, f64::NAN, 0.5, 0.5])],
        };
        let chart = LineChart {
            title: ODD.into(),
            series: vec![Series::new(ODD, vec![(0.0, 1.0 / 3.0), (8.0, f64::NAN)], 0)],
            reference_lines: vec![RefLine::new(ODD, 0.5)],
            ..LineChart::default()
        };
        RunPart {
            name: ODD.into(),
            about: vec![ODD.into()],
            warnings: vec![ODD.into()],
            results: vec![(ODD.into(), ODD.into())],
            config: vec![(ODD.into(), ODD.into())],
            config_text: ODD.into(),
            sessions: vec![vec![(ODD.into(), ODD.into())]],
            sketch: Sketch {
                headline: vec![(ODD.into(), ODD.into())],
                formulas: vec![Formula::new(ODD, ODD)],
                charts: vec![chart],
                graph: Some(vec![vec![], vec![0]]),
                positions: 2,
                text: Some(Text {
                    caption: ODD.into(),
                    tokens: vec![ODD.into(), "b".into()],
                    marked: vec![false, true],
                }),
            },
            album: Album::of(vec![0, 8], &[frame(0.25), frame(0.75)]),
            notes: vec![ODD.into()],
            commands: vec![Command { what: ODD.into(), line: ODD.into() }],
            ..RunPart::default()
        }
    }

    #[test]
    fn whatever_is_named_stays_text_and_the_data_come_back() {
        let study = StudyPart {
            name: ODD.into(),
            title: ODD.into(),
            key_numbers: (vec![ODD.into()], vec![vec![ODD.into()]]),
            runs: vec![(ODD.into(), "#part-0".into(), vec![ODD.into()])],
            pictures: vec![Picture { caption: ODD.into(), svg: ODD.into() }],
            ..StudyPart::default()
        };
        let parts = [Part::Run(run().into()), Part::Study(study.into())];
        let out = page(ODD, ODD, &parts).unwrap();
        assert_eq!(out, page(ODD, ODD, &parts).unwrap());
        assert!(!out.contains("<img src=x") && !out.contains("alert(1)>"), "{out}");
        assert_eq!(out.matches("</script>").count(), 2);
        let json = out.split_once("id=\"data\">").unwrap().1.split_once("</script>").unwrap().0;
        let data: Value = serde_json::from_str(json).unwrap();
        let own = &data["part-0"];
        assert_eq!(own["steps"], json!([0, 8]));
        assert_eq!(own["learned"], json!([[[1, 0, 0.25, 0, 2]], [[1, 0, 0.75, 0, 0]]]));
        assert_eq!(own["charts"][0]["series"][0]["points"], json!([[0.0, 0.333_333_3], [8.0, null]]));
        assert_eq!(own["maps"][0]["rows"]["names"][0], ODD);
        let bytes = STANDARD.decode(own["maps"][0]["frames"][1].as_str().unwrap()).unwrap();
        let cells: Vec<f32> = bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        assert_eq!((cells[0], cells[2]), (1.0, 0.75));
        assert!(cells[1].is_nan());
        for part in ["<math", "aria-label=\"Snapshot", "data-map=\"0\"", "1 of 1 edges found", "<noscript>"] {
            assert!(out.contains(part), "{part}");
        }
    }

    #[test]
    fn numbers_have_seven_digits() {
        assert_eq!(rounded(1.0 / 3.0), Some(0.333_333_3));
        assert_eq!((rounded(f64::NAN), rounded(0.0), rounded(1e-300)), (None, Some(0.0), Some(1e-300)));
    }
}

//! What a report holds: plain records, filled by whoever knows the run, drawn by the files beside
//! this one.

use crate::report::plot::{Block, Colormap, HeatMap, LineChart, Ticks};
use serde_json::Value;

/// A formula, in the notation of [`mathml`](super::math::mathml).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Formula {
    /// What it defines.
    pub what: String,
    /// The formula.
    pub text: String,
}

impl Formula {
    /// `what` is defined by `text`.
    pub fn new(what: &str, text: impl Into<String>) -> Self {
        Formula { what: what.into(), text: text.into() }
    }
}

/// An edge that some head's attention shows, or one of the true graph.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Edge {
    /// The later position.
    pub child: usize,
    /// The earlier one.
    pub parent: usize,
    /// The attention of the best head from child to parent.
    pub attention: f64,
    /// That head, from 0.
    pub head: usize,
    /// True if it stands out there.
    pub found: bool,
    /// True if the graph has it.
    pub right: bool,
}

/// A sample sequence.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Text {
    /// What it is.
    pub caption: String,
    /// Its tokens, as they are called.
    pub tokens: Vec<String>,
    /// Positions where the context determines what follows.
    pub marked: Vec<bool>,
}

/// What a run's task and model show that does not change while it trains.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sketch {
    /// The results that matter most, with what they are called.
    pub headline: Vec<(String, Value)>,
    /// Task, model and loss.
    pub formulas: Vec<Formula>,
    /// Curves over the updates.
    pub charts: Vec<LineChart>,
    /// Tokens of a sequence, T.
    pub positions: usize,
    /// Parents of each position, where the task has a graph; of the target too, as entry T, where
    /// it has several.
    pub graph: Option<Vec<Vec<usize>>>,
    /// A sequence whose attention is shown.
    pub text: Option<Text>,
}

/// The same of one set of weights. Every frame of a run has maps of the same number and sizes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Frame {
    /// Edges that stand out in the first layer's attention, and every true edge with its attention.
    pub learned: Vec<Edge>,
    /// Attention, and what the weights say.
    pub maps: Vec<HeatMap>,
    /// Attention on the sample text: name, and the pattern (L, L), rows queries.
    pub looks: Vec<(String, Vec<f64>)>,
}

/// One side of a matrix.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Side {
    /// Name of the axis.
    pub label: String,
    /// What each row or column is called.
    pub names: Vec<String>,
    /// Names along the edge, and how many rows or columns each covers; empty for none.
    pub blocks: Vec<(String, f64)>,
}

/// A matrix over the snapshots.
#[derive(Debug, Clone, PartialEq)]
pub struct Map {
    /// Heading.
    pub title: String,
    /// From above.
    pub rows: Side,
    /// From the left.
    pub cols: Side,
    /// Blue, white, red about zero; else dark to bright.
    pub signed: bool,
    /// Values at the ends of the colours, of all frames.
    pub range: (f64, f64),
    /// Entries that a cell stands for: the largest in size is shown.
    pub pool: (usize, usize),
    /// Cells of each frame, row by row.
    pub frames: Vec<Vec<f32>>,
}

/// Most rows or columns of a matrix that a page holds.
pub const MOST_SIDE: usize = 128;

impl Map {
    /// The `at`-th map of each frame.
    fn of(frames: &[Frame], at: usize) -> Option<Map> {
        let first = frames.first()?.maps.get(at)?;
        let drawn = |n: usize, by: usize| n.div_ceil(by.max(1));
        let (rows, cols) = (drawn(first.rows, first.pool.0), drawn(first.cols, first.pool.1));
        let by = (rows.div_ceil(MOST_SIDE).max(1), cols.div_ceil(MOST_SIDE).max(1));
        let pool = (by.0 * first.pool.0.max(1), by.1 * first.pool.1.max(1));
        let cells = |f: &Frame| -> Vec<f32> {
            let values = f.maps.get(at).map_or(&[][..], |m| &m.values[..]);
            coarse(values, (rows, cols), by)
        };
        let frames: Vec<Vec<f32>> = frames.iter().map(cells).collect();
        let signed = first.colormap == Colormap::Diverging;
        let range = first.range.unwrap_or_else(|| range(&frames, signed));
        let title = first.title.clone();
        let rows = side(&first.y_label, &first.row_ticks, &first.row_blocks, first.rows, pool.0);
        let cols = side(&first.x_label, &first.col_ticks, &first.col_blocks, first.cols, pool.1);
        Some(Map { title, rows, cols, signed, range, pool, frames })
    }
}

/// The entry of largest size of each `by.0` x `by.1` of a matrix.
fn coarse(values: &[f64], (rows, cols): (usize, usize), by: (usize, usize)) -> Vec<f32> {
    if by == (1, 1) {
        return values.iter().map(|v| *v as f32).collect();
    }
    let mut out = vec![f32::NAN; rows.div_ceil(by.0) * cols.div_ceil(by.1)];
    for (i, row) in values.chunks(cols.max(1)).enumerate() {
        for (j, v) in row.iter().enumerate() {
            let cell = &mut out[i / by.0 * cols.div_ceil(by.1) + j / by.1];
            if cell.is_nan() || v.abs() as f32 > cell.abs() {
                *cell = *v as f32;
            }
        }
    }
    out
}

/// From least to greatest, or symmetric about zero.
fn range(frames: &[Vec<f32>], signed: bool) -> (f64, f64) {
    let all = || frames.iter().flatten().filter(|v| v.is_finite()).map(|v| f64::from(*v));
    let (lo, hi) = (all().fold(f64::INFINITY, f64::min), all().fold(f64::NEG_INFINITY, f64::max));
    match (signed, hi.abs().max(lo.abs())) {
        _ if lo > hi => (0.0, 1.0),
        (true, size) if size > 0.0 => (-size, size),
        (false, _) if hi > lo => (lo, hi),
        _ => (lo - 0.5, lo + 0.5),
    }
}

fn side(label: &str, ticks: &Ticks, blocks: &[Block], n: usize, pool: usize) -> Side {
    let single = |i: usize| -> String {
        let mut start = 0;
        for b in blocks {
            if i < start + b.size {
                return format!("{} {}", b.label, i - start).trim_start().into();
            }
            start += b.size;
        }
        match ticks {
            Ticks::Labels(names) | Ticks::Letters(names) => names.get(i).cloned().unwrap_or_default(),
            Ticks::From(first) => (first + i).to_string(),
            Ticks::None => i.to_string(),
        }
    };
    let name = |k: usize| match pool {
        1 => single(k),
        _ => format!("{} to {}", single(k * pool), single((k * pool + pool).min(n) - 1)),
    };
    let names = (0..n.div_ceil(pool)).map(name).collect();
    let blocks = blocks.iter().map(|b| (b.label.clone(), b.size as f64 / pool as f64)).collect();
    Side { label: label.into(), names, blocks }
}

/// The weights of a run over its snapshots.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Album {
    /// Updates before each frame, ascending.
    pub steps: Vec<u64>,
    /// Matrices.
    pub maps: Vec<Map>,
    /// Edges, of each frame.
    pub learned: Vec<Vec<Edge>>,
    /// Patterns on the sample text.
    pub looks: Vec<Map>,
}

impl Album {
    /// From frames, each after so many updates.
    pub fn of(steps: Vec<u64>, frames: &[Frame]) -> Album {
        let count = frames.first().map_or(0, |f| f.maps.len());
        let names: Vec<String> =
            frames.first().map_or(Vec::new(), |f| f.looks.iter().map(|l| l.0.clone()).collect());
        let look = |(at, title): (usize, String)| Map {
            title,
            rows: Side::default(),
            cols: Side::default(),
            signed: false,
            range: (0.0, 1.0),
            pool: (1, 1),
            frames: frames.iter().map(|f| f.looks[at].1.iter().map(|v| *v as f32).collect()).collect(),
        };
        Album {
            steps,
            maps: (0..count).filter_map(|at| Map::of(frames, at)).collect(),
            learned: frames.iter().map(|f| f.learned.clone()).collect(),
            looks: names.into_iter().enumerate().map(look).collect(),
        }
    }
}

/// Numbers that a frame takes in a page.
pub fn numbers(frame: &Frame) -> usize {
    let side = |n: usize| n.min(MOST_SIDE);
    let maps = frame.maps.iter().map(|m| side(m.rows) * side(m.cols)).sum::<usize>();
    maps + frame.looks.iter().map(|l| l.1.len()).sum::<usize>()
}

/// A command and what it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// What it does.
    pub what: String,
    /// The line.
    pub line: String,
}

/// A run in a report.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RunPart {
    /// Its name.
    pub name: String,
    /// What it is, in sentences.
    pub about: Vec<String>,
    /// Warnings about its end.
    pub warnings: Vec<String>,
    /// Its results, in order; of a run that is not over, its last evaluation.
    pub results: Vec<(String, Value)>,
    /// False if training is not over.
    pub finished: bool,
    /// Keys and values of its configuration, in order.
    pub config: Vec<(String, String)>,
    /// The configuration as a file.
    pub config_text: String,
    /// Sessions: how each began, on what.
    pub sessions: Vec<Vec<(String, Value)>>,
    /// What does not change.
    pub sketch: Sketch,
    /// The weights.
    pub album: Album,
    /// What is left out, in sentences.
    pub notes: Vec<String>,
    /// How to make it again.
    pub commands: Vec<Command>,
}

/// A figure of a study, as bytes of an SVG.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// What it shows.
    pub caption: String,
    /// The file.
    pub svg: Vec<u8>,
}

/// A study in a report.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StudyPart {
    /// Its name.
    pub name: String,
    /// Its heading.
    pub title: String,
    /// What it is, in sentences.
    pub about: Vec<String>,
    /// Key numbers: columns and rows.
    pub key_numbers: (Vec<String>, Vec<Vec<String>>),
    /// Columns of the table of runs, after their names.
    pub columns: Vec<String>,
    /// Runs: name, where it leads (an anchor or a path beside the page; empty for none), cells.
    pub runs: Vec<(String, String, Vec<String>)>,
    /// Curves of all runs.
    pub charts: Vec<LineChart>,
    /// Its figures.
    pub pictures: Vec<Picture>,
    /// Sessions of the study.
    pub sessions: Vec<Vec<(String, Value)>>,
    /// What is left out, in sentences.
    pub notes: Vec<String>,
    /// How to make it again.
    pub commands: Vec<Command>,
}

/// A part of a report.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// A run.
    Run(Box<RunPart>),
    /// A study; its runs may follow as parts of their own.
    Study(Box<StudyPart>),
}

impl Part {
    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Part::Run(run) => &run.name,
            Part::Study(study) => &study.name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_keep_what_stands_out_and_know_what_they_cover() {
        let wide = coarse(&[1.0, -3.0, 2.0, f64::NAN, 0.5, 1.0], (2, 3), (2, 2));
        assert_eq!(wide, [-3.0, 2.0]);
        let blocks = [Block::new("token", 2), Block::new("position", 3)];
        let s = side("key", &Ticks::None, &blocks, 5, 1);
        assert_eq!(s.names, ["token 0", "token 1", "position 0", "position 1", "position 2"]);
        let s = side("key", &Ticks::From(0), &[], 5, 2);
        assert_eq!(s.names, ["0 to 1", "2 to 3", "4 to 4"]);
    }

    #[test]
    fn colours_cover_all_frames() {
        let map = |v: f64, colormap| HeatMap { colormap, ..HeatMap::of(&[v, 0.0], 1, 2) };
        let frame = |v| Frame {
            maps: vec![map(v, Colormap::Diverging), map(v, Colormap::Sequential)],
            ..Frame::default()
        };
        let album = Album::of(vec![0, 8], &[frame(1.0), frame(-4.0)]);
        assert_eq!((album.maps[0].range, album.maps[1].range), ((-4.0, 4.0), (-4.0, 1.0)));
        assert_eq!(album.maps[0].frames, [[1.0, 0.0], [-4.0, 0.0]]);
        let none = Album::of(vec![0], &[frame(0.0)]);
        assert_eq!(none.maps[0].range, (-0.5, 0.5));
        assert_eq!(numbers(&frame(1.0)), 4);
    }
}

//! The edges of a matrix: named blocks and the labels of single rows and columns.

use serde::{Deserialize, Serialize};

use super::canvas::writable;

/// A named run of neighbouring rows or columns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Name along the edge; may be empty.
    pub label: String,
    /// Rows or columns in it.
    pub size: usize,
}

impl Block {
    /// A block of `size` rows or columns.
    pub fn new(label: impl Into<String>, size: usize) -> Self {
        Self { label: label.into(), size }
    }
}

/// What is written at single rows or columns.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ticks {
    /// Nothing.
    #[default]
    None,
    /// Their numbers, counted from here; as many as fit.
    From(usize),
    /// One label each; as many as fit.
    Labels(Vec<String>),
    /// One short label each, all of them: cells are made large enough for a line of text. Along
    /// columns as many as fit where one is wider.
    Letters(Vec<String>),
}

impl Ticks {
    /// The number of the first row or column.
    pub(super) fn first(&self) -> f64 {
        if let Ticks::From(n) = self { *n as f64 } else { 0.0 }
    }

    /// What is written at the row or column with number `v`.
    pub(super) fn label(&self, v: f64) -> String {
        match self {
            Ticks::Labels(labels) | Ticks::Letters(labels) => {
                labels.get(v.round() as usize).map(|t| writable(t)).unwrap_or_default()
            }
            _ => format!("{v:.0}"),
        }
    }
}

/// Edges between blocks, in cells.
pub(super) fn inner_edges(blocks: &[Block]) -> impl Iterator<Item = usize> + '_ {
    let ends = blocks.iter().scan(0, |at, b| {
        *at += b.size;
        Some(*at)
    });
    ends.take(blocks.len().saturating_sub(1))
}

/// Centres of blocks, px, when cell 0 starts at `start`.
pub(super) fn block_centres(blocks: &[Block], start: f64, cell: f64) -> Vec<f64> {
    let mut at = 0;
    let centre = |b: &Block| {
        let centre = start + (at as f64 + b.size as f64 / 2.0) * cell;
        at += b.size;
        centre
    };
    blocks.iter().map(centre).collect()
}

/// Half the length of the bracket along a block, px: a little shorter than it.
pub(super) fn half_bracket(block: &Block, cell: f64) -> f64 {
    let half = block.size as f64 / 2.0 * cell;
    (half - 1.5).max(half * 0.8)
}

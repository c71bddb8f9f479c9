//! Named blocks of one flat parameter vector. The gradient has the same layout.

use crate::{Error, Result};

/// One named parameter array, row-major, inside the flat vector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    name: String,
    shape: Vec<usize>,
    offset: usize,
    len: usize,
}

impl Block {
    /// Its name, e.g. `A.0`.
    pub fn name(&self) -> &str {
        &self.name
    }
    /// Its shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }
    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len
    }
    /// Has it no entries?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Where it lies in the flat vector.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.len
    }
}

/// The blocks of a model, in order, without gaps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    blocks: Vec<Block>,
    len: usize,
}

impl Layout {
    /// No blocks.
    pub fn new() -> Self {
        Layout::default()
    }

    /// Appends a block and returns its index.
    ///
    /// # Errors
    /// When the size overflows, or exceeds 2^31 entries (a gradient per shard must fit memory).
    pub fn push(&mut self, name: impl Into<String>, shape: &[usize]) -> Result<usize> {
        let name = name.into();
        let len = shape.iter().try_fold(1usize, |a, n| a.checked_mul(*n));
        let end = len.and_then(|l| self.len.checked_add(l)).filter(|e| *e <= 1 << 31);
        let (Some(len), Some(end)) = (len, end) else {
            return Err(Error::invalid(name, format!("shape {shape:?}"), "at most 2^31 parameters in all"));
        };
        self.blocks.push(Block { name, shape: shape.to_vec(), offset: self.len, len });
        self.len = end;
        Ok(self.blocks.len() - 1)
    }

    /// Entries of the flat vector.
    pub fn len(&self) -> usize {
        self.len
    }
    /// Has it no entries?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// The blocks, in order.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }
    /// The block called `name`.
    pub fn find(&self, name: &str) -> Option<&Block> {
        self.blocks.iter().find(|b| b.name == name)
    }
}

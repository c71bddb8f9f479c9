//! Named blocks of one flat parameter vector. The gradient has the same layout.

use crate::{Error, Result};

/// One named parameter array, row-major, inside the flat vector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    name: String,
    shape: Vec<usize>,
    offset: usize,
    len: usize,
    causal: bool,
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
    /// True if there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// True if the model reads entry `i` of its row-major array. Entries above the diagonal of a
    /// causal block are not read: they may hold anything, NaN included, and have gradient 0.
    pub fn reads(&self, i: usize) -> bool {
        !self.causal || i % self.shape[1] <= i / self.shape[1]
    }
    /// Its range in the flat vector.
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
    /// A size that overflows, or more than 2^31 entries in all.
    pub fn push(&mut self, name: impl Into<String>, shape: &[usize]) -> Result<usize> {
        let name = name.into();
        let len = shape.iter().try_fold(1usize, |a, n| a.checked_mul(*n));
        let end = len.and_then(|l| self.len.checked_add(l)).filter(|e| *e <= 1 << 31);
        let (Some(len), Some(end)) = (len, end) else {
            return Err(Error::invalid(name, format!("shape {shape:?}"), "at most 2^31 parameters in all"));
        };
        self.blocks.push(Block { name, shape: shape.to_vec(), offset: self.len, len, causal: false });
        self.len = end;
        Ok(self.blocks.len() - 1)
    }

    /// Appends a block (n, n) whose entries above the diagonal are not read.
    ///
    /// # Errors
    /// As [`Layout::push`].
    pub fn push_causal(&mut self, name: impl Into<String>, n: usize) -> Result<usize> {
        let at = self.push(name, &[n, n])?;
        self.blocks[at].causal = true;
        Ok(at)
    }

    /// Entries of the flat vector.
    pub fn len(&self) -> usize {
        self.len
    }
    /// True if there are no entries.
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

/// Short names of the memories, with the blocks that hold them.
const ALIASES: [(&str, &str); 9] = [
    ("embeddings", "tok_embeddings.weight"),
    ("embeddings", "wte"),
    ("embeddings", "wpe"),
    ("output", "output.weight"),
    ("output", "W"),
    ("wk0", "layers.0.attention.wk.weight"),
    ("wk1", "layers.1.attention.wk.weight"),
    ("wo1", "layers.1.attention.wo.weight"),
    ("ff1", "layers.1.ff"),
];

/// Indices of the blocks that `name` selects: a short name (`wk0`, `wk1`, `wo1`, `ff1`,
/// `embeddings`, `output`), the name of one block, or the beginning of names up to a point.
///
/// # Errors
/// A name that selects nothing in this layout; the message names the configuration key `key`.
pub fn named_blocks(key: &'static str, name: &str, layout: &Layout) -> Result<Vec<usize>> {
    let found = blocks_of(name, layout);
    // `frozen=output` is accepted without such a block: presets freeze the output of any model.
    if found.is_empty() && (key, name) != ("frozen", "output") {
        let mut aliases: Vec<&str> = ALIASES.iter().map(|a| a.0).collect();
        aliases.dedup();
        aliases.retain(|a| !blocks_of(a, layout).is_empty());
        return Err(Error::unknown(key, name, layout.blocks().iter().map(|b| b.name()).chain(aliases)));
    }
    Ok(found)
}

fn blocks_of(name: &str, layout: &Layout) -> Vec<usize> {
    let begins =
        |n: &str, with: &str| n.strip_prefix(with).is_some_and(|r| r.is_empty() || r.starts_with('.'));
    let is =
        |n: &str| begins(n, name) || ALIASES.iter().any(|(alias, block)| *alias == name && begins(n, block));
    (0..layout.blocks().len()).filter(|b| is(layout.blocks()[*b].name())).collect()
}

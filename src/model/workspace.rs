//! Working storage of a model, allocated once for each shard.

use popgrad_kernels::{Elem, PackedB, Scratch};

/// Lengths of a [`Workspace`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WorkspaceLen {
    /// Elements of activations.
    pub arena: usize,
    /// Elements of kernel scratch.
    pub kernel: usize,
    /// Number of f64 values.
    pub reals: usize,
    /// Number of indices.
    pub indices: usize,
    /// Elements of packed weights.
    pub packed: usize,
}

impl WorkspaceLen {
    /// Total bytes, with elements of type `E`; `None` on overflow.
    pub fn bytes<E>(&self) -> Option<usize> {
        let elements =
            self.arena.checked_add(self.kernel)?.checked_add(self.packed)?.checked_mul(size_of::<E>())?;
        let others = self.reals.checked_add(self.indices)?.checked_mul(8)?;
        elements.checked_add(others)
    }
}

/// Workspace of one shard. Made by [`Model::workspace`](super::Model::workspace).
#[derive(Debug)]
pub struct Workspace<E> {
    /// Activations; the model divides it into arrays.
    pub(crate) arena: Scratch<E>,
    /// Scratch of the kernels.
    pub(crate) kernel: Scratch<E>,
    /// Losses, moments, weights.
    pub(crate) reals: Vec<f64>,
    /// Lists of positions.
    pub(crate) indices: Vec<usize>,
    /// Packed weights, for models that use them.
    pub(crate) packed: Vec<PackedB<E>>,
}

impl<E: Elem> Workspace<E> {
    pub(crate) fn new(len: &WorkspaceLen) -> Self {
        Workspace {
            arena: Scratch::new(len.arena),
            kernel: Scratch::new(len.kernel),
            reals: vec![0.0; len.reals],
            indices: vec![0; len.indices],
            packed: Vec::new(),
        }
    }
}

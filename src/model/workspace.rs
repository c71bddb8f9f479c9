//! Working storage of a model, allocated once for each shard.

use popgrad_kernels::{Elem, PackedB, Scratch};

/// Lengths of a [`Workspace`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WorkspaceLen {
    /// Elements of activations.
    pub arena: usize,
    /// Elements of kernel scratch.
    pub kernel: usize,
    /// f64 numbers.
    pub reals: usize,
    /// Indices.
    pub indices: usize,
    /// Elements of weights in panels.
    pub packed: usize,
}

impl WorkspaceLen {
    /// Bytes in all, with elements of type `E`; `None` on overflow.
    pub fn bytes<E>(&self) -> Option<usize> {
        let elements =
            self.arena.checked_add(self.kernel)?.checked_add(self.packed)?.checked_mul(size_of::<E>())?;
        let others = self.reals.checked_add(self.indices)?.checked_mul(8)?;
        elements.checked_add(others)
    }
}

/// Working storage of one shard.
#[derive(Debug)]
pub struct Workspace<E> {
    /// Activations, carved up by the model.
    pub(crate) arena: Scratch<E>,
    /// Lent to kernels.
    pub(crate) kernel: Scratch<E>,
    /// Losses, moments, weights.
    pub(crate) reals: Vec<f64>,
    /// Lists of positions.
    pub(crate) indices: Vec<usize>,
    /// Weights in panels, for models that want them.
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

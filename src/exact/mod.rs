//! The exact population: priors over transition matrices, and losses and gradients summed over every word.

pub mod brute;
pub mod prior;
pub mod quadrature;
mod shards;
pub mod symmetric;
pub mod tree;

pub use prior::{AtomRoots, FinitePrior, Prior, RootLaw};
pub use symmetric::{OrbitGradients, Orbits};
pub use tree::{Cost, Tree};

/// How far an evaluation has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Words done, of all threads.
    pub done: u64,
    /// Words in all.
    pub total: u64,
}
